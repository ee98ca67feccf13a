"""Algorithms: one file each, chosen by the type of their configuration."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from robot_rl.algorithms import awac, bc, cqn, deas, fql, hybrid, idql, iql, qtransformer, robust_sac, rorl, sac, td3
from robot_rl.algorithms.agent import Agent, replaced
from robot_rl.algorithms.awac import AWACConfig
from robot_rl.algorithms.bc import BCConfig
from robot_rl.algorithms.cqn import CQNConfig
from robot_rl.algorithms.deas import DEASConfig
from robot_rl.algorithms.fql import FQLConfig
from robot_rl.algorithms.hybrid import HybridConfig
from robot_rl.algorithms.idql import IDQLConfig
from robot_rl.algorithms.iql import IQLConfig
from robot_rl.algorithms.qtransformer import QTransformerConfig
from robot_rl.algorithms.robust_sac import RobustSACConfig
from robot_rl.algorithms.rorl import RORLConfig
from robot_rl.algorithms.sac import SACConfig
from robot_rl.algorithms.td3 import TD3Config
from robot_rl.errors import InputError
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec

ALGORITHM_CONFIGS: dict[str, type] = {
    "awac": AWACConfig,
    "bc": BCConfig,
    "cqn": CQNConfig,
    "deas": DEASConfig,
    "fql": FQLConfig,
    "hybrid": HybridConfig,
    "idql": IDQLConfig,
    "iql": IQLConfig,
    "qtransformer": QTransformerConfig,
    "robust_sac": RobustSACConfig,
    "rorl": RORLConfig,
    "sac": SACConfig,
    "td3": TD3Config,
}

AlgorithmConfig = (
    AWACConfig
    | BCConfig
    | CQNConfig
    | DEASConfig
    | FQLConfig
    | HybridConfig
    | IDQLConfig
    | IQLConfig
    | QTransformerConfig
    | RobustSACConfig
    | RORLConfig
    | SACConfig
    | TD3Config
)
Config = TypeVar(
    "Config",
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


def create(
    config: AlgorithmConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> Agent:
    """A new agent for observations and actions of `spec`.

    Args:
        config: one of `ALGORITHM_CONFIGS`.
        spec: fixes the keys, order and shapes of observations, and the size of the action.
        seeds: weight initialisation and the agent's own generator derive from it.
        device: where networks and generator live.
        statistics: mean and standard deviation per observation key; None leaves observations as they are.

    Raises:
        InputError: an observation that no encoder takes, or an unknown configuration.
    """
    match config:
        case SACConfig():
            return sac.create(config, spec, seeds, device, statistics)
        case IQLConfig():
            return iql.create(config, spec, seeds, device, statistics)
        case TD3Config():
            return td3.create(config, spec, seeds, device, statistics)
        case RobustSACConfig():
            return robust_sac.create(config, spec, seeds, device, statistics)
        case RORLConfig():
            return rorl.create(config, spec, seeds, device, statistics)
        case AWACConfig():
            return awac.create(config, spec, seeds, device, statistics)
        case CQNConfig():
            return cqn.create(config, spec, seeds, device, statistics)
        case DEASConfig():
            return deas.create(config, spec, seeds, device, statistics)
        case FQLConfig():
            return fql.create(config, spec, seeds, device, statistics)
        case HybridConfig():
            return hybrid.create(config, spec, seeds, device, statistics)
        case IDQLConfig():
            return idql.create(config, spec, seeds, device, statistics)
        case QTransformerConfig():
            return qtransformer.create(config, spec, seeds, device, statistics)
        case BCConfig():
            return bc.create(config, spec, seeds, device, statistics)
    raise InputError(
        f"no algorithm is configured by {type(config).__name__}: use one of {', '.join(ALGORITHM_CONFIGS)}"
    )


def with_overrides(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of `config` with settings changed, as at the start of a phase.

    Raises:
        InputError: a setting that does not exist, that would change the networks, or whose type does not fit.
    """
    changed: Config = replaced(config, dict(overrides), config.SWITCHABLE)
    return changed
