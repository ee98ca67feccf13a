"""How a robot differs from its simulator, in numbers: the gaps of `docs/sim-to-real.md`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from robot_rl.checks import short_hash
from robot_rl.errors import InputError, nearest

MODEL_FIELDS = (
    "gravity",
    "mass",
    "center_of_mass_x_m",
    "gear",
    "damping",
    "coulomb",
    "armature",
    "contact_friction",
    "joint_range",
)
"""Gaps of the physical model; all others lie in time, in commands or in sensors."""
QUALIFIERS = ("action_delay_jitter", "observation_delay_jitter", "dropout_steps", "stuck_steps")
"""They say how another gap is; alone they change nothing."""
RANGES: dict[str, tuple[float, float]] = {
    "gravity": (0.0, 100.0),
    "mass": (1e-3, 1e3),
    "center_of_mass_x_m": (-10.0, 10.0),
    "gear": (0.0, 1e3),
    "damping": (0.0, 1e4),
    "coulomb": (0.0, 10.0),
    "armature": (0.0, 1e4),
    "contact_friction": (1e-4, 1e3),
    "joint_range": (1e-3, 1e2),
    "motor_pole": (0.0, 0.999),
    "action_delay_s": (0.0, 10.0),
    "action_delay_jitter": (0.0, 1.0),
    "action_bits": (0, 32),
    "action_noise": (0.0, 100.0),
    "missed_commands": (0.0, 0.999),
    "period_jitter": (0.0, 0.9),
    "observation_delay_s": (0.0, 10.0),
    "observation_delay_jitter": (0.0, 1.0),
    "sensor_noise": (0.0, 100.0),
    "sensor_bias": (0.0, 100.0),
    "sensor_bits": (0, 32),
    "velocity_periods": (0, 100),
    "dropout": (0.0, 1.0),
    "dropout_steps": (1, 10_000),
    "stuck": (0.0, 1.0),
    "stuck_steps": (1, 10_000),
}
WHOLE = ("action_bits", "sensor_bits", "velocity_periods", "dropout_steps", "stuck_steps")


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Every difference at once; a new one is the identity. `GapConfig` says what each number means.

    Raises:
        InputError: a value out of its range.
    """

    gravity: float = 1.0
    mass: float = 1.0
    center_of_mass_x_m: float = 0.0
    gear: float = 1.0
    damping: float = 1.0
    coulomb: float = 0.0
    armature: float = 1.0
    contact_friction: float = 1.0
    joint_range: float = 1.0
    motor_pole: float = 0.0
    action_delay_s: float = 0.0
    action_delay_jitter: float = 0.0
    action_bits: int = 0
    action_noise: float = 0.0
    missed_commands: float = 0.0
    period_jitter: float = 0.0
    observation_delay_s: float = 0.0
    observation_delay_jitter: float = 0.0
    sensor_noise: float = 0.0
    sensor_bias: float = 0.0
    sensor_bits: int = 0
    velocity_periods: int = 0
    dropout: float = 0.0
    dropout_steps: int = 1
    stuck: float = 0.0
    stuck_steps: int = 1

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"environment.gap.{name}={value} must lie in [{low:g}, {high:g}]")
            if name in WHOLE and value != int(value):
                raise InputError(f"environment.gap.{name}={value} must be a whole number")

    def differing(self) -> dict[str, float]:
        """The fields that differ from the simulator, with their values."""
        return {name: value for name, value in asdict(self).items() if value != getattr(NOMINAL, name)}

    @property
    def is_identity(self) -> bool:
        """Nothing differs: the robot is the simulator."""
        return not set(self.differing()) - set(QUALIFIERS)

    @property
    def senses(self) -> bool:
        """Sensors need the deviation of each channel."""
        return self.sensor_noise > 0 or self.sensor_bias > 0 or self.sensor_bits > 0

    def with_only(self, names: Iterable[str]) -> "Gap":
        """The same without all other differences."""
        return NOMINAL.with_values({name: getattr(self, name) for name in names})

    def with_values(self, values: Mapping[str, float]) -> "Gap":
        """The same with some values replaced.

        Raises:
            InputError: an unknown name, with the nearest one, or a value out of range.
        """
        for name in values:
            require_field(name, "environment.gap")
        typed: dict[str, Any] = {name: whole(value) if name in WHOLE else value for name, value in values.items()}
        return replace(self, **typed)

    @property
    def hash(self) -> str:
        """SHA-256 of the values, 12 digits."""
        return short_hash(self.differing())


NOMINAL = Gap()
"""The simulator itself."""


def require_field(name: str, place: str) -> None:
    """Refuse a name that is no gap.

    Raises:
        InputError: with the nearest one.
    """
    names = [entry.name for entry in fields(Gap)]
    if name not in names:
        raise InputError(f"{place} has no '{name}': {nearest(name, names)}")


def whole(value: float) -> float:
    """A whole number as one; any other is left for the check of the field."""
    return int(value) if value == int(value) else value
