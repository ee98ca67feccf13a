"""The rules of docs and architecture that a reader relies on, read from the source with `ast`."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("datasets", "sim", "hardware", "configs")
MAXIMUM_LINES = 500

WORDS = {"types", "spec", "exchange", "seeding", "clock", "units", "errors", "checks"}
PURE = {"functional", "networks", "transforms", "replay"}
CORE = WORDS | PURE | {"environment", "policy", "algorithms"}
OURS: dict[str, set[str]] = {
    **dict.fromkeys(WORDS, WORDS),
    "environment": WORDS,
    "policy": WORDS,
    **dict.fromkeys(PURE, WORDS | PURE),
    "algorithms": WORDS | PURE | {"algorithms"},
    "rewards": CORE | {"rewards"},
    "steering": CORE | {"steering"},
    "config": WORDS
    | {"algorithms", "benchmark_config", "data_config", "deploy_config", "robot_config", "serve_config", "sim_config"}
    | {"label_config", "rewards", "video_config"},
    "label_config": WORDS,
    "video_config": WORDS | {"networks"},
    "benchmark_config": WORDS | {"sim_config"},
    "data_config": WORDS,
    "robot_config": WORDS,
    "sim_config": WORDS,
    "serve_config": WORDS,
    "deploy_config": WORDS,
    "checkpoint": CORE | {"config", "checkpoint"},
    "recorder": CORE | {"config", "recorder"},
    "loops": CORE | {"config", "checkpoint", "recorder", "loops", "rewards", "steering"},
    "datasets": WORDS | {"transforms", "config", "datasets"},
    "sim": WORDS | {"environment", "config", "sim", "sim_config"},
    "hardware": WORDS | {"environment", "policy", "transforms", "config", "hardware"},
    "testing": CORE | {"config", "testing"},
}
"""What each part of robot_rl may import of ours; `apps` may import everything, and only `apps` imports `apps`."""

HEAVY = {"mujoco", "robosuite", "dm_control", "gymnasium", "gymnasium_robotics", "rclpy", "h5py", "zarr", "av",
         "cv2", "simplejpeg", "pyarrow", "rosbags", "ray", "rerun", "imagecodecs"}  # fmt: skip
WRAPPERS = {"sim", "datasets", "hardware", "apps"}
HYDRA = {"hydra", "omegaconf"}
SETTINGS = {"config", "data_config", "robot_config", "benchmark_config"}
FOLDERS = {"datasets", "sim", "hardware", "configs"}


def source_files() -> Iterator[tuple[str, Path]]:
    """Every file of the package with its path inside robot_rl, such as `datasets/store.py`."""
    for folder in (ROOT / "robot_rl", *(ROOT / link for link in LINKS)):
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(ROOT)
            linked = folder.name == "robot_rl" and len(inside.parts) > 1 and inside.parts[1] in LINKS
            if not linked:
                yield str(inside.relative_to("robot_rl") if inside.parts[0] == "robot_rl" else inside), path


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in a file, full name and line; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in names)
            case ast.ImportFrom():
                yield "relative import", node.lineno


def violations(inside: str, source: str) -> list[str]:
    """What in the file `inside` (a path inside robot_rl) breaks the import rules."""
    part = inside.split("/")[0].removesuffix(".py")
    found = []
    for module, line in imported(ast.parse(source)):
        package, _, rest = module.partition(".")
        ours = rest.split(".")[0] if package == "robot_rl" else ""
        place = f"{inside}:{line} imports {module}"
        if module == "relative import":
            found.append(f"{inside}:{line} has a relative import")
        elif package in FOLDERS and not (package == "datasets" and inside == "datasets/ingest/lerobot.py"):
            found.append(f"{place}: write robot_rl.{package}")
        elif package in HEAVY and part not in WRAPPERS:
            found.append(f"{place}: only {', '.join(sorted(WRAPPERS))} wrap it")
        elif package in HYDRA and part not in {*SETTINGS, "apps"}:
            found.append(f"{place}: only {', '.join(sorted(SETTINGS))} and apps do")
        elif ours and part not in {"apps", "__main__"} and ours not in {part, "__version__"} | OURS.get(part, set()):
            found.append(f"{place}: {part} may not import {ours}")
    return found


def test_every_file_keeps_the_import_rules() -> None:
    found = [message for inside, path in source_files() for message in violations(inside, path.read_text("utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("inside", "source"),
    [
        ("algorithms/sac.py", "import mujoco"),
        ("algorithms/sac.py", "from robot_rl.datasets.store import Store"),
        ("algorithms/sac.py", "from robot_rl import sim"),
        ("algorithms/sac.py", "def f():\n    import hydra"),
        ("functional/bellman.py", "from robot_rl.algorithms import sac"),
        ("loops/online.py", "import zarr"),
        ("loops/online.py", "from robot_rl.apps.train import run"),
        ("datasets/store.py", "from robot_rl.sim import registry"),
        ("datasets/store.py", "from robot_rl.apps import cli"),
        ("sim/robosuite.py", "import robot_rl.hardware.safety"),
        ("sim/robosuite.py", "from robot_rl.loops import evaluate"),
        ("sim/robosuite.py", "from omegaconf import OmegaConf"),
        ("hardware/bridge.py", "from robot_rl.algorithms import create"),
        ("apps/train.py", "import datasets"),
        ("apps/train.py", "from sim import robosuite"),
        ("apps/train.py", "from . import cli"),
        ("types.py", "from robot_rl.config import TrainConfig"),
    ],
)
def test_a_planted_violation_is_found(inside: str, source: str) -> None:
    assert violations(inside, source)


@pytest.mark.parametrize(
    ("inside", "source"),
    [
        ("apps/train.py", "import hydra\nfrom robot_rl.sim import registry\nfrom robot_rl.datasets import store"),
        ("sim/robosuite.py", "import mujoco\nfrom robot_rl.environment import Environment"),
        ("datasets/ingest/lerobot.py", "import datasets"),
        ("algorithms/sac.py", "from robot_rl.networks.mlp import MLP\nfrom robot_rl.types import Batch"),
    ],
)
def test_what_is_allowed_is_not_reported(inside: str, source: str) -> None:
    assert violations(inside, source) == []


def test_algorithms_do_not_import_one_another() -> None:
    shared = {"__init__", "agent"}
    names = {path.stem for path in (ROOT / "robot_rl/algorithms").glob("*.py")} - shared
    for name in names:
        tree = ast.parse((ROOT / f"robot_rl/algorithms/{name}.py").read_text("utf-8"))
        others = {module.split(".")[2] for module, _ in imported(tree) if module.startswith("robot_rl.algorithms.")}
        assert not others & (names - {name}), f"algorithms/{name}.py imports {others}"


@pytest.mark.parametrize("name", LINKS)
def test_the_links_are_relative_and_committed(name: str) -> None:
    link = ROOT / "robot_rl" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-s", f"robot_rl/{name}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert listed.stdout.startswith("120000 "), f"robot_rl/{name} is not committed as a link"


def test_only_configs_has_an_init_so_that_hugging_face_datasets_wins_a_bare_import() -> None:
    assert [name for name in LINKS if (ROOT / name / "__init__.py").exists()] == ["configs"]


def test_no_file_is_longer_than_500_lines() -> None:
    tests = [(str(path.relative_to(ROOT)), path) for path in sorted((ROOT / "tests").rglob("*.py"))]
    long = {
        name: n
        for name, path in [*source_files(), *tests]
        if (n := len(path.read_text("utf-8").splitlines())) > MAXIMUM_LINES
    }
    assert not long


def test_importing_the_core_changes_nothing_and_needs_no_simulator() -> None:
    core = []
    for inside, _ in source_files():
        if inside.split("/")[0].removesuffix(".py") not in {*FOLDERS, "apps", "__main__", "testing"}:
            core.append("robot_rl." + inside.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert len(core) > 10
    code = f"""
import importlib, os, sys, warnings, logging
import torch, numpy, hydra  # theirs may change things; ours may not
state = lambda: (dict(os.environ), list(warnings.filters), list(logging.root.handlers), logging.root.level,
                 sorted(os.listdir(".")), torch.get_default_dtype(), torch.initial_seed(), sys.path[:])
before = state()
for name in {core!r}:
    importlib.import_module(name.removesuffix(".__init__"))
after = state()
assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
heavy = set({sorted(HEAVY)!r}) & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def config_fields() -> dict[str, set[str]]:
    """The fields of every config dataclass of config.py."""
    tree = ast.parse((ROOT / "robot_rl/config.py").read_text("utf-8"))
    return {
        node.name: {s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)}
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def test_every_field_of_every_config_is_read() -> None:
    read: set[str] = set()
    for inside, path in source_files():
        if inside == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.MatchClass):
                read.update(node.kwd_attrs)
    unread = {f"{name}.{field}" for name, fields in config_fields().items() for field in fields - read}
    assert not unread, f"settings that change nothing: {sorted(unread)}"
