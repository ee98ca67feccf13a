"""Instructions of data sets: which encoder makes vectors of them, and what a run learns from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from robot_rl.apps.build import LoadedData
from robot_rl.config import TrainConfig
from robot_rl.data_config import LanguageConfig
from robot_rl.errors import InputError
from robot_rl.networks.language import HashText, ModelText, TableText, TextEncoder, fingerprint
from robot_rl.replay.language import instructed, steps_labelled, text_of, with_language, wrong_instructions
from robot_rl.seeding import Seeds


def text_encoder(config: LanguageConfig) -> TextEncoder | None:
    """The encoder of a configuration; None where instructions are not read.

    Raises:
        InputError: a path is missing, or holds no such encoder.
    """
    match config.encoder:
        case "none":
            return None
        case "hash":
            return HashText(size=config.size)
        case kind:
            if config.path is None:
                raise InputError(f"language.encoder={kind} needs language.path, of what lies on this machine")
            return TableText(path=config.path) if kind == "table" else ModelText(path=config.path)


def described(encoder: TextEncoder | None) -> dict[str, str] | None:
    """What a checkpoint keeps of an encoder."""
    return None if encoder is None else {"name": encoder.name, "fingerprint": fingerprint(encoder)}


def encoder_of_run(config: TrainConfig, state: Mapping[str, Any], place: str) -> TextEncoder | None:
    """The encoder that a run learned with, found again.

    Raises:
        InputError: it is not there any more, or makes other vectors.
    """
    encoder, kept = text_encoder(config.language), state.get("language")
    if encoder is not None and described(encoder) != kept:
        raise InputError(
            f"{place} learned with the text encoder {kept}, but its settings now give {described(encoder)}: put the "
            "file or folder of language.path back as it was"
        )
    return encoder


def require_data_alone(config: TrainConfig) -> None:
    """Refuse to act with what reads instructions: an environment says none.

    Raises:
        InputError: instructions are read, and there is an environment, or no data.
    """
    if config.language.encoder == "none":
        return
    if config.environment is not None:
        raise InputError(
            f"language.encoder={config.language.encoder} reads the instructions of data sets, and environments give "
            "none: leave the environment out, and judge the run by what it steers (docs/steering.md)"
        )


def taught(config: LanguageConfig, encoder: TextEncoder | None, name: str, data: LoadedData, seed: int) -> LoadedData:
    """The data set with vectors of its instructions, with labels as asked for, and with wrong instructions.

    Args:
        config: of the language.
        encoder: of the texts; None changes nothing.
        name: of the data set.
        data: as it was read.
        seed: of which episodes are shown under which wrong instruction.

    Raises:
        InputError: an episode has no instruction, or all have the same and some were to be wrong.
    """
    if encoder is None:
        return data
    right = []
    for index, episode in enumerate(data.episodes):
        text = text_of(episode, f"data set {name}, episode {index}")
        shown = instructed(episode, encoder.encode(text), text)
        right.append(shown if config.labels == "recorded" else steps_labelled(shown, config.last_steps))
    wrong = wrong_instructions(right, encoder, config.wrong, Seeds(seed).numpy("language", name))
    mean = float(np.mean(data.weights))
    facts = {"instructions": len({episode.metadata["language"] for episode in right}), "wrong_episodes": len(wrong)}
    return replace(
        data,
        spec=with_language(data.spec, encoder),
        episodes=[*right, *wrong],
        weights=[*data.weights, *[mean] * len(wrong)],
        facts={**data.facts, "language": facts},
    )
