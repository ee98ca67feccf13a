"""A ring of episodes in memory: recorded ones and those of the running robot, sampled in the same way.

An episode of T steps takes T + 1 consecutive rows, the last of which holds only its final observation, so the next
observation of row i is row i + 1 and no transition can cross an episode. Rewards are transformed and actions normalised
once, on the way in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_rl.errors import InputError
from robot_rl.functional.bellman import monte_carlo_return
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Batch, Episode, TimeStep


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBatch:
    """Windows of H steps inside one episode each; steps past its end are marked invalid and repeat its last row."""

    observation: dict[str, Tensor]  # each (B, H + 1, *)
    action: Tensor  # (B, H, A), in [-1, 1]
    reward: Tensor  # (B, H)
    discount: Tensor  # (B, H), 0 after termination, otherwise discount
    valid: Tensor  # (B, H), bool


class ReplayBuffer:
    """Holds the last `capacity` rows; an `EpisodeSink` for whole episodes, `begin` and `add` for a running one.

    Args:
        spec: keys and shapes of the observations to keep; further keys of an episode are dropped.
        capacity: rows, T + 1 for each episode; the oldest are overwritten.
        scale: action units to [-1, 1].
        reward: applied to every reward on its way in.
        discount: per step, in [0, 1).
        n_step: rewards summed before bootstrapping; cut short where the episode, or what is known of it, ends.
        tail: return after the last step of an episode that did not terminate: `zero`, or `constant` for
            r_last / (1 - discount), which gives failed sparse episodes r / (1 - discount) at every step.
        complete_only: sample finished episodes only, so that every Monte-Carlo return is known.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        capacity: int,
        scale: ActionScale,
        reward: RewardTransform,
        discount: float,
        n_step: int = 1,
        tail: str = "zero",
        complete_only: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        reward.check(spec)
        self.spec = spec
        self.capacity = capacity
        self.scale = scale
        self.reward_transform = reward
        self.discount = discount
        self.n_step = n_step
        self.tail = tail
        self.complete_only = complete_only
        self.device = torch.device(device)

        def rows(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros((capacity, *shape), dtype=dtype, device=self.device)

        self.observation = {
            key: rows(*array.shape, dtype=torch.uint8 if array.dtype == "uint8" else torch.float32)
            for key, array in spec.observation.items()
        }
        self.action = rows(*spec.action.shape, dtype=torch.float32)
        self.reward = rows(dtype=torch.float32)
        self.monte_carlo = rows(dtype=torch.float32)
        self.terminated = rows(dtype=torch.bool)
        self.has_next = rows(dtype=torch.bool)  # a transition starts in this row
        # Rows that may be sampled, oldest first: a ring of its own, because rows enter and leave in the same order.
        self._rows = np.zeros(capacity, np.int64)
        self._rows_first = 0
        self._rows_count = 0
        self._size = 0
        self._head = 0  # the next row to write
        self._open: list[int] = []  # rows of the running episode, oldest first

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self._rows_count

    # Writing ----------------------------------------------------------------------------------------------------------

    def begin(self, observation: Mapping[str, Array]) -> None:
        """Start an episode with its first observation."""
        if self._open:
            raise RuntimeError("an episode is running: finish it, or call `cut`")
        self._open = [self._write_observation(observation)]

    def add(self, step: TimeStep) -> None:
        """Add one step of the running episode: the action that was applied, and what followed.

        Raises:
            InputError: the episode does not fit into the buffer.
        """
        if not self._open or step.action is None:
            raise RuntimeError("`add` needs a running episode and a step with its action")
        if len(self._open) >= self.capacity:
            raise InputError(f"an episode is longer than the replay buffer: set replay.capacity above {self.capacity}")
        row = self._open[-1]
        self.action[row] = torch.from_numpy(self.scale.normalize(step.action))
        following = {key: np.asarray(values)[None] for key, values in step.observation.items()}
        self.reward[row] = float(self.reward_transform(np.asarray([step.reward]), following)[0])
        self.terminated[row] = step.terminated
        self._open.append(self._write_observation(step.observation))
        self.has_next[row] = True
        if not self.complete_only:
            self._admit(np.asarray([row]))
        if step.last:
            self._close()

    def cut(self) -> None:
        """End the running episode here, as truncated by us; without one, do nothing."""
        if len(self._open) > 1:
            self._close()
        self._open = []

    def append(self, episode: Episode) -> None:
        """Add a finished episode (EpisodeSink).

        Raises:
            InputError: an observation is missing, or the episode does not fit.
        """
        missing = set(self.spec.observation) - set(episode.observation)
        if missing:
            raise InputError(
                f"the episode lacks observations {sorted(missing)}; it has {sorted(episode.observation)}: "
                "choose an environment that observes what was recorded"
            )
        steps = len(episode)
        if steps + 1 > self.capacity:
            raise InputError(f"an episode of {steps} steps does not fit into a replay buffer of {self.capacity} rows")
        if self._open:
            raise RuntimeError("an episode is running: finish it, or call `cut`")
        rows = (self._head + np.arange(steps + 1)) % self.capacity
        index = torch.from_numpy(rows)
        self._forget(rows)
        for key, values in self.observation.items():
            values[index] = torch.from_numpy(np.ascontiguousarray(episode.observation[key])).to(values)
        self.action[index[:-1]] = torch.from_numpy(self.scale.normalize(episode.action)).to(self.device)
        reward = self.reward_transform(episode.reward, {key: rows[1:] for key, rows in episode.observation.items()})
        self.reward[index[:-1]] = torch.from_numpy(reward).to(self.device)
        self.terminated[index] = False
        self.terminated[index[-2]] = bool(episode.terminated[-1])
        self.has_next[index[:-1]] = True
        # Without a final observation the last step is a transition only where nothing is bootstrapped from it.
        self.has_next[index[-2]] = episode.has_final_observation or bool(episode.terminated[-1])
        self.has_next[index[-1]] = False
        self._head = int(rows[-1] + 1) % self.capacity
        self._size = min(self._size + steps + 1, self.capacity)
        self._return_to_go(rows[:-1])
        self._admit(rows[:-1] if bool(self.has_next[index[-2]]) else rows[:-2])

    def _write_observation(self, observation: Mapping[str, Array]) -> int:
        row = self._head
        self._forget(np.asarray([row]))
        for key, values in self.observation.items():
            values[row] = torch.from_numpy(np.asarray(observation[key])).to(values)
        self.terminated[row] = False
        self.has_next[row] = False
        self._head = (row + 1) % self.capacity
        self._size = min(self._size + 1, self.capacity)
        return row

    def _close(self) -> None:
        rows = np.asarray(self._open[:-1])
        self._open = []
        self._return_to_go(rows)
        if self.complete_only:
            self._admit(rows)

    def _return_to_go(self, rows: Array) -> None:
        index = torch.from_numpy(rows)
        reward = self.reward[index].cpu()
        terminated = bool(self.terminated[index[-1]])
        tail = float(reward[-1]) / (1.0 - self.discount) if self.tail == "constant" and not terminated else 0.0
        returns = monte_carlo_return(reward, terminated_at_end=terminated, discount=self.discount, tail_value=tail)
        self.monte_carlo[index] = returns.to(self.device, torch.float32)

    def _admit(self, rows: Array) -> None:
        place = (self._rows_first + self._rows_count + np.arange(len(rows))) % self.capacity
        self._rows[place] = rows
        self._rows_count += len(rows)

    def _forget(self, rows: Array) -> None:
        """The rows are about to be overwritten: they are the oldest, so only the front of the ring can hold them."""
        overwritten = set(rows.tolist())
        while self._rows_count and int(self._rows[self._rows_first]) in overwritten:
            self._rows_first = (self._rows_first + 1) % self.capacity
            self._rows_count -= 1

    # Reading ----------------------------------------------------------------------------------------------------------

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """`count` transitions, uniformly and with replacement. The generator is a CPU one, whatever the device."""
        return self.gather(self._draw(count, generator))

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        if not self._rows_count:
            raise RuntimeError("the replay buffer holds no transition yet")
        place = torch.randint(self._rows_count, (count,), generator=generator).numpy()
        return torch.from_numpy(self._rows[(self._rows_first + place) % self.capacity]).to(self.device)

    def gather(self, row: Tensor) -> Batch:
        """The transitions that start in the given rows. Shapes: (B,), int64."""
        last = row  # the row whose step is the last one summed
        reward = self.reward.index_select(0, row)
        discount = torch.full_like(reward, self.discount)
        for _ in range(self.n_step - 1):
            following = (last + 1) % self.capacity
            goes_on = self.has_next.index_select(0, following)
            last = torch.where(goes_on, following, last)
            reward = reward + torch.where(goes_on, discount * self.reward.index_select(0, last), 0.0)
            discount = torch.where(goes_on, discount * self.discount, discount)
        following = (last + 1) % self.capacity
        return Batch(
            observation={key: values.index_select(0, row) for key, values in self.observation.items()},
            action=self.action.index_select(0, row),
            reward=reward,
            discount=torch.where(self.terminated.index_select(0, last), 0.0, discount),
            next_observation={key: values.index_select(0, following) for key, values in self.observation.items()},
            monte_carlo_return=self.monte_carlo.index_select(0, row) if self.complete_only else None,
        )

    def sample_sequences(self, count: int, length: int, generator: torch.Generator) -> SequenceBatch:
        """`count` windows of `length` steps, started uniformly over the transitions."""
        start = self._draw(count, generator)
        row, rows, valid = start, [start], [torch.ones_like(start, dtype=torch.bool)]
        for _ in range(length - 1):
            following = (row + 1) % self.capacity
            goes_on = valid[-1] & self.has_next.index_select(0, following)
            row = torch.where(goes_on, following, row)
            rows.append(row)
            valid.append(goes_on)
        step = torch.stack(rows, 1)  # (B, H)
        is_valid = torch.stack(valid, 1)
        # Observation h is that of step h; one past the last valid step is the observation that followed it.
        arrived = (row + 1) % self.capacity  # (B,)
        shown = torch.cat([step, arrived[:, None]], 1)
        shown[:, 1:] = torch.where(
            torch.cat([is_valid[:, 1:], is_valid[:, :1] & False], 1), shown[:, 1:], arrived[:, None]
        )
        ended = self.terminated[step] & is_valid
        return SequenceBatch(
            observation={key: values[shown] for key, values in self.observation.items()},
            action=self.action[step],
            reward=torch.where(is_valid, self.reward[step], 0.0),
            discount=torch.where(ended, 0.0, self.discount).float(),
            valid=is_valid,
        )

    def observation_statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and deviation of each observation over all rows held. Shapes: each ((*), (*)), float32."""
        return {
            key: (values[: self._size].double().mean(0).float(), values[: self._size].double().std(0).float())
            for key, values in self.observation.items()
            if values.dtype == torch.float32
        }

    # Checkpoint -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs: tensors cut to the rows in use, and plain JSON."""
        tensors = {f"observation.{key}": values[: self._size] for key, values in self.observation.items()}
        for name in ("action", "reward", "monte_carlo", "terminated", "has_next"):
            tensors[name] = getattr(self, name)[: self._size]
        ring = (self._rows_first + np.arange(self._rows_count)) % self.capacity
        tensors["rows"] = torch.from_numpy(self._rows[ring])
        state = {"capacity": self.capacity, "size": self._size, "head": self._head, "open": self._open}
        return {key: value.contiguous().cpu() for key, value in tensors.items()}, state

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Undo `state`, on an empty buffer of the same capacity."""
        if state["capacity"] != self.capacity:
            raise InputError(f"the saved replay buffer has capacity {state['capacity']}, this one {self.capacity}")
        self._size, self._head, self._open = int(state["size"]), int(state["head"]), list(state["open"])
        for key, values in self.observation.items():
            values[: self._size] = tensors[f"observation.{key}"].to(values)
        for name in ("action", "reward", "monte_carlo", "terminated", "has_next"):
            values = getattr(self, name)
            values[: self._size] = tensors[name].to(values)
        rows = tensors["rows"].numpy()
        self._rows[: len(rows)] = rows
        self._rows_first, self._rows_count = 0, len(rows)
