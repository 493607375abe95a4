"""The loops in assembly, against the portable ones, on every chip that runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .files import library
from .runners import Runner

COMPARE = Path(__file__).parent / "device" / "compare.py"


@pytest.mark.timeout(900)
def test_assembly_leaves_the_bits_of_the_portable_loops(runner: Runner) -> None:
    if not runner.thumb:
        return  # another instruction set
    trials = 3 if runner.name == "rp2040" else 15
    printed = runner.run(f"import compare\ncompare.main({trials})", {**library(runner.thumb), "compare.py": COMPARE}, seconds=800)
    assert printed.splitlines()[-1].startswith("ok, "), printed
