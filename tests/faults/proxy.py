"""The network between clients and broker, on loopback: it can be cut, late, and hand things over twice.

It knows MQTT's packets, so that what it does could have been done by a network with TCP on it: a packet is lost only
with its connection, comes late only with all that follow it on its connection, and twice only as a sender repeats it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import Counter
from collections.abc import Callable

from . import packets

HOST = "127.0.0.1"
Watch = Callable[[bytes], None]


class Proxy:
    """Listens on ``port`` and connects whoever comes with the broker at ``target``.

    ``up`` sees all packets on their way to the broker, ``down`` those from it.

    Attributes:
        duplicate: chance that a publication of QoS 1 is handed over twice.
        lose: chance that one is lost, and its connection with it.
        done: how often each of both has happened.
    """

    def __init__(
        self, port: int, target: int, seed: int, *, up: Watch | None = None, down: Watch | None = None
    ) -> None:
        self.port = port
        self._target = target
        self._watch = {True: up, False: down}
        self.duplicate = 0.0
        self.lose = 0.0
        self.done: Counter[str] = Counter()
        self.chance = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()
        self._through = asyncio.Event()
        self._through.set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._late = 0.0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, also again after `refuse`."""
        self._server = await asyncio.start_server(self._connected, HOST, self.port)

    def refuse(self) -> None:
        """Nobody listens any more, as when the broker is gone; connections that are there stay."""
        if self._server:
            self._server.close()

    async def stop(self) -> None:
        """End all connections."""
        self.refuse()
        self._abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cut(self, seconds: float) -> None:
        """Break all connections, and let none through for so long."""
        self._open.clear()
        self._abort()
        await asyncio.sleep(seconds)
        self.let_through()

    def let_through(self) -> None:
        """Connections may come about again."""
        self._open.set()

    async def hold(self, seconds: float) -> None:
        """Let nothing pass for so long, without a word to anybody; then all of it, in order."""
        self._through.clear()
        await asyncio.sleep(seconds)
        self._through.set()

    def be_late(self, seconds: float) -> None:
        """Every connection has a delay of its own from now on, up to so many seconds: what was sent first may come
        last."""
        self._late = seconds
        for link in self._links:
            link.late = self.chance.random() * seconds

    def _abort(self) -> None:
        for link in list(self._links):
            link.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self._open.is_set():
                there = await asyncio.open_connection(HOST, self._target)
                link = _Link(self, (reader, writer), there)
                link.late = self.chance.random() * self._late
                self._links.add(link)
                try:
                    await link.run()
                finally:
                    self._links.discard(link)
                    link.abort()
        writer.transport.abort()

    async def passable(self) -> None:
        """Return when what is under way may pass."""
        await self._through.wait()

    def look(self, packet: bytes, upwards: bool) -> None:
        """Show ``packet`` to whoever watches."""
        if watch := self._watch[upwards]:
            watch(packet)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One client's connection, and ours to the broker for it."""

    def __init__(self, proxy: Proxy, client: Ends, broker: Ends) -> None:
        self._proxy = proxy
        self._client, self._broker = client, broker
        self._surplus: Counter[tuple[bool, int]] = Counter()  # acknowledgements of what the proxy has repeated
        self.late = 0.0
        for _, writer in (client, broker):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def abort(self) -> None:
        for _, writer in (self._client, self._broker):
            writer.transport.abort()

    async def run(self) -> None:
        """Carry packets until one side ends."""
        pumps = [
            asyncio.create_task(self._pump(self._client[0], self._broker[1], upwards=True)),
            asyncio.create_task(self._pump(self._broker[0], self._client[1], upwards=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upwards: bool) -> None:
        splitter = packets.Splitter()
        while data := await reader.read(65536):
            if self.late:
                await asyncio.sleep(self.late)
            await self._proxy.passable()
            out = []
            for packet in splitter.feed(data):
                self._proxy.look(packet, upwards)
                if not (passed := self._passed(packet, upwards)):
                    continue
                out += passed
            writer.write(b"".join(out))
            await writer.drain()

    def _passed(self, packet: bytes, upwards: bool) -> list[bytes]:
        """What is handed over in the place of ``packet``; raises OSError if it gets lost."""
        proxy = self._proxy
        kind = packets.kind(packet)
        if kind == packets.PUBACK and self._surplus[upwards, packets.acknowledged(packet)]:
            self._surplus[upwards, packets.acknowledged(packet)] -= 1
            return []
        if kind == packets.PUBLISH and packets.qos(packet) == 1:
            if proxy.lose and proxy.chance.random() < proxy.lose:
                proxy.done["lost"] += 1
                raise OSError("a packet is lost, and its connection")
            if proxy.duplicate and proxy.chance.random() < proxy.duplicate:
                proxy.done["duplicated"] += 1
                _, number, _ = packets.publication(packet)
                self._surplus[not upwards, number] += 1
                return [packet, packets.again(packet)]
        return [packet]
