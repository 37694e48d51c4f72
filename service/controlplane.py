"""Use cases of everything but prediction: documents, data, jobs, versions, aliases.

It checks what a request names before anything is queued or kept, and puts store, queue and engine together. It knows
no HTTP: the fronts translate.
"""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, assert_never

import orjson
from pydantic import TypeAdapter, ValidationError

from service.engine import build, bundle, checkpoint, checkpoints, data, doctor, engines, export, profile, transfer
from service.engine.agreement import agree, agree_with_version
from service.engine.checkpoints import Kept
from service.engine.evaluate import default_metrics
from service.errors import (
    ArchitectureInvalid,
    ArchitectureTooLarge,
    Conflict,
    DatasetRefused,
    Draining,
    Entry,
    InvalidInput,
    InvalidName,
    JobFailed,
    ModelQuarantined,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    ServiceError,
    ShapeMismatch,
    StoreError,
    ValidationFailed,
    listed,
)
from service.figures import thinned as thinned_places
from service.jobs.launchers import Launcher, sweep
from service.jobs.queue import Job, JobQueue
from service.jobs.rehearsal import Rehearsals
from service.jobs.supervisor import beginning_of_job, folder_of_job, materials
from service.schemas import architecture as architectures
from service.schemas import catalogue, edits, examples
from service.schemas.architecture import Architecture, StateRow
from service.schemas.datasets import DatasetId, DatasetManifest, DatasetRequest, Source, uploads_of
from service.schemas.diff import DiffRequest, OfVersion, diff
from service.schemas.document import digest, nearest_hint, new_id, read
from service.schemas.edits import EditedArchitecture, EditRequest, FromCatalogue, FromVersion, WeightMap
from service.schemas.initial import MAX_MATCHES
from service.schemas.jobs import (
    EvaluateSpec,
    ExportSpec,
    Given,
    ImportSpec,
    JobSpec,
    JobState,
    Output,
    TrainSpec,
    parse_job,
)
from service.schemas.judgement import Judgement, Limits, judge, require
from service.schemas.mermaid import mermaid
from service.schemas.preprocessing import Preprocessing
from service.schemas.python_source import python_source
from service.schemas.table import table
from service.schemas.versions import JOB_REFERENCE, Manifest, Reference, parse_reference, reference_of
from service.schemas.views import Reading
from service.store.architectures import ArchitectureRecord, ArchitectureStore
from service.store.database import check_if_match
from service.store.datasets import DatasetRecord, DatasetStore, not_ready_hint
from service.store.files import make_folder, remove_tree, require_space, translated, write_atomic
from service.store.idempotency import IdempotencyKey
from service.store.models import ModelStore, Resolved
from service.store.uploads import UploadStore
from service.telemetry import log

