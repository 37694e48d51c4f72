"""The way of one prediction: reference to version, version to answer, with its deadline and its metrics.

It meets the control plane only in the store: an alias change gives the store's generation file a later modification
time than it ever had; that is looked at on each request, so the next one is answered by the new version. Knows no
HTTP.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import orjson

from service.errors import DeadlinePassed, Entry, NotFound, ValidationFailed
from service.inference.codec import Limits
from service.inference.runtime import Prediction, Runtime
from service.schemas.versions import Reference, parse_reference
from service.store.models import ModelStore, Resolved
from service.telemetry import Metrics

T = TypeVar("T")
_THREADS: Final = 40
"""Predictions at a time. Most of these wait: for a version that is being loaded, or for the interpreter."""


class DataPlane:
    """Answers predictions from the versions of a store, in threads of its own: slow work elsewhere holds none up."""

    def __init__(self, models: ModelStore, runtime: Runtime, *, limits: Limits, metrics: Metrics) -> None:
        self._models = models
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
        try:
            found = self.resolve(_reference(reference, model))
        except NotFound as error:
            raise error.at("/model") from None
        loaded = self._runtime.get(found.model, found.version)
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlinePassed
        prediction = loaded.predict(inputs, limits=self._limits)
        self._metrics.inference_seconds.observe(prediction.seconds)
        labels = (found.model, str(found.version))
        self._metrics.predictions.labels(*labels).inc()
        rows = len(next(iter(prediction.outputs.values())))
        self._metrics.predicted_rows.labels(*labels).inc(rows)
        return _encode(prediction, found), prediction


def _reference(path: Reference | None, body: str | None) -> Reference:
    if body is None:
        if path is None:
            raise ValidationFailed(
                errors=[Entry("/model", "missing", "Say which model is asked.", expected="name, name@alias or name/3")]
            )
        return path
    given = parse_reference(body)
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


def _encode(prediction: Prediction, found: Resolved) -> bytes:
    manifest = prediction.manifest
    outputs = prediction.outputs
    answer: dict[str, Any] = {"model": manifest.model, "version": manifest.version}
    if found.alias is not None:
        answer["alias"] = found.alias
    answer["digest"] = manifest.digest
    answer["outputs"] = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    if prediction.labels is not None:
        answer["labels"] = prediction.labels
        answer["probabilities"] = prediction.probabilities
        answer["classes"] = prediction.classes
    answer["warnings"] = [entry.to_dict() for entry in prediction.warnings]
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
