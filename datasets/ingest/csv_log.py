"""CSV logs: rows of a controller or of a spreadsheet become episodes.

With a column of actions, rewards or success every row is a step, and there is no final observation; without, the last
row is the final observation.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.ingest.base import (
    ReadOptions,
    Recording,
    SuccessSource,
    action_spec,
    array_spec,
    provenance,
)
from robot_rl.datasets.ingest.csv_text import is_csv, read_csv
from robot_rl.datasets.ingest.resample import usual_period
from robot_rl.datasets.ingest.table import (
    Roles,
    Rows,
    Table,
    on_grid,
    regular_period,
    roles_of,
    rows_of,
    segments,
    times_of,
    whole_numbers_of,
)
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

VERSION = 1
SHORTEST_GAP_S = 0.5  # as for bags: shorter silences are bridged


class CsvLogReader:
    """`format=csv`."""

    name = "csv"
    description = "a text table: rows of as many cells between commas, semicolons, tabs or |, some columns of numbers"

    def probe(self, path: Path) -> str | None:
        """Rows of as many cells, with numbers."""
        return is_csv(path)

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Read the whole table; see `robot_rl.data_config.TableConfig` for what the settings mean.

        Raises:
            InputError: it is no table, lacks a column, or lacks numbers where nothing says what to do.
        """
        if path.is_dir():
            raise InputError(f"{path} is a folder: name the CSV file in it")
        if options.table.first_frame_s is not None:
            raise InputError(f"{path} has no video beside it: leave table.first_frame_s away")
        table = read_csv(path, options.table)
        roles = roles_of(table, options.table)
        times_s = times_of(table, roles, options.table)
        gap_s = options.table.maximum_gap_s
        if gap_s is None and times_s is not None and options.control_period_s is not None:
            gap_s = longest_bridge_s(times_s)  # no rows are made up across a silence
        parts, found = segments(table, roles, times_s, replace(options.table, maximum_gap_s=gap_s))
        findings = [*table.findings, *_about_columns(table, roles, options), *found]
        parts = parts[: options.maximum_episodes]
        declared = options.control_period_s
        resampled = times_s is not None and declared is not None
        period_s, about_period = _control_period_s(table, times_s, parts, declared)
        findings += about_period
        whole = whole_numbers_of(table, roles)
        first = rows_of(table, roles, times_s, parts[0])
        reward = [] if roles.reward is None else [held_rewards(table, roles, parts)]
        success, about_success = (
            SuccessSource.of(options, reward, recorded=roles.success is not None, path=path)
            if reward or roles.success is not None or options.success is not None
            else (SuccessSource(rule=None, success_reward=None), [])
        )
        action, about_action = action_of(table, roles, options)
        findings += [*about_success, *about_action]
        spec = Spec(
            observation={
                key: replace(array_spec(array), names=names_of(table, roles.observation[key]))
                for key, array in first.observation.items()
            },
            action=action,
            control_period_s=period_s,
            metadata={"absent": success.lacking(absent_of(roles))},
        )

        def read(index: int) -> Episode:
            rows = rows_of(table, roles, times_s, parts[index])
            if resampled and declared is not None:
                rows = on_grid(rows, declared, whole)
            place = f"rows {parts[index][0] + 1} to {parts[index][-1] + 1}"
            episode = episode_of(rows, f"{path}: {place}", {"source": place} | _identity(table, roles, parts[index]))
            return success.label(episode, f"{path}: {place}")

        attributes = table.attributes | {"time": roles.time, "rows": len(table)}
        return Recording(
            spec=spec,
            provenance=provenance(path, self.name, VERSION, attributes),
            count=len(parts),
            read=read,
            findings=findings,
        )


def episode_of(rows: Rows, place: str, metadata: dict[str, Any]) -> Episode:
    """Rows as an episode: each row a step where it says what was done, else one step less than rows.

    Raises:
        InputError: there are too few rows.
    """
    done = rows.action is not None or rows.reward is not None or rows.success is not None
    steps = len(rows) if done else len(rows) - 1
    if steps < 1:
        raise InputError(f"{place}: {len(rows)} rows are left, too few for a step: set a smaller control_period_s")
    observation = rows.observation
    if done:
        observation = {key: np.concatenate([array, array[-1:]]) for key, array in observation.items()}
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    times = {} if rows.times_s is None else {"timestamp_s": np.asarray(rows.times_s - rows.times_s[0], np.float64)}
    return Episode(
        observation=observation,
        action=np.zeros((steps, 0), np.float32) if rows.action is None else rows.action,
        reward=np.zeros(steps) if rows.reward is None else np.asarray(rows.reward, np.float64),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        success=rows.success,
        has_final_observation=not done,
        extras=times,
        metadata=metadata,
    )


def absent_of(roles: Roles) -> list[str]:
    """What the table lacks, as `spec.metadata["absent"]` has it."""
    there = {"action": bool(roles.action), "reward": roles.reward is not None, "success": roles.success is not None}
    return [*(name for name, found in there.items() if not found), "end"]


