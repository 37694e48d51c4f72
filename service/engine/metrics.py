"""Numbers and curves that say how good answers are, of scores and labels that lie in memory.

Definitions are scikit-learn's, to which tests hold them: averages over classes are macro, ranking is one against the
rest, ties share a threshold. Knows tensors, and neither nets nor objectives.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

CALIBRATION_BINS: Final = 15
_CURVE_POINTS: Final = 200
_MOST_CURVES: Final = 20
_MOST_CLASSES: Final = 1000
_SCATTER_POINTS: Final = 500


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """int64 [classes, classes]: how many rows of each class (first dimension) were taken for each class."""
    return torch.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def per_class(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 of each class, float64 [classes], of a confusion matrix; 0 where nothing is counted."""
    hits = matrix.diagonal().double()
    predicted, truth = matrix.sum(dim=0).double(), matrix.sum(dim=1).double()
    return _ratio(hits, predicted), _ratio(hits, truth), _ratio(2 * hits, predicted + truth)


def class_averages(matrix: Tensor) -> dict[str, float]:
    """Macro `precision`, `recall`, `f1` over the classes that occur among truth or predictions, and the
    `balanced_accuracy`: the mean recall of the classes that are there."""
    precision, recall, f1 = per_class(matrix)
    there = matrix.sum(dim=1) > 0
    seen = there | (matrix.sum(dim=0) > 0)
    return {
        "precision": _mean(precision[seen]),
        "recall": _mean(recall[seen]),
        "f1": _mean(f1[seen]),
        "balanced_accuracy": _mean(recall[there]),
    }


