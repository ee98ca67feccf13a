"""The learner's process as the loop sees it. Nothing here waits for it but what says so."""

import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from torch import Tensor

from robot_rl.config import LearnerConfig
from robot_rl.loops.experience import Experience, step_message
from robot_rl.loops.pipe import framed, receive, tensors
from robot_rl.types import Array, TimeStep

Start = Callable[[int], subprocess.Popen[bytes]]
"""Starts the process, which inherits the file of a socket with that number."""
STARTING_S = 600.0  # for the first sign of life: a busy machine starts processes slowly
ENDING_S = 5.0
POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a run needs to learn beside the loop."""

    settings: LearnerConfig
    start: Start
    experience: Mapping[str, Experience]  # of `online`, and of `robot`


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the learner has told last."""

    version: int
    updates: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All of an agent at one moment."""

    seen: int  # steps of the phase that had come
    owed: int  # updates that were behind
    updates: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class RemoteLearner:
    """One process for one phase. Messages go out and come in by threads."""

    def __init__(self, start: Start, settings: LearnerConfig, begin: Mapping[str, Any], first: Snapshot) -> None:
        """Start it.

        Args:
            start: see there.
            settings: of the run.
            begin: what it begins with, the first message.
            first: the state in `begin`.
        """
        self._settings = settings
        ours, theirs = socket.socketpair()
        try:
            self.process = start(theirs.fileno())
        finally:
            theirs.close()
        self._socket = ours
        self._out: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._heard_s = time.monotonic()
        self._spoken = False
        self._ended = False  # nothing comes any more
        self._error: str | None = None  # what it said before it ended
        self.ready = False
        self.facts: dict[str, int] = {"seen": first.seen, "owed": first.owed, "updates": first.updates, "version": 0}
        """Steps that it has seen, updates that it is behind with and has made, versions of the weights so far."""
        self.metrics: dict[str, float] = {}
        self.weights: Weights | None = None
        """The newest."""
        self.snapshot = first
        """The newest that came."""
        self.asked = False  # for another
        self.lost: str | None = None
        """Why it does not learn any more; None: it does."""
        self._threads = [Thread(target=work, name="learner", daemon=True) for work in (self._send, self._hear)]
        self._out.put(dict(begin))
        for thread in self._threads:
            thread.start()

    def first(self, observation: Mapping[str, Array], name: str) -> None:
        """An episode begins."""
        self._put({"kind": "first", "name": name, "observation": dict(observation)})

    def step(self, step: TimeStep) -> None:
        """What happened."""
        self._put({"kind": "step", **step_message(step)})

    def cut(self) -> None:
        """The episode is over, or cut."""
        self._put({"kind": "cut"})

    def ask(self) -> None:
        """For a snapshot, once."""
        if not self.asked:
            self.asked = True
            self._put({"kind": "snapshot"})

    def check(self) -> str | None:
        """Whether it still learns: None, or why not. A process that hangs is killed, so that it does not wake up."""
        if self.lost is None:
            silence_s = time.monotonic() - self._heard_s
            patience_s = self._settings.patience_s if self._spoken else STARTING_S
            if self._ended or self.process.poll() is not None:
                self.lost = self._error or f"the learner's process ended with status {self._status()}"
            elif silence_s > patience_s:
                self.lost = f"the learner's process said nothing for {silence_s:.0f} s, and was killed"
                self.process.kill()
        return self.lost

    def wait(self, done: Callable[[], bool], stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait until something is so: True. Or until it is lost, or `stop`: False. Not while the robot moves."""
        while not done():
            if self.check() is not None or stop():
                return False
            time.sleep(POLL_S)
        return True

    def close(self) -> None:
        """End the process; twice is allowed."""
        self._put({"kind": "end"})
        try:
            self.process.wait(0.0 if self.lost else ENDING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._out.put(None)
        self._socket.close()
        for thread in self._threads:
            thread.join(ENDING_S)

    def _put(self, message: dict[str, Any]) -> None:
        if self.lost is None:  # otherwise nobody would ever take it
            self._out.put(message)

    def _status(self) -> int | None:
        try:
            return self.process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None

    def _send(self) -> None:
        while (message := self._out.get()) is not None:
            try:
                self._socket.sendall(framed(message))
            except OSError:  # it has ended: `_hear` says so
                return

    def _hear(self) -> None:
        try:
            self._take_messages()
        finally:
            self._ended = True

    def _take_messages(self) -> None:
        while (message := receive(self._socket)) is not None:
            self._heard_s, self._spoken = time.monotonic(), True
            kind = message["kind"]
            if kind == "failed":
                self._error = message["error"]
                return
            if kind == "loading":
                continue
            self.ready = True
            self.facts = {name: int(message[name]) for name in ("seen", "owed", "updates", "version")}
            if kind == "weights":
                self.metrics = message["metrics"]
                self.weights = Weights(
                    version=message["version"], updates=message["updates"], tensors=tensors(message["tensors"])
                )
            elif kind == "snapshot":
                self.snapshot = Snapshot(
                    seen=message["seen"],
                    owed=message["owed"],
                    updates=message["updates"],
                    tensors=tensors(message["tensors"]),
                    state=message["state"],
                )
                self.asked = False
