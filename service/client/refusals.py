"""What a client raises: the same classes that the server raised, found by the `code` of its problem.

Of its own it has what no server raises: nobody answers (`Unreachable`), what answers is not this service
(`UnexpectedAnswer`), what only HTTP knows (`RequestRefused` and its children), and the server's bugs (`InternalError`).
Knows no socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

import httpx
import orjson

from service import errors
from service.errors import CheckpointReason, CheckpointRefused, Entry, Forbidden, JobFailed, ServiceError
from service.schemas.views import JobSummary

E = TypeVar("E", bound=ServiceError)

MEDIA_TYPE: Final = "application/problem+json"
_ENTRY: Final = ("pointer", "code", "detail", "layer", "hint", "expected", "got")
_NO_REMEDY: Final = "Mend it at this place."
"""The hint of a server that has none."""
_SCOPE: Final = re.compile(r'\bscope="([^"]+)"')
"""Within the challenge of a refused key (RFC 6750): the least scope that is enough."""
_TOLD: Final = 5
"""So many mistakes are in the text of an exception; all are in its `errors`."""


class Unreachable(ServiceError):
    """No server answers."""

    code = "unreachable"


class UnexpectedAnswer(ServiceError):
    """What answered is not this service, or it was cut off."""

    code = "unexpected-answer"


class RequestRefused(ServiceError):
    """The request was refused for a reason that only HTTP knows; `code` says which."""

    code = "bad-request"


class BadRequest(RequestRefused):
    """The request cannot be understood."""


class MethodNotAllowed(RequestRefused):
    """This path does not take this method."""

    code = "method-not-allowed"


class RequestTimeout(RequestRefused):
    """The request did not arrive in time."""

    code = "request-timeout"


class MisdirectedRequest(RequestRefused):
    """This server does not answer for that host."""

    code = "misdirected-request"


class HeadersTooLarge(RequestRefused):
    """The request line and the headers have more bytes than the server accepts."""

    code = "headers-too-large"


class InternalError(ServiceError):
    """A bug of the server, not of the request; the request's id finds it in the log."""

    code = "internal"


_OF_HTTP: Final = (BadRequest, MethodNotAllowed, RequestTimeout, MisdirectedRequest, HeadersTooLarge, InternalError)


def by_code() -> dict[str, type[ServiceError]]:
    """The class of each problem's code.

    Where several classes share a code it is the one at the top, but for those that only gather others: what is raised
    for the code itself is then their child.
    """
    gathering = (errors.TooLarge, errors.InvalidInput, errors.Busy)
    found: dict[str, type[ServiceError]] = {}
    pending: list[type[ServiceError]] = [
        kind for kind in ServiceError.__subclasses__() if kind.__module__ == errors.__name__
    ]
    for kind in pending:  # grows as it goes: parents come before their children
        pending += kind.__subclasses__()
        if kind not in gathering:
            found.setdefault(kind.code, kind)
    return found | {kind.code: kind for kind in _OF_HTTP}


_BY_CODE: Final = by_code()


def refusal(response: httpx.Response) -> ServiceError:
    """The exception for an answer that is no success; its body must have been read."""
    body = _problem(response)
    if body is None:
        told = f"{response.status_code} {response.reason_phrase}".strip()
        found: ServiceError = UnexpectedAnswer(
            f"The answer of {response.request.url} is {told}, and no problem of this service.",
            hint="Is another program, or a proxy, listening there?",
            retry_after_s=retry_after(response),
        )
        return _noted(worded(found), response)
    found = of_problem(body, retry_after_s=retry_after(response))
    if isinstance(found, Forbidden) and found.scope is None:
        least = _SCOPE.search(response.headers.get("www-authenticate", ""))
        found.scope = least[1] if least else None
    return _noted(found, response)


