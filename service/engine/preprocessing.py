"""Fitting preprocessing on training rows, and applying the fitted document: raw rows to what the net takes, and back.

One code path for training, evaluation and predict. What the steps do to numbers is in `stages`. Knows no net.
"""

from __future__ import annotations

import math
import warnings as python_warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor

from service.engine.examples import Examples, class_indices
from service.engine.mapped import PIECE, Array
from service.engine.readers import refuse
from service.engine.stages import WHOLE, Stages, TrainingNumbers, fit_stage, floats, inverted, value_range
from service.errors import MAX_ENTRIES, DtypeMismatch, Entry, NotFinite, ValidationFailed, listed, shorten
from service.schemas.document import nearest_hint, pointer
from service.schemas.objectives import Objective, tells_two_classes
from service.schemas.preprocessing import (
    MAX_RANGES,
    ArrayRow,
    ClassTarget,
    FittedImpute,
    FittedLog,
    FittedMinMax,
    FittedNumbers,
    FittedOneHot,
    FittedStandardize,
    FittedStep,
    FittedTokens,
    FittedVocabulary,
    NumberColumn,
    NumberTarget,
    PreparedInput,
    Preprocessing,
    RowColumn,
    Scaling,
    TableRow,
    TextColumn,
    TokensColumn,
    TrainingRange,
    words_of,
)
from service.schemas.transforms import (
    Augmenting,
    OneHot,
    PreprocessingStep,
    TextStep,
    Tokens,
    Vocabulary,
)

_MOST_CHOICES: Final = 500
"""Looking for the nearest text is slow."""


def fit(
    steps: Sequence[PreprocessingStep],
    examples: Examples,
    rows: Tensor,
    *,
    objective: Objective,
    classes: tuple[str, ...] | None = None,
    inputs: Sequence[str] = (),
) -> tuple[Preprocessing, list[Entry]]:
    """Fit `steps` on the training rows alone.

    Args:
        steps: as the request has them; `agreement.agree` has found nothing wrong with them. Those that only augment are
            passed over, see `augmentation`.
        examples: the dataset.
        rows: int64 numbers of the training rows.
        objective: says what the targets are.
        classes: names in the order of the net's outputs, for targets that are classes.
        inputs: names of the net's inputs in order, for a dataset with several.

    Returns:
        The fitted document, and warnings with pointers such as /preprocessing/0.

    Raises:
        DatasetRefused: the training rows do not suit a step.
    """
    chosen = rows.numpy()
    warnings: list[Entry] = []
    parts = sorted(examples.parts, key=lambda part: inputs.index(part[0]) if part[0] in inputs else len(inputs))
    numbered = [(f"/preprocessing/{i}", step) for i, step in enumerate(steps) if not isinstance(step, Augmenting)]
    of_target = [(at, step) for at, step in numbered if getattr(step, "of", "inputs") == "target"]
    of_inputs = [(at, step) for at, step in numbered if getattr(step, "of", "inputs") == "inputs"]
    fitted = [
        _fit_input(
            [(at, step) for at, step in of_inputs if not examples.parts or step.input == name], part, chosen, warnings
        )
        for name, part in parts or (("", examples),)
    ]
    target: NumberTarget | ClassTarget | None = None
    if classes is not None and objective.targets == "classes":
        target = ClassTarget(classes=classes)
    elif classes is not None and tells_two_classes(objective):
        target = ClassTarget(classes=classes, probabilities="sigmoid")
    elif examples.manifest.target is not None:
        target = NumberTarget(steps=tuple(_fit_target(of_target, examples, chosen, warnings)))
    if not examples.parts:
        row, done, limits = fitted[0]
        return Preprocessing(row=row, steps=done, training_range=limits, target=target), warnings
    prepared = tuple(
        PreparedInput(name=name, row=row, steps=done, training_range=limits)
        for (name, _), (row, done, limits) in zip(parts, fitted, strict=True)
    )
    return Preprocessing(inputs=prepared, target=target), warnings


