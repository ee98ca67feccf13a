"""What the contestants of `side_by_side.py` share: sizes, data, and how the parent asks them for updates.

A contestant is a process of its own, because peers have other dependencies. It makes its agent, says so, and then, for
each line on its input, updates for that many seconds and answers with one line of JSON.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch

OBSERVATION, ACTION, HIDDEN, BATCH = 39, 24, [256, 256], 256  # Adroit's sizes, roughly
EPISODES, STEPS = 20, 1000
DISCOUNT, TARGET_RATE = 0.99, 0.005
CASES = ("sac", "iql", "td3_bc", "redq", "cql", "calql", "calql_10", "bc", "awac")
CRITICS = {"redq": 10, "calql_10": 10}  # 2 in all others


class Columns(TypedDict):
    """Noise of the right shapes, float32: (EPISODES * STEPS, *). Each episode ends with a termination."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def columns() -> Columns:
    """The data, the same for all."""
    random, rows = np.random.default_rng(0), EPISODES * STEPS
    terminated = np.zeros(rows, np.float32)
    terminated[STEPS - 1 :: STEPS] = 1
    return {
        "observation": random.standard_normal((rows, OBSERVATION), np.float32),
        "action": np.tanh(random.standard_normal((rows, ACTION), np.float32)),
        "reward": random.standard_normal(rows, np.float32),
        "terminated": terminated,
    }


def serve(build: Callable[[str], Callable[[], object]]) -> None:
    """Build the update of the case named on the command line, and do as asked until the input ends.

    The update samples its batch itself. Where there is none, `build` raises `LookupError`.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the error output
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 d3rlpy draws from it

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        update = build(arguments.case)
    except LookupError as error:
        return answer(missing=str(error))
    update()
    update()
    answer(ready=True)
    for line in sys.stdin:
        end, updates, start = time.perf_counter() + float(line), 0, time.perf_counter()
        while updates < 2 or time.perf_counter() < end:
            update()
            updates += 1
        answer(updates=updates, seconds=time.perf_counter() - start)
    return None
