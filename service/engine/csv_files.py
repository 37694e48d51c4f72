"""The reader of CSV files: strict rules of our own over the standard library's parser.

Knows no dataset folder and no tensor. A column is numbers when every cell is one, else texts; nothing is guessed,
skipped or filled in, not even which mark numbers have: that the source says. Each mistake is told with its line and
column.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import numpy as np
from pydantic import ValidationError

from service.engine.mapped import Array, Shelf
from service.engine.readers import FLOAT32_MAX, MAX_COLUMNS, MAX_FIELD, MAX_LINE, Raw, refuse
from service.engine.tables import TableColumn, Unlabelled, assembled, check_rows, chosen, name_mistakes, unlabelled
from service.errors import MAX_ENTRIES, DatasetRefused, Entry, shorten
from service.schemas.datasets import MISSING_NUMBERS, Csv, taken_as_texts, told_delimiter, utf8_hint
from service.schemas.marks import Marks, is_number, marks_of, read_as


def read_csv(path: Path, source: Csv, *, at: str = "/source", shelf: Shelf | None = None) -> Raw:
    """A CSV file with a header line, by strict rules: UTF-8, equal rows, no infinite values, and no missing ones unless
    the source keeps them, or leaves out the rows without a target.

    Raises:
        DatasetRefused: with line and column of each mistake.
    """
    shelf = shelf or Shelf()
    header = _header(path, source, at)
    wrong: list[Entry] = []
    columns = chosen(header.names, source, shelf, at=at, told=wrong)
    target = next((column for column in columns if column.role == "target"), None)
    left_out = unlabelled(source)
    try:
        rows = _read_columns(path, source, header, columns, target, left_out, at)
        while late := [column for column in columns if column.late]:
            if left_out.count and target in late:
                late = columns  # what is no value among numbers may be a class: other rows are left out
            for column in late:  # these looked like numbers for a while; known to be texts, they are read again
                column.begin()
            left_out = unlabelled(source)
            rows = _read_columns(path, source, header, late, target, left_out, at)
    except DatasetRefused as refused:
        odd = _odd_columns(path, source, [column for column in columns if column.lookup], target, at)[:_ODD]
        if not wrong and not odd:
            raise
        kept = refused.errors[: MAX_ENTRIES - len(odd)]
        told = [entry for _, entry in odd]
        refuse([*wrong, *kept, *told], more=refused.more + len(refused.errors) - len(kept))
    if wrong:
        refuse(wrong)
    left_out.refuse_all(rows, at=at)
    if rows == 0:
        refuse([Entry(f"{at}/upload", "no-rows", "The file has a header line but no rows.")])
    raw = assembled(source, columns, header.names, shelf, at=at)
    warned = [(left_out.first, entry) for entry in left_out.warnings(rows, at=at)]
    warned = sorted([*warned, *_odd_columns(path, source, columns, target, at)], key=itemgetter(0))
    return replace(raw, warnings=tuple(entry for _, entry in warned[:MAX_ENTRIES]))


def _add(column: TableColumn, cells: Sequence[str], lines: Sequence[int], source: Csv, at: str) -> list[Entry]:
    """Give the cells of one block to a column: numbers until a cell is none, then texts. What is wrong comes back."""
    found: list[Entry] = []
    marks = _marks(source)
    keep = source.missing == "keep" and column.role != "target"
    if column.late:
        return found
    given = cells
    if source.missing_texts:
        missing = {text.lower() for text in source.missing_texts}
        cells = ["" if cell.strip().lower() in missing else cell for cell in cells]
    if not column.is_text:
        numbers = _parse(cells, marks)
        if numbers is None and keep:
            numbers = _parse(["nan" if _is_missing(cell) else cell for cell in cells], marks, missing=True)
        if numbers is not None:
            column.add_numbers(numbers)
            return found
        kinds = [_cell_kind(cell, marks) for cell in cells]
        if "text" not in kinds:
            for line, cell, kind in zip(lines, given, kinds, strict=True):
                where = f"line {line}, column {shorten(column.name)}"
                if kind == "missing" and not keep:
                    found.append(column.lacks_value(f"line {line}", at=f"{at}/upload", cell=cell, hint=_KEEP))
                elif kind == "infinite":
                    detail = f"{where}: {shorten(cell)} is not a finite float32 number."
                    found.append(Entry(f"{at}/upload", "not-finite", detail))
            return found
        column.turn()
        if column.late:
            return found
    texts: list[str | None] = [cell.strip() or (None if keep else cell) for cell in cells]
    try:
        column.add_texts(texts, [f"line {line}" for line in lines], found, at=f"{at}/upload")
    except DatasetRefused as refused:  # too many categories, which may be numbers of another mark
        hint, members = _other_marks(source, list(column.lookup))
        if members or _are_loose(column.lookup):
            refuse([replace(entry, hint=hint) for entry in refused.errors], more=refused.more)
        raise
    return found


def _odd_columns(
    path: Path, source: Csv, columns: Iterable[TableColumn], target: TableColumn | None, at: str
) -> list[tuple[int, Entry]]:
    """Warnings about columns that are nearly of numbers, each with the line that it names, in the file's order."""
    found = (_nearly_numbers(path, source, column, target, at) for column in columns)
    return sorted([each for each in found if each is not None], key=itemgetter(0))


