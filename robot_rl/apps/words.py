"""Words key=value of a program that is no verb, into its settings."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from robot_rl.errors import InputError, nearest

Settings = TypeVar("Settings")


def settings_of(kind: type[Settings], words: Sequence[str]) -> Settings:
    """A dataclass of texts, numbers and tuples of texts (a,b,c) from words key=value.

    Raises:
        InputError: an unknown key, or a value of another type.
    """
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in hints:
            choices = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass
            raise InputError(f"'{word}': settings are written key=value. {nearest(name, choices)}")
        try:
            given[name] = tuple(text.split(",")) if hints[name] == tuple[str, ...] else hints[name](text)
        except ValueError as error:
            raise InputError(f"{name}={text} must be {hints[name].__name__}") from error
    return kind(**given)