def assigned(steps: Sequence[PreprocessingStep], examples: Examples) -> dict[str, TextStep]:
    """Which step makes numbers of each text column of an input; columns that none does are not there.

    A step that names a column goes before one that takes all ("*"). Of those, `tokens` takes the columns of free text,
    and every text column where there is no such.
    """
    texts = [column for column in examples.input_columns if column.dtype == "text"]
    free = {column.name for column in texts if column.free}
    found: dict[str, TextStep] = {}
    for step in steps:
        if isinstance(step, TextStep) and step.columns != "*":
            for name in step.columns:
                found.setdefault(name, step)
    for step in steps:
        if isinstance(step, TextStep) and step.columns == "*":
            for column in texts:
                if (column.name in free or not free) if isinstance(step, Tokens) else column.name not in free:
                    found.setdefault(column.name, step)
    return {column.name: found[column.name] for column in texts if column.name in found}


def _fit_input(
    steps: Sequence[tuple[str, PreprocessingStep]], examples: Examples, chosen: Array, warnings: list[Entry]
) -> tuple[TableRow | ArrayRow, tuple[FittedStep, ...], TrainingRange | None]:
    manifest = examples.manifest
    texts = assigned([step for _, step in steps], examples)
    row: TableRow | ArrayRow
    if manifest.layout == "array":
        row = ArrayRow(row_shape=manifest.row_shape, image=manifest.image)
    else:
        row = TableRow(columns=tuple(_row_columns(examples, chosen, texts)))
    fitted: list[FittedStep] = []
    for at, step in steps:
        match step:
            case OneHot() | Vocabulary() | Tokens():
                names = tuple(name for name, one in texts.items() if one is step)
                if isinstance(step, OneHot):
                    fitted.append(FittedOneHot(columns=names))
                elif isinstance(step, Vocabulary):
                    fitted.append(FittedVocabulary(columns=names, unknown=step.unknown))
                else:
                    fitted.append(FittedTokens(columns=names))
            case _ if isinstance(step, Augmenting):
                continue
            case _:
                stages = Stages(row, fitted)
                numbers = TrainingNumbers(examples.numbers, chosen, stages)
                one, told = fit_stage(step, row, numbers, stages.row_shape, at)
                fitted.append(one)
                warnings += told
    imputed = {name for step in fitted if isinstance(step, FittedImpute) for name in step.columns}
    if imputed and isinstance(row, TableRow):
        columns = (
            column.model_copy(update={"optional": True})
            if isinstance(column, NumberColumn) and column.name in imputed
            else column
            for column in row.columns
        )
        row = TableRow(columns=tuple(columns))
    limits = value_range(examples.numbers, chosen, single=MAX_RANGES)
    reach = None if limits is None else TrainingRange(low=floats(limits[0]), high=floats(limits[1]))
    return row, tuple(fitted), reach


def _fit_target(
    steps: Sequence[tuple[str, PreprocessingStep]], examples: Examples, chosen: Array, warnings: list[Entry]
) -> Iterator[Scaling]:
    row = ArrayRow(row_shape=_target_shape(examples))
    fitted: list[FittedStep] = []
    for at, step in steps:
        assert not isinstance(step, (TextStep, Augmenting))
        targets = np.asarray(examples.targets).reshape(-1, *row.row_shape)
        one, told = fit_stage(step, row, TrainingNumbers(targets, chosen, Stages(row, fitted)), row.row_shape, at)
        assert isinstance(one, (FittedStandardize, FittedMinMax, FittedLog))
        fitted.append(one)
        warnings += told
        yield one


