"""Episodes as a whole: how they end, what they earn, whether they succeed, how long they are, what they are told."""

from dataclasses import dataclass

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.facts import episodes_setting, information, listed, warning
from robot_rl.spec import Spec
from robot_rl.types import Episode

LENGTH_OUTLIER = 5.0  # median absolute deviations
STUB = 20  # times shorter than the median: a recording that was stopped at once
LIMIT_EPISODES = 3  # of the longest length, terminated without success: fewer may be chance
REWARD_OUTLIER = 100.0  # ranges of the middle 98 % of the rewards beyond the median
REWARD_SAMPLES = 64  # rewards of an episode that stand for it, evenly spread


@dataclass(frozen=True, kw_only=True)
class Ending:
    """One episode in numbers."""

    steps: int
    total: float  # sum of the rewards
    low: float  # smallest reward
    high: float  # largest reward
    terminated: bool
    truncated: bool
    final_observation: bool
    success: bool | None  # anywhere
    success_at_end: bool | None
    first_success: int | None
    language: bool


class EpisodeFacts:
    """Collects what the checks of this file need."""

    def __init__(self, spec: Spec, store: str) -> None:
        self.absent = tuple(spec.metadata.get("absent", ()))
        self.store = store
        self.episodes: list[Ending] = []
        self.rewards: list[float] = []

    def add(self, index: int, episode: Episode) -> None:
        """One episode of the store."""
        del index
        reward = np.nan_to_num(np.asarray(episode.reward, np.float64), posinf=0.0, neginf=0.0)
        self.rewards += reward[np.linspace(0, len(reward) - 1, min(len(reward), REWARD_SAMPLES)).astype(int)].tolist()
        succeeded = None if episode.success is None else np.flatnonzero(episode.success)
        self.episodes.append(
            Ending(
                steps=len(episode),
                total=float(reward.sum()),
                low=float(reward.min()),
                high=float(reward.max()),
                terminated=bool(episode.terminated[-1]),
                truncated=bool(episode.truncated[-1]),
                final_observation=episode.has_final_observation,
                success=None if succeeded is None else len(succeeded) > 0,
                success_at_end=None if episode.success is None else bool(episode.success[-1]),
                first_success=None if succeeded is None or len(succeeded) == 0 else int(succeeded[0]),
                language=bool(episode.metadata.get("language")),
            )
        )

    def findings(self) -> list[Finding]:
        """All checks of this file."""
        checks = (
            absent_parts,
            no_reward,
            constant_reward,
            reward_outliers,
            final_observations,
            open_ends,
            time_limit_as_end,
            ends_without_success,
            goes_on_after_success,
            success_known,
            lengths,
            language,
        )
        return [finding for check in checks for finding in check(self)]


def absent_parts(facts: EpisodeFacts) -> list[Finding]:
    """What the whole source lacks, and what stands in its place."""
    rule = "success.observation=KEY success.index=I success.minimum=X"
    filled = {
        "action": ("no actions", "take them from the next observation: ingest again with action_from=KEY"),
        "end": ("not how episodes end: all count as truncated", "right for clips and time limits; no end is learned"),
        "success": (
            "no success",
            f"ingest again with a rule ({rule}), or `robot-rl edit relabel {facts.store}` with it",
        ),
    }
    return [
        information(part, f"the source records {text}", remedy)
        for part, (text, remedy) in filled.items()
        if part in facts.absent
    ]


def no_reward(facts: EpisodeFacts) -> list[Finding]:
    """Nothing but imitation can be trained without reward."""
    if any(ending.low != 0 or ending.high != 0 for ending in facts.episodes):
        return []
    text = "the source records no reward: all are 0" if "reward" in facts.absent else "there is no reward: all are 0"
    remedy = (
        "imitation needs none; else set datasets.offline.success_reward=[-1,0] in a run (it needs success), or "
        f"`robot-rl edit relabel {facts.store} reward.last_steps=1` where every episode is a success"
    )
    return [warning("reward", text, remedy)]


def constant_reward(facts: EpisodeFacts) -> list[Finding]:
    """The same reward in every step says nothing but how long an episode is."""
    values = {ending.low for ending in facts.episodes} | {ending.high for ending in facts.episodes}
    if len(values) != 1 or values == {0.0}:
        return []
    text = f"the reward is {next(iter(values)):g} in every step: returns only say how long episodes are"
    return [warning("reward", text, "check the key of the reward; a step that succeeds should earn more")]


def reward_outliers(facts: EpisodeFacts) -> list[Finding]:
    """Single rewards far beyond all others: a sensor's error code, or a bonus that drowns the rest."""
    low, middle, high = np.percentile(facts.rewards, [1, 50, 99])
    reach = REWARD_OUTLIER * (high - low)
    if reach == 0:
        return []
    far = [n for n, e in enumerate(facts.episodes) if max(abs(e.low - middle), abs(e.high - middle)) > reach]
    if not far:
        return []
    worst = max(far, key=lambda n: max(abs(facts.episodes[n].low - middle), abs(facts.episodes[n].high - middle)))
    extreme = max(facts.episodes[worst].low, facts.episodes[worst].high, key=lambda value: abs(value - middle))
    text = f"{extreme:.4g} in episode {worst}, where 98 % lie between {low:.4g} and {high:.4g}; episodes {listed(far)}"
    return [warning("reward", text, f"look at them; leave them out: `robot-rl edit delete {facts.store} "
                    f"{episodes_setting(far)}`")]  # fmt: skip


