"""Images of a simulator's cameras as observations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from robot_rl.environment import Environment, Wrapper
from robot_rl.errors import InputError, nearest
from robot_rl.sim.rendering import Renderer
from robot_rl.sim.simulated import Simulated
from robot_rl.spec import ArraySpec
from robot_rl.types import Array, TimeStep


class CameraEnvironment(Wrapper):
    """An environment that also shows what cameras see, as `<camera>_image`.

    Images are of the present, also where a gap delays the other observations.

    Args:
        inner: closed with this.
        simulator: the MuJoCo simulator at the bottom of `inner`.
        cameras: of the model, by name; a whole number is one by its number, -1 the free camera that sees everything.
        size: height and width in pixels.
        numbers: the other observations that stay; None keeps all of them.
        hidden_geometry_groups: see `Renderer`.
        decorate: see `Renderer`.

    Raises:
        InputError: a camera or an observation that is not there, or no off-screen renderer.
    """

    def __init__(
        self,
        inner: Environment,
        simulator: Simulated,
        *,
        cameras: Sequence[str],
        size: int,
        numbers: Sequence[str] | None = None,
        hidden_geometry_groups: tuple[int, ...] = (),
        decorate: Callable[[Any], None] | None = None,
    ) -> None:
        self._simulator, self._decorate = simulator, decorate
        self._cameras, self._size, self._hidden = tuple(cameras), size, hidden_geometry_groups
        self._renderers: dict[str, Renderer] = {}
        spec = inner.spec
        kept = list(spec.observation) if numbers is None else list(numbers)
        for key in kept:
            if key not in spec.observation:
                raise InputError(f"environment.numbers names '{key}': {nearest(key, spec.observation)}")
        self._numbers = tuple(kept)
        shown = {key: spec.observation[key] for key in kept}
        for camera in self._cameras:
            shown[f"{camera}_image"] = ArraySpec(shape=(size, size, 3), dtype="uint8")
        super().__init__(inner, replace(spec, observation=shown))
        self._renderer(self._cameras[0])  # so that a missing camera or renderer is told at once

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode."""
        return self._show(self._inner.reset(seed=seed))

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        return self._show(self._inner.step(action))

    def _show(self, step: TimeStep) -> TimeStep:
        seen: Mapping[str, Array] = {f"{camera}_image": self._renderer(camera).render() for camera in self._cameras}
        return replace(step, observation={**{key: step.observation[key] for key in self._numbers}, **seen})

    def _renderer(self, camera: str) -> Renderer:
        model, data = self._simulator.physics
        found = self._renderers.get(camera)
        if found is not None and (found.model is not model or found.data is not data):  # built anew at a reset
            found.close()
            found = None
        if found is None:
            number = camera.lstrip("-").isdigit()
            place = int(camera) if number else camera
            found = Renderer(model, data, self._size, place, self._hidden, self._decorate)
            self._renderers[camera] = found
        return found

    def close(self) -> None:
        """Free the simulator; calling it twice is allowed."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}
        super().close()
