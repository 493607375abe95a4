"""The service: carries a run's messages over MQTT, keeps its journal, stays up while broker and devices come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import aiomqtt

from tinyreptile import messages, reports
from tinyreptile.messages import MessageError

from .config import Config
from .control import Control
from .errors import CoordinatorError
from .guards import RateLimit
from .histogram import Histogram
from .journal import Journal
from .mqtt import broker_error, check_files, client, pack, unpack
from .run import Run
from .store import Store
from .traffic import Flow, counting_queue, kind_of
from .work import Refusal

_log = logging.getLogger(__name__)

OUTGOING = 20_000  # messages waiting to be sent; requests and answers beyond are dropped: they are repeated
REQUESTS = 100  # of operators, waiting to be carried out
SENDERS = 8  # publishes under way at once; with ours beside them aiomqtt warns beyond 10
INCOMING = 20_000  # messages waiting to be looked at; devices send again what is dropped beyond
STATUS_SECONDS = 1.0
QUIET_SECONDS = 0.3  # a retained message comes sooner after its subscription
LAST_SECONDS = 10.0  # for what is still to be said at the end
LEAVE_SECONDS = 2.0  # for a word at the end of a run that failed
MAX_BACKOFF = 30.0


class Coordinator:
    """Serves one run until it is finished or `stop` is called.

    ``on_status`` is called with the run's status message every second, and at the end.
    """

    def __init__(self, config: Config, *, on_status: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.config = config
        kept = config.journal
        check_files(config.broker)  # before there is a store
        self._store = Store(config.store_location(), config.run.name, history=kept.history, rows=kept.rows)
        try:
            self._journal = Journal(self._store)
            self.run_state = Run(config, self._store, send=self._send, record=self._record, clock=time.monotonic)
        except BaseException:
            self._store.close()
            raise
        self._topics = self.run_state.topics
        self._outbox: asyncio.Queue[tuple[str, dict[str, Any] | None]] = asyncio.Queue()
        self._requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue(REQUESTS)
        self._control = Control(
            self.run_state,
            self._store,
            self._journal,
            drain=self.drain,
            clear=lambda topic: self._send(topic, None),
        )
        self._limits = RateLimit(lambda: self.run_state.config.guards, time.monotonic)
        self.dropped: Counter[str] = Counter()  # messages that came or were to go and had no place, by why
        self.received, self.sent = Flow(), Flow()
        self.reconnections = 0
        self._connected: aiomqtt.Client | None = None
        self._boot = secrets.token_hex(4)
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._on_status = on_status
        self._rates: deque[tuple[float, int]] = deque(maxlen=11)
        self.malformed = 0

    def stop(self) -> None:
        """End `run` soon: nothing new is handed out, all that was taken is kept."""
        self._stopping.set()
        self._wake.set()

    @property
    def connected(self) -> bool:
        """Whether there is a session with the broker."""
        return self._connected is not None

    @property
    def store_problem(self) -> str:
        """Why nothing can be written just now; empty if it can."""
        return self._journal.problem

    @property
    def obstacle(self) -> str:
        """What stands in the way of work, in a sentence; empty if nothing does."""
        if not self.connected:
            return f"there is no connection to the broker at {self.config.broker.host}:{self.config.broker.port}"
        if self.store_problem:
            return self.store_problem
        return "" if self.run_state.publication.version >= 0 else "no version is on the wire yet"

    @property
    def queues(self) -> dict[str, tuple[int, int | None]]:
        """(messages or entries that wait, how many may) of each queue; None where other bounds see to that."""
        incoming = len(self._connected.messages) if self._connected else 0
        return {
            "incoming": (incoming, INCOMING),
            "outgoing": (self._outbox.qsize(), OUTGOING),
            "requests": (self._requests.qsize(), REQUESTS),
            "journal": (self._journal.waiting, None),
        }

    @property
    def commits(self) -> tuple[Histogram, Histogram]:
        """Of the store's transactions: seconds, entries."""
        return self._journal.seconds, self._journal.entries

    def drain(self) -> None:
        """End `run` once the work that is out has been answered, or its time is up."""
        self.run_state.draining = True
        self._wake.set()

    async def run(self) -> dict[str, Any]:
        """Serve; returns the last status. Raises `BrokerError` where no broker is, `StoreError` on a bad disk."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._journal.run(), name="journal")
                stopping = tasks.create_task(self._mind_stop(), name="stopping")
                try:
                    await self._serve()
                finally:
                    stopping.cancel()
                    self._journal.append(self.run_state.checkpoint())
                    self._journal.stop()
        except* Exception as group:  # noqa: BLE001 - it is raised again, without the group around it
            raise _first(group) from None
        finally:
            self._store.close()
        return self._status()

    async def _mind_stop(self) -> None:
        """Once it is to stop, do not wait for a store that can't be used: what it lacks was never acknowledged."""
        await self._stopping.wait()
        while not self._journal.problem:  # noqa: ASYNC110 - it may come any moment, and this is not for long
            await asyncio.sleep(0.1)
        self._journal.stop()

    # The session with the broker

    async def _serve(self) -> None:
        backoff = 0.5
        connected_once = False
        while not self._done():
            try:
                async with client(
                    self.config.broker,
                    will=aiomqtt.Will(
                        self._topics.coordinator, pack(self._status_message("offline")), qos=1, retain=True
                    ),
                    max_inflight_messages=200,
                    max_queued_incoming_messages=INCOMING,
                    queue_type=counting_queue(lambda: self._drop("incoming")),
                ) as session:
                    await self._check_alone(session)  # another may have come while this one was cut off
                    if connected_once:
                        _log.warning("the connection to the broker is back")
                        self.reconnections += 1
                    connected_once, backoff = True, 0.5
                    try:
                        await self._session(session)
                    except aiomqtt.MqttError:
                        raise  # the broker publishes the last will
                    except BaseException:
                        await self._leave(session)
                        raise
            except aiomqtt.MqttError as error:
                if not connected_once:
                    raise broker_error(self.config.broker, error) from None
                _log.warning("no connection to the broker (%s); trying again", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff * (0.5 + random.random() / 2)):
                        await self._stopping.wait()
                backoff = min(MAX_BACKOFF, backoff * 2)

    async def _leave(self, session: aiomqtt.Client) -> None:
        """Say that nobody serves the run any more: a connection that is closed in order leaves no last will."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._put(session, self._topics.coordinator, self._status_message("offline"), retain=True)

    async def _check_alone(self, session: aiomqtt.Client) -> None:
        """Raise `CoordinatorError` if another coordinator serves this run at this broker: it says so every second."""
        await session.subscribe(self._topics.coordinator, qos=1)
        seconds = QUIET_SECONDS
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(seconds):
                    message = await anext(aiter(session.messages))
                with contextlib.suppress(MessageError):
                    status = messages.check(reports.RUN_STATUS, unpack(message.payload))
                    if status["state"] == "running" and status["boot"] != self._boot:
                        if not message.retain:
                            raise CoordinatorError(
                                f"another coordinator serves run {self.config.run.name} at this broker; "
                                "stop it, or give this one another --run"
                            )
                        seconds = 3 * STATUS_SECONDS  # it may have died without a word, or be alive
        await session.unsubscribe(self._topics.coordinator)

    def _done(self) -> bool:
        run = self.run_state
        drained = run.draining and not run.book.open
        return self._stopping.is_set() or run.finished or drained

    async def _session(self, session: aiomqtt.Client) -> None:
        """One connection: from the first publication to its loss, or to the end of the run."""
        run = self.run_state
        self._outbox = asyncio.Queue()
        run.disconnected()
        self._connected = session
        try:
            async with asyncio.TaskGroup() as tasks:
                # First of all: it alone notices that the connection is gone, and a publication has no limit of its own.
                receiver = tasks.create_task(self._receive_forever(session), name="receiver")
                helpers = [tasks.create_task(self._send_forever(session), name=f"sender{i}") for i in range(SENDERS)]
                await self._publish(session)
                topics = self._topics.all_status, self._topics.all_updates, self._topics.control
                await session.subscribe([(topic, 1) for topic in topics])
                helpers.append(tasks.create_task(self._report_forever(session), name="reporter"))
                helpers.append(tasks.create_task(self._answer_forever(), name="control"))
                await self._dispatch(session)
                receiver.cancel()  # what is not taken any more will be sent again; what is taken is acknowledged
                await self._journal.flush()  # then the last acknowledgements are in the outbox
                async with asyncio.timeout(LAST_SECONDS):  # nobody listens any more, who would notice a lost connection
                    await self._outbox.join()
                    for helper in helpers:
                        helper.cancel()
                    await self._report(session, "finished" if run.finished else "stopped")
        except* (aiomqtt.MqttError, TimeoutError) as group:
            raise aiomqtt.MqttError(str(_first(group))) from None
        finally:
            self._connected = None

    async def _dispatch(self, session: aiomqtt.Client) -> None:
        """Publish versions, hand out work and mind the deadlines until the run is done."""
        run = self.run_state
        while not self._done():
            self._wake.clear()
            run.expire()
            if run.to_roll_back is not None:
                await self._journal.flush()
                run.roll_back(run.to_roll_back)
            publish_at = run.publish_at()
            if publish_at is not None and publish_at <= time.monotonic():
                await self._publish(session)
                publish_at = None
            run.evaluations.step()
            while not self._journal.problem and not self._loaded() and run.next_work():
                pass
            times = [time.monotonic() + STATUS_SECONDS, publish_at, run.book.next_deadline()]
            timeout = min(t for t in times if t is not None) - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, timeout)):
                    await self._wake.wait()

    def _loaded(self) -> bool:
        """Whether more waits than is taken: then less work is asked for, and nothing has to be dropped."""
        return any(2 * waiting > most for waiting, most in self.queues.values() if most is not None)

    async def _publish(self, session: aiomqtt.Client) -> None:
        """Put the current version on the wire: durable first, then its chunks, then the manifest."""
        run = self.run_state
        state = run.checkpoint()
        data = run.encoded(state)
        await self._journal.flush()
        slot, chunks = run.publication.begin(state.version, data)
        for index, chunk in enumerate(chunks):
            await self._put(session, self._topics.chunk(slot, index), chunk, retain=True)
        await self._put(session, self._topics.init, run.published(state, data), retain=True)

    async def _put(
        self, session: aiomqtt.Client, topic: str, message: dict[str, Any] | None, *, retain: bool = False
    ) -> None:
        """Publish at QoS 1 and wait for the broker; no ``message`` is an empty one.

        Without a limit of its own: keep-alive finds a dead broker, and aiomqtt's limit costs a task for every message
        and, under Python 3.11, may swallow a cancellation.
        """
        payload = b"" if message is None else pack(message)
        await session.publish(topic, payload, qos=1, retain=retain, timeout=math.inf)
        self.sent.add(kind_of(self._topics, topic), len(payload))

    # Messages

    def _send(self, topic: str, message: dict[str, Any] | None) -> None:
        """Publish ``message`` soon; None clears what is retained there."""
        if self._outbox.qsize() < OUTGOING:
            self._outbox.put_nowait((topic, message))
        else:
            self._drop("outgoing")

    def _drop(self, why: str) -> None:
        self.dropped[why] += 1

    def _record(self, entry: Any, durable: Callable[[], None] | None) -> None:
        if durable is None:
            self._journal.append(entry)
            return

        def then() -> None:
            durable()
            self._wake.set()

        self._journal.append(entry, then)

    async def _send_forever(self, session: aiomqtt.Client) -> None:
        outbox = self._outbox
        while True:
            topic, message = await outbox.get()
            try:
                await self._put(session, topic, message, retain=message is None)
            finally:
                outbox.task_done()

    async def _receive_forever(self, session: aiomqtt.Client) -> None:
        async for message in session.messages:
            size = len(message.payload) if isinstance(message.payload, bytes) else 0
            self.received.add(kind_of(self._topics, message.topic.value), size)
            if message.topic.value == self._topics.coordinator:
                continue  # left over from `_check_alone`
            self._take(message.topic.value, message.payload)

    def _take(self, topic: str, payload: Any) -> None:
        """One message off the wire; whatever it holds, nothing is raised."""
        run = self.run_state
        number = 0
        try:
            device_id, kind, index = reports.parse(self._topics, topic)
            if kind == "control":
                self._take_request(messages.check(reports.REQUEST, unpack(payload)))
            elif not self._limits.admits(device_id):
                self._drop("flood")
                return
            elif kind == "status":
                if payload:
                    run.take_status(device_id, messages.check(reports.STATUS, unpack(payload)))
            else:
                update = unpack(payload)
                if isinstance(update, dict) and isinstance(update.get("work"), int):
                    number = update["work"]
                run.take_update(device_id, index, messages.check(reports.UPDATE, update))
        except MessageError as error:
            self.malformed += 1
            _log.info("a message on %s was not understood: %s", topic, error)
            if 1 <= number < 2**31:
                run.refuse(device_id, number, Refusal("malformed", str(error)))
            else:
                run.refusals["malformed"] += 1
        self._wake.set()

    def _take_request(self, request: dict[str, Any]) -> None:
        messages.check_id(request["client"], "a client's name")
        try:
            self._requests.put_nowait(request)
        except asyncio.QueueFull:
            self._drop("requests")

    async def _answer_forever(self) -> None:
        while True:
            request = await self._requests.get()
            for message in await self._control.answer(request):
                self._send(self._topics.answers(request["client"]), message)
            self._wake.set()

    # Report

    async def _report_forever(self, session: aiomqtt.Client) -> None:
        while True:
            await self._report(session, "running")
            await asyncio.sleep(STATUS_SECONDS)

    async def _report(self, session: aiomqtt.Client, state: str) -> None:
        status = self._status_message(state)
        if self._on_status:
            self._on_status(status)
        await self._put(session, self._topics.coordinator, status, retain=True)

    def _status_message(self, state: str) -> dict[str, Any]:
        now = time.monotonic()
        self._rates.append((now, self.run_state.updates))
        (then, updates) = self._rates[0]
        rate = (self.run_state.updates - updates) / (now - then) if now > then else 0.0
        status = self.run_state.status(state) | {"rate": round(rate, 2), "boot": self._boot}
        if self._journal.problem:
            status["problem"] = self._journal.problem[: reports.TEXT]
        if self.dropped:
            status["dropped"] = dict(self.dropped)
        return status

    def _status(self) -> dict[str, Any]:
        return self._status_message("finished" if self.run_state.finished else "stopped")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single exception in ``group``."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
