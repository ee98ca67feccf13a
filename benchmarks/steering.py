"""What steering and serving cost: latency over the number of candidates, and many clients of one server.

    OMP_NUM_THREADS=1 python benchmarks/steering.py --minutes 10
    OMP_NUM_THREADS=1 python benchmarks/steering.py --part critic --device cuda   # on an accelerator

One torch thread. Both agents are untrained SAC agents, networks of 256, 256 on 32 numbers, chunks of 8 actions of 7:
only the sizes matter. A policy that costs more is imitated by waiting that long in its forward pass.
"""

import argparse
import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import torch
from websockets.sync.client import connect

from robot_rl.algorithms.sac import SACConfig, create
from robot_rl.clock import MonotonicClock
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.observation import PixelsConfig
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.steering.agents import AgentProposer, CriticScorer
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.served import ServedAgent, ServedSteering
from robot_rl.steering.server import PolicyServer
from robot_rl.steering.steer import Record, Steerer
from robot_rl.types import Array

CHUNK, ACTION, STATE = 8, 7, 32
SPEC = Spec(
    observation={"state": ArraySpec(shape=(STATE,))},
    action=ArraySpec(shape=(ACTION,), low=np.full(ACTION, -1.0), high=np.full(ACTION, 1.0)),
    control_period_s=0.1,
    action_semantics="osc_pose_delta",
)
SEEING = replace(SPEC, observation={"camera": ArraySpec(shape=(128, 128, 3), dtype="uint8")})
RESNET = PixelsConfig(encoder=VisionConfig(kind="resnet34", pooling="average", coordinates=True, pixels="signed"))
KEYS = {"state": "observation/state"}
CPU = torch.device("cpu")


