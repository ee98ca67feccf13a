"""The scripted proposer and scorer of most tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scripted import Proposer, Rig, Scorer

from robot_rl.clock import FakeClock


@pytest.fixture
def rig() -> Rig:
    """Four candidates, of which row 2 is the best for the scorer."""
    clock = FakeClock()
    rows = [[1.0, 0.5], [1.5, 0.5], [0.2, 0.5], [-0.8, 0.5]]
    return Rig(clock=clock, proposer=Proposer(rows=rows, clock=clock), scorer=Scorer(clock=clock))
