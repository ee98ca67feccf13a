"""The comparison of arms: which commands it has, what is skipped, and what the table says."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl.algorithms import SACConfig, create
from robot_rl.apps import video_protocol
from robot_rl.apps.benchmark_engine import Job, Outcome, Outcomes
from robot_rl.apps.compose import compose
from robot_rl.apps.run_folder import lock
from robot_rl.apps.video_protocol import Settings, is_done, job_of, main, parse, steps, table
from robot_rl.config import TrainConfig
from robot_rl.errors import InputError
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.networks.vision.observation import PixelsConfig
from robot_rl.networks.vision.weights import save_weights
from robot_rl.seeding import Seeds
from robot_rl.sim.task_id import TaskId
from robot_rl.spec import ArraySpec, Spec
from robot_rl.testing.fakes import OneJointEnvironment
from robot_rl.types import Batch


def test_every_command_composes(tmp_path: Path) -> None:
    kinds: set[tuple[str, ...]] = set()
    for step in steps(parse([f"folder={tmp_path}", "arms=none,icvf", "seeds=0"])):
        verb, *words = step.words
        kind = (verb, *(word.split("=")[0] for word in words))
        if verb == video_protocol.CORPUS or kind in kinds:
            continue
        kinds.add(kind)
        positional = {"train": "experiment", "evaluate": "run", "pretrain-video": "path"}[verb]
        words = [word if "=" in word else f"{positional}={word}" for word in words]
        compose(verb, words)


def test_arms_differ_in_what_their_eyes_begin_with_and_in_nothing_else(tmp_path: Path) -> None:
    found = {step.title: step.words for step in steps(parse([f"folder={tmp_path}", "seeds=3"]))}
    none, icvf = found["Robot learning: none, tuned, seed 3"], found["Robot learning: icvf, tuned, seed 3"]
    (weights,) = [word for word in icvf if word.startswith("algorithm.pixels.encoder.weights=")]
    assert weights.endswith("encoders/icvf_3/encoder.safetensors")
    assert [word for word in icvf if word not in (weights, icvf[-2])][:3] == none[:3]
    assert set(none) - set(icvf) == {next(word for word in none if word.startswith("output="))}
    frozen = found["Robot learning: icvf, frozen, seed 3"]
    assert set(frozen) - set(icvf) >= {"algorithm.pixels.actor=neck", "algorithm.pixels.learns_from=nothing"}


def test_all_eyes_of_a_comparison_have_one_precision(tmp_path: Path) -> None:
    for step in steps(parse([f"folder={tmp_path}", "precision=bfloat16"])):
        told = [word for word in step.words if "precision=" in word]
        assert told == {
            "pretrain-video": ["vision.precision=bfloat16"],
            "train": ["algorithm.pixels.encoder.precision=bfloat16"],
        }.get(step.words[0], [])


def test_the_phases_of_vptr_go_from_many_tasks_to_one() -> None:
    config = compose("train", ["experiment=vptr_lift"])
    assert isinstance(config, TrainConfig)
    assert list(config.phases) == ["multitask", "target"]
    assert sum(config.phases["target"].shares.values()) == pytest.approx(1.0)
    assert config.phases["target"].shares["target"] == pytest.approx(0.1)
    assert "target" not in config.phases["multitask"].shares
    assert (config.replay.discount, config.replay.reward_scale, config.replay.reward_bias) == (0.96, 11.0, -1.0)
    algorithm = config.algorithm
    assert isinstance(algorithm, SACConfig)
    assert (algorithm.conservative_weight, algorithm.conservative_calibrated) == (5.0, True)
    assert (algorithm.conservative_samples, algorithm.max_target_backup, algorithm.target_rate) == (4, 4, 0.01)
    assert algorithm.pixels.actor == "eyes"


WORDS = ["arms=none", "ways=tuned", "seeds=0", "episodes=2", "clips=8"]


def pretending(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, fails: int | None = None, status: str = "failed"
) -> tuple[list[str], dict[str, Any]]:
    """Jobs that leave a result at once; the one of that number does not. What was called, and the last settings."""
    called, given = [], dict[str, Any]()
    by_title = {step.title: step for step in steps(parse([f"folder={folder}", *WORDS]))}

    def engine(jobs: Sequence[Job], workers: int, say: Callable[[str], None]) -> Outcomes:
        given["workers"] = workers
        for job in jobs:
            called.append(job.name)
            if len(called) == fails:
                yield Outcome(job=job, status=status, message="exit status 1")
                continue
            step = by_title[job.name]
            step.result.parent.mkdir(parents=True, exist_ok=True)
            if step.result.suffix == ".zarr":
                step.result.mkdir()
            elif step.words[0] == "evaluate":
                step.result.write_text(json.dumps({"episodes": [{"success": True}, {"success": False}]}))
            else:
                step.result.write_text("")
            yield Outcome(job=job, status="finished")

    monkeypatch.setattr(video_protocol, "in_processes", engine)
    monkeypatch.setattr(video_protocol.video_corpus, "record", lambda settings, console: Path(settings.path))
    monkeypatch.setattr(video_protocol, "read_run", lambda folder: _Finished())
    return called, given


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called, given = pretending(tmp_path, monkeypatch)
    assert main([f"folder={tmp_path}", "workers=2", *WORDS]) == 0
    assert given == {"workers": 2}
    verbs = [step.words[0] for title in called for step in steps(parse(WORDS)) if step.title == title]
    assert verbs == ["evaluate", "evaluate", "evaluate", "train", "evaluate", "evaluate"]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2] == "| none | tuned | seen | 0.50 | 0.09 to 0.91 | 0.50 | 2 |"
    assert lines[3].startswith("| none | tuned | unseen | 0.50")
    assert main([f"folder={tmp_path}", *WORDS]) == 0
    assert len(called) == 6


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("interrupted", 130)])
@pytest.mark.parametrize(("number", "begun"), [(2, 3), (4, 4), (5, 6)])
def test_what_needs_a_step_that_failed_is_not_begun(
    number: int, begun: int, status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, _ = pretending(tmp_path, monkeypatch, fails=number, status=status)
    assert main([f"folder={tmp_path}", *WORDS]) == code
    assert len(called) == begun  # three stores, a training, two evaluations
    assert main([f"folder={tmp_path}", *WORDS]) == 0
    assert len(called) == 7
    assert len(set(called)) == 6  # that which failed was the only one to be done twice


def test_a_seed_is_whole_before_the_next_begins() -> None:
    found = steps(parse(["arms=none,vip", "ways=tuned", "seeds=0,1"]))[4:]
    kinds = [step.words[0] for step in found]
    assert kinds == 2 * ["pretrain-video", "train", "train", *4 * ["evaluate"]]
    assert all("seed 0" in step.title for step in found[:7])


def test_two_cannot_work_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretending(tmp_path, monkeypatch)
    with lock(tmp_path), pytest.raises(InputError, match="another process"):
        main([f"folder={tmp_path}", *WORDS])


class _Finished:
    status = "finished"


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    (training,) = [s for s in steps(parse([f"folder={tmp_path}", *WORDS])) if s.words[0] == "train"]
    assert not is_done(training)
    assert "resume=true" not in job_of(training, tmp_path).words
    training.result.parent.mkdir(parents=True)
    (training.result.parent / "config.yaml").write_text("")
    assert job_of(training, tmp_path).words == (*training.words, "resume=true")
    assert job_of(training, tmp_path).folder == tmp_path / "logs" / "robot_learning_none_tuned_seed_0"


def test_a_table_has_what_there_is(tmp_path: Path) -> None:
    assert table(Settings(folder=str(tmp_path))).count("\n") == 2


def test_arms_are_held_against_each_other_seed_by_seed(tmp_path: Path) -> None:
    rates = {"none": (0.2, 0.4, 0.3), "icvf": (0.5, 0.6, 0.4), "vip": (0.5, 0.6), "mae": (0.9,)}
    for arm, each in rates.items():
        for seed, rate in enumerate(each):
            folder = tmp_path / "evaluations" / f"{arm}_tuned_{seed}_seen"
            folder.mkdir(parents=True)
            episodes = [{"success": number < round(10 * rate)} for number in range(10)]
            (folder / "evaluation.json").write_text(json.dumps({"episodes": episodes}))
    told = table(Settings(folder=str(tmp_path))).splitlines()
    assert told[3] == "| icvf | tuned | seen | 0.50 | 0.33 to 0.67 | 0.50 0.60 0.40 | 30 |"
    differences = [line for line in told if " - " in line]
    assert differences == [
        "| icvf - none | tuned | seen | +0.20 | -0.05 to +0.45 | +0.30 +0.20 +0.10 |",  # 0.2 +- 4.303 * 0.1 / sqrt(3)
        "| vip - none | tuned | seen | +0.25 | -0.39 to +0.89 | +0.30 +0.20 |",  # of one seed there is no interval
        "| icvf - vip | tuned | seen | +0.00 | +0.00 to +0.00 | +0.00 +0.00 |",
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("arms=icv", "did you mean 'icvf'"),
        ("seeds=a", "whole numbers"),
        ("step=1", "key=value"),
        ("precision=half", "bfloat16"),
    ],
)
def test_settings_that_cannot_be_are_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse([word])


# What V-PTR needs of the learner --------------------------------------------------------------------------------------
SPEC = Spec(
    observation={"front_image": ArraySpec(shape=(16, 16, 3), dtype="uint8"), "task": ArraySpec(shape=(2,))},
    action=ArraySpec(shape=(2,), low=-np.ones(2), high=np.ones(2)),
)
VISION = {"channels": [4, 4], "kernels": [3, 3], "strides": [2, 2], "padding": True}


def batch() -> Batch:
    g = torch.Generator().manual_seed(0)

    def observation() -> dict[str, torch.Tensor]:
        images = torch.randint(0, 256, (8, 16, 16, 3), generator=g, dtype=torch.uint8)
        return {"front_image": images, "task": torch.eye(2)[torch.arange(8) % 2]}

    return Batch(
        observation=observation(),
        action=torch.randn(8, 2, generator=g).tanh(),
        reward=torch.randn(8, generator=g),
        discount=torch.full((8,), 0.9),
        next_observation=observation(),
        monte_carlo_return=torch.randn(8, generator=g),
    )


@pytest.mark.parametrize(("way", "learns"), [("eyes", True), ("nothing", False)])
def test_eyes_begin_with_what_video_taught_and_learn_on_unless_they_are_frozen(
    way: str, learns: bool, tmp_path: Path
) -> None:
    taught = ImageEncoder(VisionConfig(**VISION), (16, 16, 3), torch.Generator().manual_seed(7))
    save_weights(taught, tmp_path / "encoder.safetensors")
    encoder = VisionConfig(**VISION, weights=str(tmp_path / "encoder.safetensors"))
    own = {"actor": "eyes"} if way == "eyes" else {"actor": "neck", "learns_from": "nothing"}
    pixels = PixelsConfig(encoder=encoder, width=6, **own)
    config = SACConfig(actor_hidden=[8], critic_hidden=[8], critic_count=2, pixels=pixels, conservative_weight=5.0)
    agent = create(config, SPEC, Seeds(0), torch.device("cpu"), None)
    eyes = [agent.encoder.eyes, *([agent.encoder.actor_eyes] if way == "eyes" else [])]
    for each in eyes:
        assert torch.equal(each.encoders[0].trunk.convolutions[0].weight, taught.trunk.convolutions[0].weight)
    before = {key: value.clone() for key, value in agent.encoder.state_dict().items()}
    agent.update(batch())
    changed = {key for key, value in agent.encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert any("eyes." in key for key in changed) == learns
    assert {"neck.linear.weight", "actor_neck.linear.weight"} <= changed
    if way == "eyes":  # critics and policy drift apart
        one, other = agent.encoder.eyes.state_dict(), agent.encoder.actor_eyes.state_dict()
        assert any(not torch.equal(one[key], other[key]) for key in one)


def test_frozen_eyes_need_a_neck_that_learns() -> None:
    with pytest.raises(InputError, match="needs actor=neck"):
        PixelsConfig(actor="eyes", learns_from="nothing")


def test_a_task_is_told_by_its_number() -> None:
    environment = TaskId(OneJointEnvironment(), 1, 3)
    assert environment.spec.observation["task"].shape == (3,)
    steps_seen = [environment.reset(seed=0), environment.step(np.zeros(environment.spec.action.shape))]
    assert [step.observation["task"].tolist() for step in steps_seen] == [[0.0, 1.0, 0.0]] * 2
    with pytest.raises(InputError, match="task_id"):
        compose("evaluate", ["environment=lift", "environment.task_id=[2,2]"])
