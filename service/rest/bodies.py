"""How bodies are read: streamed under a limit, strictly parsed, and declared in OpenAPI by hand.

NaN, infinities, other content types and over-long or over-deep documents end here with a specific problem. Knows no
operation.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import pydantic_core
from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from service.errors import (
    MAX_ENTRIES,
    BodyTooLarge,
    Entry,
    MalformedBody,
    NotFinite,
    Overloaded,
    UnsupportedEncoding,
    UnsupportedMediaType,
    ValidationFailed,
    shorten,
)
from service.schemas import document
from service.schemas.document import entries, pointer

T = TypeVar("T")
MAX_NESTING: Final = 64
INLINE_BYTES: Final = 64 * 1024
"""Larger bodies are parsed in a thread, so that nobody else waits for them."""

_CHARSET: Final = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_PERHAPS_INFINITE: Final = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{200}")
"""Without either, no number comes near 1e308, and nobody need look at each."""


LARGE_BYTES: Final = 1024 * 1024
"""Bodies that are smaller are always taken: connections bound how many there are."""
JSON_WEIGHT: Final = 8
"""So much more memory JSON takes once it is read."""


class Room:
    """The memory for large bodies that are held at the same time. On the event loop.

    A body that finds no other one held is taken whatever its size, which has a limit of its own.

    Args:
        total: bytes of all of them.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """The part of one request, given back at its end."""
        share = Share(self)
        try:
            yield share
        finally:
            self._held -= share.bytes

    def take(self, more: int, *, beside: int) -> None:
        """Hold so much more.

        Args:
            more: bytes.
            beside: bytes that the same request holds already.

        Raises:
            Overloaded: there is no room for that now.
        """
        if self._held > beside and self._held + more > self._total:
            detail = "Other large bodies take the memory that is there for them."
            raise Overloaded(detail, retry_after_s=1.0, limit={"name": "max_bodies_bytes", "value": self._total})
        self._held += more


class Share:
    """What one request holds of the room."""

    def __init__(self, room: Room | None = None) -> None:
        self._room = room
        self.bytes = 0

    def reach(self, size: int) -> None:
        """See that the request may hold `size` bytes in all; small ones are not counted.

        Raises:
            Overloaded: there is no room for that now.
        """
        more = size - self.bytes
        if self._room is not None and more > 0 and size > LARGE_BYTES:
            self._room.take(more, beside=self.bytes)
            self.bytes = size


def declared(request: Request) -> int:
    """The length that a request gives its body; 0 where it gives none. Memory is counted as bytes come, not by this."""
    said = request.headers.get("content-length", "")
    return int(said.lstrip("0")[:20] or 0) if said.isascii() and said.isdigit() else 0


async def stream(request: Request, *, limit: int, share: Share | None = None, weight: int = 1) -> AsyncIterator[bytes]:
    """The body in pieces as they come, at most `limit` bytes; each counts `weight` times in `share`."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(
            errors=[
                Entry(
                    "/header/content-encoding",
                    "unsupported-encoding",
                    "Compressed bodies are not read here.",
                    hint="Send the body as it is, without Content-Encoding.",
                    got=shorten(encoding),
                )
            ]
        )
    if declared(request) > limit:
        raise too_large(limit)
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        if share is not None:
            share.reach(size * weight)
        yield piece


def require_plain(request: Request) -> None:
    """See that the body of an upload is the file itself, not a form around it.

    Raises:
        UnsupportedMediaType: it is a form, in which the file's bytes are wrapped (`curl -F`), or whose sender may have
            taken the ends of its lines away (`curl -d`).
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in _FORMS:
        return
    raise UnsupportedMediaType(
        "An upload is the bytes of a file, not a form.",
        errors=[
            Entry(
                "/header/content-type",
                "unsupported-media-type",
                _FORMS[media_type],
                hint="Send the file's bytes: curl --data-binary @x.csv -H 'Content-Type: text/csv'.",
                expected="application/octet-stream, text/csv, or another type of files",
                got=media_type,
            )
        ],
    )


_FORMS: Final = {
    "multipart/form-data": "A form (curl -F) wraps the file: what would be kept is the file and the wrapping.",
    "application/x-www-form-urlencoded": "This is the type of a form, which curl sends where no other is given; and "
    "curl -d takes the ends of lines away.",
}


_TABLES: Final = frozenset({"text/csv", "text/tab-separated-values", "application/vnd.ms-excel"})
_TABLES_HINT: Final = (
    "Rows to be predicted are JSON, which `modelyard predict MODEL FILE` and the playground at /ui/ make of a CSV file."
)


async def read_bytes(request: Request, *, limit: int, optional: bool = False, share: Share | None = None) -> bytes:
    """The body of an operation that takes JSON, as bytes; with `share` it is counted while it is held.

    Raises:
        Overloaded: there is no room for it beside others.
        UnsupportedMediaType: the content type is not application/json (an optional body may be left out).
        MalformedBody: the content type names another charset than UTF-8.
        BodyTooLarge: more than `limit` bytes.
    """
    sent = request.headers.get("content-type", "")
    media_type = sent.split(";")[0].strip().lower()
    if media_type != "application/json" and not re.fullmatch(r"application/[a-z0-9.-]+\+json", media_type):
        if optional and not media_type and request.headers.get("content-length", "0") == "0":
            return b""
        hint = "Send the header Content-Type: application/json (curl: -H 'Content-Type: application/json')."
        if media_type in _TABLES:
            hint = f"A file goes to POST /v1/uploads. {_TABLES_HINT}"
        raise UnsupportedMediaType(
            "This operation takes JSON.",
            errors=[
                Entry(
                    "/header/content-type",
                    "unsupported-media-type",
                    "The content type is not that of JSON.",
                    hint=hint,
                    expected="application/json",
                    got=shorten(media_type) if media_type else "no content type",
                )
            ],
        )
    charset = _CHARSET.search(sent)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise MalformedBody(
            "JSON is written in UTF-8.",
            errors=[
                Entry(
                    "/header/content-type", "malformed-json", "Another charset.", expected="UTF-8", got=charset[1][:64]
                )
            ],
        )
    return b"".join([piece async for piece in stream(request, limit=limit, share=share, weight=JSON_WEIGHT)])


