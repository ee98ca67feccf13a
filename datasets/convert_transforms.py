"""What a conversion does to every episode, whatever its format: pure functions on episodes and on their spec.

They are applied in the order of `Transforms.episode`: labels first, which may need any key and every step; then coarser
steps; then actions from observations, which are then one coarse step apart; then what is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from robot_rl.datasets.frames import as_array, lazy, resize_frames
from robot_rl.datasets.ingest.base import SuccessLabel
from robot_rl.errors import InputError, nearest
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

ABSENT = "absent"  # in the metadata of a spec: what the whole source lacks
ACTION_BOUNDS = "action_bounds"  # in the metadata of a spec: `data` where the bounds are the range of the data
RAW_SIDE = 128  # pixels: larger images are stored as JPEG where nobody says otherwise
ARM_CHANNELS = {"osc_pose": 6, "osc_position": 3}  # differences of an arm in robosuite; its gripper is behind them


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are stored; the fields mirror `ImageConfig`."""

    size: tuple[int, int] | None = None
    fit: str = "stretch"
    tier: str = "auto"
    quality: int = 95


@dataclass(frozen=True, kw_only=True)
class RewardLabel:
    """Rewards in place of the recorded ones; the fields mirror `RewardRule`."""

    last_steps: int | None = None
    observation: str | None = None
    index: int = 0
    values: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """What is done to every episode; the fields mirror `IngestConfig`."""

    split: str | None = None
    keys: Sequence[str] = ()
    exclude: Sequence[str] = ()
    minimum_steps: int = 1
    keep: str = "all"
    language: str | None = None
    stride: int = 1
    action_from: str | None = None
    action_mode: str = "absolute"
    action_low: Sequence[float] | None = None
    action_high: Sequence[float] | None = None
    success: SuccessLabel | None = None
    reward: RewardLabel = field(default_factory=RewardLabel)
    image: ImageOptions = field(default_factory=ImageOptions)

    def spec(self, spec: Spec) -> Spec:
        """The spec of the store.

        Raises:
            InputError: a setting names something that the recording does not have.
        """
        self._check(spec)
        absent = [name for name in spec.metadata.get(ABSENT, ()) if name not in self._gives()]
        metadata = {key: value for key, value in spec.metadata.items() if key != ABSENT}
        spec = replace(spec, metadata=metadata | ({ABSENT: absent} if absent else {}))
        if self.stride > 1:
            spec = strided_spec(spec, self.stride)
        if self.action_from is not None:
            low, high = self.action_low, self.action_high
            spec = spec_with_action_from(spec, self.action_from, self.action_mode, low, high)
        kept = choose_keys(list(spec.observation), self.keys, self.exclude)
        size = self.image.size
        shown = {key: resized_spec(spec.observation[key], size) for key in kept}
        return replace(spec, observation=shown)

    def left_out(self, episode: Episode) -> str | None:
        """Why an episode as recorded is not wanted, before anything is done to it; None where it is."""
        if self.split is not None and self.split not in splits_of(episode):
            return f"not in split '{self.split}'"
        return None

    def episode(self, spec: Spec, episode: Episode, place: str) -> tuple[Episode, str | None]:
        """The episode as it is stored, and why it is left out; None where it is stored.

        Args:
            spec: of the recording.
            episode: as recorded.
            place: the episode, in words, for messages.

        Raises:
            InputError: it cannot be used.
        """
        if self.success is not None and episode.success is None:
            episode = replace(episode, success=self.success(episode.observation, place))
        # As recorded: coarser steps, or one less, may leave out the step that says it.
        succeeded = episode.success is not None and bool(episode.success.any())
        if self.reward.observation is not None:
            episode = with_reward_from(episode, self.reward.observation, self.reward.index, place)
        if self.stride > 1:
            episode = strided(episode, self.stride, summed_channels(spec))
        if self.action_from is not None:
            episode = with_action_from(episode, self.action_from, self.action_mode, place)
        if self.reward.last_steps is not None:
            episode = with_success_at_end(episode, self.reward.last_steps, self.reward.values)
        if len(episode) < self.minimum_steps:
            return episode, f"shorter than {self.minimum_steps} steps"
        if self.keep == "successful" and not succeeded and self.reward.last_steps is None:
            return episode, "not successful"
        episode = with_keys(episode, choose_keys(list(episode.observation), self.keys, self.exclude))
        if self.language is not None:
            episode = replace(episode, metadata=episode.metadata | {"language": self.language})
        return resized(episode, self.image.size, self.image.fit), None

    def _gives(self) -> set[str]:
        """What of `spec.metadata["absent"]` the settings supply."""
        gives = set()
        if self.action_from is not None:
            gives.add("action")
        if self.reward.observation is not None or self.reward.last_steps is not None:
            gives.add("reward")
        if self.success is not None or self.reward.last_steps is not None:
            gives.add("success")
        return gives

    def _check(self, spec: Spec) -> None:
        if self.keep == "successful" and "success" in spec.metadata.get(ABSENT, ()) and "success" not in self._gives():
            raise InputError(
                "keep=successful, but the recording does not say what succeeds: give a rule, such as "
                "success.observation=state success.index=28 success.minimum=1.35, or keep=all"
            )
        success = None if self.success is None else (self.success.observation, self.success.index)
        reward = None if self.reward.observation is None else (self.reward.observation, self.reward.index)
        for name, found in (("success", success), ("reward", reward)):
            if found is None:
                continue
            key, index = found
            if key not in spec.observation:
                raise InputError(f"{name}.observation={key}: {nearest(key, spec.observation)}")
            channels = int(np.prod(spec.observation[key].shape))
            if not 0 <= index < channels:
                raise InputError(f"{name}.index={index}, but '{key}' has {channels} channels")


