"""Models of how simulator and robot differ, and whether they can be believed.

Letters: B batch, K next states, F features, A action, D outputs, N bins.
"""

import torch
from torch import Tensor, nn

from robot_rl.functional.calibration import area_under_curve, binned, calibration_error
from robot_rl.functional.domains import mean_of
from robot_rl.functional.dynamics_ratio import classifier_loss, soft_bound
from robot_rl.networks.initialize import Initialization
from robot_rl.networks.mlp import MLP
from robot_rl.types import Metrics

FLOOR = 1e-6
"""Channels whose change deviates less do not move: they are not scaled."""
BINS = 20
FORGET = 0.005
"""What one update takes off the histograms of calibration: they hold about the last 200 batches."""


class RunningScale(nn.Module):
    """Mean and deviation of every row so far that counted: of the robot's, so that units are the robot's."""

    count: Tensor
    mean: Tensor
    squares: Tensor  # sum of squared distances to the mean

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("squares", torch.zeros(size))

    @torch.no_grad()
    def observe(self, values: Tensor, rows: Tensor) -> None:
        """Take in the rows that are true (Chan's update of mean and squares). Shapes: (B, D), (B,) bool."""
        counted = rows.to(values.dtype).unsqueeze(1)
        number = counted.sum()
        mean = (counted * values).sum(dim=0) / number.clamp(min=1)
        squares = (counted * (values - mean).square()).sum(dim=0)
        total = (self.count + number).clamp(min=1)
        apart = mean - self.mean
        self.squares.add_(squares + apart.square() * self.count * number / total)
        self.mean.add_(apart * number / total)
        self.count.add_(number)

    @property
    def deviation(self) -> Tensor:
        """1 where nothing moves, or nothing was seen yet. Shapes: -> (D,)."""
        found = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(found > FLOOR, found, 1.0)

    def forward(self, values: Tensor) -> Tensor:
        """Zero mean, deviation 1. Shapes: (B, D) -> (B, D)."""
        return (values - self.mean) / self.deviation


class Calibration(nn.Module):
    """Running histograms of what a classifier says of transitions that it does not learn from."""

    count: Tensor
    confidence: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2, BINS))  # of the robot, of the simulator
        self.register_buffer("confidence", torch.zeros(2, BINS))

    @torch.no_grad()
    def observe(self, logit: Tensor, real: Tensor, held_out: Tensor) -> None:
        """Take in the held out rows. Shapes: (B,), (B,) bool, (B,) bool."""
        probability = torch.sigmoid(logit)
        of_real = binned(probability, held_out & real, BINS)
        of_simulator = binned(probability, held_out & ~real, BINS)
        self.count.mul_(1 - FORGET).add_(torch.stack([of_real[0], of_simulator[0]]))
        self.confidence.mul_(1 - FORGET).add_(torch.stack([of_real[1], of_simulator[1]]))

    @property
    def auc(self) -> Tensor:
        """1/2: the domains cannot be told apart. Shapes: -> ()."""
        return area_under_curve(self.count[0], self.count[1])

    @property
    def error(self) -> Tensor:
        """Expected calibration error; 1 before both domains were seen. Shapes: -> ()."""
        return torch.where(self.rows > 0, calibration_error(self.count, self.confidence), 1.0)

    @property
    def rows(self) -> Tensor:
        """Held out rows that it goes by, of the domain that has fewer. Shapes: -> ()."""
        return self.count.sum(dim=1).amin()


