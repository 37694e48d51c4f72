"""The one table from our errors to HTTP, and the one error body: application/problem+json (RFC 9457).

Framework errors (unknown routes, wrong methods, faults) get the same body. Knows no route.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from service import errors
from service.errors import MAX_ENTRIES, Entry, ServiceError, shorten, summary
from service.schemas.document import nearest_hint, parameter_entry

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[type[ServiceError], int]] = {
    errors.MalformedBody: 400,
    errors.UnsupportedMediaType: 415,
    errors.TooLarge: 413,
    errors.InvalidInput: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.PreconditionRequired: 428,
    errors.Busy: 429,
    errors.Draining: 503,
    errors.DatabaseBusy: 503,
    errors.TooManyConnections: 503,
    errors.DeadlinePassed: 504,
    errors.Unsupported: 501,
    errors.StoreError: 503,
    errors.StoreFull: 507,
    errors.MemoryFull: 507,
    errors.JobFailed: 409,
}
"""Status of each class; a class that is not here has its parent's."""

FRAMEWORK: Final[Mapping[int, tuple[str, str]]] = {
    400: ("bad-request", "The request cannot be understood."),
    404: ("not-found", "There is no such path."),
    405: ("method-not-allowed", "This path does not take this method."),
    408: ("request-timeout", "The request did not arrive in time."),
    413: ("body-too-large", "The body is larger than this server accepts."),
    415: ("unsupported-media-type", "The body's content type is not supported here."),
    421: ("misdirected-request", "This server does not answer for that host: see MODELYARD_ALLOWED_HOSTS."),
    431: ("headers-too-large", "The request line and the headers have more bytes than this server accepts."),
    500: ("internal", "This is a bug of the server, not of the request. The request id finds it in the log."),
    503: ("draining", "The server is starting or shutting down."),
}


REMEDIES: Final[Mapping[str, str]] = {
    "bad-request": "Look at the request line and the headers.",
    "malformed-json": "Mend it at the place that `detail` names.",
    "unauthenticated": "Send `Authorization: Bearer msk_…` or `X-API-Key: msk_…`.",
    "forbidden": "Use a key of the scope that `detail` names.",
    "not-found": "Check the name, the alias or the id; list the collection.",
    "method-not-allowed": "See the header `Allow`.",
    "request-timeout": "Send it again over a better line, or in parts.",
    "headers-too-large": "Send fewer or shorter headers.",
    "conflict": "Read it again; wait, or remove what refers to it.",
    "version-in-use": "Move or delete the alias first.",
    "job-failed": "See the job's `error`.",
    "precondition-failed": "GET it, decide again, send the new `ETag`.",
    "body-too-large": "Send less, or send rows as an upload.",
    "batch-too-large": "Send several predictions.",
    "unsupported-media-type": "Send `Content-Type: application/json`.",
    "unsupported-encoding": "Send the body as it is, without `Content-Encoding`.",
    "misdirected-request": "Use a name of `MODELYARD_ALLOWED_HOSTS`.",
    "validation-failed": "See `errors`: all mistakes are there.",
    "not-finite": "Replace it at the place that the pointer names.",
    "shape-mismatch": "Compare `expected` with `got`; see the version's signature.",
    "dtype-mismatch": "Send numbers as numbers; whole ones for integer inputs.",
    "invalid-name": "Lower-case letters, digits, `.`, `_`, `-`; see the hint.",
    "architecture-invalid": "`errors` has the layer, both sizes and a hint; try `/v1/architectures/validate`.",
    "architecture-too-large": "`limit` names it; take smaller layers.",
    "checkpoint-refused": "`errors` lists missing, unexpected and mis-shaped keys.",
    "dataset-refused": "Mend the line and column that are named.",
    "digest-mismatch": "Send them again; compute `Repr-Digest` over the raw bytes.",
    "idempotency-mismatch": "Take a new key for a new request.",
    "precondition-required": "GET the resource and send its `ETag` as `If-Match`; `If-Match: *` takes any state.",
    "queue-full": "Wait for `Retry-After`; cancel what you do not need.",
    "overloaded": "Wait for `Retry-After`.",
    "rate-limited": "Wait for `Retry-After`; `limit` names what was passed.",
    "internal": "Report it with the `request_id`, which finds it in the log.",
    "draining": "Wait for `Retry-After`, or ask another server.",
    "database-busy": "Wait for `Retry-After`.",
    "too-many-connections": "Close or reuse those that you hold; wait for `Retry-After`.",
    "cross-origin": "Send it from a program, or from a page of this server.",
    "store-error": "See `detail` and the log; check the disk.",
    "store-read-only": "Check mount and owner. Predictions go on.",
    "store-locked": "Use that one, or stop it.",
    "store-too-new": "Run that release, or restore the copy from before.",
    "model-quarantined": "Point the alias at another version; restore the folder.",
    "deadline-passed": "Give more time, or send fewer rows.",
    "unsupported": "Do without; the metadata's `extensions` lists what this server does.",
    "store-full": "Make room. Predictions go on.",
    "memory-full": "Unload versions or end their pins, or set MODELYARD_MODEL_MEMORY_BYTES to what there is to spare.",
}
"""What to do about each problem: the hint of those that have no better one, and what their pages say."""

