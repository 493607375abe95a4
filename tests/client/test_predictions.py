"""A device uses what it has learned: a model of its own that adapts on and on, and predictions from it."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from coordinator.initialization import encode, random_weights
from tests.coordinator.packets import Altered
from tests.environment import Mosquitto
from tests.fleet import SMALL, decoded, eventually, listening
from tinyreptile import messages, reports
from tinyreptile.learner import Learner, fixed
from tinyreptile.model import Model
from tinyreptile.personal import Personal
from tinyreptile.streams import Stream

from .peer import Peer, coordinating, living, make_device

pytestmark = pytest.mark.usefixtures("compiled")

CLASSES = [["input", 2], ["dense", 8, "relu"], ["dense", 3], ["cross_entropy"]]


def data_of(model: list[list[Any]], seed: int = 1, weights: str = "int16") -> bytes:
    made = Model(model, weights)
    return encode(made, random_weights(made, seed), "int8" if weights == "int8" else "int16")


def received(data: bytes, model: list[list[Any]] = SMALL, weights: str = "int16") -> Learner:
    learner = Learner(Model(model, weights), encoding="int8" if weights == "int8" else "int16")
    learner.set_rate(0.1)
    receive(learner, data)
    return learner


def receive(learner: Learner, data: bytes) -> None:
    learner.wire[:] = data
    learner.receive()


def show(personal: Personal, value: float, target: float) -> list[int]:
    personal.x[0] = fixed(value)
    personal.y[0] = fixed(target)
    outputs: list[int] = personal.learn()
    return outputs


class Line(Stream):
    """y = 2 x, at x = 0.5, 0.25, 0.5, ...; with ``labels`` the label is 1 always."""

    def __init__(
        self,
        *,
        wait: float = 0.0,
        labels: bool = False,
        newest: float | None = None,
        values: tuple[float, ...] = (0.5, 0.25),
    ) -> None:
        self.inputs, self.outputs = (2, 3) if labels else (1, 1)
        self.taken = 0
        self._wait = wait
        self._labels = labels
        self._newest = newest
        self._values = values

    async def sample(self, x: Any, y: Any) -> None:
        await asyncio.sleep(self._wait)
        value = self._values[self.taken % len(self._values)]
        self.taken += 1
        x[0] = fixed(value)
        y[0] = 1 if self._labels else fixed(2 * value)

    def newest(self, x: Any) -> bool:
        if self._newest is None:
            return False
        x[0] = fixed(self._newest)
        return True


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[Peer]:
    async with coordinating(broker) as peer:
        yield peer


# The model of its own


@pytest.mark.parametrize("weights", ["int16", "int8"])
def test_it_begins_as_the_initialization_and_leaves_the_learner_alone(weights: str) -> None:
    data = data_of(SMALL, weights=weights)
    learner = received(data, weights=weights)
    personal = Personal(learner)
    assert personal.offer(3)
    assert (personal.version, personal.steps, personal.loss()) == (3, 0, None)
    learner.load()
    own = bytes(learner.weights)
    first = show(personal, 0.5, 1.0)
    learner.x[0] = fixed(0.5)
    assert list(learner.predict(learner.x)) == first
    for _ in range(60):
        last = show(personal, 0.5, 1.0)
    assert abs(last[0] - 1024) < abs(first[0] - 1024) / 4
    assert personal.steps == 61
    assert bytes(learner.weights) == own
    assert bytes(learner.wire) == data


def test_a_newer_initialization_has_to_be_better_on_what_came_last() -> None:
    learner = received(data_of(SMALL, seed=1))
    personal = Personal(learner)
    personal.offer(1)
    for _ in range(100):
        show(personal, 0.5, 1.0)
    learned = bytes(personal._weights)
    receive(learner, data_of(SMALL, seed=2))
    assert not personal.offer(2)
    assert (personal.version, personal.steps) == (1, 100)
    # What the device has learned, as an initialization of the whole fleet, is better than another start.
    other = Personal(learner)
    other.offer(2)
    for i in range(20):
        show(other, 0.5, 1.0 if i < 2 else 3.0)
    receive(learner, learned)
    for _ in range(4):
        show(other, 0.5, 1.0)
    assert other.offer(3)
    assert (other.version, other.steps) == (3, 8)
    assert not other.offer(3), "it was offered before"


def test_a_model_that_has_diverged_begins_again_from_the_initialization() -> None:
    model = [["input", 1], ["dense", 4], ["dense", 1], ["squared_error"]]  # without a ReLU, which could die
    learner = received(data_of(model), model)
    personal = Personal(learner, recent=4)
    personal.offer(7)
    learner.set_rate(1.0)
    for value in (-29, 30, -29, 30, -29):
        show(personal, value, 5)
    assert (personal.steps, personal.error()) == (5, pytest.approx(728.9, abs=0.1)), "the outputs end at 32"
    show(personal, 30, 5)
    assert (personal.steps, personal.version, personal.loss()) == (0, 7, None)
    learner.set_rate(0.0)
    show(personal, -29, 5)
    assert personal.error() == pytest.approx(134.3, abs=0.1), "that of the initialization"


def test_only_the_newest_samples_count() -> None:
    learner = received(data_of(SMALL))
    personal = Personal(learner, recent=4)
    personal.offer(1)
    for i in range(11):
        show(personal, i / 16, 0.0)
    order = [(personal._first + i) % 4 for i in range(4)]
    assert [personal._x[at] for at in order] == [fixed(i / 16) for i in (7, 8, 9, 10)]


@pytest.mark.parametrize("model", [SMALL, CLASSES])
@pytest.mark.parametrize("weights", ["int16", "int8"])
def test_its_memory_is_what_it_states(model: list[list[Any]], weights: str) -> None:
    made = Model(model, weights)
    personal = Personal(received(data_of(model, weights=weights), model, weights))
    buffers = (personal._weights, personal.x, personal.y, personal._x, personal._y)
    assert sum(len(memoryview(buffer).cast("B")) for buffer in buffers) == Personal.ram(made)


# The device


async def test_a_device_publishes_predictions_and_adapts(peer: Peer, broker: Mosquitto) -> None:
    data = data_of(SMALL)
    await peer.put_pieces(0, data)
    await peer.put_manifest(data, beta=0.1)
    device = make_device(peer, stream=Line(), predict=0.005)
    topic = peer.topics.device("d0").prediction
    async with listening(peer_broker(peer), topic) as heard, living(device):
        await eventually(lambda: len(heard) >= 300, "there are predictions")
    told = [messages.check(reports.PREDICTION, decoded(message)) for message in heard]
    assert [message["steps"] for message in told[:4]] == [1, 2, 3, 4]
    assert {message["version"] for message in told} == {0}
    assert abs(told[-1]["outputs"][0] - (1.0 if told[-1]["steps"] % 2 else 0.5)) < 0.1
    assert told[-1]["loss"] < told[1]["loss"] / 4


async def test_predictions_of_classes_name_the_label(peer: Peer) -> None:
    data = data_of(CLASSES)
    await peer.put(0, data, CLASSES)
    device = make_device(peer, stream=Line(labels=True), predict=0.02)
    topic = peer.topics.device("d0").prediction
    async with listening(peer_broker(peer), topic) as heard, living(device):
        await eventually(lambda: len(heard) >= 60, "there are predictions")
    told = messages.check(reports.PREDICTION, decoded(heard[-1]))
    assert told["label"] == 1
    assert 0.5 < told["probability"] <= 1


async def test_work_comes_first_and_is_not_touched_by_predictions(peer: Peer) -> None:
    data = data_of(SMALL)
    await peer.put(0, data)
    quiet = make_device(peer, "quiet", Line(values=(0.5,)))
    busy = make_device(peer, "busy", Line(values=(0.5,)), predict=0.005)
    async with living(quiet), living(busy):
        for name in ("quiet", "busy"):
            await peer.hello(name)
        await asyncio.sleep(0.5)
        assert busy._personal.steps > 5
        for work, name in ((1, "quiet"), (1, "busy")):
            await peer.ask(name, work, data, steps=8)
            update = await peer.update(name)
            assert update["work"] == work
            await peer.acknowledge(name, work)
        await eventually(lambda: (quiet.accepted, busy.accepted) == (1, 1), "both are acknowledged")
        before = busy._personal.steps
        await eventually(lambda: busy._personal.steps > before, "it goes on")
    updates = [{k: v for k, v in peer.updates(name)[0].items() if k != "loss"} for name in ("quiet", "busy")]
    assert updates[0] == updates[1]


async def test_a_stream_that_waits_does_not_hold_up_work(peer: Peer) -> None:
    data = data_of(SMALL)
    await peer.put(0, data)
    stream = Line(wait=30)
    device = make_device(peer, stream=stream, predict=0.05)
    async with living(device):
        await peer.hello("d0")
        await eventually(lambda: device._sampling is not None, "it waits for a sample")
        stream._wait = 0
        await peer.ask("d0", 1, data)
        await peer.update("d0")


async def test_what_is_not_known_yet_is_predicted_without_waiting_for_samples(peer: Peer) -> None:
    await peer.put(0, data_of(SMALL))
    device = make_device(peer, stream=Line(wait=60, newest=0.5), predict=0.05)
    topic = peer.topics.device("d0").prediction
    async with listening(peer_broker(peer), topic) as heard, living(device):
        await eventually(lambda: len(heard) >= 5, "there are predictions")
    assert {decoded(message)["steps"] for message in heard} == {0}


async def test_a_newer_version_is_found_without_work(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.predictions._RENEW_SECONDS", 0.3)
    await peer.put(0, data_of(SMALL))
    device = make_device(peer, stream=Line(), predict=0.02)
    async with living(device):
        await eventually(lambda: device._personal is not None and device._personal.steps > 5, "it predicts")
        learned = np.frombuffer(device._personal._weights, "<i2").tobytes()
        await peer.put(7, learned)
        await eventually(lambda: device._personal._offered == 7, "the newer version is found")


async def test_a_sample_that_is_waited_for_does_not_outlive_its_model(peer: Peer) -> None:
    other = [["input", 1], ["dense", 5, "relu"], ["dense", 1], ["squared_error"]]
    await peer.put(0, data_of(SMALL))
    stream = Line(wait=60)
    device = make_device(peer, stream=stream, predict=0.05)
    async with living(device):
        await eventually(lambda: device._sampling is not None, "it waits for a sample")
        stream._wait = 0
        await peer.put(1, data_of(other), other)
        device.mqtt._writer.transport.abort()  # it reads the manifest when it joins again
        await eventually(lambda: device._personal.steps > 5, "the new model learns")
        assert device._learner.model.spec == other


async def test_a_model_that_no_longer_fits_ends_predictions_and_not_the_device(peer: Peer) -> None:
    await peer.put(0, data_of(SMALL))
    stream = Line(wait=60)
    device = make_device(peer, stream=stream, predict=30)
    async with living(device) as life:
        await eventually(lambda: device._sampling is not None, "it waits for a sample")
        await peer.put(1, data_of(CLASSES), CLASSES)
        device.mqtt._writer.transport.abort()
        await eventually(lambda: peer.states("d0")[-1] == "unfit", "it has joined again")
        device._personal.sampled = True  # the sample comes now
        device._changed.set()
        await peer.put(2, data_of(SMALL))
        await eventually(lambda: peer.states("d0")[-1] == "online", "the model fits again")
        assert not life.done()


async def test_without_memory_for_it_a_device_works_and_says_so(peer: Peer) -> None:
    said: list[str] = []
    data = data_of(SMALL)
    await peer.put(0, data)
    device = make_device(peer, stream=Line(), predict=0.02, ram=Model(SMALL).ram(), log=said.append)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, data)
        await peer.update("d0")
    assert any("no memory for predictions" in text for text in said)


async def test_labels_from_outside_reach_the_stream(peer: Peer) -> None:
    class Told(Line):
        told: tuple[int, ...] = ()

        def label(self, value: int) -> None:
            self.told += (value,)

    stream = Told()
    await peer.put(0, data_of(SMALL))
    device = make_device(peer, stream=stream, commands=True)
    topic = peer.topics.device("d0").label
    async with living(device):
        await peer.hello("d0")
        await eventually(lambda: device.mqtt.connected, "it is there")
        await asyncio.sleep(0.2)  # it subscribes after its hello
        for label in (2, -1, "two", 0):
            await peer.send(topic, {"label": label})
        await eventually(lambda: stream.told == (2, 0), "the labels have come")
        assert device.malformed == 2


async def test_a_stream_that_fails_ends_no_device(peer: Peer) -> None:
    class Broken(Line):
        async def sample(self, x: Any, y: array[int]) -> None:
            raise OSError("the sensor does not answer")

    said: list[str] = []
    await peer.put(0, data_of(SMALL))
    async with living(make_device(peer, stream=Broken(), predict=0.05, log=said.append)) as life:
        await eventually(
            lambda: said.count("no prediction: stream Broken: OSError: the sensor does not answer") >= 3, "it is said"
        )
        assert not life.done()


def peer_broker(peer: Peer) -> Any:
    from tests.fleet import broker_config

    return broker_config(peer.broker)


async def test_a_version_that_the_broker_does_not_let_it_read_is_told(peer: Peer) -> None:
    said: list[str] = []
    await peer.put(0, data_of(SMALL))
    asked = 0

    def down(packet: bytearray) -> bytearray:
        nonlocal asked
        asked += packet[0] == 0x90
        if packet[0] == 0x90 and asked == 5:  # after status, work and, twice, the manifest
            packet[-1] = 0x80
        return packet

    async with Altered(peer.broker.port, down) as line:
        device = make_device(peer, stream=Line(), predict=0.05, port=line.port, log=said.append)
        async with living(device):
            sentence = "the published version can't be read: the broker does not let this client subscribe to "
            await eventually(lambda: f"no prediction: {sentence}{peer.topics.piece('+')}" in said, "it is told")
            assert device.mqtt.connections == 1
