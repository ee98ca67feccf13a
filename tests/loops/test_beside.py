"""The learner in a process of its own: the loop waits for it never, and loses nothing, whatever becomes of it.

What has to happen while the learner is stopped or dead is proven by its happening, not by how long it took.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl import checkpoint
from robot_rl.clock import MonotonicClock
from robot_rl.config import LearnerConfig, PhaseConfig
from robot_rl.errors import InputError
from robot_rl.loops.beside import take_in
from robot_rl.loops.experience import STEPS, VERSION, Experience
from robot_rl.loops.phases import run_phases
from robot_rl.loops.pipe import frames
from robot_rl.loops.realtime import steady
from robot_rl.loops.remote import Beside
from robot_rl.loops.run import Run
from robot_rl.testing.fakes import OneJointEnvironment
from robot_rl.types import Episode, TimeStep

HERE = Path(__file__).parent
PHASE = PhaseConfig(interact="policy", steps=60, updates_per_step=2, batch_size=8)
SETTINGS = LearnerConfig(place="process", patience_s=300.0, priority=None)


class ListStore:
    """A store in memory; the folder that stands for it is empty."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.episodes: list[Episode] = []

    def __len__(self) -> int:
        return len(self.episodes)

    def append(self, episode: Episode) -> None:
        self.episodes.append(episode)

    def episode(self, index: int) -> Episode:
        return self.episodes[index]


class Watched(OneJointEnvironment):
    """Tells of each step before it is taken."""

    def __init__(self, before_step: Callable[[int], None]) -> None:
        super().__init__()
        self._before_step, self.taken = before_step, 0

    def step(self, action: Any) -> TimeStep:
        self._before_step(self.taken)
        self.taken += 1
        return super().step(action)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Those that were started; none is left."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def make(build, tmp_path, processes) -> Callable[..., Run]:
    """A run that learns beside its loop; `on_step` is told of each step. Its store survives from run to run."""
    stores: dict[Path, ListStore] = {}

    def start(number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "learner_process.py"), str(number)]
        processes.append(subprocess.Popen(command, pass_fds=[number], start_new_session=True))
        return processes[-1]

    def opened(path: Path) -> ListStore:
        return stores.setdefault(path, ListStore(path))

    def made(
        settings: LearnerConfig = SETTINGS,
        phase: PhaseConfig = PHASE,
        on_step: Callable[[int], None] = lambda _: None,
        **options: Any,
    ) -> Run:
        phases = {"online": phase}
        run = build(tmp_path / "run", phases, **options)
        run.clock = MonotonicClock()
        run.origin = {
            "config": {"phases": {name: asdict(each) for name, each in phases.items()}},
            "spec": OneJointEnvironment().spec.to_json(),
        }
        run.environment = Watched(on_step)
        experience = Experience(tmp_path / "experience", opened)
        run.beside = Beside(settings=settings, start=start, experience={"online": experience})
        if options.get("resume"):
            _, state = checkpoint.load(checkpoint.checkpoints(run.folder / "checkpoints")[-1])
            take_in(run, state["recorded"])
        return run

    return made


def recorded(run: Run) -> list[Episode]:
    experience = run.beside.experience["online"]
    return [experience.episode(index) for index in range(len(experience))]


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def same_agents(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left if name != "generator")


def test_it_makes_the_updates_of_inline_and_the_checkpoint_is_one_of_any_run(make, build, tmp_path) -> None:
    run = make()
    before = checkpoint.pack_agent(run.agent)[0]
    assert run_phases(run)
    assert run.progress.updates == run.agent.updates == 60 * 2
    assert run.progress.owed_updates == 0
    after = checkpoint.pack_agent(run.agent)[0]
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"actor", "critic", "target_critic", "temperature"} <= changed
    inline = build(tmp_path / "run", {"online": PHASE}, resume=True)
    assert same_agents(checkpoint.pack_agent(inline.agent)[0], after)
    assert len(inline.sources["online"]) == 60


