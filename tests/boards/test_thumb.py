"""The loops in assembly, against the portable ones, on every chip that runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from boards.library import library

from .runners import RUNNERS, Runner

COMPARE = Path(__file__).parent / "device" / "compare.py"
# The RP2040 has the Cortex-M0's instructions, and an emulator that takes too long for this.
CHIPS = [name for name, runner in RUNNERS.items() if runner.thumb and name != "rp2040"]


@pytest.mark.timeout(2000)
@pytest.mark.parametrize("runner", CHIPS, indirect=True)
def test_assembly_leaves_the_bits_of_the_portable_loops(runner: Runner) -> None:
    files = {**library(runner.chip), "compare.py": COMPARE}
    printed = runner.run("import compare\ncompare.main(60)", files, seconds=1800)
    assert printed.splitlines()[-1].startswith("ok, "), printed
