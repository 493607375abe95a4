"""What makes a simulated device's life real: time to think, a slow network, connections that break."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tinyreptile.connection import open_connection
from tinyreptile.streams import TRAIN, Stream


@dataclass(frozen=True)
class Conditions:
    """Means of what a device meets; nothing of it by default.

    Attributes:
        think: seconds that one piece of training takes, log-normal with sigma 0.5.
        latency: seconds that everything from the broker is late.
        drop_out: chance that the connection breaks during a piece of training.
        away: seconds until the device may connect again, exponential.
    """

    think: float = 0.0
    latency: float = 0.0
    drop_out: float = 0.0
    away: float = 2.0


class Network:
    """One device's network: `open` stands in for `tinyreptile.connection.open_connection`."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self._conditions = conditions
        self._random = random.Random(seed)
        self._writer: asyncio.StreamWriter | None = None
        self._back_at = 0.0

    async def open(self, host: str, port: int, **options: Any) -> tuple[Any, asyncio.StreamWriter]:
        """A connection under the conditions."""
        if asyncio.get_running_loop().time() < self._back_at:
            raise OSError("the device is away")
        reader, self._writer = await open_connection(host, port, **options)
        if self._conditions.latency:
            return _LateReader(reader, self._conditions.latency), self._writer
        return reader, self._writer

    def drop(self) -> None:
        """Break the connection, as if power or Wi-Fi had gone."""
        self._back_at = asyncio.get_running_loop().time() + self._random.expovariate(1 / self._conditions.away)
        if self._writer is not None:
            self._writer.transport.abort()


class _LateReader:
    """A stream reader whose bytes come ``seconds`` after they arrived, without holding up those behind them."""

    def __init__(self, reader: asyncio.StreamReader, seconds: float) -> None:
        self._late = asyncio.StreamReader()
        loop = asyncio.get_running_loop()

        async def forward() -> None:
            while data := await _read(reader):
                loop.call_later(seconds, self._late.feed_data, data)
            loop.call_later(seconds, self._late.feed_eof)

        self._task = loop.create_task(forward())

    async def read(self, count: int) -> bytes:
        """As asyncio's."""
        return await self._late.read(count)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(4096)
    except OSError:
        return b""


class PacedStream(Stream):
    """A stream whose device takes its time over each piece of training, and may drop out during it."""

    def __init__(self, stream: Stream, conditions: Conditions, network: Network, seed: int) -> None:
        self.inputs, self.outputs = stream.inputs, stream.outputs
        self._stream = stream
        self._conditions = conditions
        self._network = network
        self._random = random.Random(seed)
        self._before_sample: Callable[[], Awaitable[None]] | None = None

    def begin(self, part: str) -> None:
        """A piece of training begins with the time it takes."""
        self._before_sample = self._think if part == TRAIN else None
        self._stream.begin(part)

    async def sample(self, x: memoryview, y: array[int]) -> None:
        """The wrapped stream's next sample."""
        if self._before_sample is not None:
            await self._before_sample()
            self._before_sample = None
        await self._stream.sample(x, y)

    async def _think(self) -> None:
        conditions = self._conditions
        think = conditions.think * self._random.lognormvariate(-0.125, 0.5)
        if self._random.random() < conditions.drop_out:
            await asyncio.sleep(think * self._random.random())
            self._network.drop()
        await asyncio.sleep(think)
