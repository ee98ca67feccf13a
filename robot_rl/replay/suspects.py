"""Which recorded number may have made a run diverge."""

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.types import Array

FAR = 100.0
"""Times the distance from the median that 99 of 100 numbers of a channel keep."""
LARGE = 1e6
"""Beyond this, a network that takes or predicts the number as it is can hardly be trained."""


def suspect(sources: Mapping[str, ReplayBuffer]) -> str | None:
    """The number in the sources that is furthest from all others of its channel, or largest; None where none is.

    What is not finite is refused where it comes in, and named here first should it be there after all. This reads
    everything, so it is for runs that have failed. Episodes are counted from the oldest that the source holds.
    """
    worst, words = 1.0, None
    for name, buffer in sources.items():
        for what, values, episode, step in _columns(buffer):
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                return f"{what} of '{name}' is {values[bad[0]]} in its episode {episode[bad[0]]}, step {step[bad[0]]}"
            median = float(np.median(values))
            distance = np.abs(values - median)
            row = int(distance.argmax())
            usual = float(np.quantile(distance, 0.99, method="lower")) + 1e-6 * abs(median) + 1e-9
            times = float(distance[row]) / usual
            score = max(times / FAR, abs(float(values[row])) / LARGE)
            if score > worst:
                worst = score
                words = f"{what} of '{name}' is {values[row]:.6g} in its episode {episode[row]}, step {step[row]}"
                if times > FAR:
                    words += f", {times:.3g} times as far from the median as 99 % of them"
    return words


def _columns(buffer: ReplayBuffer) -> Iterator[tuple[str, Array, Array, Array]]:
    """Name, values, episode and step of each channel, oldest row first. Shapes: (N,) each."""
    row = buffer.held()
    step, starts = buffer.step[row].cpu().numpy(), buffer.has_next[row].cpu().numpy()
    episode = np.cumsum(step == 0) - int(len(step) > 0 and step[0] == 0)
    found: dict[str, Tensor] = {"reward": buffer.reward[:, None], "action": buffer.action}
    found |= {f"observation '{key}'": each for key, each in buffer.observation.items() if isinstance(each, Tensor)}
    for name, tensor in found.items():
        if not tensor.is_floating_point():
            continue
        values = tensor[row].flatten(1).cpu().numpy().astype(np.float64)
        kept = slice(None) if name.startswith("observation") else starts
        for channel in range(values.shape[1]):
            column = values[kept, channel]
            if len(column):
                what = name if values.shape[1] == 1 else f"{name}, channel {channel},"
                yield what, column, episode[kept], step[kept]
