"""Output that nobody reads is left out, and never waited with."""

from __future__ import annotations

import io
import os
import pty
import termios
import time

from coordinator.output import Unblocked


def test_a_full_pipe_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as unread, os.fdopen(writer, "w") as file:
        output = Unblocked(file)
        begun = time.monotonic()
        for _ in range(100):
            output.write("ä" * 1500 + "\n")  # 300 KB into a pipe of 64
            if time.monotonic() - begun > 2:
                break
        assert time.monotonic() - begun < 20
        os.set_blocking(reader, False)
        taken = unread.read()
        assert 30_000 < len(taken) < 300_000
        assert output.write("it is read again\n") == 17
        assert unread.read() == b"it is read again\n"


def test_a_halted_terminal_is_not_waited_for() -> None:
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as file, os.fdopen(parent, "rb", buffering=0) as terminal:
        output = Unblocked(file)
        termios.tcflow(child, termios.TCOOFF)  # as Ctrl-S
        output.write("left out")
        termios.tcflow(child, termios.TCOON)
        output.write("shown")
        assert terminal.read(100) == b"shown"


def test_a_file_in_memory_is_written_and_is_like_the_file() -> None:
    file = io.StringIO()
    output = Unblocked(file)
    output.write("x" * 5000)
    assert (len(file.getvalue()), output.isatty()) == (5000, False)
