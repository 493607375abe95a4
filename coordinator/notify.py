"""What systemd is told of a service: sd_notify(3), that it has begun, how far it is, that it lives, that it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping

from .runs import Runs

SECONDS = 10.0  # between two words of how far it is

_log = logging.getLogger(__name__)


class Notifier:
    """Says things to the service manager whose socket ``environment`` names; to nobody if it names none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # As often as the manual advises: twice in the time that it waits.
        self.interval = int(usec) / 2e6 if usec.isdecimal() and int(usec) and mine else None

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def say(self, **fields: str) -> None:
        """Send ``fields`` in one datagram; a manager that can't be reached is no reason to stop."""
        # A name that begins with @ is in the abstract name space of Linux, where a zero byte stands for it.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.setblocking(False)
                manager.sendto(message.encode(errors="replace"), address)
        except OSError as error:
            _log.warning("the service manager can't be told (%s)", error)


@contextlib.asynccontextmanager
async def notified(runs: Runs, notifier: Notifier) -> AsyncIterator[None]:
    """While this lasts, systemd is told of ``runs`` from the event loop, which shows that it lives."""
    if not notifier.wanted:
        yield
        return
    telling = asyncio.create_task(_tell(runs, notifier), name="notify")
    try:
        yield
    finally:
        telling.cancel()
        notifier.say(STOPPING="1")


async def _tell(runs: Runs, notifier: Notifier) -> None:
    loop = asyncio.get_running_loop()
    begun = ending = False
    status_at = 0.0
    while True:
        fields = {} if notifier.interval is None else {"WATCHDOG": "1"}
        if not begun and not runs.obstacle:
            begun, status_at = True, 0.0
            fields["READY"] = "1"
        if not ending and runs.failure:
            ending, status_at = True, 0.0
            fields["STOPPING"] = "1"  # from here on systemd waits no longer than TimeoutStopSec
        if loop.time() >= status_at:
            status_at = loop.time() + SECONDS
            fields["STATUS"] = _status(runs)
        if fields:
            notifier.say(**fields)
        await asyncio.sleep(min(notifier.interval or SECONDS, SECONDS if begun else 0.2))


def _status(runs: Runs) -> str:
    """One line for ``systemctl status``."""
    if obstacle := runs.obstacle:
        return obstacle
    states = [served.coordinator.run_state for served in runs.served if served.coordinator is not None]
    return "; ".join(f"{s.config.run.name} at version {s.version}, {s.updates} updates" for s in states)
