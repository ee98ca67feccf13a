"""`robot-rl deploy`: a policy on a robot, or on a simulator in real time; recorded, timed, and stopped safely."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robot_rl.apps.build import check_fit, device_of
from robot_rl.apps.build_environment import build_environment
from robot_rl.apps.deploy_report import TITLES, write_report
from robot_rl.apps.deploy_status import StatusLine
from robot_rl.apps.signals import stop_requests
from robot_rl.apps.trained import Trained, config_of, find_policy
from robot_rl.clock import MonotonicClock
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.deploy_config import DeployConfig
from robot_rl.environment import Environment, Live
from robot_rl.errors import InputError
from robot_rl.hardware import ros
from robot_rl.hardware.bag_timing import latencies
from robot_rl.hardware.description import load
from robot_rl.hardware.environment import RosEnvironment
from robot_rl.hardware.recording import Recording
from robot_rl.loops.control import COLUMNS, FAILED, ControlLoop, ControlSettings, Play
from robot_rl.loops.realtime import Pacer, steady
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.loops.timing import Timings, summarize_all
from robot_rl.policy import OnnxPolicy
from robot_rl.robot_config import Ros2EnvironmentConfig
from robot_rl.seeding import Seeds
from robot_rl.transforms.action import ActionScale
from robot_rl.types import Policy, TimeStep

SUMMARY = "Run a policy on a robot, or on a simulator in real time: recorded, timed, stopped safely."
RECEIVING = ("dds.",)  # threads of Fast DDS
ROWS = 200_000  # of the timing that there is room for from the start


@dataclass(kw_only=True)
class _Run:
    """What a deployment has come to."""

    config: DeployConfig
    recording: Recording | None
    requested: list[int]
    began_s: float = field(default_factory=time.monotonic)  # of the first step
    playing: bool = False  # a step is under way, after which it can end
    plays: list[Play] = field(default_factory=list)
    steps: int = 0
    reward: float = 0.0
    why: str | None = None  # it ended
    unrecorded: bool = False  # because of the recorder

    def stop(self) -> bool:
        """Asked at each step."""
        if not self.playing and not self.steps:
            self.began_s = time.monotonic()
        self.playing = True
        if self.requested:
            self.why = "Ctrl-C" if self.why is None else self.why
        elif self.recording is not None and (problem := self.recording.problem()) is not None:
            self.why = problem
            self.unrecorded = True
        elif self.config.max_seconds is not None and time.monotonic() - self.began_s > self.config.max_seconds:
            self.why = f"max_seconds={self.config.max_seconds:g}"
        return self.why is not None

    def after_step(self, step: TimeStep) -> None:
        """Told of each step."""
        self.steps += 1
        self.reward += step.reward


def run(config: DeployConfig) -> int:
    """Deploy as configured; exit status 0, or 1 where the policy or the recorder failed.

    Raises:
        InputError: something does not fit, or the robot could not be brought back. What was played before is reported.
        KeyboardInterrupt: the second Ctrl-C. Likewise.
    """
    console = Console(stderr=True)
    if config.run is None:
        raise InputError("which policy? Name the folder of a run, one of its checkpoints, or an exported .onnx file")
    torch.set_num_threads(config.threads)
    found = find_policy(config.run)
    chosen = config_of(found).environment if config.environment is None else config.environment
    if chosen is None:
        raise InputError("no environment is chosen: add environment=ros2 environment.robot=NAME")
    if isinstance(chosen, Ros2EnvironmentConfig) and chosen.mode == "lockstep":
        raise InputError("environment.mode=lockstep has no real time: deploy with realtime, or use `robot-rl evaluate`")
    folder = _folder(config, found)
    with contextlib.closing(build_environment(chosen)) as environment:
        check_fit("the environment", environment.spec, f"the policy ({found.path})", found.spec)
        policy = _policy(config, found)
        timings, state = Timings(COLUMNS, ROWS), _Run(config=config, recording=None, requested=[])
        with clear_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with (
            _recording(config, chosen, environment, folder, console) as recording,
            stop_requests(lambda: _asked(state, console)) as requested,
        ):
            state.recording, state.requested = recording, requested
            loop = _loop(config, environment, policy, timings, state)
            failure: BaseException | None = None
            try:
                _drive(loop, state, console)
            except KeyboardInterrupt as error:
                state.why = "Ctrl-C"
                failure = error if len(requested) > 1 else None
            except InputError as error:
                state.why, failure = str(error), error
            finally:
                environment.close()  # disarms, before anything else takes its time
                loop.close()
        timing = summarize_all(timings.columns())
        if recording is not None and isinstance(chosen, Ros2EnvironmentConfig):
            timing |= summarize_all(latencies(recording.folder, load(chosen.robot)))
    facts = _facts(config, found, environment, loop, state)
    write_report(folder, facts, timing)
    _tell(console, state, timing, folder)
    if causes := facts["causes"]:
        console.print(Text(f"The governor stopped the robot: {'; '.join(causes)}", "red"), soft_wrap=True)
    if failure is not None:
        raise failure
    failed = any(play.reason == FAILED for play in state.plays)
    return 1 if failed or state.unrecorded else 0


def _asked(state: _Run, console: Console) -> None:
    """The first Ctrl-C: in a reset, which may wait for a person, there is no step to wait for."""
    if not state.playing:
        raise KeyboardInterrupt
    console.print("Stopping after this step; Ctrl-C again gives up.")


def _folder(config: DeployConfig, found: Trained | OnnxPolicy) -> Path:
    if config.output is not None:
        folder = Path(config.output).expanduser()
    else:
        inside = isinstance(found, Trained) and found.path.parent.name == "checkpoints"
        parent = found.path.parent.parent if inside else Path()
        folder = parent / "deployments" / time.strftime("%Y-%m-%d_%H-%M-%S")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"output={folder} is not empty: choose another folder")
    return folder


def _policy(config: DeployConfig, found: Trained | OnnxPolicy) -> Policy:
    if isinstance(found, OnnxPolicy):
        if config.explore:
            raise InputError(f"explore=true: {found.path} holds the mode of its policy alone: name the run itself")
        return found
    replay = found.config.replay
    return AgentPolicy(
        agent=found.agent(config.device),
        spec=found.spec,
        scale=ActionScale.from_spec(found.spec.action),
        device=device_of(config.device),
        explore=config.explore,
        action_chunk=replay.action_chunk,
        chunk_ensemble=replay.chunk_ensemble,
        frame_stack=replay.frame_stack,
    )


@contextlib.contextmanager
def _recording(
    config: DeployConfig, chosen: Any, environment: Environment, folder: Path, console: Console
) -> Iterator[Recording | None]:
    """The recorder, while it records; simulators have nothing for it."""
    if not (config.record and isinstance(chosen, Ros2EnvironmentConfig) and isinstance(environment, RosEnvironment)):
        yield None
        return
    profile = ros.PROFILE if chosen.transport == "loopback" else None
    domain_id = int(os.environ["ROS_DOMAIN_ID"])  # which building the environment has set
    found = Recording(load(chosen.robot).file, folder / "bag", os.environ, domain_id=domain_id, profile=profile)
    try:
        with console.status("Waiting for the recorder and the first joint states"):
            found.wait_until_recording(chosen.patience_s, environment.check)
        yield found
    finally:
        found.close()


def _loop(config: DeployConfig, environment: Environment, policy: Policy, timings: Timings, state: _Run) -> ControlLoop:
    clock = MonotonicClock()
    period_s = environment.spec.control_period_s
    live = isinstance(environment, Live)
    return ControlLoop(
        environment=environment,
        policy=policy,
        clock=clock,
        settings=ControlSettings(
            asynchronous=config.asynchronous,
            execute=config.execute,
            deadline=config.deadline,
            patience=config.patience,
        ),
        timings=timings,
        stop=state.stop,
        after_step=state.after_step,
        pacer=None if live or period_s is None else Pacer(clock=clock, period_ns=round(period_s * 1e9)),
    )


def _drive(loop: ControlLoop, state: _Run, console: Console) -> None:
    """Episodes until enough are played, or something ends the deployment."""
    config = state.config
    with (
        StatusLine(console, lambda: _line(loop, state)),  # first, or its thread would inherit the loop's priority
        keeping_time(config) as problems,
    ):
        for problem in problems:
            console.print(Text(problem, "yellow"), soft_wrap=True)
        if config.dry_run:
            state.plays.append(loop.watch())
            return
        seeds = Seeds(config.seed)
        while not (state.plays and state.stop()) and (config.episodes is None or len(state.plays) < config.episodes):
            state.playing = False  # while it is reset
            play = loop.play(seed=seeds.integer("deployment", len(state.plays)))
            state.plays.append(play)
            if play.reason == FAILED:
                state.why = f"{FAILED}: {play.error}"
                return


def keeping_time(config: DeployConfig) -> contextlib.AbstractContextManager[list[str]]:
    """Inside, this thread, which is the loop's, keeps its time as well as it can.

    The other threads of the program come right behind it, but not where one of them decides beside the loop: that one
    computes all the time, and would keep the operator's permit and the recorder from the processor.
    """
    return steady(config.priority, RECEIVING, others_follow=not config.asynchronous)


def _line(loop: ControlLoop, state: _Run) -> Text | None:
    """How it goes; None while the robot is brought back, when a person may be asked to type something."""
    if not state.playing:
        return None
    environment, counts = loop.environment, loop.counts
    ages = environment.ages_s if isinstance(environment, Live) else {}
    missed = environment.counts["missed"] if isinstance(environment, Live) else 0
    missed += 0 if loop.pacer is None else loop.pacer.missed
    parts = [
        "dry run" if state.config.dry_run else f"episode {len(state.plays) + 1}",
        f"{time.monotonic() - state.began_s:.0f} s",
        f"step {state.steps}",
        f"reward {state.reward:.2f}",
        *([f"age {1000 * max(ages.values()):.0f} ms"] if ages else []),
        f"missed {missed}",
        *(f"{name} {counts[name]}" for name in ("late", "failed", "hold", "intervened") if counts[name]),
    ]
    return Text(" | ".join(parts), style="bold red" if counts["failed"] or counts["late"] else "bold")


def _facts(
    config: DeployConfig, found: Trained | OnnxPolicy, environment: Environment, loop: ControlLoop, state: _Run
) -> dict[str, Any]:
    counts = dict(loop.counts)
    if isinstance(environment, Live):
        counts |= {f"environment: {name}": count for name, count in environment.counts.items()}
    if loop.pacer is not None:
        counts["missed"] = loop.pacer.missed
    causes = environment.causes if isinstance(environment, RosEnvironment) else []
    return {
        "policy": str(found.path),
        "settings": {name: value for name, value in vars(config).items() if name != "environment"},
        "control_period_s": environment.spec.control_period_s,
        "ended_by": state.why,
        "causes": causes,  # of the last stop by the governor
        "seconds": time.monotonic() - state.began_s,
        "steps": state.steps,
        "counts": counts,
        "episodes": [asdict(play) for play in state.plays],
    }


def _tell(console: Console, state: _Run, timing: dict[str, dict[str, Any]], folder: Path) -> None:
    ended = f"{len(state.plays)} episodes, {state.steps} steps" + (f"; ended by {state.why}" if state.why else "")
    table = Table(title=ended, title_justify="left")
    for name in ("", "median", "99 %", "99.9 %", "largest, ms"):
        table.add_column(name, justify="left" if not name else "right")
    for name, summary in timing.items():
        values = (summary[f"{key}_ms"] for key in ("p50", "p99", "p99_9", "max"))
        table.add_row(TITLES[name], *(f"{value:.3f}" for value in values))
    Console().print(table)
    console.print(Text(f"Written to {folder}"), soft_wrap=True)
