"""How evenly and how quickly a policy drives a robot over ROS 2: latency, jitter, misses, all processes included.

    python benchmarks/control_loop.py --rates 50 100 200 500 --seconds 600
    python benchmarks/control_loop.py --rates 30 --cameras 2 --seconds 600
    python benchmarks/control_loop.py --rates 100 --seconds 600 --learner

Processes: a robot of joints (joint_robot_node), the governor, an operator who permits, the recorder, cameras where
there are some, and this one, which plays an exported policy (three layers of 256 units, with cameras a small CNN) by
the control loop of `robot-rl deploy`. Joint states, governor and policy run at the same rate; with cameras, joint
states and governor at four times the policy's. The learner is SAC with a batch of 256 in a process of its own, at
ordinary priority.

Everything that moves the robot is scheduled in real time (SCHED_FIFO) where that is allowed, robot and governor on one
core, the loop on the other (`--unpinned`: anywhere); `real_time` in the result says what was.
One JSON line a rate; latencies are from the bag (hardware/bag_timing.py), the rest from the loop.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from robot_rl.apps.export_policy import with_facts
from robot_rl.clock import MonotonicClock
from robot_rl.hardware import ros
from robot_rl.hardware.bag_timing import latencies
from robot_rl.hardware.description import load
from robot_rl.hardware.domains import Domain
from robot_rl.hardware.recording import Recording
from robot_rl.loops.control import COLUMNS, ControlLoop, ControlSettings
from robot_rl.loops.realtime import steady
from robot_rl.loops.timing import Timings, summarize_all
from robot_rl.policy import FORMAT, OnnxPolicy, graph_hash
from robot_rl.spec import Spec

ROBOT_CORE, LOOP_CORE = 0, 1
CAMERA_HZ, CAMERA_PIXELS = 30, 224
STAGES = ("period", "inference", "observation_age", "sensor_to_command", "action_to_command", "command_period")


def describe(folder: Path, rate_hz: int, cameras: int) -> Path:
    """The Panda at a rate, with the patience of a machine that others use too."""
    robot_hz = 4 * rate_hz if cameras else rate_hz
    data = yaml.safe_load((Path(__file__).parents[1] / "configs/robot/panda.yaml").read_text())
    data["control_period_s"], data["controller_rate_hz"] = 1 / robot_hz, rate_hz
    data["command"] |= {"rate_hz": robot_hz, "maximum_age_s": 0.5}
    for key in ("joint_states", "wrench"):
        data["topics"][key] |= {"rate_hz": robot_hz, "maximum_age_s": 0.3}
    data["topics"]["wrench"]["reliability"] = "reliable"
    image = {"type": "sensor_msgs/msg/Image", "reliability": "best_effort", "durability": "volatile", "depth": 1}
    image |= {"unit": "1", "frame": "camera", "rate_hz": CAMERA_HZ, "maximum_age_s": 0.3}
    data["topics"]["cameras"] = {f"camera_{k}": {"topic": f"/camera_{k}/image_raw", **image} for k in range(cameras)}
    data["watchdogs"] |= {
        "observation_stop_s": 1.0,
        "heartbeat_stop_s": 1.0,
        "permit_stop_s": 1.0,
        "command_hold_s": 0.5,
        "command_stop_s": 2.0,
        "answer_age_s": 1.0,
        "missed_deadlines": robot_hz // 2,
        "clock_jump_s": 1.0,
    }
    path = folder / "panda.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


class Network(nn.Module):
    """Three layers of 256 on the numbers, and on each image four convolutions; actions of a few mm/s."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.images = [key for key, array in spec.observation.items() if array.is_image]
        self.numbers = [key for key in spec.observation if key not in self.images]
        layers: list[nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 32), (32, 32)):
            layers += [nn.Conv2d(before, after, 3, stride=2), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        width = sum(spec.observation[key].shape[0] for key in self.numbers) + 512 * len(self.images)
        sizes = (width, 256, 256, 256)
        dense = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.head = nn.Sequential(*dense, nn.Linear(256, spec.action.shape[0]))
        self.keys = list(spec.observation)

    def forward(self, *observation: Tensor) -> Tensor:
        """Shapes: each (1, *) -> (1, A)."""
        given = dict(zip(self.keys, observation, strict=True))
        parts = [given[key].float() for key in self.numbers]
        parts += [self.convolutions(given[key].permute(0, 3, 1, 2).float() / 255) for key in self.images]
        action: Tensor = 0.002 * torch.tanh(self.head(torch.cat(parts, 1))).double()
        return action


def policy_for(spec: Spec) -> OnnxPolicy:
    """An untrained network as an exported policy."""
    torch.manual_seed(0)
    example = tuple(torch.from_numpy(np.zeros((1, *array.shape), array.dtype)) for array in spec.observation.values())
    names = list(spec.observation)
    program: Any = torch.onnx.export(
        Network(spec).eval(), example, None, dynamo=True, verbose=False, input_names=names, output_names=["action"]
    )
    graph = program.model_proto.SerializeToString()
    facts = {"format": FORMAT, "graph_bytes": len(graph), "graph_sha256": graph_hash(graph), "spec": spec.to_json()}
    return OnnxPolicy.of(with_facts(graph, facts | {"action_chunk": 1, "chunk_ensemble": None}), Path("policy.onnx"))


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Inside, processes that are started run on this core; None: on any."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stay_on(cores: set[int]) -> None:
    """From now on all threads of this process run on these cores."""
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)


