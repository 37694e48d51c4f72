"""Around every request, as pure ASGI: its id, its metrics, its log line, its headers, the host check, the last catch.

Knows paths and statuses; knows no plane.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import CrossOrigin
from service.rest.problems import FRAMEWORK, bug, problem, respond
from service.telemetry import Metrics, bind, log, unbind

_log = log(__name__)
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_QUIET: Final = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
"""Asked every few seconds, by address: neither logged at INFO nor held to a host name."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_GONE: Final = 499
"""What is noted of a request whose client went before it was answered; it is never sent."""
_PAGES: Final = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc"})
"""Pages of the framework with scripts of their own in them."""
_INLINE: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

_HEADERS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
]
_HEADERS_OF_TLS: Final = [*_HEADERS, (b"strict-transport-security", b"max-age=31536000")]


def security_headers(*, https: bool) -> list[tuple[bytes, bytes]]:
    """What every answer carries that has no other value for it: data is not sniffed, framed, kept or executed."""
    return _HEADERS_OF_TLS if https else _HEADERS


_LOCAL: Final = (".localhost", ".local", ".internal", ".home.arpa")
"""How names end that nobody can have in the public DNS."""


class Hosts:
    """Which values of the Host header are answered.

    Args:
        named: those that are; "*" is every one.
        local: of every one, only addresses and names that nobody can own. Another name in a browser on this machine
            may be a stranger's who lets it lead here (DNS rebinding), and whose page would then be one of our own.
    """

    def __init__(self, named: Sequence[str] = ("*",), *, local: bool = False) -> None:
        self._named = frozenset(name.lower() for name in named)
        self._all = "*" in self._named and not local
        self._local = "*" in self._named and local

    def answered(self, host: str) -> bool:
        """Whether a request for this host is; `host` may have a port."""
        if self._all:
            return True
        name = host.lower()
        if not name.endswith("]"):
            name = name.rsplit(":", 1)[0]
        return name in self._named or (self._local and _is_nobodys(name))


def _is_nobodys(name: str) -> bool:
    with suppress(ValueError):
        ip_address(name.strip("[]").partition("%")[0])
        return True
    name = name.rstrip(".")
    return "." not in name or name.endswith(_LOCAL)


ALL_HOSTS: Final = Hosts()


class Observe:
    """Gives each request an id, counts and times it, and logs it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, hosts: Hosts = ALL_HOSTS) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["modelyard.request_id"] = request_id
        status = 0  # until the answer has begun
        held: Message | None = None  # the beginning of a page, until its scripts have been seen
        started = time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status, held
            if message["type"] == "http.response.start":
                status = message["status"]
                if scope["path"] in _PAGES and status == 200:
                    held = message
                    return
                _complete(message, scope, request_id)
            elif held is not None:
                _complete(held, scope, request_id, policy=_policy_of(message.get("body", b"")))
                await send(held)
                held = None
            await send(message)

        tokens = bind(request_id=request_id)
        try:
            if len(headers.getlist("host")) > 1:  # which of them would a proxy in front have gone by?
                code, detail = FRAMEWORK[400]
                await problem(scope, status=400, code=code, detail=detail)(scope, receive, sending)
            elif scope["path"] not in _QUIET and not self._hosts.answered(headers.get("host", "")):
                code, detail = FRAMEWORK[421]
                await problem(scope, status=421, code=code, detail=detail)(scope, receive, sending)
            elif headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in _SAFE:
                await respond(CrossOrigin(), scope)(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = status or _GONE  # in the middle of its body: nobody is there to be answered
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
        route = getattr(scope.get("route"), "path_format", None)  # templates only: labels stay bounded
        route = route or scope.get("modelyard.route", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method, route, f"{status // 100}xx").inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds)
        line = _log.debug if scope["path"] in _QUIET else _log.info
        principal = scope.get("modelyard.principal")
        caller = {"key": principal.id, "caller": principal.name} if principal is not None else {}
        line(
            "A request was answered.",
            action="request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            duration_s=round(seconds, 6),
            **caller,
        )


def _complete(message: Message, scope: Scope, request_id: str, *, policy: bytes | None = None) -> None:
    """Add the headers of every answer to the message that begins one."""
    headers: list[Any] = [pair for pair in message.get("headers", ()) if pair[0] != b"x-request-id"]
    headers.append((b"x-request-id", request_id.encode()))
    if policy is not None:
        headers.append((b"content-security-policy", policy))
    there = {name for name, _ in headers}
    headers += [pair for pair in security_headers(https=scope.get("scheme") == "https") if pair[0] not in there]
    message["headers"] = headers


def _policy_of(page: bytes) -> bytes:
    """A policy that lets a page run this server's scripts and those that are in it, and no others."""
    digests = [base64.b64encode(hashlib.sha256(script).digest()) for script in _INLINE.findall(page)]
    scripts = b" ".join([b"'self'", *(b"'sha256-" + digest + b"'" for digest in digests)])
    return (
        b"default-src 'none'; script-src " + scripts + b"; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"font-src 'self' data:; connect-src 'self'; worker-src blob:; frame-ancestors 'none'; base-uri 'none'; "
        b"form-action 'none'"
    )