_log = log(__name__)
_READ_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What one job may take, as the supervisor was told too, and what the disk must keep free for one to be queued."""

    threads: int
    memory_bytes: int
    max_queued: int
    reserve_bytes: int | None = None
    devices: tuple[str, ...] = ()


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
        self.architectures = architecture_store
        self._launcher = launcher
        self._resources = resources
        self._wake = wake
        self._on_queued = on_queued
        self._limits = limits or Limits()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="dataset-reader")
        self._making: dict[str, Future[DatasetRecord]] = {}
        self._making_mutex = threading.Lock()
        self._measured: dict[tuple[str, str, int], _Measured] = {}  # a line for each version that was downloaded
        self._measuring = threading.Lock()
        self._closing = threading.Event()
        self._rehearsals = Rehearsals(staging or root / "staging", launcher, memory_bytes=resources.memory_bytes)

    def warm(self) -> None:
        """Pay for torch's first operation on meta (a second) before the first request does."""
        self.validate(examples.NET)

    def close(self) -> None:
        """End the readers; what is half read is swept at the next start."""
        self._closing.set()
        self._rehearsals.close()
        self._readers.shutdown(cancel_futures=True)

    # -- architectures ----------------------------------------------------------------------------------------------

    def validate(self, body: object, *, drawing: bool = False) -> dict[str, Any]:
        """What is wrong and right about a document: never an error, since a wrong document is this call's input.

        Args:
            drawing: add the net as a Mermaid flowchart, `mermaid`; left out where the document is wrong.
        """
        try:
            judgement = judge(architectures.parse(body), limits=self._limits)
        except (ArchitectureInvalid, ArchitectureTooLarge) as refused:
            return _verdict(None, refused.errors, (), None)
        if not judgement.errors:
            try:
                assert judgement.architecture is not None
                build.confirm(judgement.architecture)
            except ArchitectureInvalid as refused:
                return _verdict(None, refused.errors, judgement.warnings, None)
        verdict = _verdict(judgement.digest, judgement.errors, judgement.warnings, judgement.summary)
        if drawing and judgement.architecture is not None and judgement.summary is not None:
            verdict["mermaid"] = mermaid(judgement.architecture, judgement.summary)
        return verdict

    def add_architecture(self, body: object) -> tuple[ArchitectureRecord, bool]:
        """Keep a document; the flag says whether it is new."""
        authored = architectures.parse(body)
        judgement = self._judged(authored, prefix="")
        return self._keep(authored, judgement)

    def edit(self, request: EditRequest) -> tuple[dict[str, Any], bool | None]:
        """What edits make of a net: document, weight map and summary; kept unless it is a dry run.

        The flag says whether the document is new in the store; None after a dry run.
        """
        edited, origin = self._edited(request, at="")
        authored = architectures.parse(edited.document)
        judgement = self._judged(authored, prefix="/edits")
        created = None if request.dry_run else self._keep(authored, judgement)[1]
        left = () if request.dry_run else _left_behind(edited, origin)
        return {
            "digest": judgement.digest,
            "document": edited.document,
            "weights": edited.weights.view(),
            "freeze": list(edited.freeze),
            "frozen": list(edited.frozen),
            "source": origin,
            "summary": edited.judgement.summary,
            "warnings": [entry.to_dict() for entry in (*edited.judgement.warnings, *edited.odd, *left)],
            "stored": created is not None,
        }, created

    def read_architecture(self, digest: str, view: Reading) -> Any:
        """A kept document in another form: text, or JSON values."""
        return _reading(self.architectures.get(digest), view)

    def read_version(self, name: str, number: int, view: Reading) -> Any:
        """The net of a version in another form: text, or JSON values."""
        digest = self.models.version(name, number).manifest.architecture_digest
        return _reading(self.architectures.get(digest), view)

    def compare(self, request: DiffRequest) -> dict[str, Any]:
        """What differs between two nets: entries, the effect, and the same as text."""
        found = diff(self._side(request.a, at="/a"), self._side(request.b, at="/b"), limits=self._limits)
        return {**found.model_dump(mode="json"), "text": found.text()}

    def compare_versions(self, name: str, a: Reference, b: Reference) -> dict[str, Any]:
        """Two versions of a model side by side: their metrics, whether they have the same weights, and their nets.

        Raises:
            NotFound: there is no such model, alias or version.
        """
        self.models.model(name)
        found = []
        for at, reference in (("/query/a", a), ("/query/b", b)):
            try:
                found.append(self.models.version(name, self.models.resolve(reference).version))
            except NotFound as error:
                raise error.at(at) from None
        first, second = (record.manifest for record in found)
        names = dict.fromkeys([*first.metrics, *second.metrics])
        sides = {"a": {"model": name, "version": first.version}, "b": {"model": name, "version": second.version}}
        return {
            "model": name,
            "a": first.version,
            "b": second.version,
            "metrics": {each: {"a": first.metrics.get(each), "b": second.metrics.get(each)} for each in names},
            "same_weights": first.weights_digest == second.weights_digest,
            "architecture": self.compare(DiffRequest.model_validate(sides)),
        }

    def _side(self, given: OfVersion | str | dict[str, Any], *, at: str) -> Any:
        try:
            if isinstance(given, OfVersion):
                found = self.models.resolve(reference_of(given.model, given.version, at=at))
                return self.models.document(found.model, found.version, "architecture.json")
            return self.architectures.get(given).canonical if isinstance(given, str) else given
        except NotFound as error:
            raise error.at(at) from None

    def _judged(self, architecture: Architecture, *, prefix: str) -> Judgement:
        judgement = require(architecture, limits=self._limits, prefix=prefix)
        assert judgement.architecture is not None
        build.confirm(judgement.architecture)
        return judgement

    def _keep(self, authored: Architecture, judgement: Judgement) -> tuple[ArchitectureRecord, bool]:
        assert judgement.architecture is not None
        assert judgement.digest is not None
        assert judgement.summary is not None
        return self.architectures.put(
            judgement.digest,
            authored=architectures.authored(authored),
            canonical=architectures.canonical_form(judgement.architecture),
            summary=judgement.summary,
        )

    # -- datasets ---------------------------------------------------------------------------------------------------

    def add_dataset(
        self, request: DatasetRequest, *, idempotency: IdempotencyKey | None = None
    ) -> tuple[DatasetRecord, Future[None] | None, bool]:
        """Begin to make a dataset of a source: its record, what to wait for where an uploaded file is being read (in
        a process of its own), and whether it is new. The same Idempotency-Key gets the dataset that it made before.

        Raises:
            DatasetRefused: the source cannot be read; of an upload, the future raises it.
        """
        if idempotency is not None:
            earlier = self.datasets.made_by(idempotency)
            if earlier is not None:
                return earlier, None, False
        record, reading = self._begin_dataset(request.source, name=request.name, at="/source", idempotency=idempotency)
        return record, reading, True

    def _dataset_of(self, source: str | Any, *, at: str) -> DatasetRecord:
        """The ready dataset that a job names or brings."""
        if isinstance(source, str):
            try:
                record = self.datasets.get(source)
            except NotFound as error:
                raise error.at(at) from None
        else:
            record = self._shared_dataset(source, at=at)
        if record.state == "processing":
            raise Conflict(
                "The dataset is still being read.",
                errors=[
                    Entry(
                        at,
                        "conflict",
                        "The dataset is still being read.",
                        hint="Wait until its state is ready, then post the job again.",
                        expected="a dataset in the state ready",
                        got=record.state,
                    )
                ],
            )
        if record.state != "ready" or record.manifest is None:
            raise Conflict(
                "The dataset could not be read.",
                errors=[
                    Entry(
                        at,
                        "conflict",
                        str((record.error or {}).get("detail", "It could not be read.")),
                        hint="Mend the file, upload it again and make another dataset.",
                    )
                ],
            )
        return record

    def _shared_dataset(self, source: Any, *, at: str) -> DatasetRecord:
        """The dataset of a source that jobs bring: made by the first of them, and shared with all others."""
        found = _source_digest(source)
        with self._making_mutex:
            known = self.datasets.find(found)
            if known is not None:
                return known
            making = self._making.get(found)
            mine = making is None
            if making is None:
                making = self._making[found] = Future()
        if not mine:
            return making.result(_READ_TIMEOUT_S)
        try:
            record, reading = self._begin_dataset(source, name=None, at=at)
            if reading is not None:
                reading.result(_READ_TIMEOUT_S)
                record = self.datasets.get(record.id)
            making.set_result(record)
        except BaseException as error:
            making.set_exception(error)
            raise
        finally:
            with self._making_mutex:
                del self._making[found]
        return record

    def _begin_dataset(
        self, source: Any, *, name: str | None, at: str, idempotency: IdempotencyKey | None = None
    ) -> tuple[DatasetRecord, Future[None] | None]:
        uploads = {}
        for member, upload in uploads_of(source).items():
            try:
                uploads[member] = self.uploads.path(upload)
            except NotFound as error:
                raise error.at(f"{at}/{member}") from None
        record = self.datasets.begin(
            name, source.model_dump(mode="json", exclude_unset=True), _source_digest(source), idempotency=idempotency
        )
        if uploads:
            return record, self._readers.submit(self._read, record.id, source, uploads, at)
        try:
            _, staged = self.datasets.stage()
            try:
                manifest = data.materialize(source, staged, at=at)
                return self.datasets.commit(record.id, staged, manifest), None
            finally:
                remove_tree(staged)
        except BaseException:
            self.datasets.discard(record.id, idempotency=idempotency)
            raise

    def _read(self, dataset_id: str, source: Any, uploads: Mapping[str, Path], at: str) -> None:
        """In a thread: have a worker read the uploads; what it says is wrong becomes our error."""
        _, staged = self.datasets.stage()
        try:
            task = {
                "kind": "dataset",
                "source": source.model_dump(mode="json"),
                "uploads": {member: str(path) for member, path in uploads.items()},
                "at": at,
            }
            write_atomic(staged / "task.json", json.dumps(task).encode())
            handle = self._launcher.launch(staged, threads=1, memory_bytes=self._resources.memory_bytes)
            deadline = time.monotonic() + _READ_TIMEOUT_S
            while not handle.ended(0.1):
                if self._closing.is_set() or time.monotonic() > deadline:
                    handle.signal(signal.SIGKILL)
            handle.close()
            if self._closing.is_set():
                raise Draining("The server stopped while it read this.")  # the next start says so in the record
            result = staged / "result.json"
            if result.exists():
                manifest = DatasetManifest.model_validate(json.loads(result.read_bytes())["manifest"])
                self.datasets.commit(dataset_id, staged / "staged", manifest)
                return
            error = staged / "error.json"
            found = json.loads(error.read_bytes()) if error.exists() else None
            if found is None:
                found = {
                    "code": "data_error",
                    "detail": "The reader ended before it was done: the file may need too much memory or time.",
                }
            self.datasets.fail(dataset_id, found)
            entries = [Entry(**entry) for entry in found.get("errors", [])]
            raise DatasetRefused(found["detail"], errors=entries, more=found.get("more", 0))
        except StoreError as error:
            self.datasets.fail(dataset_id, {"code": error.code, "detail": error.message})
            raise
        except OSError as error:
            self.datasets.fail(dataset_id, {"code": "internal", "detail": "The reader could not be started."})
            raise StoreError("The reader could not be started.") from error
        finally:
            sweep(staged)

    def preview(self, dataset_id: str, *, limit: int) -> dict[str, Any]:
        """The first rows of a dataset."""
        record = self._ready(dataset_id)
        return profile.preview(self.datasets.folder(dataset_id), record, limit=limit)

    def profile(self, dataset_id: str) -> dict[str, Any]:
        """Type, range, missing values and histogram of each column."""
        record = self._ready(dataset_id)
        return profile.profile(self.datasets.folder(dataset_id), record)

    def _ready(self, dataset_id: str) -> DatasetManifest:
        record = self.datasets.get(dataset_id)
        if record.manifest is None:
            raise Conflict(f"The dataset is {record.state}.", hint=not_ready_hint(record.state))
        return record.manifest

    # -- versions ---------------------------------------------------------------------------------------------------

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
                        self._require_whole(name, number)
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
        spec, given = self._parsed(body)
        assert isinstance(body, dict)
        match spec:
            case TrainSpec():
                plan = self._plan_training(spec, given)
            case ImportSpec():
                plan = self._plan_import(spec, given)
            case EvaluateSpec():
                plan = self._plan_evaluation(spec)
            case ExportSpec():
                plan = self._plan_export(spec)
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
        self, plan: _Plan, *, idempotency: IdempotencyKey | None, **given: Any
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

    # -- before anything is queued ----------------------------------------------------------------------------------

    def _parsed(self, body: object) -> tuple[JobSpec, Given]:
        """A job request as `parse_job` reads it; what is wrong with its data is told with its other mistakes."""
        try:
            return parse_job(body, limits=self._limits)
        except InvalidInput as wrong:
            refusals = _Refusals([wrong])
            if isinstance(body, dict):
                with refusals:
                    self._look_further(body, wrong)
            raise refusals.together() from None

    def _look_further(self, body: dict[str, Any], wrong: InvalidInput) -> None:
        """Look at what a wrong request says rightly: at all else where only names are wrong, else at its data.

        Raises:
            InvalidInput, NotFound, Conflict: something is wrong there too.
        """
        if isinstance(wrong, InvalidName) and body.get("kind") == "train":
            output = {name: value for name, value in body["output"].items() if name != "alias_on_success"}
            spec, given = parse_job({**body, "output": {**output, "model": "name"}}, limits=self._limits)
            assert isinstance(spec, TrainSpec)
            problems: list[Entry] = []
            self._plan_training(spec, given, found=problems)
            if problems:
                raise _refusal(problems, _DISAGREE)
        elif body.get("kind") in ("train", "evaluate") and "dataset" in body:
            try:
                source = read(_DATASET, body["dataset"])
            except ValidationError:
                return  # which was told
            self._dataset_of(source, at="/dataset")

    def examine(self, body: object, *, forbidden: Collection[Entry] = ()) -> dict[str, Any]:
        """What a job request would come to, without queueing it: its resolved spec, plan, memory, time and warnings.

        Mistakes that a submit refuses because data, net and objective do not agree are among the warnings, with the
        severity "error". Each warning has a patch that mends the request, or None.

        Args:
            body: the request.
            forbidden: what a submit by the same caller would be refused for; it is told as such mistakes are.

        Raises:
            InvalidInput, NotFound, Conflict: as for `submit`, where the request cannot be understood at all.
        """
        spec, given = self._parsed(body)
        assert isinstance(body, dict)
        match spec:
            case TrainSpec():
                return self._examine_training(spec, given, body, forbidden=forbidden)
            case ImportSpec():
                plan = self._plan_import(spec, given)
            case EvaluateSpec():
                plan = self._plan_evaluation(spec)
            case ExportSpec():
                plan = self._plan_export(spec)
        reason = f"Only trainings are measured; this is a job of the kind {spec.kind}."
        return _examination(
            plan,
            threads=self._resources.threads,
            estimate={"reason": reason},
            told=[
                *(_told(entry, "error", None) for entry in forbidden),
                *(_told(entry, "warning", None) for entry in plan.warnings),
            ],
        )

    def _examine_training(
        self, spec: TrainSpec, given: Given, body: dict[str, Any], *, forbidden: Collection[Entry]
    ) -> dict[str, Any]:
        problems: list[Entry] = []
        plan = self._plan_training(spec, given, found=problems)
        dataset, judgement = plan.dataset, plan.judgement
        assert dataset is not None
        assert dataset.manifest is not None
        assert judgement is not None
        assert judgement.summary is not None
        warnings = list(plan.warnings)
        batch = min(spec.batch_size or dataset.manifest.rows, dataset.manifest.rows)
        memory = doctor.memory(
            judgement.summary,
            sizes=judgement.sizes,
            batch=batch,
            optimizer=plan.resolved["optimizer"],
            data_bytes=dataset.manifest.size_bytes,
        )
        warnings += _too_much(memory, batch=batch, limit=self._resources.memory_bytes)
        estimate: dict[str, Any] = {"reason": "What does not agree must be mended before steps can be measured."}
        if not problems:
            task = {"kind": "train", "job": "", "attempt": 0, "spec": plan.resolved}
            task |= materials(plan.resolved, dataset.id, models=self.models, datasets=self.datasets)
            if plan.begins_with is not None:
                task["inherited"] = {"folder": str(plan.begins_with.folder)}
            estimate = self._rehearsals.run(task, threads=self._resources.threads)
            warnings += _measured_warnings(estimate, spec)
        told = [_told(entry, "error", None) for entry in forbidden]
        for severity, entries in (("error", problems), ("warning", warnings)):
            for entry in entries:
                patch = doctor.patch_for(entry, body)
                if patch is not None and not self._mends(body, patch, entry):
                    patch = None
                told.append(_told(entry, severity, patch))
        return _examination(
            plan, threads=self._resources.threads, estimate=estimate, told=told, memory=memory, spec=spec
        )

    def _mends(self, body: dict[str, Any], patch: doctor.Patch, entry: Entry) -> bool:
        """Whether the request is free of a mistake after a patch, and has no new one."""
        try:
            changed = doctor.patched(body, patch)
            if entry.code in _MEASURED:
                parse_job(changed, limits=self._limits)
                return True  # tried by the steps themselves
            spec, given = parse_job(changed, limits=self._limits)
            assert isinstance(spec, TrainSpec)
            problems: list[Entry] = []
            plan = self._plan_training(spec, given, found=problems)
        except (ServiceError, LookupError, TypeError, ValueError):
            return False
        return (entry.pointer, entry.code) not in {(one.pointer, one.code) for one in (*problems, *plan.warnings)}

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
        source = self.queue.get(job_id)
        output = source.output or {}
        if source.kind != "train" or source.state is not JobState.SUCCEEDED or "version" not in output:
            detail = f"This is a job of the kind {source.kind} that is {source.state.value}."
            hint = "Only a training that has made a version can be compared with another run."
            raise Conflict(f"There is nothing to replay. {detail}", hint=hint)
        assert source.dataset is not None
        try:
            manifest = self.models.version(output["model"], output["version"]).manifest
            dataset = self.datasets.get(source.dataset["id"])
        except NotFound as error:
            raise Conflict(f"It cannot be replayed: {error.message}") from None
        resolved = dict(source.resolved_spec)
        if resolved["budget"].get("max_seconds") is not None:
            resolved["budget"] = {**resolved["budget"], "max_seconds": None, "steps": manifest.lineage["steps"]}
        resolved["replay_of"] = {
            "job": job_id,
            "model": manifest.model,
            "version": manifest.version,
            "weights_digest": manifest.weights_digest,
        }
        begins_with = None
        if "job" in resolved.get("inherited", {}).get("from", {}):
            begins_with = next(iter(checkpoints.kept(beginning_of_job(self._root, job_id))), None)
            if begins_with is None:
                raise Conflict("It cannot be replayed: the checkpoint that it began with is gone.")
        plan = _Plan(resolved, dataset, None, (), begins_with=begins_with)
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

    def _plan_checkpoint(self, spec: ImportSpec) -> _Plan:
        assert spec.job is not None
        try:
            job = self.queue.get(spec.job)
        except NotFound as error:
            raise error.at("/job") from None
        found = checkpoints.kept(folder_of_job(self._root, spec.job) / "checkpoints") if job.kind == "train" else ()
        if job.kind != "train" or job.state is JobState.SUCCEEDED or not found:
            if job.kind != "train":
                detail, hint = f"A job of the kind {job.kind} keeps no checkpoint.", "Name a train job."
            elif job.state is JobState.SUCCEEDED:
                detail, hint = "The job has succeeded: its version is its `output`.", "Use that version."
            else:
                detail = f"The job is {job.state.value} and keeps no checkpoint yet."
                hint = "It keeps one every `checkpoint.every_s` seconds, and when it is paused or cancelled."
            raise Conflict(detail, errors=[Entry("/job", "conflict", detail, hint=hint)])
        assert job.dataset is not None
        best = found[0]
        resolved = {
            **{name: value for name, value in job.resolved_spec.items() if name not in ("resolved_model", "replay_of")},
            "kind": "import",
            "job": spec.job,
            "output": spec.output.model_dump(mode="json"),
            "checkpoint_of": {"job": spec.job, "step": best.step, "epoch": best.epoch, "state": job.state.value},
        }
        dataset = self.datasets.get(job.dataset["id"])
        return _Plan(resolved, dataset, {"model": spec.output.model}, (), checkpoint=best)

    def _plan_training(self, spec: TrainSpec, given: Given, *, found: list[Entry] | None = None) -> _Plan:
        """What a training comes to.

        Args:
            spec: the request.
            given: its architecture.
            found: gets what does not agree, instead of an error, and then nothing is kept.
        """
        refusals = _Refusals()
        with refusals:
            authored, judgement, lineage, odd = self._architecture_of(given)
            assert judgement.architecture is not None
            rows = architectures.state_rows(judgement.architecture)
            held = set(lineage.get("edited", {}).get("frozen", ()))
            at = "/architecture/edits"
            if spec.init is not None and spec.init.freeze and len(spec.init.freeze) * len(rows) <= MAX_MATCHES:
                held, at = held.union(edits.frozen(rows, spec.init.freeze)), "/init/freeze" if not held else at
            if held and all(key in held for key, row in rows.items() if row.kind == "parameter"):
                detail, hint = "Every parameter is frozen: nothing is left to train.", "Freeze fewer layers."
                raise _refusal([Entry(at, "nothing-to-train", detail, hint=hint)], detail)
            beginning = self._beginning(spec, rows, lineage)
            odd += _frozen_and_new(held, rows, lineage, beginning)
        with refusals:
            dataset = self._dataset_of(spec.dataset, at="/dataset")
        unable = [*_unmeasured(spec), *_no_device(spec, self._resources.devices), *_no_engine(spec.output)]
        if refusals:  # without a net or without data there is nothing to compare
            with refusals:
                if unable:
                    raise _refusal(unable, unable[0].detail)
            raise refusals.together()
        assert judgement.architecture is not None
        assert dataset.manifest is not None
        problems, warnings = agree(self.datasets.folder(dataset.id), dataset.manifest, spec, judgement)
        problems += unable
        kept: Mapping[str, Any]
        if found is not None:
            found += problems
            kept, digest = architectures.canonical_form(judgement.architecture), judgement.digest
        elif problems:
            raise _refusal(problems, _DISAGREE)
        else:
            record, _ = self._keep(authored, judgement)
            kept, digest = record.canonical, record.digest
        resolved = spec.model_dump(mode="json", by_alias=True, exclude={"architecture", "dataset", "priority"})
        resolved["shuffle"] = spec.shuffle if spec.shuffle is not None else spec.batch_size is not None
        resolved["architecture"] = kept
        resolved["architecture_digest"] = digest
        resolved["dataset"] = dataset.id
        resolved |= lineage
        warned = (*judgement.warnings, *odd, *warnings)
        begins_with = None
        if beginning is not None:
            resolved["inherited"] = beginning.inherited
            warned += beginning.warnings
            begins_with = beginning.checkpoint
        counted = edits.without_frozen(judgement, held)
        return _Plan(
            resolved, dataset, {"model": spec.output.model}, warned, judgement=counted, begins_with=begins_with
        )

    def _beginning(
        self, spec: TrainSpec, rows: Mapping[str, StateRow], lineage: Mapping[str, Any]
    ) -> _Beginning | None:
        """Where the first weights of a training come from, by `init.from`: resolved to what never changes."""
        asked = spec.init.from_ if spec.init is not None else None
        if asked is None:
            return None
        if "resolved_model" in lineage:
            detail = "The weights are taken over from the version that is edited."
            hint = "Leave `from` out, or edit a document: that has no weights."
            raise _refusal([Entry("/init/from", "conflict", detail, hint=hint)], "There are two sources of weights.")
        found: Resolved | None = None
        one: Kept | None = None
        if re.fullmatch(JOB_REFERENCE, asked.model) and asked.version is None:
            job, one = self._kept_by(asked.model)
            if one is None:
                output = job.output or {}
                found = self.models.resolve(Reference(output["model"], version=output["version"]))
        else:
            try:
                found = self.models.resolve(reference_of(asked.model, asked.version, at="/init/from"))
            except NotFound as error:
                raise error.at("/init/from") from None
        if found is not None:
            manifest = self.models.version(found.model, found.version).manifest
            document = self.models.document(found.model, found.version, "architecture.json")
            name = f"{found.model}/{found.version}"
            origin: dict[str, Any] = {
                "model": found.model,
                "version": found.version,
                "weights_digest": manifest.weights_digest,
            }
        else:
            assert one is not None
            document, name = job.resolved_spec["architecture"], job.id
            origin = {"job": job.id, "step": one.step, "epoch": one.epoch, "sha256": one.entry["sha256"]}
        source = require(architectures.parse(document), limits=self._limits).architecture
        assert source is not None
        weights = transfer.by_key(architectures.state_rows(source), rows)
        inherited = {"from": origin, "weights": weights.view()}
        return _Beginning(inherited, tuple(_taken_over(weights, rows, name)), one)

    def _kept_by(self, job_id: str) -> tuple[Job, Kept | None]:
        """A train job and its best checkpoint; None where it has made a version.

        Raises:
            NotFound, Conflict: there is no such job, or it has neither.
        """
        try:
            job = self.queue.get(job_id)
        except NotFound as error:
            raise error.at("/init/from") from None
        if job.state is JobState.SUCCEEDED and "version" in (job.output or {}):
            return job, None
        found = checkpoints.kept(folder_of_job(self._root, job_id) / "checkpoints") if job.kind == "train" else ()
        if not found:
            detail = f"The job, a {job.kind} job that is {job.state.value}, keeps no checkpoint."
            hint = "Name a version, or a train job: it keeps one every `checkpoint.every_s` seconds."
            raise Conflict(detail, errors=[Entry("/init/from", "conflict", detail, hint=hint)])
        return job, found[0]

    def _plan_import(self, spec: ImportSpec, given: Given) -> _Plan:
        if lacks := _no_engine(spec.output):
            raise _refusal(lacks, lacks[0].detail)
        if spec.job is not None:
            return self._plan_checkpoint(spec)
        if spec.output.condition is not None:
            at, detail = "/output/alias_on_success", "An import measures nothing, so there is nothing to compare."
            hint = "Give the alias alone, or set it after an evaluate job."
            raise _refusal([Entry(at, "unknown-metric", detail, hint=hint)], detail)
        if spec.model is not None:
            return self._plan_publishing(spec, spec.model)
        if spec.upload is not None:
            try:
                upload = self.uploads.get(spec.upload)
            except NotFound as error:
                raise error.at("/upload") from None
        if given is None:  # the file says it
            resolved = spec.model_dump(mode="json", by_alias=True, exclude={"architecture", "priority"})
            resolved |= {"architecture": None, "architecture_digest": None, "upload_digest": upload.digest}
            return _Plan(resolved, None, {"model": spec.output.model}, ())
        authored, judgement, lineage, odd = self._architecture_of(given)
        assert judgement.architecture is not None
        if spec.upload is not None and "resolved_model" in lineage:
            detail = "The weights are taken over from the version that is edited."
            hint = "Leave upload out, or send the edited document as the architecture."
            raise _refusal([Entry("/upload", "conflict", detail, hint=hint)], "There are two sources of weights.")
        if spec.state_dict is not None and "resolved_model" in lineage:
            detail = "The weights are taken over from the version that is edited."
            hint = "Leave state_dict out, or send the edited document as the architecture."
            raise _refusal([Entry("/state_dict", "conflict", detail, hint=hint)], "There are two sources of weights.")
        if spec.state_dict is not None:
            reference = build.build(judgement.architecture, device="meta").state_dict()
            checkpoint.state_dict_from_json(spec.state_dict, reference)
        record, _ = self._keep(authored, judgement)
        resolved = spec.model_dump(mode="json", by_alias=True, exclude={"architecture", "priority"})
        if spec.upload is not None:
            resolved["upload_digest"] = upload.digest
        resolved["architecture"] = record.canonical
        resolved["architecture_digest"] = record.digest
        resolved |= lineage
        return _Plan(resolved, None, {"model": spec.output.model}, (*judgement.warnings, *odd))

    def _plan_publishing(self, spec: ImportSpec, model: str) -> _Plan:
        """What publishing a version once more comes to."""
        try:
            found = self.models.resolve(parse_reference(model))
        except NotFound as error:
            raise error.at("/model") from None
        self._require_whole(found.model, found.version)
        manifest = self.models.version(found.model, found.version).manifest
        resolved = spec.model_dump(mode="json", by_alias=True, exclude={"priority"})
        resolved["architecture"] = self.models.document(found.model, found.version, "architecture.json")
        resolved["architecture_digest"] = manifest.architecture_digest
        resolved["resolved_model"] = {"model": found.model, "version": found.version}
        return _Plan(resolved, None, {"model": spec.output.model}, ())

    def _plan_evaluation(self, spec: EvaluateSpec) -> _Plan:
        refusals = _Refusals()
        with refusals:
            try:
                found = self.models.resolve(parse_reference(spec.model))
            except NotFound as error:
                raise error.at("/model") from None
        with refusals:
            dataset = self._dataset_of(spec.dataset, at="/dataset")
        if refusals:
            raise refusals.together()
        assert dataset.manifest is not None
        version = self.models.version(found.model, found.version)
        assert version.manifest is not None
        self._require_whole(found.model, found.version)  # a worker has not loaded it before
        fitted = Preprocessing.model_validate(self.models.document(found.model, found.version, "preprocessing.json"))
        problems = agree_with_version(
            self.datasets.folder(dataset.id),
            dataset.manifest,
            spec,
            signature=version.manifest.signature,
            preprocessing=fitted,
        )
        if problems:
            raise _refusal(problems, "The dataset, the model and the objective do not agree.")
        resolved = spec.model_dump(mode="json", exclude={"dataset", "priority"})
        resolved["resolved_model"] = {"model": found.model, "version": found.version}
        resolved["dataset"] = dataset.id
        return _Plan(resolved, dataset, None, ())

    def _plan_export(self, spec: ExportSpec) -> _Plan:
        missing = export.onnx_missing()
        if missing:
            detail = f"This server cannot write ONNX, for it lacks {' and '.join(missing)}."
            hint = "Install modelyard[onnx] where the server runs, or take the version's bundle."
            raise _refusal([Entry("/format", "not-installed", detail, hint=hint, got=spec.format)], detail)
        try:
            found = self.models.resolve(parse_reference(spec.model))
        except NotFound as error:
            raise error.at("/model") from None
        self._require_whole(found.model, found.version)
        fitted = Preprocessing.model_validate(self.models.document(found.model, found.version, "preprocessing.json"))
        warnings: tuple[Entry, ...] = ()
        if fitted.steps or getattr(fitted.target, "steps", ()):
            detail = "The version prepares its rows or its answers; the file will hold the net alone."
            hint = "Do what preprocessing.json says around it: rows.py of the version's bundle shows how."
            warnings = (Entry("/model", "preprocessing-left-out", detail, hint=hint),)
        resolved = spec.model_dump(mode="json", exclude={"priority"})
        resolved["resolved_model"] = {"model": found.model, "version": found.version}
        return _Plan(resolved, None, None, warnings)

    def _require_whole(self, name: str, number: int) -> None:
        """Read every byte of a version, which nobody may have done since it was published."""
        wrong = self.models.verify(name, number)
        if wrong:
            reason = "its files differ from its manifest: " + ", ".join(wrong)
            self.models.quarantine(name, number, reason)
            raise ModelQuarantined(f"Version {number} of {name!r} is quarantined: {reason}.")

    def _architecture_of(self, given: Given) -> tuple[Architecture, Judgement, dict[str, Any], tuple[Entry, ...]]:
        """A job's net, what its resolved spec says of the edits that made it, and what is odd about these."""
        if not isinstance(given, EditedArchitecture):
            return (*self._architecture(given), {}, ())
        edited, origin = self._edited(given, at="/architecture")
        authored, judgement = self._architecture(architectures.parse(edited.document))
        lineage: dict[str, Any] = {
            "edited": {
                "from": origin,
                "edits": [edit.model_dump(mode="json", exclude_defaults=True) for edit in given.edits],
                "weights": edited.weights.view(),
                "freeze": list(edited.freeze),
                "frozen": list(edited.frozen),
            }
        }
        if "model" in origin:
            lineage["resolved_model"] = origin
        return authored, judgement, lineage, edited.odd

    def _edited(self, request: EditedArchitecture, *, at: str) -> tuple[edits.Edited, dict[str, Any]]:
        """A net after its edits, and what was edited: a version, whose weights are meant too, or a document."""
        if isinstance(request.from_, FromVersion):
            try:
                named = reference_of(request.from_.model, request.from_.version, at=f"{at}/from")
                found = self.models.resolve(named)
            except NotFound as error:
                raise error.at(f"{at}/from/" + ("model" if request.from_.version is None else "version")) from None
            origin: dict[str, Any] = {"model": found.model, "version": found.version}
            document = architectures.parse(self.models.document(found.model, found.version, "architecture.json"))
        else:
            if isinstance(request.from_, FromCatalogue):
                given: dict[str, Any] | str = request.from_.model_dump()
                where = f"{at}/from"
            else:
                given, where = request.from_.architecture, f"{at}/from/architecture"
            parsed = given if isinstance(given, str) else architectures.parse(given, prefix=where)
            document, judged = self._architecture(parsed, at=where)
            origin = {"architecture": judged.digest}
        return edits.apply(document, request.edits, limits=self._limits, at=f"{at}/edits"), origin

    def _architecture(
        self, given: Architecture | str | None, *, at: str = "/architecture"
    ) -> tuple[Architecture, Judgement]:
        if isinstance(given, str):
            try:
                record = self.architectures.get(given)
            except NotFound:
                hint = catalogue.hint_for(given) or "Send the document, or POST it to /v1/architectures first."
                raise NotFound(
                    "There is no architecture with this digest.",
                    errors=[Entry(at, "not-found", "There is no architecture with this digest.", hint=hint)],
                ) from None
            given = architectures.parse(record.authored, prefix=at)
        assert given is not None
        return given, self._judged(given, prefix=at)

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
        kept = folder_of_job(self._root, job_id) / "checkpoints"
        trains = self.queue.get(job_id).kind == "train"  # an import's checkpoint is what it is about
        forget = partial(remove_tree, kept) if from_start and trains else None
        return self._changed(job_id, partial(self.queue.retry, max_queued=self._resources.max_queued, forget=forget))

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
        folder = folder_of_job(self._root, job_id) / "checkpoints"
        found = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []
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


