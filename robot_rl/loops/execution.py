"""How updates are run: operation by operation, as compiled code, or as a CUDA graph.

A learner is made for each phase of a run, because settings, resets and checkpoints change what a compiled or captured
update holds. Within a phase it compiles or captures once for each form of a batch and each turn of what happens every
so many updates.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from robot_rl.algorithms.agent import Agent
from robot_rl.config import ExecutionConfig
from robot_rl.errors import InputError
from robot_rl.functional.schedule import CountLog, RecordedCount
from robot_rl.loops.trace import Snapshot, Traced, flatten, generators, optimizers, signature, state_tensors, trace
from robot_rl.networks.layers import bfloat16_products
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.columns import MappedColumn
from robot_rl.replay.mixture import gather_mixture
from robot_rl.types import Batch, Metrics

Program = Callable[..., Sequence[Tensor]]
"""A compiled graph: its inputs in order -> its outputs."""
KEPT_GRAPHS = 8
"""CUDA graphs held at once; each keeps the memory of its intermediate results."""
WARM_UPS = 3  # PyTorch's advice


class Updater(Protocol):
    """Updates an agent from a batch, as `Agent.update` does."""

    def __call__(self, batch: Batch, *, critic_updates: int = 1) -> Metrics: ...


# Compiled -------------------------------------------------------------------------------------------------------------
def inductor(graph: GraphModule, inputs: list[Tensor]) -> Program:
    """Compile with PyTorch's own compiler.

    Raises:
        InputError: there is no C++ compiler.
    """
    from torch._inductor.compile_fx import compile_fx  # imports for seconds

    try:
        with torch.no_grad():
            compiled: Any = compile_fx(graph, inputs)
    except RuntimeError as error:
        if "No working C++ compiler" not in str(error):
            raise
        raise InputError(
            "execution.mode=compiled needs a C++ compiler, and none works here: install one (`apt install g++`), or "
            "set execution.mode=eager"
        ) from error
    program: Program = compiled
    return program


def as_traced(graph: GraphModule, inputs: list[Tensor]) -> Program:
    """Run the graph as it is; for tests of everything but the compiler."""
    return lambda *given: graph(*given)


@dataclass(kw_only=True)
class CompiledUpdate:
    """`Agent.update` as compiled code.

    Numbers differ from those of the eager update by rounding; random ones are the same.

    Args:
        agent: whose networks and optimisers change; they may change otherwise too, but not be replaced by others.
        compiler: graph and inputs to a program.
    """

    agent: Agent
    compiler: Callable[[GraphModule, list[Tensor]], Program] = inductor
    _config: Any = None
    _programs: dict[tuple[Any, ...], list[tuple[Traced, Program]]] = field(default_factory=dict)

    def __call__(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """As `Agent.update`; the first of every form is compiled first, which takes tens of seconds."""
        agent = self.agent
        if agent.config is not self._config:
            self._config, self._programs = agent.config, {}
        known = self._programs.setdefault((critic_updates, *signature(batch)), [])
        fitting = next((each for each in known if each[0].count.fits(agent.updates)), None)
        if fitting is None:
            traced = trace(agent, batch, critic_updates)
            fitting = (traced, self.compiler(traced.graph, self._inputs(traced, batch, draw=False)))
            known.append(fitting)
        traced, program = fitting
        traced.count.refill(agent.updates)
        with torch.no_grad():
            found = program(*self._inputs(traced, batch, draw=True))
        agent.updates += traced.updates
        return dict(zip(traced.metrics, found, strict=True))

    def _inputs(self, traced: Traced, batch: Batch, *, draw: bool) -> list[Tensor]:
        if draw:
            return [*flatten(batch)[1], *(each() for each in traced.draws), *traced.state]
        before = Snapshot(self.agent)
        inputs = [*flatten(batch)[1], *(each() for each in traced.draws), *traced.state]
        before.restore()
        return inputs


# Graphs ---------------------------------------------------------------------------------------------------------------
Record = Callable[[Agent, Callable[[], Metrics]], Callable[[], Metrics]]
"""(agent, work) -> what does the work again; the metrics are overwritten by the next time."""


def cuda_graph(agent: Agent, work: Callable[[], Metrics]) -> Callable[[], Metrics]:
    """Capture the work, which is not done meanwhile; what it is handed must have stayed in the same place."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators(agent):
        graph.register_generator_state(generator)
    with _capturable(agent), torch.cuda.graph(graph):
        metrics = work()

    def replay() -> Metrics:
        graph.replay()
        return metrics

    return replay


@contextmanager
def _capturable(agent: Agent) -> Iterator[None]:
    """Inside, optimisers let themselves be captured; fused ones do nothing else than otherwise."""
    groups = [group for optimizer in optimizers(agent) for group in optimizer.param_groups]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value


def again(agent: Agent, work: Callable[[], Metrics]) -> Callable[[], Metrics]:
    """Do the work anew each time; for tests of everything but the capture."""
    return work


@dataclass(frozen=True, kw_only=True)
class _Graph:
    rows: list[dict[str, Tensor]]  # of each update, from every source: what the graph gathers
    replay: Callable[[], Metrics]
    count: CountLog
    updates: int  # by which the agent's count grows


