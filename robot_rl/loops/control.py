"""The control loop: a policy on a robot, or on a simulator in real time, on a fixed grid of time.

    reset -> [observe -> decide -> act -> wait for the tick] ... -> the episode is over, or something stops it

What does not go well has one behaviour each, and is counted:

| what | the loop |
|---|---|
| the policy raises, or answers no number for each dimension | commands to hold, and asks anew |
| it is late, deciding beside the loop | plays the rest of its last chunk; without one waits, then commands to hold |
| it is late, deciding in the loop | goes on at the next tick; meanwhile the governor holds by itself |
| neither for `patience` steps in a row | ends the episode, which disarms the robot |
| a person takes over | forgets the chunk; after the handover, decides from what is seen then |
| the loop is stopped | ends the episode after the step |

The command to hold is that of `robot_rl.steering.policy.hold`: no motion, or the position that was applied last.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from robot_rl.clock import Clock
from robot_rl.environment import Environment, Live
from robot_rl.errors import InputError
from robot_rl.loops.deciding import ChunkSchedule, Worker, problem_of
from robot_rl.loops.realtime import Pacer, collect
from robot_rl.loops.timing import Timings
from robot_rl.policy import Decider, Rehearsed, drop_chunk
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.policy import hold
from robot_rl.types import Array, Policy, TimeStep

OVER, STOPPED, FAILED = "over", "stopped", "the policy failed"
COLUMNS = ("period", "inference", "decision", "observation_age")
"""Between two decisions; of the policy alone; from the observation to the action, in the loop; of the oldest part."""
FIRST_DECISION_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """How the loop is run."""

    asynchronous: bool = False  # decide beside the loop, and play chunks meanwhile
    execute: int = 1  # steps of a chunk that are played before the next is asked for, where it is asynchronous
    deadline: float = 0.5
    """Share of the control period for which a decision beside the loop is waited for where there is nothing to play."""
    patience: int = 5  # steps in a row without a good decision in time


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What became of an episode."""

    reason: str  # OVER, STOPPED or FAILED
    steps: int
    episode_return: float
    success: bool | None
    error: str | None = None  # the last of the policy


