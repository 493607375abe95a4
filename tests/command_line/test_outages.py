"""Commands that watch or wait, while a file that they need is missing or half written: they say so, and go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.mqtt import client, pack
from tests.fleet import broker_config, new_run
from tinyreptile import messages

from ..commands import COMMAND, Popen, tinyreptile, wait_until
from ..environment import Mosquitto

KEY = "0123456789abcdef"


class Watched:
    """The command with ``arguments`` in ``folder``, at a terminal or with a pipe, and all that it has shown."""

    def __init__(self, folder: Path, *arguments: object, terminal: bool = False) -> None:
        reader, writer = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=folder,
            env=os.environ | {"COLUMNS": "250", "LINES": "60", "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        self._reader = reader
        self._text = ""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError), os.fdopen(self._reader, "rb", buffering=0) as shown:  # a terminal's end
            while part := shown.read(65536):
                self._text += part.decode(errors="replace")

    @property
    def text(self) -> str:
        """What it has shown, in one line without colours."""
        return " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._text).split())

    def forget(self) -> None:
        """Begin anew with what it has shown."""
        self._text = ""

    def end(self) -> int:
        """End it, if it still goes on; returns its exit code."""
        self.process.terminate()
        code = self.process.wait(30)
        self._reading.join(30)
        return code


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """A function that makes a `Watched`, which is ended with the test."""
    made: list[Watched] = []

    def make(*arguments: object, terminal: bool = False) -> Watched:
        made.append(Watched(tmp_path, *arguments, terminal=terminal))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a password, which the broker of these tests does not care for."""
    path = tmp_path / "secret"
    path.write_text("password\n")
    return path


def options(broker: Mosquitto, run: str, secret: Path) -> list[object]:
    return [
        *("--run", run, "--broker", f"{broker.host}:{broker.port}"),
        *("--user", "somebody", "--password-file", secret),
    ]


def publish(broker: Mosquitto, topic: str, message: dict[str, Any], *, retain: bool = False) -> None:
    async def once() -> None:
        async with client(broker_config(broker)) as session:
            await session.publish(topic, pack(message), qos=1, retain=retain)

    asyncio.run(once())


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_a_watched_status_says_why_it_can_not_look_and_goes_on(
    terminal: bool,
    broker: Mosquitto,
    tmp_path: Path,
    secret: Path,
    start: Callable[..., Popen],
    watched: Callable[..., Watched],
) -> None:
    run = new_run()
    where = options(broker, run, secret)
    start("serve", "--run", run, "--broker", f"{broker.host}:{broker.port}")
    wait_until(lambda: tinyreptile("status", *where, cwd=tmp_path).returncode == 0)

    def looks() -> int:
        return broker.log.read_text().count("u'somebody'")

    before = looks()
    watching = watched("status", "--watch", *where, terminal=terminal)
    wait_until(lambda: looks() > before + 1)  # the first, which would end it, is over
    for content in (None, ""):  # it is missing, not written yet
        secret.unlink()
        if content is not None:
            secret.write_text(content)
        wait_until(lambda: f"broker.password_file: {secret} can't be read" in watching.text)
        assert "trying again" in watching.text
        assert watching.process.poll() is None
        watching.forget()
        secret.write_text("password\n")
        wait_until(lambda: (f"Run {run}" if terminal else "the connection to the broker is back") in watching.text)
        watching.forget()


def test_watched_predictions_go_on_when_the_password_is_back(
    start_broker: Callable[..., Mosquitto], secret: Path, watched: Callable[..., Watched]
) -> None:
    broker = start_broker()
    topic = messages.RunTopics("kitchen").device("desk").prediction
    watching = watched("device", "predictions", "desk", *options(broker, "kitchen", secret))
    wait_until(lambda: "listening to desk" in watching.text)

    def heard() -> bool:
        publish(broker, topic, {"version": 1, "steps": 2, "outputs": [0.5]})
        return "0.500; 2 samples since version 1" in watching.text

    wait_until(heard)
    broker.stop()
    secret.unlink()
    broker.start()
    wait_until(lambda: f"(broker.password_file: {secret} can't be read" in watching.text)
    assert watching.process.poll() is None
    secret.write_text("password\n")
    wait_until(lambda: "the connection to the broker is back" in watching.text)
    watching.forget()
    wait_until(heard)


def test_who_waits_for_boards_to_take_an_update_goes_on_waiting(
    broker: Mosquitto, tmp_path: Path, secret: Path, watched: Callable[..., Watched]
) -> None:
    (tmp_path / "fleet.key").write_text(KEY)
    run = new_run()
    topics = messages.RunTopics(run)
    board = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b1", "role": "train", "chip": "py"}

    def run_version(number: int) -> None:
        publish(broker, topics.device("board").status, board | {"software": number}, retain=True)

    run_version(0)
    waiting = watched("device", "update", "--key-file", "fleet.key", *options(broker, run, secret))
    wait_until(lambda: " for py: " in waiting.text)
    secret.unlink()
    wait_until(lambda: f"broker.password_file: {secret} can't be read" in waiting.text)
    run_version(int(waiting.text.split("version ")[1].split()[0]))
    assert waiting.process.poll() is None
    secret.write_text("password\n")
    assert waiting.process.wait(30) == 0
    assert "1 of 1 boards that are online run version" in waiting.text


@pytest.mark.parametrize(
    "command",
    [["status", "--watch"], ["device", "predictions", "desk"], ["swarm", "-n", "1"], ["serve"]],
    ids=lambda command: command[0],
)
def test_at_the_first_start_a_missing_password_ends_the_command(
    command: list[str], broker: Mosquitto, tmp_path: Path
) -> None:
    done = tinyreptile(*command, *options(broker, "kitchen", tmp_path / "absent"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: broker.password_file: {tmp_path / 'absent'} can't be read")
