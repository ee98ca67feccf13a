"""`robot-rl profile`: parts that sum to the whole, remedies for what stands out, and no trace of its own."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robot_rl.apps import cli, evaluate, profile
from robot_rl.apps.compose import compose
from robot_rl.apps.profile_measure import (
    BACKWARD,
    CHECKPOINT,
    ENVIRONMENT,
    LOGGING,
    PYTHON,
    SAMPLING,
    UPDATE,
    PhaseProfile,
    Stopwatch,
)
from robot_rl.config import PhaseConfig
from robot_rl.testing.fakes import OneJointEnvironment

PENDULUM = ["environment=gymnasium_schema", "environment.id=Pendulum-v1", "environment.maximum_steps=20"]
SMALL = ["algorithm=sac", "algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]", "seconds=0.05"]
PHASES = ["+phases.offline={steps:1000,batch_size:8}", "+phases.online={interact:policy,steps:1000,batch_size:8}"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "random.zarr"
    evaluate.run(compose("evaluate", ["policy=random", *PENDULUM, "episodes=3", f"record={path}"]))
    return path


def test_each_phase_is_shown_with_its_parts_and_a_trace(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*PENDULUM, *SMALL, *PHASES, f"+datasets.offline.path={store}", "trace=out/trace.json"]
    assert cli.main(["profile", *words]) == 0
    said = capsys.readouterr().out
    offline, online = said.split("Phase online")
    for text in (offline, online):
        for part in (UPDATE, BACKWARD, "forward of critic", "forward of target critic", "optimisers", "updates/s"):
            assert part in text, part
    assert ENVIRONMENT in online
    assert ENVIRONMENT not in offline
    assert sorted(path.name for path in Path("out").iterdir()) == ["trace_offline.json", "trace_online.json"]
    assert json.loads(Path("out/trace_online.json").read_text())["traceEvents"]
    assert not Path("runs").exists()


def test_a_phase_that_is_not_there_is_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*PENDULUM, *SMALL, *PHASES, f"+datasets.offline.path={store}", "phase=onlin"]
    assert cli.main(["profile", *words]) == 2
    assert "did you mean 'online'?" in capsys.readouterr().err


def test_the_inner_part_is_not_counted_twice() -> None:
    watch = Stopwatch(torch.device("cpu"))

    class Loop:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None:
            torch.ones(200, 200) @ torch.ones(200, 200)

    loop = Loop()
    watch.time(loop, "outer", "outer")
    watch.time(loop, "inner", "inner")
    for _ in range(20):
        loop.outer()
    assert watch.calls == {"outer": 20, "inner": 20}
    assert 0 < watch.seconds["outer"] < watch.seconds["inner"]


def measured(parts: dict[str, float], update_parts: dict[str, float] | None = None) -> PhaseProfile:
    return PhaseProfile(
        name="offline",
        phase=PhaseConfig(steps=1),
        step_s=sum(parts.values()),
        parts=parts,
        update_parts=update_parts or {},
        operators=[],
        update_calls=1.0,
    )


@pytest.mark.parametrize(
    ("parts", "update_parts", "wanted"),
    [
        ({UPDATE: 0.001, SAMPLING: 0.001}, {}, "replay.prefetch_workers=1"),
        ({UPDATE: 0.004, SAMPLING: 0.0001}, {PYTHON: 0.002}, "execution.mode=compiled"),
        ({UPDATE: 0.4, SAMPLING: 0.001}, {}, "device=cuda"),
        ({UPDATE: 0.001, ENVIRONMENT: 0.01}, {}, "The environment takes 91%"),
        ({UPDATE: 0.01, LOGGING: 0.002}, {}, "log_every=1000"),
        ({UPDATE: 0.01, CHECKPOINT: 0.001}, {}, "checkpoint_every_s=600"),
    ],
)
def test_what_stands_out_has_a_remedy(parts: dict[str, float], update_parts: dict[str, float], wanted: str) -> None:
    lines = profile.remedies(measured(parts, update_parts), compose("profile", []), run())
    assert any(wanted in line for line in lines), lines


def test_where_nothing_stands_out_nothing_is_said() -> None:
    assert profile.remedies(measured({UPDATE: 0.01, SAMPLING: 0.001}), compose("profile", []), run()) == []


def run() -> Any:
    """What remedies look at."""
    policy = SimpleNamespace(spec=OneJointEnvironment().spec, device=torch.device("cpu"))
    return SimpleNamespace(policy=policy, prefetch_workers=0)
