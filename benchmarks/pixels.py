"""Updates per second from images: ours beside a straightforward PyTorch implementation of the same algorithm.

    python benchmarks/pixels.py [--case drq strided] [--seconds 20] [--threads 1] [--mode eager] [--device cpu]

Both learn SAC as DrQ does (random shifts of 4 pixels, four convolutions of 32 channels, a neck of 50, two layers of
256) from 64 x 64 RGB images, three frames each, out of a buffer of bytes in memory. `strided` has the convolutions that
two cores train fastest, with strides of 2; `rlpd` besides ten critics with LayerNorm, two of them in the target, and
four critic updates to one of the actor. The other implementation follows the public ones: replay as arrays indexed with
numpy, shifts by `grid_sample`, a list of critics, PyTorch's Adam. Its encoder, like ours, is run once on what is seen
now and once on what is seen next.

All take turns within one process, a block of updates each, ours also with bfloat16 products in the encoder; a line
gives the median over the blocks in processor time (wall time on an accelerator), and how many times as fast that is.

`--rad FOLDER` has RAD (github.com/MishaLaskin/rad, Laskin et al. 2020) take turns too in case `drq`, unchanged: SAC
with the same networks and the same augmentation, a random crop of 64 out of 72 pixels, an update of actor and target
each time. FOLDER is a checkout; what it imports has to be there, beside matplotlib: `pip install --target OTHER
--no-deps gym==0.26.2 gym-notices scikit-image lazy-loader`, and `PYTHONPATH=OTHER`.

`--lerobot` adds cases `hilserl` and `hilserl_rlpd`, in which LeRobot 0.4.4 (github.com/huggingface/lerobot; `lerobot`
has to be importable) takes turns, unchanged: its SAC, which is HIL-SERL's, with its default sizes from two cameras and
eight numbers, one critic update to one of the actor; and with RLPD's ten critics, two of them in the target, and four
critic updates. Ours has the same networks but for its dropout behind the eyes, and ReLU in place of SiLU. Its
`use_torch_compile` is off, as in later versions of it, which say that the policy does not converge otherwise.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.algorithms import SACConfig, create
from robot_rl.config import ExecutionConfig
from robot_rl.loops.execution import learner
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.observation import PixelsConfig
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.mixture import draw_mixture
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Episode

SIDE, ACTION, NUMBERS, BATCH, DISCOUNT = 64, 4, 8, 128, 0.99
EPISODES, STEPS = 10, 200
WARM_UP = 1  # blocks that are not counted


@dataclass(frozen=True, kw_only=True)
class Case:
    """What both sides run."""

    critics: int
    subset: int
    layer_norm: bool
    critic_updates: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    padding: bool
    frames: int = 3
    cameras: tuple[str, ...] = ("camera",)
    numbers: bool = False
    encoder: dict[str, Any] = field(default_factory=dict)  # further settings of ours, here and in the next two
    pixels: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)

    def features(self) -> int:
        """What the convolutions give."""
        side = SIDE
        for stride in self.strides:
            side = (side + (2 if self.padding else 0) - 3) // stride + 1
        return self.channels[-1] * side * side


STRIDED: dict[str, Any] = {"channels": (16, 32, 64, 64), "strides": (2, 2, 2, 2), "padding": True}
DRQ: dict[str, Any] = {"channels": (32, 32, 32, 32), "strides": (2, 1, 1, 1), "padding": False}
CASES = {
    "drq": Case(critics=2, subset=2, layer_norm=False, critic_updates=1, **DRQ),
    "strided": Case(critics=2, subset=2, layer_norm=False, critic_updates=1, **STRIDED),
    "rlpd": Case(critics=10, subset=2, layer_norm=True, critic_updates=4, **STRIDED),
}
HILSERL: dict[str, Any] = {
    "layer_norm": True,
    "channels": (32, 32, 32, 32),
    "strides": (2, 2, 2, 2),
    "padding": False,
    "frames": 1,
    "cameras": ("front", "wrist"),
    "numbers": True,
    "encoder": {"kernels": [7, 5, 3, 3], "pooling": "spatial_embeddings"},
    "pixels": {"width": 256, "numbers_width": 256, "actor": "nothing"},
    "networks": {"actor_layer_norm": True},
}
LEROBOT_CASES = {
    "hilserl": Case(critics=2, subset=2, critic_updates=1, **HILSERL),
    "hilserl_rlpd": Case(critics=10, subset=2, critic_updates=4, **HILSERL),
}


def episodes(case: Case, generator: np.random.Generator) -> list[Episode]:
    """Noise: what is in the images does not change how long they take."""

    def observation() -> dict[str, Array]:
        images = (STEPS + 1, SIDE, SIDE, 3)
        seen: dict[str, Array] = {camera: generator.integers(0, 256, images, np.uint8) for camera in case.cameras}
        if case.numbers:
            seen["state"] = generator.normal(size=(STEPS + 1, NUMBERS)).astype(np.float32)
        return seen

    return [
        Episode(
            observation=observation(),
            action=generator.uniform(-1, 1, (STEPS, ACTION)).astype(np.float32),
            reward=generator.normal(size=STEPS).astype(np.float32),
            terminated=np.zeros(STEPS, bool),
            truncated=np.arange(STEPS) == STEPS - 1,
        )
        for _ in range(EPISODES)
    ]


# Ours -----------------------------------------------------------------------------------------------------------------
def ours(case: Case, data: list[Episode], device: torch.device, mode: str, precision: str) -> Callable[[], object]:
    """One update of ours, with everything from drawing the rows on."""
    bound = np.ones(ACTION)
    camera = ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8")
    seen = dict.fromkeys(case.cameras, camera)
    if case.numbers:
        seen["state"] = ArraySpec(shape=(NUMBERS,))
    spec = Spec(observation=seen, action=ArraySpec(shape=(ACTION,), low=-bound, high=bound))
    buffer = ReplayBuffer(
        spec,
        capacity=EPISODES * (STEPS + 1),
        scale=ActionScale.from_spec(spec.action),
        reward=RewardTransform(),
        discount=DISCOUNT,
        frame_stack=case.frames,
        device=device,
    )
    for episode in data:
        buffer.append(episode)
    encoder = VisionConfig(
        channels=list(case.channels),
        strides=list(case.strides),
        padding=case.padding,
        precision=precision,
        **case.encoder,
    )
    config = SACConfig(
        **case.networks,
        pixels=PixelsConfig(encoder=encoder, **case.pixels),
        critic_count=case.critics,
        critic_subset=case.subset,
        critic_layer_norm=case.layer_norm,
        actor_batch="last",
        temperature_parameterization="exp",
    )
    agent = create(config, spec.stacked(case.frames), Seeds(0), device, None)
    learning = learner(agent, {"online": buffer}, ExecutionConfig(mode=mode, updates_per_replay=1))
    generator = torch.Generator().manual_seed(0)

    def update() -> object:
        drawn = draw_mixture({"online": buffer}, {"online": BATCH}, case.critic_updates, generator)
        return learning.learn([drawn], critic_updates=case.critic_updates)

    return update


# The other ------------------------------------------------------------------------------------------------------------
class Frames:
    """A buffer of single frames that stacks them as it is asked: two arrays of row numbers, no copies kept."""

    def __init__(self, data: list[Episode], frames: int, device: torch.device) -> None:
        self.device, self.frames = device, frames
        self.frame = np.concatenate([each.observation["camera"].transpose(0, 3, 1, 2) for each in data])
        self.action = np.concatenate([np.vstack([each.action, each.action[-1:]]) for each in data])
        self.reward = np.concatenate([np.append(each.reward, 0.0) for each in data]).astype(np.float32)
        self.first = np.concatenate([np.full(STEPS + 1, index * (STEPS + 1)) for index in range(len(data))])
        self.generator = np.random.default_rng(0)
        self.starts = np.concatenate([index * (STEPS + 1) + np.arange(STEPS) for index in range(len(data))])

    def stack(self, row: Array) -> Tensor:
        rows = np.maximum(row[:, None] - np.arange(self.frames - 1, -1, -1), self.first[row][:, None])
        images = self.frame[rows].reshape(len(row), self.frames * 3, SIDE, SIDE)
        return torch.as_tensor(images).to(self.device).float()

    def sample(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        row = self.starts[self.generator.integers(0, len(self.starts), count)]
        action, reward = (torch.as_tensor(each[row]).to(self.device) for each in (self.action, self.reward))
        return self.stack(row), action, reward, self.stack(row + 1)


class Shift(nn.Module):
    """Random shifts by bilinear sampling of the padded image at whole pixels."""

    def forward(self, x: Tensor, pad: int = 4) -> Tensor:
        size = x.shape[-1] + 2 * pad
        x = F.pad(x, (pad, pad, pad, pad), "replicate")
        line = torch.linspace(-1 + 1 / size, 1 - 1 / size, size, device=x.device)[: size - 2 * pad]
        column = line[None].repeat(len(line), 1)
        grid = torch.stack([column, column.T], dim=2)[None].repeat(len(x), 1, 1, 1)
        move = torch.randint(0, 2 * pad + 1, (len(x), 1, 1, 2), device=x.device).to(x.dtype) * 2 / size
        return F.grid_sample(x, grid + move, padding_mode="zeros", align_corners=False)


class Convolutions(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3 * case.frames
        for outputs, stride in zip(case.channels, case.strides, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, int(case.padding)), nn.ReLU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x / 255.0 - 0.5).flatten(1)
        return features


def neck(case: Case) -> nn.Module:
    return nn.Sequential(nn.Linear(case.features(), 50), nn.LayerNorm(50), nn.Tanh())


def head(inputs: int, outputs: int, layer_norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in ((inputs, 256), (256, 256)):
        layers += [nn.Linear(a, b), *([nn.LayerNorm(b)] if layer_norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, outputs))


class Critics(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.neck = neck(case)
        self.heads = nn.ModuleList(head(50 + ACTION, 1, case.layer_norm) for _ in range(case.critics))

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([self.neck(features), action], dim=1)
        return torch.cat([each(x) for each in self.heads], dim=1)


class Straightforward:
    """SAC from images as public single-file implementations write it."""

    def __init__(self, case: Case, data: list[Episode], device: torch.device) -> None:
        torch.manual_seed(0)
        self.case, self.replay, self.shift = case, Frames(data, case.frames, device), Shift()
        self.encoder = Convolutions(case).to(device)
        self.critic, self.target = Critics(case).to(device), Critics(case).to(device)
        self.target.load_state_dict(self.critic.state_dict())
        self.actor_neck, self.actor = neck(case).to(device), head(50, 2 * ACTION, False).to(device)
        self.log_temperature = torch.zeros((), device=device, requires_grad=True)
        rate = 3e-4
        self.encoder_optimizer = torch.optim.Adam(self.encoder.parameters(), rate)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), rate)
        self.actor_optimizer = torch.optim.Adam([*self.actor_neck.parameters(), *self.actor.parameters()], rate)
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], rate)

    def act(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(self.actor_neck(features)).chunk(2, dim=1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        raw = normal.rsample()
        action = torch.tanh(raw)
        log_prob = normal.log_prob(raw) - torch.log(1 - action.square() + 1e-6)
        return action, log_prob.sum(1, keepdim=True)

    def update(self) -> None:
        temperature = self.log_temperature.exp().detach()
        for _ in range(self.case.critic_updates):
            images, action, reward, next_images = self.replay.sample(BATCH)
            features = self.encoder(self.shift(images))
            with torch.no_grad():
                next_features = self.encoder(self.shift(next_images))
                next_action, log_prob = self.act(next_features)
                chosen = torch.randperm(self.case.critics)[: self.case.subset].to(action.device)
                q = self.target(next_features, next_action)[:, chosen].min(1, keepdim=True).values
                target = reward[:, None] + DISCOUNT * (q - temperature * log_prob)
            loss = F.mse_loss(self.critic(features, action), target.expand(-1, self.case.critics))
            self.encoder_optimizer.zero_grad(set_to_none=True)
            self.critic_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.critic_optimizer.step()
            self.encoder_optimizer.step()
            with torch.no_grad():
                for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                    old.copy_(0.995 * old + 0.005 * new)
        seen = features.detach()
        new_action, log_prob = self.act(seen)
        q = self.critic(seen, new_action).min(1, keepdim=True).values
        actor_loss = (temperature * log_prob - q).mean()
        self.actor_optimizer.zero_grad(set_to_none=True)
        actor_loss.backward()
        self.actor_optimizer.step()
        temperature_loss = (self.log_temperature.exp() * (-log_prob - -ACTION).detach()).mean()
        self.temperature_optimizer.zero_grad(set_to_none=True)
        temperature_loss.backward()
        self.temperature_optimizer.step()


# A public one ---------------------------------------------------------------------------------------------------------
def rad(folder: Path, case: Case, data: list[Episode], device: torch.device) -> Callable[[], object]:
    """One update of RAD's `curl_sac.RadSacAgent` out of its own buffer."""
    sys.path.insert(0, str(folder))
    agents, utils = import_module("curl_sac"), import_module("utils")
    margin = 4
    agent = agents.RadSacAgent(
        (3 * case.frames, SIDE, SIDE),
        (ACTION,),
        device,
        hidden_dim=256,
        actor_update_freq=1,
        critic_target_update_freq=1,
        log_interval=10**9,
        data_augs="crop",
    )
    agent.augs_funcs = {"crop": lambda images: agents.rad.random_crop(images, SIDE)}  # theirs takes 84 by default
    stored = (3 * case.frames, SIDE + 2 * margin, SIDE + 2 * margin)
    buffer = utils.ReplayBuffer(stored, (ACTION,), EPISODES * STEPS, BATCH, device, SIDE)
    for episode in data:
        frames = np.pad(episode.observation["camera"], ((0, 0), (margin, margin), (margin, margin), (0, 0)), "edge")
        rows = np.maximum(np.arange(STEPS + 1)[:, None] - np.arange(case.frames - 1, -1, -1), 0)
        stacks = frames.transpose(0, 3, 1, 2)[rows].reshape(STEPS + 1, *stored)
        for t in range(STEPS):
            buffer.add(stacks[t], episode.action[t], episode.reward[t], stacks[t + 1], False)
    return lambda: agent.update(buffer, None, 1)


