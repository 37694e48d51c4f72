"""The child's life: read the task, do it, leave a result or an error as the very last file.

A worker writes events as lines into a file and weights into a staged folder. It never opens the database, never moves
anything into its final place, and ends at once when it is told to by SIGTERM, with its checkpoint kept: whether that
was a cancel or a shutdown is the supervisor's business. It is forked from the warm fork server; nobody imports it but
that.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from service import __version__
from service.engine import build, bundle, cage, checkpoint, data, export, foreign, predictor, transfer
from service.engine import examples as examples_of
from service.engine import preprocessing as fitting
from service.engine.evaluate import evaluate
from service.engine.predictor import Predictor, Rows
from service.engine.preprocessing import Preprocessor
from service.engine.train import Best, CheckpointDue, EpochEnd, Finished, Report, StopFlag, Trainer
from service.errors import (
    CheckpointRefused,
    InvalidInput,
    JobFailed,
    ServiceError,
    ShapeMismatch,
    StoreFull,
)
from service.schemas import architecture as architectures
from service.schemas.architecture import Architecture
from service.schemas.datasets import DatasetManifest, Source
from service.schemas.document import canonical, digest, utc_now
from service.schemas.edits import WeightMap
from service.schemas.jobs import EvaluateSpec, ImportSpec
from service.schemas.judgement import require
from service.schemas.preprocessing import NONE, ClassTarget, Preprocessing, TableRow
from service.schemas.training import TrainingConfig
from service.schemas.versions import Signature, TensorSpec, VersionDraft, VersionFile
from service.store.files import fsync_file, fsync_folder, make_folder, sha256_file, write_atomic

GOLDEN_ROWS: Final = 4
_KEPT_CHECKPOINTS: Final = 2
_POINTS_BEFORE_THINNING: Final = 100_000
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY: Final = re.compile(r"not enough memory|can(?:no|')t allocate memory|bad_alloc", re.IGNORECASE)


def warm() -> None:
    """Touch what the first job would otherwise pay for. Runs in the fork server: no backward pass, no thread."""
    from pydantic import TypeAdapter

    TypeAdapter(Source)
    document = architectures.parse(
        {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", 1]}],
            "root": {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 1, "out_features": 1}]},
        }
    )
    judged = require(document)
    assert judged.architecture is not None
    with torch.no_grad():
        build.build(judged.architecture)(torch.zeros(1, 1))


def main(folder: Path, *, threads: int) -> int:
    """Do the task in `folder`; the exit status is 0 when a result or an error was left."""
    stop = StopFlag()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the fork server had it wait until now
    last_words = _LastWords(folder / "error.json")
    try:
        torch.set_num_threads(threads)
        task = json.loads((folder / "task.json").read_bytes())
        result = _do(task, folder, stop, threads)
        write_atomic(folder / "result.json", json.dumps(result).encode())
        last_words.forget()
    except BaseException as error:
        failure = _failure(error)
        last_words.say(failure)
        _log(f"Failed ({failure['code']}): {failure['detail']}")
        if not isinstance(error, (JobFailed, InvalidInput)):  # those say themselves what is wrong
            with contextlib.suppress(OSError):  # the disk of the log may be full
                traceback.print_exc()
    return 0


def _log(sentence: str) -> None:
    """A line for the job's log: the output of this process, which people read and no program."""
    with contextlib.suppress(OSError):  # a full disk must not end a job for what it has to say
        sys.stdout.write(f"{utc_now()} {sentence}\n")
        sys.stdout.flush()


class _LastWords:
    """The error file. Its place on the disk is taken at the start, so that a full disk can still be told of."""

    _SIZE: Final = 64 * 1024

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserved = path.with_name(".last-words")
        self._stream = self._reserved.open("wb", buffering=0)
        with contextlib.suppress(OSError):  # if there is not even room for this, the words may be lost
            os.posix_fallocate(self._stream.fileno(), 0, self._SIZE)

    def say(self, failure: Mapping[str, Any]) -> None:
        """Leave the error, whole or not at all."""
        words = json.dumps(failure).encode()
        self._stream.write(words)
        self._stream.truncate(len(words))
        os.fsync(self._stream.fileno())
        self._reserved.replace(self._path)
        fsync_folder(self._path.parent)

    def forget(self) -> None:
        """There is nothing to say."""
        self._stream.close()
        self._reserved.unlink()


