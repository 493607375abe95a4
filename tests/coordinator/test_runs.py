"""Several runs in one service: none is in another's way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.errors import ConfigError, StoreError
from coordinator.logs import RunFilter
from coordinator.runs import Runs, Served
from coordinator.service import Coordinator
from tests.environment import Mosquitto, free_port
from tests.fleet import eventually, run_config, running_swarm, swarm_spec, task


def ended(runs: Runs) -> dict[str, tuple[str, int]]:
    """By run: the state and the updates that it ended well with."""
    return {
        served.config.run.name: (served.status["state"], served.status["updates"])
        for served in runs.served
        if served.status is not None
    }


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


async def test_one_that_fails_leaves_the_others_alone_and_is_told_at_once(broker: Mosquitto, tmp_path: Path) -> None:
    good = run_config(broker, tmp_path)
    elsewhere = {"host": "127.0.0.1", "port": free_port()}
    lonely = run_config(broker, tmp_path, broker=elsewhere)
    bad = run_config(broker, tmp_path)
    Path(bad.store_location()).write_text("no store " * 1000)
    told: list[tuple[str, str]] = []

    def on_error(served: Served, error: Exception) -> None:
        told.append((served.config.run.name, str(error)))

    runs = Runs([bad, lonely, good], on_error=on_error)
    runs.begin()
    assert [name for name, _ in told] == [bad.run.name], "before any is served"
    assert isinstance(runs.served[0].error, StoreError)
    assert "is damaged or no store at all" in runs.obstacle
    async with running_swarm(swarm_spec(good, 4)), task(runs.run()):
        await eventually(lambda: len(told) == 2, "the second is told")
        assert runs.served[2].status is None, "the last goes on"
        await eventually(lambda: runs.served[2].ended, "the last has ended")
    assert told[1][0] == lonely.run.name
    assert "no broker answers at 127.0.0.1:" in told[1][1]
    assert ended(runs) == {good.run.name: ("finished", 60)}


async def test_a_fault_of_the_program_ends_one_run_only(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [run_config(broker, tmp_path) for _ in range(2)]
    runs = Runs(configs)
    runs.begin()

    def fail() -> float | None:
        raise ZeroDivisionError

    assert runs.served[0].coordinator is not None
    monkeypatch.setattr(runs.served[0].coordinator.run_state, "publish_at", fail)
    async with running_swarm(swarm_spec(configs[1], 4)):
        await asyncio.wait_for(runs.run(), 60)
    assert isinstance(runs.served[0].error, ZeroDivisionError)
    assert ended(runs) == {configs[1].run.name: ("finished", 60)}


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


async def test_a_service_has_begun_once_no_run_is_on_its_way(broker: Mosquitto, tmp_path: Path) -> None:
    bad = run_config(broker, tmp_path)
    Path(bad.store_location()).write_text("no store " * 1000)
    good = run_config(broker, tmp_path)
    runs = Runs([bad, good])
    assert not runs.begun
    assert runs.obstacle == f"run {bad.run.name}: it has not begun"
    runs.begin()
    assert not runs.begun
    async with task(runs.run()):
        await eventually(lambda: runs.begun, "the one that can work does, the other has failed")
        assert runs.obstacle.startswith(f"run {bad.run.name}: the store")
        runs.stop()
        await eventually(lambda: runs.served[1].ended, "it has ended")


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
