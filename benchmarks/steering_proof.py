"""Does steering make a generalist better? Four instructions in one scene, paired seeds, every arm of V-GPS's question.

    OMP_NUM_THREADS=1 MUJOCO_GL=egl python benchmarks/steering_proof.py runs/steering_proof --workers 2
    OMP_NUM_THREADS=1 MUJOCO_GL=egl python benchmarks/steering_proof.py runs/steering_smoke --smoke

Give it again to go on: data, agents and finished episodes of each seed are kept. For each seed: demonstrations of mixed
quality of all tasks; a generalist by behaviour cloning with a diffusion head (IDQL's actor, its critics unused); a
critic (IQL, a tenth of its data under wrong instructions); then episodes of every arm on the same seeds. First all
seeds learn, then arms are played, each by the next worker that is free. Written are `results_ARM.jsonl` of each seed
and `table.md`: success with Wilson's interval, and McNemar's exact test against the base.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robot_rl import checkpoint
from robot_rl.algorithms import IDQLConfig, IQLConfig, create
from robot_rl.algorithms.agent import Agent
from robot_rl.clock import MonotonicClock
from robot_rl.functional.paired import mcnemar
from robot_rl.loops.evaluate import wilson_interval
from robot_rl.networks.language import HashText
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.language import wrong_instructions
from robot_rl.seeding import Seeds
from robot_rl.sim.experts import NoisyPolicy
from robot_rl.sim.instructed import CUBE, HAND, TASKS, InstructedEnvironment
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.spec import Spec
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.agents import AgentProposer, CriticScorer
from robot_rl.steering.policy import SteeredPolicy
from robot_rl.steering.proposals import Scorer, Scores
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.steer import Record, Steerer
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Episode, Policy

CPU = torch.device("cpu")
ENCODER = HashText(size=32)
DISCOUNT = 0.98
NOISES = (0.1, 0.5, 1.0, 1.5)  # of demonstrations, in half ranges of the action; in equal parts
KS = (1, 4, 10, 16, 50)
ASKED = tuple(task for task in TASKS if task.text != "hold the hand above the cube")  # which anybody does in ten steps


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    demonstrations: int = 240  # of each task; with 60 the critic overfits, and K = 50 is worse than the base
    generalist: int = 12_000  # updates
    critic: int = 9_000
    fine_tuning: int = 3_000
    episodes: int = 34  # of each task, arm and seed
    steps: int = 50  # of an episode; experts need up to 33
    width: int = 128


SMOKE = Size(demonstrations=1, generalist=10, critic=10, fine_tuning=5, episodes=1, steps=25, width=16)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Who acts."""

    name: str
    policy: str = "base"  # base | fine_tuned | critic_alone | random_actions
    scorer: str | None = None  # critic | oracle | anti_oracle
    candidates: int = 1
    selector: ValueSelector = field(default_factory=lambda: ValueSelector(rule="argmax"))


def arms() -> list[Arm]:
    """All of them; the first is what the others are compared with."""
    steered = [Arm(name=f"steered, K = {k}", scorer="critic", candidates=k) for k in KS if k > 1]
    soft = [
        Arm(
            name=f"steered, K = 16, temperature {t:g}",
            scorer="critic",
            candidates=16,
            selector=ValueSelector(rule="softmax", temperature=t),
        )
        for t in (0.1, 1.0)
    ]
    return [
        Arm(name="base"),
        Arm(
            name="one of 16 at random",
            scorer="critic",
            candidates=16,
            selector=ValueSelector(rule="softmax", temperature=1e8),
        ),
        *steered,
        *soft,
        Arm(name="oracle, K = 16", scorer="oracle", candidates=16),
        Arm(name="anti-oracle, K = 16", scorer="anti_oracle", candidates=16),
        Arm(name="fine-tuned base", policy="fine_tuned"),
        Arm(name="critic alone", policy="critic_alone"),
        Arm(name="random actions", policy="random_actions"),
    ]


# Data -----------------------------------------------------------------------------------------------------------------


def environment(size: Size) -> InstructedEnvironment:
    inner = RobosuiteEnvironment(
        task="Lift",
        controller="OSC_POSITION",
        maximum_steps=size.steps,
        observation=[HAND, "robot0_gripper_qpos", CUBE],
        terminate_on_success=False,
    )
    return InstructedEnvironment(inner, ASKED, ENCODER.encode)


