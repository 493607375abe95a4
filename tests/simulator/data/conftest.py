"""Fixtures of the data tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .server import Server

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server of the test's own, which serves half a megabyte."""
    running = Server(CONTENT)
    yield running
    running.close()
