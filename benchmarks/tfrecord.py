"""Frames per second of reading TFRecord files, against the package `tfrecord`, in one run on the same files.

    python benchmarks/tfrecord.py [--repeats 5] [--other /tmp/tfr]

The other is https://github.com/vahidk/tfrecord, which who reads RLDS without TensorFlow would take; it parses with
protobuf and verifies no checksums, ours are verified. Install it beside the project, not into it:
`pip install --no-deps --target /tmp/tfr tfrecord crc32c`. Parse: every feature of every record as an array or as a list
of bytes. With images: every JPEG decoded too, with the same decoder for both. One thread; a frame is a step of an
episode, with its four cameras. Numbers are the fastest of the repeats, which take turns; use the ratios.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from robot_rl.datasets.frames import JPEG_SIGNATURE, decode_image
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.ingest.rlds import RldsReader
from robot_rl.datasets.ingest.tfrecord import parse_example, records

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "rlds" / "bridge_dataset" / "1.0.0"
PARSED = 20  # how often the files are read in one measurement without images


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, default=SHARED, help="version folder of an RLDS data set")
    parser.add_argument("--other", default="/tmp/tfr", help="folder into which the package `tfrecord` is installed")
    arguments = parser.parse_args()
    console = Console(width=120)
    if not arguments.data.is_dir():
        console.print(f"there is no data set at {arguments.data}: name one with --data", markup=False)
        return 1
    files = sorted(path for path in arguments.data.iterdir() if ".tfrecord" in path.name)
    frames = sum(len(example["steps/is_last"]) for file in files for example in ours(file))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        files = [Path(shutil.copy(file, folder)) for file in files]  # the disk is not what is measured
        for name in ("features.json", "dataset_info.json"):
            shutil.copy(arguments.data / name, folder)
        report(console, files, Path(folder), frames, arguments.repeats, arguments.other)
    return 0


def report(console: Console, files: list[Path], folder: Path, frames: int, repeats: int, other: str) -> None:
    """The table."""
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "parse": (lambda: parse(files, ours), PARSED),
        "parse and decode the images": (lambda: decode(files, ours), 1),
        "episodes of the reader, images not looked at": (lambda: episodes(folder), 1),
    }
    theirs = other_reader(console, other)
    if theirs is not None:
        reader = theirs
        ways["parse, tfrecord"] = (lambda: parse(files, reader), PARSED)
        ways["parse and decode the images, tfrecord"] = (lambda: decode(files, reader), 1)
    fastest = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, (way, times) in ways.items():
            start = time.perf_counter()
            for _ in range(times):
                way()
            fastest[name] = min(fastest[name], (time.perf_counter() - start) / times)
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    table = Table(title=f"{frames} frames in {len(files)} files, {megabytes:.1f} MB")
    for heading in ("what", "ours: frames/s", "tfrecord: frames/s", "ours / tfrecord"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name in list(ways)[:3]:
        their = fastest.get(f"{name}, tfrecord")
        ratio = ("", "") if their is None else (f"{frames / their:,.0f}", f"{their / fastest[name]:.2f}")
        table.add_row(name, f"{frames / fastest[name]:,.0f}", *ratio)
    console.print(table)


Features = Mapping[str, Any]
Reader = Callable[[Path], Iterator[Features]]


def ours(file: Path) -> Iterator[Features]:
    """The records of a file, their checksums verified."""
    for record in records(file):
        yield parse_example(record, str(file))


def other_reader(console: Console, folder: str) -> Reader | None:
    """The package `tfrecord`, if it is there."""
    if PathFinder.find_spec("tfrecord", [folder]) is None:  # elsewhere this file is found, which has the same name
        console.print(f"no comparison, the package `tfrecord` is not in {folder}: see --help", markup=False)
        return None
    sys.path.insert(0, folder)
    load = import_module("tfrecord").tfrecord_loader
    return lambda file: load(str(file), None)


def parse(files: list[Path], reader: Reader) -> None:
    """Look at every feature."""
    for file in files:
        for example in reader(file):
            for name in example:
                example[name]


def decode(files: list[Path], reader: Reader) -> None:
    """Look at every feature, and decode what is JPEG."""
    for file in files:
        for example in reader(file):
            for name in example:
                values = example[name]
                if isinstance(values, list | np.ndarray) and len(values) and isinstance(values[0], bytes):
                    for value in values:
                        if value[:3] == JPEG_SIGNATURE:
                            decode_image(value, name)


def episodes(folder: Path) -> None:
    """Open the data set, and read its episodes."""
    with RldsReader().open(folder, ReadOptions()) as recording:
        for _ in recording.episodes():
            pass


if __name__ == "__main__":
    sys.exit(main())
