"""A recording, in any format that has a reader, becomes a store: in parallel by episode, whole or not at all.

The work is a job: a reader, a source, what the person says about it, and what is done to every episode. Its hash names
the folder in which the store grows, so the same command goes on where it was stopped. The store is the same, bit for
bit, whatever the engine, the number of workers, and the interruptions.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from robot_rl.datasets.convert_append import Known, appended, require_same_spec
from robot_rl.datasets.convert_partial import JOURNAL, STORE, Journal, discard, resumable, state_of
from robot_rl.datasets.convert_transforms import Transforms, choose_tiers
from robot_rl.datasets.convert_workers import Job, Outcomes, Resumable, in_processes, in_this_process, on_ray
from robot_rl.datasets.convert_write import Writer, finish
from robot_rl.datasets.frames import lazy
from robot_rl.datasets.ingest.base import ReadOptions, Recording, plain
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.remote import is_url, refuse_existing_at
from robot_rl.datasets.schema import SCHEMA_VERSION, SEVERITIES, Finding
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import is_store
from robot_rl.datasets.validate import validate
from robot_rl.datasets.video import VideoFrames
from robot_rl.errors import InputError

VERSION = 1
"""Of the conversion: raised when it makes another store of the same source, so that no half of an old one is used."""
LARGE_SOURCE_BYTES = 64 << 20  # from which starting processes pays
SHOWN = 20  # episodes that were left out for an error, by name
"""More of them are counted; the provenance of the store has them all."""


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """How to convert; the fields mirror `IngestConfig`."""

    format: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    transforms: Transforms = field(default_factory=Transforms)
    overwrite: bool = False
    append: bool = False
    on_error: str = "drop"
    workers: int | None = None
    engine: str = "local"


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a conversion is."""

    stage: str  # opening | reading | checking
    format: str = ""
    episodes: int = 0  # of the source that were looked at, and are safe
    total: int = 0
    resumed: int = 0  # of them, those that an earlier run looked at
    stored: int = 0
    steps: int = 0  # that this run stored
    frames: int = 0  # images that this run stored


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a conversion did."""

    path: str  # of the store, or its URL
    format: str
    episodes: int  # in the store
    steps: int
    frames: int  # images that were stored
    stored: int  # episodes of this source in it
    dropped: int  # episodes that could not be used
    left_out: Mapping[str, int]  # episodes that are not wanted, by reason
    resumed: int  # episodes that an earlier run looked at
    findings: Sequence[Finding]
    duration_s: float

    @property
    def complete(self) -> bool:
        """Nothing was dropped, and no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)


Progress = Callable[[State], None]


