"""No piece of one algorithm is a copy of a piece of another: what two share is a function that both call."""

import ast
from itertools import combinations
from pathlib import Path

FILES = sorted(
    path for path in (Path(__file__).parents[2] / "robot_rl" / "algorithms").glob("*.py") if path.stem != "__init__"
)
LONGEST = 5
"""Lines of statements that two functions of two files may have in common, one behind the other: those that begin
`update`, whose form is that of the contract."""


def bodies(path: Path) -> list[tuple[str, list[str]]]:
    """Every function: its place, and its statements, one a line whatever their layout, without docstring."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = [line.strip() for statement in body for line in ast.unparse(statement).splitlines()]
            found.append((f"{path.stem}.{node.name}", lines))
    return found


def shared_run(first: list[str], second: list[str]) -> list[str]:
    """The longest run of lines that both have."""
    longest: list[str] = []
    for i in range(len(first)):
        for j in range(len(second)):
            length = 0
            while i + length < len(first) and j + length < len(second) and first[i + length] == second[j + length]:
                length += 1
            if length > len(longest):
                longest = first[i : i + length]
    return longest


def test_no_two_algorithms_share_more_statements_than_the_contract_forces() -> None:
    functions = {path: bodies(path) for path in FILES}
    long = {}
    for one, other in combinations(FILES, 2):
        for name, lines in functions[one]:
            for other_name, other_lines in functions[other]:
                run = shared_run(lines, other_lines)
                if len(run) > LONGEST:
                    long[f"{name} ~ {other_name}"] = run
    assert not long


def test_the_search_finds_a_run() -> None:
    assert shared_run(["a", "b", "c", "d"], ["x", "b", "c", "y", "b", "c", "d"]) == ["b", "c", "d"]
