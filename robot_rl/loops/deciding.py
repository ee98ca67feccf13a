"""Decisions that take longer than a control period: asked for beside the loop, played from where time has got to."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from robot_rl.clock import Clock
from robot_rl.policy import Decider
from robot_rl.types import Array


@dataclass(kw_only=True)
class ChunkSchedule:
    """Which action is for which step. Letters: H steps of a chunk, A action.

    The first action of a chunk is for the step at which it was asked for. What is past when it arrives is never played:
    that is the compensation of the delay.
    """

    _chunk: Array | None = field(init=False, default=None)  # (H, A)
    _first: int = field(init=False, default=0)  # step of its first action
    _after: int = field(init=False, default=-1)  # answers to questions up to this step are refused

    def accept(self, chunk: Array, asked_at: int) -> bool:
        """Play this one from now on; False where it answers what was before the last `drop`, or before the chunk."""
        if asked_at <= self._after or (self._chunk is not None and asked_at < self._first):
            return False
        self._chunk, self._first = chunk, asked_at
        return True

    def action(self, step: int) -> Array | None:
        """Of a step; None past the end of the chunk, or without one. Shapes: -> (A,)."""
        if self._chunk is None or not 0 <= step - self._first < len(self._chunk):
            return None
        action: Array = self._chunk[step - self._first]
        return action

    def age(self, step: int) -> int | None:
        """Steps since the chunk was asked for; None without one."""
        return None if self._chunk is None else step - self._first

    def drop(self, step: int) -> None:
        """Play nothing that was decided from observations up to that of a step: a person, or a stop, came between."""
        self._chunk, self._after = None, step

    def reset(self) -> None:
        """An episode begins."""
        self._chunk, self._after = None, -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A decision that was asked for at a step: a chunk, (H, A), or what went wrong."""

    asked_at: int
    chunk: Array | None
    error: Exception | None
    duration_ns: int


class Worker:
    """A thread that decides, one question at a time."""

    def __init__(self, policy: Decider, clock: Clock) -> None:
        """Waits for `ask`."""
        self._policy, self._clock = policy, clock
        self._questions: SimpleQueue[tuple[int, Mapping[str, Array]] | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self.busy = False
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def ask(self, step: int, observation: Mapping[str, Array]) -> None:
        """To be called while it is not busy."""
        assert not self.busy
        self.busy = True
        self._questions.put((step, observation))

    def poll(self, timeout_s: float = 0.0) -> Answer | None:
        """The answer, if it is there."""
        try:
            answer = self._answers.get(block=timeout_s > 0, timeout=timeout_s if timeout_s > 0 else None)
        except Empty:
            return None
        self.busy = False
        return answer

    def close(self) -> None:
        """End the thread; one that hangs is left behind, and ends with the process."""
        self._questions.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            step, observation = question
            began = self._clock.now_ns()
            chunk: Array | None = None
            error: Exception | None = None
            try:
                chunk = np.asarray(self._policy.decide(observation))
            except Exception as raised:  # noqa: BLE001  # whatever it is, the robot must not wait for it: the loop holds
                error = raised
            self._answers.put(Answer(asked_at=step, chunk=chunk, error=error, duration_ns=self._clock.now_ns() - began))


def problem_of(action: Any, size: int) -> str | None:
    """Why this is no action, or None."""
    array = np.asarray(action)
    if array.shape != (size,):
        return f"it has shape {array.shape}, expected ({size},)"
    return None if np.isfinite(array).all() else f"it holds NaN or infinity: {array.tolist()}"