def _nearly_numbers(
    path: Path, source: Csv, column: TableColumn, target: TableColumn | None, at: str
) -> tuple[int, Entry] | None:
    """A warning about a column that a few cells, or how numbers are written in all, make one of texts, not numbers."""
    if not column.is_text or column.free or column.role == "kept" or (column.role == "target" and source.classes):
        return None
    odd = {text: code for text, code in column.lookup.items() if _cell_kind(text, _marks(source)) == "text"}
    by_marks, members = _other_marks(source, list(odd))
    as_numbers = bool(members) or _are_loose(odd)
    if 3 * len(odd) > len(column.lookup) and not as_numbers:
        return None
    codes = column.values.whole()
    cells = int((codes >= 0).sum())
    count = int(np.isin(codes, list(odd.values())).sum())
    if 3 * count > cells and not as_numbers:
        return None
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = islice(_records(file, source.delimiter, at), 1, None)
        last = max(column.index, column.index if target is None else target.index)
        sound = _labelled(((line, row) for line, row in records if len(row) > last), source, target)
        line, cell = next((line, row[column.index]) for line, row in sound if row[column.index].strip() in odd)
    are = "is" if count == 1 else "are"
    others = [repr(text[:64]) for text in odd if text != cell.strip() and not members]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    also = f"; others: {', '.join(others[:_SHOWN])}{more}" if others else ""
    where = f"{count} of {cells} cells {are} no number (line {line}: {cell[:64]!r}{also})"
    detail = f"{taken_as_texts(column.name)}: {where}."
    hint = "Mend it in the file, or leave the column out."
    hint += {"input": _NAME_IT, "target": _NAME_NO_LABEL}.get(column.role, "")
    if members or _GROUPED.fullmatch(cell.strip()):
        hint = by_marks
    elif source.decimal == "." and _DECIMAL_COMMA.fullmatch(cell.strip()):
        hint = f"Numbers have a decimal point: {cell.strip().replace(',', '.')}."
    elif source.decimal == "," and re.fullmatch(r"[+-]?[0-9]*\.[0-9]+", cell.strip()):
        hint = f"By the source, numbers have a decimal comma: {cell.strip().replace('.', ',')}."
    elif as_numbers:
        hint = by_marks
    expected = json.dumps(members) if members else None
    if not members and hint.endswith((_NAME_IT, _NAME_NO_LABEL)):
        expected = _as_missing(source, odd, column)
    return line, Entry(f"{at}/upload", "nearly-numbers", detail, hint=hint, expected=expected)


def _as_missing(source: Csv, odd: Iterable[str], column: TableColumn) -> str | None:
    """The members of a source that take texts of a column for missing values, as JSON; None where they are too many."""
    members: dict[str, Any] = {"missing": "keep", "missing_texts": [*source.missing_texts, *odd]}
    members |= {"unlabelled": "skip"} if column.role == "target" else {}
    try:
        Csv.model_validate({**source.model_dump(), **members})
    except ValidationError:
        return None
    return json.dumps(members, ensure_ascii=False)


_NAME_NO_LABEL: Final = (
    ' Where such a cell means no value, leave its row out: "missing": "keep", "missing_texts": [...], "unlabelled": '
    '"skip" in the source.'
)
_NAME_IT: Final = ' Where such a cell means no value, name it: "missing": "keep", "missing_texts": [...] in the source.'


