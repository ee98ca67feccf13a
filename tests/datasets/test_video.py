"""Videos: the index of presentation times, and frames that are found by them."""

import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from robot_rl.datasets.frames import FITS, ResizedFrames, as_array, resize, resize_frames
from robot_rl.datasets.video import VideoFrames, video_index
from robot_rl.errors import InputError
from robot_rl.types import Array

WriteVideo = Callable[..., None]
Pictures = Callable[..., Array]

KINDS = {
    "b_frames.mp4": {"options": {"bf": "3", "g": "12"}},
    "intra.mp4": {"options": {"g": "1"}},
    "gop_2.mp4": {"options": {"g": "2"}},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}},
    "x.mkv": {},
    "x.mov": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=none"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "10"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "x.ts": {},
}


def bare(path: Path) -> Array:
    """All frames as PyAV alone gives them, in order."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module", params=KINDS)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / request.param
    request.getfixturevalue("write_video")(path, request.getfixturevalue("pictures")(36), **KINDS[request.param])
    return path


def test_every_way_of_reading_gives_the_decoders_own_frames(video: Path) -> None:
    wanted = bare(video)
    frames = VideoFrames.of(video)
    assert frames.shape == wanted.shape
    assert (np.asarray(frames) == wanted).all()
    assert (np.concatenate(list(frames.blocks(5))) == wanted).all()
    for numbers in ([30, 2, 2, 17, 35, 0], [35], [12, 11, 10], [0, 12, 24], [1, 1, 1]):
        assert (frames.decode(np.asarray(numbers)) == wanted[numbers]).all()
        assert (np.asarray(frames[numbers]) == wanted[numbers]).all()
    for number in (20, 21, 3, 33, 20):
        assert (frames[number] == wanted[number]).all()


def test_pictures_come_in_presentation_order(video: Path, pictures: Pictures) -> None:
    grey = VideoFrames.of(video).decode(np.arange(36))[:, 40, 40, 1].astype(int)
    assert np.abs(grey - pictures(36)[:, 40, 40, 1].astype(int)).max() <= 4


def test_the_index_counts_without_decoding(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> None:
    write_video(tmp_path / "a.mp4", pictures(25), options={"bf": "2", "g": "10"})
    index = video_index(tmp_path / "a.mp4")
    assert len(index) == 25
    assert (index.height, index.width, index.rotation_degrees) == (48, 64, 0)
    assert np.flatnonzero(index.keyframe)[0] == 0
    assert index.keyframe.sum() >= 3
    np.testing.assert_allclose(index.times_s, np.arange(25) / 10)
    assert index.constant_rate == 10
    assert index.average_rate == pytest.approx(10)
    assert index.attributes["codec"] == "h264"


def test_variable_times_are_kept_as_they_are(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> None:
    times_ms = np.asarray([40, 70, 110, 300, 310, 350, 1000])  # begins late
    write_video(tmp_path / "a.mkv", pictures(7), times_ms=times_ms)
    index = video_index(tmp_path / "a.mkv")
    assert (index.pts * index.time_base == [Fraction(int(time), 1000) for time in times_ms]).all()
    np.testing.assert_allclose(index.times_s, (times_ms - 40) / 1000)
    assert index.constant_rate is None
    assert (np.asarray(VideoFrames(index, np.asarray([6, 3]))) == bare(tmp_path / "a.mkv")[[6, 3]]).all()


def test_times_rounded_to_milliseconds_are_still_a_constant_rate(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    write_video(tmp_path / "a.mkv", pictures(30), rate=30, times_ms=np.round(np.arange(30) * 1000 / 30))
    assert video_index(tmp_path / "a.mkv").constant_rate == pytest.approx(30, rel=1e-3)


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_a_turned_video_is_shown_upright(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures, rotation: int, corner: tuple[int, int]
) -> None:
    write_video(tmp_path / "a.mp4", pictures(5), rotation=rotation)
    frames = VideoFrames.of(tmp_path / "a.mp4")
    assert frames.index.rotation_degrees == rotation % 360
    upright = np.asarray(frames)
    # The red corner of the coded picture, at the top left, goes counter-clockwise: to the bottom left by 90 degrees.
    assert (upright == np.rot90(bare(tmp_path / "a.mp4"), rotation // 90, axes=(1, 2))).all()
    red = upright[0][corner]
    assert red[0] > 200 > 50 > red[1]
    assert (frames.index.height, frames.index.width) == upright.shape[1:3]
    for fit in FITS:
        small = np.asarray(frames.resized((20, 20), fit))
        assert np.abs(small[0].astype(int) - resize(upright[0], (20, 20), fit)).mean() < 12


def test_frames_before_the_start_of_an_edit_list_are_no_frames(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, pictures(20), options={"bf": "0", "g": "100"})
    data = path.read_bytes()
    # Version 0 of `elst`: one entry of duration, media time and rate; the media time becomes that of frame 4.
    place = data.index(b"elst") + 4
    duration, start = struct.unpack(">Ii", data[place + 8 : place + 16])
    scale = video_index(path).time_base.denominator
    path.write_bytes(
        data[: place + 8] + struct.pack(">Ii", duration * 16 // 20, start + 4 * scale // 10) + data[place + 16 :]
    )
    wanted = bare(path)
    frames = VideoFrames.of(path)
    assert len(wanted) == len(frames) == 16
    assert (np.asarray(frames) == wanted).all()
    assert (frames[7] == wanted[7]).all()


@pytest.mark.parametrize("full", [True, False])
def test_the_colour_range_is_undone(tmp_path: Path, full: bool) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv444p"
        stream.codec_context.color_range = 2 if full else 1
        for _ in range(2):
            frame = av.VideoFrame(16, 16, "yuv444p")
            frame.color_range = 2 if full else 1
            for plane, value in zip(frame.planes, (235, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    # 235 is white in the limited range, and 235 of 255 in the full one.
    assert np.abs(np.asarray(VideoFrames.of(path)).astype(int) - (235 if full else 255)).max() <= 1


@pytest.mark.parametrize("fit", FITS)
def test_decoding_to_a_size_is_near_decoding_and_resizing(tmp_path: Path, write_video: WriteVideo, fit: str) -> None:
    smooth = np.linspace(0, 255, 160)[None, None, :, None] * np.linspace(0.3, 1, 96)[None, :, None, None]
    write_video(tmp_path / "a.mp4", np.broadcast_to(smooth, (5, 96, 160, 3)).astype(np.uint8))
    frames = VideoFrames.of(tmp_path / "a.mp4")
    small = resize_frames(as_array(frames), (40, 40), fit)
    assert isinstance(small, VideoFrames)
    wanted = np.stack([resize(image, (40, 40), fit) for image in np.asarray(frames)])
    found = np.asarray(small)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < 2
    assert (np.asarray(small[[3]]) == found[3]).all()
    assert isinstance(small.resized((8, 8)), ResizedFrames)  # not the pixels of the video's own size


def test_frames_are_pickled_without_their_pixels(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> None:
    write_video(tmp_path / "a.mp4", pictures(20))
    frames = VideoFrames.of(tmp_path / "a.mp4")[[3, 3, 19]].resized((10, 10), "pad")
    frames[0]  # the file is open
    data = pickle.dumps(frames)
    assert len(data) < 4000
    assert (np.asarray(pickle.loads(data)) == np.asarray(frames)).all()  # noqa: S301  # our own bytes


def test_threads_may_share_frames(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> None:
    write_video(tmp_path / "a.mp4", pictures(30))
    frames = VideoFrames.of(tmp_path / "a.mp4")
    wanted = bare(tmp_path / "a.mp4")
    with ThreadPoolExecutor(4) as pool:
        for number, image in enumerate(pool.map(frames.__getitem__, range(30))):
            assert (image == wanted[number]).all()


def test_blocks_that_are_not_read_to_the_end_leave_no_thread(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    write_video(tmp_path / "a.mp4", pictures(30))
    blocks = VideoFrames.of(tmp_path / "a.mp4").blocks(4)
    assert len(next(blocks)) == 4
    blocks.close()  # type: ignore[attr-defined]  # a generator
    assert list(VideoFrames.of(tmp_path / "a.mp4")[:0].blocks()) == []


def test_a_number_that_the_video_does_not_have_is_refused(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    write_video(tmp_path / "a.mp4", pictures(5))
    with pytest.raises(InputError, match=r"a\.mp4 has frames 0 to 4, asked for frame 5"):
        VideoFrames(video_index(tmp_path / "a.mp4"), np.asarray([0, 5]))


def test_a_cut_off_mp4_says_how_much_is_missing(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, pictures(20))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=rf"a\.mp4 is cut off: .* the file has {len(data) // 2}"):
        video_index(path)


def test_an_mp4_without_moov_says_that_the_recorder_was_stopped(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, pictures(20))
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"moov") - 4])
    with pytest.raises(InputError, match="no 'moov' box"):
        video_index(path)


def test_an_mp4_that_claims_more_frames_than_bytes_is_refused(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, pictures(20))
    data = path.read_bytes()
    place = data.index(b"stsz") + 12
    path.write_bytes(data[:place] + b"\x7f\xff\xff\xff" + data[place + 4 :])
    with pytest.raises(InputError, match="claims 2147483647 frames"):
        video_index(path)


def test_a_damaged_frame_is_named(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> None:
    path = tmp_path / "a.mkv"
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    write_video(path, noise, codec="mjpeg", pixel_format="yuvj420p")
    data = bytearray(path.read_bytes())
    starts = [place for place in range(len(data) - 2) if data[place : place + 3] == b"\xff\xd8\xff"]
    data[starts[12] + 2 : starts[12] + 700] = bytes(698)
    path.write_bytes(data)
    frames = VideoFrames.of(path)
    assert len(frames[:10].decode(np.arange(10))) == 10
    with pytest.raises(InputError, match=r"a\.mkv: frame 12 of 20"):
        np.asarray(frames)


def test_an_avi_that_cannot_hold_its_times_is_refused(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    path = tmp_path / "a.avi"
    write_video(path, pictures(20), options={"bf": "2"})
    with pytest.raises(InputError, match=r"a\.avi: an AVI file cannot hold the times .* re-encode it with `ffmpeg"):
        video_index(path)


@pytest.mark.parametrize("content", [b"", b"text", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", b"\x1a\x45\xdf\xa3" * 9])
def test_what_is_no_video_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mkv").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mkv"):
        video_index(tmp_path / "a.mkv")


def test_a_video_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no video at .*b\.mp4"):
        video_index(tmp_path / "b.mp4")


def test_depth_of_16_bits_is_not_squeezed_into_8(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "gray16le"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 16), 5000, np.uint16), format="gray16le")))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="16 bits, depth"):
        video_index(tmp_path / "a.mkv")


@pytest.mark.parametrize(
    ("name", "count", "rate", "size"),
    [
        ("human_hand_video.mp4", 621, 30, (720, 1280)),
        ("umi_handheld_gripper_human_demo_ep0.mp4", 400, 10, (224, 224)),
        ("umi_cup_in_the_wild.mp4", 1217, 30, (720, 1280)),
    ],
)
def test_the_shared_videos_have_the_frames_they_should(
    shared_data: Path, name: str, count: int, rate: int, size: tuple[int, int]
) -> None:
    index = video_index(shared_data / "videos" / name)
    assert (len(index), index.constant_rate, (index.height, index.width)) == (count, rate, size)
    frames = VideoFrames(index)
    assert frames[count - 1].shape == (*size, 3)


def test_frames_of_a_shared_video_are_found_at_random(shared_data: Path) -> None:
    path = shared_data / "videos" / "umi_handheld_gripper_human_demo_ep0.mp4"
    wanted = bare(path)
    numbers = np.random.default_rng(0).integers(0, 400, 40)
    assert (VideoFrames.of(path).decode(numbers) == wanted[numbers]).all()
