"""The episode store: what goes in comes out, and nothing half-written is ever seen."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot_rl.datasets.schema import digest, rows_of_episode
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import building
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SPEC = Spec(
    observation={
        "state": ArraySpec(shape=(3,), dtype="float64", names=("x", "y", "z"), unit="m", frame="base"),
        "camera/front": ArraySpec(shape=(2, 2, 3), dtype="uint8"),
    },
    action=ArraySpec(shape=(2,), low=np.full(2, -1.0), high=np.full(2, 1.0)),
    control_period_s=0.05,
)


def make_episode(seed: int, steps: int, *, extras: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    terminated, truncated = np.zeros(steps, bool), np.zeros(steps, bool)
    terminated[-1], truncated[-1] = seed % 3 == 0, seed % 3 != 0 or seed % 2 == 0
    observation: dict[str, Array] = {}
    for key, array in SPEC.observation.items():
        shape = (steps + 1, *array.shape)
        observation[key] = (
            rng.normal(size=shape) if array.dtype == "float64" else rng.integers(0, 255, shape).astype(array.dtype)
        )
    return Episode(
        observation=observation,
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=rng.normal(size=steps),
        terminated=terminated,
        truncated=truncated,
        success=None if seed % 4 == 0 else rng.random(steps) < 0.3,
        intervened=rng.random(steps) < 0.5 if seed % 5 == 0 else None,
        has_final_observation=seed % 7 != 0,
        extras={"qpos": rng.normal(size=(steps + 1, 2)), "force": rng.normal(size=(steps, 1))} if extras else {},
        metadata={"source": f"demo_{seed}", "seed": seed},
    )


def assert_same(left: Episode, right: Episode) -> None:
    assert digest(rows_of_episode(SPEC, left, ""), has_final_observation=left.has_final_observation) == digest(
        rows_of_episode(SPEC, right, ""), has_final_observation=right.has_final_observation
    )
    assert (left.success is None) == (right.success is None)
    assert {key: len(array) for key, array in left.extras.items()} == {
        key: len(array) for key, array in right.extras.items()
    }
    assert left.metadata == right.metadata


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 1000), extras=st.booleans()
    )
    def check(lengths: list[int], seed: int, extras: bool) -> None:
        episodes = [make_episode(seed + index, steps, extras=extras) for index, steps in enumerate(lengths)]
        store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={"format": "test"}, overwrite=True)
        store.append(episodes[0])
        store.extend(episodes[1:])
        store.finish()
        read = EpisodeStore.open(tmp_path / "s.zarr")
        read.verify()
        assert len(read) == len(episodes)
        assert read.rows == sum(lengths) + len(lengths)
        assert read.spec.to_json() == SPEC.to_json()
        assert read.provenance == {"format": "test"}
        for found, wanted in zip(read.episodes(), episodes, strict=True):
            assert_same(found, wanted)
        assert_same(read.episode(len(lengths) - 1), episodes[-1])

    check()


def test_the_next_observation_is_the_next_row(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    episodes = [make_episode(1, 4), make_episode(2, 3)]
    store.extend(episodes)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    rows = np.asarray(group["steps/observation/state"][:])  # type: ignore[index]  # an array, by the layout
    assert np.asarray(group["meta/episode_ends"][:]).tolist() == [5, 9]  # type: ignore[index]  # as above
    np.testing.assert_array_equal(rows[5:9], episodes[1].observation["state"])
    for name in ("action", "reward", "terminated", "truncated", "success", "intervened"):
        assert len(np.asarray(group[f"steps/{name}"][:])) == 9  # type: ignore[index]  # as above


def test_statistics_are_those_of_the_real_rows(tmp_path: Path) -> None:
    episodes = [make_episode(7, 6), make_episode(8, 9)]  # seed 7 has no final observation
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    store.extend(episodes)
    store.finish()
    statistics = EpisodeStore.open(tmp_path / "s.zarr").statistics
    state = np.concatenate([episodes[0].observation["state"][:-1], episodes[1].observation["state"]])
    np.testing.assert_allclose(statistics["arrays"]["observation/state"]["mean"], state.mean(axis=0))
    np.testing.assert_allclose(statistics["arrays"]["observation/state"]["std"], state.std(axis=0))
    action = np.concatenate([episode.action for episode in episodes])
    np.testing.assert_allclose(statistics["arrays"]["action"]["maximum"], action.max(axis=0))
    assert (statistics["episodes"], statistics["steps"]) == (2, 15)
    assert statistics["returns"]["maximum"] == pytest.approx(max(episode.reward.sum() for episode in episodes))


def test_statistics_follow_episodes_that_were_appended_after_finish(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    store.append(make_episode(1, 3))
    store.finish()
    EpisodeStore.append_to(tmp_path / "s.zarr").append(make_episode(2, 5))
    assert EpisodeStore.open(tmp_path / "s.zarr").statistics["steps"] == 8


@pytest.mark.parametrize("operation", ["chunk", "ends"])
def test_a_crash_between_the_writes_of_an_episode_is_not_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = tmp_path / "s.zarr"
    store = EpisodeStore.create(path, SPEC, provenance={})
    store.append(make_episode(1, 10))
    fail_writes(monkeypatch, "steps/truncated/c" if operation == "chunk" else "meta/episode_ends/c", errno.EIO)
    with pytest.raises(InputError, match="could not be written"):
        store.append(make_episode(2, 30))
    monkeypatch.undo()
    assert len(EpisodeStore.open(path)) == 1
    EpisodeStore.open(path).verify()
    EpisodeStore.append_to(path).append(make_episode(3, 4))
    again = EpisodeStore.open(path)
    again.verify()
    assert_same(again.episode(1), make_episode(3, 4))


def fail_writes(monkeypatch: pytest.MonkeyPatch, part: str, number: int) -> None:
    """The disk refuses every write to a file whose path holds `part`."""
    original = zarr.storage.LocalStore.set

    async def refuse(self: zarr.storage.LocalStore, key: str, value: object) -> None:
        if part in f"{self.root}/{key}":
            raise OSError(number, os.strerror(number))
        await original(self, key, value)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(zarr.storage.LocalStore, "set", refuse)


def test_a_full_disk_is_named_and_keeps_what_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.zarr"
    store = EpisodeStore.create(path, SPEC, provenance={})
    store.append(make_episode(1, 3))
    fail_writes(monkeypatch, "steps/reward", errno.ENOSPC)
    with pytest.raises(InputError, match=r"disk is full: .*s\.zarr.* MB are free"):
        store.append(make_episode(2, 3))
    monkeypatch.undo()
    assert len(EpisodeStore.open(path)) == 1
    store.append(make_episode(2, 3))
    EpisodeStore.open(path).verify()
    assert len(EpisodeStore.open(path)) == 2


def test_a_store_that_is_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    EpisodeStore.create(path, SPEC, provenance={}).append(make_episode(1, 3))
    with pytest.raises(InputError, match="overwrite=true"):
        EpisodeStore.create(path, SPEC, provenance={})
    assert len(EpisodeStore.open(path)) == 1
    assert len(EpisodeStore.create(path, SPEC, provenance={}, overwrite=True)) == 0


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(InputError, match="no episode store"):
        EpisodeStore.create(tmp_path / "thesis", SPEC, provenance={}, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_building_leaves_nothing_behind_when_it_fails(tmp_path: Path, error: type[BaseException]) -> None:
    EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={"version": "old"})

    def build() -> None:
        with building(tmp_path / "s.zarr", overwrite=True) as temporary:
            EpisodeStore.create(temporary, SPEC, provenance={"version": "new"}).append(make_episode(1, 3))
            raise error

    with pytest.raises(error):
        build()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]
    assert EpisodeStore.open(tmp_path / "s.zarr").provenance == {"version": "old"}


def test_a_missing_store_suggests_a_near_name(tmp_path: Path) -> None:
    EpisodeStore.create(tmp_path / "door.zarr", SPEC, provenance={})
    with pytest.raises(InputError, match=r"Did you mean '.*door\.zarr'\? Or make it with"):
        EpisodeStore.open(tmp_path / "dor.zarr")


def test_a_missing_store_says_how_to_make_it_and_names_no_store_that_is_not_near(tmp_path: Path) -> None:
    EpisodeStore.create(tmp_path / "door.zarr", SPEC, provenance={})
    path = tmp_path / "lift.zarr"
    with pytest.raises(InputError) as caught:
        EpisodeStore.open(path)
    assert str(caught.value) == (
        f"there is no store at {path}. Make it with `robot-rl ingest SOURCE {path}`, or record it in a simulator with "
        f"`robot-rl evaluate ... record={path}`"
    )
    with pytest.raises(InputError, match="Make it with"):
        EpisodeStore.open(tmp_path / "no folder" / "lift.zarr")


def test_an_empty_store_opens(tmp_path: Path) -> None:
    EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={}).finish()
    store = EpisodeStore.open(tmp_path / "s.zarr")
    store.verify()
    assert (len(store), store.rows, list(store.episodes())) == (0, 0, [])


def test_a_changed_or_lost_file_does_not_pass_verification(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    store.extend([make_episode(1, 3), make_episode(2, 4)])
    store.verify()
    next((tmp_path / "s.zarr" / "steps" / "action" / "c").rglob("0")).rename(tmp_path / "lost")
    shadow = EpisodeStore.open(tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"episodes \[0, 1\] differ"):
        shadow.verify()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("action", np.full((3, 2), np.nan, np.float32), r"episode 0 \(demo_1\): action holds NaN .* step 0, channel 0"),
        ("reward", np.asarray([0.0, np.inf, 0.0]), "reward holds NaN or infinity at step 1"),
        ("action", np.zeros((3, 5), np.float32), "action has shape"),
        ("observation", {"state": np.zeros((4, 3))}, r"missing \['camera/front'\]"),
        (
            "observation",
            {"state": np.zeros((4, 2)), "camera/front": np.zeros((4, 2, 2, 3), np.uint8)},
            "'state' has shape",
        ),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_whole(tmp_path: Path, field: str, value: object, message: str) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    good = make_episode(1, 3)
    fields = {name: getattr(good, name) for name in Episode.__dataclass_fields__} | {field: value}
    with pytest.raises(InputError, match=message):
        store.append(Episode(**fields))
    assert len(EpisodeStore.open(tmp_path / "s.zarr")) == 0


def test_episodes_of_one_store_have_the_same_extras(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    store.append(make_episode(1, 3, extras=True))
    with pytest.raises(InputError, match=r"missing \['extras/force', 'extras/qpos'\]"):
        store.append(make_episode(2, 3))
    assert len(store) == 1


def test_a_crash_before_the_first_commit_does_not_bind_the_next_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    fail_writes(monkeypatch, "meta/episode_ends/c", errno.EIO)
    with pytest.raises(InputError, match="could not be written"):
        store.append(make_episode(1, 3, extras=True))
    monkeypatch.undo()
    store.append(make_episode(2, 3))
    assert_same(EpisodeStore.open(tmp_path / "s.zarr").episode(0), make_episode(2, 3))


def test_bulk_reading_uses_one_read_per_array_and_none_for_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    store.extend([make_episode(seed, 5) for seed in range(1, 30)])
    reads: list[str] = []
    original = zarr.Array.__getitem__

    def counted(self: zarr.Array, selection: object) -> object:  # type: ignore[type-arg]  # any array
        reads.append(self.path)
        return original(self, selection)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)
    assert len(list(store.episodes())) == 29
    assert len(reads) == len(set(reads)) == 7


def test_a_store_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"

    def build_slowly() -> None:
        with building(path) as temporary:
            EpisodeStore.create(temporary, SPEC, provenance={"writer": "slow"})
            EpisodeStore.create(path, SPEC, provenance={"writer": "fast"})

    with pytest.raises(InputError, match="overwrite=true"):
        build_slowly()
    assert EpisodeStore.open(path).provenance == {"writer": "fast"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_statistics_of_planes_are_over_all_their_numbers(tmp_path: Path) -> None:
    depth = np.linspace(0, 2, 4 * 40 * 50, dtype=np.float32).reshape(4, 40, 50)
    store = EpisodeStore.create(
        tmp_path / "depth.zarr",
        Spec(observation={"depth": ArraySpec(shape=(40, 50))}, action=ArraySpec(shape=(1,))),
        provenance={},
    )
    store.append(
        Episode(
            observation={"depth": depth},
            action=np.zeros((3, 1), np.float32),
            reward=np.zeros(3),
            terminated=np.zeros(3, bool),
            truncated=np.array([False, False, True]),
        )
    )
    store.finish()
    numbers = store.statistics["arrays"]["observation/depth"]
    assert np.shape(numbers["mean"]) == (1,)
    np.testing.assert_allclose(numbers["mean"], depth.mean(dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(numbers["std"], depth.std(dtype=np.float64), rtol=1e-6)
    assert (tmp_path / "depth.zarr" / "zarr.json").stat().st_size < 10_000


@pytest.mark.parametrize("key", ["a\0b", "x" * 300, "a/../b", "a//b", "__x", "\ud800"])
def test_keys_that_cannot_be_a_folder_are_refused(tmp_path: Path, key: str) -> None:
    spec = Spec(observation={key: ArraySpec(shape=(1,))}, action=ArraySpec(shape=(1,)))
    with pytest.raises(InputError, match="cannot be the name of an array"):
        EpisodeStore.create(tmp_path / "store.zarr", spec, provenance={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
def test_an_extra_has_a_row_behind_the_last_step_in_all_episodes_or_in_none(
    tmp_path: Path, first: int, second: int
) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    one, other = (replace(make_episode(1, 3), extras={"force": np.ones(3 + behind)}) for behind in (first, second))
    store.append(one)
    with pytest.raises(InputError, match=f"extra 'force' has {3 + second} rows for 3 steps; in this store it has"):
        store.append(other)
    assert len(EpisodeStore.open(store.path)) == 1


def test_whole_numbers_that_do_not_fit_are_refused_and_not_wrapped(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    store.append(replace(make_episode(1, 3), extras={"ticks": np.arange(3, dtype=np.int32)}))
    store.append(replace(make_episode(1, 3), extras={"ticks": np.arange(3, dtype=np.int64)}))
    with pytest.raises(InputError, match="extras/ticks holds numbers from 0 to 17179869184, which do not fit"):
        store.append(replace(make_episode(1, 3), extras={"ticks": np.arange(3) << 33}))


def test_a_store_that_is_replaced_while_it_is_read_is_never_mixed_with_the_new_one(tmp_path: Path) -> None:
    def make(value: int) -> None:
        spec = Spec(observation={"image": ArraySpec(shape=(8, 8, 3), dtype="uint8")}, action=ArraySpec(shape=(1,)))
        store = EpisodeStore.create(
            tmp_path / "store.zarr", spec, provenance={}, overwrite=value > 1, block_bytes=4 * 8 * 8 * 3
        )
        last = np.arange(11) == 10
        store.append(
            Episode(
                observation={"image": np.full((12, 8, 8, 3), value, np.uint8)},
                action=np.zeros((11, 1), np.float32),
                reward=np.zeros(11),
                terminated=np.zeros(11, bool),
                truncated=last,
            )
        )

    make(1)
    column = EpisodeStore.open(tmp_path / "store.zarr").column("image")
    assert (column.gather(np.array([0])) == 1).all()
    make(2)
    with pytest.raises(InputError, match="replaced while it was read"):
        column.gather(np.array([11]))
    assert (EpisodeStore.open(tmp_path / "store.zarr").column("image").gather(np.array([0, 11])) == 2).all()
