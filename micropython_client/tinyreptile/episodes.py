"""A piece of training on a learner and a stream.

A coroutine, because streams wait for their samples and a device's network wants its turn: ``pause`` is awaited after
every sample.
"""

from .streams import TRAIN, Cells, call, draw


async def no_pause():
    """Nobody else waits for a turn."""


class Diverged(ValueError):
    """Training has left the range of the number formats and made the model worse; its delta is worth nothing."""


async def train(learner, stream, steps, pause=no_pause):
    """Take ``steps`` one-sample SGD steps on new samples; return their mean loss, each taken before its step.

    Raises `Diverged` where most steps of the later half left the range of the number formats, and the loss in these was
    higher than that of a model that has learned nothing. One of the two alone is no fault: a ReLU that ends at 32
    learns as well, and a hard task begins with a high loss.
    """
    x, y = Cells(learner.x, stream, "input"), Cells(learner.y, stream, "target")
    call(stream, lambda: stream.begin(TRAIN))
    half = steps // 2
    total = excess = 0.0
    beyond = 0
    for i in range(steps):
        await draw(stream, x, y)
        saturated = learner.saturated()
        loss = learner.step(learner.x, learner.y)
        total += loss
        if i >= half and learner.saturated() > saturated:
            beyond += 1
            excess += loss - learner.untrained_loss()
        await pause()
    if half and 2 * beyond > steps - half and excess > 0:
        raise Diverged(
            "training diverged: %d of the last %d steps left the range of the number formats, with a loss that is "
            "higher than an untrained model's; a smaller beta may help" % (beyond, steps - half)
        )
    return total / steps
