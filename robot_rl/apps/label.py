"""`robot-rl label`: rewards and success that are made of frames, written into a store."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from robot_rl import checkpoint
from robot_rl.apps import label_preference
from robot_rl.apps.build import device_of
from robot_rl.apps.command import command_line
from robot_rl.apps.ingest import here
from robot_rl.apps.label_frames import (
    RECORDED_REWARD,
    RECORDED_SUCCESS,
    UNKNOWN,
    StoreFrames,
    frames_of,
    successes,
)
from robot_rl.apps.label_kinds import (
    Fitted,
    fit_classifier,
    fit_stages,
    fit_value,
    kind_of,
    require_finite,
    score_measures,
)
from robot_rl.apps.label_page import write_page
from robot_rl.apps.run_folder import lock
from robot_rl.datasets import edit
from robot_rl.datasets.remote import refuse_existing_at
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError
from robot_rl.functional.shaping import percentile_map, rolling_minimum
from robot_rl.label_config import LabelConfig
from robot_rl.rewards import LABEL_CONFIGS
from robot_rl.rewards.classifier import ClassifierConfig
from robot_rl.rewards.forms import rewards_of
from robot_rl.rewards.judge import save_judge
from robot_rl.rewards.preference import PreferenceConfig
from robot_rl.rewards.settings import RewardForm
from robot_rl.rewards.stages import StagesConfig
from robot_rl.rewards.value import ValueConfig
from robot_rl.seeding import Seeds
from robot_rl.types import Array, Episode, Metrics

SUMMARY = "Label a store from its frames: rewards by a video value, a classifier, a vision-language model, or stages."

JUDGE = "judge.safetensors"
SAID_EVERY = 20  # steps of a fit between two numbers


def run(config: LabelConfig, words: Sequence[str] | None = None) -> int:
    """Judge every frame, and write what follows; exit status 0, or 130 when a person stopped the buying of labels.

    Args:
        config: what to do.
        words: the command line behind `robot-rl`; None where a program calls.
    """
    kind = kind_of(config.label, LABEL_CONFIGS)
    console = Console(stderr=True)
    store = _open(config)
    frames = frames_of(store, config.camera)
    torch.set_num_threads(config.threads)
    if config.dry_run:
        _say_plan(config, kind, frames)
        return 0
    folder = Path(config.folder).expanduser()
    learning: list[tuple[int, dict[str, float]]] = []
    with lock(folder), _bars(console) as bars:
        fitted = _fit(config, frames, folder, console, bars, learning)
        if fitted is None:
            console.print("[bold yellow]Stopped.[/] What was bought is kept.")
            said = "the same call again" if words is None else command_line(words)
            console.print(f"Go on with: {said}", markup=False, soft_wrap=True)
            return 130
        scores = _scores(fitted, frames, bars)
        reward: RewardForm = config.label.reward
        offset, scale = (0.0, 1.0)
        if reward.normalize == "percentiles":
            offset, scale = percentile_map(np.concatenate(scores))
            scores = [(score - offset) * scale for score in scores]
        require_finite(scores, "score")
        tensors, packed = fitted.judge.pack()
        digest = save_judge(
            folder / JUDGE, tensors, {**packed, "camera": frames.camera, "offset": offset, "scale": scale}
        )
        facts = _facts(config, kind, frames, fitted, scores, digest, (offset, scale), words)
        report = _write_folder(folder, config, kind, fitted, frames, scores, facts, learning)
        made = _relabel(config, frames, fitted, scores, facts["provenance"]) if config.write else None
    _print(Console(), facts["measures"], made, config.output is None)
    console.print(f"Report: {report}", markup=False, soft_wrap=True)
    return 0


def _open(config: LabelConfig) -> EpisodeStore:
    if not config.store:
        raise InputError("which store? `robot-rl label STORE label=NAME`")
    path = here(config.store)
    if config.output is not None and config.write and Path(config.output) != Path(config.store):
        refuse_existing_at(here(config.output), overwrite=config.overwrite)
    return EpisodeStore.open(path)


def _fit(
    config: LabelConfig,
    frames: StoreFrames,
    folder: Path,
    console: Console,
    bars: Progress,
    learning: list[tuple[int, dict[str, float]]],
) -> Fitted | None:
    """The judge; None where a person stopped it."""
    seeds, device = Seeds(config.seed), device_of(config.device)
    match config.label:
        case ValueConfig():
            return fit_value(config.label, frames, device)
        case StagesConfig():
            return fit_stages(config.label, frames, seeds, device)
        case ClassifierConfig():
            advance = _advance(bars, config.label.fit.steps, learning)
            return fit_classifier(config.label, frames, seeds, device, advance)
        case PreferenceConfig():
            planned = label_preference.plan(config.label, frames, seeds)
            task = bars.add_task("labels", total=len(planned.queries), numbers="")

            def bought_so_far(done: int, failed: int) -> None:
                bars.update(task, completed=done + failed, numbers=f"{failed} failed" if failed else "")

            path = folder / label_preference.ANSWERS
            bought = label_preference.buy(config.label, planned, path, seeds, console, bought_so_far)
            if bought.stopped:
                return None
            advance = _advance(bars, config.label.fit.steps, learning)
            return label_preference.fit_preference(config.label, frames, planned, bought, seeds, device, advance)
    raise TypeError(f"{type(config.label).__name__} is no kind of label")


def _scores(fitted: Fitted, frames: StoreFrames, bars: Progress) -> list[Array]:
    count = len(frames.store)
    task = bars.add_task("episodes", total=count, numbers="")
    scores = []
    for episode in range(count):
        scores.append(fitted.score(episode))
        bars.advance(task)
    return scores


# Writing --------------------------------------------------------------------------------------------------------------


def _relabel(
    config: LabelConfig, frames: StoreFrames, fitted: Fitted, scores: list[Array], provenance: dict[str, Any]
) -> edit.Made:
    """Write the store with its labels, whole or not at all."""
    path = here(config.store)
    if EpisodeStore.open(path).digests != frames.store.digests:
        raise InputError(f"{path} was changed meanwhile, so nothing was written: give the command again")
    writes_success = isinstance(config.label, ClassifierConfig) and config.label.success
    gives = (["reward"] if config.label.reward.form != "kept" else []) + (["success"] if writes_success else [])
    return edit.rewrite(
        path,
        lambda index, episode: labelled(
            episode,
            scores[index],
            config.label.reward,
            name=config.name,
            threshold=fitted.threshold,
            hold=fitted.hold,
            writes_success=writes_success,
        ),
        {"operation": "label", **provenance},
        None if config.output is None else here(config.output),
        gives=gives,
        overwrite=config.overwrite,
    )


def labelled(
    episode: Episode,
    score: Array,
    form: RewardForm,
    *,
    name: str,
    threshold: float | None = None,
    hold: int = 1,
    writes_success: bool = False,
) -> Episode:
    """The episode with its score as the extra `score/NAME`, and with the reward and the success that follow from it.

    What was recorded goes into the extras `recorded/reward` and `recorded/success`, and a second label begins from it.

    Args:
        episode: as it is.
        score: of every observation, normalised.
        form: what the reward becomes.
        name: of the label.
        threshold: from where on an observation is a success.
        hold: so many in a row must be.
        writes_success: the success of every step is that of the observation behind it.

    Shapes: score (T + 1,).
    """
    score = score.astype(np.float32)  # as it is stored, so that the rest follows from what is stored
    extras = dict(episode.extras) | {f"score/{name}": score}
    reward, success = episode.reward, episode.success
    lowest = score if threshold is None else rolling_minimum(score, hold)
    if form.form != "kept":
        recorded = extras.setdefault(RECORDED_REWARD, episode.reward)
        reward = rewards_of(
            form, recorded, lowest if form.form == "above" else score, episode.terminated, threshold
        ).astype(episode.reward.dtype)
    if writes_success:
        assert threshold is not None
        known = np.full(len(episode), UNKNOWN, np.int8) if success is None else success.astype(np.int8)
        extras.setdefault(RECORDED_SUCCESS, known)
        success = lowest[1:] >= threshold
    return replace(episode, reward=reward, success=success, extras=extras)


def _facts(
    config: LabelConfig,
    kind: str,
    frames: StoreFrames,
    fitted: Fitted,
    scores: list[Array],
    digest: str,
    mapped: tuple[float, float],
    words: Sequence[str] | None,
) -> dict[str, Any]:
    """All that is to be known later, as JSON."""
    provenance = {
        "kind": kind,
        "name": config.name,
        "camera": frames.camera,
        "judge_sha256": digest,
        "offset": mapped[0],
        "scale": mapped[1],
        "threshold": fitted.threshold,
        "seed": config.seed,
        "config": asdict(config.label),
        **fitted.provenance,
    }
    return {
        "measures": {**fitted.measures, **score_measures(scores, successes(frames.store))},
        "provenance": provenance,
        "store": str(frames.store.path),
        "command": None if words is None else command_line(words),
    }


def _write_folder(
    folder: Path,
    config: LabelConfig,
    kind: str,
    fitted: Fitted,
    frames: StoreFrames,
    scores: list[Array],
    facts: dict[str, Any],
    learning: Sequence[tuple[int, dict[str, float]]],
) -> Path:
    shown = np.unique(np.linspace(0, len(scores) - 1, config.shown_episodes).round().astype(int)).tolist()
    with clear_disk_errors(folder):
        checkpoint.write_text(folder / "measures.json", json.dumps(facts["measures"], indent=1))
        settings = {**asdict(config), "label": {"kind": kind, **asdict(config.label)}}
        checkpoint.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
    title = f"Labels of {frames.store.path.name}: {kind}"
    return write_page(folder, title, fitted, frames, scores, shown, facts, learning)


# Output ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[numbers]}"), console=console) as bars:
        yield bars


def _advance(bars: Progress, steps: int, learning: list[tuple[int, dict[str, float]]]) -> Any:
    task = bars.add_task("fit", total=steps, numbers="")

    def advance(done: int, metrics: Metrics) -> None:
        if done % SAID_EVERY == 0 or done == steps:
            numbers = {name: float(value) for name, value in metrics.items()}
            learning.append((done, numbers))
            shown = "  ".join(f"{name.partition('/')[2]} {value:.3g}" for name, value in numbers.items())
            bars.update(task, completed=done, numbers=shown)

    return advance


def _say_plan(config: LabelConfig, kind: str, frames: StoreFrames) -> None:
    out = Console()
    store = frames.store
    target = "nothing is written" if not config.write else f"written to {config.output or store.path}"
    out.print(
        f"{kind}: {len(store)} episodes, {store.rows} frames of {frames.camera} of {store.path}; {target}",
        markup=False,
        soft_wrap=True,
    )
    if isinstance(config.label, PreferenceConfig):
        planned = label_preference.plan(config.label, frames, Seeds(config.seed))
        path = Path(config.folder).expanduser() / label_preference.ANSWERS
        numbers = label_preference.estimate(config.label, planned, path)
        out.print(
            f"Questions: {numbers['requests_left']} to be asked of {numbers['requests']} (two for each of "
            f"{len(planned.queries)} comparisons of {numbers['pairs']} pairs); {numbers['answers_kept']} answers are "
            f"kept in {path}. Pictures: {numbers['pictures_mb']} MB for all of them.",
            markup=False,
            soft_wrap=True,
        )
        if numbers["minutes_at_least"] is not None:
            out.print(f"At this limit of requests: {numbers['minutes_at_least']} minutes at least.")


def _print(out: Console, measures: dict[str, Any], made: edit.Made | None, in_place: bool) -> None:
    table = Table(show_header=False, box=None)
    for name, value in measures.items():
        if value is None or isinstance(value, dict):
            continue
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    out.print(table)
    if made is not None:
        counts = f": {made.episodes} episodes, {made.steps} steps"
        out.print(Text.assemble(("Wrote ", "green"), (made.path, "bold"), counts), soft_wrap=True)
        if in_place:
            out.print(Text("The store was replaced when the new one was whole.", "dim"))
