"""Anything in any order: the limits hold, nothing is sent where nothing may be, and only `clear` leaves a fault."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import MS, Rig

from robot_rl.hardware.commands import Command
from robot_rl.hardware.states import State


def disturb(rig: Rig, generator: np.random.Generator) -> bool:
    """One random event; true for the one that may leave a fault."""
    governor, now = rig.governor, rig.now
    stamp = int(rig.stamp_ns + generator.choice([0, 0, 0, 1, -5 * MS, -(10**12), 10**12]))
    source = str(generator.choice(["policy", "policy", "other", ""]))
    values = (np.asarray(rig.measured) + generator.normal(0, generator.choice([1e-4, 0.1, 10]), 7)).tolist()
    if generator.random() < 0.1:
        values[int(generator.integers(7))] = float(generator.choice([np.nan, np.inf, 1e300]))
    match int(generator.integers(14)):
        case 0:
            governor.arm(now)
        case 1:
            governor.disarm(now)
        case 2:
            governor.stop("fuzz", now)
        case 3:
            governor.clear()
            return True
        case 4:
            governor.home(now, None if generator.random() < 0.5 else values)
        case 5:
            governor.claim(source, now)
        case 6:
            governor.release(source, now)
        case 7 | 8:
            count = int(generator.integers(1, 4))
            governor.on_command(
                Command(
                    source=source,
                    stamp_ns=stamp,
                    names=rig.robot.names if generator.random() < 0.9 else values,  # type: ignore[arg-type]  # on purpose
                    values=[values[: int(generator.integers(6, 8))]] * count,
                    offsets_s=sorted(generator.normal(0, 0.3, count).tolist()),
                    velocity=bool(generator.integers(2)),
                ),
                now,
            )
        case 9:
            rig.held = not rig.held
        case 10:
            governor.on_permit(bool(generator.integers(2)), now)
        case 11:
            governor.on_joint_states(rig.robot.names, values, values, values, stamp, now)
        case 12:
            governor.on_wrench(values[:3], values[3:6], now)
        case _:
            who = str(generator.choice(["robot", "policy", "heartbeat", "permit", "wrench", "device", "governor"]))
            rig.silent ^= {who}
            rig.person = [x if math.isfinite(x) else 0.0 for x in generator.normal(0, 1, 7).tolist()]
    return False


@pytest.mark.parametrize("seed", range(6))
def test_anything_in_any_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rig = Rig().armed()
    seen = set()
    for _ in range(1500):
        before = rig.state
        cleared = disturb(rig, generator)
        if before is State.FAULT and not cleared:
            assert rig.state is State.FAULT
        if rig.state in (State.FAULT, State.DISARMED) and generator.random() < 0.5:  # back to work
            rig.silent, rig.held, rig.force_N = set(), False, 1.0
            rig.assert_within_limits()
            rig.measured, rig.positions = list(rig.home), [rig.home] * 3
            rig.run(0.15)
            rig.governor.clear()
            rig.governor.release(str(rig.governor.controller), rig.now)
            rig.governor.claim("policy", rig.now)
            rig.governor.arm(rig.now)
        count = len(rig.outputs)
        rig.run(float(generator.choice([0.005, 0.005, 0.1])))
        for last, output in pairwise(rig.outputs[count:]):
            if {last.state, output.state} <= {State.FAULT, State.DISARMED}:
                assert output.sent is None
            seen.add(output.state)
            if output.state is State.FAULT:
                assert output.causes
    rig.assert_within_limits()
    assert seen >= set(State) - {State.HOMING}
    assert len(rig.governor.refused) <= 6
    assert len(rig.governor.causes) <= 16
