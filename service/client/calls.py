"""One request as data, what its answer becomes, and whether to try again: the same for both faces of the client.

Knows no socket and no clock: a face sends, waits and reads.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Final, Generic, TypeVar, cast
from urllib.parse import quote

import httpx
import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from service import __version__
from service.client.files import Source
from service.client.refusals import UnexpectedAnswer, Unreachable, refusal, worded
from service.errors import ServiceError

T = TypeVar("T")

_SAFE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
DEFAULT_URL: Final = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and what its answer is read as.

    Args:
        method: the HTTP method.
        path: as in the OpenAPI document, with {parameters}, whose values are `at`.
        answer: a model of the shared schemas, `str`, `bytes`, `dict`, a function that reads the response, or None for
            an answer without a body.
        body: what becomes JSON; a pydantic document, or plain values with numpy arrays among them.
        raw: a body of bytes instead, whose headers say what it is.
        source: the bytes of an upload instead.
        repeatable: whether it does no harm to send it twice. None = as HTTP says of the method.
        wait_s: how long the server was asked to wait with its answer.
    """

    method: str
    path: str
    answer: Any
    at: Mapping[str, str | int] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: Any = None
    raw: bytes | None = None
    source: Source | None = None
    repeatable: bool | None = None
    wait_s: float | None = None

    @property
    def url(self) -> str:
        """The path with its parameters filled in."""
        return self.path.format(**{name: quote(str(value), safe=":@") for name, value in self.at.items()})

    @property
    def safe(self) -> bool:
        """Whether it may be sent again when nobody knows if it arrived."""
        return self.method in _SAFE if self.repeatable is None else self.repeatable

    def content(self) -> bytes | None:
        """The JSON body; numbers that are not finite become null."""
        if self.body is None:
            return self.raw
        return orjson.dumps(self.body, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)

    def all_headers(self) -> dict[str, str]:
        """Headers of the request but those that every request has."""
        headers = {name: value for name, value in self.headers.items() if value is not None}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.source is not None:
            headers |= self.source.headers()
        if self.wait_s is not None:
            headers["Prefer"] = f"wait={max(0, round(self.wait_s))}"
        return headers

    def parameters(self) -> dict[str, str]:
        """The query, without what is None."""
        return {name: _parameter(value) for name, value in self.query.items() if value is not None}

    def read(self, response: httpx.Response) -> T:
        """The answer as what the caller asked for.

        Raises:
            UnexpectedAnswer: the body is not what this operation answers.
        """
        if self.answer is None:
            return cast("T", None)
        if self.answer is str:
            return cast("T", response.content.decode("utf-8", "replace"))
        if self.answer is bytes:
            return cast("T", response.content)
        if isinstance(self.answer, FunctionType):
            return cast("T", self.answer(response))
        try:
            found = TypeAdapter(self.answer).validate_json(response.content)
        except ValidationError as error:
            detail = f"The answer of {response.request.url} cannot be read: {error.errors()[0]['msg']}."
            hint = "Is another program listening there, or a newer release?"
            raise worded(UnexpectedAnswer(detail, hint=hint)) from error
        if hasattr(found, "_etag"):
            found._etag = response.headers.get("etag")
        return cast("T", found)


def new_key() -> str:
    """An Idempotency-Key that nobody used before."""
    return uuid.uuid4().hex


def user_agent() -> str:
    """Who asks."""
    return f"modelyard/{__version__}"


def document(value: Any) -> Any:
    """A request's body as plain values: what was set of a pydantic document, or the values as they are."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return document(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__array__"):
        return value.__array__().tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def _parameter(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient a client is.

    Args:
        attempts: how often a call is sent at most.
        most_s: the longest single pause; a server that asks for a longer one is not waited for.
        first_s: the pause after the first lost connection; it doubles.
        streams_s: how long a stream that was lost is asked for again.
    """

    attempts: int = 4
    most_s: float = 30.0
    first_s: float = 0.1
    streams_s: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("a call is sent once at least")


class Attempts:
    """The attempts of one call: says how long to pause before the next, or raises what ended them."""

    def __init__(self, call: Call[Any], retry: Retry, url: str) -> None:
        self._call = call
        self._retry = retry
        self._url = url
        self._done = 0

    def lost(self, error: httpx.TransportError) -> float:
        """The connection failed: seconds until the next attempt.

        Raises:
            Unreachable: there is none.
        """
        self._done += 1
        may = self._call.safe or isinstance(error, _NEVER_SENT)
        if may and self._done < self._retry.attempts:
            return self._backoff()
        raise unreachable(self._url, error) from error

    def refused(self, response: httpx.Response) -> float:
        """The answer is no success: seconds until the next attempt.

        Raises:
            ServiceError: what the answer says.
        """
        self._done += 1
        found = refusal(response)
        pause = found.retry_after_s
        # Our server has not begun when it is busy or draining; a proxy may say so after it has passed the request on.
        sure = self._call.safe or not isinstance(found, UnexpectedAnswer)
        again = response.status_code in (429, 503) and sure and self._done < self._retry.attempts
        if again and pause is not None and pause <= self._retry.most_s:
            return pause + random.uniform(0, 0.1)  # noqa: S311  spreads callers, hides nothing
        raise found

    def _backoff(self) -> float:
        pause = self._retry.first_s * 2 ** (self._done - 1)
        return min(self._retry.most_s, pause) * random.uniform(0.8, 1.2)  # noqa: S311  spreads callers, hides nothing


def unreachable(url: str, error: httpx.TransportError) -> ServiceError:
    """What a failure of the connection means to a caller."""
    if isinstance(error, httpx.ConnectError):
        detail = f"No server answers at {url}."
        hint = "Start one with `modelyard serve`, or name another: --url, MODELYARD_URL."
        return worded(Unreachable(detail, hint=hint))
    if isinstance(error, httpx.TimeoutException):
        detail = f"The server at {url} did not answer in time."
        return worded(Unreachable(detail, hint="Give it more time, or ask /readyz whether it is well."))
    told = str(error).rstrip(".") or type(error).__name__
    return Unreachable(f"The connection to {url} was lost: {told}.")


def location(url: str | None, environment: Mapping[str, str]) -> str:
    """The server's address: as given, else of MODELYARD_URL, else where `modelyard serve` listens by default.

    Raises:
        ValueError: it is no http address.
    """
    found = (url or environment.get("MODELYARD_URL") or DEFAULT_URL).rstrip("/")
    try:
        parsed = httpx.URL(found)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{found!r} is no address of a server: write it as http://127.0.0.1:8000")
    return found


def is_loopback(url: str) -> bool:
    """Whether the address is of this machine, which no proxy can reach."""
    host = httpx.URL(url).host
    return host in ("localhost", "::1") or host.startswith("127.")
