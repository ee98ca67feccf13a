"""HDF5: nothing outside the file, no length that it cannot hold; images, masks and other actions of robomimic; D4RL."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robot_rl.datasets.frames import lazy
from robot_rl.datasets.ingest import d4rl_hdf5
from robot_rl.datasets.ingest.base import ReadOptions, Recording
from robot_rl.datasets.ingest.hdf5 import Hdf5Frames, attributes, leaves, open_file
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.errors import InputError
from robot_rl.types import Array

STEPS = 4


def images(seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (STEPS + 1, 6, 5, 3), dtype=np.uint8)


def write_demo(demo: h5py.Group, seed: int = 0, *, next_observation: bool = True) -> None:
    pictures, depth = images(seed), np.arange((STEPS + 1) * 30, dtype=np.float32).reshape(STEPS + 1, 6, 5, 1)
    state = np.arange(2.0 * (STEPS + 1)).reshape(STEPS + 1, 2) + seed
    for key, rows in (("front_image", pictures), ("front_depth", depth), ("eef_pos", state)):
        demo[f"obs/{key}"] = rows[:-1]
        if next_observation:
            demo[f"next_obs/{key}"] = rows[1:]
    demo["actions"], demo["rewards"] = np.zeros((STEPS, 2)), np.zeros(STEPS)
    demo["dones"] = np.arange(STEPS) == STEPS - 1
    demo.attrs["num_samples"] = STEPS


def write(path: Path, change: Callable[[h5py.File], Any] | None = None, demos: int = 2, **settings: Any) -> Path:
    with h5py.File(path, "w") as file:
        for index in range(demos):
            write_demo(file.create_group(f"data/demo_{index}"), index, **settings)
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        if change is not None:
            change(file)
    return path


def write_flat(path: Path, **arrays: Array) -> Path:
    rows: dict[str, Any] = {
        "observations": np.arange(8.0).reshape(4, 2),
        "actions": np.zeros((4, 1)),
        "rewards": np.zeros(4),
        "terminals": np.zeros(4, bool),
        "timeouts": np.asarray([0, 1, 0, 1], bool),
    }
    with h5py.File(path, "w") as file:
        for key, array in (rows | arrays).items():
            file[key] = array
    return path


def opened(path: Path) -> Recording:
    return find_reader(path).open(path, ReadOptions())


# Robomimic


@pytest.mark.parametrize("next_observation", [True, False])
def test_images_are_read_as_they_are_looked_at(tmp_path: Path, next_observation: bool) -> None:
    with opened(write(tmp_path / "x", next_observation=next_observation)) as recording:
        episode = recording.read(1)
        frames = episode.observation["front_image"]
        assert lazy(frames) is not None
        assert recording.spec.observation["front_image"].is_image
        expected = images(1)
        if not next_observation:
            expected[-1] = expected[-2]
        np.testing.assert_array_equal(np.asarray(frames), expected)
        np.testing.assert_array_equal(frames[-1], expected[-1])
        np.testing.assert_array_equal(np.asarray(frames[[4, 0, 0]]), expected[[4, 0, 0]])
        np.testing.assert_array_equal(np.asarray(frames[::2][1:]), expected[[2, 4]])
        assert episode.has_final_observation == next_observation


def test_rows_far_apart_are_read_one_by_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x", "w") as file:
        rows = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
        frames = Hdf5Frames(file.create_dataset("a", data=rows), np.arange(100), tmp_path / "x")
        np.testing.assert_array_equal(frames.decode(np.asarray([99, 0])), rows[[99, 0]])


def test_depth_becomes_planes(tmp_path: Path) -> None:
    with opened(write(tmp_path / "x")) as recording:
        depth = recording.read(0).observation["front_depth"]
        assert depth.shape == (STEPS + 1, 6, 5)
        assert recording.spec.observation["front_depth"].dtype == "float32"
        assert depth[-1, -1, -1] == (STEPS + 1) * 30 - 1


def test_actions_in_other_forms_become_extras(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            demo["actions_abs"] = np.ones((STEPS, 2))
            demo["action_dict/rel_pos"] = np.full((STEPS, 3), 2.0)
            demo["datagen_info/eef_pose"] = np.zeros((STEPS, 4, 4))
            demo.attrs["model_file"] = "<mujoco/>"

    with opened(write(tmp_path / "x", change)) as recording:
        extras = recording.read(0).extras
        assert extras["actions_abs"].shape == (STEPS, 2)
        assert extras["action_dict/rel_pos"].shape == (STEPS, 3)
        (text,) = [finding.text for finding in recording.findings if "not stored" in finding.text]
        assert "datagen_info" in text
        assert "model_file" in text


def test_another_number_of_absolute_actions_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x", lambda file: file.create_dataset("data/demo_0/actions_abs", data=np.ones((3, 2))))
    with opened(path) as recording, pytest.raises(InputError, match=r"data/demo_0: lengths disagree.*'actions_abs': 3"):
        recording.read(0)


def test_a_demonstration_in_one_mask_is_of_that_split(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["mask/train"] = [b"demo_0", b"demo_1"]
        file["mask/valid"] = [b"demo_1"]
        file["mask/20_percent"] = [b"demo_0"]

    with opened(write(tmp_path / "x", change, demos=3)) as recording:
        first, both, none = (episode.metadata for episode in recording.episodes())
        assert first["split"] == "train"
        assert "split" not in both
        assert both["filters"] == ["train", "valid"]
        assert "split" not in none


def test_the_language_of_a_whole_file_is_that_of_each_demonstration(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": ["open", "the drawer"]})
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "close it"})

    with opened(write(tmp_path / "x", change)) as recording:
        assert [episode.metadata["language"] for episode in recording.episodes()] == ["open the drawer", "close it"]


def test_what_a_whole_recording_lacks_is_declared(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            del demo["rewards"], demo["dones"]

    with opened(write(tmp_path / "x", change)) as recording:
        assert recording.spec.metadata["absent"] == ["reward", "success", "end"]
        episode = recording.read(0)
        assert not episode.reward.any()
        assert episode.truncated[-1]
        assert not episode.terminated.any()


def test_a_demonstration_without_the_rewards_of_the_others_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x", lambda file: file["data/demo_1"].pop("rewards"))
    with opened(path) as recording:
        recording.read(0)
        with pytest.raises(InputError, match="no data set 'rewards' in data/demo_1"):
            recording.read(1)


# D4RL


def test_rewards_may_be_a_column_and_metadata_is_kept(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "x", rewards=np.arange(4.0)[:, None])
    with h5py.File(path, "a") as file:
        file["metadata/algorithm"] = "SAC"
        file["metadata/policy/weights"] = np.zeros(10_000)
        file["infos/goal"] = np.ones((4, 2))
    with opened(path) as recording:
        assert recording.provenance["attributes"]["metadata"] == {"algorithm": "SAC"}
        assert recording.spec.metadata["absent"] == ["success"]
        np.testing.assert_array_equal(recording.read(1).reward, [2.0, 3.0])
        assert recording.read(1).extras["goal"].shape == (2, 2)


# Hostile files


def _other(path: Path) -> Path:
    with h5py.File(path.with_name("other.hdf5"), "w") as file:
        write_demo(file.create_group("demo"))
    return path.with_name("other.hdf5")


def _external_link(file: h5py.File) -> None:
    file["data/demo_2"] = h5py.ExternalLink(str(_other(Path(file.filename))), "/demo")


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((STEPS, 2), "f8")
    layout[:] = h5py.VirtualSource(str(_other(Path(file.filename))), "demo/actions", (STEPS, 2))
    del file["data/demo_0/actions"]
    file.create_virtual_dataset("data/demo_0/actions", layout)


def _external_storage(file: h5py.File) -> None:
    raw = Path(file.filename).with_name("raw.bin")
    raw.write_bytes(bytes(STEPS * 8))
    del file["data/demo_0/rewards"]
    file.create_dataset("data/demo_0/rewards", shape=(STEPS,), dtype="f8", external=[(str(raw), 0, STEPS * 8)])


def _huge(file: h5py.File) -> None:
    del file["data/demo_0/actions"]
    file.create_dataset("data/demo_0/actions", shape=(10**13, 2), dtype="f8", chunks=(1000, 2), compression="gzip")


def _huge_image(file: h5py.File) -> None:
    del file["data/demo_0/obs/front_image"]
    shape = (STEPS, 60_000, 60_000, 3)
    file.create_dataset("data/demo_0/obs/front_image", shape=shape, dtype="u1", chunks=(1, 1000, 1000, 3))


def _holds_itself(file: h5py.File) -> None:
    file["data/demo_0/obs/again"] = file["data/demo_0/obs"]


def _link_loop(file: h5py.File) -> None:
    file["data/demo_0/obs/a"] = h5py.SoftLink("/data/demo_0/obs/b")
    file["data/demo_0/obs/b"] = h5py.SoftLink("/data/demo_0/obs/a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external_link, "demo_2 is a link into another file, which is not opened"),
        (_virtual, "data/demo_0/actions lies in another file"),
        (_external_storage, "data/demo_0/rewards lies in another file"),
        (_huge, r"data/demo_0/actions has shape \(10000000000000, 2\), .* occupies 0 in the file"),
        (_huge_image, "data/demo_0/obs/front_image has shape"),
        (_holds_itself, "data/demo_0/obs/again holds itself"),
        (_link_loop, "too many links"),
    ],
)
def test_what_a_file_must_not_do_is_refused(tmp_path: Path, change: Callable[[h5py.File], Any], message: str) -> None:
    path = write(tmp_path / "x.hdf5", change, demos=1)
    with pytest.raises(InputError, match=message) as error, opened(path) as recording:
        list(recording.episodes())
    assert str(path) in str(error.value)


def test_links_inside_a_file_are_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "x", lambda file: file.__setitem__("data/demo_2", h5py.SoftLink("/data/demo_0")))
    with opened(path) as recording:
        first, _, linked = recording.episodes()
        np.testing.assert_array_equal(first.observation["eef_pos"], linked.observation["eef_pos"])


def test_groups_that_double_with_every_level_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x", "w") as file:
        below = file.create_group("0")
        below["a"] = 1.0
        for level in range(1, 40):
            group = file.create_group(str(level))
            group["left"], group["right"] = below, below
            below = group
    with open_file(tmp_path / "x") as file, pytest.raises(InputError, match="links lead to it"):
        leaves(file["39"])


def test_attributes_may_be_empty(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x", "w") as file:
        file.attrs["nothing"] = h5py.Empty("f4")
        file.attrs["names"] = ["a", "b"]
    with open_file(tmp_path / "x") as file:
        assert list(attributes(file, tmp_path / "x")["names"]) == ["a", "b"]


def test_jumps_are_found_across_the_blocks_that_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    observations = np.arange(11.0)[:, None]
    following = observations + 1
    following[[3, 7]] += 5.0
    flags = np.zeros(11, bool)
    for rows in (1, 3, 4, 5, 10, 11, 100):
        monkeypatch.setattr(d4rl_hdf5, "COMPARED_ROWS", rows)
        assert d4rl_hdf5.episode_ends(observations, flags, flags, following).tolist() == [4, 8, 11]
