"""A short run of the fuzzer over every format; `python tests/fuzz/fuzz_formats.py` is the long one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import corpus
import fuzz_formats

CASES = 6  # of each format


@pytest.mark.parametrize("name", list(corpus.FORMATS))
def test_the_recording_that_is_broken_is_right_before(name: str, tmp_path: Path) -> None:
    source = corpus.make(name, tmp_path / "source")
    assert fuzz_formats.read(source, tmp_path / "store.zarr", name) == "stored"


def test_broken_recordings_give_a_right_store_or_a_clear_error(tmp_path: Path) -> None:
    formats = list(corpus.FORMATS)
    outcomes = fuzz_formats.run(formats, CASES * len(formats), seed=0, folder=tmp_path)
    assert not [outcome for outcome in outcomes if outcome.failed]
    assert {outcome.kind for outcome in outcomes} == {"stored", "refused"}


def test_what_reading_never_needs_is_noticed(tmp_path: Path) -> None:
    seen: list[str] = []
    for event, arguments in (
        ("os.system", ("true",)),
        ("open", (str(tmp_path.parent / "elsewhere"), "w", 0)),
        ("pickle.find_class", ("os", "system")),
    ):
        fuzz_formats.audit(event, arguments, tmp_path, seen)
    assert len(seen) == 3
    for event, arguments in (
        ("open", (str(tmp_path / "inside"), "w", 0)),
        ("open", ("/etc/hosts", "r", 0)),
        ("pickle.find_class", ("numpy", "ndarray")),
    ):
        fuzz_formats.audit(event, arguments, tmp_path, seen)
    assert len(seen) == 3
