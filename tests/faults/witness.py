"""What went over the wire: which work was asked for, and which updates were said to be accepted."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgpack

from tinyreptile import messages

from . import packets


class Witness:
    """Reads packets on their way from the coordinator, and to the devices.

    Attributes:
        acknowledged: work id to device of every update of the initialization that the coordinator ever sent word of
            that it is accepted.
        heard: the same, of those whose word went to the device.
        problems: what the run's status said stood in its way.
        status: the run's newest status.
        retained: bytes of packets with retained messages that have gone to coordinators.
        last: when the coordinator last sent work (``"work"``) and said that it runs (``"running"``), monotonic.
    """

    def __init__(self) -> None:
        self.acknowledged: dict[int, str] = {}
        self.heard: dict[int, str] = {}
        self.problems: set[str] = set()
        self.status: dict[str, Any] = {}
        self.retained = 0
        self.last = {"work": 0.0, "running": 0.0}
        self._kinds: dict[str, str] = {}  # of work, by device
        self._grown = asyncio.Event()

    def from_coordinator(self, packet: bytes) -> None:
        """A packet that has left the coordinator."""
        self._read(packet, self.acknowledged)

    def to_coordinator(self, packet: bytes) -> None:
        """A packet that goes to the coordinator."""
        if packets.kind(packet) == packets.PUBLISH and packets.retained(packet):
            self.retained += len(packet)

    def to_device(self, packet: bytes) -> None:
        """A packet that goes to a device."""
        self._read(packet, self.heard)

    def _read(self, packet: bytes, accepted: dict[int, str]) -> None:
        if packets.kind(packet) != packets.PUBLISH:
            return
        topic, _, payload = packets.publication(packet)
        self._take(topic, payload, accepted)

    def published(self, topic: str, payload: bytes) -> None:
        """A message of the coordinator's, as an operator reads it: where packets are encrypted."""
        self._take(topic, payload, self.acknowledged)

    def _take(self, topic: str, payload: bytes, accepted: dict[int, str]) -> None:
        levels = topic.split("/")
        if levels[-1] == "work":
            word = msgpack.unpackb(payload)
            if "version" in word:
                if task := word.get("task"):
                    self._kinds[levels[-2]] = task["kind"]
                self.last["work"] = time.monotonic()
            if "done" in word and "refused" not in word and self._kinds.get(levels[-2]) != messages.EVALUATE:
                accepted[word["done"]] = levels[-2]
                self._grown.set()
        elif levels[-1] == "coordinator":
            self.status = msgpack.unpackb(payload)
            self.problems.update(filter(None, [self.status.get("problem")]))
            if self.status["state"] == "running":
                self.last["running"] = time.monotonic()

    async def reached(self, count: int) -> None:
        """Return once ``count`` updates have been acknowledged."""
        while len(self.acknowledged) < count:
            self._grown.clear()
            await self._grown.wait()
