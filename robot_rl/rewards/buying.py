"""Labels of pairs are bought: two questions each, several at a time, each answer kept before the next is asked."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from robot_rl.clock import Clock
from robot_rl.errors import InputError
from robot_rl.rewards import prompts
from robot_rl.rewards.answer_cache import AnswerCache, key_of
from robot_rl.rewards.endpoint import ChatEndpoint, EndpointConfig, NoAnswer, Pace, ask_patiently
from robot_rl.seeding import Seeds

POLL_S = 0.2


class Pictures(Protocol):
    """Frames by number, from several threads."""

    quality: int
    """Of the JPEG."""

    def jpeg(self, row: int) -> bytes:
        """A frame as it is sent."""

    def digest(self, row: int) -> str:
        """What tells it from others, whatever made the JPEG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Two frames in the order in which they are shown."""

    first: int
    second: int


@dataclass(kw_only=True)
class Bought:
    """What came of it."""

    answers: dict[Query, int | None] = field(default_factory=dict)  # 0, 1, -1; None where it could not be read
    failed: dict[Query, str] = field(default_factory=dict)
    calls: int = 0  # that were answered now
    tokens: int = 0  # of these, as far as the endpoint says
    stopped: bool = False  # by a person


def questions_left(
    queries: Sequence[Query], pictures: Pictures, cache: AnswerCache, goal: str, config: EndpointConfig
) -> int:
    """How many requests are still to be made, if each is answered at once."""
    left = 0
    for query in queries:
        looked = cache.answers.get(look_key(query, pictures, goal, config))
        if looked is None:
            left += 2
        elif decide_key(looked, goal, config) not in cache.answers:
            left += 1
    return left


def look_key(query: Query, pictures: Pictures, goal: str, config: EndpointConfig) -> str:
    """Of the first question. The address is not in it: the same model may answer elsewhere."""
    shown = [pictures.digest(number) for number in (query.first, query.second)]
    return key_of(stage=1, pictures=shown, quality=pictures.quality, **_asked(goal, config))


def decide_key(looked: str, goal: str, config: EndpointConfig) -> str:
    """Of the second question, about the answer to the first."""
    return key_of(stage=2, said=looked, **_asked(goal, config))


def _asked(goal: str, config: EndpointConfig) -> dict[str, Any]:
    return {
        "goal": goal,
        "model": config.model,
        "prompts": prompts.VERSION,
        "temperature": config.temperature,
        "tokens": config.maximum_tokens,
    }


@dataclass(kw_only=True, eq=False)
class Buyer:
    """Asks about pairs until all are labelled, nobody answers any more, or a person stops it.

    Args:
        endpoint: that is asked.
        cache: open for appending.
        pictures: of frames.
        goal: in words.
        clock: of the pace.
        seeds: of the jitter of waits.
        stop: is set where no further question is to be asked.
        said: takes lines for a person.
    """

    endpoint: ChatEndpoint
    cache: AnswerCache
    pictures: Pictures
    goal: str
    clock: Clock
    seeds: Seeds
    stop: threading.Event
    said: Callable[[str], None]
    _lock: Any = field(default_factory=threading.Condition, repr=False)
    _asked: set[str] = field(default_factory=set, repr=False)  # keys of questions that are under way
    _bought: Bought = field(default_factory=Bought, repr=False)

    def buy(self, queries: Sequence[Query], advance: Callable[[int, int], None]) -> Bought:
        """Label them all.

        Args:
            queries: in the order in which they are asked.
            advance: takes how many are labelled and how many failed.

        Raises:
            InputError: nobody answers, or the key, address or model are wrong; all that was bought is in the cache.
        """
        config = self.endpoint.config
        limit = config.requests_per_minute
        pace = Pace(clock=self.clock, pause=self.stop.wait, interval_s=0.0 if limit is None else 60.0 / limit)
        left: queue.SimpleQueue[Query] = queue.SimpleQueue()
        for each in dict.fromkeys(queries):
            left.put(each)
        done: queue.SimpleQueue[tuple[Query | None, Any]] = queue.SimpleQueue()
        workers = [
            threading.Thread(target=self._work, args=(left, done, pace, self.seeds.numpy("waits", number)), daemon=True)
            for number in range(config.workers)
        ]
        for worker in workers:
            worker.start()
        bought, in_a_row, running = self._bought, 0, len(workers)
        fatal: BaseException | None = None
        query: Query | None
        while running:
            try:
                query, outcome = done.get(timeout=POLL_S)  # signals are looked at between
            except queue.Empty:
                continue
            if query is None:
                running -= 1
            elif isinstance(outcome, NoAnswer):
                bought.failed[query] = str(outcome)
                in_a_row += 1
                if in_a_row >= config.give_up_after and fatal is None:
                    fatal = self._nobody(in_a_row, str(outcome))
                    self.stop.set()
            elif isinstance(outcome, BaseException):
                fatal = outcome if fatal is None else fatal
                self.stop.set()
            else:
                bought.answers[query] = outcome[0]
                in_a_row = 0
            advance(len(bought.answers), len(bought.failed))
        if fatal is not None:
            raise fatal
        bought.stopped = self.stop.is_set()
        return bought

    def _nobody(self, count: int, why: str) -> InputError:
        return InputError(
            f"{count} questions in a row got no answer from {self.endpoint.config.address} ({why}). "
            f"{len(self.cache.answers)} answers that were bought are in {self.cache.path}: give the same command again "
            "to go on, none of them is bought twice"
        )

    def _work(self, left: Any, done: Any, pace: Pace, generator: Any) -> None:
        """Take questions until there are none; the last thing that is said is that it ends."""
        try:
            while not self.stop.is_set():
                try:
                    query = left.get_nowait()
                except queue.Empty:
                    return
                try:
                    labelled, answer = self._label(query, pace, generator)
                except NoAnswer as error:
                    done.put((query, error))
                    continue
                if labelled:
                    done.put((query, (answer,)))
        except BaseException as error:  # noqa: BLE001  # the main thread raises it again
            done.put((Query(first=-1, second=-1), error))
        finally:
            done.put((None, None))

    def _label(self, query: Query, pace: Pace, generator: Any) -> tuple[bool, int | None]:
        """Whether it was labelled before a stop, and the label."""
        config = self.endpoint.config
        key = look_key(query, self.pictures, self.goal, config)

        def look() -> list[str | bytes]:
            before, between, behind = prompts.look(self.goal)
            first, second = (self.pictures.jpeg(number) for number in (query.first, query.second))
            return [before, first, between, second, behind]

        looked = self._kept(key, 1, query, look, pace, generator)
        if looked is None:
            return False, None
        key = decide_key(looked, self.goal, config)
        decided = self._kept(key, 2, query, lambda: [prompts.decide(self.goal, looked)], pace, generator)
        return (False, None) if decided is None else (True, prompts.read(decided))

    def _kept(
        self,
        key: str,
        stage: int,
        query: Query,
        parts: Callable[[], Sequence[str | bytes]],
        pace: Pace,
        generator: Any,
    ) -> str | None:
        """The answer, bought where it is not there; None where a stop came first. `parts` makes the question."""
        with self._lock:
            while key in self._asked:  # frames may be equal: then the other thread's answer is ours
                self._lock.wait()
            known = self.cache.answers.get(key)
            if known is not None:
                return known
            self._asked.add(key)
        try:
            answer = ask_patiently(self.endpoint, parts(), pace, generator, self.said)
            if answer is None:
                return None
            with self._lock:
                self.cache.add(
                    key,
                    answer.text,
                    stage=stage,
                    frames=[query.first, query.second],
                    model=self.endpoint.config.model,
                    answered_by=answer.model,
                    tokens=answer.tokens,
                )
                self._bought.calls += 1
                self._bought.tokens += 0 if answer.tokens is None else answer.tokens
            return answer.text
        finally:
            with self._lock:
                self._asked.discard(key)
                self._lock.notify_all()
