"""What the study is to show: each claim with its measured value, its target, and whether that is met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tinyreptile.model import Model

from .statistics import Estimate, estimate
from .summary import Outcome, seconds_to, shown

NEAR = 1.15  # times the serial loss: what an asynchronous run is to reach


@dataclass(frozen=True)
class Claim:
    """``what`` was measured as ``value`` on ``variants``.

    ``target`` is empty and ``met`` None where a figure is only told; ``variants`` are empty where nothing was measured.
    """

    what: str
    value: str
    variants: tuple[str, ...]
    target: str = ""
    met: bool | None = None


def claims(outcomes: Mapping[str, Outcome]) -> list[Claim]:
    """The claims about one task that its ``outcomes``, by variant, allow."""
    return [
        *_far(outcomes),
        *_accuracy(outcomes),
        *_cost(outcomes),
        *_clock(outcomes),
    ]


BOARD_RAM = 192 * 1024

# What the larger networks are tried on: what they are to reach after their passes over the support samples, in percent,
# and what Reptile is published with (arXiv 1803.02999, table 2, without transduction).
FAR: dict[str, dict[str, tuple[float, str] | None]] = {
    "omniglot": {"5-way 5-shot": (95.0, "98.90"), "5-way 1-shot": (86.0, "95.39")},
    "keywords": {"unseen speakers": None, "unseen words": None},
}


def _far(outcomes: Mapping[str, Outcome]) -> Iterator[Claim]:
    if "far" not in outcomes or outcomes["far"].task not in FAR:
        return
    far = outcomes["far"]
    for name, known in FAR[far.task].items():
        also = name if name in far.also else None
        shots, points = far.shots(also), far.points(also)
        once = next(e for step, e in points if step == shots)
        steps, end = points[-1]
        yield Claim(f"{far.title}, {name}, one pass over the support samples: accuracy, %", once.text(1), ("far",))
        passes = f"the same, {steps // shots} passes"
        if known is None:
            yield Claim(passes, end.text(1), ("far",))
        else:
            target, published = known
            yield Claim(passes, end.text(1), ("far",), f"≥ {target:g}", end.mean >= target)
            yield Claim(f"Reptile as published, {name}, 113,733 parameters in float32", published, ())
    ram = far.results[0]["ram"]
    what = f"RAM for training its {far.results[0]['parameters']:,} parameters, bytes"
    yield Claim(what, f"{ram:,}", ("far",), f"≤ {BOARD_RAM:,}", ram <= BOARD_RAM)


def _accuracy(outcomes: Mapping[str, Outcome]) -> Iterator[Claim]:
    # what, one, another, points of accuracy it may be behind, times the other's loss it may have; None: only told
    comparisons: list[tuple[str, str, float | None, float | None]] = [
        ("tinyreptile", "reptile", 1.5, 1.2),
        ("delta-16", "float32", 0.5, 1.2),
        ("int8", "float32", 2.5, None),
        ("delta-4", "delta-16", 1.0, 1.25),
        ("delta-4-top-10", "delta-16", None, None),
        ("tinyreptile", "fedavg", 0.0, 1.0),
        ("tinyreptile", "fedsgd", 0.0, 1.0),
        ("tinyreptile", "transfer", 0.0, 1.0),
        ("tinyreptile", "scratch", 0.0, 1.0),
        ("tinyreptile", "tinymetafed", None, None),
    ]
    for one, other, points, ratio in comparisons:
        if one not in outcomes or other not in outcomes:
            continue
        a, b = outcomes[one], outcomes[other]
        titles = f"{_name(a)} against {_name(b)}, after adaptation"
        if a.metric == "accuracy":
            if not a.seeds & b.seeds:
                continue
            difference = _difference(a, b)
            yield Claim(
                f"{titles}: accuracy, difference in points",
                f"{'+' if difference.mean >= 0 else ''}{difference.text(1)}",
                (one, other),
                "" if points is None else f"≥ {0 - points:g}",
                None if points is None else difference.mean >= -points,
            )
        else:
            value = a.after.mean / b.after.mean
            yield Claim(
                f"{titles}: ratio of the losses",
                f"{value:.2f}",
                (one, other),
                "" if ratio is None else f"≤ {ratio}",
                None if ratio is None else value <= ratio,
            )


def _difference(one: Outcome, other: Outcome) -> Estimate:
    """One's score after adaptation minus the other's, seed by seed: what a seed gives to both cancels."""
    scores = [{r["settings"]["seed"]: shown(r["adaptation"][-1]) for r in o.results} for o in (one, other)]
    return estimate([scores[0][seed] - scores[1][seed] for seed in one.seeds & other.seeds])


def _cost(outcomes: Mapping[str, Outcome]) -> Iterator[Claim]:
    if "tinyreptile" not in outcomes or "reptile" not in outcomes:
        return
    both = "tinyreptile", "reptile"
    ours, theirs = (outcomes[name] for name in both)
    usual = ours.results[0]["ram"] / _usual_ram(theirs)
    for what, value in (
        ("bytes of RAM for training", ours.results[0]["ram"] / theirs.results[0]["ram"]),
        ("multiply-accumulates of an update", ours.work_cost() / theirs.work_cost()),
        ("measured processor time of an update", ours.work_seconds() / theirs.work_seconds()),
    ):
        yield Claim(f"TinyReptile / Reptile: {what}", f"{value:.2f}", both, "≤ 0.5", value <= 0.5)
    what = "the same bytes against Reptile in float32, a batch's activations at once, as frameworks have it"
    yield Claim(what, f"{usual:.2f}", both, "≤ 0.5", usual <= 0.5)


def _usual_ram(reptile: Outcome) -> int:
    """Bytes that Reptile takes in float32: initialization, weights and gradient; a batch's activations; all samples."""
    settings = reptile.results[0]["settings"]
    model = Model(settings["model"])
    samples = settings["learning"]["steps"] * (model.inputs + model.target_cells())
    return int(4 * (3 * model.parameters + settings["learning"]["batch"] * model.activations + samples))


