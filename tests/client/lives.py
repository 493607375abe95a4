"""A private device and its coordinator in a world where either may die at any point, and begins again.

The device is the real `Client` on a disk and an MQTT session made here; the coordinator is the real `Run` on a real
store. A *point* is whatever goes on between two steps that can be told apart from outside: a message on its way, a file
that is opened, written, made durable or renamed, a transaction.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from tests.coordinator.driver import Driver
from tinyreptile import budget, client, messages, privacy, reports
from tinyreptile.client import Client
from tinyreptile.privacy import Privacy
from tinyreptile.streams.sine import SineStream

NOISE = 2.0
RHO = 2 / NOISE**2
LEDGER = "ledger.json"
TURNS = 60  # of the event loop, for whoever has something to do


class Killed(BaseException):
    """The end of a process: nothing of ours catches it."""


class World:
    """What outlives both sides: the store, the disk, the broker, and who has seen what on the wire.

    Args:
        folder: of the coordinator's store.
        strikes: at which points somebody dies.
        victims: who, "device", "coordinator" or both.
        power: whether a device loses what its disk had not made durable.
        renames: whether its disk renames on to a file that is there.
        replays: whether requests are delivered again, for ever.
    """

    def __init__(
        self,
        folder: Path,
        strikes: Iterable[int] = (),
        victims: Iterable[str] = (),
        *,
        power: bool = False,
        renames: bool = True,
        replays: bool = False,
    ) -> None:
        self.path = folder / "run.sqlite"
        self.strikes = set(strikes)
        self.victims = set(victims)
        self.power = power
        self.replays = replays
        self.points = 0
        self.dead: set[str] = set()
        self.disk = Disk(self, renames)
        self.broker = Broker(self)
        self.seen: set[bytes] = set()  # different updates on the wire
        self.made: dict[tuple[str, int], set[bytes]] = {}  # by the device's life and the work
        self.accounted = 0
        self.log: list[str] = []  # of all lives of the device

    def point(self, who: str) -> None:
        """``who`` is at one of the points."""
        if who in self.dead:
            raise Killed
        self.points += 1
        if self.points in self.strikes:
            self.dead |= self.victims
            if who in self.dead:
                raise Killed

    def stored(self) -> tuple[int, float]:
        """What the coordinator's store accounts for, the live coordinator or not."""
        with closing(sqlite3.connect(self.path)) as database:
            row = database.execute("SELECT private, rho FROM device WHERE device = 'd0'").fetchone()
        return row or (0, 0.0)

    def check(self) -> None:
        """Neither side has accounted for less than what was seen, and the coordinator never less than before."""
        left = len(self.seen)
        private, rho = self.stored()
        assert left <= self.disk.count(), "the device's own ledger"
        assert left <= private, "the coordinator's ledger"
        assert left * RHO <= rho * (1 + 1e-12), "its cost"
        assert self.accounted <= private, "it only grows"
        self.accounted = private

    def saw(self, boot: str, update: dict[str, Any]) -> None:
        """``update`` is on the wire."""
        if "data" in update:
            bits = bytes(update["data"])
            self.seen.add(bits)
            same = self.made.setdefault((boot, update["work"]), set())
            same.add(bits)
            assert len(same) == 1, "the same work gives the same bits"
            self.check()


