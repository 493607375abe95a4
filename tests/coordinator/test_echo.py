"""A request that has no answer: what the broker does not let through is told apart from a coordinator that is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator import echo, operator
from coordinator.config import Config
from coordinator.echo import check_retained
from coordinator.errors import CoordinatorError, DeniedError
from coordinator.mqtt import client
from coordinator.operator import ask, other_runs, runs
from coordinator.service import Coordinator
from tests.coordinator.packets import Altered
from tests.environment import Mosquitto
from tests.fleet import eventually, new_run, run_config, task
from tinyreptile import reports

StartBroker = Callable[..., Mosquitto]

ACCESS = """user coordinator
topic readwrite tinyreptile/#
user mute
topic read tinyreptile/#
user blind
topic write tinyreptile/{run}/control
topic read tinyreptile/{run}/control/+
topic read tinyreptile/{run}/coordinator
user deaf
topic readwrite tinyreptile/{run}/control
topic read tinyreptile/{run}/coordinator
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(echo, "ECHO_SECONDS", 1.0)


@pytest.fixture
def guarded(start_broker: StartBroker, tmp_path: Path) -> Callable[[str], Config]:
    """A function that gives the configuration of a user of `ACCESS`, for one run at one broker."""
    run = new_run()
    (tmp_path / "access").write_text(ACCESS.format(run=run))
    broker = start_broker("allow_anonymous true", f"acl_file {tmp_path / 'access'}")

    def config(user: str) -> Config:
        return run_config(broker, tmp_path, run, broker={"host": broker.host, "port": broker.port, "user": user})

    return config


async def test_a_request_that_does_not_get_through_is_told(guarded: Callable[[str], Config]) -> None:
    config = guarded("mute")
    topic = f"tinyreptile/{config.run.name}/control"
    with pytest.raises(DeniedError, match=f"does not let this client write or read {topic}, or drops what .* rights"):
        await ask(config, "pause")


async def test_a_queue_that_may_have_dropped_a_message_is_named_beside_the_rights(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    config = run_config(
        start_broker("allow_anonymous true", "max_queued_messages 1", "max_inflight_messages 1"), tmp_path
    )
    coordinator = Coordinator(config)
    async with task(coordinator.run()) as served:
        await eventually(lambda: "max_queued_messages" in coordinator.obstacle, "it says what it lacks")
        assert len(coordinator.obstacle) <= reports.TEXT, "its status has room for it"
        coordinator.stop()
        await served


async def test_an_answer_needs_no_right_to_see_the_request(guarded: Callable[[str], Config]) -> None:
    coordinator = Coordinator(guarded("coordinator"))
    async with task(coordinator.run()) as served:
        await eventually(lambda: not coordinator.obstacle, "it is ready")
        assert await ask(guarded("blind"), "pause") == []
        coordinator.stop()
        await served


async def test_an_answer_that_does_not_get_through_is_told(guarded: Callable[[str], Config]) -> None:
    coordinator = Coordinator(guarded("coordinator"))
    async with task(coordinator.run()) as served:
        await eventually(lambda: not coordinator.obstacle, "it is ready")
        with pytest.raises(CoordinatorError, match=r"it is running; .* or does not let this client read .*/\+$"):
            await ask(guarded("deaf"), "pause")
        assert coordinator.run_state.config.run.paused, "the request did get through"
        coordinator.stop()
        await served
    with pytest.raises(CoordinatorError, match=r"does not answer: it is not running$"):
        await ask(guarded("deaf"), "pause")


async def test_what_a_coordinator_waits_for_is_told(
    guarded: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = Coordinator(guarded("coordinator"))
    async with task(coordinator.run()) as served:
        await eventually(lambda: not coordinator.obstacle, "it is ready")
        monkeypatch.setattr(Coordinator, "store_problem", property(lambda _: "the disk is full"))
        with pytest.raises(CoordinatorError, match=r"does not answer: the disk is full$"):
            await ask(guarded("deaf"), "pause")
        coordinator.stop()
        await served


async def test_what_can_not_be_told_is_said(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    topic = f"tinyreptile/{config.run.name}/control"
    asked = 0

    def down(packet: bytearray) -> bytearray:
        nonlocal asked
        asked += packet[0] == 0x90
        if packet[0] == 0x90 and asked == 2:  # the first is for the answers, the second for the request
            packet[-1] = 0x80
        return bytearray() if packet[0] & 0xF0 == 0x30 else packet

    async with Altered(broker.port, down) as line:
        config.broker.port = line.port
        with pytest.raises(
            CoordinatorError,
            match=f"no run of this name .*; nor is it known whether the broker lets this client write {topic}$",
        ):
            await ask(config, "pause")


async def test_a_list_of_runs_that_is_refused_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)

    def down(packet: bytearray) -> bytearray:
        if packet[0] == 0x90:
            packet[-1] = 0x80
        return packet

    async with Altered(broker.port, down) as line:
        config.broker.port = line.port
        with pytest.raises(DeniedError, match=r"does not let this client read tinyreptile/\+/coordinator"):
            await runs(config.broker)
        assert await other_runs(config.broker) is None


async def test_what_is_not_retained_is_told(guarded: Callable[[str], Config]) -> None:
    config = guarded("blind")
    root = f"tinyreptile/{config.run.name}/control"
    for user, complaint in (("coordinator", None), ("blind", f"does not retain {root}, or does not let this client")):
        async with client(guarded(user).broker) as session:
            await session.publish(root, b"there", qos=1, retain=True)
            if complaint is None:
                await check_retained(session, root, {root: b"there"})
                continue
            with pytest.raises(DeniedError, match=complaint):
                await check_retained(session, root, {root: b"there"})
