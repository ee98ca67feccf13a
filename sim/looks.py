"""How a scene looks, drawn anew for each episode: where the camera is, colours, lights, and things that lie about.

Nothing that moves the robot changes: colours, lights and cameras of the model are set, and distractors are shapes that
are drawn into the picture only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np

from robot_rl.environment import Environment, Wrapper
from robot_rl.seeding import Seeds
from robot_rl.sim.simulated import Simulated
from robot_rl.sim_config import LooksConfig
from robot_rl.types import Array, TimeStep

ROBOT_WORDS = ("robot", "gripper", "mount", "base", "finger", "hand", "pedestal")
"""A body with one of these in its name, or in that of a body it hangs on, belongs to the robot."""
CHANGED = ("geom_rgba", "geom_matid", "light_diffuse", "light_pos", "cam_pos", "cam_fovy")
"""Of the model, all of them for drawing only."""


class LookEnvironment(Wrapper):
    """An environment whose look is drawn at every reset, from the seed of the episode.

    Put what renders outside of it. `decorate` draws the distractors into a scene of MuJoCo.

    Args:
        inner: closed with this.
        simulator: the MuJoCo simulator at the bottom of `inner`.
        looks: how much changes.
        middle: of the scene, in metres, about which distractors lie.
        hidden_geometry_groups: that are not drawn, and so have no look.
    """

    def __init__(
        self,
        inner: Environment,
        simulator: Simulated,
        looks: LooksConfig,
        *,
        middle: Sequence[float] = (0.0, 0.0, 0.8),
        hidden_geometry_groups: tuple[int, ...] = (),
    ) -> None:
        super().__init__(inner)
        self._simulator, self._looks = simulator, looks
        self._middle = np.asarray(middle, np.float64)
        self._hidden = hidden_geometry_groups
        self._model: Any = None
        self._plain: dict[str, Array] = {}
        self._colours = np.zeros((0, 3))  # of each geometry as it is
        self._shapes: list[tuple[int, Array, Array, Array]] = []  # type, size, place, colour of each distractor

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode with a look of its own."""
        step = self._inner.reset(seed=seed)
        self._dress(Seeds(seed).numpy("looks", self._looks.family))
        return step

    def close(self) -> None:
        """Free the simulator, with the look it had; calling it twice is allowed."""
        self._undress()
        super().close()

    @property
    def decorate(self) -> Callable[[Any], None]:
        """Draws the distractors of this episode into a scene."""
        return self._decorate

    def _decorate(self, scene: Any) -> None:
        for kind, size, place, colour in self._shapes:
            if scene.ngeom >= scene.maxgeom:
                return
            mujoco.mjv_initGeom(scene.geoms[scene.ngeom], kind, size, place, np.eye(3).flatten(), colour)
            scene.ngeom += 1

    # Looks ------------------------------------------------------------------------------------------------------------

    def _undress(self) -> None:
        for name, values in self._plain.items():
            getattr(self._model, name)[:] = values
        self._plain, self._model = {}, None

    def _dress(self, generator: np.random.Generator) -> None:
        model, _ = self._simulator.physics
        if model is not self._model:  # the first time, or built anew
            self._model = model
            self._plain = {name: getattr(model, name).copy() for name in CHANGED}
            self._colours = colours_of(model)
        for name, values in self._plain.items():
            getattr(model, name)[:] = values
        self._colour(model, generator)
        self._place_camera(model, generator)
        self._light(model, generator)
        count = int(generator.integers(0, self._looks.distractors + 1)) if self._looks.distractors else 0
        self._shapes = [self._shape(generator) for _ in range(count)]

    def _colour(self, model: Any, generator: np.random.Generator) -> None:
        looks, robot = self._looks, robot_bodies(model)
        tint = generator.uniform(0.05, 0.95, 3)  # one for all of the robot
        for geometry in range(model.ngeom):
            colour = generator.uniform(0.05, 0.95, 3)
            plain = generator.random()
            body = int(model.geom_bodyid[geometry])
            if int(model.geom_group[geometry]) in self._hidden:
                continue
            if body in robot:
                amount, wanted = looks.robot, 0.75 * tint + 0.25 * colour
            elif int(model.body_dofnum[body]) > 0:
                amount, wanted = looks.objects, colour
            else:
                amount, wanted = (1.0 if plain < looks.background else 0.0), colour
            if amount > 0:
                set_colour(model, geometry, (1.0 - amount) * self._colours[geometry] + amount * wanted)

    def _place_camera(self, model: Any, generator: np.random.Generator) -> None:
        looks = self._looks
        for camera in range(model.ncam):
            shift, scale = generator.uniform(-1.0, 1.0, 3), generator.uniform(-1.0, 1.0)
            if int(model.cam_bodyid[camera]) != 0:  # it moves with the robot
                continue
            distance = float(np.linalg.norm(model.cam_pos[camera] - self._middle))
            model.cam_pos[camera] += looks.camera_shift * distance * shift
            model.cam_fovy[camera] *= 1.0 + looks.camera_scale * scale

    def _light(self, model: Any, generator: np.random.Generator) -> None:
        for light in range(model.nlight):
            brightness, shift = generator.uniform(-1.0, 1.0), generator.uniform(-1.0, 1.0, 3)
            model.light_diffuse[light] = np.clip(
                model.light_diffuse[light] * (1 + self._looks.lights * brightness), 0, 1
            )
            model.light_pos[light] += self._looks.lights * shift

    def _shape(self, generator: np.random.Generator) -> tuple[int, Array, Array, Array]:
        kinds = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CYLINDER)
        kind = kinds[int(generator.integers(len(kinds)))]
        size = generator.uniform(0.012, 0.035, 3)
        angle, radius = generator.uniform(0, 2 * np.pi), generator.uniform(0.16, 0.34)
        place = self._middle + np.array([radius * np.cos(angle), radius * np.sin(angle), size[2] + 0.005])
        return kind, size, place, np.array([*generator.uniform(0.05, 0.95, 3), 1.0], np.float32)


