"""Guards: who sends too much, too large or the same again, and learning that gets worse."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.config import GuardsConfig
from coordinator.guards import FEWEST, Guards, fingerprint
from coordinator.work import Refusal

WEIGHTS = np.array([3.0, 4.0]) * 16  # a sixteenth of its norm is 5


def guards(norms: float = 1.0, count: int = FEWEST, **settings: object) -> Guards:
    """Guards that have seen ``count`` updates of ``norms``."""
    guards = Guards(GuardsConfig.model_validate(settings))
    for i in range(count):
        guards.accepted("d0", i, i, norms)
    return guards


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


def test_before_some_updates_have_come_the_initialization_says_what_is_usual() -> None:
    few = guards(count=FEWEST - 1, norms=0.1, clip=4, refuse=100)
    assert few.scale("d1", 1, 1, 20.0, WEIGHTS) == 1.0
    assert few.scale("d1", 1, 1, 80.0, WEIGHTS) == 0.25
    with pytest.raises(Refusal, match="a delta of norm 501 where 5 is usual"):
        few.scale("d1", 1, 1, 501.0, WEIGHTS)
    few.accepted("d1", 2, 1, 0.1)
    assert few.scale("d1", 1, 1, 0.8, WEIGHTS) == 0.5


def test_a_minority_does_not_move_what_is_usual() -> None:
    watched = guards(count=60, clip=4)
    for i in range(25):
        watched.accepted("bad", i, i, 1e6)
    assert watched.scale("d1", 1, 1, 8.0, WEIGHTS) == 0.5


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
