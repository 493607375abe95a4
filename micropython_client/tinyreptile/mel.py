"""Log-mel features of sound in integers: one source for viper, numba and plain Python, equal to the last bit.

A frame of int16 samples goes through a Hann window, a Fourier transform and triangles on the mel scale; of each band's
power p comes log2(1 + p / 4096). Number formats:

- samples, and the numbers of the transform: integers times 2^e, e of each frame's own (block floating point)
- cosines Q14, the window Q15, triangles Q10
- features: unsigned 16 bits, Q6.10; what is made of them for a network: int16, Q5.10

No number leaves int32. A component of the transform stays below 80,000: where 15 bits do not hold them all, the next
stage shifts right, and a stage makes them larger by 1 + sqrt 2 at most. So sums of two products with cosines of one
angle stay below 2^31.
`kernels` states the rules of the source; here, 32-bit cells that may be negative hold their value plus `BIAS`.

*Tables* (array of uint16) drive everything: a header, the cosines of half a turn, the triangles' weights, their first
bins, and each band's mean and scale. They are computed in integers, because boards have floats of 32 bits, and some
of 30: rounded, theirs would not be those of a computer.
"""

from .portable import const, micropython, ptr16, ptr32, view16, view32, zeros

FRAME = const(0)  # samples of a frame
BANDS = const(1)
ROW = const(2)  # where the next frame's features go
COSINES = const(3)  # cos(2 pi k / FRAME), Q14, k from 0 to FRAME / 2

BIAS = const(1048576)  # what 32-bit cells hold beside their value
KEPT = const(15)  # bits of a component that a stage keeps
POWER = const(14)  # and before it is squared

_LIMIT = 65536  # sum of a band's weights, Q10: 32,767 times it is below 2^31
_ONE = 1024  # 1 in features, means and deviations
_FINE = 30  # fraction bits of what tables are made from
_MEL = 700  # Hz: mel is the logarithm of 1 + f / 700


@micropython.viper
def push(x: ptr16, raw: ptr16, sizes: int, gain: int):
    """Take ``sizes`` & 0xFFFF samples of 32 bits, ``raw``, for as many of the ``sizes`` >> 16 oldest of ``x``.

    Of each its upper half, ``gain`` bits (0 to 8) up, saturated.
    """
    count = sizes & 0xFFFF
    kept = (sizes >> 16) - count
    for i in range(kept):
        x[i] = x[i + count]
    for i in range(count):
        value = ((raw[i + i + 1] ^ 0x8000) - 0x8000) << gain | raw[i + i] >> (16 - gain)
        if value > 32767:
            value = 32767
        if value < -32768:
            value = -32768
        x[kept + i] = value & 0xFFFF


@micropython.viper
def load_frame(t: ptr16, x: ptr16, z: ptr32) -> int:
    """Window the samples ``x``, as many bits up as there is room, into ``z``; returns how many.

    Sample 2i is the real, 2i + 1 the imaginary part of number i, and i's place is that of its bits reversed.
    """
    n = t[FRAME]
    seen = 0
    for i in range(n):
        v = (x[i] ^ 0x8000) - 0x8000
        seen = seen | (v ^ (v >> 31))
    up = 0
    while up < 14 and seen < 0x4000:
        seen = seen << 1
        up += 1
    shift = 15 - up
    half = (1 << shift) >> 1
    j = 0
    for i in range(n):
        k = i
        if k > n >> 1:
            k = n - k
        weight = 16384 - ((t[COSINES + k] ^ 0x8000) - 0x8000)
        z[j] = ((((x[i] ^ 0x8000) - 0x8000) * weight + half) >> shift) + BIAS
        if i & 1:
            # Count up in reversed bits, past the lowest one, which tells real from imaginary.
            j -= 1
            k = n >> 1
            while k > 1 and j & k:
                j = j ^ k
                k = k >> 1
            j = j | k
        else:
            j += 1
    return up