def convert(
    source: str | Path, store: str | Path, settings: ConvertSettings | None = None, *, progress: Progress | None = None
) -> Report:
    """Make a store of a recording, or go on making it, and check it.

    The store appears under its name when it is complete. Until then what is safe lies in a hidden folder beside it.

    Args:
        source: a file or a folder.
        store: to be made.
        settings: None takes the defaults.
        progress: is told how far it is, after every commit.

    Raises:
        InputError: the source cannot be read, a setting does not fit it, or no episode is left.
        KeyboardInterrupt: as it came; what is committed is kept for the next call.
    """
    settings = ConvertSettings() if settings is None else settings
    source = Path(source)
    tell = _silent if progress is None else progress
    began = time.monotonic()
    if settings.append and is_url(store):
        raise InputError(f"append=true adds to stores of this machine, {store} is none: merge it with `robot-rl edit`")
    appends = settings.append and is_store(Path(store))
    if not appends:
        refuse_existing_at(store, overwrite=settings.overwrite)  # before the source is read through
    reader = find_reader(source, settings.format)
    tell(State(stage="opening", format=reader.name))
    with reader.open(source, settings.read) as recording:
        opened = list(recording.findings)
        if not recording.spec.observation:
            why = "; ".join(finding.text for finding in opened if finding.severity == "error")
            why = f": {why}" if why else ""
            raise InputError(f"{source} has no observation that can be read, so nothing was written{why}")
        job = _job(source, reader.name, recording, settings)
        _require_video(recording, job)
        work = _Work(recording=recording, job=job, settings=settings, tell=tell)
        journal, made = _append(work, Path(store)) if appends else _create(work, store)
    entries = journal.entries
    findings = [
        *_dropped(journal),
        *opened,
        *dict.fromkeys(finding for entry in entries for finding in entry.findings),
        *settings.read.overruled(recording.spec, source.name),
        *_left_out(journal, source.name),
        *made.findings,
    ]
    return Report(
        path=str(store),
        format=reader.name,
        episodes=made.episodes,
        steps=made.steps,
        frames=work.frames,
        stored=sum(entry.stored for entry in entries),
        dropped=sum(entry.error is not None for entry in entries),
        left_out=state_of(journal)["left_out"],
        resumed=work.resumed,
        findings=sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)),
        duration_s=time.monotonic() - began,
    )


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A store that was made, and looked at."""

    episodes: int
    steps: int
    findings: Sequence[Finding]


@dataclass(kw_only=True)
class _Work:
    """A conversion in progress."""

    recording: Recording
    job: Job
    settings: ConvertSettings
    tell: Progress
    resumed: int = 0
    episodes: int = 0
    stored: int = 0
    steps: int = 0
    frames: int = 0

    def state(self, stage: str) -> State:
        """For `progress`."""
        return State(
            stage=stage,
            format=self.job.format,
            episodes=self.episodes,
            total=len(self.recording),
            resumed=self.resumed,
            stored=self.stored,
            steps=self.steps,
            frames=self.frames,
        )

    def committed(self, writer: Writer) -> None:
        """Take over how far the writer is, and tell it."""
        self.episodes, self.stored = len(writer.journal.entries), len(writer.store)
        self.steps, self.frames = writer.steps, writer.frames
        self.tell(self.state("reading"))

    def provenance(self, journal: Journal) -> dict[str, Any]:
        """Of the store: of the source, and of what was done to it."""
        conversion = {"version": VERSION, "job": job_hash(self.recording, self.job), **_choices(self.settings)}
        return self.recording.provenance | {"conversion": conversion | state_of(journal)}


def job_hash(recording: Recording, job: Job) -> str:
    """What tells one conversion from another: the content of the source, the reader, and all that was chosen.

    The number of workers, the engine and what becomes of damaged episodes are not in it: they do not change an episode.
    """
    origin = recording.provenance
    named = {"source": origin["source"], "sha256": origin["source_sha256"], "reader_version": origin["reader_version"]}
    options = _plain(job.options)
    side_files = [name for name in (job.options.side_file, *job.options.bag.definitions) if name is not None]
    sums = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in side_files if Path(name).is_file()}
    versions = {"schema": SCHEMA_VERSION, "conversion": VERSION}
    parts = [named, job.format, options, sums, _plain(job.transforms), job.spec.to_json(), dict(job.tiers), versions]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _job(source: Path, format: str, recording: Recording, settings: ConvertSettings) -> Job:
    spec = settings.transforms.spec(recording.spec)
    tiers = choose_tiers(spec, settings.transforms.image.tier)
    return Job(
        source=source,
        format=format,
        options=settings.read,
        transforms=settings.transforms,
        spec=spec,
        tiers=tiers,
        quality=settings.transforms.image.quality,
    )


def _create(work: _Work, target: str | Path) -> tuple[Journal, _Made]:
    job = job_hash(work.recording, work.job)
    with resumable(target, job, overwrite=work.settings.overwrite) as folder:
        try:
            store, journal = _begin(work, folder)
            work.resumed = work.episodes = len(journal.entries)
            work.stored = len(store)
            _write(work, Writer(store=store, journal=journal, known=Known(), committed=work.committed))
            _require_episodes(journal, work.job.source)
        except Resumable:
            raise
        except InputError as error:
            discard(folder)  # the source or a setting is wrong: there is nothing to go on with
            if work.job.source.name in str(error):
                raise
            raise InputError(f"{work.job.source}: {error}") from error
        finish(store, work.provenance(journal))
        made = _check(work, folder / STORE, str(target)) if is_url(target) else None  # while it is on this machine
    return journal, _check(work, Path(target), str(target)) if made is None else made


def _begin(work: _Work, folder: Path) -> tuple[EpisodeStore, Journal]:
    path = folder / STORE
    if is_store(path):
        store = EpisodeStore.append_to(path)
        journal = Journal.read(folder / JOURNAL, len(store))
        if journal.stored == len(store):
            return store, journal
    for entry in folder.iterdir():  # of a run that was ended before its first commit, or damaged since
        discard(entry)
    job, provenance = work.job, work.provenance(Journal())
    store = EpisodeStore.create(path, job.spec, provenance=provenance, tiers=job.tiers, quality=job.quality)
    return store, Journal(path=folder / JOURNAL)


def _check(work: _Work, path: Path, name: str) -> _Made:
    work.tell(work.state("checking"))
    store = EpisodeStore.open(path)
    findings = [
        replace(f, place=f.place.replace(path.name, Path(name).name), remedy=f.remedy.replace(str(path), name))
        for f in validate(store)
    ]
    return _Made(episodes=len(store), steps=store.steps, findings=findings)


def _append(work: _Work, target: Path) -> tuple[Journal, _Made]:
    store = EpisodeStore.append_to(target)
    require_same_spec(store, work.job)
    work.job = replace(work.job, quality=store.quality)
    known = Known.of(store, work.job, work.recording.provenance["source_sha256"])
    journal, first = Journal(), len(store)
    _write(work, Writer(store=store, journal=journal, known=known, committed=work.committed))
    if len(store) > first:
        addition = work.provenance(journal)
        finish(store, appended(store.provenance, addition, first, len(store) - first))
    return journal, _check(work, target, str(target))


def _write(work: _Work, writer: Writer) -> None:
    work.tell(work.state("reading"))
    indices = range(len(writer.journal.entries), len(work.recording))
    with closing(_outcomes(work, indices)) as outcomes:
        writer.write(outcomes, stop=work.settings.on_error == "stop")


def _outcomes(work: _Work, indices: Sequence[int]) -> Outcomes:
    workers = work.settings.workers
    if not indices:
        return
    if work.settings.engine == "ray":
        yield from on_ray(work.recording, work.job, indices, workers)
        return
    if workers is None:
        large = work.recording.provenance["source_bytes"] >= LARGE_SOURCE_BYTES and len(indices) > 1
        workers = len(os.sched_getaffinity(0)) if large else 0
    if workers > 0:
        yield from in_processes(work.recording, work.job, indices, workers)
    else:
        yield from in_this_process(work.recording, work.job, indices)


def _require_video(recording: Recording, job: Job) -> None:
    """Refuse tier `video` at once where images are no videos, and not at every episode."""
    keys = [key for key, tier in job.tiers.items() if tier == "video"]
    if keys:
        episode = recording.read(0)
        for key in keys:
            frames = lazy(episode.observation[key])
            if not isinstance(frames, VideoFrames) or frames.size is not None:
                raise InputError(
                    f"image.tier=video, but '{key}' is not recorded as a video: take image.tier=jpeg or raw"
                )


def _require_episodes(journal: Journal, source: Path) -> None:
    if any(entry.stored for entry in journal.entries):
        return
    errors = [entry for entry in journal.entries if entry.error is not None]
    if errors:
        raise InputError(
            f"{source}: no episode can be used, so nothing was written. {len(errors)} of {len(journal.entries)} are "
            f"damaged, the first: {errors[0].error}"
        )
    reasons = ", ".join(f"{count} {reason}" for reason, count in state_of(journal)["left_out"].items())
    raise InputError(
        f"{source}: no episode is left, so nothing was written. "
        + (f"Of {len(journal.entries)}: {reasons}" if reasons else "The recording is empty")
    )


def _choices(settings: ConvertSettings) -> dict[str, Any]:
    """The settings that are not the default, by name, and how steps were made coarser."""
    found = _differences(_plain(settings.read), _plain(ReadOptions()))
    found |= _differences(_plain(settings.transforms), _plain(Transforms()))
    chosen: dict[str, Any] = {"settings": found}
    if settings.transforms.stride > 1:
        chosen["resampling"] = f"every {settings.transforms.stride}th observation, rewards summed"
    return chosen


def _differences(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict) and default:
            inner = _differences(value, default)
            found |= {key: inner} if inner else {}
        elif value != default:
            found[key] = value
    return found


def _plain(options: ReadOptions | Transforms) -> dict[str, Any]:
    """Plain JSON; functions become whether they are there."""
    values: dict[str, Any] = plain({key: value for key, value in asdict(options).items() if key != "resimulate"})
    return values | ({"resimulate": options.resimulate is not None} if isinstance(options, ReadOptions) else {})


def _dropped(journal: Journal) -> list[Finding]:
    errors = [entry for entry in journal.entries if entry.error is not None]
    findings = [
        Finding(
            severity="error",
            place=entry.place,
            text=f"the episode was left out: {entry.error}",
            remedy="repair the recording, or go on without this episode",
        )
        for entry in errors[:SHOWN]
    ]
    if len(errors) > SHOWN:
        more = f"{len(errors) - SHOWN} more episodes were left out; the provenance of the store names them"
        findings.append(Finding(severity="error", place=f"{len(errors)} episodes", text=more))
    return findings


def _left_out(journal: Journal, place: str) -> list[Finding]:
    return [
        Finding(severity="information", place=place, text=f"{count} episodes are not stored: {reason}")
        for reason, count in state_of(journal)["left_out"].items()
    ]


def _silent(_: State) -> None:
    pass
