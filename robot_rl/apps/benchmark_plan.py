"""From a suite to the command lines of its runs, and to what names them: hashes of everything that changes a number."""

import json
from collections.abc import Collection, Iterable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from robot_rl.apps.compose import as_override, compose
from robot_rl.benchmark_config import ATTACKER, BenchmarkConfig, BenchmarkTaskConfig, RecipeConfig
from robot_rl.checks import short_hash
from robot_rl.config import TrainConfig
from robot_rl.errors import InputError, nearest
from robot_rl.sim.gap import whole

EXPLORE = "explore"
"""The phase of uniform actions before everything; what is measured at its end is of an untrained policy."""
SWITCH = ("warmup", "online")
"""The phases after the switch; what was measured before the last of them is the offline score."""


@dataclass(frozen=True, kw_only=True)
class PlannedPolicy:
    """A policy that data comes from."""

    name: str
    words: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class PlannedIdentification:
    """A simulator fitted to a data set."""

    name: str
    words: tuple[str, ...]  # of `robot-rl identify`
    folder: Path  # that it writes


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of the table."""

    suite: str
    task: str
    algorithm: str
    seed: int
    words: tuple[str, ...]  # of `robot-rl train`, behind `robot-rl`
    folder: Path  # that it writes
    result: Path  # the file that is left of it
    hash: str  # of its settings and of the recipe of its data; two runs with one hash differ in nothing
    begins: PlannedPolicy | None = None  # the run that it starts from
    identified: PlannedIdentification | None = None  # what its simulator is fitted by

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.task} {self.algorithm} seed {self.seed}"


class Plan:
    """What a benchmark would do. Making it checks every word of the suite, before anything runs.

    Args:
        config: of the benchmark.

    Raises:
        InputError: a task, algorithm or word that does not exist.
    """

    def __init__(self, config: BenchmarkConfig) -> None:
        suite = config.suite
        if not suite.tasks or not suite.algorithms:
            raise InputError("which suite? suite=NAME, a file of configs/suite; `robot-rl benchmark --help` lists them")
        self.config, self.suite = config, suite
        self.tasks = _chosen(config.tasks, suite.tasks, "tasks")
        self.algorithms = _chosen(config.algorithms, suite.algorithms, "algorithms")
        self.seeds = config.seeds if config.seeds else suite.seeds
        self.folder = Path(config.output).expanduser()
        self._composed: dict[tuple[str, str], TrainConfig] = {}
        self._shared: dict[str, TrainConfig] = {}
        self._attackers: dict[str, PlannedPolicy] = {}
        self._hashes: dict[str, str] = {}

    @cached_property
    def runs(self) -> list[PlannedRun]:
        """Seed by seed, so that a table of what is finished compares the same seeds."""
        return [
            self._run(task, algorithm, seed)
            for seed in self.seeds
            for task in self.tasks
            for algorithm in self.algorithms_of(task)
        ]

    def algorithms_of(self, task: str) -> list[str]:
        """The chosen algorithms that are run on a task."""
        wanted = self.suite.tasks[task].algorithms
        return [algorithm for algorithm in self.algorithms if not wanted or algorithm in wanted]

    def _run(self, task: str, algorithm: str, seed: int) -> PlannedRun:
        suite, data = self.suite, self.suite.tasks[task].data
        inside = Path(suite.name) / task / algorithm / f"seed_{seed}"
        folder = self.folder / "runs" / inside
        begins = self._before(task, algorithm, seed)
        identified = self._identification(task, algorithm)
        words = [
            *suite.tasks[task].environment,
            *suite.tasks[task].simulator,
            as_override("+datasets.offline.path", str(self.store(data))),
            *self._phases(task, begun=begins is not None),
            *suite.train,
            *self._task_words(task),
            *suite.algorithms[algorithm].train,
            *suite.tasks[task].settings.get(algorithm, []),
            *self.config.settings,
        ]
        if (task, algorithm) not in self._composed:
            self._composed[task, algorithm] = compose("train", words)
        attacked = self.attacker(data).folder.name if self.is_attacked(task) else ""
        made = "".join(each.folder.name for each in (begins, identified) if each is not None)
        digest = settings_hash(
            replace(self._composed[task, algorithm], seed=seed), data=self.data_hash(data) + attacked + made
        )
        if begins is not None:
            words.append(as_override("start_from", str(begins.folder)))
        named = [as_override("name", f"{suite.name}_{task}_{algorithm}"), as_override("output", str(folder))]
        return PlannedRun(
            suite=suite.name,
            task=task,
            algorithm=algorithm,
            seed=seed,
            words=("train", *words, f"seed={seed}", *named),
            folder=folder,
            result=(self.results / task / algorithm / f"seed_{seed}").with_suffix(".json"),
            hash=digest,
            begins=begins,
            identified=identified,
        )

    def _before(self, task: str, algorithm: str, seed: int) -> PlannedPolicy | None:
        """The run that comes before the switch, where tasks share it."""
        suite, chosen = self.suite, self.suite.tasks[task]
        if not suite.algorithms[algorithm].before:
            return None
        words = [
            *chosen.environment,
            *chosen.simulator,
            *self._before_the_switch(task),
            *suite.train,
            *chosen.train,
            *suite.algorithms[algorithm].before,
            *chosen.settings.get(algorithm, []),
            *self.config.settings,
        ]
        key = short_hash(words)
        if key not in self._shared:
            self._shared[key] = compose("train", words)
        digest = settings_hash(replace(self._shared[key], seed=seed))
        folder = self.folder / "policies" / f"{algorithm}_seed_{seed}_{digest}"
        named = [as_override("name", algorithm), as_override("output", str(folder))]
        name = f"{algorithm} seed {seed}"
        return PlannedPolicy(name=name, words=("train", *words, f"seed={seed}", *named), folder=folder)

    def _identification(self, task: str, algorithm: str) -> PlannedIdentification | None:
        """What fits the simulator of a task to its data, where the algorithm wants it."""
        settings = self.suite.algorithms[algorithm].identify
        if settings is None:
            return None
        chosen = self.suite.tasks[task]
        environment = [*chosen.environment, *chosen.simulator]
        digest = short_hash({"data": self.data_hash(chosen.data), "environment": environment, "settings": settings})
        folder = self.folder / "identified" / f"{chosen.data}_{digest}"
        words = ("identify", str(self.store(chosen.data)), *environment, *settings, as_override("output", str(folder)))
        return PlannedIdentification(name=f"identification of {chosen.data}", words=words, folder=folder)

    def _task_words(self, task: str) -> list[str]:
        chosen = self.suite.tasks[task]
        if not self.is_attacked(task):
            return chosen.train
        folder = str(self.attacker(chosen.data).folder)
        return [word.replace(ATTACKER, folder) for word in chosen.train]

    def _phases(self, task: str, *, begun: bool) -> list[str]:
        """Words of the phases of a run; one that begins where another ended has no steps before the switch."""
        suite, chosen = self.suite, self.suite.tasks[task]
        robot = ", robot: true" if chosen.transfers else ""
        before = [] if chosen.proxy is None else [as_override("evaluation.proxy", chosen.proxy)]
        before += _gap(chosen, "evaluation")
        warmup, batch = suite.warmup_steps, f"batch_size: {suite.batch_size}"
        steps = suite.online_steps if chosen.online_steps is None else chosen.online_steps
        inside = sorted({step - warmup for step in suite.evaluate_at if warmup < step < steps})
        online = f"steps: {steps - warmup}, {batch}, updates_per_step: {suite.updates_per_step}"
        return [
            *before,
            *([f"+phases.offline={{steps: 0, {batch}}}"] if begun else self._before_the_switch(task)),
            f"+phases.warmup={{interact: policy, steps: {warmup}, updates_per_step: 0{robot}}}",
            f"+phases.online={{interact: policy, {online}, evaluate_at: [{','.join(map(str, inside))}]{robot}}}",
        ]

    def _before_the_switch(self, task: str) -> list[str]:
        suite, chosen = self.suite, self.suite.tasks[task]
        steps = suite.offline_steps if chosen.offline_steps is None else chosen.offline_steps
        explore = f"+phases.explore={{interact: random, steps: {suite.explore_steps}, updates_per_step: 0}}"
        return [
            *([explore] if suite.explore_steps else []),
            f"+phases.offline={{steps: {steps}, batch_size: {suite.batch_size}}}",
        ]

    @property
    def results(self) -> Path:
        """Of the suite: the folder from which its tables are made."""
        return self.folder / "results" / self.suite.name

    # Data -------------------------------------------------------------------------------------------------------------

    def environment(self, data: str) -> list[str]:
        """Words that choose the environment in which a data set is recorded: that of the first task that needs it."""
        return next(self.robot(name) for name, task in self.suite.tasks.items() if task.data == data)

    def robot(self, task: str) -> list[str]:
        """Words that choose where the policies of a task are evaluated: its robot, or the environment itself."""
        chosen = self.suite.tasks[task]
        proxy = [] if chosen.proxy is None else [as_override("environment.proxy", chosen.proxy)]
        return [*chosen.environment, *proxy, *_gap(chosen, "environment")]

    def anchor(self, task: str, kind: str) -> Path:
        """The folder in which the random (or reference) score of a task is measured.

        Args:
            task: of the suite.
            kind: `random` or `reference`.
        """
        policy = self.suite.tasks[task].reference_policy if kind == "reference" else "random"
        name = self.policy(policy).folder.name if policy in self.suite.policies and policy is not None else str(policy)
        described = {"environment": self.robot(task), "episodes": self.suite.anchor_episodes, "policy": name}
        return self.folder / "anchors" / self.suite.name / task / f"{kind}_{short_hash(described)}"

    def policy(self, name: str) -> PlannedPolicy:
        """A policy of the suite."""
        words = [*self.suite.policy_train, *self.suite.policies[name]]
        digest = settings_hash(compose("train", words))
        folder = self.folder / "policies" / f"{name}_{digest}"
        named = [as_override("name", name), as_override("output", str(folder))]
        return PlannedPolicy(name=name, words=("train", *words, *named), folder=folder)

    def is_attacked(self, task: str) -> bool:
        """Whether critics corrupt the data of a task."""
        return any(ATTACKER in word for word in self.suite.tasks[task].train)

    def attacker(self, data: str) -> PlannedPolicy:
        """The run whose critics corrupt a data set."""
        if data not in self._attackers:
            words = [as_override("+datasets.offline.path", str(self.store(data))), *self.suite.attackers[data]]
            digest = settings_hash(compose("train", words), data=self.data_hash(data))
            folder = self.folder / "policies" / f"attacker_{data}_{digest}"
            words += [as_override("name", f"attacker_{data}"), as_override("output", str(folder))]
            attacker = PlannedPolicy(name=f"attacker of {data}", words=("train", *words), folder=folder)
            self._attackers[data] = attacker
        return self._attackers[data]

    @property
    def attackers(self) -> list[PlannedPolicy]:
        """Those that the chosen tasks need."""
        return [
            self.attacker(data)
            for data in dict.fromkeys(self.suite.tasks[t].data for t in self.tasks if self.is_attacked(t))
        ]

    def policies(self, names: Iterable[str]) -> list[PlannedPolicy]:
        """Those among `names` that are trained."""
        return [self.policy(name) for name in dict.fromkeys(names) if name in self.suite.policies]

    def data_hash(self, data: str) -> str:
        """Of a recipe, with the training of the policies in it and with the environment."""
        if data not in self._hashes:
            recipe = self.suite.data[data]
            trained = {policy.name: policy.folder.name for policy in self.policies(p.policy for p in recipe.parts)}
            described = {"recipe": asdict(recipe), "policies": trained, "environment": self.environment(data)}
            self._hashes[data] = short_hash(described)
        return self._hashes[data]

    def store(self, data: str) -> Path:
        """Where the store of a recipe is, or will be; one whose recipe changes gets another name."""
        return self.folder / "data" / f"{data}_{self.data_hash(data)}.zarr"

    @property
    def data(self) -> dict[str, RecipeConfig]:
        """Recipes that the chosen tasks need."""
        needed = dict.fromkeys(self.suite.tasks[task].data for task in self.tasks)
        return {name: self.suite.data[name] for name in needed}


def _gap(task: BenchmarkTaskConfig, place: str) -> list[str]:
    return [f"{place}.gap.{name}={whole(value)}" for name, value in task.gap.items()]


def settings_hash(config: TrainConfig, data: str = "") -> str:
    """SHA-256 of the settings of a run that are not defaults, 12 digits; where it writes and reads is left out.

    Without the defaults, a setting that a later version adds leaves the hash as it is; a default that a later version
    changes does too, so results name the commit besides.

    Args:
        config: of the run.
        data: hash of the recipe of its data.
    """
    settings = _not_default(config)
    for name in ("name", "output", "resume", "start_from"):
        settings.pop(name, None)
    for dataset in settings.get("datasets", {}).values():
        dataset.pop("path")
        dataset.get("corruption", {}).pop("attacker", None)
    return short_hash({"settings": settings, "data": data})


def _not_default(value: Any) -> Any:
    """Plain JSON of a configuration without what is as its dataclass has it; dataclasses say which they are."""
    if is_dataclass(value) and not isinstance(value, type):
        kept: dict[str, Any] = {"": type(value).__name__}
        for item in fields(value):
            now = getattr(value, item.name)
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            if now != default:
                kept[item.name] = _not_default(now)
        return kept
    if isinstance(value, dict):
        return {str(key): _not_default(inner) for key, inner in value.items()}
    return value


def _chosen(wanted: list[str], known: Collection[str], key: str) -> list[str]:
    for name in wanted:
        if name not in known:
            raise InputError(f"{key} names '{name}': {nearest(name, known)}")
    return [name for name in known if not wanted or name in wanted]


def anchors(plan: Plan, task: str) -> dict[str, Any]:
    """The scale of a task's score, as it goes into each result: the suite's, or what was measured.

    Raises:
        InputError: it was not measured yet, or the reference is no better than the random policy.
    """
    chosen = plan.suite.tasks[task]
    scale = {"random": chosen.random, "reference": chosen.reference}
    for kind, score in scale.items():
        if score is None:
            path = plan.anchor(task, kind) / "evaluation.json"
            if not path.exists():
                raise InputError(f"the {kind} score of {task} is not measured yet: run the suite, or only=anchors")
            scale[kind] = score_of(path)
    low, high = scale["random"], scale["reference"]
    if low is None or high is None or high <= low:
        raise InputError(
            f"suite.tasks.{task}: the reference scores {high}, the random policy {low}, so there is no scale between: "
            "train suite.policies." + f"{chosen.reference_policy} for longer"
        )
    return {**scale, "reference_policy": chosen.reference_policy}


def score_of(path: Path) -> float:
    """Success rate where the task declares success, else mean return, of what `robot-rl evaluate` wrote."""
    metrics: dict[str, Any] = json.loads(path.read_text())["metrics"]
    return float(metrics.get("success_rate", metrics["return_mean"]))
