"""`robot-rl ingest` and `robot-rl inspect`, from a file to a store to pictures."""

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image
import numpy as np
import pytest
import zarr

from robot_rl.apps import ingest, inspect
from robot_rl.data_config import (
    BagConfig,
    ImageConfig,
    IngestConfig,
    InspectConfig,
    RewardRule,
    SuccessRule,
    TableConfig,
)
from robot_rl.datasets.convert_transforms import ImageOptions, RewardLabel
from robot_rl.datasets.reader import load_episodes
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.transforms.action import EDGE, ActionScale


def run(source: Path, store: Path, **settings: Any) -> EpisodeStore:
    assert ingest.run(IngestConfig(source=str(source), store=str(store), **settings)) == 0
    return EpisodeStore.open(store)


def arrays(store: EpisodeStore) -> dict[str, Any]:
    """Every array of a store, by its path."""
    found = {}
    for part in ("steps", "meta"):
        members = zarr.open_group(store.path / part, mode="r").members(max_depth=None)
        found |= {f"{part}/{name}": np.asarray(array[:]) for name, array in members if isinstance(array, zarr.Array)}
    return found


def assert_identical(left: EpisodeStore, right: EpisodeStore, *, metadata: bool = True) -> None:
    specs = [left.spec.to_json(), right.spec.to_json()]
    for spec in specs:  # a pickle does not say how an episode ended; the layouts made of it do
        spec["metadata"]["absent"] = [name for name in spec["metadata"].get("absent", []) if name != "end"]
    assert specs[0] == specs[1]
    assert left.digests == right.digests
    assert left.statistics == right.statistics
    ours, theirs = arrays(left), arrays(right)
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    for one, other in zip(left.episodes(), right.episodes(), strict=True) if metadata else ():
        assert one.metadata["initial_state"] == other.metadata["initial_state"]


DOOR = ("door-v0_demos.pickle", "door_human.hdf5", "door_human_d4rl_layout.hdf5")
PEN = ("pen_human.hdf5", "pen_human_d4rl_layout.hdf5")


@pytest.mark.parametrize(
    ("files", "rule", "steps", "successful"),
    [
        (DOOR, {"observation": "state", "index": 28, "minimum": 1.35}, 6729, 7),
        (DOOR, None, 6729, 0),
        (PEN, None, 4975, 25),
    ],
)
def test_every_layout_of_the_adroit_data_gives_the_same_store(
    tmp_path: Path, shared_data: Path, files: tuple[str, ...], rule: dict[str, Any] | None, steps: int, successful: int
) -> None:
    success = None if rule is None else SuccessRule(**rule)
    stores = [run(shared_data / "adroit_human" / name, tmp_path / f"{name}.zarr", success=success) for name in files]
    for store in stores:
        store.verify()
        assert (len(store), store.steps) == (25, steps)
        assert store.statistics["success"]["successful_episodes"] == successful
        assert_identical(stores[0], store)
    assert stores[0].spec.observation["state"].dtype == "float64"
    assert all(episode.has_final_observation == (files == PEN) for episode in stores[0].episodes())


def test_a_raw_robosuite_recording_becomes_observations_and_ends_in_success(tmp_path: Path, shared_data: Path) -> None:
    store = run(shared_data / "robosuite_demos" / "v1.0_panda" / "lift" / "demo.hdf5", tmp_path / "lift.zarr")
    (episode,) = store.episodes()
    assert store.spec.control_period_s is not None
    assert "simulator_state" in episode.extras
    assert episode.success is not None
    assert episode.success[-1]
    assert len(episode.observation["object"]) == len(episode) + 1


