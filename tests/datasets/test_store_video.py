"""Tier video of a store: the recorded files, copied once, decoded once to train from."""

import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from robot_rl.datasets.frames import as_array, lazy
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.video import VideoFrames, video_index
from robot_rl.datasets.video_tier import StoredVideo
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

HEIGHT, WIDTH = 32, 48
SPEC = Spec(
    observation={"front": ArraySpec(shape=(HEIGHT, WIDTH, 3), dtype="uint8"), "state": ArraySpec(shape=(1,))},
    action=ArraySpec(shape=(1,)),
)
TIERS = {"front": "video"}


def write_video(path: Path, frames: int, seed: int = 0) -> Path:
    shades = np.random.default_rng(seed).integers(20, 230, (frames, 1, 1, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"g": "10", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            image = np.broadcast_to(shades[number], (HEIGHT, WIDTH, 3)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_episode(frames: VideoFrames) -> Episode:
    steps = len(frames) - 1
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    return Episode(
        observation={"front": as_array(frames), "state": np.zeros((steps + 1, 1), np.float32)},
        action=np.zeros((steps, 1), np.float32),
        reward=np.zeros(steps),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
    )


def make_store(tmp_path: Path) -> EpisodeStore:
    """Three episodes: two of one file, one of another whose last frame is repeated."""
    first, second = video_index(write_video(tmp_path / "a.mp4", 30)), video_index(write_video(tmp_path / "b.mp4", 8, 1))
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={}, tiers=TIERS)
    store.append(make_episode(VideoFrames(first, np.arange(0, 12))))
    store.extend(
        [
            make_episode(VideoFrames(first, np.arange(12, 30))),
            make_episode(VideoFrames(second, np.asarray([0, 2, 4, 6, 6]))),
        ]
    )
    return EpisodeStore.open(tmp_path / "s.zarr")


def test_the_recorded_files_are_copied_once_and_unchanged(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.verify()
    videos = sorted(path.read_bytes() for path in (store.path / "images/front").glob("*.mp4"))
    assert videos == sorted((tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4"))
    again = EpisodeStore.append_to(store.path)  # which knows nothing of what was copied before
    again.append(make_episode(VideoFrames(video_index(tmp_path / "a.mp4"), np.arange(3))))
    assert len(list((store.path / "images/front").glob("*.mp4"))) == 2
    assert not list((store.path / "images/front").glob("*.partial"))
    EpisodeStore.open(store.path).verify()


def test_episodes_have_the_frames_of_the_video_and_random_rows_too(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    wanted = np.concatenate(
        [
            np.asarray(VideoFrames(video_index(tmp_path / "a.mp4"))),
            np.asarray(VideoFrames(video_index(tmp_path / "b.mp4"), np.asarray([0, 2, 4, 6, 6]))),
        ]
    )
    for index, episode in enumerate(store.episodes()):
        frames = lazy(episode.observation["front"])
        assert isinstance(frames, StoredVideo)
        rows = slice(int(store.ends[index]) - len(frames), int(store.ends[index]))
        assert frames.store_rows.tolist() == list(range(rows.start, rows.stop))
        np.testing.assert_array_equal(np.asarray(frames), wanted[rows])
        part = pickle.loads(pickle.dumps(frames[1:3]))  # noqa: S301  # our own bytes
        np.testing.assert_array_equal(np.asarray(part), wanted[rows][1:3])
    column = store.column("front", cache=tmp_path / "cache")
    rows = np.random.default_rng(0).integers(0, store.rows, 50)
    np.testing.assert_array_equal(column.gather(rows), wanted[rows])
    assert column.gather(rows[:0]).shape == (0, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(np.asarray(column.frames(np.asarray([2, 33]))), wanted[[2, 33]])  # of two files
    assert len(list((tmp_path / "cache").iterdir())) == 2
    store.column("front").gather(rows[:1])
    assert (tmp_path / ".s.zarr.cache").is_dir()


def test_videos_go_from_store_to_store_and_to_another_tier(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    copy = EpisodeStore.create(tmp_path / "copy.zarr", SPEC, provenance={}, tiers=TIERS)
    copy.extend(list(store.episodes()))
    assert copy.digests == store.digests
    raw = EpisodeStore.create(tmp_path / "raw.zarr", SPEC, provenance={}, tiers={"front": "raw"})
    raw.extend(list(store.episodes()))
    rows = np.arange(store.rows)
    np.testing.assert_array_equal(raw.column("front").gather(rows), store.column("front").gather(rows))


def test_what_is_no_recorded_video_is_refused(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={}, tiers=TIERS)
    frames = VideoFrames(video_index(write_video(tmp_path / "a.mp4", 5)))
    pixels = make_episode(frames)
    pixels.observation["front"] = np.asarray(frames)
    with pytest.raises(InputError, match="these images are none"):
        store.append(pixels)
    store.append(make_episode(frames))
    assert len(EpisodeStore.open(store.path)) == 1


def test_a_video_of_another_size_is_refused(tmp_path: Path) -> None:
    small = replace(SPEC, observation=SPEC.observation | {"front": ArraySpec(shape=(16, 24, 3), dtype="uint8")})
    store = EpisodeStore.create(tmp_path / "s.zarr", small, provenance={}, tiers=TIERS)
    episode = make_episode(VideoFrames(video_index(write_video(tmp_path / "a.mp4", 5)), size=(16, 24)))
    with pytest.raises(InputError, match="size cannot be changed"):
        store.append(episode)


@pytest.mark.parametrize("damage", ["changed", "lost"])
def test_a_damaged_or_lost_video_names_its_episodes(tmp_path: Path, damage: str) -> None:
    store = make_store(tmp_path)
    sha256 = store.column("front")._files[1]["sha256"]  # type: ignore[attr-defined]  # that of b.mp4
    path = store.path / f"images/front/{sha256}.mp4"
    if damage == "lost":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"episodes \[2\] differ" + (".*is lost" if damage == "lost" else "")):
        EpisodeStore.open(store.path).verify()


def test_a_cache_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    rows = np.arange(5)
    wanted = store.column("front").gather(rows)
    for file in (tmp_path / ".s.zarr.cache").iterdir():
        file.write_bytes(b"short")
    np.testing.assert_array_equal(store.column("front").gather(rows), wanted)


def test_hostile_tables_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = store.path / "images/front/frames/c/0/0"
    table = np.fromfile(path, np.int64)
    table[:4] = [7, 0, 0, 10**12]
    table.tofile(path)
    column = EpisodeStore.open(store.path).column("front")
    with pytest.raises(InputError, match="there is no file 7"):
        column.gather(np.asarray([0]))
    with pytest.raises(InputError, match="is said to be frame 1000000000000 of 30"):
        column.gather(np.asarray([1]))
    (store.path / "images/front/files.json").write_text('[{"file": "../../x", "sha256": "../x", "frames": 3}]')
    with pytest.raises(InputError, match="names no checksums"):
        EpisodeStore.open(store.path).column("front")
