"""Devices whose updates are private: what leaves them, and a run of them to its end, MicroPython among them."""

from __future__ import annotations

import asyncio
import json
import random
from array import array
from binascii import crc32
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from coordinator.deltas import decode
from coordinator.service import Coordinator
from simulator.micropython import micropython_device
from simulator.offline import run_now
from simulator.swarm import Swarm
from simulator.tasks import TaskError
from tests.environment import Mosquitto, need_program
from tests.fleet import SMALL, eventually, finish, new_run, run_config, running_swarm, swarm_spec
from tinyreptile import episodes, messages, reports
from tinyreptile.learner import Learner
from tinyreptile.model import Model
from tinyreptile.privacy import Privacy
from tinyreptile.streams import Stream
from tinyreptile.streams.sine import SineStream

from .peer import Peer, coordinating, living, make_device
from .test_client import DATA

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[Peer]:
    """A coordinator of a new run with version 0 of the small model."""
    async with coordinating(broker) as peer:
        await peer.put(0, DATA)
        yield peer


def privacy(seed: int = 1, **options: Any) -> Privacy:
    return Privacy(0.05, 2.0, source=BytesIO(random.Random(seed).randbytes(100_000)).read, **options)


class Broken(Stream):
    """A stream whose sample can't be learned from."""

    async def sample(self, x: memoryview, y: array[int]) -> None:
        raise ValueError("4711 among the inputs is no int16")


async def test_a_hello_says_how_private_updates_are(peer: Peer) -> None:
    async with living(make_device(peer, privacy=privacy())):
        hello = messages.check(reports.STATUS, await peer.hello("d0"))
    assert (hello["clip"], hello["noise"]) == (0.05, 2.0)


async def test_a_hello_of_others_says_nothing_of_it(peer: Peer) -> None:
    async with living(make_device(peer)):
        assert not {"clip", "noise"} & (await peer.hello("d0")).keys()


async def test_what_is_sent_is_what_was_learned_clipped_and_with_noise(peer: Peer) -> None:
    async with living(make_device(peer, privacy=privacy())):
        await peer.hello("d0")
        work = await peer.ask("d0", 7, DATA, bits=16)
        update = await peer.update("d0")
    learner = Learner(Model(SMALL))
    learner.wire[:] = DATA
    learner.receive()
    learner.load()
    learner.seed(7)
    learner.set_rate(work["task"]["beta"])
    run_now(episodes.train(learner, SineStream(1), work["task"]["steps"]))
    plain = bytearray(learner.delta(16).size)
    learner.delta(16).pack(0, plain)
    run_now(privacy().protect(learner, episodes.no_pause))
    delta = learner.delta(16)
    packed = bytearray(delta.size)
    delta.pack(0, packed)
    assert decode(Model(SMALL), [update["data"]], 16) == bytes(packed) != bytes(plain)
    assert update["gains"] == delta.gains
    assert "loss" not in messages.check(reports.REPORT, update)


