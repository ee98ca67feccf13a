"""Robots by proxy: simulators made different in the ways in which robots are, whose differences a learner is not told.

Three tiers (`mild`, `std`, `hard`) and three robots of each (`A`, `B`, `C`): the tier's table with every difference up
to 20 % larger or smaller. Tune on A, report on B and C.
"""

from robot_rl.errors import InputError
from robot_rl.seeding import Seeds
from robot_rl.sim.gap import NOMINAL, WHOLE, Gap
from robot_rl.sim_config import PROXIES, ROBOTS, TIERS
from robot_rl.spec import Spec

GENERAL: dict[str, dict[str, float]] = {
    "mild": {
        "mass": 1.05,
        "gear": 0.95,
        "damping": 1.2,
        "coulomb": 0.01,
        "contact_friction": 0.8,
        "action_delay_s": 0.010,
        "motor_pole": 0.1,
        "action_bits": 10,
        "sensor_bits": 12,
        "sensor_noise": 0.01,
    },
    "std": {
        "mass": 1.10,
        "gear": 0.90,
        "damping": 1.5,
        "coulomb": 0.02,
        "armature": 1.1,
        "contact_friction": 0.7,
        "action_delay_s": 0.020,
        "motor_pole": 0.2,
        "action_bits": 8,
        "sensor_bits": 10,
        "sensor_noise": 0.02,
        "dropout": 0.005,
        "stuck": 0.005,
    },
    "hard": {
        "mass": 1.20,
        "gear": 0.80,
        "damping": 2.0,
        "coulomb": 0.05,
        "armature": 1.2,
        "contact_friction": 0.5,
        "action_delay_s": 0.040,
        "action_delay_jitter": 0.25,
        "motor_pole": 0.3,
        "action_bits": 6,
        "sensor_bits": 8,
        "velocity_periods": 1,
        "sensor_noise": 0.05,
        "sensor_bias": 0.05,
        "dropout": 0.02,
        "dropout_steps": 5,
        "stuck": 0.02,
        "stuck_steps": 5,
    },
}
"""The table of the sim-to-real reference, section 3.4."""
BALANCE: dict[str, dict[str, float]] = {
    "mild": GENERAL["mild"] | {"coulomb": 0.001, "action_delay_s": 0.005},
    "std": GENERAL["std"] | {"coulomb": 0.002, "action_delay_s": 0.010},
    "hard": GENERAL["hard"] | {"coulomb": 0.004, "action_delay_s": 0.015},
}
"""Balancing fails altogether at a delay of 10 to 20 ms or 0.2 to 0.5 % of friction."""
FAMILIES = {"general": GENERAL, "balance": BALANCE}
BALANCE_TASKS = ("InvertedPendulum", "InvertedDoublePendulum", "cartpole", "acrobot", "pendulum")
SPREAD = 0.2
UNSPREAD = (*WHOLE, "action_delay_jitter")


def family_of(spec: Spec) -> str:
    """`balance` or `general`, by the simulator's task."""
    task = str(spec.metadata.get("id", spec.metadata.get("domain", "")))
    return "balance" if task.startswith(BALANCE_TASKS) else "general"


def proxy_gap(name: str, family: str = "general") -> Gap:
    """The gap of a robot such as `std_B`.

    A robot is the same in each tier: its differences are scaled by the same factors in [0.8, 1.2].

    Raises:
        InputError: an unknown name or family.
    """
    if name not in PROXIES or family not in FAMILIES:
        raise InputError(f"there is no robot by proxy '{name}' ({family}): tiers {TIERS}, robots {ROBOTS}")
    tier, robot = name.split("_")
    values = {}
    for field, value in FAMILIES[family][tier].items():
        factor = 1.0 + SPREAD * (2.0 * float(Seeds(0).numpy("robot by proxy", robot, field).uniform()) - 1.0)
        nominal = getattr(NOMINAL, field)
        values[field] = value if field in UNSPREAD else round(nominal + factor * (value - nominal), 6)
    return NOMINAL.with_values(values)


def require_different(simulator: Spec, robot: Spec, where: str) -> None:
    """Refuse a robot that is its simulator.

    Args:
        simulator: spec of the environment that is trained in.
        robot: spec of the environment, or of the data, that stands for the robot.
        where: who gives the robot, such as `evaluation.proxy=std_B`.

    Raises:
        InputError: both have the same gap, or none.
    """
    ours, theirs = (spec.metadata.get("gap", {}).get("hash") for spec in (simulator, robot))
    if ours == theirs:
        which = "no gap" if ours is None else f"gap {ours}"
        raise InputError(
            f"{where} and the simulator that is trained in are the same ({which}): nothing would be transferred. Train "
            "without environment.proxy and environment.gap, or choose another robot"
        )
