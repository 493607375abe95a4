"""Group commit: all that is waiting goes into one transaction, in a thread of its own: the service never blocks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from .entries import Entry, Forgotten, Known
from .errors import StoreUnavailable, failure_text
from .histogram import Histogram

_log = logging.getLogger(__name__)

GATHER_SECONDS = 0.01  # how long an update waits for others to share its commit, at most and only under load
RETRY_SECONDS = 1.0  # after a store was not to be used; doubled each time
MAX_RETRY_SECONDS = 15.0
# Bounds of what is told of the transactions.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ENTRIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Writer(Protocol):
    """What a journal needs of a store."""

    def write(self, entries: list[Entry]) -> None:
        """Write ``entries`` in one transaction."""


class Journal:
    """Writes entries to a store in the order they come; `run` must be a task while it is used.

    A store that can't be used for a while, with its disk full or its server away, is tried again and again with the
    same entries: nothing is said to be durable before it is, and nothing is given up.

    Attributes:
        problem: why nothing can be written just now; empty if it can.
        failure: why nothing will be written any more; empty if that is not known.
        seconds, entries: of each transaction.
    """

    def __init__(self, store: Writer) -> None:
        self._store = store
        self.problem = self.failure = ""
        self.seconds, self.entries = Histogram(SECONDS), Histogram(ENTRIES)
        self._waiting: list[tuple[Entry | None, Callable[[], None] | None]] = []
        self._devices: dict[str, int] = {}  # where in `_waiting` each device's entry is
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    @property
    def waiting(self) -> int:
        """Entries that are not under way to the store yet."""
        return len(self._waiting)

    def append(self, entry: Entry, durable: Callable[[], None] | None = None) -> None:
        """Write ``entry`` soon, and call ``durable`` in the event loop once it would survive a crash.

        What is known of a device comes without ``durable``.
        """
        if isinstance(entry, Known | Forgotten):
            # Of a device only the last word counts, so that one that changes its mind for ever takes no memory.
            if (at := self._devices.get(entry.device)) is not None:
                self._waiting[at] = (entry, None)
                return
            self._devices[entry.device] = len(self._waiting)
        self._waiting.append((entry, durable))
        self._wake.set()

    async def flush(self) -> None:
        """Return once all that was appended before is durable."""
        done = asyncio.Event()
        self._waiting.append((None, done.set))
        self._wake.set()
        await done.wait()

    async def run(self) -> None:
        """Commit until `stop`, and then what is left; raises `StoreError` if the store fails for good or then."""
        try:
            while self._waiting or not self._stopped.is_set():
                await self._wake.wait()
                self._wake.clear()
                if await self._commit() > 2 and not self._stopped.is_set():
                    await asyncio.sleep(GATHER_SECONDS)  # they come faster than one by one
        except Exception as error:
            self.failure = failure_text(error)
            raise
        finally:
            self._thread.shutdown()

    def stop(self) -> None:
        """Let `run` end once all that was appended is durable; a store that is away is not waited for any more."""
        self._stopped.set()
        self._wake.set()

    async def _commit(self) -> int:
        """Write what is waiting; returns how many entries that were."""
        batch, self._waiting, self._devices = self._waiting, [], {}
        entries = [entry for entry, _ in batch if entry is not None]
        if entries:
            await self._write(entries)
        for _, durable in batch:
            if durable is not None:
                durable()
        return len(entries)

    async def _write(self, entries: list[Entry]) -> None:
        loop = asyncio.get_running_loop()
        seconds = RETRY_SECONDS
        while True:
            try:
                await loop.run_in_executor(self._thread, self._timed_write, entries)
            except StoreUnavailable as error:
                if self._stopped.is_set():
                    raise
                if str(error) != self.problem:
                    _log.error("%s; trying again until it can", error)
                self.problem = str(error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._stopped.wait()
                seconds = min(MAX_RETRY_SECONDS, seconds * 2)
            else:
                if self.problem:
                    _log.warning("the store can be used again")
                self.problem = ""
                return

    def _timed_write(self, entries: list[Entry]) -> None:
        begun = time.perf_counter()
        self._store.write(entries)
        self.seconds.add(time.perf_counter() - begun)
        self.entries.add(len(entries))
