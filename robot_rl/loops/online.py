"""The online loop: act, store, update."""

from collections.abc import Mapping
from typing import Any

import torch

from robot_rl.config import PhaseConfig
from robot_rl.environment import Environment, drawn_in, tell_experience
from robot_rl.loops.execution import learner
from robot_rl.loops.learning import owed_for, repeats_of
from robot_rl.loops.run import Run
from robot_rl.policy import drop_chunk
from robot_rl.replay.mixture import draw_when_ready
from robot_rl.types import Array, Metrics, TimeStep


def run_online(run: Run, phase: PhaseConfig) -> bool:
    """Environment steps with `updates_per_step` updates each; a stop is honoured when the episode has ended.

    An episode that runs when the phase ends is cut as truncated: the next phase begins with a reset, and every
    checkpoint stands between two episodes.
    """
    environment = run.robot if phase.robot else run.environment
    if environment is None:
        raise RuntimeError("a phase that interacts needs an environment")
    progress, replay = run.progress, run.sources[phase.acts_for]
    repeats, learning = repeats_of(phase), learner(run.agent, run.sources, run.execution)
    metrics: Metrics = {}

    while progress.phase_step < phase.steps:
        if run.should_stop():
            return False
        run.save_if_due()

        tell_experience(environment, progress.environment_steps)
        step = environment.reset(seed=run.seeds.integer("episode", progress.episodes))
        run.policy.reset()
        replay.begin(step.observation, name=f"training episode {progress.episodes}")
        progress.episodes += 1
        episode_return, length, success = 0.0, 0, False
        while not step.last and progress.phase_step < phase.steps:
            step = environment.step(choose_action(run, phase, environment, step.observation))
            if step.intervened:
                drop_chunk(run.policy)
            replay.add(step)
            episode_return, length, success = episode_return + step.reward, length + 1, success or bool(step.success)
            progress.phase_step += 1
            progress.environment_steps += 1

            if owed_for(phase, progress.phase_step - 1, progress.phase_step):
                drawn = draw_when_ready(
                    run.sources, phase.shares, progress.phase_step, phase.batch_size, repeats, run.generator
                )
                if drawn is not None:
                    metrics = learning.learn([drawn], critic_updates=repeats)
                    progress.updates += repeats
            run.after_step(phase, metrics)
        replay.cut()
        if step.last:
            tell_episode(run, phase, environment, step, episode_return, length, success, {})
    return True


def choose_action(run: Run, phase: PhaseConfig, environment: Environment, observation: Mapping[str, Array]) -> Array:
    """What the phase acts by: the exploring policy, or chance. Shapes: each (*) -> (A,)."""
    if phase.interact == "random":
        uniform = torch.rand(environment.spec.action.shape, generator=run.generator) * 2.0 - 1.0
        return run.policy.scale.unnormalize(uniform)
    return run.policy.act(observation)


def tell_episode(
    run: Run,
    phase: PhaseConfig,
    environment: Environment,
    last: TimeStep,
    episode_return: float,
    length: int,
    success: bool,
    further: dict[str, float],
) -> None:
    """A line of metrics for an episode that has ended; `further` are numbers besides."""
    numbers = {"return": episode_return, "length": float(length), **further}
    if last.success is not None:
        numbers["success"] = float(success)
    drawn_values = drawn_in(environment)
    details: dict[str, Any] = {"drawn": drawn_values} if drawn_values else {}
    if phase.robot:
        details["robot"] = True
    run.recorder.event("episode", run.progress, numbers, **details)
