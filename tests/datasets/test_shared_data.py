"""Every recording of the shared data gives the counts its README states, and its known flaws are found."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "shared_data.py"
LONG = {"lerobot/g1_inspire_bottle_v21", "videos/umi_cup_in_the_wild.mp4", "videos/human_hand_video.mp4"}


def load() -> ModuleType:
    """The script that prints the table of docs/data.md."""
    specification = importlib.util.spec_from_file_location("shared_data", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["shared_data"] = module
    specification.loader.exec_module(module)
    return module


TABLE = load()


@pytest.mark.parametrize(
    "recording",
    [
        pytest.param(recording, id=recording.path, marks=[pytest.mark.slow] if recording.path in LONG else [])
        for recording in TABLE.RECORDINGS
    ],
)
def test_a_recording_is_read_as_it_is_documented(recording, shared_data: Path, tmp_path: Path) -> None:
    row = TABLE.check(recording, shared_data, tmp_path)
    assert not row.wrong
    assert row.recording.path in TABLE.line(row)
    left = {path.name for path in tmp_path.iterdir()} - {"store.zarr"}
    assert not left
