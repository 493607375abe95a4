"""A device that uses what the fleet learns: a model of its own, adapted on and on, and predictions from it.

The fleet learns nothing of it: work is trained on the initialization as it came, by weights of its own.
"""

import asyncio

from . import episodes, messages
from .client import Client, Lost
from .learner import ONE
from .msgpack import unpackb
from .personal import Personal
from .portable import const, ticks_diff, ticks_ms
from .streams import Cells, call, draw
from .streams.samples import check

_FETCH_SECONDS = const(15)
_RENEW_SECONDS = const(300)  # without work: then it looks for a newer version itself
_BETA = 0.01  # learning rate of the own model, if the run names none
_MOST_OUTPUTS = const(64)  # in a prediction
_PIECE = (  # what `reports.PIECE` is
    ("version", int, 0, (1 << 31) - 1, True),
    ("crc", int, 0, (1 << 32) - 1, True),
    ("data", bytes, 1, messages.PIECE_BYTES, True),
)


class PredictingClient(Client):
    """A `Client` that adapts a model of its own to its stream, and publishes a prediction every ``predict`` seconds."""

    def __init__(self, *arguments, predict, **options):
        self._predict = predict
        self._personal = None
        self._predicted_at = 0
        self._renewed_at = 0
        self._published = None  # the version whose pieces are being read
        self._sampling = None  # the task that waits for the own model's next sample
        super().__init__(*arguments, **options)

    def _made_learner(self, model):
        self._stop_sampling()  # what comes of it would be a sample of the model before
        self._personal = None
        needed = model.ram() + Personal.ram(model)
        try:
            if self._free is not None and needed > self._free:
                raise MemoryError
            self._personal = Personal(self._learner)
        except MemoryError:
            self._log("there is no memory for predictions, which take %d bytes in all" % needed)

    def _until_turn(self):
        if self._personal is None or self._learner is None or not self._is_ready():
            return None
        return max(0, self._predict - ticks_diff(ticks_ms(), self._predicted_at) / 1000)

    async def _take_turn(self):
        """One prediction for its owner, one step of adaptation if there is a sample."""
        now = self._predicted_at = ticks_ms()
        if self._privacy:
            self._privacy.kept = None  # the own model is compared by the weights that its update is made of
        try:
            if self._assembly.version is None or ticks_diff(now, self._renewed_at) > 1000 * _RENEW_SECONDS:
                await self._renew()
            personal = self._personal
            learner = self._learner
            learner.set_rate(self._manifest.get("beta", _BETA) if self._manifest else _BETA)
            if personal.offer(self._assembly.version):
                self._log("predictions begin from version %d" % personal.version)
            outputs = None
            if await self._next_sample():
                outputs = personal.learn()
            x = Cells(learner.x, self._stream, "input")
            if call(self._stream, lambda: self._look(x)):
                outputs = personal.predict()
            if outputs is not None and learner is self._learner:  # else the run has another model by now
                await self._publish(self._topics.prediction, self._prediction(outputs))
        except Exception as error:
            self._log("no prediction: %s" % self._reason(error))

    def _look(self, x):
        """Have the stream write its newest inputs into ``x``; whether there are any."""
        there = self._stream.newest(x)
        if there:
            check(x)
        return there

    async def _renew(self):
        """No work has brought a version for long: take the newest that there is."""
        self._renewed_at = ticks_ms()
        await self._look_again()
        if self._personal is None or self._is_called():
            raise Lost("the run has another model or work now")
        await self._fetch(self._manifest)

    async def _fetch(self, manifest):
        """Read the published initialization of ``manifest``, or of a newer one that takes its place meanwhile."""
        assembly = self._assembly
        if assembly.version == manifest["version"]:
            return
        topic = self._run_topics.init + "/+"
        self._published = manifest["version"]
        assembly.begin(manifest["version"], manifest["crc"])
        try:
            await self.mqtt.subscribe(topic)
            await self._wait(lambda: assembly.version is not None or self._work is not None, _FETCH_SECONDS)
        except OSError as error:
            raise Lost("the published version can't be read: %s" % error)
        finally:
            self._published = None
            try:
                await self.mqtt.unsubscribe(topic)
            except OSError:
                pass  # gone with the connection
        if self._work is not None:
            raise Lost("work arrived")
        if assembly.version is None:
            assembly.end()
            raise Lost("version %d was not to be had in %d s" % (manifest["version"], _FETCH_SECONDS))

    def _on_message(self, topic, payload, retained):
        if not topic.startswith(self._run_topics.init + "/"):
            super()._on_message(topic, payload, retained)
        elif self._published is not None and self._work is None:
            try:
                self._take_piece(messages.index_of(topic), messages.check(_PIECE, unpackb(payload)))
            except ValueError as error:  # MessageError and MessagePackError among them
                self.malformed += 1
                self._log("a piece of the initialization was not understood: %s" % error)
            self._changed.set()

    def _take_piece(self, index, piece):
        if piece["version"] > self._published:
            self._published = piece["version"]
            self._assembly.begin(piece["version"], piece["crc"])
        if piece["version"] == self._published:
            self._assembly.add(index * messages.PIECE_BYTES, piece["data"])

    async def _next_sample(self):
        """Wait for a sample, at most until the next prediction is due; whether there is one."""
        personal = self._personal
        if self._sampling is None:
            call(self._stream, lambda: self._stream.begin(episodes.TRAIN))
            self._sampling = asyncio.create_task(self._sample(personal))
            await asyncio.sleep(0)  # work may wait, which gets its turn next: a sample that is there is taken first
        await self._wait(lambda: personal.sampled or self._is_called(), self._until_turn() or 0)
        if not personal.sampled:
            return False
        self._sampling = None
        failure, personal.sampled = personal.sampled, None
        if isinstance(failure, Exception):
            raise failure
        return True

    async def _sample(self, personal):
        sampled = True
        try:
            stream = self._stream
            await draw(stream, Cells(personal.x, stream, "input"), Cells(personal.y, stream, "target"))
        except Exception as error:  # `_next_sample` raises it
            sampled = error
        if self._sampling is asyncio.current_task():  # else it was stopped
            personal.sampled = sampled
            self._changed.set()

    def _begin_work(self):
        self._renewed_at = ticks_ms()  # it brings a version along
        self._stop_sampling()

    def _stop_sampling(self):
        if self._sampling is not None:
            self._sampling.cancel()
            self._sampling = None
        if self._personal is not None:
            self._personal.sampled = None

    def _prediction(self, outputs):
        """A prediction message."""
        personal = self._personal
        message = {"version": personal.version, "steps": personal.steps}
        loss = personal.loss()
        if loss is not None:
            message["loss"] = loss
            message["error"] = personal.error()
        if self._learner.model.loss == "cross_entropy":
            probability = max(outputs)
            message["label"] = outputs.index(probability)
            message["probability"] = probability / 32768
        else:
            message["outputs"] = [value / ONE for value in outputs[:_MOST_OUTPUTS]]
        return message
