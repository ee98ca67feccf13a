"""Where a training run is, on the terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from robot_rl.recorder import Progress as RunProgress


class ConsoleDisplay:
    """A progress bar for the phase, and a line for each evaluation."""

    SHOWN = ("critic/q", "critic/td_loss", "actor/loss")

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self._task: TaskID | None = None
        self._interact = False

    def __enter__(self) -> "ConsoleDisplay":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin_phase(self, name: str, done: int, steps: int, interact: bool) -> None:
        """A phase starts, or goes on after `done` steps."""
        self._interact = interact
        self._task = self._progress.add_task(name, total=steps, completed=done, rate="", numbers="")

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """So many steps of the phase are done; the newest numbers."""
        if self._task is None:
            return
        rate = f"{metrics['updates_per_s']:.0f} updates/s"
        if self._interact:
            rate = f"{metrics['steps_per_s']:.0f} steps/s, {rate}"
        numbers = "  ".join(f"{name} {metrics[name]:.3g}" for name in self.SHOWN if name in metrics)
        self._progress.update(self._task, completed=done, rate=rate, numbers=numbers)

    def evaluating(self, done: int, episodes: int) -> None:
        """So many episodes of an evaluation are done."""
        if self._task is not None:
            self._progress.update(self._task, numbers=f"evaluation: {done} of {episodes} episodes")

    def evaluation(self, progress: RunProgress, metrics: Mapping[str, float]) -> None:
        """One line, with the interval where success is declared."""
        if "success_rate" in metrics:
            interval = f"[{metrics['success_low']:.2f}, {metrics['success_high']:.2f}]"
            score = f"success {metrics['success_rate']:.2f} {interval}, return {metrics['return_mean']:.2f}"
        else:
            score = f"return {metrics['return_mean']:.2f} ± {metrics['return_std']:.2f}"
        place = f"{progress.phase} step {progress.phase_step}"
        self.say(f"{place:>24}  {score.replace('[', chr(92) + '[')}  ({progress.elapsed_s:.0f} s)")
        if self._task is not None:
            self._progress.update(self._task, completed=progress.phase_step, numbers="")

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._progress.console.print(text)
