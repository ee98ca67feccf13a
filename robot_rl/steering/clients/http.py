"""A policy server that answers POST requests: what its errors mean for who proposes actions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from robot_rl.errors import InputError
from robot_rl.exchange import Address, ExchangeError, LateError, LongError, post
from robot_rl.steering.proposals import Deadline, ProposerError

ANSWER_TIMEOUT_S = 60.0  # where there is no deadline


@dataclass(frozen=True, kw_only=True)
class HttpServer:
    """Where to send requests.

    Args:
        address: http://HOST:PORT or https://HOST:PORT.
        maximum_bytes: of an answer.

    Raises:
        InputError: no such address.
    """

    address: str
    maximum_bytes: int = 64 * 2**20
    _at: Address = field(init=False)

    def __post_init__(self) -> None:
        try:
            found = Address.parse(self.address)
            if found.path not in ("", "/"):
                raise ValueError("there is a path in it")
        except ValueError as error:
            remedy = "write http://HOST:PORT or https://HOST:PORT"
            raise InputError(f"policy server {self.address!r}: {error}; {remedy}") from error
        object.__setattr__(self, "_at", found)

    def post(self, path: str, body: bytes, deadline: Deadline, headers: Mapping[str, str] | None = None) -> bytes:
        """The body of the answer.

        Raises:
            ProposerError: no connection, no whole answer until the deadline, one that is too long, or a status of 400
                and more, with its first words.
        """
        left_s = deadline.left_s
        if left_s is not None and left_s <= 0:
            raise ProposerError(f"no time is left to ask {self.address}")
        timeout_s = ANSWER_TIMEOUT_S if left_s is None else left_s
        try:
            reply = post(self._at, path, body, headers or {}, timeout_s=timeout_s, maximum_bytes=self.maximum_bytes)
        except LateError as error:
            raise ProposerError(f"{self.address} did not answer in time") from error
        except LongError as error:
            raise ProposerError(f"{self.address}{path}: {error}") from error
        except ExchangeError as error:
            raise ProposerError(f"{self.address} cannot be asked: {error}") from error
        if reply.status >= 400:
            words = reply.body.decode("utf-8", "replace").strip()[:500]
            raise ProposerError(f"{self.address}{path} answers with status {reply.status}: {words}")
        return reply.body


@dataclass(frozen=True, kw_only=True)
class HttpClient:
    """What the clients of one server have in common: nothing is kept between two requests.

    Args:
        server: such as http://127.0.0.1:8000.
    """

    server: HttpServer

    @property
    def address(self) -> str:
        """Of the server."""
        return self.server.address

    def begin(self, task: str, deadline: Deadline) -> None:
        """The server keeps nothing."""

    def close(self) -> None:
        """There is no connection to keep."""
