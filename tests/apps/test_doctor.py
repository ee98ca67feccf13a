"""`robot-rl doctor` on this machine, and on machines that lack something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robot_rl.apps import doctor, probes
from robot_rl.apps.probes import Finding
from robot_rl.config import DoctorConfig

ROOT = Path(__file__).resolve().parents[2]


def test_a_probe_returns_what_was_printed() -> None:
    assert probes.attempt("print('here')") == (True, "here")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise OSError('libGL.so.1: cannot open shared object file')", "libGL.so.1"),
        ("import nothing_of_that_name", "No module named"),
        ("import os; os.abort()", "crashed with signal 6"),
        ("import sys; sys.exit('too old')", "too old"),
    ],
)
def test_a_failing_probe_says_why(code: str, said: str) -> None:
    works, message = probes.attempt(code)
    assert not works
    assert said in message


def test_a_hanging_probe_is_given_up() -> None:
    assert probes.attempt("import time; time.sleep(60)", limit_s=0.5) == (False, "no answer within 0 s")


def test_every_requirement_of_the_project_is_looked_at() -> None:
    names = {finding.name for finding in probes.packages()}
    if names == {"robot-rl"}:
        pytest.skip("robot-rl is not installed, only on the path")
    assert {"torch", "numpy", "mujoco", "robosuite", "zarr"} <= names
    assert not names & {"rerun-sdk", "ray", "pytest"}  # extras


def test_a_version_out_of_bounds_is_reported_with_the_line_that_installs_another() -> None:
    finding = probes.package("numpy<1.0")
    assert not finding.good
    assert "wanted <1.0" in finding.found
    assert finding.remedy == "pip install 'numpy<1.0'"
    assert probes.package("numpy>=1").good
    assert probes.package("nothing-of-that-name>=2").found == "missing"


def test_renderers_are_really_tried() -> None:
    findings = {finding.name: finding for finding in probes.renderers()}
    assert set(findings) - {"chosen"} == {"MUJOCO_GL=egl", "MUJOCO_GL=osmesa", "MUJOCO_GL=glfw"}
    assert all(finding.good or finding.remedy for finding in findings.values())
    if not any(finding.good for finding in findings.values()):
        assert findings["MUJOCO_GL=egl"].needed


def test_a_renderer_that_the_shell_chooses_in_vain_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(code: str, *, environment: dict[str, str] | None = None, limit_s: float = 60.0) -> tuple[bool, str]:
        return environment is not None and environment["MUJOCO_GL"] == "egl", ""

    monkeypatch.setattr(probes, "attempt", attempt)
    chosen = {}
    for name in ("egl", "osmesa", "nonsense", "off"):
        monkeypatch.setenv("MUJOCO_GL", name)
        chosen[name] = {finding.name: finding for finding in probes.renderers()}.get("chosen")
    assert chosen["off"] is None
    assert chosen["egl"] is not None
    assert chosen["egl"].good
    for name, remedy in (
        ("osmesa", "unset MUJOCO_GL, or apt-get install -y libosmesa6"),
        ("nonsense", "unset MUJOCO_GL"),
    ):
        finding = chosen[name]
        assert finding is not None
        assert (finding.good, finding.needed, finding.remedy) == (False, True, remedy)


def test_ros_twice_is_a_fault() -> None:
    assert probes.ros_kind("kilted", wheels=True).good is False
    assert probes.ros_kind("kilted", wheels=False).good
    assert probes.ros_kind(None, wheels=True).good
    missing = probes.ros_kind(None, wheels=False)
    assert (missing.good, missing.needed) == (False, False)
    assert "[ros2]" in missing.remedy


def test_the_machine_and_its_codecs_are_described() -> None:
    assert [finding.name for finding in probes.machine()][:2] == ["Python", "system"]
    assert {"h264 decoding", "hevc decoding", "av1 decoding", "libx264 encoding"} == {f.name for f in probes.codecs()}


@pytest.mark.parametrize(
    ("finding", "status"),
    [
        (Finding(name="x", found="here", good=True), 0),
        (Finding(name="x", found="no", good=False, needed=False, remedy="install x"), 0),
        (Finding(name="x", found="no", good=False, remedy="install x"), 1),
    ],
)
def test_strict_fails_for_what_is_needed_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finding: Finding, status: int
) -> None:
    monkeypatch.setattr(doctor, "SECTIONS", {"Machine": lambda: [finding]})
    assert doctor.run(DoctorConfig(strict=True)) == status
    assert doctor.run(DoctorConfig(strict=False)) == 0
    assert finding.remedy in capsys.readouterr().out


def test_the_doctor_comes_where_torch_is_broken(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot open shared object file')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    program = [sys.executable, "-m", "robot_rl"]
    done = subprocess.run(
        [*program, "train"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "`robot-rl doctor` says what to do" in done.stderr
    done = subprocess.run(
        [*program, "doctor"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "libtorch.so" in done.stdout
    assert "pip install torch==2.13.0" in done.stdout
