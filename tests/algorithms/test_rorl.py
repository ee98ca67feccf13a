"""Smoothness, uncertainty and diversity: arithmetic, parity with formulas in float64, what their gradients do."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from robot_rl.algorithms import RORLConfig, create, rorl
from robot_rl.functional import smoothing
from robot_rl.networks.actor import GaussianActor
from robot_rl.networks.ensemble import Ensemble
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(2,)))


def make(**settings) -> rorl.RORL:
    config = RORLConfig(actor_hidden=[16, 16], critic_hidden=[16, 16], critic_count=3, **settings)
    agent = create(config, SPEC, Seeds(0), torch.device("cpu"), None)
    assert isinstance(agent, rorl.RORL)
    return agent


def batch(rows: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        observation={"state": noise(rows, 4)},
        action=noise(rows, 2).tanh(),
        reward=noise(rows),
        discount=torch.where(noise(rows) > 1, 0.0, 0.99),
        next_observation={"state": noise(rows, 4)},
    )


def test_overestimation_around_a_state_counts_more() -> None:
    # D of critic 1: 2, -1; of critic 2: 0, -1. Weighted squares: 0.8 * 4 = 3.2, 0.2; 0, 0.2. Means 1.6 and 0.2: max 1.6
    near, q = torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]]), torch.tensor([[1.0], [1.0]])
    torch.testing.assert_close(smoothing.critic_smoothness(near, q, 0.2), torch.tensor(1.6))


def test_disagreement_pulls_every_critic_down_by_its_size() -> None:
    # std of (1, 3) over one degree of freedom is sqrt(2): (0.5 sqrt(2))^2 = 0.5; the gradient of the mean of
    # (target - Q)^2 is -2 (target - Q) / 2 = 0.5 sqrt(2)
    q = torch.tensor([[1.0], [3.0]], requires_grad=True)
    loss = smoothing.uncertainty_penalty(q, 0.5)
    torch.testing.assert_close(loss.detach(), torch.tensor(0.5))
    loss.backward()
    torch.testing.assert_close(q.grad, torch.full((2, 1), 0.5 * math.sqrt(2)))


def test_the_lower_bound_is_mean_minus_deviations() -> None:
    # (1, 3): mean 2, deviation sqrt(2); (5, 5): 5 and 0
    found = smoothing.lower_bound(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), 4.0)
    torch.testing.assert_close(found, torch.tensor([2 - 4 * math.sqrt(2), 5.0]))


def test_the_symmetric_divergence_of_gaussians() -> None:
    # N(0, 1) and N(1, e^2): KL = 1 + 2 / (2 e^2) - 1/2 and KL' = -1 + (e^2 + 1) / 2 - 1/2; the further state counts
    zero = torch.zeros(1, 1)
    near_mean, near_log_std = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [1.0]]])
    expected = (1 + 2 / (2 * math.e**2) - 0.5) + (-1 + (math.e**2 + 1) / 2 - 0.5)
    found = smoothing.policy_smoothness(zero, zero, near_mean, near_log_std)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_gradients_in_one_direction_are_not_diverse() -> None:
    # three equal unit vectors: 6 pairs of product 1, over 2: 3. Orthogonal ones: 0. Two opposite ones: 2 * -1 over 1
    same = torch.tensor([[[2.0, 0.0]], [[1.0, 0.0]], [[5.0, 0.0]]])
    torch.testing.assert_close(smoothing.gradient_diversity(same), torch.tensor(3.0))
    apart = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    torch.testing.assert_close(smoothing.gradient_diversity(apart), torch.tensor(0.0))
    opposite = torch.tensor([[[2.0, 0.0]], [[-3.0, 0.0]]])
    torch.testing.assert_close(smoothing.gradient_diversity(opposite), torch.tensor(-2.0))


def test_perturbed_states_stay_within_the_radius() -> None:
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    near = smoothing.perturbed(features, 0.1, 200, torch.Generator().manual_seed(1))
    distance = (near - features[:, None]).abs()
    assert near.shape == (5, 200, 3)
    assert 0.09 < float(distance.max()) <= 0.1 + 1e-6


# Independent formulas in float64 ------------------------------------------------------------------------------------
Layers = list[tuple[np.ndarray, np.ndarray]]  # weight (E, out, in) and bias (E, out) of each layer


def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def of_critic(module: Ensemble) -> Layers:
    return [(double(w), double(b)) for w, b in zip(module.weights, module.biases, strict=True)]


def of_actor(module: GaussianActor) -> Layers:
    return [(double(each.weight)[None], double(each.bias)[None]) for each in module.network.layers]


def forward(layers: Layers, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (E, B, out) and their sum's gradient by x (E, B, in), by hand."""
    x, active = np.broadcast_to(x, (len(layers[0][0]), *x.shape)), []
    for index, (weight, bias) in enumerate(layers):
        x = np.einsum("ebi,eoi->ebo", x, weight) + bias[:, None]
        if index < len(layers) - 1:
            active.append(x > 0)
            x = np.maximum(x, 0)
    slope = np.ones_like(x)
    for index in reversed(range(len(layers))):
        slope = np.einsum("ebo,eoi->ebi", slope, layers[index][0])
        slope = slope * active[index - 1] if index > 0 else slope
    return x, slope


