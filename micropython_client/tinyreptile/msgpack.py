"""The MessagePack subset of the protocol, written into and read out of given buffers.

nil, booleans, integers of up to 64 bits, floats, strings, binary, arrays and maps (https://msgpack.org, specification
of 2013). Extension types, timestamps among them, are read as None and never written: no field has one, and what a newer
peer adds is passed over. Keys of maps are strings; integers are read, too, and of equal keys the last counts. Binary
is handed out as a memoryview of the buffer that was read, so it is valid only until that buffer is used again.
"""

import struct

from .portable import const, decode

MAX_DEPTH = const(8)  # lists and maps that a value may be in, one in the other


class MessagePackError(ValueError):
    """Bytes that are not one whole MessagePack value of the subset, or a value that does not fit the buffer."""


class Packer:
    """Writes values one after another into ``buffer`` (a bytearray); `length` bytes of it are used."""

    def __init__(self, buffer):
        self.buffer = buffer
        self.length = 0

    def pack(self, value, depth=0):
        """Append ``value``: None, bool, int, float, str, bytes-like, list, tuple or dict."""
        _check_depth(depth)
        if value is None:
            self._head(0xC0)
        elif value is True:
            self._head(0xC3)
        elif value is False:
            self._head(0xC2)
        elif isinstance(value, int):
            self._int(value)
        elif isinstance(value, float):
            self._head(0xCB)
            self._copy(struct.pack(">d", value))
        elif isinstance(value, str):
            try:
                data = value.encode()
                decode(data)
            except ValueError:  # an odd text must not cost its message
                data = repr(value).encode()
            self._sized(len(data), 0xA0, 32, 0xD9)
            self._copy(data)
        elif isinstance(value, (bytes, bytearray, memoryview)):
            data = bytes(value)  # the length of a memoryview of wider cells is not its bytes'
            self.bin_header(len(data))
            self._copy(data)
        elif isinstance(value, (list, tuple)):
            self._sized(len(value), 0x90, 16, 0xDB)
            for item in value:
                self.pack(item, depth + 1)
        elif isinstance(value, dict):
            self.map_header(len(value))
            for key in value:
                if not isinstance(key, str):
                    raise MessagePackError("a map's key is a string")
                self.pack(key, depth + 1)
                self.pack(value[key], depth + 1)
        else:
            raise MessagePackError("a %s has no place in a message" % type(value).__name__)

    def map_header(self, count):
        """Begin a map of ``count`` pairs, which follow as keys and values."""
        self._sized(count, 0x80, 16, 0xDD)

    def bin_header(self, size):
        """Begin ``size`` bytes of binary; `reserve` gives the room to write them to."""
        self._sized(size, 0, 0, 0xC4)

    def reserve(self, size):
        """A memoryview of the next ``size`` bytes, to be filled by the caller."""
        start = self._grow(size)
        return memoryview(self.buffer)[start : self.length]

    def _int(self, value):
        if -32 <= value < 128:
            self._head(value & 0xFF)
            return
        # Codes of 8, 16, 32 and 64 bits; of so many, a negative number's sign takes one.
        code = 0xCC if value > 0 else 0xD0
        bits = 8
        while bits <= 64:
            if (value if value > 0 else -2 * value - 1) < 1 << bits:
                self._head(code, value & (1 << bits) - 1, bits // 8)
                return
            code += 1
            bits *= 2
        raise MessagePackError("the integer %d needs more than 64 bits" % value)

    def _sized(self, size, short, limit, code):
        """Header of something of ``size``: ``short`` + size below ``limit``, else a length of 8, 16 or 32 bits.

        ``code`` is the type with an 8-bit length, the wider ones follow it; arrays and maps have none of 8 bits.
        """
        if size < limit:
            self._head(short + size)
        elif size < 1 << 8 and code <= 0xD9:
            self._head(code, size, 1)
        elif size < 1 << 16:
            self._head(code + 1, size, 2)
        else:
            self._head(code + 2, size, 4)

    def _head(self, code, value=0, size=0):
        """Append ``code`` and ``value`` in ``size`` bytes."""
        start = self._grow(1 + size)
        self.buffer[start] = code
        self.buffer[start + 1 : self.length] = value.to_bytes(size, "big")

    def _copy(self, data):
        start = self._grow(len(data))
        self.buffer[start : self.length] = data

    def _grow(self, size):
        start = self.length
        if start + size > len(self.buffer):
            raise MessagePackError("the message is longer than its buffer of %d bytes" % len(self.buffer))
        self.length = start + size
        return start


# Struct's letters for numbers (codes from 0xCA on); for lengths of binary (0xC4) and extension types, of strings, lists
# and maps (0xD9).
_NUMBERS = "fdBHIQbhiq"
_BINARY = "BHIBHI"
_OTHERS = "BHIHIHI"


class Unpacker:
    """Reads values one after another from ``data`` (bytes, bytearray or memoryview)."""

    def __init__(self, data):
        self.data = memoryview(data)
        self.position = 0

    def unpack(self, depth=0):
        """The next value; raises `MessagePackError` where the bytes end early or are not of the subset."""
        _check_depth(depth)
        code = self._take(1)[0]
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 256
        if code < 0x90:
            return self._map(code & 15, depth)
        if code < 0xA0:
            return self._array(code & 15, depth)
        if code < 0xC0:
            return _text(self._take(code & 31))
        if code == 0xC0:
            return None
        if code == 0xC2:
            return False
        if code == 0xC3:
            return True
        if 0xCA <= code <= 0xD3:
            return self._number(_NUMBERS[code - 0xCA])
        if 0xC4 <= code <= 0xC6:
            return self._take(self._number(_BINARY[code - 0xC4]))
        if code == 0xC1:
            raise MessagePackError("there is no type 0xc1")
        if code < 0xD9:  # an extension type
            size = self._number(_BINARY[code - 0xC4]) if code < 0xD4 else 1 << code - 0xD4
            self._take(1 + size)
            return None
        length = self._number(_OTHERS[code - 0xD9])
        if code <= 0xDB:
            return _text(self._take(length))
        if code <= 0xDD:
            return self._array(length, depth)
        return self._map(length, depth)

    def _number(self, letter):
        form = ">" + letter
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, size):
        start = self.position
        if start + size > len(self.data):
            raise MessagePackError("the message ends too early")
        self.position = start + size
        return self.data[start : self.position]

    def _array(self, size, depth):
        # Each item takes a byte at least: no list longer than the message, whatever its header claims.
        if size > len(self.data) - self.position:
            raise MessagePackError("the message ends too early")
        return [self.unpack(depth + 1) for _ in range(size)]

    def _map(self, size, depth):
        if 2 * size > len(self.data) - self.position:
            raise MessagePackError("the message ends too early")
        result = {}
        for _ in range(size):
            key = self.unpack(depth + 1)
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise MessagePackError("a map's key is a string or an integer")
            result[key] = self.unpack(depth + 1)
        return result


def _text(data):
    """Return the text that ``data`` holds in UTF-8."""
    try:
        return decode(data)
    except ValueError:
        raise MessagePackError("a string that is not UTF-8")


def _check_depth(depth):
    if depth > MAX_DEPTH:
        raise MessagePackError("more than %d levels of nesting" % MAX_DEPTH)


def unpackb(data):
    """The one value that ``data`` holds; raises `MessagePackError` if anything is left over."""
    reader = Unpacker(data)
    value = reader.unpack()
    if reader.position != len(reader.data):
        raise MessagePackError("%d bytes too many" % (len(reader.data) - reader.position))
    return value
