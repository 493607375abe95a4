"""A microphone: which word was said? Labels come over MQTT or from buttons.

The features are those of the task "keywords" in integers (`simulator.features.FrontEnd`), to the last bit.
"""

import asyncio
from array import array

from ..learner import ONE
from ..mel import LogMel, middle, push
from ..portable import const, ticks_diff, ticks_ms, view16, zeros
from . import Stream

RATE = const(8000)  # Hz
FRAME = const(256)  # samples
HOP = const(160)
FRAMES = const(49)  # of a clip, a second
LOW = const(20)  # Hz
HIGH = const(4000)

# Of the bands, in 1/1024, over the training clips of speech_commands_8k: what `tinyreptile data bands` prints.
MEANS = (11105, 11935, 11700, 11295, 11141, 11002, 10542, 10137, 9603, 9085,
         8790, 8605, 8452, 8193, 7952, 7971, 8017, 7864, 7787, 7588)  # fmt: skip
DEVIATIONS = (6828, 7292, 7375, 7251, 7459, 7567, 7516, 7241, 6892, 6626,
              6388, 6148, 6008, 5851, 5693, 5750, 5825, 5704, 5608, 5486)  # fmt: skip

_BEFORE = const(12)  # frames of a clip before the one that was loud
_BUFFER = const(16384)  # bytes of the driver: an ESP32, which keeps both channels there, fills them in 256 ms
_GAP_MS = const(250)  # if nobody has listened for so long, sound is lost
_VALID_MS = const(10000)  # clip and label that are farther apart don't belong together


class MicrophoneStream(Stream):
    """The words that an I2S microphone hears, such as an INMP441, at the pins ``sck``, ``ws`` and ``sd``.

    The microphone sends words of 32 bits, the upper 24 of which count, as the left channel (its L/R at ground), at
    8 kHz, for which it filters itself. Samples are the upper 16 bits, taken ``gain`` bits up, 6 dB each, saturated: 5,
    by an INMP441's sensitivity, to have speech from half a metre about as loud as the clips of speech_commands_8k.

    A clip is a second. It is heard when a frame's features exceed the usual ones by ``threshold`` on average, in units
    of log2 of power, 3 dB each, and has begun a quarter of a second before. A sample is a clip and a label: told by a
    message on the device's label topic, or by pressing one of the ``buttons``, pins that connect to ground, one for
    each class. A label is for the newest clip of the last 10 s that has none, else for the next one within 10 s.

    Inputs are 49 frames x 20 bands in standard deviations, Q5.10. ``means`` and ``deviations`` of the bands, in 1/1024,
    have to be those of all devices of the fleet.

    It listens while a sample is wanted; in the first second after a pause it only learns how loud it is. It keeps
    features, not sound: 7.5 KB, and 16 KB of the driver's.

    Raises ValueError for what can't be, and where there is no I2S.
    """

    def __init__(self, sck, ws, sd, classes, buttons=(), gain=5, threshold=2, means=MEANS, deviations=DEVIATIONS):
        if not 2 <= classes <= 64:
            raise ValueError("there are 2 to 64 classes, not %r" % (classes,))
        if len(buttons) not in (0, classes):
            raise ValueError("%d classes need %d buttons or none, not %d" % (classes, classes, len(buttons)))
        if gain not in range(9):
            raise ValueError("a gain is 0 to 8 bits, not %r" % (gain,))
        if not 0 < threshold < 32:
            raise ValueError("a threshold lies between 0 and 32, not at %r" % (threshold,))
        bands = len(means)
        self.inputs = FRAMES * bands
        self.outputs = classes
        self._mel = LogMel(RATE, FRAME, bands, LOW, HIGH)
        self._mel.normal(means, deviations)
        self._threshold = int(threshold * ONE * bands)
        self._gain = gain
        self._raw = bytearray(4 * HOP)  # what comes from the driver: HOP samples
        self._words = view16(self._raw)
        self._filled = 0
        self._samples = view16(zeros("H", FRAME))
        self._cells = view16(zeros("H", FRAMES * bands))  # the features of the last second, from row `_row` on
        self._loudness = array("i", bytes(4 * FRAMES))
        self._row = 0
        self._listened_at = ticks_ms()
        self._together = 0  # frames without a gap, up to a clip's
        self._usual = 0  # loudness
        self._missing = 0  # frames of a clip that is being heard
        self._clip = zeros("h", self.inputs)
        self._heard_at = None  # when it was; None: it has been used
        self._label = None
        self._labelled_at = None
        self._pressed = None  # the button that is down
        try:
            from machine import I2S, Pin

            pins = {"sck": Pin(sck), "ws": Pin(ws), "sd": Pin(sd)}
            self._bus = I2S(0, mode=I2S.RX, bits=32, format=I2S.MONO, rate=RATE, ibuf=_BUFFER, **pins)
            self._buttons = [Pin(pin, Pin.IN, Pin.PULL_UP) for pin in buttons]
        except (ImportError, OSError, TypeError, ValueError):
            raise ValueError("there is no I2S at pins %r, %r and %r" % (sck, ws, sd))
        self._reader = asyncio.StreamReader(self._bus)

    def label(self, value):
        """What the newest clip is, or the next one."""
        if 0 <= value < self.outputs:
            self._label = value
            self._labelled_at = ticks_ms()

    async def sample(self, x, y):
        """Wait for a clip and a label."""
        self._labelled_at = None
        while not (_is_recent(self._labelled_at) and self.newest(x)):
            await self._listen()
            self._look_at_buttons()
        y[0] = self._label
        self._heard_at = None

    def newest(self, x):
        """The newest clip of the last 10 s, if nobody has named it."""
        if not _is_recent(self._heard_at):
            return False
        x[:] = self._clip
        return True

    def _look_at_buttons(self):
        down = None
        for index, button in enumerate(self._buttons):
            if not button.value():
                down = index
        # One that is still down from the clip before says nothing about the next.
        if down is not None and down != self._pressed:
            self.label(down)
        self._pressed = down

    async def _listen(self):
        """Hear one frame more."""
        raw = memoryview(self._raw)
        while self._filled < len(raw):
            self._filled += await self._reader.readinto(raw[self._filled :]) or 0
        self._filled = 0
        now = ticks_ms()
        if ticks_diff(now, self._listened_at) > _GAP_MS:
            # What came before is no part of a clip to come.
            self._together = self._missing = 0
            self._heard_at = None
        self._listened_at = now
        push(self._samples, self._words, FRAME << 16 | HOP, self._gain)
        loudness = self._mel.features(self._samples, self._cells, self._row)
        self._loudness[self._row] = loudness
        self._row = (self._row + 1) % FRAMES
        excess = loudness - self._usual
        if self._together < FRAMES:
            # The microphone is silent for half a second after power-up.
            self._together += 1
            self._usual += excess >> 2
            return
        self._usual += excess >> (6 if excess > 0 else 2)  # it rises in seconds and falls in no time
        if self._missing:
            self._missing -= 1
            if not self._missing:
                self._keep()
        elif excess > self._threshold:
            self._missing = FRAMES - _BEFORE - 1

    def _keep(self):
        """The last second is a clip."""
        clip = view16(self._clip)
        moved = middle([self._loudness[(self._row + i) % FRAMES] for i in range(FRAMES)])
        for target in range(FRAMES):
            source = min(max(target + moved, 0), FRAMES - 1)
            self._mel.normalize(self._cells, (self._row + source) % FRAMES, clip, target)
        self._heard_at = ticks_ms()


def _is_recent(moment):
    return moment is not None and ticks_diff(ticks_ms(), moment) <= _VALID_MS
