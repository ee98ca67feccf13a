"""`robot-rl pretrain-video`: from videos of any kind to an encoder, in spite of crashes, and a page of what it sees."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from robot_rl.apps.cli import main
from robot_rl.apps.compose import compose
from robot_rl.apps.pretrain_footage import load_sources
from robot_rl.apps.pretrain_video import build_objective, config_to_json
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.loops.video import VideoRun
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.networks.vision.weights import load_weights
from robot_rl.replay.instructions import Instructions
from robot_rl.video_config import FootageConfig, PretrainVideoConfig

MakeStore = Callable[..., EpisodeStore]
QUICK = [
    "objective.clips.clips=4",
    "objective.clips.tuples=16",
    "objective.hidden=[8,8]",
    "vision.channels=[4,8]",
    "vision.kernels=[3,3]",
    "vision.strides=[2,2]",
    "image_size=[16,16]",
    "frame_period_s=null",
    "steps=6",
    "log_every=2",
    "held_out=0.3",
    "probe_frames=20",
]
VISION = VisionConfig(channels=[4, 8], kernels=[3, 3], strides=[2, 2], padding=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and copies go here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def videos(folder: Path, make_store: MakeStore) -> Path:
    """A store of seven short videos with a state and instructions."""
    store = make_store(folder / "task.zarr", episodes=7, cameras=("front",), language=("push it", "pull it"))
    return store.path


def pretrain(*words: str) -> int:
    return main(["pretrain-video", *words, *(word for word in QUICK if word.split("=")[0] not in _names(words))])


def _names(words: tuple[str, ...]) -> set[str]:
    return {word.split("=")[0] for word in words}


def film(path: Path, frames: int, size: tuple[int, int] = (32, 48)) -> None:
    """A bar that moves, 10 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        for number in range(frames):
            image = np.full((*size, 3), 40, np.uint8)
            image[:, number * size[1] // frames : number * size[1] // frames + 6] = 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


# The whole way --------------------------------------------------------------------------------------------------------
def test_an_encoder_comes_out_with_measures_and_a_page(videos: Path) -> None:
    assert pretrain(str(videos), "output=out") == 0
    encoder = ImageEncoder(VISION, (16, 16, 3), torch.Generator().manual_seed(1))
    fingerprint = load_weights(encoder, "out/encoder.safetensors")
    assert fingerprint.parts == ("trunk", "pool")
    measures = json.loads(Path("out/measures.json").read_text())
    source = measures["sources"]["video"]
    assert (measures["objective"], measures["updates"], source["videos"]) == ("icvf", 6, 2)
    assert -1 <= source["voc"] <= 1
    assert -1 <= source["voc_before"] <= 1
    assert set(source["probes"]) == {"state"}
    page = Path("out/report.html").read_text()
    for part in ("Order of values", "Value curves", "Probes", "Saliency", "Training", "data:image/jpeg"):
        assert part in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [line["updates"] for line in lines] == [2, 4, 6]
    facts = json.loads(Path("out/run.json").read_text())
    assert facts["datasets"]["video"]["held_out"] == 2
    assert facts["seed"] == 0


@pytest.mark.parametrize("objective", ["vip_small", "liv_small", "mae_small"])
def test_the_other_objectives_go_the_same_way(videos: Path, objective: str) -> None:
    own = [word for word in QUICK if not word.startswith("objective.")]
    extra = ["objective.batch=6"] + (["objective.patch=4"] if "mae" in objective else ["objective.embedding=8"])
    words = ["pretrain-video", str(videos), f"objective={objective}", "output=out", *extra, *own]
    assert main(words) == 0
    measures = json.loads(Path("out/measures.json").read_text())
    assert measures["value_kind"] == ("distance" if "mae" in objective else "value")
    assert measures["sources"]["video"]["voc"] is not None


def test_a_crash_loses_nothing_but_time(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretrain(str(videos), "output=whole", "augmentation.shift=1") == 0
    plain, calls = VideoRun.update, 0

    def crashing(self: VideoRun) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("pulled the plug")
        return plain(self)

    monkeypatch.setattr(VideoRun, "update", crashing)
    words = [str(videos), "output=broken", "augmentation.shift=1", "checkpoint_every_s=0"]
    with pytest.raises(RuntimeError, match="pulled the plug"):
        pretrain(*words)
    monkeypatch.setattr(VideoRun, "update", plain)
    assert pretrain(*words) == 2  # without resume=true nothing is overwritten
    assert pretrain(*words, "resume=true") == 0
    one, other = (load_file(f"{name}/encoder.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    kept = [
        [{**json.loads(line), "elapsed_s": 0} for line in Path(f"{name}/metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "broken")
    ]
    for first, second in zip(*kept, strict=True):
        assert first["updates"] == second["updates"]
        assert first["metrics"]["value/loss"] == second["metrics"]["value/loss"]


def test_a_stop_is_saved_and_gone_on_from(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = VideoRun.update

    def stopping(self: VideoRun) -> Any:
        metrics = plain(self)
        if self.progress.updates == 3:
            signal.raise_signal(signal.SIGTERM)
        return metrics

    monkeypatch.setattr(VideoRun, "update", stopping)
    assert pretrain(str(videos), "output=out") == 130
    assert not Path("out/report.html").exists()
    assert len(list(Path("out/checkpoints").iterdir())) == 1
    monkeypatch.setattr(VideoRun, "update", plain)
    assert pretrain(str(videos), "output=out", "resume=true") == 0


def test_other_settings_and_other_videos_are_no_way_to_go_on(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(str(videos), "output=out") == 0
    assert pretrain(str(videos), "output=out", "resume=true", "objective.discount=0.5") == 2
    assert "objective.discount: 0.99 -> 0.5" in capsys.readouterr().err.replace("\n", "")
    # one episode less is another set of videos
    assert main(["edit", "delete", str(videos), "episodes=[0]"]) == 0
    assert pretrain(str(videos), "output=out", "resume=true") == 2
    assert "sha-256" in capsys.readouterr().err.lower()


# Sources --------------------------------------------------------------------------------------------------------------
def test_films_are_converted_once_and_cut_into_pieces(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "films").mkdir()
    for number in range(2):
        film(folder / "films" / f"{number}.mp4", 40)
    words = ["+sources.phone.path=films", "sources.phone.piece_s=1.0", "sources.phone.language=push", "steps=1"]
    assert pretrain(*words, "output=first") == 0
    converted = list((folder / "runs/footage").glob("phone-*.zarr"))
    assert len(converted) == 1
    assert EpisodeStore.open(converted[0]).spec.observation["image"].shape == (16, 16, 3)
    made = converted[0].stat().st_mtime_ns
    facts = json.loads(Path("first/run.json").read_text())["datasets"]["phone"]
    assert (facts["videos"], facts["held_out"]) == (6, 2)  # eight pieces of a second, 0.3 of them held out
    assert pretrain(*words, "output=second") == 0
    assert converted[0].stat().st_mtime_ns == made
    film(folder / "films" / "1.mp4", 30)  # another film under the same name is converted anew
    assert pretrain(*words, "output=third") == 0
    assert len(list((folder / "runs/footage").glob("phone-*.zarr"))) == 2


def loaded(config: PretrainVideoConfig) -> Any:
    texts = Instructions()
    return load_sources(config, texts, Console(quiet=True)), texts.texts


def test_what_measures_is_not_learned_from(videos: Path) -> None:
    config = PretrainVideoConfig(path=str(videos), image_size=[24, 32], frame_period_s=0.1, held_out=0.3)
    (source,), texts = loaded(config)
    learned = {int(row) for track in source.learning for row in track.rows}
    held = {int(row) for video in source.held_out for row in video.track.rows}
    assert not learned & held
    assert len(source.fitting) == 5
    # 20 Hz at a frame every 0.1 s: two tracks for each video, which have all its frames between them
    assert len(source.learning) == 10
    assert all(np.diff(track.rows).tolist() == [2] * (len(track) - 1) for track in source.learning)
    episodes = {video.episode for video in source.fitting}
    ends = EpisodeStore.open(videos).ends
    assert learned == {row for e in episodes for row in range(int(ends[e - 1]) if e else 0, int(ends[e]))}
    assert texts == ["push it", "pull it"]
    again, _ = loaded(config)
    assert [video.episode for video in again[0].held_out] == [video.episode for video in source.held_out]


def test_a_store_of_another_size_is_copied_and_one_of_the_size_is_not(videos: Path) -> None:
    same, _ = loaded(PretrainVideoConfig(path=str(videos), image_size=[24, 32], frame_period_s=None))
    assert same[0].store.path == videos
    other, _ = loaded(PretrainVideoConfig(path=str(videos), image_size=[16, 16], frame_period_s=None))
    assert other[0].store.path.parent == Path("runs/footage")
    assert len(other[0].store) == 7
    assert other[0].store.column("front").shape[1:] == (16, 16, 3)


def test_every_camera_is_a_video_and_they_are_held_out_together(folder: Path, make_store: MakeStore) -> None:
    store = make_store(folder / "two.zarr", episodes=6, cameras=("front", "wrist"))
    config = PretrainVideoConfig(path=str(store.path), image_size=[24, 32], frame_period_s=None, held_out=0.34)
    (source,), _ = loaded(config)
    assert sorted((video.episode, video.camera) for video in source.held_out) == sorted(
        (episode, camera) for episode in {video.episode for video in source.held_out} for camera in ("front", "wrist")
    )
    assert len(source.held_out) == 4
    sources = {"one": FootageConfig(path=str(store.path), cameras=["wrist"])}
    (source,), _ = loaded(PretrainVideoConfig(sources=sources, image_size=[24, 32], frame_period_s=None))
    assert {video.camera for video in source.fitting} == {"wrist"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "name videos"),
        ({"path": "nowhere"}, "nothing at nowhere"),
        ({"path": "task.zarr", "sources": {"a": FootageConfig(path="task.zarr")}}, "not both"),
        ({"sources": {"a": FootageConfig()}}, "sources.a.path"),
        ({"sources": {"a": FootageConfig(path="task.zarr", cameras=["fron"])}}, "did you mean 'front'"),
        ({"path": "task.zarr", "frame_period_s": 100.0}, "lower frame_period_s"),
    ],
)
def test_sources_that_cannot_be_are_refused(videos: Path, settings: dict[str, Any], message: str) -> None:
    config = PretrainVideoConfig(**{"image_size": [24, 32], **settings})
    with pytest.raises(InputError, match=message):
        loaded(config)


def test_what_cannot_work_is_refused_before_it_begins(folder: Path, make_store: MakeStore) -> None:
    silent = make_store(folder / "silent.zarr", cameras=("front",), period_s=None)
    own = [word for word in QUICK if not word.startswith("objective.")]
    assert main(["pretrain-video", str(silent.path), "objective=liv", "output=out", *own]) == 2
    assert not (folder / "out/run.json").exists()
    with pytest.raises(InputError, match="frame_period_s=null"):
        loaded(PretrainVideoConfig(path=str(silent.path), image_size=[24, 32]))
    with pytest.raises(InputError, match="give one to all or to none"):
        PretrainVideoConfig(sources={"a": FootageConfig(path="a", share=1.0), "b": FootageConfig(path="b")})
    with pytest.raises(InputError, match="image_size"):
        PretrainVideoConfig(image_size=[64])
    with pytest.raises(InputError, match="held_out"):
        PretrainVideoConfig(held_out=1.0)


# Settings -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", sorted((Path(__file__).resolve().parents[2] / "configs/objective").glob("*.yaml")))
def test_every_objective_file_composes(path: Path) -> None:
    config = compose("pretrain-video", [f"objective={path.stem}", "path=x"])
    kind = config_to_json(config)["objective"]["kind"]
    assert path.stem.startswith(kind)
    assert build_objective(config, ["a text"], torch.device("cpu")).encoder.features == 1024


@pytest.mark.parametrize("path", sorted((Path(__file__).resolve().parents[2] / "configs/video").glob("*.yaml")))
def test_every_set_of_sources_composes(path: Path) -> None:
    config = compose("pretrain-video", [f"video={path.stem}"])
    assert config.sources
    assert all(source.path for source in config.sources.values())
