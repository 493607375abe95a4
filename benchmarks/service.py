"""Accepted updates per second over Mosquitto on loopback: the service against a bare pair of aiomqtt clients.

The service is the coordinator with its store in one process, and 100 simulated devices, each the real client with an
MQTT session of its own, in another; one step an update, 4-bit deltas, asynchronous, 100 requests in flight. The pair
(`benchmarks.pair`) exchanges messages of the same sizes, topics and number and does nothing else. What the messages are
is not guessed: a first run is listened to. Runs of both alternate, each with published versions as often as the
service's run before it, and the figures are medians of their ratios. The rate of the service is that of the devices as
well, which share the machine with it; how much the coordinator itself does, beside sending and receiving, is seen from
its processor time. A round trip is the time from a request's turn
in the coordinator's outbox to its update taken: with 100 always in flight it is 100 / rate, not the least there can be.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiomqtt
import numpy as np

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.service import Coordinator
from coordinator.versions import Version
from simulator.broker import find_mosquitto, free_port
from simulator.swarm import Swarm, SwarmSpec
from tinyreptile import messages

from . import pair
from .pair import Setting, Traffic
from .report import Figure, Progress, Result, Unavailable

TARGET = 0.2  # of the bare pair's updates in a processor second
DEVICES = 100
START_SECONDS = 180.0  # in which the processes of a run have to be there, on a busy machine, too

Beside = Callable[[Coordinator], contextlib.AbstractAsyncContextManager[None]]

# No limit on messages in flight or queued: 100 devices have far more than the default of 20 and 1,000.
_BROKER = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
log_type error
"""

_processes = multiprocessing.get_context("spawn")


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    rounds, seconds = (2, 2.0) if quick else (5, 6.0)
    pairs = []
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as port:
        setting = Setting(port, "bench-0", DEVICES, 1.0, 2.0)
        progress(0.0, "listening to a run's messages")
        traffic = _listen(setting, Path(folder))
        for i in range(rounds):
            setting = Setting(port, f"bench-{i + 1}", DEVICES, 1.0, seconds)
            progress((i + 0.2) / rounds, "the service")
            real = measure(setting, Path(folder))
            traffic = replace(traffic, versions=real["versions"])  # as often as this very run had them
            progress((i + 0.6) / rounds, "the bare pair")
            bare = _pair(replace(setting, run=f"pair-{i + 1}"), traffic)
            pairs.append((real, bare))
    ratio = statistics.median(real["rate"] / bare["rate"] for real, bare in pairs)
    work = statistics.median(bare["cpu_us"] / real["cpu_us"] for real, bare in pairs)
    microseconds = [statistics.median(side["cpu_us"] for side in sides) for sides in zip(*pairs, strict=True)]
    rates = [statistics.median(side["rate"] for side in sides) for sides in zip(*pairs, strict=True)]
    trips = [_round_trips(sides) for sides in zip(*pairs, strict=True)]
    return Result(
        [
            Figure(f"service, {DEVICES} devices: accepted updates/s", f"{rates[0]:,.0f}"),
            Figure("bare aiomqtt pair, the same messages: updates/s", f"{rates[1]:,.0f}"),
            Figure("service / pair", f"{ratio:.2f}"),
            Figure("updates in a second of the coordinator's processor time", f"{1e6 / microseconds[0]:,.0f}"),
            Figure("the same of the pair's side", f"{1e6 / microseconds[1]:,.0f}"),
            Figure("service / pair", f"{work:.2f}", f"≥ {TARGET:g}", work >= TARGET),
            Figure("round trip of the service, p50 / p99", trips[0]),
            Figure("round trip of the pair, p50 / p99", trips[1]),
        ],
        {
            "ratio": ratio,
            "processor": work,
            "traffic": vars(traffic),
            "runs": [[_without_trips(side) for side in sides] for sides in pairs],
        },
    )


def _round_trips(sides: tuple[dict[str, Any], ...]) -> str:
    p50, p99 = (statistics.median(float(np.quantile(side["round_trips"], q)) for side in sides) for q in (0.5, 0.99))
    return f"{p50 * 1000:.0f} / {p99 * 1000:.0f} ms"


def _without_trips(side: dict[str, Any]) -> dict[str, Any]:
    trips = np.asarray(side["round_trips"])
    quantiles = {f"p{q}": float(np.quantile(trips, q / 100)) for q in (50, 99)}
    return {name: value for name, value in side.items() if name != "round_trips"} | quantiles


