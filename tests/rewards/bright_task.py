"""A task that is seen in one picture: the brighter, the further along. Failures stay half dark."""

from pathlib import Path

import numpy as np

from robot_rl.datasets.store import EpisodeStore
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SIDE = 16
DONE = 0.85  # progress from which on a state is a success


def picture(progress: float, generator: np.random.Generator) -> Array:
    """Shapes: -> (SIDE, SIDE, 3), uint8."""
    image = np.full((SIDE, SIDE, 3), 30 + 190 * progress) + generator.normal(size=(SIDE, SIDE, 3)) * 4
    image[: SIDE // 4] = 90  # a wall
    return np.clip(image, 0, 255).astype(np.uint8)


def make_task(
    path: Path,
    *,
    episodes: int = 12,
    steps: int = 10,
    cameras: tuple[str, ...] = ("front",),
    knows_success: bool = True,
    language: bool = True,
    final: bool = True,
) -> EpisodeStore:
    """A store in which every third episode fails."""
    generator = np.random.default_rng(0)
    bound = np.ones(2)
    images = {camera: ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8") for camera in cameras}
    spec = Spec(
        observation={"state": ArraySpec(shape=(2,)), **images},
        action=ArraySpec(shape=(2,), low=-bound, high=bound),
        control_period_s=0.1,
        action_semantics="joint_velocity",
    )
    store = EpisodeStore.create(path, spec, provenance={"source": "made up"})
    for index in range(episodes):
        fails = index % 3 == 2
        progress = np.linspace(0.0, 0.55 if fails else 1.0, steps + 1)
        success = progress[1:] >= DONE
        last = np.arange(steps) == steps - 1
        store.append(
            Episode(
                observation={
                    "state": np.stack([progress, generator.normal(size=steps + 1)], 1).astype(np.float32),
                    **{camera: np.stack([picture(p, generator) for p in progress]) for camera in cameras},
                },
                action=np.clip(generator.normal(size=(steps, 2)), -1, 1).astype(np.float32),
                reward=success.astype(np.float32),
                terminated=last & (not fails),
                truncated=last & fails,
                success=success if knows_success else None,
                has_final_observation=final,
                metadata={"language": f"light the lamp {index % 2}"} if language else {},
            )
        )
    store.finish()
    return store
