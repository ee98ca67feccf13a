"""Configuration: dataclasses are the schema, YAML picks and overrides, and this file is the only registry.

`apps/` composes with Hydra and calls `OmegaConf.to_object` once; past that line there are only these dataclasses, and
nobody assigns to them.
"""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from robot_rl.algorithms import ALGORITHM_CONFIGS
from robot_rl.algorithms.video import OBJECTIVE_CONFIGS
from robot_rl.benchmark_config import BenchmarkConfig
from robot_rl.checks import require_choice, require_minimum, require_range, require_success_reward
from robot_rl.data_config import (
    AdviseConfig,
    CorruptionConfig,
    EditConfig,
    ExportConfig,
    IngestConfig,
    InspectConfig,
    LanguageConfig,
    ViewConfig,
)
from robot_rl.deploy_config import DeployConfig
from robot_rl.errors import InputError
from robot_rl.label_config import LabelConfig
from robot_rl.rewards import LABEL_CONFIGS
from robot_rl.rewards.environment import JudgeConfig
from robot_rl.robot_config import Ros2EnvironmentConfig
from robot_rl.serve_config import DistillConfig, ServeConfig
from robot_rl.sim_config import IDENTIFIED, PROXIES, GapConfig, SimulatedConfig
from robot_rl.video_config import PretrainVideoConfig


@dataclass(kw_only=True)
class GymnasiumEnvironmentConfig(SimulatedConfig):
    """A gymnasium or gymnasium-robotics environment by its id."""

    id: str = MISSING
    arguments: dict[str, Any] = field(default_factory=dict)
    maximum_steps: int | None = None  # None takes the environment's own limit
    success: str | None = None
    """Where success is declared: a key of `info` (`success`, `is_success`, ...), where a list means success once it is
    empty (kitchen: `tasks_to_complete`); None: the task declares none."""
    terminate_on_success: bool = False
    success_reward: list[float] | None = None
    """[reward without success, reward with success] in place of the native reward; None keeps the native one."""
    render_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        require_success_reward(self.success_reward, "environment.success_reward")


@dataclass(kw_only=True)
class DmControlEnvironmentConfig(SimulatedConfig):
    """A dm_control suite task."""

    domain: str = MISSING
    task: str = MISSING
    action_repeat: int = 1
    success_threshold: float | None = None
    """The mean reward per step, in [0, 1], from which an episode counts as a success, declared on its last step; None:
    no success is declared."""
    render_size: int = 256


@dataclass(kw_only=True)
class RobosuiteEnvironmentConfig(SimulatedConfig):
    """A robosuite task."""

    task: str = MISSING
    robot: str = "Panda"
    controller: str = "OSC_POSE"  # OSC_POSE | OSC_POSITION | JOINT_POSITION | JOINT_TORQUE
    control_frequency_hz: float = 20.0
    maximum_steps: int = 200
    observation: list[str] | None = None  # keys; None takes the robot's proprioception and the object state
    reward_shaping: bool = False
    terminate_on_success: bool = True
    success_reward: list[float] | None = None
    render_size: int = 256
    camera: str = "agentview"
    placement_m: float | None = None
    """Objects begin up to so far from the middle of the table, along both its sides; None: as robosuite has it, 0.03
    for Lift, 0.08 for Stack."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_success_reward(self.success_reward, "environment.success_reward")
        if self.placement_m is not None:
            require_range(self.placement_m, 0.0, 0.3, "environment.placement_m")


@dataclass(kw_only=True)
class DatasetConfig:
    """One store, and how its episodes are read. The store itself is never changed by this."""

    path: str = MISSING
    out_of_range: str = "error"
    """Recorded actions outside the environment's bounds: `error`, or `clip` them."""
    success_reward: list[float] | None = None
    """[reward without success, reward with success] in place of the recorded reward."""
    cut_at_success: str = "none"
    """`first` or `last`: the episode ends, terminated, with its first (last) successful step; `none`: as recorded."""
    keep: str = "all"  # all | successful
    maximum_episodes: int | None = None
    images: str = "mapped"
    """`mapped`: images stay in the store and are read as they are sampled; `memory`: they are copied to memory."""
    weighting: str = "uniform"
    """How often the transitions of an episode are drawn: `uniform`, by its `return`, or by its `advantage`, the return
    minus what is expected of its first observation (trajectory weighting, Hong et al., ICLR 2023)."""
    weighting_temperature: float = 0.1  # of what they are drawn by, scaled to [0, 1]: a small one prefers the best
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)  # to see what a learner bears
    domain: str = "robot"  # robot | simulator: whose transitions they are, for hybrid learners

    def __post_init__(self) -> None:
        require_choice(self.domain, ("robot", "simulator"), "dataset domain")
        require_choice(self.images, ("mapped", "memory"), "dataset images")
        require_choice(self.weighting, ("uniform", "return", "advantage"), "dataset weighting")
        require_minimum(self.weighting_temperature, 1e-6, "dataset weighting_temperature")
        require_choice(self.out_of_range, ("error", "clip"), "dataset out_of_range")
        require_choice(self.cut_at_success, ("none", "first", "last"), "dataset cut_at_success")
        require_choice(self.keep, ("all", "successful"), "dataset keep")
        require_success_reward(self.success_reward, "dataset success_reward")
        if self.maximum_episodes is not None:
            require_minimum(self.maximum_episodes, 1, "dataset maximum_episodes")


