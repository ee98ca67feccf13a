"""Each rule answers where it should, and what is printed can be run."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot_rl.apps.advise import command_lines, without_images
from robot_rl.apps.advise_rules import QUESTIONS, Choice, recommend, weighting
from robot_rl.apps.cli import main
from robot_rl.apps.compose import compose
from robot_rl.config import TrainConfig
from robot_rl.datasets.measures import Measures, Spread
from robot_rl.datasets.store import EpisodeStore
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode


def measures_of(**changes: object) -> Measures:
    """A large set of sparse demonstrations, most of which succeed."""
    plain = Measures(
        episodes=200,
        steps=40_000,
        horizon=Spread.of([200.0]),
        duration_s=2000.0,
        reward="sparse",
        returns=Spread.of([0.0] * 40 + [1.0] * 160),
        discounted_returns=Spread.of([0.5]),
        trajectory_quality=None,
        best_quality=None,
        positive_sided_variance=0.032,
        positive_sided_variance_scaled=0.032,
        known_success=200,
        success_share=0.8,
        steps_after_success=None,
        terminated_share=0.8,
        missing_final_share=0.0,
        intervened_share=0.0,
        instructions=1,
        images=(),
        state_channels=20,
        distinct_pairs=40_000,
        state_action_coverage=1.0,
        cell_coverage=0.4,
        action_channels=7,
        action_coverage=0.8,
        action_saturation=0.1,
        outside_bounds=0.0,
        action_roughness=0.1,
        action_disagreement=0.2,
        velocities="measured",
        motion_explained=0.9,
        motion_explained_with_history=0.91,
        episode_returns=(0.0,) * 40 + (1.0,) * 160,
        episode_steps=(200,) * 200,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # the fields are named where they are used


def choice(question: str, **changes: object) -> Choice:
    return next(found for found in recommend(measures_of(**changes)) if found.question == question)


UNKNOWN = {"known_success": 0, "success_share": None}


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"action_channels": 0}, "nothing can be trained yet"),
        ({"reward": "absent", **UNKNOWN}, "imitation"),
        ({"reward": "constant", **UNKNOWN}, "imitation"),
        ({"action_roughness": 1.0, "action_disagreement": 1.0}, "random data: learn online from a mixture with it"),
        (
            {"steps": 6729, "velocities": "missing", "reward": "dense", "success_share": 0.28},  # the door
            "imitation, then online learning that keeps the demonstrations",
        ),
        ({"success_share": 0.02}, "weak data: learn online from a mixture with it"),
        ({"steps": 758, "velocities": "missing", "success_share": 1.0}, "conservative offline RL with a cloning term"),
        ({"success_share": 0.99}, "imitation first, and conservative offline RL to go beyond it"),
        ({"trajectory_quality": 0.97}, "imitation first, and conservative offline RL to go beyond it"),
        ({}, "conservative offline RL (Cal-QL, as WSRL pre-trains)"),
        ({"reward": "dense"}, "offline RL held to the data by cloning (ReBRAC)"),
        ({"reward": "dense", **UNKNOWN}, "unknown: train ReBRAC and bc, and compare"),
        ({"reward": "dense", **UNKNOWN, "trajectory_quality": 0.4}, "offline RL held to the data by cloning (ReBRAC)"),
    ],
)
def test_the_method_follows_from_quality_reward_and_size(changes: dict[str, object], answer: str) -> None:
    assert choice("offline", **changes).answer == answer


def test_what_happens_to_the_data_online() -> None:
    assert choice("data online").answer.startswith("drop the data")
    assert choice("data online", success_share=0.28).answer == "keep half of each batch"
    assert choice("data online", **UNKNOWN).answer.startswith("unknown until")
    assert choice("data online", reward="absent", **UNKNOWN).answer == "none, before success is labelled"
    assert "below the data's mean of 0.8" in choice("switch").because


def test_weighting_needs_a_gain_and_enough_episodes() -> None:
    gain, effective = weighting(measures_of())
    assert gain == pytest.approx(0.2, abs=1e-3)  # from a mean of 0.8 to nearly 1
    assert effective == pytest.approx(160, rel=0.01)
    assert choice("sampling").answer == "weight episodes by return"
    lucky = measures_of(episode_returns=(0.0,) * 198 + (1.0,) * 2)
    assert next(c for c in recommend(lucky) if c.question == "sampling").answer == "uniform"  # two episodes are left
    even = Spread.of([1.0])
    assert "nothing to weight by" in choice("sampling", returns=even, episode_returns=(1.0,) * 200).because


def test_policy_velocities_and_settings() -> None:
    assert choice("policy").answer == "single actions of a Gaussian"
    assert "flow (fql)" in choice("policy", action_disagreement=0.6).answer
    assert "that is noise" in choice("policy", action_disagreement=0.6, action_roughness=0.5).because
    assert choice("policy", action_disagreement=None).answer == "unknown"
    assert choice("velocities", velocities="missing").answer.startswith("add velocities")
    assert choice("velocities", velocities="unknown").answer == "unknown"
    assert choice("ends", steps_after_success=50.0).settings == ("+datasets.offline.cut_at_success=first",)
    assert choice("bounds", outside_bounds=0.05).settings == ("+datasets.offline.out_of_range=clip",)
    questions = [found.question for found in recommend(measures_of())]
    assert "ends" not in questions
    assert "bounds" not in questions


def test_every_rule_has_a_reason_with_numbers_and_a_source() -> None:
    settings = measures_of(outside_bounds=0.1, steps_after_success=3.0)
    for rules in QUESTIONS.values():
        for rule in rules:
            assert len(rule.because(settings)) > 10
            assert rule.source


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"success_share": 0.99},
        {"success_share": 0.02},
        {"reward": "dense", "outside_bounds": 0.1, "steps_after_success": 9.0},
        {"reward": "absent", **UNKNOWN},
        {"steps": 758, "velocities": "missing", "success_share": 1.0},
    ],
)
def test_the_commands_can_be_composed(changes: dict[str, object], tmp_path: Path) -> None:
    offline, online = command_lines(recommend(measures_of(**changes)), tmp_path / "a store.zarr")
    assert offline is not None or online is not None
    for line in filter(None, (offline, online)):
        words = shlex.split(line.replace("environment=NAME", "environment=lift"))
        assert words[:2] == ["robot-rl", "train"]
        config = compose("train", words[2:], None)
        assert isinstance(config, TrainConfig)
        assert config.datasets["offline"].path == str(tmp_path / "a store.zarr")
        assert set(config.phases) <= {"offline", "warmup", "online"}


def make_store(path: Path) -> None:
    rng = np.random.default_rng(0)
    spec = Spec(
        observation={"state": ArraySpec(shape=(3,), dtype="float64")},
        action=ArraySpec(shape=(2,), dtype="float64", low=np.full(2, -1.0), high=np.full(2, 1.0)),
    )
    store = EpisodeStore.create(path, spec, provenance={})
    for _ in range(5):
        end = np.arange(30) == 29
        store.append(
            Episode(
                observation={"state": rng.normal(size=(31, 3))},
                action=rng.uniform(-1, 1, (30, 2)),
                reward=end.astype(float),
                terminated=end,
                truncated=np.zeros(30, bool),
                success=end,
            )
        )
    store.finish()


def test_the_command_prints_choices_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, output = tmp_path / "s.zarr", tmp_path / "advice.json"
    make_store(store)
    assert main(["advise", str(store), "environment_return=[0,1]", f"output={output}"]) == 0
    printed = capsys.readouterr().out
    assert "trajectory quality (TQ)" in printed
    assert "What fits" in printed
    assert "robot-rl train" in printed
    report = json.loads(output.read_text())
    assert report["measures"]["trajectory_quality"] == 1.0
    assert {item["question"] for item in report["choices"]} >= {"offline", "data online", "sampling", "velocities"}
    assert set(report["commands"]) == {"prepare", "offline", "online"}
    assert report["commands"]["prepare"] is None  # it has no images


def test_wrong_settings_say_what_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "s.zarr"
    make_store(store)
    assert main(["advise", str(store), "environment_return=[1,0]"]) == 2
    assert "the lower of a random policy first" in capsys.readouterr().err
    assert main(["advise", str(tmp_path / "no.zarr")]) == 2
    assert main(["advise", str(store), f"output={tmp_path / 'no' / 'a.json'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_store_with_images_is_trained_on_without_them() -> None:
    line, numbers = without_images(("camera/color", "wrist"), Path("data/arm.zarr"))
    assert line == "robot-rl edit filter data/arm.zarr 'exclude=[camera/color,wrist]' output=data/arm_numbers.zarr"
    assert numbers == Path("data/arm_numbers.zarr")
    assert without_images((), Path("arm.zarr")) == (None, Path("arm.zarr"))