class Prepared:
    """The fitted steps of one input, ready to be applied.

    Rows come as two arrays, as in a stored dataset: `numbers` [N, k] with the number columns of a table in order, or
    [N, *row_shape]; `codes` [N, m] with, for each text column, the index into its `categories`, −1 for a text that
    is not among them, and for a column of free text the numbers of its words, `max_length` of them.
    """

    def __init__(
        self,
        row: TableRow | ArrayRow | None,
        steps: Sequence[FittedStep],
        training_range: TrainingRange | None,
    ) -> None:
        self.row = row
        self._stages = Stages(row, steps)
        self._texts = row.texts if isinstance(row, TableRow) else ()
        one_hot = {name for step in steps if isinstance(step, FittedOneHot) for name in step.columns}
        self._one_hot = one_hot
        self._strict = {
            name
            for step in steps
            if isinstance(step, FittedVocabulary) and step.unknown == "error"
            for name in step.columns
        }
        self._widths = [self._width(column) for column in row.columns] if isinstance(row, TableRow) else []
        self._low = None if training_range is None else np.array(training_range.low)
        self._high = None if training_range is None else np.array(training_range.high)
        self._fills = _fills(row, steps) if isinstance(row, TableRow) else {}

    def _width(self, column: RowColumn) -> int:
        match column:
            case TextColumn():
                return len(column.categories) if column.name in self._one_hot else 1
            case TokensColumn():
                return column.max_length
            case _:
                return 1

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of a row as the net gets it; None where nothing is known (an imported version)."""
        if self.row is None:
            return None
        return self._stages.row_shape if isinstance(self.row, ArrayRow) else (sum(self._widths),)

    def inputs(
        self,
        numbers: Array,
        codes: Array | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        first_row: int = 0,
        at: str = "/inputs",
    ) -> Tensor:
        """What the net takes: [N, *row_shape], what becomes of a text in the place of its column.

        Raises:
            DtypeMismatch: `dtype` is integral and a number is not whole (entries point to `at`/ROW/…).
            NotFinite: a number overflows `dtype`, or has become none.
            ValidationFailed: a text is unknown, and the version was told to refuse those.
        """
        if self._texts:
            return cast(self._assemble(numbers, codes, first_row, at), dtype, first_row=first_row, at=at)
        if not self._stages.steps:
            return cast(numbers, dtype, first_row=first_row, at=at)
        shape = self.row_shape if self.row is not None else numbers.shape[1:]
        out = torch.empty((len(numbers), *(shape or ())), dtype=dtype)
        for start, stop in _chunks(numbers):
            out[start:stop] = cast(self._stages.apply(numbers[start:stop]), dtype, first_row=first_row + start, at=at)
        return out

    def example_inputs(
        self,
        examples: Examples,
        rows: Tensor | None = None,
        *,
        dtype: torch.dtype,
        at: str = "/dataset",
        scratch: Path | None = None,
    ) -> Tensor:
        """The rows of a dataset as the net takes them; columns are found by name, texts by the version's categories.

        Args:
            examples: the dataset, or the part of it that is this input.
            rows: int64 numbers of the rows; None is all.
            dtype: what the net takes.
            at: the pointer to the dataset.
            scratch: a folder; a large answer is made in a file there, which has no name any more and goes with the
                tensor, so that it takes no private memory.

        Raises:
            DatasetRefused: the dataset's rows are not like those that the version was trained on.
            DtypeMismatch, NotFinite, ValidationFailed: as `inputs`.
        """
        found = self.row_mistakes(examples, at=at)
        if found:
            refuse(found)
        chosen = np.arange(examples.rows) if rows is None else rows.numpy()
        width = max(math.prod(examples.numbers.shape[1:]), math.prod(self.row_shape or ()), 1)
        if len(chosen) * width <= WHOLE and not any(column.free for column in examples.input_columns):
            return self.inputs(*self.raw(examples, chosen), dtype=dtype)
        if len(chosen) == examples.rows and self._passes(examples.numbers, dtype):
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore", UserWarning)  # that it may not be written: nobody does
                return torch.from_numpy(examples.numbers)
        step = max(1, PIECE // width)
        out: Tensor | None = None
        for start in range(0, len(chosen), step):
            part = self.inputs(*self.raw(examples, chosen[start : start + step]), dtype=dtype, first_row=start)
            if out is None:
                out = _roomy((len(chosen), *part.shape[1:]), dtype, scratch)
            out[start : start + len(part)] = part
        assert out is not None
        return out

    def _passes(self, numbers: Array, dtype: torch.dtype) -> bool:
        """Whether stored numbers are what the net takes, as they lie there."""
        if self._texts or self._stages.steps or not isinstance(numbers, np.memmap):
            return False
        return torch.from_numpy(np.empty(0, numbers.dtype)).dtype == dtype

    def raw(self, examples: Examples, chosen: Array) -> tuple[Array, Array]:
        """Rows of a dataset as a client would send them: numbers, and the codes of texts by the version's categories.

        Args:
            examples: a dataset without `row_mistakes`.
            chosen: int64 numbers of the rows.
        """
        numbers = np.asarray(examples.numbers)[chosen]
        if not isinstance(self.row, TableRow):
            return numbers, np.empty((len(chosen), 0), dtype=np.int64)
        stored = {c.name: (i, c) for i, c in enumerate(c for c in examples.input_columns if c.dtype != "text")}
        order = [stored[name][0] for name in self.row.numbers]
        if order != list(range(examples.numbers.shape[1])):
            numbers = numbers[:, order]
        coded = [c for c in examples.input_columns if c.dtype == "text" and not c.free]
        texts = {c.name: (i, c) for i, c in enumerate(coded)}
        pieces: list[Array] = []
        for column in self._texts:
            if isinstance(column, TokensColumn):
                found = [column.encode(text) for text in examples.text(column.name, chosen)]
                pieces.append(np.array(found, dtype=np.int64).reshape(len(chosen), column.max_length))
                continue
            place, about = texts[column.name]
            known = [column.encode(category)[0] for category in about.classes or ()]
            mapping = np.array([*known, -1], dtype=np.int64)  # the last is that of −1, a missing one
            pieces.append(mapping[np.asarray(examples.codes[:, place])[chosen]][:, None])
        codes = np.concatenate(pieces, axis=1) if pieces else np.empty((len(chosen), 0), dtype=np.int64)
        return numbers, codes

    def row_mistakes(self, examples: Examples, *, at: str = "/dataset") -> list[Entry]:
        """Why this dataset's rows cannot be given to this input; empty when they can."""
        row, manifest = self.row, examples.manifest
        if row is None:
            return []
        if isinstance(row, ArrayRow):
            if manifest.layout == "array" and manifest.row_shape == row.row_shape:
                return []
            ours, theirs = list(row.row_shape), list(manifest.row_shape)
            detail = f"A row of the dataset has the shape {theirs}, the model takes rows of the shape {ours}."
            return [Entry(at, "shape-mismatch", detail)]
        known = {column.name: column for column in examples.input_columns}
        found = []
        for column in row.columns:
            other = known.get(column.name)
            kind = "number" if isinstance(column, NumberColumn) else "text"
            if other is None or manifest.layout != "table":
                detail = f"The dataset has no input column {shorten(column.name)}."
                there = listed(list(known)) or "none"
                hint = nearest_hint(column.name, known)
                hint = hint or f"The model was trained on a column of this name; the dataset has: {there}."
                found.append(Entry(at, "unknown-column", detail, hint=hint))
            elif (other.dtype == "text") != (kind == "text"):
                detail = f"Column {shorten(column.name)} holds {other.dtype}s, the model was trained on {kind}s."
                found.append(Entry(at, "wrong-type", detail))
            elif other.free and isinstance(column, TextColumn):
                detail = f"Column {shorten(column.name)} is free text, the model was trained on categories."
                found.append(Entry(at, "wrong-type", detail, hint="Leave it out of `free_text`."))
            elif other.missing and isinstance(column, NumberColumn) and not column.optional:
                detail = (
                    f"Column {shorten(column.name)} has {other.missing} missing values; the model was told of none."
                )
                found.append(Entry(at, "missing-value", detail, hint='Train with {"type": "impute"}.'))
        return found[:MAX_ENTRIES]

    @property
    def passes(self) -> bool:
        """Whether the net takes a row's numbers as they are."""
        return not self._texts and not self._stages.steps

    def familiar(self, numbers: Array, codes: Array | None = None) -> bool:
        """Whether `unfamiliar` has surely nothing to warn of: a cheap look at all rows of a batch."""
        if codes is not None and self._texts:
            return False
        if self._low is None or self._high is None:
            return True
        flat = numbers.reshape(len(numbers), -1)
        return bool(((flat >= self._low) & (flat <= self._high)).all())  # where a number is missing it is neither

    def unfamiliar(
        self, numbers: Array, codes: Array | None = None, *, rows: Sequence[object] = (), at: str = "/inputs"
    ) -> list[Entry]:
        """A warning for each column with missing values, and for each value unlike those of training, row by row; at
        most 20, the last counts the rest.

        Args:
            numbers: [N, …], as `inputs` takes them.
            codes: [N, m], −1 for a text that is not among the categories.
            rows: what was sent; into rows that are objects, pointers go by column name.
            at: the pointer to `rows`.
        """
        row = self.row
        columns = row.columns if isinstance(row, TableRow) else ()
        of_numbers = [place for place, column in enumerate(columns) if isinstance(column, NumberColumn)]
        of_texts = [(place, column) for place, column in enumerate(columns) if isinstance(column, TextColumn)]
        starts = np.cumsum([0, *(column.codes for column in self._texts)])
        code_of = [
            int(start) for start, column in zip(starts, self._texts, strict=False) if isinstance(column, TextColumn)
        ]
        flat = numbers.reshape(len(numbers), -1)
        outside = unseen = np.zeros((0, 2), dtype=np.int64)
        if self._low is not None and self._high is not None:
            outside = np.argwhere((flat < self._low) | (flat > self._high))
        if codes is not None and of_texts:
            unseen = np.argwhere(codes[:, code_of] < 0)
        gaps: dict[int, list[int]] = {}  # by the column's place: the rows in which it has no value
        if self._fills and bool((empty := np.isnan(flat)).any()):
            gaps = {of_numbers[number]: np.flatnonzero(empty[:, number]).tolist() for number in self._fills}
            gaps = {place: absent for place, absent in gaps.items() if absent}
        if len(unseen) and rows and any(column.optional for _, column in of_texts):
            absent_texts = np.array([_sent(rows[index], *of_texts[number]) is None for index, number in unseen], bool)
            for index, number in unseen[absent_texts].tolist():
                gaps.setdefault(of_texts[number][0], []).append(index)
            unseen = unseen[~absent_texts]
        missing = [self._missing(at, rows, place, absent) for place, absent in sorted(gaps.items())]
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
            text = _sent(rows[index], place, column) if rows else None
            entry = Entry(
                self._pointer(at, rows, index, place, ()),
                "unknown-category",
                (
                    f"This text of column {shorten(column.name)} was not among the training rows; "
                    + ("it counts as none." if column.name in self._one_hot else "it counts as unknown.")
                ),
                hint=None if text is None else nearest_hint(text, column.categories[:_MOST_CHOICES]),
                expected=listed(column.categories),
                got=None if text is None else shorten(text),
            )
            found.append((index, place, entry))
        found.sort(key=lambda item: item[:2])
        count = len(missing) + len(outside) + len(unseen)
        told = [*missing, *(entry for _, _, entry in found)]
        if count > MAX_ENTRIES:
            told = told[: MAX_ENTRIES - 1]
            strange = len(outside) + len(unseen) > 0
            what = "values lie outside what the model was trained on" if strange else "columns have missing values"
            code = "outside-training-range" if len(outside) else "unknown-category" if len(unseen) else "missing-value"
            told.append(Entry(at, code, f"{count - len(told)} more {what}."))
        return told

    def _missing(self, at: str, rows: Sequence[object], place: int, absent: Sequence[int]) -> Entry:
        """The warning that a column has no value in some rows, and what was taken for it."""
        assert isinstance(self.row, TableRow)
        column = self.row.columns[place]
        taken = "it counts as none of the known texts"
        if isinstance(column, NumberColumn):
            value = self._fills[self.row.numbers.index(column.name)]
            taken = "it was filled in" if value is None else f"{value:.6g} was taken for it"
        where = "" if len(absent) == 1 else f" in {len(absent)} rows, of which this is the first"
        detail = f"Column {shorten(column.name)} has no value{where}; {taken}."
        return Entry(self._pointer(at, rows, absent[0], place, ()), "missing-value", detail)

    def pointer_to(self, numbers: Array, rows: Sequence[object], place: Sequence[int], *, at: str) -> str:
        """The pointer to the raw value that stands at a place [row, …] of what the net takes.

        Args:
            numbers: the raw rows.
            rows: what was sent; into rows that are objects it goes by column name.
            place: the row first.
            at: the pointer to `rows`.
        """
        index, *inner = place
        if isinstance(self.row, TableRow):
            column = int(np.searchsorted(np.cumsum(self._widths), inner[0], side="right"))
            return self._pointer(at, rows, index, column, ())
        moved = self.row_shape is not None and tuple(self.row_shape) != numbers.shape[1:]
        return pointer([index] if moved else [index, *inner], at)

    def _pointer(self, at: str, rows: Sequence[object], index: int, place: int, shape: tuple[int, ...]) -> str:
        """The pointer to one value of a row: `place` counts the columns of a table, or the numbers of an array."""
        row = self.row
        if isinstance(row, TableRow):
            by_name = bool(rows) and isinstance(rows[index], dict)
            return pointer([index, row.columns[place].name if by_name else place], at)
        return pointer([index, *(map(int, np.unravel_index(place, shape)) if shape else ())], at)

    def _limits(self, number: int) -> str | None:
        if self._low is None or self._high is None:
            return None
        at = 0 if len(self._low) == 1 else number  # one range for all
        return f"{self._low[at]:.6g} to {self._high[at]:.6g}"

    def _assemble(self, numbers: Array, codes: Array | None, first_row: int, at: str) -> Array:
        """Numbers behind their steps and what became of texts side by side, each in its column's place: float64
        [N, width]."""
        row = self.row
        if not isinstance(row, TableRow) or codes is None:
            raise TypeError("rows with texts need their codes")
        scaled = self._stages.apply(numbers)
        out = np.zeros((len(codes), sum(self._widths)))
        at_column = number = code = 0
        for place, (column, width) in enumerate(zip(row.columns, self._widths, strict=True)):
            match column:
                case TokensColumn():
                    out[:, at_column : at_column + width] = codes[:, code : code + width]
                case TextColumn() if column.name in self._one_hot:
                    seen = np.flatnonzero(codes[:, code] >= 0)
                    out[seen, at_column + codes[seen, code]] = 1
                case TextColumn():
                    unknown = codes[:, code] < 0
                    if column.name in self._strict and unknown.any():
                        self._refuse_unknown(column, place, np.flatnonzero(unknown), first_row, at)
                    out[:, at_column] = np.where(unknown, len(column.categories), codes[:, code])
                case _:
                    out[:, at_column] = scaled[:, number]
                    number += 1
            code += 0 if isinstance(column, NumberColumn) else column.codes
            at_column += width
        return out

    @staticmethod
    def _refuse_unknown(column: TextColumn, place: int, rows: Array, first_row: int, at: str) -> NoReturn:
        detail = f"This text of column {shorten(column.name)} was not among the training rows."
        known = listed(column.categories)
        raise ValidationFailed(
            errors=[
                Entry(pointer([first_row + row, place], at), "unknown-category", detail, expected=known)
                for row in rows[:MAX_ENTRIES].tolist()
            ],
            more=max(0, len(rows) - MAX_ENTRIES),
        )

    def _called(self, column: int) -> str:
        row = self.row
        return f"Column {row.numbers[column]!r}" if isinstance(row, TableRow) else "This number"


