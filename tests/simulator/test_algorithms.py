from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.config import GuardsConfig
from coordinator.initialization import random_weights
from coordinator.rules import Weights
from simulator.algorithms import Algorithm, AlgorithmError, algorithm_class
from simulator.algorithms.asynchronous import Asynchronous
from simulator.algorithms.fedavg import FedAvg
from simulator.algorithms.fedsgd import FedSGD
from simulator.algorithms.fleet import Delays, Fleet
from simulator.algorithms.reptile import Reptile
from simulator.algorithms.scratch import Scratch
from simulator.algorithms.synchronous import Synchronous
from simulator.algorithms.tinymetafed import TinyMetaFed
from simulator.algorithms.tinyreptile import TinyReptile
from simulator.algorithms.transfer import Transfer
from simulator.offline import IntegerDevice
from simulator.tasks.sine import Sine
from tinyreptile.model import Model
from tinyreptile.unpacking import packed_size

from ..environment import need_module

pytestmark = pytest.mark.usefixtures("compiled")

TASK = Sine()
MODEL = Model(TASK.model)
STEPS = 8
LOSSY = Delays(median=1.0, sigma=0.75, drop=0.3, deadline=5.0)


def start() -> np.ndarray:
    return random_weights(MODEL, 1)


def make(
    kind: type[Algorithm], settings: dict[str, Any] | None = None, *, rounds: int = 20, bits: int = 8, **options: Any
) -> Algorithm:
    known = kind.settings_with({"steps": STEPS} | (settings or {}))
    device = IntegerDevice(MODEL, beta=options.pop("beta", 0.005), bits=bits, shots=kind.shots(known))
    return kind(Fleet(TASK, device, 1, options.pop("delays", Delays())), known, rounds)


def learned(algorithm: Algorithm, rounds: int = 20) -> np.ndarray:
    phi = start()
    for number in range(1, rounds + 1):
        algorithm.round(phi, number)
    return phi


# TinyReptile and what is like it


def test_the_same_seed_learns_the_same_bits() -> None:
    assert np.array_equal(learned(make(TinyReptile)), learned(make(TinyReptile)))


def test_meta_training_brings_the_training_loss_down() -> None:
    algorithm = make(TinyReptile, {"steps": 32}, rounds=600)
    phi = start()
    losses = [algorithm.round(phi, number) for number in range(1, 601)]
    assert np.mean(losses[-100:]) < 0.7 * np.mean(losses[:100])


def test_a_round_depends_on_nothing_but_the_initialization_and_its_number() -> None:
    one, other = make(TinyReptile), make(TinyReptile)
    phi = start()
    for number in range(1, 10):
        one.round(phi, number)
    again = phi.copy()
    assert one.round(phi, 10) == other.round(again, 10)
    assert np.array_equal(phi, again)


def test_asynchronous_with_one_in_flight_and_no_delay_is_serial_bit_for_bit() -> None:
    serial = make(TinyReptile)
    alone = make(Asynchronous, {"in_flight": 1, "staleness": "polynomial"})
    assert np.array_equal(learned(serial), learned(alone))
    assert serial.fleet.counts == alone.fleet.counts


def test_a_synchronous_meta_batch_of_one_is_serial_bit_for_bit() -> None:
    assert np.array_equal(learned(make(TinyReptile)), learned(make(Synchronous, {"meta_batch": 1})))


def test_a_stale_update_moves_less() -> None:
    algorithm = make(Asynchronous, {"alpha": 1.0, "schedule": "constant"})
    fresh, stale = start(), start()
    algorithm.move(fresh, [np.ones(MODEL.parameters)], [0], 1)
    algorithm.move(stale, [np.ones(MODEL.parameters)], [0], 1, tau=3)
    np.testing.assert_allclose(stale - start(), (fresh - start()) / 2)


def test_a_delta_far_larger_than_the_latest_moves_no_further_than_the_guard_lets_it() -> None:
    algorithm = make(TinyReptile, {"alpha": 1.0, "schedule": "constant"})
    phi = start()
    usual = np.full(MODEL.parameters, 0.01)
    for number in range(1, 31):
        algorithm.move(phi, [usual], [number], number)
    before = phi.copy()
    algorithm.move(phi, [50 * usual], [31], 31)
    np.testing.assert_allclose(phi - before, GuardsConfig().clip * usual)


def test_a_delta_that_the_guard_refuses_is_counted_and_moves_nothing() -> None:
    algorithm = make(TinyReptile)
    phi = start()
    algorithm.move(phi, [np.full(MODEL.parameters, 1e4)], [0], 1)
    assert np.array_equal(phi, start())
    assert (algorithm.fleet.counts.updates, algorithm.fleet.counts.refused) == (0, 1)


