"""Settings of `robot-rl benchmark`: a suite is algorithms x tasks x seeds, and recipes of the data that they need.

Every run is a `robot-rl train`: what a suite says of it are words of that command line.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from robot_rl.checks import require_choice, require_minimum
from robot_rl.errors import InputError, nearest
from robot_rl.sim_config import PROXIES

ATTACKER = "{attacker}"


@dataclass(kw_only=True)
class PartConfig:
    """Episodes of one policy, as a part of a data set."""

    policy: str = MISSING  # random | expert (scripted) | a name of the suite's `policies`
    episodes: int = 0  # 0 with `replay` takes all
    replay: bool = False  # the first episodes that the policy saw while it was trained, in place of new ones
    explore: bool = True  # sample from a trained policy; its mode where false
    noise: float = 0.0  # deviation of Gaussian noise on a scripted expert's normalised action

    def __post_init__(self) -> None:
        require_minimum(self.episodes, 0 if self.replay else 1, f"episodes of policy {self.policy}")


@dataclass(kw_only=True)
class RecipeConfig:
    """How a data set is made: from policies, or from a recording."""

    parts: list[PartConfig] = field(default_factory=list)
    ingest: list[str] = field(default_factory=list)
    """Words of `robot-rl ingest` without the store: a recording, and settings."""
    seed: int = 200  # of the episodes and of the policies' noise

    def __post_init__(self) -> None:
        if bool(self.parts) == bool(self.ingest):
            raise InputError("a suite's recipe of data needs either `parts` or `ingest`, and not both")


@dataclass(kw_only=True)
class BenchmarkTaskConfig:
    """An environment, the data that learning begins with, and the scale of its score."""

    environment: list[str] = MISSING  # words that choose it, such as environment=lift
    data: str = MISSING  # a name of the suite's `data`
    train: list[str] = field(default_factory=list)  # further words of every run of the task
    settings: dict[str, list[str]] = field(default_factory=dict)  # and of those of one algorithm
    control: str | None = None
    """The task without what this one adds, such as corrupted data: the tables say what is kept of its score."""
    kind: str = ""  # of what it adds: tasks of one kind are averaged too
    proxy: str | None = None
    """A robot by proxy, such as `std_B`: data is recorded on it, policies are evaluated on it, and the phases after the
    switch act on it, while what comes before acts in the simulator. None, and no `gap`: the simulator is the robot."""
    gap: dict[str, float] = field(default_factory=dict)
    """How the robot differs from `environment`, by names of `environment.gap`, beside or in place of a proxy."""
    simulator: list[str] = field(default_factory=list)
    """Words of the simulator alone, such as environment.gap.gravity=2: how it differs from `environment`."""
    identity: bool = False  # robot and simulator are as good as the same: what hybrid learners lose there
    algorithms: list[str] = field(default_factory=list)  # of the suite that are run on it; none given: all
    offline_steps: int | None = None  # in place of the suite's
    online_steps: int | None = None
    random: float | None = None
    """Score of uniform actions: 0 of the normalised score; `only=anchors` measures it. None: it is measured, once,
    before the runs, and so is the reference."""
    reference: float | None = None  # score that is 1 of the normalised one
    reference_policy: str | None = None
    """Whose score that is: `expert`, or a name of the suite's `policies`; None: it is not measured, such as a success
    rate of 1, or a published number."""

    @property
    def transfers(self) -> bool:
        """Whether the robot is another than the simulator."""
        return self.proxy is not None or bool(self.gap)


@dataclass(kw_only=True)
class BenchmarkAlgorithmConfig:
    """Words of `robot-rl train` that make an algorithm of the table."""

    train: list[str] = MISSING
    before: list[str] = field(default_factory=list)
    """Words of a run that is all that comes before the switch, in the simulator and without the robot's data: made once
    for all tasks of one simulator and seed, and where the runs of `train` start from. None given: each run does it."""
    identify: list[str] | None = None
    """Words of `robot-rl identify`: the runs act in the simulator that it finds from the task's data, with the ranges
    that it finds."""


@dataclass(kw_only=True)
class GatesConfig:
    """Algorithms that a table of transfer is judged by; `benchmark_gates.py` has the gates."""

    hybrids: list[str] = field(default_factory=list)  # that have to gain by the simulator; none: there are no gates
    randomized: str = ""  # trained on random robots
    offline: str = ""  # from the robot's data alone


@dataclass(kw_only=True)
class SuiteConfig:
    """Algorithms x tasks x seeds. A run has three phases: offline, warmup (a frozen policy acts), online."""

    name: str = ""
    tasks: dict[str, BenchmarkTaskConfig] = field(default_factory=dict)
    algorithms: dict[str, BenchmarkAlgorithmConfig] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    explore_steps: int = 0  # uniform actions in the simulator before everything, for what learns in it
    offline_steps: int = 5000  # updates from the data alone
    warmup_steps: int = 500  # environment steps before the first online update
    online_steps: int = 5000  # environment steps in all, with those of the warm-up
    evaluate_at: list[int] = field(default_factory=list)  # environment steps since the switch; the last is always there
    batch_size: int = 256
    zero_shot: str | None = None
    """The algorithm that never saw the robot, whose score before the switch is 0 of the gap that others close."""
    gates: GatesConfig = field(default_factory=GatesConfig)
    hidden: list[int] = field(default_factory=lambda: [256, 256])  # what ${suite.hidden} in the words below stands for
    judges_warm_up: int = 2000  # what ${suite.judges_warm_up} in them stands for, of hybrid learners
    updates_per_step: float = 1.0  # online
    train: list[str] = field(default_factory=list)  # further words of every run
    policies: dict[str, list[str]] = field(default_factory=dict)
    """Policies that data and references come from: words of `robot-rl train` that train each."""
    policy_train: list[str] = field(default_factory=list)  # further words for all of them, before their own
    data: dict[str, RecipeConfig] = field(default_factory=dict)
    attackers: dict[str, list[str]] = field(default_factory=dict)
    """By data set: words of `robot-rl train` that train critics from it, which then corrupt it. In the words of a task
    `{attacker}` stands for the folder of that run, as in datasets.offline.corruption.attacker."""
    anchor_episodes: int = 100  # for each score of `only=anchors`
    dip_window_steps: int = 2000  # environment steps after the switch in which the dip is sought

    @property
    def cells(self) -> list[str]:
        """Tasks that say what a simulator is worth to a robot: the two differ, and zero-shot is run."""
        return [
            name
            for name, task in self.tasks.items()
            if task.transfers
            and not task.identity
            and task.control is None
            and (not task.algorithms or self.zero_shot in task.algorithms)
        ]

    def __post_init__(self) -> None:
        require_minimum(self.offline_steps, 0, "suite.offline_steps")
        require_minimum(self.explore_steps, 0, "suite.explore_steps")
        if self.zero_shot is not None and self.zero_shot not in self.algorithms:
            raise InputError(f"suite.zero_shot={self.zero_shot}: {nearest(self.zero_shot, self.algorithms)}")
        if self.gates.hybrids:
            for algorithm in (*self.gates.hybrids, self.gates.randomized, self.gates.offline):
                if algorithm not in self.algorithms:
                    raise InputError(f"suite.gates names '{algorithm}': {nearest(algorithm, self.algorithms)}")
        require_minimum(self.warmup_steps, 1, "suite.warmup_steps")
        require_minimum(self.online_steps, self.warmup_steps + 1, "suite.online_steps")
        require_minimum(self.anchor_episodes, 1, "suite.anchor_episodes")
        for name, task in self.tasks.items():
            if task.data not in self.data:
                raise InputError(f"suite.tasks.{name}.data={task.data}: {nearest(task.data, self.data)}")
            for algorithm in task.settings:
                if algorithm not in self.algorithms:
                    place = f"suite.tasks.{name}.settings.{algorithm}"
                    raise InputError(f"{place}: {nearest(algorithm, self.algorithms)}")
            for algorithm in task.algorithms:
                if algorithm not in self.algorithms:
                    raise InputError(f"suite.tasks.{name}.algorithms: {nearest(algorithm, self.algorithms)}")
            if task.online_steps is not None:
                require_minimum(task.online_steps, self.warmup_steps + 1, f"suite.tasks.{name}.online_steps")
            if task.simulator and not task.transfers:
                raise InputError(f"suite.tasks.{name}.simulator: only a task with a robot, proxy or gap, has one apart")
            if task.reference_policy is not None:
                self._check_policy(task.reference_policy, f"suite.tasks.{name}.reference_policy")
            self._check_control(name, task)
            self._check_scale(name, task)
            if task.proxy is not None:
                require_choice(task.proxy, PROXIES, f"suite.tasks.{name}.proxy")
        for name, recipe in self.data.items():
            for part in recipe.parts:
                self._check_policy(part.policy, f"suite.data.{name}")
                if part.replay and part.policy not in self.policies:
                    raise InputError(f"suite.data.{name}: only a trained policy has a replay buffer, {part.policy} not")

    def _check_scale(self, name: str, task: BenchmarkTaskConfig) -> None:
        if task.random is None or task.reference is None:
            if task.reference_policy is None or (task.random is None) != (task.reference is None):
                raise InputError(
                    f"suite.tasks.{name}: give random and reference, or neither and a reference_policy whose score is 1"
                )
        elif task.reference <= task.random:
            raise InputError(
                f"suite.tasks.{name}: reference={task.reference} must be above random={task.random}; "
                "`robot-rl benchmark suite=... only=anchors` measures both"
            )

    def _check_control(self, name: str, task: BenchmarkTaskConfig) -> None:
        if ATTACKER in "".join(task.train) and task.data not in self.attackers:
            raise InputError(f"suite.tasks.{name} has {ATTACKER}, but there are no suite.attackers.{task.data}")
        if task.control is not None:
            place = f"suite.tasks.{name}.control={task.control}"
            if task.control not in self.tasks:
                raise InputError(f"{place}: {nearest(task.control, self.tasks)}")
            control = self.tasks[task.control]
            if control.control is not None or (control.random, control.reference) != (task.random, task.reference):
                raise InputError(f"{place}: a control has no control of its own, and the same random and reference")

    def _check_policy(self, policy: str, place: str) -> None:
        if policy not in {"random", "expert", *self.policies}:
            raise InputError(
                f"{place} names policy '{policy}': {nearest(policy, ['random', 'expert', *self.policies])}"
            )


@dataclass(kw_only=True)
class BenchmarkConfig:
    """`robot-rl benchmark suite=NAME`: what is finished is not run again, what was interrupted goes on."""

    suite: SuiteConfig = field(default_factory=SuiteConfig)
    output: str = "runs/benchmark"  # data, runs, results and tables, each in a folder of the suite's name
    algorithms: list[str] = field(default_factory=list)  # none given: all of the suite
    tasks: list[str] = field(default_factory=list)  # none given: all of the suite
    seeds: list[int] = field(default_factory=list)  # none given: the suite's
    settings: list[str] = field(default_factory=list)
    """Further words of every `robot-rl train`, quoted: "settings=['device=cuda']". They make other runs than without
    them, so give them an output of their own."""
    workers: int = 1  # runs at the same time, each with one torch thread
    engine: str = "processes"
    """`processes` of this machine, or `ray`: a cluster at RAY_ADDRESS, or one of this machine's cores."""
    only: str = ""
    """Empty: make the data, run, write the tables. `data`: make the data and stop. `anchors`: measure the random and
    the reference policy of each task. `tables`: write the tables of the results that are there."""
    resamples: int = 2000  # of the bootstrap behind each interval

    def __post_init__(self) -> None:
        require_minimum(self.workers, 1, "workers")
        require_choice(self.engine, ("processes", "ray"), "engine")
        require_choice(self.only, ("", "data", "anchors", "tables"), "only")
        require_minimum(self.resamples, 1, "resamples")
