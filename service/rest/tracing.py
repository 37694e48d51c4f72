"""Spans by OpenTelemetry, when the framework's own switch is on; nothing of it is in the way when it is off.

The framework makes the span of a request and takes the caller's trace over; here the span is told which version has
answered, predictions come under the framework's eyes, and log lines get the ids of their trace. Calls of gRPC and jobs
have spans of their own. Knows no exporter: the environment names it, in OpenTelemetry's own words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from typing import Final

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry import propagate, trace
from opentelemetry.context import attach
from opentelemetry.trace import (
    NonRecordingSpan,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.dataplane import Told
from service.errors import NotFound, ValidationFailed
from service.inference.dispatch import Promise
from service.jobs.queue import Job, JobQueue
from service.rest.fast import Begun, Incoming, Lane
from service.schemas.jobs import FINAL
from service.telemetry import bind, log, unbind

_log = log(__name__)
_UNTRACED: Final = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
SWITCH: Final = "FASTAPI_OTEL_AUTO_CONFIGURE"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_REQUEST: Final[ContextVar[Span | None]] = ContextVar("modelyard.span", default=None)
"""The span of the request; the current one may be of a step within it."""
_FAULTS: Final = frozenset({2, 4, 12, 13, 14, 15})
"""Codes of gRPC that OpenTelemetry takes for the server's fault: unknown, deadline exceeded, unimplemented, internal,
unavailable, data loss."""
_JOBS: Final = 10_000
"""Jobs that have not ended and are to be traced; more are not."""
OFF: Final[TelemetryConfig] = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def tracing(environment: Mapping[str, str]) -> Tracing | None:
    """Spans, if somebody wants them: by the framework's switch, or with a provider that the process has set up before.

    Raises:
        ValidationFailed: the switch is on, and the packages of the extra are not installed.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environment.get(SWITCH, "").lower() == "true" and environment.get("OTEL_TRACES_EXPORTER") != "none":
        if any(environment.get(name) for name in _ENDPOINTS):
            return Tracing(_provider(), export=True)
        _log.warning(
            f"{SWITCH} is on, but OTEL_EXPORTER_OTLP_ENDPOINT names no collector: there are no spans.",
            action="tracing_off",
        )
    if not isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        return Tracing(None, export=False)
    return None


