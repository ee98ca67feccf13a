"""Small agents and random batches for the tests of algorithms."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

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
    RobustSACConfig,
    RORLConfig,
    SACConfig,
    TD3Config,
)
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.networks.judges import JudgesConfig
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

WIDTHS = {"actor_hidden": [16, 16], "critic_hidden": [16, 16]}
DIFFUSION = {"critic_hidden": [16, 16], "value_hidden": [16], "time_width": 8}
HISTOGRAM = CriticHeadConfig(kind="hl_gauss", minimum=-10.0, maximum=10.0, atoms=21)
JUDGED = {"warm_up": 0, "calibration_limit": 1.0, "minimum_held_out": 1, "classifier_hidden": [16], "gap_samples": 3}
JUDGED |= {"dynamics_hidden": [16, 16], "dynamics_count": 3, "latent_hidden": [16], "latent_size": 4}
CALIBRATED = {"conservative_weight": 5.0, "conservative_calibrated": True, "conservative_samples": 4}

CONFIGS: dict[str, Callable[[], AlgorithmConfig]] = {
    "bc": lambda: BCConfig(actor_hidden=[16, 16]),
    "bc_squared_error": lambda: BCConfig(actor_hidden=[16, 16], loss="squared_error", actor_layer_norm=True),
    "bc_consistency": lambda: BCConfig(actor_hidden=[16, 16], policy="consistency", gradient_clip=1.0),
    "iql": lambda: IQLConfig(**WIDTHS, value_hidden=[16, 16]),
    "iql_dropout": lambda: IQLConfig(
        **WIDTHS, value_hidden=[16], actor_dropout=0.1, critic_layer_norm=True, gradient_clip=1.0, bounded_mean=False
    ),
    "riql": lambda: IQLConfig(
        **WIDTHS,
        value_hidden=[16, 16],
        critic_count=5,
        critic_quantile=0.25,
        critic_huber=1.0,
        target_minimum=-100.0,
        target_maximum=1000.0,
        updated_value=False,
        actor_loss="squared_error",
    ),
    "idql": lambda: IDQLConfig(**DIFFUSION, actor_width=16, candidates=4),
    "idql_best": lambda: IDQLConfig(
        **DIFFUSION,
        actor_width=8,
        actor_layer_norm=False,
        actor_dropout=0.0,
        actor_average_rate=0.0,
        activation="swish",
        critic_layer_norm=True,
        exploration="best",
        actor_schedule_steps=100,
        gradient_clip=1.0,
    ),
    "hybrid_mixture": lambda: HybridConfig(**WIDTHS),
    "h2o": lambda: HybridConfig(
        **WIDTHS,
        importance_weights=True,
        penalty_weight=0.01,
        backup_entropy=False,
        judges=JudgesConfig(models=["classifiers"], gap_estimator="gaussian", **JUDGED),
    ),
    "h2o_plus": lambda: HybridConfig(
        **WIDTHS,
        value_hidden=[16],
        critic_count=3,
        critic_quantile=0.25,
        critic_huber=1.0,
        critic_layer_norm=True,
        value_blend=0.5,
        value_expectile=0.7,
        importance_weights=True,
        gradient_clip=1.0,
        judges=JudgesConfig(models=["classifiers"], **JUDGED),
    ),
    "vgdf": lambda: HybridConfig(
        **WIDTHS, accepted_share=0.25, exploration_candidates=3, judges=JudgesConfig(models=["dynamics"], **JUDGED)
    ),
    "darc": lambda: HybridConfig(
        **WIDTHS, learn_from="simulator", reward_correction=1.0, judges=JudgesConfig(models=["classifiers"], **JUDGED)
    ),
    "par": lambda: HybridConfig(**WIDTHS, mismatch_weight=0.1, judges=JudgesConfig(models=["latent"], **JUDGED)),
    "hybrid_all": lambda: HybridConfig(
        **WIDTHS,
        importance_weights=True,
        penalty_weight=0.1,
        accepted_share=0.5,
        judges=JudgesConfig(models=["classifiers", "simulator", "dynamics"], gap_estimator="resampled", **JUDGED),
    ),
    "qarl": lambda: RobustSACConfig(**WIDTHS, adversary_size=1, gradient_clip=1.0),
    "risk_sac": lambda: RobustSACConfig(
        **WIDTHS, critic_head=CriticHeadConfig(kind="quantile", atoms=8), risk_level=0.25, risk_candidates=3
    ),
    "sac": lambda: SACConfig(**WIDTHS),
    "rlpd": lambda: SACConfig(
        **WIDTHS,
        critic_count=5,
        critic_subset=2,
        critic_layer_norm=True,
        actor_reduction="mean",
        actor_batch="last",
        initialization="xavier_uniform",
        temperature_parameterization="exp",
        gradient_clip=1.0,
    ),
    "calql": lambda: SACConfig(**WIDTHS, **CALIBRATED, log_std="affine", max_target_backup=3, backup_entropy=False),
    "cql_lagrange": lambda: SACConfig(
        **WIDTHS,
        conservative_weight=5.0,
        conservative_lagrange_gap=0.8,
        conservative_clip_minimum=-200.0,
        temperature_loss="logarithm",
        actor_critics="previous",
        backup_entropy=False,
        max_target_backup=3,
        max_target_of="each",
    ),
    "wsrl": lambda: SACConfig(
        **WIDTHS,
        **CALIBRATED,
        critic_count=5,
        critic_subset=2,
        subset_with_replacement=True,
        conservative_subset=2,
        conservative_importance_sampling=False,
        conservative_subtract_log_count=True,
        actor_layer_norm=True,
        critic_layer_norm=True,
        log_std="state_independent",
        temperature_states="next",
        step_with_zero_gradients=True,
        actor_behaviour_cloning_weight=0.1,
    ),
    "droq": lambda: SACConfig(**WIDTHS, critic_dropout=0.1, critic_layer_norm=True, actor_reduction="mean"),
    "enoto": lambda: SACConfig(
        **WIDTHS,
        critic_count=5,
        target_reduction="weighted_min_pair",
        disagreement_temperature=20.0,
        exploration_candidates=4,
        backup_entropy=False,
    ),
    "td3": lambda: TD3Config(**WIDTHS, actor_every=1),
    "td3_bc": lambda: TD3Config(
        **WIDTHS,
        actor_every=1,
        actor_value_weight=2.5,
        actor_normalize_value=True,
        actor_cloning_weight=1.0,
        actor_cloning_reduction="mean",
        gradient_clip=1.0,
    ),
    "rebrac": lambda: TD3Config(
        **WIDTHS,
        actor_every=1,
        critic_layer_norm=True,
        critic_cloning_weight=0.5,
        actor_cloning_weight=0.5,
        actor_reduction="min",
        actor_normalize_value=True,
        actor_cloning_final=0.1,
        actor_cloning_decay_updates=10,
        calibrated=True,
        target_updates="critic",
    ),
    "awac": lambda: AWACConfig(**WIDTHS),
    "awac_softmax": lambda: AWACConfig(
        **WIDTHS,
        weight_normalization="softmax",
        advantage_maximum=0.5,
        value_action="mode",
        bounded_mean=True,
        critic_layer_norm=True,
        gradient_clip=1.0,
        log_std="state_dependent",
    ),
    "cqn": lambda: CQNConfig(critic_width=16, gru_layers=0, acting_network="target", gradient_clip=1.0),
    "cqn_as": lambda: CQNConfig(
        critic_width=16,
        dueling=True,
        critic_head=CriticHeadConfig(kind="c51", minimum=-2.0, maximum=2.0, atoms=11),
        critic_weight=0.1,
        cloning_weight=1.0,
        padding="masked",
    ),
    "deas": lambda: DEASConfig(**WIDTHS, value_hidden=[16, 16], critic_head=HISTOGRAM, value_target="distribution"),
    "deas_scalar": lambda: DEASConfig(
        **WIDTHS, value_hidden=[16], critic_layer_norm=False, temperature=1.0, candidates=4, gradient_clip=1.0
    ),
    "qtransformer": lambda: QTransformerConfig(bins=5, critic_width=8, attention_heads=2),
    "qtransformer_unbounded": lambda: QTransformerConfig(
        bins=4, critic_width=8, critic_blocks=1, return_bound=False, gradient_clip=None, value_minimum=-50.0
    ),
    "fql": lambda: FQLConfig(**WIDTHS),
    "qc": lambda: FQLConfig(**WIDTHS, extraction="best_of_n", candidates=4, flow_steps=3),
    "fql_normalized": lambda: FQLConfig(
        **WIDTHS, critic_layer_norm=False, normalize_value=True, target_reduction="min", gradient_clip=1.0
    ),
    "sac_n": lambda: RORLConfig(**WIDTHS, critic_count=3, backup_entropy=False),
    "edac": lambda: RORLConfig(**WIDTHS, critic_count=4, diversity_weight=1.0),
    "rorl": lambda: RORLConfig(
        **WIDTHS,
        critic_count=4,
        perturbations=5,
        smoothness_weight=1e-2,
        uncertainty_weight=0.1,
        actor_smoothness_weight=0.5,
        gradient_clip=1.0,
    ),
    "ro2o": lambda: RORLConfig(
        **WIDTHS,
        critic_count=4,
        critic_layer_norm=True,
        target_critics="own",
        actor_reduction="lower_bound",
        actor_behaviour_cloning_weight=1.0,
        uncertainty_weight=0.3,
        perturbations=3,
    ),
    "pars": lambda: TD3Config(
        **WIDTHS,
        actor_every=1,
        critic_count=5,
        critic_subset=2,
        actor_subset=3,
        actor_reduction="mean",
        critic_reduction="mean",
        actor_layer_norm=True,
        critic_layer_norm=True,
        infeasible_weight=1e-3,
        infeasible_value=-50.0,
        initialization="orthogonal",
    ),
}

HEADS = {
    "hl_gauss": CriticHeadConfig(kind="hl_gauss", minimum=-60.0, maximum=40.0, atoms=11),
    "c51": CriticHeadConfig(kind="c51", minimum=-60.0, maximum=40.0, atoms=11),
    "quantile": CriticHeadConfig(kind="quantile", atoms=11),
}
for name in ("iql", "idql", "calql", "awac", "fql", "ro2o", "pars"):  # each agent with critics once
    for kind in HEADS:
        CONFIGS[f"{name}_{kind}"] = lambda name=name, kind=kind: replace(CONFIGS[name](), critic_head=HEADS[kind])


@pytest.fixture(params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> AlgorithmConfig:
    """Every algorithm, and every branch of its settings at least once."""
    return CONFIGS[request.param]()


@pytest.fixture
def spec() -> Spec:
    """Two observations of 3 and 2 channels, 2 actions."""
    observation = {"joints": ArraySpec(shape=(3,)), "object": ArraySpec(shape=(2,))}
    return Spec(observation=observation, action=ArraySpec(shape=(2,)))


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Noise that fits `spec`: make_batch(rows, seed)."""

    def make(rows: int, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        return Batch(
            observation={"joints": noise(rows, 3), "object": noise(rows, 2)},
            action=noise(rows, 2).tanh(),
            reward=noise(rows),
            discount=torch.where(noise(rows) > 1.5, 0.0, 0.99),
            next_observation={"joints": noise(rows, 3), "object": noise(rows, 2)},
            monte_carlo_return=noise(rows),
            next_action=noise(rows, 2).tanh(),
            has_next_action=noise(rows) < 1.5,
            real=noise(rows) < 0.0,
            held_out=noise(rows) > 1.0,
        )

    return make
