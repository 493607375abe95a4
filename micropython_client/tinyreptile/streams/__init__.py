"""Where a device's samples come from.

A stream of your own takes ten lines:

    class Thermometer(Stream):
        inputs = 2  # the last two readings
        outputs = 1  # the next one
        last = before = 0

        async def sample(self, x, y):
            x[0], x[1] = self.last, self.before
            await asyncio.sleep(60)
            self.before, self.last = self.last, fixed((read_celsius() - 20) / 10)
            y[0] = self.last
"""

TRAIN = "train"
SUPPORT = "support"
QUERY = "query"


class Stream:
    """One device's samples, one at a time.

    Attributes:
        inputs, outputs: the shape of a sample; for labels ``outputs`` is the number of classes.
    """

    inputs = 1
    outputs = 1

    def begin(self, part):
        """A piece of work begins: TRAIN goes on with new samples; SUPPORT and QUERY begin their samples anew.

        An evaluation asks for QUERY, SUPPORT, QUERY. A stream that can replay gives the same samples each time, and
        none of SUPPORT again in QUERY; a live sensor has nothing to do here.
        """

    async def sample(self, x, y):
        """Write the next sample into ``x`` (int16 cells, Q5.10) and ``y`` (Q5.10, or the label in y[0]).

        `learner.fixed` turns a float into Q5.10. A stream that waits for its sensor awaits; it never blocks.
        """
        raise NotImplementedError

    def label(self, value):
        """Somebody says over MQTT what the newest inputs were; for a stream whose labels come from outside."""

    def newest(self, x):
        """Write inputs whose target is not known yet into ``x``: what the device is to predict; whether there are any.

        Without any, a device predicts the targets of its samples before it learns from them.
        """
        return False