@micropython.viper
def combine(t: ptr16, z: ptr32, stage: int, shift: int) -> int:
    """Stage ``stage`` of the transform (decimation in time), ``shift`` bits down; returns the bits that are in use."""
    n = t[FRAME]
    distance = 2 << stage
    step = n >> (stage + 1)
    half = (1 << shift) >> 1
    seen = 0
    for j in range(1 << stage):
        k = j * step
        c = (t[COSINES + k] ^ 0x8000) - 0x8000
        k = (n >> 2) - k
        if k < 0:
            k = 0 - k
        s = (t[COSINES + k] ^ 0x8000) - 0x8000
        a = j + j
        while a < n:
            b = a + distance
            re = z[b] - BIAS
            im = z[b + 1] - BIAS
            other_re = (re * c + im * s + 8192) >> 14
            other_im = (im * c - re * s + 8192) >> 14
            re = z[a] - BIAS + half
            im = z[a + 1] - BIAS + half
            v = (re + other_re) >> shift
            seen = seen | (v ^ (v >> 31))
            z[a] = v + BIAS
            v = (im + other_im) >> shift
            seen = seen | (v ^ (v >> 31))
            z[a + 1] = v + BIAS
            v = (re - other_re) >> shift
            seen = seen | (v ^ (v >> 31))
            z[b] = v + BIAS
            v = (im - other_im) >> shift
            seen = seen | (v ^ (v >> 31))
            z[b + 1] = v + BIAS
            a = b + distance
    return seen


@micropython.viper
def separate(t: ptr16, z: ptr32, shift: int) -> int:
    """Twice the transform of the samples from that of pairs, ``shift`` bits down; returns the bits that are in use.

    Of the numbers 1 to FRAME / 2 - 1, up to the sign of the imaginary part.
    """
    n = t[FRAME]
    half = (1 << shift) >> 1
    seen = 0
    k = 1
    while k <= n >> 2:
        c = (t[COSINES + k] ^ 0x8000) - 0x8000
        s = (t[COSINES + (n >> 2) - k] ^ 0x8000) - 0x8000
        a = k + k
        b = n - a
        odd_re = (z[a + 1] + z[b + 1] - BIAS - BIAS + half) >> shift
        odd_im = (z[b] - z[a] + half) >> shift
        re = (z[a] + z[b] - BIAS - BIAS + half) >> shift
        im = (z[a + 1] - z[b + 1] + half) >> shift
        other_re = (odd_re * c + odd_im * s + 8192) >> 14
        other_im = (odd_im * c - odd_re * s + 8192) >> 14
        v = re + other_re
        seen = seen | (v ^ (v >> 31))
        z[a] = v + BIAS
        v = im + other_im
        seen = seen | (v ^ (v >> 31))
        z[a + 1] = v + BIAS
        v = re - other_re
        seen = seen | (v ^ (v >> 31))
        z[b] = v + BIAS
        v = im - other_im
        seen = seen | (v ^ (v >> 31))
        z[b + 1] = v + BIAS
        k += 1
    return seen


@micropython.viper
def square(t: ptr16, z: ptr32, shift: int):
    """The powers of the numbers in ``z``, which are first brought ``shift`` bits down; up to 2^29, without `BIAS`."""
    half = (1 << shift) >> 1
    for k in range(1, t[FRAME] >> 1):
        re = (z[k + k] - BIAS + half) >> shift
        im = (z[k + k + 1] - BIAS + half) >> shift
        z[k] = re * re + im * im


@micropython.viper
def sum_bands(t: ptr16, z: ptr32, exponent: int, out: ptr16) -> int:
    """log2(1 + p 2^``exponent``) of every band's power p (its weights Q0), into row `ROW`; returns their sum (Q10).

    A sum is kept in two halves, of which the lower has 15 bits; a logarithm is the place of the highest bit, then 10
    bits that come of squaring what is behind it.
    """
    bands = t[BANDS]
    weights = COSINES + (t[FRAME] >> 1) + 1
    edges = weights + (t[FRAME] >> 1)
    place = t[ROW] * bands
    loudness = 0
    for band in range(bands):
        high = 0
        low = 0
        middle = t[edges + band + 1]
        for k in range(t[edges + band], t[edges + band + 2]):
            weight = t[weights + k]
            if k >= middle:
                weight = 1024 - weight
            high += weight * (z[k] >> 15)
            low += weight * (z[k] & 0x7FFF)
        high += low >> 15
        low = low & 0x7FFF
        # To high * 2^q with 15 bits.
        q = exponent + 5
        while high >= 0x8000:
            high = high >> 1
            q += 1
        while high < 0x4000 and q > -30:
            high = (high << 1) | (low >> 14)
            low = (low << 1) & 0x7FFF
            q -= 1
        value = 0
        if q > -30:
            if q <= 0:
                high += 1 << (0 - q)
            while high >= 0x8000:
                high = high >> 1
                q += 1
            value = q + 14
            for _ in range(10):
                high = high * high >> 14
                value = value << 1
                if high >= 0x8000:
                    high = high >> 1
                    value += 1
        out[place + band] = value
        loudness += value
    return loudness


