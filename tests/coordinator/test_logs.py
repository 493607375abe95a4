"""Records as JSON: one object a line, with a time that every program reads and the run that it is of."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from coordinator.logs import MOST_RECORDS, JsonFormatter, RunFilter, SenderFilter, TextFormatter, of_run


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    return logger(JsonFormatter())


def logger(formatter: logging.Formatter) -> tuple[logging.Logger, io.StringIO]:
    """A logger of the test's own, and what it writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(RunFilter())
    handler.setFormatter(formatter)
    made = logging.Logger("coordinator.test")
    made.addHandler(handler)
    return made, written


def objects(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_record_is_an_object(log: tuple[logging.Logger, io.StringIO]) -> None:
    with of_run("kitchen"):
        log[0].warning('a "quoted"\nmessage of %d lines, in Zürich', 2)
    (record,) = objects(log[1])
    time = datetime.fromisoformat(record.pop("time"))
    assert time.tzinfo == UTC
    assert abs(time - datetime.now(UTC)) < timedelta(seconds=60)
    assert record == {
        "level": "warning",
        "logger": "coordinator.test",
        "run": "kitchen",
        "message": 'a "quoted"\nmessage of 2 lines, in Zürich',
    }
    assert objects(log[1])[0]["time"].endswith("Z")


def test_a_record_of_no_run_names_none(log: tuple[logging.Logger, io.StringIO]) -> None:
    with of_run("kitchen"), of_run("hall"):
        pass
    log[0].error("x")
    assert "run" not in objects(log[1])[0]


def test_an_exception_is_in_its_record(log: tuple[logging.Logger, io.StringIO]) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log[0].exception("it failed")
    (record,) = objects(log[1])
    assert record["message"] == "it failed"
    assert record["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert record["exception"].splitlines()[-1] == "ZeroDivisionError"


def test_text_begins_with_the_run() -> None:
    made, written = logger(TextFormatter())
    with of_run("kitchen"):
        made.warning("one")
    made.warning("two")
    assert written.getvalue() == "run kitchen: one\ntwo\n"


# Records that somebody else causes


class Causes:
    """A logger whose records have senders."""

    def __init__(self) -> None:
        self.now = 0.0
        self._log, self._written = logger(logging.Formatter())
        self._log.handlers[0].addFilter(SenderFilter(lambda: self.now))

    def tell(self, sender: str, count: int = 1, kind: str = "bad: %s") -> list[str]:
        """What is written of ``count`` records that ``sender`` causes."""
        before = len(self._written.getvalue())
        for i in range(count):
            self._log.warning(kind, i, extra={"sender": sender})
        return self._written.getvalue()[before:].splitlines()


def test_what_a_sender_causes_is_told_once_and_counted() -> None:
    causes = Causes()
    assert causes.tell("a", 1000) == ["bad: 0"]
    assert causes.tell("b", 10) == ["bad: 0"]
    assert causes.tell("a", 10, "worse: %s") == ["worse: 0"]
    causes.now = 61.0
    assert causes.tell("a", 2) == ["bad: 0 (999 more since it was last told)"]
    causes.now = 200.0
    assert causes.tell("b") == ["bad: 0 (9 more since it was last told)"]


def test_many_senders_are_told_of_up_to_a_limit() -> None:
    causes = Causes()
    assert sum(len(causes.tell(f"x{i}")) for i in range(30_000)) == MOST_RECORDS
    causes.now = 61.0
    assert len(causes.tell("another")) == 1


def test_records_without_a_sender_are_all_told() -> None:
    causes = Causes()
    for _ in range(3):
        causes._log.warning("the same")
    assert causes.tell("a") == ["bad: 0"]
    assert causes._written.getvalue().count("the same") == 3
