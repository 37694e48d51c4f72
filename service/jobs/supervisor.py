"""The one who claims jobs, starts their workers, watches them and records how they end.

A single thread waits for three things: a wake-up (a new job, a cancel, a stop), the end of a worker, and the clock.
It moves the workers' event lines into the database by byte offset, so that nothing is lost or doubled by a crash, and
it publishes what a worker has staged. At start it adopts the workers of an earlier server and finishes what it left.
What goes wrong with one job is that job's affair: the others are looked after all the same. It never imports torch:
whatever a worker does to itself, the server goes on.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from service.errors import (
    Busy,
    Conflict,
    Entry,
    JobFailed,
    NotFound,
    PreconditionFailed,
    ServiceError,
    StoreError,
    StoreFull,
    StoreLocked,
)
from service.jobs.launchers import Launcher, WorkerHandle, adopt, exit_status, was_started
from service.jobs.queue import Job, JobQueue
from service.schemas import conditions
from service.schemas.conditions import Verdict
from service.schemas.document import utc_now
from service.schemas.jobs import FINAL, JobState, Output
from service.schemas.versions import Manifest, VersionDraft, same_rows
from service.store.aliases import AliasRecord
from service.store.architectures import ArchitectureStore
from service.store.datasets import DatasetStore
from service.store.files import child, make_folder, remove_tree, translated, write_atomic
from service.store.models import ModelStore
from service.telemetry import Metrics, log

_log = log(__name__)
_TICK_S: Final = 0.1
_IDLE_S: Final = 5.0
_GRACE_S: Final = 10.0
_COUNT_EVERY_S: Final = 1.0
_SWEEP_EVERY_S: Final = 3600.0
_BLOCK: Final = 4 * 1024 * 1024
_MAX_FAULTS: Final = 5
_BUSY_SHARE: Final = 0.01
_WEIGHTS: Final = "weights.pt"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator allows jobs to take."""

    slots: int
    threads: int
    attempts: int
    memory_bytes: int
    timeout_s: float
    stall_s: float
    devices: tuple[str, ...] = ()
    """Accelerators, such as cuda:0. Each takes one job at a time, which needs no slot beside it."""


@dataclass(slots=True)
class _Running:
    """An attempt that is watched until its end is recorded. Without a handle its worker is gone, or never was."""

    job: Job
    folder: Path
    handle: WorkerHandle | None
    offset: int
    since: float
    heard: float
    announced: bool
    """Whether the queue knows the worker's pid."""
    device: str | None = None
    not_started: JobFailed | None = None
    longest_silence: float = 0.0
    cpu_s: float = 0.0
    """What the worker had used of the processors when it was last heard."""
    told_to_stop: float | None = None
    killed_for: JobFailed | None = None
    refused: str | None = None
    """Why recording was refused the last time; None when all is well."""
    faults: int = 0


Series = Mapping[str, Mapping[int, tuple[int, float]]]
"""Metrics by name and step: the epoch and the value."""


