"""Heads of critics: formulas in float64, properties, and what algorithms make of them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robot_rl.algorithms import (
    AWACConfig,
    FQLConfig,
    IQLConfig,
    RORLConfig,
    SACConfig,
    TD3Config,
    create,
)
from robot_rl.functional import tanh_gaussian
from robot_rl.functional.bellman import squared_td_error
from robot_rl.functional.distributional import (
    gaussian_histogram,
    project,
    quantile_loss,
    reduce_distributions,
    spread_around_mean,
    target_distribution,
)
from robot_rl.functional.ensemble import REDUCTIONS, reduce_heads, reduction_weight
from robot_rl.networks.critic_head import SCALAR, CriticHeadConfig, critic_head
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
SPEC = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(2,)))
LOW, HIGH, ATOMS, DEVIATION, HUBER = -4.0, 6.0, 11, 0.75, 0.5
CONFIGS = {
    "hl_gauss": CriticHeadConfig(kind="hl_gauss", minimum=LOW, maximum=HIGH, atoms=ATOMS, deviation=DEVIATION),
    "c51": CriticHeadConfig(kind="c51", minimum=LOW, maximum=HIGH, atoms=ATOMS),
    "quantile": CriticHeadConfig(kind="quantile", atoms=ATOMS, huber=HUBER),
}
HEADS = {name: critic_head(config) for name, config in CONFIGS.items()}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    expected = torch.as_tensor(np.asarray(expected), dtype=found.dtype)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# The formulas again, in NumPy, one number at a time -------------------------------------------------------------------
def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def histogram(y: float, low: float, high: float, bins: int, sigma: float) -> np.ndarray:
    """HL-Gauss's equation 3.3, normalised as in its listing 2."""
    y, edges = min(max(y, low), high), np.linspace(low, high, bins + 1)
    cumulative = np.array([0.5 * (1 + math.erf((edge - y) / (sigma * math.sqrt(2)))) for edge in edges])
    return (cumulative[1:] - cumulative[:-1]) / (cumulative[-1] - cumulative[0])


def projected(atoms: np.ndarray, probability: np.ndarray, low: float, high: float, count: int) -> np.ndarray:
    """C51's algorithm 1: each atom to the one below and the one above."""
    found, width = np.zeros(count), (high - low) / (count - 1)
    for atom, p in zip(atoms, probability, strict=True):
        b = (min(max(atom, low), high) - low) / width
        below, above = math.floor(b), math.ceil(b)
        if below == above:
            found[below] += p
        else:
            found[below] += p * (above - b)
            found[above] += p * (b - below)
    return found


def quantile_error(quantiles: np.ndarray, atoms: np.ndarray, probability: np.ndarray, kappa: float) -> float:
    """QR-DQN's algorithm 1, over kappa, averaged over quantiles."""
    total = 0.0
    for i, quantile in enumerate(quantiles):
        tau = (2 * i + 1) / (2 * len(quantiles))
        for atom, p in zip(atoms, probability, strict=True):
            u = atom - quantile
            loss = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
            total += p * abs(tau - (u < 0)) * loss / kappa
    return total / len(quantiles)


def q_of(kind: str, raw: np.ndarray) -> np.ndarray:
    """Expectations. Shapes: (*, Z) -> (*)."""
    if kind == "quantile":
        return raw.mean(-1)
    half = (HIGH - LOW) / (2 * ATOMS)
    support = np.linspace(LOW, HIGH, ATOMS) if kind == "c51" else np.linspace(LOW + half, HIGH - half, ATOMS)
    return softmax(raw) @ support


def error_of(kind: str, raw: np.ndarray, atoms: np.ndarray, probability: np.ndarray) -> float:
    """Loss of one critic in one row against atoms of the target with their probabilities."""
    if kind == "quantile":
        return quantile_error(raw, atoms, probability, HUBER)
    if kind == "c51":
        wanted = projected(atoms, probability, LOW, HIGH, ATOMS)
    else:
        wanted = histogram(float(probability @ atoms), LOW, HIGH, ATOMS, DEVIATION * (HIGH - LOW) / ATOMS)
    return -float(wanted @ np.log(softmax(raw)))


