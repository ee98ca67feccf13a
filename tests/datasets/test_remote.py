"""Stores on object storage: read through a cache, published whole or not at all."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from robot_rl.datasets.remote import REMOTE, building_at, is_url, localize, publish, url_of
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

IMAGES = runpy.run_path(str(Path(__file__).with_name("test_store_images.py")))
make_store, make_episode, TIERS = IMAGES["make_store"], IMAGES["make_episode"], IMAGES["TIERS"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing in memory but what a test puts there."""
    monkeypatch.setenv("ROBOT_RL_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield tmp_path / "cache"
    memory.store.clear()


def urls(tmp_path: Path) -> list[str]:
    return ["memory://bucket/lab/x.zarr", f"file://{tmp_path}/elsewhere/x.zarr"]


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "file"])
def test_a_published_store_is_read_as_the_one_on_this_machine(tmp_path: Path, kind: int) -> None:
    url = urls(tmp_path)[kind]
    local = make_store(tmp_path / "x.zarr", 30, 5)
    publish(local.path, url)
    found = EpisodeStore.open(url)
    assert found.digests == local.digests
    found.verify()
    for key in TIERS:
        rows = np.asarray([3, 34, 3])
        np.testing.assert_array_equal(found.column(key).gather(rows), local.column(key).gather(rows))
    np.testing.assert_array_equal(found.episode(1).action, local.episode(1).action)


def test_images_come_only_when_they_are_looked_at(tmp_path: Path) -> None:
    publish(make_store(tmp_path / "x.zarr", 200).path, "memory://bucket/x.zarr")
    store = EpisodeStore.open("memory://bucket/x.zarr")
    blocks = store.path / "steps/observation/wrist/gray/c"
    assert not blocks.exists()
    next(store.episodes())
    assert not blocks.exists()
    store.column("wrist/gray").gather(np.asarray([0, 100]))
    assert sorted(path.name for path in blocks.iterdir()) == ["0", "1"]
    assert EpisodeStore.open("memory://bucket/x.zarr").path == store.path  # nothing is copied again


def test_a_store_that_was_changed_is_copied_anew(tmp_path: Path) -> None:
    url = "memory://bucket/x.zarr"
    publish(make_store(tmp_path / "x.zarr", 4).path, url)
    before = EpisodeStore.open(url)
    publish(make_store(tmp_path / "y.zarr", 4, 5).path, url, overwrite=True)
    assert (len(before), len(EpisodeStore.open(url))) == (1, 2)
    assert {path.split("/")[2] for path in fsspec.filesystem("memory").store} == {"x.zarr"}


def labelled(path: Path, success: bool) -> EpisodeStore:
    """An episode of numbers, which says whether it succeeded or not: an array of which is on the disk, or is not."""
    spec = Spec(observation={"state": ArraySpec(shape=(2,))}, action=ArraySpec(shape=(1,)))
    store = EpisodeStore.create(path, spec, provenance={})
    store.append(
        Episode(
            observation={"state": np.ones((4, 2), np.float32)},
            action=np.ones((3, 1), np.float32),
            reward=np.ones(3),
            terminated=np.zeros(3, bool),
            truncated=np.asarray([False, False, True]),
            success=np.ones(3, bool) if success else None,
        )
    )
    store.finish()
    return store


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "file"])
def test_what_replaces_a_store_may_have_folders_that_it_had_not(tmp_path: Path, kind: int) -> None:
    url = urls(tmp_path)[kind]
    publish(labelled(tmp_path / "x.zarr", success=False).path, url)
    new = labelled(tmp_path / "y.zarr", success=True)
    publish(new.path, url, overwrite=True)
    assert EpisodeStore.open(url).digests == new.digests


