"""Objectives as functions of outputs and targets: torch's own and a few more, with what an objective fits to the
training rows.

Knows tensors and documents of objectives, and neither nets nor data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from service.schemas.objectives import (
    L1,
    AnyObjective,
    Bce,
    BceWithLogits,
    CosineEmbedding,
    CrossEntropy,
    Ctc,
    Dice,
    Distance,
    GaussianNll,
    HingeEmbedding,
    Huber,
    KlDiv,
    LogCosh,
    MarginRanking,
    Mse,
    MultiLabelMargin,
    MultiLabelSoftMargin,
    MultiMargin,
    Nll,
    PoissonNll,
    Quantile,
    SigmoidFocal,
    SmoothL1,
    SoftMargin,
    SoftmaxFocal,
    TripletMargin,
    TripletMarginWithDistance,
    is_fitted,
)

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [rows, …], targets [rows, …]) → the loss, a tensor without dimensions."""


def fit(objective: AnyObjective, targets: Tensor) -> AnyObjective:
    """The objective with numbers in the place of "balanced".

    A class weighs rows / (classes × rows of the class), as scikit-learn's `class_weight="balanced"`; classes are those
    that have rows. The ones of an output weigh zeros / ones. What no training row has weighs 1.

    Args:
        objective: the document.
        targets: [N] or [N, …] of the training rows, as the objective takes them.
    """
    if is_fitted(objective):
        return objective
    if isinstance(objective, BceWithLogits):
        by_output = targets.double().reshape(-1, targets.shape[1] if targets.dim() == 2 else 1)
        ones = by_output.sum(dim=0)
        zeros = len(by_output) - ones
        ratio = torch.where((ones > 0) & (zeros > 0), zeros / ones.clamp(min=1), torch.ones_like(ones))
        return objective.model_copy(update={"pos_weight": tuple(ratio.tolist())})
    ignored = getattr(objective, "ignore_index", -100)
    counts = torch.bincount(targets[targets != ignored].reshape(-1)).double()
    known = counts > 0
    weight = torch.where(known, counts.sum() / (known.sum() * counts.clamp(min=1)), torch.ones_like(counts))
    return objective.model_copy(update={"weight": tuple(weight.tolist())})


