"""What is not a number is refused where it comes in, by its episode, step and channel; and found where it did harm."""

import math
from dataclasses import replace

import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.suspects import suspect
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Episode, TimeStep

SPEC = Spec(
    observation={"joints": ArraySpec(shape=(2,))},
    action=ArraySpec(shape=(2,), low=np.full(2, -2.0), high=np.full(2, 2.0)),
)


def make(capacity: int = 100) -> ReplayBuffer:
    scale = ActionScale.from_spec(SPEC.action)
    return ReplayBuffer(SPEC, capacity=capacity, scale=scale, reward=RewardTransform(), discount=0.9)


def episode(steps: int = 6, seed: int = 0) -> Episode:
    random = np.random.default_rng(seed)
    last = np.arange(steps) == steps - 1
    return Episode(
        observation={"joints": random.normal(size=(steps + 1, 2))},
        action=random.uniform(-1, 1, (steps, 2)),
        reward=random.normal(size=steps),
        terminated=last,
        truncated=np.zeros(steps, bool),
        metadata={"source": f"demo_{seed}"},
    )


def spoiled(what: str, value: float) -> Episode:
    """An episode with one number that is none, in step 3 (of channel 1)."""
    recorded = episode(seed=7)
    array = recorded.observation["joints"] if what == "joints" else getattr(recorded, what)
    array[(3, 1) if array.ndim == 2 else 3] = value
    return recorded


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("joints", r"episode 2 \(demo_7\): observation 'joints' is \S+ at \[3, 1\] \(1 of 14 numbers"),
        ("action", r"episode 2 \(demo_7\): action is \S+ at \[3, 1\] \(1 of 12 numbers"),
        ("reward", r"episode 2 \(demo_7\): reward is \S+ at \[3\] \(1 of 6 numbers"),
    ],
)
def test_an_episode_with_what_is_no_number_is_refused_by_name(what: str, message: str, value: float) -> None:
    buffer = make()
    for seed in range(2):
        buffer.append(episode(seed=seed))
    with pytest.raises(InputError, match=message):
        buffer.append(spoiled(what, value))
    assert len(buffer) == 12
    buffer.append(episode(seed=3))  # the refused one left nothing behind
    assert len(buffer) == 18


def test_an_observation_that_is_not_used_may_hold_what_it_likes() -> None:
    recorded = episode()
    unused = recorded.observation | {"temperature": np.full(7, math.nan)}
    buffer = make()
    buffer.append(replace(recorded, observation=unused))
    assert len(buffer) == 6


@pytest.mark.parametrize("what", ["joints", "action", "reward"])
def test_a_live_step_with_what_is_no_number_is_refused_by_episode_and_step(what: str) -> None:
    buffer = make()
    buffer.begin({"joints": np.zeros(2)}, name="training episode 4")
    good = TimeStep(observation={"joints": np.zeros(2)}, action=np.zeros(2))
    for _ in range(2):
        buffer.add(good)
    spoil = {
        "joints": {"observation": {"joints": np.array([0.0, math.nan])}},
        "action": {"action": np.array([math.inf, 0.0])},
        "reward": {"reward": math.nan},
    }
    name = {"joints": "observation 'joints'", "action": "the applied action", "reward": "the reward"}
    with pytest.raises(InputError, match=rf"training episode 4, step 2: {name[what]} is (nan|inf).*a sensor failed"):
        buffer.add(replace(good, **spoil[what]))
    assert len(buffer) == 2


def test_a_first_observation_with_what_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match=r"training episode 0, after the reset: observation 'joints' is nan at \[1\]"):
        make().begin({"joints": np.array([0.0, math.nan])}, name="training episode 0")


def filled(count: int = 5) -> ReplayBuffer:
    buffer = make()
    for seed in range(count):
        buffer.append(episode(seed=seed))
    return buffer


def test_in_ordinary_data_nothing_is_suspect() -> None:
    assert suspect({"offline": filled(), "online": make()}) is None


def test_the_number_that_is_far_from_all_others_is_suspect() -> None:
    buffer = filled()
    # rows of an episode of 6 steps: 7. Episode 2, step 4 is row 18
    buffer.observation["joints"][18, 1] = 5e4
    found = suspect({"online": make(), "offline": buffer})
    assert found is not None
    assert found.startswith("observation 'joints', channel 1, of 'offline' is 50000 in its episode 2, step 4, ")
    buffer.reward[7] = -1e9
    assert str(suspect({"offline": buffer})).startswith("reward of 'offline' is -1e+09 in its episode 1, step 0, ")


def test_what_is_no_number_is_suspected_before_all_others() -> None:
    buffer = filled()
    buffer.reward[7] = 1e30
    buffer.action[9, 0] = math.nan
    assert suspect({"offline": buffer}) == "action, channel 0, of 'offline' is nan in its episode 1, step 2"


def test_rewards_that_are_all_too_large_are_suspect() -> None:
    buffer = filled()
    buffer.reward += 1e12
    assert str(suspect({"offline": buffer})).startswith("reward of 'offline' is 1e+12 in its episode")


def test_rows_of_a_full_ring_are_named_by_the_episodes_that_it_still_holds() -> None:
    buffer = make(capacity=20)
    for seed in range(5):
        buffer.append(episode(seed=seed))
    # Of 35 rows the last 20 are held: six of the third episode, seven of the fourth, and the fifth.
    buffer.reward[buffer.held()[-7]] = 1e20
    assert "in its episode 2, step 0" in str(suspect({"online": buffer}))
