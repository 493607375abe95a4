"""One run, one coordinator; and what a coordinator makes of devices of another protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import service
from coordinator.config import Config, load_config
from coordinator.errors import CoordinatorError
from coordinator.service import Coordinator
from tinyreptile import messages

from ..environment import Mosquitto, free_port
from ..faults.proxy import Proxy
from ..fleet import eventually
from .driver import Driver


def config(broker: Mosquitto, path: Path, run: str) -> Config:
    return load_config(
        None, {"run": {"name": run, "store": path}, "broker": {"host": broker.host, "port": broker.port}}
    )


async def test_a_second_coordinator_with_a_store_of_its_own_stands_down(broker: Mosquitto, tmp_path: Path) -> None:
    told = asyncio.Event()
    first = Coordinator(config(broker, tmp_path / "a.sqlite", "alone"), on_status=lambda status: told.set())
    running = asyncio.create_task(first.run())
    await asyncio.wait_for(told.wait(), 20)
    second = Coordinator(config(broker, tmp_path / "b.sqlite", "alone"))
    with pytest.raises(CoordinatorError, match="another coordinator serves run alone at this broker"):
        await asyncio.wait_for(second.run(), 20)
    first.stop()
    assert (await running)["state"] == "stopped"


async def test_a_coordinator_whose_place_was_taken_while_it_was_cut_off_stands_down(
    broker: Mosquitto, tmp_path: Path
) -> None:
    line = Proxy(free_port(), broker.port, seed=1)
    await line.start()
    told = [asyncio.Event(), asyncio.Event()]
    cut_off = config(broker, tmp_path / "a.sqlite", "taken")
    cut_off.broker.port = line.port
    first = Coordinator(cut_off, on_status=lambda status: told[0].set())
    second = Coordinator(config(broker, tmp_path / "b.sqlite", "taken"), on_status=lambda status: told[1].set())
    running = asyncio.create_task(first.run())
    await asyncio.wait_for(told[0].wait(), 20)
    cut = asyncio.create_task(line.cut(60))
    other = asyncio.create_task(second.run())
    await asyncio.wait_for(told[1].wait(), 20)
    cut.cancel()
    line.let_through()
    with pytest.raises(CoordinatorError, match="another coordinator serves run taken at this broker"):
        await asyncio.wait_for(running, 40)
    second.stop()
    assert (await other)["state"] == "stopped"
    await line.stop()


async def test_a_coordinator_goes_on_after_its_network_was_cut(broker: Mosquitto, tmp_path: Path) -> None:
    line = Proxy(free_port(), broker.port, seed=1)
    await line.start()
    states: list[str] = []
    settings = config(broker, tmp_path / "a.sqlite", "cut")
    settings.broker.port = line.port
    coordinator = Coordinator(settings, on_status=lambda status: states.append(status["state"]))
    running = asyncio.create_task(coordinator.run())
    for _ in range(2):
        seen = len(states)
        await eventually(lambda seen=seen: len(states) > seen + 1, "it says that it runs")  # type: ignore[misc]
        await line.cut(0)
    seen = len(states)
    await eventually(lambda: len(states) > seen + 1, "it says so again")
    coordinator.stop()
    assert (await running)["state"] == "stopped"
    await line.stop()


async def test_a_coordinator_ends_though_its_connection_is_lost_with_its_last_words(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LAST_SECONDS", 1.0)
    line = Proxy(free_port(), broker.port, seed=1)
    await line.start()
    told = asyncio.Event()
    settings = config(broker, tmp_path / "a.sqlite", "words")
    settings.broker.port = line.port
    coordinator = Coordinator(settings, on_status=lambda status: told.set())
    running = asyncio.create_task(coordinator.run())
    await asyncio.wait_for(told.wait(), 20)
    silence = asyncio.create_task(line.hold(60))
    await asyncio.sleep(0)
    coordinator.stop()
    await asyncio.sleep(0.3)
    await line.cut(0)
    assert (await asyncio.wait_for(running, 20))["state"] == "stopped"
    silence.cancel()
    await line.stop()


async def test_a_coordinator_goes_on_where_another_one_has_stopped(broker: Mosquitto, tmp_path: Path) -> None:
    for _ in range(2):
        told = asyncio.Event()
        coordinator = Coordinator(config(broker, tmp_path / "c.sqlite", "after"), on_status=lambda s, t=told: t.set())  # type: ignore[misc]
        running = asyncio.create_task(coordinator.run())
        await asyncio.wait_for(told.wait(), 20)
        coordinator.stop()
        assert (await running)["state"] == "stopped"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"protocol": 9}, f"it speaks protocol 9, this coordinator {messages.PROTOCOL}"),
        ({"role": "spy"}, "its role is neither train nor evaluate"),
    ],
)
def test_a_device_that_does_not_belong_gets_no_work(fields: dict[str, object], problem: str, tmp_path: Path) -> None:
    driver = Driver(tmp_path / "run.sqlite")
    driver.advance()
    driver.run.take_status(
        "d0", {"protocol": messages.PROTOCOL, "state": "online", "boot": "b", "role": "train", "work": 0} | fields
    )
    driver.advance()
    assert driver.requests("d0") == []
    assert (driver.run.registry.devices["d0"].state, driver.run.registry.devices["d0"].error) == ("unfit", problem)
    driver.close()
