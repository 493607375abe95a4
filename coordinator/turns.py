"""Whose turn it is: idle devices by what their work has cost the others, and how much of a run one device may make."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator

from .window import Window

LATEST = 200  # updates that shares are taken of, and what is usual
LEAST = 4  # of these any device may make
SLOW = 4.0  # times what is usual for an update: the time beyond is paid from the purse
PART = 1 / 8  # of the time of all others comes into it
PURSE = 60.0  # seconds that it holds at most
DEBTS = 10.0  # times as many may be owed


class Queue:
    """Devices that wait: the lowest tag comes first, of equal ones the longest waiting."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[float, int, str]] = {}
        self._heap: list[tuple[float, int, str]] = []  # places, those that were left among them
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, device_id: str) -> bool:
        return device_id in self._places

    def __iter__(self) -> Iterator[str]:
        return (device_id for _, _, device_id in sorted(self._places.values()))

    def add(self, device_id: str, tag: float) -> None:
        """Put ``device_id`` where ``tag`` has it, if it does not wait already."""
        if device_id not in self._places:
            place = self._places[device_id] = (tag, next(self._numbers), device_id)
            heapq.heappush(self._heap, place)

    def discard(self, device_id: str) -> None:
        """Let ``device_id`` wait no longer."""
        self._places.pop(device_id, None)
        if len(self._heap) > 2 * len(self._places) + 16:
            self._heap = sorted(self._places.values())

    def first(self, suits: Callable[[str], bool] | None = None) -> str | None:
        """Return the first that ``suits``, who stays in the queue; None if nobody does."""
        passed = []
        found = None
        while self._heap and found is None:
            place = heapq.heappop(self._heap)
            if self._places.get(place[2]) == place:
                passed.append(place)
                if suits is None or suits(place[2]):
                    found = place[2]
        for place in passed:
            heapq.heappush(self._heap, place)
        return found


class Fairness:
    """What the work of devices costs the others: the seconds for which they hold a place.

    Start-time fair queueing (Goyal, Vin, Cheng, 1996): a device's tag grows by the time that it has held a place, and
    the lowest tag comes first. So where places are few, all have equal times. Whoever takes longer than `SLOW` times
    what is usual for an update, or delivers nothing for so long, pays the time beyond from a purse that all who do so
    share, and that fills with `PART` of the time that others take. While it is empty those have to wait, and those of
    whom nothing is known, as long as somebody else is idle: however many they are, they have no more than that part.

    Attributes:
        purse: seconds in it.
    """

    def __init__(self) -> None:
        self.purse = 0.0
        self._tags: dict[str, float] = {}
        self._took: dict[str, float] = {}  # seconds, of the latest update of each
        self._latest = Window(LATEST, LEAST)  # seconds, of the latest updates: who answers most is not alone in them
        self._begun = 0.0  # highest tag of those that were given work

    def tag(self, device_id: str) -> float:
        """Return its place in the order: who was away does not bring a lead with it."""
        return max(self._tags.get(device_id, 0.0), self._begun)

    def begin(self, device_id: str) -> None:
        """``device_id`` is given work."""
        self._begun = self.tag(device_id)

    def spend(self, device_id: str, seconds: float, places: int, *, delivered: bool) -> None:
        """``device_id`` has held ``places`` for ``seconds``, and ``delivered`` an update, or nothing."""
        beyond = max(0.0, seconds - SLOW * self.usual()) if self._latest else 0.0
        self.purse = min(PURSE, self.purse + PART * (seconds - beyond)) - places * beyond
        self.purse = max(self.purse, -DEBTS * PURSE)
        if delivered:
            self._took[device_id] = seconds
            self._latest.add(device_id, seconds)
        self._tags[device_id] = self.tag(device_id) + seconds

    def is_costly(self, device_id: str) -> bool:
        """Whether it takes longer than others, or nothing is known of it."""
        took = self._took.get(device_id)
        return took is None or took > SLOW * self.usual()

    def usual(self) -> float:
        """Return the seconds within which half of the latest updates came, few of each device; 0 before the first."""
        return self._latest.median() if self._latest else 0.0

    def forget(self, device_id: str) -> None:
        """Nothing is known of it any more."""
        self._latest.forget(device_id)
        self._tags.pop(device_id, None)
        self._took.pop(device_id, None)


class Shares:
    """Who made the latest updates: no device more than so many times an equal share, with the ``limit`` at hand."""

    def __init__(self) -> None:
        self._latest: deque[str] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, device_id: str) -> bool:
        """Count an update; return whether others than before have made the latest ones."""
        known = device_id in self._counts
        self._latest.append(device_id)
        self._counts[device_id] += 1
        if len(self._latest) <= LATEST:
            return not known
        earliest = self._latest.popleft()
        self._counts[earliest] -= 1
        if self._counts[earliest]:
            return not known
        del self._counts[earliest]
        return True

    def makers(self) -> list[str]:
        """Return who made them."""
        return list(self._counts)

    def part(self, device_id: str) -> float:
        """Return which part of the latest updates it has made; there must be one."""
        return self._counts[device_id] / len(self._latest)

    def allow(self, device_id: str, limit: float, makers: int) -> bool:
        """Whether one more is at most ``limit`` times what each of ``makers`` devices would make; 0: there is none."""
        most = max(LEAST, limit * len(self._latest) / max(1, makers))
        return not limit or self._counts[device_id] < most
