"""`robot-rl label label=preference`: pairs are drawn, labels are bought, and a reward is fitted to them."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from robot_rl.apps.label_frames import Pictures, StoreFrames, successes
from robot_rl.apps.label_kinds import Advance, Fitted
from robot_rl.apps.pretrain_measures import number_or_none
from robot_rl.apps.signals import stop_requests
from robot_rl.clock import MonotonicClock
from robot_rl.errors import InputError
from robot_rl.rewards import preference
from robot_rl.rewards.answer_cache import AnswerCache
from robot_rl.rewards.buying import Bought, Buyer, Query, questions_left
from robot_rl.rewards.endpoint import ChatEndpoint
from robot_rl.rewards.preference import Pair, PreferenceConfig, agreed, draw_pairs, preferred
from robot_rl.rewards.split import split_episodes
from robot_rl.seeding import Seeds
from robot_rl.types import Array

ANSWERS = "answers.jsonl"
SAMPLED = 16  # pictures whose size is taken for all
BASE64 = 4 / 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is to be asked."""

    pairs: list[Pair]
    queries: list[Query]
    pictures: Pictures
    held_out: list[int]  # episodes


def plan(config: PreferenceConfig, frames: StoreFrames, seeds: Seeds) -> Plan:
    """Pairs of frames, none of which joins an episode to learn from to one that is held out.

    Raises:
        InputError: no goal, or too few episodes.
    """
    if not config.goal.strip():
        raise InputError("label.goal is missing: words behind 'The goal is', such as label.goal='to lift the cube'")
    if len(frames.store) < 2:
        raise InputError(f"{frames.store.path} has {len(frames.store)} episode, and one at least has to be held out")
    # Whether an episode succeeds is not looked at: it is what such labels stand in for.
    parts = split_episodes(
        frames.store.digests,
        [True] * len(frames.store),
        {"learn": 1 - config.held_out, "held_out": config.held_out},
        seeds.numpy("split"),
        "episodes",
    )
    rows = {
        name: np.concatenate([frames.recorded_rows(episode) for episode in members]) for name, members in parts.items()
    }
    pairs = draw_pairs(rows["learn"], rows["held_out"], config.pairs, config.held_out, seeds.numpy("pairs"))
    queries = [Query(first=pair.first, second=pair.second) for pair in pairs]
    if config.both_orders:
        queries = [each for query in queries for each in (query, Query(first=query.second, second=query.first))]
    pictures = Pictures(
        frames=frames, size=config.asked_size, fit=config.fit_images, quality=config.endpoint.jpeg_quality
    )
    return Plan(pairs=pairs, queries=queries, pictures=pictures, held_out=parts["held_out"])


def estimate(config: PreferenceConfig, planned: Plan, path: Path) -> dict[str, Any]:
    """What is still to be bought, without asking anybody."""
    cache = AnswerCache.read(path)
    left = questions_left(planned.queries, planned.pictures, cache, config.goal, config.endpoint)
    sampled = [pair.first for pair in planned.pairs[:SAMPLED]]
    size = float(np.mean([len(planned.pictures.jpeg(row)) for row in sampled]))
    limit = config.endpoint.requests_per_minute
    return {
        "pairs": len(planned.pairs),
        "requests": 2 * len(planned.queries),
        "requests_left": left,
        "answers_kept": len(cache.answers),
        "pictures_mb": round(len(planned.queries) * 2 * size * BASE64 / 1e6, 3),
        "minutes_at_least": None if limit is None else round(left / limit, 2),
    }


