"""A log as system identification wants it: episodes with states; refused is what nothing can be learned from."""

from collections.abc import Sequence

import numpy as np

from robot_rl.errors import InputError
from robot_rl.sim.open_loop import Logged, Stretch
from robot_rl.sim.simulated import Simulated
from robot_rl.sim.state_reading import StateLayout, flat, read_states
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

MINIMUM_STEPS = 120
"""Shorter logs are refused: a quarter is held out, and what is left has to say something about several parameters."""
ADVISED_S = 30.0
"""The sim-to-real reference asks for 30 to 120 s of excitation."""
EXCITATION = 0.02
"""Smallest deviation of a command, as a share of half its range, that counts as excitation."""
FOLLOWS, FOLLOWS_ANOTHER = 0.5, 0.8
"""Correlations of a position's change with its own velocity, and with that of another joint."""
WINDOW = 10
"""Steps over which they are compared."""
HELD_OUT_EPISODES = 4
"""From so many episodes on every fourth one is held out; of fewer, the last quarter of each."""


def require_period(log: Spec, place: str) -> None:
    """Refuse a log without a control period.

    Raises:
        InputError: says how to give one.
    """
    if log.control_period_s is None:
        raise InputError(
            f"{place} does not say its control period, without which no delay and no friction can be told: ingest it "
            "again with control_period_s=..."
        )


def read_log(simulator: Simulated, layout: StateLayout, episodes: Sequence[Episode], place: str) -> list[Logged]:
    """The episodes with their states.

    Raises:
        InputError: too short, without excitation or motion, or channels in another order than the simulator's.
    """
    model, data = simulator.physics
    period_s = float(model.opt.timestep) * simulator.substeps
    log = []
    for episode in episodes:
        channels = flat(episode.observation, layout.keys)
        steps = len(episode.action) if episode.has_final_observation else len(episode.action) - 1
        channels = channels[: steps + 1]
        positions, velocities, trusted = read_states(model, layout, channels, data.qpos.copy(), period_s)
        if steps > 1:
            action = np.asarray(episode.action[:steps], np.float64)
            log.append(
                Logged(action=action, channels=channels, position=positions, velocity=velocities, trusted=trusted)
            )
    steps = sum(map(len, log))
    if steps < MINIMUM_STEPS:
        raise InputError(
            f"{place} has {steps} steps ({steps * period_s:.1f} s), identification needs {MINIMUM_STEPS} at least and "
            f"{ADVISED_S:g} s of motion to say much: record longer"
        )
    _require_range(simulator.spec, log, place)
    _require_excitation(simulator.spec, log, place)
    _require_motion(layout, log, place)
    _require_order(layout, log, period_s, place)
    return log


def idle_commands(spec: Spec, log: Sequence[Logged]) -> list[str]:
    """Names of commands that hardly move."""
    actions = np.concatenate([episode.action for episode in log])
    half = (np.asarray(spec.action.high) - np.asarray(spec.action.low)) / 2
    names = spec.action.names or tuple(f"channel {index}" for index in range(actions.shape[1]))
    return [name for name, size in zip(names, actions.std(axis=0) / half, strict=True) if size < EXCITATION]


def _require_range(spec: Spec, log: Sequence[Logged], place: str) -> None:
    low, high = np.asarray(spec.action.low), np.asarray(spec.action.high)
    actions, slack = np.concatenate([episode.action for episode in log]), 1e-4 * (high - low)
    if (actions < low - slack).any() or (actions > high + slack).any():
        channel = int(np.argmax(np.maximum(actions.max(0) - high, low - actions.min(0))))
        raise InputError(
            f"{place}: commands of channel {channel} reach [{actions[:, channel].min():.3g}, "
            f"{actions[:, channel].max():.3g}], the environment takes [{low[channel]:.3g}, {high[channel]:.3g}]: the "
            "log has other units or another controller"
        )


def _require_excitation(spec: Spec, log: Sequence[Logged], place: str) -> None:
    if len(idle_commands(spec, log)) == spec.action.shape[0]:
        raise InputError(
            f"{place}: no command varies by more than {EXCITATION:.0%} of its range, so nothing is excited and nothing "
            "can be identified: record motion under commands that change, such as policy=random"
        )


def _require_motion(layout: StateLayout, log: Sequence[Logged], place: str) -> None:
    change = np.concatenate([np.diff(episode.channels[:, list(layout.channels)], axis=0) for episode in log])
    if np.abs(change).max() == 0.0:
        raise InputError(f"{place}: no joint moves in the whole log, so nothing can be identified from it")
    if not any(episode.trusted.any() for episode in log):
        raise InputError(
            f"{place}: in every step a velocity is at the limit at which the environment cuts it, so no state is "
            "known: record slower motion"
        )


