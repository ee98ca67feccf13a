"""Reads a YAML file key by key, so that every mistake is answered with the file, the key and what to do."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML ships no types

from robot_rl.errors import InputError, nearest


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]  # chosen at run time
    """Refuses a key that is given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping.

        Raises:
            yaml.MarkedYAMLError: a key occurs twice.
        """
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_yaml(path: Path) -> "Section":
    """The mapping in a file.

    Raises:
        InputError: there is no such file, it is no YAML, or no mapping.
    """
    try:
        data = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {error}") from error
    return Section(data, str(path), "")


class Section:
    """A mapping of the file. Every key has to be asked for; `finish` refuses the ones that nobody asked for."""

    def __init__(self, data: object, file: str, path: str) -> None:
        """`path` is where the mapping is in the file, such as `joints[2]`.

        Raises:
            InputError: it is no mapping of texts.
        """
        self.file, self.path = file, path
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            raise self.error("", f"is {_kind(data)}; write `key: value` lines")
        self._data: dict[str, Any] = data
        self._asked: set[str] = set()

    def error(self, key: str, message: str) -> InputError:
        """An error about a key of this section."""
        place = ".".join(part for part in (self.path, key) if part)
        return InputError(f"{self.file}: {place + ' ' if place else ''}{message}")

    def has(self, key: str) -> bool:
        """The key is there."""
        return key in self._data

    def names(self) -> list[str]:
        """All keys, in the order of the file."""
        return list(self._data)

    def value(self, key: str) -> Any:
        """What stands there.

        Raises:
            InputError: nothing does.
        """
        self._asked.add(key)
        if key not in self._data:
            guess = nearest(key, set(self._data) - self._asked)
            raise self.error(key, f"is missing. There is no default: write it down. {guess}")
        return self._data[key]

    def finish(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            InputError: names one, with the nearest that is known.
        """
        for key in self._data:
            if key not in self._asked:
                raise self.error(key, f"is not known here: {nearest(key, self._asked)}")

    def section(self, key: str) -> "Section":
        """A mapping."""
        return Section(self.value(key), self.file, ".".join(part for part in (self.path, key) if part))

    def sections(self, key: str) -> list["Section"]:
        """A list of mappings, at least one."""
        data = self.value(key)
        if not isinstance(data, list) or not data:
            raise self.error(key, f"is {_kind(data)}; write a list of `- key: value` entries")
        path = ".".join(part for part in (self.path, key) if part)
        return [Section(entry, self.file, f"{path}[{index}]") for index, entry in enumerate(data)]

    def text(self, key: str) -> str:
        """A text that is not empty."""
        data = self.value(key)
        if not isinstance(data, str) or not data.strip():
            raise self.error(key, f"is {_kind(data)}; write a text")
        return data

    def choice(self, key: str, choices: Iterable[str]) -> str:
        """One of `choices`."""
        found = self.text(key)
        if found not in (names := tuple(choices)):
            raise self.error(key, f"is '{found}': {nearest(found, names)}")
        return found

    def number(self, key: str, *, low: float = -math.inf, above: bool = False, high: float = math.inf) -> float:
        """A finite number of at least `low`, or above it, and at most `high`."""
        return self._number(key, self.value(key), low, above, high)

    def whole(self, key: str, *, low: int) -> int:
        """A whole number of at least `low`."""
        data = self.value(key)
        if isinstance(data, bool) or not isinstance(data, int) or data < low:
            raise self.error(key, f"is {_kind(data)}; write a whole number of at least {low}")
        return data

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of `count` finite numbers."""
        data = self.value(key)
        if not isinstance(data, list) or len(data) != count:
            raise self.error(key, f"is {_kind(data)}; write a list of {count} numbers")
        return tuple(self._number(f"{key}[{i}]", x, -math.inf, False, math.inf) for i, x in enumerate(data))

    def interval(self, key: str) -> tuple[float, float]:
        """[low, high] with low <= high."""
        low, high = self.numbers(key, 2)
        if low > high:
            raise self.error(key, f"is [{low:g}, {high:g}]: the first must not lie above the second")
        return low, high

    def _number(self, key: str, data: object, low: float, above: bool, high: float) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise self.error(key, f"is {_kind(data)}; write a number")
        if not math.isfinite(data) or not low <= data <= high or (above and data == low):
            wanted = f"above {low:g}" if above else f"at least {low:g}" if low > -math.inf else "finite"
            if high < math.inf:
                wanted += f" and at most {high:g}"
            raise self.error(key, f"is {data:g}; it must be {wanted}")
        return float(data)


def _kind(data: object) -> str:
    if data is None:
        return "empty"
    return f"{data!r}" if isinstance(data, str | int | float) else f"a {type(data).__name__}"
