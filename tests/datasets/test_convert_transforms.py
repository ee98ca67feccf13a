"""What a conversion does to every episode, on numbers small enough to work out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.datasets.convert_transforms import (
    ImageOptions,
    RewardLabel,
    Transforms,
    bounds_of_data,
    choose_keys,
    choose_tiers,
    resized,
    strided,
    strided_spec,
    summed_channels,
    with_action_from,
    with_keys,
    with_reward_from,
    with_success_at_end,
)
from robot_rl.datasets.frames import EncodedFrames, as_array, encode_jpeg, lazy
from robot_rl.datasets.ingest.base import SuccessLabel
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

FIRST = np.zeros(1, bool)
SUMMED = np.ones(1, bool)


def make_episode(steps: int, *, terminated: bool = True, has_final: bool = True, **changes: Any) -> Episode:
    """State row t is [t, 10 t], action t is [t], reward t is t; the last row is repeated where it is not observed."""
    time = np.arange(steps + 1, dtype=np.float64)
    if not has_final:
        time[-1] = steps - 1
    end = np.arange(steps) == steps - 1
    fields: dict[str, Any] = {
        "observation": {"state": np.stack([time, 10 * time], axis=1)},
        "action": np.arange(steps, dtype=np.float64)[:, None],
        "reward": np.arange(steps, dtype=np.float64),
        "terminated": end & terminated,
        "truncated": end & (not terminated),
        "has_final_observation": has_final,
    }
    return Episode(**(fields | changes))


def make_spec(**changes: Any) -> Spec:
    action = ArraySpec(shape=(1,), dtype="float64", low=np.asarray([-1.0]), high=np.asarray([1.0]))
    spec = Spec(observation={"state": ArraySpec(shape=(2,), dtype="float64")}, action=action, control_period_s=0.1)
    return replace(spec, **changes)


def times(episode: Episode) -> list[float]:
    return [float(row) for row in episode.observation["state"][:, 0]]


def test_a_stride_keeps_every_second_observation_and_the_last() -> None:
    coarse = strided(make_episode(5), 2, FIRST)
    assert times(coarse) == [0, 2, 4, 5]
    assert coarse.action[:, 0].tolist() == [0, 2, 4]  # the first of (0, 1), (2, 3), (4)
    assert coarse.reward.tolist() == [0 + 1, 2 + 3, 4]
    assert coarse.terminated.tolist() == [False, False, True]
    assert not coarse.truncated.any()
    assert coarse.has_final_observation


def test_a_stride_sums_actions_that_are_differences() -> None:
    assert strided(make_episode(5), 2, SUMMED).action[:, 0].tolist() == [0 + 1, 2 + 3, 4]


def test_a_stride_repeats_the_last_row_where_it_was_not_observed() -> None:
    coarse = strided(make_episode(5, has_final=False), 2, FIRST)
    assert times(coarse) == [0, 2, 4, 4]
    assert not coarse.has_final_observation
    assert times(strided(make_episode(6, has_final=False), 4, FIRST)) == [0, 4, 4]


def test_a_stride_longer_than_the_episode_leaves_one_step() -> None:
    coarse = strided(make_episode(3), 10, FIRST)
    assert (times(coarse), coarse.reward.tolist()) == ([0, 3], [3])


def test_after_a_stride_success_is_that_of_the_last_step_and_intervention_that_of_any() -> None:
    fine = make_episode(4, success=np.asarray([1, 0, 0, 1], bool), intervened=np.asarray([1, 0, 0, 0], bool))
    coarse = strided(fine, 2, FIRST)
    assert coarse.success is not None
    assert coarse.success.tolist() == [False, True]
    assert coarse.intervened is not None
    assert coarse.intervened.tolist() == [True, False]


def test_extras_follow_a_stride() -> None:
    extras = {"timestamp_s": np.arange(6) * 0.1, "command": np.arange(5)}
    coarse = strided(make_episode(5, extras=extras), 2, FIRST)
    np.testing.assert_allclose(coarse.extras["timestamp_s"], [0.0, 0.2, 0.4, 0.5])
    assert coarse.extras["command"].tolist() == [0, 2, 4]


@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans())
def test_a_stride_keeps_the_return_the_end_and_the_length(steps: int, stride: int, end: bool, final: bool) -> None:
    fine = make_episode(steps, terminated=end, has_final=final)
    coarse = strided(fine, stride, FIRST)
    assert len(coarse) == -(-steps // stride)
    assert coarse.reward.sum() == fine.reward.sum()
    assert (coarse.terminated[-1], coarse.truncated[-1]) == (end, not end)
    if stride == 1:
        assert times(coarse) == times(fine)


def test_a_stride_lengthens_the_control_period_and_widens_the_bounds_of_sums() -> None:
    absolute = strided_spec(make_spec(action_semantics="joint_position_target"), 3)
    assert absolute.control_period_s == pytest.approx(0.3)
    assert absolute.action.high is not None
    assert absolute.action.high.tolist() == [1.0]
    delta = strided_spec(make_spec(action_semantics="joint_position_delta"), 3)
    assert delta.action.low is not None
    assert delta.action.low.tolist() == [-3.0]


@pytest.mark.parametrize(
    ("semantics", "size", "names", "expected"),
    [
        (None, 2, None, [0, 0]),
        ("joint_position_target", 2, None, [0, 0]),
        ("joint_position_delta", 2, None, [1, 1]),
        ("joint_position_delta", 2, ("shoulder", "Gripper"), [1, 0]),
        ("osc_pose_delta", 7, None, [1, 1, 1, 1, 1, 1, 0]),
        ("osc_position_delta", 8, None, [1, 1, 1, 0, 1, 1, 1, 0]),
    ],
)
def test_grippers_are_not_summed(
    semantics: str | None, size: int, names: tuple[str, ...] | None, expected: list[int]
) -> None:
    spec = make_spec(action=ArraySpec(shape=(size,), names=names), action_semantics=semantics)
    assert summed_channels(spec).astype(int).tolist() == expected


def test_an_action_from_an_observation_is_its_next_value_or_its_change() -> None:
    bare = make_episode(3, action=np.zeros((3, 0)))
    assert with_action_from(bare, "state", "absolute", "e").action.tolist() == [[1, 10], [2, 20], [3, 30]]
    assert with_action_from(bare, "state", "delta", "e").action.tolist() == [[1, 10]] * 3


def test_an_action_from_an_observation_costs_the_step_whose_end_was_not_observed() -> None:
    extras = {"timestamp_s": np.arange(4.0), "command": np.arange(3)}
    made = with_action_from(make_episode(3, has_final=False, extras=extras), "state", "absolute", "e")
    assert times(made) == [0, 1, 2]
    assert made.action.tolist() == [[1, 10], [2, 20]]
    assert (made.terminated.tolist(), made.truncated.tolist()) == ([False, False], [False, True])
    assert made.has_final_observation
    assert {key: len(rows) for key, rows in made.extras.items()} == {"timestamp_s": 3, "command": 2}
    with pytest.raises(InputError, match="demo_3 has one step and no observation behind it"):
        with_action_from(make_episode(1, has_final=False), "state", "absolute", "demo_3")


def test_the_spec_of_an_action_from_an_observation_takes_its_names_and_unit() -> None:
    state = ArraySpec(shape=(2,), dtype="float32", names=("a", "b"), unit="rad")
    spec = make_spec(observation={"state": state}, metadata={"absent": ["action", "reward"]})
    made = Transforms(action_from="state").spec(spec)
    assert (made.action.shape, made.action.names, made.action.unit) == ((2,), ("a", "b"), "rad")
    assert made.action_semantics == "state_target"
    assert made.metadata == {"absent": ["reward"], "action_bounds": "data"}
    bounded = Transforms(action_from="state", action_mode="delta", action_low=[-2.0], action_high=[2.0]).spec(spec)
    assert bounded.action.low is not None
    assert (bounded.action.low.tolist(), bounded.action_semantics) == ([-2.0, -2.0], "state_delta")
    assert "action_bounds" not in bounded.metadata


def test_a_stride_comes_before_an_action_from_an_observation() -> None:
    made, reason = Transforms(stride=2, action_from="state").episode(make_spec(), make_episode(4), "e")
    assert reason is None
    assert made.action.tolist() == [[2, 20], [4, 40]]


def test_bounds_of_data_give_a_still_channel_some_room() -> None:
    low, high = bounds_of_data([0.0, 2.0], [1.0, 2.0])
    np.testing.assert_allclose(low, [0.0, 1.999])
    np.testing.assert_allclose(high, [1.0, 2.001])


def test_a_reward_from_an_observation_is_that_behind_the_step() -> None:
    assert with_reward_from(make_episode(3), "state", 1, "e").reward.tolist() == [10, 20, 30]


def test_the_last_steps_of_a_demonstration_succeed() -> None:
    made = with_success_at_end(make_episode(4), 2, (-1.0, 0.0))
    assert made.reward.tolist() == [-1, -1, 0, 0]
    assert made.success is not None
    assert made.success.tolist() == [False, False, True, True]
    whole = with_success_at_end(make_episode(2), 9, (0.0, 1.0))
    assert whole.reward.tolist() == [1, 1]


def test_a_success_rule_labels_only_what_the_source_does_not_say() -> None:
    transforms = Transforms(success=SuccessLabel(observation="state", minimum=2.0))
    made, _ = transforms.episode(make_spec(), make_episode(3), "e")
    assert made.success is not None
    assert made.success.tolist() == [False, True, True]
    recorded = make_episode(3, success=np.zeros(3, bool))
    kept, _ = transforms.episode(make_spec(), recorded, "e")
    assert kept.success is not None
    assert not kept.success.any()


def test_what_a_rule_supplies_is_no_longer_absent() -> None:
    spec = make_spec(metadata={"absent": ["reward", "success", "end"], "scene": 3})
    rule = SuccessLabel(observation="state", minimum=2.0)
    assert Transforms(success=rule).spec(spec).metadata == {"absent": ["reward", "end"], "scene": 3}
    assert Transforms(reward=RewardLabel(last_steps=1)).spec(spec).metadata == {"absent": ["end"], "scene": 3}
    assert Transforms(reward=RewardLabel(observation="state")).spec(spec).metadata["absent"] == ["success", "end"]


def test_keys_are_chosen_by_pattern_in_their_order() -> None:
    keys = ["arm/q", "arm/qd", "cam/left", "cam/right"]
    assert choose_keys(keys, [], []) == keys
    assert choose_keys(keys, ["cam/*", "arm/q"], []) == ["arm/q", "cam/left", "cam/right"]
    assert choose_keys(keys, ["arm/*"], ["*qd"]) == ["arm/q"]
    with pytest.raises(InputError, match=r"keys: 'arm/x' matches no observation: did you mean 'arm/q'"):
        choose_keys(keys, ["arm/x"], [])
    with pytest.raises(InputError, match="leave no observation"):
        choose_keys(keys, [], ["*"])


def test_time_stamps_go_with_their_key() -> None:
    stamps = {"timestamp_s": np.arange(3.0), "timestamp_s/state": np.arange(3.0), "timestamp_s/other": np.arange(3.0)}
    both = make_episode(2, extras=stamps)
    both = replace(both, observation=both.observation | {"other": np.zeros((3, 1))})
    assert set(with_keys(both, ["state"]).extras) == {"timestamp_s", "timestamp_s/state"}


def make_images(steps: int) -> Array:
    images = [encode_jpeg(np.full((8, 16, 3), 10 * number, np.uint8)) for number in range(steps + 1)]
    return as_array(EncodedFrames.of(images, "camera"))


def test_images_are_scaled_when_they_are_looked_at() -> None:
    episode = replace(make_episode(2), observation={"camera": make_images(2), "state": np.zeros((3, 2))})
    made = resized(episode, (4, 4), "stretch")
    frames = lazy(made.observation["camera"])
    assert frames is not None
    assert frames.shape == (3, 4, 4, 3)
    np.testing.assert_allclose(np.asarray(frames)[:, 0, 0, 0], [0, 10, 20], atol=2)
    assert made.observation["state"] is episode.observation["state"]
    assert resized(episode, (8, 16), "stretch").observation["camera"] is episode.observation["camera"]
    image = ArraySpec(shape=(8, 16, 3), dtype="uint8")
    spec = Transforms(image=ImageOptions(size=(4, 4))).spec(make_spec(observation={"camera": image}))
    assert spec.observation["camera"].shape == (4, 4, 3)


def test_a_stride_leaves_images_undecoded() -> None:
    episode = replace(make_episode(4), observation={"camera": make_images(4)})
    frames = lazy(strided(episode, 2, FIRST).observation["camera"])
    assert isinstance(frames, EncodedFrames)
    assert len(frames.encoded) == 3


def test_small_images_are_stored_raw_and_large_ones_as_jpeg() -> None:
    shapes = {"small": (128, 128, 3), "wide": (64, 256, 3), "gray": (480, 640, 1), "depth": (480, 640)}
    observation = {key: ArraySpec(shape=shape, dtype="uint8") for key, shape in shapes.items()}
    spec = make_spec(observation=observation)
    assert choose_tiers(spec, "auto") == {"small": "raw", "wide": "jpeg", "gray": "jpeg"}
    assert choose_tiers(spec, "video") == {"small": "video", "wide": "video", "gray": "video"}


def test_episodes_are_chosen_by_split_length_and_success() -> None:
    train = make_episode(3, metadata={"split": "train"}, success=np.zeros(3, bool))
    masked = make_episode(3, metadata={"filters": ["valid", "20_percent"]})
    assert Transforms(split="train").left_out(train) is None
    assert Transforms(split="valid").left_out(masked) is None
    assert Transforms(split="train").left_out(masked) == "not in split 'train'"
    assert Transforms(minimum_steps=4).episode(make_spec(), train, "e")[1] == "shorter than 4 steps"
    assert Transforms(minimum_steps=3).episode(make_spec(), train, "e")[1] is None
    assert Transforms(minimum_steps=3, stride=2).episode(make_spec(), train, "e")[1] == "shorter than 3 steps"
    assert Transforms(keep="successful").episode(make_spec(), train, "e")[1] == "not successful"
    assert Transforms(keep="successful").episode(make_spec(), masked, "e")[1] == "not successful"


def test_language_replaces_the_recorded_one() -> None:
    episode = make_episode(2, metadata={"language": "old", "source": "demo_1"})
    made, _ = Transforms(language="open the door").episode(make_spec(), episode, "e")
    assert made.metadata == {"language": "open the door", "source": "demo_1"}


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (Transforms(action_from="stat"), r"action_from=stat: did you mean 'state'"),
        (Transforms(action_from="camera"), r"action_from=camera is an image"),
        (Transforms(action_from="state", action_low=[0.0]), "set both or none"),
        (Transforms(action_from="state", action_low=[0.0] * 3, action_high=[1.0] * 3), "has 2 dimensions"),
        (Transforms(success=SuccessLabel(observation="stat", minimum=0.0)), r"success\.observation=stat"),
        (Transforms(success=SuccessLabel(observation="state", index=2, minimum=0.0)), r"success\.index=2"),
        (Transforms(reward=RewardLabel(observation="stat")), r"reward\.observation=stat"),
        (Transforms(reward=RewardLabel(observation="state", index=-1)), r"reward\.index=-1"),
        (Transforms(keep="successful"), "does not say what succeeds"),
        (Transforms(exclude=["depth"]), "exclude: 'depth' matches no observation"),
    ],
)
def test_settings_that_do_not_fit_the_recording_are_refused_before_it_is_read(
    transforms: Transforms, message: str
) -> None:
    observation = {"state": ArraySpec(shape=(2,)), "camera": ArraySpec(shape=(8, 8, 3), dtype="uint8")}
    with pytest.raises(InputError, match=message):
        transforms.spec(make_spec(observation=observation, metadata={"absent": ["success"]}))


def test_whether_an_episode_succeeded_is_told_before_a_step_is_left_out() -> None:
    last = make_episode(5, success=np.arange(5) == 4, has_final_observation=False)
    middle = make_episode(5, success=np.arange(5) == 2)
    assert Transforms(keep="successful", action_from="state").episode(make_spec(), last, "e")[1] is None
    assert Transforms(keep="successful", stride=2).episode(make_spec(), middle, "e")[1] is None
    rule = RewardLabel(last_steps=1)
    unknown = replace(middle, success=None)
    assert Transforms(keep="successful", reward=rule).episode(make_spec(), unknown, "e")[1] is None
