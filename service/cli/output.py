"""What commands print: tables for people, JSON, JSON lines and CSV for programs. Data goes to stdout, words to stderr.

Nothing here reaches a terminal as it came: control characters are shown, never sent. Knows no command.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

import typer


class Format(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


Column = tuple[str, Callable[[Any], Any]]
"""A column of a table: its head, and its value of an item."""


def say(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(clean(text), err=True)


def stopped(text: str) -> str:
    """A sentence with its full stop, which an abbreviation or a name at its end may have brought along."""
    return text if text.endswith(".") else f"{text}."


def clean(text: str) -> str:
    """The text without what a terminal would take for a command."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


def plain(value: Any) -> Any:
    """An answer as what its JSON was: what the server sent, no more."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def show(format: Format, document: Any, items: Sequence[Any], columns: Sequence[Column], *, title: str = "") -> None:
    """Print an answer.

    Args:
        format: how.
        document: what `json` prints: the answer of the HTTP interface.
        items: what `jsonl` prints one of a line, and what the rows of `table` and `csv` are of.
        columns: of these rows.
        title: above a table.
    """
    match format:
        case Format.JSON:
            typer.echo(json.dumps(plain(document), indent=2, ensure_ascii=False))
        case Format.JSONL:
            for item in items:
                typer.echo(json.dumps(plain(item), ensure_ascii=False))
        case Format.CSV:
            write_csv([head for head, _ in columns], ([value(item) for _, value in columns] for item in items))
        case Format.TABLE:
            table([head for head, _ in columns], ([value(item) for _, value in columns] for item in items), title=title)


def show_one(format: Format, document: Any, told: dict[str, Any], *, title: str = "") -> None:
    """Print one thing: for people a line for each of `told`, for programs the document."""
    match format:
        case Format.JSON:
            typer.echo(json.dumps(plain(document), indent=2, ensure_ascii=False))
        case Format.JSONL:
            typer.echo(json.dumps(plain(document), ensure_ascii=False))
        case Format.CSV:
            write_csv(list(told), [list(told.values())])
        case Format.TABLE:
            table([], ([name, value] for name, value in told.items() if value not in (None, "", [])), title=title)


def write_csv(head: Sequence[str], rows: Iterable[Sequence[Any]], *, delimiter: str = ",", decimal: str = ".") -> None:
    """Rows as CSV on stdout.

    Args:
        head: the first line.
        rows: the others.
        delimiter: what parts the values.
        decimal: the mark in numbers; texts stay as they are.
    """

    def cell(value: Any) -> Any:
        if isinstance(value, float) and decimal != ".":
            return repr(value).replace(".", decimal)
        if isinstance(value, (list, tuple)):
            return "; ".join(map(str, value))
        return "" if value is None else value

    writer = csv.writer(sys.stdout, delimiter=delimiter, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[cell(value) for value in row] for row in rows])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """Rows for people on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    found = Table(box=box.SIMPLE_HEAD if head else None, show_header=bool(head), pad_edge=False, header_style="bold")
    lines = [[_cell(cell) for cell in row] for row in rows]
    width = len(head) if head else 2
    for place in range(width):
        numbers = len(lines) > 0 and all(_is_number(row[place]) for row in lines)
        style = "bold" if not head and place == 0 else ""
        label = Text(clean(str(head[place]))) if head else ""
        found.add_column(label, justify="right" if numbers and head else "left", overflow="fold", style=style)
    for line in lines:
        found.add_row(*(Text(cell) for cell in line))
    if title:
        console.print(Text(clean(title), style="bold"))
    if lines:
        console.print(found)
    elif head:
        say("There are none.")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return clean(", ".join(map(str, value)))
    return clean(str(value))


def _number(value: float) -> str:
    """Four digits that count, without an exponent where whole numbers show as much: 0.01234, 265249, 1.235e+12."""
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == ""
    return True


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return ""


def moment(text: str | None) -> str:
    """A time for people: to the second, in UTC."""
    return "" if not text else f"{text[:19].replace('T', ' ')} UTC"
