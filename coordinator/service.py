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

from .administrator import plugin_of
from .config import Config, broker_in
from .control import Control
from .echo import ECHO_SECONDS, not_retained
from .errors import BrokerError, CoordinatorError, cut, failure_text
from .histogram import Histogram
from .journal import Journal
from .mqtt import broker_error, check_files, check_limits, client, limit_of, not_echoed, pack, subscribe, unpack
from .run import Run
from .store import Store
from .traffic import RETAINED, Flow, guarded_queue, kind_of

_log = logging.getLogger(__name__)

OUTGOING = 20_000  # messages waiting to be sent; requests and answers beyond are dropped: they are repeated
REQUESTS = 100  # of operators, waiting to be carried out
SENDERS = 8  # publishes under way at once; with ours beside them aiomqtt warns beyond 10
INCOMING = 20_000  # messages waiting to be looked at; devices send again what is dropped beyond
STATUS_SECONDS = 1.0
AUDIT_SECONDS = 30.0  # between two looks at what is retained at the broker
UNHEARD_SECONDS = 3.0  # after the subscriptions, until all that is retained of devices has come
AGAIN_SECONDS = 2.0  # until the next one where something was missing
ANSWER_SECONDS = 30.0  # for the broker to acknowledge a publication
QUIET_SECONDS = 0.3  # a retained message comes sooner after its subscription
SIEGE_SECONDS = 15.0  # that a sender who floods is not heard, at first; then twice as long each time
MAX_SIEGE = 300.0
CALM_SECONDS = 5.0  # without a flood after these: all are heard again
ADMINISTRATOR_SECONDS = 10.0  # for the broker's plugin to shut out who floods
FILTERS_AT_ONCE = 16  # of one subscription, so that it fits a packet
LAST_SECONDS = 10.0  # for what is still to be said at the end
LEAVE_SECONDS = 2.0  # for a word at the end of a run that failed
MAX_BACKOFF = 30.0
LASTED_SECONDS = 20.0  # a session that was this long ends the back-off that came before it


