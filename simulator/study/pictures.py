"""The study's pictures, PNG and SVG: the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .experiments import ALGORITHMS, CLOCK, SWEEP
from .statistics import Estimate
from .summary import Outcome, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: colours that colour-blind people tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

FEWEST_FOR_A_BAND = 3  # with two values, Student's t is 13 standard errors: the bands would hide all lines


Styles = Mapping[str, tuple[str, str]]  # colour and marker of a variant, by its name


def draw(outcomes: Sequence[Outcome], folder: Path) -> list[str]:
    """Draw the pictures of one task into ``folder``; returns their names, without endings."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    task, metric = outcomes[0].task, _label(outcomes[0])
    algorithms = [o for o in outcomes if o.group in (ALGORITHMS, SWEEP)]
    sending = [o for o in outcomes if o.count("bytes_up")]
    # A joint model is trained elsewhere, and from scratch nothing is trained before the device's own adaptation.
    on_devices = [o for o in outcomes if o.name not in ("transfer", "scratch")]
    clock = [o for o in outcomes if o.group == CLOCK or o.name == "tinyreptile"]
    # A variant looks the same in all pictures.
    styles = {
        o.name: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, o in enumerate(outcomes)
    }
    pictures: list[tuple[str, Sequence[Outcome], Callable[[Axes, Sequence[Outcome], Styles], None], dict[str, Any]]] = [
        ("learning", algorithms, _learning, {"xlabel": "samples that the training devices have seen"}),
        ("adaptation", algorithms, _adaptation, {"xlabel": "one-sample steps on the unseen device"}),
        ("clock", clock, _clock, {"xlabel": "simulated seconds", "xscale": "log"}),
        ("bytes", sending, _bytes, {"xlabel": "bytes that the devices have sent", "xscale": "log"}),
        ("ram", on_devices, _ram, {"xlabel": "bytes of RAM for training on a device", "xscale": "log"}),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    style: dict[Any, Any] = {
        "svg.hashsalt": "tinyreptile",
        "svg.fonttype": "path",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    for name, shown_here, picture, axes_settings in pictures:
        if not shown_here:
            continue
        with mpl.rc_context(style):
            figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
            picture(axes, shown_here, styles)
            axes.set(ylabel=metric, title=f"{task}: unseen devices", **axes_settings)
            _limit(axes, shown_here, lines=picture in (_learning, _adaptation, _clock))
            axes.grid(alpha=0.25)
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
            names.append(f"{task}-{name}")
            figure.savefig(folder / f"{task}-{name}.png", dpi=110, metadata={"Software": None})
            figure.savefig(folder / f"{task}-{name}.svg", metadata={"Date": None, "Creator": None})
            plt.close(figure)
    return names


def _label(outcome: Outcome) -> str:
    return "accuracy after adaptation, %" if outcome.metric == "accuracy" else "loss after adaptation"


def _limit(axes: Axes, outcomes: Sequence[Outcome], lines: bool) -> None:
    """Let the means decide what is seen, the end's and those of ``lines``: intervals of few seeds reach far beyond."""
    means = [outcome.after.mean for outcome in outcomes]
    if lines:
        means += [e.mean for o in outcomes for e in o.curve("round", lambda point: shown(point["after"]))[1]]
    if outcomes[0].metric == "accuracy":
        axes.set_ylim(max(0.0, min(means) - 5), 101)
    else:
        axes.set(yscale="log", ylim=(0.7 * min(means), 1.4 * max(means)))


def _band(axes: Axes, x: Sequence[float], y: Sequence[Estimate], outcome: Outcome, styles: Styles) -> None:
    """A line through the means, and a band of the 95 % intervals."""
    means = np.array([e.mean for e in y])
    colour, marker = styles[outcome.name]
    axes.plot(x, means, color=colour, marker=marker, ms=4, lw=1.8, label=outcome.title)
    if len(outcome.results) >= FEWEST_FOR_A_BAND:
        halves = np.array([e.half for e in y])
        # A loss is drawn to a logarithmic scale, where an interval that reaches 0 has no lower end.
        axes.fill_between(x, np.maximum(means - halves, 1e-3 * means), means + halves, color=colour, alpha=0.15, lw=0)


def _learning(axes: Axes, outcomes: Sequence[Outcome], styles: Styles) -> None:
    end = max(outcome.count("samples") for outcome in outcomes)
    for outcome in outcomes:
        x, y = outcome.curve("samples", lambda point: shown(point["after"]))
        if x[-1] == 0:  # from scratch: nothing changes it
            x, y = [0.0, end], [y[0], y[0]]
        _band(axes, x, y, outcome, styles)


def _adaptation(axes: Axes, outcomes: Sequence[Outcome], styles: Styles) -> None:
    for outcome in outcomes:
        steps, y = zip(*outcome.points(), strict=True)
        _band(axes, steps, y, outcome, styles)


def _clock(axes: Axes, outcomes: Sequence[Outcome], styles: Styles) -> None:
    for outcome in outcomes:
        x, y = outcome.curve("seconds", lambda point: shown(point["after"]))
        _band(axes, x[1:], y[1:], outcome, styles)


def _bytes(axes: Axes, outcomes: Sequence[Outcome], styles: Styles) -> None:
    _points(axes, outcomes, lambda outcome: outcome.count("bytes_up"), styles)


def _ram(axes: Axes, outcomes: Sequence[Outcome], styles: Styles) -> None:
    _points(axes, outcomes, lambda outcome: outcome.results[0]["ram"], styles)


def _points(axes: Axes, outcomes: Sequence[Outcome], x: Callable[[Outcome], float], styles: Styles) -> None:
    for outcome in outcomes:
        colour, marker = styles[outcome.name]
        after = outcome.after
        axes.errorbar(
            [x(outcome)],
            [after.mean],
            yerr=np.nan_to_num([after.half]),
            fmt=marker,
            color=colour,
            ms=7,
            capsize=3,
            ls="none",
            label=outcome.title,
        )
