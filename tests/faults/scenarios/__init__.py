"""The scenarios of the fault bench, by name."""

from __future__ import annotations

from ..scenario import Scenario
from .bombs import Bombs
from .clock import ClockJumps
from .flood import Flood
from .fuzz import Fuzzing
from .ghosts import BatchGhosts, SerialGhosts
from .hostile import HostileDevices
from .kills import BrokerKills, CoordinatorKills, SwarmKills
from .network import Everything, NetworkFaults
from .recovery import Recovery
from .retained import Forgotten
from .rivals import Rivals
from .sessions import Sessions
from .soak import Soak
from .store import FullDisk, SlowStore
from .zero import ZeroDeltas

SCENARIOS: dict[str, type[Scenario]] = {
    scenario.name: scenario
    for scenario in (
        *(CoordinatorKills, BrokerKills, SwarmKills, NetworkFaults, Everything, Forgotten),
        *(SerialGhosts, BatchGhosts),
        *(FullDisk, SlowStore, ClockJumps, HostileDevices, Rivals),
        *(Recovery, Fuzzing, Flood, Sessions, Bombs, ZeroDeltas, Soak),
    )
}
