"""Fuzz the decoders guided by coverage (atheris), each for a while, and print a table of what was tried.

    python -m tests.fuzz --seconds 600

What upsets a decoder is kept as a file, and said; the exit code is 1 then. Inputs that reach new code are kept in
out/fuzz, where the next time begins.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .targets import TARGETS

OUT = Path("out/fuzz")
_STATISTICS = re.compile(rb"#(\d+)\s+\w+\s+cov: (\d+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for each target [600]")
    parser.add_argument("--only", action="append", choices=TARGETS, help="this target only; may be repeated")
    arguments = parser.parse_args()
    names = arguments.only or list(TARGETS)
    table = Table("target", "inputs tried", "branches reached", "outcome", title="Fuzzing, guided by coverage")
    console = Console(width=None if sys.stdout.isatty() else 120)
    failed = False
    with Progress(console=console, transient=True) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = progress.add_task(f"{arguments.seconds} s for each target", total=len(names))
        for name, (code, printed) in zip(names, pool.map(lambda n: _process(n, arguments.seconds), names), strict=True):
            progress.advance(bar)
            found = _STATISTICS.findall(printed)
            tried, reached = found[-1] if found else (b"0", b"0")
            failed |= code != 0 or not int(tried)
            outcome = "[green]nothing upset it[/]" if code == 0 else f"[red]exit code {code}[/], {OUT / name}.log"
            table.add_row(name, f"{int(tried):,}", f"{int(reached):,}", outcome)
    console.print(table)
    return int(failed)


def _process(name: str, seconds: int) -> tuple[int, bytes]:
    """(exit code, what it printed) of a process that fuzzes one target."""
    OUT.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(seconds), str(OUT)]
    environment = os.environ | {"TINYREPTILE_NUMBA": "0"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, check=False)
    (OUT / f"{name}.log").write_bytes(done.stdout)
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main())
