"""CQN and CQN-AS: bins, the network, parity of losses with formulas in float64, how it chooses, what is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl import checkpoint
from robot_rl.algorithms import CQNConfig, cqn, with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.errors import InputError
from robot_rl.functional.coarse_to_fine import decode, encode, taken
from robot_rl.networks.coarse_to_fine import CoarseToFineCritic, Stream
from robot_rl.networks.critic_head import C51Head, CriticHeadConfig, critic_head
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
STEPS, ACTION, LEVELS, BINS, ROWS = 3, 2, 2, 3, 12
LOW, HIGH, ATOMS = -3.0, 2.0, 11
C51 = CriticHeadConfig(kind="c51", minimum=LOW, maximum=HIGH, atoms=ATOMS)
SMALL: dict[str, Any] = {"critic_width": 8, "levels": LEVELS, "bins": BINS}


def make(**settings) -> cqn.CQN:
    """Heads start at 0: they are drawn here, so that values differ."""
    spec = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(ACTION,))).chunked(STEPS)
    agent = cqn.create(CQNConfig(**(SMALL | settings)), spec, Seeds(0), CPU, None)
    for seed, network in enumerate((agent.critic, agent.target_critic)):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for stream in (network.advantage, network.common):
                if stream is not None:
                    for each in stream.head.parameters():
                        each.copy_(torch.randn(each.shape, generator=generator))
    return agent


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    length = torch.randint(1, STEPS + 1, (ROWS,), generator=generator)
    return Batch(
        observation={"state": noise(ROWS, 4)},
        action=noise(ROWS, STEPS * ACTION).tanh(),
        reward=noise(ROWS),
        discount=torch.where(noise(ROWS) > 0.5, 0.0, 0.97),
        next_observation={"state": noise(ROWS, 4)},
        valid=torch.arange(STEPS)[None] < length[:, None],
        recorded=noise(ROWS) > 0,
    )


# Independent formulas in float64 --------------------------------------------------------------------------------------
def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def of_stream(stream: Stream, x: np.ndarray) -> np.ndarray:
    """Shapes: (H, inputs) -> (H, outputs)."""
    for layer, norm in zip(stream.layers, stream.norms, strict=True):
        x = x @ double(layer.weight).T
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = x * double(norm.weight) + double(norm.bias)
        x = x * sigmoid(x)
    if stream.gru is not None:
        from_x, from_h = double(stream.gru.weight_ih_l0), double(stream.gru.weight_hh_l0)
        bias_x, bias_h = double(stream.gru.bias_ih_l0), double(stream.gru.bias_hh_l0)
        hidden, found = np.zeros(x.shape[1]), []
        for step in x:
            reset_x, update_x, new_x = np.split(from_x @ step + bias_x, 3)
            reset_h, update_h, new_h = np.split(from_h @ hidden + bias_h, 3)
            update = sigmoid(update_x + update_h)
            hidden = (1 - update) * np.tanh(new_x + sigmoid(reset_x + reset_h) * new_h) + update * hidden
            found.append(hidden)
        x = np.stack(found)
    return x @ double(stream.head.weight).T + double(stream.head.bias)


def of_critic(critic: CoarseToFineCritic, state: np.ndarray, middle: np.ndarray, level: int) -> np.ndarray:
    """One level, row by row. Shapes: (B, F), (B, D) -> (B, D, bins, Z)."""
    found = []
    for row in range(len(state)):
        x = np.stack(
            [
                np.concatenate(
                    [state[row], middle[row].reshape(STEPS, ACTION)[h], np.eye(STEPS)[h], np.eye(LEVELS)[level]]
                )
                for h in range(STEPS)
            ]
        )
        raw = of_stream(critic.advantage, x).reshape(STEPS * ACTION, BINS, -1)
        if critic.common is not None:
            raw = of_stream(critic.common, x).reshape(STEPS * ACTION, 1, -1) + raw - raw.mean(1, keepdims=True)
        found.append(raw)
    return np.stack(found)


def bins_of(action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Digits of the action in the base of the bins. Shapes: (B, D) -> (B, L, D) twice."""
    count = np.clip(np.floor((action + 1) / 2 * BINS**LEVELS), 0, BINS**LEVELS - 1).astype(int)
    digits = np.stack([count // BINS ** (LEVELS - 1 - level) % BINS for level in range(LEVELS)], 1)
    lows = np.stack(
        [
            -1 + 2 * sum(digits[:, k] / BINS ** (k + 1) for k in range(level)) + np.zeros(action.shape)
            for level in range(LEVELS)
        ],
        1,
    )
    return digits, lows + np.array([1 / BINS**level for level in range(LEVELS)])[:, None]


def softmax(logits: np.ndarray) -> np.ndarray:
    each = np.exp(logits - logits.max(-1, keepdims=True))
    return each / each.sum(-1, keepdims=True)


ATOM = np.linspace(LOW, HIGH, ATOMS)


def mean_of(raw: np.ndarray) -> np.ndarray:
    return softmax(raw) @ ATOM if raw.shape[-1] > 1 else raw[..., 0]


def projected(probability: np.ndarray, reward: float, discount: float) -> np.ndarray:
    """C51's projection, atom by atom. Shapes: (Z,) -> (Z,)."""
    found = np.zeros(ATOMS)
    for mass, atom in zip(probability, ATOM, strict=True):
        place = (np.clip(reward + discount * atom, LOW, HIGH) - LOW) / (HIGH - LOW) * (ATOMS - 1)
        low = int(np.floor(place))
        found[low] += mass * (1 - (place - low))
        if place > low:
            found[low + 1] += mass * (place - low)
    return found


def greedy(critic: CoarseToFineCritic, state: np.ndarray) -> np.ndarray:
    low = np.full((len(state), STEPS * ACTION), -1.0)
    for level in range(LEVELS):
        best = mean_of(of_critic(critic, state, low + 1 / BINS**level, level)).argmax(2)
        low = low + best * 2 / BINS ** (level + 1)
    return low + 1 / BINS**LEVELS


@pytest.mark.parametrize("head", [CriticHeadConfig(), C51], ids=["scalar", "c51"])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("padding", ["learned", "masked"])
@pytest.mark.parametrize("gru_layers", [0, 1])
def test_losses_of_an_update_are_those_of_the_formulas(head, dueling, padding, gru_layers) -> None:
    settings = {"critic_weight": 0.1, "cloning_weight": 2.0, "cloning_margin": 0.3}
    agent = make(critic_head=head, dueling=dueling, padding=padding, gru_layers=gru_layers, **settings)
    batch = make_batch()
    state, next_state = double(batch.observation["state"]), double(batch.next_observation["state"])
    next_digits, next_middle = bins_of(greedy(agent.critic, next_state))
    digits, middle = bins_of(double(batch.action))
    assert batch.valid is not None
    assert batch.recorded is not None
    weight = np.repeat(batch.valid.numpy(), ACTION, 1) if padding == "masked" else np.ones((ROWS, STEPS * ACTION))
    errors, targets, margins, dominances = [], [], [], []
    for level in range(LEVELS):
        raw = of_critic(agent.critic, state, middle[:, level], level)  # (B, D, bins, Z)
        following = of_critic(agent.target_critic, next_state, next_middle[:, level], level)
        for row in range(ROWS):
            for d in range(STEPS * ACTION):
                mine, theirs = raw[row, d, digits[row, level, d]], following[row, d, next_digits[row, level, d]]
                reward, discount = float(batch.reward[row]), float(batch.discount[row])
                y = reward + discount * mean_of(theirs)
                if head.kind == "c51":
                    error = -(projected(softmax(theirs), reward, discount) * np.log(softmax(mine))).sum()
                else:
                    error = (mine[0] - y) ** 2
                errors.append(weight[row, d] * error)
                targets.append(y)
                if batch.recorded[row]:
                    margins.append(np.maximum(0.3 - (mean_of(mine) - mean_of(raw[row, d])), 0).mean())
                    cumulative = softmax(mine).cumsum() - softmax(raw[row, d]).cumsum(-1)
                    dominances.append(np.maximum(cumulative, 0).sum(-1).mean())
    expected = {
        "critic/td_loss": np.mean(errors),
        "critic/target": np.mean(targets),
        "critic/margin_loss": np.mean(margins),
    }
    expected |= {"critic/dominance_loss": np.mean(dominances)} if head.kind == "c51" else {}
    before = {name: each.clone() for name, each in agent.critic.named_parameters()}
    metrics = agent.update(batch)
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name
    assert ("critic/dominance_loss" in metrics) == (head.kind == "c51")
    assert any(not torch.equal(each, before[name]) for name, each in agent.critic.named_parameters())


def test_bins_are_the_digits_of_an_action() -> None:
    # Fifths of 2: 0.3 lies in [0.2, 0.6), the fourth; of its fifths of 0.4 in [0.28, 0.36), the second.
    chosen, middle = encode(torch.tensor([[0.3, -1.0, 1.0]]), 2, 5)
    assert chosen.tolist() == [[[3, 0, 4], [1, 0, 4]]]
    torch.testing.assert_close(middle, torch.tensor([[[0.0, 0.0, 0.0], [0.4, -0.8, 0.8]]]))
    torch.testing.assert_close(decode(chosen, 5), torch.tensor([[0.32, -0.96, 0.96]]))


@given(
    levels=st.integers(1, 5),
    bins=st.integers(2, 6),
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8),
)
def test_an_action_comes_back_within_half_a_bin_and_a_bin_as_itself(levels, bins, values) -> None:
    action = torch.tensor([values])
    chosen, middle = encode(action, levels, bins)
    again = decode(chosen, bins)
    assert (again - action).abs().max() <= 1 / bins**levels + 1e-6
    assert torch.equal(encode(again, levels, bins)[0], chosen)
    widths = 2.0 / bins ** torch.arange(levels)
    assert ((again[:, None] - middle).abs() <= widths[:, None] / 2).all()


def test_one_projection_for_all_distributions_of_a_row_is_that_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    raw, next_raw = (torch.randn((4, LEVELS, 3, ATOMS), generator=generator, dtype=torch.float64) for _ in range(2))
    reward, discount = (
        torch.randn(4, generator=generator, dtype=torch.float64),
        torch.tensor([0.0, 0.5, 0.99, 1.0]).double(),
    )
    head = critic_head(C51)
    assert isinstance(head, C51Head)
    found, target = cqn.td_loss(raw, next_raw, reward, discount, head)
    spread = head.spread(next_raw.flatten(0, 2)[None], discount.repeat_interleave(3 * LEVELS), "mean")
    torch.testing.assert_close(found, head.error(raw.flatten(0, 2)[None], target, spread)[0])
    probability = next_raw.softmax(-1).flatten(1, 2)
    each = cqn.project_rows(probability, reward, discount, head)
    for row in range(4):
        wanted = projected(double(probability[row, 1]), float(reward[row]), float(discount[row]))
        np.testing.assert_allclose(double(each[row, 1]), wanted, atol=1e-12)


def test_the_outputs_of_the_chosen_bins_are_taken() -> None:
    raw = torch.arange(2 * 1 * 2 * 3 * 1).view(2, 1, 2, 3, 1)
    assert taken(raw, torch.tensor([[[0, 2]], [[1, 1]]]))[..., 0].tolist() == [[[0, 5]], [[7, 10]]]


@pytest.mark.parametrize("dueling", [False, True])
def test_all_levels_at_once_are_each_level_alone(dueling) -> None:
    agent, features = make(dueling=dueling), torch.randn((5, 4), generator=torch.Generator().manual_seed(0))
    middle = torch.rand((5, LEVELS, STEPS * ACTION), generator=torch.Generator().manual_seed(1))
    together = agent.critic(features, middle)
    for level in range(LEVELS):
        torch.testing.assert_close(
            together[:, level], agent.critic(features, middle[:, level : level + 1], level)[:, 0]
        )


def test_a_step_knows_of_those_before_it_through_the_gru_alone() -> None:
    for layers, knows in ((0, False), (1, True)):
        critic = make(gru_layers=layers).critic
        middle = torch.zeros(1, 1, STEPS * ACTION)
        other = middle.clone()
        other[..., :ACTION] = 0.7  # of the first step
        one, two = (critic(torch.ones(1, 4), each)[0, 0] for each in (middle, other))
        same = [
            torch.equal(one[h * ACTION : (h + 1) * ACTION], two[h * ACTION : (h + 1) * ACTION]) for h in range(STEPS)
        ]
        assert same == [False, not knows, not knows]


def test_the_best_bins_are_played_of_the_network_that_acts() -> None:
    observation = make_batch().observation
    for name in ("online", "target"):
        agent = make(acting_network=name)
        network = agent.critic if name == "online" else agent.target_critic
        wanted = greedy(network, double(observation["state"]))
        np.testing.assert_allclose(double(agent.act(observation, explore=False)), wanted, atol=1e-6)


def test_ties_are_drawn_where_it_may_be_random_and_the_first_bin_elsewhere() -> None:
    spec = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(1,)))
    agent = cqn.create(CQNConfig(critic_width=8, exploration_noise=0.0), spec, Seeds(0), CPU, None)  # all values are 0
    observation = {"state": torch.zeros(2000, 4)}
    explored = agent.act(observation, explore=True)
    assert len(explored.unique()) > 100  # of 125
    assert abs(float(explored.mean())) < 0.05
    assert agent.act(observation, explore=False).unique().tolist() == pytest.approx([-1 + 1 / 125])