def lerobot(case: Case, data: list[Episode], device: torch.device) -> Callable[[], object]:
    """One update of LeRobot's SAC out of its own buffer, in the order of its learner."""
    types = import_module("lerobot.configs.types")
    modeling = import_module("lerobot.policies.sac.modeling_sac")
    buffers = import_module("lerobot.rl.buffer")
    kind, feature = types.FeatureType, types.PolicyFeature
    cameras = {camera: f"observation.images.{camera}" for camera in case.cameras}
    images = {name: feature(type=kind.VISUAL, shape=(3, SIDE, SIDE)) for name in cameras.values()}
    numbers = {"observation.state": feature(type=kind.STATE, shape=(NUMBERS,))}
    config = modeling.SACConfig(
        input_features=images | numbers,
        output_features={"action": feature(type=kind.ACTION, shape=(ACTION,))},
        num_critics=case.critics,
        num_subsample_critics=case.subset if case.subset < case.critics else None,
        utd_ratio=case.critic_updates,
        device=device.type,
        storage_device="cpu",
        use_torch_compile=False,
    )
    torch.manual_seed(0)
    policy = modeling.SACPolicy(config).to(device).train()
    of_policy = policy.get_optim_params()
    optimizers = {
        "critic": torch.optim.Adam(of_policy["critic"], config.critic_lr),
        "actor": torch.optim.Adam(of_policy["actor"], config.actor_lr),
        "temperature": torch.optim.Adam([policy.log_alpha], config.temperature_lr),
    }
    clipped = {
        "critic": list(policy.critic_ensemble.parameters()),
        "actor": list(policy.actor.parameters()),
        "temperature": [policy.log_alpha],
    }
    keys = list(config.input_features)
    buffer = buffers.ReplayBuffer(EPISODES * STEPS, device.type, keys, optimize_memory=True)
    for episode in data:
        states = {cameras[key]: _channels_first(episode.observation[key]) for key in case.cameras}
        states["observation.state"] = torch.as_tensor(episode.observation["state"])
        for t in range(STEPS):
            now, after = ({key: each[at : at + 1] for key, each in states.items()} for at in (t, t + 1))
            buffer.add(now, torch.as_tensor(episode.action[t]), float(episode.reward[t]), after, False, t == STEPS - 1)
    batches = buffer.get_iterator(BATCH, async_prefetch=False, queue_size=2)

    def step(name: str, batch: dict[str, Any]) -> None:
        loss = policy.forward(batch, model=name)[f"loss_{name}"]
        optimizers[name].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clipped[name], config.grad_clip_norm)
        optimizers[name].step()

    def update() -> None:
        for index in range(case.critic_updates):
            batch = next(batches)
            step("critic", batch)
            if index == case.critic_updates - 1:
                step("actor", batch)
                step("temperature", batch)
            policy.update_target_networks()

    return update


