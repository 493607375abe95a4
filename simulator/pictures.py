"""The pictures: what a newcomer should see at a glance, drawn with matplotlib into a PNG file."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyreptile import evaluation
from tinyreptile.learner import ONE, Learner, fixed
from tinyreptile.streams import SUPPORT, call
from tinyreptile.streams.sine import SineStream

from .demo import evaluation_device
from .offline import run_now, take

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .demo import DemoResult

BEFORE, AFTER, TRUTH, MUTED = "#d95f02", "#1b6ca8", "#222222", "#9a9a9a"
_GRID = np.linspace(-5, 5, 201)


def draw(result: DemoResult, path: Path) -> None:
    """Draw ``result`` into ``path``: unseen sines, or balanced accuracy where there are labels; a learning curve."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sine = result.task.name == "sine"
    figure = plt.figure(figsize=(13, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 4, height_ratios=(1, 1.05))
    if sine:
        for column in range(4):
            _sine(figure.add_subplot(grid[0, column]), result, column)
        left, right = grid[1, :2], grid[1, 2:]
    else:
        left, right = grid[0, :], grid[1, :]
        _accuracy(figure.add_subplot(left), result)
    _curve(figure.add_subplot(right), result)
    if sine:
        _bars(figure.add_subplot(left), result)
    updates, devices = result.status["updates"], result.took_part
    figure.suptitle(
        f"{updates:,} updates from {devices} devices that never shared their data: "
        "the learned start adapts in a few samples",
        fontsize=14,
        fontweight="bold",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _learner(result: DemoResult) -> Learner:
    device = evaluation_device(result.config)
    device.load(result.weights, 0)
    learner: Learner = device.learner
    return learner


def _predictions(learner: Learner) -> list[float]:
    return [learner.predict(array("h", [fixed(float(x))]))[0] / ONE for x in _GRID]


def _sine(axes: Axes, result: DemoResult, index: int) -> None:
    """One unseen device: the truth, its few samples, the model before and after them."""
    settings = result.config.evaluation
    stream = result.task.unseen_stream(index, result.config.run.seed)
    if not isinstance(stream, SineStream):
        raise TypeError("only a sine can be drawn beside its truth")
    learner = _learner(result)
    points = []
    call(stream, lambda: stream.begin(SUPPORT))
    for _ in range(settings.shots):
        take(stream, learner.x, learner.y)
        points.append((learner.x[0] / ONE, learner.y[0] / ONE))
    before = _predictions(learner)
    run_now(evaluation.adapt(learner, stream, settings.steps, settings.shots))
    axes.plot(_GRID, before, "--", color=BEFORE, label="before")
    axes.plot(_GRID, stream.amplitude * np.sin(_GRID + stream.phase), color=TRUTH, lw=1.2, label="truth")
    axes.plot(_GRID, _predictions(learner), color=AFTER, lw=2.4, label=f"after {settings.shots} samples")
    axes.plot(*zip(*points, strict=True), "o", color=AFTER, ms=5)
    axes.set(title=f"unseen device {index + 1}", xlim=(-5, 5), ylim=(-5.6, 5.6), xlabel="x")
    axes.grid(alpha=0.25)
    if index == 0:
        axes.legend(loc="lower left", fontsize=9, framealpha=0.9)
        axes.set_ylabel("y")


def _bars(axes: Axes, result: DemoResult) -> None:
    """Loss on the unseen devices: a random start against the learned one, with the same samples."""
    names = ["random start,\nbefore", "random start,\nafter", "learned start,\nbefore", "learned start,\nafter"]
    values = [result.start["before"], result.start["after"], result.learned["before"], result.learned["after"]]
    bars = axes.bar(names, values, color=[MUTED, MUTED, BEFORE, AFTER], width=0.65)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontweight="bold")
    settings = result.config.evaluation
    axes.set(
        title=f"{result.evaluators} unseen devices, {settings.shots} samples each, {settings.steps} steps",
        ylabel="mean squared error",
        ylim=(0, max(values) * 1.15),
    )
    axes.spines[["top", "right"]].set_visible(False)


def _accuracy(axes: Axes, result: DemoResult) -> None:
    """Balanced accuracy on the unseen devices: random start, learned start, before and after."""
    names = ["random start,\nbefore", "random start,\nafter", "learned start,\nbefore", "learned start,\nafter"]
    values = [
        100 * summary[f"balanced_accuracy_{moment}"]
        for summary in (result.start, result.learned)
        for moment in ("before", "after")
    ]
    bars = axes.barh(names[::-1], values[::-1], color=[AFTER, BEFORE, MUTED, MUTED], height=0.62)
    axes.bar_label(bars, fmt="%.1f %%", padding=4, fontweight="bold")
    axes.axvline(50, color=TRUTH, lw=1, ls=":")
    settings = result.config.evaluation
    axes.set(
        title=f"Is anybody there? {result.evaluators} unseen devices, {settings.shots} labelled samples each",
        xlabel="balanced accuracy in percent; the dotted line is chance",
        xlim=(0, 108),
    )
    axes.spines[["top", "right"]].set_visible(False)


def _curve(axes: Axes, result: DemoResult) -> None:
    """The unseen devices' loss during the run."""
    history: list[dict[str, Any]] = result.history
    updates = [0] + [h["updates"] for h in history]
    axes.plot(updates, [result.start["before"]] + [h["before"] for h in history], "--", color=BEFORE, label="before")
    axes.plot(
        updates, [result.start["after"]] + [h["after"] for h in history], color=AFTER, lw=2.4, label="after adaptation"
    )
    axes.set(title="learning curve, unseen devices", xlabel="accepted updates", ylabel="loss", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
