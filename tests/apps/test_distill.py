"""`robot-rl distill`: from two runs and a store to a policy that evaluates and serves as a run's does."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from robot_rl.apps import cli, distill, evaluate, train
from robot_rl.apps.compose import compose
from robot_rl.apps.trained import find_trained
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.types import Episode

PENDULUM = ["environment=gymnasium_schema", "environment.id=Pendulum-v1", "environment.maximum_steps=5"]


def trained(folder: Path, algorithm: str, *more: str) -> Path:
    words = [f"algorithm={algorithm}", "algorithm.actor_hidden=[8]", f"output={folder}", *more]
    words += [] if algorithm == "bc" else ["algorithm.critic_hidden=[8]"]
    words += ["evaluation.videos=0", "evaluation.episodes=1", "evaluation.final_episodes=1"]
    words += ["+phases.online={interact:policy,steps:10,batch_size:4}"]
    assert train.run(compose("train", [*PENDULUM, *words])) == 0
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `bc`, `sac` and `consistency`, and the store `random.zarr`."""
    made = tmp_path_factory.mktemp("distill")
    for name in ("bc", "sac"):
        trained(made / name, name)
    trained(made / "consistency", "bc", "algorithm.policy=consistency")
    spec = find_trained(str(made / "bc")).spec
    store = EpisodeStore.create(made / "random.zarr", spec, provenance={})
    random = np.random.default_rng(0)
    for _ in range(30):
        store.append(
            Episode(
                observation={"state": random.normal(size=(6, 3)).astype(np.float32)},
                action=random.uniform(-2, 2, (5, 1)).astype(np.float32),
                reward=random.normal(size=5).astype(np.float32),
                terminated=np.zeros(5, bool),
                truncated=np.arange(5) == 4,
            )
        )
    store.finish()
    return made


def words(folder: Path, output: str, *more: str) -> list[str]:
    return [
        f"run={folder / 'bc'}",
        f"critic={folder / 'sac'}",
        f"data={folder / 'random.zarr'}",
        f"output={folder / output}",
        "candidates=16",
        "drawn=8",
        "batch_size=64",
        *more,
    ]


def test_a_policy_is_taught_what_the_critic_likes_and_opens_as_a_run(folder: Path) -> None:
    command = words(folder, "taught", "steps=150", "threshold=0")
    assert cli.main(["distill", *command]) == 0
    facts = json.loads((folder / "taught" / "distilled.json").read_text())
    assert facts["states"] == 135  # of 150, a tenth is kept apart
    assert facts["value_after"] > facts["value_before"]
    assert 0 < facts["cloned"] <= 1
    taught, before = (find_trained(str(folder / name)) for name in ("taught", "bc"))
    assert taught.state["distilled"]["config"]["threshold"] == 0
    assert taught.config == before.config
    name = next(key for key in before.tensors if key.startswith("agent.actor") and key.endswith("weight"))
    assert not np.allclose(taught.tensors[name], before.tensors[name])
    assert evaluate.run(compose("evaluate", [f"run={folder / 'taught'}", "episodes=1", "videos=0"])) == 0
    with pytest.raises(InputError, match="is already there"):
        distill.run(compose("distill", command))


def test_a_consistency_head_is_tuned_by_the_critic_and_opens_as_a_run(folder: Path) -> None:
    command = words(folder, "tuned", f"run={folder / 'consistency'}", "method=consistency", "steps=150")
    command += ["cloning_weight=1e-4", "value_weight=1", "learning_rate=3e-3"]
    assert cli.main(["distill", *command]) == 0
    facts = json.loads((folder / "tuned" / "distilled.json").read_text())
    assert facts["value_after"] > facts["value_before"]
    tuned, before = (find_trained(str(folder / name)) for name in ("tuned", "consistency"))
    assert tuned.config == before.config
    assert tuned.config.algorithm.policy == "consistency"
    for name, tensor in before.tensors.items():
        if name.startswith("agent.encoder"):
            np.testing.assert_array_equal(tuned.tensors[name], tensor)
    name = next(key for key in before.tensors if key.startswith("agent.actor.out"))
    assert not np.allclose(tuned.tensors[name], before.tensors[name])
    assert evaluate.run(compose("evaluate", [f"run={folder / 'tuned'}", "episodes=1", "videos=0"])) == 0


def test_above_an_unreachable_threshold_the_policy_stays_as_it_was(folder: Path) -> None:
    assert distill.run(compose("distill", words(folder, "same", "steps=3", "threshold=1e6"))) == 0
    same, before = (find_trained(str(folder / name)) for name in ("same", "bc"))
    for name, tensor in before.tensors.items():
        if name.startswith("agent.actor"):
            np.testing.assert_array_equal(same.tensors[name], tensor)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["run=null"], "which policy?"),
        (["critic=null"], "which critic?"),
        (["data=null"], "which store?"),
        (["output=null"], "which new folder?"),
        (["run={folder}/sac"], "only one of behaviour cloning can be taught"),
        (["critic={folder}/bc"], "no target critics"),
        (["data={folder}/nothing.zarr"], "nothing.zarr"),
        (["method=consistency"], "algorithm.policy=consistency"),
    ],
)
def test_what_cannot_be_distilled_is_said(folder: Path, more: list[str], message: str) -> None:
    given = [word.replace("{folder}", str(folder)) for word in more]
    with pytest.raises(InputError, match=re.escape(message)):
        distill.run(compose("distill", words(folder, "none", "steps=1", *given)))


@pytest.mark.parametrize(
    "word",
    ["candidates=1", "drawn=65", "reference=best", "reduction=max", "steps=0", "method=worst", "value_weight=-1"],
)
def test_a_mistyped_setting_is_refused_by_its_key(word: str) -> None:
    with pytest.raises(InputError, match=word.partition("=")[0]):
        compose("distill", [word])
