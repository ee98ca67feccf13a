"""Instructions as an observation, and episodes under a wrong one.

An instruction's vector is one more observation, the same at each step: every learner then sees it. Where cross-task
data alone does not force a critic to read it, some episodes are shown again under another instruction, as failures
(V-GPS, arXiv:2410.13816, appendix; its Cal-QL critic has none of these, its IQL critic a share of 0.1).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robot_rl.errors import InputError
from robot_rl.networks.language import TextEncoder
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

INSTRUCTION = "instruction"


def with_language(spec: Spec, encoder: TextEncoder) -> Spec:
    """The spec with the vector of an instruction among its observations; a spec that has it is as it was.

    Raises:
        InputError: it has one of another size.
    """
    there = spec.observation.get(INSTRUCTION)
    if there is not None:
        if there.shape != (encoder.size,):
            raise InputError(
                f"observation '{INSTRUCTION}' has shape {there.shape}, but {encoder.name} makes vectors of "
                f"{encoder.size}: use the encoder that it was made with"
            )
        return spec
    return replace(spec, observation={**spec.observation, INSTRUCTION: ArraySpec(shape=(encoder.size,))})


def spoken(encoder: TextEncoder, task: str) -> Array:
    """The vector of what somebody asks for. Shapes: -> (D,).

    Raises:
        InputError: nothing is asked for, or a text that the encoder does not know.
    """
    if not task.strip():
        raise InputError("this reads instructions and there is none: send `prompt` with the observation")
    return encoder.encode(task)


def instructed(episode: Episode, vector: Array, text: str) -> Episode:
    """The episode under an instruction. Shapes: (D,)."""
    rows = np.broadcast_to(np.asarray(vector, np.float32), (len(episode) + 1, len(vector)))
    return replace(
        episode,
        observation={**episode.observation, INSTRUCTION: rows},
        metadata={**episode.metadata, "language": text},
    )


def steps_labelled(episode: Episode, last: int = 3) -> Episode:
    """V-GPS's labels for demonstrations: -1 a step, 0 at the `last` ones, which are success.

    Its masks stop the bootstrap at each of the last steps. Here the episode terminates with its last step, as it
    can end only once: the values are the same, since what follows is worth 0 either way.
    """
    steps = len(episode)
    reward = np.where(np.arange(steps) >= steps - last, 0.0, -1.0).astype(np.float32)
    ends = np.arange(steps) == steps - 1
    return replace(episode, reward=reward, terminated=ends, truncated=np.zeros(steps, bool), success=ends)


def wrong_instructions(
    episodes: Sequence[Episode],
    encoder: TextEncoder,
    share: float,
    generator: np.random.Generator,
    reward: float = -1.0,
) -> list[Episode]:
    """Some episodes again, each under the instruction of another, which they do not fulfil.

    `reward` at every step, no termination: V-GPS's labels for rolled goals (reward -1, mask 1). With
    `replay.monte_carlo_tail=constant` they are then worth reward / (1 - discount).

    Args:
        episodes: each with its text in metadata `language`.
        encoder: of the texts.
        share: of all transitions, in [0, 1), that are of wrong instructions.
        generator: of which episodes, and of which instructions.
        reward: of a step that does not do what is asked.

    Raises:
        InputError: an episode without a text, or all have the same.
    """
    if share == 0:
        return []
    texts = [text_of(episode, f"episode {index}") for index, episode in enumerate(episodes)]
    known = sorted(set(texts))
    if len(known) < 2:
        raise InputError(
            f"language.wrong={share} needs at least two instructions, but all {len(texts)} episodes have {known}: "
            "set it to 0"
        )
    wanted = share / (1 - share) * sum(map(len, episodes))
    found: list[Episode] = []
    steps = 0
    while steps < wanted:
        for index in generator.permutation(len(episodes)):
            episode, text = episodes[index], texts[index]
            other = known[(known.index(text) + int(generator.integers(1, len(known)))) % len(known)]
            found.append(_failed(instructed(episode, encoder.encode(other), other), reward))
            steps += len(episode)
            if steps >= wanted:
                break
    return found


def text_of(episode: Episode, name: str) -> str:
    """Its instruction.

    Raises:
        InputError: it has none.
    """
    text = episode.metadata.get("language")
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            f"{name} has no instruction (metadata `language`): say it where the data is read "
            "(`robot-rl ingest .. language='pick up the can'`), or leave language.encoder=none"
        )
    return text


def _failed(episode: Episode, reward: float) -> Episode:
    steps = len(episode)
    last = np.arange(steps) == steps - 1
    return replace(
        episode,
        reward=np.full(steps, reward, np.float32),
        terminated=np.zeros(steps, bool),
        truncated=last,
        success=np.zeros(steps, bool),
        metadata={**episode.metadata, "wrong_instruction": True},
    )