_PLACES: Final[Mapping[type[ServiceError], str]] = {
    errors.Unauthenticated: "/header/authorization",
    errors.CrossOrigin: "/header/sec-fetch-site",
    errors.Forbidden: "/header/authorization",
    errors.UnsupportedEncoding: "/header/content-encoding",
    errors.UnsupportedMediaType: "/header/content-type",
    errors.PreconditionFailed: "/header/if-match",
    errors.PreconditionRequired: "/header/if-match",
    errors.IdempotencyMismatch: "/header/idempotency-key",
    errors.DigestMismatch: "/header/repr-digest",
}
"""Where a problem is that does not say so itself."""

_IN_PATH: Final = {"/model": "name", "/alias": "alias"}
"""What stores say of their own words, and the parameter of a path that brought the word, if one did."""

_IDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "job_id": ("the id of a job", "job_ and 32 hexadecimal digits", "/v1/jobs"),
    "dataset_id": ("the id of a dataset", "ds_ and 32 hexadecimal digits", "/v1/datasets"),
    "upload_id": ("the id of an upload", "up_ and 32 hexadecimal digits", "/v1/uploads"),
    "digest": ("the digest of an architecture", "sha256: and 64 hexadecimal digits", "/v1/architectures"),
}
"""Parameters of paths that are ids: what they are, how one looks, and where they are listed."""

_LISTED: Final[Mapping[str, str]] = {
    **{f"/path/{parameter}": f"GET {place} lists those that are there." for parameter, (_, _, place) in _IDS.items()},
    "/path/name": "GET /v1/models lists the models.",
    "/path/alias": "GET /v1/models/{name} shows the aliases.",
    "/path/number": "GET /v1/models/{name}/versions lists the versions.",
    "/version": "GET /v1/models/{name}/versions lists the versions.",
    "/model": "GET /v1/models lists the models.",
    "/dataset": "GET /v1/datasets lists those that are there.",
    "/dataset/upload": "GET /v1/uploads lists those that are there.",
    "/source/upload": "GET /v1/uploads lists those that are there.",
}
"""What to do where something is not found, by the place that names it."""


def status_of(kind: type[ServiceError]) -> int:
    """The HTTP status of a class of errors: that of its nearest class in the table."""
    return next((STATUS[parent] for parent in kind.__mro__ if parent in STATUS), 500)


