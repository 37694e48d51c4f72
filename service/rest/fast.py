"""The short way of a prediction, in front of the framework: what is plain enough for it, who may, how it is answered.

A request that is as plain as most are is queued and answered here. Whatever is out of the ordinary goes on to the
framework's routes with the body that was read: these say what is wrong with it, if anything is. So nothing here needs
words of its own, and both ways answer the same. Other operations may have lanes of their own here.

Here it is an ASGI application; `lane` asks the same object from below ASGI, by its other methods.
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

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from service.dataplane import DataPlane, Ticket, read_plain
from service.errors import Busy, DeadlinePassed, ServiceError
from service.inference.dispatch import Promise
from service.inference.runtime import NotPlainError, Slice
from service.keys import Guard, Principal, Scope
from service.rest.bodies import INLINE_BYTES
from service.rest.middleware import ALL_HOSTS, REQUEST_ID, Hosts, security_headers
from service.rest.problems import bug, respond
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


class Begun(NamedTuple):
    """A request that waits for its turn.

    Args:
        ticket: of the data plane.
        asked: what its lane must know to answer it.
    """

    ticket: Ticket
    asked: Any = None


@dataclass(frozen=True, slots=True)
class Lane:
    """An operation that is answered without the framework.

    Args:
        route: its template, for metrics.
        path: the paths that it takes; the named groups are given to `begin`.
        suits: whether a request with these headers is plain enough.
        begin: lets a request wait for its turn, and the promise take its part of the answers; None where that is not to
            be done at once. It may raise ServiceErrors.
        finish: makes the answer of what the promise was given; None where the framework's route is the way.
        failed: is told of another end: what the promise was given in its place, or that nobody waits any more.
        aside: answers what was not begun, with work that may be long; None where the framework's route is the way.
        limit: bytes of a body.
        scope: what the caller must be allowed.
    """

    route: str
    path: re.Pattern[str]
    suits: Callable[[Mapping[bytes, bytes]], bool]
    begin: Callable[[Mapping[str, str], Incoming, Promise], Begun | None]
    finish: Callable[[Begun, Slice], Reply | None]
    failed: Callable[[Begun, BaseException], None]
    aside: Callable[[Mapping[str, str], Incoming], Awaitable[Reply | None]]
    limit: int
    scope: Scope = Scope.PREDICT


class Question:
    """A request on the short way, from its headers to the line in the log.

    Args:
        lane: that takes it.
        named: the groups of its path.
        table: its headers, by names in lower case.
        path: as it was sent.
        https: whether it came encrypted.
    """

    __slots__ = ("charged", "https", "lane", "named", "path", "principal", "request_id", "started", "table")

    def __init__(
        self, lane: Lane, named: Mapping[str, str], table: Mapping[bytes, bytes], path: str, *, https: bool
    ) -> None:
        self.lane = lane
        self.named = named
        self.table = table
        self.path = path
        self.https = https
        self.started = time.perf_counter()
        given = table.get(b"x-request-id")
        if given is None or REQUEST_ID.fullmatch(given.decode("latin-1")) is None:
            given = b"%032x" % random.getrandbits(128)
        self.request_id = given
        self.principal: Principal | None = None
        self.charged = 0  # rows


class FastPath:
    """Answers the requests of its lanes that are plain; hands all others on.

    Args:
        app: the application behind.
        lanes: what is answered here.
        guard: who may come in.
        metrics: as in `middleware.Observe`, which sees nothing of what is answered here.
        hosts: requests for others are handed on, to be refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lanes: Sequence[Lane],
        guard: Guard,
        metrics: Metrics,
        hosts: Hosts = ALL_HOSTS,
    ) -> None:
        self._app = app
        self._lanes = tuple(lanes)
        self.guard = guard
        self._metrics = metrics
        self._hosts = hosts
        self._known: dict[str, tuple[Lane, Mapping[str, str]] | None] = {}
        self._seconds = {lane.route: metrics.request_seconds.labels("POST", lane.route) for lane in lanes}
        self._counts: dict[tuple[str, int], Count] = {}
        self.starts = tuple(sorted({lane.route.partition("{")[0] for lane in lanes}))
        """How the paths of all lanes begin."""

    # -- for whatever brings requests --------------------------------------------------------------------------------

    def recognise(
        self, method: str, path: str, query: bytes, headers: Headers
    ) -> tuple[Lane, Mapping[str, str], Mapping[bytes, bytes]] | None:
        """The lane of a request, the groups of its path and its headers; None where it is not plain enough for one.

        Args:
            headers: with names in lower case.
        """
        if method != "POST" or query:
            return None
        try:
            found = self._known[path]
        except KeyError:
            found = self._find(path)
        if found is None:
            return None
        lane, named = found
        table = dict(headers)
        length = table.get(b"content-length", b"")
        if (
            len(table) != len(headers)
            or not length.isdigit()
            or len(length) > 12
            or int(length) > lane.limit
            or not self._hosts.answered(table.get(b"host", b"").decode("latin-1"))
            or table.get(b"sec-fetch-site") == b"cross-site"
            or not lane.suits(table)
        ):
            return None
        return lane, named, table

    def charge(self, question: Question, rows: int) -> None:
        """Count rows against the caller's quota, once for each request.

        Raises:
            RateLimited: it is used up.
        """
        if question.principal is not None and not question.charged:
            self.guard.charge(question.principal, rows)
            question.charged = rows

    def give_back(self, question: Question) -> None:
        """Take back what was counted: the request is refused, or counted where it is handed on to."""
        if question.principal is not None and question.charged:
            self.guard.give_back(question.principal, question.charged)
            question.charged = 0

    def told_elsewhere(self, error: BaseException) -> bool:
        """Whether the framework's route says what is wrong, in its words: it knows more of the request."""
        return isinstance(error, NotPlainError) or (
            isinstance(error, ServiceError) and not isinstance(error, (Busy, DeadlinePassed))
        )

    def refusal(self, error: BaseException, question: Question) -> Response:
        """The answer for what is not told elsewhere, with all of its headers; its rows are given back."""
        if not isinstance(error, DeadlinePassed):  # else it may have been worked for
            self.give_back(question)
        scope = {
            "path": question.path,
            "path_params": dict(question.named),
            "modelyard.request_id": question.request_id.decode("latin-1"),
        }
        if isinstance(error, ServiceError):
            response = respond(error, scope)
        else:
            self._metrics.internal_errors.inc()
            _log.error(
                "A request met a bug.",
                action="internal_error",
                path=question.path,
                request_id=scope["modelyard.request_id"],
                exc_info=error,
            )
            response = bug(scope)
        there = {name for name, _ in response.raw_headers}
        response.raw_headers += [
            (b"x-request-id", question.request_id),
            *(pair for pair in security_headers(https=question.https) if pair[0] not in there),
        ]
        return response

    def note(self, question: Question, status: int) -> None:
        """Count a request that has ended, and log it; 499 is one whose client has gone."""
        seconds = time.perf_counter() - question.started
        route = question.lane.route
        key = (route, status // 100)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._metrics.requests.labels("POST", route, f"{status // 100}xx")
        count.inc()
        self._seconds[route].observe(seconds)
        level = logging.DEBUG if status < 400 else logging.INFO
        if not _std_log.isEnabledFor(level):
            return  # a line for each prediction would take longer than the prediction
        principal = question.principal
        caller = {"key": principal.id, "caller": principal.name} if principal is not None else {}
        (_log.debug if status < 400 else _log.info)(
            "A request was answered.",
            action="request",
            method="POST",
            path=question.path,
            status=status,
            duration_s=round(seconds, 6),
            request_id=question.request_id.decode("latin-1"),
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

    # -- as an ASGI application --------------------------------------------------------------------------------------

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = None
        if scope["type"] == "http":
            found = self.recognise(scope["method"], scope["path"], scope["query_string"], scope["headers"])
        if found is None:
            await self._app(scope, receive, send)
            return
        question = Question(*found, scope["path"], https=scope.get("scheme") == "https")
        await self._serve(question, scope, receive, send)

    async def _serve(self, question: Question, scope: Connection, receive: Receive, send: Send) -> None:
        lane = question.lane
        body: bytes | None = None
        waiter: _Watcher | None = None
        try:
            question.principal = scope.get(PRINCIPAL)
            if not self.guard.open and question.principal is None:
                client = scope.get("client")
                question.principal = self.guard.admit(scope["headers"], client[0] if client else "", lane.scope)
                scope[PRINCIPAL] = question.principal
            body = await _read(receive)
            if body is None:
                self.note(question, 499)  # the client has gone
                return
            waiter = _Watcher(receive)
            incoming = Incoming(question.table, body, partial(self.charge, question), waiter.watch)
            reply = None
            if BEGUN not in scope:
                reply = await _waited(lane, incoming, partial(lane.begin, question.named, incoming))
            if reply is None:
                reply = await lane.aside(question.named, incoming)
        except asyncio.CancelledError:
            if waiter is not None and waiter.gone:
                self.note(question, 499)
                return
            raise
        except Exception as error:
            if body is None or not self.told_elsewhere(error):
                response = self.refusal(error, question)
                await response(scope, receive, send)
                self.note(question, response.status_code)
                return
            reply = None
        finally:
            if waiter is not None:
                waiter.close()
        if reply is None:
            assert body is not None
            self.give_back(question)
            await self._app(scope, _again(body, receive), send)
            return
        headers = headers_of(reply, question)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
        self.note(question, reply.status)


PRINCIPAL: Final = "modelyard.principal"
BEGUN: Final = "modelyard.begun"
"""Members of a scope: who asks, once that is known; that its lane has tried to begin it."""


def headers_of(reply: Reply, question: Question) -> list[tuple[bytes, bytes]]:
    """All headers of an answer, but for those that the server puts in front."""
    return [*own_headers(reply, question), *security_headers(https=question.https)]


def own_headers(reply: Reply, question: Question) -> list[tuple[bytes, bytes]]:
    """Those of them that only this answer has."""
    return [*reply.headers, (b"content-length", b"%d" % len(reply.body)), (b"x-request-id", question.request_id)]


async def _waited(lane: Lane, incoming: Incoming, begin: Callable[[Promise], Begun | None]) -> Reply | None:
    """The answer to what `begin` lets wait; None where it does not, or where the rows were odd."""
    future: asyncio.Future[Slice] = asyncio.get_running_loop().create_future()
    begun = begin(future)
    if begun is None:
        return None
    if begun.ticket.long:
        incoming.watch(future)
    try:
        part = await future
    except NotPlainError as error:
        lane.failed(begun, error)
        return None
    except BaseException as error:
        lane.failed(begun, error)
        raise
    return lane.finish(begun, part)


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
    paths: dict[tuple[str, str | None], Reference] = {}

    def named_by(named: Mapping[str, str]) -> Reference | None:
        if not named:
            return None
        key = (named["name"], named.get("number"))
        reference = paths.get(key)
        if reference is None:
            reference = Reference(key[0], version=int(key[1]) if key[1] else None)
            if len(paths) < _PATHS:
                paths[key] = reference
        return reference

    def queue(
        named: Mapping[str, str], incoming: Incoming, asked: dict[str, Any] | None, arrived: float, promise: Promise
    ) -> Begun | None:
        if asked is None:
            return None
        path = named_by(named)
        ticket = plane.begin(asked, path=path, arrived=arrived, charge=incoming.charge, promise=promise)
        return None if ticket is None else Begun(ticket)

    def begin(named: Mapping[str, str], incoming: Incoming, promise: Promise) -> Begun | None:
        if len(incoming.body) >= INLINE_BYTES:
            return None
        arrived = time.monotonic()
        return queue(named, incoming, read_plain(incoming.body), arrived, promise)

    def finish(begun: Begun, part: Slice) -> Reply:
        answered = plane.answered(begun.ticket, part)
        version = versions.get(answered.version or 0)
        if version is None:
            version = versions[answered.version or 0] = (b"x-model-version", b"%d" % (answered.version or 0))
        return Reply(200, [_TYPE, (b"server-timing", answered.timing), version], answered.body)

    def failed(begun: Begun, error: BaseException) -> None:
        plane.failed(begun.ticket, error)

    async def aside(named: Mapping[str, str], incoming: Incoming) -> Reply | None:
        if len(incoming.body) < INLINE_BYTES:
            return None
        arrived = time.monotonic()
        asked = await asyncio.wrap_future(plane.submit(partial(read_plain, incoming.body)))
        return await _waited(lane, incoming, partial(queue, named, incoming, asked, arrived))

    model = rf"/v1/models/(?P<name>{RESOURCE_NAME.strip('^$')})"
    routes = {
        "/predict": r"/predict",
        "/v1/models/{name}/predict": rf"{model}/predict",
        "/v1/models/{name}/versions/{number}/predict": rf"{model}/versions/(?P<number>[1-9][0-9]{{0,8}})/predict",
    }
    for route, pattern in routes.items():
        lane = Lane(route, re.compile(pattern), _is_json, begin, finish, failed, aside, json_bytes)
        yield lane


def _is_json(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-type") == b"application/json" and b"content-encoding" not in headers
