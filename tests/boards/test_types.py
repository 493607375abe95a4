"""The library against the types of what boards' MicroPythons have: no name, attribute or argument that they lack."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..environment import ARITHMETIC, CLIENT, PACKAGE, require

CPYTHON = ("cpython", "cpython_cache", "cpython_compile", "cpython_ledger")
# Viper's functions, whose annotations are machine types; assembly; what only computers run.
UNTYPED = ("kernels", *ARITHMETIC, *(f"{name}8" for name in ARITHMETIC), "mel", "coding", *CPYTHON)
ASSEMBLY = ("thumb", "thumb8", "thumb_taps", "thumb_taps8")
# What is there all the same, and what is asked for only where it is.
KNOWN = (
    '"StreamReader" has no attribute "readinto"',
    '"SSLContext" has no attribute "verify_mode"',
    '"SSLContext" has no attribute "load_default_certs"',  # on computers
    'named "traceback"',  # on computers
    'named "esp32"',  # on an ESP32
    '"asyncio" has no attribute "core"',  # on every port
)
SETTINGS = """
[mypy]
check_untyped_defs = true
strict_optional = false
no_site_packages = true
show_error_codes = false
custom_typeshed_dir = {stubs}
mypy_path = {stubs}
cache_dir = {folder}/cache
# A name that is made in two ways, which the code of two platforms is.
disable_error_code = no-redef, assignment, var-annotated

[mypy-{untyped}]
ignore_errors = true
"""


def check(folder: Path, stubs: Path) -> list[str]:
    """What is wrong with the library in ``folder``."""
    untyped = ",".join(f"tinyreptile.{name}" for name in (*UNTYPED, *ASSEMBLY))
    (folder / "mypy.ini").write_text(SETTINGS.format(stubs=stubs, folder=folder, untyped=untyped))
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--package", "tinyreptile"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "MYPYPATH"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "(checked " in result.stdout, result.stdout + result.stderr
    return [
        line
        for line in result.stdout.splitlines()
        if line.startswith("tinyreptile") and ": error: " in line and not any(known in line for known in KNOWN)
    ]


@pytest.mark.timeout(600)  # it checks all of the library, twice
@pytest.mark.parametrize("chip", ["rp2", "esp32"])
def test_the_library_asks_for_nothing_that_a_board_lacks(chip: str, tmp_path: Path) -> None:
    stubs = Path(sys.prefix) / f"stubs-{chip}"
    require(stubs.exists(), f"needs .venv/stubs-{chip}, which make test-boards puts there")
    library = tmp_path / "tinyreptile"
    shutil.copytree(PACKAGE, library, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CLIENT / "slots.py", tmp_path)
    assert check(tmp_path, stubs) == []
    # And it would be found.
    with (library / "assembly.py").open("a") as file:
        file.write("\nimport gc\n\ngc.get_objects()\nAssembly(1, 2)\n")
    assert [line.split(": error: ")[1].split(" for ")[0] for line in check(tmp_path, stubs)] == [
        'Module has no attribute "get_objects"',
        "Too many arguments",
    ]
