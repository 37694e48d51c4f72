"""The Open Inference Protocol v2 over HTTP: JSON, the binary tensor extension, compression, the repository, figures.

Routes translate; what they mean stands in `openinference`. Bodies are read here by hand: its clients send JSON under
any content type or none, and tensors behind it.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import orjson
from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from service.dataplane import INLINE_NUMBERS, server_timing
from service.errors import (
    BodyTooLarge,
    Entry,
    Unsupported,
    UnsupportedEncoding,
    ValidationFailed,
    shorten,
)
from service.inference import tensors
from service.inference.dispatch import Promise
from service.inference.runtime import Inference, Slice
from service.inference.tensors import DATATYPES, Answered, Tensor
from service.keys import Guard
from service.openinference import Described, OpenInference, said
from service.rest import bodies
from service.rest.auth import principal_of
from service.rest.bodies import JSON_WEIGHT, LARGE_BYTES, Room, Share
from service.rest.fast import Begun, Incoming, Lane, Reply
from service.schemas.document import RESOURCE_NAME
from service.schemas.versions import Reference

LENGTH: Final = "inference-header-content-length"
_BINARY: Final = "application/octet-stream"
_REFERENCES: Final = 10_000
"""Names with slots that are remembered; they come from clients, so there must be an end."""
_COMPRESS_FROM: Final = 1024
"""Shorter answers go as they are: compressed they would hardly be shorter."""

_DEFLATES: Final = 1032
"""The most that gzip and deflate make of a byte."""

_WINDOWS: Final = {"gzip": 31, "deflate": 15}
"""What zlib calls the two encodings; deflate is the zlib format, as HTTP says."""

Name = Annotated[str, Path(pattern=RESOURCE_NAME, max_length=63, examples=["quadratic"])]
Slot = Annotated[
    str,
    Path(pattern=RESOURCE_NAME, max_length=63, examples=["1"], description="The number of a version, or an alias."),
]
Answer = tuple[bytes, dict[str, str]]


class Exchange:
    """One inference request from its bytes to the bytes of its answer, without the framework's requests."""

    def __init__(self, view: OpenInference, *, json_bytes: int, binary_bytes: int) -> None:
        self._view = view
        self._json_bytes = json_bytes
        self._binary_bytes = binary_bytes
        self._references: dict[tuple[str, str | None], Reference] = {}

    async def answer(
        self,
        name: str,
        slot: str | None,
        headers: Mapping[str, str],
        body: bytes,
        *,
        charge: Callable[[int], None],
        share: Share = Share(),  # noqa: B008  one that counts nothing
    ) -> Answer:
        """The body and the headers of the answer 200.

        Args:
            name: of the model.
            slot: the version's number or an alias, if the path has one.
            headers: of the request, by names in lower case.
            body: as it came, perhaps compressed.
            charge: told the rows before they are queued; it may raise.
            share: where the memory is counted that large bodies take.

        Raises:
            ServiceError: whatever is wrong; under /v2 the statuses of `problems` hold, with 400 in place of 422.
        """
        view = self._view
        reference = self._reference(name, slot)
        encoding = headers.get("content-encoding", "").strip().lower()
        told = headers.get(LENGTH)
        length = None if told is None else _length(told)
        most, weight = self.most(headers)
        if encoding not in ("", "identity"):
            try:  # what is short here may be long then, so in a thread
                body = await run_sync(decompress, body, encoding, min(most, LARGE_BYTES))
            except BodyTooLarge:
                if most <= LARGE_BYTES:
                    raise
                share.reach(len(body) + weight * min(most, _DEFLATES * len(body)))
                body = await run_sync(decompress, body, encoding, most)
        if length is not None and length > self._json_bytes:
            raise bodies.too_large(self._json_bytes)
        if length == 0:
            request = _raw(body, await view.takes(reference), elements=view.elements)
        else:
            request = await _here_or_aside(len(body), _decode, body, length, view.elements, view.rows)
        charge(len(request.inputs[0].array))
        found, outputs = await view.infer(reference, request)
        if sum(one.array.size for one in outputs if not one.binary) < INLINE_NUMBERS:
            content, header, timing = self._written(found, outputs, name, request.id)
        else:
            content, header, timing = await run_sync(self._written, found, outputs, name, request.id)
        out = {"Content-Type": "application/json" if header is None else _BINARY, "Server-Timing": timing.decode()}
        if header is not None:
            out["Inference-Header-Content-Length"] = str(header)
        if found.version is not None:
            out["X-Model-Version"] = str(found.version)
        if len(content) >= _COMPRESS_FROM:
            out["Vary"] = "Accept-Encoding"
            wanted = accepted_encoding(headers.get("accept-encoding", ""))
            if wanted is not None:
                content = await _here_or_aside(len(content), _compress, content, wanted)
                out["Content-Encoding"] = wanted
        return content, out

    def most(self, headers: Mapping[str, str]) -> tuple[int, int]:
        """The bytes that a request with these headers may have, and how often they count in the room of bodies."""
        return (self._json_bytes, JSON_WEIGHT) if headers.get(LENGTH) is None else (self._binary_bytes, 1)

    def begin(
        self,
        name: str,
        slot: str | None,
        headers: Mapping[bytes, bytes],
        body: bytes,
        *,
        charge: Callable[[int], None],
        promise: Promise,
    ) -> Begun | None:
        """Let a request wait for its turn if all that it needs is here, and reading it takes a moment only; `finish`
        makes its answer.

        Raises:
            ServiceError: whatever is wrong, as `answer` says it.
        """
        if len(body) >= bodies.INLINE_BYTES or b"content-encoding" in headers:
            return None
        view = self._view
        told = headers.get(_LENGTH)
        accepts = headers.get(b"accept-encoding")
        if told is None and len(body) < _PLAIN_BYTES:
            asked = tensors.plain(body)
            if asked is not None:
                reference = self._reference(name, slot)
                ticket = view.begin_plain(reference, asked, charge=charge, promise=promise)
                if ticket is not None:
                    return Begun(ticket, (name, asked.id, None, accepts))
        length = None if told is None else _length(told.decode("latin-1"))
        if length == 0 or (length is not None and length > self._json_bytes):
            return None
        request = _decode(body, length, view.elements, view.rows)
        ticket = view.begin(self._reference(name, slot), request, charge=charge, promise=promise)
        return None if ticket is None else Begun(ticket, (name, request.id, request, accepts))

    def finish(self, begun: Begun, part: Slice) -> Reply | None:
        """The answer to what `begin` has let wait; None where writing it would take long."""
        name, identity, request, accepts = begun.asked
        if request is None:
            found = self._view.plainly(begun.ticket, part)
            outputs = [Answered(name, tensors.datatype_of(array), array) for name, array in found.outputs.items()]
        else:
            found, outputs = self._view.inferred(begun.ticket, request, part)
        content, header, timing = self._written(found, outputs, name, identity)
        told = [_TYPE if header is None else _BYTES, (b"server-timing", timing)]
        if header is not None:
            told.append((_LENGTH, b"%d" % header))
        if found.version is not None:
            told.append((b"x-model-version", b"%d" % found.version))
        if len(content) >= _COMPRESS_FROM:
            told.append((b"vary", b"Accept-Encoding"))
            wanted = None if accepts is None else accepted_encoding(accepts.decode("latin-1"))
            if wanted is not None:
                if len(content) >= bodies.INLINE_BYTES:
                    return None
                content = _compress(content, wanted)
                told.append((b"content-encoding", wanted.encode()))
        return Reply(200, told, content)

    def _written(
        self, found: Inference, outputs: Sequence[Answered], name: str, identity: str
    ) -> tuple[bytes, int | None, bytes]:
        """The body, how much of it is JSON where bytes follow, and where the time went."""
        started = time.perf_counter()
        version = "" if found.version is None else str(found.version)
        content, header = tensors.encode(
            outputs, model=found.model or name, version=version, id=identity, parameters=said(found)
        )
        seconds = time.perf_counter() - started
        self._view.wrote(found, seconds)
        return content, header, server_timing(found.queue_s, found.assemble_s, found.infer_s, seconds)

    def _reference(self, name: str, slot: str | None) -> Reference:
        reference = self._references.get((name, slot))
        if reference is None:
            reference = self._view.reference(name, slot)
            if len(self._references) < _REFERENCES:
                self._references[name, slot] = reference
        return reference


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """The body behind `Content-Encoding`, at most `most` bytes of it.

    Raises:
        UnsupportedEncoding: neither gzip nor deflate.
        BodyTooLarge: it is larger.
        MalformedBody: it is not what the header says.
    """
    if encoding not in _WINDOWS:
        detail = f"The encoding {shorten(encoding)} is not read here."
        entry = Entry("/header/content-encoding", "unsupported-encoding", detail, expected="gzip or deflate")
        raise UnsupportedEncoding(detail, errors=[entry])
    reader = zlib.decompressobj(_WINDOWS[encoding])
    try:
        found = reader.decompress(body, most + 1)
    except zlib.error:
        found = b""
    if len(found) > most:
        detail = f"Decompressed, the body is larger than the {most} bytes that are taken here."
        raise BodyTooLarge(detail, limit={"name": "body_bytes", "value": most})
    if not reader.eof or reader.unused_data:
        raise tensors.malformed(
            f"The body is not whole {encoding} data.",
            at="/header/content-encoding",
            hint="Compress the whole body once: gzip, or the zlib format for deflate.",
        )
    return found