def returns_of(kind: str, next_raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and probabilities of one critic in one row. Shapes: (Z,) -> (Z,) twice."""
    if kind == "quantile":
        return next_raw, np.full(ATOMS, 1 / ATOMS)
    half = (HIGH - LOW) / (2 * ATOMS)
    support = np.linspace(LOW, HIGH, ATOMS) if kind == "c51" else np.linspace(LOW + half, HIGH - half, ATOMS)
    return support, softmax(next_raw)


def expected_errors(
    kind: str,
    raw: np.ndarray,
    next_raw: np.ndarray,
    reward: np.ndarray,
    discount: np.ndarray,
    bonus: np.ndarray,
    reduction: str = "min",
) -> np.ndarray:
    """Mean error of each critic against r + discount * (Z' + bonus), with Z' of the critic of least mean, the mean of
    all critics, or of each critic's own target. Shapes: (E, B, Z) twice, (B,)... -> (E,)."""
    least, losses = q_of(kind, next_raw).argmin(0), np.zeros(raw.shape[:2])
    for critic, row in np.ndindex(losses.shape):
        each = [returns_of(kind, member[row]) for member in next_raw]
        if reduction == "mean":
            atoms, probability = np.mean([a for a, _ in each], 0), np.mean([p for _, p in each], 0)
        else:
            atoms, probability = each[least[row] if reduction == "min" else critic]
        atoms = reward[row] + discount[row] * (atoms + bonus[row])
        losses[critic, row] = error_of(kind, raw[critic, row], atoms, probability)
    return losses.mean(1)


# Formulas -------------------------------------------------------------------------------------------------------------
def test_a_gaussian_histogram_is_the_papers() -> None:
    target = torch.cat([noise(40) * 4, torch.tensor([LOW, HIGH, -100.0, 100.0], dtype=torch.float64)])
    sigma = DEVIATION * (HIGH - LOW) / ATOMS
    found = gaussian_histogram(target, LOW, HIGH, ATOMS, sigma)
    close(found, [histogram(float(y), LOW, HIGH, ATOMS, sigma) for y in target])
    single = gaussian_histogram(target.float(), LOW, HIGH, ATOMS, sigma)
    close(single, [histogram(float(y), LOW, HIGH, ATOMS, sigma) for y in target])


def test_a_projection_is_the_papers() -> None:
    # atoms 0, 1, 2, 3: 1.25 gives 3/4 to 1 and 1/4 to 2; 9 is cut to 3
    found = project(torch.tensor([[1.25, 9.0]]), torch.tensor([[0.8, 0.2]]), 0.0, 3.0, 4)
    close(found, [[0.0, 0.6, 0.2, 0.2]])
    atoms, probability = noise(20, 7) * 5, noise(20, 7, seed=1).softmax(1)
    atoms[0] = torch.linspace(LOW, HIGH, 7)  # some of them on the grid
    expected = [projected(a, p, LOW, HIGH, ATOMS) for a, p in zip(atoms.numpy(), probability.numpy(), strict=True)]
    close(project(atoms, probability, LOW, HIGH, ATOMS), expected)
    close(project(atoms.float(), probability.float(), LOW, HIGH, ATOMS), expected)


def test_a_quantile_loss_is_the_papers() -> None:
    # two quantiles, 0 and 2, levels 1/4 and 3/4, one atom 1, threshold 0.5: huber(1) = 1 - 0.25 = 0.75 on both sides;
    # below: u = 1 > 0, 1/4 * 0.75; above: u = -1 < 0, (1 - 3/4) * 0.75; mean 0.1875
    one = torch.ones(1, 1, 1)
    close(quantile_loss(torch.tensor([[[0.0, 2.0]]]), one, one, 0.5), [[0.1875]])
    quantiles, atoms, probability = noise(3, 5, 6) * 2, noise(1, 5, 4, seed=1) * 2, noise(1, 5, 4, seed=2).softmax(2)
    expected = [
        [quantile_error(quantiles[e, b].numpy(), atoms[0, b].numpy(), probability[0, b].numpy(), 0.7) for b in range(5)]
        for e in range(3)
    ]
    close(quantile_loss(quantiles, atoms, probability, 0.7), expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", list(HEADS))
def test_q_and_error_of_a_head_are_the_formulas(kind: str, weighted: bool) -> None:
    head, raw, next_raw = HEADS[kind], noise(3, 8, ATOMS), noise(2, 8, ATOMS, seed=1)
    reward, discount = noise(8, seed=2), torch.tensor([0.99, 0.0, 0.9, 0.97, 0.99**3, 0.0, 0.5, 1.0]).double()
    close(head.q(raw), q_of(kind, raw.numpy()))
    target = reward + discount * head.q(next_raw).amin(dim=0)
    spread = head.spread(next_raw, discount, "min")
    weight = noise(8, seed=3).sigmoid() if weighted else None
    rows = [
        expected_errors(kind, raw[:, [b]].numpy(), next_raw[:, [b]].numpy(), *each)
        for b in range(8)
        for each in [(reward[[b]].numpy(), discount[[b]].numpy(), np.zeros(1))]
    ]
    expected = (np.stack(rows, 1) * (1 if weight is None else weight.numpy())).mean(1)
    close(head.error(raw, target, spread, weight), expected)


@pytest.mark.parametrize("kind", list(HEADS))
def test_without_a_spread_the_target_is_one_return(kind: str) -> None:
    raw, target = noise(2, 6, ATOMS), noise(6, seed=1) * 3
    expected = [[error_of(kind, raw[e, b].numpy(), target[[b]].numpy(), np.ones(1)) for b in range(6)] for e in (0, 1)]
    close(HEADS[kind].error(raw, target), np.mean(expected, 1))


@pytest.mark.parametrize("kind", list(HEADS))
def test_each_critic_can_have_a_target_of_its_own(kind: str) -> None:
    head, raw, target = HEADS[kind], noise(3, 6, ATOMS), noise(3, 6, seed=1)
    next_raw, discount = noise(3, 6, ATOMS, seed=2), torch.full((6,), 0.9).double()
    found = head.error(raw, target, head.spread(next_raw, discount, "own"))
    for each in range(3):
        alone = head.spread(next_raw[[each]], discount, "min")
        close(found[[each]], head.error(raw[[each]], target[each], alone))


def test_the_scalar_head_is_the_squared_error_of_the_output() -> None:
    raw, target, weight = noise(3, 5, 1), noise(5, seed=1), noise(5, seed=2).sigmoid()
    assert torch.equal(SCALAR.q(raw), raw[..., 0])
    assert torch.equal(SCALAR.error(raw, target, None, weight), squared_td_error(raw[..., 0], target, weight))
    assert SCALAR.spread(raw, target, "min") is None
    assert SCALAR.metrics(target) == {}


def test_the_variance_of_a_histogram_is_that_of_the_gaussian_and_of_a_bin() -> None:
    # V-GPS's helper scales by sqrt 2 twice; then this would be 2 sigma^2
    width, sigma = 0.1, 0.075
    found = gaussian_histogram(torch.tensor([0.03], dtype=torch.float64), -2.0, 2.0, 40, sigma)[0]
    centers = torch.linspace(-2 + width / 2, 2 - width / 2, 40, dtype=torch.float64)
    variance = found @ centers.square() - (found @ centers) ** 2
    assert math.isclose(variance, sigma**2 + width**2 / 12, rel_tol=0.01)


# Properties -----------------------------------------------------------------------------------------------------------
FLOATS = st.floats(-20, 20, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.tuples(FLOATS, st.floats(0.01, 1)), min_size=1, max_size=9), st.integers(2, 30))
def test_a_projection_is_a_distribution_and_keeps_a_mean_inside_the_range(
    pairs: list[tuple[float, float]], count: int
) -> None:
    atoms, mass = torch.tensor(pairs, dtype=torch.float64).T
    probability = mass / mass.sum()
    found = project(atoms, probability, LOW, HIGH, count)
    assert (found >= 0).all()
    assert math.isclose(found.sum(), 1, abs_tol=1e-9)
    mean = found @ torch.linspace(LOW, HIGH, count, dtype=torch.float64)
    assert LOW - 1e-9 <= mean <= HIGH + 1e-9
    assert math.isclose(mean, probability @ atoms.clamp(LOW, HIGH), abs_tol=1e-9)


@settings(deadline=None)
@given(FLOATS, st.integers(2, 60), st.floats(0.2, 3))
def test_what_hl_gauss_encodes_it_decodes_to_within_a_bin(target: float, bins: int, deviation: float) -> None:
    width = (HIGH - LOW) / bins
    head = critic_head(CriticHeadConfig(kind="hl_gauss", minimum=LOW, maximum=HIGH, atoms=bins, deviation=deviation))
    wanted = gaussian_histogram(torch.tensor([target], dtype=torch.float64), LOW, HIGH, bins, deviation * width)
    assert math.isclose(wanted.sum(), 1, abs_tol=1e-9)
    decoded = float(head.q(wanted.clamp(min=1e-300).log())[0])
    cut = min(max(target, LOW), HIGH)
    # cut off at the edge, half a Gaussian has its mean sqrt(2 / pi) deviations inside
    assert abs(decoded - cut) <= width * max(1.0, deviation * math.sqrt(2 / math.pi) + 0.5)
    if LOW + 4 * deviation * width < target < HIGH - 4 * deviation * width and deviation >= 0.5:
        assert abs(decoded - target) < 0.02 * width


@settings(deadline=None)
@given(
    st.lists(FLOATS, min_size=1, max_size=12),
    st.integers(1, 6),
    st.lists(st.floats(-3, 3), min_size=6, max_size=6),
)
def test_true_quantiles_have_the_least_quantile_loss(values: list[float], count: int, moves: list[float]) -> None:
    levels = (np.arange(count) + 0.5) / count
    true = np.quantile(values, levels, method="inverted_cdf")
    atoms = torch.tensor(values, dtype=torch.float64).view(1, 1, -1)
    uniform = torch.full_like(atoms, 1 / len(values))

    def loss(quantiles: np.ndarray) -> float:
        return float(quantile_loss(torch.tensor(quantiles).view(1, 1, -1), atoms, uniform, 1e-6))

    assert loss(true) <= loss(true + np.array(moves[:count])) + 1e-5


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=6), st.sampled_from(REDUCTIONS))
def test_weights_of_critics_give_the_reduced_value(values: list[float], reduction: str) -> None:
    q = torch.tensor(values, dtype=torch.float64)[:, None]
    weight = reduction_weight(q, reduction)
    assert math.isclose(weight.sum(), 1, abs_tol=1e-9)
    close((weight * q).sum(dim=0), reduce_heads(q, reduction), 1e-9)


