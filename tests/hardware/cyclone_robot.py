"""A robot that shares no code with ours: joint states out, commands in, by the Python binding of Eclipse Cyclone DDS.

    python tests/hardware/cyclone_robot.py JOINT_STATES_TOPIC COMMAND_TOPIC NAMES POSITIONS

NAMES and POSITIONS are separated by commas. It goes exactly where it is told, and prints a line for each new command.
"""

import os
import sys
import time
from dataclasses import dataclass

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import float64, int32, sequence, uint32
from cyclonedds.pub import DataWriter, Publisher
from cyclonedds.sub import DataReader, Subscriber
from cyclonedds.topic import Topic

RATE_HZ = 50


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class JointState(IdlStruct, typename="sensor_msgs::msg::dds_::JointState_"):
    header: Header
    name: sequence[str]
    position: sequence[float64]
    velocity: sequence[float64]
    effort: sequence[float64]


def main() -> None:
    states, commands, names, positions = sys.argv[1:]
    position = [float(value) for value in positions.split(",")]
    participant = DomainParticipant(int(os.environ["ROS_DOMAIN_ID"]))
    quality = Qos(Policy.Reliability.Reliable(100_000_000), Policy.History.KeepLast(5))
    writer = DataWriter(Publisher(participant), Topic(participant, f"rt{states}", JointState), qos=quality)
    reader = DataReader(Subscriber(participant), Topic(participant, f"rt{commands}", JointState), qos=quality)
    while True:
        for sample in reader.take(N=20):
            if isinstance(sample, JointState):  # not the news that a writer is gone
                order = {name: index for index, name in enumerate(sample.name)}
                position = [sample.position[order[name]] for name in names.split(",")]
                print("commanded", position[0], flush=True)
        now = time.time_ns()
        stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
        header = Header(stamp=stamp, frame_id="")
        writer.write(JointState(header, names.split(","), position, [0.0] * len(position), []))
        time.sleep(1 / RATE_HZ)


if __name__ == "__main__":
    main()
