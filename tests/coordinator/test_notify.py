"""systemd is told what sd_notify(3) describes, over a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.notify import Notifier, notified
from coordinator.runs import Runs
from tests.environment import Mosquitto
from tests.fleet import eventually, run_config, task


class Manager:
    """The service manager's side."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0") if address.startswith("@") else address)
        self.socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
        self.heard: list[dict[str, str]] = []

    def hear(self) -> list[dict[str, str]]:
        """All datagrams so far."""
        while True:
            try:
                datagram = self.socket.recv(4096)
            except BlockingIOError:
                return self.heard
            self.heard.append(dict(line.split("=", 1) for line in datagram.decode().splitlines()))

    def said(self, name: str) -> list[str]:
        """What was said of ``name``."""
        return [fields[name] for fields in self.hear() if name in fields]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else f"@tinyreptile-test-{os.getpid()}")
    yield manager
    manager.socket.close()


async def test_a_service_says_when_it_is_ready_how_far_it_is_that_it_lives_and_when_it_ends(
    manager: Manager, broker: Mosquitto, tmp_path: Path
) -> None:
    config = run_config(broker, tmp_path)
    runs = Runs([config])
    async with notified(runs, Notifier(manager.environment)):
        await eventually(lambda: manager.said("STATUS"), "it says how far it is")
        assert manager.said("STATUS") == [f"run {config.run.name}: it has not begun"]
        runs.begin()
        assert manager.said("READY") == []
        async with task(runs.run()):
            await eventually(lambda: manager.said("READY"), "it is ready")
            assert manager.said("STATUS")[-1] == f"{config.run.name} at version 0, 0 updates"
            count = len(manager.said("WATCHDOG"))
            await eventually(lambda: len(manager.said("WATCHDOG")) > count + 5, "it lives")
            assert manager.said("READY") == ["1"]
            assert manager.said("STOPPING") == []
            runs.stop()
            await eventually(lambda: runs.served[0].ended, "it has ended")
    assert manager.said("STOPPING") == ["1"]
    assert "STOPPING" in manager.hear()[-1]


async def test_a_service_with_a_run_that_has_failed_is_never_ready_and_ends(
    manager: Manager, broker: Mosquitto, tmp_path: Path
) -> None:
    configs = [run_config(broker, tmp_path) for _ in range(2)]
    Path(configs[0].store_location()).write_text("no store " * 1000)
    runs = Runs(configs)
    runs.begin()
    async with notified(runs, Notifier(manager.environment)):
        await eventually(lambda: manager.said("STOPPING"), "it ends, and systemd has a limit for that")
        assert manager.said("STATUS")[-1].startswith(f"run {configs[0].run.name} has failed: the store ")
        count = len(manager.said("WATCHDOG"))
        await eventually(lambda: len(manager.said("WATCHDOG")) > count + 2, "it lives until then")
        await runs.run()
    assert manager.said("READY") == []


async def test_a_loop_that_hangs_is_silent(manager: Manager, broker: Mosquitto, tmp_path: Path) -> None:
    import time

    async with notified(Runs([run_config(broker, tmp_path)]), Notifier(manager.environment)):
        await eventually(lambda: len(manager.said("WATCHDOG")) > 2, "it lives")
        count = len(manager.said("WATCHDOG"))
        time.sleep(0.5)  # more than systemd would wait
        assert len(manager.said("WATCHDOG")) == count


async def test_without_a_service_manager_nothing_is_said(broker: Mosquitto, tmp_path: Path) -> None:
    async with notified(Runs([run_config(broker, tmp_path)]), Notifier({})):
        assert [t for t in asyncio.all_tasks() if t.get_name() == "notify"] == []


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(watchdog: dict[str, str]) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/x", **watchdog}).interval is None


def test_a_manager_that_is_gone_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).say(READY="1")
    assert "the service manager can't be told" in caplog.text


def test_a_text_that_utf8_lacks_is_said_all_the_same(manager: Manager) -> None:
    """As the name of a store may be one."""
    Notifier(manager.environment).say(STATUS="the store a\udcffb is gone")
    assert manager.said("STATUS") == ["the store a?b is gone"]
