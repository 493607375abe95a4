"""What the client takes of a 32-bit heap with the network of sine, part by part: python -m benchmarks.boards.heap.

In bytes, on the unix port, where machine code lies outside the heap; with ``rp2040`` behind the command on that
emulated board, where it lies in the heap, and where it takes its time.
"""

from __future__ import annotations

import re
import sys

from boards.library import library
from simulator.tasks.sine import Sine
from tests.boards.runners import RUNNERS

from .__main__ import DEVICE


def parts(name: str) -> dict[str, int]:
    """Bytes of each part on the runner ``name``, without the names in it, which all parts share; theirs; all."""
    runner = RUNNERS[name]
    runner.obtain()
    files = {**library(runner.chip), "room.py": DEVICE / "room.py"}
    printed = runner.run(f"import room\nroom.main({Sine.model!r})", files, seconds=500)
    looks = re.findall(r"part: (.*): (\d+)\s+qstr pool: .*n_total_bytes=(\d+)", printed)
    result = {}
    before = names = 0
    for part, used, named in looks:
        result[part] = int(used) - before - (int(named) - names)
        before, names = int(used), int(named)
    return {**result, "names": names, "in all": before}


def main() -> None:
    """Print a table in Markdown."""
    (runner,) = sys.argv[1:] or ["i386"]
    print(f"| part | {runner} |\n| --- | ---: |")
    for part, size in parts(runner).items():
        print(f"| {part} | {size:,} |")


if __name__ == "__main__":
    main()
