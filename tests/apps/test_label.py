"""`robot-rl label`: from frames to rewards in a store, by a video value, stages or a classifier; nothing is lost."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "rewards"))

from bright_task import SIDE, make_task

from robot_rl import checkpoint
from robot_rl.apps import schema
from robot_rl.apps.cli import main
from robot_rl.apps.compose import compose
from robot_rl.apps.label import JUDGE
from robot_rl.apps.label_frames import RECORDED_REWARD, RECORDED_SUCCESS, frames_of, recorded_labels, successes
from robot_rl.apps.pretrain_video import build_objective, config_to_json
from robot_rl.apps.train import open_environments
from robot_rl.datasets import edit
from robot_rl.datasets.frames import encode_jpeg
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.functional.video_scores import value_order_correlation
from robot_rl.loops.distributed import Ranks
from robot_rl.networks.vision.weights import save_weights
from robot_rl.rewards import LABEL_CONFIGS, Judge
from robot_rl.rewards.classifier import SuccessClassifier
from robot_rl.rewards.environment import JudgedEnvironment
from robot_rl.rewards.judge import load_judge
from robot_rl.rewards.stages import Stages
from robot_rl.rewards.value import GoalValue

VISION = ["channels=[4,8]", "kernels=[3,3]", "strides=[2,2]"]
QUICK = [f"image_size=[{SIDE},{SIDE}]", "hidden=[16]", "fit.steps=60", "fit.batch=16", "fit.learning_rate=3e-3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and checkpoints of objectives as `pretrain-video` writes them, that have learned nothing yet."""
    folder = tmp_path_factory.mktemp("task")
    make_task(folder / "task.zarr")
    own = {
        "vip_small": ["objective.embedding=8"],
        "liv_small": ["objective.embedding=8"],
        "icvf_small": ["objective.hidden=[8,8]"],
        "mae_small": ["objective.patch=4"],
    }
    for name, more in own.items():
        words = [f"objective={name}", f"image_size=[{SIDE},{SIDE}]", *(f"vision.{word}" for word in VISION), *more]
        config = compose("pretrain-video", words)
        objective = build_objective(config, [], torch.device("cpu"))
        tensors, numbers = checkpoint.pack_agent(objective)
        state = {"config": config_to_json(config), "numbers": numbers}
        checkpoint.save(folder / name / "checkpoints", 0, tensors, state)
        save_weights(objective.encoder, folder / name / "encoder.safetensors")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a copy of the store."""
    shutil.copytree(made / "task.zarr", tmp_path / "task.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label(*words: str) -> int:
    return main(["label", "task.zarr", "folder=out", *words])


def episodes(path: str = "task.zarr") -> list[Any]:
    return list(EpisodeStore.open(path).episodes())


def measures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/measures.json").read_text())
    return found


# Values ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("objective", ["vip_small", "liv_small", "icvf_small"])
def test_a_goal_image_gives_rewards_and_the_recorded_ones_are_kept(place: Path, made: Path, objective: str) -> None:
    before = episodes()
    assert label("label=goal", f"label.run={made / objective}", "label.goal.episodes=[0,1]", "output=new.zarr") == 0
    after, untouched = episodes("new.zarr"), episodes()
    EpisodeStore.open("new.zarr").verify()
    for one, other, same in zip(before, after, untouched, strict=True):
        assert np.array_equal(one.reward, same.reward)
        assert np.array_equal(one.reward, other.extras[RECORDED_REWARD])
        score = other.extras["score/label"]
        assert score.shape == (len(one) + 1,)
        assert np.allclose(other.reward, np.diff(score), atol=1e-5)
        assert np.array_equal(np.asarray(one.observation["front"]), np.asarray(other.observation["front"]))
        assert np.array_equal(one.success, other.success)
    change = EpisodeStore.open("new.zarr").provenance["edits"][-1]
    assert (change["operation"], change["kind"], change["camera"]) == ("label", "value", "front")
    assert len(change["sha256"]) == len(change["judge_sha256"]) == 64
    assert change["goal"]["episodes"] == [0, 1]
    if objective == "vip_small":  # brightness is all there is to see, so that the distance to a bright goal falls
        rising = [value_order_correlation(each.extras["score/label"]) for each in after]
        assert np.mean(rising) > 0.9
        assert measures()["value_order_correlation"] > 0.9


def test_the_judge_by_itself_says_what_the_store_says(place: Path, made: Path) -> None:
    assert label("label=goal", f"label.run={made / 'icvf_small'}", "label.goal.episodes=[0]") == 0
    tensors, facts = load_judge(Path("out") / JUDGE)
    judge: Judge = GoalValue.unpack(tensors, facts)
    (episode,) = EpisodeStore.open("task.zarr").episodes([3])
    images = torch.from_numpy(np.asarray(episode.observation["front"]))
    score = (judge.score(images) - facts["offset"]) * facts["scale"]
    assert np.allclose(score, episode.extras["score/label"], atol=1e-5)


def test_words_are_a_goal_for_liv_alone(place: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label("label=language", f"label.run={made / 'liv_small'}") == 0
    assert EpisodeStore.open("task.zarr").provenance["edits"][-1]["goal"]["recorded"] == [
        "light the lamp 0",
        "light the lamp 1",
    ]
    run = f"label.run={made / 'liv_small'}"
    assert label("label=language", run, "label.goal.recorded=false", "label.goal.text=light the lamp 1") == 0
    own, said = episodes(), EpisodeStore.open("task.zarr").provenance["edits"]
    assert [change["goal"] for change in said][1] == {"text": "light the lamp 1"}
    assert np.isfinite(own[0].reward).all()
    assert label("label=language", f"label.run={made / 'vip_small'}") == 2
    assert "needs an objective that knows words, liv; this is vip" in capsys.readouterr().err.replace("\n", " ")


def test_a_picture_is_a_goal_and_another_label_begins_from_what_was_recorded(place: Path, made: Path) -> None:
    before = episodes()
    goal = np.asarray(before[0].observation["front"])[-1]
    Path("goal.jpg").write_bytes(encode_jpeg(np.repeat(np.repeat(goal, 2, 0), 2, 1)))
    words = ["label=viva", f"label.run={made / 'vip_small'}", "label.goal.image=goal.jpg", "label.reward.weight=0.5"]
    for _ in range(2):  # the second time nothing is added twice
        assert label(*words) == 0
        for one, other in zip(before, episodes(), strict=True):
            assert np.allclose(other.reward, one.reward + 0.5 * other.extras["score/label"][1:], atol=1e-5)
            assert np.array_equal(other.extras[RECORDED_REWARD], one.reward)
    assert label(*words, "name=second", "label.reward.form=kept") == 0
    assert set(episodes()[0].extras) == {"score/label", "score/second", RECORDED_REWARD}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label=goal", "label.run=vip_small"], "what is the goal?"),
        (["label=goal", "label.run=vip_small", "label.goal.episodes=[99]"], "there are 0 to 11"),
        (["label=goal", "label.run=vip_small", "label.goal.episodes=[0]", "label.goal.frame=11"], "has 11 frames"),
        (["label=goal", "label.run=vip_small", "label.goal.image=nowhere.png"], "nowhere.png is not there"),
        (["label=goal", "label.run=vip_small", "label.goal.image=run.json"], "no image"),
        (["label=goal", "label.run=mae_small", "label.goal.episodes=[0]"], "mae, which learns no value"),
        (["label=goal", "label.run=nothing", "label.goal.episodes=[0]"], "holds no checkpoint"),
        (["label=goal"], "label.run is missing"),
        (["label=stages"], "label.vision.weights is missing"),
        ([], "no kind of label is chosen: add label=NAME"),
        (["label=goal", "label.run=vip_small", "label.goal.own_end=true", "camera=frnt"], "did you mean 'front'"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    place: Path, made: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("run.json").write_text("{}")
    given = [word.replace("label.run=", f"label.run={made}/") if "_small" in word else word for word in words]
    assert label(*given) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert episodes()[0].extras == {}


def test_a_failure_while_writing_leaves_the_store_as_it_was(
    place: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = EpisodeStore.open("task.zarr").digests

    def full(*_: Any, **__: Any) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr(edit, "_write", full)
    assert label("label=goal", f"label.run={made / 'vip_small'}", "label.goal.own_end=true") == 2
    assert EpisodeStore.open("task.zarr").digests == before
    assert [path.name for path in place.iterdir() if path.name.startswith(".task")] == []


def test_without_writing_there_is_a_page_and_the_store_stays(place: Path, made: Path) -> None:
    before = EpisodeStore.open("task.zarr").digests
    words = ["label=goal", f"label.run={made / 'vip_small'}", "label.goal.own_end=true", "write=false"]
    assert label(*words) == 0
    assert EpisodeStore.open("task.zarr").digests == before
    page = Path("out/report.html").read_text()
    for part in ("Measures", "Along episodes", "data:image/jpeg", "value order correlation"):
        assert part in page
    assert main(["label", "task.zarr", "folder=dry", *words[:-1], "dry_run=true"]) == 0
    assert not Path("dry").exists()


# Stages ---------------------------------------------------------------------------------------------------------------
def test_progress_by_stages_rises_and_tells_successes_from_failures(place: Path, made: Path) -> None:
    words = [f"label.vision.{word}" for word in VISION] + [f"label.image_size=[{SIDE},{SIDE}]"]
    weights = made / "vip_small" / "encoder.safetensors"
    assert (
        label("label=stages", f"label.vision.weights={weights}", "label.minimum=2", "label.test_share=0.3", *words) == 0
    )
    found = measures()
    assert found["value_order_correlation"] > 0.8
    assert found["last_frame_area_under_curve"] == 1.0
    assert found["stage_agreement"] > 0.5  # of 4 stages
    assert 0 <= found["minimum"] <= found["maximum"] <= 1
    assert "stage 2" in Path("out/report.html").read_text()
    tensors, facts = load_judge(Path("out") / JUDGE)
    (episode,) = EpisodeStore.open("task.zarr").episodes([0])
    score = Stages.unpack(tensors, facts).score(torch.from_numpy(np.asarray(episode.observation["front"])))
    assert np.allclose(score, episode.extras["score/label"], atol=1e-5)


# Success --------------------------------------------------------------------------------------------------------------
def classify(*words: str) -> int:
    own = [f"label.vision.{word}" for word in VISION] + [f"label.{word}" for word in QUICK]
    return label("label=classifier", *own, "label.augmentation.shift=0", *words)


@pytest.mark.parametrize("calibration", ["temperature", "isotonic"])
def test_a_classifier_is_held_out_by_episode_and_its_success_is_written(place: Path, calibration: str) -> None:
    before = episodes()
    words = [f"label.calibration={calibration}", "label.reward.values=[-1.0,0.0]", "label.false_positive_rate=0.0"]
    assert classify(*words) == 0
    found, after = measures(), episodes()
    parts = found["parts"]
    assert sorted(index for part in parts.values() for index in part) == list(range(12))
    assert found["area_under_curve"] > 0.95
    assert found["calibrated_on"]["false_positives"] == 0
    assert found["found_episodes"] == found["positive_episodes"] >= 1
    assert found["calibration_error"] < 0.25
    right = np.mean(np.concatenate([one.success == other.success for one, other in zip(before, after, strict=True)]))
    assert right > 0.85  # the threshold lies just above the brightest of few failures
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(other.reward, np.where(other.success, 0.0, -1.0))
        assert np.array_equal(other.extras[RECORDED_SUCCESS], one.success.astype(np.int8))
        assert np.array_equal(other.success, other.extras["score/label"][1:] >= np.float32(found["threshold"]))
    page = Path("out/report.html").read_text()
    for part in ("Reliability diagram", "Rates by threshold", "Mistakes", "threshold"):
        assert part in page
    labels = recorded_labels(frames_of(EpisodeStore.open("task.zarr"), None))
    assert all(np.array_equal(label[1:] == 1, one.success) for label, one in zip(labels, before, strict=True))
    tensors, facts = load_judge(Path("out") / JUDGE)
    again = SuccessClassifier.unpack(tensors, facts)
    score = again.score(torch.from_numpy(np.asarray(after[0].observation["front"])))
    assert np.allclose(score, after[0].extras["score/label"], atol=1e-5)
    assert again.threshold == found["threshold"]


def test_a_person_labels_frames_in_a_file_and_the_store_need_not_know_success(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("task.zarr")
    make_task(place / "task.zarr", knows_success=False, final=False)
    assert classify() == 2
    assert "no step of success" in capsys.readouterr().err.replace("\n", " ")
    lines = ["episode,first,last,success"]
    for index in range(12):
        lines += [f"{index},0,7,0"] + ([f"{index},9,10,1"] if index % 3 != 2 else [f"{index},8,10,0"])
    Path("frames.csv").write_text("\n".join(lines))
    assert classify("label.frames=frames.csv", "label.hold=2") == 0
    after = episodes()
    assert all(each.success is not None for each in after)
    assert sum(bool(each.success.any()) for each in after) >= 6
    assert (after[0].extras[RECORDED_SUCCESS] == -1).all()
    # what the classifier said is not taken for what was recorded
    assert classify() == 2
    assert "no step of success" in capsys.readouterr().err.replace("\n", " ")
    assert None not in successes(EpisodeStore.open("task.zarr"))
    Path("frames.csv").write_text("episode,first,last,success\n0,0,99,1\n")
    assert classify("label.frames=frames.csv") == 2
    assert "line 2: 0 to 99 is not within 0 to 10" in capsys.readouterr().err.replace("\n", " ")


# The loop closes ------------------------------------------------------------------------------------------------------
def test_iql_learns_on_the_labels_and_success_ends_its_episodes(place: Path, made: Path) -> None:
    assert (
        label("label=goal", f"label.run={made / 'vip_small'}", "label.goal.episodes=[0]", "label.reward.weight=3") == 0
    )
    assert classify("name=success", "label.reward.form=kept") == 0
    rewards = np.concatenate([episode.reward for episode in episodes()])
    assert rewards.std() > 0
    sizes = [f"algorithm.{name}_hidden=[8]" for name in ("actor", "critic", "value")]
    pixels = ["algorithm.pixels.encoder.channels=[4]", "algorithm.pixels.encoder.kernels=[3]"]
    pixels += ["algorithm.pixels.encoder.strides=[2]", "algorithm.pixels.encoder.padding=true"]
    words = ["train", "algorithm=iql", *sizes, *pixels, "+datasets.offline.path=task.zarr", "output=run"]
    words += ["datasets.offline.cut_at_success=first", "+phases.offline={steps:20,batch_size:16}", "log_every=5"]
    assert main(words) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    logged = [line["metrics"] for line in lines if line["event"] == "train"]
    assert logged
    assert all(np.isfinite(value) for metrics in logged for value in metrics.values())


def test_training_acts_under_the_judge_and_is_evaluated_without_it(place: Path) -> None:
    shutil.rmtree("task.zarr")
    make_task(place / "task.zarr", cameras=("fixed_image",))
    assert classify("label.fit.steps=5") == 0
    words = ["environment=cartpole_swingup", "environment.cameras=[fixed]", f"environment.image_size={SIDE}"]
    words += ["algorithm=sac", "judge.path=out/judge.safetensors", "+phases.online={steps:1,interact:policy}"]
    with contextlib.ExitStack() as stack:
        opened = open_environments(compose("train", words), stack, Ranks())
        assert isinstance(opened.training, JudgedEnvironment)
        assert not isinstance(opened.evaluation, JudgedEnvironment)
        assert opened.training.reset(seed=0).success is False
        step = opened.training.step(np.zeros(1))
        assert step.reward in (0.0, 1.0)
        assert step.success == (step.reward == 1.0)


# Settings -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", schema.choices("label"))
def test_every_file_of_labels_composes(name: str) -> None:
    assert type(compose("label", ["store=x", f"label={name}"]).label) in LABEL_CONFIGS.values()


def test_help_shows_the_keys_of_every_kind() -> None:
    shown = {kind: {key.name for key in keys} for kind, keys in schema.kind_keys("label").items()}
    assert set(shown) == set(LABEL_CONFIGS)
    assert "label.endpoint.requests_per_minute" in shown["preference"]
    assert "label.false_positive_rate" in shown["classifier"]
