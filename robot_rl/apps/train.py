"""`robot-rl train`: from recorded data to a fine-tuned policy."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from robot_rl import checkpoint
from robot_rl.apps.build import (
    LoadedData,
    build_agent,
    check_fit,
    check_rendering,
    config_hash,
    config_to_json,
    device_of,
    empty_buffer,
    flat,
    load_data,
    reward_transform,
)
from robot_rl.apps.build_environment import build_environment, on_robot
from robot_rl.apps.command import resume_command
from robot_rl.apps.corruption import corrupted, require_single_transitions
from robot_rl.apps.display import ConsoleDisplay
from robot_rl.apps.domains import require_comparable
from robot_rl.apps.language import described, require_data_alone, taught, text_encoder
from robot_rl.apps.learner import beside
from robot_rl.apps.pixels import encoder_weights, keep_frozen_features
from robot_rl.apps.report import write_report
from robot_rl.apps.run_folder import find_checkpoint, lock, require_same_data, require_same_settings, write_facts
from robot_rl.apps.signals import stop_requests
from robot_rl.apps.video import write_video
from robot_rl.clock import MonotonicClock
from robot_rl.config import TrainConfig
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.loops.beside import take_in
from robot_rl.loops.distributed import Ranks, SharedEnvironment, average_gradients, connected
from robot_rl.loops.evaluate import EpisodeResult
from robot_rl.loops.execution import require_cuda
from robot_rl.loops.phases import run_phases
from robot_rl.loops.rollout import AgentPolicy, Film
from robot_rl.loops.run import ACTING, Evaluator, Run
from robot_rl.loops.trace import generators
from robot_rl.networks.encoder import DEVIATION_FLOOR
from robot_rl.recorder import Progress, Recorder
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.instructions import Instructions
from robot_rl.rewards.environment import judged
from robot_rl.seeding import Seeds
from robot_rl.sim.proxy import require_different
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale

SUMMARY = "Train: offline from recorded data, then online in an environment, as a list of phases."


def run(config: TrainConfig, words: Sequence[str] | None = None) -> int:
    """Train as configured; exit status 0 when finished, 130 when interrupted and saved, 1 when the learner was lost.

    Args:
        config: of the run.
        words: the command line behind `robot-rl`, to be told to whoever wants to repeat the run; None where a program
            calls.
    """
    check(config)
    torch.set_num_threads(config.threads)
    with connected() as ranks:
        return _train(config, words, ranks)


def _train(config: TrainConfig, words: Sequence[str] | None, ranks: Ranks) -> int:
    console = Console(stderr=True, quiet=not ranks.first)
    folder = Path(config.output).expanduser()
    with lock(folder) if ranks.first else contextlib.nullcontext(), contextlib.ExitStack() as stack:
        config_json = config_to_json(config)
        found = find_checkpoint(folder, config_json, resume=config.resume) if ranks.first else None
        told = ranks.tell("" if found is None else str(found))
        found = Path(told) if told else None
        config = of_rank(config, ranks)
        require_cuda(config.execution, device_of(config.device))
        environments = open_environments(config, stack, ranks)
        evaluation = environments.evaluation
        display = stack.enter_context(ConsoleDisplay(console))
        if evaluation is not None and config.evaluation.videos > 0 and ranks.first:
            check_rendering(evaluation, "evaluation.videos")
        this = assemble(config, config_json, folder, environments, display, stack, found, words, ranks)
        with _stop_on_signal(display, ranks) as requested:
            this.stop_requested = lambda: bool(requested)
            finished = run_phases(this)
    if not ranks.first:
        return 0 if finished else 130
    report = write_report(folder)
    if finished:
        console.print(f"[bold green]Finished.[/] Report: {report}")
        environment = " environment=NAME" if config.environment is None else ""
        console.print(f"Evaluate it again: robot-rl evaluate {folder}{environment} episodes=100")
        return 0
    ended = "[bold yellow]Interrupted[/]" if this.problem is None else "[bold red]The learner was lost.[/] Stopped"
    console.print(f"{ended} and saved. Report so far: {report}")
    console.print(f"Go on with: {resume_command(words, folder)}", markup=False, soft_wrap=True)
    return 130 if this.problem is None else 1


@dataclass(frozen=True, kw_only=True)
class Environments:
    """Where a run acts and is evaluated; None where nothing needs it."""

    training: Environment | None  # the simulator, where no phase says otherwise
    robot: Environment | None  # of phases with `robot: true`
    evaluation: Environment | None  # of its own


def open_environments(config: TrainConfig, stack: contextlib.ExitStack, ranks: Ranks) -> Environments:
    """Build what the phases of a run need; `stack` closes it.

    Raises:
        InputError: an environment cannot be built, or the robot is the simulator that is trained in.
    """
    if config.environment is None:
        return Environments(training=None, robot=None, evaluation=None)

    def shared(environment: Environment) -> Environment:
        opened = stack.enter_context(contextlib.closing(judged(environment, config.judge)))
        return SharedEnvironment(opened, ranks) if ranks.count > 1 else opened

    acts_for = {phase.acts_for for phase in config.phases.values() if phase.interact != "none"}
    proxy = on_robot(config.environment, config.evaluation)
    training = shared(build_environment(config.environment, training=True)) if "online" in acts_for else None
    robot = shared(build_environment(proxy)) if "robot" in acts_for else None
    evaluation = stack.enter_context(contextlib.closing(build_environment(proxy)))
    if training is not None and config.evaluation.robot is not None:
        require_different(training.spec, evaluation.spec, config.evaluation.robot)
    return Environments(training=training, robot=robot, evaluation=evaluation)


def check(config: TrainConfig) -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        InputError: no phases, a phase that interacts without an environment, no algorithm.
    """
    if not config.phases:
        raise InputError("nothing to do: the configuration has no phases. Choose experiment=..., see `train --help`")
    interacting = [name for name, phase in config.phases.items() if phase.interact != "none"]
    if interacting and config.environment is None:
        raise InputError(f"phase {interacting[0]} acts, but no environment is chosen: add environment=...")
    if config.environment is None and not config.datasets:
        raise InputError(
            "neither an environment nor a data set is given: add environment=... or datasets.offline.path=..."
        )
    require_data_alone(config)
    if config.seed == config.evaluation.seed:
        raise InputError(f"evaluation.seed={config.evaluation.seed} equals seed: evaluation needs seeds of its own")
    if config.learner.place == "process" and config.language.encoder != "none":
        raise InputError("learner.place=process does not read instructions: set learner.place=inline")
    for name in ("online", "robot"):
        if name in config.datasets:
            raise InputError(f"a data set cannot be called '{name}': that is a replay buffer that the run fills itself")
    for name, phase in config.phases.items():
        if phase.robot and config.evaluation.robot is None:
            raise InputError(f"phases.{name}.robot=true acts on the robot, but none is given: set evaluation.proxy")


