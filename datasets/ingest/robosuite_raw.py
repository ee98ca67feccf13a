"""Raw robosuite `demo.hdf5`: simulator states and actions, without observations, rewards or success.

Observations come from a simulator: `ReadOptions.resimulate` plays the states. It is passed in, because data sets do not
know simulators.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robot_rl.datasets.ingest.base import (
    ReadOptions,
    Recording,
    SuccessSource,
    action_spec,
    array_spec,
    parse_json,
    plain,
    provenance,
)
from robot_rl.datasets.ingest.hdf5 import attributes, clear_hdf5_errors, dataset, is_hdf5, open_file
from robot_rl.datasets.ingest.robomimic_hdf5 import action_semantics, control_period_s, demo_names
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

VERSION = 1


class RobosuiteRawReader:
    """`format=robosuite_raw`."""

    name = "robosuite_raw"
    description = "robosuite's demo.hdf5: groups data/demo_<number> with states and actions, without observations"

    def probe(self, path: Path) -> str | None:
        """Demonstrations with simulator states only."""
        if not is_hdf5(path):
            return None
        with open_file(path) as file, clear_hdf5_errors(path):
            demos = demo_names(file)
            if not demos or any("obs" in file["data"][name] or "states" not in file["data"][name] for name in demos):
                return None
        return f"it has {len(demos)} demonstrations under data, with simulator states only"

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Open the file and play the first demonstration, which tells what the observations are.

        Raises:
            InputError: there is no simulator to play it, or it does not fit the recording.
        """
        if options.resimulate is None:
            raise InputError(f"{path} holds simulator states, no observations: rebuild them with resimulate=true")
        with ExitStack() as stack:
            file = stack.enter_context(open_file(path))
            with clear_hdf5_errors(path):
                data = file["data"]
                demos = demo_names(file)[: options.maximum_episodes]
                about = attributes(data, path)
                environment = _environment(about, path)
            first = _replay(data[demos[0]], environment, options, path)
            success, findings = SuccessSource.of(options, [first.reward], recorded=first.success is not None, path=path)
            period_s = control_period_s(environment)
            period_s = recorded_period_s(data[demos[0]], path) if period_s is None else period_s
            spec = Spec(
                observation={key: array_spec(array) for key, array in first.observation.items()},
                action=action_spec(first.action, options, str(path)),
                control_period_s=options.control_period_s if period_s is None else period_s,
                action_semantics=action_semantics(environment),
            )

            def read(index: int) -> Episode:
                episode = first if index == 0 else _replay(data[demos[index]], environment, options, path)
                return success.label(episode, f"{path}: data/{demos[index]}")

            origin = provenance(path, self.name, VERSION, about) | {"environment": environment}
            return Recording(
                spec=spec,
                provenance=origin,
                count=len(demos),
                read=read,
                findings=findings,
                resources=stack.pop_all(),
            )


def recorded_period_s(demo: h5py.Group, path: Path) -> float | None:
    """The usual difference of the simulator time, column 0 of the states; None where it is not regular."""
    differences = np.diff(dataset(demo, "states", path)[:, 0])
    period_s = round(float(np.median(differences)), 6) if len(differences) else 0.0
    regular = np.isclose(differences, period_s, rtol=0, atol=1e-6)
    return period_s if period_s > 0 and regular.mean() > 0.9 else None


def _environment(about: dict[str, Any], path: Path) -> dict[str, Any]:
    """`env_info` of robosuite >= 1.0, `env_args` after robomimic's conversion, the bare name before."""
    if "env_info" in about:
        environment = parse_json(about["env_info"], f"{path}: env_info")
    elif "env_args" in about:
        arguments = parse_json(about["env_args"], f"{path}: env_args")
        environment = {"env_name": arguments.get("env_name"), **arguments.get("env_kwargs", {})}
    else:
        environment = {"env_name": plain(about.get("env"))}
    if "repository_version" in about:
        environment.setdefault("repository_version", plain(about["repository_version"]))
    return environment


def _replay(demo: h5py.Group, environment: dict[str, Any], options: ReadOptions, path: Path) -> Episode:
    """Play one demonstration. Only reading it may be damage: what the simulator raises is its own."""
    place = f"{path}: {demo.name.strip('/')}"
    with clear_hdf5_errors(path):
        states, actions, model_xml = _read(demo, environment, place, path)
    assert options.resimulate is not None
    try:
        episode = options.resimulate(environment, model_xml, states, actions)
    except InputError as error:
        raise InputError(f"{place} cannot be re-simulated: {error}") from error
    return replace(episode, metadata=episode.metadata | {"source": demo.name.strip("/")})


def _read(demo: h5py.Group, environment: dict[str, Any], place: str, path: Path) -> tuple[Array, Array, str]:
    """States (T, S), actions (T, A) and the model."""
    if "actions" not in demo:
        version = environment.get("repository_version", "of unknown version")
        raise InputError(
            f"{place} records no actions, only {', '.join(map(str, demo))} (robosuite {version}): "
            "the commands of that version cannot be replayed in the installed one. Convert it with the "
            "robosuite that recorded it"
        )
    states, actions = dataset(demo, "states", path), dataset(demo, "actions", path)
    if len(states) != len(actions) or states.ndim != 2 or actions.ndim != 2:
        raise InputError(f"{place} has states {states.shape} and actions {actions.shape}: expected (T, S) and (T, A)")
    return states, actions, _model_xml(demo, path)


def _model_xml(demo: h5py.Group, path: Path) -> str:
    """The model: XML text in the attribute, or the name of a file in `models` beside the recording.

    Raises:
        InputError: there is neither.
    """
    model = str(plain(attributes(demo, path).get("model_file", "")))
    if model.lstrip().startswith("<"):
        return model
    file = path.parent / "models" / Path(model).name
    if not model or not file.is_file():
        raise InputError(
            f"{path}: {demo.name.strip('/')} names the model '{model}', which is not at {file}: copy it there"
        )
    return file.read_text()
