"""Images of bags: every encoding, padding and byte order, decoded when they are looked at."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from robot_rl.datasets.frames import Frames, lazy
from robot_rl.datasets.ingest.bag import BagReader
from robot_rl.datasets.ingest.base import BagOptions, ReadOptions
from robot_rl.errors import InputError
from robot_rl.types import Array

RecordMessages = Callable[..., None]
HEIGHT, WIDTH = 6, 8
OPEN = ReadOptions(bag=BagOptions(maximum_gap_s=1.0))


def header(types: dict[str, Any], time_ns: int) -> Any:
    stamp = types["builtin_interfaces/msg/Time"](sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera_optical")


def images(rows: list[tuple[bytes, str, int, int, bool]]) -> Callable[[dict[str, Any], bool], Any]:
    """Messages of (bytes, encoding, row step, width, big-endian), ten a second."""

    def messages(types: dict[str, Any], ros1: bool) -> Any:
        del ros1
        for number, (data, encoding, step, width, big) in enumerate(rows):
            time_ns = 10**9 + number * 10**8
            image = types["sensor_msgs/msg/Image"](
                header=header(types, time_ns),
                height=HEIGHT,
                width=width,
                encoding=encoding,
                is_bigendian=int(big),
                step=step,
                data=np.frombuffer(data, np.uint8),
            )
            yield "/camera", time_ns, image

    return messages


def padded(pixels: Array, padding: int) -> tuple[bytes, int]:
    """Rows with bytes behind them, and the length of a row."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    wide = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return wide.tobytes(), wide.shape[1]


def read(record: RecordMessages, path: Path, pixels: Array, encoding: str, *, big: bool = False) -> Array:
    """The observation of three equal images, with five bytes behind each row."""
    data, step = padded(pixels, 5)
    record(path, "mcap", images([(data, encoding, step, WIDTH, big)] * 3))
    with BagReader().open(path, OPEN) as recording:
        spec = recording.spec.observation["camera"]
        rows = recording.read(0).observation["camera"]
        array = np.asarray(rows)
        assert spec.frame == "camera_optical"
        assert (lazy(rows) is not None) == (spec.dtype == "uint8")
        assert array.shape == (3, *spec.shape)
        assert array.dtype == np.dtype(spec.dtype)
    return array[0]


def picture(channels: int) -> Array:
    shape = (HEIGHT, WIDTH, channels)
    return np.random.default_rng(channels).integers(0, 256, shape).astype(np.uint8)


def test_colours_come_as_red_green_blue(record_messages: RecordMessages, tmp_path: Path) -> None:
    rgb = picture(3)
    alpha = picture(1)
    bgr = rgb[..., ::-1]
    cases = {
        "rgb8": rgb,
        "bgr8": bgr,
        "8UC3": bgr,
        "rgba8": np.concatenate([rgb, alpha], 2),
        "bgra8": np.concatenate([bgr, alpha], 2),
    }
    for encoding, pixels in cases.items():
        assert np.array_equal(read(record_messages, tmp_path / encoding, pixels, encoding), rgb), encoding


def test_grey_stays_grey(record_messages: RecordMessages, tmp_path: Path) -> None:
    for encoding in ("mono8", "8UC1"):
        assert np.array_equal(read(record_messages, tmp_path / encoding, picture(1), encoding), picture(1))


