"""The control loop: what it plays, and its one behaviour for each thing that goes wrong."""

import gc
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_rl.clock import FakeClock
from robot_rl.errors import InputError
from robot_rl.loops import control
from robot_rl.loops.control import COLUMNS, ControlLoop, ControlSettings
from robot_rl.loops.deciding import ChunkSchedule
from robot_rl.loops.realtime import Pacer, steady
from robot_rl.loops.rollout import run_episode
from robot_rl.loops.timing import Timings, summarize_times
from robot_rl.policy import ChunkPlayer
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep

PERIOD_S = 0.1
BOUND = np.full(1, 10.0)


def spec(semantics: str | None = "joint_velocity") -> Spec:
    return Spec(
        observation={"step": ArraySpec(shape=(1,))},
        action=ArraySpec(shape=(1,), low=-BOUND, high=BOUND),
        control_period_s=PERIOD_S,
        action_semantics=semantics,
    )


@dataclass
class Robot:
    """Counts steps; `person` lists the steps in which a person commands, who commands 9."""

    clock: FakeClock
    steps: int = 12
    person: tuple[int, ...] = ()
    semantics: str | None = "joint_velocity"
    commanded: list[float] = field(default_factory=list)
    watched: int = 0
    index: int = 0
    ages_s: dict[str, float] = field(default_factory=lambda: {"step": 0.003, "camera": 0.02})
    before_tick: Callable[[int], object] = lambda _: None
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def spec(self) -> Spec:
        return spec(self.semantics)

    @property
    def maximum_steps(self) -> int:
        return self.steps

    def reset(self, *, seed: int) -> TimeStep:
        self.index = 0
        return self._seen()

    def step(self, action: Array) -> TimeStep:
        by_person = self.index in self.person
        self.commanded.append(float(action[0]))
        self.index += 1
        self.clock.advance(PERIOD_S)
        return TimeStep(
            observation=self._seen().observation,
            reward=1.0,
            truncated=self.index == self.steps,
            action=np.full(1, 9.0) if by_person else np.array(action),
            intervened=by_person,
        )

    def watch(self) -> TimeStep:
        self.watched += 1
        self.clock.advance(PERIOD_S)
        return self._seen()

    def render(self) -> Array:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to free."""

    def _seen(self) -> TimeStep:
        return TimeStep(observation={"step": np.full(1, self.index, np.float32)})


@dataclass
class Plan:
    """Decides chunks of `steps`: [10 * seen, 10 * seen + 1, ...] / 10, so an action says which decision it is of."""

    steps: int = 1
    wrong: Callable[[int], Any] | None = None  # seen -> what is decided instead, or raises
    decisions: int = 0

    def __post_init__(self) -> None:
        self._player = ChunkPlayer(steps=self.steps)

    def reset(self) -> None:
        self._player.reset()

    def drop_chunk(self) -> None:
        self._player.reset()

    def act(self, observation: Mapping[str, Array]) -> Array:
        return self._player.next(lambda: self.decide(observation))

    def decide(self, observation: Mapping[str, Array]) -> Array:
        self.decisions += 1
        seen = int(observation["step"][0])
        instead = None if self.wrong is None else self.wrong(seen)
        return seen + np.arange(self.steps)[:, None] / 10 if instead is None else instead


def loop_of(robot: Robot, policy: Any, **changes: Any) -> ControlLoop:
    settings = ControlSettings(**changes.pop("settings", {}))
    return ControlLoop(
        environment=robot,
        policy=policy,
        clock=robot.clock,
        settings=settings,
        timings=Timings(COLUMNS, 4),
        **changes,
    )


def test_an_episode_is_played_and_timed_to_its_end() -> None:
    robot = Robot(FakeClock())
    loop = loop_of(robot, Plan(steps=3))
    play = loop.play(seed=0)
    assert (play.reason, play.steps, play.episode_return) == (control.OVER, 12, 12.0)
    np.testing.assert_allclose(robot.commanded, [k - k % 3 + k % 3 / 10 for k in range(12)])
    columns = loop.timings.columns()
    assert set(columns["period"]) == {100_000_000}
    assert len(columns["period"]) == 11
    assert set(columns["observation_age"]) == {20_000_000}


def nan(seen: int) -> Array | None:
    return np.full((1, 1), np.nan) if seen == 4 else None


def raising(seen: int) -> Array | None:
    if seen == 4:
        raise RuntimeError("no weights")
    return None


def misshapen(seen: int) -> Array | None:
    return np.zeros((1, 2)) if seen == 4 else None


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("wrong", [nan, raising, misshapen])
def test_a_decision_that_is_none_is_held_for_a_step(wrong: Callable[[int], Any], asynchronous: bool) -> None:
    robot = Robot(FakeClock())
    loop = lockstep(robot, Plan(steps=3, wrong=wrong)) if asynchronous else loop_of(robot, Plan(wrong=wrong))
    play = loop.play(seed=0)
    loop.close()
    assert play.reason == control.OVER
    assert loop.counts["failed"] == 1
    assert play.error is not None
    if not asynchronous:
        assert robot.commanded[3:6] == [3.0, 0.0, 5.0]


def lockstep(robot: Robot, policy: Any, **settings: Any) -> ControlLoop:
    """A loop beside which each answer is waited for, so that it always comes one step late."""
    loop = loop_of(robot, policy, settings={"asynchronous": True, **settings})
    worker = loop._worker
    assert worker is not None

    def wait(step: TimeStep) -> None:
        for _ in range(2000):
            if not worker.busy or not worker._answers.empty():
                return
            threading.Event().wait(0.001)

    loop.after_step = wait
    return loop


@pytest.mark.parametrize(("semantics", "held"), [("joint_position_target", 2.0), ("joint_position_delta", 0.0)])
def test_what_holds_follows_from_what_actions_are(semantics: str, held: float) -> None:
    robot = Robot(FakeClock(), semantics=semantics)
    loop_of(robot, Plan(wrong=lambda seen: np.full((1, 1), np.nan) if seen == 3 else None)).play(seed=0)
    assert robot.commanded[3] == held


def test_actions_that_nobody_can_hold_are_refused_before_anything_moves() -> None:
    with pytest.raises(InputError, match="no command is known that halts actions of the kind None"):
        loop_of(Robot(FakeClock(), semantics=None), Plan())


def test_a_policy_that_keeps_failing_ends_the_episode() -> None:
    robot = Robot(FakeClock())
    play = loop_of(robot, Plan(wrong=lambda seen: np.full((1, 1), np.nan) if seen >= 3 else None)).play(seed=0)
    assert play.reason == control.FAILED
    assert robot.commanded == [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]  # the fifth failure is not waited for
    assert "NaN" in str(play.error)


def test_a_policy_that_is_slower_than_the_grid_in_the_loop_is_counted_and_given_up() -> None:
    robot = Robot(FakeClock())

    def slow(seen: int) -> None:
        robot.clock.advance(0.15 if seen >= 2 else 0.0)

    loop = loop_of(robot, Plan(wrong=slow))
    assert loop.play(seed=0).reason == control.FAILED
    assert loop.counts["late"] == 5


def test_after_a_takeover_the_rest_of_the_chunk_is_not_played() -> None:
    robot = Robot(FakeClock(), person=(2, 3))
    loop = loop_of(robot, Plan(steps=6))
    loop.play(seed=0)
    np.testing.assert_allclose(robot.commanded[:6], [0.0, 0.1, 0.2, 3.0, 4.0, 4.1])
    assert loop.counts["intervened"] == 2


def test_evaluation_drops_the_rest_of_a_chunk_too() -> None:
    robot = Robot(FakeClock(), person=(1,))
    run_episode(robot, Plan(steps=4), seed=0)
    np.testing.assert_allclose(robot.commanded[:4], [0.0, 0.1, 2.0, 2.1])


def test_beside_the_loop_decisions_are_played_from_where_time_has_got_to() -> None:
    robot = Robot(FakeClock())
    loop = lockstep(robot, Plan(steps=4))
    play = loop.play(seed=0)
    loop.close()
    assert play.reason == control.OVER
    # Step 0 plays the decision of step 0; from then on each step plays the second action of the decision of the step
    # before, or the third where the answer is taken a step later.
    np.testing.assert_allclose(robot.commanded[:2], [0.0, 0.1])
    for step, command in enumerate(robot.commanded[2:], start=2):
        decided = int(command)
        assert 1 <= step - decided <= 2
        assert command == pytest.approx(decided + (step - decided) / 10)


def test_a_policy_that_hangs_beside_the_loop_plays_its_chunk_holds_and_is_given_up() -> None:
    robot, release = Robot(FakeClock(), steps=100), threading.Event()

    def hang(seen: int) -> None:
        if seen > 0:
            release.wait(10)

    loop = loop_of(robot, Plan(steps=4, wrong=hang), settings={"asynchronous": True, "patience": 3})
    play = loop.play(seed=0)
    release.set()
    loop.close()
    assert play.reason == control.FAILED
    np.testing.assert_allclose(robot.commanded, [0.0, 0.1, 0.2, 0.3, 0.0, 0.0])
    assert loop.counts["late"] == 3


def test_answers_to_what_was_seen_before_the_handover_are_refused() -> None:
    robot = Robot(FakeClock(), person=(4, 5))
    loop = lockstep(robot, Plan(steps=8))
    loop.play(seed=0)
    loop.close()
    assert loop.counts["refused"] >= 1
    assert int(robot.commanded[7]) >= 6 or robot.commanded[7] == 0.0
    assert all(int(command) >= 6 for command in robot.commanded[8:])


def test_a_stop_ends_the_episode_after_the_step() -> None:
    robot = Robot(FakeClock())
    play = loop_of(robot, Plan(), stop=lambda: robot.index == 3).play(seed=0)
    assert (play.reason, play.steps) == (control.STOPPED, 3)


def test_watching_commands_nothing() -> None:
    robot, policy = Robot(FakeClock()), Plan()
    loop = loop_of(robot, policy, stop=lambda: robot.watched == 6)
    play = loop.watch()
    assert (play.reason, play.steps) == (control.STOPPED, 5)
    assert robot.commanded == []
    assert policy.decisions == 5


def test_a_simulator_cannot_be_watched_but_is_kept_to_the_grid() -> None:
    class Simulator(Robot):
        watch = None  # type: ignore[assignment]
        ages_s = counts = None  # type: ignore[assignment]

    clock = FakeClock()
    robot = Robot(clock, steps=5)
    del robot.ages_s
    robot.step = lambda action: advance_less(robot, clock, action)  # type: ignore[method-assign]
    pacer = Pacer(clock=clock, period_ns=100_000_000, sleep=lambda s: clock.advance(max(s, 1e-6)))
    loop = loop_of(robot, Plan(), pacer=pacer)
    with pytest.raises(InputError, match="is a simulator"):
        loop.watch()
    loop.play(seed=0)
    assert set(loop.timings.columns()["period"] // 1_000_000) == {100}
    assert pacer.missed == 0


def advance_less(robot: Robot, clock: FakeClock, action: Array) -> TimeStep:
    step = Robot.step(robot, action)
    clock.time_ns -= round((PERIOD_S - 0.02) * 1e9)  # a simulator needs 20 ms for its step
    return step


# The parts ------------------------------------------------------------------------------------------------------------
def test_a_schedule_never_plays_what_is_past() -> None:
    schedule = ChunkSchedule()
    chunk = np.arange(4.0)[:, None]
    assert schedule.action(0) is None
    assert schedule.accept(chunk, 2)
    assert [schedule.action(step) for step in (1, 6)] == [None, None]
    assert schedule.action(4) == chunk[2]
    assert not schedule.accept(chunk, 1)  # older than what is played
    schedule.drop(5)
    assert schedule.action(5) is None
    assert not schedule.accept(chunk, 5)
    assert schedule.accept(chunk, 6)
    assert schedule.age(7) == 1


def test_a_pacer_counts_what_it_missed_and_stays_on_its_grid() -> None:
    clock = FakeClock()
    pacer = Pacer(clock=clock, period_ns=100, sleep=lambda s: clock.advance(max(s, 1e-9)))
    pacer.begin()
    assert pacer.wait() == 0
    assert clock.time_ns == 100
    clock.time_ns = 430
    pacer.wait()
    assert (clock.time_ns, pacer.missed) == (500, 3)
    pacer.wait()
    assert (clock.time_ns, pacer.missed) == (600, 3)


def test_steady_freezes_garbage_collection_and_puts_everything_back(
    monkeypatch: pytest.MonkeyPatch, waking: Path
) -> None:
    before = (gc.isenabled(), sys.getswitchinterval(), os.sched_getscheduler(0))
    with steady(None) as problems:
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert problems == []
    assert (gc.isenabled(), sys.getswitchinterval(), os.sched_getscheduler(0)) == before

    def wait() -> None:
        release.wait(10)

    release = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    assert thread.native_id is not None
    Path(f"/proc/self/task/{thread.native_id}/comm").write_text("dds.test")
    asked: list[tuple[int, int, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setscheduler", lambda t, kind, given: asked.append((t, kind, given.sched_priority)))
        with steady(50, ("dds.",)) as problems:
            assert problems == []
    own = threading.get_native_id()
    assert asked[:2] == [(own, os.SCHED_FIFO, 50), (thread.native_id, os.SCHED_FIFO, 51)]
    assert [(t, kind) for t, kind, _ in asked[2:]] == [(own, before[2]), (thread.native_id, before[2])]
    release.set()
    thread.join()

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with steady(50) as problems:
        assert "ulimit -r 50" in problems[0]


def held(path: Path) -> bool:
    """This process has it open."""
    return any(entry.resolve() == path for entry in Path("/proc/self/fd").iterdir())


def test_no_processor_sleeps_while_a_loop_runs_in_real_time(waking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    with steady(None):
        assert not held(waking)
    assert waking.read_bytes() == b"\xff" * 4
    with steady(50) as problems:
        assert problems == []
        assert waking.read_bytes() == bytes(4)  # microseconds
        assert held(waking)  # it counts as long as it is open
    assert not held(waking)
    waking.unlink()
    with steady(50) as problems:
        assert "fall asleep between periods" in problems[0]
        assert "No such file" in problems[0]
    assert not waking.exists()


def test_quantiles_and_histogram_are_those_of_the_values() -> None:
    values = np.arange(1, 1001) * 1_000_000  # 1 to 1000 ms
    found = summarize_times(values)
    assert found is not None
    assert found["p50_ms"] == pytest.approx(500.5)
    assert found["p99_9_ms"] == pytest.approx(np.percentile(np.arange(1, 1001), 99.9))
    assert found["max_ms"] == 1000.0
    assert sum(found["histogram"]["counts"]) == 1000
    assert summarize_times(np.zeros(0)) is None
    zeros = summarize_times(np.zeros(5))
    assert zeros is not None
    assert sum(zeros["histogram"]["counts"]) == 5


def test_more_rows_than_expected_are_kept_and_unknown_values_left_out() -> None:
    timings = Timings(("a", "b"), 2)
    for number in range(5):
        timings.add(number, -1 if number % 2 else number)
    columns = timings.columns()
    assert columns["a"].tolist() == [0, 1, 2, 3, 4]
    assert columns["b"].tolist() == [0, 2, 4]