def catalogue() -> dict[str, tuple[int, str]]:
    """Every problem code with its status and first sentence."""
    found: dict[str, tuple[int, str]] = {}
    pending: list[type[ServiceError]] = [ServiceError]
    while pending:
        kind = pending.pop()
        pending += [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
        if kind is not ServiceError:
            sentence = (kind.__doc__ or "").strip().splitlines()[0]
            found.setdefault(kind.code, (status_of(kind), sentence))  # parents come first: the most general class
    framework = {code: (status, text) for status, (code, text) in FRAMEWORK.items()}
    return dict(sorted({**framework, **found}.items()))


def problem(
    scope: Scope,
    *,
    status: int,
    code: str,
    detail: str,
    entries: Sequence[Entry] = (),
    more: int = 0,
    limit: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The error body of the request of `scope`; at most 20 mistakes are listed, the rest is counted in `more`."""
    body: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": _title(code),
        "status": status,
        "detail": detail,
        "instance": scope["path"],
        "code": code,
        "request_id": scope.get("modelyard.request_id", ""),
    }
    if not entries and status < 500:
        entries = [Entry("", code, detail, hint=REMEDIES[code])]
    if entries:
        body["errors"] = [entry.to_dict() for entry in entries[:MAX_ENTRIES]]
        more += max(0, len(entries) - MAX_ENTRIES)
    if more:
        body["more"] = more
    if limit:
        body["limit"] = dict(limit)
    if _speaks_open_inference(scope):
        status = body["status"] = 400 if status == 422 else status
        body["error"] = summary(detail, entries)
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _speaks_open_inference(scope: Scope) -> bool:
    """Whether the request is one of the Open Inference Protocol, whose clients read `error` and know no 422."""
    path: str = scope["path"]
    return path.startswith("/v2/") or path == "/v2"


def respond(error: ServiceError, scope: Scope) -> JSONResponse:
    """The answer for one of our errors."""
    headers = {}
    if error.retry_after_s is not None or isinstance(error, errors.Busy):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    challenge = _challenge(error)
    if challenge is not None:
        headers["WWW-Authenticate"] = challenge
    status = status_of(type(error))
    found = error.errors
    if not found and status < 500:
        found = (Entry(_place(error, scope), error.code, error.message, hint=error.hint),)
    entries = [_in_request(entry, error, scope) for entry in found]
    return problem(
        scope,
        status=status,
        code=error.code,
        detail=error.message,
        entries=entries,
        more=error.more,
        limit=error.limit,
        headers=headers,
    )


def _challenge(error: ServiceError) -> str | None:
    """What RFC 6750 tells a client whose key is missing, wrong or too weak."""
    if isinstance(error, errors.Unauthenticated):
        return 'Bearer realm="modelyard"'
    if isinstance(error, errors.Forbidden):
        least = f', scope="{error.scope}"' if error.scope else ""
        return f'Bearer realm="modelyard", error="insufficient_scope"{least}'
    return None


def _in_request(entry: Entry, error: ServiceError, scope: Scope) -> Entry:
    """The entry with its place in this request, and with some remedy."""
    named = scope.get("path_params", {})
    parameter = _IN_PATH.get(entry.pointer)
    if isinstance(error, (errors.NotFound, errors.InvalidName)) and parameter in named:
        entry = replace(entry, pointer=f"/path/{parameter}")
    if entry.hint is None and entry.expected is None:
        hint = REMEDIES.get(entry.code, "Mend it at this place.")
        if isinstance(error, errors.NotFound):
            hint = _LISTED.get(entry.pointer, hint).format(name=named.get("name", ""))
        entry = replace(entry, hint=hint)
    return entry


def _place(error: ServiceError, scope: Scope) -> str:
    """Where the request is wrong, by the kind of the error: what is not found is the last that the path names."""
    for kind, place in _PLACES.items():
        if isinstance(error, kind):
            return place
    named = list(scope.get("path_params", {}))
    return f"/path/{named[-1]}" if named and isinstance(error, errors.NotFound) else ""


def bug(scope: Scope) -> JSONResponse:
    """The answer for an exception that nobody foresaw: it tells nothing but the request's id."""
    code, detail = FRAMEWORK[500]
    return problem(scope, status=500, code=code, detail=detail)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with the one body; unforeseen ones pass, to `middleware.Observe`."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return respond(error, request.scope)

    async def frameworks(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, detail = FRAMEWORK.get(error.status_code, ("bad-request", str(error.detail)))
        headers = dict(error.headers or {})
        entries: list[Entry] = []
        if error.status_code == 405:
            allowed = headers["Allow"] = ", ".join(allowed_methods(app, request))
            entries = [Entry("", code, detail, hint=REMEDIES[code], expected=allowed, got=shorten(request.method))]
        elif error.status_code == 404:
            # the first one writes the OpenAPI document
            entries = [await run_sync(_no_path, app, request.scope["path"], detail)]
            detail = entries[0].detail
        return problem(
            request.scope, status=error.status_code, code=code, detail=detail, entries=entries, headers=headers
        )

    async def parameters(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = [parameter_entry(item) for item in error.errors()]  # with pointers such as /query/limit
        return respond(errors.ValidationFailed("A parameter of the request is wrong.", errors=found), request.scope)

    app.add_exception_handler(ServiceError, ours)
    app.add_exception_handler(RequestValidationError, parameters)
    app.add_exception_handler(HTTPException, frameworks)


_MEANT: Final = {
    **dict.fromkeys(("health", "healthz", "healthcheck", "ping"), "The probes are /livez, /readyz and /startupz."),
    **dict.fromkeys(("train", "training", "trainings"), "A training is a job: POST /v1/jobs."),
}
"""What people look for who guess a path, by its last part."""


def _no_path(app: FastAPI, path: str, detail: str) -> Entry:
    """What is wrong with a path that is none: what stands in the place of an id, or which path may be meant."""
    templates = list(app.openapi()["paths"])
    if found := _no_id(templates, path):
        return found
    last = path.rstrip("/").rpartition("/")[2]
    plain = [template for template in templates if "{" not in template]
    meant = min((template for template in plain if template.endswith(f"/{last}")), key=len, default=None)
    hint = _MEANT.get(last) or (f"Did you mean {meant!r}?" if meant else nearest_hint(path, plain))
    return Entry("", "not-found", detail, hint=hint or "/docs lists all paths.")


def _no_id(templates: Sequence[str], path: str) -> Entry | None:
    """What is wrong with a path that would be one of ours, were something else in the place of an id."""
    given = path.split("/")
    for template in templates:
        parts = template.split("/")
        names = [part.strip("{}") if part.startswith("{") else "" for part in parts]
        if len(parts) != len(given) or not all(
            word if name else word == part for part, name, word in zip(parts, names, given, strict=True)
        ):
            continue
        for name, word in zip(names, given, strict=True):
            if name in _IDS:
                what, form, _ = _IDS[name]
                detail = f"{shorten(word)} is not {what}."
                hint = _LISTED[f"/path/{name}"]
                return Entry(f"/path/{name}", "not-found", detail, hint=hint, expected=form, got=shorten(word))
    return None


def allowed_methods(app: FastAPI, request: Request) -> list[str]:
    """Every method that some route of `app` takes at the request's path: one resource may have several routes."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in app.routes)
    ]


def page(code: str) -> HTMLResponse | None:
    """The page behind a problem's `type`, or None for a code that does not exist."""
    found = catalogue().get(code)
    if found is None:
        return None
    status, text = found
    title = _title(code)
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<h1>{html.escape(title)}</h1><p>HTTP status {status}, code <code>{html.escape(code)}</code>.</p>"
        f"<p>{html.escape(text)}</p><p>{html.escape(REMEDIES[code])}</p>"
    )


def _title(code: str) -> str:
    return code.replace("-", " ").capitalize()
