"""A training run's state, and what its loops share: logging, evaluation, checkpoints.

All state is in `Run`, so a checkpoint of it goes on with the same numbers on the same machine.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from robot_rl import checkpoint
from robot_rl.algorithms import with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.clock import Clock
from robot_rl.config import ExecutionConfig, PhaseConfig
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.loops.distributed import Ranks
from robot_rl.loops.evaluate import EpisodeResult, evaluate
from robot_rl.loops.remote import Beside
from robot_rl.loops.rollout import AgentPolicy, Film
from robot_rl.loops.trace import generators
from robot_rl.recorder import Progress, Recorder
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.mixture import check_shares
from robot_rl.replay.suspects import suspect
from robot_rl.seeding import Seeds
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Metrics

ACTING = {"online": "replay", "robot": "robot_replay"}
"""Sources that a run fills itself, and what they are called in its checkpoints."""
SAVING_SHARE = 0.05
"""Largest share of the time that periodic checkpoints may take; a large replay buffer is then saved less often."""


class Display(Protocol):
    """Shows a person where the run is."""

    def begin_phase(self, name: str, done: int, steps: int, interact: bool) -> None:
        """A phase starts, or goes on after `done` steps."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """So many steps of the phase are done; the newest numbers."""

    def evaluating(self, done: int, episodes: int) -> None:
        """So many episodes of an evaluation are done."""

    def evaluation(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """An evaluation ended."""

    def say(self, text: str) -> None:
        """One line."""


class EvaluationStoppedError(Exception):
    """A stop was requested during an evaluation that can be done again."""


@dataclass(kw_only=True)
class Evaluator:
    """Evaluates the present policy in an environment that training never touches."""

    environment: Environment
    policy: AgentPolicy  # its mode
    seeds: Seeds
    episodes: int
    final_episodes: int
    videos: int
    write_film: Callable[[Film, EpisodeResult, str], str]  # film, result, name -> path relative to the run's folder
    discount: float
    reward: RewardTransform


@dataclass(kw_only=True)
class Run:
    """Everything that moves while a run goes on. `save` and `restore` are exact inverses."""

    folder: Path
    origin: dict[str, Any]  # JSON: configuration and its hash, data sets, spec; goes into the checkpoint as it is
    phases: dict[str, PhaseConfig]
    agent: Agent
    fresh_agent: Callable[[int], Agent]  # a new one, for resets; the argument is the phase's index
    sources: dict[str, ReplayBuffer]  # data sets, and `online` and `robot` where any phase interacts
    environment: Environment | None  # None where no phase interacts
    policy: AgentPolicy  # exploring
    evaluator: Evaluator | None
    recorder: Recorder
    display: Display
    clock: Clock
    seeds: Seeds
    generator: torch.Generator  # draws batches and uniform actions
    stop_requested: Callable[[], bool]  # of this process; the loops ask `should_stop`
    checkpoint_every_s: float
    log_every: int
    robot: Environment | None = None  # None where no phase acts on the robot
    prefetch_workers: int = 0  # threads that gather batches ahead, in phases without interaction
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)  # of the updates
    ranks: Ranks = field(default_factory=Ranks)  # the processes that learn together
    beside: Beside | None = None  # None learns inline
    problem: str | None = None  # why the run has to be gone on with
    progress: Progress = field(default_factory=Progress)
    saved: int = 0  # checkpoints written so far
    _saved_ns: int = 0
    _save_ns: int = 0
    _tick_ns: int = 0
    _logged_s: float = 0.0
    _tick_steps: int = 0
    _tick_updates: int = 0

    def __post_init__(self) -> None:
        self.base_config = self.agent.config
        for index, (name, phase) in enumerate(self.phases.items()):
            check_shares(phase.shares, self.sources, f"phases.{name}")
            with_overrides(self.base_config, phase.algorithm)
            if phase.reset:
                fresh = self.fresh_agent(index)
                checkpoint.reset_parts(fresh, fresh, phase.reset)
        self._saved_ns = self._tick_ns = self.clock.now_ns()

    def skip_time(self) -> None:
        """Forget the time since the last tick: it was not spent on training."""
        self._tick_ns = self.clock.now_ns()

    def begin_rates(self) -> None:
        """Start counting steps and updates per second anew, as at the start of a phase."""
        self.skip_time()
        self._logged_s = self.progress.elapsed_s
        self._tick_steps, self._tick_updates = self.progress.environment_steps, self.progress.updates

    # Called by the loops ----------------------------------------------------------------------------------------------

    def should_stop(self) -> bool:
        """A stop was requested, of whichever process."""
        return self.ranks.any(self.stop_requested())

    def next_stop(self, phase: PhaseConfig, updates: int) -> int:
        """The step up to which `updates` at a time may go on without anything being due in between.

        It follows from the present step alone, so that an interrupted run goes on in the same pieces.
        """
        step = self.progress.phase_step
        stops = [(step // every + 1) * every for every in (updates, self.log_every, phase.evaluate_every) if every > 0]
        return min(*stops, *(at for at in phase.evaluate_at if at > step), phase.steps)

    def after_step(self, phase: PhaseConfig, metrics: Metrics) -> None:
        """Count, log and evaluate what is due after a step of the phase; `metrics` of its last update."""
        step = self.progress.phase_step
        if step % self.log_every == 0:
            self.log(metrics)
        due = step in phase.evaluate_at or (phase.evaluate_every > 0 and step % phase.evaluate_every == 0)
        if due and step < phase.steps:
            self.evaluate()

    def log(self, metrics: Metrics) -> None:
        """One line of training metrics, with the rates since the last one; where nothing learns, of the rates alone.

        Raises:
            InputError: a metric is not finite.
        """
        steps, updates = self._tick_steps, self._tick_updates
        self.tick()
        seconds = max(self.progress.elapsed_s - self._logged_s, 1e-9)
        self._logged_s = self.progress.elapsed_s
        numbers = {name: float(value) for name, value in metrics.items()}
        numbers["updates_per_s"] = (self.progress.updates - updates) / seconds
        if self.phases[self.progress.phase].interact != "none":
            numbers["steps_per_s"] = (self.progress.environment_steps - steps) / seconds
        self._tick_steps, self._tick_updates = self.progress.environment_steps, self.progress.updates
        self.recorder.event("train", self.progress, numbers)
        self.display.advance(self.progress.phase_step, numbers)
        self._require_finite({name: numbers[name] for name in metrics})

    def _require_finite(self, found: Mapping[str, float]) -> None:
        """Refuse to go on from, or to save, what has diverged.

        Raises:
            InputError: names what is not finite, and where the run is.
        """
        for name, value in found.items():
            if not math.isfinite(value):
                kept = checkpoint.checkpoints(self.folder / "checkpoints")
                last = f"The last checkpoint is {kept[-1]}" if kept else "There is no checkpoint yet"
                data = suspect(self.sources)
                advice = "with smaller learning rates or rewards"
                if data is not None:
                    advice += f", or without a number that may be wrong: {data}"
                raise InputError(
                    f"training diverged: {name} is {value} in phase {self.progress.phase} at step "
                    f"{self.progress.phase_step}. {last}; going on ends in the same way, so begin a new run {advice}"
                )

    def evaluate_at_end(self, *, last: bool) -> bool:
        """Evaluate and film at the end of a phase; False when a stop was requested meanwhile: it is then done again."""
        done = True
        try:
            self.evaluate(at_end=True, last=last)
        except EvaluationStoppedError:
            done = False
        return self.ranks.decide(done)

    def evaluate(self, *, at_end: bool = False, last: bool = False) -> None:
        """Evaluate the present policy on new seeds; films only at the end of a phase.

        Raises:
            EvaluationStoppedError: a stop was requested at the end of a phase.
        """
        if self.evaluator is None:
            return
        evaluator = self.evaluator
        self.tick()
        number = self.progress.evaluations
        count = evaluator.final_episodes if last else evaluator.episodes
        seeds = [evaluator.seeds.integer("evaluation", number, index) for index in range(count)]
        done: list[EpisodeResult] = []

        def after_episode(result: EpisodeResult) -> None:
            done.append(result)
            self.display.evaluating(len(done), count)
            if at_end and len(done) < count and self.stop_requested():
                raise EvaluationStoppedError

        results, metrics, films = evaluate(
            evaluator.environment,
            evaluator.policy,
            seeds,
            films=evaluator.videos if at_end else 0,
            on_episode=after_episode,
            discounting=(evaluator.reward, evaluator.discount),
        )
        name = f"{self.progress.phase_index}_{self.progress.phase}"
        videos = [
            evaluator.write_film(film, result, f"{name}_{index}")
            for index, (film, result) in enumerate(zip(films, results, strict=False))
        ]
        self.progress.evaluations += 1
        self.progress.last_success = metrics.get("success_rate")
        episodes = [result.to_json() for result in results]
        self.skip_time()  # evaluation is not training time
        self.recorder.event("evaluation", self.progress, metrics, episodes=episodes, videos=videos)
        self.display.evaluation(self.progress, metrics)

    def save_is_due(self) -> bool:
        """The last checkpoint is old enough."""
        age_ns = self.clock.now_ns() - self._saved_ns
        return age_ns >= max(self.checkpoint_every_s * 1e9, self._save_ns / SAVING_SHARE)

    def save_if_due(self) -> None:
        """Write a checkpoint when the last one is old enough. To be called where no episode is running."""
        if self.ranks.decide(self.save_is_due()):
            self.tick()
            self.save()

    def tick(self) -> None:
        """Count the time since the last tick as time of the run."""
        now = self.clock.now_ns()
        self.progress.elapsed_s += (now - self._tick_ns) * 1e-9
        self._tick_ns = now

    # State ------------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of everything.

        Raises:
            InputError: training has diverged, or the disk is full; the checkpoints before stay.
        """
        begin = self.clock.now_ns()
        tensors, agent_state = checkpoint.pack_agent(self.agent)
        self._require_finite({name: float(value.sum()) for name, value in tensors.items() if value.is_floating_point()})
        tensors = {f"agent.{key}": value for key, value in tensors.items()}
        tensors["generator"] = self.generator.get_state()
        if self.ranks.count > 1:
            self.ranks.require_same(self.agent)
            tensors["ranks"] = torch.stack(self.ranks.gather(torch.cat([each.get_state() for each in self._own])))
        state: dict[str, Any] = {
            **self.origin,
            "progress": asdict(self.progress),
            "agent": agent_state,
            "metrics_bytes": self.recorder.sync(),
            "ranks": self.ranks.count,
        }
        if self.beside is not None:
            state["recorded"] = {name: len(each) for name, each in self.beside.experience.items()}
        for name, place in ACTING.items():
            if name in self.sources:
                replay, state[place] = self.sources[name].state()
                tensors |= {f"{place}.{key}": value for key, value in replay.items()}
        self.saved += 1
        if self.ranks.first:
            checkpoint.save(self.folder / "checkpoints", self.saved, tensors, state)
        self._saved_ns = self.clock.now_ns()
        self._save_ns = self._saved_ns - begin

    def restore(self, number: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Undo `save` on a run that was built from the same configuration.

        Raises:
            InputError: another number of processes saved it.
        """
        before = state.get("ranks", 1)
        if before != self.ranks.count:
            raise InputError(
                f"the run in {self.folder} is one of {before} process(es), not of {self.ranks.count}: go on with "
                f"`torchrun --nproc-per-node {before}`, or without torchrun where it is one"
            )
        checkpoint.unpack_agent(self.agent, checkpoint.under(tensors, "agent"), state["agent"])
        self.generator.set_state(tensors["generator"])
        if self.ranks.count > 1:
            sizes = [len(each.get_state()) for each in self._own]
            for generator, own in zip(self._own, tensors["ranks"][self.ranks.rank].split(sizes), strict=True):
                generator.set_state(own.clone())
        self.progress = Progress(**state["progress"])
        for name, place in ACTING.items():
            if name in self.sources:
                self.sources[name].restore(checkpoint.under(tensors, place), state[place])
        self.saved = number

    def begin_from(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Take the agent of another run's checkpoint, what it collected, and how often it succeeded at last.

        The run itself is at its beginning, and the agent's generators stay those of this run.
        """
        become(self.agent, checkpoint.under(tensors, "agent"), state["agent"])
        self.progress.last_success = state["progress"].get("last_success")
        for name, place in ACTING.items():
            if name in self.sources and place in state:
                self.sources[name].restore(checkpoint.under(tensors, place), state[place])

    @property
    def _own(self) -> list[torch.Generator]:
        """The generators that differ from rank to rank."""
        return [self.generator, *generators(self.agent)]


def become(agent: Agent, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Make an agent what another one was when it was packed, but for the generators: it draws its own numbers."""
    drawn = [each.get_state() for each in generators(agent)]
    checkpoint.unpack_agent(agent, tensors, state)
    for generator, before in zip(generators(agent), drawn, strict=True):
        generator.set_state(before)