def _fills(row: TableRow, steps: Sequence[FittedStep]) -> dict[int, float | None]:
    """By the place of a number that may be missing, what is taken for it; None where that is in another unit."""
    found: dict[int, float | None] = {}
    changed: set[str] = set()
    for step in steps:
        if isinstance(step, FittedImpute):
            for name, value in zip(step.columns, step.value, strict=True):
                found.setdefault(row.numbers.index(name), None if name in changed else value)
        elif isinstance(step, FittedNumbers):
            changed.update(row.numbers if step.columns is None else step.columns)
    return found


def _sent(row: object, place: int, column: RowColumn) -> Any:
    """The value of a column in a row as it was sent."""
    return row[column.name] if isinstance(row, dict) else row[place] if isinstance(row, list) else None


class Preprocessor:
    """A fitted document, ready to be applied: `parts` has the steps of each input, and the target's are here."""

    def __init__(self, document: Preprocessing) -> None:
        self.document = document
        self.parts = (
            (Prepared(document.row, document.steps, document.training_range),)
            if document.inputs is None
            else tuple(Prepared(part.row, part.steps, part.training_range) for part in document.inputs)
        )
        target = document.target
        # scaling of targets is by the first dimension of a row, which for [1] or [k] is the output's number
        self._target_steps = target.steps if isinstance(target, NumberTarget) else ()

    @property
    def scales_target(self) -> bool:
        """Whether the net's answers are in other units than the targets, so that `invert_target` does something."""
        return bool(self._target_steps)

    def part(self, place: int) -> Prepared:
        """The steps of one of the net's inputs; of an imported version none is known, and all are the same."""
        return self.parts[place if self.document.inputs is not None else 0]

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Of the only input: shape of a row as the net gets it; None where nothing is known (an imported version)."""
        return self.parts[0].row_shape

    def inputs(self, numbers: Array, codes: Array | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the net takes as its only input, see `Prepared.inputs`."""
        return self.parts[0].inputs(numbers, codes, dtype=dtype)

    def example_inputs(
        self, examples: Examples, rows: Tensor | None = None, *, dtype: torch.dtype, scratch: Path | None = None
    ) -> Tensor:
        """The rows of a dataset as the net takes them as its only input, see `Prepared.example_inputs`."""
        return self.parts[0].example_inputs(examples, rows, dtype=dtype, scratch=scratch)

    def all_inputs(
        self,
        examples: Examples,
        rows: Tensor | None = None,
        *,
        dtypes: Mapping[str, torch.dtype],
        scratch: Path | None = None,
    ) -> tuple[Tensor, ...]:
        """The rows of a dataset as tensors for each of the net's inputs.

        Args:
            examples: with one part for each input, found by its name; or without parts, for a net with one input.
            rows: int64 numbers of the rows; None is all.
            dtypes: what each input takes, by name, in the order of the net's inputs.
            scratch: see `Prepared.example_inputs`.

        Raises:
            DatasetRefused: the dataset has no such part, or rows that are unlike those of training.
        """
        if len(dtypes) == 1 and not examples.parts:
            [dtype] = dtypes.values()
            return (self.example_inputs(examples, rows, dtype=dtype, scratch=scratch),)
        found = self.row_mistakes(examples)
        if not found and set(dtypes) != {name for name, _ in examples.parts}:
            names = ", ".join(name for name, _ in examples.parts) or "one without a name"
            detail = f"The net takes {', '.join(dtypes)}; the dataset has {names}."
            found = [Entry("/dataset", "shape-mismatch", detail)]
        if found:
            refuse(found)
        part_of = dict(examples.parts)
        prepared = {part.name: one for part, one in zip(self.document.inputs or (), self.parts, strict=False)}
        return tuple(
            prepared.get(name, self.parts[0]).example_inputs(part_of[name], rows, dtype=dtype, scratch=scratch)
            for name, dtype in dtypes.items()
        )

    def raw(self, examples: Examples, chosen: Array) -> list[tuple[Array, Array | None]]:
        """Rows of a dataset as a client would send them: for each input numbers, and codes where it has texts."""
        part_of = dict(examples.parts)
        named = [(part_of[part.name], one) for part, one in zip(self.document.inputs or (), self.parts, strict=False)]
        found = []
        for part, one in named or [(examples, self.parts[0])]:
            numbers, codes = one.raw(part, chosen)
            found.append((numbers, codes if codes.shape[1] else None))
        return found

    def row_mistakes(self, examples: Examples, *, at: str = "/dataset") -> list[Entry]:
        """Why this dataset's rows cannot be given to this version; empty when they can."""
        if self.document.inputs is None and examples.parts and self.document.row is not None:
            detail = f"The dataset has {len(examples.parts)} inputs, the model takes one."
            return [Entry(at, "shape-mismatch", detail)]
        part_of = dict(examples.parts)
        found = []
        for part, one in zip(self.document.inputs or (), self.parts, strict=False):
            if part.name not in part_of:
                detail = f"The dataset has no input {shorten(part.name)}."
                found.append(Entry(at, "unknown-member", detail, hint=nearest_hint(part.name, part_of)))
            else:
                found += one.row_mistakes(part_of[part.name], at=at)
        return found[:MAX_ENTRIES] if self.document.inputs is not None else self.parts[0].row_mistakes(examples, at=at)

    def unfamiliar(
        self, numbers: Array, codes: Array | None = None, *, rows: Sequence[object] = (), at: str = "/inputs"
    ) -> list[Entry]:
        """Warnings about rows of the only input, see `Prepared.unfamiliar`."""
        return self.parts[0].unfamiliar(numbers, codes, rows=rows, at=at)

    def targets(
        self,
        examples: Examples,
        rows: Tensor | None = None,
        *,
        objective: Objective,
        dtype: torch.dtype = torch.float32,
        width: int | None = None,
    ) -> Tensor:
        """The targets as the objective takes them: int64 [N] for losses over classes, else scaled numbers [N, …].

        Flat targets become [N, 1]; with binary cross entropy, class codes do too.

        Raises:
            DatasetRefused: there are none, or they are of classes that the version does not know.
        """
        target = self.document.target
        classes = target.classes if isinstance(target, ClassTarget) else None
        if objective.targets == "classes":
            indices, _ = class_indices(examples, classes=classes, width=width)
            return indices if rows is None else indices[rows]
        if examples.targets is None:
            refuse([Entry("/dataset", "no-target", "The dataset has no targets.")])
        if tells_two_classes(objective) and classes is not None:
            indices, _ = class_indices(examples, classes=classes)
            values = indices.numpy()
        else:
            values = np.asarray(examples.targets)
        if rows is not None:
            values = values[rows.numpy()]
        shape = _target_shape(examples)
        values = Stages(ArrayRow(row_shape=shape), self._target_steps).apply(values.reshape(len(values), *shape))
        return cast(values, dtype, at="/dataset/targets")

    def invert_target(self, outputs: Tensor) -> Tensor:
        """The net's answers [N, …] in the target's own units, computed in float64 and given in their own dtype."""
        return inverted(self._target_steps, outputs) if self._target_steps else outputs


