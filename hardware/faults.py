"""What can be wrong with a simulated robot, switched on and off while it runs. Pure: it neither waits nor publishes."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from robot_rl.errors import InputError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """None by default. The names are those of the parameters `fault.NAME` of the simulated robot."""

    drop: float = 0.0  # probability that a message is never sent
    late: float = 0.0  # probability that a message is sent `late_s` later
    late_s: float = 0.2
    stuck: tuple[str, ...] = ()
    """Sensors that repeat themselves with new stamps: names of joints, `wrench`, `tool_pose`, names of cameras."""
    dead: tuple[str, ...] = ()  # joints that do not answer to commands
    clock_jump_s: float = 0.0  # added to the stamps from now on
    silent: bool = False  # nothing is sent at all

    def with_values(self, values: Mapping[str, Any], sensors: Sequence[str], joints: Sequence[str]) -> "Faults":
        """The same with some changed.

        Args:
            values: by name; texts of lists may be lists.
            sensors: what may be stuck.
            joints: what may be dead.

        Raises:
            InputError: a name, a kind or a range that does not exist.
        """
        known = {field.name for field in fields(self)}
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise InputError(f"there is no fault '{name}': {nearest(name, known)}")
            if isinstance(getattr(self, name), tuple):
                value = tuple(value)
                for item in value:
                    if item not in (choices := tuple(sensors if name == "stuck" else joints)):
                        raise InputError(f"fault.{name}: {nearest(item, choices)}, not '{item}'")
            elif isinstance(getattr(self, name), bool):
                if not isinstance(value, bool):
                    raise InputError(f"fault.{name}={value!r} must be true or false")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"fault.{name}={value!r} must be a finite number")
            elif name in ("drop", "late") and not 0 <= value <= 1:
                raise InputError(f"fault.{name}={value} is a probability: it must lie in [0, 1]")
            elif name == "late_s" and value < 0:
                raise InputError(f"fault.late_s={value} must be at least 0")
            changes[name] = value
        return replace(self, **changes)


class Outbox:
    """Messages on their way out: each is sent when its time has come, or never."""

    def __init__(self) -> None:
        """Empty."""
        self._waiting: list[tuple[int, int, str, Any]] = []
        self._count = 0

    def put(
        self, topic: str, message: Any, now_ns: int, latency_ns: int, faults: Faults, chance: np.random.Generator
    ) -> None:
        """Take a message that was measured now."""
        dropped, late = chance.random(2)
        if faults.silent or dropped < faults.drop:
            return
        due_ns = now_ns + latency_ns + (round(faults.late_s * 1e9) if late < faults.late else 0)
        self._count += 1  # messages of one time stay in order
        heapq.heappush(self._waiting, (due_ns, self._count, topic, message))

    def take(self, now_ns: int) -> list[tuple[str, Any]]:
        """Those whose time has come."""
        found = []
        while self._waiting and self._waiting[0][0] <= now_ns:
            _, _, topic, message = heapq.heappop(self._waiting)
            found.append((topic, message))
        return found

    def clear(self) -> None:
        """Forget what is on its way."""
        self._waiting.clear()
