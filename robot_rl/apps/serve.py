"""`robot-rl serve`: a trained policy, or one steered by a critic, for every client of openpi's websocket protocol."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from robot_rl.apps.build import check_fit, device_of
from robot_rl.apps.language import encoder_of_run
from robot_rl.apps.serve_foreign import is_foreign, open_policy, read_key
from robot_rl.apps.trained import Trained, find_trained
from robot_rl.clock import MonotonicClock
from robot_rl.errors import InputError, nearest
from robot_rl.networks.language import TextEncoder
from robot_rl.policy import OnnxPolicy
from robot_rl.replay.language import INSTRUCTION
from robot_rl.seeding import Seeds
from robot_rl.serve_config import PolicyConfig, ServeConfig
from robot_rl.spec import Spec
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.agents import AgentProposer, CriticScorer
from robot_rl.steering.proposals import ActionProposer, Perturbation
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.served import Served, ServedAgent, ServedFile, ServedSteering
from robot_rl.steering.server import Limits, PolicyServer
from robot_rl.steering.steer import Record, Steerer
from robot_rl.steering.worker import Inline, Threaded

SUMMARY = "Serve a policy, or one steered by a critic, to clients of openpi's websocket protocol."


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """What is served, and in whose words."""

    served: Served
    keys: dict[str, str]
    name: str
    chunk: int
    language: TextEncoder | None = None  # of what clients ask for


def run(config: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; exit status 0."""
    if config.run is None:
        raise InputError("which policy? Name the folder of a run, one of its checkpoints, or ws://HOST:PORT")
    torch.set_num_threads(config.threads)
    console = Console(stderr=True)
    limits = Limits(
        message_bytes=round(config.message_mib * 2**20),
        connections=config.connections,
        batch=config.batch,
        batch_wait_s=config.batch_wait_s,
        answer_s=config.answer_s,
        send_s=config.send_s,
    )
    with contextlib.ExitStack() as stack:
        remote = is_foreign(config.run)
        offer = _remote(config, config.run, stack) if remote else _own(config, config.run, stack)
        server = PolicyServer(
            policy=offer.served,
            keys=offer.keys,
            host=config.host,
            port=config.port,
            key=read_key(config.key_file, "key_file"),
            language=offer.language,
            limits=limits,
        )
        asyncio.run(_serve(server, offer, console))
    return 0


async def _serve(server: PolicyServer, offer: _Offer, console: Console) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server.running():
        host = f"[{server.host}]" if ":" in server.host else server.host
        console.print(Text(f"Serving {offer.name} at ws://{host}:{server.port}"), soft_wrap=True)
        spec = offer.served.spec
        shown = [key for key in spec.observation if offer.language is None or key != INSTRUCTION]
        sent = ", ".join(f"{server.keys[key]} {spec.observation[key].shape}" for key in shown)
        sent += "" if offer.language is None else ", prompt"
        actions = (offer.chunk, *spec.action.shape)
        console.print(Text(f"Takes {sent}; answers actions {actions}. Ctrl-C ends it."), soft_wrap=True)
        await stop.wait()
    console.print("Ended.")


def _own(config: ServeConfig, run: str, stack: contextlib.ExitStack) -> _Offer:
    """A policy of ours, alone or steered."""
    given = [name for name, value in vars(config.policy).items() if value != vars(PolicyConfig())[name]]
    if given:
        raise InputError(f"policy.{given[0]} is for a policy of somebody else, and run={run} is a folder: leave it out")
    if run.endswith(".onnx"):
        return _exported(config, run)
    policy, device, clock = find_trained(run), device_of(config.device), MonotonicClock()
    language = encoder_of_run(policy.config, policy.state, str(policy.path))
    keys, chunk = _keys(config, policy.spec), policy.config.replay.action_chunk
    proposer = AgentProposer(
        agent=policy.agent(config.device),
        observations=policy.spec,
        chunk=chunk,
        device=device,
        generator=Seeds(config.seed).torch("serve", "samples", device=device),
        explore=config.explore,
    )
    if config.steer is None:
        if config.log is not None:
            raise InputError("log= writes the decisions of a critic: set steer=RUN, or leave it out")
        served = ServedAgent(proposer=proposer, keys=keys, clock=clock, language=language)
        return _Offer(served=served, keys=keys, name=str(policy.path), chunk=chunk, language=language)
    critic = find_trained(config.steer)
    check_fit(f"the policy ({policy.path})", policy.spec, f"the critic ({critic.path})", critic.spec)
    scorer = _scorer(config, critic, {})
    steering = ServedSteering(
        steerer=_steerer(config, proposer, scorer, stack),
        observations=policy.spec,
        keys=keys,
        deadline_s=config.deadline_s,
        language=language,
    )
    name = f"{policy.path} steered by {critic.path}"
    return _Offer(served=steering, keys=keys, name=name, chunk=chunk, language=language)


