"""Who answers for what is no message of the protocol: the owner of the topic that it came on, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import Config
from coordinator.mqtt import pack
from coordinator.service import Coordinator
from tinyreptile import messages

from .driver import configuration

GARBAGE = {
    "no MessagePack": b"\xc1",
    "an end too early": b"\x85\xa4work",
    "no map": pack([1, 2]),
    "no work": pack({"chunks": 1}),
    "work 0": pack({"work": 0}),
    "work of text": pack({"work": "1"}),
    "work beyond all": pack({"work": 1 << 31}),
    "nested too deep": b"\x91" * 600 + b"\xc0",
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configuration(tmp_path / "run.sqlite", guards={"strikes": 5})


@pytest.fixture
def coordinator(config: Config) -> Iterator[Coordinator]:
    """A coordinator to which messages come without a broker; a and b have joined."""
    coordinator = Coordinator(config)
    for name in "ab":
        hello(coordinator, name)
    yield coordinator
    coordinator._store.close()


def hello(coordinator: Coordinator, name: str, **fields: Any) -> None:
    status = {"protocol": messages.PROTOCOL, "state": "online", "boot": "b1", "role": "train"} | fields
    coordinator._take(coordinator._topics.device(name).status, pack(status))


@pytest.mark.parametrize("payload", GARBAGE.values(), ids=list(GARBAGE))
@pytest.mark.parametrize("kind", ["status", "update", "evaluation"])
def test_who_sends_no_messages_is_put_in_quarantine(coordinator: Coordinator, kind: str, payload: bytes) -> None:
    topic = getattr(coordinator._topics.device("a"), kind)
    devices = coordinator.run_state.registry.devices
    for _ in range(4):
        coordinator._take(topic, payload)
    assert not devices["a"].quarantine
    coordinator._take(topic, payload)
    assert devices["a"].quarantine.startswith("5 messages refused, the last for: ")
    for _ in range(5):
        coordinator._take(topic, payload)
    assert (devices["a"].strikes, coordinator.malformed) == (5, 10)
    assert coordinator.run_state.refusals["malformed"] == 10
    assert coordinator.run_state.events["quarantine"] == 1
    assert (devices["b"].strikes, devices["b"].quarantine) == (0, "")


def test_single_flips_are_made_up_for(coordinator: Coordinator) -> None:
    device = coordinator.run_state.registry.devices["a"]
    for _ in range(20):
        coordinator._take(coordinator._topics.device("a").update, b"\xc1")
        assert device.strikes == 1
        assert not device.resting
        device.strikes -= 1  # as an update that is taken does, see test_operation
    assert not device.quarantine


def test_nobody_makes_another_device_strike(coordinator: Coordinator) -> None:
    """Whatever a device sends where it may write, and whoever's work it names."""
    run = coordinator.run_state
    run.published(run.newest())
    run.next_work()
    (work,) = run.book.open.values()
    other = "b" if work.device == "a" else "a"
    topics = coordinator._topics.device(other)
    named = [pack({"work": work.id, **fields}) for fields in ({}, {"data": 5}, {"chunks": 0}, {"error": ""})]
    for payload in [*GARBAGE.values(), *named]:
        for topic in (topics.status, topics.update, topics.evaluation):
            coordinator._take(topic, payload)
    assert run.registry.devices[other].quarantine
    victim = run.registry.devices[work.device]
    assert (victim.strikes, victim.refused, victim.quarantine) == (0, 0, "")
    assert work.id in run.book.open


def test_strangers_and_operators_have_no_strikes(coordinator: Coordinator) -> None:
    topics = coordinator._topics
    for topic in (topics.device("stranger").update, topics.control, topics.root + "/device/no.id/update"):
        for payload in GARBAGE.values():
            coordinator._take(topic, payload)
    assert sorted(coordinator.run_state.registry.devices) == ["a", "b"]
    assert not any(device.strikes for device in coordinator.run_state.registry.devices.values())
    assert coordinator.malformed == 3 * len(GARBAGE)


def test_what_a_newer_device_may_say_is_no_strike(coordinator: Coordinator) -> None:
    hello(coordinator, "a", protocol=messages.PROTOCOL + 1, state="dreaming", dreams=["sheep"])
    coordinator._take(coordinator._topics.device("a").status, b"")
    assert coordinator.run_state.registry.devices["a"].strikes == 0
