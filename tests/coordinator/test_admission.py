"""Who is heard: a bucket for each sender, what its work brings beside it, and who floods."""

from __future__ import annotations

from coordinator.admission import Admission
from coordinator.config import GuardsConfig
from tinyreptile.reports import CoordinatorTopics

TOPICS = CoordinatorTopics("kitchen")


class Door:
    """An `Admission` with the test's clock and settings."""

    def __init__(self, rate: float, burst: int, devices: int = 100) -> None:
        self.now = 100.0
        self.admission = Admission(
            TOPICS, lambda: GuardsConfig(rate=rate, burst=burst, devices=devices), lambda: self.now
        )

    def status(self, device: str, count: int = 1) -> int:
        """How many of ``count`` status messages of ``device`` are let in."""
        return sum(self.admission.admits(TOPICS.device(device).status) for _ in range(count))

    def update(self, device: str, count: int = 1) -> int:
        return sum(self.admission.admits(TOPICS.device(device).update) for _ in range(count))


def test_a_sender_has_its_burst_and_then_its_rate() -> None:
    door = Door(2.0, 5)
    assert door.status("a", 7) == 5
    door.now += 1.0
    assert door.status("a", 4) == 2
    door.now += 1000.0
    assert door.status("a", 7) == 5


def test_one_senders_flood_is_not_the_others_loss() -> None:
    door = Door(1.0, 2)
    door.status("a", 1000)
    assert door.status("b") == 1


def test_made_up_names_share_one_bucket() -> None:
    door = Door(1.0, 2, devices=10)
    assert sum(door.status(f"d{i}") for i in range(10)) == 10
    assert sum(door.status(f"x{i}") for i in range(1000)) == 2
    assert len(door.admission._senders) == 11
    assert door.status("d1") == 1, "who was there before has its own"
    assert door.admission.flooding == {"#strangers"}


def test_topics_that_are_no_devices_have_their_senders_bucket_too() -> None:
    door = Door(1.0, 2)
    filters = ["tinyreptile/kitchen/device/a/update/0", "tinyreptile/kitchen/device/a/no/such", TOPICS.device("a").log]
    assert [door.admission.admits(topic) for topic in filters] == [True, True, False]
    assert [door.admission.admits(TOPICS.control) for _ in range(30)] == [True, True] + [False] * 28
    assert not door.admission.flooding, "devices need not suffer for it"


def test_what_the_coordinator_publishes_itself_is_always_heard() -> None:
    door = Door(1.0, 2)
    assert all(door.admission.admits(TOPICS.piece(i)) for i in range(100))
    assert all(door.admission.admits(TOPICS.coordinator) for i in range(100))


def test_without_a_rate_all_may_pass() -> None:
    door = Door(0.0, 1)
    assert door.status("a", 100) == 100
    assert not door.admission.flooding


def test_the_chunks_of_the_work_at_hand_do_not_count() -> None:
    door = Door(1.0, 5)
    door.admission.expect("a", 50)
    assert door.update("a", 60) == 5, "nothing has been heard of it yet"
    door.now += 10
    door.admission.expect("a", 50)
    assert door.status("a", 2) == 2
    assert door.update("a", 60) == 53
    door.admission.expect("a", 50)
    assert door.status("a", 60) == 0, "it is for updates alone"


def test_who_sends_as_much_in_vain_as_it_may_at_once_floods() -> None:
    door = Door(1.0, 100)
    door.status("a", 200)
    assert not door.admission.flooding
    door.status("a")
    assert door.admission.flooding == {"a"}


def test_a_flood_may_be_slow() -> None:
    door = Door(10.0, 100)
    for _ in range(1000):
        door.status("fast", 2)
        door.status("usual", 1)
        door.now += 0.1
    assert door.admission.flooding == {"fast"}


def test_what_is_sent_in_vain_is_forgotten_after_a_quiet_time() -> None:
    door = Door(1.0, 100)
    for _ in range(10):
        door.status("a", 190)
        door.now += 100
    assert not door.admission.flooding
