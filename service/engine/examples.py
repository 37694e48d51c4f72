"""Examples: the rows of a stored dataset as arrays, their split into parts, and their targets as class indices.

Knows no source and no net: what is stored was checked when it was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, assert_never

import numpy as np
import torch
from torch import Tensor

from service.engine.mapped import Array
from service.engine.readers import dtype_of, refuse
from service.errors import MAX_ENTRIES, DatasetRefused, Entry, listed, shorten
from service.schemas.datasets import (
    Column,
    ColumnSplit,
    DatasetManifest,
    FixedSplit,
    RandomSplit,
    Split,
    StratifiedSplit,
    TimeSplit,
)
from service.schemas.document import nearest_hint

MAX_CLASSES: Final = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class FreeText:
    """A column of free text: the UTF-8 bytes of all rows, and where each row's end."""

    data: Array
    ends: Array

    def rows(self, chosen: Array | None = None) -> Iterator[str]:
        """The texts of these rows, or of all."""
        for row in range(len(self.ends)) if chosen is None else chosen.tolist():
            start = int(self.ends[row - 1]) if row else 0
            yield bytes(self.data[start : int(self.ends[row])]).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """The rows of a stored dataset, as arrays that are read from disk as they are touched."""

    manifest: DatasetManifest
    numbers: Array
    """[rows, k] in a table of k number columns, [rows, …] in an array; NaN is missing."""
    codes: Array
    """[rows, m] in a table of m text columns: indices into each column's `classes`; −1 is missing."""
    targets: Array | None
    """[rows, …] numbers, or [rows] class indices (manifest.target)."""
    texts: tuple[FreeText, ...] = ()
    """The input columns of free text, in order; the column has no `classes`, and no place in `codes`."""
    kept: Array | None = None
    """[rows, k] of the kept columns that are numbers or times."""
    kept_codes: Array | None = None
    """[rows, m] of those that are texts."""
    parts: tuple[tuple[str, Examples], ...] = ()
    """Where a dataset has several inputs, each as a dataset of its own, with the same targets."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.manifest.rows

    @property
    def inputs(self) -> tuple[Examples, ...]:
        """One dataset for each input: this one, where there is one."""
        return tuple(part for _, part in self.parts) or (self,)

    @property
    def input_columns(self) -> tuple[Column, ...]:
        """The columns of a row, in order."""
        return tuple(column for column in self.manifest.columns if column.role == "input")

    def text(self, name: str, chosen: Array | None = None) -> Iterator[str]:
        """The texts of an input column, "" where one is missing."""
        free = [column.name for column in self.input_columns if column.free]
        if name in free:
            yield from self.texts[free.index(name)].rows(chosen)
            return
        coded = [column for column in self.input_columns if column.dtype == "text" and not column.free]
        place = next(i for i, column in enumerate(coded) if column.name == name)
        categories = coded[place].classes or ()
        codes = self.codes[:, place] if chosen is None else self.codes[chosen, place]
        for code in codes.tolist():
            yield categories[code] if code >= 0 else ""


def open_dataset(folder: Path, manifest: DatasetManifest) -> Examples:
    """The arrays of a materialized dataset, mapped and not copied."""
    present = {file.name for file in manifest.files}

    def array(name: str) -> Array:
        if name not in present:
            return np.empty((manifest.rows, 0), dtype=np.float32)
        if (folder / name).stat().st_size == _header_size(folder / name):  # an empty file cannot be mapped
            return np.load(folder / name, allow_pickle=False)
        return np.load(folder / name, mmap_mode="r", allow_pickle=False)

    def found(name: str) -> Array | None:
        return array(name) if name in present else None

    free = [column for column in manifest.columns if column.free]
    texts = [FreeText(array(f"text-{i}.npy"), array(f"text-ends-{i}.npy")) for i in range(len(free))]
    targets = array("targets.npy") if manifest.target is not None else None
    kept, kept_codes = found("kept.npy"), found("kept-codes.npy")
    parts = []
    for i, part in enumerate(manifest.inputs or ()):
        columns = [column for column in manifest.columns if column.role != "input" or column.input == part.name]
        about = manifest.model_copy(
            update={"layout": part.layout, "row_shape": part.row_shape, "columns": tuple(columns), "inputs": None}
        )
        numbers = array(f"numeric-{i}.npy" if part.layout == "table" else f"inputs-{i}.npy")
        own = tuple(text for text, column in zip(texts, free, strict=True) if column.input == part.name)
        one = Examples(about, numbers, array(f"codes-{i}.npy"), targets, own, kept, kept_codes)
        parts.append((part.name, one))
    if parts:
        first = parts[0][1]
        return Examples(manifest, first.numbers, first.codes, targets, tuple(texts), kept, kept_codes, tuple(parts))
    numbers = array("numeric.npy" if manifest.layout == "table" else "inputs.npy")
    return Examples(manifest, numbers, array("codes.npy"), targets, tuple(texts), kept, kept_codes)


def _header_size(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(10)
    return 10 + int.from_bytes(head[8:10], "little")


def split_rows(split: Split | None, examples: Examples, *, at: str = "/split") -> dict[str, Tensor]:
    """Row numbers of each part, sorted: "train" always, "val" and "test" where the split promises them.

    Raises:
        DatasetRefused: a part would be empty, a stratified split has no classes, or a column or a row is not there.
    """
    if split is None:
        return {"train": torch.arange(examples.rows)}
    match split:
        case RandomSplit():
            rows = _drawn(split, [torch.arange(examples.rows)])
        case StratifiedSplit():
            labels = _labels(examples, at)
            rows = _drawn(split, [torch.nonzero(labels == label)[:, 0] for label in torch.unique(labels)])
        case TimeSplit():
            rows = _by_time(split, examples, at)
        case ColumnSplit():
            rows = _by_column(split, examples, at)
        case FixedSplit():
            rows = _by_number(split, examples, at)
        case _:
            assert_never(split)
    for name in split.parts:
        if len(rows[name]) == 0:
            called = {"train": "training", "val": "validation", "test": "test"}[name]
            raise DatasetRefused(
                f"The split leaves no {called} rows.",
                errors=[
                    Entry(
                        at,
                        "empty-split",
                        f"The split leaves no {called} rows out of {examples.rows}.",
                        hint="Give more rows, or other fractions."
                        if isinstance(split, (RandomSplit, StratifiedSplit, TimeSplit))
                        else "Name other rows or values.",
                    )
                ],
            )
    return {name: rows[name] for name in split.parts}


def _drawn(split: RandomSplit | StratifiedSplit, groups: list[Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(split.seed)
    parts: dict[str, list[Tensor]] = {"train": [], "val": [], "test": []}
    for group in groups:
        drawn = group[torch.randperm(len(group), generator=generator)]
        test = round(len(group) * split.test)
        val = round(len(group) * split.validation)
        parts["test"].append(drawn[:test])
        parts["val"].append(drawn[test : test + val])
        parts["train"].append(drawn[test + val :])
    return {name: torch.cat(pieces).sort().values for name, pieces in parts.items()}


def _by_time(split: TimeSplit, examples: Examples, at: str) -> dict[str, Tensor]:
    rows = examples.rows
    keys = torch.arange(rows, dtype=torch.float64)
    if split.by is not None:
        values, column = _stored(split.by, examples, f"{at}/by")
        if column.dtype == "text":
            detail = f"Column {shorten(split.by)} has texts ({shorten((column.classes or ('',))[0])}), not times."
            hint = "Write times as 2024-05-31 or 2024-05-31T12:00:00Z, and name the column in the source's `kept`."
            _refuse_split(Entry(f"{at}/by", "wrong-type", detail, hint=hint))
        keys = torch.from_numpy(np.array(values, dtype=np.float64).reshape(rows))
        if bool(keys.isnan().any()):
            detail = f"Column {shorten(split.by)} has no value in row {int(keys.isnan().nonzero()[0])}."
            _refuse_split(Entry(f"{at}/by", "missing-value", detail))
    order = torch.argsort(keys, stable=True)
    ordered = keys[order]

    def end(place: int) -> int:
        """The first row at or behind `place` whose time is another one than that of the row before."""
        while 0 < place < rows and ordered[place] == ordered[place - 1]:
            place = int(torch.searchsorted(ordered, ordered[place], right=True))
        return place

    test = round(rows * split.test)
    val = end(rows - test - round(rows * split.validation))
    last = max(val, end(rows - test))
    found = {"train": order[:val], "val": order[val:last], "test": order[last:]}
    return {name: part.sort().values for name, part in found.items()}


def _by_column(split: ColumnSplit, examples: Examples, at: str) -> dict[str, Tensor]:
    values, column = _stored(split.by, examples, f"{at}/by")
    part_of = np.full(examples.rows, -1 if split.train is not None else 0, dtype=np.int8)
    found: list[Entry] = []
    groups = {"train": split.train or (), "validation": split.validation, "test": split.test}
    for code, (member, wanted) in enumerate(groups.items()):
        for place, value in enumerate(wanted):
            where = f"{at}/{member}/{place}"
            if column.classes is not None:
                name = str(value)
                if name not in column.classes:
                    detail = f"Column {shorten(split.by)} has no value {shorten(value)}."
                    shown = listed(column.classes)
                    found.append(
                        Entry(where, "unknown-value", detail, hint=nearest_hint(name, column.classes), expected=shown)
                    )
                    continue
                hit = values == column.classes.index(name)
            elif isinstance(value, str):
                detail = f"Column {shorten(split.by)} has numbers; {shorten(value)} is a text."
                found.append(Entry(where, "wrong-type", detail))
                continue
            else:
                hit = values == value
                if not hit.any():
                    detail = f"Column {shorten(split.by)} has no value {shorten(value)}."
                    found.append(Entry(where, "unknown-value", detail))
            part_of[hit] = code
    if found:
        _refuse_split(*found)
    return {
        name: torch.from_numpy(np.flatnonzero(part_of == code)) for code, name in enumerate(("train", "val", "test"))
    }


def _by_number(split: FixedSplit, examples: Examples, at: str) -> dict[str, Tensor]:
    part_of = np.zeros(examples.rows, dtype=np.int8)
    found: list[Entry] = []
    for code, (member, wanted) in enumerate((("validation", split.validation), ("test", split.test)), start=1):
        for place, entry in enumerate(wanted):
            start, end = entry if isinstance(entry, tuple) else (entry, entry + 1)
            if end > examples.rows:
                detail = f"There are {examples.rows} rows, counted from 0; row {end - 1} is none."
                most = f"at most {examples.rows}, the row behind the last, as a pair's end"
                found.append(Entry(f"{at}/{member}/{place}", "out-of-range", detail, expected=most))
            elif code == 2 and (part_of[start:end] == 1).any():
                detail = f"Row {start + int(np.argmax(part_of[start:end] == 1))} is a validation row already."
                found.append(Entry(f"{at}/{member}/{place}", "duplicate", detail, hint="Take it out of one of them."))
            part_of[start:end] = code
    if found:
        _refuse_split(*found)
    return {
        name: torch.from_numpy(np.flatnonzero(part_of == code)) for code, name in enumerate(("train", "val", "test"))
    }


def _stored(name: str, examples: Examples, at: str) -> tuple[Array, Column]:
    """[rows] of a column that was stored: kept, input or target; numbers, or codes into its classes."""
    found = next((each for each in _columns(examples) if each[1].name == name), None)
    if found is None:
        known = [column.name for _, column in _columns(examples)]
        detail = f"The dataset has not stored a column {shorten(name)}."
        hint = nearest_hint(name, known) or 'Name it in the source: "kept": ["…"].'
        _refuse_split(Entry(at, "unknown-column", detail, hint=hint))
    return np.asarray(found[0]), found[1]


def _columns(examples: Examples) -> Iterator[tuple[Array, Column]]:
    """The columns with one value a row, each with its values."""
    for part in examples.inputs:
        table = part.manifest.layout == "table"
        inputs = [column for column in part.input_columns if table and not column.free]
        kept = [column for column in part.manifest.columns if column.role == "kept"]
        for columns, numbers, codes in ((inputs, part.numbers, part.codes), (kept, part.kept, part.kept_codes)):
            places = {True: 0, False: 0}
            for column in columns:
                is_text = column.dtype == "text"
                values = codes if is_text else numbers
                assert values is not None
                yield values[:, places[is_text]], column
                places[is_text] += 1
    target = next((column for column in examples.manifest.columns if column.role == "target"), None)
    if target is not None and examples.targets is not None and examples.targets.size == examples.rows:
        yield examples.targets.reshape(examples.rows), target


def _refuse_split(*found: Entry) -> NoReturn:
    raise DatasetRefused(found[0].detail, errors=list(found[:MAX_ENTRIES]))


def class_indices(
    examples: Examples, *, classes: tuple[str, ...] | None = None, width: int | None = None, at: str = "/dataset"
) -> tuple[Tensor, tuple[str, ...]]:
    """The targets as class indices for cross entropy.

    Class names are mapped to their index. Whole numbers of a CSV column are names too; those of other sources are
    indices as they are, and the classes are then called "0", "1", ….

    Args:
        examples: with targets.
        classes: those of a version, whose order is kept.
        width: outputs of the net, for the number of classes where only indices are known.
        at: pointer to the dataset in the request.

    Returns:
        int64 [rows] and the names of the classes in the order of the indices.

    Raises:
        DatasetRefused: targets are no classes, or are of classes that the version does not know.
    """
    manifest, targets = examples.manifest, examples.targets
    if targets is None or manifest.target is None:
        _refuse_target(at, "no-target", "The dataset has no targets.")
    if manifest.target == "class":
        names = manifest.classes or ()
        codes = torch.from_numpy(np.array(targets, dtype=np.int64))
    else:
        values = np.array(targets)
        if values.ndim != 1 and values.shape[1:] != (1,):
            detail = f"Cross entropy takes one class a row; the targets have the shape {list(values.shape)}."
            _refuse_target(at, "shape-mismatch", detail, "Give each row one name or one whole number.")
        if dtype_of(values) != "int":
            detail = "Cross entropy takes classes; the targets are not whole numbers."
            _refuse_target(at, "wrong-type", detail, 'Use {"type": "mse"} for numbers to be met.')
        values = values.reshape(-1).astype(np.int64)
        if not manifest.target_labels:
            return _plain_indices(values, classes, width, at)
        distinct, inverse = np.unique(values, return_inverse=True)
        if len(distinct) > MAX_CLASSES:
            _refuse_target(at, "out-of-range", f"The targets have more than {MAX_CLASSES} different values.")
        names = tuple(map(str, distinct.tolist()))
        codes = torch.from_numpy(inverse.astype(np.int64))
    if classes is None or classes == names:
        return codes, names
    place = {name: index for index, name in enumerate(classes)}
    used = set(torch.unique(codes).tolist())
    unknown = [name for code, name in enumerate(names) if code in used and name not in place]
    if unknown:
        refuse(
            Entry(
                at,
                "unknown-class",
                f"The model does not know the class {shorten(name)}.",
                hint=nearest_hint(name, classes),
                expected=listed(classes),
            )
            for name in unknown
        )
    order = torch.tensor([place.get(name, -1) for name in names], dtype=torch.int64)
    return order[codes], classes


def _plain_indices(
    values: Array, classes: tuple[str, ...] | None, width: int | None, at: str
) -> tuple[Tensor, tuple[str, ...]]:
    low, high = int(values.min()), int(values.max())
    count = len(classes) if classes is not None else max(width or 0, high + 1)
    if low < 0 or high >= count or count > MAX_CLASSES:
        detail = f"Class {low if low < 0 else high} is not an index into {min(count, MAX_CLASSES)} classes."
        _refuse_target(at, "label-out-of-range", detail, "Count the classes from 0, or give their names as texts.")
    return torch.from_numpy(values), classes or tuple(str(i) for i in range(count))


def _labels(examples: Examples, at: str) -> Tensor:
    """int64 [rows]: what rows are stratified by."""
    targets = examples.targets
    if targets is None or targets.size != examples.rows or dtype_of(np.array(targets)) != "int":
        raise DatasetRefused(
            "A stratified split needs classes.",
            errors=[
                Entry(
                    at,
                    "no-classes",
                    "A stratified split keeps the fractions of each class, but the targets are no classes.",
                    hint='Use {"type": "random"}.',
                )
            ],
        )
    return torch.from_numpy(np.array(targets, dtype=np.int64).reshape(-1))


def _refuse_target(at: str, code: str, detail: str, hint: str | None = None) -> NoReturn:
    raise DatasetRefused(detail, errors=[Entry(at, code, detail, hint=hint)])
