"""Where a device's samples come from.

A stream of your own takes some twenty lines: ``examples/thermometer`` has one, with a run that fits it.
"""

from ..portable import RUNNER

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
        """Write the next sample into ``x`` (`Cells` in Q5.10) and ``y`` (Q5.10, or the label in y[0]).

        `learner.fixed` turns a float into Q5.10. A stream that waits for its sensor awaits; it never blocks. Whatever
        it raises is reported, and the device goes on.
        """
        raise NotImplementedError

    def label(self, value):
        """Somebody says over MQTT what the newest inputs were; for a stream whose labels come from outside."""

    def newest(self, x):
        """Write inputs whose target is not known yet into ``x``: what the device is to predict; whether there are any.

        Without any, a device predicts the targets of its samples before it learns from them.
        """
        return False


class Cells:
    """The int16 cells that ``stream`` writes ``what`` into, one by one or as slices; ValueError for what is no int16.

    It is the same on every interpreter: MicroPython's own arrays cut off what is too large.

    Attributes:
        cells: a memoryview of them.
        stream: who writes them.
        what: "input", or "target".
        written: whether any of them was since `draw` began.
    """

    def __init__(self, cells, stream, what):
        self.cells = memoryview(cells)
        self.stream = stream
        self.what = what
        self.written = False

    def __len__(self):
        return len(self.cells)

    def __getitem__(self, at):
        return self.cells[at]

    def __setitem__(self, at, value):
        try:
            if not isinstance(at, slice):
                if -32768 <= value <= 32767:
                    self.cells[at] = value
                    self.written = True
                    return
            elif RUNNER != "micropython" or max(value) <= 32767:  # CPython itself tells int16 from uint16
                self.cells[at] = value
                self.written = True
                return
        except Exception:  # noqa: S110 - whatever it is, the other way finds words for it
            pass
        from .samples import write

        write(self, at, value)


async def draw(stream, x, y):
    """Have ``stream`` write its next sample into the `Cells` ``x`` and ``y``; ValueError for one that can't be used."""
    x.written = y.written = False
    await stream.sample(x, y)
    if not x.written or not y.written or (len(y) < stream.outputs and not 0 <= y[0] < stream.outputs):
        from .samples import check

        check(x)
        check(y)