def _do(task: dict[str, Any], folder: Path, stop: StopFlag, threads: int) -> dict[str, Any]:
    match task["kind"]:
        case "dataset":
            return _read_dataset(task, folder)
        case "train":
            return _Training(task, folder, stop, threads).run()
        case "import":
            if "upload" not in task:
                return _import(task, folder, threads)
            whole = bundle.recognises(Path(task["upload"]))
            return _import_bundle(task, folder, threads) if whole else _import_file(task, folder, threads)
        case "evaluate":
            return _evaluate(task, threads)
        case "export":
            return _export(task, folder, threads)
        case kind:
            raise ValueError(f"no worker knows the kind {kind!r}")


def _failure(error: BaseException) -> dict[str, Any]:
    """An exception as a job's error, with a code from the closed list."""
    if isinstance(error, JobFailed):
        return error.to_dict()
    text = str(error)
    if isinstance(error, CheckpointRefused):
        return JobFailed(
            error.failure, error.message, hint=error.hint, reason=error.reason, errors=error.errors
        ).to_dict()
    if isinstance(error, InvalidInput):
        return JobFailed("data_error", error.message, errors=error.errors).to_dict()
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return JobFailed(
            "out_of_memory",
            "The job needs more memory than a worker may take.",
            hint="Use a smaller batch_size or net, or allow more by MODELYARD_JOB_MEMORY_BYTES.",
        ).to_dict()
    if isinstance(error, StoreFull) or (isinstance(error, OSError) and error.errno in _NO_SPACE):
        return JobFailed("disk_full", "The disk of the store is full.").to_dict()
    if isinstance(error, ServiceError):
        return JobFailed("internal", error.message, errors=error.errors).to_dict()
    return JobFailed(
        "internal", f"The worker met a fault ({type(error).__name__}); its output has the details."
    ).to_dict()


# -- datasets -------------------------------------------------------------------------------------------------------