@dataclass(frozen=True, slots=True)
class _Plan:
    resolved: dict[str, Any]
    dataset: DatasetRecord | None
    output: dict[str, Any] | None
    warnings: tuple[Entry, ...]
    checkpoint: Kept | None = None
    """Of another job, for this one to publish."""
    judgement: Judgement | None = None
    """Of the net that is trained."""
    begins_with: Kept | None = None
    """Of another job, whose weights the training begins with."""


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What a training begins with: for its resolved spec, and the checkpoint where it is one of another job."""

    inherited: dict[str, Any]
    warnings: tuple[Entry, ...]
    checkpoint: Kept | None


class _Refusals:
    """Goes on where something is refused, so that a client learns of all that is wrong at once."""

    def __init__(self, found: Collection[ServiceError] = ()) -> None:
        self._found = list(found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, (InvalidInput, NotFound, Conflict)):
            return False
        self._found.append(error)
        return True

    def together(self) -> ServiceError:
        """The only refusal as it is; several as one: of a wrong request, where anything but the state is wrong."""
        first = self._found[0]
        if len(self._found) == 1:
            return first
        errors: list[Entry] = []
        for one in self._found:
            alone = one.hint or "Try it alone: POST /v1/datasets says more of data."
            errors += one.errors or (Entry("", one.code, one.message, hint=alone),)
        wrong = any(isinstance(one, InvalidInput) for one in self._found)
        kind, message = (ValidationFailed, "The job request has mistakes.") if wrong else (type(first), first.message)
        return kind(message, errors=errors, more=sum(one.more for one in self._found))


def _taken_over(weights: WeightMap, rows: Mapping[str, StateRow], name: str) -> list[Entry]:
    """That little of a net begins with the weights that were asked for."""
    sizes = {key: math.prod(row.shape) for key, row in rows.items() if row.kind == "parameter"}
    kept = sum(sizes.get(each.to, 0) for each in weights.kept)
    share = kept / max(1, sum(sizes.values()))
    if share >= _LITTLE:
        return []
    others = ""
    if weights.reshaped:
        one = weights.reshaped[0]
        others = f" {one.key}, for one, is {list(one.from_shape)} there and {list(one.to_shape)} here."
    shapes = {
        "expected": listed([*[each.from_ for each in weights.kept], *weights.dropped]),
        "got": listed(weights.new),
    }
    hint = "Keys and shapes must be the same: take the net of that version by edits, or rename layers."
    if not kept:
        detail = (
            f"Nothing is taken over from {name}: none of its tensors has the key and the shape of one here.{others}"
        )
        return [Entry("/init/from", "nothing-kept", detail, hint=hint, **shapes)]
    detail = f"Only {share:.0%} of the parameters begin with the weights of {name}; the others are drawn.{others}"
    return [Entry("/init/from", "little-kept", detail, hint=hint)]


def _frozen_and_new(
    held: Collection[str], rows: Mapping[str, StateRow], lineage: Mapping[str, Any], beginning: _Beginning | None
) -> tuple[Entry, ...]:
    """That parameters are frozen which begin with no weights of the source."""
    if beginning is not None:
        weights = beginning.inherited["weights"]
    elif "resolved_model" in lineage:
        weights = lineage["edited"]["weights"]
    else:
        return ()
    drawn = (*weights["new"], *[each["key"] for each in weights["reshaped"] if each["policy"] == "reinit"])
    found = [key for key in drawn if key in held and rows[key].kind == "parameter"]
    if not found:
        return ()
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    detail = f"{found[0]}{more} will stay as drawn from the seed: frozen, and not among the weights taken over."
    return (Entry("/init/freeze", "frozen-new", detail, hint="Freeze only what brings its weights along."),)


_DATASET: Final[TypeAdapter[Any]] = TypeAdapter(DatasetId | Source)
_DISAGREE: Final = "The dataset, the architecture and the objective do not agree."
_LITTLE: Final = 0.5
"""Of a net's parameters: where fewer are taken over, it is said."""


