"""The scenarios of the fault bench, by name."""

from __future__ import annotations

from ..scenario import Scenario
from .clock import ClockJumps
from .hostile import HostileDevices
from .kills import BrokerKills, CoordinatorKills, SwarmKills
from .network import Everything, NetworkFaults
from .rivals import Rivals
from .store import FullDisk, SlowStore

SCENARIOS: dict[str, type[Scenario]] = {
    scenario.name: scenario
    for scenario in (
        *(CoordinatorKills, BrokerKills, SwarmKills, NetworkFaults, Everything),
        *(FullDisk, SlowStore, ClockJumps, HostileDevices, Rivals),
    )
}
