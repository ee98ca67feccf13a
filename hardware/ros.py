"""Finds ROS 2 and starts processes that use it. Imports nothing of ROS itself.

    python -m robot_rl.hardware.ros NODE ROBOT [...]

becomes one of our nodes, `governor`, `operator`, `mujoco_arm` or `joint_robot`, in the domain of ROS_DOMAIN_ID, with
the transport of this machine alone.

There are two ways to have rclpy, and they must never mix, since their libraries have the same names and different
insides: a sourced distribution, or the wheels of the extra `ros2`. The wheels find their libraries by starting Python
twice, with a search path in random order; `environment` writes that path itself, so that nothing has to be started
twice and the order is always the same.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from robot_rl.errors import InputError

PROFILE = Path(__file__).resolve().with_name("fastdds_loopback.xml")
BOOTSTRAPPED = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"  # tells the wheels not to start Python again
REMEDY = (
    "source a ROS 2 distribution (`source /opt/ros/DISTRIBUTION/setup.bash`) and use a virtual environment made with "
    "its Python and --system-site-packages, or install the wheels: pip install 'robot-rl[ros2]' (Linux x86-64)"
)


def _has_wheels(site: Path) -> bool:
    return (site / "ros_wheels_bootstrapper").is_dir()


def find(environ: Mapping[str, str], site: Path) -> str:
    """Which ROS 2 a process with these would use: `sourced` or `wheels`.

    Args:
        environ: environment variables.
        site: the site-packages of its Python.

    Raises:
        InputError: there is none, there are both, or the sourced one is for another Python.
    """
    sourced = bool(environ.get("AMENT_PREFIX_PATH"))
    if sourced and _has_wheels(site):
        raise InputError(
            f"a ROS 2 distribution is sourced (AMENT_PREFIX_PATH={environ['AMENT_PREFIX_PATH']}) and its wheels are "
            f"installed in {site} too. They must not mix: open a shell that sources nothing, or use an environment "
            "without the wheels"
        )
    if _has_wheels(site):
        return "wheels"
    if not sourced:
        raise InputError(f"there is no ROS 2: {REMEDY}")
    version = f"cpython-{sys.version_info.major}{sys.version_info.minor}-"
    built: list[str] = []
    for entry in environ.get("PYTHONPATH", "").split(os.pathsep):
        built += [path.name for path in Path(entry).glob("rclpy/_rclpy_pybind11.*.so")] if entry else []
    if not built:
        raise InputError(f"ROS 2 is sourced, but PYTHONPATH leads to no rclpy: {REMEDY}")
    if not any(version in name for name in built):
        raise InputError(
            f"the rclpy of the sourced ROS 2 is {built[0]}, for another Python than this one "
            f"({sys.version_info.major}.{sys.version_info.minor}): {REMEDY}"
        )
    return "sourced"


def environment(
    environ: Mapping[str, str],
    *,
    domain_id: int,
    prefix: Path | None = None,
    site: Path | None = None,
    profile: Path | None = PROFILE,
) -> dict[str, str]:
    """The environment variables of a process that uses ROS 2.

    Args:
        environ: those of this process.
        domain_id: of DDS, 0 to 101; processes of other domains do not see each other.
        prefix: of the Python that has the wheels; this one's by default.
        site: its site-packages; this one's by default.
        profile: transports of Fast DDS, by default this machine alone; None leaves what `environ` says.

    Raises:
        InputError: as in `find`; or the domain or the library path is not one to use.
    """
    prefix = Path(sys.prefix) if prefix is None else prefix
    site = Path(sysconfig.get_paths()["platlib"]) if site is None else site
    if not 0 <= domain_id <= 101:
        raise InputError(f"domain_id={domain_id} must lie in [0, 101], where DDS has ports on Linux")
    found = dict(environ)
    if find(environ, site) == "wheels":
        ours = [str(path) for path in _libraries(prefix, site)]
        others = [entry for entry in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
        for entry in others:
            if entry not in ours and (Path(entry) / "librcl.so").exists():
                raise InputError(
                    f"LD_LIBRARY_PATH holds another ROS 2, {entry}, beside the wheels in {site}: unset it, they must "
                    "not mix"
                )
        found["LD_LIBRARY_PATH"] = os.pathsep.join(ours + [entry for entry in others if entry not in ours])
        found[BOOTSTRAPPED] = "1"
    found["ROS_DOMAIN_ID"] = str(domain_id)
    if profile is not None:
        found["RMW_IMPLEMENTATION"] = "rmw_fastrtps_cpp"  # whose profile it is
        found["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"  # any other would overrule the profile
        found["FASTDDS_DEFAULT_PROFILES_FILE"] = str(profile)
    return found


def adopt(environ: MutableMapping[str, str], *, domain_id: int, profile: Path | None = PROFILE) -> None:
    """Make this process one that uses ROS 2, before its first `rclpy.init`.

    Args:
        environ: `os.environ`, which is changed.
        domain_id: as in `environment`.
        profile: as in `environment`.

    Raises:
        InputError: as in `environment`; or the libraries of the wheels are not where this process looks for them, which
            it decided when it started.
    """
    found = environment(environ, domain_id=domain_id, profile=profile)
    if find(environ, Path(sysconfig.get_paths()["platlib"])) == "wheels" and BOOTSTRAPPED not in environ:
        raise InputError(
            "this Python started without the libraries of the ROS 2 wheels (as with `python -S`): start it without "
            "such options"
        )
    environ.update(found)


def without(environ: Mapping[str, str], *, prefix: Path | None = None, site: Path | None = None) -> dict[str, str]:
    """`environment` undone, for children that are not ours: a wheel's libraries are not for them."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    site = Path(sysconfig.get_paths()["platlib"]) if site is None else site
    ours = {str(path) for path in _libraries(prefix, site)}
    found = {key: value for key, value in environ.items() if key != BOOTSTRAPPED}
    if "LD_LIBRARY_PATH" in found:
        kept = [x for x in found["LD_LIBRARY_PATH"].split(os.pathsep) if x and x not in ours]
        found["LD_LIBRARY_PATH"] = os.pathsep.join(kept)
        if not kept:
            del found["LD_LIBRARY_PATH"]
    return found


def start(
    module: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    domain_id: int,
    own_session: bool = False,
    profile: Path | None = PROFILE,
) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments` with ROS 2.

    Args:
        module: whose `__main__` part runs.
        arguments: its command line.
        environ: as in `environment`.
        domain_id: as in `environment`.
        own_session: Ctrl-C in the terminal does not reach it.
        profile: as in `environment`.

    Raises:
        InputError: as in `environment`.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environment(environ, domain_id=domain_id, profile=profile),
        start_new_session=own_session,
    )


def _libraries(prefix: Path, site: Path) -> list[Path]:
    """Where the wheels have their libraries, always in the same order."""
    return [prefix / "lib", *sorted(site.glob("ros_*.libs"))]


NODES = ("governor", "operator", "recorder", "mujoco_arm", "joint_robot")


def main(arguments: Sequence[str]) -> int:
    """Become a node; returns only where that is not possible."""
    if not arguments or arguments[0] not in NODES:
        sys.stderr.write(f"python -m robot_rl.hardware.ros NODE ROBOT [...]: NODE is one of {', '.join(NODES)}\n")
        return 2
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    try:
        if not domain.isdigit():
            raise InputError(f"ROS_DOMAIN_ID={domain} is no number")
        variables = environment(os.environ, domain_id=int(domain))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    module = f"robot_rl.hardware.{arguments[0]}_node"
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments[1:]], variables)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
