"""Histograms count each value once, below the first bound that it does not exceed."""

from __future__ import annotations

from math import inf

from coordinator.histogram import Histogram


def test_a_value_at_a_bound_belongs_to_it() -> None:
    histogram = Histogram((0, 1, 5))
    for value in (0, 1, 1.5, 5, 5.5, 100):
        histogram.add(value)
    assert histogram.buckets() == [(0, 1), (1, 2), (5, 4), (inf, 6)]
    assert histogram.sum == 113


def test_an_empty_one_has_all_its_bounds() -> None:
    assert Histogram((1, 2)).buckets() == [(1, 0), (2, 0), (inf, 0)]