def test_an_asynchronous_run_goes_on_from_its_state_to_the_same_bits() -> None:
    settings = {"in_flight": 7}
    whole, first, second = (make(Asynchronous, settings, delays=LOSSY) for _ in range(3))
    phi = start()
    for number in range(1, 11):
        first.round(phi, number)
    second.resume(first.state())
    second.fleet.counts.seconds = first.fleet.counts.seconds
    for number in range(11, 21):
        second.round(phi, number)
    assert np.array_equal(phi, learned(whole))
    assert second.fleet.counts.seconds == whole.fleet.counts.seconds


# The clock


def test_serial_time_is_the_sum_of_the_works_and_of_the_deadlines_of_those_lost() -> None:
    algorithm = make(TinyReptile, delays=LOSSY)
    learned(algorithm)
    fleet, expected = algorithm.fleet, 0.0
    for number in range(1, 21):
        attempt = 0
        while not (work := fleet.work(number, attempt)).comes_back:
            assert work.seconds == 5.0
            expected += 5.0
            attempt += 1
        expected += work.seconds
    assert fleet.counts.seconds == pytest.approx(expected)
    assert fleet.counts.updates == 20


def test_a_batch_lasts_as_long_as_its_slowest_with_the_deadlines_of_those_lost_before() -> None:
    fleet = make(Synchronous, delays=LOSSY).fleet
    slots = []
    for number in range(5, 9):  # the works of round 2
        attempts = [fleet.work(number, attempt) for attempt in range(20)]
        back = [work.comes_back for work in attempts].index(True)
        slots.append(5.0 * back + attempts[back].seconds)
    assert any(seconds > 5.0 for seconds in slots)
    assert len(fleet.together(2, 4)) == 4
    assert fleet.counts.seconds == pytest.approx(max(slots))


def test_parallel_devices_bring_the_speed_of_their_number() -> None:
    delays = Delays(median=1.0, sigma=0.5, drop=0.0)
    serial, many = make(TinyReptile, delays=delays), make(Asynchronous, {"in_flight": 10}, delays=delays, rounds=200)
    learned(serial, 200)
    learned(many, 200)
    assert 8 < serial.fleet.counts.seconds / many.fleet.counts.seconds < 12


def test_about_as_many_works_are_lost_as_the_settings_say() -> None:
    fleet = make(TinyReptile, delays=Delays(1.0, 0.5, drop=0.1, deadline=100.0)).fleet
    lost = sum(not fleet.work(number).comes_back for number in range(4000))
    assert 300 < lost < 500


# What is counted


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_bytes_sent_are_those_of_the_coded_deltas(bits: int) -> None:
    algorithm = make(TinyReptile, bits=bits)
    sent = []
    delta = algorithm.fleet.device.delta

    def watched() -> Weights:
        found = delta()
        sent.append(algorithm.fleet.device.sent)
        return found

    algorithm.fleet.device.delta = watched  # type: ignore[method-assign]
    learned(algorithm)
    counts = algorithm.fleet.counts
    assert counts.bytes_up == sum(sent)
    assert len(sent) == 20
    assert max(sent) < packed_size(MODEL.parameters, max(bits, 8))
    assert counts.bytes_down == 20 * 2 * MODEL.parameters
    assert (counts.updates, counts.samples, counts.gradients) == (20, 20 * STEPS, 20 * STEPS)


def test_the_initialization_costs_those_who_are_lost_too() -> None:
    algorithm = make(Synchronous, {"meta_batch": 10}, delays=LOSSY)
    learned(algorithm, 3)
    counts = algorithm.fleet.counts
    assert counts.updates == 30
    assert counts.bytes_down > 35 * 2 * MODEL.parameters


def test_a_joint_model_is_sent_samples() -> None:
    algorithm = make(Transfer, bits=16)
    phi = learned(algorithm)
    counts = algorithm.fleet.counts
    assert counts.bytes_up == 20 * STEPS * 2 * 2  # one input, one target
    assert (counts.samples, counts.bytes_down) == (20 * STEPS, 0)
    assert np.any(phi != start())


def test_from_scratch_nothing_moves() -> None:
    algorithm = make(Scratch)
    assert np.array_equal(learned(algorithm), start())
    assert algorithm.fleet.counts.samples == 0


# Baselines that store samples


@pytest.mark.parametrize("kind", [Reptile, FedAvg])
def test_a_stored_sample_is_drawn_once_and_learned_from_in_every_epoch(kind: type[Algorithm]) -> None:
    algorithm = make(kind, {"epochs": 3, "batch": 4})
    learned(algorithm, 2)
    counts = algorithm.fleet.counts
    assert (counts.updates, counts.samples, counts.gradients) == (10, 10 * STEPS, 30 * STEPS)


def test_reptile_with_one_sample_at_a_time_and_one_device_is_tinyreptile_bit_for_bit() -> None:
    # One sample: the order of several is shuffled on the device, by the sequence that rounds, which then goes on
    # elsewhere.
    alone = {"steps": 1, "batch": 1, "epochs": 1, "meta_batch": 1, "alpha": 0.3}
    reptile, tiny = make(Reptile, alone), make(TinyReptile, {"steps": 1})
    assert np.array_equal(learned(reptile), learned(tiny))
    assert reptile.fleet.counts == tiny.fleet.counts


