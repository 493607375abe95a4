"""The inverse of `delta`, for whoever receives one: checked, then unpacked."""

from .delta import BITS, DeltaError
from .sparse_delta import low_bits, sections


def unpack(model, packed, bits, gains, kept=None):
    """The changes as a list of floats in units of 2^-12, one a parameter: the inverse of `Delta.pack`.

    A plain reference that runs anywhere; a coordinator has its vectorised equal in `coordinator.deltas`. Raises
    `DeltaError` where sizes or gains don't fit the model.
    """
    check(model, len(packed), bits, gains, kept)
    parameters = model.parameters
    if kept is None:
        numbers = range(parameters)
        at = 0
    else:
        lows, at, _ = sections(parameters, bits, kept)
        low = low_bits(parameters, kept)
        found = []
        for i in range(8 * lows):
            if packed[i >> 3] >> (i & 7) & 1:
                j = len(found)
                if j == kept:
                    raise DeltaError("the numbers of the kept changes are damaged")
                found.append((i - j) << low | _read(packed, 8 * lows + j * low, low))
        numbers = found
        check_numbers(numbers, parameters, kept)
    changes = [0.0] * parameters
    for j, i in enumerate(numbers):
        q = _read(packed, 8 * at + j * bits, bits)
        if q >> (bits - 1):
            q -= 1 << bits
        changes[i] = q * 65536 / gains[_tensor(model, i)]
    return changes


def packed_size(parameters, bits, kept=None):
    """Bytes of a packed delta, of all ``parameters`` or of the ``kept`` largest."""
    if kept is None:
        return (parameters * bits + 7) // 8
    return sections(parameters, bits, kept)[2]


def check(model, size, bits, gains, kept):
    """Raises `DeltaError` where ``size`` bytes, ``bits``, ``gains`` or ``kept`` don't fit the model."""
    if bits not in BITS or len(gains) != len(model.offsets):
        raise DeltaError("%r bits and %d gains are no delta of this model" % (bits, len(gains)))
    for gain in gains:
        if not 1 <= gain <= 65536:
            raise DeltaError("a gain lies between 1 and 65536, not %r" % gain)
    if kept is not None and not 1 <= kept <= model.parameters:
        raise DeltaError("%d of %d changes can't be kept" % (kept, model.parameters))
    if size != packed_size(model.parameters, bits, kept):
        raise DeltaError("%d bytes are no delta of %d numbers at %d bits" % (size, model.parameters, bits))


def check_numbers(numbers, parameters, kept):
    """Raises `DeltaError` where ``numbers``, as they were unpacked, are not ``kept`` growing numbers of cells."""
    if len(numbers) != kept or numbers[-1] >= parameters:
        raise DeltaError("the numbers of the kept changes are damaged")
    for i in range(1, len(numbers)):
        if numbers[i] <= numbers[i - 1]:
            raise DeltaError("the numbers of the kept changes are damaged")


def _read(packed, at, bits):
    """``bits`` bits from bit ``at`` on."""
    value = 0
    for i in range(bits):
        value |= (packed[(at + i) >> 3] >> ((at + i) & 7) & 1) << i
    return value


def _tensor(model, cell):
    index = len(model.offsets) - 1
    while model.offsets[index] > cell:
        index -= 1
    return index
