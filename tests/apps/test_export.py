"""`robot-rl export`: from a store to other formats and back."""

import os
from pathlib import Path

import numpy as np
import pytest

from robot_rl.apps import cli
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.schema import digest, rows_of_episode
from robot_rl.datasets.store import EpisodeStore
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

SPEC = Spec(
    observation={
        "state": ArraySpec(shape=(3,), dtype="float64"),
        "top": ArraySpec(shape=(16, 24, 3), dtype="uint8"),
    },
    action=ArraySpec(shape=(2,), low=np.full(2, -1.0), high=np.full(2, 1.0)),
    control_period_s=0.1,
)


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    """Three episodes with a camera and an instruction."""
    made = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={"attributes": {"robot_type": "arm"}})
    rng = np.random.default_rng(0)
    for number, steps in enumerate((4, 6, 5)):
        ends = np.arange(steps) == steps - 1
        made.append(
            Episode(
                observation={
                    "state": rng.normal(size=(steps + 1, 3)),
                    "top": rng.integers(0, 256, (steps + 1, 16, 24, 3)).astype(np.uint8),
                },
                action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
                reward=rng.normal(size=steps),
                terminated=ends & (number > 0),
                truncated=ends & (number == 0),
                success=ends,
                metadata={"language": "lift"},
            )
        )
    made.finish()
    return made


def digests(path: Path) -> list[str]:
    with find_reader(path).open(path, ReadOptions()) as recording:
        return [
            digest(rows_of_episode(recording.spec, episode, ""), has_final_observation=episode.has_final_observation)
            for episode in recording.episodes()
        ]


def test_a_store_survives_in_either_format(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(store.path), str(tmp_path / "lift.hdf5")]) == 0
    assert cli.main(["export", str(store.path), str(tmp_path / "lift"), "video_codec=none"]) == 0
    assert "3 episodes, 15 steps in the format of lerobot" in " ".join(capsys.readouterr().out.split())
    wanted = [
        digest(rows_of_episode(SPEC, episode, ""), has_final_observation=episode.has_final_observation)
        for episode in store.episodes()
    ]
    assert digests(tmp_path / "lift") == wanted
    assert digests(tmp_path / "lift.hdf5") == wanted


def test_videos_are_the_default_and_the_target_is_not_replaced_unasked(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(store.path), str(tmp_path / "lift")]
    scheduling = os.sched_getscheduler(0)
    assert cli.main(words) == 0
    assert os.sched_getscheduler(0) == scheduling  # which SVT-AV1 changes where root runs it
    assert len(list((tmp_path / "lift" / "videos").rglob("*.mp4"))) == 1
    assert cli.main(words) == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert cli.main([*words, "overwrite=true", "video_codec=h264", "crf=20"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.hdf5", "format=lerobot"], "LeRobot's format is a folder"),
        (["x", "format=rlds"], "format=rlds"),
        (["x", "video_codec=vp9"], "video_codec=vp9"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["export", str(store.path), str(tmp_path / words[0]), *words[1:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / words[0]).exists()


def test_an_empty_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    assert cli.main(["export", str(tmp_path / "s.zarr"), str(tmp_path / "x")]) == 2
    assert "nothing to export" in capsys.readouterr().err