@dataclass(kw_only=True)
class ReplayConfig:
    """What a transition becomes on its way into a batch."""

    discount: float = 0.99
    n_step: int = 1  # decisions whose rewards are summed before bootstrapping
    action_chunk: int = 1
    """H: the agent decides on so many steps at once and sees nothing until they are done. A transition's action is H
    recorded ones, its reward their discounted sum, its next observation that after them."""
    chunk_ensemble: float | None = None
    """None plays a chunk to its end. A number decides at every step and plays the mean of what the last H decisions say
    of it, weighted by exp(-number * k), k = 0 for the oldest (CQN-AS and ACT: 0.01)."""
    chunk_discount: float | None = None
    """Per step, of the rewards inside a chunk (DEAS: gamma_1, and `discount` is gamma_2); None is `discount`."""
    n_step_counts: str = "chunks"  # chunks | steps: what `n_step` counts; CQN-AS: steps
    frame_stack: int = 1
    """Frames of each image that the agent sees, the first of an episode repeated; each is kept once in memory."""
    reward_scale: float = 1.0
    reward_bias: float = 0.0
    reward_observation: str | None = None
    """Key of an observation of which a channel, after the step, is learned from in place of the reward; evaluation
    still reports the environment's own. None learns from the reward."""
    reward_index: int = 0  # that channel
    monte_carlo_tail: str = "zero"
    """Return after the last step of an episode without termination: `zero`, or `constant`: r_last / (1 - discount)."""
    capacity: int = 1_000_000  # rows of the online buffer
    prefetch_workers: int | None = None
    """Threads that gather the next batches in phases without interaction; None: 2 where images are read from a store,
    else 0. The batches are the same for any number."""

    def __post_init__(self) -> None:
        require_choice(self.monte_carlo_tail, ("zero", "constant"), "replay.monte_carlo_tail")
        if not 0.0 <= self.discount < 1.0:
            raise InputError(f"replay.discount={self.discount} must lie in [0, 1)")
        require_minimum(self.n_step, 1, "replay.n_step")
        require_minimum(self.action_chunk, 1, "replay.action_chunk")
        require_minimum(self.frame_stack, 1, "replay.frame_stack")
        if self.chunk_ensemble is not None:
            require_range(self.chunk_ensemble, -100.0, 100.0, "replay.chunk_ensemble")
        require_choice(self.n_step_counts, ("chunks", "steps"), "replay.n_step_counts")
        if self.chunk_discount is not None:
            require_range(self.chunk_discount, 0.0, 1.0, "replay.chunk_discount")
            if self.action_chunk == 1 or self.n_step_counts == "steps":
                raise InputError(
                    "replay.chunk_discount is of the rewards inside a chunk: it needs replay.action_chunk > 1 and "
                    "replay.n_step_counts=chunks"
                )
        require_minimum(self.capacity, 2, "replay.capacity")
        if self.prefetch_workers is not None:
            require_minimum(self.prefetch_workers, 0, "replay.prefetch_workers")


