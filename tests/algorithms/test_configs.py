"""Settings: every field is read, YAML composes, phases change what they may."""

import ast
import inspect
import math
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from robot_rl.algorithms import (
    ALGORITHM_CONFIGS,
    AWACConfig,
    BCConfig,
    CQNConfig,
    DEASConfig,
    FQLConfig,
    HybridConfig,
    IDQLConfig,
    IQLConfig,
    RORLConfig,
    SACConfig,
    TD3Config,
    awac,
    bc,
    cqn,
    deas,
    fql,
    hybrid,
    idql,
    iql,
    rorl,
    sac,
    td3,
    with_overrides,
)
from robot_rl.config import register
from robot_rl.errors import InputError
from robot_rl.networks import build
from robot_rl.networks.critic_head import CriticHeadConfig

ALGORITHM_FILES = sorted((Path(__file__).parents[2] / "configs" / "algorithm").glob("*.yaml"))

SQRT_2 = 1.4142135623730951
QC: dict[str, Any] = {
    "actor_hidden": [512, 512, 512, 512],
    "critic_hidden": [512, 512, 512, 512],
    "actor_layer_norm": False,
    "critic_layer_norm": True,
    "critic_count": 2,
    "candidates": 32,
    "critic_chunks": "whole",
    "target_reduction": "mean",
    "flow_steps": 10,
    "target_rate": 0.005,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "gradient_clip": None,
}
CALQL: dict[str, Any] = {
    "log_std": "affine",
    "log_std_minimum": -20.0,
    "log_std_maximum": 2.0,
    "actor_layer_norm": False,
    "critic_layer_norm": False,
    "initialization": "orthogonal",
    "hidden_gain": SQRT_2,
    "last_hidden_gain": None,
    "output_gain": 0.01,
    "critic_count": 2,
    "critic_subset": None,
    "critic_reduction": "sum",
    "critic_learning_rate": 3e-4,
    "target_rate": 0.005,
    "backup_entropy": False,
    "max_target_backup": 10,
    "actor_reduction": "min",
    "actor_learning_rate": 1e-4,
    "target_entropy_per_dimension": -1.0,
    "initial_temperature": 1.0,
    "temperature_parameterization": "exp",
    "temperature_learning_rate": 1e-4,
    "temperature_states": "current",
    "temperature_loss": "logarithm",
    "actor_critics": "previous",
    "max_target_of": "reduced",
    "step_with_zero_gradients": False,
    "conservative_samples": 10,
    "conservative_importance_sampling": True,
    "conservative_subtract_log_count": False,
    "conservative_temperature": 1.0,
    "conservative_subset": None,
    "conservative_clip_minimum": None,
    "conservative_clip_maximum": None,
    "conservative_clip_with_lagrange": True,
    "conservative_lagrange_gap": None,
    "conservative_lagrange_parameterization": "exp",
    "conservative_lagrange_initial": 2.718281828459045,
    "conservative_lagrange_maximum": 1e6,
    "conservative_lagrange_learning_rate": 3e-4,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    # nakamotoo/Cal-QL ac6eafe: JaxCQL/{conservative_sac,conservative_sac_main,model}.py; the main file's defaults
    "cql": CALQL
    | {
        "actor_hidden": [256, 256],
        "critic_hidden": [256, 256],
        "conservative_weight": 5.0,
        "conservative_calibrated": False,
    },
    # the same, and scripts/run_adroit.sh
    "calql": CALQL
    | {
        "actor_hidden": [512, 512],
        "critic_hidden": [512, 512, 512],
        "conservative_weight": 1.0,
        "conservative_calibrated": True,
    },
    # zhouzypaul/wsrl 891ee35: wsrl/{agents,networks}/, experiments/configs/, adroit_cql with --use_redq
    "wsrl": {
        "actor_hidden": [512, 512],
        "critic_hidden": [512, 512, 512],
        "log_std": "state_dependent",
        "log_std_minimum": pytest.approx(math.log(1e-5)),
        "log_std_maximum": pytest.approx(math.log(10)),
        "actor_layer_norm": True,
        "critic_layer_norm": True,
        "initialization": "orthogonal",
        "hidden_gain": SQRT_2,
        "last_hidden_gain": 0.01,
        "output_gain": SQRT_2,
        "critic_count": 10,
        "critic_subset": 2,
        "subset_with_replacement": True,
        "critic_reduction": "mean",
        "critic_learning_rate": 3e-4,
        "target_rate": 0.005,
        "backup_entropy": False,
        "max_target_backup": 10,
        "actor_reduction": "min",
        "actor_batch": "all",
        "actor_learning_rate": 1e-4,
        "target_entropy_per_dimension": -1.0,
        "initial_temperature": 1.0,
        "temperature_parameterization": "softplus",
        "temperature_learning_rate": 1e-4,
        "temperature_states": "next",
        "temperature_loss": "temperature",
        "max_target_of": "reduced",
        "step_with_zero_gradients": True,
        "conservative_weight": 1.0,
        "conservative_calibrated": True,
        "conservative_samples": 10,
        "conservative_importance_sampling": True,
        "conservative_subtract_log_count": True,
        "conservative_temperature": 1.0,
        "conservative_subset": 2,
        "conservative_clip_minimum": None,
        "conservative_clip_maximum": None,
        "conservative_clip_with_lagrange": False,
        "conservative_lagrange_gap": None,
        "conservative_lagrange_parameterization": "softplus",
        "conservative_lagrange_initial": 1.0,
        "conservative_lagrange_learning_rate": 3e-4,
    },
    # ikostrikov/rlpd c90fd4b: rlpd/agents/sac/sac_learner.py, configs/rlpd_config.py, README (Adroit)
    "rlpd": {
        "actor_hidden": [256, 256, 256],
        "critic_hidden": [256, 256, 256],
        "log_std": "state_dependent",
        "log_std_minimum": -20.0,
        "log_std_maximum": 2.0,
        "actor_layer_norm": False,
        "critic_layer_norm": True,
        "initialization": "xavier_uniform",
        "hidden_gain": 1.0,
        "last_hidden_gain": None,
        "output_gain": 1.0,
        "critic_count": 10,
        "critic_subset": 2,
        "subset_with_replacement": False,
        "critic_reduction": "mean",
        "critic_learning_rate": 3e-4,
        "target_rate": 0.005,
        "backup_entropy": False,
        "max_target_backup": 0,
        "actor_reduction": "mean",
        "actor_batch": "last",
        "actor_learning_rate": 3e-4,
        "target_entropy_per_dimension": -0.5,
        "initial_temperature": 1.0,
        "temperature_parameterization": "exp",
        "temperature_learning_rate": 3e-4,
        "temperature_states": "current",
        "temperature_loss": "temperature",
        "actor_critics": "updated",
        "step_with_zero_gradients": False,
    },
    # watchernyu/REDQ 7b5d1bf: redq/algos/{redq_sac,core}.py, with target_entropy='auto'
    "redq": {
        "actor_hidden": [256, 256],
        "critic_hidden": [256, 256],
        "log_std": "state_dependent",
        "log_std_minimum": -20.0,
        "log_std_maximum": 2.0,
        "actor_layer_norm": False,
        "critic_layer_norm": False,
        "initialization": "xavier_uniform",
        "hidden_gain": 1.0,
        "last_hidden_gain": None,
        "output_gain": 1.0,
        "critic_count": 10,
        "critic_subset": 2,
        "subset_with_replacement": False,
        "critic_reduction": "sum",
        "critic_learning_rate": 3e-4,
        "target_rate": 0.005,
        "backup_entropy": True,
        "max_target_backup": 0,
        "actor_reduction": "mean",
        "actor_batch": "last",
        "actor_learning_rate": 3e-4,
        "target_entropy_per_dimension": -1.0,
        "initial_temperature": 1.0,
        "temperature_parameterization": "exp",
        "temperature_learning_rate": 3e-4,
        "temperature_states": "current",
        "temperature_loss": "logarithm",
        "actor_critics": "previous",
        "step_with_zero_gradients": False,
    },
    # ikostrikov/implicit_q_learning 09d7002: learner.py, policy.py, common.py, configs/mujoco_config.py
    "iql": {
        "actor_hidden": [256, 256],
        "critic_hidden": [256, 256],
        "value_hidden": [256, 256],
        "actor_layer_norm": False,
        "critic_layer_norm": False,
        "critic_count": 2,
        "actor_dropout": 0.0,
        "log_std": "state_independent",
        "log_std_minimum": -5.0,
        "log_std_maximum": 2.0,
        "bounded_mean": True,
        "initialization": "orthogonal",
        "hidden_gain": SQRT_2,
        "last_hidden_gain": None,
        "output_gain": SQRT_2,
        "expectile": 0.7,
        "inverse_temperature": 3.0,
        "weight_maximum": 100.0,
        "target_rate": 0.005,
        "actor_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "value_learning_rate": 3e-4,
        "gradient_clip": None,
    },
    # YangRui2015/RIQL cc07d81: RIQL.py, its defaults; delta = 1 / sigma^2 with sigma 1
    "riql": {
        "actor_hidden": [256, 256],
        "critic_hidden": [256, 256],
        "value_hidden": [256, 256],
        "critic_count": 5,
        "bounded_mean": True,
        "initialization": "uniform",
        "hidden_gain": 1.0,
        "output_gain": 1.0,
        "expectile": 0.7,
        "critic_quantile": 0.25,
        "critic_huber": 1.0,
        "target_minimum": -100.0,
        "target_maximum": 1000.0,
        "updated_value": False,
        "actor_loss": "squared_error",
        "inverse_temperature": 3.0,
        "weight_maximum": 100.0,
        "target_rate": 0.005,
        "actor_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "value_learning_rate": 3e-4,
        "gradient_clip": None,
    },
    # philippe-eecs/IDQL 7582571: jaxrl5/agents/ddpm_iql/ddpm_iql_learner.py, launcher/examples/
    "idql": {
        "actor_width": 256,
        "actor_blocks": 3,
        "actor_layer_norm": True,
        "actor_dropout": 0.1,
        "activation": "mish",
        "time_features": 64,
        "time_width": 128,
        "critic_hidden": [256, 256],
        "value_hidden": [256, 256],
        "critic_layer_norm": False,
        "critic_count": 2,
        "initialization": "xavier_uniform",
        "hidden_gain": 1.0,
        "output_gain": 1.0,
        "diffusion_steps": 5,
        "candidates": 64,
        "expectile": 0.7,
        "target_rate": 0.005,
        "actor_average_rate": 0.001,
        "actor_learning_rate": 3e-4,
        "actor_weight_decay": 1e-4,
        "critic_learning_rate": 3e-4,
        "value_learning_rate": 3e-4,
        "gradient_clip": None,
    },
    # ColinQiyangLi/qc 48283b4: agents/acfql.py, README
    "qc": QC | {"extraction": "best_of_n"},
    "qc_fql": QC | {"extraction": "distilled", "distillation_weight": 100.0, "normalize_value": False},
    # younggyoseo/CQN-AS 00b4886: rlbench_src/cqn_as.py, cfgs/config_cqn_as_rlbench.yaml
    "cqn_as": {
        "critic_width": 512,
        "gru_layers": 1,
        "dueling": True,
        "critic_head": CriticHeadConfig(kind="c51", minimum=-2.0, maximum=2.0, atoms=51),
        "levels": 3,
        "bins": 5,
        "padding": "learned",
        "critic_weight": 0.1,
        "cloning_weight": 1.0,
        "cloning_margin": 0.01,
        "acting_network": "target",
        "exploration_noise": 0.01,
        "target_rate": 0.02,
        "critic_learning_rate": 5e-5,
        "critic_weight_decay": 0.1,
        "gradient_clip": None,
    },
    # csmile-1006/DEAS-Isaac-GR00T 1bfc846: gr00t/model/action_head/deas_critic.py, scripts/
    "deas": {
        "critic_hidden": [512, 512, 512, 512],
        "critic_layer_norm": True,
        "critic_count": 2,
        "critic_head": CriticHeadConfig(kind="hl_gauss", minimum=-100.0, maximum=0.0, atoms=101, deviation=0.75),
        "expectile": 0.9,
        "value_target": "distribution",
        "target_reduction": "min",
        "critic_chunks": "all",
        "temperature": 0.0,
        "target_rate": 0.005,
        "critic_learning_rate": 3e-4,
        "value_learning_rate": 3e-4,
    },
    # t6-thu/H2O 7c87f5a: SimpleSAC/sim2real_sac.py
    "h2o": {
        "critic_count": 2,
        "critic_learning_rate": 3e-4,
        "actor_learning_rate": 3e-4,
        "target_rate": 0.005,
        "backup_entropy": False,
        "importance_weights": True,
        "weight_minimum": 1e-5,
        "weight_maximum": 1.0,
        "penalty_weight": 0.01,
        "penalty_limit": 1000.0,
        "gap_maximum": 10.0,
    },
    # t6-thu/H2Oplus 58246d2: SimpleSAC/h2oplus.py
    "h2o_plus": {
        "value_blend": 0.5,
        "value_expectile": 0.5,
        "backup_entropy": True,
        "importance_weights": True,
        "weight_minimum": 1e-5,
        "weight_maximum": 1.0,
        "value_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "target_rate": 0.005,
    },
    # OffDynamicsRL/off-dynamics-rl d1a69cd: algo/online_online/par.py
    "par": {"critic_count": 2, "critic_quantile": 0.0, "backup_entropy": True, "learn_from": "both"},
    # rail-berkeley/softlearning 13cf187: softlearning/algorithms/sac.py; what differs is said in the recipe
    "sac": {
        "actor_hidden": [256, 256],
        "critic_hidden": [256, 256],
        "critic_count": 2,
        "critic_subset": None,
        "critic_reduction": "sum",
        "critic_learning_rate": 3e-4,
        "target_rate": 0.005,
        "backup_entropy": True,
        "max_target_backup": 0,
        "actor_learning_rate": 3e-4,
        "target_entropy_per_dimension": -1.0,
        "initial_temperature": 1.0,
        "temperature_parameterization": "exp",
        "temperature_learning_rate": 3e-4,
        "temperature_states": "current",
    },
}


