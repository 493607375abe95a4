"""The MQTT client against what MQTT 3.1.1 demands of one, on CPython and on MicroPython; ``mqtt.md`` lists it.

A server made by hand, for Mosquitto sends nothing that is forbidden, and does not tell what it was sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tinyreptile import messages, reports, updates

from ..environment import CLIENT, need_program

SESSION = Path(__file__).with_name("mqtt_session.py")
TABLE = Path(__file__).with_name("mqtt.md")
CONNACK = b"\x20\x02\x00\x00"
PUBACK = b"\x40\x02\x00\x01"
SUBACK = b"\x90\x03\x00\x01\x01"
UNSUBACK = b"\xb0\x02\x00\x01"
PINGRESP = b"\xd0\x00"


@pytest.fixture(params=["cpython", "micropython"])
def interpreter(request: pytest.FixtureRequest) -> str:
    """Who runs the client."""
    return str(request.param)


@dataclass
class Peer:
    """The server's end of a connection: what the client sends, and what a test answers."""

    number: int  # of the connection, from 0
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    packets: list[tuple[int, bytes]] = field(default_factory=list)

    async def read(self) -> tuple[int, bytes]:
        """The next packet of the client: its first byte, and what follows the length."""
        code = (await self.reader.readexactly(1))[0]
        size = shift = 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        packet = code, await self.reader.readexactly(size)
        self.packets.append(packet)
        return packet

    async def send(self, *packets: bytes) -> None:
        """``packets`` in one segment."""
        self.writer.write(b"".join(packets))
        await self.writer.drain()

    async def send_slowly(self, data: bytes, seconds: float) -> None:
        """``data`` in many small pieces."""
        pieces = 20
        size = -(-len(data) // pieces)
        for at in range(0, len(data), size):
            await self.send(data[at : at + size])
            await asyncio.sleep(seconds / pieces)

    def of(self, code: int) -> list[bytes]:
        """The packets with this first byte."""
        return [body for first, body in self.packets if first == code]


@dataclass
class Result:
    """What a client did: each step's outcome, the messages that it took, the server's ends of its connections."""

    outcomes: list[str]
    messages: list[list[Any]]
    failure: str
    oversized: int
    peers: list[Peer]

    @property
    def peer(self) -> Peer:
        """The server's end of the only connection."""
        (peer,) = self.peers
        return peer


Script = Callable[[Peer], Awaitable[None]]


async def nothing(peer: Peer) -> None:
    """Say no more than the welcome."""


def sends(*packets: bytes) -> Script:
    """Say ``packets`` along with the welcome."""

    async def script(peer: Peer) -> None:
        await peer.send(*packets)

    return script


async def exchange(
    interpreter: str,
    steps: list[Any],
    script: Script = nothing,
    connacks: tuple[bytes, ...] = (CONNACK,),
    **options: Any,
) -> Result:
    """A client on ``interpreter`` connects and takes ``steps`` while ``script`` speaks for the server.

    The server answers the first CONNECT with the first of ``connacks``, and so on; later ones as the last.
    """
    peers: list[Peer] = []
    serving: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(len(peers), reader, writer)
        peers.append(peer)
        serving.append(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            await peer.read()
            await peer.send(connacks[min(peer.number, len(connacks) - 1)])
            await script(peer)
            while True:
                await peer.read()
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    options = {"client_id": "test", **options}
    port = server.sockets[0].getsockname()[1]
    programs = {"cpython": [sys.executable], "micropython": [need_program("micropython"), "-X", "heapsize=8M"]}
    process = await asyncio.create_subprocess_exec(
        *programs[interpreter],
        *(str(SESSION), "steps", "127.0.0.1", str(port)),
        env=os.environ | {"PYTHONPATH": str(CLIENT), "MICROPYPATH": f"{CLIENT}:.frozen", "TINYREPTILE_NUMBA": "0"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate(json.dumps([options, [["connect"], *steps]]).encode())
    finally:
        if process.returncode is None:
            process.kill()
        server.close()
        await asyncio.gather(*filter(None, serving))
        await server.wait_closed()
    assert process.returncode == 0, (output + errors).decode()
    return Result(**json.loads(output), peers=peers)


def publish(
    topic: bytes, payload: bytes, qos: int = 0, packet_id: int = 7, flags: int = 0, length: bytes | None = None
) -> bytes:
    """A PUBLISH, as a server may send it or not."""
    body = struct.pack(">H", len(topic)) + topic + (struct.pack(">H", packet_id) if qos else b"") + payload
    size, digits = len(body), b""
    while size > 127:
        digits += bytes([size & 127 | 128])
        size >>= 7
    digits += bytes([size])
    return bytes([0x30 | qos << 1 | flags]) + (length or digits) + body


# What a server may not send

FORBIDDEN = {
    # MQTT-1.5.3-1
    "a topic with a byte alone": publish(b"a\xffb", b"x"),
    "a topic with half a character": publish(b"a\xe2\x82", b"x"),
    "a topic with a surrogate": publish(b"a\xed\xa0\x80", b"x"),
    "a topic with a pair of surrogates": publish(b"\xed\xa0\xbd\xed\xb8\x80", b"x"),
    "a topic in too many bytes": publish(b"a\xc1\xa1", b"x"),
    "a topic in far too many bytes": publish(b"a\xf0\x80\x80\xaf", b"x"),
    "a topic beyond Unicode": publish(b"a\xf4\x90\x80\x80", b"x"),
    "an ill-formed topic of a long message": publish(b"a\xed\xa0\x80", bytes(4000)),
    # MQTT-1.5.3-2, MQTT-4.7.3-2
    "a topic with U+0000": publish(b"a\0b", b"x"),
    "a topic with U+0000 in two bytes": publish(b"a\xc0\x80", b"x"),
    # MQTT-2.2.2-1, MQTT-2.2.2-2
    **{f"a PUBACK with flags {flags:x}": bytes([0x40 | flags]) + PUBACK[1:] for flags in (1, 2, 4, 8, 15)},
    **{f"a SUBACK with flags {flags:x}": bytes([0x90 | flags]) + SUBACK[1:] for flags in (1, 2, 8)},
    **{f"an UNSUBACK with flags {flags:x}": bytes([0xB0 | flags]) + UNSUBACK[1:] for flags in (1, 2, 8)},
    **{f"a PINGRESP with flags {flags:x}": bytes([0xD0 | flags, 0]) for flags in (1, 2, 8)},
    # MQTT-2.3.1-1
    "a message with packet identifier 0": publish(b"a", b"x", qos=1, packet_id=0),
    "a long message with packet identifier 0": publish(b"a", bytes(4000), qos=1, packet_id=0),
    "a PUBACK with packet identifier 0": b"\x40\x02\x00\x00",
    "a SUBACK with packet identifier 0": b"\x90\x03\x00\x00\x01",
    "an UNSUBACK with packet identifier 0": b"\xb0\x02\x00\x00",
    # MQTT-3.3.1-2
    "a message of QoS 0 sent again": publish(b"a", b"x", flags=8),
    # MQTT-3.3.1-4
    "a message of QoS 3": publish(b"a", b"x", qos=3),
    "a message of QoS 3 sent again": publish(b"a", b"x", qos=3, flags=8),
    "a retained message of QoS 3": publish(b"a", b"x", qos=3, flags=1),
    # of QoS 2, which no subscription of this client allows (MQTT-3.8.4-6)
    "a message of QoS 2": publish(b"a", b"x", qos=2),
    "a PUBREC": b"\x50\x02\x00\x01",
    "a PUBREL": b"\x62\x02\x00\x01",
    "a PUBCOMP": b"\x70\x02\x00\x01",
    # MQTT-3.3.2-1
    "a topic beyond its packet": b"\x30\x04\x00\x09ab",
    "a message without a topic's length": b"\x30\x01\x00",
    "a message of nothing": b"\x30\x00",
    "an identifier beyond its packet": b"\x32\x04\x00\x02ab",
    "half an identifier": b"\x32\x05\x00\x02ab\x01",
    # MQTT-3.3.2-2, MQTT-4.7.1-1
    "a topic with +": publish(b"a/+", b"x"),
    "a topic with #": publish(b"a/#", b"x"),
    "a topic with + within a level": publish(b"a+b", b"x"),
    # MQTT-3.9.3-2
    **{f"a SUBACK with code {code:x}": b"\x90\x03\x00\x01" + bytes([code]) for code in (3, 4, 0x7F, 0x81, 0xFF)},
    # MQTT-4.7.3-1
    "a topic of no letters": publish(b"", b"payload"),
    # MQTT-4.8.0-1
    **{f"a packet of the reserved type {code:x}": bytes([code, 0]) for code in (0x00, 0xF0)},
    **{
        f"a client's packet, {code:x}": bytes([code]) + body
        for code, body in {0x10: b"\0", 0x82: b"\3\0\1\0", 0xA2: b"\2\0\1", 0xC0: b"\0", 0xE0: b"\0"}.items()
    },
    "a second CONNACK": CONNACK,
    "a PUBACK of one byte": b"\x40\x01\x00",
    "a PUBACK of three bytes": b"\x40\x03\x00\x01\x00",
    "a SUBACK of no code": b"\x90\x02\x00\x01",
    "a SUBACK of two codes": b"\x90\x04\x00\x01\x00\x00",
    "an UNSUBACK of three bytes": b"\xb0\x03\x00\x01\x00",
    "a PINGRESP with a byte": b"\xd0\x01\x00",
    "a length of five bytes": b"\x30\x80\x80\x80\x80\x01",
    "an acknowledgement with a length of five bytes": b"\x40\x82\x80\x80\x80\x00\x00\x01",
}


async def test_a_packet_that_is_forbidden_ends_the_session(interpreter: str) -> None:
    """The connection is closed, nothing is acknowledged before, and what follows is not looked at."""
    heard: dict[str, bytes] = {}
    names = list(FORBIDDEN)

    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.send(publish(b"before", b"x"), FORBIDDEN[names[peer.number]], publish(b"after", b"x", qos=1))
        try:
            heard[names[peer.number]] = await peer.reader.read()
        except ConnectionResetError:  # what the client has not read makes a reset of its end
            heard[names[peer.number]] = b""

    each = [["publish", "t", "go", 0], ["lost"], ["publish", "t", "late", 0]]
    steps = [*each, *[step for _ in names[1:] for step in (["connect"], *each)]]
    result = await exchange(interpreter, steps, script)
    assert heard == dict.fromkeys(FORBIDDEN, b"")
    for at, name in enumerate(names):
        first = FORBIDDEN[name][0]
        expected = f"OSError: the broker sent a packet that MQTT forbids, 0x{first:02x}"
        assert result.outcomes[4 * at : 4 * at + 4] == ["ok", "ok", "ok", expected], name
    assert [topic for topic, _, _ in result.messages] == ["before"] * len(names)


async def test_a_welcome_that_is_forbidden_is_none(interpreter: str) -> None:
    connacks = (b"\x20\x02\x01\x00", b"\x20\x02\x02\x00", b"\x20\x02\x01\x05", b"\x21\x02\x00\x00", b"\x20\x03\x00\x00")
    steps = [["connect"]] * (len(connacks) - 1)
    outcomes = (await exchange(interpreter, steps, connacks=connacks)).outcomes
    assert len(outcomes) == len(connacks)
    assert all("no MQTT broker" in outcome for outcome in outcomes)


async def test_what_comes_before_the_welcome_is_none(interpreter: str) -> None:
    result = await exchange(interpreter, [], connacks=(publish(b"a", b"x") + CONNACK,))
    assert "no MQTT broker" in result.outcomes[0]
    assert not result.messages


async def test_a_refusal_ends_the_connection(interpreter: str) -> None:
    connacks = tuple(bytes([0x20, 2, 0, code]) for code in (1, 2, 3, 4, 5, 6, 255))
    steps = [["publish", "t", "x"], *[["connect"], ["publish", "t", "x"]] * (len(connacks) - 1)]
    result = await exchange(interpreter, steps, connacks=connacks)
    assert all(outcome.startswith("Refused: ") for outcome in result.outcomes[::2])
    assert all("not connected" in outcome for outcome in result.outcomes[1::2])
    assert [len(peer.packets) for peer in result.peers] == [1] * len(connacks)


# What a server may send

TOPICS = {
    "plain": "a/b",
    "of one letter": "a",
    "a slash": "/",
    "empty levels": "a//b/",
    "with spaces": " a b ",
    "beginning with $": "$SYS/a",
    "of two, three and four bytes a letter": "ä€😀",
    "with the last before and the first after the surrogates": "\ud7ff\ue000",
    "with the last of Unicode": "\U0010ffff",
    "with a byte order mark": "\ufeffa\ufeff",
    "with control characters": "a\x01\x7f\x80",
    "as long as the buffer": "t" * 1000,
}


@pytest.mark.parametrize("qos", [0, 1])
async def test_every_topic_that_is_allowed_is_handed_out_as_it_is(interpreter: str, qos: int) -> None:
    packets = [publish(topic.encode(), b"x", qos, 0xFFFF - i) for i, topic in enumerate(TOPICS.values())]
    result = await exchange(interpreter, [["message", len(packets)], ["sleep", 0.2]], sends(*packets))
    assert result.messages == [[topic, "78", False] for topic in TOPICS.values()]
    acknowledged = [struct.pack(">H", 0xFFFF - i) for i in range(len(packets))]
    assert result.peer.of(0x40) == (acknowledged if qos else [])


async def test_flags_of_a_message_are_taken_as_they_are(interpreter: str) -> None:
    """Retained or not, sent again or not: one that is sent again under a number that was acknowledged is new."""
    packets = [publish(b"t", bytes([flags]), qos, 9, flags) for qos, flags in [(0, 0), (0, 1), (1, 8), (1, 9), (1, 8)]]
    result = await exchange(interpreter, [["message", 5], ["sleep", 0.1]], sends(*packets))
    assert [(payload, retained) for _, payload, retained in result.messages] == [
        ("00", False),
        ("01", True),
        ("08", False),
        ("09", True),
        ("08", False),
    ]
    assert result.peer.of(0x40) == [b"\0\t"] * 3


async def test_messages_are_acknowledged_in_their_order_whatever_becomes_of_them(interpreter: str) -> None:
    """Short ones, ones that are longer than the buffer, ones whose topics are."""
    sizes = {
        1: (1, 10),
        2: (1, 5000),
        3: (4000, 10),
        4: (1663, 10),
        5: (1662, 0),
        6: (1664, 0),
        7: (65535, 9000),
        8: (3, 0),
    }
    packets = [publish(b"t" * topic, bytes(size), 1, number) for number, (topic, size) in sizes.items()]
    steps = [["message", 2], ["sleep", 0.3], ["publish", "last", "", 0]]
    result = await exchange(interpreter, steps, sends(*packets), message_bytes=1500)
    assert result.outcomes == ["ok"] * 4
    assert result.peer.of(0x40) == [bytes([0, number]) for number in sizes]
    assert result.oversized == len(sizes) - len(result.messages)
    assert len(result.messages[-1][0]) == 3


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_topic_of_any_length_is_passed_over(interpreter: str, qos: int) -> None:
    """Around the length of the buffer, 660 bytes, and far beyond; retained, too."""
    sizes = (*range(655, 670), 2000, 65535)
    payloads = (b"", b"x", bytes(700))
    packets = [publish(b"t" * size, payload, qos, size, size & 1) for size in sizes for payload in payloads]
    fit = [size for size in sizes for payload in payloads if 2 + size + 2 * qos + len(payload) <= 660]
    last = publish(b"last", b"", qos)
    steps = [["message", len(fit) + 1], ["sleep", 0.2]]
    result = await exchange(interpreter, steps, sends(*packets, last), message_bytes=500)
    assert result.failure == ""
    assert [len(topic) for topic, _, _ in result.messages] == [*fit, 4]
    assert result.oversized == len(packets) - len(fit)
    acknowledged = [struct.pack(">H", size) for size in sizes for _ in payloads]
    assert result.peer.of(0x40) == ([*acknowledged, b"\0\7"] if qos else [])


async def test_a_message_that_there_is_no_memory_for_is_passed_over(interpreter: str) -> None:
    packets = publish(b"memory", b"x", 1, 1), publish(b"next", b"x", 1, 2)
    result = await exchange(interpreter, [["message", 1], ["sleep", 0.2]], sends(*packets))
    assert result.messages == [["next", "78", False]]
    assert result.oversized == 1
    assert result.failure == ""
    assert result.peer.of(0x40) == [b"\0\1", b"\0\2"]


async def test_a_length_may_take_more_bytes_than_it_needs(interpreter: str) -> None:
    """Only MQTT 5 forbids it."""
    result = await exchange(interpreter, [["message", 1]], sends(publish(b"t", b"x", length=b"\x84\x80\x80\x00")))
    assert result.messages == [["t", "78", False]]


# Acknowledgements


async def test_each_acknowledgement_counts_whatever_comes_with_it(interpreter: str) -> None:
    """In one segment: of given up exchanges, of other types with the same identifier, messages."""

    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.send(b"\x40\x02\x00\x09", SUBACK, PUBACK, UNSUBACK, b"\x40\x02\x00\x08", publish(b"a", b"x"))
        await peer.read()
        await peer.send(b"\x90\x03\x00\x02\x00", b"\x40\x02\x00\x02", b"\x90\x03\x00\x05\x80", PINGRESP)
        await peer.read()
        await peer.send(b"\x90\x03\x00\x03\x00", b"\xb0\x02\x00\x03", b"\xb0\x02\x00\x04")

    steps = [["publish", "t", "x"], ["subscribe", "t"], ["unsubscribe", "t"], ["message", 1]]
    result = await exchange(interpreter, steps, script, timeout=3)
    assert result.outcomes == ["ok"] * 5


@pytest.mark.parametrize("when", ["with the welcome", "later"])
async def test_an_acknowledgement_before_its_packet_counts_for_nothing(interpreter: str, when: str) -> None:
    early = PUBACK + b"\x90\x03\x00\x02\x00" + b"\xb0\x02\x00\x03"

    async def script(peer: Peer) -> None:
        if when == "later":
            await peer.read()
            await peer.send(early, publish(b"sent", b""))

    connack = CONNACK + early if when == "with the welcome" else CONNACK
    steps = [["publish", "t", "go", 0], ["message", 1]] if when == "later" else []
    result = await exchange(interpreter, [*steps, ["publish", "t", "x"]], script, (connack,), timeout=0.5)
    assert result.outcomes[-1].endswith("the broker does not answer")


async def test_a_packet_has_an_identifier_that_no_other_has_at_the_time(interpreter: str) -> None:
    """An exchange that was given up keeps its own; its acknowledgement, late, is not that of the next."""

    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.read()
        await peer.send(PUBACK)
        await asyncio.sleep(0.5)
        await peer.send(b"\x40\x02\x00\x02")

    steps = [["cancel", 0.2], ["publish", "t", "given up"], ["cancel", 0.3], ["publish", "t", "x"], ["sleep", 0.5]]
    result = await exchange(interpreter, steps, script)
    assert [outcome.split(":")[0] for outcome in result.outcomes] == ["ok", "TimeoutError", "TimeoutError", "ok"]
    assert [body[3:5] for body in result.peer.of(0x32)] == [b"\0\1", b"\0\2"]


async def test_a_subscription_is_granted_or_not(interpreter: str) -> None:
    codes = (0, 1, 2, 0x80, 0)

    async def script(peer: Peer) -> None:
        for i, code in enumerate(codes):
            await peer.read()
            await peer.send(bytes([0x90, 3, 0, 1 + i, code]))

    result = await exchange(interpreter, [["subscribe", f"t{code}"] for code in codes], script)
    refused = "OSError: the broker does not let this client subscribe to t128"
    assert result.outcomes == ["ok", "ok", "ok", "ok", refused, "ok"]


# Time


async def test_a_message_may_take_its_time_while_its_bytes_arrive(interpreter: str) -> None:
    """Longer than the time of silence after which a broker is left."""

    async def script(peer: Peer) -> None:
        await peer.send_slowly(publish(b"slow", bytes(600), qos=1), 5)
        await peer.send_slowly(publish(b"too long", bytes(9000), qos=1), 5)
        await peer.send(publish(b"last", b""))

    result = await exchange(interpreter, [["message", 2]], script, keepalive=2)
    assert result.messages == [["slow", "00" * 600, False], ["last", "", False]]
    assert result.failure == ""
    assert result.oversized == 1
    assert result.peer.of(0xC0), "it says that it is alive meanwhile"


async def test_an_answer_may_wait_behind_a_message_whose_bytes_arrive(interpreter: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.send_slowly(publish(b"slow", bytes(600)) + PUBACK, 4)

    result = await exchange(interpreter, [["publish", "t", "x"]], script, timeout=2)
    assert result.outcomes == ["ok", "ok"]


async def test_an_answer_that_never_comes_is_not_waited_for_without_end(interpreter: str) -> None:
    """Whatever else the broker has to say."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.send(publish(b"other", b"x"))
            await asyncio.sleep(0.1)

    result = await exchange(interpreter, [["publish", "t", "x"]], script, timeout=1, keepalive=2)
    assert result.outcomes[1].endswith("the broker does not answer")


async def test_a_message_whose_bytes_stop_ends_the_session(interpreter: str) -> None:
    result = await exchange(interpreter, [["lost"]], sends(publish(b"a", bytes(500))[:100]), keepalive=1)
    assert result.failure.endswith("the broker is silent")


async def test_a_client_with_nothing_to_say_says_that_it_is_alive(interpreter: str) -> None:
    async def script(peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        for _ in range(5):
            assert await peer.read() == (0xC0, b"")
            assert loop.time() - last <= 1, "the keep-alive"
            last = loop.time()
            await peer.send(PINGRESP)
        await peer.send(publish(b"enough", b""))

    result = await exchange(interpreter, [["message", 1]], script, keepalive=1)
    assert result.outcomes == ["ok", "ok"]


# What the client sends


async def packets_of(interpreter: str, *steps: list[Any], **options: Any) -> list[tuple[int, bytes]]:
    """What a client sends that takes ``steps``, with answers to all of it."""

    async def script(peer: Peer) -> None:
        while True:
            code, body = await peer.read()
            if code & 0xF6 == 0x32:
                size = struct.unpack(">H", body[:2])[0]
                await peer.send(b"\x40\x02" + body[2 + size : 4 + size])
            elif code in (0x82, 0xA2):
                await peer.send(b"\x90\x03" + body[:2] + b"\1" if code == 0x82 else b"\xb0\x02" + body[:2])

    result = await exchange(interpreter, list(steps), script, **options)
    assert result.outcomes == ["ok"] * (1 + len(steps))
    return result.peer.packets


def text(value: str) -> bytes:
    """``value`` as MQTT has texts."""
    return struct.pack(">H", len(value.encode())) + value.encode()


CONNECTS: dict[str, tuple[dict[str, Any], int, bytes]] = {
    "id": ({}, 0x02, text("test")),
    "will": ({"will": ["will/ä", "gone"]}, 0x2E, text("test") + text("will/ä") + text("gone")),
    "user": ({"user": "ü€"}, 0x82, text("test") + text("ü€")),
    "password": ({"user": "u", "password": "p"}, 0xC2, text("test") + text("u") + text("p")),
    "password alone": ({"password": "p"}, 0x02, text("test")),
    "all": (
        {"user": "u", "password": "pä", "will": ["w", ""]},
        0xEE,
        text("test") + text("w") + text("") + text("u") + text("pä"),
    ),
}


@pytest.mark.parametrize("name", CONNECTS)
async def test_a_connection_begins_with_one_connect_of_what_was_given(interpreter: str, name: str) -> None:
    options, flags, payload = CONNECTS[name]
    packets = await packets_of(interpreter, ["publish", "t", "x"], ["disconnect"], keepalive=300, **options)
    assert packets[0] == (0x10, text("MQTT") + bytes([4, flags]) + struct.pack(">H", 300) + payload)
    assert [code for code, _ in packets] == [0x10, 0x32, 0xE0]


async def test_packets_are_of_the_standard_form(interpreter: str) -> None:
    steps = [
        ["publish", "a/b", "x", 0],
        ["publish", "ä", "", 1, True],
        ["subscribe", "+/a/#", 0],
        ["unsubscribe", "+/a/#"],
    ]
    packets = await packets_of(interpreter, *steps, ["publish", "€", "x" * 200, 1])
    assert packets[1:] == [
        (0x30, text("a/b") + b"x"),
        (0x33, text("ä") + b"\0\1"),
        (0x82, b"\0\2" + text("+/a/#") + b"\0"),
        (0xA2, b"\0\3" + text("+/a/#")),
        (0x32, text("€") + b"\0\4" + b"x" * 200),
    ]


async def test_nothing_follows_a_good_bye(interpreter: str) -> None:
    closed: list[bytes] = []

    async def script(peer: Peer) -> None:
        while (await peer.read())[0] != 0xE0:
            pass
        closed.append(await peer.reader.read())

    steps = [["publish", "t", "x", 0], ["disconnect"], ["publish", "t", "x", 0], ["subscribe", "t"], ["sleep", 1.5]]
    result = await exchange(interpreter, steps, script, keepalive=1)
    assert all("not connected" in outcome for outcome in result.outcomes[3:5])
    assert result.peer.packets[-1] == (0xE0, b"")
    assert closed == [b""]


async def test_identifiers_are_never_0(interpreter: str) -> None:
    packets = await packets_of(interpreter, *[["publish", "t", "", 1]] * 300)
    assert [struct.unpack(">H", body[3:5])[0] for code, body in packets if code == 0x32] == list(range(1, 301))


REFUSALS = ("ValueError", "UnicodeError", "UnicodeEncodeError")  # the others are ValueErrors, too
UNSENDABLE = {
    "no topic": ["publish", "", "x"],
    "a topic with +": ["publish", "a/+", "x"],
    "a topic with #": ["publish", "#", "x"],
    "a topic with U+0000": ["publish", "a\0", "x"],
    "a topic with a surrogate": ["publish", "a\ud800", "x"],
    "a topic too long": ["publish", "t" * 200, "x"],
    "QoS 2": ["publish", "t", "x", 2],
    "QoS 3": ["publish", "t", "x", 3],
    "no filter": ["subscribe", ""],
    "a filter with U+0000": ["subscribe", "a\0"],
    "a filter with a surrogate": ["subscribe", "\udfff"],
    "a filter too long": ["subscribe", "t" * 200],
    "a filter of QoS 2": ["subscribe", "t", 2],
    "no filter to end": ["unsubscribe", ""],
    "a filter to end with U+0000": ["unsubscribe", "\0"],
}


async def test_what_may_not_be_sent_is_refused_in_words(interpreter: str) -> None:
    """And the session goes on."""
    result = await exchange(interpreter, [*UNSENDABLE.values(), ["publish", "t", "x", 0], ["sleep", 0.1]])
    for name, outcome in zip(UNSENDABLE, result.outcomes[1:], strict=False):
        kind, _, sentence = outcome.partition(": ")
        assert kind in REFUSALS, name
        assert sentence, name
    assert result.outcomes[-2] == "ok"
    assert len(result.peer.packets) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"client_id": ""},
        {"client_id": "a\0"},
        {"client_id": "a\ud800"},
        {"user": "a\0"},
        {"user": "\udfff"},
        {"will": ["a/#", "x"]},
        {"will": ["", "x"]},
        {"will": ["a\0", "x"]},
    ],
    ids=repr,
)
async def test_a_connect_that_may_not_be_sent_is_refused_in_words(interpreter: str, options: dict[str, Any]) -> None:
    result = await exchange(interpreter, [["sleep", 0.1]], **options)
    assert result.outcomes[0].split(": ")[0] in REFUSALS
    assert not result.peer.packets


def test_the_runs_own_topics_are_names_and_filters_of_mqtt() -> None:
    """Wildcards are levels of their own, # is the last."""
    run = reports.CoordinatorTopics("r")
    device = messages.RunTopics("r").device("d")
    names = [value for topics in (run, device) for value in vars(topics).values() if isinstance(value, str)]
    names += [run.piece("+"), run.software("x64"), updates.own_chip()]
    assert len(names) > 12
    for name in names:
        levels = name.split("/")
        assert "#" not in name[:-1]
        assert all(level in ("+", "#") or not {"+", "#", "\0"} & set(level) for level in levels)


# The table


def test_every_test_that_the_table_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE.read_text()))
    files = [Path(__file__), Path(__file__).with_name("test_mqtt.py")]
    there = set(re.findall(r"def (test_\w+)", "".join(file.read_text() for file in files)))
    assert named
    assert named <= there


def test_the_table_has_every_statement_once() -> None:
    rows = re.findall(r"^\| (\d\.\d+\.\d+-\d+) \|", TABLE.read_text(), re.MULTILINE)
    numbers = [tuple(int(number) for number in re.split(r"\W", row)) for row in rows]
    assert len(numbers) > 80
    assert numbers == sorted(set(numbers))
