"""`robot-rl evaluate`: episodes of a trained, scripted or random policy, counted, filmed, recorded."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from robot_rl import checkpoint
from robot_rl.algorithms import with_overrides
from robot_rl.apps.build import check_fit, check_rendering, device_of
from robot_rl.apps.build_environment import build_environment, build_expert, robomimic_arguments
from robot_rl.apps.trained import Trained, config_of, find_policy
from robot_rl.apps.video import write_video
from robot_rl.config import EvaluateConfig
from robot_rl.datasets.export_robomimic import write_robomimic
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import building, clear_disk_errors
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.loops.evaluate import evaluate
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.policy import OnnxPolicy
from robot_rl.seeding import Seeds
from robot_rl.transforms.action import ActionScale
from robot_rl.types import Array, Episode, Policy

SUMMARY = "Evaluate a trained, scripted or random policy; film and record its episodes."


def run(config: EvaluateConfig) -> int:
    """Evaluate as configured; exit status 0."""
    console = Console(stderr=True)
    torch.set_num_threads(config.threads)
    trained = _find_run(config)
    environment_config = config.environment
    if environment_config is None:
        environment_config = None if trained is None else config_of(trained).environment
        if environment_config is None:
            raise InputError("no environment is chosen: add environment=..., or name the folder of a run")
    record, output = _check_record(config), _output(config, trained)
    with contextlib.closing(build_environment(environment_config)) as environment:
        policy = _policy(config, environment, environment_config, trained)
        if config.videos > 0:
            check_rendering(environment, "videos")
        seeds = [Seeds(config.seed).integer("evaluation", index) for index in range(config.episodes)]
        with (
            _progress(console, config.episodes) as advance,
            _sink(record, config, environment_config, environment, console) as sink,
        ):
            results, metrics, films = evaluate(
                environment, policy, seeds, films=config.videos, sink=sink, on_episode=lambda _: advance()
            )
        rate = 1.0 / environment.spec.control_period_s if environment.spec.control_period_s else 20.0
    if output is not None:
        with clear_disk_errors(output):
            output.mkdir(parents=True, exist_ok=True)
        for index, (film, result) in enumerate(zip(films, results, strict=False)):
            caption = f"episode {index} | return {result.episode_return:.1f} | success {result.success}"
            path = output / f"episode_{index}.mp4"
            write_video(path, film.frames, frames_per_second=rate, values=film.values or None, caption=caption)
        text = {"config": asdict(config), "metrics": metrics, "episodes": [result.to_json() for result in results]}
        with clear_disk_errors(output / "evaluation.json"):
            checkpoint.write_text(output / "evaluation.json", json.dumps(text, indent=1))
        console.print(f"Written to {output}")
    if record is not None:
        console.print(f"Recorded {len(results)} episodes into {record}")
        verb = f"ingest {record} {record.with_suffix('.zarr')}" if record.suffix == ".hdf5" else f"inspect {record}"
        console.print(f"Next: robot-rl {verb}")
    Console().print(_table(metrics, len(results)))
    return 0


def _find_run(config: EvaluateConfig) -> Trained | OnnxPolicy | None:
    if config.run is None:
        if config.policy == "checkpoint":
            raise InputError("which policy? Name the folder of a run, or set policy=expert or policy=random")
        return None
    return find_policy(config.run)


def _policy(
    config: EvaluateConfig,
    environment: Environment,
    environment_config: Any,
    trained: Trained | OnnxPolicy | None,
) -> Policy:
    generator = Seeds(config.seed).numpy("policy")
    if config.policy == "expert":
        return build_expert(environment_config, environment, config.expert_noise, generator)
    if config.policy == "random":
        return _RandomPolicy(ActionScale.from_spec(environment.spec.action), generator)
    assert trained is not None
    check_fit("the environment", environment.spec, f"the policy ({trained.path})", trained.spec)
    if isinstance(trained, OnnxPolicy):
        if config.explore:
            raise InputError(f"explore=true: {trained.path} holds the mode of its policy alone: name the run itself")
        return trained
    device, spec = device_of(config.device), trained.spec
    agent = trained.agent(config.device)
    agent.config = with_overrides(agent.config, config.algorithm)
    scale = ActionScale.from_spec(spec.action)
    replay = trained.config.replay
    return AgentPolicy(
        agent=agent,
        spec=spec,
        scale=scale,
        device=device,
        explore=config.explore,
        action_chunk=replay.action_chunk,
        chunk_ensemble=replay.chunk_ensemble,
        frame_stack=replay.frame_stack,
    )


@dataclass
class _RandomPolicy:
    """Uniform actions."""

    scale: ActionScale
    generator: np.random.Generator

    def reset(self) -> None:
        """Nothing to forget."""

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        return self.scale.unnormalize(self.generator.uniform(-1.0, 1.0, self.scale.low.shape))


# Recording ------------------------------------------------------------------------------------------------------------


def _check_record(config: EvaluateConfig) -> Path | None:
    if config.record is None:
        return None
    path = Path(config.record).expanduser()
    if path.exists():
        raise InputError(f"record={path} is already there: choose another name, or delete it first")
    return path


@contextlib.contextmanager
def _sink(
    record: Path | None, config: EvaluateConfig, environment_config: Any, environment: Environment, console: Console
) -> Iterator[Any]:
    """Takes the episodes and, when all are there, gives the recording its name; until then there is none."""
    try:
        with _recording(record, config, environment_config, environment) as sink:
            yield sink
    except KeyboardInterrupt:
        if record is not None:
            console.print(f"Interrupted: nothing was kept, there is no {record}. The same command begins anew.")
        raise


@contextlib.contextmanager
def _recording(
    record: Path | None, config: EvaluateConfig, environment_config: Any, environment: Environment
) -> Iterator[Any]:
    if record is None:
        yield None
    elif record.suffix in (".hdf5", ".h5"):
        collected = _Collector()
        yield collected
        arguments = robomimic_arguments(environment_config, environment.spec) | {"policy": config.policy}
        write_robomimic(record, environment.spec, collected.episodes, arguments)
    else:
        provenance = {"format": "robot_rl", "policy": config.policy, "run": config.run, "seed": config.seed}
        with building(record) as temporary:
            store = EpisodeStore.create(temporary, environment.spec, provenance=provenance)
            yield store
            store.finish()


class _Collector:
    """An episode sink in memory."""

    def __init__(self) -> None:
        self.episodes: list[Episode] = []

    def append(self, episode: Episode) -> None:
        """Keep it."""
        self.episodes.append(episode)


# Output ---------------------------------------------------------------------------------------------------------------


def _output(config: EvaluateConfig, trained: Trained | OnnxPolicy | None) -> Path | None:
    if config.output is not None:
        return Path(config.output).expanduser()
    if trained is not None and trained.path.parent.name == "checkpoints":
        name = f"{trained.path.name}_{config.policy}_{config.seed}"
        return trained.path.parent.parent / "evaluations" / name
    if config.videos:
        raise InputError("videos were asked for, but there is no run to put them into: add output=FOLDER")
    return None


@contextlib.contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    columns = (TextColumn("[bold]episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def _table(metrics: Mapping[str, float], count: int) -> Table:
    table = Table(title=f"{count} episodes", title_justify="left", show_header=False)
    if "success_rate" in metrics:
        interval = f"95 % interval {metrics['success_low']:.3f} to {metrics['success_high']:.3f}"
        table.add_row("success", f"{metrics['success_rate']:.3f}", interval)
    table.add_row("return", f"{metrics['return_mean']:.3f}", f"deviation {metrics['return_std']:.3f}")
    table.add_row("length", f"{metrics['length_mean']:.1f}", "")
    if "value_mean" in metrics:
        table.add_row("value at the start", f"{metrics['value_mean']:.3f}", "critic's, transformed and discounted")
    return table
