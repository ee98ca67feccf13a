"""The benchmark against other libraries: what it counts, and what it makes of rates."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from robot_rl.networks import ensemble, mlp

Load = Callable[[str], ModuleType]
FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    for folder in (FOLDER, FOLDER / "peers"):
        monkeypatch.syspath_prepend(folder)
    for module in (ensemble, mlp):  # the count of operations goes by plain layers; put back afterwards
        monkeypatch.setattr(module, "on_cpu", module.on_cpu)
    return importlib.import_module


def test_operations_of_an_update_are_those_of_its_matrix_products(load: Load) -> None:
    ours = load("ours")
    B, F, A, H = ours.BATCH, ours.OBSERVATION, ours.ACTION, ours.HIDDEN[0]
    critic, actor = 2 * B * ((F + A) * H + H * H + H), 2 * B * (F * H + H * H + H * A)  # one forward pass
    critic_inner, actor_inner = 2 * B * (H * H + H), 2 * B * (H * H + H * A)  # back to the first layer's outputs
    # Both target critics and both critics; back: weights of all layers, and inner layers.
    critics = actor + 2 * critic + 2 * critic + 2 * (critic + critic_inner)
    # Every second time the actor, judged by the first critic, through whose inputs the gradient comes.
    actors = actor + critic + critic + (actor + actor_inner)
    found = ours.bound("td3_bc", 0.0)
    assert found["flop"] == critics + actors / 2


def test_shares_and_ratios_are_of_medians(load: Load) -> None:
    found = {
        "sac": {
            "rates": {"d3rlpy": [50.0, 40.0, 90.0], "ours": [100.0, 150.0, 200.0]},
            "bound": {"flop": 1e9, "large_rate": 3e11, "products_seconds": 0.004},
        }
    }
    last = load("side_by_side").table(found).splitlines()[-1]
    # 150 of 300 allowed at the rate of large products; 150 of 1 / 0.004 = 250 by its own
    assert (
        last == "| SAC, 2 critics | 50.0 (40.0 to 90.0) | 150.0 (100.0 to 200.0) | 3.00 | 1.000 | 300 | 0.50 | 0.60 |"
    )
