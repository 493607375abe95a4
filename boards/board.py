"""A MicroPython board on a serial port: what it is, its files, its restart, what it prints."""

from __future__ import annotations

import ast
import binascii
import contextlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from tinyreptile.updates import CHIPS

from .errors import BoardError

try:
    import serial
    from mpremote.transport import TransportError, TransportExecError
    from mpremote.transport_serial import SerialTransport
    from serial.tools import list_ports
except ImportError:
    raise BoardError("boards are reached with mpremote: pip install 'tinyreptile[boards]'") from None

BAUD = 115200
OLDEST = (1, 24, 0)  # MicroPython's first release whose every part is known to do
MPY = (6, 3)  # the format that mpy-cross writes for these releases
_PIECE = 1024  # bytes of a file in one command
COMMAND_SECONDS = 20.0  # that a board may take for a command, if nobody says otherwise
_BYTE_SECONDS = 5  # for a byte that is due
_RETURN_SECONDS = 20  # for a board that has restarted to be on its port again

# A board whose watchdog runs can't stop it, and would restart in the middle: `_feed` is called with every command.
_HELPERS = """
import binascii, gc, hashlib, os, sys
try:
    from machine import WDT
    _feed = WDT(timeout=8000).feed if WATCHED else lambda: None
except (ImportError, OSError, TypeError, ValueError):
    _feed = lambda: None
def _hash(path):
    total, piece = hashlib.sha256(), bytearray(512)
    with open(path, 'rb') as file:
        while True:
            count = file.readinto(piece)
            if not count:
                return binascii.hexlify(total.digest()).decode()
            total.update(memoryview(piece)[:count])
            _feed()
def _list(folder):
    for entry in os.ilistdir(folder or '/'):
        path = folder + '/' + entry[0]
        if entry[1] & 0x4000:
            _list(path)
        else:
            print(repr((path[1:], _hash(path))))
def _remove(path):
    try:
        os.remove(path)
    except OSError:
        pass
def _open(path):
    global _file
    parts = path.split('/')
    for depth in range(1, len(parts)):
        try:
            os.mkdir('/' + '/'.join(parts[:depth]))
        except OSError:
            pass
    _file = open('/' + path + '.new', 'wb')
def _write(data):
    _file.write(binascii.a2b_base64(data))
    _feed()
def _close(path):
    _file.close()
    try:
        os.rename('/' + path + '.new', '/' + path)
    except OSError:
        _remove('/' + path)
        os.rename('/' + path + '.new', '/' + path)
    _feed()
"""

_ABOUT = """
gc.collect()
i, s = sys.implementation, os.statvfs('/')
try:
    from machine import unique_id
    u = binascii.hexlify(unique_id()).decode()
except (ImportError, AttributeError):
    u = ''
print(repr((i.name, tuple(i.version[:3]), getattr(i, '_machine', sys.platform), getattr(i, '_mpy', 0), u,
    s[0] * s[3], gc.mem_free() + gc.mem_alloc())))
"""


@dataclass(frozen=True)
class About:
    """What a board says of itself.

    Attributes:
        machine: its name, with its chip's.
        version: of its MicroPython.
        chip: the name that mpy-cross has for its machine code, or "py" for none.
        unique: its chip's serial number, in hexadecimal; "" if it has none.
        flash: bytes free in its file system.
        heap: bytes of its heap, free or not.
    """

    machine: str
    version: tuple[int, int, int]
    chip: str
    unique: str
    flash: int
    heap: int


def find_port(named: str | None = None) -> str:
    """The serial port of the one board that is plugged in, or ``named``; raises `BoardError` for none or several."""
    if named:
        return named
    ports: list[str] = sorted(port.device for port in list_ports.comports() if port.vid is not None)
    if not ports:
        raise BoardError("no board is plugged in, or its cable carries power only; a port can be named with --port")
    if len(ports) > 1:
        raise BoardError(f"{len(ports)} boards are plugged in; name one of them with --port: {', '.join(ports)}")
    return ports[0]


