"""Guards: who sends too much, too large or the same again, and learning that gets worse."""

from __future__ import annotations

from statistics import median_low

import numpy as np
import pytest

from coordinator.config import GuardsConfig
from coordinator.guards import FEWEST, OF_EACH, WINDOW, Guards, fingerprint
from coordinator.work import Refusal

WEIGHTS = np.array([3.0, 4.0]) * 16  # a sixteenth of its norm is 5, a 256th 0.3125


def guards(norms: float = 1.0, count: int = FEWEST, devices: int = FEWEST, **settings: object) -> Guards:
    """Guards that have seen ``count`` updates of ``norms``, of so many ``devices`` in turn."""
    guards = Guards(GuardsConfig.model_validate(settings))
    for i in range(count):
        guards.accepted(f"d{i % devices}", None, i, norms)
    return guards


def usual(watched: Guards) -> float:
    return watched._norms.usual(WEIGHTS)


def test_a_delta_of_usual_size_is_taken_whole() -> None:
    assert guards(clip=4).scale("d1", 1, 1, 3.9, WEIGHTS) == 1.0


def test_a_large_delta_is_scaled_down_to_its_bound() -> None:
    assert guards(norms=2.0, clip=4).scale("d1", 1, 1, 32.0, WEIGHTS) == 0.25
    assert guards(norms=2.0, clip=0).scale("d1", 1, 1, 32.0, WEIGHTS) == 1.0


def test_a_delta_beyond_all_measure_is_refused() -> None:
    with pytest.raises(Refusal, match="a delta of norm 11 where 1 is usual") as caught:
        guards(refuse=10).scale("d1", 1, 1, 11.0, WEIGHTS)
    assert caught.value.kind == "too large"
    assert guards(refuse=0, clip=0).scale("d1", 1, 1, 1e30, WEIGHTS) == 1.0


def test_noise_is_no_reason_to_refuse_a_delta() -> None:
    with pytest.raises(Refusal, match="is usual"):
        guards(refuse=10).scale("d1", 1, 1, 11.0, WEIGHTS, noise=1.0)
    assert guards(refuse=10, clip=4).scale("d1", 1, 1, 16.0, WEIGHTS, noise=2.0) == 0.25


def test_before_some_updates_have_come_the_initialization_says_what_is_usual() -> None:
    few = guards(count=FEWEST - 1, norms=0.4, clip=4, refuse=100)
    assert few.scale("d1", 1, 1, 20.0, WEIGHTS) == 1.0
    assert few.scale("d1", 1, 1, 80.0, WEIGHTS) == 0.25
    with pytest.raises(Refusal, match="a delta of norm 501 where 5 is usual"):
        few.scale("d1", 1, 1, 501.0, WEIGHTS)
    assert usual(few) == 0.4, "one that was refused counts, too"


def test_a_device_has_one_voice_however_much_it_sends() -> None:
    watched = guards(count=2 * FEWEST, devices=4)
    for i in range(5 * WINDOW):
        watched.accepted("loud", i, i, 1e-6)
    assert usual(watched) == 1.0
    assert len(watched._norms.norms) == 3 * FEWEST


@pytest.mark.parametrize("norm", [1e-6, 1e6])
@pytest.mark.parametrize(("honest", "hostile"), [(2, 1), (3, 2), (40, 19)])
def test_a_minority_does_not_move_what_is_usual(honest: int, hostile: int, norm: float) -> None:
    watched = guards(count=4 * max(FEWEST, honest), devices=honest)
    for i in range(WINDOW):
        watched.accepted(f"bad{i % hostile}", i, i, norm)
        watched.accepted(f"d{i % honest}", i, i, 1.0)
    assert usual(watched) == 1.0


def test_what_is_refused_of_a_minority_does_not_move_what_is_usual() -> None:
    watched = guards(count=4 * FEWEST, devices=5)
    for i in range(100):
        with pytest.raises(Refusal, match="is usual"):
            watched.scale(f"d{i % 2}", i, i, 1e6, WEIGHTS)
    assert usual(watched) == 1.0


def test_deltas_of_zero_say_nothing_of_what_is_usual() -> None:
    watched = guards()
    for i in range(100):
        for j in range(100):
            assert watched.scale(f"zero{j}", None, i, 0.0, WEIGHTS) == 1.0
            watched.accepted(f"zero{j}", None, i, 0.0)
    assert usual(watched) == 1.0


@pytest.mark.parametrize("devices", [3, 50])
def test_what_is_usual_grows_with_what_most_devices_send_for_good(devices: int) -> None:
    watched = guards(count=5 * devices, devices=devices, refuse=100)
    refused = 0
    for i in range(20 * devices):
        name = f"d{i % devices}"
        try:
            watched.scale(name, i, i, 500.0, WEIGHTS)
        except Refusal:
            refused += 1
        else:
            watched.accepted(name, i, i, 500.0)
    assert refused <= 3 * devices, "a few strikes for each, which the next updates take back"
    assert usual(watched) == 500.0


