"""Which critic judges the generalist's samples as the oracle does? On a seed that `steering_proof.py` does not report.

    OMP_NUM_THREADS=1 MUJOCO_GL=egl python benchmarks/experiments/steering_critics.py RUN --demonstrations 60 \\
        --expectile 0.8 --updates 12000
    OMP_NUM_THREADS=1 MUJOCO_GL=egl python benchmarks/experiments/steering_critics.py RUN --head hl_gauss

The generalist is that of 60 demonstrations a task, for all critics. Every 3,000 updates: Spearman's correlation of the
critic's values (the smallest of four) with minus the distance from the expert's action, over 50 samples in every third
state of 32 episodes of the generalist, and that distance for its own action and for the best of 16 and 50 by the
critic. At the end success over 100 episodes with 1, 16 and 50 candidates.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))

import steering_proof as proof

from robot_rl.algorithms import create
from robot_rl.algorithms.agent import Agent
from robot_rl.clock import MonotonicClock
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.replay.language import wrong_instructions
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.steering.agents import AgentProposer, CriticScorer
from robot_rl.steering.proposals import Deadline
from robot_rl.types import Array

SEED, EPISODES, SAMPLES, EVERY = 100, 8, 50, 3
Judged = tuple[Mapping[str, Array], Array, Array]
"""An observation, samples in it in units, and how far each is from the expert's action."""


def sampled(base: Agent, size: proof.Size) -> list[Judged]:
    """What the generalist would do along its own episodes."""
    scene, found = proof.environment(size), []
    for at, task in enumerate(proof.ASKED):
        scene.assign(at)
        for episode in range(EPISODES):
            seed = Seeds(SEED).integer("judged", at, episode)
            proposer = AgentProposer(
                agent=base,
                observations=scene.spec,
                chunk=1,
                device=proof.CPU,
                generator=torch.Generator().manual_seed(seed),
                explore=True,
            )
            expert, step = task.expert(scene.spec), scene.reset(seed=seed)
            expert.reset()
            while not step.last:
                proposals = proposer.propose(
                    step.observation,
                    SAMPLES,
                    observation_id=0,
                    deadline=Deadline(clock=MonotonicClock()),
                    ready=lambda _: None,
                )
                wanted = proposer.spec.normalized(expert.act(step.observation)).reshape(1, -1)
                distance = np.linalg.norm(proposer.spec.normalized(proposals.actions)[:, 0] - wanted, axis=1)
                found.append((dict(step.observation), proposals.actions, distance))
                step = scene.step(proposals.actions[0, 0])
    scene.close()
    return found[::EVERY]


def judged(critic: Agent, spec: Spec, rows: list[Judged]) -> str:
    """In a line how well the critic knows which sample is near the expert's."""
    scorer = CriticScorer(agent=critic, observations=spec, chunk=1, device=proof.CPU)
    ranks, chosen = [], []
    for observation, actions, distance in rows:
        values = scorer.score(scorer.encode(observation, ""), actions).values.amin(dim=0).numpy()
        ranks.append(spearmanr(values, -distance).statistic)
        chosen.append([distance[np.argmax(values[:k])] for k in (1, 16, SAMPLES)] + [distance[:16].min()])
    own, of_16, of_50, best = np.mean(chosen, axis=0)
    distances = f"own {own:.2f}, of 16 {of_16:.2f}, of 50 {of_50:.2f}, nearest of 16 {best:.2f}"
    return f"rank correlation {np.nanmean(ranks):.3f}, distance: {distances}"


def success(made: dict[str, Agent], candidates: int, episodes: int, size: proof.Size) -> float:
    """Of steering with so many."""
    scene, won = proof.environment(size), []
    arm = proof.Arm(name="steered", scorer="critic", candidates=candidates)
    for at in range(len(proof.ASKED)):
        scene.assign(at)
        for index in range(episodes):
            seed = Seeds(SEED).integer("played", at, index)
            found = proof.roll(scene, proof.policy_of(arm, made, scene, seed, []), seed)
            won.append(bool(found.success is not None and found.success.any()))
    scene.close()
    return float(np.mean(won))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--demonstrations", type=int, default=240)
    parser.add_argument("--updates", type=int, default=9000)
    parser.add_argument("--discount", type=float, default=proof.DISCOUNT)
    parser.add_argument("--expectile", type=float, default=0.7)
    parser.add_argument("--head", default="scalar", choices=("scalar", "hl_gauss"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    first = replace(proof.Size(), demonstrations=60)
    folder = given.output / "generalist"
    folder.mkdir(parents=True, exist_ok=True)
    scene = proof.environment(first)
    episodes = proof.demonstrations(folder, SEED, first, scene)
    everything = proof.buffer_of(scene.spec, episodes)
    torch.manual_seed(Seeds(SEED).integer("weights"))
    base = create(
        proof.generalist_config(first), scene.spec, Seeds(SEED), proof.CPU, everything.observation_statistics()
    )
    proof.learned(folder / "base", base, everything, first.generalist, SEED)
    rows = sampled(base, first)
    if given.demonstrations != first.demonstrations:
        folder = given.output / f"demonstrations_{given.demonstrations}"
        folder.mkdir(exist_ok=True)
        episodes = proof.demonstrations(folder, SEED, replace(first, demonstrations=given.demonstrations), scene)
    scene.close()
    proof.DISCOUNT = given.discount
    ranges: dict[str, Any] = {} if given.head == "scalar" else {"minimum": -51.0, "maximum": 1.0, "atoms": 52}
    config = replace(
        proof.critic_config(first),
        actor_hidden=[8],  # nobody acts by it
        critic_head=CriticHeadConfig(kind=given.head, **ranges),
        expectile=given.expectile,
    )
    wrong = wrong_instructions(episodes, proof.ENCODER, 0.1, Seeds(SEED).numpy("wrong"))
    buffer = proof.buffer_of(scene.spec, [*episodes, *wrong])
    critic = create(config, scene.spec, Seeds(SEED), proof.CPU, buffer.observation_statistics())
    generator = Seeds(SEED).torch("batches", "critic")
    for update in range(1, given.updates + 1):
        critic.update(buffer.sample(256, generator), critic_updates=1)
        if update % 3000 == 0:
            print(f"{update} updates: {judged(critic, scene.spec, rows)}", flush=True)
    for candidates in (1, 16, 50):
        print(f"K = {candidates}: {success({'base': base, 'critic': critic}, candidates, 25, first):.2f}", flush=True)


if __name__ == "__main__":
    main()
