"""A run without a network: its clock, its messages and its journal are in the test's hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator.config import Config, load_config
from coordinator.entries import Entry
from coordinator.run import Run
from coordinator.store import Store
from coordinator.work import Work
from simulator.offline import take
from tinyreptile import messages, reports
from tinyreptile.coding import Coded
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.streams import TRAIN
from tinyreptile.streams.sine import SineStream

MODEL: list[list[Any]] = [["input", 1], ["dense", 8, "relu"], ["dense", 1], ["squared_error"]]


MODES: dict[str, dict[str, Any]] = {
    "serial": {"mode": "serial"},
    "asynchronous": {"mode": "asynchronous", "in_flight": 4},
    "batch": {"mode": "batch", "batch": 4},
}


def configuration(path: Path, **tables: dict[str, Any]) -> Config:
    """A small serial run with its store at ``path``; ``tables`` change it."""
    learning = {"mode": "serial", "steps": 4, "beta": 0.01, "deadline": 60, "publish_interval": 0, "encoding": "int16"}
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
        task = work["task"]
        learner.set_rate(task["beta"])
        stream = SineStream(seed)
        stream.begin(TRAIN)
        loss = 0.0
        for _ in range(task["steps"]):
            take(stream, learner.x, learner.y)
            loss += learner.step(learner.x, learner.y) / task["steps"]
        delta = learner.delta(task["bits"], task.get("kept"))
        self.packed = bytearray(delta.size)
        delta.pack(0, self.packed)
        chunked = Coded(delta)
        self.chunks = [bytearray(size) for size in chunked.sizes]
        for index, chunk in enumerate(self.chunks):
            chunked.pack(index, memoryview(chunk))
        self.work = work["work"]
        self.report: dict[str, Any] = {"version": work["version"], "gains": delta.gains, "loss": loss}

    def messages(self) -> list[dict[str, Any]]:
        """Its chunks, as they go over the wire."""
        count = len(self.chunks)
        chunks: list[dict[str, Any]] = [{"work": self.work, "chunks": count, "data": bytes(c)} for c in self.chunks]
        chunks[0] |= self.report
        for index in range(1, count):
            chunks[index]["part"] = index
        return chunks


class Driver:
    """A `Run` on the store at ``path``.

    Attributes:
        now: the clock, moved by the test.
        sent: (topic, message) of all that the run has sent.
        waiting: (entry, durable) of what was recorded and is not on disk before `commit`.
        versions: data of every version that a device was sent or that was published.
    """

    def __init__(self, path: Path, **tables: dict[str, Any]) -> None:
        self.now = 1000.0
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.waiting: list[tuple[Entry, Callable[[], None] | None]] = []
        self.versions: dict[int, bytes] = {}
        self._told: dict[str, dict[str, Any]] = {}  # the task that each device heard of last, by topic
        self._tasks: dict[int, dict[str, Any]] = {}  # by work
        self.config = configuration(path, **tables)
        kept = self.config.journal
        self.store = Store(str(path), "test", history=kept.history, rows=kept.rows)
        self.run = Run(
            self.config,
            self.store,
            send=self._send,
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

    def _send(self, topic: str, *letter: dict[str, Any]) -> None:
        self.sent += [(topic, message) for message in letter]
        version = letter[0].get("version")
        if version is not None:
            self._told[topic] = messages.check(messages.TASK, letter[0].get("task", self._told.get(topic)))
            self._tasks[letter[0]["work"]] = self._told[topic]
            data = b"".join(message["data"] for message in letter)
            if "from" not in letter[0]:
                self.versions[version] = data
            elif data:
                self.versions[version] = self.run._versions._latest[version].data

    def publish(self) -> dict[str, Any]:
        """Publish the current version; returns its manifest."""
        self.commit()
        version = self.run.newest()
        self.versions[version.number] = version.data
        return self.run.published(version)

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

    def hello(
        self,
        device: str,
        boot: str = "b1",
        role: str = "train",
        state: str = "online",
        work: int = 0,
        **fields: float,
    ) -> None:
        """A device's status message, with further ``fields``."""
        status = {"protocol": messages.PROTOCOL, "state": state, "boot": boot, "role": role, "work": work} | fields
        self.run.take_status(device, messages.check(reports.STATUS, status))

    def requests(self, device: str) -> list[dict[str, Any]]:
        """The requests that ``device`` was sent, each with its task whether it was told or known."""
        topic = self.run.topics.device(device).work
        sent = [messages.check(messages.WORK, message) for at, message in self.sent if at == topic]
        return [m | {"task": self._tasks[m["work"]]} for m in sent if "version" in m]

    def acks(self, device: str) -> list[tuple[int, bool, str]]:
        """(work, accepted, reason) of the answers that ``device`` was sent, alone or with a request."""
        topic = self.run.topics.device(device).work
        answers = [message for at, message in self.sent if at == topic and "done" in message]
        return [(answer["done"], "refused" not in answer, answer.get("refused", "")) for answer in answers]

    def learn(self, device: str, seed: int = 1) -> Update:
        """What ``device`` makes of its latest request."""
        work = self.requests(device)[-1]
        return Update(work, self.versions[work["version"]], self.run.model, seed, self.config.learning.encoding)

    def send(self, device: str, *answers: dict[str, Any]) -> None:
        """``answers`` arrive from ``device``, on the topic of its role."""
        known = self.run.registry.devices.get(device)
        for answer in answers:
            if known is not None and known.role == messages.EVALUATE:
                self.run.take_evaluation(device, messages.check(reports.FOUND, answer))
            else:
                self.run.take_update(device, messages.check(reports.UPDATE, answer))

    def answer(self, device: str, seed: int = 1) -> Update:
        """``device`` does its latest work and sends the whole update."""
        update = self.learn(device, seed)
        self.send(device, *update.messages())
        return update


class Living:
    """The devices among those of a run that are there: each answers two seconds after it was asked, all the same.

    ``slow`` are the seconds of those that need longer.
    """

    def __init__(self, driver: Driver, names: set[str], slow: dict[str, float] | None = None) -> None:
        self.driver = driver
        self.names = names
        self.slow = slow or {}
        self._messages: list[dict[str, Any]] = []

    def live(self, seconds: int) -> int:
        """So many ``seconds`` pass; how many updates came of them."""
        driver, before = self.driver, self.driver.run.updates
        for _ in range(seconds):
            driver.now += 1
            for work in list(driver.run.book.open.values()):
                if work.device in self.names and driver.now >= work.issued + self.slow.get(work.device, 2):
                    self._answer(work)
            driver.commit()
            driver.advance()
            if self._messages:
                driver.sent.clear()
        return driver.run.updates - before

    def _answer(self, work: Work) -> None:
        if not self._messages:
            self._messages = self.driver.answer(work.device).messages()
            return
        first, *others = ({**message, "work": work.id} for message in self._messages)
        self.driver.send(work.device, first | {"version": max(work.versions)}, *others)
