from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import BrokerConfig, Config, load_config
from coordinator.errors import BrokerError
from simulator import broker as broker_module
from simulator import children
from simulator.broker import embedded_broker
from simulator.demo import DemoError, DemoResult, run_demo
from simulator.micropython import lost, micropython_device
from simulator.pictures import draw
from simulator.tasks import task_settings
from tinyreptile.mqtt import MQTTClient

from ..environment import ROOT, need_module, need_program

pytestmark = pytest.mark.usefixtures("compiled")


async def demo(
    task: str, rounds: int, devices: int = 10, on_status: Callable[[dict[str, Any]], None] = lambda status: None
) -> DemoResult:
    def make_config(at: BrokerConfig, folder: Path) -> Config:
        settings = task_settings(task)
        settings["run"] |= {"rounds": rounds, "name": "demo", "store": folder / "demo.sqlite"}
        return load_config(None, {"broker": at.model_dump(), "evaluation": {"every": rounds // 3}}, settings)

    return await run_demo(
        make_config,
        task_name=task,
        data=None,
        broker=None,
        devices=devices,
        evaluators=4,
        seed=1,
        client_id="{id}",
        on_start=lambda text: None,
        on_compiling=lambda kernels: None,
        on_status=on_status,
        stop=asyncio.Event(),
    )


async def test_the_demonstration_learns_with_a_micropython_device_and_draws_its_picture(tmp_path: Path) -> None:
    need_program("micropython")
    result = await demo("sine", 900)
    assert result.status["state"] == "finished"
    assert result.micropython is not None
    assert result.micropython > 0
    assert (result.devices, result.took_part) == (10, 10)
    assert result.micropython + result.counts.accepted == 900
    assert result.learned["after"] < result.start["after"]
    assert [h["updates"] for h in result.history][-1] == 900
    picture = tmp_path / "deep" / "demo.png"
    draw(result, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def new_children() -> Callable[[str], list[Any]]:
    """Return a function that finds the children begun since, those whose command line has what it is given."""
    psutil = need_module("psutil")
    others = psutil.Process().children()  # the broker of other tests among them

    def find(part: str) -> list[Any]:
        return [p for p in psutil.Process().children() if p not in others and part in " ".join(p.cmdline())]

    return find


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("spawn_main", "the process of 13 simulated devices has ended with SIGKILL"),
        ("tinyreptile.device", "the MicroPython device has ended with SIGKILL"),
        ("mosquitto", "the broker, Mosquitto, has ended with SIGKILL"),
    ],
)
async def test_a_part_that_is_lost_ends_the_demonstration_with_an_error(part: str, message: str) -> None:
    need_program("micropython")
    need_program("mosquitto")
    parts = new_children()

    def kill(status: dict[str, Any]) -> None:
        if status["updates"] > 20:
            for process in parts(part):
                process.kill()

    with pytest.raises(DemoError, match=rf"{message}.*; the demonstration ends after \d+ updates"):
        await demo("sine", 100_000, on_status=kill)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("spawn_main", "the process of 13 simulated devices has not reported anything for 3 seconds"),
        ("mosquitto", "the broker, Mosquitto, has not answered for 3 seconds"),
    ],
)
async def test_a_part_that_falls_silent_ends_the_demonstration_with_an_error(
    part: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_program("micropython")
    need_program("mosquitto")
    parts = new_children()
    monkeypatch.setattr("simulator.processes.SILENT_SECONDS", 3.0)
    monkeypatch.setattr("simulator.processes.STOP_SECONDS", 1.0)
    monkeypatch.setattr(broker_module, "SILENT_SECONDS", 3.0)
    monkeypatch.setattr(broker_module, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(children, "END_SECONDS", 1.0)

    def halt(status: dict[str, Any]) -> None:
        if status["updates"] > 20:
            for process in parts(part):
                process.suspend()

    with pytest.raises(DemoError, match=rf"{message}; the demonstration ends after \d+ updates"):
        await demo("sine", 100_000, on_status=halt)
    assert set(parts("")) == set(parts("resource_tracker")), "nothing is left but multiprocessing's own"


async def test_a_micropython_device_that_is_away_for_long_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.micropython.AWAY_SECONDS", 2.0)
    monkeypatch.setattr(children, "END_SECONDS", 0.5)
    config = {"id": "m", "run": "r", "host": "127.0.0.1", "port": 9, "stream": {"kind": "sine", "seed": 1}}
    gone = "the MicroPython device has been offline for 2 seconds"
    async with micropython_device(need_program("micropython"), tmp_path, config) as process:
        assert await lost(process, tmp_path, "m", lambda: True) == gone
        stopped = need_module("psutil").Process(process.pid)
        stopped.suspend()
        while stopped.status() != "stopped":
            await asyncio.sleep(0.01)
    assert process.returncode == -signal.SIGKILL


async def exchange(host: str, port: int) -> list[bytes]:
    """What a client reads of a retained message that another left behind."""
    received: list[bytes] = []
    arrived = asyncio.Event()

    def take(topic: str, payload: memoryview, retained: bool) -> None:
        received.append(bytes(payload))
        arrived.set()

    writer = MQTTClient(host, port, "writer", take)
    await writer.connect()
    await writer.publish("a/b", b"kept", retain=True)
    await writer.disconnect()
    reader = MQTTClient(host, port, "reader", take)
    await reader.connect()
    await reader.subscribe("a/+")
    await asyncio.wait_for(arrived.wait(), 10)
    await reader.disconnect()
    return received


async def test_the_embedded_broker_is_mosquitto_where_there_is_one() -> None:
    need_program("mosquitto")
    async with embedded_broker() as running:
        assert running.name == "Mosquitto"
        assert await exchange(running.host, running.port) == [b"kept"]


async def test_a_broker_that_cannot_be_run_is_reported_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mosquitto"
    program.write_bytes(b"\0\1\2")
    program.chmod(0o755)
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: str(program))
    with pytest.raises(
        BrokerError, match=r"Mosquitto did not start \(.*mosquitto: Exec format error\); start a broker"
    ):
        async with embedded_broker():
            pass


@pytest.fixture
def no_mosquitto(monkeypatch: pytest.MonkeyPatch) -> None:
    need_module("iotcore")
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)


