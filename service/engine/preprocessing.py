"""Fitting preprocessing on training rows, and applying the fitted document: raw rows to what the net takes, and back.

One code path for training, evaluation and predict. Statistics are taken in float64. Knows no folder and no net.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np
import torch
from torch import Tensor

from service.engine.examples import Examples, class_indices
from service.engine.readers import Array, refuse
from service.errors import MAX_ENTRIES, DtypeMismatch, Entry, NotFinite, shorten
from service.schemas.document import nearest_hint, pointer
from service.schemas.preprocessing import (
    MAX_RANGES,
    ArrayRow,
    ClassTarget,
    FittedMinMax,
    FittedOneHot,
    FittedStandardize,
    FittedStep,
    NumberColumn,
    NumberTarget,
    Preprocessing,
    RowColumn,
    Scaling,
    TableRow,
    TextColumn,
    TrainingRange,
)
from service.schemas.training import (
    BceWithLogits,
    CrossEntropy,
    MinMax,
    Objective,
    OneHot,
    PreprocessingStep,
    Standardize,
)

_CHUNK: Final = 2**20
"""Numbers that are scaled at a time, so that a large array is never in memory as float64."""

_MOST_CHOICES: Final = 500
"""Looking for the nearest text is slow."""


def fit(
    steps: Sequence[PreprocessingStep],
    examples: Examples,
    rows: Tensor,
    *,
    objective: Objective,
    classes: tuple[str, ...] | None = None,
) -> tuple[Preprocessing, list[Entry]]:
    """Fit `steps` on the training rows alone.

    Args:
        steps: as the request has them; `agreement.agree` has found nothing wrong with them.
        examples: the dataset.
        rows: int64 numbers of the training rows.
        objective: says what the targets are.
        classes: names in the order of the net's outputs, for targets that are classes.

    Returns:
        The fitted document, and warnings with pointers such as /preprocessing/0.
    """
    manifest = examples.manifest
    chosen = rows.numpy()
    numbers = np.asarray(examples.numbers)[chosen]
    warnings: list[Entry] = []
    row: TableRow | ArrayRow
    if manifest.layout == "array":
        row = ArrayRow(row_shape=manifest.row_shape)
    else:
        row = TableRow(columns=tuple(_row_columns(examples, chosen)))
    fitted: list[FittedStep] = []
    target_steps: list[Scaling] = []
    scaled = Scaler(row, ())
    target_row = ArrayRow(row_shape=_target_shape(examples))
    for i, step in enumerate(steps):
        at = f"/preprocessing/{i}"
        match step:
            case OneHot():
                texts = tuple(column.name for column in row.texts) if isinstance(row, TableRow) else ()
                fitted.append(FittedOneHot(columns=texts if step.columns == "*" else step.columns))
            case Standardize() | MinMax() if step.of == "target":
                targets = np.asarray(examples.targets)[chosen].reshape(-1, *target_row.row_shape)
                targets = Scaler(target_row, target_steps).apply(targets)
                target_steps.append(_fit_scaling(step, target_row, targets, at, warnings))
            case Standardize() | MinMax():
                one = _fit_scaling(step, row, scaled.apply(numbers), at, warnings)
                fitted.append(one)
                scaled = Scaler(row, (*scaled.steps, one))
            case _:
                assert_never(step)
    target: NumberTarget | ClassTarget | None = None
    if classes is not None and isinstance(objective, CrossEntropy):
        target = ClassTarget(classes=classes)
    elif classes is not None and isinstance(objective, BceWithLogits):
        target = ClassTarget(classes=classes, probabilities="sigmoid")
    elif manifest.target is not None:
        target = NumberTarget(steps=tuple(target_steps))
    document = Preprocessing(row=row, steps=tuple(fitted), training_range=_range(numbers), target=target)
    return document, warnings


class Preprocessor:
    """A fitted document, ready to be applied.

    Rows come as two arrays, as in a stored dataset: `numbers` [N, k] with the number columns of a table in order, or
    [N, *row_shape]; `codes` [N, m] with, for each text column, the index into its `categories`, −1 for a text that
    is not among them.
    """

    def __init__(self, document: Preprocessing) -> None:
        self.document = document
        row = document.row
        self._texts = row.texts if isinstance(row, TableRow) else ()
        self._scaler = Scaler(row, [step for step in document.steps if not isinstance(step, FittedOneHot)])
        self._widths = (
            [len(c.categories) if isinstance(c, TextColumn) else 1 for c in row.columns]
            if isinstance(row, TableRow)
            else []
        )
        target = document.target
        # scaling of targets is by the first dimension of a row, which for [1] or [k] is the output's number
        self._target_steps = target.steps if isinstance(target, NumberTarget) else ()
        limits = document.training_range
        self._low = None if limits is None else np.array(limits.low)
        self._high = None if limits is None else np.array(limits.high)

    @property
    def scales_target(self) -> bool:
        """Whether the net's answers are in other units than the targets, so that `invert_target` does something."""
        return bool(self._target_steps)

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of a row as the net gets it; None where nothing is known (an imported version)."""
        row = self.document.row
        if row is None:
            return None
        return row.row_shape if isinstance(row, ArrayRow) else (sum(self._widths),)

    def inputs(self, numbers: Array, codes: Array | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the net takes: [N, *row_shape], one-hot numbers in the place of their column.

        Raises:
            DtypeMismatch: `dtype` is integral and a number is not whole (entries point to /inputs/ROW/…).
            NotFinite: a number overflows `dtype`.
        """
        if self._texts:
            assembled = self._assemble(numbers, codes)
            return cast(assembled, dtype)
        if not self._scaler.steps:
            return cast(numbers, dtype)
        out = torch.empty(numbers.shape, dtype=dtype)
        for start, stop in _chunks(numbers):
            out[start:stop] = cast(self._scaler.apply(numbers[start:stop]), dtype, first_row=start)
        return out

    def example_inputs(self, examples: Examples, rows: Tensor | None = None, *, dtype: torch.dtype) -> Tensor:
        """The rows of a dataset as the net takes them; columns are found by name, texts by the version's categories.

        Raises:
            DatasetRefused: the dataset's rows are not like those that the version was trained on.
            DtypeMismatch, NotFinite: as `inputs`.
        """
        found = self.row_mistakes(examples)
        if found:
            refuse(found)
        numbers, codes = examples.numbers, examples.codes
        row = self.document.row
        if isinstance(row, TableRow):
            inputs = [column for column in examples.manifest.columns if column.role == "input"]
            places = {c.name: i for i, c in enumerate(c for c in inputs if c.dtype != "text")}
            order = [places[name] for name in row.numbers]
            if order != list(range(numbers.shape[1])):
                numbers = np.asarray(numbers)[:, order]
            texts = {c.name: (i, c) for i, c in enumerate(c for c in inputs if c.dtype == "text")}
            recoded = []
            for column in row.texts:
                place, stored = texts[column.name]
                index = {category: code for code, category in enumerate(column.categories)}
                mapping = np.array([index.get(category, -1) for category in stored.classes or ()], dtype=np.int64)
                recoded.append(mapping[np.asarray(codes)[:, place]])
            codes = np.stack(recoded, axis=1) if recoded else codes
        if rows is not None:
            chosen = rows.numpy()
            numbers, codes = np.asarray(numbers)[chosen], np.asarray(codes)[chosen]
        return self.inputs(np.asarray(numbers), np.asarray(codes), dtype=dtype)

    def row_mistakes(self, examples: Examples, *, at: str = "/dataset") -> list[Entry]:
        """Why this dataset's rows cannot be given to this version; empty when they can."""
        row, manifest = self.document.row, examples.manifest
        if row is None:
            return []
        if isinstance(row, ArrayRow):
            if manifest.layout == "array" and manifest.row_shape == row.row_shape:
                return []
            ours, theirs = list(row.row_shape), list(manifest.row_shape)
            detail = f"A row of the dataset has the shape {theirs}, the model takes rows of the shape {ours}."
            return [Entry(at, "shape-mismatch", detail)]
        known = {column.name: column for column in manifest.columns if column.role == "input"}
        found = []
        for column in row.columns:
            other = known.get(column.name)
            kind = "text" if isinstance(column, TextColumn) else "number"
            if other is None or manifest.layout != "table":
                detail = f"The dataset has no input column {shorten(column.name)}."
                found.append(Entry(at, "unknown-column", detail, hint=nearest_hint(column.name, known)))
            elif (other.dtype == "text") != (kind == "text"):
                detail = f"Column {shorten(column.name)} holds {other.dtype}s, the model was trained on {kind}s."
                found.append(Entry(at, "wrong-type", detail))
        return found[:MAX_ENTRIES]

    def targets(
        self,
        examples: Examples,
        rows: Tensor | None = None,
        *,
        objective: Objective,
        dtype: torch.dtype = torch.float32,
        width: int | None = None,
    ) -> Tensor:
        """The targets as the objective takes them: int64 [N] for cross entropy, else scaled numbers [N, …].

        Flat targets become [N, 1]; with binary cross entropy, class codes do too.

        Raises:
            DatasetRefused: there are none, or they are of classes that the version does not know.
        """
        target = self.document.target
        classes = target.classes if isinstance(target, ClassTarget) else None
        if isinstance(objective, CrossEntropy):
            indices, _ = class_indices(examples, classes=classes, width=width)
            return indices if rows is None else indices[rows]
        if examples.targets is None:
            refuse([Entry("/dataset", "no-target", "The dataset has no targets.")])
        if isinstance(objective, BceWithLogits) and classes is not None:
            indices, _ = class_indices(examples, classes=classes)
            values = indices.numpy()
        else:
            values = np.asarray(examples.targets)
        if rows is not None:
            values = values[rows.numpy()]
        shape = _target_shape(examples)
        values = Scaler(ArrayRow(row_shape=shape), self._target_steps).apply(values.reshape(len(values), *shape))
        return cast(values, dtype, at="/dataset/targets")

    def invert_target(self, outputs: Tensor) -> Tensor:
        """The net's answers [N, …] in the target's own units, computed in float64 and given in their own dtype."""
        if not self._target_steps:
            return outputs
        values = outputs.detach().to(torch.float64)
        shape = (-1, *[1] * (outputs.dim() - 2)) if outputs.dim() > 1 else ()
        for step in reversed(self._target_steps):
            scale, shift = _scale_and_shift(step)
            values = values * torch.from_numpy(scale).to(values.device).reshape(shape)
            values = values + torch.from_numpy(shift).to(values.device).reshape(shape)
        return values.to(outputs.dtype)

    def unfamiliar(
        self, numbers: Array, codes: Array | None = None, *, rows: Sequence[object] = (), at: str = "/inputs"
    ) -> list[Entry]:
        """A warning for each value unlike those of training, row by row; at most 20, the last counts the rest.

        Args:
            numbers: [N, …], as `inputs` takes them.
            codes: [N, m], −1 for a text that is not among the categories.
            rows: what was sent; into rows that are objects, pointers go by column name.
            at: the pointer to `rows`.
        """
        row = self.document.row
        columns = row.columns if isinstance(row, TableRow) else ()
        of_numbers = [place for place, column in enumerate(columns) if isinstance(column, NumberColumn)]
        of_texts = [(place, column) for place, column in enumerate(columns) if isinstance(column, TextColumn)]
        flat = numbers.reshape(len(numbers), -1)
        outside = unseen = np.zeros((0, 2), dtype=np.int64)
        if self._low is not None and self._high is not None:
            outside = np.argwhere((flat < self._low) | (flat > self._high))
        if codes is not None and of_texts:
            unseen = np.argwhere(codes < 0)
        found: list[tuple[int, int, Entry]] = []
        for index, number in outside[:MAX_ENTRIES].tolist():
            place = of_numbers[number] if columns else number
            entry = Entry(
                self._pointer(at, rows, index, place, numbers.shape[1:]),
                "outside-training-range",
                f"{self._called(number)} lies outside what the model was trained on.",
                expected=self._limits(number),
                got=f"{flat[index, number]:.6g}",
            )
            found.append((index, place, entry))
        for index, number in unseen[:MAX_ENTRIES].tolist():
            place, column = of_texts[number]
            sent = rows[index] if rows else None
            text = sent[column.name] if isinstance(sent, dict) else sent[place] if isinstance(sent, list) else None
            entry = Entry(
                self._pointer(at, rows, index, place, ()),
                "unknown-category",
                f"This text of column {shorten(column.name)} was not among the training rows; it counts as none.",
                hint=None if text is None else nearest_hint(text, column.categories[:_MOST_CHOICES]),
                expected=shorten(", ".join(column.categories[:10])),
                got=None if text is None else shorten(text),
            )
            found.append((index, place, entry))
        found.sort(key=lambda item: item[:2])
        count = len(outside) + len(unseen)
        told = [entry for _, _, entry in found[: MAX_ENTRIES - 1 if count > MAX_ENTRIES else MAX_ENTRIES]]
        if count > len(told):
            detail = f"{count - len(told)} more values lie outside what the model was trained on."
            told.append(Entry(at, "outside-training-range" if len(outside) else "unknown-category", detail))
        return told

    def _pointer(self, at: str, rows: Sequence[object], index: int, place: int, shape: tuple[int, ...]) -> str:
        """The pointer to one value of a row: `place` counts the columns of a table, or the numbers of an array."""
        row = self.document.row
        if isinstance(row, TableRow):
            by_name = bool(rows) and isinstance(rows[index], dict)
            return pointer([index, row.columns[place].name if by_name else place], at)
        return pointer([index, *(map(int, np.unravel_index(place, shape)) if shape else ())], at)

    def _limits(self, number: int) -> str | None:
        if self._low is None or self._high is None:
            return None
        at = 0 if len(self._low) == 1 else number  # one range for all
        return f"{self._low[at]:.6g} to {self._high[at]:.6g}"

    def _assemble(self, numbers: Array, codes: Array | None) -> Array:
        """Scaled numbers and one-hot numbers side by side, each in its column's place: float64 [N, width]."""
        row = self.document.row
        if not isinstance(row, TableRow) or codes is None:
            raise TypeError("rows with texts need their codes")
        scaled = self._scaler.apply(numbers)
        out = np.zeros((len(codes), sum(self._widths)))
        at = number = text = 0
        for column, width in zip(row.columns, self._widths, strict=True):
            if isinstance(column, TextColumn):
                seen = np.flatnonzero(codes[:, text] >= 0)
                out[seen, at + codes[seen, text]] = 1
                text += 1
            else:
                out[:, at] = scaled[:, number]
                number += 1
            at += width
        return out

    def _called(self, column: int) -> str:
        row = self.document.row
        return f"Column {row.numbers[column]!r}" if isinstance(row, TableRow) else "This number"