MODULES = {
    awac: AWACConfig,
    bc: BCConfig,
    cqn: CQNConfig,
    deas: DEASConfig,
    fql: FQLConfig,
    hybrid: HybridConfig,
    idql: IDQLConfig,
    iql: IQLConfig,
    rorl: RORLConfig,
    sac: SACConfig,
    td3: TD3Config,
}


@pytest.mark.parametrize(("module", "kind"), list(MODULES.items()))
def test_every_setting_is_read(module: ModuleType, kind: type) -> None:
    read = {
        node.attr
        for source in (module, build)
        for node in ast.walk(ast.parse(inspect.getsource(source)))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id == "config")
            or (isinstance(node.value, ast.Attribute) and node.value.attr == "config")
        )
    }
    assert {item.name for item in fields(kind)} - read == set()


@pytest.mark.parametrize("kind", list(ALGORITHM_CONFIGS.values()))
def test_settings_that_phases_may_change_exist(kind: Any) -> None:
    assert {item.name for item in fields(kind)} > kind.SWITCHABLE
    assert not any("hidden" in name or "initial" in name or "layer_norm" in name for name in kind.SWITCHABLE)


def composed(name: str, *overrides: str) -> Any:
    register()
    with initialize_config_dir(str(ALGORITHM_FILES[0].parents[1]), version_base=None):
        return OmegaConf.to_object(compose(overrides=[f"+algorithm={name}", *overrides]))["algorithm"]


