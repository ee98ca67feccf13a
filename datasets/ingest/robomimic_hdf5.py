"""robomimic HDF5: one group per demonstration, observations by key, `dones` that mix two kinds of end.

Format of "What Matters in Learning from Offline Human Demonstrations for Robot Manipulation" (arXiv 2108.03298), also
written by MimicGen and RoboCasa, and by `robot_rl.datasets.export_robomimic`, whose additions are read back.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robot_rl.datasets.frames import as_array
from robot_rl.datasets.ingest.base import (
    FLAT_KEY,
    JUMP,
    ReadOptions,
    Recording,
    SuccessSource,
    action_spec,
    array_spec,
    parse_json,
    plain,
    provenance,
)
from robot_rl.datasets.ingest.hdf5 import (
    Hdf5Frames,
    attributes,
    clear_hdf5_errors,
    dataset,
    is_hdf5,
    is_image,
    leaves,
    numbers,
    open_file,
    require_inside,
)
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

VERSION = 1
SPEC_ATTRIBUTE = "robot_rl_spec"
METADATA_ATTRIBUTE = "robot_rl_metadata"
EXTRAS = "robot_rl_extras"
OTHER_ACTIONS = ("actions_abs", "action_dict")  # the same actions in other forms: kept as extras
STORED = ("obs", "next_obs", "actions", *OTHER_ACTIONS, "rewards", "dones", "states", "terminated", "truncated",
          "success", "intervened", "init_state_dict", EXTRAS)  # fmt: skip
SPLITS = ("train", "valid", "validation", "test")
LARGEST_COMPARED = 4096  # numbers of a row of an observation that is compared with `next_obs` at opening


class RobomimicHdf5Reader:
    """`format=robomimic_hdf5`."""

    name = "robomimic_hdf5"
    description = "HDF5 with groups data/demo_<number> that hold obs/<key>, actions and rewards"

    def probe(self, path: Path) -> str | None:
        """Demonstrations with observations."""
        if not is_hdf5(path):
            return None
        with open_file(path) as file, clear_hdf5_errors(path):
            demos = demo_names(file)
            if not demos or not any("obs" in file["data"][name] for name in demos):
                return None
        return f"it has {len(demos)} demonstrations under data, with observations"

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Open the file; demonstrations are read one by one, in the order of their numbers.

        Raises:
            InputError: damaged, or without observations, actions or rewards.
        """
        with clear_hdf5_errors(path), ExitStack() as stack:
            file = stack.enter_context(open_file(path))
            data = file.get("data", file)
            demos = demo_names(file)[: options.maximum_episodes]
            if not demos:
                raise InputError(f"{path}: there are no groups data/demo_<number>")
            filters = _filters(file, path)
            about = attributes(data, path)
            environment = parse_json(about["env_args"], f"{path}: env_args") if "env_args" in about else {}
            layout, first = _first(data, demos, about, options, path)
            rewards = [
                rows.reshape(-1) for name in demos if (rows := _undamaged(data[name], "rewards", path)) is not None
            ]
            recorded = all("success" in data[name] for name in demos)
            known = recorded or SPEC_ATTRIBUTE in about  # a store that did not know it shall not know it afterwards
            success, findings = SuccessSource.of(
                options, rewards if rewards else [np.zeros(0)], recorded=known, path=path
            )
            findings += _findings(path, data, demos)
            there = {"reward": layout.rewards, "success": recorded, "end": layout.ends}
            absent = success.lacking([name for name, has in there.items() if not has])
            spec = _spec(about, first, environment, absent, options, path)
            other = {key: value for key, value in about.items() if key not in ("env_args", SPEC_ATTRIBUTE)}
            origin = provenance(path, self.name, VERSION, other) | {"environment": environment}

            def read(index: int) -> Episode:
                name = demos[index]
                episode = _demo(data[name], layout, options, path)
                if name in filters:
                    episode.metadata["filters"] = filters[name]
                    splits = [mask for mask in filters[name] if mask in SPLITS]
                    if len(splits) == 1:
                        episode.metadata.setdefault("split", splits[0])
                return success.label(episode, f"{path}: data/{name}")

            return Recording(
                spec=spec,
                provenance=origin,
                count=len(demos),
                read=read,
                findings=findings,
                resources=stack.pop_all(),
            )


