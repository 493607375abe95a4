"""What a board does alone: Wi-Fi, watchdog, light, restarts. Its drivers are played by the test; nothing else is."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tinyreptile import board, build, device, settings, wifi
from tinyreptile.board import Watch
from tinyreptile.log import Log
from tinyreptile.nap import Nap
from tinyreptile.wifi import Wifi

pytestmark = pytest.mark.usefixtures("compiled")

GOOD = {"id": "d0", "host": "127.0.0.1", "port": 9, "stream": {"kind": "sine", "seed": 1}}


class Station:
    """A WLAN driver: it connects after ``slow`` looks, or says ``refusal``."""

    PM_POWERSAVE = 2
    PM_PERFORMANCE = 1

    def __init__(self) -> None:
        self.slow = 3
        self.refusal: int | None = None
        self.up = False
        self.calls: list[tuple[Any, ...]] = []
        self._looks = 0

    def active(self, on: bool) -> None:
        self.calls.append(("active", on))
        self.up = False
        self._looks = 0

    def config(self, **settings: int) -> None:
        self.calls.append(("config", settings))

    def connect(self, ssid: str, password: str) -> None:
        self.calls.append(("connect", ssid, password))

    def isconnected(self) -> bool:
        self._looks += 1
        if self._looks > self.slow and self.refusal is None and ("active", True) in self.calls:
            self.up = True
        return self.up

    def status(self) -> int | None:
        return self.refusal


@pytest.fixture
def station(monkeypatch: pytest.MonkeyPatch) -> Station:
    station = Station()
    network = SimpleNamespace(
        STA_IF=0,
        WLAN=lambda interface: station,
        STAT_WRONG_PASSWORD=-3,
        STAT_NO_AP_FOUND=-2,
        STAT_CONNECT_FAIL=-1,
    )
    monkeypatch.setitem(sys.modules, "network", network)  # type: ignore[arg-type]
    monkeypatch.setattr(wifi, "_JOIN_SECONDS", 1)
    return station


class Reset(BaseException):
    """The board restarts."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The module of that name, with a watchdog that counts its meals."""
    fed: list[float] = []

    def reset() -> None:
        raise Reset

    machine = SimpleNamespace(
        reset=reset,
        fed=fed,
        cause=0,
        WDT_RESET=3,
        WDT=lambda timeout: SimpleNamespace(feed=lambda: fed.append(time.monotonic())),
    )
    machine.reset_cause = lambda: machine.cause
    monkeypatch.setitem(sys.modules, "machine", machine)  # type: ignore[arg-type]
    monkeypatch.setattr(board, "_PAUSE", 0)
    yield machine
    monkeypatch.setattr(board, "_dog", None)


# Wi-Fi


async def test_wifi_is_joined_once_and_kept(station: Station) -> None:
    link = Wifi("home", "geheim")
    await link.up()
    assert station.calls == [
        ("active", False),
        ("active", True),
        ("config", {"pm": Station.PM_POWERSAVE}),
        ("connect", "home", "geheim"),
    ]
    await link.up()
    assert len(station.calls) == 4


async def test_lost_wifi_is_joined_from_the_beginning(station: Station) -> None:
    link = Wifi("home", "geheim", power_saving=False)
    await link.up()
    station.up = False
    station._looks = -1
    await link.up()
    assert station.calls[4:] == [
        ("active", False),
        ("active", True),
        ("config", {"pm": Station.PM_PERFORMANCE}),
        ("connect", "home", "geheim"),
    ]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (-3, "no Wi-Fi: wrong password for home"),
        (-2, "no Wi-Fi: there is no home here"),
        (-1, "no Wi-Fi: home refuses the board"),
    ],
)
async def test_a_refusal_is_told_without_the_password(station: Station, status: int, reason: str) -> None:
    station.refusal = status
    with pytest.raises(OSError) as error:  # noqa: PT011
        await Wifi("home", "geheim").up()
    assert str(error.value) == reason
    assert station.calls[-1] == ("active", False)


async def test_an_access_point_that_does_not_answer_is_given_up(station: Station) -> None:
    station.slow = 10**9
    with pytest.raises(OSError, match="no Wi-Fi: home does not answer"):
        await Wifi("home").up()


async def test_the_clock_is_set_where_certificates_need_it(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    ntptime = SimpleNamespace(settime=lambda: asked.append(1), host="pool.example")
    monkeypatch.setitem(sys.modules, "ntptime", ntptime)  # type: ignore[arg-type]
    await Wifi("home", clock=True).up()
    assert not asked, "the clock was right"
    monkeypatch.setattr(wifi.time, "gmtime", lambda: (2021, 1, 1))
    await Wifi("home").up()
    assert not asked, "nobody needs it"
    await Wifi("home", clock=True).up()
    assert asked == [1]

    def fail() -> None:
        raise OSError("timed out")

    settime, ntptime.settime = ntptime.settime, fail
    with pytest.raises(OSError, match=r"no time of day from pool\.example: timed out"):
        await Wifi("home", clock=True).up()

    # Some chips' clocks stand still in light sleep.
    monkeypatch.setattr(wifi.time, "gmtime", lambda: (2026, 1, 1))
    link = Wifi("home", clock=True)
    await link.up()
    link.down()
    await link.up()
    assert asked == [1], "a time server that does not answer is no reason to stay away"
    ntptime.settime = settime
    for _ in range(2):
        await link.up()
    assert asked == [1, 1]


def test_a_board_without_wifi_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "network", None)
    config = settings.check_config(GOOD | {"wifi": {"ssid": "home"}}, "config.json")
    with pytest.raises(device.ConfigError, match="wifi: this board has none"):
        build.make_client(config)


