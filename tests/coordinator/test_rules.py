"""The meta-update against its formulas, and that recorded decisions replay to the same bits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from coordinator.rules import COMBINATIONS, Decision, MetaUpdate, combined, discount, schedule

KINDS = ["constant", "linear", "cosine", "cooldown"]
PROGRESS = np.linspace(0, 1, 101)


def deltas(count: int, parameters: int = 7) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=parameters) * 10.0 ** rng.integers(-6, 3) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_begins_at_alpha(kind: str) -> None:
    assert schedule(kind, 0.7, 0.1)(0.0) == pytest.approx(0.7, rel=1e-15)


@pytest.mark.parametrize("kind", ["linear", "cosine", "cooldown"])
def test_a_schedule_ends_at_alpha_end(kind: str) -> None:
    assert schedule(kind, 0.7, 0.1)(1.0) == pytest.approx(0.1, rel=1e-15)


@pytest.mark.parametrize("kind", ["linear", "cosine", "cooldown"])
def test_a_schedule_ends_at_exactly_zero(kind: str) -> None:
    assert schedule(kind, 0.3, 0.0)(1.0) == 0.0


def test_a_constant_schedule_stays() -> None:
    assert {schedule("constant", 0.7, 0.1)(p) for p in PROGRESS} == {0.7}


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_alpha_never_rises(kind: str) -> None:
    values = [schedule(kind, 0.7, 0.1)(p) for p in PROGRESS]
    assert all(after < before for before, after in itertools.pairwise(values))


def test_the_linear_schedule_is_a_line() -> None:
    assert [schedule("linear", 0.5, 0.1)(p) for p in (0.25, 0.5, 0.75)] == pytest.approx([0.4, 0.3, 0.2])


def test_a_cooldown_is_constant_for_three_quarters_then_a_line() -> None:
    values = [schedule("cooldown", 0.5, 0.1)(p) for p in (0.0, 0.3, 0.75, 0.875)]
    assert values == pytest.approx([0.5, 0.5, 0.5, 0.3])


def test_the_cosine_schedule_is_half_a_wave() -> None:
    values = [schedule("cosine", 0.5, 0.1)(p) for p in (0.25, 0.5, 0.75)]
    assert values == pytest.approx([0.3 + 0.2 / math.sqrt(2), 0.3, 0.3 - 0.2 / math.sqrt(2)])


@pytest.mark.parametrize("kind", ["constant", "hinge", "polynomial"])
def test_a_fresh_update_counts_in_full(kind: str) -> None:
    assert discount(kind)(0) == 1.0


def test_the_constant_discount_is_none() -> None:
    assert {discount("constant")(tau) for tau in (0, 1, 10, 10_000)} == {1.0}


def test_the_hinge_discount_follows_its_formula() -> None:
    s = discount("hinge", free=4, slope=0.5)
    assert [s(tau) for tau in (0, 3, 4, 5, 6, 14)] == pytest.approx([1, 1, 1, 1 / 1.5, 1 / 2, 1 / 6])


def test_the_polynomial_discount_follows_its_formula() -> None:
    s = discount("polynomial", exponent=0.5)
    assert [s(tau) for tau in (0, 3, 8, 99)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 10])


@pytest.mark.parametrize("kind", ["hinge", "polynomial"])
def test_an_older_update_never_counts_more(kind: str) -> None:
    values = [discount(kind)(tau) for tau in range(1000)]
    assert all(0 < after <= before for before, after in itertools.pairwise(values))
    assert values[-1] < 0.05


def test_an_unknown_schedule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="constant, linear, cosine or cooldown, not 'step'"):
        schedule("step", 1, 0)


def test_an_unknown_discount_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="constant, hinge or polynomial, not 'none'"):
        discount("none")


def test_the_weight_of_an_update_is_alpha_times_its_discount() -> None:
    meta = MetaUpdate(schedule("linear", 0.8, 0.0), discount("polynomial", exponent=1))
    assert meta.weigh(0.5, 3) == Decision(pytest.approx(0.4 / 4), True)


def test_an_update_moves_the_initialization_by_its_weight() -> None:
    meta = MetaUpdate(schedule("constant", 0.25, 0), discount("polynomial", exponent=1))
    weights = np.array([1.0, -1.0, 0.0])
    assert meta.apply(weights, np.array([4.0, 8.0, -16.0]), progress=0, tau=1)
    assert weights.tolist() == [1.5, 0.0, -2.0]


def test_a_batch_moves_the_initialization_by_the_mean_of_its_deltas() -> None:
    meta = MetaUpdate(schedule("constant", 0.5, 0), discount("constant"), size=3)
    weights = np.array([1.0, 1.0])
    moved = [meta.apply(weights, np.array(d), progress=0) for d in ([3.0, 0.0], [6.0, 3.0], [0.0, -6.0])]
    assert moved == [False, False, True]
    assert weights.tolist() == [2.5, 0.5]


def test_nothing_moves_before_the_batch_is_whole() -> None:
    meta = MetaUpdate(schedule("constant", 0.5, 0), discount("constant"), size=3)
    weights = np.zeros(2)
    for pending in (1, 2):
        meta.apply(weights, np.ones(2), progress=0)
        assert meta.pending == pending
        assert weights.tolist() == [0, 0]


def test_a_batch_begins_with_nothing_of_the_one_before() -> None:
    meta = MetaUpdate(schedule("constant", 1.0, 0), discount("constant"), size=2)
    weights = np.zeros(1)
    for value in (100.0, 300.0, 1.0, 3.0):
        meta.apply(weights, np.array([value]), progress=0)
    assert weights.tolist() == [202.0]
    assert meta.pending == 0


@pytest.mark.parametrize("size", [1, 3])
def test_the_deltas_that_are_folded_stay_as_they_are(size: int) -> None:
    meta = MetaUpdate(schedule("constant", 0.5, 0), discount("constant"), size=size)
    given = deltas(6)
    copies = [delta.copy() for delta in given]
    weights = np.zeros(7)
    for delta in given:
        meta.apply(weights, delta, progress=0)
    assert all(np.array_equal(delta, copy) for delta, copy in zip(given, copies, strict=True))


def test_to_weigh_decides_and_changes_nothing() -> None:
    meta = MetaUpdate(schedule("linear", 0.5, 0), discount("constant"), size=2)
    assert meta.weigh(0.1, 0) == meta.weigh(0.1, 0)
    assert meta.pending == 0


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("size", [1, 4])
def test_recorded_decisions_replay_to_the_same_bits_under_other_settings(size: int, combine: str) -> None:
    given = deltas(22)
    live = np.random.default_rng(1).normal(size=7)
    replayed = live.copy()
    meta = MetaUpdate(schedule("cosine", 0.31, 0.07), discount("polynomial"), size=size, combine=combine)
    decisions = []
    for i, delta in enumerate(given):
        decisions.append(meta.weigh(i / 22, i % 5))
        assert meta.apply(live, delta, progress=i / 22, tau=i % 5) == decisions[-1].moves
    again = MetaUpdate(schedule("constant", 1.0, 1.0), discount("constant"), size=9)
    for delta, decision in zip(given, decisions, strict=True):
        again.fold(replayed, delta, decision)
    assert replayed.tobytes() == live.tobytes()
    assert again.pending == meta.pending == 22 % size


def test_a_median_takes_no_notice_of_a_minority() -> None:
    honest = [np.array([1.0, -2.0]), np.array([2.0, -1.0]), np.array([3.0, -3.0])]
    assert combined(honest, "median").tolist() == [2, -2]
    assert combined([*honest, np.array([1e9, 1e9]), np.array([-1e9, 1e9])], "median").tolist() == [2, -1]


def test_a_trimmed_mean_leaves_out_a_fifth_at_either_end() -> None:
    values = [np.array([float(value)]) for value in (7, -1e9, 3, 4, 5, 6, 1e9, 2, 8, 9)]
    assert combined(values, "trimmed").tolist() == [np.mean([3, 4, 5, 6, 7, 8])]
    assert combined(values[:3], "trimmed").tolist() == [3]
    assert combined([np.array([1.0]), np.array([3.0])], "trimmed").tolist() == [2], "nothing can be left out of two"


def test_a_batch_moves_the_initialization_by_its_combination_with_each_deltas_discount() -> None:
    meta = MetaUpdate(schedule("constant", 0.5, 0), discount("polynomial", exponent=1), size=3, combine="median")
    weights = np.zeros(1)
    for value, tau in ((8.0, 0), (8.0, 1), (1e6, 0)):
        meta.apply(weights, np.array([value]), progress=0, tau=tau)
    assert weights.tolist() == [0.5 * 8]
    for value, tau in ((8.0, 3), (8.0, 1), (-1e6, 0)):
        meta.apply(weights, np.array([value]), progress=0, tau=tau)
    assert weights.tolist() == [4 + 0.5 * 2]


def test_a_batch_ends_as_it_has_begun() -> None:
    earlier = MetaUpdate(schedule("constant", 1, 0), discount("constant"), size=5, combine="median")
    weights = np.zeros(1)
    for value in (1.0, 2.0):
        earlier.apply(weights, np.array([value]), progress=0)
    meta = MetaUpdate(schedule("constant", 1, 0), discount("constant"), size=3, combine="mean")
    meta.take_over(earlier)
    assert meta.apply(weights, np.array([600.0]), progress=0)
    assert weights.tolist() == [2]
    for value in (1.0, 2.0, 600.0):
        meta.apply(weights, np.array([value]), progress=0)
    assert weights.tolist() == [2 + 201]


def test_a_delta_that_was_bounded_counts_for_less() -> None:
    meta = MetaUpdate(schedule("constant", 0.5, 0), discount("constant"))
    weights = np.zeros(2)
    meta.fold(weights, np.array([8.0, -4.0]), Decision(0.5, True, scale=0.25))
    assert weights.tolist() == [1, -0.5]
