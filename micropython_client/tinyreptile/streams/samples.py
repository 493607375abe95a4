"""What is wrong with a sample, in words; and the numbers of sequences that can't be copied as they are."""


def write(cells, at, value):
    """Write a number or a sequence of them into the `Cells` ``cells``; ValueError says what is none."""
    if not isinstance(at, slice):
        _write_one(cells, cells.cells, at, value)
        return
    part = cells.cells[at]
    try:
        count = len(value)
    except TypeError:
        raise _error(cells, "%r is no sequence of %ss" % (value, cells.what))
    if count != len(part):
        raise _error(cells, "%d numbers are written into %d %ss" % (count, len(part), cells.what))
    for index in range(count):
        _write_one(cells, part, index, value[index])


def check(cells):
    """Raise ValueError if none of the `Cells` ``cells`` were written, or they hold a label that is no class."""
    outputs = cells.stream.outputs
    if not cells.written:
        raise _error(cells, "none of %d %ss was written" % (len(cells), cells.what))
    if cells.what == "target" and len(cells) < outputs and not 0 <= cells[0] < outputs:
        raise _error(cells, "label %d is none of the %d classes, 0 to %d" % (cells[0], outputs, outputs - 1))


def _write_one(cells, part, at, value):
    try:
        if -32768 <= value <= 32767:
            part[at] = value
            cells.written = True
            return
    except IndexError:
        raise _error(cells, "there is no %s %d, but 0 to %d" % (cells.what, at, len(cells) - 1))
    except (TypeError, ValueError):
        pass
    raise _error(cells, "%r is no %s" % (value, cells.what))


def _error(cells, text):
    return ValueError(
        "%s; a sample has %d inputs and %d outputs, whole numbers from -32768 to 32767 in Q5.10: fixed() makes them"
        % (text[:60], cells.stream.inputs, cells.stream.outputs)
    )
