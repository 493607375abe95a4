"""A device that uses what the fleet learns: a model of its own, adapted on and on, and predictions from it.

The fleet learns nothing of it: work is trained on the initialization as it came, by weights of its own.
"""

import asyncio

from . import episodes
from .client import Client, Lost
from .learner import ONE
from .personal import Personal
from .portable import const, ticks_diff, ticks_ms

_RENEW_SECONDS = const(300)  # without work: then it looks for a newer version itself
_BETA = 0.01  # learning rate of the own model, if the run names none
_MOST_OUTPUTS = const(64)  # in a prediction


class PredictingClient(Client):
    """A `Client` that adapts a model of its own to its stream, and publishes a prediction every ``predict`` seconds."""

    def __init__(self, *arguments, predict, **options):
        self._predict = predict
        self._personal = None
        self._predicted_at = 0
        self._renewed_at = 0
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
            if self._stream.newest(learner.x):
                outputs = personal.predict()
            if outputs is not None and learner is self._learner:  # else the run has another model by now
                await self._publish(self._topics.prediction, self._prediction(outputs))
        except (Lost, ValueError, OSError, MemoryError) as error:
            self._log("no prediction: %s" % (str(error) or type(error).__name__))

    async def _renew(self):
        """No work has brought a version for long: take the newest that there is."""
        self._renewed_at = ticks_ms()
        await self._read_manifest()
        if self._personal is None or self._work is not None:
            raise Lost("the run has another model or work now")
        await self._fetch(self._manifest)

    async def _next_sample(self):
        """Wait for a sample, at most until the next prediction is due; whether there is one."""
        personal = self._personal
        if self._sampling is None:
            self._stream.begin(episodes.TRAIN)
            self._sampling = asyncio.create_task(self._sample(personal))
        await self._wait(lambda: personal.sampled or self._is_called(), self._until_turn())
        if not personal.sampled:
            return False
        self._sampling = None
        failure, personal.sampled = personal.sampled, None
        if isinstance(failure, Exception):
            raise failure
        return True

    async def _sample(self, personal):
        try:
            await self._stream.sample(personal.x, personal.y)
            personal.sampled = True
        except (ValueError, OSError) as error:
            personal.sampled = error
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
