"""What a store's data is good for: every measure with its value and what it says, and which recipe fits."""

from html import escape
from pathlib import Path

from robot_rl.apps.advise import command_lines
from robot_rl.apps.advise_rules import recommend
from robot_rl.apps.report_chart import number
from robot_rl.apps.report_page import table, with_code
from robot_rl.datasets.measures import Measures, Spread

LARGEST_SCALED_VARIANCE = 4 / 27  # a third of the episodes at 1, the others at 0


def measures_table(measures: Measures) -> str:
    """HTML of the measures that are known."""
    rows = [[name, value, meaning] for name, value, meaning in _rows(measures) if value != ""]
    return table(["measure", "value", "what it says"], rows, text_columns=[2])


def advice(measures: Measures, place: str) -> str:
    """HTML of what `robot-rl advise` says to these measures.

    Args:
        measures: of the store.
        place: of the store, for the command lines.
    """
    choices = recommend(measures)
    parts = []
    for choice in choices:
        source = "" if choice.source == "-" else f'<p class="soft small">after {escape(choice.source)}</p>'
        parts.append(
            f"<dt>{escape(choice.question)}</dt><dd><b>{escape(choice.answer)}</b>"
            f"<p>{with_code(choice.because)}</p>{source}</dd>"
        )
    titles = ("Train from the data alone", "Go on in an environment")
    lines = [(title, line) for title, line in zip(titles, command_lines(choices, Path(place)), strict=True) if line]
    commands = "".join(f'<h3>{title}</h3><pre class="line">{escape(line)}</pre>' for title, line in lines)
    hint = "These are starting points. With the returns of a random policy and of an expert it says more: "
    more = f"`robot-rl advise {place} environment_return=[RANDOM,EXPERT]`"
    return f'<dl class="advice">{"".join(parts)}</dl>{commands}<p class="soft small">{with_code(hint + more)}</p>'


def _rows(measures: Measures) -> list[tuple[str, str, str]]:
    return [
        ("reward", measures.reward, "absent, constant, sparse (two values) or dense"),
        *(_of_returns(measures) if measures.reward != "absent" else []),
        ("state-action coverage (SACo)", _plain(measures.state_action_coverage), _pairs(measures)),
        ("occupied cells", _share(measures.cell_coverage), "of the most there could be, along the axes that move most"),
        ("action coverage", _share(measures.action_coverage), "occupied bins between the bounds, mean over channels"),
        ("actions at a bound", _share(measures.action_saturation), "of all numbers; grippers are meant to be there"),
        (
            "actions outside the bounds",
            _share(measures.outside_bounds if measures.action_channels else None),
            "of all numbers",
        ),
        ("action roughness", _plain(measures.action_roughness), "0 is smooth, 1 is white noise"),
        (
            "disagreement of neighbours",
            _plain(measures.action_disagreement),
            "0: alike states have alike actions; 1: they do not, so that cloning averages over several ways",
        ),
        ("velocities", measures.velocities, "whether the observations say how fast things move"),
        (
            "motion explained",
            _share(measures.motion_explained),
            f"of the next state's change, by state and action; {_history(measures)}",
        ),
        ("steps after success", _plain(measures.steps_after_success), "median over the episodes that go on"),
        ("corrected by a person", _share(measures.intervened_share), "of the steps"),
    ]


def _of_returns(measures: Measures) -> list[tuple[str, str, str]]:
    quality = _plain(measures.trajectory_quality)
    return [
        ("return", _spread(measures.returns), "10 %, median and 90 % of the episodes"),
        ("discounted return", _spread(measures.discounted_returns), "the same, as seen from the first step"),
        (
            "trajectory quality (TQ)",
            quality if quality else "not known",
            "mean return: a random policy is at 0, an expert at 1; it needs their returns",
        ),
        ("quality of the best episode", _plain(measures.best_quality), "on the same scale"),
        (
            "positive-sided variance (PSV)",
            _plain(measures.positive_sided_variance_scaled),
            f"how far good episodes stand out, of returns scaled to [0, 1]: at most {LARGEST_SCALED_VARIANCE:.3f}",
        ),
    ]


def _pairs(measures: Measures) -> str:
    return f"{number(measures.distinct_pairs)} distinct pairs of state and action, of {number(measures.steps)} steps"


def _history(measures: Measures) -> str:
    with_history = _share(measures.motion_explained_with_history)
    return f"with the change before, {with_history}" if with_history else "with the change before, not known"


def _plain(value: float | None) -> str:
    """Three digits; nothing where it is not known."""
    return "" if value is None else number(float(f"{value:.3g}"))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _spread(spread: Spread) -> str:
    return " / ".join(map(_plain, (spread.low, spread.median, spread.high)))
