"""Whether a dataset, a net and a training document fit together, asked before a job is queued.

Every mistake is told at once, with pointers into the job request. It looks at shapes, names and the targets' values;
nothing is trained and no net is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from service.engine.examples import open_dataset, split_rows
from service.engine.leakage import leakage
from service.engine.preprocessing import Preprocessor
from service.engine.suitability import doubtful_columns, doubtful_target, row_shapes, step_mistakes
from service.engine.targets import (
    NET,
    Size,
    fits,
    fitted_mistakes,
    metric_mistakes,
    outputs_for,
    scaling_mistakes,
    target_mistakes,
    watched_mistakes,
)
from service.errors import DatasetRefused, Entry, shorten
from service.schemas.architecture import Architecture, state_rows
from service.schemas.datasets import DatasetManifest, taken_as_texts
from service.schemas.document import nearest_hint
from service.schemas.edits import frozen
from service.schemas.initial import MAX_MATCHES
from service.schemas.jobs import EvaluateSpec
from service.schemas.judgement import Judgement
from service.schemas.layers import Graph, Layer, Sequential
from service.schemas.objectives import L1, Huber, LogCosh, Mse, Objective, Quantile, SmoothL1
from service.schemas.preprocessing import ClassTarget, Preprocessing
from service.schemas.steps import Call, Return
from service.schemas.training import TrainingConfig
from service.schemas.transforms import Log, MinMax, Normalize, PreprocessingStep, Resize, Standardize
from service.schemas.versions import Signature

_LOOKED_THROUGH: Final = 2**24
"""Bytes of a dataset whose rows are compared before a job is queued."""


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
    looked_through = manifest.size_bytes <= _LOOKED_THROUGH
    train_rows = None
    leaks: list[Entry] = []
    try:
        rows = split_rows(config.split, examples)
        train_rows = rows["train"].numpy()
        if looked_through:  # of a larger one the worker tells
            leaks = [leak.warning(len(rows[leak.part])) for leak in leakage(examples, rows)]
    except DatasetRefused as refused:
        found += refused.errors
    steps = step_mistakes(examples, config.preprocessing, config.objective)
    found += steps
    found += metric_mistakes(config.objective, config.metrics)
    found += watched_mistakes(config)
    found += _pattern_mistakes(config, judgement.architecture)
    warnings = [*_loss_warnings(judgement.architecture.root, config.objective), *leaks]
    warnings += [Entry(**{**told, "pointer": "/dataset"}) for told in manifest.warnings]
    parts = {name for name, _ in examples.parts}
    if len(outputs) != 1 or ((parts or len(specs) != 1) and parts != {spec.name for spec in specs}):
        detail = f"Training takes nets with one output; this one has {len(outputs)}."
        hint = "Let the forward return one value, such as the last one of a sequence: a net with several outputs can be"
        hint += " imported and served, not trained."
        if len(outputs) == 1:
            ours = ", ".join(spec.name for spec in specs)
            detail = (
                f"The net has the inputs {ours}, the dataset has {', '.join(sorted(parts)) or 'one without a name'}."
            )
            named = ", ".join(f'"{spec.name}": …' for spec in specs)
            hint = f'Name the columns or arrays of each input in the source: "inputs": {{{named}}}.'
            if not parts and len(specs) > 1:
                hint += " A net that takes lengths beside its rows trains without them too, on rows of one length."
        found.append(Entry("/architecture", "shape-mismatch", detail, hint=hint))
        return found, warnings
    place_of = {spec.name: place for place, spec in enumerate(specs)}
    if train_rows is not None:
        for name, row_shape in row_shapes(examples, config.preprocessing, train_rows) if not steps else ():
            place = place_of[name] if name is not None else 0
            found += _row_mistakes(row_shape, tuple(specs[place].shape)[1:], place)
        found += _batch_mistakes(config, len(train_rows), warnings)
        warnings += _batches_of_one(judgement, config, len(train_rows))
    for name, part in examples.parts or ((None, examples),):
        place = place_of[name] if name is not None else 0
        own = [step for step in config.preprocessing if name is None or step.input == name]
        found += _dtype_mistakes(part.manifest, own, str(specs[place].dtype), place)
        if looked_through and not steps and not _normalizes(judgement):
            warnings += doubtful_columns(part, own, name=name)
    if looked_through and not steps:
        warnings += doubtful_target(examples, config.preprocessing, config.objective)
    mistaken = target_mistakes(examples, config.objective, tuple(outputs[0]["shape"])[1:], at=NET)
    if mistaken and config.objective.targets == "numbers":
        # numbers that were read as texts are no classes: how they are read is what has to change
        about = [told for told in warnings if told.code == "nearly-numbers" and _is_of_target(told, manifest)]
        warnings = [told for told in warnings if told not in about]
        mistaken = about or mistaken
    return [*found, *mistaken, *scaling_mistakes(config)], warnings


def _is_of_target(warning: Entry, manifest: DatasetManifest) -> bool:
    """Whether a warning that a column is nearly one of numbers is about the target."""
    targets = [column.name for column in manifest.columns if column.role == "target"]
    return any(warning.detail.startswith(taken_as_texts(name)) for name in targets)


def sizes(folder: Path, manifest: DatasetManifest, config: TrainingConfig) -> dict[str, int]:
    """What a stored dataset says of the params `catalogue.OF_DATA` of a net that is to be trained on it.

    What it does not say is left out, and `agree` tells why, as it does where the rows are not the net's.
    """
    examples = open_dataset(folder, manifest)
    found: dict[str, int | None] = {"num_classes": outputs_for(examples, config.objective)}
    with suppress(DatasetRefused):
        train_rows = split_rows(config.split, examples)["train"].numpy()
        if not examples.parts and not step_mistakes(examples, config.preprocessing, config.objective):
            [(_, row)] = row_shapes(examples, config.preprocessing, train_rows)
            found |= {"in_features": math.prod(row), "in_channels": row[0] if len(row) == 3 else None}
    return {name: size for name, size in found.items() if size}


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
    found = metric_mistakes(spec.objective, spec.metrics) + fitted_mistakes(spec.objective)
    if len(signature.outputs) != 1:
        detail = f"Models with one output are measured; this one has {len(signature.outputs)}."
        return [*found, Entry("/model", "shape-mismatch", detail)]
    if len(signature.inputs) != 1 and preprocessing.inputs is None:
        detail = f"The model was imported with {len(signature.inputs)} inputs: how rows of these look is not known."
        return [*found, Entry("/model", "shape-mismatch", detail)]
    if preprocessing.row is None and preprocessing.inputs is None:
        found += _plain_row_mistakes(manifest, tuple(signature.inputs[0].shape)[1:])
    else:
        found += Preprocessor(preprocessing).row_mistakes(examples)
    target = preprocessing.target
    classes = target.classes if isinstance(target, ClassTarget) else None
    output = tuple(signature.outputs[0].shape)[1:]
    return found + target_mistakes(examples, spec.objective, output, at="/model", classes=classes)


def _plain_row_mistakes(manifest: DatasetManifest, wanted: tuple[Size, ...]) -> list[Entry]:
    """Rows that go to a net as they are must have its input's shape."""
    texts = [column.name for column in manifest.columns if column.role == "input" and column.dtype == "text"]
    if texts:
        detail = f"Column {shorten(texts[0])} has texts; this model takes numbers."
        return [Entry("/dataset", "text-column", detail, hint="Leave the column out of the inputs.")]
    if fits(manifest.row_shape, wanted):
        return []
    detail = f"A row of the dataset has the shape {list(manifest.row_shape)}, the model takes {list(wanted)}."
    shapes = {"expected": str(["B", *wanted]), "got": str(["B", *manifest.row_shape])}
    return [Entry("/dataset", "shape-mismatch", detail, **shapes)]


