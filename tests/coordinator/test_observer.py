"""What anyone may see of a run over MQTT."""

from __future__ import annotations

import asyncio
from binascii import crc32
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.config import Config
from coordinator.errors import BrokerError, CoordinatorError
from coordinator.initialization import decode, encode
from coordinator.mqtt import client, pack
from coordinator.observer import Snapshot, check_run_status, fetch, look
from coordinator.operator import runs
from coordinator.service import Coordinator
from tests.environment import Mosquitto, free_port
from tests.fleet import BIG, eventually, finish, run_config, running_swarm, swarm_spec, task
from tinyreptile import messages, reports
from tinyreptile.model import Model


@pytest.mark.usefixtures("compiled")
async def test_a_finished_run_shows_its_status_and_its_devices(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 5})
    async with running_swarm(swarm_spec(config, 3, 1)):
        await finish(Coordinator(config))
        snapshot = await look(config)
    assert snapshot.coordinator is not None
    assert (snapshot.coordinator["state"], snapshot.coordinator["updates"]) == ("finished", 5)
    assert sorted(snapshot.devices) == ["sine-0", "sine-1", "sine-2", "sine-unseen-0"]
    assert {device["state"] for device in snapshot.devices.values()} == {"online"}


async def test_a_run_that_nobody_serves_shows_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    snapshot = await look(run_config(broker, tmp_path), seconds=0.3)
    assert snapshot.coordinator is None
    assert snapshot.devices == {}


@pytest.mark.usefixtures("compiled")
async def test_a_busy_run_can_be_looked_at(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 0})
    coordinator = Coordinator(config)
    async with running_swarm(swarm_spec(config, 3)), task(coordinator.run()):
        await eventually(lambda: coordinator.run_state.updates > 5, "the run is under way")
        snapshot = await look(config)
        coordinator.stop()
    assert snapshot.coordinator is not None
    assert snapshot.coordinator["state"] == "running"
    assert len(snapshot.devices) == 3


@pytest.mark.usefixtures("compiled")
async def test_what_is_fetched_is_the_initialization_as_devices_get_it(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 5, "model": BIG})
    async with running_swarm(swarm_spec(config, 3)):
        coordinator = Coordinator(config)
        await finish(coordinator)
    model, version, weights = await fetch(config)
    assert model.spec == BIG
    assert version == 5
    assert np.array_equal(weights, decode(model, encode(model, coordinator.run_state.weights, "int8"), "int8"))


@pytest.mark.usefixtures("compiled")
async def test_an_initialization_that_is_damaged_is_not_fetched(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 1})
    async with running_swarm(swarm_spec(config, 1)):
        coordinator = Coordinator(config)
        await finish(coordinator)
    version = coordinator.run_state.newest()
    damaged = {"version": version.number, "crc": version.crc, "data": bytes(len(version.data))}
    async with client(config.broker) as session:
        topic = reports.CoordinatorTopics(config.run.name).piece(0)
        await session.publish(topic, pack(damaged), qos=1, retain=True)
    with pytest.raises(CoordinatorError, match="has published no initialization"):
        await fetch(config, seconds=0.5)


async def test_a_run_that_has_published_nothing_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    with pytest.raises(CoordinatorError, match=r"has published no initialization at .*is its coordinator running"):
        await fetch(run_config(broker, tmp_path), seconds=0.3)