def label_averages(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """`precision`, `recall` and `f1` of ones, the mean over the labels; bool [rows, labels]."""
    hits = (predicted & truth).sum(dim=0).double()
    found, wanted = predicted.sum(dim=0).double(), truth.sum(dim=0).double()
    refused = (~predicted & ~truth).sum(dim=0).double()
    recall = _ratio(hits, wanted)
    return {
        "precision": _mean(_ratio(hits, found)),
        "recall": _mean(recall),
        "f1": _mean(_ratio(2 * hits, found + wanted)),
        "balanced_accuracy": _mean((recall + _ratio(refused, len(truth) - wanted)) / 2),
    }


def ranking(scores: Tensor, truth: Tensor) -> tuple[float, float]:
    """Area under the ROC curve and average precision, means over the columns that have both ones and zeros.

    Args:
        scores: [rows, columns], larger where a one is thought likelier.
        truth: bool [rows, columns].

    Returns:
        NaN where no column has both.
    """
    areas, precisions = [], []
    for column in range(scores.shape[1]):
        false, true = _counts(scores[:, column], truth[:, column])
        zeros, ones = float(false[-1]), float(true[-1])
        if not zeros or not ones:
            continue
        areas.append(float(torch.trapezoid(true / ones, false / zeros)))
        gains = true.diff() / ones
        precisions.append(float((gains * (true[1:] / (true[1:] + false[1:]))).sum()))
    return (sum(areas) / len(areas), sum(precisions) / len(precisions)) if areas else (math.nan, math.nan)


def calibration(confidence: Tensor, right: Tensor, bins: int = CALIBRATION_BINS) -> tuple[float, list[dict[str, Any]]]:
    """The expected calibration error (Guo et al. 2017), and the bins of a reliability diagram that have rows.

    Args:
        confidence: [rows], from 0 to 1, of the answer that was given.
        right: bool [rows], whether it was right.
        bins: of equal width.
    """
    confidence, right = confidence.double(), right.double()
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # (low, high]
    rows = torch.bincount(place, minlength=bins).double()
    sure = _ratio(torch.zeros(bins, dtype=torch.float64, device=rows.device).index_add(0, place, confidence), rows)
    met = _ratio(torch.zeros(bins, dtype=torch.float64, device=rows.device).index_add(0, place, right), rows)
    error = float(((sure - met).abs() * rows).sum() / rows.sum())
    table = zip(rows.tolist(), sure.tolist(), met.tolist(), strict=True)
    told = [
        {"low": i / bins, "high": (i + 1) / bins, "rows": int(count), "confidence": one, "accuracy": other}
        for i, (count, one, other) in enumerate(table)
        if count
    ]
    return error, told


def class_report(scores: Tensor, truth: Tensor) -> dict[str, Any]:
    """What figures of a classifier are drawn from: plain data.

    Args:
        scores: [rows, classes], from 0 to 1.
        truth: int64 [rows].
    """
    classes = scores.shape[1]
    predicted = scores.argmax(dim=1)
    confidence = scores.gather(1, predicted[:, None])[:, 0]
    error, bins = calibration(confidence, predicted == truth)
    found: dict[str, Any] = {"kind": "classes", "rows": len(truth), "ece": error, "calibration": bins}
    if classes <= _MOST_CLASSES:
        matrix = confusion(predicted, truth, classes)
        precision, recall, f1 = (part.tolist() for part in per_class(matrix))
        support = matrix.sum(dim=1).tolist()
        found["confusion"] = matrix.tolist()
        found["per_class"] = [
            {"class": i, "precision": precision[i], "recall": recall[i], "f1": f1[i], "rows": support[i]}
            for i in range(classes)
        ]
    chosen = [1] if classes == 2 else range(min(classes, _MOST_CURVES))
    found["roc"] = [curve for i in chosen if (curve := _roc(i, scores[:, i], truth == i)) is not None]
    return found


def label_report(scores: Tensor, truth: Tensor) -> dict[str, Any]:
    """As `class_report`, of scores and bool truth [rows, labels] where each label is told by itself."""
    predicted = scores > 0.5
    confidence = torch.where(predicted, scores, 1 - scores)
    error, bins = calibration(confidence.reshape(-1), (predicted == truth).reshape(-1))
    labels = scores.shape[1]
    tables = [confusion(predicted[:, i].long(), truth[:, i].long(), 2) for i in range(min(labels, _MOST_CLASSES))]
    found: dict[str, Any] = {"kind": "labels", "rows": len(truth), "ece": error, "calibration": bins}
    if labels == 1:
        found["confusion"] = tables[0].tolist()
    rows = []
    for i, table in enumerate(tables):
        precision, recall, f1 = (float(part[1]) for part in per_class(table))
        rows.append({"class": i, "precision": precision, "recall": recall, "f1": f1, "rows": int(table[1].sum())})
    found["per_class"] = rows
    columns = range(min(labels, _MOST_CURVES))
    found["roc"] = [curve for i in columns if (curve := _roc(i, scores[:, i], truth[:, i])) is not None]
    return found


def number_report(answers: Tensor, truth: Tensor) -> dict[str, Any]:
    """As `class_report`, of numbers: answers beside targets of evenly chosen rows, and a histogram of what is between.

    Args:
        answers: [rows, …], in the target's units.
        truth: the same.
    """
    first, second = answers.double().reshape(len(truth), -1), truth.double().reshape(len(truth), -1)
    residuals = (first - second).reshape(-1).cpu()
    finite = residuals[residuals.isfinite()]
    histogram: dict[str, Any] = {"edges": [], "counts": []}
    if len(finite):
        counts, edges = torch.histogram(finite, bins=30)
        histogram = {"edges": edges.tolist(), "counts": [int(count) for count in counts.tolist()]}
    chosen = torch.linspace(0, len(truth) - 1, min(len(truth), _SCATTER_POINTS)).round().long()
    return {
        "kind": "numbers",
        "rows": len(truth),
        "residuals": histogram,
        "points": {"target": second[chosen, 0].tolist(), "answer": first[chosen, 0].tolist()},
    }


def _roc(label: int, scores: Tensor, truth: Tensor) -> dict[str, Any] | None:
    """Points of a ROC curve, thinned, with its area; None without both ones and zeros."""
    false, true = _counts(scores, truth)
    zeros, ones = float(false[-1]), float(true[-1])
    if not zeros or not ones:
        return None
    x, y = false / zeros, true / ones
    keep = torch.linspace(0, len(x) - 1, min(len(x), _CURVE_POINTS)).round().long()
    return {"class": label, "auc": float(torch.trapezoid(y, x)), "fpr": x[keep].tolist(), "tpr": y[keep].tolist()}


def _counts(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """False and true positives, float64, at each threshold from the highest down, beginning with none."""
    ordered, order = scores.sort(descending=True, stable=True)
    true = truth[order].double().cumsum(dim=0)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]  # equal scores share a threshold
    places = last.nonzero()[:, 0]
    nothing = true.new_zeros(1)
    true = torch.cat([nothing, true[places]])
    return torch.cat([nothing, (places + 1).double()]) - true, true


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp(min=1e-300), torch.zeros_like(above))


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan
