"""Time stamps, pictures, and offsets between what was seen, measured and commanded."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from robot_rl.datasets.frames import EncodedFrames, as_array, encode_jpeg
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.alignment import ActionFacts, image_lag, image_offset
from robot_rl.datasets.validation.pictures import CameraFacts, PictureFacts, longest_run
from robot_rl.datasets.validation.timing import TimeFacts
from robot_rl.datasets.video import VideoFrames, video_index
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

PERIOD_S = 0.05
SIDE = 48


def moving(steps: int, seed: int) -> Array:
    """Positions that move and rest. Shapes: (steps + 1, 2)."""
    rng = np.random.default_rng(seed)
    pace = np.repeat(rng.uniform(0, 1, steps // 7 + 1) ** 2, 7)[:steps]
    direction = np.cumsum(rng.normal(0, 0.3, steps))
    step = pace[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(step, axis=0)])


def pictures_of(positions: Array, seed: int) -> Array:
    """A bright square where the position is, on a noisy background. Shapes: (N, 2) -> (N, SIDE, SIDE, 3)."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(60, 64, (len(positions), SIDE, SIDE, 3)).astype(np.uint8)
    x, y = ((positions * 2).astype(int) % (SIDE - 12)).T
    for frame, column, row in zip(frames, x, y, strict=True):
        frame[row : row + 12, column : column + 12] = 230
    return frames


def episode(steps: int = 150, seed: int = 0, *, lag: int = 0, stamps: Array | None = None) -> Episode:
    positions = moving(steps + 40, seed)
    state = positions[20 : 20 + steps + 1]
    seen = positions[20 - lag : 20 - lag + steps + 1]
    return Episode(
        observation={"state": state, "camera": pictures_of(seen, seed)},
        action=state[1:] + 0.0,
        reward=np.zeros(steps),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
        extras={} if stamps is None else {"timestamp_s": stamps},
    )


SPEC = Spec(
    observation={
        "state": ArraySpec(shape=(2,), dtype="float64"),
        "camera": ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8"),
    },
    action=ArraySpec(shape=(2,), dtype="float64"),
    control_period_s=PERIOD_S,
)


def text(findings: list[Finding]) -> str:
    return "\n".join(f"{f.severity} {f.place}: {f.text} -> {f.remedy}" for f in findings)


def camera_of(episodes: list[Episode]) -> CameraFacts:
    facts = PictureFacts(SPEC, "s.zarr", len(episodes))
    for index, item in enumerate(episodes):
        facts.add(index, item)
    return facts.cameras["camera"]


def seen(episodes: list[Episode]) -> str:
    facts = PictureFacts(SPEC, "s.zarr", len(episodes))
    for index, item in enumerate(episodes):
        facts.add(index, item)
    return text(facts.findings())


def timed(*stamps: Array, period_s: float | None = PERIOD_S, extra: Array | None = None) -> str:
    facts = TimeFacts(replace(SPEC, control_period_s=period_s), "s.zarr")
    for index, array in enumerate(stamps):
        item = episode(len(array) - 1, index, stamps=array)
        if extra is not None:
            item = replace(item, extras={**item.extras, "timestamp_s/camera": array + extra})
        facts.add(index, item)
    return text(facts.findings())


def test_even_stamps_are_fine() -> None:
    assert timed(np.arange(50) * PERIOD_S, np.arange(60) * PERIOD_S + 1e-4 * np.sin(np.arange(60))) == ""


def test_stamps_that_disagree_with_the_control_period() -> None:
    assert "0.05 s is declared, but the time stamps are 0.04 s apart" in timed(np.arange(50) * 0.04)
    found = timed(np.arange(50) * 0.04, period_s=None)
    assert "information control period: the time stamps are 0.04 s apart, nothing is declared" in found
    assert "control_period_s=0.04" in found


