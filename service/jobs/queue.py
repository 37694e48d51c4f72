"""The queue of jobs: what waits, what runs, what ended, and every event on the way.

Each change of state is compare-and-set on (state, attempt) and is committed together with its event, so that whoever
reads the events misses nothing. Knows no process and no tensor: claiming is its business, running is the supervisor's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.ext.compiler import compiles

from service.errors import Conflict, NotFound, QueueFull
from service.schemas.document import utc_now
from service.schemas.jobs import ACTIVE, FINAL, RETRIABLE, TRANSITIONS, JobState
from service.store.database import (
    Database,
    Page,
    after_cursor,
    attempts,
    check_if_match,
    events,
    jobs,
    page,
)
from service.store.idempotency import IdempotencyKey, IdempotencyStore

_ACCEPTED: Final = 202
_UNKNOWN_RETRY_S: Final = 30.0
_PAUSED: Final = "paused_by_user"
_ENDED_HINT: Final = "GET the job to see how it ended; a failed or cancelled one can be retried."
_OVERTAKEN: Final = 10
"""So often the job that waits longest is passed by for others of a higher priority; then it is its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """A job as it was when it was read, without its documents, which may be megabytes.

    `attempts` are mappings with number, pid, state, started_at, ended_at and resumed_from_step; `attempt` is the number
    of the newest, 0 before the first.
    """

    id: str
    kind: str
    replay_of: str | None
    state: JobState
    state_reason: str | None
    attempt: int
    priority: int
    labels: Mapping[str, str]
    dataset: Mapping[str, Any] | None
    seed: int | None
    environment: Mapping[str, Any] | None
    progress: Mapping[str, Any] | None
    metrics_last: Mapping[str, Any]
    metrics_best: Mapping[str, Any]
    warnings: tuple[Mapping[str, Any], ...]
    error: Mapping[str, Any] | None
    output: Mapping[str, Any] | None
    attempts: tuple[Mapping[str, Any], ...]
    created_at: str
    started_at: str | None
    finished_at: str | None
    etag: str

    def view(self) -> dict[str, Any]:
        """The job as the API shows it in a list."""
        return {
            "id": self.id,
            "kind": self.kind,
            "replay_of": self.replay_of,
            "state": self.state.value,
            "state_reason": self.state_reason,
            "priority": self.priority,
            "labels": dict(self.labels),
            "dataset": self.dataset,
            "seed": self.seed,
            "environment": self.environment,
            "progress": self.progress,
            "metrics": {"last": self.metrics_last, "best": self.metrics_best},
            "warnings": list(self.warnings),
            "error": self.error,
            "output": self.output,
            "attempts": [dict(attempt) for attempt in self.attempts],
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(JobSummary):
    """A job with its documents."""

    spec: Mapping[str, Any]
    resolved_spec: Mapping[str, Any]
    report: Mapping[str, Any] | None

    def view(self) -> dict[str, Any]:
        """The job as the API shows it."""
        documents = {"spec": self.spec, "resolved_spec": self.resolved_spec, "report": self.report}
        return {**JobSummary.view(self), **documents}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job; ids grow with time."""

    id: int
    job_id: str
    at: str
    type: str
    data: Mapping[str, Any]

    def view(self) -> dict[str, Any]:
        """The event as the API shows it."""
        return {"id": self.id, "job_id": self.job_id, "at": self.at, "type": self.type, "data": self.data}


class Changes:
    """Tells listeners in this process that something about some job was committed.

    Those in other processes of the same server are told if they can be: whoever waits also looks again after a timeout.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._listeners: list[Callable[[str], None]] = []
        self.relay: Callable[[str], None] = lambda _: None
        """Called with the job's id after each change that this process has made; as a listener, it must be quick."""

    def subscribe(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call `listener` with the job's id after each change, in the thread that made it; the answer ends that.

        The listener must be quick and must not raise: `loop.call_soon_threadsafe` is what it is for.
        """
        with self._mutex:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._mutex:
                self._listeners.remove(listener)

        return unsubscribe

    def notify(self, job_id: str) -> None:
        """Tell all listeners, here and elsewhere."""
        self.heard(job_id)
        self.relay(job_id)

    def heard(self, job_id: str) -> None:
        """Tell all listeners here: the change was made elsewhere."""
        with self._mutex:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(job_id)


class JobQueue:
    """The jobs in a database.

    Args:
        clock: a monotonic clock, for the rate at which the queue drains.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._answers = IdempotencyStore(database)
        self._clock = clock
        self._claims: deque[float] = deque(maxlen=16)
        self._passed: dict[int, int] = {}
        """How often jobs were passed by while they waited longest of those that fitted, by their positions."""
        self.changed = Changes()
        self.place_s = _UNKNOWN_RETRY_S
        """How long it takes until a job leaves the queue, by what the process says that takes them."""

    # -- coming in --------------------------------------------------------------------------------------------------

    def enqueue(
        self,
        *,
        id: str,
        kind: str,
        spec: Mapping[str, Any],
        resolved_spec: Mapping[str, Any],
        dataset: Mapping[str, Any] | None = None,
        seed: int | None = None,
        output: Mapping[str, Any] | None = None,
        warnings: Sequence[Mapping[str, Any]] = (),
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        max_queued: int,
        idempotency: IdempotencyKey | None = None,
    ) -> tuple[Job | None, dict[str, Any] | None]:
        """Add a job: (the job, None), or (None, the first answer) where the same request came before.

        What the job uses is kept for those who ask whether it may be deleted: `dataset["id"]`, and of `resolved_spec`
        the members architecture_digest, resolved_model and inherited.

        Raises:
            QueueFull: `max_queued` jobs wait already; `retry_after_s` is how long one place takes at the present rate.
            IdempotencyMismatch: the key came with another body before.
        """
        now = utc_now()
        with self._database.write() as connection:
            if idempotency is not None:
                answer = self._answers.find(idempotency)
                if answer is not None:
                    return None, answer.body
            self._require_room(connection, max_queued)
            connection.execute(
                sa.insert(jobs).values(
                    id=id,
                    kind=kind,
                    state=JobState.QUEUED.value,
                    priority=priority,
                    labels=dict(labels or {}),
                    spec=spec,
                    resolved_spec=resolved_spec,
                    model=(output or resolved_spec.get("resolved_model") or {}).get("model"),
                    architecture_digest=resolved_spec.get("architecture_digest"),
                    dataset_id=dataset["id"] if dataset else None,
                    dataset=dataset,
                    seed=seed,
                    metrics_last={},
                    metrics_best={},
                    warnings=list(warnings),
                    output=output,
                    created_at=now,
                )
            )
            _add_event(connection, id, 0, "state", {"state": JobState.QUEUED.value}, now)
            job = _get(connection, id)
            if idempotency is not None:
                self._answers.keep(idempotency, _ACCEPTED, job.view())
            self._tell(id)
        return job, None

    def waiting_for(self, job_id: str) -> str | None:
        """What a queued job waits for, in a sentence; None where it does not wait, or for nothing but its turn now.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.read() as connection:
            row = _row(connection, job_id)
            if row.state != JobState.QUEUED:
                return None
            counted = sa.select(sa.func.count()).select_from(jobs)
            running = connection.execute(counted.where(jobs.c.state.in_(tuple(ACTIVE)))).scalar_one()
            before = connection.execute(counted.where(_ahead(row))).scalar_one()
        if not running and not before:
            return None
        works = f"{running} {'job is' if running == 1 else 'jobs are'} running"
        return f"Waiting for a slot: {works}, {before or 'none'} {'is' if before == 1 else 'are'} before it."

    def answered(self, idempotency: IdempotencyKey) -> dict[str, Any] | None:
        """The answer that this request got before, without adding anything.

        Raises:
            IdempotencyMismatch: the key came with another body before.
        """
        answer = self._answers.find(idempotency)
        return None if answer is None else answer.body

    def forget_old_answers(self) -> None:
        """Make room of the answers that no Idempotency-Key gets any more, those to other requests too."""
        self._answers.sweep()

    # -- being worked on --------------------------------------------------------------------------------------------

    def claim(self, *, cpu: bool = True, devices: Collection[str] | None = None) -> Job | None:
        """Take the job that is next: the oldest of the highest priority. It is starting then, in a new attempt.

        So that no job waits for ever, the oldest of all is taken after it was passed by ten times.

        Args:
            cpu: whether a job without a device may be taken.
            devices: the devices that are free; None where no job asks for one.
        """
        with self._database.read() as connection:  # mostly there is nothing, and looking should disturb nobody
            if connection.execute(_WAITING.with_only_columns(jobs.c.id).limit(1)).first() is None:
                return None
        now = utc_now()
        with self._database.write() as connection:
            waiting = _WAITING
            if devices is not None:
                waiting = waiting.where(_fits(connection.dialect.name, cpu=cpu, devices=devices))
            row = connection.execute(waiting.order_by(jobs.c.priority.desc(), jobs.c.position).limit(1)).first()
            if row is None:
                return None
            oldest: int = connection.execute(waiting.with_only_columns(sa.func.min(jobs.c.position))).scalar_one()
            passed = self._passed.pop(oldest, 0)
            if row.position != oldest and passed >= _OVERTAKEN:
                row = connection.execute(sa.select(*_LIGHT).where(jobs.c.position == oldest)).one()
            elif row.position != oldest:
                first: int = connection.execute(_WAITING.with_only_columns(sa.func.min(jobs.c.position))).scalar_one()
                self._passed = {place: count for place, count in self._passed.items() if place >= first}
                self._passed[oldest] = passed + 1
            number = row.attempt + 1
            connection.execute(
                sa.insert(attempts).values(
                    job_id=row.id, number=number, state=JobState.STARTING.value, offset=0, started_at=now
                )
            )
            _move(connection, row, JobState.STARTING, now=now, attempt=number, state_reason=None)
            self._tell(row.id)
            job = _get(connection, row.id)
        self._claims.append(self._clock())
        return job

    def started(self, job_id: str, attempt: int, *, pid: int, resumed_from_step: int | None = None) -> Job:
        """Note the worker's process: a starting job runs now, one that is to stop again only gets the note.

        Raises:
            Conflict: the job is in no such state, or in another attempt.
        """
        now = utc_now()
        with self._database.write() as connection:
            row = _current(connection, job_id, attempt)
            if row.state not in (JobState.STARTING, JobState.PAUSING, JobState.CANCELLING):
                raise Conflict(f"The job is {row.state}, so it cannot start.")
            note: dict[str, Any] = {"pid": pid}
            if resumed_from_step is not None:
                note["resumed_from_step"] = resumed_from_step
            connection.execute(_attempt(job_id, attempt).values(note))
            if row.state == JobState.STARTING:
                _move(connection, row, JobState.RUNNING, now=now, started_at=row.started_at or now)
                connection.execute(_attempt(job_id, attempt).values(state=JobState.RUNNING.value))
            self._tell(job_id)
            return _get(connection, job_id)

    def record(
        self,
        job_id: str,
        attempt: int,
        *,
        offset: int,
        events: Iterable[tuple[str, Mapping[str, Any], str]] = (),
        progress: Mapping[str, Any] | None = None,
        metrics_last: Mapping[str, Any] | None = None,
        metrics_best: Mapping[str, Any] | None = None,
        resumed_from_step: int | None = None,
    ) -> bool:
        """Take over what the worker wrote to its event file, up to byte `offset`; each byte exactly once.

        Args:
            job_id: the job.
            attempt: its current attempt.
            offset: where in the file these events end; kept with them.
            events: (type, data, at) each.
            progress: replaces the job's.
            metrics_last: updates the job's, name by name.
            metrics_best: likewise.
            resumed_from_step: noted with the attempt.

        Returns:
            Whether anything was taken over; False when the file had been read beyond that point already.

        Raises:
            Conflict: the job has ended, or is in another attempt.
        """
        with self._database.write() as connection:
            row = _current(connection, job_id, attempt)
            if row.state in FINAL or row.state in (JobState.QUEUED, JobState.PAUSED):
                raise Conflict(f"The job is {row.state}; its events are closed.")
            known = connection.execute(
                sa.select(attempts.c.offset).where(attempts.c.job_id == job_id, attempts.c.number == attempt)
            ).scalar_one()
            if offset <= known:
                return False
            note: dict[str, Any] = {"offset": offset}
            if resumed_from_step is not None:
                note["resumed_from_step"] = resumed_from_step
            connection.execute(_attempt(job_id, attempt).values(note))
            for type_, data, at in events:
                _add_event(connection, job_id, attempt, type_, data, at)
            changes: dict[str, Any] = {}
            if progress is not None:
                changes["progress"] = progress
            if metrics_last:
                changes["metrics_last"] = {**row.metrics_last, **metrics_last}
            if metrics_best:
                changes["metrics_best"] = {**row.metrics_best, **metrics_best}
            if changes:
                connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(changes))
            self._tell(job_id)
        return True

    def offset(self, job_id: str, attempt: int) -> int:
        """How much of an attempt's event file has been taken over."""
        with self._database.read() as connection:
            found = connection.execute(
                sa.select(attempts.c.offset).where(attempts.c.job_id == job_id, attempts.c.number == attempt)
            ).scalar()
        return 0 if found is None else int(found)

    def transition(
        self,
        job_id: str,
        to: JobState,
        *,
        attempt: int,
        reason: str | None = None,
        attempt_state: str | None = None,
        error: Mapping[str, Any] | None = None,
        output: Mapping[str, Any] | None = None,
        report: Mapping[str, Any] | None = None,
        progress: Mapping[str, Any] | None = None,
        metrics_last: Mapping[str, Any] | None = None,
        metrics_best: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        warning: Mapping[str, Any] | None = None,
    ) -> Job:
        """Move a job to another state, with a state event, and a done event after a final one, in one transaction.

        Args:
            job_id: the job.
            to: the state.
            attempt: the attempt in whose name the caller acts; a newer one fences it off.
            reason: a sentence, or None to have none.
            attempt_state: what the attempt is called afterwards where that is not the job's state ("lost").
            error: kept where given, as are the following.
            output: replaces the job's.
            report: likewise.
            progress: likewise.
            metrics_last: updates the job's, name by name.
            metrics_best: likewise.
            environment: replaces the job's.
            warning: an entry that is told as an event before the change, and kept among the job's warnings.

        Raises:
            Conflict: the states do not follow each other, or the attempt is not the current one.
            NotFound: there is no such job.
        """
        if to is JobState.STARTING:
            raise Conflict("A job starts by being claimed.")
        kept = {
            "error": error,
            "output": output,
            "report": report,
            "progress": progress,
            "environment": environment,
        }
        values: dict[str, Any] = {name: value for name, value in kept.items() if value is not None}
        with self._database.write() as connection:
            row = _current(connection, job_id, attempt)
            if metrics_last:
                values["metrics_last"] = {**row.metrics_last, **metrics_last}
            if metrics_best:
                values["metrics_best"] = {**row.metrics_best, **metrics_best}
            if warning is not None:
                values["warnings"] = [*row.warnings, warning]
                _add_event(connection, job_id, attempt, "warning", warning, utc_now())
            return self._transition(connection, row, to, reason=reason, attempt_state=attempt_state, **values)

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a waiting job at once, and ask a working one to stop; one that ended or is stopping stays as it is."""
        with self._database.write() as connection:
            row = _row(connection, job_id)
            match JobState(row.state):
                case JobState.QUEUED | JobState.PAUSED | JobState.INTERRUPTED:
                    error = {"code": "cancelled_by_user", "detail": "The job was cancelled while it waited."}
                    return self._transition(
                        connection, row, JobState.CANCELLED, reason="cancelled_by_user", attempt_state=None, error=error
                    )
                case JobState.STARTING | JobState.RUNNING | JobState.PAUSING:
                    return self._transition(
                        connection, row, JobState.CANCELLING, reason="cancelled_by_user", attempt_state=None
                    )
                case _:
                    return _get(connection, job_id)

    def request_pause(self, job_id: str) -> Job:
        """Let a waiting job wait on, and ask a working one to stop; one that is paused or pausing stays as it is.

        Raises:
            Conflict: the job has ended, or is being cancelled.
        """
        with self._database.write() as connection:
            row = _row(connection, job_id)
            match JobState(row.state):
                case JobState.QUEUED | JobState.INTERRUPTED:
                    return self._transition(connection, row, JobState.PAUSED, reason=_PAUSED, attempt_state=None)
                case JobState.STARTING | JobState.RUNNING:
                    return self._transition(connection, row, JobState.PAUSING, reason=_PAUSED, attempt_state=None)
                case JobState.PAUSING | JobState.PAUSED:
                    return _get(connection, job_id)
                case _:
                    raise Conflict(f"The job is {row.state}: there is nothing to pause.", hint=_ENDED_HINT)

    def resume(self, job_id: str, *, max_queued: int) -> Job:
        """Put a paused job back at its old place in the queue; one that waits or works stays as it is.

        Raises:
            Conflict: the job has ended, or is still stopping.
            QueueFull: `max_queued` jobs wait already.
        """
        with self._database.write() as connection:
            row = _row(connection, job_id)
            match JobState(row.state):
                case JobState.PAUSED:
                    self._require_room(connection, max_queued)
                    return self._transition(connection, row, JobState.QUEUED, reason=None, attempt_state=None)
                case JobState.QUEUED | JobState.STARTING | JobState.RUNNING | JobState.INTERRUPTED:
                    return _get(connection, job_id)
                case JobState.PAUSING | JobState.CANCELLING:
                    hint = "Its worker is writing its checkpoint: wait until the state is no longer " + row.state + "."
                    raise Conflict(f"The job is {row.state}: it cannot be resumed yet.", hint=hint)
                case _:
                    raise Conflict(f"The job is {row.state}: there is nothing to resume.", hint=_ENDED_HINT)

    def retry(self, job_id: str, *, max_queued: int, forget: Callable[[], None] | None = None) -> Job:
        """Put a job that failed or was cancelled back into the queue, for another attempt; one that waits or works
        stays as it is.

        Args:
            job_id: the job.
            max_queued: jobs that may wait.
            forget: called in the transaction when the job is to begin anew: from its end on no worker may find the
                checkpoints.

        Raises:
            Conflict: the job has succeeded, or is paused or stopping.
            QueueFull: `max_queued` jobs wait already.
        """
        with self._database.write() as connection:
            row = _row(connection, job_id)
            if row.state in (JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.INTERRUPTED):
                return _get(connection, job_id)
            if row.state not in RETRIABLE:
                hint = {
                    JobState.SUCCEEDED: "Submit it again, or replay it, for another run.",
                    JobState.PAUSED: "Resume it.",
                }.get(JobState(row.state), "Wait until it has stopped.")
                raise Conflict(f"The job is {row.state}: there is nothing to try again.", hint=hint)
            self._require_room(connection, max_queued)
            changes: dict[str, Any] = {}
            if forget is not None:
                changes = {"progress": None, "metrics_last": {}, "metrics_best": {}}
            job = self._transition(connection, row, JobState.QUEUED, reason=None, attempt_state=None, **changes)
            if forget is not None:
                forget()
            return job

    def _transition(
        self,
        connection: Connection,
        row: Row[Any],
        to: JobState,
        *,
        reason: str | None,
        attempt_state: str | None,
        **values: Any,
    ) -> Job:
        now = utc_now()
        if to in FINAL:
            values["finished_at"] = now
        if to is JobState.QUEUED and row.state in FINAL:
            values |= {"error": None, "finished_at": None}
        if to is JobState.RUNNING:
            values["started_at"] = row.started_at or now
        _move(connection, row, to, now=now, state_reason=reason, **values)
        if row.attempt and row.state in ACTIVE | {JobState.INTERRUPTED} and to is not JobState.QUEUED:
            ended = now if to in FINAL or to in (JobState.INTERRUPTED, JobState.PAUSED) else None
            connection.execute(
                _attempt(row.id, row.attempt)
                .where(attempts.c.ended_at.is_(None))
                .values(state=attempt_state or to.value, ended_at=ended)
            )
        if to in FINAL:
            done = {"state": to.value, "output": values.get("output"), "error": values.get("error")}
            told = {name: value for name, value in done.items() if value is not None}
            _add_event(connection, row.id, row.attempt, "done", told, now)
        self._tell(row.id)
        return _get(connection, row.id)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """A job.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.read() as connection:
            return _get(connection, job_id)

    def state(self, job_id: str) -> JobState:
        """Only the state of a job, for those who ask often.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.read() as connection:
            found = connection.execute(sa.select(jobs.c.state).where(jobs.c.id == job_id)).scalar()
        if found is None:
            raise _no_job(job_id)
        return JobState(found)

    def list(
        self,
        *,
        state: JobState | str | Collection[JobState | str] | None = None,
        model: str | None = None,
        kind: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page[JobSummary]:
        """Jobs, newest first, of a state (or any of several), a model and a kind where these are given."""
        key = after_cursor(after, int)
        query = sa.select(*_LIGHT).order_by(jobs.c.position.desc()).limit(limit + 1)
        if state is not None:
            states = [state] if isinstance(state, str) else list(state)
            query = query.where(jobs.c.state.in_([JobState(one).value for one in states]))
        if model is not None:
            query = query.where(jobs.c.model == model)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        if key is not None:
            query = query.where(jobs.c.position < key[0])
        with self._database.read() as connection:
            found = page(list(connection.execute(query)), limit, lambda row: (row.position,))
            tried = _tried(connection, found.items)
            return Page(tuple(JobSummary(**_told(row, tried)) for row in found.items), found.next)

    def active(self) -> tuple[Job, ...]:
        """The jobs that have a worker, or had one and are not back in the queue yet, oldest first."""
        states = [state.value for state in ACTIVE | {JobState.INTERRUPTED}]
        with self._database.read() as connection:
            query = sa.select(*_LIGHT, *(jobs.c[name] for name in _DOCUMENTS)).where(jobs.c.state.in_(states))
            return tuple(_jobs(connection, connection.execute(query.order_by(jobs.c.position)).all()))

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)).all()
        found = dict.fromkeys(JobState, 0)
        found.update({JobState(state): count for state, count in rows})
        return found

    def events(
        self,
        job_id: str | None = None,
        *,
        after: int = 0,
        limit: int = 500,
        types: Collection[str] | None = None,
    ) -> tuple[Event, ...]:
        """Events after an event id, oldest first: of one job or of all, of some types or of all."""
        query = sa.select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
        if job_id is not None:
            query = query.where(events.c.job_id == job_id)
        if types is not None:
            query = query.where(events.c.type.in_(list(types)))
        with self._database.read() as connection:
            return tuple(Event(row.id, row.job_id, row.at, row.type, row.data) for row in connection.execute(query))

    def series(self, job_id: str) -> tuple[dict[str, dict[int, tuple[int, float]]], bool]:
        """The values of each metric of a job: by name, by step, the epoch and the value; and whether steps were left
        out when they were written.

        An attempt goes on from its checkpoint's step, or begins anew: what earlier ones told of later steps is gone.
        """
        found: dict[str, dict[int, tuple[int, float]]] = {}
        thinned = False
        after = attempt = 0
        query = sa.select(events).where(events.c.job_id == job_id, events.c.type == "metrics").order_by(events.c.id)
        begun = sa.select(attempts.c.number, attempts.c.resumed_from_step).where(attempts.c.job_id == job_id)
        while True:
            with self._database.read() as connection:
                told = connection.execute(query.where(events.c.id > after).limit(500)).all()
                from_step = {row.number: row.resumed_from_step or 0 for row in connection.execute(begun)}
            for event in told:
                if event.attempt > attempt:
                    attempt, last = event.attempt, from_step.get(event.attempt, 0)
                    kept = {
                        name: {step: value for step, value in values.items() if step <= last}
                        for name, values in found.items()
                    }
                    found = {name: values for name, values in kept.items() if values}
                thinned = thinned or event.data.get("stride", 1) > 1
                for part in event.data["series"]:
                    values = found.setdefault(part["name"], {})
                    for step, epoch, value in zip(part["steps"], part["epochs"], part["values"], strict=True):
                        values[step] = (epoch, value)
            if len(told) < 500:
                return found, thinned
            after = told[-1].id

    def goes_on_after(self, event: Event) -> bool:
        """Whether anything happened to the job after an event: after its `done`, if it was retried."""
        return bool(self.events(event.job_id, after=event.id, limit=1))

    def newest_event(self) -> int:
        """The id of the newest event, where a stream of what happens from now on begins."""
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0

    # -- changing what is no state ----------------------------------------------------------------------------------

    def update(
        self,
        job_id: str,
        *,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> Job:
        """Change priority or labels; None leaves them as they are.

        Raises:
            PreconditionRequired, PreconditionFailed: `if_match` is missing, or names another state of these two.
        """
        with self._database.write() as connection:
            row = _row(connection, job_id)
            check_if_match(if_match, _etag(row))
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id)
                .values(
                    priority=row.priority if priority is None else priority,
                    labels=row.labels if labels is None else dict(labels),
                    revision=row.revision + 1,
                )
            )
            self._tell(job_id)
            return _get(connection, job_id)

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended, with its attempts and events.

        Raises:
            Conflict: it has not ended.
        """
        with self._database.write() as connection:
            row = _row(connection, job_id)
            if row.state not in FINAL:
                raise Conflict(
                    f"The job is {row.state}: only a job that has ended can be deleted.",
                    hint="Cancel it first, and delete it when its state is cancelled.",
                )
            connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
            self._tell(job_id)

    def _tell(self, job_id: str) -> None:
        self._database.on_commit(lambda: self.changed.notify(job_id))

    def _require_room(self, connection: Connection, max_queued: int) -> None:
        """Refuse one more that waits, when so many do."""
        waiting = connection.execute(
            sa.select(sa.func.count()).select_from(jobs).where(jobs.c.state == JobState.QUEUED)
        ).scalar_one()
        if waiting >= max_queued:
            raise QueueFull(
                f"{waiting} jobs are waiting; this server queues at most {max_queued}.",
                limit={"name": "max_queued", "value": max_queued},
                retry_after_s=self.time_of_a_place(),
            )

    def time_of_a_place(self) -> float:
        """How many seconds it takes on average until a job leaves the queue, by the last ones that did."""
        if len(self._claims) < 2:
            return self.place_s
        # Up to now, not up to the last claim: a queue that has stopped moving has slowed down.
        measured = (self._clock() - self._claims[0]) / (len(self._claims) - 1)
        return min(max(measured, 1.0), 600.0)


# -- statements -----------------------------------------------------------------------------------------------------


class _ReplayOf(sa.ColumnElement[str]):
    """The job that a replay repeats, taken out of its resolved spec by the database."""

    inherit_cache = True
    type = sa.Text()


@compiles(_ReplayOf)
def _replay_of(_: _ReplayOf, compiler: sa.Compiled, **given: Any) -> str:
    return f"json_extract({compiler.process(jobs.c.resolved_spec, **given)}, '$.replay_of.job')"


@compiles(_ReplayOf, "postgresql")
def _replay_of_on_postgresql(_: _ReplayOf, compiler: sa.Compiled, **given: Any) -> str:
    return f"CAST({compiler.process(jobs.c.resolved_spec, **given)} AS JSON) -> 'replay_of' ->> 'job'"


_DOCUMENTS: Final = ("spec", "resolved_spec", "report")
_LIGHT: Final = (
    *(column for column in jobs.c if column.name not in _DOCUMENTS),
    _ReplayOf().label("replay_of"),
)
"""What is small in a job. Its documents are left in the database unless somebody asks for them: taking megabytes of
JSON apart stops every other thread."""

_WAITING: Final = sa.select(*_LIGHT).where(jobs.c.state == JobState.QUEUED.value)


def _ahead(row: Row[Any]) -> sa.ColumnElement[bool]:
    """The waiting jobs that come before this one."""
    older = sa.and_(jobs.c.priority == row.priority, jobs.c.position < row.position)
    return sa.and_(jobs.c.state == JobState.QUEUED.value, sa.or_(jobs.c.priority > row.priority, older))


def _fits(dialect: str, *, cpu: bool, devices: Collection[str]) -> sa.ColumnElement[bool]:
    """Whether a job asks for a slot that is free: of the processor, of a certain device, or of any."""
    spec: sa.ColumnElement[Any] = jobs.c.resolved_spec
    if dialect == "postgresql":
        asked: sa.ColumnElement[Any] = sa.cast(spec, sa.JSON)["device"].as_string()
    else:
        asked = sa.func.json_extract(spec, "$.device")
    free = [*devices, *(["cpu"] if cpu else []), *(["cuda"] if devices else [])]
    return sa.func.coalesce(asked, "cpu").in_(free)


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id!r}.")


def _row(connection: Connection, job_id: str, *more: sa.ColumnElement[Any]) -> Row[Any]:
    row = connection.execute(sa.select(*_LIGHT, *more).where(jobs.c.id == job_id)).first()
    if row is None:
        raise _no_job(job_id)
    return row


def _current(connection: Connection, job_id: str, attempt: int) -> Row[Any]:
    row = _row(connection, job_id)
    if row.attempt != attempt:
        raise Conflict(f"The job is in attempt {row.attempt}, not in attempt {attempt}.")
    return row


def _attempt(job_id: str, number: int) -> sa.Update:
    return sa.update(attempts).where(attempts.c.job_id == job_id, attempts.c.number == number)


def _move(connection: Connection, row: Row[Any], to: JobState, *, now: str, **values: Any) -> None:
    """The job's state from what `row` says to `to`, if both still hold; and the event that tells of it."""
    if to not in TRANSITIONS[JobState(row.state)]:
        raise Conflict(f"The job is {row.state}; it cannot become {to.value}.")
    changed = connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == row.id, jobs.c.state == row.state, jobs.c.attempt == row.attempt)
        .values(state=to.value, **values)
    )
    if changed.rowcount != 1:
        raise Conflict("The job has moved on meanwhile.")
    attempt = values.get("attempt", row.attempt)
    data = {"state": to.value, "attempt": attempt or None, "reason": values.get("state_reason")}
    told = {name: value for name, value in data.items() if value is not None}
    _add_event(connection, row.id, attempt, "state", told, now)


