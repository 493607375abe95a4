"""A microphone stream on MicroPython with a driver that plays a file: prints a label and a clip in hexadecimal.

micropython microphone_session.py FILE LABEL: 32-bit samples as an I2S microphone sends them at 8 kHz.
"""

import asyncio
import io
import sys
from array import array
from binascii import hexlify


class I2S(io.IOBase):
    """Has always something to read; its clock goes with what was read."""

    RX = MONO = 0
    read = 0  # bytes

    def __init__(self, *arguments, **options):
        self._file = open(sys.argv[1], "rb")  # noqa: SIM115 - there until the script ends

    def ioctl(self, request, argument):
        return argument if request == 3 else 0  # a poll: whatever was asked for

    def readinto(self, buffer):
        # In pieces that are no whole frame, as a driver may hand them over.
        count = self._file.readinto(memoryview(buffer)[:500])
        assert count, "nothing was heard"
        I2S.read += count
        return count


class Pin:
    def __init__(self, number):
        pass


class Machine:
    I2S = I2S
    Pin = Pin


sys.modules["machine"] = Machine

from tinyreptile.streams import microphone  # noqa: E402 - the fake comes first

microphone.ticks_ms = lambda: I2S.read // 32


async def main():
    stream = microphone.MicrophoneStream(14, 15, 32, 4)
    x, y = memoryview(array("h", bytes(2 * stream.inputs))), array("h", [0])
    sampling = asyncio.create_task(stream.sample(x, y))
    await asyncio.sleep_ms(1)
    stream.label(int(sys.argv[2]))
    await sampling
    print(y[0], hexlify(bytes(x)).decode())


asyncio.run(main())
