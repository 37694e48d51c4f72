"""The command `predict`: rows of a file, of stdin or of the command line, and the answers beside them."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import exits
from service.cli.datasets import (
    Decimal,
    Delimiter,
    Encoding,
    MissingText,
    Thousands,
    asked,
    tell_encoding,
    tell_marks,
)
from service.cli.output import Format, plain, say, stopped, table, write_csv
from service.cli.session import MARKS, Session, exit_code, more_told, talks
from service.cli.session import lines as lines_told

if TYPE_CHECKING:
    from service.client import Prediction
    from service.client.dialects import Reading
    from service.errors import Entry
    from service.schemas.marks import Marks
    from service.schemas.views import ModelSignatureView, WrittenView

_ROWS: Final = 1000
"""Rows of one request; longer files are asked for in pieces."""
_SHOWN: Final = 50
"""Rows of a table for people."""
_COLUMNS: Final = 6
"""Columns of the file in such a table, beside what is answered."""
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CELL: Final = re.compile(r"/inputs/(?:([^/0-9][^/]*)/)?([0-9]+)(?:/(.*))?")
"""A pointer into rows: the input's name where there are several, the row, and the column."""
_MORE: Final = re.compile(r"([0-9]+) (more .*)")
_GAP: Final = re.compile(r"(Column .*) has no value(?: in ([0-9]+) rows, of which this is the first)?; (.*)", re.DOTALL)
"""The warning that a column has no value in some rows: the column, how many rows if several, what was taken for it."""
_OF_A_FILE: Final = "Expected a number; --missing-text TEXT is for a text that means no value."
"""What the hint about a value of JSON means for a cell of a file."""
_LOOSE: Final = re.compile(r"[+-]?[0-9][0-9.,' ]*")
"""A cell that is rather a number of other marks than a text for a missing value."""
_FOREIGN: Final = (".parquet", ".xlsx", ".xls", ".ods", ".npz", ".npy", ".zip")


@dataclass(frozen=True)
class _Given:
    """Rows as they are sent; those of a CSV file also as they stand there, each with the line that it begins on."""

    rows: Any
    head: list[str] = field(default_factory=list)
    shown: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    delimiter: str = ","
    decimal: str = "."
    odd: list[str] = field(default_factory=list)
    """Cells that should be numbers, and are none by the marks that the file was read with."""


@talks
def predict(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name, name@alias, name/3, or a job's id.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="CSV with a line of names, JSON or JSON lines; - is stdin.", show_default=False),
    ] = None,
    inputs: Annotated[str | None, typer.Option(help="Rows as JSON instead, such as '[[0.5], [0.7]]'.")] = None,
    form: Annotated[
        str | None, typer.Option("--form", help="csv, json or jsonl: what stdin is. By default as it begins.")
    ] = None,
    missing_text: MissingText = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    thousands: Thousands = None,
    encoding: Encoding = None,
    bom: Annotated[
        bool | None,
        typer.Option(
            "--bom/--no-bom",
            help="Begin -o csv with the mark by which Excel knows UTF-8, for its umlauts. By default where FILE has "
            "it, or is not in UTF-8.",
        ),
    ] = None,
) -> None:
    """Ask a model.

    For example: modelyard predict houses new.csv -o csv > answers.csv

    Rows are raw: the version scales and encodes them itself. Columns of a CSV file are found by their names, others are
    passed through; numbers may have a decimal comma where another character parts the values. What was a missing value
    in the training's file is one here too. -o csv writes each row with its prediction, with the delimiter and the
    decimal mark of the file, so that the spreadsheet that wrote it opens it, for Excel with --bom, which is the default
    for files that are not in UTF-8 or begin with its mark; -o json answers what the HTTP interface does.
    """
    from service.errors import InvalidInput

    if (file is None) == (inputs is None):
        say("Name a file (- is stdin), or give --inputs '[[0.5], [0.7]]'.")
        raise typer.Exit(exits.USAGE)
    if bom and session.format is not Format.CSV:
        say("--bom is for -o csv.")
        raise typer.Exit(exits.USAGE)
    reading = asked("csv", delimiter, decimal, thousands, encoding, missing_text)
    name = "The input" if file is None or str(file) == "-" else file.name
    text, of_spreadsheet = (inputs, False) if inputs is not None else _read(file, name, reading)
    kind = "json" if inputs is not None else form or _form(file, text)
    if kind == "csv":
        signature = None if model.startswith("job_") else session.client.models.signature(model)
        given = _table_rows(text, name, signature, reading)
    else:
        given = _Given(_json_rows(text, kind))
    if given.rows == []:
        say("There are no rows.")
        raise typer.Exit(exits.INVALID)
    try:
        answers = list(_ask(session, model, given.rows))
    except InvalidInput as refused:
        say(refused.message)
        _tell(refused.errors, given)
        if refused.more:
            say(more_told(refused.more, told=len(refused.errors), of_file=bool(given.lines)))
        _tell_ways(given)
        raise typer.Exit(exit_code(refused)) from None
    _tell_warnings(answers, given)
    if session.format is Format.TABLE and not given.shown and answers[0].model is not None:
        given = replace(given, head=_names(session, model, given.rows))
    _show(session.format, given, answers, bom=of_spreadsheet if bom is None else bom)


