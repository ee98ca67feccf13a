"""A server of openpi's websocket protocol: what every openpi client can use unchanged.

It speaks first (metadata), then answers each binary message by one. Errors are text frames, after which the connection
is closed with code 1011. `GET /healthz` answers `OK`, `GET /metrics` in the form of Prometheus, on the same port.

Differences from openpi's own server: the policy runs in a thread beside the event loop, so that health checks, pings
and other clients do not wait for it; what is waiting is answered as one batch; a text frame says what was wrong in one
line instead of a traceback; messages, connections and waiting are bounded; a key may be demanded.
"""

import asyncio
import contextlib
import hmac
import http
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import State

from robot_rl.checks import require_range
from robot_rl.errors import InputError
from robot_rl.exchange import is_loopback
from robot_rl.networks.language import TextEncoder
from robot_rl.steering.measures import COUNTS, Measures
from robot_rl.steering.openpi import ECHO
from robot_rl.steering.served import Request, Served, read_request
from robot_rl.steering.wire import WireError, pack, unpack

MINIMUM_KEY = 16  # characters
REASON_BYTES = 120  # of a close frame, which takes 123


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may cost the others."""

    message_bytes: int = 32 * 2**20
    connections: int = 32
    batch: int = 16  # requests in one call of the policy
    batch_wait_s: float = 0.0  # to wait for more of them, where there is more than one client
    answer_s: float = 30.0  # for one batch; longer, and the policy counts as stuck
    send_s: float = 10.0  # for a client to take its answer

    def __post_init__(self) -> None:
        require_range(self.message_bytes, 1024, 2**30, "limits message_bytes")
        require_range(self.connections, 1, 10_000, "limits connections")
        require_range(self.batch, 1, 10_000, "limits batch")
        require_range(self.batch_wait_s, 0, 1, "limits batch_wait_s")
        require_range(self.answer_s, 1e-3, 3600, "limits answer_s")
        require_range(self.send_s, 1e-3, 3600, "limits send_s")


def require_key(host: str, key: str | None) -> None:
    """Refuse to listen to a network without a key, and keys that can be guessed.

    Raises:
        InputError: with the remedy.
    """
    if key is None and not is_loopback(host):
        raise InputError(f"host={host} can be reached by others: set key_file=FILE, or host=127.0.0.1 behind a tunnel")
    if key is not None and (len(key) < MINIMUM_KEY or not key.isascii() or not key.isprintable()):
        raise InputError(f"a key is at least {MINIMUM_KEY} printable ASCII characters, such as `openssl rand -hex 24`")


class _HungUp(Exception):
    """The client went away before its turn."""


@dataclass(eq=False)
class _Waiting:
    request: Request
    connection: ServerConnection
    answer: asyncio.Future[tuple[dict[str, Any], dict[str, float]]]
    since_s: float


@dataclass(kw_only=True)
class PolicyServer:
    """Serves until `close`.

    Args:
        policy: answers; called in one thread, never twice at a time.
        keys: name in the policy's spec -> name on the wire.
        host: to listen at; others than loopback demand a key.
        port: 0 takes a free one.
        key: clients send `Authorization: Api-Key ...`.
        language: makes the observation `instruction` of what clients ask for.

    Raises:
        InputError: no key where one is needed, or the port is taken.
    """

    policy: Served
    keys: dict[str, str]
    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    language: TextEncoder | None = None
    limits: Limits = field(default_factory=Limits)
    measures: Measures = field(default_factory=Measures)
    _server: Server | None = field(init=False, default=None)
    _queue: "asyncio.Queue[_Waiting]" = field(init=False)
    _open: int = field(init=False, default=0)
    _busy_since_s: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        require_key(self.host, self.key)
        unknown = sorted(set(self.keys) ^ set(self.policy.spec.observation))
        if unknown:
            raise InputError(f"keys must name each observation of the policy once, but differ in {unknown}")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["PolicyServer"]:
        """Listening inside; at the end connections are closed as going away."""
        self._queue = asyncio.Queue()
        silent = logging.Logger("robot_rl.serve")  # of our own: what clients do wrong is counted, not printed
        silent.addHandler(logging.NullHandler())
        try:
            self._server = await serve(
                self._converse,
                self.host,
                self.port,
                compression=None,
                max_size=self.limits.message_bytes,
                max_queue=1,
                origins=[None],  # no web page may speak to a robot
                process_request=self._http,
                close_timeout=2.0,
                logger=silent,
            )
        except OSError as error:
            raise InputError(f"cannot listen at {self.host}:{self.port}: {error.strerror or error}") from error
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        work = asyncio.create_task(self._work(pool))
        try:
            yield self
        finally:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 5.0)
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            pool.shutdown(wait=False, cancel_futures=True)

    # Plain HTTP -------------------------------------------------------------------------------------------------------

    def _http(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/healthz":
            if self._stuck:
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "the policy does not answer\n")
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not self._allowed(request):
            self.measures.count("refused_total", 'why="key"')
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "send the header Authorization: Api-Key KEY\n")
        if path == "/metrics":
            self.measures.gauge("connections", self._open)
            return connection.respond(http.HTTPStatus.OK, self.measures.text())
        if self._open >= self.limits.connections:
            self.measures.count("refused_total", 'why="connections"')
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "there are too many clients\n")
        return None

    def _allowed(self, request: HttpRequest) -> bool:
        if self.key is None:
            return True
        given = request.headers.get_all("Authorization")
        wanted = f"Api-Key {self.key}".encode()
        return len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "replace"), wanted)

    @property
    def _stuck(self) -> bool:
        return self._busy_since_s is not None and self._now_s() - self._busy_since_s > self.limits.answer_s

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    # One client -------------------------------------------------------------------------------------------------------

    async def _converse(self, connection: ServerConnection) -> None:
        self._open += 1
        self.measures.count("connections_total")
        try:
            await self._send(connection, pack(self.policy.metadata))
            previous_s: float | None = None
            while True:
                message = await connection.recv()
                start_s = self._now_s()
                try:
                    answer = await self._answer(connection, message, previous_s)
                except _HungUp:
                    self.measures.count("closed_total", 'code="waiting"')
                    return
                except (WireError, InputError) as error:
                    await self._refuse(connection, "request", str(error))
                    return
                except Exception as error:  # noqa: BLE001  # whatever a policy raises ends one conversation, not all
                    await self._refuse(connection, "policy", f"{type(error).__name__}: {error}")
                    return
                await self._send(connection, answer)
                previous_s = self._now_s() - start_s
                self.measures.count("requests_total", 'result="answered"')
                self.measures.observe("request_seconds", previous_s)
        except ConnectionClosed as closed:
            code = (
                closed.rcvd.code if closed.rcvd is not None else closed.sent.code if closed.sent is not None else 1006
            )
            self.measures.count("closed_total", f'code="{code}"')
        except TimeoutError:
            self.measures.count("closed_total", 'code="stalled"')
            connection.transport.abort()
        finally:
            self._open -= 1

    async def _answer(self, connection: ServerConnection, message: str | bytes, previous_s: float | None) -> bytes:
        if isinstance(message, str):
            raise InputError("requests are binary messages, this one is text")
        self.measures.count("received_bytes_total", amount=len(message))
        request = read_request(unpack(message), self.policy.spec, self.keys, self.language)
        if self._stuck:
            raise RuntimeError("the policy does not answer")
        future = asyncio.get_running_loop().create_future()
        waiting = _Waiting(request, connection, future, self._now_s())
        self._queue.put_nowait(waiting)  # at most one for each connection
        try:
            # Before its own turn there may be one batch of others.
            answer, timing = await asyncio.wait_for(future, 2 * self.limits.answer_s)
        except TimeoutError:
            raise RuntimeError(f"no answer of the policy in {2 * self.limits.answer_s:g} s") from None
        if previous_s is not None:
            timing["prev_total_ms"] = previous_s * 1e3
        echo = {} if request.echo is None else {ECHO: request.echo}
        times = {"policy_timing": {"infer_ms": timing["infer_ms"]}, "server_timing": timing}
        return pack({**answer, **times, **echo})

    async def _send(self, connection: ServerConnection, data: bytes | str) -> None:
        await asyncio.wait_for(connection.send(data), self.limits.send_s)

    async def _refuse(self, connection: ServerConnection, result: str, why: str) -> None:
        self.measures.count("requests_total", f'result="{result}"')
        text = why.encode("utf-8", "replace")[:2000].decode("utf-8", "ignore")
        await self._send(connection, text)
        reason = text.encode()[:REASON_BYTES].decode("utf-8", "ignore")
        await connection.close(CloseCode.INTERNAL_ERROR, reason)

    # The policy -------------------------------------------------------------------------------------------------------

    async def _work(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            if self.limits.batch_wait_s > 0 and self._open > 1:
                await asyncio.sleep(self.limits.batch_wait_s)
            while len(batch) < self.limits.batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            for each in batch:
                if not each.answer.done() and each.connection.state is not State.OPEN:
                    each.answer.set_exception(_HungUp())
            batch = [each for each in batch if not each.answer.done()]  # nobody else is worked for
            if not batch:
                continue
            self._busy_since_s = start_s = loop.time()
            answers: list[dict[str, Any] | Exception]
            try:
                answers = await loop.run_in_executor(pool, self.policy.answer, [each.request for each in batch])
            except Exception as error:  # noqa: BLE001  # it is what these clients are told
                answers = [error] * len(batch)
            finally:
                self._busy_since_s = None
            took_s = loop.time() - start_s
            self.measures.observe("policy_seconds", took_s)
            self.measures.observe("batch_requests", len(batch), COUNTS)
            for each, answer in zip(batch, answers, strict=True):
                self._count_steering(answer)
                if each.answer.done():
                    continue
                if isinstance(answer, Exception):
                    each.answer.set_exception(answer)
                else:
                    queue_ms = (start_s - each.since_s) * 1e3
                    timing = {"infer_ms": took_s * 1e3, "queue_ms": queue_ms, "batch": float(len(batch))}
                    each.answer.set_result((answer, timing))

    def _count_steering(self, answer: dict[str, Any] | Exception) -> None:
        steering = None if isinstance(answer, Exception) else answer.get("steering")
        if steering is None:
            return
        chose = "other" if steering["chosen"] else "base"
        self.measures.count("steering_total", f'reason="{steering["reason"]}",chosen="{chose}"')
        for part in ("propose", "encode", "score"):
            self.measures.observe(f"steering_{part}_seconds", steering[f"{part}_ms"] * 1e-3)
