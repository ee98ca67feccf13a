"""Tables: columns by name become observations, actions and times, whatever file they came from.

A row is what was known at one moment: the observation, and the action that was chosen then.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.ingest.base import FLAT_KEY, TableOptions
from robot_rl.datasets.ingest.resample import grid, interpolate, latest
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError, nearest
from robot_rl.types import Array

ROUNDING_S = 1e-6
"""A row may be later than the moment it belongs to by so much: seconds since 1970 in 64 bits are that coarse."""
LARGEST_REFINEMENT = 1000  # grid points for each row
LONG_SILENCE_PERIODS = 5  # of the usual step: from there on a silence is worth a finding


@dataclass(kw_only=True)
class Table:
    """Columns of one length. A number that is missing is NaN."""

    path: Path
    columns: dict[str, Array] = field(default_factory=dict)  # each (N,) or (N, *)
    texts: dict[str, list[str]] = field(default_factory=dict)  # each (N,): columns that are no numbers
    attributes: dict[str, Any] = field(default_factory=dict)  # JSON: how the file is written
    findings: list[Finding] = field(default_factory=list)
    named: bool = False  # the columns are arrays with names of their own, not the channels of one vector

    def __len__(self) -> int:
        lengths = [len(column) for column in self.columns.values()] + [len(column) for column in self.texts.values()]
        return max(lengths, default=0)

    @property
    def names(self) -> list[str]:
        """All columns, those of numbers first."""
        return [*self.columns, *self.texts]


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which columns mean what."""

    observation: dict[str, tuple[str, ...]]
    action: tuple[str, ...] = ()
    reward: str | None = None
    success: str | None = None
    time: str | None = None
    episode: str | None = None

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that must be numbers, each once."""
        chosen = [name for names in self.observation.values() for name in names]
        chosen += [*self.action, *(name for name in (self.reward, self.success) if name is not None)]
        return tuple(dict.fromkeys(chosen))

    @property
    def steps(self) -> bool:
        """Whether rows say what was done, so that the last row is a step of its own."""
        return bool(self.action) or self.reward is not None or self.success is not None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a table by their role, with nothing missing. N rows."""

    observation: dict[str, Array]  # each (N, *)
    action: Array | None = None  # (N, A)
    reward: Array | None = None  # (N,)
    success: Array | None = None  # (N,), bool
    times_s: Array | None = None  # (N,), ascending

    def __len__(self) -> int:
        return len(next(array for array in (self.action, self.reward, *self.observation.values()) if array is not None))


def roles_of(table: Table, options: TableOptions, *, alone: bool = True) -> Roles:
    """Which column means what, as the settings say; what they leave open takes all numbers that nothing else takes.

    Args:
        table: with its columns.
        options: what a person says.
        alone: there is nothing else to observe, such as a video.

    Raises:
        InputError: a column is not there, or holds texts where numbers must be.
    """
    place = str(table.path)
    action = matching(options.action, table.names, f"{place}: table.action")
    single = {}
    for setting in ("reward", "success", "time", "episode"):
        name = getattr(options, setting)
        single[setting] = None if name is None else _one(name, table.names, f"{place}: table.{setting}")
    if single["time"] is None:
        single["time"] = _clock(table)
    observation = {
        key: matching(patterns, table.names, f"{place}: table.observation.{key}")
        for key, patterns in options.observation.items()
    }
    if not observation:
        taken = {*action, *single.values()}
        free = tuple(name for name in table.columns if name not in taken)
        if not free and alone:
            raise InputError(
                f"{place} has no column of numbers left to observe; its columns are {', '.join(table.names)}. Set "
                "table.observation, and table.delimiter or table.decimal where the columns were split wrongly"
            )
        observation = {name: (name,) for name in free} if table.named else {FLAT_KEY: free} if free else {}
    roles = Roles(observation=observation, action=action, **single)
    for name in roles.numbers:
        if name in table.texts:
            row = next((number for number, text in enumerate(table.texts[name], 1) if text), 1)
            raise InputError(
                f"{place}: column '{name}' holds texts, such as '{table.texts[name][row - 1][:40]}' in row {row}, "
                "where numbers are needed: leave it out, or set table.decimal where it has commas"
            )
    return roles