def test_noise_is_added_where_it_explores() -> None:
    agent, observation = make(exploration_noise=0.1), {"state": torch.zeros(500, 4)}
    difference = agent.act(observation, explore=True) - agent.act(observation, explore=False)
    assert 0.03 < float(difference.std()) < 0.12  # some of it is cut at the bounds


def test_rows_of_the_robot_are_not_cloned() -> None:
    agents = [make(critic_weight=0.0, cloning_weight=1.0, critic_weight_decay=0.0) for _ in range(2)]
    batch = make_batch()
    assert batch.recorded is not None
    other = replace(batch, action=torch.where(batch.recorded[:, None], batch.action, -batch.action))
    for agent, each in zip(agents, (batch, other), strict=True):
        agent.update(each)
    left, right = (agent.critic.state_dict() for agent in agents)
    assert all(torch.equal(left[key], right[key]) for key in left)
    nothing = make(critic_weight=0.0, cloning_weight=1.0).update(
        replace(batch, recorded=torch.zeros(ROWS, dtype=torch.bool))
    )
    assert float(nothing["critic/margin_loss"]) == 0.0


def test_a_phase_may_end_cloning() -> None:
    agent = make(cloning_weight=1.0)
    assert agent.needs == {"valid", "recorded"}
    assert "critic/margin_loss" in agent.update(make_batch())
    agent.config = with_overrides(agent.config, {"cloning_weight": 0.0})
    assert agent.needs == {"valid"}
    assert "critic/margin_loss" not in agent.update(make_batch())
    with pytest.raises(InputError, match="levels shapes the networks"):
        with_overrides(agent.config, {"levels": 4})


def test_a_checkpoint_keeps_everything(tmp_path) -> None:
    def run(agent: Agent, steps: range) -> None:
        for step in steps:
            agent.update(make_batch(step), critic_updates=2)

    whole, first, second = (make(dueling=True, critic_head=C51) for _ in range(3))
    run(whole, range(6))
    run(first, range(3))
    tensors, state = checkpoint.pack_agent(first)
    checkpoint.save(tmp_path, 1, tensors, {"agent": state})
    tensors, loaded = checkpoint.load(checkpoint.checkpoints(tmp_path)[-1])
    checkpoint.unpack_agent(second, tensors, loaded["agent"])
    run(second, range(3, 6))
    a, b = checkpoint.pack_agent(whole)[0], checkpoint.pack_agent(second)[0]
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_more_values_than_float32_has_are_refused() -> None:
    with pytest.raises(InputError, match="finer than float32"):
        CQNConfig(levels=10, bins=5)