def choose_tiers(spec: Spec, tier: str) -> dict[str, str]:
    """The tier of each image key of a store.

    Args:
        spec: of the store.
        tier: `auto` takes raw up to 128 x 128 pixels and jpeg above.
    """
    images = {key: array for key, array in spec.observation.items() if array.is_image}
    if tier != "auto":
        return dict.fromkeys(images, tier)
    return {key: "raw" if max(array.shape[:2]) <= RAW_SIDE else "jpeg" for key, array in images.items()}


def choose_keys(keys: list[str], wanted: Sequence[str], excluded: Sequence[str]) -> list[str]:
    """Those of `keys`, in their order, that a pattern of `wanted` matches (all without) and none of `excluded` does.

    Raises:
        InputError: a pattern matches nothing, or nothing is left.
    """
    for name, patterns in (("keys", wanted), ("exclude", excluded)):
        for pattern in patterns:
            if not any(fnmatchcase(key, pattern) for key in keys):
                raise InputError(f"{name}: '{pattern}' matches no observation: {nearest(pattern, keys)}")
    kept = [key for key in keys if not wanted or any(fnmatchcase(key, pattern) for pattern in wanted)]
    kept = [key for key in kept if not any(fnmatchcase(key, pattern) for pattern in excluded)]
    if not kept:
        raise InputError(f"keys and exclude leave no observation of {', '.join(keys)}: keep at least one")
    return kept


def with_keys(episode: Episode, keys: Sequence[str]) -> Episode:
    """The episode with these observations only; the time stamps of the others go with them."""
    gone = {f"timestamp_s/{key}" for key in episode.observation if key not in keys}
    return replace(
        episode,
        observation={key: episode.observation[key] for key in keys},
        extras={key: rows for key, rows in episode.extras.items() if key not in gone},
    )


def splits_of(episode: Episode) -> set[str]:
    """The splits of its source that an episode is in."""
    split, filters = episode.metadata.get("split"), episode.metadata.get("filters", ())
    return ({str(split)} if split is not None else set()) | set(filters)


