"""DAPG demonstrations: a pickled list of dictionaries with observations, actions, rewards and the initial state.

Format of "Learning Complex Dexterous Manipulation with Deep Reinforcement Learning and Demonstrations" (RSS 2018,
arXiv 1709.10087). A pickle is a program, so it runs in an unpickler that admits numpy arrays and nothing else.
"""

from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.ingest.array_unpickler import load_arrays
from robot_rl.datasets.ingest.base import (
    FLAT_KEY,
    ReadOptions,
    Recording,
    SuccessSource,
    action_spec,
    array_spec,
    plain,
    provenance,
)
from robot_rl.datasets.schema import require_finite
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

VERSION = 1
FIRST_OPCODES = (b"\x80", b"(l", b"(d", b"]q", b"}q")  # PROTO from protocol 2 on; a list or dictionary before


class DapgPickleReader:
    """`format=dapg_pickle`."""

    name = "dapg_pickle"
    description = "a pickled list of dictionaries with observations, actions and rewards"

    def probe(self, path: Path) -> str | None:
        """A pickle, by its first bytes."""
        if not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(2)
        return "it is a pickle" if start.startswith(FIRST_OPCODES) else None

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Load everything: such files are small.

        Raises:
            InputError: damaged, not a list of trajectories, or not numpy only.
        """
        trajectories = load(path)[: options.maximum_episodes]
        first, actions = _array(trajectories[0], "observations", path, 0), _array(trajectories[0], "actions", path, 0)
        rewards = [_array(trajectory, "rewards", path, index) for index, trajectory in enumerate(trajectories)]
        success, findings = SuccessSource.of(options, rewards, recorded=False, path=path)
        spec = Spec(
            observation={FLAT_KEY: array_spec(first)},
            action=action_spec(actions, options, str(path)),
            control_period_s=options.control_period_s,
            metadata={"absent": success.lacking(["success", "end"])},
        )

        def read(index: int) -> Episode:
            place = f"{path}: trajectory {index}"
            return success.label(_episode(trajectories[index], path, index), place)

        return Recording(
            spec=spec,
            provenance=provenance(path, self.name, VERSION, {}),
            count=len(trajectories),
            read=read,
            findings=findings,
        )


def load(path: Path) -> list[dict[str, Any]]:
    """The trajectories of a pickle.

    Raises:
        InputError: damaged, of another content, or naming anything but numpy arrays.
    """
    content = load_arrays(path)
    if not isinstance(content, list) or not content or not all(isinstance(item, dict) for item in content):
        raise InputError(f"{path} holds {type(content).__name__}, expected a list of dictionaries, one per trajectory")
    return content


def _episode(trajectory: dict[str, Any], path: Path, index: int) -> Episode:
    place = f"{path}: trajectory {index}"
    observations, actions, rewards = (
        _array(trajectory, key, path, index) for key in ("observations", "actions", "rewards")
    )
    steps = len(actions)
    rewards = rewards.reshape(-1)
    if len(observations) not in (steps, steps + 1) or len(rewards) != steps:
        raise InputError(
            f"{place} has {len(observations)} observations, {steps} actions and {len(rewards)} rewards: expected as "
            "many rewards as actions, and as many observations or one more"
        )
    has_final = len(observations) == steps + 1
    truncated = np.zeros(steps, bool)
    truncated[-1:] = True
    return Episode(
        observation={FLAT_KEY: observations if has_final else np.concatenate([observations, observations[-1:]])},
        action=actions,
        reward=rewards,
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        has_final_observation=has_final,
        metadata={"source": f"trajectory {index}"}
        | ({"initial_state": plain(trajectory["init_state_dict"])} if "init_state_dict" in trajectory else {}),
    )


def _array(trajectory: dict[str, Any], key: str, path: Path, index: int) -> Array:
    if key not in trajectory:
        raise InputError(f"{path}: trajectory {index} has no '{key}', only {', '.join(sorted(map(str, trajectory)))}")
    array = np.asarray(trajectory[key])
    if array.dtype == object or array.ndim == 0:
        raise InputError(f"{path}: '{key}' of trajectory {index} is not an array of numbers")
    require_finite(array, f"{path}: '{key}' of trajectory {index}")
    return array
