"""The metrics of a module on rows that lie in memory, and what figures of its answers are drawn from.

Knows no dataset and no job: it is given tensors and a document of the objective.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.engine import metrics as measures
from service.engine.objectives import answers, loss_function, scores, shares
from service.schemas.objectives import AnyObjective, SoftMargin, answers_classes
from service.schemas.training import MetricName

logger = logging.getLogger(__name__)

EVALUATION_BATCH: Final = 4096
"""Rows that go through the net at a time when nothing else was asked for."""

_NUMBERS: Final[tuple[MetricName, ...]] = ("loss", "mae", "mse", "rmse", "mape", "r2")
_LABELS: Final[tuple[MetricName, ...]] = (
    "loss",
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "average_precision",
    "ece",
)
_CLASSES: Final[tuple[MetricName, ...]] = (*_LABELS, "top5_accuracy")
_FROM_SCORES: Final = frozenset(_CLASSES) - {"loss", "accuracy"}
_SMALLER_IS_BETTER: Final = ("loss", "mae", "mse", "rmse", "mape", "ece")


def suited_metrics(objective: AnyObjective) -> tuple[MetricName, ...]:
    """The metrics that mean something for nets of this objective."""
    match objective.targets:
        case "numbers":
            return _NUMBERS
        case "classes":
            return _CLASSES
        case "binary":
            return _LABELS
        case _:
            return ("loss", "accuracy") if isinstance(objective, SoftMargin) else ("loss",)


def default_metrics(objective: AnyObjective) -> tuple[MetricName, ...]:
    """What is measured if nothing is asked for: loss and accuracy for classes, else loss, mae and r2 for numbers."""
    suited = suited_metrics(objective)
    if "mae" in suited:
        return ("loss", "mae", "r2")
    return ("loss", "accuracy") if "accuracy" in suited else ("loss",)


def larger_is_better(metric: str) -> bool:
    """Whether an improvement of this metric is upwards; `metric` may have a prefix such as val_."""
    return metric.rpartition("_")[2] not in _SMALLER_IS_BETTER


def evaluate(
    module: nn.Module,
    inputs: Sequence[Tensor],
    targets: Tensor,
    objective: AnyObjective,
    metrics: Iterable[str] | None = None,
    *,
    batch_size: int | None = None,
    prefix: str = "",
    unscale: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Metrics of `module` in evaluation mode; modes are restored, no random number is drawn.

    Args:
        module: on any device, to which each batch is brought.
        inputs: one tensor [N, …] for each input of the net.
        targets: [N, …] as the objective takes them.
        objective: for the loss and what accuracy means; fitted, where it has something to fit.
        metrics: among `suited_metrics`; None is `default_metrics`.
        batch_size: rows at a time.
        prefix: of the names in the answer, such as "val_".
        unscale: brings answers and targets to the target's own units, for metrics of numbers.

    Returns:
        Finite numbers by name. `loss` is the mean over rows (where classes have weights, by these), or the total with
        reduction "sum". What is not finite, or not defined (r2 of targets that are all equal), is left out and logged.
    """
    wanted: tuple[str, ...] = tuple(metrics) if metrics is not None else default_metrics(objective)
    loss_of = loss_function(objective)
    rows = len(targets)
    size = batch_size or EVALUATION_BATCH
    scale = unscale or _as_they_are
    device = _device_of(module, targets)
    center = scale(targets).double().mean(dim=0).to(device) if "r2" in wanted else None
    distances = center is not None or not {"mae", "mse", "rmse", "mape"}.isdisjoint(wanted)
    ranked = not _FROM_SCORES.isdisjoint(wanted)
    # sums over rows, on the device and in float64
    loss = correct = absolute = squared = spread = relative = torch.zeros((), dtype=torch.float64, device=device)
    parts: Tensor | float = 0.0
    kept: list[Tensor] = []
    with evaluating(module):
        for start in range(0, rows, size):
            expected = targets[start : start + size].to(device)
            outputs = module(*(part[start : start + size].to(device) for part in inputs))
            if "loss" in wanted:
                value = loss_of(outputs, expected).double()
                share = shares(objective, expected)
                parts = parts + share
                loss = loss + (value if objective.reduction == "sum" else value * share)
            if "accuracy" in wanted:
                correct = correct + _right(outputs, expected, objective).sum()
            if ranked:
                kept.append(scores(objective, outputs))
            if distances:
                answer, truth = scale(answers(objective, outputs)).double(), scale(expected).double()
                absolute = absolute + (answer - truth).abs().sum()
                squared = squared + (answer - truth).square().sum()
                if "mape" in wanted:
                    relative = relative + ((answer - truth) / truth).abs().sum()
                if center is not None:
                    spread = spread + (truth - center).square().sum()
    numbers = targets.numel()
    mean_square = float(squared) / numbers
    found = {
        "loss": float(loss) if objective.reduction == "sum" else float(loss) / float(parts) if parts else math.nan,
        "accuracy": float(correct) / (_told_apart(targets, objective) if "accuracy" in wanted else numbers),
        "mae": float(absolute) / numbers,
        "mse": mean_square,
        "rmse": math.sqrt(mean_square),
        "mape": float(relative) / numbers,
        "r2": 1 - float(squared) / float(spread) if float(spread) > 0 else math.nan,
    }
    if ranked:
        found |= _from_scores(torch.cat(kept), targets.to(device), objective, wanted)
    finite = {prefix + name: found[name] for name in wanted if math.isfinite(found[name])}
    for name in wanted:
        if prefix + name not in finite:
            logger.warning(
                "The metric is not finite and is left out.", extra={"action": "metric", "metric": prefix + name}
            )
    return finite


