"""One learner on several processes, as `torchrun` starts them: each computes gradients on its own rows.

Every process is a rank. All begin with the same networks, and since each takes its steps along the mean of all
gradients, the networks stay the same. A rank has its own share of the recorded episodes, its own stream of random
numbers, and a batch of `batch_size / ranks` rows. Rank 0 acts, evaluates, records and saves; what it sees while it acts
goes to all.

The gradients are those of one process with the whole batch where a loss is a mean over rows. Where it divides by
something of the batch (`actor_normalize_value`, AWAC's softmax), each rank divides by that of its own rows.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before any group is there, see `connected`
from torch import Tensor

from robot_rl.algorithms.agent import Agent
from robot_rl.environment import Environment, Wrapper
from robot_rl.errors import InputError
from robot_rl.loops.trace import optimizers, state_tensors
from robot_rl.spec import Spec
from robot_rl.types import Array, TimeStep

Item = TypeVar("Item")
TIMEOUT = timedelta(hours=2)
"""How long ranks wait for one that is busy: rank 0 evaluates and saves while the others wait."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a run; without torchrun one, which waits for nobody.

    All ranks have to call its methods in the same order, and all of them raise `InputError` when another rank has
    ended.
    """

    rank: int = 0
    count: int = 1
    place: int = 0  # of the process among those of this machine

    @property
    def first(self) -> bool:
        """This process acts, evaluates, records and saves."""
        return self.rank == 0

    def any(self, answer: bool) -> bool:
        """Whether one of the ranks says so."""
        if self.count == 1:
            return answer
        told = torch.tensor([answer], dtype=torch.uint8)
        with _together():
            dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told[0])

    def decide(self, answer: bool) -> bool:
        """What rank 0 says."""
        return self.any(answer and self.first)

    def tell(self, text: str) -> str:
        """The text of rank 0."""
        if self.count == 1:
            return text
        content = torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8)
        length = torch.tensor([len(content)])
        with _together():
            dist.broadcast(length, 0)
            if not self.first:
                content = torch.zeros(int(length), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()[:-1]

    def tell_numbers(self, numbers: Tensor) -> Tensor:
        """The numbers of rank 0, of a length that all know. Shapes: (N,) -> (N,), on the host."""
        if self.count > 1:
            with _together():
                dist.broadcast(numbers, 0)
        return numbers

    def gather(self, value: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of one shape, on the host."""
        if self.count == 1:
            return [value]
        found = [torch.empty_like(value) for _ in range(self.count)]
        with _together():
            dist.all_gather(found, value)
        return found

    def share(self, items: Sequence[Item], what: str) -> Sequence[Item]:
        """Every `count`-th item, beginning with that of this rank.

        Raises:
            InputError: there are fewer than ranks.
        """
        if len(items) < self.count:
            raise InputError(
                f"{what} has {len(items)} episodes, which cannot be shared by {self.count} processes: start fewer with "
                "`torchrun --nproc-per-node`"
            )
        return items[self.rank :: self.count]

    def rows(self, batch_size: int, place: str) -> int:
        """Of a batch, those of each rank.

        Raises:
            InputError: they do not divide.
        """
        if batch_size % self.count:
            raise InputError(f"{place}.batch_size={batch_size} is no multiple of the {self.count} processes")
        return batch_size // self.count

    def require_same(self, agent: Agent) -> None:
        """Refuse to go on with networks or optimisers that differ from rank to rank, which would be a fault of ours.

        Raises:
            RuntimeError: they differ.
        """
        if self.count == 1:
            return
        digest = hashlib.sha256()
        for tensor in state_tensors(agent):
            digest.update(tensor.detach().reshape(-1).cpu().numpy().tobytes())
        found = self.gather(torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8))
        if any(not torch.equal(each, found[0]) for each in found):
            raise RuntimeError("the networks of the processes have drifted apart")


