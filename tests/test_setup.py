"""The set-up of the virtual environment: whose it is."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_environment_of_another_checkout_that_is_still_there_is_left_alone(tmp_path: Path) -> None:
    mine, other, environment = tmp_path / "mine", tmp_path / "other", tmp_path / "environment"
    for checkout in (mine, other):
        checkout.mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, checkout)
    shutil.copytree(ROOT / ".ci", mine / ".ci")
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(sys.executable)
    (environment / "lib").mkdir()
    stamp = environment / "robot_rl.stamp"
    stamp.write_text(f"-\ntorch\n{other}\n")
    done = subprocess.run(
        [mine / ".ci/setup"],
        env={"PATH": "/usr/bin:/bin", "VENV": str(environment), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"belongs to the checkout {other}" in done.stderr
    assert "VENV=FOLDER" in done.stderr
    assert stamp.exists()
    assert (environment / "lib").exists()
