"""What the broker does not let who looks after boards do: a version that is not sent, a command that is not heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from boards import remote, updates
from boards.errors import BoardError
from boards.updates import Offer
from coordinator import echo
from coordinator.config import Config
from coordinator.errors import DeniedError
from coordinator.mqtt import client, pack
from tests.environment import Mosquitto
from tests.fleet import broker_config, eventually, listening, new_run, run_config
from tinyreptile import messages

ACCESS = """user witness
topic readwrite tinyreptile/#
user announcer
topic read tinyreptile/#
topic write tinyreptile/{run}/software/+
user sender
topic read tinyreptile/#
topic write tinyreptile/{run}/software/+/+
user reader
topic read tinyreptile/#
user writer
topic write tinyreptile/#
"""
OFFER = Offer("x64", 7, bytes(3000))
KEY = "a key of this fleet"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo, "ECHO_SECONDS", 1.0)


@pytest.fixture
def guarded(start_broker: Callable[..., Mosquitto], tmp_path: Path) -> Callable[[str], Config]:
    """A function that gives the configuration of a user of `ACCESS`, for one run at one broker."""
    run = new_run()
    (tmp_path / "access").write_text(ACCESS.format(run=run))
    broker = start_broker("allow_anonymous true", f"acl_file {tmp_path / 'access'}")

    def config(user: str) -> Config:
        return run_config(broker, tmp_path, run, broker=broker_config(broker, user=user).model_dump())

    return config


@pytest.mark.parametrize(
    ("user", "missing"), [("announcer", "software/x64/0"), ("reader", "software/x64/0"), ("sender", "software/x64")]
)
async def test_a_version_that_the_broker_does_not_take_is_told_and_not_announced(
    guarded: Callable[[str], Config], user: str, missing: str
) -> None:
    config = guarded(user)
    topic = messages.RunTopics(config.run.name).software("x64")
    async with listening(guarded("witness").broker, topic) as announced:
        sentence = f"does not retain tinyreptile/{config.run.name}/{missing}, or does not let this client write or"
        with pytest.raises(DeniedError, match=sentence):
            await updates.publish(config, OFFER, KEY)
        async with client(guarded("witness").broker) as session:
            await session.publish(topic, b"end", qos=1)  # the broker keeps the order
        await eventually(lambda: announced and announced[-1].payload == b"end", "all has come")
    assert {message.payload for message in announced} <= {b"", b"end"}


async def test_a_version_that_is_there_is_announced_last(guarded: Callable[[str], Config]) -> None:
    config = guarded("witness")
    topic = messages.RunTopics(config.run.name).software("x64")
    async with listening(config.broker, topic, topic + "/+") as heard:
        await updates.publish(config, Offer("x64", 6, bytes(5000)), KEY)
        await updates.publish(config, OFFER, KEY)
    names = [message.topic.value.removeprefix(topic) for message in heard if message.payload]
    assert names == ["/0", "/1", "/2", "/3", "/4", "", "/0", "/1", "/2", ""]
    assert [message.topic.value.removeprefix(topic) for message in heard if not message.payload] == ["", "", "/3", "/4"]


async def test_a_command_that_is_not_let_through_is_told(guarded: Callable[[str], Config]) -> None:
    config = guarded("reader")
    device = messages.RunTopics(config.run.name).device("board-1")
    with pytest.raises(DeniedError, match=f"does not let this client write or read {device.command}"):
        await remote.log_of(config, "board-1", seconds=1)
    status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "abc", "role": "train"}
    async with client(guarded("witness").broker) as session:
        await session.publish(device.status, pack(status), qos=1, retain=True)
    with pytest.raises(DeniedError, match=f"does not let this client write or read {device.command}"):
        await remote.restart(config, "board-1", seconds=1)
    with pytest.raises(BoardError, match=r"board-1 was told to restart, and is not back yet$"):
        await remote.restart(guarded("witness"), "board-1", seconds=1)
    with pytest.raises(BoardError, match=f"not online, or the broker does not let this client read {device.status};"):
        await remote.restart(guarded("writer"), "board-1", seconds=1)


@pytest.mark.parametrize("lefts", [[5] * 3, [2, 3], [1 << 30, (1 << 30) - 1], [20_000]], ids=str)
async def test_a_log_without_an_end_is_told(broker: Mosquitto, tmp_path: Path, lefts: list[int]) -> None:
    config = run_config(broker, tmp_path)
    device = messages.RunTopics(config.run.name).device("board-1")
    async with client(config.broker) as session:
        await session.subscribe(device.command)
        asked = asyncio.create_task(remote.log_of(config, "board-1", seconds=20))
        await anext(aiter(session.messages))
        for left in lefts:
            await session.publish(device.log, pack({"lines": ["a line"], "left": left}), qos=1)
        with pytest.raises(BoardError, match=r"board-1 does not come to an end with its log: after \d lines it says"):
            await asyncio.wait_for(asked, 5)


async def test_a_log_of_several_messages_is_shown(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    device = messages.RunTopics(config.run.name).device("board-1")
    async with client(config.broker) as session:
        await session.subscribe(device.command)
        asked = asyncio.create_task(remote.log_of(config, "board-1"))
        await anext(aiter(session.messages))
        for left in (2, 1, 0):
            await session.publish(device.log, pack({"lines": [f"line {left}"], "left": left}), qos=1)
        assert await asyncio.wait_for(asked, 5) == ["line 2", "line 1", "line 0"]


async def test_what_a_board_has_had_retained_is_neither_a_log_nor_a_prediction(
    broker: Mosquitto, tmp_path: Path
) -> None:
    config = run_config(broker, tmp_path)
    device = messages.RunTopics(config.run.name).device("board-1")
    async with client(config.broker) as session:
        await session.publish(device.log, pack({"lines": ["a lie"], "left": 0}), qos=1, retain=True)
        await session.publish(device.prediction, pack({"version": 1, "steps": 1, "label": 1}), qos=1, retain=True)
        with pytest.raises(BoardError, match="board-1 does not answer"):
            await remote.log_of(config, "board-1", seconds=0.5)
        heard = remote.predictions(config, "board-1")
        coming = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0.5)
        await session.publish(device.prediction, pack({"version": 2, "steps": 1, "label": 1}), qos=1)
        assert (await asyncio.wait_for(coming, 5))["version"] == 2
