"""Policies as a robot plays them: decisions of H steps played one by one, and files that need no learner.

Letters: H steps of one decision, A action.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array

METADATA = "robot_rl"
"""Under this key an exported policy holds its facts, as JSON."""
FORMAT = 1


@runtime_checkable
class Decider(Protocol):
    """A policy that can be asked for a whole decision, whatever is left of the last one."""

    def decide(self, observation: Mapping[str, Array]) -> Array:
        """H actions in the units of the spec, the first for now. Shapes: each (*) -> (H, A)."""


@runtime_checkable
class Rehearsed(Protocol):
    """A policy that can decide for nothing, so that what it needs is in the caches when it has to decide in earnest."""

    def rehearse(self, observation: Mapping[str, Array]) -> None:
        """Decide and forget it; no later decision changes. Shapes: each (*)."""


@runtime_checkable
class Chunked(Protocol):
    """A policy that plays chunks, and can be told that the rest of one is not to be played."""

    def drop_chunk(self) -> None:
        """Decide anew at the next step."""


def drop_chunk(policy: object) -> None:
    """Let a policy forget what is left of its chunk, as after a person had the robot."""
    if isinstance(policy, Chunked):
        policy.drop_chunk()


@dataclass(kw_only=True)
class ChunkPlayer:
    """Plays decisions of H steps.

    Without `ensemble` one is played to its end, then the next is made. With it one is made at every step, and the mean
    of what the last H say of the step is played (temporal ensembling: Zhao et al. "Learning Fine-Grained Bimanual
    Manipulation with Low-Cost Hardware". RSS 2023, arXiv:2304.13705).

    Args:
        steps: H.
        ensemble: decay of the weights exp(-decay * k), k = 0 for the oldest decision.
    """

    steps: int = 1
    ensemble: float | None = None
    _chunk: Array | None = field(init=False, default=None)  # (H, A)
    _played: int = field(init=False, default=0)  # actions of it
    _decisions: list[Array] = field(init=False, default_factory=list)  # each (H, A), the newest last

    def reset(self) -> None:
        """Forget what is left of the chunk."""
        self._chunk, self._played, self._decisions = None, 0, []

    def next(self, decide: Callable[[], Array]) -> Array:
        """The action of this step. Shapes: `decide` () -> (H, A); -> (A,)."""
        if self.ensemble is not None:
            return self._mean(decide(), self.ensemble)
        if self._chunk is None or self._played == self.steps:
            self._chunk, self._played = decide(), 0
        action: Array = self._chunk[self._played]
        self._played += 1
        return action

    @property
    def decided(self) -> Array | None:
        """The chunk of which the last action was the first; None in the middle of one. Shapes: (H, A)."""
        return self._chunk if self._played == 1 else None

    def _mean(self, decision: Array, decay: float) -> Array:
        self._chunk, self._played = decision, 1
        self._decisions = [*self._decisions, decision][-self.steps :]
        oldest_first = reversed(list(enumerate(reversed(self._decisions))))
        said = np.stack([chunk[age] for age, chunk in oldest_first])
        weight = np.exp(-decay * np.arange(len(said)))
        mean: Array = weight @ said / weight.sum()
        return mean


@dataclass(kw_only=True)
class OnnxPolicy:
    """A policy that `robot-rl export` wrote, played by ONNX Runtime on one thread of the CPU.

    Normalisation, the decision and the units of the actions are all in the file.
    """

    path: Path
    spec: Spec  # of the environment, whose actions are single ones
    action_chunk: int  # H
    chunk_ensemble: float | None
    facts: dict[str, Any]  # what the export wrote down: where it comes from, how far it is from the original
    session: Any
    _player: ChunkPlayer = field(init=False)

    def __post_init__(self) -> None:
        self._player = ChunkPlayer(steps=self.action_chunk, ensemble=self.chunk_ensemble)

    @staticmethod
    def load(path: Path) -> "OnnxPolicy":
        """Read a file and prepare it to run.

        Raises:
            InputError: it is not there, not ours, damaged, or of another version.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        return OnnxPolicy.of(content, path)

    @staticmethod
    def of(content: bytes, path: Path) -> "OnnxPolicy":
        """As `load`, from the content of a file."""
        import onnxruntime  # not every process of ours plays an exported policy

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            text = session.get_modelmeta().custom_metadata_map.get(METADATA)
        except Exception as error:  # ONNX Runtime's errors share no class but this one
            raise InputError(f"{path} is no ONNX file that can be run: {error}") from error
        if text is None:
            raise InputError(
                f"{path} is an ONNX file without a specification: write one of a run with `robot-rl export RUN {path}`"
            )
        facts: dict[str, Any] = json.loads(text)
        if facts.get("format") != FORMAT:
            raise InputError(
                f"{path} has format {facts.get('format')}, and this version reads {FORMAT}: export the run again"
            )
        if graph_hash(content[: facts["graph_bytes"]]) != facts["graph_sha256"]:
            raise InputError(f"{path} is damaged: its content has not the hash that was written into it")
        return OnnxPolicy(
            path=path,
            spec=Spec.from_json(facts["spec"]),
            action_chunk=facts["action_chunk"],
            chunk_ensemble=facts["chunk_ensemble"],
            facts=facts,
            session=session,
        )

    def reset(self) -> None:
        """Forget what is left of the chunk."""
        self._player.reset()

    def drop_chunk(self) -> None:
        """Decide anew at the next step."""
        self._player.reset()

    def rehearse(self, observation: Mapping[str, Array]) -> None:
        """Decide and forget it. Shapes: each (*)."""
        self.decide(observation)

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        return self._player.next(lambda: self.decide(observation))

    def decide(self, observation: Mapping[str, Array]) -> Array:
        """A new chunk, whatever is left of the last one. Shapes: each (*) -> (H, A), float64.

        Raises:
            InputError: the actions are not numbers, because an observation or the weights are not.
        """
        given = {key: np.asarray(observation[key], array.dtype)[None] for key, array in self.spec.observation.items()}
        chunk: Array = self.session.run(None, given)[0]
        if not np.isfinite(chunk).all():
            self.spec.check_observation({key: rows[0] for key, rows in given.items()}, str(self.path))
            raise InputError(f"{self.path} gives {chunk[0].tolist()} for observations that are numbers")
        return chunk


def graph_hash(graph: bytes) -> str:
    """SHA-256 of a policy without its facts, in hexadecimal."""
    return hashlib.sha256(graph).hexdigest()
