"""Errors that a person can act on."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something that the user gave us is wrong: a file, a key, a setting.

    The message names the place, what was found, what was wanted, and the remedy. The command line prints it without a
    traceback. Bugs of ours raise anything else, and keep their traceback.
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """A sentence for an error message: the closest of `choices` to `name`, then all of them."""
    names = sorted(choices)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"{guess}Choices: {', '.join(names)}" if names else f"{guess}There are no choices."
