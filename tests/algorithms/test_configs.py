"""Settings: every field is read, phases change what they may, what cannot be is refused."""

import ast
import inspect
from dataclasses import fields
from types import ModuleType
from typing import Any

import pytest

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
    QTransformerConfig,
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
    qtransformer,
    rorl,
    sac,
    td3,
    with_overrides,
)
from robot_rl.errors import InputError
from robot_rl.networks import build

MODULES = {
    awac: AWACConfig,
    bc: BCConfig,
    cqn: CQNConfig,
    deas: DEASConfig,
    fql: FQLConfig,
    hybrid: HybridConfig,
    idql: IDQLConfig,
    iql: IQLConfig,
    qtransformer: QTransformerConfig,
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
        (QTransformerConfig, {"bins": 1}, "bins=1"),
        (QTransformerConfig, {"value_minimum": 2.0}, "value_minimum=2.0 must be below"),
        (QTransformerConfig, {"critic_width": 10}, "multiple of attention_heads=4"),
        (DEASConfig, {"expectile": 1.0}, "expectile"),
        (DEASConfig, {"critic_chunks": "hole"}, "did you mean 'whole'"),
        (DEASConfig, {"candidates": 0}, "candidates=0"),
        (BCConfig, {"loss": "mse"}, "loss=mse"),
        (BCConfig, {"policy": "consistent"}, "did you mean 'consistency'"),
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
