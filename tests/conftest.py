"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tinyreptile import cpython_compile
from tinyreptile.learner import Learner
from tinyreptile.model import WEIGHT_BITS

from .commands import COMMAND, Popen
from .environment import Mosquitto, need_program

# A shell's background ignores Ctrl-C, nohup SIGHUP, and so would the commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Compile the kernels for the first test that needs them: for minutes maybe, so before its time limit begins."""
    if "compiled" in getattr(item, "fixturenames", ()):
        for weights in WEIGHT_BITS:
            cpython_compile.compile_kernels(weights)
    return (yield)


@pytest.fixture(scope="session")
def compiled() -> None:
    """For tests that step a learner, here or in a process of theirs: all kernels are compiled before they begin."""


@pytest.fixture(autouse=True)
def _asks_for_compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests without the fixture `compiled` step no learner: on a fresh clone they would compile within their limit."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a test that steps a learner asks for the fixture `compiled`")

    if "compiled" not in request.fixturenames:
        monkeypatch.setattr(Learner, "_take", refuse)
        monkeypatch.setattr(Learner, "predict", refuse)
        monkeypatch.setattr(cpython_compile, "_compiled", set())
        monkeypatch.setattr(cpython_compile, "_call_all", refuse)


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
