"""The command line of a run, as a person can paste it again."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def command_line(words: Sequence[str]) -> str:
    """The words behind `robot-rl`, quoted for a shell."""
    return shlex.join(["robot-rl", *words])


def resume_command(words: Sequence[str] | None, folder: Path) -> str:
    """The command line that goes on with a run.

    Args:
        words: those behind `robot-rl` that began it; None where it was begun from Python.
        folder: of the run.
    """
    if words is None:
        return f"the same call with resume=True (its settings are in {folder / 'config.yaml'})"
    return command_line([*(word for word in words if not word.startswith("resume=")), "resume=true"])