class Board:
    """The board at ``port``, which goes on with what it does until it is told to `stop`; a context manager.

    It has so many ``seconds`` for each command. Raises `BoardError` if there is none, or if something else uses it.
    """

    def __init__(self, port: str, seconds: float = COMMAND_SECONDS) -> None:
        self.port = port
        self._seconds = seconds
        self._transport = _connect(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the port."""
        with contextlib.suppress(OSError, serial.SerialException):
            self._transport.close()

    def stop(self) -> None:
        """End what runs on the board, and make it ready for commands; raises `BoardError` if it is no MicroPython."""
        try:
            self._interrupt()
            started = self._command("import os\nprint('main.py' in os.listdir('/'))").strip() == "True"
            self._command(_HELPERS.replace("WATCHED", str(started)))
        except (TransportError, OSError, serial.SerialException):
            self.close()
            raise BoardError(
                f"what is at {self.port} does not answer as MicroPython does; is MicroPython on it, and does nothing "
                "else hold it? Its reset button may help"
            ) from None
        except KeyboardInterrupt:
            self.restart()
            raise

    def about(self) -> About:
        """What the board says of itself; raises `BoardError` for one that can't be used."""
        name, version, machine, mpy, unique, flash, heap = self._value(_ABOUT)
        said = ".".join(str(part) for part in version)
        if name != "micropython":
            raise BoardError(f"{machine} runs {name} {said}, not MicroPython: see micropython.org/download")
        if version < OLDEST or (mpy & 0xFF, mpy >> 8 & 3) != MPY:
            oldest = ".".join(str(part) for part in OLDEST[:2])
            raise BoardError(
                f"{machine} runs MicroPython {said}; put {oldest} or a later 1.x on it: see micropython.org/download"
            )
        number = mpy >> 10 & 15
        chip = (CHIPS[number] if number < len(CHIPS) else None) or "py"
        return About(machine, version, chip, unique, flash, heap)

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of every file on the board, in hexadecimal, by path."""
        listed = ",".join(self._run("_list('')").splitlines())
        return dict(self._parsed(f"[{listed}]"))

    def write(self, path: str, data: bytes, progress: Callable[[int], None] = lambda size: None) -> None:
        """Write file ``path``; the one that was there stays until the new one is whole.

        ``progress`` is called with the bytes written since the last call.
        """
        self._run(f"_open({path!r})")
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            self._run(f"_write({binascii.b2a_base64(piece, newline=False)!r})")
            progress(len(piece))
        self._run(f"_close({path!r})")

    def read(self, path: str) -> bytes | None:
        """The content of file ``path``, or None if there is none; for small files."""
        content: bytes | None = self._value(
            f"try:\n with open({'/' + path!r}, 'rb') as f: print(repr(f.read()))\nexcept OSError: print(None)"
        )
        return content

    def remove(self, path: str) -> None:
        """Remove file ``path``, if it is there."""
        self._run(f"_remove({'/' + path!r})")

    def rename(self, path: str, name: str) -> None:
        """Rename file ``path``; a file ``name`` is replaced."""
        self._run(f"_remove({'/' + name!r})\nos.rename({'/' + path!r}, {'/' + name!r})")

    def restart(self) -> bool:
        """Restart the board as its reset button does, whatever it is at; whether it could be told to.

        `follow` shows what it prints.
        """
        try:
            self._interrupt()
            self._transport.exec_raw_no_follow("import machine\nmachine.reset()")
            self._transport.serial.flush()
        except (TransportError, OSError, serial.SerialException):
            return False
        return True

    def follow(self, seconds: float | None = None) -> Iterator[str]:
        """The lines that the board prints, as they come; "" now and then while there are none.

        Ends after ``seconds``. A board that restarts is waited for.
        """
        end = None if seconds is None else time.monotonic() + seconds
        text = b""
        while end is None or time.monotonic() < end:
            try:
                waiting = self._transport.serial.in_waiting
                text += self._transport.serial.read(waiting) if waiting else b""
            except (OSError, serial.SerialException):
                self._reconnect()
                continue
            if not waiting:
                time.sleep(0.05)
            *lines, text = text.split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").strip("\r\x04")
            if not lines:
                yield ""

    def _reconnect(self) -> None:
        """Open the port again: a board with USB of its own takes it away while it restarts."""
        self.close()
        end = time.monotonic() + _RETURN_SECONDS
        while True:
            time.sleep(0.2)
            try:
                self._transport = _connect(self.port)
            except BoardError:
                if time.monotonic() > end:
                    raise
            else:
                return

    def _interrupt(self) -> None:
        """End what runs on the board, a command that was broken off for example, and take it to its raw prompt."""
        with contextlib.redirect_stdout(io.StringIO()):  # mpremote prints what it did not expect
            self._transport.enter_raw_repl(soft_reset=False)

    def _run(self, code: str) -> str:
        try:
            return self._command(code)
        except TransportExecError as error:
            last = error.error_output.strip().splitlines()[-1:]
            raise BoardError(f"the board says: {' '.join(last)}") from None
        except (TransportError, OSError, serial.SerialException) as error:
            if "timeout" in str(error):
                raise BoardError(
                    f"the board at {self.port} has not answered for {self._seconds:g} s; --timeout gives it more time"
                ) from None
            raise BoardError(f"the connection to {self.port} was lost: {error}") from None

    def _value(self, code: str) -> Any:
        """The value that ``code`` prints."""
        return self._parsed(self._run(code))

    def _parsed(self, text: str) -> Any:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise BoardError(f"an answer of the board at {self.port} is damaged; try again, or another cable") from None

    def _command(self, code: str) -> str:
        output, problem = self._transport.exec_raw(code, timeout=self._seconds)
        if problem:
            raise TransportExecError(output, problem.decode(errors="replace"))
        text: str = output.decode(errors="replace")
        return text


def _connect(port: str) -> SerialTransport:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return SerialTransport(port, baudrate=BAUD, timeout=_BYTE_SECONDS)
    except (TransportError, OSError, serial.SerialException):
        raise BoardError(_obstacle(port)) from None


def _obstacle(port: str) -> str:
    """Why ``port`` can't be opened, and what to do."""
    try:
        serial.Serial(port, BAUD, exclusive=True).close()
    except (OSError, serial.SerialException) as error:
        text = str(error)
        if "Permission denied" in text:
            return f"{port} may not be opened by this user; on Linux: sudo usermod -a -G dialout $USER, and log in anew"
        if "lock" in text or "busy" in text or "Access is denied" in text:
            return f"{port} is busy: close the terminal or editor that has it open"
        if "No such file" in text or "FileNotFound" in text:
            return f"there is no {port}; is the board plugged in?"
        if "ioctl" in text:
            return f"{port} is no serial port; without --port the one that a board is plugged in at is found"
        return f"{port} can't be opened: {text}"
    return f"{port} could not be opened at first, but can be now; try again"
