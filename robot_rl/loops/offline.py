"""The offline loop: updates from recorded data, no environment."""

import torch
from torch import Tensor

from robot_rl.config import PhaseConfig
from robot_rl.loops.execution import GraphedUpdates, learner
from robot_rl.loops.run import Run
from robot_rl.replay.mixture import counts, draw_mixture, gather_mixture
from robot_rl.replay.prefetch import Draw, Prefetcher


def run_offline(run: Run, phase: PhaseConfig) -> bool:
    """Every step is `updates_per_step` critic updates and one actor update. False when a stop was requested."""
    progress, repeats = run.progress, round(phase.updates_per_step)
    sizes = {name: len(source) for name, source in run.sources.items()}
    learning = learner(run.agent, run.sources, run.execution)

    def draw(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return draw_mixture(run.sources, counts(phase.shares, sizes, step, phase.batch_size), repeats, generator)

    if isinstance(learning, GraphedUpdates):
        return _run_graphed(run, phase, learning, draw)
    batches = Prefetcher(
        draw,
        lambda drawn: gather_mixture(run.sources, drawn, repeats),
        run.generator,
        first=progress.phase_step,
        count=phase.steps - progress.phase_step,
        workers=run.prefetch_workers,
    )
    with batches:
        while progress.phase_step < phase.steps:
            if run.should_stop():
                return False
            metrics = learning.update(batches.next(), critic_updates=repeats)
            progress.phase_step += 1
            progress.updates += repeats
            run.after_step(phase, metrics)
            run.save_if_due()
    return True


def _run_graphed(run: Run, phase: PhaseConfig, learning: GraphedUpdates, draw: Draw) -> bool:
    """As `run_offline`, many steps at a time."""
    progress, repeats = run.progress, round(phase.updates_per_step)
    while progress.phase_step < phase.steps:
        if run.should_stop():
            return False
        end = run.next_stop(phase, learning.updates_per_replay)
        drawn = [draw(step, run.generator) for step in range(progress.phase_step, end)]
        metrics = learning.learn(drawn, critic_updates=repeats)
        progress.updates += repeats * len(drawn)
        progress.phase_step = end
        run.after_step(phase, metrics)
        run.save_if_due()
    return True