class Slow(AgentProposer):
    """Waits in each forward pass, as an accelerator would be waited for."""

    wait_s = 0.0

    def _encode(self, observation: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        if self.wait_s > 0:
            time.sleep(self.wait_s)
        return super()._encode(observation)


def steerer(candidates: int, records: list[Record], wait_s: float = 0.0) -> Steerer:
    """A policy and a critic of the same size."""
    policy, critic = (create(SACConfig(), SPEC.chunked(CHUNK), Seeds(seed), CPU, None) for seed in (0, 1))
    generator = torch.Generator().manual_seed(0)
    proposer = Slow(agent=policy, observations=SPEC, chunk=CHUNK, device=CPU, generator=generator)
    proposer.wait_s = wait_s
    return Steerer(
        proposer=proposer,
        scorer=CriticScorer(agent=critic, observations=SPEC, chunk=CHUNK, device=CPU),
        selector=ValueSelector(),
        candidates=candidates,
        clock=MonotonicClock(),
        generator=torch.Generator().manual_seed(0),
        keep=records.append,
    )


def latency(wait_s: float, repeats: int) -> None:
    """Medians over the decisions, after ten to warm up."""
    print(f"policy + {wait_s * 1e3:.0f} ms: K, total ms (median, 95 %), propose, encode, score, select")
    base = 0.0
    for candidates in (1, 4, 10, 16, 50):
        records: list[Record] = []
        deciding, random = steerer(candidates, records, wait_s), np.random.default_rng(0)
        for _ in range(repeats + 10):
            deciding.decide({"state": random.normal(size=STATE).astype(np.float32)})
        kept = records[10:]
        parts = [np.median([vars(each)[f"{p}_ms"] for each in kept]) for p in ("propose", "encode", "score", "select")]
        total = [each.total_ms for each in kept]
        median, high = np.median(total), np.quantile(total, 0.95)
        base = median if candidates == 1 else base
        more = f"+{100 * (median / base - 1):.0f} %"  # than the policy alone
        print(
            f"{candidates:4d} {median:8.2f} {high:8.2f}   " + " ".join(f"{part:6.2f}" for part in parts) + f"   {more}"
        )


def critic_cost(repeats: int, device: torch.device) -> None:
    """What more candidates cost a critic: of numbers, and of images that a ResNet-34 as V-GPS's encodes once."""
    print(
        f"critic on {device}: K, ms to encode, ms to score, both over both at K = 1 of the same turn (medians of "
        f"{repeats} turns), and the shortest of both"
    )
    for name, spec, config in (
        ("numbers, 2 x 256", SPEC, SACConfig()),
        ("ResNet-34, 128 px", SEEING, SACConfig(pixels=RESNET)),
    ):
        agent = create(config, spec.chunked(CHUNK), Seeds(0), device, None)
        scorer, random = (
            CriticScorer(agent=agent, observations=spec, chunk=CHUNK, device=device),
            np.random.default_rng(0),
        )
        observation = {
            key: random.integers(0, 256, array.shape, np.uint8)
            if array.is_image
            else random.normal(size=array.shape).astype(np.float32)
            for key, array in spec.observation.items()
        }
        counts = (1, 10, 50)
        asked = [random.uniform(-1, 1, (count, CHUNK, ACTION)) for count in counts]
        turns = []
        for _ in range(repeats + 3):
            turn = []
            for actions in asked:  # one after the other, so that other jobs slow them all
                start = time.perf_counter()
                encoded = scorer.encode(observation, "")
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                between = time.perf_counter()
                scorer.score(encoded, actions)  # its values come to the host, which waits for them
                turn.append((between - start, time.perf_counter() - between))
            turns.append(turn)
        times = np.array(turns[3:]) * 1e3  # (turns, counts, 2)
        whole = times.sum(axis=2)
        for at, count in enumerate(counts):
            encoding, scoring = np.median(times[:, at], axis=0)
            ratio, least = np.median(whole[:, at] / whole[:, 0]), whole[:, at].min()
            print(f"  {name}: {count:3d} {encoding:8.3f} {scoring:8.3f} {ratio:6.2f} {least:8.3f}")


def encode(value: Any) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def decode(items: dict[Any, Any]) -> Any:
    if b"__ndarray__" in items:
        return np.frombuffer(items[b"data"], np.dtype(items[b"dtype"])).reshape(items[b"shape"])
    return items


def soak(seconds: float, clients: int, rate_hz: float, steered: bool) -> None:
    """Clients of stock msgpack and websockets at a fixed rate; every answer is compared with the policy's own."""
    own = steerer(16, [])
    proposer: Any = own.proposer
    clock = MonotonicClock()
    policy: Any = ServedAgent(proposer=proposer, keys=KEYS, clock=clock)
    if steered:
        policy = ServedSteering(steerer=own, observations=SPEC, keys=KEYS)
    server = PolicyServer(policy=policy, keys=KEYS, port=0)
    ready, stop, loops = threading.Event(), asyncio.Event(), []

    async def serve() -> None:
        async with server.running():
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()

    running = threading.Thread(target=lambda: asyncio.run(serve()))
    running.start()
    ready.wait(30)
    took: list[float] = []
    crossed, dropped, missed = [0], [0], [0]

    def drive(number: int) -> None:
        random, check = np.random.default_rng(number), steerer(1, []).proposer
        with connect(f"ws://127.0.0.1:{server.port}", compression=None, max_size=None, proxy=None) as connection:
            connection.recv(timeout=10)
            start = time.monotonic()
            for step in range(int(seconds * rate_hz)):
                due = start + step / rate_hz
                time.sleep(max(0.0, due - time.monotonic()))
                state = random.normal(size=STATE).astype(np.float32)
                asked = time.monotonic()
                try:
                    connection.send(msgpack.packb({"observation/state": state}, default=encode))
                    answer = msgpack.unpackb(connection.recv(timeout=10), object_hook=decode)
                except (TimeoutError, OSError):
                    dropped[0] += 1
                    return
                took.append(time.monotonic() - asked)
                missed[0] += took[-1] > 1 / rate_hz
                wanted = check.decide({"state": state[None]})[0]  # type: ignore[attr-defined]
                near = answer["steering"]["chosen"] > 0 if steered else False
                crossed[0] += not (near or np.allclose(answer["actions"], wanted, rtol=1e-3, atol=1e-4))

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loops[0].call_soon_threadsafe(stop.set)
    running.join(30)
    milliseconds = np.quantile(np.array(took) * 1e3, [0.5, 0.95, 0.99, 1.0])
    print(
        f"{'steered, K = 16' if steered else 'policy alone'}: {clients} clients at {rate_hz:g} Hz for {seconds:g} s: "
        f"{len(took)} answers, {dropped[0]} dropped, {crossed[0]} crossed, {missed[0]} later than the period; "
        "ms 50/95/99/100 %: " + " ".join(f"{each:.1f}" for each in milliseconds)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="of each soak; the acceptance says 10")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--part", choices=("all", "latency", "critic", "soak"), default="all")
    parser.add_argument("--device", default="cpu", help="of the critic's cost")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part in ("all", "latency"):
        latency(0.0, given.repeats)
        latency(0.05, given.repeats // 2)
    if given.part in ("all", "critic"):
        critic_cost(max(5, given.repeats // 4), torch.device(given.device))
    if given.part in ("all", "soak"):
        soak(60 * given.minutes, 8, 10.0, steered=False)
        soak(60 * given.minutes, 8, 10.0, steered=True)


if __name__ == "__main__":
    main()
