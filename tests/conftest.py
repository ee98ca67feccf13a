"""What every test gets: one thread, no display, Ctrl-C, repeatable examples, and the shared recordings, if there."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

# Before the first import of numpy, matplotlib or mujoco; the workers of xdist read this file too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ["MPLBACKEND"] = "Agg"

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a job in the background, and in what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile(
    "quick", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("quick")


def pytest_configure(config: pytest.Config) -> None:
    """Leaves out the slow tests unless `-m` chooses."""
    if not config.option.markexpr:
        config.option.markexpr = "not slow"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings: `ROBOT_RL_DATA`, or `../shared/data` beside the checkout."""
    given = os.environ.get("ROBOT_RL_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the recordings are not at {folder}: set ROBOT_RL_DATA")
    return folder


@pytest.fixture
def waking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the one that keeps processors awake, which not every machine has or lets us write."""
    path = tmp_path / "cpu_dma_latency"
    path.write_bytes(b"\xff" * 4)
    monkeypatch.setattr("robot_rl.loops.realtime.WAKING", path)
    return path


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch, waking: Path) -> Iterator[tuple[int, dict[int, list[int]]]]:
    """Another thread of this process, and the priorities that are asked for, by thread; nobody gets them."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert thread.native_id is not None
    asked: dict[int, list[int]] = {}

    def note(number: int, kind: int, given: os.sched_param) -> None:
        asked.setdefault(number, []).append(given.sched_priority)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "sched_setscheduler", note)
            yield thread.native_id, asked
    finally:
        release.set()
        thread.join()
