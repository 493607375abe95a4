"""Scenarios can be repeated, and are documented."""

from __future__ import annotations

import random

import pytest

from ..environment import ROOT
from .scenario import Scenario
from .scenarios import SCENARIOS


def tell(text: str) -> None:
    """Nobody."""


@pytest.mark.parametrize("kind", SCENARIOS.values(), ids=SCENARIOS)
def test_the_same_seed_gives_the_same_faults_at_the_same_moments(kind: type[Scenario]) -> None:
    scenario = kind(quick=False, tell=tell)
    moments = [scenario.moments(random.Random(seed), 10_000) for seed in (1, 1, 2)]
    assert moments[0] == moments[1]
    assert moments[0] != moments[2] or not kind.faults
    assert [moment for moment, _ in moments[0]] == sorted(moment for moment, _ in moments[0])
    assert all(0 < moment < 10_000 for moment, _ in moments[0])


def test_every_scenario_is_documented() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    assert [name for name in SCENARIOS if f"`{name}`" not in page] == []
