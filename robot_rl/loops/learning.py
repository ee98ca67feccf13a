"""The learner of an online phase in a process of its own: the same agent and replay, fed by the loop that acts.

It owes the loop as many updates as the same phase would make inline, and makes them as fast as it can: those that it
is behind with are not lost. Each is drawn from all that has come until then. Weights are told every so many updates,
the whole state when it is asked for.
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import Tensor, nn

from robot_rl import checkpoint
from robot_rl.algorithms.agent import Agent
from robot_rl.config import ExecutionConfig, PhaseConfig
from robot_rl.errors import InputError
from robot_rl.loops.execution import GraphedUpdates, Updates, learner
from robot_rl.loops.experience import step_of
from robot_rl.loops.pipe import arrays, framed, receive
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.mixture import draw_when_ready
from robot_rl.types import Metrics

BEAT_S = 0.5  # between two signs of life
IDLE_S = 0.1
FRESH_S = 0.25  # after which weights are told although they are few updates newer, where nothing else is to do


def repeats_of(phase: PhaseConfig) -> int:
    """Critic updates that are made at once."""
    return max(1, round(phase.updates_per_step))


def owed_for(phase: PhaseConfig, after: int, until: int) -> int:
    """How often to update for the steps `after` + 1 to `until` of a phase."""
    if phase.updates_per_step <= 0:
        return 0
    every = round(1 / phase.updates_per_step) if phase.updates_per_step < 1 else 1
    return until // every - after // every


def weights_of(agent: Agent) -> dict[str, Tensor]:
    """What an agent acts with, by reference: its networks but for the targets."""
    found: dict[str, Tensor] = {}
    for item in fields(agent):  # type: ignore[arg-type]  # an agent is a dataclass, which a protocol cannot say
        value = getattr(agent, item.name)
        if isinstance(value, nn.Module) and not item.name.startswith("target_"):
            found |= {f"{item.name}.{key}": tensor for key, tensor in value.state_dict().items()}
    return found


@dataclass(kw_only=True)
class Learning:
    """State of the learner's process."""

    agent: Agent
    sources: Mapping[str, ReplayBuffer]
    replay: ReplayBuffer  # of them, the one that is fed
    phase: PhaseConfig
    execution: ExecutionConfig
    generator: torch.Generator  # draws batches
    seen: int  # steps of the phase that have come
    owed: int  # updates; each is `repeats_of(phase)` of the critic
    updates: int  # of the critic, of the whole run
    version: int = 0
    metrics: Metrics = field(default_factory=dict)
    _learner: Updates | GraphedUpdates = field(init=False)

    def __post_init__(self) -> None:
        self._learner = learner(self.agent, self.sources, self.execution)

    def take(self, message: Mapping[str, Any]) -> None:
        """Hear what happened."""
        match message["kind"]:
            case "first":
                self.replay.begin(message["observation"], name=message["name"])
            case "step":
                self.replay.add(step_of(message))
                self.seen += 1
                self.owed += owed_for(self.phase, self.seen - 1, self.seen)
            case "cut":
                self.replay.cut()

    def update(self) -> bool:
        """Make one of the updates that are owed; False where none is, or a source is still empty.

        Raises:
            InputError: what was learned is no number any more.
        """
        if not self.owed:
            return False
        phase, repeats = self.phase, repeats_of(self.phase)
        drawn = draw_when_ready(self.sources, phase.shares, self.seen, phase.batch_size, repeats, self.generator)
        if drawn is None:
            self.owed = 0  # as inline, where nothing is learned before there is something of everything
            return False
        self.metrics = self._learner.learn([drawn], critic_updates=repeats)
        self.updates += repeats
        self.owed -= 1
        return True

    def facts(self) -> dict[str, Any]:
        """Where it is."""
        return {"seen": self.seen, "owed": self.owed, "updates": self.updates, "version": self.version}

    def weights(self) -> dict[str, Any]:
        """A message with new weights.

        Raises:
            InputError: they are no numbers.
        """
        found = weights_of(self.agent)
        for name, tensor in found.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())):
                raise InputError(f"training diverged: {name} is not finite after {self.updates} updates")
        self.version += 1
        metrics = {name: float(value) for name, value in self.metrics.items()}
        return {"kind": "weights", **self.facts(), "metrics": metrics, "tensors": arrays(found)}

    def snapshot(self) -> dict[str, Any]:
        """A message with everything that the agent is."""
        tensors, state = checkpoint.pack_agent(self.agent)
        return {"kind": "snapshot", **self.facts(), "tensors": arrays(tensors), "state": state}


def serve(connection: socket.socket, learning: Learning, *, weights_every: int) -> None:
    """Learn until the loop says so, or has ended.

    Args:
        connection: to the loop.
        learning: what it has told so far.
        weights_every: updates between two messages of weights.
    """
    inbox: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def hear() -> None:
        while True:
            message = receive(connection)
            inbox.put(message)
            if message is None:
                return

    Thread(target=hear, name="hear", daemon=True).start()
    try:
        _serve(connection, inbox, learning, weights_every * repeats_of(learning.phase))
    except OSError:  # the loop has ended
        return


def _serve(
    connection: socket.socket, inbox: SimpleQueue[dict[str, Any] | None], learning: Learning, weights_every: int
) -> None:
    def tell(message: dict[str, Any]) -> None:
        connection.sendall(framed(message))

    tell({"kind": "ready", **learning.facts()})
    beaten_s = fresh_s = time.monotonic()
    told = learning.updates
    while True:
        idle = not learning.owed
        while True:
            try:
                message = inbox.get(timeout=IDLE_S) if idle else inbox.get_nowait()
            except Empty:
                break
            idle = False
            if message is None or message["kind"] == "end":
                return
            if message["kind"] == "snapshot":
                tell(learning.snapshot())
            else:
                learning.take(message)
        learning.update()
        now, newer = time.monotonic(), learning.updates - told
        if newer >= weights_every or (newer and not learning.owed and now - fresh_s >= FRESH_S):
            told, fresh_s = learning.updates, now
            tell(learning.weights())
        elif now - beaten_s >= BEAT_S:
            beaten_s = now
            tell({"kind": "beat", **learning.facts()})
