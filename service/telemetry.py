"""Names of metrics and log keys in one place, and how log lines are written.

Logs are sentences with an `action` key and ids. Metric labels never come from clients. Knows no request and no job.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_MAX_VALUE = 256


def log(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; call it as `log(...).info("A sentence.", action="…", job="…")`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def bind(**ids: str) -> Mapping[str, Any]:
    """Put ids on every log line of this request or thread; give the answer to `unbind`."""
    return structlog.contextvars.bind_contextvars(**ids)


def unbind(tokens: Mapping[str, Any]) -> None:
    """Undo a `bind`."""
    structlog.contextvars.reset_contextvars(**tokens)


def configure_logging(*, level: str, style: Literal["auto", "console", "json"]) -> None:
    """Send our lines and those of the libraries to stderr, as text for people or JSON lines for machines."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(ensure_ascii=True)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _shorten,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _shorten(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and key not in ("event", "exception"):
            clean = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in value[:_MAX_VALUE])
            event[key] = clean
    return event


class Metrics:
    """The Prometheus metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "modelyard_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "modelyard_http_request_seconds",
            "Time from the request's headers to the end of its answer.",
            ["method", "route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.predictions = Counter(
            "modelyard_predictions", "Predictions answered.", ["model", "version"], registry=self.registry
        )
        self.predicted_rows = Counter(
            "modelyard_predicted_rows", "Rows predicted.", ["model", "version"], registry=self.registry
        )
        self.inference_seconds = Histogram(
            "modelyard_inference_seconds",
            "Time of one forward pass.",
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
            registry=self.registry,
        )
        self.loads = Counter("modelyard_version_loads", "Versions loaded.", ["outcome"], registry=self.registry)
        self.loaded_bytes = Gauge("modelyard_loaded_bytes", "Bytes of loaded versions.", registry=self.registry)
        self.jobs = Gauge("modelyard_jobs", "Jobs by state.", ["state"], registry=self.registry)
        self.jobs_ended = Counter("modelyard_jobs_ended", "Jobs ended.", ["kind", "state"], registry=self.registry)
        self.store_free_bytes = Gauge("modelyard_store_free_bytes", "Free disk space.", registry=self.registry)
        self.internal_errors = Counter("modelyard_internal_errors", "Answers 500: bugs.", registry=self.registry)