class Supervisor:
    """Runs the jobs of a queue in worker processes.

    Args:
        root: the store's folder; workers get `jobs/<id>/attempt-<n>/` below it.
        clock: a monotonic clock; the wall clock is never compared.
    """

    def __init__(
        self,
        root: Path,
        *,
        queue: JobQueue,
        models: ModelStore,
        datasets: DatasetStore,
        architectures: ArchitectureStore,
        launcher: Launcher,
        rules: Rules,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._queue = queue
        self._models = models
        self._datasets = datasets
        self._architectures = architectures
        self._launcher = launcher
        self._rules = rules
        self._metrics = metrics
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._all_taken_up = False
        self._count_at = clock()
        self._sweep_at = clock() + _SWEEP_EVERY_S
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waker_open = threading.Lock()
        self._stopping = threading.Event()
        self._leaving = threading.Event()
        self._stop_by = 0.0
        self._thread: threading.Thread | None = None

    def start(self, *, sweep: bool = True) -> None:
        """Look for what an earlier server left, then run in a thread of our own.

        Args:
            sweep: remove what nobody needs; not while other processes of this server may be making it.
        """
        self.recover(sweep=sweep)
        self.wake()  # what waits in the queue since before has nobody else to say so
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        with self._waker_open:
            if self._waker >= 0:
                os.eventfd_write(self._waker, 1)

    def drain(self, timeout_s: float) -> None:
        """Take no more jobs, and tell workers to keep a checkpoint and end; after `timeout_s` they are ended by force.

        Returns at once; told again, it changes nothing.
        """
        if not self._stopping.is_set():
            self._stop_by = self._clock() + timeout_s
            self._stopping.set()
        self.wake()

    def stop(self, timeout_s: float) -> None:
        """Drain, and wait until all workers have ended and that is recorded."""
        self.drain(timeout_s)
        if self._thread is not None:
            self._thread.join(timeout_s + _TICK_S * 10)
            if self._thread.is_alive():
                _log.error("The supervisor did not end in time; the next start does the rest.", action="stop_forced")
                return  # it may still poll the waker
        with self._waker_open:
            if self._waker >= 0:
                os.close(self._waker)
                self._waker = -1

    def leave(self) -> None:
        """End without telling the workers: they go on, and the next server adopts them."""
        self._leaving.set()
        self.drain(0.0)

    def alive(self) -> bool:
        """Whether the thread still works: readiness asks this."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def _ending(self) -> bool:
        """Whether the workers should end too."""
        return self._stopping.is_set() and not self._leaving.is_set()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not (self._stopping.is_set() and not self._running):
            try:
                self._wait()
                if self._leaving.is_set():
                    return
                self.turn()
            except StoreLocked as error:
                # The workers are the new owner's by now: it adopts them.
                _log.error("The supervisor ends: another server took over.", action="fenced", error=error.message)
                return
            except ServiceError as error:
                _log.error("The supervisor could not record its work.", action="supervisor_retry", error=error.message)
                time.sleep(_TICK_S)
            except Exception:
                _log.exception("The supervisor met a fault and goes on.", action="supervisor_fault")
                time.sleep(_TICK_S)

    def _wait(self) -> None:
        if any(running.refused or running.faults for running in self._running.values()):
            time.sleep(_TICK_S)  # an end that cannot be recorded would wake us at once, again and again
            return
        poller = select.poll()
        poller.register(self._waker, select.POLLIN)
        for running in self._running.values():
            if running.handle is None:
                return
            poller.register(running.handle.pidfd, select.POLLIN)
        timeout = _TICK_S if self._running or not self._all_taken_up else _IDLE_S
        poller.poll(timeout * 1000)
        try:
            os.eventfd_read(self._waker)
        except BlockingIOError:
            pass

    def turn(self) -> None:
        """Look after each worker once, and start new ones. The thread calls it; so do tests with their own clock."""
        for running in list(self._running.values()):
            self._attend(running)
        if not self._all_taken_up:
            self._take_up()
        while not self._stopping.is_set():
            taken = [running.device for running in self._running.values()]
            free = [device for device in self._rules.devices if device not in taken]
            cpu = taken.count(None) < self._rules.slots
            if not cpu and not free:
                break
            job = self._queue.claim(cpu=cpu, devices=free if self._rules.devices else None)
            if job is None:
                break
            self._attend(self._launch(job, free))
        if self._clock() >= self._count_at:
            self._count_at = self._clock() + _COUNT_EVERY_S
            for state, count in self._queue.counts().items():
                self._metrics.jobs.labels(state.value).set(count)
            self._metrics.store_free_bytes.set(shutil.disk_usage(self._root).free)
        if self._clock() >= self._sweep_at:
            self._sweep_at = self._clock() + _SWEEP_EVERY_S
            self._queue.forget_old_answers()

    def _attend(self, running: _Running) -> None:
        """Do what is to be done about one job now; what goes wrong is tried again, or ends the job at last."""
        try:
            with translated():
                self._look_after(running)
            running.refused, running.faults = None, 0
        except StoreLocked:
            raise
        except (Busy, StoreError) as error:
            # The database or the disk refuses just now. The worker goes on, nothing is lost: try until it works.
            if running.refused != str(error):
                _log.error(
                    "A job's news could not be recorded; it is tried again.",
                    action="supervisor_retry",
                    job=running.job.id,
                    error=str(error),
                )
            running.refused = str(error) or type(error).__name__
        except Exception:
            running.faults += 1
            _log.exception("The supervisor met a fault.", action="supervisor_fault", job=running.job.id)
            if running.faults >= _MAX_FAULTS:
                self._give_up(running)

    def _look_after(self, running: _Running) -> None:
        ended = running.handle is None or running.handle.ended()  # asked before reading, so that no line is missed
        try:
            state = self._queue.state(running.job.id)
        except NotFound:
            state = None
        if state is None or state in FINAL or state in (JobState.QUEUED, JobState.PAUSED):
            self._forget(running)  # its end is recorded; only what came after that had failed
            return
        if not running.announced:
            assert running.handle is not None
            self._queue.started(running.job.id, running.job.attempt, pid=running.handle.pid)
            running.announced = True
        self._collect(running)
        if ended:
            self._finish(running)
        else:
            self._watch(running, state)

    def _give_up(self, running: _Running) -> None:
        """End a job that cannot be dealt with, so that it does not go round for ever."""
        detail = "The server met a fault with this job; its log has the details."
        try:
            self._end(running.job, JobState.FAILED, error=JobFailed("internal", detail))
        except Conflict:
            pass  # it is no longer ours
        except Exception:
            _log.exception("A job could not even be failed.", action="supervisor_fault", job=running.job.id)
            return  # next time
        self._forget(running)

    def _forget(self, running: _Running) -> None:
        if running.handle is not None:
            running.handle.signal(signal.SIGKILL)
            running.handle.close()
        del self._running[running.job.id]

    # -- starting a worker ------------------------------------------------------------------------------------------

    def _launch(self, job: Job, free: Sequence[str]) -> _Running:
        """Start the worker of a claimed job. From here on the job is watched, whatever happens."""
        folder = self._folder(job)
        asked = job.resolved_spec.get("device", "cpu")
        device = None if asked == "cpu" else free[0] if asked == "cuda" and free else asked
        handle = not_started = None
        try:
            with translated():
                folder.mkdir(parents=True, exist_ok=True)
                # Not made durable: after a crash of the machine the next attempt gets a task of its own.
                (folder / "task.json").write_text(json.dumps({**self._task(job), "device": device}))
                handle = self._launcher.launch(
                    folder, threads=self._threads(job), memory_bytes=self._rules.memory_bytes
                )
            _log.info("A job was started.", action="job_started", job=job.id, attempt=job.attempt, pid=handle.pid)
        except Exception as error:
            _log.exception("A job could not be started.", action="job_launch_failed", job=job.id)
            self._all_taken_up = False  # should the next line fail too
            handle = adopt(folder)  # there may be a worker even so, only the news of it was lost
            if handle is None and not was_started(folder):
                gone = isinstance(error, NotFound)  # deleted while the job waited
                code = "disk_full" if isinstance(error, StoreFull) else "data_error" if gone else "internal"
                detail = error.message if isinstance(error, ServiceError) else "The worker could not be started."
                not_started = JobFailed(code, detail)
        now = self._clock()
        running = _Running(job, folder, handle, 0, now, now, announced=handle is None, not_started=not_started)
        running.device = device
        self._running[job.id] = running
        return running

    def _task(self, job: Job) -> dict[str, Any]:
        """What the worker needs to know, so that it never opens the database."""
        task: dict[str, Any] = {
            "job": job.id,
            "kind": job.kind,
            "attempt": job.attempt,
            "spec": job.resolved_spec,
            "checkpoints": str(self._checkpoints(job)),
        }
        dataset_id = job.dataset["id"] if job.dataset is not None else None
        task |= materials(job.resolved_spec, dataset_id, models=self._models, datasets=self._datasets)
        if "job" in job.resolved_spec.get("inherited", {}).get("from", {}):
            task["inherited"] = {"folder": str(beginning_of_job(self._root, job.id))}
        if job.resolved_spec.get("upload") is not None:
            task["upload"] = str(child(self._root / "uploads", job.resolved_spec["upload"]))
        return task

    def _threads(self, job: Job) -> int:
        """The thread count that the job was resolved with: another one would give other bits on resuming."""
        return int(job.resolved_spec.get("threads", self._rules.threads))

    # -- while a worker works ---------------------------------------------------------------------------------------

    def _collect(self, running: _Running) -> bool:
        """Move the whole lines that the worker has written since the last time into the database; were there any?"""
        try:
            with (running.folder / "events.jsonl").open("rb") as stream:
                stream.seek(running.offset)
                data = stream.read(_BLOCK)
                if len(data) == _BLOCK:
                    data += stream.readline()
        except FileNotFoundError:
            return False
        whole = data[: data.rfind(b"\n") + 1]  # a worker that was killed may have left half a line; nothing follows it
        if not whole:
            return False
        events: list[tuple[str, dict[str, Any], str]] = []
        progress = last = best = resumed = None
        for line in whole.splitlines():
            event = json.loads(line)
            match event["type"]:
                case "progress":
                    progress = event["data"]
                case "metrics":
                    last = {**(last or {}), **event["data"]["last"]}
                    best = event["data"].get("best", best)
                case "log":
                    resumed = event["data"].get("resumed_from_step", resumed)
                case _:
                    pass
            events.append((event["type"], event["data"], event["at"]))
        offset = running.offset + len(whole)
        self._queue.record(
            running.job.id,
            running.job.attempt,
            offset=offset,
            events=events,
            progress=progress,
            metrics_last=last,
            metrics_best=best,
            resumed_from_step=resumed,
        )
        now = self._clock()
        running.offset = offset
        running.longest_silence = max(running.longest_silence, now - running.heard)
        running.heard = now
        if running.handle is not None:
            running.cpu_s = _cpu_seconds(running.handle.pid)
        return True

    def _watch(self, running: _Running, state: JobState) -> None:
        """Stop a worker that should: cancelled, paused, draining, over its time, or silent and idle for too long."""
        assert running.handle is not None
        now = self._clock()
        if running.told_to_stop is not None:
            force_at = running.told_to_stop + _GRACE_S
            if now >= (min(force_at, self._stop_by) if self._ending else force_at):
                running.handle.signal(signal.SIGKILL)
            return
        silent = now - running.heard
        if self._ending or state in (JobState.PAUSING, JobState.CANCELLING):
            pass  # told to stop, below
        elif now - running.since > self._rules.timeout_s:
            running.killed_for = JobFailed(
                "timeout", f"The job ran for more than {self._rules.timeout_s:g} s.", hint="Give it a smaller budget."
            )
        elif silent > max(self._rules.stall_s, 20 * running.longest_silence):
            used = _cpu_seconds(running.handle.pid)
            if used - running.cpu_s > _BUSY_SHARE * silent:
                # Something long, such as measuring a large net on many rows: it works, it only has nothing to tell.
                running.heard, running.cpu_s = now, used
                return
            running.killed_for = JobFailed("stalled", f"The worker did nothing for {silent:.0f} s.")
        else:
            return
        running.told_to_stop = now
        running.handle.signal(signal.SIGTERM)

    # -- how it ended -----------------------------------------------------------------------------------------------

    def _finish(self, running: _Running) -> None:
        while self._collect(running):  # more may have been written than one read takes
            pass
        job = self._queue.get(running.job.id)
        self._conclude(job, running)
        self._forget(running)

    def _conclude(self, job: Job, running: _Running) -> None:
        """Record the end of an attempt from what its worker left: a result, an error, or nothing."""
        folder = running.folder
        result = _read(folder / "result.json")
        error = _read(folder / "error.json")
        done = result is not None and result["outcome"] == "done"
        # Publishing moves the folder away; whoever cancels then is too late.
        published = result is not None and result.get("version") is not None and not (folder / "staged").exists()
        if job.state is JobState.INTERRUPTED:  # recorded before, but not put back
            self._queue.transition(job.id, JobState.QUEUED, attempt=job.attempt, reason=job.state_reason)
        elif job.state is JobState.CANCELLING and not published:
            if result is not None and done and job.kind == "train":
                self._keep_weights(job, folder, result)
            cancelled = JobFailed("cancelled_by_user", "The job was cancelled; its checkpoint is kept.")
            self._end(job, JobState.CANCELLED, error=cancelled, reason="cancelled_by_user")
        elif result is not None and done:
            self._succeed(job, folder, result)
        elif running.killed_for is not None or running.not_started is not None:
            self._end(job, JobState.FAILED, error=running.killed_for or running.not_started)
        elif error is not None:
            if error.get("reason") == "digest-mismatch":
                self._quarantine(job, error["detail"])
            report = error.pop("report", None)
            self._end(job, JobState.FAILED, error=error, report=report, progress=_failed_at(job, error))
        elif job.state is JobState.PAUSING:
            # Killed in its grace period or lost on the way, it goes on from the checkpoint before.
            self._queue.transition(job.id, JobState.PAUSED, attempt=job.attempt, reason=job.state_reason)
            _log.info("A job was paused.", action="job_paused", job=job.id)
        elif result is not None or running.told_to_stop is not None:  # told to stop by us
            self._interrupt(job, "The server stopped; the job goes on from its checkpoint.", lost=False)
        elif running.handle is None and not was_started(folder):
            self._interrupt(job, "The server ended before it had started the worker.", lost=False)
        else:
            status = exit_status(folder)
            how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
            detail = "The worker ended without a result" + ("." if status is None else f" ({how}).")
            lost = _lost(job) + 1
            if lost >= self._rules.attempts:
                hint = f"What it printed stands at /v1/jobs/{job.id}/logs."
                self._end(job, JobState.FAILED, error=JobFailed("worker_lost", detail, hint=hint))
            else:
                self._interrupt(job, detail, lost=True)

    def _succeed(self, job: Job, folder: Path, result: dict[str, Any]) -> None:
        output = {"artifact": result["artifact"]} if result.get("artifact") is not None else None
        report = result.get("report")
        warning = None
        try:
            if "replay_of" in job.resolved_spec:
                report = self._compared(job, result)
            elif result.get("architecture") is not None:  # a file brought it along
                self._architectures.put(**result["architecture"])
            if result.get("version") is not None and "replay_of" not in job.resolved_spec:
                target = Output.model_validate(job.resolved_spec["output"])
                manifest = self._models.publish(
                    folder / "staged",
                    model=target.model,
                    draft=VersionDraft.model_validate(result["version"]),
                    job_id=job.id,
                    alias=target.alias if target.condition is None else None,
                )
                output = {"model": manifest.model, "version": manifest.version}
                if target.condition is not None:
                    output["promotion"] = self._promote(job, target, manifest)
                if target.alias is not None and (target.condition is None or output["promotion"]["promoted"]):
                    output["alias"] = target.alias
                elif target.alias is not None:
                    warning = _refused(output["promotion"])
        except (Busy, StoreLocked):
            raise  # nothing is wrong with the result: publishing is tried again
        except StoreFull as error:
            self._end(job, JobState.FAILED, error=JobFailed("disk_full", error.message))
            return
        except ServiceError as error:
            self._end(job, JobState.FAILED, error=JobFailed("internal", f"Publishing failed: {error.message}"))
            return
        self._end(
            job,
            JobState.SUCCEEDED,
            reason=result.get("stopped_early"),
            output=output,
            metrics_last=result.get("metrics"),
            environment=result.get("environment"),
            report=report,
            warning=warning,
        )

    def _compared(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        """What a replay found: whether the weights are those of the first run, else where the two part."""
        first = job.resolved_spec["replay_of"]
        digest = result["version"]["weights_digest"]
        report: dict[str, Any] = {
            "replay_of": first["job"],
            "identical": digest == first["weights_digest"],
            "weights_digest": digest,
            "expected": first["weights_digest"],
            "first_difference": None,
            "steps_compared": 0,
            "environment": {},
        }
        try:
            source = self._queue.get(first["job"])
        except NotFound:  # its version says enough; its curves are gone
            return report
        then, now = source.environment or {}, result.get("environment") or {}
        report["environment"] = {
            name: {"then": then.get(name), "now": now.get(name)}
            for name in _BITS_DEPEND_ON
            if then.get(name) != now.get(name)
        }
        report |= _first_difference(self._queue.series(source.id)[0], self._queue.series(job.id)[0])
        return report

    def _promote(self, job: Job, target: Output, manifest: Manifest) -> dict[str, Any]:
        """Point the alias at a version if the condition holds now; what was compared."""
        assert target.alias is not None
        assert target.condition is not None
        about = {"alias": target.alias, "condition": str(target.condition)}
        while True:
            present = self._alias(manifest.model, target.alias)
            if present is not None and present.version == manifest.version:  # done, but its record was lost in a crash
                told = Verdict(True, manifest.metrics.get(target.condition.metric), None, None, "The alias was set.")
                return {**about, **told.view()}
            other = None
            if target.condition.alias is not None:
                other = self._alias(manifest.model, target.condition.alias)
            champion = None if other is None else self._models.version(other.model, other.version).manifest
            than = None if champion is None else champion.metrics
            verdict = conditions.judge(target.condition, manifest.metrics, than)
            if champion is not None and verdict.by is not None and same_rows(manifest, champion) is False:
                verdict = replace(verdict, detail=f"{verdict.detail} {_OTHER_ROWS}")
            if not verdict.holds:
                return {**about, **verdict.view()}
            try:
                self._models.aliases.set(
                    manifest.model,
                    target.alias,
                    manifest.version,
                    if_match=None if present is None else present.etag,
                    create=present is None,
                    by=job.id,
                    reason=str(target.condition),
                )
            except PreconditionFailed:
                continue  # somebody moved it just now: compare again
            return {**about, **verdict.view()}

    def _alias(self, model: str, alias: str) -> AliasRecord | None:
        try:
            return self._models.aliases.get(model, alias)
        except NotFound:
            return None

    def _quarantine(self, job: Job, detail: str) -> None:
        """The worker has seen that a version's files are not the published ones: nobody should be served from them."""
        resolved = job.resolved_spec.get("resolved_model") or job.resolved_spec.get("inherited", {}).get("from", {})
        if "model" not in resolved:
            return
        try:
            self._models.quarantine(resolved["model"], resolved["version"], detail.removesuffix("."))
        except (Busy, StoreLocked):
            raise  # tried again
        except ServiceError as error:  # it was deleted meanwhile, or the store is read-only: the job fails all the same
            _log.warning("A version was not quarantined.", action="quarantine", job=job.id, error=error.message)

    def _keep_weights(self, job: Job, folder: Path, result: dict[str, Any]) -> None:
        """The worker was done before the cancel reached it: the weights it staged are the checkpoint that is kept."""
        checkpoints = self._checkpoints(job)
        weights = folder / "staged" / _WEIGHTS
        [file] = [file for file in result["version"]["files"] if file["name"] == _WEIGHTS]
        lineage = result["version"]["lineage"]
        entry = {
            "kind": "best",
            "step": lineage["steps"],
            "epoch": lineage["epochs"],
            "size_bytes": file["size_bytes"],
            "sha256": file["sha256"],
            "at": utc_now(),
            "file": "best.pt",
            "frozen_digest": (lineage.get("certificate") or {}).get("digest"),
        }
        documents = {
            "architecture": _read(folder / "staged" / "architecture.json"),
            "preprocessing": _read(folder / "staged" / "preprocessing.json"),
            "signature": result["version"]["signature"],
        }
        with translated():
            make_folder(checkpoints, parents=True)
            if not (checkpoints / "documents").exists():
                write_atomic(checkpoints / "documents", json.dumps(documents).encode())
            if weights.exists():  # else this was done already
                weights.replace(checkpoints / "best.pt")
            write_atomic(checkpoints / "best.json", json.dumps(entry).encode())

    def _interrupt(self, job: Job, detail: str, *, lost: bool) -> None:
        _log.warning("A worker ended before its job.", action="job_interrupted", job=job.id, detail=detail)
        self._queue.transition(
            job.id,
            JobState.INTERRUPTED,
            attempt=job.attempt,
            reason=detail,
            attempt_state="lost" if lost else "stopped",
        )
        self._queue.transition(job.id, JobState.QUEUED, attempt=job.attempt, reason=detail)

    def _end(
        self,
        job: Job,
        state: JobState,
        *,
        error: JobFailed | dict[str, Any] | None = None,
        reason: str | None = None,
        **fields: Any,
    ) -> None:
        if isinstance(error, JobFailed):
            error = error.to_dict()
        self._queue.transition(
            job.id,
            state,
            attempt=job.attempt,
            reason=reason or (error["detail"] if error else None),
            error=error,
            **fields,
        )
        self._metrics.jobs_ended.labels(job.kind, state.value).inc()
        _log.info("A job ended.", action="job_ended", job=job.id, state=state.value)
        self._tidy(job.id, state)

    def _tidy(self, job_id: str, state: JobState) -> None:
        """Remove what an ended job does not need any more. What fails here is done at the next start."""
        folder = folder_of_job(self._root, job_id)
        try:
            for staged in folder.glob("attempt-*/staged"):
                remove_tree(staged)
            if state is JobState.SUCCEEDED:
                remove_tree(folder / "checkpoints")
        except OSError:
            _log.exception("An ended job's files were left for the next start.", action="job_tidy", job=job_id)

    # -- what an earlier server left ----------------------------------------------------------------------------------

    def recover(self, *, sweep: bool = True) -> None:
        """Adopt the workers that still live, see to the jobs of those that do not, and sweep what nobody needs."""
        self._take_up()
        jobs = self._root / "jobs"
        for folder in jobs.iterdir() if sweep and jobs.is_dir() else ():
            try:
                state = self._queue.state(folder.name)
            except NotFound:
                remove_tree(folder)
                continue
            if state in FINAL:
                self._tidy(folder.name, state)

    def _take_up(self) -> None:
        """Watch the jobs that have a worker, or had one, and are not watched yet."""
        self._all_taken_up = True
        for job in self._queue.active():
            if job.id in self._running:
                continue
            folder = self._folder(job)
            try:
                handle = adopt(folder)
            except OSError:
                _log.exception("A worker could not be adopted; it is tried again.", action="adopt", job=job.id)
                self._all_taken_up = False
                continue
            offset = self._queue.offset(job.id, job.attempt)
            now = self._clock()
            announced = handle is None or job.state is not JobState.STARTING
            # Whoever lives has read its task; that of a worker which never began may be half written.
            device = None if handle is None else (_read(folder / "task.json") or {}).get("device")
            self._running[job.id] = _Running(job, folder, handle, offset, now, now, announced=announced, device=device)
            if handle is not None:
                _log.info("A running job was adopted.", action="job_adopted", job=job.id, pid=handle.pid)

    def _folder(self, job: Job) -> Path:
        return folder_of_job(self._root, job.id) / f"attempt-{job.attempt}"

    def _checkpoints(self, job: Job) -> Path:
        return folder_of_job(self._root, job.id) / "checkpoints"


def materials(
    spec: Mapping[str, Any], dataset_id: str | None, *, models: ModelStore, datasets: DatasetStore
) -> dict[str, Any]:
    """What a worker reads: where its dataset and the version lie that its spec names, and what is in them."""
    found: dict[str, Any] = {}
    if dataset_id is not None:
        record = datasets.get(dataset_id)
        assert record.manifest is not None
        found["dataset"] = {
            "id": record.id,
            "folder": str(datasets.folder(record.id)),
            "manifest": record.manifest.model_dump(mode="json"),
        }
    if "resolved_model" in spec:  # what is evaluated, or whose weights are taken over
        found["version"] = _version(spec["resolved_model"], models)
    if spec.get("kind") == "train" and "model" in spec.get("inherited", {}).get("from", {}):
        found["inherited"] = _version(spec["inherited"]["from"], models)
    return found


def _version(resolved: Mapping[str, Any], models: ModelStore) -> dict[str, Any]:
    version = models.version(resolved["model"], resolved["version"])
    return {
        "folder": str(models.folder(resolved["model"], resolved["version"])),
        "files": [file.model_dump(mode="json") for file in version.manifest.files],
    }


def folder_of_job(root: Path, job_id: str) -> Path:
    """Where a job's attempts and checkpoints lie."""
    return root / "jobs" / job_id


def beginning_of_job(root: Path, job_id: str) -> Path:
    """Where the checkpoint of another job lies that a training begins with; it stays for a replay."""
    return folder_of_job(root, job_id) / "init"


_BITS_DEPEND_ON: Final = ("torch", "cpu_capability", "threads", "device", "machine", "modelyard")


def _first_difference(then: Series, now: Series) -> dict[str, Any]:
    """Where two runs part first, by step and name, and how many values were compared."""
    compared = 0
    parted: list[tuple[int, str]] = []
    for name in sorted(set(then) & set(now)):
        steps = sorted(set(then[name]) & set(now[name]))
        compared += len(steps)
        parted += [(step, name) for step in steps if then[name][step][1] != now[name][step][1]][:1]
    if not parted:
        return {"first_difference": None, "steps_compared": compared}
    step, name = min(parted)
    values = {"then": then[name][step][1], "now": now[name][step][1]}
    told = {"step": step, "epoch": now[name][step][0], "metric": name, **values}
    return {"first_difference": told, "steps_compared": compared}


_OTHER_ROWS: Final = "The two come from other rows, by dataset or split: only the same rows compare well."


def _refused(promotion: dict[str, Any]) -> dict[str, Any]:
    """A promotion that its condition forbade, as a warning."""
    entry = Entry(
        "/output/alias_on_success",
        "promotion-refused",
        f"The alias {promotion['alias']} was not moved: {promotion['detail']}",
        hint="The version is published; set the alias yourself if you want it.",
        expected=promotion["condition"],
        got=None if promotion["value"] is None else f"{promotion['value']:.6g}",
    )
    return entry.to_dict()


def _failed_at(job: Job, error: Mapping[str, Any]) -> dict[str, Any] | None:
    """The progress of a job whose error names its step; None leaves what the worker told.

    A loss is read some steps after it was computed, so the worker may have told of steps behind the one that failed.
    """
    told, step = job.progress, error.get("step")
    if told is None or step is None or not told["step"]:
        return None
    fraction = min(1.0, told["fraction"] * step / told["step"])
    return {**told, "step": step, "epoch": error.get("epoch", told["epoch"]), "fraction": fraction, "eta_s": None}


def _lost(job: Job) -> int:
    """How many workers were lost since the job was submitted or last retried."""
    states = [attempt["state"] for attempt in job.attempts]
    ends = [place for place, state in enumerate(states) if state in FINAL]
    return states[ends[-1] + 1 if ends else 0 :].count("lost")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content


def _cpu_seconds(pid: int) -> float:
    """What a process and its children, such as a compiler, have used of the processors so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            int(one) for told in Path(f"/proc/{pid}/task").glob("*/children") for one in told.read_text().split()
        ]
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(_cpu_seconds, children))
