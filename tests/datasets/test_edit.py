"""Changes of stores: which episodes end up where, and that what is not changed stays byte for byte."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.datasets import edit
from robot_rl.datasets.convert_transforms import RewardLabel
from robot_rl.datasets.edit import Labels, Selection
from robot_rl.datasets.frames import EncodedFrames, as_array, encode_jpeg, lazy
from robot_rl.datasets.ingest.base import SuccessLabel
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

SIDE = 24


def make_episode(seed: int, **metadata: Any) -> Episode:
    """Return = seed; a success in every second one; a JPEG image, a raw one, and numbers."""
    rng = np.random.default_rng(seed)
    steps = 3 + seed % 4
    end = np.arange(steps) == steps - 1
    images = rng.integers(0, 255, (steps + 1, SIDE, SIDE, 3), np.uint8)
    camera = EncodedFrames.of([encode_jpeg(image, 70) for image in images], "camera")
    return Episode(
        observation={"state": rng.normal(size=(steps + 1, 3)), "camera": as_array(camera), "wrist": images},
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=np.where(end, float(seed), 0.0),
        terminated=end & (seed % 2 == 1),
        truncated=end & (seed % 2 == 0),
        success=end & (seed % 2 == 1),
        has_final_observation=seed % 3 != 0,
        extras={"timestamp_s": np.arange(steps + 1) * 0.1, "timestamp_s/camera": np.arange(steps + 1) * 0.1},
        metadata={"source": f"demo_{seed}", "language": "open the Door" if seed < 3 else "lift it"} | metadata,
    )


def make_store(path: Path, seeds: range, **metadata: Any) -> EpisodeStore:
    image = ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8")
    state = ArraySpec(shape=(3,), dtype="float64")
    spec = Spec(observation={"state": state, "camera": image, "wrist": image}, action=ArraySpec(shape=(2,)))
    store = EpisodeStore.create(path, spec, provenance={"format": "test"}, tiers={"camera": "jpeg"})
    store.extend([make_episode(seed, **metadata) for seed in seeds])
    store.finish()
    return EpisodeStore.open(path)


def sources(path: Path) -> list[str]:
    store = EpisodeStore.open(path)
    store.verify()
    return [store.metadata(index)["source"] for index in range(len(store))]


def jpeg_bytes(path: Path, index: int) -> list[bytes]:
    frames = lazy(EpisodeStore.open(path).episode(index).observation["camera"])
    assert isinstance(frames, EncodedFrames)
    return [bytes(data) for data in frames.encoded]


def test_deleting_in_place_keeps_the_others_byte_for_byte(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(6))
    before, images = store.digests, jpeg_bytes(store.path, 4)
    made = edit.delete(store.path, [1, 3])
    assert (made.episodes, made.removed) == (4, 2)
    assert sources(store.path) == ["demo_0", "demo_2", "demo_4", "demo_5"]
    after = EpisodeStore.open(store.path)
    assert after.digests == [before[index] for index in (0, 2, 4, 5)]
    assert jpeg_bytes(store.path, 2) == images
    assert after.tiers == {"camera": "jpeg", "wrist": "raw"}
    assert after.provenance["edits"] == [{"operation": "delete", "episodes": [1, 3], "removed": 2}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_everything_of_an_episode_goes_over(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(4))
    edit.delete(store.path, [0], tmp_path / "out.zarr")
    assert len(EpisodeStore.open(store.path)) == 4
    for ours, theirs in zip(
        EpisodeStore.open(tmp_path / "out.zarr").episodes(), store.episodes([1, 2, 3]), strict=True
    ):
        assert ours.has_final_observation == theirs.has_final_observation
        assert ours.metadata == theirs.metadata
        assert set(ours.extras) == set(theirs.extras)
        for key in ("action", "reward", "terminated", "truncated", "success"):
            np.testing.assert_array_equal(getattr(ours, key), getattr(theirs, key))


def test_merging_puts_one_behind_the_other(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "a.zarr", range(3)), make_store(tmp_path / "b.zarr", range(3, 5))
    made = edit.merge([first.path, second.path, first.path], tmp_path / "all.zarr")
    assert made.episodes == 8
    assert EpisodeStore.open(made.path).digests == first.digests + second.digests + first.digests
    assert [part["episodes"] for part in EpisodeStore.open(made.path).provenance["merged"]] == [3, 2, 3]
    edit.merge([first.path, second.path])
    assert sources(first.path) == [f"demo_{seed}" for seed in range(5)]


def test_stores_of_different_kinds_are_not_merged(tmp_path: Path) -> None:
    first = make_store(tmp_path / "a.zarr", range(2))
    edit.filter_episodes(first.path, Selection(exclude=["wrist"]), tmp_path / "b.zarr")
    with pytest.raises(InputError, match=r"b\.zarr cannot be merged with .*a\.zarr: observation 'wrist'"):
        edit.merge([first.path, tmp_path / "b.zarr"], tmp_path / "c.zarr")
    with pytest.raises(InputError, match="at least two"):
        edit.merge([first.path])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


@pytest.mark.parametrize(
    ("selection", "kept"),
    [
        (Selection(episodes=[4, 1]), [1, 4]),
        (Selection(keep="successful"), [1, 3, 5]),
        (Selection(minimum_steps=5, maximum_steps=5), [2]),
        (Selection(minimum_return=4.0), [4, 5]),
        (Selection(task="door"), [0, 1, 2]),
        (Selection(task="door", keep="successful"), [1]),
    ],
)
def test_filters(tmp_path: Path, selection: Selection, kept: list[int]) -> None:
    store = make_store(tmp_path / "s.zarr", range(6))
    made = edit.filter_episodes(store.path, selection, tmp_path / "out.zarr")
    assert sources(Path(made.path)) == [f"demo_{seed}" for seed in kept]
    assert EpisodeStore.open(made.path).digests == [store.digests[index] for index in kept]


def test_a_filter_of_keys_takes_their_time_stamps_along(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(2))
    edit.filter_episodes(store.path, Selection(exclude=["cam*"]))
    after = EpisodeStore.open(store.path)
    assert list(after.spec.observation) == ["state", "wrist"]
    assert set(after.episode(0).extras) == {"timestamp_s"}
    assert after.tiers == {"wrist": "raw"}


def test_a_filter_that_leaves_nothing_changes_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(2))
    with pytest.raises(InputError, match="leave none of 2 episodes"):
        edit.filter_episodes(store.path, Selection(minimum_return=99.0))
    with pytest.raises(InputError, match="has episodes 0 to 1, not 7"):
        edit.delete(store.path, [0, 7])
    assert EpisodeStore.open(store.path).digests == store.digests


def test_relabelling(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(3))
    edit.relabel(store.path, Labels(language="push"), tmp_path / "said.zarr")
    said = EpisodeStore.open(tmp_path / "said.zarr")
    assert said.digests == store.digests
    assert {episode.metadata["language"] for episode in said.episodes()} == {"push"}
    edit.relabel(store.path, Labels(reward=RewardLabel(last_steps=2, values=(-1.0, 0.0))), tmp_path / "paid.zarr")
    for episode in EpisodeStore.open(tmp_path / "paid.zarr").episodes():
        assert episode.reward.tolist() == [-1.0] * (len(episode) - 2) + [0.0, 0.0]
        assert episode.success is not None
        assert episode.success.sum() == 2
    edit.relabel(store.path, Labels(success=SuccessLabel(observation="state", minimum=-np.inf)))
    assert all(np.all(episode.success) for episode in EpisodeStore.open(store.path).episodes())
    with pytest.raises(InputError, match="needs what to set"):
        edit.relabel(store.path, Labels())


def test_a_split_is_exact_repeatable_and_in_order(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(10))
    shares = {"train": 0.7, "test": 0.3}
    first = edit.split(store.path, tmp_path / "one", shares=shares, seed=3)
    second = edit.split(store.path, tmp_path / "two", shares=shares, seed=3)
    other = edit.split(store.path, tmp_path / "three", shares=shares, seed=4)
    assert [Path(made.path) for made in first] == [tmp_path / "one" / "train.zarr", tmp_path / "one" / "test.zarr"]
    parts = [sources(Path(made.path)) for made in first]
    assert [len(part) for part in parts] == [7, 3]
    assert sorted(parts[0] + parts[1]) == [f"demo_{seed}" for seed in range(10)]
    assert all(part == sorted(part) for part in parts)
    assert [sources(Path(made.path)) for made in second] == parts
    assert [sources(Path(made.path)) for made in other] != parts
    ordered = edit.split(store.path, tmp_path / "four", shares=shares, by="order")
    assert sources(Path(ordered[1].path)) == ["demo_7", "demo_8", "demo_9"]


@given(st.integers(2, 60), st.integers(0, 5), st.booleans(), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_parts_are_a_partition_and_copies_stay_together(
    count: int, seed: int, shuffled: bool, weights: list[int]
) -> None:
    digests = [str(index % 13 if index > 20 else index) for index in range(count)]
    shares = {f"part_{number}": weight / sum(weights) for number, weight in enumerate(weights)}
    try:
        parts = edit.parts_by_share(digests, shares, seed, shuffled=shuffled)
    except InputError:
        return  # too few for so many parts
    assert sorted(index for part in parts.values() for index in part) == list(range(count))
    owners = [{digests[index] for index in part} for part in parts.values()]
    assert sum(map(len, owners)) == len(set(digests))


def test_a_split_follows_what_the_source_declared(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    make_store(path, range(2), split="train")
    other = make_store(tmp_path / "o.zarr", range(2, 5), filters=["valid", "20_percent_valid"])
    edit.merge([path, other.path])
    made = edit.split(path, tmp_path / "out", by="recorded")
    assert {Path(one.path).stem: one.episodes for one in made} == {"train": 2, "valid": 3}
    with pytest.raises(InputError, match="has episode 0 in no split"):
        edit.split(make_store(tmp_path / "n.zarr", range(2)).path, tmp_path / "no", by="recorded")


def test_bad_shares_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(3))
    for shares, message in (
        ({"train": 0.5, "test": 0.4}, "must sum to 1"),
        ({"train": 1.5, "test": -0.5}, "must not be negative"),
        ({"train": 0.999, "test": 0.001}, "none is left for test"),
    ):
        with pytest.raises(InputError, match=message):
            edit.split(store.path, tmp_path / "out", shares=shares)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_a_folder_of_stores_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(10))
    edit.split(store.path, tmp_path / "out")
    with pytest.raises(InputError, match="overwrite=true"):
        edit.split(store.path, tmp_path / "out")
    edit.split(store.path, tmp_path / "out", shares={"a": 0.5, "b": 0.5}, overwrite=True)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["a.zarr", "b.zarr"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(InputError, match="is no folder of stores"):
        edit.split(store.path, tmp_path / "notes", overwrite=True)


def test_a_store_that_somebody_writes_is_not_changed_in_place(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", range(3))
    script = f"""
