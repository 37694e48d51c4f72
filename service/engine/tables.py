"""Tables of every format: which columns are read, what a column becomes while its cells arrive, and the arrays at last.

A reader tells the names, hands over cells block by block, and asks for the result. Knows no file format, no dataset
folder and no tensor. Large columns go to files on the way (`mapped`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np

from service.engine.mapped import Array, Growing, Shelf, pieces
from service.engine.readers import (
    MAX_CATEGORIES,
    MAX_CELLS,
    MAX_COLUMNS,
    MAX_FIELD,
    MAX_TEXT,
    NO_TARGET,
    SKIP_UNLABELLED,
    Raw,
    bad_text,
    check_class_names,
    class_order,
    dtype_of,
    duplicates,
    folded,
    refuse,
    target_column,
    too_many_categories,
)
from service.errors import MAX_ENTRIES, Entry, listed, shorten
from service.schemas.datasets import MAX_ROWS, Column, InputPart, Table
from service.schemas.document import nearest_hint

MAX_KEPT: Final = 1_000_000
"""Different texts in a kept column: times may all differ."""

Role = Literal["input", "target", "kept"]


@dataclass(slots=True)
class TableColumn:
    """One column while it is read: numbers, or texts. Missing are NaN and the code −1, where the source allows them."""

    index: int
    name: str
    role: Role
    shelf: Shelf
    part: str | None = None
    free: bool = False
    is_text: bool = False
    late: bool = False
    """Turned out to be text after numbers were read; is read again."""
    missing: int = 0
    lookup: dict[str, int] = field(default_factory=dict)
    values: Growing = field(init=False)
    """float64 numbers, int32 codes into `lookup`, or uint8 bytes of free text."""
    ends: Growing = field(init=False)
    """Where each row's free text ends."""

    def __post_init__(self) -> None:
        self.is_text = self.is_text or self.free
        self.begin()

    def begin(self) -> None:
        """Forget what was read."""
        if hasattr(self, "values"):
            self.values.clear()
        self.late, self.missing = False, 0
        self.lookup.clear()
        self.values = self.shelf.growing(np.uint8 if self.free else np.int32 if self.is_text else np.float64)
        self.ends = self.shelf.growing(np.int64)

    def turn(self) -> None:
        """From here on it is a column of texts; if numbers were read before, all of it is to be read again."""
        self.is_text, seen = True, bool(self.values.rows)
        self.begin()
        self.late = seen

    def lacks_value(self, place: str, *, at: str, cell: str | None = None, hint: str | None = None) -> Entry:
        """The mistake that a value is missing where there must be one.

        Args:
            place: the line or the row.
            at: pointer to the upload.
            cell: what stands there, where something may.
            hint: what to do, other than keeping missing values.
        """
        stands = "" if cell is None else f" ({shorten(cell)})"
        detail = f"{place}, column {shorten(self.name)}: A value is missing{stands}."
        if self.role == "target":
            return Entry(at, "missing-value", detail, hint=NO_TARGET, expected=SKIP_UNLABELLED)
        return Entry(at, "missing-value", detail, hint=hint or 'Write "missing": "keep" in the source.')

    def add_numbers(self, numbers: Array) -> None:
        """Take float64 numbers, NaN for what is missing."""
        self.missing += int(np.isnan(numbers).sum())
        self.values.append(numbers)

    def add_texts(self, texts: Sequence[str | None], places: Sequence[str], found: list[Entry], *, at: str) -> None:
        """Take texts, None for what is missing; mistakes go to `found`, each with its place."""
        if self.free:
            self._add_free(texts, places, found, at=at)
            return
        most = MAX_KEPT if self.role == "kept" else MAX_CATEGORIES
        for text in dict.fromkeys(texts):
            if text is None:
                continue
            if problem := bad_text(text):
                code, detail = problem
                found += [
                    self.lacks_value(place, at=at)
                    if code == "missing-value"
                    else Entry(at, code, f"{place}, column {shorten(self.name)}: {detail}")
                    for place, other in zip(places, texts, strict=True)
                    if other == text
                ]
            self.lookup.setdefault(text, len(self.lookup))
        if len(self.lookup) > most:
            refuse([too_many_categories(at, self.name)])
        codes = (-1 if text is None else self.lookup[text] for text in texts)
        block = np.fromiter(codes, np.int32, len(texts))
        self.missing += int((block < 0).sum())
        self.values.append(block)

    def _add_free(self, texts: Sequence[str | None], places: Sequence[str], found: list[Entry], *, at: str) -> None:
        start = int(self.values.rows)
        blobs = []
        for text, place in zip(texts, places, strict=True):
            if text is not None and len(text) > MAX_FIELD:
                detail = f"{place}, column {shorten(self.name)}: The text is longer than {MAX_FIELD} characters."
                found.append(Entry(at, "too-large", detail))
            self.missing += text is None
            blobs.append(b"" if text is None else text.encode("utf-8", "replace"))
        self.values.append(np.frombuffer(b"".join(blobs), np.uint8))
        self.ends.append(start + np.cumsum([len(blob) for blob in blobs], dtype=np.int64))

    def encoded(self, categories: Sequence[str], dtype: type = np.int32) -> Array:
        """Codes [rows] into `categories`, −1 for what is missing."""
        place = {category: code for code, category in enumerate(categories)}
        order: Array = np.array([*(place[text] for text in self.lookup), -1], dtype=dtype)  # the last is that of −1
        return order[self.values.whole()]

    def times(self) -> Array | None:
        """Seconds since 1970 [rows], when every text of the column is a date or a time in ISO 8601."""
        seconds = []
        for text in self.lookup:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                return None
            seconds.append((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        return np.array([*seconds, np.nan])[self.values.whole()]


@dataclass(slots=True)
class Unlabelled:
    """The rows that are left out of a table since their target has no value; none are where `target` is None."""

    target: str | None
    count: int = 0
    first: int = 0
    """Line or row of the first."""

    def skip(self, places: Sequence[int]) -> None:
        """Count the rows at these places, in the order of the file."""
        if places and not self.count:
            self.first = places[0]
        self.count += len(places)

    def refuse_all(self, kept: int, *, at: str) -> None:
        """Refuse a table of which no row is left."""
        if self.count and not kept:
            detail = f"None of {self.count} rows has a value in column {shorten(self.target)}: all would be left out."
            hint = "Is it the column that is to be learnt?"
            refuse([Entry(f"{at}/target", "no-rows", detail, hint=hint)])

    def warnings(self, kept: int, *, at: str, word: str = "line") -> tuple[Entry, ...]:
        """The warning that counts the rows, where there are any."""
        if not self.count:
            return ()
        are = "is" if self.count == 1 else "are"
        which = f"{word} {self.first}{' is the first' if self.count > 1 else ''}"
        why = f"without a value in column {shorten(self.target)}"
        detail = f"{self.count} of {kept + self.count} rows {are} left out, {why} ({which})."
        return (Entry(f"{at}/upload", "unlabelled-rows", detail),)


def unlabelled(source: Table) -> Unlabelled:
    """What counts the rows that a source leaves out."""
    return Unlabelled(source.target if source.unlabelled == "skip" else None)


def chosen(
    names: Sequence[str], source: Table, shelf: Shelf, *, at: str, told: list[Entry] | None = None
) -> list[TableColumn]:
    """The columns that are read: inputs in order, the target, and what is kept.

    Args:
        names: of the file's columns.
        source: what the file is read as.
        shelf: where the columns lie.
        at: pointer to the source.
        told: gets what is wrong with the columns that the source names, instead of an error; then those come back that
            the file has, each once, so that their values can be looked at too.

    Raises:
        DatasetRefused: names are no names or stand twice, or the source names columns that are not there, or that
            cannot have the role.
    """
    check_class_names(source.classes, at=at)
    if len(names) > MAX_COLUMNS:
        refuse([Entry(f"{at}/upload", "too-large", f"The file has more than {MAX_COLUMNS} columns.")])
    found: list[Entry] = []
    place = {name: i for i, name in enumerate(names)}
    target, kept = source.target, source.kept
    unnamed = all(re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?", name) for name in names)

    def find(name: str, where: str) -> int:
        if name not in place:
            detail = f"The file has no column {shorten(name)}."
            hint = nearest_hint(name, names) or (
                "Does the file lack a line with names of columns?" if unnamed else None
            )
            found.append(Entry(where, "unknown-column", detail, hint=hint, expected=listed(names)))
        return place.get(name, -1)

    if target is not None:
        find(target, f"{at}/target")
    columns: list[TableColumn] = []
    if source.inputs == "*":
        others = {target, *kept}
        columns += [TableColumn(i, name, "input", shelf) for i, name in enumerate(names) if name not in others]
        if not columns:
            found.append(Entry(f"{at}/inputs", "invalid", "No column is left to be an input."))
    else:
        groups: Iterable[tuple[str | None, str, Sequence[str]]] = (
            [(part, f"{at}/inputs/{part}", tuple(group)) for part, group in source.inputs.items()]
            if isinstance(source.inputs, dict)
            else [(None, f"{at}/inputs", source.inputs)]
        )
        seen: dict[str, str] = {}
        for part, where, group in groups:
            columns += [
                TableColumn(find(name, f"{where}/{i}"), name, "input", shelf, part) for i, name in enumerate(group)
            ]
            found += duplicates(group, at=where)
            if target in group:
                detail = "The target cannot be an input too: the net would only copy it."
                found.append(Entry(f"{where}/{group.index(target or '')}", "invalid", detail))
            found += [
                Entry(f"{where}/{i}", "duplicate", f"{shorten(name)} belongs to {shorten(seen[name])} already.")
                for i, name in enumerate(group)
                if name in seen
            ]
            seen |= dict.fromkeys(group, str(part))
    inputs = {column.name: column for column in columns}
    for i, name in enumerate(source.free_text):
        if name in inputs:
            inputs[name].free = inputs[name].is_text = True
            inputs[name].begin()
        else:
            find(name, f"{at}/free_text/{i}")
            if name in place:
                found.append(Entry(f"{at}/free_text/{i}", "invalid", f"{shorten(name)} is not among the inputs."))
    if target is not None:
        columns.append(TableColumn(place.get(target, -1), target, "target", shelf, is_text=source.classes is not None))
    found += duplicates(kept, at=f"{at}/kept")
    for i, name in enumerate(kept):
        index = find(name, f"{at}/kept/{i}")
        if name in inputs:
            detail = f"{shorten(name)} is an input, so that it is stored anyway; a split can go by it."
            found.append(Entry(f"{at}/kept/{i}", "invalid", detail, hint="Leave it out here, or out of the inputs."))
        columns.append(TableColumn(index, name, "kept", shelf))
    if found and told is None:
        refuse(found)
    if found and told is not None:
        told += found
        return list({column.index: column for column in columns if column.index >= 0}.values())
    return columns


def name_mistakes(
    names: Sequence[str], *, at: str, where: str, hint: str | None = None, filled: str | None = None
) -> list[Entry]:
    """What is wrong with the names of a file's columns.

    Args:
        names: of the columns.
        at: pointer to the source.
        where: where in the file they stand.
        hint: what to do about a name that is none.
        filled: where a value stands in one of the columns without a name.
    """
    found = []
    nameless = [i + 1 for i, name in enumerate(names) if not name]
    if nameless:
        several = len(nameless) > 1
        which = f"columns {', '.join(map(str, nameless))[:60]} have" if several else f"column {nameless[0]} has"
        way = "Delete empty columns where the file was made."
        if filled is not None:
            way = f"Name {'them' if several else 'it'}, or delete what stands there: {filled}."
        if len(nameless) >= len(names) - 1 > 0:
            way = "The first line must have the names of the columns: take out what stands above them."
        found.append(Entry(f"{at}/upload", "bad-column-name", f"{where}: {which} no name.", hint=way))
    found += [
        Entry(
            f"{at}/upload",
            "bad-column-name",
            f"{where}, column {i + 1}: {shorten(name)} cannot be the name of a column.",
            hint=hint or "Names have 1 to 200 printable characters.",
        )
        for i, name in enumerate(names)
        if name and (len(name) > MAX_TEXT or not name.isprintable())
    ]
    twice = sorted({name for name in names if name and names.count(name) > 1}) if len(set(names)) < len(names) else ()
    for name in twice:
        places = " and ".join(str(i + 1) for i, other in enumerate(names) if other == name)
        detail = f"{where}, columns {places[:60]}: the name {shorten(name)} stands twice."
        found.append(
            Entry(f"{at}/upload", "duplicate-column", detail, hint="Does the file lack a line with names of columns?")
        )
    return found


def check_rows(rows: int, width: int, *, at: str) -> None:
    """Refuse a table that is too long or too large."""
    if rows > MAX_ROWS or rows * width > MAX_CELLS:
        limit = f"{MAX_ROWS} rows" if rows > MAX_ROWS else f"{MAX_CELLS} cells"
        refuse([Entry(f"{at}/upload", "too-large", f"The file has more than {limit}.")])


def assembled(source: Table, columns: Sequence[TableColumn], names: Sequence[str], shelf: Shelf, *, at: str) -> Raw:
    """The arrays of a table whose columns were all read.

    Raises:
        DatasetRefused: the columns do not suit the source's shape, classes or target.
    """
    used = {column.name for column in columns}
    left_out = tuple(Column(name=name, role="ignored", dtype="text") for name in names if name not in used)
    arrays: dict[str, Array] = {}
    inputs = [column for column in columns if column.role == "input"]
    parts: tuple[InputPart, ...] | None = None
    layout: Literal["table", "array"] = "table"
    row_shape: tuple[int, ...] = (len(inputs),)
    if isinstance(source.inputs, dict):
        told: list[Column] = []
        found = []
        for i, part in enumerate(source.inputs):
            own = [column for column in inputs if column.part == part]
            told += _inputs(own, arrays, f"-{i}", shelf)
            found.append(InputPart(name=part, layout="table", row_shape=(len(own),)))
        parts, row_shape = tuple(found), found[0].row_shape
    elif source.shape is not None:
        texts = [column for column in inputs if column.is_text]
        if texts:
            detail = (
                f"A row with the shape {list(source.shape)} needs numbers, but {texts[0].name!r} is a column of texts."
            )
            refuse([Entry(f"{at}/shape", "shape-mismatch", detail)])
        missing = [column for column in inputs if column.missing]
        if missing:
            detail = f"A row with a shape has no columns to fill, and {missing[0].name!r} has missing values."
            refuse([Entry(f"{at}/shape", "missing-value", detail, hint="Leave `shape` out, or fill the file.")])
        layout, row_shape = "array", source.shape
        matrix = _matrix(inputs, shelf)
        arrays["inputs"] = folded(matrix, source.shape, at=at)
        told = [Column(name="x", role="input", dtype=dtype_of(matrix), shape=row_shape)]
    else:
        told = _inputs(inputs, arrays, "", shelf)
    told += _kept([column for column in columns if column.role == "kept"], arrays, shelf)
    for i, column in enumerate(column for column in inputs if column.free):
        arrays[f"text-{i}"] = column.values.whole()
        arrays[f"text-ends-{i}"] = column.ends.whole()
    target = next((column for column in columns if column.role == "target"), None)
    if target is None:
        if source.classes is not None:
            refuse([Entry(f"{at}/classes", "invalid", "Classes were given, but no target column.")])
        return Raw(layout, (*told, *left_out), arrays, row_shape, inputs=parts)
    where = next((i for i, column in enumerate(told) if column.role == "kept"), len(told))
    if not target.is_text:
        arrays["targets"] = shelf.compact(target.values.whole())
        about = target_column(target.name, arrays["targets"], None)
        told.insert(where, about)
        whole = about.dtype == "int"
        return Raw(layout, (*told, *left_out), arrays, row_shape, "number", True, whole, inputs=parts)
    classes = source.classes or tuple(class_order(target.lookup))
    unknown = [name for name in target.lookup if name not in set(classes)]
    if unknown:
        refuse(
            Entry(
                f"{at}/classes",
                "unknown-class",
                f"Column {target.name!r} holds {shorten(name)}, which is not among `classes`.",
                hint=nearest_hint(name, classes),
            )
            for name in unknown[:MAX_ENTRIES]
        )
    arrays["targets"] = target.encoded(classes).astype(np.int64)
    told.insert(where, target_column(target.name, arrays["targets"], classes))
    return Raw(layout, (*told, *left_out), arrays, row_shape, "class", False, False, classes, inputs=parts)


def _inputs(columns: Sequence[TableColumn], arrays: dict[str, Array], suffix: str, shelf: Shelf) -> list[Column]:
    """Put the arrays of one input's columns into `arrays`; the columns as the manifest tells them."""
    numbers = [column for column in columns if not column.is_text]
    texts = [column for column in columns if column.is_text and not column.free]
    if numbers:
        arrays[f"numeric{suffix}"] = _matrix(numbers, shelf)
    if texts:
        codes = shelf.empty((texts[0].values.rows, len(texts)), np.int32)
        for i, column in enumerate(texts):
            codes[:, i] = column.encoded(sorted(column.lookup))
        arrays[f"codes{suffix}"] = codes
    found = []
    for column in columns:
        about = {"name": column.name, "role": "input", "missing": column.missing or None, "input": column.part}
        if column.free:
            found.append(Column.model_validate({**about, "dtype": "text"}))
        elif column.is_text:
            found.append(Column.model_validate({**about, "dtype": "text", "classes": tuple(sorted(column.lookup))}))
        else:
            found.append(Column.model_validate({**about, "dtype": dtype_of(column.values.whole())}))
    return found


def _kept(columns: Sequence[TableColumn], arrays: dict[str, Array], shelf: Shelf) -> list[Column]:
    numbers: list[Array] = []
    codes: list[Array] = []
    found = []
    for column in columns:
        times = column.times() if column.is_text and column.lookup else None
        if column.is_text and times is None:
            categories = tuple(sorted(column.lookup))
            codes.append(column.encoded(categories))
            found.append(Column(name=column.name, role="kept", dtype="text", classes=categories))
        else:
            values = column.values.whole() if times is None else times
            numbers.append(values)
            kind = dtype_of(values) if times is None else "time"
            found.append(Column(name=column.name, role="kept", dtype=kind))
    for name, several, dtype in (("kept", numbers, np.float64), ("kept-codes", codes, np.int32)):
        if several:
            arrays[name] = shelf.empty((len(several[0]), len(several)), dtype)
            for i, values in enumerate(several):
                arrays[name][:, i] = values
    return found


def _matrix(columns: Sequence[TableColumn], shelf: Shelf) -> Array:
    """[rows, k] in float32 where that loses nothing, else in float64."""
    values = [column.values.whole() for column in columns]
    narrow = all(shelf.is_narrow(each) for each in values)
    out = shelf.empty((len(values[0]), len(values)), np.float32 if narrow else np.float64)
    for part in pieces(out):
        out[part] = np.stack([each[part] for each in values], axis=1)
    return out