@contextmanager
def connected() -> Iterator[Ranks]:
    """The processes that torchrun started, connected until the end; one, alone, where it started none.

    Tensors on the host go through gloo, those on a CUDA device through NCCL.
    """
    # PyTorch imports `torch.distributed.nn` with the first optimiser. Its functions have the group of that moment as a
    # default: imported behind `init_process_group`, they keep gloo's threads, which may abort the process at its end.
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield Ranks(rank=dist.get_rank(), count=dist.get_world_size(), place=int(os.environ["LOCAL_RANK"]))
    finally:
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "another process of this run has ended; what it said is above. Nothing is lost but the work since the last "
            "checkpoint: go on with the same command and resume=true"
        ) from error


# Gradients ------------------------------------------------------------------------------------------------------------
def average_gradients(agent: Agent, ranks: Ranks) -> None:
    """From now on, every backward pass ends with the mean of all ranks' gradients, in one message an optimiser."""
    if ranks.count == 1:
        return
    for optimizer in optimizers(agent):
        _Average([each for group in optimizer.param_groups for each in group["params"]], ranks.count)


class _Average:
    """Of the gradients of one optimiser, as soon as a backward pass that reached any of them is through."""

    def __init__(self, parameters: list[Tensor], count: int) -> None:
        self._parameters, self._count, self._waiting = parameters, count, False
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._reached)

    def _reached(self, parameter: Tensor) -> None:
        if not self._waiting:
            self._waiting = True
            torch.autograd.Variable._execution_engine.queue_callback(self._average)

    def _average(self) -> None:
        self._waiting = False
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        flat = torch.cat([each.reshape(-1) for each in gradients])
        with _together():
            dist.all_reduce(flat)
        flat /= self._count
        parts = flat.split([each.numel() for each in gradients])
        torch._foreach_copy_(gradients, [part.view_as(each) for part, each in zip(parts, gradients, strict=True)])


# Acting ---------------------------------------------------------------------------------------------------------------
class SharedEnvironment(Wrapper):
    """Rank 0's environment, whose steps all ranks see; what the others would do is not asked.

    Args:
        inner: of rank 0; the others use its spec only.
        ranks: the processes.
    """

    def __init__(self, inner: Environment, ranks: Ranks) -> None:
        super().__init__(inner)
        self._ranks = ranks

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode."""
        return self._tell(lambda: self._inner.reset(seed=seed), with_action=False)

    def step(self, action: Array) -> TimeStep:
        """Act for one control period, with rank 0's action."""
        return self._tell(lambda: self._inner.step(action), with_action=True)

    def _tell(self, take: Callable[[], TimeStep], *, with_action: bool) -> TimeStep:
        spec = self.spec
        shapes = {key: array.shape for key, array in spec.observation.items()}
        actions = spec.action.shape[0] if with_action else 0
        numbers = torch.zeros(5 + actions + sum(int(np.prod(shape)) for shape in shapes.values()), dtype=torch.float64)
        step = None
        if self._ranks.first:
            step = take()
            numbers = torch.from_numpy(_pack(step, shapes, with_action))
        numbers = self._ranks.tell_numbers(numbers)
        return step if step is not None else _unpack(numbers.numpy(), spec, actions)


def _pack(step: TimeStep, shapes: dict[str, tuple[int, ...]], with_action: bool) -> Array:
    success = -1.0 if step.success is None else float(step.success)
    head = [step.reward, float(step.terminated), float(step.truncated), success, float(step.intervened)]
    action = [step.action] if with_action and step.action is not None else []
    rows = [np.asarray(step.observation[key]) for key in shapes]
    return np.concatenate([np.asarray(each, np.float64).reshape(-1) for each in (head, *action, *rows)])


def _unpack(numbers: Array, spec: Spec, actions: int) -> TimeStep:
    reward, terminated, truncated, success, intervened = numbers[:5].tolist()
    rest = numbers[5 + actions :]
    observation = {}
    for key, array in spec.observation.items():
        size = int(np.prod(array.shape))
        observation[key] = rest[:size].reshape(array.shape).astype(array.dtype)
        rest = rest[size:]
    return TimeStep(
        observation=observation,
        reward=reward,
        terminated=bool(terminated),
        truncated=bool(truncated),
        success=None if success < 0 else bool(success),
        action=numbers[5 : 5 + actions].copy() if actions else None,
        intervened=bool(intervened),
    )
