"""Configuration of `robot-rl serve` and `robot-rl distill`; `robot_rl/config.py` registers them."""

from dataclasses import dataclass, field
from typing import Any

from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.errors import InputError

SELECTORS = ("margin", "argmax", "softmax", "uncertainty", "advantage")
REDUCTIONS = ("min", "mean", "weighted_min_pair")
REFERENCES = ("policy", "recorded")
METHODS = ("best_of_n", "consistency")


@dataclass(kw_only=True)
class SelectionConfig:
    """Which candidate is executed."""

    rule: str = "margin"
    """margin: the best, if it beats the policy's own action by more than `margin` | argmax: the best | softmax: drawn
    by exp(value / temperature) | uncertainty: the best of mean - penalty * deviation over the critics, if it beats by
    `margin` | advantage: drawn by IDQL's weights."""
    reduction: str = "min"  # one value from those of the critics: min | mean | weighted_min_pair
    margin: float = 0.0  # in units of the return
    temperature: float = 1.0
    penalty: float = 1.0
    expectile: float = 0.9

    def __post_init__(self) -> None:
        require_choice(self.rule, SELECTORS, "selection.rule")
        require_choice(self.reduction, REDUCTIONS, "selection.reduction")
        for name in ("margin", "temperature", "penalty"):
            require_range(vars(self)[name], 0, 1e8, f"selection.{name}")
        require_range(self.expectile, 1e-6, 1 - 1e-6, "selection.expectile")


@dataclass(kw_only=True)
class PolicyConfig:
    """A policy of somebody else; its actions are declared to be those of the critic's run."""

    chunk: int | None = None  # steps of a chunk that it answers; None: as many as the critic judges
    key_file: str | None = None  # its first line is sent: openpi `Authorization: Api-Key ...`, GR00T `api_token`
    keys: dict[str, Any] = field(default_factory=dict)
    """Name that the policy knows an observation by -> name in clients' messages, such as {image: observation/image};
    nothing else is sent. {}: whole messages, under their own names."""
    unnorm_key: str | None = None  # OpenVLA, Octo: the data set whose statistics its actions are un-normalised by
    encoded: bool = False  # OpenVLA, OFT: JSON inside a JSON string, for servers without json_numpy's patch
    actions: list[str] = field(default_factory=list)  # GR00T: names of its actions, in the order of the critic's
    language: str | None = "annotation.human.task_description"  # GR00T: name of the instruction; None: it takes none
    kind: str = ""  # LeRobot's server: such as smolvla
    path: str = ""  # LeRobot's server: folder of the policy, on its machine
    features: dict[str, Any] = field(default_factory=dict)
    """LeRobot's server: of the observations, such as {observation.state: {dtype: float32, shape: [6], names: [..]}}."""
    renamed: dict[str, Any] = field(default_factory=dict)  # LeRobot's server: name of an observation -> the policy's
    device: str = "cpu"  # of LeRobot's server
    allow_pickle: bool = False  # LeRobot's server unpickles what anybody on its machine sends it: say that you know
    repeats: int | None = None  # equal answers in a row to different observations; None: as the protocol's policies do

    def __post_init__(self) -> None:
        if self.chunk is not None:
            require_minimum(self.chunk, 1, "policy.chunk")
        if self.repeats is not None:
            require_minimum(self.repeats, 0, "policy.repeats")
        for group in ("keys", "renamed"):
            for name, given in vars(self)[group].items():
                if not isinstance(given, str) or not given:
                    raise InputError(f"policy.{group}.{name}={given!r} must be a name")


