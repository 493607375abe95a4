"""The registry: who is idle, whose turn it is, and what is believed of a device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from coordinator.registry import MAX_REST, Device, Registry
from tinyreptile import messages, reports
from tinyreptile.messages import EVALUATE, TRAIN


def hello(registry: Registry, device: str, state: str = "online", boot: str = "b1", **fields: Any) -> Device:
    status = {"protocol": messages.PROTOCOL, "state": state, "boot": boot} | fields
    return registry.take_status(device, messages.check(reports.STATUS, status))


def fleet(*names: str, role: str = TRAIN) -> Registry:
    registry = Registry()
    for name in names:
        hello(registry, name, role=role)
    return registry


def idle(registry: Registry, role: str = TRAIN) -> list[str]:
    return [device.id for device in registry.idle(role)]


def test_an_empty_registry_has_nobody() -> None:
    registry = Registry()
    assert registry.next_idle(TRAIN) is None
    assert registry.idle(EVALUATE) == []
    assert registry.count("online") == 0


def test_the_device_that_has_been_idle_longest_is_next() -> None:
    registry = fleet("a", "b", "c")
    registry.assign(registry.devices["a"], 1)
    registry.assign(registry.devices["a"], 0)
    assert idle(registry) == ["b", "c", "a"]
    assert registry.next_idle(TRAIN) is registry.devices["b"]


def test_devices_take_turns() -> None:
    registry = fleet("a", "b", "c")
    turns = []
    for work in range(1, 10):
        device = registry.next_idle(TRAIN)
        assert device is not None
        turns.append(device.id)
        registry.assign(device, work)
        registry.assign(device, 0)
    assert turns == ["a", "b", "c"] * 3


def test_slow_and_quick_devices_get_work_whenever_they_are_idle() -> None:
    registry = fleet(*(f"d{i}" for i in range(10)))
    busy: list[Device] = []
    turns: Counter[str] = Counter()
    for work in range(1, 1001):
        device = registry.next_idle(TRAIN)
        assert device is not None
        turns[device.id] += 1
        registry.assign(device, work)
        busy.append(device)
        if len(busy) == 4:
            registry.assign(busy.pop(work % 4), 0)
    assert min(turns.values()) > 50


def test_to_look_at_the_next_device_does_not_take_it() -> None:
    registry = fleet("a", "b")
    assert registry.next_idle(TRAIN) is registry.next_idle(TRAIN)


def test_a_repeated_hello_keeps_the_place_in_the_queue() -> None:
    registry = fleet("a", "b")
    hello(registry, "a")
    assert idle(registry) == ["a", "b"]


def test_a_device_that_was_away_queues_at_the_end() -> None:
    registry = fleet("a", "b")
    hello(registry, "a", "offline")
    hello(registry, "a")
    assert idle(registry) == ["b", "a"]


def test_a_busy_device_is_not_idle_until_it_is_rid_of_its_work() -> None:
    registry = fleet("a")
    registry.assign(registry.devices["a"], 5)
    assert idle(registry) == []
    hello(registry, "a")
    assert idle(registry) == [], "a hello does not end its work"
    registry.assign(registry.devices["a"], 0)
    assert idle(registry) == ["a"]


@pytest.mark.parametrize("state", ["offline", "unfit", "nonsense"])
def test_a_device_that_is_not_online_is_not_idle(state: str) -> None:
    registry = fleet("a")
    hello(registry, "a", state)
    assert idle(registry) == []
    registry.assign(registry.devices["a"], 0)
    assert idle(registry) == []


def test_a_device_that_goes_offline_at_work_is_not_idle_when_its_work_ends() -> None:
    registry = fleet("a")
    registry.assign(registry.devices["a"], 5)
    hello(registry, "a", "offline")
    assert registry.devices["a"].work == 5, "it may come back"
    registry.assign(registry.devices["a"], 0)
    assert idle(registry) == []


def test_roles_have_queues_of_their_own() -> None:
    registry = fleet("t")
    hello(registry, "e", role=EVALUATE)
    assert (idle(registry, TRAIN), idle(registry, EVALUATE)) == (["t"], ["e"])


def test_a_device_that_names_no_role_trains() -> None:
    registry = Registry()
    hello(registry, "a")
    assert registry.devices["a"].role == TRAIN
    assert idle(registry) == ["a"]


def test_a_device_that_changes_its_role_changes_the_queue() -> None:
    registry = fleet("a")
    hello(registry, "a", boot="b2", role=EVALUATE)
    assert (idle(registry, TRAIN), idle(registry, EVALUATE)) == ([], ["a"])


def test_a_device_of_an_unknown_role_is_in_no_queue() -> None:
    registry = fleet("a", role="spectator")
    assert (idle(registry, TRAIN), idle(registry, EVALUATE)) == ([], [])
    assert registry.count("online") == 1


def test_devices_are_counted_by_state_and_role() -> None:
    registry = fleet("a", "b")
    hello(registry, "c", "unfit", error="too little memory")
    hello(registry, "e", role=EVALUATE)
    hello(registry, "b", "offline")
    assert registry.count("online") == 2
    assert registry.count("online", TRAIN) == registry.count("online", EVALUATE) == 1
    assert registry.count("unfit") == registry.count("offline") == 1


def test_a_status_describes_the_device() -> None:
    registry = Registry()
    device = hello(registry, "a", "unfit", role=EVALUATE, platform="esp32", ram=4000, error="too small")
    assert device is registry.devices["a"]
    assert (device.state, device.boot, device.role) == ("unfit", "b1", EVALUATE)
    assert (device.platform, device.ram, device.error) == ("esp32", 4000, "too small")


def test_a_device_that_is_fit_again_has_no_error() -> None:
    registry = Registry()
    hello(registry, "a", "unfit", error="too small")
    assert hello(registry, "a", boot="b2").error == ""


def test_a_good_bye_leaves_the_description_as_it_was() -> None:
    registry = Registry()
    hello(registry, "a", role=EVALUATE, platform="esp32", ram=4000)
    device = hello(registry, "a", "offline")
    assert (device.state, device.role, device.platform, device.ram) == ("offline", EVALUATE, "esp32", 4000)


def test_what_was_counted_of_a_device_outlives_its_new_start() -> None:
    registry = fleet("a")
    registry.devices["a"].accepted = 9
    assert hello(registry, "a", boot="b2").accepted == 9


@pytest.mark.parametrize("state", ["online", "unfit"])
def test_the_last_will_of_an_earlier_start_is_passed_over(state: str) -> None:
    registry = Registry()
    hello(registry, "a", boot="old")
    hello(registry, "a", state, boot="new")
    device = hello(registry, "a", "offline", boot="old")
    assert (device.state, device.boot) == (state, "new")


def test_the_last_will_of_an_earlier_start_does_not_hide_which_start_was_the_last() -> None:
    registry = fleet("a")
    hello(registry, "a", boot="new")
    hello(registry, "a", "offline", boot="new")
    hello(registry, "a", "offline", boot="b1")
    assert registry.devices["a"].boot == "new"


def test_the_last_will_of_the_present_start_is_believed() -> None:
    registry = fleet("a")
    assert hello(registry, "a", "offline").state == "offline"
    assert idle(registry) == []


# Rest


def rest(registry: Registry, now: float) -> float:
    """Seconds from ``now`` until device a is idle again."""
    seconds = 0.0
    while not idle(registry):
        seconds += 0.5
        assert seconds <= 2 * MAX_REST
        registry.wake(now + seconds)
    return seconds


def test_a_device_that_fails_for_the_first_time_does_not_rest() -> None:
    registry = fleet("a")
    registry.failed(registry.devices["a"], 100)
    assert idle(registry) == ["a"]


def test_a_device_that_goes_on_failing_rests_each_time_longer() -> None:
    registry = fleet("a")
    rests = []
    for now in range(0, 9000, 1000):
        registry.failed(registry.devices["a"], now)
        rests.append(rest(registry, now))
    assert rests == [0, 1, 3, 7, 15, 31, MAX_REST, MAX_REST, MAX_REST]


def test_a_device_that_has_failed_thousands_of_times_rests_no_longer_than_the_others() -> None:
    registry = fleet("a")
    for _ in range(5000):
        registry.failed(registry.devices["a"], 100)
    assert rest(registry, 100) == MAX_REST


def test_a_hello_does_not_end_a_rest() -> None:
    registry = fleet("a")
    for _ in range(3):
        registry.failed(registry.devices["a"], 100)
    hello(registry, "a")
    registry.assign(registry.devices["a"], 0)
    assert idle(registry) == []


def test_a_device_that_went_offline_at_rest_is_not_idle_when_it_has_rested() -> None:
    registry = fleet("a")
    for _ in range(3):
        registry.failed(registry.devices["a"], 100)
    hello(registry, "a", "offline")
    registry.wake(1000)
    assert idle(registry) == []
    hello(registry, "a")
    assert idle(registry) == ["a"]


def test_one_that_rests_does_not_hold_up_the_others() -> None:
    registry = fleet("a", "b")
    for _ in range(3):
        registry.failed(registry.devices["a"], 100)
    assert idle(registry) == ["b"]
    registry.wake(1000)
    assert idle(registry) == ["b", "a"], "it queues at the end"
