"""One HTTP request with a deadline for the whole of it, over a connection of its own: a late answer finds nobody."""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

PIECE_BYTES = 65536


class ExchangeError(Exception):
    """There is no whole answer; the text says why."""


class LateError(ExchangeError):
    """The time was over first."""


class LongError(ExchangeError):
    """The answer has more bytes than it may have."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Of a server."""

    host: str
    port: int
    secure: bool  # https
    path: str

    @staticmethod
    def parse(text: str) -> "Address":
        """Of http://HOST:PORT/PATH or https://HOST:PORT/PATH, port and path being optional.

        Raises:
            ValueError: it is neither, or also names a user, a query or a fragment.
        """
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("neither http://HOST nor https://HOST")
        if parts.username or parts.query or parts.fragment:
            raise ValueError("a user, a query or a fragment is no part of an address here")
        secure = parts.scheme == "https"
        port = parts.port
        if port is None:
            port = 443 if secure else 80
        return Address(host=parts.hostname, port=port, secure=secure, path=parts.path)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered, whatever its status."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


def is_loopback(host: str) -> bool:
    """Only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def post(
    address: Address, path: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, maximum_bytes: int
) -> Reply:
    """Send `body`, which is JSON, and wait for the whole answer.

    Args:
        address: of the server; its path is not used.
        path: what is asked.
        body: of the request.
        headers: besides those of JSON and of a connection for one request.
        timeout_s: from connecting to the last byte, above 0. Each address of a host name has it to connect.
        maximum_bytes: of the answer's body.

    Raises:
        LateError, LongError, ExchangeError: there is no whole answer.
    """
    connection = (
        http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s, context=ssl.create_default_context())
        if address.secure
        else http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    )
    late = threading.Event()
    opened: list[socket.socket] = []

    def cut() -> None:  # also where bytes come one by one, each within the time-out of a read
        late.set()
        for each in (connection.sock, *opened):
            if each is not None:
                with suppress(OSError, ValueError):  # it is closed already
                    each.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, cut)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        opened.append(connection.sock)  # of which the connection lets go before the body is read
        if late.is_set():  # there was nothing to cut yet
            raise LateError("no connection in time")
        sent = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close", **headers}
        connection.request("POST", path, body=body, headers=sent)
        answer = connection.getresponse()
        pieces, size = [], 0
        while piece := answer.read1(PIECE_BYTES):
            size += len(piece)
            if size > maximum_bytes:
                raise LongError(f"the answer has more than {maximum_bytes} bytes")
            pieces.append(piece)
        if late.is_set():
            raise LateError("no whole answer in time")
        if answer.length:
            raise ExchangeError(f"the answer ends {answer.length} bytes too early")
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(status=answer.status, headers=found, body=b"".join(pieces))
    except (OSError, http.client.HTTPException, ValueError) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise LateError("no whole answer in time") from error
        raise ExchangeError(f"{type(error).__name__}: {error}") from error
    finally:
        timer.cancel()
        connection.close()
        for each in opened:
            each.close()
