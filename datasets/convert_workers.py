"""Episodes of a source, converted one after another, by several processes, or by a Ray cluster: the same function.

Every engine is a generator that yields what became of each episode, in the order asked for, with a bounded number of
episodes in flight. Closing it ends its processes.
"""

import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.convert_transforms import Transforms
from robot_rl.datasets.frames import JPEG_SIGNATURE, EncodedFrames, as_array, blocks, encode_jpeg, lazy
from robot_rl.datasets.ingest.base import ReadOptions, Recording, without_checksums
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.schema import Finding, rows_of_episode
from robot_rl.datasets.video import VideoFrames
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

IN_FLIGHT = 2  # episodes a worker has in hand: one that it works on, one that waits
LARGE_BYTES = 256 << 20  # an episode with more bytes of images is read by the process that writes it, piece by piece
JPEG_RATIO = 6  # about; only to judge what is large
ENDED_S = 5.0  # patience with a process that is to end


class Resumable(InputError):
    """What went wrong lies outside of the source: what was stored is kept, and the same command goes on."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker must know; it is sent to processes and to other machines."""

    source: Path
    format: str
    options: ReadOptions
    transforms: Transforms
    spec: Spec  # of the store
    tiers: Mapping[str, str]  # of the store, by image key
    quality: int  # of JPEG


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one episode of the source."""

    index: int
    place: str
    episode: Episode | None = None  # as it is stored; None where it is not
    error: str | None = None  # why it cannot be used
    left_out: str | None = None  # why it is not wanted
    large: bool = False  # too large to be sent: to be read again by the process that writes
    findings: tuple[Finding, ...] = ()  # what the reader met in it


Outcomes = Generator[Outcome, None, None]


def convert_one(recording: Recording, job: Job, index: int) -> Outcome:
    """Read one episode and transform it; images stay as lazy as they were."""
    before, place = len(recording.findings), f"{job.source.name}: episode {index}"
    try:
        episode = recording.read(index)
        if "source" in episode.metadata:
            place = f"{place} ({episode.metadata['source']})"
        reason = job.transforms.left_out(episode)
        if reason is None:
            episode, reason = job.transforms.episode(recording.spec, episode, place)
        if reason is None:
            _check(job, episode, place)
    except InputError as error:
        return Outcome(index=index, place=place, error=str(error), findings=tuple(recording.findings[before:]))
    stored = episode if reason is None else None
    found = tuple(recording.findings[before:])
    return Outcome(index=index, place=place, episode=stored, left_out=reason, findings=found)


def sendable(outcome: Outcome, job: Job) -> Outcome:
    """The outcome with its images decoded or encoded, as their tier wants, so that the writer need not."""
    if outcome.episode is None:
        return outcome
    if sum(_bytes(outcome.episode.observation[key], tier) for key, tier in job.tiers.items()) > LARGE_BYTES:
        return replace(outcome, episode=None, large=True)
    observation = {key: _by_one_thread(rows) for key, rows in outcome.episode.observation.items()}
    try:
        for key, tier in job.tiers.items():
            if tier == "raw":
                observation[key] = np.asarray(observation[key])
            elif tier == "jpeg":
                observation[key] = as_array(_as_jpeg(observation[key], job.quality, f"{outcome.place}, {key}"))
    except InputError as error:
        return replace(outcome, episode=None, error=str(error))
    return replace(outcome, episode=replace(outcome.episode, observation=observation))


def open_source(job: Job) -> Recording:
    """Open the source of a job once more, without its checksum.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    with without_checksums():
        return find_reader(job.source, job.format).open(job.source, job.options)


def in_this_process(recording: Recording, job: Job, indices: Sequence[int]) -> Outcomes:
    """One after another, by the recording that is open already."""
    for index in indices:
        yield convert_one(recording, job, index)


