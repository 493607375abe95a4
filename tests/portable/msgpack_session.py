"""The portable MessagePack on CPython or MicroPython; `test_msgpack` runs it.

It reads a list from standard input, in JSON: ["unpack", bytes in hexadecimal digits], or ["pack", a Python expression].
It prints what came of each, a list in JSON: what Python writes for the value, the bytes, or the name of the error.
"""

import json
import struct
import sys
from array import array

from tinyreptile.msgpack import Packer, unpackb


def pack(expression):
    packer = Packer(bytearray(2000))
    packer.pack(eval(expression, {"array": array, "nested": nested}))
    return "".join("%02x" % byte for byte in packer.buffer[: packer.length])


def nested(levels):
    """Lists in lists, one of them in itself where ``levels`` is 0."""
    value = 1
    for _ in range(levels):
        value = [value]
    if not levels:
        value = []
        value.append(value)
    return value


def unpack(digits):
    return written(unpackb(bytes(int(digits[i : i + 2], 16) for i in range(0, len(digits), 2))))


def written(value):
    """Text that is the same on both Pythons: the pairs of a map in order, floats by bits, characters by numbers."""
    if isinstance(value, float):
        return "float(%s)" % ("nan" if value != value else ", ".join(str(byte) for byte in struct.pack(">d", value)))
    if isinstance(value, (memoryview, bytes)):
        return "binary(%s)" % ", ".join(str(byte) for byte in bytes(value))
    if isinstance(value, list):
        return "[%s]" % ", ".join(written(item) for item in value)
    if isinstance(value, dict):
        return "{%s}" % ", ".join(sorted("%s: %s" % (written(key), written(value[key])) for key in value))
    if isinstance(value, str):
        return "text(%s)" % ", ".join(str(ord(c)) for c in value)
    return repr(value)


def outcome(kind, argument):
    try:
        return {"pack": pack, "unpack": unpack}[kind](argument)
    except ValueError as error:
        return type(error).__name__


if __name__ == "__main__":
    print(json.dumps([outcome(kind, argument) for kind, argument in json.loads(sys.stdin.read())]))
