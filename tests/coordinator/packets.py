"""MQTT packets as they come, for brokers that a test plays itself, or alters."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Self


async def packet_from(reader: asyncio.StreamReader) -> bytes:
    """The next MQTT packet of ``reader``."""
    head = await reader.readexactly(2)
    while head[-1] & 128:
        head += await reader.readexactly(1)
    size = sum((byte & 127) << 7 * place for place, byte in enumerate(head[1:]))
    return head + await reader.readexactly(size)


class Altered:
    """A line to a broker on which each packet from it goes through ``down``."""

    def __init__(self, port: int, down: Callable[[bytearray], bytearray]) -> None:
        self._broker, self._down = port, down

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, family=socket.AF_INET)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._broker)
        up = asyncio.create_task(self._up(reader, ours))
        with closing(writer), closing(ours), suppress(EOFError, OSError):
            try:
                while True:
                    writer.write(self._down(bytearray(await packet_from(theirs))))
            finally:
                up.cancel()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
