"""Frames of a MuJoCo scene without a display.

The simulators choose their OpenGL backend when they are imported, by an environment variable. We create the context
ourselves instead, when the first frame is asked for, so that importing sets nothing and no context exists before.
"""

import atexit
import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import mujoco
import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array

INSTALL = "install one with `apt-get install libegl1 libgl1-mesa-dri` or `apt-get install libosmesa6`"
STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # everything that the scene follows from
SHADOW_PIXELS = 1024
"""Side of the shadow map. MuJoCo's 4096, and its four samples a pixel, take a software renderer up to six times as long
(Franka kitchen: 1.16 s a frame against 0.19 s)."""
FAINT_REFLECTANCE = 0.05
"""Reflections all weaker than this are left out: each draws the scene once more, and that of robosuite's floor, 0.01,
changes a pixel by 12 of 255 at most (Lift; 64 pixels: 22 ms a frame with it, 11 without: `benchmarks/reflections.py`).
"""
MAXIMUM_GEOMETRIES = 10_000  # of a scene


def gl_context(size: int) -> Any:
    """An off-screen OpenGL context: the one that MUJOCO_GL names, else EGL, else OSMesa.

    Raises:
        InputError: none works; says what to install.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    backends = [wanted] if wanted in ("egl", "osmesa") else ["egl", "osmesa"]
    failures = []
    for backend in backends:
        try:
            if backend == "egl":
                from mujoco.egl import GLContext
            else:
                from mujoco.osmesa import GLContext
            context = GLContext(size, size)
            context.make_current()
        except Exception as error:  # noqa: BLE001  # each backend fails in its own way; all are reported
            failures.append(f"{backend}: {type(error).__name__}: {error}")
        else:
            return context
    raise InputError(f"no off-screen renderer works ({'; '.join(failures)}): {INSTALL}")


class Renderer:
    """Square frames of one model and its data.

    Args:
        model: `mujoco.MjModel`.
        data: `mujoco.MjData`. Frames are drawn from a copy with every derived quantity computed anew, so looking never
            changes an episode.
        size: height and width in pixels.
        camera: a camera of the model by name or number, or a free `mujoco.MjvCamera`.
        hidden_geometry_groups: groups that are not drawn, such as collision shapes.
        decorate: puts further shapes into each picture's scene, a `mujoco.MjvScene`.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        size: int,
        camera: Any = -1,
        hidden_geometry_groups: tuple[int, ...] = (),
        decorate: Callable[[Any], None] | None = None,
    ) -> None:
        self.model, self.data, self.size, self._decorate = model, data, size, decorate
        self._copy = mujoco.MjData(model)
        self._state = np.empty(mujoco.mj_stateSize(model, STATE), np.float64)
        self._gl = gl_context(size)
        # The simulators' own exit handlers tear the display down; a context that outlives it crashes the interpreter.
        self._exit = atexit.register(partial(_close, weakref.ref(self)))
        model.vis.global_.offwidth = max(size, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(size, model.vis.global_.offheight)
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = SHADOW_PIXELS
        self._scene = mujoco.MjvScene(model, maxgeom=MAXIMUM_GEOMETRIES)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = _reflects(model)
        self._options = mujoco.MjvOption()
        for group in hidden_geometry_groups:
            self._options.geomgroup[group] = 0
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._camera = camera if isinstance(camera, mujoco.MjvCamera) else self._fixed_camera(camera)

    def _fixed_camera(self, camera: str | int) -> Any:
        """A camera of the model; -1 is the free camera that sees everything."""
        if isinstance(camera, str):
            number = int(mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_CAMERA, camera))
            if number < 0:
                names = [self.model.camera(index).name for index in range(self.model.ncam)]
                raise InputError(f"the model has no camera '{camera}'. Choices: {', '.join(names)}")
        else:
            number = camera
        view = mujoco.MjvCamera()
        if number < 0:
            mujoco.mjv_defaultFreeCamera(self.model, view)
        else:
            view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
        return view

    def render(self) -> Array:
        """The scene now. Shapes: (size, size, 3), uint8."""
        mujoco.mj_getState(self.model, self.data, self._state, STATE)
        mujoco.mj_setState(self.model, self._copy, self._state, STATE)
        mujoco.mj_forward(self.model, self._copy)
        self._gl.make_current()
        mujoco.mjv_updateScene(
            self.model, self._copy, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        if self._decorate is not None:
            self._decorate(self._scene)
        viewport = mujoco.MjrRect(0, 0, self.size, self.size)
        frame = np.empty((self.size, self.size, 3), np.uint8)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(frame, None, viewport, self._context)
        return np.ascontiguousarray(frame[::-1])  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the context; calling it twice is allowed."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
            atexit.unregister(self._exit)


def _reflects(model: Any) -> bool:
    """Whether a reflection would be seen; MuJoCo draws those of planes and boxes."""
    kinds = [int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_BOX)]
    materials = model.geom_matid[np.isin(model.geom_type, kinds) & (model.geom_matid >= 0)]
    return bool(np.any(model.mat_reflectance[materials] >= FAINT_REFLECTANCE))


def _close(reference: "weakref.ref[Renderer]") -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()
