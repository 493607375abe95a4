"""Measure the microphone's front-end on emulated boards: python -m benchmarks.boards.microphone.

Its tables, once; a frame, of which there are fifty a second; and a clip, when a word was heard.
"""

from __future__ import annotations

import json

from boards.library import library
from tests.boards.runners import RUNNERS
from tinyreptile.streams.microphone import DEVIATIONS, FRAME, FRAMES, HIGH, HOP, LOW, MEANS, RATE

from .__main__ import BOARDS, DEVICE


def main() -> None:
    """Print the figures, a line for each board."""
    front_end = RATE, FRAME, len(MEANS), LOW, HIGH
    for board in BOARDS:
        runner = RUNNERS[board.runner]
        runner.obtain()
        files = {**library(runner.chip), **{path.name: path for path in DEVICE.glob("*.py")}}
        arguments = board.megahertz, front_end, HOP, FRAMES, MEANS, DEVIATIONS
        printed = runner.run(f"import hear\nhear.main{arguments!r}", files, seconds=600)
        measured = json.loads(printed.splitlines()[-1])
        figures = ", ".join(f"{name} {measured[name] * board.ticks:,.0f}" for name in ("tables", "frame", "clip"))
        print(f"{board.title}, {board.unit}: {figures}")


if __name__ == "__main__":
    main()
