"""The network of CQN-AS: values of all bins of one level, for every step and dimension of a chunk.

Seo, Abbeel. "Reinforcement Learning with Action Sequence for Data-Efficient Robot Learning". arXiv:2411.12155, and its
code, github younggyoseo/CQN-AS 00b4886.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.networks.critic_head import CriticHead
from robot_rl.networks.initialize import Initialization


class Stream(nn.Module):
    """Two layers with LayerNorm and SiLU for each step, a GRU over the steps of the chunk, and a head that starts at 0.

    `gru_layers` 0 leaves the GRU out (CQN).
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        *,
        gru_layers: int,
        initialization: Initialization,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, width, bias=False), nn.Linear(width, width, bias=False)])
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            initialization.draw(layer.weight, "hidden", generator)
        self.gru = nn.GRU(width, width, num_layers=gru_layers, batch_first=True) if gru_layers else None
        if self.gru is not None:
            for each in self.gru.parameters():  # PyTorch's own draw, from our generator
                nn.init.uniform_(each, -1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
        self.head = nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (M, H, inputs) -> (M, H, outputs)."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.silu(norm(layer(x)))
        if self.gru is not None:
            x, _ = self.gru(x)
        output: Tensor = self.head(x)
        return output


class CoarseToFineCritic(nn.Module):
    """(state, middle of the interval of each dimension, level) -> outputs of its bins.

    A step sees the state, its own actions so far, its place in the chunk and the level; what it learns of other steps
    comes through the GRU. With `dueling`, a second network gives what all bins have in common.
    """

    def __init__(
        self,
        features: int,
        action_size: int,
        steps: int,
        *,
        levels: int,
        bins: int,
        width: int,
        gru_layers: int,
        dueling: bool,
        head: CriticHead,
        initialization: Initialization,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.steps, self.levels, self.bins, self.head = steps, levels, bins, head
        self.action_size = steps * action_size  # of a chunk
        inputs = features + action_size + steps + levels

        def stream(bins: int) -> Stream:
            return Stream(
                inputs,
                width,
                action_size * bins * head.outputs,
                gru_layers=gru_layers,
                initialization=initialization,
                generator=generator,
            )

        self.advantage = stream(bins)
        self.common = stream(1) if dueling else None

    def forward(self, features: Tensor, middle: Tensor, first: int = 0) -> Tensor:
        """Outputs of every bin of the levels from `first` on: one for each `middle` that is given.

        Shapes: (B, F), (B, L, H * A) -> (B, L, H * A, bins, Z).
        """
        rows, levels = middle.shape[:2]
        shape = (rows, levels, self.steps)
        place = torch.eye(self.steps, dtype=features.dtype, device=features.device)  # (H, H)
        level = torch.eye(self.levels, dtype=features.dtype, device=features.device)[first : first + levels]
        x = torch.cat(
            [
                features[:, None, None].expand(*shape, -1),
                middle.unflatten(2, (self.steps, -1)),
                place.expand(*shape, -1),
                level[:, None].expand(*shape, -1),
            ],
            dim=3,
        ).flatten(0, 1)  # (B * L, H, inputs)
        raw = self._bins(self.advantage(x), self.bins, rows)
        if self.common is not None:
            raw = self._bins(self.common(x), 1, rows) + raw - raw.mean(dim=3, keepdim=True)
        return raw

    def _bins(self, outputs: Tensor, bins: int, rows: int) -> Tensor:
        """Shapes: (B * L, H, A * bins * Z) -> (B, L, H * A, bins, Z)."""
        each: Tensor = outputs.unflatten(2, (-1, bins, self.head.outputs)).flatten(1, 2)
        return each.reshape(rows, -1, *each.shape[1:])
