"""What `robot-rl doctor` finds out about this machine.

Whatever can hang or crash (a driver, a broken wheel) is tried in a process of its own with a time limit.
"""

import ctypes.util
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

RENDERERS = {
    "egl": ("EGL", "apt-get install -y libegl1 libgl1-mesa-dri"),
    "osmesa": ("OSMesa", "apt-get install -y libosmesa6"),
    "glfw": (None, "needs a display (DISPLAY); without one use egl"),
}
"""What MUJOCO_GL can be: the system library behind it, and what installs that on Debian and Ubuntu."""
NO_RENDERER = ("disable", "disabled", "off", "false", "0")
"""What MUJOCO_GL can be, too; frames are then drawn by whichever works."""

RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom type="sphere" size="0.3"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data)
assert renderer.render().std() > 0, "the frame is of one colour"
renderer.close()
"""

CODECS = """
import av
for name, mode in (("h264", "r"), ("hevc", "r"), ("av1", "r"), ("libx264", "w")):
    try:
        av.codec.Codec(name, mode)
        print(name, mode, "works")
    except ValueError:
        print(name, mode, "missing")
"""

TORCH = """
import torch
print(torch.__version__)
print(torch.get_num_threads())
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    free, total = torch.cuda.mem_get_info(index)
    print(f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
"""

IMPORTS = {
    "mujoco": "mujoco",
    "robosuite": "robosuite",
    "dm_control": "dm_control.suite",
    "gymnasium-robotics": "gymnasium_robotics",
    "h5py": "h5py",
    "zarr": "zarr",
}
"""Packages that can be installed and still fail to import, for want of a system library."""

SYSTEM_LIBRARIES = {
    "libGL.so.1": "apt-get install -y libgl1",
    "libEGL.so.1": "apt-get install -y libegl1",
    "libOSMesa.so.8": "apt-get install -y libosmesa6",
    "libglib-2.0.so.0": "apt-get install -y libglib2.0-0",
    "libgthread-2.0.so.0": "apt-get install -y libglib2.0-0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of a table."""

    name: str
    found: str
    good: bool
    needed: bool = True  # a missing one makes `strict=true` fail
    remedy: str = ""  # the line that installs it, or what to do


def attempt(code: str, *, environment: dict[str, str] | None = None, limit_s: float = 60.0) -> tuple[bool, str]:
    """Run Python code in a process of its own.

    Returns:
        whether it ended well, and what it printed; or the last line of its error.
    """
    try:
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {limit_s:.0f} s"
    if process.returncode == 0:
        return True, process.stdout.strip()
    if process.returncode < 0:
        return False, f"crashed with signal {-process.returncode}"
    lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
    errors = [line for line in process.stderr.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return False, errors[0] if errors else (lines or ["no message"])[-1]


def machine() -> list[Finding]:
    """Python, operating system, cores, memory and free disk."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    supported = sys.version_info[:2] in ((3, 11), (3, 12))  # labmaze and numpy < 2 have no wheels for 3.13
    return [
        Finding(
            name="Python",
            found=f"{platform.python_version()} ({sys.executable})",
            good=supported,
            remedy="make a virtual environment with Python 3.11 or 3.12",
        ),
        Finding(name="system", found=platform.platform(), good=platform.system() == "Linux", remedy="use Linux"),
        Finding(name="CPU cores", found=str(cores), good=True),
        Finding(name="memory", found=f"{memory:.1f} GiB", good=memory >= 4, needed=False, remedy="4 GiB or more"),
        Finding(
            name="free disk here", found=f"{free:.1f} GiB", good=free >= 2, needed=False, remedy="free 2 GiB or more"
        ),
    ]


def packages() -> list[Finding]:
    """Every requirement of robot-rl against what is installed."""
    try:
        lines = importlib.metadata.requires("robot-rl") or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install -e '.[dev]'   (in the checkout)"
        return [Finding(name="robot-rl", found="not installed", good=False, remedy=remedy)]
    found = [Finding(name="robot-rl", found=importlib.metadata.version("robot-rl"), good=True)]
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(package(line.partition(";")[0].strip()))
    return found


def package(line: str) -> Finding:
    """A requirement such as `numpy>=1.26,<2` against what is installed."""
    requirement = Requirement(line)
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=requirement.name, found="missing", good=False, remedy=remedy)
    fits = requirement.specifier.contains(version, prereleases=True)
    found = version if fits else f"{version}, wanted {requirement.specifier}"
    return Finding(name=requirement.name, found=found, good=fits, remedy=remedy)


def imports() -> list[Finding]:
    """Whether the packages that lean on system libraries import."""
    findings = []
    for name, module in IMPORTS.items():
        works, message = attempt(f"import {module}", environment={"MUJOCO_GL": "disable"})
        library = next((library for library in SYSTEM_LIBRARIES if library in message), None)
        remedy = SYSTEM_LIBRARIES[library] if library is not None else f"pip install --force-reinstall {name}"
        findings.append(Finding(name=name, found="imports" if works else message, good=works, remedy=remedy))
    return findings


def torch() -> list[Finding]:
    """The build of torch, its threads, and the CUDA devices."""
    works, output = attempt(TORCH)
    if not works:
        return [Finding(name="torch", found=output, good=False, remedy="pip install torch==2.13.0")]
    version, threads, *devices = output.splitlines()
    rows = [
        Finding(name="torch", found=version, good=True),
        Finding(name="threads", found=f"{threads} by default; a run sets its own, threads=1 unless told", good=True),
    ]
    rows += [Finding(name=f"cuda:{index}", found=device, good=True) for index, device in enumerate(devices)]
    if not devices:
        nvidia = shutil.which("nvidia-smi") is not None
        build = "install the CUDA build of torch: pip install --force-reinstall torch==2.13.0"
        remedy = build if nvidia else "no NVIDIA driver here: use device=cpu"
        rows.append(Finding(name="CUDA", found="no device", good=False, needed=False, remedy=remedy))
    return rows


def renderers() -> list[Finding]:
    """Really renders one frame of 64 x 64 with each backend; one of them is needed."""
    tried = {name: attempt(RENDER, environment={"MUJOCO_GL": name, "PYOPENGL_PLATFORM": ""}) for name in RENDERERS}
    any_works = any(works for works, _ in tried.values())
    findings = []
    for name, (works, message) in tried.items():
        library, remedy = RENDERERS[name]
        if library is not None and ctypes.util.find_library(library) is None:
            message = f"the system library lib{library} is missing"
        elif name == "glfw" and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
            message = "no display"
        needed = name == "egl" and not any_works
        found = "renders" if works else message
        findings.append(Finding(name=f"MUJOCO_GL={name}", found=found, good=works, needed=needed, remedy=remedy))
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen not in ("", *NO_RENDERER):
        remedy = "unset MUJOCO_GL" + (f", or {RENDERERS[chosen][1]}" if chosen in RENDERERS else "")
        works = chosen in tried and tried[chosen][0]
        found = f"MUJOCO_GL={chosen} is set" + ("" if works else ", and with it mujoco does not import or render")
        findings.append(Finding(name="chosen", found=found, good=works, remedy=remedy))
    return findings


def codecs() -> list[Finding]:
    """The video decoders and the encoder that reports use."""
    works, output = attempt(CODECS)
    if not works:
        return [Finding(name="PyAV", found=output, good=False, remedy="pip install av")]
    findings = []
    for line in output.splitlines():
        name, mode, state = line.split()
        what = f"{name} {'decoding' if mode == 'r' else 'encoding'}"
        remedy = "pip install --force-reinstall --only-binary av av"
        findings.append(Finding(name=what, found=state, good=state == "works", needed=name != "av1", remedy=remedy))
    return findings


def ros() -> list[Finding]:
    """ROS 2, and whether its Python client imports."""
    wheels = any(d.metadata["Name"].lower().startswith("ros-") for d in importlib.metadata.distributions())
    kind = ros_kind(os.environ.get("ROS_DISTRO"), wheels=wheels)
    if not kind.good and not kind.needed:
        return [kind]
    works, message = attempt("import rclpy; print(rclpy.__file__)")
    remedy = "make the virtual environment with the Python of the sourced distribution"
    return [kind, Finding(name="rclpy", found=message, good=works, needed=False, remedy=remedy)]


def ros_kind(distribution: str | None, *, wheels: bool) -> Finding:
    """Where ROS 2 comes from: a sourced distribution, or the wheels, never both.

    Args:
        distribution: what ROS_DISTRO says.
        wheels: whether packages `ros-...` are installed.
    """
    if distribution is not None and wheels:
        remedy = "pip uninstall -y $(pip freeze | grep -o '^ros-[a-z0-9-]*')   (or start a shell without ROS)"
        return Finding(name="ROS 2", found=f"{distribution} is sourced, and the wheels too", good=False, remedy=remedy)
    if distribution is None and not wheels:
        remedy = "source /opt/ros/DISTRIBUTION/setup.bash, or: pip install -e '.[ros2]'   (in the checkout)"
        return Finding(name="ROS 2", found="not there", good=False, needed=False, remedy=remedy)
    return Finding(name="ROS 2", found="wheels" if wheels else f"{distribution}, sourced", good=True)
