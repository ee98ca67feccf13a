"""`robot-rl view STORE`: episodes in the rerun viewer, or in a file for it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from robot_rl.apps.inspect_survey import channel_names, is_depth, is_large, is_picture, times_s
from robot_rl.data_config import ViewConfig
from robot_rl.datasets.frames import (
    JPEG_SIGNATURE,
    EncodedFrames,
    as_array,
    block_size,
    encode_jpeg,
    lazy,
    resize_frames,
)
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SUMMARY = "Open episodes of a store in the rerun viewer, or write them to an .rrd file for it."

LEGEND_CHANNELS = 12  # above which the names would cover the curves
VIEW_QUALITY = 90  # of JPEG, for images that are not JPEG in the store
END_OF_FILE = bytes(16)  # of an .rrd: the header of a message of kind `end` and length 0
STEP, TIME = "step", "time"  # the names of the time lines


def run(config: ViewConfig) -> int:
    """Write the file, or open the viewer and wait until it is closed."""
    console = Console()
    store = EpisodeStore.open(Path(config.store).expanduser())
    output = None if config.output is None else Path(config.output).expanduser()
    for key, spec in store.spec.observation.items():
        if is_large(spec) and not is_picture(spec):
            console.print(Text(f"'{key}' is left out: {spec.shape} numbers a step are no picture", "yellow"))
    _require_episodes(store, config.episodes)
    if output is None:
        _require_display()
        return _open_viewer(console, store, config)
    if output.suffix != ".rrd":
        raise InputError(f"output={output}: the rerun viewer opens files that end in .rrd: name it so")
    with console.status("Writing ..."):
        write_rrd(output, store, config.episodes, maximum_side=config.maximum_side)
    console.print(
        Text.assemble(
            ("Wrote ", "green"), (str(output), "bold"), f" ({output.stat().st_size / 1e6:.1f} MB). Open it: "
        ),
        Text(f"rerun {output}"),
        soft_wrap=True,
    )
    return 0


def write_rrd(path: Path, store: EpisodeStore, episodes: list[int], *, maximum_side: int) -> None:
    """Episodes as a recording of rerun. The file appears whole or not at all.

    Each episode has a branch `episode_<n>` with its images (JPEG), the channels of its action and observations, reward,
    ends and success, and its instruction, along the time lines `step` and, where times are known, `time`.

    Args:
        path: of the file; its folder is made where missing.
        store: to read.
        episodes: their numbers.
        maximum_side: pixels; larger images are shown smaller.

    Raises:
        InputError: rerun is not installed, there is no such episode, or the disk is full.
    """
    rerun = _import_rerun()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.rrd")
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    try:
        recording = _Recording(rerun, store.path.name)
        recording.stream.save(temporary, default_blueprint=_blueprint(store.spec, episodes))
        for number, episode in zip(episodes, store.episodes(episodes), strict=True):
            _log_episode(recording, f"episode_{number}", store.spec, episode, maximum_side)
        recording.stream.flush(blocking=True)
        recording.stream.disconnect()
        require_whole(temporary, path)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_whole(temporary: Path, path: Path) -> None:
    """Refuse a file without its end: rerun only logs that the disk is full."""
    with temporary.open("rb") as file:
        file.seek(-min(len(END_OF_FILE), temporary.stat().st_size), os.SEEK_END)
        if file.read() != END_OF_FILE:
            raise InputError(f"{path} could not be written whole: free some space, or choose another place")


class _Recording:
    """A recording of rerun with the two time lines of a store."""

    def __init__(self, rerun: Any, name: str) -> None:
        self.rerun = rerun
        self.stream = rerun.RecordingStream("robot_rl", recording_id=name)

    def columns(self, place: str, columns: Any, start: int, stop: int, time: Array | None) -> None:
        """Values of the steps [start, stop). Shapes: time (at least stop,)."""
        index = [self.rerun.TimeColumn(STEP, sequence=np.arange(start, stop))]
        if time is not None:
            index.append(self.rerun.TimeColumn(TIME, duration=time[start:stop]))
        self.stream.send_columns(place, indexes=index, columns=columns)

    def static(self, place: str, what: Any) -> None:
        """What holds for all times."""
        self.stream.log(place, what, static=True)


def _log_episode(recording: _Recording, branch: str, spec: Spec, episode: Episode, maximum_side: int) -> None:
    rerun, steps = recording.rerun, len(episode)
    time = times_s(spec, episode)
    for key, array_spec in spec.observation.items():
        place = f"{branch}/observation/{_path(key)}"
        own_time = times_s(spec, episode, key)
        if array_spec.is_image:
            _log_images(recording, place, episode.observation[key], own_time, maximum_side)
        elif is_depth(array_spec):
            _log_depth(recording, place, episode.observation[key], own_time)
        elif not is_large(array_spec):
            _log_channels(recording, place, array_spec, np.asarray(episode.observation[key]), own_time)
    if episode.action.shape[1]:
        _log_channels(recording, f"{branch}/action", spec.action, episode.action, time)
    facts: dict[str, Array | None] = {
        "reward": None if "reward" in spec.metadata.get("absent", ()) else episode.reward,
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "success": episode.success,
        "intervened": episode.intervened,
    }
    for name, values in facts.items():
        if values is not None:
            columns = rerun.Scalars.columns(scalars=np.asarray(values, np.float64))
            recording.columns(f"{branch}/{name}", columns, 0, steps, time)
    recording.static(f"{branch}/about", rerun.TextDocument(_about(branch, spec, episode), media_type="text/markdown"))


def _log_channels(recording: _Recording, place: str, spec: ArraySpec, values: Array, time: Array | None) -> None:
    rerun, flat = recording.rerun, values.reshape(len(values), -1).astype(np.float64)
    if flat.shape[1] == 0:
        return
    names = [name if spec.unit in (None, "1") else f"{name} [{spec.unit}]" for name in channel_names(spec)]
    recording.static(place, rerun.SeriesLines(names=names))
    columns = rerun.Scalars.columns(scalars=flat.ravel()).partition([flat.shape[1]] * len(flat))
    recording.columns(place, columns, 0, len(flat), time)


def _log_images(recording: _Recording, place: str, images: Array, time: Array | None, maximum_side: int) -> None:
    count = block_size(images.shape[1:])
    for start in range(0, len(images), count):
        stop = min(start + count, len(images))
        jpegs = list(_jpegs(images[start:stop], maximum_side))
        columns = recording.rerun.EncodedImage.columns(blob=jpegs, media_type=["image/jpeg"] * len(jpegs))
        recording.columns(place, columns, start, stop, time)


def _jpegs(images: Array, maximum_side: int) -> Iterator[bytes]:
    """JPEG bytes of each image: as they are in the store where they are JPEG and small enough."""
    height, width = images.shape[1:3]
    scale = maximum_side / max(height, width)
    frames = lazy(images)
    if scale >= 1 and isinstance(frames, EncodedFrames):
        encoded = list(frames.encoded)
        if all(data[:3] == JPEG_SIGNATURE for data in encoded):
            yield from encoded
            return
    if scale < 1:
        images = as_array(resize_frames(images, (max(1, round(height * scale)), max(1, round(width * scale)))))
    for image in np.asarray(images):
        yield encode_jpeg(image, VIEW_QUALITY)


def _log_depth(recording: _Recording, place: str, planes: Array, time: Array | None) -> None:
    """Planes of distances; millimetres where they are whole numbers."""
    stream = recording.stream
    for index, plane in enumerate(planes):
        stream.set_time(STEP, sequence=index)
        if time is not None:
            stream.set_time(TIME, duration=float(time[index]))
        stream.log(place, recording.rerun.DepthImage(plane, meter=1000.0 if plane.dtype == np.uint16 else 1.0))
    stream.reset_time()


def _about(branch: str, spec: Spec, episode: Episode) -> str:
    absent = spec.metadata.get("absent", ())
    facts: dict[str, Any] = {
        "steps": len(episode),
        "return": "not recorded" if "reward" in absent else f"{episode.reward.sum(dtype=np.float64):.6g}",
        "success": "not recorded" if episode.success is None else ("yes" if episode.success.any() else "no"),
        "end": "terminated" if episode.terminated[-1] else ("truncated" if episode.truncated[-1] else "not recorded"),
    }
    known: Mapping[str, Any] = {
        key: episode.metadata[key]
        for key in ("language", "task", "split", "source")
        if episode.metadata.get(key) is not None
    }
    lines = [f"- **{name}**: {value}" for name, value in {**known, **facts}.items()]
    return "\n".join([f"# {branch.replace('_', ' ')}", *lines])


def _blueprint(spec: Spec, episodes: list[int]) -> Any:
    """A tab for each episode: its images above, its channels below."""
    _import_rerun()
    import rerun.blueprint as blueprint

    images = [key for key, array_spec in spec.observation.items() if is_picture(array_spec)]
    channels = [key for key, array_spec in spec.observation.items() if not is_large(array_spec)]

    def series(place: str, name: str, array_spec: ArraySpec) -> Any:
        legend = blueprint.PlotLegend(visible=int(np.prod(array_spec.shape)) <= LEGEND_CHANNELS)
        return blueprint.TimeSeriesView(origin=place, name=name, plot_legend=legend)

    tabs = []
    for number in episodes:
        branch = f"/episode_{number}"
        pictures = [blueprint.Spatial2DView(origin=f"{branch}/observation/{_path(key)}", name=key) for key in images]
        about = blueprint.TextDocumentView(origin=f"{branch}/about", name="about")
        plots = [series(f"{branch}/observation/{_path(key)}", key, spec.observation[key]) for key in channels]
        if spec.action.shape[0]:
            plots.insert(0, series(f"{branch}/action", "action", spec.action))
        outcome = [f"{branch}/{name}" for name in ("reward", "success", "terminated", "truncated", "intervened")]
        plots.append(blueprint.TimeSeriesView(origin=branch, contents=outcome, name="reward and ends"))
        rows = [blueprint.Horizontal(*pictures, about, name="images"), blueprint.Grid(*plots, name="channels")]
        tabs.append(blueprint.Vertical(*rows, name=f"episode {number}"))
    return blueprint.Blueprint(blueprint.Tabs(*tabs), collapse_panels=False)


def _path(key: str) -> str:
    """A key as part of an entity path: its slashes make branches, what else rerun gives a meaning is escaped."""
    rerun = _import_rerun()
    return "/".join(rerun.escape_entity_path_part(part) for part in key.split("/") if part)


@contextmanager
def quiet_viewer() -> Iterator[dict[str, str]]:
    """An environment in which the viewer's usage statistics are off; the person's own settings stay as they are."""
    with tempfile.TemporaryDirectory(prefix="robot-rl-view-") as folder:
        environment = {**os.environ, "XDG_CONFIG_HOME": folder}
        subprocess.run(
            [sys.executable, "-m", "rerun", "analytics", "disable"], env=environment, check=True, capture_output=True
        )
        yield environment


def _open_viewer(console: Console, store: EpisodeStore, config: ViewConfig) -> int:
    _import_rerun()
    with tempfile.TemporaryDirectory(prefix="robot-rl-view-") as folder, quiet_viewer() as environment:
        path = Path(folder) / f"{store.path.name}.rrd"
        with console.status("Reading ..."):
            write_rrd(path, store, config.episodes, maximum_side=config.maximum_side)
        console.print(Text("The viewer is open; close its window to end.", "dim"))
        words = [sys.executable, "-m", "rerun", "--bind", "127.0.0.1", "--hide-welcome-screen", str(path)]
        status = subprocess.run(words, env=environment, check=False).returncode
    if status != 0:
        raise InputError(f"the rerun viewer ended with status {status}: write a file instead with output=NAME.rrd")
    return 0


def _require_display() -> None:
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError(
            "there is no display for the viewer (DISPLAY is not set): write a file with output=NAME.rrd and open it "
            "where there is one, with `rerun NAME.rrd`"
        )


def _require_episodes(store: EpisodeStore, episodes: list[int]) -> None:
    if not episodes:
        raise InputError("episodes=[] names none: give their numbers, such as episodes=[0,3]")
    if len(set(episodes)) != len(episodes):
        raise InputError(f"episodes={episodes} names one twice")
    wrong = [number for number in episodes if not 0 <= number < len(store)]
    if wrong:
        raise InputError(f"{store.path} has episodes 0 to {len(store) - 1}, asked for {wrong}")


def _import_rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise InputError(f"the viewer is not installed ({error}): pip install 'robot-rl[viewer]'") from error
    return rerun
