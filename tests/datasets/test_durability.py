"""What is on the disk when the power fails: only what was synced, and of a folder only the names it had then."""

import contextlib
import os
import runpy
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import building
from robot_rl.errors import InputError

WRITER = runpy.run_path(str(Path(__file__).with_name("killed_writer.py")))
make_spec, make_written_episode = WRITER["make_spec"], WRITER["make_written_episode"]


class Disk:
    """A disk as pessimistic as POSIX allows: content by inode, as of the last `os.fsync` of each file and folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.content: dict[int, bytes | dict[str, int]] = {}
        self.lock = threading.Lock()
        self.held = contextlib.ExitStack()  # open, so that no inode number is given to another file
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        """Take what is behind the descriptor into the image."""
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        self.held.callback(os.close, os.dup(descriptor))
        with self.lock:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                names = {entry.name: entry.inode() for entry in os.scandir(path) if ".partial" not in entry.name}
                self.content[os.fstat(descriptor).st_ino] = names
            else:
                self.content[os.fstat(descriptor).st_ino] = path.read_bytes()

    def restore(self, folder: Path, target: Path) -> Path:
        """Write what a machine finds at `folder` after the power failed."""
        self._write(folder.stat().st_ino, target)
        return target

    def _write(self, inode: int, target: Path) -> None:
        content = self.content.get(inode, b"")  # a name without content is an empty file
        if isinstance(content, bytes):
            target.write_bytes(content)
            return
        target.mkdir()
        for name, child in content.items():
            self._write(child, target / name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """In place of `os.fsync`."""
    disk = Disk(monkeypatch)
    with disk.held:
        yield disk


def test_committed_episodes_survive_a_power_failure(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "s.zarr"
    store = EpisodeStore.create(path, make_spec(), provenance={"lab": 3})
    assert len(EpisodeStore.open(disk.restore(path, tmp_path / "empty"))) == 0
    for count in (1, 2, 3):
        store.append(make_written_episode(count - 1))
        found = EpisodeStore.open(disk.restore(path, tmp_path / f"after_{count}"))
        found.verify()
        assert len(found) == count
        np.testing.assert_array_equal(found.episode(count - 1).action, make_written_episode(count - 1).action)
    store.finish()
    assert "statistics" in EpisodeStore.open(disk.restore(path, tmp_path / "finished"))._group.attrs


def test_a_power_failure_amid_a_commit_leaves_it_out_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    path = tmp_path / "s.zarr"
    store = EpisodeStore.create(path, make_spec(), provenance={})
    store.append(make_written_episode(0))
    lengths: list[int] = []

    def fsync(descriptor: int) -> None:
        disk.fsync(descriptor)
        with disk.lock:
            found = EpisodeStore.open(disk.restore(path, tmp_path / f"amid_{len(lengths)}"))
            found.verify()
            lengths.append(len(found))

    monkeypatch.setattr(os, "fsync", fsync)
    store.append(make_written_episode(1))
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (1, 2)


def test_a_store_has_its_name_only_with_its_content(tmp_path: Path, disk: Disk) -> None:
    with building(tmp_path / "s.zarr") as temporary:
        EpisodeStore.create(temporary, make_spec(), provenance={}).append(make_written_episode(0))
    restored = disk.restore(tmp_path, tmp_path / "restored")
    EpisodeStore.open(restored / "s.zarr").verify()


def kill_between_the_renames(path: Path) -> None:
    """What `kill -9` leaves behind between the two renames of a replacement."""
    path.rename(path.with_name(f".{path.name}.replaced-1-aa"))


def test_a_replacement_killed_between_its_renames_says_where_the_old_store_is(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    EpisodeStore.create(path, make_spec(), provenance={"version": "old"})
    kill_between_the_renames(path)
    remedy = rf"was interrupted.*take it back with `mv {tmp_path}/\.s\.zarr\.replaced-1-aa {path}`"
    with pytest.raises(InputError, match=remedy):
        EpisodeStore.open(path)
    with pytest.raises(InputError, match=remedy + ".*overwrite=true"):
        EpisodeStore.create(path, make_spec(), provenance={"version": "new"})
    EpisodeStore.create(path, make_spec(), provenance={"version": "new"}, overwrite=True)
    assert EpisodeStore.open(path).provenance == {"version": "new"}
