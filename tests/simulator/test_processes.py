"""A fleet in processes of its own: what it reports never holds it up, and its loss does not go unnoticed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.service import Coordinator
from simulator import processes as processes_module
from simulator.conditions import Conditions
from simulator.processes import SwarmProcesses

from ..environment import Mosquitto
from ..fleet import eventually
from .test_swarm import config, spec

SLOW = Conditions(think=0.1)
REPORT_SECONDS = 0.001


async def test_reports_that_nobody_reads_hold_up_no_device(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "unread", rounds=250)
    swarm = SwarmProcesses(spec(settings, conditions=SLOW), report_seconds=REPORT_SECONDS)
    swarm.start()
    try:
        async with asyncio.timeout(60):
            status = await Coordinator(settings).run()
    finally:
        counts = await swarm.stop()
    assert status["state"] == "finished"
    assert counts.accepted >= 245  # the last acknowledgements may still be under way
    assert counts.took_part == 6


async def test_a_fleet_whose_password_is_gone_says_so(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "locked-out", rounds=0)
    locked_out = settings.broker.model_copy(update={"user": "u", "password_file": tmp_path / "absent"})
    swarm = SwarmProcesses(replace(spec(settings), broker=locked_out))
    swarm.start()
    try:
        await eventually(lambda: swarm.lost, "its process has ended")
        assert swarm.lost == (
            f"broker.password_file: {tmp_path / 'absent'} can't be read; its first line must be the password"
        )
    finally:
        await swarm.stop()


async def test_a_slow_fleet_lives_past_a_thousand_reports(broker: Mosquitto, tmp_path: Path) -> None:
    settings = config(broker, tmp_path, "reports", rounds=0)
    swarm = SwarmProcesses(spec(settings, conditions=SLOW), report_seconds=REPORT_SECONDS)
    coordinator = Coordinator(settings)
    serving = asyncio.create_task(coordinator.run())
    swarm.start()
    part = swarm._parts[0]
    reports, last = 0, None
    try:
        async with asyncio.timeout(60):
            while reports < 1_200:
                assert swarm.lost is None
                if part.heard != last:
                    reports, last = reports + 1, part.heard
                await asyncio.sleep(0)
            before = swarm.counts().accepted
            while swarm.counts().accepted < before + 20:
                await asyncio.sleep(0.01)
    finally:
        coordinator.stop()
        await serving
        counts = await swarm.stop()
    assert counts.reconnections == 0


async def started(swarm: SwarmProcesses) -> int:
    """The id of the first process of ``swarm``, whose devices are online."""
    swarm.start()
    async with asyncio.timeout(30):
        while swarm.counts().online < 6:
            await asyncio.sleep(0.05)
    pid = swarm._parts[0].process.pid
    assert pid
    return pid


async def lost(swarm: SwarmProcesses) -> str:
    async with asyncio.timeout(10):
        while (what := swarm.lost) is None:
            await asyncio.sleep(0.05)
    return what


async def test_a_process_that_is_killed_is_noticed(broker: Mosquitto, tmp_path: Path) -> None:
    swarm = SwarmProcesses(spec(config(broker, tmp_path, "killed"), evaluators=2), 2)
    pid = await started(swarm)
    try:
        assert swarm.lost is None
        os.kill(pid, signal.SIGKILL)
        assert await lost(swarm) == "the process of 4 simulated devices has ended with SIGKILL"
        assert swarm.running
    finally:
        await swarm.stop()


async def test_a_process_that_falls_silent_is_noticed_and_ended(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "SILENT_SECONDS", 3.0)
    monkeypatch.setattr(processes_module, "STOP_SECONDS", 1.0)
    swarm = SwarmProcesses(spec(config(broker, tmp_path, "silent")))
    pid = await started(swarm)
    try:
        os.kill(pid, signal.SIGSTOP)
        assert await lost(swarm) == "the process of 6 simulated devices has not reported anything for 3 seconds"
    finally:
        await swarm.stop()
    assert not swarm.running


async def test_a_process_that_is_still_starting_is_stopped_at_once(broker: Mosquitto, tmp_path: Path) -> None:
    swarm = SwarmProcesses(spec(config(broker, tmp_path, "early")), 2)
    swarm.start()
    begun = time.monotonic()
    await swarm.stop()
    assert time.monotonic() - begun < 5
    assert not swarm.running
