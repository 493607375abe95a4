"""Who is heard: the first look at every message, at its sender alone, before it takes a place in any queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyreptile.reports import CoordinatorTopics

from .config import GuardsConfig

OPERATORS = "#operators"  # share one bucket; no device has this name
STRANGERS = "#strangers"  # senders beyond as many devices as may be known share one, so that made-up names cost nothing


@dataclass(slots=True)
class _Sender:
    """A token bucket, and what was in vain."""

    tokens: float
    filled: float  # when ``tokens`` was right
    credit: int = 0  # update messages that its work brings, beyond its tokens
    dropped: int = 0  # since the bucket was last full


class Admission:
    """A token bucket for each sender of a run's messages: `guards.rate` a second, `guards.burst` at once.

    What a device's work brings, however many chunks that is, does not count. A sender that has sent as many messages
    in vain as it may send at once, and was never quiet enough in between to have its bucket full, floods.

    Attributes:
        flooding: devices that flood, until they are taken out of it; of operators it is enough to drop what they send.
    """

    def __init__(
        self, topics: CoordinatorTopics, config: Callable[[], GuardsConfig], clock: Callable[[], float]
    ) -> None:
        self._control = topics.control
        self._devices = topics.root + "/device/"
        self._config = config
        self._clock = clock
        self._senders: dict[str, _Sender] = {}
        self.flooding: set[str] = set()

    def admits(self, topic: str) -> bool:
        """Whether a message on ``topic`` is looked at."""
        guards = self._config()
        if not guards.rate:
            return True
        if topic.startswith(self._devices):
            device_id, _, rest = topic[len(self._devices) :].partition("/")
            name = device_id
        elif topic == self._control:
            name, rest = OPERATORS, ""
        else:
            return True  # what the coordinator publishes itself
        sender = self._senders.get(name)
        now = self._clock()
        if sender is None:
            if len(self._senders) >= guards.devices:
                name = STRANGERS
            sender = self._senders.setdefault(name, _Sender(guards.burst, now))
        sender.tokens += (now - sender.filled) * guards.rate
        sender.filled = now
        if sender.tokens >= guards.burst:
            sender.tokens, sender.dropped = guards.burst, 0
        if sender.credit and rest in ("update", "evaluation"):
            sender.credit -= 1
            return True
        if sender.tokens >= 1.0:
            sender.tokens -= 1.0
            return True
        sender.dropped += 1
        if sender.dropped > guards.burst and name != OPERATORS:  # to hear known devices alone would not help there
            self.flooding.add(name)
        return False

    def expect(self, device_id: str, messages: int) -> None:
        """``device_id`` was asked for work that it may answer with so many ``messages``."""
        sender = self._senders.get(device_id)
        if sender is not None:
            sender.credit = messages