def demo_names(file: h5py.File) -> list[str]:
    """Names of the demonstrations, by number: demo_2 comes before demo_10."""
    data = file.get("data")
    if not isinstance(data, h5py.Group):
        return []
    names = [name for name in map(str, data) if name.startswith("demo_") and name[5:].isdigit()]
    names = [name for name in names if isinstance(data.get(name), h5py.Group)]
    return sorted(names, key=lambda name: int(name[5:]))


def control_period_s(environment: dict[str, Any]) -> float | None:
    """1 / control_freq of a robosuite environment, where it is recorded."""
    frequency_hz = environment.get("control_freq")
    return 1.0 / float(frequency_hz) if isinstance(frequency_hz, int | float) and frequency_hz > 0 else None


def action_semantics(environment: dict[str, Any]) -> str | None:
    """Such as `osc_pose_delta`, of a robosuite controller configuration, where it is recorded.

    robosuite 1.5 has a part for each arm in it, of which the right one speaks for both.
    """
    controller = environment.get("controller_configs")
    if isinstance(controller, dict) and isinstance(controller.get("body_parts"), dict):
        controller = controller["body_parts"].get("right")
        controller = {"input_type": "delta", **controller} if isinstance(controller, dict) else None  # its default
    if not isinstance(controller, dict) or not isinstance(controller.get("type"), str):
        return None
    kind = str(controller["type"]).lower()
    if kind.startswith("osc") and "control_delta" in controller:
        return f"{kind}_{'delta' if controller['control_delta'] else 'absolute'}"
    if kind.startswith(("osc", "joint_position")) and controller.get("input_type") in ("delta", "absolute"):
        return f"{kind}_{controller['input_type']}"
    return kind