def of_problem(body: Mapping[str, Any], *, retry_after_s: float | None = None) -> ServiceError:
    """A problem's body as the exception that it was made from."""
    code, detail = str(body.get("code", "")), str(body.get("detail", "")) or None
    kind = _BY_CODE.get(code)
    entries = [_entry(found) for found in body.get("errors") or ()]
    hint = entries[0].hint if entries else None
    if kind is None:
        found: ServiceError = _other(code, detail, entries)
    elif issubclass(kind, CheckpointRefused):
        reason = cast("CheckpointReason", body.get("reason", "keys"))
        found = kind(detail, reason=reason, errors=entries, more=body.get("more", 0), hint=hint)
    elif issubclass(kind, Forbidden):
        found = kind(detail, scope=body.get("scope"), hint=hint)
        found.errors = tuple(entries)
    elif issubclass(kind, JobFailed):
        found = kind("internal", detail or "The job failed.", errors=entries)
    else:
        found = kind(
            detail,
            errors=entries,
            more=body.get("more", 0),
            limit=body.get("limit"),
            retry_after_s=retry_after_s,
            hint=hint,
        )
    return worded(found)


def worded(error: E) -> E:
    """The error with the first of its mistakes in its text (`str`), one a line, which all tracebacks and logs show.

    Its `message` stays the one sentence.
    """
    own = error.hint if error.hint not in [entry.hint for entry in error.errors] else None
    lines = [f"{error.message} {own}" if own else error.message]
    if [entry.detail for entry in error.errors] == lines:
        lines = []
    hints = set()
    for entry in error.errors[:_TOLD]:
        place = f"{entry.pointer}: " if entry.pointer else ""
        expected = f" Expected {entry.expected}." if entry.expected and not entry.hint else ""
        got = f" Got {entry.got}." if entry.got not in (None, "null") and str(entry.got) not in entry.detail else ""
        hint = f" {entry.hint}" if entry.hint and entry.hint not in hints else ""  # what is to be done, once
        hints.add(entry.hint)
        lines.append(f"{place}{entry.detail}{expected}{got}{hint}")
    more = max(0, len(error.errors) - _TOLD) + error.more
    if more:
        lines.append(f"And {more} more mistake{'' if more == 1 else 's'}, not shown.")
    error.args = ("\n".join(lines),)
    return error


def failure(job: JobSummary) -> JobFailed | None:
    """Why a job that has ended made nothing; None if it succeeded or has not ended."""
    if job.state == "cancelled":
        return JobFailed("cancelled_by_user", f"The job {job.id} was cancelled.")
    if job.state != "failed":
        return None
    told = job.error.model_dump() if job.error is not None else {}
    code = str(told.get("code"))
    found = JobFailed(
        code if code in errors.FAILURE_CODES else "internal",
        told.get("detail") or f"The job {job.id} failed.",
        hint=told.get("hint"),
        pointer=told.get("pointer"),
        epoch=told.get("epoch"),
        step=told.get("step"),
        reason=told.get("reason"),
        errors=[_entry(found) for found in told.get("errors") or ()],
        more=told.get("more", 0),
    )
    return worded(found)


def retry_after(response: httpx.Response) -> float | None:
    """The seconds of Retry-After; None without it, or where it is a date."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and text.isascii() else None


def _other(code: str, detail: str | None, entries: list[Entry]) -> RequestRefused:
    """For a code that only a later release of the server knows."""
    found = RequestRefused(detail, errors=entries)
    if code:
        found.code = code  # type: ignore[misc]  # this class stands for all such codes
    return found


def _entry(found: Mapping[str, Any]) -> Entry:
    told = {name: str(found[name]) for name in _ENTRY if found.get(name) not in (None, _NO_REMEDY)}
    return Entry(**{"pointer": "", "code": "", "detail": "", **told})


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    if response.headers.get("content-type", "").partition(";")[0].strip() != MEDIA_TYPE:
        return None
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) and "code" in body else None


def _noted(error: ServiceError, response: httpx.Response) -> ServiceError:
    """The error with the request's id in its traceback, for whoever looks for it in the server's log."""
    request_id = response.headers.get("x-request-id")
    if request_id:
        error.add_note(f"Request id: {request_id}")
    return error
