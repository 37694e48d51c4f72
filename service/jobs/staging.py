"""What every kind of job that makes a version does: judge, run once, write the files of a version, say what they are.

Runs in the worker. Knows no queue and no database; the final rename is the store's.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from service import __version__
from service.engine import checkpoint, checkpoints, engines, predictor, transfer
from service.engine import examples as examples_of
from service.engine.predictor import Predictor, Rows
from service.engine.preprocessing import Preprocessor
from service.errors import (
    CheckpointRefused,
    JobFailed,
)
from service.jobs import reports
from service.schemas import architecture as architectures
from service.schemas.architecture import Architecture
from service.schemas.document import canonical, digest, utc_now
from service.schemas.edits import WeightMap
from service.schemas.engines import EAGER, Eager, Engine, EngineRecord
from service.schemas.judgement import require
from service.schemas.outputs import Output
from service.schemas.preprocessing import ArrayRow, ClassTarget, Preprocessing, TableRow
from service.schemas.versions import Signature, TensorSpec, VersionDraft, VersionFile
from service.store.files import fsync_file, fsync_folder, make_folder, sha256_file, translated, write_atomic
from service.store.folders import wrong_files

GOLDEN_ROWS: Final = 4


def log(sentence: str) -> None:
    """A line for the job's log: the output of this process, which people read and no program."""
    with contextlib.suppress(OSError):  # a full disk must not end a job for what it has to say
        sys.stdout.write(f"{utc_now()} {sentence}\n")
        sys.stdout.flush()


def parameters(module: torch.nn.Module) -> int:
    """How many numbers a net learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def check_digests(folder: Path, files: Sequence[VersionFile]) -> None:
    """See that a version's files are the published ones, as whoever loads it first in a process does.

    Raises:
        CheckpointRefused: they are not.
        StoreError: the machine could not tell.
    """
    with translated():
        wrong = wrong_files(folder, files)
    if wrong:
        raise CheckpointRefused(f"Its files differ from its manifest: {', '.join(wrong)}.", reason="digest-mismatch")


def judged(document: Mapping[str, Any]) -> tuple[Architecture, list[TensorSpec]]:
    """A stored document resolved, and what it gives."""
    judgement = require(architectures.parse(document))
    assert judgement.architecture is not None
    assert judgement.summary is not None
    return judgement.architecture, [TensorSpec.model_validate(output) for output in judgement.summary["outputs"]]


def stage(
    folder: Path,
    architecture: Architecture,
    fitted: Preprocessing,
    module: torch.nn.Module,
    golden: list[Rows] | None,
    metrics: dict[str, float],
    lineage: dict[str, Any],
    threads: int,
    *,
    report: bytes | None = None,
) -> VersionDraft:
    """Write a version's files, fsynced, and say what they are.

    Args:
        golden: raw rows to record answers for; drawn where there are no data.
        report: the content of `report.json`, where the net's answers were looked at.
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
    asked = _asked(lineage["resolved_spec"])
    staged = engines.laid_out(folder, asked, golden)
    if golden is None:
        golden = staged.drawn(GOLDEN_ROWS)
    answered = staged.golden(golden)
    size, sha256 = checkpoint.save(folder / predictor.GOLDEN, answered)
    files.append(VersionFile(name=predictor.GOLDEN, size_bytes=size, sha256=sha256))
    served, engine = staged, EngineRecord(layout=staged.layout)
    if not isinstance(asked, Eager) and "replay_of" not in lineage["resolved_spec"]:
        try:
            served, engine = engines.build(asked, staged, answered, folder, scratch=folder.parent / "engine")
        except JobFailed as refused:
            if lineage["resolved_spec"].get("kind") != "train":
                raise
            log(refused.message)
            lineage = {**lineage, "engine_refused": refused.message}  # a training is not lost for that
        else:
            assert engine.file is not None
            fsync_file(folder / engine.file)
            sha256, size = sha256_file(folder / engine.file)
            files.append(VersionFile(name=engine.file, size_bytes=size, sha256=sha256))
            log(f"Made for {engine.type}: {size} bytes; its answers differ by at most {engine.deviation:.1e}.")
    if report is not None:
        files.append(_file(folder, reports.FILE, report))
    fsync_folder(folder)

    _, outputs = judged(document)
    taken = signature(architecture, outputs, fitted)
    weights_digest = checkpoint.weights_digest(state)
    architecture_digest = architectures.digest_of(architecture)
    preprocessing = fitted.model_dump(mode="json", exclude_none=True)
    identity = {
        "architecture": architecture_digest,
        "weights": weights_digest,
        "preprocessing": preprocessing,
        "signature": taken.model_dump(mode="json"),
    }
    target = fitted.target
    return VersionDraft(
        digest=digest(canonical(identity)),
        architecture_digest=architecture_digest,
        weights_digest=weights_digest,
        metrics=metrics,
        signature=taken,
        classes=target.classes if isinstance(target, ClassTarget) else None,
        batch_independence=served.independence({**answered, "outputs": served.run(golden)}),
        engine=engine,
        lineage={**lineage, "environment": environment(threads)},
        files=tuple(files),
    )


