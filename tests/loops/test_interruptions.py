"""What stops a run, what a person sees of it meanwhile, and what is left."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from robot_rl import checkpoint
from robot_rl.config import PhaseConfig
from robot_rl.errors import InputError
from robot_rl.loops.evaluate import evaluate
from robot_rl.loops.phases import run_phases
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.sim.experts import NoisyPolicy
from robot_rl.testing.fakes import OneJointEnvironment, OneJointExpert
from robot_rl.transforms.action import ActionScale


def events(folder, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_phase_without_updates_shows_its_steps_and_rates(build, tmp_path) -> None:
    run = build(tmp_path, {"warmup": PhaseConfig(interact="policy", steps=45, updates_per_step=0)})
    run_phases(run)
    assert [done for done, _ in run.display.advances] == [10, 20, 30, 40]
    assert all("steps_per_s" in metrics for _, metrics in run.display.advances)


def test_an_evaluation_shows_its_episodes(build, tmp_path) -> None:
    run = build(tmp_path, {"offline": PhaseConfig(steps=2, batch_size=4)})
    run_phases(run)
    assert run.display.evaluated == [(1, 3), (2, 3), (3, 3)]


def test_a_stop_does_not_wait_for_the_evaluation_at_the_end_which_is_done_again(build, tmp_path) -> None:
    phases = {"offline": PhaseConfig(steps=2, batch_size=4)}
    first = build(tmp_path, phases, stop_after=2)
    assert not run_phases(first)
    assert first.display.evaluated == [(1, 3)]
    assert events(tmp_path, "evaluation") == []
    again = build(tmp_path, phases, resume=True)
    assert run_phases(again)
    assert len(events(tmp_path, "evaluation")[0]["episodes"]) == 3


def test_training_that_diverges_stops_and_names_the_metric_the_phase_and_the_step(build, tmp_path) -> None:
    run = build(tmp_path, {"offline": PhaseConfig(steps=100, batch_size=8)})
    run.sources["offline"].reward += 1e30  # its square is more than a float32 holds
    with pytest.raises(InputError, match=r"training diverged: critic/\w+ is (nan|inf) in phase offline at step 10\."):
        run_phases(run)


def test_a_divergence_names_the_number_in_the_data_that_may_have_done_it(build, tmp_path) -> None:
    run = build(tmp_path, {"offline": PhaseConfig(steps=100, batch_size=64)})
    run.sources["offline"].reward[21 + 3] = 1e30  # episodes of 20 steps take 21 rows
    found = r"a number that may be wrong: reward of 'offline' is 1e\+30 in its episode 1, step 3, \S+ times"
    with pytest.raises(InputError, match=r"training diverged: .*" + found):
        run_phases(run)


class Failing(OneJointEnvironment):
    """Its sensor gives NaN from the fourth step on."""

    def step(self, action):
        step = super().step(action)
        return step if self._steps < 4 else replace(step, observation={"state": np.array((np.nan, 0.0), np.float32)})


def test_a_step_that_is_no_number_stops_the_run_by_episode_and_step(build, tmp_path) -> None:
    run = build(tmp_path, {"online": PhaseConfig(interact="policy", steps=10, batch_size=8, shares={"online": 1.0})})
    run.environment = Failing()
    message = r"training episode 0, step 3: observation 'state' is nan at \[0\] .* a sensor failed"
    with pytest.raises(InputError, match=message):
        run_phases(run)


def test_an_observation_that_is_no_number_is_not_answered_with_an_action(build, tmp_path) -> None:
    run = build(tmp_path, {"offline": PhaseConfig(steps=2, batch_size=4)})
    with pytest.raises(InputError, match=r"observation 'state' of the environment is nan at \[1\]"):
        run.policy.act({"state": np.array((0.0, np.nan), np.float32)})
    with torch.no_grad():
        next(run.agent.actor.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="its training has diverged"):
        run.policy.act({"state": np.zeros(2, np.float32)})


def test_what_has_diverged_is_never_saved(build, tmp_path) -> None:
    run = build(tmp_path, {"offline": PhaseConfig(steps=100, batch_size=8)}, every_s=0.0)
    run.sources["offline"].reward += 1e30
    run.log_every = 1000  # only `save` can notice
    with pytest.raises(InputError, match=r"training diverged: \S*critic\S* is (nan|inf)"):
        run_phases(run)
    for path in checkpoint.checkpoints(tmp_path / "checkpoints"):
        tensors, _ = checkpoint.load(path)
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_trap_18_every_phase_ends_with_films(build, tmp_path) -> None:
    filmed = []

    def write(film, result, name) -> str:
        filmed.append((name, len(film.frames), len(film.values), result.length))
        return f"videos/{name}.mp4"

    phases = {
        "offline": PhaseConfig(steps=4, batch_size=4, evaluate_every=2),
        "warmup": PhaseConfig(interact="policy", steps=5, updates_per_step=0),
        "online": PhaseConfig(interact="policy", steps=5, batch_size=4),
    }
    run_phases(build(tmp_path, phases, videos=1, write_film=write))
    assert [name for name, *_ in filmed] == ["0_offline_0", "1_warmup_0", "2_online_0"]
    assert all(frames == values == length + 1 for _, frames, values, length in filmed)
    told = [line["videos"] for line in events(tmp_path, "evaluation")]
    assert told == [[], ["videos/0_offline_0.mp4"], ["videos/1_warmup_0.mp4"], ["videos/2_online_0.mp4"]]


@pytest.mark.parametrize("kind", ["noisy expert", "exploring agent"])
def test_filming_does_not_change_the_episodes(build, tmp_path, kind) -> None:
    def returns(films: int) -> list[float]:
        environment = OneJointEnvironment()
        spec = environment.spec
        if kind == "noisy expert":
            policy = NoisyPolicy(OneJointExpert(), spec.action, 0.5, np.random.default_rng(0))
        else:
            agent = build(tmp_path / str(films), {"offline": PhaseConfig(steps=1)}).agent
            scale = ActionScale.from_spec(spec.action)
            policy = AgentPolicy(agent=agent, spec=spec, scale=scale, device=torch.device("cpu"), explore=True)
        return [result.episode_return for result in evaluate(environment, policy, [1, 2, 3], films=films)[0]]

    assert returns(0) == returns(2)


def test_resetting_a_network_resets_its_target_too(build, tmp_path) -> None:
    still = PhaseConfig(interact="policy", steps=5, updates_per_step=0, reset=["critic"])
    run = build(tmp_path, {"offline": PhaseConfig(steps=10, batch_size=8), "online": still})
    run_phases(run)
    fresh = run.fresh_agent(1)
    for part in ("critic", "target_critic"):
        there, wanted = getattr(run.agent, part).state_dict(), getattr(fresh, part).state_dict()
        assert all(torch.equal(there[key], wanted[key]) for key in wanted), part


@pytest.mark.parametrize("phase", [PhaseConfig(steps=4), PhaseConfig(interact="policy", steps=4)])
def test_a_ratio_a_rounding_error_below_a_whole_number_is_that_number(build, tmp_path, phase) -> None:
    run = build(tmp_path, {"only": replace(phase, updates_per_step=3 - 1e-12, batch_size=4)})
    run_phases(run)
    assert run.progress.updates == 4 * 3
