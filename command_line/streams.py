"""The standard streams: all there, none that refuses a character, and an output that fails is told in a sentence."""

import io
import os
import sys
from typing import Any, TextIO


class Unwritable(OSError):
    """Standard output can't be written, as on a disk that is full."""


class _Output(io.FileIO):
    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:  # its reader has had enough
            raise
        except OSError as error:
            raise Unwritable(error.errno, error.strerror) from None


def open_streams() -> None:
    """Have all three standard streams, in which what can't be encoded is a question mark.

    What the program opens would take the number of one that is closed, and get what is printed. A width that is none is
    not set: nothing would be shown.
    """
    if not os.environ.get("COLUMNS", "").strip("0").isdecimal():
        os.environ.pop("COLUMNS", None)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number, this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = _writer(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _writer(io.FileIO(2, "w", closefd=False), sys.stderr)


def _writer(file: io.FileIO, before: TextIO | None) -> TextIO:
    encoding = before.encoding if before else None
    by_line = file.fileno() == 2 or file.isatty()
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, "replace", line_buffering=by_line)


def settle(stream: TextIO) -> OSError | None:
    """Write what is left in ``stream``; returns the error if that can't be, and has it go nowhere then.

    The interpreter would try once more at its end, and change the exit code.
    """
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None