class _File:
    """A file that is open for writing."""

    def __init__(self, world: World, node: list[Any]) -> None:
        self._world = world
        self._node = node

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def write(self, text: str) -> None:
        for part in (text[: len(text) // 2], text):
            self._node[0] = part
            self._world.point("device")


class Disk:
    """A folder in memory. What was not made durable is gone, or half there, when the power fails."""

    def __init__(self, world: World, renames: bool) -> None:
        self._world = world
        self._renames = renames
        self._names: dict[str, list[Any]] = {}  # name: [text, whether it is durable]
        self._durable: dict[str, list[Any]] = {}

    def fail(self) -> None:
        """The power fails; a renaming may have become durable by itself, or not."""
        names = self._names if self._world.points % 2 else self._durable
        self._names = {name: [t if durable else t[: len(t) // 2], True] for name, (t, durable) in names.items()}
        self._durable = dict(self._names)

    def count(self) -> int:
        """Updates on the ledger, as they would be found if all ended now: at least so many."""
        if self._world.power:
            return min(self._count(names, True) for names in (self._names, self._durable))
        return self._count(self._names, False)

    def _count(self, names: dict[str, list[Any]], durable: bool) -> int:
        for name in (LEDGER, LEDGER + ".new"):
            if name in names:
                text, written = names[name]
                return int(json.loads(text)["updates"]) if written or not durable else 0
        return 0

    def clear(self) -> None:
        """The owner takes a damaged ledger away."""
        self._names = {}
        self._durable = {}

    # What the device's modules find in the place of `open` and `os`

    def open(self, name: str, mode: str = "r") -> Any:
        if mode == "r":
            if name not in self._names:
                raise FileNotFoundError(2, "No such file", name)
            return StringIO(self._names[name][0])
        self._world.point("device")
        self._names[name] = ["", False]
        self._world.point("device")
        return _File(self._world, self._names[name])

    def rename(self, old: str, new: str) -> None:
        if new in self._names and not self._renames:
            raise OSError(17, "File exists")
        self._world.point("device")
        self._names[new] = self._names.pop(old)
        self._world.point("device")

    def remove(self, name: str) -> None:
        self._world.point("device")
        del self._names[name]
        self._world.point("device")

    def sync(self, name: str) -> None:
        self._world.point("device")
        self._names[name][1] = True
        self._durable = dict(self._names)
        self._world.point("device")


class Broker:
    """Passes messages between the two, keeps the retained ones, and tells when a device is gone."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.retained: dict[str, bytes] = {}
        self.requests: list[tuple[str, bytes]] = []
        self.session: Session | None = None
        self.inbox: list[tuple[str, bytes]] = []  # of the coordinator

    def from_device(self, session: Session, topic: str, payload: bytes, retain: bool) -> None:
        if retain:
            self.retained[topic] = payload
        if topic.endswith("/update"):
            self._world.saw(session.boot, msgpack.unpackb(payload))
        self.inbox.append((topic, payload))
        if topic in session.topics:
            session.on_message(topic, memoryview(payload), False)

    def to_device(self, topic: str, payload: bytes) -> None:
        if self.session is not None and topic in self.session.topics and "device" not in self._world.dead:
            self.session.on_message(topic, memoryview(payload), False)

    def lose(self) -> None:
        """The device's session is gone: its last will is published."""
        if self.session is not None:
            topic, payload = self.session.will
            self.retained[topic] = payload
            self.inbox.append((topic, payload))
            self.session = None


class Session:
    """What a `Client` takes for its `mqtt.MQTTClient`."""

    host, port, timeout = "broker", 1883, 1.0

    def __init__(
        self, world: World, on_message: Callable[..., None], will: tuple[str, bytes], message_bytes: int, **_: Any
    ) -> None:
        self._world = world
        self._broker = world.broker
        self.on_message = on_message
        self.will = will
        self.boot = msgpack.unpackb(will[1])["boot"]
        self.topics: set[str] = set()
        self.connected = False
        self._bytes = message_bytes

    async def run(self, join: Callable[[], Any], disconnected: Callable[..., None]) -> None:
        self._broker.session = self
        self.connected = True
        await join()
        await asyncio.Event().wait()

    async def subscribe(self, topic: str) -> None:
        self._world.point("device")
        self.topics.add(topic)
        if topic in self._broker.retained:
            self.on_message(topic, memoryview(self._broker.retained[topic]), True)

    async def unsubscribe(self, topic: str) -> None:
        self.topics.discard(topic)

    async def publish(self, topic: str, fill: Callable[[memoryview], int], retain: bool = False) -> None:
        self._world.point("device")
        buffer = bytearray(self._bytes)
        self._broker.from_device(self, topic, bytes(buffer[: fill(memoryview(buffer))]), retain)
        self._world.point("device")
        await asyncio.sleep(0)

    async def disconnect(self) -> None:
        self.connected = False


class Coordinator(Driver):
    """A start of the coordinator."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._boot = f"{random.getrandbits(30):08x}"
        super().__init__(world.path, learning={"deadline": 600, "bits": 16})
        broker = world.broker
        broker.inbox = [(topic, payload) for topic, payload in broker.retained.items() if topic.endswith("/status")]

    def commit(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, []
            self._world.point("coordinator")
            self.store.write([entry for entry, _ in batch])
            self._world.point("coordinator")
            for _, durable in batch:
                if durable is not None:
                    durable()

    def step(self) -> None:
        """Take what has come, do what is due, send what is to go."""
        world = self._world
        inbox, world.broker.inbox = world.broker.inbox, []
        for topic, payload in inbox:
            world.point("coordinator")
            device, kind = reports.parse(self.run.topics, topic)
            message = msgpack.unpackb(payload)
            if kind == "status":
                self.run.take_status(device, messages.check(reports.STATUS, message))
            else:
                self.run.take_update(device, messages.check(reports.UPDATE, message))
        if self.run.publish_at() is not None:
            manifest = msgpack.packb(self.publish() | {"boot": self._boot})
            world.broker.retained[self.run.topics.init] = manifest
            world.broker.to_device(self.run.topics.init, manifest)
        self.advance()
        sent, self.sent[:] = list(self.sent), []
        for topic, message in sent:
            world.point("coordinator")
            payload = msgpack.packb(message)
            world.broker.requests.append((topic, payload))
            world.broker.to_device(topic, payload)
            world.point("coordinator")


async def live(world: World, monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """Let both sides live, and those who were killed again, until ``updates`` were accepted and all strikes are over.

    What is to hold at all times is checked whenever something new is seen, and at the end.
    """
    monkeypatch.setattr(client, "MQTTClient", lambda **options: Session(world, **options))
    monkeypatch.setattr(client, "_RESEND_SECONDS", 0.05)
    monkeypatch.setattr(client, "_PROBE_SECONDS", 0.01)
    files = SimpleNamespace(rename=world.disk.rename, remove=world.disk.remove, urandom=privacy.os.urandom)
    for module in (privacy, budget):
        monkeypatch.setattr(module, "open", world.disk.open, raising=False)
        monkeypatch.setattr(module, "os", files)
    monkeypatch.setattr(privacy, "lock", None)
    monkeypatch.setattr(privacy, "sync", world.disk.sync)
    coordinator: Coordinator | None = None
    life: asyncio.Task[None] | None = None
    accepted = 0
    try:
        for _ in range(4000):
            if "coordinator" in world.dead or coordinator is None:
                if coordinator is not None:
                    coordinator.close()
                    coordinator = None
                world.dead.discard("coordinator")
                with suppress(Killed):
                    coordinator = Coordinator(world)
            if "device" in world.dead or life is None:
                life = await _start(world, life)
            if coordinator is not None:
                with suppress(Killed):
                    coordinator.step()
                    accepted = coordinator.run.updates
            for _ in range(TURNS):
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            if world.replays:
                for topic, payload in world.broker.requests[-6:]:
                    world.broker.to_device(topic, payload)
            if accepted >= updates and not world.dead and all(at <= world.points for at in world.strikes):
                break
        else:
            raise AssertionError(f"{accepted} updates after {world.points} points, and no more: {world.log[-5:]}")
        assert coordinator is not None
        world.check()
        world.dead = {"device"}
        await _start(world, life, begin=False)
        world.dead = set()
        coordinator.hello("d0", **_ledger(world))
        coordinator.commit()
        private, rho = world.stored()
        assert world.disk.count() <= private <= world.disk.count() + 1, "at most one more than the device has made"
        assert rho == pytest.approx(private * RHO)
    finally:
        world.dead = {"device", "coordinator"}
        if life is not None:
            await _end(life)
        if coordinator is not None:
            coordinator.close()


async def _end(life: asyncio.Task[None]) -> None:
    life.cancel()
    await asyncio.wait([life])
    with suppress(BaseException):
        life.exception()  # it was killed


def _ledger(world: World) -> dict[str, Any]:
    count = world.disk.count()
    return {"boot": "last", "private": count, "rho": count * RHO, "noise": NOISE, "clip": 0.05}


async def _start(world: World, life: asyncio.Task[None] | None, *, begin: bool = True) -> asyncio.Task[None] | None:
    """End what is left of a device, and let it ``begin`` again."""
    if life is not None:
        await _end(life)
        world.broker.lose()
        if world.power:
            world.disk.fail()
    if not begin:
        return None
    world.dead.discard("device")
    try:
        secret = Privacy(0.05, NOISE, path=LEDGER)
    except Killed:
        world.dead.add("device")
        return None
    except ValueError:
        if world.seen:  # only that of a device that never made an update may be one that can't be read
            raise
        world.disk.clear()
        secret = Privacy(0.05, NOISE, path=LEDGER)
    device = Client("d0", "test", SineStream(1), privacy=secret, log=world.log.append, host="broker", port=1883)
    return asyncio.create_task(device.run())
