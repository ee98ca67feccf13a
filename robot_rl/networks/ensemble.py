"""E critics as one computation on stacked weights."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.networks.critic_head import SCALAR, CriticHead
from robot_rl.networks.initialize import Initialization, places
from robot_rl.networks.mlp import LAYER_NORM_EPSILON


class Ensemble(nn.Module):
    """Q of E critics, independent networks of one shape whose weights are stacked: (E, out, in).

    However many actions are asked about in a state, the state's half of the first layer is computed once.
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
        dropout: float = 0.0,
        head: CriticHead = SCALAR,
    ) -> None:
        super().__init__()
        self.features, self.count, self.dropout, self.head = features, count, dropout, head
        widths = [features + action_size, *hidden, head.outputs]
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList(torch.empty(count, b, a) for a, b in pairs)
        self.biases = nn.ParameterList(torch.zeros(count, b) for _, b in pairs)
        self.norm_scales = nn.ParameterList(torch.ones(count, width) for width in hidden if layer_norm)
        self.norm_offsets = nn.ParameterList(torch.zeros(count, width) for width in hidden if layer_norm)
        for weight, place in zip(self.weights, places(len(hidden)), strict=True):
            for member in weight.detach():
                initialization.draw(member, place, generator)

    def forward(
        self,
        features: Tensor,
        action: Tensor,
        heads: Tensor | None = None,
        dropout_generator: torch.Generator | None = None,
    ) -> Tensor:
        """Q of every critic, or of those in `heads` only, which is all that is then computed."""
        return self.head.q(self.raw(features, action, heads, dropout_generator))

    def raw(
        self,
        features: Tensor,
        action: Tensor,
        heads: Tensor | None = None,
        dropout_generator: torch.Generator | None = None,
    ) -> Tensor:
        """The Z outputs of every critic, which its `head` reads, or of those in `heads` only.

        Hidden units are dropped, before the LayerNorm (DroQ), only where a generator is given.

        The arithmetic is one batched computation. On a CPU, which has nothing to gain from wide launches, its members
        run one after the other instead, so that activations stay in the cache: up to 1.4 times as fast
        (`benchmarks/updates.py`), and the same numbers up to rounding.

        Shapes: features (B, F); action (B, A) -> (E, B, Z), or (B, N, A), N actions in each state, -> (E, B, N, Z);
        heads (K,) of indices, may repeat, gives K in place of E.
        """
        if features.shape[1:] != (self.features,) or action.ndim not in (2, 3) or len(action) != len(features):
            found = f"{tuple(features.shape)} and {tuple(action.shape)}"
            raise ValueError(f"features and action are {found}: expected (B, {self.features}) and (B, A) or (B, N, A)")
        parameters = [*self.weights, *self.biases, *self.norm_scales, *self.norm_offsets]
        if heads is not None:
            parameters = [each.index_select(0, heads) for each in parameters]
        if features.device.type == "cpu":
            members = zip(*(each.unbind(0) for each in parameters), strict=True)
            return torch.stack([self.network(features, action, list(each), dropout_generator) for each in members])
        return self.network(features, action, parameters, dropout_generator)

    @torch.no_grad()
    def mean(self, features: Tensor, action: Tensor) -> Tensor:
        """Mean over the critics, without gradients. Shapes: (B, F), (B, A) -> (B,)."""
        q: Tensor = self(features, action)  # (E, B)
        return q.mean(dim=0)

    def network(
        self,
        features: Tensor,
        action: Tensor,
        parameters: list[Tensor],
        dropout_generator: torch.Generator | None = None,
    ) -> Tensor:
        """Outputs of one critic from its parameters, or of all from the stacked ones: (E, ...) before each shape below.

        Shapes: (B, F), (B, A) or (B, N, A) -> (B, Z) or (B, N, Z).
        """
        layers = len(self.weights)
        weights, biases = parameters[:layers], parameters[layers : 2 * layers]
        scales, offsets = parameters[2 * layers : 3 * layers - 1], parameters[3 * layers - 1 :]
        if action.ndim == 2:
            x = linear(torch.cat([features, action], dim=1), weights[0], biases[0])  # (B, H)
        else:
            state = linear(features, weights[0][..., : self.features], biases[0])  # (B, H), once for all N
            x = torch.matmul(action.flatten(0, 1), weights[0][..., self.features :].mT)  # (B * N, H)
            x = (x.unflatten(-2, action.shape[:2]) + state.unsqueeze(-2)).flatten(-3, -2)
        for index in range(1, layers):
            if self.dropout > 0 and dropout_generator is not None:
                draw = torch.rand(x.shape, generator=dropout_generator, device=x.device)
                x = x * (draw >= self.dropout) / (1 - self.dropout)
            if scales:
                x = layer_norm(x, scales[index - 1], offsets[index - 1])
            x = linear(F.relu(x, inplace=True), weights[index], biases[index])
        outputs: Tensor = x.unflatten(-2, action.shape[:-1])
        return outputs


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weight^T + bias, of one layer or of a stack of E.

    Shapes: x (M, in), weight (out, in), bias (out,) -> (M, out); stacked: x (E, M, in) or (M, in), weight (E, out, in),
    bias (E, out) -> (E, M, out).
    """
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x.expand(len(weight), *x.shape[-2:]), weight.mT)


def layer_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """LayerNorm of the last axis, of one layer or of a stack. Shapes: x (M, H) or (E, M, H), others (H,) or (E, H)."""
    if scale.ndim == 1:
        return F.layer_norm(x, scale.shape, scale, offset, LAYER_NORM_EPSILON)
    normalized = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPSILON)
    return torch.addcmul(offset.unsqueeze(1), normalized, scale.unsqueeze(1))