@dataclass(kw_only=True)
class ServeConfig:
    """`robot-rl serve RUN`: a policy, or a steered one, behind openpi's websocket protocol."""

    run: str | None = None
    """The policy: a run's folder or one of its checkpoints; or, steered, one of somebody else: ws://HOST:PORT (openpi),
    openvla+http://.., openvla-oft+http://.., octo+http://.., groot+tcp://.., lerobot+grpc://127.0.0.1:8080,
    lerobot:FOLDER, octo:FOLDER."""
    explore: bool = False  # the policy samples instead of taking its mode
    keys: dict[str, Any] = field(default_factory=dict)
    """Name of an observation -> name in the clients' messages, such as {state: observation/state}; those not named
    keep their own."""

    # Steering
    steer: str | None = None  # the critic: a run's folder or one of its checkpoints; None: the policy alone
    candidates: int = 16  # actions of which the critic chooses; the first is the policy's own
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    score_steps: int | None = None  # steps of a chunk that a critic of shorter chunks judges
    perturbed: int = 0  # of the candidates, so many are drawn around the policy's samples
    deviation: float = 0.1  # of perturbations, in [-1, 1]
    discrete: list[int] = field(default_factory=list)  # dimensions of the action without noise, such as a gripper
    narrowest: float = 0.5  # least share of the critic's range of actions that the policy's spans; less is another unit
    deadline_s: float | None = None  # later, the policy's own action is sent; None waits
    log: str | None = None  # a file of JSON lines, one a decision

    policy: PolicyConfig = field(default_factory=PolicyConfig)  # somebody else's

    # Network
    host: str = "127.0.0.1"  # others than loopback demand a key
    port: int = 8000  # 0 takes a free one
    key_file: str | None = None  # its first line is what clients send as `Authorization: Api-Key ...`
    message_mib: float = 32.0  # largest message
    connections: int = 32
    batch: int = 16  # requests that the policy answers at once
    batch_wait_s: float = 0.0  # waiting for more of them, where there is more than one client
    answer_s: float = 30.0  # longer, and the policy counts as stuck
    send_s: float = 10.0  # for a client to take its answer

    seed: int = 0  # of samples and draws
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name, given in self.keys.items():
            if not isinstance(given, str) or not given:
                raise InputError(f"keys.{name}={given!r} must be a name")
        require_range(self.candidates, 1, 10_000, "candidates")
        require_range(self.perturbed, 0, self.candidates - 1, "perturbed")
        require_range(self.deviation, 1e-6, 2, "deviation")
        require_range(self.narrowest, 0, 1, "narrowest")
        if self.deadline_s is not None:
            require_range(self.deadline_s, 1e-4, 3600, "deadline_s")
        if self.score_steps is not None:
            require_minimum(self.score_steps, 1, "score_steps")
        require_range(self.port, 0, 65535, "port")
        require_minimum(self.threads, 1, "threads")


@dataclass(kw_only=True)
class DistillConfig:
    """`robot-rl distill RUN`: what a critic would choose, put back into a policy."""

    run: str | None = None  # the policy: a run of behaviour cloning, its folder or one of its checkpoints
    critic: str | None = None  # who judges: a run's folder or one of its checkpoints
    data: str | None = None  # a store: its states, and its actions as the first candidates
    output: str | None = None  # a new folder, which `evaluate`, `serve` and `export` open as they open a run's
    method: str = "best_of_n"
    """best_of_n: the best of a policy's own actions is cloned (Digi-Q) | consistency: the head of a run of algorithm=bc
    algorithm.policy=consistency is tuned by cloning and by the critic, on an encoder that stays as it is (ConRFT)."""
    cloning_weight: float = 1.0  # consistency: of the recorded actions; ConRFT has 1 offline, 0.1 online
    value_weight: float = 0.1  # consistency: of the critic's mean; ConRFT has 0 or 0.1 offline, 1 online
    learning_rate: float = 3e-4  # consistency: of the head
    states: int = 20_000  # of the data set, at random, that are learned from
    candidates: int = 64  # kept of each state; the first is the recorded action, the others the policy's samples
    drawn: int = 16  # of them, in each step
    threshold: float = 0.05  # of the advantage, in units of the return: below it nothing is cloned
    reference: str = "policy"  # what the best has to beat: policy, the mean of its candidates | recorded, the action
    reduction: str = "min"  # one value from those of the critics: min | mean | weighted_min_pair
    steps: int = 5000
    batch_size: int = 256
    seed: int = 0
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        require_choice(self.method, METHODS, "method")
        for name in ("cloning_weight", "value_weight"):
            require_range(vars(self)[name], 0, 1e8, name)
        require_range(self.learning_rate, 0, 1, "learning_rate")
        if self.cloning_weight == self.value_weight == 0:
            raise InputError("cloning_weight=0 and value_weight=0 teach nothing: set one of them")
        require_range(self.candidates, 2, 10_000, "candidates")
        require_range(self.drawn, 1, self.candidates, "drawn")
        require_range(self.threshold, -1e8, 1e8, "threshold")
        require_choice(self.reference, REFERENCES, "reference")
        require_choice(self.reduction, REDUCTIONS, "reduction")
        for name in ("states", "steps", "batch_size", "threads"):
            require_minimum(vars(self)[name], 1, name)
