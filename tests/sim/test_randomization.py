"""Domain randomisation: what is drawn, when it grows, and how mistakes in it are answered."""

from contextlib import closing

import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.sim.gap import NOMINAL, Gap
from robot_rl.sim.gap_env import GapEnvironment
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.randomization import read_randomization
from robot_rl.testing.contracts import actions_of, roll_out

FIELDS = {
    "mass": {"uniform": [0.8, 1.2]},
    "armature": {"log_uniform": [0.5, 2.0]},
    "gear": {"normal": [0.9, 0.05]},
    "action_delay_s": {"choice": [0.0, 0.02, 0.04]},
}


def draws(
    fields: dict, count: int = 4000, *, steps: int = 0, gap: Gap = NOMINAL, **curriculum
) -> dict[str, np.ndarray]:
    randomization = read_randomization(fields, **({"curriculum_steps": 0, "curriculum_start": 0.0} | curriculum))
    generator = np.random.default_rng(0)
    rows = [randomization.draw(gap, generator, steps) for _ in range(count)]
    return {name: np.array([row[name] for row in rows]) for name in fields}


def test_draws_have_the_distributions_that_are_asked_for() -> None:
    found = draws(FIELDS)
    assert (found["mass"].min(), found["mass"].max()) == pytest.approx((0.8, 1.2), abs=0.002)
    assert found["mass"].mean() == pytest.approx(1.0, abs=0.01)
    # Half of a log-uniform draw on [1/2, 2] lies below 1; a uniform one would have a third there.
    assert np.median(found["armature"]) == pytest.approx(1.0, abs=0.03)
    assert (found["gear"].mean(), found["gear"].std()) == pytest.approx((0.9, 0.05), abs=0.003)
    values, counts = np.unique(found["action_delay_s"], return_counts=True)
    assert values.tolist() == [0.0, 0.02, 0.04]
    assert counts == pytest.approx([4000 / 3] * 3, rel=0.1)
    assert abs(np.corrcoef(found["mass"], found["gear"])[0, 1]) < 0.05


def test_a_field_draws_the_same_whatever_else_is_drawn() -> None:
    alone = draws({"mass": FIELDS["mass"]}, 20)["mass"]
    assert np.array_equal(alone, draws(FIELDS, 20)["mass"])


def test_ranges_grow_with_the_steps_of_the_environment() -> None:
    for steps, share in ((0, 0.2), (50, 0.6), (100, 1.0), (1000, 1.0)):
        found = draws(FIELDS, 2000, steps=steps, curriculum_steps=100, curriculum_start=0.2)
        assert found["mass"].max() - 1.0 == pytest.approx(0.2 * share, rel=0.02)
        assert 1.0 - found["mass"].min() == pytest.approx(0.2 * share, rel=0.02)
        assert np.log(found["armature"].max()) == pytest.approx(np.log(2) * share, rel=0.02)
        assert found["gear"].mean() == pytest.approx(1.0 - 0.1 * share, abs=0.005)
        assert found["gear"].std() == pytest.approx(0.05 * share, rel=0.1)
        assert (found["action_delay_s"] > 0).mean() == pytest.approx(2 / 3 * share, abs=0.04)
    begun = draws(FIELDS, 50, steps=0, curriculum_steps=100)
    assert all((begun[name] == getattr(NOMINAL, name)).all() for name in FIELDS)


def test_ranges_grow_from_the_gap_that_the_environment_has() -> None:
    found = draws({"mass": {"uniform": [1.0, 2.0]}}, 10, steps=0, gap=Gap(mass=1.5), curriculum_steps=10)
    assert (found["mass"] == 1.5).all()


def test_each_episode_is_another_robot_and_says_which() -> None:
    randomization = read_randomization(FIELDS, 0, 0.0)
    with closing(GapEnvironment(GymnasiumEnvironment(id="HalfCheetah-v5"), randomization=randomization)) as environment:
        masses = environment._inner.physics[0].body_mass
        totals = {}
        for seed in (0, 1, 0):
            environment.reset(seed=seed)
            drawn = environment.drawn
            assert masses.sum() == pytest.approx(14.0 * drawn["mass"], rel=1e-3)
            assert totals.setdefault(seed, drawn) == drawn
        assert totals[0] != totals[1]
        assert len(environment.spec.metadata["randomization"]["hash"]) == 12
        assert environment.spec.metadata["randomization"]["fields"] == FIELDS


def test_what_is_drawn_in_vain_is_told_and_all_in_vain_is_refused() -> None:
    with closing(GymnasiumEnvironment(id="Reacher-v5")) as flat:  # nothing falls and nothing touches
        vain = {"gravity": {"uniform": [0.5, 1.5]}, "contact_friction": {"choice": [1.0, 0.5]}}
        with pytest.raises(InputError, match="nothing that is drawn has an effect"):
            GapEnvironment(flat, randomization=read_randomization(vain, 0, 0.0))
        part = read_randomization(vain | {"mass": {"normal": [1.0, 0.1]}}, 0, 0.0)
        facts = GapEnvironment(flat, randomization=part).spec.metadata["randomization"]
        assert facts["without_effect"] == ["gravity", "contact_friction"]


def test_robots_that_are_drawn_move_differently() -> None:
    randomization = read_randomization({"gear": {"choice": [0.5]}}, 100, 0.0)
    environment = GymnasiumEnvironment(id="HalfCheetah-v5")
    with closing(GapEnvironment(environment, randomization=randomization)) as randomized:
        ends = []
        for experienced in (0, 100):
            randomized.experienced(experienced)
            ends.append(roll_out(randomized, 0, actions_of(environment.spec, 0, 10))[-1].observation["state"])
        assert not np.allclose(*ends, atol=0.01)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mas": {"uniform": [1, 2]}}, "did you mean 'mass'"),
        ({"mass": {"unifrom": [1, 2]}}, "did you mean 'uniform'"),
        ({"mass": [1, 2]}, r"give one distribution, such as \{uniform"),
        ({"mass": {"uniform": [1, 2], "normal": [1, 1]}}, "give one distribution"),
        ({"mass": {"uniform": 3}}, "give a list of numbers"),
        ({"mass": {"uniform": [1, 2, 3]}}, "give two numbers"),
        ({"mass": {"uniform": [2, 1]}}, "the lower end comes first"),
        ({"mass": {"uniform": [-1, 1]}}, r"values must lie in \[0\.001, 1000\]"),
        ({"mass": {"normal": [1, -1]}}, "deviation must not be negative"),
        ({"coulomb": {"log_uniform": [0.01, 0.1]}}, "log_uniform needs a field that is a factor"),
        ({"mass": {"choice": []}}, "give a list of numbers"),
        ({"mass": {"choice": ["heavy"]}}, "give a list of numbers"),
    ],
)
def test_mistakes_are_answered_by_the_field(fields, message) -> None:
    with pytest.raises(InputError, match=message):
        read_randomization(fields, 0, 0.0)


def test_a_normal_draw_is_cut_where_the_field_ends() -> None:
    assert draws({"coulomb": {"normal": [0.0, 0.1]}}, 100)["coulomb"].min() == 0.0
    assert set(draws({"action_bits": {"uniform": [4, 6]}}, 100)["action_bits"]) == {4.0, 5.0, 6.0}