async def test_an_update_is_sent_again_with_the_same_noise(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyreptile.client._RESEND_SECONDS", 0.2)
    async with living(make_device(peer, privacy=Privacy(0.05, 2.0))):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        await peer.update("d0", 3)
    assert len({update["data"] for update in peer.updates("d0")}) == 1


async def test_work_that_is_asked_for_twice_gives_the_same_bits(peer: Peer, tmp_path: Path) -> None:
    secret = Privacy(0.05, 2.0, path=str(tmp_path / "ledger.json"))
    async with living(make_device(peer, privacy=secret)):
        await peer.hello("d0")
        request = await peer.ask("d0", 1, DATA, seconds=0.5)
        await peer.update("d0")
        await asyncio.sleep(0.7)  # its time is over, and no answer has come
        topic = peer.topics.device("d0").work
        await peer.send(topic, request | {"data": DATA[: messages.PIECE_BYTES]})
        await peer.update("d0", 2)
        await asyncio.sleep(0.7)
        await peer.ask("d0", 1, bytes(len(DATA)), version=3)  # from another version, even
        await peer.update("d0", 3)
    assert len({(update["data"], update["version"], *update["gains"]) for update in peer.updates("d0")}) == 1
    assert secret.made == 1


async def test_an_update_that_its_coordinator_does_not_know_of_is_followed_by_no_other(peer: Peer) -> None:
    secret = Privacy(0.05, 2.0)
    async with living(make_device(peer, privacy=secret)):
        hello = await peer.hello("d0")
        assert (hello["private"], hello["rho"]) == (0, 0.0)
        await peer.ask("d0", 1, DATA, private=0)
        await peer.update("d0")
        await peer.acknowledge("d0", 1)
        await peer.ask("d0", 2, DATA, private=0)
        hello = await peer.hello("d0", 2)
        assert (hello["state"], hello["work"], hello["private"], hello["rho"]) == ("online", 0, 1, 0.5)
        await peer.ask("d0", 1, DATA, private=0)  # delivered again, and what it came to is gone
        await peer.hello("d0", 3)
        await peer.ask("d0", 3, DATA, private=1)
        update = await peer.update("d0", 2)
    assert (update["work"], update["private"], update["rho"]) == (3, 2, 1.0)
    assert [update["work"] for update in peer.updates("d0")] == [1, 3]
    assert secret.made == 2


@pytest.mark.parametrize("fields", [{"private": 0, "noise": 1.0}, {"private": 0, "noise": 4.0}])
async def test_a_request_that_accounts_for_other_noise_is_refused(peer: Peer, fields: dict[str, Any]) -> None:
    secret = Privacy(0.05, 2.0)
    async with living(make_device(peer, privacy=secret)):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA, **fields)
        assert "does not account" in (await peer.update("d0"))["error"]
    assert secret.made == 0


async def test_a_request_that_accounts_for_nothing_is_refused(peer: Peer) -> None:
    async with living(make_device(peer, privacy=Privacy(0.05, 2.0))):
        await peer.hello("d0")
        task = {"kind": "train", "steps": 4, "beta": 0.01, "seconds": 30, "bits": 8}
        request = {"work": 1, "version": 0, "crc": crc32(DATA), "task": task, "data": DATA}
        await peer.send(peer.topics.device("d0").work, request)
        assert "does not account" in (await peer.update("d0"))["error"]


async def test_a_prediction_in_between_does_not_get_into_what_is_sent_again(peer: Peer, tmp_path: Path) -> None:
    secret = Privacy(0.05, 2.0)
    async with living(make_device(peer, privacy=secret, predict=0.05)):
        await peer.hello("d0")
        for _ in range(2):
            await peer.ask("d0", 1, DATA, seconds=0.3, private=0)
            await peer.update("d0")
            await asyncio.sleep(1)  # many turns of its own model
        hello = await peer.hello("d0", 2)
        assert (hello["work"], hello["private"]) == (0, 1)
    assert len({update["data"] for update in peer.updates("d0")}) == 1


async def test_why_work_came_to_nothing_is_not_told_where_samples_are_in_it(peer: Peer) -> None:
    said: list[str] = []
    async with living(make_device(peer, stream=Broken(), privacy=privacy(), log=said.append)):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        assert (await peer.update("d0"))["error"] == "the work came to nothing"
    assert "work 1 came to nothing: stream Broken: ValueError: 4711 among the inputs is no int16" in said


async def test_an_evaluation_is_refused(peer: Peer) -> None:
    async with living(make_device(peer, privacy=privacy())):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA, kind="evaluate", shots=1, queries=1)
        answer = await peer.update("d0")
    assert answer == {"work": 1, "error": "a device whose updates are private evaluates nothing"}


async def test_a_device_whose_budget_is_used_up_says_so_and_sends_nothing_more(peer: Peer, tmp_path: Path) -> None:
    said: list[str] = []
    budget = {"updates": 2, "path": str(tmp_path / "count.json")}
    spent = "its privacy budget of 2 updates is used up"
    async with living(make_device(peer, privacy=privacy(**budget), log=said.append)) as life:
        await peer.hello("d0")
        for work in (1, 2):
            await peer.ask("d0", work, DATA)
            await peer.update("d0", work)
            await peer.acknowledge("d0", work)
        hello = await peer.hello("d0", 2)
        assert (hello["state"], hello["error"]) == ("unfit", spent)
        await peer.ask("d0", 3, DATA)  # a coordinator that does not care
        assert (await peer.update("d0", 3))["error"] == "the work came to nothing"
        assert not life.done()
    assert said.count(spent) == 1
    async with living(make_device(peer, privacy=privacy(**budget))):
        await eventually(lambda: peer.states("d0")[-1] == "unfit", "it is unfit from the start")
        assert peer.statuses("d0")[-1]["error"] == spent


