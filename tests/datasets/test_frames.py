"""Images that are decoded when they are looked at."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from robot_rl.datasets.frames import (
    BLOCK_BYTES,
    EncodedFrames,
    ResizedFrames,
    as_array,
    block_size,
    blocks,
    decode_image,
    encode_jpeg,
    lazy,
    resize,
    resize_frames,
)
from robot_rl.errors import InputError
from robot_rl.types import Array


def png(image: Array) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture
def images() -> Array:
    return np.random.default_rng(0).integers(0, 256, (7, 12, 16, 3), np.uint8)


@pytest.fixture
def frames(images: Array) -> EncodedFrames:
    return EncodedFrames.of([png(image) for image in images], "camera")


def test_frames_stand_where_an_array_may_stand(frames: EncodedFrames, images: Array) -> None:
    assert frames.shape == images.shape
    assert (np.asarray(frames) == images).all()
    assert (frames[-1] == images[-1]).all()
    assert (np.asarray(frames[2:5]) == images[2:5]).all()
    assert (np.asarray(frames[[4, 4, 0]]) == images[[4, 4, 0]]).all()
    assert [image.sum() for image in frames] == [image.sum() for image in images]
    assert lazy(as_array(frames)) is frames
    assert lazy(images) is None


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_blocks_of_any_size_give_every_frame_once_in_order(frames: EncodedFrames, images: Array, size: int) -> None:
    for rows in (images, as_array(frames), as_array(frames.resized((12, 16)))):
        found = list(blocks(rows, size))
        assert max(map(len, found)) <= size
        assert (np.concatenate(found) == images).all()


def test_large_images_come_fewer_at_a_time() -> None:
    assert block_size((64, 64, 3)) == 32
    assert block_size((1080, 1920, 3)) * 1080 * 1920 * 3 <= BLOCK_BYTES
    assert block_size((16_000, 16_000, 3)) == 1


def test_an_image_of_another_size_than_the_first_is_refused(images: Array) -> None:
    frames = EncodedFrames.of([png(images[0]), png(images[1][:, :8])], "camera")
    with pytest.raises(InputError, match=r"camera: image 1 is \(12, 8, 3\)"):
        np.asarray(frames)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"text"])
def test_bytes_that_are_no_image_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(InputError, match="camera, image 3"):
        decode_image(data, "camera, image 3")


def test_a_png_that_claims_a_hostile_size_is_refused_before_it_is_decoded(images: Array) -> None:
    data = bytearray(png(images[0]))
    data[16:20] = b"\x7f\xff\xff\xff"
    with pytest.raises(InputError, match="claims to be 2147483647 x"):
        EncodedFrames.of([bytes(data)], "camera")


def test_grey_images_keep_one_channel(images: Array) -> None:
    grey = images[0][:, :, :1]
    assert decode_image(encode_jpeg(grey), "camera").shape == (12, 16, 1)
    assert resize(grey, (6, 8)).shape == (6, 8, 1)


def test_a_jpeg_of_full_colour_resolution_is_near_the_image() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 15:, 0] = 255  # a red edge off the grid of 2 x 2 pixels
    assert np.abs(decode_image(encode_jpeg(image), "camera").astype(int) - image).max() < 40


@pytest.mark.parametrize(("fit", "white"), [("stretch", 64), ("crop", 64), ("pad", 32)])
def test_fit_keeps_or_changes_the_proportions(fit: str, white: int) -> None:
    image = np.full((8, 16, 3), 255, np.uint8)
    # pad: 16 x 8 into 8 x 8 is 8 x 4 pixels, the rest is black.
    assert int((resize(image, (8, 8), fit)[:, :, 0] == 255).sum()) == white


def test_crop_keeps_the_middle() -> None:
    image = np.zeros((4, 12, 3), np.uint8)
    image[:, 4:8] = 255
    assert (resize(image, (4, 4), "crop") == 255).all()


def test_resized_frames_are_lazy_and_agree_with_resize(frames: EncodedFrames, images: Array) -> None:
    for rows in (images, as_array(frames)):
        resized = resize_frames(rows, (6, 10), "pad")
        assert isinstance(resized, ResizedFrames)
        assert resized.shape == (7, 6, 10, 3)
        wanted = np.stack([resize(image, (6, 10), "pad") for image in images])
        assert (np.asarray(resized) == wanted).all()
        assert (np.concatenate(list(resized.blocks(2))) == wanted).all()
        assert (np.asarray(resized[[5, 1]]) == wanted[[5, 1]]).all()


def test_no_images_are_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        EncodedFrames.of([], str(tmp_path))
