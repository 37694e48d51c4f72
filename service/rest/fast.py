"""The short way of a prediction: pure ASGI, in front of the framework.

A request that is as plain as most are is read, queued and answered here. Whatever is out of the ordinary goes on to the
framework's routes with the body that was read: these say what is wrong with it, if anything is. So nothing here needs
words of its own, and both ways answer the same. Other operations may have lanes of their own here.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from service.dataplane import DataPlane, read_plain
from service.errors import Busy, DeadlinePassed, ServiceError
from service.keys import Guard, Principal, Scope
from service.rest.bodies import INLINE_BYTES
from service.rest.middleware import REQUEST_ID, security_headers
from service.rest.problems import respond
from service.schemas.document import RESOURCE_NAME
from service.schemas.versions import Reference
from service.telemetry import Count, Metrics, log

_log = log(__name__)
_std_log = logging.getLogger(__name__)
_PATHS: Final = 10_000
"""Paths whose lane is remembered; they come from clients, so there must be an end."""
_WATCH_S: Final = 0.005
"""After so long a wait it is worth while to see whether the client is still there."""

Headers = Sequence[tuple[bytes, bytes]]


class Reply(NamedTuple):
    """An answer: its status, its own headers (without length, id and those of every answer), its bytes."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Incoming(NamedTuple):
    """A request whose body was read, and whose caller may do this.

    Args:
        headers: with names in lower case; none stands twice.
        body: all of it.
        charge: count rows against the caller's quota, once they are known; raises RateLimited.
        watch: call it with a future before a wait that may be long: it is cancelled when the client goes.
    """

    headers: Mapping[bytes, bytes]
    body: bytes
    charge: Callable[[int], None]
    watch: Callable[[asyncio.Future[Any]], None]


@dataclass(frozen=True, slots=True)
class Lane:
    """An operation that is answered without the framework.

    Args:
        route: its template, for metrics.
        path: the paths that it takes; the named groups are given to `serve`.
        suits: whether a request with these headers is plain enough.
        serve: answers, or gives None where the framework's route is the way. It may raise ServiceErrors.
        limit: bytes of a body.
        scope: what the caller must be allowed.
    """

    route: str
    path: re.Pattern[str]
    suits: Callable[[Mapping[bytes, bytes]], bool]
    serve: Callable[[Mapping[str, str], Incoming], Awaitable[Reply | None]]
    limit: int
    scope: Scope = Scope.PREDICT


