"""`robot-rl export RUN TARGET.onnx`: a policy as one file that needs neither torch nor the run.

The agent's decision is traced as one graph, from observations as the environment gives them to actions in its units,
and compared with the agent before the file gets its name.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from robot_rl import checkpoint
from robot_rl.algorithms.agent import Agent
from robot_rl.apps.trained import Trained
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.policy import FORMAT, METADATA, OnnxPolicy, graph_hash
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.types import Array

RANDOM = 100
RECORDED = 100
"""Observations on which the file is compared with the agent."""
LARGEST_BYTES = 2**31 - 1  # of a protobuf message


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far a file is from the agent. Differences are those of normalised actions, in [-1, 1]."""

    random: int  # observations
    recorded: int
    largest: float
    beyond: int  # observations with a larger difference than the tolerance


def export_policy(
    trained: Trained, target: Path, *, stores: list[Path], tolerance: float, outliers: int, overwrite: bool
) -> Comparison:
    """Write the policy of a checkpoint, its mode, as ONNX.

    Args:
        trained: the checkpoint.
        target: a name that ends in .onnx.
        stores: with recorded observations to compare on, besides random ones.
        tolerance: of the difference from the agent, as a share of half the range of each dimension.
        outliers: so many observations may differ by more.
        overwrite: replace what is there.

    Raises:
        InputError: the policy cannot be exported, or the file does not do what the agent does; nothing is written then.
    """
    if target.exists() and not overwrite:
        raise InputError(f"{target} is already there: choose another name, or add overwrite=true")
    spec, replay = trained.spec, trained.config.replay
    if replay.frame_stack != 1:
        raise InputError(
            f"replay.frame_stack={replay.frame_stack}: a file remembers no frames, so policies that see several cannot "
            "be exported yet: play the run itself"
        )
    agent = trained.agent("cpu")
    graph = onnx_graph(agent, spec, replay.action_chunk)
    facts = {
        "format": FORMAT,
        "graph_bytes": len(graph),
        "graph_sha256": graph_hash(graph),
        "spec": spec.to_json(),
        "action_chunk": replay.action_chunk,
        "chunk_ensemble": replay.chunk_ensemble,
        "control_period_s": spec.control_period_s,
        "algorithm": type(agent).__name__,
        "checkpoint": str(trained.path),
        "checkpoint_sha256": trained.state["sha256"],
        "config": trained.state["config"],
    }
    policy = OnnxPolicy.of(with_facts(graph, facts), target)
    wanted = AgentPolicy(
        agent=agent,
        spec=spec,
        scale=ActionScale.from_spec(spec.action),
        device=torch.device("cpu"),
        action_chunk=replay.action_chunk,
    )
    found = compare(policy, wanted, [*_recorded(stores, spec)], tolerance)
    if found.beyond > outliers:
        raise InputError(
            f"the exported policy differs from {trained.path}: by {found.largest:.3g} at most, and by more than "
            f"tolerance={tolerance:g} in {found.beyond} of {found.random + found.recorded} observations. Policies that "
            "choose the best of several actions may choose another where two are nearly as good: if that is meant, set "
            "outliers=; otherwise this is a fault of the export"
        )
    compared = {"tolerance": tolerance, "random": found.random, "recorded": found.recorded, "largest": found.largest}
    content = with_facts(graph, facts | {"compared": compared | {"beyond": found.beyond}})
    with clear_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_bytes(target, content)
    return found