def strided(episode: Episode, stride: int, summed: Array) -> Episode:
    """Every `stride`-th observation and the last one. The last step is shorter where the lengths do not divide.

    A step stands for up to `stride` recorded ones: their rewards are summed, its ends and success are those of the
    last of them, `intervened` holds where it held in any, and its action is the first, or the sum in channels of
    differences. Extras follow: those with T + 1 rows as observations do, the others as the first action does.

    Args:
        episode: T steps.
        stride: recorded steps in one.
        summed: (A,) bool, the channels of the action that are differences.
    """
    steps = len(episode)
    starts = np.arange(0, steps, stride)
    ends = np.append(starts[1:], steps)  # exclusive
    rows = np.append(starts, steps if episode.has_final_observation else starts[-1])
    action = episode.action[starts].copy()
    if summed.any():
        action[:, summed] = np.add.reduceat(episode.action[:, summed], starts, axis=0)
    return Episode(
        observation={key: array[rows] for key, array in episode.observation.items()},
        action=action,
        reward=np.add.reduceat(episode.reward, starts).astype(episode.reward.dtype, copy=False),
        terminated=episode.terminated[ends - 1],
        truncated=episode.truncated[ends - 1],
        success=None if episode.success is None else episode.success[ends - 1],
        intervened=None if episode.intervened is None else np.logical_or.reduceat(episode.intervened, starts),
        has_final_observation=episode.has_final_observation,
        extras={key: array[rows if len(array) > steps else starts] for key, array in episode.extras.items()},
        metadata=episode.metadata,
    )


def strided_spec(spec: Spec, stride: int) -> Spec:
    """The spec of coarser steps: a longer control period, and wider bounds where actions are summed."""
    summed = summed_channels(spec)
    factor = np.where(summed, float(stride), 1.0)
    action = spec.action
    low = None if action.low is None else np.asarray(action.low) * factor
    high = None if action.high is None else np.asarray(action.high) * factor
    period_s = None if spec.control_period_s is None else spec.control_period_s * stride
    return replace(spec, action=replace(action, low=low, high=high), control_period_s=period_s)


def summed_channels(spec: Spec) -> Array:
    """The channels of the action that are differences, whose sum is the difference over several steps.

    All of them where `action_semantics` ends in `delta`, but for grippers: channels named so, and the ones behind the
    pose of each arm in robosuite's operational space control. Shapes: -> (A,), bool.
    """
    size = int(np.prod(spec.action.shape))
    semantics = spec.action_semantics
    if semantics is None or not semantics.endswith("delta"):
        return np.zeros(size, bool)
    if spec.action.names is not None:
        return np.asarray(["gripper" not in name.lower() for name in spec.action.names])
    arm = ARM_CHANNELS.get(semantics.removesuffix("_delta"))
    if arm is not None and size % (arm + 1) == 0:
        return np.arange(size) % (arm + 1) < arm
    return np.ones(size, bool)


def with_action_from(episode: Episode, key: str, mode: str, place: str) -> Episode:
    """The action of a step is the next value of an observation, or its change.

    A recording without a final observation loses its last step, of which no next value is known; it is then truncated.

    Raises:
        InputError: nothing would be left.
    """
    if not episode.has_final_observation:
        if len(episode) == 1:
            raise InputError(f"{place} has one step and no observation behind it, so action_from finds no action")
        episode = without_last_step(episode)
    rows = np.asarray(episode.observation[key])
    rows = rows.reshape(len(rows), -1)
    rows = rows if np.issubdtype(rows.dtype, np.floating) else rows.astype(np.float32)
    return replace(episode, action=rows[1:] - rows[:-1] if mode == "delta" else rows[1:])


def without_last_step(episode: Episode) -> Episode:
    """The first T - 1 steps; the last row that was observed becomes the final observation, and truncates."""
    steps = len(episode) - 1
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    return replace(
        episode,
        observation={key: array[: steps + 1] for key, array in episode.observation.items()},
        action=episode.action[:steps],
        reward=episode.reward[:steps],
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        success=None if episode.success is None else episode.success[:steps],
        intervened=None if episode.intervened is None else episode.intervened[:steps],
        has_final_observation=True,
        extras={key: array[:-1] for key, array in episode.extras.items()},
    )


