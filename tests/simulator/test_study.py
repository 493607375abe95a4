from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.algorithms import AlgorithmError
from simulator.algorithms.tinyreptile import TinyReptile
from simulator.study import StudyError, job, report
from simulator.study.claims import claims
from simulator.study.cluster import cluster
from simulator.study.experiments import EXPERIMENTS, own, plan
from simulator.study.job import Job, Stopped, check, run
from simulator.study.statistics import estimate
from simulator.study.store import Store
from simulator.study.summary import Outcome, gather, seconds_to
from simulator.study.workers import Event, Failed, Finished, Progress, Workers
from simulator.tasks import TaskError
from simulator.tasks.sine import Sine

from ..environment import need_module

SMALL = {"steps": 4, "shots": 4, "queries": 4, "unseen": 2, "unseen_end": 3, "at": [0, 4], "tuning": 2}


def small(name: str = "tinyreptile", seed: int = 1, rounds: int = 12, **settings: Any) -> Job:
    """A sine job that takes no time."""
    found = plan(["sine"], [seed], updates=rounds, only=[name])[0]
    evaluation = found.settings["evaluation"] | SMALL
    return Job(found.settings | {"rounds": rounds, "evaluation": evaluation} | settings, found.title, found.group)


def go_on(rounds: int) -> bool:
    return False


def without_time(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "cpu_seconds"}


# Statistics


def test_the_interval_is_students() -> None:
    five = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.mean == 3.0
    assert five.half == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), rel=1e-6)  # t(0.975, 4) from tables
    assert estimate([1.0, 3.0]).half == pytest.approx(12.7062, rel=1e-5)
    assert five.text(2) == "3.00 ± 1.96"


def test_one_seed_has_no_interval() -> None:
    assert math.isnan(estimate([2.0]).half)
    assert estimate([2.0]).text(1) == "2.0"


# The plan


def test_every_variant_of_every_task_names_settings_that_its_algorithm_has() -> None:
    planned = plan(EXPERIMENTS, [1, 2])
    assert len(planned) == 2 * sum(len(e.variants) for e in EXPERIMENTS.values())
    assert len({one.name for one in planned}) == len(planned)


def test_variants_of_one_budget_draw_equally_many_samples() -> None:
    for only in (["tinyreptile"], ["reptile"], ["fedavg"], ["fedsgd"], ["transfer"], ["tinymetafed"]):
        one = plan(["sine"], [1], updates=1000, only=only)[0].settings
        works = one["learning"].get("meta_batch") or one["learning"].get("clients") or 1
        assert one["rounds"] * works * one["learning"]["steps"] == 32_000


def test_what_is_not_there_is_an_error_that_says_what_is() -> None:
    with pytest.raises(StudyError, match=r"experiment for sine, .*not for 'cosine'"):
        plan(["cosine"], [1])
    with pytest.raises(StudyError, match="sine has no variant 'maml'; it has tinyreptile"):
        plan(["sine"], [1], only=["maml"])


def test_an_algorithm_of_ones_own_joins_the_comparison() -> None:
    planned = plan(["sine"], [1], only=["scratch"], extra=own(["tests.simulator.test_algorithms.Mine"]))
    assert [one.settings["variant"] for one in planned] == ["scratch", "mine"]


def test_a_task_that_can_not_be_set_up_shows_before_anything_runs() -> None:
    with pytest.raises(TaskError, match="cosine"):
        check([small(task="cosine")], None)


class Bare(Sine):
    """A task of one's own that says too little."""

    settings = {"learning": Sine.settings["learning"], "evaluation": {"steps": 4}}  # noqa: RUF012


def test_a_task_of_ones_own_is_studied_with_the_settings_it_has() -> None:
    planned = plan(["simulator.tasks.sine.Sine"], [1], updates=100)
    assert {one.settings["variant"] for one in planned} == set(EXPERIMENTS["sine"].variants)
    assert planned[0].settings["device"]["beta"] == 0.005
    assert planned[0].settings["evaluation"]["at"] == [0, 1, 2, 4, 8, 16, 32]
    with pytest.raises(StudyError, match=r"Bare.settings has no 'shots': a study needs"):
        plan(["tests.simulator.test_study.Bare"], [1])


# Sweeps