# The graph ------------------------------------------------------------------------------------------------------------
def onnx_graph(agent: Agent, spec: Spec, chunk: int) -> bytes:
    """What the agent does without exploring, as ONNX: inputs named as observations, each (1, *), to `action` (H, A).

    Raises:
        InputError: it draws random numbers that differ from call to call, or does what ONNX has no word for.
    """
    scale = ActionScale.from_spec(spec.action)
    low, high = torch.from_numpy(scale.low), torch.from_numpy(scale.high)

    def decide(*observation: Tensor) -> Tensor:
        action = agent.act(dict(zip(spec.observation, observation, strict=True)), explore=False)[0]
        unit = action.unflatten(0, (chunk, -1)).double().clamp(-1.0, 1.0)
        chunk_of_actions: Tensor = low + (unit + 1.0) * 0.5 * (high - low)
        return chunk_of_actions

    example = [torch.from_numpy(rows[None]) for rows in _random(spec, np.random.default_rng(0)).values()]
    with torch.no_grad(), _Draws() as draws:
        decide(*example)
    with torch.no_grad(), _Draws() as again:
        decide(*example)
    if not all(torch.equal(first, second) for first, second in zip(draws.values, again.values, strict=True)):
        raise InputError(
            f"{type(agent).__name__} draws new random numbers for each decision, even when it does not explore: a file "
            "cannot repeat them"
        )
    with torch.no_grad():
        traced = make_fx(decide)(*example)
    _fix_draws(traced, draws.values)
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                traced.eval(),
                tuple(example),
                None,
                dynamo=True,
                verbose=False,
                input_names=list(spec.observation),
                output_names=["action"],
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(f"{type(agent).__name__} cannot be exported: {error}") from error
    content: bytes = program.model_proto.SerializeToString()
    if len(content) > LARGEST_BYTES:
        raise InputError(f"the policy has {len(content) / 2**30:.1f} GiB, and an ONNX file holds 2 at most")
    return content


class _Draws(TorchDispatchMode):
    """Keeps what is drawn from generators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not type it
        self.values: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            self.values.append(found)
        return found


def _fix_draws(graph: GraphModule, values: list[Tensor]) -> None:
    """Put the numbers that were drawn into the place of the draws."""
    nodes = [
        node for node in graph.graph.nodes if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    ]
    for number, (node, value) in enumerate(zip(nodes, values, strict=True)):
        graph.register_buffer(f"draw_{number}", value)
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(f"draw_{number}"))
        graph.graph.erase_node(node)
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [name for name in vars(graph) if name.startswith("_torchbind_obj") and name not in used]:
        delattr(graph, name)
    graph.recompile()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself, and on packages that it does not need."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def with_facts(graph: bytes, facts: Mapping[str, Any]) -> bytes:
    """The file: a graph, and behind it the facts. Messages of protobuf are merged by writing one behind the other."""
    from onnx import ModelProto

    return graph + bytes(ModelProto(metadata_props=[{"key": METADATA, "value": json.dumps(facts)}]).SerializeToString())


# The comparison -------------------------------------------------------------------------------------------------------
def compare(policy: OnnxPolicy, wanted: AgentPolicy, recorded: list[dict[str, Array]], tolerance: float) -> Comparison:
    """Decisions of both in random situations and in recorded ones, each (*)."""
    generator = np.random.default_rng(1)
    situations = [_random(policy.spec, generator) for _ in range(RANDOM)] + recorded
    half = (wanted.scale.high - wanted.scale.low) / 2
    differences = np.asarray([np.abs((policy.decide(each) - wanted.decide(each)) / half).max() for each in situations])
    return Comparison(
        random=RANDOM,
        recorded=len(recorded),
        largest=float(differences.max()),
        beyond=int((differences > tolerance).sum()),
    )


def _random(spec: Spec, generator: np.random.Generator) -> dict[str, Array]:
    """A situation within the bounds, or around 0. Shapes: each (*)."""

    def draw(array: ArraySpec) -> Array:
        if array.dtype.startswith("float"):
            low = -3.0 if array.low is None else np.clip(array.low, -3.0, None)
            high = 3.0 if array.high is None else np.clip(array.high, None, 3.0)
            return generator.uniform(np.minimum(low, high), high, array.shape).astype(array.dtype)
        if array.dtype == "bool":
            return generator.random(array.shape) < 0.5
        return generator.integers(0, 256, array.shape).astype(array.dtype)

    return {key: draw(array) for key, array in spec.observation.items()}


def _recorded(stores: list[Path], spec: Spec) -> Iterator[dict[str, Array]]:
    """Situations spread over the first episodes of each store."""
    for path in stores:
        left = RECORDED
        store = EpisodeStore.open(path)
        if missing := set(spec.observation) - set(store.spec.observation):
            raise InputError(f"{path} lacks the observations {sorted(missing)} of the policy: compare on another store")
        for episode in store.episodes():
            steps = range(0, len(episode) + 1, max(1, (len(episode) + 1) // 20))
            for step in list(steps)[:left]:
                yield {key: episode.observation[key][step].astype(a.dtype) for key, a in spec.observation.items()}
            left -= min(left, len(steps))
            if left == 0:
                break
