"""Evaluations: what a device may report, and the summary of a round."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.evaluation import EvaluationRound, check_evaluation, worse
from simulator.offline import run_now
from tinyreptile.evaluation import COUNTED_CLASSES, evaluate
from tinyreptile.learner import Learner
from tinyreptile.messages import MessageError
from tinyreptile.model import Model
from tinyreptile.streams import Stream


class Labels(Stream):
    """One label after the other."""

    inputs = 2
    outputs = COUNTED_CLASSES + 1

    def __init__(self) -> None:
        self._label = 0

    async def sample(self, x: Any, y: Any) -> None:
        x[0], x[1] = 100, -100
        y[0] = self._label = (self._label + 1) % self.outputs


def regression(**changes: Any) -> dict[str, Any]:
    return {"version": 7, "before": 2.0, "after": 0.5, "queries": 50} | changes


def classes(seen: list[int], before: list[int], after: list[int]) -> dict[str, Any]:
    return regression(queries=sum(seen), seen=seen, hits_before=before, hits_after=after)


def summary(*results: dict[str, Any]) -> dict[str, Any]:
    count = len(results[0].get("seen", []))
    return EvaluationRound(500, 7, results=[check_evaluation(result, count) for result in results]).summary()


def test_an_evaluation_of_a_regression_needs_no_counts() -> None:
    assert check_evaluation(regression(), 0)["before"] == 2.0


def test_an_evaluation_with_classes_is_taken() -> None:
    checked = check_evaluation(classes([3, 0, 5], [1, 0, 0], [3, 0, 5]), 3)
    assert checked["hits_after"] == [3, 0, 5]


@pytest.mark.parametrize("name", ["version", "before", "after", "queries"])
def test_an_evaluation_without_a_required_field_is_refused(name: str) -> None:
    message = regression()
    del message[name]
    with pytest.raises(MessageError, match=f"{name} is missing"):
        check_evaluation(message, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, "0.5", None])
@pytest.mark.parametrize("name", ["before", "after"])
def test_a_loss_that_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(MessageError, match=name):
        check_evaluation(regression(**{name: value}), 0)


@pytest.mark.parametrize("message", [None, 7, [], "text"])
def test_what_is_no_map_is_refused(message: Any) -> None:
    with pytest.raises(MessageError, match="a message is a map"):
        check_evaluation(message, 0)


@pytest.mark.parametrize("name", ["hits_before", "hits_after"])
def test_more_hits_than_samples_of_a_class_are_refused(name: str) -> None:
    message = classes([3, 5], [3, 5], [3, 5])
    message[name] = [4, 4]  # fewer in all, too many of the first
    with pytest.raises(MessageError, match=f"{name} counts more samples of a class than were seen"):
        check_evaluation(message, 2)


@pytest.mark.parametrize("name", ["seen", "hits_before", "hits_after"])
def test_counts_of_another_number_of_classes_are_refused(name: str) -> None:
    message = classes([3, 5], [0, 0], [0, 0])
    message[name] = [0, 0, 0]
    with pytest.raises(MessageError, match=f"{name} has 3 counts, the model 2 classes"):
        check_evaluation(message, 2)


@pytest.mark.parametrize("name", ["seen", "hits_before", "hits_after"])
def test_a_classifier_without_counts_is_refused(name: str) -> None:
    message = classes([3, 5], [0, 0], [0, 0])
    del message[name]
    with pytest.raises(MessageError, match=f"{name} has 0 counts, the model 2 classes"):
        check_evaluation(message, 2)


def test_counts_for_a_regression_are_refused() -> None:
    with pytest.raises(MessageError, match="seen has 2 counts, the model 0 classes"):
        check_evaluation(classes([3, 5], [0, 0], [0, 0]), 0)


@pytest.mark.parametrize("count", [-1, 1.0, True, "1", None, 1_000_001])
def test_counts_that_are_no_counts_are_refused(count: Any) -> None:
    with pytest.raises(MessageError, match="integers between 0 and 1000000"):
        check_evaluation(regression(seen=[5, count], hits_before=[0, 0], hits_after=[0, 0]), 2)


def test_of_losses_there_are_means_and_medians_over_the_devices() -> None:
    losses = [(2.0, 0.5), (4.0, 1.0), (9.0, 9.0)]
    result = summary(*(regression(before=before, after=after) for before, after in losses))
    means = {"before": 5.0, "after": 3.5}
    medians = {"median_before": 4.0, "median_after": 1.0}
    assert result == {"updates": 500, "version": 7, "devices": 3, **means, **medians}


def test_balanced_accuracy_is_the_mean_share_of_each_class_over_all_devices() -> None:
    result = summary(
        classes([8, 2, 0], [4, 0, 0], [8, 1, 0]),
        classes([2, 2, 4], [0, 1, 4], [2, 2, 1]),
    )
    # Class by class before: 4 / 10, 1 / 4, 4 / 4; after: 10 / 10, 3 / 4, 1 / 4.
    assert result["balanced_accuracy_before"] == pytest.approx((0.4 + 0.25 + 1.0) / 3)
    assert result["balanced_accuracy_after"] == pytest.approx((1.0 + 0.75 + 0.25) / 3)


def test_a_majority_class_alone_is_no_good_accuracy() -> None:
    result = summary(classes([98, 2], [98, 0], [96, 2]))
    assert result["balanced_accuracy_before"] == 0.5
    assert result["balanced_accuracy_after"] == pytest.approx((96 / 98 + 1) / 2)


@pytest.mark.usefixtures("compiled")
def test_of_more_classes_than_a_message_holds_losses_alone_are_reported() -> None:
    learner = Learner(Model([["input", 2], ["dense", COUNTED_CLASSES + 1], ["cross_entropy"]]))
    report = run_now(evaluate(learner, Labels(), 3, 2, 5)) | {"version": 7}
    checked = check_evaluation(report, COUNTED_CLASSES + 1)
    assert checked["queries"] == 5
    summed = EvaluationRound(500, 7, results=[checked]).summary()
    assert "balanced_accuracy_after" not in summed
    assert summed["before"] > 0


def test_classes_never_seen_are_left_out() -> None:
    result = summary(classes([4, 0, 0], [1, 0, 0], [3, 0, 0]))
    assert (result["balanced_accuracy_before"], result["balanced_accuracy_after"]) == (0.25, 0.75)


def test_without_any_sample_seen_there_is_no_accuracy() -> None:
    result = summary(regression(seen=[0, 0], hits_before=[0, 0], hits_after=[0, 0]))
    assert "balanced_accuracy_after" not in result


@pytest.mark.parametrize(
    ("now", "then", "times"),
    [
        ({"a": 2.0}, {}, 0),
        ({"a": 2.0}, {"b": 1.0}, 0),
        ({"a": 2.0}, {"a": 1.0}, 2),
        ({"a": 2.0, "b": 9.0, "c": 4.0}, {"a": 1.0, "b": 3.0, "c": 4.0, "d": 1.0}, 2),
        ({"a": 2.0, "b": 2.0}, {"a": 1.0}, 0),  # half of the devices
        ({"a": 2.0, "b": 2.0, "c": 2.0}, {"a": 1.0, "b": 1.0}, 2),
        ({"a": 0.0}, {"a": 0.0}, 1),
        ({"a": 1.0}, {"a": 0.0}, 1e9),
        ({"a": 0.0}, {"a": 1.0}, 1e-9),
    ],
)
def test_each_device_is_compared_with_itself(now: dict[str, float], then: dict[str, float], times: float) -> None:
    assert worse(now, then) == pytest.approx(times)
