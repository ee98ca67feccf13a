"""Pictures of a store: how long and how good its episodes are, the range of every channel, a few episodes in time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

BLUE, ORANGE, GREEN, GREY = "#2563a8", "#d9822b", "#3a8f5c", "#8a8f98"
CHANNELS_A_ROW = 64  # of a range plot, before the labels thin out
LINES = 6  # channels drawn in time: those that move most
EXAMPLES = 3
RESOLUTION_DPI = 130


def draw(folder: Path, spec: Spec, episodes: Sequence[Episode]) -> list[Path]:
    """Write `episodes.png`, `channels.png` and `examples.png`; returns their paths.

    Args:
        folder: made where it is missing.
        spec: names, units and bounds.
        episodes: at least one.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    style = {"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
             "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False}  # fmt: skip
    pictures: list[tuple[str, tuple[float, float], Callable[[Any], None]]] = [
        ("episodes", (10.0, 3.2), lambda figure: _episodes(figure, episodes)),
        ("channels", (10.0, 2.4 * (1 + len(spec.observation))), lambda figure: _channels(figure, spec, episodes)),
        ("examples", (10.0, 7.5), lambda figure: _examples(figure, spec, episodes)),
    ]
    paths = []
    for name, size, fill in pictures:
        with matplotlib.rc_context(style):
            figure: Any = Figure(figsize=size, layout="constrained")
            canvas: Any = FigureCanvasAgg(figure)
            fill(figure)
            paths.append(folder / f"{name}.png")
            canvas.print_figure(paths[-1], dpi=RESOLUTION_DPI)
    return paths


def _episodes(figure: Any, episodes: Sequence[Episode]) -> None:
    left, middle, right = figure.subplots(1, 3, gridspec_kw={"width_ratios": [2, 2, 1.4]})
    lengths = np.asarray([len(episode) for episode in episodes])
    returns = np.asarray([episode.reward.sum(dtype=np.float64) for episode in episodes])
    known = all(episode.success is not None for episode in episodes)
    good = np.asarray([episode.success is not None and bool(episode.success.any()) for episode in episodes])
    groups = [("successful", good, GREEN), ("without success", ~good, ORANGE)] if known else []
    groups = [group for group in groups if group[1].any()] or [("all", np.ones(len(episodes), bool), BLUE)]
    for axes, values, title, unit in (
        (left, lengths, "Length of the episodes", "steps"),
        (middle, returns, "Return, undiscounted", "sum of the recorded reward"),
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
    right.legend(
        *left.get_legend_handles_labels(), loc="upper left", title=f"{len(episodes)} episodes", alignment="left"
    )
    terminated = sum(bool(episode.terminated[-1]) for episode in episodes)
    truncated = sum(bool(episode.truncated[-1]) for episode in episodes)
    success = f"success: {good.sum()} of {len(good)}" if known else "success: not recorded"
    right.text(
        0.03,
        0.05,
        f"{lengths.sum()} steps\n{terminated} terminated\n{truncated} truncated\n{success}",
        va="bottom",
        linespacing=1.6,
    )


def _channels(figure: Any, spec: Spec, episodes: Sequence[Episode]) -> None:
    rows = [("action", spec.action, np.concatenate([episode.action for episode in episodes]))]
    for key, array_spec in spec.observation.items():
        rows.append((f"observation '{key}'", array_spec, np.concatenate([e.observation[key] for e in episodes])))
    all_axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (title, array_spec, values) in zip(all_axes, rows, strict=True):
        flat = values.reshape(len(values), -1)[:, :1024].astype(np.float64)
        position = np.arange(flat.shape[1])
        low, first, median, third, high = np.percentile(flat, [0, 1, 50, 99, 100], axis=0)
        axes.vlines(position, low, high, color=GREY, linewidth=1, label="smallest to largest")
        axes.vlines(position, first, third, color=BLUE, linewidth=4, alpha=0.75, label="1 % to 99 %")
        axes.plot(position, median, ".", color=ORANGE, markersize=4, label="median")
        for bound in _common_bounds(array_spec):
            axes.axhline(bound, color="black", linewidth=0.8, linestyle="--")
        unit = f" [{array_spec.unit}]" if array_spec.unit is not None else ""
        axes.set(title=f"{title}, {flat.shape[1]} channels{unit}", xlim=(-0.7, flat.shape[1] - 0.3), xlabel="channel")
        if array_spec.names is not None and flat.shape[1] <= CHANNELS_A_ROW:
            axes.set_xticks(position, array_spec.names, rotation=45, ha="right", fontsize=7)
            axes.set_xlabel("")
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _examples(figure: Any, spec: Spec, episodes: Sequence[Episode]) -> None:
    """Episodes of low, median and high return."""
    order = np.argsort([episode.reward.sum(dtype=np.float64) for episode in episodes], kind="stable")
    places = sorted({int(place) for place in np.linspace(0, len(order) - 1, EXAMPLES).round()})
    grid = figure.subplots(3, len(places), squeeze=False, sharex="col", sharey="row")
    key = next((k for k, s in spec.observation.items() if len(s.shape) == 1), None)
    moving_action = _moving([episode.action for episode in episodes])
    moving_state = [] if key is None else _moving([episode.observation[key] for episode in episodes])
    for column, place in enumerate(places):
        index = int(order[place])
        episode = episodes[index]
        period_s = spec.control_period_s
        time = np.arange(len(episode) + 1) * (1.0 if period_s is None else period_s)
        top, middle, bottom = grid[:, column]
        top.plot(time[:-1], episode.reward, color=BLUE, linewidth=1.2)
        if episode.success is not None and episode.success.any():
            top.fill_between(
                time[:-1], 0, 1, where=episode.success, transform=top.get_xaxis_transform(), color=GREEN, alpha=0.2,
                linewidth=0, step="mid",
            )  # fmt: skip
        top.set_title(f"episode {index}, return {episode.reward.sum(dtype=np.float64):.4g}")
        _lines(middle, time, episode.action, spec.action, moving_action)
        if key is not None:
            _lines(bottom, time, episode.observation[key], spec.observation[key], moving_state)
        bottom.set_xlabel("step" if period_s is None else "time [s]")
    for axes in grid[1:, -1]:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="channel", alignment="left")
    grid[0, 0].set_ylabel("reward\n(green: success)")
    grid[1, 0].set_ylabel("action\n(channels that move most)")
    grid[2, 0].set_ylabel(f"observation '{key}'\n(channels that move most)")


def _moving(arrays: Sequence[Array]) -> list[int]:
    """The channels with the largest deviation, in order."""
    deviation = np.concatenate(arrays).astype(np.float64).std(axis=0)
    return sorted(int(channel) for channel in np.argsort(-deviation, kind="stable")[:LINES])


def _lines(axes: Any, time: Array, rows: Array, spec: ArraySpec, channels: Sequence[int]) -> None:
    for channel in channels:
        label = str(channel) if spec.names is None else spec.names[channel]
        axes.plot(time[: len(rows)], rows[:, channel], linewidth=0.9, label=label)
    for bound in _common_bounds(spec):
        axes.axhline(bound, color="black", linewidth=0.8, linestyle="--")


def _common_bounds(spec: ArraySpec) -> list[float]:
    """The bounds, where all channels share them."""
    bounds = [np.unique(bound) for bound in (spec.low, spec.high) if bound is not None]
    return [float(bound[0]) for bound in bounds if len(bound) == 1 and np.isfinite(bound[0])]