def cast(values: Array, dtype: torch.dtype, *, first_row: int = 0, at: str = "/inputs") -> Tensor:
    """The numbers as a tensor of `dtype`, when that does not change what they are; `at` points to them.

    Raises:
        DtypeMismatch: `dtype` is integral and a number is not whole, or does not fit it.
        NotFinite: a number overflows a floating `dtype`.
    """
    source = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    result = source if source.dtype == dtype else source.to(dtype)
    if not dtype.is_floating_point:
        wrong = result.to(source.dtype) != source
        if bool(wrong.any()):
            what = f"The net takes {str(dtype).removeprefix('torch.')}; this number would change."
            raise DtypeMismatch(errors=_at_places(wrong, source, "dtype-mismatch", what, first_row, at))
    elif source.dtype.is_floating_point and not _finite(result):
        what = f"This number is not finite as {str(dtype).removeprefix('torch.')}."
        raise NotFinite(errors=_at_places(~torch.isfinite(result), source, "not-finite", what, first_row, at))
    return result


def _finite(numbers: Tensor) -> bool:
    """Whether all of them are: by the sum of their squares at a glance, one by one where that says no."""
    if numbers.dtype in (torch.float32, torch.float64):
        flat = numbers.reshape(-1)
        if math.isfinite(torch.dot(flat, flat).item()):
            return True
    return bool(torch.isfinite(numbers).all())


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


