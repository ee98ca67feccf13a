"""What a run writes down while it goes: JSON lines and TensorBoard, always both."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


@dataclass
class Progress:
    """Where a run is. All of it goes into the checkpoint."""

    phase: str = ""
    phase_index: int = 0
    phase_step: int = 0
    phase_begun: bool = False
    environment_steps: int = 0  # over all interactive phases
    updates: int = 0  # critic (or only) gradient updates over all phases
    episodes: int = 0  # training episodes begun
    evaluations: int = 0
    elapsed_s: float = 0.0  # of work that counted: time lost to a crash is not in it


class Recorder:
    """Appends events to `metrics.jsonl` and to TensorBoard event files.

    Args:
        folder: the run's.
        resume_at: size in bytes of `metrics.jsonl` when the checkpoint was written; what follows it is dropped,
            because the resumed run writes it again. None starts anew.
        updates: gradient updates at that moment, from which TensorBoard is purged.
    """

    def __init__(self, folder: Path, *, resume_at: int | None = None, updates: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self._file = self.path.open("ab")
        self._file.truncate(resume_at or 0)
        purge_step = None if resume_at is None else updates
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    def event(self, kind: str, progress: Progress, metrics: dict[str, float] | None = None, **details: Any) -> None:
        """One line: what happened, where in the run, with which numbers."""
        numbers = metrics or {}
        where = asdict(progress)
        for name in ("phase_begun", "episodes", "evaluations"):
            where.pop(name)
        line = {"event": kind, **where, "metrics": numbers, **details}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        step = progress.environment_steps if kind == "episode" else progress.updates
        for name, value in numbers.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> int:
        """Flush everything to disk; returns the size of `metrics.jsonl` in bytes, for the checkpoint."""
        self._board.flush()
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Finish both files."""
        self._file.close()
        self._board.close()
