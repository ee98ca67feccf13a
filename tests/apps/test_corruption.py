"""`datasets.NAME.corruption`: a run on corrupted data, its attacker, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.algorithms import RORLConfig, rorl
from robot_rl.apps import train
from robot_rl.apps.compose import compose
from robot_rl.apps.corruption import Attacker
from robot_rl.data_config import CorruptionConfig
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.corruption import Transitions, Values

SMALL = ["algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]", "+phases.offline={steps: 20, batch_size: 8}"]
EDAC = ["algorithm=edac", "algorithm.critic_count=3", *SMALL]
IQL = ["algorithm=iql", "algorithm.value_hidden=[8]", *SMALL]


@pytest.fixture
def store(make_store, tmp_path) -> EpisodeStore:
    return make_store(tmp_path / "made.zarr", episodes=10)


def learn(store: EpisodeStore, folder: Path, *words: str) -> dict:
    """Facts of the data set of a finished run."""
    given = [f"+datasets.offline.path={store.path}", f"output={folder}", *words]
    assert train.run(compose("train", given)) == 0
    return json.loads((folder / "run.json").read_text())["datasets"]["offline"]


def test_a_run_says_what_was_done_to_its_data_and_leaves_the_store_alone(store, tmp_path) -> None:
    before = [path.read_bytes() for path in sorted(store.path.rglob("*")) if path.is_file()]
    facts = learn(
        store, tmp_path / "run", *IQL, "datasets.offline.corruption={element: observation, rate: 0.5, seed: 3}"
    )
    assert facts["corruption"]["element"] == "observation"
    assert facts["corruption"]["seed"] == 3
    assert 0.3 * facts["steps"] < facts["corruption"]["transitions"] < 0.7 * facts["steps"]
    assert [path.read_bytes() for path in sorted(store.path.rglob("*")) if path.is_file()] == before
    assert "corruption" not in learn(store, tmp_path / "clean", *IQL)


def test_the_seed_of_the_run_can_be_that_of_the_corruption(store, tmp_path) -> None:
    words = [*IQL, "seed=5", "datasets.offline.corruption={element: reward, seed: '${seed}'}"]
    assert learn(store, tmp_path / "run", *words)["corruption"]["seed"] == 5


@pytest.mark.parametrize("element", ["observation", "action", "dynamics"])
def test_the_critics_of_a_run_can_attack_the_data_of_another(element: str, store, tmp_path) -> None:
    learn(store, tmp_path / "attacker", *EDAC)
    corruption = f"{{element: {element}, mode: adversarial, attack_steps: 3, attacker: {tmp_path / 'attacker'}}}"
    facts = learn(store, tmp_path / "run", *IQL, f"datasets.offline.corruption={corruption}")
    assert facts["corruption"]["transitions"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["datasets.offline.corruption={element: action, mode: adversarial}"], "train some with algorithm=edac"),
        (
            ["datasets.offline.corruption={element: action, mode: adversarial, attacker: nowhere}"],
            "attacker=nowhere holds no checkpoint",
        ),
        (["datasets.offline.corruption.element=dynamics", "replay.n_step=3"], "replay.n_step=1"),
        (["datasets.offline.corruption.element=dynamics", "datasets.offline.weighting=return"], "weighting=uniform"),
        (["datasets.offline.corruption.element=rewards"], "did you mean 'reward'"),
        (["datasets.offline.corruption.rate=1.5"], "rate=1.5"),
    ],
)
def test_what_cannot_be_is_refused(words, message, store, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        learn(store, tmp_path / "run", *IQL, *words)


def test_an_algorithm_that_needs_whole_episodes_is_refused_single_transitions(store, tmp_path) -> None:
    calibrated = ["algorithm=calql", *SMALL, "datasets.offline.corruption.element=observation"]
    with pytest.raises(InputError, match="monte_carlo_return"):
        learn(store, tmp_path / "run", *calibrated)


def test_critics_of_another_kind_are_refused(store, tmp_path) -> None:
    learn(store, tmp_path / "attacker", *IQL)
    words = f"datasets.offline.corruption={{element: action, mode: adversarial, attacker: {tmp_path / 'attacker'}}}"
    with pytest.raises(InputError, match="a run of IQL"):
        learn(store, tmp_path / "run", *IQL, words)


# The attack -----------------------------------------------------------------------------------------------------------
SPEC = Spec(
    observation={"a": ArraySpec(shape=(2,)), "b": ArraySpec(shape=(1,))},
    action=ArraySpec(shape=(2,), low=np.array([-2.0, 0.0]), high=np.array([2.0, 4.0])),
)


def attacked(element: str, scale: float = 0.05) -> tuple[rorl.RORL, Transitions, Values, Values]:
    agent = rorl.create(
        RORLConfig(actor_hidden=[16], critic_hidden=[16], critic_count=3), SPEC, Seeds(0), torch.device("cpu"), None
    )
    generator = np.random.default_rng(0)

    def state() -> Values:
        return {"a": generator.normal(size=(64, 2)).astype(np.float32), "b": generator.normal(size=(64, 1))}

    given = Transitions(
        observation=state(),
        action=generator.uniform([-2, 0], [2, 4], (64, 2)),
        reward=np.zeros(64),
        next_observation=state(),
    )
    size = (
        {"action": np.array([0.5, 2.0])} if element == "action" else {"a": np.array([1.0, 0.1]), "b": np.array([3.0])}
    )
    config = CorruptionConfig(element=element, mode="adversarial", scale=scale, attack_steps=200)  # across the box
    return agent, given, size, Attacker(agent, config, SPEC)(element, given, size)


def judged(agent: rorl.RORL, element: str, given: Transitions, new: Values) -> np.ndarray:
    """Q, the mean over critics, of what the attack lowers."""
    observation = {"action": given.observation, "observation": new, "dynamics": new}[element]
    tensors = {key: torch.as_tensor(values, dtype=torch.float32) for key, values in observation.items()}
    if element == "dynamics":
        return agent.value(tensors, agent.act(tensors, explore=False)).numpy()
    action = new["action"] if element == "action" else given.action
    scaled = np.stack([action[:, 0] / 2, (action[:, 1] - 2) / 2], 1)
    return agent.value(tensors, torch.as_tensor(scaled, dtype=torch.float32)).numpy()


@pytest.mark.parametrize("element", ["observation", "action", "dynamics"])
def test_the_attack_lowers_the_value_more_than_chance_and_stays_within_its_box(element: str) -> None:
    agent, given, size, found = attacked(element)
    recorded = {"action": {"action": given.action}, "observation": given.observation}.get(
        element, given.next_observation
    )
    for key, values in recorded.items():
        assert (np.abs(found[key] - values) <= 0.05 * size[key] + 1e-5).all()
        assert found[key].dtype == values.dtype
    lowest = judged(agent, element, given, found)
    generator = np.random.default_rng(1)
    for _ in range(50):
        tried = {key: v + size[key] * generator.uniform(-0.05, 0.05, v.shape) for key, v in recorded.items()}
        assert (lowest <= judged(agent, element, given, tried) + 1e-5).mean() > 0.97


def test_an_attack_of_no_size_changes_nothing() -> None:
    _, given, _, found = attacked("action", scale=0.0)
    np.testing.assert_allclose(found["action"], given.action, atol=1e-6)
