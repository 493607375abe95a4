"""What private updates cost, as dp-accounting has it, held against what is known of the Gaussian mechanism."""

from __future__ import annotations

import math
import sys

import pytest

from coordinator.accounting import epsilon_of, noise_for, rho_for, rho_of, updates_for
from coordinator.errors import CoordinatorError

from ..environment import need_module

DELTA = 1e-5


@pytest.fixture(autouse=True)
def installed() -> None:
    need_module("dp_accounting")


def gaussian_delta(sigma: float, sensitivity: float, epsilon: float) -> float:
    """The exact delta of the Gaussian mechanism (Balle and Wang, ICML 2018, arXiv 1805.06530, theorem 8)."""

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    a, b = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
    return below(a - b) - math.exp(epsilon) * below(-a - b)


@pytest.mark.parametrize("noise", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("updates", [1, 10, 200])
def test_epsilon_is_that_of_two_bounds_and_little_above_the_exact_one(noise: float, updates: int) -> None:
    epsilon = epsilon_of(updates * rho_of(noise), DELTA)
    sigma = noise / math.sqrt(updates)  # of one mechanism that is worth as many
    assert gaussian_delta(sigma, 2.0, epsilon) <= DELTA
    assert gaussian_delta(sigma, 2.0, 0.8 * epsilon) > DELTA


def test_epsilon_is_within_what_zcdp_alone_says() -> None:
    for rho in (0.001, 0.1, 1.0, 30.0):
        assert epsilon_of(rho, DELTA) <= rho + 2 * math.sqrt(rho * math.log(1 / DELTA))


def test_any_cost_that_a_device_may_tell_has_an_epsilon() -> None:
    costs = (5e-324, 1e-300, 1e-12, 1e-3, 1e15)
    epsilons = [epsilon_of(rho) for rho in costs]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] == 0.0


def test_without_updates_nothing_is_lost() -> None:
    assert epsilon_of(0.0) == 0.0


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 50.0])
def test_noise_updates_and_epsilon_follow_from_each_other(epsilon: float) -> None:
    noise = noise_for(epsilon, DELTA, 200)
    assert epsilon_of(200 * rho_of(noise), DELTA) == pytest.approx(epsilon, rel=1e-3)
    assert epsilon_of(rho_for(epsilon, DELTA), DELTA) <= 1.001 * epsilon
    assert updates_for(epsilon, DELTA, 1.01 * noise) in (203, 204)
    assert updates_for(epsilon, DELTA, noise / 100) == 0


def test_an_epsilon_that_no_noise_reaches_is_told() -> None:
    with pytest.raises(CoordinatorError, match=r"epsilon 0.001 at delta 1e-15 is out of the accountant's reach"):
        rho_for(1e-3, 1e-15)


@pytest.mark.parametrize(("epsilon", "delta"), [(1e-3, 0.5), (1e4, 0.5), (1e4, 1e-15)])
def test_any_other_is_met_at_the_ends_of_what_may_be_asked(epsilon: float, delta: float) -> None:
    rho = rho_for(epsilon, delta)
    assert rho > 0
    assert epsilon_of(rho, delta) <= 1.001 * epsilon


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(CoordinatorError, match=r"dp-accounting, which is not installed: pip install"):
        epsilon_of(1.0)
