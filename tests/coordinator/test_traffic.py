"""What is said on a topic is known by its kind, and what finds no place is counted."""

from __future__ import annotations

import aiomqtt
import pytest

from coordinator.traffic import RECEIVED, SENT, Flow, guarded_queue, kind_of
from tinyreptile.reports import CoordinatorTopics

TOPICS = CoordinatorTopics("kitchen")
DEVICE = TOPICS.device("update")  # a device may be called so
KINDS = {
    TOPICS.coordinator: "coordinator",
    TOPICS.control: "control",
    TOPICS.answers("work"): "answer",
    TOPICS.init: "init",
    TOPICS.piece(12): "piece",
    DEVICE.status: "status",
    DEVICE.work: "work",
    DEVICE.update: "update",
    DEVICE.evaluation: "evaluation",
}


@pytest.mark.parametrize("topic", KINDS)
def test_a_topic_has_a_kind(topic: str) -> None:
    assert kind_of(TOPICS, topic) == KINDS[topic]


def test_every_kind_has_a_topic() -> None:
    assert {*KINDS.values(), "cleared"} == {*RECEIVED, *SENT}


@pytest.mark.parametrize("rest", ["", "x", "device", "device/a", "device/a/secret", "software/rp2"])
def test_any_other_topic_is_other(rest: str) -> None:
    assert kind_of(TOPICS, f"{TOPICS.root}/{rest}") == "other"
    assert kind_of(TOPICS, rest) == "other"


def test_messages_and_their_bytes_are_counted() -> None:
    flow = Flow()
    flow.add("work", 100)
    flow.add("work", 20)
    flow.add("answer", 7)
    assert dict(flow.messages) == {"work": 2, "answer": 1}
    assert dict(flow.bytes) == {"work": 120, "answer": 7}


def message(topic: str) -> aiomqtt.Message:
    return aiomqtt.Message(topic, b"", 1, False, 1, None)


def test_a_full_queue_counts_what_it_has_no_place_for() -> None:
    drops = []
    queue = guarded_queue(lambda message: True, lambda: drops.append(1))(maxsize=2)
    for topic in "abcde":
        queue.put_nowait(message(topic))
    assert (queue.qsize(), len(drops)) == (2, 3)


def test_what_is_not_admitted_takes_no_place() -> None:
    drops = []
    queue = guarded_queue(lambda message: message.topic.value != "a", lambda: drops.append(1))(maxsize=2)
    for topic in "aaaabaa":
        queue.put_nowait(message(topic))
    assert (queue.get_nowait().topic.value, queue.qsize(), drops) == ("b", 0, [])
