"""A device's life, against a coordinator made by hand on a real broker: join, fetch, learn, report, leave."""

from __future__ import annotations

import asyncio
import time
from array import array
from binascii import crc32
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from coordinator.config import BrokerConfig
from coordinator.initialization import encode, held, random_weights
from coordinator.versions import Versions
from simulator.micropython import micropython_device
from simulator.offline import run_now
from tests.coordinator.driver import Update
from tests.coordinator.packets import Altered
from tests.environment import Mosquitto, free_port, need_program
from tests.fleet import BIG, SMALL, eventually, hostile_payloads, listening
from tinyreptile import __version__, evaluation, messages, reports
from tinyreptile.client import Client
from tinyreptile.device import DeviceError
from tinyreptile.learner import Learner
from tinyreptile.messages import MessageError
from tinyreptile.model import Model
from tinyreptile.mqtt import MQTTClient
from tinyreptile.portable import RUNNER, ticks_ms
from tinyreptile.streams import Stream
from tinyreptile.streams.sine import SineStream

from .peer import Peer, coordinating, living, make_device

pytestmark = pytest.mark.usefixtures("compiled")


def initialization(model: list[list[Any]], seed: int = 1) -> bytes:
    laid_out = Model(model)
    return encode(laid_out, random_weights(laid_out, seed))


NO_COORDINATOR = "connected; run {} has no coordinator yet, or the broker does not let this device read it"
DATA = initialization(SMALL)
BIG_DATA, NEWER_DATA = initialization(BIG), initialization(BIG, seed=2)


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[Peer]:
    """A coordinator of a new run that has published nothing yet."""
    async with coordinating(broker) as peer:
        yield peer


def coded(peer: Peer, count: int, device: str = "d0") -> list[bytes]:
    """The latest delta of ``device`` in its ``count`` chunks."""
    return [peer.updates(device, index)[-1]["data"] for index in range(count)]


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
        await eventually(lambda: said == [NO_COORDINATOR.format(peer.topics.root)], "it says so")
        await peer.send(peer.topics.device("d0").command, {"command": "restart"})
        await eventually(life.done, "the device has ended")


async def test_what_was_retained_for_another_time_is_passed_over(peer: Peer) -> None:
    class Labelled(SineStream):
        labels: list[int]

        def label(self, value: int) -> None:
            self.labels.append(value)

    stream = Labelled(1)
    stream.labels = []
    topics = peer.topics.device("d0")
    await peer.put(0, DATA)
    task = {"kind": "train", "steps": 4, "beta": 0.01, "seconds": 30, "bits": 8}
    request = {"work": 7, "version": 0, "crc": crc32(DATA), "task": task, "data": DATA}
    for topic, message in (
        (topics.work, request),
        (topics.label, {"label": 1}),
        (topics.command, {"command": "restart"}),
    ):
        await peer.send(topic, message, retain=True)
    async with living(make_device(peer, stream=stream, commands=True)) as life:
        await peer.hello("d0")
        await peer.ask("d0", 8, DATA)
        await peer.send(topics.label, {"label": 2})
        assert (await peer.update("d0"))["work"] == 8
        await eventually(lambda: stream.labels == [2], "a label of now is taken")
        assert len(peer.updates("d0")) == 1
        assert not life.done()


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


async def test_what_is_published_does_not_tell_a_client_id(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        assert str(await peer.hello("d0")).find(device.mqtt.client_id.removeprefix("d0-")) < 0
    assert len({make_device(peer).mqtt.client_id for _ in range(20)}) == 20


async def test_a_hello_is_retained_for_coordinators_that_come_later(peer: Peer, broker: Mosquitto) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer)):
        await peer.hello("d0")
        async with coordinating(broker) as other:
            await other._session.subscribe(peer.topics.all_status, qos=1)
            other.topics = peer.topics
            assert (await other.hello("d0"))["state"] == "online"


