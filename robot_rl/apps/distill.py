"""`robot-rl distill`: what a critic would choose, put back into a policy: by cloning, or by its slope."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from robot_rl import checkpoint
from robot_rl.algorithms.agent import Agent
from robot_rl.algorithms.bc import BC
from robot_rl.apps.build import check_fit, device_of, empty_buffer, load_data
from robot_rl.apps.trained import Trained, find_trained
from robot_rl.config import DatasetConfig
from robot_rl.errors import InputError
from robot_rl.functional.ensemble import reduce_heads
from robot_rl.networks.consistency import ConsistencyHead
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.serve_config import DistillConfig
from robot_rl.steering.action_spec import ActionSpec, require_match
from robot_rl.steering.agents import ACTOR_FEATURES, FEATURES, features_of
from robot_rl.steering.distill import BestOfN, ConsistencyTuner, propose_candidates, values_of
from robot_rl.types import Batch, Metrics

SUMMARY = (
    "Distill: the best of N actions, as a critic sees it, cloned back into a policy; or a head tuned by the critic."
)
ROWS = 256  # states whose candidates are made at once
SAYS_EVERY = 0.1  # of the steps


def run(config: DistillConfig) -> int:
    """Distill as configured; exit status 0."""
    policy, critic, output = _checked(config)
    torch.set_num_threads(config.threads)
    console, seeds, device = Console(stderr=True), Seeds(config.seed), device_of(config.device)
    student, judge = policy.agent(config.device), critic.agent(config.device)
    if not isinstance(student, BC):
        kind = type(student).__name__
        raise InputError(f"run={config.run} is a policy of {kind}, and only one of behaviour cloning can be taught: bc")
    if config.method == "consistency" and not isinstance(student.actor, ConsistencyHead):
        raise InputError(
            f"method=consistency tunes a consistency head, and run={config.run} has a Gaussian policy: train it with "
            "algorithm=bc algorithm.policy=consistency"
        )
    generator = seeds.torch("distill", device=device)
    buffer = _buffer(config, policy)
    held_out, kept = _split(buffer, config, generator)
    before = _value(student, judge, held_out, config.reduction)
    learn = _tuned if config.method == "consistency" else _best_of_n
    facts = learn(config, student, judge, buffer, kept, generator, console)
    after = _value(student, judge, held_out, config.reduction)
    told = {"config": asdict(config), "states": len(kept), **facts, "value_before": before, "value_after": after}
    _save(output, policy, student, told)
    console.print(
        f"The critic holds the policy's mode for {before:.3g} before and {after:.3g} after, on states of the data set "
        f"that were kept apart. That is the critic's word: evaluate it, robot-rl evaluate {output}",
        markup=False,
    )
    return 0


def _best_of_n(
    config: DistillConfig,
    student: BC,
    judge: Agent,
    buffer: ReplayBuffer,
    kept: Tensor,
    generator: torch.Generator,
    console: Console,
) -> dict[str, object]:
    """Digi-Q. Shapes: (S,) of rows."""
    batches = (buffer.gather(kept[at : at + ROWS]) for at in range(0, len(kept), ROWS))
    cached = propose_candidates(student, judge, batches, config.candidates, config.reduction, generator)
    console.print(f"{len(cached)} states of {config.data}, {config.candidates} candidates each")
    distiller = BestOfN(
        student=student,
        candidates=cached,
        drawn=config.drawn,
        threshold=config.threshold,
        reference=config.reference,
        generator=generator,
    )
    for step in range(1, config.steps + 1):
        _say(config, console, step, distiller.step(config.batch_size))
    cloned = distiller.cloned / distiller.seen
    console.print(f"Cloned were {cloned:.1%} of the states drawn.", markup=False)
    return {"cloned": cloned}


def _tuned(
    config: DistillConfig,
    student: BC,
    judge: Agent,
    buffer: ReplayBuffer,
    kept: Tensor,
    generator: torch.Generator,
    console: Console,
) -> dict[str, object]:
    """ConRFT's loss on a head whose encoder stays as it is. Shapes: (S,) of rows."""
    assert isinstance(student.actor, ConsistencyHead)  # `run` has looked
    tuner = ConsistencyTuner(
        head=student.actor,
        generator=generator,
        critic=judge,
        cloning_weight=config.cloning_weight,
        value_weight=config.value_weight,
        learning_rate=config.learning_rate,
    )
    for step in range(1, config.steps + 1):
        place = torch.randint(len(kept), (config.batch_size,), generator=generator, device=generator.device)
        batch = buffer.gather(kept[place.to(kept.device)])
        own = features_of(student, batch.observation, critic=False, actor=True)[ACTOR_FEATURES]
        theirs = features_of(judge, batch.observation, critic=True, actor=False)[FEATURES]
        _say(config, console, step, tuner.update(own, batch.action, theirs))
        student.updates += 1
    return {}