def _exported(config: ServeConfig, run: str) -> _Offer:
    """A policy that was exported."""
    for name, default in (("steer", None), ("log", None), ("explore", False)):
        if vars(config)[name] != default:
            raise InputError(f"{name} needs samples of the policy, and {run} holds its mode alone: name the run itself")
    policy = OnnxPolicy.load(Path(run).expanduser())
    keys = _keys(config, policy.spec)
    served = ServedFile(policy=policy, keys=keys)
    return _Offer(served=served, keys=keys, name=str(policy.path), chunk=policy.action_chunk)


def _remote(config: ServeConfig, run: str, stack: contextlib.ExitStack) -> _Offer:
    """Somebody else's policy, steered: what clients send goes on to it as it came."""
    if config.steer is None:
        raise InputError(f"run={run} is somebody else's policy: add the critic that steers it, steer=RUN")
    if config.explore:
        raise InputError(f"explore=true cannot be asked of {run}: leave it out")
    critic = find_trained(config.steer)
    keys = _keys(config, critic.spec)
    spec = ActionSpec.from_spec(critic.spec, critic.config.replay.action_chunk)
    if config.policy.chunk is not None:
        spec = replace(spec, chunk=config.policy.chunk)
    proposer, scorer = open_policy(config, run, spec, stack), _scorer(config, critic, keys)
    steering = ServedSteering(
        steerer=_steerer(config, proposer, scorer, stack),
        observations=critic.spec,
        keys=keys,
        deadline_s=config.deadline_s,
        forwards=True,
        language=scorer.language,
    )
    name = f"{run} steered by {critic.path}"
    return _Offer(served=steering, keys=keys, name=name, chunk=spec.chunk, language=scorer.language)


def _scorer(config: ServeConfig, critic: Trained, keys: Mapping[str, str]) -> CriticScorer:
    return CriticScorer(
        agent=critic.agent(config.device),
        observations=critic.spec,
        chunk=critic.config.replay.action_chunk,
        device=device_of(config.device),
        keys=keys,
        language=encoder_of_run(critic.config, critic.state, str(critic.path)),
    )


def _steerer(
    config: ServeConfig, proposer: ActionProposer, scorer: CriticScorer, stack: contextlib.ExitStack
) -> Steerer:
    selection = config.selection
    worker = Inline() if config.deadline_s is None else Threaded()
    if isinstance(worker, Threaded):
        stack.callback(worker.close)
    return Steerer(
        proposer=proposer,
        scorer=scorer,
        selector=ValueSelector(
            rule=selection.rule,
            reduction=selection.reduction,
            margin=selection.margin,
            temperature=selection.temperature,
            penalty=selection.penalty,
            expectile=selection.expectile,
        ),
        candidates=config.candidates,
        clock=MonotonicClock(),
        generator=Seeds(config.seed).torch("serve", "selection"),
        score_steps=config.score_steps,
        perturbed=config.perturbed,
        perturbation=Perturbation(deviation=config.deviation, discrete=tuple(config.discrete)),
        worker=worker,
        keep=stack.enter_context(_log(config.log)),
        narrowest=config.narrowest,
    )


def _keys(config: ServeConfig, spec: Spec) -> dict[str, str]:
    known = spec.observation
    for name in config.keys:
        if name not in known:
            raise InputError(f"keys.{name}: there is no such observation: {nearest(name, known)}")
    keys = {name: config.keys.get(name, name) for name in known}
    if len(set(keys.values())) < len(keys):
        raise InputError(f"keys={keys} gives two observations one name")
    return keys


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
