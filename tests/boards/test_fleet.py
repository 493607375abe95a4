"""A mixed fleet over TLS: simulated devices and MicroPythons of three architectures finish a run, and predict."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from boards.library import library
from coordinator.service import Coordinator

from ..certificates import Certificates
from ..environment import Mosquitto
from ..fleet import decoded, eventually, finish, listening, run_config, running_swarm, swarm_spec, task
from .files import compiled, written
from .runners import RUNNERS, Unix

DEVICES = 20
HEAPS = {"unix": "512K", "i386": "256K", "armhf": "256K"}


@pytest.mark.usefixtures("compiled")
@pytest.mark.timeout(300)
async def test_a_mixed_fleet_finishes_a_run_over_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    broker = Mosquitto(
        tmp_path,
        "allow_anonymous true",
        f"certfile {tmp_path}/server.pem",
        f"keyfile {tmp_path}/server.key",
    )
    broker.start()
    try:
        await _run(broker, certificates, tmp_path)
    finally:
        broker.stop()


async def _run(broker: Mosquitto, certificates: Certificates, folder: Path) -> None:
    config = run_config(
        broker,
        folder,
        run={"rounds": 3000},
        broker={"host": "localhost", "port": broker.port, "tls_ca": certificates.ca},
        learning={"in_flight": 30, "deadline": 30},
    )
    coordinator = Coordinator(config)
    names = {"unix", "i386", "armhf"}
    with ExitStack() as processes:
        started = []
        for name in sorted(names):
            runner = RUNNERS[name]
            assert isinstance(runner, Unix)
            runner.obtain()
            files = written(compiled(library(runner.chip), runner.chip), folder / name)
            device = {"id": name, "run": config.run.name, "stream": {"kind": "sine", "seed": 1}, "predict": 0.2}
            way = {"host": "localhost", "port": broker.port, "tls_ca": certificates.ca}
            (files / "config.json").write_text(json.dumps({**device, **way}))
            code = "from tinyreptile.device import main\nmain('config.json')"
            started.append(processes.enter_context(runner.start(code, files, HEAPS[name])))
        topics = [f"tinyreptile/{config.run.name}/device/{name}/prediction" for name in names]
        try:
            async with (
                listening(config.broker, *topics) as heard,
                running_swarm(swarm_spec(config, DEVICES)),
                task(finish(coordinator, 240)) as run,
            ):
                status = await run
                await eventually(lambda: {m.topic.value for m in heard} == set(topics), "all of them predict")
        finally:
            said = []
            for process in started:
                process.send_signal(signal.SIGINT)
                said.append(process.communicate(timeout=20)[0])
            print("\n".join(said))
    devices = coordinator.run_state.registry.devices
    assert status["updates"] == 3000
    assert len(devices) == DEVICES + len(names)
    assert all(devices[name].accepted >= 5 for name in names)
    assert all(decoded(message)["version"] >= 0 for message in heard)
