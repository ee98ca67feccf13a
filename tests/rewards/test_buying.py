"""Labels are bought from an endpoint that is slow, wrong, rude or gone: none is lost, and none is bought twice."""

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_endpoint import Endpoint, serving

from robot_rl.clock import FakeClock, MonotonicClock
from robot_rl.datasets.frames import encode_jpeg
from robot_rl.errors import InputError
from robot_rl.rewards.answer_cache import AnswerCache
from robot_rl.rewards.buying import Bought, Buyer, Query, questions_left
from robot_rl.rewards.endpoint import ChatEndpoint, EndpointConfig, NoAnswer, Pace, ask_patiently
from robot_rl.seeding import Seeds

GOAL = "to make it bright"
ONCE = [Query(first=10 * k, second=10 * (k + 1)) for k in range(8)]  # of rising brightness: all are 1


@dataclass(kw_only=True)
class Shades:
    """Grey pictures whose brightness is their number."""

    quality: int = 90
    asked: list[int] = field(default_factory=list)

    def jpeg(self, row: int) -> bytes:
        self.asked.append(row)
        return encode_jpeg(np.full((8, 8, 3), row, np.uint8), self.quality)

    def digest(self, row: int) -> str:
        return str(row)


def settings(endpoint: Endpoint | None = None, **given: object) -> EndpointConfig:
    plain = {"model": "bright-1", "timeout_s": 30.0, "back_off_s": 0.001, "attempts": 3, "workers": 3}
    address = "http://127.0.0.1:9/v1" if endpoint is None else endpoint.address
    return EndpointConfig(**{**plain, "address": address, **given})  # type: ignore[arg-type]  # checked by itself


def buy(
    path: Path,
    config: EndpointConfig,
    queries: Sequence[Query] = ONCE,
    *,
    key: str | None = None,
    stop_after: int | None = None,
    lines: list[str] | None = None,
    pictures: Shades | None = None,
) -> Bought:
    """Buy with a cache at `path`; `stop_after` labels a person has enough."""
    cache, stop = AnswerCache.open(path), threading.Event()
    buyer = Buyer(
        endpoint=ChatEndpoint(config=config, key=key),
        cache=cache,
        pictures=Shades() if pictures is None else pictures,
        goal=GOAL,
        clock=MonotonicClock(),
        seeds=Seeds(0),
        stop=stop,
        said=(lambda _: None) if lines is None else lines.append,
    )

    def advance(done: int, failed: int) -> None:
        del failed
        if stop_after is not None and done >= stop_after:
            stop.set()

    try:
        return buyer.buy(queries, advance)
    finally:
        cache.close()


def test_every_pair_is_asked_in_two_stages_and_kept(tmp_path: Path) -> None:
    with serving() as endpoint:
        bought = buy(tmp_path / "answers.jsonl", settings(endpoint))
        assert bought.answers == dict.fromkeys(ONCE, 1)
        assert (bought.calls, bought.tokens, bought.failed) == (16, 16 * 7, {})
        assert set(endpoint.answered.values()) == {1}
        # all of it again costs nothing
        pictures = Shades()
        again = buy(tmp_path / "answers.jsonl", settings(endpoint), pictures=pictures)
        assert again.answers == bought.answers
        assert (again.calls, endpoint.requests, pictures.asked) == (0, 16, [])
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sorted(line["stage"] for line in lines) == [1] * 8 + [2] * 8
    assert lines[0]["answered_by"] == "bright-1"


RUDE = ["html", "malformed", "other_json", "deep", "empty", "null", "huge", "half", "hang_up", "no_http", "too_many"]
RUDE += ["broken", "parts"]


@pytest.mark.parametrize("way", RUDE)
def test_a_rude_answer_is_asked_for_again_and_costs_no_label(tmp_path: Path, way: str) -> None:
    with serving(lambda number: way if number % 3 == 1 else "well") as endpoint:
        config = settings(endpoint, maximum_bytes=100_000, attempts=20, workers=2)
        bought = buy(tmp_path / "answers.jsonl", config, ONCE[:3])
        assert bought.answers == dict.fromkeys(ONCE[:3], 1)
        assert set(endpoint.answered.values()) == {1}
        assert endpoint.requests >= 6


@pytest.mark.parametrize("way", ["asleep", "trickle", "trickled_headers"])
def test_a_request_has_a_deadline_however_slowly_bytes_come(tmp_path: Path, way: str) -> None:
    with serving(lambda number: way if number == 0 else "well") as endpoint:
        lines: list[str] = []
        bought = buy(tmp_path / "a.jsonl", settings(endpoint, timeout_s=1.0, attempts=40), ONCE[:1], lines=lines)
        assert bought.answers == {ONCE[0]: 1}
        assert "no whole answer within 1 s" in lines[0]


