"""The sections of a report that say how well the policy does: headline, key numbers, curves and the dip."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from robot_rl.apps.command import resume_command
from robot_rl.apps.report_chart import Callout, Panel, Series, chart, number
from robot_rl.apps.report_page import folded, paragraph, section, table
from robot_rl.apps.report_read import Dip, Evaluation, PhaseSpan, Run, baseline, dip

ROLLING_EPISODES = 20
MINIMUM_EPISODES = 5  # below which a rolling mean says nothing yet


def percent(value: float) -> str:
    """A share as a percentage, `–` where it is not known."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else "–"


def plain(value: float) -> str:
    """A number, `–` where it is not known."""
    return number(value) if math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """Wall time in the two largest units that matter."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def score_text(evaluation: Evaluation, score: str) -> str:
    """The score of an evaluation in the unit of the score."""
    value = evaluation.metric(score)
    return percent(value) if score == "success_rate" else plain(value)


def return_text(evaluation: Evaluation) -> str:
    """Mean and standard deviation of the return."""
    deviation = evaluation.metric("return_std")
    rounded = f" ± {plain(float(f'{deviation:.2g}'))}" if math.isfinite(deviation) else ""
    return f"{plain(evaluation.metric('return_mean'))}{rounded}"


def interval_text(evaluation: Evaluation) -> str:
    """The 95 % interval of the success rate, `–` where there is none."""
    low, high = evaluation.metric("success_low"), evaluation.metric("success_high")
    return f"{100 * low:.0f}–{100 * high:.0f} %" if math.isfinite(low) and math.isfinite(high) else "–"


def environment_name(run: Run) -> str:
    """The environment as its configuration names it; the run's name where there is none."""
    settings = run.config.get("environment")
    keys = ("id", "domain", "task", "robot")
    words = [str(settings[key]) for key in keys if settings.get(key)] if isinstance(settings, dict) else []
    return " ".join(words) if words else str(run.config.get("name", run.path.name))


def algorithm_name(run: Run) -> str:
    """The algorithm of each phase, as far as it changes: such as `Cal-QL → SAC`."""
    settings, phases = run.config.get("algorithm"), run.config.get("phases")
    if not isinstance(settings, dict):
        return "unnamed algorithm"
    overrides = [phase.get("algorithm") or {} for phase in phases.values()] if isinstance(phases, dict) else [{}]
    names = [_variant({**settings, **override}) for override in overrides]
    return " → ".join(name for index, name in enumerate(names) if index == 0 or name != names[index - 1])


def _variant(settings: dict[str, Any]) -> str:
    kind = str(settings.get("kind", "unnamed algorithm"))
    if kind == "sac" and as_number(settings.get("conservative_weight")) > 0:
        return "Cal-QL" if settings.get("conservative_calibrated") else "CQL"
    return kind.upper() if len(kind) <= 3 else kind


def last_of_phases(run: Run) -> list[tuple[PhaseSpan, Evaluation]]:
    """Each phase that was evaluated, with its last evaluation."""
    found = []
    for phase in run.phases:
        of_phase = [evaluation for evaluation in run.evaluations if evaluation.phase_index == phase.index]
        if of_phase:
            found.append((phase, of_phase[-1]))
    return found


def headline(run: Run) -> str:
    """Title, status, and the command that goes on where the run was interrupted."""
    words = {
        "finished": "finished",
        "interrupted": "interrupted",
        "running": "still running",
        "empty": "nothing recorded yet",
    }
    seed = run.facts.get("seed", run.config.get("seed", "unknown"))
    elapsed = duration(run.events[-1].elapsed_s) if run.events else "–"
    title = (
        f"<h1>{escape(environment_name(run))} "
        f'<span class="badge {run.status}">{words[run.status]}</span></h1>'
        f'<p class="soft">{escape(str(run.config.get("name", run.path.name)))} · {escape(algorithm_name(run))} · '
        f"seed {escape(str(seed))} · {escape(' → '.join(phase.name for phase in run.phases))} · {elapsed}</p>"
    )
    notes = []
    if run.status in ("interrupted", "running"):
        where = run.events[-1]
        notes.append(
            f"{'Interrupted' if run.status == 'interrupted' else 'So far'} in phase '{where.phase}' at step "
            f"{number(where.phase_step)} ({number(where.updates)} updates, "
            f"{number(where.environment_steps)} environment steps). "
            + ("Go on with:" if run.status == "interrupted" else "If its process is gone, go on with:")
        )
        notes.append(f'<pre class="line">{escape(resume_command(run.words, run.path))}</pre>')
        notes[0] = paragraph(notes[0])
    if run.cut_line:
        notes.append('<p class="warning">The last line of metrics.jsonl was cut short and is left out.</p>')
    return title + "".join(notes)


