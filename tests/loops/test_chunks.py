"""Agents that decide on several steps at once: open loop, forgotten between episodes, resumed like any other."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robot_rl import checkpoint
from robot_rl.algorithms import AlgorithmConfig
from robot_rl.algorithms.cqn import CQNConfig
from robot_rl.algorithms.fql import FQLConfig
from robot_rl.algorithms.sac import SACConfig
from robot_rl.config import PhaseConfig
from robot_rl.errors import InputError
from robot_rl.loops.evaluate import evaluate
from robot_rl.loops.phases import run_phases
from robot_rl.loops.rollout import AgentPolicy, Film, run_episode
from robot_rl.testing.fakes import SPEED_LIMIT_RAD_S, OneJointEnvironment
from robot_rl.transforms.action import ActionScale
from robot_rl.types import Batch, Metrics

CPU = torch.device("cpu")
SMALL = {"actor_hidden": [16], "critic_hidden": [16]}
CONFIGS: dict[str, AlgorithmConfig] = {
    "sac": SACConfig(**SMALL),
    "fql": FQLConfig(**SMALL, flow_steps=2),
}
PHASES = {
    "offline": PhaseConfig(steps=20, batch_size=16, evaluate_every=10),
    "warmup": PhaseConfig(interact="policy", steps=45, updates_per_step=0),
    "online": PhaseConfig(interact="policy", steps=50, updates_per_step=2, batch_size=8, evaluate_at=[5]),
}


class Counter:
    """Decides on 0.01 * [n, n + 1, ...], n the number of the decision; values it by the sum of its actions."""

    def __init__(self, steps: int) -> None:
        self.steps, self.decisions = steps, 0

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        if not explore:  # its mode is another chunk, which nothing counts
            return torch.full((1, self.steps), 0.5)
        self.decisions += 1
        return 0.01 * (self.decisions + torch.arange(self.steps, dtype=torch.float32))[None]

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        return action.sum(1)


def policy_of(agent: Counter) -> AgentPolicy:
    spec = OneJointEnvironment().spec
    scale = ActionScale.from_spec(spec.action)
    return AgentPolicy(agent=agent, spec=spec, scale=scale, device=CPU, explore=True, action_chunk=agent.steps)


def test_a_chunk_is_played_to_its_end_before_the_next_is_decided() -> None:
    policy = policy_of(Counter(3))
    episode = run_episode(OneJointEnvironment(maximum_steps=7), policy, seed=0)
    played = episode.action[:, 0] / SPEED_LIMIT_RAD_S
    np.testing.assert_allclose(played, [0.01, 0.02, 0.03, 0.02, 0.03, 0.04, 0.03], atol=1e-6)


def test_what_is_left_of_a_chunk_is_forgotten_with_the_episode() -> None:
    policy = policy_of(Counter(3))
    for number in (1, 2):
        episode = run_episode(OneJointEnvironment(maximum_steps=2), policy, seed=0)
        np.testing.assert_allclose(
            episode.action[:, 0] / SPEED_LIMIT_RAD_S, [0.01 * number, 0.01 * (number + 1)], atol=1e-6
        )


def test_an_ensemble_plays_the_mean_of_what_the_last_decisions_say_of_a_step() -> None:
    policy = replace(policy_of(Counter(3)), chunk_ensemble=math.log(2))
    for _ in range(2):  # what an episode decided is forgotten with it
        policy.agent.decisions = 0
        episode = run_episode(OneJointEnvironment(maximum_steps=4), policy, seed=0)
        # Decision n says 0.01 (n + age) of a step: of the second 2 and 2; of the third, oldest first, 3, 3 and 3.
        np.testing.assert_allclose(episode.action[:, 0] / SPEED_LIMIT_RAD_S, [0.01, 0.02, 0.03, 0.04], atol=1e-6)

    def decide(observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        policy.agent.decisions += 1
        return 0.1 * torch.full((1, 3), float(policy.agent.decisions))

    policy.agent.decisions, policy.agent.act = 0, decide
    episode = run_episode(OneJointEnvironment(maximum_steps=4), policy, seed=0)
    # Weights 1, 1/2, 1/4, the oldest first: 1; (1 + 2/2) / 1.5; (1 + 2/2 + 3/4) / 1.75; (2 + 3/2 + 4/4) / 1.75.
    expected = [0.1, 0.1 * 2 / 1.5, 0.1 * 2.75 / 1.75, 0.1 * 4.5 / 1.75]
    np.testing.assert_allclose(episode.action[:, 0] / SPEED_LIMIT_RAD_S, expected, atol=1e-6)


def test_a_film_shows_the_value_of_decisions_and_of_the_mode_between_them() -> None:
    filmed, unseen, film = policy_of(Counter(3)), policy_of(Counter(3)), Film()
    environment = OneJointEnvironment(maximum_steps=4)
    episode = run_episode(environment, filmed, seed=0, film=film)
    np.testing.assert_array_equal(episode.action, run_episode(environment, unseen, seed=0).action)
    # Decided: 1 + 2 + 3 and 2 + 3 + 4 hundredths; between them, and at the end, the mode 3 * 0.5.
    np.testing.assert_allclose(film.values, [0.06, 1.5, 1.5, 0.09, 1.5], atol=1e-4)


def test_the_value_at_the_start_is_that_of_the_chunk_that_was_played() -> None:
    # Cut after two of three actions, the last one stands for the rest: 1 + 2 + 2 hundredths.
    for steps, value in ((2, 0.05), (5, 0.06)):
        _, metrics, _ = evaluate(OneJointEnvironment(maximum_steps=steps), policy_of(Counter(3)), [0])
        assert metrics["value_mean"] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("stop_after", [7, 21, 24, 26])
def test_an_interrupted_and_resumed_run_of_chunks_ends_with_the_same_numbers(build, tmp_path, name, stop_after) -> None:
    options = {"config": CONFIGS[name], "action_chunk": 3}
    whole = build(tmp_path / "whole", PHASES, **options)
    assert run_phases(whole)
    assert not run_phases(build(tmp_path / "parts", PHASES, stop_after=stop_after, **options))
    second = build(tmp_path / "parts", PHASES, resume=True, **options)
    assert run_phases(second)
    a, b = checkpoint.pack_agent(whole.agent)[0], checkpoint.pack_agent(second.agent)[0]
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert asdict(whole.progress) == asdict(second.progress)


def test_evaluating_and_filming_leave_a_run_of_chunks_as_it_is(build, tmp_path) -> None:
    often = {name: replace(phase, evaluate_every=5) for name, phase in PHASES.items()}
    one = build(tmp_path / "a", PHASES, action_chunk=3)
    other = build(tmp_path / "b", often, action_chunk=3, videos=1)
    for run in (one, other):
        run_phases(run)
    a, b = checkpoint.pack_agent(one.agent)[0], checkpoint.pack_agent(other.agent)[0]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_episode_begins_with_a_new_decision_online(build, tmp_path: Path) -> None:
    """The episodes of 20 steps leave 2 of 3 actions of the seventh chunk unplayed."""
    run = build(tmp_path, {"online": PhaseConfig(interact="policy", steps=40, updates_per_step=0)}, action_chunk=3)
    decided = []
    agent = run.agent
    act = agent.act

    def watched(observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        decided.append(float(observation["state"][0, 0]))
        return act(observation, explore=explore)

    agent.act = watched
    run.evaluator = None
    run_phases(run)
    state = run.sources["online"].observation["state"]
    rows = [*range(0, 20, 3), *range(21, 41, 3)]  # 20 steps take 21 rows
    assert decided == state[rows, 0].tolist()


def test_batches_say_which_rows_are_of_a_data_set(build, tmp_path) -> None:
    config = CQNConfig(critic_width=8, levels=1, cloning_weight=1.0)
    phase = PhaseConfig(interact="policy", steps=3, batch_size=8, shares={"offline": 0.5, "online": 0.5})
    run = build(tmp_path, {"online": phase}, config=config, action_chunk=3)
    seen = []
    update = run.agent.update

    def watched(batch: Batch, *, critic_updates: int = 1) -> Metrics:
        assert batch.recorded is not None
        seen.append(batch.recorded.tolist())
        return update(batch, critic_updates=critic_updates)

    run.agent.update = watched
    run_phases(run)
    assert seen == [[True] * 4 + [False] * 4] * 3


def test_chunks_that_no_episode_of_the_robot_can_hold_are_refused(build, tmp_path) -> None:
    phase = {"online": PhaseConfig(interact="policy", steps=30, batch_size=8)}
    run = build(tmp_path / "sac", phase, config=CONFIGS["sac"], action_chunk=21)
    run.sources.pop("offline")
    with pytest.raises(InputError, match="has 20 steps at most"):
        run_phases(run)
    assert run_phases(build(tmp_path / "fql", phase, config=CONFIGS["fql"], action_chunk=21))
