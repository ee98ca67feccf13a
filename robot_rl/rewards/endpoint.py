"""A client for endpoints that speak OpenAI's chat completions, with pictures: one question, one answer, or an error.

Nothing that an endpoint does may hang or crash a run: every request has a deadline for the whole of it, an answer has a
largest size, and what is no answer is asked for again, later and later.
"""

import base64
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robot_rl.checks import require_minimum, require_range
from robot_rl.clock import Clock
from robot_rl.errors import InputError
from robot_rl.exchange import Address, ExchangeError, LateError, Reply, is_loopback, post

AGAIN = (408, 425, 429)
"""Statuses below 500 after which the same question may be answered."""
WRONG_DOOR = {
    401: "the key is missing or wrong",
    403: "the key may not do that",
    404: "there is no such address or model",
    405: "this address takes no questions",
}
SHOWN = 200  # characters of a wrong answer


@dataclass(kw_only=True)
class EndpointConfig:
    """Where a vision-language model answers."""

    address: str = ""  # up to /chat/completions, such as http://127.0.0.1:8000/v1 or https://api.openai.com/v1
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the key, which is written nowhere; unset: no key
    timeout_s: float = 60.0  # of a request, from connecting to the last byte
    attempts: int = 6  # at a question
    back_off_s: float = 1.0  # before the second attempt; doubled each time, times 0.5 to 1.5
    longest_wait_s: float = 120.0  # between attempts, also where the endpoint asks for more
    requests_per_minute: float | None = None  # of all workers together
    workers: int = 4  # questions at a time
    give_up_after: int = 5  # questions in a row without an answer
    temperature: float = 0.0
    maximum_tokens: int = 512  # of an answer
    maximum_bytes: int = 4 * 2**20  # of an answer; more is cut off and counts as an error
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        require_range(self.timeout_s, 0.01, 3600.0, "label.endpoint.timeout_s")
        require_minimum(self.attempts, 1, "label.endpoint.attempts")
        require_range(self.back_off_s, 0.0, 3600.0, "label.endpoint.back_off_s")
        require_range(self.longest_wait_s, 0.0, 86400.0, "label.endpoint.longest_wait_s")
        if self.requests_per_minute is not None:
            require_range(self.requests_per_minute, 1e-3, 1e6, "label.endpoint.requests_per_minute")
        require_range(self.workers, 1, 64, "label.endpoint.workers")
        require_minimum(self.give_up_after, 1, "label.endpoint.give_up_after")
        require_range(self.temperature, 0.0, 2.0, "label.endpoint.temperature")
        require_minimum(self.maximum_tokens, 1, "label.endpoint.maximum_tokens")
        require_minimum(self.maximum_bytes, 1024, "label.endpoint.maximum_bytes")
        require_range(self.jpeg_quality, 1, 100, "label.endpoint.jpeg_quality")