@pytest.mark.usefixtures("no_mosquitto")
async def test_the_embedded_broker_is_iotcore_elsewhere_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    async with embedded_broker() as running:
        assert running.name == "iotcore"
        assert await exchange(running.host, running.port) == [b"kept"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_mosquitto")
async def test_a_file_of_the_users_is_not_taken_for_iotcore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iotcore.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    async with embedded_broker() as running:
        assert await exchange(running.host, running.port) == [b"kept"]


@pytest.mark.usefixtures("no_mosquitto")
async def test_the_demonstration_learns_over_iotcore_with_more_devices_than_it_shows_a_newcomer() -> None:
    result = await demo("sine", 1_500, devices=130)
    assert (result.broker, result.status["state"]) == ("iotcore", "finished")
    assert result.devices == 130
    assert result.took_part > 110  # each gets its turn, but some are still connecting at the end
    assert result.status["devices"] == 130


@pytest.mark.usefixtures("no_mosquitto")
async def test_without_any_broker_it_is_said_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "find_spec", lambda name: None)
    with pytest.raises(BrokerError, match=r"pip install 'tinyreptile\[swarm\]'.*--broker HOST:PORT"):
        async with embedded_broker():
            pass


def test_the_embedded_mosquitto_has_the_limits_of_the_development_one() -> None:
    def settings(text: str) -> dict[str, str]:
        lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
        return {name: value for name, value in lines if name not in ("listener", "log_type", "user")}

    development = (ROOT / "broker_config" / "mosquitto.conf").read_text()
    assert settings(broker_module._MOSQUITTO) == {
        name: value for name, value in settings(development).items() if name != "max_keepalive"
    }
