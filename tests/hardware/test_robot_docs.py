"""What docs/robot.md says is so."""

import re
import subprocess
import sys
from pathlib import Path

from robot_rl.hardware.commands import stop_time_s
from robot_rl.hardware.description import Watchdogs, available, load
from robot_rl.hardware.states import TRANSITIONS

PAGE = (Path(__file__).parents[2] / "docs" / "robot.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_table_of_states_is_the_one_of_the_code() -> None:
    code = [[state.value, event.value, after.value] for (state, event), after in TRANSITIONS.items()]
    assert sorted(rows("States")) == sorted(code)


def test_every_watchdog_is_in_the_table_of_ways_of_dying() -> None:
    words = set(re.findall(r"`(\w+)`", PAGE.split("## Ways of dying")[1]))
    named = words | {"answer_age_s"}  # among "old or unknown stamps"
    assert set(Watchdogs.__annotations__) <= named


def test_the_times_to_rest_are_those_of_the_descriptions() -> None:
    for name in available():
        assert f"{stop_time_s(load(name).limits):.2f} s for {name}.yaml" in " ".join(PAGE.split())


def test_the_python_runs() -> None:
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "docs/robot.md", "exec"), {})  # noqa: S102 - our own page


def test_the_governor_is_small_it_needs_neither_torch_nor_a_simulator_nor_ros() -> None:
    code = "import sys, robot_rl.hardware.governor; print({'torch', 'mujoco', 'hydra', 'rclpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
