"""A LeRobot policy in this process, where the package lerobot is installed.

`predict_action_chunk(batch)` answers (B, H, D) of normalised actions; normalisation and its opposite are processors
beside the policy. Read in huggingface/lerobot, src/lerobot/policies/pretrained.py and factory.py, 7427f3180 (v0.6.2).

K samples are a batch of K equal rows. Policies that see several steps are refused: their history is kept by
`select_action` alone, and what `predict_action_chunk` is handed does not reach them.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_rl.errors import InputError
from robot_rl.types import Array

FLOWS = {"smolvla", "pi0", "pi05"}
"""Policies that begin from `noise` of (B, chunk_size, max_action_dim), which they can be handed."""
CAMERA = "observation.images."


@dataclass(kw_only=True)
class LeRobotModel:
    """A policy with its processors.

    Args:
        policy: as `get_policy_class(..).from_pretrained(path)` gives it.
        before: from a batch of observations to what the policy takes.
        after: from normalised actions (B, D) to units.
        kind: such as smolvla.
        path: for messages.
        device: of the policy.

    Raises:
        InputError: the policy sees more than one step.
    """

    policy: Any
    before: Callable[[dict[str, Any]], dict[str, Any]]
    after: Callable[[Tensor], Tensor]
    kind: str
    path: str
    device: torch.device

    def __post_init__(self) -> None:
        steps = getattr(self.policy.config, "n_obs_steps", 1)
        if steps != 1:
            raise InputError(
                f"{self.path}: {self.kind} sees {steps} steps of which only its own loop keeps account: steer it "
                "through LeRobot's policy server, run=lerobot+grpc://127.0.0.1:8080"
            )

    @property
    def name(self) -> str:
        """For messages."""
        return f"lerobot:{self.path}"

    @property
    def stochastic(self) -> bool:
        """ACT takes the mode of its latent variable; the others sample."""
        return self.kind != "act"

    def begin(self, task: str) -> None:
        """Empties the policy's queues."""
        self.policy.reset()

    def sample(self, sent: Mapping[str, Any], task: str, count: int, generator: torch.Generator) -> Array:
        """Shapes: images (H, W, 3) uint8, vectors (S,) -> (K, H, A), units."""
        rows: dict[str, Any] = {name: self._rows(name, value, count) for name, value in sent.items()}
        rows["task"] = [task] * count
        with torch.no_grad():
            given = self.before(rows)
            noise = {"noise": self._noise(count, generator)} if self.kind in FLOWS else {}
            chunks: Tensor = self.policy.predict_action_chunk(given, **noise)  # (K, H, D), normalised
            steps = [self.after(chunks[:, at]) for at in range(chunks.shape[1])]  # each (K, D)
        return torch.stack(steps, dim=1).double().cpu().numpy()

    def _rows(self, name: str, value: Any, count: int) -> Tensor:
        array = torch.from_numpy(np.array(value))
        if name.startswith(CAMERA):
            if array.dtype != torch.uint8 or array.ndim != 3:
                raise InputError(f"{self.name}: '{name}' is {array.dtype} {tuple(array.shape)}, not (H, W, 3) uint8")
            array = array.permute(2, 0, 1).float() / 255
        return array.to(self.device).expand(count, *array.shape).contiguous()

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        config = self.policy.config
        shape = (count, config.chunk_size, config.max_action_dim)
        return torch.randn(shape, generator=generator, device=generator.device).to(self.device)


def load(path: str, device: torch.device) -> LeRobotModel:
    """The policy in a folder that `save_pretrained` wrote; nothing is downloaded.

    Raises:
        InputError: lerobot is not installed, or the folder holds no policy.
    """
    try:
        configs = importlib.import_module("lerobot.configs.policies")
        factory = importlib.import_module("lerobot.policies.factory")
    except ImportError as error:
        raise InputError(
            f"run=lerobot:{path} needs the package lerobot in this environment ({error}): install it, or run its "
            "policy server in another one and use run=lerobot+grpc://127.0.0.1:8080"
        ) from error
    try:
        config = configs.PreTrainedConfig.from_pretrained(path, local_files_only=True)
        config.device = str(device)
        policy = factory.get_policy_class(config.type).from_pretrained(path, config=config, local_files_only=True)
        before, after = factory.make_pre_post_processors(config, pretrained_path=path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"run=lerobot:{path} cannot be loaded: {type(error).__name__}: {error}") from error
    policy.to(device).eval()
    return LeRobotModel(policy=policy, before=before, after=after, kind=config.type, path=path, device=device)
