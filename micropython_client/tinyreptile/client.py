"""A device's life: join, wait for work and its initialization, learn from the stream, report, until cancelled."""

import asyncio
import os
import random
import sys
from binascii import crc32, hexlify

from . import __version__, episodes, messages
from .assembly import Assembly
from .connection import reason, wait_for
from .device import DeviceError
from .messages import MessageError
from .mqtt import MQTTClient
from .msgpack import MessagePackError, Packer, unpackb
from .portable import RUNNER, collect, const, forget, ticks_diff, ticks_ms
from .streams import StreamError, call, words

_PIECE_SECONDS = const(15)  # the longest wait for the next piece of an initialization
_ATTEMPTS = const(3)  # to receive one
_RESEND_SECONDS = const(5)
_JOIN_SECONDS = const(60)  # after so many without a session a device that may rest does
_LINGER_SECONDS = const(10)  # and after so many without work
_YIELD_MS = const(5)  # the longest a device computes before the network gets its turn
_MANIFEST_SECONDS = const(5)  # how long a coordinator's word may take until it is said that there is none
_IDLE_SECONDS = const(60)  # without work: then it looks whether the run has another coordinator or model
_PROBE_SECONDS = const(3)  # how long a device of the same id may take to speak up
_ANSWER_SECONDS = const(1)  # the least between two hellos that others have caused
_GAP_SECONDS = const(60)  # and the most, of one whose status is replaced again and again


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
        client_id: its MQTT client id, with "{id}" for its name and "{random}" for a secret word of each start.
        stream_name: of the stream in what is reported of it; None: that of its class.
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
        client_id=messages.CLIENT_ID,
        stream_name=None,
        **connection,
    ):
        self.id = messages.check_id(device_id, "a device id")
        if role not in (messages.TRAIN, messages.EVALUATE):
            raise MessageError("a role is train or evaluate, not %r" % role)
        run_topics = messages.RunTopics(run)
        self._topics = run_topics.device(device_id)
        # The broker lets no device write on that of the other role.
        self._answers = self._topics.evaluation if role == messages.EVALUATE else self._topics.update
        self._run_topics = run_topics
        self._stream = stream
        self._stream_name = stream_name or type(stream).__name__
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
        self._greeted = None  # boot of the coordinator that was there when it last said hello
        self._work = None  # the newest work message
        self._serving = None  # the work at hand, maybe older
        self._task = None  # what the newest work asks for; later work may ask for the same without a word
        self._answer = None  # to the work at hand: why it was refused, empty if it was accepted
        self._said = None  # checksum of the status that it published last
        self._replaced = False  # whether something else has come from its status topic since
        self._asked = False  # somebody wants to hear its status
        self._restoring = False
        self._restored_at = 0
        self._gap = _ANSWER_SECONDS  # seconds until it says hello to who replaces its status
        self._probed = False
        self._rival = None  # another device under this id that has been seen alive
        self._retained_rival = None
        self._failure = None
        self._joined = False
        self._joined_at = 0
        self._yielded = 0
        self._since = 0  # samples since then
        self._to_come = 0  # samples of the work at hand that were still to come then
        self._quickest = None  # seconds, of one sample of it
        self._denied = None  # what the broker does not let it subscribe to and it can do without
        self._slow = None  # why the last work could not be done in its time
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
            client_id=client_id.replace("{id}", device_id).replace("{random}", _secret()),
            on_message=self._on_message,
            will=(self._topics.status, bytes(will.buffer[: will.length])),
            message_bytes=messages.MESSAGE_BYTES,
            on_oversized=lambda topic, retained: topic == self._topics.status and self._hear_status(None, retained),
            **connection,
        )

    async def run(self):
        """Take part until cancelled, or until a restart is called for: by a new version of the library, or a command.

        Raises `DeviceError` where the device can't take part.
        """
        session = None
        turned = False  # whether it took its turn since the last piece of work: the next one may be there already
        try:
            while True:
                if session is None:
                    session = asyncio.create_task(self._keep_session())
                await self._wait_for_a_call()
                if self._leaving:
                    return
                due = self._until_turn()
                if self._is_other():
                    await self._reconsider()
                elif self._is_offered():
                    if await self._updates.install(self.mqtt, self._wait, self._log):
                        return
                elif self._work is not None and (due != 0 or turned):
                    turned = False
                    await self._serve(self._work)
                elif due is not None:
                    turned = True
                    await self._take_turn()
                elif self.rest:
                    await self._leave(session)
                    session = None
                    await self.rest()
                elif self._is_ready() and not self.unfit:  # who is unfit goes on listening
                    await self._look_again()
        finally:
            if session:
                await self._leave(session)

    async def _leave(self, session):
        """Say good-bye and end the session."""
        session.cancel()
        ready = self._is_ready()
        self._joined = False  # before its own good-bye comes back
        self._changed.set()
        try:
            if ready:
                await wait_for(self._publish(self._topics.status, self._status("offline"), retain=True), 2)
        except (OSError, asyncio.TimeoutError):
            pass
        finally:  # even if it is cancelled while it says good-bye
            await self.mqtt.disconnect()

    async def _wait_for_a_call(self):
        """Wait until there is something to do, or time to rest."""
        due = self._until_turn()
        if due is not None:
            await self._wait(self._is_called, due)
        elif not self.rest:
            await self._wait(lambda: self._is_called() or self._until_turn() is not None, _IDLE_SECONDS)
        elif await self._wait(lambda: self._is_ready() or self._leaving, _JOIN_SECONDS):
            await self._wait(self._is_called, _LINGER_SECONDS)

    def _is_called(self):
        """Whether there is something to do that does not wait."""
        return self._work is not None or self._leaving or self._is_offered() or self._is_other()

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
        self._rival = self._retained_rival = self._denied = None
        await self.mqtt.subscribe(self._topics.status)
        await self._publish(self._topics.status, self._status("probe"))
        if not await self._wait(lambda: self._probed or not self.mqtt.connected, self.mqtt.timeout):
            raise OSError("the broker does not let this device write or read " + self._topics.status)
        self._check_session()
        if self._retained_rival:
            # The id was taken when its last holder was seen; a living one answers the probe.
            await self._wait(lambda: self._rival, _PROBE_SECONDS)
            if self._rival:
                self._fail("the id %s is already online; give each device an id of its own" % self.id)
                return
        await self.mqtt.subscribe(self._topics.work)
        if self._commands:
            await self._try_subscribe(self._topics.command)
        await self._read_manifest()
        self._joined = True
        self._joined_at = ticks_ms()
        await self._say_hello()
        if self.on_joined:
            self.on_joined()
        if self._commands:
            await self._try_subscribe(self._topics.label)
        if self._updates:
            self._updates.confirm()
            await self._try_subscribe(self._updates.topic)
        if not self.unfit:
            self._log("joined run %s" % self._run_topics.root)
        self._changed.set()

    async def _try_subscribe(self, topic):
        """Subscribe to ``topic``, which the device can do without: its status says so where the broker refuses."""
        try:
            await self.mqtt.subscribe(topic)
        except OSError as error:
            self._check_session()
            self._denied = str(error)
            self._log(self._denied)
            if self._joined:
                await self._say_hello()

    async def _read_manifest(self):
        """Wait for the manifest, until a coordinator has begun the run, and prepare for its model."""
        self._manifest = None
        await self.mqtt.subscribe(self._run_topics.init)
        if not await self._wait(lambda: self._manifest or not self.mqtt.connected, _MANIFEST_SECONDS):
            self._log(
                "connected; run %s has no coordinator yet, or the broker does not let this device read it"
                % self._run_topics.root
            )
        while self._manifest is None:
            self._check_session()
            if not await self._wait(lambda: self._manifest or not self.mqtt.connected, 30):
                await self.mqtt.subscribe(self._run_topics.init)  # it is sent again, if it is there
        await self._prepare(self._manifest)
        if not self.unfit:  # else it goes on listening: the next model may fit
            await self.mqtt.unsubscribe(self._run_topics.init)

    async def _look_again(self):
        """Read the manifest anew: another start of the coordinator may not know this device, or have another model."""
        known = self._manifest
        try:
            await self.mqtt.subscribe(self._run_topics.init)
            await self._wait(lambda: self._manifest is not known, _MANIFEST_SECONDS)
            if not self._is_other():
                await self.mqtt.unsubscribe(self._run_topics.init)
        except OSError:
            pass  # joining anew does the same

    def _is_other(self):
        """Whether the manifest is of another start of the coordinator than was greeted, or has another model."""
        new = self._manifest
        if new is None or not self._is_ready():
            return False
        return new.get("boot") != self._greeted or _description(new) != self._prepared

    async def _reconsider(self):
        """The run's coordinator or model has changed: prepare for it, and say hello."""
        try:
            await self._prepare(self._manifest)
            if not self.unfit:
                await self.mqtt.unsubscribe(self._run_topics.init)
            await self._say_hello()
            if self.on_joined:
                self.on_joined()
        except OSError:
            pass  # joining anew does the same

    async def _prepare(self, manifest):
        """A learner for the manifest's model, or `unfit` set to what stands in the way."""
        if RUNNER == "numba":  # it would compile in the midst of the first piece of work
            from .cpython_compile import compiled

            await compiled(manifest["weights"], self._log)
        self.unfit = self._privacy.end() if self._privacy else None
        if self._learner and self._prepared == _description(manifest):
            return
        self._prepared = _description(manifest)
        self._learner = self._assembly = None
        if self._privacy:
            self._privacy.kept = None
        try:
            from .preparation import prepare

            self._free, learner, obstacle = prepare(manifest, self._stream, self._role, self._ram, self._privacy)
            self.unfit = obstacle or self.unfit
            del prepare
            forget("preparation")
            collect()
            if learner:
                self._learner = learner
                self._assembly = Assembly(learner)
                self._made_learner(learner.model)
        except MemoryError:
            self.unfit = "there is no memory for the model, in one piece for each of its buffers"
        if self.unfit:
            self._log(self.unfit)

    async def _say_hello(self):
        if self._manifest:  # there is none while it joins anew
            self._greeted = self._manifest.get("boot")
        self._asked = False
        await self._publish(self._topics.status, self._status("unfit" if self.unfit else "online"), retain=True)

    def _status(self, state):
        """A status message."""
        status = {"protocol": messages.PROTOCOL, "state": state, "boot": self._boot, "role": self._role}
        if state in ("online", "unfit"):
            status["inputs"] = self._stream.inputs
            status["outputs"] = self._stream.outputs
            status["ram"] = self._free or 0
            release = ".".join(str(n) for n in sys.implementation.version[:3])
            chip = getattr(sys.implementation, "_machine", RUNNER)  # MicroPython's name of the board, and of its chip
            status["platform"] = "%s %s, %s" % (sys.implementation.name, release, chip)
            status["library"] = __version__
            status["work"] = self._work["work"] if self._work and self._has_initialization(self._work) else 0
            if self._assembly and self._assembly.version is not None:
                status["version"] = self._assembly.version
            if self._updates:
                self._updates.describe(status)
            if self._privacy:
                self._privacy.describe(status)
            notice = self._slow or self._denied or self._notice
            if notice:
                status["notice"] = notice[:200]
        if state == "unfit":
            status["error"] = self.unfit[:200]
        return status

    def _disconnected(self, error):
        self._joined = False
        self._log("no connection to the broker at %s:%d: %s" % (self.mqtt.host, self.mqtt.port, reason(error)))
        self._changed.set()

    # What comes in; nothing here waits

    def _on_message(self, topic, payload, retained):
        if retained and topic in (self._topics.work, self._topics.command, self._topics.label):
            return  # it was meant for another time
        try:
            if topic == self._topics.status:
                self._hear_status(payload, retained)
            elif topic == self._topics.work:
                self._take_work(messages.check(messages.WORK, unpackb(payload)))
            elif topic == self._run_topics.init:
                manifest = messages.check(messages.MANIFEST, unpackb(payload))
                if manifest["protocol"] != messages.PROTOCOL:
                    self._log("the coordinator speaks another protocol, %d" % manifest["protocol"])
                else:
                    self._manifest = manifest
            elif topic == self._topics.label:
                label = messages.check(messages.LABEL, unpackb(payload))["label"]
                try:
                    call(self._stream, lambda: self._stream.label(label))
                except StreamError as error:
                    self._log("label %d was not taken: %s" % (label, self._reason(error)))
            elif topic == self._topics.command:
                self._obey(messages.check(messages.COMMAND, unpackb(payload))["command"])
            elif self._updates and topic.startswith(self._updates.topic):
                self._updates.take(topic, payload, self._log)
        except ValueError as error:  # MessageError and MessagePackError among them
            self.malformed += 1
            self._log("a message on %s was not understood: %s" % (topic, error))
        self._changed.set()

    def _take_work(self, work):
        """The coordinator's answer to the work at hand, newer work, a further piece of its initialization."""
        if self._serving is not None and work.get("done") == self._serving["work"]:
            self._answer = work.get("refused", "")  # others are repetitions of what was counted
        data = work.pop("data", b"")  # is gone with this call
        assembly = self._assembly
        if "version" not in work:
            if "at" in work and assembly and self._work is not None and work.get("work") == self._work["work"]:
                assembly.add(work["at"], data)
            return
        if "work" not in work or "crc" not in work:
            raise MessageError("work has a number and the checksum of its initialization")
        if "task" in work:
            task = messages.check(messages.TASK, work["task"])
            kind = task["kind"]
            needed = ("bits",) if kind == messages.TRAIN else ("shots", "queries")
            if kind not in (messages.TRAIN, messages.EVALUATE) or any(name not in task for name in needed):
                raise MessageError("work of kind %r needs %s" % (kind, " and ".join(needed)))
            self._task = task
        if self._work is None or work["work"] != self._work["work"]:
            # Newer work replaces older: the coordinator gives a device one thing at a time.
            self._work = work
        elif self._has_initialization(self._work):
            return  # a repetition
        else:
            self._work.update(work)  # once more, maybe from a newer version
        self._work["task"] = self._task
        self._work["asked"] = ticks_ms()  # its seconds count from here
        if not assembly:
            return
        if self._privacy and self._privacy.update_of(work):
            return  # which holds for as long as the initialization stays as it is
        if self._task is None:
            assembly.end()
        elif "from" not in work:
            assembly.begin(work["version"], work["crc"])
            assembly.add(0, data)
        elif assembly.version != work["from"]:
            assembly.end()
        elif work["version"] != work["from"]:
            assembly.begin(work["version"], work["crc"], data)

    def _has_initialization(self, work):
        """Whether all is there that ``work`` begins from."""
        return self._assembly is not None and self._assembly.version == work["version"] and work["task"] is not None

    def _hear_status(self, payload, retained):
        """Something is at its status topic: its own word as it comes back, that of another device, or anything else.

        ``payload`` is None where it is too long to be read.
        """
        if payload is not None and not payload:
            self._asked = True  # somebody has cleared it, or asks whether this device is here
        elif retained:
            self._retained_rival = True  # unless it says that nobody is here
        self._replaced = payload is None or crc32(payload) != self._said
        if self._replaced and self._is_ready() and not self._restoring:
            self._restoring = True
            asyncio.create_task(self._restore())
        if payload:
            self._take_status(messages.check(messages.PRESENCE, unpackb(payload)), retained)

    def _take_status(self, status, retained):
        if retained:
            self._retained_rival = status["boot"] != self._boot and status["state"] != "offline"
        if status["boot"] == self._boot:
            if status["state"] == "probe":
                self._probed = True
            return
        if status["protocol"] != messages.PROTOCOL:
            return
        if status["state"] == "probe":
            self._asked = True
        if retained:
            return
        if not self._is_ready():
            self._rival = status["state"] in ("online", "unfit")
        elif (
            status["state"] == "online"
            and status["boot"] > self._boot
            and ticks_diff(ticks_ms(), self._joined_at) < 2000 * _PROBE_SECONDS
        ):
            # Both joined at the same moment and found the id free: one of the two must go.
            self._fail("the id %s is in use by another device; give each device an id of its own" % self.id)

    async def _restore(self):
        """Say hello until that is at its status topic: soon if somebody asks, else later each time.

        Not at once, for its own earlier word may be on its way; and not as often as another of its id says hello.
        """
        try:
            while self._replaced and self._is_ready():
                if ticks_diff(ticks_ms(), self._restored_at) > 2000 * self._gap:
                    self._gap = _ANSWER_SECONDS
                if not await self._wait(lambda: self._asked or not (self._replaced and self._is_ready()), self._gap):
                    self._gap = min(2 * self._gap, _GAP_SECONDS)
                passed = ticks_diff(ticks_ms(), self._restored_at) / 1000
                if self._asked and passed < _ANSWER_SECONDS:
                    await asyncio.sleep(_ANSWER_SECONDS - passed)
                if self._replaced and self._is_ready():
                    self._restored_at = ticks_ms()
                    await self._say_hello()
        except Exception:  # noqa: S110 - `run` raises it, or says hello after the next connection
            pass
        finally:
            self._restoring = False

    async def _repeat_hello(self):
        """Say hello again, if there is somebody to say it to."""
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
        """One piece of work, from its initialization to its answer."""
        self._begin_work()
        self._serving = work
        self._answer = None
        was_slow = self._slow
        report = self._privacy and self._privacy.update_of(work)
        try:
            if not report:
                if self._privacy and self._privacy.is_ahead(work):
                    self._work = None
                    await self._repeat_hello()
                    return
                await self._receive(work)
                self._learner.load()
                self._learner.seed(work["work"])
                task = work["task"]
                self._learner.set_rate(task["beta"])
                self._to_come = task["steps"] + 2 * task.get("queries", 0)
                self._since = 0
                self._quickest = None
                self._yielded = ticks_ms()
                if task["kind"] == messages.TRAIN:
                    report = await self._train(work)
                else:
                    report = await self._evaluate(work)
                self._slow = None
        except Exception as error:
            collect()
            report = self._reason(error)[:200]
            self._log("work %d came to nothing: %s" % (work["work"], report))
            if self._privacy and not isinstance(error, Lost):
                report = "the work came to nothing"  # what its samples have to do with it is not told
        if self._slow != was_slow:
            await self._repeat_hello()
        if self._privacy and not self.unfit:
            await self._mind_budget()
        await self._deliver(work, report)
        if self._work is work:
            self._work = None

    def _reason(self, error):
        """Return ``error`` in words; with the name of the stream if it is the stream's."""
        if isinstance(error, StreamError):
            return "stream %s: %s" % (self._stream_name, error.what)
        text = str(error) if isinstance(error, (Lost, ValueError, OSError)) else ""
        return text or words(error)

    async def _mind_budget(self):
        """Say so if the update at hand is the last that may be sent: no more work is wanted then."""
        self.unfit = self._privacy.end()
        if self.unfit:
            self._log(self.unfit)
            await self._repeat_hello()

    async def _receive(self, work):
        """Wait until the learner holds what ``work`` begins from; ask for it again where some of it is missing."""
        if self._learner is None:
            raise Lost(self.unfit or "no model yet")
        assembly = self._assembly
        for _ in range(_ATTEMPTS):
            length = -1
            while length != assembly.length:  # as long as something comes
                length = assembly.length
                if await self._wait(
                    lambda: (
                        self._has_initialization(work)
                        or assembly.failure
                        or self._answer is not None
                        or self._work is not work
                    ),
                    min(_PIECE_SECONDS, max(0, self._left(work))),
                ):
                    break
            self._check_current(work)
            if self._answer is not None or self._left(work) <= 0:
                raise Lost("version %d did not arrive in time" % work["version"])
            if self._has_initialization(work):
                return
            assembly.failure = False
            try:
                await self._send({"work": work["work"], "whole": True})
            except OSError:  # the hello after the next connection says the same
                await self._wait(lambda: self._is_ready() or self._work is not work, _PIECE_SECONDS)
        await self._look_again()  # the run may have another model by now
        raise Lost("version %d did not arrive whole" % work["version"])

    def _left(self, work):
        """Seconds until the deadline of ``work``."""
        task = work["task"]
        seconds = work.get("seconds", task["seconds"] if task else 2 * _PIECE_SECONDS)
        return seconds - ticks_diff(ticks_ms(), work["asked"]) / 1000

    async def _train(self, work):
        """Learn from the stream; returns the delta's chunks and its report."""
        from .coding import Coded

        learner = self._learner
        task = work["task"]
        privacy = self._privacy
        if privacy and not privacy.is_accounted(work):
            raise Lost("the request does not account for a private update")
        loss = await episodes.train(learner, self._stream, task["steps"], self._pause)
        if privacy:
            await privacy.protect(learner, self._pause)
        delta = learner.delta(task["bits"], task.get("kept"))
        report = {"version": work["version"], "gains": delta.gains}
        if privacy:
            return privacy.keep(work, Coded(delta), report)
        report["loss"] = loss
        if learner.saturated():
            report["saturated"] = learner.saturated()
        return Coded(delta), report

    async def _evaluate(self, work):
        """Adapt to the stream's support samples; returns the evaluation."""
        if self._privacy:
            raise Lost("a device whose updates are private evaluates nothing")
        from .evaluation import evaluate

        task = work["task"]
        evaluation = await evaluate(
            self._learner, self._stream, task["steps"], task["shots"], task["queries"], self._pause
        )
        evaluation["version"] = work["version"]
        return evaluation

    async def _pause(self):
        """Give the network its turn, and find out whether the work still matters and can be done in its time.

        It can't if that would take too long even if all samples to come were as quick as the quickest so far.
        """
        now = ticks_ms()
        self._since += 1
        if ticks_diff(now, self._yielded) < _YIELD_MS:
            return
        work = self._serving
        pace = ticks_diff(now, self._yielded) / 1000 / self._since
        first = self._quickest is None  # it may have waited for what the others will not
        self._quickest = pace if first else min(pace, self._quickest)
        self._to_come -= self._since
        self._since = 0
        seconds = self._left(work)
        if self._to_come > 0 and seconds < (0 if first else self._to_come * self._quickest):
            self._slow = "too slow: %d samples are to come in %d of %d s, and one takes %g s or more" % (
                self._to_come,
                max(0, seconds),
                work["task"]["seconds"],
                round(self._quickest, 3),
            )
            raise Lost(self._slow)
        await asyncio.sleep(0)
        self._yielded = ticks_ms()
        self._check_current(work)

    # Reporting

    async def _deliver(self, work, report):
        """Send what came of the work until it is acknowledged, superseded or past the deadline."""
        if isinstance(report, tuple):
            chunks, report = report
        else:
            chunks = None
        number = work["work"]
        while self._work is work and self._answer is None:
            left = self._left(work)
            if left <= 0:
                self.expired += 1
                self._log("work %d was not acknowledged before its deadline" % number)
                return
            try:
                if isinstance(report, str):
                    await self._send({"work": number, "error": report})
                    return
                if chunks is None:
                    await self._send({"work": number, "evaluation": report})
                else:
                    await self._send_delta(work, chunks, report)
                await self._wait(lambda: self._answer is not None or self._work is not work, min(left, _RESEND_SECONDS))
            except Lost:
                pass  # newer work arrived, maybe with the answer
            except OSError:
                await self._wait(lambda: self._is_ready() or self._work is not work, min(left, _RESEND_SECONDS))
            except MessagePackError:
                report = "what came of the work is longer than a message"
        if self._answer is not None:
            self._count(work, self._answer)

    def _count(self, work, error):
        if error:
            self.refused += 1
            self._log("work %d was refused: %s" % (work["work"], error))
        elif work["task"]["kind"] == messages.TRAIN:
            self.accepted += 1
        else:
            self.evaluations += 1

    async def _send(self, message):
        await self._publish(self._answers, message)

    async def _publish(self, topic, message, retain=False):
        def fill(buffer):
            packer = Packer(buffer)
            packer.pack(message)
            if retain:  # only its status is
                self._said = crc32(buffer[: packer.length])
            return packer.length

        await self.mqtt.publish(topic, fill, retain=retain)

    async def _send_delta(self, work, chunks, report):
        """The chunks of a delta, each packed straight into the outgoing buffer."""
        for index in range(len(chunks.sizes)):

            def fill(buffer, index=index):
                self._check_current(work)  # with newer work comes another initialization
                fields = {"work": work["work"]}
                if len(chunks.sizes) > 1:
                    fields["chunks"] = len(chunks.sizes)
                if index:
                    fields["part"] = index
                else:
                    fields.update(report)
                packer = Packer(buffer)
                packer.map_header(len(fields) + 1)
                for name in fields:
                    packer.pack(name)
                    packer.pack(fields[name])
                packer.pack("data")
                size = chunks.sizes[index]
                packer.bin_header(size)
                chunks.pack(index, packer.reserve(size))
                return packer.length

            await self.mqtt.publish(self._answers, fill)

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
        """Wait until ``condition()`` holds; whether it did within ``seconds``."""
        start = ticks_ms()
        while not condition():
            if self._failure:
                raise self._failure
            self._changed.clear()
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


def _secret():
    """Eight hexadecimal digits that others don't know: under a client id that they know they could end its session."""
    value = os.urandom(4) if hasattr(os, "urandom") else random.getrandbits(30).to_bytes(4, "big")
    return hexlify(value).decode()


def _description(manifest):
    """What a learner has to be made for."""
    return manifest["model"], manifest["weights"], manifest["encoding"]
