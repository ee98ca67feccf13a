"""Replay buffers of zarr version 2: folders, zips, image codecs, what is missing, what lies."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from robot_rl.datasets.frames import lazy
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.ingest.replay_zarr import ReplayZarrReader
from robot_rl.errors import InputError

LENGTHS = (4, 3, 5)
COUNT = sum(LENGTHS)


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "data/action": generator.standard_normal((COUNT, 2)).astype(np.float32),
        "data/state": generator.standard_normal((COUNT, 3)),
        "data/img": generator.integers(0, 256, (COUNT, 8, 6, 3), dtype=np.uint8),
        "meta/episode_ends": np.cumsum(LENGTHS),
    }


def write(path: Path, contents: dict[str, np.ndarray], compressor=None, order: str = "C", chunk: int = 5) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, values in contents.items():
        chunks = (chunk, *(max(1, size // 2 + 1) for size in values.shape[1:]))
        options = {} if compressor is None else {"compressors": compressor}
        array = group.create_array(name, shape=values.shape, chunks=chunks, dtype=values.dtype, order=order, **options)
        array[:] = values
    return path


def zipped(folder: Path, prefix: str = "") -> Path:
    path = folder.with_suffix(".zarr.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + str(file.relative_to(folder)))
    return path


@pytest.mark.parametrize("layout", ["folder", "zip", "zip with a folder", "fortran"])
def test_episodes_are_cut_at_their_ends(tmp_path: Path, layout: str) -> None:
    path = write(tmp_path / "replay.zarr", arrays(), order="F" if layout == "fortran" else "C")
    if layout.startswith("zip"):
        path = zipped(path, "replay.zarr/" if "folder" in layout else "")
    reader = find_reader(path)
    assert reader.name == "replay_zarr"
    wanted, start = arrays(), 0
    with reader.open(path, ReadOptions(control_period_s=0.1)) as recording:
        assert recording.spec.metadata["absent"] == ["reward", "success", "end"]
        for index, length in ((2, 5), (0, 4), (1, 3)):  # in any order
            start = int(np.cumsum((0, *LENGTHS))[index])
            episode = recording.read(index)
            rows = [*range(start, start + length), start + length - 1]
            assert not episode.has_final_observation
            np.testing.assert_array_equal(episode.observation["state"], wanted["data/state"][rows])
            np.testing.assert_array_equal(episode.action, wanted["data/action"][start : start + length])
            assert lazy(episode.observation["img"]) is not None
            np.testing.assert_array_equal(np.asarray(episode.observation["img"]), wanted["data/img"][rows])
            assert episode.truncated[-1]


@pytest.mark.parametrize("codec", ["jpeg2k", "jpegxl"])
def test_images_in_the_codecs_of_diffusion_policy_are_read(tmp_path: Path, codec: str) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    contents = arrays()
    path = write(tmp_path / "replay.zarr", contents)
    encode = {"jpeg2k": imagecodecs.jpeg2k_encode, "jpegxl": imagecodecs.jpegxl_encode}[codec]
    folder = path / "data" / "img"
    about = json.loads((folder / ".zarray").read_text())
    about |= {"chunks": [1, 8, 6, 3], "compressor": {"id": f"imagecodecs_{codec}", "level": 50}, "filters": None}
    for file in folder.iterdir():
        file.unlink()
    (folder / ".zarray").write_text(json.dumps(about))
    smooth = np.linspace(0, 255, COUNT * 8 * 6 * 3).reshape(COUNT, 8, 6, 3).astype(np.uint8)
    for index, image in enumerate(smooth):
        (folder / f"{index}.0.0.0").write_bytes(encode(image, lossless=True) if codec == "jpegxl" else encode(image))
    with ReplayZarrReader().open(path, ReadOptions()) as recording:
        found = np.asarray(recording.read(1).observation["img"])
    assert np.abs(found[:3].astype(int) - smooth[4:7].astype(int)).max() <= 2


@pytest.mark.parametrize(
    "compressor",
    [
        {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
        {"id": "zlib", "level": 1},
        {"id": "gzip", "level": 1},
        {"id": "bz2", "level": 1},
        {"id": "zstd", "level": 1},
        {"id": "lz4", "acceleration": 1},
    ],
    ids=lambda compressor: compressor["id"],
)
def test_usual_compressors_are_read(tmp_path: Path, compressor: dict) -> None:
    import numcodecs

    contents = arrays()
    path = write(tmp_path / "replay.zarr", contents)
    folder = path / "data" / "state"
    about = json.loads((folder / ".zarray").read_text())
    codec = numcodecs.get_codec(dict(compressor))
    for file in folder.iterdir():
        file.unlink()
    (folder / ".zarray").write_text(json.dumps(about | {"compressor": compressor, "filters": None, "chunks": [5, 3]}))
    for number in range(3):
        chunk = np.zeros((5, 3))
        rows = contents["data/state"][5 * number : 5 * number + 5]
        chunk[: len(rows)] = rows
        (folder / f"{number}.0").write_bytes(bytes(codec.encode(chunk)))
    with ReplayZarrReader().open(path, ReadOptions()) as recording:
        found = np.concatenate([recording.read(index).observation["state"][:-1] for index in range(3)])
    np.testing.assert_array_equal(found, contents["data/state"])


def test_rows_behind_the_last_end_are_left_out_and_counted(tmp_path: Path) -> None:
    contents = arrays() | {"meta/episode_ends": np.array([4, 7])}
    with ReplayZarrReader().open(write(tmp_path / "replay.zarr", contents), ReadOptions()) as recording:
        assert len(recording) == 2
        assert any("5 rows lie behind the last episode" in finding.text for finding in recording.findings)


def test_success_is_of_the_last_step_and_names_are_kept(tmp_path: Path) -> None:
    contents = {name.removeprefix("data/").removeprefix("meta/"): values for name, values in arrays().items()}
    contents |= {"success": np.array([1, 0, 1]), "furniture": np.array(["leg", "leg", "lamp"])}
    del contents["img"]
    with ReplayZarrReader().open(write(tmp_path / "replay.zarr", contents), ReadOptions()) as recording:
        episodes = list(recording.episodes())
    assert [bool(episode.success[-1]) for episode in episodes] == [True, False, True]
    assert not episodes[0].success[:-1].any()
    assert episodes[2].metadata["furniture"] == "lamp"


def test_several_actions_lie_one_behind_the_other(tmp_path: Path) -> None:
    contents = arrays()
    contents["data/action/pos"], contents["data/action/gripper"] = contents.pop("data/action"), np.ones(COUNT)
    with ReplayZarrReader().open(write(tmp_path / "replay.zarr", contents), ReadOptions()) as recording:
        assert recording.read(0).action.shape == (4, 3)
        assert (recording.read(0).action[:, 0] == 1).all()  # in alphabetical order
        assert any("one behind the other" in finding.text for finding in recording.findings)


def test_without_actions_the_last_frame_is_the_final_observation(tmp_path: Path) -> None:
    contents = arrays()
    del contents["data/action"]
    with ReplayZarrReader().open(write(tmp_path / "replay.zarr", contents), ReadOptions()) as recording:
        episode = recording.read(0)
    assert len(episode) == 3
    assert episode.has_final_observation
    assert episode.action.shape == (3, 0)
    assert "action" in recording.spec.metadata["absent"]


def damage(path: Path, what: str) -> None:
    about = path / "data" / "state" / ".zarray"
    text = json.loads(about.read_text())
    match what:
        case "a chunk is missing":
            (path / "data" / "state" / "0.0").unlink()
        case "a chunk is cut":
            chunk = path / "data" / "state" / "0.0"
            chunk.write_bytes(chunk.read_bytes()[:10])
        case "a shape that lies":
            about.write_text(json.dumps(text | {"shape": [10**12, 3]}))
        case "a chunk that lies":
            about.write_text(json.dumps(text | {"chunks": [10**12, 3]}))
        case "a codec that unpickles":
            about.write_text(json.dumps(text | {"compressor": {"id": "pickle"}}))
        case "ends that fall":
            write(path, arrays() | {"meta/episode_ends": np.array([4, 2, 12])})
        case "an array that is too short":
            write(path, arrays() | {"data/state": np.zeros((5, 3))})
        case "no JSON":
            about.write_text("{")


@pytest.mark.parametrize(
    "what",
    [
        "a chunk is missing",
        "a chunk is cut",
        "a shape that lies",
        "a chunk that lies",
        "a codec that unpickles",
        "ends that fall",
        "an array that is too short",
        "no JSON",
    ],
)
def test_damage_is_refused_by_name(tmp_path: Path, what: str) -> None:
    path = write(tmp_path / "replay.zarr", arrays())
    damage(path, what)
    with pytest.raises(InputError, match=r"replay\.zarr"), ReplayZarrReader().open(path, ReadOptions()) as recording:
        list(recording.episodes())


def test_a_zip_whose_contents_claim_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = zipped(write(tmp_path / "replay.zarr", arrays()))
    big = tmp_path / "big.zarr.zip"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(big, "w", zipfile.ZIP_DEFLATED) as out:
        for name in archive.namelist():
            data = archive.read(name)
            out.writestr(name, b"\0" * 50_000_000 if name == "data/state/0.0" else data)
    assert big.stat().st_size < 1_000_000
    with (
        pytest.raises(InputError, match="more than it can hold"),
        ReplayZarrReader().open(big, ReadOptions()) as recording,
    ):
        recording.read(0)


def test_furniture_bench(shared_data: Path) -> None:
    with ReplayZarrReader().open(
        shared_data / "zarr_replay_buffer" / "one_leg_low.zarr.zip", ReadOptions()
    ) as recording:
        assert len(recording) == 50
        episodes = list(recording.episodes())
    assert sum(map(len, episodes)) == 23_371
    assert episodes[0].action.shape[1] == 10
    assert {key: rows.shape[1] for key, rows in episodes[0].observation.items()} == {
        "robot_state": 16,
        "parts_poses": 42,
    }
    assert all(episode.success is not None and episode.success[-1] for episode in episodes)
    assert episodes[0].metadata["furniture"] == "one_leg"
