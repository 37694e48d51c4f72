"""The way of one prediction: reference to version or checkpoint, to its answer, with its deadline and its metrics.

It meets the control plane only in the store: an alias change gives the store's generation file a later modification
time than it ever had; that is looked at on each request, so the next one is answered by the new version. Knows no
HTTP.
"""

from __future__ import annotations

import contextvars
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar, assert_never

import orjson

from service.errors import Conflict, DeadlinePassed, Entry, NotFound, ValidationFailed
from service.inference.codec import Limits
from service.inference.runtime import Loaded, Prediction, Runtime, Trial
from service.jobs.queue import Job, JobQueue
from service.jobs.supervisor import folder_of_job
from service.schemas.jobs import JobState
from service.schemas.versions import JOB_REFERENCE, Manifest, Reference, parse_reference
from service.store.models import ModelStore, Resolved
from service.telemetry import Metrics

T = TypeVar("T")
_THREADS: Final = 40
"""Predictions at a time. Most of these wait: for a version that is being loaded, or for the interpreter."""


class DataPlane:
    """Answers predictions from the versions of a store, in threads of its own: slow work elsewhere holds none up."""

    def __init__(
        self, models: ModelStore, jobs: JobQueue, root: Path, runtime: Runtime, *, limits: Limits, metrics: Metrics
    ) -> None:
        self._models = models
        self._jobs = jobs
        self._root = root
        self._runtime = runtime
        self._limits = limits
        self._metrics = metrics
        self._mutex = threading.Lock()
        self._generation: tuple[int, int] | None = None
        self._resolved: dict[Reference, Resolved] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="predict")

    def close(self) -> None:
        """Take nothing more; what is being computed ends."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` in one of the threads; cancelled before its turn it costs nothing."""
        return self._threads.submit(contextvars.copy_context().run, work)

    def resolve(self, reference: Reference) -> Resolved:
        """Which version a reference means now.

        Raises:
            NotFound: there is no such model, alias or version.
        """
        generation = self._models.generation()
        with self._mutex:
            if generation != self._generation:
                self._generation = generation
                self._resolved.clear()
            found = self._resolved.get(reference)
        if found is None:
            found = self._models.resolve(reference)
            with self._mutex:
                if generation == self._generation and len(self._resolved) < 10_000:
                    self._resolved[reference] = found
        return found

    def predict(
        self, inputs: object, *, reference: Reference | None, model: str | None, deadline: float | None
    ) -> tuple[bytes, Prediction]:
        """Answer `inputs` as JSON bytes.

        Args:
            inputs: the request's `inputs` member.
            reference: what the path names, if it names a model.
            model: the reference in the body; it may repeat the path's model, not contradict it.
            deadline: on the monotonic clock.

        Raises:
            DeadlinePassed: it passed before the forward pass was begun.
            InvalidInput, NotFound, BatchTooLarge, ModelQuarantined: as they say.
        """
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlinePassed
        asked = _reference(reference, model)
        try:
            job = self._job(asked)
            found = self.resolve(asked) if job is None else self._published(job)
        except NotFound as error:
            raise error.at("/model") from None
        if found is not None:
            loaded = self._runtime.get(found.model, found.version)
        else:
            assert job is not None
            loaded = self._trial(job)
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlinePassed
        prediction = loaded.predict(inputs, limits=self._limits)
        self._metrics.inference_seconds.observe(prediction.seconds)
        labels = ("", "") if found is None else (found.model, str(found.version))
        self._metrics.predictions.labels(*labels).inc()
        rows = len(next(iter(prediction.outputs.values())))
        self._metrics.predicted_rows.labels(*labels).inc(rows)
        return _encode(prediction, job, found), prediction

    def _job(self, reference: Reference) -> Job | None:
        """The job that a reference names; None where it names a model."""
        if re.fullmatch(JOB_REFERENCE, reference.model) is None or reference.version is not None:
            return None
        return self._jobs.get(reference.model)

    def _published(self, job: Job) -> Resolved | None:
        """The version that a job has made; None while there is none."""
        output = job.output or {}
        if job.state is not JobState.SUCCEEDED or "version" not in output:
            return None
        return self.resolve(Reference(output["model"], version=output["version"]))

    def _trial(self, job: Job) -> Loaded:
        """The checkpoint of a job that has made no version.

        Raises:
            Conflict: it keeps none.
        """
        try:
            return self._runtime.trial(job.id, folder_of_job(self._root, job.id) / "checkpoints")
        except NotFound:
            detail = f"The job is {job.state.value} and keeps no checkpoint that could answer."
            hint = "A train job keeps one every `checkpoint.every_s` seconds, and when it is paused or cancelled."
            raise Conflict(detail, errors=[Entry("/model", "conflict", detail, hint=hint)]) from None


def _reference(path: Reference | None, body: str | None) -> Reference:
    if body is None:
        if path is None:
            raise ValidationFailed(
                errors=[Entry("/model", "missing", "Say which model is asked.", expected="name, name@alias or name/3")]
            )
        return path
    given = Reference(body) if re.fullmatch(JOB_REFERENCE, body) else parse_reference(body)
    if path is None:
        return given
    if given.model != path.model or (path.version is not None and given.version not in (None, path.version)):
        raise ValidationFailed(
            errors=[
                Entry(
                    "/model",
                    "invalid",
                    f"The path asks {path}, the body {given}.",
                    hint="Leave `model` out, or let both say the same.",
                )
            ]
        )
    return path if path.version is not None else given


def _encode(prediction: Prediction, job: Job | None, found: Resolved | None) -> bytes:
    outputs = prediction.outputs
    warnings = list(prediction.warnings)
    match prediction.source:
        case Manifest() as manifest:
            answer: dict[str, Any] = {"model": manifest.model, "version": manifest.version}
            if found is not None and found.alias is not None:
                answer["alias"] = found.alias
            answer["digest"] = manifest.digest
            if job is not None:
                answer["job"] = job.id
        case Trial() as trial:
            assert job is not None
            answer = {"model": None, "version": None, "digest": None}
            answer |= {"job": trial.job, "step": trial.step, "epoch": trial.epoch}
            detail = f"This is the checkpoint of step {trial.step} of a job that is {job.state.value}: no version."
            hint = f"POST /v1/jobs/{trial.job}/promote publishes it."
            warnings.append(Entry("/model", "unpublished", detail, hint=hint))
        case unknown:
            assert_never(unknown)
    answer["outputs"] = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    if prediction.labels is not None:
        answer["labels"] = prediction.labels
        answer["probabilities"] = prediction.probabilities
        answer["classes"] = prediction.classes
    answer["warnings"] = [entry.to_dict() for entry in warnings]
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
