"""`robot-rl identify DATA`: fit a simulator to a robot's log; a report, a robot of its own, and what to randomise."""

import contextlib
import json
import math
import shlex
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML ships no types; Hydra brings it
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robot_rl import checkpoint
from robot_rl.apps.build import check_fit
from robot_rl.apps.build_environment import build_environment
from robot_rl.apps.identify_report import percent, write_page
from robot_rl.config import ENVIRONMENT_CONFIGS, IdentifyConfig
from robot_rl.datasets.reader import load_episodes
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError
from robot_rl.sim.gap import NOMINAL
from robot_rl.sim.identify import identify
from robot_rl.sim.identify_result import RANDOMIZED, Identification
from robot_rl.sim.logged_motion import ADVISED_S, idle_commands, read_log, require_period
from robot_rl.sim.simulated import Simulated
from robot_rl.sim.state_reading import read_layout
from robot_rl.sim_config import AdversaryConfig, GapConfig, LooksConfig, RandomizationConfig, SimulatedConfig

SUMMARY = "Fit a simulator to a robot's log: delay, gears, friction, inertias; what to randomise around them."
NAME = "identified"
"""Of the environment and of the randomisation that are written."""


def run(config: IdentifyConfig) -> int:
    """Identify as configured; exit status 1 where held-out motion is predicted no better than before."""
    console = Console(stderr=True)
    if config.environment is None:
        raise InputError("no simulator is chosen: add environment=..., the simulator of the robot that was logged")
    if not isinstance(config.environment, SimulatedConfig):
        raise InputError("environment is a robot: choose the simulator that is to be fitted to it")
    if config.environment.proxy is not None:
        raise InputError(
            f"environment.proxy={config.environment.proxy}: a simulator is fitted to a robot, and a proxy plays a "
            "robot. Remove it; `robot-rl evaluate ... environment.proxy=... record=...` records data of one"
        )
    path = Path(config.data).expanduser()
    place, given = f"data={config.data}", config.environment.gap.values()
    plain = replace(
        config.environment,
        gap=GapConfig(),
        randomization=RandomizationConfig(),
        action_history=0,
        adversary=AdversaryConfig(),
        cameras=[],
        looks=LooksConfig(),
    )
    store = EpisodeStore.open(path)
    with contextlib.closing(build_environment(plain)) as environment:
        check_fit(place, store.spec, "the environment", environment.spec)
        require_period(store.spec, place)
        simulator: Simulated = environment  # type: ignore[assignment]  # without a gap it is the simulator's adapter
        simulator.physics  # noqa: B018  # refuses tasks that do not run on MuJoCo
        episodes = load_episodes(path, maximum_episodes=config.maximum_episodes)
        layout = read_layout(simulator)
        log = read_log(simulator, layout, episodes, place)
        notes = _notes(simulator, store, log, layout.unseen != (), layout.differenced != ())
        with console.status("Identifying ...") as status:
            found = identify(
                simulator,
                layout,
                log,
                gap=NOMINAL.with_values(given),
                parameters=config.parameters,
                maximum_delay_s=config.maximum_delay_s,
                horizon=config.horizon,
                steps=config.steps,
                tell=lambda text: status.update(Text(text)),
            )
    folder = path.with_name(f"{path.stem}_identified") if config.output is None else Path(config.output).expanduser()
    words = next_words(folder)
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(folder / "identification.json", json.dumps(to_json(found, config), indent=1) + "\n")
        if found.outcome != "worse":
            _write_yaml(folder / "environment" / f"{NAME}.yaml", environment_yaml(config.environment, found))
            _write_yaml(folder / "environment" / "randomization" / f"{NAME}.yaml", randomization_yaml(found))
    page = write_page(folder, found, name=path.name, notes=notes, words=None if found.outcome == "worse" else words)
    _print(Console(), found, notes)
    console.print(Text(f"Report: {page}"), soft_wrap=True)
    if found.outcome == "worse":
        console.print(
            Text(
                "Held-out motion is predicted no better than before: nothing was written to train with. The task may "
                "be another one, the robot may differ in what is not fitted, or the log says too little; the report "
                "shows where predictions leave the measured motion.",
                "yellow",
            )
        )
        return 1
    console.print(Text(f"Train with it: {words}"), soft_wrap=True)
    return 0


