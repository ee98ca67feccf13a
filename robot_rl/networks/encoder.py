"""Observations become features: (B, F)."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from robot_rl.errors import InputError
from robot_rl.networks.seen import Seen
from robot_rl.spec import Spec
from robot_rl.types import Batch

DEVIATION_FLOOR = 1e-6
"""Channels that vary less are constants: their mean is taken off, and they are not scaled."""


class FlatEncoder(nn.Module):
    """Concatenates vectors in the order of the spec and normalises them by fixed statistics.

    The statistics are buffers, so a checkpoint carries them.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: Spec, statistics: Mapping[str, tuple[Tensor, Tensor]] | None) -> None:
        """Take `statistics`, mean and standard deviation per key, each (*) or (d,); None is the identity.

        Raises:
            InputError: an image, or statistics that do not fit the spec.
        """
        super().__init__()
        self.keys = tuple(spec.observation)
        means, deviations = [], []
        for key, array in spec.observation.items():
            if len(array.shape) > 2 or array.dtype == "uint8":
                raise InputError(
                    f"observation '{key}' is {array.shape} {array.dtype}, which is no vector. RGB images are learned "
                    "from by sac, iql and bc (docs/pixels.md); for others leave the key out of the environment's "
                    "observations, and of the data set's: `robot-rl edit filter "
                    f"STORE 'exclude=[{key}]' output=NUMBERS`"
                )
            zeros = torch.zeros(array.shape)
            if statistics is not None and key not in statistics:
                raise InputError(f"the statistics lack observation '{key}'; they have {sorted(statistics)}")
            mean, deviation = (zeros, zeros + 1) if statistics is None else statistics[key]
            if mean.shape != zeros.shape or deviation.shape != zeros.shape:
                raise InputError(f"statistics of '{key}' have shape {tuple(mean.shape)}, the spec says {array.shape}")
            means.append(mean.reshape(-1).float())
            deviations.append(deviation.reshape(-1).float())
        if not means:
            raise InputError("the spec has no observations: there is nothing to encode")
        deviation = torch.cat(deviations)
        self.register_buffer("mean", torch.cat(means))
        self.register_buffer("deviation", torch.where(deviation < DEVIATION_FLOOR, 1.0, deviation))

    @property
    def features(self) -> int:
        """F."""
        return int(self.mean.shape[0])

    @torch.no_grad()
    def both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features of the observations and of those that follow. Shapes: -> (B, F) twice."""
        return self(batch.observation), self(batch.next_observation)

    def views(
        self, batch: Batch, parts: Sequence[slice], generator: torch.Generator, *, following: bool = True
    ) -> Iterator[Seen]:
        """What is seen of each part of a batch; nothing learns here, and nothing is drawn.

        Without `following` what would be seen next is not computed, and stands there as what is seen now.
        """
        with torch.no_grad():
            features = self(batch.observation)
            next_features = self(batch.next_observation) if following else features
        for rows in parts:
            now, after = features[rows], next_features[rows]
            yield Seen(critic=now, next_critic=after, actor=now, next_actor=after)

    def for_actor(self, observation: Mapping[str, Tensor]) -> Tensor:
        """The same as for critics. Shapes: each (B, *) -> (B, F)."""
        features: Tensor = self(observation)
        return features

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Shapes: each (B, *) -> (B, F)."""
        parts = [observation[key].reshape(len(observation[key]), -1).to(self.mean.dtype) for key in self.keys]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return (flat - self.mean) / self.deviation
