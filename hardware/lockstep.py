"""Time that goes on only when it is asked to: the messages of the deterministic mode, which only simulated robots have.

The environment, the governor and the simulated arm are the same processes with the same topics as in real time. What
differs is who moves the clock, by messages of type std_msgs/Header below /NAME. `stamp` is a time on the arm's clock,
`frame_id` holds JSON.

| topic | from, to | says |
|---|---|---|
| rl/advance | environment, governor | run to this time, once this action has come: `{"action": "3f0a-7"}` or null |
| rl/physics | governor, arm | run to this time, once a command has come, if one was sent: `{"command": true}` |
| rl/stepped | arm, both | this is the time now, these the stamps that were sent last: `{"sent": {SENSOR: ns}}` |
| rl/advanced | governor, environment | this is the time now: `{"state": "active", "applied": 5}`, sent since |

Whoever asks waits for the answer and for everything that it says was sent, and asks again after a while: asking twice
for the same time gives the same answer, and the messages once more. So nothing depends on the time of this machine, on
the order in which topics arrive, or on who was found first.
"""

import json
from typing import Any

from robot_rl.errors import InputError

ADVANCE, PHYSICS, STEPPED, ADVANCED = "rl/advance", "rl/physics", "rl/stepped", "rl/advanced"
BEGIN_NS = 1_000_000_000  # of the arm's clock: a stamp of 0 means none in ROS
ASK_AGAIN_S = 1.0
POLL_NS = 5_000_000  # between two looks at the services
DEPTH = 10


def pack(**facts: Any) -> str:
    """For `frame_id`."""
    return json.dumps(facts)


def unpack(text: str, topic: str) -> dict[str, Any]:
    """Undo `pack`.

    Raises:
        InputError: something else speaks on the topic.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{topic} holds {text!r}, which is not ours: who else publishes there?") from error
    if not isinstance(found, dict):
        raise InputError(f"{topic} holds {text!r}, which is not ours: who else publishes there?")
    return found