def loss_function(objective: AnyObjective) -> Loss:
    """The objective as a function of (outputs, targets), the same functions that torch's loss modules call.

    Raises:
        ValueError: the objective has yet to be fitted.
    """
    if not is_fitted(objective):
        raise ValueError('"balanced" has to be fitted to training rows first')
    reduction = objective.reduction
    match objective:
        case Mse():
            return lambda outputs, targets: functional.mse_loss(outputs, targets, reduction=reduction)
        case L1():
            return lambda outputs, targets: functional.l1_loss(outputs, targets, reduction=reduction)
        case SmoothL1(beta=beta):
            return lambda outputs, targets: functional.smooth_l1_loss(outputs, targets, reduction=reduction, beta=beta)
        case Huber(delta=delta):
            return lambda outputs, targets: functional.huber_loss(outputs, targets, reduction=reduction, delta=delta)
        case PoissonNll(log_input=log_input, full=full, eps=eps):
            return lambda outputs, targets: functional.poisson_nll_loss(
                outputs, targets, log_input=log_input, full=full, eps=eps, reduction=reduction
            )
        case GaussianNll(full=full, eps=eps):
            return lambda outputs, targets: functional.gaussian_nll_loss(
                answers(objective, outputs), targets, _variances(outputs), full=full, eps=eps, reduction=reduction
            )
        case CrossEntropy(label_smoothing=smoothing, ignore_index=ignored):
            weight = _Weights(objective.weight)
            return lambda outputs, targets: functional.cross_entropy(
                outputs,
                targets,
                weight(outputs),
                ignore_index=ignored,
                reduction=reduction,
                label_smoothing=smoothing,
            )
        case Nll(ignore_index=ignored):
            weight = _Weights(objective.weight)
            return lambda outputs, targets: functional.nll_loss(
                outputs, targets, weight(outputs), ignore_index=ignored, reduction=reduction
            )
        case MultiMargin(p=p, margin=margin):
            weight = _Weights(objective.weight)
            return lambda outputs, targets: functional.multi_margin_loss(
                outputs, targets, p=p, margin=margin, weight=weight(outputs), reduction=reduction
            )
        case Bce():
            return lambda outputs, targets: functional.binary_cross_entropy(outputs, targets, reduction=reduction)
        case BceWithLogits():
            weight = _Weights(objective.pos_weight, pad=False)
            return lambda outputs, targets: functional.binary_cross_entropy_with_logits(
                outputs, targets, reduction=reduction, pos_weight=weight(outputs)
            )
        case MultiLabelSoftMargin():
            weight = _Weights(objective.weight, pad=False)
            return lambda outputs, targets: functional.multilabel_soft_margin_loss(
                outputs, targets, weight(outputs), reduction=reduction
            )
        case MultiLabelMargin():
            return lambda outputs, targets: functional.multilabel_margin_loss(
                outputs, targets.long(), reduction=reduction
            )
        case SoftMargin():
            return lambda outputs, targets: functional.soft_margin_loss(outputs, targets, reduction=reduction)
        case HingeEmbedding(margin=margin):
            return lambda outputs, targets: functional.hinge_embedding_loss(
                outputs, targets, margin=margin, reduction=reduction
            )
        case KlDiv(log_target=log_target) if reduction == "mean":  # of which torch's function warns, as its page does
            return lambda outputs, targets: functional.kl_div(
                outputs, targets, reduction="none", log_target=log_target
            ).mean()
        case KlDiv(log_target=log_target):
            return lambda outputs, targets: functional.kl_div(
                outputs, targets, reduction=reduction, log_target=log_target
            )
        case MarginRanking(margin=margin):
            return lambda outputs, targets: functional.margin_ranking_loss(
                outputs[:, 0], outputs[:, 1], targets.reshape(-1), margin=margin, reduction=reduction
            )
        case CosineEmbedding(margin=margin):
            return lambda outputs, targets: functional.cosine_embedding_loss(
                outputs[:, 0], outputs[:, 1], targets.reshape(-1), margin=margin, reduction=reduction
            )
        case TripletMargin(margin=margin, p=norm, eps=eps, swap=swap):
            return lambda outputs, targets: functional.triplet_margin_loss(
                *_triplets(outputs, targets), margin=margin, p=norm, eps=eps, swap=swap, reduction=reduction
            )
        case TripletMarginWithDistance(margin=margin, swap=swap):
            distance = _distance(objective.distance)
            return lambda outputs, targets: functional.triplet_margin_with_distance_loss(
                *_triplets(outputs, targets), distance_function=distance, margin=margin, swap=swap, reduction=reduction
            )
        case Ctc():
            return lambda outputs, targets: _ctc(objective, outputs, targets)
        case SigmoidFocal(alpha=alpha, gamma=gamma):
            return lambda outputs, targets: _reduced(_sigmoid_focal(outputs, targets, alpha, gamma), reduction)
        case SoftmaxFocal():
            return _SoftmaxFocal(objective)
        case Quantile():
            return lambda outputs, targets: _pinball(objective, outputs, targets)
        case LogCosh():
            return lambda outputs, targets: _reduced(_log_cosh(outputs - targets), reduction)
        case Dice(smooth=smooth):
            return lambda outputs, targets: _reduced(_dice(outputs, targets, smooth), reduction)
        case _:
            assert_never(objective)


def fits(objective: AnyObjective, outputs: Sequence[int], targets: Sequence[int]) -> bool:
    """Whether outputs and targets of these shapes [rows, …] go together; torch would stretch some that do not.

    Of class indices torch itself says what is wrong, with the class.
    """
    match objective.shape:
        case "outputs":
            return tuple(outputs) == tuple(targets)
        case "classes":
            return True
        case "half":
            return tuple(outputs) == (*targets[:-1], 2 * targets[-1]) and len(targets) > 1
        case "pair":
            dimensions = 3 if isinstance(objective, CosineEmbedding) else 2
            count = targets[0] if all(size == 1 for size in targets[1:]) else -1
            return len(outputs) == dimensions and tuple(outputs[:2]) == (count, 2)
        case "triple":
            count = targets[0] if all(size == 1 for size in targets[1:]) else -1
            return len(outputs) == 3 and tuple(outputs[:2]) == (count, 3)
        case "quantiles":
            if isinstance(objective, Quantile) and len(objective.quantiles) > 1:
                return tuple(targets[1:]) == (1,) and tuple(outputs) == (targets[0], len(objective.quantiles))
            return tuple(outputs) == tuple(targets)
        case "sequence":
            return len(outputs) == 3 and len(targets) == 2 and outputs[0] == targets[0]
        case _:
            assert_never(objective.shape)