def _channels_first(images: Array) -> Tensor:
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255.0


# Measuring ------------------------------------------------------------------------------------------------------------
def block(update: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds of one update, over a block of them."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    wait()
    start = clock()
    for _ in range(count):
        update()
    wait()
    return (clock() - start) / count


def main() -> None:
    """Measure both, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="about so long for each case")
    parser.add_argument("--case", choices=list(CASES), nargs="*", default=list(CASES))
    parser.add_argument("--mode", default="eager", help="of ours: eager, compiled, graphed, compiled_graphed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rad", type=Path, help="a checkout of RAD, for case drq")
    parser.add_argument("--lerobot", action="store_true", help="cases beside LeRobot's code, which is importable")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    cases = {name: CASES[name] for name in given.case} | (LEROBOT_CASES if given.lerobot else {})
    for name, case in cases.items():
        data = episodes(case, np.random.default_rng(0))
        sides: dict[str, Callable[[], object]] = {}
        if name in LEROBOT_CASES:
            sides["LeRobot"] = lerobot(case, data, device)
        else:
            sides["straightforward"] = Straightforward(case, data, device).update
        beside = next(iter(sides))
        if given.rad is not None and name == "drq":
            sides["RAD"] = rad(given.rad, case, data, device)
        for precision in ("float32", "bfloat16"):
            sides[f"ours, {given.mode}, {precision}"] = ours(case, data, device, given.mode, precision)
        times: dict[str, list[float]] = {side: [] for side in sides}
        count, blocks, start = (10 if device.type == "cuda" else 1), 0, time.perf_counter()
        while blocks < WARM_UP + 3 or time.perf_counter() - start < given.seconds:
            for side, update in sides.items():
                times[side].append(block(update, count, device))
            blocks += 1
        medians = {side: median(each[WARM_UP:]) for side, each in times.items()}
        for side, seconds in medians.items():
            rate, ratio = case.critic_updates / seconds, medians[beside] / seconds
            print(f"{name:<12} {side:<24} {seconds * 1e3:8.1f} ms, {rate:7.1f} critic updates/s, {ratio:5.2f} x")
        print(f"{name:<12} of {blocks - WARM_UP} blocks each", flush=True)


if __name__ == "__main__":
    main()