def robot_bodies(model: Any) -> set[int]:
    """The bodies of robots, by their names and those of what they hang on."""
    found: set[int] = set()
    for body in range(1, model.nbody):  # a parent comes before what hangs on it
        name = str(model.body(body).name).lower()
        if any(word in name for word in ROBOT_WORDS) or int(model.body_parentid[body]) in found:
            found.add(body)
    return found


def colours_of(model: Any) -> Array:
    """The colour that each geometry is drawn in, that of a texture on the average. Shapes: -> (G, 3)."""
    found = np.array(model.geom_rgba[:, :3], np.float64)
    materials = np.asarray(model.geom_matid)
    for material in np.unique(materials[materials >= 0]):
        found[materials == material] = model.mat_rgba[material, :3] * _texture_colour(model, int(material))
    return found


def _texture_colour(model: Any, material: int) -> Array:
    roles = (mujoco.mjtTextureRole.mjTEXROLE_RGB, mujoco.mjtTextureRole.mjTEXROLE_RGBA)
    for texture in (int(model.mat_texid[material, role]) for role in roles):
        if texture >= 0:
            channels, begin = int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
            height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
            rows = model.tex_data[begin : begin + height * width * channels].reshape(height, width * channels)
            # Row by row first: some twenty times faster than pixel by pixel.
            mean = rows.sum(0, dtype=np.int64).reshape(width, channels).mean(0) / (height * 255.0)
            return np.broadcast_to(mean, 3) if channels == 1 else mean[:3]
    return np.ones(3)


def set_colour(model: Any, geometry: int, colour: Array) -> None:
    """Draw a geometry in a plain colour, as opaque as it was. Shapes: (3,)."""
    material = int(model.geom_matid[geometry])
    opaque = model.geom_rgba[geometry, 3] if material < 0 else model.mat_rgba[material, 3]
    model.geom_matid[geometry] = -1
    model.geom_rgba[geometry] = [*colour, opaque]
