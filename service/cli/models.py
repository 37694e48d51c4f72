"""The commands on models: list, show, versions, compare, alias, rollback, history, delete, verify, load, unload and
loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import exits
from service.cli.output import Column, Format, moment, plain, say, show, show_one, size
from service.cli.session import Session, before, talks

if TYPE_CHECKING:
    from service.client import Alias, Client, Version

OTHER_ROWS: Final = (
    "These figures come from different rows: the versions had other data, or another split of it. So they do not tell "
    "which is better."
)
_CLASSES: Final = 10
"""Classes whose figures are shown with a version."""
app = typer.Typer(
    name="models", help="See, compare and remove versions, and point aliases at them.", no_args_is_help=True
)
app.callback()(before)

Reference = Annotated[str, typer.Argument(metavar="MODEL", help="name, name@alias or name/3.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="So many at most.")]
After = Annotated[str | None, typer.Option(help="The `next` of the page before.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the alias's history.")]


@app.command("list")
@talks
def listing(session: Session, limit: Limit = 50, after: After = None) -> None:
    """List models."""
    page = session.client.models.list(limit=limit, after=after)
    columns: list[Column] = [
        ("model", lambda model: model.model),
        ("versions", lambda model: model.versions),
        ("latest", lambda model: model.latest),
        ("aliases", lambda model: [f"{alias} → {number}" for alias, number in model.aliases.items()]),
        ("updated", lambda model: moment(model.updated_at)),
    ]
    show(session.format, page, page.data, columns)
    session.tell_next(page.next)


@app.command("show")
@talks
def one(session: Session, model: Reference) -> None:
    """Show a model with its versions, or with @alias or /3 one version."""
    if "@" in model or "/" in model:
        version = session.client.versions.resolve(model)
        _show_version(session, version)
        if session.format is Format.TABLE:
            _show_classes(session, version)
        return
    found = session.client.models.get(model)
    told = {
        "model": found.model,
        "aliases": [f"{alias} → {number}" for alias, number in found.aliases.items()],
        "notes": found.notes,
        "tags": [f"{name}={value}" for name, value in found.tags.items()],
        "updated": moment(found.updated_at),
    }
    show_one(session.format, found, told)
    if session.format is Format.TABLE:
        page = session.client.versions.list(model, limit=20)
        show(session.format, page, page.data, _columns(page.data))
        if page.next is not None:
            say(f"There are more: modelyard models versions {model}")


@app.command()
@talks
def versions(session: Session, model: Reference, limit: Limit = 50, after: After = None) -> None:
    """List a model's versions, the newest first."""
    from service.schemas.versions import parse_reference

    page = session.client.versions.list(parse_reference(model).model, limit=limit, after=after)
    show(session.format, page, page.data, _columns(page.data))
    session.tell_next(page.next)


@app.command()
@talks
def compare(
    session: Session,
    a: Annotated[str, typer.Argument(metavar="A", help="A version: name, name@alias or name/3; or a model's name.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one; of the same model its number is enough.")],
    c: Annotated[
        str | None,
        typer.Argument(metavar="[C]", help="After a model's name and a number, another.", show_default=False),
    ] = None,
) -> None:
    """Compare two versions: their metrics, and what differs in their nets.

    For example: modelyard models compare houses 1 3
    """
    client = session.client
    name = a.partition("/")[0].partition("@")[0]
    if c is not None:
        if name != a or not (b.isdecimal() and c.isdecimal()):
            say("Of three, the first is a model's name and the others are numbers of its versions: houses 1 3")
            raise typer.Exit(exits.USAGE)
        a, b = f"{name}/{b}", f"{name}/{c}"
    elif b.isdecimal():
        b = f"{name}/{b}"
    first, second = client.versions.resolve(a), client.versions.resolve(b)
    difference = client.architectures.diff(
        {"model": first.model, "version": first.version}, {"model": second.model, "version": second.version}
    )
    names = [*first.metrics, *(name for name in second.metrics if name not in first.metrics)]
    lines = [{"metric": name, "a": first.metrics.get(name), "b": second.metrics.get(name)} for name in names]
    heads = {"metric": "metric", "a": first.reference, "b": second.reference}
    columns: list[Column] = [(head, lambda line, name=name: line[name]) for name, head in heads.items()]  # type: ignore[misc]
    document = {"a": plain(first), "b": plain(second), "architecture": plain(difference)}
    show(session.format, document, lines, columns)
    if session.format is Format.TABLE:
        if first.model == second.model and are_of_other_rows(client, first, second):
            say(OTHER_ROWS)
        typer.echo("The nets are equal." if difference.equal else difference.text)


