"""One HTTP POST with a deadline, over a connection of its own: an answer that comes late finds nobody."""

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from robot_rl.errors import InputError
from robot_rl.steering.proposals import Deadline, ProposerError

ANSWER_TIMEOUT_S = 60.0  # where there is no deadline
PIECE_BYTES = 65536
Status = int


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
    _host: str = field(init=False)
    _port: int = field(init=False)
    _secure: bool = field(init=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.address)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"policy server {self.address!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/"):
            raise InputError(f"policy server {self.address!r}: write http://HOST:PORT or https://HOST:PORT")
        object.__setattr__(self, "_host", host)
        object.__setattr__(self, "_secure", parts.scheme == "https")
        object.__setattr__(self, "_port", (443 if self._secure else 80) if port is None else port)

    def post(self, path: str, body: bytes, deadline: Deadline, headers: Mapping[str, str] | None = None) -> bytes:
        """The body of the answer.

        Raises:
            ProposerError: no connection, no whole answer until the deadline, one that is too long, or a status of 400
                and more, with its first words.
        """
        left_s = _left(deadline, self.address)
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=left_s, context=ssl.create_default_context())
            if self._secure
            else http.client.HTTPConnection(self._host, self._port, timeout=left_s)
        )
        try:
            status, answer = self._exchange(connection, path, body, deadline, headers)
        except TimeoutError as error:
            raise ProposerError(f"{self.address} did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise ProposerError(f"{self.address} cannot be asked: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if status >= 400:
            words = answer.decode("utf-8", "replace").strip()[:500]
            raise ProposerError(f"{self.address}{path} answers with status {status}: {words}")
        return answer

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        body: bytes,
        deadline: Deadline,
        headers: Mapping[str, str] | None,
    ) -> tuple[Status, bytes]:
        sent = {"Content-Type": "application/json", "Connection": "close", **({} if headers is None else headers)}
        connection.request("POST", path, body=body, headers=sent)
        socket = connection.sock  # of which the connection lets go before the body is read
        socket.settimeout(_left(deadline, self.address))
        answer, pieces, size = connection.getresponse(), [], 0
        while True:
            socket.settimeout(_left(deadline, self.address))  # a server that sends drop by drop has no more time
            piece = answer.read1(PIECE_BYTES)
            if not piece:
                break
            size += len(piece)
            if size > self.maximum_bytes:
                raise ProposerError(f"{self.address}{path} answers with more than {self.maximum_bytes} bytes")
            pieces.append(piece)
        if answer.length:  # what was announced and did not come
            raise http.client.IncompleteRead(b"".join(pieces), answer.length)
        return answer.status, b"".join(pieces)


def _left(deadline: Deadline, address: str) -> float:
    """Seconds, above 0."""
    left_s = deadline.left_s
    if left_s is None:
        return ANSWER_TIMEOUT_S
    if left_s <= 0:
        raise ProposerError(f"no time is left to ask {address}")
    return left_s


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
