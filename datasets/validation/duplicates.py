"""Episodes that are there more than once, in one store, across its splits, or in two stores."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.facts import episodes_setting, error, flat, information, listed, state_rows, vectors
from robot_rl.datasets.validation.facts import warning as warn
from robot_rl.datasets.validation.sketches import Pair, Sketch, Sketcher, similar
from robot_rl.spec import Spec
from robot_rl.types import Episode

NAMED = 64  # episodes that a command of a remedy names
NEAR = 0.5  # share of the rows that two episodes have in common, from which they are nearly the same


class DuplicateFacts:
    """Collects sketches of what was seen, of what was done, and of both."""

    def __init__(self, spec: Spec, store: str, digests: Sequence[str], like: "DuplicateFacts | None" = None) -> None:
        self.keys = vectors(spec)
        self.store = store
        self.digests = list(digests)
        self._observe: Sketcher = Sketcher(None if like is None else like._observe.scale)
        self._act: Sketcher = Sketcher(None if like is None else like._act.scale)
        self._both: Sketcher = Sketcher(None if like is None else like._both.scale)
        self.observation: list[Sketch] = []
        self.action: list[Sketch] = []
        self.both: list[Sketch] = []
        self.split: list[str | None] = []
        self.language: list[str | None] = []

    def add(self, index: int, episode: Episode) -> None:
        """One episode of the store."""
        del index
        states = state_rows(episode, self.keys)
        actions = flat(episode.action).astype(np.float64)
        self.observation.append(self._observe(states))
        self.action.append(self._act(actions))
        self.both.append(self._both(np.concatenate([states[: len(actions)], actions], axis=1)))
        for values, name in ((self.split, "split"), (self.language, "language")):
            value = episode.metadata.get(name)
            values.append(None if value is None else str(value))

    @cached_property
    def near(self) -> list[Pair]:
        """Episodes that share observations with their actions; asked for once all are added."""
        return similar(self.both, NEAR)

    def findings(self) -> list[Finding]:
        """All checks of this file."""
        return [
            finding
            for check in (exact, between_splits, nearly, same_actions, same_observations)
            for finding in check(self)
        ]


def exact(facts: DuplicateFacts) -> list[Finding]:
    """Episodes with the same checksum, in the same split, under the same instruction."""
    members: dict[tuple[str, str | None, str | None], list[int]] = defaultdict(list)
    for index, digest in enumerate(facts.digests):
        members[digest, facts.split[index], facts.language[index]].append(index)
    twice = [numbers for numbers in members.values() if len(numbers) > 1]
    if not twice:
        return []
    text = f"{len(twice)} episodes are there more than once, such as episodes {listed(twice[0])}"
    remedy = f"they weigh more in training; keep one of each: `robot-rl inspect {facts.store} --fix`"
    return [warn("episodes", text, remedy)]


def between_splits(facts: DuplicateFacts) -> list[Finding]:
    """The same episode in two splits: what is measured on the one was learned on the other."""
    pairs = {(pair.first, pair.second) for pair in facts.near}
    first_with: dict[str, dict[str | None, int]] = defaultdict(dict)
    for index, digest in enumerate(facts.digests):
        first_with[digest].setdefault(facts.split[index], index)
    for members in first_with.values():
        numbers = sorted(members.values())
        pairs |= {(numbers[0], other) for other in numbers[1:]}
    leaking = sorted((a, b) for a, b in pairs if facts.split[a] != facts.split[b])
    if not leaking:
        return []
    splits = sorted({str(facts.split[index]) for pair in leaking for index in pair})
    second = sorted({b for _, b in leaking})
    shown = ", ".join(f"{a} = {b}" for a, b in leaking[:5])
    whole = f" ({len(second)} of the {len(facts.split)} episodes of the store)"
    text = f"{len(second)} episodes are in more than one of the splits {', '.join(splits)}{whole}: {shown}"
    declared = [name for name in splits if name != "None"]
    remedy = (
        f"a validation on them measures memory: ingest again with split={declared[0]}, delete one side, "
        f"{_delete(facts.store, second)}, or split anew: `robot-rl edit split {facts.store} output=FOLDER`"
    )
    return [warn("splits", text, remedy)]


def nearly(facts: DuplicateFacts) -> list[Finding]:
    """Episodes that share many rows without being the same: cut, overlapping, or stored again."""
    pairs = [pair for pair in facts.near if facts.digests[pair.first] != facts.digests[pair.second]]
    if not pairs:
        return []
    best = max(pairs, key=lambda pair: pair.share)
    text = (
        f"{len(pairs)} pairs of episodes share at least {NEAR:.0%} of their steps, such as {best.first} and "
        f"{best.second} ({best.share:.0%})"
    )
    twice = sorted({pair.second for pair in pairs})
    remedy = f"keep one of each: {_delete(facts.store, twice)}"
    return [warn("episodes", text, remedy)]


def same_actions(facts: DuplicateFacts) -> list[Finding]:
    """The same commands in episodes that look different: replays, or actions that were paired with wrong episodes."""
    known = {(pair.first, pair.second) for pair in facts.near}
    pairs = [pair for pair in similar(facts.action, NEAR) if (pair.first, pair.second) not in known]
    if not pairs or not facts.keys:
        return []
    shown = ", ".join(f"{pair.first} and {pair.second}" for pair in pairs[:5])
    text = f"{len(pairs)} pairs of episodes have the same actions and different observations: {shown}"
    return [information("episodes", text, "expected of replays; else actions were paired with the wrong episode")]


def same_observations(facts: DuplicateFacts) -> list[Finding]:
    """The same observations with different actions."""
    if not int(np.prod(np.shape(facts.action[0].hashes))):
        return []
    known = {(pair.first, pair.second) for pair in facts.near}
    pairs = [pair for pair in similar(facts.observation, NEAR) if (pair.first, pair.second) not in known]
    if not pairs:
        return []
    shown = ", ".join(f"{pair.first} and {pair.second}" for pair in pairs[:5])
    text = f"{len(pairs)} pairs of episodes have the same observations and different actions: {shown}"
    return [warn("episodes", text, "one of them is wrong: compare them, and delete it")]


def _delete(store: str, episodes: Sequence[int]) -> str:
    """The command that deletes episodes, unless they are too many for a command line that a person reads."""
    return f"`robot-rl edit delete {store}{f' {episodes_setting(episodes)}' if len(episodes) <= NAMED else ''}`"


def leaks_between(first: DuplicateFacts, second: DuplicateFacts, name: str) -> list[Finding]:
    """Episodes of the second store that the first has too, or nearly."""
    count = len(first.digests)
    exactly = {digest: index for index, digest in reversed(list(enumerate(first.digests)))}
    found = {index: exactly[digest] for index, digest in enumerate(second.digests) if digest in exactly}
    same = len(found)
    for pair in similar([*first.both, *second.both], NEAR):
        if pair.first < count <= pair.second:
            found.setdefault(pair.second - count, pair.first)
    if not found:
        return []
    shown = ", ".join(f"{theirs} = {ours}" for theirs, ours in sorted(found.items())[:5])
    total = len(second.digests)
    text = f"{len(found)} of {total} episodes are in {name} too, {same} of them exactly: {shown} (here = there)"
    remedy = f"leave them out: {_delete(second.store, sorted(found))}"
    return [error("splits", text, remedy)]
