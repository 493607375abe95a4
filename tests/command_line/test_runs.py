"""`tinyreptile runs` and `tinyreptile devices`, as an operator types them."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from coordinator.entries import Checkpoint, Setting
from coordinator.store import Store

from ..commands import Popen, tinyreptile, wait_until
from ..environment import Mosquitto, free_port


def said(*arguments: object, cwd: Path) -> str:
    """What the command prints, on one line; it must not fail."""
    done = tinyreptile(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


@pytest.fixture
def kitchen(broker: Mosquitto, start: Callable[..., Popen], tmp_path: Path) -> list[object]:
    """A run with a swarm at work, the options that name it, and its store kitchen.sqlite in the test's folder."""
    options: list[object] = ["--broker", f"{broker.host}:{broker.port}", "--run", "operated"]
    start("serve", *options, "--rounds", 0, "--store", "kitchen.sqlite")
    start("swarm", *options, "-n", 5, "--evaluators", 0, "--think", 0.02)
    wait_until(lambda: updates(tmp_path) > 20)
    return options


def updates(folder: Path) -> int:
    path = folder / "kitchen.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        try:
            return int(database.execute("SELECT count(*) FROM accepted").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("compiled")
def test_a_run_is_steered_while_it_goes_on(kitchen: list[object], tmp_path: Path) -> None:
    assert "operated │ running" in said("runs", "list", *kitchen[:2], cwd=tmp_path)
    assert said("runs", "pause", *kitchen, cwd=tmp_path) == "operated is paused"
    assert "state │ paused" in said("status", *kitchen, cwd=tmp_path)
    changed = said("runs", "set", "learning.alpha=0.125", "learning.steps=8", *kitchen, cwd=tmp_path)
    assert "learning.alpha │ 0.125 │ 0.3" in changed
    assert "run.paused │ True │ False" in changed
    refused = tinyreptile("runs", "set", "learning.alpha=2", *kitchen, cwd=tmp_path)
    assert refused.returncode == 1
    assert "learning.alpha: must be less than or equal to 1, not 2" in " ".join(refused.stderr.split())
    said("runs", "unset", "learning.steps", *kitchen, cwd=tmp_path)
    assert "learning.steps" not in said("runs", "settings", *kitchen, cwd=tmp_path)
    assert "│ 0 │ 0 │" in said("runs", "versions", *kitchen, cwd=tmp_path)
    assert "has the weights of version 7" in said("runs", "rollback", 7, *kitchen, cwd=tmp_path)
    refused = tinyreptile("runs", "rollback", 10**6, *kitchen, cwd=tmp_path)
    assert refused.returncode == 1
    assert "error: version 1000000 is not earlier than the present one" in " ".join(refused.stderr.split())
    assert "rollback │ to version 7" in said("runs", "events", *kitchen, cwd=tmp_path)
    before = updates(tmp_path)
    assert said("runs", "resume", *kitchen, cwd=tmp_path) == "operated goes on"
    wait_until(lambda: updates(tmp_path) > before + 5)

    assert "kitchen-copy.sqlite:" in said("runs", "backup", "kitchen.sqlite", "kitchen-copy.sqlite", cwd=tmp_path)
    assert "each with equal bits" in said("runs", "check", "kitchen-copy.sqlite", cwd=tmp_path)
    used = tinyreptile("runs", "check", "kitchen.sqlite", cwd=tmp_path)
    assert "is in use: another coordinator serves this run" in used.stderr
    again = tinyreptile("runs", "backup", "kitchen.sqlite", "kitchen-copy.sqlite", cwd=tmp_path)
    assert "kitchen-copy.sqlite exists already" in again.stderr

    assert "5 devices of the run" in said("devices", "list", *kitchen, cwd=tmp_path)
    assert said("devices", "quarantine", "sine-3", "--reason", "hot", *kitchen, cwd=tmp_path) == "1 in quarantine"
    assert "in quarantine: hot" in said("devices", "list", *kitchen, cwd=tmp_path)
    assert said("devices", "release", "sine-3", *kitchen, cwd=tmp_path) == "1 released"
    shown = said("devices", "show", "sine-3", *kitchen, cwd=tmp_path)
    assert "quarantine" not in shown
    assert "│ role │ train" in shown
    assert "standing" not in said("devices", "list", *kitchen, cwd=tmp_path) + shown
    said("runs", "set", "guards.reputation=true", *kitchen, cwd=tmp_path)
    assert "expired │ standing" in said("devices", "list", *kitchen, cwd=tmp_path).replace("┃", "│")
    assert "│ 1.00 │" in said("devices", "list", *kitchen, cwd=tmp_path)
    assert "│ standing │ 1.0" in said("devices", "show", "sine-3", *kitchen, cwd=tmp_path)
    refused = tinyreptile("devices", "forget", "sine-3", *kitchen, cwd=tmp_path)
    assert "device sine-3 is online; it would be back at once" in refused.stderr
    assert "ends when its work is back" in said("runs", "drain", *kitchen, cwd=tmp_path)
    wait_until(lambda: "operated │ stopped" in said("runs", "list", *kitchen[:2], cwd=tmp_path))


MISTAKES: dict[str, tuple[list[object], str]] = {
    "no setting": (["runs", "set", "learning.alpha"], "'learning.alpha' is not TABLE.KEY=VALUE, as learning.alpha=0.1"),
    "no broker": (["runs", "pause"], "no broker answers at 127.0.0.1:"),
    "no broker to list": (["runs", "list"], "no broker answers at 127.0.0.1:"),
    "no broker for devices": (["devices", "list"], "no broker answers at 127.0.0.1:"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(mistake: str, tmp_path: Path) -> None:
    arguments, complaint = MISTAKES[mistake]
    done = tinyreptile(*arguments, "--broker", f"127.0.0.1:{free_port()}", cwd=tmp_path)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("learning.alpha", "0.1", "setting: learning.alpha: must be a number, not '0.1'"),
        ("learning.steps", [1], "setting: learning.steps: "),
        ("run.paused", 1, "setting: run.paused: must be true or false, not 1"),
        ("learning.gone", 5, "unknown setting learning.gone"),
        ("learning.mode", "serial", "learning.mode can't change while a run is going on"),
    ],
)
def test_a_stored_setting_that_can_not_be_used_is_told_with_the_way_out(
    name: str, value: object, complaint: str, tmp_path: Path
) -> None:
    serve = "serve", "--store", "run.sqlite", "--broker", f"127.0.0.1:{free_port()}"
    tinyreptile(*serve, cwd=tmp_path)  # it begins the run
    store = Store(str(tmp_path / "run.sqlite"), "default", create=False)
    store.write([Setting(name, value), Setting("learning.beta", 0.5)])
    store.close()
    done = tinyreptile(*serve, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: the store run.sqlite has settings that were made while the run went on, and can't be" in done.stderr
    assert complaint in done.stderr
    way_out = re.search(r"tinyreptile (runs unset .*) takes them back", done.stderr)
    assert way_out
    assert way_out[1].split() == ["runs", "unset", name, "--store", "run.sqlite"]
    assert "learning.beta │ 0.5" in said(*way_out[1].split(), cwd=tmp_path)
    assert "no broker answers" in tinyreptile(*serve, cwd=tmp_path).stderr


def test_a_run_that_nobody_serves_is_put_back_and_its_settings_are_as_configured(tmp_path: Path) -> None:
    def settings() -> dict[str, object]:
        store = Store(str(tmp_path / "run.sqlite"), "default", create=False)
        found = store.settings()
        store.close()
        return found

    store = Store(str(tmp_path / "run.sqlite"), "default")
    store.write([Setting("run.rounds", 10), Setting("learning.alpha", 0.5)])
    used = tinyreptile("runs", "unset", "run.rounds", "--store", "run.sqlite", cwd=tmp_path)
    assert "is in use: another coordinator serves this run" in used.stderr
    store.close()
    said("runs", "backup", "run.sqlite", "copy.sqlite", cwd=tmp_path)
    assert "learning.alpha │ 0.5" in said("runs", "unset", "run.rounds", "--store", "run.sqlite", cwd=tmp_path)
    assert settings() == {"learning.alpha": 0.5}
    again = tinyreptile("runs", "unset", "run.rounds", "--store", "run.sqlite", cwd=tmp_path)
    assert "run.sqlite: run.rounds was not changed while the run went on" in again.stderr
    put_back = said("runs", "restore", "copy.sqlite", "run.sqlite", cwd=tmp_path)
    assert put_back == "run.sqlite is what copy.sqlite was; the store before is run.sqlite.before"
    assert settings() == {"learning.alpha": 0.5, "run.rounds": 10}


def test_a_check_only_reads(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    store = Store(str(folder / "run.sqlite"), "default")
    store.bind({"run": "kitchen", "model": [["input", 1], ["dense", 1], ["squared_error"]], "weights": "int16"})
    store.write([Checkpoint(0, 0, np.zeros(2))])
    for suffix in ("", "-wal"):  # as a killed coordinator leaves it, with what it has written in SQLite's log
        shutil.copy(folder / f"run.sqlite{suffix}", folder / f"killed.sqlite{suffix}")
    store.close()
    for name in ("run.sqlite", "killed.sqlite", "killed.sqlite-wal"):
        (folder / name).chmod(0o444)
    folder.chmod(0o555)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    for name in ("run.sqlite", "killed.sqlite"):
        assert "run kitchen: 1 checkpoints to version 0" in said("runs", "check", folder / name, cwd=tmp_path)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


_RUN = "INSERT INTO property VALUES ('run', '\"kitchen\"');"
UNSOUND = {
    "foreign": ("CREATE TABLE recipe (name TEXT); PRAGMA user_version=4", "is another program's database"),
    "empty": ("", "there is no store at store.sqlite"),
    "no run": (None, "the store store.sqlite holds no run yet"),
    "no model": (
        _RUN + "INSERT INTO property VALUES ('weights', '\"int16\"'), ('model', '[[\"input\"]]')",
        "is damaged: table property, name 'model' or 'weights': value: ",
    ),
    "no name": (
        "INSERT INTO property VALUES ('weights', '\"int16\"')",
        "is damaged: table property has no row with the name 'run'",
    ),
    "no JSON": ("INSERT INTO property VALUES ('model', '[[')", "is damaged: "),
    "no checkpoint": (
        _RUN + 'INSERT INTO property VALUES (\'model\', \'[["input", 1], ["dense", 1], ["squared_error"]]\');'
        "INSERT INTO property VALUES ('weights', '\"int16\"')",
        "the store store.sqlite holds no run yet",
    ),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_what_is_no_run_is_told_by_a_check(kind: str, tmp_path: Path) -> None:
    script, complaint = UNSOUND[kind]
    path = tmp_path / "store.sqlite"
    if kind not in ("foreign", "empty"):
        Store(str(path), "default").close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script or "")
    path.touch()
    done = tinyreptile("runs", "check", "store.sqlite", cwd=tmp_path)
    assert done.returncode == 1
    assert complaint in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "/tmp/tinyreptile-" not in done.stderr


@pytest.mark.parametrize("command", ["check", "backup", "restore"])
def test_an_absent_store_is_told(command: str, tmp_path: Path) -> None:
    more = [] if command == "check" else ["copy.sqlite"]
    done = tinyreptile("runs", command, "absent.sqlite", *more, cwd=tmp_path)
    assert done.returncode == 1
    assert "absent.sqlite" in done.stderr
    assert list(tmp_path.iterdir()) == []