def test_a_sweep_runs_every_combination_of_its_values_with_every_seed() -> None:
    sweep = {"device.beta": [0.01, 0.02], "learning.meta_batch": [2, 5], "evaluation.rates": [0.03]}
    planned = plan(["sine"], [1, 2], updates=100, only=["reptile"], sweep=sweep)
    assert len({one.name for one in planned}) == len(planned) == 8
    tried = {(s["device"]["beta"], s["learning"]["meta_batch"]) for s in (one.settings for one in planned)}
    assert tried == {(0.01, 2), (0.01, 5), (0.02, 2), (0.02, 5)}
    first = planned[0]
    assert first.name == "sine-reptile+device.beta=0.01+learning.meta_batch=2+evaluation.rates=0.03-1"
    assert first.title == "Reptile, beta 0.01, meta_batch 2, rates 0.03"
    assert (first.settings["rounds"], first.settings["evaluation"]["rates"]) == (50, [0.03])
    plain = plan(["sine"], [1], updates=100, only=["reptile"])[0]
    assert plain.settings["device"] | {"beta": 0.01} == first.settings["device"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("device.gamma", 1, r"no setting 'device.gamma' to choose; there are learning.steps, .*device.beta"),
        ("beta", 1, "no setting 'beta' to choose"),
        ("evaluation.at", 1, "no setting 'evaluation.at'"),
        ("device.beta", "fast", "sine, TinyReptile, beta fast: device.beta: must be a valid number, not 'fast'"),
        ("device.beta", 1.5, "device.beta: must be less than or equal to 1, not 1.5"),
        ("device.bits", 5, "device.bits: must be 16, 8 or 4, not 5"),
        ("device.format", "int8", "a device with int8 weights takes an initialization in int8: device.encoding"),
        ("device.format", "int9", "device.format: must be 'int16', 'int8' or 'float32', not 'int9'"),
        ("device.top", 0.0, "device.top: must be greater than 0"),
        ("learning.steps", 0, "learning.steps: must be greater than or equal to 1"),
        ("learning.alpha", math.nan, "learning.alpha: must be"),
        ("learning.schedule", "step", "learning.schedule: must be 'constant', 'linear', 'cosine' or 'cooldown'"),
        ("evaluation.shots", 0, "evaluation.shots: must be greater than or equal to 1"),
        ("evaluation.rates", 2, r"evaluation.rates.0: must be less than or equal to 1"),
        ("delays.drop", 1, "delays.drop: must be less than 1"),
    ],
)
def test_a_setting_that_can_not_be_chosen_is_told(path: str, value: Any, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        plan(["sine"], [1], only=["tinyreptile"], sweep={path: [value]})


# A job


@pytest.mark.usefixtures("compiled")
def test_a_result_has_all_settings_and_the_curve() -> None:
    one = small()
    result = run(one, None, None, go_on)
    assert result["settings"] == one.settings
    assert [point["round"] for point in result["curve"]][:3] == [0, 1, 2]
    assert result["curve"][-1]["round"] == 12
    assert result["curve"][-1]["samples"] == result["counts"]["samples"] == 12 * 32
    assert [point["step"] for point in result["adaptation"]] == [0, 4]
    assert set(result["versions"]) == {"tinyreptile", "python", "numpy"}
    json.dumps(result, allow_nan=False)


@pytest.mark.usefixtures("compiled")
def test_a_baseline_adapts_with_the_rate_that_is_best_on_training_devices() -> None:
    evaluation = small("scratch").settings["evaluation"]
    result = run(small("scratch", evaluation=evaluation | {"rates": [1.0, 0.005]}), None, None, go_on)
    assert result["rate"] == 0.005


@pytest.mark.parametrize("name", ["tinyreptile", "asynchronous", "transfer"])
@pytest.mark.usefixtures("compiled")
def test_a_job_that_was_stopped_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    one, saved = small(name), tmp_path / "saved.npz"
    whole = run(one, None, None, go_on)
    with pytest.raises(Stopped):
        run(one, None, saved, lambda rounds: rounds == 5)
    seen: list[int] = []
    resumed = run(one, None, saved, lambda rounds: bool(seen.append(rounds)))
    assert seen[0] == 6
    assert without_time(resumed) == without_time(whole)


@pytest.mark.usefixtures("compiled")
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    saved = tmp_path / "saved.npz"
    with pytest.raises(Stopped):
        run(small(), None, saved, lambda rounds: True)
    with pytest.raises(StudyError, match=r"rounds is 12 there and 13 here.*--out.*--fresh"):
        run(small(rounds=13), None, saved, go_on)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"nonsense",
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    ],
    ids=["another file", "empty", "cut off", "one bit"],
)
@pytest.mark.usefixtures("compiled")
def test_a_damaged_checkpoint_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    saved = tmp_path / "saved.npz"
    with pytest.raises(Stopped):
        run(small(), None, saved, lambda rounds: True)
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(StudyError, match=r"saved.npz is damaged, or no checkpoint of a study: delete it, or .*--fresh"):
        run(small(), None, saved, go_on)


