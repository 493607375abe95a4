"""A run without a network: its clock, its messages and its journal are in the test's hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator.config import Config, load_config
from coordinator.entries import Entry
from coordinator.run import Run
from coordinator.store import Store
from simulator.offline import take
from tinyreptile import messages, reports
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.streams import TRAIN
from tinyreptile.streams.sine import SineStream

MODEL: list[list[Any]] = [["input", 1], ["dense", 8, "relu"], ["dense", 1], ["squared_error"]]


def configuration(path: Path, **tables: dict[str, Any]) -> Config:
    """A small serial run with its store at ``path``; ``tables`` change it."""
    learning = {"mode": "serial", "steps": 4, "beta": 0.01, "deadline": 60, "publish_interval": 0}
    defaults = {
        "run": {"name": "test", "model": MODEL, "rounds": 100, "store": path},
        "learning": learning,
        "evaluation": {"every": 0, "steps": 4, "shots": 4, "queries": 5},
    }
    return load_config(None, tables, defaults)


class Update:
    """What a device learned from ``data``, the initialization that the request ``work`` points to."""

    def __init__(
        self, work: dict[str, Any], data: bytes, model: Model | None = None, seed: int = 1, encoding: str = "int16"
    ) -> None:
        model = model or Model(MODEL)
        learner = Learner(model, encoding=encoding)
        learner.wire[:] = data
        learner.receive()
        learner.load()
        learner.seed(work["work"])
        learner.set_rate(work["beta"])
        stream = SineStream(seed)
        stream.begin(TRAIN)
        loss = 0.0
        for _ in range(work["steps"]):
            take(stream, learner.x, learner.y)
            loss += learner.step(learner.x, learner.y) / work["steps"]
        delta = learner.delta(work["bits"], work.get("kept"))
        self.packed = bytearray(delta.size)
        delta.pack(0, self.packed)
        self.work = work["work"]
        self.report: dict[str, Any] = {
            "version": work["version"],
            "bits": work["bits"],
            "gains": delta.gains,
            "loss": loss,
            "samples": work["steps"],
            "ms": 5,
            "free": 0,
        }
        if "kept" in work:
            self.report["kept"] = work["kept"]

    def messages(self) -> list[dict[str, Any]]:
        """Its chunks, as they go over the wire."""
        size = messages.CHUNK_BYTES
        pieces = [bytes(self.packed[at : at + size]) for at in range(0, len(self.packed), size)]
        chunks: list[dict[str, Any]] = [{"work": self.work, "chunks": len(pieces), "data": piece} for piece in pieces]
        chunks[0]["report"] = self.report
        return chunks


class Driver:
    """A `Run` on the store at ``path``.

    Attributes:
        now: the clock, moved by the test.
        sent: (topic, message) of all that the run has sent.
        waiting: (entry, durable) of what was recorded and is not on disk before `commit`.
        published: data of every version that `publish` put on the wire.
    """

    def __init__(self, path: Path, **tables: dict[str, Any]) -> None:
        self.now = 1000.0
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.waiting: list[tuple[Entry, Callable[[], None] | None]] = []
        self.published: dict[int, bytes] = {}
        self.config = configuration(path, **tables)
        self.store = Store(str(path), "test")
        self.run = Run(
            self.config,
            self.store,
            send=lambda topic, message: self.sent.append((topic, message)),
            record=lambda entry, durable: self.waiting.append((entry, durable)),
            clock=lambda: self.now,
        )

    def commit(self) -> None:
        """All that waits becomes durable."""
        while self.waiting:
            batch, self.waiting = self.waiting, []
            self.store.write([entry for entry, _ in batch])
            for _, durable in batch:
                if durable is not None:
                    durable()

    def publish(self) -> dict[str, Any]:
        """Put the current version on the wire; returns its manifest."""
        self.commit()
        state = self.run.checkpoint()
        data = self.run.encoded(state)
        self.run.publication.begin(state.version, data)
        self.published[state.version] = data
        return self.run.published(state, data)

    def advance(self) -> None:
        """What the service does when something has happened: deadlines, publication, evaluation, work."""
        self.commit()
        self.run.expire()
        at = self.run.publish_at()
        if at is not None and at <= self.now:
            self.publish()
        self.run.evaluations.step()
        while self.run.next_work():
            pass
        self.commit()

    def close(self) -> None:
        """As a crash leaves it: what was not committed is lost."""
        self.store.close()

    # A device's side

    def hello(self, device: str, boot: str = "b1", role: str = "train", state: str = "online", work: int = 0) -> None:
        """A device's status message."""
        status = {"protocol": messages.PROTOCOL, "state": state, "boot": boot, "role": role, "work": work}
        self.run.take_status(device, messages.check(reports.STATUS, status))

    def requests(self, device: str) -> list[dict[str, Any]]:
        """The work messages that ``device`` was sent."""
        topic = self.run.topics.device(device).work
        return [messages.check(messages.WORK, message) for at, message in self.sent if at == topic]

    def acks(self, device: str) -> list[tuple[int, bool, str]]:
        """(work, accepted, reason) of the acknowledgements that ``device`` was sent."""
        topic = self.run.topics.device(device).ack
        acks = [messages.check(messages.ACK, message) for at, message in self.sent if at == topic]
        return [(ack["work"], ack["accepted"], ack.get("reason", "")) for ack in acks]

    def learn(self, device: str, seed: int = 1) -> Update:
        """What ``device`` makes of its latest request."""
        work = self.requests(device)[-1]
        return Update(work, self.published[work["version"]], self.run.model, seed, self.config.learning.encoding)

    def send(self, device: str, *chunks: dict[str, Any], first: int = 0) -> None:
        """``chunks`` arrive from ``device``."""
        for index, chunk in enumerate(chunks, start=first):
            self.run.take_update(device, index, messages.check(reports.UPDATE, chunk))

    def answer(self, device: str, seed: int = 1) -> Update:
        """``device`` does its latest work and sends the whole update."""
        update = self.learn(device, seed)
        self.send(device, *update.messages())
        return update
