"""What an update costs at the broker: all bytes of all clients, both ways, as Mosquitto itself counts them.

50 simulated devices learn sine in a real run, 32 steps an update, 4-bit deltas, as many at work at once as there are.
Counted are whole MQTT packets of every kind while the run is under way, what the publication for readers takes among
them, between two of the broker's own reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt

from coordinator.config import BrokerConfig, load_config
from coordinator.service import Coordinator
from simulator.conditions import Conditions
from simulator.swarm import Swarm, SwarmSpec

from .report import Figure, Progress, Result
from .service import broker

TARGET = 900
DEVICES = 50
THINK = 0.25  # seconds for a piece of work, a mean
LEARNING: dict[str, Any] = {"mode": "asynchronous", "in_flight": DEVICES, "steps": 32, "bits": 4}
LATENESS = 4  # reports of the broker, one a second, by which all are at work


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    updates = 4000 if quick else 8000
    progress(0.0, f"{updates:,} updates")
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder), "sys_interval 1") as port:
        raw = asyncio.run(_measure(port, Path(folder), updates))
    raw["breakdown"] = {kind: round(size) for kind, size in raw["breakdown"].items()}
    return Result(
        [
            Figure(
                f"at the broker, an update: {way}",
                f"{raw[way]:,.0f} bytes",
                f"≤ {TARGET}",
                raw[way] <= TARGET,
            )
            for way in ("in", "out")
        ]
        + [Figure("of it payloads, by kind", ", ".join(f"{kind} {size}" for kind, size in raw["breakdown"].items()))],
        raw,
    )


async def _measure(port: int, folder: Path, updates: int) -> dict[str, Any]:
    config = load_config(
        overrides={
            "run": {"name": "traffic", "rounds": updates, "store": str(folder / "traffic.sqlite")},
            "broker": {"port": port},
            "learning": LEARNING,
            "evaluation": {"every": 0},
        }
    )
    coordinator = Coordinator(config)
    run = coordinator.run_state
    swarm = Swarm(SwarmSpec("traffic", BrokerConfig(port=port), "sine", DEVICES, conditions=Conditions(think=THINK)))
    stop = asyncio.Event()
    living = asyncio.create_task(swarm.run(stop))
    serving = asyncio.create_task(coordinator.run())
    counts: list[tuple[int, Counter[str]]] = []
    async with _reports(port) as reports:
        async for report in reports:
            if run.updates:
                flows = {f"sent {k}": v for k, v in coordinator.sent.bytes.items()}
                flows |= {f"received {k}": v for k, v in coordinator.received.bytes.items()}
                counts.append((run.updates, Counter(report | flows)))
            if serving.done() or run.updates > updates - 2 * DEVICES:
                break
    await serving
    stop.set()
    await living
    (first, before), (last, after) = counts[LATENESS], counts[-1]
    each = {name: (after[name] - before[name]) / (last - first) for name in after}
    breakdown = {name: size for name, size in each.items() if " " in name and size >= 0.5}
    return {"in": each["received"], "out": each["sent"], "updates": last - first, "breakdown": breakdown}


@contextlib.asynccontextmanager
async def _reports(port: int) -> AsyncIterator[AsyncIterator[dict[str, int]]]:
    """Bytes that the broker has received and sent so far, each time it says so."""

    async def each(session: aiomqtt.Client) -> AsyncIterator[dict[str, int]]:
        found: dict[str, int] = {}
        async for message in session.messages:
            name = message.topic.value.rsplit("/", 1)[1]
            if name in found:
                found = {}
            found[name] = int(bytes(message.payload))
            if len(found) == 2:
                yield dict(found)

    async with aiomqtt.Client("127.0.0.1", port) as session:
        await session.subscribe([(f"$SYS/broker/bytes/{way}", 0) for way in ("received", "sent")])
        yield each(session)
