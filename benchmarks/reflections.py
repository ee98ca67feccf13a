"""What a faint reflection costs and changes: frames of Lift with that of robosuite's floor and without it.

    MUJOCO_GL=egl OMP_NUM_THREADS=1 python benchmarks/reflections.py [--size 64] [--frames 30]

Processor time of a frame, and how far its pixels are from one another.
"""

import argparse
import time

import mujoco
import numpy as np

from robot_rl.sim.rendering import Renderer
from robot_rl.sim.robosuite_env import COLLISION_GROUP, RobosuiteEnvironment
from robot_rl.types import Array


def measured(renderer: Renderer, reflections: bool, frames: int) -> tuple[float, Array]:
    """Milliseconds of a frame, and the frame."""
    renderer._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = reflections
    frame = renderer.render()
    start = time.process_time()
    for _ in range(frames):
        renderer.render()
    return (time.process_time() - start) / frames * 1e3, frame.astype(np.int64)


def main() -> None:
    """Both cameras of the experiments, with reflections and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=30)
    given = parser.parse_args()
    environment = RobosuiteEnvironment(task="Lift", controller="OSC_POSITION")
    environment.reset(seed=0)
    model, data = environment.physics
    for camera in ("agentview", "robot0_eye_in_hand"):
        renderer = Renderer(model, data, given.size, camera, (COLLISION_GROUP,))
        (with_ms, with_it), (without_ms, without) = (measured(renderer, each, given.frames) for each in (True, False))
        change = np.abs(with_it - without)
        print(f"{camera}: {with_ms:.1f} ms, {without_ms:.1f} without; largest {change.max()}, mean {change.mean():.2f}")
        renderer.close()
    environment.close()


if __name__ == "__main__":
    main()
