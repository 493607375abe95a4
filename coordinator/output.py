"""Output that nobody may be reading: a pipe that is full or closed, a terminal that was halted, a disk that is full."""

from __future__ import annotations

import contextlib
import select
from typing import IO, Any

PATIENCE_MS = 50  # for a reader who is only slow
_PIECE = select.PIPE_BUF // 4  # characters, of four bytes at most: what a pipe that is ready takes without waiting


class Tolerant:
    """A text file like ``file``, but what can't be written is left out, and characters that it lacks are replaced."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write ``text`` if that can be; returns its length."""
        with contextlib.suppress(OSError, ValueError):  # it is closed
            try:
                self._file.write(text)
            except UnicodeEncodeError as error:
                self._file.write(text.encode(error.encoding, "replace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if that can be."""
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


class Unblocked(Tolerant):
    """Likewise, and what nobody takes in time is left out instead of waited with."""

    def write(self, text: str) -> int:
        """Write ``text`` as far as it is taken; returns its length."""
        for begin in range(0, len(text), _PIECE):
            if not self._ready():
                break
            super().write(text[begin : begin + _PIECE])
            self.flush()
        return len(text)

    def _ready(self) -> bool:
        try:
            descriptor = self._file.fileno()
        except (OSError, ValueError):  # a file in memory, or one that is closed
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return bool(poll.poll(PATIENCE_MS))
