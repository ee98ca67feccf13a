"""Films are read back with the decoder: what a browser would show."""

import resource
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from robot_rl.apps.video import HEADER, MARGIN, STRIP_HEIGHT, write_video
from robot_rl.errors import InputError


def frames_of(count: int, height: int, width: int) -> list[NDArray[np.uint8]]:
    """Pictures of one brightness each, rising with time."""
    return [np.full((height, width, 3), 20 + 5 * index, np.uint8) for index in range(count)]


def decode(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def cursor_column(strip: NDArray[np.uint8]) -> int:
    """The column that is most orange (red far above blue) below the strip's text."""
    colours = strip[HEADER + 2 : -MARGIN].astype(int)
    return int((colours[..., 0] - colours[..., 2]).sum(axis=0).argmax())


def test_a_film_has_every_frame_in_its_size_and_a_codec_that_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "episode.mp4"
    write_video(path, frames_of(12, 256, 320), frames_per_second=20.0)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (320, 256, 20)
    decoded = decode(path)
    assert len(decoded) == 12
    assert [abs(int(frame.mean()) - (20 + 5 * index)) <= 3 for index, frame in enumerate(decoded)] == [True] * 12
    assert [entry.name for entry in path.parent.iterdir()] == ["episode.mp4"]


def test_odd_and_small_pictures_become_even_and_readable(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", frames_of(2, 101, 257), frames_per_second=10.0)
    write_video(tmp_path / "small.mp4", frames_of(2, 64, 64), frames_per_second=12.5, values=[0.0, 1.0])
    assert decode(tmp_path / "odd.mp4")[0].shape == (102, 258, 3)
    assert decode(tmp_path / "small.mp4")[0].shape == (256 + STRIP_HEIGHT, 256, 3)


def test_the_cursor_moves_over_the_whole_strip(tmp_path: Path) -> None:
    path = tmp_path / "value.mp4"
    write_video(
        path,
        frames_of(20, 256, 256),
        frames_per_second=20.0,
        values=list(np.linspace(-3, 9, 20)),
        caption="3 | success",
    )
    columns = [cursor_column(frame[256:]) for frame in decode(path)]
    assert columns == sorted(columns)
    assert columns[0] <= MARGIN + 3
    assert columns[-1] >= 256 - MARGIN - 4


@pytest.mark.parametrize("values", [[float("nan")] * 3, [1.0, float("inf"), 2.0], [2.0, 2.0, 2.0]])
def test_values_without_a_range_are_drawn(tmp_path: Path, values: list[float]) -> None:
    write_video(tmp_path / "flat.mp4", frames_of(3, 256, 256), frames_per_second=20.0, values=values, caption="x" * 200)
    assert len(decode(tmp_path / "flat.mp4")) == 3


def test_noise_does_not_exceed_the_bit_rate(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(60)]
    write_video(tmp_path / "noise.mp4", frames, frames_per_second=20.0)
    seconds, bits_per_second = 3.0, 0.12 * 256 * 256 * 20
    assert (tmp_path / "noise.mp4").stat().st_size * 8 < 2.5 * bits_per_second * seconds  # the encoder's buffer is 2 s


def test_bad_frames_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.mp4"
    with pytest.raises(InputError, match="at least one frame"):
        write_video(path, [], frames_per_second=20.0)
    with pytest.raises(InputError, match="frame 1"):
        write_video(path, frames_of(1, 64, 64) + frames_of(1, 32, 64), frames_per_second=20.0)
    with pytest.raises(InputError, match="2 values for 3 frames"):
        write_video(path, frames_of(3, 64, 64), frames_per_second=20.0, values=[0.0, 1.0])
    with pytest.raises(InputError, match="frames_per_second=0"):
        write_video(path, frames_of(3, 64, 64), frames_per_second=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_does_not_fit_on_the_disk_is_refused_by_name_and_leaves_nothing(tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 255, (20, 256, 256, 3), np.uint8))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*film\.mp4"):
            write_video(tmp_path / "film.mp4", noise, frames_per_second=20.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