@pytest.mark.parametrize("big", [False, True])
def test_depth_is_numbers_in_either_byte_order(record_messages: RecordMessages, tmp_path: Path, big: bool) -> None:
    order = ">" if big else "<"
    millimetres = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 300
    for encoding in ("16UC1", "mono16"):
        pixels = millimetres.astype(f"{order}u2")
        assert np.array_equal(read(record_messages, tmp_path / encoding, pixels, encoding, big=big), millimetres)
    metres = millimetres.astype(np.float32) / 1000
    holes = metres.copy()
    holes[0, 0], holes[1, 1] = np.nan, np.inf
    out = read(record_messages, tmp_path / "float", holes.astype(f"{order}f4"), "32FC1", big=big)
    metres[0, 0] = metres[1, 1] = 0
    assert np.array_equal(out, metres)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_give_the_colour_that_was_seen(
    record_messages: RecordMessages, tmp_path: Path, pattern: str
) -> None:
    colour = {"r": 200, "g": 120, "b": 40}
    tile = np.array([colour[letter] for letter in pattern], np.uint8).reshape(2, 2)
    out = read(record_messages, tmp_path / "bag", np.tile(tile, (HEIGHT // 2, WIDTH // 2)), f"bayer_{pattern}8")
    assert out[2:-2, 2:-2].reshape(-1, 3).tolist() == [[200, 120, 40]] * 8


def test_yuv_gives_the_colour_that_was_seen(record_messages: RecordMessages, tmp_path: Path) -> None:
    colour = np.array([[[200, 120, 40]]], np.uint8)
    y, cr, cb = cv2.cvtColor(colour, cv2.COLOR_RGB2YCrCb)[0, 0].astype(float)
    y, cb, cr = 16 + y * 219 / 255, 128 + (cb - 128) * 224 / 255, 128 + (cr - 128) * 224 / 255  # limited range
    uyvy = np.tile(np.array([cb, y, cr, y]).round().astype(np.uint8), (HEIGHT, WIDTH // 2))
    yuyv = np.tile(np.array([y, cb, y, cr]).round().astype(np.uint8), (HEIGHT, WIDTH // 2))
    for encoding, pixels in (("yuv422", uyvy), ("yuv422_yuy2", yuyv)):
        out = read(record_messages, tmp_path / encoding, pixels, encoding)
        assert np.abs(out.astype(int) - colour[0, 0]).max() <= 4, encoding


def test_frames_are_read_when_they_are_looked_at_and_can_go_to_another_process(
    record_messages: RecordMessages, tmp_path: Path
) -> None:
    pictures = [np.full((HEIGHT, WIDTH, 3), number, np.uint8) for number in range(10)]
    rows = [(image.tobytes(), "rgb8", WIDTH * 3, WIDTH, False) for image in pictures]
    for storage in ("mcap", "sqlite3"):
        record_messages(tmp_path / storage, storage, images(rows))
        with BagReader().open(tmp_path / storage, OPEN) as recording:
            frames = lazy(recording.read(0).observation["camera"])
        assert isinstance(frames, Frames)
        copy = pickle.loads(pickle.dumps(frames))  # noqa: S301  # bytes of our own
        assert np.array_equal(np.asarray(copy), np.stack(pictures))
        assert np.array_equal(np.asarray(frames[2:5]), np.stack(pictures[2:5]))
        assert np.array_equal(frames[-1], pictures[-1])


def test_images_of_two_kinds_are_refused_where_they_change(record_messages: RecordMessages, tmp_path: Path) -> None:
    small = (bytes(HEIGHT * 4), "mono8", 4, 4, False)
    large = (bytes(HEIGHT * 8), "mono8", 8, 8, False)
    record_messages(tmp_path / "two", "mcap", images([large, large, small]))
    with BagReader().open(tmp_path / "two", OPEN) as recording:
        frames = recording.read(0).observation["camera"]
        assert np.asarray(frames[0]).shape == (HEIGHT, 8, 1)
        with pytest.raises(InputError, match="4 x 6 pixels as mono8, the first is 8 x 6"):
            np.asarray(frames)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((bytes(10), "mono8", 8, 8, False), "10 bytes, expected 6 rows of 8"),
        ((bytes(48), "mono8", 4, 8, False), "48 bytes, expected 6 rows of 4"),
        ((bytes(48), "rgb16", 8, 8, False), "encoded as 'rgb16'"),
        ((bytes(48), "mono8", 8, 2**31, False), "claims images of"),
        ((bytes(42), "yuv422", 14, 7, False), "42 bytes|cannot be converted"),
    ],
)
def test_damaged_images_are_refused(
    record_messages: RecordMessages, tmp_path: Path, row: tuple[bytes, str, int, int, bool], message: str
) -> None:
    record_messages(tmp_path / "bag", "mcap", images([row] * 3))
    with pytest.raises(InputError, match=message):
        BagReader().open(tmp_path / "bag", ReadOptions(bag=BagOptions(observations=["camera"])))


def test_compressed_depth_is_refused_with_a_remedy(record_messages: RecordMessages, tmp_path: Path) -> None:
    def messages(types: dict[str, Any], ros1: bool) -> Any:
        del ros1
        for number in range(3):
            time_ns = 10**9 + number * 10**8
            kind = types["sensor_msgs/msg/CompressedImage"]
            depth = "16UC1; compressedDepth png"
            yield "/depth", time_ns, kind(header=header(types, time_ns), format=depth, data=np.zeros(20, np.uint8))

    record_messages(tmp_path / "bag", "mcap", messages)
    with pytest.raises(InputError, match="image_transport republish compressedDepth raw"):
        BagReader().open(tmp_path / "bag", ReadOptions(bag=BagOptions(observations=["depth"])))


def test_png_images_stay_as_they_are(record_messages: RecordMessages, tmp_path: Path) -> None:
    pictures = [picture(3) for _ in range(3)]
    encoded = [cv2.imencode(".png", image[..., ::-1])[1].reshape(-1) for image in pictures]

    def messages(types: dict[str, Any], ros1: bool) -> Any:
        del ros1
        for number, data in enumerate(encoded):
            time_ns = 10**9 + number * 10**8
            kind = types["sensor_msgs/msg/CompressedImage"]
            yield "/camera", time_ns, kind(header=header(types, time_ns), format="png", data=data)

    record_messages(tmp_path / "bag", "sqlite3", messages)
    with BagReader().open(tmp_path / "bag", OPEN) as recording:
        assert np.array_equal(np.asarray(recording.read(0).observation["camera"]), np.stack(pictures))
