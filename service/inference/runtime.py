"""Loaded versions: load once, check, keep, let go.

A version enters a process when it is first asked for: its files are hashed against the manifest, its weights are
mapped, and its golden rows must come out again. Many callers that wait for one version share one load. Knows no alias
and no HTTP.

A job's checkpoint answers likewise, while there is no version of it: without golden rows, and only its newest is kept.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from service.engine import checkpoint, checkpoints
from service.engine.predictor import GOLDEN, Predictor, Rows
from service.errors import Entry, InvalidInput, ModelQuarantined, NotFound, ServiceError
from service.inference.codec import Limits, decode, require_room
from service.schemas.preprocessing import ClassTarget, Preprocessing
from service.schemas.versions import Manifest, Signature
from service.store.files import sha256_file
from service.store.models import ModelStore
from service.telemetry import Metrics, log

_log = log(__name__)
_TRIALS: Final = 8
"""Checkpoints of jobs that stay loaded."""
_LOOKS: Final = 5
"""So often a checkpoint is looked for that a worker replaces again and again."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A job's checkpoint that answers: the job, and the step and epoch of the weights."""

    job: str
    step: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answers of one version or checkpoint: arrays [N, …] by output name, and what a classifier adds."""

    source: Manifest | Trial
    outputs: dict[str, Any]
    probabilities: Any | None
    labels: list[str] | None
    classes: tuple[str, ...] | None
    warnings: tuple[Entry, ...]
    seconds: float


class Loaded:
    """A version, or a job's checkpoint, in this process."""

    def __init__(
        self, source: Manifest | Trial, predictor: Predictor, *, signature: Signature, size_bytes: int
    ) -> None:
        self.source = source
        self.predictor = predictor
        self.signature = signature
        self.size_bytes = size_bytes

    def predict(self, inputs: object, *, limits: Limits) -> Prediction:
        """Answer the `inputs` member of a request.

        Raises:
            InvalidInput: the rows do not fit the version.
            BatchTooLarge: more rows or numbers than allowed.
        """
        signature = self.signature
        preprocessor = self.predictor.preprocessor
        preprocessing = preprocessor.document
        raw = decode(inputs, specs=signature.inputs, rows=preprocessing.rows, limits=limits)
        require_room(len(raw[0]), outputs=signature.outputs, limits=limits)
        warnings = [
            warning
            for place, part in enumerate(raw[: len(preprocessor.parts)])
            for warning in preprocessor.parts[place].unfamiliar(part.numbers, part.codes, rows=part.rows, at=part.at)
        ]
        started = time.perf_counter()
        answers = self.predictor.run([Rows(part.numbers, part.codes, part.rows, part.at) for part in raw])
        seconds = time.perf_counter() - started
        outputs = {spec.name: _array(answer) for spec, answer in zip(signature.outputs, answers, strict=True)}
        for name, output in outputs.items():
            warnings += _not_finite(name, output)
        probabilities, labels, classes = _classified(preprocessing, answers)
        return Prediction(self.source, outputs, probabilities, labels, classes, tuple(warnings), seconds)


def _array(answer: Tensor) -> Any:
    if answer.dtype in (torch.bfloat16, torch.float16):
        answer = answer.float()
    return np.ascontiguousarray(answer.numpy())


def _not_finite(name: str, output: Any) -> list[Entry]:
    if output.dtype.kind != "f":
        return []
    count = int(output.size - np.isfinite(output).sum())
    if not count:
        return []
    return [
        Entry(
            "/inputs",
            "not-finite-output",
            f"{count} of {output.size} numbers of {name!r} are not finite; they are answered as null.",
            hint="The inputs may be too large for the net.",
        )
    ]


def _classified(
    preprocessing: Preprocessing, answers: Sequence[Tensor]
) -> tuple[Any | None, list[str] | None, tuple[str, ...] | None]:
    target = preprocessing.target
    if not isinstance(target, ClassTarget) or len(answers) != 1:
        return None, None, None
    logits = answers[0]
    if target.probabilities == "sigmoid":
        second = torch.sigmoid(logits.reshape(len(logits), 1))
        probabilities = torch.cat([1 - second, second], dim=1)
    else:
        probabilities = torch.softmax(logits, dim=1)
    labels = [target.classes[index] for index in probabilities.argmax(dim=1).tolist()]
    return _array(probabilities), labels, target.classes