def _row_columns(examples: Examples, rows: Array, steps: Mapping[str, TextStep]) -> Iterator[RowColumn]:
    """The columns of a raw row; texts have the categories or the words of the training rows."""
    place = 0
    for column in examples.input_columns:
        step = steps.get(column.name)
        if column.dtype != "text":
            yield NumberColumn(name=column.name)
            continue
        if isinstance(step, Tokens):
            yield TokensColumn(
                name=column.name, words=_words(examples.text(column.name, rows), step), max_length=step.max_length
            )
        elif not column.free:
            seen = np.unique(np.asarray(examples.codes[:, place])[rows])
            categories = tuple((column.classes or ())[code] for code in seen if code >= 0)
            yield TextColumn(name=column.name, categories=categories, optional=True if column.missing else None)
        place += not column.free


def _words(texts: Iterator[str], step: Tokens) -> tuple[str, ...]:
    """The vocabulary: the most frequent word first, those of the same count in the order of the alphabet."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words_of(text))
    common = sorted(
        ((word, count) for word, count in counts.items() if count >= step.min_count),
        key=lambda item: (-item[1], item[0]),
    )
    return tuple(word for word, _ in common[: step.max_words])


def _roomy(shape: tuple[int, ...], dtype: torch.dtype, scratch: Path | None) -> Tensor:
    """An uninitialized tensor: in memory, or if it is large and there is a folder in a file that has no name."""
    if scratch is None or math.prod(shape) <= WHOLE:
        return torch.empty(shape, dtype=dtype)
    path = scratch / f".rows-{np.random.default_rng().integers(2**62):x}"
    size = math.prod(shape)
    try:
        flat = torch.from_file(str(path), shared=True, size=size, dtype=dtype)
    finally:
        path.unlink(missing_ok=True)  # the mapping stays as long as the tensor
    return flat.reshape(shape)


def _target_shape(examples: Examples) -> tuple[int, ...]:
    """Shape of one target as a loss over numbers takes it."""
    if examples.targets is None:
        return ()
    flat = examples.manifest.target_flat or examples.manifest.target == "class"
    return (1,) if flat else tuple(examples.targets.shape[1:])


def _chunks(numbers: Array) -> Iterator[tuple[int, int]]:
    step = max(1, PIECE // max(1, math.prod(numbers.shape[1:])))
    for start in range(0, len(numbers), step):
        yield start, min(start + step, len(numbers))