@dataclass(kw_only=True)
class ControlLoop:
    """One policy on one environment.

    Args:
        environment: a robot keeps its own time; a simulator is kept to that of `clock`.
        policy: must be a `Decider` too where it decides beside the loop.
        clock: monotonic.
        settings: see there.
        timings: with COLUMNS.
        stop: asked at each step; true ends the episode.
        after_step: told of each step; must be quick.
        sleep: see `Pacer`.

    Raises:
        InputError: nobody knows how to hold with actions of this kind, or the policy decides no chunks.
    """

    environment: Environment
    policy: Policy
    clock: Clock
    settings: ControlSettings
    timings: Timings
    stop: Callable[[], bool] = lambda: False
    after_step: Callable[[TimeStep], None] = lambda _: None
    pacer: Pacer | None = None  # None where the environment keeps its own time
    counts: Counter[str] = field(init=False, default_factory=Counter)
    """`failed` and `late` decisions, steps on `hold`, `intervened` steps, `refused` answers from before a takeover."""
    _schedule: ChunkSchedule = field(init=False, default_factory=ChunkSchedule)
    _worker: Worker | None = field(init=False, default=None)
    _action: ActionSpec = field(init=False)
    _period_ns: int = field(init=False)
    _applied: Array | None = field(init=False, default=None)  # (A,)
    _bad: int = field(init=False, default=0)  # steps in a row without a good decision in time
    _error: str | None = field(init=False, default=None)
    _inference_ns: int = field(init=False, default=-1)
    _seen: TimeStep | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        spec = self.environment.spec
        if spec.control_period_s is None:
            raise InputError("the environment has no control period, so there is no grid of time to keep")
        self._period_ns = round(spec.control_period_s * 1e9)
        self._action = ActionSpec.from_spec(spec, 1)
        if hold(spec.action_semantics, np.zeros(self._action.size), self._action) is None:
            raise InputError(
                f"no command is known that halts actions of the kind {spec.action_semantics!r}: use velocities, "
                "deltas or positions"
            )
        if self.settings.asynchronous:
            if not isinstance(self.policy, Decider):
                raise InputError("asynchronous=true needs a policy that decides chunks: leave it out")
            self._worker = Worker(self.policy, self.clock)
        elif isinstance(self.environment, Live):
            self.environment.before_tick = self._rehearse

    def play(self, *, seed: int) -> Play:
        """One episode."""
        step = self.environment.reset(seed=seed)
        return self._play(step, self.environment.step)

    def watch(self) -> Play:
        """As `play`, until it is stopped, but nothing is commanded: the robot stays as it is, disarmed.

        Raises:
            InputError: the environment is no robot.
        """
        robot = self.environment
        if not isinstance(robot, Live):
            raise InputError("dry_run=true watches a robot, and this environment is a simulator: leave it out")
        return self._play(robot.watch(), lambda _: robot.watch())

    def close(self) -> None:
        """End what decides beside the loop."""
        if self._worker is not None:
            self._worker.close()

    # One episode ------------------------------------------------------------------------------------------------------
    def _play(self, step: TimeStep, act: Callable[[Array], TimeStep]) -> Play:
        self.policy.reset()
        self._schedule.reset()
        self._applied, self._bad, self._error = None, 0, None
        collect()
        if self._worker is not None and not self._first_decision(self._worker, step):
            return self._end(FAILED, 0, 0.0, None)
        if self.pacer is not None:
            self.pacer.begin()
        self._seen = step
        index, total, success, before = 0, 0.0, step.success, -1
        reason = OVER
        while not step.last:
            if self.stop():
                reason = STOPPED
                break
            began = self.clock.now_ns()
            action = self._choose(step, index)
            if action is None or self._bad >= self.settings.patience:
                reason = FAILED
                break
            decided = self.clock.now_ns()
            self.timings.add(began - before if before >= 0 else -1, self._inference_ns, decided - began, self._age_ns())
            before = began
            step = act(action)
            self._seen = step
            if self.pacer is not None:
                self.pacer.wait()
            if step.action is not None:
                self._applied = step.action
            if step.intervened:  # what was decided before the person came is not for where he leaves the robot
                self.counts["intervened"] += 1
                self._schedule.drop(index)
                drop_chunk(self.policy)
                self._bad = 0
            index += 1
            total += step.reward
            success = step.success if success is None else bool(success or step.success)
            self.after_step(step)
        return self._end(reason, index, total, success)

    def _end(self, reason: str, steps: int, total: float, success: bool | None) -> Play:
        return Play(reason=reason, steps=steps, episode_return=total, success=success, error=self._error)

    def _choose(self, step: TimeStep, index: int) -> Array | None:
        """The action of a step, if need be the one that holds; None where not even that is known."""
        action = self._decided(step) if self._worker is None else self._scheduled(self._worker, step, index)
        if action is not None:
            return action
        self.counts["hold"] += 1
        found = hold(self._action.semantics, self._applied, self._action)
        return None if found is None else found[0]

    def _decided(self, step: TimeStep) -> Array | None:
        """Decide in the loop."""
        began = self.clock.now_ns()
        try:
            action = np.asarray(self.policy.act(step.observation))
        except Exception as error:  # noqa: BLE001  # whatever it is, the robot must hold
            self._failed(f"{type(error).__name__}: {error}")
            return None
        self._inference_ns = self.clock.now_ns() - began
        problem = problem_of(action, self._action.size)
        if problem is not None:
            self._failed(f"the action is not usable: {problem}")
            return None
        late = self._inference_ns > self._period_ns
        self.counts["late"] += late
        self._bad = self._bad + 1 if late else 0
        return action

    def _rehearse(self, left_ns: int) -> None:
        """Decide once more about what was seen last, where that is quick: the next decision then is."""
        if isinstance(self.policy, Rehearsed) and self._seen is not None and 0 < self._inference_ns < left_ns:
            with suppress(Exception):  # what is wrong with the policy is told when it decides in earnest
                self.policy.rehearse(self._seen.observation)

    def _scheduled(self, worker: Worker, step: TimeStep, index: int) -> Array | None:
        """Take what was decided beside the loop, and ask for what comes next."""
        self._inference_ns = -1
        failed = self._hear(worker)
        age = self._schedule.age(index)
        if not worker.busy and (age is None or age >= self.settings.execute):
            worker.ask(index, step.observation)
        action = self._schedule.action(index)
        if action is None and worker.busy and not failed:
            failed = self._hear(worker, self.settings.deadline * self._period_ns / 1e9)
            action = self._schedule.action(index)
        if action is None and not step.intervened and not failed:
            self.counts["late"] += 1
            self._bad += 1
        elif action is not None and not failed:
            self._bad = 0
        return action

    def _hear(self, worker: Worker, timeout_s: float = 0.0) -> bool:
        """Take in an answer, if there is one; whether the policy failed."""
        answer = worker.poll(timeout_s)
        if answer is None:
            return False
        self._inference_ns = answer.duration_ns
        if answer.chunk is None:
            self._failed(f"{type(answer.error).__name__}: {answer.error}")
            return True
        whole = answer.chunk.ndim == 2 and len(answer.chunk) > 0
        rows = answer.chunk if whole else answer.chunk[None]
        problem = next(filter(None, (problem_of(row, self._action.size) for row in rows)), None)
        if problem is not None:
            self._failed(f"the action is not usable: {problem}")
            return True
        if not self._schedule.accept(rows, answer.asked_at):
            self.counts["refused"] += 1
        return False

    def _first_decision(self, worker: Worker, step: TimeStep) -> bool:
        """Before the first step, while the robot stands: there is nothing to play meanwhile."""
        if worker.busy and worker.poll(FIRST_DECISION_S) is None:  # of the episode before
            self._error = "the policy hangs"
            return False
        worker.ask(0, step.observation)
        failed = self._hear(worker, FIRST_DECISION_S)
        if worker.busy:
            self._error = f"the policy did not answer within {FIRST_DECISION_S:g} s"
        return not failed and not worker.busy

    def _failed(self, error: str) -> None:
        self._error = error
        self.counts["failed"] += 1
        self._bad += 1
        drop_chunk(self.policy)

    def _age_ns(self) -> int:
        ages = self.environment.ages_s.values() if isinstance(self.environment, Live) else ()
        return round(max(ages) * 1e9) if ages else -1