def test_a_replacement_that_fails_is_told_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://bucket/x.zarr"
    publish(labelled(tmp_path / "x.zarr", success=False).path, url)
    new = labelled(tmp_path / "y.zarr", success=True)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "cp_file", full)
        with pytest.raises(InputError, match=r"no space.*lies whole at") as error:
            publish(new.path, url, overwrite=True)
    place = re.search(r"memory://\S+\.partial-\w+", str(error.value))
    assert place is not None
    assert EpisodeStore.open(place[0]).digests == new.digests
    publish(new.path, url)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_publication_killed_anywhere_leaves_a_whole_store_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    url = "memory://bucket/x.zarr"
    old, new = make_store(tmp_path / "old.zarr", 4), make_store(tmp_path / "new.zarr", 6, 7)
    if overwrite:
        publish(old.path, url)
    memory = fsspec.filesystem("memory")
    start = dict(memory.store)
    calls, allowed = 0, 0

    def count(name: str) -> Any:
        original = getattr(MemoryFileSystem, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise Killed
            return original(*arguments, **options)

        return wrapped

    outcomes = set()
    for name in ("put_file", "pipe_file", "cp_file", "_rm"):
        monkeypatch.setattr(MemoryFileSystem, name, count(name))
    while True:
        memory.store.clear()
        memory.store.update(start)
        calls = 0
        try:
            publish(new.path, url, overwrite=overwrite)
        except Killed:
            calls = -(10**9)
            outcomes.add(state(url, old.digests, new.digests))
            publish(new.path, url, overwrite=True)  # and it is easily done again
            assert EpisodeStore.open(url).digests == new.digests
            allowed += 5
        else:
            break
    assert allowed > 30
    assert outcomes - {"new"} == ({"old", "none"} if overwrite else {"none"})


class Killed(BaseException):
    """As if the process were gone."""


def state(url: str, old: list[str], new: list[str]) -> str:
    try:
        found = EpisodeStore.open(url)
    except InputError as error:
        assert "there is no store" in str(error)  # noqa: PT017  # the other way is as good
        return "none"
    found.verify()
    return {str(old): "old", str(new): "new"}[str(found.digests)]


def test_building_at_a_url_publishes_only_what_ends_well(tmp_path: Path) -> None:
    url = "memory://bucket/x.zarr"

    def build(error: bool) -> None:
        with building_at(url) as local:
            store = EpisodeStore.create(local, IMAGES["SPEC"], provenance={}, tiers=TIERS)
            store.append(make_episode(1, 4))
            store.finish()
            if error:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(error=True)
    assert not fsspec.filesystem("memory").store
    build(error=False)
    assert len(EpisodeStore.open(Path(url))) == 1  # `Path` makes memory:/bucket of it
    with pytest.raises(InputError, match="overwrite=true"):
        build(error=False)
    with building_at(tmp_path / "local.zarr") as local:
        EpisodeStore.create(local, IMAGES["SPEC"], provenance={})
    assert len(EpisodeStore.open(tmp_path / "local.zarr")) == 0


def test_what_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    local = make_store(tmp_path / "x.zarr", 4)
    fsspec.filesystem("memory").pipe_file("/bucket/thesis/chapter.tex", b"years of work")
    with pytest.raises(InputError, match="no episode store"):
        publish(local.path, "memory://bucket/thesis", overwrite=True)
    with pytest.raises(InputError, match="names no store"):
        publish(local.path, "memory://", overwrite=True)
    with pytest.raises(InputError, match="no episode store"):
        publish(tmp_path, "memory://bucket/x.zarr")


def test_a_store_that_is_not_there_says_how_to_make_it() -> None:
    with pytest.raises(InputError, match=r"there is no store at memory://bucket/x.zarr\. Make it with"):
        EpisodeStore.open("memory://bucket/x.zarr")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="`pip install s3fs`"):
        EpisodeStore.open("s3://bucket/x.zarr")
    with pytest.raises(InputError, match="Protocol not known"):
        EpisodeStore.open("nonsense://bucket/x.zarr")


def test_a_url_is_not_written_in_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="building_at"):
        EpisodeStore.append_to("memory://bucket/x.zarr")
    with pytest.raises(InputError, match="building_at"):
        EpisodeStore.create("memory://bucket/x.zarr", IMAGES["SPEC"], provenance={})


def test_a_block_that_is_lost_or_changed_elsewhere_is_named(tmp_path: Path) -> None:
    publish(make_store(tmp_path / "x.zarr", 200).path, "memory://bucket/x.zarr")
    store = EpisodeStore.open("memory://bucket/x.zarr")
    memory = fsspec.filesystem("memory")
    blocks = "/bucket/x.zarr/steps/observation/wrist/gray/c"
    memory.rm_file(f"{blocks}/0/0/0/0")
    memory.pipe_file(f"{blocks}/1/0/0/0", b"short")
    column = store.column("wrist/gray")
    with pytest.raises(InputError, match=r"memory://bucket/x.zarr/steps/.* cannot be reached \(FileNotFoundError"):
        column.gather(np.asarray([0]))
    with pytest.raises(InputError, match="was changed since"):
        column.gather(np.asarray([100]))
    assert not list((store.path / "steps/observation/wrist/gray").rglob("*.partial"))


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://bucket/x.zarr/", "s3://bucket/x.zarr"),
        (Path("s3://bucket/x.zarr"), "s3://bucket/x.zarr"),
        (Path("file:///data/x.zarr"), "file:///data/x.zarr"),
        ("/data/x.zarr", None),
        ("x:/y", None),
        ("data/with:colon.zarr", None),
    ],
)
def test_a_url_is_known_also_where_path_shortened_it(path: str | Path, url: str | None) -> None:
    assert url_of(path) == url
    assert is_url(path) == (url is not None)


def test_a_cached_store_remembers_where_it_comes_from(tmp_path: Path) -> None:
    publish(make_store(tmp_path / "x.zarr", 4).path, "memory://bucket/x.zarr")
    cached = localize("memory://bucket/x.zarr")
    assert cached.name == "x.zarr"
    publish(cached, "memory://bucket/y.zarr")
    assert REMOTE not in str(list(fsspec.filesystem("memory").store))
    EpisodeStore.open("memory://bucket/y.zarr").verify()
