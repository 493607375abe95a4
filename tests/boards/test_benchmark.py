"""The benchmark of boards, whose packages come with `make test-boards` alone."""

from __future__ import annotations

from pathlib import Path

from tests.commands import check_missing_data


def test_it_says_so_without_the_data_of_its_task(tmp_path: Path) -> None:
    check_missing_data("benchmarks.boards", tmp_path)
