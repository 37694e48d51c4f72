"""Names of metrics and log keys in one place, and how log lines are written.

Logs are sentences with an `action` key and ids. Metric labels never come from clients. Knows no request and no job.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Child = TypeVar("Child")
_MAX_VALUE = 256
_VERSIONS: Final = 200
"""Versions with metrics of their own; those that come later share one label."""
_OTHER: Final = "other"
LARGEST: Final = ("modelyard_input_shift", "modelyard_store_free_bytes")
"""Gauges of which several processes tell the largest; all else is summed."""
_REMEMBERED: Final = 1000
"""Rows over which a mean of late is taken, about."""
_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
_SECRET: Final = re.compile(r"msk_([A-Za-z0-9]{1,32})_[A-Za-z0-9_-]+")


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
    """Send our lines and those of the libraries to stderr, as text for people or JSON lines for machines.

    What is for people is shorter: a request is one phrase, the time is local, and the web server's own words about its
    start and end are left out, since we say the same. With the level DEBUG nothing is left out.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    brief = console and level != "DEBUG"
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, sort_keys=False)
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=True)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _add_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
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
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([_for_people] if brief else []),
                renderer,
            ],
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
    # uvicorn says all by this name, whether it is an error or not.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING if brief else logging.NOTSET)
    logging.getLogger("httpx").setLevel(logging.WARNING)


_process: int | None = None


def name_process(place: int) -> None:
    """Put the place of this process among those of its server on every log line."""
    global _process
    _process = place


def _add_process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if _process is not None:
        event["process"] = _process
    return event


def redacted(text: str) -> str:
    """The text with only the public part of any API key in it."""
    return _SECRET.sub(r"msk_\1_…", text) if "msk_" in text else text


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No key reaches a log, whatever a message, a path or a traceback holds."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redacted(value)
        elif isinstance(value, (list, tuple, dict)) and "msk_" in (text := repr(value)):
            event[key] = redacted(text)
    return event


def _shorten(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and key not in ("event", "exception"):
            clean = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in value[:_MAX_VALUE])
            event[key] = clean
    return event