def _loss_warnings(root: Layer, objective: Objective) -> list[Entry]:
    """A net that ends in what the objective does itself learns slowly, and its probabilities are wrong."""
    ends_in = _last(root)
    if isinstance(objective, (Mse, L1, SmoothL1, Huber, LogCosh, Quantile)) and ends_in.lower() in _NEVER_BELOW_ZERO:
        detail = f"The net ends in {ends_in}, so that it can never answer below 0, whatever the targets are."
        return [Entry(NET, "relu-on-output", detail, hint="Leave the last activation out.")]
    if (wanted := _ENDS_IN.get(objective.type)) and ends_in.lower().replace("_", "") not in wanted:
        name = wanted[0]
        detail = f"{objective.type} takes what a {name} gives, and the net ends in {ends_in or 'something else'}."
        other = "bce_with_logits" if objective.type == "bce" else "cross_entropy"
        hint = f'End the net in a {name}, or use {{"type": "{other}"}}, which takes logits.'
        if objective.type in ("kl_div", "ctc"):
            return [Entry(NET, f"{name}-missing", detail, hint=f"End the net in a {name}.")]
        return [Entry(NET, f"{name}-missing", detail, hint=hint)]
    if ends_in not in _TAKES_LOGITS.get(objective.type, ()):
        return []
    name = ends_in.lower()
    detail = f"The net ends in a {name}, and {objective.type} applies one too: it takes logits."
    hint = f"Leave the {name} out; a classifier's answers carry probabilities all the same."
    return [Entry(NET, f"{name}-twice", detail, hint=hint)]


