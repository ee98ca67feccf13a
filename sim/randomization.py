"""Domain randomisation: distributions by field, drawn anew for each episode, ranges that grow with experience.

Tobin et al. "Domain Randomization for Transferring Deep Neural Networks from Simulation to the Real World". IROS 2017,
arXiv:1703.06907.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_rl.checks import short_hash
from robot_rl.errors import InputError, nearest
from robot_rl.sim.gap import RANGES, WHOLE, Gap, require_field

PLACE = "environment.randomization.fields"
KINDS = ("uniform", "log_uniform", "normal", "choice")


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Of one field: `uniform` and `log_uniform` [low, high], `normal` [mean, deviation], `choice` of values."""

    kind: str
    numbers: tuple[float, ...]

    def draw(self, nominal: float, level: float, generator: np.random.Generator) -> float:
        """One value; at level 0 it is `nominal`, at level 1 of the whole distribution.

        Ends of ranges, means and deviations move in a straight line between the two (of logarithms for `log_uniform`);
        a `choice` is made with probability `level`.
        """
        unit, normal = float(generator.uniform()), float(generator.standard_normal())
        pick, chance = int(generator.integers(len(self.numbers))), float(generator.uniform())
        match self.kind:
            case "uniform":
                low, high = (nominal + level * (end - nominal) for end in self.numbers)
                return low + unit * (high - low)
            case "log_uniform":
                start = math.log(nominal)
                low, high = (start + level * (math.log(end) - start) for end in self.numbers)
                return math.exp(low + unit * (high - low))
            case "normal":
                mean, deviation = self.numbers
                return nominal + level * (mean - nominal + deviation * normal)
            case _:
                return self.numbers[pick] if chance < level else nominal


@dataclass(frozen=True, kw_only=True)
class Randomization:
    """What is drawn for each episode.

    Args:
        fields: of a `Gap`, each with its distribution.
        curriculum_steps: environment steps over which the ranges grow to all.
        curriculum_start: share of them at the beginning.
    """

    fields: Mapping[str, Distribution]
    curriculum_steps: int = 0
    curriculum_start: float = 0.0

    def level(self, environment_steps: int) -> float:
        """Share of the ranges after so many steps, in [0, 1]."""
        if self.curriculum_steps == 0:
            return 1.0
        done = min(1.0, environment_steps / self.curriculum_steps)
        return self.curriculum_start + (1.0 - self.curriculum_start) * done

    def draw(self, gap: Gap, generator: np.random.Generator, environment_steps: int) -> dict[str, float]:
        """The values of one episode, around those of `gap`; a normal draw outside what a field can be is cut there.

        Adding a field does not change what the others draw.
        """
        level, drawn = self.level(environment_steps), {}
        root = int(generator.integers(2**63))
        for name, distribution in sorted(self.fields.items()):
            own = np.random.default_rng([root, *name.encode()])
            low, high = RANGES[name]
            value = min(max(distribution.draw(getattr(gap, name), level, own), low), high)
            drawn[name] = float(round(value)) if name in WHOLE else value
        return drawn

    def far(self, gap: Gap) -> dict[str, float]:
        """A value of each field that is far from that of `gap`: an end of its range, or a deviation from the mean."""
        values = {}
        for name, entry in self.fields.items():
            numbers = (sum(entry.numbers), entry.numbers[0]) if entry.kind == "normal" else entry.numbers
            nominal, (low, high) = getattr(gap, name), RANGES[name]
            value = min(max(max((abs(number - nominal), number) for number in numbers)[1], low), high)
            values[name] = float(round(value)) if name in WHOLE else value
        return values

    def can_sense(self, gap: Gap) -> bool:
        """Whether a draw can need the deviation of the observation's channels."""
        return gap.senses or any(name.startswith("sensor_") for name in self.fields)

    def to_json(self) -> dict[str, Any]:
        """As the configuration gave it."""
        return {
            "fields": {name: {entry.kind: list(entry.numbers)} for name, entry in sorted(self.fields.items())},
            "curriculum_steps": self.curriculum_steps,
            "curriculum_start": self.curriculum_start,
        }

    @property
    def hash(self) -> str:
        """SHA-256 of `to_json`, 12 digits."""
        return short_hash(self.to_json())


def read_randomization(fields: Mapping[str, Any], curriculum_steps: int, curriculum_start: float) -> Randomization:
    """From the configuration.

    Raises:
        InputError: an unknown field or distribution, numbers that are none, or ranges out of what a field can be.
    """
    read = {}
    for name, given in fields.items():
        require_field(name, PLACE)
        read[name] = read_distribution(name, given)
    return Randomization(fields=read, curriculum_steps=curriculum_steps, curriculum_start=curriculum_start)


def read_distribution(name: str, given: Any) -> Distribution:
    """One entry, such as {uniform: [0.8, 1.2]}.

    Raises:
        InputError: names the field and what is wrong.
    """
    place = f"{PLACE}.{name}"
    if not isinstance(given, Mapping) or len(given) != 1:
        raise InputError(f"{place}={given}: give one distribution, such as {{uniform: [0.8, 1.2]}}")
    kind, numbers = next(iter(given.items()))
    if kind not in KINDS:
        raise InputError(f"{place}: no distribution '{kind}': {nearest(str(kind), KINDS)}")
    listed = isinstance(numbers, list | tuple) and len(numbers) > 0
    if not listed or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise InputError(f"{place}.{kind}={numbers}: give a list of numbers")
    values = tuple(float(number) for number in numbers)
    if kind != "choice" and len(values) != 2:
        raise InputError(f"{place}.{kind}={list(values)}: give two numbers")
    low, high = RANGES[name]
    bounded = values[:1] if kind == "normal" else values
    if any(not low <= value <= high for value in bounded):
        raise InputError(f"{place}.{kind}={list(values)}: values must lie in [{low:g}, {high:g}]")
    if kind in ("uniform", "log_uniform") and values[0] > values[1]:
        raise InputError(f"{place}.{kind}={list(values)}: the lower end comes first")
    if kind == "normal" and values[1] < 0:
        raise InputError(f"{place}.normal={list(values)}: the deviation must not be negative")
    if kind == "log_uniform" and (values[0] <= 0 or getattr(Gap(), name) <= 0):
        raise InputError(f"{place}: log_uniform needs a field that is a factor, and a lower end above 0")
    return Distribution(kind=kind, numbers=values)
