"""Checkpoints of runs and exported policies, read again: what evaluation, serving and deployment begin with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from robot_rl import checkpoint
from robot_rl.algorithms.agent import Agent
from robot_rl.apps.build import build_agent, config_from_json
from robot_rl.apps.pixels import without_initial_weights
from robot_rl.config import TrainConfig
from robot_rl.errors import InputError
from robot_rl.policy import OnnxPolicy
from robot_rl.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A checkpoint, read."""

    path: Path
    config: TrainConfig
    spec: Spec  # what the policy sees and does
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]

    def agent(self, device: str) -> Agent:
        """The agent as it was saved, on a device."""
        config = replace(self.config, device=device, algorithm=without_initial_weights(self.config.algorithm))
        agent = build_agent(config, self.spec, None, self.config.seed)
        checkpoint.unpack_agent(agent, checkpoint.under(self.tensors, "agent"), self.state["agent"])
        return agent


def find_policy(run: str) -> Trained | OnnxPolicy:
    """A policy that `robot-rl export` wrote, by its ending .onnx, else as `find_trained`.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    return OnnxPolicy.load(Path(run).expanduser()) if run.endswith(".onnx") else find_trained(run)


def config_of(policy: Trained | OnnxPolicy) -> TrainConfig:
    """The settings of the run that it comes from."""
    if isinstance(policy, OnnxPolicy):
        return config_from_json(policy.facts["config"], str(policy.path))
    return policy.config


def find_trained(run: str) -> Trained:
    """The newest checkpoint of a run's folder, or the checkpoint itself.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    folder = Path(run).expanduser()
    if (folder / checkpoint.STATE).is_file():
        found = folder
    else:
        inside = checkpoint.checkpoints(folder / "checkpoints")
        if not inside:
            near = sorted(str(path.parent) for path in Path("runs").glob("*/*/checkpoints"))
            raise InputError(f"{folder} holds no checkpoint. Runs here: {', '.join(near) or 'none'}")
        found = inside[-1]
    tensors, state = checkpoint.load(found)
    trained = config_from_json(state["config"], str(found / checkpoint.STATE))
    return Trained(path=found, config=trained, spec=Spec.from_json(state["spec"]), tensors=tensors, state=state)
