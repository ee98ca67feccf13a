"""Failures of composition as sentences: what was asked, what was wanted, what is near it.

Hydra and OmegaConf say where a failure is in the text of their exceptions (`full_key`, `object_type`); the meaning of
the place comes from the schema.
"""

import re
from collections.abc import Callable
from difflib import get_close_matches

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # PyYAML ships no types; Hydra lets its errors through

from robot_rl.apps import schema
from robot_rl.errors import InputError, nearest

FAILURES = (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError)
"""What composing can raise. Hydra raises bare ValueErrors, too."""

Keys = Callable[[], list[str]]
"""All dotted keys of the composed configuration, found when a message needs them."""

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list such as [a,b]",
    "dict": "a mapping such as {key: value}",
    "None": "null",
}


def failure(verb: str, error: Exception, keys: Keys) -> str:
    """One sentence or two for an exception of Hydra, OmegaConf or YAML."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = str(error)
    full = f"{text}\n{cause}" if cause is not None else text
    place = _place(verb, text)
    found_key = re.search(r"full_key: (\S+)", full)
    found_class = re.search(r"object_type=(\w+)", full)
    key = found_key[1] if found_key is not None else ""
    class_name = found_class[1] if found_class is not None else ""

    if isinstance(error, MissingConfigException):
        return place + _choice(verb, error)
    if isinstance(error, MissingMandatoryValue):
        return _missing(verb, key, class_name)
    if isinstance(error, YAMLError):
        return f"a YAML file cannot be read: {' '.join(text.split())}"
    if (match := re.match(r"You must specify '([^']+)'", text)) is not None:
        return _must_choose(verb, match[1])
    if (match := re.match(r"Could not override '([^']+)'\.\s+(?:No match|Did you mean)", text)) is not None:
        return f"`robot-rl {verb}` does not choose '{match[1]}': {near(match[1], verb, keys())}"
    if (match := re.match(r"Could not append to config. An item is already at '([^']+)'", text)) is not None:
        return f"'{match[1]}' is a key already: write {match[1]}=VALUE without the +."
    if (match := re.match(r"Multiple values for ([^.\s]+)\.", text)) is not None:
        return f"'{match[1]}' is chosen already: write {match[1]}=NAME without the +."
    if (match := re.match(r"Could not (?:override|delete from config)[^']*'([^']+)'", text)) is not None:
        return _unknown(verb, match[1], key, cause, keys)
    if (match := re.search(r"Interpolation key '([^']+)' not found", full)) is not None:
        return f"{place}{key} refers to '${{{match[1]}}}', and there is no such key."
    if re.search(r"Key '[^']+' (?:not in|is not in)", full):
        siblings = schema.class_fields(class_name)
        hint = nearest(key.split(".")[-1], siblings) if siblings else f"`robot-rl {verb} --help` lists the keys."
        return f"{place}there is no key '{key}': {hint}"
    if key and re.search(r"not a valid|could not be converted|is not Optional|Invalid (?:value|type)|Cannot", full):
        return place + _wrong_type(key, class_name, full)
    return place + " ".join(full.split())


def word(text: str) -> str:
    """For a word that is no override."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip("+~"):
        return f"'{text}' is not of the form key=value, such as seed=3 or environment=NAME."
    return (
        f"the value in '{text}' cannot be read. A list is written [a,b], a mapping {{key: value}}; a value that holds "
        f"any of = , : ( ) [ ] {{ }} % @ as plain text needs quotes inside the shell's: {key}=\"'{value}'\""
    )


def choose(group: str, name: str, options: list[str]) -> None:
    """Refuse a choice of `group` that is not one of `options`.

    Raises:
        InputError: with the nearest option.
    """
    if name not in options:
        raise InputError(_no_choice(group, name, options))


