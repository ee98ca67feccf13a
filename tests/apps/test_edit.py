"""`robot-rl edit`, from its words to what it prints."""

from pathlib import Path

import numpy as np
import pytest

from robot_rl.apps.cli import main
from robot_rl.datasets.store import EpisodeStore
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Ten episodes of two steps."""
    spec = Spec(observation={"state": ArraySpec(shape=(1,), dtype="float64")}, action=ArraySpec(shape=(1,)))
    made = EpisodeStore.create(tmp_path / "s.zarr", spec, provenance={})
    for number in range(10):
        made.append(
            Episode(
                observation={"state": np.full((3, 1), float(number))},
                action=np.zeros((2, 1), np.float32),
                reward=np.asarray([0.0, number]),
                terminated=np.zeros(2, bool),
                truncated=np.asarray([False, True]),
            )
        )
    made.finish()
    return tmp_path / "s.zarr"


def test_each_operation_from_the_command_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store.parent
    assert main(["edit", "split", str(store), f"output={folder}/parts", "shares={a: 0.8, b: 0.2}", "seed=1"]) == 0
    assert main(["edit", "merge", f"{folder}/parts/a.zarr", f"others=[{folder}/parts/b.zarr]"]) == 0
    assert main(["edit", "filter", str(store), "minimum_return=5", f"output={folder}/good.zarr"]) == 0
    assert main(["edit", "relabel", f"{folder}/good.zarr", "reward.last_steps=1", "language='push it'"]) == 0
    assert main(["edit", "delete", f"{folder}/good.zarr", "episodes=[0,4]"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "parts/a.zarr: 8 episodes, 16 steps" in printed
    assert "parts/a.zarr: 10 episodes, 20 steps" in printed
    assert "good.zarr: 5 episodes, 10 steps; 5 episodes removed" in printed
    assert "good.zarr: 3 episodes, 6 steps; 2 episodes removed" in printed
    good = EpisodeStore.open(folder / "good.zarr")
    assert [float(episode.observation["state"][0, 0]) for episode in good.episodes()] == [6, 7, 8]
    assert [edit["operation"] for edit in good.provenance["edits"]] == ["filter", "relabel", "delete"]
    assert good.episode(0).reward.tolist() == [0.0, 1.0]
    assert good.metadata(0)["language"] == "push it"


def test_a_split_without_shares_is_nine_to_one(store: Path) -> None:
    assert main(["edit", "split", str(store), f"output={store.parent}/parts"]) == 0
    assert len(EpisodeStore.open(store.parent / "parts" / "train.zarr")) == 9
    assert len(EpisodeStore.open(store.parent / "parts" / "validation.zarr")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["splt"], "operation=splt: did you mean 'split'?"),
        (["split"], "split makes a folder of stores: name it, such as output="),
        (["delete"], "delete needs the episodes"),
        (["delete", "episodes=[10]"], "has episodes 0 to 9, not 10"),
        (["delete", "episodes=[1]", "keep=successful"], "does not take keep: keep belongs to filter"),
        (["filter", "shares={a: 1.0}"], "does not take shares: shares belongs to split"),
        (["relabel"], "relabel needs what to set"),
        (["merge"], "merge needs at least two stores"),
        (["filter", "keys=[sate]"], "'sate' matches no observation: did you mean 'state'?"),
    ],
)
def test_mistakes_are_said_and_change_nothing(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    before = EpisodeStore.open(store).digests
    assert main(["edit", words[0], str(store), *words[1:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert EpisodeStore.open(store).digests == before
    assert [entry.name for entry in store.parent.iterdir()] == ["s.zarr"]
