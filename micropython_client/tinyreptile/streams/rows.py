"""Rows of a text file as samples: numbers separated by commas, the inputs first, then the targets or the label."""

from ..learner import fixed
from . import QUERY, SUPPORT, Stream


class RowsError(ValueError):
    """A file that does not hold the rows it should; the text names the line."""


class RowsStream(Stream):
    """Reads ``path`` row by row, over and over, holding one row at a time.

    ``inputs`` numbers, then ``outputs`` targets; or with ``labels`` a label from 0 to ``outputs`` - 1. Numbers are
    taken as they are into Q5.10, so bring them to about -1 to 1 when the file is written. Lines that begin with # are
    comments. Training reads all rows. In an evaluation the even rows are support, the odd ones query.
    """

    def __init__(self, path, inputs, outputs, labels=False):
        self.inputs = inputs
        self.outputs = outputs
        self._path = path
        self._labels = labels
        self._step = 1
        self._next = 0
        self._row = 0
        self._line = 0
        self._file = None
        self._rewind()
        try:
            self._parse(self._line_of_part(), None, None)  # the file is checked before anything relies on it
        except RowsError:
            self.close()
            raise
        self._rewind()

    def begin(self, part):
        """Support and query begin at their first rows; training goes on where it was."""
        if part == SUPPORT or part == QUERY:
            self._rewind()
            self._step = 2
            self._next = 0 if part == SUPPORT else 1
        else:
            self._step = 1

    async def sample(self, x, y):
        """The next row."""
        self._parse(self._line_of_part(), x, y)

    def close(self):
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None

    def _rewind(self):
        self.close()
        self._file = open(self._path)
        self._row = self._line = self._next = 0

    def _line_of_part(self):
        """The text of the next row that belongs to the part."""
        rewound = False
        while True:
            try:
                text = self._file.readline()
            except UnicodeError:
                raise RowsError("%s is no text: line %d is not UTF-8" % (self._path, self._line + 1))
            if not text:
                if rewound or not self._row:
                    raise RowsError("%s has no row for this part" % self._path)
                start = self._next % self._step if self._step > 1 else 0
                self._rewind()
                self._next = start
                rewound = True
                continue
            self._line += 1
            text = text.strip()
            if not text or text[0] == "#":
                continue
            self._row += 1
            if self._row - 1 == self._next:
                self._next += self._step
                return text

    def _parse(self, text, x, y):
        """Bring a row's numbers into ``x`` and ``y``, one at a time: a long row as a list would take many KB."""
        expected = self.inputs + (1 if self._labels else self.outputs)
        count = 0
        end = -1
        while end < len(text):
            start = end + 1
            end = text.find(",", start)
            if end < 0:
                end = len(text)
            try:
                value = float(text[start:end])
            except ValueError:
                raise RowsError("%s, line %d: not a number in %r" % (self._path, self._line, text[start:end]))
            if not -1e30 < value < 1e30:
                raise RowsError("%s, line %d: numbers must be finite" % (self._path, self._line))
            at = count - self.inputs
            if self._labels and at == 0 and value not in range(self.outputs):
                raise RowsError(
                    "%s, line %d: the label is %s, expected 0 to %d" % (self._path, self._line, value, self.outputs - 1)
                )
            if x is not None and count < expected:
                if at < 0:
                    x[count] = fixed(value)
                else:
                    y[at] = int(value) if self._labels else fixed(value)
            count += 1
        if count != expected:
            raise RowsError("%s, line %d: %d numbers, expected %d" % (self._path, self._line, count, expected))
