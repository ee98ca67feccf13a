"""Linear, dropout, LayerNorm, ReLU, in this order, and a linear output: of one network, or of a stack of E.

`differentiable` is plain tensor code for any device. `on_cpu` gives the same numbers up to rounding: its gradient is
written out, so that a network is one node of the graph, members of a stack need no copies, rows go through all layers
in blocks that stay in the cache, and only those gradients are computed that somebody asks for.

Inside `bfloat16_products`, hidden layers of both compute in bfloat16, with sums in float32, as mixed precision usually
does: parameters, their gradients, the outputs and the last layer, from which losses follow, stay in float32.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LAYER_NORM_EPSILON = 1e-6
"""Flax's, in whose code the reference results were made."""

BLOCK = 1024
"""Rows that go through all layers together: activations of 256 units are 1 MiB, the second-level cache of a core."""
ONEDNN = torch.backends.mkldnn.is_available()
ONEDNN_WIDTH = 128  # below, MKL's products are faster than oneDNN's with the ReLU in them
MANY = 512  # rows; below, the number of operations counts more than where activations lie

_HALF: ContextVar[bool] = ContextVar("bfloat16_products", default=False)


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """Inside, hidden layers compute in bfloat16 where inputs are float32, both ways."""
    token = _HALF.set(True)
    try:
        yield
    finally:
        _HALF.reset(token)


def _halved(features: Tensor) -> bool:
    return _HALF.get() and features.dtype is torch.float32


class Layers(NamedTuple):
    """Parameters, layer by layer. Shapes: weights (out, in), all others (out,); of a stack with E before."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    scales: Sequence[Tensor]  # of the LayerNorms; empty without
    offsets: Sequence[Tensor]

    def chosen(self, heads: Tensor) -> "Layers":
        """Those members of a stack. Shapes: (K,) of indices, may repeat."""
        return Layers(*([each.index_select(0, heads) for each in part] for part in self))

    @staticmethod
    def of(parameters: Sequence[Tensor], norms: bool) -> "Layers":
        """From weights, biases, scales and offsets one behind the other."""
        count = (len(parameters) + 2) // 4 if norms else len(parameters) // 2
        ends = (count, 2 * count, 3 * count - 1) if norms else (count, 2 * count, 2 * count)
        return Layers(*(parameters[a:b] for a, b in zip((0, *ends), (*ends, len(parameters)), strict=True)))


Keep = Sequence[Tensor] | None
"""Factors of the units of each hidden layer: 0 where one is dropped, else 1 / (1 - rate). Shapes: each (M, H)."""


def draw_keep(rows: int, widths: Sequence[int], rate: float, generator: torch.Generator, stack: int = 0) -> Keep:
    """Which hidden units to keep, for a stack of `stack` networks at once if it is not 0."""
    keep = []
    for width in widths:
        shape = (stack, rows, width) if stack else (rows, width)
        draw = torch.rand(shape, generator=generator, device=generator.device)
        keep.append((draw >= rate) / (1 - rate))
    return keep


def differentiable(features: Tensor, action: Tensor | None, layers: Layers, keep: Keep) -> Tensor:
    """Outputs of one network, or of all of a stack: (E, ...) before every shape below.

    Of several actions in a state, the state's part of the first layer is computed once.
    Shapes: features (B, F); action None, (B, A) or (B, N, A) -> (B, Z) or (B, N, Z).
    """
    weights, biases = list(layers.weights), list(layers.biases)
    half = len(weights) > 1 and _halved(features)
    if half:
        features, action = features.bfloat16(), None if action is None else action.bfloat16()
        weights[:-1], biases[:-1] = ([each.bfloat16() for each in part[:-1]] for part in (weights, biases))
    if action is None or action.ndim == 2:
        x = _linear(features if action is None else torch.cat([features, action], dim=1), weights[0], biases[0])
        rows = features.shape[:1]
    else:
        size, rows = features.shape[1], action.shape[:2]
        state = _linear(features, weights[0][..., :size], biases[0])  # (B, H), once for all N
        x = torch.matmul(action.flatten(0, 1), weights[0][..., size:].mT)  # (B * N, H)
        x = (x.unflatten(-2, rows) + state.unsqueeze(-2)).flatten(-3, -2)
    for index in range(1, len(weights)):
        if keep is not None:
            x = x * keep[index - 1].to(x.dtype)
        if layers.scales:
            x = _layer_norm(x.float() if half else x, layers.scales[index - 1], layers.offsets[index - 1])
        x = F.relu(x, inplace=True)
        if half:
            x = x.float() if index == len(weights) - 1 else x.bfloat16()
        x = _linear(x, weights[index], biases[index])
    outputs: Tensor = x.unflatten(-2, rows)
    return outputs


def one_by_one(features: Tensor, action: Tensor | None, layers: Layers, keep: Sequence[Keep]) -> Tensor:
    """`differentiable` of each member of a stack. Shapes: as there, of a stack; `keep` is that of each member."""
    parameters = [*layers.weights, *layers.biases, *layers.scales, *layers.offsets]
    members = zip(zip(*(each.unbind(0) for each in parameters), strict=True), keep, strict=True)
    norms = bool(layers.scales)
    return torch.stack([differentiable(features, action, Layers.of(each, norms), kept) for each, kept in members])


def on_cpu(features: Tensor, action: Tensor | None, layers: Layers, keep: Sequence[Keep], stacked: bool) -> Tensor:
    """As `differentiable`; `keep` is that of each member, one alone where the parameters are not stacked.

    A gradient of its gradient is there, but takes the way of `differentiable` once more.
    Shapes: as `differentiable`.
    """
    parameters = (*layers.weights, *layers.biases, *layers.scales, *layers.offsets)
    if torch.is_grad_enabled():
        apply: Callable[..., Tensor] = _Network.apply
        return apply(features, action, len(layers.weights), stacked, keep, *parameters)
    return _Pass(features, action, len(layers.weights), stacked, keep, parameters).forward(save=False)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weight^T + bias. Shapes: x (M, in) or (E, M, in), weight (out, in) or (E, out, in) -> (M, out), (E, M, out)."""
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x.expand(len(weight), *x.shape[-2:]), weight.mT)


