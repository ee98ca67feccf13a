"""What a run writes: whole or not at all, and a full disk is told in a sentence."""

import contextlib
import json
import resource
import threading

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robot_rl import checkpoint
from robot_rl.errors import InputError
from robot_rl.recorder import Progress, Recorder


@contextlib.contextmanager
def disk_of(size: int):
    """No file can grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_those_before_and_says_so(tmp_path) -> None:
    first = checkpoint.save(tmp_path, 1, {"x": torch.zeros(10)}, {"step": 1})
    with disk_of(100_000), pytest.raises(InputError, match=r"000000002.*unharmed.*resume=true"):
        checkpoint.save(tmp_path, 2, {"x": torch.zeros(100_000)}, {"step": 2})
    assert list(tmp_path.iterdir()) == [first]
    assert checkpoint.load(first)[1]["step"] == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's, see below
def test_metrics_that_do_not_fit_are_refused_by_name(tmp_path) -> None:
    before = set(threading.enumerate())
    recorder = Recorder(tmp_path)
    of_tensorboard = set(threading.enumerate()) - before

    def fill() -> None:
        for step in range(100):
            recorder.event("train", Progress(phase="offline", updates=step), {"critic/q": 1.0})

    with disk_of(2000), pytest.raises(InputError, match=r"metrics\.jsonl.*checkpoints are unharmed.*resume=true"):
        fill()
    with contextlib.suppress(InputError):  # the thread of TensorBoard's writer may have met the full disk, or not yet
        recorder.close()
    for thread in of_tensorboard:  # its last words come after its error, and would fail the next test
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_metrics_that_were_lost_since_the_checkpoint_are_missed(tmp_path) -> None:
    recorder = Recorder(tmp_path)
    recorder.event("train", Progress(updates=1), {"critic/q": 1.0})
    size = recorder.sync()
    recorder.close()
    recorder.path.write_bytes(recorder.path.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"metrics\.jsonl has {size - 5} bytes, but had {size}"):
        Recorder(tmp_path, resume_at=size, work=1)
    recorder.path.unlink()
    with pytest.raises(InputError, match="has 0 bytes"):
        Recorder(tmp_path, resume_at=size, work=1)
    assert not recorder.path.exists()


def test_tensorboard_shows_a_resumed_run_once_and_whole(tmp_path) -> None:
    def write(recorder: Recorder, steps: range, value: float) -> int:
        for step in steps:  # ten updates, then environment steps without any
            progress = Progress(updates=min(step, 10), environment_steps=max(step - 10, 0))
            recorder.event("train" if step <= 10 else "episode", progress, {"number": value})
        return recorder.sync()

    first = Recorder(tmp_path)
    size = write(first, range(1, 15), 1.0)
    write(first, range(15, 20), 2.0)  # lost: after the checkpoint
    first.close()
    second = Recorder(tmp_path, resume_at=size, work=14)
    write(second, range(15, 18), 3.0)
    second.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/number")] == [(k, 1.0) for k in range(1, 11)]
    episodes = [(event.step, event.value) for event in board.Scalars("episode/number")]
    assert episodes == [*((k, 1.0) for k in range(11, 15)), *((k, 3.0) for k in range(15, 18))]
    assert [event.value for event in board.Scalars("progress/environment_steps")][-1] == 7
    assert len([json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]) == 17
