"""A client that floods a broker: python -m tests.flooder HOST:PORT COUNT SECONDS SIZE TOPIC [TOPIC ...].

COUNT messages of SIZE random bytes at QoS 0, on the topics in turn, within SECONDS or as soon as the broker takes them.
It prints how many it has sent and in how many seconds.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from command_line.options import split_address

AT_ONCE = 500


def publication(topic: str, payload: bytes) -> bytes:
    """Return a PUBLISH of QoS 0."""
    return packet(0x30, text(topic) + payload)


def text(characters: str) -> bytes:
    """Return a string of MQTT."""
    data = characters.encode()
    return len(data).to_bytes(2, "big") + data


def packet(first: int, body: bytes) -> bytes:
    """Return a packet whose fixed header begins with ``first``."""
    size, head = len(body), bytearray([first])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + body


def flood(address: tuple[str, int], topics: list[str], count: int, seconds: float, size: int) -> int:
    """Send all of it; return how many messages that were."""
    with socket.create_connection(address, 10) as connection:
        connection.sendall(packet(0x10, text("MQTT") + bytes([4, 2, 0, 60]) + text("flooder")))
        if connection.recv(4)[:1] != b"\x20":
            raise SystemExit("the broker does not let it in")
        begun, sent = time.monotonic(), 0
        while sent < count:
            most = min(AT_ONCE, count - sent)
            connection.sendall(
                b"".join(publication(topics[i % len(topics)], os.urandom(size)) for i in range(sent, sent + most))
            )
            sent += most
            time.sleep(max(0.0, begun + seconds * sent / count - time.monotonic()))
    return sent


def main() -> None:
    address, count, seconds, size, *topics = sys.argv[1:]
    host, port = split_address(address)
    begun = time.monotonic()
    sent = flood((host, port or 1883), topics, int(count), float(seconds), int(size))
    print(sent, f"{time.monotonic() - begun:.1f}")


if __name__ == "__main__":
    main()
