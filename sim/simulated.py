"""What a simulator adapter offers beyond the environment contract, so that gaps can be put into it."""

from typing import Any, Protocol

from robot_rl.environment import Environment
from robot_rl.sim.drive import Drive
from robot_rl.types import Array


class Simulated(Environment, Protocol):
    """An environment on MuJoCo whose model, commands and sensors can be reached."""

    @property
    def physics(self) -> tuple[Any, Any]:
        """The `mujoco.MjModel` and `MjData` of now: some simulators build new ones at a reset.

        Raises:
            InputError: the task does not run on MuJoCo.
        """

    @property
    def substeps(self) -> int:
        """Physics steps of one control period."""

    def hold(self) -> Array:
        """The command in force until the first one arrives. Shapes: (A,) or (nu,)."""

    def motors(self) -> Array | None:
        """Motor controls before the first command; None: whatever the first control is. Shapes: (nu,) or (A,)."""

    def attach(self, drive: Drive | None) -> None:
        """Put `drive` between commands and motors until the next `attach`; None: nothing is between."""

    def observe(self) -> dict[str, Array]:
        """The sensors now, also in the middle of a control period; looking changes nothing."""

    def advance(self, action: Array) -> dict[str, Array]:
        """One control period with an action, and the observation behind it, whatever has ended. Shapes: (A,).

        For replays of a log: no reward, no time limit, no success.
        """