def test_the_loop_acts_with_weights_that_are_exchanged_between_steps_counted_and_recorded(make) -> None:
    seen: list[tuple[int, float]] = []
    run = make(phase=replace(PHASE, steps=200), on_step=lambda _: wait_for_news(run, seen))
    run.stop_requested = lambda: len({updates for updates, _ in seen}) >= 4  # weights came three times
    assert not run_phases(run)
    weights = dict(seen)
    assert all(weights[updates] == weight for updates, weight in seen)  # one set of weights for each count
    assert len(set(weights.values())) >= 3
    versions = np.concatenate([episode.extras[VERSION] for episode in recorded(run)])
    assert (np.diff(versions) >= 0).all()
    assert versions[-1] >= 3
    assert sum(map(len, recorded(run))) == run.progress.phase_step == len(versions)
    assert run.progress.updates + 2 * run.progress.owed_updates == 2 * run.progress.phase_step
    assert events(run, "episode")[-1]["metrics"]["weights_version"] == versions[-1]
    assert any(line["metrics"].get("learner/version", 0) > 0 for line in events(run, "train"))


def wait_for_news(run: Run, seen: list[tuple[int, float]]) -> None:
    """An environment whose step takes as long as the learner needs, so that a short test sees new weights."""
    seen.append((run.agent.updates, float(sum(each.sum() for each in run.agent.actor.state_dict().values()))))
    time.sleep(0.02)


def test_a_learner_that_stands_still_does_not_keep_the_loop_from_acting(make, processes) -> None:
    def on_step(number: int) -> None:
        if number == 20:
            os.kill(processes[0].pid, signal.SIGSTOP)
        elif number == 59:  # 38 steps were taken meanwhile: so nothing waited for it
            os.kill(processes[0].pid, signal.SIGCONT)

    run = make(on_step=on_step)
    assert run_phases(run)
    assert run.progress.updates == 120


@pytest.mark.parametrize(("how", "when_lost"), [("kill", "stop"), ("kill", "act"), ("hang", "stop"), ("hang", "act")])
def test_a_learner_that_dies_or_hangs_is_told_and_the_run_goes_on_with_all_its_data(
    make, processes, how, when_lost
) -> None:
    said: list[str] = []

    def on_step(number: int) -> None:
        if number == 25 and how == "kill":
            processes[0].kill()
            processes[0].wait()
        elif number == 25:
            os.kill(processes[0].pid, signal.SIGSTOP)
            time.sleep(1.5 * patience_s)

    patience_s = 4.0 if how == "hang" else 300.0
    run = make(replace(SETTINGS, when_lost=when_lost, patience_s=patience_s), on_step=on_step)
    run.display.say = said.append
    assert not run_phases(run)
    assert run.problem is not None
    assert any(f"learner.when_lost={when_lost}" in text for text in said)
    assert processes[0].poll() == -signal.SIGKILL  # a hanging one does not wake up
    steps = run.progress.phase_step
    assert steps == (26 if when_lost == "stop" else 60)
    assert sum(map(len, recorded(run))) == steps
    assert run.progress.updates + 2 * run.progress.owed_updates == 2 * steps
    assert len(events(run, "learner_lost")) == 1
    if how == "hang":
        return  # from here on as above
    again = make(resume=True)
    assert run_phases(again)
    assert again.progress.environment_steps == sum(map(len, recorded(again))) == 60
    assert again.progress.updates == 120


def test_a_loop_that_dies_loses_no_step_and_its_learner_ends(make, processes) -> None:
    def on_step(number: int) -> None:
        if number == 33:
            raise KeyboardInterrupt  # the second Ctrl-C, which nothing handles

    run = make(phase=replace(PHASE, steps=60), on_step=on_step)
    run.save()
    with pytest.raises(KeyboardInterrupt):
        run_phases(run)
    assert processes[0].poll() is not None
    assert sum(map(len, recorded(run))) == 20  # the first episode
    left = frames((run.beside.experience["online"]._folder / STEPS).read_bytes())
    assert len(left) == 1 + 13
    again = make(resume=True)
    assert again.progress.phase_step == 33
    assert again.progress.owed_updates == 33
    assert [len(episode) for episode in recorded(again)] == [20, 13]
    assert recorded(again)[1].truncated[-1]
    assert recorded(again)[1].metadata["recovered"]
    kept, whole = again.sources["online"], run.sources["online"]
    assert len(kept) == 33
    rows = torch.arange(20)
    assert torch.equal(kept.gather(rows).action, whole.gather(rows).action)
    assert run_phases(again)
    assert again.progress.updates == 120