def _read(file: Path | None, name: str, reading: Reading) -> tuple[str, bool]:
    """The text of a file, and whether a spreadsheet wrote it, which would take UTF-8 for something else."""
    from service.client.dialects import text_of

    if file is None or str(file) == "-":
        content = sys.stdin.buffer.read()
    elif file.suffix.lower() in _FOREIGN:
        say(f'{file.name} is no CSV, JSON or JSON lines. Save it as one of these; in Excel, as "CSV UTF-8".')
        raise typer.Exit(exits.USAGE)
    else:
        content = file.read_bytes()
    text, was = text_of(content, reading.encoding)
    tell_encoding(name, was)
    return text, _of_spreadsheet(content, reading.encoding or was)


def _of_spreadsheet(content: bytes, encoding: str | None) -> bool:
    name = "utf-8" if encoding is None else codecs.lookup(encoding).name
    return content.startswith(codecs.BOM_UTF8) or name not in ("utf-8", "ascii")


def _form(file: Path | None, text: str) -> str:
    suffix = file.suffix.lower() if file is not None else ""
    if suffix in (".json", ".jsonl", ".csv", ".tsv"):
        return suffix.removeprefix(".").replace("tsv", "csv")
    if text.lstrip()[:1] in ("[", "{"):
        try:
            json.loads(text)
        except ValueError:
            return "jsonl"
        return "json"
    return "csv"


def _json_rows(text: str, kind: str) -> Any:
    try:
        if kind == "jsonl":
            return [_json(line) for line in text.splitlines() if line.strip()]
        found = _json(text)
    except ValueError as error:
        say(f"The rows are no JSON: {error}.")
        raise typer.Exit(exits.INVALID) from None
    if not isinstance(found, dict):
        return found
    if "inputs" in found:
        return found["inputs"]
    return found if any(isinstance(value, list) for value in found.values()) else [found]  # one row by its columns


def _json(text: str) -> Any:
    """What JSON says, with numbers that are too large to be any, such as 1e999 and Infinity, as texts."""
    return json.loads(text, parse_float=_finite, parse_constant=lambda word: math.nan if word == "NaN" else word)


def _table_rows(text: str, file: str, asked: ModelSignatureView | None, reading: Reading) -> _Given:
    """The rows of a CSV text of this name, as the version takes them; None is one of which nothing is known."""
    delimiter, places, lines = _records(text, reading)
    if not lines:
        return _Given([])
    row = asked.inputs[0].row if asked is not None and len(asked.inputs) == 1 else None
    if asked is None or row is None or row.columns is None:
        marks = _marks(delimiter, lines, reading, file=file)
        number = partial(_number, marks=marks, missing=_missing(reading.missing_texts))
        head, lines = _head(lines, number)
        cells = [[number(cell) for cell in line] for line in lines]
        shape = [] if asked is None else [int(size) for size in asked.inputs[0].shape[1:] if size != "B"]
        folded = [_fold(line, shape) for line in cells] if len(shape) > 1 else cells
        return _Given(folded, head, lines, places[-len(lines) :], delimiter, marks.decimal or ".")
    names = [column.name for column in row.columns]
    head, lines, places = [name.strip() for name in lines[0]], lines[1:], places[1:]
    absent = [name for name in names if name not in head]
    if absent:
        _tell_absent(absent, [name for name in head if name not in names])
        say(stopped(f"{asked.model}/{asked.version} takes: {', '.join(names)}"))
        raise typer.Exit(exits.INVALID)
    if twice := [name for name in names if head.count(name) > 1]:
        said = " and ".join(map(repr, twice))
        say(f"The file has more than one column {said}, which the version takes. Leave the others out.")
        raise typer.Exit(exits.INVALID)
    texts = {column.name for column in row.columns if column.kind != "number"}
    optional = {column.name for column in row.columns if column.optional}
    own = reading.missing_texts or (asked.written.missing_texts if asked.written is not None else ())
    gone = {"", *(text.lower() for text in own)}
    head, shown = _even(head, lines, places)
    at = {name: head.index(name) for name in names}
    numbers = [[line[at[name]] for name in names if name not in texts] for line in shown]
    marks = _marks_as_trained(delimiter, numbers, reading, asked.written, file=file)
    number = partial(_number, marks=marks, missing=_missing(own))

    def value(name: str, cell: str) -> Any:
        if name not in texts:
            return number(cell)
        return None if name in optional and cell.strip().lower() in gone else cell.strip()

    rows = [{name: value(name, line[at[name]]) for name in names} for line in shown]
    given = [cell for line in rows for name, cell in line.items() if name not in texts]
    odd = [cell for cell in given if isinstance(cell, str) and not isinstance(cell, _TooLarge)]
    decimal = marks.decimal or "."
    if decimal == "." and delimiter != ",":  # the columns that are passed through may show how the file writes numbers
        decimal = _marks_as_trained(delimiter, lines, reading, asked.written).decimal or "."
    return _Given(rows, head, shown, places, delimiter, decimal, odd)