def roll(scene: InstructedEnvironment, policy: Policy, seed: int) -> Episode:
    policy.reset()
    step = scene.reset(seed=seed)
    steps = [step]
    actions = []
    while not step.last:
        action = policy.act(step.observation)
        step = scene.step(action)
        actions.append(action)
        steps.append(step)
    return Episode(
        observation={key: np.stack([each.observation[key] for each in steps]) for key in step.observation},
        action=np.stack(actions).astype(np.float32),
        reward=np.array([each.reward for each in steps[1:]], np.float32),
        terminated=np.array([each.terminated for each in steps[1:]]),
        truncated=np.array([each.truncated for each in steps[1:]]),
        success=np.array([bool(each.success) for each in steps[1:]]),
        metadata={"language": scene.task.text},
    )


def demonstrations(folder: Path, seed: int, size: Size, scene: InstructedEnvironment) -> list[Episode]:
    """Of all tasks, by experts with little to much noise; kept in one file."""
    path = folder / "data.npz"
    if not path.exists():
        episodes = []
        for number in range(len(ASKED)):
            scene.assign(number)
            expert = scene.task.expert(scene.spec)
            for index in range(size.demonstrations):
                seeds = Seeds(seed)
                random = seeds.numpy("noise", number, index)
                noisy = NoisyPolicy(expert, scene.spec.action, NOISES[index % len(NOISES)], random)
                episodes.append(roll(scene, noisy, seeds.integer("demonstration", number, index)))
        write_episodes(path, episodes)
    return list(read_episodes(path))


