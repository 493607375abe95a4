"""Several runs in one service: none is in another's way, and one that fails is not left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line.console import state_text
from coordinator.errors import ConfigError, StoreError
from coordinator.logs import RunFilter
from coordinator.observer import look
from coordinator.runs import Runs, Served
from coordinator.service import Coordinator
from coordinator.store import Store
from tests.environment import Mosquitto, free_port
from tests.fleet import broker_config, eventually, listening, run_config, running_swarm, states, swarm_spec, task


def ended(runs: Runs) -> dict[str, tuple[str, int]]:
    """By run: the state and the updates that it ended well with."""
    return {
        served.config.run.name: (served.status["state"], served.status["updates"])
        for served in runs.served
        if served.status is not None
    }


@pytest.mark.usefixtures("compiled")
async def test_each_goes_to_its_own_end(broker: Mosquitto, tmp_path: Path) -> None:
    configs = [run_config(broker, tmp_path, run={"rounds": rounds}) for rounds in (30, 60)]
    seen: set[str] = set()
    runs = Runs(configs, on_status=lambda status: seen.add(status["run"]))
    runs.begin()
    async with running_swarm(swarm_spec(configs[0], 4)), running_swarm(swarm_spec(configs[1], 4)):
        await asyncio.wait_for(runs.run(), 60)
    names = [config.run.name for config in configs]
    assert ended(runs) == {names[0]: ("finished", 30), names[1]: ("finished", 60)}
    assert seen == set(names)


@pytest.mark.usefixtures("compiled")
async def test_those_that_can_not_begin_are_told_and_none_is_served(
    broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, good, locked_out = (run_config(broker, tmp_path) for _ in range(3))
    Path(damaged.store_location()).write_text("no store " * 1000)
    locked_out.broker.password_file = tmp_path / "absent"
    told: list[str] = []
    seen: list[dict[str, Any]] = []
    runs = Runs(
        [damaged, good, locked_out],
        on_status=seen.append,
        on_error=lambda served, error: told.append(served.config.run.name),
    )
    runs.begin()
    assert told == [damaged.run.name, locked_out.run.name], "before any is served"
    assert "is damaged or no store at all" in str(runs.served[0].error)
    async with listening(broker_config(broker), f"tinyreptile/{good.run.name}/#") as heard:
        await asyncio.wait_for(runs.run(), 20)
    assert (heard, seen) == ([], [])
    assert ended(runs) == {good.run.name: ("stopped", 0)}
    assert caplog.messages == [f"the service ends for this, and stops {good.run.name}"]
    Store(good.store_location(), good.run.name).close()  # nobody has it any more


@pytest.mark.usefixtures("compiled")
async def test_one_without_a_broker_ends_the_service_and_the_others_keep_what_they_have(
    broker: Mosquitto, tmp_path: Path
) -> None:
    good = run_config(broker, tmp_path, run={"rounds": 0})
    async with running_swarm(swarm_spec(good, 4)):
        runs = Runs([good])
        runs.begin()
        async with task(runs.run()):
            await eventually(lambda: updates(runs.served[0]) > 10, "it is under way")
            runs.stop()
            await eventually(lambda: runs.served[0].ended, "it has ended")
        before = ended(runs)[good.run.name][1]
        lonely = run_config(broker, tmp_path, broker={"host": "127.0.0.1", "port": free_port()})
        runs = Runs([good, lonely])
        runs.begin()
        await asyncio.wait_for(runs.run(), 30)
    assert runs.failure.startswith(f"run {lonely.run.name} has failed: no broker answers at 127.0.0.1:")
    state, after = ended(runs)[good.run.name]
    assert (state, after >= before) == ("stopped", True)


def fail(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError(), "a fault of this program (ZeroDivisionError)"),
        (ValueError("a value"), "a fault of this program (ValueError: a value)"),
        (MemoryError(), "a fault of this program (MemoryError)"),
        (asyncio.CancelledError(), "a fault of this program (RuntimeError: a part of it was cancelled)"),
        (StoreError("the store is damaged"), "the store is damaged"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_whatever_a_run_fails_for_the_others_are_stopped_in_order(
    error: BaseException, told: str, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = configs = [run_config(broker, tmp_path) for _ in range(2)]
    runs = Runs(configs)
    runs.begin()
    topic = f"tinyreptile/{good.run.name}/coordinator"
    async with listening(broker_config(broker), topic) as heard, task(runs.run()) as running:
        await eventually(lambda: not runs.obstacle, "both are ready")
        monkeypatch.setattr(runs.served[0].coordinator.run_state, "publish_at", fail(error))  # type: ignore[union-attr]
        await eventually(running.done, "the service has ended", 20)
        await eventually(lambda: states(heard)[-1] == "stopped", "the other says good-bye")
    assert runs.served[0].error is not None
    assert runs.failure == runs.obstacle == f"run {bad.run.name} has failed: {told}"
    assert ended(runs) == {good.run.name: ("stopped", 0)}


async def test_one_that_fails_when_the_others_are_done_changes_nothing_of_them(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, done = configs = [run_config(broker, tmp_path) for _ in range(2)]
    runs = Runs(configs)
    runs.begin()
    async with task(runs.run()) as running:
        await eventually(lambda: not runs.obstacle, "both are ready")
        runs.served[1].coordinator.drain()  # type: ignore[union-attr]
        await eventually(lambda: runs.served[1].ended, "one has ended well")
        assert not runs.obstacle
        assert not running.done()
        monkeypatch.setattr(runs.served[0].coordinator.run_state, "publish_at", fail(KeyError(1)))  # type: ignore[union-attr]
        await eventually(running.done, "the service has ended", 20)
    assert runs.failure.startswith(f"run {bad.run.name} has failed: a fault of this program (KeyError: 1)")
    assert ended(runs) == {done.run.name: ("stopped", 0)}
    assert "the service ends for this" not in caplog.text


async def test_who_asks_the_broker_sees_what_a_run_has_failed_for(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    for damage, told in (
        (lambda coordinator: setattr(coordinator.run_state, "publish_at", fail(KeyError(1))), "(KeyError: 1)"),
        (lambda coordinator: setattr(coordinator._store, "write", damaged), "is damaged"),
    ):
        runs = Runs([config])
        runs.begin()
        async with task(runs.run()) as running:
            await eventually(lambda runs=runs: not runs.obstacle, "it is ready")  # type: ignore[misc]
            damage(runs.served[0].coordinator)
            runs.served[0].coordinator.run_state.change({"learning.alpha": 0.1})  # type: ignore[union-attr]
            await eventually(running.done, "the service has ended", 20)
        status = (await look(config)).coordinator
        assert status is not None
        assert status["state"] == "failed"
        assert told in status["problem"]
        assert state_text(status) == f"failed: {status['problem']}"


def damaged(entries: object) -> None:
    raise StoreError("the store is damaged")


def updates(served: Served) -> int:
    return served.coordinator.run_state.updates if served.coordinator is not None else 0


@pytest.mark.usefixtures("compiled")
async def test_a_stop_ends_all_of_them_and_they_go_on_from_there(broker: Mosquitto, tmp_path: Path) -> None:
    configs = [run_config(broker, tmp_path, run={"rounds": 0}) for _ in range(2)]
    runs = Runs(configs)
    runs.begin()
    async with running_swarm(swarm_spec(configs[0], 3)), running_swarm(swarm_spec(configs[1], 3)), task(runs.run()):
        coordinators = [served.coordinator for served in runs.served if served.coordinator is not None]
        await eventually(lambda: all(c.run_state.updates > 10 for c in coordinators), "both are under way")
        runs.stop()
        await eventually(lambda: all(served.ended for served in runs.served), "both have ended")
    again = Runs(configs)
    again.begin()
    for before, after in zip(runs.served, again.served, strict=True):
        assert before.status is not None
        assert after.coordinator is not None
        assert after.coordinator.run_state.version == before.status["version"]
        after.coordinator._store.close()


def test_one_run_twice_is_refused_and_nothing_is_begun(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    other = run_config(broker, tmp_path / "elsewhere", config.run.name)
    with pytest.raises(ConfigError, match=f"two of the configurations are of run {config.run.name}; a service has"):
        Runs([config, other])
    assert not Path(config.store_location()).exists()


def test_one_store_for_two_runs_is_refused_however_it_is_written(broker: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    one = run_config(broker, tmp_path, "one", run={"name": "one", "store": tmp_path / "a.sqlite"})
    two = run_config(broker, tmp_path, "two", run={"name": "two", "store": tmp_path / "link" / "a.sqlite"})
    with pytest.raises(ConfigError, match=r"runs one and two have the same store, .*; each needs one of its own"):
        Runs([one, two])
    assert not (tmp_path / "a.sqlite").exists()


def test_runs_may_share_a_database_that_has_a_schema_for_each(broker: Mosquitto, tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1/runs"
    configs = [run_config(broker, tmp_path, name, run={"name": name, "store": url}) for name in ("one", "two")]
    assert len(Runs(configs).served) == 2


async def test_what_is_logged_says_of_which_run_it_is(
    broker: Mosquitto, start_broker: Callable[..., Mosquitto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = start_broker()
    configs = [run_config(failing, tmp_path), run_config(broker, tmp_path)]
    runs = Runs(configs)
    runs.begin()
    caplog.handler.addFilter(filtered := RunFilter())
    caplog.set_level(logging.WARNING)
    async with task(runs.run()):
        await eventually(lambda: not runs.obstacle, "both are ready")
        failing.stop()
        runs.served[1].coordinator.run_state.change({"learning.alpha": 0.1})  # type: ignore[union-attr]
        await eventually(lambda: "trying again" in caplog.text, "the loss is told")
        runs.stop()
        await eventually(lambda: all(served.ended for served in runs.served), "both have ended")
    caplog.handler.removeFilter(filtered)
    lost = [record for record in caplog.records if "trying again" in record.message]
    assert {record.run for record in lost} == {configs[0].run.name}  # type: ignore[attr-defined]


def test_a_coordinator_alone_needs_none_of_this(broker: Mosquitto, tmp_path: Path) -> None:
    coordinator = Coordinator(run_config(broker, tmp_path))
    assert coordinator.obstacle.startswith("there is no connection to the broker at ")
    coordinator._store.close()