def in_processes(recording: Recording, job: Job, indices: Sequence[int], workers: int) -> Outcomes:
    """By processes of this machine, each of which opens the source once.

    Raises:
        Resumable: one of them died.
    """
    with ExitStack() as stack:  # ends the processes first, so that no thread waits for one
        threads = ThreadPoolExecutor(workers)
        stack.callback(threads.shutdown, cancel_futures=True)
        free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(min(workers, len(indices))):
            free.put(stack.enter_context(_started(job)))
        waiting: deque[Future[Outcome]] = deque()
        for index in indices:
            waiting.append(threads.submit(_ask, free, index))
            if len(waiting) >= IN_FLIGHT * workers:
                yield _here(waiting.popleft().result(), recording, job)
        while waiting:
            yield _here(waiting.popleft().result(), recording, job)


def on_ray(recording: Recording, job: Job, indices: Sequence[int], workers: int | None) -> Outcomes:
    """By actors of a Ray cluster: the one at `RAY_ADDRESS`, else one that lasts as long as this call.

    Args:
        recording: the source, open here.
        job: the source must have the same path on every machine of the cluster.
        indices: of the episodes.
        workers: actors; None is one for each core of the cluster.

    Raises:
        InputError: Ray is not installed.
        Resumable: an actor died.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("engine=ray needs Ray: pip install 'robot-rl[distributed]'") from error
    with ray_cluster(ray, workers):
        if workers is None:
            workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        job_there = ray.put(job)
        make = ray.remote(num_cpus=1, max_restarts=0)(_Actor).remote
        actors = [make(job_there) for _ in range(min(workers, len(indices)))]
        waiting: deque[tuple[int, Any]] = deque()
        try:
            for number, index in enumerate(indices):
                waiting.append((index, actors[number % len(actors)].convert.remote(index)))
                if len(waiting) >= IN_FLIGHT * workers:
                    yield _here(_result(ray, *waiting.popleft()), recording, job)
            while waiting:
                yield _here(_result(ray, *waiting.popleft()), recording, job)
        finally:
            for actor in actors:
                ray.kill(actor)


@dataclass(frozen=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection


class _Actor:
    """What runs on the cluster."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.recording = open_source(job)

    def convert(self, index: int) -> Outcome:
        """See `convert_one`."""
        return sendable(convert_one(self.recording, self.job, index), self.job)


@contextmanager
def _started(job: Job) -> Iterator[_Worker]:
    """A process that serves a job. It is a fresh interpreter: zarr and HDF5 do not survive a fork.

    It does not import the main script, as `multiprocessing` would, so converting needs no `if __name__ == "__main__":`.
    """
    ours, theirs = multiprocessing.Pipe()
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    theirs.close()  # so that the end of either process is seen by the other
    try:
        with suppress(OSError):  # it has died: the first question finds out
            ours.send(job)
        yield _Worker(process, ours)
    finally:
        process.terminate()
        try:
            process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        ours.close()


