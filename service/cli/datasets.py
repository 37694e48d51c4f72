"""The commands on datasets: add, list, preview."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import exits
from service.cli.output import Column, moment, say, show, show_one, size
from service.cli.session import Session, before, sentences, talks

if TYPE_CHECKING:
    from service.client import Client, Dataset
    from service.client.dialects import Reading, Table
    from service.schemas.marks import Marks

app = typer.Typer(name="datasets", help="Bring data and look at it.", no_args_is_help=True)
app.callback()(before)

SPREADSHEETS: Final = (".xlsx", ".xls", ".ods", ".numbers")
SAVE_AS_CSV: Final = 'Save it from the spreadsheet as CSV; in Excel, as "CSV UTF-8".'
_OTHERS: Final = {".npz": "npz", ".npy": "npy", ".zip": "images", ".gz": "idx"}
Delimiter = Annotated[
    str | None, typer.Option(help="Of a CSV file: comma, semicolon, tab or bar. By default as its first line has it.")
]
Decimal = Annotated[
    str | None, typer.Option(help="Of the numbers in a CSV file: point or comma. By default as its numbers have it.")
]
Thousands = Annotated[
    str | None,
    typer.Option(
        help="What stands between thousands in a CSV file: point, comma, apostrophe, space or none. By default as its "
        "numbers have it."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Of a CSV file, such as windows-1252. By default UTF-8, UTF-16 or windows-1252, as it looks."),
]
MissingText = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="A cell of a CSV file that is a missing value, such as unknown or -9999. Repeatable."
    ),
]
SkipUnlabelled = Annotated[
    bool, typer.Option("--skip-unlabelled", help="Leave out the rows of a table whose target has no value.")
]
OPTIONS: Final = {
    "/source/target": "--target",
    "/source/inputs": "--inputs",
    "/source/delimiter": "--delimiter",
    "/source/decimal": "--decimal",
    "/source/thousands": "--thousands",
    "/source/missing_texts": "--missing-text",
    "/source/unlabelled": "--skip-unlabelled",
}
"""Members of a table's source that are made of one option alone."""


@app.command()
@talks
def add(
    session: Session,
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSON lines, Parquet, npz, npy, or a zip of pictures.")],
    target: Annotated[str | None, typer.Option(help="The column, or the array, that is to be learnt.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option(help="Columns, parted by commas; by default all others. Repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name to find it by; by default that of the file.")] = None,
    type: Annotated[str | None, typer.Option(help="What kind of source it is; by default after the suffix.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Empty cells are missing values.")] = False,
    missing_text: MissingText = None,
    skip_unlabelled: SkipUnlabelled = False,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    thousands: Thousands = None,
    encoding: Encoding = None,
) -> None:
    """Upload a file and make a dataset of it."""
    from service.client.dialects import TABLES

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
        source |= {"inputs": names_of(inputs) or "*"}
        source |= {"missing": "keep"} if missing else {}
        source |= {"unlabelled": "skip"} if skip_unlabelled else {}
    elif skip_unlabelled:
        say("--skip-unlabelled is for tables: CSV, JSON lines, Parquet.")
        raise typer.Exit(exits.USAGE)
    elif inputs:
        source["inputs"] = inputs[-1]
    if target is not None:
        source["target"] = target
    reading = asked(kind, delimiter, decimal, thousands, encoding, missing_text)
    with ExitStack() as undo:
        table = read_table(file, kind, reading)
        source |= {**table.source, "upload": sending(session.client, undo)(table)}
        dataset = session.client.datasets.add(source, name=name or file.stem[:63].lower(), wait_s=60)
        undo.pop_all()
    _show(session, dataset)


def names_of(values: Iterable[str] | None) -> list[str]:
    """The columns that an option names, which may be repeated: parted by commas, in quotes where a name has one."""
    cells = (
        cell.strip() for value in values or () for line in csv.reader([value], skipinitialspace=True) for cell in line
    )
    return list(dict.fromkeys(cell for cell in cells if cell))


def as_option(names: Iterable[str]) -> str:
    """Names of columns as an option takes them, and a shell."""
    cells = ('"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name for name in names)
    return shlex.quote(",".join(cells))


def asked(
    kind: str,
    delimiter: str | None,
    decimal: str | None,
    thousands: str | None,
    encoding: str | None,
    missing_text: list[str] | None,
) -> Reading:
    """How the options say that a file is to be read; what they cannot say ends the command."""
    from service.client.dialects import reading_of

    if missing_text and kind != "csv":
        say("--missing-text is for CSV files; elsewhere null is what is missing.")
        raise typer.Exit(exits.USAGE)
    try:
        return reading_of(
            delimiter=delimiter,
            decimal=decimal,
            thousands=thousands,
            encoding=encoding,
            missing_texts=missing_text,
            option="--",
        )
    except ValueError as error:
        say(f"{error}.")
        raise typer.Exit(exits.USAGE) from None


def read_table(file: Path, kind: str, reading: Reading) -> Table:
    """A file as the server takes it. What nobody asked for, and its look says, is told."""
    from service.client.dialects import table_of

    table = table_of(file, kind, reading)
    tell_encoding(table.name, table.was)
    tell_marks(table.name, table.found)
    return table


def tell_encoding(name: str, was: str | None) -> None:
    """Say in which encoding a file is read, where that is not UTF-8."""
    if was is not None:
        say(f"{name} is not in UTF-8; it is read as {was}. If letters are wrong, name another with --encoding.")


def tell_marks(name: str, found: Marks) -> None:
    """Say which marks numbers have, where these were only found."""
    from service.schemas.marks import THOUSANDS

    comma = " and a decimal comma" if found.decimal == "," else ""
    if found.thousands is not None:
        between = f"{THOUSANDS[found.thousands]} between thousands{comma}"
        say(f"{name} has numbers with {between}, such as {found.shown}. If that is wrong: --thousands none.")
    elif comma:
        say(f"{name} has numbers with a decimal comma, such as {found.shown}. If that is none: --decimal point.")


def sending(client: Client, undo: ExitStack) -> Callable[[Table], str]:
    """What uploads a table and answers its id; `undo` removes it, and what was made of it."""

    def send(table: Table) -> str:
        content = table.content
        if (len(content) if isinstance(content, bytes) else content.stat().st_size) == 0:
            say(f"{table.name} is empty.")
            raise typer.Exit(exits.INVALID)
        found = client.uploads.add(content, media_type=table.media_type).id
        undo.callback(client.discard, found)
        return found

    return send


def uploading(client: Client, undo: ExitStack) -> Callable[[Path], str]:
    """What uploads a file of a request, which says itself what is in it; `undo` removes it again."""
    from service.client.dialects import TABLES, Reading, table_of

    def upload(path: Path) -> str:
        table = table_of(path, TABLES.get(path.suffix.lower(), ""), Reading())
        tell_encoding(table.name, table.was)
        return sending(client, undo)(table)

    return upload


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
    session.tell_next(page.next)


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
