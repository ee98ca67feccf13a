"""The pages on objectives name code and tests that exist, a row for each equation."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/video").glob("*.md"))
REFERENCE = re.compile(r"`([\w/.]+\.py)::([\w.]+)`")


def defined(path: Path) -> set[str]:
    """Functions, classes, methods and assigned names of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        parts = [(node, "")] + (
            [(each, f"{node.name}.") for each in node.body] if isinstance(node, ast.ClassDef) else []
        )
        for each, prefix in parts:
            if isinstance(each, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + each.name)
            elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                found.add(prefix + each.target.id)
            elif isinstance(each, ast.Assign):
                found |= {prefix + target.id for target in each.targets if isinstance(target, ast.Name)}
    return found


def test_every_objective_has_a_page() -> None:
    files = {path.stem for path in (ROOT / "robot_rl/algorithms/video").glob("*.py")} - {"__init__", "settings"}
    assert {page.stem for page in PAGES} == files


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_place_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    found = REFERENCE.findall(text)
    assert len(found) == text.count(".py::")
    for name, symbol in found:
        path = next(base / name for base in (ROOT / "robot_rl", ROOT / "tests") if (base / name).is_file())
        assert symbol in defined(path), f"{page.name}: {name} has no {symbol}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_equation_names_its_code_and_its_test(page: Path) -> None:
    rows = [
        re.split(r"(?<!\\)\|", line.strip())[1:-1]
        for line in page.read_text("utf-8").splitlines()
        if line.startswith("|") and "---" not in line
    ]
    equations = [row for row in rows if "::" in "".join(row)]
    assert len(equations) >= 4
    for row in equations:
        assert len(row) == 4
        assert any("/test_" not in name for name, _ in REFERENCE.findall(row[1]))
        assert all("/test_" in name for name, _ in REFERENCE.findall(row[2]))
        assert REFERENCE.findall(row[2])
