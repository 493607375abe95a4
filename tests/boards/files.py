"""What goes on to a board: folders of files, compiled for its chip, and images of file systems that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from littlefs import LittleFS, UserContext
from mpremote.romfs import VfsRomWriter

import boards.library

from .firmware import mpy_cross

_PICO_BLOCK = 4096
_PICO_BLOCKS = 1408 * 1024 // _PICO_BLOCK  # what the firmware leaves of the flash


def compiled(files: dict[str, Path], chip: str) -> dict[str, bytes]:
    """``files`` by their paths on a board, every .py compiled for ``chip``, a name of mpy-cross."""
    return boards.library.compiled(files, chip, mpy_cross())


def written(files: dict[str, bytes], folder: Path) -> Path:
    """``folder``, with ``files`` in it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def romfs(files: dict[str, bytes]) -> bytes:
    """An image of MicroPython's read-only file system, which it reads in place."""
    writer = VfsRomWriter()
    there: list[str] = []
    for name in sorted(files, key=lambda name: name.split("/")):
        *folders, base = name.split("/")
        kept = len([None for ours, theirs in zip(there, folders, strict=False) if ours == theirs])
        for _ in there[kept:]:
            writer.closedir()
        for folder in folders[kept:]:
            writer.opendir(folder)
        there = folders
        writer.mkfile(base, files[name])
    for _ in there:
        writer.closedir()
    return bytes(writer.finalise())


def littlefs(files: dict[str, bytes]) -> bytes:
    """An image of the file system in a Pico's flash."""
    system = _littlefs()
    for folder in sorted(set(_folders(files))):
        system.mkdir(folder)
    for name, content in files.items():
        with system.open(name, "wb") as file:
            file.write(content)
    return bytes(system.context.buffer)


def unpacked(image: bytes, folder: str) -> dict[str, bytes]:
    """The files in ``folder`` of a file system that `littlefs` or a Pico has made."""
    system = _littlefs(image)
    files = {}
    for where, _, names in system.walk(folder):
        for name in names:
            path = f"{where}/{name}"
            with system.open(path, "rb") as file:
                files[path.removeprefix(f"{folder}/")] = file.read()
    return files


def _littlefs(image: bytes = b"") -> LittleFS:
    """That of the ``image``, or a new one."""
    context = UserContext(_PICO_BLOCK * _PICO_BLOCKS)
    context.buffer[: len(image)] = image
    system = LittleFS(
        context,
        mount=False,
        block_size=_PICO_BLOCK,
        block_count=_PICO_BLOCKS,
        prog_size=256,
        read_size=32,
        lookahead_size=32,
        disk_version=0 if image else 0x00020000,  # MicroPython's writes a newer one than it takes from a stranger
    )
    if not image:
        system.format()
    system.mount()
    return system


def _folders(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        parts = name.split("/")[:-1]
        yield from ("/".join(parts[: depth + 1]) for depth in range(len(parts)))
