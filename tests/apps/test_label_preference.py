"""`robot-rl label label=preference`: a store gets the reward that a model prefers, through crashes and rudeness."""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "rewards"))

from bright_task import SIDE, make_task
from fake_endpoint import Endpoint, serving

from robot_rl.apps import cli
from robot_rl.apps.label_preference import ANSWERS
from robot_rl.datasets.store import EpisodeStore
from robot_rl.functional.video_scores import value_order_correlation

QUICK = ["vision.channels=[4,8]", "vision.kernels=[3,3]", "vision.strides=[2,2]", f"image_size=[{SIDE},{SIDE}]"]
QUICK += ["hidden=[16]", "members=2", "fit.steps=60", "fit.batch=16", "fit.learning_rate=3e-3", "augmentation.shift=0"]
QUICK += ["goal='to light the lamp'", "pairs=40", "held_out=0.3", "endpoint.model=bright-1"]
QUICK += ["endpoint.back_off_s=0.001", "endpoint.workers=2", "endpoint.timeout_s=60"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a store and without a key."""
    make_task(tmp_path / "task.zarr")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def words(endpoint: Endpoint, *more: str) -> list[str]:
    given = {word.split("=")[0] for word in more}
    plain = [f"label.{word}" for word in QUICK if f"label.{word.split('=')[0]}" not in given]
    address = f"label.endpoint.address={endpoint.address}"
    return ["label", "task.zarr", "label=preference", "folder=out", address, *plain, *more]


def label(endpoint: Endpoint, *more: str) -> int:
    return cli.main(words(endpoint, *more))


def lines() -> int:
    path = Path("out") / ANSWERS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def measures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/measures.json").read_text())
    return found


def test_the_store_gets_the_reward_that_was_preferred(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(EpisodeStore.open("task.zarr").episodes())
    with serving() as endpoint:
        assert label(endpoint, "dry_run=true", "label.endpoint.requests_per_minute=10") == 0
        said = capsys.readouterr().out.replace("\n", " ")
        assert "80 to be asked of 80" in said
        assert "8.0 minutes at least" in said
        assert endpoint.requests == 0
        assert not Path("out").exists()
        assert label(endpoint) == 0
        assert endpoint.requests == 80
        assert "Authorization" not in endpoint.headers[0]
        # with other settings of the fit, nothing is bought again
        assert label(endpoint, "label.hidden=[8]", "label.fit.steps=5", "write=false") == 0
        assert endpoint.requests == 80
        assert label(endpoint, "dry_run=true", "label.pairs=50") == 0
        assert "20 to be asked of 100" in capsys.readouterr().out.replace("\n", " ")
    found = measures()
    assert found["pairs_learned"] + found["pairs_held_out"] + found["answers"]["no_difference"] == 40
    after = list(EpisodeStore.open("task.zarr").episodes())
    for one, other in zip(before, after, strict=True):
        assert np.allclose(other.reward, other.extras["score/label"][1:], atol=1e-5)
        assert np.array_equal(other.extras["recorded/reward"], one.reward)
    assert np.mean([value_order_correlation(each.extras["score/label"]) for each in after]) > 0.9
    change = EpisodeStore.open("task.zarr").provenance["edits"][-1]
    assert (change["kind"], change["model"], change["goal"]) == ("preference", "bright-1", "to light the lamp")
    assert "Pairs" in Path("out/report.html").read_text()


def test_the_reward_is_right_on_pairs_of_episodes_that_were_held_out(place: Path) -> None:
    with serving() as endpoint:
        assert label(endpoint, "label.both_orders=true", "write=false") == 0
        assert endpoint.requests == 160
    found = measures()
    assert found["accuracy_held_out"] > 0.85
    assert found["answers"]["orders_disagree"] == 0


def test_the_key_is_sent_and_written_nowhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with serving() as endpoint:
        assert label(endpoint, "label.endpoint.key_variable=MY_KEY", "label.fit.steps=2") == 0
        assert endpoint.headers[0]["Authorization"] == "Bearer sk-very-secret"
    for path in [path for path in place.rglob("*") if path.is_file()]:
        assert b"sk-very-secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        (lambda number: "well" if number < 7 else "broken", "questions in a row got no answer"),
        (lambda number: "well" if number < 7 else "wrong_key", "status 401"),
        (lambda _: "nonsense", "have an answer that decides"),
    ],
)
def test_what_was_bought_outlives_an_endpoint_that_fails(
    place: Path, capsys: pytest.CaptureFixture[str], manner: Callable[[int], str], message: str
) -> None:
    before = EpisodeStore.open("task.zarr").digests
    with serving(manner) as endpoint:
        assert label(endpoint, "label.endpoint.attempts=2") == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
        assert EpisodeStore.open("task.zarr").digests == before
        assert lines() == endpoint.answered.total() >= 7
        kept = set(endpoint.answered)
        if manner(0) != "nonsense":
            endpoint.manner = lambda _: "well"
            assert label(endpoint, "label.fit.steps=2") == 0
            assert all(endpoint.answered[body] == 1 for body in kept)


def test_kill_9_loses_no_label_that_was_bought(place: Path) -> None:
    processes = multiprocessing.get_context("forkserver")  # as good as a new command, without importing torch again
    processes.set_forkserver_preload(["robot_rl.apps.cli", "robot_rl.apps.label"])
    with serving(lambda _: "slowly") as endpoint:
        for _ in range(2):
            before = lines()
            process = processes.Process(target=cli.main, args=(words(endpoint, "label.fit.steps=2"),))
            process.start()
            deadline = time.monotonic() + 300
            while process.is_alive() and lines() < before + 12 and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.is_alive()
            process.kill()
            process.join()
            whole = [json.loads(line) for line in (Path("out") / ANSWERS).read_bytes().splitlines()]
            assert len(whole) >= before + 12
            assert len({line["key"] for line in whole}) == len(whole)
            # what the endpoint had said to nobody any more is at most what was under way
            assert endpoint.answered.total() - len(whole) <= 2 * 2
        bought, asked = lines(), -1
        while not asked == endpoint.requests == endpoint.answered.total():  # what was under way is answered, to nobody
            asked = endpoint.answered.total()
            time.sleep(0.5)
        endpoint.manner = lambda _: "well"
        assert label(endpoint, "label.fit.steps=2") == 0
        assert endpoint.answered.total() - asked == 80 - bought
    assert lines() == 80
    assert EpisodeStore.open("task.zarr").provenance["edits"][-1]["operation"] == "label"
