"""A device's life, against a coordinator made by hand on a real broker: join, fetch, learn, report, leave."""

from __future__ import annotations

import asyncio
import time
from array import array
from binascii import crc32
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest

from coordinator.initialization import encode, random_weights
from simulator.offline import run_now
from tests.coordinator.driver import Update
from tests.environment import Mosquitto, free_port
from tests.fleet import BIG, SMALL, eventually, hostile_payloads
from tinyreptile import __version__, evaluation, messages, reports
from tinyreptile.client import Client
from tinyreptile.device import DeviceError
from tinyreptile.learner import Learner
from tinyreptile.messages import MessageError
from tinyreptile.model import Model
from tinyreptile.portable import RUNNER
from tinyreptile.streams import Stream
from tinyreptile.streams.sine import SineStream

from .peer import Peer, coordinating, living, make_device


def initialization(model: list[list[Any]], seed: int = 1) -> bytes:
    laid_out = Model(model)
    return encode(laid_out, random_weights(laid_out.tensors, laid_out.parameters, seed))


DATA = initialization(SMALL)
BIG_DATA, NEWER_DATA = initialization(BIG), initialization(BIG, seed=2)


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[Peer]:
    """A coordinator of a new run that has published nothing yet."""
    async with coordinating(broker) as peer:
        yield peer


def packed(peer: Peer, count: int, device: str = "d0") -> bytes:
    """The latest delta of ``device``, put together from its ``count`` chunks."""
    return b"".join(peer.updates(device, index)[-1]["data"] for index in range(count))


