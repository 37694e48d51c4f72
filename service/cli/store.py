"""The commands on a store: `store fsck` hashes every version again, `store gc` removes old uploads, and `store rebuild`
makes a database again where no server runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import exits
from service.cli.output import Column, Format, say, show, size
from service.cli.session import Session, before, talks
from service.cli.settings import settings_of

app = typer.Typer(name="store", help="Check, clear and mend what the server keeps.", no_args_is_help=True)
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


@app.command()
def rebuild(
    store: Annotated[Path | None, typer.Option(help="Folder of the store, as `serve` has it.")] = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="For people, or for programs.")] = Format.TABLE,
) -> None:
    """Make models and versions again from their folders, where the database is lost and no server runs.

    Versions that the database knows stay as they are. Aliases, notes, tags, jobs and records of datasets stood in the
    database alone and do not come back.
    """
    from service.errors import StoreError, StoreLocked
    from service.store.rebuilding import rebuild as rebuilt
    from service.telemetry import configure_logging

    settings, _ = settings_of(store=store)
    if not any((settings.store / name).exists() for name in ("models", "LOCK")):
        say(f"{settings.store.absolute()} is no store. Name it by --store.")
        raise typer.Exit(exits.NOT_FOUND)
    configure_logging(level=settings.log_level, style="console")
    try:
        found = rebuilt(settings.store, settings.database)
    except StoreLocked as error:
        say(f"{error.message} Stop that server first.")
        raise typer.Exit(exits.CONFLICT) from None
    except StoreError as error:
        say(error.message)
        raise typer.Exit(exits.FAILURE) from None
    lines: list[dict[str, Any]] = [
        {
            "version": f"{record.manifest.model}/{record.manifest.version}",
            "state": record.state,
            "created_at": record.manifest.created_at,
        }
        for record in found
    ]
    columns: list[Column] = [
        ("version", lambda line: line["version"]),
        ("state", lambda line: line["state"]),
        ("created_at", lambda line: line["created_at"]),
    ]
    show(output, {"data": lines}, lines, columns)
    if output is Format.TABLE:
        say(f"{len(lines)} versions have come back. Start the server, and set their aliases: `modelyard models alias`.")