def final_observations(facts: EpisodeFacts) -> list[Finding]:
    """Episodes whose last row of observations repeats the one before."""
    missing = sum(not ending.final_observation for ending in facts.episodes)
    if not missing:
        return []
    text = f"{missing} of {len(facts.episodes)} episodes lack the observation behind their last step"
    remedy = "that step counts for returns, but gives no transition unless it terminated"
    return [information("ends", text, remedy)]


def open_ends(facts: EpisodeFacts) -> list[Finding]:
    """Neither terminated nor truncated."""
    found = [n for n, ending in enumerate(facts.episodes) if not (ending.terminated or ending.truncated)]
    if not found:
        return []
    text = f"{len(found)} episodes neither terminated nor truncated: {listed(found)}"
    remedy = f"they are read as truncated; write it down: `robot-rl inspect {facts.store} --fix`"
    return [warning("ends", text, remedy)]


def time_limit_as_end(facts: EpisodeFacts) -> list[Finding]:
    """Terminated without success, all after the same, largest number of steps: that was a time limit."""
    longest = max(ending.steps for ending in facts.episodes)
    at_limit = [n for n, ending in enumerate(facts.episodes) if ending.steps == longest]
    ended = [n for n in at_limit if facts.episodes[n].terminated and facts.episodes[n].success_at_end is not True]
    if len(ended) < max(LIMIT_EPISODES, 0.9 * len(at_limit)):
        return []
    text = (
        f"{len(ended)} episodes terminate without success after exactly {longest} steps, the longest there is: a time "
        "limit that was stored as the end of the task, so values are cut off there"
    )
    remedy = f"ingest again with done_semantics=truncated (or auto, with a success rule): episodes {listed(ended)}"
    return [warning("ends", text, remedy)]


def ends_without_success(facts: EpisodeFacts) -> list[Finding]:
    """Terminated, success is recorded, and there was none: a failure that ends the task, or a mistaken flag."""
    ended = [ending for ending in facts.episodes if ending.terminated and ending.success is not None]
    failed = sum(ending.success is False for ending in ended)
    if not failed or time_limit_as_end(facts):
        return []
    text = f"{failed} of {len(ended)} episodes that terminated never succeeded"
    return [information("ends", text, "right where a failure ends the task (a fall); else they should be truncated")]


def goes_on_after_success(facts: EpisodeFacts) -> list[Finding]:
    """Steps behind the first success that no policy needs."""
    behind = [e.steps - 1 - e.first_success for e in facts.episodes if e.first_success is not None]
    going_on = [steps for steps in behind if steps > 0]
    if not going_on:
        return []
    text = f"{len(going_on)} episodes go on after their first success, for {np.median(going_on):.0f} steps (median)"
    remedy = "train with datasets.offline.cut_at_success=first where reaching the goal is the task"
    return [information("success", text, remedy)]


def success_known(facts: EpisodeFacts) -> list[Finding]:
    """Success unknown, or never there."""
    if "success" in facts.absent:
        return []
    unknown = sum(ending.success is None for ending in facts.episodes)
    if unknown:
        text = f"success is unknown in {unknown} of {len(facts.episodes)} episodes"
        remedy = (
            f"label it: `robot-rl edit relabel {facts.store} success.observation=KEY success.index=I success.minimum=X`"
        )
        return [information("success", text, remedy)]
    if not any(ending.success for ending in facts.episodes):
        return [warning("success", "no episode succeeds", "check the rule that labels success")]
    return []


def lengths(facts: EpisodeFacts) -> list[Finding]:
    """Episodes far shorter or longer than the others."""
    steps = np.asarray([ending.steps for ending in facts.episodes])
    deviation = np.abs(steps - np.median(steps))
    spread = float(np.median(deviation))
    far = deviation > LENGTH_OUTLIER * spread if spread > 0 else np.zeros(len(steps), bool)
    outliers = np.flatnonzero(far | (steps * STUB < np.median(steps)))
    if len(outliers) == 0:
        return []
    shown = ", ".join(f"{index} ({steps[index]} steps)" for index in outliers[:5])
    text = f"{len(outliers)} episodes are far from the median of {np.median(steps):.0f} steps: {shown}"
    remedy = f"look at them; `robot-rl edit filter {facts.store} minimum_steps=N maximum_steps=N` leaves them out"
    return [information("lengths", text, remedy)]


def language(facts: EpisodeFacts) -> list[Finding]:
    """An instruction in some episodes and not in others."""
    without = [n for n, ending in enumerate(facts.episodes) if not ending.language]
    if len(without) in (0, len(facts.episodes)):
        return []
    text = f"{len(without)} of {len(facts.episodes)} episodes have no instruction: {listed(without)}"
    remedy = f"leave them out (`robot-rl edit delete {facts.store} {episodes_setting(without[:20])}`), or label them"
    return [warning("language", text, remedy)]
