"""`robot-rl inspect`: the survey of a store, what is printed, its flags and its exit status."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_rl.apps import inspect
from robot_rl.apps.cli import main
from robot_rl.apps.inspect_survey import SAMPLED_EPISODES, layout, spread, survey, times_s
from robot_rl.data_config import InspectConfig
from robot_rl.datasets.frames import Frames
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

MakeStore = Callable[..., EpisodeStore]


def flat(text: str) -> str:
    """Printed words without the line breaks of the console."""
    return " ".join(text.split())


def only_lengths(path: Path, lengths: list[int], actions: int = 1) -> EpisodeStore:
    """A store of nothing but zeros."""
    state = ArraySpec(shape=(1,))
    spec = Spec(observation={"state": state}, action=ArraySpec(shape=(actions,)), control_period_s=None)
    store = EpisodeStore.create(path, spec, provenance={})
    episodes = []
    for length in lengths:
        last = np.arange(length) == length - 1
        episodes.append(
            Episode(
                observation={"state": np.zeros((length + 1, 1), np.float32)},
                action=np.zeros((length, actions), np.float32),
                reward=np.zeros(length),
                terminated=np.zeros(length, bool),
                truncated=last,
            )
        )
    store.extend(episodes)
    store.finish()
    return store


# --- the survey


def test_the_survey_counts_every_episode_and_samples_few(tmp_path: Path) -> None:
    lengths = [2 + index % 3 for index in range(2 * SAMPLED_EPISODES)]
    read = survey(only_lengths(tmp_path / "s.zarr", lengths))
    assert read.table.lengths.tolist() == lengths
    assert len(read.sample) == SAMPLED_EPISODES
    assert min(read.sample) == 0
    assert max(read.sample) == len(lengths) - 1


def test_long_episodes_are_sampled_more_thinly(tmp_path: Path) -> None:
    read = survey(only_lengths(tmp_path / "s.zarr", [30_000] * 16))
    assert 1 <= len(read.sample) * 30_000 <= 200_000
    assert len(read.rows("action")) <= 20_000


def test_the_survey_does_not_decode_images(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s.zarr", cameras=["front"], tier="jpeg")

    def refuse(self: Frames, indices: Any) -> Any:
        raise AssertionError("an image was decoded")

    for kind in (Frames, *Frames.__subclasses__()):
        monkeypatch.setattr(kind, "decode", refuse)
    read = survey(store)
    assert read.channel_keys == ["state"]
    assert all("front" not in episode.observation for episode in read.sample.values())


def test_the_examples_are_of_low_median_and_high_return(make_store: MakeStore, tmp_path: Path) -> None:
    read = survey(make_store(tmp_path / "s.zarr", episodes=5))
    returns = read.table.returns
    assert len(read.examples) == 3
    assert returns[read.examples[0]] == returns.min()
    assert returns[read.examples[-1]] == returns.max()


def test_spread_has_both_ends_and_no_repeats() -> None:
    assert spread(3, 8) == [0, 1, 2]
    assert spread(100, 3) == [0, 50, 99]
    assert len(set(spread(10_000, 24))) == 24


def test_times_are_the_stamps_else_the_control_period_else_unknown() -> None:
    spec = Spec(observation={}, action=ArraySpec(shape=(1,)), control_period_s=0.5)
    zeros = {"reward": np.zeros(3), "terminated": np.zeros(3, bool), "truncated": np.zeros(3, bool)}
    episode = Episode(observation={}, action=np.zeros((3, 1)), **zeros)
    assert times_s(spec, episode) == pytest.approx([0, 0.5, 1.0, 1.5])
    stamps = {"timestamp_s": np.asarray([0.0, 0.1, 0.3]), "timestamp_s/front": np.asarray([0.0, 1.0, 2.0, 4.0])}
    stamped = Episode(observation={}, action=np.zeros((3, 1)), extras=stamps, **zeros)
    assert times_s(spec, stamped) == pytest.approx([0, 0.1, 0.3, 0.45])  # the last is one median difference later
    assert times_s(spec, stamped, "front") == pytest.approx([0, 1, 2, 4])
    unknown = Spec(observation={}, action=ArraySpec(shape=(1,)))
    assert times_s(unknown, episode) is None


def test_the_layout_names_arrays_with_their_bytes(make_store: MakeStore, tmp_path: Path) -> None:
    read = survey(make_store(tmp_path / "s.zarr", cameras=["front"]))
    entries = {entry.name: entry for entry in layout(tmp_path / "s.zarr")}
    assert entries["steps/action"].kind == "float32"
    assert entries["steps/action"].shape == f"{read.store.rows} × 2"
    assert read.bytes_of("observation/front") >= read.store.rows * 24 * 32 * 3
    assert all(entry.bytes >= 0 and entry.files > 0 for entry in entries.values())


def test_stamps_that_are_no_numbers_are_not_used() -> None:
    spec = Spec(observation={}, action=ArraySpec(shape=(1,)), control_period_s=0.5)
    zeros = {"reward": np.zeros(2), "terminated": np.zeros(2, bool), "truncated": np.zeros(2, bool)}
    stamps = {"timestamp_s": np.asarray([0.0, np.nan, 1.0]), "timestamp_s/front": np.zeros((3, 2))}
    episode = Episode(observation={}, action=np.zeros((2, 1)), extras=stamps, **zeros)
    assert times_s(spec, episode) == pytest.approx([0, 0.5, 1.0])
    assert times_s(spec, episode, "front") == pytest.approx([0, 0.5, 1.0])


def test_an_array_of_many_numbers_is_not_a_channel_each(tmp_path: Path) -> None:
    wide = ArraySpec(shape=(100, 100, 4), dtype="float32")
    spec = Spec(observation={"cloud": wide, "state": ArraySpec(shape=(2,))}, action=ArraySpec(shape=(1,)))
    store = EpisodeStore.create(tmp_path / "s.zarr", spec, provenance={})
    rows = {"cloud": np.zeros((3, 100, 100, 4), np.float32), "state": np.zeros((3, 2), np.float32)}
    last = np.asarray([False, True])
    store.append(
        Episode(
            observation=rows,
            action=np.zeros((2, 1), np.float32),
            reward=np.zeros(2),
            terminated=last,
            truncated=~last & last,
        )
    )
    read = survey(store)
    assert read.channel_keys == ["state"]
    assert list(read.sample[0].observation) == ["state"]


def test_a_store_without_episodes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = only_lengths(tmp_path / "s.zarr", [])
    with pytest.raises(InputError, match="no episodes"):
        survey(store)
    del store
    assert inspect.run(InspectConfig(store=str(tmp_path / "s.zarr"), report="html")) == 1
    assert "there is no episode" in flat(capsys.readouterr().out)


# --- the command


def test_images_are_a_line_with_tier_and_bytes(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "s.zarr", cameras=["front", "side"], tier="jpeg", depth=True, language=["Lift", "Push"])
    assert inspect.run(InspectConfig(store=str(tmp_path / "s.zarr"), plots="none")) == 0
    printed = flat(capsys.readouterr().out)
    assert "front 24 x 32 x 3 uint8 jpeg" in printed
    assert "depth 24 x 32 uint16" in printed
    assert "observation 'front'" not in printed
    assert "language 2: Lift; Push" in printed
    assert not (tmp_path / "s_inspect").exists()


def test_a_store_without_actions_and_rewards_is_shown(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "s.zarr", actions=0, reward=False, success=False, period_s=None)
    assert inspect.run(InspectConfig(store=str(tmp_path / "s.zarr"))) == 0
    printed = flat(capsys.readouterr().out)
    assert "the source lacks action, reward" in printed
    assert "return reward is not recorded" in printed
    assert (tmp_path / "s_inspect" / "examples.png").exists()


def test_check_prints_only_findings_and_fails_on_a_warning(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "s.zarr")  # a channel never changes: a warning
    assert main(["inspect", str(tmp_path / "s.zarr"), "--check"]) == 1
    printed = flat(capsys.readouterr().out)
    assert "1 of 3 channels never" in printed
    assert "Provenance" not in printed
    assert not (tmp_path / "s_inspect").exists()
    assert inspect.run(InspectConfig(store=str(tmp_path / "s.zarr"), plots="none")) == 0  # a warning is no damage


def test_a_flag_of_another_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--check"]) == 2
    assert "--check belongs to `robot-rl inspect`" in capsys.readouterr().err
    assert main(["inspect", "s.zarr", "--chek"]) == 2
    assert "did you mean '--check'?" in capsys.readouterr().err


def test_the_flags_are_settings_and_help_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--check", "s.zarr", "--fix", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "check: true" in printed
    assert "fix: true" in printed
    assert main(["inspect", "--help"]) == 0
    assert "--check" in capsys.readouterr().out
    assert main(["ingest", "--help"]) == 0
    assert "--check" not in capsys.readouterr().out


def test_an_unknown_report_is_refused() -> None:
    with pytest.raises(InputError, match="report"):
        InspectConfig(store="s.zarr", report="pdf")


def test_fix_repairs_says_so_and_shows_what_is_left(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "s.zarr")
    again = EpisodeStore.append_to(store.path)
    again.append(store.episode(1))  # an exact copy
    again.finish()
    del again
    assert main(["inspect", str(store.path), "--fix"]) == 1  # a channel still never changes
    printed = flat(capsys.readouterr().out)
    assert "Repaired left out 1 episode" in printed
    assert "channels never" in printed
    assert len(EpisodeStore.open(store.path)) == 4
    assert main(["inspect", str(store.path), "--fix"]) == 1
    assert "Nothing could be repaired" in flat(capsys.readouterr().out)


def test_a_store_behind_a_url_is_shown_under_its_url(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "s.zarr", cameras=["front"])
    monkeypatch.setenv("ROBOT_RL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    url = f"file://{tmp_path}/s.zarr"
    assert inspect.run(InspectConfig(store=url, plots="none", report="html")) == 0
    assert url in capsys.readouterr().out
    assert (tmp_path / "work" / "s_inspect" / "report.html").exists()  # not in the cache
