"""`--help`: what a verb does, its keys with type, default and meaning, its choices, and examples."""

import textwrap

from rich.console import Console
from rich.text import Text

from robot_rl.apps import schema

EXAMPLES = {
    "ingest": [
        ("robot-rl ingest demo.hdf5 data/lift.zarr", "the reader is found by content"),
        ("robot-rl ingest demo.hdf5 data/lift.zarr overwrite=true", "replace a store that is there"),
        ("robot-rl ingest folder/ data/arm.zarr image.size=[128,128] stride=2", "smaller images, coarser steps"),
        (
            "robot-rl ingest hand.mp4 data/hand.zarr action_from=joints side_file=joints.npz",
            "actions from the next",
        ),
        ("robot-rl ingest log.hdf5 data/arm.zarr control_period_s=0.05", "say what the file does not"),
    ],
    "inspect": [
        ("robot-rl inspect data/lift.zarr", "print and plot what a store holds"),
        ("robot-rl inspect data/lift.zarr report=html", "one page with pictures, clips, plots and findings"),
        ("robot-rl inspect data/lift.zarr --check", "only the findings; exit with 1 where something is wrong"),
        ("robot-rl inspect data/lift.zarr --fix", "repair what can be repaired, and say what was done"),
    ],
    "view": [
        ("robot-rl view data/lift.zarr", "open the first episode in the rerun viewer"),
        ("robot-rl view data/lift.zarr episodes=[0,3] output=lift.rrd", "write a file for the viewer instead"),
    ],
    "advise": [
        ("robot-rl advise data/lift.zarr", "which recipe fits, why, and the command that starts it"),
        ("robot-rl advise data/lift.zarr environment_return=[0,1] output=advice.json", "against a scale, and as JSON"),
    ],
    "edit": [
        ("robot-rl edit merge data/a.zarr others=[data/b.zarr] output=data/all.zarr", "one store out of several"),
        ("robot-rl edit split data/lift.zarr output=data/lift_split", "train.zarr and validation.zarr"),
        ("robot-rl edit filter data/lift.zarr keep=successful output=data/good.zarr", "only some episodes"),
        ("robot-rl edit relabel data/lift.zarr 'language=\"lift the cube\"'", "other labels, in place"),
        ("robot-rl edit delete data/lift.zarr episodes=[3,7]", "without these episodes, in place"),
    ],
    "export": [
        ("robot-rl export data/lift.zarr lift_lerobot", "a LeRobot v3.0 data set"),
        ("robot-rl export data/lift.zarr lift.hdf5", "robomimic, by the ending of the name"),
        ("robot-rl export data/lift.zarr lift_lerobot video_codec=h264 crf=20", "other videos"),
        ("robot-rl export runs/lift/seed_0 lift.onnx", "a policy as one file, for `evaluate`, `serve` and `deploy`"),
    ],
    "train": [
        ("robot-rl train lift", "run an experiment of configs/experiment"),
        ("robot-rl train lift seed=1 replay.discount=0.98", "override any key"),
        ("robot-rl train lift resume=true", "go on after Ctrl-C, a crash or kill -9"),
        ("robot-rl train lift --print-config", "show what would run"),
    ],
    "profile": [
        ("robot-rl profile lift", "where the time of a run goes, phase by phase"),
        ("robot-rl profile lift phase=offline execution.mode=compiled", "of one phase, run in another way"),
        ("robot-rl profile lift phase=online trace=trace.json", "with a trace for https://ui.perfetto.dev"),
    ],
    "pretrain-video": [
        ("robot-rl pretrain-video videos/ objective=vip", "an encoder learns from a folder of videos"),
        ("robot-rl pretrain-video video=real_clips objective=icvf steps=500", "from sources of configs/video"),
        ("robot-rl pretrain-video +sources.a.path=a.zarr +sources.b.path=hand.mp4 name=two", "from several sources"),
        ("robot-rl pretrain-video videos/ objective=vip resume=true", "go on after Ctrl-C, a crash or kill -9"),
    ],
    "label": [
        (
            "robot-rl label data/lift.zarr label=goal label.run=runs/video/seed_0 label.goal.episodes=[0]",
            "by a value of pretrain-video, in place",
        ),
        (
            "robot-rl label data/lift.zarr label=classifier output=data/judged.zarr",
            "success by a calibrated classifier",
        ),
        (
            "robot-rl label data/lift.zarr label=preference 'label.goal=to lift the cube' dry_run=true "
            "label.endpoint.address=http://127.0.0.1:8000/v1 label.endpoint.model=NAME",
            "how many questions a vision-language model would be asked",
        ),
        ("robot-rl label data/lift.zarr label=stages label.vision.weights=encoder.safetensors", "progress by stages"),
    ],
    "evaluate": [
        ("robot-rl evaluate runs/lift/seed_0 episodes=50 videos=3", "the newest checkpoint of a run"),
        ("robot-rl evaluate policy=random environment=lift record=data/random.zarr", "record episodes into a store"),
    ],
    "identify": [
        ("robot-rl identify data/robot.zarr environment=half_cheetah", "fit the simulator to a robot's log"),
        ("robot-rl identify data/robot.zarr environment=half_cheetah maximum_delay_s=0.2 horizon=10", "look further"),
    ],
    "serve": [
        ("robot-rl serve runs/lift/seed_0", "a policy for clients of openpi's protocol, at ws://127.0.0.1:8000"),
        ("robot-rl serve runs/bc/seed_0 steer=runs/iql/seed_0 candidates=16", "a policy steered by a critic"),
        ("robot-rl serve ws://127.0.0.1:8000 steer=runs/iql/seed_0 port=8001", "somebody else's server, steered"),
        ("robot-rl serve runs/lift/seed_0 'keys={state: observation/state}'", "with the names that a client sends"),
    ],
    "distill": [
        (
            "robot-rl distill runs/bc/seed_0 critic=runs/iql/seed_0 data=lift.zarr output=runs/distilled",
            "what steering chooses, cloned back into the policy",
        ),
        (
            "robot-rl distill runs/bc/seed_0 critic=runs/iql/seed_0 data=lift.zarr output=runs/distilled threshold=0.5",
            "only what is clearly better",
        ),
        (
            "robot-rl distill runs/head critic=runs/iql/seed_0 data=lift.zarr method=consistency output=runs/tuned",
            "a consistency head, tuned by the critic",
        ),
    ],
    "deploy": [
        ("robot-rl deploy lift.onnx environment=ros2 environment.robot=panda dry_run=true", "decide, command nothing"),
        ("robot-rl deploy lift.onnx environment=ros2 environment.robot=panda episodes=5", "five episodes"),
        (
            "robot-rl deploy runs/lift/seed_0 environment=ros2 environment.robot=sim_panda environment.simulated=true "
            "max_seconds=60",
            "on a simulated robot, for a minute",
        ),
    ],
    "benchmark": [
        ("robot-rl benchmark suite=smoke", "algorithms x tasks x seeds, in minutes; give it again to go on"),
        ("robot-rl benchmark suite=cpu workers=2 seeds=[0,1,2,3,4]", "more seeds, two runs at a time"),
        ("robot-rl benchmark suite=cpu algorithms=[iql,wsrl] tasks=[lift_demonstrations]", "a part of it"),
        ("robot-rl benchmark suite=cpu only=tables", "the tables of what is finished so far"),
    ],
    "doctor": [
        ("robot-rl doctor", "look at this machine"),
        ("robot-rl doctor strict=true", "exit with 1 when something needed is missing"),
    ],
}

