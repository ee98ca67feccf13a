"""Goals drawn from the data itself: random observations, later ones of the same episode, the present one.

The mixture is that of ICVF ("Reinforcement Learning from Passive Data via Latent Intentions", arXiv 2304.04782) in the
authors' code: 0.3 random, 0.5 future, 0.2 current; hindsight relabelling is future alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robot_rl.checks import require_minimum, require_range
from robot_rl.errors import InputError
from robot_rl.replay.buffer import ReplayBuffer


@dataclass(kw_only=True)
class GoalMixture:
    """How often a goal is of which kind."""

    future: float = 0.5  # of the same episode, uniformly between the next observation and the last
    current: float = 0.2  # the present observation; the rest is any observation of the data in which a step starts
    same: float = 0.5  # share of transitions whose goal is the intent itself
    maximum_distance: int | None = None  # steps to a future goal

    def __post_init__(self) -> None:
        require_range(self.future, 0.0, 1.0, "goals.future")
        require_range(self.current, 0.0, 1.0, "goals.current")
        require_range(self.same, 0.0, 1.0, "goals.same")
        if self.future + self.current > 1.0 + 1e-9:
            raise InputError(f"goals.future={self.future} and goals.current={self.current} exceed 1 together")
        if self.maximum_distance is not None:
            require_minimum(self.maximum_distance, 1, "goals.maximum_distance")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalBatch:
    """Transitions with a goal (ICVF's s+) and an intent (z). Being at one is equality of rows, not of pixels."""

    observation: dict[str, Tensor]  # each (B, *)
    next_observation: dict[str, Tensor]  # each (B, *)
    action: Tensor  # (B, A)
    goal: dict[str, Tensor]  # each (B, *)
    intent: dict[str, Tensor]  # each (B, *)
    at_goal: Tensor  # (B,), bool: the observation is the goal
    at_intent: Tensor  # (B,), bool
    instruction: Tensor | None = None  # (B,), as in `Batch`


def sample_goals(buffer: ReplayBuffer, count: int, mixture: GoalMixture, generator: torch.Generator) -> GoalBatch:
    """`count` transitions with goals and intents. The generator is a CPU one, whatever the device."""
    row = buffer.draw(count, generator)
    intent = draw_goals(buffer, row, mixture, generator)
    other = draw_goals(buffer, row, mixture, generator)
    same = torch.rand(count, generator=generator).to(row.device) < mixture.same
    goal = torch.where(same, intent, other)
    return GoalBatch(
        observation=buffer.observations(row),
        next_observation=buffer.observations((row + 1) % buffer.capacity),
        action=buffer.action.index_select(0, row),
        goal=buffer.observations(goal),
        intent=buffer.observations(intent),
        at_goal=goal == row,
        at_intent=intent == row,
        instruction=None if buffer.instructions is None else buffer.instruction.index_select(0, row),
    )


def draw_goals(buffer: ReplayBuffer, row: Tensor, mixture: GoalMixture, generator: torch.Generator) -> Tensor:
    """Rows of a goal for each of these rows. Shapes: (B,) -> (B,).

    The last observation of an episode that still runs is the newest there is.
    """
    count = len(row)
    anywhere = buffer.draw(count, generator)
    kind, place = torch.rand(2, count, generator=generator).to(row.device)  # each (B,)
    distance = buffer.newer(row)  # steps to the last observation
    if mixture.maximum_distance is not None:
        distance = distance.clamp(max=mixture.maximum_distance)
    ahead = torch.minimum(1 + (place * distance).long(), distance)
    future = (row + ahead) % buffer.capacity
    goal = torch.where(kind < mixture.future, future, anywhere)
    return torch.where(kind >= 1.0 - mixture.current, row, goal)
