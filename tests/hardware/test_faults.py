"""What can be wrong with the simulated robot, without ROS."""

import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.hardware.faults import Faults, Outbox

SENSORS, JOINTS = ["joint1", "wrench", "front"], ["joint1"]


def sent(faults: Faults, count: int, now_ns: int, latency_ns: int = 0) -> list[int]:
    """What of `count` messages, one a ns, has left at `now_ns`."""
    outbox, chance = Outbox(), np.random.default_rng(0)
    for k in range(count):
        outbox.put("topic", k, k, latency_ns, faults, chance)
    return [message for _, message in outbox.take(now_ns)]


def test_without_faults_everything_leaves_in_order_after_the_latency() -> None:
    assert sent(Faults(), 5, 10) == [0, 1, 2, 3, 4]
    assert sent(Faults(), 5, 10, latency_ns=8) == [0, 1, 2]


def test_messages_are_dropped_and_late_with_their_probabilities() -> None:
    assert 0.4 < len(sent(Faults(drop=0.5), 1000, 10**12)) / 1000 < 0.6
    at_once = sent(Faults(late=0.5, late_s=1.0), 1000, 2000)
    assert 0.4 < len(at_once) / 1000 < 0.6
    assert sorted(sent(Faults(late=0.5, late_s=1.0), 1000, 10**12)) == list(range(1000))
    assert sent(Faults(late=0.5, late_s=1e-6), 100, 10**12) != list(range(100))  # out of order


def test_silence_is_complete() -> None:
    assert sent(Faults(silent=True), 100, 10**12) == []


def test_faults_are_set_one_by_one() -> None:
    faults = Faults().with_values({"stuck": ["wrench"], "drop": 1}, SENSORS, JOINTS)
    assert faults.stuck == ("wrench",)
    assert faults.with_values({"drop": 0.0}, SENSORS, JOINTS) == Faults(stuck=("wrench",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dorp": 0.1}, "did you mean 'drop'"),
        ({"drop": 1.5}, r"must lie in \[0, 1\]"),
        ({"late": -0.1}, r"must lie in \[0, 1\]"),
        ({"late_s": float("nan")}, "finite number"),
        ({"late_s": -1.0}, "at least 0"),
        ({"stuck": ["wrist"]}, "Choices: front, joint1, wrench"),
        ({"dead": ["wrench"]}, "Choices: joint1"),
        ({"silent": 1}, "true or false"),
        ({"drop": True}, "finite number"),
    ],
)
def test_what_does_not_exist_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Faults().with_values(values, SENSORS, JOINTS)
