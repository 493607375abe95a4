"""What docs/security.md says is shown by a test is shown by one that exists."""

from __future__ import annotations

import re

from ..environment import ROOT

DOCS = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_a_threat_is_answered_with_exists() -> None:
    file, found = "", 0
    for name, test in re.findall(r"`(tests/[a-z_/]+\.py)?::(test_\w+)`", DOCS):
        file = name or file
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"
        found += 1
    assert found > 20


def test_every_threat_is_answered_with_a_test() -> None:
    rows = re.findall(r"^\|([^|]+)\|([^|]+)\|([^|]+)\|$", DOCS.split("## Threats")[1], re.MULTILINE)[2:]
    assert len(rows) > 10
    assert [threat for threat, _, shown in rows if "`tests/" not in shown] == []
