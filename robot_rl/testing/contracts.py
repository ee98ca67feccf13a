"""The contract of an environment as checks that any factory can be put through.

Adding an environment to the tests is one line: its factory, run against every entry of `ENVIRONMENT_CHECKS`. The checks
raise AssertionError with what was found; they need no test framework.
"""

from collections.abc import Callable
from contextlib import closing
from itertools import pairwise

import numpy as np

from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, TimeStep

Make = Callable[[], Environment]
SHORT = 25  # steps of a check that does not need a whole episode
SEED, OTHER_SEED = 3, 4


def actions_of(spec: Spec, seed: int, count: int, reach: float = 1.0) -> Array:
    """Uniform actions over the bounds, stretched by `reach`. Shapes: (count, A)."""
    low, high = bounds_of(spec)
    middle, half = (low + high) / 2, (high - low) / 2
    return middle + half * np.random.default_rng(seed).uniform(-reach, reach, (count, *low.shape))


def bounds_of(spec: Spec) -> tuple[Array, Array]:
    """Bounds of the action. Shapes: (A,), (A,)."""
    assert spec.action.low is not None, "the action spec has no lower bound"
    assert spec.action.high is not None, "the action spec has no upper bound"
    return np.asarray(spec.action.low), np.asarray(spec.action.high)


def roll_out(environment: Environment, seed: int, actions: Array) -> list[TimeStep]:
    """The time steps of one episode, until it ends or the actions do."""
    steps = [environment.reset(seed=seed)]
    for action in actions:
        if steps[-1].last:
            break
        steps.append(environment.step(action))
    return steps


def need_equal(left: list[TimeStep], right: list[TimeStep], place: str) -> None:
    """Two episodes agree in every number.

    Raises:
        AssertionError: names the first difference.
    """
    assert len(left) == len(right), f"{place}: {len(left)} and {len(right)} time steps"
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        for key in a.observation:
            difference = np.abs(a.observation[key] - b.observation[key]).max(initial=0.0)
            assert difference == 0, f"{place}: observation '{key}' differs by {difference} at step {index}"
        facts = [(step.reward, step.terminated, step.truncated, step.success) for step in (a, b)]
        assert facts[0] == facts[1], f"{place}: {facts[0]} against {facts[1]} at step {index}"


def check_spec_is_complete(make: Make) -> None:
    """Bounds, a control period, a meaning of the action, and a spec that survives JSON."""
    with closing(make()) as environment:
        spec = environment.spec
        low, high = bounds_of(spec)
        assert np.isfinite(low).all(), f"lower bounds {low}"
        assert np.isfinite(high).all(), f"upper bounds {high}"
        assert (low < high).all(), f"bounds {low} to {high}"
        assert spec.control_period_s is not None, "no control period"
        assert 1e-4 < spec.control_period_s < 10, f"control_period_s={spec.control_period_s}"
        assert spec.action_semantics is not None, "the meaning of the action is not declared"
        assert environment.maximum_steps >= 1, f"maximum_steps={environment.maximum_steps}"
        assert Spec.from_json(spec.to_json()).to_json() == spec.to_json(), "the spec does not survive JSON"


def check_observations_match_the_spec(make: Make) -> None:
    """Keys, order, shapes and types are those of the spec, and every value is a number."""
    with closing(make()) as environment:
        spec = environment.spec
        for step in roll_out(environment, SEED, actions_of(spec, SEED, SHORT)):
            spec.check_observation(step.observation, "contract")
            assert list(step.observation) == list(spec.observation), f"order of keys {list(step.observation)}"
            for key, array in step.observation.items():
                assert array.dtype == spec.observation[key].dtype, f"'{key}' is {array.dtype}"
            assert isinstance(step.reward, float), f"reward is a {type(step.reward).__name__}"
            assert np.isfinite(step.reward), f"reward is {step.reward}"
            for name in ("terminated", "truncated"):
                assert isinstance(getattr(step, name), bool), f"{name} is a {type(getattr(step, name)).__name__}"
            assert step.success is None or isinstance(step.success, bool), f"success is {step.success!r}"


def check_success_is_declared_always_or_never(make: Make) -> None:
    """`success` is None on every step, or on none but the reset."""
    with closing(make()) as environment:
        steps = roll_out(environment, SEED, actions_of(environment.spec, SEED, SHORT))
        assert len({step.success is None for step in steps[1:]}) == 1, "success is declared on some steps only"