def _say(config: DistillConfig, console: Console, step: int, metrics: Metrics) -> None:
    if step % max(1, round(SAYS_EVERY * config.steps)) == 0:
        said = " ".join(f"{name.partition('/')[2]} {float(value):.3g}" for name, value in metrics.items())
        console.print(f"step {step}: {said}", markup=False)


def _checked(config: DistillConfig) -> tuple[Trained, Trained, Path]:
    """Policy, critic and the new folder, before anything is computed."""
    for name, what in (("run", "policy"), ("critic", "critic"), ("data", "store"), ("output", "new folder")):
        if vars(config)[name] is None:
            raise InputError(f"which {what}? robot-rl distill RUN critic=RUN data=STORE output=FOLDER lacks {name}")
    policy, critic = find_trained(str(config.run)), find_trained(str(config.critic))
    output = Path(str(config.output)).expanduser()
    if output.exists():
        raise InputError(f"output={output} is already there: choose another name, or delete it first")
    check_fit(f"the policy ({policy.path})", policy.spec, f"the critic ({critic.path})", critic.spec)
    ours, theirs = (ActionSpec.from_spec(each.spec, each.config.replay.action_chunk) for each in (policy, critic))
    require_match(ours, theirs, narrowest=1 - 1e-3)  # they are handed numbers in [-1, 1], which have to mean the same
    if policy.config.replay.frame_stack != critic.config.replay.frame_stack:
        raise InputError(
            f"the policy sees {policy.config.replay.frame_stack} frames, the critic "
            f"{critic.config.replay.frame_stack}: train one of them with the replay.frame_stack of the other"
        )
    return policy, critic, output


def _buffer(config: DistillConfig, policy: Trained) -> ReplayBuffer:
    data = load_data("data", DatasetConfig(path=str(config.data)), policy.spec, f"the policy ({policy.path})")
    rows = sum(len(episode) + 1 for episode in data.episodes)
    buffer = empty_buffer(policy.config, policy.spec, rows, None)
    for episode in data.episodes:
        buffer.append(episode)
    buffer.allow_cut_chunks(False)
    return buffer


def _split(buffer: ReplayBuffer, config: DistillConfig, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """Some states to judge by, and the rows to learn from, (S,); none is in both."""
    rows = buffer.drawable()
    mixed = rows[torch.randperm(len(rows), generator=generator, device=generator.device)]
    apart = max(1, min(ROWS, len(mixed) // 10))
    kept = mixed[apart : apart + config.states]
    if len(kept) == 0:
        raise InputError(f"{config.data} has {len(mixed)} states: too few to distill on")
    return buffer.gather(mixed[:apart]), kept


def _value(student: BC, judge: Agent, batch: Batch, reduction: str) -> float:
    """What the critic holds the policy's mode for."""
    with torch.no_grad():
        action: Tensor = student.act(batch.observation, explore=False)
        features = features_of(judge, batch.observation, critic=True, actor=False)[FEATURES]
        return float(reduce_heads(values_of(judge, features, action[:, None]), reduction).mean())


def _save(output: Path, policy: Trained, student: BC, facts: dict[str, object]) -> None:
    """A checkpoint in the place of a run's, with all that the policy's own said of itself."""
    tensors, state = checkpoint.pack_agent(student)
    kept = {key: value for key, value in policy.tensors.items() if not key.startswith("agent.")}
    told = {key: value for key, value in policy.state.items() if key not in ("format", "sha256")}
    folder = output / "checkpoints"
    named = {f"agent.{key}": value for key, value in tensors.items()}
    checkpoint.save(folder, student.updates, {**kept, **named}, {**told, "agent": state, "distilled": facts})
    checkpoint.write_text(output / "distilled.json", json.dumps(facts, indent=1))
