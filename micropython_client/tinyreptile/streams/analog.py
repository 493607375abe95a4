"""A pin that measures a voltage, and whether what it sees is what it usually sees."""

from .readings import Anomaly


class AnalogStream(Anomaly):
    """The last ``window`` readings of the pin ``pin``, one every ``seconds``: a current clamp, a light sensor, a knob.

    A reading is a share of the pin's range, 0 to 1; ``middle`` and ``span`` say where the usual ones lie.
    """

    def __init__(self, pin, window=16, seconds=0.1, middle=0.5, span=0.5):
        super().__init__(window, seconds, middle, span)
        try:
            from machine import ADC, Pin

            self._channel = ADC(Pin(pin))
        except (ImportError, TypeError, ValueError):
            raise ValueError("there is no analog input at pin %r" % (pin,))

    def read(self):
        """A share of the range."""
        return self._channel.read_u16() / 65535