def _for_people(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The line without what only a program asks for: an action, a module of ours, fractions of a second."""
    event["timestamp"] = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if str(event.get("logger", "")).startswith("service."):
        del event["logger"]
    if event.pop("action", None) == "request":
        took = 1000 * event.pop("duration_s")
        told = "{method} {path} {status}".format(**{name: event.pop(name) for name in ("method", "path", "status")})
        event["event"] = f"{told} in {took:.0f} ms" if took >= 1 else f"{told} in less than 1 ms"
    return event


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        """Add to it."""
        self.value += by


class Distribution:
    """How many values lay below each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Take a value in."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class _Family(Collector):
    """Metrics of one name, told when somebody asks."""

    _kind: ClassVar[type[Any]]
    """The library's form of what is told."""

    def __init__(self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._described = (name, text, tuple(labels))
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """The name, for the registry."""
        return [self._empty()]

    def collect(self) -> Iterable[Metric]:
        """The samples."""
        family = self._empty()
        for values, sample in self._samples():
            family.add_metric(values, *sample)
        yield family

    def _empty(self) -> Any:
        name, text, labels = self._described
        return self._kind(name, text, labels=labels)

    def _samples(self) -> Iterable[tuple[tuple[str, ...], tuple[Any, ...]]]:
        """The values of the labels, and what the library's form takes beside them."""
        raise NotImplementedError


class _Children(_Family, Generic[Child]):
    """Metrics that cost a fraction of the library's: for what is counted with each request.

    Each child is written in one thread, or under a lock that its writers share.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._children: dict[tuple[str, ...], Child] = {}
        super().__init__(name, text, labels, registry=registry)

    def labels(self, *values: str) -> Child:
        """The child of these labels."""
        found = self._children.get(values)
        return self._children.setdefault(values, self._child()) if found is None else found

    def _samples(self) -> Iterable[tuple[tuple[str, ...], tuple[Any, ...]]]:
        return [(values, self._told(child)) for values, child in list(self._children.items())]

    def _child(self) -> Child:
        raise NotImplementedError

    def _told(self, child: Child) -> tuple[Any, ...]:
        raise NotImplementedError


class Counts(_Children[Count]):
    """Counters, at a tenth of the cost."""

    _kind = CounterMetricFamily

    def _child(self) -> Count:
        return Count()

    def _told(self, child: Count) -> tuple[Any, ...]:
        return (child.value,)


class Distributions(_Children[Distribution]):
    """Histograms, at a fifth of the cost."""

    _kind = HistogramMetricFamily

    def __init__(
        self, name: str, text: str, labels: Sequence[str], *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._bounds = tuple(float(bound) for bound in buckets)
        self._names = (*map(floatToGoString, self._bounds), "+Inf")
        super().__init__(name, text, labels, registry=registry)

    def _child(self) -> Distribution:
        return Distribution(self._bounds)

    def _told(self, child: Distribution) -> tuple[Any, ...]:
        running = itertools.accumulate(list(child.counts))
        return list(zip(self._names, running, strict=True)), child.total


class Mean:
    """The mean of what was last observed, of which later values count more."""

    __slots__ = ("_weight", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._weight = 0.0

    def observe(self, value: float, weight: int) -> None:
        """Take the mean of `weight` values in; what is no number is passed over."""
        if not math.isfinite(value):
            return
        self._weight = min(self._weight + weight, max(_REMEMBERED, weight))
        self.value += weight / self._weight * (value - self.value)


class Means(_Children[Mean]):
    """Gauges of means."""

    _kind = GaugeMetricFamily

    def _child(self) -> Mean:
        return Mean()

    def _told(self, child: Mean) -> tuple[Any, ...]:
        return (child.value,)


class Readings(_Family):
    """Gauges that are read when somebody asks, so that they cost nothing meanwhile."""

    _kind = GaugeMetricFamily

    def __init__(self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self.read: Callable[[], Mapping[tuple[str, ...], float]] = dict
        """Set by who knows: the values by labels."""
        super().__init__(name, text, labels, registry=registry)

    def _samples(self) -> Iterable[tuple[tuple[str, ...], tuple[Any, ...]]]:
        return [(values, (value,)) for values, value in self.read().items()]


class VersionMetrics:
    """The metrics of one version's predictions. Forward passes are counted under a lock, since they run in threads; all
    else on the event loop.
    """

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        labels = (model, version)
        self.labels = labels
        self._metrics = metrics
        self._predictions = metrics.predictions.labels(*labels)
        self._rows = metrics.predicted_rows.labels(*labels)
        self._decode = metrics.decode_seconds.labels(*labels)
        self._infer = metrics.inference_seconds.labels(*labels)
        self._batch = metrics.batch_rows.labels(*labels)
        self.queued = metrics.queue_seconds.labels(*labels).observe
        """Takes the seconds that a prediction has waited for its turn."""
        self.encoded = metrics.encode_seconds.labels(*labels).observe
        """Takes the seconds in which an answer was written."""
        self._refused = {
            reason: metrics.refused_predictions.labels(*labels, reason) for reason in ("overloaded", "deadline", "gone")
        }
        self._mutex = threading.Lock()

    def ran(
        self,
        requests: int,
        rows: int,
        infer_s: float,
        assemble_s: float,
        *,
        outside: Mapping[str, int] = MappingProxyType({}),
        shifts: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Count one forward pass, and the predictions that it has answered.

        Args:
            requests, rows: that it has answered.
            infer_s, assemble_s: seconds of the forward pass, and in which its rows were made one array.
            outside: by input, the rows in which it lies outside the training range.
            shifts: by input, how far its mean is from that of training, in standard deviations.
        """
        with self._mutex:
            if (outside or shifts) and self.labels[0] != _OTHER:
                for name, count in outside.items():
                    self._metrics.input_outside.labels(*self.labels, name).inc(count)
                for name, shift in shifts.items():
                    self._metrics.input_shift.labels(*self.labels, name).observe(shift, rows)
            self._predictions.inc(requests)
            self._rows.inc(rows)
            self._batch.observe(rows)
            self._infer.observe(infer_s)
            self._decode.observe(assemble_s)

    def refused(self, reason: Literal["overloaded", "deadline", "gone"]) -> None:
        """Count one prediction that was not computed."""
        self._refused[reason].inc()


class Metrics:
    """The Prometheus metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counts(
            "modelyard_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Distributions(
            "modelyard_http_request_seconds",
            "Time from the request's headers to the end of its answer.",
            ["method", "route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.predictions = Counts(
            "modelyard_predictions", "Predictions answered.", ["model", "version"], registry=self.registry
        )
        self.predicted_rows = Counts(
            "modelyard_predicted_rows", "Rows predicted.", ["model", "version"], registry=self.registry
        )
        self.inference_seconds = Distributions(
            "modelyard_inference_seconds",
            "Time of one forward pass.",
            ["model", "version"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = Distributions(
            "modelyard_queue_seconds",
            "Time that a prediction waits for its turn.",
            ["model", "version"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.decode_seconds = Distributions(
            "modelyard_decode_seconds",
            "Time in which the rows of one forward pass are made into one array.",
            ["model", "version"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.encode_seconds = Distributions(
            "modelyard_encode_seconds",
            "Time in which one answer is written as JSON.",
            ["model", "version"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_rows = Distributions(
            "modelyard_batch_rows",
            "Rows of one forward pass.",
            ["model", "version"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096),
            registry=self.registry,
        )
        self.refused_predictions = Counts(
            "modelyard_predictions_refused",
            "Predictions that were not computed.",
            ["model", "version", "reason"],
            registry=self.registry,
        )
        self.in_flight = Readings(
            "modelyard_predictions_in_flight",
            "Predictions that wait for their forward pass, or are in one that runs in a thread.",
            ["model", "version"],
            registry=self.registry,
        )
        self.input_outside = Counts(
            "modelyard_input_outside",
            "Rows in which an input lay outside the training range, or was an unknown text.",
            ["model", "version", "input"],
            registry=self.registry,
        )
        self.input_shift = Means(
            "modelyard_input_shift",
            "How far an input's recent mean is from that of training, in training standard deviations.",
            ["model", "version", "input"],
            registry=self.registry,
        )
        self._versions: dict[tuple[str, str], VersionMetrics] = {}
        self.loads = Counter("modelyard_version_loads", "Versions loaded.", ["outcome"], registry=self.registry)
        for outcome in ("ok", "failed"):
            self.loads.labels(outcome)  # from 0 on, so that an alert sees the first of them too
        self.load_seconds = Histogram(
            "modelyard_version_load_seconds",
            "Time in which a version is read, checked and tried.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.evictions = Counter(
            "modelyard_version_evictions", "Loaded versions that were let go.", ["reason"], registry=self.registry
        )
        self.swaps = Counter(
            "modelyard_alias_swaps",
            "Changes of the version that an alias in use leads to.",
            ["outcome"],
            registry=self.registry,
        )
        self.retreats = Counter(
            "modelyard_alias_retreats", "Versions that guards of aliases took back.", registry=self.registry
        )
        self.loaded_bytes = Gauge("modelyard_loaded_bytes", "Bytes of loaded versions.", registry=self.registry)
        self.jobs = Gauge("modelyard_jobs", "Jobs by state.", ["state"], registry=self.registry)
        self.jobs_ended = Counter("modelyard_jobs_ended", "Jobs ended.", ["kind", "state"], registry=self.registry)
        for kind in ("train", "evaluate", "import", "export"):
            for state in ("succeeded", "failed", "cancelled"):
                self.jobs_ended.labels(kind, state)
        self.store_free_bytes = Gauge("modelyard_store_free_bytes", "Free disk space.", registry=self.registry)
        self.refusals = Counter(
            "modelyard_key_refusals", "Requests refused for their API key.", ["reason"], registry=self.registry
        )
        self.internal_errors = Counter("modelyard_internal_errors", "Answers 500: bugs.", registry=self.registry)

    def of_version(self, model: str, version: str) -> VersionMetrics:
        """The metrics of a version; of all that come after the first 200 it is the same, with the label `other`."""
        key = (model, version)
        if key not in self._versions:
            if len(self._versions) >= _VERSIONS:
                key = (_OTHER, _OTHER)
            if key not in self._versions:
                self._versions[key] = VersionMetrics(self, *key)
        return self._versions[key]