class NoAnswer(Exception):
    """A question that was not answered.

    Args:
        text: why.
        again: asking again may help.
        wait_s: how long the endpoint wants us to wait; None where it does not say.
    """

    def __init__(self, text: str, *, again: bool, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.again, self.wait_s = again, wait_s


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was said, and what it cost as far as the endpoint says."""

    text: str
    model: str  # that answered, in the endpoint's words
    tokens: int | None


@dataclass(kw_only=True, eq=False)
class Pace:
    """Turns of several threads, so far apart; a wish of the endpoint to wait holds for all of them.

    Args:
        clock: of the turns.
        pause: waits so many seconds; True where the run is to stop.
        interval_s: between two requests.
    """

    clock: Clock
    pause: Callable[[float], bool]
    interval_s: float = 0.0
    _next_ns: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def turn(self) -> bool:
        """Wait for the next turn; True where the run is to stop."""
        while True:
            with self._lock:
                now = self.clock.now_ns()
                wait_s = (self._next_ns - now) / 1e9
                if wait_s <= 0:
                    self._next_ns = now + round(self.interval_s * 1e9)
                    return self.pause(0.0)
            if self.pause(wait_s):
                return True

    def postpone(self, wait_s: float) -> None:
        """Nobody has a turn for so long."""
        with self._lock:
            self._next_ns = max(self._next_ns, self.clock.now_ns() + round(wait_s * 1e9))


@dataclass(kw_only=True, eq=False)
class ChatEndpoint:
    """Asks questions, from several threads.

    Args:
        config: where.
        key: for the header; None has none.

    Raises:
        InputError: no address, no model, or a key that would go over the network in the clear.
    """

    config: EndpointConfig
    key: str | None = field(default=None, repr=False)
    _at: Address = field(init=False)

    def __post_init__(self) -> None:
        address = self.config.address
        if not address:
            raise InputError("label.endpoint.address is missing: such as http://127.0.0.1:8000/v1")
        if not self.config.model:
            raise InputError("label.endpoint.model is missing: the name under which the endpoint knows the model")
        try:
            self._at = Address.parse(address)
        except ValueError as error:
            raise InputError(
                f"label.endpoint.address={address}: {error}; write http://HOST:PORT/v1 or https://HOST/v1"
            ) from error
        if self.key is not None:
            if not self.key.isprintable() or not self.key.isascii() or " " in self.key:
                raise InputError(f"the key in {self.config.key_variable} has spaces or line ends: set it again")
            if not self._at.secure and not is_loopback(self._at.host):
                raise InputError(
                    f"label.endpoint.address={address} is not encrypted, and the key in {self.config.key_variable} "
                    "would be read on the way: use https, a tunnel to 127.0.0.1, or unset the variable"
                )

    def ask(self, parts: Sequence[str | bytes]) -> Answer:
        """One request. Text and pictures (JPEG) in the order of `parts`.

        Raises:
            NoAnswer: there was none, for whatever reason.
            InputError: no question will ever be answered: a wrong key, address or model.
        """
        content = [{"type": "text", "text": part} if isinstance(part, str) else _shown(part) for part in parts]
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.maximum_tokens,
        }
        reply = self._exchange(json.dumps(body).encode())
        if reply.status != 200:
            self._refuse(reply)
        return _read_answer(reply.body)

    def _exchange(self, body: bytes) -> Reply:
        config = self.config
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        path = self._at.path.rstrip("/") + "/chat/completions"
        try:
            return post(self._at, path, body, headers, timeout_s=config.timeout_s, maximum_bytes=config.maximum_bytes)
        except LateError as error:
            raise NoAnswer(f"no whole answer within {config.timeout_s:g} s", again=True) from error
        except ExchangeError as error:
            raise NoAnswer(str(error)[:SHOWN], again=True) from error

    def _refuse(self, reply: Reply) -> None:
        status, words = reply.status, _printable(reply.body)
        if self.key is not None:
            words = words.replace(self.key, "(the key)")
        said = f"status {status}" + (f": {words}" if words else "")
        if status in WRONG_DOOR:
            raise InputError(
                f"{self.config.address} answers with {said}: {WRONG_DOOR[status]}. See label.endpoint.address, "
                f"label.endpoint.model and the variable {self.config.key_variable}; what was bought is kept"
            )
        raise NoAnswer(said, again=status in AGAIN or status >= 500, wait_s=_retry_after(reply.headers))


def ask_patiently(
    endpoint: ChatEndpoint,
    parts: Sequence[str | bytes],
    pace: Pace,
    generator: np.random.Generator,
    said: Callable[[str], None],
) -> Answer | None:
    """Ask until there is an answer; None where the run is to stop first.

    Args:
        endpoint: that is asked.
        parts: of the question.
        pace: gives turns.
        generator: of the jitter of waits.
        said: takes a line about an attempt that failed.

    Raises:
        NoAnswer: after the last attempt, or where asking again cannot help.
        InputError: see `ChatEndpoint.ask`.
    """
    config = endpoint.config
    for attempt in range(1, config.attempts + 1):
        if pace.turn():
            return None
        try:
            return endpoint.ask(parts)
        except NoAnswer as error:
            if not error.again or attempt == config.attempts:
                raise
            wait_s = config.back_off_s * 2.0 ** (attempt - 1) * generator.uniform(0.5, 1.5)
            if error.wait_s is not None:
                wait_s = max(wait_s, error.wait_s)
                pace.postpone(min(error.wait_s, config.longest_wait_s))
            wait_s = min(wait_s, config.longest_wait_s)
            said(f"{error}; attempt {attempt} of {config.attempts}, again in {wait_s:.1f} s")
            if pace.pause(wait_s):
                return None
    raise AssertionError("the last attempt answers or raises")


def _shown(jpeg: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"}}


def _read_answer(body: bytes) -> Answer:
    try:
        data = json.loads(body)
        content = data["choices"][0]["message"]["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        model, usage = data.get("model"), data.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise NoAnswer(f"this is no chat completion: {_printable(body)!r}", again=True) from error
    if not isinstance(content, str) or not content.strip():
        raise NoAnswer("the answer is empty", again=True)
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return Answer(
        text=content,
        model=model if isinstance(model, str) else "",
        tokens=tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None,
    )


def _retry_after(headers: dict[str, str]) -> float | None:
    """Seconds; a date is not read, and then the usual wait has to do."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _printable(body: bytes) -> str:
    text = body[: 4 * SHOWN].decode("utf-8", "replace")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:SHOWN]
