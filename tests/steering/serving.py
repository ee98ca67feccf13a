"""A server in a thread, a stock client, and a policy whose answers show when they are crossed."""

import asyncio
import contextlib
import http.client
import threading
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from test_openpi import decode, encode
from websockets.sync.client import connect

from robot_rl.spec import ArraySpec, Spec
from robot_rl.steering.served import Request, describe
from robot_rl.steering.server import PolicyServer

SPEC = Spec(
    observation={"state": ArraySpec(shape=(3,)), "camera": ArraySpec(shape=(4, 4, 3), dtype="uint8")},
    action=ArraySpec(shape=(2,), low=np.array([-2.0, 0.0]), high=np.array([2.0, 1.0])),
    control_period_s=0.1,
    action_semantics="joint_velocity",
)
KEYS = {"state": "observation/state", "camera": "observation/image"}
PICTURE = np.zeros((4, 4, 3), np.uint8)
KEY = "0123456789abcdef"


class Doubler:
    """Answers with the state it was asked about, so that a crossed reply shows."""

    def __init__(self) -> None:
        self.spec = SPEC
        self.metadata = describe(SPEC, 1, KEYS)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, requests: Sequence[Request]) -> list[dict[str, Any] | Exception]:
        self.gate.wait(20)
        self.batches.append(len(requests))
        answers: list[dict[str, Any] | Exception] = []
        for request in requests:
            state = request.observation["state"]
            answers.append(RuntimeError("hot motor") if state[2] == 13 else {"actions": 2 * state[None, :2]})
        return answers


class Running:
    """A server in a thread of its own."""

    def __init__(self, server: PolicyServer) -> None:
        self.server = server
        self.ready, self.thread = threading.Event(), threading.Thread(target=self._run)
        self.thread.start()
        assert self.ready.wait(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.server.running():
            self.ready.set()
            await self.stop.wait()

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(15)
        assert not self.thread.is_alive()


class Client:
    """A stock client: websockets and msgpack, nothing of ours."""

    def __init__(self, uri: str, key: str | None = None) -> None:
        headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
        self.stack = contextlib.ExitStack()
        opening = connect(uri, compression=None, max_size=None, additional_headers=headers, proxy=None)
        self.socket = self.stack.enter_context(opening)
        self.metadata = msgpack.unpackb(self.socket.recv(timeout=10), object_hook=decode)

    def infer(self, observation: dict[str, Any]) -> Any:
        self.socket.send(msgpack.packb(observation, default=encode))
        answer = self.socket.recv(timeout=10)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return msgpack.unpackb(answer, object_hook=decode)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


def state(*numbers: float, **more: Any) -> dict[str, Any]:
    return {"observation/state": np.array(numbers, np.float32), "observation/image": PICTURE, **more}
