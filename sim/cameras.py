"""Images of a simulator's cameras as observations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from robot_rl.environment import Environment, drawn_in, tell_experience
from robot_rl.errors import InputError, nearest
from robot_rl.sim.rendering import Renderer
from robot_rl.sim.simulated import Simulated
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep


class CameraEnvironment:
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
        self._inner, self._simulator, self._decorate = inner, simulator, decorate
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
        self._spec = replace(spec, observation=shown)
        self._renderer(self._cameras[0])  # so that a missing camera or renderer is told at once

    @property
    def spec(self) -> Spec:
        """The simulator's, with images. Shapes: (size, size, 3), uint8."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._inner.maximum_steps

    @property
    def drawn(self) -> dict[str, float]:
        """What was drawn for the episode, by field."""
        return drawn_in(self._inner)

    def experienced(self, environment_steps: int) -> None:
        """So many steps of training are done."""
        tell_experience(self._inner, environment_steps)

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

    def render(self) -> Array:
        """The scene now. Shapes: (height, width, 3), uint8."""
        return self._inner.render()

    def close(self) -> None:
        """Free the simulator; calling it twice is allowed."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}
        self._inner.close()
