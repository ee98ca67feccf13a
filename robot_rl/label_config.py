"""Configuration of `robot-rl label`; `robot_rl/config.py` registers it."""

import re
from dataclasses import dataclass
from typing import Any

from robot_rl.checks import require_minimum
from robot_rl.errors import InputError


@dataclass(kw_only=True)
class LabelConfig:
    """`robot-rl label STORE label=KIND`: rewards and success from frames, written into a store."""

    store: str = ""
    label: Any = None
    output: str | None = None  # the new store; None replaces the store itself when the new one is whole
    overwrite: bool = False  # replace an output that is already there
    name: str = "label"  # scores are written as the extra `score/NAME`
    folder: str = "runs/${name}"  # of the judge, its measures, its page, and answers that were bought
    camera: str | None = None  # whose frames are judged; None where there is one only
    write: bool = True  # false: fit, measure and make the page, but leave the store alone
    dry_run: bool = False  # say what would be done, above all how many questions would be asked, and do nothing
    seed: int = 0
    device: str = "cpu"
    threads: int = 1  # torch threads
    shown_episodes: int = 6  # whose scores are drawn on the page

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise InputError(f"name={self.name}: give letters, digits, - and _")
        require_minimum(self.threads, 1, "threads")
        require_minimum(self.shown_episodes, 0, "shown_episodes")
