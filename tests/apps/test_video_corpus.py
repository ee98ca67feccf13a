"""The corpus: other arms, other looks, no actions; the same from the same settings, also after an interruption."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from robot_rl.apps import video_corpus
from robot_rl.apps.video_corpus import Settings, parse, record
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError

QUIET = Console(quiet=True)
SMALL = ["robots=Panda,Kinova3", "tasks=Lift", "clips=4", "frames=3", "frame_every=1", "image_size=16"]


def settings(path: Path, *words: str) -> Settings:
    return parse([f"path={path}", *SMALL, *words])


def test_a_corpus_is_video_without_actions_and_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EpisodeStore.open(record(settings(tmp_path / "whole.zarr"), QUIET))
    plain = video_corpus.record_clip

    def interrupted(*arguments: object) -> object:
        if arguments[3] == 3:
            raise KeyboardInterrupt
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(video_corpus, "record_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(settings(tmp_path / "broken.zarr"), QUIET)
    assert len(EpisodeStore.open(tmp_path / "broken.zarr")) == 3
    monkeypatch.setattr(video_corpus, "record_clip", plain)
    broken = EpisodeStore.open(record(settings(tmp_path / "broken.zarr"), QUIET))
    assert broken.digests == whole.digests

    assert whole.spec.action.shape == (0,)
    assert whole.spec.metadata["absent"] == ["action", "reward", "success", "end"]
    episodes = list(whole.episodes())
    assert [episode.metadata["robot"] for episode in episodes] == ["Panda", "Panda", "Kinova3", "Kinova3"]
    assert {episode.metadata["language"] for episode in episodes} == {"lift the cube"}
    assert all(len(episode) == 2 for episode in episodes)
    firsts = [np.asarray(episode.observation["image"])[0].astype(int) for episode in episodes]
    assert all(np.abs(one - other).mean() > 5 for one, other in pairwise(firsts))  # other looks
    assert whole.spec.control_period_s == pytest.approx(0.05)
    moved = episodes[0].observation["hand"]
    assert np.abs(moved[-1] - moved[0]).max() > 0.005


def test_another_corpus_is_not_written_over(tmp_path: Path) -> None:
    record(settings(tmp_path / "a.zarr", "clips=2"), QUIET)
    with pytest.raises(InputError, match="other settings"):
        record(settings(tmp_path / "a.zarr", "clips=2", "seed=1"), QUIET)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("clip=3", "did you mean 'clips'"),
        ("clips=many", "clips=many must be int"),
        ("clips", "key=value"),
        ("tasks=Lft", "did you mean 'Lift'"),
        ("clips=1", "clips=1 must be at least 2"),
        ("largest_noise=-1", "largest_noise"),
        ("frames=1", "frames=1"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(tmp_path, word)
