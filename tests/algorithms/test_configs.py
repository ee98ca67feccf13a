"""Settings: every field is read, YAML composes, phases change what they may."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from robot_rl.algorithms import ALGORITHM_CONFIGS, BCConfig, IQLConfig, SACConfig, bc, iql, sac, with_overrides
from robot_rl.config import register
from robot_rl.errors import InputError

ALGORITHM_FILES = sorted((Path(__file__).parents[2] / "configs" / "algorithm").glob("*.yaml"))


@pytest.mark.parametrize(("module", "kind"), [(bc, BCConfig), (iql, IQLConfig), (sac, SACConfig)])
def test_every_setting_is_read(module: ModuleType, kind: type) -> None:
    read = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(module)))
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


def test_the_recipes_are_those_of_the_public_code() -> None:
    rlpd, wsrl, calql = composed("rlpd"), composed("wsrl"), composed("calql")
    assert (rlpd.critic_count, rlpd.critic_subset, rlpd.subset_with_replacement) == (10, 2, False)
    assert (rlpd.actor_reduction, rlpd.actor_batch, rlpd.target_entropy_per_dimension) == ("mean", "last", -0.5)
    assert (rlpd.critic_layer_norm, rlpd.actor_layer_norm) == (True, False)
    assert (wsrl.critic_count, wsrl.critic_subset, wsrl.subset_with_replacement) == (10, 2, True)
    assert (wsrl.actor_reduction, wsrl.actor_batch, wsrl.target_entropy_per_dimension) == ("min", "all", -1.0)
    assert (wsrl.critic_layer_norm, wsrl.actor_layer_norm, wsrl.backup_entropy) == (True, True, False)
    assert (calql.critic_count, calql.conservative_calibrated, calql.max_target_backup) == (2, True, 10)
    assert not composed("cql").conservative_calibrated


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
        (BCConfig, {"loss": "mse"}, "loss=mse"),
        (BCConfig, {"actor_dropout": 1.0}, "actor_dropout"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)