INDENT = "      "


def print_usage(console: Console) -> None:
    """The page of `robot-rl --help`."""
    console.print(Text.assemble("Usage: ", ("robot-rl VERB [WORDS] [key=value ...]", "bold")))
    console.print("Offline-to-online reinforcement learning for robots.\n")
    console.print(Text("Verbs", "bold"))
    for verb in schema.verbs():
        console.print(Text.assemble("  ", (f"{verb:<15}", "cyan"), schema.summary(verb)), soft_wrap=True)
    console.print()
    _print_options(console)
    console.print(Text("Examples", "bold"))
    _print_examples(console, [EXAMPLES[verb][0] for verb in schema.verbs()])
    console.print(Text("\n`robot-rl VERB --help` lists the keys and choices of a verb."))


def print_verb(console: Console, verb: str) -> None:
    """The page of `robot-rl VERB --help`."""
    words = "".join(f" [{word.upper()}]" for word in schema.POSITIONAL[verb])
    console.print(Text.assemble("Usage: ", (f"robot-rl {verb}{words} [key=value ...]", "bold")))
    console.print(Text(schema.summary(verb)))
    if schema.POSITIONAL[verb]:
        pairs = ", ".join(f"{word.upper()} is short for {word}={word.upper()}" for word in schema.POSITIONAL[verb])
        console.print(Text(f"{pairs}.", "dim"))
    console.print()
    groups = schema.groups(verb)
    for group in groups:
        _print_choices(console, group)
    console.print(Text("Keys", "bold"))
    for key in schema.verb_keys(verb):
        if key.name not in groups:
            _print_key(console, key)
    for group in groups:
        for kind, keys in schema.kind_keys(group).items() if group in schema.GROUPS else ():
            console.print(Text.assemble(("\nKeys of ", "bold"), (group, "bold cyan"), (f" of the kind {kind}", "bold")))
            for key in keys:
                _print_key(console, key)
    console.print()
    _print_options(console, verb)
    console.print(Text("Examples", "bold"))
    _print_examples(console, EXAMPLES[verb])