async def read_json(request: Request, *, limit: int, keep: bool = False) -> Any:
    """The body as JSON values; raises as `read_bytes` and `parse_json`."""
    body = await read_bytes(request, limit=limit)
    if len(body) < INLINE_BYTES:
        return parse_json(body, keep=keep)
    return await run_sync(lambda: parse_json(body, keep=keep))


def parse_json(body: bytes, *, keep: bool = False, check: bool = True) -> Any:
    """Bytes as JSON values, strictly.

    Args:
        body: one UTF-8 JSON document.
        keep: the document will be kept, so it may not be nested deeply, and no member may stand twice.
        check: look for infinities here; False leaves that to a caller who looks at every number anyway.

    Raises:
        MalformedBody: not well-formed, nested too deeply, or a member stands twice.
        NotFinite: a number is no finite one.
    """
    if not body.strip():
        raise _malformed("The body is empty; this operation takes a JSON document.", hint="Send a JSON document.")
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        _refuse_constants(body)
        text = str(error)[:200]
        raise _malformed(f"The body is not well-formed JSON: {text}.", hint="Mend it at that place.") from None
    if keep:
        if _deeper(body, MAX_NESTING):
            raise _malformed(
                f"The body is nested more than {MAX_NESTING} levels deep.",
                hint="Nest it less.",
                limit={"name": "nesting", "value": MAX_NESTING},
            )
        _refuse_twins(body)
    if check and _PERHAPS_INFINITE.search(body):
        check_finite(value)
    return value


def _malformed(detail: str, *, hint: str, limit: Mapping[str, Any] | None = None) -> MalformedBody:
    return MalformedBody(detail, errors=[Entry("", "malformed-json", detail, hint=hint)], limit=limit)


def _refuse_constants(body: bytes) -> None:
    """Say where the NaNs and infinities are, if the body is well-formed but for them."""
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=True)
    except ValueError:
        return
    check_finite(value)


def _deeper(body: bytes, most: int) -> bool:
    """Whether the brackets of a well-formed document nest more than `most` levels deep."""
    brackets = body
    if b"\\" in brackets:
        brackets = re.sub(rb"\\.", b"", brackets, flags=re.DOTALL)
    brackets = re.sub(rb'"[^"]*"', b"", brackets).translate(None, _NO_BRACKETS)
    for _ in range(most):  # each turn takes the innermost level away
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


def _refuse_twins(body: bytes) -> None:
    """Refuse members that stand twice in one object: which of them was meant?"""
    twins: dict[str, None] = {}

    def pairs(members: list[tuple[str, Any]]) -> None:
        known: set[str] = set()
        for name, _ in members if len(dict(members)) < len(members) else ():
            if name in known:
                twins[name] = None
            known.add(name)

    json.loads(body, object_pairs_hook=pairs, parse_int=_nothing, parse_float=_nothing)
    if twins:
        raise MalformedBody(
            "A member stands twice in one object.",
            errors=[
                Entry("", "duplicate-member", f"{shorten(name)} stands more than once.", hint="Leave one of them.")
                for name in twins
            ],
        )


def _nothing(_: str) -> None:
    """No number is needed to compare names."""


def check_finite(value: Any) -> None:
    """Refuse infinities (1e999 parses as one) and integers that no field could hold.

    Raises:
        NotFinite: with their places.
    """
    found = _not_finite(value, ())
    places = list(itertools.islice(found, MAX_ENTRIES))
    if places:
        detail, expected = "This number is not finite.", "a finite number"
        raise NotFinite(
            errors=[Entry(pointer(path), "not-finite", detail, expected=expected) for path in places],
            more=sum(1 for _ in found),
        )


def _not_finite(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, float):
        if value - value != 0.0:
            yield path
    elif isinstance(value, int):
        if value.bit_length() > 1024:  # more than 1.8e308
            yield path
    elif isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            if type(child) is not str:
                yield from _not_finite(child, (*path, key))


async def read(request: Request, adapter: TypeAdapter[T], *, limit: int) -> T:
    """The body as a document; ValidationFailed with every mistake otherwise."""
    body = await read_json(request, limit=limit)
    return validate(adapter, body)


def validate(adapter: TypeAdapter[T], body: Any) -> T:
    """A parsed body as a document."""
    try:
        return document.read(adapter, body)
    except ValidationError as error:
        found, more = entries(error, body, schema=adapter.core_schema)
        raise ValidationFailed(errors=found, more=more) from None


def declare(schema: str, *, examples: Mapping[str, Any], required: bool = True) -> dict[str, Any]:
    """OpenAPI's requestBody for a JSON document whose schema stands under components by this name."""
    return {
        "requestBody": {
            "required": required,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{schema}"},
                    "examples": {name: {"value": value} for name, value in examples.items()},
                }
            },
        }
    }


def too_large(limit: int) -> BodyTooLarge:
    """The refusal of a body that is longer than `limit` bytes."""
    detail = f"The body is larger than the {limit} bytes that are taken here."
    return BodyTooLarge(detail, limit={"name": "body_bytes", "value": limit})