@app.command()
@talks
def alias(
    session: Session,
    model: Reference,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, such as champion.")],
    version: Annotated[
        int | None,
        typer.Argument(
            min=1, metavar="[VERSION]", show_default=False, help="The number of the version, unless MODEL says it."
        ),
    ] = None,
    canary: Annotated[int | None, typer.Option(min=1, help="Another version that answers a share.")] = None,
    percent: Annotated[float, typer.Option(min=0.01, max=100, help="The share of the canary, in percent.")] = 5.0,
    shadow: Annotated[
        list[int] | None, typer.Option(min=1, help="A version that is only compared; give it again for another.")
    ] = None,
    error_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Take the newest back above this share of failed answers.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(min=0, help="Take the newest back above so many seconds a request, on average.")
    ] = None,
    reason: Reason = None,
) -> None:
    """Point an alias at a version; make it if there is none.

    For example: modelyard models alias houses/2 champion

    With --canary another version answers --percent of the requests; without it, a canary that ran before ends.
    """
    from service.schemas.versions import parse_reference

    asked = parse_reference(model)
    if (asked.version or asked.alias) and version is not None:
        say(f"{model} names a version already; leave out {version}.")
        raise typer.Exit(exits.USAGE)
    if asked.alias is not None:
        version = session.client.versions.resolve(model).version
    version = version or asked.version
    if version is None:
        say(f"Say which version, as in: modelyard models alias {model}/2 {alias}")
        raise typer.Exit(exits.USAGE)
    judged = {"error_rate": error_rate, "latency_s": latency}
    guard = {measure: most for measure, most in judged.items() if most is not None}
    found = session.client.aliases.set(
        asked.model,
        alias,
        version,
        canary=None if canary is None else {"version": canary, "percent": percent},
        shadow=shadow or (),
        guard=guard or None,
        reason=reason,
    )
    _show_alias(session, found)


@app.command()
@talks
def rollback(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name, or name@alias.")],
    alias: Annotated[str | None, typer.Option(help="The alias; by default champion.", show_default=False)] = None,
    reason: Reason = None,
) -> None:
    """Point an alias where it pointed before."""
    from service.errors import Conflict
    from service.schemas.versions import DEFAULT_ALIAS, parse_reference

    asked = parse_reference(model)
    name = alias or asked.alias or DEFAULT_ALIAS
    if asked.version is not None:
        say(f"A rollback takes the version before. To choose one: modelyard models alias {model} {name}")
        raise typer.Exit(exits.USAGE)
    if asked.alias not in (None, name):
        say(f"{model} names an alias already; leave out --alias {name}.")
        raise typer.Exit(exits.USAGE)
    try:
        found = session.client.aliases.rollback(asked.model, name, reason=reason)
    except Conflict as refused:
        way = f"See where it pointed with: modelyard models history {asked.model}@{name}"
        refused.errors = tuple(replace(entry, hint=way if entry.hint else None) for entry in refused.errors)
        raise
    _show_alias(session, found)


@app.command()
@talks
def history(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name, for its champion, or name@alias.")],
    limit: Limit = 50,
    after: After = None,
) -> None:
    """List where an alias pointed, the newest change first.

    For example: modelyard models history houses@champion
    """
    from service.schemas.versions import DEFAULT_ALIAS, parse_reference

    asked = parse_reference(model)
    if asked.version is not None:
        say(
            f"Aliases have a history, versions have none. As in: modelyard models history {asked.model}@{DEFAULT_ALIAS}"
        )
        raise typer.Exit(exits.USAGE)
    page = session.client.aliases.history(asked.model, asked.alias or DEFAULT_ALIAS, limit=limit, after=after)
    columns: list[Column] = [
        ("at", lambda change: moment(change.at)),
        ("action", lambda change: change.action),
        ("version", lambda change: change.version),
        ("previous", lambda change: change.previous),
        ("canary", lambda change: None if change.canary is None else change.canary.version),
        ("by", lambda change: change.by),
        ("reason", lambda change: change.reason),
    ]
    show(session.format, page, page.data, columns)
    session.tell_next(page.next)


