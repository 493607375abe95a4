"""Putting the library, its start and a configuration on a board, so that a cut at any moment leaves one that starts."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator import documents
from deployment.fleet import load
from tinyreptile.device import ConfigError
from tinyreptile.settings import TLS_FILES, check_config
from tinyreptile.tls import tls_context

from .board import About, Board
from .errors import BoardError
from .keys import check_key
from .library import compiled, library, new_number, start_files

CONFIG = "config.json"
KEPT = ".before"  # added to the name of a boot.py or main.py that was the owner's own
HEAP = 96 * 1024  # bytes: the least that the client and a small network run in
_SPARE = 32 * 1024  # bytes of flash that stay free
_FOLDERS = ("a", "b")  # as in ``slots``


@dataclass(frozen=True)
class Plan:
    """What a board is to hold.

    Attributes:
        about: the board.
        number: of this version of the library.
        library: its files, by their paths within a slot's folder.
        beside: the others, by their paths.
    """

    about: About
    number: int
    library: dict[str, bytes]
    beside: dict[str, bytes]


def settings(
    path: Path, board_id: str | None = None, key: str | None = None, fleet: Path | None = None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """(the configuration file ``path`` as it goes on to a board, the files that it names by their names there).

    ``board_id``, ``key`` and what the folder ``fleet`` has for the board take the place of the file's. Names are taken
    from the folder of ``path``; modules of the user's own streams lie there, too. Raises the device's ConfigError,
    `BoardError` for a file that is not there or is not what it should be, or DeploymentError where ``fleet`` does not
    know the board.
    """
    try:
        given = documents.read(path, documents.parse_json)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except documents.DocumentError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if isinstance(given, dict):
        given |= {name: value for name, value in (("id", board_id), ("key", key)) if value is not None}
        if fleet:
            given |= load(fleet).credentials_of(str(given.get("id")))
    config: dict[str, Any] = check_config(given, str(path))
    if config["key"]:
        check_key(config["key"], f"{path}: key is none")
    files = {}

    def take(name: str) -> str:
        files[Path(name).name] = path.parent / name
        return Path(name).name

    for name in TLS_FILES:
        if config[name]:
            config[name] = take(config[name])
    stream = config["stream"] = dict(config["stream"])
    if isinstance(stream.get("path"), str):
        stream["path"] = take(stream["path"])
    module = str(stream.get("kind", "")).rpartition(".")[0]
    if module and not module.startswith("tinyreptile."):
        name = module.replace(".", "/") + ".py"
        files[name] = path.parent / name
    for file in files.values():
        if not file.is_file():
            raise BoardError(f"{path} names {file}, which is not there")
        if file.suffix == ".py":
            _check_syntax(file)
    if config["tls_ca"]:
        _check_authority(files[config["tls_ca"]])
    return config, files


def _check_syntax(file: Path) -> None:
    """Raises `BoardError` for a module that can't be compiled for any chip."""
    try:
        ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise BoardError(f"{file}, line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise BoardError(f"{file} can't be read: {error}") from None


def _check_authority(file: Path) -> None:
    try:
        tls_context(str(file))
    except (OSError, ValueError):
        raise BoardError(f"tls_ca: {file} holds no certificate in PEM form") from None


def plan(
    about: About,
    config: dict[str, Any],
    files: dict[str, Path],
    progress: Callable[[str], None] = lambda name: None,
) -> Plan:
    """What goes on to the board ``about``: the library compiled, ``config``, and the user's own ``files``.

    ``progress`` is called with every file that is compiled. Raises `BoardError`.
    """
    if about.heap < HEAP:
        raise BoardError(f"{about.machine} has {about.heap:,} bytes of heap; the client needs {HEAP:,}")
    number = new_number()
    parts = compiled(library(about.chip), about.chip, progress=progress)
    beside = start_files() | compiled(files, about.chip)
    beside[CONFIG] = json.dumps(config, indent=1).encode()
    return Plan(about, number, parts, beside)


def install(
    board: Board, plan: Plan, progress: Callable[[str, int, int], None] = lambda name, done, total: None
) -> int:
    """Bring the board to ``plan``; returns how many bytes were written, 0 if it was all there.

    The library goes to the folder that is not in use, and is switched to when all of it has arrived. A boot.py or
    main.py of the owner's own is renamed. Until the library is there nothing else changes, and all files are replaced
    whole: broken off, it leaves a board that starts, and can be done again, for what is left.
    ``progress`` is called with the file at hand, the bytes written so far and those to write. Raises `BoardError`.
    """
    there = board.hashes()
    slot = (board.read("slot") or b"").decode(errors="replace").strip() if "slot" in there else ""
    wanted = {name: _digest(content) for name, content in plan.library.items()}
    if slot in _FOLDERS and {name: there.get(f"{slot}/{name}") for name in wanted} == wanted:
        folder = slot
        todo = {}
    else:
        folder = _FOLDERS[1] if slot == _FOLDERS[0] else _FOLDERS[0]
        todo = {f"{folder}/{name}": content for name, content in plan.library.items()}
        todo[f"{folder}/version"] = str(plan.number).encode()
    todo |= plan.beside
    todo = {path: content for path, content in todo.items() if there.get(path) != _digest(content)}
    kept = {f"{folder}/{name}" for name in (*wanted, "version")}
    stale = [path for path in there if path.startswith(folder + "/") and path not in kept]
    total = sum(map(len, todo.values()))
    if plan.about.flash < total + _SPARE:
        raise BoardError(
            f"{plan.about.machine} has {plan.about.flash:,} bytes of flash free; {total + _SPARE:,} are needed"
        )
    # A trial would go on with a folder that is being written to.
    for path in ("trial", "trial.new", *stale):
        if path in there:
            board.remove(path)
    done = 0

    def wrote(size: int) -> None:
        nonlocal done
        done += size
        progress(path, done, total)

    for path, content in todo.items():  # the library, then what starts it, then its configuration
        if path in there and path in start_files() and b"tinyreptile" not in (board.read(path) or b"").lower():
            board.rename(path, path + KEPT)
        board.write(path, content, wrote)
    now = board.hashes()
    damaged = [path for path, content in todo.items() if now.get(path) != _digest(content)]
    if damaged:
        raise BoardError(f"{', '.join(damaged)} arrived damaged, nothing was switched; try again, or another cable")
    if folder != slot:
        board.write("slot", folder.encode())
    return total


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