def _left_behind(edited: edits.Edited, origin: Mapping[str, Any]) -> list[Entry]:
    """That the digest of an edited net names the net alone, where its edits were about more."""
    lost = ["weights"] if "model" in origin and (edited.weights.kept or edited.weights.reshaped) else []
    lost += ["freezes"] if edited.frozen else []
    if not lost:
        return []
    detail = f"The digest names the net alone: it carries no {' and no '.join(lost)}."
    hint = 'Send {"from": …, "edits": …} as the job\'s architecture, instead of the digest, to train with them.'
    return [Entry("", "net-alone", detail, hint=hint)]


def _safetensors(folder: Path, _: Manifest, __: int) -> export.Assembly:
    return export.safetensors(folder / "weights.pt")


def _bundle(folder: Path, manifest: Manifest, crc: int) -> export.Assembly:
    return bundle.assemble(folder, manifest, crc=crc)


def _source_digest(source: Any) -> str:
    """Equal sources have equal digests; inline rows may be megabytes, so this is not the (slow) canonical form."""
    return digest(orjson.dumps(source.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS))


_MEASURED: Final = frozenset({"learning-rate-high", "learning-rate-low", "memory-limit"})
"""Warnings that come from numbers and not from comparing documents."""


def _told(entry: Entry, severity: str, patch: doctor.Patch | None) -> dict[str, Any]:
    return {**entry.to_dict(), "severity": severity, "patch": patch}