def tiles(run: Run) -> str:
    """The three numbers that matter, large."""
    found = last_of_phases(run)
    if not found:
        return ""
    name = "success" if run.score == "success_rate" else "return"
    offline = [(phase, one) for phase, one in found if not one.interacted]
    parts = []
    if offline:
        parts.append(_tile(score_text(offline[-1][1], run.score), f"{name} {_moment(offline[-1][0])}", offline[-1][1]))
    if found[-1][1].interacted:
        ending = "final" if run.status == "finished" else "latest"
        label = f"{ending} {name}, {number(found[-1][1].environment_steps)} environment steps"
        parts.append(_tile(score_text(found[-1][1], run.score), label, found[-1][1]))
    lost = dip(run.evaluations)
    if lost is not None:
        depth = f"{100 * lost.depth:.0f} points" if run.score == "success_rate" else number(lost.depth)
        recovery = (
            "not recovered" if lost.recovery_step is None else f"recovered within {number(lost.recovery_step)} steps"
        )
        if lost.depth > 0:
            parts.append(f'<div class="tile"><b>{depth}</b><span>dip at the switch, {recovery}</span></div>')
        else:
            parts.append('<div class="tile"><b>no dip</b><span>at the switch to online training</span></div>')
    parts.append(f'<div class="tile"><b>{duration(run.events[-1].elapsed_s)}</b><span>training time</span></div>')
    return f'<div class="tiles">{"".join(parts)}</div>'


def _moment(phase: PhaseSpan) -> str:
    return f"after {phase.name}" if phase.complete else f"in {phase.name}, so far"


def _tile(value: str, label: str, evaluation: Evaluation) -> str:
    interval = interval_text(evaluation)
    detail = f"95 %: {interval}, " if interval != "–" else ""
    return (
        f'<div class="tile"><b>{value}</b><span>{escape(label)}</span><span>{detail}{_count(evaluation)}</span></div>'
    )


def _count(evaluation: Evaluation) -> str:
    return f"{evaluation.count} episodes" if evaluation.count else "episodes not recorded"


def key_numbers(run: Run) -> str:
    """One row for each data set and each phase: what the demonstrations do, and the policy after each phase."""
    rows: list[list[str]] = []
    for name, facts in _datasets(run):
        rows.append(
            [
                f"data: {name}",
                percent(as_number(facts.get("success_rate"))),
                "–",
                plain(as_number(facts.get("return_mean"))),
                "–",
                _mean_length(facts),
                plain(as_number(facts.get("episodes"))),
                "–",
                "–",
            ]
        )
    found = last_of_phases(run)
    for phase, one in found:
        rows.append(
            [
                _moment(phase),
                percent(one.metric("success_rate")),
                interval_text(one),
                return_text(one),
                plain(one.metric("value_mean")),
                plain(one.metric("length_mean")),
                str(one.count) if one.count else "–",
                number(one.updates),
                number(one.environment_steps),
            ]
        )
    if not found:
        return section("Key numbers", paragraph("No evaluation yet.", "soft"))
    header = ["", "success", "95 % interval", "return", "value at start", "length", "episodes", "updates", "env steps"]
    note = (
        "Success with its Wilson interval, return as mean ± standard deviation over the episodes of one evaluation; "
        "'value at start' is what the critic expected at the first step, on the reward scale of training."
    )
    undeclared = "The environment declares no success: the return is the score." if run.score == "return_mean" else ""
    return section(
        "Key numbers",
        paragraph(undeclared) if undeclared else "",
        table(header, rows, strong=[len(rows) - 1]),
        paragraph(note, "soft small"),
    )


