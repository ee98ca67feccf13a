"""Recorded data made worse on purpose, to see what a learner bears.

The protocol of Yang et al. "Towards Robust Offline Reinforcement Learning under Diverse Data Corruption". ICLR 2024,
arXiv:2310.12955 (RIQL), as its code has it (github YangRui2015/RIQL cc07d81, `attack.py`): in a share of the
transitions one element is changed, at random or against a critic. What is given stays as it is; new arrays are
returned.

Letters: N transitions, M of which are chosen, A action.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array, Episode

SPLITTING = ("observation", "dynamics")
"""Elements after whose change the observation behind a step is no longer the one before the next."""
REWARD_RANGE = 30.0
"""A random reward lies within so many times `scale`, whatever the reward's own size."""

Values = dict[str, Array]
"""What is changed, each (N, *): observations by key, or `action`."""


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """Steps of episodes, one under the other."""

    observation: Values  # each (N, *)
    action: Array  # (N, A)
    reward: Array  # (N,)
    next_observation: Values  # each (N, *)

    def rows(self, chosen: Array) -> "Transitions":
        """Some of them. Shapes: chosen (M,) of indices."""
        return Transitions(
            observation={key: values[chosen] for key, values in self.observation.items()},
            action=self.action[chosen],
            reward=self.reward[chosen],
            next_observation={key: values[chosen] for key, values in self.next_observation.items()},
        )


Attack = Callable[[str, Transitions, Values], Values]
"""(element, the M chosen transitions, deviations of what is changed, each (*)) -> what to put there, each (M, *)."""


def corrupt(
    episodes: Sequence[Episode],
    *,
    element: str,
    mode: str,
    rate: float,
    scale: float,
    seed: int,
    attack: Attack | None = None,
) -> tuple[list[Episode], int]:
    """Episodes with corrupted transitions, and how many those are.

    Where observations are changed on one side of a step only, every transition becomes an episode of its own.

    Args:
        episodes: as recorded; their last transition counts where what follows it is recorded, or it terminated.
        element: what is changed: `observation` s, `action` a, `reward` r, `dynamics` s'.
        mode: `random`: x + U(-scale, scale) std(x), of a reward U(-30 scale, 30 scale); `adversarial`: what `attack`
            says, of a reward -scale r.
        rate: of the transitions, each chosen on its own.
        scale: as above; std over all transitions, channel by channel.
        seed: which transitions, and the noise.
        attack: chooses the changes; an adversarial reward needs none.

    Raises:
        InputError: an observation to be changed is an image.
    """
    generator = np.random.default_rng(seed)
    lengths = [transition_count(episode) for episode in episodes]
    found = transitions(episodes, lengths)
    chosen = np.flatnonzero(generator.random(len(found.reward)) < rate)
    if element == "reward":
        changed = _with_reward(found, chosen, mode, scale, generator)
    else:
        changed = _with_values(found, chosen, element, mode, scale, generator, attack)
    if element in SPLITTING:
        return split(episodes, lengths, changed), len(chosen)
    return _whole(episodes, lengths, changed, element), len(chosen)


def transition_count(episode: Episode) -> int:
    """Steps of which the next observation is recorded, or does not matter."""
    return len(episode) - (0 if episode.has_final_observation or bool(episode.terminated[-1]) else 1)


def transitions(episodes: Sequence[Episode], lengths: Sequence[int]) -> Transitions:
    """The first `lengths` steps of each episode. Copies."""
    keys = episodes[0].observation
    paired = list(zip(episodes, lengths, strict=True))
    return Transitions(
        observation={key: np.concatenate([e.observation[key][:count] for e, count in paired]) for key in keys},
        action=np.concatenate([e.action[:count] for e, count in paired]),
        reward=np.concatenate([e.reward[:count] for e, count in paired]),
        next_observation={
            key: np.concatenate([e.observation[key][1 : count + 1] for e, count in paired]) for key in keys
        },
    )


def split(episodes: Sequence[Episode], lengths: Sequence[int], given: Transitions) -> list[Episode]:
    """Episodes of one step each, with these transitions; whether a step terminated is as recorded."""
    terminated = np.concatenate([e.terminated[:count] for e, count in zip(episodes, lengths, strict=True)])
    metadata = [e.metadata for e, count in zip(episodes, lengths, strict=True) for _ in range(count)]
    both = {key: np.stack([given.observation[key], given.next_observation[key]], 1) for key in given.observation}
    return [
        Episode(
            observation={key: values[row] for key, values in both.items()},
            action=given.action[row : row + 1],
            reward=given.reward[row : row + 1],
            terminated=terminated[row : row + 1],
            truncated=~terminated[row : row + 1],
            metadata=metadata[row],
        )
        for row in range(len(given.reward))
    ]


def deviations(values: Values) -> Values:
    """Standard deviation of each channel over all rows. Shapes: each (N, *) -> each (*)."""
    return {key: rows.astype(np.float64).std(axis=0) for key, rows in values.items()}


def _with_reward(
    found: Transitions, chosen: Array, mode: str, scale: float, generator: np.random.Generator
) -> Transitions:
    reward = found.reward.astype(np.float64)
    if mode == "random":
        limit = REWARD_RANGE * scale
        reward[chosen] = generator.uniform(-limit, limit, len(chosen))
    else:
        reward[chosen] *= -scale
    return replace(found, reward=reward.astype(found.reward.dtype))


def _with_values(
    found: Transitions,
    chosen: Array,
    element: str,
    mode: str,
    scale: float,
    generator: np.random.Generator,
    attack: Attack | None,
) -> Transitions:
    values = _element(found, element)
    size = deviations(values)
    if mode == "random":
        part = {
            key: rows[chosen] + size[key] * generator.uniform(-scale, scale, rows[chosen].shape)
            for key, rows in values.items()
        }
    else:
        if attack is None:
            raise ValueError("the adversarial mode needs an attack")
        part = attack(element, found.rows(chosen), size)
    new = {key: rows.copy() for key, rows in values.items()}
    for key, rows in part.items():
        new[key][chosen] = rows
    match element:
        case "observation":
            return replace(found, observation=new)
        case "action":
            return replace(found, action=new["action"])
        case _:
            return replace(found, next_observation=new)


def _element(found: Transitions, element: str) -> Values:
    if element == "action":
        return {"action": found.action}
    values = found.observation if element == "observation" else found.next_observation
    for key, rows in values.items():
        if rows.dtype == np.uint8:
            raise InputError(f"corruption.element={element} changes numbers, but observation '{key}' is an image")
    return values


def _whole(episodes: Sequence[Episode], lengths: Sequence[int], given: Transitions, element: str) -> list[Episode]:
    """The episodes with their actions or rewards replaced, as far as they are transitions."""
    found, begin = [], 0
    for episode, count in zip(episodes, lengths, strict=True):
        rows = slice(begin, begin + count)
        if element == "action":
            found.append(replace(episode, action=np.concatenate([given.action[rows], episode.action[count:]])))
        else:
            found.append(replace(episode, reward=np.concatenate([given.reward[rows], episode.reward[count:]])))
        begin += count
    return found
