"""What a job request would come to: whether its parts exist and agree, what is resolved, what it would cost.

Nothing is queued here. A submit and a dry run go the same way, so that both say the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, assert_never

from pydantic import TypeAdapter, ValidationError

from service.controlplane.documents import Documents
from service.controlplane.intake import Intake
from service.engine import build, checkpoint, checkpoints, engines, export, transfer
from service.engine.agreement import agree, agree_with_version, sizes
from service.engine.checkpoints import Kept
from service.engine.evaluate import default_metrics
from service.errors import (
    Conflict,
    Entry,
    InvalidInput,
    InvalidName,
    ModelQuarantined,
    NotFound,
    ServiceError,
    ShapeMismatch,
    ValidationFailed,
    listed,
)
from service.jobs.queue import Job, JobQueue
from service.jobs.supervisor import beginning_of_job, folder_of_job
from service.schemas import architecture as architectures
from service.schemas import edits
from service.schemas.architecture import Architecture, StateRow
from service.schemas.catalogue import Unsized
from service.schemas.datasets import DatasetId, Source
from service.schemas.document import nearest_hint, read
from service.schemas.edits import WeightMap
from service.schemas.initial import MAX_MATCHES
from service.schemas.jobs import (
    FINAL,
    EvaluateSpec,
    ExportSpec,
    Given,
    ImportSpec,
    JobSpec,
    JobState,
    Net,
    Output,
    TrainSpec,
    parse_job,
)
from service.schemas.judgement import Judgement, Limits, require
from service.schemas.preprocessing import Preprocessing
from service.schemas.training import TrainingConfig
from service.schemas.versions import JOB_REFERENCE, Reference, parse_reference, reference_of
from service.store.datasets import DatasetRecord
from service.store.models import ModelStore, Resolved
from service.store.uploads import UploadStore

_DISAGREE: Final = "The dataset, the architecture and the objective do not agree."
_LITTLE: Final = 0.5
"""Of a net's parameters: where fewer are taken over, it is said."""


_DATASET: Final[TypeAdapter[Any]] = TypeAdapter(DatasetId | Source)


