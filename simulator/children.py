"""Helper processes that must not outlive this one, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
END_SECONDS = 5.0


def end_with_parent() -> Callable[[], None] | None:
    """A ``preexec_fn`` that has Linux end the child when its parent dies, even by SIGKILL; None on other systems."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return in_child


@contextlib.contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Let processes that are started within never see Ctrl-C; one for this process waits until the end.

    They inherit that the signal is blocked. Ignoring it would do as well for them, but lose one that comes meanwhile.
    """
    resource_tracker.ensure_running()  # multiprocessing would start it within, and unblock the signal then
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


async def end(process: asyncio.subprocess.Process) -> None:
    """End ``process``, by force where it does not end by itself in `END_SECONDS`."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def ending(code: int | None) -> str:
    """Describe the exit code of a process: "exit code 1", or the signal that killed it."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def last_line(log: Path) -> str:
    """Return the last line of a process's ``log`` that is not empty, or "" if there is none."""
    return next((line.strip() for line in reversed(log.read_text(errors="replace").split("\n")) if line.strip()), "")
