"""A robot's data and the simulator it is learned from together: what has to be the same, and what must not be."""

from collections.abc import Mapping

from robot_rl.algorithms.agent import Agent
from robot_rl.apps.build import LoadedData, check_fit
from robot_rl.environment import Environment
from robot_rl.sim.proxy import require_different

MATCHED = ("control_period_s", "action_semantics")


def require_comparable(agent: Agent, loaded: Mapping[str, LoadedData], simulator: Environment | None) -> list[str]:
    """Refuse data that a hybrid learner would compare with the simulator though they speak of different things.

    Other learners take whatever fits the environment.

    Args:
        agent: tells domains apart where it needs `real`.
        loaded: the data sets of the robot.
        simulator: where the run acts; None where it does not.

    Returns:
        what nobody can check, because the data does not say it.

    Raises:
        InputError: observations, actions, control periods or action semantics differ; or the data was recorded in that
            same simulator.
    """
    if "real" not in agent.needs or simulator is None:
        return []
    notes = []
    for name, data in loaded.items():
        check_fit(f"data set {name}", data.spec, "the simulator", simulator.spec)
        if "simulator" in data.spec.metadata:
            require_different(simulator.spec, data.spec, f"data set {name}")
        unsaid = [fact for fact in MATCHED if getattr(data.spec, fact) is None]
        if unsaid:
            notes.append(
                f"Data set {name} does not say its {' and '.join(unsaid)}: nobody has checked that it is that of the "
                f"simulator ({', '.join(f'{fact}={getattr(simulator.spec, fact)}' for fact in unsaid)}). A difference "
                "there looks like a gap of the dynamics"
            )
    return notes
