"""Robot descriptions: the ones we ship load, and every mistake is answered with file, key and remedy."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from robot_rl.errors import InputError
from robot_rl.hardware.description import available, load


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Writes panda.yaml with one thing changed."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        data = yaml.safe_load((Path(__file__).parents[2] / "configs/robot/panda.yaml").read_text())
        change(data)
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


def test_three_robots_and_a_simulated_one_are_described() -> None:
    assert available() == ["panda", "sim_panda", "so101", "ur5e"]


@pytest.mark.parametrize("name", available())
def test_every_shipped_description_loads(name: str) -> None:
    robot = load(name)
    assert robot.name == name
    assert len(robot.limits.low) == len(robot.joints)
    assert "From the maker" in Path(robot.file).read_text() or "From Simulation" in Path(robot.file).read_text()


def test_values_arrive_in_the_unit_of_their_key() -> None:
    robot = load("panda")
    assert robot.names[3] == "panda_joint4"
    assert robot.limits.high[3] == -0.0698
    assert robot.limits.jerk[1] == 3750
    assert robot.joints[6].effort == 12
    assert robot.wrench is not None
    assert robot.wrench.force_N == 40
    assert robot.joint_states.maximum_age_s == 0.02
    assert not load("so101").wrench


def leaves(data: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(data, dict):
        return [leaf for key, value in data.items() for leaf in leaves(value, (*path, key))]
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return leaves(data[0], (*path, 0))
    return [path]


def test_no_number_has_a_default_whichever_key_is_left_out_is_named(written: Any) -> None:
    original = yaml.safe_load((Path(__file__).parents[2] / "configs/robot/panda.yaml").read_text())
    paths = leaves(original)
    assert len(paths) > 60
    for path in paths:

        def remove(data: dict[str, Any], path: tuple[Any, ...] = path) -> None:
            for key in path[:-1]:
                data = data[key]
            del data[path[-1]]

        with pytest.raises(InputError) as caught:
            load(written(remove))
        assert str(path[-1]) in str(caught.value), path
        assert "changed.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["joints"][2].update(velocity_rad_s=-1), "joints[2].velocity_rad_s is -1; it must be at least 0"),
        (lambda d: d["joints"][2].update(velocity_rad_s=math.nan), "joints[2].velocity_rad_s is nan"),
        (lambda d: d["joints"][2].update(velocity_rad_s="2"), "joints[2].velocity_rad_s is '2'; write a number"),
        (lambda d: d["joints"][2].update(velocity_rad_s=True), "joints[2].velocity_rad_s is True; write a number"),
        (lambda d: d["joints"][2].update(speed=1), "joints[2].speed is not known here"),
        (lambda d: d["joints"][0].update(position_rad=[1, -1]), "joints[0].position_rad is [1, -1]"),
        (lambda d: d["joints"][0].update(home_rad=5), "joints[0].home_rad is 5, outside position_rad"),
        (lambda d: d["joints"][1].update(name="panda_joint1"), "as another joint's"),
        (lambda d: d["joints"][0].update(kind="prismatic"), "joints[0].position_m is missing"),
        (lambda d: d.update(joints=[]), "write a list of `- key: value` entries"),
        (lambda d: d["kinematics"]["links"][0].update(joint="panda_joint9"), "did you mean 'panda_joint"),
        (lambda d: d["kinematics"]["links"][0].update(joint="panda_joint2"), "which another link moves already"),
        (lambda d: d["kinematics"]["links"][0].update(axis=[0, 0, 0]), "axis has no length"),
        (lambda d: d["workspace"].update(frame="world"), "the box is checked in the base frame, 'panda_link0'"),
        (lambda d: d["workspace"].update(low_m=[1, 0, 0]), "must lie below high_m"),
        (lambda d: d["workspace"].update(low_m=[0.4, -0.5, 0.01]), "does not hold the start pose"),
        (lambda d: d.update(wrench=None), "`wrench` has no thresholds"),
        (lambda d: d["topics"].pop("wrench"), "there is no topics.wrench"),
        (lambda d: d["command"].update(mode="torque"), "command.mode is 'torque'"),
        (lambda d: d["cartesian"].update(speed_m_s=0), "cartesian.speed_m_s is 0; it must be above 0"),
        (lambda d: d["cartesian"].pop("damping"), "cartesian.damping is missing"),
        (lambda d: d["cartesian"].update(jerk=1), "cartesian.jerk is not known here"),
        (lambda d: d.pop("cartesian"), "cartesian is missing. There is no default"),
        (lambda d: d["command"].update(mode="tool_pose"), "command.type is 'std_msgs/msg/Float64MultiArray'"),
        (
            lambda d: d["command"].update(mode="tool_twist", type="geometry_msgs/msg/TwistStamped", frame="hand"),
            "command.frame is 'hand'; poses and twists are sent in the base frame, 'panda_link0'",
        ),
        (lambda d: d["command"].update(type="geometry_msgs/msg/Twist"), "command.type is 'geometry_msgs/msg/Twist'"),
        (lambda d: d["command"].update(rate_hz=100), "write 200"),
        (lambda d: d["command"].update(topic="commands"), "beginning with /"),
        (lambda d: d["topics"]["joint_states"].update(depth=0), "depth is 0; write a whole number of at least 1"),
        (lambda d: d["topics"]["joint_states"].update(maximum_age_s=0.0001), "less than one period at 1000 Hz"),
        (lambda d: d["topics"].update(joint_state={}), "topics.joint_state is not known here: did you mean"),
        (lambda d: d["watchdogs"].update(command_stop_s=0.1), "must be below command_stop_s"),
        (lambda d: d["watchdogs"].update(command_hold_s=0.01), "controller_rate_hz=20"),
        (lambda d: d["watchdogs"].update(observation_stop_s=0.001), "below topics.joint_states.maximum_age_s"),
        (lambda d: d["watchdogs"].update(invalid_commands=0), "whole number of at least 1"),
        (lambda d: d["watchdogs"].update(flood_factor=1), "must be above 1"),
        (lambda d: d.update(control_period_s=0), "control_period_s is 0; it must be above 0"),
    ],
)
def test_a_mistake_is_answered_with_the_place_and_the_remedy(
    written: Any, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load(written(change))
    assert "changed.yaml" in str(caught.value)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(InputError, match=r"the key 'name' is given twice"):
        load(path)


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [", "!!python/object:os.system {}"])
def test_what_is_no_description_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"broken\.yaml"):
        load(path)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="one of panda, sim_panda, so101, ur5e"):
        load("pandaa")


def test_a_slide_is_described_in_metres(written: Any) -> None:
    def slide(data: dict[str, Any]) -> None:
        joint = {key.replace("_rad", "_m").replace("_Nm", "_N"): value for key, value in data["joints"][6].items()}
        data["joints"].append(joint | {"name": "lift", "kind": "prismatic"})

    joint = load(written(slide)).joints[7]
    assert joint.prismatic
    assert joint.velocity == 2.61
