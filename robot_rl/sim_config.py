"""Settings of simulated robots that differ from the simulator: gaps, robots by proxy, domain randomisation."""

from dataclasses import dataclass, field
from typing import Any

from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.errors import InputError

TIERS = ("mild", "std", "hard")
"""How far a robot by proxy is from the simulator."""
ROBOTS = ("A", "B", "C")
"""The three robots of each tier: tune on A, report on B and C."""
PROXIES = tuple(f"{tier}_{robot}" for tier in TIERS for robot in ROBOTS)

IDENTIFIED = (
    "gear",
    "damping",
    "coulomb",
    "armature",
    "mass",
    "contact_friction",
    "motor_pole",
    "action_delay_s",
)
"""What `robot-rl identify` looks for unless told otherwise."""


@dataclass(kw_only=True)
class GapConfig:
    """How the robot differs from the simulator; None: as the proxy has it, without a proxy as the simulator has it.

    Factors scale what the model has (1.0 changes nothing), all others are 0 where nothing differs.
    """

    gravity: float | None = None  # factor
    mass: float | None = None  # factor of masses and inertias
    center_of_mass_x_m: float | None = None  # shift of each moving body's centre of mass along its own x
    gear: float | None = None  # factor of actuator forces: gain and bias
    damping: float | None = None  # factor of joint damping
    coulomb: float | None = None  # joint friction added, as a share of the joint's largest actuator torque
    armature: float | None = None  # factor of rotor inertia
    contact_friction: float | None = None  # factor of sliding friction, floor included
    joint_range: float | None = None  # factor of joint limits about the initial position
    motor_pole: float | None = None  # of a first-order lag: what is left of a step after one control period, in [0, 1)
    action_delay_s: float | None = None  # from command to motor; fractions of a physics step are kept
    action_delay_jitter: float | None = None  # share of the delay by which it varies up and down
    action_bits: int | None = None  # resolution of commands over their bounds; 0: exact
    action_noise: float | None = None  # deviation of noise on commands, in half ranges, before the bounds
    missed_commands: float | None = None  # probability that a command is lost and the one before goes on
    period_jitter: float | None = None  # share of the control period by which it varies up and down
    observation_delay_s: float | None = None  # age of what is observed, in whole physics steps
    observation_delay_jitter: float | None = None  # share of the delay by which it varies up and down
    sensor_noise: float | None = None  # deviation of Gaussian noise, times the channel's own deviation
    sensor_bias: float | None = None  # deviation of an offset drawn for each episode, times the channel's own deviation
    sensor_bits: int | None = None  # resolution over eight deviations of the channel; 0: exact
    velocity_periods: int | None = None
    """Control periods over which the velocities of joints are differenced from the positions that their encoders read,
    with noise and resolution; 0: velocities have sensors of their own."""
    dropout: float | None = None  # probability per channel and step that the sensor begins to read 0
    dropout_steps: int | None = None  # for so many steps
    stuck: float | None = None  # probability per channel and step that the sensor begins to repeat its last value
    stuck_steps: int | None = None  # for so many steps

    def values(self) -> dict[str, float]:
        """Those that are given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(kw_only=True)
class RandomizationConfig:
    """Differences drawn anew for each training episode; evaluation never draws.

    `environment/randomization=NAME` chooses one of `configs/environment/randomization`.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    """A name of `environment.gap` -> its distribution: {uniform: [low, high]}, {log_uniform: [low, high]},
    {normal: [mean, deviation]} or {choice: [values]}."""
    curriculum_steps: int = 0  # environment steps over which the ranges grow from `curriculum_start` to all; 0: at once
    curriculum_start: float = 0.0  # share of the ranges at the beginning

    def __post_init__(self) -> None:
        require_minimum(self.curriculum_steps, 0, "environment.randomization.curriculum_steps")
        require_range(self.curriculum_start, 0.0, 1.0, "environment.randomization.curriculum_start")


@dataclass(kw_only=True)
class LooksConfig:
    """How much of the look of a scene is drawn anew at every reset, evaluation included; 0 leaves what there is."""

    family: str = "looks"  # of the draws: the same seeds look otherwise in another family
    camera_shift: float = 0.0  # of the camera's place, as a share of its distance to the middle of the scene
    camera_scale: float = 0.0  # the field of view times 1 - this to 1 + this
    background: float = 0.0  # share of what is fixed, floor and walls and table, that gets a plain colour of its own
    objects: float = 0.0  # how far the colours of objects go towards drawn ones, 0 to 1
    robot: float = 0.0  # how far the colours of the robot go towards drawn ones, 0 to 1
    lights: float = 0.0  # their brightness times 1 - this to 1 + this, and their places by up to this many metres
    distractors: int = 0  # shapes that lie about, at most; they are drawn only, and nothing hits them

    def __post_init__(self) -> None:
        for name in ("camera_shift", "camera_scale", "background", "objects", "robot", "lights"):
            require_range(getattr(self, name), 0.0, 1.0, f"environment.looks.{name}")
        require_range(self.distractors, 0, 100, "environment.looks.distractors")

    @property
    def drawn(self) -> bool:
        """Whether anything changes."""
        amounts = (self.camera_shift, self.camera_scale, self.background, self.objects, self.robot, self.lights)
        return any(amounts) or self.distractors > 0


@dataclass(kw_only=True)
class AdversaryConfig:
    """Forces on bodies as further actions, for `algorithm=qarl`; evaluation has the actions too, and sends zeros."""

    bodies: list[str] = field(default_factory=list)  # names in the simulator's model; none: nobody pushes
    maximum_force_n: float = 20.0  # along each axis of the world

    def __post_init__(self) -> None:
        require_range(self.maximum_force_n, 0.0, 1e6, "environment.adversary.maximum_force_n")


@dataclass(kw_only=True)
class SimulatedConfig:
    """What all simulated environments have."""

    proxy: str | None = None
    """A robot by proxy in place of the simulator: `mild_A` to `hard_C`. Tune on A, report on B and C."""
    gap: GapConfig = field(default_factory=GapConfig)
    randomization: RandomizationConfig = field(default_factory=RandomizationConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    action_history: int = 0
    """Commands of so many steps back that are observed as `action_history`: a delay hides what is under way."""
    task_id: list[int] | None = None
    """[number, count]: which of several tasks it is, observed as `task` with a 1 in its place."""
    cameras: list[str] = field(default_factory=list)
    """Cameras of the model that are observed as `<camera>_image`: by name, or by number ("0"; "-1" sees all)."""
    image_size: int = 64  # height and width of these images in pixels
    looks: LooksConfig = field(default_factory=LooksConfig)  # of what cameras see; evaluation draws it too
    numbers: list[str] | None = None  # the other observations that stay; None keeps all; [] leaves the images alone

    def __post_init__(self) -> None:
        if self.proxy is not None:
            require_choice(self.proxy, PROXIES, "environment.proxy")
        require_minimum(self.action_history, 0, "environment.action_history")
        require_range(self.image_size, 8, 2048, "environment.image_size")
        if self.task_id is not None and (len(self.task_id) != 2 or not 0 <= self.task_id[0] < self.task_id[1]):
            raise InputError(f"environment.task_id={self.task_id}: give [number, count], number below count")
        if self.looks.drawn and not self.cameras:
            raise InputError("environment.looks changes what cameras see: it needs environment.cameras")
        if self.numbers is not None and not self.cameras:
            raise InputError("environment.numbers leaves observations out for images: it needs environment.cameras")
