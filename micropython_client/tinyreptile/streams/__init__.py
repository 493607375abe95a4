"""Where a device's samples come from.

A stream of your own takes some twenty lines: ``examples/thermometer`` has one, with a run that fits it.
"""

from ..portable import RUNNER, is_cancelled

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
        it raises but KeyboardInterrupt is reported, and the device goes on.
        """
        raise NotImplementedError

    def label(self, value):
        """Somebody says over MQTT what the newest inputs were; for a stream whose labels come from outside."""

    def newest(self, x):
        """Write inputs whose target is not known yet into ``x``: what the device is to predict; whether there are any.

        Without any, a device predicts the targets of its samples before it learns from them.
        """
        return False


class StreamError(Exception):
    """``stream`` has raised ``error``, of whatever class; the text names both.

    Attributes:
        what: ``error`` in words, for who knows a better name of the stream than that of its class.
    """

    def __init__(self, stream, error):
        self.what = words(error)
        super().__init__("stream %s: %s" % (type(stream).__name__, self.what))


def words(error):
    """Return the class of ``error`` and its text."""
    name = type(error).__name__
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a user's own class may have no words
        text = ""
    return "%s: %s" % (name, text) if text else name


def call(stream, function):
    """Return ``function()``, which calls ``stream``; raises `StreamError` for whatever that raises."""
    try:
        return function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise StreamError(stream, error)


class _Guarded:
    """Awaits ``coroutine``, which calls ``stream``; raises `StreamError` for whatever that raises.

    Not so where its task is cancelled or its coroutine closed, whatever the stream makes of that: these come from
    outside, and are thrown in.
    """

    def __init__(self, stream, coroutine):
        self._stream = stream
        self._coroutine = coroutine

    def __iter__(self):
        coroutine = self._coroutine
        end = thrown = None
        while True:
            try:
                waited = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
            except StopIteration:
                if end is not None and is_cancelled(end):
                    raise end
                return
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if end is not None and is_cancelled(end):
                    raise end
                raise StreamError(self._stream, error)
            thrown = None
            try:
                yield waited
            except BaseException as error:
                thrown = error
                if not isinstance(error, Exception):
                    end = error

    __await__ = __iter__


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
    """Have ``stream`` write its next sample into the `Cells` ``x`` and ``y``; `StreamError` where there is none."""
    await _Guarded(stream, _draw(stream, x, y))


async def _draw(stream, x, y):
    x.written = y.written = False
    await stream.sample(x, y)
    if not x.written or not y.written or (len(y) < stream.outputs and not 0 <= y[0] < stream.outputs):
        from .samples import check

        check(x)
        check(y)
