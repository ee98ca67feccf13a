"""Break recordings of every format and read them: a right store or a clear error, within bounded time and memory.

    python tests/fuzz/fuzz_formats.py --count 20000        about ten minutes; prints what went wrong, by format
    python tests/fuzz/fuzz_formats.py --only csv --seed 7 --count 1     one case again

Each case runs in a worker process that may use a bounded amount of memory and time. A case fails when the worker dies,
does not answer, raises anything but InputError, names no file in its error, leaves files beside the store, or does
what reading never needs: starting a process, opening a connection, writing elsewhere, importing by name from a pickle.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # run as a script, and imported by the test

import corpus
import mutations

SECONDS = 20.0  # for a case
MEMORY_BYTES = 3 << 30  # of address space above what the worker has when it starts
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect",
             "socket.bind", "ctypes.dlopen")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    format: str
    seed: int
    mutation: str
    kind: str  # stored | refused | one of the failures
    text: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.kind not in ("stored", "refused")


def run(formats: list[str], count: int, seed: int, folder: Path, *, report: Any = None) -> list[Outcome]:
    """`count` cases, round the formats; a worker that dies or hangs is replaced."""
    originals = {name: corpus.make(name, folder / "originals" / name) for name in formats}
    outcomes = []
    worker = _Worker(folder, formats)
    try:
        for number in range(count):
            name = formats[number % len(formats)]
            outcome = worker.case(name, originals[name], seed + number)
            outcomes.append(outcome)
            if outcome.failed:
                worker.stop()
                worker = _Worker(folder, formats)
            if report is not None:
                report(number + 1, outcome)
    finally:
        worker.stop()
    return outcomes


class _Worker:
    def __init__(self, folder: Path, formats: list[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = folder
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, folder, formats), daemon=True)
        self._process.start()
        theirs.close()
        self._ours.recv()  # it has imported everything

    def case(self, name: str, original: Path, seed: int) -> Outcome:
        begin = time.monotonic()
        try:
            self._ours.send((name, original, seed))
            if not self._ours.poll(SECONDS):
                return Outcome(name, seed, _mutation(name, original, seed), "hangs", f"over {SECONDS:.0f} s", SECONDS)
            kind, mutation, text = self._ours.recv()
        except (EOFError, ConnectionError):
            self._process.join(10)
            text = f"exit code {self._process.exitcode}"
            return Outcome(name, seed, _mutation(name, original, seed), "crashes", text, time.monotonic() - begin)
        return Outcome(name, seed, mutation, kind, text, time.monotonic() - begin)

    def stop(self) -> None:
        self._ours.close()
        self._process.kill()
        self._process.join()


def _mutation(name: str, original: Path, seed: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return mutations.mutate(mutations.copy(original, Path(folder) / original.name), random.Random(f"{name} {seed}"))


def _serve(pipe: Connection, folder: Path, formats: list[str]) -> None:
    from robot_rl.datasets import store  # noqa: F401  # imports count as start-up
    from robot_rl.datasets.ingest import registry  # noqa: F401

    for name in formats:  # optional parts of libraries load at first use
        read(corpus.make(name, folder / "warm" / name), folder / "warm.zarr", name)
    with Path("/proc/self/statm").open() as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, held + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seen: list[str] = []
    sys.addaudithook(lambda event, arguments: audit(event, arguments, folder, seen))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries complain about damage on the terminal
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            name, original, seed = pipe.recv()
            pipe.send(_case(name, original, seed, folder, seen))


def audit(event: str, arguments: tuple[Any, ...], folder: Path, seen: list[str]) -> None:
    if event in FORBIDDEN:
        seen.append(f"{event} {arguments!r:.100}")
    elif event == "open" and isinstance(arguments[0], str | bytes) and arguments[1] and set(arguments[1]) & set("wax+"):
        path = os.fsdecode(arguments[0])
        if not os.path.abspath(path).startswith(str(folder)) and not path.startswith(("/dev/", "/proc/")):
            seen.append(f"writes {path}")
    elif event == "pickle.find_class" and not str(arguments[0]).startswith("numpy"):
        seen.append(f"pickle names {arguments!r:.100}")


def _case(name: str, original: Path, seed: int, folder: Path, seen: list[str]) -> tuple[str, str, str]:
    place = Path(tempfile.mkdtemp(dir=folder))
    seen.clear()
    try:
        source = mutations.copy(original, place / original.name)
        mutation = mutations.mutate(source, random.Random(f"{name} {seed}"))
        before = {path.name for path in place.iterdir()}
        try:
            kind, text = read(source, place / "store.zarr", name), ""
        except Exception as error:  # noqa: BLE001  # whatever escapes is what is looked for
            kind, text = _judge(error, source)
        left = {path.name for path in place.iterdir()} - before - ({"store.zarr"} if kind == "stored" else set())
        if left:
            kind, text = "leaves files", ", ".join(sorted(left))
        if seen:
            kind, text = "does what reading never needs", "; ".join(seen)
        return kind, mutation, text
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _judge(error: Exception, source: Path) -> tuple[str, str]:
    from robot_rl.errors import InputError

    if isinstance(error, InputError):
        if source.name in str(error) or any(path.name in str(error) for path in source.rglob("*")):
            return "refused", str(error)
        return "names no file", str(error)
    return "raises", "".join(traceback.format_exception(error)[-4:])


def read(source: Path, target: Path, name: str) -> str:
    """Convert everything and check the store; an episode that cannot be used is left out, as `ingest` does."""
    from robot_rl.datasets.convert import ConvertSettings, convert
    from robot_rl.datasets.ingest.base import ReadOptions
    from robot_rl.datasets.store import EpisodeStore

    settings = ConvertSettings(overwrite=True, workers=0, read=ReadOptions(**corpus.OPTIONS.get(name, {})))
    convert(source, target, settings)
    store = EpisodeStore.open(target)
    store.verify()
    for episode in store.episodes():
        for rows in episode.observation.values():
            rows[0]
    return "stored"


def main() -> int:
    """Run, print a table and what failed; 1 when anything did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(corpus.FORMATS), choices=list(corpus.FORMATS))
    arguments = parser.parse_args()
    failures: Counter[tuple[str, str]] = Counter()

    def report(number: int, outcome: Outcome) -> None:
        if outcome.failed:
            failures[outcome.format, outcome.kind] += 1
            if failures[outcome.format, outcome.kind] <= 5:
                print(f"\n{outcome.format} seed {outcome.seed} {outcome.kind} after {outcome.mutation}\n{outcome.text}")
        if number % 500 == 0:
            print(f"{number} cases, {sum(failures.values())} failures", flush=True)

    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(arguments.only, arguments.count, arguments.seed, Path(folder).resolve(), report=report)
    kinds = sorted({outcome.kind for outcome in outcomes})
    print(f"\n| format | {' | '.join(kinds)} | slowest s |\n|---|{'---|' * (len(kinds) + 1)}")
    for name in arguments.only:
        own = [outcome for outcome in outcomes if outcome.format == name]
        counted = Counter(outcome.kind for outcome in own)
        slowest = max((outcome.seconds for outcome in own), default=0.0)
        print(f"| {name} | {' | '.join(str(counted[kind]) for kind in kinds)} | {slowest:.1f} |")
    failed = sum(outcome.failed for outcome in outcomes)
    print(f"\n{len(outcomes)} cases in {time.monotonic() - begin:.0f} s, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
