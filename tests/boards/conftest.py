"""The runners, each of them had before its first test."""

from __future__ import annotations

import pytest

from ..environment import require
from .debian import DebianError
from .firmware import BuildError
from .runners import RUNNERS, Runner


@pytest.fixture(scope="session", params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Runner:
    """Every MicroPython in turn; one that is not to be had here is skipped, with the reason."""
    runner = RUNNERS[request.param]
    try:
        runner.obtain()
    except (DebianError, BuildError) as error:
        require(False, f"{runner.name}: {error}")
    return runner