@pytest.mark.parametrize("path", ALGORITHM_FILES, ids=lambda path: path.stem)
def test_every_recipe_composes_and_says_where_it_is_from(path: Path) -> None:
    assert type(composed(path.stem)) in ALGORITHM_CONFIGS.values()
    comment = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"algorithm={path.stem}`" in comment


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_recipe_has_the_settings_of_the_public_code(name: str) -> None:
    config = vars(composed(name))
    assert {setting: config[setting] for setting in PUBLISHED[name]} == PUBLISHED[name]


def test_a_setting_can_be_given_on_the_command_line() -> None:
    assert composed("wsrl", "algorithm.conservative_weight=0").conservative_weight == 0


def test_overrides_change_a_copy() -> None:
    config = SACConfig(conservative_weight=5.0)
    changed = with_overrides(config, {"conservative_weight": 0, "conservative_lagrange_gap": None})
    assert (config.conservative_weight, changed.conservative_weight) == (5.0, 0)
    assert type(changed) is SACConfig


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"conservativ_weight": 0.0}, "did you mean 'conservative_weight'"),
        ({"critic_count": 3}, "critic_count shapes the networks"),
        ({"conservative_weight": "none"}, "must be float"),
        ({"conservative_calibrated": 1}, "must be bool"),
        ({"critic_subset": True}, "must be int or none"),
        ({"actor_reduction": "mena"}, "did you mean 'mean'"),
        ({"actor_learning_rate": -1.0}, "actor_learning_rate=-1.0"),
        ({"critic_subset": 3}, r"critic_subset=3 must lie in \[1, 2\]"),
    ],
)
def test_overrides_that_cannot_be_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_overrides(SACConfig(), overrides)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SACConfig, {"log_std": "state_dependant"}, "did you mean 'state_dependent'"),
        (SACConfig, {"critic_count": 2, "conservative_subset": 5}, "conservative_subset=5"),
        (SACConfig, {"initial_temperature": 0.0}, "initial_temperature"),
        (SACConfig, {"conservative_weight": -1.0}, "conservative_weight"),
        (SACConfig, {"target_rate": 1.5}, "target_rate"),
        (IQLConfig, {"expectile": 1.0}, "expectile"),
        (IQLConfig, {"actor_schedule_steps": 0}, "actor_schedule_steps"),
        (IQLConfig, {"critic_quantile": 1.5}, "critic_quantile=1.5"),
        (IQLConfig, {"critic_huber": 0.0}, "critic_huber=0.0"),
        (IQLConfig, {"actor_loss": "squared"}, "did you mean 'squared_error'"),
        (IQLConfig, {"target_minimum": 1.0, "target_maximum": 0.0}, "target_minimum=1.0"),
        (IDQLConfig, {"diffusion_steps": 0}, "diffusion_steps=0"),
        (IDQLConfig, {"exploration": "beast"}, "did you mean 'best'"),
        (IDQLConfig, {"time_features": 1}, "time_features=1"),
        (FQLConfig, {"extraction": "best_of_m"}, "did you mean 'best_of_n'"),
        (FQLConfig, {"candidates": 0}, "candidates=0"),
        (CQNConfig, {"bins": 1}, "bins=1"),
        (CQNConfig, {"padding": "mask"}, "did you mean 'masked'"),
        (CQNConfig, {"acting_network": "oline"}, "did you mean 'online'"),
        (DEASConfig, {"expectile": 1.0}, "expectile"),
        (DEASConfig, {"critic_chunks": "hole"}, "did you mean 'whole'"),
        (DEASConfig, {"candidates": 0}, "candidates=0"),
        (BCConfig, {"loss": "mse"}, "loss=mse"),
        (BCConfig, {"actor_dropout": 1.0}, "actor_dropout"),
        (SACConfig, {"critic_learning_rate": -3e-4}, r"sac critic_learning_rate=-0.0003 must lie in \[0, 1\]"),
        (SACConfig, {"temperature_learning_rate": float("nan")}, "temperature_learning_rate is not a number"),
        (SACConfig, {"critic_hidden": [256, 0]}, "critic_hidden"),
        (SACConfig, {"output_gain": -1.0}, "output_gain"),
        (SACConfig, {"gradient_clip": 0.0}, "gradient_clip"),
        (SACConfig, {"log_std_minimum": 3.0}, "log_std_minimum=3.0"),
        (SACConfig, {"conservative_clip_minimum": 1.0, "conservative_clip_maximum": 0.0}, "conservative_clip_minimum"),
        (SACConfig, {"conservative_lagrange_maximum": -1.0}, "conservative_lagrange_maximum"),
        (SACConfig, {"temperature_loss": "log"}, "temperature_loss=log"),
        (SACConfig, {"max_target_of": "each"}, "backup_entropy=false"),
        (SACConfig, {"target_entropy_per_dimension": float("inf")}, "target_entropy_per_dimension"),
        (IQLConfig, {"value_learning_rate": -1.0}, "value_learning_rate"),
        (IQLConfig, {"inverse_temperature": -1.0}, "inverse_temperature"),
        (IQLConfig, {"weight_maximum": 0.0}, "weight_maximum"),
        (BCConfig, {"actor_learning_rate": 2.0}, "actor_learning_rate"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)
