"""Configuration of `robot-rl deploy`; `robot_rl/config.py` registers it."""

from dataclasses import dataclass
from typing import Any

from robot_rl.checks import require_minimum, require_range


@dataclass(kw_only=True)
class DeployConfig:
    """`robot-rl deploy RUN`: a policy on a robot, or on a simulator in real time, recorded and timed."""

    run: str | None = None  # a run's folder, one of its checkpoints, or a policy that was exported (.onnx)
    environment: Any = None  # None takes the run's
    episodes: int | None = None  # None: until max_seconds, or until it is stopped
    max_seconds: float | None = None  # then the episode ends after its step
    dry_run: bool = False  # watch and decide, command nothing
    explore: bool = False  # sample from the policy instead of taking its mode
    seed: int = 0  # of the episodes

    # The loop
    asynchronous: bool = False  # decide beside the loop, and play the rest of a chunk meanwhile
    execute: int = 1  # steps of a chunk that are played before the next is asked for, where it is asynchronous
    deadline: float = 0.5
    """Share of the control period for which a decision beside the loop is waited for where there is nothing to play."""
    patience: int = 5  # steps in a row without a good decision in time, after which the episode ends
    priority: int | None = 50  # of the loop's thread among real-time ones (SCHED_FIFO); null: like everybody else

    # What is kept
    record: bool = True  # a bag of everything that the robot, the governor and the policy say
    output: str | None = None  # folder; None: `deployments/TIME` in the run's folder, or here

    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.episodes is not None:
            require_minimum(self.episodes, 1, "episodes")
        if self.max_seconds is not None:
            require_range(self.max_seconds, 0.1, 1e7, "max_seconds")
        require_minimum(self.execute, 1, "execute")
        require_range(self.deadline, 0.0, 1.0, "deadline")
        require_minimum(self.patience, 1, "patience")
        if self.priority is not None:
            require_range(self.priority, 1, 98, "priority")
        require_minimum(self.threads, 1, "threads")
