"""The whole of an agent's update as one graph of tensor operations, without its Python.

`make_fx` runs an update and notes every operation: losses, backward passes, optimisers, target networks. Networks and
optimisers are inputs of the graph by reference, and change in place. Random numbers are drawn outside, by the agent's
own generator, in the order and shapes of the eager update, so that both see the same numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer

from robot_rl.algorithms.agent import Agent
from robot_rl.functional.schedule import CountLog, RecordedCount
from robot_rl.types import Batch, Metrics

Update = Callable[..., Metrics]
"""(batch, *, critic_updates) -> metrics."""


@dataclass
class Snapshot:
    """All that an update changes in an agent, to be put back after a trial."""

    agent: Any
    tensors: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    generators: list[tuple[torch.Generator, Tensor]] = field(default_factory=list)
    groups: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    integers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in state_tensors(self.agent)]
        self.generators = [(each, each.get_state()) for each in generators(self.agent)]
        values = {item.name: getattr(self.agent, item.name) for item in fields(self.agent)}
        self.integers = {name: value for name, value in values.items() if isinstance(value, int)}
        for optimizer in optimizers(self.agent):
            for group in optimizer.param_groups:
                self.groups.append((group, {key: value for key, value in group.items() if key != "params"}))

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back where it is; state that an optimiser has begun since then is set to 0, as it began."""
        known = {id(tensor) for tensor, _ in self.tensors}
        for tensor, before in self.tensors:
            tensor.copy_(before)
        for tensor in state_tensors(self.agent):
            tensor.grad = None
            if id(tensor) not in known:
                tensor.zero_()
        for generator, state in self.generators:
            generator.set_state(state)
        for group, before_group in self.groups:
            group.update(before_group)
        for name, number in self.integers.items():
            setattr(self.agent, name, number)

    def require_only_updates_changed(self) -> None:
        """Refuse an update that counts in Python what a replay would not count."""
        for name, before in self.integers.items():
            if name != "updates" and getattr(self.agent, name) != before:
                raise RuntimeError(f"an update changed {type(self.agent).__name__}.{name}: a replay would not")


def optimizers(agent: Any) -> Iterator[Optimizer]:
    """All optimisers of an agent dataclass."""
    for item in fields(agent):
        value = getattr(agent, item.name)
        if isinstance(value, dict):
            yield from (each for each in value.values() if isinstance(each, Optimizer))


def generators(agent: Any) -> Iterator[torch.Generator]:
    """All generators of an agent dataclass."""
    values = (getattr(agent, item.name) for item in fields(agent))
    yield from (value for value in values if isinstance(value, torch.Generator))


def state_tensors(agent: Any) -> Iterator[Tensor]:
    """Parameters and buffers of all networks, and the state of all optimisers."""
    for item in fields(agent):
        value = getattr(agent, item.name)
        if isinstance(value, nn.Module):
            yield from value.parameters()
            yield from value.buffers()
    for optimizer in optimizers(agent):
        for entry in optimizer.state.values():
            yield from (each for each in entry.values() if isinstance(each, Tensor))


# Batches --------------------------------------------------------------------------------------------------------------
def flatten(batch: Batch) -> tuple[list[tuple[str, str | None]], list[Tensor]]:
    """The tensors of a batch with their names: (field, key of the observation or None)."""
    names: list[tuple[str, str | None]] = []
    tensors: list[Tensor] = []
    for item in fields(Batch):
        value = getattr(batch, item.name)
        if isinstance(value, Mapping):
            names += [(item.name, key) for key in value]
            tensors += value.values()
        elif value is not None:
            names.append((item.name, None))
            tensors.append(value)
    return names, tensors


def unflatten(like: Batch, names: Sequence[tuple[str, str | None]], tensors: Sequence[Tensor]) -> Batch:
    """Undo `flatten`."""
    values: dict[str, Any] = {}
    for (name, key), tensor in zip(names, tensors, strict=True):
        if key is None:
            values[name] = tensor
        else:
            values.setdefault(name, {})[key] = tensor
    return replace(like, **values)


def signature(batch: Batch) -> tuple[Any, ...]:
    """What has to be the same for a graph to fit a batch."""
    names, tensors = flatten(batch)
    return tuple((*name, tuple(each.shape), each.dtype) for name, each in zip(names, tensors, strict=True))


# Tracing --------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Traced:
    """An update as a graph: (batch..., draws..., state...) -> metrics."""

    graph: GraphModule
    state: list[Tensor]  # networks, optimisers, and what else the update reads, by reference
    draws: list[Callable[[], Tensor]]
    metrics: list[str]
    count: CountLog
    updates: int  # by which the agent's count grows