@dataclass(frozen=True, slots=True)
class Resources:
    """What one job may take, as the supervisor was told too, and what the disk must keep free for one to be queued."""

    threads: int
    memory_bytes: int
    max_queued: int
    reserve_bytes: int | None = None
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job request comes to."""

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

    def add(self, others: _Refusals) -> None:
        """Tell others behind these."""
        self._found += others._found

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


class Planner:
    """Plans jobs.

    Args:
        root: of the store.
    """

    def __init__(
        self,
        root: Path,
        *,
        queue: JobQueue,
        models: ModelStore,
        uploads: UploadStore,
        documents: Documents,
        intake: Intake,
        resources: Resources,
        limits: Limits,
    ) -> None:
        self._root = root
        self._queue = queue
        self._models = models
        self._uploads = uploads
        self._documents = documents
        self._intake = intake
        self._datasets = intake.datasets
        self._resources = resources
        self._limits = limits

    def plan(self, body: object) -> tuple[JobSpec, Plan]:
        """What a job request comes to, with the nets and datasets that it brings kept.

        Raises:
            InvalidInput: with every mistake that could be found.
            NotFound, Conflict: what the request names does not exist, or is not ready.
        """
        spec, given = self.parsed(body)
        match spec:
            case TrainSpec():
                return spec, self.training(spec, given)
            case _:
                return spec, self.other(spec, given)

    def other(self, spec: ImportSpec | EvaluateSpec | ExportSpec, given: Given) -> Plan:
        """What a job that trains nothing comes to."""
        assert not isinstance(given, Unsized)  # which only trainings have
        match spec:
            case ImportSpec():
                return self._plan_import(spec, given)
            case EvaluateSpec():
                return self._plan_evaluation(spec)
            case ExportSpec():
                return self._plan_export(spec)
            case _:
                assert_never(spec)

    def parsed(self, body: object) -> tuple[JobSpec, Given]:
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
            self.training(spec, given, found=problems)
            if problems:
                raise _refusal(problems, _DISAGREE)
        elif body.get("kind") in ("train", "evaluate") and "dataset" in body:
            try:
                source = read(_DATASET, body["dataset"])
            except ValidationError:
                return  # which was told
            self._intake.of_job(source, at="/dataset")

    def training(self, spec: TrainSpec, given: Given, *, found: list[Entry] | None = None) -> Plan:
        """What a training comes to.

        Args:
            spec: the request.
            given: its architecture.
            found: gets what does not agree, instead of an error, and then nothing is kept.
        """
        refusals, of_data = _Refusals(), _Refusals()
        dataset = None
        with of_data:
            dataset = self._intake.of_job(spec.dataset, at="/dataset")
        with refusals:
            net = self._sized(given, spec, dataset) if isinstance(given, Unsized) else given
            authored, judgement, lineage, odd = self._documents.of_job(net)
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
        refusals.add(of_data)
        unable = [*_unmeasured(spec.output, spec), *_no_device(spec, self._resources.devices), *_no_engine(spec.output)]
        if refusals:  # without a net or without data there is nothing to compare
            with refusals:
                if unable:
                    raise _refusal(unable, unable[0].detail)
            raise refusals.together()
        assert judgement.architecture is not None
        assert dataset is not None
        assert dataset.manifest is not None
        problems, warnings = agree(self._datasets.folder(dataset.id), dataset.manifest, spec, judgement)
        problems += unable
        kept: Mapping[str, Any]
        if found is not None:
            found += problems
            kept, digest = architectures.canonical_form(judgement.architecture), judgement.digest
        elif problems:
            raise _refusal(problems, _DISAGREE)
        else:
            record, _ = self._documents.keep(authored, judgement)
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
        return Plan(resolved, dataset, {"model": spec.output.model}, warned, judgement=counted, begins_with=begins_with)

    def _sized(self, given: Unsized, spec: TrainSpec, dataset: DatasetRecord | None) -> Architecture:
        """A net of the catalogue with the sizes that its request left to the data; the usual ones without data."""
        told: dict[str, int] = {}
        if dataset is not None:
            assert dataset.manifest is not None
            told = sizes(self._datasets.folder(dataset.id), dataset.manifest, spec)
        wanted = given.sized({name: told[name] for name in given.left if name in told})
        return architectures.parse(wanted, prefix="/architecture")

    def replay(self, job_id: str) -> tuple[Job, Plan]:
        """A training that has ended, and what running it again as it was resolved comes to.

        Raises:
            Conflict: the job is no training that made a version, or that version or its dataset is gone.
        """
        source = self._queue.get(job_id)
        output = source.output or {}
        if source.kind != "train" or source.state is not JobState.SUCCEEDED or "version" not in output:
            detail = f"This is a job of the kind {source.kind} that is {source.state.value}."
            hint = "Only a training that has made a version can be compared with another run."
            raise Conflict(f"There is nothing to replay. {detail}", hint=hint)
        assert source.dataset is not None
        try:
            manifest = self._models.version(output["model"], output["version"]).manifest
            dataset = self._datasets.get(source.dataset["id"])
        except NotFound as error:
            raise Conflict(f"It cannot be replayed: {error.message}") from None
        resolved = dict(source.resolved_spec)
        resolved["replay_of"] = {
            "job": job_id,
            "model": manifest.model,
            "version": manifest.version,
            "weights_digest": manifest.weights_digest,
        }
        if resolved["budget"].get("max_seconds") is not None:  # the clock would end it elsewhere
            planned = (source.progress or {}).get("planned_steps")
            resolved["replay_of"]["length"] = {"steps": manifest.lineage["steps"], "planned_steps": planned}
        begins_with = None
        if "job" in resolved.get("inherited", {}).get("from", {}):
            begins_with = next(iter(checkpoints.kept(beginning_of_job(self._root, job_id))), None)
            if begins_with is None:
                raise Conflict("It cannot be replayed: the checkpoint that it began with is gone.")
        return source, Plan(resolved, dataset, None, (), begins_with=begins_with)

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
                found = self._models.resolve(Reference(output["model"], version=output["version"]))
        else:
            try:
                found = self._models.resolve(reference_of(asked.model, asked.version, at="/init/from"))
            except NotFound as error:
                raise error.at("/init/from") from None
        if found is not None:
            manifest = self._models.version(found.model, found.version).manifest
            document = self._models.document(found.model, found.version, "architecture.json")
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
            job = self._queue.get(job_id)
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

    def _plan_import(self, spec: ImportSpec, given: Net) -> Plan:
        refusals = _Refusals()
        with refusals:
            if lacks := _no_engine(spec.output):
                raise _refusal(lacks, lacks[0].detail)
        with refusals:
            if spec.output.condition is not None and spec.job is None:
                at, detail = "/output/alias_on_success", "An import measures nothing, so there is nothing to compare."
                hint = "Give the alias alone, or set it after an evaluate job."
                raise _refusal([Entry(at, "unknown-metric", detail, hint=hint)], detail)
        if spec.job is not None or spec.model is not None:
            with refusals:
                plan = self._plan_checkpoint(spec) if spec.job is not None else self._plan_publishing(spec)
            if refusals:
                raise refusals.together()
            return plan
        with refusals:
            if spec.upload is not None:
                try:
                    upload = self._uploads.get(spec.upload)
                except NotFound as error:
                    raise error.at("/upload") from None
        if given is not None:
            with refusals:
                authored, judgement, lineage, odd = self._documents.of_job(given)
                assert judgement.architecture is not None
                second = next((name for name in ("upload", "state_dict") if getattr(spec, name) is not None), None)
                if second is not None and "resolved_model" in lineage:
                    detail = "The weights are taken over from the version that is edited."
                    hint = f"Leave {second} out, or send the edited document as the architecture."
                    entry = Entry(f"/{second}", "conflict", detail, hint=hint)
                    raise _refusal([entry], "There are two sources of weights.")
                if spec.state_dict is not None:
                    reference = build.build(judgement.architecture, device="meta").state_dict()
                    checkpoint.state_dict_from_json(spec.state_dict, reference)
        if refusals:
            raise refusals.together()
        if given is None:  # the file says it
            resolved = spec.model_dump(mode="json", by_alias=True, exclude={"architecture", "priority"})
            resolved |= {"architecture": None, "architecture_digest": None, "upload_digest": upload.digest}
            return Plan(resolved, None, {"model": spec.output.model}, ())
        record, _ = self._documents.keep(authored, judgement)
        resolved = spec.model_dump(mode="json", by_alias=True, exclude={"architecture", "priority"})
        if spec.upload is not None:
            resolved["upload_digest"] = upload.digest
        resolved["architecture"] = record.canonical
        resolved["architecture_digest"] = record.digest
        resolved |= lineage
        return Plan(resolved, None, {"model": spec.output.model}, (*judgement.warnings, *odd))

    def _plan_checkpoint(self, spec: ImportSpec) -> Plan:
        assert spec.job is not None
        try:
            job = self._queue.get(spec.job)
        except NotFound as error:
            raise error.at("/job") from None
        found = checkpoints.kept(folder_of_job(self._root, spec.job) / "checkpoints") if job.kind == "train" else ()
        if job.kind != "train" or job.state is JobState.SUCCEEDED or not found:
            if job.kind != "train":
                detail, hint = f"A job of the kind {job.kind} keeps no checkpoint.", "Name a train job."
            elif job.state is JobState.SUCCEEDED:
                detail, hint = "The job has succeeded: its version is its `output`.", "Use that version."
            else:
                yet = "" if job.state in FINAL else " yet"
                detail = f"The job is {job.state.value} and keeps no checkpoint{yet}."
                hint = "It keeps one every `checkpoint.every_s` seconds, and when it is paused or cancelled."
            raise Conflict(detail, errors=[Entry("/job", "conflict", detail, hint=hint)])
        assert job.dataset is not None
        refusals = _Refusals()
        with refusals:
            config = {
                name: job.resolved_spec[name] for name in TrainingConfig.model_fields if name in job.resolved_spec
            }
            if unmeasured := _unmeasured(spec.output, TrainingConfig.model_validate(config)):
                raise _refusal(unmeasured, unmeasured[0].detail)
        with refusals:
            try:
                dataset = self._datasets.get(job.dataset["id"])
            except NotFound as error:
                detail = f"It cannot be measured: {error.message}"
                raise Conflict(detail, errors=[Entry("/job", "conflict", detail)]) from None
        if refusals:
            raise refusals.together()
        best = found[0]
        resolved = {
            **{name: value for name, value in job.resolved_spec.items() if name not in ("resolved_model", "replay_of")},
            "kind": "import",
            "job": spec.job,
            "output": spec.output.model_dump(mode="json"),
            "checkpoint_of": {"job": spec.job, "step": best.step, "epoch": best.epoch, "state": job.state.value},
        }
        return Plan(resolved, dataset, {"model": spec.output.model}, (), checkpoint=best)

    def _plan_publishing(self, spec: ImportSpec) -> Plan:
        """What publishing a version once more comes to."""
        assert spec.model is not None
        try:
            found = self._models.resolve(parse_reference(spec.model))
        except NotFound as error:
            raise error.at("/model") from None
        require_whole(self._models, found.model, found.version)
        manifest = self._models.version(found.model, found.version).manifest
        resolved = spec.model_dump(mode="json", by_alias=True, exclude={"priority"})
        resolved["architecture"] = self._models.document(found.model, found.version, "architecture.json")
        resolved["architecture_digest"] = manifest.architecture_digest
        resolved["resolved_model"] = {"model": found.model, "version": found.version}
        return Plan(resolved, None, {"model": spec.output.model}, ())

    def _plan_evaluation(self, spec: EvaluateSpec) -> Plan:
        refusals = _Refusals()
        with refusals:
            try:
                found = self._models.resolve(parse_reference(spec.model))
            except NotFound as error:
                raise error.at("/model") from None
        with refusals:
            dataset = self._intake.of_job(spec.dataset, at="/dataset")
        if refusals:
            raise refusals.together()
        assert dataset.manifest is not None
        version = self._models.version(found.model, found.version)
        assert version.manifest is not None
        require_whole(self._models, found.model, found.version)  # a worker has not loaded it before
        fitted = Preprocessing.model_validate(self._models.document(found.model, found.version, "preprocessing.json"))
        problems = agree_with_version(
            self._datasets.folder(dataset.id),
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
        return Plan(resolved, dataset, None, ())

    def _plan_export(self, spec: ExportSpec) -> Plan:
        missing = export.onnx_missing()
        if missing:
            detail = f"This server cannot write ONNX, for it lacks {' and '.join(missing)}."
            hint = "Install modelyard[onnx] where the server runs, or take the version's bundle."
            raise _refusal([Entry("/format", "not-installed", detail, hint=hint, got=spec.format)], detail)
        try:
            found = self._models.resolve(parse_reference(spec.model))
        except NotFound as error:
            raise error.at("/model") from None
        require_whole(self._models, found.model, found.version)
        fitted = Preprocessing.model_validate(self._models.document(found.model, found.version, "preprocessing.json"))
        warnings: tuple[Entry, ...] = ()
        if fitted.steps or getattr(fitted.target, "steps", ()):
            detail = "The version prepares its rows or its answers; the file will hold the net alone."
            hint = "Do what preprocessing.json says around it: rows.py of the version's bundle shows how."
            warnings = (Entry("/model", "preprocessing-left-out", detail, hint=hint),)
        resolved = spec.model_dump(mode="json", exclude={"priority"})
        resolved["resolved_model"] = {"model": found.model, "version": found.version}
        return Plan(resolved, None, None, warnings)


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


def _unmeasured(output: Output, config: TrainingConfig) -> list[Entry]:
    """A condition on something that the job will not measure can never hold."""
    condition = output.condition
    if condition is None:
        return []
    measured = ["loss", *(config.metrics if config.metrics is not None else default_metrics(config.objective))]
    held_out = ["val_"] if config.split is not None and config.split.validation else []
    held_out += ["test_"] if config.split is not None and config.split.test else []
    known = [f"{part}{name}" for part in ("", *held_out) for name in dict.fromkeys(measured)]
    if any(condition.metric == name or condition.metric.startswith(f"{name}_") for name in known):
        return []
    at = f"/output/alias_on_success/{output.alias}"
    detail = f"The job will not measure {condition.metric}, so this could never hold."
    hint = nearest_hint(condition.metric, known) or "Name it in `metrics`; val_ and test_ need rows that are held out."
    return [Entry(at, "unknown-metric", detail, hint=hint, expected=", ".join(known)[:200], got=condition.metric)]


def _refusal(problems: list[Entry], sentence: str) -> InvalidInput:
    kind = ShapeMismatch if problems[0].code == "shape-mismatch" else ValidationFailed
    return kind(sentence, errors=problems)


def require_whole(models: ModelStore, name: str, number: int) -> None:
    """Read every byte of a version, which nobody may have done since it was published.

    Raises:
        ModelQuarantined: its files are not the ones that were published; it is in quarantine now.
    """
    wrong = models.verify(name, number)
    if wrong:
        reason = "its files differ from its manifest: " + ", ".join(wrong)
        models.quarantine(name, number, reason)
        raise ModelQuarantined(f"Version {number} of {name!r} is quarantined: {reason}.")