def _spec(
    about: dict[str, Any],
    first: Episode,
    environment: dict[str, Any],
    absent: list[str],
    options: ReadOptions,
    path: Path,
) -> Spec:
    if SPEC_ATTRIBUTE in about:
        return Spec.from_json(parse_json(about[SPEC_ATTRIBUTE], f"{path}: {SPEC_ATTRIBUTE}"))
    settings = environment.get("env_kwargs")
    settings = settings if isinstance(settings, dict) else {}
    period_s = control_period_s(settings)
    return Spec(
        observation={key: array_spec(array) for key, array in first.observation.items()},
        action=action_spec(first.action, options, str(path)),
        control_period_s=options.control_period_s if period_s is None else period_s,
        action_semantics=action_semantics(settings),
        metadata={"absent": absent} if absent else {},
    )


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What the demonstrations of a file have."""

    keys: dict[str, str]  # of the observations in the file, by key of the store
    rewards: bool
    ends: bool
    exported: bool  # by `robot_rl.datasets.export_robomimic`: shapes are those of the spec in it
    language: str | None  # of the whole file


def _first(
    data: h5py.Group, demos: list[str], about: dict[str, Any], options: ReadOptions, path: Path
) -> tuple[_Layout, Episode]:
    """The layout and the episode of the first demonstration that is not damaged: the others should be like it."""
    damage: InputError | None = None
    for name in demos:
        try:
            layout = _Layout(
                keys=_observation_keys(data[name], path),
                rewards=any("rewards" in data[demo] for demo in demos),
                ends=any("dones" in data[demo] or "terminated" in data[demo] for demo in demos),
                exported=SPEC_ATTRIBUTE in about,
                language=_language(about, path),
            )
            return layout, _demo(data[name], layout, options, path)
        except InputError as error:
            damage = error if damage is None else damage
    assert damage is not None
    raise damage


def _undamaged(group: h5py.Group, key: str, path: Path) -> Array | None:
    """All rows, or None where they are not there or damaged: that is said when the demonstration is read."""
    try:
        return dataset(group, key, path)
    except InputError:
        return None


def _observation_keys(demo: h5py.Group, path: Path) -> dict[str, str]:
    """Key of the store by key of the file; nested groups are joined with `/`."""
    if not isinstance(demo.get("obs"), h5py.Group) or not leaves(demo["obs"]):
        raise InputError(
            f"{path}: {demo.name.strip('/')} has no observations under 'obs', only {', '.join(map(str, demo))}: "
            "extract them with robomimic's dataset_states_to_obs.py, or ingest the raw robosuite "
            "recording with resimulate=true"
        )
    names = leaves(demo["obs"])
    return {FLAT_KEY if names == ["flat"] else key_of(name): name for name in names}


def key_of(name: str) -> str:
    """Undo `array_names`: a group beside an array of its name is written with an @."""
    return name.replace("@/", "/")


def _demo(demo: h5py.Group, layout: _Layout, options: ReadOptions, path: Path) -> Episode:
    with clear_hdf5_errors(path):
        place = f"{path}: {demo.name.strip('/')}"
        actions = dataset(demo, "actions", path)
        steps = len(actions)
        lengths = {"actions": steps}
        rewards = dataset(demo, "rewards", path).reshape(-1) if layout.rewards else np.zeros(steps)
        lengths["rewards"] = len(rewards)
        about = attributes(demo, path)
        if "num_samples" in about:
            lengths["num_samples"] = _count(about["num_samples"], place)
        _observation_keys(demo, path)
        observation, has_final = {}, "next_obs" in demo
        for key, name in layout.keys.items():
            rows, last = _observation(demo, name, layout, lengths, path)
            observation[key] = rows if last is None else np.concatenate([rows, last])
        flags = {}
        for name in ("dones", "terminated", "truncated", "success", "intervened"):
            if name in demo:
                flags[name] = dataset(demo, name, path).reshape(-1).astype(bool)
                lengths[name] = len(flags[name])
        extras = {"simulator_state": dataset(demo, "states", path)} if "states" in demo else {}
        extras |= _other_actions(demo, lengths, path)
        if len(set(lengths.values())) > 1 or steps == 0:
            raise InputError(
                f"{place}: lengths disagree, expected the same number everywhere, at least one: {lengths}. Leave this "
                "demonstration out, or record it again"
            )
        terminated, truncated = _ends(flags, rewards, options.done_semantics)
        if EXTRAS in demo:
            extras |= {key_of(name): dataset(demo[EXTRAS], name, path) for name in leaves(demo[EXTRAS])}
        return Episode(
            observation=observation,
            action=actions,
            reward=rewards,
            terminated=terminated,
            truncated=truncated,
            success=flags.get("success"),
            intervened=flags.get("intervened"),
            has_final_observation=has_final,
            extras=extras,
            metadata=_metadata(demo, about, layout, path),
        )


def _observation(
    demo: h5py.Group, name: str, layout: _Layout, lengths: dict[str, int], path: Path
) -> tuple[Array, Array | None]:
    """Rows of an observation and the one behind them; of images, all in one and None. Notes the lengths."""
    member = numbers(demo["obs"], name, path)
    following = numbers(demo["next_obs"], name, path) if "next_obs" in demo else None
    lengths[f"obs/{name}"] = len(member)
    if following is not None:
        lengths[f"next_obs/{name}"] = len(following)
        if following.size != member.size and len(following) == len(member):
            raise InputError(f"{path}: {following.name.strip('/')} has shape {following.shape}, obs {member.shape}")
    if is_image(member):
        rows = np.arange(len(member))
        if following is None or not is_image(following) or len(following) != len(member):
            return as_array(Hdf5Frames(member, np.append(rows, rows[-1]), path)), None
        return as_array(Hdf5Frames(member, np.append(rows, -1), path, following)), None
    array = dataset(demo["obs"], name, path)
    array = array[:, None] if array.ndim == 1 else array
    if not layout.exported and array.ndim == 4 and array.shape[3] == 1 and array.dtype in (np.float32, np.uint16):
        array = array[:, :, :, 0]  # depth is a plane
    last = array[-1:]
    if following is not None and len(following):
        last = dataset(demo["next_obs"], name, path)[-1:].reshape(last.shape)
    return array, last


def _other_actions(demo: h5py.Group, lengths: dict[str, int], path: Path) -> dict[str, Array]:
    """Actions in other forms, such as absolute poses. Notes the lengths."""
    found = {}
    for name in OTHER_ACTIONS:
        member = demo.get(name)
        inside = [f"{name}/{leaf}" for leaf in leaves(member)] if isinstance(member, h5py.Group) else [name]
        for key in inside if member is not None else ():
            found[key] = dataset(demo, key, path)
            lengths[key] = len(found[key])
    return found


def _count(value: Any, place: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{place}: num_samples is no number ({error}): repair the attribute, or remove it") from error


def _ends(flags: dict[str, Array], rewards: Array, done_semantics: str) -> tuple[Array, Array]:
    """The two facts behind `dones`; only the last step of a demonstration can end it. Shapes: (T,) each."""
    steps = len(rewards)
    if "terminated" in flags and "truncated" in flags:
        return flags["terminated"], flags["truncated"]
    terminated, truncated = np.zeros(steps, bool), np.zeros(steps, bool)
    done = bool(flags["dones"][-1]) if "dones" in flags else False
    match done_semantics:
        case "terminated":
            terminated[-1] = done
        case "auto":  # 0 and 1 are robosuite's sparse reward; of a dense one, a positive number says nothing
            sparse = bool(np.isin(rewards, (0.0, 1.0)).all())
            succeeded = bool(flags["success"][-1]) if "success" in flags else sparse and bool(rewards[-1] > 0)
            terminated[-1] = done and succeeded
    truncated[-1] = not terminated[-1]
    return terminated, truncated


def _language(about: dict[str, Any], path: Path) -> str | None:
    """Of all demonstrations, as LIBERO declares it."""
    problem = parse_json(about["problem_info"], f"{path}: problem_info") if "problem_info" in about else {}
    language = problem.get("language_instruction")
    language = " ".join(map(str, language)) if isinstance(language, list) else language
    return language.strip('"') if isinstance(language, str) and language else None


def _metadata(demo: h5py.Group, about: dict[str, Any], layout: _Layout, path: Path) -> dict[str, Any]:
    place = f"{path}: {demo.name.strip('/')}"
    if METADATA_ATTRIBUTE in about:
        return parse_json(about[METADATA_ATTRIBUTE], f"{place}: {METADATA_ATTRIBUTE}")
    metadata: dict[str, Any] = {"source": demo.name.strip("/")}
    if layout.language is not None:
        metadata["language"] = layout.language
    if "init_state_dict" in demo:
        group = demo["init_state_dict"]
        metadata["initial_state"] = {name: plain(dataset(group, name, path)) for name in leaves(group)}
    if "ep_meta" in about:
        metadata["episode"] = parse_json(about["ep_meta"], f"{place}: ep_meta")
        if "lang" in metadata["episode"]:
            metadata["language"] = metadata["episode"]["lang"]
    return metadata


def _filters(file: h5py.File, path: Path) -> dict[str, list[str]]:
    """Names of the masks (train, valid, ...) that each demonstration is in."""
    filters: dict[str, list[str]] = {}
    for mask in file["mask"] if isinstance(file.get("mask"), h5py.Group) else ():
        member = file["mask"].get(mask)
        if not isinstance(member, h5py.Dataset):
            continue
        require_inside(member, path)
        if member.dtype.kind not in "SO":
            raise InputError(f"{path}: mask/{mask} holds {member.dtype}, expected names of demonstrations")
        for name in np.ravel(member[()]):
            filters.setdefault(plain(name), []).append(mask)
    return filters


def _findings(path: Path, data: h5py.Group, demos: list[str]) -> list[Finding]:
    findings = []
    dones = {name: _undamaged(data[name], "dones", path) for name in demos if "dones" in data[name]}
    early = [name for name, rows in dones.items() if rows is not None and rows[:-1].any()]
    if early:
        findings.append(
            Finding(
                severity="information",
                place=path.name,
                text=f"{len(early)} demonstrations go on after a step marked done; only their last step ends them",
                remedy="to end them with the first success, train with cut_at_success: first",
            )
        )
    shifted = [
        f"{name}: {key}"
        for name in demos
        if "next_obs" in data[name] and "obs" in data[name]
        for key in leaves(data[name]["next_obs"])
        if _is_small(data[name]["next_obs"].get(key))
        and not _follows(_undamaged(data[name]["obs"], key, path), _undamaged(data[name]["next_obs"], key, path))
    ]
    if shifted:
        findings.append(
            Finding(
                severity="warning",
                place=path.name,
                text=f"next_obs is not the next observation in {len(shifted)} places, such as {shifted[0]}: "
                "only its last row is stored",
                remedy="check how the recording was cut",
            )
        )
    ignored = sorted({name for name in map(str, data[demos[0]]) if name not in STORED})
    if "model_file" in data[demos[0]].attrs:
        ignored.append("the simulator model (model_file)")
    if ignored:
        text = f"not stored: {', '.join(ignored)} of each demonstration"
        findings.append(Finding(severity="information", place=path.name, text=text))
    return findings


def _is_small(member: Any) -> bool:
    return isinstance(member, h5py.Dataset) and member.size <= LARGEST_COMPARED * max(1, len(member))


def _follows(observation: Array | None, following: Array | None) -> bool:
    if observation is None or following is None:
        return True
    return observation.shape != following.shape or bool(
        np.allclose(observation[1:].astype(np.float64), following[:-1].astype(np.float64), rtol=0, atol=JUMP)
    )
