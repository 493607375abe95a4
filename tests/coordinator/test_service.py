"""The service over a real broker with real clients: runs end, whatever breaks on the way, and all counts agree."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

import coordinator.service
import coordinator.versions
from coordinator.config import Config
from coordinator.errors import BrokerError, CoordinatorError, StoreError
from coordinator.initialization import held
from coordinator.mqtt import client
from coordinator.observer import watch
from coordinator.service import Coordinator
from coordinator.store import Store
from coordinator.versions import Version
from simulator.conditions import Conditions
from tests.environment import Mosquitto, free_port, need_program
from tests.fleet import (
    BIG,
    broker_config,
    clients,
    decoded,
    eventually,
    finish,
    hostile_payloads,
    listening,
    new_run,
    run_config,
    running_swarm,
    states,
    swarm_spec,
    task,
)
from tinyreptile import messages, reports
from tinyreptile.learner import Learner

pytestmark = pytest.mark.usefixtures("compiled")

StartBroker = Callable[..., Mosquitto]


def accepted_rows(config: Config) -> int:
    """Accepted updates on disk."""
    store = Store(config.store_location(), config.run.name)
    try:
        return sum(1 for _ in store.accepted_since(0))
    finally:
        store.close()


@pytest.mark.parametrize("mode", ["serial", "asynchronous", "batch"])
async def test_a_run_goes_to_its_end_and_devices_and_coordinator_count_the_same(
    broker: Mosquitto, tmp_path: Path, mode: str
) -> None:
    config = run_config(broker, tmp_path, learning={"mode": mode, "batch": 6})
    async with running_swarm(swarm_spec(config, 8, 3)) as swarm:
        coordinator = Coordinator(config)
        status = await finish(coordinator)
        await eventually(lambda: swarm.counts().accepted == 60, "devices have all their acknowledgements")
        evaluations = coordinator.run_state.evaluations.summaries
        await eventually(
            lambda: swarm.counts().evaluations == sum(e["devices"] for e in evaluations),
            "held-out devices have all their acknowledgements",
        )
    assert status["state"] == "finished"
    assert status["updates"] == 60
    assert status["version"] == (10 if mode == "batch" else 60)
    assert accepted_rows(config) == 60
    assert [e["updates"] // 25 for e in evaluations] == [1, 2, 2]
    assert evaluations[-1]["updates"] == 60
    assert swarm.counts().malformed == coordinator.malformed == 0


async def test_every_device_has_its_share_of_the_work(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 120}, learning={"in_flight": 2})
    async with running_swarm(swarm_spec(config, 6)) as swarm:
        coordinator = Coordinator(config)
        await finish(coordinator)
        shares = [device.accepted for device in coordinator.run_state.registry.devices.values()]
        await eventually(lambda: swarm.counts().accepted == 120, "devices have all their acknowledgements")
    assert len(shares) == 6
    assert min(shares) >= 10


async def test_the_coordinators_topic_shows_that_it_runs_and_that_it_has_finished(
    broker: Mosquitto, tmp_path: Path
) -> None:
    config = run_config(broker, tmp_path)
    topics = reports.CoordinatorTopics(config.run.name)
    async with listening(config.broker, topics.coordinator) as received, running_swarm(swarm_spec(config, 4)):
        await finish(Coordinator(config))
        await eventually(lambda: "finished" in states(received), "the last status has come")
    assert states(received)[0] == "running"


async def test_a_connection_that_is_lost_at_the_very_end_does_not_leave_a_finished_run_as_offline(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(broker, tmp_path)
    report, lost = Coordinator._report, [aiomqtt.MqttError("lost"), TimeoutError("stalled")]

    async def lose(self: Coordinator, session: aiomqtt.Client, state: str) -> None:
        if state == "finished" and lost:
            raise lost.pop()
        await report(self, session, state)

    monkeypatch.setattr(Coordinator, "_report", lose)
    async with running_swarm(swarm_spec(config, 4)):
        await finish(Coordinator(config))
    assert not lost
    async with listening(config.broker, reports.CoordinatorTopics(config.run.name).coordinator) as received:
        await eventually(lambda: states(received) == ["finished"], "that is what is retained")


async def test_a_broker_that_ends_during_the_first_publication_is_noticed(
    start_broker: StartBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = start_broker()
    coordinator = Coordinator(run_config(broker, tmp_path))
    newest = coordinator.run_state.newest

    def and_gone() -> Version:
        monkeypatch.undo()
        broker.stop()  # what is published next is never acknowledged
        broker.start()
        return newest()

    monkeypatch.setattr(coordinator.run_state, "newest", and_gone)
    async with task(coordinator.run()):
        await eventually(lambda: coordinator.reconnections == 1, "it is connected again")
        await eventually(lambda: not coordinator.obstacle, "its version is on the wire")


async def test_a_broker_that_restarts_does_not_end_the_run(start_broker: StartBroker, tmp_path: Path) -> None:
    broker = start_broker()
    config = run_config(broker, tmp_path, run={"rounds": 200}, learning={"deadline": 6})
    async with running_swarm(swarm_spec(config, 8, 2, conditions=Conditions(think=0.05))) as swarm:
        coordinator = Coordinator(config)
        async with task(finish(coordinator, 90)) as run:
            await eventually(lambda: coordinator.run_state.updates >= 40, "the run is under way")
            await asyncio.to_thread(broker.stop)
            assert not run.done()
            await asyncio.to_thread(broker.start)
            status = await run
        await eventually(lambda: 200 - 8 <= swarm.counts().accepted <= 200, "the counts agree")
    assert status["updates"] == 200
    assert accepted_rows(config) == 200
    assert swarm.counts().reconnections >= 8


async def test_a_stopped_coordinator_goes_on_where_it_was(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 120})
    async with running_swarm(swarm_spec(config, 6, 2, conditions=Conditions(think=0.02))) as swarm:
        first = Coordinator(config)
        async with task(finish(first)) as run:
            await eventually(lambda: first.run_state.updates >= 30, "the run is under way")
            first.stop()
            status = await run
        assert status["state"] == "stopped"
        assert status["updates"] < 120
        second = Coordinator(config)
        assert second.run_state.version == status["version"]
        assert second.run_state.weights.tobytes() == first.run_state.weights.tobytes()
        assert (await finish(second))["updates"] == 120
        await eventually(lambda: swarm.counts().accepted == 120, "devices have all their acknowledgements")
    assert accepted_rows(config) == 120


async def test_a_cancelled_coordinator_loses_nothing_that_it_acknowledged(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 120})
    async with running_swarm(swarm_spec(config, 6, conditions=Conditions(think=0.1))) as swarm:
        first = Coordinator(config)
        run = asyncio.create_task(first.run())
        await eventually(lambda: first.run_state.updates >= 30, "the run is under way")
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
        second = Coordinator(config)
        assert second.run_state.updates >= swarm.counts().accepted
        await finish(second)
        # Each device may have lost one acknowledgement with the first coordinator, and got new work since.
        await eventually(lambda: 120 - 6 <= swarm.counts().accepted <= 120, "the counts agree")
    assert accepted_rows(config) == 120


async def test_a_killed_coordinator_is_shown_offline_and_its_run_goes_on(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 150})
    topic = reports.CoordinatorTopics(config.run.name).coordinator
    (tmp_path / "config.json").write_text(config.model_dump_json())
    program = (
        "import asyncio, pathlib, sys; from coordinator.config import Config; "
        "from coordinator.service import Coordinator; "
        "asyncio.run(Coordinator(Config.model_validate_json(pathlib.Path(sys.argv[1]).read_text())).run())"
    )
    async with (
        listening(config.broker, topic) as received,
        running_swarm(swarm_spec(config, 5, conditions=Conditions(think=0.1))) as swarm,
    ):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "config.json")])
        try:
            await eventually(lambda: swarm.counts().accepted >= 20, "the run is under way")
        finally:
            os.kill(process.pid, signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        await eventually(lambda: states(received)[-1:] == ["offline"], "the last will has come")
        assert received[-1].topic.value == topic
        counted = swarm.counts().accepted
        coordinator = Coordinator(config)
        assert counted <= coordinator.run_state.updates < 150
        assert (await finish(coordinator))["updates"] == 150
        await eventually(lambda: 150 - 5 <= swarm.counts().accepted <= 150, "the counts agree")
    assert accepted_rows(config) == 150


async def test_another_swarm_takes_over_from_one_that_died(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 100}, learning={"deadline": 2})
    coordinator = Coordinator(config)
    async with task(finish(coordinator)) as run:
        async with running_swarm(swarm_spec(config, 6, 2, prefix="old", conditions=Conditions(think=0.05))) as old:
            await eventually(lambda: coordinator.run_state.updates >= 30, "the run is under way")
            for device in clients(old):
                device.mqtt._writer.transport.abort()
        assert not run.done()
        async with running_swarm(swarm_spec(config, 6, 2, prefix="new")) as new:
            status = await run
            await eventually(lambda: new.counts().accepted >= 100 - coordinator_share(coordinator, "old"), "counted")
    assert status["updates"] == 100
    assert coordinator_share(coordinator, "new") >= 1
    assert coordinator_share(coordinator, "new") == new.counts().accepted


def coordinator_share(coordinator: Coordinator, prefix: str) -> int:
    devices = coordinator.run_state.registry.devices.values()
    return sum(device.accepted for device in devices if device.id.startswith(prefix))


async def test_the_same_swarm_started_anew_is_not_held_up_by_its_dead_start(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 80}, learning={"deadline": 600})
    coordinator = Coordinator(config)
    async with task(finish(coordinator)) as run:
        async with running_swarm(swarm_spec(config, 6, conditions=Conditions(think=0.05))) as old:
            await eventually(lambda: coordinator.run_state.updates >= 20, "the run is under way")
            for device in clients(old):
                device.mqtt._writer.transport.abort()
        async with running_swarm(swarm_spec(config, 6)):
            assert (await run)["updates"] == 80


async def test_hostile_messages_on_every_topic_change_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 240})
    topics = reports.CoordinatorTopics(config.run.name)
    device = topics.device("sine-0")
    stranger = topics.device("stranger")
    attacks: list[tuple[str, bytes]] = []
    for topic, fields in (
        (device.status, reports.STATUS),
        (stranger.status, reports.STATUS),
        (stranger.update, reports.UPDATE),
        (stranger.evaluation, reports.FOUND),
        (device.evaluation, reports.FOUND),
        (topics.root + "/device/no.id/update", reports.UPDATE),
        (topics.root + "/device/sine-0/update/0", reports.UPDATE),
        (topics.root + "/device/" + "x" * 33 + "/status", reports.STATUS),
        (device.work, messages.WORK),
        (device.work, reports.PIECE),
        (topics.init, messages.MANIFEST),
        (topics.piece(0), reports.PIECE),
        (topics.piece(999), reports.PIECE),
        (topics.init + "/x", reports.PIECE),
        (topics.init + "/-1", reports.PIECE),
    ):
        attacks += [(topic, payload) for payload in hostile_payloads(fields)]
    coordinator = Coordinator(config)
    everything = topics.root + "/device/+/update"
    async with (
        listening(config.broker, everything) as heard,
        client(config.broker) as session,
        running_swarm(swarm_spec(config, 5, 1, conditions=Conditions(think=0.15))) as swarm,
        task(finish(coordinator, 90)) as run,
    ):
        await eventually(lambda: coordinator.run_state.updates >= 10, "the run is under way")
        old = [message for message in heard if isinstance(message.payload, bytes)]
        for message in old:
            await session.publish(message.topic.value, message.payload)
        for topic, payload in attacks:
            await session.publish(topic, payload)
        assert not run.done()
        assert coordinator.run_state.updates < 240, "the attack came too late to prove anything"
        status = await run
        await eventually(lambda: swarm.counts().accepted == 240, "devices have all their acknowledgements")
        assert sum(device.mqtt.oversized for device in clients(swarm)) > 0
    assert status["updates"] == 240
    assert accepted_rows(config) == 240
    assert coordinator.run_state.refusals["repeated"] >= len(old) // 2
    assert coordinator.malformed > 500
    assert swarm.counts().malformed > 100
    assert set(coordinator.run_state.registry.devices) == {*(f"sine-{i}" for i in range(5)), "sine-unseen-0"}


@pytest.mark.parametrize(("encoding", "latency"), [("int16", 0.0), ("int8", 0.0), ("int8", 0.06)])
async def test_devices_never_mix_versions_while_versions_change_quickly(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, latency: float
) -> None:
    made: set[bytes] = set()
    loaded: list[bytes] = []
    load = Learner.load

    def recorded(*arguments: Any) -> bytes:
        cells = held(*arguments)
        made.add(cells)
        return cells

    def recorded_load(learner: Learner) -> None:
        loaded.append(bytes(learner.initialization))
        load(learner)

    monkeypatch.setattr(coordinator.versions, "held", recorded)
    monkeypatch.setattr(Learner, "load", recorded_load)
    config = run_config(
        broker,
        tmp_path,
        run={"model": BIG, "rounds": 100},
        learning={"publish_interval": 0, "steps": 1, "in_flight": 8, "encoding": encoding},
        evaluation={"every": 0},
    )
    async with running_swarm(swarm_spec(config, 8, conditions=Conditions(latency=latency))) as swarm:
        serving = Coordinator(config)
        status = await finish(serving)
        await eventually(lambda: swarm.counts().accepted == 100, "devices have all their acknowledgements")
    assert status["updates"] == 100
    assert len(made) > 10
    assert len(loaded) >= 100
    assert set(loaded) <= made
    assert len(set(loaded)) > 50, "nearly every update begins from a version of its own"
    assert "device error" not in status["refusals"]


async def test_no_broker_is_told_in_one_sentence(tmp_path: Path) -> None:
    port = free_port()
    config = Config.model_validate({"broker": {"port": port}, "run": {"store": tmp_path / "x.sqlite"}})
    with pytest.raises(BrokerError, match=f"no broker answers at 127.0.0.1:{port} .*start Mosquitto or name another"):
        await finish(Coordinator(config))


async def test_a_wrong_password_is_told_in_one_sentence(start_broker: StartBroker, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    command = [need_program("mosquitto_passwd"), "-b", "-c", str(passwords), "anna", "right"]
    subprocess.run(command, check=True, capture_output=True)
    broker = start_broker("allow_anonymous false", f"password_file {passwords}")
    for word in ("right", "wrong"):
        (tmp_path / word).write_text(word + "\n")
    config = run_config(broker, tmp_path, run={"rounds": 1})
    for password_file, user in ((tmp_path / "wrong", "anna"), (tmp_path / "right", "berta"), (None, None)):
        config.broker = broker_config(broker, user=user, password_file=password_file)
        with pytest.raises(BrokerError, match=r"refused the connection .*check --user and --password-file"):
            await finish(Coordinator(config))
    config.broker = broker_config(broker, user="anna", password_file=tmp_path / "right")
    async with running_swarm(swarm_spec(config, 1)):
        assert (await finish(Coordinator(config)))["updates"] == 1


async def test_a_second_coordinator_on_the_same_store_is_told_so(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    first = Coordinator(config)
    async with task(first.run()):
        with pytest.raises(StoreError, match="is in use: another coordinator serves this run"):
            await asyncio.to_thread(Coordinator, config)
        first.stop()


async def test_a_store_that_fails_ends_the_run_with_its_reason(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(broker, tmp_path)
    serving = Coordinator(config)

    def full(entries: Any) -> None:
        raise StoreError("the disk is full")

    async with running_swarm(swarm_spec(config, 3)):
        monkeypatch.setattr(serving._store, "write", full)
        with pytest.raises(StoreError, match="the disk is full"):
            await finish(serving)


async def test_devices_that_come_before_the_coordinator_wait_for_it(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 10, "name": new_run()})
    async with running_swarm(swarm_spec(config, 3)) as swarm:
        await eventually(lambda: swarm.counts().online == 3, "the devices are connected")
        assert (await finish(Coordinator(config)))["updates"] == 10


async def test_a_coordinator_that_fails_is_shown_to_have_failed(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 0})
    topic = reports.CoordinatorTopics(config.run.name).coordinator
    coordinator = Coordinator(config)
    run = asyncio.create_task(coordinator.run())
    async with listening(config.broker, topic) as heard:
        await eventually(lambda: heard and decoded(heard[-1])["state"] == "running", "it serves")

        def fail() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(coordinator.run_state, "expire", fail)
        with pytest.raises(ZeroDivisionError):
            await run
        await eventually(lambda: decoded(heard[-1])["state"] == "failed", "it is not shown as running any more")


async def test_credentials_that_can_not_be_read_leave_no_store(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    config.broker.password_file = tmp_path / "absent"
    with pytest.raises(CoordinatorError, match="absent can't be read"):
        Coordinator(config)
    assert list(tmp_path.iterdir()) == []


async def test_a_password_that_is_missing_at_a_reconnection_is_waited_for(
    start_broker: StartBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator.service, "MAX_BACKOFF", 0.5)
    passwords = tmp_path / "passwords"
    command = [need_program("mosquitto_passwd"), "-b", "-c", str(passwords), "anna", "right"]
    subprocess.run(command, check=True, capture_output=True)
    broker = start_broker("allow_anonymous false", f"password_file {passwords}")
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    config = run_config(broker, tmp_path)
    config.broker = broker_config(broker, user="anna", password_file=secret)
    watched: list[str] = []

    def looking_on() -> list[str]:
        return [record.message for record in caplog.records if record.name == "coordinator.observer"]

    serving = Coordinator(config)
    async with task(serving.run()) as run:
        await eventually(lambda: not serving.obstacle, "it is ready")
        watching = asyncio.create_task(
            watch(config.run.name, config.broker, lambda status, retained: watched.append(status["state"]))
        )
        await eventually(lambda: watched, "somebody looks on")
        broker.stop()
        for content in (None, "", "wrong\n"):  # it is missing, not written yet, of another account
            caplog.clear()
            secret.unlink()
            if content is not None:
                secret.write_text(content)
            broker.start()
            # Brokers differ in what they answer to a wrong password.
            said = re.compile("Bad user name|Not authorized" if content == "wrong\n" else "secret can't be read")
            await eventually(lambda said=said: said.search(caplog.text), "it says so")  # type: ignore[misc]
            assert said.search(serving.obstacle), "and so does /readyz"
            if content != "":  # of one reason it warns once
                await eventually(lambda said=said: any(map(said.search, looking_on())), "who looks on does")  # type: ignore[misc]
            assert not run.done()
            broker.stop()
            secret.write_text("")
        secret.write_text("right\n")
        broker.start()
        await eventually(lambda: not serving.obstacle, "it is ready again")
        watched.clear()
        await eventually(lambda: watched, "who looks on still does")
        watching.cancel()
        serving.stop()
        await run