@pytest.mark.usefixtures("compiled")
def test_a_run_that_diverges_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "adaptation", lambda *arguments: [{"step": 0, "loss": math.nan}])
    with pytest.raises(StudyError, match="sine-tinyreptile-1 diverged by round 0: give it a smaller beta"):
        run(small(), None, None, go_on)


class Lost(TinyReptile):
    """Its initialization is no number any more."""

    def round(self, phi: Any, number: int) -> float:
        phi[3] = math.nan
        return 0.0


class Greedy(TinyReptile):
    """Asks for more than its `works` says."""

    def round(self, phi: Any, number: int) -> float:
        for work in self.fleet.together(number, 5):
            work.load(phi)
            work.train(self.settings.steps)
        return 0.0


class Keeper(TinyReptile):
    """Stores samples where `shots` says that none are."""

    def round(self, phi: Any, number: int) -> float:
        self.fleet.one(number).store(8)
        return 0.0


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("Lost", StudyError, "diverged in round 1: give it a smaller beta or alpha"),
        ("Greedy", StudyError, r"Greedy\.works a round has 1 pieces of work of 32 samples; let works say how many"),
        ("Keeper", AlgorithmError, "stores samples: let the algorithm's `shots` say how many"),
    ],
)
@pytest.mark.usefixtures("compiled")
def test_an_algorithm_of_ones_own_that_is_wrong_is_told(name: str, error: type[Exception], words: str) -> None:
    one = small(rounds=100, algorithm=f"tests.simulator.test_study.{name}", checkpoints=2)
    with pytest.raises(error, match=words):
        run(one, None, None, go_on)


def test_an_edit_of_an_algorithm_of_ones_own_makes_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = "from simulator.algorithms.tinyreptile import TinyReptile\nclass Mine(TinyReptile):\n    pass\n"
    (tmp_path / "edited.py").write_text(source)

    def planned() -> Job:
        return plan(["sine"], [1], only=["mine"], extra=own(["edited.Mine"]))[0]

    before = planned()
    assert planned().settings == before.settings
    (tmp_path / "edited.py").write_text(source + "# better\n")
    assert planned().settings["source"]["edited.Mine"] != before.settings["source"]["edited.Mine"]
    assert "source" not in plan(["sine"], [1], only=["reptile"])[0].settings


def test_names_of_algorithms_of_ones_own_are_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = "from simulator.algorithms.tinyreptile import TinyReptile\nclass {}(TinyReptile):\n    pass\n"
    for module, name in (("first", "Reptile"), ("second", "Reptile"), ("broken", "Mine:(")):
        (tmp_path / f"{module}_of_mine.py").write_text(source.format(name))
    with pytest.raises(StudyError, match="sine has a variant 'reptile' already: give your class another name"):
        plan(["sine"], [1], extra=own(["first_of_mine.Reptile"]))
    with pytest.raises(StudyError, match="there are two algorithms Reptile: give them different names"):
        own(["first_of_mine.Reptile", "second_of_mine.Reptile"])
    with pytest.raises(AlgorithmError, match=r"broken_of_mine.Mine can't be imported: SyntaxError: .*line 2"):
        own(["broken_of_mine.Mine"])


# The store


@pytest.mark.usefixtures("compiled")
def test_what_is_there_with_equal_settings_is_not_run_again(tmp_path: Path) -> None:
    store, one = Store(tmp_path), small()
    assert store.result(one) is None
    result = run(one, None, store.checkpoint(one), go_on)
    store.add(one, result)
    assert store.result(one) == result
    assert [path.name for path in store.runs.iterdir()] == ["sine-tinyreptile-1.json"]


@pytest.mark.usefixtures("compiled")
def test_a_result_of_other_settings_is_refused_by_the_name_of_what_differs(tmp_path: Path) -> None:
    store, one = Store(tmp_path), small()
    store.add(one, run(one, None, None, go_on))
    other = small(device=one.settings["device"] | {"bits": 4})
    with pytest.raises(StudyError, match=r"device\.bits is 8 there and 4 here.*another folder with --out.*--fresh"):
        store.result(other)
    store.forget([other])
    assert store.result(other) is None


