"""CSV logs become episodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_rl.datasets.ingest.base import ReadOptions, Recording, TableOptions
from robot_rl.datasets.ingest.csv_log import CsvLogReader
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.errors import InputError
from robot_rl.types import Array


def opened(path: Path, *, control_period_s: float | None = None, **table: Any) -> Recording:
    """By the reader that the content is found to be for."""
    reader = find_reader(path)
    assert reader.name == "csv"
    return reader.open(path, ReadOptions(table=TableOptions(**table), control_period_s=control_period_s))


def log(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "log.csv"
    path.write_bytes(text.encode(encoding))
    return path


def state(recording: Recording) -> Array:
    return recording.read(0).observation["state"]


PLAIN = "x,y\n1.5,2\n2.5,3\n-3.5,1e-3\n"
WAYS = {
    "commas": (PLAIN, "utf-8"),
    "semicolons and decimal commas": ("x;y\n1,5;2\n2,5;3\n-3,5;1e-3\n", "utf-8"),
    "empty columns behind": ("x;y;;;\n1,5;2;;;\n2,5;3;;;\n-3,5;1e-3;;;\n", "utf-8"),
    "tabs": ("x\ty\n1.5\t2\n2.5\t3\n-3.5\t1e-3\n", "utf-8"),
    "bars": ("x|y\n1.5|2\n2.5|3\n-3.5|1e-3\n", "utf-8"),
    "quoted": ('"x","y"\n"1.5","2"\n"2.5","3"\n"-3.5","1e-3"\n', "utf-8"),
    "byte order mark": (PLAIN, "utf-8-sig"),
    "two bytes": (PLAIN, "utf-16"),
    "carriage returns": (PLAIN.replace("\n", "\r\n"), "utf-8"),
    "spaces": ("x , y\n 1.5, 2\n+2.5, 3\n-3.5, 1e-3\n", "utf-8"),
    "no end of the last line": (PLAIN.rstrip(), "utf-8"),
    "comments": ("# a robot\n" + PLAIN, "utf-8"),
    "header in a comment": ("# x,y\n1.5,2\n2.5,3\n-3.5,1e-3\n", "utf-8"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_a_table_gives_the_same_numbers(tmp_path: Path, way: str) -> None:
    text, encoding = WAYS[way]
    recording = opened(log(tmp_path, text, encoding))
    assert recording.spec.observation["state"].names == ("x", "y")
    assert state(recording).tolist() == [[1.5, 2], [2.5, 3], [-3.5, 0.001]]


def test_commas_in_quotes_may_lie_between_thousands_so_they_must_be_told(tmp_path: Path) -> None:
    path = log(tmp_path, 'x,y\n"1,5",2\n"2,5",3\n')
    with pytest.raises(InputError, match=r"numbers with commas in quotes: set table.decimal"):
        CsvLogReader().open(path, ReadOptions())
    recording = CsvLogReader().open(path, ReadOptions(table=TableOptions(decimal=",")))
    assert state(recording).tolist() == [[1.5, 2], [2.5, 3]]


def test_a_table_of_numbers_alone_gets_names(tmp_path: Path) -> None:
    recording = opened(log(tmp_path, "1,2\n3,4\n5,6\n"))
    assert recording.spec.observation["state"].names == ("column_1", "column_2")
    assert state(recording).tolist() == [[1, 2], [3, 4], [5, 6]]


def test_true_and_false_are_one_and_zero_and_texts_are_left_out(tmp_path: Path) -> None:
    recording = opened(log(tmp_path, "x,open,note\n1,TRUE,go\n2,False,\n3,true,stop\n"))
    assert state(recording).tolist() == [[1, 1], [2, 0], [3, 1]]
    assert any("texts are left out: note" in finding.text for finding in recording.findings)


def test_without_actions_the_last_row_is_the_final_observation(tmp_path: Path) -> None:
    recording = opened(log(tmp_path, PLAIN))
    episode = recording.read(0)
    assert len(episode) == 2
    assert episode.has_final_observation
    assert recording.spec.metadata["absent"] == ["action", "reward", "success", "end"]
    assert recording.spec.action.shape == (0,)


def test_with_actions_every_row_is_a_step(tmp_path: Path) -> None:
    text = "t,q1,q2,u1,u2,r,won\n" + "".join(
        f"{i / 10},{i},{2 * i},{-i},{i % 2},{0.5 * i},{i == 4}\n" for i in range(5)
    )
    settings = {"time": "t", "observation": {"joints": ["q*"]}, "action": ["u*"], "reward": "r", "success": "won"}
    recording = opened(log(tmp_path, text), **settings)
    episode = recording.read(0)
    assert len(episode) == 5
    assert not episode.has_final_observation
    assert episode.observation["joints"].tolist() == [[0, 0], [1, 2], [2, 4], [3, 6], [4, 8], [4, 8]]
    assert episode.action[:, 0].tolist() == [0, -1, -2, -3, -4]
    assert episode.reward.tolist() == [0, 0.5, 1, 1.5, 2]
    assert episode.success is not None
    assert episode.success.tolist() == [False] * 4 + [True]
    assert episode.extras["timestamp_s"] == pytest.approx(np.arange(5) / 10)
    assert recording.spec.control_period_s == pytest.approx(0.1)
    assert recording.spec.metadata["absent"] == ["end"]
    assert recording.spec.action.low is not None
    assert recording.spec.action.low.tolist() == [-4, 0]


def test_missing_numbers_are_counted_by_column(tmp_path: Path) -> None:
    path = log(tmp_path, "x,y,z\n1,,1\n2,5,2\n,NaN,3\n4,7,4\n5,n/a,5\n")
    with pytest.raises(InputError, match=r"4 numbers are missing, the first in row 1 \(x 1, y 3\).*missing=hold"):
        opened(path)
    assert state(opened(path, observation={"state": ["z"]})).tolist() == [[1], [2], [3], [4], [5]]


def test_hold_repeats_the_number_before(tmp_path: Path) -> None:
    recording = opened(log(tmp_path, "x,y\n1,\n2,5\n,\n4,7\n5,\n"), missing="hold")
    assert state(recording).tolist() == [[1, 5], [2, 5], [2, 5], [4, 7], [5, 7]]  # the first: from the row behind
    assert any("4 numbers are missing" in finding.text for finding in recording.findings)


def test_split_ends_an_episode_where_a_number_is_missing(tmp_path: Path) -> None:
    recording = opened(log(tmp_path, "x,y\n1,1\n2,2\n3,\n4,4\n,5\n6,6\n7,7\n8,8\n"), missing="split")
    found = [episode.observation["state"][:, 0].tolist() for episode in recording.episodes()]
    assert found == [[1, 2], [6, 7, 8]]  # row 4 alone has no step
    assert any("1 episodes of a single row" in finding.text for finding in recording.findings)
    assert recording.read(1).metadata["source"] == "rows 6 to 8"


def test_an_episode_column_and_a_silence_split_a_log(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 0, 1, 2]
    takes = ["a"] * 5 + ["b"] * 3
    text = "t,take,x\n" + "".join(f"{t},{take},{i}.5\n" for i, (t, take) in enumerate(zip(times, takes, strict=True)))
    recording = opened(log(tmp_path, text), time="t", episode="take", maximum_gap_s=2)
    assert [len(episode) + 1 for episode in recording.episodes()] == [3, 2, 3]
    assert [episode.metadata["episode"] for episode in recording.episodes()] == ["a", "a", "b"]
    with pytest.raises(InputError, match=r"the time goes back by 11 s at row 6"):
        opened(tmp_path / "log.csv", time="t", observation={"state": ["x"]})


@pytest.mark.parametrize(
    ("cells", "settings"),
    [
        (["2024-05-01T10:00:00.25Z", "2024-05-01T10:00:00.75Z", "2024-05-01T12:00:01.25+02:00"], {}),
        (
            ["01.05.2024 10:00:00,25", "01.05.2024 10:00:00,75", "01.05.2024 10:00:01,25"],
            {"time_format": "%d.%m.%Y %H:%M:%S,%f"},
        ),
        (["250", "750", "1250"], {"time_unit_s": 1e-3}),
    ],
)
def test_times_are_numbers_in_a_unit_or_dates(tmp_path: Path, cells: list[str], settings: dict[str, Any]) -> None:
    text = "when;x\n" + "".join(f"{cell};{i}\n" for i, cell in enumerate(cells))
    recording = opened(log(tmp_path, text), time="when", **settings)
    assert recording.read(0).extras["timestamp_s"].tolist() == [0, 0.5, 1.0]
    assert recording.spec.control_period_s == 0.5


def test_a_time_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    text = "t,x\n2024-05-01T10:00:00,1\nnoon,2\n2024-05-01T10:00:02,3\n"
    with pytest.raises(InputError, match=r"column 't', row 2: the time 'noon' is not ISO 8601; set table.time_format"):
        opened(log(tmp_path, text), time="t")


def test_irregular_times_give_no_period_and_say_so(tmp_path: Path) -> None:
    text = "t,x\n" + "".join(f"{t},{t}\n" for t in (0, 0.1, 0.5, 0.6, 2, 2.05))
    recording = opened(log(tmp_path, text), time="t")
    assert recording.spec.control_period_s is None
    assert any("not regular (from 0.05 to 1.4 s)" in finding.text for finding in recording.findings)


def test_resampling_draws_lines_holds_whole_numbers_and_actions_and_sums_rewards(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.25, 0.3, 0.4]
    rows = [f"{t},{10 * t},{i},{t + 0.5},{1}" for i, t in enumerate(times)]
    path = log(tmp_path, "t,x,count,u,r\n" + "\n".join(rows) + "\n")
    recording = opened(path, time="t", action=["u"], reward="r", control_period_s=0.2)
    episode = recording.read(0)
    assert episode.observation["state"][:3].tolist() == [[0, 0], [2, 1], [4, 4]]
    assert episode.action[:, 0].tolist() == [0.5, 0.6, 0.9]  # the latest at 0, 0.2 and 0.4 s
    assert episode.reward.tolist() == [2, 2, 1]
    assert recording.spec.control_period_s == 0.2


def test_nothing_is_made_up_across_a_silence(tmp_path: Path) -> None:
    times = [*np.arange(10) / 10, *(100 + np.arange(10) / 10)]
    path = log(tmp_path, "t,x\n" + "".join(f"{t:.1f},{t:.1f}\n" for t in times))
    assert [len(episode) for episode in opened(path, time="t", control_period_s=0.1).episodes()] == [9, 9]
    with pytest.raises(InputError, match="give no steps of 1e-06 s"):
        opened(path, time="t", control_period_s=1e-6).read(0)


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    text = "x,y\n" + "1,2\n" * 20_000 + "1,2,3\n" + "1,2\n" * 3
    with pytest.raises(InputError, match=r"row 20001 has 3 cells, the first has 2"):
        opened(log(tmp_path, text))


def test_a_last_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    recording = opened(log(tmp_path, "x,y,z\n1,2,3\n4,5,6\n7,8"))
    assert state(recording).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert any("cut off while it was written (2 of 3 cells)" in finding.text for finding in recording.findings)


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    recording = opened(log(tmp_path, "x,x,y\n1,2,3\n4,5,6\n"))
    assert recording.spec.observation["state"].names == ("x", "x_2", "y")
    assert any("two columns are called 'x'" in finding.text for finding in recording.findings)


def test_mistakes_in_the_mapping_are_named(tmp_path: Path) -> None:
    path = log(tmp_path, "joint_1,joint_2,note\n1,2,a\n4,5,b\n")
    with pytest.raises(InputError, match=r"table.action: no column matches 'jiont_1'; did you mean 'joint_1'"):
        opened(path, action=["jiont_1"])
    with pytest.raises(InputError, match=r"table.time=stamp: .*Choices: joint_1, joint_2, note"):
        opened(path, time="stamp")
    with pytest.raises(InputError, match=r"column 'note' holds texts, such as 'a' in row 1"):
        opened(path, observation={"state": ["*"]})
    with pytest.raises(InputError, match=r"maximum_gap_s needs the times"):
        opened(path, maximum_gap_s=1)


def test_both_decimals_in_one_file_must_be_told(tmp_path: Path) -> None:
    path = log(tmp_path, "x;y\n1,5;2.5\n2,5;3.5\n")
    with pytest.raises(InputError, match=r"numbers with commas and numbers with points: set table.decimal"):
        CsvLogReader().open(path, ReadOptions())
    assert find_reader(path, "csv").open(path, ReadOptions(table=TableOptions(decimal=","))).spec.observation[
        "state"
    ].names == ("x",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one line, of prose\n",
        "Dear reader, this is\na letter, in lines\nwith commas, as it were\n",
        '{"x": 1,\n"y": 2}\n',
        "<svg>\n<a b='1'/>\n</svg>\n",
        "[section]\nkey = 1, 2\n",
        "import os, sys\nfrom a import b\n",
        "1\n2\n3\n",
        "a,b\x00\n1,2\n3,4\n",
    ],
)
def test_other_texts_are_not_claimed(tmp_path: Path, text: str) -> None:
    assert CsvLogReader().probe(log(tmp_path, text)) is None


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\0\0\0", b"#\n#\n", b"\xff\xfe", b"x,y\n", b'x,"y\n1,2\n'])
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "log.csv").write_bytes(data)
    with pytest.raises(InputError, match=r"log\.csv"):
        CsvLogReader().open(tmp_path / "log.csv", ReadOptions())


def test_the_log_of_the_ur3_says_what_is_missing(shared_data: Path) -> None:
    path = shared_data / "robot_logs" / "ur3_cobotops" / "dataset_02052023.csv"
    with pytest.raises(InputError, match=r"1072 numbers are missing, .*Current_J0 46.*table.missing=hold"):
        opened(path)


def test_the_log_of_the_ur3_is_read_with_its_missing_numbers_held(shared_data: Path) -> None:
    path = shared_data / "robot_logs" / "ur3_cobotops" / "dataset_02052023.csv"
    recording = opened(path, missing="hold")
    episode = recording.read(0)
    assert len(episode) + 1 == 7409
    names = recording.spec.observation["state"].names
    assert names is not None
    assert len(names) == 23
    rows = episode.observation["state"]
    assert rows[0, names.index("Current_J0")] == 0.109627604
    assert int(rows[:, names.index("grip_lost")].sum()) == 243
    assert recording.spec.control_period_s == pytest.approx(1.005)
    gaps = opened(path, missing="hold", maximum_gap_s=5)
    assert [len(episode) + 1 for episode in gaps.episodes()] == [1094, 72, 1703, 4540]


def test_success_that_is_told_by_the_reward_is_not_absent(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("q,u,r\n0.1,1.5,0\n0.2,1.5,0\n0.3,2.5,1\n")
    table = TableOptions(action=["u"], reward="r")
    with CsvLogReader().open(path, ReadOptions(table=table)) as recording:
        assert recording.spec.metadata["absent"] == ["end"]
        assert recording.read(0).success is not None
    with CsvLogReader().open(path, ReadOptions(table=TableOptions(action=["u"], reward="q"))) as recording:
        assert recording.spec.metadata["absent"] == ["success", "end"]
        assert recording.read(0).success is None
