"""Objectives as functions, and the metrics of a module on rows that lie in memory.

Knows no dataset and no job: it is given tensors and a document of the objective.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.schemas.training import L1, BceWithLogits, CrossEntropy, MetricName, Mse, Objective, SmoothL1

logger = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]
EVALUATION_BATCH: Final = 4096
"""Rows that go through the net at a time when nothing else was asked for."""


def loss_function(objective: Objective) -> Loss:
    """The objective as a function of (outputs, targets), the same functions that torch's loss modules call."""
    reduction = objective.reduction
    match objective:
        case Mse():
            return lambda outputs, targets: functional.mse_loss(outputs, targets, reduction=reduction)
        case L1():
            return lambda outputs, targets: functional.l1_loss(outputs, targets, reduction=reduction)
        case SmoothL1(beta=beta):
            return lambda outputs, targets: functional.smooth_l1_loss(outputs, targets, reduction=reduction, beta=beta)
        case CrossEntropy(label_smoothing=smoothing):
            return lambda outputs, targets: functional.cross_entropy(
                outputs, targets, reduction=reduction, label_smoothing=smoothing
            )
        case BceWithLogits():
            return lambda outputs, targets: functional.binary_cross_entropy_with_logits(
                outputs, targets, reduction=reduction
            )
        case _:
            assert_never(objective)


def default_metrics(objective: Objective) -> tuple[MetricName, ...]:
    """What suits the objective: loss and accuracy for classes, else loss, mae and r2."""
    if isinstance(objective, (CrossEntropy, BceWithLogits)):
        return ("loss", "accuracy")
    return ("loss", "mae", "r2")


def larger_is_better(metric: str) -> bool:
    """Whether an improvement of this metric is upwards; `metric` may have a prefix such as val_."""
    return metric.endswith(("accuracy", "r2"))


def evaluate(
    module: nn.Module,
    inputs: Sequence[Tensor],
    targets: Tensor,
    objective: Objective,
    metrics: Iterable[str] | None = None,
    *,
    batch_size: int | None = None,
    prefix: str = "",
    unscale: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Metrics of `module` in evaluation mode; modes are restored, no random number is drawn.

    Args:
        module: on the device of the tensors.
        inputs: one tensor [N, …] for each input of the net.
        targets: [N, …] as the objective takes them.
        objective: for the loss and what accuracy means.
        metrics: among loss, accuracy, mae and r2; None is `default_metrics`.
        batch_size: rows at a time.
        prefix: of the names in the answer, such as "val_".
        unscale: brings outputs and targets to the target's own units, for mae and r2.

    Returns:
        Finite numbers by name. `loss` is the mean over rows, or the total with reduction "sum". What is not finite, or
        not defined (r2 of targets that are all equal), is left out and logged.
    """
    wanted: tuple[str, ...] = tuple(metrics) if metrics is not None else default_metrics(objective)
    loss_of = loss_function(objective)
    rows = len(targets)
    size = batch_size or EVALUATION_BATCH
    scale = unscale or _as_they_are
    center = scale(targets).double().mean(dim=0) if "r2" in wanted else None
    # sums over rows, on the device and in float64
    loss = correct = absolute = squared = spread = torch.zeros((), dtype=torch.float64, device=targets.device)
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            for start in range(0, rows, size):
                expected = targets[start : start + size]
                outputs = module(*(part[start : start + size] for part in inputs))
                if "loss" in wanted:
                    value = loss_of(outputs, expected).double()
                    loss = loss + (value * len(expected) if objective.reduction == "mean" else value)
                if "accuracy" in wanted:
                    correct = correct + _right(outputs, expected, objective).sum()
                if "mae" in wanted or center is not None:
                    answer, truth = scale(outputs).double(), scale(expected).double()
                    absolute = absolute + (answer - truth).abs().sum()
                    if center is not None:
                        squared = squared + (answer - truth).square().sum()
                        spread = spread + (truth - center).square().sum()
    finally:
        for child, training in modes:
            child.training = training
    numbers = targets.numel()
    found = {
        "loss": float(loss) / (rows if objective.reduction == "mean" else 1),
        "accuracy": float(correct) / numbers,
        "mae": float(absolute) / numbers,
        "r2": 1 - float(squared) / float(spread) if float(spread) > 0 else math.nan,
    }
    finite = {prefix + name: found[name] for name in wanted if math.isfinite(found[name])}
    for name in wanted:
        if prefix + name not in finite:
            logger.warning(
                "The metric is not finite and is left out.", extra={"action": "metric", "metric": prefix + name}
            )
    return finite


def _right(outputs: Tensor, targets: Tensor, objective: Objective) -> Tensor:
    """Which answers are right: the largest logit [N, classes], or the sign of a logit in the targets' shape."""
    if isinstance(objective, CrossEntropy):
        return outputs.argmax(dim=1) == targets
    return (outputs > 0) == (targets > 0.5)


def _as_they_are(values: Tensor) -> Tensor:
    return values
