"""The command `predict`: rows of a file, of stdin or of the command line, and the answers beside them."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import exits
from service.cli.datasets import decimal_comma
from service.cli.output import Format, plain, say, table, write_csv
from service.cli.session import Session, exit_code, talks
from service.cli.session import lines as lines_told

if TYPE_CHECKING:
    from service.client import Prediction, Version
    from service.errors import InvalidInput

_ROWS: Final = 1000
"""Rows of one request; longer files are asked for in pieces."""
_SHOWN: Final = 50
"""Rows of a table for people."""
_MISSING: Final = ("na", "nan", "null")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


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
) -> None:
    """Ask a model.

    Rows are raw: the version scales and encodes them itself. Columns of a CSV file are found by their names, others are
    passed through; numbers may have a decimal comma where another character parts the values. -o csv writes each row
    with its prediction; -o json answers what the HTTP interface does.
    """
    from service.errors import Forbidden, InvalidInput

    if (file is None) == (inputs is None):
        say("Name a file (- is stdin), or give --inputs '[[0.5], [0.7]]'.")
        raise typer.Exit(exits.USAGE)
    text = inputs if inputs is not None else _read(file)
    kind = "json" if inputs is not None else form or _form(file, text)
    unseen = False
    if kind == "csv":
        version = None
        try:
            version = None if model.startswith("job_") else session.client.versions.resolve(model)
        except Forbidden:  # a key for predictions alone: the file's own names have to do
            unseen = True
        lines, shown, rows = _rows_by_head(text) if unseen else _table_rows(text, version)
    else:
        lines, shown, rows = [], [], _json_rows(text, kind)
    if rows == []:
        say("There are no rows.")
        raise typer.Exit(exits.INVALID)
    try:
        answers = list(_ask(session, model, rows))
    except InvalidInput as refused:
        if not lines:
            raise
        _tell(refused, lines, list(shown[0]))
        if unseen:
            say(
                "The columns that the model takes were not looked up, since this key lacks the scope read. Leave out "
                "what it does not take, send rows with --inputs, or use a key of the scope read."
            )
        raise typer.Exit(exit_code(refused)) from None
    _show(session.format, shown, rows, answers)


def _read(file: Path | None) -> str:
    if file is None or str(file) == "-":
        return sys.stdin.read()
    return file.read_text(encoding="utf-8-sig")


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
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        found = json.loads(text)
    except ValueError as error:
        say(f"The rows are no JSON: {error}.")
        raise typer.Exit(exits.INVALID) from None
    return found["inputs"] if isinstance(found, dict) and "inputs" in found else found


def _table_rows(text: str, version: Version | None) -> tuple[list[int], list[dict[str, str]], list[Any]]:
    """The rows of a CSV text: the line each begins on, the rows as they are shown, and as the version takes them."""
    first = text[: text.find("\n") + 1] or text
    delimiter = max(",;\t|", key=first.count)
    places, lines = _records(text, delimiter)
    if not lines:
        return [], [], []
    names = None if version is None else version.signature.columns
    if names is None:
        number = _reader(lines, delimiter)
        head, lines = _head(lines, number)
        rows = [[number(cell) for cell in line] for line in lines]
        shape = [] if version is None else [int(size) for size in version.signature.inputs[0].shape[1:] if size != "B"]
        folded = [_fold(row, shape) for row in rows] if len(shape) > 1 else rows
        return places[-len(lines) :], [dict(zip(head, line, strict=False)) for line in lines], folded
    assert version is not None
    head, lines, places = lines[0], lines[1:], places[1:]
    absent = [name for name in names if name not in head]
    if absent:
        _tell_absent(absent, head)
        say(f"{version.reference} takes: {', '.join(names)}.")
        raise typer.Exit(exits.INVALID)
    texts = _texts(version)
    shown = _by_name(head, lines, places)
    number = _reader([[line[name] for name in names if name not in texts] for line in shown], delimiter)
    asked = [{name: line[name] if name in texts else number(line[name]) for name in names} for line in shown]
    return places, shown, asked


def _rows_by_head(text: str) -> tuple[list[int], list[dict[str, str]], list[Any]]:
    """As `_table_rows`, for a version that cannot be seen: what looks like a number is one; all columns are sent."""
    first = text[: text.find("\n") + 1] or text
    delimiter = max(",;\t|", key=first.count)
    places, lines = _records(text, delimiter)
    if not lines:
        return [], [], []
    number = _reader(lines, delimiter)
    head, rows = _head(lines, number)
    shown = _by_name(head, rows, places[-len(rows) :])
    if len(rows) == len(lines):  # no line of names
        return places, shown, [[number(cell) for cell in line] for line in rows]
    kinds = {name: {type(number(line[name])) for line in shown} for name in head}
    texts = {name for name in head if str in kinds[name] and not kinds[name] & {int, float}}
    asked = [{name: cell if name in texts else number(cell) for name, cell in line.items()} for line in shown]
    return places[1:], shown, asked


def _by_name(head: Sequence[str], lines: Sequence[Sequence[str]], places: Sequence[int]) -> list[dict[str, str]]:
    """The rows by the names of their columns; a row of another length ends the command."""
    uneven = next((row for row, line in enumerate(lines) if len(line) != len(head)), None)
    if uneven is not None:
        say(f"Line {places[uneven]} has {len(lines[uneven])} values, the first line has {len(head)} names.")
        raise typer.Exit(exits.INVALID)
    return [dict(zip(head, line, strict=True)) for line in lines]


def _tell_absent(absent: Sequence[str], head: Sequence[str]) -> None:
    """Say which columns the file lacks, and which of its own may be meant."""
    from service.schemas.document import nearest_hint

    *most, last = map(repr, absent)
    say(f"The file has no columns {', '.join(most)} and {last}." if most else f"The file has no column {last}.")
    for name in absent:
        hint = nearest_hint(name, head)
        if hint is not None:
            say(f"{name}: {hint}")


def _records(text: str, delimiter: str) -> tuple[list[int], list[list[str]]]:
    """The lines of a CSV text that are not empty, each with its number; a quoted cell may go over several."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    places, lines, begins = [], [], 1
    for line in reader:
        if line:
            places.append(begins)
            lines.append(line)
        begins = reader.line_num + 1
    return places, lines


