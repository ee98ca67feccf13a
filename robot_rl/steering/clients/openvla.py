"""Policies behind the REST servers of OpenVLA and of OpenVLA-OFT.

`POST /act` takes JSON and answers one action, (7,), or a list of H of them. Every error is answered with status 200 and
the word "error". Read in openvla/openvla (c8f03f4) and moojink/openvla-oft (213c5ff), vla-scripts/deploy.py, by way of
the copies of these files that others keep.

Both decode greedily (OFT's default head regresses), so an answer is the same each time it is asked for: steer with
perturbations. OpenVLA's answers are tokens, which may be the same for observations that differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_rl.errors import InputError
from robot_rl.steering.answers import instruction_for
from robot_rl.steering.clients.http import HttpClient, HttpServer
from robot_rl.steering.clients.json_arrays import dumps, loads
from robot_rl.steering.proposals import Deadline, ProposerError
from robot_rl.steering.wire import WireError

TOKEN_REPEATS = 10
"""So many answers in a row of 256 tokens a dimension may be alike, of observations that differ."""


@dataclass(frozen=True, kw_only=True)
class OpenVLAClient(HttpClient):
    """OpenVLA: one image and an instruction; one action.

    Args:
        server: such as http://127.0.0.1:8000.
        unnorm_key: whose statistics the action is un-normalised by; None where the model knows one data set only.
        encoded: send and expect JSON inside a JSON string, for servers without json_numpy's patch.
    """

    unnorm_key: str | None = None
    encoded: bool = False

    def ask(self, sent: Mapping[str, Any], task: str, deadline: Deadline) -> Any:
        """Shapes: image (H, W, 3), uint8 -> (A,)."""
        image = sent.get("image")
        if set(sent) != {"image"} or not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
            raise InputError(
                f"OpenVLA sees one image (H, W, 3), uint8, but {_described(sent)} would be sent: "
                "set policy.keys={image: NAME}"
            )
        request: dict[str, Any] = {"image": image, "instruction": instruction_for("OpenVLA", task)}
        if self.unnorm_key is not None:
            request["unnorm_key"] = self.unnorm_key
        return _act(self.server, request, self.encoded, deadline)


@dataclass(frozen=True, kw_only=True)
class OpenVLAOFTClient(HttpClient):
    """OpenVLA-OFT: `full_image`, images with `wrist` in their names, `state`, an instruction; H actions.

    Args:
        server: such as http://127.0.0.1:8777.
        encoded: see `OpenVLAClient`.
    """

    encoded: bool = False

    def ask(self, sent: Mapping[str, Any], task: str, deadline: Deadline) -> Any:
        """Shapes: each (*) -> (H, A)."""
        if "full_image" not in sent:
            raise InputError(
                f"OpenVLA-OFT sees `full_image`, but {_described(sent)} would be sent: set policy.keys={{full_image: "
                "NAME, wrist_image: NAME, state: NAME}, with what the model was trained on"
            )
        return _act(self.server, {**sent, "instruction": instruction_for("OpenVLA", task)}, self.encoded, deadline)


def _act(server: HttpServer, request: Mapping[str, Any], encoded: bool, deadline: Deadline) -> Any:
    """What `/act` answers, as an array if it is one."""
    try:
        text = dumps({"encoded": dumps(request)} if encoded else request)
    except WireError as error:
        raise InputError(f"{server.address}: {error}") from error
    answer = server.post("/act", text.encode(), deadline)
    try:
        found = loads(answer)
        if isinstance(found, str) and found != "error":
            found = loads(found)  # doubly encoded
    except WireError as error:
        raise ProposerError(f"{server.address} answers {error}") from error
    if isinstance(found, str):
        raise ProposerError(f"{server.address} reports an error with status 200: {found!r:.200}; its log says which")
    if isinstance(found, list):
        return _stacked(found)
    return found


def _stacked(rows: list[Any]) -> Any:
    """H lists or arrays of numbers as one array; the list itself where they are something else."""
    try:
        array = np.asarray(rows)
    except ValueError:  # of different lengths
        return rows
    return array if array.dtype.kind in "fiu" else rows


def _described(sent: Mapping[str, Any]) -> str:
    kinds = {name: f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
             for name, value in sent.items()}  # fmt: skip
    return str(kinds)[:300]
