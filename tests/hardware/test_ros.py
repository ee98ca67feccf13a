"""Which ROS 2 is used, and that two are never mixed. Needs none."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from robot_rl.errors import InputError
from robot_rl.hardware.ros import BOOTSTRAPPED, PROFILE, environment, find, without

TAG = f"cpython-{sys.version_info.major}{sys.version_info.minor}-x86_64-linux-gnu"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A prefix with the wheels; its site-packages is `site`."""
    for name in ("ros_wheels_bootstrapper", "ros_rclpy.libs", "ros_fastdds.libs", "numpy.libs"):
        (tmp_path / "site" / name).mkdir(parents=True)
    return tmp_path


def sourced(folder: Path, tag: str = TAG) -> dict[str, str]:
    """The variables of a sourced distribution."""
    (folder / "python" / "rclpy").mkdir(parents=True)
    (folder / "python" / "rclpy" / f"_rclpy_pybind11.{tag}.so").touch()
    return {"AMENT_PREFIX_PATH": str(folder), "PYTHONPATH": f"/nowhere:{folder / 'python'}"}


def test_the_wheels_are_found_and_their_libraries_always_in_the_same_order(wheels: Path) -> None:
    found = environment({"LD_LIBRARY_PATH": "/other::"}, domain_id=7, prefix=wheels, site=wheels / "site")
    site = wheels / "site"
    assert found["LD_LIBRARY_PATH"] == f"{wheels / 'lib'}:{site / 'ros_fastdds.libs'}:{site / 'ros_rclpy.libs'}:/other"
    assert found[BOOTSTRAPPED] == "1"
    assert found["ROS_DOMAIN_ID"] == "7"
    again = environment(found, domain_id=7, prefix=wheels, site=site)
    assert again == found


def test_children_that_are_not_ours_get_none_of_it(wheels: Path) -> None:
    before = {"LD_LIBRARY_PATH": "/other", "HOME": "/x"}
    for given in (before, {"HOME": "/x"}):
        found = environment(given, domain_id=7, prefix=wheels, site=wheels / "site", profile=None)
        back = without(found, prefix=wheels, site=wheels / "site")
        assert back == given | {"ROS_DOMAIN_ID": "7"}


def test_a_sourced_distribution_is_used_as_it_is(tmp_path: Path) -> None:
    variables = sourced(tmp_path) | {"LD_LIBRARY_PATH": "/opt/ros/kilted/lib"}
    assert find(variables, tmp_path) == "sourced"
    found = environment(variables, domain_id=0, prefix=tmp_path, site=tmp_path)
    assert found["LD_LIBRARY_PATH"] == "/opt/ros/kilted/lib"
    assert BOOTSTRAPPED not in found
    assert found["FASTDDS_DEFAULT_PROFILES_FILE"] == str(PROFILE)


def test_both_at_once_are_refused(wheels: Path) -> None:
    with pytest.raises(InputError, match="must not mix"):
        find(sourced(wheels / "distribution"), wheels / "site")
    (wheels / "other").mkdir()
    (wheels / "other" / "librcl.so").touch()
    with pytest.raises(InputError, match="LD_LIBRARY_PATH holds another ROS 2"):
        environment({"LD_LIBRARY_PATH": str(wheels / "other")}, domain_id=0, prefix=wheels, site=wheels / "site")


def test_none_at_all_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no ROS 2: source a ROS 2 .*pip install 'robot-rl\[ros2\]'"):
        find({}, tmp_path)
    with pytest.raises(InputError, match="PYTHONPATH leads to no rclpy"):
        find({"AMENT_PREFIX_PATH": "/opt/ros/kilted"}, tmp_path)


def test_a_distribution_for_another_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for another Python than this one"):
        find(sourced(tmp_path, "cpython-38-x86_64-linux-gnu"), tmp_path)


@pytest.mark.parametrize("domain_id", [-1, 102])
def test_a_domain_without_ports_is_refused(wheels: Path, domain_id: int) -> None:
    with pytest.raises(InputError, match="must lie in"):
        environment({}, domain_id=domain_id, prefix=wheels, site=wheels / "site")


def test_the_transport_is_this_machine_alone() -> None:
    tree = ElementTree.parse(PROFILE)
    addresses = [element.text for element in tree.iter("{http://www.eprosima.com}address")]
    assert addresses == ["127.0.0.1"]
    assert [x.text for x in tree.iter("{http://www.eprosima.com}useBuiltinTransports")] == ["false"]


def test_rclpy_imports_in_one_start_where_the_wheels_are() -> None:
    try:
        variables = environment(os.environ, domain_id=1)
    except InputError as error:
        pytest.skip(str(error))
    code = "import sys, rclpy; rclpy.init(); rclpy.shutdown(); print(rclpy.get_rmw_implementation_identifier())"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["rmw_fastrtps_cpp"]


def test_a_node_by_hand_needs_a_name_that_there_is_and_a_domain_that_is_a_number() -> None:
    wrong = ((["governer", "panda"], "0", "NODE is one of governor"), (["governor"], "x", "no number"))
    for words, domain, said in wrong:
        done = subprocess.run(
            [sys.executable, "-m", "robot_rl.hardware.ros", *words],
            env=os.environ | {"ROS_DOMAIN_ID": domain},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert said in done.stderr