def next_words(folder: Path) -> str:
    """The command that trains on the identified robot with randomisation around it."""
    return shlex.join(
        ["robot-rl", "train", "--config-dir", str(folder), f"environment={NAME}", f"environment/randomization={NAME}"]
    )


def environment_yaml(config: Any, found: Identification) -> dict[str, Any]:
    """The environment with the identified gap, as a file of `environment/`."""
    kind = next(kind for kind, node in ENVIRONMENT_CONFIGS.items() if type(config) is node)
    default = type(config)()
    own = ("gap", "proxy", "randomization")
    settings = {
        item.name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for item in fields(config)
        if item.name not in own and (value := getattr(config, item.name)) != getattr(default, item.name)
    }
    gap = {name: _whole(value) for name, value in found.values().items()}
    return {"defaults": [f"{kind}_schema", {"randomization": None}, "_self_"], **settings, "gap": gap}


def _whole(value: float) -> float:
    return int(value) if isinstance(value, int) else float(value)


def randomization_yaml(found: Identification) -> dict[str, Any]:
    """Ranges around what was identified, and the usual ones where the log said nothing."""
    return {"fields": {name: {"uniform": [low, high]} for name, (low, high) in found.ranges().items()}}


def to_json(found: Identification, config: IdentifyConfig) -> dict[str, Any]:
    """Everything in numbers."""
    before, after = found.errors
    return {
        "data": config.data,
        "outcome": found.outcome,
        "held_out_error": {"before": before, "after": after},
        "steps": {"fitted": found.steps[0], "held_out": found.steps[1], "readings_set_aside": found.faulty},
        "horizon": found.horizon,
        "control_period_s": found.period_s,
        "parameters": [
            {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(e).items()}
            for e in found.estimates
        ],
        "correlation": {"names": list(found.fitted), "matrix": found.correlation.tolist()},
        "command_response": {
            "lag_s": found.response.lag_s.tolist(),
            "correlation": found.response.correlation.tolist(),
        },
        "delay_profile": {"delay_s": found.profile[0].tolist(), "error": found.profile[1].tolist()},
    }


def _notes(simulator: Simulated, store: EpisodeStore, log: list[Any], unseen: bool, differenced: bool) -> list[str]:
    notes = []
    seconds = sum(map(len, log)) * (store.spec.control_period_s or 0.0)
    if seconds < ADVISED_S:
        notes.append(f"The log has {seconds:.0f} s of motion; 30 to 120 s of varied commands say more.")
    idle = idle_commands(simulator.spec, log)
    if idle:
        notes.append(f"Commands that hardly move: {', '.join(idle)}. What only they drive is not identified.")
    if differenced:
        notes.append("Some velocities are in no observation: they are differences of positions, and noisier.")
    if unseen:
        notes.append("Some coordinates are in no observation; what is observed does not depend on them.")
    notes.append(
        "The delay is that of the whole loop, from command to observed motion: a log does not say which part of it "
        "lies before the motors and which behind the sensors."
    )
    return notes


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "# Written by `robot-rl identify`.\n" + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    checkpoint.write_text(path, text)


def _print(console: Console, found: Identification, notes: list[str]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("parameter", "simulator", "robot", "+- 2 deviations", "randomise"):
        table.add_column(heading, justify="left" if heading == "parameter" else "right", header_style="dim")
    for each in found.estimates:
        known = each.verdict == "identified"
        spread = "–" if math.isnan(each.deviation) else f"{2 * each.deviation:.2g}"
        span = f"{each.low:.4g} to {each.high:.4g}" if each.verdict in RANDOMIZED else "–"
        cells = (each.name, f"{each.simulator:g}", f"{each.value:.4g}" if known else each.verdict, spread, span)
        table.add_row(*cells, style="" if known else "dim")
    console.print(table)
    for each in found.estimates:
        if each.reason:
            console.print(Text(f"{each.name}: {each.reason}", "dim"), soft_wrap=True)
    before, after = found.errors
    console.print(
        Text(
            f"Held-out motion, {found.steps[1]} steps, {found.horizon} at a time: error {percent(before)} of the "
            f"motion of one control period before, {percent(after)} after."
        ),
        soft_wrap=True,
    )
    for note in notes:
        console.print(Text(note, "dim"), soft_wrap=True)
