"""The commands as a user types them: each a process of its own."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import numpy as np
import pytest
from typer.testing import CliRunner

from command_line import serve
from command_line.app import app
from coordinator.config import Config
from coordinator.errors import BrokerError
from coordinator.observer import Snapshot

from ..commands import Popen, tinyreptile, wait_until
from ..environment import Mosquitto, free_port

# Mistakes: one sentence, exit code 1, no traceback

NOWHERE = "127.0.0.1:1"
MISTAKES = {
    "serve without a broker": (["serve", "--broker", NOWHERE], "no broker answers at 127.0.0.1:1"),
    "swarm without a broker": (["swarm", "-n", 1, "--broker", NOWHERE], "no broker answers at 127.0.0.1:1"),
    "status without a broker": (["status", "--broker", NOWHERE], "no broker answers at 127.0.0.1:1"),
    "export without a broker": (["export", "a.npz", "--broker", NOWHERE], "no broker answers at 127.0.0.1:1"),
    "bad address": (["serve", "--broker", "host:port"], "'host:port' is not HOST or HOST:PORT"),
    "bad run": (["serve", "--run", "a/b"], "a run's name is made of letters, digits, - and _, not 'a/b'"),
    "no such file": (["serve", "--config", "none.toml"], "none.toml: No such file or directory"),
    "not TOML": (["serve", "--config", "bad.toml"], "bad.toml is not valid TOML"),
    "unknown key": (["serve", "--config", "key.toml"], "key.toml: unknown key learning.betta; known here are mode,"),
    "impossible value": (["serve", "--config", "value.toml"], "learning.bits: must be 16, 8 or 4, not 5"),
    "unknown task": (["serve", "--task", "cosine"], "a task is one of sine, presence, omniglot, keywords, or a class"),
    "no password": (["serve", "--user", "u", "--password-file", "none.txt"], "broker.password_file: none.txt"),
    "no authority": (["serve", "--tls-ca", "bad.toml"], "broker.tls_ca: bad.toml is no readable PEM file"),
    "bad suffix": (["export", "a.txt"], "a.txt: the file's name must end in .npz or .json"),
    "no data": (["swarm", "--task", "presence", "--data", "nowhere", "--broker", NOWHERE], "nowhere"),
    "unwritable store": (["serve", "--store", "nowhere/a.sqlite"], "nowhere/a.sqlite can't be used"),
    "no store": (["serve", "--store", "bad.toml"], "the store bad.toml is damaged or no store at all"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(mistake: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("this is no TOML " * 100)
    (tmp_path / "key.toml").write_text("[learning]\nbetta = 1\n")
    (tmp_path / "value.toml").write_text("[learning]\nbits = 5\n")
    arguments, sentence = MISTAKES[mistake]
    done = tinyreptile(*arguments, cwd=tmp_path)
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_an_impossible_value_in_the_environment_names_it(tmp_path: Path) -> None:
    done = tinyreptile("serve", cwd=tmp_path, TINYREPTILE_LEARNING__MODE="fast")
    assert "environment: learning.mode: must be 'serial', 'asynchronous' or 'batch', not 'fast'" in done.stderr
    assert done.returncode == 1


def test_a_run_that_nobody_serves_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    address = f"{broker.host}:{broker.port}"
    status = tinyreptile("status", "--broker", address, "--run", "nobody", cwd=tmp_path)
    assert "no coordinator has said anything of run nobody" in status.stderr
    export = tinyreptile("export", "a.npz", "--broker", address, "--run", "nobody", cwd=tmp_path)
    assert "run nobody has published no initialization" in export.stderr
    assert (status.returncode, export.returncode) == (1, 1)
    assert not (tmp_path / "a.npz").exists()


def test_a_wrong_password_is_told(start_broker: Callable[..., Mosquitto], tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    closed = start_broker("allow_anonymous false", f"password_file {passwords}")
    (tmp_path / "mine").write_text("wrong\n")
    options = ["--broker", f"{closed.host}:{closed.port}", "--user", "me", "--password-file", "mine"]
    for command in ("serve", "swarm", "status"):
        done = tinyreptile(command, *options, cwd=tmp_path)
        assert "refused the connection" in done.stderr
        assert "wrong" not in done.stdout + done.stderr  # the password itself is never shown
        assert done.returncode == 1


def test_a_swarm_that_does_not_fit_the_model_is_told(
    broker: Mosquitto, tmp_path: Path, start: Callable[..., Popen]
) -> None:
    address = f"{broker.host}:{broker.port}"
    (tmp_path / "wide.toml").write_text('[run]\nmodel = [["input", 7], ["dense", 3], ["squared_error"]]\n')
    start("serve", "--config", "wide.toml", "--broker", address, "--run", "wide")
    options = ["--broker", address, "--run", "wide"]
    wait_until(lambda: tinyreptile("export", "w.json", *options, cwd=tmp_path).returncode == 0)
    done = tinyreptile("swarm", "-n", 1, "--evaluators", 0, *options, cwd=tmp_path)
    assert "device sine-0: the stream has 1 inputs and 1 outputs, the model 7 and 3" in done.stderr
    assert done.returncode == 1


# A run


def test_a_run_is_served_stopped_resumed_watched_and_exported(
    broker: Mosquitto, tmp_path: Path, start: Callable[..., Popen]
) -> None:
    options = ["--broker", f"{broker.host}:{broker.port}", "--run", "whole"]
    serve = ["serve", *options, "--task", "sine", "--rounds", 3000]
    first = start(*serve)
    swarm = start("swarm", *options, "-n", 10, "--evaluators", 2)

    def updates() -> int:
        done = tinyreptile("export", "now.json", *options, cwd=tmp_path)
        return int(json.loads((tmp_path / "now.json").read_text())["version"]) if done.returncode == 0 else 0

    wait_until(lambda: updates() > 50)
    first.send_signal(signal.SIGINT)
    text, _ = first.communicate(timeout=60)
    assert first.returncode == 0
    assert "Stopped at version" in text
    stopped = int(text.split("Stopped at version ")[1].split(";")[0])

    second = start(*serve)
    text, _ = second.communicate(timeout=100)
    assert second.returncode == 0
    assert f"at version {stopped}," in text
    assert "whole: finished" in text
    told, _ = swarm.communicate(timeout=60)  # it ends with the run
    assert swarm.returncode == 0
    assert [line.split("│")[2].strip() for line in told.splitlines() if "accepted " in line and "│" in line] == ["3000"]

    status = tinyreptile("status", *options, cwd=tmp_path)
    assert status.returncode == 0
    assert "3000 of 3000" in status.stdout
    assert "finished" in status.stdout
    done = tinyreptile("export", "end.npz", "end.json", *options, cwd=tmp_path)
    assert done.returncode == 0
    arrays = np.load(tmp_path / "end.npz")
    content = json.loads((tmp_path / "end.json").read_text())
    assert int(arrays["version"]) == content["version"] == 3000
    assert json.loads(str(arrays["model"])) == content["model"]
    assert {name: tuple(arrays[name].shape) for name in content["tensors"]} == {
        "dense0.weight": (1, 32),
        "dense0.bias": (32,),
        "dense1.weight": (32, 32),
        "dense1.bias": (32,),
        "dense2.weight": (32, 1),
        "dense2.bias": (1,),
    }
    assert all(np.array_equal(arrays[name], content["tensors"][name]) for name in content["tensors"])


def test_a_second_coordinator_of_a_run_stands_down(
    broker: Mosquitto, tmp_path: Path, start: Callable[..., Popen]
) -> None:
    options = ["--broker", f"{broker.host}:{broker.port}", "--run", "twice"]
    start("serve", *options)
    wait_until(lambda: tinyreptile("status", *options, cwd=tmp_path).returncode == 0)
    second = tinyreptile("serve", *options, cwd=tmp_path)
    assert "another coordinator serves this run" in second.stderr
    assert second.returncode == 1


def test_a_demonstration_without_its_broker_says_so(tmp_path: Path) -> None:
    done = tinyreptile("demo", "--broker", f"127.0.0.1:{free_port()}", "--rounds", 10, cwd=tmp_path)
    assert "no broker answers" in done.stderr
    assert done.returncode == 1


def test_a_watched_status_stays_when_the_broker_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def look(config: Config) -> Snapshot:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise BrokerError("no broker answers")
        if looks == 4:
            raise KeyboardInterrupt
        return Snapshot({"state": "running"})

    monkeypatch.setattr("command_line.status.look", look)
    CliRunner().invoke(app, ["status", "--watch"])
    assert looks == 4


def test_what_is_left_of_a_lost_connection_is_no_error_of_the_coordinator(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(serve._tell)
    lost = (OSError(errno.EBADF, "Bad file descriptor"), aiomqtt.MqttError("Unexpected disconnection"))
    for error in (*lost, ValueError("something else")):
        loop.call_exception_handler({"message": "in a callback", "exception": error})
    loop.close()
    assert "something else" in caplog.text
    assert not any(str(error) in caplog.text for error in lost)
