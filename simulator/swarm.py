"""A swarm: many devices in one process, each the very same client with an MQTT session of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from dataclasses import asdict, dataclass, field
from pathlib import Path

from coordinator import tls
from coordinator.config import BrokerConfig
from deployment.errors import DeploymentError
from deployment.fleet import load
from tinyreptile import messages
from tinyreptile.client import Client
from tinyreptile.cpython_compile import compiled, progress
from tinyreptile.device import DeviceError
from tinyreptile.privacy import Privacy

from .conditions import Conditions, Network, PacedStream
from .tasks import TaskError, make_task

_log = logging.getLogger(__name__)

CONNECTS_PER_SECOND = 200


@dataclass(frozen=True)
class SwarmSpec:
    """All that makes a fleet; with the same spec the devices have the same names and samples."""

    run: str
    broker: BrokerConfig
    task: str
    devices: int
    evaluators: int = 0
    seed: int = 1
    first: int = 0  # index of the first device, for a swarm spread over processes
    first_evaluator: int = 0
    data: Path | None = None
    ram: int | None = None
    prefix: str | None = None
    client_id: str = messages.CLIENT_ID  # as in a device's configuration
    fleet: Path | None = None  # folder of credentials: the devices are those that it has for the run
    privacy: tuple[float, float] | None = None  # clip and noise of `tinyreptile.privacy.Privacy`, for those that train
    ledgers: Path | None = None  # folder of the files that count their private updates; None: each start begins anew
    weights: str = "int16"  # that the run is expected to have: their kernels are compiled before anything connects
    conditions: Conditions = field(default_factory=Conditions)

    def split(self, processes: int) -> list[SwarmSpec]:
        """The same fleet in ``processes`` parts."""
        parts = []
        for i in range(processes):
            ends = [self.devices * (i + j) // processes for j in (0, 1)]
            eval_ends = [self.evaluators * (i + j) // processes for j in (0, 1)]
            parts.append(
                SwarmSpec(
                    **{
                        **{name: getattr(self, name) for name in self.__dataclass_fields__},
                        "first": ends[0],
                        "devices": ends[1] - ends[0],
                        "first_evaluator": eval_ends[0],
                        "evaluators": eval_ends[1] - eval_ends[0],
                    }
                )
            )
        return parts


@dataclass
class Counts:
    """What became of a swarm's work, as the devices saw it; ``took_part``: devices of which anything was accepted."""

    online: int = 0
    took_part: int = 0
    accepted: int = 0
    refused: int = 0
    expired: int = 0
    evaluations: int = 0
    malformed: int = 0
    reconnections: int = 0
    unfit: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Totals of two swarms."""
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})


class Swarm:
    """The devices of ``spec``; raises `TaskError` if the task can't be set up.

    Attributes:
        ready: whether the kernels are compiled; devices may connect from then on.
    """

    def __init__(self, spec: SwarmSpec) -> None:
        self.spec = spec
        self.ready = False
        self._problem: str | None = None
        self._task = make_task(spec.task, spec.data)
        for count, limit, what in (
            (spec.first + spec.devices, self._task.devices, "training"),
            (spec.first_evaluator + spec.evaluators, self._task.evaluators, "held-out"),
        ):
            if limit is not None and count > limit:
                raise TaskError(f"the task {spec.task} has data for {limit} {what} devices, not {count}")
        self._fleet = load(spec.fleet) if spec.fleet else None
        self._members: dict[str, list[str]] = {}
        for role, wanted in (
            (messages.TRAIN, spec.first + spec.devices),
            (messages.EVALUATE, spec.first_evaluator + spec.evaluators),
        ):
            there = self._members[role] = self._fleet.devices_of(spec.run, role) if self._fleet else []
            if self._fleet and wanted > len(there):
                raise DeploymentError(
                    f"the fleet in {spec.fleet} has {len(there)} devices of run {spec.run} with the role {role}, "
                    f"not {wanted}; tinyreptile provision --role {role} adds more, -n and --evaluators take fewer"
                )
        self._tls = tls.context(spec.broker)
        self._clients = [self._client(spec.first + i, messages.TRAIN) for i in range(spec.devices)]
        self._clients += [self._client(spec.first_evaluator + i, messages.EVALUATE) for i in range(spec.evaluators)]

    def _client(self, index: int, role: str) -> Client:
        spec = self.spec
        training = role == messages.TRAIN
        seed = spec.seed * 1_000_003 + 2 * index + training
        stream = (self._task.train_stream if training else self._task.unseen_stream)(index, spec.seed)
        kind = type(stream).__name__
        network = Network(spec.conditions, seed)
        if training and (spec.conditions.think or spec.conditions.drop_out):
            stream = PacedStream(stream, spec.conditions, network, seed)
        name = f"{spec.prefix or self._task.name}-{'' if training else 'unseen-'}{index}"
        broker, context = spec.broker, self._tls
        if self._fleet:
            name = self._members[role][index]
            broker = self._fleet.broker_of(name)
            context = tls.context(broker)
        return Client(
            name,
            spec.run,
            stream,
            role=role,
            ram=spec.ram,
            client_id=spec.client_id,
            stream_name=kind,
            privacy=self._privacy(name) if training else None,
            log=lambda text: _log.info("device %s: %s", name, text),
            host=broker.host,
            port=broker.port,
            user=broker.user,
            password=broker.password(),
            keepalive=broker.keepalive,
            tls=context,
            open_connection=network.open,
        )

    def _privacy(self, name: str) -> Privacy | None:
        """Return what makes the updates of the device ``name`` private; raises `TaskError` for a damaged ledger."""
        spec = self.spec
        if not spec.privacy:
            return None
        if spec.ledgers:
            spec.ledgers.mkdir(parents=True, exist_ok=True)
        try:
            return Privacy(*spec.privacy, path=str(spec.ledgers / f"privacy-{name}.json") if spec.ledgers else None)
        except ValueError as error:
            raise TaskError(str(error)) from None

    @property
    def problem(self) -> str | None:
        """Why devices can't take part, if some can't: the first one's reason."""
        unfit = next((d for d in self._clients if d.unfit), None)
        return self._problem or (f"device {unfit.id}: {unfit.unfit}" if unfit else None)

    def counts(self) -> Counts:
        """What has happened so far."""
        devices = self._clients
        return Counts(
            online=sum(d.mqtt.connected for d in devices),
            took_part=sum(d.accepted + d.evaluations > 0 for d in devices),
            accepted=sum(d.accepted for d in devices),
            refused=sum(d.refused for d in devices),
            expired=sum(d.expired for d in devices),
            evaluations=sum(d.evaluations for d in devices),
            malformed=sum(d.malformed for d in devices),
            reconnections=sum(max(0, d.mqtt.connections - 1) for d in devices),
            unfit=sum(d.unfit is not None for d in devices),
        )

    @property
    def compiling(self) -> tuple[int, int] | None:
        """How many kernels there are of how many, while this process compiles them."""
        kernels: tuple[int, int] | None = None if self.ready else progress(self.spec.weights)
        return kernels

    async def run(self, stop: asyncio.Event, connect: asyncio.Event | None = None) -> None:
        """Compile the kernels, then live until ``stop`` is set, or no device is left that can take part.

        Devices connect no sooner than ``connect`` is set, where it is given.
        """
        _allow_files(len(self._clients) + 200)
        stopped = asyncio.create_task(stop.wait())
        living = asyncio.create_task(self._live_all(connect))
        try:
            await asyncio.wait([stopped, living], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await living

    async def _live_all(self, connect: asyncio.Event | None) -> None:
        await compiled(self.spec.weights, _log.info)
        self.ready = True
        if connect is not None:
            await connect.wait()
        lives = [asyncio.create_task(self._live(client, i)) for i, client in enumerate(self._clients)]
        try:
            await asyncio.gather(*lives)
        finally:
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)  # each still says good-bye

    async def _live(self, client: Client, position: int) -> None:
        await asyncio.sleep(position / CONNECTS_PER_SECOND)
        try:
            await client.run()
        except DeviceError as error:
            self._problem = self._problem or f"device {client.id}: {error}"


def _allow_files(count: int) -> None:
    """A connection takes a file descriptor: raise this process's soft limit where the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard < 0 else min(count, hard), hard))