def test_a_shuffled_pass_of_reptile_learns_what_tinyreptile_does_but_for_the_order() -> None:
    alone = {"steps": STEPS, "batch": 1, "epochs": 1, "meta_batch": 1, "alpha": 1.0, "schedule": "constant"}
    reptile, tiny = start(), start()
    make(Reptile, alone, bits=16).round(reptile, 1)
    make(TinyReptile, {"alpha": 1.0, "schedule": "constant"}, bits=16).round(tiny, 1)
    there, here = reptile - start(), tiny - start()
    assert there @ here > 0.9 * np.linalg.norm(there) * np.linalg.norm(here)


def test_a_device_that_stores_samples_takes_more_ram() -> None:
    reptile, tiny = make(Reptile), make(TinyReptile)
    assert reptile.fleet.device.ram() == reptile.fleet.device.learner.ram() == MODEL.ram(STEPS)
    assert tiny.fleet.device.ram() == MODEL.ram() < reptile.fleet.device.ram()


def test_fedavg_puts_the_mean_of_the_devices_weights_in_place_of_the_initialization() -> None:
    algorithm = make(FedAvg, {"clients": 2}, bits=16)
    phi = start()
    algorithm.round(phi, 1)
    mean = np.zeros_like(phi)
    for work in make(FedAvg, {"clients": 2}, bits=16).fleet.together(1, 2):
        work.load(start())
        work.store(STEPS)
        work.train_stored(10, 5)
        mean += (start() + work.delta()) / 2
    np.testing.assert_allclose(phi, mean, atol=1e-12)


def test_fedsgd_moves_by_one_mean_gradient() -> None:
    need_module("torch")
    from simulator.study.float_twin import TwinDevice

    algorithm = make(FedSGD, {"clients": 1}, bits=16, beta=0.05)
    phi = start()
    algorithm.round(phi, 1)
    twin = TwinDevice(MODEL, beta=0.05)
    twin.load(start(), 1)
    expected = np.zeros_like(phi)

    async def begin_anew() -> None:
        nonlocal expected
        expected += twin.delta() / STEPS
        twin.load(start(), 1)

    Fleet(TASK, twin, 1).work(1).train(STEPS, begin_anew)
    assert algorithm.fleet.counts.gradients == STEPS
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(phi - start(), expected, atol=0.002)


# TinyMetaFed


def test_tinymetafed_sends_nothing_of_the_local_layers_and_keeps_their_first_values() -> None:
    algorithm = make(TinyMetaFed, {"local_steps": 3}, bits=16)
    phi = learned(algorithm)
    border = MODEL.offsets[-2]
    assert np.array_equal(phi[border:], start()[border:])
    assert np.any(phi[:border] != start()[:border])


def test_tinymetafed_learns_local_layers_first_then_global_ones() -> None:
    border = MODEL.offsets[-2]
    algorithm = make(TinyMetaFed, {"local_steps": STEPS}, bits=16)  # nothing is left for the global part
    assert np.array_equal(learned(algorithm), start())
    algorithm = make(TinyMetaFed, {"local_steps": 0, "alpha": 1.0}, bits=16)
    phi = start()
    algorithm.round(phi, 1)
    assert np.any(phi[:border] != start()[:border])


# Of one's own


class Mine(TinyReptile):
    """As a user would write one."""

    defaults = {"courage": 2.0}  # noqa: RUF012


def test_tinymetafed_without_local_layers_or_with_only_such_is_told_apart_from_more_than_there_are() -> None:
    moved = learned(make(TinyMetaFed, {"local_layers": 0, "local_steps": 0}), rounds=1)
    assert np.count_nonzero(moved[-33:] - start()[-33:]) > 0
    assert np.array_equal(learned(make(TinyMetaFed, {"local_layers": 3}), rounds=1), start())
    with pytest.raises(AlgorithmError, match="of 3 layers with weights, local_layers can't be 4"):
        learned(make(TinyMetaFed, {"local_layers": 4}), rounds=1)


def test_an_algorithm_of_ones_own_is_found_by_its_name() -> None:
    assert algorithm_class("tests.simulator.test_algorithms.Mine").__name__ == "Mine"
    assert algorithm_class("tinyreptile") is TinyReptile


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maml", "one of tinyreptile, .*package.module.Class"),
        ("nowhere.Maml", "can't be imported"),
        ("simulator.algorithms.Maml", "can't be imported"),
        ("pathlib.Path", "no subclass"),
    ],
)
def test_an_algorithm_that_is_not_there_is_an_error_that_says_what_is(name: str, words: str) -> None:
    with pytest.raises(AlgorithmError, match=words):
        algorithm_class(name)


def test_a_setting_that_an_algorithm_lacks_is_an_error_that_says_what_it_has() -> None:
    with pytest.raises(AlgorithmError, match="no setting 'epochs'; it has alpha"):
        make(TinyReptile, {"epochs": 3})
    assert make(Mine).settings.courage == 2.0
