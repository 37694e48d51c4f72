"""The reader of CSV files: strict rules of our own over the standard library's parser.

Knows no dataset folder and no tensor. A column is numbers when every cell is one, else texts; nothing is guessed,
skipped or filled in. Each mistake is told with its line and column.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Final, Literal, TextIO

import numpy as np

from service.engine.readers import (
    FLOAT32_MAX,
    MAX_CATEGORIES,
    MAX_CELLS,
    MAX_COLUMNS,
    MAX_FIELD,
    MAX_LINE,
    MAX_TEXT,
    Array,
    Raw,
    bad_text,
    check_class_names,
    class_order,
    compact,
    dtype_of,
    duplicates,
    folded,
    refuse,
    target_column,
    too_many_categories,
)
from service.errors import MAX_ENTRIES, Entry, shorten
from service.schemas.datasets import MAX_ROWS, Column, Csv
from service.schemas.document import nearest_hint


def read_csv(path: Path, source: Csv, *, at: str = "/source") -> Raw:
    """A CSV file with a header line, by strict rules: UTF-8, equal rows, no missing and no infinite values.

    Raises:
        DatasetRefused: with line and column of each mistake.
    """
    check_class_names(source.classes, at=at)
    names = _header(path, source, at)
    inputs, target = _chosen(names, source, at)
    columns = [_CsvColumn(i, names[i]) for i in inputs]
    if target is not None:
        columns.append(_CsvColumn(target, names[target], is_text=source.classes is not None))
    rows = _read_columns(path, source, len(names), columns, at)
    late = [column for column in columns if column.late]
    for column in late:  # these looked like numbers for a while; now that they are known to be texts, read them again
        column.late = False
    if late:
        _read_columns(path, source, len(names), late, at)
    if rows == 0:
        refuse([Entry(f"{at}/upload", "no-rows", "The file has a header line but no rows.")])
    used = set(inputs) | {target}
    ignored = tuple(Column(name=n, role="ignored", dtype="text") for i, n in enumerate(names) if i not in used)
    return _assembled(source, columns[: len(inputs)], columns[len(inputs) :], ignored, at)


@dataclass(slots=True)
class _CsvColumn:
    """One column while it is read: numbers until a cell is none, then texts."""

    index: int
    name: str
    is_text: bool = False
    late: bool = False
    """Turned out to be text after blocks of numbers were read; is read again."""
    numbers: list[Array] = field(default_factory=list)
    codes: list[Array] = field(default_factory=list)
    lookup: dict[str, int] = field(default_factory=dict)

    def add(self, cells: Sequence[str], lines: Sequence[int], found: list[tuple[int, str, str]]) -> None:
        """Take the cells of one block; mistakes go to `found` as (line, code, detail)."""
        if self.late:
            return
        if not self.is_text:
            numbers = _parse(cells)
            if numbers is not None:
                self.numbers.append(numbers)
                return
            kinds = [_cell_kind(cell) for cell in cells]
            if "text" not in kinds:
                for line, cell, kind in zip(lines, cells, kinds, strict=True):
                    where = f"line {line}, column {shorten(self.name)}"
                    if kind == "missing":
                        found.append((line, "missing-value", f"{where}: A value is missing ({shorten(cell)})."))
                    elif kind == "infinite":
                        detail = f"{where}: {shorten(cell)} is not a finite float32 number."
                        found.append((line, "not-finite", detail))
                return
            self.is_text, self.late = True, bool(self.numbers)
            self.numbers.clear()
            if self.late:
                return
        texts = [cell.strip() for cell in cells]
        for text in dict.fromkeys(texts):
            if text not in self.lookup:
                if problem := bad_text(text):
                    code, detail = problem
                    found += [
                        (line, code, f"line {line}, column {shorten(self.name)}: {detail}")
                        for line, t in zip(lines, texts, strict=True)
                        if t == text
                    ]
                self.lookup[text] = len(self.lookup)
        self.codes.append(np.fromiter(map(self.lookup.__getitem__, texts), np.int32, len(texts)))

    def encoded(self, categories: Sequence[str]) -> Array:
        """Codes [rows] into `categories`."""
        place = {category: code for code, category in enumerate(categories)}
        order = np.array([place[text] for text in self.lookup], dtype=np.int32)
        return order[np.concatenate(self.codes)]


def _assembled(
    source: Csv, inputs: list[_CsvColumn], targets: list[_CsvColumn], ignored: tuple[Column, ...], at: str
) -> Raw:
    texts = [column for column in inputs if column.is_text]
    values = [np.concatenate(column.numbers) for column in inputs if not column.is_text]
    matrix = np.stack(values, axis=1) if values else None
    dtypes = iter(map(dtype_of, values))
    columns = [
        Column(name=column.name, role="input", dtype="text", classes=tuple(sorted(column.lookup)))
        if column.is_text
        else Column(name=column.name, role="input", dtype=next(dtypes))
        for column in inputs
    ]
    arrays: dict[str, Array] = {}
    layout: Literal["table", "array"] = "table"
    row_shape: tuple[int, ...] = (len(inputs),)
    if source.shape is not None:
        if texts or matrix is None:
            detail = (
                f"A row with the shape {list(source.shape)} needs numbers, but {texts[0].name!r} is a column of texts."
            )
            refuse([Entry(f"{at}/shape", "shape-mismatch", detail)])
        layout, row_shape = "array", source.shape
        arrays["inputs"] = compact(folded(matrix, source.shape, at=at))
        columns = [Column(name="x", role="input", dtype=dtype_of(matrix), shape=row_shape)]
    else:
        if matrix is not None:
            arrays["numeric"] = compact(matrix)
        if texts:
            arrays["codes"] = np.stack([column.encoded(sorted(column.lookup)) for column in texts], axis=1)
    if not targets:
        if source.classes is not None:
            refuse([Entry(f"{at}/classes", "invalid", "Classes were given, but no target column.")])
        return Raw(layout, (*columns, *ignored), arrays, row_shape)
    target = targets[0]
    if not target.is_text:
        arrays["targets"] = compact(np.concatenate(target.numbers))
        column_of_target = target_column(target.name, arrays["targets"], None)
        whole = column_of_target.dtype == "int"
        return Raw(layout, (*columns, column_of_target, *ignored), arrays, row_shape, "number", True, whole)
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
    codes = target.encoded(classes).astype(np.int64)
    arrays["targets"] = codes
    all_columns = (*columns, target_column(target.name, codes, classes), *ignored)
    return Raw(layout, all_columns, arrays, row_shape, "class", False, False, classes)


def _header(path: Path, source: Csv, at: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next(_records(file, source.delimiter, at), None)
    if first is None:
        refuse([Entry(f"{at}/upload", "no-rows", "The file is empty; the first line must name the columns.")])
    names = [name.strip() for name in first[1]]
    if len(names) > MAX_COLUMNS:
        refuse([Entry(f"{at}/upload", "too-large", f"The file has more than {MAX_COLUMNS} columns.")])
    found = []
    for i, name in enumerate(names):
        if not name or len(name) > MAX_TEXT or not name.isprintable():
            detail = f"line 1, column {i + 1}: {shorten(name)} cannot be the name of a column."
            hint = "The first line must name the columns, with 1 to 200 printable characters each."
            found.append(Entry(f"{at}/upload", "bad-column-name", detail, hint=hint))
    for name in (
        sorted({name for name in names if name and names.count(name) > 1}) if len(set(names)) < len(names) else ()
    ):
        places = " and ".join(str(i + 1) for i, other in enumerate(names) if other == name)
        detail = f"line 1, columns {places[:60]}: the name {shorten(name)} stands twice."
        found.append(
            Entry(f"{at}/upload", "duplicate-column", detail, hint="Does the file lack a line with names of columns?")
        )
    if found:
        refuse(found)
    return names


def _chosen(names: list[str], source: Csv, at: str) -> tuple[list[int], int | None]:
    """Indices of the input columns, in order, and of the target."""
    found: list[Entry] = []
    place = {name: i for i, name in enumerate(names)}

    def find(name: str, where: str) -> int:
        if name not in place:
            detail = f"The file has no column {shorten(name)}."
            known = ", ".join(names[:20])[:200]
            found.append(Entry(where, "unknown-column", detail, hint=nearest_hint(name, names), expected=known))
        return place.get(name, -1)

    target = None if source.target is None else find(source.target, f"{at}/target")
    if source.inputs == "*":
        inputs = [i for i in range(len(names)) if i != target]
        if not inputs:
            found.append(Entry(f"{at}/inputs", "invalid", "No column is left to be an input."))
    else:
        inputs = [find(name, f"{at}/inputs/{i}") for i, name in enumerate(source.inputs)]
        found += duplicates(source.inputs, at=f"{at}/inputs")
        if source.target in source.inputs:
            where = f"{at}/inputs/{source.inputs.index(source.target or '')}"
            found.append(Entry(where, "invalid", "The target cannot be an input too: the net would only copy it."))
    if found:
        refuse(found)
    return inputs, target


def _read_columns(path: Path, source: Csv, width: int, columns: Sequence[_CsvColumn], at: str) -> int:
    """Feed the file to `columns` in blocks; the number of rows."""
    rows = 0
    all_numbers = not any(column.is_text for column in columns)
    block_rows = max(1, 400_000 // width)
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = _records(file, source.delimiter, at)
        next(records)
        while block := list(islice(records, block_rows)):
            rows += len(block)
            if rows > MAX_ROWS or rows * width > MAX_CELLS:
                limit = f"{MAX_ROWS} rows" if rows > MAX_ROWS else f"{MAX_CELLS} cells"
                refuse([Entry(f"{at}/upload", "too-large", f"The file has more than {limit}.")])
            lines = [line for line, _ in block]
            found = [
                (
                    line,
                    "ragged-row",
                    f"line {line}: {'an empty line' if not cells else f'{len(cells)} values'}, but line 1 names {width}"
                    " columns.",
                )
                for line, cells in block
                if len(cells) != width
            ]
            if found:  # in the other rows may be more mistakes
                block = [(line, cells) for line, cells in block if len(cells) == width]
                lines = [line for line, _ in block]
            if all_numbers:  # row by row, as the cells lie in memory: twice as fast as column by column
                matrix = _parse(list(chain.from_iterable(cells for _, cells in block)))
                all_numbers = matrix is not None
                if matrix is not None:
                    matrix = matrix.reshape(-1, width)
                    for column in columns:
                        column.numbers.append(matrix[:, column.index])
                    if not found:
                        continue
            by_column = list(zip(*(cells for _, cells in block), strict=True))
            for column in columns if block else ():
                column.add(by_column[column.index], lines, found)
                if len(column.lookup) > MAX_CATEGORIES:
                    refuse([too_many_categories(f"{at}/upload", column.name)])
            if found:
                found.sort(key=lambda item: item[0])
                refuse(Entry(f"{at}/upload", code, detail) for _, code, detail in found[:MAX_ENTRIES])
    return rows


def _records(file: TextIO, delimiter: str, at: str) -> Iterator[tuple[int, list[str]]]:
    """Records with the line each begins on; empty lines at the end are left out."""
    begins = 1
    empty: list[tuple[int, list[str]]] = []
    csv.field_size_limit(MAX_FIELD)  # of the process; nothing else here reads CSV
    reader = csv.reader(_lines(file, at), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield from empty
                empty = []
                yield begins, cells
            else:
                empty.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        what = str(error)
        if "end of data" in what:
            code, what = "unclosed-quote", "a quote is opened and never closed."
        elif "field limit" in what:
            code, what = "too-large", f"a field is longer than {MAX_FIELD} characters; is a quote left open?"
        else:
            code, what = "bad-quoting", f"{what}."
        refuse([Entry(f"{at}/upload", code, f"line {begins}: {what}")], because=error)
    except UnicodeDecodeError as error:
        detail = f"line {begins} or soon after: the file is not UTF-8 (byte 0x{error.object[error.start]:02x})."
        refuse([Entry(f"{at}/upload", "bad-encoding", detail, hint="Save the file as UTF-8.")], because=error)


def _lines(file: TextIO, at: str) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            refuse([Entry(f"{at}/upload", "too-large", f"line {number} is longer than {MAX_LINE} characters.")])
        if "\0" in line:
            refuse([Entry(f"{at}/upload", "bad-encoding", f"line {number}: a NUL character; this is not a text file.")])
        yield line


def _parse(cells: Sequence[str]) -> Array | None:
    """The cells as float64, or None when one is not a number that fits float32."""
    text = "".join(cells)
    if not text.isascii() or "_" in text:  # float() would take 1_000 and digits of other scripts
        return None
    try:
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    return numbers if bool((np.abs(numbers) <= FLOAT32_MAX).all()) else None


_MISSING: Final = frozenset({"", "na", "n/a", "#n/a", "null", "none", "nan", "+nan", "-nan", "-", "?", "."})


def _cell_kind(cell: str) -> Literal["number", "missing", "infinite", "text"]:
    if cell.strip().lower() in _MISSING:
        return "missing"
    if _parse((cell,)) is not None:
        return "number"
    try:
        float(cell)
    except ValueError:
        return "text"
    return "infinite" if cell.isascii() and "_" not in cell else "text"
