"""What a run does besides where its agent learns from images."""

from dataclasses import asdict, replace
from typing import Any

from robot_rl.algorithms.agent import Agent
from robot_rl.networks.vision.observation import PixelEncoder
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.features import keep_features


def keep_frozen_features(agent: Agent, buffer: ReplayBuffer) -> None:
    """Where the agent's encoder is frozen and its settings say so, the buffer keeps features in place of images."""
    encoder = getattr(agent, "encoder", None)
    if isinstance(encoder, PixelEncoder):
        for key, (encode, features) in encoder.cached().items():
            keep_features(buffer, key, encode, features)


def encoder_weights(agent: Agent) -> list[dict[str, Any]]:
    """Fingerprints of the files that the agent's encoders began with, as JSON."""
    encoder = getattr(agent, "encoder", None)
    return [asdict(each) for each in encoder.fingerprints] if isinstance(encoder, PixelEncoder) else []


def without_initial_weights(algorithm: Any) -> Any:
    """An algorithm's settings for a checkpoint, which has the weights: the file they began with need not be there.

    A frozen transformer is still made from its file, which alone says its sizes.
    """
    pixels = getattr(algorithm, "pixels", None)
    if pixels is None or pixels.encoder.kind == "vit":
        return algorithm
    return replace(algorithm, pixels=replace(pixels, encoder=replace(pixels.encoder, weights=None)))
