"""Use cases of everything but prediction: documents, data, jobs, versions, aliases.

It checks what a request names before anything is queued or kept, and puts store, queue and engine together. It knows
no HTTP: the fronts translate.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from service.controlplane.documents import Documents
from service.controlplane.examining import Examiner
from service.controlplane.intake import Intake
from service.controlplane.planning import Plan, Planner, Resources, require_whole
from service.engine import bundle, checkpoints, export
from service.engine.checkpoints import Kept
from service.errors import Conflict, Entry, JobFailed, NotFound, PreconditionFailed, PreconditionRequired
from service.figures import thinned as thinned_places
from service.jobs.launchers import Launcher
from service.jobs.queue import Job, JobQueue
from service.jobs.rehearsal import Rehearsals
from service.jobs.supervisor import beginning_of_job, folder_of_job
from service.schemas import examples, preprocessing
from service.schemas.document import new_id
from service.schemas.jobs import JobState, Output
from service.schemas.judgement import Limits
from service.schemas.preprocessing import (
    ArrayRow,
    NumberColumn,
    PreparedInput,
    Preprocessing,
    TableRow,
    TextColumn,
    TokensColumn,
)
from service.schemas.versions import Manifest, Reference
from service.store.architectures import ArchitectureStore
from service.store.database import check_if_match
from service.store.datasets import DatasetStore
from service.store.files import make_folder, remove_tree, require_space, translated, write_atomic
from service.store.idempotency import IdempotencyKey
from service.store.models import ModelStore
from service.store.uploads import UploadStore
from service.telemetry import log

_log = log(__name__)


@dataclass(frozen=True, slots=True)
class Download:
    """Bytes for a client that are put together while they are sent; `read` gives those from one place to another."""

    size_bytes: int
    sha256: str
    read: Callable[[int, int], Iterator[bytes]]


class ControlPlane:
    """What clients can ask for, apart from predictions.

    Args:
        wake: called after a change that the supervisor should look at.
        on_queued: told of each job that was queued here, in the context of its request.
        staging: where what is not finished lies, below `root`.

    Attributes:
        documents: of nets.
        intake: of datasets.
        examiner: dry runs of jobs.
    """

    def __init__(
        self,
        root: Path,
        *,
        queue: JobQueue,
        models: ModelStore,
        datasets: DatasetStore,
        uploads: UploadStore,
        architecture_store: ArchitectureStore,
        launcher: Launcher,
        resources: Resources,
        wake: Callable[[], None],
        on_queued: Callable[[Job], None] = lambda _: None,
        limits: Limits | None = None,
        staging: Path | None = None,
    ) -> None:
        self._root = root
        self.queue = queue
        self.models = models
        self.datasets = datasets
        self.uploads = uploads
        self._resources = resources
        self._wake = wake
        self._on_queued = on_queued
        self._measured: dict[tuple[str, str, int], _Measured] = {}  # a line for each version that was downloaded
        self._measuring = threading.Lock()
        limits = limits or Limits()
        self._rehearsals = Rehearsals(staging or root / "staging", launcher, memory_bytes=resources.memory_bytes)
        self.documents = Documents(architecture_store, models, limits=limits)
        self.intake = Intake(datasets, uploads, launcher, memory_bytes=resources.memory_bytes)
        self._planner = Planner(
            root,
            queue=queue,
            models=models,
            uploads=uploads,
            documents=self.documents,
            intake=self.intake,
            resources=resources,
            limits=limits,
        )
        self.examiner = Examiner(self._planner, models, datasets, self._rehearsals, resources=resources, limits=limits)

    def warm(self) -> None:
        """Pay for torch's first operation on meta (a second) before the first request does."""
        self.documents.validate(examples.NET)

    def close(self) -> None:
        """End the readers; what is half read is swept at the next start."""
        self._rehearsals.close()
        self.intake.close()

    # -- versions ---------------------------------------------------------------------------------------------------

    def signature(self, reference: Reference) -> dict[str, Any]:
        """What a version takes and answers, for those who may ask it and see nothing else of it.

        Raises:
            NotFound, ModelQuarantined: accordingly.
        """
        self.models.model(reference.model)
        try:
            found = self.models.resolve(reference)
        except NotFound as error:
            raise error.at("/query/version") from None
        manifest = self.models.version(found.model, found.version).manifest
        assert manifest is not None  # what can be resolved is ready
        document = self.models.document(found.model, found.version, "preprocessing.json")
        prepared = preprocessing.NONE if document is None else Preprocessing.model_validate(document)
        parts = {part.name: part for part in prepared.inputs or ()}
        columns = manifest.signature.columns
        if columns is not None and prepared.row is None:
            prepared = Preprocessing(row=TableRow(columns=tuple(NumberColumn(name=name) for name in columns)))
        return {
            "model": found.model,
            "version": found.version,
            "alias": found.alias,
            "digest": manifest.digest,
            "inputs": [
                {**spec.model_dump(mode="json"), "row": _row(parts.get(spec.name, prepared))}
                for spec in manifest.signature.inputs
            ],
            "outputs": [spec.model_dump(mode="json") for spec in manifest.signature.outputs],
            "classes": manifest.classes,
            "written": self._written(manifest.lineage),
        }

    def _written(self, lineage: dict[str, Any]) -> dict[str, Any] | None:
        """How numbers were written in what a version learnt from; None where that is not known any more."""
        dataset = lineage.get("dataset")
        if not isinstance(dataset, dict):
            return None
        try:
            source = self.datasets.get(dataset["id"]).source
        except NotFound:
            return None
        usual = {"decimal": ".", "thousands": None, "missing_texts": ()}
        return {name: source.get(name, default) for name, default in usual.items()}

    def safetensors(self, name: str, number: int) -> Download:
        """A version's weights as safetensors.

        Raises:
            NotFound, ModelQuarantined: accordingly.
        """
        return self._download("safetensors", name, number, _safetensors)

    def bundle(self, name: str, number: int) -> Download:
        """A version as one zip file that stands on its own.

        Raises:
            NotFound, ModelQuarantined: accordingly.
        """
        return self._download("bundle", name, number, _bundle)

    def _download(
        self, kind: str, name: str, number: int, assemble: Callable[[Path, Manifest, int], export.Assembly]
    ) -> Download:
        self.models.file(name, number, "weights.pt")  # says so if the version must not be handed out
        manifest = self.models.version(name, number).manifest
        folder = self.models.folder(name, number)
        key = (kind, name, number)
        with translated():
            found = self._measured.get(key)
            if found is None:
                with self._measuring:  # once, however many ask for it
                    found = self._measured.get(key)
                    if found is None:
                        require_whole(self.models, name, number)
                        crc = bundle.weights_crc(folder)
                        found = self._measured[key] = _Measured(assemble(folder, manifest, crc).sha256(), crc)
            try:
                assembly = assemble(folder, manifest, found.crc)
            except FileNotFoundError:
                raise NotFound(f"Version {number} of {name!r} was deleted.") from None
        return Download(assembly.size_bytes, found.sha256, assembly.read)

    def alias_is_as_seen(self, name: str, alias: str, *, if_match: str | None, create: bool) -> bool:
        """Whether an alias is what its change expects: if not, no version need be loaded for that.

        The change itself looks again, and says what is wrong.
        """
        try:
            etag: str | None = self.models.aliases.get(name, alias).etag
        except NotFound:
            etag = None
        if create:
            return etag is None
        try:
            check_if_match(if_match, etag)
        except (PreconditionFailed, PreconditionRequired):
            return False
        return True

    # -- jobs -------------------------------------------------------------------------------------------------------

    def submit(
        self, body: object, *, idempotency: IdempotencyKey | None = None
    ) -> tuple[Job | None, dict[str, Any] | None]:
        """Check a job request, queue it and wake the supervisor: (the job, None), or (None, the answer that the same
        Idempotency-Key got before).

        Raises:
            InvalidInput: with every mistake that could be found.
            NotFound: a dataset, model or architecture that the request names does not exist.
            QueueFull: too many jobs wait.
            StoreFull: the disk has no room for new work.
        """
        if idempotency is not None:
            earlier = self.queue.answered(idempotency)
            if earlier is not None:
                return None, earlier
        spec, plan = self._planner.plan(body)
        assert isinstance(body, dict)
        return self._enqueue(
            plan,
            kind=spec.kind,
            spec=body,
            seed=getattr(spec, "seed", None),
            labels=dict(spec.labels),
            priority=spec.priority,
            idempotency=idempotency,
        )

    def _enqueue(
        self, plan: Plan, *, idempotency: IdempotencyKey | None, **given: Any
    ) -> tuple[Job | None, dict[str, Any] | None]:
        require_space(self._root, reserve_bytes=self._resources.reserve_bytes)
        job_id = new_id("job")
        job: Job | None = None
        try:
            if plan.checkpoint is not None:
                self._take(plan.checkpoint, folder_of_job(self._root, job_id) / "checkpoints")
            if plan.begins_with is not None:
                self._take(plan.begins_with, beginning_of_job(self._root, job_id))
            job, earlier = self.queue.enqueue(
                id=job_id,
                resolved_spec={"threads": self._resources.threads, **plan.resolved},
                dataset={"id": plan.dataset.id, "digest": plan.dataset.digest} if plan.dataset else None,
                output=plan.output,
                warnings=[entry.to_dict() for entry in plan.warnings],
                max_queued=self._resources.max_queued,
                idempotency=idempotency,
                **given,
            )
        finally:
            if job is None and (plan.checkpoint is not None or plan.begins_with is not None):
                remove_tree(folder_of_job(self._root, job_id))
        if job is not None:
            _log.info("A job was queued.", action="job_queued", job=job.id, kind=job.kind)
            self._on_queued(job)
            self._wake()
        return job, earlier

    def _take(self, one: Kept, folder: Path) -> None:
        """Give a checkpoint a second name, under which its file stays when the worker removes the first."""
        with translated():
            make_folder(folder, parents=True)
            try:
                (folder / one.entry["file"]).hardlink_to(one.folder / one.entry["file"])
            except FileNotFoundError:
                raise Conflict(
                    "The job's worker replaced its checkpoint just now.", hint="Send the request again."
                ) from None
            name = Path(one.entry["file"]).with_suffix(".json")
            write_atomic(folder / name, json.dumps(dict(one.entry)).encode())

    def replay(
        self, job_id: str, *, idempotency: IdempotencyKey | None = None
    ) -> tuple[Job | None, dict[str, Any] | None]:
        """Queue a training again as it was resolved; at its end it says whether the weights are the same.

        It publishes nothing. A budget of seconds becomes one of the steps that were done.

        Raises:
            Conflict: the job is no training that made a version, or that version or its dataset is gone.
        """
        if idempotency is not None:
            earlier = self.queue.answered(idempotency)
            if earlier is not None:
                return None, earlier
        source, plan = self._planner.replay(job_id)
        return self._enqueue(plan, kind="train", spec=source.spec, seed=source.seed, labels={}, idempotency=idempotency)

    def promote(
        self, job_id: str, output: Output | None, *, idempotency: IdempotencyKey | None = None
    ) -> tuple[Job | None, dict[str, Any] | None]:
        """Queue the import of a job's best checkpoint, by default into the job's own model, without an alias.

        Raises:
            Conflict: the job has made a version itself, or keeps no checkpoint.
        """
        if output is None:
            own = self.queue.get(job_id).resolved_spec.get("output")
            asked = {"model": own["model"]} if own else {}
        else:
            asked = output.model_dump(mode="json", exclude_none=True)
        return self.submit({"kind": "import", "job": job_id, "output": asked}, idempotency=idempotency)

    def cancel(self, job_id: str) -> tuple[Job, bool]:
        """Ask a job to stop and keep its best checkpoint; the flag says whether anything changed.

        Raises:
            Conflict: the job has ended otherwise.
        """
        before = self.queue.get(job_id)
        job = self.queue.request_cancel(job_id)
        if job.state in (JobState.SUCCEEDED, JobState.FAILED):
            raise Conflict(
                f"The job has {job.state.value} already.", hint="There is nothing to cancel; delete it to forget it."
            )
        self._wake()
        return job, before.state is not job.state

    def pause(self, job_id: str) -> tuple[Job, bool]:
        """Ask a job to give its slot back and keep its checkpoint; the flag says whether anything changed.

        Raises:
            Conflict: the job has ended, or is being cancelled.
        """
        return self._changed(job_id, self.queue.request_pause)

    def resume(self, job_id: str) -> tuple[Job, bool]:
        """Let a paused job go on from its checkpoint; the flag says whether anything changed.

        Raises:
            Conflict: the job has ended, or is still stopping.
            QueueFull: too many jobs wait.
        """
        return self._changed(job_id, partial(self.queue.resume, max_queued=self._resources.max_queued))

    def retry(self, job_id: str, *, from_start: bool = False) -> tuple[Job, bool]:
        """Give a failed or cancelled job another attempt; the flag says whether anything changed.

        Args:
            job_id: the job.
            from_start: begin anew, without the checkpoints that are kept.

        Raises:
            Conflict: the job has succeeded, or is paused or stopping.
            QueueFull: too many jobs wait.
        """
        retry = partial(self.queue.retry, max_queued=self._resources.max_queued)
        if not from_start or self.queue.get(job_id).kind != "train":  # an import's checkpoint is what it is about
            return self._changed(job_id, retry)
        with _put_aside(folder_of_job(self._root, job_id) / "checkpoints") as forget:
            return self._changed(job_id, partial(retry, forget=forget))

    def _changed(self, job_id: str, act: Callable[[str], Job]) -> tuple[Job, bool]:
        before = self.queue.state(job_id)
        job = act(job_id)
        if job.state is not before:
            if job.state is JobState.QUEUED:
                self._on_queued(job)
            self._wake()
        return job, job.state is not before

    def delete_job(self, job_id: str) -> None:
        """Forget a finished job, its events and its files."""
        self.queue.delete(job_id)
        remove_tree(folder_of_job(self._root, job_id))

    def artifact(self, job_id: str) -> tuple[Path, dict[str, Any]]:
        """Where the file lies that an export job made, and its name, size and digest.

        Raises:
            NotFound: there is no such job, or it is of a kind that makes no file.
            Conflict: it has not ended yet, or was cancelled.
            JobFailed: it failed.
        """
        job = self.queue.get(job_id)
        if job.kind != "export":
            hint = "The result of a job of another kind is a version or metrics: see `output` and `metrics` of the job."
            raise NotFound(
                f"A job of the kind {job.kind} makes no file.",
                errors=[Entry("/path/job_id", "not-found", "This job makes no file.", hint=hint)],
            )
        if job.state is JobState.FAILED:
            error = job.error or {}
            raise JobFailed(error.get("code", "internal"), str(error.get("detail", "The job failed.")))
        if job.state is not JobState.SUCCEEDED:
            raise Conflict(f"The job is {job.state.value}; it has no file.", hint="Wait until its state is succeeded.")
        assert job.output is not None
        path = folder_of_job(self._root, job_id) / f"attempt-{job.attempt}" / export.ARTIFACT
        artifact = job.output["artifact"]
        if not path.is_file() or path.stat().st_size != artifact["size_bytes"]:
            raise NotFound("The file of this job is gone.", hint="Submit the job again.")
        return path, artifact

    def job_log(self, job_id: str, *, limit: int = 1_000_000) -> str:
        """What the job's workers printed, attempt by attempt; at most the last `limit` bytes of each."""
        job = self.queue.get(job_id)
        found = []
        for attempt in job.attempts:
            path = folder_of_job(self._root, job_id) / f"attempt-{attempt['number']}" / "output.log"
            try:
                with path.open("rb") as stream:
                    stream.seek(max(0, path.stat().st_size - limit))
                    found.append(f"--- attempt {attempt['number']} ---\n{stream.read().decode(errors='replace')}")
            except FileNotFoundError:
                continue
        return "".join(found)

    def checkpoints(self, job_id: str) -> list[dict[str, Any]]:
        """The checkpoints that a job keeps: for resuming, and the best one."""
        self.queue.get(job_id)
        found = [one.entry for one in checkpoints.kept(folder_of_job(self._root, job_id) / "checkpoints")]
        found.sort(key=lambda entry: (entry["kind"], entry["step"]))
        return [{key: value for key, value in entry.items() if key not in ("file", "frozen_digest")} for entry in found]

    def metrics(self, job_id: str, *, points: int) -> dict[str, Any]:
        """The metric series of a job over its steps, thinned to at most `points` values each."""
        self.queue.get(job_id)
        series, thinned = self.queue.series(job_id)
        total = 0
        found = []
        for name, values in sorted(series.items()):
            steps = sorted(values)
            total += len(steps)
            kept = [steps[place] for place in thinned_places([values[step][1] for step in steps], points)]
            thinned = thinned or len(kept) < len(steps)
            found.append(
                {
                    "name": name,
                    "steps": kept,
                    "epochs": [values[step][0] for step in kept],
                    "values": [values[step][1] for step in kept],
                }
            )
        return {"series": found, "total": total, "thinned": thinned}


