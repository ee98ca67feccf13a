"""What a run writes down while it goes: JSON lines and TensorBoard, always both."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from robot_rl.errors import InputError


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
    owed_updates: int = 0  # that a learner in a process of its own is behind with
    elapsed_s: float = 0.0  # of work that counted: time lost to a crash is not in it
    last_success: float | None = None  # success rate of the last evaluation; None where success is not told

    @property
    def work(self) -> int:
        """Environment steps and updates together: it grows in every phase, so all curves can share it as their axis."""
        return self.environment_steps + self.updates


class Recorder:
    """Appends events to `metrics.jsonl` and to TensorBoard event files.

    TensorBoard's axis is `Progress.work`, the same for every curve; `progress/updates` and `progress/environment_steps`
    tell what it stands for.

    Args:
        folder: the run's.
        resume_at: size in bytes of `metrics.jsonl` when the checkpoint was written; what follows it is dropped,
            because the resumed run writes it again. None starts anew.
        work: `Progress.work` at that moment; TensorBoard drops what lies behind it.

    Raises:
        InputError: the disk is full, or `metrics.jsonl` has lost lines that the checkpoint counts on.
    """

    def __init__(self, folder: Path, *, resume_at: int | None = None, work: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        if resume_at is not None:
            found = self.path.stat().st_size if self.path.exists() else 0
            if found < resume_at:
                raise InputError(
                    f"{self.path} has {found} bytes, but had {resume_at} when the checkpoint was written: it was "
                    "deleted or cut. Put it back from a copy, or begin a new run with another output=..."
                )
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            self._file.truncate(resume_at or 0)
            # What was written at the very step of the checkpoint is not written again, so it must stay.
            purge_step = None if resume_at is None else work + 1
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    def event(self, kind: str, progress: Progress, metrics: dict[str, float] | None = None, **details: Any) -> None:
        """One line: what happened, where in the run, with which numbers.

        Raises:
            InputError: the disk is full.
        """
        numbers = metrics or {}
        where = asdict(progress)
        for name in ("phase_begun", "episodes", "evaluations", "owed_updates", "last_success"):
            where.pop(name)
        line = {"event": kind, **where, "metrics": numbers, **details}
        with self._writing():
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            for name, value in numbers.items():
                self._board.add_scalar(f"{kind}/{name}", value, progress.work)
            if numbers:
                self._board.add_scalar("progress/updates", progress.updates, progress.work)
                self._board.add_scalar("progress/environment_steps", progress.environment_steps, progress.work)

    def sync(self) -> int:
        """Flush everything to disk; returns the size of `metrics.jsonl` in bytes, for the checkpoint.

        Raises:
            InputError: the disk is full.
        """
        with self._writing():
            self._board.flush()
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Finish both files.

        Raises:
            InputError: the disk is full.
        """
        with self._writing():
            try:
                self._file.close()
            finally:
                self._board.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write {self.path} or the TensorBoard files beside it: {error}. The checkpoints are unharmed: "
                "free some space, then go on with resume=true"
            ) from error
