"""Learners that tell robot and simulator apart: phases that cannot give them both, and what they cannot say."""

from robot_rl.algorithms import with_overrides
from robot_rl.algorithms.hybrid import Hybrid, HybridConfig
from robot_rl.config import PhaseConfig
from robot_rl.errors import InputError
from robot_rl.loops.run import Run

TOLD_APART = 0.99
"""Area under the curve of states and actions alone, from which nothing is left for the dynamics to explain."""


def weigh_domains(run: Run, phase: PhaseConfig) -> list[str]:
    """Hold what the phase draws from against what a hybrid learner needs; others need nothing.

    Where the robot's data is too small to calibrate a judge of the simulator, judges do not count in this phase.

    Returns:
        a sentence where that is so.

    Raises:
        InputError: there is nothing to learn from, or judges have only the simulator.
    """
    config = run.agent.config
    if not isinstance(config, HybridConfig) or not phase.updates_per_step:
        return []
    drawn = [name for name, share in phase.shares.items() if share != 0]
    place = f"phases.{run.progress.phase}"
    real = [name for name in drawn if run.sources[name].real]
    if config.learn_from == "simulator" and len(real) == len(drawn):
        raise InputError(
            f"{place} draws from {drawn}, all of the robot, but algorithm.learn_from=simulator learns from simulated "
            f"rows: give the simulator a share, or set {place}.algorithm.learn_from=both"
        )
    if not config.judges.models or len(real) == len(drawn):
        return []
    if not real:
        raise InputError(
            f"{place} draws from {drawn}, all of the simulator, and {', '.join(config.judges.models)} judge it by the "
            f"robot's transitions: give a data set of the robot a share ({place}.shares), or set "
            "algorithm.judges.models=[] and what needs them to 0"
        )
    count = sum(len(run.sources[name]) for name in real)
    if count >= config.judges.minimum_real or not config.judges_count:
        return []
    run.agent.config = with_overrides(config, {"judges_count": False})
    instead = "the simulator alone" if config.learn_from == "simulator" else "a mixture of both, row by row alike"
    return [
        f"{place}: {count} transitions of the robot ({', '.join(real)}) are too few to judge the simulator by; there "
        f"should be {config.judges.minimum_real} (algorithm.judges.minimum_real). Judges do not count in this phase, "
        f"and it learns as from {instead}"
    ]


def judged(run: Run, phase: PhaseConfig) -> list[str]:
    """What classifiers of robot and simulator cannot say, at the end of a phase.

    Returns:
        a sentence where held out states and actions alone tell the two apart.
    """
    agent = run.agent
    judges = agent.judges if isinstance(agent, Hybrid) and agent.config.judges_count else None
    if judges is None or judges.classifiers is None or not phase.updates_per_step or not float(judges.calibrated):
        return []
    area = float(judges.classifiers.visited.auc)
    if area < TOLD_APART:
        return []
    return [
        f"phases.{run.progress.phase}: states and actions alone tell robot and simulator apart (area under the curve, "
        f"held out rows: {area:.3f}), so judges say little of the dynamics, and where gap/log_ratio_size is near 0, "
        "simulated rows counted like the robot's. Make both alike in what is no dynamics: give the simulator the "
        "robot's sensor noise and bits (environment.gap), or record data by a policy like the one that learns"
    ]
