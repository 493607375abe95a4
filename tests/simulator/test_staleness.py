"""Updates are as stale as the devices' own times make them: a real swarm against the simulated clock of the study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import staleness
from coordinator.service import Coordinator
from coordinator.store import Store
from simulator.conditions import Conditions
from tests.environment import Mosquitto
from tests.fleet import finish, run_config, running_swarm, swarm_spec

DEVICES, IN_FLIGHT, ROUNDS = 40, 20, 600
THINK = 0.2


@pytest.mark.usefixtures("compiled")
async def test_a_swarm_s_updates_are_hardly_staler_than_on_the_simulated_clock(
    broker: Mosquitto, tmp_path: Path
) -> None:
    config = run_config(
        broker,
        tmp_path,
        run={"rounds": ROUNDS},
        learning={"in_flight": IN_FLIGHT, "publish_interval": 1.0},
        evaluation={"every": 0},
    )
    async with running_swarm(swarm_spec(config, DEVICES, conditions=Conditions(think=THINK))):
        await finish(Coordinator(config))
    store = Store(config.store_location(), config.run.name)
    rows = list(store.accepted_since(ROUNDS // 4))
    store.close()
    ideal = staleness.offline((ROUNDS,), THINK, IN_FLIGHT)["staleness"]
    assert IN_FLIGHT - 2 < ideal < IN_FLIGHT
    assert np.mean([row.tau for row in rows]) < staleness.TARGET * ideal
    assert len({row.version for row in rows}) > 0.8 * len(rows), "nearly each began from a version of its own"
