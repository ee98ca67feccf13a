"""The readers, and which of them a file is for."""

from pathlib import Path

from robot_rl.datasets.ingest.bag import BagReader
from robot_rl.datasets.ingest.base import Reader
from robot_rl.datasets.ingest.csv_log import CsvLogReader
from robot_rl.datasets.ingest.d4rl_hdf5 import D4rlHdf5Reader
from robot_rl.datasets.ingest.dapg_pickle import DapgPickleReader
from robot_rl.datasets.ingest.hdf5 import is_hdf5, outline
from robot_rl.datasets.ingest.lerobot_v1 import LerobotV1Reader
from robot_rl.datasets.ingest.lerobot_v2 import LerobotV2Reader
from robot_rl.datasets.ingest.lerobot_v3 import LerobotV3Reader
from robot_rl.datasets.ingest.minari import MinariReader
from robot_rl.datasets.ingest.replay_zarr import ReplayZarrReader
from robot_rl.datasets.ingest.rlds import RldsReader
from robot_rl.datasets.ingest.robomimic_hdf5 import RobomimicHdf5Reader
from robot_rl.datasets.ingest.robosuite_raw import RobosuiteRawReader
from robot_rl.datasets.ingest.video_files import VideoFilesReader
from robot_rl.datasets.store_files import is_store, near
from robot_rl.errors import InputError, nearest

READERS: tuple[Reader, ...] = (
    RobomimicHdf5Reader(),
    RobosuiteRawReader(),
    D4rlHdf5Reader(),
    MinariReader(),
    DapgPickleReader(),
    LerobotV3Reader(),
    LerobotV2Reader(),
    LerobotV1Reader(),
    ReplayZarrReader(),
    BagReader(),
    VideoFilesReader(),
    RldsReader(),
    CsvLogReader(),
)
"""In the order in which they are asked."""


def find_reader(path: Path, format: str | None = None) -> Reader:
    """The reader of a file: by content, or the one that is named.

    Raises:
        InputError: there is no such file or format, or no reader knows the content; says what was seen.
    """
    if not path.exists():
        guess = near(path, path.parent.glob("[!.]*")) or "Name the file of a recording"
        raise InputError(f"there is no file at {path}. {guess.strip()}")
    if format is not None:
        names = {reader.name: reader for reader in READERS}
        if format not in names:
            raise InputError(f"format={format}: {nearest(format, names)}")
        return names[format]
    for reader in READERS:
        if reader.probe(path) is not None:
            return reader
    if is_store(path):
        raise InputError(
            f"{path} is an episode store already: `robot-rl inspect` looks at it, `robot-rl edit merge` joins stores"
        )
    known = "; ".join(f"{reader.name}: {reader.description}" for reader in READERS)
    raise InputError(f"{path} is in no format that a reader knows. It is: {_seen(path)}. Known formats: {known}")


def _seen(path: Path) -> str:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir())
        return (
            f"a folder with {', '.join(inside[:10])}{', ...' if len(inside) > 10 else ''}"
            if inside
            else "an empty folder"
        )
    if path.stat().st_size == 0:
        return "an empty file"
    if is_hdf5(path):
        return outline(path)
    with path.open("rb") as file:
        return f"a file that begins with {file.read(16)!r}"