@pytest.mark.parametrize("best_of", ["reduced", "each"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["c51", "quantile"])
def test_the_mean_of_the_target_distribution_is_the_target(kind: str, reduction: str, best_of: str) -> None:
    """For several actions too, and wherever entropy or a penalty has moved the target."""
    head, next_raw, discount = HEADS[kind], noise(4, 9, 3, ATOMS), noise(9, seed=1).sigmoid()
    q, target = head.q(next_raw), noise(9, seed=2)
    spread = head.spread(next_raw, discount, reduction, best_of)
    assert spread is not None
    atoms, probability = target_distribution(target, spread)
    assert atoms.shape == (1, 9, ATOMS)
    close((atoms * probability).sum(dim=-1)[0], target, 1e-9)
    # and its shape is that of the reduced distribution: its mean is the reduced value of the chosen action
    values = q.amax(dim=2) if best_of == "each" else q[:, range(9), reduce_heads(q, reduction).argmax(dim=1)]
    distribution = next_raw if kind == "quantile" else next_raw.softmax(-1)
    reduced = reduce_distributions(distribution, q, reduction, best_of)[0]  # (B, Z)
    mean = reduced.mean(-1) if kind == "quantile" else reduced @ torch.linspace(LOW, HIGH, ATOMS, dtype=torch.float64)
    close(mean, reduce_heads(values, reduction), 1e-9)


def test_after_a_termination_the_reward_is_the_only_return() -> None:
    atoms, probability = noise(1, 3, 5), noise(1, 3, 5, seed=1).softmax(-1)
    spread = spread_around_mean(atoms, probability, torch.tensor([0.0, 0.9, 0.0], dtype=torch.float64))
    assert (spread.deviation[0, [0, 2]] == 0).all()
    assert (spread.deviation[0, 1] != 0).any()


@pytest.mark.parametrize("kind", list(HEADS))
def test_shapes_that_would_broadcast_are_refused(kind: str) -> None:
    for raw, target in [((3, 5, ATOMS), (5, 1)), ((3, 5, ATOMS), (1, 5)), ((5, ATOMS), (5,))]:
        with pytest.raises(ValueError, match=r"\(E, B, Z\)"):
            HEADS[kind].error(torch.zeros(raw), torch.zeros(target))


@pytest.mark.parametrize("kind", ["hl_gauss", "c51"])
def test_targets_that_the_range_cuts_are_counted(kind: str) -> None:
    target = torch.tensor([LOW - 1, LOW, 0.0, HIGH + 0.1])
    assert HEADS[kind].metrics(target) == {"critic/target_outside": torch.tensor(0.5)}


@pytest.mark.parametrize("kind", list(HEADS))
def test_a_head_is_one_graph_for_the_compiler(kind: str) -> None:
    head = HEADS[kind]

    def loss(raw: Tensor, next_raw: Tensor, discount: Tensor, weight: Tensor) -> Tensor:
        target = discount * reduce_heads(head.q(next_raw), "min").amax(dim=1)
        return head.error(raw, target, head.spread(next_raw, discount, "min"), weight)

    inputs = noise(3, 8, ATOMS), noise(2, 8, 4, ATOMS, seed=1), noise(8, seed=2).sigmoid(), noise(8, seed=3).sigmoid()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))


