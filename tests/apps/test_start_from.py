"""A run that begins with the agent of another one, and with what that one collected."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl import checkpoint
from robot_rl.apps import train
from robot_rl.apps.compose import compose
from robot_rl.errors import InputError

CHEETAH = ["environment=half_cheetah", "environment.maximum_steps=20", "algorithm=sac"]
SMALL = ["algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]", "normalize_observations=false"]
QUIET = ["evaluation.episodes=1", "evaluation.final_episodes=1", "evaluation.videos=0"]
BOTH = "shares: {robot: 0.5, online: 0.5}"


def run(folder: Path, *words: str) -> int:
    return train.run(compose("train", [*CHEETAH, *SMALL, *QUIET, f"output={folder}", *words]))


def last(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    return checkpoint.load(checkpoint.checkpoints(folder / "checkpoints")[-1])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "simulated"
    assert run(folder, "+phases.online={steps: 40, interact: policy, batch_size: 8}") == 0
    return folder


def test_it_begins_with_the_agent_and_with_what_was_collected(tmp_path, simulated) -> None:
    words = [f"start_from={simulated}", "evaluation.proxy=std_B", "+phases.offline={steps: 0, shares: {online: 1.0}}"]
    assert run(tmp_path / "run", *words) == 0
    before, after = last(simulated)[0], last(tmp_path / "run")[0]
    kept = [name for name in before if name.startswith(("agent.actor", "agent.critic", "replay."))]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(each["event"], each["environment_steps"]) for each in events if each["event"] == "evaluation"] == [
        ("evaluation", 0)
    ]


def test_it_goes_on_after_an_interruption_with_the_same_numbers(tmp_path, simulated, monkeypatch) -> None:
    words = [f"start_from={simulated}", "evaluation.gap.action_delay_s=0.02"]
    words += [f"+phases.robot={{steps: 60, interact: policy, robot: true, batch_size: 8, {BOTH}}}"]
    assert run(tmp_path / "whole", *words) == 0
    phases = train.run_phases

    def stopped(this):
        this.stop_requested = lambda: this.progress.phase_step >= 20
        return phases(this)

    with monkeypatch.context() as patch:
        patch.setattr(train, "run_phases", stopped)
        assert run(tmp_path / "parts", *words) == 130
    assert run(tmp_path / "parts", *words, "resume=true") == 0
    whole, parts = last(tmp_path / "whole")[0], last(tmp_path / "parts")[0]
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    facts = json.loads((tmp_path / "whole" / "run.json").read_text())["environments"]
    assert facts["robot"]["gap"]["values"] == {"action_delay_s": 0.02}


def test_what_was_recorded_before_the_first_checkpoint_comes_behind_what_was_collected(
    tmp_path, simulated, monkeypatch
) -> None:
    words = [f"start_from={simulated}", "learner.place=process", "resume=true"]
    words += ["+phases.online={steps: 40, interact: policy, batch_size: 8}"]
    held: list[int] = []

    def dies(this):
        step, experience = this.environment.reset(seed=0), this.beside.experience["online"]
        experience.begin(step.observation, {})
        experience.add(this.environment.step(np.zeros(6)), 0)
        raise KeyboardInterrupt

    def counted(this):
        held.append(len(this.sources["online"]))
        return True

    for phases in (dies, counted):
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(train, "run_phases", phases)
            run(tmp_path / "run", *words)
    assert held == [40 + 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algorithm.actor_hidden=[9]"], r"is of another agent: algorithm\.actor_hidden: \[8\] there, \[9\] here"),
        (["algorithm.critic_count=3"], r"algorithm\.critic_count: 2 there, 3 here"),
        (["environment.id=Hopper-v5"], "observation 'state' has shape"),
        (["start_from=nowhere"], "start_from=nowhere has no checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, simulated, words, message) -> None:
    phase = "+phases.online={steps: 10, interact: policy, batch_size: 8}"
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", phase, f"start_from={simulated}", *words)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_that_is_not_finished_is_refused(tmp_path, monkeypatch) -> None:
    phase = "+phases.online={steps: 60, interact: policy, batch_size: 8}"
    phases = train.run_phases

    def stopped(this):
        this.stop_requested = lambda: this.progress.phase_step >= 20
        return phases(this)

    with monkeypatch.context() as patch:
        patch.setattr(train, "run_phases", stopped)
        assert run(tmp_path / "first", phase) == 130
    with pytest.raises(InputError, match="is not finished"):
        run(tmp_path / "second", phase, f"start_from={tmp_path / 'first'}")
