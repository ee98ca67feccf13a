"""Windows of steps inside one episode each: action chunks, n-step options, histories of observations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.windows import earlier, select, window


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBatch:
    """Windows of H steps with K observations up to the first; steps past an episode's end are invalid and repeat."""

    observation: dict[str, Tensor]  # each (B, K + H, *); number K - 1 is that of the first step
    action: Tensor  # (B, H, A), in [-1, 1]
    reward: Tensor  # (B, H)
    discount: Tensor  # (B, H), 0 after termination, otherwise discount
    valid: Tensor  # (B, H), bool
    instruction: Tensor | None = None  # (B,), as in `Batch`


def sample_sequences(
    buffer: ReplayBuffer, count: int, length: int, generator: torch.Generator, *, history: int = 1
) -> SequenceBatch:
    """`count` windows of `length` steps, drawn by their first step as transitions are.

    Args:
        buffer: where from.
        count: B.
        length: H, steps of a window.
        generator: of the draws, on the CPU.
        history: K, observations up to that of the first step. What lies before the episode, or was overwritten, is
            filled with the first observation there is.
    """
    return gather_sequences(buffer, buffer.draw(count, generator), length, history=history)


def gather_sequences(buffer: ReplayBuffer, start: Tensor, length: int, *, history: int = 1) -> SequenceBatch:
    """The windows whose first steps are in these rows. Shapes: (B,), int64."""
    step, is_valid = window(buffer.has_next, start, length)
    row = step[:, -1]  # of the last step there is
    # Observation h is that of step h; one past the last valid step is the observation that followed it.
    arrived = (row + 1) % buffer.capacity  # (B,)
    shown = torch.cat([step, arrived[:, None]], 1)
    shown[:, 1:] = torch.where(torch.cat([is_valid[:, 1:], is_valid[:, :1] & False], 1), shown[:, 1:], arrived[:, None])
    shown = torch.cat([_before(buffer, start, history), shown], 1)  # (B, K + H)
    ended = select(buffer.terminated, step) & is_valid
    return SequenceBatch(
        observation={key: rows.unflatten(0, shown.shape) for key, rows in buffer.observations(shown.flatten()).items()},
        action=select(buffer.action, step),
        reward=torch.where(is_valid, select(buffer.reward, step), 0.0),
        discount=torch.where(ended, 0.0, buffer.discount).float(),
        valid=is_valid,
        instruction=None if buffer.instructions is None else buffer.instruction.index_select(0, start),
    )


def _before(buffer: ReplayBuffer, row: Tensor, history: int) -> Tensor:
    """The rows of the K - 1 observations before. Shapes: (B,) -> (B, K - 1)."""
    known = torch.minimum(buffer.step.index_select(0, row), buffer.older(row))  # rows of the episode that are there
    return earlier(row, known, history, buffer.capacity)[:, :-1]
