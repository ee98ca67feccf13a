"""Measures where the time of a phase goes: parts of the loop by the clock, parts of an update by the profiler."""

import functools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function

from robot_rl.config import PhaseConfig
from robot_rl.loops.offline import run_offline
from robot_rl.loops.online import run_online
from robot_rl.loops.phases import apply_settings
from robot_rl.loops.run import Run

WARM_UP, LOGS_EVERY = 3, 5  # steps before anything is measured; steps from log line to log line meanwhile
LEAST, MOST = 5, 20_000  # steps that are measured
PROFILED_S, PROFILED = 1.0, 20  # of the phase under the profiler, and at most so many steps of it
LABEL = "forward of "
UPDATE, SAMPLING, STORING = "update", "drawing and gathering rows", "storing in the replay buffer"
ENVIRONMENT, POLICY, LOGGING, CHECKPOINT, LOOP = (
    "environment step",
    "policy inference",
    "log lines",
    "checkpoints",
    "the loop itself",
)
BACKWARD, OPTIMISER, TARGETS, COPY, REST, PYTHON = (
    "backward passes",
    "optimisers",
    "target networks",
    "copies between host and device",
    "losses, random numbers and all else",
    "Python between operations",
)


class Stopwatch:
    """Seconds and calls of each part, without those of the parts that it calls."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.elsewhere_s: dict[str, float] = defaultdict(float)  # in other threads
        self._device = device
        self._inner: list[float] = []  # seconds in the parts that each running one called
        self._owner = threading.get_ident()

    def clear(self) -> None:
        """Forget all, as after a warm-up."""
        for each in (self.seconds, self.calls, self.elsewhere_s):
            each.clear()

    def time(self, owner: Any, method: str, part: str) -> None:
        """From now on, count the calls of a method of an object as a part."""
        called = getattr(owner, method)

        @functools.wraps(called)
        def timed(*arguments: Any, **settings: Any) -> Any:
            with self.part(part):
                return called(*arguments, **settings)

        setattr(owner, method, timed)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        if threading.get_ident() != self._owner:
            begun = time.perf_counter()
            yield
            self.elsewhere_s[name] += time.perf_counter() - begun
            return
        self._wait()
        begun = time.perf_counter()
        self._inner.append(0.0)
        with record_function(name):
            yield
            self._wait()
        whole = time.perf_counter() - begun
        self.seconds[name] += whole - self._inner.pop()
        self.calls[name] += 1
        if self._inner:
            self._inner[-1] += whole

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass(kw_only=True)
class PhaseProfile:
    """Where the time of a phase goes, in seconds for one of its steps."""

    name: str
    phase: PhaseConfig
    step_s: float  # checkpoints and log lines as often as they are due
    parts: dict[str, float]
    update_parts: dict[str, float]  # sum to the update's; empty where it is not eager
    operators: list[tuple[str, float, float]]  # name, share of the update's operations, calls for each step
    update_calls: float  # of the agent's update for each step
    elsewhere: dict[str, float] = field(default_factory=dict)  # in threads meanwhile


def profile_phase(
    run: Run, name: str, *, seconds: float, checkpoint_every_s: float, trace: Path | None
) -> PhaseProfile:
    """Run a little of a phase and measure it.

    Args:
        run: freshly assembled; its agent learns and its buffers fill meanwhile.
        name: of the phase.
        seconds: about so long.
        checkpoint_every_s: how often the run would save.
        trace: where the profiler's trace goes.
    """
    phase = replace(run.phases[name], evaluate_every=0, evaluate_at=[])
    device = run.policy.device
    run.progress.phase, run.progress.phase_index = name, list(run.phases).index(name)
    apply_settings(run, phase)
    if phase.interact != "none":
        _fill(run, phase)
    watch = Stopwatch(device)
    log_every, run.log_every = run.log_every, LOGS_EVERY
    eager = run.execution.mode == "eager"
    with _watched(run, watch, eager), _labelled(run.agent):
        short, steps = _timed(run, phase, WARM_UP, watch)
        each = short / steps
        whole, count = _timed(run, phase, int(min(max(seconds / each, LEAST), MOST)), watch)
        whole /= count
        parts = {part: spent / count for part, spent in watch.seconds.items()}
        calls = watch.calls[UPDATE] / count if eager else float(phase.updates_per_step > 0)
        logs, elsewhere = watch.calls[LOGGING], {part: spent / count for part, spent in watch.elsewhere_s.items()}
        events: tuple[int, list[FunctionEvent]] = (1, [])
        if eager or trace is not None:
            events = _profile(run, phase, int(min(max(PROFILED_S / each, 1), PROFILED)), trace)
    run.log_every = log_every
    parts[UPDATE if not eager and phase.updates_per_step > 0 else LOOP] = max(whole - sum(parts.values()), 0.0)
    if logs:
        parts[LOGGING] *= count / logs / log_every
    begun = time.perf_counter()
    run.save()
    saving = (time.perf_counter() - begun) / max(checkpoint_every_s, 1e-9)
    parts[CHECKPOINT] = sum(parts.values()) * min(saving, 0.05)  # of the time; Run saves less often beyond that share
    split, operators = _split(events, parts.get(UPDATE, 0.0), device) if eager and calls else ({}, [])
    return PhaseProfile(
        name=name,
        phase=phase,
        step_s=sum(parts.values()),
        parts=parts,
        update_parts=split,
        operators=operators,
        update_calls=calls,
        elsewhere=elsewhere,
    )


def _steps(run: Run, phase: PhaseConfig, count: int) -> None:
    run.progress.phase_step = 0
    loop = run_offline if phase.interact == "none" else run_online
    loop(run, replace(phase, steps=count))


def _timed(run: Run, phase: PhaseConfig, count: int, watch: Stopwatch) -> tuple[float, int]:
    """Seconds of about `count` steps, and how many they were, behind others in which updates are compiled."""
    begun: list[tuple[float, int]] = []
    after_step = run.after_step

    def counted(*arguments: Any) -> None:
        after_step(*arguments)
        if not begun and run.progress.phase_step >= WARM_UP:
            watch.clear()
            begun.append((time.perf_counter(), run.progress.phase_step))

    setattr(run, "after_step", counted)  # noqa: B010
    try:
        _steps(run, phase, 2 * WARM_UP + LOGS_EVERY + count)
        start, step = begun[0]
        return time.perf_counter() - start, run.progress.phase_step - step
    finally:
        delattr(run, "after_step")


def _fill(run: Run, phase: PhaseConfig) -> None:
    """Have an episode in each replay buffer that is drawn from, without which nothing would be learned yet."""
    for name, environment in (("online", run.environment), ("robot", run.robot)):
        if environment is not None and (name == phase.acts_for or name in phase.shares) and not len(run.sources[name]):
            steps = min(environment.maximum_steps, max(phase.batch_size, 50))
            filling = replace(phase, interact="random", robot=name == "robot", updates_per_step=0.0, shares={name: 1.0})
            _steps(run, filling, steps)


@contextmanager
def _watched(run: Run, watch: Stopwatch, eager: bool) -> Iterator[None]:
    """Inside, the parts of the loop are counted."""
    watched: list[tuple[Any, str, str]] = [(run, "log", LOGGING), (run.policy, "act", POLICY)]
    watched += [(source, method, SAMPLING) for source in run.sources.values() for method in ("draw", "gather")]
    for name, environment in (("online", run.environment), ("robot", run.robot)):
        if environment is not None:
            watched += [(run.sources[name], method, STORING) for method in ("begin", "add", "cut")]
            watched += [(environment, method, ENVIRONMENT) for method in ("step", "reset")]
    if eager:
        watched.append((run.agent, "update", UPDATE))
    for owner, method, part in watched:
        watch.time(owner, method, part)
    try:
        yield
    finally:
        for owner, method, _ in watched:
            delattr(owner, method)  # the class's own is there again


@contextmanager
def _labelled(agent: Any) -> Iterator[None]:
    """Inside, the profiler sees which network runs."""
    labelled: list[tuple[nn.Module, str]] = []
    for item in fields(agent):
        module = getattr(agent, item.name)
        if isinstance(module, nn.Module):
            for method in ("forward", "raw", "apart"):  # the ways to ask a network or an ensemble
                if hasattr(type(module), method):
                    setattr(module, method, _label(getattr(module, method), LABEL + item.name.replace("_", " ")))
                    labelled.append((module, method))
    try:
        yield
    finally:
        for module, method in labelled:
            delattr(module, method)


def _label(called: Callable[..., Any], label: str) -> Callable[..., Any]:
    @functools.wraps(called)
    def labelled(*arguments: Any, **settings: Any) -> Any:
        with record_function(label):
            return called(*arguments, **settings)

    return labelled


@contextmanager
def _without_lines_of_kineto() -> Iterator[None]:
    """Inside, the standard error of the process is shut: the profiler's library writes two lines of its own there."""
    before = os.dup(2)
    shut = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(shut, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(shut)


def _profile(run: Run, phase: PhaseConfig, count: int, trace: Path | None) -> tuple[int, list[FunctionEvent]]:
    """How many steps were run under the profiler, and what it saw."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if run.policy.device.type == "cuda" else [])
    with _without_lines_of_kineto(), torch.profiler.profile(activities=kinds, acc_events=True) as profiler:
        _steps(run, phase, count)
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    return count, list(profiler.events() or [])


def _split(
    seen: tuple[int, list[FunctionEvent]], update_s: float, device: torch.device
) -> tuple[dict[str, float], list[tuple[str, float, float]]]:
    """The update by part, scaled to what it takes without the profiler, and its largest operations."""
    count, events = seen
    spent: dict[str, float] = defaultdict(float)
    named: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    cuda = device.type == "cuda"
    whole = 0.0
    for event in events:
        above = list(_ancestors(event))
        names = [each.name for each in above]
        backward = any(name.startswith("autograd::engine") for name in [event.name, *names])
        if event.name == UPDATE:
            whole += event.cpu_time_total
        if UPDATE not in names and not (backward and cuda):
            continue  # on CUDA, backward passes run in a thread of their own
        own = float(event.self_device_time_total if cuda else event.self_cpu_time_total)
        label = next((name for name in [event.name, *names] if name.startswith(LABEL)), None)
        operation = "::" in event.name and not event.name.startswith("autograd")
        if operation:
            before = named[event.name]
            named[event.name] = (before[0] + own, before[1] + 1)
        spent[_part(event.name, backward, label, operation or cuda)] += own
    python = max(whole - sum(spent.values()), 0.0) if cuda else 0.0
    spent[PYTHON] += python
    total = sum(spent.values()) or 1.0
    operated = sum(own for own, _ in named.values()) or 1.0
    largest = sorted(named.items(), key=lambda item: -item[1][0])
    return (
        {part: update_s * own / total for part, own in spent.items()},
        [(name, own / operated, calls / count) for name, (own, calls) in largest],
    )


def _ancestors(event: FunctionEvent) -> Iterator[FunctionEvent]:
    above = event.cpu_parent
    while above is not None:
        yield above
        above = above.cpu_parent


def _part(name: str, backward: bool, label: str | None, operation: bool) -> str:
    if not operation:
        return PYTHON
    if backward:
        return BACKWARD
    if label is not None:
        return label
    if "adam" in name or name in ("aten::_foreach_add_",):
        return OPTIMISER
    if "lerp" in name:
        return TARGETS
    if "Memcpy" in name or name == "aten::pin_memory":
        return COPY
    return REST
