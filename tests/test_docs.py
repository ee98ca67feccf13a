"""What the pages on data say is true: commands and Python run, links lead somewhere, settings exist."""

import ast
import contextlib
import csv
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from robot_rl.apps import schema
from robot_rl.apps.cli import main
from robot_rl.datasets.ingest import registry
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
DATA_PAGES = [ROOT / "docs" / name for name in ("data.md", "formats.md", "new_format.md", "sampling.md")]
VERBS = ("ingest", "inspect", "view", "advise", "edit", "export")
START_NS = 1_760_000_000 * 10**9
TAKES = ((1.0, 5.0), (7.0, 12.0), (14.0, 18.0))  # seconds
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOOR = "adroit_human/door_human.hdf5"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [Block(found[1], found[2], text[: found.start()].count("\n") + 2) for found in FENCE.finditer(text)]


def commands(page: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """Every `robot-rl` command in a console block: line, words, and the lines of its output that count things."""
    for block in blocks(page):
        if block.language != "console":
            continue
        for part in re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            words = shlex.split(line, comments=True)
            if words[0] == "robot-rl":
                counted = [row for row in output.splitlines() if row.startswith(("Stored ", "Wrote "))]
                yield block.line, words[1:], counted


def moving(time: Any) -> np.ndarray:
    """Joints of an arm. Shapes: () -> (6,)."""
    return np.linspace(0.2, 0.8, 6) * np.sin(2 * np.pi * np.array([0.11, 0.23, 0.29, 0.41, 0.53, 0.61]) * time)


def record_bag(path: Path) -> None:
    """Three takes of an arm at 20 Hz: joint states, a command, a camera, marks; and topics that are no observation."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types

    def header(time: float) -> Any:
        stamp_ns = START_NS + round(time * 1e9)
        stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id="base")

    rows: list[tuple[float, str, Any]] = []
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    for time in np.arange(0, 20, 0.02).tolist():
        names = [f"joint_{number}" for number in range(6)]
        position, velocity = moving(time), (moving(time + 1e-4) - moving(time - 1e-4)) / 2e-4
        state = types["sensor_msgs/msg/JointState"]
        message = state(header=header(time), name=names, position=position, velocity=velocity, effort=np.zeros(0))
        rows.append((time, "/joint_states", message))
    for time in np.arange(0, 20, 0.05).tolist():
        if any(begin <= time <= end for begin, end in TAKES):
            command = types["std_msgs/msg/Float64MultiArray"](layout=layout, data=moving(time + 0.05))
            rows.append((time, "/arm_controller/commands", command))
    for time in np.arange(0, 20, 0.1).tolist():
        image = np.full((48, 64, 3), 40, np.uint8)
        cv2.circle(image, (int(32 + 30 * moving(time)[5]), 24), 6, (255, 200, 0), -1)
        jpeg = cv2.imencode(".jpg", image)[1].reshape(-1)
        picture = types["sensor_msgs/msg/CompressedImage"](header=header(time), format="jpeg", data=jpeg)
        rows.append((time, "/camera/compressed", picture))
    for begin, end in TAKES:
        rows += [(begin, "/record", types["std_msgs/msg/Bool"](data=True))]
        rows += [(end, "/record", types["std_msgs/msg/Bool"](data=False))]
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for time, topic, message in sorted(rows, key=lambda row: row[0]):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], START_NS + round(time * 1e9), store.serialize_cdr(message, kind))


def record_phone(video: Path, table: Path) -> None:
    """12 seconds with frames that come unevenly, and a table with a row every tenth of a second."""
    random = np.random.default_rng(0)
    times = np.cumsum(random.choice([1 / 30, 1 / 30, 1 / 24, 1 / 15], 300))
    with av.open(str(video), "w") as container:
        stream: Any = container.add_stream("h264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90_000)
        for time in times[times < 12.0].tolist():
            image = np.full((64, 96, 3), 60, np.uint8)
            cv2.circle(image, (int(48 + 40 * np.sin(time)), 32), 8, (0, 80, 255), -1)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = round(time * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time_ms", "dx", "dy", "grip"])
        for number in range(1, 118):
            time = number / 10
            writer.writerow([100 * number, f"{np.cos(time) / 10:.4f}", f"{np.sin(time) / 10:.4f}", int(time % 2 < 1)])


def record_lines(path: Path) -> None:
    """Two episodes in the format of docs/new_format.md."""
    step = '{{"episode": {0}, "state": [{1}, {0}], "action": [0.{1}], "reward": {2}}}\n'
    path.write_text("".join(step.format(e, t, int(t == 4)) for e in range(2) for t in range(5)))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a stranger might have recorded."""
    folder = tmp_path_factory.mktemp("recorded")
    record_bag(folder / "arm_bag")
    record_phone(folder / "phone.mp4", folder / "actions.csv")
    record_lines(folder / "steps.jsonl")
    return folder


@pytest.fixture(scope="module")
def data_folder() -> Path:
    """The shared recordings, which may be missing."""
    given = os.environ.get("ROBOT_RL_DATA")
    return Path(given) if given else ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def place(recorded: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of a reader of the pages, who has these recordings; it stays for all pages."""
    folder = tmp_path_factory.mktemp("reader")
    for path in recorded.iterdir():
        (folder / path.name).symlink_to(path)
    if (data_folder / DOOR).is_file():
        (folder / "door_human.hdf5").symlink_to(data_folder / DOOR)
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What the Python of docs/new_format.md defines."""
    (block,) = [block for block in blocks(ROOT / "docs/new_format.md") if block.language == "python"]
    names: dict[str, Any] = {}
    exec(compile(block.text, "docs/new_format.md", "exec"), names)  # noqa: S102  # it is our page
    return names


def run_commands(page: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the commands of a page of which the inputs are there; returns those that ran."""
    ran = []
    for line, words, counted in commands(page):
        verb, inputs = words[0], [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        source = inputs[1 if verb == "edit" else 0] if verb in VERBS else ""
        if verb not in VERBS or not Path(source).exists():
            continue
        capsys.readouterr()
        status = main(words)
        printed = capsys.readouterr()
        said = f"{page.name}:{line}: robot-rl {shlex.join(words)}"
        assert status in ((0, 1) if "--check" in words else (0,)), f"{said}\n{printed.out}\n{printed.err}"
        assert [row for row in counted if row not in printed.out] == [], f"{said}\n{printed.out}"
        ran.append(shlex.join(words))
    return ran


def run_python(page: Path) -> int:
    """Run the Python of a page, one block after another with the same names; returns how many there are."""
    names: dict[str, Any] = {}
    found = [block for block in blocks(page) if block.language == "python"]
    for block in found:
        padded = "\n" * (block.line - 1) + block.text  # so that a traceback has the line of the page
        exec(compile(padded, str(page), "exec"), names)  # noqa: S102  # it is our page
    return len(found)


@pytest.fixture(scope="module")
def stores(place: Path) -> Path:
    """The stores that the pages read, made as docs/data.md says."""
    for _, words, _ in commands(ROOT / "docs/data.md"):
        if words[0] == "ingest" and words[2] == "data/arm.zarr":
            assert main(words) == 0
    return place


def test_the_commands_and_the_python_of_the_page_on_data_run(
    stores: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in stores.iterdir():
        if path.name not in ("data", "exports"):
            (tmp_path / path.name).symlink_to(path)
    text = (ROOT / "docs/data.md").read_text("utf-8")
    look = str(tmp_path / "look.zarr")
    assert "/tmp/look.zarr" in text
    page = tmp_path / "data.md"
    page.write_text(text.replace("/tmp/look.zarr", look))
    ran = run_commands(page, capsys)
    assert {command.split()[0] for command in ran} == {"ingest", "inspect", "edit", "export"}
    assert sum("phone" in command for command in ran) == 2
    assert run_python(page) == 2


def test_the_python_of_the_page_on_sampling_runs(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_python(ROOT / "docs/sampling.md") > 5
    printed = capsys.readouterr().out
    assert "torch.Size([256, 48, 64, 3]) torch.uint8" in printed
    assert "['stack the cube', " in printed


def test_the_data_commands_of_the_readme_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("door_human.hdf5").exists():
        pytest.skip("the shared recordings are not there")
    ran = run_commands(ROOT / "README.md", capsys)
    assert [command.split()[0] for command in ran] == ["ingest", "inspect", "advise"]


def test_the_example_of_a_new_format_is_all_that_is_needed(
    place: Path, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs/new_format.md"
    assert registry.find_reader(place / "actions.csv").name == "csv"
    monkeypatch.setattr(registry, "READERS", (example["JsonlLogReader"](), *registry.READERS))
    assert len(run_commands(page, capsys)) == 2
    assert registry.find_reader(place / "actions.csv").name == "csv"
    assert registry.find_reader(place / "arm_bag").name == "bag"


def test_the_example_of_a_new_format_refuses_damage_with_its_place(example: dict[str, Any], tmp_path: Path) -> None:
    reader, path = example["JsonlLogReader"](), tmp_path / "steps.jsonl"
    record_lines(path)
    whole = path.read_bytes()
    for damaged, words in (
        (whole[:-20], "line 10 is no step"),
        (b"", "has no steps"),
        (whole.replace(b'"state": [3, 1]', b'"state": [3]'), "episode 1: its steps do not fit"),
        (whole + b"[]\n", "line 11 is no step"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=words):
            list(reader.open(path, ReadOptions()).episodes())
    path.write_bytes(b"\xff\xfe\x00")
    assert reader.probe(path) is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_can_be_parsed(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page if name == "" else page.parent / name
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name} links to {target}; there are {sorted(anchors(path))}"


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    text = FENCE.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*DATA_PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_setting_of_a_data_command_on_a_page_exists(page: Path) -> None:
    found = [words for _, words, _ in commands(page)]
    inline = re.findall(r"`(robot-rl (?:" + "|".join(VERBS) + r") [^`]*)`", FENCE.sub("", page.read_text("utf-8")))
    found += [shlex.split(text.replace("...", ""))[1:] for text in inline]
    for words in found:
        if words[0] not in VERBS:
            continue
        known = {key.name for key in schema.verb_keys(words[0])}
        given = {word.partition("=")[0] for word in words[1:] if "=" in word}
        assert given <= known, f"{page.name}: robot-rl {shlex.join(words)}: there is no {given - known}"


def test_every_setting_of_ingest_is_explained() -> None:
    text = "\n".join(page.read_text("utf-8") for page in DATA_PAGES)
    words = set(re.findall(r"[\w.]+", text))
    settings = {key.name for key in schema.verb_keys("ingest")} - {"source", "store", "success", "resimulate"}
    assert {name for name in settings if name.rstrip(".") not in words} == set()


def test_every_reader_has_a_row_in_the_table_of_formats() -> None:
    text = (ROOT / "docs/formats.md").read_text("utf-8")
    assert {reader.name for reader in registry.READERS} <= set(re.findall(r"\| `(\w+)` \|", text))


def test_the_page_on_data_has_a_place_for_the_table_of_the_shared_recordings() -> None:
    text = (ROOT / "docs/data.md").read_text("utf-8")
    begin, end = "<!-- shared-data table begin -->", "<!-- shared-data table end -->"
    assert text.count(begin) == text.count(end) == 1
    assert text.index(begin) < text.index(end)
