"""Critics that read instructions: from a store with texts to values under a client's prompt."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl.apps import serve, train
from robot_rl.apps.compose import compose
from robot_rl.apps.language import encoder_of_run
from robot_rl.apps.trained import Trained, find_trained
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.networks.language import HashText
from robot_rl.spec import ArraySpec, Spec
from robot_rl.steering.agents import CriticScorer
from robot_rl.steering.served import describe, read_request
from robot_rl.types import Episode

BOUND = np.ones(1)
SPEC = Spec(
    observation={"place": ArraySpec(shape=(2,))},
    action=ArraySpec(shape=(1,), low=-BOUND, high=BOUND),
    control_period_s=0.1,
    action_semantics="joint_velocity",
)
TEXTS = ("go left", "go right")


def write_store(path: Path, texts: tuple[str | None, ...]) -> Path:
    store, random = EpisodeStore.create(path, SPEC, provenance={}), np.random.default_rng(0)
    for text in texts:
        store.append(
            Episode(
                observation={"place": random.normal(size=(6, 2)).astype(np.float32)},
                action=random.uniform(-1, 1, (5, 1)).astype(np.float32),
                reward=np.full(5, 7.0, np.float32),
                terminated=np.zeros(5, bool),
                truncated=np.arange(5) == 4,
                metadata={} if text is None else {"language": text},
            )
        )
    store.finish()
    return path


def words(store: Path, output: Path, *more: str) -> list[str]:
    given = ["algorithm=iql", "algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]", "algorithm.value_hidden=[8]"]
    given += ["+datasets.offline.path=" + str(store), f"output={output}", "replay.monte_carlo_tail=constant"]
    return [*given, "language.encoder=hash", "language.size=16", "+phases.offline={steps:4,batch_size:8}", *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A critic of two instructions, with V-GPS's labels and wrong instructions."""
    folder = tmp_path_factory.mktemp("language")
    store = write_store(folder / "store.zarr", TEXTS * 6)
    more = ["language.wrong=0.25", "language.labels=demonstrations"]
    assert train.run(compose("train", words(store, folder / "run", *more))) == 0
    return find_trained(str(folder / "run"))


def test_a_run_learns_from_the_vectors_of_its_instructions_and_keeps_which_encoder_made_them(trained: Trained) -> None:
    assert trained.spec.observation["instruction"].shape == (16,)
    assert trained.state["datasets"]["offline"]["language"] == {"instructions": 2, "wrong_episodes": 4}
    assert trained.state["language"]["name"] == "hash(16)"
    assert isinstance(encoder_of_run(trained.config, trained.state, "x"), HashText)


def test_a_critic_whose_encoder_is_another_now_is_refused(trained: Trained) -> None:
    with pytest.raises(InputError, match=r"run x? ?learned|learned with the text encoder"):
        encoder_of_run(trained.config, {**trained.state, "language": {"name": "hash(16)", "fingerprint": "0"}}, "x")


def test_a_value_is_of_what_the_client_asks_for(trained: Trained) -> None:
    encoder = encoder_of_run(trained.config, trained.state, "x")
    scorer = CriticScorer(
        agent=trained.agent("cpu"), observations=trained.spec, chunk=1, device=torch.device("cpu"), language=encoder
    )
    observation = {"place": np.zeros(2, np.float32)}
    actions = np.zeros((3, 1, 1))
    left, right = (scorer.score(scorer.encode(observation, text), actions).values for text in TEXTS)
    assert float((left - right).abs().min()) > 1e-6
    with pytest.raises(InputError, match="send `prompt`"):
        scorer.encode(observation, "")


def test_clients_send_a_prompt_in_place_of_the_vector(trained: Trained) -> None:
    encoder = HashText(size=16)
    keys = {key: key for key in trained.spec.observation}
    said: Any = describe(trained.spec, 1, keys, encoder)["robot_rl"]
    assert set(said["observation"]) == {"place"}
    assert said["prompt"] is True
    message = {"place": np.zeros(2, np.float32), "prompt": "go left"}
    request = read_request(message, trained.spec, keys, encoder)
    np.testing.assert_array_equal(request.observation["instruction"], encoder.encode("go left"))
    with pytest.raises(InputError, match="send `prompt`"):
        read_request({"place": np.zeros(2, np.float32)}, trained.spec, keys, encoder)


