"""The cameras of the simulated arm, drawn in a thread of their own: a slow renderer does not delay the joints."""

import os
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from robot_rl.hardware.mujoco_arm import ArmCamera, Array, MujocoArm


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One camera at one time."""

    camera: str
    stamp_ns: int
    pixels: Array  # (size, size, 3), uint8


class ArmCameras:
    """Ask for pictures, and take them when they are there."""

    def __init__(self, arm: MujocoArm, size: int) -> None:
        """Opens nothing before the first `ask`."""
        self._model, self._size = arm.model, size
        self._asked: SimpleQueue[tuple[str, int, Any] | None] = SimpleQueue()
        self._drawn: SimpleQueue[tuple[str, Picture | Exception]] = SimpleQueue()
        self._waiting: set[str] = set()
        self._thread: Thread | None = None

    def ask(self, camera: str, stamp_ns: int, snapshot: Any) -> bool:
        """Draw what a snapshot of the arm shows; false where this camera is still drawing."""
        if camera in self._waiting:
            return False
        if self._thread is None:
            self._thread = Thread(target=self._run, name="cameras", daemon=True)
            self._thread.start()
        self._waiting.add(camera)
        self._asked.put((camera, stamp_ns, snapshot))
        return True

    def take(self, *, wait: bool) -> list[Picture]:
        """Those that are drawn; with `wait` all that were asked for.

        Raises:
            Exception: what the renderer raised.
        """
        found = []
        while self._waiting:
            try:
                camera, picture = self._drawn.get(block=wait)
            except Empty:
                break
            self._waiting.discard(camera)
            if isinstance(picture, Exception):
                raise picture
            found.append(picture)
        return found

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # drawing takes too long for real time
        cameras: dict[str, ArmCamera] = {}
        while (job := self._asked.get()) is not None:
            camera, stamp_ns, snapshot = job
            try:
                if camera not in cameras:
                    cameras[camera] = ArmCamera(self._model, camera, self._size)
                pixels = cameras[camera].picture(snapshot)
                self._drawn.put((camera, Picture(camera=camera, stamp_ns=stamp_ns, pixels=pixels)))
            except Exception as error:  # noqa: BLE001  # renderers fail in their own ways; `take` raises it
                self._drawn.put((camera, error))
        for opened in cameras.values():
            opened.close()
