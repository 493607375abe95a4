"""The latest of what devices have sent, in which none has more than its part, however much it sends."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence


class Window:
    """At most ``size`` values, the latest, of no device more than a quarter of them all, or than ``few``.

    A further one of a device that has as many takes the place of its own oldest, any other that of the oldest of all.
    """

    def __init__(self, size: int, few: int) -> None:
        self._size = size
        self._few = few
        self._entries: deque[tuple[str, float]] = deque()
        self._of: dict[str, deque[float]] = {}  # the same by device
        self._ordered: list[float] = []  # the same, the lowest first

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """(device, value), the oldest first."""
        return iter(self._entries)

    def of(self, device: str) -> Sequence[float]:
        """Return the values of ``device``, the oldest first."""
        return self._of.get(device, ())

    def median(self) -> float:
        """Return the median of all values; there must be one."""
        half = len(self._ordered) // 2
        return (self._ordered[half] + self._ordered[~half]) / 2

    def add(self, device: str, value: float) -> str | None:
        """Add a ``value`` of ``device``; return whose has made room for it, None if there was room."""
        loser = None
        if len(self.of(device)) >= max(self._few, len(self) // 4):
            loser = self._take_out(next(place for place, (of, _) in enumerate(self._entries) if of == device))
        elif len(self._entries) == self._size:
            loser = self._take_out(0)
        self._entries.append((device, value))
        self._of.setdefault(device, deque()).append(value)
        insort(self._ordered, value)
        return loser

    def forget(self, device: str) -> None:
        """``device`` is gone."""
        if self._of.pop(device, None):
            self._entries = deque(entry for entry in self._entries if entry[0] != device)
            self._ordered = sorted(value for _, value in self._entries)

    def _take_out(self, place: int) -> str:
        """Forget the value at ``place``, the oldest of its device; return whose it was."""
        device, value = self._entries[place]
        del self._entries[place]
        del self._ordered[bisect_left(self._ordered, value)]
        self._of[device].popleft()
        if not self._of[device]:
            del self._of[device]
        return device
