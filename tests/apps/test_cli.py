"""The command line: words, help, and an answer in words for everything that can be wrong with them."""

import dataclasses
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from robot_rl import config
from robot_rl.algorithms import ALGORITHM_CONFIGS
from robot_rl.apps import doctor, probes, schema
from robot_rl.apps.cli import main
from robot_rl.apps.compose import as_override, compose, compose_yaml
from robot_rl.apps.help import EXAMPLES
from robot_rl.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def message(verb: str, *words: str) -> str:
    """What `compose` says against these words."""
    with pytest.raises(InputError) as caught:
        compose(verb, list(words))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- composing


def test_overrides_reach_the_dataclass_with_its_defaults() -> None:
    composed = compose("train", ["environment=lift", "seed=3", "replay.discount=0.9"])
    assert isinstance(composed, config.TrainConfig)
    assert isinstance(composed.environment, config.RobosuiteEnvironmentConfig)
    assert (composed.seed, composed.replay.discount, composed.threads) == (3, 0.9, 1)
    assert composed.output == "runs/run/seed_3"


@pytest.mark.parametrize("name", schema.choices("environment"))
def test_every_environment_file_composes(name: str) -> None:
    robot = ["environment.robot=sim_panda"] if name == "ros2" else []  # which has no default, being a robot
    composed = compose("evaluate", [f"environment={name}", *robot])
    assert type(composed.environment) in config.ENVIRONMENT_CONFIGS.values()


@pytest.mark.parametrize("name", schema.choices("algorithm"))
def test_every_algorithm_file_composes(name: str) -> None:
    assert type(compose("train", [f"algorithm={name}"]).algorithm) in ALGORITHM_CONFIGS.values()


@pytest.mark.parametrize("name", schema.choices("experiment"))
def test_every_experiment_file_composes(name: str) -> None:
    composed = compose("train", [f"experiment={name}"])
    assert composed.phases
    assert all(isinstance(phase, config.PhaseConfig) for phase in composed.phases.values())
    assert type(composed.algorithm) in ALGORITHM_CONFIGS.values()


def test_the_printed_configuration_shows_what_is_still_missing() -> None:
    assert "store: ???" in compose_yaml("inspect", [])


def test_an_entry_is_added_to_a_mapping_of_dataclasses() -> None:
    composed = compose("train", ["+datasets.mine.path=data/mine", "datasets.mine.keep=successful"])
    assert composed.datasets == {"mine": config.DatasetConfig(path="data/mine", keep="successful")}
    composed = compose("train", ["+phases.more={steps: 5, interact: policy}"])
    assert composed.phases["more"] == config.PhaseConfig(steps=5, interact="policy")


def test_a_folder_of_ones_own_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "environment").mkdir()
    file = tmp_path / "environment" / "mine.yaml"
    file.write_text("defaults: [gymnasium_schema, _self_]\nid: Mine-v0\n")
    composed = compose("evaluate", ["environment=mine"], tmp_path)
    assert composed.environment.id == "Mine-v0"
    assert "there is no environment 'mine'" in message("evaluate", "environment=mine")
    with pytest.raises(InputError, match="is not a folder"):
        compose("evaluate", [], tmp_path / "nowhere")


@pytest.mark.parametrize(
    "path", ["a=b", "with space", "it's", 'say "x"', "a\\", "a\\'b", "{a},[b]", "100%", "5", "null"]
)
def test_a_positional_word_is_taken_literally(path: str) -> None:
    assert compose("inspect", [as_override("store", path)]).store == path


def test_a_word_in_quotes_of_its_own_keeps_their_meaning() -> None:
    assert compose("inspect", [as_override("store", "'a=b'")]).store == "a=b"
    assert compose("inspect", ["store='a=b'"]).store == "a=b"


# --- what can be wrong


def test_an_unknown_key_names_the_nearest_one_wherever_it_is() -> None:
    assert "did you mean 'strict'" in message("doctor", "stric=true")
    assert "did you mean 'replay.discount'" in message("train", "discount=0.9")
    assert "did you mean 'replay.discount'" in message("train", "replay.discont=0.9")
    assert "did you mean 'environment.task'" in message("train", "environment=lift", "environment.tsk=Lift")
    assert "did you mean 'environment'" in message("train", "envronment=lift")
    assert "did you mean 'replay.discount'" in message("train", "replay={discont: 0.9}")
    assert "there is no key 'replay.foo.bar'" in message("train", "replay.foo.bar=1")
    assert "Choose environment=NAME first" in message("evaluate", "environment.id=x")


