"""The offline loop: updates from recorded data, no environment."""

import torch
from torch import Tensor

from robot_rl.config import PhaseConfig
from robot_rl.loops.run import Run
from robot_rl.replay.mixture import counts, draw_mixture, gather_mixture
from robot_rl.replay.prefetch import Prefetcher


def run_offline(run: Run, phase: PhaseConfig) -> bool:
    """Every step is `updates_per_step` critic updates and one actor update. False when a stop was requested."""
    progress, repeats = run.progress, round(phase.updates_per_step)
    sizes = {name: len(source) for name, source in run.sources.items()}

    def draw(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return draw_mixture(run.sources, counts(phase.shares, sizes, step, phase.batch_size), repeats, generator)

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
            if run.stop_requested():
                return False
            metrics = run.agent.update(batches.next(), critic_updates=repeats)
            progress.phase_step += 1
            progress.updates += repeats
            run.after_step(phase, metrics)
            run.save_if_due()
    return True