def _datasets(run: Run) -> list[tuple[str, dict[str, Any]]]:
    datasets = run.facts.get("datasets")
    return (
        [(str(name), facts) for name, facts in datasets.items() if isinstance(facts, dict)]
        if isinstance(datasets, dict)
        else []
    )


def as_number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _mean_length(facts: dict[str, Any]) -> str:
    episodes, steps = as_number(facts.get("episodes")), as_number(facts.get("steps"))
    return plain(steps / episodes) if episodes > 0 else "–"


def curves(run: Run) -> str:
    """Success and return, offline against gradient updates beside online against environment steps."""
    if not run.evaluations:
        return ""
    lost = dip(run.evaluations)
    parts = []
    if run.score == "success_rate":
        parts.append("<h3>Success rate</h3>")
        parts.append(_curve(run, "success_rate", "success rate", lost))
    parts.append("<h3>Return</h3>")
    parts.append(_curve(run, "return_mean", "return", lost if run.score == "return_mean" else None))
    band = "Band: 95 % Wilson interval." if run.score == "success_rate" else ""
    note = f"{band} Return band: one standard deviation over episodes. Hover over a point for its numbers."
    return section("Offline against online", dip_words(lost, run), *parts, paragraph(note.strip(), "soft small"))


def _curve(run: Run, name: str, label: str, lost: Dip | None) -> str:
    rate = name == "success_rate"
    offline = [one for one in run.evaluations if not one.interacted]
    online = [one for one in run.evaluations if one.interacted]
    panels = []
    if offline:
        series = [_score_series(offline, name, label, 1, [one.updates for one in offline])]
        panels.append(Panel(title="Offline", x_label="gradient updates", series=series, x_range=_from_zero(series)))
    if online:
        series = [_score_series(online, name, label, 2, [one.environment_steps for one in online])]
        marks, shades = [], []
        start = None if run.switch is None else run.switch.start.environment_steps
        if start is not None:
            marks.append((start, "online updates begin"))
            shades = [(0.0, float(start), "no updates yet")] if start > 0 else []
        callouts = []
        if lost is not None and lost.depth > 0 and start is not None:
            depth = f"{100 * lost.depth:.0f} points" if rate else number(lost.depth)
            callouts.append(Callout(x=start + lost.minimum_step, y=lost.minimum, label=f"dip: {depth}"))
        before = baseline(run.evaluations)
        panels.append(
            Panel(
                title="Online",
                x_label="environment steps",
                series=series,
                x_range=_from_zero(series),
                marks=marks,
                shades=shades,
                callouts=callouts,
                level=None if before is None else (before.metric(name), "before the switch"),
                share=1.6 if offline else 1.0,
            )
        )
    return chart(
        panels,
        y_label=label,
        description=f"{label} over training, offline and online",
        y_range=(-0.03, 1.03) if rate else None,
        percent=rate,
        height=310,
    )


def _from_zero(series: Sequence[Series]) -> tuple[float, float]:
    return 0.0, max((value for one in series for value in one.x), default=1.0)


def _score_series(evaluations: Sequence[Evaluation], name: str, label: str, color: int, x: Sequence[int]) -> Series:
    y = [one.metric(name) for one in evaluations]
    if name == "success_rate":
        low = [one.metric("success_low") for one in evaluations]
        high = [one.metric("success_high") for one in evaluations]
    else:
        low = [value - one.metric("return_std") for value, one in zip(y, evaluations, strict=True)]
        high = [value + one.metric("return_std") for value, one in zip(y, evaluations, strict=True)]
    tips = [
        f"{one.phase}, step {number(one.phase_step)}\n"
        f"success {percent(one.metric('success_rate'))} ({interval_text(one)})\n"
        f"return {return_text(one)}\n{_count(one)}, "
        f"{number(one.updates)} updates, {number(one.environment_steps)} environment steps"
        for one in evaluations
    ]
    where = "online" if color == 2 else "offline"
    return Series(label=f"{label}, {where}", x=x, y=y, low=low, high=high, color=color, markers=True, tips=tips)


