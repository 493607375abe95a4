"""The temperature of the chip itself: nothing to wire. The next reading is the label."""

from .readings import Forecast


class TemperatureStream(Forecast):
    """What will the chip's temperature be in ``seconds``? From the last ``window`` readings.

    Readings are in degrees Celsius around ``middle``; inputs and output are multiples of ``span`` above it.
    """

    def __init__(self, window=4, seconds=60, middle=30, span=10):
        super().__init__(window, seconds, middle, span)
        self._sensor = _sensor()

    def read(self):
        """Degrees Celsius."""
        return self._sensor()


def _sensor():
    """A function that gives the chip's temperature; raises ValueError where there is none."""
    try:
        import esp32

        if hasattr(esp32, "mcu_temperature"):
            return esp32.mcu_temperature
        return lambda: (esp32.raw_temperature() - 32) / 1.8
    except ImportError:
        pass
    try:
        from machine import ADC

        channel = ADC(ADC.CORE_TEMP) if hasattr(ADC, "CORE_TEMP") else ADC(4)
    except (ImportError, ValueError):
        raise ValueError("this chip has no thermometer that MicroPython knows")
    # 0.706 V at 27 degrees, 1.721 mV less for each more (RP2040 datasheet, 4.9.5).
    return lambda: 27 - (channel.read_u16() * 3.3 / 65535 - 0.706) / 0.001721
