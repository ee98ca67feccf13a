"""A conversion: the same store whoever does it and however often it is stopped; what is damaged is left out."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robot_rl.datasets.convert import ConvertSettings, Report, State, convert
from robot_rl.datasets.convert_partial import locked, partial_folder
from robot_rl.datasets.convert_transforms import ImageOptions, RewardLabel, Transforms
from robot_rl.datasets.convert_write import BLOCK_STEPS
from robot_rl.datasets.edit import delete, merge
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError

QUICK = ConvertSettings(workers=0)


def write_demos(
    path: Path, episodes: int = 6, *, steps: int = 8, side: int = 0, bad: tuple[int, ...] = (), first: int = 0
) -> Path:
    """A robomimic file; `side` is that of its images, `bad` the demonstrations with a number that is none."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number in range(first, first + episodes):
            rng = np.random.default_rng(number)
            count = steps + number % 3
            demo = data.create_group(f"demo_{number}")
            actions = rng.uniform(-1, 1, (count, 2))
            if number in bad:
                actions[3, 1] = np.nan
            demo["actions"], demo["rewards"] = actions, rng.integers(0, 5, count).astype(np.float64)
            demo["dones"] = np.zeros(count, bool)
            demo["obs/state"] = rng.normal(size=(count, 3))
            if side:
                demo["obs/camera"] = rng.integers(0, 255, (count, side, side, 3), np.uint8)
    return path


def write_long(path: Path, episodes: int) -> Path:
    """A D4RL file of which every episode is a commit of its own."""
    steps = BLOCK_STEPS + 3
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(episodes * steps, 3)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (episodes * steps, 2)).astype(np.float32)
        file["rewards"] = rng.normal(size=episodes * steps)
        file["terminals"] = np.zeros(episodes * steps, bool)
        file["timeouts"] = np.arange(1, episodes * steps + 1) % steps == 0
    return path


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store, but for the lock."""
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and path.name != "writer.lock"]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def hidden(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


def stop_at(episodes: int) -> Callable[[State], None]:
    """Ctrl-C as soon as so many episodes are safe."""

    def progress(state: State) -> None:
        if state.stage == "reading" and state.episodes >= episodes:
            raise KeyboardInterrupt

    return progress


IMAGES = {
    "raw": Transforms(image=ImageOptions(size=(16, 24), fit="pad")),
    "jpeg": Transforms(image=ImageOptions(tier="jpeg", quality=80), stride=2),
}


@pytest.mark.parametrize("transforms", IMAGES.values(), ids=IMAGES)
def test_processes_make_the_same_store_bit_for_bit(tmp_path: Path, transforms: Transforms) -> None:
    source = write_demos(tmp_path / "demos.hdf5", side=32, bad=(2,))
    alone = convert(source, tmp_path / "alone.zarr", ConvertSettings(workers=0, transforms=transforms))
    shared = convert(source, tmp_path / "shared.zarr", ConvertSettings(workers=2, transforms=transforms))
    assert (alone.stored, alone.dropped) == (shared.stored, shared.dropped) == (5, 1)
    assert [(f.place, f.text) for f in alone.findings] == [(f.place, f.text) for f in shared.findings]
    assert contents(Path(alone.path)) == contents(Path(shared.path))
    EpisodeStore.open(alone.path).verify()


def test_ray_makes_the_same_store_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    source = write_demos(tmp_path / "demos.hdf5", side=32, bad=(2,))
    transforms = IMAGES["jpeg"]
    alone = convert(source, tmp_path / "alone.zarr", ConvertSettings(workers=0, transforms=transforms))
    script = """