class Gate(Stream):
    """A stream whose samples wait until `opened` is set."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def sample(self, x: memoryview, y: array[int]) -> None:
        self.waiting += 1
        await self.opened.wait()
        x[0], y[0] = 100, 200


# Joining


async def test_a_device_waits_for_a_coordinator_and_joins_when_there_is_one(peer: Peer) -> None:
    async with living(make_device(peer)):
        await eventually(lambda: peer.probes("d0") == 1, "the device is connected")
        assert peer.statuses("d0") == []
        await peer.put(0, DATA)
        assert (await peer.hello("d0"))["state"] == "online"


async def test_a_device_without_a_coordinator_says_so_and_hears_commands(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._MANIFEST_SECONDS", 0.2)
    said: list[str] = []
    async with living(make_device(peer, log=said.append, commands=True)) as life:
        await eventually(lambda: said == [f"connected; run {peer.topics.root} has no coordinator yet"], "it says so")
        await peer.send(peer.topics.device("d0").command, {"command": "restart"})
        await eventually(life.done, "the device has ended")


async def test_a_hello_says_all_that_the_coordinator_needs(peer: Peer) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer, role="evaluate", ram=50_000)):
        hello = messages.check(reports.STATUS, await peer.hello("d0"))
    assert hello["protocol"] == messages.PROTOCOL
    assert (hello["state"], hello["role"], hello["work"]) == ("online", "evaluate", 0)
    assert (hello["inputs"], hello["outputs"], hello["ram"]) == (1, 1, 50_000)
    assert hello["platform"].startswith("cpython 3.")
    assert hello["platform"].endswith(RUNNER)
    assert hello["library"] == __version__


async def test_every_start_has_another_boot_name(peer: Peer) -> None:
    assert len({make_device(peer)._boot for _ in range(20)}) == 20


async def test_a_hello_is_retained_for_coordinators_that_come_later(peer: Peer, broker: Mosquitto) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer)):
        await peer.hello("d0")
        async with coordinating(broker) as other:
            await other._session.subscribe(peer.topics.all_status, qos=1)
            other.topics = peer.topics
            assert (await other.hello("d0"))["state"] == "online"


async def test_a_manifest_of_another_protocol_is_not_joined(peer: Peer) -> None:
    said: list[str] = []
    await peer.put_manifest(DATA, protocol=messages.PROTOCOL + 1)
    async with living(make_device(peer, log=said.append)):
        await eventually(
            lambda: f"the coordinator speaks another protocol, {messages.PROTOCOL + 1}" in said,
            "the device has said so",
        )
        assert peer.statuses("d0") == []
        await peer.put(0, DATA)
        assert (await peer.hello("d0"))["state"] == "online"


class Wide(Stream):
    inputs = 2
    outputs = 3


@pytest.mark.parametrize(
    ("options", "manifest", "sentence"),
    [
        ({"stream": Wide()}, {}, "the stream has 2 inputs and 3 outputs, the model 1 and 1"),
        ({"ram": 100}, {}, f"the model needs {Model(SMALL).ram()} bytes of RAM, the device has 100"),
        ({}, {"model": [["input", 1], ["attention", 8], ["squared_error"]]}, "this device does not know the model"),
        ({}, {"encoding": "float32"}, "an initialization of float32 is nothing for weights of int16"),
        ({}, {"bytes": 7}, "the initialization"),
    ],
    ids=["stream", "RAM", "layer", "encoding", "bytes"],
)
async def test_a_device_that_is_unfit_says_why_and_does_no_work(
    peer: Peer, options: dict[str, Any], manifest: dict[str, Any], sentence: str
) -> None:
    await peer.put_chunks(0, DATA)
    await peer.put_manifest(DATA, **manifest)
    device = make_device(peer, **options)
    async with living(device):
        hello = await peer.hello("d0")
        assert hello["state"] == "unfit"
        assert sentence in hello["error"]
        await peer.ask("d0", 5, DATA)
        answer = await peer.update("d0")
        assert answer == {"work": 5, "error": hello["error"]}
    assert sentence in (device.unfit or "")


async def test_a_model_that_fits_exactly_is_taken(peer: Peer) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer, ram=Model(SMALL).ram())):
        assert (await peer.hello("d0"))["state"] == "online"


@pytest.mark.parametrize("name", ["", "a/b", "a+b", "#", "ä", "x" * 33, "a b"])
async def test_an_id_that_is_no_topic_level_is_refused(peer: Peer, name: str) -> None:
    with pytest.raises(MessageError, match="a device id"):
        make_device(peer, name)


async def test_an_unknown_role_is_refused(peer: Peer) -> None:
    with pytest.raises(MessageError, match="a role is train or evaluate, not 'spectator'"):
        make_device(peer, role="spectator")


# One id, two devices


async def test_the_second_device_of_an_id_is_turned_away_and_the_first_stays(peer: Peer) -> None:
    await peer.put(0, DATA)
    first = make_device(peer)
    async with living(first) as life:
        boot = (await peer.hello("d0"))["boot"]
        with pytest.raises(DeviceError, match="the id d0 is already online; give each device an id of its own"):
            await asyncio.wait_for(make_device(peer).run(), 20)
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
        assert not life.done()
    assert {status["boot"] for status in peer.statuses("d0")} == {boot}


async def test_of_two_devices_of_an_id_that_start_at_once_exactly_one_stays(peer: Peer) -> None:
    devices = [make_device(peer), make_device(peer)]
    lives = [asyncio.create_task(device.run()) for device in devices]
    await eventually(lambda: peer.probes("d0") == 2, "both are connected")
    await peer.put(0, DATA)
    done, alive = await asyncio.wait(lives, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    assert len(done) == len(alive) == 1
    with pytest.raises(DeviceError, match="is in use by another device"):
        done.pop().result()
    survivor = devices[lives.index(next(iter(alive)))]
    await eventually(
        lambda: (peer.statuses("d0")[-1]["state"], peer.statuses("d0")[-1]["boot"]) == ("online", survivor._boot),
        "the last word is the survivor's hello",
    )
    await peer.ask("d0", 1, DATA)
    await peer.update("d0")
    await peer.acknowledge("d0", 1)
    await eventually(lambda: survivor.accepted == 1, "the survivor works")
    alive.pop().cancel()
    await asyncio.wait(lives)


async def test_the_hello_of_a_dead_device_does_not_keep_its_successor_out(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._PROBE_SECONDS", 0.2)
    stale = {"protocol": messages.PROTOCOL, "state": "online", "boot": "dead", "role": "train"}
    await peer.send(peer.topics.device("d0").status, stale, retain=True)
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        hello = await peer.hello("d0", count=2)
        assert (hello["state"], hello["boot"]) == ("online", device._boot)


async def test_the_late_last_will_of_an_earlier_start_is_corrected(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        late = {"protocol": messages.PROTOCOL, "state": "offline", "boot": "earlier", "role": "train"}
        await peer.send(peer.topics.device("d0").status, late, retain=True)
        hello = await peer.hello("d0", count=3)
        assert peer.states("d0") == ["online", "offline", "online"]
        assert hello["boot"] == device._boot


# Fetching


async def test_a_device_learns_from_exactly_what_was_published(peer: Peer) -> None:
    await peer.put(0, BIG_DATA, BIG)
    async with living(make_device(peer, stream=SineStream(7))):
        await peer.hello("d0")
        request = await peer.ask("d0", 3, BIG_DATA)
        await eventually(lambda: peer.updates("d0", 4), "all five chunks have come")
    expected = Update(request, BIG_DATA, Model(BIG), seed=7)
    report = peer.updates("d0")[0]["report"]
    assert packed(peer, 5) == bytes(expected.packed)
    assert report["gains"] == expected.report["gains"]
    assert report["loss"] == pytest.approx(expected.report["loss"])
    assert (report["version"], report["bits"], report["samples"]) == (0, 8, 4)


async def test_chunks_of_an_older_version_are_passed_over(peer: Peer) -> None:
    await peer.put_manifest(BIG_DATA, BIG)
    await peer.put_chunks(2, NEWER_DATA, only=range(5, 9))  # of the version that was in the slot before
    await peer.put_chunks(3, BIG_DATA, only=range(5))
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        request = await peer.ask("d0", 3, BIG_DATA, version=3)
        await eventually(lambda: device._assembly._got == {0, 1, 2, 3, 4}, "the chunks of version 3 have come")
        await peer.put_chunks(3, BIG_DATA, only=range(5, 9))
        await eventually(lambda: peer.updates("d0", 4), "the update has come")
    assert peer.updates("d0")[0]["report"]["version"] == 3
    assert packed(peer, 5) == bytes(Update(request, BIG_DATA, Model(BIG)).packed)


async def test_a_newer_version_that_takes_the_slot_during_a_fetch_is_learned_from(peer: Peer) -> None:
    await peer.put_manifest(BIG_DATA, BIG)
    await peer.put_chunks(3, BIG_DATA, only=range(5))
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        request = await peer.ask("d0", 3, BIG_DATA, version=3)
        await eventually(lambda: device._assembly._got == {0, 1, 2, 3, 4}, "the chunks of version 3 have come")
        await peer.put_chunks(5, NEWER_DATA)
        await eventually(lambda: peer.updates("d0", 4), "the update has come")
    assert peer.updates("d0")[0]["report"]["version"] == 5
    assert packed(peer, 5) == bytes(Update(request, NEWER_DATA, Model(BIG)).packed)


async def test_an_initialization_with_a_wrong_checksum_is_not_learned_from(peer: Peer) -> None:
    await peer.put_manifest(DATA)
    await peer.put_chunks(0, DATA, crc=crc32(DATA) ^ 1)
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.ask("d0", 9, DATA, crc=crc32(DATA) ^ 1)
        assert await peer.update("d0") == {"work": 9, "error": "version 0 arrived damaged"}


async def test_missing_chunks_are_reported_in_bounded_time(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._FETCH_SECONDS", 0.3)
    await peer.put_manifest(BIG_DATA, BIG)
    await peer.put_chunks(0, BIG_DATA, only=range(8))
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.ask("d0", 9, BIG_DATA)
        answer = await peer.update("d0")
        assert answer["work"] == 9
        assert answer["error"].startswith("version 0 was not to be had")
        await peer.put_chunks(0, BIG_DATA, only=range(8, 9))
        await peer.ask("d0", 10, BIG_DATA)
        assert "report" in await peer.update("d0", count=2)


async def test_a_version_that_the_device_has_is_not_fetched_again(peer: Peer) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
        await peer.acknowledge("d0", 1)
        await peer._session.publish(peer.topics.chunk(0, 0), b"", qos=1, retain=True)  # it is gone
        request = await peer.ask("d0", 2, DATA)
        await peer.update("d0", count=2)
    assert peer.updates("d0")[-1]["work"] == request["work"]
    assert peer.updates("d0")[-1]["report"]["version"] == 0


# Reporting


@pytest.mark.parametrize("bits", [4, 8, 16])
async def test_a_delta_has_the_bits_that_were_asked_for(peer: Peer, bits: int) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer)):
        await peer.hello("d0")
        request = await peer.ask("d0", 1, DATA, bits=bits)
        update = await peer.update("d0")
    assert update["report"]["bits"] == bits
    assert update["data"] == bytes(Update(request, DATA, Model(SMALL)).packed)


async def test_an_update_is_sent_again_until_it_is_acknowledged(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._RESEND_SECONDS", 0.1)
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0", count=4)
        assert device.accepted == 0
        await peer.acknowledge("d0", 1)
        await eventually(lambda: device.accepted == 1, "the acknowledgement has come")
        await peer.ask("d0", 2, DATA)
        await eventually(lambda: peer.updates("d0")[-1]["work"] == 2, "the next work is done")
    first = [update for update in peer.updates("d0") if update["work"] == 1]
    assert len(first) >= 4
    assert all(update == first[0] for update in first), "the same update was sent in different words"
    works = [update["work"] for update in peer.updates("d0")]
    assert works == sorted(works), "an acknowledged update was sent again"


async def test_an_update_is_dropped_at_its_deadline(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._RESEND_SECONDS", 0.1)
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA, seconds=0.5)
        await eventually(lambda: device.expired == 1, "the deadline has passed")
        await peer.acknowledge("d0", 1)
        await peer.ask("d0", 2, DATA)
        await eventually(lambda: peer.updates("d0")[-1]["work"] == 2, "the next work is done")
        assert device.accepted == 0


async def test_a_refusal_is_counted_and_its_reason_is_told(peer: Peer) -> None:
    said: list[str] = []
    await peer.put(0, DATA)
    device = make_device(peer, log=said.append)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
        await peer.acknowledge("d0", 1, accepted=False, reason="the deadline has passed")
        await eventually(lambda: device.refused == 1, "the refusal has come")
    assert "work 1 was refused: the deadline has passed" in said
    assert device.accepted == 0


async def test_newer_work_replaces_work_that_is_not_acknowledged(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
        await peer.ask("d0", 2, DATA)
        assert (await peer.update("d0", count=2))["work"] == 2
        await peer.acknowledge("d0", 1)
        await peer.acknowledge("d0", 2)
        await eventually(lambda: device.accepted == 1, "the acknowledgement has come")
    assert [update["work"] for update in peer.updates("d0")] == [1, 2]


async def test_an_old_acknowledgement_that_is_repeated_does_not_hide_the_new_one(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    topics = peer.topics.device("d0")
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
        await peer.acknowledge("d0", 1)
        await eventually(lambda: device.accepted == 1, "the acknowledgement has come")
        request = await peer.ask("d0", 2, DATA)
        await peer.update("d0", count=2)
        for topic, message in (
            (topics.ack, {"work": 2, "accepted": True}),
            (topics.ack, {"work": 1, "accepted": True}),
            (topics.work, request | {"work": 3}),
        ):
            device._on_message(topic, msgpack.packb(message), False)  # all before the device gets its turn
        await peer.update("d0", count=3)
        assert device.accepted == 2


async def test_newer_work_ends_training_for_the_older(peer: Peer) -> None:
    await peer.put(0, DATA)
    stream = Gate()
    device = make_device(peer, stream=stream)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await eventually(lambda: stream.waiting == 1, "training has begun")
        await peer.ask("d0", 2, DATA, steps=1)
        await eventually(lambda: device._work and device._work["work"] == 2, "newer work has come")
        stream.opened.set()
        assert (await peer.update("d0"))["work"] == 2
    assert stream.waiting <= 5


async def test_work_that_comes_twice_is_done_once(peer: Peer) -> None:
    await peer.put(0, DATA)
    stream = Gate()
    device = make_device(peer, stream=stream)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await eventually(lambda: stream.waiting == 1, "training has begun")
        await peer.ask("d0", 1, DATA)
        await peer.send(peer.topics.device("d0").ack, "a mark behind it")
        await eventually(lambda: device.malformed == 1, "the repetition has come")
        stream.opened.set()
        await peer.update("d0")
        await peer.acknowledge("d0", 1)
        await peer.ask("d0", 2, DATA)
        await peer.update("d0", count=2)
    assert stream.waiting == 8
    assert [update["work"] for update in peer.updates("d0")] == [1, 2]


async def test_an_evaluation_is_what_the_episodes_make_of_the_stream(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer, stream=SineStream(5), role="evaluate")
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 6, DATA, kind="evaluate", steps=20, shots=5, queries=9)
        answer = await peer.update("d0")
        await peer.acknowledge("d0", 6)
        await eventually(lambda: device.evaluations == 1, "the acknowledgement has come")
    learner = Learner(Model(SMALL))
    learner.initialization[:] = DATA
    learner.load()
    learner.seed(6)
    learner.set_rate(0.01)
    expected = run_now(evaluation.evaluate(learner, SineStream(5), 20, 5, 9))
    assert messages.check(reports.EVALUATION, answer["evaluation"]) == expected | {"version": 0}
    assert device.accepted == 0


@pytest.mark.parametrize(
    "fields",
    [{"kind": "dream"}, {"bits": "8"}, {"bits": 64}, {"steps": 0}, {"beta": 2}, {"kind": "evaluate", "shots": 0}],
)
async def test_work_that_makes_no_sense_is_passed_over(peer: Peer, fields: dict[str, Any]) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA, **fields)
        await eventually(lambda: device.malformed == 1, "it has come")
        await peer.ask("d0", 2, DATA)
        assert (await peer.update("d0"))["work"] == 2


async def test_work_with_bits_that_no_delta_has_is_answered_with_the_reason(peer: Peer) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA, bits=5)
        assert "5" in (await peer.update("d0"))["error"]


async def test_a_stream_that_fails_is_reported(peer: Peer) -> None:
    class Broken(Stream):
        async def sample(self, x: memoryview, y: array[int]) -> None:
            raise OSError("the sensor does not answer")

    await peer.put(0, DATA)
    async with living(make_device(peer, stream=Broken())):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        assert await peer.update("d0") == {"work": 1, "error": "the sensor does not answer"}


async def test_hostile_messages_do_not_end_a_device(peer: Peer) -> None:
    topics = peer.topics.device("d0")
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        payloads = [(topics.work, p) for p in hostile_payloads(messages.WORK)]
        payloads += [(topics.ack, p) for p in hostile_payloads(messages.ACK)]
        payloads += [(topics.status, p) for p in hostile_payloads(reports.STATUS)]
        for topic, payload in payloads:
            await peer._session.publish(topic, payload)
        await peer.ask("d0", 1 << 20, DATA)
        await eventually(
            lambda: any(update["work"] == 1 << 20 for update in peer.updates("d0")), "the device still works"
        )
    assert device.malformed > 100
    assert device.mqtt.oversized >= 3
    assert device.mqtt.connections == 1


# Coming and going


async def test_a_device_that_is_stopped_says_good_bye(peer: Peer) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer)):
        await peer.hello("d0")
    await eventually(lambda: peer.states("d0") == ["online", "offline"], "the good-bye has come")


async def test_a_device_that_is_stopped_twice_leaves_no_connection(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    life = asyncio.create_task(device.run())
    await peer.hello("d0")
    saying = asyncio.Event()

    async def never_done(*arguments: Any, **options: Any) -> None:
        saying.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(device.mqtt, "publish", never_done)
    life.cancel()
    await saying.wait()
    life.cancel()
    await asyncio.wait([life])
    assert life.cancelled()
    assert device.mqtt._writer is None


async def test_a_device_that_dies_is_shown_offline_by_its_last_will(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    life = asyncio.create_task(device.run())
    await peer.hello("d0")
    device.mqtt._writer.transport.abort()
    life.cancel()
    await asyncio.wait([life])
    await eventually(lambda: peer.states("d0") == ["online", "offline"], "the last will has come")
    assert peer.statuses("d0")[-1]["boot"] == device._boot


async def test_a_device_that_loses_its_connection_comes_back_with_the_same_boot_name(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        boot = (await peer.hello("d0"))["boot"]
        device.mqtt._writer.transport.abort()
        await eventually(lambda: peer.states("d0") == ["online", "offline", "online"], "the device is back")
        assert peer.statuses("d0")[-1]["boot"] == boot
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")


async def test_an_update_survives_a_lost_connection(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._RESEND_SECONDS", 0.5)
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        first = await peer.update("d0")
        device.mqtt._writer.transport.abort()
        await eventually(lambda: peer.states("d0")[-2:] == ["offline", "online"], "the device is back")
        count = len(peer.updates("d0"))
        assert await peer.update("d0", count=count + 1) == first
        hello = next(status for status in reversed(peer.statuses("d0")) if status["state"] == "online")
        assert hello["work"] == 1, "the coordinator must know that the device is still at it"
        await peer.acknowledge("d0", 1)
        await eventually(lambda: device.accepted == 1, "the acknowledgement has come")


async def test_a_long_training_does_not_starve_the_session(peer: Peer) -> None:
    class Slow(Stream):
        async def sample(self, x: memoryview, y: array[int]) -> None:
            time.sleep(0.003)  # a computation, not a wait
            x[0], y[0] = 100, 200

    await peer.put(0, DATA)
    device = make_device(peer, stream=Slow(), keepalive=1)  # the broker gives up after 1.5 s
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA, steps=1200)
        await eventually(lambda: any("report" in update for update in peer.updates("d0")), "the training is done")
        assert device.mqtt.connections == 1
    assert peer.fetched("d0") == [{"work": 1, "fetched": 0}], "the slot was kept for nothing"
    assert peer.updates("d0")[-1]["report"]["ms"] >= 3600
    assert peer.states("d0")[0] == "online"
    assert "offline" not in peer.states("d0")[:-1]


def test_a_client_needs_a_legal_run() -> None:
    with pytest.raises(MessageError, match="a run's name"):
        Client("d0", "a/b", SineStream(1), host="127.0.0.1", port=1883)


# Rest


async def test_a_device_that_rests_is_there_between_two_naps(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._LINGER_SECONDS", 0.2)
    slept: list[bool] = []
    device = make_device(peer)

    async def rest() -> None:
        slept.append(device.mqtt.connected)
        await asyncio.sleep(0.3)

    device.rest = rest
    await peer.put(0, DATA)
    async with living(device):
        for work in (1, 2, 3):
            await eventually(lambda: peer.states("d0")[-1:] == ["online"], "the device is awake")
            awake = peer.states("d0").count("online")
            await peer.ask("d0", work, DATA)
            await peer.update("d0", work)
            await peer.acknowledge("d0", work)
            await eventually(lambda awake=awake: peer.states("d0").count("online") > awake, "the device has slept")
    assert device.accepted == 3
    assert len(slept) >= 3
    assert not any(slept)
    assert peer.states("d0")[:4] == ["online", "offline", "online", "offline"]


async def test_a_device_that_rests_does_so_without_a_broker_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._JOIN_SECONDS", 0.2)
    rested = asyncio.Event()

    async def rest() -> None:
        rested.set()
        await asyncio.sleep(60)

    device = Client("d0", "r", SineStream(1), host="127.0.0.1", port=free_port())
    device.rest = rest
    async with living(device):
        await asyncio.wait_for(rested.wait(), 5)
