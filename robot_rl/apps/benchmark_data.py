"""The data of a benchmark, made by recipe: policies are trained, act, and what they did is recorded.

Everything is seeded and named by a hash of its recipe, so a store that is there is never made again, and two machines
of one CPU model make the same.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]  # PyYAML ships no types; Hydra brings it

from robot_rl import checkpoint
from robot_rl.apps.benchmark_engine import Job, Outcome
from robot_rl.apps.benchmark_plan import Plan, PlannedPolicy, PlannedRun, score_of
from robot_rl.apps.build import config_from_json, empty_buffer
from robot_rl.apps.compose import as_override
from robot_rl.apps.report_read import read_run
from robot_rl.benchmark_config import PartConfig
from robot_rl.datasets import edit
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import building
from robot_rl.errors import InputError
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.spec import Spec
from robot_rl.types import Episode

IDENTIFIED = "identification.json"
"""What `robot-rl identify` writes whatever it finds."""
Run = Callable[[Sequence[Job], str], list[Outcome]]
"""Runs jobs, shows them under a title, and returns what became of them."""


def prepare(plan: Plan, runs: Sequence[PlannedRun], run: Run) -> list[str]:
    """Make what the plan needs and is not there: stores, then what the given runs start from.

    Returns:
        what failed, a sentence each.
    """
    missing = {name: recipe for name, recipe in plan.data.items() if not plan.store(name).exists()}
    failed = train_policies(plan, [part.policy for recipe in missing.values() for part in recipe.parts], run)
    if failed:
        return failed
    jobs: list[Job] = []
    for name, recipe in missing.items():
        store = plan.store(name)
        store.parent.mkdir(parents=True, exist_ok=True)
        if recipe.ingest:
            jobs.append(Job(name=name, words=("ingest", *recipe.ingest, str(store)), folder=_parts(store)))
        for number, part in enumerate(recipe.parts):
            path = _parts(store) / f"{number}.zarr"
            if path.exists():
                continue
            if part.replay:
                write_replay(plan.policy(part.policy).folder, part.episodes, path)
            else:
                words = [
                    *policy_words(plan, part.policy, plan.environment(name)),
                    f"episodes={part.episodes}",
                    f"seed={recipe.seed + number}",
                    as_override("record", str(path)),
                    *_sampling(plan, part),
                ]
                jobs.append(Job(name=f"{name}, part {number}", words=("evaluate", *words), folder=_parts(store)))
    failed = [f"{outcome.job.name}: {outcome.message}" for outcome in run(jobs, "data") if outcome.status != "finished"]
    if failed:
        return failed
    for name, recipe in missing.items():
        store = plan.store(name)
        stores = [_parts(store) / f"{number}.zarr" for number in range(len(recipe.parts))]
        if len(stores) == 1:
            stores[0].rename(store)
        elif stores:
            edit.merge(stores, store)
        shutil.rmtree(_parts(store))
    failed = _train(plan.attackers, run, "attackers")
    if failed:
        return failed
    begins = {planned.begins.folder: planned.begins for planned in runs if planned.begins is not None}
    return _train(list(begins.values()), run, "shared runs")


def identify(runs: Sequence[PlannedRun], run: Run) -> dict[Path, str]:
    """Fit the simulators that runs act in. One that explains the data no better than before is no failure.

    Returns:
        what failed, by the folder that it was to write.
    """
    wanted = {planned.identified.folder: planned.identified for planned in runs if planned.identified is not None}
    jobs = [
        Job(name=each.name, words=each.words, folder=folder)
        for folder, each in wanted.items()
        if not (folder / IDENTIFIED).exists()
    ]
    outcomes = run(jobs, "identification")
    return {
        outcome.job.folder: f"{outcome.job.name}: {outcome.message or outcome.status}"
        for outcome in outcomes
        if outcome.status != "finished" and not (outcome.job.folder / IDENTIFIED).exists()
    }


def identified_words(folder: Path) -> list[str]:
    """Words of `robot-rl train` for the simulator that was found; none where it was no better than before.

    Args:
        folder: that `robot-rl identify` wrote.
    """
    environment = folder / "environment" / "identified.yaml"
    if not environment.exists():
        return []
    ranges = folder / "environment" / "randomization" / "identified.yaml"
    gap, fields = yaml.safe_load(environment.read_text())["gap"], yaml.safe_load(ranges.read_text())["fields"]
    return [
        *(f"environment.gap.{name}={value}" for name, value in gap.items()),
        *(f"+environment.randomization.fields.{name}={as_word(given)}" for name, given in fields.items()),
    ]


def as_word(distribution: dict[str, list[float]]) -> str:
    """A distribution as it stands on a command line, such as {uniform: [0.8, 1.2]}."""
    return "{" + ", ".join(f"{kind}: [{', '.join(map(str, ends))}]" for kind, ends in distribution.items()) + "}"


def train_policies(plan: Plan, names: Sequence[str], run: Run) -> list[str]:
    """Train those of the named policies that are not yet; returns what failed."""
    return _train(plan.policies(names), run, "policies")


def _train(policies: Sequence[PlannedPolicy], run: Run, title: str) -> list[str]:
    jobs = [
        Job(name=policy.name, words=(*policy.words, "resume=true"), folder=policy.folder)
        for policy in policies
        if not is_finished(policy.folder)
    ]
    return [f"{outcome.job.name}: {outcome.message}" for outcome in run(jobs, title) if outcome.status == "failed"]


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a run that came to its end."""
    return (folder / "metrics.jsonl").exists() and read_run(folder).status == "finished"


