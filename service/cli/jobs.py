"""The commands on jobs: list, show, watch, logs, cancel, pause, resume, retry."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli import exits
from service.cli.output import Column, Format, moment, plain, say, show, show_one
from service.cli.session import Session, before, place_of, talks

if TYPE_CHECKING:
    from service.client import Job

app = typer.Typer(name="jobs", help="See, watch and stop what runs.", no_args_is_help=True)
app.callback()(before)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or `last`: the newest one.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Show a bar until it has ended.")]


@app.command("list")
@talks
def listing(
    session: Session,
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    kind: Annotated[str | None, typer.Option(help="train, evaluate, import or export.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="So many at most.")] = 20,
    after: Annotated[str | None, typer.Option(help="The `next` of the page before.")] = None,
) -> None:
    """List jobs, the newest first."""
    page = session.client.jobs.list(state=state, model=model, kind=kind, limit=limit, after=after)
    columns: list[Column] = [
        ("id", lambda job: job.id),
        ("kind", lambda job: job.kind),
        ("state", lambda job: job.state.value),
        ("model", lambda job: (job.output or {}).get("model")),
        ("version", lambda job: (job.output or {}).get("version")),
        ("loss", lambda job: job.metrics.get("last", {}).get("loss")),
        ("created", lambda job: moment(job.created_at)),
    ]
    show(session.format, page, page.data, columns)
    session.tell_next(page.next)


@app.command("show")
@talks
def one(session: Session, job: JobId) -> None:
    """Show a job."""
    show_job(session, session.client.jobs.get(identified(session, job)))


@app.command()
@talks
def watch(
    session: Session,
    job: JobId,
    after: Annotated[int, typer.Option(min=0, help="Begin after the event with this id.")] = 0,
) -> None:
    """Watch a job until it has ended: a bar, or with -o jsonl its events."""
    job_id = identified(session, job)
    session.detached = _detached(job_id)
    if session.format in (Format.JSONL, Format.CSV):
        if session.format is Format.CSV:
            typer.echo("id,at,type,data")
        for event in session.client.jobs.watch(job_id, after=after):
            if session.format is Format.JSONL:
                typer.echo(json.dumps(plain(event), ensure_ascii=False))
            else:
                data = json.dumps(event.data).replace('"', '""')
                typer.echo(f'{event.id},{event.at},{event.type},"{data}"')
        finish(session, session.client.jobs.get(job_id), tell=False)
        return
    wait_for(session, job_id)


@app.command()
@talks
def logs(session: Session, job: JobId) -> None:
    """Show what a job's workers printed."""
    text = session.client.jobs.logs(identified(session, job))
    if session.format is Format.TABLE:
        typer.echo("".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text), nl=False)
        return
    lines = text.splitlines()
    show(session.format, {"lines": lines}, [{"line": line} for line in lines], [("line", lambda item: item["line"])])


@app.command()
@talks
def cancel(session: Session, job: JobId, wait: Wait = False) -> None:
    """Stop a job for good; it keeps its checkpoints."""
    found = session.client.jobs.cancel(identified(session, job))
    if wait:
        found = session.client.jobs.wait(found, check=False)
    show_job(session, found)


@app.command()
@talks
def pause(session: Session, job: JobId) -> None:
    """Stop a job for now; its slot goes to the next one."""
    show_job(session, session.client.jobs.pause(identified(session, job)))


@app.command()
@talks
def resume(session: Session, job: JobId, wait: Wait = False) -> None:
    """Let a paused job go on."""
    found = session.client.jobs.resume(identified(session, job))
    wait_for(session, found.id) if wait else show_job(session, found)


@app.command()
@talks
def retry(
    session: Session,
    job: JobId,
    from_start: Annotated[bool, typer.Option("--from-start", help="Not from the newest checkpoint.")] = False,
    wait: Wait = False,
) -> None:
    """Try a failed or cancelled job again."""
    found = session.client.jobs.retry(identified(session, job), from_start=from_start)
    wait_for(session, found.id) if wait else show_job(session, found)


def identified(session: Session, job: str) -> str:
    """The id of a job, or of the newest one where `last` stands."""
    if job != "last":
        return job
    page = session.client.jobs.list(limit=1)
    if not page.data:
        say("There is no job yet.")
        raise typer.Exit(exits.NOT_FOUND)
    return page.data[0].id


def started(session: Session, job: Job, *, wait: bool, told: Collection[str] = ()) -> None:
    """Go on after a submit: wait with a bar, or say how to watch; what warnings of the codes `told` say, is said
    beside."""
    if wait:
        wait_for(session, job.id, told=told)
        return
    show_job(session, job)
    if session.format is Format.TABLE:
        say(f"Watch it with: modelyard jobs watch {job.id}")


def wait_for(session: Session, job_id: str, *, told: Collection[str] = ()) -> None:
    """Show a bar until a job has ended, then the job; a job without success ends the command with 1."""
    session.detached = _detached(job_id)
    found = session.client.jobs.wait(job_id, progress=True, check=False)
    finish(session, found, told=told)


def finish(session: Session, job: Job, *, tell: bool = True, told: Collection[str] = ()) -> None:
    """Show a job that has ended; one that did not succeed ends the command with 1."""
    session.detached = None
    if tell:
        show_job(session, job, told=told)
    if job.state.value != "succeeded":
        if job.error is not None:
            place = place_of(job.error.pointer or "", session.places)
            say(f"{f'{place}: ' if place else ''}{job.error.detail}{f' {job.error.hint}' if job.error.hint else ''}")
        proposal = (job.report or {}).get("proposal")
        if proposal:
            say(f"As far as the file tells: {_options_of(proposal)}")
        raise typer.Exit(exits.FAILURE)


def _options_of(proposal: dict[str, Any]) -> str:
    """The options of `import` that say what a report proposes."""
    if "forward" in proposal:
        return " ".join(f"--forward {shlex.quote(line)}" for line in proposal["forward"])
    return f"--arch {shlex.quote(json.dumps(proposal))}"


def show_job(session: Session, job: Job, *, told: Collection[str] = ()) -> None:
    """Print a job; in a table without the warnings of the codes `told`."""
    output = job.output or {}
    shown: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "because": job.state_reason,
        "model": output.get("model"),
        "version": output.get("version"),
        "alias": output.get("alias"),
        "progress": _percent(job),
        **(job.metrics.get("last") or {}),
        "warnings": "\n".join(found.detail for found in job.warnings if found.code not in told),
        "error": None if job.error is None else job.error.code,
        "created": moment(job.created_at),
        "finished": moment(job.finished_at),
    }
    show_one(session.format, job, shown)


def _percent(job: Job) -> str | None:
    fraction = (job.progress or {}).get("fraction")
    return None if fraction is None or job.ended else f"{100 * fraction:.0f} %"


def _detached(job_id: str) -> str:
    return (
        f"Detached: the job goes on. Watch it with: modelyard jobs watch {job_id}\n"
        f"Stop it with: modelyard jobs cancel {job_id}"
    )
