"""The set-up of the virtual environment: whose it is, and that a half made one is made anew."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def set_up(checkout: Path, environment: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Without anything to install from."""
    checkout.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, checkout)
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    return subprocess.run(
        [checkout / ".ci/setup"],
        env={"PATH": "/usr/bin:/bin", "VENV": str(environment), "PYTHON": python, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_environment_of_another_checkout_that_is_still_there_is_left_alone(tmp_path: Path) -> None:
    other, environment = tmp_path / "other", tmp_path / "environment"
    other.mkdir()
    (other / "pyproject.toml").touch()
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(sys.executable)
    stamp = environment / "robot_rl.stamp"
    stamp.write_text(f"-\ntorch\n{other}\n")
    done = set_up(tmp_path / "mine", environment, sys.executable)
    assert done.returncode == 1
    assert f"belongs to the checkout {other}" in done.stderr
    assert "VENV=FOLDER" in done.stderr
    assert stamp.exists()
    assert not (environment / "pyvenv.cfg").exists()


def test_an_environment_that_was_half_made_is_made_anew_instead_of_filling_the_python_it_came_from(
    tmp_path: Path,
) -> None:
    environment, base = tmp_path / "environment", str(Path(sys.base_prefix) / "bin/python3")
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(base)
    done = set_up(tmp_path / "mine", environment, base)
    assert f"Making {environment}" in done.stdout
    assert (environment / "pyvenv.cfg").exists()
    assert done.returncode != 0  # there is nothing to install from
