"""What a service tells Prometheus is what happened, and nothing that a device says makes it more."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.config import Config
from coordinator.metrics import DROPPED, EVENTS, REASONS, Metrics
from coordinator.runs import Runs
from tests.environment import ROOT, Mosquitto, need_program
from tests.fleet import eventually, run_config, running_swarm, swarm_spec, task
from tinyreptile import messages, reports

Numbers = dict[tuple[str, ...], float]


def numbers(metrics: Metrics) -> Numbers:
    """All samples: (name, value of each label but the run, by the labels' names) to value."""
    found: Numbers = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = [value for name, value in sorted(sample.labels.items()) if name != "run"]
            key = (sample.name.removeprefix("tinyreptile_"), *labels)
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


@pytest.fixture
def idle(broker: Mosquitto, tmp_path: Path) -> Iterator[Runs]:
    """A run that has begun and is not served."""
    runs = Runs([run_config(broker, tmp_path)])
    runs.begin()
    yield runs
    for served in runs.served:
        assert served.coordinator is not None
        served.coordinator._store.close()


@pytest.mark.usefixtures("compiled")
async def test_a_runs_numbers_are_what_happened(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path)
    runs = Runs([config])
    metrics = Metrics(runs)
    runs.begin()
    (served,) = runs.served
    assert served.coordinator is not None
    async with running_swarm(swarm_spec(config, 8, 3)) as swarm, task(runs.run()) as serving:
        await eventually(lambda: numbers(metrics)["devices", "train", "online"] == 8, "all devices are there")
        await eventually(lambda: numbers(metrics)["ready",] == 1, "its rights at the broker are known")
        assert numbers(metrics)["broker_connected",] == 1
        await serving
        await eventually(lambda: swarm.counts().accepted == 60, "devices have all their acknowledgements")
    found = numbers(metrics)
    run = served.coordinator.run_state
    assert found["updates_total",] == found["rounds",] == 60
    assert found["staleness_versions_count",] == found["round_trip_seconds_count",] == 60
    assert found["round_trip_seconds_sum",] == pytest.approx(sum(run.round_trips))
    assert found["staleness_versions_sum",] == sum(run.taus)
    assert found["training_loss",] == pytest.approx(sum(run.losses) / 60)
    assert found["evaluations_total",] == 3
    assert found["evaluation_loss", "after"] == pytest.approx(run.evaluations.latest["after"])
    assert found["work_in_flight", "train"] == 0
    assert found["sent_messages_total", "work"] >= 60
    assert found["sent_messages_total", "piece"] >= 1
    assert found["sent_messages_total", "init"] == found["sent_messages_total", "piece"] > 1
    assert found["received_messages_total", "update"] >= 60
    assert found["received_bytes_total", "update"] > 60 * served.coordinator.run_state.model.parameters
    assert found["received_messages_total", "other"] == 0
    assert found["commit_entries_sum",] >= 60
    assert found["commit_seconds_count",] == found["commit_entries_count",] > 1
    assert found["broker_connected",] == found["broker_reconnections_total",] == found["store_problem",] == 0
    assert (found["ready",], found["failed",]) == (1, 0), "a run that is done stands in nobody's way"
    assert found["process_cpu_seconds_total",] > 0


async def test_a_broker_that_restarts_is_told(start_broker: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = start_broker()
    runs = Runs([run_config(broker, tmp_path)])
    metrics = Metrics(runs)
    runs.begin()
    async with task(runs.run()):
        await eventually(lambda: numbers(metrics)["ready",], "it is ready")
        broker.stop()
        await eventually(lambda: not numbers(metrics)["broker_connected",], "the broker is gone")
        assert numbers(metrics)["ready",] == 0
        assert f"there is no connection to the broker at {broker.host}:{broker.port}" in runs.obstacle
        broker.start()
        await eventually(lambda: numbers(metrics)["ready",], "it is ready again")
        assert numbers(metrics)["broker_reconnections_total",] == 1
        runs.stop()
        await eventually(lambda: runs.served[0].ended, "it has ended")


def test_whatever_devices_say_there_are_no_more_series(idle: Runs) -> None:
    coordinator = idle.served[0].coordinator
    assert coordinator is not None
    metrics = Metrics(idle)
    topics = reports.CoordinatorTopics(idle.served[0].config.run.name)
    before = set(numbers(metrics))
    for i in range(200):
        status = {"protocol": messages.PROTOCOL, "state": f"state{i}", "boot": f"b{i}", "role": f"role{i}"}
        coordinator.run_state.take_status(f"d{i}", status)
        coordinator._take(topics.device(f"d{i}").update, b"\xc1")
        coordinator._take(f"{topics.root}/device/d/{i}", b"")
    after = numbers(metrics)
    assert set(after) == before
    assert after["malformed_messages_total",] == 400
    assert after["refusals_total", "malformed"] == 400


@pytest.mark.parametrize("name", ["refusals", "events", "dropped"])
def test_every_label_value_that_the_code_has_is_told_from_the_start(name: str, idle: Runs) -> None:
    calls = {"Refusal": 0, "_close": 2, "_note": 0, "_drop": 0}
    wanted = {"refusals": ("Refusal", "_close"), "events": ("_note",), "dropped": ("_drop",)}[name]
    found = set()
    for path in (ROOT / "coordinator").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in wanted:
                    arguments = node.args[calls[called] : calls[called] + 1]
                    found |= {a.value for a in arguments if isinstance(a, ast.Constant)}
                case ast.Subscript(value=ast.Attribute(attr=counter), slice=ast.Constant(value=value)):
                    found |= {value} if counter == name else set()
    assert found == set({"refusals": REASONS, "events": EVENTS, "dropped": DROPPED}[name])


def test_promtool_finds_nothing_wrong(idle: Runs) -> None:
    done = subprocess.run(
        [need_program("promtool"), "check", "metrics"], input=Metrics(idle).text(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_nothing_secret_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    table = {"host": broker.host, "port": broker.port, "user": "somebody", "password_file": password}
    config: Config = run_config(broker, tmp_path, broker=table)
    runs = Runs([config])
    runs.begin()
    text = Metrics(runs).text().decode() + runs.obstacle
    assert not [secret for secret in ("hunter2", "somebody", str(tmp_path)) if secret in text]
    assert runs.served[0].coordinator is not None
    runs.served[0].coordinator._store.close()
