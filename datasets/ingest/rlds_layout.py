"""Which feature of an RLDS data set is what: observation, action, extra, text, or a fact about the episode."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from robot_rl.datasets.ingest.base import FLAT_KEY
from robot_rl.datasets.ingest.rlds_features import IMAGE, TENSOR, TEXT, Leaf, row_lengths
from robot_rl.datasets.ingest.tfrecord import Example
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

OBSERVATION, ACTION, REWARD = "steps/observation", "steps/action", "steps/reward"
IS_LAST, IS_TERMINAL = "steps/is_last", "steps/is_terminal"
USED = (REWARD, IS_LAST, IS_TERMINAL, "steps/is_first")
WIDEST = 4096  # numbers in a row that is padded


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which feature is what."""

    observation: dict[str, Leaf]
    action: list[Leaf]
    extras: dict[str, Leaf]
    texts: dict[str, Leaf]  # of each step
    metadata: dict[str, Leaf]  # of the episode
    flags: dict[str, Leaf]  # those of USED

    @property
    def reward(self) -> bool:
        """There is a reward."""
        return REWARD in self.flags

    @property
    def ends(self) -> bool:
        """It is said where an episode ends."""
        return IS_LAST in self.flags or IS_TERMINAL in self.flags

    @property
    def per_step(self) -> list[Leaf]:
        """Features with values for each step, those first that tell the number of steps most surely."""
        named = [*self.observation.values(), *self.action, *self.extras.values(), *self.texts.values()]
        return [*self.flags.values(), *named]


def make_layout(leaves: list[Leaf], unknown: list[str], path: Path) -> tuple[Layout, list[Finding]]:
    """Sort the features by what they are.

    Without features below `steps/observation`, those of the steps that are nothing else are the observation. Numbers
    that are no observation, such as `language_embedding` and `discount`, are extras.

    Raises:
        InputError: there are no steps, or nothing to observe.
    """
    steps = [leaf for leaf in leaves if leaf.per_step]
    if not steps:
        names = ", ".join(
            [leaf.name for leaf in leaves[:12]] + [f"'{name}' of an unknown kind" for name in unknown[:12]]
        )
        raise InputError(f"{path} has no features below 'steps', so no episodes; it has {names}")
    nested = any(leaf.name == OBSERVATION or leaf.name.startswith(f"{OBSERVATION}/") for leaf in steps)
    flags = {leaf.name: leaf for leaf in steps if leaf.name in USED and leaf.kind == TENSOR and leaf.levels == 1}
    ignored = [f"{name} (unknown kind)" for name in unknown]
    observation, action, extras, texts = {}, [], {}, {}
    for leaf in steps:
        name = leaf.name.removeprefix("steps/")
        if leaf.name in flags:
            continue
        if 0 in leaf.shape:
            ignored.append(f"{name} (no numbers)")
        elif leaf.kind != TENSOR and (leaf.levels > 1 or (leaf.kind == TEXT and leaf.shape)):
            ignored.append(f"{name} (several {leaf.kind}s in a step)")
        elif leaf.levels > 1 and leaf.encoding != "none":
            ignored.append(f"{name} (encoded numbers in a sequence of each step)")
        elif leaf.kind == TEXT:
            texts[name.removeprefix("observation/")] = leaf
        elif leaf.kind == TENSOR and (leaf.name == ACTION or leaf.name.startswith(f"{ACTION}/")):
            action.append(leaf)
        elif leaf.name == OBSERVATION:
            observation[FLAT_KEY] = leaf
        elif leaf.name.startswith(f"{OBSERVATION}/"):
            observation[name.removeprefix("observation/")] = leaf
        elif not nested and name != "discount":
            observation[name] = leaf
        elif leaf.kind == IMAGE:
            ignored.append(f"{name} (an image that is no observation)")
        else:
            extras[name] = leaf
    parts = action
    if len(action) > 1 and any(leaf.dtype.startswith("float") for leaf in action):
        parts = [leaf for leaf in action if leaf.dtype.startswith("float")]
        extras |= {leaf.name.removeprefix("steps/"): leaf for leaf in action if leaf not in parts}
    metadata = {}
    for leaf in leaves:
        if not leaf.per_step:
            if leaf.kind == IMAGE or leaf.levels > 1 or leaf.encoding != "none":
                ignored.append(f"{leaf.name} (neither numbers nor text of an episode)")
            else:
                metadata[leaf.name.removeprefix("episode_metadata/")] = leaf
    if not observation:
        raise InputError(f"{path} has no images or numbers below '{OBSERVATION}': nothing to store")
    findings = []
    if len(parts) > 1:
        text = f"the action is {len(parts)} features one behind the other: " + ", ".join(
            leaf.name.removeprefix(f"{ACTION}/") for leaf in parts
        )
        others = [leaf.name.removeprefix(f"{ACTION}/") for leaf in action if leaf not in parts]
        text += f"; {', '.join(others)} are integers and become extras" if others else ""
        findings.append(Finding(severity="information", place=path.name, text=text))
    if ignored:
        text = f"features that are not stored: {', '.join(ignored)}"
        findings.append(Finding(severity="warning", place=path.name, text=text))
    layout = Layout(observation=observation, action=parts, extras=extras, texts=texts, metadata=metadata, flags=flags)
    return layout, findings