def shares(objective: AnyObjective, targets: Tensor) -> Tensor | float:
    """What a batch's loss is divided by for the reduction "mean": rows, or the weights of its classes.

    A mean over all rows is the sum of the batches' losses times their shares, over the sum of the shares.
    """
    if isinstance(objective, (CrossEntropy, Nll, SoftmaxFocal)):
        counted = targets != objective.ignore_index
        if isinstance(objective.weight, tuple):
            weight = _Weights(objective.weight).of_at_least(targets)
            return weight[targets.clamp(min=0)].double().mul(counted).sum()
        if objective.ignore_index >= 0:
            return counted.sum().double()
    return float(len(targets))


def answers(objective: AnyObjective, outputs: Tensor) -> Tensor:
    """The numbers that outputs [rows, …] answer, beside the targets: means, rates, or the outputs themselves."""
    if isinstance(objective, GaussianNll):
        return outputs[..., : outputs.shape[-1] // 2]
    if isinstance(objective, PoissonNll) and objective.log_input:
        return outputs.exp()
    if isinstance(objective, Quantile) and len(objective.quantiles) > 1:
        off = [abs(quantile - 0.5) for quantile in objective.quantiles]
        middle = off.index(min(off))
        return outputs[:, middle : middle + 1]
    return outputs


def scores(objective: AnyObjective, outputs: Tensor) -> Tensor:
    """How sure outputs [rows, classes or labels] are of each class or label, from 0 to 1.

    Those of multi_margin are softmaxes too, whose order has a meaning and whose size has none.
    """
    match objective:
        case CrossEntropy() | Nll() | MultiMargin() | SoftmaxFocal():
            return outputs.softmax(dim=1)  # of log-probabilities: these probabilities
        case BceWithLogits() | MultiLabelSoftMargin() | SigmoidFocal() | Dice():
            return outputs.sigmoid()
        case _:
            return outputs


def _variances(outputs: Tensor) -> Tensor:
    return functional.softplus(outputs[..., outputs.shape[-1] // 2 :])


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses.sum() if reduction == "sum" else losses.mean()


def _triplets(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, what is to be near them and what far, [rows, d] each, of outputs [rows, 3, d]."""
    anchor, second, third = outputs.unbind(dim=1)
    in_order = targets.reshape(-1, 1) > 0  # [rows, 1]
    return anchor, torch.where(in_order, second, third), torch.where(in_order, third, second)


def _distance(name: Distance) -> Loss:
    """Distances [rows] of vectors [rows, d]."""
    match name:
        case "euclidean":
            return functional.pairwise_distance
        case "squared_euclidean":
            return lambda a, b: (a - b).square().sum(dim=-1)
        case "manhattan":
            return lambda a, b: (a - b).abs().sum(dim=-1)
        case "chebyshev":
            return lambda a, b: (a - b).abs().amax(dim=-1)
        case "cosine":
            return lambda a, b: 1 - functional.cosine_similarity(a, b)
        case _:
            assert_never(name)


def _ctc(objective: Ctc, outputs: Tensor, targets: Tensor) -> Tensor:
    """Of log-probabilities [rows, T, classes] and class indices [rows, S], ended by −1.

    Raises:
        IndexError: there is no such class; torch would read beyond its memory.
    """
    labels = targets.long()
    if labels.numel() and int(labels.max()) >= outputs.shape[2]:  # waits for the device
        raise IndexError(f"Target {int(labels.max())} is out of bounds.")
    there = (labels >= 0).long().cumprod(dim=1)  # nothing counts behind the first −1
    steps = torch.full((len(outputs),), outputs.shape[1], dtype=torch.int64, device=outputs.device)
    return functional.ctc_loss(
        outputs.transpose(0, 1),  # [T, rows, classes], as torch takes them
        labels.clamp(min=0),
        steps,
        there.sum(dim=1),
        blank=objective.blank,
        reduction=objective.reduction,
        zero_infinity=objective.zero_infinity,
    )


def _sigmoid_focal(outputs: Tensor, targets: Tensor, alpha: float | None, gamma: float) -> Tensor:
    """In the shape of the outputs; targets may lie between 0 and 1."""
    losses = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    losses = losses * _power(outputs.sigmoid() * (1 - targets) + (-outputs).sigmoid() * targets, gamma)
    return losses if alpha is None else losses * (alpha * targets + (1 - alpha) * (1 - targets))


def _power(doubt: Tensor, gamma: float) -> Tensor:
    """doubt^gamma, whose gradient is finite where there is no doubt."""
    return doubt.clamp(min=torch.finfo(doubt.dtype).tiny) ** gamma


def _pinball(objective: Quantile, outputs: Tensor, targets: Tensor) -> Tensor:
    """Of outputs [rows, quantiles] beside targets [rows, 1], or in one shape."""
    quantiles = objective.quantiles
    below = targets - outputs
    if len(quantiles) == 1:
        [quantile] = quantiles
        return _reduced(torch.maximum(quantile * below, (quantile - 1) * below), objective.reduction)
    each = torch.tensor(quantiles, dtype=outputs.dtype, device=outputs.device)
    losses = torch.maximum(each * below, (each - 1) * below).mean(dim=1)  # [rows]
    return _reduced(losses, objective.reduction)


def _log_cosh(difference: Tensor) -> Tensor:
    """log(cosh(x)) = |x| + log(1 + exp(−2|x|)) − log 2, which does not overflow."""
    size = difference.abs()
    return size + functional.softplus(-2 * size) - math.log(2)


def _dice(outputs: Tensor, targets: Tensor, smooth: float) -> Tensor:
    """[rows], of logits and masks [rows, …]."""
    probability = outputs.sigmoid().reshape(len(outputs), -1)
    truth = targets.reshape(len(targets), -1)
    overlap = (probability * truth).sum(dim=1)
    size = probability.sum(dim=1) + truth.sum(dim=1)
    return 1 - (2 * overlap + smooth) / (size + smooth)


class _SoftmaxFocal:
    """Of logits [rows, classes] beside class indices [rows]."""

    def __init__(self, objective: SoftmaxFocal) -> None:
        self._objective = objective
        self._weight = _Weights(objective.weight)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        ignored, gamma = self._objective.ignore_index, self._objective.gamma
        weight = self._weight(outputs)
        logarithms = outputs.log_softmax(dim=1)
        losses = functional.nll_loss(logarithms, targets, weight, ignore_index=ignored, reduction="none")
        counted = targets != ignored
        known = targets.where(counted, torch.zeros_like(targets))
        losses = losses * _power(-logarithms.gather(1, known[:, None])[:, 0].expm1(), gamma)
        if self._objective.reduction == "sum":
            return losses.sum()
        # over the weights of the classes that count, as cross_entropy has it
        return losses.sum() / (counted.to(losses.dtype) if weight is None else weight[known] * counted).sum()


class _Weights:
    """Factors of classes as a tensor beside the outputs, made once; classes that training rows never had weigh 1."""

    def __init__(self, numbers: Sequence[float] | str | None, *, pad: bool = True) -> None:
        self._numbers = None if numbers is None or isinstance(numbers, str) else list(numbers)
        self._pad = pad
        self._made: Tensor | None = None

    def __call__(self, outputs: Tensor) -> Tensor | None:
        if self._numbers is None:
            return None
        made = self._made
        if made is None or made.device != outputs.device or made.dtype != outputs.dtype:
            missing = outputs.shape[1] - len(self._numbers) if self._pad else 0
            numbers = self._numbers + [1.0] * missing
            self._made = made = torch.tensor(numbers, device=outputs.device, dtype=outputs.dtype)
        return made

    def of_at_least(self, targets: Tensor) -> Tensor:
        """The factors in float64, long enough for these class indices."""
        assert self._numbers is not None
        missing = int(targets.max()) + 1 - len(self._numbers)
        return torch.tensor(self._numbers + [1.0] * missing, device=targets.device, dtype=torch.float64)