@dataclass(frozen=True, slots=True)
class _Measured:
    """What takes a look at every byte, and is the same each time."""

    sha256: str
    crc: int


@contextmanager
def _put_aside(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives what puts a folder out of sight. At the end it is removed, or where something failed back in its place."""
    aside = folder.with_name(f"{folder.name}-{secrets.token_hex(8)}")

    def put() -> None:
        with suppress(FileNotFoundError):
            folder.rename(aside)

    try:
        yield put
    except BaseException:
        if aside.exists():
            aside.rename(folder)
        raise
    remove_tree(aside)


def _safetensors(folder: Path, _: Manifest, __: int) -> export.Assembly:
    return export.safetensors(folder / "weights.pt")


def _bundle(folder: Path, manifest: Manifest, crc: int) -> export.Assembly:
    return bundle.assemble(folder, manifest, crc=crc)


def _row(prepared: Preprocessing | PreparedInput) -> dict[str, Any] | None:
    """How a raw row looks to who may ask: no word of free texts, and of an array one range for all of its numbers."""
    row, seen = prepared.row, prepared.training_range
    match row:
        case None:
            return None
        case ArrayRow():
            span = None if seen is None or not seen.low else [min(seen.low), max(seen.high)]
            return {"layout": row.layout, "row_shape": row.row_shape, "training_range": span}
        case TableRow():
            return {"layout": row.layout, "columns": [_column(column) for column in row.columns]}


def _column(column: NumberColumn | TextColumn | TokensColumn) -> dict[str, Any]:
    return {
        "name": column.name,
        "kind": column.kind,
        "optional": not isinstance(column, TokensColumn) and column.optional is True,
        "categories": column.categories if isinstance(column, TextColumn) else None,
    }
