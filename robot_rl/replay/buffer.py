"""A ring of episodes in memory: recorded ones and those of the running robot, sampled in the same way.

An episode of T steps takes T + 1 consecutive rows, the last of which holds only its final observation, so the next
observation of row i is row i + 1 and no transition can cross an episode. Rewards are transformed and actions normalised
once, on the way in.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_rl.errors import InputError
from robot_rl.functional.bellman import monte_carlo_return
from robot_rl.replay.columns import Column, MappedColumn
from robot_rl.replay.finite import LIVE, require_finite_episode, require_numbers
from robot_rl.replay.instructions import Instructions
from robot_rl.replay.windows import earlier, select, window
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Batch, Episode, TimeStep

HELD_OUT_BLOCK = 50
"""Rows that are held out together: neighbours are nearly alike, so one of them in training would give the rest away."""
HELD_OUT_EVERY = 10
"""One block in so many is held out: the second, the twelfth, so that a small buffer has one too."""
SAVED = ("action", "reward", "monte_carlo", "terminated", "has_next", "step", "final", "instruction")


class ReplayBuffer:
    """Holds the last `capacity` rows; an `EpisodeSink` for whole episodes, `begin` and `add` for a running one.

    Args:
        spec: keys and shapes of the observations to keep; further keys of an episode are dropped.
        capacity: rows, T + 1 for each episode; the oldest are overwritten.
        scale: action units to [-1, 1].
        reward: applied to every reward on its way in.
        discount: per step, in [0, 1).
        n_step: decisions whose rewards are summed before bootstrapping; cut short where the episode, or what is known
            of it, ends.
        action_chunk: H, steps of one decision. A transition starts at every step, its action is the H recorded from
            there on, and its rewards and next observation are those of the whole chunk. Where the episode ends before,
            the last action repeats, rewards and discount stop with the episode, and `Batch.valid` says so.
        chunk_discount: per step, of the rewards inside a chunk; None is `discount` (DEAS: gamma_1, `discount` gamma_2).
        n_step_counts: what `n_step` counts: `chunks`, or `steps` whatever the chunk (CQN-AS).
        tail: return after the last step of an episode that did not terminate: `zero`, or `constant` for
            r_last / (1 - discount), which gives failed sparse episodes r / (1 - discount) at every step.
        complete_only: sample finished episodes only, so that every Monte-Carlo return is known.
        mapped: leave images in the store that the episodes come from, and read them as they are sampled; the system
            keeps what is read often in memory. Otherwise they are copied, as bytes.
        frame_stack: K: of images, batches have the last K frames of the episode, (B, K, H, W, C), the first one
            repeated where it has just begun. Each frame is kept once.
        instructions: the texts of the run; batches then say which one each transition has.
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
        action_chunk: int = 1,
        chunk_discount: float | None = None,
        n_step_counts: str = "chunks",
        tail: str = "zero",
        complete_only: bool = False,
        mapped: bool = False,
        frame_stack: int = 1,
        instructions: Instructions | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        reward.check(spec)
        self.spec = spec
        self.capacity = capacity
        self.scale = scale
        self.reward_transform = reward
        self.discount = discount
        self.action_chunk = action_chunk
        self.chunk_discount = chunk_discount
        self.backup_steps = n_step * (action_chunk if n_step_counts == "chunks" else 1)
        self.tail = tail
        self.complete_only = complete_only
        self.frame_stack = frame_stack
        self.with_next_action = False  # of batches; set by whoever knows what the algorithm needs
        self.with_recorded = False  # of batches, likewise
        self.recorded = True  # what these rows are: of a data set, or of the running robot
        self.with_domain = False  # of batches, likewise
        self.real = True  # what these rows are: of the robot, or of a simulator that differs from it
        self._cut_chunks = True  # rows whose chunk the end of the episode cuts are drawn too
        self.embed: dict[str, Callable[[Tensor], Tensor]] = {}  # `replay.features`: of images, what is kept instead
        self.instructions = instructions
        self.device = torch.device(device)

        def rows(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros((capacity, *shape), dtype=dtype, device=self.device)

        self.observation: dict[str, Column] = {
            key: MappedColumn(array, capacity, self.device)
            if mapped and array.is_image
            else rows(*array.shape, dtype=torch.uint8 if array.dtype == "uint8" else torch.float32)
            for key, array in spec.observation.items()
        }
        self.action = rows(*spec.action.shape, dtype=torch.float32)
        self.reward = rows(dtype=torch.float32)
        self.monte_carlo = rows(dtype=torch.float32)
        self.terminated = rows(dtype=torch.bool)
        self.has_next = rows(dtype=torch.bool)  # a transition starts in this row
        self.step = rows(dtype=torch.int64)  # of its episode
        self.final = rows(dtype=torch.int64)  # row of the last observation of its episode; -1 while that runs
        self.instruction = rows(dtype=torch.int64)  # number of its text, -1 without one
        self._weight = np.ones(capacity)
        self._cumulative: Array | None = None  # of the weights, in the order of `_rows`; None where all are equal
        # Rows that may be sampled, oldest first: a ring of its own, because rows enter and leave in the same order.
        self._rows = np.zeros(capacity, np.int64)
        self._rows_first = 0
        self._rows_count = 0
        self._size = 0
        self._head = 0  # the next row to write
        self._open: list[int] = []  # rows of the running episode, oldest first
        self._instruction = -1  # of the running episode
        self._running = ""  # what messages call the running episode
        self._appended = 0  # finished episodes
        self._weighted = False  # an episode has a weight other than 1

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self._rows_count

    # Writing ----------------------------------------------------------------------------------------------------------

    def begin(
        self, observation: Mapping[str, Array], instruction: str | None = None, *, name: str = "the running episode"
    ) -> None:
        """Start an episode with its first observation.

        Args:
            observation: each (*).
            instruction: its text, where there is one.
            name: what messages call the episode.

        Raises:
            InputError: the observation holds what is not a number.
        """
        if self._open:
            raise RuntimeError("an episode is running: finish it, or call `cut`")
        self._running = name
        self._require_numbers(observation, f"{name}, after the reset")
        self._instruction = self._number(instruction)
        self._open = [self._write_observation(observation)]

    def add(self, step: TimeStep) -> None:
        """Add one step of the running episode: the action that was applied, and what followed.

        Raises:
            InputError: the episode does not fit into the buffer, or the step holds what is not a number.
        """
        if not self._open or step.action is None:
            raise RuntimeError("`add` needs a running episode and a step with its action")
        if len(self._open) >= self.capacity:
            raise InputError(f"an episode is longer than the replay buffer: set replay.capacity above {self.capacity}")
        place = f"{self._running}, step {len(self._open) - 1}"
        require_numbers(np.asarray(step.action), f"{place}: the applied action", LIVE)
        require_numbers(np.asarray(step.reward, np.float64), f"{place}: the reward", LIVE)
        self._require_numbers(step.observation, place)
        row = self._open[-1]
        self.action[row] = torch.from_numpy(self.scale.normalize(step.action))
        following = {key: np.asarray(values)[None] for key, values in step.observation.items()}
        self.reward[row] = float(self.reward_transform(np.asarray([step.reward]), following)[0])
        self.terminated[row] = step.terminated
        self._open.append(self._write_observation(step.observation))
        self.has_next[row] = True
        if not self.complete_only:
            # The step is the last of the newest whole chunk.
            first = len(self._open) - 1 - self._admitted_length
            self._admit(np.asarray(self._open[first : first + 1] if first >= 0 else [], np.int64))
        if step.last:
            self._close()

    def cut(self) -> None:
        """End the running episode here, as truncated by us; without one, do nothing."""
        if len(self._open) > 1:
            self._close()
        self._open = []

    def append(self, episode: Episode, *, weight: float = 1.0) -> None:
        """Add a finished episode (EpisodeSink).

        Args:
            episode: what to add.
            weight: each of its transitions is drawn so many times as often as one of weight 1.

        Raises:
            InputError: an observation is missing, the episode does not fit, or it holds what is not a number.
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
        require_finite_episode(episode, self.spec.observation, f"episode {self._appended}")
        self._appended += 1
        rows = (self._head + np.arange(steps + 1)) % self.capacity
        index = torch.from_numpy(rows)
        self._forget(rows)
        for key, values in self.observation.items():
            if isinstance(values, MappedColumn):
                values.write(rows, episode.observation[key], key)
            else:
                values[index] = self._incoming(key, np.ascontiguousarray(episode.observation[key])).to(values)
        self.action[index[:-1]] = torch.from_numpy(self.scale.normalize(episode.action)).to(self.device)
        reward = self.reward_transform(episode.reward, {key: rows[1:] for key, rows in episode.observation.items()})
        self.reward[index[:-1]] = torch.from_numpy(reward).to(self.device)
        self.terminated[index] = False
        self.terminated[index[-2]] = bool(episode.terminated[-1])
        self.has_next[index[:-1]] = True
        # Without a final observation the last step is a transition only where nothing is bootstrapped from it.
        self.has_next[index[-2]] = episode.has_final_observation or bool(episode.terminated[-1])
        self.has_next[index[-1]] = False
        self.step[index] = torch.arange(steps + 1, device=self.device)
        self.final[index] = int(rows[-1] if episode.has_final_observation else rows[-2])
        self.instruction[index] = self._number(episode.metadata.get("language"))
        self._weight[rows] = weight
        self._weighted = self._weighted or weight != 1.0
        self._head = int(rows[-1] + 1) % self.capacity
        self._size = min(self._size + steps + 1, self.capacity)
        self._return_to_go(rows[:-1])
        self._admit_episode(rows[:-1] if bool(self.has_next[index[-2]]) else rows[:-2])

    def _require_numbers(self, observation: Mapping[str, Array], place: str) -> None:
        for key in self.observation:
            require_numbers(np.asarray(observation[key]), f"{place}: observation '{key}'", LIVE)

    def _incoming(self, key: str, rows: Array) -> Tensor:
        """What is kept of observations. Shapes: (N, *) -> (N, *), or (N, F) where features are kept."""
        given = torch.from_numpy(rows)
        return self.embed[key](given) if key in self.embed else given

    def _write_observation(self, observation: Mapping[str, Array]) -> int:
        row = self._head
        self._forget(np.asarray([row]))
        for key, values in self.observation.items():
            if isinstance(values, MappedColumn):
                raise RuntimeError("the observations of a running episode are kept in memory: mapped=False")
            values[row] = self._incoming(key, np.asarray(observation[key])[None])[0].to(values)
        self.terminated[row] = False
        self.has_next[row] = False
        self.step[row], self.final[row], self.instruction[row] = len(self._open), -1, self._instruction
        self._weight[row] = 1.0
        self._head = (row + 1) % self.capacity
        self._size = min(self._size + 1, self.capacity)
        return row

    def _close(self) -> None:
        rows = np.asarray(self._open[:-1])
        self.final[torch.from_numpy(np.asarray(self._open))] = self._open[-1]
        self._open = []
        self._return_to_go(rows)
        if self.complete_only:
            self._admit_episode(rows)

    def _return_to_go(self, rows: Array) -> None:
        index = torch.from_numpy(rows)
        reward = self.reward[index].cpu()
        terminated = bool(self.terminated[index[-1]])
        tail = float(reward[-1]) / (1.0 - self.discount) if self.tail == "constant" and not terminated else 0.0
        returns = monte_carlo_return(reward, terminated_at_end=terminated, discount=self.discount, tail_value=tail)
        self.monte_carlo[index] = returns.to(self.device, torch.float32)

    def allow_cut_chunks(self, allowed: bool) -> None:
        """Whether chunks that the end of their episode cuts are drawn too; between episodes, whenever it is decided.

        Where they are not, every action that is drawn was recorded as it is, `Batch.valid` is None, and the last H - 1
        steps of an episode start no transition.

        Raises:
            InputError: no episode has as many steps as a chunk.
        """
        if self.action_chunk == 1 or allowed == self._cut_chunks:
            return
        if self._open:
            raise RuntimeError("an episode is running: finish it, or call `cut`")
        self._cut_chunks = allowed
        before = self._rows_count
        index = self.held().to(self.device)
        starts = self.has_next.index_select(0, index)
        if not allowed:
            starts &= window(self.has_next, index, self.action_chunk)[1][:, -1]
        self._rows_first = self._rows_count = 0
        self._admit(index[starts].cpu().numpy())
        if before and not self._rows_count:
            raise InputError(
                f"no episode has the {self.action_chunk} steps of a chunk: set replay.action_chunk lower, or choose an "
                "algorithm that learns from chunks which the end of an episode cuts (qc, deas, cqn_as)"
            )

    @property
    def _admitted_length(self) -> int:
        """Steps that must follow from a row for it to be drawn."""
        return 1 if self._cut_chunks else self.action_chunk

    def _admit_episode(self, rows: Array) -> None:
        """Of these rows, in which the steps of one episode start, those that may be drawn."""
        self._admit(rows[: max(len(rows) - self._admitted_length + 1, 0)])

    def _admit(self, rows: Array) -> None:
        place = (self._rows_first + self._rows_count + np.arange(len(rows))) % self.capacity
        self._rows[place] = rows
        self._rows_count += len(rows)
        self._cumulative = None

    def _forget(self, rows: Array) -> None:
        """The rows are about to be overwritten: they are the oldest, so only the front of the ring can hold them."""
        overwritten = set(rows.tolist())
        while self._rows_count and int(self._rows[self._rows_first]) in overwritten:
            self._rows_first = (self._rows_first + 1) % self.capacity
            self._rows_count -= 1
            self._cumulative = None

    def _number(self, instruction: object) -> int:
        return -1 if self.instructions is None or instruction is None else self.instructions.number(str(instruction))

    # Reading ----------------------------------------------------------------------------------------------------------

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """`count` transitions, by weight and with replacement. The generator is a CPU one, whatever the device."""
        return self.gather(self.draw(count, generator))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Rows in which a transition starts: uniformly, or by the weights of their episodes. Shapes: (count,)."""
        if not self._rows_count:
            raise RuntimeError("the replay buffer holds no transition yet")
        if (cumulative := self._cumulative_weights()) is None:
            place = torch.randint(self._rows_count, (count,), generator=generator).numpy()
        else:
            wanted = torch.rand(count, generator=generator, dtype=torch.float64).numpy() * cumulative[-1]
            place = np.searchsorted(cumulative, wanted, side="right")
        return torch.from_numpy(self._rows[(self._rows_first + place) % self.capacity]).to(self.device)

    def drawable(self) -> Tensor:
        """All rows in which a transition starts that may be drawn, oldest first. Shapes: (len(self),)."""
        ring = self._rows[(self._rows_first + np.arange(self._rows_count)) % self.capacity]
        return torch.from_numpy(ring).to(self.device)

    def _cumulative_weights(self) -> Array | None:
        if not self._weighted:
            return None
        if self._cumulative is None:
            ring = self._rows[(self._rows_first + np.arange(self._rows_count)) % self.capacity]
            self._cumulative = np.cumsum(self._weight[ring])
        return self._cumulative

    def held(self) -> Tensor:
        """All rows that are there, oldest first. Shapes: (N,)."""
        return torch.from_numpy((self._head - self._size + np.arange(self._size)) % self.capacity)

    def older(self, row: Tensor) -> Tensor:
        """How many rows before these are still there. Shapes: (B,) -> (B,)."""
        return self._size - 1 - (self._head - 1 - row) % self.capacity

    def newer(self, row: Tensor) -> Tensor:
        """Steps from these rows to the last observation of their episode. Shapes: (B,) -> (B,)."""
        final = self.final.index_select(0, row)
        return (torch.where(final < 0, (self._head - 1) % self.capacity, final) - row) % self.capacity

    def observations(self, row: Tensor) -> dict[str, Tensor]:
        """The observations of these rows. Shapes: (B,) -> each (B, *), with K frames of an image (B, K, *)."""
        if self.frame_stack == 1:
            return {key: values.index_select(0, row) for key, values in self.observation.items()}
        known = torch.minimum(self.step.index_select(0, row), self.older(row))
        rows = earlier(row, known, self.frame_stack, self.capacity)  # (B, K)
        return {
            key: values.index_select(0, rows.flatten()).unflatten(0, rows.shape)
            if self.spec.observation[key].is_image
            else values.index_select(0, row)
            for key, values in self.observation.items()
        }

    def gather(self, row: Tensor) -> Batch:
        """The transitions that start in the given rows. Shapes: (B,), int64."""
        last = row  # the row whose step is the last one summed
        reward = self.reward.index_select(0, row)
        discount = torch.full_like(reward, self.discount)
        for step in range(1, self.backup_steps):
            following = (last + 1) % self.capacity
            goes_on = self.has_next.index_select(0, following)
            last = torch.where(goes_on, following, last)
            weight = discount if self.chunk_discount is None else self._weight_in_chunks(step, self.chunk_discount)
            reward = reward + torch.where(goes_on, weight * self.reward.index_select(0, last), 0.0)
            discount = torch.where(goes_on, discount * self.discount, discount)
        following = (last + 1) % self.capacity
        action, valid = self._chunk(row)
        next_action, has_next_action = None, None
        if self.with_next_action:
            next_action, recorded = self._chunk(following)
            has_next_action = self.has_next.index_select(0, following)
            has_next_action = has_next_action if recorded is None else has_next_action & recorded[:, -1]
        return Batch(
            observation=self.observations(row),
            action=action,
            reward=reward,
            discount=torch.where(self.terminated.index_select(0, last), 0.0, discount),
            next_observation=self.observations(following),
            monte_carlo_return=self._returns(row) if self.complete_only else None,
            next_action=next_action,
            has_next_action=has_next_action,
            instruction=None if self.instructions is None else self.instruction.index_select(0, row),
            valid=valid if self._cut_chunks else None,
            recorded=torch.full_like(row, self.recorded, dtype=torch.bool) if self.with_recorded else None,
            real=torch.full_like(row, self.real, dtype=torch.bool) if self.with_domain else None,
            held_out=row // HELD_OUT_BLOCK % HELD_OUT_EVERY == 1 if self.with_domain else None,
        )

    def _chunk(self, row: Tensor) -> tuple[Tensor, Tensor | None]:
        """The actions of the chunks that start here, and which were recorded. Shapes: (B,) -> (B, H * A), (B, H)."""
        if self.action_chunk == 1:
            return self.action.index_select(0, row), None
        rows, valid = window(self.has_next, row, self.action_chunk)
        return select(self.action, rows).flatten(1), valid

    def _weight_in_chunks(self, step: int, chunk_discount: float) -> float:
        """What the reward of this step counts, from 0, where rewards inside a chunk have a discount of their own."""
        inside = step % self.action_chunk
        return float(chunk_discount**inside * self.discount ** (step - inside))

    def _returns(self, row: Tensor) -> Tensor:
        if self.chunk_discount is not None:
            raise InputError(
                "Monte-Carlo returns are of one discount: leave replay.chunk_discount out, or the terms that need them"
            )
        return self.monte_carlo.index_select(0, row)

    def observation_statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and deviation of each observation over all rows held. Shapes: each ((*), (*)), float32."""
        return {
            key: (values[: self._size].double().mean(0).float(), values[: self._size].double().std(0).float())
            for key, values in self.observation.items()
            if isinstance(values, Tensor) and values.dtype == torch.float32
        }

    # Checkpoint -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `restore` needs: tensors cut to the rows in use, and plain JSON."""
        tensors = {f"observation.{key}": self._tensor(key)[: self._size] for key in self.observation}
        for name in SAVED:
            tensors[name] = getattr(self, name)[: self._size]
        ring = (self._rows_first + np.arange(self._rows_count)) % self.capacity
        tensors["rows"] = torch.from_numpy(self._rows[ring])
        state = {
            "capacity": self.capacity,
            "size": self._size,
            "head": self._head,
            "open": self._open,
            "instruction": self._instruction,
        }
        return {key: value.contiguous().cpu() for key, value in tensors.items()}, state

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Undo `state`, on an empty buffer of the same capacity."""
        if state["capacity"] != self.capacity:
            raise InputError(f"the saved replay buffer has capacity {state['capacity']}, this one {self.capacity}")
        self._size, self._head, self._open = int(state["size"]), int(state["head"]), list(state["open"])
        self._instruction = int(state["instruction"])
        for key in self.observation:
            values = self._tensor(key)
            values[: self._size] = tensors[f"observation.{key}"].to(values)
        for name in SAVED:
            values = getattr(self, name)
            values[: self._size] = tensors[name].to(values)
        rows = tensors["rows"].numpy()
        self._rows[: len(rows)] = rows
        self._rows_first, self._rows_count = 0, len(rows)

    def _tensor(self, key: str) -> Tensor:
        values = self.observation[key]
        if isinstance(values, MappedColumn):
            raise RuntimeError("a buffer whose images stay in their store is filled from it again, not saved")
        return values
