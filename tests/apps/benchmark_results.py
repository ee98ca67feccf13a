"""Results as the tests of benchmark tables need them: a few numbers that matter, and all others."""

from pathlib import Path
from typing import Any

from robot_rl.apps.benchmark_result import Result


def made(task: str, algorithm: str, seed: int, **numbers: Any) -> Result:
    """A result with these numbers; the others say nothing."""
    nothing: dict[str, Any] = {
        "path": Path("x"),
        "suite": "x",
        "hash": "",
        "commit": None,
        "data_sha256": "",
        "scale": (0.0, 1.0),
        "curve": (),
        "last_episodes": (),
        "limit_hits": None,
        "offline": 0.0,
        "final": 0.0,
        "regret": 0.0,
        "dip_depth": None,
        "recovery_step": None,
        "cpu_s": 1.0,
        "wall_s": 1.0,
    }
    return Result(task=task, algorithm=algorithm, seed=seed, **(nothing | numbers))