def write_episodes(path: Path, episodes: list[Episode]) -> None:
    arrays: dict[str, Any] = {"lengths": np.array([len(each) for each in episodes])}
    arrays["texts"] = np.array([each.metadata["language"] for each in episodes])
    for key in episodes[0].observation:
        arrays[f"observation/{key}"] = np.concatenate([each.observation[key] for each in episodes])
    for name in ("action", "reward", "terminated", "truncated", "success"):
        arrays[name] = np.concatenate([vars_of(each)[name] for each in episodes])
    partial = path.with_name(".data.partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)


def vars_of(episode: Episode) -> dict[str, Any]:
    return {name: getattr(episode, name) for name in ("action", "reward", "terminated", "truncated", "success")}


def read_episodes(path: Path) -> Iterator[Episode]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    keys = [name.partition("/")[2] for name in arrays if name.startswith("observation/")]
    at = seen = 0
    for length, text in zip(arrays["lengths"].tolist(), arrays["texts"].tolist(), strict=True):
        rows, shown = slice(at, at + length), slice(seen, seen + length + 1)
        yield Episode(
            observation={key: arrays[f"observation/{key}"][shown] for key in keys},
            **{name: arrays[name][rows] for name in ("action", "reward", "terminated", "truncated", "success")},
            metadata={"language": text},
        )
        at, seen = at + length, seen + length + 1


def buffer_of(spec: Spec, episodes: list[Episode]) -> ReplayBuffer:
    buffer = ReplayBuffer(
        spec,
        capacity=sum(len(each) + 1 for each in episodes),
        scale=ActionScale.from_spec(spec.action),
        reward=RewardTransform(),
        discount=DISCOUNT,
        tail="constant",
    )
    for each in episodes:
        buffer.append(each)
    return buffer


# Learning -------------------------------------------------------------------------------------------------------------


def learned(path: Path, agent: Agent, buffer: ReplayBuffer, updates: int, seed: int) -> Agent:
    """The agent after its updates, from the file where that is there."""
    if path.exists() and checkpoint.checkpoints(path):
        tensors, state = checkpoint.load(checkpoint.checkpoints(path)[-1])
        checkpoint.unpack_agent(agent, tensors, state["agent"])
        return agent
    generator, start = Seeds(seed).torch("batches", path.name), time.monotonic()
    for _ in range(updates):
        agent.update(buffer.sample(256, generator), critic_updates=1)
    tensors, state = checkpoint.pack_agent(agent)
    checkpoint.save(path, updates, tensors, {"agent": state, "seconds": time.monotonic() - start})
    return agent


def generalist_config(size: Size) -> IDQLConfig:
    """Of its actor; its critics are unused."""
    return IDQLConfig(
        actor_width=size.width,
        actor_blocks=2,
        time_features=16,
        time_width=32,
        critic_hidden=[8],
        value_hidden=[8],
        diffusion_steps=5,
        candidates=1,
        actor_average_rate=0.005,
    )


def critic_config(size: Size) -> IQLConfig:
    """With a policy of its own, `critic alone`."""
    hidden = [2 * size.width, 2 * size.width]
    return IQLConfig(
        actor_hidden=hidden,
        critic_hidden=hidden,
        value_hidden=hidden,
        critic_layer_norm=True,
        critic_count=4,
        expectile=0.7,
        inverse_temperature=3.0,
    )


def agents(folder: Path, seed: int, size: Size, spec: Spec, episodes: list[Episode]) -> dict[str, Agent]:
    """Generalist, its fine-tuned form and the critic."""
    everything = buffer_of(spec, episodes)
    statistics = everything.observation_statistics()
    torch.manual_seed(Seeds(seed).integer("weights"))
    made = {
        name: create(config, spec, Seeds(seed), CPU, statistics)
        for name, config in (
            ("base", generalist_config(size)),
            ("fine_tuned", generalist_config(size)),
            ("critic", critic_config(size)),
        )
    }
    learned(folder / "base", made["base"], everything, size.generalist, seed)
    good = [each for each in episodes if each.success is not None and each.success.any()]
    if not good:
        raise RuntimeError("no demonstration succeeded: there is nothing to fine-tune the base on")
    tensors, state = checkpoint.pack_agent(made["base"])
    checkpoint.unpack_agent(made["fine_tuned"], tensors, state)
    learned(folder / "fine_tuned", made["fine_tuned"], buffer_of(spec, good), size.fine_tuning, seed)
    wrong = wrong_instructions(episodes, ENCODER, 0.1, Seeds(seed).numpy("wrong"))
    learned(folder / "critic", made["critic"], buffer_of(spec, [*episodes, *wrong]), size.critic, seed)
    return made


# Arms -----------------------------------------------------------------------------------------------------------------


@dataclass
class Oracle:
    """Knows what the expert would do: minus the distance to that, or, of the anti-oracle, plus."""

    scene: InstructedEnvironment
    expert: Policy
    sign: float
    spec: ActionSpec

    def encode(self, observation: Mapping[str, Array], task: str) -> Array:
        return self.spec.normalized(self.expert.act(observation))

    def score(self, encoded: Array, actions: Array) -> Scores:
        distance = np.linalg.norm(self.spec.normalized(actions)[:, 0] - encoded, axis=1)
        values = torch.from_numpy((-self.sign * distance)[None].astype(np.float32))
        return Scores(values=values, supported=torch.ones(len(actions), dtype=torch.bool))


class RandomActions:
    """Uniform."""

    def __init__(self, spec: Spec, random: np.random.Generator) -> None:
        self.spec, self.random = spec, random

    def reset(self) -> None:
        pass

    def act(self, observation: Mapping[str, Array]) -> Array:
        assert self.spec.action.low is not None
        assert self.spec.action.high is not None
        return self.random.uniform(self.spec.action.low, self.spec.action.high)


def policy_of(
    arm: Arm, made: dict[str, Agent], scene: InstructedEnvironment, seed: int, records: list[Record]
) -> Policy:
    """Who acts in one episode; equal seeds draw alike."""
    spec = scene.spec
    if arm.policy == "random_actions":
        return RandomActions(spec, np.random.default_rng(seed))
    actor = made["critic" if arm.policy == "critic_alone" else arm.policy]
    proposer = AgentProposer(
        agent=actor,
        observations=spec,
        chunk=1,
        device=CPU,
        generator=torch.Generator().manual_seed(seed),
        explore=arm.policy != "critic_alone",  # of the critic's own policy the mode
    )
    scorer: Scorer = CriticScorer(agent=made["critic"], observations=spec, chunk=1, device=CPU)
    if arm.scorer in ("oracle", "anti_oracle"):
        expert = scene.task.expert(spec)
        expert.reset()
        scorer = Oracle(scene, expert, 1.0 if arm.scorer == "oracle" else -1.0, proposer.spec)
    steerer = Steerer(
        proposer=proposer,
        scorer=scorer,
        selector=arm.selector,
        candidates=arm.candidates,
        clock=MonotonicClock(),
        generator=torch.Generator().manual_seed(seed + 1),
        keep=records.append,
    )
    return SteeredPolicy(steerer=steerer)


def prepare(output: Path, seed: int, size: Size) -> None:
    """Data and agents of one seed, or what is left of them."""
    torch.set_num_threads(1)
    folder = output / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    scene = environment(size)
    try:
        agents(folder, seed, size, scene.spec, demonstrations(folder, seed, size, scene))
    finally:
        scene.close()


def play(output: Path, seed: int, size: Size, number: int) -> None:
    """All episodes of one arm and seed, or what is left of them."""
    torch.set_num_threads(1)
    folder, arm = output / f"seed_{seed}", arms()[number]
    path = folder / f"results_{number:02d}.jsonl"
    done = {(row["task"], row["episode"]) for row in read_rows(path)}
    if len(done) == len(ASKED) * size.episodes:
        return
    scene = environment(size)
    try:
        made = agents(folder, seed, size, scene.spec, demonstrations(folder, seed, size, scene))
        cut = path.exists() and not path.read_bytes().endswith(b"\n")  # a row that a kill interrupted
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" if cut else "")
            for at, task in enumerate(ASKED):
                scene.assign(at)
                for index in (each for each in range(size.episodes) if (task.text, each) not in done):
                    episode_seed = Seeds(seed).integer("evaluation", at, index)
                    records: list[Record] = []
                    start = time.monotonic()
                    found = roll(scene, policy_of(arm, made, scene, episode_seed, records), episode_seed)
                    row = {
                        "arm": arm.name,
                        "task": task.text,
                        "episode": index,
                        "success": bool(found.success is not None and found.success.any()),
                        "steps": len(found),
                        "seconds": time.monotonic() - start,
                        "steered": sum(each.reason == "steered" for each in records) / max(1, len(records)),
                        "moved": sum(each.chosen > 0 for each in records) / max(1, len(records)),
                    }
                    file.write(json.dumps(row) + "\n")
                    file.flush()
    finally:
        scene.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Finished episodes; a line that was cut off is none."""
    rows = []
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def table(output: Path) -> str:
    """Success of each arm over all seeds, and what its difference to the base is worth."""
    found: dict[str, dict[Any, bool]] = {}
    for path in sorted(output.glob("seed_*/results_*.jsonl")):
        for row in read_rows(path):
            found.setdefault(row["arm"], {})[(path.parent.name, row["task"], row["episode"])] = row["success"]
    seeds = sorted({key[0] for each in found.values() for key in each})
    lines = [
        "| arm | episodes | success | 95 % | " + " | ".join(task.text for task in ASKED) + " | over base | p |",
        "|---|" + "---|" * (5 + len(ASKED)),
    ]
    base = found.get("base", {})
    for arm in arms():
        each = found.get(arm.name, {})
        if not each:
            continue
        count, successes = len(each), sum(each.values())
        low, high = wilson_interval(successes, count)
        tasks = [np.mean([value for key, value in each.items() if key[1] == task.text] or [np.nan]) for task in ASKED]
        both = sorted(set(each) & set(base))
        compared = mcnemar([each[key] for key in both], [base[key] for key in both]) if both else None
        told = "| | " if arm.name == "base" or compared is None else f"| {compared.gain:+.3f} | {compared.p_value:.2g} "
        cells = " | ".join(f"{rate:.2f}" for rate in tasks)
        lines.append(f"| {arm.name} | {count} | {successes / count:.3f} | {low:.3f}-{high:.3f} | {cells} {told}|")
    return f"{len(seeds)} seeds; p: McNemar's exact test on the same episodes, two-sided.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="everything once, in minutes; says nothing")
    parser.add_argument("--table", action="store_true", help="only of what is there")
    given = parser.parse_args()
    size, seeds = (SMOKE, given.seeds[:1]) if given.smoke else (Size(), given.seeds)
    kept = given.output / "size.json"
    given.output.mkdir(parents=True, exist_ok=True)
    if kept.exists() and json.loads(kept.read_text("utf-8")) != vars(size):
        raise SystemExit(f"{given.output} was begun with other sizes: choose another folder")
    kept.write_text(json.dumps(vars(size)), "utf-8")
    if not given.table:
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(prepare, given.output, seed, size) for seed in seeds]:
                future.result()
            parts = [(seed, number) for number in range(len(arms())) for seed in seeds]
            for future in [pool.submit(play, given.output, seed, size, number) for seed, number in parts]:
                future.result()
    text = table(given.output)
    (given.output / "table.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
