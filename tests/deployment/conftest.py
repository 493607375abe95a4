"""A fleet and its broker for each test that asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..environment import need_program
from .fleets import FleetBroker


@pytest.fixture
def provisioned(tmp_path: Path) -> Iterator[Callable[..., FleetBroker]]:
    """A function that provisions a fleet in the folder ``fleet`` and starts its broker."""
    need_program("mosquitto")
    started: list[FleetBroker] = []

    def begin(mode: str = "certificates", **fields: Any) -> FleetBroker:
        broker = FleetBroker(tmp_path / "fleet", mode, **fields)
        started.append(broker)
        broker.start()
        return broker

    yield begin
    for broker in started:
        broker.stop()