@contextlib.contextmanager
def broker(folder: Path, *settings: str) -> Iterator[int]:
    """A Mosquitto of our own, with further lines of ``settings``; gives its port."""
    found = find_mosquitto()
    if found is None:
        raise Unavailable("Mosquitto is not installed; apt-get install mosquitto, or brew install mosquitto")
    port = free_port()
    configuration = folder / "mosquitto.conf"
    configuration.write_text(_BROKER.format(port=port) + "".join(f"{line}\n" for line in settings))
    with subprocess.Popen([found, "-c", str(configuration)], stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            else:
                raise Unavailable("Mosquitto did not start")
            yield port
        finally:
            process.terminate()


@contextlib.contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """``target`` in a process of its own, and a pipe to it; it ends with the block."""
    mine, its = _processes.Pipe()
    process = _processes.Process(target=target, args=(*arguments, its))
    process.start()
    its.close()
    try:
        yield mine
        process.join(20)
    finally:
        if process.is_alive():
            process.terminate()
        process.join()


def receive(pipe: Connection, seconds: float) -> Any:
    """What a child has sent; raises `RuntimeError` if nothing comes in ``seconds``."""
    if not pipe.poll(seconds):
        raise RuntimeError(f"nothing came of a run in {seconds:.0f} s")
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError("a process of the run ended early; its error stands above") from None


# The service


def measure(setting: Setting, folder: Path, beside: Beside | None = None) -> dict[str, Any]:
    """A run of the service in processes of its own; what goes on in the coordinator's is in ``beside`` (picklable)."""
    with child(_devices, setting) as devices, child(_coordinator, setting, folder, beside) as coordinator:
        result: dict[str, Any] = receive(coordinator, START_SECONDS + setting.seconds)
        devices.send("stop")
        return result


def _config(setting: Setting, folder: Path) -> Config:
    learning = {"mode": "asynchronous", "in_flight": setting.devices, "steps": 1, "bits": 4}
    return load_config(
        overrides={
            "run": {"name": setting.run, "rounds": 0, "store": str(folder / f"{setting.run}.sqlite")},
            "broker": {"port": setting.port},
            "learning": learning,
            "evaluation": {"every": 0},
        }
    )


def _coordinator(setting: Setting, folder: Path, beside: Beside | None, pipe: Connection) -> None:
    async def serve() -> None:
        coordinator = Coordinator(_config(setting, folder))
        run = coordinator.run_state
        versions = 0
        published = run.published

        def count(version: Version) -> dict[str, Any]:
            nonlocal versions
            versions += 1
            return published(version)

        run.published = count  # type: ignore[method-assign]
        async with beside(coordinator) if beside else contextlib.nullcontext():
            serving = asyncio.create_task(coordinator.run())
            while run.registry.count("online") < setting.devices and not serving.done():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            measuring = asyncio.create_task(pair.window(setting, lambda: run.updates, run.round_trips))
            await asyncio.wait([serving, measuring], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                raise RuntimeError("the coordinator ended early") from serving.exception()
            pipe.send(measuring.result() | {"versions": versions / run.updates, "refusals": dict(run.refusals)})
            coordinator.stop()
            await serving

    asyncio.run(serve())


def _devices(setting: Setting, pipe: Connection) -> None:
    async def live() -> None:
        swarm = Swarm(SwarmSpec(setting.run, BrokerConfig(port=setting.port), "sine", setting.devices))
        stop = asyncio.Event()
        living = asyncio.create_task(swarm.run(stop))
        stopped = asyncio.create_task(asyncio.to_thread(pipe.recv))
        await asyncio.wait([living, stopped], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await living

    asyncio.run(live())


def _listen(setting: Setting, folder: Path) -> Traffic:
    """What messages a run sends, as a third client hears them."""
    sizes: dict[str, list[int]] = defaultdict(list)

    async def hear() -> None:
        root = messages.RunTopics(setting.run).root
        async with aiomqtt.Client("127.0.0.1", setting.port) as session:
            await session.subscribe(root + "/#", qos=1)
            async for message in session.messages:
                levels = message.topic.value.removeprefix(root + "/").split("/")
                kind = levels[2] if levels[0] == "device" else "/".join(levels)
                sizes[kind].append(len(message.payload) if isinstance(message.payload, bytes) else 0)

    async def hear_all(coordinator: Connection) -> None:
        hearing = asyncio.create_task(hear())
        await asyncio.to_thread(receive, coordinator, START_SECONDS + setting.seconds)
        hearing.cancel()

    with child(_devices, setting) as devices, child(_coordinator, setting, folder, None) as coordinator:
        asyncio.run(hear_all(coordinator))
        devices.send("stop")
    means = {kind: round(statistics.fmean(all_sizes)) for kind, all_sizes in sizes.items()}
    pieces = sorted(kind for kind in means if kind.startswith("init/"))
    words = len(sizes["work"]) / len(sizes["update"])
    return Traffic(means["work"], means["update"], means["init"], words, tuple(means[kind] for kind in pieces), 0.0)


# The pair


def _pair(setting: Setting, traffic: Traffic) -> dict[str, Any]:
    with (
        child(pair.answer, setting, traffic) as devices,
        child(pair.coordinate, setting, traffic) as coordinator,
    ):
        coordinator.send(receive(devices, 30))
        result: dict[str, Any] = receive(coordinator, START_SECONDS + setting.seconds)
        devices.send("stop")
        return result
