"""Reads a run folder back into facts: its events, evaluations, phases, and the dip at the switch.

Nothing here knows how a report looks; `report.py` and `report_compare.py` draw what this file finds.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # PyYAML ships no types

from robot_rl.errors import InputError

EVENTS = ("phase_start", "phase_end", "train", "episode", "evaluation", "interrupt", "timing", "learner_lost")
DIP_WINDOW_STEPS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of `metrics.jsonl`."""

    event: str
    phase: str
    phase_index: int
    phase_step: int  # gradient updates in a phase without interaction, environment steps in one with
    environment_steps: int  # since the start of the run
    updates: int  # since the start of the run
    elapsed_s: float  # of training: evaluation, and time lost to a crash, are not in it
    metrics: dict[str, float]
    fields: dict[str, Any]  # what only some events carry: `interact`, `episodes`, `videos`


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationEpisode:
    """One episode of an evaluation."""

    seed: int | None
    total_reward: float
    length: int
    success: bool | None
    limit_hits: int | None = None  # steps with a joint at its limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The policy measured at one moment of training, in an environment of its own."""

    phase: str
    phase_index: int
    phase_step: int
    environment_steps: int
    updates: int
    online: bool
    """In or after the first phase that both interacts and updates."""
    interacted: bool
    """In or after the first phase that interacts, whether or not it updates."""
    metrics: dict[str, float]
    elapsed_s: float = 0.0
    episodes: tuple[EvaluationEpisode, ...] = ()
    videos: tuple[str, ...] = ()  # relative to the run's folder

    def metric(self, name: str) -> float:
        """The metric, or NaN where it was not measured."""
        return self.metrics.get(name, math.nan)

    @property
    def count(self) -> int:
        """Episodes behind the numbers; 0 where the record does not say."""
        return len(self.episodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dip:
    """What was lost when fine-tuning began, in the units of the score (success rate, or return)."""

    score: str  # success_rate | return_mean
    baseline: float
    minimum: float
    minimum_step: int  # environment steps since the switch
    recovery_step: int | None  # environment steps since the switch; None: not within the run
    window_steps: int
    significant: bool | None
    """The 95 % intervals of baseline and minimum are apart; None where there are no intervals."""

    @property
    def depth(self) -> float:
        """Baseline minus minimum; not positive where nothing was lost."""
        return self.baseline - self.minimum


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpan:
    """What one phase did, as far as it came."""

    name: str
    index: int
    interact: bool
    start: Event
    last: Event
    complete: bool

    @property
    def updates(self) -> int:
        """Gradient updates of this phase."""
        return self.last.updates - self.start.updates

    @property
    def environment_steps(self) -> int:
        """Environment steps of this phase."""
        return self.last.environment_steps - self.start.environment_steps

    @property
    def elapsed_s(self) -> float:
        """Wall time of this phase, without evaluation."""
        return self.last.elapsed_s - self.start.elapsed_s


Status = Literal["finished", "interrupted", "running", "empty"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, read."""

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]  # run.json
    events: list[Event]
    evaluations: list[Evaluation]
    phases: list[PhaseSpan]
    status: Status
    cut_line: bool = field(default=False)
    """The last line of the metrics was cut short and left out."""

    @property
    def switch(self) -> PhaseSpan | None:
        """The first phase that interacts and updates: where offline becomes online."""
        return next((phase for phase in self.phases if phase.interact and phase.updates > 0), None)

    @property
    def words(self) -> list[str] | None:
        """The command line behind `robot-rl` that began the run; None where a program did."""
        command = self.facts.get("command")
        return [str(word) for word in command] if isinstance(command, list) else None

    @property
    def score(self) -> str:
        """`success_rate` where the environment declares success, `return_mean` otherwise."""
        return score_name(self.evaluations)

    def training_series(self, name: str) -> tuple[list[int], list[float]]:
        """Gradient updates and values of a training metric."""
        found = [event for event in self.events if event.event == "train" and name in event.metrics]
        return [event.updates for event in found], [event.metrics[name] for event in found]


def score_name(evaluations: Sequence[Evaluation]) -> str:
    """`success_rate` where any evaluation measured it, `return_mean` otherwise."""
    declared = any(math.isfinite(evaluation.metric("success_rate")) for evaluation in evaluations)
    return "success_rate" if declared else "return_mean"


def baseline(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The last evaluation before the first online update: of the phases before, or at step 0 of the online phase.

    Evaluations whose score is not finite are left out. None where nothing was measured before the switch.
    """
    score = score_name(evaluations)
    first = next((evaluation for evaluation in evaluations if evaluation.online), None)
    start = math.inf if first is None else first.environment_steps - first.phase_step
    before = [
        evaluation
        for evaluation in evaluations
        if (not evaluation.online or evaluation.environment_steps <= start) and math.isfinite(evaluation.metric(score))
    ]
    return before[-1] if before else None


def dip(evaluations: Sequence[Evaluation], window_steps: int = DIP_WINDOW_STEPS) -> Dip | None:
    """What the switch to online training cost.

    It is measured against `baseline`. The minimum is sought in the first `window_steps` environment steps after the
    switch, and the recovery is the first later evaluation that reaches the baseline again. Scores that are not finite
    are left out.

    Args:
        evaluations: in the order of training.
        window_steps: environment steps after the switch.

    Returns:
        None where there is no baseline, or no evaluation in the window.
    """
    score = score_name(evaluations)
    measured = [evaluation for evaluation in evaluations if math.isfinite(evaluation.metric(score))]
    before = baseline(evaluations)
    first = next((evaluation for evaluation in evaluations if evaluation.online), None)
    if first is None or before is None:
        return None
    start = first.environment_steps - first.phase_step
    after = [evaluation for evaluation in measured if evaluation.online and evaluation.environment_steps > start]
    window = [evaluation for evaluation in after if evaluation.environment_steps - start <= window_steps]
    if not window:
        return None
    lowest = min(window, key=lambda evaluation: evaluation.metric(score))
    recovered = next(
        (
            evaluation.environment_steps - start
            for evaluation in after
            if evaluation.environment_steps >= lowest.environment_steps
            and evaluation.metric(score) >= before.metric(score)
        ),
        None,
    )
    low, high = before.metric("success_low"), lowest.metric("success_high")
    return Dip(
        score=score,
        baseline=before.metric(score),
        minimum=lowest.metric(score),
        minimum_step=lowest.environment_steps - start,
        recovery_step=recovered,
        window_steps=window_steps,
        significant=high < low if score == "success_rate" and math.isfinite(low) and math.isfinite(high) else None,
    )


def read_run(path: Path) -> Run:
    """Read a run folder, however far the run came.

    Raises:
        InputError: where a file is missing or broken; a last line of metrics cut short by a crash is left out instead.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not the folder of a run: give one that `robot-rl train` wrote")
    events, cut_line = read_events(path / "metrics.jsonl")
    config = _read_config(path / "config.yaml")
    phases = _phases(events)
    planned = config.get("phases")
    return Run(
        path=path,
        config=config,
        facts=_read_facts(path / "run.json"),
        events=events,
        evaluations=_evaluations(events, phases),
        phases=phases,
        status=_status(events, phases, len(planned) if isinstance(planned, dict | list) else None),
        cut_line=cut_line,
    )


def read_events(path: Path) -> tuple[list[Event], bool]:
    """The events of `metrics.jsonl` in the order of training, and whether the last line was cut short.

    Raises:
        InputError: where the file is missing, or a line before the last is not an event.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: the folder is not a run, or the run has not begun")
    lines = [
        line for line in enumerate(path.read_text("utf-8", errors="replace").split("\n"), start=1) if line[1].strip()
    ]
    events: list[Event] = []
    cut_line = False
    for count, (number, line) in enumerate(lines, start=1):
        try:
            event = _event(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            if count == len(lines):
                cut_line = True
                continue
            raise InputError(
                f"{path}, line {number} is not an event of a run ({error!r}): the file was changed or damaged; "
                "restore it, or delete the line to go without it"
            ) from error
        events.append(event)
    return events, cut_line


def _event(line: Any) -> Event:
    if not isinstance(line, dict):
        raise TypeError(f"an object was expected, not {type(line).__name__}")
    if line["event"] not in EVENTS:
        raise ValueError(f"unknown event {line['event']!r}")
    known = ("event", "phase", "phase_index", "phase_step", "environment_steps", "updates", "elapsed_s", "metrics")
    return Event(
        event=line["event"],
        phase=str(line["phase"]),
        phase_index=int(line["phase_index"]),
        phase_step=int(line["phase_step"]),
        environment_steps=int(line["environment_steps"]),
        updates=int(line["updates"]),
        elapsed_s=float(line["elapsed_s"]),
        metrics={str(name): math.nan if value is None else float(value) for name, value in line["metrics"].items()},
        fields={name: value for name, value in line.items() if name not in known},
    )


def _phases(events: Sequence[Event]) -> list[PhaseSpan]:
    spans: list[PhaseSpan] = []
    for index in sorted({event.phase_index for event in events}):
        of_phase = [event for event in events if event.phase_index == index]
        starts = [event for event in of_phase if event.event == "phase_start"]
        first = starts[0] if starts else of_phase[0]
        moved = of_phase[-1].environment_steps > first.environment_steps
        spans.append(
            PhaseSpan(
                name=first.phase,
                index=index,
                interact=bool(first.fields.get("interact", moved)),
                start=first,
                last=of_phase[-1],
                complete=any(event.event == "phase_end" for event in of_phase),
            )
        )
    return spans


def _evaluations(events: Sequence[Event], phases: Sequence[PhaseSpan]) -> list[Evaluation]:
    never = len(phases) + max((phase.index for phase in phases), default=0)
    interacting = next((phase.index for phase in phases if phase.interact), never)
    online = next((phase.index for phase in phases if phase.interact and phase.updates > 0), never)
    return [
        Evaluation(
            phase=event.phase,
            phase_index=event.phase_index,
            phase_step=event.phase_step,
            environment_steps=event.environment_steps,
            updates=event.updates,
            online=event.phase_index >= online,
            interacted=event.phase_index >= interacting,
            metrics=event.metrics,
            elapsed_s=event.elapsed_s,
            episodes=tuple(_episode(entry) for entry in event.fields.get("episodes") or ()),
            videos=tuple(str(video) for video in event.fields.get("videos") or ()),
        )
        for event in events
        if event.event == "evaluation"
    ]


def _episode(entry: dict[str, Any]) -> EvaluationEpisode:
    total = entry.get("return")
    return EvaluationEpisode(
        seed=entry.get("seed"),
        total_reward=math.nan if total is None else float(total),
        length=int(entry.get("length", 0)),
        success=None if entry.get("success") is None else bool(entry["success"]),
        limit_hits=None if entry.get("limit_hits") is None else int(entry["limit_hits"]),
    )


def _status(events: Sequence[Event], phases: Sequence[PhaseSpan], planned: int | None) -> Status:
    if not events:
        return "empty"
    if events[-1].event == "interrupt":
        return "interrupted"
    finished = phases[-1].complete and (planned is None or phases[-1].index + 1 >= planned)
    return "finished" if finished else "running"


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a configuration ({error}): restore it from the run's checkpoint") from error
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): restore it, or delete it to go without it") from error
    return facts if isinstance(facts, dict) else {}
