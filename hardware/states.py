"""What the governor may do when, as one table."""

from enum import Enum


class State(Enum):
    """Of the governor. Only in ARMING, ACTIVE, TAKEOVER, HOMING and STOPPING is the robot sent anything."""

    DISARMED = "disarmed"
    ARMING = "arming"  # holds, and waits for a first command near where the robot is
    ACTIVE = "active"  # follows the controller
    TAKEOVER = "takeover"  # follows the person
    HOMING = "homing"  # moves slowly to a pose, on request
    STOPPING = "stopping"  # brakes; listens to nobody
    FAULT = "fault"  # latched


class Event(Enum):
    """What moves the governor from one state to another."""

    ARM = "arm"  # a request, after all checks
    HOME = "home"  # a request, after all checks but the one of the start pose
    FIRST_COMMAND = "first command"
    TAKE = "take"  # the person holds the button
    GIVE_BACK = "give back"  # and lets go
    ARRIVED = "arrived"
    GIVE_UP = "give up"  # nobody commands, or a request to disarm
    FAIL = "fail"  # a stop by the operator, or any failure: latched
    RESTED = "rested"
    RESTED_LATCHED = "rested, latched"
    CLEAR = "clear"  # a request by a person


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.DISARMED, Event.ARM): State.ARMING,
    (State.DISARMED, Event.HOME): State.HOMING,
    (State.DISARMED, Event.FAIL): State.FAULT,
    (State.ARMING, Event.FIRST_COMMAND): State.ACTIVE,
    (State.ARMING, Event.TAKE): State.TAKEOVER,
    (State.ARMING, Event.GIVE_UP): State.STOPPING,
    (State.ARMING, Event.FAIL): State.STOPPING,
    (State.ACTIVE, Event.TAKE): State.TAKEOVER,
    (State.ACTIVE, Event.GIVE_UP): State.STOPPING,
    (State.ACTIVE, Event.FAIL): State.STOPPING,
    (State.TAKEOVER, Event.GIVE_BACK): State.ARMING,
    (State.TAKEOVER, Event.GIVE_UP): State.STOPPING,
    (State.TAKEOVER, Event.FAIL): State.STOPPING,
    (State.HOMING, Event.ARRIVED): State.STOPPING,
    (State.HOMING, Event.GIVE_UP): State.STOPPING,
    (State.HOMING, Event.FAIL): State.STOPPING,
    (State.STOPPING, Event.FAIL): State.STOPPING,
    (State.STOPPING, Event.RESTED): State.DISARMED,
    (State.STOPPING, Event.RESTED_LATCHED): State.FAULT,
    (State.FAULT, Event.FAIL): State.FAULT,
    (State.FAULT, Event.CLEAR): State.DISARMED,
}
"""What is not listed does not happen. FAULT is left by CLEAR alone, and only to DISARMED."""

MOVING = frozenset({State.ARMING, State.ACTIVE, State.TAKEOVER, State.HOMING})
"""Where the watchdogs stop the robot. In STOPPING it stops already."""

SENT = frozenset({State.ARMING.value, State.ACTIVE.value, State.TAKEOVER.value})
"""In which an episode goes on: the robot is sent something in every control period."""
