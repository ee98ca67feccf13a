"""Stores on object storage, through fsspec: `s3://bucket/lift.zarr`, `gs://`, `hf://`, `memory://`, `file://`, ...

Reading copies what is small (shapes, numbers, tables) to a cache on this machine, once for each state of the store, and
fetches a file of images when it is first looked at. Writing builds the store here and uploads it, its root metadata
last: before those are there, nobody takes the folder for a store.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from robot_rl.datasets.schema import EPISODE_LOG, array_names
from robot_rl.datasets.store_files import (
    LOCK,
    building,
    clear_disk_errors,
    clear_store_errors,
    is_store,
    refuse_existing,
)
from robot_rl.errors import InputError

ROOT = "zarr.json"
ENDS = "meta/episode_ends/c/0"
REMOTE = "remote.json"  # in a cached store: where it comes from
MARK = ".publishing"  # in a folder that is no store yet, or was being replaced
TOGETHER = 64  # files of one upload
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "az"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface_hub",
}
"""Which package fsspec needs for a protocol."""
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+(.*)", re.DOTALL)


def is_url(path: str | Path) -> bool:
    """Whether a store lies behind fsspec, also where `Path` made `s3:/` of `s3://`."""
    return url_of(path) is not None


def url_of(path: str | Path) -> str | None:
    """The URL that a path stands for; None where it is one of this machine."""
    found = _URL.fullmatch(str(path))
    if found is None:
        return None
    protocol, rest = found[1].lower(), found[2].rstrip("/")
    return f"{protocol}://{'/' if protocol in ('file', 'local') else ''}{rest}"


@contextlib.contextmanager
def building_at(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """As `building`, for a URL too: a folder of this machine, which is published when the block ends well.

    Raises:
        InputError: a store is there already and `overwrite` is off, or it cannot be written.
    """
    url = url_of(path)
    if url is None:
        with building(path, overwrite=overwrite) as temporary:
            yield temporary
        return
    _refuse_existing(_Place.of(url), overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="robot_rl_") as folder:
        local = Path(folder) / PurePosixPath(url).name
        yield local
        publish(local, url, overwrite=overwrite)


def refuse_existing_at(path: str | Path, *, overwrite: bool = False) -> None:
    """Keep what is at a path or a URL, unless it is a store and may be replaced.

    Raises:
        InputError: names `overwrite=true` where that would help.
    """
    url = url_of(path)
    if url is None:
        refuse_existing(Path(path), overwrite=overwrite)
    else:
        _refuse_existing(_Place.of(url), overwrite=overwrite)


def publish(local: Path, url: str, *, overwrite: bool = False) -> None:
    """Upload a store. Killed at any moment, it leaves the store that was there, or none, never a part of one. What
    replaces a store lies whole beside it until it is in its place, and stays there where that fails.

    Raises:
        InputError: it is no store, another is there and `overwrite` is off, or it cannot be written.
    """
    if not is_store(local):
        raise InputError(f"{local} is no episode store, so it is not published at {url}")
    place = _Place.of(url)
    replaced = _refuse_existing(place, overwrite=overwrite)
    fetch = fetcher(local)
    if fetch is not None:
        for name in fetch.sizes:
            if not (local / name).exists():
                fetch(local / name)
    files = [file.relative_to(local).as_posix() for file in sorted(local.rglob("*")) if file.is_file()]
    files = [name for name in files if name not in (LOCK, REMOTE) and not name.endswith(".partial")]
    files.sort(key=lambda name: (name == ROOT, name.startswith("meta/episode_ends")))
    with clear_remote_errors(url):
        if not replaced:
            place.clear()
            place.write(MARK, b"")
            place.upload(local, files)
            place.remove(MARK)
            return
        staging = place.beside(f".{place.name}.partial-{uuid.uuid4().hex[:8]}")
        try:
            staging.upload(local, files)
            place.make_folders(files)  # what can fail for want of a right fails before anything is removed
        except BaseException:
            staging.clear()
            raise
        try:
            with clear_remote_errors(url):
                place.write(MARK, b"")
                place.remove(ROOT)
                place.clear(but=MARK)
                place.make_folders(files)
                for name in files:
                    place.system.cp_file(staging.path(name), place.path(name))
                place.remove(MARK)
        except InputError as error:
            raise InputError(f"{error}. The new store lies whole at {staging.url}: move it to {url}") from error
        staging.clear()


def localize(url: str) -> Path:
    """A folder of this machine from which the store at a URL is read; `fetcher` brings its images when they are needed.

    It is kept in `ROBOT_RL_CACHE`, else in `~/.cache/robot_rl`, by URL and checksum of the tables: a store that was
    changed is copied anew.

    Raises:
        InputError: there is no store, or it cannot be read.
    """
    place = _Place.of(url)
    with clear_remote_errors(url):
        if not place.exists(ROOT):
            raise InputError(f"there is no store at {url}. Make it with `robot-rl ingest SOURCE {url}`")
        state = _state(place)
    folder = cache_folder() / "stores" / hashlib.sha256(place.url.encode()).hexdigest()[:16] / state[:16] / place.name
    if folder.exists():
        return folder
    temporary = folder.parent / f".{place.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        with clear_remote_errors(url), clear_disk_errors(folder):
            sizes = place.sizes()
            lazy = _lazy_folders(json.loads(place.read(ROOT)))
            eager = [name for name in sizes if not name.startswith(lazy) or name.endswith((".json", MARK))]
            place.download(eager, temporary)
            if _state(place) != state:
                raise InputError(f"{url} was changed while it was read: try again")
            (temporary / REMOTE).write_text(json.dumps({"url": place.url, "sizes": sizes}))
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.exists():  # another process was not faster
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Fetcher:
    """Brings files of a cached store from where it lies."""

    store: Path
    url: str
    sizes: Mapping[str, int]

    def __call__(self, path: Path) -> None:
        """Bring one file, if there is such a file.

        Raises:
            InputError: it cannot be read, or is not what it was.
        """
        name = path.relative_to(self.store).as_posix()
        if name not in self.sizes:
            return
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with clear_disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                place = _Place.of(self.url)
                with clear_remote_errors(f"{self.url}/{name}"):
                    place.system.get_file(place.path(name), str(temporary))
                if temporary.stat().st_size != self.sizes[name]:
                    raise InputError(f"{self.url}/{name} was changed since the store was opened: open it again")
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def fetcher(store: Path) -> Fetcher | None:
    """What brings the images of a store that `localize` cached; None for any other store."""
    if not (store / REMOTE).exists():
        return None
    with clear_store_errors(store):
        data = json.loads((store / REMOTE).read_text())
        return Fetcher(store, data["url"], dict(data["sizes"]))


def cache_folder() -> Path:
    """Where copies of what lies elsewhere are kept."""
    given = os.environ.get("ROBOT_RL_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "robot_rl"


@contextlib.contextmanager
def clear_remote_errors(url: str) -> Iterator[None]:
    """Say what cannot be reached.

    Raises:
        InputError: in place of what the file system of the protocol raises.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # every protocol has exceptions of its own
        raise InputError(f"{url} cannot be reached ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class _Place:
    """A folder behind fsspec."""

    system: Any
    root: str
    url: str

    @staticmethod
    def of(url: str) -> "_Place":
        protocol = url.partition(":")[0]
        try:
            system, root = fsspec.core.url_to_fs(url_of(url))
        except ImportError as error:
            package = PACKAGES.get(protocol)
            remedy = f"`pip install {package}`" if package else "install the package for it"
            raise InputError(f"{url}: {protocol}:// needs a package that is not here ({error}): {remedy}") from error
        except ValueError as error:
            raise InputError(f"{url}: {error}. Known are {', '.join(sorted(PACKAGES))}, file, memory, ...") from error
        if PurePosixPath(root).name in ("", ".", ".."):
            raise InputError(f"{url} names no store: give {protocol}://BUCKET/NAME.zarr")
        return _Place(system, root.rstrip("/"), url)

    @property
    def name(self) -> str:
        return PurePosixPath(self.root).name

    def beside(self, name: str) -> "_Place":
        return _Place(self.system, f"{self.root.rpartition('/')[0]}/{name}", f"{self.url.rpartition('/')[0]}/{name}")

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        self.system.invalidate_cache()
        return bool(self.system.exists(self.path(name)))

    def read(self, name: str) -> bytes:
        return bytes(self.system.cat_file(self.path(name)))

    def write(self, name: str, data: bytes) -> None:
        self.system.makedirs(self.path(name).rpartition("/")[0], exist_ok=True)
        self.system.pipe_file(self.path(name), data)

    def remove(self, name: str) -> None:
        self.system.rm_file(self.path(name))

    def sizes(self) -> dict[str, int]:
        """Size by name of every file."""
        self.system.invalidate_cache()
        sizes = {}
        for path, details in self.system.find(self.root, detail=True).items():
            name = path[path.index(self.root) + len(self.root) + 1 :]
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise InputError(f"{self.url} has a file called {name!r}: it is no store of ours")
            sizes[name] = int(details["size"])
        return sizes

    def clear(self, but: str | None = None) -> None:
        """Remove every file, and the folder where there are such."""
        self.system.invalidate_cache()
        if but is None:
            if self.system.exists(self.root):
                self.system.rm(self.root, recursive=True)
            return
        for name in self.sizes():
            if name != but:
                self.remove(name)

    def make_folders(self, names: list[str]) -> None:
        """The folders of these files, where the file system has folders."""
        for folder in sorted({self.path(name).rpartition("/")[0] for name in names}):
            self.system.makedirs(folder, exist_ok=True)

    def upload(self, local: Path, names: list[str]) -> None:
        """Copy files here in their order; those of one batch come in any order, the last two come last."""
        self.make_folders(names)
        bulk, last = names[:-2], names[-2:]
        for batch in [
            *(bulk[start : start + TOGETHER] for start in range(0, len(bulk), TOGETHER)),
            *([n] for n in last),
        ]:
            self.system.put([str(local / name) for name in batch], [self.path(name) for name in batch])

    def download(self, names: list[str], folder: Path) -> None:
        for target in {(folder / name).parent for name in names}:
            target.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(names), TOGETHER):
            batch = names[start : start + TOGETHER]
            self.system.get([self.path(name) for name in batch], [str(folder / name) for name in batch])