@pytest.mark.parametrize("words", [["+foo=1"], ["++foo=1"], ["~foo"]])
def test_a_plus_does_not_smuggle_an_unknown_key_in(words: list[str]) -> None:
    assert "no key 'foo'" in message("doctor", *words)


def test_a_plus_does_not_smuggle_an_unknown_nested_key_in() -> None:
    assert "did you mean 'discount'" in message("train", "+replay.discont=1")
    assert "did you mean 'steps'" in message("train", "+phases.more.step=1")


def test_an_unknown_choice_names_the_nearest_one_and_all() -> None:
    said = message("train", "environment=lfit")
    assert "there is no environment 'lfit': did you mean 'lift'?" in said
    assert all(name in said for name in schema.choices("environment"))
    assert "_schema" not in said
    assert "there is no algorithm 'iqll': did you mean 'iql'" in message("train", "algorithm=iqll")
    assert "there is no experiment 'nothing'" in message("train", "experiment=nothing")


def test_a_choice_where_there_is_none_is_refused() -> None:
    assert "has no key 'environment'" in message("doctor", "environment=lift")
    assert "'algorithm' is chosen already" in message("train", "+algorithm=iql_schema")


@pytest.mark.parametrize(
    ("verb", "word", "said"),
    [
        ("doctor", "strict=maybe", "strict: 'maybe' does not fit, it must be true or false."),
        ("doctor", "strict=null", "strict: null does not fit, it must be true or false."),
        ("train", "seed=1.5", "seed: '1.5' does not fit, it must be a whole number."),
        ("train", "replay.discount=x", "replay.discount: 'x' does not fit, it must be a number."),
        ("train", "replay=3", "replay: '3' does not fit, it must be a mapping such as {key: value}."),
        ("train", "+phases.a.steps=x", "phases.a.steps: 'x' does not fit, it must be a whole number."),
        ("ingest", "action_low=3", "action_low: '3' does not fit, it must be a list such as [a,b] or null."),
        ("evaluate", "run=[a]", "run: '[a]' does not fit, it must be text or null."),
    ],
)
def test_a_wrong_type_names_key_value_and_what_is_wanted(verb: str, word: str, said: str) -> None:
    assert message(verb, word) == said


def test_a_missing_value_names_the_key_and_shows_how() -> None:
    assert message("inspect") == "'store' is missing: give text, as in `robot-rl inspect STORE`."
    assert "as in `robot-rl ingest SOURCE STORE`" in message("ingest", "store=x")
    assert "'datasets.mine.path' is missing" in message("train", "+datasets.mine={}")
    assert "+datasets.mine.path=VALUE" in message("train", "datasets.mine.path=x")


@pytest.mark.parametrize("word", ["strict", "=3", "+=3"])
def test_a_word_that_is_no_override_says_what_was_expected(word: str) -> None:
    assert "is not of the form key=value" in message("doctor", word)


def test_a_value_that_cannot_be_read_says_how_to_quote_it() -> None:
    assert "needs quotes inside the shell's: store=\"'a=b'\"" in message("inspect", "store=a=b")
    assert "cannot be read" in message("train", "environment=lift", "name=[1,2")


def test_several_values_are_refused_with_the_ways_out() -> None:
    assert "write store=\"'a,b'\"" in message("inspect", "store=a,b")


def test_a_key_that_is_there_already_is_not_added() -> None:
    assert message("doctor", "+strict=true") == "'strict' is a key already: write strict=VALUE without the +."


def test_a_reference_to_nothing_is_named() -> None:
    assert message("train", "name=${nme}") == "name refers to '${nme}', and there is no such key."


def test_a_check_of_the_schema_keeps_its_own_words() -> None:
    assert message("train", "replay.discount=2") == "replay.discount=2.0 must lie in [0, 1)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: [gymnasium_schema, _self_]\nid: [Mine\n", "a YAML file cannot be read"),
        ("defaults: [gymnasium_schema, _self_]\nids: Mine\n", "configs/environment/mine.yaml: there is no key"),
        ("defaults: [gymnasium_schema, _self_]\nrender_size: big\n", "'big' does not fit, it must be a whole number"),
        ("defaults: [gymnasim_schema, _self_]\nid: Mine\n", "there is no environment 'gymnasim_schema'"),
    ],
)
def test_a_fault_in_a_file_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "mine.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        compose("evaluate", ["environment=mine"], tmp_path)
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)


# --- the schema that help shows


