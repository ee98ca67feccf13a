"""Images in a store: pixels or JPEG bytes, written in place, read lazily and at memory speed."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
import zarr

from robot_rl.datasets.frames import EncodedFrames, Frames, as_array, decode_image, encode_jpeg, lazy
from robot_rl.datasets.mapped import StoredFrames, StoredJpegs
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SPEC = Spec(
    observation={
        "front": ArraySpec(shape=(16, 24, 3), dtype="uint8"),
        "wrist/gray": ArraySpec(shape=(8, 8, 1), dtype="uint8"),
        "depth": ArraySpec(shape=(100, 100), dtype="uint16"),
        "state": ArraySpec(shape=(2,), dtype="float64"),
    },
    action=ArraySpec(shape=(1,)),
)
TIERS = {"front": "jpeg", "wrist/gray": "raw"}
BLOCK_BYTES = 4096


def pictures(seed: int, count: int, shape: tuple[int, int, int]) -> Array:
    """Smooth images, which JPEG keeps well. Shapes: (count, *shape)."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    slope = np.linspace(0, 120, height * width).reshape(1, height, width, 1)
    return np.asarray(slope + rng.uniform(0, 120, (count, 1, 1, channels))).astype(np.uint8)


def make_episode(seed: int, steps: int, front: Frames | None = None) -> Episode:
    rng = np.random.default_rng(seed)
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    return Episode(
        observation={
            "front": pictures(seed, steps + 1, (16, 24, 3)) if front is None else as_array(front),
            "wrist/gray": pictures(seed, steps + 1, (8, 8, 1)),
            "depth": rng.integers(0, 5000, (steps + 1, 100, 100)).astype(np.uint16),
            "state": rng.normal(size=(steps + 1, 2)),
        },
        action=rng.normal(size=(steps, 1)).astype(np.float32),
        reward=np.zeros(steps),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        extras={"timestamp_s": np.arange(steps + 1.0), "timestamp_s/front": np.arange(steps + 1.0) + 0.01},
    )


def make_store(path: Path, *lengths: int, tiers: dict[str, str] | None = None) -> EpisodeStore:
    chosen = TIERS if tiers is None else tiers
    store = EpisodeStore.create(path, SPEC, provenance={}, tiers=chosen, block_bytes=BLOCK_BYTES)
    for seed, steps in enumerate(lengths):
        store.append(make_episode(seed, steps))
    return EpisodeStore.open(path)


def stored(episode: Episode, key: str) -> Frames:
    frames = lazy(episode.observation[key])
    assert frames is not None
    return frames