def _require_order(layout: StateLayout, log: Sequence[Logged], period_s: float, place: str) -> None:
    """Positions have to follow their velocities; that is how channels in another order show."""
    joints = [(places, layout.velocity[dof]) for _, dof, places in _pairs(layout)]
    if not joints:
        return
    changes = [[_change(episode.channels, places) / period_s for episode in log] for places, _ in joints]
    speeds = [
        [(episode.channels[1:, place] + episode.channels[:-1, place]) / 2 for episode in log] for _, place in joints
    ]
    moved, speed = (np.array([_windows(parts) for parts in each]) for each in (changes, speeds))
    for index, (places, place_of_speed) in enumerate(joints):
        own = _correlation(moved[index], speed[index])
        others = [0.0 if other == index else _correlation(moved[index], speed[other]) for other in range(len(joints))]
        best = int(np.argmax(others))
        if own < FOLLOWS and others[best] > FOLLOWS_ANOTHER:
            raise InputError(
                f"{place}: the observations seem to be in another order than the environment's: "
                f"{_said(layout, places)} moves as {_said(layout, (joints[best][1],))} says (correlation "
                f"{others[best]:.2f}), not as {_said(layout, (place_of_speed,))} says ({own:.2f})"
            )
    owns = [_correlation(moved[index], speed[index]) for index in range(len(joints))]
    if float(np.median(owns)) < FOLLOWS:
        raise InputError(
            f"{place}: positions do not follow velocities (median correlation {np.median(owns):.2f} over "
            f"{len(owns)} joints): the observations are of another order, unit or control period than the environment's"
        )


def _pairs(layout: StateLayout) -> list[tuple[int, int, tuple[int, ...]]]:
    """Joints of one coordinate with position and velocity channels: index in qpos, in qvel, channels of the position.

    A name says which belong together: both are made from that of the joint.
    """
    by_name = {layout.names[place]: dof for dof, place in layout.velocity.items()}
    pairs = []
    for index, places in layout.position.items():
        dof = by_name.get(layout.names[places[0]].replace("position", "velocity"))
        if dof is not None and layout.names[places[0]].endswith("position"):
            pairs.append((index, dof, places))
    return pairs


def _change(channels: Array, places: tuple[int, ...]) -> Array:
    """Change of a position in each step; of an angle, the short way round. Shapes: (T + 1, C) -> (T,)."""
    if len(places) == 1:
        return np.diff(channels[:, places[0]])
    angle = np.arctan2(channels[:, places[1]], channels[:, places[0]])
    turned: Array = (np.diff(angle) + np.pi) % (2 * np.pi) - np.pi
    return turned


def _windows(parts: Sequence[Array]) -> Array:
    """Means over windows: noise averages out, and what dropouts make of them is cut. Shapes: (T,) each -> (N,)."""
    sums = [np.convolve(part, np.ones(WINDOW) / WINDOW, mode="valid") for part in parts if len(part) >= WINDOW]
    means = np.concatenate(sums or list(parts))
    middle = np.median(means)
    reach = 3 * 1.4826 * np.median(np.abs(means - middle))
    cut: Array = np.clip(means, middle - reach, middle + reach)
    return cut


def _correlation(one: Array, other: Array) -> float:
    if one.std() == 0 or other.std() == 0:
        return 1.0 if one.std() == other.std() else 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _said(layout: StateLayout, places: tuple[int, ...]) -> str:
    return f"'{layout.names[places[0]]}' (channel {places[0]})"


def split(log: Sequence[Logged]) -> tuple[list[Stretch], list[Stretch]]:
    """What is fitted, and what is held out."""
    whole = [Stretch(episode=index, start=0, stop=len(episode)) for index, episode in enumerate(log)]
    if len(log) >= HELD_OUT_EPISODES:
        last = HELD_OUT_EPISODES - 1
        held = [stretch for stretch in whole if stretch.episode % HELD_OUT_EPISODES == last]
        return [stretch for stretch in whole if stretch.episode % HELD_OUT_EPISODES != last], held
    cuts = [len(stretch) * 3 // 4 for stretch in whole]
    fitted = [Stretch(episode=s.episode, start=0, stop=cut) for s, cut in zip(whole, cuts, strict=True)]
    held = [Stretch(episode=s.episode, start=cut, stop=s.stop) for s, cut in zip(whole, cuts, strict=True)]
    return [s for s in fitted if len(s)], [s for s in held if len(s)]


def shortened(stretches: Sequence[Stretch], steps: int) -> list[Stretch]:
    """The first parts of all stretches, so long that together they have about so many steps."""
    share = min(1.0, steps / max(1, sum(map(len, stretches))))
    kept = [Stretch(episode=s.episode, start=s.start, stop=s.start + max(1, round(share * len(s)))) for s in stretches]
    return [stretch for stretch in kept if len(stretch)]
