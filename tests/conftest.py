"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tinyreptile.learner import Learner
from tinyreptile.model import Model

from .commands import COMMAND, Popen
from .environment import Mosquitto, need_program


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """The kernels, compiled before any test: it takes half a minute or more the first time, and tests have limits."""
    learner = Learner(Model([["input", 1], ["dense", 1], ["squared_error"]]))
    learner.step([0], [0])


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A running Mosquitto for the whole session: each test keeps to topics of its own."""
    need_program("mosquitto")
    mosquitto = Mosquitto(tmp_path_factory.mktemp("broker"))
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


@pytest.fixture
def start_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mosquitto]]:
    """A function that starts a Mosquitto for this test alone, with the configuration lines that it is given."""
    need_program("mosquitto")
    started = []

    def start(*lines: str) -> Mosquitto:
        mosquitto = Mosquitto(tmp_path_factory.mktemp("broker"), *lines)
        started.append(mosquitto)
        mosquitto.start()
        return mosquitto

    yield start
    for mosquitto in started:
        mosquitto.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Popen]]:
    """A function that starts the command in the background; what still runs at the end is ended."""
    running: list[Popen] = []

    def begin(*arguments: object) -> Popen:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)
