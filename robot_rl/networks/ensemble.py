"""E critics as one computation on stacked weights."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.networks.initialize import Initialization, places
from robot_rl.networks.mlp import LAYER_NORM_EPSILON


class Ensemble(nn.Module):
    """Q of E critics, independent networks of one shape whose weights are stacked: (E, out, in).

    All critics read the same input, so the first layer is one product with the (E * H, in) weights, and its state half
    is computed once per state however many actions are asked about.
    """

    def __init__(
        self,
        features: int,
        action_size: int,
        hidden: list[int],
        *,
        count: int,
        layer_norm: bool,
        initialization: Initialization,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.features, self.count = features, count
        widths = [features + action_size, *hidden, 1]
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList(torch.empty(count, b, a) for a, b in pairs)
        self.biases = nn.ParameterList(torch.zeros(count, b) for _, b in pairs)
        self.norm_scales = nn.ParameterList(torch.ones(count, width) for width in hidden if layer_norm)
        self.norm_offsets = nn.ParameterList(torch.zeros(count, width) for width in hidden if layer_norm)
        for weight, place in zip(self.weights, places(len(hidden)), strict=True):
            for head in weight.detach():
                initialization.draw(head, place, generator)

    def forward(self, features: Tensor, action: Tensor, heads: Tensor | None = None) -> Tensor:
        """Q of every critic, or of those in `heads` only, which is all that is then computed.

        Shapes: features (B, F); action (B, A) -> (E, B), or (B, N, A), N actions in each state, -> (E, B, N);
        heads (K,) of indices, may repeat, gives K in place of E.
        """
        if action.ndim not in (2, 3) or action.shape[0] != features.shape[0]:
            raise ValueError(
                f"features {tuple(features.shape)} and action {tuple(action.shape)}: expected (B, F), (B, A)"
            )

        def chosen(parameters: nn.ParameterList) -> list[Tensor]:
            return [each if heads is None else each.index_select(0, heads) for each in parameters]

        weights, biases = chosen(self.weights), chosen(self.biases)
        scales, offsets = chosen(self.norm_scales), chosen(self.norm_offsets)
        count, width = biases[0].shape

        first, bias = weights[0].flatten(end_dim=1), biases[0].flatten()  # (E * H, F + A), (E * H,)
        if action.ndim == 2:
            x = F.linear(torch.cat([features, action], dim=1), first, bias)  # (B, E * H)
        else:
            state = F.linear(features, first[:, : self.features], bias)  # (B, E * H)
            x = F.linear(action, first[:, self.features :]) + state.unsqueeze(1)  # (B, N, E * H)
        x = x.reshape(-1, count, width).transpose(0, 1)  # (E, B * N, H)
        for index in range(1, len(weights)):
            if scales:
                x = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPSILON)
                x = torch.addcmul(offsets[index - 1].unsqueeze(1), x, scales[index - 1].unsqueeze(1))
            x = stacked_linear(F.relu(x, inplace=True), weights[index], biases[index])
        return x.reshape(count, *action.shape[:-1])


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weight^T + bias for each member of a stack.

    On a GPU one batched product. On a CPU the batched product reaches half the rate of single ones, so those are run
    one after the other into the same output (`benchmarks/updates.py` measures both).

    Shapes: x (E, M, in), weight (E, out, in), bias (E, out) -> (E, M, out).
    """
    if x.device.type == "cpu":
        result: Tensor = _StackedLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return result
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


class _StackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = x.new_empty(x.shape[0], x.shape[1], weight.shape[1])
        for head in range(x.shape[0]):
            torch.addmm(bias[head], x[head], weight[head].T, out=out[head])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        x_gradient = x.new_empty(x.shape) if wants_x else None
        weight_gradient = torch.empty_like(weight) if wants_weight else None
        for head in range(x.shape[0]):
            if x_gradient is not None:
                torch.mm(gradient[head], weight[head], out=x_gradient[head])
            if weight_gradient is not None:
                torch.mm(gradient[head].T, x[head], out=weight_gradient[head])
        return x_gradient, weight_gradient, gradient.sum(dim=1) if wants_bias else None
