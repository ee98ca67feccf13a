"""`robot-rl serve`: from a checkpoint to the actions that a client gets."""

import json
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl import serve_config
from robot_rl.apps import serve, train
from robot_rl.apps.compose import compose
from robot_rl.apps.trained import find_trained
from robot_rl.clock import MonotonicClock
from robot_rl.errors import InputError
from robot_rl.functional.ensemble import REDUCTIONS
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.steering.openpi import OpenPiConnection
from robot_rl.steering.proposals import Deadline, ProposerError
from robot_rl.steering.selection import SELECTORS
from robot_rl.transforms.action import ActionScale

PENDULUM = ["environment=gymnasium_schema", "environment.id=Pendulum-v1", "environment.maximum_steps=5"]
CAR = ["environment=gymnasium_schema", "environment.id=MountainCarContinuous-v0", "environment.maximum_steps=5"]
STATE = np.array([1.0, 0.0, 0.5], np.float32)
KEYS = "keys={state: observation/state}"


def trained(folder: Path, environment: list[str], algorithm: str = "sac") -> Path:
    words = [f"algorithm={algorithm}", "algorithm.actor_hidden=[8]", f"output={folder}"]
    words += [] if algorithm == "bc" else ["algorithm.critic_hidden=[8]"]
    words += ["evaluation.videos=0", "evaluation.episodes=1", "evaluation.final_episodes=1"]
    words += ["+phases.online={interact:policy,steps:10,batch_size:4}"]
    assert train.run(compose("train", [*environment, *words])) == 0
    return folder


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("pendulum"), PENDULUM)


