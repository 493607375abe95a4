"""Boards on the desk: one that has been flashed once, to begin from, and a coordinator for those that join."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Popen
from tests.environment import Mosquitto, need_program
from tests.fleet import new_run

from .desk import Desk


@pytest.fixture(scope="session")
def flashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flash of a board that has the library, without a configuration."""
    from boards import flash
    from boards.board import Board

    need_program("mpy-cross")
    folder = tmp_path_factory.mktemp("flashed")
    with Desk(folder) as desk, Board(desk.port) as board:
        board.stop()
        assert flash.install(board, flash.plan(board.about(), {}, {})) > 100_000
    (folder / flash.CONFIG).unlink()
    return folder


@pytest.fixture
def new_flash(flashed: Path, tmp_path: Path) -> Callable[[], Path]:
    """A function that gives the flash of another such board."""

    def copy(name: str = "flash") -> Path:
        return Path(shutil.copytree(flashed, tmp_path / name))

    return copy


@pytest.fixture
def run(broker: Mosquitto, start: Callable[..., Popen]) -> str:
    """The name of a run that a coordinator serves at ``broker``."""
    name = new_run()
    start("serve", "--run", name, "--task", "sine", "--broker", f"127.0.0.1:{broker.port}", "--rounds", "100000")
    return name


@pytest.fixture
def write_config(tmp_path: Path, broker: Mosquitto) -> Callable[..., Path]:
    """A function that writes a board's configuration, with the fields that it is given, and returns its path."""

    def write(**fields: Any) -> Path:
        path = tmp_path / "board.json"
        content = {"id": "desk", "host": "127.0.0.1", "port": broker.port, "stream": {"kind": "sine", "seed": 1}}
        path.write_text(json.dumps(content | fields))
        return path

    return write