class Coordinator:
    """Serves one run until it is finished or `stop` is called.

    ``on_status`` is called with the run's status message every second, and at the end.
    """

    def __init__(self, config: Config, *, on_status: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.config = config
        kept = config.journal
        check_files(config.broker)  # before there is a store
        if config.guards.administrator is not None:
            check_files(broker_in(config.guards.administrator))
        self._store = Store(config.store_location(), config.run.name, history=kept.history, rows=kept.rows)
        try:
            self._journal = Journal(self._store)
            self.run_state = Run(config, self._store, send=self._send, record=self._record, clock=time.monotonic)
        except BaseException:
            self._store.close()
            raise
        self._topics = self.run_state.topics
        self._outbox: asyncio.Queue[tuple[str, tuple[dict[str, Any] | None, ...]]] = asyncio.Queue()
        self._requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue(REQUESTS)
        self._control = Control(
            self.run_state,
            self._store,
            self._journal,
            drain=self.drain,
            clear=lambda topic: self._send(topic, None),
        )
        self.dropped: Counter[str] = Counter()  # messages that came or were to go and had no place, by why
        self.received, self.sent = Flow(), Flow()
        self.reconnections = 0
        self._connected: aiomqtt.Client | None = None
        self._unanswered: dict[object, float] = {}  # publications without an acknowledgement, oldest first: since when
        self._published: dict[str, bytes] = {}  # the published version as it is to be retained, by topic
        self._awaited: set[str] = set()  # topics of messages of its own that have not been seen at the broker yet
        self._seen = asyncio.Event()  # nothing is awaited any more
        self._audited = False  # whether the session has come so far that its rights are known
        self._away = ""  # why there is no session, in a sentence
        self._denied = ""  # what the broker does not let this client do, in a sentence
        self._boot = secrets.token_hex(4)
        self._own_status = self._topics.device(self._boot).status  # of no device
        topics = self._topics
        self._from_all = (topics.all_status, topics.all_updates, topics.all_evaluations)
        self._flooded = asyncio.Event()
        self._powerless = ""  # why nobody was shut out at the broker last, in a sentence
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._reported = False  # whether the broker has the run's last status
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
    def problem(self) -> str:
        """What of its store or its rights at the broker hinders its work, in a sentence; empty if nothing does."""
        return self.store_problem or self._denied

    @property
    def obstacle(self) -> str:
        """What stands in the way of work, in a sentence; empty if nothing does."""
        if not self.connected:
            where = f"{self.config.broker.host}:{self.config.broker.port}"
            return f"there is no connection to the broker at {where}" + (f" ({self._away})" if self._away else "")
        if self.problem:
            return self.problem
        if self.run_state.published_version < 0:
            return "no version is published yet"
        return "" if self._audited else "whether the broker lets this client do its work is not known yet"

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
        connected_once = worked_once = False
        self._reported = self._done()  # one that was over before has nothing to say
        over_at = math.inf
        while not (self._reported or self._stopping.is_set() or time.monotonic() > over_at):
            begun = math.inf
            if not connected_once:
                await check_limits(self.config.broker)
            try:
                async with self._client(connected_once) as session:
                    begun = time.monotonic()
                    is_back, connected_once = connected_once, True
                    await self._check_alone(session)  # another may have come while this one was cut off
                    if is_back:
                        _log.warning("the connection to the broker is back")
                        self.reconnections += 1
                    try:
                        await self._session(session)
                    except aiomqtt.MqttError:
                        raise  # the broker publishes the last will
                    except BaseException as failure:
                        await self._leave(session, _first(failure))
                        raise
            except aiomqtt.MqttError as error:
                if not connected_once:
                    raise await asyncio.to_thread(broker_error, self.config.broker, error) from None
                worked_once = worked_once or self._audited
                self._away = str(error)
                if time.monotonic() - begun > LASTED_SECONDS:
                    backoff = 0.5
                elif (
                    begun < math.inf
                    and not self._stopping.is_set()
                    and (limit := await asyncio.to_thread(limit_of, self.config.broker))
                ):
                    if not worked_once:
                        raise await asyncio.to_thread(broker_error, self.config.broker, error) from None
                    self._away = limit
                _log.warning("no connection to the broker (%s); trying again", self._away)
                if self._done():  # only its last word is missing
                    over_at = min(over_at, time.monotonic() + LAST_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff * (0.5 + random.random() / 2)):
                        await self._stopping.wait()
                backoff = min(MAX_BACKOFF, backoff * 2)

    def _client(self, connected_once: bool) -> aiomqtt.Client:
        """A client for the next session; raises `CoordinatorError` if its files can't be used, or never could be.

        Once they have been of use, that is passing: they may be renewed, or mounted anew, one after the other.
        """
        try:
            return client(
                self.config.broker,
                will=aiomqtt.Will(self._topics.coordinator, pack(self._status_message("offline")), qos=1, retain=True),
                max_inflight_messages=200,
                max_queued_incoming_messages=INCOMING,
                queue_type=guarded_queue(self._admits, lambda: self._drop("incoming")),
            )
        except CoordinatorError as error:
            if not connected_once:
                raise
            raise aiomqtt.MqttError(str(error)) from None

    async def _leave(self, session: aiomqtt.Client, error: BaseException) -> None:
        """Report that nobody serves the run any more, and why: a connection closed in order leaves no last will."""
        cancelled = isinstance(error, asyncio.CancelledError)  # by the journal, or by whoever runs this
        failure = self._journal.failure if cancelled else failure_text(error)
        status = self._status_message("failed" if failure else "offline")
        if failure:
            status["problem"] = cut(failure, reports.TEXT)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._put(session, self._topics.coordinator, pack(status), retain=True)

    async def _check_alone(self, session: aiomqtt.Client) -> None:
        """Raise `CoordinatorError` if another coordinator serves this run at this broker: it says so every second."""
        with contextlib.suppress(BrokerError):  # the audit tells it
            await subscribe(session, self._topics.coordinator)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_SECONDS) as limit:
                while True:
                    message = await anext(aiter(session.messages))
                    with contextlib.suppress(MessageError):
                        status = messages.check(reports.RUN_STATUS, unpack(message.payload))
                        if status["state"] == "running" and status["boot"] != self._boot:
                            if not message.retain:
                                raise CoordinatorError(
                                    f"another coordinator serves run {self.config.run.name} at this broker; "
                                    "stop it, or give this one another --run"
                                )
                            # It may have died without a word, or be alive.
                            limit.reschedule(asyncio.get_running_loop().time() + 3 * STATUS_SECONDS)
        await session.unsubscribe(self._topics.coordinator)

    def _done(self) -> bool:
        run = self.run_state
        drained = run.draining and not run.book.open
        return self._stopping.is_set() or run.finished or drained

    async def _session(self, session: aiomqtt.Client) -> None:
        """One connection: from the first publication to its loss, or to the end of the run."""
        run = self.run_state
        self._outbox = asyncio.Queue()
        self._unanswered.clear()
        self._audited = False
        self._flooded.clear()
        run.disconnected()
        self._connected = session
        try:
            async with asyncio.TaskGroup() as tasks:
                # First of all: it alone notices that the connection is gone, and a publication has no limit of its own.
                receiver = tasks.create_task(self._receive_forever(session), name="receiver")
                helpers = [tasks.create_task(self._send_forever(session), name=f"sender{i}") for i in range(SENDERS)]
                helpers.append(tasks.create_task(self._mind_answers(), name="answers"))
                helpers.append(tasks.create_task(self._mind_end(), name="end"))
                await self._publish(session)
                topics = [*self._from_all, self._topics.control]
                with contextlib.suppress(BrokerError):  # the audit tells it, and tries again
                    await subscribe(session, *topics)
                    topics = []
                helpers.append(tasks.create_task(self._report_forever(session), name="reporter"))
                helpers.append(tasks.create_task(self._answer_forever(), name="control"))
                helpers.append(tasks.create_task(self._audit_forever(session, topics), name="audit"))
                helpers.append(tasks.create_task(self._mind_floods(session), name="floods"))
                helpers.append(tasks.create_task(self._ask_unheard(), name="unheard"))
                await self._dispatch(session)
                receiver.cancel()  # what is not taken any more will be sent again; what is taken is acknowledged
                await self._journal.flush()  # then the last acknowledgements are in the outbox
                async with asyncio.timeout(LAST_SECONDS):  # nobody listens any more, who would notice a lost connection
                    await self._outbox.join()
                    for helper in helpers:
                        helper.cancel()
                    await self._report(session, "finished" if run.finished else "stopped")
                    self._reported = True
        except* (aiomqtt.MqttError, TimeoutError) as group:
            raise aiomqtt.MqttError(str(_first(group))) from None
        finally:
            self._connected = None

    async def _mind_end(self) -> None:
        """Once it is to stop, do not wait for long for a broker that answers nobody any more."""
        await self._stopping.wait()
        await asyncio.sleep(LAST_SECONDS)
        raise TimeoutError("the broker did not take what was still to be said")

    async def _ask_unheard(self) -> None:
        await asyncio.sleep(UNHEARD_SECONDS)
        self.run_state.ask_unheard()

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
            self._hand_out()
            times = [time.monotonic() + STATUS_SECONDS, publish_at, run.book.next_deadline(), run.overdue_at()]
            timeout = min(t for t in times if t is not None) - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, timeout)):
                    await self._wake.wait()

    def _hand_out(self) -> None:
        """All work that is to be had now; what follows an update is durable together with it."""
        run = self.run_state
        while not self._stopping.is_set() and not self._journal.problem and not self._loaded() and run.next_work():
            pass

    def _loaded(self) -> bool:
        """Whether more waits than is taken: then less work is asked for, and nothing has to be dropped."""
        return any(2 * waiting > most for waiting, most in self.queues.values() if most is not None)

    async def _publish(self, session: aiomqtt.Client) -> None:
        """Publish the current version for whoever only reads: durable first, then its pieces, then the manifest."""
        run = self.run_state
        version = run.newest()
        await self._journal.flush()
        published = {}
        for index, (_, data) in enumerate(version.pieces()):
            piece = {"version": version.number, "crc": version.crc, "data": data}
            published[self._topics.piece(index)] = pack(piece)
        published[self._topics.init] = pack(run.published(version) | {"boot": self._boot})
        self._published = published
        for topic, payload in published.items():
            await self._put(session, topic, payload, retain=True)

    async def _put(self, session: aiomqtt.Client, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1 and wait for the broker.

        Without a limit of its own: `_mind_answers` has one for all of them.
        """
        token = object()
        self._unanswered[token] = time.monotonic()
        try:
            await session.publish(topic, payload, qos=1, retain=retain, timeout=math.inf)
        finally:
            self._unanswered.pop(token, None)
        self.sent.add(kind_of(self._topics, topic) if payload else "cleared", len(payload))

    async def _mind_answers(self) -> None:
        """End a session whose broker lives and does not acknowledge what is published."""
        while True:
            await asyncio.sleep(ANSWER_SECONDS / 4)
            oldest = next(iter(self._unanswered.values()), math.inf)
            if time.monotonic() - oldest > ANSWER_SECONDS:
                raise aiomqtt.MqttError(f"the broker has not acknowledged a message in {ANSWER_SECONDS:g} s")

    # What is retained at the broker, and what it lets this client do

    async def _audit_forever(self, session: aiomqtt.Client, refused: list[str]) -> None:
        """Look every so often whether messages of this client reach the broker, and whether what it retains is there.

        What is not is put back: an operator may have cleared it, a limit or the time let it go, or an old backup have
        taken its place. The subscriptions to the topics that were ``refused`` are tried again.
        """
        put_back = True  # all of it has just been published
        while True:
            absent = ""
            try:
                if refused:
                    await subscribe(session, *refused)
                    refused = []
                absent = await self._audit(session)
                if absent and put_back:
                    raise not_retained(absent)
            except BrokerError as error:
                self._judge(str(error))
            else:
                self._judge("")
                if absent:
                    _log.warning("%s is not at the broker any more; it is put back", absent)
            self._audited = True
            put_back = bool(absent)
            if absent:
                self.run_state.published_version = -1
                self._wake.set()
            await asyncio.sleep(AGAIN_SECONDS if absent and not self._denied else AUDIT_SECONDS)

    def _judge(self, denied: str) -> None:
        """Take note of what the broker does not let this client do; empty if all that can be seen is let."""
        if denied != self._denied:
            _log.warning("%s", denied or "the broker lets this client do its work now")
        self._denied = denied

    async def _audit(self, session: aiomqtt.Client) -> str:
        """Return a topic of the published version that does not retain its message; empty if there is none.

        Raises `BrokerError` where a message of this client does not come back. The broker sends again what it retains
        to whoever subscribes again; what is published meanwhile comes, too. An empty status, which nobody reads, shows
        that those of devices arrive.
        """
        topics = self._topics.coordinator, self._topics.init, self._topics.piece("+")
        self._awaited = {self._topics.coordinator, self._own_status, *self._published}
        self._seen.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ECHO_SECONDS):
                await subscribe(session, *topics)
                await self._put(session, self._own_status, b"")
                await self._seen.wait()
        async with asyncio.timeout(ANSWER_SECONDS):
            await session.unsubscribe(list(topics), timeout=math.inf)
        for topic in (self._topics.coordinator, self._own_status):
            if topic in self._awaited:
                raise not_echoed(topic.replace(self._boot, "+"))
        due = self.run_state.publish_at() is not None  # then all of it is published soon, whatever is there
        return "" if due else min(self._awaited & self._published.keys(), default="")

    def _see(self, topic: str, payload: Any) -> None:
        """The broker has sent what is on ``topic``, where messages of this client are."""
        if topic == self._topics.coordinator:
            with contextlib.suppress(MessageError):
                if messages.check(reports.RUN_STATUS, unpack(payload))["boot"] == self._boot:
                    self._awaited.discard(topic)
        elif payload == (b"" if topic == self._own_status else self._published.get(topic)):
            self._awaited.discard(topic)
        elif payload and topic.startswith(self._topics.piece("")) and topic not in self._published:
            self._drop("retained")  # of another encoding, or not of a coordinator: nobody else would clear it
            self._send(topic, None)
        if not self._awaited:
            self._seen.set()

    # Floods

    async def _mind_floods(self, session: aiomqtt.Client) -> None:
        """While somebody floods, subscribe to the topics of all other devices one by one: the broker drops the flood.

        Nobody new is heard meanwhile. Every so often all are listened to again; who floods still is noticed at once.
        """
        seconds = SIEGE_SECONDS
        while True:
            await self._flooded.wait()
            names = self.run_state.shut_out()
            others = self._filters(names)
            groups = [others[at : at + FILTERS_AT_ONCE] for at in range(0, len(others), FILTERS_AT_ONCE)]
            subscriptions = [subscribe(session, *group) for group in groups]
            # All at once, in this order: the broker's answers come behind what is there of the flood already.
            unsubscribed = session.unsubscribe(list(self._from_all), timeout=math.inf)
            await asyncio.gather(*subscriptions, unsubscribed, self._end_sessions(names))
            _log.warning("only the %d devices that are known are heard for %g s", len(others) // 3, seconds)
            await asyncio.sleep(seconds)
            self.run_state.admission.flooding.clear()
            self._flooded.clear()
            await subscribe(session, *self._from_all)
            try:
                async with asyncio.timeout(CALM_SECONDS):
                    await self._flooded.wait()
            except TimeoutError:
                await asyncio.gather(*(session.unsubscribe(group, timeout=math.inf) for group in groups))
                _log.warning("all devices are heard again")
                seconds = SIEGE_SECONDS
            else:
                seconds = min(MAX_SIEGE, 2 * seconds)

    async def _end_sessions(self, names: set[str]) -> None:
        """Have the broker's plugin delete the accounts of ``names`` if this run may, else say what shuts them out."""
        clients = sorted(name for name in names if _is_id(name))
        if len(clients) < len(names):
            self.run_state.flooded("of messages from senders that are no devices of this run")
        if not clients:
            return
        who = ", ".join(clients)
        done = f"tinyreptile revoke FOLDER {' '.join(clients)} shuts out who floods, for ever"
        administrator = self.config.guards.administrator
        if administrator is not None:
            try:
                async with asyncio.timeout(ADMINISTRATOR_SECONDS), plugin_of(broker_in(administrator)) as plugin:
                    await plugin.delete_clients(clients)
                done = "it has no account at the broker any more, and no rights, until tinyreptile provision makes one"
                self._powerless = ""
            except Exception as error:  # noqa: BLE001 - a help that fails is no reason for a run to end
                why = "it does not answer" if isinstance(error, TimeoutError) else failure_text(error)
                if why != self._powerless:
                    _log.warning("the broker's administrator in %s can't shut out %s: %s", administrator, who, why)
                self._powerless = why
        self.run_state.flooded(f"of messages from {who}; {done}")

    def _filters(self, without: set[str]) -> list[str]:
        """Return the topics of each known device but those ``without``, who has work first, and of this client."""
        devices = self.run_state.registry.devices.values()
        names = [device.id for device in sorted(devices, key=lambda d: d.work == 0) if device.id not in without]
        topics = [self._topics.device(name) for name in names]
        return [self._own_status, *(topic for at in topics for topic in (at.status, at.update, at.evaluation))]

    # Messages

    def _send(self, topic: str, *messages: dict[str, Any] | None) -> None:
        """Publish ``messages`` soon, one after the other; None clears what is retained there."""
        if self._outbox.qsize() < OUTGOING:
            self._outbox.put_nowait((topic, messages))
        else:
            self._drop("outgoing")

    def _drop(self, why: str) -> None:
        self.dropped[why] += 1

    def _record(self, entry: Any, durable: Callable[[], None] | None) -> None:
        self._journal.append(entry, durable)

    async def _send_forever(self, session: aiomqtt.Client) -> None:
        outbox = self._outbox
        while True:
            topic, letter = await outbox.get()
            try:
                for message in letter:
                    payload = b"" if message is None else pack(message)
                    await self._put(session, topic, payload, retain=message is None)
            finally:
                outbox.task_done()

    async def _receive_forever(self, session: aiomqtt.Client) -> None:
        own = self._topics.coordinator, self._topics.init, self._own_status
        async for message in session.messages:
            size = len(message.payload) if isinstance(message.payload, bytes) else 0
            self.received.add(kind_of(self._topics, message.topic.value), size)
            if message.topic.value.startswith(own):
                self._see(message.topic.value, message.payload)
            else:
                self._take(message.topic.value, message.payload)

    def _admits(self, message: aiomqtt.Message) -> bool:
        """Whether ``message`` gets a place in the queue."""
        topic = message.topic.value
        if message.retain and (kind := kind_of(self._topics, topic)) not in RETAINED:
            # Somebody had it retained to be read by every coordinator. The flag is there only in answer to a
            # subscription, so that nobody can have this done again and again.
            self._drop("retained")
            if kind != "control":
                self._send(topic, None)
            return False
        admission = self.run_state.admission
        admitted = admission.admits(topic)
        if not admitted:
            self._drop("flood")
            if admission.flooding:
                self._flooded.set()
        return admitted

    def _take(self, topic: str, payload: Any) -> None:
        """One message off the wire; whatever it holds, nothing is raised."""
        run = self.run_state
        number, device_id = 0, ""
        try:
            device_id, kind = reports.parse(self._topics, topic)
            if kind == "control":
                self._take_request(messages.check(reports.REQUEST, unpack(payload)))
            elif not payload:
                pass  # what was retained there has been cleared
            elif kind == "status":
                run.take_status(device_id, messages.check(reports.STATUS, unpack(payload)))
            else:
                update = unpack(payload)
                if isinstance(update, dict) and isinstance(update.get("work"), int):
                    number = update["work"]
                if kind == "update":
                    run.take_update(device_id, messages.check(reports.UPDATE, update))
                else:
                    run.take_evaluation(device_id, messages.check(reports.FOUND, update))
                self._hand_out()
        except MessageError as error:
            self.malformed += 1
            sender = device_id or topic
            _log.warning("a message on %s was not understood: %s", topic, error, extra={"sender": sender})
            run.take_malformed(device_id, number, str(error))
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
        await self._put(session, self._topics.coordinator, pack(status), retain=True)

    def _status_message(self, state: str) -> dict[str, Any]:
        now = time.monotonic()
        self._rates.append((now, self.run_state.updates))
        (then, updates) = self._rates[0]
        rate = (self.run_state.updates - updates) / (now - then) if now > then else 0.0
        status = self.run_state.status(state) | {"rate": round(rate, 2), "boot": self._boot}
        if self.problem:
            status["problem"] = cut(self.problem, reports.TEXT)
        if self.dropped:
            status["dropped"] = dict(self.dropped)
        return status

    def _status(self) -> dict[str, Any]:
        return self._status_message("finished" if self.run_state.finished else "stopped")


def _is_id(name: str) -> bool:
    """Whether a device can have that ``name``."""
    try:
        messages.check_id(name, "a device id")
    except MessageError:
        return False
    return True


def _first(error: BaseException) -> BaseException:
    """The first single exception in ``error``, which may be a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
