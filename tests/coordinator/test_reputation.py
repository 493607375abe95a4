"""Reputations: who pulls elsewhere than the others counts nothing, and whose task differs counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from coordinator.reputation import FEWEST_DEVICES, Reputation, direction_of, usual, whitening
from coordinator.rules import Weights

PARAMETERS, DEVICES, EACH = 300, 30, 25

Hostile = Callable[[np.random.Generator, Weights], Weights]


class Fleet:
    """Devices whose deltas have a small common part, a large one of each task along a few directions, and noise.

    Those that are ``hostile`` send theirs ``often`` times.
    """

    def __init__(
        self,
        hostile: int,
        attack: Hostile,
        *,
        trusted: int = 0,
        own_tasks: bool = False,
        devices: int = DEVICES,
        often: int = 1,
    ) -> None:
        chance = np.random.default_rng(3)
        self.reputation = Reputation(np.random.default_rng(5))
        self.reputation.trusted = frozenset(f"d{devices - 1 - i}" for i in range(trusted))
        directions = chance.normal(size=(4, PARAMETERS)) / PARAMETERS**0.5
        common = chance.normal(size=PARAMETERS) / PARAMETERS**0.5
        tasks = chance.normal(size=(devices, 4))
        self.fallen: list[str] = []
        counted: list[float] = []
        senders = [i for i in range(devices) for _ in range(often if i < hostile else 1)]
        for _ in range(EACH):
            for i in senders:
                task = tasks[i] if own_tasks else chance.normal(size=4)
                delta = 0.2 * common + task @ directions + chance.normal(size=PARAMETERS) * 0.1 / PARAMETERS**0.5
                if i < hostile:
                    delta = attack(chance, -common)
                norm = float(np.linalg.norm(delta))
                if i >= hostile:
                    counted.append(self.reputation.weight(f"d{i}", delta, norm))
                self.fallen += self.reputation.accepted(f"d{i}", delta, norm)
        self.common = common
        standings = np.array([self.reputation.standing(f"d{i}") for i in range(devices)])
        self.hostile, self.honest = standings[:hostile], standings[hostile:]
        self.counted = np.mean(counted[-5 * devices :])  # the latest of honest devices


def against(chance: np.random.Generator, direction: Weights) -> Weights:
    return direction


def against_with_noise(chance: np.random.Generator, direction: Weights) -> Weights:
    return direction + chance.normal(size=PARAMETERS) / PARAMETERS**0.5


@pytest.mark.parametrize("attack", [against, against_with_noise])
def test_who_pulls_against_the_others_comes_to_count_nothing(attack: Hostile) -> None:
    fleet = Fleet(6, attack)
    assert fleet.hostile.max() < 0.1
    assert fleet.honest.mean() > 0.9
    assert {f"d{i}" for i in range(6)} <= set(fleet.fallen), "and it is told"


def test_a_single_one_is_found() -> None:
    fleet = Fleet(1, against)
    assert fleet.hostile[0] < 0.1


@pytest.mark.parametrize("devices", [4, 10])
def test_who_sends_most_does_not_say_what_is_strange(devices: int) -> None:
    fleet = Fleet(1, against, devices=devices, often=30)
    assert fleet.counted > 0.9
    if devices >= FEWEST_DEVICES:
        assert fleet.hostile[0] < 0.1


def test_nothing_is_kept_of_who_is_forgotten() -> None:
    fleet = Fleet(1, against, devices=10)
    for i in range(10):
        fleet.reputation.forget(f"d{i}")
    kept = fleet.reputation
    assert [len(part) for part in (kept._sums, kept._standings, kept._whitened)] == [0, 0, 0]


def test_honest_devices_count() -> None:
    assert Fleet(0, against).honest.mean() > 0.95


def test_devices_that_keep_a_task_of_their_own_count() -> None:
    assert Fleet(0, against, own_tasks=True).honest.mean() > 0.9


def test_with_trusted_devices_a_larger_minority_is_found() -> None:
    assert Fleet(11, against).hostile.max() > 0.9
    fleet = Fleet(11, against, trusted=3)
    assert fleet.hostile.max() < 0.1
    assert fleet.honest.mean() > 0.7


def test_trusted_devices_count_whatever_they_send() -> None:
    reputation = Fleet(6, against).reputation
    reputation.trusted = frozenset(["d0"])
    assert reputation.standing("d0") == 1
    assert reputation.standing("d1") < 0.1


def test_a_delta_where_none_goes_counts_less() -> None:
    fleet = Fleet(0, against)
    strange = np.random.default_rng(9).normal(size=PARAMETERS)
    assert fleet.reputation.weight("new", strange, float(np.linalg.norm(strange))) < 0.7
    assert fleet.reputation.weight("new", np.zeros(PARAMETERS), 0.0) == 1


def test_who_is_forgotten_begins_again() -> None:
    reputation = Fleet(6, against).reputation
    reputation.forget("d0")
    assert reputation.standing("d0") == 1


def test_to_have_learned_nothing_says_nothing() -> None:
    reputation = Reputation()
    for i in range(1000):
        assert reputation.accepted(f"d{i % 20}", np.zeros(PARAMETERS), 0.0) == []
        assert reputation.weight(f"d{i % 20}", np.zeros(PARAMETERS), 0.0) == 1


def test_nobody_stands_out_among_few() -> None:
    reputation = Reputation(np.random.default_rng(5))
    chance = np.random.default_rng(1)
    for i in range(500):
        delta = chance.normal(size=PARAMETERS) + (i % 5 == 0) * 10
        reputation.accepted(f"d{i % 5}", delta, float(np.linalg.norm(delta)))
    assert [reputation.standing(f"d{i}") for i in range(5)] == [1] * 5


def test_equal_averages_are_all_usual() -> None:
    averages = np.ones((10, 4))
    assert usual(averages, np.zeros(10, bool)).tolist() == [1] * 10


def test_whitened_numbers_vary_by_one_in_every_direction() -> None:
    mix = np.random.default_rng(1).normal(size=(7, 7))
    covariance = mix @ mix.T + 0.01 * np.eye(7)
    inverse = whitening(covariance)
    np.testing.assert_allclose(inverse @ covariance @ inverse.T, np.eye(7), atol=1e-9)


def test_the_direction_is_the_first_principal_one() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 5)) * [1, 1, 3, 1, 1]
    first = np.linalg.svd(rows)[2][0]
    assert abs(direction_of(rows) @ first) > 0.999