async def test_a_count_that_can_not_be_written_ends_the_work(peer: Peer, tmp_path: Path) -> None:
    budget = {"updates": 2, "path": str(tmp_path / "absent" / "count.json")}
    async with living(make_device(peer, privacy=privacy(**budget))):
        await peer.hello("d0")
        await peer.ask("d0", 1, DATA)
        assert (await peer.update("d0")) == {"work": 1, "error": "the work came to nothing"}


# Whole runs


async def test_a_swarm_that_is_started_again_has_spent_what_it_had(broker: Mosquitto, tmp_path: Path) -> None:
    ledgers = tmp_path / "ledgers"

    def made() -> dict[str, int]:
        return {path.name: json.loads(path.read_text())["updates"] for path in sorted(ledgers.glob("*.json"))}

    for expected in (20, 40):  # two runs, whose coordinators know nothing of each other
        config = run_config(broker, tmp_path, run={"name": new_run(), "rounds": 20}, evaluation={"every": 0})
        coordinator = Coordinator(config)
        async with running_swarm(swarm_spec(config, 2, privacy=(0.1, 1.5), ledgers=ledgers)):
            await finish(coordinator)
        devices = coordinator.run_state.registry.devices
        assert list(made()) == ["privacy-sine-0.json", "privacy-sine-1.json"]
        assert sum(made().values()) >= expected
        for name, count in made().items():
            assert count <= devices[name[len("privacy-") : -len(".json")]].private <= count + 1
    (ledgers / "privacy-sine-1.json").write_text("nothing")
    with pytest.raises(TaskError, match=r"privacy-sine-1\.json does not say how many private updates were made"):
        Swarm(swarm_spec(config, 2, privacy=(0.1, 1.5), ledgers=ledgers))


async def test_a_private_swarm_and_a_micropython_device_finish_a_run_that_asks_for_privacy(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the device counts its updates
    config = run_config(broker, tmp_path, privacy={"noise": 1.5, "clip": 0.1}, learning={"steps": 4, "in_flight": 10})
    settings = {
        "id": "board",
        "run": config.run.name,
        "host": broker.host,
        "port": broker.port,
        "stream": {"kind": "sine", "seed": 3, "fresh": True},
        "privacy": {"clip": 0.05, "noise": 2.0, "updates": 3},
    }
    coordinator = Coordinator(config)
    devices = coordinator.run_state.registry.devices
    async with (
        micropython_device(need_program("micropython"), tmp_path, settings, heap="96wK"),
        running_swarm(swarm_spec(config, 3, privacy=(0.1, 1.5))),
        running_swarm(swarm_spec(config, 1, 2, first=3)),
    ):
        run = asyncio.create_task(finish(coordinator, 90))
        await eventually(lambda: "board" in devices and devices["board"].state == "unfit", "the board's budget is used")
        status = await run
    assert status["updates"] == 60
    assert status["refusals"] == {}
    board = devices["board"]
    assert board.platform.startswith("micropython")
    assert board.error == "its privacy budget of 3 updates is used up"
    assert (board.accepted, board.private, board.rho) == (3, 3, 3 * 2 / 2.0**2)
    assert json.loads((tmp_path / "privacy-board.json").read_text())["updates"] == 3
    assert (devices["sine-3"].accepted, devices["sine-3"].private) == (0, 0)
    assert devices["sine-3"].error.startswith("its updates have noise of 0, this run asks for 1.5")
    private = [devices[f"sine-{i}"] for i in range(3)]
    assert sum(device.accepted for device in private) == 57
    assert all(device.rho == pytest.approx(device.private * 2 / 1.5**2) for device in private)
    assert status["rho"] == max(device.rho for device in private)
    assert "loss" not in status
    assert status["evaluation"]["devices"] == 2
