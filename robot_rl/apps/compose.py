"""From words on the command line to a config dataclass; whatever is wrong with them becomes a sentence.

Hydra composes the verb's YAML with the overrides, `OmegaConf.to_object` turns the result into dataclasses once, and
past this file there is no DictConfig.
"""

import dataclasses
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # PyYAML ships no types, Hydra raises its errors

from robot_rl import config as schema_module
from robot_rl.apps import schema
from robot_rl.errors import InputError, nearest

QUOTES = ("'", '"')
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list such as [a,b]",
    "dict": "a mapping such as {key: value}",
    "None": "null",
}


def compose(verb: str, overrides: list[str], config_folder: Path | None = None) -> Any:
    """The config dataclass of a verb.

    Args:
        verb: a key of `config.VERB_CONFIGS`.
        overrides: Hydra overrides, such as `seed=3` or `environment=lift`.
        config_folder: a folder of YAML searched besides ours, laid out like `configs/`.

    Raises:
        InputError: saying which word is wrong, what was wanted and what is near it.
    """
    composed = _compose(verb, overrides, config_folder)
    try:
        return OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise InputError(_explain(verb, overrides, error)) from error


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
    schema_module.register()
    _check_words(verb, overrides)
    search = []
    if config_folder is not None:
        if not config_folder.is_dir():
            raise InputError(f"--config-dir {config_folder} is not a folder: give one laid out like configs/")
        search = [f"hydra.searchpath=[{_quote(f'file://{config_folder.resolve()}')}]"]
    try:
        with hydra.initialize_config_module("robot_rl.configs", version_base="1.3"):
            composed = hydra.compose(config_name=verb, overrides=[*search, *overrides])
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_explain(verb, overrides, error)) from error
    _refuse_unknown(composed, "")
    return composed


