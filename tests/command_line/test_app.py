"""Every command is there, with its help, and loads only what it needs."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import command_line
from command_line.app import COMMANDS

from ..commands import COMMAND, tinyreptile
from ..environment import free_port, require

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


@pytest.mark.parametrize("task", [(), ("--task", "sine")], ids=["own model", "task"])
def test_a_coordinator_compiles_nothing(task: tuple[str, ...], tmp_path: Path) -> None:
    program = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, sep='\\n')); {COMMAND[2]}"
    command = [sys.executable, "-c", program, "serve", *task, "--broker", f"127.0.0.1:{free_port()}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "no broker answers" in done.stderr
    assert "coordinator.service" in done.stdout.splitlines()
    assert "numba" not in done.stdout.splitlines()


def test_the_version_is_told(tmp_path: Path) -> None:
    from tinyreptile import __version__

    assert tinyreptile("--version", cwd=tmp_path).stdout == f"tinyreptile {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("stauts", "tinyreptile status"),
        ("run list", "tinyreptile runs"),
        ("device list", "tinyreptile devices list"),
        ("devices logs", "tinyreptile device logs"),
        ("runs puase", "tinyreptile runs pause"),
        ("pause", "tinyreptile runs pause"),
    ],
)
def test_a_mistyped_command_is_answered_with_what_may_be_meant(typed: str, meant: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'tinyreptile'; {COMMAND[2]}", *typed.split()],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"'. Did you mean {meant}" in done.stderr


def test_a_command_that_is_like_no_other_is_refused_without_a_guess(tmp_path: Path) -> None:
    done = tinyreptile("xyzzy", cwd=tmp_path)
    assert done.returncode == 2
    assert "No such command 'xyzzy'. " in done.stderr


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tinyreptile st", ["status"]),
        ("tinyreptile dev", ["device", "devices"]),
        ("tinyreptile runs pa", ["pause"]),
        ("tinyreptile demo --evalu", ["--evaluators"]),
    ],
)
def test_bash_completes_commands_and_options(typed: str, completed: list[str], tmp_path: Path) -> None:
    require(shutil.which("bash"), "needs bash")
    command = tmp_path / "tinyreptile"
    command.write_text(f"#!{sys.executable}\n{COMMAND[2]}\n")
    command.chmod(0o755)
    script = f"""
        eval "$(_TINYREPTILE_COMPLETE=source_bash tinyreptile)"
        COMP_WORDS=({typed}) COMP_CWORD=$(( {len(typed.split())} - 1 ))
        _tinyreptile_completion tinyreptile
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (sorted(done.stdout.split()), done.stderr) == (completed, "")
