"""Streams of real sensors; their drivers are played by the test."""

from __future__ import annotations

import asyncio
import itertools
import math
import struct
import sys
from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from simulator.offline import run_now
from tinyreptile.build import make_stream
from tinyreptile.device import ConfigError
from tinyreptile.learner import Learner, fixed
from tinyreptile.model import Model
from tinyreptile.streams.readings import Forecast, Readings

Values = Callable[[], float]


def install(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    for name in ("esp32", "machine"):
        monkeypatch.setitem(sys.modules, name, modules.get(name))


def adc(values: Values, **attributes: Any) -> Any:
    """The class ADC of a chip whose channels read ``values``, shares of the range."""

    class Channel:
        def __init__(self, pin: Any) -> None:
            if pin == 99:
                raise ValueError("invalid pin")

        def read_u16(self) -> int:
            return round(values() * 65535)

    for name, value in attributes.items():
        setattr(Channel, name, value)
    return Channel


def take(stream: Any, count: int = 1) -> list[tuple[list[int], list[int]]]:
    """The next samples of ``stream``."""
    samples = []
    for _ in range(count):
        x, y = array("h", bytes(2 * stream.inputs)), array("h", bytes(2 * stream.outputs))
        run_now(stream.sample(x, y)) if stream._seconds == 0 else asyncio.run(stream.sample(x, y))
        samples.append((list(x), list(y)))
    return samples


# Temperature


def test_the_temperature_of_an_rp2040_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    degrees = iter([27.0, 28.0, 29.0, 30.0, 31.0, 32.0])
    install(
        monkeypatch,
        machine=SimpleNamespace(ADC=adc(lambda: (0.706 - 0.001721 * (next(degrees) - 27)) / 3.3, CORE_TEMP=4)),
    )
    stream = make_stream({"kind": "temperature", "window": 3, "seconds": 0.001, "middle": 27, "span": 10})
    x = array("h", bytes(6))
    assert not stream.newest(x)
    (first, target), (second, _) = take(stream, 2)
    # A step of the converter is 0.03 degrees.
    assert [value / 102.4 for value in first] == pytest.approx([0, 1, 2], abs=0.05)
    assert target[0] / 102.4 == pytest.approx(3, abs=0.05)
    assert [value / 102.4 for value in second] == pytest.approx([1, 2, 3], abs=0.05)
    assert stream.newest(x)
    assert [value / 102.4 for value in x] == pytest.approx([2, 3, 4], abs=0.05)


@pytest.mark.parametrize(
    "esp32",
    [SimpleNamespace(mcu_temperature=lambda: 45), SimpleNamespace(raw_temperature=lambda: 113)],
    ids=["degrees", "Fahrenheit"],
)
def test_the_temperature_of_an_esp32_is_read(monkeypatch: pytest.MonkeyPatch, esp32: Any) -> None:
    install(monkeypatch, esp32=esp32)
    assert make_stream({"kind": "temperature"}).read() == 45


def test_a_chip_without_a_thermometer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(ConfigError, match="stream: temperature: ValueError: this chip has no thermometer"):
        make_stream({"kind": "temperature"})


# Any readings


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"window": 0}, "a window has 1 to 64 readings, not 0"),
        ({"seconds": 0}, "seconds between two readings are more than 0, not 0"),
        ({"span": 0}, "span is more than 0, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_told(options: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Readings(**({"window": 4, "seconds": 1, "middle": 0, "span": 1} | options))


def test_readings_are_taken_in_their_time() -> None:
    class Clock(Forecast):
        def read(self) -> float:
            return asyncio.get_running_loop().time()

    async def times() -> list[int]:
        stream = Clock(3, 0.1, 0, 1)
        stream._middle = asyncio.get_running_loop().time()
        x, y = array("h", bytes(6)), array("h", bytes(2))
        await stream.sample(x, y)
        return [*x, y[0]]

    taken = asyncio.run(times())
    assert [(later - sooner) / 1024 for sooner, later in itertools.pairwise(taken)] == pytest.approx(
        [0.1, 0.1, 0.1], abs=0.05
    )


# A pin


@pytest.mark.usefixtures("compiled")
def test_a_network_learns_what_is_usual_and_tells_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    broken = False

    def value() -> float:
        nonlocal now
        now += 1
        return 0.5 + 0.4 * (math.sin(now * 2.1) if broken else math.sin(now * 0.7))

    install(monkeypatch, machine=SimpleNamespace(ADC=adc(value), Pin=lambda pin: pin))
    stream = make_stream({"kind": "analog", "pin": 26, "window": 8, "seconds": 1e-9})
    learner = Learner(Model([["input", 8], ["dense", 6, "relu"], ["dense", 8], ["squared_error"]]))
    kick = [((i * 7919) % 2000 - 1000) for i in range(len(learner.initialization) // 2)]
    learner.wire[:] = array("h", kick).tobytes()
    learner.receive()
    learner.load()
    learner.set_rate(0.1)

    async def losses(count: int, *, learn: bool) -> float:
        x, y = array("h", bytes(16)), array("h", bytes(16))
        total = 0.0
        for _ in range(count):
            await stream.sample(x, y)
            total += learner.step(x, y) if learn else learner.evaluate(x, y)[0]
        return total / count

    first = asyncio.run(losses(20, learn=True))
    asyncio.run(losses(3000, learn=True))
    usual = asyncio.run(losses(50, learn=False))
    broken = True
    unusual = asyncio.run(losses(50, learn=False))
    assert usual < first / 3
    assert unusual > 3 * usual


def test_a_pin_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, machine=SimpleNamespace(ADC=adc(lambda: 0), Pin=lambda pin: pin))
    with pytest.raises(ConfigError, match="stream: analog: ValueError: there is no analog input at pin 99"):
        make_stream({"kind": "analog", "pin": 99})


# Motion


class Bus:
    """An MPU-6050 that counts: its axes read n, -n and 1 g."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.awake = False
        self.count = 0

    def writeto_mem(self, address: int, register: int, data: bytes) -> None:
        if address != 0x68:
            raise OSError(19)
        self.awake = (register, data) == (0x6B, b"\0")

    def readfrom_mem_into(self, address: int, register: int, buffer: bytearray) -> None:
        assert self.awake
        assert register == 0x3B
        self.count += 1
        buffer[:] = struct.pack(">hhh", self.count * 16, -self.count * 16, 16384)


class Button:
    """A pin; `pressed` is the number of the one that is held down."""

    IN = PULL_UP = 1
    pressed: int | None = None

    def __init__(self, pin: int, *arguments: Any) -> None:
        self._pin = pin

    def value(self) -> int:
        return int(Button.pressed != self._pin)


@pytest.fixture
def motion(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that makes the stream."""
    monkeypatch.setattr(Button, "pressed", None)
    install(monkeypatch, machine=SimpleNamespace(I2C=Bus, Pin=Button))
    options = {"kind": "motion", "sda": 4, "scl": 5, "classes": 3, "window": 4, "seconds": 0.001}
    return lambda **more: make_stream(options | more)


@pytest.mark.parametrize("how", ["message", "button"])
async def test_a_gesture_is_labelled(motion: Callable[..., Any], how: str) -> None:
    stream = motion(buttons=[10, 11, 12])
    x, y = array("h", bytes(2 * stream.inputs)), array("h", bytes(2))
    assert not stream.newest(x)
    waiting = asyncio.create_task(stream.sample(x, y))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert stream.newest(array("h", bytes(2 * stream.inputs)))
    if how == "message":
        stream.label(7)  # no class of these
        stream.label(2)
    else:
        Button.pressed = 12
    await asyncio.wait_for(waiting, 1)
    assert y[0] == 2
    last = stream._bus.count
    expected = [axis for n in range(last - 3, last + 1) for axis in (n, -n, fixed(1))]
    assert list(x) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"classes": 1}, "there are 2 to 64 classes, not 1"),
        ({"window": 0}, "a window has 1 to 200 readings, not 0"),
        ({"buttons": [1]}, "3 classes need 3 buttons or none, not 1"),
    ],
)
def test_gestures_that_make_no_sense_are_told(
    motion: Callable[..., Any], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        motion(**options)


def test_an_accelerometer_that_is_not_there_is_told(
    motion: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyreptile.streams.motion._ADDRESS", 0x69)
    with pytest.raises(ConfigError, match="no accelerometer answers at pins 4 and 5"):
        motion()