def _too_much(memory: Mapping[str, int], *, batch: int, limit: int) -> list[Entry]:
    """That a training will hardly fit into the memory of a worker, and the batch that would."""
    total = memory["total"]
    if total <= limit:
        return []
    rest = limit - (total - memory["activations"])
    fitting = int(rest * batch / memory["activations"]) if memory["activations"] else 0
    detail = f"The job needs about {total // 2**20} MiB, and a worker may take {limit // 2**20} MiB."
    if fitting < 1:
        hint = "Use a smaller net, or allow more by MODELYARD_JOB_MEMORY_BYTES."
        return [Entry("/architecture", "memory-limit", detail, hint=hint)]
    hint = f"Use a batch_size of {fitting} or less."
    return [Entry("/batch_size", "memory-limit", detail, hint=hint, expected=str(fitting), got=str(batch))]


def _measured_warnings(found: Mapping[str, Any], spec: TrainSpec) -> list[Entry]:
    """What the first steps showed that is wrong."""
    rate = spec.optimizer.lr
    if found.get("upwards"):
        losses = found["losses"]
        detail = f"With the learning rate {rate:g} the loss grows in the first {found['steps']} steps"
        detail += f", from {losses[0]:.4g} to {losses[-1]:.4g}." if len(losses) == 2 else " until it is not finite."
        lower = found.get("suggested_lr")
        hint = "Scale the inputs, or set clip_grad_norm; no lower learning rate helped."
        expected = None
        if lower is not None:
            expected, hint = f"{lower:.6g}", f"With {lower:g} it goes down."
        return [Entry("/optimizer/lr", "learning-rate-high", detail, hint=hint, expected=expected, got=f"{rate:g}")]
    failure = found.get("failure")
    if failure is None:
        return []
    detail = f"The first steps failed: {failure['detail']}"
    return [Entry(failure.get("pointer") or "", failure["code"], detail, hint=failure.get("hint"))]


