"""A judge of `robot-rl label` while a policy acts: rewards and success as in the store that it labelled."""

from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robot_rl.environment import Environment, Wrapper
from robot_rl.errors import InputError, nearest
from robot_rl.rewards.classifier import SuccessClassifier
from robot_rl.rewards.forms import rewards_of
from robot_rl.rewards.judge import load_judge
from robot_rl.rewards.preference import PreferenceReward
from robot_rl.rewards.settings import RewardForm
from robot_rl.rewards.stages import Stages
from robot_rl.rewards.value import GoalValue
from robot_rl.types import Array, TimeStep


@dataclass(kw_only=True)
class JudgeConfig:
    """A judge of what the running robot does; evaluation keeps the environment's own reward and success."""

    path: str | None = None  # judge.safetensors of `robot-rl label`; None: the environment's own reward
    terminate: bool = True  # where a classifier sees success, the episode ends, as with datasets.NAME.cut_at_success


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenJudge:
    """A judge, read, with what its scores become."""

    judge: SuccessClassifier | PreferenceReward | Stages | GoalValue
    path: Path
    camera: str
    image_size: tuple[int, int]
    offset: float
    scale: float
    form: RewardForm
    threshold: float | None = None
    hold: int = 1
    writes_success: bool = False

    def score(self, image: Array) -> np.float32:
        """Of one image, as the store has it. Shapes: (H, W, C), uint8 -> ()."""
        found = self.judge.score(torch.from_numpy(np.ascontiguousarray(image))[None])
        return np.float32((found[0] - self.offset) * self.scale)


def open_judge(path: str | Path) -> OpenJudge:
    """Read what `robot-rl label` wrote.

    Raises:
        InputError: it is not there, or every episode had its own goal.
    """
    file = Path(path).expanduser()
    tensors, facts = load_judge(file)
    plain: dict[str, Any] = {
        "path": file,
        "camera": facts["camera"],
        "offset": facts["offset"],
        "scale": facts["scale"],
    }
    match facts["kind"]:
        case "classifier":
            classifier = SuccessClassifier.unpack(tensors, facts)
            return OpenJudge(
                judge=classifier,
                image_size=_size(classifier.config.image_size),
                form=classifier.config.reward,
                threshold=classifier.threshold,
                hold=classifier.config.hold,
                writes_success=classifier.config.success,
                **plain,
            )
        case "value":
            value = GoalValue.unpack(tensors, facts)
            if value.goal is None:
                raise InputError(
                    f"{file} had another goal in every episode: label with one goal to use it on the robot"
                )
            return OpenJudge(judge=value, image_size=_size(value.image_size), form=value.config.reward, **plain)
        case "stages":
            stages = Stages.unpack(tensors, facts)
            return OpenJudge(
                judge=stages, image_size=_size(stages.config.image_size), form=stages.config.reward, **plain
            )
        case _:
            preference = PreferenceReward.unpack(tensors, facts)
            size = _size(preference.config.image_size)
            return OpenJudge(judge=preference, image_size=size, form=preference.config.reward, **plain)


def _size(size: list[int]) -> tuple[int, int]:
    return size[0], size[1]


class JudgedEnvironment(Wrapper):
    """An environment whose reward is that of a judge of what one camera shows, and its success where one is seen.

    Args:
        inner: closed with this; it observes the camera at the size that the judge knows.
        judge: of its images.
        terminate: an episode ends with the success that is seen.

    Raises:
        InputError: the environment has no such camera, or images of another size.
    """

    def __init__(self, inner: Environment, judge: OpenJudge, *, terminate: bool) -> None:
        super().__init__(inner)
        images = {key: array for key, array in inner.spec.observation.items() if array.is_image}
        if judge.camera not in images:
            raise InputError(
                f"{judge.path} judges images of '{judge.camera}', which the environment does not observe: "
                f"{nearest(judge.camera, images)} See environment.cameras"
            )
        found = images[judge.camera].shape[:2]
        if found != judge.image_size:
            raise InputError(
                f"{judge.path} judges images of {judge.image_size}, '{judge.camera}' has {found}: set "
                "environment.image_size, or label anew with label.image_size"
            )
        self._judge, self._terminate = judge, terminate
        self._scores: deque[np.float32] = deque(maxlen=max(2, judge.hold))
        self._over = True

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode."""
        step = self._inner.reset(seed=seed)
        self._scores.clear()
        self._scores.append(self._judge.score(step.observation[self._judge.camera]))
        self._over = False
        return replace(step, success=False) if self._judge.writes_success else step

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        if self._over:
            raise RuntimeError("the episode is over: call reset first")
        judge, step = self._judge, self._inner.step(action)
        self._scores.append(judge.score(step.observation[judge.camera]))
        success = False
        lowest = np.asarray([0.0, self._scores[-1]])
        if judge.threshold is not None:
            held = list(self._scores)[-judge.hold :]
            lowest[1] = min(held) if len(held) == judge.hold else -np.inf
            success = bool(lowest[1] >= judge.threshold)
        terminated = step.terminated or (success and judge.writes_success and self._terminate)
        scores = lowest if judge.form.form == "above" else np.asarray(list(self._scores)[-2:])
        reward = rewards_of(judge.form, np.asarray([step.reward]), scores, np.asarray([terminated]), judge.threshold)
        self._over = terminated or step.truncated
        return replace(
            step,
            reward=float(reward[0]),
            terminated=terminated,
            success=success if judge.writes_success else step.success,
        )


def judged(environment: Environment, config: JudgeConfig) -> Environment:
    """The environment with the judge that is configured; without one as it is.

    Raises:
        InputError: see `open_judge` and `JudgedEnvironment`.
    """
    if config.path is None:
        return environment
    return JudgedEnvironment(environment, open_judge(config.path), terminate=config.terminate)