@pytest.mark.usefixtures("compiled")
def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    store, one = Store(tmp_path), small()
    result = run(one, None, None, go_on)
    for damage, what in (
        ("{", r"damaged, or no result of a study \(at JSON\): delete it, or"),
        ('{"settings": 3}', r"at settings"),
        (json.dumps({k: v for k, v in result.items() if k != "adaptation"}), "at adaptation"),
        (json.dumps(result | {"curve": result["curve"][:-1]}), "lacks points of its curve"),
    ):
        store.add(one, result)
        (store.runs / "sine-tinyreptile-1.json").write_text(damage)
        with pytest.raises(StudyError, match=what):
            store.result(one)
        assert store.fitting(one) is None


# Processes


class Fragile(TinyReptile):
    """Fails, or takes its process with it."""

    defaults = {"how": "raise"}  # noqa: RUF012

    def round(self, phi: Any, number: int) -> float:
        if self.settings.how == "raise":
            raise RuntimeError("this device is broken")
        os.kill(os.getpid(), signal.SIGKILL)
        return 0.0


def fragile(how: str, seed: int) -> Job:
    algorithm = "tests.simulator.test_study.Fragile"
    learning = Fragile.settings_with({"how": how})
    return small(seed=seed, variant=how, algorithm=algorithm, learning=learning)


def ends(events: Iterator[Event]) -> dict[str, Event]:
    return {event.job.name: event for event in events if not isinstance(event, Progress)}


@pytest.mark.usefixtures("compiled")
def test_jobs_run_in_processes_as_they_do_here(tmp_path: Path) -> None:
    jobs = [small(seed=seed) for seed in (1, 2, 3)]
    with Workers(jobs, 2, None, tmp_path) as workers:
        finished = ends(iter(workers))
    assert set(finished) == {"sine-tinyreptile-1", "sine-tinyreptile-2", "sine-tinyreptile-3"}
    for one in jobs:
        event = finished[one.name]
        assert isinstance(event, Finished)
        assert without_time(event.result) == without_time(run(one, None, None, go_on))
    assert not multiprocessing.active_children()


def test_a_job_that_dies_loses_only_itself(tmp_path: Path) -> None:
    jobs = [small(seed=1), fragile("raise", 2), fragile("die", 3), small(seed=4)]
    with Workers(jobs, 1, None, tmp_path) as workers:
        ended = ends(iter(workers))
    raised, died = ended["sine-raise-2"], ended["sine-die-3"]
    assert isinstance(raised, Failed)
    assert raised.reason == "RuntimeError: this device is broken"
    assert "in round" in raised.details
    assert isinstance(died, Failed)
    assert died.reason == "its process died with exit code -9"
    assert all(isinstance(ended[f"sine-tinyreptile-{seed}"], Finished) for seed in (1, 4))


@pytest.mark.usefixtures("compiled")
def test_workers_that_are_closed_save_what_they_have(tmp_path: Path) -> None:
    long = small(rounds=1_000_000, checkpoints=2)
    with Workers([long], 1, None, tmp_path) as workers:
        next(event for event in workers if isinstance(event, Progress))
    assert not multiprocessing.active_children()
    seen: list[int] = []

    def watch(rounds: int) -> bool:
        seen.append(rounds)
        return True

    with pytest.raises(Stopped):
        run(long, None, tmp_path / f"{long.name}.npz", watch)
    assert seen[0] > 1


@pytest.mark.usefixtures("compiled")
def test_jobs_run_on_a_dask_cluster(tmp_path: Path) -> None:
    distributed = need_module("distributed")
    jobs = [small(seed=1), fragile("raise", 2)]
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        ended = ends(cluster(jobs, local.scheduler_address, None))
    finished, failed = ended["sine-tinyreptile-1"], ended["sine-raise-2"]
    assert isinstance(finished, Finished)
    assert without_time(finished.result) == without_time(run(jobs[0], None, None, go_on))
    assert isinstance(failed, Failed)
    assert failed.reason == "RuntimeError: this device is broken"


