"""What a service's runs tell Prometheus: read off when it asks, so that a run spends next to nothing on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tinyreptile import __version__, messages

from .histogram import Histogram
from .runs import Runs, Served
from .service import Coordinator
from .traffic import RECEIVED, SENT, Flow

# The values of labels: whatever devices say, there are no more. Each is told from the start, as 0.
REASONS = (
    *("malformed", "wrong size", "wrong version", "unknown work", "not its work", "repeated", "late", "lost"),
    *("device error", "too large", "repeated delta", "quarantined", "rolled back", "too many devices", "unfit"),
)
EVENTS = (
    *("setting", "quarantine", "release", "forget", "rollback", "drift", "disagreement", "best", "flood"),
    "distrust",
)
DROPPED = ("flood", "retained", "incoming", "outgoing", "requests")
ROLES = (messages.TRAIN, messages.EVALUATE)
STATES = ("online", "unfit", "offline")
MOMENTS = ("before", "after")


class Metrics:
    """The metrics of ``runs`` and of the process, in a registry of their own."""

    def __init__(self, runs: Runs) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Runs(runs))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of them now, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)


class _Runs(Collector):
    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def collect(self) -> Iterator[Metric]:
        families = _Families()
        families.gauge("build_info", "1, with the library's version.", 1, version=__version__)
        for served in self._runs.served:
            families.run = served.config.run.name
            _tell_served(families, served)
            if served.coordinator is not None:
                _tell_run(families, served.coordinator)
                _tell_devices(families, served.coordinator)
                _tell_service(families, served.coordinator)
        yield from families


class _Families:
    """Metric families under way, all of them ``tinyreptile_...``; what is added has the label ``run``."""

    def __init__(self) -> None:
        self.run = ""
        self._families: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def counter(self, name: str, text: str, value: float, **labels: str) -> None:
        self._add(CounterMetricFamily, name, text, labels, value)

    def gauge(self, name: str, text: str, value: float, **labels: str) -> None:
        self._add(GaugeMetricFamily, name, text, labels, value)

    def histogram(self, name: str, text: str, values: Histogram) -> None:
        buckets = [(str(floatToGoString(bound)), count) for bound, count in values.buckets()]  # type: ignore[no-untyped-call]
        self._add(HistogramMetricFamily, name, text, {}, buckets, values.sum)

    def _add(self, kind: Callable[..., Any], name: str, text: str, labels: dict[str, str], *value: Any) -> None:
        if self.run:
            labels = {"run": self.run} | labels
        if name not in self._families:
            self._families[name] = kind(f"tinyreptile_{name}", text, labels=list(labels))
        self._families[name].add_metric(list(labels.values()), *value)


def _tell_served(families: _Families, served: Served) -> None:
    families.gauge("ready", "Whether the run can do its work.", not served.obstacle)
    families.gauge("failed", "Whether the run has ended with an error.", served.error is not None)


def _tell_run(families: _Families, coordinator: Coordinator) -> None:
    run = coordinator.run_state
    families.counter("updates", "Updates that were accepted, since the run began.", run.updates)
    families.gauge("rounds", "Updates until the run ends; 0: it never ends.", run.config.run.rounds)
    families.gauge("version", "The newest version of the initialization.", run.version)
    on_the_wire = run.published_version
    lag = run.version - on_the_wire if on_the_wire >= 0 else 0
    families.gauge("publish_lag_versions", "Versions by which the published one is behind.", lag)
    families.gauge("paused", "Whether the run is held: it hands out no work.", run.config.run.paused)
    refusals = {**dict.fromkeys(REASONS, 0), **run.refusals}
    for reason, count in refusals.items():
        families.counter("refusals", "What was not taken of devices, by reason.", count, reason=reason)
    for kind in EVENTS:
        families.counter("events", "What was done to the run, by kind.", run.events[kind], kind=kind)
    for kind in ROLES:
        families.gauge("work_in_flight", "Work that is out, by kind.", run.book.count(kind), kind=kind)
    families.histogram("staleness_versions", "Versions between what was learned from and the newest.", run.staleness)
    families.histogram("round_trip_seconds", "From a request to its accepted update.", run.round_trip)
    families.counter("saturated_steps", "Steps of updates in which an activation ended at +-32.", run.saturated)
    if run.losses:
        loss = sum(run.losses) / len(run.losses)
        families.gauge("training_loss", "Mean of the latest 200 updates, each step before it is taken.", loss)
    families.counter("evaluations", "Evaluations on held-out devices.", len(run.evaluations.summaries))
    latest = run.evaluations.latest
    for moment in MOMENTS:
        if latest:
            text = "Of the last evaluation: mean query loss before and after adaptation."
            families.gauge("evaluation_loss", text, latest[moment], moment=moment)
            text = "Of the last evaluation: median query loss before and after adaptation."
            families.gauge("evaluation_median_loss", text, latest[f"median_{moment}"], moment=moment)
        if (accuracy := latest.get(f"balanced_accuracy_{moment}")) is not None:
            text = "Of the last evaluation: balanced accuracy before and after adaptation."
            families.gauge("evaluation_balanced_accuracy", text, accuracy, moment=moment)


def _tell_devices(families: _Families, coordinator: Coordinator) -> None:
    devices = coordinator.run_state.registry.devices.values()
    found = Counter((device.role, device.state) for device in devices)
    for role in ROLES:
        for state in STATES:
            families.gauge("devices", "Known devices, by role and state.", found[role, state], role=role, state=state)
    quarantined = sum(bool(device.quarantine) for device in devices)
    families.gauge("devices_quarantined", "Devices that get no work for what they sent.", quarantined)


def _tell_service(families: _Families, coordinator: Coordinator) -> None:
    families.gauge("broker_connected", "Whether there is a session with the broker.", coordinator.connected)
    families.counter("broker_reconnections", "Sessions with the broker after the first.", coordinator.reconnections)
    flows: tuple[tuple[str, Flow, tuple[str, ...]], ...] = (
        ("received", coordinator.received, (*RECEIVED, "other")),
        ("sent", coordinator.sent, SENT),
    )
    for way, flow, kinds in flows:
        for kind in kinds:
            families.counter(f"{way}_messages", f"MQTT messages {way}, by kind.", flow.messages[kind], kind=kind)
            families.counter(f"{way}_bytes", "Bytes of their bodies, by kind.", flow.bytes[kind], kind=kind)
    families.counter("malformed_messages", "Messages that were not understood.", coordinator.malformed)
    for why in DROPPED:
        text = "Messages that there was no place for, by why; they are sent again."
        families.counter("dropped_messages", text, coordinator.dropped[why], why=why)
    for queue, (waiting, bound) in coordinator.queues.items():
        families.gauge("queue_length", "What waits, by queue.", waiting, queue=queue)
        if bound is not None:
            families.gauge("queue_bound", "How much may wait, by queue; more is dropped.", bound, queue=queue)
    families.gauge("store_problem", "Whether the store can't be written just now.", bool(coordinator.store_problem))
    seconds, entries = coordinator.commits
    families.histogram("commit_seconds", "What a transaction of the store takes.", seconds)
    families.histogram("commit_entries", "Entries in a transaction of the store.", entries)