def test_images_come_back_lazily_pixels_exactly_and_jpeg_nearly(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", 30, 5, 17)
    store.verify()
    for seed, episode in enumerate(store.episodes()):
        wanted = make_episode(seed, [30, 5, 17][seed])
        assert isinstance(stored(episode, "wrist/gray"), StoredFrames)
        assert isinstance(stored(episode, "front"), StoredJpegs)
        np.testing.assert_array_equal(np.asarray(episode.observation["wrist/gray"]), wanted.observation["wrist/gray"])
        found = np.asarray(episode.observation["front"]).astype(int)
        assert np.abs(found - wanted.observation["front"]).mean() < 2
        np.testing.assert_array_equal(episode.observation["depth"], wanted.observation["depth"])
        np.testing.assert_array_equal(episode.extras["timestamp_s/front"], wanted.extras["timestamp_s/front"])
        np.testing.assert_array_equal(episode.extras["timestamp_s"], wanted.extras["timestamp_s"])


def test_zarr_reads_pixels_and_jpeg_bytes_as_they_are(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", 30, 5)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    pixels = np.asarray(group["steps/observation/wrist/gray"][:])  # type: ignore[index]  # an array, by the layout
    wanted = [make_episode(0, 30).observation["wrist/gray"], make_episode(1, 5).observation["wrist/gray"]]
    np.testing.assert_array_equal(pixels, np.concatenate(wanted))
    data = np.asarray(group["images/front/data"][:])  # type: ignore[index]  # as above
    spans = np.asarray(group["images/front/spans"][:])  # type: ignore[index]  # as above
    store = EpisodeStore.open(tmp_path / "s.zarr")
    for row, (start, stop) in enumerate(spans):
        assert start // BLOCK_BYTES == (stop - 1) // BLOCK_BYTES  # none lies across the edge of a block
        image = decode_image(data[start:stop].tobytes(), "")
        np.testing.assert_array_equal(image, store.column("front").gather(np.asarray([row]))[0])


def test_a_committed_row_is_never_written_again(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", 30)
    files = [path for path in (tmp_path / "s.zarr").rglob("c/*") if path.is_file() or path.is_dir()]
    assert len(files) > 3
    gray = sorted((tmp_path / "s.zarr/steps/observation/wrist/gray/c").rglob("*"))
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in gray if path.is_file()}
    assert all(len(content) == BLOCK_BYTES for _, content in before.values())
    EpisodeStore.append_to(tmp_path / "s.zarr").append(make_episode(9, 3))
    used = 31 * 64
    for path, (inode, content) in before.items():
        block = int(path.relative_to(tmp_path / "s.zarr/steps/observation/wrist/gray/c").parts[0])
        assert path.stat().st_ino == inode
        kept = max(0, min(used - block * BLOCK_BYTES, BLOCK_BYTES))
        assert path.read_bytes()[:kept] == content[:kept]


def test_jpeg_bytes_pass_untouched_and_a_repeated_last_row_shares_them(tmp_path: Path) -> None:
    encoded = [encode_jpeg(image, 60) for image in pictures(3, 5, (16, 24, 3))]
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={}, tiers=TIERS)
    store.append(make_episode(3, 5, EncodedFrames.of([*encoded, encoded[-1]], "a recording")))
    frames = stored(store.episode(0), "front")
    assert isinstance(frames, StoredJpegs)
    assert list(frames.encoded) == [*encoded, encoded[-1]]
    spans = np.asarray(zarr.open_group(store.path, mode="r")["images/front/spans"][:])  # type: ignore[index]  # array
    assert spans[4].tolist() == spans[5].tolist()
    assert spans[5, 1] == sum(map(len, encoded))
    again = EpisodeStore.create(tmp_path / "t.zarr", SPEC, provenance={}, tiers=TIERS)
    again.append(store.episode(0))
    assert again.digests == store.digests
    again.verify()


def test_what_is_not_jpeg_is_encoded(tmp_path: Path) -> None:
    import cv2

    images = pictures(3, 3, (16, 24, 3))
    png = [cv2.imencode(".png", image[:, :, ::-1])[1].tobytes() for image in images]
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={}, tiers=TIERS)
    store.append(make_episode(3, 2, EncodedFrames.of(png, "a recording")))
    frames = stored(store.episode(0), "front")
    assert isinstance(frames, StoredJpegs)
    np.testing.assert_array_equal(frames[1], simplejpeg.decode_jpeg(encode_jpeg(images[1])))
    assert "lossy" in str(zarr.open_group(store.path, mode="r").attrs["images"])


def test_a_damaged_image_is_refused_and_nothing_is_committed(tmp_path: Path) -> None:
    encoded = [encode_jpeg(image) for image in pictures(3, 6, (16, 24, 3))]
    encoded[4] = encoded[4][: len(encoded[4]) // 2]
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={}, tiers=TIERS)
    store.append(make_episode(1, 4))
    with pytest.raises(InputError, match="a recording, image 4 cannot be decoded"):
        store.append(make_episode(3, 5, EncodedFrames.of(encoded, "a recording")))
    store.append(make_episode(2, 4))
    found = EpisodeStore.open(tmp_path / "s.zarr")
    found.verify()
    assert len(found) == 2


