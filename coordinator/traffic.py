"""What passes between a coordinator and its broker, counted by kind; and the bounded queue that it comes in by."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiomqtt

from tinyreptile.reports import CoordinatorTopics

# What a coordinator hears of itself, and of others of its run, are the last three.
RECEIVED = ("status", "update", "evaluation", "control", "coordinator", "init", "piece")
SENT = ("init", "piece", "work", "answer", "coordinator", "cleared")  # the last: what devices have had retained


RETAINED = frozenset(["status", "coordinator", "init", "piece"])  # kinds of messages that are meant to be retained


def kind_of(topics: CoordinatorTopics, topic: str) -> str:
    """What is said on ``topic`` of a run: one of `RECEIVED` or `SENT` but "cleared", or "other"."""
    levels = topic[len(topics.root) + 1 :].split("/", 3)
    if levels[0] == "device":
        kind = levels[2] if len(levels) > 2 else ""
    else:
        kind = levels[0] if len(levels) == 1 else {"init": "piece", "control": "answer"}.get(levels[0], "")
    return kind if kind in _KINDS else "other"


_KINDS = frozenset(RECEIVED + SENT)


class Flow:
    """Messages in one direction.

    Attributes:
        messages: how many, by kind; bytes: of their bodies, by kind.
    """

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def add(self, kind: str, size: int) -> None:
        """Count a message with a body of ``size`` bytes."""
        self.messages[kind] += 1
        self.bytes[kind] += size


def guarded_queue(admits: Callable[[aiomqtt.Message], bool], dropped: Callable[[], None]) -> type[asyncio.Queue[Any]]:
    """A kind of queue that takes the messages that ``admits``, and calls ``dropped`` where it has no place.

    It raises nothing: aiomqtt would log a line for every message.
    """

    class GuardedQueue(asyncio.Queue[Any]):
        def put_nowait(self, item: Any) -> None:
            if not admits(item):
                return
            if self.full():
                dropped()
            else:
                super().put_nowait(item)

    return GuardedQueue