def spec_with_action_from(
    spec: Spec, key: str, mode: str, low: Sequence[float] | None, high: Sequence[float] | None
) -> Spec:
    """The spec with an observation as action: its names and unit. Bounds are those given, else found in the data.

    Raises:
        InputError: there is no such observation, it is an image, or the bounds do not fit.
    """
    if key not in spec.observation:
        raise InputError(f"action_from={key}: {nearest(key, spec.observation)}")
    source = spec.observation[key]
    if source.is_image:
        raise InputError(f"action_from={key} is an image: name an observation of numbers")
    if (low is None) != (high is None):
        raise InputError("action_low and action_high go together: set both or none")
    size = int(np.prod(source.shape))
    dtype = source.dtype if np.issubdtype(np.dtype(source.dtype), np.floating) else "float32"
    bounds = [None if numbers is None else _bound(numbers, size) for numbers in (low, high)]
    names = source.names if source.names is not None and len(source.names) == size else None
    action = ArraySpec(
        shape=(size,), dtype=dtype, low=bounds[0], high=bounds[1], names=names, unit=source.unit, frame=source.frame
    )
    metadata = spec.metadata | ({ACTION_BOUNDS: "data"} if low is None else {})
    semantics = f"{key}_{'delta' if mode == 'delta' else 'target'}"
    return replace(spec, action=action, action_semantics=semantics, metadata=metadata)


def with_reward_from(episode: Episode, key: str, index: int, place: str) -> Episode:
    """The reward of a step is a channel of the observation behind it.

    Raises:
        InputError: there is no such key or channel.
    """
    if key not in episode.observation:
        raise InputError(f"{place}: reward.observation={key}: {nearest(key, episode.observation)}")
    rows = np.asarray(episode.observation[key])
    flat = rows.reshape(len(rows), -1)
    if not 0 <= index < flat.shape[1]:
        raise InputError(f"{place}: reward.index={index}, but '{key}' has {flat.shape[1]} channels")
    return replace(episode, reward=flat[1:, index].astype(np.float64))


def with_success_at_end(episode: Episode, last_steps: int, values: Sequence[float]) -> Episode:
    """The last steps of a demonstration succeed and have the second of the two rewards, the others the first."""
    success = np.arange(len(episode)) >= len(episode) - last_steps
    return replace(episode, success=success, reward=np.where(success, values[1], values[0]).astype(np.float64))


def resized(episode: Episode, size: tuple[int, int] | None, fit: str) -> Episode:
    """The episode with images of another size; they are scaled when they are looked at."""
    if size is None:
        return episode
    observation = {
        key: as_array(resize_frames(rows, size, fit)) if _needs_size(rows, size) else rows
        for key, rows in episode.observation.items()
    }
    return replace(episode, observation=observation)


def resized_spec(spec: ArraySpec, size: tuple[int, int] | None) -> ArraySpec:
    """The spec of an observation whose images have another size."""
    return replace(spec, shape=(*size, spec.shape[2])) if size is not None and spec.is_image else spec


def bounds_of_data(minimum: Sequence[float], maximum: Sequence[float]) -> tuple[Array, Array]:
    """Bounds of an action from its range; a channel that never moves gets a thousandth either side. Shapes: (A,)."""
    low, high = np.asarray(minimum, np.float64), np.asarray(maximum, np.float64)
    still = high - low < 1e-9
    return np.where(still, low - 1e-3, low), np.where(still, high + 1e-3, high)


def _needs_size(rows: Any, size: tuple[int, int]) -> bool:
    image = lazy(rows) is not None or (rows.dtype == np.uint8 and rows.ndim == 4 and rows.shape[3] in (1, 3))
    return image and tuple(rows.shape[1:3]) != size


def _bound(numbers: Sequence[float], size: int) -> Array:
    if len(numbers) not in (1, size):
        raise InputError(f"the action has {size} dimensions, but a bound {len(numbers)} numbers: give 1 or {size}")
    return np.broadcast_to(np.asarray(list(numbers), np.float64), (size,)).copy()
