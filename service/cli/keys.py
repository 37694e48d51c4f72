"""The commands of the keys file: `modelyard keys create`, `list`, `rotate`, `revoke`.

They edit the file that a server reads, wherever it runs; a running server sees the change within a second.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from service.cli import exits
from service.cli.output import Column, Format, show, show_one

if TYPE_CHECKING:
    from service.keys import Key, Keys

app = typer.Typer(name="keys", help="Make, list, rotate and revoke API keys.", no_args_is_help=True)

File = Annotated[
    Path | None, typer.Option("--file", help="The keys file.", envvar="MODELYARD_API_KEYS_FILE", show_envvar=True)
]
Output = Annotated[Format, typer.Option("--output", "-o", help="For people, or for programs.")]
Expires = Annotated[str | None, typer.Option(help="When it ends: in 90d, 12h or 30m, or an ISO 8601 time with zone.")]

_MEMBERS: Final = ("id", "name", "scope", "state", "created", "expires", "requests_per_minute", "rows_per_minute")
"""What is told of a key to programs."""
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who or what it is for, such as ci.")],
    scope: Annotated[
        str,
        typer.Option(
            metavar="SCOPE",
            help="predict (ask models), read (see everything), train (jobs and data), publish (move aliases) or admin; "
            "each includes those before it.",
        ),
    ],
    expires: Expires = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Quota of requests.")] = None,
    rows_per_minute: Annotated[int | None, typer.Option(help="Quota of predicted rows.")] = None,
    file: File = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a key. It is shown this once, on stdout, for programs as `key`; the file keeps its sha256."""
    from service import keys

    words = [member.word for member in keys.Scope]
    if scope not in words:
        _fail(f"{scope!r} is no scope. Scopes are {', '.join(words)}.", exits.USAGE)
    path, there = _open(file)
    now = datetime.now(UTC)
    with _told():
        text, key = keys.make(
            name,
            keys.Scope[scope.upper()],
            now=now,
            expires=_end(expires, now),
            requests_per_minute=requests_per_minute,
            rows_per_minute=rows_per_minute,
        )
        if any(other.name == name and other.live(now) for other in there.keys):
            _fail(f"A key of the name {name!r} is live already: `modelyard keys rotate {name}` makes its successor.")
        path.parent.mkdir(parents=True, exist_ok=True)
        keys.write(path, keys.add(there, key, now=now))
    _show(output, text, key, path, now)
    setting = f"MODELYARD_API_KEYS_FILE={shlex.quote(str(path.absolute()))}"
    typer.echo(f"A server knows the keys of this file when it is started with {setting}", err=True)


@app.command("list")
def listing(file: File = None, output: Output = Format.TABLE) -> None:
    """Show the keys of the file: what they are for, not the keys themselves."""
    path, there = _open(file)
    now = datetime.now(UTC)
    if output is not Format.TABLE:
        lines = [_record(key, now) for key in there.keys]
        columns: list[Column] = [(name, lambda line, name=name: line[name]) for name in _MEMBERS]  # type: ignore[misc]
        show(output, {"data": lines}, lines, columns)
        return
    if not there.keys:
        typer.echo(f"There are no keys in {path}.", err=True)
        return
    rows = [("ID", "NAME", "SCOPE", "STATE", "EXPIRES")]
    for key in there.keys:
        end = key.expires.astimezone(UTC).isoformat(timespec="seconds") if key.expires else "never"
        rows.append((key.id, key.name, key.scope, "live" if key.live(now) else "expired", end))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="The name of the key.")],
    overlap: Annotated[str, typer.Option(help="How long the old key stays valid, such as 7d.")] = "7d",
    expires: Expires = None,
    file: File = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a successor of the same scope and limits, shown as by `create`; the old key ends after the overlap."""
    from service import keys

    path, there = _open(file)
    now = datetime.now(UTC)
    with _told():
        text, key, more = keys.rotate(there, name, now=now, overlap=_duration(overlap), expires=_end(expires, now))
        keys.write(path, more)
    _show(output, text, key, path, now)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="The id of one key, or the name of all that have it.")],
    file: File = None,
    output: Output = Format.TABLE,
) -> None:
    """Take keys out of the file; servers refuse them within a second."""
    from service import keys

    path, there = _open(file)
    with _told():
        remaining, gone = keys.revoke(there, which)
        keys.write(path, remaining)
    for key in gone:
        typer.echo(f"Revoked {key.id} ({key.name}, {key.scope}).", err=True)
    if output is not Format.TABLE:
        lines = [{"id": key.id, "name": key.name, "scope": key.scope} for key in gone]
        columns: list[Column] = [(name, lambda line, name=name: line[name]) for name in lines[0]]  # type: ignore[misc]
        show(output, {"revoked": lines}, lines, columns)


def _open(file: Path | None) -> tuple[Path, Keys]:
    """The file and what is in it; one that is not there is one without keys."""
    from service import keys

    if file is None:
        _fail("Name the keys file with --file or MODELYARD_API_KEYS_FILE.", exits.USAGE)
    with _told():
        return file, keys.read(file) if file.exists() else keys.Keys()


def _record(key: Key, now: datetime) -> dict[str, Any]:
    """What is told of a key to programs: neither the key nor its digest."""
    told = key.model_dump(mode="json") | {"state": "live" if key.live(now) else "expired"}
    return {name: told[name] for name in _MEMBERS}


def _show(output: Format, text: str, key: Key, path: Path, now: datetime) -> None:
    end = key.expires.astimezone(UTC).isoformat(timespec="seconds") if key.expires else "never"
    typer.echo(f"Key {key.id} of {key.name!r}, scope {key.scope}, expires: {end}. Its sha256 is in {path}.", err=True)
    typer.echo("It is shown only now:", err=True)
    if output is Format.TABLE:
        typer.echo(text)
    else:
        record = _record(key, now) | {"key": text}
        show_one(output, record, record)


def _end(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,6}[mhdw]", text):
        return now + _duration(text)
    try:
        end = datetime.fromisoformat(text)
    except ValueError:
        end = None
    if end is None or end.tzinfo is None:
        _fail(f"{text!r} is no time: write 90d, 12h, 30m, or 2030-01-31T12:00:00Z.", exits.USAGE)
    if end <= now:
        _fail(f"{text} is past.", exits.USAGE)
    return end


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None:
        _fail(f"{text!r} is no length of time: write 7d, 12h or 30m.", exits.USAGE)
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@contextmanager
def _told() -> Iterator[None]:
    """Tell what is wrong in sentences instead of a traceback."""
    from service.errors import ServiceError

    try:
        yield
    except ServiceError as error:
        lines = [error.message, *([error.hint] if error.hint else ())]
        _fail("\n".join([*lines, *(f"  {entry.pointer}: {entry.detail}" for entry in error.errors)]))
    except OSError as error:
        _fail(f"The keys file cannot be written: {error.strerror}.")


def _fail(text: str, status: int = exits.FAILURE) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(status)
