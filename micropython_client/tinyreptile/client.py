"""A device's life: join, wait for work, fetch the initialization, learn from its stream, report, until cancelled."""

import asyncio
import gc
import random
import sys

from . import __version__, episodes, messages
from .assembly import Assembly
from .connection import reason, wait_for
from .device import DeviceError
from .learner import Learner
from .messages import CHUNK_BYTES, MessageError
from .mqtt import MQTTClient
from .msgpack import Packer, unpackb
from .portable import RUNNER, collect, const, forget, ticks_diff, ticks_ms

_FETCH_SECONDS = const(15)
_RESEND_SECONDS = const(5)
_JOIN_SECONDS = const(60)  # after so many without a session a device that may rest does
_LINGER_SECONDS = const(10)  # and after so many without work
_YIELD_MS = const(5)  # the longest a device computes before the network gets its turn
_MANIFEST_SECONDS = const(5)  # how long a coordinator's word may take until it is said that there is none
_PROBE_SECONDS = const(3)  # how long a device of the same id may take to speak up


class Lost(Exception):
    """The work at hand came to nothing; the text says why."""


class Client:
    """One device of one run.

    Arguments:
        device_id: its name, a legal MQTT topic level.
        run: the run's name.
        stream: a `streams.Stream`.
        role: messages.TRAIN or messages.EVALUATE (held out: it never trains the initialization).
        ram: bytes it may use for the model's buffers; None: what the heap has free.
        log: called with a sentence whenever something is worth knowing; a `log.Log` can be read over MQTT.
        notice: what its status is to say to its owner, or None.
        commands: whether it can be asked for its log, and to restart, and be told labels.
        updates: an `updates.Updates`, for a device that installs new versions of the library; or None.
        privacy: a `privacy.Privacy`, for a device whose updates are differentially private; or None.
        connection: the arguments of `mqtt.MQTTClient` but for id, will and callback.

    Attributes:
        accepted, refused, expired: its updates, by what became of them.
        evaluations: how many the coordinator has taken.
        malformed: messages that were not understood, and passed over.
        unfit: why it can't run this run's model, or None.
        on_joined: called each time it has joined, or None.
        rest: a coroutine function that is awaited, without a session, whenever there is no work for a while, such as a
            `nap.Nap`; or None.
    """

    def __init__(
        self,
        device_id,
        run,
        stream,
        role=messages.TRAIN,
        ram=None,
        log=None,
        notice=None,
        commands=False,
        updates=None,
        privacy=None,
        **connection,
    ):
        self.id = messages.check_id(device_id, "a device id")
        if role not in (messages.TRAIN, messages.EVALUATE):
            raise MessageError("a role is train or evaluate, not %r" % role)
        run_topics = messages.RunTopics(run)
        self._topics = run_topics.device(device_id)
        self._run_topics = run_topics
        self._stream = stream
        self._role = role
        self._ram = ram
        self._log = log or (lambda text: None)
        self._notice = notice
        self._commands = commands
        self._leaving = False
        self._telling = False
        self._updates = updates
        self._privacy = privacy
        self._boot = "%08x" % random.getrandbits(30)
        self._learner = None
        self._free = None  # bytes of RAM for a model; None: not limited
        self._assembly = None  # of the learner's initialization
        self._manifest = None
        self._prepared = None  # what the learner was made for
        self._work = None  # the newest work message
        self._work_at = 0
        self._serving = None  # the work at hand, maybe older
        self._ack = None  # the answer to the work at hand
        self._fetched = False
        self._probed = False
        self._rival = None  # another device under this id that has been seen alive
        self._retained_rival = None
        self._failure = None
        self._joined = False
        self._joined_at = 0
        self._yielded = 0
        self._changed = asyncio.Event()
        self.accepted = 0
        self.refused = 0
        self.expired = 0
        self.evaluations = 0
        self.malformed = 0
        self.unfit = None
        self.on_joined = None
        self.rest = None
        will = Packer(bytearray(64))
        will.pack(self._status("offline"))
        self.mqtt = MQTTClient(
            client_id="%s-%s" % (device_id, self._boot),
            on_message=self._on_message,
            will=(self._topics.status, bytes(will.buffer[: will.length])),
            message_bytes=messages.MESSAGE_BYTES,
            **connection,
        )

    async def run(self):
        """Take part until cancelled, or until a restart is called for: by a new version of the library, or a command.

        Raises `DeviceError` where the device can't take part.
        """
        session = None
        try:
            while True:
                if session is None:
                    session = asyncio.create_task(self._keep_session())
                await self._wait_for_a_call()
                if self._leaving:
                    return
                if self._work is not None:
                    await self._serve(self._work)
                elif self._is_offered():
                    if await self._updates.install(self.mqtt, self._wait, self._log):
                        return
                elif self._until_turn() is not None:
                    await self._take_turn()
                elif self.rest:
                    await self._leave(session)
                    session = None
                    await self.rest()
        finally:
            if session:
                await self._leave(session)

    async def _leave(self, session):
        """Say good-bye and end the session."""
        session.cancel()
        try:
            if self._is_ready():
                await wait_for(self._publish(self._topics.status, self._status("offline"), retain=True), 2)
        except (OSError, asyncio.TimeoutError):
            pass
        finally:  # even if it is cancelled while it says good-bye
            self._joined = False
            await self.mqtt.disconnect()

    async def _wait_for_a_call(self):
        """Wait until there is something to do, or time to rest."""
        due = self._until_turn()
        if due is not None:
            await self._wait(self._is_called, due)
        elif not self.rest:
            await self._wait(lambda: self._is_called() or self._until_turn() is not None, None)
        elif await self._wait(lambda: self._is_ready() or self._leaving, _JOIN_SECONDS):
            await self._wait(self._is_called, _LINGER_SECONDS)

    def _is_called(self):
        """Whether there is something to do that does not wait."""
        return self._work is not None or self._leaving or self._is_offered()

    async def _keep_session(self):
        try:
            await self.mqtt.run(self._join, self._disconnected)
        except Exception as error:  # whatever it is, `run` raises it
            self._failure = error
            self._changed.set()

    def _is_offered(self):
        return self._updates is not None and self._updates.offered is not None and self._is_ready()

    # Joining

    async def _join(self):
        """After each connection: make sure that the id is free, read the manifest, say hello."""
        self._joined = False
        self._probed = False
        self._rival = self._retained_rival = None
        await self.mqtt.subscribe(self._topics.status)
        await self._publish(self._topics.status, self._status("probe"))
        await self._wait(lambda: self._probed, self.mqtt.timeout)
        if self._retained_rival:
            # The id was taken when its last holder was seen; a living one answers the probe.
            await self._wait(lambda: self._rival, _PROBE_SECONDS)
            if self._rival:
                self._fail("the id %s is already online; give each device an id of its own" % self.id)
                return
        await self.mqtt.subscribe(self._topics.work)
        await self.mqtt.subscribe(self._topics.ack)
        if self._commands:
            await self.mqtt.subscribe(self._topics.command)
        await self._read_manifest()
        self._joined = True
        self._joined_at = ticks_ms()
        await self._say_hello()
        if self.on_joined:
            self.on_joined()
        if self._commands:
            await self.mqtt.subscribe(self._topics.label)
        if self._updates:
            self._updates.confirm()
            await self.mqtt.subscribe(self._updates.topic)
        if not self.unfit:
            self._log("joined run %s" % self._run_topics.root)
        self._changed.set()

    async def _read_manifest(self):
        """Wait for the manifest, until a coordinator has begun the run, and prepare for its model."""
        self._manifest = None
        await self.mqtt.subscribe(self._run_topics.init)
        if not await self._wait(lambda: self._manifest or not self.mqtt.connected, _MANIFEST_SECONDS):
            self._log("connected; run %s has no coordinator yet" % self._run_topics.root)
        while self._manifest is None:
            self._check_session()
            await self._wait(lambda: self._manifest, 30)
        self._prepare(self._manifest)
        if not self.unfit:  # else it goes on listening: the next model may fit
            await self.mqtt.unsubscribe(self._run_topics.init)

    async def _reconsider(self):
        """The run's model has changed while this device was unfit."""
        try:
            self._prepare(self._manifest)
            if not self.unfit:
                await self.mqtt.unsubscribe(self._run_topics.init)
            await self._say_hello()
            if self.on_joined:
                self.on_joined()
        except OSError:
            pass  # joining anew does the same

    def _prepare(self, manifest):
        """A learner for the manifest's model, or `unfit` set to what stands in the way."""
        self.unfit = self._privacy.end() if self._privacy else None
        if self._learner and self._prepared == _description(manifest):
            return
        self._prepared = _description(manifest)
        self._learner = self._assembly = None
        try:
            from .preparation import prepare

            self._free, model, obstacle = prepare(manifest, self._stream, self._role, self._ram, self._privacy)
            self.unfit = obstacle or self.unfit
            del prepare
            forget("preparation")
            collect()
            if model:
                self._learner = Learner(model, encoding=manifest["encoding"])
                self._assembly = Assembly(self._learner.wire)
                self._made_learner(model)
        except MemoryError:
            self.unfit = "there is no memory for the model, in one piece for each of its buffers"
        if self.unfit:
            self._log(self.unfit)

    async def _say_hello(self):
        await self._publish(self._topics.status, self._status("unfit" if self.unfit else "online"), retain=True)

    def _status(self, state):
        """A status message."""
        status = {"protocol": messages.PROTOCOL, "state": state, "boot": self._boot, "role": self._role}
        if state in ("online", "unfit"):
            status["inputs"] = self._stream.inputs
            status["outputs"] = self._stream.outputs
            status["ram"] = self._free or 0
            release = ".".join(str(n) for n in sys.implementation.version[:3])
            status["platform"] = "%s %s, %s" % (sys.implementation.name, release, RUNNER)
            status["library"] = __version__
            status["work"] = self._work["work"] if self._work else 0
            if self._updates:
                self._updates.describe(status)
            if self._privacy:
                self._privacy.describe(status)
            if self._notice:
                status["notice"] = self._notice[:200]
        if state == "unfit":
            status["error"] = self.unfit[:200]
        return status

    def _disconnected(self, error):
        self._joined = False
        self._log("no connection to the broker: %s" % reason(error))
        self._changed.set()

    # What comes in; nothing here waits

    def _on_message(self, topic, payload, retained):
        try:
            if topic == self._topics.work:
                self._take_work(messages.check(messages.WORK, unpackb(payload)))
            elif topic == self._topics.ack:
                ack = messages.check(messages.ACK, unpackb(payload))
                if self._serving is not None and ack["work"] == self._serving["work"]:
                    self._ack = ack  # others are repetitions of what was counted
            elif topic == self._topics.status:
                if payload:
                    self._take_status(messages.check(messages.PRESENCE, unpackb(payload)), retained)
            elif topic == self._run_topics.init:
                manifest = messages.check(messages.MANIFEST, unpackb(payload))
                if manifest["protocol"] != messages.PROTOCOL:
                    self._log("the coordinator speaks another protocol, %d" % manifest["protocol"])
                else:
                    changed = self._manifest is not None and _description(manifest) != _description(self._manifest)
                    self._manifest = manifest
                    if changed and self.unfit and self._is_ready():
                        asyncio.create_task(self._reconsider())
            elif topic == self._topics.label:
                self._stream.label(messages.check(messages.LABEL, unpackb(payload))["label"])
            elif topic == self._topics.command:
                if not retained:
                    self._obey(messages.check(messages.COMMAND, unpackb(payload))["command"])
            elif self._updates and topic.startswith(self._updates.topic):
                self._updates.take(topic, payload, self._log)
            elif self._assembly is not None:
                index = int(topic[topic.rfind("/") + 1 :])
                self._assembly.add(index, messages.check(messages.CHUNK, unpackb(payload)))
        except ValueError as error:  # MessageError and MessagePackError among them
            self.malformed += 1
            self._log("a message on %s was not understood: %s" % (topic, error))
        self._changed.set()

    def _take_work(self, work):
        kind = work["kind"]
        needed = ("bits",) if kind == messages.TRAIN else ("shots", "queries")
        if kind not in (messages.TRAIN, messages.EVALUATE) or any(name not in work for name in needed):
            raise MessageError("work of kind %r needs %s" % (kind, " and ".join(needed)))
        if self._work is None or work["work"] != self._work["work"]:
            # Newer work replaces older: the coordinator gives a device one thing at a time.
            self._work = work
            self._work_at = ticks_ms()

    def _take_status(self, status, retained):
        if status["boot"] == self._boot:
            if status["state"] == "probe":
                self._probed = True
            return
        if status["protocol"] != messages.PROTOCOL:
            return
        alive = status["state"] in ("online", "unfit")
        if retained:
            self._retained_rival = alive
        elif not self._is_ready():
            self._rival = alive
        elif (
            status["state"] == "online"
            and status["boot"] > self._boot
            and ticks_diff(ticks_ms(), self._joined_at) < 2000 * _PROBE_SECONDS
        ):
            # Both joined at the same moment and found the id free: one of the two must go.
            self._fail("the id %s is in use by another device; give each an id of its own" % self.id)
        else:
            asyncio.create_task(self._defend())

    async def _defend(self):
        """Another device asks for this id, or the last will of an earlier start arrives: this one is here."""
        try:
            await self._say_hello()
        except OSError:
            pass  # it will be said after the next connection

    # Commands

    def _obey(self, command):
        if command == "restart":
            self._log("a restart was asked for")
            self._leaving = True
            if self._updates:
                self._updates.offered = None  # breaks an installation off; the offer is retained
        elif command == "log":
            if not self._telling:
                self._telling = True
                asyncio.create_task(self._tell())
        else:
            raise MessageError("a command is log or restart, not %r" % command)

    async def _tell(self):
        """Publish the newest lines of the log, as many in a message as it has room for."""
        try:
            lines = getattr(self._log, "lines", list)()
            while True:
                size = count = 0
                for line in lines:
                    size += len(line.encode()) + 3
                    if size > messages.CHUNK_BYTES:
                        break
                    count += 1
                await self._publish(self._topics.log, {"lines": lines[:count], "left": len(lines) - count})
                lines = lines[count:]
                if not lines:
                    return
        except OSError:
            pass  # who asked will ask again
        finally:
            self._telling = False

    # Working

    async def _serve(self, work):
        """One piece of work, from fetch to acknowledgement."""
        self._begin_work()
        self._serving = work
        self._ack = None
        try:
            await self._fetch(work)
            self._fetched = False
            self._learner.load()
            self._learner.seed(work["work"])
            self._learner.set_rate(work["beta"])
            if work["kind"] == messages.TRAIN:
                report = await self._train(work)
            else:
                report = await self._evaluate(work)
        except (Lost, ValueError, OSError, MemoryError) as error:
            collect()
            report = str(error)[:200] or type(error).__name__
            self._log("work %d came to nothing: %s" % (work["work"], report))
            if self._privacy and not isinstance(error, Lost):
                report = "the work came to nothing"  # what its samples have to do with it is not told
        if self._privacy and not self.unfit:
            await self._mind_budget()
        await self._deliver(work, report)
        if self._work is work:
            self._work = None

    async def _mind_budget(self):
        """Say so if the update at hand is the last that may be sent: no more work is wanted then."""
        self.unfit = self._privacy.end()
        if self.unfit:
            self._log(self.unfit)
            try:
                await self._say_hello()
            except OSError:
                pass  # joining anew does the same

    async def _fetch(self, wanted):
        """Bring a whole initialization of the version that is ``wanted``, or a newer one, into the learner.

        ``wanted`` is a work message, or the manifest; newer work ends the fetch.
        """
        if self._learner is None:
            raise Lost(self.unfit or "no model yet")
        work = self._work
        assembly = self._assembly
        if (assembly.version, assembly.crc) != (wanted["version"], wanted["crc"]):
            topic = self._run_topics.chunks(wanted["slot"])
            assembly.begin(wanted["version"], wanted["crc"])
            try:
                await self.mqtt.subscribe(topic)
                if not await self._wait(lambda: assembly.is_whole() or self._work is not work, _FETCH_SECONDS):
                    await self._read_manifest()  # the run may have another model by now
                    if self.unfit:
                        await self._say_hello()
                    raise Lost("version %d was not to be had in %d s" % (wanted["version"], _FETCH_SECONDS))
            except OSError as error:
                raise Lost("the connection was lost during the fetch: %s" % error)
            finally:
                undamaged = assembly.end()
                try:
                    await self.mqtt.unsubscribe(topic)
                except OSError:
                    pass  # gone with the connection
            self._check_current(work)
            if not undamaged:
                raise Lost("version %d arrived damaged" % wanted["version"])
            try:
                self._learner.receive()
            except ValueError as error:
                assembly.version = None
                raise Lost("version %d is no initialization of this model: %s" % (wanted["version"], error))

    async def _train(self, work):
        """Learn from the stream; returns the delta and its report."""
        learner = self._learner
        loss = await episodes.train(learner, self._stream, work["steps"], self._pause)
        if self._privacy:
            await self._privacy.protect(learner, self._pause)
        delta = learner.delta(work["bits"], work.get("kept"))
        report = {
            "version": self._assembly.version,
            "bits": work["bits"],
            "gains": delta.gains,
            "samples": work["steps"],
            "ms": ticks_diff(ticks_ms(), self._work_at),
            "free": gc.mem_free() if hasattr(gc, "mem_free") else 0,
        }
        if not self._privacy:
            report["loss"] = loss
        if delta.kept is not None:
            report["kept"] = delta.kept
        return delta, report

    async def _evaluate(self, work):
        """Adapt to the stream's support samples; returns the evaluation."""
        if self._privacy:
            raise Lost("a device whose updates are private evaluates nothing")
        from .evaluation import evaluate

        evaluation = await evaluate(
            self._learner, self._stream, work["steps"], work["shots"], work["queries"], self._pause
        )
        evaluation["version"] = self._assembly.version
        return evaluation

    async def _pause(self):
        """Give the network its turn, and find out whether the work still matters."""
        now = ticks_ms()
        if ticks_diff(now, self._yielded) < _YIELD_MS:
            return
        await asyncio.sleep(0)
        self._yielded = ticks_ms()
        work = self._serving
        self._check_current(work)
        if not self._fetched and ticks_diff(now, self._work_at) > 500:
            # Learning takes a while: the coordinator may rewrite the slot meanwhile.
            self._fetched = True
            try:
                await self._send(0, {"work": work["work"], "fetched": self._assembly.version})
            except OSError:
                pass  # the slot is kept until the coordinator's own limit

    # Reporting

    async def _deliver(self, work, report):
        """Send what came of the work until it is acknowledged, superseded or past the deadline."""
        if isinstance(report, tuple):
            delta, report = report
        else:
            delta = None
        number = work["work"]
        while self._work is work:
            left = work["seconds"] - ticks_diff(ticks_ms(), self._work_at) / 1000
            if left <= 0:
                self.expired += 1
                self._log("work %d was not acknowledged before its deadline" % number)
                return
            try:
                if isinstance(report, str):
                    await self._send(0, {"work": number, "error": report})
                    return
                if delta is None:
                    await self._send(0, {"work": number, "evaluation": report})
                else:
                    await self._send_delta(number, delta, report)
                await self._wait(lambda: self._ack or self._work is not work, min(left, _RESEND_SECONDS))
            except OSError:
                await self._wait(lambda: self._is_ready() or self._work is not work, min(left, _RESEND_SECONDS))
            if self._ack:
                self._count(work, self._ack)
                return

    def _count(self, work, ack):
        if not ack["accepted"]:
            self.refused += 1
            self._log("work %d was refused: %s" % (work["work"], ack.get("reason", "no reason given")))
        elif work["kind"] == messages.TRAIN:
            self.accepted += 1
        else:
            self.evaluations += 1

    async def _send(self, index, message):
        await self._publish(self._topics.update(index), message)

    async def _publish(self, topic, message, retain=False):
        def fill(buffer):
            packer = Packer(buffer)
            packer.pack(message)
            return packer.length

        await self.mqtt.publish(topic, fill, retain=retain)

    async def _send_delta(self, number, delta, report):
        """The delta in chunks, each packed straight into the outgoing buffer."""
        chunks = messages.chunk_count(delta.size)
        for index in range(chunks):

            def fill(buffer, index=index):
                packer = Packer(buffer)
                packer.map_header(4 if index == 0 else 3)
                packer.pack("work")
                packer.pack(number)
                packer.pack("chunks")
                packer.pack(chunks)
                if index == 0:
                    packer.pack("report")
                    packer.pack(report)
                packer.pack("data")
                start = index * CHUNK_BYTES
                size = min(CHUNK_BYTES, delta.size - start)
                packer.bin_header(size)
                delta.pack(start, packer.reserve(size))
                return packer.length

            await self.mqtt.publish(self._topics.update(index), fill)

    # For a client that does something between two pieces of work

    def _made_learner(self, model):
        """There is a learner for ``model``."""

    def _begin_work(self):
        """A piece of work begins: stream and learner are needed for it."""

    def _until_turn(self):
        """Seconds until it wants to `_take_turn`; None: it does not."""

    async def _take_turn(self):
        """Nobody else needs stream and learner now; ends soon once `_is_called`."""

    # Waiting

    async def _wait(self, condition, seconds):
        """Wait until ``condition()`` holds; whether it did within ``seconds``. None: the session's own limits do."""
        start = ticks_ms()
        while not condition():
            if self._failure:
                raise self._failure
            self._changed.clear()
            if seconds is None:
                await self._changed.wait()
            else:
                left = seconds - ticks_diff(ticks_ms(), start) / 1000
                if left <= 0:
                    return False
                try:
                    await wait_for(self._changed.wait(), left)
                except asyncio.TimeoutError:
                    return bool(condition())
        return True

    def _is_ready(self):
        """Whether the device has joined and its session is alive: the session's end shows here at once."""
        return self._joined and self.mqtt.connected

    def _check_session(self):
        if not self.mqtt.connected:
            raise OSError("the connection was lost while joining")

    def _check_current(self, work):
        if self._failure:
            raise self._failure
        if self._work is not work:
            raise Lost("newer work arrived")

    def _fail(self, text):
        """End the device: `run` raises."""
        self._failure = DeviceError(text)
        self._changed.set()


def _description(manifest):
    """What a learner has to be made for."""
    return manifest["model"], manifest["weights"], manifest["encoding"]
