"""Dashboard, alerts and documentation speak of the metrics that a run has, and Prometheus understands them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from coordinator.metrics import Metrics
from coordinator.runs import Runs
from coordinator.web import watched
from simulator.conditions import Conditions
from tests.environment import ROOT, Mosquitto, free_port, need_program
from tests.fleet import eventually, run_config, running_swarm, swarm_spec, task

FOLDER = ROOT / "broker_config" / "observability"
ALERTS = FOLDER / "alerts.yaml"
# The words of PromQL that the files use; any other word is a metric or a label.
PROMQL = {
    "sum",
    "by",
    "on",
    "and",
    "rate",
    "increase",
    "delta",
    "changes",
    "histogram_quantile",
    "le",
    "d",
    "h",
    "m",
    "s",
}
PROMETHEUS = {"up", "job", "instance"}  # what Prometheus itself adds
# Which a regression has none of, and an idle run none yet.
CLASSES_ONLY = "tinyreptile_evaluation_balanced_accuracy"


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_expressions() -> list[str]:
    """Of all panels, with Grafana's variables filled in."""
    targets = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [expr.replace("$__rate_interval", "1m").replace("$run", ".+") for expr in targets]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


EXPRESSIONS = panel_expressions() + [rule["expr"] for rule in rules()]


def words(expression: str) -> set[str]:
    """All names in a PromQL expression: of metrics, labels, functions."""
    without_strings = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", without_strings))


@pytest.fixture(scope="module")
def exported(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory, compiled: None) -> dict[str, set[str]]:
    """The labels of each sample that a run has told after its end, by the sample's name."""

    async def serve() -> dict[str, set[str]]:
        config = run_config(broker, tmp_path_factory.mktemp("run"), run={"rounds": 30})
        runs = Runs([config])
        runs.begin()
        async with running_swarm(swarm_spec(config, 4, 2)):
            await asyncio.wait_for(runs.run(), 60)
        found: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(Metrics(runs).text().decode()):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found

    return asyncio.run(serve())


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_name_in_an_expression_is_exported(expression: str, exported: dict[str, set[str]]) -> None:
    labels = set().union(*exported.values())
    unknown = words(expression) - PROMQL - PROMETHEUS - set(exported) - labels - {CLASSES_ONLY}
    assert not unknown


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_that_a_metric_is_selected_by_is_its_own(expression: str, exported: dict[str, set[str]]) -> None:
    for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        if metric != CLASSES_ONLY:
            assert words(matchers) <= exported.get(metric, set()) | PROMETHEUS


def test_every_metric_is_documented_and_every_documented_one_exists(exported: dict[str, set[str]]) -> None:
    table = (ROOT / "docs" / "operations.md").read_text().split("## Metrics")[1].split("## Alerts")[0]
    documented: dict[str, set[str]] = {}
    for names, labels in re.findall(r"^\| (`tinyreptile_.*`) \| ([^|]*)\|", table, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            documented[name] = set(re.findall(r"\w+", labels))
    families = {re.sub(r"_(bucket|count|sum)$", "", name): labels for name, labels in exported.items()}
    ours = {name: labels - {"run", "le"} for name, labels in families.items() if name.startswith("tinyreptile_")}
    assert documented == ours | {CLASSES_ONLY: {"moment"}}


def test_every_metric_is_on_the_dashboard(exported: dict[str, set[str]]) -> None:
    shown = set().union(*map(words, panel_expressions()))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported if name.startswith("tinyreptile_")}
    assert {name for name in families if not any(word.startswith(name) for word in shown)} == set()


def test_every_alert_is_documented() -> None:
    table = (ROOT / "docs" / "operations.md").read_text().split("## Alerts")[1]
    assert set(re.findall(r"`(TinyReptile\w+)`", table)) == {rule["alert"] for rule in rules()}


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


# Prometheus itself


def promtool(*arguments: object) -> None:
    command = [need_program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", FOLDER / "prometheus.yaml")


def test_each_alert_goes_off_when_it_should_and_only_then(tmp_path: Path) -> None:
    tests = yaml.safe_load((Path(__file__).parent / "alerts.test.yaml").read_text())
    assert {test["alert_rule_test"][0]["alertname"] for test in tests["tests"]} == {rule["alert"] for rule in rules()}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(tests | {"rule_files": [str(ALERTS)]}))
    promtool("test", "rules", tmp_path / "test.yaml")


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[int]:
    """A Prometheus on loopback that scrapes ``target`` every second with our rules; gives its port."""
    program, port = need_program("prometheus"), free_port()
    configuration = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(ALERTS)]
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target}"]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    options = {
        "config.file": folder / "prometheus.yaml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "error",
    }
    command = [program, *(f"--{name}={value}" for name, value in options.items())]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


async def api(port: int, path: str, **parameters: str) -> Any:
    """What Prometheus' HTTP API answers; None while it does not."""

    def ask() -> Any:
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{parameters}: {error.read().decode()}")
        except OSError:
            return None

    return await asyncio.to_thread(ask)


async def result(port: int, query: str) -> list[Any]:
    """The series that ``query`` comes to now."""
    data = await api(port, "query", query=query)
    return list(data["result"]) if data else []


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("compiled")
async def test_prometheus_scrapes_a_run_and_has_data_for_every_panel(broker: Mosquitto, tmp_path: Path) -> None:
    config = run_config(broker, tmp_path, run={"rounds": 0})
    runs = Runs([config])
    runs.begin()
    async with (
        watched(runs, "127.0.0.1", 0) as target,
        running_swarm(swarm_spec(config, 4, 2, conditions=Conditions(think=0.1))),
        task(runs.run()),
    ):
        served = runs.served[0]
        with prometheus(tmp_path, target) as port:
            empty = [expr for expr in panel_expressions() if CLASSES_ONLY not in expr and "rounds" not in expr]
            for _ in range(60):  # rates need two scrapes, evaluations some updates
                await asyncio.sleep(1)
                empty = [expr for expr in empty if not await result(port, expr)]
                if not empty:
                    break
            assert empty == []
            query = f'tinyreptile_updates_total{{run="{config.run.name}"}}'
            before = served.coordinator.run_state.updates  # type: ignore[union-attr]
            for _ in range(60):
                (series,) = await result(port, query)
                if int(series["value"][1]) >= before:
                    break
                await asyncio.sleep(0.5)
            assert before <= int(series["value"][1]) <= served.coordinator.run_state.updates  # type: ignore[union-attr]
            (group,) = (await api(port, "rules"))["groups"]
            assert {rule["health"] for rule in group["rules"]} == {"ok"}
            assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []
        runs.stop()
        await eventually(lambda: served.ended, "it has ended")
