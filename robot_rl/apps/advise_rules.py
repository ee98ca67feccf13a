"""Which recipe fits a data set: tables of rules over its measures, each with its threshold, its reason and its source.

For each question the first rule that applies answers. What the data does not tell is answered with `unknown`, and with
how to find out. The rules are those of our own results (docs/results.md, docs/algorithms.md), few and on small tasks,
and of published ones; they say where to start, not where to end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robot_rl.datasets.measures import Measures
from robot_rl.replay.weights import effective_episodes, return_weights, weighted_mean_return

FEW_STEPS = 10_000  # transitions below which Cal-QL alone did not learn: 758 and 6,729 in docs/results.md
RELIABLE = 0.95  # share of successful episodes, or trajectory quality, from which data counts as expert
HALF = 0.5  # share of successful episodes: the pen (1.0) could drop its data, the door (0.28) could not
POOR = 0.05  # share of successful episodes, or trajectory quality, below which there is nothing to imitate
WEIGHTING_GAIN = 0.05  # of the range of returns, by which weighting raises the mean return of what is sampled
WEIGHTING_EPISODES = 5.0  # effective ones that it must leave
DISAGREEMENT = 0.4  # variance of actions of neighbouring states over that of all actions
RANDOM = 0.9  # roughness and disagreement of random actions: 0.94 to 1.01 on hopper, half_cheetah and reacher_easy
SMOOTH = 0.3  # roughness of actions below which disagreement is not noise
NOTHING_TO_LEARN = ("absent", "constant")

RESULTS = "docs/results.md"
REGIMES = "Three Regimes of Offline-to-Online RL, arXiv 2510.01460: right in 45 of 63 cases, opposite in 3"
TABLE = "CORL's README, after 1M online steps: Cal-QL 97 on AntMaze (sparse), -0.8 on Adroit cloned (dense), ReBRAC 93"
DATASETS = "A Dataset Perspective on Offline RL, arXiv 2111.04714: cloning follows TQ, constrained methods need less"
WEIGHTS = "Hong et al., ICLR 2023, arXiv 2306.13085"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An answer, when it applies, and why."""

    answer: str
    when: Callable[[Measures], bool]
    because: Callable[[Measures], str]
    source: str
    settings: tuple[str, ...] = ()  # words of the command line for every phase
    online: tuple[str, ...] = ()  # words that only the online phases need


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The rule that applied to a question."""

    question: str
    answer: str
    because: str
    source: str
    settings: tuple[str, ...] = ()
    online: tuple[str, ...] = ()


def recommend(measures: Measures) -> list[Choice]:
    """The first rule that applies, for every question."""
    choices = []
    for question, rules in QUESTIONS.items():
        rule = next((rule for rule in rules if rule.when(measures)), None)
        if rule is not None:
            choices.append(
                Choice(
                    question=question,
                    answer=rule.answer,
                    because=rule.because(measures),
                    source=rule.source,
                    settings=rule.settings,
                    online=rule.online,
                )
            )
    return choices


def success(measures: Measures) -> float | None:
    """Share of successful episodes, where all of them say."""
    return measures.success_share if measures.known_success == measures.episodes else None


def _reward_learnable(m: Measures) -> bool:
    return m.reward not in NOTHING_TO_LEARN or success(m) is not None


def _quality(m: Measures) -> float | None:
    """Trajectory quality where references are known, else the share of successful episodes, where it says something."""
    return m.trajectory_quality if m.trajectory_quality is not None else success(m)


def _quality_text(m: Measures) -> str:
    parts = []
    if m.trajectory_quality is not None:
        parts.append(f"trajectory quality {m.trajectory_quality:.2f} (0 random, 1 expert)")
    if (share := success(m)) is not None:
        parts.append(f"{share:.0%} of the episodes succeed")
    return ", ".join(parts) if parts else "how good the episodes are is unknown"


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _at_least(value: float | None, limit: float) -> bool:
    return value is not None and value >= limit


METHOD = (
    Rule(
        answer="nothing can be trained yet",
        when=lambda m: m.action_channels == 0,
        because=lambda m: "no actions are recorded: ingest again with action_from=KEY, which takes them from a state",
        source="-",
    ),
    Rule(
        answer="imitation",
        when=lambda m: not _reward_learnable(m),
        because=lambda m: (
            f"the reward is {m.reward} and success is unknown, so there is nothing to improve on; label "
            "success to go further (`robot-rl edit relabel`)"
        ),
        source="-",
        settings=("algorithm=bc",),
    ),
    Rule(
        answer="random data: learn online from a mixture with it",
        when=lambda m: _at_least(m.action_roughness, RANDOM) and _at_least(m.action_disagreement, RANDOM),
        because=lambda m: (
            f"actions are as rough as noise ({m.action_roughness:.2f}) and neighbouring states disagree on "
            f"{m.action_disagreement:.0%} of their variance: there is nothing to imitate, but dynamics and rewards"
        ),
        source=DATASETS,
        settings=("algorithm=rlpd",),
    ),
    Rule(
        answer="imitation, then online learning that keeps the demonstrations",
        when=lambda m: m.steps < FEW_STEPS and m.velocities == "missing" and not _at_least(_quality(m), HALF),
        because=lambda m: (
            f"{m.steps} steps, {_quality_text(m)}, and velocities are hidden: on such data (the Adroit door) "
            "cloning reached 0.42 and Cal-QL with cloning 0.06"
        ),
        source=RESULTS,
        settings=("algorithm=bc",),
    ),
    Rule(
        answer="weak data: learn online from a mixture with it",
        when=lambda m: _below(_quality(m), POOR),
        because=lambda m: f"{_quality_text(m)}: an imitation would fail alike, but the data shows dynamics and rewards",
        source=DATASETS,
        settings=("algorithm=rlpd",),
    ),
    Rule(
        answer="conservative offline RL with a cloning term",
        when=lambda m: m.steps < FEW_STEPS and (m.reward == "sparse" or m.reward in NOTHING_TO_LEARN),
        because=lambda m: (
            f"{m.steps} steps are few: on 758 steps of the Adroit pen Cal-QL alone reached 0.0 to 0.1, with a "
            "cloning term 0.70 to 0.82, cloning alone 0.55 to 0.67"
        ),
        source=RESULTS,
        settings=("algorithm=wsrl", "algorithm.actor_behaviour_cloning_weight=10.0"),
    ),
    Rule(
        answer="imitation first, and conservative offline RL to go beyond it",
        when=lambda m: _at_least(_quality(m), RELIABLE),
        because=lambda m: f"{_quality_text(m)}: cloning comes close to such data, and tells what the rest must beat",
        source=DATASETS,
        settings=("algorithm=bc",),
    ),
    Rule(
        answer="conservative offline RL (Cal-QL, as WSRL pre-trains)",
        when=lambda m: m.reward == "sparse" or m.reward in NOTHING_TO_LEARN,
        because=lambda m: f"sparse reward, {m.steps} steps, {_quality_text(m)}: values have to be carried far back",
        source=TABLE,
        settings=("algorithm=wsrl",),
    ),
    Rule(
        answer="offline RL held to the data by cloning (ReBRAC)",
        when=lambda m: m.reward == "dense" and _quality(m) is not None,
        because=lambda m: f"dense reward, {_quality_text(m)}: the conservative term fails there, cloning terms do not",
        source=TABLE,
        settings=("algorithm=rebrac",),
    ),
    Rule(
        answer="unknown: train ReBRAC and bc, and compare",
        when=lambda m: True,
        because=lambda m: (
            "how good the episodes are is unknown: give environment_return=[RANDOM,EXPERT], or label success"
        ),
        source=DATASETS,
        settings=("algorithm=rebrac",),
    ),
)

ONLINE = (
    Rule(
        answer="none yet",
        when=lambda m: m.action_channels == 0,
        because=lambda m: "no actions are recorded",
        source="-",
    ),
    Rule(
        answer="none, before success is labelled",
        when=lambda m: not _reward_learnable(m),
        because=lambda m: f"the reward is {m.reward} and success is unknown: a critic would learn that nothing pays",
        source="-",
    ),
    Rule(
        answer="keep half of each batch",
        when=lambda m: _below(success(m), HALF),
        because=lambda m: f"{_quality_text(m)}: on the door (28 %) keeping took 0.06 to 0.43, dropping ended at 0.00",
        source=RESULTS,
        online=("+phases.online.shares={offline: 0.5, online: 0.5}",),
    ),
    Rule(
        answer="drop the data after a warm-up (WSRL), unless the test below says otherwise",
        when=lambda m: _at_least(success(m), HALF),
        because=lambda m: (
            f"{_quality_text(m)}: on the pen (100 %) dropping took 0.70-0.82 to 0.86-0.94, on Lift 0.40-0.65 to "
            "1.00; both dipped at the switch"
        ),
        source=RESULTS,
        online=("+phases.online.shares={online: 1.0}",),
    ),
    Rule(
        answer="unknown until the offline phase is evaluated",
        when=lambda m: True,
        because=lambda m: (
            "success is not recorded, so the data does not say whether the policy or the data is worth more"
        ),
        source=REGIMES,
        online=("+phases.online.shares={offline: 0.5, online: 0.5}",),
    ),
)

SWITCH = (
    Rule(
        answer="evaluate after the offline phase, and preserve what is better",
        when=lambda m: m.action_channels > 0 and m.reward not in NOTHING_TO_LEARN,
        because=lambda m: (
            f"keep the data where the policy's return is below the data's mean of {m.returns.mean:.4g} (best "
            f"{m.returns.maximum:.4g}), drop it where it is above"
        ),
        source=REGIMES,
    ),
)

SAMPLING = (
    Rule(
        answer="uniform",
        when=lambda m: m.returns.maximum == m.returns.minimum,
        because=lambda m: "all episodes have the same return: there is nothing to weight by",
        source=WEIGHTS,
    ),
    Rule(
        answer="weight episodes by return",
        when=lambda m: weighting(m)[0] >= WEIGHTING_GAIN and weighting(m)[1] >= WEIGHTING_EPISODES,
        because=lambda m: (
            f"{_weighting_text(m)}: above {WEIGHTING_GAIN:.0%} and {WEIGHTING_EPISODES:g}; where chance decides "
            "a lot it prefers lucky episodes"
        ),
        source=WEIGHTS,
        settings=("+datasets.offline.weighting=return",),
    ),
    Rule(
        answer="uniform",
        when=lambda m: True,
        because=lambda m: (
            f"{_weighting_text(m)}: that needs {WEIGHTING_GAIN:.0%} and "
            f"{WEIGHTING_EPISODES:g} to be worth it; a higher weighting_temperature leaves more episodes"
        ),
        source=WEIGHTS,
    ),
)

HISTORY = (
    Rule(
        answer="add velocities, or show the policy the observations before",
        when=lambda m: m.velocities == "missing",
        because=lambda m: (
            f"state and action explain {m.motion_explained:.0%} of the next change, with the change before "
            f"{m.motion_explained_with_history:.0%}: motion is hidden. On Lift that decided whether policies swing"
        ),
        source=RESULTS,
    ),
    Rule(
        answer="not needed",
        when=lambda m: m.velocities == "measured",
        because=lambda m: (
            f"state and action explain {m.motion_explained:.0%} of the next change, with the change before "
            f"{m.motion_explained_with_history:.0%}"
        ),
        source=RESULTS,
    ),
    Rule(
        answer="not needed, as far as names tell",
        when=lambda m: m.velocities == "named",
        because=lambda m: (
            "the observations name velocities; there are too few steps to measure whether they are all there"
        ),
        source="-",
    ),
    Rule(
        answer="unknown",
        when=lambda m: True,
        because=lambda m: "too few steps, or no vector of numbers, to tell whether motion is hidden",
        source="-",
    ),
)

CHUNKS = (
    Rule(
        answer="unknown",
        when=lambda m: m.action_disagreement is None or m.action_roughness is None,
        because=lambda m: "it takes two episodes with vectors of states and actions to tell",
        source="-",
    ),
    Rule(
        answer="a policy that can hold several ways: flow (fql), or action chunks",
        when=lambda m: _at_least(m.action_disagreement, DISAGREEMENT) and _below(m.action_roughness, SMOOTH),
        because=lambda m: (
            f"neighbouring states of different episodes disagree on {m.action_disagreement:.0%} of the action's "
            f"variance, though actions are smooth (roughness {m.action_roughness:.2f}): several ways to do it, or a "
            "state that hides something; a Gaussian averages them"
        ),
        source="Chi et al. 2023, arXiv 2303.04137 (several modes); Zhao et al. 2023, arXiv 2304.13705 (chunks)",
    ),
    Rule(
        answer="single actions of a Gaussian",
        when=lambda m: True,
        because=lambda m: (
            f"neighbouring states disagree on {m.action_disagreement:.0%} of the action's variance at a roughness "
            f"of {m.action_roughness:.2f}: "
            + ("that is noise" if _at_least(m.action_roughness, SMOOTH) else "the state tells it")
        ),
        source="Chi et al. 2023, arXiv 2303.04137",
    ),
)

REWARD = (
    Rule(
        answer="-1 a step until success",
        when=lambda m: success(m) is not None and m.reward != "dense" and (success(m) or 0.0) > 0,
        because=lambda m: (
            f"success is known in all episodes and the reward is {m.reward}; failed episodes then keep -1 for "
            "ever, as their tail"
        ),
        source="configs/experiment/lift.yaml; WSRL for binary tasks",
        settings=("+datasets.offline.success_reward=[-1.0,0.0]", "replay.monte_carlo_tail=constant"),
    ),
)

ENDS = (
    Rule(
        answer="end episodes with their first success",
        when=lambda m: m.steps_after_success is not None,
        because=lambda m: (
            f"episodes go on for {m.steps_after_success:.0f} steps (median) behind it; the pen was cut there"
        ),
        source="configs/dataset/adroit_pen_human.yaml",
        settings=("+datasets.offline.cut_at_success=first",),
    ),
)

BOUNDS = (
    Rule(
        answer="clip actions to their bounds",
        when=lambda m: m.outside_bounds > 0,
        because=lambda m: f"{m.outside_bounds:.1%} of the numbers lie outside; an agent cannot give them",
        source="docs/data.md",
        settings=("+datasets.offline.out_of_range=clip",),
    ),
)

QUESTIONS = {
    "offline": METHOD,
    "data online": ONLINE,
    "switch": SWITCH,
    "sampling": SAMPLING,
    "velocities": HISTORY,
    "policy": CHUNKS,
    "reward": REWARD,
    "ends": ENDS,
    "bounds": BOUNDS,
}
"""The tables, in the order in which they are answered."""


def weighting(measures: Measures) -> tuple[float, float]:
    """By how much of their range weights raise the mean of the returns, and the effective episodes that they leave."""
    returns, lengths = np.asarray(measures.episode_returns), np.asarray(measures.episode_steps)
    spread = returns.max() - returns.min()
    if spread == 0:
        return 0.0, float(len(returns))
    weights = return_weights(returns, lengths)
    plain = weighted_mean_return(returns, np.ones(len(returns)), lengths)
    return (weighted_mean_return(returns, weights, lengths) - plain) / spread, effective_episodes(weights, lengths)


def _weighting_text(m: Measures) -> str:
    gain, effective = weighting(m)
    return (
        f"positive-sided variance {m.positive_sided_variance_scaled:.3f} of at most 0.148: weights would raise the "
        f"mean return by {gain:.0%} of its range and leave {effective:.1f} effective episodes"
    )