@dataclass(frozen=True, slots=True)
class _Affine:
    """(x − shift) / scale over some columns of a row; None is all of them."""

    columns: list[int] | None
    shift: Array
    scale: Array


class Scaler:
    """Scaling steps in order, for rows of one shape; float64 throughout."""

    def __init__(self, row: TableRow | ArrayRow | None, steps: Sequence[FittedStep]) -> None:
        self.steps = tuple(steps)
        self._affine = [_affine(row, step) for step in steps if not isinstance(step, FittedOneHot)]

    def apply(self, numbers: Array) -> Array:
        """Scaled copy of `numbers` in float64; `numbers` themselves when there is nothing to do."""
        if not self._affine:
            return numbers
        out = numbers.astype(np.float64)
        for one in self._affine:
            if one.columns is None:
                out -= one.shift
                out /= one.scale
            else:
                out[:, one.columns] = (out[:, one.columns] - one.shift) / one.scale
        return out


def cast(values: Array, dtype: torch.dtype, *, first_row: int = 0, at: str = "/inputs") -> Tensor:
    """The numbers as a tensor of `dtype`, when that does not change what they are; `at` points to them.

    Raises:
        DtypeMismatch: `dtype` is integral and a number is not whole, or does not fit it.
        NotFinite: a number overflows a floating `dtype`.
    """
    source = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    result = source.to(dtype)
    if not dtype.is_floating_point:
        wrong = result.to(source.dtype) != source
        if bool(wrong.any()):
            what = f"The net takes {str(dtype).removeprefix('torch.')}; this number would change."
            raise DtypeMismatch(errors=_at_places(wrong, source, "dtype-mismatch", what, first_row, at))
    elif source.dtype.is_floating_point and not bool(torch.isfinite(result).all()):
        what = f"This number is not finite as {str(dtype).removeprefix('torch.')}."
        raise NotFinite(errors=_at_places(~torch.isfinite(result), source, "not-finite", what, first_row, at))
    return result


