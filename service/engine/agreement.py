"""Whether a dataset, a net and a training document fit together, asked before a job is queued.

Every mistake is told at once, with pointers into the job request. It looks at shapes, names and the targets' values;
nothing is trained and no net is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.engine.evaluate import default_metrics
from service.engine.examples import Examples, class_indices, open_dataset, split_rows
from service.engine.preprocessing import Preprocessor
from service.errors import DatasetRefused, Entry, shorten
from service.schemas.datasets import DatasetManifest
from service.schemas.document import nearest_hint
from service.schemas.jobs import EvaluateSpec
from service.schemas.judgement import Judgement
from service.schemas.layers import Graph, Layer, Sequential
from service.schemas.preprocessing import ClassTarget, Preprocessing
from service.schemas.steps import Call, Return
from service.schemas.training import (
    L1,
    BceWithLogits,
    CrossEntropy,
    MetricName,
    MinMax,
    Mse,
    Objective,
    OneHot,
    SmoothL1,
    Standardize,
    TrainingConfig,
)
from service.schemas.versions import Signature

Size = int | str
"""A size of a shape, or the symbol of one that varies."""

_NET: Final = "/architecture/root"
"""Where a job request has the net, when it has one."""

_CLASS_METRICS: Final = frozenset({"loss", "accuracy"})
_NUMBER_METRICS: Final = frozenset({"loss", "mae", "r2"})


def agree(
    folder: Path, manifest: DatasetManifest, config: TrainingConfig, judgement: Judgement
) -> tuple[list[Entry], list[Entry]]:
    """Compare a stored dataset with a net and what is asked for.

    Args:
        folder: where the dataset's arrays lie.
        manifest: of the dataset.
        config: the training document.
        judgement: of the architecture, without errors.

    Returns:
        Mistakes, for which the job must be refused, and warnings.
    """
    if judgement.architecture is None or judgement.summary is None:
        raise ValueError("the architecture has errors")
    examples = open_dataset(folder, manifest)
    specs = judgement.architecture.inputs
    outputs: list[dict[str, Any]] = judgement.summary["outputs"]
    found: list[Entry] = []
    train_rows = None
    try:
        train_rows = split_rows(config.split, examples)["train"].numpy()
    except DatasetRefused as refused:
        found += refused.errors
    found += _step_mistakes(manifest, config)
    found += _metric_mistakes(config.objective, config.metrics)
    found += _stopping_mistakes(config)
    warnings = _loss_warnings(judgement.architecture.root, config.objective)
    if len(specs) != 1 or len(outputs) != 1:
        detail = f"Training takes nets with one input and one output; this one has {len(specs)} and {len(outputs)}."
        found.append(Entry("/architecture", "shape-mismatch", detail))
        return found, warnings
    if train_rows is not None:
        row_shape = manifest.row_shape
        if manifest.layout == "table":
            row_shape = (_table_width(examples, train_rows),)
        found += _row_mistakes(row_shape, tuple(specs[0].shape)[1:])
        found += _batch_mistakes(config, len(train_rows), warnings)
        warnings += _batches_of_one(judgement, config, len(train_rows))
    found += _dtype_mistakes(manifest, config, str(specs[0].dtype))
    found += _target_mistakes(examples, config.objective, tuple(outputs[0]["shape"])[1:], at=_NET)
    return found, warnings


def agree_with_version(
    folder: Path,
    manifest: DatasetManifest,
    spec: EvaluateSpec,
    *,
    signature: Signature,
    preprocessing: Preprocessing,
) -> list[Entry]:
    """Compare a stored dataset with a version that is to be measured on it.

    Returns:
        Mistakes, for which the job must be refused.
    """
    examples = open_dataset(folder, manifest)
    found = _metric_mistakes(spec.objective, spec.metrics)
    if len(signature.inputs) != 1 or len(signature.outputs) != 1:
        count = f"{len(signature.inputs)} and {len(signature.outputs)}"
        detail = f"Models with one input and one output are measured; this one has {count}."
        return [*found, Entry("/model", "shape-mismatch", detail)]
    if preprocessing.row is None:
        found += _plain_row_mistakes(manifest, tuple(signature.inputs[0].shape)[1:])
    else:
        found += Preprocessor(preprocessing).row_mistakes(examples)
    target = preprocessing.target
    classes = target.classes if isinstance(target, ClassTarget) else None
    output = tuple(signature.outputs[0].shape)[1:]
    return found + _target_mistakes(examples, spec.objective, output, at="/model", classes=classes)


def _plain_row_mistakes(manifest: DatasetManifest, wanted: tuple[Size, ...]) -> list[Entry]:
    """Rows that go to a net as they are must have its input's shape."""
    texts = [column.name for column in manifest.columns if column.role == "input" and column.dtype == "text"]
    if texts:
        detail = f"Column {shorten(texts[0])} has texts; this model takes numbers."
        return [Entry("/dataset", "text-column", detail, hint="Leave the column out of the inputs.")]
    if _fits(manifest.row_shape, wanted):
        return []
    detail = f"A row of the dataset has the shape {list(manifest.row_shape)}, the model takes {list(wanted)}."
    shapes = {"expected": str(["B", *wanted]), "got": str(["B", *manifest.row_shape])}
    return [Entry("/dataset", "shape-mismatch", detail, **shapes)]


