"""The commands as a user types them: each a process of its own."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from command_line.app import app
from coordinator.config import BrokerConfig, Config
from coordinator.errors import BrokerError
from coordinator.mqtt import client, pack
from coordinator.observer import Snapshot
from tinyreptile import messages, reports

from ..commands import COMMAND, Popen, lines_until, tinyreptile, wait_until
from ..environment import ROOT, Mosquitto, free_port, need_module, with_hosts

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
    "a password of nobody": (["serve", "--password-file", "bad.toml"], "name the one of --password-file with --user"),
    "an empty address": (["status", "--broker", ""], "--broker: '' is not HOST or HOST:PORT"),
    "a host's name": (["status", "--broker", "a..b"], "broker.host: no host can have the name 'a..b'"),
    "a store's host": (["runs", "check", "postgresql://a..b/x"], "the store's host: no host can have the name 'a..b'"),
    "a fleet's host": (["provision", "f", "--host", "a..b"], "--host: 'a..b' is no host name"),
    "a host for metrics": (["serve", "--metrics", "a..b:80"], "metrics can't be served at a..b:80"),
    "no authority": (["serve", "--tls-ca", "bad.toml"], "broker.tls_ca: bad.toml is no readable PEM file"),
    "bad suffix": (["export", "a.txt"], "a.txt: the file's name must end in .npz or .json"),
    "no data": (["swarm", "--task", "presence", "--data", "nowhere", "--broker", NOWHERE], "nowhere"),
    "unwritable store": (["serve", "--store", "nowhere/a.sqlite"], "nowhere/a.sqlite can't be used"),
    "a long path": (["runs", "check", "a" * 300 + ".sqlite"], "aaa.sqlite: File name too long"),
    "a long path to back up to": (["runs", "backup", "bad.toml", "b" * 300], "bbb: File name too long"),
    "a long path to serve": (["serve", "--store", "a" * 300], "aaa can't be used: File name too long"),
    "a store in memory": (["serve", "--store", ":memory:"], "':memory:' is no name of a store"),
    "a store by SQLite's URI": (["serve", "--store", "file::memory:"], "'file::memory:' is no name of a store"),
    "a store that is a folder": (["serve", "--store", "new/"], "'new/' is no name of a store"),
    "no name to check": (["runs", "check", ""], "'' is no name of a store: it is a file, as kitchen.sqlite"),
    "no name to unset in": (["runs", "unset", "run.rounds", "--store", ""], "'' is no name of a store"),
    "no name to back up": (["runs", "backup", "", "copy"], "'' is no name of a store"),
    "no name to restore": (["runs", "restore", "bad.toml", ""], "'' is no name of a store"),
    "a folder to restore": (["runs", "restore", "bad.toml", ".."], "the store .. is a folder; name a file"),
    "a database to back up": (["runs", "backup", "postgresql://h/x", "copy"], "with pg_dump --schema"),
    "a long folder": (["revoke", "c" * 300, "d0"], "ccc/fleet.json: File name too long"),
    "a user that is no text": (["status", "--user", "a\udcff"], "broker.user: must be a valid string"),
    "a version beyond all": (["runs", "rollback", "9" * 20, "--broker", NOWHERE], "a whole number in a message lies"),
    "rounds beyond all": (["runs", "set", f"run.rounds={10**20}", "--broker", NOWHERE], "a whole number in a message"),
    "a setting without a name": (["runs", "set", "=5"], "the name of a setting is missing in '=5'"),
    "a number of many digits": (
        ["runs", "set", f"run.rounds={'9' * 6000}"],
        f"setting: run.rounds has too many digits: '{'9' * 59}...\n",
    ),
    "a date": (["runs", "set", "guards.trusted=[2026-01-01]", "--broker", NOWHERE], "a value in a message is a number"),
    "a long request": (["runs", "set", f"guards.trusted={['d'] * 2000}"], "this request has"),
    "a reason that is no text": (["devices", "quarantine", "d0", "--reason", "\udcff"], "a text in a message can't be"),
    **{
        f"{' '.join(command)} {device_id[:5]!r}": (
            [*command, device_id, "--broker", NOWHERE] if command[0][:6] == "device" else [*command, device_id],
            sentence,
        )
        for device_id, sentence in {
            "\udcff": "a device id is made of letters, digits, - and _, not '\\udcff'",
            "a/#": "a device id is made of letters, digits, - and _, not 'a/#'",
            "a" * 3000: "a device id has 1 to 32 characters",
        }.items()
        for command in (
            *(["devices", verb] for verb in ("show", "forget", "quarantine", "release")),
            *(["device", verb] for verb in ("logs", "predictions", "reset")),
            ["flash", "none.json", "--id"],
        )
    },
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
    assert {path.name for path in tmp_path.iterdir()} - {"default.sqlite"} == {"bad.toml", "key.toml", "value.toml"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--broker", NOWHERE],
        ["serve", "--config", "a.toml", "--config", "b.toml"],
        ["swarm", "-n", 1, "--broker", NOWHERE],
        ["provision", "fleet", "--host", "h"],
        ["runs", "check", "a.sqlite"],
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:2])),
)
def test_a_working_folder_that_was_deleted_is_told(arguments: list[object], tmp_path: Path) -> None:
    begin = f"import os; os.chdir({str(tmp_path)!r}); os.rmdir({str(tmp_path)!r}); "
    command = [*COMMAND[:2], begin + COMMAND[2], *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "error: the working folder has been deleted; change to another one\n"
    assert done.returncode == 1


def test_every_address_of_the_brokers_name_is_tried(broker: Mosquitto, tmp_path: Path) -> None:
    before = with_hosts(tmp_path, "::1 broker.test", "127.0.0.2 broker.test", f"{broker.host} broker.test")
    run = retained(broker, run="addressed", state="stopped")
    command = [*before, *COMMAND, "runs", "list", "--broker", f"broker.test:{broker.port}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert run in done.stdout, done.stderr


def test_an_impossible_value_in_the_environment_names_it(tmp_path: Path) -> None:
    done = tinyreptile("serve", cwd=tmp_path, TINYREPTILE_LEARNING__MODE="fast")
    assert "environment: learning.mode: must be 'serial', 'asynchronous' or 'batch', not 'fast'" in done.stderr
    assert done.returncode == 1


def test_a_run_that_nobody_serves_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    address = f"{broker.host}:{broker.port}"
    status = tinyreptile("status", "--broker", address, "--run", "nobody", cwd=tmp_path)
    assert f"no coordinator has said anything of run nobody at {address}" in status.stderr
    export = tinyreptile("export", "a.npz", "--broker", address, "--run", "nobody", cwd=tmp_path)
    assert "run nobody has published no initialization" in export.stderr
    assert (status.returncode, export.returncode) == (1, 1)
    assert not (tmp_path / "a.npz").exists()


def test_an_export_of_a_run_that_is_not_there_names_those_that_are(broker: Mosquitto, tmp_path: Path) -> None:
    run = retained(broker, run="aquarium-2", state="stopped")
    done = tinyreptile(
        "export", "a.npz", "--broker", f"{broker.host}:{broker.port}", "--run", "aquarium-3", cwd=tmp_path
    )
    assert "run aquarium-3 has published no initialization" in done.stderr
    assert f"is {run} meant?" in done.stderr
    assert done.returncode == 1


def test_the_help_of_demo_tells_its_own_defaults(tmp_path: Path) -> None:
    said = " ".join(tinyreptile("demo", "--help", cwd=tmp_path).stdout.split())
    assert "The run's name [default: demo]" in said
    assert "The MQTT broker [default: one of its own]" in said


RUN_STATUS: dict[str, Any] = {
    "protocol": messages.PROTOCOL,
    "state": "running",
    "boot": "b",
    "run": "r",
    "mode": "serial",
    **dict.fromkeys(("version", "updates", "rounds", "rate", "in_flight", "devices", "evaluators", "unfit"), 0),
    **dict.fromkeys(("round_trip_p50", "round_trip_p99"), 0.0),
    "refusals": {},
    "evaluation": {},
}


def retained(broker: Mosquitto, **status: object) -> str:
    """The name of a run whose status of old is all that is left."""
    message = RUN_STATUS | status

    async def leave() -> None:
        async with client(BrokerConfig(host=broker.host, port=broker.port)) as session:
            topic = reports.CoordinatorTopics(str(message["run"])).coordinator
            await session.publish(topic, pack(message), qos=1, retain=True)

    asyncio.run(leave())
    return str(message["run"])


@pytest.mark.parametrize("state", ["offline", "stopped", "finished", "running"])
def test_the_last_rate_of_a_coordinator_that_is_gone_is_not_shown_as_todays(
    state: str, broker: Mosquitto, tmp_path: Path
) -> None:
    run = retained(broker, run=f"gone-{state}", state=state, rate=123.0, in_flight=45, devices=67, updates=890)
    status = tinyreptile("status", "--broker", f"{broker.host}:{broker.port}", "--run", run, cwd=tmp_path)
    rows = {row[1].strip(): row[2].strip() for line in status.stdout.splitlines() if len(row := line.split("│")) > 2}
    words = {"offline": "offline: its coordinator is gone", "running": "offline: nothing comes from its coordinator"}
    updates = "890 or more" if state == "offline" else "890"  # the will is as old as the connection
    assert (rows["state"], rows["updates"], rows["in flight"]) == (words.get(state, state), updates, "-")
    listed = tinyreptile("runs", "list", "--broker", f"{broker.host}:{broker.port}", cwd=tmp_path).stdout
    assert "67" not in next(line for line in listed.splitlines() if run in line)


def test_a_swarm_of_a_run_that_nobody_serves_says_so_and_waits(
    broker: Mosquitto, tmp_path: Path, start: Callable[..., Popen]
) -> None:
    run = retained(broker, run="aquarium", state="stopped")
    options = ["--broker", f"{broker.host}:{broker.port}", "--run", "aquarum"]
    said = lines_until(
        swarm := start("swarm", *options, "-n", 2, "--evaluators", 0),
        lambda lines: any("waiting for a coordinator; here 2 online" in line for line in lines) and len(lines) > 2,
    )
    assert f"is {run} meant?" in next(
        line for line in said if "no coordinator has said anything of run aquarum" in line
    )
    swarm.send_signal(signal.SIGINT)
    assert f"is {run} meant?" in tinyreptile("status", *options, cwd=tmp_path).stderr


def test_a_swarm_with_one_client_id_keeps_to_one_session(
    start_broker: Callable[..., Mosquitto], start: Callable[..., Popen]
) -> None:
    broker = start_broker()
    options = ["--broker", f"{broker.host}:{broker.port}", "--run", "aquarium", "--client-id", "laptop"]
    options += ["--device-client-id", "fish-{id}", "-n", 2, "--evaluators", 0]
    swarm = start("swarm", *options)
    lines_until(swarm, lambda lines: any("no coordinator has said anything of run aquarium" in line for line in lines))
    swarm.wait(20)
    log = broker.log.read_text()
    assert log.count(" as laptop ") >= 2
    assert {name for name in ("fish-sine-0", "fish-sine-1") if f" as {name} " in log} == {"fish-sine-0", "fish-sine-1"}
    assert "already connected" not in log


def test_devices_do_not_share_a_client_id(tmp_path: Path) -> None:
    for command in ("swarm", "demo"):
        done = tinyreptile(command, "--device-client-id", "fish", cwd=tmp_path)
        assert done.returncode == 1
        assert "fish would be the client id of all devices" in done.stderr
    done = tinyreptile("swarm", "--device-client-id", "{id}-{name}", cwd=tmp_path)
    assert "the braces of a client id hold id or random, not as in {id}-{name}" in done.stderr


@pytest.mark.usefixtures("compiled")
def test_a_swarm_whose_coordinator_dies_says_so_and_keeps_its_updates(
    broker: Mosquitto, start: Callable[..., Popen]
) -> None:
    options = ["--broker", f"{broker.host}:{broker.port}", "--run", "orphans"]
    serve = start("serve", *options, "--rounds", 0)
    swarm = start("swarm", *options, "-n", 4, "--evaluators", 0)
    assert swarm.stdout
    known = 0
    for line in swarm.stdout:
        if not known and (found := re.match(r"([1-9]\d*) updates: ", line)):
            known = int(found[1])
            serve.kill()
        if "offline" in line:
            break
    found = re.match(r"(\d+) or more updates: offline: its coordinator is gone; here \d online, \d+ accepted$", line)
    assert found, line
    assert int(found[1]) >= known


def test_a_problem_of_the_coordinator_that_is_over_leaves_the_line_of_its_swarm(
    broker: Mosquitto, start: Callable[..., Popen]
) -> None:
    status: dict[str, object] = {"run": "full", "state": "running", "problem": "the disk is full"}
    over = threading.Event()

    def serve() -> None:
        while not over.wait(0.5):
            retained(broker, **status)

    server = threading.Thread(target=serve)
    server.start()
    try:
        swarm = start("swarm", "--broker", f"{broker.host}:{broker.port}", "--run", "full", "-n", 1, "--evaluators", 0)
        assert swarm.stdout
        assert any("0 updates: the disk is full; here" in line for line in swarm.stdout)
        del status["problem"]
        assert any("0 updates: waiting for devices; here" in line for line in islice(swarm.stdout, 3))
    finally:
        over.set()
        server.join()


def test_a_swarm_whose_process_dies_says_so_goes_on_and_fails(
    broker: Mosquitto, tmp_path: Path, start: Callable[..., Popen]
) -> None:
    psutil = need_module("psutil")
    options = ["--broker", f"{broker.host}:{broker.port}", "--run", "halved"]
    start("serve", *options, "--rounds", 0)
    swarm = start("swarm", *options, "-n", 4, "--evaluators", 0, "--processes", 2)
    assert swarm.stdout
    killed = 0
    said = ""
    for line in swarm.stdout:
        said += line
        if not killed and "here 4 online" in line:
            children = psutil.Process(swarm.pid).children()
            next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
            killed = 1
        if killed and "here 2 online" in line:
            break
    swarm.send_signal(signal.SIGINT)
    said += swarm.communicate(timeout=60)[0]
    assert swarm.returncode == 1
    assert said.count("error: the process of 2 simulated devices has ended with SIGKILL") == 2
    # Those of the process that was killed count as of its last report.
    assert re.search(r"│ [2-4] of 4 devices", said)


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


@pytest.mark.usefixtures("compiled")
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


@pytest.mark.usefixtures("compiled")
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
    done = tinyreptile("export", "end.npz", "end.json", "./end.npz", *options, cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["end.npz", "end.json"]
    arrays = np.load(tmp_path / "end.npz")
    content = json.loads((tmp_path / "end.json").read_text())
    # One more where the run has gone back to its best version at the end.
    assert int(arrays["version"]) == content["version"] in (3000, 3001)
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
        if looks == 5:
            raise KeyboardInterrupt
        return Snapshot(RUN_STATUS if looks != 3 else None)

    monkeypatch.setattr("command_line.status.look", look)
    CliRunner().invoke(app, ["status", "--watch"])
    assert looks == 5
