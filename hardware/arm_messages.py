"""From what the simulated arm measures to the messages of a description."""

from array import array
from typing import Any

import numpy as np
import simplejpeg
from geometry_msgs.msg import PointStamped, PoseStamped, WrenchStamped
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header

from robot_rl.hardware.description import Robot, Topic
from robot_rl.hardware.mujoco_arm import Array, Measurement
from robot_rl.hardware.ros_io import set_stamp

JPEG_QUALITY = 90


def header(topic: Topic, stamp_ns: int) -> Any:
    """Time and frame."""
    found = Header(frame_id=topic.frame)
    set_stamp(found, stamp_ns)
    return found


def measured(robot: Robot, sensor: str, topic: Topic, found: Measurement, stamp_ns: int) -> Any:
    """The message of a sensor."""
    at = header(topic, stamp_ns)
    if sensor == "joint_states":
        return JointState(
            header=at, name=list(robot.names), position=found.position, velocity=found.velocity, effort=found.effort
        )
    if sensor == "wrench":
        message = WrenchStamped(header=at)
        force, torque = message.wrench.force, message.wrench.torque
        force.x, force.y, force.z = found.force_N
        torque.x, torque.y, torque.z = found.torque_Nm
        return message
    if sensor == "tool_pose":
        message = PoseStamped(header=at)
        place, turn = message.pose.position, message.pose.orientation
        place.x, place.y, place.z = found.tool_m
        turn.w, turn.x, turn.y, turn.z = found.tool_quaternion
        return message
    if sensor == "outcome":
        names = ["reward", "success", "terminated"]
        return JointState(header=at, name=names, position=[-found.distance_m, float(found.reached), 0.0])
    message = PointStamped(header=at)
    message.point.x, message.point.y, message.point.z = found.target_m
    return message


def picture(topic: Topic, pixels: Array, stamp_ns: int) -> Any:
    """An image, raw or as JPEG. Shapes: (H, W, 3), uint8."""
    at = header(topic, stamp_ns)
    if topic.type == "sensor_msgs/msg/CompressedImage":
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="444")
        return CompressedImage(header=at, format="jpeg", data=array("B", data))
    height, width, channels = pixels.shape
    return Image(
        header=at,
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=width * channels,
        data=array("B", pixels.tobytes()),  # an array of numpy's would be copied number by number
    )