def trace(agent: Agent, batch: Batch, critic_updates: int) -> Traced:
    """Trace `agent.update`; the agent is afterwards as it was.

    Raises:
        RuntimeError: the update does what a graph cannot repeat; says what. A fault of the algorithm, not of its user.
    """
    names, tensors = flatten(batch)
    device = tensors[0].device
    log, start = CountLog(device=device), agent.updates
    found: list[str] = []

    def update(*inputs: Tensor) -> list[Tensor]:
        log.rewind()
        agent.updates = RecordedCount.begin(start, log)
        metrics = agent.update(unflatten(batch, names, inputs), critic_updates=critic_updates)
        found[:] = metrics
        return list(metrics.values())

    before = Snapshot(agent)
    try:
        update(*tensors)  # once without tracing: optimisers begin their state, and the log meets all numbers
        counted = agent.updates
        assert isinstance(counted, RecordedCount)
        before.require_only_updates_changed()
        before.restore()
        kept = {id(tensor) for tensor in state_tensors(agent)}
        with _compiling():
            graph = make_fx(update, decomposition_table=ADAM)(*tensors)
    finally:
        before.restore()
    draws = _lift_draws(graph)
    state = _lift_state(graph)
    _require_known_changes(graph, state, len(tensors) + len(draws), kept)
    graph.recompile()
    return Traced(graph=graph, state=state, draws=draws, metrics=list(found), count=log, updates=counted.offset)


@contextmanager
def _compiling() -> Iterator[None]:
    """Inside, `torch.compiler.is_compiling()`: networks then show plain operations in place of hand-written kernels."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def _adam(decoupled: bool) -> Callable[..., None]:
    """Adam, or AdamW, in operations that a compiler fuses with their neighbours: the fused kernel is closed to it."""

    def step(
        parameters: list[Tensor],
        gradients: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        largest: list[Tensor],
        steps: list[Tensor],
        *,
        lr: float | Tensor,
        beta1: float,
        beta2: float,
        weight_decay: float,
        eps: float,
        amsgrad: bool,
        maximize: bool,
        **unused: object,
    ) -> None:
        if amsgrad or maximize or (weight_decay and not decoupled):
            raise RuntimeError(
                "an optimiser asks for amsgrad, maximize or a coupled weight decay: trace.py has neither"
            )
        for parameter, gradient, mean, square, count in zip(parameters, gradients, means, squares, steps, strict=True):
            if weight_decay:
                parameter.mul_(1 - lr * weight_decay)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            size = lr / (1 - beta1**count)
            parameter.sub_(size * mean / (square.sqrt() / (1 - beta2**count).sqrt() + eps))

    return step


ADAM: dict[Any, Callable[..., None]] = {
    torch.ops.aten._fused_adam_.default: _adam(False),
    torch.ops.aten._fused_adam_.tensor_lr: _adam(False),
    torch.ops.aten._fused_adamw_.default: _adam(True),
    torch.ops.aten._fused_adamw_.tensor_lr: _adam(True),
}


def _lift_draws(graph: GraphModule) -> list[Callable[[], Tensor]]:
    """Replace random numbers by inputs behind those of the batch."""
    draws: list[Callable[[], Tensor]] = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        given = dict(node.kwargs)
        generator = given.pop("generator", None)
        if not isinstance(generator, Node) or any(isinstance(each, Node) for each in [*node.args, *given.values()]):
            raise RuntimeError(
                f"{node.target} draws from the global generator, or in a way that depends on what was computed"
            )
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"draw_{len(draws)}")
        draws.append(_draw(node.target, node.args, given, getattr(graph, str(generator.target))))
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    return draws


def _draw(operation: Any, arguments: Any, settings: dict[str, Any], generator: torch.Generator) -> Callable[[], Tensor]:
    return lambda: operation(*arguments, **settings, generator=generator)


def _lift_state(graph: GraphModule) -> list[Tensor]:
    """Replace tensors that the graph refers to by inputs behind all others, one for each."""
    state: list[Tensor] = []
    inputs: dict[int, Node] = {}
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in reversed(list(graph.graph.nodes)):
        if "_record_function" in str(node.target):  # the marks that optimisers leave for the profiler
            graph.graph.erase_node(node)
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        value = getattr(graph, str(node.target))
        if isinstance(value, Tensor):
            if id(value) not in inputs:
                with graph.graph.inserting_after(last):
                    last = inputs[id(value)] = graph.graph.placeholder(f"state_{len(state)}")
                state.append(value)
            node.replace_all_uses_with(inputs[id(value)])
        graph.graph.erase_node(node)
    return state


def _require_known_changes(graph: GraphModule, state: list[Tensor], first: int, kept: set[int]) -> None:
    """Refuse an update that changes tensors which no checkpoint holds."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    unknown = {node for node, tensor in zip(inputs[first:], state, strict=True) if id(tensor) not in kept}
    for node in graph.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        for argument, value in zip(schema.arguments, node.args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            for each in value if isinstance(value, list | tuple) else [value]:
                if written and isinstance(each, Node) and each in unknown:
                    raise RuntimeError(f"an update changes a tensor that is no field of the agent, by {node.target}")