def value(layers: Layers, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Q (E, B)."""
    return forward(layers, np.concatenate([state, action], 1))[0][..., 0]


def gaussian(layers: Layers, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log deviation (B, A), within the default bounds."""
    mean, log_std = np.split(forward(layers, state)[0][0], 2, axis=1)
    return mean, np.clip(log_std, -5, 2)


def squashed(mean: np.ndarray, log_std: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """tanh of a sample (B, A), and its log density (B,)."""
    action = np.tanh(mean + np.exp(log_std) * noise)
    log_normal = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    return action, (log_normal - np.log(1 - action**2)).sum(1)


def divergence(mean: np.ndarray, log_std: np.ndarray, other: np.ndarray, other_log_std: np.ndarray) -> np.ndarray:
    """KL(p || q) of Gaussians, summed over dimensions."""
    ratio = (np.exp(2 * log_std) + (mean - other) ** 2) / (2 * np.exp(2 * other_log_std))
    return (other_log_std - log_std + ratio - 0.5).sum(-1)


def slope_along(loss: Callable[[Layers], float], layers: Layers, gradients: Layers) -> tuple[float, float]:
    """The directional derivative of a loss by central differences, and by the gradients found."""
    draws = np.random.default_rng(0)
    way = [tuple(draws.normal(size=each.shape) for each in pair) for pair in layers]

    def moved(step: float) -> Layers:
        return [(w + step * v, b + step * c) for (w, b), (v, c) in zip(layers, way, strict=True)]

    numeric = (loss(moved(1e-6)) - loss(moved(-1e-6))) / 2e-6
    found = sum(
        (g * v).sum() for pair, both in zip(gradients, way, strict=True) for g, v in zip(pair, both, strict=True)
    )
    return numeric, found


N = 3
TERMS = {
    "sac_n": {},
    "edac": {"diversity_weight": 0.7},
    "rorl": {"smoothness_weight": 0.5, "uncertainty_weight": 0.3, "actor_smoothness_weight": 0.2},
    "ro2o": {
        "target_critics": "own",
        "actor_reduction": "lower_bound",
        "uncertainty_weight": 0.3,
        "actor_behaviour_cloning_weight": 2.0,
    },
    "no_entropy": {"backup_entropy": False},
}


@pytest.mark.parametrize("name", list(TERMS))
def test_all_losses_and_their_weighted_sums_are_the_formulas(name: str) -> None:
    """Values by the reported metrics; how the terms are summed, by the gradients that the update leaves behind."""
    settings = {
        "smoothness_radius": 0.3,
        "uncertainty_radius": 0.2,
        "uncertainty_strength": 1.5,
        "actor_smoothness_radius": 0.4,
        "initial_temperature": 0.5,
        "temperature_learning_rate": 1e-2,
    }
    agent, rows = (
        make(perturbations=N, critic_learning_rate=0.0, actor_learning_rate=0.0, **settings, **TERMS[name]),
        batch(),
    )
    config, own = agent.config, torch.Generator()
    own.set_state(agent.generator.get_state())
    critic, target_critic, actor = of_critic(agent.critic), of_critic(agent.target_critic), of_actor(agent.actor)
    s, a, s2 = double(rows.observation["state"]), double(rows.action), double(rows.next_observation["state"])

    def normal(count: int) -> np.ndarray:
        return double(torch.randn((count, 2), generator=own))

    def around(radius: float) -> np.ndarray:
        return s[:, None] + radius * (2 * double(torch.rand((16, N, 4), generator=own)) - 1)  # (B, N, F)

    next_action, log_prob = squashed(*gaussian(actor, s2), normal(16))
    v = value(target_critic, s2, next_action)
    v = v if config.target_critics == "own" else v.min(0, keepdims=True)
    y = double(rows.reward) + double(rows.discount) * (v - 0.5 * log_prob * config.backup_entropy)
    near = around(0.3) if config.smoothness_weight else None
    outside = around(0.2).reshape(-1, 4) if config.uncertainty_weight else None
    elsewhere = None if outside is None else squashed(*gaussian(actor, outside), normal(16 * N))[0]
    pseudo = None
    if outside is not None:
        q = value(critic, outside, elsewhere)
        pseudo = q - 1.5 * q.std(0, ddof=1)

    def critic_terms(layers: Layers) -> dict[str, float]:
        q = value(layers, s, a)
        terms = {"critic/td_loss": np.square(q - y).mean(1).sum()}
        if config.diversity_weight:
            slope = forward(layers, np.concatenate([s, a], 1))[1][:, :, 4:]
            unit = slope / np.linalg.norm(slope, axis=2, keepdims=True)
            pairs = sum((unit[i] * unit[j]).sum(1) for i in range(3) for j in range(3) if i != j)
            terms["critic/diversity"] = (pairs / 2).mean()
        if near is not None:
            d = value(layers, near.reshape(-1, 4), a.repeat(N, 0)).reshape(3, 16, N) - q[:, :, None]
            each = 0.8 * np.maximum(d, 0) ** 2 + 0.2 * np.minimum(d, 0) ** 2
            terms["critic/smoothness"] = each.mean(0).max(1).mean()
        if outside is not None:
            terms["critic/uncertainty"] = np.square(pseudo - value(layers, outside, elsewhere)).mean()
        return terms

    noise = normal(16)
    actor_near = around(0.4) if config.actor_smoothness_weight else None

    def actor_terms(layers: Layers) -> dict[str, float]:
        mean, log_std = gaussian(layers, s)
        action, log_prob = squashed(mean, log_std, noise)
        q = value(critic, s, action)
        q = q.mean(0) - 4 * q.std(0, ddof=1) if config.actor_reduction == "lower_bound" else q.min(0)
        terms = {"actor/loss": (0.5 * log_prob - q).mean()}
        if actor_near is not None:
            other, other_log_std = (x.reshape(16, N, 2) for x in gaussian(layers, actor_near.reshape(-1, 4)))
            p, q = (mean[:, None], log_std[:, None]), (other, other_log_std)
            terms["actor/smoothness"] = (divergence(*p, *q) + divergence(*q, *p)).max(1).mean()
        if config.actor_behaviour_cloning_weight:
            terms["actor/cloning"] = np.square(action - a).mean()
        return terms

    metrics = agent.update(rows)
    for key, expected in (critic_terms(critic) | actor_terms(actor)).items():
        assert float(metrics[key]) == pytest.approx(expected, rel=1e-5, abs=1e-7), key
    weights = {
        "critic/diversity": config.diversity_weight,
        "critic/smoothness": config.smoothness_weight,
        "critic/uncertainty": config.uncertainty_weight,
        "actor/smoothness": config.actor_smoothness_weight,
        "actor/cloning": config.actor_behaviour_cloning_weight,
    }

    def total(terms: dict[str, float]) -> float:
        return sum(weights.get(key, 1.0) * term for key, term in terms.items())

    gradients = [(w.grad, b.grad) for w, b in zip(agent.critic.weights, agent.critic.biases, strict=True)]
    numeric, found = slope_along(
        lambda layers: total(critic_terms(layers)), critic, [(double(w), double(b)) for w, b in gradients]
    )
    assert found == pytest.approx(numeric, rel=1e-4)
    gradients = [(double(each.weight.grad)[None], double(each.bias.grad)[None]) for each in agent.actor.network.layers]
    numeric, found = slope_along(lambda layers: total(actor_terms(layers)), actor, gradients)
    assert found == pytest.approx(numeric, rel=1e-4)
    # The entropy, 16 rows of 2 dimensions, against its target of -2: the first step of Adam is as long as its rate.
    entropy = -squashed(*gaussian(actor, s), noise)[1].mean()
    assert float(metrics["actor/entropy"]) == pytest.approx(entropy, rel=1e-5)
    assert float(agent.temperature.raw.grad) == pytest.approx(entropy + 2, rel=1e-5)  # by its logarithm
    expected = 0.5 * math.exp(-1e-2 * math.copysign(1, entropy + 2))
    assert float(agent.temperature().detach()) == pytest.approx(expected, rel=1e-5)


def test_diversity_makes_gradients_diverse() -> None:
    settings = {"critic_learning_rate": 3e-3, "actor_learning_rate": 0.0, "target_rate": 0.0}
    values = {}
    for name, agent in (("apart", make(diversity_weight=5.0, **settings)), ("plain", make(**settings))):
        for _ in range(60):
            agent.update(batch())
        action = batch().action.requires_grad_()
        q = agent.critic(batch().observation["state"], action)
        gradient = torch.stack([torch.autograd.grad(each.sum(), action, retain_graph=True)[0] for each in q])
        values[name] = float(smoothing.gradient_diversity(gradient))
    assert values["apart"] < values["plain"] - 0.2


def test_smoothness_makes_the_policy_smooth() -> None:
    spread = {}
    for weight in (0.0, 5.0):
        agent = make(
            actor_smoothness_weight=weight, actor_smoothness_radius=0.5, actor_learning_rate=3e-3, perturbations=5
        )
        for _ in range(100):
            agent.update(batch())
        features = batch().observation["state"]
        near = smoothing.perturbed(features, 0.5, 50, torch.Generator().manual_seed(0))
        with torch.no_grad():
            mean, center = agent.actor(near.flatten(0, 1))[0], agent.actor(features)[0]
        spread[weight] = float((mean.unflatten(0, (16, 50)) - center[:, None]).abs().mean())
    assert spread[5.0] < 0.5 * spread[0.0]


def test_the_strength_falls_to_its_minimum() -> None:
    agent = make(uncertainty_strength=1.0, uncertainty_strength_minimum=0.3, uncertainty_decay=0.5)
    strengths = []
    for _ in range(4):
        strengths.append(agent._strength)
        agent.updates += 1
    assert strengths == [1.0, 0.5, 0.3, 0.3]
