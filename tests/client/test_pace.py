"""Work that can't be done in the time that it is given: the device says so, and does not try in vain."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator.initialization import encode, random_weights
from tests.environment import Mosquitto
from tests.fleet import SMALL, eventually
from tinyreptile.model import Model
from tinyreptile.streams import Stream

from .peer import Peer, coordinating, living, make_device

pytestmark = pytest.mark.usefixtures("compiled")

DATA = encode(Model(SMALL), random_weights(Model(SMALL), seed=1))


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[Peer]:
    async with coordinating(broker) as peer:
        await peer.put(0, DATA)
        yield peer


class Waiting(Stream):
    """A stream whose samples take so many ``seconds``, the last of them for ever after."""

    def __init__(self, *seconds: float) -> None:
        self.waits = itertools.chain(seconds, itertools.repeat(seconds[-1]))

    async def sample(self, x: Any, y: Any) -> None:
        await asyncio.sleep(next(self.waits))
        x[0] = y[0] = 100


async def test_a_device_that_is_too_slow_gives_up_at_once_and_its_status_says_so(peer: Peer) -> None:
    log: list[str] = []
    async with living(make_device(peer, stream=Waiting(0.4), log=log.append)):
        await peer.hello("d0")
        begun = time.monotonic()
        await peer.ask("d0", 5, DATA, steps=100, seconds=20)
        answer = await peer.update("d0")
        assert time.monotonic() - begun < 10
        assert answer["error"].startswith("too slow: 98 samples are to come in ")
        assert " of 20 s, and one takes 0.4" in answer["error"]
        assert f"work 5 came to nothing: {answer['error']}" in log
        assert (await peer.hello("d0", 2))["notice"] == answer["error"]


async def test_work_that_is_done_takes_the_notice_back(peer: Peer) -> None:
    async with living(make_device(peer, stream=Waiting(0.1), notice="its battery is low")):
        assert (await peer.hello("d0"))["notice"] == "its battery is low"
        await peer.ask("d0", 5, DATA, steps=1000, seconds=5)
        assert (await peer.hello("d0", 2))["notice"].startswith("too slow: ")
        await peer.ask("d0", 6, DATA, steps=3)
        await eventually(lambda: "data" in peer.updates("d0")[-1], "an update")
        await peer.acknowledge("d0", 6)
        assert (await peer.hello("d0", 3))["notice"] == "its battery is low"


async def test_a_deadline_that_passes_before_the_second_sample_is_told_after_the_first(peer: Peer) -> None:
    async with living(make_device(peer, stream=Waiting(1.0))) as life:
        await peer.hello("d0")
        await peer.ask("d0", 5, DATA, steps=32, seconds=0.8)
        notice = (await peer.hello("d0", 2))["notice"]
        assert notice.startswith("too slow: 31 samples are to come in 0 of 0 s, and one takes 1")
        assert not life.done()


async def test_one_sample_that_takes_long_is_no_pace(peer: Peer) -> None:
    async with living(make_device(peer, stream=Waiting(1.5, 0.01))):
        await peer.hello("d0")
        await peer.ask("d0", 5, DATA, steps=20, seconds=10)
        assert "data" in await peer.update("d0")
        assert len(peer.statuses("d0")) == 1


async def test_an_evaluation_that_can_not_be_done_in_time_is_given_up(peer: Peer) -> None:
    async with living(make_device(peer, stream=Waiting(0.2), role="evaluate")):
        await peer.hello("d0")
        await peer.ask("d0", 5, DATA, kind="evaluate", steps=10, shots=5, queries=20, seconds=6)
        assert "too slow: 48 samples are to come in " in (await peer.update("d0"))["error"]
