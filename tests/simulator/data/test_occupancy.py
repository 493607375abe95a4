"""Reading the two occupancy archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.data import DATA_SETS, content_digest, occupancy

from .archives import office_archive, room_archive, shared


def test_the_offices_rows_give_the_arrays_of_the_projects_file(tmp_path: Path) -> None:
    path = office_archive(tmp_path, shared("occupancy_office"))
    assert content_digest(occupancy.read_office([path])) == DATA_SETS["occupancy_office"].content


@pytest.mark.parametrize("date_format", ["%Y/%m/%d", "%d-%m-%Y"])
def test_the_rooms_rows_give_the_arrays_of_the_projects_file(tmp_path: Path, date_format: str) -> None:
    path = room_archive(tmp_path, shared("occupancy_room_nodes"), date_format)
    assert content_digest(occupancy.read_room_nodes([path])) == DATA_SETS["occupancy_room_nodes"].content