@pytest.mark.parametrize("kind", list(HEADS))
def test_a_head_learns_a_coin(kind: str) -> None:
    """Returns of 5 and -3: the mean is 1, and what can tell more than the mean knows both sides and nothing between."""
    head, raw = HEADS[kind], torch.zeros(1, 2, ATOMS, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        shared = raw.mean(dim=1, keepdim=True).expand(1, 2, ATOMS)  # one critic, two outcomes
        head.error(shared, torch.tensor([5.0, -3.0])).sum().backward()
        optimizer.step()
    learned = raw.detach().mean(dim=1)
    assert math.isclose(head.q(learned), 1.0, abs_tol=0.1)
    if kind == "c51":  # atoms are 1 apart
        close(learned.softmax(-1)[0, [1, 9]], [0.5, 0.5], 0.02)
    if kind == "quantile":  # the middle one may lie anywhere between
        close(learned[0, [0, 1, 2, 8, 9, 10]], [-3.0, -3.0, -3.0, 5.0, 5.0, 5.0], 0.2)


# In algorithms --------------------------------------------------------------------------------------------------------
def batch(rows: int = 24) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        observation={"state": draw(rows, 4)},
        action=draw(rows, 2).tanh(),
        reward=draw(rows),
        discount=torch.where(draw(rows) > 1, 0.0, 0.99**3),  # three steps
        next_observation={"state": draw(rows, 4)},
        monte_carlo_return=draw(rows),
    )


