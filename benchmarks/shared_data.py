"""Every recording of the shared data, converted and checked against what is known of it.

    python benchmarks/shared_data.py [--data ../shared/data] [--only bridge]

Prints the table of docs/data.md, and exits with 1 where a count differs from the truth or a known flaw was not found.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from robot_rl.datasets.convert import ConvertSettings, Report, convert
from robot_rl.datasets.convert_transforms import ImageOptions, Transforms
from robot_rl.datasets.ingest.base import BagOptions, ReadOptions, TableOptions
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.sim.robosuite_replay import resimulate

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Recording:
    """A source, and what its README says it holds."""

    path: str
    format: str
    episodes: int
    frames: int  # observations recorded: steps, and the final ones that are there
    flaws: Sequence[str] = ()  # words that the findings have to say
    refused: str | None = None  # words of the refusal, where it cannot become a store
    settings: ConvertSettings = field(default_factory=ConvertSettings)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one recording."""

    recording: Recording
    report: Report | None
    features: str = ""
    frames: int = 0
    store_bytes: int = 0
    seconds: float = 0.0
    wrong: Sequence[str] = ()


def reading(**options: object) -> ConvertSettings:
    """Settings that differ from the defaults in how the source is read."""
    return ConvertSettings(read=ReadOptions(**options))  # type: ignore[arg-type]  # names of its fields


RAW = reading(resimulate=resimulate)
"""robosuite's own recordings hold states only, which the simulator turns into observations."""

RECORDINGS = (
    Recording("adroit_human/door-v0_demos.pickle", "dapg_pickle", 25, 6729, flaws=("outside the bounds",)),
    Recording("adroit_human/door_human.hdf5", "robomimic_hdf5", 25, 6729, flaws=("outside the bounds",)),
    Recording("adroit_human/door_human_d4rl_layout.hdf5", "d4rl_hdf5", 25, 6729, flaws=("outside the bounds",)),
    Recording("adroit_human/pen_human.hdf5", "robomimic_hdf5", 25, 25 * 200),
    Recording("adroit_human/pen_human_d4rl_layout.hdf5", "d4rl_hdf5", 25, 25 * 200),
    Recording("robosuite_demos/v1.0_panda/lift/demo.hdf5", "robosuite_raw", 1, 412, settings=RAW),
    Recording("robosuite_demos/v1.0_panda/stack/demo.hdf5", "robosuite_raw", 1, 532, settings=RAW),
    Recording("robosuite_demos/v1.0_panda/door/demo.hdf5", "robosuite_raw", 1, 261, settings=RAW),
    Recording("robosuite_demos/v1.0_panda/wipe/demo.hdf5", "robosuite_raw", 0, 0, settings=RAW, refused="Wipe"),
    Recording("robosuite_demos/v1.0_panda/nut-assembly/demo.hdf5", "robosuite_raw", 1, 1036, settings=RAW),
    Recording("robosuite_demos/v0.1/SawyerLift/demo.hdf5", "robosuite_raw", 0, 0, settings=RAW, refused="robosuite"),
    Recording("robosuite_demos/v0.1/SawyerStack/demo.hdf5", "robosuite_raw", 0, 0, settings=RAW, refused="robosuite"),
    Recording(
        "robosuite_demos/v0.1/SawyerNutAssembly/demo.hdf5", "robosuite_raw", 0, 0, settings=RAW, refused="robosuite"
    ),
    Recording(
        "robosuite_demos/v0.1/BaxterPegInHole/demo.hdf5", "robosuite_raw", 0, 0, settings=RAW, refused="robosuite"
    ),
    Recording(
        "lerobot/g1_inspire_bottle_v21",
        "lerobot_v2",
        24,
        7812,
        flaws=("no reward",),
        settings=ConvertSettings(transforms=Transforms(image=ImageOptions(size=(128, 128)))),
    ),
    Recording("lerobot/g1_inspire_bottle_v21_lowdim_original", "lerobot_v2", 100, 35965, flaws=("video",)),
    Recording("lerobot/so101_pick_and_place_v30", "lerobot_v3", 6, 1782, flaws=("ever change",)),
    Recording("lerobot/reachy2_apple_storage_v30_lowdim", "lerobot_v3", 3, 899, flaws=("14983", "video")),
    Recording("lerobot/umi_cup_in_the_wild_v1", "lerobot_v1", 1, 400, flaws=("no action",)),
    Recording("lerobot/aloha_sim_insertion_human_v1", "lerobot_v1", 1, 500, flaws=("no reward",)),
    Recording(
        "rosbag/ros2_mcap_sensor_msgs/rosbag2_2025_09_10-13_03_56_0.mcap",
        "bag",
        1,
        15,
        settings=reading(bag=BagOptions(observations=("/joint_state",)), control_period_s=0.1),
    ),
    Recording("rosbag/rosbag2_sqlite3_split_wbag", "bag", 0, 0, refused="String"),
    Recording("rosbag/rosbag2_mcap_split_wbag", "bag", 0, 0, refused="String"),
    Recording("rosbag/rosbag2_sqlite3_cdr_test", "bag", 1, 2),
    Recording("rosbag/rosbag2_mcap_cdr_test", "bag", 1, 2),
    Recording(
        "rosbag/ros1_realsense/test_rs.bag",
        "bag",
        1,
        5,
        settings=reading(bag=BagOptions(observations=("/device_0/sensor_1/Color_0/image/data",))),
    ),
    Recording(
        "rlds/bridge_dataset/1.0.0",
        "rlds",
        50,
        500,
        flaws=("is_last", "more than one of the splits", "reward", "image_3"),
    ),
    Recording("videos/human_hand_video.mp4", "video", 1, 621, flaws=("no action",)),
    Recording("videos/umi_handheld_gripper_human_demo_ep0.mp4", "video", 1, 400),
    Recording("videos/umi_cup_in_the_wild.mp4", "video", 1, 1217),
    Recording("zarr_replay_buffer/one_leg_low.zarr.zip", "replay_zarr", 50, 23371),
    Recording(
        "robot_logs/ur3_cobotops/dataset_02052023.csv",
        "csv",
        1,
        7409,
        flaws=("missing",),
        settings=reading(table=TableOptions(missing="hold")),
    ),
)