def _loss_warnings(root: Layer, objective: Objective) -> list[Entry]:
    """A net that ends in what the objective does itself learns slowly, and its probabilities are wrong."""
    ends_in = _last(root)
    if isinstance(objective, (Mse, L1, SmoothL1)) and ends_in.lower() in _NEVER_BELOW_ZERO:
        detail = f"The net ends in {ends_in}, so that it can never answer below 0, whatever the targets are."
        return [Entry(_NET, "relu-on-output", detail, hint="Leave the last activation out.")]
    twice = {CrossEntropy: ("Softmax", "softmax"), BceWithLogits: ("Sigmoid", "sigmoid")}.get(type(objective), ())
    if ends_in not in twice:
        return []
    name = ends_in.lower()
    detail = f"The net ends in a {name}, and {objective.type} applies one too: it takes logits."
    hint = f"Leave the {name} out; a classifier's answers carry probabilities all the same."
    return [Entry(_NET, f"{name}-twice", detail, hint=hint)]


_NEVER_BELOW_ZERO: Final = frozenset({"relu", "relu6", "softplus", "sigmoid", "softmax", "hardsigmoid"})


def _last(layer: Layer) -> str:
    """What a net's answer comes from: the class of a layer, or an operation of the forward language."""
    match layer:
        case Sequential():
            return _last(layer.layers[-1]) if layer.layers else ""
        case Graph():
            steps = layer.program.steps
            end = steps[-1]
            answer = end.inputs[0] if isinstance(end, Return) and len(end.inputs) == 1 else None
            if not isinstance(answer, str) or not answer.startswith("%"):
                return ""
            step = steps[int(answer[1:]) - 1]
            if isinstance(step, Call):
                return _last(layer.layers[layer.names.index(step.layer)])
            return step.op
        case _:
            return layer.type


def _step_mistakes(manifest: DatasetManifest, config: TrainingConfig) -> list[Entry]:
    """Steps that name columns which are not there, or not of their kind; text columns without an encoding."""
    found = []
    inputs = [column for column in manifest.columns if column.role == "input"]
    kinds = {column.name: "text" if column.dtype == "text" else "number" for column in inputs}
    encoded: set[str] = set()
    for i, step in enumerate(config.preprocessing):
        at = f"/preprocessing/{i}"
        if isinstance(step, (Standardize, MinMax)) and step.of == "target":
            if isinstance(config.objective, (CrossEntropy, BceWithLogits)) or manifest.target != "number":
                found.append(Entry(f"{at}/of", "invalid", "Only targets that are numbers to be met are scaled."))
            if step.columns != "*":
                found.append(Entry(f"{at}/columns", "invalid", "A target has no columns to choose from."))
            continue
        wanted = "text" if isinstance(step, OneHot) else "number"
        if step.columns == "*":
            encoded |= set(kinds) if wanted == "text" else set()
            continue
        if manifest.layout == "array":
            found.append(
                Entry(f"{at}/columns", "invalid", "The rows of this dataset have no named columns.", hint='Use "*".')
            )
            continue
        for j, name in enumerate(step.columns):
            if kinds.get(name) is None:
                hint = nearest_hint(name, kinds)
                found.append(
                    Entry(f"{at}/columns/{j}", "unknown-column", f"There is no input {shorten(name)}.", hint=hint)
                )
            elif kinds[name] != wanted:
                hint = 'Use {"type": "one_hot"}.' if wanted == "number" else None
                detail = f"Column {shorten(name)} is a column of {kinds[name]}s; this step takes {wanted}s."
                found.append(Entry(f"{at}/columns/{j}", "wrong-type", detail, hint=hint))
            elif wanted == "text":
                encoded.add(name)
    for name, kind in kinds.items():
        if kind == "text" and name not in encoded:
            found.append(
                Entry(
                    "/preprocessing",
                    "text-column",
                    f"Column {shorten(name)} has texts ({shorten(_first_text(manifest, name))}); a net takes numbers.",
                    hint='Add {"type": "one_hot"}, or leave the column out of the inputs.',
                )
            )
    return found


