from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from coordinator.config import BrokerConfig, Config, load_config
from simulator import broker as broker_module
from simulator.broker import embedded_broker
from simulator.demo import DemoResult, run_demo
from simulator.pictures import draw
from simulator.tasks import task_settings
from tinyreptile.mqtt import MQTTClient

from ..environment import ROOT, need_program


async def demo(task: str, rounds: int, data: Path | None = None) -> DemoResult:
    def make_config(at: BrokerConfig, folder: Path) -> Config:
        settings = task_settings(task)
        settings["run"] |= {"rounds": rounds, "name": "demo", "store": folder / "demo.sqlite"}
        return load_config(None, {"broker": at.model_dump(), "evaluation": {"every": rounds // 3}}, settings)

    return await run_demo(
        make_config,
        task_name=task,
        data=data,
        broker=None,
        devices=10,
        evaluators=4,
        seed=1,
        on_start=lambda text: None,
        on_status=lambda status: None,
        stop=asyncio.Event(),
    )


async def test_the_demonstration_learns_with_a_micropython_device_and_draws_its_picture(tmp_path: Path) -> None:
    need_program("micropython")
    result = await demo("sine", 900)
    assert result.status["state"] == "finished"
    assert result.micropython is not None
    assert result.micropython > 0
    assert result.micropython + result.counts.accepted == 900
    assert result.learned["after"] < result.start["after"]
    assert [h["updates"] for h in result.history][-1] == 900
    picture = tmp_path / "deep" / "demo.png"
    draw(result, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


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


# In a process of its own: amqtt leaves connections for the garbage collector, which complains in some later test.
AMQTT = """
import asyncio
from simulator import broker
from tests.simulator.test_demo import exchange

broker.find_mosquitto = lambda: None

async def main():
    async with broker.embedded_broker() as running:
        print(running.name, await exchange(running.host, running.port))

asyncio.run(main())
"""


def test_the_embedded_broker_is_amqtt_elsewhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AMQTT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "amqtt [b'kept']", done.stderr


def test_the_embedded_mosquitto_has_the_limits_of_the_development_one() -> None:
    def settings(text: str) -> dict[str, str]:
        lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
        return {name: value for name, value in lines if name not in ("listener", "log_type", "user")}

    development = (ROOT / "broker_config" / "mosquitto.conf").read_text()
    assert settings(broker_module._CONFIGURATION) == {
        name: value for name, value in settings(development).items() if name != "max_keepalive"
    }
