"""From `run=ADDRESS` to somebody else's policy: which protocol, and what it needs to know."""

import contextlib
from pathlib import Path
from typing import Any

from robot_rl.apps.build import device_of
from robot_rl.errors import InputError
from robot_rl.seeding import Seeds
from robot_rl.serve_config import ServeConfig
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.clients import lerobot_local, octo_local
from robot_rl.steering.clients.groot import GrootClient
from robot_rl.steering.clients.http import HttpServer
from robot_rl.steering.clients.lerobot_server import LeRobotServerClient, PolicyChoice
from robot_rl.steering.clients.octo import OctoServerClient
from robot_rl.steering.clients.openvla import TOKEN_REPEATS, OpenVLAClient, OpenVLAOFTClient
from robot_rl.steering.local import LocalModel, LocalProposer
from robot_rl.steering.openpi import OpenPiConnection, OpenPiProposer
from robot_rl.steering.proposals import ActionProposer
from robot_rl.steering.remote import PolicyClient, RemoteProposer

OPENPI = ("ws://", "wss://")
PROTOCOLS = ("openvla+", "openvla-oft+", "octo+", "groot+", "lerobot+grpc://")
MODELS = ("lerobot:", "octo:")


def is_foreign(run: str) -> bool:
    """`run` is an address or a model of another package, not the folder of a run."""
    return run.startswith((*OPENPI, *PROTOCOLS, *MODELS))


def open_policy(config: ServeConfig, run: str, spec: ActionSpec, stack: contextlib.ExitStack) -> ActionProposer:
    """The policy at an address; `stack` ends the connection.

    Raises:
        InputError: a setting that the protocol needs is missing, or a package is not installed.
    """
    policy = config.policy
    keys: dict[str, Any] | None = policy.keys if policy.keys else None
    if run.startswith(OPENPI):
        connection = OpenPiConnection(uri=run, api_key=read_key(policy.key_file, "policy.key_file"))
        stack.callback(connection.close)
        named = None if keys is None else {name: wire for wire, name in keys.items()}
        return OpenPiProposer(connection=connection, spec=spec, keys=named)
    if run.startswith(MODELS):
        generator = Seeds(config.seed).torch("serve", "samples")
        return LocalProposer(model=_model(config, run), spec=spec, generator=generator, keys=keys)
    client, greedy, repeats = _client(config, run, spec)
    stack.callback(client.close)
    repeats = repeats if policy.repeats is None else policy.repeats
    return RemoteProposer(client=client, spec=spec, keys=keys, stochastic=not greedy, repeats=repeats)


def _model(config: ServeConfig, run: str) -> LocalModel:
    kind, _, path = run.partition(":")
    if kind == "lerobot":
        return lerobot_local.load(path, device_of(config.device))
    return octo_local.load(path, _dataset(config))


def _client(config: ServeConfig, run: str, spec: ActionSpec) -> tuple[PolicyClient, bool, int]:
    """A client; whether its policy answers alike when it is asked twice; how often answers may repeat."""
    policy = config.policy
    protocol, _, address = run.partition("+")
    match protocol:
        case "openvla":
            server = HttpServer(address=address)
            return (
                OpenVLAClient(server=server, unnorm_key=policy.unnorm_key, encoded=policy.encoded),
                True,
                TOKEN_REPEATS,
            )
        case "openvla-oft":
            return OpenVLAOFTClient(server=HttpServer(address=address), encoded=policy.encoded), True, 0
        case "octo":
            return OctoServerClient(server=HttpServer(address=address), dataset_name=_dataset(config)), False, 0
        case "groot":
            token = read_key(policy.key_file, "policy.key_file")
            client = GrootClient(uri=address, actions=policy.actions, language=policy.language, api_token=token)
            return client, False, 0
        case _:
            choice = PolicyChoice(
                kind=policy.kind,
                path=policy.path,
                features=policy.features,
                chunk=spec.chunk,
                device=policy.device,
                renamed=policy.renamed,
            )
            target = address.removeprefix("grpc://")
            greedy = policy.kind == "act"  # of its latent variable it takes the mode
            return LeRobotServerClient(target=target, choice=choice, allow_pickle=policy.allow_pickle), greedy, 0


def _dataset(config: ServeConfig) -> str:
    if config.policy.unnorm_key is None:
        raise InputError("Octo's actions are un-normalised by the statistics of a data set: set policy.unnorm_key=NAME")
    return config.policy.unnorm_key


def read_key(name: str | None, setting: str) -> str | None:
    """The first line of a file; None where there is none.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    if name is None:
        return None
    path = Path(name).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{setting}={path} cannot be read: {error}") from error
    if not lines or not lines[0].strip():
        raise InputError(f"{setting}={path} is empty: write the key into its first line")
    return lines[0].strip()
