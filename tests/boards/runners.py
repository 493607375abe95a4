"""The MicroPythons that code is run on. Each is had once, kept, and started anew for every piece of code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport
from serial import SerialException

from simulator.children import end_with_parent

from ..environment import find_program
from . import firmware
from .debian import Debian, DebianError
from .files import compiled, littlefs, romfs, written

_RELEASES = ("trixie", "forky")
_LIBRARIES = ["libc6", "libffi8", "libgcc-s1", "libmbedcrypto16", "libmbedtls21", "libmbedx509-7"]


Board = Callable[[str], str]  # runs a piece of code and returns what it prints, as `Runner.run` does


class Failed(Exception):
    """The code that ran on a board raised something; the text is what it printed and its traceback."""


class Runner(ABC):
    """A MicroPython.

    Attributes:
        name: what it is.
        chip: the name that mpy-cross has for its instruction set.
        thumb: whether it runs assembly for Thumb.
        network: whether it has sockets.
    """

    def __init__(self, name: str, chip: str, *, network: bool = False, thumb: bool = False) -> None:
        self.name = name
        self.chip = chip
        self.thumb = thumb
        self.network = network

    @abstractmethod
    def obtain(self) -> None:
        """Fetch and build what `run` needs, if it is not there; raises `DebianError` or `BuildError`."""

    @abstractmethod
    def run(self, code: str, files: dict[str, Path], seconds: float = 120) -> str:
        """What ``code`` prints, with ``files`` in the current folder, compiled.

        Raises `Failed` if it fails, and TimeoutError after ``seconds``.
        """


class Unix(Runner):
    """The unix port: its system's own program, or one of another architecture with libraries of its own."""

    def __init__(self, name: str, chip: str, heap: str = "192K") -> None:
        super().__init__(name, chip, network=True)
        self.heap = heap

    def obtain(self) -> None:
        """Nothing to do: the development environment has it."""

    def command(self) -> list[str]:
        """How the program is called."""
        path = find_program("micropython")
        if path is None:
            raise firmware.BuildError("there is no micropython: make install brings it")
        return [path]

    def run(self, code: str, files: dict[str, Path], seconds: float = 120) -> str:
        """See `Runner.run`."""
        with tempfile.TemporaryDirectory() as folder:
            written(compiled(files, self.chip), Path(folder))
            with self.start(code, Path(folder), self.heap) as process:
                try:
                    output, _ = process.communicate(timeout=seconds)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise TimeoutError(f"not done in {seconds:g} s") from None
        if process.returncode:
            raise Failed(output)
        return output

    def start(self, code: str, folder: Path, heap: str) -> subprocess.Popen[str]:
        """A process that runs ``code`` in ``folder``, where the files are: paths are as short as on a board."""
        return subprocess.Popen(
            [*self.command(), "-X", f"heapsize={heap}", "-c", code],
            env=os.environ | {"MICROPYPATH": ":.frozen"},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=end_with_parent(),
        )


class Foreign(Unix):
    """The unix port of another architecture: Debian's program and libraries, in a folder of their own."""

    def __init__(self, name: str, chip: str, architecture: str, loader: str, emulator: str = "") -> None:
        super().__init__(name, chip)
        self._architecture = architecture
        self._loader = loader
        self._emulator = emulator

    @property
    def _root(self) -> Path:
        return firmware.folder() / f"unix-{self._architecture}"

    def obtain(self) -> None:
        """Fetch the packages, and see that the emulator is there."""
        with firmware.missing(self._root) as absent:
            if absent:
                self._fetch()
        self.command()

    def _fetch(self) -> None:
        with tempfile.TemporaryDirectory(dir=firmware.folder()) as work:
            root = Path(work) / "root"
            self._debian().unpack(["micropython", *_LIBRARIES], root)
            if not (root / "lib").exists():
                (root / "lib").symlink_to("usr/lib")
            root.rename(self._root)

    def _debian(self) -> Debian:
        """The first of the releases that the mirror has whole: while it is being updated, one may not be."""
        folder = firmware.folder() / "apt"
        for release in _RELEASES[:-1]:
            with suppress(DebianError):
                return Debian(folder, self._architecture, release)
        return Debian(folder, self._architecture, _RELEASES[-1])

    def command(self) -> list[str]:
        """How the program is called: by its own loader, in its own folder."""
        program = str(self._root / "usr" / "bin" / "micropython")
        if self._emulator:
            path = find_program(self._emulator)
            if path is None:
                raise firmware.BuildError(f"there is no {self._emulator}: make test-boards installs it on Debian")
            return [path, "-L", str(self._root), program]
        libraries = self._root / "usr" / "lib" / self._loader
        return [str(next(libraries.glob("ld-linux*"))), "--library-path", str(libraries), program]