def wide(agent: Any) -> Any:
    """Outputs that differ from row to row and from critic to critic: fresh ones are nearly flat."""
    generator = torch.Generator().manual_seed(3)
    for network in (agent.critic, agent.target_critic):
        for weight in network.weights:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.5
    return agent


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [each.detach().double().numpy() for each in tensors]


@pytest.mark.parametrize("kind", list(HEADS))
def test_td3_learns_from_the_distribution_of_the_lower_critic(kind: str) -> None:
    config = TD3Config(actor_hidden=[8], critic_hidden=[16], target_noise=0.0, critic_head=CONFIGS[kind])
    agent, rows = wide(create(config, SPEC, Seeds(0), CPU, None)), batch()
    state, following = rows.observation["state"], rows.next_observation["state"]
    with torch.no_grad():
        raw, next_raw = arrays(
            agent.critic.raw(state, rows.action), agent.target_critic.raw(following, agent.target_actor(following))
        )
    assert len(set(q_of(kind, next_raw).argmin(0))) == 2  # neither critic is the lower one everywhere
    expected = expected_errors(kind, raw, next_raw, *arrays(rows.reward, rows.discount), np.zeros(24)).sum()
    close(agent.update(rows)["critic/td_loss"], expected)


@pytest.mark.parametrize("kind", list(HEADS))
def test_sac_moves_the_distribution_by_the_entropy(kind: str) -> None:
    config = SACConfig(actor_hidden=[8], critic_hidden=[16], initial_temperature=0.3, critic_head=CONFIGS[kind])
    agent, rows = wide(create(config, SPEC, Seeds(0), CPU, None)), batch()
    state, following = rows.observation["state"], rows.next_observation["state"]
    generator = torch.Generator()
    generator.set_state(agent.generator.get_state())
    with torch.no_grad():
        mean, log_std = agent.actor(following)
        action, log_prob = tanh_gaussian.sample(mean[:, None], log_std[:, None], generator)
        raw, next_raw = arrays(agent.critic.raw(state, rows.action), agent.target_critic.raw(following, action[:, 0]))
    bonus = -0.3 * log_prob[:, 0].double().numpy()
    expected = expected_errors(kind, raw, next_raw, *arrays(rows.reward, rows.discount), bonus).mean()
    close(agent.update(rows)["critic/td_loss"], expected)


