"""From words on the command line to a config dataclass; whatever is wrong with them becomes a sentence.

Hydra composes the verb's YAML with the overrides, `OmegaConf.to_object` turns the result into dataclasses once, and
past this file there is no DictConfig.
"""

import contextlib
import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from robot_rl import config, data_config, sim_config
from robot_rl.apps import explain, schema
from robot_rl.errors import InputError, nearest

QUOTES = ("'", '"')
SHORT = {"robot": "environment.robot"}
"""Keys that may be written without what they stand in."""


def compose(verb: str, overrides: list[str], config_folder: Path | None = None) -> Any:
    """The config dataclass of a verb.

    Args:
        verb: a key of `config.VERB_CONFIGS`.
        overrides: Hydra overrides, such as `seed=3` or `environment=lift`. Beyond Hydra's, `+datasets.NAME.path=...`
            adds an entry to a mapping of dataclasses.
        config_folder: a folder of YAML searched besides ours, laid out like `configs/`.

    Raises:
        InputError: saying which word is wrong, what was wanted and what is near it.
    """
    composed = _compose(verb, overrides, config_folder)
    try:
        return OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise InputError(explain.failure(verb, error, list)) from error


def compose_yaml(verb: str, overrides: list[str], config_folder: Path | None = None) -> str:
    """What `compose` would turn into dataclasses, as YAML; missing values are shown as `???`."""
    return OmegaConf.to_yaml(_compose(verb, overrides, config_folder))


def as_override(key: str, word: str) -> str:
    """A word of the command line as an override of `key`, literally, whatever characters it has.

    A word that has quotes round it already, and the name of an experiment, stay as they are.
    """
    return f"{key}={word if key == 'experiment' or word[:1] in QUOTES else _quote(word)}"


def _quote(value: str) -> str:
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _compose(verb: str, overrides: list[str], config_folder: Path | None) -> DictConfig:
    config.register()
    overrides = [_in_full(word) for word in overrides]
    search = []
    if config_folder is not None:
        if not config_folder.is_dir():
            raise InputError(f"--config-dir {config_folder} is not a folder: give one laid out like configs/")
        search = [f"hydra.searchpath=[{_quote(f'file://{config_folder.resolve()}')}]"]

    def keys() -> list[str]:  # for error messages only: it composes once more
        return _all_keys(verb, overrides, search)

    parsed = _parse(overrides)
    _check_words(verb, parsed, config_folder, keys)
    entries = _entry_overrides(verb, parsed)
    mappings = [override for override in parsed if override not in entries and _replaces_mapping(verb, override)]
    words = [word for word, override in zip(overrides, parsed, strict=True) if override not in [*entries, *mappings]]
    try:
        composed = _run_hydra(verb, [*search, *words])
        for override in entries:
            _apply_to_entry(verb, composed, override)
        for override in mappings:
            with open_dict(composed):
                OmegaConf.update(composed, override.key_or_group, override.value(), merge=False)
    except InputError:
        raise
    except explain.FAILURES as error:
        raise InputError(explain.failure(verb, error, keys)) from error
    _refuse_unknown(composed, "")
    return composed


def _in_full(word: str) -> str:
    key, sign, value = word.partition("=")
    return f"{SHORT[key]}={value}" if sign and key in SHORT else word


def _run_hydra(verb: str, overrides: list[str]) -> DictConfig:
    with hydra.initialize_config_module("robot_rl.configs", version_base="1.3"):
        return hydra.compose(config_name=verb, overrides=overrides)


