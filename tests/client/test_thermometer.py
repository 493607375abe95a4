"""The example of a stream of one's own, as it stands, with the run that comes with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import Popen, lines_until, tinyreptile, wait_until
from tests.environment import CLIENT, ROOT, Mosquitto, need_program

EXAMPLE = CLIENT / "examples" / "thermometer"
MAIN = str(CLIENT / "main.py")

Start = Callable[..., Popen]


@pytest.fixture
def folder(broker: Mosquitto, tmp_path: Path) -> Path:
    """The example's files, for this broker; its thermometer is a file, and read all the time."""
    folder = tmp_path / "thermometer"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "temp").write_text("41250\n")
    change(folder, broker, file=str(tmp_path / "temp"), seconds=0.01)
    return folder


def change(folder: Path, broker: Mosquitto, **stream: object) -> None:
    path = folder / "device.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"port": broker.port, "stream": settings["stream"] | stream}))


@pytest.fixture
def device(folder: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start the example's device on ``micropython`` or ``cpython``."""
    running: list[subprocess.Popen[str]] = []

    def begin(runner: str) -> subprocess.Popen[str]:
        program = need_program("micropython") if runner == "micropython" else sys.executable
        process = subprocess.Popen(
            [program, MAIN, str(folder / "device.json")],
            env={"MICROPYPATH": f".frozen:{CLIENT}", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("runner", ["micropython", "cpython"])
def test_the_thermometer_teaches_the_run_that_fits_it(
    broker: Mosquitto, folder: Path, start: Start, device: Callable[[str], subprocess.Popen[str]], runner: str
) -> None:
    to = ["--config", folder / "run.toml", "--run", f"thermometers-{runner}"]
    (folder / "device.json").write_text(
        (folder / "device.json").read_text().replace('"thermometers"', f'"thermometers-{runner}"')
    )
    device(runner)
    serve = start("serve", *to, "--rounds", 3, "--broker", f"{broker.host}:{broker.port}")
    text, _ = serve.communicate(timeout=100)
    assert serve.returncode == 0, text
    assert "finished" in text


def test_a_thermometer_with_too_little_time_is_seen_by_everybody(
    broker: Mosquitto, folder: Path, tmp_path: Path, start: Start, device: Callable[[str], subprocess.Popen[str]]
) -> None:
    run = folder / "run.toml"
    run.write_text(run.read_text().replace("deadline = 1200.0 ", "deadline = 3.0 "))
    change(folder, broker, seconds=0.7)
    to = ["--config", run, "--broker", f"{broker.host}:{broker.port}"]
    start("serve", *to)
    slow = device("micropython")

    def shown(*command: object) -> bool:
        return "too slow: 8 samples are to come in" in tinyreptile(*command, *to, cwd=tmp_path).stdout

    wait_until(lambda: shown("devices", "list"))
    assert shown("status")
    assert shown("devices", "show", "thermometer-1")
    lines = lines_until(slow, lambda lines: "too slow: 8 samples are to come in" in lines[-1])
    assert " came to nothing: too slow: 8 samples are to come in " in lines[-1]
    assert "of 3 s, and one takes 0.7" in lines[-1]


def test_the_documentation_has_the_example_as_it_is() -> None:
    source = (EXAMPLE / "thermometer.py").read_text()
    readme = (ROOT / "README.md").read_text()
    assert source[source.index("import asyncio") :] in readme
    for name in ("run.toml", "device.json"):
        assert str((EXAMPLE / name).relative_to(ROOT)) in readme