def _first_text(manifest: DatasetManifest, name: str) -> str:
    return next((column.classes[0] for column in manifest.columns if column.name == name and column.classes), "")


def _metric_mistakes(objective: Objective, metrics: Sequence[MetricName] | None) -> list[Entry]:
    expected = ", ".join(default_metrics(objective))
    return [
        Entry(f"/metrics/{i}", "invalid", f"{metric} does not suit the objective {objective.type}.", expected=expected)
        for i, metric in enumerate(metrics or ())
        if metric not in _suited(objective)
    ]


def _stopping_mistakes(config: TrainingConfig) -> list[Entry]:
    stopping = config.early_stopping
    if stopping is None or stopping.metric.removeprefix("val_") in _suited(config.objective):
        return []
    detail = f"{stopping.metric} does not suit the objective {config.objective.type}."
    return [Entry("/early_stopping/metric", "invalid", detail)]


def _suited(objective: Objective) -> frozenset[str]:
    return _CLASS_METRICS if isinstance(objective, (CrossEntropy, BceWithLogits)) else _NUMBER_METRICS


def _table_width(examples: Examples, train_rows: Any) -> int:
    """Numbers of a row once its texts are encoded by the categories that the training rows have."""
    codes = np.asarray(examples.codes)[train_rows]
    return examples.numbers.shape[1] + sum(len(np.unique(codes[:, i])) for i in range(codes.shape[1]))


def _row_mistakes(row: Sequence[int], wanted: Sequence[Size]) -> list[Entry]:
    if _fits(row, wanted):
        return []
    hint = None
    numbers = [size for size in wanted if isinstance(size, int)]
    if not row and list(wanted) == [1]:
        hint = "Give each row as a list: [[0.5], [0.7]] instead of [0.5, 0.7]."
    elif len(numbers) == len(wanted) and math.prod(numbers) == math.prod(row):
        hint = f'Fold the rows with "shape": {numbers} in the source, or declare the input as {["B", *row]}.'
    elif len(row) == len(wanted) == 1:
        hint = f"A row of the dataset has {row[0]} numbers once preprocessed: use in_features {row[0]}."
    return [
        Entry(
            "/architecture/inputs/0/shape",
            "shape-mismatch",
            f"A row of the dataset has the shape {list(row)}, the net takes rows of the shape {list(wanted)}.",
            hint=hint,
            expected=str(["B", *row]),
            got=str(["B", *wanted]),
        )
    ]


def _batch_mistakes(config: TrainingConfig, rows: int, warnings: list[Entry]) -> list[Entry]:
    if config.batch_size is None or config.batch_size <= rows:
        return []
    detail = f"There are {rows} training rows, fewer than a batch of {config.batch_size}."
    if config.drop_last:
        hint = "Use a smaller batch_size, or no drop_last."
        return [Entry("/batch_size", "invalid", f"{detail} drop_last would drop them all.", hint=hint)]
    warnings.append(Entry("/batch_size", "large-batch", f"{detail} Each step takes all of them."))
    return []


def _batches_of_one(judgement: Judgement, config: TrainingConfig, rows: int) -> list[Entry]:
    """A BatchNorm of one value a channel has no variance: torch refuses it in the middle of an epoch."""
    size = config.batch_size or rows
    alone = rows == 1 or size == 1 or (rows % size == 1 and not config.drop_last)
    if not alone:
        return []
    for layer in (judgement.summary or {})["layers"]:
        if layer["type"] in ("BatchNorm1d", "SyncBatchNorm") and len(layer["output_shape"]) == 2:
            path = layer["path"]
            last = "The last batch of an epoch" if rows > size > 1 else "A batch"
            detail = f"{last} has one row, and `{path}` cannot normalise a single value while training."
            hint = '"drop_last": true leaves that batch out.' if rows > size > 1 else "Use a larger batch_size."
            return [Entry(_NET, "batch-of-one", detail, layer=path or None, hint=hint)]
    return []


