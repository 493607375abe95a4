"""Logs of a service: which run a record is of, and records as JSON, one a line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

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
