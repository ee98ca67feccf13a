"""Starts a simulated robot: the arm, the governor and an operator who permits, each in a process of its own."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import asdict

from robot_rl.errors import InputError
from robot_rl.hardware import ros
from robot_rl.hardware.domains import Domain
from robot_rl.hardware.mujoco_arm import ArmSettings

ENDING_S = 10.0


class SimulatedRobot:
    """The processes behind the topics of a description, in a ROS domain of their own. They end when we do."""

    def __init__(self, robot: str, settings: ArmSettings, environ: Mapping[str, str], *, in_lockstep: bool) -> None:
        """Start them.

        Args:
            robot: name or path of a description.
            settings: of the arm.
            environ: environment variables.
            in_lockstep: its time goes on when it is asked; nobody has to permit then.

        Raises:
            InputError: there is no ROS 2.
        """
        self._domain = Domain()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        mode = ["--parent", str(os.getpid()), *(["--lockstep"] if in_lockstep else [])]
        commands = {
            "mujoco_arm": [robot, "--settings", json.dumps(asdict(settings)), *mode],
            "governor": [robot, *mode],
        }
        if not in_lockstep:
            commands["operator"] = [robot, "--permit", "--parent", str(os.getpid())]
        try:
            for name, arguments in commands.items():
                self._processes[name] = ros.start(
                    f"robot_rl.hardware.{name}_node",
                    arguments,
                    {"MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1", **environ},
                    domain_id=self.domain_id,
                    own_session=True,
                )
        except BaseException:
            self.close()
            raise

    @property
    def domain_id(self) -> int:
        """Of ROS."""
        return self._domain.number

    @property
    def pids(self) -> dict[str, int]:
        """Of the processes, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def check(self) -> None:
        """They are all running.

        Raises:
            InputError: one is not; what it said stands on its standard error.
        """
        for name, process in self._processes.items():
            if (status := process.poll()) is not None:
                raise InputError(f"the process {name}_node of the simulated robot ended with status {status}")

    def close(self) -> None:
        """End them; twice is allowed."""
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)  # were it stopped, it could not end
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        self._domain.close()
