"""The microphone stream, its driver played by the test: what it hears is what the host's front-end makes of it."""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simulator.data import DataError, find, load
from simulator.tasks.keywords import BOARD_FRONT_END, BoardKeywords, band_statistics, network
from tinyreptile.build import make_stream
from tinyreptile.device import ConfigError
from tinyreptile.model import Model
from tinyreptile.streams import microphone

from ..environment import require, run_micropython

Sound = npt.NDArray[np.int16]

SESSION = Path(__file__).parent / "microphone_session.py"
RATE = 8000
GAIN = 5  # the stream's default
PINS = {"kind": "microphone", "sck": 14, "ws": 15, "sd": 32, "classes": 4}


def noise(seconds: float, seed: int = 1) -> Sound:
    return np.random.default_rng(seed).normal(0, 30, round(seconds * RATE)).astype(np.int16)


def word(seed: int = 2) -> Sound:
    """Half a second that swells and fades, of a few tones."""
    at = np.arange(RATE // 2) / RATE
    tones = sum(np.sin(2 * np.pi * frequency * at) for frequency in np.random.default_rng(seed).integers(200, 3500, 4))
    return (3000 * np.sin(2 * np.pi * at) ** 2 * tones).astype(np.int16)


def room(*sounds: Sound) -> Sound:
    """``sounds`` one after the other, in the noise of a room."""
    heard = np.concatenate(sounds).astype(np.int32)
    return np.clip(heard + noise(len(heard) / RATE, 3), -32768, 32767).astype(np.int16)


def words32(sound: Sound) -> bytes:
    """``sound`` as the microphone sends it: what `GAIN` makes of it again is ``sound``."""
    return (sound.astype("<i4") << (16 - GAIN)).tobytes()


def windows(sound: Sound) -> npt.NDArray[np.int16]:
    """A network's inputs of every second of ``sound`` that begins with one of the stream's frames, by the host."""
    begins = range(2 * 160 - 256, len(sound) - RATE + 1, 160)
    maps = BOARD_FRONT_END(np.stack([sound[begin : begin + RATE] for begin in begins]))
    normal = (np.array(values) / 1024 for values in (microphone.MEANS, microphone.DEVIATIONS))
    return BOARD_FRONT_END.normalized(maps, *normal)


class Microphone:
    """What plays a sound to the stream, then a quiet room; `now` is the time in ms that went by so.

    Buttons are up but for the one at pin `pressed`.
    """

    def __init__(self, sound: Sound) -> None:
        self.sound = words32(room(sound, np.zeros(30 * RATE, np.int16)))
        self.read = 0
        self.paused = 0
        self.pressed: int | None = None
        self.options: dict[str, Any] = {}

    @property
    def now(self) -> int:
        return self.read // 32 + self.paused

    def machine(self) -> Any:
        """The module of a board."""
        driver = self

        class Pin:
            IN = PULL_UP = 1

            def __init__(self, number: int, *arguments: Any) -> None:
                self.number = number

            def value(self) -> int:
                return int(driver.pressed != self.number)

        class I2S:
            RX, MONO = "rx", "mono"

            def __init__(self, number: int, **options: Any) -> None:
                if options["sck"].number == 99:
                    raise ValueError("invalid pin")
                driver.options = options

            def readinto(self, buffer: memoryview) -> int:
                # In pieces that are no whole frame, as a driver may hand them over.
                count = min(len(buffer), 500)
                assert driver.read + count <= len(driver.sound), "nothing was heard"
                buffer[:count] = driver.sound[driver.read : driver.read + count]
                driver.read += count
                return count

        return SimpleNamespace(I2S=I2S, Pin=Pin)


class Reader:
    """MicroPython's StreamReader: it reads from any object with `readinto`."""

    def __init__(self, source: Any) -> None:
        self._source = source

    async def readinto(self, buffer: memoryview) -> int:
        await asyncio.sleep(0)
        return int(self._source.readinto(buffer))


Listener = Callable[..., tuple[Any, Microphone]]


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Listener:
    """A function that makes a stream to which a sound is played."""

    def make(sound: Sound, **more: Any) -> tuple[Any, Microphone]:
        driver = Microphone(sound)
        monkeypatch.setitem(sys.modules, "machine", driver.machine())
        monkeypatch.setattr(asyncio, "StreamReader", Reader)
        monkeypatch.setattr(microphone, "ticks_ms", lambda: driver.now)
        return make_stream(PINS | more), driver

    return make


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def heard(stream: Any, driver: Microphone, label: int, at: float) -> tuple[list[int], int, float]:
    """Inputs and label of a sample that is labelled after ``at`` seconds; when it was there."""
    x, y = array("h", bytes(2 * stream.inputs)), array("h", [-1])
    sampling = asyncio.create_task(stream.sample(x, y))
    await asyncio.sleep(0)
    await until(lambda: driver.now >= 1000 * at)
    assert not sampling.done()
    stream.label(label)
    await sampling
    return x.tolist(), y[0], driver.now / 1000


# What is heard


@pytest.mark.parametrize("seed", [2, 5, 6])
async def test_a_word_is_heard_to_the_bit_as_the_host_hears_it(listen: Listener, seed: int) -> None:
    sound = np.concatenate([np.zeros(2 * RATE, np.int16), word(seed)])
    stream, driver = listen(sound)
    x, label, _ = await heard(stream, driver, 2, at=4)
    assert label == 2
    host = windows(np.frombuffer(driver.sound, "<i4")[: 4 * RATE] >> (16 - GAIN))
    (same,) = np.flatnonzero((host == x).all(axis=1))
    # It is a second that the word, from 2 to 2.5, is within.
    assert 1.5 < same * 160 / RATE < 2


def test_a_word_is_heard_on_micropython_to_the_bit_as_the_host_hears_it(tmp_path: Path) -> None:
    sound = room(np.zeros(2 * RATE, np.int16), word(), np.zeros(2 * RATE, np.int16))
    (tmp_path / "sound").write_bytes(words32(sound))
    done = run_micropython(SESSION, tmp_path / "sound", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    label, x = done.stdout.split()
    assert label == "3"
    host = windows(sound)
    assert (host == np.frombuffer(bytes.fromhex(x), "<i2")).all(axis=1).sum() == 1


@pytest.mark.parametrize("sound", [np.zeros(8 * RATE, np.int16), noise(8)], ids=["silence", "noise"])
async def test_in_silence_and_noise_nothing_is_heard(listen: Listener, sound: Sound) -> None:
    stream, driver = listen(sound)
    driver.sound = words32(sound)
    with pytest.raises(AssertionError, match="nothing was heard"):
        await heard(stream, driver, 1, at=2)


async def test_a_room_that_gets_louder_is_no_word_for_ever(listen: Listener) -> None:
    stream, driver = listen(np.concatenate([np.zeros(2 * RATE, np.int16), 100 * noise(30)]))
    x, y = array("h", bytes(2 * stream.inputs)), array("h", [-1])
    sampling = asyncio.create_task(stream.sample(x, y))
    await until(lambda: driver.now >= 4000)
    assert stream.newest(x)
    await until(lambda: driver.now >= 25000)
    assert not stream.newest(x)
    sampling.cancel()


async def test_a_pause_parts_what_was_heard_before_and_after(listen: Listener) -> None:
    stream, driver = listen(np.concatenate([np.zeros(2 * RATE, np.int16), word(), word(), word()]))
    x, y = array("h", bytes(2 * stream.inputs)), array("h", [-1])
    for begin in (2200, 3300):  # in the midst of the first word, then with one heard that nobody has named
        sampling = asyncio.create_task(stream.sample(x, y))
        await until(lambda begin=begin: driver.now - driver.paused >= begin)
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        driver.paused += 300
    sampling = asyncio.create_task(stream.sample(x, y))
    stream.label(1)
    await until(lambda: driver.now >= 9000)
    assert not stream.newest(x)
    assert not sampling.done()
    sampling.cancel()


async def test_saturated_samples_keep_their_sign(listen: Listener) -> None:
    stream, driver = listen(np.zeros(RATE, np.int16))
    driver.sound = np.array([0x7FFFFFFF, -0x80000000, 0x1FFFFFF, -0x2000000] * 200, "<i4").tobytes()
    await stream._listen()
    newest = np.frombuffer(stream._samples, np.int16)[-160:]
    np.testing.assert_array_equal(newest[:4], [32767, -32768, 0x1FFFFFF >> 11, -0x2000000 >> 11])


# Labels


async def test_a_label_may_come_before_the_word(listen: Listener) -> None:
    stream, driver = listen(np.concatenate([np.zeros(4 * RATE, np.int16), word()]))
    _, label, when = await heard(stream, driver, 1, at=3)
    assert label == 1
    assert 4.5 < when < 5.1


async def test_a_label_that_comes_after_ten_seconds_is_for_the_next_word(listen: Listener) -> None:
    stream, driver = listen(
        np.concatenate([np.zeros(2 * RATE, np.int16), word(), np.zeros(13 * RATE, np.int16), word()])
    )
    _, label, when = await heard(stream, driver, 3, at=14)
    assert label == 3
    assert when > 15.5


async def test_a_label_is_forgotten_after_ten_seconds(listen: Listener) -> None:
    stream, driver = listen(np.concatenate([np.zeros(14 * RATE, np.int16), word()]))
    x, y = array("h", bytes(2 * stream.inputs)), array("h", [-1])
    sampling = asyncio.create_task(stream.sample(x, y))
    await until(lambda: driver.now >= 3000)
    stream.label(3)
    await until(lambda: driver.now >= 17000)
    assert not sampling.done()
    stream.label(2)
    await sampling
    assert y[0] == 2


async def test_a_label_of_no_class_is_passed_over(listen: Listener) -> None:
    stream, driver = listen(np.concatenate([np.zeros(2 * RATE, np.int16), word()]))
    x, y = array("h", bytes(2 * stream.inputs)), array("h", [-1])
    sampling = asyncio.create_task(stream.sample(x, y))
    await until(lambda: driver.now >= 4000)
    stream.label(4)
    stream.label(-1)
    await until(lambda: driver.now >= 4500)
    assert not sampling.done()
    assert stream.newest(x)
    sampling.cancel()


async def test_a_word_is_named_once(listen: Listener) -> None:
    stream, driver = listen(
        np.concatenate([np.zeros(2 * RATE, np.int16), word(), np.zeros(2 * RATE, np.int16), word(7)])
    )
    first, _, when = await heard(stream, driver, 0, at=4)
    assert not stream.newest(array("h", bytes(2 * stream.inputs)))
    second, _, _ = await heard(stream, driver, 1, at=when)
    assert first != second


async def test_a_button_that_is_held_names_one_word(listen: Listener) -> None:
    stream, driver = listen(
        np.concatenate([np.zeros(2 * RATE, np.int16), word(), np.zeros(2 * RATE, np.int16), word(7)]),
        buttons=[10, 11, 12, 13],
    )
    x, y = array("h", bytes(2 * stream.inputs)), array("h", [-1])
    sampling = asyncio.create_task(stream.sample(x, y))
    await until(lambda: driver.now >= 3500)
    driver.pressed = 12
    await sampling
    assert y[0] == 2
    sampling = asyncio.create_task(stream.sample(x, y))
    await until(lambda: driver.now >= 4000)
    driver.pressed = None
    await until(lambda: driver.now >= 6000)
    assert not sampling.done()
    driver.pressed = 10
    await sampling
    assert y[0] == 0


# The board, and who belongs to it


def test_the_driver_is_asked_for_what_the_microphone_sends(listen: Listener) -> None:
    _, driver = listen(np.zeros(RATE, np.int16))
    pins = [driver.options.pop(name).number for name in ("sck", "ws", "sd")]
    assert pins == [14, 15, 32]
    assert driver.options == {"mode": "rx", "bits": 32, "format": "mono", "rate": RATE, "ibuf": 16384}


def test_its_network_is_that_of_the_keywords(listen: Listener) -> None:
    stream, _ = listen(np.zeros(RATE, np.int16))
    model = Model(network())
    assert (stream.inputs, stream.outputs) == (model.inputs, model.outputs)


def need_words() -> None:
    try:
        find("speech_commands_8k")
    except DataError as error:
        require(False, str(error))


def test_its_means_and_deviations_are_those_of_the_data_set() -> None:
    need_words()
    assert band_statistics() == {"means": list(microphone.MEANS), "deviations": list(microphone.DEVIATIONS)}


async def test_words_of_the_data_set_are_heard(listen: Listener) -> None:
    need_words()
    known = load("speech_commands_8k")
    chosen = np.random.default_rng(1).choice(np.flatnonzero(known["word"] < 10), 40, replace=False)
    pause = np.zeros(RATE, np.int16)
    said = [part for clip in known["mulaw_table"][known["audio"][chosen]] for part in (clip, pause)]
    stream, driver = listen(np.concatenate([pause, pause, *said]))
    x, y = array("h", bytes(2 * stream.inputs)), array("h", [-1])
    count = 0
    for number in range(len(chosen)):
        sampling = asyncio.create_task(stream.sample(x, y))
        await until(lambda end=3900 + 2000 * number: driver.now >= end)
        if stream.newest(x):
            stream.label(0)
            await sampling
            count += 1
        sampling.cancel()
    assert count >= 38


def test_simulated_devices_of_the_same_fleet_have_the_inputs_that_a_board_would_have() -> None:
    need_words()
    known = load("speech_commands_8k")
    some = np.random.default_rng(1).choice(len(known["word"]), 200, replace=False)
    maps = BOARD_FRONT_END(known["mulaw_table"][known["audio"][some]])
    normal = (np.array(values) / 1024 for values in (microphone.MEANS, microphone.DEVIATIONS))
    board = {row.tobytes() for row in BOARD_FRONT_END.normalized(maps, *normal)}
    task = BoardKeywords()
    assert len(board & {row.tobytes() for row in np.concatenate([task.train.rows, task.unseen.rows])}) > 100


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"classes": 1}, "there are 2 to 64 classes, not 1"),
        ({"buttons": [1]}, "4 classes need 4 buttons or none, not 1"),
        ({"gain": 9}, "a gain is 0 to 8 bits, not 9"),
        ({"threshold": 0}, "a threshold lies between 0 and 32, not at 0"),
        ({"means": [1.5] * 20}, "means and deviations are integers, in units of 1/1024"),
        ({"deviations": [512] * 20}, "a mean is 0 to 65535 and a deviation 513 to 65535, not 11105 and 512"),
        ({"deviations": [1000] * 19}, "20 bands have as many means and deviations"),
        ({"sck": 99}, "there is no I2S at pins 99, 15 and 32"),
        ({"speed": 1}, "speed"),
    ],
)
def test_settings_that_make_no_sense_are_told(listen: Listener, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        listen(np.zeros(RATE, np.int16), **options)


def test_a_board_without_i2s_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "machine", None)
    with pytest.raises(ConfigError, match="there is no I2S at pins 14, 15 and 32"):
        make_stream(PINS)