class Bare(Runner):
    """A board that QEMU emulates, with 192 KiB of heap and the files in its memory, as if in flash.

    ``address`` is where they lie; ``options`` are QEMU's.
    """

    def __init__(self, name: str, chip: str, address: int, program: str, options: Sequence[str]) -> None:
        super().__init__(name, chip, thumb=chip.startswith("arm"))
        self._address = address
        self._program = program
        self._options = list(options)

    def obtain(self) -> None:
        """Build the firmware."""
        firmware.qemu(self.name)

    def run(self, code: str, files: dict[str, Path], seconds: float = 120) -> str:
        """See `Runner.run`. Without a clock of its own, the board gets ``device/time.py``."""
        program = find_program(self._program)
        if program is None:
            raise firmware.BuildError(f"there is no {self._program}: make test-boards installs it on Debian")
        clock = Path(__file__).parent / "device" / "time.py"
        image = romfs(compiled({**files, "time.py": clock}, self.chip))
        with tempfile.NamedTemporaryFile(suffix=".img") as loaded:
            loaded.write(image)
            loaded.flush()
            emulator = subprocess.Popen(
                [
                    *(program, *self._options, "-nographic", "-monitor", "null", "-semihosting", "-serial", "pty"),
                    *("-kernel", str(firmware.qemu(self.name))),
                    *("-device", f"loader,file={loaded.name},addr={self._address:#x},force-raw=on"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=end_with_parent(),
            )
            mount = (
                "import os, sys, uctypes, vfs\n"
                f"vfs.mount(vfs.VfsRom(uctypes.bytearray_at({self._address:#x}, {len(image)})), '/rom')\n"
                "os.chdir('/rom')\nsys.path[:] = ['/rom']\n"
            )
            with _emulated(emulator, seconds) as board:
                return board(mount + code)


class Pico(Runner):
    """An RP2040 at 125 MHz whose cycles are counted (rp2040py), with the files in the flash's own file system."""

    def obtain(self) -> None:
        """Build the firmware."""
        firmware.pico()

    def run(self, code: str, files: dict[str, Path], seconds: float = 120) -> str:
        """See `Runner.run`."""
        with self.started(files, seconds) as board:
            return board(code)

    @contextmanager
    def started(self, files: dict[str, Path], seconds: float) -> Iterator[Board]:
        """Start the board for several pieces of code, each of which finds what those before it have left."""
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "littlefs.img"
            image.write_bytes(littlefs(compiled(files, self.chip)))
            emulator = subprocess.Popen(
                [
                    *(sys.executable, "-m", "rp2040py", "micropython", "--pty"),
                    *("--image", str(firmware.pico()), "--littlefs", str(image)),
                ],
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=end_with_parent(),
            )
            with _emulated(emulator, seconds) as board:
                yield board


@contextmanager
def _emulated(emulator: subprocess.Popen[str], seconds: float) -> Iterator[Board]:
    """Run code on the board that ``emulator`` is, which ends with this context, and after ``seconds`` anyway."""
    # Nothing else ends a wait for a board that hangs: reading from a pseudo-terminal has no time limit.
    limit = threading.Timer(seconds, emulator.kill)
    limit.start()
    with emulator:
        try:
            terminal = _terminal(emulator)

            def board(code: str) -> str:
                try:
                    return execute(terminal, code)
                except (SerialException, OSError) as error:
                    raise TimeoutError(f"not done in {seconds:g} s") from error

            yield board
        finally:
            limit.cancel()
            emulator.kill()


def _terminal(emulator: subprocess.Popen[str]) -> str:
    """The pseudo-terminal that ``emulator`` says its serial port is."""
    assert emulator.stdout
    said = []
    for line in emulator.stdout:
        said.append(line)
        found = re.search(r"/dev/\S*pts/\d+", line)
        if found:
            return found.group()
    raise Failed("the emulator ended: " + "".join(said))


def execute(terminal: str, code: str) -> str:
    """What ``code`` prints on the board at ``terminal``."""
    transport = SerialTransport(terminal, baudrate=115200)
    try:
        transport.enter_raw_repl(soft_reset=False)
        output, error = transport.exec_raw(code, timeout=None)
    except TransportError as problem:
        raise Failed(str(problem)) from problem
    finally:
        transport.close()
    if error:
        raise Failed(output.decode() + error.decode())
    return str(output.decode()).replace("\r\n", "\n")


_NRF51 = ("-machine", "microbit", "-global", "nrf51-soc.flash-size=1048576", "-global", "nrf51-soc.sram-size=262144")

RUNNERS: dict[str, Runner] = {
    runner.name: runner
    for runner in (
        Unix("unix", "x64", heap="256K"),  # words of 64 bits take up to twice the room of a board's
        Foreign("i386", "x86", "i386", "i386-linux-gnu"),
        Foreign("armhf", "armv7emdp", "armhf", "arm-linux-gnueabihf", emulator="qemu-arm-static"),
        Bare("cortex-m4", "armv7em", 0x21800000, "qemu-system-arm", ("-machine", "mps2-an386", "-icount", "shift=0")),
        Bare("cortex-m0", "armv6m", 0x80000, "qemu-system-arm", _NRF51),
        Bare("rv32", "rv32imc", 0x84000000, "qemu-system-riscv32", ("-bios", "none", "-machine", "virt")),
        Pico("rp2040", "armv6m", thumb=True),
    )
}