def _add_event(connection: Connection, job_id: str, attempt: int, type_: str, data: Mapping[str, Any], at: str) -> None:
    connection.execute(sa.insert(events).values(job_id=job_id, attempt=attempt, type=type_, data=data, at=at))


def _get(connection: Connection, job_id: str) -> Job:
    return _jobs(connection, [_row(connection, job_id, *(jobs.c[name] for name in _DOCUMENTS))])[0]


def _jobs(connection: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
    tried = _tried(connection, rows)
    return [Job(**_told(row, tried), **{name: getattr(row, name) for name in _DOCUMENTS}) for row in rows]


def _tried(connection: Connection, rows: Sequence[Row[Any]]) -> dict[str, list[dict[str, Any]]]:
    """The attempts of some jobs, by the job's id."""
    tried: dict[str, list[dict[str, Any]]] = {row.id: [] for row in rows}
    query = sa.select(attempts).where(attempts.c.job_id.in_(list(tried))).order_by(attempts.c.number)
    for row in connection.execute(query):
        tried[row.job_id].append(
            {
                "number": row.number,
                "pid": row.pid,
                "state": row.state,
                "started_at": row.started_at,
                "ended_at": row.ended_at,
                "resumed_from_step": row.resumed_from_step,
            }
        )
    return tried


def _told(row: Row[Any], tried: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The members of a summary."""
    return {
        "id": row.id,
        "kind": row.kind,
        "replay_of": row.replay_of,
        "state": JobState(row.state),
        "state_reason": row.state_reason,
        "attempt": row.attempt,
        "priority": row.priority,
        "labels": row.labels,
        "dataset": row.dataset,
        "seed": row.seed,
        "environment": row.environment,
        "progress": row.progress,
        "metrics_last": row.metrics_last,
        "metrics_best": row.metrics_best,
        "warnings": tuple(row.warnings),
        "error": row.error,
        "output": row.output,
        "attempts": tuple(tried[row.id]),
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "etag": _etag(row),
    }


def _etag(row: Row[Any]) -> str:
    return f'"j{row.revision}"'