def matching(patterns: Sequence[str], names: Sequence[str], place: str) -> tuple[str, ...]:
    """The names that the patterns match, in the order of the patterns; `*` stands for any characters.

    Raises:
        InputError: a pattern matches nothing.
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        expression = re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
        found = [name for name in names if expression.fullmatch(name)]
        if not found:
            raise InputError(f"{place}: no column matches '{pattern}'; {nearest(pattern, names)}")
        chosen |= dict.fromkeys(found)
    return tuple(chosen)


def times_of(table: Table, roles: Roles, options: TableOptions) -> Array | None:
    """The time of each row in seconds; None where the table has no column of times. Shapes: (N,).

    Dates count from the first row; numbers are as the table has them.

    Raises:
        InputError: a time is missing or cannot be read.
    """
    if roles.time is None:
        return None
    place = f"{table.path}: column '{roles.time}'"
    if roles.time in table.texts:
        moments = [
            _moment(text, options.time_format, f"{place}, row {row}")
            for row, text in enumerate(table.texts[roles.time], 1)
        ]
        return np.asarray([(moment - moments[0]).total_seconds() for moment in moments])
    column = table.columns[roles.time]
    if column.ndim != 1:
        raise InputError(f"{place} has shape {column.shape}, expected one time for each row")
    times = column.astype(np.float64) * options.time_unit_s
    wrong = np.flatnonzero(~np.isfinite(times))
    if len(wrong):
        raise InputError(f"{place} has no time in {len(wrong)} rows, the first is row {wrong[0] + 1}: repair the table")
    return times


def segments(
    table: Table, roles: Roles, times_s: Array | None, options: TableOptions
) -> tuple[list[Array], list[Finding]]:
    """The rows of each episode, as row numbers, and what a person should know about the missing ones.

    An episode begins where the column `episode` changes, behind a silence of more than `maximum_gap_s`, and, for
    missing=split, behind rows in which a number is missing, which are left out.

    Raises:
        InputError: numbers are missing and nothing says what to do, or the time goes back.
    """
    count, findings = len(table), []
    edges = np.zeros(count, bool)  # an episode begins here
    edges[:1] = True
    if roles.episode is not None:
        edges[1:] |= _changes(table, roles.episode)
    if times_s is not None:
        findings += _check_times(table, times_s, edges, options)
        if options.maximum_gap_s is not None:
            edges[1:] |= np.diff(times_s) > options.maximum_gap_s
    elif options.maximum_gap_s is not None:
        raise InputError(f"{table.path}: table.maximum_gap_s needs the times: set table.time to their column")
    missing = {name: missing_rows(table.columns[name]) for name in roles.numbers}
    gaps = {name: int(rows.sum()) for name, rows in missing.items() if rows.any()}
    keep = np.ones(count, bool)
    if gaps:
        findings.append(_about_gaps(table, gaps, missing, options))
    if options.missing == "split":
        for rows in missing.values():
            keep &= ~rows
        edges[1:] |= ~keep[:-1]
    numbers = np.cumsum(edges) - 1
    rows = np.flatnonzero(keep)
    parts = np.split(rows, np.flatnonzero(np.diff(numbers[rows])) + 1) if len(rows) else []
    shortest = 1 if roles.steps else 2
    whole = [part for part in parts if len(part) >= shortest]
    if len(whole) < len(parts):
        text = f"{len(parts) - len(whole)} episodes of a single row have no step and are left out"
        findings.append(Finding(severity="warning", place=table.path.name, text=text, remedy="check the splitting"))
    if not whole:
        raise InputError(f"{table.path}: there is no episode of {shortest} or more rows in its {count}")
    return whole, findings


def rows_of(table: Table, roles: Roles, times_s: Array | None, rows: Array) -> Rows:
    """The rows of one episode by their role; missing numbers repeat the one before, the first ones the first there is.

    Raises:
        InputError: a column has no number in these rows.
    """

    def block(names: Sequence[str]) -> Array:
        columns = [held(table.columns[name][rows], f"{table.path}: column '{name}'", rows) for name in names]
        if len(columns) == 1 and columns[0].ndim > 1:
            return columns[0]
        return np.concatenate([column.reshape(len(rows), -1) for column in columns], axis=1)

    success = None if roles.success is None else block([roles.success])
    return Rows(
        observation={key: block(names) for key, names in roles.observation.items()},
        action=block(roles.action).reshape(len(rows), -1) if roles.action else None,
        reward=None if roles.reward is None else _flat(block([roles.reward]), f"{table.path}: table.reward"),
        success=None if success is None else _flat(success, f"{table.path}: table.success") > 0,
        times_s=None if times_s is None else times_s[rows],
    )


def held(column: Array, place: str, rows: Array) -> Array:
    """A column whose missing numbers are those of the row before. Shapes: (N, *) -> (N, *).

    Raises:
        InputError: all are missing.
    """
    missing = missing_rows(column)
    if not missing.any():
        return column
    if missing.all():
        raise InputError(f"{place} has no number in rows {rows[0] + 1} to {rows[-1] + 1}: leave the column out")
    flat = column.reshape(len(column), -1).copy()
    for channel in range(flat.shape[1]):
        there = ~np.isnan(flat[:, channel])
        if not there.any():
            raise InputError(f"{place} has no number in channel {channel} of rows {rows[0] + 1} to {rows[-1] + 1}")
        last = np.maximum.accumulate(np.where(there, np.arange(len(flat)), -1))
        flat[:, channel] = flat[np.where(last < 0, np.flatnonzero(there)[0], last), channel]
    return flat.reshape(column.shape)


def missing_rows(column: Array) -> Array:
    """Rows in which a number is missing. Shapes: (N, *) -> (N,), bool."""
    if not np.issubdtype(column.dtype, np.floating):
        return np.zeros(len(column), bool)
    return np.asarray(np.isnan(column.reshape(len(column), int(np.prod(column.shape[1:])))).any(axis=1))


def on_grid(rows: Rows, period_s: float, whole_numbers: Mapping[str, Array]) -> Rows:
    """Rows at regular times from the first on: see `at_times`; a reward is the sum of those of its period.

    Args:
        rows: with times.
        period_s: of the grid.
        whole_numbers: see `at_times`.

    Raises:
        InputError: the grid would be far finer than the rows.
    """
    assert rows.times_s is not None
    span_s = float(rows.times_s[-1] - rows.times_s[0])
    if span_s / period_s > LARGEST_REFINEMENT * len(rows):
        raise InputError(
            f"{len(rows)} rows over {span_s:g} s give no steps of {period_s:g} s: set a larger control_period_s, or "
            "table.time_unit_s"
        )
    points = grid(float(rows.times_s[0]), float(rows.times_s[-1]), period_s)
    return at_times(rows, points, whole_numbers)


def at_times(rows: Rows, points: Array, whole_numbers: Mapping[str, Array]) -> Rows:
    """Rows at other times.

    Observations lie on the straight line between their neighbours; channels of whole numbers (counters, flags) and
    actions are the latest there were; rewards are summed until the next point; a step succeeds where a row until the
    next point does.

    Args:
        rows: with times.
        points: (K,), ascending, s.
        whole_numbers: by observation, which of its numbers (*) are whole throughout the table.
    """
    times = rows.times_s
    assert times is not None
    before = latest(times, points + ROUNDING_S)
    observation = {}
    for key, array in rows.observation.items():
        flat = array.reshape(len(array), -1)
        values = flat[before].copy()
        drawn = ~whole_numbers[key].reshape(-1)
        if drawn.any():
            values[:, drawn] = interpolate(flat[:, drawn], times, points)
        observation[key] = values.reshape(len(points), *array.shape[1:])
    step = np.searchsorted(points, times + ROUNDING_S, side="right") - 1
    inside = step >= 0
    count = len(points)
    reward = success = None
    if rows.reward is not None:
        reward = np.bincount(step[inside], weights=rows.reward[inside], minlength=count)
    if rows.success is not None:
        success = np.bincount(step[inside], weights=rows.success[inside], minlength=count) > 0
    return replace(
        rows,
        observation=observation,
        action=None if rows.action is None else rows.action[before],
        reward=reward,
        success=success,
        times_s=points,
    )


def whole_numbers_of(table: Table, roles: Roles) -> dict[str, Array]:
    """By observation, which of its numbers are whole in every row of the table; shapes as one row of `rows_of`."""
    found = {}
    for key, names in roles.observation.items():
        columns = [table.columns[name] for name in names]
        whole = [((column == np.round(column)) | (column != column)).all(axis=0) for column in columns]
        alone = len(columns) == 1 and columns[0].ndim > 1
        found[key] = whole[0] if alone else np.concatenate([np.reshape(item, -1) for item in whole])
    return found


def regular_period(differences: Array) -> float | None:
    """The usual step, where nine of ten steps lie within a tenth of it. Shapes: (N,), s."""
    steps = differences[differences > 0]
    if not len(steps):
        return None
    usual = float(np.median(steps))
    return float(f"{usual:.6g}") if (np.abs(differences - usual) <= 0.1 * usual).mean() >= 0.9 else None


def _one(name: str, names: Sequence[str], place: str) -> str:
    if name not in names:
        raise InputError(f"{place}={name}: {nearest(name, names)}")
    return name


def _clock(table: Table) -> str | None:
    """The only column of texts that are all dates with times, as ISO 8601 writes them."""
    found = [name for name, texts in table.texts.items() if texts and all(map(_is_date, {texts[0], texts[-1]}))]
    return found[0] if len(found) == 1 else None


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return len(text.strip()) > len("2000-01-01")


def _moment(text: str, form: str | None, place: str) -> datetime:
    """A date; one without a zone is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text.strip()) if form is None else datetime.strptime(text.strip(), form)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        wanted = "ISO 8601; set table.time_format" if form is None else f"of the form {form}"
        raise InputError(f"{place}: the time '{text[:40]}' is not {wanted}") from error


