"""Octo behind the small HTTP server that SimplerEnv talks to.

`POST /reset` begins an episode; `POST /query` takes `{"use_this": TEXT}`, TEXT being JSON of json_numpy with
`dataset_name`, `observation`, `text`, `modality` and `ensemble`, and answers a JSON string with an array in it. Read in
simpler-env/SimplerEnv, simpler_env/policies/octo/octo_server_model.py, commit 62f9e8d; of the server itself only what
this client shows is known.

Difference from it: `ensemble` is false, because a server that averages over time would average over candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robot_rl.errors import InputError
from robot_rl.steering.answers import instruction_for
from robot_rl.steering.clients.http import HttpClient
from robot_rl.steering.clients.json_arrays import dumps, loads
from robot_rl.steering.proposals import Deadline, ProposerError
from robot_rl.steering.wire import WireError


@dataclass(frozen=True, kw_only=True)
class OctoServerClient(HttpClient):
    """Octo by images and an instruction.

    Args:
        server: such as http://127.0.0.1:8000.
        dataset_name: whose statistics actions are un-normalised by, such as fractal20220817_data.
    """

    dataset_name: str

    def begin(self, task: str, deadline: Deadline) -> None:
        """The server forgets what it saw."""
        self.server.post("/reset", b"", deadline)

    def ask(self, sent: Mapping[str, Any], task: str, deadline: Deadline) -> Any:
        """Shapes: image_primary (H, W, 3), uint8 -> (A,)."""
        if "image_primary" not in sent:
            raise InputError(
                f"Octo's server sees `image_primary`, but {sorted(sent)} would be sent: "
                "set policy.keys={image_primary: NAME}"
            )
        query = {
            "dataset_name": self.dataset_name,
            "observation": dict(sent),
            "text": instruction_for("Octo", task),
            "modality": "l",
            "ensemble": False,
        }
        try:
            body = dumps({"use_this": dumps(query)}).encode()
        except WireError as error:
            raise InputError(f"{self.address}: {error}") from error
        answer = self.server.post("/query", body, deadline)
        try:
            found = loads(answer)
            return loads(found) if isinstance(found, str) else found
        except WireError as error:
            raise ProposerError(f"{self.address} answers {error}") from error
