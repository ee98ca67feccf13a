"""The scripted proposer and scorer of most tests."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scripted import Proposer, Rig, Scorer
from serving import KEYS, Doubler, Running

from robot_rl.clock import FakeClock
from robot_rl.steering.server import Limits, PolicyServer


@pytest.fixture
def rig() -> Rig:
    """Four candidates, of which row 2 is the best for the scorer."""
    clock = FakeClock()
    rows = [[1.0, 0.5], [1.5, 0.5], [0.2, 0.5], [-0.8, 0.5]]
    return Rig(clock=clock, proposer=Proposer(rows=rows, clock=clock), scorer=Scorer(clock=clock))


@pytest.fixture
def run_server() -> Iterator[Callable[..., Running]]:
    """Starts servers; ends them with the test."""
    running: list[Running] = []

    def start(policy: Any = None, limits: Limits | None = None, **changes: Any) -> Running:
        policy = Doubler() if policy is None else policy
        limits = Limits(answer_s=10.0, send_s=5.0) if limits is None else limits
        keys = {key: name for key, name in KEYS.items() if key in policy.spec.observation}
        settings = {"keys": keys, "limits": limits, **changes}
        running.append(Running(PolicyServer(policy=policy, port=0, **settings)))
        return running[-1]

    yield start
    for each in running:
        each.close()