def check_a_seed_fixes_the_episode(make: Make) -> None:
    """The same seed and actions give the same numbers: again, after other episodes, and in a fresh environment."""
    with closing(make()) as environment, closing(make()) as fresh:
        actions = actions_of(environment.spec, SEED, SHORT)
        first = roll_out(environment, SEED, actions)
        roll_out(environment, OTHER_SEED, actions_of(environment.spec, OTHER_SEED, SHORT))
        roll_out(environment, OTHER_SEED, actions[: SHORT // 2])  # an episode that was broken off
        need_equal(first, roll_out(environment, SEED, actions), "after other episodes")
        need_equal(first, roll_out(fresh, SEED, actions), "in a fresh environment")


def check_the_global_generator_is_left_alone(make: Make) -> None:
    """Episodes neither depend on numpy's global generator nor draw from it."""
    with closing(make()) as environment:
        actions = actions_of(environment.spec, SEED, SHORT)
        np.random.seed(0)  # noqa: NPY002  # the global generator is what this is about
        before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002  # the default form is a tuple
        first = roll_out(environment, SEED, actions)
        after = np.random.get_state()[1]  # type: ignore[index]  # noqa: NPY002  # the default form is a tuple
        assert (before == after).all(), "the environment draws from numpy's global generator"
        np.random.seed(1)  # noqa: NPY002  # see above
        need_equal(first, roll_out(environment, SEED, actions), "with another state of numpy's global generator")


def check_seeds_differ(make: Make) -> None:
    """Two seeds begin differently."""
    with closing(make()) as environment:
        one, other = (environment.reset(seed=seed).observation for seed in (SEED, OTHER_SEED))
        assert any((one[key] != other[key]).any() for key in one), "two seeds give the same first observation"


def check_observations_belong_to_the_caller(make: Make) -> None:
    """No later step changes an array that was returned, and writing into one changes no episode."""
    with closing(make()) as environment:
        actions = actions_of(environment.spec, SEED, SHORT)
        expected = roll_out(environment, SEED, actions)
        kept: list[tuple[TimeStep, dict[str, Array]]] = []
        step = environment.reset(seed=SEED)
        for action in actions:
            kept.append((step, {key: array.copy() for key, array in step.observation.items()}))
            if step.last:
                break
            step = environment.step(action)
        for past, copy in kept:
            for key, array in past.observation.items():
                assert np.array_equal(array, copy[key]), f"observation '{key}' was changed by a later step"
        for earlier, later in pairwise(kept):
            for key, array in earlier[0].observation.items():
                assert not np.shares_memory(array, later[0].observation[key]), f"'{key}' shares memory between steps"
        vandalised = [environment.reset(seed=SEED)]
        for action in actions:
            if vandalised[-1].last:
                break
            current = vandalised[-1]
            vandalised[-1] = TimeStep(
                observation={key: array.copy() for key, array in current.observation.items()},
                reward=current.reward,
                terminated=current.terminated,
                truncated=current.truncated,
                success=current.success,
            )
            for array in current.observation.values():
                array.fill(np.nan if array.dtype.kind == "f" else 0)
            vandalised.append(environment.step(action))
        need_equal(expected, vandalised, "after writing into returned observations")


def check_the_applied_action_is_reported(make: Make) -> None:
    """An action inside the bounds is reported as it was given, one outside as clipped; the caller's stays as it is."""
    with closing(make()) as environment:
        low, high = bounds_of(environment.spec)
        assert environment.reset(seed=SEED).action is None, "a reset reports an action"
        for reach in (0.9, 3.0):
            environment.reset(seed=SEED)
            action = actions_of(environment.spec, SEED, 1, reach)[0]
            given = action.copy()
            applied = environment.step(action).action
            assert applied is not None, "the applied action is not reported"
            assert np.allclose(applied, np.clip(given, low, high), atol=1e-6), f"{given} was reported as {applied}"
            assert np.array_equal(action, given), "the caller's array was changed"
        environment.reset(seed=SEED)
        clipped = environment.step(np.where(np.arange(len(low)) % 2, high + 5, low - 5))
        environment.reset(seed=SEED)
        need_equal([clipped], [environment.step(np.where(np.arange(len(low)) % 2, high, low))], "clipped to the bounds")


def check_bad_actions_are_refused(make: Make) -> None:
    """A wrong shape or NaN is an InputError, and the episode goes on as if it had not been given."""
    with closing(make()) as environment:
        actions = actions_of(environment.spec, SEED, 2)
        expected = roll_out(environment, SEED, actions)
        environment.reset(seed=SEED)
        for bad in (np.full_like(actions[0], np.nan), np.append(actions[0], 0.0)):
            try:
                environment.step(bad)
            except InputError:
                continue
            raise AssertionError(f"action {bad} was accepted")
        assert environment.step(actions[0]).reward == expected[1].reward, "a refused action changed the episode"


def check_episodes_end_at_the_limit(make: Make) -> None:
    """The last step comes at `maximum_steps` at the latest, truncated there and only there unless the task says so."""
    with closing(make()) as environment:
        limit = environment.maximum_steps
        steps = roll_out(environment, SEED, actions_of(environment.spec, SEED, limit + 1))
        taken = len(steps) - 1
        assert steps[-1].last, f"no end after {taken} steps of at most {limit}"
        assert taken <= limit, f"{taken} steps, but maximum_steps={limit}"
        assert not any(step.last for step in steps[:-1]), "the episode goes on after its end"
        if taken == limit:
            assert steps[-1].truncated, "the last step at the limit is not truncated"
        need_step_refused(environment, "after the last one")
        environment.reset(seed=SEED)
        environment.step(actions_of(environment.spec, SEED, 1)[0])


def check_no_step_before_the_first_reset(make: Make) -> None:
    """A step without an episode is a RuntimeError."""
    with closing(make()) as environment:
        need_step_refused(environment, "before the first reset")


def need_step_refused(environment: Environment, when: str) -> None:
    """A step is refused now.

    Raises:
        AssertionError: it was accepted.
    """
    try:
        environment.step(actions_of(environment.spec, SEED, 1)[0])
    except RuntimeError:
        return
    raise AssertionError(f"a step {when} was accepted")


def check_rendering_shows_and_changes_nothing(make: Make) -> None:
    """Frames are (height, width, 3), uint8, not blank, and the caller's; looking does not change the episode."""
    with closing(make()) as environment:
        actions = actions_of(environment.spec, SEED, SHORT)
        unseen = roll_out(environment, SEED, actions)
        seen = [environment.reset(seed=SEED)]
        frames = [environment.render()]
        for index, action in enumerate(actions):
            if seen[-1].last:
                break
            seen.append(environment.step(action))
            if index in (0, 4, 5):
                frames.append(environment.render())
        need_equal(unseen, seen, "while rendering")
        for frame in frames:
            assert frame.dtype == np.uint8, f"frames are {frame.dtype}"
            assert frame.ndim == 3, f"a frame has shape {frame.shape}"
            assert frame.shape[2] == 3, f"a frame has shape {frame.shape}"
            assert frame.shape == frames[0].shape, "frames differ in shape"
            assert frame.std() > 0, "a blank frame"
        assert not np.shares_memory(frames[0], frames[1]), "frames share memory"


def check_closing_twice_is_allowed(make: Make) -> None:
    """`close` can be called again, with and without frames drawn before."""
    make_only = make()
    make_only.close()
    make_only.close()
    environment = make()
    environment.reset(seed=SEED)
    environment.render()
    environment.close()
    environment.close()


ENVIRONMENT_CHECKS: tuple[Callable[[Make], None], ...] = (
    check_spec_is_complete,
    check_observations_match_the_spec,
    check_success_is_declared_always_or_never,
    check_a_seed_fixes_the_episode,
    check_the_global_generator_is_left_alone,
    check_seeds_differ,
    check_observations_belong_to_the_caller,
    check_the_applied_action_is_reported,
    check_bad_actions_are_refused,
    check_episodes_end_at_the_limit,
    check_no_step_before_the_first_reset,
    check_rendering_shows_and_changes_nothing,
    check_closing_twice_is_allowed,
)


def check_environment(make: Make) -> None:
    """Every check, one after the other."""
    for check in ENVIRONMENT_CHECKS:
        check(make)