def longest_bridge_s(times_s: Array) -> float:
    """The silence across which a table is still resampled: five of its usual steps, at least half a second."""
    usual = usual_period(times_s)
    return SHORTEST_GAP_S if usual is None else max(SHORTEST_GAP_S, 5 * usual)


def held_rewards(table: Table, roles: Roles, parts: Sequence[Array]) -> Array:
    """The rewards of all episodes. Shapes: (N,)."""
    assert roles.reward is not None
    rewards = table.columns[roles.reward][np.concatenate(list(parts))]
    return np.asarray(rewards[np.isfinite(rewards)])


def action_of(table: Table, roles: Roles, options: ReadOptions) -> tuple[ArraySpec, list[Finding]]:
    """The spec of the action: bounds as they are declared, else the range of the table; of width 0 without actions.

    Raises:
        InputError: the declared bounds do not fit, or a column has no number at all.
    """
    if not roles.action:
        return ArraySpec(shape=(0,), dtype="float32"), []
    everything = rows_of(table, replace(roles, observation={}), None, np.arange(len(table)))
    actions = everything.action
    assert actions is not None
    names = roles.action if actions.shape[1] == len(roles.action) else None
    if options.action_low is not None or options.action_high is not None:
        return replace(action_spec(actions, options, str(table.path)), names=names), []
    low, high = actions.min(axis=0).astype(np.float64), actions.max(axis=0).astype(np.float64)
    still = high <= low
    text = "nothing declares bounds of the action: they are the range of the table"
    if still.any():
        text += f"; {int(still.sum())} channels never move and get their value plus and minus 1"
    remedy = "set action_low and action_high where the limits of the robot are known"
    spec = ArraySpec(
        shape=low.shape,
        dtype=str(actions.dtype),
        low=np.where(still, low - 1, low),
        high=np.where(still, high + 1, high),
        names=names,
    )
    return spec, [Finding(severity="information", place=table.path.name, text=text, remedy=remedy)]


def names_of(table: Table, columns: Sequence[str]) -> tuple[str, ...] | None:
    """The names of the channels, where every column is one."""
    return tuple(columns) if all(table.columns[name].ndim == 1 for name in columns) else None


def _identity(table: Table, roles: Roles, rows: Array) -> dict[str, Any]:
    """The value of the episode column."""
    if roles.episode is None:
        return {}
    if roles.episode in table.texts:
        return {"episode": table.texts[roles.episode][int(rows[0])]}
    return {"episode": float(table.columns[roles.episode].reshape(len(table), -1)[int(rows[0]), 0])}


def _control_period_s(
    table: Table, times_s: Array | None, parts: Sequence[Array], declared: float | None
) -> tuple[float | None, list[Finding]]:
    place = table.path.name
    if times_s is None:
        remedy = "set table.time to the column of the times, and table.time_unit_s"
        text = "the table has no column of times" + (
            "" if declared is None else f", so its rows are taken as {declared} s apart"
        )
        return declared, [
            Finding(
                severity="information" if declared is not None else "warning", place=place, text=text, remedy=remedy
            )
        ]
    steps = np.concatenate([np.diff(times_s[rows]) for rows in parts])
    found = regular_period(steps)
    if declared is not None:
        usual = float(np.median(steps)) if len(steps) else declared
        text = (
            f"resampled from {usual:.6g} s to {declared:g} s: observations on straight lines, whole numbers and "
            "actions held, rewards summed; silences longer than table.maximum_gap_s, or five usual steps, end an "
            "episode"
        )
        return declared, [Finding(severity="information", place=place, text=text)]
    spread = f"from {steps.min():.6g} to {steps.max():.6g} s" if len(steps) else "not known"
    if found is None:
        text = f"the times of its rows are not regular ({spread}), so there is no control period"
        remedy = "set control_period_s to resample them"
        return None, [Finding(severity="warning", place=place, text=text, remedy=remedy)]
    if len(steps) and float(np.abs(steps - found).max()) > 0.01 * found:
        text = f"the control period is the usual step of {found:g} s; the steps are {spread}"
        remedy = "set control_period_s to resample them to a regular one"
        return found, [Finding(severity="information", place=place, text=text, remedy=remedy)]
    return found, []


def _about_columns(table: Table, roles: Roles, options: ReadOptions) -> list[Finding]:
    place, findings = table.path.name, []
    if not options.table.observation:
        text = "no columns were chosen, so every column of numbers is an observation: " + ", ".join(
            f"{key} ({len(names)})" for key, names in roles.observation.items()
        )
        remedy = "set table.observation and table.action"
        findings.append(Finding(severity="information", place=place, text=text, remedy=remedy))
    if roles.time is not None and options.table.time is None:
        text = f"the times are taken from column '{roles.time}'"
        findings.append(Finding(severity="information", place=place, text=text))
    unused = [name for name in table.texts if name not in (roles.time, roles.episode)]
    if unused:
        text = f"columns of texts are left out: {', '.join(unused)}"
        findings.append(Finding(severity="information", place=place, text=text))
    return findings