@dataclass(kw_only=True)
class PhaseConfig:
    """One phase of a run. The switch from offline to online is the step from one of these to the next."""

    steps: int = MISSING  # gradient updates where `interact` is none, environment steps otherwise
    interact: str = "none"  # none | policy (the exploring policy acts) | random (uniform actions)
    robot: bool = False
    """Acts on the robot, `evaluation.proxy` or `evaluation.gap`, in place of the simulator; its transitions go to the
    source `robot`."""
    updates_per_step: float = 1.0
    """Update-to-data ratio: k >= 1 is k critic updates, each on its own batch, then one actor update; 0 is a frozen
    agent; 1/k is one update every k steps."""
    batch_size: int = 256  # rows of one critic update
    shares: dict[str, Any] = field(default_factory=dict)
    """Share of each source (a dataset's name, `online` or `robot`) in a batch: a number, `proportional` to sizes, or a
    linear schedule {start, end, steps}. Shares sum to 1. None given: all of what the phase acts for, else `offline`."""
    reset: list[str] = field(default_factory=list)
    """Parts of the agent that start anew with the phase: names of its networks or optimisers (`actor`, `critic`,
    `optimizers.actor`, ...). With a network its target network starts anew too: `critic` resets `target_critic`."""
    algorithm: dict[str, Any] = field(default_factory=dict)
    """Settings of the algorithm from this phase on, such as `conservative_weight: 0.0`."""
    evaluate_every: int = 0  # steps; 0 evaluates at the end of the phase only
    evaluate_at: list[int] = field(default_factory=list)  # further steps of the phase, such as the first thousands

    def __post_init__(self) -> None:
        require_choice(self.interact, ("none", "policy", "random"), "phase interact")
        ratio = self.updates_per_step
        whole = ratio if ratio >= 1 else (1 / ratio if ratio > 0 else 1.0)
        if ratio < 0 or not math.isclose(whole, round(whole)):
            raise InputError(f"phase updates_per_step={ratio} must be 0, a whole number, or 1/k")
        if self.interact == "none" and ratio < 1:
            raise InputError("in a phase without interaction every step is an update: updates_per_step must be >= 1")
        if self.steps < 0 or self.batch_size < 1:
            raise InputError(f"phase steps={self.steps} and batch_size={self.batch_size} must be positive")
        require_minimum(self.evaluate_every, 0, "phase evaluate_every")
        require_minimum(min(self.evaluate_at, default=0), 0, "phase evaluate_at")
        if self.robot and self.interact == "none":
            raise InputError("phase robot=true acts on the robot, but interact=none does not act: set interact=policy")
        if not self.shares:
            self.shares = {"offline" if self.interact == "none" else self.acts_for: 1.0}

    @property
    def acts_for(self) -> str:
        """The source that gets what happens while it acts."""
        return "robot" if self.robot else "online"


@dataclass(kw_only=True)
class EvaluationConfig:
    """Evaluation in its own environment with its own seeds."""

    episodes: int = 20
    final_episodes: int = 20  # after the last phase
    videos: int = 2  # episodes filmed at the end of each phase; 0 films none
    seed: int = 1_000_000  # root of the evaluation seeds; never equal to a training seed
    proxy: str | None = None
    """A robot by proxy, such as `std_B`, to evaluate on while it trains in the simulator; None: where it trains."""
    gap: GapConfig = field(default_factory=GapConfig)
    """How that robot differs, beside or in place of a proxy; it takes nothing of `environment.gap`."""

    def __post_init__(self) -> None:
        if self.proxy is not None:
            require_choice(self.proxy, PROXIES, "evaluation.proxy")
        require_minimum(self.episodes, 1, "evaluation.episodes")
        require_minimum(self.final_episodes, 1, "evaluation.final_episodes")
        require_minimum(self.videos, 0, "evaluation.videos")

    @property
    def robot(self) -> str | None:
        """Which settings make the robot, such as `evaluation.proxy=std_B`; None: it is the environment itself."""
        if self.proxy is None and not self.gap.values():
            return None
        words = [] if self.proxy is None else [f"evaluation.proxy={self.proxy}"]
        return " ".join([*words, *(f"evaluation.gap.{name}={value}" for name, value in self.gap.values().items())])


