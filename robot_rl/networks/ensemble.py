"""E critics as one computation on stacked weights."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from robot_rl.networks.critic_head import SCALAR, CriticHead
from robot_rl.networks.initialize import Initialization, places
from robot_rl.networks.layers import MANY, Keep, Layers, differentiable, draw_keep, on_cpu, one_by_one
from robot_rl.networks.parameters import parameters_of


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

        The arithmetic is one batched computation. On a CPU, members with rows of many states run one after the other
        instead, so that activations stay in the cache (`networks/layers.py`), with the same numbers up to rounding.

        Shapes: features (B, F); action (B, A) -> (E, B, Z), or (B, N, A), N actions in each state, -> (E, B, N, Z);
        heads (K,) of indices, may repeat, gives K in place of E.
        """
        if features.shape[1:] != (self.features,) or action.ndim not in (2, 3) or len(action) != len(features):
            found = f"{tuple(features.shape)} and {tuple(action.shape)}"
            raise ValueError(f"features and action are {found}: expected (B, {self.features}) and (B, A) or (B, N, A)")
        layers = self.layers if heads is None else self.layers.chosen(heads)
        count, rows = layers.biases[0].shape[0], math.prod(action.shape[:-1])
        # A few candidates in one state cost their operations, which are fewer of all members at once.
        choosing = len(features) == 1 and rows < MANY and not torch.is_grad_enabled() and dropout_generator is None
        if features.device.type != "cpu" or choosing:
            keep = self._keep(rows, dropout_generator, count)
            return differentiable(features, action, layers, keep)
        each = [self._keep(rows, dropout_generator) for _ in range(count)]
        if torch.compiler.is_compiling():
            return one_by_one(features, action, layers, each)
        return on_cpu(features, action, layers, each, stacked=True)

    @torch.no_grad()
    def mean(self, features: Tensor, action: Tensor) -> Tensor:
        """Mean over the critics, without gradients. Shapes: (B, F), (B, A) -> (B,)."""
        q: Tensor = self(features, action)  # (E, B)
        return q.mean(dim=0)

    def apart(self, features: Tensor, action: Tensor) -> Tensor:
        """As `raw`, but each critic has a graph of its own: for terms in their slopes along actions."""
        return one_by_one(features, action, self.layers, [None] * self.count)

    @property
    def layers(self) -> Layers:
        """The stacked parameters."""
        lists = (self.weights, self.biases, self.norm_scales, self.norm_offsets)
        return Layers(*(parameters_of(each) for each in lists))

    def _keep(self, rows: int, generator: torch.Generator | None, stack: int = 0) -> Keep:
        if self.dropout == 0 or generator is None:
            return None
        widths = [weight.shape[1] for weight in self.weights[:-1]]
        return draw_keep(rows, widths, self.dropout, generator, stack)