_DECIMAL_COMMA: Final = re.compile(r"[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?")
_EITHER: Final = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
"""A number whose comma may be a decimal one, or stand between thousands."""
_GROUPED: Final = re.compile(r"[+-]?[0-9]{1,3}([.,'\u2019\s])[0-9]{3}(?:\1[0-9]{3})*(?:[.,][0-9]+)?")
"""A number with marks between its thousands, or one that may have them: 1.234 is either."""
_LOOSE: Final = re.compile(rf"[€$£]?\s*(?:{_GROUPED.pattern}|[+-]?[0-9]+(?:[.,][0-9]+)?)\s*(?:[€$£%]|EUR|USD|GBP|CHF)?")
"""A number as people write it, with a unit too."""
_PLAIN: Final = "Write plain numbers: no marks between thousands, no units."


def _are_loose(texts: Collection[str]) -> bool:
    """Whether most of these texts are numbers to a reader's eye."""
    return len(texts) > 0 and 3 * sum(_LOOSE.fullmatch(text) is not None for text in texts) >= 2 * len(texts)


def _other_marks(source: Csv, texts: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What to do about texts that are no numbers, and the members of the source that would make numbers of most.

    There are no such members where nothing shows them plainly, or where the source has taken the character already.
    """
    known = "," if source.decimal == "," else None
    found = marks_of(texts, without=(source.delimiter,), decimal=known)
    members = {name: mark for name, mark in found.members().items() if getattr(source, name) != mark}
    wanted = Marks(found.decimal or source.decimal, found.thousands or source.thousands)
    if members and 3 * sum(is_number(text, wanted) for text in texts) >= 2 * len(texts):
        what = "with a decimal comma"
        if "thousands" in members:
            what = f"with marks between thousands, such as {found.shown}"
        elif _EITHER.fullmatch(found.shown) and all(_EITHER.fullmatch(text.strip()) for text in texts if "," in text):
            more = f'Is {found.shown} more than a thousand? Then write "thousands": "," in the source.'
            return f'{more} Is its comma a decimal one? Then write "decimal": "," in the source.', {}
        return f"Are these numbers {what}? Write {json.dumps(members)[1:-1]} in the source.", members
    return _PLAIN, {}


_DELIMITERS: Final = (",", ";", "\t", "|")

_SHORT: Final = 64
"""So many characters of the first line tell whether it only names what parts the values."""

_SHOWN: Final = 3
"""Cells that are no numbers, beside the first one, in the warning about their column."""

_ODD: Final = 5
"""Columns that are nearly of numbers, and are told of beside what else is wrong with a file."""

_BLOCK_CELLS: Final = 400_000
"""Cells that are held as texts at a time, those of columns without a name among them."""
_KEEP: Final = 'Write "missing": "keep" in the source, and fill it with the step {"type": "impute"}.'


@dataclass(frozen=True, slots=True)
class _Header:
    """The line that names the columns: which it is, the names, and how many values it and all rows have.

    The values beyond the names are empty in every row: columns at the right end, as spreadsheets leave them.
    """

    line: int
    names: list[str]
    width: int


def _header(path: Path, source: Csv, at: str) -> _Header:
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = _records(file, source.delimiter, at)
        first, second = next(records, None), next(records, None)
    if first is None:
        refuse([Entry(f"{at}/upload", "no-rows", "The file is empty; the first line must name the columns.")])
    if second is None:
        hint = "Were the ends of its lines lost? curl -d takes them away: send it with --data-binary."
        refuse([Entry(f"{at}/upload", "no-rows", "The file is one line: a header line but no rows.", hint=hint)])
    line, names = first[0], [name.strip() for name in first[1]]
    if not names:
        detail = f"line {line}: an empty line; the first line must name the columns."
        refuse([Entry(f"{at}/upload", "bad-column-name", detail, hint="Take out what stands above the names.")])
    other = max(_DELIMITERS, key=names[0].count)
    if len(names) == 1 and other in names[0]:
        detail = f"line {line}: the only column would be {shorten(names[0])}, which looks like several."
        hint = f"Are values parted by another character? {_write_delimiter(other)}"
        refuse([Entry(f"{at}/delimiter", "wrong-delimiter", detail, hint=hint, got=source.delimiter)])
    width, filled = len(names), None
    while names and not names[-1]:
        names.pop()
    if names and len(names) < width:
        filled = _first_filled(path, source, len(names), at)
    if not names or filled is not None:
        names += [""] * (width - len(names))
    if len(names) > MAX_COLUMNS:
        refuse([Entry(f"{at}/upload", "too-large", f"The file has more than {MAX_COLUMNS} columns.")])
    hint = "The first line must name the columns, with 1 to 200 printable characters each."
    found = name_mistakes(names, at=at, where=f"line {line}", hint=hint, filled=filled)
    if found:
        refuse(found)
    return _Header(line, names, width)


def _write_delimiter(sign: str) -> str:
    return f'Write "delimiter": {json.dumps(sign)} in the source.'


def _first_filled(path: Path, source: Csv, named: int, at: str) -> str | None:
    """Where the first value stands below the columns behind the named ones; None where all of these are empty."""
    with path.open(encoding="utf-8-sig", newline="") as file, suppress(DatasetRefused):  # that is told when it is read
        for line, cells in islice(_records(file, source.delimiter, at), 1, None):
            for cell in cells[named:]:
                if cell.strip():
                    return f"line {line} has {shorten(cell)}"
    return None


def _read_columns(
    path: Path,
    source: Csv,
    header: _Header,
    columns: Sequence[TableColumn],
    target: TableColumn | None,
    left_out: Unlabelled,
    at: str,
) -> int:
    """Feed the file to `columns` in blocks; the number of rows that were taken, the others are counted in `left_out`.

    Raises:
        DatasetRefused: with the first mistakes of all blocks, and how many more there are.
    """
    rows = more = 0
    mistakes: list[Entry] = []
    width = len(header.names)
    all_numbers = not source.missing_texts and not any(column.is_text for column in columns)
    block_rows = max(1, _BLOCK_CELLS // header.width)
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = _records(file, source.delimiter, at)
        next(records)
        try:
            while block := list(islice(records, block_rows)):
                found = _ragged(block, header, at)
                if found:  # in the other rows may be more mistakes
                    block = [(line, cells) for line, cells in block if len(cells) == header.width]
                if header.width > width:
                    block = [(line, cells[:width]) for line, cells in block]
                if left_out.target is not None and target is not None:
                    _settle(block, source, target, left_out)
                    lines = [line for line, _ in block]
                    block = list(_labelled(block, source, target))
                    left_out.skip(sorted(set(lines).difference(line for line, _ in block)))
                rows += len(block) + len(found)
                check_rows(rows, width, at=at)
                if all_numbers and block:  # row by row, as the cells lie in memory: twice as fast as by column
                    matrix = _parse(list(chain.from_iterable(cells for _, cells in block)), _marks(source))
                    all_numbers = matrix is not None
                    if matrix is not None:
                        matrix = matrix.reshape(-1, width)
                        for column in columns:
                            column.add_numbers(matrix[:, column.index])
                        block = []  # all of it was read
                lines = [line for line, _ in block]
                by_column = list(zip(*(cells for _, cells in block), strict=True))
                for column in columns if block else ():
                    found += _add(column, by_column[column.index], lines, source, at)
                found.sort(key=_line_of)
                room = MAX_ENTRIES - len(mistakes)
                mistakes += found[:room]
                more += len(found[room:])
        except DatasetRefused as refused:  # behind this nothing is read
            if not mistakes:
                raise
            refuse([*mistakes, *refused.errors], more=more + refused.more, because=refused)
    if mistakes:
        refuse(mistakes, more=more)
    return rows


def _ragged(block: Sequence[tuple[int, list[str]]], header: _Header, at: str) -> list[Entry]:
    """The rows of another length than the first line."""
    found = []
    has = f"names {header.width} columns"
    if len(header.names) < header.width:
        has = f"has {header.width} columns, {len(header.names)} of them with a name"
    for line, cells in block:
        if len(cells) != header.width:
            told = f"{len(cells)} values" if cells else "an empty line"
            detail = f"line {line}: {told}, but line {header.line} {has}."
            found.append(Entry(f"{at}/upload", "ragged-row", detail))
    return found


def _labelled(
    rows: Iterable[tuple[int, list[str]]], source: Csv, target: TableColumn | None
) -> Iterator[tuple[int, list[str]]]:
    """Those of the rows whose target has a value, where the source leaves out the others, else all."""
    if target is None or source.unlabelled == "refuse":
        yield from rows
        return
    lacks = _no_values(source, target)
    yield from ((line, cells) for line, cells in rows if cells[target.index].strip().lower() not in lacks)


def _no_values(source: Csv, target: TableColumn) -> frozenset[str]:
    """What a target without a value has in its cell, in lower case; among classes, words such as none are classes."""
    empty = frozenset({""}) if target.is_text else MISSING_NUMBERS
    return empty | {text.lower() for text in source.missing_texts}


def _settle(block: Sequence[tuple[int, list[str]]], source: Csv, target: TableColumn, left_out: Unlabelled) -> None:
    """Turn a target into one of texts with the first block that has a text in it, before rows of that are left out.

    If some were left out before, it is read again, though nothing of it was taken.
    """
    if target.is_text:
        return
    values = [cells[target.index] for _, cells in _labelled(block, source, target)]
    marks = _marks(source)
    if _parse(values, marks) is None and any(_cell_kind(value, marks) == "text" for value in values):
        target.turn()
        target.late |= left_out.count > 0


def _line_of(entry: Entry) -> int:
    return int(re.split("[,:]", entry.detail.removeprefix("line "), maxsplit=1)[0])


def _records(file: TextIO, delimiter: str, at: str) -> Iterator[tuple[int, list[str]]]:
    """Records with the line each begins on; empty lines at the end are left out, and a first one such as sep=;."""
    above = 0
    empty: list[tuple[int, list[str]]] = []
    csv.field_size_limit(MAX_FIELD)  # of the process; nothing else here reads CSV
    begins = 1
    try:
        told = told_delimiter(file.readline(_SHORT))
        if told is None:
            file.seek(0)
        elif told == delimiter:
            begins, above = 2, 1
        else:
            detail = f"line 1: the file says that {shorten(told)} parts its values."
            way, members = _write_delimiter(told), json.dumps({"delimiter": told})
            refuse([Entry(f"{at}/delimiter", "wrong-delimiter", detail, hint=way, expected=members, got=delimiter)])
        reader = csv.reader(_lines(file, at, above), delimiter=delimiter, strict=True)
        for cells in reader:
            if cells:
                yield from empty
                empty = []
                yield begins, cells
            else:
                empty.append((begins, cells))
            begins = above + reader.line_num + 1
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
        byte = error.object[error.start : error.start + 1]
        letter = byte.decode("cp1252", "replace")
        what = f"byte 0x{byte.hex()}" + (f", in Windows {letter!r}" if letter.isalpha() else "")
        detail = f"line {begins} or soon after: the file is not UTF-8 ({what})."
        refuse([Entry(f"{at}/upload", "bad-encoding", detail, hint=utf8_hint(error.object))], because=error)


def _lines(file: TextIO, at: str, number: int) -> Iterator[str]:
    """The lines behind the one with this number, which are no longer than is read."""
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            refuse([Entry(f"{at}/upload", "too-large", f"line {number} is longer than {MAX_LINE} characters.")])
        if "\0" in line:
            refuse([Entry(f"{at}/upload", "bad-encoding", f"line {number}: a NUL character; this is not a text file.")])
        yield line


_OF_PROGRAMS: Final = Marks(".")


def _marks(source: Csv) -> Marks:
    return Marks(source.decimal, source.thousands)


def _parse(cells: Sequence[str], marks: Marks, *, missing: bool = False) -> Array | None:
    """The cells as float64, or None when one is not a number that fits float32; NaN passes if some may be missing."""
    text = "".join(cells)
    if marks.thousands is not None and (marks.thousands in text or not text.isascii()):
        plain = [number for cell in cells if (number := read_as(cell, marks)) is not None]
        if len(plain) < len(cells):
            return None
        cells, text, marks = plain, "".join(plain), _OF_PROGRAMS
    if not text.isascii() or "_" in text:  # float() would take 1_000 and digits of other scripts
        return None
    if marks.decimal == ",":
        if "." in text:
            return None
        cells = [cell.replace(",", ".") for cell in cells]
    try:
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    fit = np.abs(numbers) <= FLOAT32_MAX
    return numbers if bool((fit | np.isnan(numbers) if missing else fit).all()) else None


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING_NUMBERS


def _cell_kind(cell: str, marks: Marks) -> Literal["number", "missing", "infinite", "text"]:
    if _is_missing(cell):
        return "missing"
    if _parse((cell,), marks) is not None:
        return "number"
    text = read_as(cell, marks)
    if text is None:
        return "text"
    try:
        float(text)
    except ValueError:
        return "text"
    return "infinite" if text.isascii() and "_" not in text else "text"
