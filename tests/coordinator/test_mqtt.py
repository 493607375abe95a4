"""Messages as bytes, which can be shown; sessions that end early, of which nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date
from functools import reduce
from typing import Any

import pytest

from coordinator import mqtt
from coordinator.config import BrokerConfig, Config
from coordinator.errors import BrokerError
from coordinator.mqtt import ClosedError, client, pack, session_with, subscribe, unpack
from coordinator.operator import ask
from tests.coordinator.packets import packet_from
from tinyreptile.messages import MessageError
from tinyreptile.msgpack import MAX_DEPTH
from tinyreptile.reports import MESSAGE_BYTES


@pytest.mark.parametrize("value", [{"work": 1, "data": b"\x00\x1b"}, [1.5, None, "kitchen-1 é 温"], "", -3])
def test_what_is_packed_is_unpacked(value: Any) -> None:
    assert unpack(pack(value)) == value


def test_a_text_off_the_wire_can_not_steer_a_terminal() -> None:
    message = {"error": "\x1b[2J\x1b]0;title\x07", "lines": ["a\r\nerror: forged", {"k\x00": "\u202e\x9b31m"}]}
    found = unpack(pack(message))
    assert found == {
        "error": "\ufffd[2J\ufffd]0;title\ufffd",
        "lines": ["a\ufffd\ufffderror: forged", {"k\ufffd": "\ufffd\ufffd31m"}],
    }


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (10**20, "a whole number in a message lies between -2"),
        (-(10**19), "a whole number in a message lies between -2"),
        ("\udcff", "a text in a message can't be written in UTF-8"),
        (date(2026, 1, 1), "a value in a message is a number, a text"),
        (reduce(lambda value, _: [value], range(2000), 1), "a value in a message is nested too deeply"),
        (reduce(lambda value, _: [value], range(MAX_DEPTH), 1), f"more than {MAX_DEPTH} levels of nesting"),
        (["kitchen"] * 600, r"this request has 4,[0-9]+ bytes, and a message has at most 1,536"),
    ],
    ids=["large", "small", "no UTF-8", "date", "very deep", "deep", "long"],
)
async def test_a_request_that_nobody_could_read_is_told_before_a_broker_is_asked(value: Any, complaint: str) -> None:
    config = Config(broker=BrokerConfig(port=1))
    with pytest.raises(MessageError, match=complaint):
        await ask(config, "set", {"guards.trusted": value})


DEEP = [b"\x91" * levels + b"\x01" for levels in (MAX_DEPTH + 1, 500, 900, 1000, 1500)]
DEEP += [b"\x81\x01" * levels + b"\x01" for levels in (MAX_DEPTH + 1, 500)]
KEYS = [b"\x81" + key + b"\x01" for key in (b"\xc0", b"\xca\0\0\0\0", b"\x90", b"\x80", b"\xc4\x01a", b"\xd4\x05\x01")]


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x92\x01", bytes(MESSAGE_BYTES + 1), "text", 5, *DEEP, *KEYS, b"\xa3\xed\xa0\x80"]
)
def test_what_is_no_message_is_refused(payload: Any) -> None:
    with pytest.raises(MessageError):
        unpack(payload)


@asynccontextmanager
async def serving(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """The port of a server with ``serve`` for each connection; none of them outlasts the context."""
    writers, connections = [], []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        connections.append(asyncio.current_task())
        await serve(reader, writer)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0, family=socket.AF_INET) as server:
        yield server.sockets[0].getsockname()[1]
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*filter(None, connections), return_exceptions=True)
    await asyncio.sleep(0)  # in which the transports close


@asynccontextmanager
async def closing(*answers: bytes) -> AsyncIterator[int]:
    """The port of a server that answers one packet after the other and closes the connection then."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = b""
        for answer in answers:
            packet = await packet_from(reader)
            writer.write(answer.replace(b"ID", packet[2:4]))
        if not answers:
            await packet_from(reader)

    async with serving(serve) as port:
        yield port


ACCEPTED, ACCEPTED_5, SUBSCRIBED = b"\x20\x02\0\0", b"\x20\x03\0\0\0", b"\x90\x03ID\x01"


async def test_a_session_that_is_lost_while_nobody_looks_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with closing(ACCEPTED, SUBSCRIBED) as port:
        async with client(BrokerConfig(port=port)) as session:
            await subscribe(session, "topic")
            await asyncio.sleep(0.2)
        del session
    gc.collect()
    await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text


async def test_a_connection_that_is_closed_before_its_answer_is_noticed_at_once() -> None:
    async with closing() as port:
        async with asyncio.timeout(3):
            with pytest.raises(ClosedError):
                await client(BrokerConfig(port=port)).__aenter__()
        with pytest.raises(BrokerError, match=rf"127.0.0.1:{port}: it closes the connection without an answer: .*TLS"):
            async with asyncio.timeout(8), session_with(BrokerConfig(port=port)):
                pass


@asynccontextmanager
async def silent(*answers: bytes) -> AsyncIterator[int]:
    """The port of a server that answers the first packets of each connection, by MQTT's version, and nothing more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = await packet_from(reader)
        if answers:
            writer.write(answers[packet[8] == 5])
        await reader.read()

    async with serving(serve) as port:
        yield port


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ((ACCEPTED, ACCEPTED_5), r"no session .*: it lets this client in, and is silent then"),
        ((ACCEPTED_5, ACCEPTED_5), r"no session .*: what answers is no MQTT 3.1.1"),
        ((), r"no broker answers at .* \(Operation timed out\)"),
    ],
    ids=["after it is connected", "garbled", "always"],
)
async def test_what_is_seen_of_a_broker_that_is_silent_is_told(
    answers: tuple[bytes, ...], complaint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mqtt, "SUBSCRIBE_SECONDS", 1.0)
    async with silent(*answers) as port:
        with pytest.raises(BrokerError, match=complaint):
            async with asyncio.timeout(15), session_with(BrokerConfig(port=port)) as session:
                await subscribe(session, "topic")
    assert caplog.text.count(f"waiting for an answer from 127.0.0.1:{port}") == 1


async def test_a_broker_that_grants_no_more_than_qos_0_is_not_used() -> None:
    async with closing(ACCEPTED, b"\x90\x03ID\0") as port, client(BrokerConfig(port=port)) as session:
        with pytest.raises(BrokerError, match=r"QoS 0 only; let it take QoS 1"):
            await subscribe(session, "topic")


async def test_what_is_left_of_the_socket_of_a_lost_connection_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    client(BrokerConfig())
    loop = asyncio.get_running_loop()
    for error in (OSError(errno.EBADF, "Bad file descriptor"), ValueError("something else")):
        loop.call_exception_handler({"message": "in a callback", "exception": error})
    assert "something else" in caplog.text
    assert "Bad file descriptor" not in caplog.text


async def test_a_cancellation_counts_when_an_answer_comes_at_the_same_time() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(client(BrokerConfig())._wait_for(answer, 10))
    await asyncio.sleep(0)
    answer.set_result(None)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