WRITER = """
import sys
from pathlib import Path
import numpy as np
from test_beside import ListStore
from robot_rl.loops.experience import Experience
from robot_rl.types import TimeStep
experience = Experience(Path(sys.argv[1]), ListStore)
experience.begin({"state": np.zeros(2, np.float32)}, {"seed": 1})
for number in range(10**6):
    step = TimeStep(observation={"state": np.full(2, number, np.float32)}, reward=-0.5, action=np.array([0.1]),
                    success=False, intervened=number % 3 == 0)
    experience.add(step, number // 7)
    print(number, flush=True)
"""


def test_a_killed_process_loses_no_step_that_was_taken(tmp_path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=HERE
    )
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(50)]
    writer.kill()
    told += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    writer.stdout.close()
    writer.wait()
    with (tmp_path / STEPS).open("ab") as file:
        file.write(b"\0\0\0\0\0\0\1\0half a message")  # killed in the middle of a write
    found = Experience(tmp_path, ListStore)
    assert found.recovered >= len(told) >= 50
    episode = found.episode(0)
    assert episode.observation["state"][1:, 0].tolist() == list(range(len(episode)))
    assert episode.intervened is not None
    assert episode.intervened.tolist() == [number % 3 == 0 for number in range(len(episode))]
    assert episode.extras[VERSION].tolist() == [number // 7 for number in range(len(episode))]
    assert episode.truncated.tolist() == [False] * (len(episode) - 1) + [True]


def test_an_episode_that_was_committed_before_its_file_was_emptied_is_not_taken_twice(tmp_path) -> None:
    stores: dict[Path, ListStore] = {}
    first = Experience(tmp_path, lambda path: stores.setdefault(path, ListStore(path)))
    first.begin({"state": np.zeros(2, np.float32)}, {})
    first.add(TimeStep(observation={"state": np.ones(2, np.float32)}, action=np.zeros(1)), 0)
    content = (tmp_path / STEPS).read_bytes()
    first.end()
    assert (tmp_path / STEPS).read_bytes() == b""
    (tmp_path / STEPS).write_bytes(content)
    again = Experience(tmp_path, lambda path: stores.setdefault(path, ListStore(path)))
    assert (again.recovered, len(again)) == (0, 1)


def test_what_a_person_did_is_what_is_learned_from_and_is_labelled(make) -> None:
    class Taken(OneJointEnvironment):
        def step(self, action: Any) -> TimeStep:
            person = self._steps in (4, 5)
            step = super().step(np.array([0.5]) if person else action)
            return replace(step, intervened=person)

    run = make(phase=replace(PHASE, updates_per_step=0, steps=40))
    run.environment = Taken()
    assert run_phases(run)
    for episode in recorded(run):
        assert episode.intervened is not None
        assert np.flatnonzero(episode.intervened).tolist() == [4, 5]
        assert np.allclose(episode.action[[4, 5]], 0.5)
    online = run.sources["online"]
    assert torch.allclose(online.gather(torch.tensor([4, 5])).action, torch.tensor(0.5 / 2.0))
    assert [line["metrics"]["intervened"] for line in events(run, "episode")] == [2.0, 2.0]


def test_threads_that_share_the_loops_interpreter_come_right_behind_it(
    ranks: tuple[int, dict[int, list[int]]],
) -> None:
    thread, asked = ranks
    with steady(50, others_follow=True) as problems:
        assert problems == []
        assert asked[threading.get_native_id()] == [50]
        assert asked[thread] == [49]
    assert asked[thread][1:] == [0]  # as it was


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"place": "thread"}, "did you mean|Choices"),
        ({"when_lost": "restart"}, "learner.when_lost"),
        ({"patience_s": 0.0}, "learner.patience_s"),
        ({"weights_every": 0}, "learner.weights_every"),
        ({"priority": 99}, "learner.priority"),
        ({"nice": -5}, "learner.nice"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LearnerConfig(**settings)