def test_jitter_gaps_and_time_that_runs_backwards() -> None:
    even = np.arange(200) * PERIOD_S
    jitter = even + np.random.default_rng(0).uniform(-0.015, 0.015, 200)
    assert "1 % of them deviate by more than" in timed(jitter)
    gap = even + np.where(np.arange(200) > 80, 1.0, 0.0)
    found = timed(even, gap)
    assert "1 episodes have a gap of more than 2.5 periods; the widest is 1.05 s behind row 80 of episode 1" in found
    assert "deviate" not in found
    backwards = even.copy()
    backwards[30] -= 1.0
    assert "error extra 'timestamp_s': time stands still or runs backwards in 1 episodes: 1" in timed(even, backwards)


def test_the_age_of_an_observation() -> None:
    even = np.arange(100) * PERIOD_S
    assert timed(even, extra=np.full(100, -0.03)) == ""
    assert "it is 4.0 periods old at its step (median)" in timed(even, extra=np.full(100, -4 * PERIOD_S))
    assert "shows what has not happened yet" in timed(even, extra=np.full(100, 2 * PERIOD_S))


def test_a_stamp_behind_a_missing_final_observation_does_not_count() -> None:
    stamps = np.arange(51) * PERIOD_S
    stamps[-1] = stamps[-2]
    facts = TimeFacts(SPEC, "s.zarr")
    facts.add(0, replace(episode(50, stamps=stamps), has_final_observation=False))
    assert facts.findings() == []


def test_a_good_camera_has_no_findings() -> None:
    assert seen([episode(seed=seed) for seed in range(4)]) == ""


def test_a_camera_without_a_picture_and_one_that_drops_out() -> None:
    good = [episode(seed=seed) for seed in range(4)]
    black = [replace(e, observation={**e.observation, "camera": e.observation["camera"] * 0}) for e in good]
    found = seen(black)
    assert "the camera has no picture: all of the 512 frames that were looked at are black" in found
    assert "'exclude=[camera]'" in found
    frames = good[2].observation["camera"].copy()
    frames[60:70] = 0
    found = seen([*good[:2], replace(good[2], observation={**good[2].observation, "camera": frames}), good[3]])
    assert "10 of 512 frames that were looked at show nothing, 10 of them are black; in episodes 2" in found


def test_a_camera_that_hangs_while_the_robot_moves() -> None:
    good = [episode(seed=seed) for seed in range(4)]
    frames = good[1].observation["camera"].copy()
    frames[50:80] = frames[50]
    found = seen([good[0], replace(good[1], observation={**good[1].observation, "camera": frames}), *good[2:]])
    assert "warning observation 'camera': the picture stands still for " in found
    assert "of episode 1" in found
    resting = replace(
        good[0], observation={"state": np.zeros((151, 2)), "camera": good[0].observation["camera"] * 0 + 9}
    )
    assert "stands still" not in seen([good[1], good[2], resting])


