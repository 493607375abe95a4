"""An emulated RP2040 whose power can be cut: every operation on its flash is written down, and any past can be booted.

What is in the flash when the power fails between two operations is what the first of the two has left. Fails it during
an operation, a page is programmed in part, or a sector erased in part: some of the bits that would have changed have.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace

from rp2040py.boards import BOARDS, FlashLayout, resolve_layout
from rp2040py.device import MicroPythonDevice
from rp2040py.peripherals import ssi

from . import firmware

_PICO = BOARDS["pico"]
ERASED = 0xFF


def _layout() -> FlashLayout:
    layout = resolve_layout(_PICO, "micropython")
    assert layout
    return layout


@dataclass(frozen=True)
class Operation:
    """``data`` programmed at ``address`` of the flash, or, without any, the sector of 4 KiB there erased."""

    address: int
    data: bytes | None

    def apply(self, flash: bytearray, chance: random.Random | None = None) -> None:
        """Do it; with a ``chance`` the power fails meanwhile, and each changing bit has changed or not."""
        size = ssi.FLASH_SECTOR_SIZE if self.data is None else len(self.data)
        for at in range(self.address, self.address + size):
            after = ERASED if self.data is None else flash[at] & self.data[at - self.address]
            if chance:
                after = flash[at] ^ ((flash[at] ^ after) & chance.getrandbits(8))
            flash[at] = after


class Pico:
    """The board with ``files``, an image of its file system, from power on to power off: an async context.

    Attributes:
        operations: on its flash, since power on.
    """

    def __init__(self, files: bytes) -> None:
        self._start = _layout().fs_start
        self._size = len(files)
        self._device = MicroPythonDevice(board=replace(_PICO, image=firmware.pico(), layout=_layout()))
        self._device.mcu.flash[self._start : self._start + self._size] = files
        self._said = ""
        self.operations: list[Operation] = []
        flash_chip = self._device.mcu.ssi
        apply = flash_chip._apply_command

        def watched() -> None:
            self._note(bytes(flash_chip._tx_buffer), flash_chip._write_enabled)
            apply()

        flash_chip._apply_command = watched

    def _note(self, command: bytes, enabled: bool) -> None:
        if not enabled or len(command) < 4:
            return
        address = int.from_bytes(command[1:4], "big") - self._start
        if command[0] == ssi.CMD_PAGE_PROGRAM:
            self.operations.append(Operation(address, command[4:]))
        elif command[0] == ssi.CMD_SECTOR_ERASE:
            self.operations.append(Operation(address, None))
        elif command[0] == ssi.CMD_BLOCK_ERASE:
            size = ssi.FLASH_BLOCK_SIZE
            self.operations.extend(Operation(at, None) for at in range(address, address + size, ssi.FLASH_SECTOR_SIZE))

    async def __aenter__(self) -> Pico:
        await self._device.astart(None)
        self._device.cdc.on_serial_data = self._hear
        return self

    async def __aexit__(self, *_: object) -> None:
        self._device.stop()

    def _hear(self, data: bytes) -> None:
        self._said += bytes(data).decode(errors="replace")

    @property
    def files(self) -> bytes:
        """The file system's image as it is now."""
        return bytes(self._device.mcu.flash[self._start : self._start + self._size])

    async def tell(self, line: str, answer: str, seconds: float) -> str:
        """Send ``line`` and wait until the board says a line with ``answer``; returns what it said until then.

        Raises TimeoutError after ``seconds``.
        """
        self._said = ""
        for byte in f"{line}\r".encode():
            self._device.cdc.send_serial_byte(byte)
        try:
            async with asyncio.timeout(seconds):
                while answer not in self._said or not self._said.endswith("\n"):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise TimeoutError(f"the board did not say {answer!r} within {seconds:g} s but {self._said!r}") from None
        return self._said
