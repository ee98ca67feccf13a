"""The process that learns beside the loop of `robot-rl train` where `learner.place=process`.

    python -m robot_rl.apps.learner SOCKET

SOCKET is the number of an open file that it inherits. It reads the data sets again, gets agent and replay from the
loop, and ends when the loop says so, or has ended.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from robot_rl import checkpoint
from robot_rl.algorithms import with_overrides
from robot_rl.apps.build import build_agent, config_from_json, empty_buffer, load_data
from robot_rl.apps.corruption import corrupted
from robot_rl.apps.pixels import keep_frozen_features
from robot_rl.config import TrainConfig
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.loops.experience import Experience, Store
from robot_rl.loops.learning import BEAT_S, Learning, serve
from robot_rl.loops.phases import give_what_is_needed
from robot_rl.loops.pipe import framed, receive, tensors
from robot_rl.loops.remote import Beside
from robot_rl.loops.trace import generators
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec

EXPERIENCE = "experience"
"""Folder of a run in which it keeps what it did."""


def start(number: int) -> subprocess.Popen[bytes]:
    """Start the process; Ctrl-C in the terminal does not reach it."""
    command = [sys.executable, "-m", "robot_rl.apps.learner", str(number)]
    return subprocess.Popen(command, pass_fds=[number], start_new_session=True)


def beside(config: TrainConfig, folder: Path, spec: Spec, names: Sequence[str]) -> Beside | None:
    """What a run with this configuration needs to learn beside the loop; None: it learns inline.

    Args:
        config: of the run.
        folder: of the run.
        spec: of its environments.
        names: what it acts for: `online`, `robot`.

    Raises:
        InputError: an episode that was left behind cannot be read.
    """
    if config.learner.place == "inline":
        return None

    def opened(path: Path) -> Store:
        if path.exists():
            return EpisodeStore.append_to(path)
        provenance = {"format": "robot_rl", "policy": "training", "run": str(folder), "seed": config.seed}
        return EpisodeStore.create(path, spec, provenance=provenance)

    experience = {name: Experience(folder / EXPERIENCE / name, opened) for name in names}
    return Beside(settings=config.learner, start=start, experience=experience)


def main(arguments: Sequence[str]) -> int:
    """Learn; exit status 1 where that is not possible, or what is learned has diverged. The loop is told why."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    loaded = threading.Event()
    beats = threading.Thread(target=_beat, args=(connection, loaded), daemon=True)
    beats.start()
    try:
        begin = receive(connection)
        if begin is None:
            return 1
        learning, config = _learning(begin)
        loaded.set()
        beats.join()
        serve(connection, learning, weights_every=config.learner.weights_every)
    except InputError as error:
        loaded.set()
        beats.join()
        connection.sendall(framed({"kind": "failed", "error": str(error)}))
        return 1
    return 0


def _beat(connection: socket.socket, loaded: threading.Event) -> None:
    """Say that we are alive while data is read, which may take long."""
    while not loaded.wait(BEAT_S):
        try:
            connection.sendall(framed({"kind": "loading"}))
        except OSError:
            return


def _learning(begin: dict[str, Any]) -> tuple[Learning, TrainConfig]:
    config = config_from_json(begin["config"], "the run's configuration")
    os.nice(config.learner.nice)
    torch.set_num_threads(config.threads)
    spec = Spec.from_json(begin["spec"])
    sources: dict[str, ReplayBuffer] = {}
    for name, dataset in config.datasets.items():
        data = corrupted(name, dataset.corruption, load_data(name, dataset, spec, "the environment"))
        rows = sum(len(episode) + 1 for episode in data.episodes)
        sources[name] = empty_buffer(config, spec, rows, None, mapped=dataset.images == "mapped")
        for episode, weight in zip(data.episodes, data.weights, strict=True):
            sources[name].append(episode, weight=weight)
        sources[name].real = dataset.domain == "robot"
    for name, replay in begin["replays"].items():
        sources[name] = empty_buffer(config, spec, replay["state"]["capacity"], None)
        sources[name].real = replay["real"]
    agent = build_agent(config, spec, None, config.seed)
    for name, source in sources.items():
        keep_frozen_features(agent, source)
        if name in begin["replays"]:
            source.restore(tensors(begin["replays"][name]["tensors"]), begin["replays"][name]["state"])
    checkpoint.unpack_agent(agent, tensors(begin["agent"]["tensors"]), begin["agent"]["state"])
    agent.config = with_overrides(agent.config, begin["overrides"])
    give_what_is_needed(agent, sources)
    seeds = Seeds(config.seed)
    for generator in generators(agent):  # the loop goes on with the one that is saved
        generator.manual_seed(seeds.integer("learner", "agent", begin["updates"]))
    phase = config.phases[begin["phase"]]
    learning = Learning(
        agent=agent,
        sources=sources,
        replay=sources[phase.acts_for],
        phase=phase,
        execution=config.execution,
        generator=seeds.torch("learner", "batches", begin["updates"]),
        seen=begin["seen"],
        owed=begin["owed"],
        updates=begin["updates"],
    )
    return learning, config


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