def _at_places(wrong: Tensor, source: Tensor, code: str, detail: str, first_row: int, at: str) -> list[Entry]:
    return [
        Entry(
            pointer([place[0] + first_row, *place[1:]] if place else (), at),
            code,
            detail,
            got=shorten(source[tuple(place)].item()),
        )
        for place in torch.nonzero(wrong)[:MAX_ENTRIES].tolist()
    ]


def _affine(row: TableRow | ArrayRow | None, step: Scaling) -> _Affine:
    scale, shift = _scale_and_shift(step)
    if isinstance(row, TableRow):
        place = {name: i for i, name in enumerate(row.numbers)}
        columns = [place[name] for name in step.columns or ()]
        return _Affine(None if columns == list(range(len(place))) else columns, shift, scale)
    rank = len(row.row_shape) if row is not None else 1
    shape = (-1, *[1] * (rank - 1)) if rank else ()
    return _Affine(None, shift.reshape(shape), scale.reshape(shape))


def _scale_and_shift(step: Scaling) -> tuple[Array, Array]:
    match step:
        case FittedStandardize():
            return np.array(step.std), np.array(step.mean)
        case FittedMinMax():
            low = np.array(step.low)
            return np.array(step.high) - low, low
        case _:
            assert_never(step)


def _fit_scaling(
    step: Standardize | MinMax, row: TableRow | ArrayRow, numbers: Array, at: str, warnings: list[Entry]
) -> Scaling:
    """Statistics of `numbers` [N, …], which the steps before have scaled already."""
    names: tuple[str, ...] | None = None
    if isinstance(row, TableRow):
        names = row.numbers if step.columns == "*" else step.columns
        place = {name: i for i, name in enumerate(row.numbers)}
        numbers = numbers[:, [place[name] for name in names]]
    if numbers.ndim == 1:
        numbers = numbers[:, None]
    axes = (0, *range(2, numbers.ndim))
    low, high = numbers.min(axis=axes).astype(np.float64), numbers.max(axis=axes).astype(np.float64)
    constant = low == high
    for i in np.flatnonzero(constant)[:MAX_ENTRIES]:
        what = f"Column {names[i]!r}" if names else "The target" if step.of == "target" else f"Entry {i} of a row"
        detail = f"{what} has one value, {low[i]:.6g}, in all training rows; it is only shifted."
        warnings.append(Entry(at, "constant-column", detail))
    if isinstance(step, MinMax):
        return FittedMinMax(columns=names, low=_floats(low), high=_floats(np.where(constant, low + 1, high)))
    mean, std = numbers.mean(axis=axes, dtype=np.float64), numbers.std(axis=axes, dtype=np.float64)
    mean = np.where(constant, low, mean)  # a mean of equal numbers is off by a rounding
    return FittedStandardize(columns=names, mean=_floats(mean), std=_floats(np.where(constant | (std == 0), 1.0, std)))


