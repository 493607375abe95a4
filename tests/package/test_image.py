"""What a container's image is built of makes a service that runs: copied, built, installed as `Containerfile` does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.broker_config.test_container import copied
from tests.commands import wait_until
from tests.environment import ROOT, Mosquitto, free_port


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The command of an environment that has nothing but the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("image")
    source = folder / "source"
    for path in copied():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, target)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
    pins = ["--constraint", "requirements.txt", "--constraint", "requirements-extras.txt"]
    subprocess.run([*pip, *pins, ".[postgresql]"], cwd=source, check=True, timeout=600)
    yield environment / "bin" / "tinyreptile"
    shutil.rmtree(folder)


def clean() -> dict[str, str]:
    """An environment without a way to this repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TINYREPTILE"))}


@pytest.mark.timeout(900)
def test_the_installed_command_shows_its_help(command: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [command, "serve", "--help"],
        cwd=tmp_path,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--metrics" in done.stdout


@pytest.mark.timeout(900)
def test_the_installed_command_serves_a_run(command: Path, tmp_path: Path, broker: Mosquitto) -> None:
    port = free_port()
    options = ["--broker", f"{broker.host}:{broker.port}", "--run", "image", "--metrics", str(port)]
    service = subprocess.Popen(
        [command, "serve", "--log-format", "json", *options],
        cwd=tmp_path,
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def ready() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
        return service.poll() is not None

    wait_until(ready)
    service.send_signal(signal.SIGTERM)
    text, _ = service.communicate(timeout=60)
    assert service.returncode == 0, text
    assert "stopped at version 0 after 0 updates" in text
    assert (tmp_path / "image.sqlite").is_file()
