"""Reports of made-up runs: whole, partial and broken ones.

`PYTHONPATH=. python tests/apps/test_report.py FOLDER` writes a run and its report, to look at.
"""

import json
import math
import re
import resource
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_rl.apps.report import write_report
from robot_rl.apps.report_compare import plot_runs, summary_table
from robot_rl.apps.report_read import dip, read_run
from robot_rl.apps.video import write_video
from robot_rl.errors import InputError

VOID = {"meta", "br", "link", "input"}
Record = dict[str, Any]


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, share = 1.96, successes / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return center - half, center + half


class RunMaker:
    """Writes a run folder as `robot-rl train` does, from curves that look like those of a real run."""

    def __init__(self, path: Path, *, seed: int = 0, success: bool = True, episodes: int = 20) -> None:
        self.path, self.success, self.episodes = path, success, episodes
        self.generator = np.random.default_rng(seed)
        self.lines: list[Record] = []
        self.place: Record = {"environment_steps": 0, "updates": 0, "elapsed_s": 0.0}
        path.mkdir(parents=True, exist_ok=True)
        facts = {
            "config_hash": "5f3c9d1e",
            "seed": seed,
            "command": ["train", "experiment=demo_lift", f"seed={seed}", "name=two words"],
            "versions": {"robot_rl": "0.1.0", "torch": "2.13.0", "mujoco": "3.3.7"},
            "machine": {"cpu": "2 cores", "system": "Linux x86-64"},
            "datasets": {
                "demonstrations": {
                    "path": "data/lift.zarr",
                    "episodes": 60,
                    "steps": 3540,
                    "return_mean": 0.72,
                    "success_rate": 0.72,
                    "provenance": {"source": "lift_demo.hdf5", "sha256": "9b1f0c2a77e0"},
                }
            },
        }
        (path / "run.json").write_text(json.dumps(facts))
        (path / "config.yaml").write_text(
            f"name: lift\nseed: {seed}\noutput: runs/${{name}}/seed_${{seed}}\n"
            "environment:\n  kind: robosuite\n  task: Lift\n  robot: Panda\n"
            "algorithm:\n  kind: sac\n  conservative_weight: 5.0\n  conservative_calibrated: true\n"
            "replay:\n  discount: 0.98\n  reward_scale: 1.0\n  reward_bias: 0.0\n"
            "phases:\n  offline:\n    steps: 20000\n  warmup:\n    steps: 2000\n"
            "  online:\n    steps: 20000\n    algorithm: {conservative_weight: 0.0}\n"
        )

    def event(self, event: str, phase: str, index: int, step: int, metrics: Record | None = None, **more: Any) -> None:
        self.lines.append(
            {"event": event, "phase": phase, "phase_index": index, "phase_step": step, **self.place}
            | {"metrics": metrics if metrics is not None else {}, **more}
        )

    def evaluate(self, phase: str, index: int, step: int, share: float, value: float, video: str | None = None) -> None:
        success = self.generator.random(self.episodes) < share
        lengths = np.where(success, self.generator.integers(40, 80, self.episodes), 200)
        returns = np.where(success, 1.0, 0.0) + 0.1 * self.generator.random(self.episodes)
        metrics: Record = {
            "return_mean": returns.mean(),
            "return_std": returns.std(),
            "length_mean": lengths.mean(),
            "value_mean": value,
        }
        if self.success:
            low, high = wilson(int(success.sum()), self.episodes)
            metrics |= {"success_rate": success.mean(), "success_low": low, "success_high": high}
        episodes = [
            {"seed": 1_000_000 + k, "return": r, "length": int(n), "success": bool(s) if self.success else None}
            for k, (s, n, r) in enumerate(zip(success, lengths, returns, strict=True))
        ]
        more = {"videos": [] if video is None else [video]}
        self.event("evaluation", phase, index, step, metrics, episodes=episodes, **more)

    def train(self, phase: str, index: int, step: int, share: float, conservative: float) -> None:
        noise = self.generator.normal(0, 1, 8)
        self.event(
            "train",
            phase,
            index,
            step,
            {
                "critic/q_spread": 0.02 + 0.3 * math.exp(-self.place["updates"] / 4000) + 0.004 * abs(noise[0]),
                "critic/td_loss": 0.05 + 0.2 * math.exp(-self.place["updates"] / 5000) + 0.01 * abs(noise[1]),
                "critic/q": share * 0.6 + 0.02 * noise[2],
                "actor/entropy": 4.0 - 3 * share + 0.1 * noise[3],
                "actor/loss": -share + 0.05 * noise[4],
                "actor/temperature": 0.1 * math.exp(-self.place["updates"] / 15000),
                "critic/conservative_difference": conservative * (0.4 + 0.05 * noise[5]),
                "updates_per_s": 210 + 8 * noise[6],
                "steps_per_s": 0.0 if index == 0 else 60 + 4 * noise[7],
            },
        )

    def offline(self, steps: int = 20_000, *, end: bool = True) -> "RunMaker":
        self.event("phase_start", "offline", 0, 0, interact=False)
        for step in range(0, steps + 1, 100):
            self.place |= {"updates": step, "elapsed_s": step / 200}
            share = 0.42 * (1 - math.exp(-step / 6000))
            self.train("offline", 0, step, share, 1.0)
            if step % 4000 == 0:
                self.evaluate("offline", 0, step, share, share * 0.7)
        if end:
            self.event("phase_end", "offline", 0, steps)
        return self

    def online(
        self, steps: int = 20_000, *, warmup: int = 2000, end: bool = True, video: str | None = None
    ) -> "RunMaker":
        updates, start_s = self.place["updates"], self.place["elapsed_s"]
        self.event("phase_start", "warmup", 1, 0, interact=True)
        self.place |= {"environment_steps": warmup, "elapsed_s": start_s + warmup / 300}
        self.evaluate("warmup", 1, warmup, 0.42, 0.3)
        self.event("phase_end", "warmup", 1, warmup)
        self.event("phase_start", "online", 2, 0, interact=True)
        dense = {500, 1000, 1500, 2000, 3000, 4000}
        for step in range(100, steps + 1, 100):
            self.place |= {
                "environment_steps": warmup + step,
                "updates": updates + step,
                "elapsed_s": start_s + warmup / 300 + step / 60,
            }
            share = 0.42 - 0.35 * math.exp(-(((step - 1200) / 800) ** 2)) + 0.56 * (1 - math.exp(-step / 6000))
            success = float(self.generator.random() < share)
            self.event(
                "episode",
                "online",
                2,
                step,
                {"return": success, "length": 90, **({"success": success} if self.success else {})},
            )
            self.train("online", 2, step, share, 0.3)
            if step in dense or step % 2500 == 0:
                self.evaluate("online", 2, step, share, share * 0.62, video if step == steps else None)
        if end:
            self.event("phase_end", "online", 2, steps)
        return self

    def write(self, ending: str = "") -> Path:
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        (self.path / "metrics.jsonl").write_text(text + ending)
        return self.path


