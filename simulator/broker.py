"""A broker for as long as it is needed, on a free loopback port: Mosquitto if it is installed, else iotcore."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from coordinator.errors import BrokerError
from tinyreptile.connection import ETIMEDOUT
from tinyreptile.mqtt import MQTTClient

from .children import end, end_with_parent, ending, last_line

# As in broker_config/mosquitto.conf, which says why.
_MOSQUITTO = """\
# A change of user, which Mosquitto makes when root starts it, would undo its ending with its parent.
user {user}
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 200
max_queued_messages 100000
set_tcp_nodelay true
max_packet_size 1664
log_type error
log_type warning
"""
# Of rumqttd, which iotcore holds. It keeps the latest messages of every subscription, read or not: here 3 MiB.
_IOTCORE = """\
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 10000
max_segment_size = 1048576
max_segment_count = 3
[v4.1]
name = "loopback"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 0
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1664
max_inflight_count = 200
dynamic_filters = true
"""
_PORTS = (15_000, 32_000)  # Linux gives 32,768 and above to outgoing connections, other systems 49,152 and above
_START_SECONDS = 30.0
LOOK_SECONDS = 5.0  # between two looks at whether it answers
SILENT_SECONDS = 30.0  # for an answer, on a busy machine, too


@dataclass(frozen=True)
class EmbeddedBroker:
    """A running broker."""

    host: str
    port: int
    name: str
    process: asyncio.subprocess.Process

    async def lost(self) -> str:
        """Return, once the broker's process has ended or answers nobody any more, what became of it."""
        ended = asyncio.ensure_future(self.process.wait())
        try:
            while not (await asyncio.wait([ended], timeout=LOOK_SECONDS))[0]:
                looking = MQTTClient(self.host, self.port, "tinyreptile-look", _nothing, timeout=SILENT_SECONDS)
                try:
                    await looking.connect()
                    await looking.disconnect()
                except OSError as error:
                    if error.errno == ETIMEDOUT:
                        return f"the broker, {self.name}, has not answered for {SILENT_SECONDS:.0f} seconds"
            return f"the broker, {self.name}, has ended with {ending(await ended)}"
        finally:
            ended.cancel()


def _nothing(topic: str, payload: memoryview, retained: bool) -> None:
    """Take no message: none was subscribed to."""


def find_mosquitto() -> str | None:
    """Return the path of Mosquitto's executable; Debian keeps it where a user's PATH often does not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


@contextlib.asynccontextmanager
async def embedded_broker() -> AsyncIterator[EmbeddedBroker]:
    """Start a broker on loopback that ends with the context; raises `BrokerError` if it does not start.

    To a new subscription of QoS 1 iotcore sends no more than 100 retained messages, of those that it has.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tinyreptile-") as folder:
        name, command = _command(Path(folder), port)
        log = Path(folder) / "broker.log"
        with log.open("wb") as file:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=file,
                    preexec_fn=end_with_parent(),
                    start_new_session=True,  # Ctrl-C ends the coordinator first
                )
            except OSError as error:
                raise _did_not_start(name, f"{command[0]}: {error.strerror}") from None
        try:
            if not await _listens(port, process):
                raise _did_not_start(name, last_line(log))
            yield EmbeddedBroker("127.0.0.1", port, name, process)
        finally:
            await end(process)


def _did_not_start(name: str, reason: str) -> BrokerError:
    return BrokerError(
        f"{name} did not start{f' ({reason})' if reason else ''}; "
        "start a broker by hand, and name it with --broker HOST:PORT"
    )


def _command(folder: Path, port: int) -> tuple[str, list[str]]:
    """(name, command) of the broker that is installed, with its configuration in ``folder``."""
    if (mosquitto := find_mosquitto()) is not None:
        configuration = folder / "mosquitto.conf"
        configuration.write_text(_MOSQUITTO.format(port=port, user=getpass.getuser()))
        return "Mosquitto", [mosquitto, "-c", str(configuration)]
    if find_spec("iotcore") is None:
        raise BrokerError(
            "neither Mosquitto nor iotcore is installed; install one (apt-get install mosquitto, or "
            "pip install 'tinyreptile[swarm]'), or name a running broker with --broker HOST:PORT"
        )
    configuration = folder / "iotcore.toml"
    configuration.write_text(_IOTCORE.format(port=port))
    options = ["--config", str(configuration), "--log-level", "CRITICAL"]  # else it prints what clients send
    # -P: a file iotcore.py of the user's is not meant.
    return "iotcore", [sys.executable, "-P", "-m", "iotcore", *options]


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on.

    It lies below those that systems give to outgoing connections, one of which could otherwise take it meanwhile.
    """
    while True:
        port = random.randrange(*_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


async def _listens(port: int, process: asyncio.subprocess.Process) -> bool:
    """Wait until something listens at ``port``; False if ``process`` ends first, or takes too long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _START_SECONDS
    while loop.time() < end and process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return True
    return False
