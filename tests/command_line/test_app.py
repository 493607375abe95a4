"""Every command is there, with its help, and loads only what it needs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import command_line
from command_line.app import COMMANDS

from ..commands import COMMAND, tinyreptile

HEAVY = ("numba", "sqlalchemy", "scipy", "matplotlib", "cryptography", "prometheus_client")


def test_help_names_every_command(tmp_path: Path) -> None:
    done = tinyreptile("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert [command for command in COMMANDS if f"│ {command} " not in done.stdout] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example(command: str, tmp_path: Path) -> None:
    done = tinyreptile(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: tinyreptile {command}" in done.stdout


def test_every_module_with_a_command_is_one() -> None:
    names = {path.stem for path in Path(command_line.__path__[0]).glob("[a-z]*.py")} - {"app", "main"}
    modules = {name: importlib.import_module(f"command_line.{name}") for name in names}
    assert {name for name, module in modules.items() if {"command", "group"} & set(vars(module))} == set(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("status", "--help"), ("runs", "pause", "--help"), ("devices", "--help"), ("flash", "--help")],
    ids=" ".join,
)
def test_a_command_loads_only_what_it_needs(arguments: tuple[str, ...], tmp_path: Path) -> None:
    program = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, sep='\\n')); {COMMAND[2]}"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.splitlines()
    assert "command_line.app" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_the_version_is_told(tmp_path: Path) -> None:
    from tinyreptile import __version__

    assert tinyreptile("--version", cwd=tmp_path).stdout == f"tinyreptile {__version__}\n"
