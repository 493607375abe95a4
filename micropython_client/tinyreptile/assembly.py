"""An initialization that arrives in chunks: whole or not at all, never a mixture of versions."""

from binascii import crc32

from .messages import CHUNK_BYTES, MessageError, chunk_count


class Assembly:
    """Chunks find their place in ``buffer`` (bytearray); nothing else is kept of them.

    Attributes:
        version: of the initialization that the buffer holds whole, None while it holds none.
        crc: its CRC-32.
    """

    def __init__(self, buffer):
        self._bytes = memoryview(buffer)
        self._count = chunk_count(len(buffer))
        self._got = set()
        self._wanted = None  # the version that is being assembled; None: chunks are passed over
        self.version = None
        self.crc = 0

    def begin(self, version, crc):
        """From now on take chunks of ``version``, or of a newer one that has taken its slot."""
        self.version = None
        self.crc = crc
        self._wanted = version
        self._got = set()

    def add(self, index, chunk):
        """Take chunk ``index``, a message; raises `MessageError` if its size is none of this model's."""
        if self._wanted is None or chunk["version"] < self._wanted:
            return
        start = index * CHUNK_BYTES
        data = chunk["data"]
        if start >= len(self._bytes) or len(data) != min(CHUNK_BYTES, len(self._bytes) - start):
            raise MessageError("chunk %d has a wrong size, %d" % (index, len(data)))
        if chunk["version"] > self._wanted or chunk["crc"] != self.crc:
            self.begin(chunk["version"], chunk["crc"])  # a newer version has taken the slot: begin anew with it
        self._bytes[start : start + len(data)] = data
        self._got.add(index)

    def is_whole(self):
        """Whether all chunks of one version are there."""
        return len(self._got) == self._count

    def end(self):
        """Take no more chunks; if one version is whole and undamaged, `version` is it. Returns whether it is."""
        wanted, self._wanted = self._wanted, None
        if self.is_whole() and crc32(self._bytes) == self.crc:
            self.version = wanted
        return self.version is not None