class FastPath:
    """Answers the requests of its lanes that are plain; hands all others on.

    Args:
        app: the application behind.
        lanes: what is answered here.
        guard: who may come in.
        metrics: as in `middleware.Observe`, which sees nothing of what is answered here.
        allowed_hosts: requests for other hosts are handed on, to be refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lanes: Sequence[Lane],
        guard: Guard,
        metrics: Metrics,
        allowed_hosts: Sequence[str] = ("*",),
    ) -> None:
        self._app = app
        self._lanes = tuple(lanes)
        self._guard = guard
        self._metrics = metrics
        self._hosts = None if "*" in allowed_hosts else frozenset(host.lower().encode() for host in allowed_hosts)
        self._known: dict[str, tuple[Lane, Mapping[str, str]] | None] = {}
        self._seconds = {lane.route: metrics.request_seconds.labels("POST", lane.route) for lane in lanes}
        self._counts: dict[tuple[str, int], Count] = {}

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        try:
            found = self._known[path]
        except KeyError:
            found = self._find(path)
        if found is None:
            await self._app(scope, receive, send)
            return
        lane, named = found
        headers = scope["headers"]
        table = dict(headers)
        length = table.get(b"content-length", b"")
        if (
            len(table) != len(headers)
            or not length.isdigit()
            or len(length) > 12
            or int(length) > lane.limit
            or (self._hosts is not None and _host(table) not in self._hosts)
            or table.get(b"sec-fetch-site") == b"cross-site"
            or not lane.suits(table)
        ):
            await self._app(scope, receive, send)
            return
        await self._serve(lane, named, table, scope, receive, send)

    async def _serve(
        self,
        lane: Lane,
        named: Mapping[str, str],
        table: Mapping[bytes, bytes],
        scope: Connection,
        receive: Receive,
        send: Send,
    ) -> None:
        started = time.perf_counter()
        given = table.get(b"x-request-id")
        if given is None or REQUEST_ID.fullmatch(given.decode("latin-1")) is None:
            given = b"%032x" % random.getrandbits(128)
        principal: Principal | None = None
        body: bytes | None = None
        waiter: _Watcher | None = None
        try:
            if not self._guard.open:
                client = scope.get("client")
                principal = self._guard.admit(scope["headers"], client[0] if client else "", lane.scope)
                scope["modelyard.principal"] = principal
            body = await _read(receive)
            if body is None:
                self._note(lane, 499, started, scope, given)  # the client has gone
                return
            waiter = _Watcher(receive)
            charge = _nothing if principal is None else self._charging(principal, scope)
            reply = await lane.serve(named, Incoming(table, body, charge, waiter.watch))
        except ServiceError as error:
            if body is not None and not isinstance(error, (Busy, DeadlinePassed)):
                reply = None  # the framework's route says what is wrong, in its words
            else:
                await self._refuse(error, lane, given, started, named, scope, receive, send)
                return
        except asyncio.CancelledError:
            if waiter is not None and waiter.gone:
                self._note(lane, 499, started, scope, given)
                return
            raise
        finally:
            if waiter is not None:
                waiter.close()
        if reply is None:
            assert body is not None
            await self._app(scope, _again(body, receive), send)
            return
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [
                    *reply.headers,
                    (b"content-length", b"%d" % len(reply.body)),
                    (b"x-request-id", given),
                    *security_headers(https=scope.get("scheme") == "https"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": reply.body})
        self._note(lane, reply.status, started, scope, given)

    def _charging(self, principal: Principal, scope: Connection) -> Callable[[int], None]:
        def charge(rows: int) -> None:
            self._guard.charge(principal, rows)
            scope["modelyard.charged"] = True

        return charge

    async def _refuse(
        self,
        error: ServiceError,
        lane: Lane,
        request_id: bytes,
        started: float,
        named: Mapping[str, str],
        scope: Connection,
        receive: Receive,
        send: Send,
    ) -> None:
        scope["modelyard.request_id"] = request_id.decode("latin-1")
        scope.setdefault("path_params", dict(named))
        response = respond(error, scope)
        there = {name for name, _ in response.raw_headers}
        response.raw_headers += [
            (b"x-request-id", request_id),
            *(pair for pair in security_headers(https=scope.get("scheme") == "https") if pair[0] not in there),
        ]
        await response(scope, receive, send)
        self._note(lane, response.status_code, started, scope, request_id)

    def _note(self, lane: Lane, status: int, started: float, scope: Connection, request_id: bytes) -> None:
        seconds = time.perf_counter() - started
        key = (lane.route, status // 100)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._metrics.requests.labels("POST", lane.route, f"{status // 100}xx")
        count.inc()
        self._seconds[lane.route].observe(seconds)
        level = logging.DEBUG if status < 400 else logging.INFO
        if not _std_log.isEnabledFor(level):
            return  # a line for each prediction would take longer than the prediction
        principal = scope.get("modelyard.principal")
        caller = {"key": principal.id, "caller": principal.name} if principal is not None else {}
        (_log.debug if status < 400 else _log.info)(
            "A request was answered.",
            action="request",
            method="POST",
            path=scope["path"],
            status=status,
            duration_s=round(seconds, 6),
            request_id=request_id.decode("latin-1"),
            **caller,
        )

    def _find(self, path: str) -> tuple[Lane, Mapping[str, str]] | None:
        """The lane of a path, and what its groups are."""
        for lane in self._lanes:
            match = lane.path.fullmatch(path)
            if match is not None:
                if len(self._known) >= _PATHS:
                    self._known.clear()
                self._known[path] = lane, match.groupdict()
                return self._known[path]
        return None


def _nothing(_: int) -> None:
    """Nobody has a quota."""


def _host(headers: Mapping[bytes, bytes]) -> bytes:
    host = headers.get(b"host", b"").lower()
    return host.rsplit(b":", 1)[0] if not host.endswith(b"]") else host


async def _read(receive: Receive) -> bytes | None:
    """The body; the server sees to it that it is as long as its header says. None when the client goes."""
    message = await receive()
    if message["type"] != "http.request":
        return None
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    pieces = [body]
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read once more, then what comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class _Watcher:
    """Sees whether the client goes while its request waits; costs nothing while the wait is short."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.gone = False

    def watch(self, future: asyncio.Future[Any]) -> None:
        loop = future.get_loop()
        self._timer = loop.call_later(_WATCH_S, self._begin, future)

    def _begin(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            self._task = future.get_loop().create_task(self._listen(future))

    async def _listen(self, future: asyncio.Future[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not future.done():
            self.gone = True
            future.cancel()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


# -- predictions ------------------------------------------------------------------------------------------------------

_TYPE: Final = (b"content-type", b"application/json")


def predict_lanes(plane: DataPlane, *, json_bytes: int) -> Iterator[Lane]:
    """POST /predict and its longer forms."""
    versions: dict[int, tuple[bytes, bytes]] = {}

    async def serve(named: Mapping[str, str], incoming: Incoming) -> Reply | None:
        path = None
        if named:
            number = named.get("number")
            path = Reference(named["name"], version=int(number) if number else None)
        arrived = time.monotonic()
        if len(incoming.body) < INLINE_BYTES:
            asked = read_plain(incoming.body)
        else:
            asked = await asyncio.wrap_future(plane.submit(partial(read_plain, incoming.body)))
        if asked is None:
            return None
        ticket = plane.begin(asked, path=path, arrived=arrived, charge=incoming.charge)
        if ticket is None:
            return None
        if ticket.long:
            incoming.watch(ticket.future)
        answered = await plane.answer(ticket)
        if answered is None:
            return None
        version = versions.get(answered.version or 0)
        if version is None:
            version = versions[answered.version or 0] = (b"x-model-version", b"%d" % (answered.version or 0))
        return Reply(200, [_TYPE, (b"server-timing", answered.timing), version], answered.body)

    model = rf"/v1/models/(?P<name>{RESOURCE_NAME.strip('^$')})"
    paths = {
        "/predict": r"/predict",
        "/v1/models/{name}/predict": rf"{model}/predict",
        "/v1/models/{name}/versions/{number}/predict": rf"{model}/versions/(?P<number>[1-9][0-9]{{0,8}})/predict",
    }
    for route, pattern in paths.items():
        yield Lane(route, re.compile(pattern), _is_json, serve, json_bytes)


def _is_json(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-type") == b"application/json" and b"content-encoding" not in headers
