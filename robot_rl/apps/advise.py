"""`robot-rl advise STORE`: which recipe fits the data, and why."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from robot_rl.apps.advise_rules import Choice, recommend
from robot_rl.data_config import AdviseConfig
from robot_rl.datasets.measures import Measures, measure
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError

SUMMARY = "Say which recipe fits a data set: imitation or offline RL, keep or drop the data online, and why."

OFFLINE_STEPS = 20_000
WARMUP_STEPS = 5_000  # of the frozen policy, as WSRL has it
ONLINE_STEPS = 100_000
CLONED = ["algorithm=wsrl", "algorithm.actor_behaviour_cloning_weight=10.0"]
"""Cal-QL with a cloning term, then WSRL: what goes on online where cloning alone fits the data."""


def run(config: AdviseConfig) -> int:
    """Print the choices, their reasons and the command line; optionally write all of it as JSON."""
    console = Console()
    path = Path(config.store).expanduser()
    references = config.environment_return
    store = EpisodeStore.open(path)
    with console.status("Measuring ..."):
        measures = measure(
            store,
            discount=config.discount,
            environment_return=None if references is None else (references[0], references[1]),
        )
    choices = recommend(measures)
    prepare, data = without_images(measures.images, path)
    offline, online = command_lines(choices, data)
    _print_measures(console, path, measures)
    _print_choices(console, choices)
    lines = (
        ("First leave out the images, which no network here takes:", prepare),
        ("Train from the data alone:", offline),
        ("Go on in an environment:", online),
    )
    for title, line in lines:
        if line is not None:
            console.print(Text(f"\n{title}", "bold"))
            console.print(Text(f"  {line}"), soft_wrap=True)
    if config.output is not None:
        output = Path(config.output).expanduser()
        report = {
            "store": str(path),
            "measures": measures.to_json(),
            "choices": [asdict(choice) for choice in choices],
            "commands": {"prepare": prepare, "offline": offline, "online": online},
        }
        try:
            output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{output} cannot be written: {error.strerror or error}") from error
        console.print(Text("\nNumbers: ", "dim") + Text(str(output)), soft_wrap=True)
    return 0


def without_images(images: Sequence[str], path: Path) -> tuple[str | None, Path]:
    """The command that makes a store without images, None where there are none, and the store to train on."""
    if not images:
        return None, path
    numbers = path.with_name(f"{path.stem}_numbers{path.suffix}")
    excluded = f"exclude=[{','.join(images)}]"
    return shlex.join(["robot-rl", "edit", "filter", str(path), excluded, f"output={numbers}"]), numbers


def command_lines(choices: list[Choice], path: Path) -> tuple[str | None, str | None]:
    """The command that trains from the data alone, and the one that goes on online; None where there is none."""
    algorithm = [word for choice in choices if choice.question == "offline" for word in choice.settings]
    if not algorithm:
        return None, None
    settings = [word for choice in choices if choice.question != "offline" for word in choice.settings]
    data = [f"+datasets.offline.path={path}", *settings]
    pretrains = "algorithm=rlpd" not in algorithm  # RLPD has no offline phase
    phase = [f"+phases.offline.steps={OFFLINE_STEPS}"] if pretrains else []
    offline = ["robot-rl", "train", *algorithm, *data, *phase] if pretrains else None
    shares = [word for choice in choices for word in choice.online]
    if not shares:
        return None if offline is None else shlex.join(offline), None
    fine_tuned = CLONED if "algorithm=bc" in algorithm else algorithm  # behaviour cloning has no critic to go on with
    online = ["robot-rl", "train", "environment=NAME", *fine_tuned, *data, *phase]
    if pretrains:
        online += [
            "+phases.warmup.interact=policy",
            f"+phases.warmup.steps={WARMUP_STEPS}",
            "+phases.warmup.updates_per_step=0",
        ]
    online += ["+phases.online.interact=policy", f"+phases.online.steps={ONLINE_STEPS}", *shares]
    if "algorithm=wsrl" in fine_tuned:
        online.append("+phases.online.algorithm={conservative_weight: 0.0, actor_behaviour_cloning_weight: 0.0}")
    return None if offline is None else shlex.join(offline), shlex.join(online)


def _print_measures(console: Console, path: Path, measures: Measures) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)

    def number(value: float | None, form: str) -> str:
        return "unknown" if value is None else format(value, form)

    quality = number(measures.trajectory_quality, ".2f")
    if measures.trajectory_quality is None:
        quality += " (give environment_return=[RANDOM,EXPERT])"
    returns, share = measures.returns, measures.success_share
    rows = (
        ("episodes, steps", f"{measures.episodes}, {measures.steps}; {measures.horizon.median:.0f} each (median)"),
        ("reward", measures.reward),
        ("return", f"{returns.minimum:.4g} to {returns.maximum:.4g}, mean {returns.mean:.4g}"),
        ("discounted return", f"mean {measures.discounted_returns.mean:.4g}"),
        ("success", "unknown" if share is None else f"{share:.0%} of the {measures.known_success} episodes that say"),
        ("trajectory quality (TQ)", quality),
        ("state-action coverage (SACo)", f"{measures.state_action_coverage:.2f}, {measures.distinct_pairs} pairs"),
        ("coverage of principal cells", number(measures.cell_coverage, ".2f")),
        ("positive-sided variance", f"{measures.positive_sided_variance_scaled:.3f} of at most 0.148"),
        ("coverage of actions", number(measures.action_coverage, ".2f")),
        ("roughness of actions", number(measures.action_roughness, ".2f")),
        ("disagreement of neighbours", number(measures.action_disagreement, ".2f")),
        ("velocities", measures.velocities),
    )
    console.print(Text(f"\n{path}", "bold"), soft_wrap=True)
    for name, value in rows:
        table.add_row(Text(name, "dim"), Text(value))
    console.print(table)


def _print_choices(console: Console, choices: list[Choice]) -> None:
    console.print(Text("\nWhat fits", "bold"))
    for choice in choices:
        console.print(Text.assemble((f"  {choice.question}: ", "cyan"), (choice.answer, "bold")), soft_wrap=True)
        console.print(Text(f"    {choice.because}"), soft_wrap=True)
        if choice.source != "-":
            console.print(Text(f"    after {choice.source}", "dim"), soft_wrap=True)