def _clock(outcomes: Mapping[str, Outcome]) -> Iterator[Claim]:
    if "tinyreptile" not in outcomes:
        return
    serial = outcomes["tinyreptile"]
    end = serial.over_seeds(lambda result: result["adaptation"][-1]["loss"]).mean
    if "asynchronous" in outcomes:
        both = "tinyreptile", "asynchronous"
        many = outcomes["asynchronous"]
        loss = many.over_seeds(lambda result: result["adaptation"][-1]["loss"]).mean
        times = many.count("updates") / max(1.0, serial.count("updates"))
        yield Claim(
            f"{many.title}, {times:.1f} times the updates: loss / serial loss",
            f"{loss / end:.2f}",
            both,
            f"≤ {NEAR}",
            loss / end <= NEAR,
        )
        faster = serial.count("seconds") / many.count("seconds")
        yield Claim("simulated time of the whole run, serial / asynchronous", f"{faster:.0f}", both)
    level = NEAR * serial.curve("seconds", lambda point: point["after"]["loss"])[1][-1].mean
    for name in ("tinyreptile", "asynchronous", "synchronous"):
        if name in outcomes:
            seconds = seconds_to(outcomes[name], level)
            last = outcomes[name].count("seconds")
            yield Claim(
                f"{outcomes[name].title}: simulated seconds to {NEAR} times the serial loss ({level:.3f})",
                f"{seconds:,.0f}" if seconds is not None else f"not in {last:,.0f}",
                tuple(dict.fromkeys(("tinyreptile", name))),
            )


def _name(outcome: Outcome) -> str:
    title = outcome.title
    return "int16, 16-bit deltas" if outcome.name == "delta-16" else title