def _provider() -> TracerProvider:
    """A provider of our own, so that spans come from `modelyard` unless the environment names the service."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401  # the framework will want it
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    except ImportError as error:
        detail = f"{SWITCH} is on, but the packages of OpenTelemetry are not installed: take modelyard[otel]."
        raise ValidationFailed(detail) from error
    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "modelyard"}))
    return SdkTracerProvider(resource=resource, shutdown_on_exit=False)


class Tracing:
    """What the application and the data plane need to have spans.

    Args:
        provider: makes the spans; None is the one that the process has set up.
        export: send them where the environment says.
    """

    def __init__(self, provider: TracerProvider | None, *, export: bool) -> None:
        self._tracer: Tracer = trace.get_tracer("modelyard", __version__, tracer_provider=provider)
        # Metrics are Prometheus's here, and log lines go to stderr with the ids of their trace.
        self.config: TelemetryConfig = {
            "tracer_provider": provider,
            "metrics": False,
            "logs": False,
            "auto_configure": export,
            "exclude": lambda scope: scope["path"] in _UNTRACED,
        }

    def install(self, app: FastAPI) -> None:
        """Put the ids of the trace on what is logged. It must be the outermost of the middlewares."""
        app.add_middleware(_Bound)

    def lanes(self, lanes: Sequence[Lane]) -> list[Lane]:
        """The same lanes, whose requests' spans have the name of their route."""
        return [_named(lane) for lane in lanes]

    def answered(self, told: Told) -> None:
        """Tell the span of this request which version has answered, and what took the time."""
        span = _REQUEST.get()
        if span is None or not span.is_recording():
            return
        span.set_attributes(
            {"modelyard.model": told.model, "modelyard.version": told.version, "modelyard.rows": told.rows}
        )
        past = time.time_ns() - time.monotonic_ns()
        arrived, closed = (past + round(1e9 * seconds) for seconds in (told.arrived, told.closed_at))
        self._tracer.start_span("queue", start_time=min(arrived, closed)).end(closed)
        batch = {"modelyard.batch.requests": told.batch_requests, "modelyard.batch.rows": told.batch_rows}
        self._tracer.start_span("infer", start_time=closed, attributes=batch).end(closed + round(1e9 * told.infer_s))

    @contextmanager
    def call(
        self, service: str, method: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> Iterator[Callable[[int], None]]:
        """The span of a gRPC call, within the trace that its metadata names; it is told the code at the call's end."""
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        parent = propagate.extract({name: value for name, value in metadata if isinstance(value, str)})
        span = self._tracer.start_span(f"{service}/{method}", parent, SpanKind.SERVER, about)

        def ended(code: int) -> None:
            span.set_attribute("rpc.grpc.status_code", code)
            if code in _FAULTS:
                span.set_status(StatusCode.ERROR)

        current = attach(trace.set_span_in_context(span))
        try:
            with _bound(span):
                yield ended
        finally:
            span.end()
            with suppress(ValueError):
                current.var.reset(current)

    def jobs(self, queue: JobQueue) -> Callable[[Job], None]:
        """Trace jobs: the answer is told of each that was queued, in the context of the request for it."""
        return _Jobs(self._tracer, queue).queued


class _Jobs:
    """The spans of the jobs that this process was asked for, each in the trace of its request, once it has ended."""

    def __init__(self, tracer: Tracer, queue: JobQueue) -> None:
        self._tracer = tracer
        self._queue = queue
        self._asked: dict[
            str, tuple[SpanContext, int, int]
        ] = {}  # the request, when it came, and the attempts before it
        self._looks = ThreadPoolExecutor(1, thread_name_prefix="spans")
        queue.changed.subscribe(self._changed)

    def queued(self, job: Job) -> None:
        if len(self._asked) < _JOBS:
            request = _REQUEST.get() or trace.INVALID_SPAN
            self._asked.setdefault(
                job.id, (request.get_span_context(), time.time_ns(), job.attempt)
            )  # else it was paused

    def _changed(self, job_id: str) -> None:
        if job_id in self._asked:
            self._looks.submit(self._look, job_id)

    def _look(self, job_id: str) -> None:
        try:
            if self._queue.state(job_id) in FINAL:
                job = self._queue.get(job_id)
                asked = self._asked.pop(job_id, None)
                if asked is not None:
                    self._tell(job, *asked)
        except NotFound:
            self._asked.pop(job_id, None)
        except Exception:  # nobody asks what came of this
            _log.exception("A job could not be traced.", action="job_untraced", job=job_id)

    def _tell(self, job: Job, request: SpanContext, asked_at: int, before: int) -> None:
        about = {"modelyard.job": job.id, "modelyard.job.kind": job.kind, "modelyard.job.state": job.state.value}
        output = job.output or {}
        about |= {f"modelyard.{name}": output[name] for name in ("model", "version") if output.get(name) is not None}
        parent = trace.set_span_in_context(NonRecordingSpan(request))
        span = self._tracer.start_span(f"job {job.kind}", parent, attributes=about, start_time=asked_at)
        if job.error is not None:
            span.set_attribute("error.type", job.error["code"])
            span.set_status(StatusCode.ERROR, job.error["detail"])
        within = trace.set_span_in_context(span)
        attempts = [attempt for attempt in job.attempts if attempt["number"] > before]
        for attempt in attempts[:1]:
            waited = self._tracer.start_span("queue", within, start_time=asked_at)
            waited.end(max(asked_at, _nanoseconds(attempt["started_at"])))
        for attempt in attempts:
            told = {"modelyard.attempt": attempt["number"], "modelyard.attempt.state": attempt["state"]}
            began, end = _nanoseconds(attempt["started_at"]), _nanoseconds(attempt["ended_at"])
            self._tracer.start_span("attempt", within, attributes=told, start_time=began).end(end)
        span.end(max(asked_at, _nanoseconds(job.finished_at)))


def _nanoseconds(at: str | None) -> int:
    """A time of the database since the epoch; now where there is none."""
    return time.time_ns() if at is None else round(1e9 * datetime.fromisoformat(at).timestamp())


def _named(lane: Lane) -> Lane:
    def begin(named: Mapping[str, str], incoming: Incoming, promise: Promise) -> Begun | None:
        span = trace.get_current_span()
        span.update_name(f"POST {lane.route}")
        span.set_attribute("http.route", lane.route)
        return lane.begin(named, incoming, promise)

    return replace(lane, begin=begin)


class _Bound:
    """Binds the ids of the span to the log lines of its request, and the request's id to the span."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        span = trace.get_current_span()
        context = span.get_span_context()
        if scope["type"] != "http" or not context.is_valid:
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in message.get("headers", ()):
                    if name == b"x-request-id":
                        span.set_attribute("modelyard.request_id", value.decode("latin-1"))
            await send(message)

        with _bound(span):
            await self._app(scope, receive, sending)


@contextmanager
def _bound(span: Span) -> Iterator[None]:
    """Puts the ids of a request's span on its log lines, and lets `answered` find it."""
    context = span.get_span_context()
    tokens = bind(trace_id=trace.format_trace_id(context.trace_id), span_id=trace.format_span_id(context.span_id))
    token = _REQUEST.set(span)
    try:
        yield
    finally:
        with suppress(ValueError):  # a stream that nobody reads any more ends elsewhere, where all this is not
            _REQUEST.reset(token)
            unbind(tokens)
