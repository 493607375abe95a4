"""A device's own model: an initialization adapted to its stream, for as long as no newer one is better on it.

A newer initialization has to earn its place on the samples that came last: it adapts to them one after the other, as it
would have then, and its losses, each taken before its step, are held against those that the device's own weights had.
Only the later half counts, for the first steps of a fresh initialization are no measure of what it leads to.

Weights that leave the range of the number formats, with losses beyond those of a model that has learned nothing, do not
come back by themselves: after as many such samples as are kept, the device begins again from the initialization.
"""

from .model import WEIGHT_BITS
from .portable import zeros


class Personal:
    """The weights of one device, beside those that ``learner`` trains from every initialization anew.

    ``recent`` samples are kept to compare with.

    Attributes:
        x, y: array('h'): the next sample to `learn` is written here, as into the learner's.
        sampled: what came of waiting for it: True, an error, or None while there is none.
        version: of the initialization that the weights began as, or None.
        steps: samples learned from since.
    """

    def __init__(self, learner, recent=8):
        self._learner = learner
        self._recent = recent
        self._weights = bytearray(len(learner.weights))
        self._fractions = bytearray(len(learner.fractions))
        self.x = zeros("h", len(learner.x))
        self.y = zeros("h", len(learner.y))
        self.sampled = None
        self._x = zeros("h", recent * len(self.x))
        self._y = zeros("h", recent * len(self.y))
        self._losses = []  # of the samples that are kept, the oldest first
        self._first = 0  # where the oldest of them is
        self._offered = None
        self._beyond = 0  # samples in a row that left the range of the formats and were worse than untrained
        self.version = None
        self.steps = 0

    @staticmethod
    def ram(model, recent=8):
        """Bytes that it takes beside what ``model`` states."""
        samples = (recent + 1) * (model.inputs + model.target_cells())
        return WEIGHT_BITS[model.weights] // 8 * model.parameters + 2 * samples

    def offer(self, version):
        """The learner holds initialization ``version``: begin from it if that is better; whether it does."""
        if version == self._offered:
            return False
        self._offered = version
        learner = self._learner
        learner.load()
        losses = [self._relearn(i) for i in range(len(self._losses))]
        half = len(losses) // 2
        if losses and sum(losses[half:]) >= sum(self._losses[half:]):
            return False
        self._losses = losses
        self._weights[:] = learner.weights
        self._fractions[:] = learner.fractions
        self.version = version
        self.steps = len(losses)
        return True

    def learn(self):
        """Take one step on the sample in `x` and `y`, and keep it; returns what was predicted before, as `predict`."""
        at = (self._first + len(self._losses)) % self._recent
        if len(self._losses) == self._recent:
            self._losses.pop(0)
            self._first = (self._first + 1) % self._recent
        self._x[at * len(self.x) : (at + 1) * len(self.x)] = self.x
        self._y[at * len(self.y) : (at + 1) * len(self.y)] = self.y
        with _Using(self._learner, self._weights, self._fractions) as learner:
            outputs = list(learner.predict(self.x))
            saturated = learner.saturated()
            loss = learner.step(self.x, self.y)
            if learner.saturated() > saturated and loss > learner.untrained_loss():
                self._beyond += 1
            else:
                self._beyond = 0
        self._losses.append(loss)
        self.steps += 1
        if self._beyond >= self._recent:
            self._begin_again()
        return outputs

    def _begin_again(self):
        """Take the initialization that was offered last."""
        self._weights[:] = self._learner.initialization
        self._fractions[:] = self._learner.fractions
        self._losses = []
        self._beyond = 0
        self.version = self._offered
        self.steps = 0

    def predict(self):
        """The outputs for the learner's own `x`: linear values in Q5.10, or probabilities in 15 bits, as a list."""
        with _Using(self._learner, self._weights, self._fractions) as learner:
            return list(learner.predict(learner.x))

    def loss(self):
        """Mean loss of the samples that came last, each before its step; None before the first."""
        return sum(self._losses) / len(self._losses) if self._losses else None

    def error(self):
        """Loss of the newest sample before its step; None before the first."""
        return self._losses[-1] if self._losses else None

    def _relearn(self, index):
        """A step of the learner's own weights on the sample ``index`` of those that are kept."""
        at = (self._first + index) % self._recent
        x = self._x[at * len(self.x) : (at + 1) * len(self.x)]
        return self._learner.step(x, self._y[at * len(self.y) : (at + 1) * len(self.y)])


class _Using:
    """While it is open the learner works on other weights than its own."""

    def __init__(self, learner, weights, fractions):
        self._learner = learner
        self._weights = weights
        self._fractions = fractions

    def __enter__(self):
        self._own = self._learner.weights, bytes(self._learner.fractions)
        self._learner.use(self._weights, self._fractions)
        return self._learner

    def __exit__(self, *error):
        self._learner.use(*self._own)
