"""Helper processes that must not outlive this one, whatever becomes of it."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> Callable[[], None] | None:
    """A ``preexec_fn`` that has Linux end the child when its parent dies, even by SIGKILL; None on other systems."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return in_child
