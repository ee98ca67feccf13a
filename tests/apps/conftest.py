"""Small stores for the tests of what looks at them; helpers beside the tests are importable."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from robot_rl.datasets.store import EpisodeStore
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

sys.path.insert(0, str(Path(__file__).parent))

JOINTS = ("shoulder", "elbow", "<b>wrist</b>")  # the last would be markup if it were not escaped


def _picture(step: int, steps: int, size: tuple[int, int]) -> Array:
    """A ball that moves to the right over a gradient."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    image = np.stack([60 + 100 * y / size[0], 80 + 60 * x / size[1], np.full(size, 90.0)], axis=2).astype(np.uint8)
    image[(x - size[1] * (step + 1) / (steps + 2)) ** 2 + (y - size[0] / 2) ** 2 < (size[0] / 5) ** 2] = (230, 120, 40)
    return image


def _store(
    path: Path,
    *,
    episodes: int = 4,
    steps: int = 12,
    cameras: Sequence[str] = (),
    tier: str = "raw",
    size: tuple[int, int] = (24, 32),
    depth: bool = False,
    actions: int = 2,
    reward: bool = True,
    success: bool = True,
    period_s: float | None = 0.05,
    stamps: bool = False,
    language: Sequence[str] = (),
) -> EpisodeStore:
    """A store of made-up episodes; the even ones succeed, the odd ones are one step shorter."""
    generator = np.random.default_rng(0)
    specs = {"state": ArraySpec(shape=(3,), names=JOINTS, unit="rad")}
    specs |= {camera: ArraySpec(shape=(*size, 3), dtype="uint8") for camera in cameras}
    specs |= {"depth": ArraySpec(shape=size, dtype="uint16")} if depth else {}
    absent = ([] if actions else ["action"]) + ([] if reward else ["reward"])
    spec = Spec(
        observation=specs,
        action=ArraySpec(shape=(actions,), low=np.full(actions, -1.0), high=np.full(actions, 1.0)),
        control_period_s=period_s,
        action_semantics="joint_position_delta",
        metadata={"absent": absent},
    )
    provenance = {
        "source": "made up",
        "format": "none",
        "attributes": {"note": "<script>alert(1)</script>" + "x" * 500},
    }
    store = EpisodeStore.create(path, spec, provenance=provenance, tiers=dict.fromkeys(cameras, tier))
    recorded = []
    for index in range(episodes):
        length = max(1, steps - index % 2)
        good = index % 2 == 0
        arrays: dict[str, Array] = {"state": generator.normal(size=(length + 1, 3)).astype(np.float32)}
        arrays["state"][:, 2] = 0.5
        for camera in cameras:
            arrays[camera] = np.stack([_picture(step, length, size) for step in range(length + 1)])
        if depth:
            arrays["depth"] = np.tile(np.arange(size[1], dtype=np.uint16) * 50, (length + 1, size[0], 1))
        last = np.arange(length) == length - 1
        rewards = (last & good).astype(np.float64) if reward else np.zeros(length)
        recorded.append(
            Episode(
                observation=arrays,
                action=np.clip(generator.normal(size=(length, actions)), -1, 1).astype(np.float32),
                reward=rewards,
                terminated=last & good,
                truncated=last & (not good),
                success=last & good if success else None,
                extras={"timestamp_s": np.arange(length + 1) * 0.05 + generator.uniform(0, 0.01, length + 1)}
                if stamps
                else {},
                metadata={"source": f"demo_{index}"}
                | ({"language": language[index % len(language)]} if language else {}),
            )
        )
    store.extend(recorded)
    store.finish()
    return store


@pytest.fixture
def make_store() -> Callable[..., EpisodeStore]:
    """Makes a store; its arguments are those of `_store`."""
    return _store
