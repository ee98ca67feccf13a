"""Minari sets that its own library wrote, in each of its storages: spaces, ends, images, infos, what is missing."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces

from robot_rl.datasets.convert import ConvertSettings, convert
from robot_rl.datasets.frames import EncodedFrames, lazy
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.ingest.minari import MinariReader
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError

minari = pytest.importorskip("minari")

FORMATS = ("hdf5", "arrow", "parquet")
SIDE = 32  # pixels: the smallest that Minari takes for an image in every storage
LENGTHS = (4, 3, 5)
BOX = spaces.Box(-2.0, 3.0, (2,), np.float32)
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float64)
IMAGE = spaces.Box(0, 255, (SIDE, SIDE + 4, 3), np.uint8)
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a data set with Minari and gives its folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def write(
        observation: spaces.Space, rows: Callable[[int], Any], *, action: spaces.Space = BOX, **more: Any
    ) -> Path:
        storage, infos, actions = more.pop("data_format", "hdf5"), more.pop("infos", None), more.pop("actions", None)
        buffers = [
            minari.data_collector.EpisodeBuffer(
                id=None,
                seed=index + 10,
                options={"goal": {"x": index * 0.5}, "hard": True},
                observations=rows(steps + 1),
                actions=actions_of(steps) if actions is None else actions(steps),
                rewards=[float(t) for t in range(steps)],
                terminations=[index == 0 and t == steps - 1 for t in range(steps)],
                truncations=[index == 1 and t == steps - 1 for t in range(steps)],
                infos=None if infos is None else infos(steps),
            )
            for index, steps in enumerate(LENGTHS)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it asks for an environment to evaluate in
            minari.create_dataset_from_buffers(
                "arm/push-v0",
                buffers,
                observation_space=observation,
                action_space=action,
                data_format=storage,
                algorithm_name="scripted",
                author="us",
                author_email="us@example.org",
                code_permalink="https://example.org",
                description="a test",
                **more,
            )
        return tmp_path / "arm" / "push-v0"

    return write


def vectors(count: int) -> list[np.ndarray]:
    return [np.array([t, -t, 0.25]) for t in range(count)]


def actions_of(steps: int) -> list[np.ndarray]:
    return [np.full(2, t / 4, np.float32) for t in range(steps)]


def images(count: int) -> list[np.ndarray]:
    ramp = np.arange(SIDE, dtype=np.uint8)[:, None, None] * np.ones((1, SIDE + 4, 3), np.uint8)
    return [ramp * np.uint8(t > 0) + np.uint8(10 * t) for t in range(count)]  # JPEG of several lengths


@pytest.mark.parametrize("storage", FORMATS)
def test_a_set_of_vectors_is_read_exactly_from_every_storage(make: Make, storage: str) -> None:
    path = make(VECTOR, vectors, data_format=storage)
    assert find_reader(path).name == "minari"
    with MinariReader().open(path, ReadOptions(control_period_s=0.05)) as recording:
        assert len(recording) == 3
        assert recording.spec.control_period_s == 0.05
        assert recording.spec.observation["state"].low is None
        np.testing.assert_array_equal(recording.spec.action.low, [-2, -2])
        np.testing.assert_array_equal(recording.spec.action.high, [3, 3])
        assert recording.spec.action.dtype == "float32"
        for index, steps in enumerate(LENGTHS):
            episode = recording.read(index)
            np.testing.assert_array_equal(episode.observation["state"], vectors(steps + 1))
            np.testing.assert_array_equal(episode.action, actions_of(steps))
            np.testing.assert_array_equal(episode.reward, np.arange(steps))
            assert episode.terminated[-1] == (index == 0)
            assert episode.truncated[-1] == (index != 0)
            assert episode.has_final_observation
            assert episode.metadata["seed"] == index + 10
            assert episode.metadata["options"] == {"goal": {"x": index * 0.5}, "hard": True}
        assert recording.provenance["attributes"]["algorithm_name"] == "scripted"
        assert any("end neither terminated nor truncated" in finding.text for finding in recording.findings)


@pytest.mark.parametrize("storage", FORMATS)
def test_nested_spaces_become_keys_joined_by_slashes(make: Make, storage: str) -> None:
    space = spaces.Dict(
        {
            "arm": spaces.Dict({"joints": VECTOR, "pair": spaces.Tuple((BOX, spaces.Discrete(5, start=2)))}),
            "buttons": spaces.MultiBinary(4),
            "dials": spaces.MultiDiscrete([3, 6]),
            "gains": spaces.Box(0, 1, (2, 3), np.float32),
            "mission": spaces.Text(40),
        }
    )

    def rows(count: int) -> dict[str, Any]:
        return {
            "arm": {
                "joints": vectors(count),
                "pair": ([np.full(2, t, np.float32) for t in range(count)], [2 + t % 5 for t in range(count)]),
            },
            "buttons": [np.array([t % 2, 1, 0, 1], np.int8) for t in range(count)],
            "dials": [np.array([t % 3, 5]) for t in range(count)],
            "gains": [np.full((2, 3), 0.5, np.float32) for _ in range(count)],
            "mission": ["push the block"] * count,
        }

    path = make(space, rows, data_format=storage)
    with MinariReader().open(path, ReadOptions()) as recording:
        assert {key: spec.shape for key, spec in recording.spec.observation.items()} == {
            "arm/joints": (3,),
            "arm/pair/_index_0": (2,),
            "arm/pair/_index_1": (1,),
            "buttons": (4,),
            "dials": (2,),
            "gains": (2, 3),
        }
        discrete = recording.spec.observation["arm/pair/_index_1"]
        assert (discrete.low.tolist(), discrete.high.tolist()) == ([2], [6])
        assert recording.spec.observation["dials"].high.tolist() == [2, 5]
        episode = recording.read(0)
        np.testing.assert_array_equal(episode.observation["arm/pair/_index_1"], [[2], [3], [4], [5], [6]])
        np.testing.assert_array_equal(episode.observation["gains"], np.full((5, 2, 3), 0.5))
        assert episode.metadata["language"] == "push the block"
        assert episode.metadata["texts"] == {"mission": "push the block"}


@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize(
    ("space", "action", "low", "high"),
    [
        (spaces.Discrete(4, start=1), lambda t: 1 + t % 4, [1], [4]),
        (spaces.MultiDiscrete([3, 2]), lambda t: np.array([t % 3, t % 2]), [0, 0], [2, 1]),
        (spaces.MultiBinary(2), lambda t: np.array([t % 2, 1], np.int8), [0, 0], [1, 1]),
    ],
)
def test_actions_of_whole_numbers_have_a_channel_each(
    make: Make, storage: str, space: spaces.Space, action: Callable[[int], Any], low: list[int], high: list[int]
) -> None:
    path = make(
        VECTOR, vectors, action=space, actions=lambda steps: [action(t) for t in range(steps)], data_format=storage
    )
    with MinariReader().open(path, ReadOptions()) as recording:
        assert (recording.spec.action.low.tolist(), recording.spec.action.high.tolist()) == (low, high)
        wanted = np.stack([np.atleast_1d(action(t)) for t in range(LENGTHS[0])])
        np.testing.assert_array_equal(recording.read(0).action, wanted)


@pytest.mark.parametrize("storage", FORMATS)
def test_actions_of_several_parts_are_joined_with_their_names_and_bounds(make: Make, storage: str) -> None:
    space = spaces.Dict({"arm": BOX, "grip": spaces.Discrete(2)})

    def actions(steps: int) -> dict[str, Any]:
        return {"arm": actions_of(steps), "grip": [t % 2 for t in range(steps)]}

    path = make(VECTOR, vectors, action=space, actions=actions, data_format=storage)
    with MinariReader().open(path, ReadOptions()) as recording:
        assert recording.spec.action.names == ("arm[0]", "arm[1]", "grip")
        assert recording.spec.action.high.tolist() == [3, 3, 1]
        np.testing.assert_array_equal(recording.read(0).action[:, 2], [0, 1, 0, 1])


@pytest.mark.parametrize("storage", FORMATS)
def test_images_stay_jpeg_until_they_are_looked_at_and_are_said_to_be_lossy(make: Make, storage: str) -> None:
    space = spaces.Dict({"front": IMAGE, "state": VECTOR})
    path = make(space, lambda count: {"front": images(count), "state": vectors(count)}, data_format=storage)
    with MinariReader().open(path, ReadOptions()) as recording:
        assert recording.spec.observation["front"].shape == (SIDE, SIDE + 4, 3)
        frames = lazy(recording.read(2).observation["front"])
        assert isinstance(frames, EncodedFrames)
        assert np.abs(np.asarray(frames).astype(int) - np.stack(images(6))).max() < 8
        assert any("front" in finding.text and "lossy" in finding.text for finding in recording.findings)


def test_a_small_grid_that_was_made_jpeg_is_said_to_be_wrong(make: Make) -> None:
    grid = spaces.Box(0, 255, (7, 7, 3), np.uint8)
    path = make(grid, lambda count: [np.full((7, 7, 3), t, np.uint8) for t in range(count)])
    with MinariReader().open(path, ReadOptions()) as recording:
        assert recording.spec.observation["state"].shape == (7, 7, 3)
        assert any("grid of symbols" in finding.text for finding in recording.findings)


@pytest.mark.parametrize("shape", [(SIDE, SIDE, 3), (SIDE, SIDE)])
def test_plain_images_are_read_exactly_and_as_they_are_looked_at(make: Make, shape: tuple[int, ...]) -> None:
    path = make(spaces.Box(0, 255, shape, np.uint8), lambda count: [np.zeros(shape, np.uint8)] * count)
    plain = np.random.default_rng(0).integers(0, 256, (LENGTHS[0] + 1, *shape), dtype=np.uint8)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        for index, steps in enumerate(LENGTHS):
            del file[f"episode_{index}/observations"]
            file[f"episode_{index}/observations"] = plain if index == 0 else np.zeros((steps + 1, *shape), np.uint8)
    with MinariReader().open(path, ReadOptions()) as recording:
        assert recording.spec.observation["image"].shape == (SIDE, SIDE, shape[2] if len(shape) == 3 else 1)
        rows = recording.read(0).observation["image"]
        frames = lazy(rows)
        assert frames is not None
        assert not isinstance(frames, EncodedFrames)
        wanted = plain.reshape(len(plain), SIDE, SIDE, -1)
        np.testing.assert_array_equal(np.asarray(frames), wanted)
        np.testing.assert_array_equal(np.asarray(frames[np.array([4, 0, 0])]), wanted[[4, 0, 0]])
        np.testing.assert_array_equal(frames[2], wanted[2])
        assert not any("lossy" in finding.text for finding in recording.findings)


@pytest.mark.parametrize("storage", FORMATS)
def test_infos_become_extras_and_success(make: Make, storage: str) -> None:
    def infos(steps: int) -> dict[str, Any]:
        return {
            "success": np.arange(steps + 1) >= steps,
            "physics": {"position": np.arange(2 * (steps + 1), dtype=np.float64).reshape(-1, 2)},
            "energy": np.arange(steps + 1) * 0.5,
            "comment": ["text"] * (steps + 1),
        }

    path = make(VECTOR, vectors, infos=infos, data_format=storage)
    with MinariReader().open(path, ReadOptions()) as recording:
        episode = recording.read(1)
        assert episode.success.tolist() == [False, False, True]
        assert set(episode.extras) == {"physics/position", "energy"}
        np.testing.assert_array_equal(episode.extras["physics/position"], np.arange(8).reshape(4, 2))
        np.testing.assert_array_equal(episode.extras["energy"].reshape(-1), [0, 0.5, 1, 1.5])
        assert any("comment" in finding.text for finding in recording.findings)


def test_an_info_that_some_episodes_lack_is_left_out_and_said(make: Make) -> None:
    infos = {4: {"a": np.zeros(5), "b": np.zeros(5)}, 3: {"a": np.zeros(4)}, 5: {"a": np.zeros(6)}}
    path = make(VECTOR, vectors, infos=infos.__getitem__)
    with MinariReader().open(path, ReadOptions()) as recording:
        assert [set(episode.extras) for episode in recording.episodes()] == [{"a"}] * 3
        assert any(finding.text.endswith(": b") for finding in recording.findings)


@pytest.mark.parametrize("part", ["", "data", "data/main_data.hdf5"])
def test_a_set_is_named_by_its_folder_its_data_or_its_file(make: Make, part: str) -> None:
    path = make(VECTOR, vectors) / part
    assert find_reader(path).name == "minari"
    with MinariReader().open(path, ReadOptions(maximum_episodes=2)) as recording:
        assert len(recording) == 2
        assert recording.spec.action.high.tolist() == [3, 3]


def test_an_hdf5_file_without_metadata_speaks_for_itself(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "alone.hdf5"
    space = spaces.Dict({"front": IMAGE, "state": VECTOR, "task": spaces.Text(20)})
    shutil.copy(
        make(space, lambda n: {"front": images(n), "state": vectors(n), "task": ["lift"] * n}) / "data/main_data.hdf5",
        file,
    )
    with MinariReader().open(file, ReadOptions()) as recording:
        assert set(recording.spec.observation) == {"front", "state"}
        assert recording.spec.metadata["action_bounds"] == "data"
        episode = recording.read(0)
        assert episode.metadata["language"] == "lift"
        assert isinstance(lazy(episode.observation["front"]), EncodedFrames)


def test_the_environment_is_kept(make: Make) -> None:
    path = make(
        spaces.Box(-8, 8, (3,), np.float64),
        vectors,
        env=gymnasium.spec("Pendulum-v1"),
    )
    with MinariReader().open(path, ReadOptions()) as recording:
        assert recording.provenance["environment"]["id"] == "Pendulum-v1"
        assert recording.provenance["environment"]["max_episode_steps"] == 200


@pytest.mark.parametrize(
    ("added", "period_s"), [({"control_period_s": 0.1}, 0.1), ({"fps": 20}, 0.05), ({"fps": "fast"}, 0.02), ({}, 0.02)]
)
def test_the_control_period_of_the_metadata_comes_first(make: Make, added: dict[str, Any], period_s: float) -> None:
    path = make(VECTOR, vectors)
    edit(path, added)
    with MinariReader().open(path, ReadOptions(control_period_s=0.02)) as recording:
        assert recording.spec.control_period_s == period_s


@pytest.mark.parametrize("storage", FORMATS)
def test_a_set_becomes_a_store(make: Make, storage: str, tmp_path: Path) -> None:
    space = spaces.Dict({"front": IMAGE, "state": VECTOR})
    path = make(space, lambda count: {"front": images(count), "state": vectors(count)}, data_format=storage)
    report = convert(path, tmp_path / "store.zarr", ConvertSettings(workers=0))
    assert (report.episodes, report.steps, report.dropped) == (3, sum(LENGTHS), 0)
    store = EpisodeStore.open(tmp_path / "store.zarr")
    for episode, steps in zip(store.episodes(), LENGTHS, strict=True):
        np.testing.assert_array_equal(episode.observation["state"], vectors(steps + 1))


def edit(path: Path, changes: dict[str, Any]) -> None:
    file = path / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refuse(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as error, MinariReader().open(path, ReadOptions()) as recording:
        list(recording.episodes())
    for word in words:
        assert word in str(error.value)


def test_totals_that_are_wrong_are_said(make: Make) -> None:
    path = make(VECTOR, vectors)
    edit(path, {"total_episodes": 4, "total_steps": 100})
    with MinariReader().open(path, ReadOptions()) as recording:
        texts = " ".join(finding.text for finding in recording.findings)
    assert "total_episodes=4, but there are 3" in texts
    assert "total_steps=100, but there are 12" in texts


@pytest.mark.parametrize("storage", FORMATS)
def test_one_damaged_episode_does_not_keep_the_others_back(make: Make, storage: str) -> None:
    path = make(VECTOR, vectors, data_format=storage)
    if storage == "hdf5":
        with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
            del file["episode_0/actions"]
    else:
        (file,) = (path / "data" / "0").glob(f"*.{storage}")
        file.write_bytes(file.read_bytes()[:200])
    with MinariReader().open(path, ReadOptions()) as recording:
        with pytest.raises(InputError, match=r"episode_0|part-0"):
            recording.read(0)
        assert len(recording.read(1)) == LENGTHS[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observation_space": "{"}, ("observation_space", "JSON")),
        ({"observation_space": '{"type": "Graph"}'}, ("Graph", "Known")),
        ({"observation_space": '{"type": "Box", "shape": [3]}'}, ("Box", "damaged")),
        ({"observation_space": '{"type": "Box", "dtype": "float64", "shape": [4], "low": 0, "high": 1}'}, ("(4,)",)),
        (
            {"action_space": '{"type": "Box", "dtype": "float64", "shape": [99999999999], "low": 0, "high": 1}'},
            ("no size",),
        ),
        ({"observation_space": '{"type":"Tuple","subspaces":[' * 2000 + "]}" * 2000}, ("observation_space",)),
        ({"data_format": "lance"}, ("lance", "Known")),
        ({"data_format": "arrow"}, ("no episodes",)),
        ({"env_spec": "[]"}, ("env_spec",)),
    ],
)
def test_a_space_that_cannot_be_is_refused(make: Make, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    path = make(VECTOR, vectors)
    edit(path, changes)
    refuse(path, *words)


def test_what_hdf5_should_not_hold_is_refused(make: Make, tmp_path: Path) -> None:
    path = make(VECTOR, vectors)
    main = path / "data" / "main_data.hdf5"
    original = main.read_bytes()
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["rows"] = np.zeros((5, 3))
    virtual = h5py.VirtualLayout((5, 3), np.float64)
    virtual[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "rows", (5, 3))

    def huge(group: h5py.Group) -> None:
        group.create_dataset("observations", (10**9, 3), np.float64, chunks=(1000, 3))

    def loop(group: h5py.Group) -> None:
        group["infos/self"] = group

    cases: list[tuple[Callable[[h5py.Group], Any], str]] = [
        (lambda group: group.__setitem__("observations", h5py.ExternalLink("other.hdf5", "rows")), "another file"),
        (lambda group: group.create_virtual_dataset("observations", virtual), "another file"),
        (huge, "occupies"),
        (lambda group: group.create_dataset("observations", data=np.full((5, 3), np.nan)), "NaN"),
        (lambda group: group.create_dataset("observations", data=["a"] * 5), "expected numbers"),
        (lambda group: group.create_dataset("observations", data=np.zeros((4, 3))), "4 observations 'state'"),
        (lambda group: group.create_group("observations"), "no data set 'observations'"),
        (loop, "holds itself"),
    ]
    for change, words in cases:
        main.write_bytes(original)
        with h5py.File(main, "a") as file:
            for index in range(3):
                if change is not loop:
                    del file[f"episode_{index}/observations"]
                change(file[f"episode_{index}"])
        refuse(path, "main_data.hdf5", words)


def test_a_damaged_heap_is_refused_before_the_library_walks_it_for_ever(make: Make) -> None:
    main = make(IMAGE, images) / "data" / "main_data.hdf5"
    content = main.read_bytes()
    start = content.index(b"GCOL")
    for position in (start + 16, start + 24):  # no number and no size; no size
        main.write_bytes(content[:position] + bytes(200) + content[position + 200 :])
        refuse(main, "main_data.hdf5", f"heap at byte {start}")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + bytes(100), None])
def test_a_main_file_that_is_none_is_refused(make: Make, content: bytes | None) -> None:
    path = make(VECTOR, vectors)
    main = path / "data" / "main_data.hdf5"
    main.unlink()
    if content is not None:
        main.write_bytes(content)
    refuse(path, "main_data.hdf5")


def test_an_arrow_episode_without_its_table_is_refused(make: Make) -> None:
    path = make(VECTOR, vectors, data_format="arrow")
    for index in range(3):
        (path / "data" / str(index) / "part-0.arrow").unlink()
    refuse(path, "episode 0", "copy is complete")
