"""Group commit: all that is waiting goes into one transaction, in a thread of its own: the service never blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .store import Entry, SQLiteStore

GATHER_SECONDS = 0.01  # how long an update waits for others to share its commit, at most and only under load


class Journal:
    """Writes entries to a store in the order they come; `run` must be a task while it is used."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store
        self._waiting: list[tuple[Entry | None, Callable[[], None] | None]] = []
        self._wake = asyncio.Event()
        self._stopped = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    def append(self, entry: Entry, durable: Callable[[], None] | None = None) -> None:
        """Write ``entry`` soon, and call ``durable`` in the event loop once it would survive a crash."""
        self._waiting.append((entry, durable))
        self._wake.set()

    async def flush(self) -> None:
        """Return once all that was appended before is durable."""
        done = asyncio.Event()
        self._waiting.append((None, done.set))
        self._wake.set()
        await done.wait()

    async def run(self) -> None:
        """Commit until `stop`, and then what is left. Raises `StoreError` if the store fails."""
        try:
            while self._waiting or not self._stopped:
                await self._wake.wait()
                self._wake.clear()
                if await self._commit() > 2 and not self._stopped:
                    await asyncio.sleep(GATHER_SECONDS)  # they come faster than one by one
        finally:
            self._thread.shutdown()

    def stop(self) -> None:
        """Let `run` end once all that was appended is durable."""
        self._stopped = True
        self._wake.set()

    async def _commit(self) -> int:
        """Write what is waiting; returns how many entries that were."""
        batch, self._waiting = self._waiting, []
        entries = [entry for entry, _ in batch if entry is not None]
        if entries:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._store.write, entries)
        for _, durable in batch:
            if durable is not None:
                durable()
        return len(entries)
