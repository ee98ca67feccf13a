"""Models that judge a simulator by the robot's transitions, all that a hybrid learner has of them.

Letters: B batch, M members of a dynamics ensemble, K next states, F features, A action, Z latent.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robot_rl.checks import require_choice, require_range
from robot_rl.errors import InputError, nearest
from robot_rl.functional.dynamics_ratio import changes_around
from robot_rl.networks.dynamics import GaussianDynamics, LatentDynamics
from robot_rl.networks.gap import DomainClassifiers, RunningScale
from robot_rl.networks.initialize import Initialization
from robot_rl.seeding import Seeds
from robot_rl.types import Metrics

JUDGES = ("classifiers", "simulator", "dynamics", "latent")
ESTIMATORS = ("one_sample", "gaussian", "resampled")


@dataclass(kw_only=True)
class JudgesConfig:
    """Which models there are, and how they learn; what they may change are settings of the algorithm."""

    models: list[str] = field(default_factory=list)
    """`classifiers` of both domains; with them, `simulator`, a model of the simulator that the estimator `resampled`
    draws from; `dynamics`, an ensemble of models of the robot; `latent`, a latent model of the robot."""
    warm_up: int = 5000  # updates before they count
    minimum_real: int = 1000  # transitions of the robot below which they do not count
    calibration_limit: float = 0.1  # expected calibration error of held out rows above which classifiers do not count
    minimum_held_out: int = 100  # rows of each domain, of late, without which nobody knows whether they are calibrated
    learning_rate: float = 3e-4
    classifier_hidden: list[int] = field(default_factory=lambda: [256, 256])
    classifier_bound: float = 4.0  # of each log-ratio
    classifier_noise: float = 0.05  # on inputs, in deviations of a channel
    classifier_smoothing: float = 0.05  # of labels
    held_out_slope: bool = False  # log-ratios are shrunk to what held out rows bear out, 0 to 1 of them
    gap_estimator: str = "one_sample"  # one_sample | gaussian | resampled (docs/algorithms/dynamics_gap.md)
    gap_samples: int = 10  # next states of the latter two
    gap_deviation: float = 1.0  # of `gaussian`, in deviations of the change of the state
    dynamics_hidden: list[int] = field(default_factory=lambda: [200, 200, 200, 200])
    dynamics_count: int = 7
    latent_hidden: list[int] = field(default_factory=lambda: [256, 256])
    latent_size: int = 256

    def __post_init__(self) -> None:
        for model in self.models:
            if model not in JUDGES:
                raise InputError(f"judges.models names '{model}': {nearest(model, JUDGES)}")
        require_choice(self.gap_estimator, ESTIMATORS, "judges.gap_estimator")
        if self.gap_estimator == "resampled" and "simulator" not in self.models:
            raise InputError("judges.gap_estimator=resampled draws from a model: add 'simulator' to judges.models")
        for name in ("warm_up", "minimum_real", "minimum_held_out", "classifier_noise", "gap_deviation"):
            require_range(getattr(self, name), 0, 1e9, f"judges.{name}")
        for name in ("gap_samples", "dynamics_count", "latent_size"):
            require_range(getattr(self, name), 1, 10_000, f"judges.{name}")
        for name in ("classifier_hidden", "dynamics_hidden", "latent_hidden"):
            for width in getattr(self, name):
                require_range(width, 1, 100_000, f"judges.{name}: width")
        require_range(self.calibration_limit, 0, 1, "judges.calibration_limit")
        require_range(self.learning_rate, 0, 1, "judges.learning_rate")
        require_range(self.classifier_bound, 1e-3, 1e3, "judges.classifier_bound")
        require_range(self.classifier_smoothing, 0, 0.49, "judges.classifier_smoothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """Rows of a batch, of which each is the robot's or the simulator's."""

    features: Tensor  # (B, F), normalised by the robot's statistics
    action: Tensor  # (B, A)
    reward: Tensor  # (B,)
    discount: Tensor  # (B,)
    next_features: Tensor  # (B, F)
    real: Tensor  # (B,), bool
    held_out: Tensor  # (B,), bool: kept from what judges learn

    @property
    def outcome(self) -> Tensor:
        """Change of the state, and reward. Shapes: -> (B, F + 1)."""
        return torch.cat([self.next_features - self.features, self.reward.unsqueeze(1)], dim=1)


class Judges(nn.Module):
    """The models of a configuration; those that it does not ask for are None.

    Args:
        config: which there are.
        features: F.
        action_size: A.
        seeds: of the initial weights.
    """

    def __init__(self, config: JudgesConfig, features: int, action_size: int, seeds: Seeds) -> None:
        super().__init__()
        self.config = config
        self.scale = RunningScale(features + 1)  # of outcomes on the robot
        self.classifiers: DomainClassifiers | None = None
        self.simulator: GaussianDynamics | None = None
        self.dynamics: GaussianDynamics | None = None
        self.latent: LatentDynamics | None = None
        start = Initialization(kind="uniform", hidden_gain=1.0, output_gain=1.0)
        sizes, hidden = (features, action_size), config.dynamics_hidden
        if "classifiers" in config.models:
            self.classifiers = DomainClassifiers(
                *sizes,
                config.classifier_hidden,
                bound=config.classifier_bound,
                initialization=Initialization(output_gain=0.01),
                generator=seeds.torch("classifiers"),
            )
        if "simulator" in config.models:
            generator = seeds.torch("simulator")
            self.simulator = GaussianDynamics(
                *sizes, features, hidden, count=1, initialization=start, generator=generator
            )
        if "dynamics" in config.models:
            count, generator = config.dynamics_count, seeds.torch("dynamics")
            self.dynamics = GaussianDynamics(
                *sizes, features + 1, hidden, count=count, initialization=start, generator=generator
            )
        if "latent" in config.models:
            self.latent = LatentDynamics(
                *sizes,
                config.latent_size,
                config.latent_hidden,
                initialization=start,
                generator=seeds.torch("latent"),
            )

    def loss(self, rows: Transitions, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Sum of the models' losses, each on the rows that are not held out; those measure. Shapes: -> ()."""
        self.scale.observe(rows.outcome, rows.real)
        outcome = self.scale(rows.outcome)  # (B, F + 1)
        learned, real, inputs = ~rows.held_out, rows.real, (rows.features, rows.action)
        total, metrics = rows.reward.new_zeros(()), dict[str, Tensor]()
        if self.classifiers is not None:
            total, metrics = self.classifiers.loss(
                *inputs,
                outcome[:, :-1],
                real,
                rows.held_out,
                noise=self.config.classifier_noise,
                smoothing=self.config.classifier_smoothing,
                generator=generator,
            )
        if self.simulator is not None:
            total = total + self.simulator.loss(*inputs, outcome[:, :-1], ~real & learned)
        if self.dynamics is not None:
            loss = self.dynamics.loss(*inputs, outcome, real & learned)
            total, metrics["gap/dynamics_loss"] = total + loss, loss.detach()
        if self.latent is not None:
            loss = self.latent.loss(*inputs, rows.next_features, real & learned)
            total, metrics["gap/latent_loss"] = total + loss, loss.detach()
        return total, metrics

    @property
    def calibrated(self) -> Tensor:
        """1 where the classifiers can be believed, by what was held out, else 0. Shapes: -> ()."""
        if self.classifiers is None:
            return torch.zeros_like(self.scale.count)
        found = self.classifiers.calibration
        believed = (found.error <= self.config.calibration_limit) & (found.rows >= self.config.minimum_held_out)
        return believed.to(found.count.dtype)

    def log_ratio(self, rows: Transitions) -> Tensor:
        """log P_sim(s'|s, a) - log P_real(s'|s, a). Shapes: -> (B,)."""
        assert self.classifiers is not None
        found = self.classifiers.log_ratio(rows.features, rows.action, self.scale(rows.outcome)[:, :-1])
        return self._borne_out(found)

    def log_ratios(self, rows: Transitions, log_ratio: Tensor, generator: torch.Generator) -> Tensor:
        """The same of the next states that the estimator of the gap takes. Shapes: (B,) -> (B, K)."""
        assert self.classifiers is not None
        config, inputs = self.config, (rows.features, rows.action)
        if config.gap_estimator == "one_sample":
            return log_ratio.unsqueeze(1)
        if config.gap_estimator == "resampled" and self.simulator is not None:
            changes = self.simulator.draws(*inputs, config.gap_samples, generator)
        else:
            change = self.scale(rows.outcome)[:, :-1]
            changes = changes_around(change, config.gap_deviation, config.gap_samples, generator)
        return self._borne_out(self.classifiers.log_ratios(*inputs, changes))

    def _borne_out(self, log_ratio: Tensor) -> Tensor:
        """By held out rows. Shapes: (*) -> (*)."""
        assert self.classifiers is not None
        return self.classifiers.slope.value * log_ratio if self.config.held_out_slope else log_ratio

    def expected(self, rows: Transitions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Next states and rewards that each member draws for the robot. Shapes: -> (M, B, F), (M, B)."""
        assert self.dynamics is not None
        outcome = self.dynamics.one_each(rows.features, rows.action, generator)
        outcome = outcome * self.scale.deviation + self.scale.mean
        return rows.features + outcome[:, :, :-1], outcome[:, :, -1]

    def mismatch(self, rows: Transitions) -> tuple[Tensor, Tensor]:
        """The next latent state as predicted for the robot, and as it was. Shapes: -> (B, Z) twice."""
        assert self.latent is not None
        latent = self.latent.encode(rows.features)
        return self.latent.predict(latent, rows.action), self.latent.encode(rows.next_features)
