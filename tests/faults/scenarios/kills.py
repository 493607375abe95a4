"""Processes that die without a word: the coordinator, the broker, the devices."""

from __future__ import annotations

from typing import Any, ClassVar

from ..bench import Fleet
from ..faults import kill_broker, kill_coordinator, kill_forgetful_broker, kill_swarm
from ..scenario import Scenario


class CoordinatorKills(Scenario):
    """A hundred kill -9 of the coordinator in a run of 20,000 updates."""

    name = "coordinator"
    brief = False
    rounds = (20_000, 1_500)
    faults = ((kill_coordinator, (100, 6)),)


class BrokerKills(Scenario):
    """Twenty kill -9 of the broker; half the time its memory is lost as well. Batches of updates make versions."""

    name = "broker"
    brief = False
    rounds = (4_000, 800)
    faults = ((kill_broker, (10, 2)), (kill_forgetful_broker, (10, 2)))
    settings: ClassVar[dict[str, dict[str, Any]]] = {"learning": {"mode": "batch", "batch": 8}}


class SwarmKills(Scenario):
    """Twenty kill -9 of half the devices; another process takes over their ids."""

    name = "swarm"
    brief = False
    rounds = (4_000, 800)
    fleets = (Fleet(8, 1), Fleet(8, 1))
    faults = ((kill_swarm, (20, 3)),)
