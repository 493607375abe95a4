"""A client that has a broker multiply its messages: python -m tests.sessions JSON, with the fields of `Attack`.

It opens sessions with one certificate, each with the same subscriptions, and leaves or keeps their connections; then it
publishes at a steady rate. It prints how many sessions it has opened, how many messages it has sent, and how many
bytes have come.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import struct
import sys
import time
from dataclasses import dataclass, field

from .flooder import packet, text

_KEEPALIVE = 600
_SECONDS = 10.0  # for an answer
_FILTERS_AT_ONCE = 20  # in a packet that the broker takes


@dataclass
class Attack:
    """What one certificate does.

    Attributes:
        version: of MQTT, 4 for 3.1.1; under 5 a session is sent a message for each filter that matches.
        sessions: opened one after the other, with client ids of their own.
        groups: of shared subscriptions, for each filter in each session; 0: subscriptions are plain.
        keep: keep the connections, and read what comes; else the sessions stay without one.
        rate: messages a second on ``topic``.
    """

    host: str
    port: int
    ca: str
    certificate: str
    key: str
    filters: list[str] = field(default_factory=list)
    version: int = 4
    sessions: int = 1
    groups: int = 0
    keep: bool = False
    topic: str = ""
    rate: float = 0.0
    seconds: float = 10.0

    def subscriptions(self) -> list[str]:
        """The filters of each session."""
        if not self.groups:
            return self.filters
        return [f"$share/{group}/{name}" for group in range(self.groups) for name in self.filters]


class Client:
    """A connection of ``attack``, whose session is called ``name`` and stays."""

    def __init__(self, attack: Attack, context: ssl.SSLContext, name: str) -> None:
        self._five = attack.version == 5
        plain = socket.create_connection((attack.host, attack.port), _SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=attack.host)
        expiry = b"\x05\x11" + struct.pack(">I", 3600) if self._five else b""
        flags = bytes([attack.version, 0, *divmod(_KEEPALIVE, 256)])
        self._ask(packet(0x10, text("MQTT") + flags + expiry + text(name)), 0x20)

    def _ask(self, question: bytes, answer: int) -> None:
        """Send the packet ``question`` and read until one of the type ``answer`` has come."""
        self.socket.sendall(question)
        while True:
            if self._read() == answer:
                return

    def _read(self) -> int:
        """Read a packet; return its type."""
        first, size, shift = self._exactly(1)[0], 0, 0
        while True:
            byte = self._exactly(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                self._exactly(size)
                return first & 0xF0

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the broker has ended the connection")
            data += more
        return data

    def subscribe(self, filters: list[str], qos: int) -> None:
        """Subscribe to ``filters``, as many in each packet as the broker takes."""
        for start in range(0, len(filters), _FILTERS_AT_ONCE):
            some = filters[start : start + _FILTERS_AT_ONCE]
            names = b"".join(text(name) + bytes([qos]) for name in some)
            self._ask(packet(0x82, b"\x00\x01" + b"\x00" * self._five + names), 0x90)

    def publish(self, topic: str) -> None:
        """Publish a message of QoS 1 that is none of the protocol: it is kept for sessions without a connection."""
        self.socket.sendall(packet(0x32, text(topic) + b"\x00\x01" + b"\x00" * self._five + b"none"))

    def leave(self) -> None:
        """Say good-bye; the session stays."""
        self.socket.sendall(b"\xe0\x00")
        self.socket.close()


def play(attack: Attack) -> tuple[int, int, int]:
    """Return (sessions that were opened, messages sent, bytes that have come)."""
    context = ssl.create_default_context(cafile=attack.ca)
    context.load_cert_chain(attack.certificate, attack.key)
    kept: list[Client] = []
    opened = sent = came = 0
    for number in range(attack.sessions):
        try:
            client = Client(attack, context, f"tinyreptile-{number}")
            client.subscribe(attack.subscriptions(), 0 if attack.keep else 1)  # what is kept of a session has QoS 1
        except OSError:  # the broker has no more connections for it
            break
        opened += 1
        kept.append(client)
        if not attack.keep and number + 1 < attack.sessions:
            kept.pop().leave()
    print("opened", flush=True)
    with selectors.DefaultSelector() as selector:
        for client in kept:
            client.socket.setblocking(False)
            selector.register(client.socket, selectors.EVENT_READ)
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < attack.seconds:
            if attack.rate and sent < now * attack.rate:
                kept[-1].socket.settimeout(_SECONDS)
                kept[-1].publish(attack.topic)
                kept[-1].socket.setblocking(False)
                sent += 1
            for key, _ in selector.select(0.005):
                try:
                    while data := key.fileobj.recv(65536):  # type: ignore[union-attr]
                        came += len(data)
                    selector.unregister(key.fileobj)  # its session was taken over
                except (ssl.SSLWantReadError, BlockingIOError):
                    pass
                except OSError:
                    selector.unregister(key.fileobj)
    return opened, sent, came


if __name__ == "__main__":
    print(*play(Attack(**json.loads(sys.argv[1]))))