import sys
from pathlib import Path
from robot_rl.datasets.convert import ConvertSettings, convert
from robot_rl.datasets.convert_transforms import ImageOptions, Transforms
transforms = Transforms(image=ImageOptions(tier="jpeg", quality=80), stride=2)
convert(Path(sys.argv[1]), Path(sys.argv[2]), ConvertSettings(workers=2, engine="ray", transforms=transforms))
"""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    words = [sys.executable, "-c", script, str(source), str(tmp_path / "ray.zarr")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(Path(alone.path)) == contents(tmp_path / "ray.zarr")


def test_an_interrupted_conversion_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = write_long(tmp_path / "long.hdf5", 5)
    whole = convert(source, tmp_path / "whole.zarr", QUICK)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out" / "s.zarr", QUICK, progress=stop_at(2))
    assert len(hidden(tmp_path / "out")) == 1
    assert not (tmp_path / "out" / "s.zarr").exists()
    states: list[State] = []
    report = convert(source, tmp_path / "out" / "s.zarr", QUICK, progress=states.append)
    assert (report.resumed, report.stored, report.episodes) == (2, 5, 5)
    assert next((state.resumed, state.episodes) for state in states if state.stage == "reading") == (2, 2)
    assert contents(Path(report.path)) == contents(Path(whole.path))
    assert hidden(tmp_path / "out") == []


def test_what_was_left_out_before_an_interruption_is_still_known_after_it(tmp_path: Path) -> None:
    source = write_demos(tmp_path / "demos.hdf5", 9, steps=BLOCK_STEPS, bad=(1, 5))
    settings = replace(QUICK, transforms=Transforms(minimum_steps=BLOCK_STEPS + 1))
    whole = convert(source, tmp_path / "whole.zarr", settings)
    assert (whole.stored, whole.dropped, whole.left_out) == (4, 2, {f"shorter than {BLOCK_STEPS + 1} steps": 3})
    for stop in (1, 3, 7):
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "s.zarr", settings, progress=stop_at(stop))
    report = convert(source, tmp_path / "s.zarr", settings)
    assert report.resumed >= 7
    assert (report.dropped, report.left_out) == (whole.dropped, whole.left_out)
    assert contents(Path(report.path)) == contents(Path(whole.path))


def test_another_setting_or_source_starts_anew_and_removes_what_was_begun(tmp_path: Path) -> None:
    source = write_long(tmp_path / "long.hdf5", 3)
    target = tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        convert(source, target, QUICK, progress=stop_at(1))
    began = hidden(tmp_path)
    other = replace(QUICK, transforms=Transforms(language="push"))
    with pytest.raises(KeyboardInterrupt):
        convert(source, target, other, progress=stop_at(1))
    assert len(hidden(tmp_path)) == 1
    assert hidden(tmp_path) != began
    write_long(source, 2)
    assert convert(source, target, other).resumed == 0
    assert hidden(tmp_path) == []


def test_two_processes_do_not_write_the_same_store(tmp_path: Path) -> None:
    source = write_long(tmp_path / "long.hdf5", 2)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "s.zarr", QUICK, progress=stop_at(1))
    (folder,) = hidden(tmp_path)
    with (
        locked(tmp_path / folder, "busy"),
        pytest.raises(InputError, match=r"another process is writing .*s\.zarr"),
    ):
        convert(source, tmp_path / "s.zarr", QUICK)
    with locked(tmp_path / folder, "busy"), pytest.raises(KeyboardInterrupt):  # one of another job is left alone
        convert(source, tmp_path / "s.zarr", replace(QUICK, transforms=Transforms(stride=2)), progress=stop_at(1))
    assert folder in hidden(tmp_path)
    assert convert(source, tmp_path / "s.zarr", QUICK).resumed == 1


def test_damaged_episodes_are_left_out_and_named(tmp_path: Path) -> None:
    report = convert(write_demos(tmp_path / "demos.hdf5", bad=(1, 4)), tmp_path / "s.zarr", QUICK)
    assert (report.stored, report.dropped, report.complete) == (4, 2, False)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert [finding.place for finding in errors] == ["demos.hdf5: episode 1", "demos.hdf5: episode 4"]
    assert all("was left out" in finding.text and "NaN" in finding.text for finding in errors)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert [store.metadata(index)["source"] for index in range(4)] == [f"data/demo_{n}" for n in (0, 2, 3, 5)]
    assert len(store.provenance["conversion"]["dropped"]) == 2


def test_an_episode_that_the_store_refuses_is_left_out_alone(tmp_path: Path) -> None:
    source = write_demos(tmp_path / "demos.hdf5")
    with h5py.File(source, "r+") as file:
        for number in (0, 1, 3, 4, 5):
            file[f"data/demo_{number}"]["states"] = np.zeros((8 + number % 3, 4))
    report = convert(source, tmp_path / "s.zarr", QUICK)
    assert (report.stored, report.dropped) == (5, 1)
    assert "simulator_state" in next(finding.text for finding in report.findings if finding.severity == "error")


def test_nothing_is_written_where_every_episode_is_damaged_or_unwanted(tmp_path: Path) -> None:
    source = write_demos(tmp_path / "demos.hdf5", 3, bad=(1, 2))
    longer = replace(QUICK, transforms=Transforms(minimum_steps=9))
    with pytest.raises(InputError, match=r"no episode can be used, so nothing was written\. 2 of 3 are damaged.*NaN"):
        convert(source, tmp_path / "out" / "s.zarr", longer)
    write_demos(source)
    settings = replace(QUICK, transforms=Transforms(minimum_steps=99))
    with pytest.raises(InputError, match=r"no episode is left.*Of 6: 6 shorter than 99 steps"):
        convert(source, tmp_path / "out" / "s.zarr", settings)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_conversion_can_stop_at_the_first_error(tmp_path: Path) -> None:
    source = write_demos(tmp_path / "demos.hdf5", bad=(4,))
    with pytest.raises(InputError, match="NaN"):
        convert(source, tmp_path / "out" / "s.zarr", replace(QUICK, on_error="stop"))
    assert list((tmp_path / "out").iterdir()) == []


def test_appending_a_recording_twice_adds_nothing(tmp_path: Path) -> None:
    append = replace(QUICK, append=True)
    first = write_demos(tmp_path / "monday.hdf5", 3, side=16)
    assert convert(first, tmp_path / "s.zarr", append).episodes == 3
    again = convert(first, tmp_path / "s.zarr", append)
    assert (again.episodes, again.stored, again.left_out) == (3, 0, {"in the store already": 3})
    second = write_demos(tmp_path / "tuesday.hdf5", 2, side=16, first=3)
    assert convert(second, tmp_path / "s.zarr", append).episodes == 5
    grown = write_demos(tmp_path / "grown.hdf5", 6, side=16)  # monday's and tuesday's and one more, in one file
    assert convert(grown, tmp_path / "s.zarr", append).stored == 1
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert [entry["source"] for entry in store.provenance["appended"]] == ["tuesday.hdf5", "grown.hdf5"]
    assert [entry["first_episode"] for entry in store.provenance["appended"]] == [3, 5]
    whole = convert(grown, tmp_path / "whole.zarr", QUICK)
    assert store.digests == EpisodeStore.open(whole.path).digests
    assert store.statistics == EpisodeStore.open(whole.path).statistics
    store.verify()


def test_episodes_with_the_same_numbers_and_other_images_are_not_the_same(tmp_path: Path) -> None:
    append = replace(QUICK, append=True, transforms=Transforms(image=ImageOptions(tier="jpeg")))
    first = write_demos(tmp_path / "a.hdf5", 2, side=16)
    second = write_demos(tmp_path / "b.hdf5", 2, side=16)
    with h5py.File(second, "r+") as file:
        file["data/demo_1/obs/camera"][3] = 0
    convert(first, tmp_path / "s.zarr", append)
    report = convert(second, tmp_path / "s.zarr", append)
    assert (report.stored, report.left_out) == (1, {"in the store already": 1})


def test_what_does_not_fit_is_not_appended(tmp_path: Path) -> None:
    append = replace(QUICK, append=True)
    convert(write_demos(tmp_path / "a.hdf5", 2), tmp_path / "s.zarr", append)
    before = contents(tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"b\.hdf5 does not fit into .*s\.zarr: observation 'camera': None and"):
        convert(write_demos(tmp_path / "b.hdf5", 2, side=16), tmp_path / "s.zarr", append)
    assert contents(tmp_path / "s.zarr") == before


def test_an_interrupted_append_goes_on(tmp_path: Path) -> None:
    append = replace(QUICK, append=True)
    convert(write_demos(tmp_path / "a.hdf5", 1, steps=BLOCK_STEPS), tmp_path / "s.zarr", append)
    more = write_demos(tmp_path / "b.hdf5", 4, steps=BLOCK_STEPS, first=1)
    with pytest.raises(KeyboardInterrupt):
        convert(more, tmp_path / "s.zarr", append, progress=stop_at(2))
    assert len(EpisodeStore.open(tmp_path / "s.zarr")) == 3
    report = convert(more, tmp_path / "s.zarr", append)
    assert (report.episodes, report.stored) == (5, 2)
    assert len(EpisodeStore.open(tmp_path / "s.zarr").provenance["appended"]) == 1


def workers_of_this_process() -> list[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, children) if b"convert_workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_worker_that_is_killed_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    source = write_long(tmp_path / "long.hdf5", 40)

    def kill(state: State) -> None:
        if state.stage == "reading" and state.episodes >= 2:
            for pid in workers_of_this_process():
                os.kill(pid, signal.SIGKILL)

    settings = ConvertSettings(workers=1)
    with pytest.raises(InputError, match=r"a worker process ended while it read episode \d+ \(exit code -9\)"):
        convert(source, tmp_path / "s.zarr", settings, progress=kill)
    assert workers_of_this_process() == []
    report = convert(source, tmp_path / "s.zarr", QUICK)
    assert report.resumed >= 2
    assert contents(Path(report.path)) == contents(Path(convert(source, tmp_path / "whole.zarr", QUICK).path))


def test_the_action_bounds_of_data_are_its_range(tmp_path: Path) -> None:
    settings = replace(QUICK, transforms=Transforms(action_from="state", action_mode="delta"))
    report = convert(write_demos(tmp_path / "demos.hdf5"), tmp_path / "s.zarr", settings)
    store = EpisodeStore.open(report.path)
    actions = np.concatenate([episode.action for episode in store.episodes()])
    assert store.spec.action.low is not None
    assert store.spec.action.high is not None
    np.testing.assert_array_equal(store.spec.action.low, actions.min(axis=0))
    np.testing.assert_array_equal(store.spec.action.high, actions.max(axis=0))
    assert store.spec.action_semantics == "state_delta"


def test_the_provenance_has_what_was_chosen(tmp_path: Path) -> None:
    transforms = Transforms(stride=2, reward=RewardLabel(last_steps=3), image=ImageOptions(fit="crop"))
    report = convert(write_demos(tmp_path / "d.hdf5"), tmp_path / "s.zarr", replace(QUICK, transforms=transforms))
    conversion = EpisodeStore.open(report.path).provenance["conversion"]
    assert conversion["settings"] == {"stride": 2, "reward": {"last_steps": 3}, "image": {"fit": "crop"}}
    assert conversion["resampling"].startswith("every 2")


def test_images_that_are_no_videos_cannot_be_kept_as_videos(tmp_path: Path) -> None:
    settings = replace(QUICK, transforms=Transforms(image=ImageOptions(tier="video")))
    with pytest.raises(InputError, match="'camera' is not recorded as a video"):
        convert(write_demos(tmp_path / "d.hdf5", side=16), tmp_path / "out" / "s.zarr", settings)


def test_a_video_is_kept_as_it_is_by_whomever_and_through_changes(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "videos" / "umi_handheld_gripper_human_demo_ep0.mp4"
    transforms = Transforms(image=ImageOptions(tier="video"), stride=50)
    alone = convert(source, tmp_path / "alone.zarr", ConvertSettings(workers=0, transforms=transforms))
    shared = convert(source, tmp_path / "shared.zarr", ConvertSettings(workers=1, transforms=transforms))
    assert contents(Path(alone.path)) == contents(Path(shared.path))
    assert (alone.steps, alone.frames) == (8, 9)
    merge([alone.path, shared.path], tmp_path / "both.zarr")
    delete(tmp_path / "both.zarr", [0])
    kept = EpisodeStore.open(tmp_path / "both.zarr")
    assert kept.digests == EpisodeStore.open(alone.path).digests
    assert [path.read_bytes() for path in kept.path.rglob("*.mp4")] == [source.read_bytes()]


def test_a_store_at_a_url_is_built_here_and_published_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOT_RL_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}/lab/s.zarr"
    source = write_long(tmp_path / "long.hdf5", 3)
    with pytest.raises(KeyboardInterrupt):
        convert(source, url, QUICK, progress=stop_at(1))
    with pytest.raises(InputError, match="there is no store at memory://"):
        EpisodeStore.open(url)
    report = convert(source, url, QUICK)
    assert (report.path, report.resumed, report.episodes) == (url, 1, 3)
    here = convert(source, tmp_path / "s.zarr", QUICK)
    assert EpisodeStore.open(url).digests == EpisodeStore.open(here.path).digests
    assert [(f.place, f.text, f.remedy) for f in report.findings] == [
        (f.place, f.text, f.remedy.replace(here.path, url)) for f in here.findings
    ]
    with pytest.raises(InputError, match=r"memory://.*s\.zarr is there already.*overwrite=true"):
        convert(source, url, QUICK)
    with pytest.raises(InputError, match="adds to stores of this machine"):
        convert(source, url, replace(QUICK, append=True))
    assert convert(source, url, replace(QUICK, overwrite=True)).resumed == 0
    assert not list((tmp_path / "cache" / "conversions").glob("*/.*"))


def test_what_is_there_is_refused_before_the_source_is_read_through(tmp_path: Path) -> None:
    source = write_demos(tmp_path / "demos.hdf5", 2)
    convert(source, tmp_path / "s.zarr", QUICK)
    source.write_bytes(b"no recording any more")
    with pytest.raises(InputError, match=r"s\.zarr is there already"):
        convert(source, tmp_path / "s.zarr", QUICK)


def orphans(mark: str, patience_s: float = 20.0) -> list[int]:
    """Workers, of processes that were started with this mark in their environment, that do not end."""
    until = time.monotonic() + patience_s
    while True:
        left = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_worker = b"convert_workers import serve" in (entry / "cmdline").read_bytes()
                left += [int(entry.name)] if is_worker and mark.encode() in (entry / "environ").read_bytes() else []
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.2)


def killed(source: Path, store: Path, delays: Iterator[float], workers: int = 0) -> tuple[int, Any]:
    """Convert until a child gets through; how often it was killed, and what the others returned."""
    script = Path(__file__).with_name("killed_ingest.py")
    words = [sys.executable, str(script), str(source), str(store), str(workers)]
    marked = os.environ | {"ROBOT_RL_TEST": str(source)}
    with subprocess.Popen(words, env=marked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for kills, delay in enumerate(delays):
            if store.exists():  # the last one was killed while it checked what it had made
                process.stdin.close()
                return kills, "0"
            process.stdin.write(f"{delay}\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
            if answer != "killed":
                process.stdin.close()
                return kills, answer
    raise AssertionError("it never got through")


def delays(rng: np.random.Generator, longest_s: float, count: int) -> Iterator[float]:
    yield from rng.uniform(0.0, longest_s, count)
    yield 300.0


def test_a_killed_conversion_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    source = write_long(tmp_path / "long.hdf5", 8)
    whole = convert(source, tmp_path / "whole.zarr", QUICK)
    kills, status = killed(source, tmp_path / "s.zarr", delays(np.random.default_rng(0), 0.25, 6))
    assert (kills > 0, status) == (True, "0")
    assert contents(tmp_path / "s.zarr") == contents(Path(whole.path))
    assert hidden(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_conversion_killed_many_times_ends_as_if_it_had_not_been(tmp_path: Path, workers: int) -> None:
    source = write_long(tmp_path / "long.hdf5", 30)
    whole = convert(source, tmp_path / "whole.zarr", QUICK)
    rng = np.random.default_rng(workers)
    kills = 0
    for attempt in range(8):
        target = tmp_path / f"{attempt}.zarr"
        longest_s = 0.4 if workers == 0 else 6.0
        count, status = killed(source, target, delays(rng, longest_s, 12), workers)
        kills += count
        assert status == "0"
        assert contents(target) == contents(Path(whole.path))
        assert orphans(str(source)) == []
    assert kills >= 20
    assert hidden(tmp_path) == []


def test_a_journal_that_lost_its_lines_is_not_gone_on_with(tmp_path: Path) -> None:
    source = write_long(tmp_path / "long.hdf5", 4)
    for damage in (b"", b'{"place": "x", "stored": tr'):
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "out" / "s.zarr", QUICK, progress=stop_at(2))
        (folder,) = hidden(tmp_path / "out")
        (tmp_path / "out" / folder / "journal.jsonl").write_bytes(damage)
    report = convert(source, tmp_path / "out" / "s.zarr", QUICK)
    assert (report.resumed, report.stored) == (0, 4)


def test_a_folder_of_a_job_is_named_by_its_hash() -> None:
    assert partial_folder(Path("data/s.zarr"), "0123456789abcdef0123") == Path("data/.s.zarr.partial-0123456789abcdef")


@pytest.fixture(autouse=True)
def _no_workers_are_left() -> Iterator[None]:
    yield
    assert workers_of_this_process() == []


def test_a_report_counts_what_is_there(tmp_path: Path) -> None:
    report: Report = convert(write_demos(tmp_path / "d.hdf5", 3, side=16), tmp_path / "s.zarr", QUICK)
    assert (report.episodes, report.steps, report.frames) == (3, 8 + 9 + 10, 9 + 10 + 11)
    assert report.format == "robomimic_hdf5"


def test_a_recording_without_any_observation_is_refused_by_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo.create_group("obs")
        demo["actions"], demo["rewards"] = np.zeros((3, 2)), np.zeros(3)
    with pytest.raises(InputError, match=r"empty\.hdf5"):
        convert(tmp_path / "empty.hdf5", tmp_path / "store.zarr", ConvertSettings(format="robomimic_hdf5"))
    assert [path.name for path in tmp_path.iterdir()] == ["empty.hdf5"]