def dip_words(lost: Dip | None, run: Run) -> str:
    """The dip in words."""
    if lost is None:
        began = any(one.online for one in run.evaluations)
        why = (
            "there is no evaluation on both sides of the switch" if began else "the run has not come to online updates"
        )
        return paragraph(f"The dip at the switch cannot be told: {why}.", "soft")
    rate = lost.score == "success_rate"
    name = "Success" if rate else "Return"

    def shown(value: float) -> str:
        return percent(value) if rate else number(value)

    if lost.depth <= 0:
        text = (
            f"No dip: {name.lower()} was {shown(lost.baseline)} before the switch, and at least {shown(lost.minimum)} "
            f"in every evaluation of the first {number(lost.window_steps)} online environment steps."
        )
        return paragraph(text)
    depth = f"{100 * lost.depth:.0f} points" if rate else number(lost.depth)
    text = (
        f"The dip: {name.lower()} fell from {shown(lost.baseline)} to {shown(lost.minimum)} ({depth}) "
        f"{number(lost.minimum_step)} environment steps after online updates began, "
    )
    text += (
        "and has not come back within this run."
        if lost.recovery_step is None
        else f"and needed {number(lost.recovery_step)} steps to be back where it had been."
    )
    if lost.significant is False:
        text += " The 95 % intervals of the two evaluations overlap, so it may be chance: more episodes would tell."
    return paragraph(text)


def training_episodes(run: Run) -> str:
    """Episodes of the training environment: what the robot really does while it learns."""
    episodes = [event for event in run.events if event.event == "episode"]
    if not episodes:
        return ""
    x = [event.environment_steps for event in episodes]
    marks = [] if run.switch is None else [(float(run.switch.start.environment_steps), "online updates begin")]
    successes = [event.metrics.get("success", math.nan) for event in episodes]
    parts = []
    if any(math.isfinite(value) for value in successes):
        rolling = Series(label=f"success, mean of {ROLLING_EPISODES} episodes", x=x, y=_rolling(successes), color=3)
        panel = Panel(x_label="environment steps", series=[rolling], marks=marks, x_range=(0.0, max(x)))
        parts.append(
            chart(
                [panel],
                y_label="success rate",
                description="success while training",
                y_range=(-0.03, 1.03),
                percent=True,
                height=250,
            )
        )
    returns = _rolling([event.metrics.get("return", math.nan) for event in episodes])
    series = Series(label=f"return, mean of {ROLLING_EPISODES} episodes", x=x, y=returns, color=6)
    panel = Panel(x_label="environment steps", series=[series], marks=marks, x_range=(0.0, max(x)))
    drawn = chart([panel], y_label="return", description="return while training", height=230)
    parts.append(folded("Return", drawn) if parts else drawn)
    note = f"{number(len(episodes))} episodes with the exploring policy, so its noise and its failures are in here."
    return section("Training episodes", paragraph(note, "soft small"), *parts)


def _rolling(values: Sequence[float]) -> list[float]:
    means = []
    for end in range(1, len(values) + 1):
        window = [value for value in values[max(0, end - ROLLING_EPISODES) : end] if math.isfinite(value)]
        enough = len(window) >= min(MINIMUM_EPISODES, len(values))
        means.append(sum(window) / len(window) if window and enough else math.nan)
    return means


def evaluation_table(run: Run) -> str:
    """Every evaluation, and every episode of each, folded."""
    rows = [
        [
            f"{one.phase}, step {number(one.phase_step)}",
            number(one.updates),
            number(one.environment_steps),
            percent(one.metric("success_rate")),
            interval_text(one),
            return_text(one),
            plain(one.metric("length_mean")),
            plain(one.metric("value_mean")),
            str(one.count),
        ]
        for one in run.evaluations
    ]
    header = [
        "evaluation",
        "updates",
        "env steps",
        "success",
        "95 % interval",
        "return",
        "length",
        "value at start",
        "episodes",
    ]
    episodes = [
        [
            f"{one.phase}, step {number(one.phase_step)}",
            "–" if episode.seed is None else str(episode.seed),
            plain(episode.total_reward),
            str(episode.length),
            "–" if episode.success is None else ("yes" if episode.success else "no"),
        ]
        for one in run.evaluations
        for episode in one.episodes
    ]
    if not rows:
        return ""
    return section(
        "Evaluations",
        folded(f"All {len(rows)} evaluations", table(header, rows)),
        folded(f"All {len(episodes)} episodes", table(["evaluation", "seed", "return", "length", "success"], episodes))
        if episodes
        else "",
    )
