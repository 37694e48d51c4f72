"""The commands on datasets: add, list, preview."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import exits
from service.cli.output import Column, Format, moment, say, show, show_one, size
from service.cli.session import Session, talks

if TYPE_CHECKING:
    from service.client import Dataset

app = typer.Typer(name="datasets", help="Bring data and look at it.", no_args_is_help=True)

TABLES: Final = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
"""Files of tables, by their suffix."""
_OTHERS: Final = {".npz": "npz", ".npy": "npy", ".zip": "images", ".gz": "idx"}
_DELIMITERS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
Delimiter = Annotated[
    str | None, typer.Option(help="Of a CSV file: comma, semicolon, tab or bar. By default as its first line has it.")
]


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
    delimiter: Delimiter = None,
) -> None:
    """Upload a file and make a dataset of it."""
    upload = session.client.uploads.add(file)
    kind = type or TABLES.get(file.suffix.lower()) or _OTHERS.get(file.suffix.lower())
    if kind is None:
        say(f"What {file.name} is cannot be told from its name. Say it with --type, such as --type csv.")
        raise typer.Exit(exits.USAGE)
    source: dict[str, Any] = {"type": kind, "upload": upload.id}
    if kind in TABLES.values():
        source |= {"inputs": inputs.split(",") if inputs else "*"}
        source |= {"missing": "keep"} if missing else {}
        source |= delimited(kind, file, delimiter)
    elif inputs:
        source["inputs"] = inputs
    if target is not None:
        source["target"] = target
    dataset = session.client.datasets.add(source, name=name or file.stem[:63].lower(), wait_s=60)
    _show(session, dataset)


def delimited(kind: str, file: Path, delimiter: str | None) -> dict[str, str]:
    """What a CSV source says of its delimiter: what was asked for, else what parts the first line most often."""
    if kind != "csv":
        return {}
    if delimiter is not None:
        if delimiter not in _DELIMITERS and delimiter not in _DELIMITERS.values():
            say(f"--delimiter is one of {', '.join(_DELIMITERS)}.")
            raise typer.Exit(exits.USAGE)
        found = _DELIMITERS.get(delimiter, delimiter)
    else:
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            first = lines.readline(65536)
        found = max(_DELIMITERS.values(), key=first.count)
    return {} if found == "," else {"delimiter": found}


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
    for warning in dataset.warnings:
        say(f"{warning.pointer}: {warning.detail}{f' {warning.hint}' if warning.hint else ''}")