@dataclass(kw_only=True)
class ExecutionConfig:
    """How updates are run. The learning is the same; numbers differ by rounding."""

    mode: str = "eager"
    """`eager`, operation by operation; `compiled`, all of an update as one program, after tens of seconds of compiling;
    `graphed`, as CUDA graphs, whose replay data lies on the device; `compiled_graphed`, both."""
    updates_per_replay: int = 10
    """Updates in one CUDA graph, in phases without interaction; log_every should be a multiple of it."""
    precision: str = "float32"
    """Of hidden layers in updates: `bfloat16` is 1.4 times as fast where products take most of the time (CQL, Cal-QL),
    on CPUs that have it (`grep avx512_bf16 /proc/cpuinfo`) and on accelerators, and slow elsewhere."""

    def __post_init__(self) -> None:
        require_choice(self.precision, ("float32", "bfloat16"), "execution.precision")
        require_choice(self.mode, ("eager", "compiled", "graphed", "compiled_graphed"), "execution.mode")
        require_range(self.updates_per_replay, 1, 1000, "execution.updates_per_replay")


@dataclass(kw_only=True)
class LearnerConfig:
    """Where the updates of phases that act are made. See docs/robot.md, "Learning on the robot"."""

    place: str = "inline"
    """`inline`: between two steps; `process`: in a process of its own, for which the loop that acts never waits. What
    happens is then recorded in the run's folder, so that no crash loses it."""
    when_lost: str = "stop"
    """The learner's process has died or hangs: `stop` the episode and the run; or `act` on with the last weights to the
    end of the phase. Either way the run is saved, and goes on with resume=true."""
    patience_s: float = 60.0  # without a sign of life, after which it hangs; compiled updates need minutes
    weights_every: int = 20  # updates after which the loop gets new weights
    priority: int | None = 50  # of the loop's thread, SCHED_FIFO, where the machine allows it; null: as all others
    nice: int = 10  # of the learner's process, so that the robot's come first

    def __post_init__(self) -> None:
        require_choice(self.place, ("inline", "process"), "learner.place")
        require_choice(self.when_lost, ("stop", "act"), "learner.when_lost")
        require_range(self.patience_s, 1.0, 86400.0, "learner.patience_s")
        require_minimum(self.weights_every, 1, "learner.weights_every")
        if self.priority is not None:
            require_range(self.priority, 1, 98, "learner.priority")
        require_range(self.nice, 0, 19, "learner.nice")


@dataclass(kw_only=True)
class TrainConfig:
    """`robot-rl train`: a run is a list of phases over data sets and an environment."""

    name: str = "run"
    output: str = "runs/${name}/seed_${seed}"
    seed: int = 0
    resume: bool = False
    start_from: str | None = None
    """Folder of a finished run of the same algorithm on the same observations: this one begins with its agent, and with
    what it collected in its simulator as the source `online`. None begins with a new agent."""
    device: str = "cpu"
    threads: int = 1  # torch threads; two are slower than one for networks of this size on a busy machine
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    environment: Any = None  # where it acts and is evaluated; None trains from data alone
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    algorithm: Any = MISSING
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    phases: dict[str, PhaseConfig] = field(default_factory=dict)  # in order; keyed by name, so overrides can name one
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    normalize_observations: bool = True  # by the mean and deviation of the first data set
    minimum_deviation: float = 0.02
    """Smallest deviation by which a channel that varies is divided, in its own unit. Demonstrations move some channels
    by millimetres; dividing by that would make an everyday motion of the fine-tuned policy an input of 100."""
    checkpoint_every_s: float = 60.0
    log_every: int = 100  # steps between two lines of training metrics

    def __post_init__(self) -> None:
        require_minimum(self.threads, 1, "threads")
        require_minimum(self.minimum_deviation, 0.0, "minimum_deviation")
        require_minimum(self.checkpoint_every_s, 0.0, "checkpoint_every_s")
        require_minimum(self.log_every, 1, "log_every")


@dataclass(kw_only=True)
class ProfileConfig(TrainConfig):
    """`robot-rl profile`: a little of a run, with the settings of the whole."""

    phase: str | None = None  # the one that is measured; None measures each
    seconds: float = 5.0  # about so long a phase
    operators: int = 8  # largest operations that are listed
    trace: str | None = None  # a JSON file for perfetto or chrome://tracing

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(self.seconds, 0.01, 3600.0, "seconds")
        require_minimum(self.operators, 0, "operators")