def report(
    module: nn.Module,
    inputs: Sequence[Tensor],
    targets: Tensor,
    objective: AnyObjective,
    *,
    batch_size: int | None = None,
    unscale: Callable[[Tensor], Tensor] | None = None,
    most_rows: int | None = None,
) -> dict[str, Any] | None:
    """What figures of the module's answers are drawn from: plain data, with finite numbers alone.

    Args:
        module, inputs, targets, objective, batch_size, unscale: as for `evaluate`.
        most_rows: of more rows than these, so many are looked at, evenly chosen.

    Returns:
        Of classifiers `confusion` (rows by truth), `per_class`, points of `roc` curves and bins of `calibration`, told
        by the index of the class or label; of numbers `points` (target and answer) and a histogram of `residuals`.
        None for an objective whose answers are neither, for answers that are not finite, and without rows that count.
    """
    size = batch_size or EVALUATION_BATCH
    rows: list[slice] | list[Tensor] = [slice(start, start + size) for start in range(0, len(targets), size)]
    if most_rows is not None and len(targets) > most_rows:
        chosen = torch.linspace(0, len(targets) - 1, most_rows, dtype=torch.float64).round().long()
        rows = list(torch.split(chosen, size))
        targets = torch.cat([targets[some] for some in rows])
    with evaluating(module):
        device = _device_of(module, targets)
        outputs = torch.cat([module(*(part[some].to(device) for part in inputs)) for some in rows])
        if not bool(outputs.isfinite().all()):
            return None
        if answers_classes(objective):
            sure = scores(objective, outputs).cpu()
            if objective.targets == "classes":
                counted = _counted(targets, objective).cpu()
                if not bool(counted.any()):
                    return None
                return measures.class_report(sure[counted], targets.cpu()[counted])
            return measures.label_report(_by_label(sure), _by_label(targets.cpu()) > 0.5)
        if objective.targets == "numbers":
            scale = unscale or _as_they_are
            return measures.number_report(scale(answers(objective, outputs)).cpu(), scale(targets).cpu())
    return None


def _device_of(module: nn.Module, targets: Tensor) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), targets.device)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, each layer back in its own mode at the end."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for child, training in modes:
            child.training = training


def _from_scores(sure: Tensor, targets: Tensor, objective: AnyObjective, wanted: Sequence[str]) -> dict[str, float]:
    """Metrics that need all rows at once; `sure` are scores [rows, classes] or in the shape of the targets."""
    found: dict[str, float] = {}
    if objective.targets == "classes":
        counted = _counted(targets, objective)
        sure, truth = sure[counted], targets[counted]
        classes = sure.shape[1]
        predicted = sure.argmax(dim=1)
        found |= measures.class_averages(measures.confusion(predicted, truth, classes))
        best = sure.topk(min(5, classes), dim=1).indices
        found["top5_accuracy"] = float((best == truth[:, None]).any(dim=1).double().mean())
        confidence, right = sure.gather(1, predicted[:, None])[:, 0], predicted == truth
        one_hot = torch.nn.functional.one_hot(truth, classes).bool()
        columns = (sure[:, 1:], one_hot[:, 1:]) if classes == 2 else (sure, one_hot)
    else:
        sure, labels = _by_label(sure), _by_label(targets) > 0.5
        found |= measures.label_averages(sure > 0.5, labels)
        confidence = torch.where(sure > 0.5, sure, 1 - sure).reshape(-1)
        right = ((sure > 0.5) == labels).reshape(-1)
        columns = (sure, labels)
    if "roc_auc" in wanted or "average_precision" in wanted:
        found["roc_auc"], found["average_precision"] = measures.ranking(*columns)
    if "ece" in wanted:
        found["ece"], _ = measures.calibration(confidence, right)
    return found


def _told_apart(targets: Tensor, objective: AnyObjective) -> float:
    """How many answers can be right."""
    if getattr(objective, "ignore_index", -1) < 0:
        return targets.numel()
    return float(_counted(targets, objective).sum()) or math.nan


def _counted(targets: Tensor, objective: AnyObjective) -> Tensor:
    return targets != getattr(objective, "ignore_index", -100)


def _by_label(values: Tensor) -> Tensor:
    """[rows, labels]"""
    return values.reshape(-1, values.shape[1]) if values.dim() == 2 else values.reshape(-1, 1)


def _right(outputs: Tensor, targets: Tensor, objective: AnyObjective) -> Tensor:
    """Which answers are right: the largest logit [N, classes], or a score above one half in the targets' shape."""
    if objective.targets == "classes":
        return (outputs.argmax(dim=1) == targets) & _counted(targets, objective)
    if isinstance(objective, SoftMargin):
        return (outputs > 0) == (targets > 0)
    threshold = 0.5 if objective.type == "bce" else 0  # of probabilities, or logits
    return (outputs > threshold) == (targets > 0.5)


def _as_they_are(values: Tensor) -> Tensor:
    return values