@pytest.mark.parametrize("kind", list(HEADS))
def test_iql_takes_its_target_for_one_return(kind: str) -> None:
    config = IQLConfig(
        actor_hidden=[8], critic_hidden=[16], value_hidden=[8], updated_value=False, critic_head=CONFIGS[kind]
    )
    agent, rows = wide(create(config, SPEC, Seeds(0), CPU, None)), batch()
    with torch.no_grad():
        (raw,) = arrays(agent.critic.raw(rows.observation["state"], rows.action))
        (target,) = arrays(rows.reward + rows.discount * agent.value_network(rows.next_observation["state"])[:, 0])
    losses = [[error_of(kind, each[b], target[[b]], np.ones(1)) for b in range(24)] for each in raw]
    close(agent.update(rows)["critic/td_loss"], np.mean(losses, 1).sum())


SMALL: dict[str, Any] = {"actor_hidden": [8], "critic_hidden": [8]}


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize(
    ("config", "reduction"),
    [
        (AWACConfig(**SMALL), "min"),
        (FQLConfig(**SMALL), "mean"),
        (FQLConfig(**SMALL, target_reduction="min"), "min"),
        (RORLConfig(**SMALL, critic_count=3, backup_entropy=False), "min"),
        (RORLConfig(**SMALL, critic_count=3, backup_entropy=False, target_critics="own"), "own"),
        (SACConfig(**SMALL, critic_reduction="sum", backup_entropy=False, conservative_weight=1.0), "min"),
        (SACConfig(**SMALL, critic_count=3, backup_entropy=False, target_reduction="mean"), "mean"),
    ],
    ids=["awac", "fql", "fql_min", "sac_n", "ro2o", "cql", "sac_mean"],
)
def test_critics_learn_from_the_reduced_distribution(
    config: Any, reduction: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, rows = wide(create(replace(config, critic_head=CONFIGS[kind]), SPEC, Seeds(0), CPU, None)), batch()
    with torch.no_grad():
        raw = agent.critic.raw(rows.observation["state"], rows.action)
    seen, judge = [], agent.target_critic.raw
    monkeypatch.setattr(agent.target_critic, "raw", lambda *inputs: seen.append(judge(*inputs)) or seen[-1])
    loss = agent.update(rows)["critic/td_loss"]
    raw, next_raw, reward, discount = arrays(raw, seen[0].view(raw.shape), rows.reward, rows.discount)
    errors = expected_errors(kind, raw, next_raw, reward, discount, np.zeros(24), reduction)
    averages = isinstance(config, FQLConfig) or getattr(config, "critic_reduction", "sum") == "mean"
    close(loss, errors.mean() if averages else errors.sum())