def test_a_scheduler_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    need_module("distributed")
    monkeypatch.setattr("simulator.study.cluster._CONNECT_SECONDS", 0.5)
    with pytest.raises(StudyError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1 .*dask worker"):
        list(cluster([small()], "tcp://127.0.0.1:1", None))


# The report


@pytest.fixture(scope="module")
def outcomes() -> Any:
    names = ("tinyreptile", "transfer", "scratch", "delta-4", "delta-16", "asynchronous", "synchronous")
    jobs = [small(name, seed, rounds=6) for name in names for seed in (1, 2)]
    return gather((one, run(one, None, None, go_on)) for one in jobs)


def test_outcomes_are_gathered_by_task_and_variant(outcomes: Any) -> None:
    outcome = outcomes["sine"]["tinyreptile"]
    assert [result["settings"]["seed"] for result in outcome.results] == [1, 2]
    assert outcome.metric == "loss"
    assert outcome.after.n == 2
    assert outcome.count("samples") == 6 * 32


def test_claims_are_made_of_what_was_run(outcomes: Any) -> None:
    rows = {claim.what: claim for claim in claims(outcomes["sine"])}
    assert not any("Reptile / Reptile" in what or "float32" in what for what in rows)
    ratio = outcomes["sine"]["delta-4"].after.mean / outcomes["sine"]["delta-16"].after.mean
    claim = rows["4-bit deltas against int16, 16-bit deltas, after adaptation: ratio of the losses"]
    assert claim.value == f"{ratio:.2f}"
    assert claim.target == "≤ 1.25"
    assert claim.met is (ratio <= 1.25)
    assert claims({}) == []


def test_the_larger_networks_claims_name_one_pass_and_all() -> None:
    result = {
        "settings": {"evaluation": {"shots": 25, "also": {"5-way 1-shot": {"shots": 5}}}},
        "adaptation": [{"step": step, "loss": 0.1, "accuracy": step / 100} for step in (0, 25, 96)],
        "also": {"5-way 1-shot": [{"step": step, "loss": 0.1, "accuracy": step / 100} for step in (0, 5, 50)]},
        "ram": 200_000,
        "parameters": 50_000,
    }
    rows = claims({"far": Outcome("omniglot", "far", "Larger", "far", [result])})
    told = {claim.what: (claim.value, claim.target, claim.met) for claim in rows if "published" not in claim.what}
    assert list(told.values()) == [
        ("25.0", "", None),
        ("96.0", "≥ 95", True),
        ("5.0", "", None),
        ("50.0", "≥ 86", False),
        ("200,000", "≤ 196,608", False),
    ]
    assert [claim.value for claim in rows if "published" in claim.what] == ["98.90", "95.39"]


def test_time_to_a_loss_lies_between_two_checkpoints(outcomes: Any) -> None:
    outcome = outcomes["sine"]["tinyreptile"]
    seconds, losses = outcome.curve("seconds", lambda point: point["after"]["loss"])
    assert seconds_to(outcome, losses[0].mean) == 0.0
    assert seconds_to(outcome, -1.0) is None
    lower = next(e.mean for e in losses if e.mean < losses[0].mean)
    between = seconds_to(outcome, (losses[0].mean + lower) / 2)
    assert between is not None
    assert 0 < between < seconds[-1]


def test_the_report_is_a_page_tables_and_pictures(outcomes: Any, tmp_path: Path) -> None:
    report.write_all(outcomes, {"sine": ["Reptile", "FedAvg"]}, tmp_path, "tinyreptile reproduce sine")
    page = (tmp_path / "results.md").read_text()
    assert "Made by `tinyreptile reproduce sine`" in page
    assert "| TinyReptile |" in page
    assert "\nNot run: Reptile, FedAvg.\n" in page
    assert "| `--only delta-4 --only delta-16` |" in page
    for line in page.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.split("(")[1].rstrip(")")).stat().st_size > 1000
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 14
    assert len((tmp_path / "curves.csv").read_text().splitlines()) > 14 * 6
    summary = json.loads((tmp_path / "results.json").read_text())
    assert summary["tasks"]["sine"]["variants"]["tinyreptile"]["after"]["n"] == 2


def test_the_same_results_draw_the_same_bytes(outcomes: Any, tmp_path: Path) -> None:
    read: Callable[[Path], dict[str, bytes]] = lambda folder: {p.name: p.read_bytes() for p in folder.iterdir()}  # noqa: E731
    for name in ("one", "two"):
        report.write_page(outcomes, {}, tmp_path / name / "page.md", tmp_path / name / "plots", "x")
    one, two = (read(tmp_path / name / "plots") for name in ("one", "two"))
    assert len(one) == 10
    assert one == two
