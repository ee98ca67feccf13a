"""d3rlpy, in the interpreter that has it. Its sampling and `update`, what its `fit` calls at every step."""

from collections.abc import Callable

import d3rlpy
import numpy as np
from d3rlpy.models import VectorEncoderFactory
from protocol import ACTION, BATCH, CRITICS, DISCOUNT, HIDDEN, OBSERVATION, TARGET_RATE, columns, serve


def build(case: str) -> Callable[[], object]:
    """The update of one case."""
    encoder = VectorEncoderFactory(list(HIDDEN))
    shared = {
        "actor_encoder_factory": encoder,
        "critic_encoder_factory": encoder,
        "batch_size": BATCH,
        "gamma": DISCOUNT,
        "tau": TARGET_RATE,
        "n_critics": CRITICS.get(case, 2),
    }
    # The temperature of the conservative term is tuned, in theirs and ours.
    match case:
        case "sac":
            config = d3rlpy.algos.SACConfig(**shared)
        case "iql":
            config = d3rlpy.algos.IQLConfig(**shared, value_encoder_factory=encoder)
        case "td3_bc":
            config = d3rlpy.algos.TD3PlusBCConfig(**shared)
        case "cql":
            config = d3rlpy.algos.CQLConfig(**shared, soft_q_backup=True)
        case "calql" | "calql_10":
            config = d3rlpy.algos.CalQLConfig(**shared, max_q_backup=True)
        case _:
            raise LookupError(f"d3rlpy has no {case}")
    agent = config.create(device="cpu")
    agent.create_impl((OBSERVATION,), ACTION)
    data = columns()
    dataset = d3rlpy.dataset.MDPDataset(
        observations=data["observation"],
        actions=data["action"],
        rewards=data["reward"],
        terminals=data["terminated"],
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    assert dataset.size() == np.count_nonzero(data["terminated"])
    return lambda: agent.update(dataset.sample_transition_batch(BATCH))


if __name__ == "__main__":
    serve(build)
