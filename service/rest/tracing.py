"""Spans by OpenTelemetry, when the framework's own switch is on; nothing of it is in the way when it is off.

The framework makes the span of a request and takes the caller's trace over; here the span is told which version has
answered, predictions come under the framework's eyes, and log lines get the ids of their trace. Knows no exporter: the
environment names it, in OpenTelemetry's own words.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Final

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import ProxyTracerProvider, Span, Tracer, TracerProvider
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.dataplane import Told
from service.errors import ValidationFailed
from service.inference.dispatch import Promise
from service.rest.fast import Begun, Incoming, Lane
from service.telemetry import bind, log, unbind

_log = log(__name__)
_UNTRACED: Final = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
SWITCH: Final = "FASTAPI_OTEL_AUTO_CONFIGURE"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_REQUEST: Final[ContextVar[Span | None]] = ContextVar("modelyard.span", default=None)
"""The span of the request; the current one may be of a step within it."""
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

        tokens = bind(trace_id=trace.format_trace_id(context.trace_id), span_id=trace.format_span_id(context.span_id))
        token = _REQUEST.set(span)
        try:
            await self._app(scope, receive, sending)
        finally:
            _REQUEST.reset(token)
            unbind(tokens)
