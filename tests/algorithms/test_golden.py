"""Ten updates from a fixed seed give the numbers in `golden.json`.

`python tests/algorithms/test_golden.py` writes them anew. Do that only with a change that is meant to change them, and
say so in its commit.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robot_rl.algorithms import (
    AlgorithmConfig,
    AWACConfig,
    BCConfig,
    CQNConfig,
    DEASConfig,
    FQLConfig,
    HybridConfig,
    IDQLConfig,
    IQLConfig,
    QTransformerConfig,
    RORLConfig,
    SACConfig,
    TD3Config,
    create,
)
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.networks.judges import JudgesConfig
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

PATH = Path(__file__).with_name("golden.json")
TOLERANCE = 2e-3  # float32 after ten Adam steps, across processors
WIDTHS: dict[str, Any] = {"actor_hidden": [32, 32], "critic_hidden": [32, 32]}
ENSEMBLE: dict[str, Any] = {"critic_count": 4, "critic_subset": 2, "critic_layer_norm": True}
HISTOGRAM = CriticHeadConfig(kind="hl_gauss", minimum=-10.0, maximum=10.0, atoms=21)
JUDGED: dict[str, Any] = {"warm_up": 3, "minimum_held_out": 1, "calibration_limit": 1.0, "classifier_hidden": [32]}
JUDGED |= {"dynamics_hidden": [32], "dynamics_count": 3, "latent_hidden": [32], "latent_size": 8}
C51 = CriticHeadConfig(kind="c51", minimum=-2.0, maximum=2.0, atoms=11)
CONFIGS: dict[str, AlgorithmConfig] = {
    "bc": BCConfig(actor_hidden=[32, 32]),
    "iql": IQLConfig(**WIDTHS, value_hidden=[32, 32], actor_schedule_steps=100),
    "riql": IQLConfig(
        **WIDTHS,
        value_hidden=[32, 32],
        critic_count=5,
        critic_quantile=0.25,
        critic_huber=0.5,
        target_minimum=-1.0,
        updated_value=False,
        actor_loss="squared_error",
    ),
    "idql": IDQLConfig(actor_width=32, critic_hidden=[32, 32], value_hidden=[32, 32]),
    "sac": SACConfig(**WIDTHS),
    "rlpd": SACConfig(
        **WIDTHS, **ENSEMBLE, actor_reduction="mean", actor_batch="last", initialization="xavier_uniform"
    ),
    "calql": SACConfig(**WIDTHS, log_std="affine", conservative_weight=5.0, conservative_calibrated=True),
    "wsrl": SACConfig(
        **WIDTHS,
        **ENSEMBLE,
        actor_layer_norm=True,
        conservative_weight=1.0,
        conservative_calibrated=True,
        conservative_subset=2,
        conservative_lagrange_gap=0.8,
        max_target_backup=10,
        step_with_zero_gradients=True,
    ),
    "droq": SACConfig(**WIDTHS, critic_dropout=0.1, critic_layer_norm=True),
    "enoto": SACConfig(**WIDTHS, critic_count=4, target_reduction="weighted_min_pair", disagreement_temperature=20.0),
    "cqn": CQNConfig(critic_width=32, gru_layers=0),
    "cqn_as": CQNConfig(critic_width=32, dueling=True, critic_head=C51, critic_weight=0.1, cloning_weight=1.0),
    "deas": DEASConfig(
        **WIDTHS, value_hidden=[32, 32], critic_head=HISTOGRAM, value_target="distribution", critic_chunks="whole"
    ),
    "qtransformer": QTransformerConfig(bins=8, critic_width=16, value_minimum=-10.0, value_maximum=10.0),
    "fql": FQLConfig(**WIDTHS),
    "qc": FQLConfig(**WIDTHS, extraction="best_of_n", candidates=4),
    "awac": AWACConfig(**WIDTHS, weight_normalization="softmax"),
    "edac": RORLConfig(**WIDTHS, critic_count=4, diversity_weight=1.0),
    "ro2o": RORLConfig(
        **WIDTHS, critic_count=4, smoothness_weight=0.1, uncertainty_weight=0.1, actor_smoothness_weight=1.0
    ),
    "hybrid": HybridConfig(
        **WIDTHS,
        value_hidden=[32, 32],
        value_blend=0.5,
        value_expectile=0.7,
        importance_weights=True,
        penalty_weight=0.01,
        reward_correction=0.1,
        critic_quantile=0.25,
        judges=JudgesConfig(models=["classifiers", "simulator"], gap_estimator="resampled", **JUDGED),
    ),
    "vgdf_par": HybridConfig(
        **WIDTHS, accepted_share=0.25, mismatch_weight=0.1, judges=JudgesConfig(models=["dynamics", "latent"], **JUDGED)
    ),
    "td3": TD3Config(**WIDTHS),
    "rebrac": TD3Config(
        **WIDTHS, **ENSEMBLE, critic_cloning_weight=0.1, actor_cloning_weight=0.1, actor_normalize_value=True
    ),
    "pars": TD3Config(**WIDTHS, **ENSEMBLE, infeasible_weight=1e-3, infeasible_value=-50.0, actor_reduction="mean"),
}


def numbers(config: AlgorithmConfig) -> dict[str, float]:
    """Metrics of the tenth update, and the norm of every network."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    spec = Spec(observation={"state": ArraySpec(shape=(6,))}, action=ArraySpec(shape=(3,)))
    statistics = {"state": (torch.full((6,), 0.1), torch.full((6,), 1.5))}
    agent = create(config, spec, Seeds(0), torch.device("cpu"), statistics)
    metrics: dict[str, torch.Tensor] = {}
    extra = torch.Generator().manual_seed(1)
    for _ in range(10):
        following = {
            "next_action": torch.randn((64, 3), generator=extra).tanh(),
            "has_next_action": torch.randn(64, generator=extra) < 1.5,
            "real": torch.arange(64) % 2 == 0,
            "held_out": torch.arange(64) % 5 == 4,
        }
        batch = Batch(
            observation={"state": noise(64, 6)},
            action=noise(64, 3).tanh(),
            reward=noise(64),
            discount=torch.where(noise(64) > 1.5, 0.0, 0.99),
            next_observation={"state": noise(64, 6)},
            monte_carlo_return=noise(64),
            **following,
        )
        metrics = agent.update(batch, critic_updates=2)
    norms = {
        f"norm/{name}": torch.cat([each.detach().flatten() for each in value.parameters()]).norm()
        for name, value in vars(agent).items()
        if isinstance(value, nn.Module) and list(value.parameters())
    }
    return {name: round(float(value), 6) for name, value in (metrics | norms).items()}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_ten_updates_give_the_recorded_numbers(name: str) -> None:
    expected = json.loads(PATH.read_text())[name]
    found = numbers(CONFIGS[name])
    assert found.keys() == expected.keys()
    wrong = {
        key: (found[key], value)
        for key, value in expected.items()
        if not math.isclose(found[key], value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    }
    assert not wrong, wrong


if __name__ == "__main__":
    PATH.write_text(json.dumps({name: numbers(config) for name, config in CONFIGS.items()}, indent=1) + "\n")
