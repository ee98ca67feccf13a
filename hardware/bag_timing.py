"""How long it took from a sensor to the command that answers it, out of the bag of a run.

All times are those at which the processes handed their messages to the transport, on the wall clock of one machine. A
policy's action carries the stamp of the joint states that it answers, and so does what the governor applied: so each
stage is told from the others, and neither the recorder's nor the loop's own delays are in any of them.
"""

import struct
from pathlib import Path

import numpy as np
from mcap.exceptions import EndOfFile
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader

from robot_rl.hardware.bag_writer import FILE
from robot_rl.hardware.description import Robot
from robot_rl.hardware.watch import SECOND_NS
from robot_rl.types import Array

NOBODY = ("hold", "home", "person")


def latencies(folder: Path, robot: Robot) -> dict[str, Array]:
    """Nanoseconds of each stage, each (N,).

    - `sensor_to_action`: from joint states to the first action of the policy that answers them;
    - `action_to_command`: from there to the first command of the governor that follows it, which says what it followed
      right behind it, in `rl/applied`;
    - `sensor_to_command`: both;
    - `command_period`, `action_period`, `joint_states_period`: between two of them.
    """
    names = {
        robot.joint_states.topic: "joint_states",
        f"/{robot.name}/rl/action": "action",
        f"/{robot.name}/rl/applied": "applied",
        robot.command.topic: "command",
    }
    first: dict[str, dict[int, int]] = {name: {} for name in names.values()}  # when it was said, by stamp
    times: dict[str, list[int]] = {name: [] for name in names.values()}
    channels: dict[int, str] = {}
    with (folder / FILE).open("rb") as file:
        records = iter(StreamReader(file).records)
        while True:
            try:
                record = next(records)
            except (StopIteration, EndOfFile):  # a recorder that was killed leaves no end
                break
            if isinstance(record, Channel) and record.topic in names:
                channels[record.id] = names[record.topic]
            elif isinstance(record, Message) and record.channel_id in channels:
                name = channels[record.channel_id]
                times[name].append(record.publish_time)
                if name == "command":
                    continue
                stamp, frame = _header(record.data)
                if name != "applied" or frame not in NOBODY:
                    first[name].setdefault(stamp, record.publish_time)
    sent = np.sort(np.asarray(times["command"], np.int64))
    if len(sent):
        said = np.asarray(list(first["applied"].values()), np.int64)
        at = sent[np.maximum(np.searchsorted(sent, said, side="right") - 1, 0)]
        first["applied"] = dict(zip(first["applied"], np.where(at <= said, at, said).tolist(), strict=True))
    found = {
        "sensor_to_action": _between(first["joint_states"], first["action"]),
        "action_to_command": _between(first["action"], first["applied"]),
        "sensor_to_command": _between(first["joint_states"], first["applied"]),
    }
    periods = {"command_period": "command", "action_period": "action", "joint_states_period": "joint_states"}
    return found | {key: np.diff(np.asarray(times[name], np.int64)) for key, name in periods.items()}


def _between(before: dict[int, int], after: dict[int, int]) -> Array:
    return np.asarray([time - before[stamp] for stamp, time in after.items() if stamp in before], np.int64)


def _header(content: bytes) -> tuple[int, str]:
    """Stamp and frame of a message that begins with a std_msgs/Header, in CDR."""
    order = "<" if content[1] & 1 else ">"
    sec, nanosec, length = struct.unpack_from(f"{order}iII", content, 4)
    return sec * SECOND_NS + nanosec, content[16 : 16 + max(length - 1, 0)].decode()