def _layer_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """LayerNorm of the last axis. Shapes: x (M, H) or (E, M, H), others (H,) or (E, H)."""
    if scale.ndim == 1:
        return F.layer_norm(x, scale.shape, scale, offset, LAYER_NORM_EPSILON)
    normalized = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPSILON)
    return torch.addcmul(offset.unsqueeze(1), normalized, scale.unsqueeze(1))


# On a CPU -------------------------------------------------------------------------------------------------------------
class _Network(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        action: Tensor | None,
        count: int,
        stacked: bool,
        keep: Sequence[Keep],
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(features, action, *parameters)  # which notices what is changed until then
        ctx.run = _Pass(features, action, count, stacked, keep, parameters)
        outputs: Tensor = ctx.run.forward(save=True)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, action, *parameters = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled():
            given = _again(gradients[0], [features, action, *parameters], [*needs[:2], *needs[5:]], ctx.run)
            return (*given[:2], None, None, None, *given[2:])
        by_features, by_action, own = ctx.run.backward(gradients[0], needs[0], needs[1], parameters, any(needs[5:]))
        return (by_features, by_action, None, None, None, *own)


def _again(gradient: Tensor, inputs: list[Tensor | None], asked: list[bool], run: "_Pass") -> list[Tensor | None]:
    """The gradients, as functions of inputs and gradient that can be differentiated in turn."""
    # Each on its own: the way from features to an action that depends on them is not a part of this network.
    apart = [each if each is None else each.view_as(each) for each in inputs]
    features, action = apart[:2]
    layers = Layers.of([each for each in apart[2:] if each is not None], bool(run.norms))
    assert features is not None
    if run.stacked:
        outputs = one_by_one(features, action, layers, run.keep)
    else:
        outputs = differentiable(features, action, layers, run.keep[0])
    wanted = [x for x, need in zip(apart, asked, strict=True) if need and x is not None]
    found = iter(torch.autograd.grad(outputs, wanted, gradient, create_graph=True))
    return [next(found) if need else None for need in asked]


class _Saved(NamedTuple):
    """Of one block of rows in one member."""

    hidden: list[Tensor]  # inputs of all layers but the first, (M, H) each
    norms: list[tuple[Tensor, Tensor, Tensor]]  # of each LayerNorm its input, mean and reciprocal deviation


class _Pass:
    """One call: all members at once, or one after the other by blocks of rows. Every operation costs time here."""

    def __init__(
        self,
        features: Tensor,
        action: Tensor | None,
        count: int,
        stacked: bool,
        keep: Sequence[Keep],
        parameters: Sequence[Tensor],
    ) -> None:
        self.count, self.stacked, self.keep = count, stacked, keep
        self.norms = len(parameters) > 2 * count
        self.size, self.shape, self.each = features.shape[1], features.shape[:1], 1
        self.action = None
        if action is not None and action.ndim == 3:
            self.shape, self.each = action.shape[:2], action.shape[1]  # `each`: rows of one state
            self.action = action.reshape(-1, action.shape[2])  # (M, A)
        elif action is not None:
            features = torch.cat([features, action], dim=1)
        self.half = count > 1 and _halved(features)
        if self.half:
            features, self.action = features.bfloat16(), None if self.action is None else self.action.bfloat16()
            hidden = [*range(count - 1), *range(count, 2 * count - 1)]
            parameters = [each.bfloat16() if index in hidden else each for index, each in enumerate(parameters)]
        self.features = features
        states, block = features.shape[0], max(BLOCK // self.each, 1)
        few = states * self.each < min(MANY, BLOCK)
        # oneDNN's product is the faster one of many rows, if it is wide too.
        self.onednn = ONEDNN and not few and features.dtype in (torch.float32, torch.bfloat16)
        # Of few rows all members go through at once, which is fewer operations.
        self.apart = stacked and not (few and self.action is None and not self.norms and keep[0] is None)
        self.members: list[Sequence[Tensor]] = [parameters]
        if self.apart:
            self.members = [[each[index] for each in parameters] for index in range(parameters[0].shape[0])]
        self.blocks: list[tuple[slice, slice] | None] = [None]
        if states > block:
            # As even as can be: a small last block costs as many calls as a large one.
            parts = max(round(states / block), 1)
            edges = pairwise(states * index // parts for index in range(parts + 1))
            self.blocks = [(slice(a, b), slice(a * self.each, b * self.each)) for a, b in edges]
        self.saved: list[list[_Saved]] = []

    def forward(self, *, save: bool) -> Tensor:
        results = []
        for member, keep in zip(self.members, self.keep, strict=False):
            state = None
            if self.action is not None:
                state = F.linear(self.features, member[0][:, : self.size], member[self.count])  # (B, H)
            outputs, saved = zip(*(self._forward(member, keep, state, block) for block in self.blocks), strict=True)
            results.append(outputs[0] if len(outputs) == 1 else torch.cat(outputs))
            if save:
                self.saved.append(list(saved))
        result = torch.stack(results) if self.apart else results[0]
        return result if self.action is None else result.unflatten(-2, self.shape)

    def _forward(
        self, member: Sequence[Tensor], keep: Keep, state: Tensor | None, block: tuple[slice, slice] | None
    ) -> tuple[Tensor, _Saved]:
        count, saved = self.count, _Saved([], [])
        plain = keep is None and not self.norms
        features, action = self.features, self.action
        if block is not None:
            features = features[block[0]]
            state = None if state is None else state[block[0]]
            action = None if action is None else action[block[1]]
        if action is None or state is None:
            x = self._product(features, member[0], member[count], rectified=plain and count > 1)
        else:
            x = torch.mm(action, member[0][:, self.size :].t())
            x.view(-1, self.each, x.shape[1]).add_(state.unsqueeze(1))
            if plain and count > 1:
                x.relu_()
        for index in range(1, count):
            if keep is not None:
                x.mul_(keep[index - 1] if block is None else keep[index - 1][block[1]])
            if self.norms:
                scale, offset = member[2 * count + index - 1], member[3 * count + index - 2]
                if self.half:  # PyTorch adds up the gradient of the offset in the dtype of x, where 256 + 1 is 256
                    x = x.float()
                y, mean, deviation = torch.native_layer_norm(x, scale.shape, scale, offset, LAYER_NORM_EPSILON)
                saved.norms.append((x, mean, deviation))
                x = y
            if not plain:
                x.relu_()
            if self.half:
                x = x.float() if index == count - 1 else x.bfloat16()
            saved.hidden.append(x)
            x = self._product(x, member[index], member[count + index], rectified=plain and index < count - 1)
        return x, saved

    def backward(
        self, gradient: Tensor, needs_features: bool, needs_action: bool, parameters: Sequence[Tensor], needs_own: bool
    ) -> tuple[Tensor | None, Tensor | None, Sequence[Tensor | None]]:
        """Gradients of features and action where needed, and of all `parameters` or of none."""
        if self.action is not None:
            gradient = gradient.flatten(-3, -2)
        gradients = gradient.unbind(0) if self.apart else (gradient,)  # (M, Z) each, or (E, M, Z)
        own: list[Tensor] = []
        given: list[Sequence[Tensor]] = [()] * len(self.members)
        if needs_own:
            own = [torch.empty_like(each, memory_format=torch.contiguous_format) for each in parameters]
            given = [[each[index] for each in own] for index in range(len(self.members))] if self.apart else [own]
        kind, width = parameters[0].dtype, self.members[0][0].shape[-1]
        features = self.features.new_empty(self.features.shape[0], self.size, dtype=kind) if needs_features else None
        action = None
        if needs_action:
            action = self.features.new_empty(gradients[0].shape[-2], width - self.size, dtype=kind)
        for index, member in enumerate(self.members):
            # Transposed, because rows of other lengths than multiples of a vector are slow to write.
            first = member[0].new_empty(member[0].mT.shape, dtype=kind) if needs_own else None
            for number, block in enumerate(self.blocks):
                g = gradients[index] if block is None else gradients[index][block[1]]
                g = self._hidden(
                    member, given[index], self.saved[index][number], self.keep[index], g, block, number > 0
                )
                total = g if self.action is None else g.view(-1, self.each, g.shape[1]).sum(dim=1)  # of each state
                if first is not None:
                    self._first(first, given[index][self.count], total, g, block, number > 0)
                if features is not None:
                    out = features if block is None else features[block[0]]
                    _accumulate(out, total, member[0][..., : self.size], index > 0)
                if action is not None:
                    out = action if block is None else action[block[1]]
                    _accumulate(out, g, member[0][..., self.size :], index > 0)
            if first is not None:
                given[index][0].copy_(first.mT)
        if action is not None and self.action is not None:
            action = action.unflatten(0, self.shape)
        return features, action, own if needs_own else [None] * len(parameters)

    def _first(
        self, weight: Tensor, bias: Tensor, total: Tensor, g: Tensor, block: tuple[slice, slice] | None, more: bool
    ) -> None:
        """Gradients of the first layer, the weight's transposed."""
        features = self.features if block is None else self.features[block[0]]
        _sum(bias, total, more)
        if self.action is None:
            _accumulate(weight, features.t(), total, more)
        else:
            action = self.action if block is None else self.action[block[1]]
            _accumulate(weight[: self.size], features.t(), total, more)
            _accumulate(weight[self.size :], action.t(), g, more)

    def _hidden(
        self,
        member: Sequence[Tensor],
        own: Sequence[Tensor],
        saved: _Saved,
        keep: Keep,
        g: Tensor,
        block: tuple[slice, slice] | None,
        more: bool,
    ) -> Tensor:
        """From the gradient of the outputs, (M, Z), to that of the first layer's, (M, H)."""
        count = self.count
        for index in range(count - 1, 0, -1):
            x = saved.hidden[index - 1]
            if own:
                _accumulate(own[index], g.mT, x, more)
                _sum(own[count + index], g, more)
            g = self._gradient_product(g, member[index])
            _rectify(g, x, 0, grad_input=g)
            if self.norms:
                scale, offset = 2 * count + index - 1, 3 * count + index - 2
                if self.half:
                    g = g.float()
                g, *both = torch.ops.aten.native_layer_norm_backward(
                    g,
                    saved.norms[index - 1][0],
                    member[scale].shape,
                    *saved.norms[index - 1][1:],
                    member[scale],
                    member[offset],
                    [True, bool(own), bool(own)],
                )
                if own:
                    for out, value in zip((own[scale], own[offset]), both, strict=True):
                        out.add_(value) if more else out.copy_(value)
            if self.half:
                g = g.bfloat16()
            if keep is not None:
                g.mul_(keep[index - 1] if block is None else keep[index - 1][block[1]])
        return g

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor, *, rectified: bool) -> Tensor:
        """x weight^T + bias, and its ReLU. Shapes: as `_linear`."""
        if self.onednn and min(weight.shape) >= ONEDNN_WIDTH:
            return _onednn(x, weight, bias, "relu" if rectified else "none", [], "")
        y = _linear(x, weight, bias)
        return y.relu_() if rectified else y

    def _gradient_product(self, g: Tensor, weight: Tensor) -> Tensor:
        """g weight. Shapes: (M, out), (out, in) -> (M, in), of a stack with E before."""
        if self.onednn and min(weight.shape) >= ONEDNN_WIDTH:
            return _onednn(g, weight.t(), None, "none", [], "")
        return torch.mm(g, weight) if weight.ndim == 2 else torch.bmm(g, weight)


def _onednn(*arguments: Any) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(*arguments)
    return product


_rectify = torch.ops.aten.threshold_backward.grad_input


def _accumulate(out: Tensor, left: Tensor, right: Tensor, more: bool) -> None:
    """out = left right, or out += left right.

    Shapes: matrices, or stacks of E where there is no more; a matrix is the same for all of a stack, or their sum.
    """
    if out.dtype is not left.dtype:
        product = left @ right
        if product.ndim > out.ndim:
            product = product.sum(dim=0)
        out.add_(product) if more else out.copy_(product)
    elif more:
        out.addmm_(left, right)
    elif right.ndim == 2:
        torch.mm(left, right, out=out)
    elif out.ndim == 3:
        torch.bmm(left if left.ndim == 3 else left.expand(len(right), *left.shape), right, out=out)
    else:
        torch.sum(torch.bmm(left, right), dim=0, out=out)


def _sum(out: Tensor, x: Tensor, more: bool) -> None:
    """Sum over rows, likewise."""
    if more:
        out.add_(x.sum(dim=0))
    elif out.dtype is not x.dtype:
        out.copy_(x.sum(dim=-2))
    else:
        torch.sum(x, dim=-2, out=out)