import sys
from pathlib import Path
from robot_rl.datasets.store_files import WriterLock
lock = WriterLock(Path({str(store.path)!r}))
print("locked", flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="being written to by another process"):
            edit.delete(store.path, [0])
        edit.delete(store.path, [0], tmp_path / "out.zarr")
        process.stdin.close()
    assert edit.delete(store.path, [0]).episodes == 2


def test_what_is_appended_while_a_change_is_prepared_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_store(tmp_path / "s.zarr", range(4)).path
    choose = edit.choose_keys

    def slow(*arguments: Any) -> list[str]:
        other = EpisodeStore.append_to(path)  # another process, between opening and locking
        other.append(make_episode(7))
        return choose(*arguments)

    monkeypatch.setattr(edit, "choose_keys", slow)
    with pytest.raises(InputError, match="try again"):
        edit.filter_episodes(path, Selection(minimum_steps=2))
    assert sources(path) == ["demo_0", "demo_1", "demo_2", "demo_3", "demo_7"]


def test_the_same_store_under_another_spelling_is_changed_in_place(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s.zarr", range(3)).path
    edit.delete(path, [1], f"{tmp_path}/./s.zarr")
    assert sources(path) == ["demo_0", "demo_2"]


def test_a_split_never_replaces_its_source_or_a_store_that_no_split_made(tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    mine = make_store(stores / "mine.zarr", range(4)).path
    with pytest.raises(InputError, match="lies in"):
        edit.split(mine, stores, shares={"a": 0.5, "b": 0.5}, overwrite=True)
    other = make_store(tmp_path / "other.zarr", range(4)).path
    with pytest.raises(InputError, match=r"holds mine\.zarr, which no split has made"):
        edit.split(other, stores, shares={"a": 0.5, "b": 0.5}, overwrite=True)
    assert sources(mine) == ["demo_0", "demo_1", "demo_2", "demo_3"]
