"""Writers that are killed with SIGKILL at random moments: the store opens with exactly the committed episodes."""

import random
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robot_rl.datasets.schema import digest, rows_of_episode
from robot_rl.datasets.store import EpisodeStore

PROGRAM = Path(__file__).with_name("killed_writer.py")
WRITER = runpy.run_path(str(PROGRAM))
make_spec, make_written_episode, films_in = WRITER["make_spec"], WRITER["make_written_episode"], WRITER["films_in"]
EVERY = 10  # kills after which all episodes are compared, and not their checksums only


def kill_writers(folder: Path, *, images: bool, kills: int, longest_s: float, seed: int) -> int:
    """Kill so many writers of one store, one after another; returns how many episodes it has then."""
    path, rng = folder / "s.zarr", random.Random(seed)
    WRITER["write_films"](folder)
    tiers = WRITER["TIERS"] if images else None
    EpisodeStore.create(path, make_spec(images), provenance={}, tiers=tiers, block_bytes=WRITER["BLOCK_BYTES"])
    committed = 0
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for kill in range(kills):
            seconds = rng.uniform(0.0, longest_s) * (-1 if rng.random() < 0.2 else 1)
            process.stdin.write(f"{path} {seconds}\n")
            process.stdin.flush()
            reported = int(process.stdout.readline())
            store = EpisodeStore.open(path)
            least = max(committed, reported)
            assert least <= len(store) <= least + 1  # the kill may fall between the commit and its report
            store.verify()
            if kill % EVERY == EVERY - 1:
                assert_all_are_what_was_written(store, folder, images)
            committed = len(store)
        process.stdin.close()
    assert_all_are_what_was_written(EpisodeStore.open(path), folder, images)
    store = EpisodeStore.append_to(path)  # and the next writer goes on
    store.append(make_written_episode(len(store), films_in(folder) if images else None))
    store.finish()
    EpisodeStore.open(path).verify()
    assert not list(path.rglob("*.partial"))
    return committed


def assert_all_are_what_was_written(store: EpisodeStore, folder: Path, images: bool) -> None:
    films = films_in(folder) if images else None
    for seed, episode in enumerate(store.episodes()):
        wanted = make_written_episode(seed, films)
        assert episode.metadata == wanted.metadata
        np.testing.assert_array_equal(episode.action, wanted.action)
        np.testing.assert_array_equal(episode.observation["state"], wanted.observation["state"])
        if films is not None:
            np.testing.assert_array_equal(np.asarray(episode.observation["pixels"]), wanted.observation["pixels"])
            film = episode.observation["film"]
            assert film.numbers.tolist() == wanted.observation["film"].numbers.tolist()  # type: ignore[attr-defined]
    if films is None and len(store):
        rows = rows_of_episode(store.spec, make_written_episode(len(store) - 1), "")
        assert store.digests[-1] == digest(rows, has_final_observation=True)


@pytest.mark.parametrize("images", [False, True], ids=["numbers", "images"])
def test_a_killed_writer_leaves_exactly_the_committed_episodes(tmp_path: Path, images: bool) -> None:
    kills = 0
    committed = 0
    while kills < 8 or (committed <= 5 and kills < 80):  # a busy machine commits less between two kills
        folder = tmp_path / str(kills)
        folder.mkdir()
        committed = max(committed, kill_writers(folder, images=images, kills=8, longest_s=0.3, seed=kills))
        kills += 8
    assert committed > 5


def test_what_a_killed_writer_had_not_finished_goes_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    WRITER["write_films"](tmp_path)
    EpisodeStore.create(
        path, make_spec(True), provenance={}, tiers=WRITER["TIERS"], block_bytes=WRITER["BLOCK_BYTES"]
    ).append(make_written_episode(0, films_in(tmp_path)))
    folders = {file.parent for file in (path / "images").rglob("zarr.json")}  # which are made while it writes
    assert path / "images" in folders
    for folder in folders:
        (folder / "zarr.0491c2445b8d4d2fa2f6afd93e676674.partial").touch()
    EpisodeStore.append_to(path)
    assert not list(path.rglob("*.partial"))


@pytest.mark.slow
def test_more_than_two_hundred_kills_over_all_tiers(tmp_path: Path) -> None:
    started, kills, episodes = time.monotonic(), 0, 0
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        episodes += kill_writers(folder, images=number % 3 > 0, kills=20, longest_s=0.5, seed=100 + number)
        kills += 20
    print(f"{kills} kills, {episodes} episodes committed, {time.monotonic() - started:.0f} s")
    assert kills >= 200
    assert episodes > 40