def _row_columns(examples: Examples, rows: Array) -> Iterator[RowColumn]:
    text = 0
    for column in examples.manifest.columns:
        if column.role != "input":
            continue
        if column.dtype != "text":
            yield NumberColumn(name=column.name)
            continue
        seen = np.unique(np.asarray(examples.codes)[rows, text])
        yield TextColumn(name=column.name, categories=tuple((column.classes or ())[code] for code in seen))
        text += 1


def _range(numbers: Array) -> TrainingRange | None:
    flat = numbers.reshape(len(numbers), -1)
    if flat.shape[1] == 0:
        return None
    if flat.shape[1] > MAX_RANGES:
        return TrainingRange(low=(float(flat.min()),), high=(float(flat.max()),))
    return TrainingRange(low=_floats(flat.min(axis=0)), high=_floats(flat.max(axis=0)))


def _target_shape(examples: Examples) -> tuple[int, ...]:
    """Shape of one target as a loss over numbers takes it."""
    if examples.targets is None:
        return ()
    flat = examples.manifest.target_flat or examples.manifest.target == "class"
    return (1,) if flat else tuple(examples.targets.shape[1:])


def _chunks(numbers: Array) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK // max(1, math.prod(numbers.shape[1:])))
    for start in range(0, len(numbers), step):
        yield start, min(start + step, len(numbers))


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(map(float, values))
