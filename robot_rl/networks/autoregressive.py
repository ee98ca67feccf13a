"""A small causal transformer over one state and the bins of an action's dimensions.

Chebotar et al. "Q-Transformer". CoRL 2023, arXiv:2309.10150. Letters: B batch, D dimensions, P of them given, Z bins, W
width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """LayerNorm and causal attention, LayerNorm and two layers with GELU between; each is added to what came in."""

    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.merged = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.mixed, self.merged, self.wide, self.narrow):
            _draw(layer, generator)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Shapes: (B, T, W), (T, T) bool, what each token sees -> (B, T, W)."""
        query, key, value = self.mixed(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        likeness = (query @ key.mT) / math.sqrt(query.shape[-1])
        attention = likeness.masked_fill(~seen, -math.inf).softmax(dim=-1)
        x = x + self.merged((attention @ value).transpose(1, 2).flatten(2))
        found: Tensor = x + self.narrow(F.gelu(self.wide(self.second_norm(x))))
        return found


class AutoregressiveCritic(nn.Module):
    """(state, bins of the first P dimensions) -> Q of all bins of dimensions 0 to P, each seeing only those before it.

    Q lies between `lowest` and `highest`, by a sigmoid.

    Args:
        features: F.
        size: D, of a chunk.
        bins: Z.
        width: W.
        blocks: layers of attention.
        heads: of attention; divide W.
        lowest: of the returns.
        highest: of the returns.
        generator: draws all weights.
    """

    def __init__(
        self,
        features: int,
        size: int,
        *,
        bins: int,
        width: int,
        blocks: int,
        heads: int,
        lowest: float,
        highest: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.size, self.bins, self.lowest, self.highest = size, bins, lowest, highest
        self.state = nn.Linear(features, width)
        _draw(self.state, generator)
        self.bin = nn.Parameter(torch.empty(size, bins, width).normal_(0, 0.5, generator=generator))
        self.place = nn.Parameter(torch.empty(size, width).normal_(0, 0.5, generator=generator))
        self.blocks = nn.ModuleList(Block(width, heads, generator) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Parameter(torch.empty(size, bins, width).normal_(0, 1 / math.sqrt(width), generator=generator))
        self.offset = nn.Parameter(torch.zeros(size, bins))

    def forward(self, features: Tensor, chosen: Tensor) -> Tensor:
        """Of one state and several actions the state is looked at once.

        Shapes: (B, F) or (1, F), (B, P) of bins, P < D -> (B, P + 1, Z).
        """
        rows, given = chosen.shape
        state = F.layer_norm(self.state(features), self.place.shape[1:]).expand(rows, -1)
        places = torch.arange(given, device=chosen.device)
        tokens = torch.cat([state.unsqueeze(1), self.bin[places, chosen]], dim=1) + self.place[: given + 1]
        seen = torch.ones(given + 1, given + 1, dtype=torch.bool, device=chosen.device).tril()
        for block in self.blocks:
            tokens = block(tokens, seen)
        logits = torch.einsum("btw,tzw->btz", self.norm(tokens), self.head[: given + 1]) + self.offset[: given + 1]
        return self.lowest + (self.highest - self.lowest) * logits.sigmoid()

    def of_action(self, features: Tensor, chosen: Tensor) -> Tensor:
        """Q of whole actions, that of their last bin given all others. Shapes: (B, F) or (1, F), (B, D) -> (B,)."""
        q: Tensor = self(features, chosen[:, :-1])[:, -1]
        return q.gather(1, chosen[:, -1:])[:, 0]

    def best(self, features: Tensor) -> Tensor:
        """The bin of the highest Q, dimension by dimension. Shapes: (B, F) -> (B, D)."""
        chosen = torch.zeros(len(features), 0, dtype=torch.int64, device=features.device)
        for _ in range(self.size):
            q: Tensor = self(features, chosen)[:, -1]
            chosen = torch.cat([chosen, q.argmax(dim=1, keepdim=True)], dim=1)
        return chosen


def _draw(layer: nn.Linear, generator: torch.Generator) -> None:
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