def accepted_encoding(header: str) -> str | None:
    """The first of gzip and deflate that a client takes."""
    refused: list[str] = []
    found: list[str] = []
    for part in header.lower().split(","):
        name, _, quality = part.partition(";")
        (refused if re.fullmatch(r"\s*q=0(\.0*)?\s*", quality) else found).append(name.strip())
    return next((name for name in _WINDOWS if name in found and name not in refused), None)


def _compress(content: bytes, encoding: str) -> bytes:
    writer = zlib.compressobj(1, wbits=_WINDOWS[encoding])
    return writer.compress(content) + writer.flush()


async def _here_or_aside(size: int, work: Callable[..., Any], *arguments: Any) -> Any:
    """Do what is short at once, and what is long in a thread, so that nobody waits for it."""
    if size < bodies.INLINE_BYTES:
        return work(*arguments)
    return await run_sync(work, *arguments)


def _decode(body: bytes, length: int | None, elements: int, rows: int) -> tensors.Request:
    return tensors.decode(body, header_bytes=length, elements=elements, rows=rows)


def _length(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise tensors.malformed(
            "Inference-Header-Content-Length is a number of bytes.",
            at=f"/header/{LENGTH}",
            hint="Send the length of the JSON, before any compression.",
        )
    return int(text)


def _raw(body: bytes, takes: tuple[Described, ...], *, elements: int) -> tensors.Request:
    """The request that is nothing but the bytes of one tensor: one row for a version with one input."""
    inner = takes[0].shape[1:]
    if len(takes) != 1 or sum(size < 0 for size in inner) > 1:
        detail = "This version takes more than one tensor, or one of several free sizes: bytes alone do not say enough."
        raise ValidationFailed(detail, errors=[Entry("", "shape-mismatch", detail, expected="a request with JSON")])
    [one] = takes
    if one.datatype == "BYTES":
        body = len(body).to_bytes(4, "little") + body
        shape = [1] * len(one.shape)
    else:
        known = math.prod(size for size in inner if size > 0)
        free = len(body) // (known * DATATYPES[one.datatype].size)
        shape = [1, *(free if size < 0 else size for size in inner)]
    mistakes = tensors.shape_mistakes(shape, "/inputs/0")
    tensors.refuse(mistakes)
    if math.prod(shape) > elements:
        raise tensors.too_large(elements, math.prod(shape))
    array = tensors.from_bytes(body, one.datatype, shape, at="/inputs/0")
    return tensors.Request((Tensor(one.name, one.datatype, array),), binary=True)


def lanes(view: OpenInference, *, json_bytes: int, binary_bytes: int) -> Iterator[Lane]:
    """The short way of inference requests: the same answers without the framework, which tells what is wrong.

    Large bodies, and compressed ones, go through the framework, where the memory that they take is counted.
    """
    exchange = Exchange(view, json_bytes=json_bytes, binary_bytes=binary_bytes)

    def begin(named: Mapping[str, str], incoming: Incoming, promise: Promise) -> Begun | None:
        return exchange.begin(
            named["name"],
            named.get("version"),
            incoming.headers,
            incoming.body,
            charge=incoming.charge,
            promise=promise,
        )

    async def aside(named: Mapping[str, str], incoming: Incoming) -> Reply | None:
        sent = incoming.headers
        if b"content-encoding" in sent:
            return None
        headers = {name: sent[key].decode("latin-1") for name, key in _READ if key in sent}
        work = exchange.answer(named["name"], named.get("version"), headers, incoming.body, charge=incoming.charge)
        task = asyncio.ensure_future(work)
        incoming.watch(task)
        content, out = await task
        return Reply(200, [(name.lower().encode(), value.encode("latin-1")) for name, value in out.items()], content)

    def failed(begun: Begun, error: BaseException) -> None:
        view.failed(begun.ticket, error)

    name = RESOURCE_NAME.strip("^$")
    model = rf"/v2/models/(?P<name>{name})"
    for route, pattern in (
        ("/v2/models/{name}/infer", rf"{model}/infer"),
        ("/v2/models/{name}/versions/{version}/infer", rf"{model}/versions/(?P<version>{name})/infer"),
    ):
        limit = min(json_bytes, LARGE_BYTES)
        yield Lane(route, re.compile(pattern), _any, begin, exchange.finish, failed, aside, limit)


_TYPE: Final = (b"content-type", b"application/json")
_BYTES: Final = (b"content-type", b"application/octet-stream")
_LENGTH: Final = LENGTH.encode()
_PLAIN_BYTES: Final = 1024
"""Larger requests are worth no second look."""

_READ: Final = tuple((name, name.encode()) for name in (LENGTH, "accept-encoding"))
"""The headers of a request that say how it is to be read and answered."""


def _any(_: Mapping[bytes, bytes]) -> bool:
    """Clients of the protocol send any content type."""
    return True


def router(view: OpenInference, *, guard: Guard, json_bytes: int, binary_bytes: int, room: Room) -> APIRouter:
    """Every route of the protocol under /v2; those of what is not done here answer 501.

    Args:
        view: what they do.
        guard: whose quotas are charged.
        json_bytes: of an inference request in JSON, and of the JSON in front of bytes.
        binary_bytes: of one that brings tensors as bytes.
        room: for large bodies.
    """
    routes = APIRouter(tags=["open inference"])
    inference = Exchange(view, json_bytes=json_bytes, binary_bytes=binary_bytes)

    @routes.get("/v2/", include_in_schema=False)
    @routes.get("/v2", summary="The server's name, version and extensions")
    async def server() -> dict[str, Any]:
        return view.server()

    @routes.get("/v2/health/live", summary="Is the server alive?")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/v2/health/ready", summary="Does the server take requests?")
    async def ready() -> dict[str, bool]:
        view.require_ready()
        return {"live": True, "ready": True}

    @routes.get("/v2/models", summary="The names of all models")
    def names() -> dict[str, list[str]]:
        return {"models": view.names()}

    @routes.get("/v2/models/stats", summary="The statistics of every version", responses=_JSON)
    async def all_statistics() -> Response:
        return _json({"model_stats": await view.statistics(None)})

    # -- one model, with and without a version ----------------------------------------------------------------------

    async def model_ready(reference: Reference) -> Response:
        await view.require_model_ready(reference)
        return _json({"name": reference.model, "ready": True})

    async def metadata(reference: Reference) -> Response:
        return _json((await view.metadata(reference)).to_dict())

    async def config(reference: Reference) -> Response:
        return _json(await view.config(reference))

    async def statistics(reference: Reference) -> Response:
        return _json({"model_stats": await view.statistics(reference)})

    for tail, summary, work in (
        ("/ready", "Would the model answer?", model_ready),
        ("", "The tensors that a version takes and answers", metadata),
        ("/config", "The configuration, in Triton's form", config),
        ("/stats", "The statistics of a model", statistics),
    ):
        _both(routes, view, tail, summary, work)

    async def infer(request: Request, name: str, slot: str | None) -> Response:
        most, weight = inference.most(request.headers)
        with room.share() as share, guard.charging(principal_of(request)) as charge:
            body = await _read(request, most=most, share=share, weight=weight)
            content, headers = await inference.answer(name, slot, request.headers, body, charge=charge, share=share)
        return Response(content, headers=headers)

    @routes.post("/v2/models/{name}/infer", summary="Infer", responses=_TENSORS, openapi_extra=_REQUEST)
    async def infer_model(request: Request, name: Name) -> Response:
        return await infer(request, name, None)

    @routes.post(
        "/v2/models/{name}/versions/{version}/infer",
        summary="Infer with a version or an alias",
        responses=_TENSORS,
        openapi_extra=_REQUEST,
    )
    async def infer_version(request: Request, name: Name, version: Slot) -> Response:
        return await infer(request, name, version)

    # -- the repository ---------------------------------------------------------------------------------------------

    @routes.post(
        "/v2/repository/index",
        summary="Every version with its state",
        responses=_JSON,
        openapi_extra=_body({"type": "object", "properties": {"ready": {"type": "boolean"}}}, {"ready": True}),
    )
    async def index(request: Request) -> Response:
        body = await _object(request)
        wanted = body.get("ready", False)
        if type(wanted) is not bool:
            raise _wrong("/ready", "This says yes or no.", "true or false", wanted)
        return _json(await run_sync(lambda: view.index(ready=wanted)))

    @routes.post(
        "/v2/repository/models/{name}/load",
        summary="Load a model",
        description="The version that the bare name means now. When this answers, it is in memory.",
        responses=_JSON,
        openapi_extra=_body({"type": "object"}, {}),
    )
    async def load(request: Request, name: Name) -> Response:
        await view.load(name, _parameters(await _object(request)))
        return _json({"name": name, "load": True})

    @routes.post(
        "/v2/repository/models/{name}/unload",
        summary="Unload a model",
        description="All its versions leave memory once they have answered what they have begun.",
        responses=_JSON,
        openapi_extra=_body({"type": "object"}, {}),
    )
    async def unload(request: Request, name: Name) -> Response:
        _parameters(await _object(request))
        await view.unload(name)
        return _json({"name": name, "unload": True})

    # -- what is not done here --------------------------------------------------------------------------------------

    for path, what in (
        ("/v2/systemsharedmemory/{path:path}", "Shared memory"),
        ("/v2/cudasharedmemory/{path:path}", "Shared memory"),
        ("/v2/trace/setting", "A setting of traces"),
        ("/v2/models/{name}/trace/setting", "A setting of traces"),
        ("/v2/logging", "A setting of logs"),
        ("/v2/models/{name}/generate", "Generating text"),
        ("/v2/models/{name}/generate_stream", "Generating text"),
        ("/v2/models/{name}/versions/{version}/generate", "Generating text"),
        ("/v2/models/{name}/versions/{version}/generate_stream", "Generating text"),
    ):
        _refused(routes, path, what)
    return routes


def _both(routes: APIRouter, view: OpenInference, tail: str, summary: str, work: Callable[[Reference], Any]) -> None:
    """The route of a model, and the same with a version."""

    async def of_model(name: Name) -> Response:
        return await work(view.reference(name, None))

    async def of_version(name: Name, version: Slot) -> Response:
        return await work(view.reference(name, version))

    word = tail.strip("/") or "metadata"
    for path, function in (("/v2/models/{name}", of_model), ("/v2/models/{name}/versions/{version}", of_version)):
        function.__name__ = f"{word}_{function.__name__}"
        routes.get(path + tail, summary=summary, responses=_JSON)(function)


def _refused(routes: APIRouter, path: str, what: str) -> None:
    async def refuse() -> Response:
        detail = f"{what} is an extension that this server does not have."
        raise Unsupported(detail, hint="GET /v2 lists the extensions that it has.")

    routes.add_api_route(path, refuse, methods=["GET", "POST"], include_in_schema=False)


async def _read(request: Request, *, most: int, share: Share | None = None, weight: int = 1) -> bytes:
    """The body as it came, at most `most` bytes, each counted `weight` times in `share`."""
    share = share or Share()
    if bodies.declared(request) > most:
        raise bodies.too_large(most)
    pieces = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise bodies.too_large(most)
        share.reach(size * weight)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


_SMALL: Final = 64 * 1024


async def _object(request: Request) -> dict[str, Any]:
    """The body of an operation on the repository: an object, or nothing."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    body = await _read(request, most=_SMALL)
    if encoding not in ("", "identity"):
        body = decompress(body, encoding, _SMALL)
    if not body.strip():
        return {}
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = str(error).partition(":")[0][:200]
        raise tensors.malformed(f"The body is not well-formed JSON: {text}.", hint="Send an object.") from None
    if type(found) is not dict:
        raise _wrong("", "The body is an object.", "an object", found)
    return found


def _parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    found = body.get("parameters")
    if found is None:
        return {}
    if type(found) is not dict:
        raise _wrong("/parameters", "Parameters are an object.", "an object", found)
    return found


def _wrong(at: str, detail: str, expected: str, got: object) -> ValidationFailed:
    return ValidationFailed(detail, errors=[Entry(at, "wrong-type", detail, expected=expected, got=shorten(got))])


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


# What OpenAPI says of bodies that are read by hand.

_JSON: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"application/json": {"schema": {}}}}}


def _body(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {
        "requestBody": {"content": {"application/json": {"schema": schema, "examples": {"plain": {"value": example}}}}}
    }


_PARAMETERS: Final[dict[str, Any]] = {
    "type": ["object", "null"],
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]},
}
_NAMED: Final[dict[str, Any]] = {"name": {"type": "string"}, "parameters": _PARAMETERS}
_TENSOR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        **_NAMED,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": list(DATATYPES)},
        "data": {"type": "array", "items": {}, "description": "Flat or nested, in row-major order."},
    },
}
_REQUEST: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "JSON; or JSON and behind it the bytes of tensors, with Inference-Header-Content-Length.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": ["string", "null"]},
                        "parameters": _PARAMETERS,
                        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
                        "outputs": {
                            "type": ["array", "null"],
                            "items": {"type": "object", "required": ["name"], "properties": _NAMED},
                        },
                    },
                },
                "examples": {
                    "rows": {
                        "value": {
                            "id": "42",
                            "inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [0.5, 0.7]}],
                        }
                    }
                },
            },
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_TENSORS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The tensors, as JSON or with their bytes behind it.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model_name", "outputs"],
                    "properties": {
                        "model_name": {"type": "string"},
                        "model_version": {"type": "string"},
                        "id": {"type": "string"},
                        "parameters": _PARAMETERS,
                        "outputs": {"type": "array", "items": _TENSOR},
                    },
                }
            },
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
