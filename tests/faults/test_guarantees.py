"""The bench's own eyes: each breach of a promise is seen; and its network does what networks do."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgpack
import pytest

from tinyreptile import messages

from ..coordinator.driver import Driver
from ..environment import free_port
from . import packets
from .guarantees import count_breaches, journal_breaches, log_breaches, replay_breaches, wire_breaches
from .processes import Process
from .proxy import HOST, Proxy
from .replay import Journal, read
from .witness import Witness

UPDATES = 12


@pytest.fixture(params=[8, 4], ids=lambda bits: f"{bits} bits")
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The store of a run of twelve updates in batches of two."""
    path = tmp_path / "run.sqlite"
    learning = {"mode": "batch", "batch": 2, "bits": request.param}
    driver = Driver(path, run={"rounds": UPDATES}, learning=learning)
    driver.advance()
    for device in ("fleet0-0", "fleet0-1"):
        driver.hello(device)
    while driver.run.updates < UPDATES:
        driver.advance()
        for device in ("fleet0-0", "fleet0-1"):
            driver.answer(device, seed=driver.run.updates)
    driver.run.record(driver.run.checkpoint())
    driver.commit()
    driver.close()
    return path


def change(path: Path, statement: str) -> Journal:
    """The journal in ``path`` after ``statement``."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()
    return read(path)


def all_breaches(path: Path, journal: Journal) -> list[str]:
    witness = Witness()
    witness.acknowledged = {work: device for _, work, device in read(path).updates}
    found = [*journal_breaches(journal, UPDATES), *wire_breaches(journal, witness)]
    return [*found, *count_breaches(journal, {"fleet0": UPDATES}), *replay_breaches(path, journal)[1]]


async def test_processes_that_are_left_are_seen_and_zombies_are_not(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "sleep 61 & exit 0"], tmp_path / "log")
    await process.start()
    await process.wait()
    async with asyncio.timeout(10):
        while process.left() != ["sleep 61"]:  # the shell that it was forked from, for a moment
            await asyncio.sleep(0.01)
    process.end()
    async with asyncio.timeout(10):
        while process.left():
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("compiled")
def test_a_sound_run_breaks_no_promise(store: Path) -> None:
    assert all_breaches(store, read(store)) == []


@pytest.mark.parametrize(
    ("statement", "breach"),
    [
        ("UPDATE accepted SET weight = weight * (1 + 1e-15) WHERE updates = 3", "not what its journal leads to"),
        ("UPDATE accepted SET delta = zeroblob(length(delta)) WHERE updates = 5", "not what its journal leads to"),
        ("UPDATE accepted SET updates = updates + 1 WHERE updates > 6", "not numbered 0, 1, 2"),
        ("DELETE FROM accepted WHERE updates = 11", "not the 12 of the run"),
        ("UPDATE device SET accepted = accepted + 1 WHERE device = 'fleet0-1'", "on record with another number"),
        ("DELETE FROM checkpoint WHERE version = 6", "no checkpoint of the last version"),
    ],
)
@pytest.mark.usefixtures("compiled")
def test_a_store_that_was_tampered_with_is_noticed(store: Path, statement: str, breach: str) -> None:
    journal = change(store, statement)
    assert any(breach in sentence for sentence in all_breaches(store, journal))


def publication(topic: str, message: dict[str, object], number: int = 7) -> bytes:
    """A PUBLISH of QoS 1."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + number.to_bytes(2, "big") + msgpack.packb(message)
    assert len(body) < 128
    return bytes([packets.PUBLISH | 2, len(body)]) + body


def heard(*sent: bytes) -> Witness:
    witness = Witness()
    for packet in sent:
        witness.from_coordinator(packet)
    return witness


@pytest.mark.usefixtures("compiled")
def test_an_acknowledged_update_that_is_not_in_the_store_is_noticed(store: Path) -> None:
    device = "tinyreptile/faults/device/fleet0-0"
    witness = heard(publication(f"{device}/work", {"done": 999}))
    assert list(wire_breaches(read(store), witness)) == [
        "1 updates were acknowledged and are not in the store, the first of work 999"
    ]