def test_gather_is_the_same_for_any_number_of_threads(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", 30, 25)
    rows = np.random.default_rng(0).integers(0, store.rows, 100)
    threads = torch.get_num_threads()
    try:
        for key in TIERS:
            column = store.column(key)
            assert column.shape == (57, *SPEC.observation[key].shape)
            found = []
            for count in (1, 3):
                torch.set_num_threads(count)
                found.append(column.gather(rows))
            out = np.empty_like(found[0])
            column.gather(rows, out)
            np.testing.assert_array_equal(found[0], found[1])
            np.testing.assert_array_equal(found[0], out)
            selected = column.index_select(0, torch.from_numpy(rows))
            np.testing.assert_array_equal(selected.numpy(), out)
    finally:
        torch.set_num_threads(threads)


def test_frames_name_their_rows_and_survive_pickling(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", 4, 6)
    for key in TIERS:
        frames = stored(store.episode(1), key)
        part = pickle.loads(pickle.dumps(frames[2:5]))  # noqa: S301  # our own bytes
        assert isinstance(part, StoredFrames | StoredJpegs)
        assert part.store_rows.tolist() == [7, 8, 9]
        np.testing.assert_array_equal(np.asarray(part), np.asarray(frames)[2:5])


@pytest.mark.parametrize(("damage", "message"), [("lost", "is lost"), ("short", "bytes instead of 4096")])
@pytest.mark.parametrize("array", ["steps/observation/wrist/gray", "images/front/data"])
def test_a_lost_or_short_block_does_not_look_like_zeros(tmp_path: Path, array: str, damage: str, message: str) -> None:
    store = make_store(tmp_path / "s.zarr", 100, 100)
    block = (
        next(path for path in (store.path / array / "c" / "0").rglob("*") if path.is_file())
        if (store.path / array / "c" / "0").is_dir()
        else store.path / array / "c" / "0"
    )
    if damage == "lost":
        block.unlink()
    else:
        with block.open("r+b") as file:
            file.truncate(100)
    found = EpisodeStore.open(store.path)
    with pytest.raises(InputError, match=rf"episodes \[0\] differ.*{message}"):
        found.verify()
    key = "front" if "front" in array else "wrist/gray"
    with pytest.raises(InputError, match=message):
        found.column(key).gather(np.asarray([0]))
    found.column(key).gather(np.asarray([store.rows - 1]))


def test_a_changed_image_does_not_pass_verification(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", 4, 4)
    path = store.path / "images/front/data/c/0"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"episodes \[0\] differ"):
        EpisodeStore.open(store.path).verify()


def test_a_jpeg_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", 4)
    path = store.path / "images/front/data/c/0"
    path.write_bytes(bytes(BLOCK_BYTES))
    with pytest.raises(InputError, match=r"the image of row 2 cannot be decoded.*damaged"):
        EpisodeStore.open(store.path).column("front").gather(np.asarray([2]))


def test_hostile_spans_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", 4)
    path = store.path / "images/front/spans/c/0/0"
    spans = np.fromfile(path, np.int64)
    spans[:4] = [0, 2**60, -5, 10]
    spans.tofile(path)
    for row in (0, 1):
        with pytest.raises(InputError, match=rf"row {row} is said to lie at bytes"):
            EpisodeStore.open(store.path).column("front").gather(np.asarray([row]))


def test_rows_outside_and_wrong_outputs_are_refused(tmp_path: Path) -> None:
    column = make_store(tmp_path / "s.zarr", 4).column("front")
    with pytest.raises(IndexError, match="of 5"):
        column.gather(np.asarray([5]))
    with pytest.raises(ValueError, match="contiguous"):
        column.gather(np.asarray([1]), np.empty((2, 16, 24, 3), np.uint8))
    with pytest.raises(ValueError, match="dim 0"):
        column.index_select(1, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("tiers", "message"), [({"state": "raw"}, "is no image"), ({"front": "jpg"}, "did you mean 'jpeg'")]
)
def test_a_tier_that_does_not_fit_is_refused(tmp_path: Path, tiers: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={}, tiers=tiers)


def test_only_the_named_observations_are_read(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", 4, 3)
    (episode,) = store.episodes([1], keys=["state"])
    assert list(episode.observation) == ["state"]
    with pytest.raises(InputError, match="did you mean 'state'"):
        list(store.episodes(keys=["stat"]))


def test_the_table_of_episodes_is_public(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", 4, 6)
    assert store.lengths.tolist() == [4, 6]
    assert store.ends.tolist() == [5, 12]
    assert [record["steps"] for record in store.records] == [4, 6]
    assert store.metadata(1) == {}
    assert store.tiers == {"front": "jpeg", "wrist/gray": "raw"}
