"""Who may call which route: the table of scopes, and the middleware that asks the guard before a route runs.

What is not in the table is denied. Knows routes by their templates; how a key is checked is the guard's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, Literal

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from service.errors import Forbidden, ServiceError
from service.keys import ANONYMOUS, Guard, Principal, Scope
from service.rest.problems import respond

Need = Scope | Literal["open"]

OPEN: Final = "open"
"""Needs no key: it tells nothing of models and data, and changes nothing."""
METRICS: Final = "GET /metrics"
_PRINCIPAL: Final = "modelyard.principal"
_HOLDS: Final = "modelyard.holds"

ACCESS: Final[Mapping[str, Need]] = {
    # Probes and pages.
    "GET /livez": OPEN,
    "GET /startupz": OPEN,
    "GET /readyz": OPEN,
    "GET /version": OPEN,
    "GET /problems/{code}": OPEN,
    "GET /": OPEN,
    "GET /openapi.json": OPEN,
    "GET /docs": OPEN,
    "GET /docs/oauth2-redirect": OPEN,
    "GET /docs/{path}": OPEN,
    "GET /docs/fastapi/{path}": OPEN,
    "GET /redoc": OPEN,
    "GET /redoc/{path}": OPEN,
    "GET /redoc/fastapi/{path}": OPEN,
    METRICS: Scope.READ,
    # The dashboard's own files; what it shows it asks for with a key.
    "GET /ui": OPEN,
    "GET /ui/": OPEN,
    "GET /ui/{name}": OPEN,
    "GET /ui/{folder}/{name}": OPEN,
    # Predictions.
    "POST /predict": Scope.PREDICT,
    "POST /v1/models/{name}/predict": Scope.PREDICT,
    "POST /v1/models/{name}/versions/{number}/predict": Scope.PREDICT,
    # The Open Inference Protocol.
    "GET /v2": OPEN,
    "GET /v2/": OPEN,
    "GET /v2/health/live": OPEN,
    "GET /v2/health/ready": OPEN,
    "GET /v2/models": Scope.READ,
    "GET /v2/models/stats": Scope.READ,
    "GET /v2/models/{name}": Scope.PREDICT,
    "GET /v2/models/{name}/versions/{version}": Scope.PREDICT,
    "GET /v2/models/{name}/ready": Scope.PREDICT,
    "GET /v2/models/{name}/versions/{version}/ready": Scope.PREDICT,
    "GET /v2/models/{name}/config": Scope.READ,
    "GET /v2/models/{name}/versions/{version}/config": Scope.READ,
    "GET /v2/models/{name}/stats": Scope.READ,
    "GET /v2/models/{name}/versions/{version}/stats": Scope.READ,
    "POST /v2/models/{name}/infer": Scope.PREDICT,
    "POST /v2/models/{name}/versions/{version}/infer": Scope.PREDICT,
    "POST /v2/repository/index": Scope.READ,
    "POST /v2/repository/models/{name}/load": Scope.ADMIN,
    "POST /v2/repository/models/{name}/unload": Scope.ADMIN,
    **{  # what is not done here answers 501
        f"{method} {path}": Scope.ADMIN
        for method in ("GET", "POST")
        for path in (
            "/v2/systemsharedmemory/{path}",
            "/v2/cudasharedmemory/{path}",
            "/v2/trace/setting",
            "/v2/models/{name}/trace/setting",
            "/v2/logging",
            "/v2/models/{name}/generate",
            "/v2/models/{name}/generate_stream",
            "/v2/models/{name}/versions/{version}/generate",
            "/v2/models/{name}/versions/{version}/generate_stream",
        )
    },
    # Architectures.
    "POST /v1/architectures/validate": Scope.READ,
    "POST /v1/architectures/edit": Scope.READ,
    "POST /v1/architectures/diff": Scope.READ,
    "GET /v1/architectures/schema": Scope.READ,
    "GET /v1/architectures/catalogue": Scope.READ,
    "GET /v1/architectures/catalogue/{name}": Scope.READ,
    "GET /v1/architectures": Scope.READ,
    "GET /v1/architectures/{digest}": Scope.READ,
    "POST /v1/architectures": Scope.TRAIN,
    "DELETE /v1/architectures/{digest}": Scope.TRAIN,
    # Data.
    "GET /v1/uploads": Scope.READ,
    "GET /v1/uploads/{upload_id}": Scope.READ,
    "POST /v1/uploads": Scope.TRAIN,
    "DELETE /v1/uploads/{upload_id}": Scope.TRAIN,
    "GET /v1/datasets": Scope.READ,
    "GET /v1/datasets/{dataset_id}": Scope.READ,
    "GET /v1/datasets/{dataset_id}/preview": Scope.READ,
    "GET /v1/datasets/{dataset_id}/profile": Scope.READ,
    "POST /v1/datasets": Scope.TRAIN,
    "DELETE /v1/datasets/{dataset_id}": Scope.TRAIN,
    # Jobs. One whose output names an alias needs `publish`, see `require`.
    "GET /v1/jobs": Scope.READ,
    "GET /v1/events": Scope.READ,
    "GET /v1/jobs/{job_id}": Scope.READ,
    "GET /v1/jobs/{job_id}/events": Scope.READ,
    "GET /v1/jobs/{job_id}/metrics": Scope.READ,
    "GET /v1/jobs/{job_id}/logs": Scope.READ,
    "GET /v1/jobs/{job_id}/checkpoints": Scope.READ,
    "GET /v1/jobs/{job_id}/artifact": Scope.READ,
    "GET /v1/jobs/{job_id}/figures": Scope.READ,
    "GET /v1/jobs/{job_id}/figures/{figure}": Scope.READ,
    "POST /v1/jobs": Scope.TRAIN,
    "PATCH /v1/jobs/{job_id}": Scope.TRAIN,
    "DELETE /v1/jobs/{job_id}": Scope.TRAIN,
    "POST /v1/jobs/{job_id}/cancel": Scope.TRAIN,
    "POST /v1/jobs/{job_id}/pause": Scope.TRAIN,
    "POST /v1/jobs/{job_id}/resume": Scope.TRAIN,
    "POST /v1/jobs/{job_id}/retry": Scope.TRAIN,
    "POST /v1/jobs/{job_id}/promote": Scope.TRAIN,
    "POST /v1/jobs/{job_id}/replay": Scope.TRAIN,
    # Models.
    "GET /v1/models": Scope.READ,
    "GET /v1/models/{name}": Scope.READ,
    "GET /v1/models/{name}/signature": Scope.PREDICT,
    "GET /v1/models/{name}/batching": Scope.READ,
    "GET /v1/loaded": Scope.READ,
    "GET /v1/models/{name}/compare": Scope.READ,
    "GET /v1/models/{name}/aliases/{alias}/shadow": Scope.READ,
    "GET /v1/models/{name}/versions": Scope.READ,
    "GET /v1/models/{name}/versions/{number}": Scope.READ,
    "GET /v1/models/{name}/versions/{number}/python": Scope.READ,
    "GET /v1/models/{name}/versions/{number}/architecture": Scope.READ,
    "GET /v1/models/{name}/versions/{number}/weights": Scope.READ,
    "GET /v1/models/{name}/versions/{number}/bundle": Scope.READ,
    "GET /v1/models/{name}/versions/{number}/figures": Scope.READ,
    "GET /v1/models/{name}/versions/{number}/figures/{figure}": Scope.READ,
    "GET /v1/models/{name}/aliases/{alias}": Scope.READ,
    "GET /v1/models/{name}/aliases/{alias}/history": Scope.READ,
    "PATCH /v1/models/{name}": Scope.PUBLISH,
    "DELETE /v1/models/{name}": Scope.PUBLISH,
    "PATCH /v1/models/{name}/versions/{number}": Scope.PUBLISH,
    "DELETE /v1/models/{name}/versions/{number}": Scope.PUBLISH,
    "POST /v1/models/{name}/versions/{number}/verify": Scope.PUBLISH,
    "POST /v1/models/{name}/versions/{number}/load": Scope.ADMIN,
    "POST /v1/models/{name}/versions/{number}/unload": Scope.ADMIN,
    "PUT /v1/models/{name}/aliases/{alias}": Scope.PUBLISH,
    "DELETE /v1/models/{name}/aliases/{alias}": Scope.PUBLISH,
    "POST /v1/models/{name}/aliases/{alias}/rollback": Scope.PUBLISH,
}
"""What each operation needs, by method and template. HEAD needs what GET needs; a mounted folder is only read."""


def principal_of(request: Request) -> Principal:
    """Who asks, as the middleware found out."""
    return request.scope.get(_PRINCIPAL, ANONYMOUS)


def still_admitted(request: Request) -> bool:
    """Whether who asks may still do so, for answers that go on for long: its key may have ended meanwhile."""
    holds: Callable[[], bool] | None = request.scope.get(_HOLDS)
    return holds is None or holds()


def require(request: Request, scope: Scope, what: str) -> None:
    """Hold a request to more than its route needs, since its body asks for more.

    Args:
        request: the request.
        scope: the least that is needed.
        what: what the body asks for, as the beginning of a sentence.

    Raises:
        Forbidden: the caller's scope is a lesser one.
    """
    principal = principal_of(request)
    if principal.scope < scope:
        has = f"the key {principal.name!r} has {principal.scope.word}"
        raise Forbidden(f"{what} needs the scope {scope.word}; {has}.", scope=scope.word)


class Authorize:
    """Asks the guard before a route runs; a refusal is answered here, and the route never begins.

    Args:
        app: the ASGI application to run afterwards.
        guard: who decides.
        routes: the application whose routes are looked up; they must be complete when the first request comes.
        open_metrics: `/metrics` needs no key.
    """

    def __init__(self, app: ASGIApp, *, guard: Guard, routes: FastAPI, open_metrics: bool = False) -> None:
        self._app = app
        self._guard = guard
        self._application = routes
        self._open_metrics = open_metrics
        self._routes: list[tuple[re.Pattern[str], dict[str, Need | None], RouteContext]] = []

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":  # there are none, and none shall come in by another door
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http" and not self._guard.open:
            try:
                self._admit(scope)
            except ServiceError as error:
                await respond(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Connection) -> None:
        known, need = self._needed(scope)
        if need == OPEN:
            return
        least = Scope.PREDICT if need is None else need
        principal = scope.get(_PRINCIPAL)
        if principal is None:
            client = scope.get("client")
            principal = self._guard.admit(scope["headers"], client[0] if client else "", least)
            scope[_PRINCIPAL] = principal
        scope[_HOLDS] = partial(self._guard.holds, scope["headers"], least)
        if principal.scope < least:
            raise Forbidden(f"This needs the scope {least.word}.", scope=least.word)
        if known and need is None:
            raise Forbidden("No scope allows this operation.", hint="It is missing from the table of scopes: a bug.")

    def _needed(self, scope: Connection) -> tuple[bool, Need | None]:
        """Whether some route takes this request, and what the table says of it."""
        if not self._routes:
            self._routes = list(_compiled(self._application))
        path, method = scope["path"], scope["method"]
        for pattern, methods, context in self._routes:
            if method not in methods or pattern.match(path) is None:
                continue
            scope["modelyard.route"] = context.path_format  # for the metrics, should the route never be reached
            if self._open_metrics and method in ("GET", "HEAD") and f"GET {context.path_format}" == METRICS:
                return True, OPEN
            return True, methods[method]
        return False, None


def operations(app: FastAPI) -> Iterator[tuple[str, RouteContext]]:
    """Every operation of an application by method and template, in the order in which routes are tried."""
    for context in iter_route_contexts(app.routes):
        # A folder of files has no methods of its own.
        for method in sorted(context.methods or {"GET", "HEAD"}):
            yield f"{method} {context.path_format}", context


def need_of(operation: str) -> Need | None:
    """What the table says of an operation such as "GET /v1/jobs"; None where it says nothing."""
    method, _, template = operation.partition(" ")
    return ACCESS.get(f"GET {template}" if method == "HEAD" else operation)


def _compiled(app: FastAPI) -> Iterator[tuple[re.Pattern[str], dict[str, Need | None], RouteContext]]:
    for context in iter_route_contexts(app.routes):
        methods = set(context.methods or {"GET"})
        if "GET" in methods:
            methods.add("HEAD")  # also where the route then says that it does not take it
        yield context.path_regex, {name: need_of(f"{name} {context.path_format}") for name in methods}, context
