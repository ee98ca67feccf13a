"""The demo's commands are ones that a person could type."""

from pathlib import Path

import pytest

from robot_rl.apps import demo
from robot_rl.apps.cli import main
from robot_rl.apps.compose import compose
from robot_rl.errors import InputError


def test_every_step_of_the_demo_is_a_valid_command(capsys) -> None:
    for _, _, words in demo.steps(Path("runs/demo"), Path("runs/demo/seed_0"), "0"):
        assert main([*words, "--print-config"]) == 0


def test_a_training_that_was_killed_before_its_first_checkpoint_is_gone_on_with(tmp_path) -> None:
    *_, (_, _, first) = demo.steps(tmp_path, tmp_path / "seed_0", "0")
    assert "resume=true" not in first
    (tmp_path / "seed_0").mkdir()
    (tmp_path / "seed_0" / "config.yaml").write_text("seed: 0\n")
    *_, (_, _, again) = demo.steps(tmp_path, tmp_path / "seed_0", "0")
    assert again == [*first, "resume=true"]


def test_the_demonstrations_are_of_the_task_that_is_trained() -> None:
    recorded = compose("evaluate", ["policy=expert", *demo.TASK]).environment
    trained = compose("train", ["experiment=lift"]).environment
    assert recorded == trained


def test_an_unknown_setting_of_the_demo_is_refused() -> None:
    with pytest.raises(InputError, match="seed=N and folder=PATH"):
        demo.main(["sed=1"])