@dataclass(kw_only=True)
class EvaluateConfig:
    """`robot-rl evaluate RUN`: episodes of a policy in an environment, optionally recorded."""

    run: str | None = None  # a run's folder or one of its checkpoints
    policy: str = "checkpoint"  # checkpoint | expert (scripted) | random
    environment: Any = None  # None takes the run's
    episodes: int = 20
    seed: int = 2_000_000
    device: str = "cpu"
    threads: int = 1
    explore: bool = False  # sample from the policy instead of taking its mode
    algorithm: dict[str, Any] = field(default_factory=dict)
    """Settings of the policy's algorithm that change no network, such as {risk_level: 0.25, risk_candidates: 64}."""
    expert_noise: float = 0.0  # deviation of Gaussian noise on a scripted expert's normalised action
    record: str | None = None  # a store to write, or a file ending in .hdf5 (robomimic layout)
    videos: int = 0
    output: str | None = None  # folder of videos and `evaluation.json`; None writes into the run, or nothing

    def __post_init__(self) -> None:
        require_choice(self.policy, ("checkpoint", "expert", "random"), "policy")
        require_minimum(self.episodes, 1, "episodes")
        require_minimum(self.threads, 1, "threads")
        require_minimum(self.videos, 0, "videos")


@dataclass(kw_only=True)
class IdentifyConfig:
    """`robot-rl identify DATA`: what of a simulator has to change so that it moves as the robot of a log did."""

    data: str = MISSING  # a store of the robot
    environment: Any = None  # the simulator of it
    parameters: list[str] = field(default_factory=lambda: list(IDENTIFIED))
    """Names of `environment.gap` to find: gear, damping, coulomb, armature, mass, contact_friction, gravity,
    motor_pole, action_delay_s. What the motion does not say is left as the simulator has it."""
    maximum_delay_s: float = 0.1  # longest time from command to motion that is looked for
    horizon: int = 5  # control periods that the simulator runs on its own between two logged states
    steps: int = 2000  # of the log that are fitted, about; a quarter of the log is held out besides
    maximum_episodes: int | None = None
    output: str | None = None  # folder of what is found; None is `<store>_identified` beside the store

    def __post_init__(self) -> None:
        for name in self.parameters:
            require_choice(name, (*IDENTIFIED, "gravity"), "parameters")
        if not self.parameters:
            raise InputError("parameters=[]: name at least one")
        require_range(self.maximum_delay_s, 0.0, 1.0, "maximum_delay_s")
        require_range(self.horizon, 1, 1000, "horizon")
        require_minimum(self.steps, 100, "steps")
        if self.maximum_episodes is not None:
            require_minimum(self.maximum_episodes, 1, "maximum_episodes")


@dataclass(kw_only=True)
class DoctorConfig:
    """`robot-rl doctor`: what this machine has, and the line that installs what is missing."""

    strict: bool = False  # exit with 1 when something needed is missing


ENVIRONMENT_CONFIGS: dict[str, type] = {
    "gymnasium": GymnasiumEnvironmentConfig,
    "dm_control": DmControlEnvironmentConfig,
    "robosuite": RobosuiteEnvironmentConfig,
    "ros2": Ros2EnvironmentConfig,
}


VERB_CONFIGS: dict[str, type] = {
    "ingest": IngestConfig,
    "inspect": InspectConfig,
    "view": ViewConfig,
    "advise": AdviseConfig,
    "edit": EditConfig,
    "export": ExportConfig,
    "train": TrainConfig,
    "profile": ProfileConfig,
    "pretrain-video": PretrainVideoConfig,
    "label": LabelConfig,
    "evaluate": EvaluateConfig,
    "identify": IdentifyConfig,
    "serve": ServeConfig,
    "distill": DistillConfig,
    "deploy": DeployConfig,
    "benchmark": BenchmarkConfig,
    "doctor": DoctorConfig,
}


@cache
def register() -> None:
    """Put the schemas, once, where Hydra finds them: `<verb>_schema`, and the `<kind>_schema` of each group."""
    store = ConfigStore.instance()
    for verb, node in VERB_CONFIGS.items():
        store.store(name=f"{verb}_schema", node=node)
    for kind, node in ENVIRONMENT_CONFIGS.items():
        store.store(group="environment", name=f"{kind}_schema", node=node)
    for kind, node in ALGORITHM_CONFIGS.items():
        store.store(group="algorithm", name=f"{kind}_schema", node=node)
    for kind, node in OBJECTIVE_CONFIGS.items():
        store.store(group="objective", name=f"{kind}_schema", node=node)
    for kind, node in LABEL_CONFIGS.items():
        store.store(group="label", name=f"{kind}_schema", node=node)
