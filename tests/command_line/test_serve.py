"""`tinyreptile serve` as an operator runs it: several runs, metrics, logs for a collector, a service manager."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from coordinator.entries import Setting
from coordinator.store import Store

from ..commands import COMMAND, Popen, tinyreptile, wait_until
from ..environment import Mosquitto, free_port

Start = Callable[..., Popen]


def write_run(folder: Path, broker: Mosquitto, name: str, rounds: int = 0, **run: object) -> Path:
    """A configuration file for the run ``name``."""
    settings = {"name": name, "rounds": rounds, **run}
    lines = ["[run]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    lines += ["[broker]", f"port = {broker.port}", "[learning]", "steps = 4", "[evaluation]", "every = 0"]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def get(port: int, path: str) -> str:
    """What the service answers; empty if it does not, or not well."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())
    return ""


def begin(folder: Path, *arguments: object, **environment: str) -> Popen:
    """The command in the background, its standard output and error apart."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Mistakes


def test_a_metrics_address_that_is_none_or_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        complaints = {
            "0": "--metrics: '127.0.0.1:0' is not PORT or HOST:PORT, with a port from 1 to 65535",
            "x": "--metrics: 'x' names no port; write PORT or HOST:PORT",
            "": "--metrics: '' is not PORT or HOST:PORT, with a port from 1 to 65535",
            "a:b": "--metrics: 'a:b' is not PORT or HOST:PORT, with a port from 1 to 65535",
            taken: f"metrics can't be served at 127.0.0.1:{taken} (",
        }
        for value, complaint in complaints.items():
            done = tinyreptile("serve", "--broker", "127.0.0.1:1", "--metrics", value, cwd=tmp_path)
            assert done.stderr.startswith(f"error: {complaint}"), value
            assert (done.returncode, list(tmp_path.iterdir())) == (1, []), "nothing was begun"


def test_configurations_that_do_not_go_together_are_told(broker: Mosquitto, tmp_path: Path) -> None:
    one = write_run(tmp_path, broker, "one", store="same.sqlite")
    two = write_run(tmp_path, broker, "two", store="same.sqlite")
    complaints = {
        (one, one): "two of the configurations are of run one; a service has each run once",
        (one, two): "runs one and two have the same store, same.sqlite; each needs one of its own",
        (one, two, "--run", "three"): "--run and --store are of one run; of several, each file says its own",
    }
    for (first, second, *more), complaint in complaints.items():
        done = tinyreptile("serve", "--config", first, "--config", second, *more, cwd=tmp_path)
        assert done.stderr.strip() == f"error: {complaint}"
        assert done.returncode == 1
    assert not (tmp_path / "same.sqlite").exists()


def test_a_mistake_is_a_record_where_logs_are_records(tmp_path: Path) -> None:
    done = tinyreptile("serve", "--log-format", "json", "--config", "none.toml", cwd=tmp_path)
    record = json.loads(done.stderr)
    assert record["level"] == "error"
    assert "none.toml: No such file or directory" in record["message"]
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("unread", ["output", "output-and-warnings"])
@pytest.mark.usefixtures("compiled")
def test_a_run_goes_on_when_nobody_reads_what_it_prints(
    unread: str, broker: Mosquitto, tmp_path: Path, start: Start
) -> None:
    config = write_run(tmp_path, broker, unread, rounds=150, store=str(tmp_path / "run.sqlite"))
    tinyreptile("serve", "--config", config, "--broker", f"127.0.0.1:{free_port()}", cwd=tmp_path)  # begins the run
    store = Store(str(tmp_path / "run.sqlite"), unread, create=False)
    store.write([Setting("learning.alpha", 0.25)])  # of which a start warns
    store.close()
    with begin(tmp_path, "serve", "--config", config) as service:
        assert service.stdout
        assert service.stderr
        service.stdout.close()
        if unread != "output":
            service.stderr.close()
        swarm = start("swarm", "-n", 4, "--evaluators", 0, "--think", 0.3, "--config", config)
        said = swarm.communicate(timeout=100)[0]
        try:
            assert service.wait(20) == 0, said
        finally:
            service.kill()
        if unread == "output":
            assert "learning.alpha is 0.25" in " ".join(service.stderr.read().split())


def test_a_run_goes_on_when_the_reader_of_its_output_has_stopped_reading(
    broker: Mosquitto, tmp_path: Path, start: Start
) -> None:
    path = tmp_path / "run.sqlite"
    config = write_run(tmp_path, broker, "stuck", rounds=60, store=str(path))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(1000))
    os.set_blocking(writer, True)
    command = [*COMMAND, "serve", "--config", str(config)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=writer, stderr=writer) as service:
        os.close(writer)
        try:
            start("swarm", "-n", 4, "--evaluators", 0, "--think", 0.3, "--config", config)

            def updates() -> int:
                with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path)) as database:
                    return int(database.execute("SELECT count(*) FROM accepted").fetchone()[0])
                return 0

            wait_until(lambda: updates() == 60)
            with os.fdopen(reader) as output:
                text = output.read()
            assert service.wait(20) == 0
        finally:
            service.kill()
    assert "Run stuck: finished" in text


# Several runs


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("compiled")
def test_several_runs_are_served_watched_and_stopped_together(broker: Mosquitto, tmp_path: Path, start: Start) -> None:
    for name in ("kitchen", "hall"):
        write_run(tmp_path, broker, name)
    port = free_port()
    files = ["--config", "kitchen.toml", "--config", "hall.toml"]
    service = begin(tmp_path, "serve", *files, "--metrics", port)
    wait_until(lambda: get(port, "/readyz") == "ready\n")
    assert get(port, "/healthz") == "alive\n"
    start("swarm", "-n", 4, "--evaluators", 0, "--config", "kitchen.toml")

    def updates(name: str) -> float:
        lines = get(port, "/metrics").splitlines()
        return next((float(v) for n, _, v in (line.partition(" ") for line in lines) if n == name), 0.0)

    wait_until(lambda: updates('tinyreptile_updates_total{run="kitchen"}') > 20)
    assert updates('tinyreptile_updates_total{run="hall"}') == 0
    service.send_signal(signal.SIGINT)
    text, errors = service.communicate(timeout=60)
    assert (service.returncode, errors) == (0, "")
    for name in ("kitchen", "hall"):
        assert f"Run {name} at version 0, store {name}.sqlite" in text
        assert f"Run {name}: stopped" in text
    assert "hall: 0 updates: waiting for devices" in text
    assert text.count("the same command goes on from there") == 2


def test_one_that_can_not_begin_is_told_and_the_service_does_not_start(broker: Mosquitto, tmp_path: Path) -> None:
    write_run(tmp_path, broker, "good", rounds=30)
    write_run(tmp_path, broker, "bad", store="good.toml")
    done = tinyreptile("serve", "--config", "bad.toml", "--config", "good.toml", cwd=tmp_path)
    assert done.returncode == 1
    error, _, rest = done.stderr.partition("\n")
    assert error == "error: run bad: the store good.toml is damaged or no store at all: file is not a database"
    assert "the service ends for this, and stops good" in " ".join(rest.split())
    assert "Run good at version" not in done.stdout


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("compiled")
def test_one_whose_store_is_damaged_ends_the_service_which_goes_on_when_that_is_mended(
    broker: Mosquitto, tmp_path: Path, start: Start
) -> None:
    for name in ("hurt", "sound"):
        write_run(tmp_path, broker, name)
    files = ["--config", "hurt.toml", "--config", "sound.toml"]
    service = begin(tmp_path, "serve", *files, "--log-format", "json")
    for name in ("hurt", "sound"):
        start("swarm", "-n", 4, "--evaluators", 0, "--think", 0.1, "--config", f"{name}.toml")

    def version(name: str) -> int:
        done = tinyreptile("export", f"{name}.json", "--config", f"{name}.toml", cwd=tmp_path)
        return json.loads((tmp_path / f"{name}.json").read_text())["version"] if done.returncode == 0 else 0

    wait_until(lambda: version("sound") > 10)
    tinyreptile("runs", "backup", "hurt.sqlite", "copy.sqlite", cwd=tmp_path)
    for path in tmp_path.glob("hurt.sqlite*"):
        with path.open("r+b") as file:
            file.write(b"x" * path.stat().st_size)
    _, errors = service.communicate(timeout=60)
    assert service.returncode == 1
    records = [json.loads(line) for line in errors.splitlines()]
    failed = [record for record in records if record["level"] == "error"]
    assert [record["run"] for record in failed] == ["hurt"]
    assert "damaged" in failed[0]["message"]
    assert [r["message"] for r in records if r["level"] == "warning"] == ["the service ends for this, and stops sound"]
    stopped = next(record["message"] for record in records if record["message"].startswith("stopped at version"))
    shown = {name: tinyreptile("status", "--config", f"{name}.toml", cwd=tmp_path).stdout for name in ("hurt", "sound")}
    assert "failed: the store hurt.sqlite is damaged" in shown["hurt"]
    assert "stopped" in shown["sound"]
    # A supervisor starts it again and again, and somebody puts the back-up in its place.
    assert tinyreptile("serve", *files, cwd=tmp_path).returncode == 1
    for path in tmp_path.glob("hurt.sqlite*"):
        path.unlink()
    assert tinyreptile("runs", "restore", "copy.sqlite", "hurt.sqlite", cwd=tmp_path).returncode == 0
    service = begin(tmp_path, "serve", *files)
    wait_until(lambda: version("sound") > int(stopped.split()[3]) and version("hurt") > 0)
    service.terminate()
    text, _ = service.communicate(timeout=60)
    assert service.returncode == 0
    assert f"Run sound at version {stopped.split()[3]}, store sound.sqlite" in text


def test_one_whose_broker_does_not_keep_what_runs_need_ends_the_service(
    broker: Mosquitto, start_broker: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    write_run(tmp_path, broker, "good")
    write_run(tmp_path, start_broker("allow_anonymous true", "retain_available false"), "bad")
    done = tinyreptile("serve", "--config", "good.toml", "--config", "bad.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: run bad: no session with the broker at" in done.stderr
    assert "it does not retain messages" in done.stderr
    assert "Run good: stopped" in done.stdout
    status = tinyreptile("status", "--config", "good.toml", cwd=tmp_path)
    assert "stopped" in status.stdout


# Logs, and the service manager


@pytest.mark.timeout(240)
def test_a_service_for_machines_writes_records_only_and_tells_its_manager(
    start_broker: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = start_broker()
    write_run(tmp_path, broker, "kitchen")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(60)
    service = begin(
        tmp_path,
        *("serve", "--config", "kitchen.toml", "--log-format", "json"),
        NOTIFY_SOCKET=str(tmp_path / "notify"),
        WATCHDOG_USEC="1000000",
    )
    heard = ""
    while "READY=1" not in heard or heard.count("WATCHDOG=1") < 4:
        heard += manager.recv(4096).decode() + "\n"
    assert "STATUS=kitchen at version 0, 0 updates" in heard
    broker.stop()
    while "STATUS=run kitchen: there is no connection to the broker" not in heard:
        heard += manager.recv(4096).decode() + "\n"
    service.terminate()
    text, errors = service.communicate(timeout=60)
    while "STOPPING=1" not in heard:
        heard += manager.recv(4096).decode() + "\n"
    manager.close()
    assert (service.returncode, text) == (0, "")
    records: list[dict[str, Any]] = [json.loads(line) for line in errors.splitlines()]
    assert all(datetime.fromisoformat(record["time"]).tzinfo for record in records)
    assert {record["run"] for record in records} == {"kitchen"}
    assert records[0]["message"].startswith("begun at version 0, store kitchen.sqlite, broker 127.0.0.1:")
    assert records[-1]["message"] == "stopped at version 0 after 0 updates"
    assert [record["level"] for record in records if "trying again" in record["message"]][:1] == ["warning"]
