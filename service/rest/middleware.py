"""Around every request, as pure ASGI: its id, its metrics, its log line, its headers, the host check, the last catch.

Knows paths and statuses; knows no plane.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.rest.problems import FRAMEWORK, bug, problem
from service.telemetry import Metrics, bind, log, unbind

_log = log(__name__)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_QUIET: Final = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
"""Asked every few seconds, by address: neither logged at INFO nor held to a host name."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observe:
    """Gives each request an id, counts and times it, and logs it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, allowed_hosts: Sequence[str] = ("*",)) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["modelyard.request_id"] = request_id
        status = 0  # until the answer has begun
        started = time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-ID"] = request_id
                out.setdefault("X-Content-Type-Options", "nosniff")
                out.setdefault("Cache-Control", "no-store")
            await send(message)

        tokens = bind(request_id=request_id)
        try:
            if "*" not in self._hosts and scope["path"] not in _QUIET and _host(headers) not in self._hosts:
                code, detail = FRAMEWORK[421]
                await problem(scope, status=421, code=code, detail=detail)(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except Exception:
            self._metrics.internal_errors.inc()
            _log.exception("A request met a bug.", action="internal_error", path=scope["path"])
            if status:
                raise  # too late for another answer: the connection is cut
            await bug(scope)(scope, receive, sending)
        finally:
            self._note(scope, status, time.perf_counter() - started)
            unbind(tokens)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", None) or "unknown"  # templates only: labels stay bounded
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method, route, f"{status // 100}xx").inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds)
        line = _log.debug if scope["path"] in _QUIET else _log.info
        line(
            "A request was answered.",
            action="request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            duration_s=round(seconds, 6),
        )


def _host(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    return host.rsplit(":", 1)[0] if not host.endswith("]") else host
