"""Compiled and captured updates learn what eager ones learn; the capture itself needs a CUDA device (`gpu`)."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl import checkpoint
from robot_rl.algorithms import ALGORITHM_CONFIGS, create, with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.config import ExecutionConfig, PhaseConfig
from robot_rl.errors import InputError
from robot_rl.functional.schedule import CountLog, RecordedCount, cosine_then_hold, is_due
from robot_rl.loops import execution, trace
from robot_rl.loops.execution import CompiledUpdate, GraphedUpdates, again, as_traced, learner
from robot_rl.loops.phases import run_phases
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.mixture import draw_mixture, gather_mixture
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Batch, Episode

CPU = torch.device("cpu")
BOUND = np.ones(2)
SPEC = Spec(observation={"state": ArraySpec(shape=(3,))}, action=ArraySpec(shape=(2,), low=-BOUND, high=BOUND))
SETTINGS: dict[str, dict[str, Any]] = {
    "sac": {
        "critic_count": 3,
        "critic_subset": 2,
        "critic_dropout": 0.1,
        "conservative_weight": 1.0,
        "conservative_samples": 2,
    },
    "iql": {"actor_schedule_steps": 10, "actor_dropout": 0.1},
    "idql": {"actor_schedule_steps": 10, "actor_width": 8, "time_width": 8, "candidates": 2},
    "rorl": {"critic_count": 3, "uncertainty_weight": 0.3, "uncertainty_decay": 0.05, "diversity_weight": 1.0},
    "td3": {"gradient_clip": 1.0},
}
"""What draws, schedules, clips or takes turns, so that all of it is run."""


def small(kind: str) -> Any:
    """The algorithm with narrow networks."""
    config = ALGORITHM_CONFIGS[kind](**SETTINGS.get(kind, {}))
    hidden = {name: [8] for name in vars(config) if name.endswith("_hidden")}
    return replace(config, **hidden)


def batch(rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        observation={"state": noise(rows, 3)},
        action=noise(rows, 2).tanh(),
        reward=noise(rows),
        discount=torch.full((rows,), 0.99),
        next_observation={"state": noise(rows, 3)},
        monte_carlo_return=noise(rows),
        next_action=noise(rows, 2).tanh(),
        has_next_action=noise(rows) < 1.0,
        real=noise(rows) < 0.0,
        held_out=noise(rows) < -1.0,
    )


def assert_same(one: Agent, other: Agent, tolerance: float) -> None:
    """Networks, moments of the optimisers, generator and count."""
    a, b = (checkpoint.pack_agent(agent) for agent in (one, other))
    for name, value in a[0].items():
        torch.testing.assert_close(b[0][name], value, rtol=0, atol=tolerance, msg=name)
    assert set(a[0]) == set(b[0])
    assert a[1]["updates"] == b[1]["updates"]


@pytest.mark.parametrize("kind", sorted(ALGORITHM_CONFIGS))
def test_a_traced_update_of_every_algorithm_is_the_eager_one_up_to_rounding(kind: str) -> None:
    eager, traced = (create(small(kind), SPEC, Seeds(0), CPU, None) for _ in range(2))
    update = CompiledUpdate(agent=traced, compiler=as_traced)
    for step in range(4):
        wanted, found = eager.update(batch(8, step)), update(batch(8, step))
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert_same(eager, traced, 2e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of other parts of torch
@pytest.mark.parametrize("kind", ["bc", pytest.param("td3", marks=pytest.mark.slow)])
def test_a_compiled_update_is_the_eager_one_up_to_rounding(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager, compiled = (create(small(kind), SPEC, Seeds(0), CPU, None) for _ in range(2))
    update = CompiledUpdate(agent=compiled)
    for step in range(4):
        eager.update(batch(8, step)), update(batch(8, step))
    assert_same(eager, compiled, 2e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_compiler_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    agent = create(small("bc"), SPEC, Seeds(0), CPU, None)
    with config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))}), pytest.raises(InputError, match="apt install g"):
        CompiledUpdate(agent=agent)(batch(8))
    assert agent.updates == 0


def test_an_update_is_traced_once_for_each_form_turn_and_configuration() -> None:
    agent, seen = create(small("td3"), SPEC, Seeds(0), CPU, None), []

    def compiler(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return as_traced(graph, inputs)

    update = CompiledUpdate(agent=agent, compiler=compiler)
    for _ in range(6):
        update(batch(8))
    assert len(seen) == 2  # with the actor and without
    update(batch(12))
    assert len(seen) == 3
    agent.config = with_overrides(agent.config, {"actor_cloning_weight": 1.0})
    update(batch(8))
    assert len(seen) == 4


def test_several_critic_updates_are_one_graph() -> None:
    eager, traced = (create(small("sac"), SPEC, Seeds(0), CPU, None) for _ in range(2))
    update = CompiledUpdate(agent=traced, compiler=as_traced)
    for step in range(2):
        eager.update(batch(12, step), critic_updates=3)
        update(batch(12, step), critic_updates=3)
    assert traced.updates == 6
    assert_same(eager, traced, 2e-5)


def test_tracing_leaves_the_agent_as_it_was() -> None:
    agent = create(small("sac"), SPEC, Seeds(0), CPU, None)
    before = {name: value.clone() for name, value in checkpoint.pack_agent(agent)[0].items()}
    trace.trace(agent, batch(8), 1)
    after, state = checkpoint.pack_agent(agent)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(not value.any() for name, value in after.items() if name not in before)  # moments that begin at 0
    assert agent.updates == 0
    assert all(isinstance(group["lr"], float) for group in state["optimizers.actor"]["param_groups"])


# What depends on the count --------------------------------------------------------------------------------------------
def test_a_recorded_count_gives_scheduled_numbers_anew_and_refuses_arithmetic() -> None:
    log = CountLog(device=CPU)
    count = RecordedCount.begin(3, log) + 1
    rate = cosine_then_hold(count, 8)
    assert rate.item() == pytest.approx(0.5)
    log.refill(7)
    assert rate.item() == pytest.approx(0.0, abs=1e-6)
    for use in (lambda: count % 2, lambda: count / 2, lambda: count > 2, lambda: float(count), lambda: 2 * count):
        with pytest.raises(RuntimeError, match="scheduled"):
            use()


def test_turns_say_which_counts_a_recording_fits() -> None:
    log = CountLog(device=CPU)
    assert not is_due(RecordedCount.begin(4, log) + 1, 3)
    assert [log.fits(count) for count in range(6)] == [True, True, False, True, True, False]


def test_an_update_that_computes_with_the_count_is_refused() -> None:
    agent = create(small("bc"), SPEC, Seeds(0), CPU, None)
    update = agent.update
    agent.update = lambda rows, **options: update(rows, **options) | {"odd": torch.tensor(agent.updates * 1.0)}
    with pytest.raises(RuntimeError, match="scheduled"):
        trace.trace(agent, batch(8), 1)
    assert agent.updates == 0


def test_an_update_that_draws_from_the_global_generator_is_refused() -> None:
    agent = create(small("bc"), SPEC, Seeds(0), CPU, None)
    update = agent.update
    agent.update = lambda rows, **options: update(rows, **options) | {"noise": torch.rand(())}
    with pytest.raises(RuntimeError, match="global generator"):
        trace.trace(agent, batch(8), 1)


def test_an_update_that_changes_a_tensor_of_no_field_is_refused() -> None:
    agent, hidden = create(small("bc"), SPEC, Seeds(0), CPU, None), torch.zeros(())
    update = agent.update
    agent.update = lambda rows, **options: update(rows, **options) | {"count": hidden.add_(1.0).clone()}
    with pytest.raises(RuntimeError, match="no field of the agent"):
        trace.trace(agent, batch(8), 1)


# Graphs, with a stand-in that calls what a graph would replay ---------------------------------------------------------
def sources(device: torch.device = CPU) -> dict[str, ReplayBuffer]:
    found = {}
    for number, name in enumerate(("offline", "online")):
        found[name] = ReplayBuffer(
            SPEC,
            capacity=60,
            scale=ActionScale.from_spec(SPEC.action),
            reward=RewardTransform(),
            discount=0.9,
            complete_only=True,
            device=device,
        )
        rows = batch(21, number)
        found[name].append(
            Episode(
                observation={"state": rows.observation["state"].numpy()},
                action=rows.action[:20].numpy(),
                reward=rows.reward[:20].numpy(),
                terminated=torch.zeros(20, dtype=torch.bool).numpy(),
                truncated=torch.zeros(20, dtype=torch.bool).numpy(),
            )
        )
    return found


@pytest.mark.parametrize("kind", ["iql", "td3", "rorl"])
@pytest.mark.parametrize("compiled", [False, True])
def test_several_updates_in_one_replay_are_the_eager_ones(kind: str, compiled: bool) -> None:
    data, generator = sources(), torch.Generator().manual_seed(0)
    eager, graphed = (create(small(kind), SPEC, Seeds(0), CPU, None) for _ in range(2))
    update = CompiledUpdate(agent=graphed, compiler=as_traced) if compiled else graphed.update
    graphs = GraphedUpdates(agent=graphed, sources=data, update=update, updates_per_replay=3, record=again)
    for _ in range(2):
        drawn = [draw_mixture(data, {"offline": 3, "online": 5}, 1, generator) for _ in range(3)]
        for rows in drawn:
            eager.update(gather_mixture(data, rows, 1))
        graphs.learn(drawn, critic_updates=1)
    assert_same(eager, graphed, 2e-5)


def test_rows_and_numbers_of_a_replay_lie_where_the_graph_reads_them() -> None:
    data, generator = sources(), torch.Generator().manual_seed(0)
    agent, recorded = create(small("iql"), SPEC, Seeds(0), CPU, None), []

    def record(owner: Agent, work: Callable[[], Any]) -> Callable[[], Any]:
        recorded.append(work)
        return work

    graphs = GraphedUpdates(agent=agent, sources=data, update=agent.update, updates_per_replay=2, record=record)
    for _ in range(3):
        graphs.learn([draw_mixture(data, {"offline": 4}, 1, generator) for _ in range(2)], critic_updates=1)
    assert len(recorded) == 1
    (graph,) = next(iter(graphs._graphs.values()))
    assert [round(tensor.item(), 5) for tensor in graph.count.tensors] == [
        round(cosine_then_hold(updates, 10), 5) for updates in (4, 5)
    ]
    graphs.learn([draw_mixture(data, {"offline": 2, "online": 2}, 1, generator) for _ in range(2)], critic_updates=1)
    assert len(recorded) == 2


def test_no_more_graphs_are_kept_than_fit() -> None:
    data, generator = sources(), torch.Generator().manual_seed(0)
    agent = create(small("bc"), SPEC, Seeds(0), CPU, None)
    graphs = GraphedUpdates(agent=agent, sources=data, update=agent.update, updates_per_replay=1, record=again)
    for rows in range(1, execution.KEPT_GRAPHS + 4):
        graphs.learn([draw_mixture(data, {"offline": rows}, 1, generator)], critic_updates=1)
    assert len(graphs._graphs) == execution.KEPT_GRAPHS


def test_graphs_on_a_cpu_are_refused() -> None:
    agent = create(small("bc"), SPEC, Seeds(0), CPU, None)
    with pytest.raises(InputError, match=r"device=cpu: set device=cuda, or execution\.mode=eager"):
        learner(agent, sources(), ExecutionConfig(mode="graphed"))


# Whole runs -----------------------------------------------------------------------------------------------------------
PHASES = {
    "offline": PhaseConfig(steps=25, batch_size=8, evaluate_every=10),
    "other": PhaseConfig(steps=7, batch_size=8, reset=["critic", "optimizers.actor"], algorithm={"target_rate": 0.1}),
    "online": PhaseConfig(interact="policy", steps=30, updates_per_step=2, batch_size=8),
}


def without_gpu(agent: Agent, data: Any, settings: ExecutionConfig) -> Any:
    """`learner` with the stand-ins."""
    match settings.mode:
        case "compiled":
            return execution.Updates(sources=data, update=CompiledUpdate(agent=agent, compiler=as_traced))
        case "graphed":
            return GraphedUpdates(agent=agent, sources=data, update=agent.update, updates_per_replay=4, record=again)
    return learner(agent, data, settings)


@pytest.mark.parametrize("mode", ["compiled", "graphed"])
def test_a_run_with_resets_overrides_and_interaction_is_the_eager_one(
    build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    patch(monkeypatch)
    runs = [build(tmp_path / name, PHASES) for name in ("eager", mode)]
    runs[1].execution = ExecutionConfig(mode=mode)
    for run in runs:
        assert run_phases(run)
    left, right = (asdict(run.progress) for run in runs)
    assert left == right
    assert_same(runs[0].agent, runs[1].agent, 1e-4)
    assert torch.equal(runs[0].generator.get_state(), runs[1].generator.get_state())


@pytest.mark.parametrize(("mode", "stop_after"), [("compiled", 5), ("graphed", 2), ("graphed", 9), ("graphed", 11)])
def test_an_interrupted_run_goes_on_exactly(
    build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, stop_after: int
) -> None:
    patch(monkeypatch)
    whole = build(tmp_path / "whole", PHASES)
    first = build(tmp_path / "parts", PHASES, stop_after=stop_after)
    for run in (whole, first):
        run.execution = ExecutionConfig(mode=mode)
    assert run_phases(whole)
    assert not run_phases(first)
    second = build(tmp_path / "parts", PHASES, resume=True)
    second.execution = ExecutionConfig(mode=mode)
    assert run_phases(second)
    assert_same(whole.agent, second.agent, 0.0)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_in_bfloat16_updates_round_and_what_is_kept_stays_float32(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "CompiledUpdate", partial(CompiledUpdate, compiler=as_traced))
    data, kept = sources(), []
    drawn = [draw_mixture(data, {"offline": 3, "online": 5}, 1, torch.Generator().manual_seed(0))]
    for precision in ("float32", "bfloat16"):
        agent = create(small("sac"), SPEC, Seeds(0), CPU, None)
        learner(agent, data, ExecutionConfig(mode=mode, precision=precision)).learn(drawn, critic_updates=1)
        kept.append(checkpoint.pack_agent(agent)[0])
    exact, rounded = kept
    assert any(not torch.equal(exact[name], rounded[name]) for name in exact)
    for name, value in exact.items():
        torch.testing.assert_close(rounded[name], value, rtol=0.05, atol=0.05, msg=name)


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both loops use the stand-ins."""
    for loop in ("offline", "online"):
        monkeypatch.setattr(f"robot_rl.loops.{loop}.learner", without_gpu)


# On a CUDA device -----------------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["compiled", "graphed", "compiled_graphed"])
@pytest.mark.parametrize("kind", sorted(ALGORITHM_CONFIGS))
def test_on_a_cuda_device_every_mode_is_the_eager_one(kind: str, mode: str) -> None:
    cuda = torch.device("cuda")
    generator, data = torch.Generator().manual_seed(0), sources(cuda)
    eager, other = (create(small(kind), SPEC, Seeds(0), cuda, None) for _ in range(2))
    learning = learner(other, data, ExecutionConfig(mode=mode, updates_per_replay=3))
    for _ in range(3):
        drawn = [draw_mixture(data, {"offline": 3, "online": 5}, 1, generator) for _ in range(3)]
        for rows in drawn:
            eager.update(gather_mixture(data, rows, 1))
        learning.learn(drawn, critic_updates=1)
    assert_same(eager, other, 1e-3)
