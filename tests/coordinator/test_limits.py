"""What a broker does not take is told in a sentence, and tried again later and later."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from boards import remote, updates
from coordinator import operator, service
from coordinator.config import BrokerConfig, Config, RunConfig
from coordinator.errors import BrokerError, ConfigError
from coordinator.mqtt import client, limit_of
from coordinator.observer import fetch, look, watch
from coordinator.operator import ask
from coordinator.runs import Runs
from coordinator.service import Coordinator
from tests.coordinator.packets import packet_from
from tests.environment import Mosquitto
from tests.fleet import BIG, broker_config, eventually, finish, run_config, task
from tinyreptile.mqtt import MQTTClient

StartBroker = Callable[..., Mosquitto]
LIMITS = {
    "retain_available false": r"it does not retain messages, .* \(Mosquitto: retain_available true\)",
    "max_qos 0": r"it takes messages of QoS 0 only; let it take QoS 1 \(Mosquitto: max_qos 1\)",
    "max_packet_size 1000": r"it takes packets of 1000 bytes at most; let it take 1664",
    "max_packet_size 200": r"it takes packets of 200 bytes at most; let it take 1664",
    "max_packet_size 30": r"it takes packets of 30 bytes at most; let it take 1664",
    "message_size_limit 10": r"it refuses a message of 1536 bytes .* \(Mosquitto: message_size_limit 1536\)",
}


@pytest.mark.parametrize("line", LIMITS)
async def test_what_a_broker_does_not_offer_is_named(start_broker: StartBroker, tmp_path: Path, line: str) -> None:
    config = run_config(start_broker("allow_anonymous true", line), tmp_path, run={"model": BIG})
    with pytest.raises(BrokerError, match=f"no session with the broker at 127.0.0.1:[0-9]+: {LIMITS[line]}"):
        await finish(Coordinator(config))


async def predicted(config: Config) -> None:
    async for _ in remote.predictions(config, "d0"):
        pass


COMMANDS: dict[str, Callable[[Config], Coroutine[None, None, object]]] = {
    "ask": lambda config: ask(config, "pause"),
    "look": look,
    "fetch": fetch,
    "runs": lambda config: operator.runs(config.broker),
    "watch": lambda config: watch(config.run.name, config.broker, lambda *status: None),
    "predictions": predicted,
    "log": lambda config: remote.log_of(config, "d0"),
    "restart": lambda config: remote.restart(config, "d0"),
    "boards": updates.boards_of,
    "publish": lambda config: updates.publish(config, updates.make_offer("py", 1, {}), "key"),
}


@pytest.mark.parametrize("line", LIMITS)
async def test_every_command_names_it_too(start_broker: StartBroker, tmp_path: Path, line: str) -> None:
    config = run_config(start_broker("allow_anonymous true", line), tmp_path)
    for command in COMMANDS.values():
        with pytest.raises(BrokerError, match=f"no session with the broker at 127.0.0.1:[0-9]+: {LIMITS[line]}"):
            async with asyncio.timeout(5):
                await command(config)


async def test_a_broker_that_takes_no_more_clients_is_named(tmp_path: Path) -> None:
    """As Mosquitto with max_connections: it accepts, and closes before anything is sent."""
    async with await asyncio.start_server(
        lambda reader, writer: writer.close(), "127.0.0.1", 0, family=socket.AF_INET
    ) as full:
        broker = BrokerConfig(port=full.sockets[0].getsockname()[1])
        config = Config(broker=broker, run=RunConfig(store=str(tmp_path / "run.sqlite")))
        for command in (*COMMANDS.values(), lambda config: finish(Coordinator(config))):
            with pytest.raises(BrokerError, match=r"it has as many clients as it takes \(Mosquitto: max_connections"):
                async with asyncio.timeout(5):
                    await command(config)


async def test_a_broker_that_takes_certain_client_ids_only_is_told_of(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    broker = start_broker("allow_anonymous true", "clientid_prefixes x-")
    config = run_config(broker, tmp_path)
    for command in COMMANDS.values():
        with pytest.raises(BrokerError, match=r"or it does not take client ids that are made up: --client-id"):
            await command(config)
    config.broker.client_id = "x-1"
    assert (await look(config)).coordinator is None


async def test_a_password_of_a_broker_with_limits_is_not_blamed(start_broker: StartBroker, tmp_path: Path) -> None:
    """Mosquitto answers a last will that is too long with "not authorized"."""
    broker = start_broker("allow_anonymous true")
    coordinator = Coordinator(run_config(broker, tmp_path))
    broker.stop()
    broker.config.write_text(f"{broker.config.read_text()}message_size_limit 10\n")
    broker.start()
    with pytest.raises(BrokerError, match=LIMITS["message_size_limit 10"]):
        await finish(coordinator)


async def test_a_limit_that_comes_later_is_named_and_waited_for(
    start_broker: StartBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = start_broker()
    coordinator = Coordinator(run_config(broker, tmp_path))
    async with task(coordinator.run()) as run:
        await eventually(lambda: not coordinator.obstacle, "it is ready")
        settings = broker.config.read_text()
        for lines in (f"{settings}max_packet_size 200\n", settings):
            broker.stop()
            broker.config.write_text(lines)
            broker.start()
            if lines is not settings:
                await eventually(lambda: "it takes packets of 200 bytes at most" in caplog.text, "it says why")
                assert not run.done()
        await eventually(lambda: not coordinator.obstacle, "it is ready again")
        coordinator.stop()
        await run


def test_a_broker_without_limits_has_none(broker: Mosquitto) -> None:
    assert limit_of(broker_config(broker)) is None


@asynccontextmanager
async def answering(connack: bytes) -> AsyncIterator[tuple[int, list[float]]]:
    """(port, times of connections) of a server that answers with ``connack``, lets one subscribe, and then hangs up.

    It knows no MQTT 5.
    """
    times: list[float] = []
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(EOFError, OSError):
            if b"MQTT\x05" not in await packet_from(reader):
                times.append(asyncio.get_running_loop().time())
                writer.write(connack)
                packet = await packet_from(reader)
                writer.write(b"\x90\x03" + packet[2:4] + b"\x01")
                await asyncio.sleep(0.05)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, family=socket.AF_INET)
    async with server:
        yield server.sockets[0].getsockname()[1], times
    await asyncio.sleep(0.1)  # what the last connections are told
    for connection in serving:
        connection.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


@pytest.mark.parametrize(
    ("code", "client_id", "advice"),
    [
        (2, None, "it does not take client ids that are made up; give this client the one .* with --client-id"),
        (2, "laptop", "it does not take the client id laptop; give this client the one .* with --client-id"),
        (3, None, "it is not available just now; try again later"),
        (4, None, "check --user and --password-file"),
        (5, None, "check --user and --password-file"),
    ],
)
async def test_a_refusal_says_what_to_change(code: int, client_id: str | None, advice: str) -> None:
    async with answering(bytes([0x20, 2, 0, code])) as (port, _):
        config = Config(broker=BrokerConfig(port=port, client_id=client_id))
        with pytest.raises(BrokerError, match=f"the broker at 127.0.0.1:{port} refused the connection .*; {advice}"):
            await look(config)


async def test_every_client_has_an_id_that_can_be_set(start_broker: StartBroker) -> None:
    broker = start_broker("allow_anonymous true", "allow_zero_length_clientid false")
    for name, expected in ((None, " as tinyreptile"), ("laptop", " as laptop ")):
        async with client(broker_config(broker, client_id=name)) as session:
            assert 1 <= len(session.identifier) <= 23
            assert session.identifier.isalnum()
        assert expected in broker.log.read_text()


def test_two_runs_of_a_service_do_not_share_a_client_id(broker: Mosquitto, tmp_path: Path) -> None:
    configs = [run_config(broker, tmp_path) for _ in range(2)]
    for config in configs:
        config.broker.client_id = "one"
    with pytest.raises(ConfigError, match=r"have the same broker.client_id, one; each needs one of its own"):
        Runs(configs)


async def test_sessions_that_do_not_last_come_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with answering(b"\x20\x02\x00\x00") as (port, times):
        config = Config.model_validate({"broker": {"port": port}, "run": {"store": tmp_path / "run.sqlite"}})
        coordinator = Coordinator(config)
        async with task(coordinator.run()) as run:
            await eventually(lambda: len(times) == 4, "it has tried four times")
            coordinator.stop()
            await run
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[2] > 1.5 * gaps[1] > 2 * gaps[0] > 0.9


async def test_a_session_that_lasted_ends_the_back_off(
    start_broker: StartBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LASTED_SECONDS", 0.2)
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with answering(b"\x20\x02\x00\x00") as (port, times):
        config = Config.model_validate({"broker": {"port": port}, "run": {"store": tmp_path / "run.sqlite"}})
        monkeypatch.setattr(service.Coordinator, "_check_alone", lambda self, session: asyncio.sleep(0.3))
        coordinator = Coordinator(config)
        async with task(coordinator.run()) as run:
            await eventually(lambda: len(times) == 4, "it has tried four times")
            coordinator.stop()
            await run
    assert times[3] - times[0] < 3.5


async def test_a_devices_sessions_that_do_not_last_come_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with answering(b"\x20\x02\x00\x00") as (port, times):
        device = MQTTClient("127.0.0.1", port, "d0", lambda *message: None)
        life = asyncio.create_task(device.run())
        await eventually(lambda: len(times) == 3, "it has tried three times")
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        await device.close()
    assert times[2] - times[1] > 1.8
