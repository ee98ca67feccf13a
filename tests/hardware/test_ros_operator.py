"""What a person asks for in the operator's terminal reaches the governor, whatever becomes of the answers."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS

pytestmark = NEEDS_ROS


class Future:
    """Of a call whose answer comes, or never does."""

    def __init__(self, answer: Any = None) -> None:
        self._answer = answer

    def done(self) -> bool:
        """It came."""
        return self._answer is not None

    def result(self) -> Any:
        """It."""
        return self._answer


class Client:
    """Of a service whose first answers are lost."""

    def __init__(self, lost: int) -> None:
        self.lost, self.calls, self.pending = lost, 0, 0

    def service_is_ready(self) -> bool:
        """Always."""
        return True

    def call_async(self, _: Any) -> Future:
        """Ask."""
        self.calls += 1
        self.pending += 1
        return Future(None if self.calls <= self.lost else SimpleNamespace(success=True, message=""))

    def remove_pending_request(self, _: Any) -> None:
        """Wait for it no more."""
        self.pending -= 1


def test_a_lost_answer_is_asked_for_again_but_not_where_another_fault_has_come() -> None:
    from robot_rl.hardware.operator_node import ANSWER_S, ASK_AGAIN_S, Request

    fault, other = ("fault", ("a",)), ("fault", ("a", "b"))
    client = Client(lost=1)
    request = Request("clear", client, fault, 0.0)
    assert request.answer(fault, 0.0) is None
    assert request.answer(fault, ASK_AGAIN_S) is None
    assert client.calls == 1
    assert request.answer(fault, ASK_AGAIN_S + 0.1) is None
    assert request.answer(fault, ASK_AGAIN_S + 0.2) == "clear: done"
    client = Client(lost=9)
    request = Request("clear", client, fault, 0.0)
    assert request.answer(fault, 0.0) is None
    assert request.answer(other, ASK_AGAIN_S + 0.1) is None
    assert client.calls == 1
    assert request.answer(other, ANSWER_S + 0.1) == "clear: no answer; is the governor running?"
    assert client.pending == 0