@pytest.mark.usefixtures("compiled")
def test_a_refused_update_is_not_acknowledged() -> None:
    device = "tinyreptile/faults/device/fleet0-0"
    witness = heard(publication(f"{device}/work", {"done": 999, "refused": "it is late"}))
    assert witness.acknowledged == {}


@pytest.mark.usefixtures("compiled")
def test_an_acknowledged_evaluation_is_no_update(store: Path) -> None:
    device = "tinyreptile/faults/device/fleet0-unseen-0"
    request = publication(f"{device}/work", {"work": 999, "version": 0, "task": {"kind": messages.EVALUATE}})
    witness = heard(request, publication(f"{device}/work", {"done": 999}))
    assert list(wire_breaches(read(store), witness)) == []


@pytest.mark.usefixtures("compiled")
def test_a_device_that_counts_more_than_the_store_is_noticed(store: Path) -> None:
    assert list(count_breaches(read(store), {"fleet0": UPDATES + 1})) == [
        "the swarm fleet0 counts 13 accepted updates, the store 12"
    ]


def test_a_traceback_in_a_log_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "coordinator.log"
    log.write_text("all is well\n")
    assert list(log_breaches([log])) == []
    log.write_text("Traceback (most recent call last):\n")
    assert len(list(log_breaches([log]))) == 1


def test_packets_are_cut_out_of_a_stream_wherever_it_is_cut() -> None:
    stream = publication("a/work", {"done": 1}) + b"\x40\x02\x00\x07" + b"\xc0\x00" + b"\x30\x81\x01" + bytes(129)
    for size in (1, 2, 3, 50, len(stream)):
        splitter = packets.Splitter()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        found = [packet for piece in pieces for packet in splitter.feed(piece)]
        assert b"".join(found) == stream
        assert len(found) == 4


Received = list[bytes]


async def through_proxy(change: Callable[[Proxy], None], *sent: bytes, answers: bytes = b"") -> tuple[Received, bytes]:
    """(what a broker gets of ``sent``, what the client gets of the broker's ``answers``) through a proxy."""
    received: Received = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter = packets.Splitter()
        while data := await reader.read(1000):
            received.extend(splitter.feed(data))
            writer.write(answers)
        done.set()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    proxy = Proxy(free_port(), server.sockets[0].getsockname()[1], seed=1)
    change(proxy)
    await proxy.start()
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    writer.write(b"".join(sent))
    back = b""
    try:
        async with asyncio.timeout(1):
            while data := await reader.read(1000):
                back += data
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    await proxy.stop()
    async with asyncio.timeout(5):
        await done.wait()
    server.close()
    return received, back


async def test_the_network_hands_packets_over_as_they_are() -> None:
    packet = publication("a/work", {"done": 1})
    assert await through_proxy(lambda proxy: None, packet, b"\xc0\x00", answers=b"\xd0\x00") == (
        [packet, b"\xc0\x00"],
        b"\xd0\x00",
    )


async def test_a_repeated_packet_says_so_and_is_acknowledged_once() -> None:
    packet = publication("a/work", {"done": 1})
    acknowledgements = b"\x40\x02\x00\x07" * 2
    received, back = await through_proxy(
        lambda proxy: setattr(proxy, "duplicate", 1.0), packet, answers=acknowledgements
    )
    assert received == [packet, packets.again(packet)]
    assert received[1][0] & packets.DUP
    assert back == b"\x40\x02\x00\x07"


async def test_a_packet_is_lost_with_its_connection_only() -> None:
    packet = publication("a/work", {"done": 1})
    received, back = await through_proxy(lambda proxy: setattr(proxy, "lose", 1.0), b"\xc0\x00", packet, b"\xc0\x00")
    assert packet not in received
    assert back == b""
