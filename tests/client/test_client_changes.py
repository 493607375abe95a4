"""A device meets what it did not expect: another model in its run, and statuses that are not its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.environment import Mosquitto
from tests.fleet import SMALL, eventually
from tinyreptile import messages
from tinyreptile.model import Model

from .peer import Peer, coordinating, living, make_device

pytestmark = pytest.mark.usefixtures("compiled")

OTHER = [["input", 1], ["dense", 5, "relu"], ["dense", 1], ["squared_error"]]
WIDE = [["input", 7], ["dense", 1], ["squared_error"]]


def data_of(model: list[list[object]]) -> bytes:
    return np.arange(Model(model).parameters, dtype="<i2").tobytes()


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[Peer]:
    async with coordinating(broker) as peer:
        yield peer


def foreign(**fields: object) -> dict[str, object]:
    return {"protocol": messages.PROTOCOL, "state": "online", "boot": "zzzzzzzz", "role": "train"} | fields


async def test_a_device_learns_of_another_model_when_its_initialization_does_not_fit(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._PIECE_SECONDS", 0.3)
    await peer.put(0, data_of(SMALL))
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.put(0, data_of(OTHER), OTHER)
        await peer.ask("d0", 1, data_of(OTHER))
        assert "error" in await peer.update("d0")
        await peer.ask("d0", 2, data_of(OTHER))
        assert "gains" in await peer.update("d0", count=2)


async def test_a_device_joins_once_the_kernels_of_the_model_are_compiled(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    gate = asyncio.Event()

    async def compiled(weights: str, log: object) -> None:
        asked.append(weights)
        await gate.wait()

    monkeypatch.setattr("tinyreptile.client.RUNNER", "numba")
    monkeypatch.setattr("tinyreptile.cpython_compile.compiled", compiled)
    await peer.put(0, data_of(SMALL))
    async with living(make_device(peer)):
        await eventually(lambda: asked, "it has read the manifest")
        await asyncio.sleep(0.3)
        assert (asked, peer.states("d0")) == (["int16"], [])
        gate.set()
        assert (await peer.hello("d0"))["state"] == "online"


async def test_an_unfit_device_joins_once_the_model_fits(peer: Peer) -> None:
    await peer.put(0, data_of(WIDE), WIDE)
    device = make_device(peer)
    joined: list[str | None] = []
    device.on_joined = lambda: joined.append(device.unfit)
    async with living(device) as life:
        assert (await peer.hello("d0"))["state"] == "unfit"
        await peer.put(0, data_of(SMALL))
        await eventually(lambda: joined[-1] is None, "the device is fit")
        assert peer.states("d0")[-1] == "online"
        await peer.ask("d0", 1, data_of(SMALL))
        assert "gains" in await peer.update("d0")
        assert not life.done()


async def test_a_status_of_another_protocol_on_its_topic_does_not_end_a_device(peer: Peer) -> None:
    await peer.put(0, data_of(SMALL))
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.send(peer.topics.device("d0").status, foreign(protocol=9))
        await peer.ask("d0", 1, data_of(SMALL))
        assert "gains" in await peer.update("d0")


async def test_a_replayed_hello_does_not_end_a_device_that_has_long_been_there(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._PROBE_SECONDS", 0)  # so that it has been there for long enough at once
    await peer.put(0, data_of(SMALL))
    async with living(make_device(peer)):
        own = await peer.hello("d0")
        await peer.send(peer.topics.device("d0").status, foreign(), retain=True)
        await eventually(
            lambda: peer.statuses("d0")[-1]["boot"] == own["boot"] and len(peer.statuses("d0")) == 3,
            "it says that it is here",
        )
        await peer.ask("d0", 1, data_of(SMALL))
        assert "gains" in await peer.update("d0")
