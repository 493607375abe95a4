"""A new version of the library over MQTT: an image in chunks, hashed and signed, unpacked into the spare folder.

An image is a row of files, each ``name length (1), name, size (4, big-endian), content``. Its manifest says for which
chip it is compiled, gives its SHA-256, and is signed with the key that the board was given when it was flashed
(HMAC-SHA256, RFC 2104). An image is put together in a file; nothing of the running version is touched.
"""

import hashlib
import os
import struct

from .messages import CHUNK_BYTES, MessageError, chunk_count
from .portable import const

IMAGE = "image"  # the file that it is put together in
MAX_IMAGE = const(1 << 20)
MAX_NAME = const(64)
_BLOCK = const(64)  # bytes of SHA-256's blocks
_PIECE = const(512)  # bytes that are read and written at once
_COUNT = const((1 << 31) - 1)


SOFTWARE = (
    ("version", int, 1, _COUNT, True),
    ("chip", str, 1, 16, True),  # a name of mpy-cross
    ("bytes", int, 1, MAX_IMAGE, True),
    ("sha256", bytes, 32, 32, True),
    ("signature", bytes, 32, 32, True),
)

SOFTWARE_CHUNK = (
    ("version", int, 1, _COUNT, True),
    ("data", bytes, 1, CHUNK_BYTES, True),
)


class SoftwareError(ValueError):
    """An image that can't be installed; the text says why."""


def signature(key, version, chip, size, digest):
    """The HMAC-SHA256 of a manifest's fields with ``key``, bytes."""
    key = hashlib.sha256(key).digest() if len(key) > _BLOCK else key
    key = key + bytes(_BLOCK - len(key))
    text = struct.pack(">II", version, size) + digest + chip.encode()
    inner = hashlib.sha256(bytes([b ^ 0x36 for b in key]) + text).digest()
    return hashlib.sha256(bytes([b ^ 0x5C for b in key]) + inner).digest()


def check_manifest(manifest, key, chip):
    """Raises `SoftwareError` unless the manifest is for ``chip`` and signed with ``key``."""
    if not key:
        raise SoftwareError("this board has no key to check an update with; set key in its configuration")
    if manifest["chip"] != chip:
        raise SoftwareError("the update is for %s, this board is %s" % (manifest["chip"], chip))
    wanted = signature(key, manifest["version"], manifest["chip"], manifest["bytes"], bytes(manifest["sha256"]))
    if not _same(wanted, bytes(manifest["signature"])):
        raise SoftwareError("the update is not signed with this board's key")


def _same(one, other):
    """Whether two digests are equal, in a time that does not tell where they differ."""
    different = len(one) ^ len(other)
    for i in range(min(len(one), len(other))):
        different |= one[i] ^ other[i]
    return not different


class Image:
    """An image of ``size`` bytes that arrives in chunks of any order, kept in the file `IMAGE`."""

    def __init__(self, version, size):
        if not 0 < size <= MAX_IMAGE:
            raise SoftwareError("an update has at most %d bytes, not %d" % (MAX_IMAGE, size))
        self.version = version
        self.size = size
        self._got = bytearray((chunk_count(size) + 7) // 8)
        self._missing = chunk_count(size)
        self._file = open(IMAGE, "wb+")

    def add(self, index, version, data):
        """Take chunk ``index``; raises `MessageError` for one that has no place here."""
        start = index * CHUNK_BYTES
        if version != self.version:
            return
        if start >= self.size or len(data) != min(CHUNK_BYTES, self.size - start):
            raise MessageError("chunk %d of an update has a wrong size, %d" % (index, len(data)))
        if not self._got[index >> 3] >> (index & 7) & 1:
            self._file.seek(start)
            self._file.write(data)
            self._got[index >> 3] |= 1 << (index & 7)
            self._missing -= 1

    def is_whole(self):
        """Whether all chunks are there."""
        return not self._missing

    def check(self, digest):
        """Raises `SoftwareError` unless the file has the SHA-256 ``digest``."""
        total = hashlib.sha256()
        self._file.seek(0)
        piece = bytearray(_PIECE)
        while True:
            count = self._file.readinto(piece)
            if not count:
                break
            total.update(memoryview(piece)[:count])
        if not _same(total.digest(), bytes(digest)):
            raise SoftwareError("the update arrived damaged")

    def unpack(self, folder):
        """Write the files into ``folder``, emptied before; raises `SoftwareError` for an image that is none."""
        empty(folder)
        _make_folder(folder)
        self._file.seek(0)
        left = self.size
        while left:
            head = self._read(1)
            name = self._read(head[0])
            size = struct.unpack(">I", self._read(4))[0]
            left -= 5 + len(name) + size
            path = _safe(name)
            if left < 0:
                raise SoftwareError("the update ends in the middle of %s" % path)
            parts = path.split("/")
            for depth in range(1, len(parts)):
                _make_folder(folder + "/" + "/".join(parts[:depth]))
            with open(folder + "/" + path, "wb") as file:
                while size:
                    piece = self._read(min(size, _PIECE))
                    file.write(piece)
                    size -= len(piece)

    def close(self):
        """Let go of the file and remove it."""
        self._file.close()
        try:
            os.remove(IMAGE)
        except OSError:
            pass

    def _read(self, size):
        data = self._file.read(size)
        if len(data) != size:
            raise SoftwareError("the update ends too early")
        return data


def pack(files):
    """The image of ``files``, a dict of their contents by name."""
    image = b""
    for name in sorted(files):
        image += bytes([len(name)]) + name.encode() + struct.pack(">I", len(files[name])) + files[name]
    return image


def _safe(name):
    """``name``, bytes, as a path that stays in its folder."""
    try:
        path = bytes(name).decode()
    except UnicodeError:
        path = ""
    parts = path.split("/")
    if not 0 < len(path) <= MAX_NAME or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise SoftwareError("the update has a file named %r" % path)
    return path


def _make_folder(path):
    try:
        os.mkdir(path)
    except OSError:
        pass  # it is there; if not, the first file will tell


def empty(folder):
    """Remove ``folder`` with all that is in it, if it is there."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        path = folder + "/" + name
        try:
            os.remove(path)
        except OSError:
            empty(path)
    os.rmdir(folder)
