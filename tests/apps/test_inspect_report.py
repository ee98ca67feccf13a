"""The report of a store: one page that needs nothing else, whatever the store lacks."""

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from robot_rl.apps import inspect
from robot_rl.apps.inspect_chart import LINE_POINTS, Group, bin_edges, histogram, thinned
from robot_rl.apps.inspect_pictures import CLIP_EPISODES, STRIP_EPISODES, drawable, pictures
from robot_rl.apps.inspect_report import write_report
from robot_rl.apps.inspect_survey import survey
from robot_rl.data_config import InspectConfig
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.store import EpisodeStore

MakeStore = Callable[..., EpisodeStore]
EMPTY = {"img", "input", "meta", "br", "path", "rect", "line", "circle", "polyline", "polygon"}


class Page(HTMLParser):
    """Tags, texts and attributes of a page; refuses tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def headings(self) -> list[str]:
        """What the navigation links to, in order."""
        return [attributes["href"] for tag, attributes in self.attributes if tag == "a"]  # type: ignore[misc]  # set


def report(store: EpisodeStore, folder: Path, findings: list[Finding] | None = None) -> Page:
    """Write the report and read it; it names nothing outside itself."""
    path = write_report(folder, survey(store), findings or [])
    text = path.read_text("utf-8")
    page = Page(text)
    for _, attributes in page.attributes:
        for name in ("src", "href", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value[:60]
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert not list(folder.glob(".report*"))
    return page


def test_a_full_store_has_every_part(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(
        tmp_path / "s.zarr", episodes=6, cameras=["front"], depth=True, stamps=True, language=["Lift", "Push"]
    )
    finding = Finding(severity="warning", place="reward", text="is <odd>", remedy="look & see")
    page = report(store, tmp_path / "out", [finding])
    parts = [
        "findings",
        "frames",
        "clips",
        "light",
        "measures",
        "advice",
        "distributions",
        "tasks",
        "action",
        "observation-1",
        "timing",
    ]
    assert page.headings() == [f"#{part}" for part in [*parts, "provenance", "layout"]]
    text = " ".join(page.texts)
    for words in ("1 warning", "is <odd>", "look & see", "<b>wrist</b>", "never changes", "Lift", "rad", "real time"):
        assert words in text
    assert "<script>alert(1)</script>" in text  # shown as text, not run
    tags = {attributes.get("id") for _, attributes in page.attributes}
    assert {part.removeprefix("#") for part in page.headings()} <= tags


def test_images_decode_and_clips_play(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", cameras=["front", "side"], tier="jpeg")
    page = report(store, tmp_path / "out")
    images = [attributes for tag, attributes in page.attributes if tag == "img"]
    assert len(images) == 2 * 4
    assert all(attributes["alt"] and "first, middle and last frame" in attributes["alt"] for attributes in images)
    jpeg = base64.b64decode(str(images[0]["src"]).partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (108, 3 * 144, 3)
    clips = [attributes for tag, attributes in page.attributes if tag == "video"]
    assert len(clips) == 4
    assert all("muted" in attributes and "loop" in attributes and "autoplay" not in attributes for attributes in clips)
    with av.open(io.BytesIO(base64.b64decode(str(clips[0]["src"]).partition(",")[2]))) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].codec_context.name == "h264"
    assert len(frames) == 13  # every observation of the episode
    labels = [attributes["aria-label"] for tag, attributes in page.attributes if tag == "button"]
    assert labels[0] == "Play episode 0, cameras front, side"


@pytest.mark.parametrize("steps", [1, 12])
def test_a_bare_store_still_has_a_page(make_store: MakeStore, tmp_path: Path, steps: int) -> None:
    store = make_store(
        tmp_path / "s.zarr", episodes=1, steps=steps, actions=0, reward=False, success=False, period_s=None
    )
    page = report(store, tmp_path / "out")
    assert page.headings() == [
        f"#{part}"
        for part in (
            "findings",
            "measures",
            "advice",
            "distributions",
            "action",
            "observation-1",
            "provenance",
            "layout",
        )
    ]
    text = " ".join(page.texts)
    for words in ("nothing wrong found", "The source has no actions.", "control period is not declared"):
        assert words in text


def test_depth_alone_has_pictures_but_no_brightness(make_store: MakeStore, tmp_path: Path) -> None:
    page = report(make_store(tmp_path / "s.zarr", depth=True), tmp_path / "out")
    assert {"#frames", "#clips"} <= set(page.headings())
    assert "#light" not in page.headings()
    assert "1 camera" in " ".join(page.texts)


def test_many_episodes_do_not_make_a_larger_page(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", episodes=60, steps=3, cameras=["front"], size=(8, 8))
    shown = pictures(store)
    assert len(shown.strips) == STRIP_EPISODES
    assert len(shown.clips) == CLIP_EPISODES
    assert {0, 59} <= {strip.episode for strip in shown.strips}
    path = write_report(tmp_path / "out", survey(store), [])
    assert path.stat().st_size < 2_000_000


def test_the_pictures_stop_at_their_budget(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s.zarr", episodes=12, cameras=["front"])
    monkeypatch.setattr("robot_rl.apps.inspect_pictures.PAGE_BYTES", 10_000)
    shown = pictures(store)
    total = sum(len(strip.jpeg) for strip in shown.strips) + sum(
        len(clip.mp4) + len(clip.poster) for clip in shown.clips
    )
    assert 0 < total < 40_000
    assert len(shown.clips) < CLIP_EPISODES


def test_an_episode_with_a_damaged_image_is_named_in_the_page(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", cameras=["front"], tier="jpeg")
    read = survey(store)
    files = (path for path in (tmp_path / "s.zarr").rglob("*") if path.is_file() and "front" in path.parts)
    data = max(files, key=lambda path: path.stat().st_size)
    data.write_bytes(bytes(data.stat().st_size))
    page = Page(write_report(tmp_path / "out", read, []).read_text("utf-8"))
    warnings = [
        attributes for tag, attributes in page.attributes if tag == "p" and attributes.get("class") == "warning"
    ]
    assert len(warnings) == 4
    assert "episode 0: " in " ".join(page.texts)


def test_the_command_writes_the_page_beside_the_pictures(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "s.zarr", cameras=["front"])
    config = InspectConfig(store=str(tmp_path / "s.zarr"), plots="none", report="html")
    assert inspect.run(config) == 0
    assert [path.name for path in (tmp_path / "s_inspect").iterdir()] == ["report.html"]
    assert "report.html" in capsys.readouterr().out


# --- charts and pictures


def test_a_thinned_curve_keeps_its_extremes() -> None:
    x = np.arange(5000.0)
    y = np.sin(x / 300)
    y[1234], y[4321] = 7.0, -7.0
    short_x, short_y = thinned(x, y)
    assert len(short_x) <= LINE_POINTS + 2
    assert short_y.max() == 7.0
    assert short_y.min() == -7.0
    assert short_x[0] == 0
    assert short_x[-1] == 4999
    assert (np.diff(short_x) > 0).all()


def test_bins_of_whole_numbers_lie_around_them() -> None:
    edges = bin_edges(np.asarray([3, 4, 4, 6]), whole=True)
    assert np.histogram([3, 4, 4, 6], edges)[0].tolist() == [1, 2, 0, 1]
    assert len(bin_edges(np.asarray([1, 1000]), whole=True)) <= 40
    constant = bin_edges(np.asarray([0.0, 0.0]))
    assert constant[0] < 0 < constant[-1]


def test_a_histogram_counts_each_group_on_top_of_the_others() -> None:
    groups = [
        Group(label="a", values=np.asarray([1.0, 1.0]), color=1),
        Group(label="b", values=np.asarray([1.0]), color=2),
    ]
    svg = histogram(groups, x_label="x", y_label="y", description="two groups", edges=np.asarray([0.0, 2.0, 4.0]))
    assert 'aria-label="two groups"' in svg
    assert "a: 2 from 0 to 2" in svg
    assert "b: 1 from 0 to 2" in svg


def test_depth_is_drawn_near_bright_and_missing_black() -> None:
    plane = np.tile(np.linspace(500, 2000, 64), (64, 1)).astype(np.uint16)
    plane[0] = 0
    grey = drawable(plane[None])[0, :, :, 0].astype(int)
    assert (grey[0] == 0).all()
    assert grey[1, 0] > grey[1, -1] > 0