def test_a_camera_slower_than_the_control() -> None:
    slow = []
    for seed in range(4):
        item = episode(seed=seed)
        frames = item.observation["camera"][np.arange(151) // 3 * 3]
        slow.append(replace(item, observation={**item.observation, "camera": frames}))
    found = seen(slow)
    assert "of the pictures repeat the one before while the state moves" in found
    assert "stride" in found


@pytest.mark.parametrize("lag", [-6, -3, 3, 5])
def test_a_lag_between_picture_and_state_is_found(lag: int) -> None:
    facts = camera_of([episode(seed=seed, lag=lag) for seed in range(6)])
    offset = image_offset(facts)
    assert offset is not None
    assert offset.steps == lag
    found = text(image_lag(facts, PERIOD_S))
    assert (
        f"the picture is about {abs(lag)} steps ({abs(lag) * PERIOD_S:.3g} s) {'behind' if lag > 0 else 'ahead of'}"
        in found
    )


def test_no_lag_is_told_without_clear_evidence() -> None:
    assert image_lag(camera_of([episode(seed=seed) for seed in range(6)]), PERIOD_S) == []
    rng = np.random.default_rng(3)
    noise = [
        replace(e, observation={**e.observation, "camera": rng.integers(0, 255, (151, SIDE, SIDE, 3)).astype(np.uint8)})
        for e in (episode(seed=seed) for seed in range(6))
    ]
    assert image_lag(camera_of(noise), PERIOD_S) == []
    mixed = [episode(seed=seed, lag=4 if seed % 2 else -4) for seed in range(8)]
    assert image_lag(camera_of(mixed), PERIOD_S) == []
    assert image_offset(camera_of([episode(60, seed=1)])) is None  # too short


def commanded(shift: int, noise: float = 0.0) -> str:
    facts = ActionFacts(SPEC, 4)
    for seed in range(4):
        positions = moving(240, seed)
        action = positions[20 + shift : 220 + shift]
        action = action + noise * np.random.default_rng(seed).normal(size=action.shape)
        facts.add(seed, replace(episode(200, seed), observation={"state": positions[20:221]}, action=action))
    return text(facts.findings())


def test_actions_that_are_positions_are_told_with_their_offset() -> None:
    assert "warning action: the action of a step is the observation 'state' of the same step" in commanded(0)
    assert "information action: the action of a step is the observation 'state' 1 steps later" in commanded(1)
    assert "information action: actions are positions: 'state' follows them within 4 steps" in commanded(4, 0.05)
    assert "warning action: the action of a step agrees best with the observation 'state' 3 steps before" in commanded(
        -3, 0.05
    )
    assert commanded(2, 50.0) == ""


def commanded_arm(lag: int, *, held: int = 0) -> str:
    """An arm of six joints that follows its command `lag` steps later; some of them are held by an object."""
    spec = replace(
        SPEC,
        observation={"joints": ArraySpec(shape=(6,), dtype="float64")},
        action=ArraySpec(shape=(6,), dtype="float64"),
    )
    facts = ActionFacts(spec, 3)
    for seed in range(3):
        path = np.concatenate([moving(300, 10 * seed + joint) for joint in range(3)], axis=1)
        joints = path[20 - lag : 221 - lag] + 0.02 * np.random.default_rng(seed).normal(size=(201, 6))
        joints[:, :held] = 1.0
        facts.add(seed, replace(episode(200, seed), observation={"joints": joints}, action=path[20:220]))
    return text(facts.findings())


def test_a_gripper_that_holds_something_does_not_hide_that_actions_are_positions() -> None:
    assert "'joints' follows them within 3 steps, in 6 of the 6 channels that move" in commanded_arm(3)
    assert "'joints' follows them within 3 steps, in 4 of the 6 channels that move" in commanded_arm(3, held=2)
    assert commanded_arm(3, held=4) == ""


def test_frames_that_cannot_be_decoded_are_told() -> None:
    good = [episode(seed=seed) for seed in range(3)]
    encoded = [encode_jpeg(frame) for frame in good[1].observation["camera"]]
    encoded[7] = encoded[7][:200]
    broken = as_array(EncodedFrames(encoded, (SIDE, SIDE, 3), "camera of episode 1"))
    found = seen([good[0], replace(good[1], observation={**good[1].observation, "camera": broken}), good[2]])
    assert "error observation 'camera': frames of episodes 1 cannot be decoded; of episode 1: camera of" in found


def test_frames_of_a_video_that_belong_to_no_row_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "arm.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for picture in pictures_of(moving(59, 0), 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    index = video_index(path)
    assert len(index) == 60

    def part(first: int, last: int) -> Episode:
        item = episode(last - first)
        frames = as_array(VideoFrames(index, np.arange(first, last + 1)))
        return replace(item, observation={**item.observation, "camera": frames})

    assert "belong to no row" not in seen([part(0, 30), part(31, 59)])
    assert "information observation 'camera': 9 frames of 1 videos belong to no row, most in arm.mp4 (9)" in seen(
        [part(0, 30), part(40, 59)]
    )


def test_the_longest_run() -> None:
    assert longest_run(np.asarray([0, 1, 1, 0, 1, 1, 1], bool)) == (3, 4)
    assert longest_run(np.zeros(5, bool)) == (0, 0)
    assert longest_run(np.ones(5, bool)) == (5, 0)
