"""Corrupted data: what the formulas say changes, in the transitions that the seed says, and nothing else."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from robot_rl.errors import InputError
from robot_rl.functional.attack import lowest_within
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.corruption import Transitions, Values, corrupt, transition_count, transitions
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Episode

RATE, SCALE, SEED = 0.3, 0.5, 7


def episodes(count: int = 40, steps: int = 25) -> list[Episode]:
    """Every third terminates; of every fifth the final observation is not recorded."""
    generator = np.random.default_rng(0)
    last = np.arange(steps) == steps - 1
    return [
        Episode(
            observation={
                "state": (generator.normal(size=(steps + 1, 3)) * [1, 10, 0.1] + [0, 5, 0]).astype(np.float32),
                "goal": generator.normal(size=(steps + 1, 1)).astype(np.float32),
            },
            action=generator.uniform(-1, 1, (steps, 2)).astype(np.float32),
            reward=generator.normal(size=steps).astype(np.float64),
            terminated=last & (number % 3 == 0),
            truncated=last & (number % 3 != 0),
            has_final_observation=number % 5 != 0,
        )
        for number in range(count)
    ]


def flat(given: Sequence[Episode]) -> Transitions:
    return transitions(given, [transition_count(each) for each in given])


def made(element: str, mode: str = "random", *, seed: int = SEED, rate: float = RATE, attack=None) -> list[Episode]:
    return corrupt(episodes(), element=element, mode=mode, rate=rate, scale=SCALE, seed=seed, attack=attack)[0]


def parts(given: Transitions) -> dict[str, Array]:
    found = {f"observation.{key}": values for key, values in given.observation.items()}
    found |= {f"dynamics.{key}": values for key, values in given.next_observation.items()}
    return found | {"action": given.action, "reward": given.reward}


def chosen(count: int, seed: int = SEED) -> tuple[Array, np.random.Generator]:
    generator = np.random.default_rng(seed)
    return np.flatnonzero(generator.random(count) < RATE), generator


CHANGED = {
    "observation": {"observation.state", "observation.goal"},
    "action": {"action"},
    "reward": {"reward"},
    "dynamics": {"dynamics.state", "dynamics.goal"},
}


@pytest.mark.parametrize("element", list(CHANGED))
def test_only_the_element_changes_and_only_in_the_chosen_transitions(element: str) -> None:
    before, after = flat(episodes()), flat(made(element))
    rows, _ = chosen(len(before.reward))
    assert abs(len(rows) / len(before.reward) - RATE) < 0.05
    for name, values in parts(before).items():
        differs = (values != parts(after)[name]).reshape(len(values), -1).any(axis=1)
        assert set(np.flatnonzero(differs)) == (set(rows) if name in CHANGED[element] else set()), name


@pytest.mark.parametrize("element", ["observation", "dynamics", "action"])
def test_random_noise_is_uniform_within_deviations_of_each_channel(element: str) -> None:
    # x + U(-scale, scale) std(x), the deviation over all transitions
    before, after = flat(episodes()), flat(made(element))
    rows, generator = chosen(len(before.reward))
    for name in sorted(CHANGED[element], key=["observation.state", "dynamics.state", "action"].count, reverse=True):
        values = parts(before)[name]
        noise = generator.uniform(-SCALE, SCALE, values[rows].shape)
        expected = values[rows] + noise * values.astype(np.float64).std(axis=0)
        np.testing.assert_allclose(parts(after)[name][rows], expected, rtol=1e-5, atol=1e-5)
        assert np.abs(noise).max() > 0.95 * SCALE


def test_a_random_reward_has_nothing_of_the_recorded_one() -> None:
    # U(-30 scale, 30 scale)
    before, after = flat(episodes()), flat(made("reward"))
    rows, generator = chosen(len(before.reward))
    np.testing.assert_array_equal(after.reward[rows], generator.uniform(-30 * SCALE, 30 * SCALE, len(rows)))


def test_an_adversarial_reward_is_turned_round() -> None:
    before, after = flat(episodes()), flat(made("reward", "adversarial"))
    rows, _ = chosen(len(before.reward))
    np.testing.assert_allclose(after.reward[rows], -SCALE * before.reward[rows])


@pytest.mark.parametrize("element", ["observation", "action", "dynamics"])
def test_an_attack_gets_the_chosen_rows_and_decides_their_values(element: str) -> None:
    seen: list[tuple[str, Transitions, Values]] = []

    def attack(name: str, given: Transitions, size: Values) -> Values:
        seen.append((name, given, size))
        return {key: np.full((len(given.reward), *values.shape), 9.0) for key, values in size.items()}

    before, after = flat(episodes()), flat(made(element, "adversarial", attack=attack))
    rows, _ = chosen(len(before.reward))
    ((name, given, size),) = seen
    assert name == element
    for key, values in parts(before).items():
        np.testing.assert_array_equal(parts(given)[key], values[rows])
        if key in CHANGED[element]:
            np.testing.assert_allclose(size[key.split(".")[-1]], values.astype(np.float64).std(axis=0))
            assert (parts(after)[key][rows] == 9).all()
    with pytest.raises(ValueError, match="attack"):
        made(element, "adversarial")


@pytest.mark.parametrize("element", list(CHANGED))
def test_a_seed_gives_the_same_corruption_and_another_seed_another(element: str) -> None:
    first, again, other = (parts(flat(made(element, seed=seed))) for seed in (1, 1, 2))
    for name in CHANGED[element]:
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any()


@pytest.mark.parametrize("element", list(CHANGED))
def test_the_given_episodes_stay_as_they_are(element: str) -> None:
    given, untouched = episodes(), episodes()
    corrupt(given, element=element, mode="random", rate=1.0, scale=1.0, seed=0)
    for a, b in zip(given, untouched, strict=True):
        for name in ("action", "reward"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for key in a.observation:
            np.testing.assert_array_equal(a.observation[key], b.observation[key])


def test_actions_and_rewards_leave_episodes_whole() -> None:
    for element in ("action", "reward"):
        assert [len(each) for each in made(element)] == [len(each) for each in episodes()]


@pytest.mark.parametrize("element", ["observation", "dynamics"])
def test_transitions_with_another_observation_on_one_side_become_episodes_of_one_step(element: str) -> None:
    given, found = episodes(), made(element)
    assert len(found) == sum(transition_count(each) for each in given)
    assert all(len(each) == 1 for each in found)
    assert sum(bool(each.terminated[0]) for each in found) == sum(bool(each.terminated[-1]) for each in given)
    assert all(bool(each.truncated[0]) != bool(each.terminated[0]) for each in found)


def test_a_batch_has_the_corrupted_state_beside_the_clean_one_after_it() -> None:
    spec = Spec(
        observation={"state": ArraySpec(shape=(3,)), "goal": ArraySpec(shape=(1,))},
        action=ArraySpec(shape=(2,), low=-np.ones(2), high=np.ones(2)),
    )
    found = made("observation")
    buffer = ReplayBuffer(
        spec,
        capacity=sum(len(each) + 1 for each in found),
        scale=ActionScale.from_spec(spec.action),
        reward=RewardTransform(),
        discount=0.9,
    )
    for each in found:
        buffer.append(each)
    before, after = flat(episodes()), flat(found)
    assert len(buffer) == len(after.reward)
    pairs = {
        (float(a[0]), float(b[0]))
        for a, b in zip(after.observation["goal"], before.next_observation["goal"], strict=True)
    }
    batch = buffer.sample(500, torch.Generator().manual_seed(0))
    sampled = zip(batch.observation["goal"], batch.next_observation["goal"], strict=True)
    assert {(float(a[0]), float(b[0])) for a, b in sampled} <= pairs
    assert sorted(set(batch.discount.tolist())) == [0.0, pytest.approx(0.9)]


def test_images_are_refused() -> None:
    last = np.array([True])
    picture = Episode(
        observation={"camera": np.zeros((2, 4, 4, 3), np.uint8)},
        action=np.zeros((1, 1)),
        reward=np.zeros(1),
        terminated=last,
        truncated=~last,
    )
    with pytest.raises(InputError, match="'camera' is an image"):
        corrupt([picture], element="observation", mode="random", rate=1.0, scale=1.0, seed=0)


# The attack -----------------------------------------------------------------------------------------------------------
def test_a_descent_goes_by_the_sign_and_stops_at_the_bound() -> None:
    # slopes 100 and -0.001: 3 steps of 0.2 down and up from (0, 0.5) are (-0.6, 1), the second cut at the bound
    slope = torch.tensor([[100.0, -0.001]])
    found = lowest_within(
        lambda x: (slope * x).sum(dim=1), torch.tensor([[0.0, 0.5]]), bound=1.0, steps=3, step_size=0.2
    )
    torch.testing.assert_close(found, torch.tensor([[-0.6, 1.0]]))


def test_rows_do_not_influence_one_another_and_a_minimum_inside_is_found() -> None:
    # (x - 0.3)^2 and (x + 2)^2: 0.3 is inside, -2 is not; steps of 0.01 end within one of them
    center = torch.tensor([[0.3], [-2.0]])
    found = lowest_within(
        lambda x: (x - center).square().sum(dim=1), torch.tensor([[0.9], [0.9]]), bound=1.0, steps=200, step_size=0.01
    )
    torch.testing.assert_close(found, torch.tensor([[0.3], [-1.0]]), atol=0.011, rtol=0)


def test_without_steps_nothing_but_the_bound_acts() -> None:
    found = lowest_within(lambda x: x.sum(dim=1), torch.tensor([[2.0, 0.1]]), bound=1.0, steps=0, step_size=0.1)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.1]]))