@app.command()
@talks
def delete(
    session: Session,
    model: Reference,
    force: Annotated[bool, typer.Option("--force", help="Also where an alias points at it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a version (name/3), or a model with all its versions."""
    client = session.client
    one = client.versions.resolve(model) if "@" in model or "/" in model else None
    numbers = [one.version] if one else [found.version for found in client.each(client.versions.list, model, limit=200)]
    what = f"version {one.version} of {one.model}" if one else f"{model} with all its versions"
    if not yes and not typer.confirm(f"Delete {what} for good?", err=True):
        raise typer.Exit(exits.FAILURE)
    if one:
        client.versions.delete(one.model, one.version, force=force)
    else:
        client.models.delete(model, force=force)
    say(f"Deleted {what}.")
    if session.format is not Format.TABLE:
        deleted = {"model": one.model if one else model, "versions": numbers}
        show_one(session.format, deleted, deleted)


@app.command()
@talks
def verify(session: Session, model: Reference) -> None:
    """Hash a version's files again; ends with 1 if they are not those that were published."""
    version = session.client.versions.resolve(model)
    found = session.client.versions.verify(version.model, version.version)
    told = {"version": version.reference, "ok": found.ok, "wrong": [one.get("file") for one in found.mismatches]}
    show_one(session.format, found, told)
    if not found.ok:
        raise typer.Exit(exits.FAILURE)


@app.command()
@talks
def loaded(session: Session) -> None:
    """List the versions that the server has loaded, the one that was asked longest ago first."""
    found = session.client.models.loaded()
    columns: list[Column] = [
        ("version", lambda one: f"{one.model}/{one.version}"),
        ("size", lambda one: size(one.size_bytes)),
        ("pinned", lambda one: "yes" if one.pinned else ""),
        ("in flight", lambda one: one.in_flight),
    ]
    show(session.format, found, found.data, columns)
    if session.format is Format.TABLE:
        say(f"{size(found.loaded_bytes)} of {size(found.budget_bytes)} are taken.")


@app.command()
@talks
def load(
    session: Session,
    model: Reference,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be let go for it.")] = False,
    pin: Annotated[
        bool | None, typer.Option("--pin/--unpin", help="Never let it go to make room, or end that.")
    ] = None,
) -> None:
    """Load a version before its first request."""
    version = session.client.versions.resolve(model)
    found = session.client.versions.load(version.model, version.version, dry_run=dry_run or None, pin=pin)
    told = {
        "version": version.reference,
        "told": found.detail,
        "pinned": found.pinned,
        "fits": found.fits,
        "lets go" if not dry_run else "would let go": [f"{one.model}/{one.version}" for one in found.evicts],
    }
    show_one(session.format, found, told)
    if not found.fits:
        raise typer.Exit(exits.FAILURE)


@app.command()
@talks
def unload(session: Session, model: Reference) -> None:
    """Let a version go, once it has answered what it has begun; its next request loads it again."""
    version = session.client.versions.resolve(model)
    found = session.client.versions.unload(version.model, version.version)
    show_one(session.format, found, {"version": version.reference, "drained": found.drained})


def _columns(versions: Sequence[Version]) -> list[Column]:
    """What is told of each in a list: of its metrics those that are measured on held-out rows, under their own names.

    Versions that had no such rows show what was measured on the others, in a column beside.
    """

    def value(found: Version, name: str) -> float | None:
        return None if f"val_{name}" in found.metrics else found.metrics.get(name)

    names = [name for kind in ("loss", "accuracy", "r2") for name in (f"val_{kind}", kind)]
    metrics: list[Column] = [
        (name, lambda found, name=name: value(found, name))  # type: ignore[misc]
        for name in names
        if any(value(one, name) is not None for one in versions)
    ]
    return [
        ("version", lambda found: found.version),
        ("aliases", lambda found: found.aliases),
        ("state", lambda found: found.state),
        *metrics,
        ("size", lambda found: size(found.size_bytes)),
        ("created", lambda found: moment(found.created_at)),
    ]


def _show_version(session: Session, version: Version) -> None:
    signature = version.signature
    told: dict[str, Any] = {
        "version": version.reference,
        "aliases": list(version.aliases),
        "state": version.state,
        "takes": list(signature.columns or [f"{one.name} {one.dtype} {one.shape}" for one in signature.inputs]),
        "answers": list(version.classes or [f"{one.name} {one.dtype} {one.shape}" for one in signature.outputs]),
        **version.metrics,
        "job": version.lineage.get("job") or version.lineage.get("job_id"),
        "size": size(version.size_bytes),
        "digest": version.digest,
        "notes": version.notes,
        "tags": [f"{name}={value}" for name, value in version.tags.items()],
        "created": moment(version.created_at),
    }
    show_one(session.format, version, told)


def _show_classes(session: Session, version: Version) -> None:
    """Show how many rows of each class the version knows, by the report of the job that made it, where there is one.

    Of held-out rows, where there were any. A key that may not see the job is told nothing.
    """
    from service.errors import ServiceError

    job_id = version.lineage.get("job") or version.lineage.get("job_id")
    if job_id is None:
        return
    try:
        report = session.client.jobs.get(job_id).report or {}
    except ServiceError:  # it is gone, or not for this key
        return
    figures = figures_of(report, version.classes or ())
    if figures is None:
        return
    found, most = figures.classes, figures.commonest
    columns: list[Column] = [
        ("class", figures.name),
        ("rows", lambda one: one["rows"]),
        ("recall", lambda one: one["recall"] if one["rows"] else None),
        ("precision", lambda one: one["precision"]),
    ]
    show(session.format, found, found[:_CLASSES], columns)
    if len(found) > _CLASSES:
        say(f"… and {len(found) - _CLASSES} more classes.")
    total, share = figures.rows, most["rows"] / figures.rows
    told = f"Of {total} {figures.part} rows {most['rows']} are {figures.name(most)}"
    say(f"{told}: who always says so has the accuracy {share:.4g}.")


def are_of_other_rows(client: Client, first: Version, second: Version) -> bool:
    """Whether the figures of two versions of a model are known to come from different rows."""
    return client.models.compare(first.model, first.version, second.version).same_rows is False


@dataclass(frozen=True)
class ClassFigures:
    """How many rows of each class a version knows, by the report of the job that made it.

    Args:
        part: which rows these are: held-out, test or training.
        classes: of each its number, its rows, recall and precision.
        names: of the classes, as far as they have any.
    """

    part: str
    classes: list[dict[str, Any]]
    names: Sequence[str]

    @property
    def rows(self) -> int:
        """How many there are of all classes."""
        return sum(one["rows"] for one in self.classes)

    @property
    def commonest(self) -> dict[str, Any]:
        """The class of the most rows."""
        return max(self.classes, key=lambda one: one["rows"])

    def name(self, one: dict[str, Any]) -> str:
        """What a class is called."""
        return str(self.names[one["class"]] if one["class"] < len(self.names) else one["class"])


def figures_of(report: dict[str, Any], names: Sequence[str]) -> ClassFigures | None:
    """The figures by class of a report, of held-out rows where there are any; None where it has none.

    Args:
        report: of the job.
        names: of the classes, where the report does not count.
    """
    parts = report.get("parts") or {}
    words = {"val": "held-out", "test": "test", "train": "training"}
    part = next((part for part in words if (parts.get(part) or {}).get("kind") == "classes"), None)
    if part is None:
        return None
    found = ClassFigures(words[part], parts[part].get("per_class") or [], names or report.get("classes") or [])
    return found if found.rows else None


def _show_alias(session: Session, alias: Alias) -> None:
    told: dict[str, Any] = {"model": alias.model, "alias": alias.alias, "version": alias.version}
    if alias.canary is not None:
        told["canary"] = f"version {alias.canary.version} answers {alias.canary.percent:g} %"
    if alias.shadow:
        told["shadow"] = list(alias.shadow)
    if alias.guard is not None:
        judged = {"error rate": alias.guard.error_rate, "seconds": alias.guard.latency_s}
        told["guard"] = [f"{measure} above {most:g}" for measure, most in judged.items() if most is not None]
    told["updated"] = moment(alias.updated_at)
    show_one(session.format, alias, told)