def _missing(own: Sequence[str]) -> frozenset[str]:
    """The cells that are missing values among numbers, in lower case."""
    from service.schemas.datasets import MISSING_NUMBERS

    return MISSING_NUMBERS | {text.lower() for text in own}


def _even(head: list[str], lines: list[list[str]], places: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """The names and the rows without columns at the right end that have no name and no value, as a server reads them; a
    row of another length ends the command."""
    uneven = next((row for row, line in enumerate(lines) if len(line) != len(head)), None)
    if uneven is not None:
        say(f"Line {places[uneven]} has {len(lines[uneven])} values, the first line has {len(head)} names.")
        raise typer.Exit(exits.INVALID)
    width = len(head)
    while width and not head[width - 1] and not any(line[width - 1].strip() for line in lines):
        width -= 1
    return head[:width], [line[:width] for line in lines]


def _tell_absent(absent: Sequence[str], others: Sequence[str]) -> None:
    """Say which columns the file lacks, and which of its `others` may be meant."""
    from service.schemas.document import nearest_hint

    *most, last = map(repr, absent)
    say(f"The file has no columns {', '.join(most)} and {last}." if most else f"The file has no column {last}.")
    for name in absent:
        hint = nearest_hint(name, others)
        if hint is not None:
            say(f"{name}: {hint}")


def _records(text: str, reading: Reading) -> tuple[str, list[int], list[list[str]]]:
    """What parts the values of a CSV text, and its lines that are not empty, each with its number; a quoted cell may go
    over several."""
    from service.client.dialects import DELIMITERS, delimiter_of, told_delimiter

    first = text[: text.find("\n") + 1] or text
    told = told_delimiter(first)
    if told is not None and reading.delimiter not in (None, told):
        words = {sign: word for word, sign in DELIMITERS.items()}
        say(f"--delimiter: line 1: the file says that {told!r} parts its values. Pass --delimiter {words[told]}.")
        raise typer.Exit(exits.INVALID)
    if told is not None:  # an empty line in its place, so that lines keep their numbers
        text = "\n" + text[len(first) :]
    delimiter = reading.delimiter or told or delimiter_of(first)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    places, lines, begins = [], [], 1
    try:
        for line in reader:
            if line:
                places.append(begins)
                lines.append(line)
            begins = reader.line_num + 1
    except csv.Error as error:
        say(f"Line {begins}: {_quoting(str(error))}")
        raise typer.Exit(exits.INVALID) from None
    return delimiter, places, lines


def _quoting(what: str) -> str:
    """What is wrong with a record, of what the standard library's parser says, and what would be right."""
    way = 'A quote that is part of a text is written twice, in quotes, as in "a 6"" pipe".'
    if "end of data" in what:
        return f"a quote is opened and never closed. Close it. {way}"
    if "expected after" in what:
        return f"a value goes on after its closing quote. {way}"
    if "field limit" in what:
        return f"a value is longer than {csv.field_size_limit()} characters. Is a quote left open?"
    return f"this is no CSV: {what}."


def _marks(delimiter: str, rows: Sequence[Sequence[str]], reading: Reading, *, file: str | None = None) -> Marks:
    """The marks of the numbers among these cells, as far as they show them; told of the `file` that is named."""
    from service.client.dialects import marked

    dialect = marked(delimiter, [cell for row in rows for cell in row], reading)
    if file is not None and dialect.found.thousands is not None:
        tell_marks(file, dialect.found)
    return dialect.marks


def _marks_as_trained(
    delimiter: str,
    rows: Sequence[Sequence[str]],
    reading: Reading,
    written: WrittenView | None,
    *,
    file: str | None = None,
) -> Marks:
    """The marks of the numbers among these cells; where they show none, those of the file that the version is of."""
    from service.client.dialects import marked
    from service.schemas.marks import Marks

    found = _marks(delimiter, rows, reading, file=file)
    cells = [cell for row in rows for cell in row]
    if found.members() or not _may_have_others(delimiter, cells, reading):
        return found
    if file is not None and written is None:
        _refuse_either(delimiter, cells, reading)
    usual = Marks(".") if written is None else Marks(written.decimal, written.thousands)
    return marked(delimiter, cells, reading, usual=usual).marks


def _may_have_others(delimiter: str, cells: Sequence[str], reading: Reading) -> bool:
    """Whether nothing tells the decimal mark: it is not asked for, and no number has one for sure."""
    from service.schemas.marks import marks_of

    return reading.decimal is None and delimiter != "," and marks_of(cells, without=(delimiter,)).decimal is None


def _refuse_either(delimiter: str, cells: Sequence[str], reading: Reading) -> None:
    """End the command where a mark may be a decimal one or stand between thousands, and nothing tells which."""
    from service.client.dialects import marked
    from service.schemas.marks import Marks, is_number

    if reading.thousands is not None or marked(delimiter, cells, reading).marks.thousands is not None:
        return
    either = [
        cell for cell in cells if "." in cell and is_number(cell, Marks(",", ".")) and is_number(cell, Marks("."))
    ]
    if either:
        say("The data that it was trained on are not known any more.")
        _tell_ways(_Given([], delimiter=delimiter, odd=either))
        raise typer.Exit(exits.INVALID)


def _tell_ways(given: _Given) -> None:
    """Say with which options what was refused is a number: where its mark may be either, nobody can know it."""
    from service.schemas.marks import Marks, is_number

    def fits(decimal: str, thousands: str | None) -> bool:
        taken = given.delimiter in (decimal, thousands) or decimal == thousands
        return not taken and all(is_number(cell, Marks(decimal, thousands)) for cell in given.odd)

    ways = [f"--decimal {MARKS[decimal]}" for decimal in ".," if given.odd and fits(decimal, None)]
    ways += [
        f"--decimal {MARKS[decimal]} --thousands {MARKS[thousands]}"
        for decimal in ".,"
        for thousands in ".,' "
        if given.odd and fits(decimal, thousands) and not fits(decimal, None)
    ]
    if ways:
        say(f"If {given.odd[0].strip()} is a number, say how it is written: {', or '.join(ways)}.")


def _head(lines: list[list[str]], number: Callable[[str], Any]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the lines of numbers: the first line may be either."""
    if all(isinstance(number(cell), (int, float, _TooLarge)) for cell in lines[0]):
        return [f"x{place}" for place in range(len(lines[0]))], lines
    return lines[0], lines[1:]


def _number(cell: str, marks: Marks | None = None, missing: frozenset[str] = frozenset()) -> Any:
    """A cell as the number that it is, None for what is `missing`; what is no number is refused by the server."""
    from service.schemas.marks import read_as

    text = cell.strip()
    if text.lower() in missing:
        return None
    if _WHOLE.fullmatch(text):
        return int(text)
    plain = text if marks is None else read_as(text, marks)
    if plain is None:  # 1.234 beside decimal commas may be a thousand
        return cell
    if _WHOLE.fullmatch(plain):
        return int(plain)
    return _finite(plain) if _DECIMAL.fullmatch(plain) else cell


class _TooLarge(str):
    """A number beyond all that can be sent, as it is written: JSON has no infinity, and null would be a gap."""


def _finite(text: str) -> float | _TooLarge:
    number = float(text)
    return number if math.isfinite(number) else _TooLarge(text)


def _fold(row: list[Any], shape: Sequence[int]) -> Any:
    if len(shape) == 1:
        return row
    size = len(row) // shape[0] if shape[0] else 0
    return [_fold(row[place * size : (place + 1) * size], shape[1:]) for place in range(shape[0])]


def _ask(session: Session, model: str, rows: Any) -> Iterator[Prediction]:
    from service.errors import InvalidInput

    client = session.client
    if not (count := _count(rows)) or count <= _ROWS:
        yield client.predict(model, rows)
        return
    for start in range(0, count, _ROWS):
        piece = slice(start, start + _ROWS)
        try:
            several = isinstance(rows, dict)
            answer = client.predict(model, {name: rows[name][piece] for name in rows} if several else rows[piece])
        except InvalidInput as refused:
            refused.errors = tuple(replace(entry, pointer=_moved(entry.pointer, start)) for entry in refused.errors)
            raise
        if answer.version is not None:  # the alias may move meanwhile: one file gets the answers of one version
            model = f"{answer.model}/{answer.version}"
        yield answer


def _count(rows: Any) -> int | None:
    """How many rows these are, by name or not; None for what is not cut into pieces."""
    if isinstance(rows, list):
        return len(rows)
    lists = list(rows.values()) if isinstance(rows, dict) else []
    counts = {len(found) if isinstance(found, list) else -1 for found in lists}
    return counts.pop() if len(counts) == 1 and counts != {-1} else None


def _moved(pointer: str, start: int) -> str:
    """The place in the whole of what is at `pointer` in the piece that begins with the row `start`."""
    if found := _CELL.fullmatch(pointer):
        return f"{pointer[: found.start(2)]}{int(found[2]) + start}{pointer[found.end(2) :]}"
    return pointer


def _tell_warnings(answers: Sequence[Prediction], given: _Given) -> None:
    """Say what the answers warn of, that of all pieces together."""
    from service.errors import Entry

    found: list[Entry] = []
    gaps: dict[tuple[str, str], tuple[int, int]] = {}  # by the words about a column: its place in `found`, its rows
    for start, answer in enumerate(answers):
        for one in answer.warnings:
            entry = Entry(
                _moved(one.pointer, start * _ROWS), one.code, one.detail, None, one.hint, one.expected, one.got
            )
            if gap := _GAP.fullmatch(entry.detail):
                place, rows = gaps.get((gap[1], gap[3]), (len(found), 0))
                gaps[gap[1], gap[3]] = place, rows + int(gap[2] or 1)
                if rows:
                    many = f"in {rows + int(gap[2] or 1)} rows, of which this is the first"
                    found[place] = replace(found[place], detail=f"{gap[1]} has no value {many}; {gap[3]}")
                    continue
            found.append(entry)
    _tell(found, given)


def _tell(entries: Iterable[Entry], given: _Given) -> None:
    """Say what is wrong or odd, by the lines and columns of a file, or by rows; what is the same in many, once."""
    from service.schemas.datasets import NULL_FOR_MISSING

    head, word = given.head, "Line" if given.lines else "Row"
    places: dict[tuple[str, str], list[str]] = {}
    more: dict[str, int] = {}
    for entry in sorted(entries, key=_row):
        expected = f" Expected {entry.expected}." if entry.expected and not entry.hint else ""
        hint = _OF_A_FILE if given.lines and entry.hint == NULL_FOR_MISSING else entry.hint
        detail = f"{entry.detail}{expected}{f' {hint}' if hint else ''}"
        found = _CELL.fullmatch(entry.pointer)
        if found is None:
            if rest := _MORE.fullmatch(detail):
                more[rest[2]] = more.get(rest[2], 0) + int(rest[1])
            else:
                places[f"{entry.pointer}: " if entry.pointer not in ("", "/inputs", "/model") else "", detail] = []
            continue
        row = int(found[2])
        number = given.lines[row] if row < len(given.lines) else row + 1
        got = f" ({entry.got})" if entry.got not in (None, "null") else ""
        about = _column(found[3], head)
        if about.removeprefix("column ") in entry.detail or (about.startswith("value ") and "olumn '" in entry.detail):
            about = ""  # the sentence names it
        about = ", ".join(filter(None, (f"input {found[1]!r}" if found[1] else "", about)))
        places.setdefault((f", {about}: " if about else ": ", detail), []).append(f"{number}{got}")
    for (about, detail), where in places.items():
        say(f"{lines_told(where, word=word) if where else ''}{about}{detail}")
    for what, count in more.items():
        say(f"{count} {what}")


def _row(entry: Entry) -> float:
    """The row that a mistake is in; what is of no row comes last."""
    found = _CELL.fullmatch(entry.pointer)
    return math.inf if found is None else int(found[2])


def _column(part: str | None, head: Sequence[str]) -> str:
    """The column that the last part of a pointer names or counts; a row of another shape has none."""
    if part is None or "/" in part:
        return ""
    name = part.replace("~1", "/").replace("~0", "~")
    if name in head or not name.isdecimal():
        return f"column {name!r}"
    return f"column {head[int(name)]!r}" if int(name) < len(head) else f"value {int(name) + 1}"


def _show(format: Format, given: _Given, answers: list[Prediction], *, bom: bool) -> None:
    head, shown, rows = given.head, given.shown, given.rows
    lines = [line for answer in answers for line in answer.lines()]
    match format:
        case Format.JSON:
            typer.echo(json.dumps(_joined(answers), indent=2, ensure_ascii=False))
        case Format.JSONL:
            keys = _keys(head, lines[0])
            for place, line in enumerate(lines):
                before = dict(zip(keys, shown[place], strict=False)) if shown else {}
                typer.echo(json.dumps({**before, **line}, ensure_ascii=False))
        case Format.CSV:
            beside = shown or [[] for _ in lines]
            told = ([*before, *line.values()] for before, line in zip(beside, lines, strict=True))
            if bom:
                typer.echo("\ufeff", nl=False)
            write_csv([*head, *lines[0]], told, delimiter=given.delimiter, decimal=given.decimal)
        case Format.TABLE:
            if not shown:
                flat = [_as_cells(row, head) for row in (rows if isinstance(rows, list) else [{} for _ in lines])]
                head = list(dict.fromkeys(name for row in flat for name in row))
                shown = [[row.get(name, "") for name in head] for row in flat]
            left_out = max(0, len(head) - _COLUMNS)
            pairs = list(zip(shown, lines, strict=True))
            told = ([*map(_short, before[:_COLUMNS]), *line.values()] for before, line in pairs[:_SHOWN])
            table([*head[:_COLUMNS], *lines[0]], told)
            if left_out:
                are = "column of the file is" if left_out == 1 else "columns of the file are"
                say(f"{left_out} more {are} not shown. All of them: -o csv")
            if len(pairs) > _SHOWN:
                say(f"… and {len(pairs) - _SHOWN} more. All of them: -o csv")
            first = answers[0]
            say(f"By {first.model}/{first.version}." if first.model else f"By the checkpoint of {first.job}.")


def _names(session: Session, model: str, rows: Any) -> list[str]:
    """The names of the columns that a version takes, for rows that are lists; none where it has none."""
    if not (isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
        return []
    asked = session.client.models.signature(model)
    row = asked.inputs[0].row if len(asked.inputs) == 1 else None
    return [] if row is None else [column.name for column in row.columns or ()]


def _keys(head: Sequence[str], answers: Collection[str]) -> list[str]:
    """A key for each column: its name, with its place where it has none or another value bears it."""
    found: list[str] = []
    for place, name in enumerate(head, start=1):
        key = name or f"column {place}"
        while key in found or key in answers:
            key = f"{key} {place}"
        found.append(key)
    return found


def _short(cell: Any) -> Any:
    """A cell of a file for people: a long number loses digits."""
    return _number(cell) if isinstance(cell, str) and len(cell) > 8 else cell


def _as_cells(row: Any, names: Sequence[str]) -> dict[str, Any]:
    """A row of JSON for people, with its numbers as they were given, where it is flat and short."""
    if isinstance(row, list) and len(row) <= 8 and not any(isinstance(cell, list) for cell in row):
        known = names if len(names) == len(row) else [f"x{place}" for place in range(len(row))]
        row = dict(zip(known, row, strict=True))
    if not isinstance(row, dict):
        return {}
    return {name: repr(cell) if isinstance(cell, float) else cell for name, cell in row.items()}


def _joined(answers: list[Prediction]) -> Any:
    """The answers to the pieces as the one that the whole would have got."""
    found = plain(answers[0])
    for start, answer in enumerate(answers[1:], start=1):
        for name in ("outputs", "labels", "probabilities"):
            values = getattr(answer, name)
            if isinstance(values, dict):  # a net with several outputs
                found[name] = {output: [*found[name][output], *rows] for output, rows in values.items()}
            elif values is not None:
                found[name] = [*found[name], *values]
        for warning in answer.warnings:
            found["warnings"].append({**plain(warning), "pointer": _moved(warning.pointer, start * _ROWS)})
    return found