class Widths:
    """How long the rows of ragged features are, over all episodes."""

    def __init__(self, layout: Layout) -> None:
        self.leaves = [leaf for leaf in layout.per_step if leaf.levels == 2 and leaf.kind == TENSOR]
        self.shortest: dict[str, int] = {}
        self.longest: dict[str, int] = {}

    def add(self, example: Example) -> None:
        """One episode.

        Raises:
            InputError: its lengths are damaged.
        """
        for leaf in self.leaves:
            lengths = row_lengths(leaf, example, 0)
            if lengths is not None and len(lengths):
                values = len(example.get(f"{leaf.name}/ragged_flat_values", ()))
                if sum(lengths.tolist()) > values:
                    raise InputError(f"{example.place}: feature '{leaf.name}' has {values} values, fewer than its rows")
                least, most = int(lengths.min()), int(lengths.max())
                self.shortest[leaf.name] = min(least, self.shortest.get(leaf.name, least))
                self.longest[leaf.name] = max(most, self.longest.get(leaf.name, most))

    def padded(self) -> dict[str, int]:
        """Width by name of those whose rows differ."""
        return {name: width for name, width in self.longest.items() if width != self.shortest[name]}


def without_wide(layout: Layout, padded: Mapping[str, int]) -> tuple[Layout, dict[str, int], list[str]]:
    """The layout without ragged features that would need too much padding, those that are padded, and what left."""
    wide = {name for name, width in padded.items() if width > WIDEST}
    kept = Layout(
        observation=_without(layout.observation, wide),
        action=[leaf for leaf in layout.action if leaf.name not in wide],
        extras=_without(layout.extras, wide),
        texts=layout.texts,
        metadata=layout.metadata,
        flags=layout.flags,
    )
    return kept, {name: width for name, width in padded.items() if name not in wide}, sorted(wide)


def ragged_findings(padded: Mapping[str, int], wide: Iterable[str], place: str) -> list[Finding]:
    """What became of ragged features."""
    findings = []
    for name, width in padded.items():
        text = f"{name} has rows of different lengths: filled with zeros to {width}, their lengths kept as extras"
        findings.append(Finding(severity="warning", place=place, text=text))
    for name in wide:
        text = f"{name} has rows of different lengths, with more than {WIDEST} numbers: it is not stored"
        findings.append(Finding(severity="warning", place=place, text=text))
    return findings


def _without(leaves: Mapping[str, Leaf], names: set[str]) -> dict[str, Leaf]:
    return {key: leaf for key, leaf in leaves.items() if leaf.name not in names}