def test_old_robosuite_recordings_are_refused_with_the_reason(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "robosuite_demos" / "v0.1" / "SawyerLift" / "demo.hdf5"
    with pytest.raises(InputError, match=r"no actions, only .*joint_velocities.*robosuite 0\.1\.0"):
        run(source, tmp_path / "s.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_there_suggests_a_near_file_and_no_other(tmp_path: Path) -> None:
    for name in ("door_human.hdf5", "door_human.zarr", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"Did you mean '.*/door_human\.hdf5'\?$"):
        run(tmp_path / "dor_human.hdf5", tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"there is no file at .*/lift\.hdf5\. Name the file of a recording$"):
        run(tmp_path / "lift.hdf5", tmp_path / "s.zarr")


def write_source(path: Path, *, action: float = 0.5, steps: int = 20, bad_step: int | None = None) -> Path:
    """Three episodes in D4RL's layout."""
    rng = np.random.default_rng(0)
    timeouts = np.zeros(3 * steps, bool)
    timeouts[steps - 1 :: steps] = True
    actions = rng.uniform(-action, action, (3 * steps, 2))
    if bad_step is not None:
        actions[bad_step] = np.nan
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = rng.normal(size=(3 * steps, 3)), actions
        file["rewards"], file["timeouts"] = rng.normal(size=3 * steps), timeouts
        file["terminals"] = np.zeros(3 * steps, bool)
    return path


def test_a_store_that_is_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    source = write_source(tmp_path / "x.hdf5")
    before = run(source, tmp_path / "s.zarr").digests
    with pytest.raises(InputError, match=r"s\.zarr is there already.*overwrite=true"):
        run(write_source(tmp_path / "y.hdf5", steps=5), tmp_path / "s.zarr")
    assert EpisodeStore.open(tmp_path / "s.zarr").digests == before
    assert run(tmp_path / "y.hdf5", tmp_path / "s.zarr", overwrite=True).steps == 15


@pytest.mark.parametrize("there", [False, True])
def test_bad_input_leaves_no_half_written_store(tmp_path: Path, there: bool) -> None:
    (tmp_path / "out").mkdir()
    before = run(write_source(tmp_path / "x.hdf5"), tmp_path / "out" / "s.zarr").digests if there else []
    with pytest.raises(InputError, match=r"bad\.hdf5: actions holds NaN or infinity at step 41"):
        run(write_source(tmp_path / "bad.hdf5", bad_step=41), tmp_path / "out" / "s.zarr", overwrite=True)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == (["s.zarr"] if there else [])
    if there:
        assert EpisodeStore.open(tmp_path / "out" / "s.zarr").digests == before


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_after_a_full_disk_or_an_interrupt_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path / "x.hdf5")
    (tmp_path / "out").mkdir()
    original = zarr.storage.LocalStore.set

    async def refuse(self: zarr.storage.LocalStore, key: str, value: object) -> None:
        if "steps/reward/c" in key:
            raise failure
        await original(self, key, value)  # type: ignore[arg-type]  # handed on as it came

    if isinstance(failure, OSError):
        monkeypatch.setattr(zarr.storage.LocalStore, "set", refuse)
        with pytest.raises(InputError, match=r"disk is full: .*s\.zarr.* MB are free"):
            run(source, tmp_path / "out" / "s.zarr")
    else:
        monkeypatch.setattr(EpisodeStore, "finish", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out" / "s.zarr")
    assert [entry.name[:16] for entry in (tmp_path / "out").iterdir()] == [".s.zarr.partial-"]
    monkeypatch.undo()
    capsys.readouterr()
    resumed = run(source, tmp_path / "out" / "s.zarr")
    assert ("Resuming: 3 of 3 episodes are there" in capsys.readouterr().out) == isinstance(failure, KeyboardInterrupt)
    assert_identical(resumed, run(source, tmp_path / "whole.zarr"), metadata=False)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["s.zarr"]


def _interrupt(_: EpisodeStore) -> None:
    raise KeyboardInterrupt


def test_a_damaged_demonstration_is_left_out_named_and_told_by_the_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        for number in range(3):
            demo = file.create_group(f"data/demo_{number}")
            demo["obs/state"], demo["actions"] = np.random.default_rng(number).normal(size=(5, 2)), np.zeros((5, 1))
            demo["rewards"], demo["dones"] = np.zeros(4 if number == 1 else 5), np.zeros(5)
    config = IngestConfig(source=str(tmp_path / "demos.hdf5"), store=str(tmp_path / "s.zarr"))
    assert ingest.run(config) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "Stored 2 episodes of robomimic_hdf5" in printed
    assert "the episode was left out" in printed
    assert "lengths disagree" in printed
    assert "1 episodes could not be used" in printed
    assert len(EpisodeStore.open(tmp_path / "s.zarr")) == 2
    config.on_error, config.store = "stop", str(tmp_path / "t.zarr")
    with pytest.raises(InputError, match="lengths disagree"):
        ingest.run(config)
    assert not (tmp_path / "t.zarr").exists()


def test_every_setting_reaches_the_conversion(tmp_path: Path) -> None:
    config = IngestConfig(
        source="a",
        store="b",
        keys=["state"],
        stride=2,
        image=ImageConfig(size=[64, 96], fit="pad", tier="jpeg", quality=80),
        reward=RewardRule(last_steps=3, values=[-1.0, 0.0]),
        bag=BagConfig(action="/cmd", idle_s=3.0),
        table=TableConfig(action=["J*"], missing="hold"),
        success=SuccessRule(observation="state", minimum=1.0),
        action_low=[-2.0],
        action_high=[2.0],
        side_file="c.csv",
        workers=3,
        engine="ray",
        on_error="stop",
    )
    made = ingest.settings(config)
    assert (made.workers, made.engine, made.on_error) == (3, "ray", "stop")
    assert made.transforms.image == ImageOptions(size=(64, 96), fit="pad", tier="jpeg", quality=80)
    assert made.transforms.reward == RewardLabel(last_steps=3, values=(-1.0, 0.0))
    assert (made.transforms.keys, made.transforms.stride) == (["state"], 2)
    assert (made.read.bag.action, made.read.bag.idle_s, made.read.table.missing) == ("/cmd", 3.0, "hold")
    assert made.read.success == made.transforms.success
    assert made.read.action_low == made.transforms.action_low == [-2.0]
    assert made.read.side_file == "c.csv"
    assert made.read.resimulate is not None


def test_out_of_range_actions_are_stored_as_recorded_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = run(write_source(tmp_path / "x.hdf5", action=1.4), tmp_path / "s.zarr")
    assert max(float(np.abs(episode.action).max()) for episode in store.episodes()) > 1.2
    assert "outside the bounds" in " ".join(capsys.readouterr().out.split())


def test_trap_08_and_09_stored_actions_become_normalised_and_never_touch_the_edge(tmp_path: Path) -> None:
    store = run(
        write_source(tmp_path / "x.hdf5", action=0.4), tmp_path / "s.zarr", action_low=[-0.4], action_high=[0.4]
    )
    scale = ActionScale.from_spec(store.spec.action)
    normalized = np.concatenate([scale.normalize(episode.action) for episode in load_episodes(store.path)])
    assert 0.9 < np.abs(normalized).max() <= EDGE  # a Humanoid-like range of 0.4 fills [-1, 1]
    assert np.abs(scale.normalize(np.asarray([[0.4, -0.4]]))).max() < 1.0  # atanh of 1 is infinite


def test_inspect_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        write_source(tmp_path / "x.hdf5"),
        tmp_path / "s.zarr",
        success=SuccessRule(observation="state", index=0, minimum=2.0),
        control_period_s=0.02,
    )
    capsys.readouterr()
    assert inspect.run(InspectConfig(store=str(tmp_path / "s.zarr"))) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("episodes 3", "steps 60", "control period 0.02 s", "success", "observation 'state'", "d4rl_hdf5"):
        assert words in printed
    for name in ("episodes", "channels", "examples"):
        assert matplotlib.image.imread(tmp_path / "s_inspect" / f"{name}.png").std() > 0.02


@pytest.mark.parametrize("steps", [1, 2])
def test_inspect_draws_degenerate_stores(tmp_path: Path, steps: int) -> None:
    run(write_source(tmp_path / "x.hdf5", steps=steps), tmp_path / "s.zarr", maximum_episodes=1)
    assert inspect.run(InspectConfig(store=str(tmp_path / "s.zarr"), plots=str(tmp_path / "p"))) == 0


def test_inspect_reports_damage_by_its_status(tmp_path: Path) -> None:
    run(write_source(tmp_path / "x.hdf5"), tmp_path / "s.zarr")
    next((tmp_path / "s.zarr" / "steps" / "reward" / "c").iterdir()).unlink()
    assert inspect.run(InspectConfig(store=str(tmp_path / "s.zarr"))) == 1
    with pytest.raises(InputError, match=r"Did you mean '.*s\.zarr'"):
        inspect.run(InspectConfig(store=str(tmp_path / "ss.zarr")))
