"""Whether a dataset's targets are what an objective takes, and lie beside the net's answers; whether metrics suit it.

Part of what `agreement` asks before a job is queued. Pointers begin at the job request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from service.engine.evaluate import default_metrics, suited_metrics
from service.engine.examples import Examples, class_indices
from service.errors import DatasetRefused, Entry, shorten
from service.schemas.objectives import (
    BceWithLogits,
    CosineEmbedding,
    CrossEntropy,
    Ctc,
    GaussianNll,
    KlDiv,
    Objective,
    PoissonNll,
    Quantile,
    is_fitted,
    tells_two_classes,
)
from service.schemas.schedulers import ReduceLrOnPlateau
from service.schemas.training import MetricName, TrainingConfig

Size = int | str
"""A size of a shape, or the symbol of one that varies."""

NET: Final = "/architecture/root"
"""Where a job request has the net, when it has one."""


def metric_mistakes(objective: Objective, metrics: Sequence[MetricName] | None) -> list[Entry]:
    """Metrics that mean nothing for this objective."""
    expected = ", ".join(default_metrics(objective))
    return [
        Entry(f"/metrics/{i}", "invalid", f"{metric} does not suit the objective {objective.type}.", expected=expected)
        for i, metric in enumerate(metrics or ())
        if metric not in suited_metrics(objective)
    ]


def watched_mistakes(config: TrainingConfig) -> list[Entry]:
    """Metrics that stopping or the scheduler watch, and that mean nothing for the objective."""
    watched = []
    if config.early_stopping is not None:
        watched.append(("/early_stopping/metric", config.early_stopping.metric))
    if isinstance(config.scheduler, ReduceLrOnPlateau):
        watched.append(("/scheduler/metric", config.scheduler.metric))
    suited = suited_metrics(config.objective)
    return [
        Entry(
            at,
            "invalid",
            f"{metric} does not suit the objective {config.objective.type}.",
            expected=", ".join(f"val_{name}" for name in suited),
        )
        for at, metric in watched
        if metric.removeprefix("val_") not in suited
    ]


def scaling_mistakes(config: TrainingConfig) -> list[Entry]:
    """Steps that scale targets whose own units the objective needs."""
    if not isinstance(config.objective, (GaussianNll, PoissonNll)):
        return []
    what = "variances" if isinstance(config.objective, GaussianNll) else "counts"
    return [
        Entry(f"/preprocessing/{i}/of", "invalid", f"{config.objective.type} is about {what}: they are not scaled.")
        for i, step in enumerate(config.preprocessing)
        if getattr(step, "of", "inputs") == "target"
    ]


def fitted_mistakes(objective: Objective) -> list[Entry]:
    """Of an objective outside of training, which has no rows to be fitted to."""
    if is_fitted(objective):
        return []
    name = "pos_weight" if isinstance(objective, BceWithLogits) else "weight"
    hint = "Give the numbers: the job's lineage has those that were fitted."
    return [Entry(f"/objective/{name}", "invalid", '"balanced" is fitted to training rows; there are none.', hint=hint)]


def target_mistakes(
    examples: Examples,
    objective: Objective,
    output: tuple[Size, ...],
    *,
    at: str,
    classes: tuple[str, ...] | None = None,
) -> list[Entry]:
    """Targets that the objective cannot take, or not beside the net's answers; `at` points to the net.

    `classes` are those of a version.
    """
    manifest = examples.manifest
    if manifest.target is None or examples.targets is None:
        return [Entry("/dataset", "no-target", "The dataset has no targets.", hint="Name a target in the source.")]
    if objective.targets == "classes":
        return [
            *_class_mistakes(examples, objective, output, at=at, classes=classes),
            *_weight_mistakes(objective, output),
        ]
    if tells_two_classes(objective):
        if classes is not None:
            try:
                class_indices(examples, classes=classes)
            except DatasetRefused as refused:
                return list(refused.errors)
        if classes is None and manifest.target == "class" and len(manifest.classes or ()) != 2:
            detail = f"{objective.type} tells two classes apart; the targets have {len(manifest.classes or ())}."
            return [Entry("/objective", "invalid", detail, hint='Use {"type": "cross_entropy"}.')]
    elif manifest.target == "class":
        return [_names_mistake(objective, manifest.classes or ())]
    if wrong := _value_mistakes(examples, objective, output):
        return wrong
    flat = manifest.target_flat or manifest.target == "class"
    target = (1,) if flat else examples.targets.shape[1:]
    if objective.shape != "outputs":
        return _several_mistakes(objective, target, output, at=at) or _step_mistakes(examples, objective, output, at=at)
    if fits(target, output):
        return _weight_mistakes(objective, output)
    hint = None
    if target == () and list(output) == [1]:
        hint = "Give each target as a list: [[1.0], [2.0]], or an array of the shape [N, 1]."
    elif len(target) == len(output) == 1 and at == NET:
        hint = f"Give the last layer {target[0]} outputs."
    return [
        Entry(
            at,
            "shape-mismatch",
            f"The net answers {shown(output)}, the targets have the shape {shown(target)};"
            f" {objective.type} would stretch one to the other, and the loss would be a wrong one.",
            hint=hint,
            expected=shown(target),
            got=shown(output),
        )
    ]


def outputs_for(examples: Examples, objective: Objective) -> int | None:
    """How many numbers a net answers for each row, by the targets; None where these do not say it."""
    manifest = examples.manifest
    if manifest.target is None or examples.targets is None:
        return None
    if objective.targets == "classes":
        try:
            indices, names = class_indices(examples)
        except DatasetRefused:
            return None
        return len(names) if _are_named(examples) else int(indices.max()) + 1
    target = (1,) if manifest.target_flat or manifest.target == "class" else examples.targets.shape[1:]
    width = int(target[-1]) if target else 1
    match objective.shape:
        case "outputs":
            return width
        case "half":
            return 2 * width
        case "quantiles":
            return len(objective.quantiles) if isinstance(objective, Quantile) else width
        case _:
            return None


def _are_named(examples: Examples) -> bool:
    """Whether the classes are those of the dataset, and not just numbers from 0 on."""
    return bool(examples.manifest.target == "class" or examples.manifest.target_labels)


def _names_mistake(objective: Objective, classes: Sequence[str]) -> Entry:
    """Targets that are names of classes, for an objective that takes numbers."""
    first = ", ".join(map(shorten, classes[:5])) + (", …" if len(classes) > 5 else "")
    takes = {"binary": "0 or 1 for each output", "signs": "−1 or 1", "numbers": "numbers"}.get(objective.targets)
    detail = (
        f"The targets are {len(classes)} classes ({first}); {objective.type} takes {takes or 'numbers of its own'}."
    )
    hint = f'Use {{"type": "cross_entropy"}}, with {len(classes)} logits as the net\'s answer.'
    if len(classes) == 2 and objective.targets in ("binary", "signs"):
        hint = 'Use {"type": "bce_with_logits"}, which takes two classes by name and one logit as the net\'s answer; '
        hint += 'or {"type": "cross_entropy"}, with two logits.'
    return Entry("/objective", "invalid", detail, hint=hint)


def _class_mistakes(
    examples: Examples, objective: Objective, output: tuple[Size, ...], *, at: str, classes: tuple[str, ...] | None
) -> list[Entry]:
    if len(output) != 1 or not isinstance(output[0], int):
        name = "Cross entropy" if isinstance(objective, CrossEntropy) else objective.type
        detail = f"{name} takes one logit for each class, [N, classes]; the net answers {shown(output)}."
        return [Entry(at, "shape-mismatch", detail, expected="[N, classes]", got=shown(output))]
    width = output[0]
    try:
        indices, names = class_indices(examples, classes=classes)
    except DatasetRefused as refused:
        return list(refused.errors)
    if classes is not None:
        return []  # those of a version: each target was found among them
    if _are_named(examples) and len(names) != width:
        more = f'Give the last layer {len(names)} outputs, a net of the catalogue "num_classes": "auto", or '
        more = more if at == NET else "To compare them, "
        first = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        return [
            Entry(
                at,
                "label-out-of-range" if len(names) > width else "shape-mismatch",
                f"The dataset has {len(names)} classes ({first}), the net has {width} outputs.",
                hint=f"{more}name all classes in the source's `classes`.",
                expected=f"[N, {len(names)}]",
                got=f"[N, {width}]",
            )
        ]
    high = int(indices.max())
    if high >= width:
        return [
            Entry(
                at,
                "label-out-of-range",
                f"Class {high} is not among the net's {width} outputs, which are counted from 0.",
                hint=f"Give the last layer {high + 1} outputs, or count the classes from 0." if at == NET else None,
                expected=f"[N, {high + 1}]",
                got=f"[N, {width}]",
            )
        ]
    return []


def _value_mistakes(examples: Examples, objective: Objective, output: tuple[Size, ...]) -> list[Entry]:
    """Numbers that are no targets of this objective."""
    targets = np.asarray(examples.targets)
    low, high = float(targets.min()), float(targets.max())
    reach = f"these reach from {low:g} to {high:g}."
    detail = hint = None
    match objective.targets:
        case "binary" if low < 0 or high > 1:
            detail = f"{objective.type} takes targets from 0 to 1; {reach}"
        case "signs" if not bool(np.isin(targets, (-1, 1)).all()):
            detail = f"{objective.type} takes the targets -1 and 1; {reach}"
            if low >= 0 and high <= 1:
                hint = 'Use {"type": "bce_with_logits"} for targets of 0 and 1.'
        case "label_lists":
            width = output[-1] if output and isinstance(output[-1], int) else None
            if low < -1 or (width is not None and high >= width) or not bool((targets == np.round(targets)).all()):
                detail = f"{objective.type} takes indices of labels below {width}, and -1 behind them; {reach}"
        case "probabilities" if isinstance(objective, KlDiv) and not objective.log_target:
            if low < 0 or not np.allclose(targets.sum(axis=-1), 1, atol=1e-3):
                detail = f"{objective.type} takes probabilities, whose sum is 1 in each row."
                hint = 'Targets that are logarithms need "log_target": true.' if high <= 0 else None
        case "numbers" if isinstance(objective, PoissonNll) and low < 0:
            detail = f"{objective.type} takes counts, which are never below 0; {reach}"
            hint = 'Use {"type": "mse"} for numbers of both signs.'
        case _:
            pass
    return [] if detail is None else [Entry("/dataset", "label-out-of-range", detail, hint=hint)]


def _several_mistakes(
    objective: Objective, target: tuple[int, ...], output: tuple[Size, ...], *, at: str
) -> list[Entry]:
    """Outputs that hold several things for each target."""
    match objective.shape:
        case "half":
            good = bool(target) and fits((*target[:-1], 2 * target[-1]), output)
            wanted = shown((*target[:-1], 2 * target[-1])) if target else "[N, 2]"
            what = "a mean and a variance for each target"
        case "triple":
            good = target == (1,) and output[:1] == (3,) and len(output) == 2
            wanted, what = "[N, 3, d] beside targets [N, 1]", "three vectors for each target"
        case "quantiles":
            count = len(objective.quantiles) if isinstance(objective, Quantile) else 1
            good = fits(target, output) if count == 1 else target == (1,) and output == (count,)
            wanted = shown(target) if count == 1 else f"[N, {count}] beside targets [N, 1]"
            what = "one number for each target" if count == 1 else f"{count} quantiles for each target"
        case "sequence":
            good = len(target) == 1 and len(output) == 2
            wanted = "[N, T, classes] beside targets [N, S]"
            what = "the classes' log-probabilities at each step"
        case _:
            vectors = isinstance(objective, CosineEmbedding)
            good = target == (1,) and output[:1] == (2,) and len(output) == (2 if vectors else 1)
            wanted = "[N, 2, d] beside targets [N, 1]" if vectors else "[N, 2] beside targets [N, 1]"
            what = "two vectors for each target" if vectors else "two scores for each target"
    if good:
        return []
    detail = (
        f"{objective.type} takes {what}, {wanted}; the net answers {shown(output)}, the targets have the shape "
        f"{shown(target)}."
    )
    return [Entry(at, "shape-mismatch", detail, expected=wanted, got=shown(output))]


def _step_mistakes(examples: Examples, objective: Objective, output: tuple[Size, ...], *, at: str) -> list[Entry]:
    """Of ctc: a blank that is no class, or a target; a target that needs more steps than the net answers."""
    if not isinstance(objective, Ctc):
        return []
    steps, width = output
    if isinstance(width, int) and objective.blank >= width:
        detail = f"Class {objective.blank} is not among the net's {width}, which are counted from 0."
        return [Entry("/objective/blank", "label-out-of-range", detail, expected=f"below {width}")]
    labels = np.asarray(examples.targets).reshape(examples.rows, -1)
    there = np.logical_and.accumulate(labels >= 0, axis=1)
    if blank := np.flatnonzero(((labels == objective.blank) & there).any(axis=1)).tolist():
        detail = f"Class {objective.blank} is the blank, and row {blank[0]} has it as a target."
        hint = "Count the classes from 1, or name another `blank`, and give the net one class more for it."
        return [Entry("/objective/blank", "label-out-of-range", detail, hint=hint)]
    twins = (labels[:, 1:] == labels[:, :-1]) & there[:, 1:]  # between equal neighbours a blank must stand
    needed = there.sum(axis=1) + twins.sum(axis=1)
    if isinstance(steps, int) and not objective.zero_infinity and needed.max() > steps:
        row = int(needed.argmax())
        detail = (
            f"The target of row {row} needs {needed[row]} steps, and the net answers {steps}: its loss is infinite."
        )
        hint = 'Let the net answer more steps, or pass such rows over with "zero_infinity": true.'
        return [Entry(at, "shape-mismatch", detail, hint=hint, expected=f"at least {needed[row]}", got=str(steps))]
    return []


def _weight_mistakes(objective: Objective, output: tuple[Size, ...]) -> list[Entry]:
    """Factors that are not one for each class, label or output."""
    width = output[-1] if output else 1
    for name in ("weight", "pos_weight"):
        factors = getattr(objective, name, None)
        if isinstance(factors, tuple) and isinstance(width, int):
            if len(factors) == width or (name == "pos_weight" and len(factors) == 1):
                continue
            detail = f"There are {len(factors)} factors for the net's {width} outputs."
            return [Entry(f"/objective/{name}", "shape-mismatch", detail, expected=str(width), got=str(len(factors)))]
    return []


def fits(shape: Sequence[int], wanted: Sequence[Size]) -> bool:
    """Whether sizes are the wanted ones, each symbol standing for one size."""
    if len(shape) != len(wanted):
        return False
    known: dict[str, int] = {}
    return all(
        known.setdefault(want, size) == size if isinstance(want, str) else want == size
        for size, want in zip(shape, wanted, strict=True)
    )


def shown(row: Sequence[Size]) -> str:
    """A shape of rows, such as [N, 3]."""
    return "[" + ", ".join(["N", *map(str, row)]) + "]"
