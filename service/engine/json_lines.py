"""The reader of JSON lines: one flat object a line, all with the members of the first.

Knows no dataset folder and no tensor. A member is numbers (true and false count as 1 and 0) or texts, by its first
value that is not null; nothing is guessed or converted. Each mistake is told with its line and member.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from service.engine.mapped import Shelf
from service.engine.readers import FLOAT32_MAX, MAX_LINE, Raw, refuse
from service.engine.tables import TableColumn, assembled, check_rows, chosen, name_mistakes, unlabelled
from service.errors import MAX_ENTRIES, Entry, shorten
from service.schemas.datasets import JsonLines
from service.schemas.document import nearest_hint


def read_json_lines(path: Path, source: JsonLines, *, at: str = "/source", shelf: Shelf | None = None) -> Raw:
    """A file with one JSON object a line; empty lines at the end are left out.

    Raises:
        DatasetRefused: with line and member of each mistake.
    """
    shelf = shelf or Shelf()
    first = next(_objects(path, at), None)
    if first is None:
        refuse([Entry(f"{at}/upload", "no-rows", "The file has no line with an object.")])
    names = list(first[1])
    if not names:
        refuse([Entry(f"{at}/upload", "bad-json", "line 1: The object has no members, which would be the columns.")])
    if found := name_mistakes(names, at=at, where="line 1"):
        refuse(found)
    columns = chosen(names, source, shelf, at=at)
    readers = [_Member(column, keep=source.missing == "keep" and column.role != "target") for column in columns]
    known = frozenset(names)
    left_out = unlabelled(source)
    rows = 0
    objects = _objects(path, at)
    while block := list(islice(objects, max(1, 100_000 // len(names)))):
        if left_out.target is not None:
            left_out.skip([line for line, members in block if not _has_value(members.get(left_out.target))])
            block = [(line, members) for line, members in block if _has_value(members.get(left_out.target))]
            if not block:
                continue
        rows += len(block)
        check_rows(rows, len(names), at=at)
        mistakes = [
            Entry(
                f"{at}/upload",
                "unknown-member",
                f"line {line}: The first line has no member {shorten(name)}.",
                hint=nearest_hint(name, names),
            )
            for line, members in block
            if not known >= members.keys()
            for name in members
            if name not in known
        ]
        for reader in readers:
            reader.add([(line, members.get(reader.column.name)) for line, members in block], mistakes, at=at)
        if mistakes:
            mistakes.sort(key=lambda entry: int(entry.detail.removeprefix("line ").partition(":")[0].partition(",")[0]))
            refuse(mistakes[:MAX_ENTRIES])
    left_out.refuse_all(rows, at=at)
    for reader in readers:
        reader.end(at=at)
    raw = assembled(source, columns, names, shelf, at=at)
    return replace(raw, warnings=left_out.warnings(rows, at=at))


def _has_value(value: object) -> bool:
    """Whether a target is there: neither null nor an empty text."""
    return value is not None and not (isinstance(value, str) and not value.strip())


class _Member:
    """Hands the values of one member to its column, once it is known what they are."""

    def __init__(self, column: TableColumn, *, keep: bool) -> None:
        self.column = column
        self._keep = keep
        self._known = column.is_text
        self._nulls = 0

    def add(self, values: Sequence[tuple[int, Any]], found: list[Entry], *, at: str) -> None:
        """Take the values of one block, each with its line."""
        column = self.column
        if not self._known:
            first = next((value for _, value in values if value is not None), None)
            if first is None and self._keep:
                self._nulls += len(values)
                return
            if isinstance(first, str):
                column.turn()
            self._known = True
            self._give_nulls()
        wanted: tuple[type, ...] = (str,) if column.is_text else (int, float, bool)
        cells: list[Any] = []
        for line, value in values:
            where = f"line {line}, column {shorten(column.name)}"
            if column.is_text and column.role == "target" and type(value) is int:
                value = str(value)  # class names that are whole numbers
            if value is None and not self._keep:
                found.append(column.lacks_value(f"line {line}", at=f"{at}/upload"))
            elif value is not None and type(value) not in wanted:
                kind = "a text" if column.is_text else "a number"
                detail = f"{where}: The values before are {kind}, this one is not ({shorten(value)})."
                found.append(Entry(f"{at}/upload", "wrong-type", detail, expected=kind))
            elif isinstance(value, (int, float)) and not abs(value) <= FLOAT32_MAX:
                detail = f"{where}: {shorten(value)} is not a finite float32 number."
                found.append(Entry(f"{at}/upload", "not-finite", detail))
            else:
                cells.append(value)
        if len(cells) < len(values):
            return
        if column.is_text:
            texts = [value.strip() or None if self._keep and value is not None else value for value in cells]
            column.add_texts(texts, [f"line {line}" for line, _ in values], found, at=f"{at}/upload")
        else:
            column.add_numbers(np.array([np.nan if value is None else value for value in cells], dtype=np.float64))

    def end(self, *, at: str) -> None:
        """No value comes any more."""
        if not self._known:
            detail = f"Column {shorten(self.column.name)} has no value in any line."
            refuse([Entry(f"{at}/upload", "missing-value", detail, hint="Leave it out by naming the inputs.")])

    def _give_nulls(self) -> None:
        if self._nulls and self.column.is_text:
            self.column.add_texts([None] * self._nulls, [""] * self._nulls, [], at="")
        elif self._nulls:
            self.column.add_numbers(np.full(self._nulls, np.nan))


def _objects(path: Path, at: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's object with its number."""
    line = 0
    empty = 0
    with path.open("rb") as file:
        while data := file.readline(MAX_LINE):
            line += 1
            if len(data) == MAX_LINE:
                _refuse_line(at, line, "too-large", f"it is longer than {MAX_LINE} bytes.")
            data = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
            if not data.strip():
                empty = empty or line
                continue
            if empty:
                _refuse_line(at, empty, "bad-json", "it is empty.")
            try:
                value = json.loads(
                    data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer
                )
            except UnicodeDecodeError as error:
                _refuse_line(
                    at, line, "bad-encoding", "it is not UTF-8.", hint="Save the file as UTF-8.", because=error
                )
            except RecursionError as error:
                _refuse_line(at, line, "bad-json", "it is nested too deeply.", because=error)
            except ValueError as error:
                hint = "Write one object a line, with no line breaks in it." if line == 1 else None
                _refuse_line(at, line, "bad-json", f"{str(error)[:150]}.", hint=hint, because=error)
            if not isinstance(value, dict):
                hint = 'Write {"name": value, …} on each line.'
                _refuse_line(at, line, "bad-json", "it is no object.", hint=hint)
            yield line, value


def _refuse_line(
    at: str, line: int, code: str, what: str, *, hint: str | None = None, because: Exception | None = None
) -> NoReturn:
    refuse([Entry(f"{at}/upload", code, f"line {line}: {what}", hint=hint)], because=because)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the member {shorten(twice)} stands twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


_MOST_DIGITS: Final = 400


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _MOST_DIGITS else float("inf")
