"""MQTT 3.1.1 packets in a stream of bytes: where they end, and what of them the bench looks at."""

from __future__ import annotations

from collections.abc import Iterator

PUBLISH, PUBACK = 0x30, 0x40
DUP = 0x08


class Splitter:
    """Cuts what comes off a stream into whole packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The packets that ``data`` completes."""
        self._rest += data
        start = 0
        while (end := _end(self._rest, start)) is not None:
            yield self._rest[start:end]
            start = end
        self._rest = self._rest[start:]


def _end(data: bytes, start: int) -> int | None:
    """Where the packet at ``start`` ends, if all of it is there."""
    size, shift, at = 0, 0, start + 1
    while at < len(data):
        size |= (data[at] & 127) << shift
        at += 1
        if not data[at - 1] & 128:
            return at + size if at + size <= len(data) else None
        shift += 7
    return None


def kind(packet: bytes) -> int:
    """The packet's type, in the high half of a byte."""
    return packet[0] & 0xF0


def qos(packet: bytes) -> int:
    """The quality of service of a PUBLISH."""
    return packet[0] >> 1 & 3


def retained(packet: bytes) -> bool:
    """Whether a PUBLISH has the flag of a retained message."""
    return bool(packet[0] & 1)


def publication(packet: bytes) -> tuple[str, int, bytes]:
    """Topic, packet identifier (0 without) and payload of a PUBLISH."""
    at = 2
    while packet[at - 1] & 128:
        at += 1
    end = at + 2 + int.from_bytes(packet[at : at + 2], "big")
    topic = packet[at + 2 : end].decode()
    if not qos(packet):
        return topic, 0, packet[end:]
    return topic, int.from_bytes(packet[end : end + 2], "big"), packet[end + 2 :]


def acknowledged(packet: bytes) -> int:
    """The packet identifier of a PUBACK."""
    return int.from_bytes(packet[2:4], "big")


def again(packet: bytes) -> bytes:
    """The PUBLISH as it is sent for a second time."""
    return bytes([packet[0] | DUP]) + packet[1:]
