"""The latest values of all devices, of which none has more than its part."""

from __future__ import annotations

import random
from statistics import median

from coordinator.window import Window


def filled(size: int, few: int, devices: str) -> Window:
    """A window to which each of ``devices`` has added its place."""
    window = Window(size, few)
    for place, device in enumerate(devices):
        window.add(device, place)
    return window


def test_the_latest_values_stay() -> None:
    assert list(filled(4, 1, "abcdefg")) == [("d", 3), ("e", 4), ("f", 5), ("g", 6)]


def test_a_device_that_has_its_part_takes_the_place_of_its_own_oldest() -> None:
    window = filled(100, 2, "abaaaac")
    assert list(window) == [("b", 1), ("a", 4), ("a", 5), ("c", 6)]
    assert list(window.of("a")) == [4, 5]
    assert window.add("a", 7) == "a"
    assert window.add("d", 8) is None


def test_a_part_is_a_quarter_where_that_is_more() -> None:
    window = filled(100, 2, "abcd" * 10 + "a" * 100)
    assert [len(window.of(device)) for device in "abcd"] == [2, 2, 2, 2]
    window = filled(100, 2, "abcdefgh" * 20 + "a" * 1000)
    assert len(window) == 100
    assert len(window.of("a")) == 25
    assert min(len(window.of(device)) for device in "bcdefgh") >= 10


def test_whose_value_has_made_room_is_told() -> None:
    window = filled(3, 1, "abc")
    assert window.add("d", 9) == "a"
    assert list(window.of("a")) == []


def test_a_forgotten_device_has_no_values() -> None:
    window = filled(9, 3, "abcabc")
    window.forget("b")
    window.forget("nobody")
    assert list(window) == [("a", 0), ("c", 2), ("a", 3), ("c", 5)]


def test_the_median_is_that_of_what_is_there() -> None:
    draw = random.Random(1)
    window = Window(30, 2)
    for step in range(2000):
        window.add(draw.choice("abcdefg"), draw.choice([draw.random(), 0.5]))
        if step % 50 == 49:
            window.forget(draw.choice("abcdefg"))
        if window:
            assert window.median() == median(value for _, value in window)
