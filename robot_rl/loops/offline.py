"""The offline loop: updates from recorded data, no environment."""

from robot_rl.config import PhaseConfig
from robot_rl.loops.run import Run
from robot_rl.replay.mixture import counts, sample_mixture


def run_offline(run: Run, phase: PhaseConfig) -> bool:
    """Every step is `updates_per_step` critic updates and one actor update. False when a stop was requested."""
    progress, repeats = run.progress, round(phase.updates_per_step)
    while progress.phase_step < phase.steps:
        if run.stop_requested():
            return False
        sizes = {name: len(source) for name, source in run.sources.items()}
        rows = counts(phase.shares, sizes, progress.phase_step, phase.batch_size)
        batch = sample_mixture(run.sources, rows, repeats, run.generator)
        metrics = run.agent.update(batch, critic_updates=repeats)
        progress.phase_step += 1
        progress.updates += repeats
        run.after_step(phase, metrics)
        run.save_if_due()
    return True
