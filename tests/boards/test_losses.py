"""A board loses its Wi-Fi and its broker again and again, at random moments, and no update that was acknowledged."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
from pathlib import Path

import pytest

from boards import flash
from boards.board import Board
from coordinator.service import Coordinator

from ..environment import Mosquitto
from ..fleet import eventually, run_config
from ..host.desk import Desk

LOSSES = int(os.environ.get("TINYREPTILE_LOSSES", "4"))
BACK_SECONDS = 90.0  # sessions that do not last come less and less often, a minute apart at most
HEAP = "96wK"  # as many words as 96 KiB have on a board

# A driver whose access point is the file "air" in the flash: it is there, or not.
NETWORK = """
import os
STA_IF = 0
STAT_NO_AP_FOUND = -2
def _air():
    try:
        os.stat("air")
        return True
    except OSError:
        return False
class WLAN:
    PM_POWERSAVE = 2
    def __init__(self, interface):
        self._up = False
    def active(self, on):
        self._up = False
    def config(self, pm):
        pass
    def connect(self, ssid, password):
        self._up = _air()
    def isconnected(self):
        self._up = self._up and _air()
        return self._up
    def status(self):
        return 0 if _air() else STAT_NO_AP_FOUND
"""


class Gateway:
    """A way to the broker that can be cut: what goes over it then is lost, and nobody new comes in."""

    def __init__(self, broker: Mosquitto) -> None:
        self._broker = broker
        self._pipes: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.open = True
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self) -> None:
        self.open = False
        for pipe in self._pipes:
            pipe.transport.abort()
        self._pipes.clear()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        out_reader, out_writer = await asyncio.open_connection(self._broker.host, self._broker.port)
        self._pipes |= {writer, out_writer}
        await asyncio.gather(self._pump(reader, out_writer), self._pump(out_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.transport.abort()


@pytest.mark.timeout(120 + 90 * LOSSES)
async def test_a_board_survives_losses_one_after_the_other(
    broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "coordinator.run")
    chance = random.Random(5)
    gateway = Gateway(broker)
    config = run_config(
        broker, tmp_path, run={"rounds": 0}, learning={"steps": 16, "deadline": 120}, evaluation={"every": 0}
    )
    folder = tmp_path / "flash"
    folder.mkdir()
    (folder / "network.py").write_text(NETWORK)
    (folder / "air").touch()
    async with await gateway.start():
        device = {"id": "board", "run": config.run.name, "host": "127.0.0.1", "port": gateway.port}
        settings = {**device, "stream": {"kind": "sine", "seed": 1}, "wifi": {"ssid": "home"}, "keepalive": 5}
        coordinator = Coordinator(config)
        with Desk(folder, heap=HEAP) as desk:
            await asyncio.to_thread(_flash, desk, settings)
            run = asyncio.create_task(coordinator.run())
            try:
                await eventually(lambda: coordinator.run_state.updates >= 3, "it has joined")
                for _ in range(LOSSES):
                    await asyncio.sleep(chance.uniform(0.0, 1.0))
                    if chance.random() < 0.5:
                        (folder / "air").unlink()
                    gateway.cut()
                    await asyncio.sleep(chance.uniform(0.0, 0.3))
                    gateway.open = True
                    (folder / "air").touch()
                    before = coordinator.run_state.updates
                    await eventually(
                        lambda before=before: coordinator.run_state.updates > before, "it is back", BACK_SECONDS
                    )
            finally:
                told = await asyncio.to_thread(_interrupt, desk)
                coordinator.stop()
                status = await run
            assert desk.starts == 2, "it restarted on the way"
    counted = int(re.search(r"board: (\d+) accepted, 0 refused, 0 expired", told).group(1))  # type: ignore[union-attr]
    assert status["updates"] == coordinator.run_state.registry.devices["board"].accepted
    # The last one's acknowledgement may have met a device that was interrupted.
    assert counted in (status["updates"], status["updates"] - 1)
    assert set(status["refusals"]) <= {"repeated", "device error"}, status["refusals"]
    # Work that a loss met in the middle of its fetch is given back.
    errors = [record.getMessage() for record in caplog.records if record.msg == "device %s: %s"]
    assert len(errors) == status["refusals"].get("device error", 0)
    assert all(": the connection was lost during the fetch: " in error for error in errors), errors


def _flash(desk: Desk, settings: dict[str, object]) -> None:
    with Board(desk.port) as board:
        board.stop()
        flash.install(board, flash.plan(board.about(), {}, {}))
        board.write(flash.CONFIG, json.dumps(settings).encode())
        board.restart()


def _interrupt(desk: Desk) -> str:
    """What the board says last when it is stopped."""
    with Board(desk.port) as board:
        board._transport.serial.write(b"\x03")
        return "\n".join(line for line in board.follow(5) if " accepted, " in line)
