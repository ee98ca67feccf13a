"""Phases, evaluation and resuming, on a one-joint task that needs no simulator."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from robot_rl import checkpoint
from robot_rl.algorithms.sac import SACConfig
from robot_rl.config import PhaseConfig
from robot_rl.errors import InputError
from robot_rl.loops.phases import run_phases
from robot_rl.loops.rollout import AgentPolicy, run_episode
from robot_rl.testing.fakes import OneJointEnvironment
from robot_rl.transforms.action import ActionScale

CPU = torch.device("cpu")
SMALL = SACConfig(actor_hidden=[16], critic_hidden=[16], critic_count=3, critic_subset=2)
PHASES = {
    "offline": PhaseConfig(steps=30, batch_size=16, evaluate_every=10),
    "warmup": PhaseConfig(interact="policy", steps=45, updates_per_step=0),
    "online": PhaseConfig(interact="policy", steps=70, updates_per_step=2, batch_size=8, evaluate_at=[5]),
}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_interrupts(folder: Path) -> list[dict]:
    return [line for line in lines(folder) if line["event"] != "interrupt"]


def test_phases_run_in_order_and_count_steps_and_updates(build, tmp_path) -> None:
    run = build(tmp_path, PHASES)
    assert run_phases(run)
    assert run.display.phases == ["offline", "warmup", "online"]
    assert run.progress.environment_steps == 45 + 70
    assert run.progress.updates == 30 + 70 * 2
    assert run.agent.updates == run.progress.updates


def test_warmup_leaves_the_agent_untouched(build, tmp_path) -> None:
    run = build(tmp_path, {"warmup": PHASES["warmup"]})
    before, _ = checkpoint.pack_agent(run.agent)
    run_phases(run)
    after, _ = checkpoint.pack_agent(run.agent)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["generator"]  # it explored


def test_an_online_phase_without_offline_share_never_reads_the_data_set(build, tmp_path) -> None:
    phase = PhaseConfig(interact="policy", steps=30, batch_size=4)
    one, other = build(tmp_path / "a", {"online": phase}), build(tmp_path / "b", {"online": phase})
    other.sources["offline"].reward += 1000.0
    for run in (one, other):
        run_phases(run)
    a, b = checkpoint.pack_agent(one.agent)[0], checkpoint.pack_agent(other.agent)[0]
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stop_after", [0, 7, 30, 31, 33, 34, 36, 39, 40])
def test_an_interrupted_and_resumed_run_ends_with_the_same_numbers(build, tmp_path, stop_after) -> None:
    whole = build(tmp_path / "whole", PHASES)
    assert run_phases(whole)
    first = build(tmp_path / "parts", PHASES, stop_after=stop_after)
    assert not run_phases(first)
    second = build(tmp_path / "parts", PHASES, resume=True)
    assert run_phases(second)
    a, b = checkpoint.pack_agent(whole.agent)[0], checkpoint.pack_agent(second.agent)[0]
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(whole.generator.get_state(), second.generator.get_state())
    assert asdict(whole.progress) == asdict(second.progress)
    rates = ("updates_per_s", "steps_per_s")
    for left, right in zip(without_interrupts(tmp_path / "whole"), without_interrupts(tmp_path / "parts"), strict=True):
        for rate in rates:
            left["metrics"].pop(rate, None), right["metrics"].pop(rate, None)
        assert left == right


def test_a_crash_after_the_checkpoint_drops_the_lines_that_the_resumed_run_writes_again(build, tmp_path) -> None:
    first = build(tmp_path, PHASES, every_s=0.0)

    def crash() -> bool:
        if first.progress.phase_step == 17:
            raise RuntimeError("power cut")
        return False

    first.stop_requested = crash
    with pytest.raises(RuntimeError, match="power cut"):
        run_phases(first)
    first.recorder.event("train", first.progress, {"lost": 1.0})
    second = build(tmp_path, PHASES, resume=True)
    assert run_phases(second)
    assert not any("lost" in line["metrics"] for line in lines(tmp_path))
    assert sum(line["event"] == "phase_start" for line in lines(tmp_path)) == 3


def test_trap_12_evaluation_has_its_own_seeds_and_never_repeats_them(build, tmp_path) -> None:
    run = build(tmp_path, PHASES)
    seeds = {run.seeds.integer("episode", number) for number in range(200)}
    run_phases(run)
    used = [
        episode["seed"] for line in lines(tmp_path) if line["event"] == "evaluation" for episode in line["episodes"]
    ]
    assert len(used) == len(set(used)) == 2 * 5 + 3
    assert not seeds & set(used)


def test_trap_12_evaluating_does_not_change_training(build, tmp_path) -> None:
    often = {name: replace(phase, evaluate_every=5) for name, phase in PHASES.items()}
    one, other = build(tmp_path / "a", PHASES), build(tmp_path / "b", often)
    for run in (one, other):
        run_phases(run)
    a, b = checkpoint.pack_agent(one.agent)[0], checkpoint.pack_agent(other.agent)[0]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_trap_15_optimisers_survive_the_switch_unless_the_phase_resets_them(build, tmp_path) -> None:
    still = PhaseConfig(interact="policy", steps=20, updates_per_step=0)
    for name, reset in (("kept", []), ("reset", ["optimizers.actor", "critic"])):
        run = build(tmp_path / name, {"offline": PHASES["offline"], "online": replace(still, reset=reset)})
        run_phases(run)
        moments = run.agent.optimizers["actor"].state_dict()["state"]
        assert bool(moments) == (name == "kept")
        fresh = run.fresh_agent(1).critic.state_dict()
        same = all(torch.equal(value, fresh[key]) for key, value in run.agent.critic.state_dict().items())
        assert same == (name == "reset")


def test_trap_16_the_phase_is_in_the_checkpoint_not_in_the_step_counter(build, tmp_path) -> None:
    run = build(tmp_path, PHASES, stop_after=34)
    run_phases(run)
    _, state = checkpoint.load(checkpoint.checkpoints(tmp_path / "checkpoints")[-1])
    assert state["progress"]["phase"] == "warmup"
    again = build(tmp_path, PHASES, resume=True)
    run_phases(again)
    assert again.display.phases == ["warmup", "online"]


def test_settings_of_a_phase_last_for_that_phase_only(build, tmp_path) -> None:
    seen = []
    config = replace(SMALL, conservative_weight=1.0, conservative_samples=2)
    phases = {
        "offline": PhaseConfig(steps=2, batch_size=4),
        "online": PhaseConfig(interact="policy", steps=5, batch_size=4, algorithm={"conservative_weight": 0.0}),
        "again": PhaseConfig(steps=2, batch_size=4),
    }
    run = build(tmp_path, phases, config=config)
    update = run.agent.update

    def spy(batch, **options):
        seen.append((run.progress.phase, run.agent.config.conservative_weight))
        return update(batch, **options)

    run.agent.update = spy
    run_phases(run)
    assert set(seen) == {("offline", 1.0), ("online", 0.0), ("again", 1.0)}


def test_an_unknown_setting_or_part_is_refused_before_anything_runs(build, tmp_path) -> None:
    wrong = {"offline": PhaseConfig(steps=1, algorithm={"conservative_wieght": 0.0})}
    with pytest.raises(InputError, match="conservative_weight"):
        build(tmp_path / "a", wrong)
    with pytest.raises(InputError, match="did you mean 'actor'"):
        build(tmp_path / "b", {"offline": PhaseConfig(steps=1, reset=["acter"])})


def test_a_cut_episode_is_truncated_not_terminated(build, tmp_path) -> None:
    run = build(tmp_path, {"online": PhaseConfig(interact="random", steps=25, updates_per_step=0)})
    run_phases(run)
    online = run.sources["online"]
    assert len(online) == 25
    assert (online.sample(200, torch.Generator().manual_seed(0)).discount > 0).all()


def test_learning_offline_then_online_beats_the_random_policy(build, tmp_path) -> None:
    config = replace(SMALL, actor_hidden=[32, 32], critic_hidden=[32, 32], actor_learning_rate=3e-3)
    config = replace(config, critic_learning_rate=3e-3, initial_temperature=0.05, target_rate=0.02)
    phases = {
        "offline": PhaseConfig(steps=300, batch_size=64),
        "online": PhaseConfig(interact="policy", steps=600, batch_size=64, updates_per_step=1),
    }
    run = build(tmp_path, phases, config=config)
    run_phases(run)
    final = [line for line in lines(tmp_path) if line["event"] == "evaluation"][-1]["metrics"]["return_mean"]
    environment = OneJointEnvironment()
    spec = environment.spec
    random = AgentPolicy(
        agent=run.fresh_agent(5), spec=spec, scale=ActionScale.from_spec(spec.action), device=CPU, explore=True
    )
    returns = [run_episode(environment, random, seed=seed).reward.sum() for seed in range(20)]
    assert final > 0.5 * sum(returns) / 20  # returns are negative: at most half the random policy's cost


ONLINE = PHASES["online"]
MIXED = replace(ONLINE, shares={"online": 0.5, "offline": 0.5})


@pytest.mark.parametrize(
    ("success", "phases", "told"),
    [
        (0.0, {"warmup": PHASES["warmup"], "online": ONLINE}, ["warmup"]),
        (0.0, {"online": ONLINE}, ["online"]),
        (0.1, {"warmup": PHASES["warmup"], "online": ONLINE}, []),
        (None, {"warmup": PHASES["warmup"], "online": ONLINE}, []),  # nobody says what success is
        (0.0, {"online": MIXED}, []),  # RLPD
        (0.0, {"warmup": PHASES["warmup"], "online": ONLINE, "mixed": MIXED}, []),
    ],
)
def test_a_policy_that_never_succeeded_is_told_before_it_learns_from_itself_alone(
    build, tmp_path, success, phases, told
) -> None:
    run = build(tmp_path, {"offline": PhaseConfig(steps=3, batch_size=4), **phases})
    run.evaluator = None
    run.progress.last_success = success
    run_phases(run)
    starts = [line for line in lines(tmp_path) if line["event"] == "phase_start"]
    assert [line["phase"] for line in starts if "notes" in line] == told
    assert all("succeeded in no episode" in note for line in starts for note in line.get("notes", []))


def test_the_last_success_is_what_the_last_evaluation_measured_and_lasts(build, tmp_path) -> None:
    run = build(tmp_path, {"offline": PhaseConfig(steps=3, batch_size=4)})
    run_phases(run)
    measured = [line["metrics"]["success_rate"] for line in lines(tmp_path) if line["event"] == "evaluation"]
    assert run.progress.last_success == measured[-1]
    assert build(tmp_path, run.phases, resume=True).progress.last_success == measured[-1]
    tensors, state = checkpoint.load(checkpoint.checkpoints(tmp_path / "checkpoints")[-1])
    begun = build(tmp_path / "next", {"online": ONLINE})
    begun.begin_from(tensors, state)
    assert begun.progress.last_success == measured[-1]