class _Loading:
    """One load that several callers wait for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.loaded: Loaded | None = None
        self.error: ServiceError | None = None


class Runtime:
    """The versions that this process has loaded.

    Args:
        budget_bytes: bytes of files of loaded versions before the least recently used one is let go.
    """

    def __init__(self, models: ModelStore, *, budget_bytes: int, metrics: Metrics) -> None:
        self._models = models
        self._budget = budget_bytes
        self._metrics = metrics
        self._mutex = threading.Lock()
        self._loaded: OrderedDict[tuple[str, int], Loaded] = OrderedDict()
        self._loading: dict[tuple[str, int], _Loading] = {}
        self._verified: set[tuple[str, int]] = set()
        self._trials: OrderedDict[str, tuple[str, Loaded]] = OrderedDict()  # by job: the file's digest, and what it is
        self._trying = threading.Lock()

    def get(self, model: str, version: int) -> Loaded:
        """The version, loaded if it is not yet.

        Raises:
            NotFound: there is no such version.
            ModelQuarantined: its files are not the published ones, or its golden rows do not come out again.
        """
        key = (model, version)
        with self._mutex:
            loaded = self._loaded.get(key)
            if loaded is not None:
                self._loaded.move_to_end(key)
                return loaded
            loading = self._loading.get(key)
            mine = loading is None
            if loading is None:
                loading = self._loading[key] = _Loading()
        if mine:
            self._load(key, loading)
        else:
            loading.done.wait()
        if loading.error is not None:
            raise loading.error
        assert loading.loaded is not None
        return loading.loaded

    def trial(self, job_id: str, folder: Path) -> Loaded:
        """The best checkpoint that a job keeps now, loaded if it is not yet; its worker may go on meanwhile.

        Raises:
            NotFound: there is none yet, or none that is whole.
        """
        for _ in range(_LOOKS):
            for one in checkpoints.kept(folder):
                with self._trying:
                    digest, loaded = self._trials.get(job_id, ("", None))
                    if loaded is not None and digest == one.entry["sha256"]:
                        self._trials.move_to_end(job_id)
                        return loaded
                    try:
                        if sha256_file(folder / one.entry["file"])[0] != one.entry["sha256"]:
                            continue
                        predictor, signature = checkpoints.load(one)
                    except (NotFound, FileNotFoundError):
                        continue  # replaced just now
                    source = Trial(job_id, one.step, one.epoch)
                    loaded = Loaded(source, predictor, signature=signature, size_bytes=one.entry["size_bytes"])
                    self._trials[job_id] = (one.entry["sha256"], loaded)
                    while len(self._trials) > _TRIALS:
                        self._trials.popitem(last=False)
                    return loaded
        raise NotFound("The job keeps no checkpoint.")

    def forget(self, model: str, version: int) -> None:
        """Let a version go; requests in flight keep theirs."""
        with self._mutex:
            self._loaded.pop((model, version), None)
            self._measure()

    def _load(self, key: tuple[str, int], loading: _Loading) -> None:
        started = time.perf_counter()
        try:
            loading.loaded = self._read(*key)
        except InvalidInput as error:  # nothing of the request was looked at yet: the stored files are to blame
            loading.error = self._quarantine(*key, error.message)
        except ServiceError as error:
            loading.error = error
        except Exception as error:
            _log.exception("A version could not be loaded.", action="load_failed", model=key[0], version=key[1])
            loading.error = self._quarantine(*key, f"it cannot be loaded ({type(error).__name__})")
        with self._mutex:
            if loading.loaded is not None:
                self._loaded[key] = loading.loaded
                while len(self._loaded) > 1 and sum(each.size_bytes for each in self._loaded.values()) > self._budget:
                    gone, _ = self._loaded.popitem(last=False)
                    _log.info("A version was let go.", action="version_evicted", model=gone[0], version=gone[1])
            self._measure()
            del self._loading[key]
        outcome = "ok" if loading.error is None else "failed"
        self._metrics.loads.labels(outcome).inc()
        loading.done.set()
        if loading.error is None:
            seconds = round(time.perf_counter() - started, 4)
            _log.info(
                "A version was loaded.", action="version_loaded", model=key[0], version=key[1], duration_s=seconds
            )

    def _read(self, model: str, version: int) -> Loaded:
        record = self._models.version(model, version)
        if record.state == "quarantined":
            raise ModelQuarantined(f"Version {version} of {model!r} is quarantined: {record.reason}.")
        assert record.manifest is not None
        folder = self._models.folder(model, version)
        if (model, version) not in self._verified:
            wrong = self._models.verify(model, version)
            if wrong:
                raise self._quarantine(model, version, "its files differ from its manifest: " + ", ".join(wrong))
        predictor = Predictor.load(folder)
        if (model, version) not in self._verified:
            deviation = predictor.deviation(checkpoint.load(folder / GOLDEN))
            if deviation is not None:
                raise self._quarantine(model, version, f"its golden rows do not come out again: {deviation}")
            self._verified.add((model, version))
        manifest = record.manifest
        return Loaded(manifest, predictor, signature=manifest.signature, size_bytes=manifest.size_bytes)

    def _quarantine(self, model: str, version: int, reason: str) -> ModelQuarantined:
        _log.error(
            "A version was quarantined.", action="version_quarantined", model=model, version=version, reason=reason
        )
        try:
            self._models.quarantine(model, version, reason)
        except ServiceError:
            pass  # it is refused here all the same; the store may be read-only
        return ModelQuarantined(f"Version {version} of {model!r} is quarantined: {reason}.")

    def _measure(self) -> None:
        self._metrics.loaded_bytes.set(sum(each.size_bytes for each in self._loaded.values()))
