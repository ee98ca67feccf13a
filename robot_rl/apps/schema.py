"""The configuration schema as its source says it: keys, types, defaults and the words behind each field.

Help and error messages are made from this. It reads the files with `ast` and `tokenize` instead of importing them, so
that `robot-rl --help` neither drifts from `config.py` nor waits for torch.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # PyYAML ships no types; Hydra brings it

import robot_rl

ROOT = Path(robot_rl.__file__).parent
CONFIGS = ROOT / "configs"
GROUPS = {
    "environment": "ENVIRONMENT_CONFIGS",
    "algorithm": "ALGORITHM_CONFIGS",
    "objective": "OBJECTIVE_CONFIGS",
    "label": "LABEL_CONFIGS",
}

POSITIONAL = {
    "ingest": ("source", "store"),
    "inspect": ("store",),
    "view": ("store",),
    "advise": ("store",),
    "edit": ("operation", "store"),
    "export": ("source", "target"),
    "train": ("experiment",),
    "profile": ("experiment",),
    "pretrain-video": ("path",),
    "label": ("store",),
    "evaluate": ("run",),
    "identify": ("data",),
    "serve": ("run",),
    "distill": ("run",),
    "deploy": ("run",),
    "benchmark": (),
    "doctor": (),
}
"""The keys that the words without `=` stand for, in order."""
SWITCHES = {
    "--check": ("inspect", "check=true", "print only the findings; exit with 1 where one is an error or a warning"),
    "--fix": ("inspect", "fix=true", "repair the store in place where that can be done, and say what was done"),
}
"""Words that stand for a setting: of which verb, which setting, and what it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a config dataclass."""

    name: str
    type: str  # as written
    default: str | None  # as YAML; None: it must be given
    text: str  # the comment or docstring behind it
    nested: str | None  # name of the config class that its type mentions
    mapping: bool  # the nested class is the value type of a dict
    path: Path  # the file that it stands in: a base class may stand in another than the class


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One dotted key of a verb, such as `replay.discount` or `phases.<name>.steps`."""

    name: str
    field: Field


@dataclass(frozen=True, slots=True)
class _Source:
    tree: ast.Module
    comments: dict[int, str]  # line number to the comment that ends it


@cache
def _source(path: Path) -> _Source:
    text = path.read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    return _Source(ast.parse(text), comments)


def _module_path(module: str) -> Path:
    parts = module.split(".")[1:]  # without `robot_rl`
    file = ROOT.joinpath(*parts).with_suffix(".py") if parts else ROOT / "__init__.py"
    return file if file.is_file() else ROOT.joinpath(*parts, "__init__.py")


