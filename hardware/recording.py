"""Starts and ends the recorder of a run."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from robot_rl.errors import InputError
from robot_rl.hardware import ros
from robot_rl.hardware.bag_writer import FILE, METADATA
from robot_rl.hardware.description import load

ENDING_S = 30.0
SILENT_S, LOOK_S = 10.0, 1.0


class Recording:
    """The recorder's process; it ends when we do."""

    def __init__(
        self,
        robot: str,
        folder: Path,
        environ: Mapping[str, str],
        *,
        domain_id: int,
        profile: Path | None = ros.PROFILE,
    ) -> None:
        """Start it.

        Args:
            robot: name or path of a description.
            folder: of the bag; must not exist.
            environ: environment variables.
            domain_id: of ROS.
            profile: as in `ros.environment`.
        """
        self.folder, self._domain_id = folder, domain_id
        self._joint_states = load(robot).joint_states.topic
        self._bytes, self._looked_s, self._grown_s = 0, 0.0, 0.0  # of the bag, as it was last seen
        self._process: subprocess.Popen[bytes] = ros.start(
            "robot_rl.hardware.recorder_node",
            [robot, "--output", str(folder), "--parent", str(os.getpid())],
            {**environ, "OMP_NUM_THREADS": "1"},
            domain_id=domain_id,
            own_session=True,
            profile=profile,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def problem(self) -> str | None:
        """Why nothing is recorded any more: it ended, or has written nothing for SILENT_S. None: it records."""
        if self.status is not None:
            return f"the recorder died with status {self.status}"
        now = time.monotonic()
        if now - self._looked_s > LOOK_S:
            self._looked_s = now
            size = (self.folder / FILE).stat().st_size
            if size != self._bytes:
                self._bytes, self._grown_s = size, now
        if now - self._grown_s > SILENT_S:
            return f"the recorder has written nothing for {now - self._grown_s:.0f} s"
        return None

    @property
    def status(self) -> int | None:
        """With which it ended; None while it runs."""
        return self._process.poll()

    def wait_until_recording(self, patience_s: float, check: Callable[[], None] = lambda: None) -> None:
        """Until joint states are in the bag.

        Args:
            patience_s: for that; on a busy machine a process takes long to start.
            check: called while waiting; raises where waiting is in vain.

        Raises:
            InputError: they do not come, or it ended; or what `check` raises.
        """
        began = time.monotonic()
        while not (self.folder / METADATA).exists():
            check()
            if self.status is not None:
                raise InputError(f"the recorder ended with status {self.status}: it said why above")
            if time.monotonic() - began > patience_s:
                listens = (self.folder / FILE).exists()
                self.close()
                raise InputError(
                    f"the recorder heard no joint states on {self._joint_states} within {patience_s:g} s: is the robot "
                    f"running, in ROS domain {self._domain_id}?"
                    if listens
                    else f"the recorder has not started within {patience_s:g} s: the machine is busy, or the disk slow"
                )
            time.sleep(0.02)
        self._grown_s = time.monotonic()

    def close(self) -> None:
        """End the bag; twice is allowed."""
        if self.status is None:
            self._process.send_signal(signal.SIGCONT)  # were it stopped, it could not end
            self._process.terminate()
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