def of_rank(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """What one of several processes runs: its share of each batch, on its own device.

    Raises:
        InputError: batches that do not divide, or updates that cannot be shared.
    """
    if ranks.count == 1:
        return config
    if config.learner.place != "inline":
        raise InputError("learner.place=process under torchrun: set learner.place=inline, or start one process")
    if config.execution.mode != "eager":
        raise InputError(
            f"execution.mode={config.execution.mode} under torchrun: gradients are averaged between processes by eager "
            "updates only. Set execution.mode=eager, or start one process"
        )
    phases = {
        name: replace(phase, batch_size=ranks.rows(phase.batch_size, f"phases.{name}"))
        for name, phase in config.phases.items()
    }
    device = f"cuda:{ranks.place}" if config.device == "cuda" else config.device
    return replace(config, phases=phases, device=device)


def assemble(
    config: TrainConfig,
    config_json: dict[str, Any],
    folder: Path,
    environments: Environments,
    display: ConsoleDisplay,
    stack: contextlib.ExitStack,
    found: Path | None,
    words: Sequence[str] | None,
    ranks: Ranks,
) -> Run:
    """The run, restored from `found` where there is one; where there is none, the folder becomes that of a run.

    Args:
        config: as this process runs it.
        config_json: as it was given.
        folder: of the run.
        environments: where it acts and is evaluated.
        display: shows a person where it is.
        stack: closes what is opened here.
        found: the checkpoint to go on from.
        words: see `run`.
        ranks: the processes that learn together.

    Raises:
        InputError: data, environment and configuration do not fit each other.
    """
    training, robot, evaluation = environments.training, environments.robot, environments.evaluation
    seeds = Seeds(config.seed)
    loaded: dict[str, LoadedData] = {}
    for name, dataset in config.datasets.items():
        first = next(iter(loaded.items()), None)
        if evaluation is not None:
            loaded[name] = load_data(name, dataset, evaluation.spec, "the environment")
        elif first is not None:
            loaded[name] = load_data(name, dataset, first[1].spec, f"data set {first[0]}")
        else:
            loaded[name] = load_data(name, dataset, None, "")
        loaded[name] = corrupted(name, dataset.corruption, loaded[name])
        facts = loaded[name].facts
        display.say(f"Data set {name}: {facts['episodes']} episodes, {facts['steps']} steps from {facts['path']}")
    language = text_encoder(config.language)
    loaded = {name: taught(config.language, language, name, data, config.seed) for name, data in loaded.items()}
    spec: Spec = evaluation.spec if evaluation is not None else next(iter(loaded.values())).spec

    told = any("language" in episode.metadata for data in loaded.values() for episode in data.episodes)
    instructions = Instructions() if told else None
    images = any(array.is_image for array in spec.observation.values())
    sources: dict[str, ReplayBuffer] = {}
    for name, data in loaded.items():
        rows = sum(len(episode) + 1 for episode in data.episodes)
        mapped = config.datasets[name].images == "mapped"
        sources[name] = empty_buffer(config, spec, rows, instructions, mapped=mapped)
        for episode, weight in zip(data.episodes, data.weights, strict=True):
            sources[name].append(episode, weight=weight)
    statistics = None  # of all the data, also where a rank learns from a share of it
    if config.normalize_observations and sources:
        statistics = {
            key: (
                mean,
                torch.where(deviation < DEVIATION_FLOOR, deviation, deviation.clamp(min=config.minimum_deviation)),
            )
            for key, (mean, deviation) in next(iter(sources.values())).observation_statistics().items()
        }
    for name, data in loaded.items():
        if ranks.count > 1:
            shared = ranks.share(list(zip(data.episodes, data.weights, strict=True)), f"data set {name}")
            rows = sum(len(episode) + 1 for episode, _ in shared)
            mapped = config.datasets[name].images == "mapped"
            sources[name] = empty_buffer(config, spec, rows, instructions, mapped=mapped)
            for episode, weight in shared:
                sources[name].append(episode, weight=weight)
    tensors: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = {}
    if found is not None:
        tensors, state = checkpoint.load(found)
        require_same_settings(state["config"], config_json, found)
    elif config.start_from is not None:
        tensors, state = load_start(config.start_from, config_json, spec, normalized=statistics is not None)
    agent = build_agent(config, spec, statistics, config.seed)
    of_robot = {name: data for name, data in loaded.items() if config.datasets[name].domain == "robot"}
    for note in require_comparable(agent, of_robot, training):
        display.say(note)
    for name in loaded:
        sources[name].real = name in of_robot
        keep_frozen_features(agent, sources[name])
    average_gradients(agent, ranks)
    if not ranks.first:
        for generator in generators(agent):
            generator.manual_seed(seeds.integer("agent", "rank", ranks.rank))
    require_single_transitions(config, agent)
    for name, environment in (("online", training), ("robot", robot)):
        if ACTING[name] in state:
            rows = int(state[ACTING[name]]["capacity"])
            real = name == "robot" or "simulator" not in state["environments"]["training"]
        elif environment is None:
            continue
        else:
            if config.replay.capacity <= environment.maximum_steps:
                raise InputError(
                    f"replay.capacity={config.replay.capacity} cannot hold one episode of the environment, which has "
                    f"up to {environment.maximum_steps} steps: set it to {environment.maximum_steps + 1} at least"
                )
            phases = [phase for phase in config.phases.values() if phase.interact != "none" and phase.acts_for == name]
            # An episode takes one row more than it has steps, and has at least one step.
            rows = min(config.replay.capacity, 2 * sum(phase.steps for phase in phases) + 2)
            real = name == "robot" or "simulator" not in environment.spec.metadata
        sources[name] = empty_buffer(config, spec, rows, instructions)
        keep_frozen_features(agent, sources[name])
        sources[name].real = real

    begun = state.get("environments", {})
    origin: dict[str, Any] = {
        "config": config_json,
        "config_hash": config_hash(config_json),
        "datasets": {name: data.facts for name, data in loaded.items()},
        "spec": spec.to_json(),
        "language": described(language),
        "encoder_weights": encoder_weights(agent),
        # With those of the run that it started from, where it collected what is still learned from.
        "environments": {use: begun[use] for use in ("training", "robot") if use in begun}
        | {
            use: environment.spec.metadata for use, environment in vars(environments).items() if environment is not None
        },
    }
    if found is not None:
        require_same_data(state["datasets"], origin["datasets"], found)
    if not ranks.first:  # what another process than the first would record is dropped
        recorder = Recorder(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    elif found is None:
        recorder = Recorder(folder)
    else:
        recorder = Recorder(folder, resume_at=state["metrics_bytes"], work=Progress(**state["progress"]).work)

    stack.callback(recorder.close)
    policy = AgentPolicy(
        agent=agent,
        spec=spec,
        scale=ActionScale.from_spec(spec.action),
        device=torch.device(config.device),
        action_chunk=config.replay.action_chunk,
        chunk_ensemble=config.replay.chunk_ensemble,
        frame_stack=config.replay.frame_stack,
    )
    evaluator = None
    if evaluation is not None and ranks.first:
        evaluator = Evaluator(
            environment=evaluation,
            policy=policy,
            seeds=Seeds(config.evaluation.seed),
            episodes=config.evaluation.episodes,
            final_episodes=config.evaluation.final_episodes,
            videos=config.evaluation.videos,
            write_film=_FilmWriter(folder, spec),
            discount=config.replay.discount,
            reward=reward_transform(config.replay),
        )
    workers = config.replay.prefetch_workers
    if workers is None:
        workers = 2 if images else 0
    this = Run(
        folder=folder,
        origin=origin,
        phases=config.phases,
        agent=agent,
        fresh_agent=lambda index: build_agent(config, spec, statistics, seeds.integer("reset", index)),
        sources=sources,
        environment=training,
        robot=robot,
        policy=replace(policy, explore=True),
        evaluator=evaluator,
        recorder=recorder,
        display=display,
        clock=MonotonicClock(),
        seeds=seeds,
        generator=seeds.torch("batches") if ranks.first else seeds.torch("batches", ranks.rank),
        stop_requested=lambda: False,
        checkpoint_every_s=config.checkpoint_every_s,
        log_every=config.log_every,
        prefetch_workers=workers,
        execution=config.execution,
        ranks=ranks,
        beside=beside(config, folder, spec, [name for name in ACTING if name in sources]),
    )
    if this.beside is not None:
        for experience in this.beside.experience.values():
            stack.callback(experience.close)
    ranks.require_same(agent)
    if found is None and ranks.first:
        # Last, because these two make the folder a run: what was refused above leaves none behind.
        write_facts(folder, config, config_json, origin, words)
        if config.resume:
            display.say(f"{folder} has no checkpoint yet: starting from the beginning")
    elif found is not None:
        this.restore(int(found.name), tensors, state)
        display.say(f"Going on from {found}: phase {this.progress.phase}, step {this.progress.phase_step}")
    if found is None and config.start_from is not None:
        this.begin_from(tensors, state)
        display.say(f"Beginning with the agent of {config.start_from}")
    if this.beside is not None and (steps := take_in(this, state.get("recorded", {}) if found is not None else {})):
        display.say(f"{steps} steps that were recorded after the last checkpoint are kept, and learned from")
    return this


def load_start(
    place: str, config_json: dict[str, Any], spec: Spec, *, normalized: bool
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The last checkpoint of a finished run that another one begins with.

    Args:
        place: `start_from`, the run's folder.
        config_json: of the run that begins.
        spec: its observations and actions.
        normalized: its observations are, by data of its own.

    Raises:
        InputError: there is no finished run, its algorithm or observations are others, or normalised ones are wanted.
    """
    folder = Path(place).expanduser()
    found = checkpoint.checkpoints(folder / "checkpoints")
    if not found:
        raise InputError(f"start_from={place} has no checkpoint: give the folder of a finished run")
    tensors, state = checkpoint.load(found[-1])
    if state["progress"]["phase_index"] < len(state["config"]["phases"]):
        raise InputError(f"start_from={place} is not finished: go on with it first, with resume=true")
    theirs, ours = (flat({"algorithm": each["algorithm"]}) for each in (state["config"], config_json))
    different = [key for key in sorted(theirs | ours) if theirs.get(key) != ours.get(key)]
    if different:
        told = "; ".join(f"{key}: {theirs.get(key)} there, {ours.get(key)} here" for key in different)
        raise InputError(f"start_from={place} is of another agent: {told}. Give the same settings to both")
    check_fit(f"start_from={place}", Spec.from_json(state["spec"]), "the environment", spec)
    if normalized or (state["datasets"] and state["config"]["normalize_observations"]):
        raise InputError(
            f"start_from={place}: observations are normalised by data that one of both runs has and the other has not: "
            "set normalize_observations=false in both"
        )
    return tensors, state


class _FilmWriter:
    """Writes one film beside the run and answers with its path relative to it."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._folder = folder
        self._rate = 1.0 / spec.control_period_s if spec.control_period_s else 20.0

    def __call__(self, film: Film, result: EpisodeResult, name: str) -> str:
        outcome = {True: "success", False: "no success", None: f"return {result.episode_return:.1f}"}[result.success]
        path = self._folder / "videos" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        caption = f"{name} | {outcome}"
        write_video(path, film.frames, frames_per_second=self._rate, values=film.values or None, caption=caption)
        return str(path.relative_to(self._folder))


def _stop_on_signal(display: ConsoleDisplay, ranks: Ranks) -> contextlib.AbstractContextManager[list[int]]:
    """The first Ctrl-C (or SIGTERM) asks the loop to save and stop; the second stops at once.

    Not so under torchrun, which passes on the Ctrl-C that its processes have seen already, and ends them after 30 s.
    """
    said = "Stopping: finishing the episode, then saving. Press Ctrl-C again to stop at once."
    return stop_requests(lambda: display.say(said), second_stops=ranks.count == 1)
