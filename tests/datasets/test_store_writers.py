"""One writer at a time, full disks, power failures, and stores of the first version."""

import errno
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from robot_rl.datasets.schema import digest, rows_of_episode
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError

IMAGES = runpy.run_path(str(Path(__file__).with_name("test_store_images.py")))
make_store, make_episode, SPEC = IMAGES["make_store"], IMAGES["make_episode"], IMAGES["SPEC"]
DURABILITY = runpy.run_path(str(Path(__file__).with_name("test_durability.py")))
WRITER = runpy.run_path(str(Path(__file__).with_name("killed_writer.py")))
HOLD = """
import sys
from robot_rl.datasets.store import EpisodeStore
store = EpisodeStore.append_to(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_cannot_write_until_the_first_ends(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s.zarr", 4).path
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(InputError, match="is being written to by another process"):
            EpisodeStore.append_to(path)
        assert len(EpisodeStore.open(path)) == 1  # reading is free
        process.kill()
    EpisodeStore.append_to(path).append(make_episode(1, 3))


def test_what_was_appended_elsewhere_is_not_overwritten(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s.zarr", 4).path
    first, second = EpisodeStore.append_to(path), EpisodeStore.append_to(path)
    second.append(make_episode(1, 3))
    with pytest.raises(InputError, match="was appended to elsewhere since it was opened here"):
        first.append(make_episode(2, 3))
    second.append(make_episode(3, 3))
    EpisodeStore.open(path).verify()
    assert len(EpisodeStore.open(path)) == 3


@pytest.mark.parametrize("allowed", range(0, 12, 2))
def test_a_disk_that_is_full_amid_images_keeps_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    path = make_store(tmp_path / "s.zarr", 30).path
    store = EpisodeStore.append_to(path)
    original, writes = os.pwrite, 0

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal writes
        writes += 1
        if writes > allowed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, data[: len(data) // 2 + 1], offset)  # and it may write less than it was given

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(InputError, match=r"disk is full: .*s\.zarr.* MB are free"):
        store.append(make_episode(1, 40))
    monkeypatch.undo()
    EpisodeStore.open(path).verify()
    assert len(EpisodeStore.open(path)) == 1
    store.append(make_episode(1, 40))
    EpisodeStore.open(path).verify()
    pixels = np.asarray(EpisodeStore.open(path).episode(1).observation["wrist/gray"])
    np.testing.assert_array_equal(pixels, make_episode(1, 40).observation["wrist/gray"])


def test_images_of_every_tier_survive_a_power_failure_amid_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITER["write_films"](tmp_path)
    films = WRITER["films_in"](tmp_path)
    path, found = tmp_path / "s.zarr", []
    disk = DURABILITY["Disk"](monkeypatch)
    with disk.held:
        store = EpisodeStore.create(
            path,
            WRITER["make_spec"](images=True),
            provenance={},
            tiers=WRITER["TIERS"],
            block_bytes=WRITER["BLOCK_BYTES"],
        )
        store.append(WRITER["make_written_episode"](30, films))

        def fsync(descriptor: int) -> None:
            disk.fsync(descriptor)
            with disk.lock:
                restored = EpisodeStore.open(disk.restore(path, tmp_path / f"amid_{len(found)}"))
                restored.verify()
                found.append(len(restored))

        monkeypatch.setattr(os, "fsync", fsync)
        store.append(WRITER["make_written_episode"](31, films))
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 2)


def write_version_1(path: Path, *lengths: int) -> None:
    """A store as this package wrote it before there were tiers: images are zarr chunks, black ones have no file."""
    episodes = [make_episode(seed, steps) for seed, steps in enumerate(lengths)]
    for episode in episodes:
        episode.observation["front"][:] = 0
        del episode.extras["timestamp_s/front"]
    store = EpisodeStore.create(path, SPEC, provenance={})
    store.extend(episodes)
    group = zarr.open_group(path, mode="r+")
    attributes = dict(group.attrs)
    del attributes["images"]
    group.attrs.put(attributes | {"schema_version": 1})
    for key in ("front", "wrist/gray"):
        rows = np.concatenate([episode.observation[key] for episode in episodes])
        array = group.create_array(
            f"steps/observation/{key}",
            shape=rows.shape,
            chunks=(10, *rows.shape[1:]),
            dtype="uint8",
            compressors=None,
            fill_value=0,
            overwrite=True,
        )
        array[:] = rows


def test_a_store_of_the_first_version_is_read_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_version_1(path, 30, 12)
    assert not (path / "steps/observation/front/c/0").exists()
    store = EpisodeStore.open(path)
    store.verify()
    assert store.tiers == {"front": "raw", "wrist/gray": "raw"}
    for seed, episode in enumerate(store.episodes()):
        wanted = make_episode(seed, len(episode)).observation
        np.testing.assert_array_equal(np.asarray(episode.observation["wrist/gray"]), wanted["wrist/gray"])
        assert not np.asarray(episode.observation["front"]).any()
    longer = make_episode(2, 25)
    del longer.extras["timestamp_s/front"]
    EpisodeStore.append_to(path).append(longer)
    store = EpisodeStore.open(path)
    store.verify()
    assert len(store) == 3
    assert store.digests[2] == digest(rows_of_episode(SPEC, longer, ""), has_final_observation=True)
    np.testing.assert_array_equal(store.column("front").gather(np.asarray([44, 5]))[0], longer.observation["front"][0])


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s.zarr", 4).path
    zarr.open_group(path, mode="r+").attrs["schema_version"] = 3
    with pytest.raises(InputError, match="schema version 3"):
        EpisodeStore.open(path)


@pytest.mark.parametrize("key", ["a//b", "../x", "/x", "a/..", "x@", ""])
def test_a_key_that_is_no_path_is_refused(tmp_path: Path, key: str) -> None:
    episode = make_episode(0, 3)
    episode.extras[key] = np.zeros(3)
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    with pytest.raises(InputError, match="cannot be the name of an array"):
        store.append(episode)


def test_blocks_of_episodes_are_read_within_bounds_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s.zarr", 30, 5, 17, 8, 1)
    wanted = [episode.action for episode in store.episodes()]
    monkeypatch.setattr("robot_rl.datasets.step_arrays.READ_BYTES", 1400)
    for order in ([0, 1, 2, 3, 4], [4, 2, 2, 0, 1], [3]):
        found = [episode.action for episode in store.episodes(order)]
        for index, action in zip(order, found, strict=True):
            np.testing.assert_array_equal(action, wanted[index])
            base = action.base
            while getattr(base, "base", None) is not None:
                base = base.base  # type: ignore[union-attr]  # an array
            assert base is None or len(base) <= 31


def damage_log(path: Path) -> None:
    file = path / "episodes.jsonl"
    file.write_bytes(file.read_bytes()[:-20])


def damage_ends(path: Path) -> None:
    file = path / "meta/episode_ends/c/0"
    ends = np.fromfile(file, np.int64)
    ends[1] = 10**15
    ends.tofile(file)


def damage_attributes(path: Path) -> None:
    del (group := zarr.open_group(path, mode="r+")).attrs["provenance"]
    assert "provenance" not in dict(group.attrs)


def damage_shape(path: Path) -> None:
    file = path / "meta/episode_ends/zarr.json"
    file.write_text(file.read_text().replace('"shape"', '"shaped"'))


def damage_numbers(path: Path) -> None:
    (path / "steps/action/c/0/0").write_bytes(b"no zstd")


@pytest.mark.parametrize("damage", [damage_log, damage_ends, damage_attributes, damage_shape, damage_numbers])
def test_damage_of_the_tables_and_numbers_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = make_store(tmp_path / "s.zarr", 4, 5).path
    damage(path)
    with pytest.raises(InputError, match=r"s\.zarr.*the store is damaged"):
        EpisodeStore.open(path).verify()


def test_a_crash_amid_the_first_commit_leaves_an_empty_store_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_store(tmp_path / "s.zarr").path
    monkeypatch.setattr(zarr.Array, "resize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        EpisodeStore.append_to(path).append(make_episode(0, 3))
    monkeypatch.undo()
    (path / "steps/observation/state/zarr.json").unlink()  # as if it had come earlier
    assert len(EpisodeStore.open(path)) == 0
    EpisodeStore.append_to(path).append(make_episode(1, 4))
    store = EpisodeStore.open(path)
    store.verify()
    assert store.lengths.tolist() == [4]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