def _dtype_mistakes(manifest: DatasetManifest, config: TrainingConfig, dtype: str) -> list[Entry]:
    if dtype.startswith(("float", "bfloat")):
        return []
    scaled = any(isinstance(s, (Standardize, MinMax)) and s.of == "inputs" for s in config.preprocessing)
    floats = [c for c in manifest.columns if c.role == "input" and c.dtype == "float"]
    if not floats and not scaled:
        return []
    detail = (
        f"The net takes {dtype}, but {'scaled inputs are' if scaled else f'{floats[0].name!r} is'} not whole numbers."
    )
    hint = 'Declare the input with "dtype": "float32".'
    return [Entry("/architecture/inputs/0/dtype", "dtype-mismatch", detail, hint=hint)]


def _target_mistakes(
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
    if isinstance(objective, CrossEntropy):
        return _class_mistakes(examples, output, at=at, classes=classes)
    if isinstance(objective, BceWithLogits):
        if classes is not None:
            try:
                class_indices(examples, classes=classes)
            except DatasetRefused as refused:
                return list(refused.errors)
        if classes is None and manifest.target == "class" and len(manifest.classes or ()) != 2:
            detail = f"{objective.type} tells two classes apart; the targets have {len(manifest.classes or ())}."
            return [Entry("/objective", "invalid", detail, hint='Use {"type": "cross_entropy"}.')]
        low, high = float(examples.targets.min()), float(examples.targets.max())
        if low < 0 or high > 1:
            detail = f"{objective.type} takes targets from 0 to 1; these reach from {low:g} to {high:g}."
            return [Entry("/dataset", "label-out-of-range", detail)]
    elif manifest.target == "class":
        detail = f"The targets are classes; {objective.type} takes numbers."
        return [Entry("/objective", "invalid", detail, hint='Use {"type": "cross_entropy"}.')]
    flat = manifest.target_flat or manifest.target == "class"
    target = (1,) if flat else examples.targets.shape[1:]
    if _fits(target, output):
        return []
    hint = None
    if target == () and list(output) == [1]:
        hint = "Give each target as a list: [[1.0], [2.0]], or an array of the shape [N, 1]."
    elif len(target) == len(output) == 1 and at == _NET:
        hint = f"Give the last layer {target[0]} outputs."
    return [
        Entry(
            at,
            "shape-mismatch",
            f"The net answers {_shown(output)}, the targets have the shape {_shown(target)};"
            f" {objective.type} would stretch one to the other, and the loss would be a wrong one.",
            hint=hint,
            expected=_shown(target),
            got=_shown(output),
        )
    ]


def _class_mistakes(
    examples: Examples, output: tuple[Size, ...], *, at: str, classes: tuple[str, ...] | None
) -> list[Entry]:
    if len(output) != 1 or not isinstance(output[0], int):
        detail = f"Cross entropy takes one logit for each class, [N, classes]; the net answers {_shown(output)}."
        return [Entry(at, "shape-mismatch", detail, expected="[N, classes]", got=_shown(output))]
    width = output[0]
    try:
        indices, names = class_indices(examples, classes=classes)
    except DatasetRefused as refused:
        return list(refused.errors)
    if classes is not None:
        return []  # those of a version: each target was found among them
    named = examples.manifest.target == "class" or examples.manifest.target_labels
    if named and len(names) != width:
        more = f"Give the last layer {len(names)} outputs, or " if at == _NET else "To compare them, "
        shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        return [
            Entry(
                at,
                "label-out-of-range" if len(names) > width else "shape-mismatch",
                f"The dataset has {len(names)} classes ({shown}), the net has {width} outputs.",
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
                hint=f"Give the last layer {high + 1} outputs, or count the classes from 0." if at == _NET else None,
                expected=f"[N, {high + 1}]",
                got=f"[N, {width}]",
            )
        ]
    return []


def _fits(shape: Sequence[int], wanted: Sequence[Size]) -> bool:
    """Whether sizes are the wanted ones, each symbol standing for one size."""
    if len(shape) != len(wanted):
        return False
    known: dict[str, int] = {}
    return all(
        known.setdefault(want, size) == size if isinstance(want, str) else want == size
        for size, want in zip(shape, wanted, strict=True)
    )


def _shown(row: Sequence[Size]) -> str:
    return "[" + ", ".join(["N", *map(str, row)]) + "]"