class Page(HTMLParser):
    """Checks that elements nest, and gathers texts, tags and addresses."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data + " "


def report(run: Path) -> Page:
    path = write_report(run)
    assert [entry for entry in run.iterdir() if "tmp" in entry.name] == []
    source = path.read_text("utf-8")
    assert re.findall(r'(?:points|cx|cy|x|y|x1|y1|width|height)="[^"]*(?:nan|inf)', source) == []
    return Page(source)


def film(path: Path, success: bool = True, count: int = 60) -> None:
    """A square that comes to a target."""
    frames, values = [], []
    for step in range(count):
        frame = np.full((256, 256, 3), 235, np.uint8)
        frame[190:200, :] = (150, 130, 110)
        frame[150:190, 180:184] = (200, 60, 60)
        x = 20 + (step * 150 // count if success else min(step, 20) * 3)
        frame[160:190, x : x + 30] = (50, 110, 190)
        frames.append(frame)
        values.append(step / count * (1.0 if success else 0.3) + 0.05 * math.sin(step / 3))
    write_video(
        path,
        frames,
        frames_per_second=20.0,
        values=values,
        caption=f"episode 0 | {'success' if success else 'failure'}",
    )


def test_a_finished_run_becomes_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    film(tmp_path / "run" / "videos" / "online_020000.mp4", count=10)
    maker = RunMaker(tmp_path / "run").offline().online(video="videos/online_020000.mp4")
    page = report(maker.write())
    assert all(address.startswith("data:") for address in page.addresses)
    assert page.tags.count("video") == 1
    for words in (
        "Panda",
        "Cal-QL → SAC",
        "finished",
        "seed 0",
        "Key numbers",
        "The dip: success fell from",
        "online updates begin",
    ):
        assert words in page.text
    for words in (
        "Value against return",
        "critic/conservative_difference",
        "updates/s",
        "lift.zarr",
        "9b1f0c2a77e0",
        "mujoco",
        "reward_bias",
    ):
        assert words in page.text


def test_a_run_interrupted_offline_says_how_to_go_on(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path / "run").offline(8000, end=False)
    maker.event("interrupt", "offline", 0, 8000)
    page = report(maker.write())
    assert "interrupted" in page.text
    assert "robot-rl train experiment=demo_lift seed=0 'name=two words' resume=true" in page.text
    assert "has not come to online updates" in page.text


def test_a_run_in_progress_is_called_so(tmp_path: Path) -> None:
    assert "still running" in report(RunMaker(tmp_path / "run").offline().online(5000, end=False).write()).text


def test_a_run_without_success_is_judged_by_its_return(tmp_path: Path) -> None:
    page = report(RunMaker(tmp_path / "run", success=False).offline().online().write())
    assert "declares no success" in page.text
    assert "The dip: return fell from" in page.text
    assert "Success rate" not in page.text


def test_a_run_with_no_line_yet_has_a_page(tmp_path: Path) -> None:
    assert "nothing recorded yet" in report(RunMaker(tmp_path / "run").write()).text


def test_metrics_alone_make_a_page(tmp_path: Path) -> None:
    run = RunMaker(tmp_path / "run").offline().write()
    (run / "run.json").unlink()
    (run / "config.yaml").unlink()
    assert "Key numbers" in report(run).text


def test_numbers_that_are_not_finite_are_gaps_and_are_named(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path / "run").offline().online()
    for line in maker.lines[::3]:
        for name in ("critic/q_spread", "value_mean", "return_std", "success_rate"):
            if name in line["metrics"]:
                line["metrics"][name] = (math.nan, math.inf, None)[len(name) % 3]
    page = report(maker.write())
    assert "Not finite at least once, drawn as gaps: critic/q_spread" in page.text


def test_a_metric_that_is_never_finite_still_has_a_page(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path / "run").offline().online()
    for line in maker.lines:
        line["metrics"] = dict.fromkeys(line["metrics"], math.nan)
    assert "Key numbers" in report(maker.write()).text


def test_names_cannot_write_into_the_page(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path / "run").offline().online()
    bad = "<img src=x onerror=alert(1)>\"'&"
    for line in maker.lines:
        line["phase"] = bad + line["phase"]
        line["metrics"] = {
            (bad + name if name == "actor/loss" else name): value for name, value in line["metrics"].items()
        }
    run = maker.write()
    facts = json.loads((run / "run.json").read_text())
    facts["command"] = [bad]
    facts["versions"]["torch"] = facts["machine"][bad] = bad
    facts["datasets"][bad] = {"path": bad, bad: bad}
    (run / "run.json").write_text(json.dumps(facts))
    config = {"name": bad, "environment": {"id": bad}, "algorithm": {"kind": bad}, "phases": {bad: {"steps": 1}}}
    (run / "config.yaml").write_text(json.dumps(config))
    page = report(run)
    assert "img" not in page.tags
    assert page.addresses == []


def test_a_report_that_does_not_fit_on_the_disk_is_refused_by_name_and_the_last_one_stays(tmp_path: Path) -> None:
    run = RunMaker(tmp_path / "run").offline().write()
    last = write_report(run).read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"the disk is full: .*report\.html"):
            write_report(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (run / "report.html").read_bytes() == last


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    run = RunMaker(tmp_path / "run").offline().write('{"event": "train", "phase": "off')
    assert "was cut short" in report(run).text
    assert len(read_run(run).events) == len((run / "metrics.jsonl").read_text().splitlines()) - 1


@pytest.mark.parametrize("broken", ['{"event": "tra', "[]", '{"event": "train"}', '{"event": "party", "phase": "a"}'])
def test_an_earlier_broken_line_is_an_error_that_names_it(tmp_path: Path, broken: str) -> None:
    run = RunMaker(tmp_path / "run").offline().write()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:4], broken, *lines[4:]]))
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 5 is not an event"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.jsonl is missing"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="not the folder of a run"):
        write_report(tmp_path / "absent")


def test_broken_side_files_are_named(tmp_path: Path) -> None:
    run = RunMaker(tmp_path / "run").offline().write()
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is not JSON"):
        read_run(run)
    (run / "run.json").unlink()
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"config\.yaml is not a configuration"):
        read_run(run)


def test_the_obtained_return_is_drawn_only_where_it_compares_with_a_value(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path / "run").offline()
    run = maker.write()
    assert "return obtained, undiscounted" in report(run).text
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("reward_bias: 0.0", "reward_bias: -1.0"))
    assert "with a reward_bias it compares with a value only when discounted" in report(run).text
    for line in maker.lines:
        line["metrics"] |= {"discounted_return_mean": -9.0} if line["event"] == "evaluation" else {}
    maker.write()
    assert "return obtained, discounted" in report(run).text


def test_a_single_evaluation_still_shows_its_interval(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path / "run")
    maker.event("phase_start", "offline", 0, 0, interact=False)
    maker.evaluate("offline", 0, 0, 0.5, 0.1)
    write_report(maker.write())
    assert (tmp_path / "run" / "report.html").read_text().count('class="whisker') == 2  # success, return


def test_films_beyond_the_limit_are_named_and_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunMaker(tmp_path / "run").offline().online(video="videos/final.mp4").write()
    (run / "videos").mkdir()
    (run / "videos" / "old.mp4").write_bytes(b"o" * 600)
    (run / "videos" / "final.mp4").write_bytes(b"f" * 600)
    monkeypatch.setattr("robot_rl.apps.report_details.VIDEO_BYTES", 1000)
    page = report(run)
    assert page.tags.count("video") == 1
    assert "Left out: old.mp4" in page.text


def test_a_film_outside_the_run_is_not_drawn_in(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    assert "video" not in report(RunMaker(tmp_path / "run").offline().online(video="../secret.mp4").write()).tags


def test_a_frozen_warm_up_belongs_to_the_baseline(tmp_path: Path) -> None:
    run = read_run(RunMaker(tmp_path / "run").offline().online().write())
    assert run.switch is not None
    assert run.switch.name == "online"
    assert [one.online for one in run.evaluations if one.phase == "warmup"] == [False]
    found = dip(run.evaluations)
    assert found is not None
    assert found.baseline == [one for one in run.evaluations if one.phase == "warmup"][-1].metric("success_rate")


def test_runs_of_several_seeds_are_drawn_and_summed_up(tmp_path: Path) -> None:
    groups = {
        "Cal-QL → WSRL": [RunMaker(tmp_path / str(seed), seed=seed).offline().online().write() for seed in range(2)]
    }
    plot_runs(groups, tmp_path / "docs" / "lift.png", "Lift")
    assert (tmp_path / "docs" / "lift.png").read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in (tmp_path / "docs").iterdir()] == ["lift.png"]
    rows = summary_table(groups)
    assert [row["seed"] for row in rows] == [0, 1]
    for row in rows:
        assert row["final"] > row["offline"] > row["minimum"]
        assert row["dip"] == pytest.approx(row["baseline"] - row["minimum"])
        assert 0 < row["regret"] < 1
        assert row["wall_time_s"] == pytest.approx(100 + 2000 / 300 + 20_000 / 60)


def test_regret_is_the_mean_loss_over_online_steps(make_run: Callable[..., Path]) -> None:
    # success 0.5 before the switch at step 0, 0.5 at 1000, 1.0 at 3000: the area of 1 - success by trapezoids is
    # 1000 * 0.5 + 2000 * (0.5 + 0.0) / 2 = 1000 over 3000 steps
    row = summary_table({"a": [make_run((1000, 0.5), (3000, 1.0))]})[0]
    assert row["regret"] == pytest.approx(1 / 3)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(*points: tuple[int, float]) -> Path:
        maker = RunMaker(tmp_path / "run")
        maker.event("phase_start", "offline", 0, 0, interact=False)
        maker.place |= {"updates": 10}
        maker.event("evaluation", "offline", 0, 10, {"success_rate": 0.5, "return_mean": 0.5})
        maker.event("phase_end", "offline", 0, 10)
        maker.event("phase_start", "online", 1, 0, interact=True)
        for step, success in points:
            maker.place |= {"updates": 10 + step, "environment_steps": step}
            maker.event("evaluation", "online", 1, step, {"success_rate": success, "return_mean": success})
        return maker.write()

    return make


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    film(folder / "videos" / "online_020000_episode_0.mp4")
    film(folder / "videos" / "online_020000_episode_1.mp4", success=False)
    RunMaker(folder).offline().online(video="videos/online_020000_episode_0.mp4").write()
    print(write_report(folder))