async def test_an_idle_device_says_hello_again_to_another_start_of_the_coordinator(
    peer: Peer, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._IDLE_SECONDS", 0.2)
    await peer.put_manifest(DATA, boot="first")
    async with living(make_device(peer)) as life:
        await peer.hello("d0")
        await asyncio.sleep(1)
        assert len(peer.statuses("d0")) == 1, "the same coordinator knows of it"
        await peer.put_manifest(DATA, boot="second")
        assert (await peer.hello("d0", 2))["state"] == "online"
        await asyncio.sleep(1)
        assert (len(peer.statuses("d0")), life.done()) == (2, False)


async def test_another_start_of_the_coordinator_is_noticed_while_the_device_looks_away(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._IDLE_SECONDS", 0.2)
    await peer.put_manifest(DATA, boot="first")
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        unsubscribe = device.mqtt.unsubscribe

        async def unsubscribe_late(topic: str) -> None:
            if topic == peer.topics.init and device._manifest and device._manifest["boot"] == "first":
                await peer.put_manifest(DATA, boot="second")
                await eventually(lambda: device._manifest["boot"] == "second", "it comes in between")
            await unsubscribe(topic)

        device.mqtt.unsubscribe = unsubscribe_late
        assert (await peer.hello("d0", 2))["state"] == "online"


async def test_an_idle_device_prepares_for_another_model(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._IDLE_SECONDS", 0.2)
    await peer.put_manifest(DATA, boot="first")
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.put_manifest(BIG_DATA, BIG, boot="second")
        await peer.hello("d0", 2)
        await peer.ask("d0", 1, BIG_DATA)
        assert (await peer.update("d0"))["work"] == 1


async def test_a_device_whose_run_lost_its_manifest_waits_no_longer_than_for_a_coordinators_word(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._MANIFEST_SECONDS", 0.5)
    monkeypatch.setattr("tinyreptile.client._PIECE_SECONDS", 0.2)
    await peer.put_manifest(BIG_DATA, BIG)
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer._session.publish(peer.topics.init, b"", qos=1, retain=True)
        await peer.ask("d0", 1, BIG_DATA, only=range(1))
        await eventually(lambda: any("did not arrive whole" in u.get("error", "") for u in peer.updates("d0")), "told")
        await peer.ask("d0", 2, BIG_DATA)
        assert (await peer.update("d0", 2))["work"] == 2


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


@pytest.mark.parametrize("access", ["read", "write"])
async def test_a_device_that_may_not_say_or_hear_its_status_tells_it_and_has_not_joined(
    start_broker: Callable[..., Mosquitto], tmp_path: Path, access: str
) -> None:
    (tmp_path / "acl").write_text(f"topic readwrite tinyreptile/#\nuser d0\ntopic {access} tinyreptile/#\n")
    broker = start_broker("allow_anonymous true", f"acl_file {tmp_path / 'acl'}")
    said: list[str] = []
    async with coordinating(broker) as peer:
        await peer.put_manifest(DATA)
        device = make_device(peer, user="d0", log=said.append, timeout=1)
        topic = peer.topics.device("d0").status
        async with living(device):
            await eventually(lambda: said, "it says so")
            assert len(said) == 1
            assert said[0].endswith(f"the broker does not let this device write or read {topic}")
            assert not device._is_ready()
            assert "online" not in peer.states("d0")


SUBSCRIPTIONS = ["status", "work", "command", "init", "label"]  # in this order


def refusing(broker: Mosquitto, name: str) -> Altered:
    """A line to ``broker`` on which the first subscription of a device to ``name`` is refused."""
    left = SUBSCRIPTIONS.index(name) + 1

    def down(packet: bytearray) -> bytearray:
        nonlocal left
        if packet[0] == 0x90:
            left -= 1
            if left == 0:
                packet[-1] = 0x80
        return packet

    return Altered(broker.port, down)


@pytest.mark.parametrize("name", ["command", "label"])
async def test_a_device_goes_on_without_a_subscription_that_it_can_do_without_and_its_status_says_so(
    peer: Peer, name: str
) -> None:
    await peer.put(0, DATA)
    async with refusing(peer.broker, name) as line:
        device = make_device(peer, commands=True, port=line.port)
        async with living(device):
            notice = f"the broker does not let this client subscribe to {getattr(peer.topics.device('d0'), name)}"
            await eventually(lambda: [s.get("notice") for s in peer.statuses("d0")][-1:] == [notice], "it is told")
            await peer.ask("d0", 1, DATA)
            await peer.update("d0")
            assert device.mqtt.connections == 1
            await device.mqtt.close()
            await eventually(lambda: device.mqtt.connections == 2 and device._is_ready(), "it has joined again")
            await eventually(
                lambda: (s := peer.statuses("d0")[-1])["state"] == "online" and "notice" not in s, "it says so"
            )


async def test_a_device_does_not_join_without_its_work(peer: Peer) -> None:
    await peer.put(0, DATA)
    said: list[str] = []
    async with refusing(peer.broker, "work") as line, living(make_device(peer, port=line.port, log=said.append)):
        await eventually(lambda: said, "it says why")
        topic = peer.topics.device("d0").work
        assert said[0].endswith(f": the broker does not let this client subscribe to {topic}")
        assert "online" not in peer.states("d0")
        await eventually(lambda: "online" in peer.states("d0"), "it may now")


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


async def test_a_client_id_that_is_set_takes_the_place_of_the_session_before(peer: Peer) -> None:
    await peer.put(0, DATA)
    topic = peer.topics.device("d0").status
    status = {"protocol": messages.PROTOCOL, "boot": "before", "role": "train"}
    will = topic, msgpack.packb(status | {"state": "offline"})
    before = MQTTClient(peer.broker.host, peer.broker.port, "thing-d0", lambda *message: None, will=will)
    await before.connect()
    await before.publish(topic, msgpack.packb(status | {"state": "online"}), retain=True)
    async with living(make_device(peer, client_id="thing-{id}")):
        await eventually(lambda: peer.states("d0")[-2:] == ["offline", "online"], "the next start has joined")
        await eventually(lambda: not before.connected, "the broker keeps one session")
    await before.close()


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


STALE = {"protocol": messages.PROTOCOL, "state": "online", "boot": "dead", "role": "train"}


@pytest.mark.parametrize(
    "stale", [msgpack.packb(STALE), msgpack.packb(STALE | {"state": "probe"}), b"garbage", bytes(1300)]
)
async def test_what_is_retained_of_nobody_does_not_keep_a_device_out(
    peer: Peer, stale: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._PROBE_SECONDS", 0.2)
    await peer.send_bytes(peer.topics.device("d0").status, stale, retain=True)
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await eventually(lambda: any(status.get("boot") == device._boot for status in peer.statuses("d0")), "it joins")
        assert peer.statuses("d0")[-1]["state"] == "online"


@pytest.mark.parametrize("stale", [msgpack.packb(STALE | {"state": "probe"}), b"garbage", bytes(1300)])
async def test_a_living_device_whose_status_is_replaced_keeps_another_of_its_id_out(
    peer: Peer, stale: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await peer.put(0, DATA)
    first = make_device(peer)
    async with living(first):
        await peer.hello("d0")
        first._gap = 10  # it is slow to see to that
        monkeypatch.setattr("tinyreptile.client._GAP_SECONDS", 10)
        first._restored_at = ticks_ms()
        await peer.send_bytes(peer.topics.device("d0").status, stale, retain=True)
        with pytest.raises(DeviceError, match="the id d0 is already online"):
            await asyncio.wait_for(make_device(peer).run(), 20)


@pytest.mark.parametrize("retain", [True, False])
async def test_the_late_last_will_of_an_earlier_session_is_corrected(peer: Peer, retain: bool) -> None:
    await peer.put_manifest(DATA)
    async with living(make_device(peer)):
        boot = (await peer.hello("d0"))["boot"]
        will = {"protocol": messages.PROTOCOL, "state": "offline", "boot": boot}
        for count in (1, 2):
            await peer.send(peer.topics.device("d0").status, will, retain=retain)
            await peer.hello("d0", count=1 + 2 * count)
        assert peer.states("d0") == ["online", "offline", "online", "offline", "online"]
    await eventually(lambda: peer.states("d0")[-2:] == ["online", "offline"], "its own good-bye is the last word")
    await asyncio.sleep(0.3)
    assert peer.states("d0")[-2:] == ["online", "offline"]


def replacements(hello: dict[str, Any]) -> dict[str, bytes]:
    """What somebody may put at the status topic of the device that says ``hello``; the first four are unlike."""
    changes: dict[str, dict[str, Any]] = {
        "another role": {"role": "evaluate"},
        "unfit": {"state": "unfit", "error": "it says"},
        "probe": {"state": "probe"},
        "offline": {"state": "offline"},
        "another state": {"state": "asleep"},
        "another shape": {"inputs": 2},
        "another protocol": {"protocol": messages.PROTOCOL - 1},
        "another's hello": {"boot": "0"},
        "another's probe": {"boot": "0", "state": "probe"},
        "another's end": {"boot": "0", "state": "offline"},
        "no state": {"state": None},
    }
    packed = {name: msgpack.packb(hello | change) for name, change in changes.items()}
    garbage = {"garbage": b"\xc1garbage", "too long": bytes(1300), "empty map": b"\x80"}
    return garbage | packed | {"list": b"\x90", "nothing": b"", "its end": b"\x81"}


async def retained_status(peer: Peer, device: str) -> Any:
    """What the broker retains of ``device``, as a new subscription gets it."""
    broker = BrokerConfig(host=peer.broker.host, port=peer.broker.port)
    async with listening(broker, peer.topics.device(device).status) as found:
        await asyncio.sleep(0.1)
        return found[0].payload if found else b""


@pytest.mark.parametrize("interpreter", ["cpython", "micropython"])
async def test_whatever_replaces_a_devices_status_gives_way_to_its_hello(
    peer: Peer, interpreter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.client._GAP_SECONDS", 1)
    await peer.put(0, DATA)
    settings = {"id": "d0", "run": peer.run, "host": peer.broker.host, "port": peer.broker.port}
    settings["stream"] = {"kind": "sine", "seed": 1}
    async with AsyncExitStack() as stack:
        if interpreter == "micropython":
            await stack.enter_async_context(micropython_device(need_program("micropython"), tmp_path, settings))
        else:
            await stack.enter_async_context(living(make_device(peer)))
        hello = await peer.hello("d0")
        own = await retained_status(peer, "d0")
        assert msgpack.unpackb(own) == hello
        others = list(replacements(hello).values())[: 4 if interpreter == "micropython" else None]
        for other in others:
            await peer.send_bytes(peer.topics.device("d0").status, other, retain=True)
            async with asyncio.timeout(20):
                while await retained_status(peer, "d0") != own:
                    pass
        assert peer.statuses("d0").count(hello) == 1 + len(others)


async def test_a_status_that_is_replaced_all_the_time_brings_few_hellos(peer: Peer) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer)):
        hello = await peer.hello("d0")
        for number in range(200):
            await peer.send_bytes(peer.topics.device("d0").status, b"%d" % number, retain=True)
            await asyncio.sleep(0.04)
        assert 2 <= peer.statuses("d0").count(hello) <= 5
        await eventually(lambda: peer.statuses("d0")[-1] == hello, "the last word is its own", 30)


async def test_who_asks_is_answered_soon_but_not_at_any_rate(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        hello = await peer.hello("d0")
        probe = {"protocol": messages.PROTOCOL, "state": "probe", "boot": "other"}
        begun = time.monotonic()
        for number in range(60):
            await peer.send_bytes(peer.topics.device("d0").status, b"" if number % 2 else msgpack.packb(probe))
            if number == 0:
                await peer.hello("d0", 2)
                assert time.monotonic() - begun < 0.5
            await asyncio.sleep(0.05)
        assert 3 <= peer.statuses("d0").count(hello) <= 6


async def test_two_devices_of_an_id_that_both_stay_do_not_answer_each_other_without_an_end(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on two sides of a bridge that was down while they joined."""
    monkeypatch.setattr("tinyreptile.client._PROBE_SECONDS", 0)
    await peer.put(0, DATA)
    async with living(make_device(peer)) as one, living(make_device(peer)) as other:
        await eventually(lambda: len({status["boot"] for status in peer.statuses("d0")}) == 2, "both have joined")
        await asyncio.sleep(8)
        assert not one.done()
        assert not other.done()
        assert len(peer.statuses("d0")) <= 10


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


# Receiving


async def test_a_device_learns_from_exactly_what_was_sent(peer: Peer) -> None:
    await peer.put(0, BIG_DATA, BIG)
    async with living(make_device(peer, stream=SineStream(7))):
        await peer.hello("d0")
        request = await peer.ask("d0", 3, NEWER_DATA, version=4)
        expected = Update(request, NEWER_DATA, Model(BIG), seed=7)
        count = len(expected.chunks)
        await eventually(lambda: peer.updates("d0", count - 1), "all chunks have come")
    report = peer.updates("d0")[0]
    assert coded(peer, count) == expected.chunks
    assert report["gains"] == expected.report["gains"]
    assert report["loss"] == pytest.approx(expected.report["loss"])
    assert (report["version"], report["chunks"]) == (4, count)


async def test_a_device_that_holds_the_version_is_sent_none_of_it(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        assert "version" not in await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0")
        await peer.ask("d0", 2, None)
        update = await peer.update("d0", count=2)
        assert bytes(device._learner.initialization) == DATA
    assert (update["work"], update["version"]) == (2, 0)
    assert peer.wanted("d0") == []


@pytest.mark.parametrize("encoding", ["int16", "int8"])
async def test_a_device_makes_a_version_of_differences_from_the_one_that_it_holds(peer: Peer, encoding: str) -> None:
    model = Model(BIG)
    made = Versions(model, set)
    weights = random_weights(model, 1)
    old = made.of(3, weights, encoding)
    new = made.of(9, weights + np.random.default_rng(1).laplace(0, 0.02, model.parameters), encoding)
    pieces = made.changes(new, 3)
    assert pieces is not None
    assert len(pieces) > 1
    await peer.put_manifest(old.data, BIG, version=3, encoding=encoding)
    device = make_device(peer)
    topic = peer.topics.device("d0").work
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, old.data, version=3, crc=old.crc)
        await peer.update("d0")
        request = {"work": 2, "version": 9, "crc": new.crc, "from": 3, "data": pieces[0][1]}
        for message in (request, *({"work": 2, "at": at, "data": data} for at, data in pieces[1:])):
            await peer.send(topic, message)
        update = await peer.update("d0", count=2)
        assert bytes(device._learner.initialization) == held(model, new.data, encoding)
    assert (update["work"], update["version"]) == (2, 9)
    assert peer.wanted("d0") == []


async def test_a_task_holds_until_there_is_another(peer: Peer) -> None:
    await peer.put(0, DATA)
    topic = peer.topics.device("d0").work
    stream = Gate()
    stream.opened.set()
    async with living(make_device(peer, stream=stream)):
        await peer.hello("d0")
        for work, fields in enumerate([{"steps": 7}, {}, {"steps": 2}, {}], start=1):
            task = {"kind": "train", "beta": 0.01, "seconds": 30, "bits": 8} | fields
            request = {"work": work, "version": 0, "crc": crc32(DATA), "data": DATA}
            await peer.send(topic, request | ({"task": task} if fields else {}))
            await peer.update("d0", count=work)
            assert stream.waiting == (7, 14, 16, 18)[work - 1]


async def test_pieces_of_other_work_are_passed_over(peer: Peer) -> None:
    await peer.put(0, BIG_DATA, BIG)
    device = make_device(peer)
    topic = peer.topics.device("d0").work
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 2, NEWER_DATA, only=range(3))
        request = await peer.ask("d0", 3, BIG_DATA, only=range(6), version=5)
        size = messages.PIECE_BYTES
        for at in range(3 * size, len(NEWER_DATA), size):
            await peer.send(topic, {"work": 2, "at": at, "data": NEWER_DATA[at : at + size]})
        for at in range(6 * size, len(BIG_DATA), size):
            await peer.send(topic, {"work": 3, "at": at, "data": BIG_DATA[at : at + size]})
        expected = Update(request, BIG_DATA, Model(BIG)).chunks
        await eventually(lambda: peer.updates("d0", len(expected) - 1), "the update has come")
    assert peer.updates("d0")[0]["version"] == 5
    assert coded(peer, len(expected)) == expected
    assert device.malformed == 0


@pytest.mark.parametrize("how", ["damaged", "of another size", "changed from what it does not hold", "without a task"])
async def test_what_can_not_be_learned_from_is_asked_for_again(peer: Peer, how: str) -> None:
    await peer.put(0, DATA)
    topic = peer.topics.device("d0").work
    request = {"work": 9, "version": 3, "crc": crc32(DATA), "data": DATA}
    task = {"kind": "train", "steps": 4, "beta": 0.01, "seconds": 30, "bits": 8}
    spoiled = {
        "damaged": request | {"crc": crc32(DATA) ^ 1, "task": task},
        "of another size": request | {"data": DATA[:-2], "task": task},
        "changed from what it does not hold": request | {"from": 3, "data": b"", "task": task},
        "without a task": request,
    }[how]
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.send(topic, spoiled)
        await eventually(lambda: peer.wanted("d0") == [9], "it is asked for again", 5)
        await peer.send(topic, request | {"version": 4, "task": task})
        update = await peer.update("d0")
    assert (update["work"], update["version"]) == (9, 4)
    assert peer.wanted("d0") == [9]


async def test_a_device_gives_up_on_what_never_arrives(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._PIECE_SECONDS", 0.3)
    await peer.put(0, BIG_DATA, BIG)
    async with living(make_device(peer)):
        await peer.hello("d0")
        await peer.ask("d0", 9, BIG_DATA, only=range(5))
        assert await peer.update("d0") == {"work": 9, "error": "version 0 did not arrive whole"}
        assert peer.wanted("d0") == [9] * 3
        await peer.ask("d0", 10, BIG_DATA)
        assert "gains" in await peer.update("d0", count=2)


async def test_a_connection_lost_in_the_middle_of_an_initialization_is_told(peer: Peer) -> None:
    await peer.put(0, BIG_DATA, BIG)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 9, BIG_DATA, only=range(3))
        await eventually(lambda: device._assembly.length > 0, "it has begun")
        device.mqtt._writer.transport.abort()
        hello = await peer.hello("d0", count=3)
        assert (hello["state"], hello["work"]) == ("online", 0)
        assert "version" not in hello
        await peer.ask("d0", 9, BIG_DATA)
        await eventually(lambda: peer.updates("d0", 2), "the update has come")
    assert peer.wanted("d0") == []


async def test_a_hello_says_which_version_the_device_holds(peer: Peer) -> None:
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA, version=17)
        await peer.update("d0")
        await peer.acknowledge("d0", 1)
        await eventually(lambda: device.accepted == 1, "the answer has come")
        device.mqtt._writer.transport.abort()
        hello = await peer.hello("d0", count=3)
    assert (hello["state"], hello["work"], hello["version"]) == ("online", 0, 17)


async def test_nothing_of_an_old_delta_is_packed_with_a_newer_initialization(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await peer.put(0, BIG_DATA, BIG)
    device = make_device(peer)
    publish = device.mqtt.publish
    release = asyncio.Event()
    chunks = 0

    async def slow(topic: str, payload: Any, **options: Any) -> None:
        nonlocal chunks
        chunks += topic.endswith("/update")
        if chunks > 1 and not release.is_set():
            await release.wait()
        await publish(topic, payload, **options)

    monkeypatch.setattr(device.mqtt, "publish", slow)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, BIG_DATA)
        await eventually(lambda: peer.updates("d0"), "one of three chunks has come")
        await peer.ask("d0", 2, NEWER_DATA, version=2)
        await eventually(lambda: device._assembly.version == 2, "the newer version has come")
        release.set()
        await eventually(lambda: peer.updates("d0", 2), "the newer update has come")
    assert [update["work"] for update in peer.updates("d0", 0)] == [1, 2]
    assert {update["work"] for index in (1, 2) for update in peer.updates("d0", index)} == {2}


# Reporting


@pytest.mark.parametrize("bits", [4, 8, 16])
async def test_a_delta_has_the_bits_that_were_asked_for(peer: Peer, bits: int) -> None:
    await peer.put(0, DATA)
    async with living(make_device(peer)):
        await peer.hello("d0")
        request = await peer.ask("d0", 1, DATA, bits=bits)
        update = await peer.update("d0")
    assert [update["data"]] == Update(request, DATA, Model(SMALL)).chunks


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
        await peer.acknowledge("d0", 1, refused="the deadline has passed")
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
        for message in ({"done": 2}, {"done": 1}, request | {"work": 3, "from": 0}):
            device._on_message(topics.work, msgpack.packb(message), False)  # all before the device gets its turn
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
        await peer.send(peer.topics.device("d0").work, "a mark behind it")
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


async def test_a_report_that_no_message_holds_is_an_error_and_the_device_goes_on(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device(peer, role="evaluate")

    async def evaluated(work: dict[str, Any]) -> dict[str, Any]:
        return {"seen": [1] * 2000}

    await peer.put(0, DATA)
    async with living(device):
        await peer.hello("d0")
        with monkeypatch.context() as patch:
            patch.setattr(device, "_evaluate", evaluated)
            await peer.ask("d0", 6, DATA, kind="evaluate", steps=20, shots=5, queries=9)
            assert (await peer.update("d0"))["error"] == "what came of the work is longer than a message"
        await peer.ask("d0", 7, DATA, kind="evaluate", steps=20, shots=5, queries=9)
        assert (await peer.update("d0", 2))["evaluation"]["queries"] == 9


def test_the_seconds_of_work_count_from_the_request_that_named_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr("tinyreptile.client.ticks_ms", lambda: now)
    device = Client("d0", "r", SineStream(1), host="127.0.0.1", port=1)
    task = {"kind": "train", "seconds": 60.0, "steps": 32, "beta": 0.01, "bits": 8}
    device._take_work({"work": 1, "version": 5, "crc": 1, "task": task, "from": 4})
    first = device._work
    assert device._left(first) == 60
    now = 15_000
    device._take_work({"work": 1, "version": 5, "crc": 2, "seconds": 45.0, "data": bytes(50)})
    assert device._left(first) == 45
    now = 50_000
    device._take_work({"work": 2, "version": 5, "crc": 2, "data": bytes(50)})
    assert (device._left(first), device._left(device._work)) == (10, 60)


async def test_a_stream_that_fails_is_reported(peer: Peer) -> None:
    class Broken(Stream):
        async def sample(self, x: memoryview, y: array[int]) -> None:
            raise OSError("the sensor does not answer")

    await peer.put(0, DATA)
    async with living(make_device(peer, stream=Broken())):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        assert await peer.update("d0") == {"work": 1, "error": "stream Broken: OSError: the sensor does not answer"}


async def test_hostile_messages_do_not_end_a_device(peer: Peer) -> None:
    topics = peer.topics.device("d0")
    await peer.put(0, DATA)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        payloads = [(topics.work, p) for p in hostile_payloads(messages.WORK)]
        payloads += [(topics.work, p) for p in hostile_payloads(reports.PIECE)]
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


async def test_fields_of_a_newer_coordinator_are_passed_over(peer: Peer) -> None:
    """Of any standard type, in every message."""
    news = {"since": msgpack.Timestamp(1, 5), "more": [msgpack.ExtType(7, b"abc"), {1: {-2: None}}], "single": 1 << 63}
    await peer.put_pieces(0, DATA)
    await peer.put_manifest(DATA, **news)
    device = make_device(peer)
    async with living(device):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA, **news)
        assert "gains" in await peer.update("d0")
        await peer.acknowledge("d0", 1, **news)
        await eventually(lambda: device.accepted == 1, "the answer has come")
    assert device.malformed == 0


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
        await eventually(lambda: any("gains" in update for update in peer.updates("d0")), "the training is done")
        assert device.mqtt.connections == 1
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
