"""The learner's process of the tests: the one-joint task's agent, from what the loop says."""

import socket
import sys

import torch
from conftest import CPU, SMALL, empty_replay

from robot_rl import checkpoint
from robot_rl.algorithms import create, with_overrides
from robot_rl.config import ExecutionConfig, PhaseConfig
from robot_rl.loops.learning import Learning, serve
from robot_rl.loops.phases import give_what_is_needed
from robot_rl.loops.pipe import receive, tensors
from robot_rl.seeding import Seeds
from robot_rl.testing.fakes import OneJointEnvironment

torch.set_num_threads(1)
connection = socket.socket(fileno=int(sys.argv[1]))
begin = receive(connection)
assert begin is not None
agent = create(SMALL, OneJointEnvironment().spec, Seeds(0), CPU, None)
checkpoint.unpack_agent(agent, tensors(begin["agent"]["tensors"]), begin["agent"]["state"])
agent.config = with_overrides(agent.config, begin["overrides"])
replay = empty_replay()
replay.restore(tensors(begin["replays"]["online"]["tensors"]), begin["replays"]["online"]["state"])
give_what_is_needed(agent, {"online": replay})
phase = PhaseConfig(**begin["config"]["phases"][begin["phase"]])
learning = Learning(
    agent=agent,
    sources={"online": replay},
    replay=replay,
    phase=phase,
    execution=ExecutionConfig(),
    generator=Seeds(1).torch("batches"),
    seen=begin["seen"],
    owed=begin["owed"],
    updates=begin["updates"],
)
serve(connection, learning, weights_every=5)