def _examination(
    plan: _Plan,
    *,
    threads: int,
    estimate: Mapping[str, Any],
    told: list[dict[str, Any]],
    memory: Mapping[str, int] | None = None,
    spec: TrainSpec | None = None,
) -> dict[str, Any]:
    """The answer to a dry run."""
    steps = epochs = seconds = None
    per_epoch = estimate.get("steps_per_epoch")
    if spec is not None and per_epoch:
        limits = [spec.budget.steps, None if spec.budget.epochs is None else spec.budget.epochs * per_epoch]
        steps = min((limit for limit in limits if limit is not None), default=None)
        epochs = None if steps is None else -(-steps // per_epoch)
        bounds = [None if steps is None else steps * estimate["step_s"], spec.budget.max_seconds]
        seconds = min((bound for bound in bounds if bound is not None), default=None)
        if "failure" in estimate:
            seconds = None
    summary = plan.judgement.summary if plan.judgement is not None and plan.judgement.summary is not None else {}
    reason = estimate.get("reason")
    if seconds is None and reason is None:
        reason = "The first steps failed; see the warnings."
    return {
        "valid": not any(entry["severity"] == "error" for entry in told),
        "resolved_spec": {"threads": threads, **plan.resolved},
        "plan": {
            "dataset": None if plan.dataset is None else {"id": plan.dataset.id, "digest": plan.dataset.digest},
            "rows": estimate.get("rows"),
            "steps_per_epoch": per_epoch,
            "steps": steps,
            "epochs": epochs,
            "parameters": summary.get("parameters"),
            "trainable_parameters": summary.get("trainable_parameters"),
            "threads": threads,
        },
        "memory_bytes": None if memory is None else memory["total"],
        "memory": None if memory is None else dict(memory),
        "estimate_s": seconds,
        "estimate": {
            "step_s": estimate.get("step_s"),
            "measured_steps": estimate.get("steps"),
            "losses": estimate.get("losses"),
            "reason": reason,
        },
        "warnings": told,
    }


def _no_device(spec: TrainSpec, devices: tuple[str, ...]) -> list[Entry]:
    if spec.device == "cpu" or spec.device in devices or (spec.device == "cuda" and devices):
        return []
    detail = f"This server has no {spec.device} for jobs."
    hint = "Leave `device` out; an operator names devices by MODELYARD_JOB_DEVICES."
    return [Entry("/device", "no-device", detail, hint=hint, expected=", ".join(("cpu", *devices)), got=spec.device)]


def _no_engine(output: Output) -> list[Entry]:
    """What the engine that shall serve a job's version needs and this server does not have."""
    engine = output.engine
    lacks = engines.lacking(engine)
    if engine is None or not lacks:
        return []
    detail = f"This server cannot build for {engine.type}, for it lacks {' and '.join(lacks)}."
    package = "modelyard[onnx]" if engine.type == "onnxruntime" else " and ".join(lacks)
    hint = f"Install {package} where the server runs, or leave `engine` out."
    return [Entry("/output/engine/type", "not-installed", detail, hint=hint, got=engine.type)]


def _unmeasured(spec: TrainSpec) -> list[Entry]:
    """A condition on something that the job will not measure can never hold."""
    condition = spec.output.condition
    if condition is None:
        return []
    measured = ["loss", *(spec.metrics if spec.metrics is not None else default_metrics(spec.objective))]
    held_out = ["val_"] if spec.split is not None and spec.split.validation else []
    held_out += ["test_"] if spec.split is not None and spec.split.test else []
    known = [f"{part}{name}" for part in ("", *held_out) for name in dict.fromkeys(measured)]
    if any(condition.metric == name or condition.metric.startswith(f"{name}_") for name in known):
        return []
    at = f"/output/alias_on_success/{spec.output.alias}"
    detail = f"The job will not measure {condition.metric}, so this could never hold."
    hint = nearest_hint(condition.metric, known) or "Name it in `metrics`; val_ and test_ need rows that are held out."
    return [Entry(at, "unknown-metric", detail, hint=hint, expected=", ".join(known)[:200], got=condition.metric)]


def _refusal(problems: list[Entry], sentence: str) -> InvalidInput:
    kind = ShapeMismatch if problems[0].code == "shape-mismatch" else ValidationFailed
    return kind(sentence, errors=problems)


def _reading(record: ArchitectureRecord, view: Reading) -> Any:
    """A kept document in another form."""
    match view:
        case "authored":
            return record.authored
        case "canonical":
            return record.canonical
        case "summary":
            return record.summary
        case "table":
            return table(record.summary)
        case "python":
            return python_source(architectures.parse(record.canonical))
        case "mermaid":
            return mermaid(architectures.parse(record.canonical), record.summary)
        case _:
            assert_never(view)


def _verdict(
    found: str | None,
    errors: tuple[Entry, ...],
    warnings: tuple[Entry, ...],
    summary: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "valid": not errors,
        "digest": found if not errors else None,
        "errors": [entry.to_dict() for entry in errors],
        "warnings": [entry.to_dict() for entry in warnings],
        "summary": dict(summary) if summary is not None and not errors else None,
    }
