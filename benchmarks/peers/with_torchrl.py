"""TorchRL, in the interpreter that has it: its losses, replay buffer and target updates, in its examples' order."""

from collections.abc import Callable

import torch
from protocol import ACTION, BATCH, DISCOUNT, HIDDEN, OBSERVATION, TARGET_RATE, columns, serve
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhModule, TanhNormal, ValueOperator
from torchrl.objectives import CQLLoss, IQLLoss, REDQLoss, SACLoss, SoftUpdate, TD3BCLoss


def replay() -> TensorDictReplayBuffer:
    """The data, uniformly sampled."""
    data = {name: torch.from_numpy(values) for name, values in columns().items()}
    ends = data["terminated"].bool().unsqueeze(1)
    rows = TensorDict(
        {
            "observation": data["observation"],
            "action": data["action"],
            ("next", "observation"): data["observation"].roll(-1, 0),
            ("next", "reward"): data["reward"].unsqueeze(1),
            ("next", "terminated"): ends,
            ("next", "done"): ends,
        },
        [len(ends)],
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(ends)), batch_size=BATCH)
    buffer.extend(rows)
    return buffer


def build(case: str) -> Callable[[], object]:
    """The update of one case."""
    spec = Bounded(-torch.ones(ACTION), torch.ones(ACTION), (ACTION,))
    sizes = {"num_cells": list(HIDDEN), "activation_class": nn.ReLU}
    deterministic = case == "td3_bc"
    network = MLP(in_features=OBSERVATION, out_features=ACTION * (1 if deterministic else 2), **sizes)
    if deterministic:
        module = TensorDictModule(network, in_keys=["observation"], out_keys=["param"])
        actor = nn.Sequential(module, TanhModule(in_keys=["param"], out_keys=["action"], spec=spec))
        from tensordict.nn import TensorDictSequential

        actor = TensorDictSequential(*actor)
        actor.spec = spec
    else:
        network = nn.Sequential(network, NormalParamExtractor())
        module = TensorDictModule(network, in_keys=["observation"], out_keys=["loc", "scale"])
        actor = ProbabilisticActor(
            module, in_keys=["loc", "scale"], spec=spec, distribution_class=TanhNormal, return_log_prob=True
        )
    critic = ValueOperator(
        MLP(in_features=OBSERVATION + ACTION, out_features=1, **sizes), in_keys=["observation", "action"]
    )
    every = 1
    match case:
        case "sac":
            loss = SACLoss(actor, critic, num_qvalue_nets=2, delay_qvalue=True)
        case "redq":
            loss = REDQLoss(actor, critic, num_qvalue_nets=10, sub_sample_len=2, action_spec=spec)
        case "td3_bc":
            loss, every = TD3BCLoss(actor, critic, action_spec=spec, num_qvalue_nets=2), 2
        case "iql":
            value = ValueOperator(MLP(in_features=OBSERVATION, out_features=1, **sizes), in_keys=["observation"])
            loss = IQLLoss(actor, critic, value, num_qvalue_nets=2, expectile=0.7)
        case "cql":
            loss = CQLLoss(actor, critic, action_spec=spec, num_random=10, with_lagrange=True, lagrange_thresh=10.0)
        case _:
            raise LookupError(f"TorchRL has no {case}")
    loss.make_value_estimator(gamma=DISCOUNT)
    target = SoftUpdate(loss, tau=TARGET_RATE)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)
    buffer, count = replay(), 0

    def update() -> None:
        nonlocal count
        count += 1
        batch = buffer.sample()
        if case == "td3_bc":  # the actor every second time
            total, _ = loss.qvalue_loss(batch)
            if count % every == 0:
                total = total + loss.actor_loss(batch)[0]
        else:
            losses = loss(batch)
            total = sum(value for name, value in losses.items() if name.startswith("loss_") and name != "loss_actor_bc")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        target.step()

    return update


if __name__ == "__main__":
    serve(build)