# Watchdog and light


async def watched(mqtt: SimpleNamespace, seconds: float, **options: Any) -> None:
    task = asyncio.create_task(Watch(mqtt, **options).run())
    await asyncio.sleep(seconds)
    task.cancel()


async def test_the_watchdog_is_fed_while_there_is_a_session(machine: SimpleNamespace) -> None:
    await watched(SimpleNamespace(connected=True), 1.2)
    assert len(machine.fed) == 3


async def test_the_watchdog_starves_without_a_broker_for_long(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_PATIENCE_SECONDS", 0.8)
    await watched(SimpleNamespace(connected=False), 2.2)
    assert len(machine.fed) == 2


async def test_no_watchdog_is_started_that_is_not_wanted(machine: SimpleNamespace) -> None:
    await watched(SimpleNamespace(connected=True), 0.1, watchdog=False)
    assert not machine.fed


async def test_the_light_is_on_with_a_session_and_blinks_without(machine: SimpleNamespace) -> None:
    shown: list[bool] = []
    led = SimpleNamespace(value=lambda on: shown.append(bool(on)))
    mqtt = SimpleNamespace(connected=False)
    task = asyncio.create_task(Watch(mqtt, led).run())
    async with asyncio.timeout(30):
        while len(shown) < 4:
            await asyncio.sleep(0.01)
        mqtt.connected = True
        while len(shown) < 6:
            await asyncio.sleep(0.01)
    task.cancel()
    assert shown == [True, False, True, False, True, True]


# Sleep


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The board's clock, in ms; it goes on as the test has it, and with asyncio.sleep."""
    clock = SimpleNamespace(now=0, awake=[])
    wait = asyncio.sleep

    async def sleep(seconds: float) -> None:
        clock.awake.append(seconds)
        clock.now += round(1000 * seconds)
        await wait(0)

    monkeypatch.setattr(board, "ticks_ms", lambda: clock.now)
    monkeypatch.setattr(board.asyncio, "sleep", sleep)
    return clock


@pytest.mark.parametrize("most", [5000, 64, 20])
async def test_a_board_sleeps_until_the_time_is_over_however_early_light_sleep_returns(
    machine: SimpleNamespace, clock: SimpleNamespace, most: int
) -> None:
    slept: list[int] = []

    def lightsleep(ms: int) -> None:
        slept.append(ms)
        clock.now += min(ms, most)

    machine.lightsleep = lightsleep
    lit: list[int] = []
    watch = Watch(SimpleNamespace(connected=False), SimpleNamespace(value=lit.append))
    await watch.sleep(600.5)
    assert clock.now == 600_500
    assert max(slept) <= 5000
    assert sum(min(ms, most) for ms in slept) == 600_500
    assert len(machine.fed) == len(slept) + 1
    assert not clock.awake
    assert lit == [0]


@pytest.mark.parametrize("most", [0, 3])
async def test_a_board_whose_light_sleep_is_none_waits_awake(
    machine: SimpleNamespace, clock: SimpleNamespace, most: int
) -> None:
    def lightsleep(ms: int) -> None:
        clock.now += min(ms, most)

    machine.lightsleep = lightsleep
    await Watch(SimpleNamespace(connected=False)).sleep(12.5)
    assert clock.now == 12_500
    assert len(clock.awake) == 3
    assert len(machine.fed) == 4, "the watchdog is fed in time"


async def test_a_light_sleep_that_is_longer_than_asked_for_ends_the_sleep(
    machine: SimpleNamespace, clock: SimpleNamespace
) -> None:
    def lightsleep(ms: int) -> None:
        clock.now += 20_000

    machine.lightsleep = lightsleep
    await Watch(SimpleNamespace(connected=False)).sleep(12.5)
    assert clock.now == 20_000


async def test_a_board_that_can_not_sleep_waits(machine: SimpleNamespace) -> None:
    start = time.monotonic()
    await Watch(SimpleNamespace(connected=False)).sleep(0.2)
    assert time.monotonic() - start > 0.19


async def test_a_long_sleep_is_no_time_without_a_broker(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_PATIENCE_SECONDS", 0.3)
    machine.lightsleep = lambda ms: time.sleep(0.2)
    watch = Watch(SimpleNamespace(connected=False))
    task = asyncio.create_task(watch.run())
    await watch.sleep(1)
    fed = len(machine.fed)
    await asyncio.sleep(0.1)
    task.cancel()
    assert len(machine.fed) > fed


async def test_a_nap_turns_the_radio_off(station: Station) -> None:
    link = Wifi("home", "geheim")
    await link.up()
    nap = Nap(0.1, link)
    slept: list[float] = []

    async def pause(seconds: float) -> None:
        slept.append(seconds)
        assert station.calls[-1] == ("active", False)

    nap.pause = pause
    await nap()
    assert slept == [0.1]
    await link.up()
    assert station.up


# From start to restart


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The board's flash, with a good configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "slots", raising=False)
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    return tmp_path


def ending(monkeypatch: pytest.MonkeyPatch, how: BaseException | None, unfit: str | None = None) -> list[str]:
    """Let clients end as they have joined, with ``how`` if that is an error; returns what they log."""
    said: list[str] = []

    async def run(client: Any) -> None:
        client.unfit = unfit
        said.extend(client._log.lines())
        if client.on_joined:
            client.on_joined()
        if how:
            raise how

    monkeypatch.setattr("tinyreptile.client.Client.run", run)
    return said


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("allocating 4096 bytes"), "MemoryError: allocating 4096 bytes"),
        (SystemExit("bye"), "SystemExit: bye"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
def test_an_unforeseen_error_restarts_the_board_and_is_told_then(
    folder: Path,
    machine: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    told: str,
) -> None:
    ending(monkeypatch, error)
    with pytest.raises(Reset):
        device.main("config.json")
    assert "Traceback" in capsys.readouterr().err
    said = ending(monkeypatch, None)
    with pytest.raises(Reset):
        device.main("config.json")
    assert said == [f"0 the last start was ended by {told}"]
    said = ending(monkeypatch, None)
    with pytest.raises(Reset):
        device.main("config.json")
    assert said == []


def test_the_watchdogs_restart_is_told(folder: Path, machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.cause = machine.WDT_RESET
    said = ending(monkeypatch, None)
    with pytest.raises(Reset):
        device.main("config.json")
    assert said == ["0 the last start was ended by its watchdog"]


def test_ctrl_c_leads_to_the_prompt(folder: Path, machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    ending(monkeypatch, KeyboardInterrupt())
    assert device.main("config.json") is None


def test_the_last_good_configuration_is_kept_and_taken(
    folder: Path, machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(monkeypatch, None)
    with pytest.raises(Reset):
        device.main("config.json")
    assert json.loads((folder / "config.last").read_text()) == GOOD
    for fields, complaint in (
        ({"hots": "x"}, "config.json: unknown key hots"),
        ({"stream": {}}, "stream: kind is"),
        ({"id": "kit chen"}, "config.json: id is made of letters"),
        ({"role": "trian"}, "config.json: role is train or evaluate"),
        ({"run": ""}, "config.json: run has 1 to 32 characters"),
    ):
        (folder / "config.json").write_text(json.dumps(GOOD | fields))
        with pytest.raises(Reset):
            device.main("config.json")
        assert f"error: {complaint}" in capsys.readouterr().out
        assert json.loads((folder / "config.last").read_text()) == GOOD


def test_a_configuration_that_does_not_fit_the_run_is_not_kept(
    folder: Path, machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(monkeypatch, None, unfit="the stream has 3 inputs and 1 outputs, the model 1 and 1")
    with pytest.raises(Reset):
        device.main("config.json")
    assert not (folder / "config.last").exists()


def test_an_id_that_is_taken_is_told_in_a_line(
    folder: Path, machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(monkeypatch, device.DeviceError("the id d0 is already online"))
    with pytest.raises(Reset):
        device.main("config.json")
    output = capsys.readouterr()
    assert output.out.splitlines()[-2:] == ["error: the id d0 is already online", "the board restarts in 0 s"]
    assert output.err == ""


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [({"host": 5}, "host is a str"), ({"stream": {"kind": "sine"}}, "stream:"), ({"led": "LED"}, "no pin 'LED'")],
)
def test_a_board_that_can_do_nothing_waits_at_its_prompt(
    folder: Path,
    machine: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, Any],
    complaint: str,
) -> None:
    def no_pin(*arguments: Any, **options: Any) -> None:
        raise ValueError("invalid pin")

    no_pin.OUT = 1  # type: ignore[attr-defined]
    machine.Pin = no_pin
    ending(monkeypatch, None)
    (folder / "config.json").write_text(json.dumps(GOOD | fields))
    assert device.main("config.json") is None
    assert complaint in capsys.readouterr().out


def test_a_new_version_that_rejects_the_configuration_uses_up_its_trial(
    folder: Path, machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = ModuleType("slots")
    slots.is_trial = lambda: True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slots", slots)
    (folder / "config.json").write_text("{}")
    with pytest.raises(Reset):
        device.main("config.json")


# The log


def test_a_log_keeps_its_newest_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("d0", size=60)
    for i in range(20):
        log(f"line number {i}")
    assert log.lines() == ["0 line number 17", "0 line number 18", "0 line number 19"]
    assert capsys.readouterr().out.count("d0: line number") == 20


def test_a_long_line_is_cut() -> None:
    log = Log("d0")
    log("x" * 5000)
    assert log.lines() == ["0 " + "x" * 200]