@dataclass(kw_only=True)
class GraphedUpdates:
    """Several updates as one CUDA graph, which gathers their rows on the device too.

    Only row numbers go to the device for each replay. Random numbers are those of the eager updates.

    Args:
        agent: whose networks and optimisers change; they may change otherwise too, but not be replaced by others.
        sources: lie on the agent's device.
        update: the agent's, or a compiled one.
        updates_per_replay: in one graph, where so many are asked for at once.
        record: captures.

    Raises:
        InputError: a source whose images lie on a disk.
    """

    agent: Agent
    sources: Mapping[str, ReplayBuffer]
    update: Updater
    updates_per_replay: int
    record: Record = cuda_graph
    _config: Any = None
    _graphs: dict[tuple[Any, ...], list[_Graph]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, source in self.sources.items():
            for key, column in source.observation.items():
                if isinstance(column, MappedColumn):
                    raise InputError(
                        f"observation '{key}' of data set {name} is read from the disk, which a CUDA graph cannot: "
                        f"set datasets.{name}.images=memory, or execution.mode=eager"
                    )

    def learn(self, drawn: Sequence[Mapping[str, Tensor]], *, critic_updates: int) -> Metrics:
        """One update from each of the rows drawn; metrics of the last one, which the next call overwrites."""
        agent = self.agent
        if agent.config is not self._config:
            self._config, self._graphs = agent.config, {}
        form = tuple(tuple((name, len(rows)) for name, rows in each.items()) for each in drawn)
        known = self._graphs.pop((critic_updates, form), [])
        graph = next((each for each in known if each.count.fits(agent.updates)), None)
        if graph is None:
            graph = self._record(drawn, critic_updates)
            known = [*known, graph]
        self._graphs[critic_updates, form] = known  # the newest last
        while sum(map(len, self._graphs.values())) > KEPT_GRAPHS and len(self._graphs) > 1:
            self._graphs.pop(next(iter(self._graphs)))
        for static, given in zip(graph.rows, drawn, strict=True):
            for name, rows in given.items():
                static[name].copy_(rows, non_blocking=True)
        start = agent.updates
        graph.count.refill(start)
        metrics = graph.replay()
        agent.updates = start + graph.updates
        return metrics

    def _record(self, drawn: Sequence[Mapping[str, Tensor]], critic_updates: int) -> _Graph:
        agent, start = self.agent, self.agent.updates
        rows = [{name: each.clone() for name, each in given.items()} for given in drawn]
        device = next(iter(rows[0].values())).device
        log = CountLog(device=device)

        def work() -> Metrics:
            log.rewind()
            agent.updates = RecordedCount.begin(start, log)
            metrics: Metrics = {}
            for given in rows:
                metrics = self.update(
                    gather_mixture(self.sources, given, critic_updates), critic_updates=critic_updates
                )
            return metrics

        before = Snapshot(agent)
        try:
            with _aside(device):  # what is captured has to have run before: kernels are loaded, optimisers begun
                for _ in range(WARM_UPS):
                    work()
            counted = agent.updates
            assert isinstance(counted, RecordedCount)
            before.require_only_updates_changed()
            before.restore()
            replay = self.record(agent, work)
        finally:
            before.restore()
        return _Graph(rows=rows, replay=replay, count=log, updates=counted.offset)


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """On a stream of its own, as PyTorch asks of what is captured next."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


# Learners -------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True)
class Updates:
    """Updates one by one, eager or compiled."""

    sources: Mapping[str, ReplayBuffer]
    update: Updater
    updates_per_replay: int = 1

    def learn(self, drawn: Sequence[Mapping[str, Tensor]], *, critic_updates: int) -> Metrics:
        """One update from each of the rows drawn; metrics of the last one."""
        metrics: Metrics = {}
        for rows in drawn:
            metrics = self.update(gather_mixture(self.sources, rows, critic_updates), critic_updates=critic_updates)
        return metrics


def learner(agent: Agent, sources: Mapping[str, ReplayBuffer], execution: ExecutionConfig) -> Updates | GraphedUpdates:
    """What learns in one phase.

    Raises:
        InputError: a CUDA graph on another device, or images on a disk for one.
    """
    compiled = execution.mode in ("compiled", "compiled_graphed")
    update: Updater = CompiledUpdate(agent=agent) if compiled else agent.update
    if execution.precision == "bfloat16":
        update = bfloat16_products()(update)
    if execution.mode in ("eager", "compiled"):
        return Updates(sources=sources, update=update)
    require_cuda(execution, next(iter(state_tensors(agent))).device)
    return GraphedUpdates(agent=agent, sources=sources, update=update, updates_per_replay=execution.updates_per_replay)


def require_cuda(execution: ExecutionConfig, device: torch.device) -> None:
    """Refuse CUDA graphs elsewhere.

    Raises:
        InputError: names the settings.
    """
    if execution.mode in ("graphed", "compiled_graphed") and device.type != "cuda":
        raise InputError(
            f"execution.mode={execution.mode} captures CUDA graphs, and device={device}: set device=cuda, or "
            "execution.mode=eager or compiled"
        )
