"""The import job in the worker: a version from a file, a bundle, inline weights, a seed or another version.

Foreign files are read in a cage alone. Knows no queue and no database.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from service.engine import build, bundle, cage, checkpoint, foreign
from service.engine.predictor import GOLDEN, Predictor, Rows, rows_of
from service.errors import (
    CheckpointRefused,
    InvalidInput,
    JobFailed,
    ShapeMismatch,
)
from service.jobs import reports
from service.jobs.staging import check_digests, edited_from, environment, inherit, judged, log, parameters, stage
from service.schemas import architecture as architectures
from service.schemas.architecture import Architecture
from service.schemas.engines import LAYOUTS
from service.schemas.jobs import ImportSpec
from service.schemas.judgement import require
from service.schemas.preprocessing import NONE, Preprocessing
from service.schemas.versions import Manifest, VersionFile


def import_weights(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version from an architecture and weights: given inline, or drawn from the seed."""
    spec = ImportSpec.model_validate(
        {key: value for key, value in task["spec"].items() if key in ImportSpec.model_fields}
    )
    architecture, _ = judged(task["spec"]["architecture"])
    torch.manual_seed(spec.seed)
    module = build.build(architecture)
    source = inherit(task, module)
    origin = "the weights that were sent" if spec.state_dict is not None else f"weights drawn from seed {spec.seed}"
    if source is not None:
        origin = f"weights of {edited_from(task)}"
    log(f"Attempt {task['attempt']}: importing a net of {parameters(module)} parameters with {origin}.")
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
        lineage["origin"] = f"edited from {edited_from(task)}"
    fitted = _still_fitting(source, architecture) if source is not None else NONE
    draft = stage(folder / "staged", architecture, fitted, module, None, {}, lineage, threads)
    log("Imported.")
    return {
        "outcome": "done",
        "version": draft.model_dump(mode="json"),
        "report": report,
        "metrics": {},
        "environment": environment(threads),
    }


def publish_again(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version once more, to be served by another engine: its net, weights, preprocessing, rows and metrics."""
    source = Path(task["version"]["folder"])
    check_digests(source, [VersionFile.model_validate(file) for file in task["version"]["files"]])
    manifest = Manifest.model_validate_json((source / bundle.MANIFEST).read_bytes())
    name = f"{manifest.model}/{manifest.version}"
    log(f"Attempt {task['attempt']}: publishing {name} once more.")
    loaded = Predictor.load(source)
    lineage = {
        **{key: value for key, value in manifest.lineage.items() if key in _STAYS},
        "job": task["job"],
        "attempt": task["attempt"],
        "origin": f"version {name}",
        "resolved_spec": task["spec"],
    }
    told = source / reports.FILE
    draft = stage(
        folder / "staged",
        loaded.architecture,
        loaded.preprocessor.document,
        loaded.module,
        rows_of(checkpoint.load(source / GOLDEN)),
        manifest.metrics,
        lineage,
        threads,
        report=told.read_bytes() if told.exists() else None,
    )
    log("Published.")
    return {
        "outcome": "done",
        "version": draft.model_dump(mode="json"),
        "metrics": manifest.metrics,
        "environment": environment(threads),
    }


_STAYS: Final = ("dataset", "rows", "seed", "steps", "epochs", "stopped_by", "certificate", "imported")
"""What a version's lineage says of its weights."""


def import_file(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version from an uploaded file: read as data in a cage, understood, matched, run once and staged."""
    spec = ImportSpec.model_validate(
        {key: value for key, value in task["spec"].items() if key in ImportSpec.model_fields}
    )
    given, _ = judged(task["spec"]["architecture"]) if task["spec"]["architecture"] else (None, None)
    if not Path(task["upload"]).exists():
        raise JobFailed("data_error", "The upload was deleted before this job could read it.", hint="Upload it again.")
    log(f"Attempt {task['attempt']}: reading the uploaded file, {Path(task['upload']).stat().st_size} bytes.")
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
    log(f"It holds {len(inspection.tensors)} tensors ({inspection.format}, {inspection.holds}).")
    wishes = foreign.Wishes(
        architecture=given,
        inputs=[each.model_dump(mode="json", exclude_defaults=True) for each in spec.inputs] if spec.inputs else None,
        forward={"": spec.forward} if isinstance(spec.forward, tuple) else spec.forward,
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
        log(mended)
    architecture = understood.architecture
    judgement = require(architecture)
    torch.manual_seed(spec.seed)
    module = build.build(architecture, device="meta")
    sources = {key: source.keys if source is not None else None for key, source in understood.sources.items()}
    state = checkpoint.assemble(inspected.path, inspection, sources, module.state_dict())
    broken = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken and not spec.allow_nonfinite:
        report.outcome = "refused"
        raise JobFailed(
            "checkpoint_refused",
            f"{len(broken)} tensors have numbers that are not finite: {', '.join(broken[:5])}.",
            hint='Send "allow_nonfinite": true to take them as they are.',
            reason="not-finite",
            report=report.to_dict(),
        )
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
        draft = stage(folder / "staged", architecture, NONE, module, None, {}, lineage, threads)
    except ShapeMismatch as error:
        raise JobFailed(
            "shape_error", f"The net does not run: {error.errors[0].detail}", report=report.to_dict()
        ) from error
    log(f"Imported ({report.outcome}).")
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
        "environment": environment(threads),
    }


def import_bundle(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version from a bundle of this service: the same version again, digest and answers compared."""
    also = [name for name in ("architecture", "inputs", "forward", "rename", "part") if task["spec"].get(name)]
    if also:
        told = f"A bundle says itself what its net is: {', '.join(also)} cannot be given beside it."
        raise JobFailed("data_error", told, hint="Leave it out, or send weights.pt of the bundle with it.")
    log(f"Attempt {task['attempt']}: reading the uploaded bundle, {Path(task['upload']).stat().st_size} bytes.")
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
        draft = stage(
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
        deviation = None
        # They were recorded in the layout of the version that was bundled, and a bundle does not tell it.
        for layout in LAYOUTS:
            deviation = Predictor.load(folder / "staged", layout=layout).deviation(parts.golden)
            if deviation is None:
                break
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
    log(f"Imported {parts.version.model}/{parts.version.version} of the bundle; digest and answers are the same.")
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
        "environment": environment(threads),
    }


def _still_fitting(source: Predictor, architecture: Architecture) -> Preprocessing:
    """The preprocessing of an edited version, as far as its net still takes and gives the same."""
    fitted = source.preprocessor.document
    _, before = judged(architectures.canonical_form(source.architecture))
    _, after = judged(architectures.canonical_form(architecture))
    if source.architecture.inputs != architecture.inputs:
        return NONE
    if [output.shape for output in before] == [output.shape for output in after]:
        return fitted
    return fitted.model_copy(update={"target": None})
