"""Further losses of an encoder, beside those of the algorithm: `functional/contrastive.py` has their formulas."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robot_rl.checks import require_range
from robot_rl.functional.contrastive import consistency_loss, found_share, info_nce
from robot_rl.networks.initialize import Initialization
from robot_rl.networks.mlp import MLP
from robot_rl.types import Metrics

LINEAR = Initialization(kind="uniform", hidden_gain=1.0, output_gain=1.0)


@dataclass(kw_only=True)
class AuxiliaryConfig:
    """Weights of further losses; 0 is off. All of them are of one step of the batch: `replay.n_step` decisions."""

    taco: float = 0.0  # state and action find what follows, among the batch (TACO: 1)
    curl: float = 0.0  # an image finds itself, changed otherwise (TACO: 1); encodes each image once more
    reward: float = 0.0  # squared error of the reward predicted from state and action (TACO: 1)
    consistency: float = 0.0  # state and action predict what follows, in direction (SPR)
    width: int = 50  # of the projections; TACO's `feature_dim`
    hidden: int = 256

    def __post_init__(self) -> None:
        for name in ("taco", "curl", "reward", "consistency"):
            require_range(getattr(self, name), 0.0, 1e6, f"auxiliary {name}")
        for name in ("width", "hidden"):
            require_range(getattr(self, name), 1, 100_000, f"auxiliary {name}")

    @property
    def asked(self) -> bool:
        """Some of them are on."""
        return max(self.taco, self.curl, self.reward, self.consistency) > 0


class Auxiliary(nn.Module):
    """The heads of these losses. Differences from TACO: one action, not a learned sequence of them; no bilinear map."""

    def __init__(self, config: AuxiliaryConfig, features: int, action_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config

        def head(inputs: int, outputs: int) -> MLP:
            return MLP(inputs, [config.hidden], outputs, layer_norm=False, initialization=LINEAR, generator=generator)

        self.state = head(features, config.width)
        self.step = head(config.width + action_size, config.width)
        self.reward = head(config.width + action_size, 1)

    def forward(
        self, features: Tensor, action: Tensor, reward: Tensor, following: Tensor, other: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """The weighted sum, and its parts.

        Args:
            features: of the images now, with a gradient.
            action: of the batch.
            reward: of the batch.
            following: of the images that follow; they take no gradient.
            other: of the images now under other changes, without a gradient; None where `curl` is 0.

        Shapes: (B, F), (B, A), (B,), (B, F), (B, F) -> ().
        """
        config, total = self.config, features.new_zeros(())
        metrics: Metrics = {}
        state = self.state(features)  # (B, D)
        both = torch.cat([state, action], dim=1)
        with torch.no_grad():
            target = self.state(following)
        if config.taco > 0:
            query = self.step(both)
            loss = info_nce(query, target)
            total = total + config.taco * loss
            metrics |= {"encoder/taco": loss.detach(), "encoder/taco_found": found_share(query.detach(), target)}
        if config.curl > 0 and other is not None:
            with torch.no_grad():
                view = self.state(other)
            loss = info_nce(state, view)
            total = total + config.curl * loss
            metrics["encoder/curl"] = loss.detach()
        if config.reward > 0:
            loss = (self.reward(both)[:, 0] - reward).square().mean()
            total = total + config.reward * loss
            metrics["encoder/reward"] = loss.detach()
        if config.consistency > 0:
            loss = consistency_loss(self.step(both), target)
            total = total + config.consistency * loss
            metrics["encoder/consistency"] = loss.detach()
        return total, metrics