def _imported_from(tree: ast.Module, name: str) -> Path | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("robot_rl"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _module_path(node.module)
    return None


def _find_class(path: Path, name: str) -> tuple[Path, ast.ClassDef] | None:
    """The class `name` as seen from the file `path`: defined there, or imported there from ours."""
    tree = _source(path).tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return path, node
    origin = _imported_from(tree, name)
    return None if origin is None else _find_class(origin, name)


def _find_dict(path: Path, name: str) -> tuple[Path, ast.Dict]:
    """The dict literal assigned to the module-level `name`, as seen from `path`."""
    tree = _source(path).tree
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return path, value
    origin = _imported_from(tree, name)
    if origin is None:
        raise LookupError(f"{path}: no dict literal is assigned to {name}")
    return _find_dict(origin, name)


def _classes(registry: str) -> dict[str, tuple[Path, ast.ClassDef]]:
    """The classes of a registry of config.py, by the name they are registered under."""
    path, literal = _find_dict(ROOT / "config.py", registry)
    found: dict[str, tuple[Path, ast.ClassDef]] = {}
    for key, value in zip(literal.keys, literal.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(value, ast.Name):
            located = _find_class(path, value.id)
            if located is not None:
                found[str(key.value)] = located
    return found


def _as_yaml(node: ast.expr | None) -> str | None:
    """A default in the words of YAML; None where the field has none."""
    match node:
        case None | ast.Name(id="MISSING"):
            return None
        case ast.Constant(value=str(text)):
            return text
        case ast.Constant(value=None):
            return "null"
        case ast.Constant(value=bool(value)):
            return "true" if value else "false"
        case ast.Call(func=ast.Name(id="field"), keywords=keywords):
            given = {k.arg: k.value for k in keywords}
            if "default" in given:
                return _as_yaml(given["default"])
            match given.get("default_factory"):
                case ast.Lambda(body=body):
                    return ast.unparse(body)
                case ast.Name(id="dict"):
                    return "{}"
                case ast.Name(id="list"):
                    return "[]"
                case ast.Name(id=name):
                    return f"{name}()"
    return ast.unparse(node)


def fields(located: tuple[Path, ast.ClassDef]) -> list[Field]:
    """The fields of a config class, in order, those of its bases first."""
    path, node = located
    source = _source(path)
    found: list[Field] = []
    for base in node.bases:
        above = _find_class(path, base.id) if isinstance(base, ast.Name) else None
        found += fields(above) if above is not None else []
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if ast.unparse(statement.annotation).startswith("ClassVar"):
            continue
        if statement.value is not None and statement.lineno != statement.value.lineno:
            lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
        else:
            lines = range(statement.lineno, statement.lineno + 1)
        text = " ".join(source.comments[line] for line in lines if line in source.comments)
        match following:
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                text = " ".join([text, *docstring.split()]).strip()
        names = [n.id for n in ast.walk(statement.annotation) if isinstance(n, ast.Name)]
        nested = next((n for n in names if n[0].isupper() and _find_class(path, n) is not None), None)
        found.append(
            Field(
                name=statement.target.id,
                type=ast.unparse(statement.annotation),
                default=_as_yaml(statement.value),
                text=text,
                nested=nested,
                mapping=nested is not None and names[0] == "dict",
                path=path,
            )
        )
    return found


def _keys(located: tuple[Path, ast.ClassDef], prefix: str) -> Iterator[Key]:
    for entry in fields(located):
        inner = None if entry.nested is None else _find_class(entry.path, entry.nested)
        if inner is None:
            yield Key(name=prefix + entry.name, field=entry)
            continue
        if entry.mapping or entry.default == "null":
            yield Key(name=prefix + entry.name, field=entry)
        yield from _keys(inner, f"{prefix}{entry.name}.{'<name>.' if entry.mapping else ''}")


def verbs() -> list[str]:
    """The verbs of the command line, in the order of `config.VERB_CONFIGS`."""
    return list(_classes("VERB_CONFIGS"))


def verb_keys(verb: str) -> list[Key]:
    """Every key of a verb, nested ones with their full dotted name, with the defaults and comments of its YAML."""
    given, comments = _verb_yaml(verb)
    keys = []
    for key in _keys(_classes("VERB_CONFIGS")[verb], ""):
        default = _yaml_value(given[key.name]) if key.name in given else key.field.default
        text = ". ".join(filter(None, [key.field.text, comments.get(key.name, "")]))
        keys.append(replace(key, field=replace(key.field, default=default, text=text)))
    return keys


def _verb_yaml(verb: str) -> tuple[dict[str, object], dict[str, str]]:
    """What `configs/VERB.yaml` sets, by dotted key, and the comment above each of its top-level keys."""
    path = CONFIGS / f"{verb}.yaml"
    if not path.is_file():
        return {}, {}
    text = path.read_text(encoding="utf-8")
    comments: dict[str, str] = {}
    above: list[str] = []
    for line in text.splitlines():
        name = re.match(r"(\w+):", line)
        if name is not None:
            comments[name[1]] = " ".join(above)
        above = [*above, line.lstrip("# ")] if line.startswith("#") else []
    comments.pop("defaults", None)
    return dict(_leaves({key: value for key, value in yaml.safe_load(text).items() if key != "defaults"}, "")), comments


def _leaves(node: dict[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _yaml_value(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True)
    return text.removesuffix("...\n").strip()


def kind_keys(group: str) -> dict[str, list[Key]]:
    """Every kind of a group (`environment`, `algorithm`) with its keys."""
    return {kind: list(_keys(located, f"{group}.")) for kind, located in _classes(GROUPS[group]).items()}


def class_fields(name: str) -> dict[str, Field]:
    """The fields of a config class by its name, wherever the schema uses it; empty if it does not."""
    roots = [located for registry in ("VERB_CONFIGS", *GROUPS.values()) for located in _classes(registry).values()]
    seen: set[str] = set()
    while roots:
        path, node = roots.pop()
        if node.name == name:
            return {entry.name: entry for entry in fields((path, node))}
        for entry in fields((path, node)):
            inner = None if entry.nested is None or entry.nested in seen else _find_class(entry.path, entry.nested)
            if inner is not None:
                seen.add(inner[1].name)
                roots.append(inner)
    return {}


def choices(group: str) -> dict[str, str]:
    """The YAML files of a group, by name, each with the first sentence of its comment, or else its first settings."""
    found: dict[str, str] = {}
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        lines = (line for line in text.splitlines() if line.strip() and not line.startswith("# @package"))
        comment = " ".join(line.lstrip("# ").rstrip() for line in takewhile(lambda line: line.startswith("#"), lines))
        found[path.stem] = re.split(r"(?<=[^.]\.)\s(?=[A-Z])", comment)[0] if comment else _first_settings(text)
    return found


def experiment_data(name: str) -> list[str]:
    """The stores that an experiment reads: `datasets.*.path` of its YAML and of the `dataset` files that it chooses."""
    content = yaml.safe_load((CONFIGS / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    chosen = [entry["override /dataset"] for entry in content.get("defaults", []) if "override /dataset" in entry]
    paths = [yaml.safe_load((CONFIGS / "dataset" / f"{item}.yaml").read_text("utf-8")).get("path") for item in chosen]
    paths += [entry.get("path") for entry in content.get("datasets", {}).values()]
    return [path for path in paths if path is not None]


def _first_settings(text: str) -> str:
    settings = {key: value for key, value in (yaml.safe_load(text) or {}).items() if not isinstance(value, dict | list)}
    return " ".join(f"{key}={value}" for key, value in list(settings.items())[:3])


def groups(verb: str) -> list[str]:
    """The groups that a verb's YAML chooses from: the entries of its defaults list that have a name and a choice."""
    path = CONFIGS / f"{verb}.yaml"
    defaults = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}).get("defaults", [])
    names = [name.split()[-1] for entry in defaults if isinstance(entry, dict) for name in entry]
    return sorted(names, key=lambda name: name != "experiment")  # an experiment chooses the others


def summary(verb: str) -> str:
    """The `SUMMARY` line of a verb's module."""
    path = ROOT / "apps" / f"{verb.replace('-', '_')}.py"
    for node in _source(path).tree.body if path.is_file() else []:
        match node:
            case ast.Assign(targets=[ast.Name(id="SUMMARY")], value=ast.Constant(value=str(text))):
                return text
            case ast.AnnAssign(target=ast.Name(id="SUMMARY"), value=ast.Constant(value=str(text))):
                return text
    return ast.get_docstring(_classes("VERB_CONFIGS")[verb][1]) or ""
