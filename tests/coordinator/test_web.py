"""Who watches over a service is answered over HTTP, whatever they send."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator import web
from coordinator.errors import CoordinatorError
from coordinator.runs import Runs
from coordinator.web import _verdict, watched
from tests.environment import Mosquitto
from tests.fleet import eventually, run_config, task


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """(status, body) of an HTTP request by the standard library's client."""

    def request() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request(method, path)
        answer = connection.getresponse()
        status, body = answer.status, answer.read().decode()
        connection.close()
        return status, body

    return await asyncio.to_thread(request)


def raw(port: int, request: bytes) -> bytes:
    """All that comes back for the bytes ``request``."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


@pytest.fixture
def runs(broker: Mosquitto, tmp_path: Path) -> Runs:
    return Runs([run_config(broker, tmp_path)])


async def test_a_service_is_ready_while_it_can_work(start_broker: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = start_broker()
    runs = Runs([run_config(broker, tmp_path), run_config(broker, tmp_path)])
    first, second = (served.config.run.name for served in runs.served)
    async with watched(runs, "127.0.0.1", 0) as port:
        assert await ask(port, "/readyz") == (503, f"run {first}: it has not begun\n")
        assert await ask(port, "/healthz") == (200, "alive\n")
        runs.begin()
        async with task(runs.run()):
            await eventually(lambda: not runs.obstacle, "both can work")
            assert await ask(port, "/readyz") == (200, "ready\n")
            runs.served[1].coordinator._journal.problem = "the store is full"  # type: ignore[union-attr]
            assert await ask(port, "/readyz") == (503, f"run {second}: the store is full\n")
            runs.served[1].coordinator._journal.problem = ""  # type: ignore[union-attr]
            await asyncio.to_thread(broker.stop)
            await eventually(lambda: runs.obstacle, "the broker is gone")
            status, body = await ask(port, "/readyz")
            assert (status, body.startswith(f"run {first}: there is no connection to the broker at")) == (503, True)
            assert await ask(port, "/healthz") == (200, "alive\n")
            runs.stop()
            await eventually(lambda: all(served.ended for served in runs.served), "both have ended")


async def test_a_run_that_has_failed_is_told_until_the_service_has_ended(broker: Mosquitto, tmp_path: Path) -> None:
    configs = [run_config(broker, tmp_path) for _ in range(2)]
    Path(configs[0].store_location()).write_text("no store " * 1000)
    runs = Runs(configs)
    async with watched(runs, "127.0.0.1", 0) as port:
        runs.begin()
        name, store = configs[0].run.name, configs[0].store_location()
        told = f"run {name} has failed: the store {store} is damaged or no store at all: file is not a database\n"
        assert await ask(port, "/healthz") == (503, told)
        assert await ask(port, "/readyz") == (503, told)
        metrics = (await ask(port, "/metrics"))[1]
        assert f'tinyreptile_failed{{run="{name}"}} 1.0\n' in metrics
        assert f'tinyreptile_failed{{run="{configs[1].run.name}"}} 0.0\n' in metrics
        await runs.run()
        assert await ask(port, "/healthz") == (503, told)


async def test_the_metrics_of_all_runs_are_on_one_page(broker: Mosquitto, tmp_path: Path) -> None:
    runs = Runs([run_config(broker, tmp_path), run_config(broker, tmp_path)])
    runs.begin()
    async with watched(runs, "127.0.0.1", 0) as port:
        status, body = await ask(port, "/metrics?name[]=up")
        assert status == 200
        for served in runs.served:
            assert f'tinyreptile_updates_total{{run="{served.config.run.name}"}} 0.0\n' in body
            served.coordinator._store.close()  # type: ignore[union-attr]
        assert body.count("# TYPE tinyreptile_updates_total counter") == 1
        answer = await asyncio.to_thread(raw, port, b"GET /metrics HTTP/1.1\r\n\r\n")
        head, _, content = answer.partition(b"\r\n\r\n")
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head.split(b"\r\n")
        assert f"Content-Length: {len(content)}".encode() in head.split(b"\r\n")


async def test_what_is_not_there_and_what_is_not_asked_for_are_told(runs: Runs) -> None:
    async with watched(runs, "127.0.0.1", 0) as port:
        assert await ask(port, "/") == (404, "there are /metrics, /healthz and /readyz\n")
        assert await ask(port, "/metrics/") == (404, "there are /metrics, /healthz and /readyz\n")
        assert await ask(port, "/metrics", "POST") == (405, "only GET and HEAD are answered\n")
        assert await ask(port, "/healthz", "HEAD") == (200, "")


HOSTILE = {
    "nothing": b"\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "half a line": b"GET\r\n\r\n",
    "letters of no code": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "a path upwards": b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
    "a header for ever": b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 200_000,
    "a line for ever": b"GET /" + b"a" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_no_request_does_no_harm(name: str, runs: Runs) -> None:
    async with watched(runs, "127.0.0.1", 0) as port:
        try:
            answer = await asyncio.to_thread(raw, port, HOSTILE[name])
        except ConnectionError:  # it was cut off in the middle of it
            answer = b""
        assert answer == b"" or answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405"))
        assert (await ask(port, "/healthz"))[0] == 200


async def test_who_says_nothing_is_cut_off_and_keeps_nobody_out(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SECONDS", 0.5)
    async with watched(runs, "127.0.0.1", 0) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(web.CONNECTIONS + 10)]
        beyond = await asyncio.to_thread(silent[-1].recv, 1)
        assert beyond == b"", "no more than so many at once"
        assert await asyncio.to_thread(silent[0].recv, 1) == b"", "cut off after its time"
        assert (await ask(port, "/healthz"))[0] == 200
        for connection in silent:
            connection.close()


async def test_a_port_in_use_is_told(runs: Runs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CoordinatorError, match=rf"can't be served at 127.0.0.1:{port} \(.*in use.*--metrics"):
            async with watched(runs, "127.0.0.1", port):
                pass


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
async def test_an_address_that_is_not_ours_is_told(host: str, runs: Runs) -> None:
    with pytest.raises(CoordinatorError, match=rf"metrics can't be served at {host}:19464 \("):
        async with watched(runs, host, 19464):
            pass


def test_an_obstacle_that_utf8_lacks_is_told_all_the_same() -> None:
    """As the name of a store may be one."""
    assert _verdict("the store a\udcffb is gone", "ready")[2] == b"the store a?b is gone\n"
