"""The commands on a server's store: `store fsck` hashes every version again, `store gc` removes old uploads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from service.cli import exits
from service.cli.output import Column, Format, say, show, size
from service.cli.session import Session, before, talks

app = typer.Typer(name="store", help="Check and clear what the server keeps.", no_args_is_help=True)
app.callback()(before)


@app.command()
@talks
def fsck(
    session: Session,
    model: Annotated[str | None, typer.Option(help="Only this model's versions.")] = None,
) -> None:
    """Hash the files of every version again and compare them with what was published; ends with 1 if some differ."""
    client = session.client
    names = [model] if model is not None else [found.model for found in client.each(client.models.list, limit=200)]
    lines = []
    for name in names:
        for version in client.each(client.versions.list, name, limit=200):
            if version.state == "deleted":
                continue
            wrong = [str(one.get("file")) for one in client.versions.verify(name, version.version).mismatches]
            lines.append({"version": version.reference, "state": version.state, "ok": not wrong, "wrong": wrong})
    columns: list[Column] = [
        ("version", lambda line: line["version"]),
        ("state", lambda line: line["state"]),
        ("ok", lambda line: line["ok"]),
        ("wrong", lambda line: line["wrong"]),
    ]
    show(session.format, {"data": lines}, lines, columns)
    if not all(line["ok"] for line in lines):
        raise typer.Exit(exits.FAILURE)


@app.command()
@talks
def gc(
    session: Session,
    older_than_days: Annotated[float, typer.Option(min=0, help="Uploads younger than this stay.")] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove old uploads. Datasets and versions that were made of them have their own copy and stay.

    What a crash leaves behind needs no command: the server clears it at its start.
    """
    from service.errors import Conflict, NotFound

    client = session.client
    limit = datetime.now(UTC) - timedelta(days=older_than_days)
    lines = []
    for upload in list(client.each(client.uploads.list, limit=200)):
        if datetime.fromisoformat(upload.created_at) > limit:
            continue
        removed = not dry_run
        if not dry_run:
            try:
                client.uploads.delete(upload.id)
            except (Conflict, NotFound):
                removed = False  # something waits for it, or somebody else was faster
        lines.append({"upload": upload.id, "size_bytes": upload.size_bytes, "removed": removed})
    columns: list[Column] = [
        ("upload", lambda line: line["upload"]),
        ("size", lambda line: size(line["size_bytes"]) if session.format is Format.TABLE else line["size_bytes"]),
        ("removed", lambda line: line["removed"]),
    ]
    show(session.format, {"data": lines}, lines, columns)
    if session.format is Format.TABLE:
        say(f"{size(sum(int(str(line['size_bytes'])) for line in lines if line['removed'] or dry_run))} in all.")