def measure_anchors(plan: Plan, run: Run) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Score of the random and of the reference policy in each chosen task, measured once, and what failed."""
    policies = {task: plan.suite.tasks[task].reference_policy for task in plan.tasks}
    failed = train_policies(plan, [policy for policy in policies.values() if policy is not None], run)
    if failed:
        return {}, failed
    jobs, places = [], {}
    for task in plan.tasks:
        for kind, policy in (("random", "random"), ("reference", policies[task])):
            if policy is None:
                continue
            folder = plan.anchor(task, kind)
            places[task, kind] = folder / "evaluation.json"
            if places[task, kind].exists():
                continue
            words = [
                *policy_words(plan, policy, plan.robot(task)),
                f"episodes={plan.suite.anchor_episodes}",
                as_override("output", str(folder)),
            ]
            jobs.append(Job(name=f"{task} {kind}", words=("evaluate", *words), folder=folder))
    outcomes = run(jobs, "anchors")
    failed = [f"{outcome.job.name}: {outcome.message}" for outcome in outcomes if outcome.status != "finished"]
    if failed:
        return {}, failed
    scores: dict[str, dict[str, float]] = {task: {} for task in plan.tasks}
    for (task, kind), path in places.items():
        scores[task][kind] = score_of(path)
    return scores, []


def policy_words(plan: Plan, policy: str, environment: Sequence[str]) -> list[str]:
    """Words of `robot-rl evaluate` that choose a policy of the suite."""
    if policy in ("random", "expert"):
        return [f"policy={policy}", *environment]
    return [str(plan.policy(policy).folder), *environment]


def _sampling(plan: Plan, part: PartConfig) -> list[str]:
    if part.policy in plan.suite.policies:
        return [f"explore={str(part.explore).lower()}"]
    return [f"expert_noise={part.noise}"] if part.policy == "expert" else []


def _parts(store: Path) -> Path:
    return store.with_suffix(".parts")


# A replay buffer as a store -------------------------------------------------------------------------------------------


def write_replay(run: Path, episodes: int, path: Path) -> None:
    """Write what a run's replay buffer holds into a store.

    Args:
        run: folder of a run that acted with the rewards of its environment.
        episodes: so many of the first; 0 is all.
        path: of the store.

    Raises:
        InputError: the run has no replay buffer, changed the rewards, or has fewer episodes.
    """
    found = checkpoint.checkpoints(run / "checkpoints")
    if not found:
        raise InputError(f"{run} has no checkpoint: its replay buffer cannot be read")
    tensors, state = checkpoint.load(found[-1])
    if "replay" not in state:
        raise InputError(f"{run} never acted: it has no replay buffer")
    config, spec = config_from_json(state["config"], str(found[-1])), Spec.from_json(state["spec"])
    if (config.replay.reward_scale, config.replay.reward_bias, config.replay.reward_observation) != (1.0, 0.0, None):
        raise InputError(f"{run} learned from changed rewards: train the policy without replay.reward_* settings")
    buffer = empty_buffer(config, spec, int(state["replay"]["capacity"]), None)
    buffer.restore(checkpoint.under(tensors, "replay"), state["replay"])
    provenance = {"format": "robot_rl", "policy": "replay buffer", "run": str(run), "seed": config.seed}
    count = 0
    with building(path) as temporary:
        store = EpisodeStore.create(temporary, spec, provenance=provenance)
        for episode in replay_episodes(buffer):
            if episodes and count == episodes:
                break
            store.append(episode)
            count += 1
        if count < episodes:
            raise InputError(f"{run} acted for {count} whole episodes, {episodes} were asked for")
        store.finish()


def replay_episodes(buffer: ReplayBuffer) -> Iterator[Episode]:
    """The whole episodes of a replay buffer, oldest first.

    `success` is not in it, and actions at a bound lie 1e-5 of the half range inside it, as the buffer keeps them.
    """
    _, state = buffer.state()
    count, size = int(state["capacity"]), int(state["size"])
    steps, final = buffer.step.numpy(), buffer.final.numpy()
    row = int(state["head"]) if size == count else 0  # where the ring has come round, the oldest row is at the head
    end = row + size
    while row < end:
        begin = row % count
        length = (int(final[begin]) - begin) % count
        if int(steps[begin]) == 0 and int(final[begin]) >= 0 and length > 0:
            yield _episode(buffer, (begin + np.arange(length + 1)) % count)
            row += length + 1
        else:
            row += 1  # of an episode whose beginning is overwritten, or that did not end


def _episode(buffer: ReplayBuffer, rows: "np.ndarray[Any, Any]") -> Episode:
    taken = rows[:-1]
    terminated = buffer.terminated.numpy()[taken]
    last = np.arange(len(taken)) == len(taken) - 1
    return Episode(
        observation={key: np.asarray(values)[rows] for key, values in buffer.observation.items()},
        action=buffer.scale.unnormalize(buffer.action.numpy()[taken]),
        reward=buffer.reward.numpy()[taken],
        terminated=terminated,
        truncated=last & ~terminated,
        success=None,
        metadata={},
    )
