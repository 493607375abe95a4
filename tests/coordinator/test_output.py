"""Output that nobody reads is left out, and never waited with."""

from __future__ import annotations

import io
import logging
import os
import pty
import termios
import time

import pytest
from rich.logging import RichHandler

from command_line.console import Printer
from coordinator.logs import JsonFormatter, TextFormatter
from coordinator.output import Tolerant, Unblocked


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


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"run gr??e: 1 ? 2\n"), ("latin-1", b"run gr\xf6\xdfe: 1 ? 2\n")]
)
@pytest.mark.parametrize("kind", [Tolerant, Unblocked])
def test_what_the_file_has_no_character_for_is_a_question_mark(
    kind: type[Tolerant], encoding: str, shown: bytes
) -> None:
    written = io.BytesIO()
    output = kind(io.TextIOWrapper(written, encoding, errors="strict"))
    assert output.write("run größe: 1 → 2\n") == 17
    output.flush()
    assert written.getvalue() == shown


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
@pytest.mark.parametrize("rich", [True, False])
def test_a_record_is_shown_whatever_the_terminal_lacks(formatter: logging.Formatter, rich: bool) -> None:
    """UTF-8 lacks surrogates, which are in the name of a file that is not UTF-8."""
    for encoding in ("ascii", "latin-1", "utf-8"):
        written = io.BytesIO()
        file = io.TextIOWrapper(written, encoding, errors="strict", write_through=True)
        console = Printer(file=file, width=200)
        console.goes_on = True
        handler = RichHandler(console=console) if rich else logging.StreamHandler(Unblocked(file))
        handler.setFormatter(formatter)
        log = logging.Logger("test")
        log.addHandler(handler)
        log.warning("größe→ of %s", "a\udcffb")
        said = written.getvalue().decode(encoding)
        assert {"ascii": "gr??e? of a?b", "latin-1": "größe? of a?b", "utf-8": "größe→ of a?b"}[encoding] in said


def test_a_file_in_memory_is_written_and_is_like_the_file() -> None:
    file = io.StringIO()
    output = Unblocked(file)
    output.write("x" * 5000)
    assert (len(file.getvalue()), output.isatty()) == (5000, False)