def runtime_keys(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("verb", config.VERB_CONFIGS)
def test_help_shows_exactly_the_fields_of_the_schema(verb: str) -> None:
    shown = {key.name.split(".")[0] for key in schema.verb_keys(verb)}
    assert shown == runtime_keys(config.VERB_CONFIGS[verb])


@pytest.mark.parametrize(
    ("group", "kinds"), [("environment", config.ENVIRONMENT_CONFIGS), ("algorithm", ALGORITHM_CONFIGS)]
)
def test_help_shows_exactly_the_fields_of_every_kind(group: str, kinds: dict[str, type]) -> None:
    shown = {kind: {key.name.split(".")[1] for key in keys} for kind, keys in schema.kind_keys(group).items()}
    assert shown == {kind: runtime_keys(cls) for kind, cls in kinds.items()}


def test_defaults_and_meaning_come_from_the_source() -> None:
    keys = {key.name: key.field for key in schema.verb_keys("train")}
    assert (keys["replay.discount"].type, keys["replay.discount"].default) == ("float", "0.99")
    assert keys["resume"].default == "false"
    assert keys["datasets.<name>.path"].default is None
    assert keys["phases.<name>.batch_size"].text == "rows of one critic update"
    assert keys["datasets.<name>.maximum_episodes"].default == "null"


def test_a_default_of_the_verbs_yaml_is_shown_with_its_comment() -> None:
    keys = {key.name: key.field for key in schema.verb_keys("ingest")}
    assert keys["success.observation"].default == "''"  # not required: empty is no rule
    assert "empty is no rule: success.observation=state" in keys["success"].text
    assert [name for name, field in keys.items() if field.default is None] == ["source", "store"]


@pytest.mark.parametrize("name", schema.choices("experiment"))
def test_help_names_the_data_that_an_experiment_reads(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [dataset.path for dataset in compose("train", [f"experiment={name}"]).datasets.values()]
    assert schema.experiment_data(name) == paths
    needs = ", ".join(paths) or "no data"
    main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"  {name} ") and line.endswith(f"(needs {needs})") for line in lines)


def test_every_verb_has_a_summary_words_and_examples() -> None:
    assert schema.verbs() == list(config.VERB_CONFIGS) == list(schema.POSITIONAL)
    assert all(schema.summary(verb) for verb in schema.verbs())


@pytest.mark.parametrize("command", [command for examples in EXAMPLES.values() for command, _ in examples])
def test_the_examples_of_help_compose(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(command)[1:], "--print-config"]) == 0, capsys.readouterr().err


def test_positional_words_are_keys() -> None:
    for verb, words in schema.POSITIONAL.items():
        assert set(words) <= {key.name for key in schema.verb_keys(verb)} | set(schema.groups(verb))


# --- the program


def test_help_lists_verbs_keys_choices_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == main(["help"]) == 0
    page = capsys.readouterr().out
    assert all(verb in page for verb in config.VERB_CONFIGS)
    assert main(["train", "--help"]) == main(["-h", "train"]) == 0
    page = capsys.readouterr().out
    for expected in ("replay.discount", "float", "0.99", "environment=NAME", "lift", "experiment=NAME", "Examples"):
        assert expected in page
    assert "of the kind robosuite" in page


def test_an_unknown_verb_or_option_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "there is no verb 'trian': did you mean 'train'?" in capsys.readouterr().err
    assert main(["train", "--hlep"]) == 2
    assert "did you mean '--help'?" in capsys.readouterr().err
    assert main(["inspect", "a", "b"]) == 2
    assert "'b' is one word too many: `robot-rl inspect STORE`" in capsys.readouterr().err


def test_wrong_input_is_one_paragraph_on_stderr_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "stric=true"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("robot-rl: `robot-rl doctor` has no key 'stric'")


def test_print_config_shows_the_composition_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "data/a=b", "--print-config"]) == 2  # a word with = is a setting
    assert main(["inspect", "'data/a=b'", "--print-config"]) == 0
    assert "store: data/a=b" in capsys.readouterr().out


def test_a_train_word_is_an_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nothing"]) == 2
    assert "there is no experiment 'nothing'" in capsys.readouterr().err


def test_the_program_says_its_version_quickly_without_torch() -> None:
    code = (
        "import sys; from robot_rl.apps.cli import main; main(['train', '--help']); assert 'torch' not in sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5  # seconds of CPU
    done = subprocess.run(
        [sys.executable, "-m", "robot_rl", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("robot-rl ")


def test_ctrl_c_ends_with_130_and_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> list[probes.Finding]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "SECTIONS", {"Machine": interrupt})
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_whole_mapping_replaces_what_the_experiment_had() -> None:
    composed = compose("train", ["experiment=lift", "phases.online.shares={offline:0.25,online:0.75}"])
    assert composed.phases["online"].shares == {"offline": 0.25, "online": 0.75}
    composed = compose("train", ["experiment=lift", "phases.offline.algorithm={}"])
    assert composed.phases["offline"].algorithm == {}