def near(key: str, verb: str, names: list[str]) -> str:
    """The one of `names`, dotted keys, nearest to `key`, and those beside it."""
    parts = key.split(".")
    known = {".".join(name.split(".")[:n]) for name in names for n in range(1, len(parts) + 1)}
    prefixes = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    unknown = next((prefix for prefix in prefixes if prefix not in known), key)  # `replay.foo` of `replay.foo.bar`
    parent, _, leaf = unknown.rpartition(".")
    beside = sorted(name for name in names if name.rpartition(".")[0] == parent)
    leaves = {name.rpartition(".")[2]: name for name in reversed(names)}
    close = get_close_matches(unknown, beside, n=1, cutoff=0.6 if parent == "" else 0.8)
    close = close or [f"{parent}.{n}" for n in get_close_matches(leaf, [n[len(parent) + 1 :] for n in beside], n=1)]
    close = close or get_close_matches(key, names, n=1, cutoff=0.8)
    close = close or [leaves[n] for n in get_close_matches(leaf, leaves, n=1, cutoff=0.8)]
    guess = f"did you mean '{close[0]}'? " if close else ""
    if not beside and parent in schema.groups(verb):
        return f"{guess}Choose {parent}=NAME first: it decides which keys there are."
    return guess + (f"Keys: {', '.join(beside)}." if beside else f"`robot-rl {verb} --help` lists the keys.")


def _place(verb: str, text: str) -> str:
    """The YAML file that the failure is in, where it is not the verb's own."""
    file = re.match(r"In '([^']+)'", text)
    return f"configs/{file[1]}.yaml: " if file is not None and file[1] != verb else ""


def _choice(verb: str, error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"the configuration 'configs/{name}.yaml' of `robot-rl {verb}` is not there: install robot_rl again."
    return _no_choice(group, name, [option for option in error.options or () if not option.endswith("_schema")])


def _no_choice(group: str, name: str, options: list[str]) -> str:
    return f"there is no {group} '{name}': {nearest(name, options)}"


def _must_choose(verb: str, group: str) -> str:
    choices = ", ".join(schema.choices(group))
    return f"'{group}' must be chosen, as in `robot-rl {verb} {group}=NAME`. Choices: {choices or 'none'}"


def _missing(verb: str, key: str, class_name: str) -> str:
    if key in schema.groups(verb) or key in schema.GROUPS:
        return _must_choose(verb, key)
    entry = schema.class_fields(class_name).get(key.split(".")[-1])
    wanted = "a value" if entry is None else _type_words(entry.type)
    meaning = f" ({entry.text})" if entry is not None and entry.text else ""
    words = schema.POSITIONAL[verb]
    as_words, as_setting = " ".join(name.upper() for name in words), f"... {key}={key.split('.')[-1].upper()}"
    example = as_words if key in words else as_setting
    return f"'{key}' is missing{meaning}: give {wanted}, as in `robot-rl {verb} {example}`."


def _unknown(verb: str, asked: str, key: str, cause: BaseException | None, keys: Keys) -> str:
    """A key that the composed configuration does not have."""
    asked = key if key.startswith(f"{asked}.") else asked  # `replay={discont: 0.9}` asks for `replay.discont`
    open_mapping = re.search(r"reference_type=Dict\[str, (\w+)\]", str(cause))
    sentence = f"there is no key '{asked}': {near(asked, verb, keys())}"
    if open_mapping is not None:
        required = [n for n, field in schema.class_fields(open_mapping[1]).items() if field.default is None]
        added = ".".join([key, *required[:1]])
        sentence += f" To add an entry write '+{added}=VALUE'."
    return sentence


def _wrong_type(key: str, class_name: str, text: str) -> str:
    entry = schema.class_fields(class_name).get(key.split(".")[-1])
    wanted = "of another type" if entry is None else _type_words(entry.type)
    value = re.search(r"Value '([^']*)'", text) or re.search(r"Error merging override \S+?=(.*)", text)
    found = "null" if "is not Optional" in text else (f"'{value[1]}'" if value is not None else "the value")
    return f"{key}: {found} does not fit, it must be {wanted}."


def _type_words(annotation: str) -> str:
    """`list[float] | None` in words."""
    parts = (part.strip().partition("[")[0] for part in annotation.split("|"))
    return " or ".join(TYPES.get(part, TYPES["dict"]) for part in parts)
