"""The signals that end a command: Ctrl-C, SIGTERM of a service manager, SIGHUP of a terminal that is closed."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_AGAIN_SECONDS = 0.02

_asked = False  # to end, before anything could listen: what was raised then may have been lost in an import


def treat_as_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP do from now on what Ctrl-C does at the time; a SIGHUP that is ignored, as by nohup, stays.

    Until now they have ended the process: a command begins now. The first process of a container hears of no signal but
    those that it has a handler for.
    """
    sys.unraisablehook = _repeat_ctrl_c
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)


def ignore_all() -> None:
    """Let no signal disturb the interpreter's end, which gives all others back to the system."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _repeat_ctrl_c(ignored: UnraisableHookArgs) -> None:
    """Repeat a Ctrl-C that came where Python ignores errors, as in what an import leaves to be cleared away."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        again = threading.Timer(_AGAIN_SECONDS, _signal_main)
        again.daemon = True  # nothing is left of it where all is over by then
        again.start()
    else:
        sys.__unraisablehook__(ignored)


def _signal_main() -> None:
    """Send the main thread a signal that ends what it waits for, too."""
    number = signal.SIGTERM if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else signal.SIGINT
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C led to ``error``: raised while a class is being made, say, Python gives it another name."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Have the signals that end a command call ``stop`` in the running event loop while this lasts."""
    import asyncio  # not sooner: `treat_as_ctrl_c` is called before anything that takes time

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _ENDING}
    taken = [number for number in _ENDING if number != signal.SIGHUP or before[number] != signal.SIG_IGN]
    for number in taken:
        loop.add_signal_handler(number, stop)
    if _asked:
        stop()
    try:
        yield
    finally:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, taken)
        for number in taken:
            loop.remove_signal_handler(number)  # it puts the system's own in its place
            signal.signal(number, before[number])
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
