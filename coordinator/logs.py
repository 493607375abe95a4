"""Logs of a service: which run a record is of, and records as JSON, one a line."""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

QUIET_SECONDS = 60.0  # between two records that somebody else causes, of a kind and a sender
MOST_RECORDS = 100  # of all senders in as many seconds
_REMEMBERED = 10_000  # senders and kinds

_run: ContextVar[str] = ContextVar("run", default="")


@contextmanager
def of_run(name: str) -> Iterator[None]:
    """What is logged in this context, and by tasks that begin in it, is of the run ``name``."""
    token = _run.set(name)
    try:
        yield
    finally:
        _run.reset(token)


class RunFilter(logging.Filter):
    """Puts the run's name into each record, as ``run``; empty where it is of none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        record.run = _run.get()
        return True


class SenderFilter(logging.Filter):
    """Of records with a ``sender``, who caused them, let one of a kind pass a minute, with a count of the others.

    Of all senders together it lets `MOST_RECORDS` a minute pass. So nobody who sends messages can fill a disk with what
    is said of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()  # when last, how many since
        self._minute, self._count = -QUIET_SECONDS, 0  # when it began, how many it has

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is told."""
        sender = getattr(record, "sender", None)
        if sender is None:
            return True
        key, now = (sender, str(record.msg)), self._clock()
        then, count = self._told.pop(key, (-QUIET_SECONDS, 0))
        if now - self._minute >= QUIET_SECONDS:
            self._minute, self._count = now, 0
        told = now - then >= QUIET_SECONDS and self._count < MOST_RECORDS
        self._count += told
        self._told[key] = (now, 0) if told else (then, count + 1)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        if told and count:
            record.msg = f"{record.msg} ({count} more since it was last told)"
        return told


class TextFormatter(logging.Formatter):
    """A record's message, after the run's name."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and an exception if there is one."""
        run = getattr(record, "run", "")
        return f"run {run}: {super().format(record)}" if run else super().format(record)


class JsonFormatter(logging.Formatter):
    """A record as a JSON object: time (RFC 3339, UTC), level, logger, run, message, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": getattr(record, "run", ""),
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False)
