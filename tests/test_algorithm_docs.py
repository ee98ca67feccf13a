"""Every recipe has a page that says, equation by equation, where it is in the code and which test checks it.

A page of `docs/algorithms/` names places as `path::symbol`, code relative to `robot_rl/` and tests relative to `tests/`
(`functional/bellman.py::td_target`, `algorithms/test_losses.py::test_td_target`; methods and fields with a point).
It holds at least one table with the columns of `EQUATIONS` or of `SETTINGS`; of the latter, the second column is
compared with the recipe of the page's name.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from robot_rl.config import register

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "algorithms").glob("*.md"))
RECIPES = {path.stem for path in (ROOT / "configs" / "algorithm").glob("*.yaml")}
EQUATIONS = ["equation", "code", "test", "differs, and why"]
SETTINGS = ["setting", "here", "published", "differs, and why"]
WAITING: set[str] = set()
"""Recipes whose page is still to be written."""


def tables(page: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Header and rows of each table; a `|` inside a cell is written `\\|`."""
    for block in re.findall(r"(?:^\|.*\n?)+", page.read_text("utf-8"), re.MULTILINE):
        lines = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in block.strip().split("\n")
        ]
        yield lines[0], lines[2:]


def references(text: str) -> list[tuple[str, str]]:
    """`path::symbol` in code spans, as (path, symbol)."""
    return re.findall(r"`([\w/.]+\.py)::([\w.]+)`", text)


def located(path: str) -> Path | None:
    """The file that a reference names."""
    return next((base / path for base in (ROOT / "robot_rl", ROOT / "tests", ROOT) if (base / path).is_file()), None)


@cache
def symbols(path: Path) -> frozenset[str]:
    """Functions, classes, methods, and assigned names of modules and classes: `SAC.update`, `SACConfig.target_rate`."""

    def inside(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    yield prefix + name
                case ast.ClassDef(name=name, body=members):
                    yield prefix + name
                    yield from inside(members, f"{prefix}{name}.")
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    yield prefix + name

    return frozenset(inside(ast.parse(path.read_text("utf-8")).body, ""))


def exists(reference: tuple[str, str]) -> bool:
    path = located(reference[0])
    return path is not None and reference[1] in symbols(path)


def is_test(reference: tuple[str, str]) -> bool:
    return reference[1].startswith("test_")


def test_every_recipe_has_a_page() -> None:
    pages = {page.stem for page in PAGES}
    assert RECIPES - pages == WAITING, "write the page, or take it off WAITING"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_place_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    missing = [f"{path}::{symbol}" for path, symbol in references(text) if not exists((path, symbol))]
    assert not missing
    assert text.count(".py::") == len(references(text)), "a reference is `path.py::symbol` between single backticks"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_equation_names_its_code_and_its_test(page: Path) -> None:
    found = [(header, rows) for header, rows in tables(page) if header in (EQUATIONS, SETTINGS)]
    assert found, f"{page.name} has no table with the columns {EQUATIONS} or {SETTINGS}"
    for header, rows in found:
        for row in rows:
            assert len(row) == len(header), f"{page.name}: {len(row)} cells in the row {row[0]}"
            if header == EQUATIONS:
                assert any(not is_test(each) for each in references(row[1])), f"{page.name}: no code for {row[0]}"
                assert any(is_test(each) for each in references(row[2])), f"{page.name}: no test for {row[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = page if name == "" else page.parent / name
        assert path.exists(), f"{page.name} links to {target}"
        headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}
        assert not anchor or anchor in anchors, f"{page.name} links to {target}; there are {sorted(anchors)}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in RECIPES], ids=lambda page: page.stem)
def test_the_settings_on_a_page_are_those_of_its_recipe(page: Path) -> None:
    config = settings(page.stem)
    for header, rows in tables(page):
        if header != SETTINGS:
            continue
        for name, here, *_ in rows:
            assert here.strip("`") == written(config[name.strip("`")]), f"{page.name}: {name}"


def settings(recipe: str) -> dict[str, Any]:
    """All settings of a recipe, with those that it leaves alone."""
    register()
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        found: dict[str, Any] = vars(OmegaConf.to_object(compose(overrides=[f"+algorithm={recipe}"]))["algorithm"])
    return found


def written(value: Any) -> str:
    """A value as YAML: true, null, [256, 256]; numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


NO_FORMULAS = {"functional/schedule.py", "functional/attack.py", "algorithms/agent.py", "algorithms/__init__.py"}
"""When something is due, what an evaluation does to observations, and what agents have in common."""


def test_every_loss_and_target_is_on_a_page() -> None:
    """Public functions of `functional/` and of the algorithms, unless only functions that are on a page call them."""
    named = {reference for page in (ROOT / "docs").rglob("*.md") for reference in references(page.read_text("utf-8"))}
    functions: dict[tuple[str, str], ast.FunctionDef] = {}
    for folder in ("functional", "algorithms"):
        for path in sorted((ROOT / "robot_rl" / folder).glob("*.py")):
            inside = f"{folder}/{path.name}"
            for node in ast.parse(path.read_text("utf-8")).body if inside not in NO_FORMULAS else ():
                if isinstance(node, ast.FunctionDef):
                    functions[inside, node.name] = node
    covered, reached = set(), [key for key in functions if key in named]
    while reached:
        key = reached.pop()
        covered.add(key)
        called = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(functions[key])}
        reached += [each for each in functions if each[1] in called and each not in covered]
    public = {key for key in functions if not key[1].startswith("_") and key[1] != "create"}
    assert {f"{path}::{name}" for path, name in public - covered} == set()