def _asked(spec: Mapping[str, Any]) -> Engine:
    """The engine that a job's version shall be served by."""
    output = spec.get("output")
    return (Output.model_validate(output).engine if output is not None else None) or EAGER


def _file(folder: Path, name: str, content: bytes) -> VersionFile:
    write_atomic(folder / name, content)
    return VersionFile(name=name, size_bytes=len(content), sha256=digest(content).removeprefix("sha256:"))


def signature(architecture: Architecture, outputs: list[TensorSpec], fitted: Preprocessing) -> Signature:
    """What a client sends: the net's inputs, or the raw rows where columns are turned into them."""
    inputs = tuple(
        TensorSpec(name=spec.name, dtype=spec.dtype, shape=tuple(spec.shape)) for spec in architecture.inputs
    )
    columns = None
    prepared = {part.name: part.row for part in fitted.inputs or ()}
    for place, spec in enumerate(inputs):
        row = prepared.get(spec.name, fitted.row)
        if isinstance(row, TableRow) and (place == 0 or prepared):
            columns = tuple(column.name for column in row.columns) if not prepared else None
            shape: tuple[int | str, ...] = (spec.shape[0], len(row.columns))
        elif isinstance(row, ArrayRow) and Preprocessor(fitted).part(place).row_shape != row.row_shape:
            shape = (spec.shape[0], *row.row_shape)
        else:
            continue
        inputs = (*inputs[:place], spec.model_copy(update={"shape": shape}), *inputs[place + 1 :])
    return Signature(inputs=inputs, outputs=tuple(outputs), columns=columns)


def golden_rows(examples: examples_of.Examples, fitted: Preprocessing, train: Tensor) -> list[Rows]:
    """A few training rows, spread over all of them, as a client would send them."""
    count = min(GOLDEN_ROWS, len(train))
    chosen = train[torch.linspace(0, len(train) - 1, count).round().long()].numpy()
    return [Rows(numbers, codes) for numbers, codes in Preprocessor(fitted).raw(examples, chosen)]


def environment(threads: int) -> dict[str, Any]:
    """What the bits of a job depend on beside its spec and its data."""
    return {
        "modelyard": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": threads,
        "device": "cpu",
        **predictor.build_of_torch(),
    }


def inherit(task: dict[str, Any], module: torch.nn.Module) -> Predictor | None:
    """Put the weights of the version that was edited into the net that came out; that version, if there is one."""
    if "edited" not in task["spec"] or "version" not in task:
        return None
    folder = Path(task["version"]["folder"])
    check_digests(folder, [VersionFile.model_validate(file) for file in task["version"]["files"]])
    source = Predictor.load(folder)
    weights = WeightMap.model_validate(task["spec"]["edited"]["weights"])
    module.load_state_dict(transfer.transfer(source.module.state_dict(), module.state_dict(), weights))
    log(f"Weights of {edited_from(task)}: {_counts(weights)}.")
    return source


def begin(task: dict[str, Any], module: torch.nn.Module) -> None:
    """Put the weights into a net that its training begins with, where `init.from` names some.

    Raises:
        CheckpointRefused: the version's files are not the published ones.
        JobFailed: the checkpoint is damaged.
    """
    inherited = task["spec"].get("inherited")
    if inherited is None:
        return
    folder, origin = Path(task["inherited"]["folder"]), inherited["from"]
    if "model" in origin:
        check_digests(folder, [VersionFile.model_validate(file) for file in task["inherited"]["files"]])
        state = checkpoint.load(folder / predictor.WEIGHTS, mmap=True)
        name = f"{origin['model']}/{origin['version']}"
    else:
        state = _pinned(folder, origin["sha256"])
        name = f"step {origin['step']} of {origin['job']}"
    weights = WeightMap.model_validate(inherited["weights"])
    module.load_state_dict(transfer.transfer(state, module.state_dict(), weights))
    log(f"Begins with the weights of {name}: {_counts(weights)}.")


def _pinned(folder: Path, sha256: str) -> Mapping[str, Tensor]:
    """The best weights in the checkpoint that was chosen when the job was submitted."""
    for kept in checkpoints.kept(folder):
        path = folder / kept.entry["file"]
        if kept.entry["sha256"] == sha256 and path.exists() and sha256_file(path)[0] == sha256:
            return kept.weights(checkpoint.load(path, mmap=True))
    raise JobFailed("checkpoint_refused", "The checkpoint to begin with is damaged or gone.", reason="damaged")


def _counts(weights: WeightMap) -> str:
    return (
        f"{len(weights.kept)} tensors kept, {len(weights.reshaped)} reshaped, {len(weights.new)} new, "
        f"{len(weights.dropped)} dropped"
    )


def edited_from(task: dict[str, Any]) -> str:
    """The version whose weights are taken over, as people write it."""
    source = task["spec"]["resolved_model"]
    return f"{source['model']}/{source['version']}"