def _changes(table: Table, name: str) -> Array:
    """Whether each row but the first has another value than the row before. Shapes: (N - 1,)."""
    if name in table.texts:
        texts = np.asarray(table.texts[name], dtype=object)
        return np.asarray(texts[1:] != texts[:-1], bool)
    column = table.columns[name].reshape(len(table), -1)
    wrong = np.flatnonzero(missing_rows(column))
    if len(wrong):
        raise InputError(f"{table.path}: column '{name}', the episode, is missing in row {wrong[0] + 1}")
    return np.asarray((column[1:] != column[:-1]).any(axis=1))


def _check_times(table: Table, times_s: Array, edges: Array, options: TableOptions) -> list[Finding]:
    steps, inside = np.diff(times_s), ~edges[1:]
    back = np.flatnonzero((steps < 0) & inside)
    if len(back):
        raise InputError(
            f"{table.path}: the time goes back by {-steps[back[0]]:g} s at row {back[0] + 2} ({len(back)} times in "
            "all): sort the table, or set table.episode to the column that tells its episodes apart"
        )
    usual = regular_period(steps[inside])
    if options.maximum_gap_s is not None or usual is None:
        return []
    long = np.flatnonzero((steps > LONG_SILENCE_PERIODS * usual) & inside)
    if not len(long):
        return []
    worst = int(long[np.argmax(steps[long])])
    text = (
        f"{len(long)} silences of more than {LONG_SILENCE_PERIODS} steps lie within an episode, the longest is "
        f"{steps[worst]:g} s before row {worst + 2}"
    )
    remedy = "set table.maximum_gap_s, so that an episode ends there"
    return [Finding(severity="warning", place=table.path.name, text=text, remedy=remedy)]


def _about_gaps(table: Table, gaps: Mapping[str, int], missing: Mapping[str, Array], options: TableOptions) -> Finding:
    """What is missing, as an error where nothing says what to do about it."""
    first = min(int(np.argmax(missing[name])) for name in gaps)
    listing = ", ".join(f"{name} {count}" for name, count in gaps.items())
    text = f"{sum(gaps.values())} numbers are missing, the first in row {first + 1} ({listing})"
    if options.missing == "error":
        raise InputError(
            f"{table.path}: {text}. Set table.missing=hold to repeat the number before, table.missing=split to end an "
            "episode there, or leave the columns out with table.observation"
        )
    done = "repeated from the row before" if options.missing == "hold" else "left out with their rows, ending episodes"
    return Finding(severity="warning", place=table.path.name, text=f"{text}; they are {done}", remedy="check the log")


def _flat(block: Array, place: str) -> Array:
    if block.shape[1:] != (1,):
        raise InputError(f"{place} has shape {block.shape[1:]} a row, expected one number")
    return block[:, 0]