def _reader(rows: Sequence[Sequence[str]], delimiter: str) -> Callable[[str], Any]:
    """How the numbers among these cells are read."""
    return partial(_number, decimal="." if decimal_comma(rows, delimiter) is None else ",")


def _texts(version: Version) -> set[str]:
    """The columns whose cells stay texts."""
    row = (version.preprocessing or {}).get("row", {})
    return {column["name"] for column in row.get("columns", ()) if column.get("kind") != "number"}


def _head(lines: list[list[str]], number: Callable[[str], Any]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the lines of numbers: the first line may be either."""
    if all(isinstance(number(cell), (int, float)) for cell in lines[0]):
        return [f"x{place}" for place in range(len(lines[0]))], lines
    return lines[0], lines[1:]


def _number(cell: str, decimal: str = ".") -> Any:
    """A cell as the number that it is; an empty one is missing, and what is no number is refused by the server."""
    text = cell.strip()
    if not text or text.lower() in _MISSING:
        return None
    if _WHOLE.fullmatch(text):
        return int(text)
    if decimal == "," and "." not in text:
        text = text.replace(",", ".")
    return float(text) if _DECIMAL.fullmatch(text) else cell


def _fold(row: list[Any], shape: Sequence[int]) -> Any:
    if len(shape) == 1:
        return row
    size = len(row) // shape[0] if shape[0] else 0
    return [_fold(row[place * size : (place + 1) * size], shape[1:]) for place in range(shape[0])]


def _ask(session: Session, model: str, rows: Any) -> Iterator[Prediction]:
    from service.errors import InvalidInput

    client = session.client
    if not isinstance(rows, list) or len(rows) <= _ROWS:
        yield client.predict(model, rows)
        return
    for start in range(0, len(rows), _ROWS):
        try:
            answer = client.predict(model, rows[start : start + _ROWS])
        except InvalidInput as refused:
            refused.errors = tuple(replace(entry, pointer=_moved(entry.pointer, start)) for entry in refused.errors)
            raise
        if answer.version is not None:  # the alias may move meanwhile: one file gets the answers of one version
            model = f"{answer.model}/{answer.version}"
        yield answer


def _moved(pointer: str, start: int) -> str:
    """The place in the whole of what is at `pointer` in the piece that begins with the row `start`."""
    parts = pointer.split("/")
    if len(parts) > 2 and parts[1] == "inputs" and parts[2].isdecimal():
        parts[2] = str(int(parts[2]) + start)
    return "/".join(parts)


def _tell(refused: InvalidInput, lines: Sequence[int], head: Sequence[str]) -> None:
    """Say what is wrong with the rows of a file, by its lines and columns; what is the same in many lines, once."""
    say(refused.message)
    places: dict[tuple[str, str], list[str]] = {}
    for entry in refused.errors:
        expected = f" Expected {entry.expected}." if entry.expected and not entry.hint else ""
        detail = f"{entry.detail}{expected}{f' {entry.hint}' if entry.hint else ''}"
        found = re.fullmatch(r"/inputs/([0-9]+)(?:/(.*))?", entry.pointer)
        if found is None or int(found[1]) >= len(lines):
            say(f"{entry.pointer}: {detail}")
            continue
        column = _column(found[2], head)
        got = f" ({entry.got})" if entry.got not in (None, "null") else ""
        key = ("" if repr(column) in entry.detail else column, detail)
        places.setdefault(key, []).append(f"{lines[int(found[1])]}{got}")
    for (column, detail), where in places.items():
        about = f", column {column!r}" if column else ""
        say(f"{lines_told(where)}{about}: {detail}")
    if refused.more:
        say(f"There are {refused.more} more mistakes.")


def _column(part: str | None, head: Sequence[str]) -> str:
    """The name of the column that the last part of a pointer names or counts; a row of another shape has none."""
    if part is None or "/" in part:
        return ""
    name = part.replace("~1", "/").replace("~0", "~")
    return head[int(name)] if name not in head and name.isdecimal() and int(name) < len(head) else name


def _show(format: Format, shown: list[dict[str, str]], rows: Any, answers: list[Prediction]) -> None:
    for start, answer in enumerate(answers):
        for warning in answer.warnings:
            piece = f" (rows from {start * _ROWS})" if len(answers) > 1 else ""
            say(f"{warning.pointer}{piece}: {warning.detail}{f' {warning.hint}' if warning.hint else ''}")
    lines = [line for answer in answers for line in answer.lines()]
    match format:
        case Format.JSON:
            typer.echo(json.dumps(_joined(answers), indent=2, ensure_ascii=False))
        case Format.JSONL:
            for place, line in enumerate(lines):
                before = shown[place] if shown else {}
                typer.echo(json.dumps({**before, **line}, ensure_ascii=False))
        case Format.CSV:
            beside = shown or [{} for _ in lines]
            head = [*beside[0], *lines[0]]
            write_csv(head, ([*before.values(), *line.values()] for before, line in zip(beside, lines, strict=True)))
        case Format.TABLE:
            beside = shown or [_as_cells(row) for row in (rows if isinstance(rows, list) else [{} for _ in lines])]
            head = [*beside[0], *lines[0]]
            pairs = list(zip(beside, lines, strict=True))
            table(head, ([*map(_short, before.values()), *line.values()] for before, line in pairs[:_SHOWN]))
            if len(pairs) > _SHOWN:
                say(f"… and {len(pairs) - _SHOWN} more. All of them: -o csv")
            first = answers[0]
            say(f"By {first.model}/{first.version}." if first.model else f"By the checkpoint of {first.job}.")


def _short(cell: Any) -> Any:
    """A cell of a file for people: a long number loses digits."""
    return _number(cell) if isinstance(cell, str) and len(cell) > 8 else cell


def _as_cells(row: Any) -> dict[str, Any]:
    """A row of JSON for people, where it is flat and short."""
    if isinstance(row, dict):
        return row
    if isinstance(row, list) and len(row) <= 8 and not any(isinstance(cell, list) for cell in row):
        return {f"x{place}": cell for place, cell in enumerate(row)}
    return {}


def _joined(answers: list[Prediction]) -> Any:
    """The answers to the pieces as the one that the whole would have got."""
    found = plain(answers[0])
    for start, answer in enumerate(answers[1:], start=1):
        for name in ("outputs", "labels", "probabilities"):
            if found.get(name) is not None:
                found[name] += getattr(answer, name)
        for warning in answer.warnings:
            found["warnings"].append({**plain(warning), "pointer": _moved(warning.pointer, start * _ROWS)})
    return found
