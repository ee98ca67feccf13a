"""Pictures of a store: how long and how good its episodes are, the range of every channel, a few episodes in time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.apps.inspect_survey import Survey, array_of, channel_names, times_s
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.spec import ArraySpec
from robot_rl.types import Array, Episode

BLUE, ORANGE, GREEN, GREY = "#2563a8", "#d9822b", "#3a8f5c", "#8a8f98"
CHANNELS_A_ROW = 64  # of a range plot, before the labels thin out
MOST_CHANNELS = 1024  # of a range plot
LINES = 6  # channels drawn in time: those that move most
RESOLUTION_DPI = 130


def draw(folder: Path, read: Survey) -> list[Path]:
    """Write `episodes.png`, `channels.png` and `examples.png`; returns their paths.

    Args:
        folder: made where it is missing.
        read: the store.

    Raises:
        InputError: the disk is full.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
             "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False}  # fmt: skip
    rows = [(name, spec) for name, spec in _arrays(read) if int(np.prod(spec.shape)) > 0]
    pictures: list[tuple[str, tuple[float, float], Callable[[Any], None]]] = [
        ("episodes", (10.0, 3.2), lambda figure: _episodes(figure, read)),
        ("examples", (10.0, 7.5), lambda figure: _examples(figure, read)),
    ]
    if rows:
        pictures.insert(1, ("channels", (10.0, 2.4 * len(rows)), lambda figure: _channels(figure, read, rows)))
    paths = []
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, size, fill in pictures:
            with matplotlib.rc_context(style):
                figure: Any = Figure(figsize=size, layout="constrained")
                canvas: Any = FigureCanvasAgg(figure)
                fill(figure)
                paths.append(folder / f"{name}.png")
                canvas.print_figure(paths[-1], dpi=RESOLUTION_DPI)
    return paths


def _arrays(read: Survey) -> list[tuple[str, ArraySpec]]:
    """Action and the observations that are no pictures."""
    return [("action", read.spec.action)] + [
        (f"observation/{key}", read.spec.observation[key]) for key in read.channel_keys
    ]


