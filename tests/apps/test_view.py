"""`robot-rl view`: what the .rrd holds, read back with rerun's own reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from robot_rl.apps import view
from robot_rl.apps.cli import main
from robot_rl.apps.view import write_rrd
from robot_rl.data_config import ViewConfig
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError

rerun = pytest.importorskip("rerun")
MakeStore = Callable[..., EpisodeStore]


def table(path: Path, entity: str) -> Any:
    """All rows of an entity and what lies below it, by step."""
    return rerun.dataframe.load_recording(path).view(index="step", contents=entity).select().read_all()


def column(path: Path, entity: str, name: str) -> list[Any]:
    """The values of one component, a list for each step."""
    found: list[Any] = table(path, entity).column(f"{entity}:{name}").to_pylist()
    return found


def test_the_file_holds_every_step_of_the_episodes_asked_for(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", cameras=["front"], language=["Lift"])
    path = tmp_path / "out" / "s.rrd"
    assert main(["view", str(store.path), "episodes=[0,3]", f"output={path}"]) == 0
    zero, three = store.episode(0), store.episode(3)
    assert table(path, "/episode_0/**").num_rows == len(zero) + 1
    assert table(path, "/episode_3/**").num_rows == len(three) + 1
    assert "/episode_1/reward:Scalar" not in table(path, "/**").column_names
    assert np.asarray(column(path, "/episode_3/action", "Scalar")) == pytest.approx(three.action)
    assert np.asarray(column(path, "/episode_0/observation/state", "Scalar")) == pytest.approx(
        zero.observation["state"]
    )
    assert np.ravel(column(path, "/episode_0/reward", "Scalar")) == pytest.approx(zero.reward)
    assert not list(path.parent.glob(".*"))


def test_jpeg_bytes_of_the_store_are_passed_on_untouched(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", cameras=["front"], tier="jpeg")
    write_rrd(tmp_path / "s.rrd", store, [0], maximum_side=480)
    blobs = [
        bytes(np.asarray(blob[0], np.uint8))
        for blob in column(tmp_path / "s.rrd", "/episode_0/observation/front", "Blob")
    ]
    assert blobs == list(store.episode(0).observation["front"].encoded)  # type: ignore[attr-defined]  # EncodedFrames


def test_large_images_are_made_smaller_and_raw_ones_encoded(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", cameras=["front"], size=(40, 80))
    write_rrd(tmp_path / "s.rrd", store, [0], maximum_side=20)
    blob = column(tmp_path / "s.rrd", "/episode_0/observation/front", "Blob")[0][0]
    assert cv2.imdecode(np.asarray(blob, np.uint8), cv2.IMREAD_COLOR).shape == (10, 20, 3)


@pytest.mark.parametrize(("period_s", "stamps"), [(0.05, False), (0.05, True), (None, False)])
def test_the_time_line_is_that_of_the_store(
    make_store: MakeStore, tmp_path: Path, period_s: float | None, stamps: bool
) -> None:
    store = make_store(tmp_path / "s.zarr", period_s=period_s, stamps=stamps)
    write_rrd(tmp_path / "s.rrd", store, [0], maximum_side=480)
    names = table(tmp_path / "s.rrd", "/**").column_names
    if period_s is None:
        assert "time" not in names
        return
    episode = store.episode(0)
    expected = episode.extras["timestamp_s"] if stamps else np.arange(len(episode) + 1) * period_s
    nanoseconds = table(tmp_path / "s.rrd", "/episode_0/observation/state").column("time").cast("int64").to_pylist()
    assert np.asarray(nanoseconds) / 1e9 == pytest.approx(expected, abs=1e-6)


def test_names_units_and_the_instruction_are_there(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", language=["Lift the cube"])
    write_rrd(tmp_path / "s.rrd", store, [0], maximum_side=480)
    recording = rerun.dataframe.load_recording(tmp_path / "s.rrd")
    static = recording.view(index="step", contents="/episode_0/**").select_static().read_all().to_pydict()
    assert static["/episode_0/observation/state:Name"][0] == ["shoulder [rad]", "elbow [rad]", "<b>wrist</b> [rad]"]
    assert "Lift the cube" in static["/episode_0/about:Text"][0][0]


def test_a_store_without_actions_has_no_action(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", actions=0, depth=True, reward=False, success=False)
    write_rrd(tmp_path / "s.rrd", store, [0], maximum_side=480)
    names = table(tmp_path / "s.rrd", "/**").column_names
    assert not any("action" in name or "reward" in name for name in names)
    assert table(tmp_path / "s.rrd", "/episode_0/observation/depth").num_rows == len(store.episode(0)) + 1


def test_without_a_display_the_error_says_what_to_do(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s.zarr")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(InputError, match=r"output=NAME\.rrd"):
        view.run(ViewConfig(store=str(store.path)))


@pytest.mark.parametrize(
    ("episodes", "output", "words"),
    [
        ([9], "s.rrd", r"episodes 0 to 3, asked for \[9\]"),
        ([-1], "s.rrd", r"asked for \[-1\]"),
        ([], "s.rrd", "names none"),
        ([1, 1], "s.rrd", "twice"),
        ([0], "s.mp4", r"end in \.rrd"),
        ([0], "file/s.rrd", "file"),
    ],
)
def test_what_cannot_be_shown_is_refused_and_leaves_nothing(
    make_store: MakeStore, tmp_path: Path, episodes: list[int], output: str, words: str
) -> None:
    store = make_store(tmp_path / "s.zarr")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=words):
        view.run(ViewConfig(store=str(store.path), episodes=episodes, output=str(tmp_path / output)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "s.zarr"]


def test_a_file_without_its_end_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr")
    write_rrd(tmp_path / "s.rrd", store, [0], maximum_side=480)
    view.require_whole(tmp_path / "s.rrd", tmp_path / "s.rrd")
    (tmp_path / "s.rrd").write_bytes((tmp_path / "s.rrd").read_bytes()[:-20])
    with pytest.raises(InputError, match="could not be written whole"):
        view.require_whole(tmp_path / "s.rrd", tmp_path / "s.rrd")


def test_the_viewer_keeps_its_usage_statistics_to_itself() -> None:
    with view.quiet_viewer() as environment:
        settings = Path(environment["XDG_CONFIG_HOME"]) / "rerun" / "analytics.json"
        assert '"analytics_enabled":false' in settings.read_text("utf-8")
    assert not settings.exists()