def _parse(words: list[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for word in words:
        try:
            parsed += parser.parse_overrides([word])
        except (OverrideParseException, HydraException) as error:
            raise InputError(_explain_word(word)) from error
    return parsed


def _check_words(verb: str, overrides: list[str]) -> None:
    """Refuse words that are no override, and first names that the verb does not have.

    Hydra would name a missing group first, and would set `+unknown=1` without a word.
    """
    groups = schema.groups(verb)
    names = {key.name.split(".")[0] for key in schema.verb_keys(verb)} | set(groups)
    for override in _parse(overrides):
        text, key = override.input_line or "", override.key_or_group
        first = re.split(r"[./]", key)[0]
        if key == "":
            raise InputError(_explain_word(text))
        if override.is_sweep_override():
            raise InputError(
                f"'{text}' gives several values. For a list write {key}=[a,b]; for text that holds a comma "
                f"write {key}=\"'a,b'\"; to try several values run the command once for each."
            )
        if first not in names and override.package is None and first != "hydra":
            raise InputError(f"`robot-rl {verb}` has no key '{key}': {_near(key, verb, overrides)}")


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


def _explain(verb: str, overrides: list[str], error: BaseException) -> str:
    """One sentence or two for an exception of Hydra, OmegaConf or YAML."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text, full = str(error), f"{error}\n{cause}" if cause is not None else str(error)
    file = re.match(r"In '([^']+)'", text)
    place = f"configs/{file[1]}.yaml: " if file is not None else ""
    found_key = re.search(r"full_key: (\S+)", full)
    found_class = re.search(r"object_type=(\w+)", full)
    key = found_key[1] if found_key is not None else ""
    class_name = found_class[1] if found_class is not None else ""

    if isinstance(error, MissingConfigException):
        return _explain_choice(verb, error)
    if (unset := re.match(r"You must specify '([^']+)'", text)) is not None:
        return f"'{unset[1]}' must be chosen, as in `robot-rl {verb} {unset[1]}=NAME`. {_options(unset[1], text)}"
    if isinstance(error, MissingMandatoryValue):
        return _explain_missing(verb, key, class_name)
    if isinstance(error, YAMLError):
        return f"a YAML file cannot be read: {' '.join(text.split())}"
    if (unmatched := re.match(r"Could not override '([^']+)'\.\s+No match in the defaults list", text)) is not None:
        return f"`robot-rl {verb}` does not choose '{unmatched[1]}': {_near(unmatched[1], verb, overrides)}"
    if (present := re.match(r"Could not append to config. An item is already at '([^']+)'", text)) is not None:
        return f"'{present[1]}' is a key already: write {present[1]}=VALUE without the +."
    if (absent := re.match(r"Could not (?:override|delete from config)[^']*'([^']+)'", text)) is not None:
        return _explain_unknown(verb, overrides, absent[1], key, cause)
    if re.search(r"Key '[^']+' (?:not in|is not in)", full):
        siblings = schema.class_fields(class_name)
        hint = nearest(key.split(".")[-1], siblings) if siblings else "the schema has no such key."
        return f"{place}there is no key '{key}': {hint}"
    if key and re.search(r"not a valid|could not be converted|is not Optional|Invalid (?:value|type)|Cannot", full):
        return place + _explain_type(key, class_name, full)
    return place + " ".join(full.split())


def _explain_word(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals or not key.strip("+~"):
        return f"'{word}' is not of the form key=value, such as seed=3 or environment=NAME."
    return (
        f"the value in '{word}' cannot be read. A list is written [a,b], a mapping {{key: value}}; a value that holds "
        f"any of = , : ( ) [ ] {{ }} % @ as plain text needs quotes inside the shell's: {key}=\"'{value}'\""
    )


def _options(group: str, text: str) -> str:
    names = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
    return (
        f"Choices: {', '.join(n for n in names if not n.endswith('_schema'))}"
        if names
        else nearest("", schema.choices(group))
    )


def _explain_choice(verb: str, error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    file = re.match(r"In '([^']+)'", str(error))
    place = f"configs/{file[1]}.yaml: " if file is not None and file[1] != verb else ""
    if not group:
        return f"the configuration 'configs/{name}.yaml' of `robot-rl {verb}` is not there: install robot_rl again."
    options = [option for option in error.options or () if not option.endswith("_schema")]
    return f"{place}there is no {group} '{name}': {nearest(name, options)}"


def _explain_missing(verb: str, key: str, class_name: str) -> str:
    group = key if key in schema.GROUPS else None
    if group is not None:
        return (
            f"'{key}' must be chosen, as in `robot-rl {verb} {key}=NAME`. "
            f"Choices: {', '.join(schema.choices(group)) or 'none'}"
        )
    entry = schema.class_fields(class_name).get(key.split(".")[-1])
    wanted = "a value" if entry is None else _type_words(entry.type)
    meaning = f" ({entry.text})" if entry is not None and entry.text else ""
    example = key.split(".")[-1].upper()
    return f"'{key}' is missing{meaning}: give {wanted}, as in `robot-rl {verb} ... {key}={example}`."


def _explain_unknown(verb: str, overrides: list[str], asked: str, key: str, cause: BaseException | None) -> str:
    """A key that the composed configuration does not have."""
    open_mapping = re.search(r"reference_type=Dict\[str, (\w+)\]", str(cause)) if cause is not None else None
    sentence = f"there is no key '{asked}': {_near(asked, verb, overrides)}"
    if open_mapping is not None:
        inner = schema.class_fields(open_mapping[1])
        value = "{" + ", ".join(f"{n}: ..." for n, f in inner.items() if f.default is None) + "}" if inner else "VALUE"
        sentence += f" To add an entry write '+{key}={value}'."
    return sentence


def _explain_type(key: str, class_name: str, text: str) -> str:
    entry = schema.class_fields(class_name).get(key.split(".")[-1])
    wanted = "another type" if entry is None else _type_words(entry.type)
    value = re.search(r"Value '([^']*)'", text) or re.search(r"Error merging override \S+?=(.*)", text)
    found = "null" if "is not Optional" in text else (f"'{value[1]}'" if value is not None else "the value")
    return f"{key}: {found} does not fit, it must be {wanted}."


def _type_words(annotation: str) -> str:
    """`list[float] | None` in words."""
    parts = (part.strip() for part in annotation.split("|"))
    return " or ".join(TYPES.get(part.partition("[")[0], part) for part in parts)


def _near(key: str, verb: str, overrides: list[str]) -> str:
    """The key nearest to `key`, and those beside it."""
    names = _all_keys(verb, overrides)
    parent, _, leaf = key.rpartition(".")
    beside = sorted(name for name in names if name.rpartition(".")[0] == parent)
    leaves = {name.rpartition(".")[2]: name for name in reversed(names)}
    close = get_close_matches(key, beside, n=1, cutoff=0.6 if parent == "" else 0.8)
    close = close or [
        f"{parent}.{near}" for near in get_close_matches(leaf, [n[len(parent) + 1 :] for n in beside], n=1)
    ]
    close = close or get_close_matches(key, names, n=1, cutoff=0.8)
    close = close or [leaves[near] for near in get_close_matches(leaf, leaves, n=1, cutoff=0.8)]
    guess = f"did you mean '{close[0]}'? " if close else ""
    if not beside and parent in schema.groups(verb):
        return f"{guess}Choose {parent}=NAME first: it decides which keys there are."
    return guess + (f"Keys: {', '.join(beside)}." if beside else f"`robot-rl {verb} --help` lists the keys.")


def _all_keys(verb: str, overrides: list[str]) -> list[str]:
    """Every dotted key of the verb once its groups are chosen as far as `overrides` choose them."""
    groups = schema.groups(verb)
    names = [*groups, *(key.name for key in schema.verb_keys(verb) if "<" not in key.name)]
    chosen = [word for word in overrides if word.lstrip("+").partition("=")[0] in groups]
    try:
        with hydra.initialize_config_module("robot_rl.configs", version_base="1.3"):
            composed = hydra.compose(config_name=verb, overrides=chosen)
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError):  # the message then has fewer names
        return list(dict.fromkeys(names))
    return list(dict.fromkeys([*names, *_dotted(composed, "")]))


def _dotted(node: DictConfig, prefix: str) -> list[str]:
    names = []
    for name in map(str, node):
        names.append(f"{prefix}{name}")
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        if isinstance(node[name], DictConfig):
            names += _dotted(node[name], f"{prefix}{name}.")
    return names
