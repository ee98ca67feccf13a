"""`robot-rl VERB [words] key=value ...`: the one command line.

A verb is a module of this folder with `SUMMARY` and `run(config) -> int`. It is imported when it is asked for, so that
a broken simulator does not keep `robot-rl doctor` from saying so.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

import robot_rl
from robot_rl.apps import help as pages
from robot_rl.apps import schema
from robot_rl.errors import InputError, nearest

FLAGS = ("--help", "--version", "--print-config", "--config-dir")
OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@:-]*=|~[A-Za-z_]")  # key=value, +key=value, ~key
INTERRUPTED = 130


@dataclass(kw_only=True)
class _Words:
    """The command line, sorted."""

    given: list[str]  # all of them, as they stood there
    verb: str | None = None
    positional: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    config_folder: Path | None = None


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    errors = Console(stderr=True)
    try:
        return _dispatch(_sort(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        errors.print(Text.assemble(("robot-rl: ", "bold red"), (str(error), "red")), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print(Text("robot-rl: interrupted.", "yellow"))
        return INTERRUPTED


def _sort(argv: list[str]) -> _Words:
    words = _Words(given=argv)
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--config-dir":
            if not rest:
                raise InputError("--config-dir needs a folder: --config-dir DIR")
            words.config_folder = Path(rest.pop(0))
        elif word.startswith("--config-dir="):
            words.config_folder = Path(word.partition("=")[2])
        elif word in ("-h", "--help") or (word == "help" and words.verb is None):
            words.flags.add("--help")
        elif word in FLAGS or word in schema.SWITCHES:
            words.flags.add(word)
        elif word.startswith("-"):
            near = nearest(word, [*FLAGS, *schema.SWITCHES])
            raise InputError(f"there is no option '{word}': {near}. Settings are written key=value.")
        elif words.verb is None:
            words.verb = word
        elif OVERRIDE.match(word):
            words.overrides.append(word)
        else:
            words.positional.append(word)
    return words


def _dispatch(words: _Words) -> int:
    out = Console()
    if "--version" in words.flags:
        out.print(f"robot-rl {robot_rl.__version__}", highlight=False)
        return 0
    if words.verb is None:
        pages.print_usage(out)
        return 0
    verbs = schema.verbs()
    if words.verb not in verbs:
        close = get_close_matches(words.verb, verbs, n=1, cutoff=0.5)
        guess = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(f"there is no verb '{words.verb}': {guess}Verbs: {', '.join(verbs)}. See `robot-rl --help`.")
    if "--help" in words.flags:
        pages.print_verb(out, words.verb)
        return 0
    return _run(words.verb, words, out)


def _run(verb: str, words: _Words, out: Console) -> int:
    try:
        from robot_rl.apps.compose import as_override, compose, compose_yaml
    except ImportError as error:
        if verb != "doctor":
            raise InputError(
                f"robot_rl cannot be imported here ({error}): `robot-rl doctor` says what to do."
            ) from error
        from robot_rl.apps.doctor import examine

        return examine(strict="strict=true" in words.overrides)
    named = schema.POSITIONAL[verb]
    if len(words.positional) > len(named):
        usage = " ".join(word.upper() for word in named)
        extra = words.positional[len(named)]
        raise InputError(f"'{extra}' is one word too many: `robot-rl {verb} {usage}`; settings are written key=value.")
    given = [as_override(key, word) for key, word in zip(named, words.positional, strict=False)]
    overrides = [*given, *words.overrides, *_switched(verb, words.flags)]
    if "--print-config" in words.flags:
        out.print(Text(compose_yaml(verb, overrides, words.config_folder).rstrip()), soft_wrap=True)
        return 0
    config = compose(verb, overrides, words.config_folder)
    return _load(verb, words.given)(config)


def _switched(verb: str, flags: set[str]) -> list[str]:
    """The settings that flags such as `--check` stand for."""
    given = sorted(flags & set(schema.SWITCHES))
    for flag in given:
        owner, setting, _ = schema.SWITCHES[flag]
        if owner != verb:
            raise InputError(
                f"{flag} belongs to `robot-rl {owner}`, where it means {setting}; {verb} has no such option"
            )
    return [schema.SWITCHES[flag][1] for flag in given]


def _load(verb: str, given: list[str]) -> Callable[[Any], int]:
    """What runs the verb; training also writes down how it was called."""
    match verb:
        case "ingest":
            from robot_rl.apps import ingest

            return ingest.run
        case "inspect":
            from robot_rl.apps import inspect

            return inspect.run
        case "view":
            from robot_rl.apps import view

            return view.run
        case "advise":
            from robot_rl.apps import advise

            return advise.run
        case "edit":
            from robot_rl.apps import edit

            return edit.run
        case "export":
            from robot_rl.apps import export

            return export.run
        case "train":
            from robot_rl.apps import train

            return partial(train.run, words=given)
        case "profile":
            from robot_rl.apps import profile

            return profile.run
        case "pretrain-video":
            from robot_rl.apps import pretrain_video

            return partial(pretrain_video.run, words=given)
        case "label":
            from robot_rl.apps import label

            return partial(label.run, words=given)
        case "evaluate":
            from robot_rl.apps import evaluate

            return evaluate.run
        case "identify":
            from robot_rl.apps import identify

            return identify.run
        case "serve":
            from robot_rl.apps import serve

            return serve.run
        case "distill":
            from robot_rl.apps import distill

            return distill.run
        case "deploy":
            from robot_rl.apps import deploy

            return deploy.run
        case "benchmark":
            from robot_rl.apps import benchmark

            return benchmark.run
        case "doctor":
            from robot_rl.apps import doctor

            return doctor.run
    raise LookupError(f"{verb} is in config.VERB_CONFIGS, but cli._load does not know it")


if __name__ == "__main__":  # torchrun -m robot_rl.apps.cli train ...
    sys.exit(main())