def _episodes(figure: Any, read: Survey) -> None:
    left, middle, right = figure.subplots(1, 3, gridspec_kw={"width_ratios": [2, 2, 1.4]})
    table = read.table
    known, good = bool(table.known_success.all()), table.success == 1
    groups = [("successful", good, GREEN), ("without success", ~good, ORANGE)] if known else []
    groups = [group for group in groups if group[1].any()] or [("all", np.ones(len(table), bool), BLUE)]
    for axes, values, title, unit in (
        (left, table.lengths, "Length of the episodes", "steps"),
        (middle, table.returns, "Return, undiscounted", "sum of the recorded reward"),
    ):
        bins = np.histogram_bin_edges(values, bins=min(30, max(5, len(values) // 2)))
        if np.ptp(values) == 0:
            bins = np.asarray([values[0] - 0.5, values[0] + 0.5])
        axes.hist(
            [values[mask] for _, mask, _ in groups], bins, stacked=True, rwidth=0.92, label=[g[0] for g in groups],
            color=[g[2] for g in groups],
        )  # fmt: skip
        axes.axvline(float(np.median(values)), color="black", linewidth=1, linestyle="--", label="median")
        axes.set(title=title, xlabel=unit, ylabel="episodes")
        axes.yaxis.get_major_locator().set_params(integer=True)
    right.axis("off")
    right.legend(*left.get_legend_handles_labels(), loc="upper left", title=f"{len(table)} episodes", alignment="left")
    lines = [
        f"{table.lengths.sum()} steps",
        f"{table.terminated.sum()} terminated",
        f"{table.truncated.sum()} truncated",
        f"success: {good.sum()} of {len(good)}" if known else "success: not recorded",
    ]
    right.text(0.03, 0.05, "\n".join(lines), va="bottom", linespacing=1.6)


def _channels(figure: Any, read: Survey, rows: Sequence[tuple[str, ArraySpec]]) -> None:
    all_axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (name, spec) in zip(all_axes, rows, strict=True):
        flat, numbers = read.rows(name)[:, :MOST_CHANNELS], read.channels(name)
        position = np.arange(flat.shape[1])
        first, median, third = np.percentile(flat, [1, 50, 99], axis=0)
        low, high = numbers["minimum"][:MOST_CHANNELS], numbers["maximum"][:MOST_CHANNELS]
        axes.vlines(position, low, high, color=GREY, linewidth=1, label="smallest to largest")
        axes.vlines(position, first, third, color=BLUE, linewidth=4, alpha=0.75, label="1 % to 99 %")
        axes.plot(position, median, ".", color=ORANGE, markersize=4, label="median")
        for bound in _common_bounds(spec):
            axes.axhline(bound, color="black", linewidth=0.8, linestyle="--")
        unit = f" [{spec.unit}]" if spec.unit is not None else ""
        title = f"{name}, {int(np.prod(spec.shape))} channels{unit}"
        axes.set(title=title, xlim=(-0.7, flat.shape[1] - 0.3), xlabel="channel")
        names = channel_names(spec)
        if spec.names is not None and len(names) <= CHANNELS_A_ROW:
            axes.set_xticks(position, names, rotation=45, ha="right", fontsize=7)
            axes.set_xlabel("")
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _examples(figure: Any, read: Survey) -> None:
    """Episodes of low, median and high return."""
    spec = read.spec
    key = next((key for key in read.channel_keys if len(spec.observation[key].shape) == 1), None)
    shown = [("action", spec.action)] if spec.action.shape[0] else []
    shown += [] if key is None else [(f"observation/{key}", spec.observation[key])]
    grid = figure.subplots(1 + len(shown), len(read.examples), squeeze=False, sharex="col", sharey="row")
    for column, index in enumerate(read.examples):
        episode = read.sample[index]
        time = _time(read, episode)
        top = grid[0, column]
        top.plot(time[:-1], episode.reward, color=BLUE, linewidth=1.2)
        if episode.success is not None and episode.success.any():
            top.fill_between(
                time[:-1], 0, 1, where=episode.success, transform=top.get_xaxis_transform(), color=GREEN, alpha=0.2,
                linewidth=0, step="mid",
            )  # fmt: skip
        top.set_title(f"episode {index}, return {episode.reward.sum(dtype=np.float64):.4g}")
        for row, (name, array_spec) in enumerate(shown, 1):
            _lines(grid[row, column], time, array_of(episode, name), array_spec, _moving(read, name))
        timed = times_s(spec, episode) is not None
        grid[-1, column].set_xlabel("time [s]" if timed else "step")
    grid[0, 0].set_ylabel("reward\n(green: success)")
    for row, (name, _) in enumerate(shown, 1):
        grid[row, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="channel", alignment="left")
        grid[row, 0].set_ylabel(f"{name}\n(channels that move most)")


def _time(read: Survey, episode: Episode) -> Array:
    time = times_s(read.spec, episode)
    return np.arange(len(episode) + 1, dtype=np.float64) if time is None else time


def _moving(read: Survey, name: str) -> list[int]:
    """The channels with the largest deviation, in order."""
    deviation = read.channels(name)["std"]
    return sorted(int(channel) for channel in np.argsort(-deviation, kind="stable")[:LINES])


def _lines(axes: Any, time: Array, rows: Array, spec: ArraySpec, channels: Sequence[int]) -> None:
    for channel in channels:
        axes.plot(time[: len(rows)], rows[:, channel], linewidth=0.9, label=channel_names(spec)[channel])
    for bound in _common_bounds(spec):
        axes.axhline(bound, color="black", linewidth=0.8, linestyle="--")


def _common_bounds(spec: ArraySpec) -> list[float]:
    """The bounds, where all channels share them."""
    bounds = [np.unique(bound) for bound in (spec.low, spec.high) if bound is not None]
    return [float(bound[0]) for bound in bounds if len(bound) == 1 and np.isfinite(bound[0])]
