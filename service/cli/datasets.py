"""The commands on datasets: add, list, preview."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import exits
from service.cli.output import Column, Format, moment, say, show, show_one, size
from service.cli.session import Session, before, sentences, talks

if TYPE_CHECKING:
    from service.client import Client, Dataset

app = typer.Typer(name="datasets", help="Bring data and look at it.", no_args_is_help=True)
app.callback()(before)

TABLES: Final = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
"""Files of tables, by their suffix."""
SPREADSHEETS: Final = (".xlsx", ".xls", ".ods", ".numbers")
SAVE_AS_CSV: Final = 'Save it from the spreadsheet as CSV; in Excel, as "CSV UTF-8".'
_OTHERS: Final = {".npz": "npz", ".npy": "npy", ".zip": "images", ".gz": "idx"}
_DELIMITERS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
_MARKS: Final = {"point": ".", "comma": ","}
_LOOKED_AT: Final = 1000
"""Lines of a file whose numbers show their decimal mark."""
_WITH_COMMA: Final = re.compile(r"[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?")
_WITH_POINT: Final = re.compile(r"(?![+-]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+$)[+-]?[0-9,]*\.[0-9]+(?:[eE][+-]?[0-9]+)?")
"""Not 1.234, which may be a thousand."""
Delimiter = Annotated[
    str | None, typer.Option(help="Of a CSV file: comma, semicolon, tab or bar. By default as its first line has it.")
]
Decimal = Annotated[
    str | None, typer.Option(help="Of the numbers in a CSV file: point or comma. By default as its numbers have it.")
]
MissingText = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="A cell of a CSV file that is a missing value, such as unknown or -9999. Repeatable."
    ),
]
OPTIONS: Final = {
    "/source/target": "--target",
    "/source/inputs": "--inputs",
    "/source/delimiter": "--delimiter",
    "/source/decimal": "--decimal",
    "/source/missing_texts": "--missing-text",
}
"""Members of a table's source that are made of one option alone."""


@app.command()
@talks
def add(
    session: Session,
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSON lines, Parquet, npz, npy, or a zip of pictures.")],
    target: Annotated[str | None, typer.Option(help="The column, or the array, that is to be learnt.")] = None,
    inputs: Annotated[str | None, typer.Option(help="Columns, parted by commas; by default all others.")] = None,
    name: Annotated[str | None, typer.Option(help="A name to find it by; by default that of the file.")] = None,
    type: Annotated[str | None, typer.Option(help="What kind of source it is; by default after the suffix.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Empty cells are missing values.")] = False,
    missing_text: MissingText = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
) -> None:
    """Upload a file and make a dataset of it."""
    session.places = {"/source/upload": file.name, **OPTIONS, "": ""}
    kind = type or TABLES.get(file.suffix.lower()) or _OTHERS.get(file.suffix.lower())
    if kind is None:
        known = "cannot be told from its name. Say it with --type, such as --type csv."
        say(
            f"What {file.name} is {known}" if file.suffix.lower() not in SPREADSHEETS else f"{file.name}: {SAVE_AS_CSV}"
        )
        raise typer.Exit(exits.USAGE)
    source: dict[str, Any] = {"type": kind}
    if kind in TABLES.values():
        source |= {"inputs": inputs.split(",") if inputs else "*"}
        source |= {"missing": "keep"} if missing else {}
        source |= missing_texts(kind, missing_text) | dialect(kind, file, delimiter, decimal)
    elif inputs:
        source["inputs"] = inputs
    if target is not None:
        source["target"] = target
    with ExitStack() as undo:
        source["upload"] = uploading(session.client, undo)(file)
        dataset = session.client.datasets.add(source, name=name or file.stem[:63].lower(), wait_s=60)
        undo.pop_all()
    _show(session, dataset)


def missing_texts(kind: str, texts: list[str] | None) -> dict[str, Any]:
    """What a source says of the cells that are missing values beside the empty ones."""
    if texts and kind != "csv":
        say("--missing-text is for CSV files; elsewhere null is what is missing.")
        raise typer.Exit(exits.USAGE)
    return {"missing": "keep", "missing_texts": texts} if texts else {}