def test_a_connection_that_comes_behind_the_deadline_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, calls = socket.create_connection, itertools.count()

    def slow(*given: Any, **more: Any) -> socket.socket:  # as where the first address of a host is silent
        if next(calls) == 0:
            time.sleep(1.5)
        return connect(*given, **more)

    monkeypatch.setattr(socket, "create_connection", slow)
    with serving() as endpoint:
        lines: list[str] = []
        bought = buy(tmp_path / "a.jsonl", settings(endpoint, timeout_s=1.0, attempts=40), ONCE[:1], lines=lines)
        assert bought.answers == {ONCE[0]: 1}
        assert "no whole answer within 1 s" in lines[0]
        assert set(endpoint.answered.values()) == {1}


def test_an_endpoint_that_is_gone_ends_the_run_with_what_was_bought(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with serving(lambda number: "well" if number < 5 else "broken") as endpoint:
        with pytest.raises(InputError, match=r"got no answer .* answers that were bought are in"):
            buy(path, settings(endpoint, give_up_after=2, attempts=2))
        assert endpoint.answered.total() == 5
    assert len(path.read_text().splitlines()) == 5
    with pytest.raises(InputError, match="2 questions in a row"):  # nobody listens
        buy(path, settings(None, give_up_after=2, attempts=2))
    assert len(path.read_text().splitlines()) == 5
    with serving() as endpoint:
        bought = buy(path, settings(endpoint))
        assert bought.answers == dict.fromkeys(ONCE, 1)
        assert (bought.calls, endpoint.requests) == (11, 11)


def test_a_stop_keeps_what_is_under_way_and_the_next_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with serving(lambda _: "slowly") as endpoint:
        first = buy(path, settings(endpoint), stop_after=2)
        assert first.stopped
        assert len(first.answers) < 8
        assert len(path.read_text().splitlines()) == endpoint.answered.total()
        assert buy(path, settings(endpoint)).answers == dict.fromkeys(ONCE, 1)
        assert set(endpoint.answered.values()) == {1}


def test_a_wrong_key_ends_it_at_once_and_is_not_repeated_to_anybody(tmp_path: Path) -> None:
    with serving(lambda _: "wrong_key") as endpoint:
        with pytest.raises(InputError, match="401") as caught:
            buy(tmp_path / "a.jsonl", settings(endpoint, workers=1), key="sk-secret")
        assert endpoint.requests == 1
        assert endpoint.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(caught.value)
    assert "the key is missing or wrong" in str(caught.value)
    assert not (tmp_path / "a.jsonl").read_text()


def test_a_question_that_is_refused_is_not_asked_again_and_stops_nobody(tmp_path: Path) -> None:
    with serving(lambda number: "bad_request" if number == 0 else "well") as endpoint:
        bought = buy(tmp_path / "a.jsonl", settings(endpoint, workers=1))
        assert bought.failed == {ONCE[0]: 'status 400: {"error": {"message": "I will not look at that"}}'}
        assert bought.answers == dict.fromkeys(ONCE[1:], 1)
        assert endpoint.requests == 1 + 14


def test_an_answer_without_a_number_is_kept_and_counts_as_none(tmp_path: Path) -> None:
    with serving(lambda _: "nonsense") as endpoint:
        assert buy(tmp_path / "a.jsonl", settings(endpoint)).answers == dict.fromkeys(ONCE, None)
        assert buy(tmp_path / "a.jsonl", settings(endpoint)).calls == 0


def test_a_redirection_is_not_followed(tmp_path: Path) -> None:
    with serving(lambda _: "elsewhere") as endpoint, pytest.raises(InputError, match="status 302"):
        buy(tmp_path / "a.jsonl", settings(endpoint, give_up_after=1, workers=1))


def test_equal_frames_are_asked_about_once(tmp_path: Path) -> None:
    class Same(Shades):
        def jpeg(self, row: int) -> bytes:
            return super().jpeg(row % 20)

        def digest(self, row: int) -> str:
            return str(row % 20)

    with serving(lambda _: "slowly") as endpoint:
        cache = AnswerCache.open(tmp_path / "a.jsonl")
        queries = [Query(first=20 * k, second=20 * k + 10) for k in range(6)]
        buyer = Buyer(
            endpoint=ChatEndpoint(config=settings(endpoint, workers=6)),
            cache=cache,
            pictures=Same(),
            goal=GOAL,
            clock=MonotonicClock(),
            seeds=Seeds(0),
            stop=threading.Event(),
            said=lambda _: None,
        )
        assert buyer.buy(queries, lambda *_: None).answers == dict.fromkeys(queries, 1)
        cache.close()
        assert endpoint.requests == 2


# The file of answers --------------------------------------------------------------------------------------------------
def test_a_line_that_a_crash_cut_is_passed_over_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with serving() as endpoint:
        buy(path, settings(endpoint), ONCE[:2])
        whole = path.read_bytes()
        cut = whole[: whole.rfind(b"\n", 0, len(whole) - 1) + 20]
        path.write_bytes(cut)
        before = endpoint.requests
        assert buy(path, settings(endpoint), ONCE[:2]).answers == dict.fromkeys(ONCE[:2], 1)
        assert endpoint.requests == before + 1
    assert path.read_bytes().startswith(cut)
    cache = AnswerCache.read(path)
    assert (len(cache.answers), cache.damaged) == (4, 1)


def test_any_bytes_in_the_file_are_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(
        b'\xff\xfe\x00\n[1]\n{"key": 3, "answer": "1"}\nnull\n{"key": "k", "answer": "1"}\n\n' + b"[" * 9999
    )
    cache = AnswerCache.read(path)
    assert cache.answers == {"k": "1"}
    assert cache.damaged == 5


def test_half_a_character_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    said = "brighter \ud83d"  # the first half of a symbol, where the answer was cut
    cache = AnswerCache.open(tmp_path / "answers.jsonl")
    cache.add("k", said)
    cache.close()
    assert AnswerCache.read(tmp_path / "answers.jsonl").answers == {"k": said}


def test_another_model_goal_or_picture_is_another_question(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with serving() as endpoint:
        config = settings(endpoint)
        buy(path, config, ONCE[:2])
        cache = AnswerCache.read(path)
        assert questions_left(ONCE[:2], Shades(), cache, GOAL, config) == 0
        assert questions_left(ONCE[:3], Shades(), cache, GOAL, config) == 2
        assert questions_left(ONCE[:2], Shades(), cache, "to sleep", config) == 4
        assert questions_left(ONCE[:2], Shades(), cache, GOAL, settings(endpoint, model="other")) == 4
        assert questions_left(ONCE[:2], Shades(quality=50), cache, GOAL, config) == 4


# Pace -----------------------------------------------------------------------------------------------------------------
def waiting(clock: FakeClock, waits: list[float]) -> Callable[[float], bool]:
    def pause(seconds: float) -> bool:
        if seconds > 0:
            waits.append(seconds)
            clock.advance(seconds)
        return False

    return pause


def test_requests_are_so_far_apart() -> None:
    clock, waits = FakeClock(), list[float]()
    pace = Pace(clock=clock, pause=waiting(clock, waits), interval_s=2.0)
    times = []
    for _ in range(4):
        assert not pace.turn()
        times.append(clock.now_ns() / 1e9)
    assert times == [0.0, 2.0, 4.0, 6.0]
    pace.postpone(10.0)
    pace.turn()
    assert clock.now_ns() == pytest.approx(16e9)


def test_waits_double_and_the_endpoints_wish_is_a_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = ChatEndpoint(config=settings(None, attempts=5, back_off_s=1.0, longest_wait_s=20.0))
    wishes = iter([None, None, 7.0, 500.0])

    def refused(_: Sequence[str | bytes]) -> None:
        raise NoAnswer("busy", again=True, wait_s=next(wishes))

    clock, waits = FakeClock(), list[float]()
    pace = Pace(clock=clock, pause=waiting(clock, waits))
    monkeypatch.setattr(endpoint, "ask", refused)
    with pytest.raises(StopIteration):
        ask_patiently(endpoint, [], pace, np.random.default_rng(0), lambda _: None)
    assert 0.5 <= waits[0] <= 1.5
    assert 1.0 <= waits[1] <= 3.0
    assert waits[2] == 7.0
    assert waits[3] == 20.0


@pytest.mark.parametrize(
    ("given", "key", "message"),
    [
        ({"address": ""}, None, "address is missing"),
        ({"model": ""}, None, "model is missing"),
        ({"address": "127.0.0.1:8000"}, None, "write http://HOST:PORT/v1"),
        ({"address": "http://host:99999/v1"}, None, "address="),
        ({"address": "http://user:word@host/v1"}, None, "write http://HOST:PORT/v1"),
        ({"address": "http://example.org/v1"}, "sk", "not encrypted"),
        ({}, "two words", "spaces or line ends"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_sent(
    given: dict[str, str], key: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ChatEndpoint(config=settings(None, **given), key=key)


def test_a_key_may_go_to_this_machine_in_the_clear_and_anywhere_encrypted() -> None:
    for address in ("http://localhost:1/v1", "http://[::1]:1/v1", "https://example.org/v1"):
        endpoint = ChatEndpoint(config=settings(None, address=address), key="sk-secret")
        assert "sk-secret" not in repr(endpoint)
