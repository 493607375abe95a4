"""Bytes of an update on the wire, as the client packs it, and the RAM that the model states.

An update is whole MQTT PUBLISH packets on their way up: topic, MessagePack envelope with the report, and the coded
delta in its chunks, the mean of several sines; `traffic` has both ways at the broker. The float32 line is what the same
messages would be if the delta went unquantized.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from typing import Any

import msgpack

from coordinator.initialization import encode, random_weights
from simulator.offline import run_now
from simulator.tasks.sine import Sine
from tinyreptile import episodes, messages
from tinyreptile.client import Client
from tinyreptile.coding import Coded
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.streams.sine import SineStream

from .report import Figure, Progress, Result

RUN, DEVICE = "bench", "sine-17"
SINES = 20


class _Capture:
    """Stands in for a client's MQTT session and keeps what it publishes."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    async def publish(self, topic: str, payload: Callable[[memoryview], int]) -> None:
        buffer = bytearray(messages.MESSAGE_BYTES)
        size = payload(memoryview(buffer))
        self.published.append((topic, bytes(buffer[:size])))


def run(quick: bool, progress: Progress) -> Result:
    """Measure."""
    model = Model(Sine.model)
    sizes = {bits: _update(model, bits) for bits in (16, 8, 4)}
    unquantized = _float_update(model)
    figures = [Figure(f"an update on its way up, {model.parameters:,} numbers, float32", _text(*unquantized))]
    for bits, (size, packets) in sizes.items():
        less = unquantized[0] / size
        figures.append(Figure(f"the same, {bits}-bit delta", f"{_text(size, packets)}, {less:.1f} times less"))
    figures.append(Figure("RAM that 1-32-32-1 states (model.ram())", f"{model.ram():,} bytes"))
    raw = {"float32": unquantized[0], **{str(bits): size for bits, (size, _) in sizes.items()}, "ram": model.ram()}
    return Result(figures, raw)


def _text(size: int, packets: int) -> str:
    return f"{size:,} bytes in {packets} packet{'s' * (packets > 1)}"


def _report(gains: list[int]) -> dict[str, Any]:
    return {"version": 12_000, "gains": gains, "loss": 0.731}


def _update(model: Model, bits: int) -> tuple[int, int]:
    """(mean bytes, packets) of updates that the client itself sends, each after a piece of training."""
    learner = Learner(model)
    learner.wire[:] = encode(model, random_weights(model, 1))
    learner.receive()
    learner.set_rate(0.005)
    sizes, packets = [], 0
    for seed in range(SINES):
        learner.load()
        run_now(episodes.train(learner, SineStream(seed), 32))
        client = Client(DEVICE, RUN, SineStream(1), host="", port=0)
        capture = _Capture()
        client.mqtt = capture  # type: ignore[assignment]
        delta = learner.delta(bits)
        work = {"work": 70_000}
        client._work = work
        asyncio.run(client._send_delta(work, Coded(delta), _report(delta.gains)))
        sizes.append(sum(_packet(topic, len(payload)) for topic, payload in capture.published))
        packets = max(packets, len(capture.published))
    return round(statistics.fmean(sizes)), packets


def _float_update(model: Model) -> tuple[int, int]:
    size = 4 * model.parameters
    topics = messages.RunTopics(RUN).device(DEVICE)
    count = messages.chunk_count(size, messages.DELTA_BYTES)
    total = 0
    for index in range(count):
        data = bytes(min(messages.DELTA_BYTES, size - index * messages.DELTA_BYTES))
        message: dict[str, Any] = {"work": 70_000, "chunks": count, "data": data}
        if index == 0:
            message |= _report([])
        else:
            message["part"] = index
        total += _packet(topics.update, len(msgpack.packb(message)))
    return total, count


def _packet(topic: str, payload: int) -> int:
    """Bytes of a PUBLISH packet at QoS 1 (MQTT 3.1.1, section 3.3)."""
    body = 2 + len(topic) + 2 + payload
    return 1 + (1 if body < 128 else 2) + body