def check(recording: Recording, data: Path, folder: Path) -> Row:
    """Convert one recording into `folder` and compare."""
    source, target = data / recording.path, folder / "store.zarr"
    begin = time.perf_counter()
    try:
        report = convert(source, target, replace(recording.settings, overwrite=True, workers=0))
    except InputError as error:
        if recording.refused is not None and recording.refused in str(error):
            return Row(recording=recording, report=None, seconds=time.perf_counter() - begin)
        return Row(recording=recording, report=None, wrong=[f"refused: {error}"])
    seconds = time.perf_counter() - begin
    store = EpisodeStore.open(target)
    frames = store.steps + sum(episode.has_final_observation for episode in store.episodes(keys=[]))
    wrong = []
    if recording.refused is not None:
        wrong.append("it should have been refused")
    if report.format != recording.format:
        wrong.append(f"format {report.format}, expected {recording.format}")
    if len(store) != recording.episodes:
        wrong.append(f"{len(store)} episodes, expected {recording.episodes}")
    if frames != recording.frames:
        wrong.append(f"{frames} frames, expected {recording.frames}")
    said = " ".join(f"{finding.place} {finding.text}" for finding in report.findings)
    wrong += [f"'{flaw}' was not found" for flaw in recording.flaws if flaw not in said]
    shapes = [f"{key} {'x'.join(map(str, array.shape))}" for key, array in store.spec.observation.items()]
    return Row(
        recording=recording,
        report=report,
        features=", ".join([*shapes, f"action {store.spec.action.shape[0]}"]),
        frames=frames,
        store_bytes=sum(path.stat().st_blocks * 512 for path in target.rglob("*") if path.is_file()),
        seconds=seconds,
        wrong=wrong,
    )


def line(row: Row) -> str:
    """A row of the Markdown table."""
    name, report = row.recording.path, row.report
    if report is None:
        return f"| `{name}` | {row.recording.format} | refused, as it should be | | | | | |"
    severities = Counter(finding.severity for finding in report.findings)
    findings = ", ".join(f"{count} {severity}" for severity, count in severities.items()) or "none"
    features = row.features if len(row.features) < 80 else row.features[:77] + "..."
    rate = f"{row.frames / row.seconds:,.0f}"
    cells = (name, report.format, report.episodes, report.steps, row.frames, features, findings)
    return f"| `{cells[0]}` | {' | '.join(map(str, cells[1:]))} | {rate} | {row.store_bytes / 1e6:.1f} |"


def main() -> int:
    """Print the table; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", default="", help="recordings whose path contains this")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"the recordings are not at {arguments.data}: give --data FOLDER; nothing was measured")
        return 0
    print("| recording | format | episodes | steps | frames | features | findings | frames/s | store MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    wrong: dict[str, Sequence[str]] = {}
    for recording in RECORDINGS:
        if arguments.only in recording.path:
            with tempfile.TemporaryDirectory() as folder:
                row = check(recording, arguments.data, Path(folder))
            print(line(row), flush=True)
            if row.wrong:
                wrong[recording.path] = row.wrong
    for path, differences in wrong.items():
        Console(stderr=True).print(f"{path}: {'; '.join(differences)}", markup=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
