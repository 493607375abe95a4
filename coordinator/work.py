"""Work in flight: what each device was asked, until when, and the chunks that have come back."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tinyreptile import messages, reports
from tinyreptile.delta import DeltaError
from tinyreptile.model import Model
from tinyreptile.unpacking import packed_size

from .deltas import decode, most_chunks

# After a restart, ids begin this far beyond the last one on record: more than can have been given out since.
ID_GAP = 1 << 16


class Refusal(Exception):
    """An update that is not taken; ``kind`` counts it, the text tells the device."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass
class Work:
    """One request to one device. Times are seconds of the clock that `WorkBook` is given."""

    id: int
    device: str
    kind: str  # messages.TRAIN or messages.EVALUATE
    version: int
    bits: int
    issued: float
    deadline: float
    kept: int | None = None  # of the largest changes; None: all are sent
    task: dict[str, Any] = field(default_factory=dict)  # what was asked for, see `messages.TASK`
    versions: set[int] = field(default_factory=set)  # that its device was sent to begin from
    trial: bool = False  # whether it holds no place, for its device may be gone
    accounted: tuple[int, float] | None = None  # what `Device.reserve` gave for it
    repeats: int = 0  # times the initialization was wanted again
    hellos: int = 0  # after which the request was sent again
    count: int = 1  # of the delta's chunks
    chunks: dict[int, bytes] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)  # comes with chunk 0

    def add(self, model: Model, update: dict[str, Any]) -> bytes | None:
        """Take a chunk; the whole packed delta once all are there, else None. Raises `Refusal`."""
        index = update.get("part", 0)
        count = update.get("chunks", 1)
        if self.kept is None:
            size, fits = None, 1 <= count <= most_chunks(model, self.bits)
        else:
            size = packed_size(model.parameters, self.bits, self.kept)
            fits = count == messages.chunk_count(size, messages.DELTA_BYTES)
        if not fits or index >= count or (self.chunks and count != self.count):
            raise Refusal("wrong size", f"chunk {index} of {count} is none of this delta")
        data = update.get("data", b"")
        expected = len(data) if size is None else min(messages.DELTA_BYTES, size - index * messages.DELTA_BYTES)
        if not data or len(data) != expected:
            raise Refusal("wrong size", f"chunk {index} has {len(data)} bytes")
        if index == 0:
            self.report = self._checked_report(model, update)
        self.count = count
        self.chunks[index] = bytes(data)
        if len(self.chunks) < count:
            return None
        chunks = [self.chunks[i] for i in range(count)]
        if size is not None:
            return b"".join(chunks)
        try:
            return decode(model, chunks, self.bits)
        except DeltaError as error:
            raise Refusal("wrong size", str(error)) from None

    def _checked_report(self, model: Model, update: dict[str, Any]) -> dict[str, Any]:
        try:
            report: dict[str, Any] = messages.check(reports.REPORT, update)
            reports.check_ints("gains", report["gains"], 1, 65536)
        except messages.MessageError as error:
            raise Refusal("malformed", f"report: {error}") from None
        if len(report["gains"]) != len(model.offsets):
            raise Refusal("wrong size", f"{len(report['gains'])} gains are not one for each tensor")
        return {name: report[name] for name, *_ in reports.REPORT if name in report}


class WorkBook:
    """All open work, by id, and the next deadline. An open piece of work belongs to one device."""

    def __init__(self, next_id: int = 1) -> None:
        self.open: dict[int, Work] = {}
        self.on_trial = 0  # of these
        self._counts: Counter[str] = Counter()
        self._ids = itertools.count(next_id)
        self._deadlines: list[tuple[float, int]] = []

    def issue(
        self,
        device: str,
        kind: str,
        version: int,
        bits: int,
        now: float,
        seconds: float,
        kept: int | None = None,
        *,
        trial: bool = False,
    ) -> Work:
        """New work for ``device``, open until ``seconds`` from ``now``."""
        work = Work(next(self._ids), device, kind, version, bits, now, now + seconds, kept, trial=trial)
        self.restore(work)
        return work

    def restore(self, work: Work) -> None:
        """Take up open work of an earlier start."""
        self.open[work.id] = work
        self._counts[work.kind] += 1
        self.on_trial += work.trial
        heapq.heappush(self._deadlines, (work.deadline, work.id))

    def close(self, work: Work) -> None:
        """``work`` is done with."""
        if self.open.pop(work.id, None):
            self._counts[work.kind] -= 1
            self.on_trial -= work.trial

    def count(self, kind: str) -> int:
        """Open work of ``kind``."""
        return self._counts[kind]

    def count_until(self, kind: str, time: float) -> int:
        """Open work of ``kind``, without that on trial, that was asked for until ``time``."""
        count = 0
        for work in self.open.values():  # in the order in which they were asked for
            if work.issued > time:
                break
            count += work.kind == kind and not work.trial
        return count

    def first_issued(self, kind: str) -> float | None:
        """When the oldest open work of ``kind`` was asked for, or None."""
        return next((work.issued for work in self.open.values() if work.kind == kind), None)

    def next_deadline(self) -> float | None:
        """When the first open work is due, or None."""
        while self._deadlines and self._deadlines[0][1] not in self.open:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expired(self, now: float) -> list[Work]:
        """Open work whose deadline has passed; it is closed by this."""
        late = []
        while (due := self.next_deadline()) is not None and due <= now:
            work = self.open[heapq.heappop(self._deadlines)[1]]
            self.close(work)
            late.append(work)
        return late