class Slope(nn.Module):
    """Of log-ratios on transitions that nothing learned from: 1 where these bear them out, 0 where they say nothing.

    The coefficient of a logistic regression of "simulated" on the log-ratio, with the log-odds of (s, a) as its offset
    and both domains counting alike (Cox's calibration slope; Guo et al. 2017's temperature scaling of one term), kept
    by a Newton step of size `FORGET` for each batch. It starts at 0 and stays within [0, 1].
    """

    value: Tensor
    curvature: Tensor
    seen: Tensor  # share of the curvature that batches have filled

    def __init__(self) -> None:
        super().__init__()
        for name in ("value", "curvature", "seen"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def observe(self, log_odds: Tensor, log_ratio: Tensor, real: Tensor, held_out: Tensor) -> None:
        """Take in the held out rows; nothing where a domain has none. Shapes: (B,), (B,), (B,) bool, (B,) bool."""
        of_real, of_simulator = held_out & real, held_out & ~real
        share = FORGET * (of_real.any() & of_simulator.any()).to(log_ratio.dtype)
        probability = torch.sigmoid(log_odds + self.value * log_ratio)
        error = ((~real).to(log_ratio.dtype) - probability) * log_ratio
        square = probability * (1 - probability) * log_ratio.square()
        self.curvature.lerp_(mean_of(square, of_real) + mean_of(square, of_simulator), share)
        self.seen.lerp_(torch.ones_like(share), share)
        step = share * (mean_of(error, of_real) + mean_of(error, of_simulator)) * self.seen
        self.value.add_(step / self.curvature.clamp(min=FLOOR)).clamp_(0, 1)


class DomainClassifiers(nn.Module):
    """Two classifiers of "simulated": of (s, a), and of (s, a, s') as the first's log-odds and a further part.

    The further part is the log-ratio of the dynamics. Inputs are normalised states, actions, and normalised changes of
    the state, which are small beside the state itself.

    Args:
        features: F.
        action_size: A.
        hidden: widths of both.
        bound: of the log-odds of each part.
        initialization: of the weights.
        generator: of the initial weights.
    """

    def __init__(
        self,
        features: int,
        action_size: int,
        hidden: list[int],
        *,
        bound: float,
        initialization: Initialization,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.bound = bound

        def network(inputs: int) -> MLP:
            return MLP(inputs, hidden, 1, layer_norm=False, initialization=initialization, generator=generator)

        self.state_action = network(features + action_size)
        self.transition = network(2 * features + action_size)
        self.calibration = Calibration()
        self.visited = Calibration()  # of (s, a) alone
        self.slope = Slope()

    def log_ratio(self, features: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """log P_sim(s'|s, a) - log P_real(s'|s, a). Shapes: (B, F), (B, A), (B, F) -> (B,)."""
        return soft_bound(self.transition(torch.cat([features, action, change], dim=1))[:, 0], self.bound)

    def log_ratios(self, features: Tensor, action: Tensor, changes: Tensor) -> Tensor:
        """The same of several next states. Shapes: (B, F), (B, A), (B, K, F) -> (B, K)."""
        count = changes.shape[1]
        if count == 1:
            return self.log_ratio(features, action, changes[:, 0]).unsqueeze(1)
        known = torch.cat([features, action], dim=1).unsqueeze(1).expand(-1, count, -1)
        inputs = torch.cat([known, changes], dim=2).flatten(0, 1)
        ratios: Tensor = soft_bound(self.transition(inputs)[:, 0], self.bound).unflatten(0, (-1, count))
        return ratios

    def loss(
        self,
        features: Tensor,
        action: Tensor,
        change: Tensor,
        real: Tensor,
        held_out: Tensor,
        *,
        noise: float,
        smoothing: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy of both, on noisy copies of the rows that are not held out; the latter measure.

        Noise is in deviations of a channel. Shapes: (B, F), (B, A), (B, F), (B,) bool, (B,) bool -> ().
        """
        inputs = torch.cat([features, action, change], dim=1)
        if noise > 0:
            added = torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
            inputs = inputs + noise * added * (~held_out).to(inputs.dtype).unsqueeze(1)
        without = inputs[:, : inputs.shape[1] - change.shape[1]]
        state_action = soft_bound(self.state_action(without)[:, 0], self.bound)
        log_ratio = soft_bound(self.transition(inputs)[:, 0], self.bound)
        logit = state_action + log_ratio
        loss = classifier_loss(state_action, real, ~held_out, smoothing)
        loss = loss + classifier_loss(logit, real, ~held_out, smoothing)
        self.calibration.observe(logit.detach(), real, held_out)
        self.visited.observe(state_action.detach(), real, held_out)
        self.slope.observe(state_action.detach(), log_ratio.detach(), real, held_out)
        return loss, {
            "gap/classifier_loss": loss.detach(),
            "gap/auc": self.calibration.auc,
            "gap/auc_state_action": self.visited.auc,
            "gap/calibration_error": self.calibration.error,
            "gap/slope": self.slope.value.clone(),
        }
