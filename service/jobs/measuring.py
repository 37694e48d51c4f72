"""The evaluate and export jobs in the worker: a stored version, looked at from outside.

Knows no queue and no database.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from service.engine import examples as examples_of
from service.engine import export
from service.engine.evaluate import evaluate
from service.engine.evaluate import report as report_of
from service.engine.predictor import Predictor
from service.jobs import reports
from service.jobs.staging import check_digests, environment, judged, log
from service.schemas import architecture as architectures
from service.schemas.datasets import DatasetManifest
from service.schemas.jobs import EvaluateSpec
from service.schemas.preprocessing import ClassTarget
from service.schemas.versions import VersionFile
from service.store.files import fsync_file, fsync_folder, sha256_file, write_atomic


def evaluate_version(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version's metrics on a dataset, and what figures of its answers are drawn from."""
    resolved = task["spec"]["resolved_model"]
    log(
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
    check_digests(version, [VersionFile.model_validate(file) for file in task["version"]["files"]])
    loaded = Predictor.load(version)
    dtypes = {each.name: getattr(torch, each.dtype) for each in loaded.architecture.inputs}
    _, outputs = judged(architectures.canonical_form(loaded.architecture))
    width = outputs[0].shape[-1]
    inputs = loaded.preprocessor.all_inputs(examples, dtypes=dtypes, scratch=folder)
    targets = loaded.preprocessor.targets(
        examples, objective=spec.objective, width=width if isinstance(width, int) else None
    )
    unscale = loaded.preprocessor.invert_target if loaded.preprocessor.scales_target else None
    metrics = evaluate(loaded.module, inputs, targets, spec.objective, spec.metrics, unscale=unscale)
    part = report_of(
        loaded.module,
        inputs,
        targets,
        spec.objective,
        unscale=unscale,
        most_rows=reports.rows_for(outputs[0].shape),
    )
    target = loaded.preprocessor.document.target
    classes = target.classes if isinstance(target, ClassTarget) else None
    report = reports.whole({"all": part}, rows={"all": len(targets)}, classes=classes)
    write_atomic(folder / reports.FILE, reports.content(report))
    log(f"Evaluated: {', '.join(f'{name} {value:.6g}' for name, value in metrics.items())}.")
    return {
        "outcome": "done",
        "metrics": metrics,
        "report": reports.short(report),
        "environment": environment(threads),
    }


def export_version(task: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """A version's net as a file for another program."""
    resolved = task["spec"]["resolved_model"]
    version = Path(task["version"]["folder"])
    check_digests(version, [VersionFile.model_validate(file) for file in task["version"]["files"]])
    loaded = Predictor.load(version)
    log(f"Attempt {task['attempt']}: writing {resolved['model']}/{resolved['version']} as {task['spec']['format']}.")
    _, outputs = judged(architectures.canonical_form(loaded.architecture))
    path = folder / export.ARTIFACT
    about = export.write_onnx(loaded.architecture, loaded.module, path, outputs=[output.name for output in outputs])
    fsync_file(path)
    fsync_folder(folder)
    sha256, size = sha256_file(path)
    log(f"Written: {size} bytes, opset {about['opset']}.")
    artifact = {
        "name": f"{resolved['model']}-{resolved['version']}.onnx",
        "format": task["spec"]["format"],
        "size_bytes": size,
        "digest": f"sha256:{sha256}",
    }
    report = {"format": task["spec"]["format"], **about}
    return {"outcome": "done", "artifact": artifact, "report": report, "environment": environment(threads)}