SEEN = replace(SPEC, observation={"camera": ArraySpec(shape=(32, 32, 3), dtype="uint8")})


def pictures(path: Path) -> Path:
    """Two tasks of pictures alone, under instructions."""
    store, random = EpisodeStore.create(path, SEEN, provenance={}), np.random.default_rng(0)
    for text in TEXTS * 2:
        store.append(
            Episode(
                observation={"camera": random.integers(0, 256, (4, 32, 32, 3), np.uint8)},
                action=random.uniform(-1, 1, (3, 1)).astype(np.float32),
                reward=np.zeros(3, np.float32),
                terminated=np.zeros(3, bool),
                truncated=np.arange(3) == 2,
                metadata={"language": text},
            )
        )
    store.finish()
    return path


def test_a_resnet_34_that_listens_by_film_is_trained_by_the_command_and_steers(tmp_path: Path) -> None:
    """V-GPS's critic: Cal-QL, its labels, a ResNet-34 with FiLM."""
    more = ["algorithm=calql", "algorithm.critic_hidden=[8]", "algorithm.actor_hidden=[8]"]
    more += ["algorithm.conservative_samples=1", "algorithm.max_target_backup=1", "algorithm.pixels.film=instruction"]
    eyes = "algorithm.pixels.encoder={kind:resnet34,pooling:average,coordinates:true,pixels:signed}"
    more += [eyes, "algorithm.pixels.width=null", "replay.discount=0.98", "replay.monte_carlo_tail=constant"]
    more += ["language.encoder=hash", "language.size=16", "language.wrong=0.25", "language.labels=demonstrations"]
    more += ["+phases.offline={steps:2,batch_size:4}", f"output={tmp_path / 'run'}"]
    more += ["+datasets.offline.path=" + str(pictures(tmp_path / "store.zarr"))]
    assert train.run(compose("train", more)) == 0
    run = find_trained(str(tmp_path / "run"))
    assert run.state["datasets"]["offline"]["language"] == {"instructions": 2, "wrong_episodes": 2}
    agent: Any = run.agent("cpu")
    assert sum(each.numel() for each in agent.encoder.eyes.parameters()) > 20e6
    scorer = CriticScorer(
        agent=agent,
        observations=run.spec,
        chunk=1,
        device=torch.device("cpu"),
        language=encoder_of_run(run.config, run.state, "x"),
    )
    picture = {"camera": np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)}
    eyes_alone = [scorer.encode(picture, text)[:, :512] for text in TEXTS]
    assert not torch.equal(*eyes_alone)  # FiLM began at 0, where no word changes what is seen
    values = [
        scorer.score(features, np.zeros((3, 1, 1))).values for features in map(scorer.encode, [picture] * 2, TEXTS)
    ]
    assert values[0].shape == (2, 3)
    assert not torch.equal(*values)


def test_runs_that_cannot_read_are_refused(tmp_path: Path) -> None:
    silent, alike = write_store(tmp_path / "silent.zarr", (None, None)), write_store(tmp_path / "a.zarr", ("go",) * 3)
    environment = ["environment=gymnasium_schema", "environment.id=Pendulum-v1"]
    for store, more, message in (
        (silent, [], "data set offline, episode 0 has no instruction"),
        (alike, ["language.wrong=0.1"], "at least two instructions"),
        (alike, environment, "environments give none"),
        (alike, ["language.encoder=table"], r"needs language\.path"),
        (alike, ["language.encoder=none", "language.wrong=0.1"], "set the encoder"),
    ):
        with pytest.raises(InputError, match=message):
            train.run(compose("train", words(store, tmp_path / "run", *more)))


def test_a_policy_that_reads_nothing_is_not_steered_by_a_critic_that_does(trained: Trained, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store.zarr", TEXTS)
    plain = ["language.encoder=none", "language.size=16"]
    assert train.run(compose("train", words(store, tmp_path / "plain", *plain))) == 0
    with pytest.raises(InputError, match="no observation 'instruction'"):
        serve.run(compose("serve", [f"run={tmp_path / 'plain'}", f"steer={trained.path}"]))
