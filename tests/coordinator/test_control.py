"""An operator's requests to a running coordinator, over a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import Config
from coordinator.errors import BrokerError, CoordinatorError, StoreUnavailable
from coordinator.mqtt import client, pack
from coordinator.operator import ask, runs
from coordinator.service import Coordinator
from tests.environment import Mosquitto, free_port
from tests.fleet import decoded, eventually, listening, run_config, running_swarm, swarm_spec, task
from tinyreptile import messages, reports


@asynccontextmanager
async def serving(config: Config, devices: int = 3) -> AsyncIterator[Coordinator]:
    """A coordinator at work with a swarm of ``devices``."""
    coordinator = Coordinator(config)
    async with task(coordinator.run()) as run:
        if devices:
            async with running_swarm(swarm_spec(config, devices)):
                await eventually(lambda: coordinator.run_state.updates > 10 or run.done(), "updates are accepted")
                yield coordinator
        else:
            await eventually(lambda: coordinator.run_state.published_version >= 0, "it has published")
            yield coordinator
        coordinator.stop()
        await run


async def told(config: Config, name: str, value: object) -> None:
    """Return once the status of the run says so; it does every second."""
    async with asyncio.timeout(10):
        while (await runs(config.broker))[config.run.name].get(name) != value:
            await asyncio.sleep(0.1)


@pytest.fixture
def config(broker: Mosquitto, tmp_path: Path) -> Config:
    return run_config(broker, tmp_path, run={"rounds": 0}, evaluation={"every": 0})


@pytest.mark.usefixtures("compiled")
async def test_a_run_is_paused_and_resumed(config: Config) -> None:
    async with serving(config) as coordinator:
        run = coordinator.run_state
        assert await ask(config, "pause") == []
        await eventually(lambda: not run.book.open, "what was out has come back")
        updates = run.updates
        await asyncio.sleep(0.2)
        assert run.updates == updates
        await told(config, "paused", True)
        await ask(config, "resume")
        await eventually(lambda: run.updates > updates, "updates are accepted again")


@pytest.mark.usefixtures("compiled")
async def test_settings_change_and_are_told(config: Config) -> None:
    async with serving(config) as coordinator:
        rows = await ask(config, "set", {"learning.steps": 2, "learning.alpha": 0.25})
        assert rows == [
            {"setting": "learning.alpha", "value": 0.25, "configured": 0.3},
            {"setting": "learning.steps", "value": 2, "configured": 4},
        ]
        assert coordinator.run_state.config.learning.steps == 2
        with pytest.raises(CoordinatorError, match=r"learning\.alpha: .* less than or equal to 1"):
            await ask(config, "set", {"learning.alpha": 2})
        assert coordinator._store.settings() == {"learning.alpha": 0.25, "learning.steps": 2}, "durable when answered"
        rows = await ask(config, "set", {"run.paused": True, "learning.alpha": None, "learning.steps": None})
        assert rows == [{"setting": "run.paused", "value": True, "configured": False}], "as it was understood"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"learning.nope": None}, "unknown setting learning.nope"),
        ({"run.model": None}, "run.model can't change while a run is going on"),
        ({"learning.steps": 2, "run.rounds": 3}, "run.rounds: the run has .* updates, it can't end at 3"),
        ({"guards.clip": 10, "guards.refuse": 5}, "refuse, 5, is less than clip, 10"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
@pytest.mark.usefixtures("compiled")
async def test_settings_that_can_not_be_are_told_and_nothing_changes(
    config: Config, arguments: dict[str, Any], complaint: str
) -> None:
    async with serving(config):
        with pytest.raises(CoordinatorError, match=complaint):
            await ask(config, "set", arguments)
        assert await ask(config, "settings") == []
        assert await ask(config, "events") == []


@pytest.mark.usefixtures("compiled")
async def test_a_run_is_rolled_back_and_goes_on(config: Config) -> None:
    async with serving(config) as coordinator:
        run = coordinator.run_state
        assert {"version": 0, "updates": 0} in await ask(config, "versions")
        (row,) = await ask(config, "rollback", {"version": 5})
        await eventually(lambda: run.version > row["version"] + 5, "it learns on")
        events = await ask(config, "events")
        assert [(event["kind"], event["text"]) for event in events] == [("rollback", "to version 5")]
        for version, complaint in (
            *((10**6, "is not earlier|can't be had"), (2**63, "is not earlier"), (2**64 - 1, "is not earlier")),
            *(("x", "a version is a number from 0 on, not 'x'"), (-1, "from 0 on, not -1"), (True, "not true")),
        ):
            with pytest.raises(CoordinatorError, match=complaint):
                await ask(config, "rollback", {"version": version})


@pytest.mark.usefixtures("compiled")
async def test_a_drained_run_ends_and_goes_on_later(config: Config) -> None:
    coordinator = Coordinator(config)
    async with running_swarm(swarm_spec(config, 3)), task(coordinator.run()) as run:
        await eventually(lambda: coordinator.run_state.updates > 10, "updates are accepted")
        await ask(config, "drain")
        status = await asyncio.wait_for(run, 20)
        assert status["state"] == "stopped"
        assert status["in_flight"] == 0
        async with serving(config, devices=0) as again:
            await eventually(lambda: again.run_state.updates > status["updates"], "it goes on")


@pytest.mark.usefixtures("compiled")
async def test_devices_are_listed_put_in_quarantine_and_released(config: Config) -> None:
    async with serving(config) as coordinator:
        rows = await ask(config, "devices")
        assert len(rows) == 3
        device = rows[0]["device"]
        await ask(config, "quarantine", {"ids": [device], "reason": "it stands in the sun"})
        (row,) = await ask(config, "devices", {"ids": [device]})
        assert row["quarantine"] == "it stands in the sun"
        assert coordinator._store.devices()[0].quarantine == "it stands in the sun"
        await ask(config, "release", {"ids": [device]})
        (row,) = await ask(config, "devices", {"ids": [device]})
        assert "quarantine" not in row
        events = await ask(config, "events")
        for command in ("quarantine", "release", "devices"):
            with pytest.raises(CoordinatorError, match="no device nobody has ever joined"):
                await ask(config, command, {"ids": [device, "nobody"]})
        with pytest.raises(CoordinatorError, match="is not in quarantine"):
            await ask(config, "release", {"ids": [device]})
        with pytest.raises(CoordinatorError, match=f"device {device} is online; it would be back at once"):
            await ask(config, "forget", {"ids": [device]})
        assert await ask(config, "events") == events, "nothing has changed"
        await ask(config, "quarantine", {"ids": [device, device]})
        await ask(config, "forget", {"ids": [device]})
        assert [event["kind"] for event in await ask(config, "events")][len(events) :] == ["quarantine", "forget"]
        for arguments in ({}, {"ids": []}, {"ids": "x"}, {"ids": [1]}):
            with pytest.raises(CoordinatorError, match="name at least one device"):
                await ask(config, "forget", arguments)


@pytest.mark.parametrize("joined", [True, False])
async def test_a_forgotten_device_leaves_nothing_at_the_broker(config: Config, joined: bool) -> None:
    topics = reports.CoordinatorTopics(config.run.name).device("gone")
    everything = topics.status.removesuffix("status") + "+"
    status = {"protocol": messages.PROTOCOL, "state": "offline", "boot": "b1"}
    async with client(config.broker) as session, serving(config, devices=0) as coordinator:
        await session.publish(topics.status, pack(status) if joined else b"junk", qos=1, retain=True)
        for topic in (topics.update, topics.evaluation, topics.prediction, topics.log):
            await session.publish(topic, b"junk", qos=1, retain=True)
        await eventually(lambda: coordinator.received.messages["evaluation"], "they have arrived")
        assert ("gone" in coordinator.run_state.registry.devices) == joined
        async with listening(config.broker, everything) as heard:
            await eventually(lambda: len(heard) == 5, "all of it is retained")
        await ask(config, "forget", {"ids": ["gone"]})
        await eventually(lambda: coordinator.sent.messages["cleared"] >= 5, "it is cleared")
        async with listening(config.broker, everything) as heard:
            await asyncio.sleep(0.3)
        assert heard == []
        assert await ask(config, "devices") == []
        with pytest.raises(CoordinatorError, match="a device id is made of letters"):
            await ask(config, "forget", {"ids": ["+"]})


async def test_what_is_retained_where_nothing_is_to_be_is_ignored_and_cleared(config: Config) -> None:
    topics = reports.CoordinatorTopics(config.run.name)
    there = [topics.device("d").update, topics.device("d").evaluation]
    request = pack({"request": 1, "client": "x", "command": "pause"})
    async with client(config.broker) as session:
        for topic in there:
            await session.publish(topic, pack({"work": 1, "error": "of another time"}), qos=1, retain=True)
        await session.publish(topics.control, request, qos=1, retain=True)
        async with serving(config, devices=0) as coordinator:
            await eventually(lambda: coordinator.dropped["retained"] == 3, "they have been passed over")
            await eventually(lambda: coordinator.sent.messages["cleared"] >= 2, "what devices have left is cleared")
            await session.publish(there[0], pack({"work": 1, "error": "retained again"}), qos=1, retain=True)
            await eventually(lambda: coordinator.run_state.refusals["unknown work"] == 1, "what is sent now is heard")
            assert coordinator.dropped["retained"] == 3, "a sender can't have it clear again and again"
            assert coordinator.malformed == 0
            assert not coordinator.run_state.config.run.paused
            async with listening(config.broker, *there) as heard:
                await eventually(lambda: heard, "that is retained")
                assert [message.topic.value for message in heard] == there[:1]


async def test_the_standing_of_devices_that_train_is_told_where_it_is_found(config: Config) -> None:
    async with serving(config, devices=0) as coordinator:
        run = coordinator.run_state
        for name, role in (("bad", "train"), ("good", "train"), ("held-out", "evaluate")):
            run.take_status(name, {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": role})
        run._guards._reputation._standings["bad"] = 0.0
        assert not any("standing" in row for row in await ask(config, "devices"))
        await ask(config, "set", {"guards.reputation": True})
        rows = {row["device"]: row.get("standing") for row in await ask(config, "devices")}
        assert rows == {"bad": 0.0, "good": 1.0, "held-out": None}
        (row,) = await ask(config, "devices", {"ids": ["bad"]})
        assert row["standing"] == 0.0


async def test_a_long_answer_comes_in_several_messages(config: Config) -> None:
    topics = reports.CoordinatorTopics(config.run.name)
    async with serving(config, devices=0) as coordinator:
        for i in range(100):
            status: dict[str, Any] = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": "evaluate"}
            coordinator.run_state.take_status(f"device-{i:03}", status)
        async with listening(config.broker, topics.control + "/+") as heard:
            rows = await ask(config, "devices")
            await eventually(lambda: heard and decoded(heard[-1])["left"] == 0, "all has come")
        assert [row["device"] for row in rows] == [f"device-{i:03}" for i in range(100)]
        assert len(heard) > 1
        assert all(len(bytes(message.payload)) <= reports.MESSAGE_BYTES for message in heard)  # type: ignore[arg-type]


@pytest.mark.parametrize("letter", ["x", "\U0001f98e"])
async def test_the_longest_texts_are_told_as_far_as_they_fit(config: Config, letter: str) -> None:
    text = letter * reports.TEXT
    async with serving(config, devices=0) as coordinator:
        run = coordinator.run_state
        for i in range(3):
            status: dict[str, Any] = {"protocol": messages.PROTOCOL, "state": "unfit", "boot": "b", "role": "evaluate"}
            run.take_status(f"d{i}", status | {"error": text, "notice": text, "platform": text})
            run.registry.devices[f"d{i}"].trouble = text
        await ask(config, "quarantine", {"ids": ["d0"], "reason": text})
        rows = await ask(config, "devices")
        assert [row["device"] for row in rows] == ["d0", "d1", "d2"]
        assert all(row[name].startswith(letter) for row in rows for name in ("error", "notice", "trouble", "platform"))
        with pytest.raises(CoordinatorError, match="no device"):
            await ask(config, "release", {"ids": [text]})
        assert any(letter in row["text"] for row in await ask(config, "events"))


async def test_a_setting_that_is_configured_at_length_is_told_as_far_as_it_fits(config: Config) -> None:
    config.guards.reputation, config.guards.trusted = True, [f"device-{i:03}" for i in range(1000)]
    async with serving(config, devices=0):
        (row,) = await ask(config, "set", {"guards.trusted": ["device-000"]})
    assert row["configured"].startswith("device-000, device-001, ")


async def test_what_is_no_request_is_passed_over(config: Config) -> None:
    topics = reports.CoordinatorTopics(config.run.name)
    async with serving(config, devices=0) as coordinator:
        async with client(config.broker) as session:
            for payload in (b"", b"\xc1", pack({"request": 1}), pack({"request": 1, "client": "+/#", "command": "x"})):
                await session.publish(topics.control, payload, qos=1)
        await eventually(lambda: coordinator.malformed == 4, "all were looked at")
        with pytest.raises(CoordinatorError, match="unknown command dance; known are devices, drain"):
            await ask(config, "dance")


async def test_nobodys_answer_is_told(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.operator.ANSWER_SECONDS", 0.2)
    with pytest.raises(CoordinatorError, match="does not answer: no run of this name has ever been at "):
        await ask(config, "pause")
    config.broker.port = free_port()
    for question in (ask(config, "pause"), runs(config.broker)):
        with pytest.raises(BrokerError, match="no broker answers"):
            await question


# What comes at once


@pytest.mark.usefixtures("compiled")
async def test_less_is_asked_for_while_more_waits_than_is_taken(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = 6
    monkeypatch.setattr(Coordinator, "queues", property(lambda _: {"incoming": (waiting, 10), "journal": (99, None)}))
    coordinator = Coordinator(config)
    run = coordinator.run_state
    async with running_swarm(swarm_spec(config, 3)), task(coordinator.run()):
        await eventually(lambda: run.registry.count("online") == 3, "devices have come")
        await asyncio.sleep(0.3)
        assert (run.updates, run.book.open) == (0, {})
        waiting = 5
        await eventually(lambda: run.updates > 3, "work is handed out again")


@pytest.mark.usefixtures("compiled")
async def test_a_store_that_is_away_is_waited_for_and_nothing_is_acknowledged(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.journal.RETRY_SECONDS", 0.05)
    coordinator = Coordinator(config)
    write = coordinator._store.write
    away = False

    def maybe(entries: Any) -> None:
        if away:
            raise StoreUnavailable("the disk is full")
        write(entries)

    monkeypatch.setattr(coordinator._store, "write", maybe)
    acknowledgements = reports.CoordinatorTopics(config.run.name).root + "/device/+/work"
    run = asyncio.create_task(coordinator.run())
    async with running_swarm(swarm_spec(config, 3)):
        await eventually(lambda: coordinator.run_state.updates > 10 or run.done(), "updates are accepted")
        away = True
        await eventually(lambda: coordinator._journal.problem, "the store is away")
        await asyncio.sleep(0.1)
        in_store = len(list(coordinator._store.accepted_since(0)))
        async with listening(config.broker, acknowledgements) as heard:
            await asyncio.sleep(0.3)
        assert [decoded(message) for message in heard if "done" in decoded(message)] == []
        await told(config, "problem", "the disk is full")
        away = False
        await eventually(lambda: len(list(coordinator._store.accepted_since(0))) > in_store + 5, "it goes on")
        away = True
        await eventually(lambda: coordinator._journal.problem, "the store is away again")
        coordinator.stop()
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await asyncio.wait_for(run, 10)
        monkeypatch.undo()
        async with serving(config, devices=0) as again:
            await eventually(lambda: again.run_state.updates > in_store + 10, "what was not acknowledged came again")


async def test_an_operator_of_one_run_does_not_steer_another(broker: Mosquitto, tmp_path: Path) -> None:
    one, other = run_config(broker, tmp_path), run_config(broker, tmp_path)
    async with serving(one, devices=0) as first, serving(other, devices=0) as second:
        await ask(other, "pause")
        assert not first.run_state.config.run.paused
        assert second.run_state.config.run.paused
        assert {one.run.name, other.run.name} <= set(await runs(one.broker))


def test_the_client_of_a_request_is_one_topic_level() -> None:
    with pytest.raises(messages.MessageError):
        reports.CoordinatorTopics("kitchen").answers("a/b")
