"""A judge of the running robot gives what the labelled store has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bright_task import SIDE, picture

from robot_rl.apps.label import labelled
from robot_rl.errors import InputError
from robot_rl.networks.image_score import empty_scores
from robot_rl.networks.vision.augmentation import AugmentationConfig
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.rewards import preference
from robot_rl.rewards.classifier import ClassifierConfig, SuccessClassifier
from robot_rl.rewards.environment import JudgeConfig, JudgedEnvironment, judged, open_judge
from robot_rl.rewards.judge import save_judge
from robot_rl.rewards.preference import PreferenceConfig, PreferenceReward
from robot_rl.rewards.settings import RewardForm
from robot_rl.spec import ArraySpec, Spec
from robot_rl.testing.contracts import check_environment
from robot_rl.types import Array, Episode, TimeStep

VISION = VisionConfig(channels=[4], kernels=[3], strides=[2], padding=True)


class Lamp:
    """One number moves a lamp between dark and bright; the reward of its own is its place."""

    def __init__(self, side: int = SIDE) -> None:
        bound = np.ones(1)
        self.spec = Spec(
            observation={"front": ArraySpec(shape=(side, side, 3), dtype="uint8")},
            action=ArraySpec(shape=(1,), low=-bound, high=bound, unit="1"),
            control_period_s=0.1,
            action_semantics="lamp_velocity",
        )
        self.maximum_steps = 8
        self._steps = -1

    def _see(self) -> dict[str, Array]:
        return {"front": picture(self._place, np.random.default_rng([self._seed, self._steps]))}

    def reset(self, *, seed: int) -> TimeStep:
        self._seed, self._steps = seed, 0
        self._place = float(np.random.default_rng(seed).uniform(0.0, 0.3))
        return TimeStep(observation=self._see(), success=False)

    def step(self, action: Array) -> TimeStep:
        if not 0 <= self._steps < self.maximum_steps:
            raise RuntimeError("reset first")
        if action.shape != (1,) or not np.isfinite(action).all():
            raise InputError(f"action {action}")
        applied = np.clip(action, -1, 1)
        self._place = float(np.clip(self._place + 0.2 * applied[0], 0, 1))
        self._steps += 1
        return TimeStep(
            observation=self._see(),
            reward=self._place,
            truncated=self._steps == self.maximum_steps,
            success=False,
            action=applied,
        )

    def render(self) -> Array:
        return self._see()["front"]

    def close(self) -> None:
        pass


def brightness_classifier(path: Path, **settings: object) -> SuccessClassifier:
    """One whose logit is wherever its random weights put it; the threshold lies within what it says."""
    config = ClassifierConfig(vision=VISION, image_size=[SIDE, SIDE], hidden=[8], **settings)  # type: ignore[arg-type]
    (network,) = empty_scores(VISION, (SIDE, SIDE, 3), [8], 1)
    with torch.no_grad():
        network.head.layers[-1].weight.mul_(100)  # type: ignore[operator,union-attr]  # a linear layer
    classifier = SuccessClassifier(config=config, network=network, shift=0.0)
    shades = torch.from_numpy(np.stack([picture(p, np.random.default_rng(0)) for p in np.linspace(0, 1, 21)]))
    classifier.threshold = float(np.quantile(classifier.score(shades), 0.6))
    tensors, facts = classifier.pack()
    save_judge(path, tensors, {**facts, "camera": "front", "offset": 0.0, "scale": 1.0})
    return classifier


def drive(environment: JudgedEnvironment, actions: Array) -> list[TimeStep]:
    steps = [environment.reset(seed=3)]
    for action in actions:
        steps.append(environment.step(np.asarray([action])))
        if steps[-1].last:
            break
    return steps


def as_episode(steps: list[TimeStep], recorded: list[float]) -> Episode:
    return Episode(
        observation={"front": np.stack([step.observation["front"] for step in steps])},
        action=np.zeros((len(steps) - 1, 1), np.float32),
        reward=np.asarray(recorded),
        terminated=np.asarray([step.terminated for step in steps[1:]]),
        truncated=np.asarray([step.truncated for step in steps[1:]]),
        success=np.asarray([bool(step.success) for step in steps[1:]]),
    )


@pytest.mark.parametrize("hold", [1, 3])
@pytest.mark.parametrize("form", ["above", "difference", "potential", "kept"])
def test_running_and_recorded_episodes_are_labelled_alike(tmp_path: Path, hold: int, form: str) -> None:
    path = tmp_path / "judge.safetensors"
    classifier = brightness_classifier(path, hold=hold, reward=RewardForm(form=form, values=[-1.0, 0.0], discount=0.9))
    environment = JudgedEnvironment(Lamp(), open_judge(path), terminate=False)
    steps = drive(environment, np.asarray([1, 1, -1, 1, 1, 1, -1, 1.0]))
    plain = Lamp()
    plain.reset(seed=3)
    recorded = [plain.step(np.asarray([a])).reward for a in [1, 1, -1, 1, 1, 1, -1, 1.0]]
    episode = as_episode(steps, recorded)
    score = classifier.score(torch.from_numpy(episode.observation["front"]))
    stored = labelled(
        episode,
        score,
        classifier.config.reward,
        name="x",
        threshold=classifier.threshold,
        hold=hold,
        writes_success=True,
    )
    assert np.allclose([step.reward for step in steps[1:]], stored.reward, atol=1e-6)
    assert stored.success is not None
    assert [step.success for step in steps[1:]] == stored.success.tolist()
    assert stored.success.any()
    assert not stored.success.all()


def test_success_that_is_seen_ends_the_episode(tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    brightness_classifier(path)
    environment = judged(Lamp(), JudgeConfig(path=str(path)))
    assert isinstance(environment, JudgedEnvironment)
    going = drive(JudgedEnvironment(Lamp(), open_judge(path), terminate=False), np.ones(8))
    first = next(index for index, step in enumerate(going) if step.success)
    steps = drive(environment, np.ones(8))
    assert len(steps) == first + 1
    assert steps[-1].terminated
    with pytest.raises(RuntimeError, match="over"):
        environment.step(np.zeros(1))


@pytest.mark.parametrize("kind", ["classifier", "preference"])
def test_it_passes_the_contract_of_environments(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "judge.safetensors"
    if kind == "classifier":
        brightness_classifier(path, success=False)
    else:
        config = PreferenceConfig(
            vision=VISION, image_size=[SIDE, SIDE], hidden=[8], members=2, augmentation=AugmentationConfig(shift=0)
        )
        members = torch.nn.ModuleList(empty_scores(VISION, (SIDE, SIDE, 3), [8], 2))
        tensors, facts = PreferenceReward(config=config, members=members).pack()
        save_judge(path, tensors, {**facts, "camera": "front", "offset": 0.0, "scale": 1.0})
        assert preference.PreferenceReward.unpack(tensors, facts).config == config
    check_environment(lambda: JudgedEnvironment(Lamp(), open_judge(path), terminate=True))


def test_a_judge_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    brightness_classifier(path)
    with pytest.raises(InputError, match=r"images of \(16, 16\), 'front' has \(8, 8\)"):
        JudgedEnvironment(Lamp(side=8), open_judge(path), terminate=True)
    with pytest.raises(InputError, match="there is no judge at"):
        judged(Lamp(), JudgeConfig(path=str(tmp_path / "nowhere")))
    assert isinstance(judged(Lamp(), JudgeConfig()), Lamp)
    (tmp_path / "other.safetensors").write_bytes(b"not one")
    with pytest.raises(InputError, match="is no judge"):
        open_judge(tmp_path / "other.safetensors")
