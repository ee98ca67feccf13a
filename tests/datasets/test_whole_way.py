"""Random episodes on the whole way: recording, conversion, store, edits, export, ingestion; against plain Python."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.datasets import edit
from robot_rl.datasets.convert import ConvertSettings, convert
from robot_rl.datasets.convert_transforms import ImageOptions, RewardLabel, Transforms
from robot_rl.datasets.edit import Labels, Selection
from robot_rl.datasets.export_lerobot import LerobotOptions, write_lerobot
from robot_rl.datasets.export_robomimic import write_robomimic
from robot_rl.datasets.ingest.base import SuccessLabel
from robot_rl.datasets.store import EpisodeStore
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

SPEC = Spec(
    observation={
        "state": ArraySpec(shape=(3,), names=("x", "y", "z"), unit="m"),
        "state/velocity": ArraySpec(shape=(2,), dtype="float64"),
        "depth": ArraySpec(shape=(2, 3), dtype="uint16"),
        "camera": ArraySpec(shape=(8, 8, 3), dtype="uint8"),
    },
    action=ArraySpec(shape=(2,), dtype="float32", low=np.array([-1.0, -1.0]), high=np.array([1.0, 1.0])),
    control_period_s=0.1,
    action_semantics="joint_position_delta",
)
Recipes = list[dict[str, Any]]
QUIET = ConvertSettings(workers=0)
FEW = settings(max_examples=6)


def make_episode(
    *, seed: int, steps: int, end: str, final: bool, success: str, rewards: str, intervened: bool
) -> Episode:
    rng = np.random.default_rng(seed)
    last = np.arange(steps) == steps - 1
    observation: dict[str, Any] = {
        "state": rng.normal(size=(steps + 1, 3)).astype(np.float32),
        "state/velocity": rng.normal(size=(steps + 1, 2)),
        "depth": rng.integers(0, 65536, (steps + 1, 2, 3), np.uint16),
        "camera": rng.integers(0, 256, (steps + 1, 8, 8, 3), np.uint8),
    }
    if not final:
        observation = {key: np.concatenate([rows[:-1], rows[-2:-1]]) for key, rows in observation.items()}
    times = np.minimum(np.arange(steps + 1), steps if final else steps - 1) * 0.1
    flags = {"none": None, "never": np.zeros(steps, bool), "last": last, "some": rng.random(steps) < 0.5}
    return Episode(
        observation=observation,
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=rng.integers(0, 2, steps).astype(np.float64) if rewards == "binary" else rng.normal(size=steps),
        terminated=last & (end in ("terminated", "both")),
        truncated=last & (end in ("truncated", "both")),
        success=flags[success],
        intervened=rng.random(steps) < 0.5 if intervened else None,
        has_final_observation=final,
        extras={"timestamp_s": times, "force": rng.normal(size=(steps, 2))},
        metadata={"source": f"recording {seed}", "language": "push" if seed % 2 else "lift", "seed": seed},
    )


@st.composite
def recordings(draw: st.DrawFn, *, known_success: bool = False) -> Recipes:
    """How to make episodes: hypothesis prints these, and not their numbers."""
    choices = ["never", "last", "some"] if known_success else ["none", "never", "last", "some"]
    rewards = draw(st.sampled_from(["binary", "real"]))
    return [
        {
            "seed": seed,
            "steps": draw(st.integers(1, 7)),
            "end": draw(st.sampled_from(["terminated", "truncated", "both"])),
            "final": draw(st.booleans()),
            "success": draw(st.sampled_from(choices)),
            "rewards": rewards,
            "intervened": draw(st.booleans()),
        }
        for seed in range(draw(st.integers(1, 4)))
    ]


def make_store(path: Path, episodes: list[Episode]) -> Path:
    store = EpisodeStore.create(path, SPEC, provenance={"format": "test"})
    store.extend(episodes)
    store.finish()
    return path


def read(path: Path) -> list[Episode]:
    store = EpisodeStore.open(path)
    store.verify()
    assert store.statistics["episodes"] == len(store)
    return list(store.episodes())


def require_same(found: list[Episode], wanted: list[Episode]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert set(one.observation) == set(other.observation)
        for key, rows in other.observation.items():
            assert np.asarray(one.observation[key]).dtype == np.asarray(rows).dtype, key
            np.testing.assert_array_equal(np.asarray(one.observation[key]), np.asarray(rows), err_msg=key)
        assert set(one.extras) == set(other.extras)
        for key, rows in other.extras.items():
            np.testing.assert_array_equal(one.extras[key], rows, err_msg=key)
        for name in ("action", "reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert (one.success is None) == (other.success is None)
        if other.success is not None:
            np.testing.assert_array_equal(one.success, other.success)
        intervened = np.zeros(len(other), bool) if other.intervened is None else other.intervened
        np.testing.assert_array_equal(
            np.zeros(len(one), bool) if one.intervened is None else one.intervened, intervened
        )
        assert one.has_final_observation == other.has_final_observation
        assert json.dumps(one.metadata, sort_keys=True) == json.dumps(other.metadata, sort_keys=True)


@FEW
@given(recordings())
def test_a_store_and_a_file_of_robomimic_hold_all_of_an_episode(recipes: Recipes) -> None:
    episodes = [make_episode(**recipe) for recipe in recipes]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        require_same(read(make_store(folder / "a.zarr", episodes)), episodes)
        store = EpisodeStore.open(folder / "a.zarr")
        write_robomimic(folder / "a.hdf5", store.spec, store.episodes(), {"env_name": "x", "type": 2})
        convert(folder / "a.hdf5", folder / "b.zarr", QUIET)
        require_same(read(folder / "b.zarr"), episodes)
        again = EpisodeStore.open(folder / "b.zarr")
        assert again.digests == store.digests
        assert again.spec.to_json() == store.spec.to_json()


@FEW
@given(recordings())
def test_a_lerobot_data_set_holds_all_of_an_episode(recipes: Recipes) -> None:
    episodes = [make_episode(**recipe) for recipe in recipes]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = EpisodeStore.open(make_store(folder / "a.zarr", episodes))
        write_lerobot(folder / "set", store.spec, store.episodes, LerobotOptions(video_codec="none"))
        convert(folder / "set", folder / "b.zarr", QUIET)
        require_same(read(folder / "b.zarr"), episodes)
        assert EpisodeStore.open(folder / "b.zarr").spec.to_json() == store.spec.to_json()


def transformed(episode: Episode, stride: int, action_from: str | None, mode: str) -> Episode | None:
    """What a conversion shall make of an episode, step by step; None where nothing is left."""
    steps: list[dict[str, Any]] = []
    for first in range(0, len(episode), stride):
        part = range(first, min(first + stride, len(episode)))
        steps.append(
            {
                "row": first,
                "action": sum(episode.action[k].astype(np.float32) for k in part),
                "reward": sum(float(episode.reward[k]) for k in part),
                "terminated": bool(episode.terminated[part[-1]]),
                "truncated": bool(episode.truncated[part[-1]]),
                "success": None if episode.success is None else bool(episode.success[part[-1]]),
                "intervened": episode.intervened is not None and any(bool(episode.intervened[k]) for k in part),
            }
        )
    rows = [step["row"] for step in steps] + [len(episode) if episode.has_final_observation else steps[-1]["row"]]
    final = episode.has_final_observation
    if action_from is not None:
        if not final:
            steps, rows, final = steps[:-1], rows[:-1], True
            if not steps:
                return None
            steps[-1] |= {"terminated": False, "truncated": True}
        for step, row, following in zip(steps, rows[:-1], rows[1:], strict=True):
            source = episode.observation[action_from]
            step["action"] = source[following] - source[row] if mode == "delta" else source[following]
    return Episode(
        observation={key: array[rows] for key, array in episode.observation.items()},
        action=np.stack([step["action"] for step in steps]),
        reward=np.array([step["reward"] for step in steps]),
        terminated=np.array([step["terminated"] for step in steps]),
        truncated=np.array([step["truncated"] for step in steps]),
        success=None if episode.success is None else np.array([step["success"] for step in steps]),
        intervened=np.array([step["intervened"] for step in steps]),
        has_final_observation=final,
        extras={
            "timestamp_s": episode.extras["timestamp_s"][rows],
            "force": episode.extras["force"][[step["row"] for step in steps]],
        },
        metadata=episode.metadata,
    )


@FEW
@given(
    recordings(known_success=True),
    st.integers(1, 4),
    st.sampled_from([None, "state", "state/velocity"]),
    st.sampled_from(["absolute", "delta"]),
    st.integers(1, 3),
    st.sampled_from(["all", "successful"]),
)
def test_a_conversion_does_what_plain_python_does(
    recipes: Recipes, stride: int, action_from: str | None, mode: str, minimum_steps: int, keep: str
) -> None:
    episodes = [make_episode(**recipe) for recipe in recipes]
    wanted = [
        made
        for episode in episodes
        if (made := transformed(episode, stride, action_from, mode)) is not None
        and len(made) >= minimum_steps
        and (keep == "all" or (episode.success is not None and episode.success.any()))
    ]
    transforms = Transforms(
        stride=stride,
        action_from=action_from,
        action_mode=mode,
        minimum_steps=minimum_steps,
        keep=keep,
        image=ImageOptions(tier="raw"),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_robomimic(folder / "a.hdf5", SPEC, episodes, {"env_name": "x", "type": 2})
        chosen = replace(QUIET, transforms=transforms)
        if not wanted:
            with pytest.raises(Exception, match="no episode"):
                convert(folder / "a.hdf5", folder / "b.zarr", chosen)
            return
        convert(folder / "a.hdf5", folder / "b.zarr", chosen)
        found = read(folder / "b.zarr")
        assert [len(one) for one in found] == [len(one) for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.action, other.action, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(one.reward, other.reward, rtol=1e-12, atol=1e-12)
        require_same([replace(o, action=w.action, reward=w.reward) for o, w in zip(found, wanted, strict=True)], wanted)


@FEW
@given(recordings(known_success=True), recordings(known_success=True), st.data())
def test_edits_do_what_they_do_to_a_list(first: Recipes, second: Recipes, data: st.DataObject) -> None:
    one, other = ([make_episode(**recipe) for recipe in recipes] for recipes in (first, second))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder / "a.zarr", one)
        make_store(folder / "b.zarr", other)
        path, episodes = folder / "a.zarr", one + other
        edit.merge([path, folder / "b.zarr"])
        require_same(read(path), episodes)
        for step in data.draw(st.lists(st.sampled_from(["delete", "filter", "relabel", "split"]), max_size=3)):
            if step == "delete":
                gone = data.draw(st.sets(st.integers(0, len(episodes) - 1), min_size=1))
                episodes = [episode for index, episode in enumerate(episodes) if index not in gone]
                if not episodes:
                    return
                edit.delete(path, sorted(gone))
            elif step == "filter":
                episodes = [e for e in episodes if e.success is not None and e.success.any() and len(e) >= 2]
                if not episodes:
                    return
                edit.filter_episodes(path, Selection(keep="successful", minimum_steps=2))
            elif step == "relabel":
                rule = SuccessLabel(observation="state", index=1, minimum=0.0, maximum=None)
                edit.relabel(
                    path, Labels(success=rule, reward=RewardLabel(observation="state", index=2), language="go")
                )
                episodes = [
                    replace(
                        episode,
                        success=episode.observation["state"][1:, 1] >= 0.0,
                        reward=episode.observation["state"][1:, 2].astype(np.float64),
                        metadata=episode.metadata | {"language": "go"},
                    )
                    for episode in episodes
                ]
            elif len(episodes) > 1 and len(set(EpisodeStore.open(path).digests)) == len(episodes):
                made = edit.split(path, folder / "parts", shares={"x": 0.5, "y": 0.5}, overwrite=True)
                parts = [episode for part in made for episode in read(Path(part.path))]
                digests = EpisodeStore.open(path).digests
                order = [digests.index(digest) for part in made for digest in EpisodeStore.open(part.path).digests]
                assert sorted(order) == list(range(len(episodes)))
                require_same(parts, [episodes[index] for index in order])
            require_same(read(path), episodes)