_ENDS_IN: Final = {
    "nll": ("logsoftmax",),
    "kl_div": ("logsoftmax", "logsigmoid"),
    "ctc": ("logsoftmax",),
    "bce": ("sigmoid", "hardsigmoid", "softmax"),
}
"""What a net ends in whose objective does not do it itself."""

_TAKES_LOGITS: Final = {
    "cross_entropy": ("Softmax", "softmax"),
    "softmax_focal": ("Softmax", "softmax"),
    "bce_with_logits": ("Sigmoid", "sigmoid"),
    "sigmoid_focal": ("Sigmoid", "sigmoid"),
    "dice": ("Sigmoid", "sigmoid"),
}
"""What a net does not end in whose objective does it itself."""

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


def _normalizes(judgement: Judgement) -> bool:
    """Whether the net scales its inputs itself."""
    layers = (layer["type"] for layer in (judgement.summary or {})["layers"])
    return "Norm" in next((kind for kind in layers if kind not in ("Sequential", "Graph")), "")


def _row_mistakes(row: Sequence[int], wanted: Sequence[Size], place: int = 0) -> list[Entry]:
    if fits(row, wanted):
        return []
    hint = None
    numbers = [size for size in wanted if isinstance(size, int)]
    if not row and list(wanted) == [1]:
        hint = "Give each row as a list: [[0.5], [0.7]] instead of [0.5, 0.7]."
    elif list(row) == [1] and not wanted:
        hint = 'One column makes rows of one number: declare the input as ["B", 1], and let the forward take '
        hint += "squeeze(…, 1) of it."
    elif len(numbers) == len(wanted) and math.prod(numbers) == math.prod(row):
        hint = f'Fold the rows with "shape": {numbers} in the source, or declare the input as {["B", *row]}.'
    elif len(row) == len(wanted) == 1:
        hint = (
            f"A row of the dataset has {row[0]} numbers once preprocessed: use in_features {row[0]}, or for a net of "
        )
        hint += 'the catalogue "auto".'
    return [
        Entry(
            f"/architecture/inputs/{place}/shape",
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
            return [Entry(NET, "batch-of-one", detail, layer=path or None, hint=hint)]
    return []


def _dtype_mistakes(
    manifest: DatasetManifest, steps: Sequence[PreprocessingStep], dtype: str, place: int = 0
) -> list[Entry]:
    if dtype.startswith(("float", "bfloat")):
        return []
    scaled = any(
        (isinstance(s, (Standardize, MinMax, Log)) and s.of == "inputs") or isinstance(s, (Normalize, Resize))
        for s in steps
    )
    floats = [c for c in manifest.columns if c.role == "input" and c.dtype == "float"]
    if not floats and not scaled:
        return []
    detail = (
        f"The net takes {dtype}, but {'scaled inputs are' if scaled else f'{floats[0].name!r} is'} not whole numbers."
    )
    hint = 'Declare the input with "dtype": "float32".'
    return [Entry(f"/architecture/inputs/{place}/dtype", "dtype-mismatch", detail, hint=hint)]


def _pattern_mistakes(config: TrainingConfig, architecture: Architecture) -> list[Entry]:
    """Patterns of groups and of what is frozen that name no tensor of the net."""
    rows = state_rows(architecture)
    trained = [name for name, row in rows.items() if row.kind == "parameter"]
    found = []
    groups = [(f"/optimizer/groups/{i}/match", group.match) for i, group in enumerate(config.optimizer.groups)]
    init = config.init.freeze if config.init is not None else ()
    held = [(f"/init/freeze/{i}", glob.removeprefix("!")) for i, glob in enumerate(init)]
    for known, patterns in ((trained, groups), (list(rows), held)):
        if len(patterns) * len(known) > MAX_MATCHES:
            at = patterns[0][0].rpartition("/")[0].removesuffix("/0")
            detail = f"{len(patterns)} patterns over {len(known)} tensors are too many to try."
            hint = "Use fewer patterns: ** stands for any number of names."
            found.append(Entry(at, "too-many", detail, hint=hint, expected=f"at most {MAX_MATCHES} together"))
            continue
        for at, pattern in patterns:
            if not frozen(known, (pattern,)):
                layers = dict.fromkeys(name.rpartition(".")[0] for name in known if "." in name)
                detail = f"{shorten(pattern)} names no tensor of the net."
                hint = nearest_hint(pattern, list(layers)) or f"It has: {', '.join(layers)[:200]}."
                found.append(Entry(at, "unknown-path", detail, hint=hint))
    return found
