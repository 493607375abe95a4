"""A broker for as long as it is needed, on a free loopback port: Mosquitto if installed, else amqtt in process."""

from __future__ import annotations

import asyncio
import getpass
import logging
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import BrokerError

from .children import end_with_parent

# As in broker_config/mosquitto.conf, which says why.
_CONFIGURATION = """\
# A change of user, which Mosquitto makes when root starts it, would undo its ending with its parent.
user {user}
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 200
max_queued_messages 100000
set_tcp_nodelay true
max_packet_size 65536
log_type error
log_type warning
"""
_START_SECONDS = 10.0


@dataclass(frozen=True)
class EmbeddedBroker:
    """A running broker."""

    host: str
    port: int
    name: str


def find_mosquitto() -> str | None:
    """The path of Mosquitto's executable; Debian keeps it where a user's PATH often does not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


@asynccontextmanager
async def embedded_broker() -> AsyncIterator[EmbeddedBroker]:
    """A broker on loopback that ends with the context; raises `BrokerError` if it does not start."""
    port = _free_port()
    mosquitto = find_mosquitto()
    if mosquitto is None:
        async with _amqtt(port):
            yield EmbeddedBroker("127.0.0.1", port, "amqtt")
        return
    with tempfile.TemporaryDirectory(prefix="tinyreptile-") as folder:
        configuration = Path(folder) / "mosquitto.conf"
        configuration.write_text(_CONFIGURATION.format(port=port, user=getpass.getuser()))
        process = await asyncio.create_subprocess_exec(
            mosquitto,
            "-c",
            str(configuration),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            preexec_fn=end_with_parent(),
            start_new_session=True,  # Ctrl-C ends the coordinator first
        )
        try:
            await _wait_for_port(port, process)
            yield EmbeddedBroker("127.0.0.1", port, "Mosquitto")
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


@asynccontextmanager
async def _amqtt(port: int) -> AsyncIterator[None]:
    try:
        from amqtt.broker import Broker
    except ImportError:
        raise BrokerError(
            "neither Mosquitto nor amqtt is installed; install one (apt-get install mosquitto, or pip install amqtt), "
            "or name a running broker with --broker HOST:PORT"
        ) from None
    for name in ("amqtt", "transitions.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    try:
        yield
    finally:
        await broker.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _wait_for_port(port: int, process: asyncio.subprocess.Process) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + _START_SECONDS
    while loop.time() < end:
        if process.returncode is not None:
            break
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return
    raise BrokerError("Mosquitto did not start; try it by hand with: mosquitto -c broker_config/mosquitto.conf")