def serve(descriptor: int) -> None:
    """What a worker process does: takes a job, then answers indices with outcomes until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that writes; it ends this one
    import cv2

    cv2.setNumThreads(1)  # the processes share the cores already
    connection = Connection(descriptor)
    try:
        job: Job = connection.recv()
        with open_source(job) as recording:
            while True:
                index = connection.recv()
                try:
                    answer: Outcome | str = sendable(convert_one(recording, job, index), job)
                except Exception:  # noqa: BLE001  # a bug, not an input: its traceback goes to the other process
                    answer = traceback.format_exc()
                connection.send(answer)
    except (EOFError, ConnectionError):
        return  # the process that writes is gone


def _ask(free: "queue.SimpleQueue[_Worker]", index: int) -> Outcome:
    worker = free.get()
    try:
        worker.connection.send(index)
        answer: Outcome | str = worker.connection.recv()
    except (EOFError, OSError) as error:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(ENDED_S)
        raise Resumable(
            f"a worker process ended while it read episode {index} (exit code {worker.process.returncode}): it was "
            "killed, or there was no memory left for it. What was stored is kept: give the same command again, with "
            "fewer workers where memory is short"
        ) from error
    finally:
        free.put(worker)
    if isinstance(answer, str):
        raise RuntimeError(f"a worker failed at episode {index}:\n{answer}")
    return answer


def _here(outcome: Outcome, recording: Recording, job: Job) -> Outcome:
    return convert_one(recording, job, outcome.index) if outcome.large else outcome


@contextmanager
def ray_cluster(ray: Any, workers: int | None) -> Iterator[None]:
    """The Ray cluster at `RAY_ADDRESS`, else one of this machine that lasts as long as the block.

    Args:
        ray: the module.
        workers: cores of a cluster of this machine; None is all.

    Raises:
        InputError: no cluster answers.
    """
    if ray.is_initialized():
        yield
        return
    local = "RAY_ADDRESS" not in os.environ
    cpus = (os.cpu_count() or 1) if workers is None else workers
    settings = {"address": "local", "num_cpus": cpus, "include_dashboard": False} if local else {}
    try:
        ray.init(log_to_driver=False, logging_level="warning", **settings)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster answers ({error}): check RAY_ADDRESS, or unset it to start one") from error
    try:
        yield
    finally:
        ray.shutdown()


def _result(ray: Any, index: int, reference: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, InputError):
            raise InputError(f"on the cluster: {cause}. The source must have the same path on every machine") from error
        raise
    except ray.exceptions.RayError as error:
        raise Resumable(
            f"an actor of the Ray cluster ended while it read episode {index} ({type(error).__name__}: {error}). What "
            "was stored is kept: give the same command again. The source must have the same path on every machine"
        ) from error
    return outcome


def _check(job: Job, episode: Episode, place: str) -> None:
    """Refuse numbers and shapes that the store would refuse; images are looked at when they are written."""
    for key in job.tiers:
        rows, spec = episode.observation.get(key), job.spec.observation[key]
        if rows is not None and tuple(rows.shape[1:]) != spec.shape:
            raise InputError(
                f"{place}: images of '{key}' have shape {tuple(rows.shape[1:])}, the others {spec.shape}: set "
                "image.size to store them all in one"
            )
    numbers = {key: rows for key, rows in episode.observation.items() if key not in job.tiers}
    shown = {key: array for key, array in job.spec.observation.items() if key not in job.tiers}
    rows_of_episode(replace(job.spec, observation=shown), replace(episode, observation=numbers), place)


def _bytes(rows: Array, tier: str) -> int:
    frames = lazy(rows)
    if tier == "video":
        return 0
    if isinstance(frames, EncodedFrames) and tier == "jpeg":
        return sum(map(len, frames.encoded))
    decoded = int(np.prod(rows.shape))
    return decoded // JPEG_RATIO if tier == "jpeg" else decoded


def _by_one_thread(rows: Array) -> Array:
    """Videos that one thread decodes: the processes share the cores already."""
    frames = lazy(rows)
    if not isinstance(frames, VideoFrames):
        return rows
    return as_array(VideoFrames(frames.index, frames.numbers, size=frames.size, fit=frames.fit, threads=1))


def _as_jpeg(rows: Array, quality: int, place: str) -> EncodedFrames:
    frames = lazy(rows)
    if isinstance(frames, EncodedFrames):
        if all(data[:3] == JPEG_SIGNATURE for data in frames.encoded):
            return frames
        encoded = [
            data if data[:3] == JPEG_SIGNATURE else encode_jpeg(frames[number], quality)
            for number, data in enumerate(frames.encoded)
        ]
    else:
        encoded = [encode_jpeg(image, quality) for block in blocks(rows) for image in block]
    return EncodedFrames(encoded, (int(rows.shape[1]), int(rows.shape[2]), int(rows.shape[3])), place)