def _read_dataset(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    from pydantic import TypeAdapter

    staged = folder / "staged"
    make_folder(staged)
    source: Any = TypeAdapter(Source).validate_python(task["source"])
    manifest = data.materialize(source, staged, upload=Path(task["upload"]), at=task["at"])
    return {"outcome": "done", "manifest": manifest.model_dump(mode="json")}


# -- training -------------------------------------------------------------------------------------------------------


class _Events:
    """The lines that the supervisor moves into the database."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("ab", buffering=0)

    def emit(self, kind: str, content: Mapping[str, Any]) -> None:
        """Append one event. It is one write where the disk takes it whole; a reader waits for the end of the line."""
        line = json.dumps({"type": kind, "at": utc_now(), "data": content}, allow_nan=False)
        rest = memoryview(line.encode() + b"\n")
        while rest:
            rest = rest[self._stream.write(rest) :]


class _Training:
    """One attempt at a training job."""

    def __init__(self, task: dict[str, Any], folder: Path, stop: StopFlag, threads: int) -> None:
        self._task = task
        self._folder = folder
        self._stop = stop
        self._threads = threads
        self._checkpoints = Path(task["checkpoints"])
        self._events = _Events(folder / "events.jsonl")
        spec = task["spec"]
        self._config = TrainingConfig.model_validate({key: spec[key] for key in TrainingConfig.model_fields})
        self._seed: int = spec["seed"]
        self._architecture, self._outputs = _judged(spec["architecture"])
        self._points = 0
        self._stride = 1
        self._first_step_at: str | None = None

    def run(self) -> dict[str, Any]:
        """Train, and stage a version unless told to stop."""
        config = self._config
        dataset = self._task["dataset"]
        examples = examples_of.open_dataset(
            Path(dataset["folder"]), DatasetManifest.model_validate(dataset["manifest"])
        )
        rows = examples_of.split_rows(config.split, examples)
        classes = None
        width = self._outputs[0].shape[-1]
        manifest = examples.manifest
        if config.objective.type == "cross_entropy":
            _, classes = examples_of.class_indices(examples, width=width if isinstance(width, int) else None)
        elif config.objective.type == "bce_with_logits" and manifest.target == "class":
            _, classes = examples_of.class_indices(examples)
        fitted, warnings = fitting.fit(
            config.preprocessing, examples, rows["train"], objective=config.objective, classes=classes
        )
        for warning in warnings:
            self._events.emit("warning", warning.to_dict())
        preprocessor = Preprocessor(fitted)
        dtype = getattr(torch, self._architecture.inputs[0].dtype)

        def part(name: str) -> tuple[tuple[Tensor, ...], Tensor]:
            inputs = preprocessor.example_inputs(examples, rows[name], dtype=dtype)
            targets = preprocessor.targets(
                examples, rows[name], objective=config.objective, width=width if isinstance(width, int) else None
            )
            return (inputs,), targets

        train_inputs, train_targets = part("train")
        validation = part("val") if "val" in rows else None

        torch.manual_seed(self._seed)  # as a tutorial does it: seed, net, loop
        module = build.build(self._architecture)
        _inherit(self._task, module)
        transfer.freeze(module, self._task["spec"].get("edited", {}).get("frozen", ()))
        trainer = Trainer(
            module,
            config,
            train_inputs,
            train_targets,
            validation=validation,
            stop=self._stop,
            unscale=preprocessor.invert_target if preprocessor.scales_target else None,
        )
        sizes = ", ".join(f"{len(part_rows)} {_ROWS_OF[name]}" for name, part_rows in rows.items())
        _log(
            f"Attempt {self._task['attempt']}: training a net of {_parameters(module)} parameters on dataset "
            f"{dataset['id']} ({sizes}) with {config.optimizer.type}, lr {config.optimizer.lr:g}, for "
            f"{config.objective.type}; seed {self._seed}, {self._threads} threads."
        )
        self._resume(trainer)
        finished = self._consume(trainer)
        if finished.reason == "stopped":
            self._save(trainer, finished.step, finished.epoch)
            self._save_best(trainer, finished)
            _log(f"Told to stop; the checkpoint of step {finished.step} is kept.")
            return {"outcome": "stopped", "step": finished.step}

        stopped_early = None
        if finished.reason == "early_stopping":
            stopped_early = _stopped_early(config, finished)
            self._tell(stopped_early, step=finished.step, epoch=finished.epoch)
        if config.checkpoint.publish == "best" and trainer.best_weights is not None:
            module.load_state_dict(trainer.best_weights)
        unscale = preprocessor.invert_target if preprocessor.scales_target else None
        metrics: dict[str, float] = {}
        for name, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
            if name in rows:
                inputs, targets = part(name)
                metrics |= evaluate(
                    module,
                    inputs,
                    targets,
                    config.objective,
                    config.metrics,
                    batch_size=config.batch_size,
                    prefix=prefix,
                    unscale=unscale,
                )
        lineage = {
            "dataset": {"id": dataset["id"], "digest": dataset["manifest"]["digest"]},
            "job": self._task["job"],
            "attempt": self._task["attempt"],
            "seed": self._seed,
            "steps": finished.step,
            "epochs": finished.epoch,
            "stopped_by": finished.reason,
            "rows": {name: len(part_rows) for name, part_rows in rows.items()},
            "resolved_spec": self._task["spec"],
        }
        told = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        _log(f"Trained {finished.step} steps, {finished.epoch} epochs, in {finished.elapsed_s:.2f} s: {told}.")
        golden = _golden_rows(examples, fitted, rows["train"])
        draft = _stage(
            self._folder / "staged", self._architecture, fitted, module, golden, metrics, lineage, self._threads
        )
        return {
            "outcome": "done",
            "version": draft.model_dump(mode="json"),
            "stopped_early": stopped_early,
            "metrics": metrics,
            "environment": {
                **_environment(self._threads),
                "first_step_at": self._first_step_at,
                "training_s": round(finished.elapsed_s, 6),
            },
        }

    def _tell(self, sentence: str, **data: Any) -> None:
        """Say something in the job's log and among its events."""
        _log(sentence)
        self._events.emit("log", {"message": sentence, **data})

    def _consume(self, trainer: Trainer) -> Finished:
        """Run the trainer, telling what happens; the first report comes right after the first step."""
        for event in trainer.run():
            if self._first_step_at is None and trainer.step > 0:
                self._first_step_at = utc_now()
            match event:
                case Report():
                    self._report(event)
                case EpochEnd():
                    names = sorted({name for one in event.held_out for name in one.metrics})
                    told = {name: [one for one in event.held_out if name in one.metrics] for name in names}
                    series = [
                        {
                            "name": name,
                            "steps": [one.step for one in told[name]],
                            "epochs": [one.epoch for one in told[name]],
                            "values": [one.metrics[name] for one in told[name]],
                        }
                        for name in names
                    ]
                    self._metrics(event.step, event.epoch, dict(event.metrics), series, event.best)
                case CheckpointDue():
                    self._save(trainer, event.step, event.epoch)
                case Finished():
                    return event
        raise AssertionError("a trainer ends with Finished")

    def _report(self, report: Report) -> None:
        self._events.emit(
            "progress",
            {
                "epoch": report.epoch,
                "step": report.step,
                "fraction": report.fraction,
                "eta_s": report.eta_s,
                "samples_per_s": report.samples_per_s,
            },
        )
        if not report.losses:
            return
        kept = [
            (report.first_step + place, loss)
            for place, loss in enumerate(report.losses)
            if (report.first_step + place) % self._stride == 0
        ]
        self._points += len(kept)
        if self._points > _POINTS_BEFORE_THINNING * self._stride.bit_length():
            self._stride *= 2  # a long job keeps every second, fourth, … loss, and says so
        epoch_of = {step: (step - 1) // self._steps_per_epoch + 1 for step, _ in kept}
        series = [
            {
                "name": "loss",
                "steps": [step for step, _ in kept],
                "epochs": [epoch_of[step] for step, _ in kept],
                "values": [loss for _, loss in kept],
            }
        ]
        self._metrics(report.step, report.epoch, {"loss": report.losses[-1]}, series if kept else [], {})

    def _metrics(
        self,
        step: int,
        epoch: int,
        last: dict[str, float],
        series: list[dict[str, Any]],
        best: Mapping[str, Best],
    ) -> None:
        content: dict[str, Any] = {"step": step, "epoch": epoch, "last": last, "series": series, "stride": self._stride}
        if best:
            content["best"] = {
                name: {"value": each.value, "step": each.step, "epoch": each.epoch} for name, each in best.items()
            }
        self._events.emit("metrics", content)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, step: int, epoch: int) -> None:
        """Keep the whole state for resuming; the last two are kept, so that a torn one costs little."""
        make_folder(self._checkpoints, parents=True)
        self._write(f"step-{step:012d}", trainer.state(), kind="resume", step=step, epoch=epoch)
        for path in sorted(self._checkpoints.glob("step-*.json"))[:-_KEPT_CHECKPOINTS]:
            path.unlink()
            path.with_suffix(".pt").unlink(missing_ok=True)

    def _save_best(self, trainer: Trainer, finished: Finished) -> None:
        """Keep the best weights of a run that was stopped; without held-out rows the last ones are as good as known."""
        best = trainer.best_at
        if best is not None and trainer.best_weights is not None:
            self._write("best", trainer.best_weights, kind="best", step=best.step, epoch=best.epoch)
        else:
            self._write("best", trainer.module.state_dict(), kind="best", step=finished.step, epoch=finished.epoch)

    def _write(self, name: str, state: Any, *, kind: str, step: int, epoch: int) -> None:
        size, sha256 = checkpoint.save(self._checkpoints / f"{name}.pt", state)
        entry = {
            "kind": kind,
            "step": step,
            "epoch": epoch,
            "size_bytes": size,
            "sha256": sha256,
            "at": utc_now(),
            "file": f"{name}.pt",
        }
        write_atomic(self._checkpoints / f"{name}.json", json.dumps(entry).encode())
        self._events.emit("checkpoint", {key: value for key, value in entry.items() if key != "file"})

    def _resume(self, trainer: Trainer) -> None:
        """Go on from the newest checkpoint whose bytes are what was written, if there is one."""
        self._steps_per_epoch = trainer.steps_per_epoch
        for torn in self._checkpoints.glob(".*.tmp"):  # an earlier worker was killed while it wrote
            torn.unlink()
        for path in sorted(self._checkpoints.glob("step-*.json"), reverse=True):
            entry = json.loads(path.read_bytes())
            weights = self._checkpoints / entry["file"]
            if weights.exists() and sha256_file(weights)[0] == entry["sha256"]:
                trainer.restore(checkpoint.load(weights))
                step = entry["step"]
                self._tell(f"Resumed from step {step}.", step=step, resumed_from_step=step)
                return
            _log(f"The checkpoint of step {entry['step']} is damaged and is passed over.")


_ROWS_OF: Final = {"train": "training rows", "val": "validation rows", "test": "test rows"}


def _stopped_early(config: TrainingConfig, finished: Finished) -> str:
    stopping = config.early_stopping
    assert stopping is not None
    by = f" by more than {stopping.min_delta:g}" if stopping.min_delta else ""
    epochs = "1 epoch" if stopping.patience == 1 else f"{stopping.patience} epochs"
    return f"Stopped early after epoch {finished.epoch}: {stopping.metric} had not improved{by} for {epochs}."


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# -- the other kinds ------------------------------------------------------------------------------------------------


def _import(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version from an architecture and weights: given inline, or drawn from the seed."""
    spec = ImportSpec.model_validate(
        {key: value for key, value in task["spec"].items() if key in ImportSpec.model_fields}
    )
    architecture, _ = _judged(task["spec"]["architecture"])
    torch.manual_seed(spec.seed)
    module = build.build(architecture)
    source = _inherit(task, module)
    origin = "the weights that were sent" if spec.state_dict is not None else f"weights drawn from seed {spec.seed}"
    if source is not None:
        origin = f"weights of {_edited_from(task)}"
    _log(f"Attempt {task['attempt']}: importing a net of {_parameters(module)} parameters with {origin}.")
    if spec.state_dict is not None:
        module.load_state_dict(checkpoint.state_dict_from_json(spec.state_dict, module.state_dict()))
    tensors = [
        {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        for name, tensor in module.state_dict().items()
    ]
    report = {
        "outcome": "exact",
        "format": "version" if source else "inline" if spec.state_dict is not None else "seed",
        "classes": [],
        "layers": [],
        "tensors": tensors,
        "repaired": [],
        "missing": [],
        "unexpected": [],
        "mismatched": [],
        "needs": [],
        "proposal": None,
    }
    lineage = {
        "job": task["job"],
        "attempt": task["attempt"],
        "seed": spec.seed,
        "origin": report["format"],
        "resolved_spec": {key: value for key, value in task["spec"].items() if key != "state_dict"},
    }
    if source is not None:
        lineage["origin"] = f"edited from {_edited_from(task)}"
    fitted = _still_fitting(source, architecture) if source is not None else NONE
    draft = _stage(folder / "staged", architecture, fitted, module, None, {}, lineage, threads)
    _log("Imported.")
    return {
        "outcome": "done",
        "version": draft.model_dump(mode="json"),
        "report": report,
        "metrics": {},
        "environment": _environment(threads),
    }


def _import_file(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version from an uploaded file: read as data in a cage, understood, matched, run once and staged."""
    spec = ImportSpec.model_validate(
        {key: value for key, value in task["spec"].items() if key in ImportSpec.model_fields}
    )
    given, _ = _judged(task["spec"]["architecture"]) if task["spec"]["architecture"] else (None, None)
    _log(f"Attempt {task['attempt']}: reading the uploaded file, {Path(task['upload']).stat().st_size} bytes.")
    scratch = folder / "weights"
    scratch.unlink(missing_ok=True)
    try:
        inspected = cage.inspect(Path(task["upload"]), scratch=scratch, part=spec.part)
    except CheckpointRefused as refused:
        report = foreign.Report("refused", "unknown")
        raise JobFailed(
            refused.failure,
            refused.message,
            hint=refused.hint,
            reason=refused.reason,
            errors=refused.errors,
            report=report.to_dict(),
        ) from refused
    inspection = inspected.inspection
    _log(f"It holds {len(inspection.tensors)} tensors ({inspection.format}, {inspection.holds}).")
    wishes = foreign.Wishes(
        architecture=given,
        inputs=[each.model_dump(mode="json", exclude_defaults=True) for each in spec.inputs] if spec.inputs else None,
        forward=spec.forward,
        rename=[(rule.from_, rule.to) for rule in spec.rename],
    )
    understood, report = foreign.understand(inspection, wishes)
    if understood is None:
        detail = " ".join(need.detail for need in report.needs[:3])
        fits = bool(report.missing or report.unexpected or report.mismatched)
        raise JobFailed(
            "checkpoint_refused" if fits else "architecture_needed",
            detail[:2000],
            hint="The job's report has all that was found, and what is missing.",
            reason=("keys" if report.missing or report.unexpected else "shapes") if fits else None,
            report=report.to_dict(),
        )
    for mended in report.repaired:
        _log(mended)
    architecture = understood.architecture
    judgement = require(architecture)
    torch.manual_seed(spec.seed)
    module = build.build(architecture, device="meta")
    sources = {key: source.keys if source is not None else None for key, source in understood.sources.items()}
    state = checkpoint.assemble(inspected.path, inspection, sources, module.state_dict())
    module.load_state_dict(state, strict=True, assign=True)
    build.complete(module, architecture)
    lineage = {
        "job": task["job"],
        "attempt": task["attempt"],
        "seed": spec.seed,
        "origin": report.format,
        "imported": {
            "outcome": report.outcome,
            "digest": task["spec"]["upload_digest"],
            "classes": list(report.classes)[:50],
            "repaired": report.repaired[:50],
            "written_by": inspection.written_by,
        },
        "resolved_spec": task["spec"],
    }
    try:
        draft = _stage(folder / "staged", architecture, NONE, module, None, {}, lineage, threads)
    except ShapeMismatch as error:
        raise JobFailed(
            "shape_error", f"The net does not run: {error.errors[0].detail}", report=report.to_dict()
        ) from error
    _log(f"Imported ({report.outcome}).")
    canonical_form = architectures.canonical_form(architecture)
    return {
        "outcome": "done",
        "version": draft.model_dump(mode="json"),
        "architecture": {
            "digest": judgement.digest,
            "authored": canonical_form,
            "canonical": canonical_form,
            "summary": judgement.summary,
        },
        "report": report.to_dict(),
        "metrics": {},
        "environment": _environment(threads),
    }


def _import_bundle(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version from a bundle of this service: the same version again, digest and answers compared."""
    also = [name for name in ("architecture", "inputs", "forward", "rename", "part") if task["spec"].get(name)]
    if also:
        told = f"A bundle says itself what its net is: {', '.join(also)} cannot be given beside it."
        raise JobFailed("data_error", told, hint="Leave it out, or send weights.pt of the bundle with it.")
    _log(f"Attempt {task['attempt']}: reading the uploaded bundle, {Path(task['upload']).stat().st_size} bytes.")
    report = foreign.Report("exact", bundle.FORMAT)
    weights = folder / "weights"
    try:
        with Path(task["upload"]).open("rb") as file:
            parts = bundle.read_bundle(file)
            with weights.open("wb") as target:
                parts.unpack_weights(file, target)
        judgement = require(parts.architecture)
        assert judgement.architecture is not None
        inspected = cage.inspect(weights, scratch=folder / "scratch")
        inspection = inspected.inspection
        report.tensors = [
            {"name": each.name, "dtype": each.dtype, "shape": list(each.shape)} for each in inspection.tensors
        ]
        module = build.build(judgement.architecture, device="meta")
        sources = bundle.sources_of(module.state_dict(), {each.name for each in inspection.tensors})
        state = checkpoint.assemble(inspected.path, inspection, sources, module.state_dict())
        module.load_state_dict(state, strict=True, assign=True)
        build.complete(module, judgement.architecture)
        rows = [
            Rows(part["numbers"].numpy(), None if part["codes"] is None else part["codes"].numpy())
            for part in parts.golden["inputs"]
        ]
        lineage = {
            "job": task["job"],
            "attempt": task["attempt"],
            "origin": bundle.FORMAT,
            "imported": {"outcome": "exact", "digest": task["spec"]["upload_digest"], "version": parts.origin},
            "resolved_spec": task["spec"],
        }
        draft = _stage(
            folder / "staged",
            judgement.architecture,
            parts.preprocessing,
            module,
            rows,
            {},  # those of the manifest were not measured here; the lineage has them
            lineage,
            threads,
        )
        parts.require_same(draft)
        deviation = Predictor.load(folder / "staged").deviation(parts.golden)
        if deviation is not None:
            detail = f"The net does not answer its golden rows as recorded: {deviation}."
            raise CheckpointRefused(detail, reason="digest-mismatch")
    except InvalidInput as refused:
        report.outcome = "refused"
        raise JobFailed(
            refused.failure if isinstance(refused, CheckpointRefused) else "data_error",
            refused.message,
            hint=refused.hint,
            reason=refused.reason if isinstance(refused, CheckpointRefused) else None,
            errors=refused.errors,
            report=report.to_dict(),
        ) from refused
    finally:
        weights.unlink(missing_ok=True)
    _log(f"Imported {parts.version.model}/{parts.version.version} of the bundle; digest and answers are the same.")
    canonical_form = architectures.canonical_form(judgement.architecture)
    return {
        "outcome": "done",
        "version": draft.model_dump(mode="json"),
        "architecture": {
            "digest": judgement.digest,
            "authored": canonical_form,
            "canonical": canonical_form,
            "summary": judgement.summary,
        },
        "report": report.to_dict(),
        "metrics": {},
        "environment": _environment(threads),
    }


def _inherit(task: dict[str, Any], module: torch.nn.Module) -> Predictor | None:
    """Put the weights of the version that was edited into the net that came out; that version, if there is one."""
    if "edited" not in task["spec"] or "version" not in task:
        return None
    folder = Path(task["version"]["folder"])
    _check_digests(folder, [VersionFile.model_validate(file) for file in task["version"]["files"]])
    source = Predictor.load(folder)
    weights = WeightMap.model_validate(task["spec"]["edited"]["weights"])
    module.load_state_dict(transfer.transfer(source.module.state_dict(), module.state_dict(), weights))
    _log(
        f"Weights of {_edited_from(task)}: {len(weights.kept)} tensors kept, {len(weights.reshaped)} reshaped, "
        f"{len(weights.new)} new, {len(weights.dropped)} dropped."
    )
    return source


def _edited_from(task: dict[str, Any]) -> str:
    source = task["spec"]["resolved_model"]
    return f"{source['model']}/{source['version']}"


def _still_fitting(source: Predictor, architecture: Architecture) -> Preprocessing:
    """The preprocessing of an edited version, as far as its net still takes and gives the same."""
    fitted = source.preprocessor.document
    _, before = _judged(architectures.canonical_form(source.architecture))
    _, after = _judged(architectures.canonical_form(architecture))
    if source.architecture.inputs != architecture.inputs:
        return NONE
    if [output.shape for output in before] == [output.shape for output in after]:
        return fitted
    return fitted.model_copy(update={"target": None})


def _evaluate(task: dict[str, Any], threads: int) -> dict[str, Any]:
    """A version's metrics on a dataset."""
    resolved = task["spec"]["resolved_model"]
    _log(
        f"Attempt {task['attempt']}: evaluating {resolved['model']}/{resolved['version']} on dataset "
        f"{task['dataset']['id']} ({task['dataset']['manifest']['rows']} rows)."
    )
    spec = EvaluateSpec.model_validate(
        {key: value for key, value in task["spec"].items() if key in EvaluateSpec.model_fields}
        | {"dataset": task["dataset"]["id"]}
    )
    examples = examples_of.open_dataset(
        Path(task["dataset"]["folder"]), DatasetManifest.model_validate(task["dataset"]["manifest"])
    )
    version = Path(task["version"]["folder"])
    _check_digests(version, [VersionFile.model_validate(file) for file in task["version"]["files"]])
    loaded = Predictor.load(version)
    dtype = getattr(torch, loaded.architecture.inputs[0].dtype)
    _, outputs = _judged(architectures.canonical_form(loaded.architecture))
    width = outputs[0].shape[-1]
    inputs = loaded.preprocessor.example_inputs(examples, dtype=dtype)
    targets = loaded.preprocessor.targets(
        examples, objective=spec.objective, width=width if isinstance(width, int) else None
    )
    metrics = evaluate(
        loaded.module,
        (inputs,),
        targets,
        spec.objective,
        spec.metrics,
        unscale=loaded.preprocessor.invert_target if loaded.preprocessor.scales_target else None,
    )
    _log(f"Evaluated: {', '.join(f'{name} {value:.6g}' for name, value in metrics.items())}.")
    return {"outcome": "done", "metrics": metrics, "environment": _environment(threads)}


def _export(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version's net as a file for another program."""
    resolved = task["spec"]["resolved_model"]
    version = Path(task["version"]["folder"])
    _check_digests(version, [VersionFile.model_validate(file) for file in task["version"]["files"]])
    loaded = Predictor.load(version)
    _log(f"Attempt {task['attempt']}: writing {resolved['model']}/{resolved['version']} as {task['spec']['format']}.")
    _, outputs = _judged(architectures.canonical_form(loaded.architecture))
    path = folder / export.ARTIFACT
    about = export.write_onnx(loaded.architecture, loaded.module, path, outputs=[output.name for output in outputs])
    fsync_file(path)
    fsync_folder(folder)
    sha256, size = sha256_file(path)
    _log(f"Written: {size} bytes, opset {about['opset']}.")
    artifact = {
        "name": f"{resolved['model']}-{resolved['version']}.onnx",
        "format": task["spec"]["format"],
        "size_bytes": size,
        "digest": f"sha256:{sha256}",
    }
    report = {"format": task["spec"]["format"], **about}
    return {"outcome": "done", "artifact": artifact, "report": report, "environment": _environment(threads)}


def _check_digests(folder: Path, files: Sequence[VersionFile]) -> None:
    """See that a version's files are the published ones, as whoever loads it first in a process does."""
    wrong = []
    for file in files:
        try:
            same = sha256_file(folder / file.name) == (file.sha256, file.size_bytes)
        except OSError:
            same = False
        if not same:
            wrong.append(file.name)
    if wrong:
        raise CheckpointRefused(f"Its files differ from its manifest: {', '.join(wrong)}.", reason="digest-mismatch")


# -- staging a version ----------------------------------------------------------------------------------------------


def _judged(document: Mapping[str, Any]) -> tuple[Architecture, list[TensorSpec]]:
    judgement = require(architectures.parse(document))
    assert judgement.architecture is not None
    assert judgement.summary is not None
    return judgement.architecture, [TensorSpec.model_validate(output) for output in judgement.summary["outputs"]]


def _stage(
    folder: Path,
    architecture: Architecture,
    fitted: Preprocessing,
    module: torch.nn.Module,
    golden: list[Rows] | None,
    metrics: dict[str, float],
    lineage: dict[str, Any],
    threads: int,
) -> VersionDraft:
    """Write a version's files, fsynced, and say what they are.

    Args:
        golden: raw rows to record answers for; drawn where there are no data.
    """
    make_folder(folder)
    state = module.state_dict()
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken and not lineage["resolved_spec"].get("allow_nonfinite"):
        raise JobFailed("non_finite_loss", f"The weights are not finite: {', '.join(broken[:5])}.")
    document = architectures.canonical_form(architecture)
    files = [
        _file(folder, predictor.ARCHITECTURE, canonical(document)),
        _file(folder, predictor.PREPROCESSING, fitted.model_dump_json(exclude_none=True).encode()),
    ]
    size, sha256 = checkpoint.save(folder / predictor.WEIGHTS, state)
    files.append(VersionFile(name=predictor.WEIGHTS, size_bytes=size, sha256=sha256))

    torch.set_num_threads(1)  # as the server answers: the golden rows' bits must be its bits
    staged = Predictor.load(folder)
    if golden is None:
        golden = staged.drawn(GOLDEN_ROWS)
    size, sha256 = checkpoint.save(folder / predictor.GOLDEN, staged.golden(golden))
    files.append(VersionFile(name=predictor.GOLDEN, size_bytes=size, sha256=sha256))
    fsync_folder(folder)

    _, outputs = _judged(document)
    signature = _signature(architecture, outputs, fitted)
    weights_digest = checkpoint.weights_digest(state)
    architecture_digest = architectures.digest_of(architecture)
    preprocessing = fitted.model_dump(mode="json", exclude_none=True)
    identity = {
        "architecture": architecture_digest,
        "weights": weights_digest,
        "preprocessing": preprocessing,
        "signature": signature.model_dump(mode="json"),
    }
    target = fitted.target
    return VersionDraft(
        digest=digest(canonical(identity)),
        architecture_digest=architecture_digest,
        weights_digest=weights_digest,
        metrics=metrics,
        signature=signature,
        classes=target.classes if isinstance(target, ClassTarget) else None,
        batch_independence=staged.independence(golden),
        lineage={**lineage, "environment": _environment(threads)},
        files=tuple(files),
    )


def _file(folder: Path, name: str, content: bytes) -> VersionFile:
    write_atomic(folder / name, content)
    return VersionFile(name=name, size_bytes=len(content), sha256=digest(content).removeprefix("sha256:"))


def _signature(architecture: Architecture, outputs: list[TensorSpec], fitted: Preprocessing) -> Signature:
    """What a client sends: the net's inputs, or the raw rows where columns are turned into them."""
    inputs = tuple(
        TensorSpec(name=spec.name, dtype=spec.dtype, shape=tuple(spec.shape)) for spec in architecture.inputs
    )
    columns = None
    if isinstance(fitted.row, TableRow):
        columns = tuple(column.name for column in fitted.row.columns)
        first = inputs[0]
        inputs = (first.model_copy(update={"shape": (first.shape[0], len(columns))}), *inputs[1:])
    return Signature(inputs=inputs, outputs=tuple(outputs), columns=columns)


def _golden_rows(examples: examples_of.Examples, fitted: Preprocessing, train: Tensor) -> list[Rows]:
    """A few training rows, spread over all of them, as a client would send them."""
    count = min(GOLDEN_ROWS, len(train))
    chosen = train[torch.linspace(0, len(train) - 1, count).round().long()].numpy()
    numbers = np.asarray(examples.numbers)[chosen]
    codes = None
    if isinstance(fitted.row, TableRow) and fitted.row.texts:
        stored = [
            column.classes or ()
            for column in examples.manifest.columns
            if column.role == "input" and column.dtype == "text"
        ]
        raw = np.asarray(examples.codes)[chosen]
        index = [{text: code for code, text in enumerate(column.categories)} for column in fitted.row.texts]
        codes = np.array(
            [[index[place].get(stored[place][code], -1) for place, code in enumerate(row)] for row in raw],
            dtype=np.int64,
        )
    return [Rows(numbers, codes)]


def _environment(threads: int) -> dict[str, Any]:
    return {
        "modelyard": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": threads,
        "device": "cpu",
        **predictor.build_of_torch(),
    }