@micropython.viper
def normalize(t: ptr16, rows: int, cells: ptr16, x: ptr16):
    """Row ``rows`` >> 16 of the features ``cells`` to row ``rows`` & 0xFFFF of the inputs ``x``, int16 in Q5.10.

    Each band in standard deviations from its mean, clipped at 4.
    """
    bands = t[BANDS]
    means = COSINES + t[FRAME] + 1 + bands + 2
    source = (rows >> 16) * bands
    target = (rows & 0xFFFF) * bands
    for band in range(bands):
        value = ((cells[source + band] - t[means + band]) * t[means + bands + band] + 8192) >> 14
        if value > 4096:
            value = 4096
        if value < -4096:
            value = -4096
        x[target + band] = value & 0xFFFF


class LogMel:
    """The features of frames of ``frame`` samples: ``bands`` triangles from ``low`` to ``high`` Hz at ``rate`` Hz.

    ``rate``, ``low`` and ``high`` are integers. `normal` gives the bands' means and deviations; before it, they are 0
    and 1. Raises ValueError for what can't be.

    Attributes:
        bands: how many there are.
        tables: array('H') that drives the functions above.
    """

    def __init__(self, rate, frame, bands, low, high):
        if frame not in (64, 128, 256, 512):
            raise ValueError("a frame has 64, 128, 256 or 512 samples, not %r" % (frame,))
        if not 1 <= bands <= 64:
            raise ValueError("there are 1 to 64 bands, not %r" % (bands,))
        if not 0 <= low < high <= rate // 2:
            raise ValueError("bands lie between 0 and %d Hz, not from %r to %r" % (rate // 2, low, high))
        self.bands = bands
        stages = 0
        while 2 << stages < frame:
            stages += 1
        self._stages = stages
        self.tables = zeros("H", COSINES + frame + 1 + bands + 2 + 2 * bands)
        self._means = COSINES + frame + 1 + bands + 2
        self._z = view32(zeros("i", frame))
        self.tables[FRAME] = frame
        self.tables[BANDS] = bands
        for k, value in enumerate(_cosines(frame)):
            self.tables[COSINES + k] = value & 0xFFFF
        self._lay_triangles(rate, low, high)
        self._t = view16(self.tables)
        self.normal([0] * bands, [_ONE] * bands)

    def normal(self, means, deviations):
        """`normalize` by each band's mean and standard deviation over training's maps, integers of 10 fraction bits.

        Raises ValueError for others than 0 to 65,535, and for deviations of 512 or less.
        """
        if len(means) != self.bands or len(deviations) != self.bands:
            raise ValueError("%d bands have as many means and deviations" % self.bands)
        for band in range(self.bands):
            mean = means[band]
            deviation = deviations[band]
            if not (isinstance(mean, int) and isinstance(deviation, int)):
                raise ValueError("means and deviations are integers, in units of 1/1024")
            if not (0 <= mean < 65536 and 512 < deviation < 65536):
                raise ValueError("a mean is 0 to 65535 and a deviation 513 to 65535, not %d and %d" % (mean, deviation))
            self.tables[self._means + band] = mean
            self.tables[self._means + self.bands + band] = ((_ONE << 14) + deviation // 2) // deviation

    def features(self, samples, cells, row):
        """The features of ``samples``, a frame, to row ``row`` of ``cells``; returns their sum. Views of 16 bits."""
        t = self._t
        z = self._z
        exponent = -load_frame(t, samples, z)
        shift = 0
        for stage in range(self._stages):
            shift = _excess(combine(t, z, stage, shift), KEPT)
            exponent += shift
        shift = _excess(separate(t, z, shift), POWER)
        square(t, z, shift)
        self.tables[ROW] = row
        # Twice the transform is what `separate` gives, and 4096 the floor.
        return sum_bands(t, z, 2 * (exponent + shift - 1) - 12, cells)

    def normalize(self, cells, source, x, target):
        """Row ``source`` of the features ``cells`` to row ``target`` of the inputs ``x``. Views of 16 bits."""
        normalize(self._t, source << 16 | target, cells, x)

    def _lay_triangles(self, rate, low, high):
        """The weight of each bin in the triangle that rises there, and 1 less it in the one that falls."""
        frame = self.tables[FRAME]
        weights = COSINES + frame // 2 + 1
        # Edges that are evenly spaced in mel are so by a ratio, 700 Hz added.
        count = self.bands + 1
        ratio = _root(((_MEL + high) << (_FINE * count)) // (_MEL + low), count, _FINE + 16)
        edge = (_MEL + low) << _FINE
        first = self._first_bin(edge, rate)
        for band in range(count):
            next_edge = edge * ratio >> _FINE
            end = self._first_bin(next_edge, rate)
            self.tables[weights + frame // 2 + band] = first
            for k in range(first, end):
                above = (k * rate << _FINE) // frame + (_MEL << _FINE) - edge
                self.tables[weights + k] = ((above << 11) // (next_edge - edge) + 1) >> 1
            edge = next_edge
            first = end
        self.tables[weights + frame // 2 + count] = first
        self._check_bands()

    def _first_bin(self, edge, rate):
        """The first bin, of 1 to half a frame, that is not below ``edge``."""
        frame = self.tables[FRAME]
        below = ((_MEL << _FINE) - edge) * frame // (rate << _FINE)
        return min(max(1, -below), frame // 2)

    def _check_bands(self):
        t = self.tables
        weights = COSINES + t[FRAME] // 2 + 1
        edges = weights + t[FRAME] // 2
        for band in range(self.bands):
            total = 0
            for k in range(t[edges + band], t[edges + band + 2]):
                total += t[weights + k] if k < t[edges + band + 1] else _ONE - t[weights + k]
            if not total:
                raise ValueError("%d bands are too many for frames of %d samples; take fewer" % (self.bands, t[FRAME]))
            if total >= _LIMIT:
                raise ValueError("%d bands are too few for frames of %d samples; take more" % (self.bands, t[FRAME]))


def middle(loudness):
    """By how many frames a map is to be moved, until the middle of what is loud in it is in its middle.

    ``loudness`` are the sums of its frames' features, from the first to the last. Loud is what exceeds their median; it
    counts by its square. Rounded, a half upwards.
    """
    count = len(loudness)
    ordered = sorted(loudness)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) // 2
    total = 0
    moment = 0
    for frame in range(count):
        # Without the lowest bits, so that squares seldom take memory on boards.
        excess = max(0, loudness[frame] - median) >> 6
        total += excess * excess
        moment += excess * excess * (2 * frame - count + 1)
    return (moment + total) // (2 * total) if total else 0


def _excess(seen, kept):
    """By how many bits ``seen`` is longer than ``kept`` bits."""
    shift = 0
    while seen >> (kept + shift):
        shift += 1
    return shift


def _cosines(frame):
    """cos(2 pi k / ``frame``), k from 0 to half of it, in Q14."""
    one = 1 << 2 * _FINE
    step = 0  # of a quarter turn
    turn = 4
    while turn < frame:
        step = _root((one + step) * one // 2, 2, 2 * _FINE)  # of half the angle
        turn *= 2
    cosine, following = one, step
    result = []
    for _ in range(frame // 2 + 1):
        result.append((cosine + (one >> 15)) >> (2 * _FINE - 14))
        cosine, following = following, (2 * step * following >> 2 * _FINE) - cosine
    return result


def _root(value, power, bits):
    """The largest integer below 2^``bits`` whose power ``power`` is at most ``value``."""
    root = 0
    for bit in range(bits - 1, -1, -1):
        if (root | 1 << bit) ** power <= value:
            root |= 1 << bit
    return root
