"""`robot-rl serve`: a trained policy, or one steered by a critic, for every client of openpi's websocket protocol."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from robot_rl.apps.build import check_fit, device_of
from robot_rl.apps.trained import Trained, find_trained
from robot_rl.clock import MonotonicClock
from robot_rl.config import ServeConfig
from robot_rl.errors import InputError, nearest
from robot_rl.seeding import Seeds
from robot_rl.steering.agents import AgentProposer, CriticScorer
from robot_rl.steering.proposals import Perturbation
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.served import Served, ServedAgent, ServedSteering
from robot_rl.steering.server import Limits, PolicyServer
from robot_rl.steering.steer import Record, Steerer
from robot_rl.steering.worker import Inline, Threaded

SUMMARY = "Serve a policy, or one steered by a critic, to clients of openpi's websocket protocol."


def run(config: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; exit status 0."""
    torch.set_num_threads(config.threads)
    console = Console(stderr=True)
    if config.run is None:
        raise InputError("which policy? Name the folder of a run, or one of its checkpoints: robot-rl serve RUN")
    policy = find_trained(config.run)
    keys = _keys(config, policy)
    limits = Limits(
        message_bytes=round(config.message_mib * 2**20),
        connections=config.connections,
        batch=config.batch,
        batch_wait_s=config.batch_wait_s,
        answer_s=config.answer_s,
        send_s=config.send_s,
    )
    with contextlib.ExitStack() as stack:
        served = _served(config, policy, keys, stack)
        server = PolicyServer(
            policy=served, keys=keys, host=config.host, port=config.port, key=_key(config), limits=limits
        )
        asyncio.run(_serve(server, config, policy, console))
    return 0


async def _serve(server: PolicyServer, config: ServeConfig, policy: Trained, console: Console) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server.running():
        what = f"{policy.path}" if config.steer is None else f"{policy.path} steered by {config.steer}"
        host = f"[{config.host}]" if ":" in config.host else config.host
        console.print(Text(f"Serving {what} at ws://{host}:{server.port}"), soft_wrap=True)
        sent = ", ".join(f"{server.keys[key]} {array.shape}" for key, array in policy.spec.observation.items())
        chunk = (policy.config.replay.action_chunk, *policy.spec.action.shape)
        console.print(Text(f"Takes {sent}; answers actions {chunk}. Ctrl-C ends it."), soft_wrap=True)
        await stop.wait()
    console.print("Ended.")


def _served(config: ServeConfig, policy: Trained, keys: dict[str, str], stack: contextlib.ExitStack) -> Served:
    device, clock = device_of(config.device), MonotonicClock()
    seeds = Seeds(config.seed)
    proposer = AgentProposer(
        agent=policy.agent(config.device),
        observations=policy.spec,
        chunk=policy.config.replay.action_chunk,
        device=device,
        generator=seeds.torch("serve", "samples", device=device),
        explore=config.explore,
    )
    if config.steer is None:
        if config.log is not None:
            raise InputError("log= writes the decisions of a critic: set steer=RUN, or leave it out")
        return ServedAgent(proposer=proposer, keys=keys, clock=clock)
    critic = find_trained(config.steer)
    check_fit(f"the policy ({policy.path})", policy.spec, f"the critic ({critic.path})", critic.spec)
    selection = config.selection
    worker = Inline() if config.deadline_s is None else Threaded()
    if isinstance(worker, Threaded):
        stack.callback(worker.close)
    steerer = Steerer(
        proposer=proposer,
        scorer=CriticScorer(
            agent=critic.agent(config.device),
            observations=critic.spec,
            chunk=critic.config.replay.action_chunk,
            device=device,
        ),
        selector=ValueSelector(
            rule=selection.rule,
            reduction=selection.reduction,
            margin=selection.margin,
            temperature=selection.temperature,
            penalty=selection.penalty,
            expectile=selection.expectile,
        ),
        candidates=config.candidates,
        clock=clock,
        generator=seeds.torch("serve", "selection"),
        score_steps=config.score_steps,
        perturbed=config.perturbed,
        perturbation=Perturbation(deviation=config.deviation, discrete=tuple(config.discrete)),
        worker=worker,
        keep=stack.enter_context(_log(config.log)),
        narrowest=config.narrowest,
    )
    return ServedSteering(steerer=steerer, observations=policy.spec, keys=keys, deadline_s=config.deadline_s)


def _keys(config: ServeConfig, policy: Trained) -> dict[str, str]:
    known = policy.spec.observation
    for name in config.keys:
        if name not in known:
            raise InputError(f"keys.{name}: the policy has no such observation: {nearest(name, known)}")
    keys = {name: config.keys.get(name, name) for name in known}
    if len(set(keys.values())) < len(keys):
        raise InputError(f"keys={keys} gives two observations one name")
    return keys


def _key(config: ServeConfig) -> str | None:
    if config.key_file is None:
        return None
    path = Path(config.key_file).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"key_file={path} cannot be read: {error}") from error
    if not lines or not lines[0].strip():
        raise InputError(f"key_file={path} is empty: write the key into its first line")
    return lines[0].strip()


@contextlib.contextmanager
def _log(name: str | None) -> Iterator[Callable[[Record], Any] | None]:
    """Appends decisions to a file, line by line."""
    if name is None:
        yield None
        return
    path = Path(name).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"log={path} cannot be written: {error}") from error
    with file:

        def write(record: Record) -> None:
            file.write(json.dumps(record.to_json()) + "\n")
            file.flush()

        yield write