class Serving:
    """The command in a process of its own."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "robot_rl", "serve", *words, "port=0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        found = re.findall(r"at (ws://127\.0\.0\.1:\d+)", self.said)
        assert found, self.said + self.process.stderr.read()
        self.uri = found[-1]

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def ask(connection: OpenPiConnection, **message: Any) -> Any:
    return connection.call(message, Deadline.after(MonotonicClock(), 30.0))


def test_a_checkpoint_is_served_with_the_actions_of_its_policy(pendulum: Path) -> None:
    found = find_trained(str(pendulum))
    policy = AgentPolicy(
        agent=found.agent("cpu"),
        spec=found.spec,
        scale=ActionScale.from_spec(found.spec.action),
        device=torch.device("cpu"),
    )
    with Serving(str(pendulum), KEYS) as serving:
        connection = OpenPiConnection(uri=serving.uri)
        answer = ask(connection, **{"observation/state": STATE})
        assert connection.metadata["robot_rl"]["steered"] is False
        connection.close()
        assert serving.end() == 0
    np.testing.assert_allclose(answer["actions"], policy.decide({"state": STATE}), rtol=1e-6)


def test_a_steered_policy_is_served_and_its_decisions_are_written_down(pendulum: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "decisions.jsonl"
    key = tmp_path / "key"
    key.write_text("0123456789abcdef\n")
    words = [f"steer={pendulum}", "candidates=6", "deadline_s=20", f"log={log}", f"key_file={key}"]
    with Serving(str(pendulum), *words) as serving:
        connection = OpenPiConnection(uri=serving.uri, api_key="0123456789abcdef")
        answers = [ask(connection, state=STATE) for _ in range(3)]
        connection.close()
        assert serving.end() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["observation_id"] for line in lines] == [0, 1, 2]
    assert lines == [answer["steering"] for answer in answers]
    assert {line["reason"] for line in lines} == {"steered"}
    assert {line["candidates"] for line in lines} == {6}
    assert all(line["chosen_value"] >= line["base_value"] for line in lines)


def test_somebody_elses_policy_server_is_steered_and_gets_whole_messages(pendulum: Path) -> None:
    with (
        Serving(str(pendulum), KEYS, "explore=true") as policy,
        Serving(policy.uri, f"steer={pendulum}", KEYS, "candidates=5") as steered,
    ):
        connection = OpenPiConnection(uri=steered.uri)
        answer = ask(connection, **{"observation/state": STATE, "prompt": "swing up", "episode": 3})
        policy.process.kill()
        policy.process.wait(20)
        with pytest.raises(ProposerError, match="reports an error"):
            ask(connection, **{"observation/state": STATE})
        connection.close()
        assert steered.end() == 0
    assert answer["steering"]["reason"] == "steered"
    assert (answer["steering"]["candidates"], answer["steering"]["distinct"]) == (5, 5)
    assert answer["actions"].shape == (1, 1)


def test_a_rest_policy_is_steered_behind_our_protocol_by_configuration(pendulum: Path) -> None:
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            data = json.dumps("error" if len(asked) > 1 else [0.5]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    words = [f"steer={pendulum}", KEYS, "candidates=5", "policy.keys={image: observation/image}"]
    try:
        with Serving(f"openvla+http://127.0.0.1:{server.server_address[1]}", *words) as steered:
            connection = OpenPiConnection(uri=steered.uri)
            message = {"observation/state": STATE, "observation/image": np.zeros((2, 2, 3), np.uint8)}
            answer = ask(connection, **message, prompt="swing up")
            with pytest.raises(ProposerError, match="reports an error with status 200"):
                ask(connection, **message, prompt="swing up")
            connection.close()
            assert steered.end() == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    assert asked[0]["instruction"] == "swing up"
    assert set(asked[0]) == {"image", "instruction"}
    assert (answer["steering"]["reason"], answer["steering"]["perturbed"]) == ("steered", 4)
    assert answer["actions"].shape == (1, 1)


def test_a_critic_of_another_task_is_refused(pendulum: Path, tmp_path: Path) -> None:
    car = trained(tmp_path / "car", CAR)
    with pytest.raises(InputError, match=r"observation 'state' has shape \(3,\), that of the critic"):
        serve.run(compose("serve", [f"run={pendulum}", f"steer={car}"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which policy"),
        (["run=nowhere"], "holds no checkpoint"),
        (["run={run}", "keys={stat: x}"], "keys.stat: there is no such observation: did you mean 'state'"),
        (["run={run}", "host=0.0.0.0"], "set key_file=FILE"),
        (["run={run}", "key_file=nowhere"], "key_file=nowhere cannot be read"),
        (["run={run}", "key_file=/dev/null"], "is empty"),
        (["run={run}", "log=x.jsonl"], "set steer=RUN"),
        (["run={run}", "policy.chunk=2"], "leave it out"),
        (["run='ws://127.0.0.1:9'"], "steer=RUN"),
        (["run='ws://127.0.0.1:9'", "steer={run}", "explore=true"], "cannot be asked"),
        (["run='ws://127.0.0.1:9'", "steer={run}", "policy.chunk=4"], "set score_steps=1"),
        (["run='openvla+http://127.0.0.1:9'"], "steer=RUN"),
        (["run='openvla+ftp://127.0.0.1:9'", "steer={run}"], "write http://HOST:PORT"),
        (["run='octo+http://127.0.0.1:9'", "steer={run}"], "policy.unnorm_key=NAME"),
        (["run='groot+tcp://127.0.0.1:9'", "steer={run}"], "policy.actions=[NAME"),
        (["run='lerobot+grpc://127.0.0.1:9'", "steer={run}"], "policy.kind"),
        (["run='lerobot:nowhere'", "steer={run}"], "run=lerobot:nowhere"),
        (["run='octo:nowhere'", "steer={run}", "policy.unnorm_key=x"], "run=octo:nowhere"),
        (["run={run}", "steer={run}", "score_steps=2"], "score_steps=2"),
        (["run={run}", "steer={run}", "discrete=[4]"], "names dimensions that the actions do not have"),
    ],
)
def test_what_cannot_be_served_is_said_before_a_port_is_opened(pendulum: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        serve.run(compose("serve", [word.replace("{run}", str(pendulum)) for word in words]))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("candidates=0", "candidates=0 must lie"),
        ("perturbed=16", "perturbed=16 must lie"),
        ("keys={state: 3}", r"keys\.state=3 must be a name"),
        ("port=70000", "port=70000 must lie"),
        ("deadline_s=0", "deadline_s=0"),
        ("policy.chunk=0", r"policy\.chunk=0"),
        ("policy.keys={image: 3}", r"policy\.keys\.image=3 must be a name"),
        ("selection.rule=bestest", "selection.rule=bestest"),
        ("selection.expectile=1", "selection.expectile=1"),
    ],
)
def test_a_mistyped_setting_is_refused_by_its_key(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose("serve", ["run=x", word])


def test_the_choices_of_the_settings_are_those_of_the_selectors() -> None:
    assert serve_config.SELECTORS == SELECTORS
    assert serve_config.REDUCTIONS == REDUCTIONS