def test_who_has_learned_something_anew_is_not_refused_where_the_others_learn_hardly_anything() -> None:
    watched = guards(norms=1e-6, refuse=100)
    assert usual(watched) == 0.3125
    assert watched.scale("d1", 1, 1, 1.25, WEIGHTS) == 1.0
    assert watched.scale("d1", 1, 1, 31.0, WEIGHTS) == pytest.approx(1.25 / 31)


@pytest.mark.parametrize("devices", [1, 2])
def test_of_one_or_two_devices_none_makes_the_usual_norm_less(devices: int) -> None:
    assert usual(guards(norms=1e-6, count=100, devices=devices)) == 5.0
    assert usual(guards(norms=7.0, count=100, devices=devices)) == 7.0
    other = guards(norms=1e-6, count=100, devices=devices)
    for i in range(WINDOW):
        other.accepted("other", i, i, 1e6)
    assert usual(other) == (0.3125 if devices == 2 else 5.0)


def test_what_is_usual_is_of_the_latest_norms() -> None:
    watched = guards(norms=9.0, count=4 * FEWEST, devices=40)
    for i in range(WINDOW):
        watched.accepted(f"e{i % 8}", i, i, 2.0)
    assert usual(watched) == 2.0
    assert len(watched._norms.norms) == WINDOW


def test_a_forgotten_device_has_no_voice() -> None:
    watched = guards(count=60, devices=3)
    for i in range(60):
        watched.accepted(f"bad{i % 3}", i, i, 9.0)
        watched.accepted("d9", i, i, 9.0)
    assert usual(watched) == 9.0
    for i in range(3):
        watched.forget(f"bad{i}")
    assert usual(watched) == 1.0
    for name in ("d0", "d1", "d2", "d9"):
        watched.forget(name)
    kept = watched._norms
    assert [len(part) for part in (kept.norms, kept.norms._of, kept._medians, kept._ordered)] == [0, 0, 0, 0]


def test_what_is_kept_of_many_devices_is_bounded_and_right() -> None:
    watched = guards(count=0)
    chance = np.random.default_rng(1)
    for i in range(4 * WINDOW):
        watched.accepted(f"d{chance.integers(2 * WINDOW) if i % 2 else 7}", i, i, float(chance.lognormal()))
    norms = watched._norms.norms
    assert len(norms) == WINDOW
    latest: dict[str, list[float]] = {}
    for device, norm in norms:
        latest.setdefault(device, []).append(norm)
    assert max(map(len, latest.values())) == WINDOW // 4
    assert usual(watched) == median_low(median_low(of[-OF_EACH:]) for of in latest.values())


def test_a_delta_that_was_sent_before_is_refused() -> None:
    watched = guards()
    watched.accepted("d1", 1, 7, 1.0)
    with pytest.raises(Refusal, match="the very delta that it sent before") as caught:
        watched.scale("d1", 1, 9, 1.0, WEIGHTS)
    assert caught.value.kind == "repeated delta"
    assert watched.scale("d2", 1, 9, 1.0, WEIGHTS) == 1.0, "another device may come to the same"
    assert watched.scale("d1", 1, 7, 1.0, WEIGHTS) == 1.0, "from the same version it is no surprise"
    assert watched.scale("d1", 2, 9, 1.0, WEIGHTS) == 1.0


def test_to_have_learned_nothing_twice_is_no_repetition() -> None:
    assert fingerprint(bytes(40), [65536] * 4) is None
    watched = guards()
    watched.accepted("d1", None, 7, 0.0)
    assert watched.scale("d1", None, 9, 0.0, WEIGHTS) == 1.0


def test_deltas_of_other_gains_are_others() -> None:
    packed = bytes(range(20))
    assert fingerprint(packed, [7, 8]) == fingerprint(bytearray(packed), (7, 8))
    assert fingerprint(packed, [7, 8]) != fingerprint(packed, [8, 7])
    assert fingerprint(packed, [7, 8]) != fingerprint(packed[::-1], [7, 8])


@pytest.mark.parametrize(("parameters", "bits"), [(2, 4), (2, 16), (8, 4)])
def test_deltas_of_few_cells_are_not_compared(parameters: int, bits: int) -> None:
    assert fingerprint(b"\x77" * (parameters * bits // 8), [90, 100]) is None


def test_repetitions_may_be_allowed() -> None:
    watched = guards(repeats=False)
    watched.accepted("d1", 1, 7, 1.0)
    assert watched.scale("d1", 1, 9, 1.0, WEIGHTS) == 1.0