def scheduled(process: subprocess.Popen[bytes]) -> bool:
    """The process runs in real time."""
    return os.sched_getscheduler(process.pid) == os.SCHED_FIFO


def measure(rate_hz: int, seconds: float, cameras: int, learner: bool, pinned: bool) -> dict[str, Any]:
    """One rate."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = describe(folder, rate_hz, cameras)
        robot, domain = load(path), Domain()
        stack.callback(domain.close)
        nodes: list[subprocess.Popen[bytes]] = []
        parent = ["--parent", str(os.getpid())]

        def start(module: str, *arguments: str) -> None:
            nodes.append(ros.start(module, [str(path), *parent, *arguments], os.environ, domain_id=domain.number))
            stack.callback(end, nodes[-1])

        with on_core(ROBOT_CORE if pinned else None):
            start("robot_rl.hardware.joint_robot_node")
            start("robot_rl.hardware.governor_node")
        start("robot_rl.hardware.operator_node", "--permit")
        if cameras:
            command = [sys.executable, __file__, "--film", str(path), *parent]
            nodes.append(subprocess.Popen(command, env=ros.environment(os.environ, domain_id=domain.number)))
            stack.callback(end, nodes[-1])
        ros.adopt(os.environ, domain_id=domain.number)
        from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

        keys = ["joint_position", "joint_velocity", *robot.cameras]
        settings = EnvironmentSettings(observation=keys, image_size=CAMERA_PIXELS, maximum_steps=10**9)
        environment = RosEnvironment(robot, settings, domain_id=domain.number)
        stack.callback(environment.close)
        policy = policy_for(environment.spec)
        recording = Recording(str(path), folder / "bag", os.environ, domain_id=domain.number)
        stack.callback(recording.close)
        recording.wait_until_recording(60.0)
        if learner:
            nodes.append(subprocess.Popen([sys.executable, __file__, "--learn", *parent]))
            stack.callback(end, nodes[-1])
        clock, timings = MonotonicClock(), Timings(COLUMNS, round(rate_hz * seconds * 1.2) + 1000)
        ends_s: list[float] = []
        loop = ControlLoop(
            environment=environment,
            policy=policy,
            clock=clock,
            settings=ControlSettings(),
            timings=timings,
            stop=lambda: bool(ends_s) and time.monotonic() > ends_s[0],
            after_step=lambda _: ends_s.append(time.monotonic() + seconds) if not ends_s else None,
        )
        if pinned:
            stack.callback(stay_on, os.sched_getaffinity(0))
            stay_on({LOOP_CORE})
        with steady(50, ("dds.",), others_follow=True):
            play = loop.play(seed=0)
            real_time = {"loop": os.sched_getscheduler(0) == os.SCHED_FIFO}
            real_time |= dict(zip(("robot", "governor", "operator"), map(scheduled, nodes), strict=False))
            real_time["recorder"] = os.sched_getscheduler(recording.pid) == os.SCHED_FIFO
        causes = environment.link.causes
        environment.close()
        recording.close()
        found = summarize_all(timings.columns()) | summarize_all(latencies(folder / "bag", robot))
        return {
            "rate_hz": rate_hz,
            "cameras": cameras,
            "learner": learner,
            "real_time": real_time,
            "pinned": pinned,
            "load": round(os.getloadavg()[0], 1),
            "reason": play.reason,
            "causes": causes,
            "steps": play.steps,
            "missed": environment.counts["missed"],
            "counts": {**environment.counts, **loop.counts},
            **{
                name: {key: round(value, 3) for key, value in found[name].items() if key.endswith("_ms")}
                for name in STAGES
                if name in found
            },
        }


def end(process: subprocess.Popen[bytes]) -> None:
    """Of ours."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def film(description: str, parent: int) -> None:
    """Publish pictures of noise for every camera of a description, until it is ended, or without its parent."""
    import rclpy
    from sensor_msgs.msg import Image

    from robot_rl.hardware.ros_io import qos, set_stamp

    robot, generator = load(description), np.random.default_rng(0)
    rclpy.init()
    node = rclpy.create_node("cameras")
    publishers = [node.create_publisher(Image, topic.topic, qos(topic)) for topic in robot.cameras.values()]
    pictures = [generator.integers(0, 256, CAMERA_PIXELS**2 * 3).astype(np.uint8).tobytes() for _ in range(8)]
    begin, count = time.monotonic(), 0
    while os.getppid() == parent:
        count += 1
        time.sleep(max(begin + count / CAMERA_HZ - time.monotonic(), 0))
        for publisher in publishers:
            message = Image(height=CAMERA_PIXELS, width=CAMERA_PIXELS, encoding="rgb8", step=3 * CAMERA_PIXELS)
            message.data = pictures[count % 8]
            set_stamp(message.header, time.time_ns())
            publisher.publish(message)


