"""What holds for every format: recordings become a store, the store episodes, and episodes the transitions of a buffer.

No transition crosses an episode, a time limit bootstraps and a termination does not, and an episode has T + 1
observations or says that its last one is missing. The recordings are those of the fuzzer, of which the numbers are
known.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl.datasets.convert import ConvertSettings, Report, convert
from robot_rl.datasets.convert_transforms import RewardLabel, Transforms
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.reader import load_episodes
from robot_rl.datasets.store import EpisodeStore
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.sequences import gather_sequences
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import EDGE, ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Batch, Episode

DISCOUNT = 0.5  # powers of it are exact
PLACE = "place"  # the key under which tests add (episode, row) to every observation
MISSING = "lack the observation behind their last step"


def _corpus() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "fuzz" / "corpus.py"
    spec = importlib.util.spec_from_file_location("every_reader_corpus", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


corpus = _corpus()
FORMATS = list(corpus.FORMATS)
RECORDED_FINAL = {"robomimic", "minari", "minari_arrow", "rlds"}  # hold the observation behind the last step
FRAMES_ONLY = {"rosbag2_sqlite", "rosbag2_mcap", "rosbag1", "mp4", "csv"}  # no actions: the last frame is the final one


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """A recording that became a store."""

    name: str
    path: Path
    report: Report
    spec: Spec
    episodes: list[Episode]


Ingest = Callable[..., Ingested]


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Ingest:
    """`ingest(format, **transforms)`, once for each."""
    folder = tmp_path_factory.mktemp("every_reader")
    done: dict[str, Ingested] = {}

    def make(name: str, **transforms: Any) -> Ingested:
        key = f"{name}-{transforms}"
        if key not in done:
            source = corpus.make(name, folder / name)
            store = folder / f"{len(done)}.zarr"
            read = ReadOptions(**corpus.OPTIONS.get(name, {}))
            report = convert(source, store, ConvertSettings(workers=0, read=read, transforms=Transforms(**transforms)))
            spec = EpisodeStore.open(store).spec
            done[key] = Ingested(name=name, path=store, report=report, spec=spec, episodes=load_episodes(store))
        return done[key]

    return make


def filled(
    spec: Spec, episodes: list[Episode], *, n_step: int = 1, mapped: bool = False, slack: int = 0
) -> ReplayBuffer:
    """A buffer of all episodes, with the place of every row among the observations."""
    observation = spec.observation | {PLACE: ArraySpec(shape=(2,), dtype="int64")}
    size = int(np.prod(spec.action.shape))
    buffer = ReplayBuffer(
        replace(spec, observation=observation),
        capacity=sum(len(episode) + 1 for episode in episodes) + slack,
        scale=ActionScale(np.full(size, -2.0), np.full(size, 2.0)),
        reward=RewardTransform(),
        discount=DISCOUNT,
        n_step=n_step,
        mapped=mapped,
    )
    for number, episode in enumerate(episodes):
        place = np.stack([np.full(len(episode) + 1, number), np.arange(len(episode) + 1)], axis=1)
        buffer.append(replace(episode, observation=episode.observation | {PLACE: place}))
    return buffer


def starts(episodes: list[Episode]) -> set[tuple[int, int]]:
    """Places in which a transition starts: every step, but the last where nothing is known of what came behind."""
    return {
        (number, step)
        for number, episode in enumerate(episodes)
        for step in range(len(episode))
        if step < len(episode) - 1 or episode.has_final_observation or episode.terminated[-1]
    }


def places(observation: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    return [(int(number), int(row)) for number, row in observation[PLACE].tolist()]


def require_right(batch: Batch, episodes: list[Episode], n_step: int) -> None:
    """Every transition is what the recording says, and ends where its episode does."""
    allowed = starts(episodes)
    pairs = list(zip(places(batch.observation), places(batch.next_observation), strict=True))
    for index in {start: index for index, (start, _) in enumerate(pairs)}.values():  # each transition once
        (number, step), (next_number, arrived) = pairs[index]
        episode = episodes[number]
        last = max(row for who, row in allowed if who == number)  # the last step that is a transition
        assert (number, step) in allowed
        assert next_number == number, "the transition crosses into another episode"
        assert arrived == min(step + n_step, last + 1)
        ends = arrived == len(episode) and bool(episode.terminated[-1])
        assert batch.discount[index] == (0.0 if ends else DISCOUNT ** (arrived - step))
        reward = sum(DISCOUNT**k * float(r) for k, r in enumerate(episode.reward[step:arrived]))
        assert batch.reward[index] == pytest.approx(reward)
        action = np.clip(np.asarray(episode.action[step], np.float64) / 2.0, -EDGE, EDGE)
        np.testing.assert_allclose(batch.action[index], action, atol=1e-6)
        for key, rows in episode.observation.items():
            np.testing.assert_allclose(batch.observation[key][index], np.asarray(rows[step]), rtol=1e-6)
            np.testing.assert_allclose(batch.next_observation[key][index], np.asarray(rows[arrived]), rtol=1e-6)


def truth(name: str, number: int) -> dict[str, Array]:
    """What the corpus wrote, for formats with states and actions."""
    arrays: dict[str, Array] = corpus._arrays(number)
    return arrays


@pytest.mark.parametrize("name", FORMATS)
def test_an_episode_has_one_more_observation_than_steps_or_says_which_is_missing(name: str, ingest: Ingest) -> None:
    made = ingest(name)
    assert made.report.complete
    lacking = [episode for episode in made.episodes if not episode.has_final_observation]
    for episode in made.episodes:
        for key, rows in episode.observation.items():
            assert len(rows) == len(episode) + 1, key
        for key, rows in episode.extras.items():
            assert len(rows) in (len(episode), len(episode) + 1), key
    for episode in lacking:
        for key, rows in episode.observation.items():
            np.testing.assert_array_equal(np.asarray(rows[-1]), np.asarray(rows[-2]), err_msg=key)
    said = [finding.text for finding in made.report.findings if MISSING in finding.text]
    count = len(made.episodes)
    assert said == ([f"{len(lacking)} of {count} episodes {MISSING}"] if lacking else [])
    assert bool(lacking) == (name not in RECORDED_FINAL | FRAMES_ONLY)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in FRAMES_ONLY])
def test_the_numbers_are_those_that_were_recorded_at_their_steps(name: str, ingest: Ingest) -> None:
    made = ingest(name)
    assert len(made.episodes) == corpus.EPISODES
    for number, episode in enumerate(made.episodes):
        arrays, steps = truth(name, number), corpus.STEPS
        assert len(episode) == steps
        known = steps + 1 if name in RECORDED_FINAL else steps
        np.testing.assert_allclose(episode.observation["state"][:known], arrays["state"][:known], rtol=1e-6)
        np.testing.assert_allclose(episode.action, arrays["action"], rtol=1e-6)
        recorded = name in ("robomimic", "d4rl", "dapg_pickle", "minari", "minari_arrow")
        np.testing.assert_allclose(episode.reward, arrays["reward"] if recorded else 0.0 * arrays["reward"])


@pytest.mark.parametrize("n_step", [1, 3, 100])
@pytest.mark.parametrize("name", FORMATS)
def test_no_transition_crosses_an_episode_and_a_time_limit_bootstraps(name: str, n_step: int, ingest: Ingest) -> None:
    made = ingest(name)
    assert not any(episode.terminated.any() for episode in made.episodes)  # the corpus knows time limits only
    assert all(episode.truncated[-1] for episode in made.episodes)
    buffer = filled(made.spec, made.episodes, n_step=n_step, slack=5)
    batch = buffer.sample(512, torch.Generator().manual_seed(0))
    require_right(batch, made.episodes, n_step)
    assert set(places(batch.observation)) == starts(made.episodes)
    assert (batch.discount > 0).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_termination_does_not_bootstrap(name: str, ingest: Ingest) -> None:
    made = ingest(name, reward=RewardLabel(last_steps=2))
    episodes = load_episodes(made.path, cut_at_success="first")
    for episode, whole in zip(episodes, made.episodes, strict=True):
        assert len(episode) == max(len(whole) - 1, 1)
        assert episode.terminated[-1]
        assert not episode.truncated.any()
    for n_step in (1, 3):
        batch = filled(made.spec, episodes, n_step=n_step).sample(512, torch.Generator().manual_seed(0))
        require_right(batch, episodes, n_step)
        assert set(places(batch.observation)) == starts(episodes)
        assert (batch.discount == 0).any()


@pytest.mark.parametrize("name", FORMATS)
def test_a_ring_that_overwrites_and_windows_of_steps_stay_inside_episodes(name: str, ingest: Ingest) -> None:
    made = ingest(name)
    buffer = filled(made.spec, made.episodes)
    for number, episode in enumerate(made.episodes * 2):  # writes over what it held, in the middle of an episode
        shorter = truncated_to(episode, max(1, len(episode) - 3))
        place = np.stack([np.full(len(shorter) + 1, number), np.arange(len(shorter) + 1)], axis=1)
        buffer.append(replace(shorter, observation=shorter.observation | {PLACE: place}))
    rows = buffer.draw(512, torch.Generator().manual_seed(1))
    batch = buffer.gather(rows)
    for (number, step), (next_number, arrived) in zip(
        places(batch.observation), places(batch.next_observation), strict=True
    ):
        assert (next_number, arrived) == (number, step + 1)
    windows = gather_sequences(buffer, rows, 4, history=3).observation[PLACE]  # (B, 3 + 4, 2)
    assert (windows[:, :, 0] == windows[:, 2:3, 0]).all()
    ahead = windows[:, 1:, 1] - windows[:, :-1, 1]
    assert ((ahead == 0) | (ahead == 1)).all()


@pytest.mark.parametrize("name", FORMATS)
def test_images_that_stay_in_the_store_give_the_same_transitions(name: str, ingest: Ingest) -> None:
    made = ingest(name)
    rows = [filled(made.spec, made.episodes, mapped=mapped) for mapped in (False, True)]
    one, other = (buffer.sample(64, torch.Generator().manual_seed(2)) for buffer in rows)
    for key in made.spec.observation:
        assert torch.equal(one.observation[key], other.observation[key])
        assert torch.equal(one.next_observation[key], other.next_observation[key])


def truncated_to(episode: Episode, steps: int) -> Episode:
    """The first steps of an episode, as if we had stopped there."""
    ends = np.arange(steps) == steps - 1
    return Episode(
        observation={key: rows[: steps + 1] for key, rows in episode.observation.items()},
        action=episode.action[:steps],
        reward=episode.reward[:steps],
        terminated=np.zeros(steps, bool),
        truncated=ends,
    )