def _parse(words: list[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for word in words:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException as error:
            raise InputError(explain.word(word)) from error
    return parsed


def _check_words(verb: str, overrides: list[Override], config_folder: Path | None, keys: explain.Keys) -> None:
    """Refuse words that are no override, first names that the verb does not have, and choices that are not there.

    Hydra would name a missing group first, would set `+unknown=1` without a word, and would pass over an unknown choice
    of an optional group.
    """
    groups = schema.groups(verb)
    names = {key.name.split(".")[0] for key in schema.verb_keys(verb)} | set(groups)
    for override in overrides:
        text, key = override.input_line or "", override.key_or_group
        if key == "":
            raise InputError(explain.word(text))
        if override.is_sweep_override():
            raise InputError(
                f"'{text}' gives several values. For a list write {key}=[a,b]; for text that holds a comma "
                f"write {key}=\"'a,b'\"; to try several values run the command once for each."
            )
        if re.split(r"[./]", key)[0] not in names | {"hydra"} and override.package is None:
            raise InputError(f"`robot-rl {verb}` has no key '{key}': {explain.near(key, verb, keys())}")
        chosen = override.value()
        if key in groups and isinstance(chosen, str) and not chosen.endswith("_schema"):
            theirs = [path.stem for path in (config_folder / key).glob("*.yaml")] if config_folder is not None else []
            explain.choose(key, chosen, [*schema.choices(key), *theirs])


def _entry_overrides(verb: str, overrides: list[Override]) -> list[Override]:
    """Those that add an entry to a mapping of dataclasses, or set what they added: Hydra refuses them.

    Such as `+datasets.mine.path=data/mine`, or `+phases.more={steps: 1000}`.
    """
    mappings = _entry_classes(verb)
    added: set[tuple[str, ...]] = set()
    found = []
    for override in overrides:
        entry = tuple(override.key_or_group.split(".")[:2])
        if entry[0] in mappings and len(entry) == 2:
            if override.is_add() or override.is_force_add():
                added.add(entry)
            if entry in added and not override.is_delete():
                found.append(override)
    return found


def _replaces_mapping(verb: str, override: Override) -> bool:
    """Whether it gives a whole `{...}` to a setting that maps free names to values, such as a phase's `shares`.

    Hydra would merge it into what is there, and refuse names that are not; a person who writes all of it means all.
    """
    path, _, name = override.key_or_group.rpartition(".")
    free = name in (_free_mappings() if path else _free_fields(config.VERB_CONFIGS[verb]))
    return free and isinstance(override.value(), dict) and not override.is_delete()


def _free_mappings() -> set[str]:
    classes = [
        item for module in (config, data_config, sim_config) for item in vars(module).values() if isinstance(item, type)
    ]
    return {name for item in classes if dataclasses.is_dataclass(item) for name in _free_fields(item)}


def _free_fields(kind: type) -> set[str]:
    hints = typing.get_type_hints(kind).items()
    return {name for name, hint in hints if hint in (dict[str, Any], dict[str, float], dict[str, list[str]])}


def _entry_classes(verb: str) -> dict[str, type]:
    """Fields of the verb's config that map names to dataclasses, each with the class."""
    found = {}
    for name, hint in typing.get_type_hints(config.VERB_CONFIGS[verb]).items():
        arguments = typing.get_args(hint)
        if (
            typing.get_origin(hint) is dict
            and isinstance(arguments[1], type)
            and dataclasses.is_dataclass(arguments[1])
        ):
            found[name] = arguments[1]
    return found


def _apply_to_entry(verb: str, composed: DictConfig, override: Override) -> None:
    field, name, *rest = override.key_or_group.split(".")
    node = composed[field]
    if name not in node:
        with open_dict(node):
            node[name] = OmegaConf.structured(_entry_classes(verb)[field])
    add = override.is_add() or override.is_force_add()
    free = any(part in _free_mappings() for part in rest)
    with open_dict(node) if free else contextlib.nullcontext():
        OmegaConf.update(composed, ".".join([field, name, *rest]), override.value(), merge=True, force_add=add)


def _refuse_unknown(node: DictConfig, prefix: str) -> None:
    """Refuse keys that `+key=value` put where the schema has none: `to_object` would drop them silently."""
    kind = OmegaConf.get_type(node)
    known = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else None
    for name in map(str, node):
        if known is not None and name not in known:
            raise InputError(f"there is no key '{prefix}{name}': {nearest(name, known)}")
        if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            inner = node[name]
            if isinstance(inner, DictConfig):
                _refuse_unknown(inner, f"{prefix}{name}.")


def _all_keys(verb: str, overrides: list[str], search: list[str]) -> list[str]:
    """Every dotted key of the verb once its groups are chosen as far as `overrides` choose them."""
    groups = schema.groups(verb)
    names = [*groups, *(key.name for key in schema.verb_keys(verb) if "<" not in key.name)]
    names += [key.name.partition(".")[0] for key in schema.verb_keys(verb)]
    chosen = [word for word in overrides if word.lstrip("+").partition("=")[0] in groups]
    with contextlib.suppress(*explain.FAILURES):  # a choice may be wrong too: then go without the keys that it brings
        names += _dotted(_run_hydra(verb, [*search, *chosen]), "")
    return list(dict.fromkeys(names))


def _dotted(node: DictConfig, prefix: str) -> list[str]:
    names = []
    for name in map(str, node):
        names.append(f"{prefix}{name}")
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        if isinstance(node[name], DictConfig):
            names += _dotted(node[name], f"{prefix}{name}.")
    return names