def _refuse_existing(place: _Place, *, overwrite: bool) -> bool:
    """Whether a store is there, which may be replaced."""
    with clear_remote_errors(place.url):
        if not place.exists(ROOT):
            if place.exists("") and place.sizes() and not place.exists(MARK):
                raise InputError(f"{place.url} is there already and is no episode store: choose another name")
            return False
        metadata = json.loads(place.read(ROOT))
    if "schema_version" not in metadata.get("attributes", {}):
        raise InputError(f"{place.url} is there already and is no episode store: choose another name")
    if not overwrite:
        raise InputError(f"{place.url} is there already: choose another name, or replace it with overwrite=true")
    return True


def _state(place: _Place) -> str:
    """Checksum of what says which episodes there are."""
    sha = hashlib.sha256()
    for name in (ROOT, EPISODE_LOG, ENDS):
        sha.update(place.read(name) if name != ENDS or place.exists(name) else b"")
    return sha.hexdigest()


def _lazy_folders(metadata: Any) -> tuple[str, ...]:
    """Beginnings of the names of files that are fetched when they are needed: blocks of images, and videos."""
    attributes = metadata["attributes"]
    tiers = attributes.get("images", {}).get("tiers", {})
    names = array_names(attributes["spec"]["observation"])
    raw = [f"steps/observation/{names[key]}/c/" for key, tier in tiers.items() if tier == "raw"]
    return ("images/", *raw)