def learn(parent: int) -> None:
    """Update SAC until the process is ended, or without its parent."""
    from robot_rl.algorithms.sac import SACConfig, create
    from robot_rl.seeding import Seeds
    from robot_rl.spec import ArraySpec
    from robot_rl.types import Batch

    torch.set_num_threads(1)
    bound = np.ones(7)
    spec = Spec(observation={"state": ArraySpec(shape=(14,))}, action=ArraySpec(shape=(7,), low=-bound, high=bound))
    agent = create(SACConfig(), spec, Seeds(0), torch.device("cpu"), None)
    state = {"state": torch.randn(256, 14)}
    batch = Batch(
        observation=state,
        action=torch.rand(256, 7) - 0.5,
        reward=torch.zeros(256),
        discount=torch.full((256,), 0.99),
        next_observation=state,
    )
    while os.getppid() == parent:
        agent.update(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[50, 100, 200, 500])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--cameras", type=int, default=0)
    parser.add_argument("--learner", action="store_true")
    parser.add_argument("--unpinned", action="store_true")
    parser.add_argument("--film", help=argparse.SUPPRESS)
    parser.add_argument("--learn", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.film:
        film(given.film, given.parent)
    elif given.learn:
        learn(given.parent)
    else:
        print(f"# {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {' '.join(sys.argv[1:])}", flush=True)
        for rate_hz in given.rates:
            print(
                json.dumps(measure(rate_hz, given.seconds, given.cameras, given.learner, not given.unpinned)),
                flush=True,
            )


if __name__ == "__main__":
    main()
