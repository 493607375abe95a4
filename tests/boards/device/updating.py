"""What the board runs in place of `main.py` in `test_power`: it says which version runs, and does as it is told.

The board has no network: what a broker would hand over lies in the files ``manifest`` and ``offered``.
"""

import asyncio
import select
import sys

from machine import reset

import slots
import tinyreptile


class Broker:
    """Hands chunk after chunk over to who waits."""

    connected = True

    def __init__(self, updates):
        self._updates = updates
        self._version = updates.offered["version"]

    async def subscribe(self, topic):
        pass

    async def unsubscribe(self, topic):
        pass

    async def wait(self, condition, seconds):
        from tinyreptile.messages import CHUNK_BYTES
        from tinyreptile.msgpack import Packer

        packer = Packer(bytearray(CHUNK_BYTES + 64))
        with open("offered", "rb") as file:
            index = 0
            while not condition():
                packer.length = 0
                packer.pack({"version": self._version, "data": file.read(CHUNK_BYTES)})
                message = memoryview(packer.buffer)[: packer.length]
                self._updates.take("%s/%d" % (self._updates.topic, index), message, print)
                index += 1


def install():
    """As a client does: take the offer, and restart if it is installed."""
    from tinyreptile.messages import RunTopics
    from tinyreptile.updates import Updates

    with open("key", "rb") as file:
        updates = Updates(file.read(), slots, RunTopics("power"))
    with open("manifest", "rb") as file:
        updates.take(updates.topic, file.read(), print)
    broker = Broker(updates)
    if asyncio.run(updates.install(broker, broker.wait, print)):
        reset()


heard = select.poll()
heard.register(sys.stdin, select.POLLIN)
while True:
    state = "on trial" if slots.is_trial() else "for good"
    print("version %d (%s) runs %s." % (slots.running(), tinyreptile.__version__, state))
    if heard.poll(100):
        told = sys.stdin.readline().strip()
        if told == "install":
            install()
        elif told == "confirm":
            slots.confirm()
