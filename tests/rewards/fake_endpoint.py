"""A vision-language model on this machine that knows which of two pictures is brighter, and behaves as it is told."""

import base64
import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from robot_rl.datasets.frames import decode_image

BRIGHTNESS = re.compile(r"A has (\d+\.\d+), B has (\d+\.\d+)")
Manner = Callable[[int], str]
"""Number of a request, from 0, to how it is answered: `well`, or one of the ways of `_Handler`."""


class Endpoint(ThreadingHTTPServer):
    """What was asked, and how often it was answered well."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, manner: Manner) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.manner = manner
        self.requests = 0
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()  # bodies that were answered well
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up on us, and may."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.server.lock:
            number = self.server.requests
            self.server.requests += 1
            self.server.headers.append(dict(self.headers))
        manner = self.server.manner(number)
        with contextlib.suppress(OSError):
            getattr(self, f"_{manner}")(body)

    def _send(self, status: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _say(self, text: Any) -> bytes:
        return json.dumps(
            {"model": "bright-1", "choices": [{"message": {"content": text}}], "usage": {"total_tokens": 7}}
        ).encode()

    def _well(self, body: str) -> None:
        assert self.path == "/v1/chat/completions"
        with self.server.lock:
            self.server.answered[body] += 1
        self._send(200, self._say(answer(json.loads(body))))

    def _parts(self, body: str) -> None:  # content as a list, as some servers have it
        with self.server.lock:
            self.server.answered[body] += 1
        self._send(200, self._say([{"type": "text", "text": answer(json.loads(body))}]))

    def _slowly(self, body: str) -> None:
        time.sleep(0.05)
        self._well(body)

    def _asleep(self, _: str) -> None:
        time.sleep(3.0)

    def _trickle(self, body: str) -> None:
        data = self._say(answer(json.loads(body)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.1)

    def _trickled_headers(self, _: str) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"y" * 200:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.1)

    def _html(self, _: str) -> None:
        self._send(200, b"<html><body>Please log in</body></html>", "text/html")

    def _malformed(self, _: str) -> None:
        self._send(200, b'{"choices": [{"message": {"conte')

    def _other_json(self, _: str) -> None:
        self._send(200, b'{"error": null, "choices": []}')

    def _deep(self, _: str) -> None:
        self._send(200, b"[" * 100_000)

    def _empty(self, _: str) -> None:
        self._send(200, self._say("  "))

    def _null(self, _: str) -> None:
        self._send(200, self._say(None))

    def _huge(self, _: str) -> None:
        self._send(200, b'"' + b"x" * 200_000 + b'"')

    def _half(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b'{"choices"')

    def _hang_up(self, _: str) -> None:
        self.connection.close()

    def _no_http(self, _: str) -> None:
        self.wfile.write(b"220 mail.example.org ESMTP\r\n")

    def _too_many(self, _: str) -> None:
        self._send(429, b'{"error": {"message": "slow down"}}', Retry_After="0.05")

    def _broken(self, _: str) -> None:
        self._send(500, b"<h1>Internal Server Error</h1>", "text/html")

    def _elsewhere(self, _: str) -> None:
        self._send(302, b"", Location="http://127.0.0.1:1/v1")

    def _bad_request(self, _: str) -> None:
        self._send(400, b'{"error": {"message": "I will not look at that"}}')

    def _wrong_key(self, _: str) -> None:
        key = self.headers.get("Authorization", "")
        self._send(401, f'{{"error": "{key} is no key"}}'.encode())

    def _nonsense(self, body: str) -> None:
        with self.server.lock:
            self.server.answered[body] += 1
        self._send(200, self._say("As a language model I like both."))


def answer(request: dict[str, Any]) -> str:
    """The brightness of both pictures; or, of a text that has them, which is higher."""
    (message,) = request["messages"]
    pictures, texts = [], []
    for part in message["content"]:
        if part["type"] == "image_url":
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            pictures.append(float(np.mean(decode_image(data, "picture"))))
        else:
            texts.append(part["text"])
    if pictures:
        return f"A has {pictures[0]:.3f}, B has {pictures[1]:.3f}."
    found = BRIGHTNESS.search("".join(texts))
    if found is None:
        return "-1"
    first, second = float(found[1]), float(found[2])
    return "-1" if abs(first - second) < 0.5 else str(int(second > first))


@contextlib.contextmanager
def serving(manner: Manner = lambda _: "well") -> Iterator[Endpoint]:
    """An endpoint that runs."""
    endpoint = Endpoint(manner)
    thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()