async def test_where_nothing_of_a_run_is_nobody_waits_for_the_rest_of_it(broker: Mosquitto, tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        with pytest.raises(CoordinatorError, match="has published no initialization"):
            await fetch(run_config(broker, tmp_path), seconds=3600)


async def test_hostile_retained_messages_are_passed_over(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    topics = reports.CoordinatorTopics(config.run.name)
    async with client(config.broker) as session:
        for topic in (topics.coordinator, topics.device("d0").status, topics.init, topics.piece(0)):
            for payload in (b"\xc1", pack({"state": 7}), b"\x07", b"\xff" * 3000):
                await session.publish(topic, payload, qos=1, retain=True)
    snapshot = await look(config, seconds=1)
    assert snapshot.devices == {}
    with pytest.raises(CoordinatorError):
        await fetch(config, seconds=0.5)


@pytest.mark.usefixtures("compiled")
async def test_devices_that_have_gone_are_shown_offline(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 3})
    async with running_swarm(swarm_spec(config, 3, 1)):
        await finish(Coordinator(config))
    snapshot = await look(config)
    assert len(snapshot.devices) == 4
    assert {device["state"] for device in snapshot.devices.values()} == {"offline"}, "each says good-bye"


async def test_a_stopped_coordinator_is_shown_stopped(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    coordinator = Coordinator(config)
    async with task(coordinator.run()) as run:
        await eventually(lambda: coordinator.run_state.published_version == 0, "it has begun")
        coordinator.stop()
        await run
    snapshot = await look(config)
    assert snapshot.coordinator is not None
    assert snapshot.coordinator["state"] == "stopped"


@pytest.mark.parametrize("reader", [look, fetch])
async def test_no_broker_is_told(tmp_path: Path, broker: Mosquitto, reader: object) -> None:
    config = run_config(broker, tmp_path)
    config.broker.port = free_port()
    with pytest.raises(BrokerError, match="no broker answers"):
        await (look(config) if reader is look else fetch(config))


# Messages by hand

MODEL = Model(BIG)


RUNNING: dict[str, Any] = {
    "protocol": messages.PROTOCOL,
    "state": "running",
    "boot": "b1",
    "run": "r",
    "mode": "serial",
    **dict.fromkeys(("version", "updates", "rounds", "rate", "in_flight", "devices", "evaluators", "unfit"), 0),
    **dict.fromkeys(("round_trip_p50", "round_trip_p99"), 0.0),
    "refusals": {},
    "evaluation": {},
}
BAD_STATUSES: list[Any] = [
    5,
    {"state": "running", "devices": 1},
    RUNNING | {"rate": "x"},
    RUNNING | {"refusals": {"late": "many"}},
    RUNNING | {"refusals": {1: 1}},
    RUNNING | {"evaluation": {"before": 1.0}},
]


@pytest.mark.parametrize("message", BAD_STATUSES, ids=str)
def test_a_run_status_that_is_none_is_refused(message: Any) -> None:
    with pytest.raises(messages.MessageError):
        check_run_status(message)


def test_a_whole_run_status_is_taken() -> None:
    assert check_run_status(RUNNING) == RUNNING


def written(config: Config, version: int, **fields: Any) -> dict[str, Any]:
    """(topic, message) of a whole version, the manifest last; each of its weights tells the version."""
    topics = reports.CoordinatorTopics(config.run.name)
    data = encode(MODEL, np.full(MODEL.parameters, version / 4096))
    size = messages.PIECE_BYTES
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    stamp = {"version": version, "crc": crc32(data)}
    manifest = {"protocol": messages.PROTOCOL, "model": BIG, "weights": "int16", "encoding": "int16"}
    manifest |= {"bytes": len(data)}
    found: dict[str, Any] = {topics.piece(i): stamp | {"data": piece} for i, piece in enumerate(pieces)}
    return found | {topics.init: stamp | manifest | fields}


def status(state: str = "online", **fields: Any) -> dict[str, Any]:
    return {"protocol": messages.PROTOCOL, "state": state, "boot": "b1"} | fields


async def retain(config: Config, by_topic: dict[str, Any]) -> None:
    """Put messages on the broker, packed unless they are bytes."""
    async with client(config.broker) as session:
        for topic, message in by_topic.items():
            payload = message if isinstance(message, bytes) else pack(message)
            await session.publish(topic, payload, qos=1, retain=True)


@asynccontextmanager
async def meanwhile(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """``work`` goes on beside the context, and is told its end by an event."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work(stop))
        try:
            yield
        finally:
            stop.set()


@pytest.mark.parametrize("index", [0, 2, 6])
async def test_a_publication_with_a_piece_of_another_version_is_not_read(
    broker: Mosquitto, tmp_path: Path, index: int
) -> None:
    config = run_config(broker, tmp_path)
    chunk = reports.CoordinatorTopics(config.run.name).piece(index)
    await retain(config, written(config, 1))
    await retain(config, {chunk: written(config, 2)[chunk]})
    with pytest.raises(CoordinatorError, match="has published no initialization"):
        await fetch(config, 0.3)


async def test_a_mixture_is_waited_out(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    chunk = reports.CoordinatorTopics(config.run.name).piece(0)
    newer = written(config, 2)
    await retain(config, written(config, 1) | {chunk: newer[chunk]})
    async with task(fetch(config)) as fetching:
        await asyncio.sleep(0.2)
        assert not fetching.done()
        await retain(config, newer)
        _, version, weights = await fetching
    assert version == 2
    assert set(weights * 4096) == {2}


async def test_a_publication_that_is_replaced_all_the_time_is_never_read_as_a_mixture(
    broker: Mosquitto, tmp_path: Path
) -> None:
    config = run_config(broker, tmp_path)
    await retain(config, written(config, 1))

    async def rewrite(stop: asyncio.Event) -> None:
        version = 1
        async with client(config.broker) as session:
            while not stop.is_set():
                version += 1
                for topic, message in written(config, version).items():
                    await session.publish(topic, pack(message), qos=1, retain=True)

    found = []
    async with meanwhile(rewrite):
        for _ in range(20):
            _, version, weights = await fetch(config)
            assert set(weights * 4096) == {version}
            found.append(version)
    assert found == sorted(found)
    assert len(set(found)) > 5


@pytest.mark.parametrize("fields", [{"bytes": 5}, {"bytes": 9000}, {"bytes": 12000}, {"crc": 5}], ids=str)
async def test_a_manifest_that_does_not_fit_its_pieces_is_no_initialization(
    broker: Mosquitto, tmp_path: Path, fields: dict[str, Any]
) -> None:
    config = run_config(broker, tmp_path)
    await retain(config, written(config, 1, **fields))
    with pytest.raises(CoordinatorError, match="has published no initialization"):
        await fetch(config, 0.3)


@pytest.mark.parametrize("data", [b"\1\0\1\0", b"\1\0\1"], ids=["too few", "half a weight"])
async def test_an_initialization_of_another_size_than_its_models_is_none(
    broker: Mosquitto, tmp_path: Path, data: bytes
) -> None:
    config = run_config(broker, tmp_path)
    chunk = {reports.CoordinatorTopics(config.run.name).piece(0): {"version": 1, "crc": crc32(data), "data": data}}
    await retain(config, written(config, 1, bytes=len(data), crc=crc32(data)) | chunk)
    with pytest.raises(CoordinatorError, match="has published no initialization"):
        await fetch(config, 0.3)


async def test_a_model_that_is_not_known_here_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    await retain(config, written(config, 1, model=[["input", 1], ["transformer", 8], ["squared_error"]]))
    with pytest.raises(CoordinatorError, match="the run's model is not known here: no layer is written"):
        await fetch(config, 0.3)


async def test_an_encoding_that_is_not_known_here_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    await retain(config, written(config, 1, encoding="float32"))
    with pytest.raises(CoordinatorError, match="an initialization is encoded as int16 or int8, not as 'float32'"):
        await fetch(config, 0.3)


async def test_malformed_retained_messages_beside_good_ones_are_passed_over(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(broker, tmp_path)
    topics = reports.CoordinatorTopics(config.run.name)
    malformed: dict[str, Any] = {
        topics.device("no-msgpack").status: b"\xc1",
        topics.device("cut-off").status: b"\x82\xa5state",
        topics.device("too-long").status: status(error="x" * 2000),
        topics.device("nested").status: b"\x91" * 1000,
        topics.device("empty-map").status: {},
        topics.device("wrong-type").status: status(ram="plenty"),
        topics.root + "/device/no id/status": status(),
        topics.root + "/device/" + "x" * 33 + "/status": status(),
    }
    good = {topics.device("d0").status: status(), topics.coordinator: RUNNING}
    await retain(config, malformed | good)
    monkeypatch.setattr("coordinator.observer.SILENT_SECONDS", 0.1)
    assert await look(config) == Snapshot(RUNNING | {"state": "silent"}, {"d0": status()})


async def test_a_coordinator_that_left_its_running_status_behind_is_shown_silent(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.observer.SILENT_SECONDS", 1.0)
    gone, there = run_config(broker, tmp_path), run_config(broker, tmp_path)
    dead, alive = (reports.CoordinatorTopics(config.run.name).coordinator for config in (gone, there))
    await retain(gone, {dead: RUNNING | {"run": gone.run.name}, alive: RUNNING | {"run": there.run.name}})

    async def report(stop: asyncio.Event) -> None:
        """As late as a coordinator may be."""
        async with client(there.broker) as session:
            while not stop.is_set():
                await asyncio.sleep(0.7)
                await session.publish(alive, pack(RUNNING | {"run": there.run.name, "updates": 7}), retain=True)

    async with meanwhile(report):
        found = await runs(there.broker)
        snapshots = await look(gone), await look(there)
    assert (found[gone.run.name]["state"], found[there.run.name]["state"]) == ("silent", "running")
    assert [snapshot.coordinator and snapshot.coordinator["state"] for snapshot in snapshots] == ["silent", "running"]
    assert snapshots[1].coordinator
    assert snapshots[1].coordinator["updates"] == 7


@pytest.mark.parametrize("payload", [b"\x07", b"\xc0", b"\x91\x01", b"\xa2ok", b"\xc1"], ids=repr)
async def test_a_malformed_status_of_the_coordinator_is_passed_over(
    broker: Mosquitto, tmp_path: Path, payload: bytes
) -> None:
    config = run_config(broker, tmp_path)
    topics = reports.CoordinatorTopics(config.run.name)
    await retain(config, {topics.coordinator: payload, topics.device("d0").status: status()})
    assert await look(config) == Snapshot(None, {"d0": status()})


async def test_devices_that_talk_all_the_time_do_not_put_off_the_end_of_a_look(
    broker: Mosquitto, tmp_path: Path
) -> None:
    config = run_config(broker, tmp_path)
    topics = reports.CoordinatorTopics(config.run.name)
    await retain(config, {topics.device("d0").status: status()})

    async def talk(stop: asyncio.Event) -> None:
        async with client(config.broker) as session:
            while not stop.is_set():
                await session.publish(topics.device("d1").status, pack(status()), qos=1, retain=True)
                await asyncio.sleep(0.05)

    async with meanwhile(talk):
        snapshot = await asyncio.wait_for(look(config), 6)
    assert snapshot.devices["d0"] == status()