def _print_examples(console: Console, examples: list[tuple[str, str]]) -> None:
    width = max(len(command) for command, _ in examples)
    for command, meaning in examples:
        console.print(Text.assemble("  ", (f"{command:<{width}}", "green"), "  ", (meaning, "dim")), soft_wrap=True)


def _print_options(console: Console, verb: str | None = None) -> None:
    console.print(Text("Options", "bold"))
    switches = [
        (flag, f"{text} ({setting})") for flag, (owner, setting, text) in schema.SWITCHES.items() if owner == verb
    ]
    for option, meaning in (
        ("--help", "this page"),
        ("--version", "the version of robot_rl"),
        ("--print-config", "print the composed configuration as YAML, and stop"),
        ("--config-dir DIR", "search DIR for YAML too; it is laid out like configs/"),
        *switches,
    ):
        console.print(Text.assemble("  ", (f"{option:<18}", "cyan"), meaning))
    console.print()


def _print_choices(console: Console, group: str) -> None:
    console.print(Text.assemble((f"{group}=", "bold cyan"), ("NAME, one of", "bold")))
    found = schema.choices(group)
    width = max((len(name) for name in found), default=0)
    for name, comment in found.items():
        data = f"  (needs {', '.join(schema.experiment_data(name)) or 'no data'})" if group == "experiment" else ""
        line = Text.assemble("  ", (f"{name:<{width}}", "green"), "  ", comment, (data, "dim"))
        console.print(line, soft_wrap=True)
    if not found:
        console.print(Text("  (none in configs/ yet)", "dim"))
    console.print()


def _print_key(console: Console, key: schema.Key) -> None:
    default = ("required", "yellow") if key.field.default is None else (f"= {key.field.default}", "green")
    console.print(Text.assemble("  ", (key.name, "cyan"), "  ", (key.field.type, "dim"), " ", default), soft_wrap=True)
    if key.field.text:
        for line in textwrap.wrap(key.field.text, max(20, console.width - len(INDENT))):
            console.print(Text(INDENT + line))