def dialect(kind: str, file: Path, delimiter: str | None, decimal: str | None) -> dict[str, str]:
    """What a CSV source says of its delimiter and its decimal mark: what was asked for, else what the file shows.

    The delimiter is what parts the first line most often. A decimal comma that was only found is told.
    """
    if kind != "csv":
        return {}
    parts, mark = marks(delimiter, decimal)
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        if parts is None:
            first = lines.readline(65536)
            parts = max(_DELIMITERS.values(), key=first.count)
            lines.seek(0)
        if mark is None:
            try:
                shown = decimal_comma(islice(csv.reader(lines, delimiter=parts), 1, _LOOKED_AT), parts)
            except csv.Error:  # the server says what is wrong, and where
                shown = None
            if shown is not None:
                say(f"{file.name} has numbers with a decimal comma, such as {shown}. If that is none: --decimal point.")
            mark = "." if shown is None else ","
    return ({} if parts == "," else {"delimiter": parts}) | ({} if mark == "." else {"decimal": mark})


def decimal_comma(rows: Iterable[Iterable[str]], delimiter: str) -> str | None:
    """The first number with a decimal comma; None where there is none, some have a point, or commas part the values."""
    found = None
    for cell in (cell.strip() for row in rows for cell in row) if delimiter != "," else ():
        if _WITH_POINT.fullmatch(cell):
            return None
        if found is None and _WITH_COMMA.fullmatch(cell):
            found = cell
    return found


def marks(delimiter: str | None, decimal: str | None) -> tuple[str | None, str | None]:
    """The characters that --delimiter and --decimal ask for."""
    return _asked("--delimiter", delimiter, _DELIMITERS), _asked("--decimal", decimal, _MARKS)


def _asked(option: str, value: str | None, known: dict[str, str]) -> str | None:
    if value is not None and value not in known and value not in known.values():
        say(f"{option} is one of {', '.join(known)}.")
        raise typer.Exit(exits.USAGE)
    return None if value is None else known.get(value, value)


def uploading(client: Client, undo: ExitStack) -> Callable[[Path], str]:
    """What uploads a file and answers its id; `undo` removes it, and what was made of it."""

    def upload(path: Path) -> str:
        if path.stat().st_size == 0:
            say(f"{path.name} is empty.")
            raise typer.Exit(exits.INVALID)
        found = client.uploads.add(path).id
        undo.callback(discard, client, found)
        return found

    return upload


def discard(client: Client, upload: str, *, datasets_only: bool = False) -> None:
    """Remove an upload of this command, and what was made of it: a refused dataset too is kept until it is deleted."""
    from service.errors import ServiceError

    with suppress(ServiceError):  # this is tidying: what went wrong before is what people have to know
        for made in client.datasets.list(limit=200).data:
            if made.source.get("upload") == upload:
                client.datasets.delete(made.id)
        if not datasets_only:
            client.uploads.delete(upload)


@app.command("list")
@talks
def listing(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, max=200, help="So many at most.")] = 50,
    after: Annotated[str | None, typer.Option(help="The `next` of the page before.")] = None,
) -> None:
    """List datasets."""
    page = session.client.datasets.list(limit=limit, after=after)
    columns: list[Column] = [
        ("id", lambda found: found.id),
        ("name", lambda found: found.name),
        ("state", lambda found: found.state),
        ("rows", lambda found: found.rows),
        ("columns", lambda found: len(found.columns)),
        ("size", lambda found: size(found.size_bytes)),
        ("created", lambda found: moment(found.created_at)),
    ]
    show(session.format, page, page.data, columns)
    if page.next is not None and session.format is Format.TABLE:
        say(f"There are more: --after {page.next}")


@app.command()
@talks
def preview(
    session: Session,
    dataset: Annotated[str, typer.Argument(help="The dataset's id.")],
    limit: Annotated[int, typer.Option(min=1, max=200, help="So many rows.")] = 10,
) -> None:
    """Show the first rows."""
    found = session.client.datasets.preview(dataset, limit=limit)
    names = [column["name"] for column in found.columns]
    rows = [dict(zip(names, row, strict=True)) for row in found.rows]
    columns: list[Column] = [(name, lambda row, name=name: row[name]) for name in names]  # type: ignore[misc]
    show(session.format, found, rows, columns)


def _show(session: Session, dataset: Dataset) -> None:
    roles = [f"{column.name} ({column.role}, {column.dtype})" for column in dataset.columns]
    told = {
        "id": dataset.id,
        "name": dataset.name,
        "state": dataset.state,
        "rows": dataset.rows,
        "columns": roles,
        "size": size(dataset.size_bytes),
    }
    show_one(session.format, dataset, told)
    for line in sentences(dataset.warnings, session.places):
        say(line)