def buy(
    config: PreferenceConfig,
    planned: Plan,
    path: Path,
    seeds: Seeds,
    console: Console,
    advance: Callable[[int, int], None],
) -> Bought:
    """Buy what the file of answers does not have yet.

    Raises:
        InputError: nobody answers, or the endpoint's settings are wrong.
    """
    key = os.environ.get(config.endpoint.key_variable, "").strip()
    endpoint = ChatEndpoint(config=config.endpoint, key=key or None)
    cache, stop, told = AnswerCache.open(path), threading.Event(), threading.Lock()

    def stopping() -> None:
        stop.set()
        console.print("Stopping: questions that are under way are waited for. Press Ctrl-C again to stop at once.")

    def said(text: str) -> None:
        with told:
            console.print(text, style="dim", markup=False, soft_wrap=True)

    if cache.damaged:
        said(f"{path}: {cache.damaged} lines cannot be read, as a crash leaves them; they are passed over")
    buyer = Buyer(
        endpoint=endpoint,
        cache=cache,
        pictures=planned.pictures,
        goal=config.goal,
        clock=MonotonicClock(),
        seeds=Seeds(seeds.integer("buying")),
        stop=stop,
        said=said,
    )
    try:
        with stop_requests(stopping):
            return buyer.buy(planned.queries, advance)
    finally:
        cache.close()


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Pairs with an answer."""

    rows: Array  # (N, 2)
    target: Array  # (N,), see `preference_loss`
    held_out: Array  # (N,), bool
    counts: dict[str, int]


def labels_of(config: PreferenceConfig, planned: Plan, bought: Bought) -> Labels:
    """What the answers say of the pairs.

    Raises:
        InputError: too few pairs have an answer that decides.
    """
    kept: list[tuple[Pair, int]] = []
    counts = {"first": 0, "second": 0, "no_difference": 0, "unreadable": 0, "not_answered": 0, "orders_disagree": 0}
    for pair in planned.pairs:
        asked = [Query(first=pair.first, second=pair.second)]
        if config.both_orders:
            asked.append(Query(first=pair.second, second=pair.first))
        if any(query not in bought.answers for query in asked):
            counts["not_answered"] += 1
            continue
        answers = [bought.answers[query] for query in asked]
        answer = agreed(answers[0], answers[1]) if config.both_orders else answers[0]
        if answer is None:
            counts["unreadable"] += 1
            continue
        counts["orders_disagree"] += config.both_orders and answer == -1 and answers != [-1, -1]
        counts[{0: "first", 1: "second", -1: "no_difference"}[answer]] += 1
        kept.append((pair, answer))
    target = preferred([answer for _, answer in kept], config.ties)
    known = np.isfinite(target)
    rows = np.asarray([(pair.first, pair.second) for pair, _ in kept], np.int64).reshape(-1, 2)[known]
    held = np.asarray([pair.held_out for pair, _ in kept], bool)[known]
    decided = target[known] != preference.EQUAL
    if (~held & decided).sum() < 2 or not (held & decided).any():
        learned, apart = int((~held & decided).sum()), int((held & decided).sum())
        raise InputError(
            f"of {len(planned.pairs)} pairs {learned} to learn from and {apart} held out have an answer that decides "
            f"({counts}): ask about more with label.pairs, or say the goal otherwise. What was bought is kept"
        )
    return Labels(rows=rows, target=target[known], held_out=held, counts=counts)


def fit_preference(
    config: PreferenceConfig,
    frames: StoreFrames,
    planned: Plan,
    bought: Bought,
    seeds: Seeds,
    device: torch.device,
    advance: Advance,
) -> Fitted:
    """Fit the ensemble to what was bought, and measure it on the pairs that were held out.

    Raises:
        InputError: too few pairs have an answer that decides.
    """
    labels = labels_of(config, planned, bought)
    gather, learned = frames.gatherer(config.image_size, config.fit_images), ~labels.held_out
    fitted = preference.fit(
        config, gather, labels.rows[learned], labels.target[learned], Seeds(seeds.integer("fit")), device, advance
    )
    held = preference.accuracy(fitted, gather, labels.rows[labels.held_out], labels.target[labels.held_out])
    own = preference.accuracy(fitted, gather, labels.rows[learned], labels.target[learned])
    measures = {
        "pairs": len(planned.pairs),
        "pairs_learned": int(learned.sum()),
        "pairs_held_out": int(labels.held_out.sum()),
        "answers": labels.counts,
        "failed": len(bought.failed),
        "calls": bought.calls,
        "tokens": bought.tokens,
        "accuracy_held_out": number_or_none(held),
        "accuracy_learned": number_or_none(own),
        "agrees_with_success": _agreement(frames, labels),
    }
    return Fitted(
        judge=fitted,
        score=lambda episode: frames.scores(episode, config.image_size, config.fit_images, fitted.score),
        provenance={
            "goal": config.goal,
            "model": config.endpoint.model,
            "address": config.endpoint.address,
            "held_out_episodes": planned.held_out,
        },
        measures=measures,
        plots={"pairs": _examples(labels)},
    )


def _agreement(frames: StoreFrames, labels: Labels) -> dict[str, Any] | None:
    """Of pairs with the last frame of a success and one of a failure: how often the former was preferred.

    Only a check of the labels, where the store knows; None where it has no such pair.
    """
    known = successes(frames.store)
    ending = {
        int(frames.recorded_rows(index)[-1]): success for index, success in enumerate(known) if success is not None
    }
    right = [
        (target > preference.EQUAL) == ending[second]
        for (first, second), target in zip(labels.rows.tolist(), labels.target.tolist(), strict=True)
        if first in ending and second in ending and ending[first] != ending[second] and target != preference.EQUAL
    ]
    return {"pairs": len(right), "share": float(np.mean(right))} if right else None


def _examples(labels: Labels, count: int = 6) -> Sequence[tuple[int, int, float]]:
    return [
        (int(first), int(second), float(target))
        for (first, second), target in zip(labels.rows[:count], labels.target[:count], strict=True)
    ]
