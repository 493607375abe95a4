"""Devices that seem to be there and never answer, where one of them could hold up all: serial and batch runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ..faults import Fault, add_ghosts, kill_coordinator
from ..scenario import Scenario


class SerialGhosts(Scenario):
    """Ten times more devices that are gone than living ones, in a serial run whose coordinator is killed, too."""

    name = "ghosts"
    brief = False
    rounds = (3_000, 600)
    faults: ClassVar[Sequence[tuple[Fault, tuple[int, int]]]] = ((add_ghosts, (6, 2)), (kill_coordinator, (5, 1)))
    settings: ClassVar[dict[str, dict[str, Any]]] = {"learning": {"mode": "serial"}}


class BatchGhosts(SerialGhosts):
    """The same in a run with batches of twelve."""

    name = "batch-ghosts"
    settings: ClassVar[dict[str, dict[str, Any]]] = {"learning": {"mode": "batch", "batch": 12}}
