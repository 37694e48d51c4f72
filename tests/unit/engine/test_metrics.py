"""Metrics, held to scikit-learn, and what figures are drawn from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn import metrics as learn
from sklearn.calibration import calibration_curve
from torch import nn

from service.engine.evaluate import evaluate, larger_is_better, report, suited_metrics
from service.engine.metrics import CALIBRATION_BINS, calibration
from service.schemas.objectives import Objective

OBJECTIVE: TypeAdapter[Any] = TypeAdapter(Objective)


def measured(kind, outputs, targets, metrics=None, **members):
    objective = OBJECTIVE.validate_python({"type": kind})
    wanted = suited_metrics(objective) if metrics is None else metrics
    return evaluate(nn.Identity(), (outputs,), targets, objective, wanted, batch_size=64, **members)


def classes(count, rows=300, *, never: int | None = None, ties=False):
    """Logits that know a little of their classes."""
    generator = torch.Generator().manual_seed(count)
    targets = torch.randint(0, count, (rows,), generator=generator)
    if never is not None:
        targets[targets == never] = (never + 1) % count
    logits = torch.randn(rows, count, generator=generator) + 1.5 * nn.functional.one_hot(targets, count)
    return (logits.round() if ties else logits), targets


def expected_calibration_error(confidence, right):
    met, sure = calibration_curve(right, confidence, n_bins=CALIBRATION_BINS)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=CALIBRATION_BINS)
    counts = counts[counts > 0]
    return float((np.abs(met - sure) * counts).sum() / counts.sum())


@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_metrics_of_classes_are_those_of_scikit_learn(count, ties):
    logits, targets = classes(count, ties=ties)
    found = measured("cross_entropy", logits, targets)
    if ties:
        del found["top5_accuracy"]  # which of equals are among five is chance

    scores, truth = logits.softmax(1).numpy(), targets.numpy()  # in float32, where equal logits give equal scores
    predicted = scores.argmax(1)
    averages = {"average": "macro", "zero_division": 0}
    one_hot = np.eye(count)[truth]
    columns = slice(1, None) if count == 2 else slice(None)
    confidence = scores.max(1)
    expected = {
        "loss": learn.log_loss(truth, logits.double().softmax(1).numpy()),
        "accuracy": learn.accuracy_score(truth, predicted),
        "balanced_accuracy": learn.balanced_accuracy_score(truth, predicted),
        "precision": learn.precision_score(truth, predicted, **averages),
        "recall": learn.recall_score(truth, predicted, **averages),
        "f1": learn.f1_score(truth, predicted, **averages),
        "top5_accuracy": learn.top_k_accuracy_score(truth, scores, k=5) if count > 5 else 1.0,
        "roc_auc": learn.roc_auc_score(one_hot[:, columns], scores[:, columns], average="macro"),
        "average_precision": learn.average_precision_score(one_hot[:, columns], scores[:, columns]),
        "ece": expected_calibration_error(confidence, predicted == truth),
    }
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-5)
    assert len(found) == 10 - ties


def test_a_class_that_never_comes_counts_where_it_is_predicted():
    logits, targets = classes(4, never=2)
    found = measured("cross_entropy", logits, targets, ["precision", "recall", "f1", "balanced_accuracy", "roc_auc"])

    truth, predicted = targets.numpy(), logits.argmax(1).numpy()
    assert found["f1"] == pytest.approx(learn.f1_score(truth, predicted, average="macro", zero_division=0))
    assert found["precision"] == pytest.approx(learn.precision_score(truth, predicted, average="macro"))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found["balanced_accuracy"] == pytest.approx(learn.balanced_accuracy_score(truth, predicted))
    assert 0.5 < found["roc_auc"] <= 1  # of the classes that are there


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("kind", ["bce_with_logits", "bce", "multilabel_soft_margin"])
def test_metrics_of_labels_are_those_of_scikit_learn(kind, labels):
    generator = torch.Generator().manual_seed(labels)
    targets = (torch.rand(200, labels, generator=generator) < 0.3).float()
    logits = torch.randn(200, labels, generator=generator) + targets
    outputs = logits.sigmoid() if kind == "bce" else logits
    found = measured(kind, outputs, targets)

    scores, truth = logits.sigmoid().double().numpy(), targets.numpy() > 0.5
    predicted = scores > 0.5
    averages = {"average": "macro", "zero_division": 0}
    if labels == 1:
        truth, predicted, averages = truth[:, 0], predicted[:, 0], {}
    confidence = np.maximum(scores, 1 - scores).reshape(-1)
    each = [
        learn.balanced_accuracy_score(truth.reshape(200, -1)[:, i], predicted.reshape(200, -1)[:, i])
        for i in range(labels)
    ]
    del found["loss"]
    assert found == pytest.approx(
        {
            "accuracy": float((truth == predicted).mean()),
            "balanced_accuracy": float(np.mean(each)),
            "precision": learn.precision_score(truth, predicted, **averages),
            "recall": learn.recall_score(truth, predicted, **averages),
            "f1": learn.f1_score(truth, predicted, **averages),
            "roc_auc": learn.roc_auc_score(truth, scores if labels > 1 else scores[:, 0]),
            "average_precision": learn.average_precision_score(truth, scores if labels > 1 else scores[:, 0]),
            "ece": expected_calibration_error(confidence, (truth == predicted).reshape(-1)),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("width", [1, 3])
def test_metrics_of_numbers_are_those_of_scikit_learn(width):
    generator = torch.Generator().manual_seed(width)
    targets = torch.randn(150, width, generator=generator) + 3
    outputs = targets + 0.3 * torch.randn(150, width, generator=generator)
    found = measured("huber", outputs, targets, unscale=lambda values: values * 10 + 2)

    truth, answers = targets.double().numpy() * 10 + 2, outputs.double().numpy() * 10 + 2
    del found["loss"]
    assert found == pytest.approx(
        {
            "mae": learn.mean_absolute_error(truth, answers),
            "mse": learn.mean_squared_error(truth, answers),
            "rmse": learn.mean_squared_error(truth, answers) ** 0.5,
            "mape": learn.mean_absolute_percentage_error(truth, answers),
            "r2": learn.r2_score(truth, answers, multioutput="variance_weighted"),
        },
        rel=1e-5,
    )


def test_a_perfectly_sure_answer_is_in_the_last_bin():
    error, bins = calibration(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([True, False, False]))

    assert error == pytest.approx(1 / 3)
    assert [(one["low"], one["high"], one["rows"]) for one in bins] == [
        (0.0, pytest.approx(1 / 15), 1),
        (pytest.approx(14 / 15), 1.0, 2),
    ]


def test_only_losses_and_distances_are_better_when_smaller():
    assert {name for name in ("val_loss", "ece", "mae", "val_rmse", "mape") if larger_is_better(name)} == set()
    assert all(larger_is_better(name) for name in ("val_accuracy", "top5_accuracy", "f1", "val_roc_auc", "r2"))


# -- reports -----------------------------------------------------------------------------------------------------------


def drawn(kind, outputs, targets, **members):
    found = report(nn.Identity(), (outputs,), targets, OBJECTIVE.validate_python({"type": kind}), **members)
    json.dumps(found, allow_nan=False)
    return found


def test_a_report_of_classes_has_confusion_classes_curves_and_bins():
    logits, targets = classes(3)
    found = drawn("cross_entropy", logits, targets)

    predicted, scores = logits.argmax(1).numpy(), logits.softmax(1).numpy()
    assert found["confusion"] == learn.confusion_matrix(targets.numpy(), predicted).tolist()
    precision, recall, f1, rows = learn.precision_recall_fscore_support(targets.numpy(), predicted)
    expected = zip(precision, recall, f1, rows, strict=True)
    for i, (one, (p, r, f, n)) in enumerate(zip(found["per_class"], expected, strict=True)):
        assert one == pytest.approx({"class": i, "precision": p, "recall": r, "f1": f, "rows": int(n)})
    for i, curve in enumerate(found["roc"]):
        assert curve["auc"] == pytest.approx(learn.roc_auc_score(targets.numpy() == i, scores[:, i]))
        assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
        assert len(curve["fpr"]) <= 200
    assert sum(one["rows"] for one in found["calibration"]) == found["rows"] == 300


def test_a_report_of_two_classes_has_the_curve_of_the_second():
    logits, targets = classes(2)

    assert [curve["class"] for curve in drawn("cross_entropy", logits, targets)["roc"]] == [1]


def test_a_report_of_labels_tells_each_by_itself():
    targets = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    found = drawn("bce_with_logits", targets * 4 - 1, targets)

    assert [one["f1"] for one in found["per_class"]] == [1.0, 1.0]
    assert [curve["auc"] for curve in found["roc"]] == [1.0, 1.0]


def test_a_report_of_numbers_has_points_and_residuals_in_the_targets_units():
    targets = torch.arange(1000.0)[:, None]
    found = drawn("mse", targets + 0.5, targets, unscale=lambda values: values * 2)

    assert len(found["points"]["target"]) == 500
    assert found["points"]["target"][-1] == 1998
    assert found["points"]["answer"][0] == 1.0
    assert sum(found["residuals"]["counts"]) == 1000


def test_there_is_no_report_of_answers_that_are_not_finite():
    assert drawn("mse", torch.tensor([[float("nan")]]), torch.ones(1, 1)) is None
