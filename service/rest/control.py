"""Routes of the control plane: documents, data, jobs, versions, aliases. They convert, call the plane, convert back."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import orjson
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BeforeValidator, TypeAdapter
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from service import keys
from service.controlplane.plane import ControlPlane, Download
from service.errors import (
    DatasetRefused,
    DigestMismatch,
    Entry,
    Forbidden,
    ModelQuarantined,
    NotFound,
    ValidationFailed,
    shorten,
)
from service.jobs.queue import Event, Job
from service.rest import bodies
from service.rest.auth import principal_of, require, still_admitted
from service.rest.bodies import declare
from service.rest.health import Lifecycle
from service.schemas import architecture as architectures
from service.schemas import catalogue, examples, views
from service.schemas.datasets import DatasetRequest
from service.schemas.diff import DIFF_REQUEST
from service.schemas.document import RESOURCE_NAME, nearest_hint, pointer
from service.schemas.edits import EDIT_REQUEST
from service.schemas.jobs import FINAL, JobState
from service.schemas.versions import Reference
from service.store.aliases import AliasRecord
from service.store.database import Page
from service.store.idempotency import IdempotencyKey

T = TypeVar("T")
Submission: TypeAlias = Callable[[], tuple[Job | None, dict[str, Any] | None]]
"""What makes a job: (the job, None), or (None, the answer that the same request got before)."""

_READ_WAIT_S: Final = 10.0
"""How long a dataset's maker waits for a file to be read unless it says otherwise."""

_BYTES: Final[dict[str, Any]] = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}
STREAM_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_DATASET: Final = TypeAdapter(DatasetRequest)
_ALIAS: Final = TypeAdapter(views.AliasRequest)
_ROLLBACK: Final = TypeAdapter(views.RollbackRequest)
_NOTES: Final = TypeAdapter(views.Notes)
_JOB_PATCH: Final = TypeAdapter(views.JobPatch)
_PROMOTE: Final = TypeAdapter(views.PromoteRequest)
_RETRY: Final = TypeAdapter(views.RetryRequest)


def _plain_number(value: object) -> object:
    """Versions are written one way only: no sign, no zero in front, no other script's digits."""
    if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,8}", value) is None:
        raise ValueError("a version is a whole number from 1")
    return value


ModelName = Annotated[str, Path(pattern=RESOURCE_NAME, max_length=63, examples=["quadratic"])]
NetName = Annotated[str, Path(pattern=r"^[a-z0-9_]{1,63}$", examples=["resnet18"])]
AliasName = Annotated[str, Path(pattern=RESOURCE_NAME, max_length=63, examples=["champion"])]
Which = Annotated[
    str, Query(pattern=RESOURCE_NAME, max_length=63, examples=["1"], description="A version's number, or an alias.")
]
VersionNumber = Annotated[int, BeforeValidator(_plain_number), Path(ge=1, le=999_999_999, examples=[1])]
JobId = Annotated[str, Path(pattern=r"^job_[0-9a-f]{32}$", examples=["job_01938c5c0d9e7a3b8f4e2d1c6b5a4f3e"])]
DatasetIdPath = Annotated[str, Path(pattern=r"^ds_[0-9a-f]{32}$", examples=["ds_01938c5c0d9e7a3b8f4e2d1c6b5a4f3e"])]
UploadIdPath = Annotated[str, Path(pattern=r"^up_[0-9a-f]{32}$", examples=["up_01938c5c0d9e7a3b8f4e2d1c6b5a4f3e"])]
DigestPath = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$", examples=["sha256:" + "0123456789abcdef" * 4])]


class _Id(Convertor[str]):
    """Part of a path that is an id: a path with anything else there is no path of ours (404)."""

    def __init__(self, regex: str) -> None:
        setattr(self, "regex", regex)  # noqa: B010  declared as a class variable, but one class serves four ids

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


for _name, _regex in {
    "job": "job_[0-9a-f]{32}",
    "dataset": "ds_[0-9a-f]{32}",
    "upload": "up_[0-9a-f]{32}",
    "digest": "sha256:[0-9a-f]{64}",
}.items():
    register_url_convertor(_name, _Id(_regex))
Limit = Annotated[int, Query(ge=1, le=200, description="Entries in a page.")]
After = Annotated[str | None, Query(max_length=512, description="The `next` of the page before.")]
IfMatch = Annotated[str | None, Header(max_length=200, description="The ETag that was seen; needed for a change.")]
IfNoneMatch = Annotated[str | None, Header(max_length=200, description='"*" makes an alias that must not exist yet.')]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same body acts once.",
    ),
]


ReadingQuery = Annotated[views.Reading | None, Query(description="One form of the document alone.")]

_READINGS: Final[dict[str, Any]] = {
    "application/json": {},
    "text/x-python": {"schema": {"type": "string"}, "example": "net = nn.Linear(1, 10)\n"},
    "text/plain": {"schema": {"type": "string"}, "example": "flowchart TD\n"},
}
"""Media types of the forms: JSON of documents and summaries, Python, and text of flowcharts and tables."""


async def known_parameters(request: Request) -> None:
    """Refuse query parameters that the operation does not have: who misspells one should not get another answer."""
    if not request.url.query:
        return
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise ValidationFailed(
            "A parameter of the request is not known here.",
            errors=[
                Entry(
                    pointer(("query", name)),
                    "unknown-parameter",
                    "This operation has no such parameter.",
                    hint=nearest_hint(name, known) or "Remove it.",
                    got=shorten(name),
                )
                for name in unknown
            ],
        )


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Plain data as JSON; numbers that are not finite become null."""
    return Response(orjson.dumps(content, default=_plain), status, headers=headers, media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return float(value)  # beyond 64 bits
    return dict(value)


def _reading(view: views.Reading, content: Any) -> Response:
    """One form of a document with its media type."""
    if not isinstance(content, str):
        return json_response(content)
    return Response(content, media_type="text/x-python" if view == "python" else "text/plain")


def _page(request: Request, found: Page[T], view: Callable[[T], dict[str, Any]]) -> Response:
    headers = {}
    if found.next is not None:
        url = request.url.include_query_params(after=found.next)
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return json_response({"data": [view(item) for item in found.items], "next": found.next}, headers=headers)


def router(
    control: ControlPlane,
    *,
    lifecycle: Lifecycle,
    limits: Limits,
    prepare: Callable[[str, str, int], None] = lambda model, alias, version: None,
) -> APIRouter:
    """All routes below /v1 but prediction.

    Args:
        prepare: called with model, alias and version before an alias is pointed at a version; raises where it may not.
    """
    routes = APIRouter(dependencies=[Depends(known_parameters)])
    routes.include_router(_architectures(control, limits))
    routes.include_router(_uploads(control, limits))
    routes.include_router(_datasets(control, limits))
    routes.include_router(_jobs(control, lifecycle, limits))
    routes.include_router(_models(control, limits, prepare))
    return routes


def _which(name: str, text: str) -> Reference:
    return Reference(name, version=int(text)) if text.isdigit() else Reference(name, alias=text)


class Limits:
    """Sizes of bodies in bytes."""

    def __init__(self, *, document_bytes: int, json_bytes: int, upload_bytes: int) -> None:
        self.document_bytes = document_bytes
        self.json_bytes = json_bytes
        self.upload_bytes = upload_bytes


# -- architectures ----------------------------------------------------------------------------------------------------


def _architectures(control: ControlPlane, limits: Limits) -> APIRouter:
    routes = APIRouter(prefix="/v1/architectures", tags=["architectures"])
    document = declare("AnyDocument", examples={"net": examples.NET, "sequential": examples.SEQUENTIAL})

    @routes.post(
        "/validate",
        summary="Check a document",
        description="Answers every mistake at once, or the layers with shapes, parameters, FLOPs and memory.",
        responses={200: {"model": views.Validation}},
        openapi_extra=document,
    )
    async def validate(
        request: Request,
        drawing: Annotated[bool, Query(description="Add the net as a Mermaid flowchart.")] = False,
    ) -> Response:
        body = await bodies.read_json(request, limit=limits.document_bytes, keep=True)
        if not isinstance(body, dict):
            raise ValidationFailed(errors=[Entry("", "wrong-type", "A document is an object.", expected="an object")])
        return json_response(await run_sync(partial(control.documents.validate, body, drawing=drawing)))

    @routes.post(
        "/edit",
        summary="Edit a net",
        description=(
            "Surgery by dotted paths on a version or a document: the new document, and what becomes of every tensor. "
            "The document is kept unless `dry_run` is true. Send `{from, edits}` as a job's architecture to import or "
            "train the edited net."
        ),
        responses={200: {"model": views.EditView}, 201: {"model": views.EditView}},
        openapi_extra=declare("EditRequest", examples={"replace": examples.EDIT}),
    )
    async def edit(request: Request) -> Response:
        body = await bodies.read_json(request, limit=limits.document_bytes, keep=True)
        asked = await run_sync(lambda: bodies.validate(EDIT_REQUEST, body))
        found, created = await run_sync(control.documents.edit, asked)
        location = {} if created is None else {"Location": f"/v1/architectures/{found['digest']}"}
        return json_response(found, 201 if created else 200, location)

    @routes.post(
        "/diff",
        summary="Compare two nets",
        description="What differs from `a` to `b`: each a document, the digest of a stored one, or a version.",
        responses={200: {"model": views.DiffView}},
        openapi_extra=declare("DiffRequest", examples={"documents": {"a": examples.NET, "b": examples.SEQUENTIAL}}),
    )
    async def compare(request: Request) -> Response:
        body = await bodies.read_json(request, limit=2 * limits.document_bytes, keep=True)
        asked = await run_sync(lambda: bodies.validate(DIFF_REQUEST, body))
        return json_response(await run_sync(control.documents.compare, asked))

    @routes.get("/schema", summary="JSON Schema of the document")
    async def schema() -> Response:
        return json_response(architectures.json_schema())

    @routes.post(
        "",
        summary="Keep a document",
        status_code=201,
        responses={200: {"model": views.ArchitectureView}, 201: {"model": views.ArchitectureView}},
        openapi_extra=declare("ArchitectureDocument", examples={"net": examples.NET}),
    )
    async def add(request: Request) -> Response:
        body = await bodies.read_json(request, limit=limits.document_bytes, keep=True)
        record, created = await run_sync(control.documents.add, body)
        location = {"Location": f"/v1/architectures/{record.digest}"}
        return json_response(record.view(), 201 if created else 200, location)

    @routes.get(
        "/catalogue",
        summary="Well-known nets",
        description='Each net\'s name and params; `{"catalogue": name, "params": {…}}` stands for its document.',
        responses={200: {"model": views.PageView[views.CatalogueView]}},
    )
    async def nets() -> Response:
        found = [{"name": name, "params": catalogue.document(name)["params"]} for name in catalogue.names()]
        return json_response({"data": found, "next": None})

    @routes.get(
        "/catalogue/{name}",
        summary="A well-known net's document",
        responses={200: {"model": dict[str, Any]}},
    )
    async def net(name: NetName) -> Response:
        return json_response(catalogue.document(name))

    @routes.get("", summary="List documents", responses={200: {"model": views.PageView[views.ArchitectureView]}})
    def listing(request: Request, limit: Limit = 50, after: After = None) -> Response:
        return _page(request, control.documents.kept.list(limit=limit, after=after), lambda record: record.view())

    @routes.get(
        "/{digest:digest}",
        summary="A document",
        description="With `view` in one form alone: the Python that one would write, a Mermaid flowchart, a table.",
        responses={200: {"model": views.ArchitectureView, "content": _READINGS}},
    )
    def get(digest: DigestPath, view: ReadingQuery = None) -> Response:
        if view is None:
            return json_response(control.documents.kept.get(digest).view())
        return _reading(view, control.documents.read(digest, view))

    @routes.delete("/{digest:digest}", summary="Forget a document", status_code=204)
    def delete(digest: DigestPath) -> Response:
        control.documents.kept.delete(digest)
        return Response(status_code=204)

    return routes


# -- uploads and datasets ---------------------------------------------------------------------------------------------


def _uploads(control: ControlPlane, limits: Limits) -> APIRouter:
    routes = APIRouter(prefix="/v1/uploads", tags=["data"])

    @routes.post(
        "",
        summary="Upload bytes",
        description="Any media type but a form's, streamed; `Repr-Digest: sha-256=:…:` is checked when sent.",
        status_code=201,
        responses={201: {"model": views.UploadView}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {}},
                    "text/csv": {"schema": {}, "example": "x,y\n1,1\n2,4\n3,9\n"},
                },
            }
        },
    )
    async def upload(
        request: Request,
        repr_digest: Annotated[str | None, Header(max_length=1000, description="RFC 9530, sha-256.")] = None,
    ) -> Response:
        expected = _repr_digest(repr_digest)
        bodies.require_plain(request)
        announced = bodies.declared(request)
        if announced > limits.upload_bytes:
            raise bodies.too_large(limits.upload_bytes)
        writer = await run_sync(lambda: control.uploads.receive(expected_bytes=announced))
        empty = True
        with writer:
            async for piece in bodies.stream(request, limit=limits.upload_bytes):
                if piece:
                    await run_sync(writer.write, piece)
                    empty = False
            if empty:
                raise ValidationFailed(errors=[Entry("", "missing", "The body is empty: there is nothing to keep.")])
            record = await run_sync(writer.finish, expected)
        return json_response(record.view(), 201, {"Location": f"/v1/uploads/{record.id}"})

    @routes.get("", summary="List uploads", responses={200: {"model": views.PageView[views.UploadView]}})
    def listing(request: Request, limit: Limit = 50, after: After = None) -> Response:
        return _page(request, control.uploads.list(limit=limit, after=after), lambda record: record.view())

    @routes.get("/{upload_id:upload}", summary="An upload", responses={200: {"model": views.UploadView}})
    def get(upload_id: UploadIdPath) -> Response:
        return json_response(control.uploads.get(upload_id).view())

    @routes.delete("/{upload_id:upload}", summary="Delete an upload", status_code=204)
    def delete(upload_id: UploadIdPath) -> Response:
        control.uploads.delete(upload_id)
        return Response(status_code=204)

    return routes


def _repr_digest(header: str | None) -> bytes | None:
    """The sha-256 of a Repr-Digest header; None when there is none, other algorithms are passed over (RFC 9530)."""
    if header is None:
        return None
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name.strip().lower() == "sha-256":
            try:
                found = base64.b64decode(value.strip().removeprefix(":").removesuffix(":"), validate=True)
            except (binascii.Error, ValueError):
                found = b""
            if len(found) != 32 or not (value.strip().startswith(":") and value.strip().endswith(":")):
                detail, expected = "This is no sha-256 digest.", "sha-256=:<base64 of 32 bytes>:"
                raise DigestMismatch(
                    "The Repr-Digest header cannot be read.",
                    errors=[Entry("/header/repr-digest", "digest-mismatch", detail, expected=expected)],
                )
            return found
    return None


def _datasets(control: ControlPlane, limits: Limits) -> APIRouter:
    routes = APIRouter(prefix="/v1/datasets", tags=["data"])

    @routes.post(
        "",
        summary="Make a dataset",
        description=(
            "From a generator, inline rows, or an uploaded file. A large file is read in the background: the answer is "
            "then 202 and the state `processing`; `Prefer: wait=N` waits longer."
        ),
        status_code=201,
        responses={201: {"model": views.DatasetView}, 202: {"model": views.DatasetView}},
        openapi_extra=declare(
            "DatasetRequest",
            examples={
                "polynomial": {"name": "parabola", "source": examples.PARABOLA},
                "clouds": {"source": examples.CLOUDS},
                "inline": {"source": {"type": "inline", "inputs": [[1, 2], [3, 4]], "targets": [0.5, 0.7]}},
                "csv": {"source": {"type": "csv", "upload": "up_" + "0" * 32, "inputs": ["x"], "target": "y"}},
            },
        ),
    )
    async def add(request: Request, prefer: Prefer = None, key: Key = None) -> Response:
        raw = await bodies.read_bytes(request, limit=limits.json_bytes)
        asked = await run_sync(lambda: bodies.validate(_DATASET, bodies.parse_json(raw, keep=True)))
        wait = _wait_of(prefer)
        idempotency = _idempotency(request, key, "POST /v1/datasets", raw)
        record, reading, new = await run_sync(lambda: control.intake.add(asked, idempotency=idempotency))
        if reading is not None:
            await _ended(reading, _READ_WAIT_S if wait is None else wait)
            record = await run_sync(control.datasets.get, record.id)
        if record.state == "failed":
            error = record.error or {}
            entries = [Entry(**entry) for entry in error.get("errors", [])]
            raise DatasetRefused(error.get("detail"), errors=entries, more=error.get("more", 0))
        headers = {"Location": f"/v1/datasets/{record.id}"}
        if wait is not None:
            headers["Preference-Applied"] = f"wait={wait:g}"
        if not new:
            headers["Idempotent-Replayed"] = "true"
        return json_response(record.view(), 201 if record.state == "ready" else 202, headers)

    @routes.get("", summary="List datasets", responses={200: {"model": views.PageView[views.DatasetView]}})
    def listing(request: Request, limit: Limit = 50, after: After = None) -> Response:
        return _page(request, control.datasets.list(limit=limit, after=after), lambda record: record.view())

    @routes.get("/{dataset_id:dataset}", summary="A dataset", responses={200: {"model": views.DatasetView}})
    def get(dataset_id: DatasetIdPath) -> Response:
        return json_response(control.datasets.get(dataset_id).view())

    @routes.delete("/{dataset_id:dataset}", summary="Delete a dataset", status_code=204)
    def delete(dataset_id: DatasetIdPath) -> Response:
        control.datasets.delete(dataset_id)
        return Response(status_code=204)

    @routes.get(
        "/{dataset_id:dataset}/preview", summary="Its first rows", responses={200: {"model": views.PreviewView}}
    )
    def preview(dataset_id: DatasetIdPath, limit: Limit = 20) -> Response:
        return json_response(control.intake.preview(dataset_id, limit=limit))

    @routes.get("/{dataset_id:dataset}/profile", summary="Its columns", responses={200: {"model": views.ProfileView}})
    def profile(dataset_id: DatasetIdPath) -> Response:
        return json_response(control.intake.profile(dataset_id))

    return routes


async def _ended(work: Future[None], seconds: float) -> None:
    """Wait until the work has ended, or for so long; raises what it raised. It goes on in any case."""
    ended = asyncio.wrap_future(work)
    ended.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be there any more to look
    await asyncio.wait((ended,), timeout=seconds)
    if ended.done():
        ended.result()


# -- jobs -------------------------------------------------------------------------------------------------------------

Prefer = Annotated[
    str | None,
    Header(max_length=200, description="`wait=N`: answer when the work has ended, or after N seconds (RFC 7240)."),
]


def _wait_of(prefer: str | None) -> float | None:
    match = re.search(r"(?:^|[,;\s])wait=([0-9]{1,4})(?:$|[,;\s])", prefer or "", re.ASCII)
    return min(float(match[1]), 600.0) if match else None


def _by(request: Request) -> str | None:
    """Who asks, for a history: the name of the key or the subject of the token; nobody where none are asked for."""
    principal = principal_of(request)
    return None if principal is keys.ANONYMOUS else principal.name


def _idempotency(request: Request, key: str | None, route: str, body: bytes) -> IdempotencyKey | None:
    caller = principal_of(request).name  # which the successor of a key shares
    return None if key is None else IdempotencyKey(key, route, caller, hashlib.sha256(body).hexdigest())


def _may_set_alias(request: Request, output: object) -> None:
    """Hold a job that moves an alias to what moving it by hand needs; what is malformed is told later."""
    if isinstance(output, dict) and output.get("alias_on_success") is not None:
        require(request, keys.Scope.PUBLISH, "A job that sets an alias")


def _forbidden(request: Request, output: object) -> list[Entry]:
    """What `_may_set_alias` would refuse, for those who only want to know."""
    try:
        _may_set_alias(request, output)
    except Forbidden as refused:
        hint = "Use a key of the scope publish, or leave `alias_on_success` out."
        return [Entry("/output/alias_on_success", refused.code, refused.message, hint=hint)]
    return []


def _jobs(control: ControlPlane, lifecycle: Lifecycle, limits: Limits) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["jobs"])
    queue = control.queue
    submitting = CapacityLimiter(8)  # a submit may read a file first; the other threads stay free for all else

    @routes.post(
        "/jobs",
        summary="Start a job",
        description=(
            "Kinds: train, import, evaluate, export. Answers 202 at once, or with `Prefer: wait=N` 200 when the job "
            "has ended within N seconds. With `dry_run=true` nothing is queued: the answer is the resolved spec, the "
            "memory, an estimate of the time from measured steps, and warnings, each with a patch where there is one."
        ),
        status_code=202,
        responses={200: {"model": views.JobView | views.ExaminationView}, 202: {"model": views.JobView}},
        openapi_extra=declare(
            "JobRequest",
            examples={
                "train": examples.TRAIN,
                "classify": examples.CLASSIFY,
                "import": examples.IMPORT,
                "evaluate": examples.EVALUATE,
                "export": examples.EXPORT,
            },
        ),
    )
    async def submit(
        request: Request,
        prefer: Prefer = None,
        key: Key = None,
        dry_run: Annotated[bool, Query(description="Only say what would happen.")] = False,
    ) -> Response:
        raw = await bodies.read_bytes(request, limit=limits.json_bytes)
        body = await run_sync(lambda: bodies.parse_json(raw, keep=True))
        output = body.get("output") if isinstance(body, dict) else None
        if dry_run:
            forbidden = _forbidden(request, output)
            return json_response(
                await run_sync(lambda: control.examiner.examine(body, forbidden=forbidden), limiter=submitting)
            )
        _may_set_alias(request, output)
        idempotency = _idempotency(request, key, "POST /v1/jobs", raw)
        return await _accepted(lambda: control.submit(body, idempotency=idempotency), prefer)

    async def _accepted(act: Submission, prefer: str | None) -> Response:
        """The answer to a request that makes a job: 202, or 200 when the client waits and it ends in that time."""
        job, earlier = await run_sync(act, limiter=submitting)
        if job is None:
            assert earlier is not None
            headers = {"Location": f"/v1/jobs/{earlier['id']}", "Idempotent-Replayed": "true"}
            return json_response(earlier, 202, headers)
        status = 202
        wait = _wait_of(prefer)
        headers = {"Location": f"/v1/jobs/{job.id}"}
        if wait is not None:
            job = await _await_end(job.id, wait)
            status = 200 if job.state in FINAL else 202
            headers["Preference-Applied"] = f"wait={wait:g}"
        return json_response(job.view(), status, headers)

    async def _await_end(job_id: str, seconds: float) -> Job:
        deadline = time.monotonic() + seconds
        with _changes(control, job_id) as changed:
            while True:
                changed.clear()
                state = await run_sync(queue.state, job_id)
                remaining = deadline - time.monotonic()
                if state in FINAL or remaining <= 0 or lifecycle.draining:
                    return await run_sync(queue.get, job_id)
                try:
                    await asyncio.wait_for(changed.wait(), min(remaining, 0.5))
                except TimeoutError:
                    continue

    @routes.get("/jobs", summary="List jobs", responses={200: {"model": views.PageView[views.JobSummary]}})
    def listing(
        request: Request,
        state: JobState | None = None,
        model: Annotated[str | None, Query(max_length=63)] = None,
        kind: Annotated[str | None, Query(pattern="^(train|evaluate|import|export)$")] = None,
        limit: Limit = 50,
        after: After = None,
    ) -> Response:
        found = queue.list(state=state, model=model, kind=kind, limit=limit, after=after)
        return _page(request, found, lambda job: job.view())

    @routes.get("/jobs/{job_id:job}", summary="A job", responses={200: {"model": views.JobView}})
    def get(job_id: JobId) -> Response:
        job = queue.get(job_id)
        view = job.view()
        if job.state is JobState.QUEUED and job.state_reason is None:
            view["state_reason"] = queue.waiting_for(job_id)
        return json_response(view, headers={"ETag": job.etag})

    @routes.patch(
        "/jobs/{job_id:job}",
        summary="Change priority or labels",
        responses={200: {"model": views.JobView}},
        openapi_extra=declare("JobPatch", examples={"labels": {"labels": {"team": "blue"}}}),
    )
    async def patch(request: Request, job_id: JobId, if_match: IfMatch = None) -> Response:
        change = await bodies.read(request, _JOB_PATCH, limit=limits.document_bytes)
        job = await run_sync(
            lambda: queue.update(job_id, priority=change.priority, labels=change.labels, if_match=if_match)
        )
        return json_response(job.view(), headers={"ETag": job.etag})

    @routes.delete("/jobs/{job_id:job}", summary="Forget a job that has ended", status_code=204)
    def delete(job_id: JobId) -> Response:
        control.delete_job(job_id)
        return Response(status_code=204)

    @routes.post(
        "/jobs/{job_id:job}/cancel",
        summary="Stop a job and keep its best checkpoint",
        status_code=202,
        responses={200: {"model": views.JobView}, 202: {"model": views.JobView}},
    )
    def cancel(job_id: JobId) -> Response:
        job, changed = control.cancel(job_id)
        return json_response(job.view(), 202 if changed else 200)

    @routes.post(
        "/jobs/{job_id:job}/pause",
        summary="Stop a job for now and give its slot back",
        description="It keeps a checkpoint, from which it goes on when it is resumed, also after a restart.",
        status_code=202,
        responses={200: {"model": views.JobView}, 202: {"model": views.JobView}},
    )
    def pause(job_id: JobId) -> Response:
        job, changed = control.pause(job_id)
        return json_response(job.view(), 202 if changed else 200)

    @routes.post(
        "/jobs/{job_id:job}/resume",
        summary="Let a paused job go on",
        status_code=202,
        responses={200: {"model": views.JobView}, 202: {"model": views.JobView}},
    )
    def resume(job_id: JobId) -> Response:
        job, changed = control.resume(job_id)
        return json_response(job.view(), 202 if changed else 200)

    @routes.post(
        "/jobs/{job_id:job}/retry",
        summary="Try a failed or cancelled job again",
        description=(
            "Another attempt of the same job: from its newest checkpoint where one is kept, or with "
            '`{"from": "start"}` from the beginning.'
        ),
        status_code=202,
        responses={200: {"model": views.JobView}, 202: {"model": views.JobView}},
        openapi_extra=declare("RetryRequest", examples={"plain": {}, "anew": {"from": "start"}}, required=False),
    )
    async def retry(request: Request, job_id: JobId) -> Response:
        raw = await bodies.read_bytes(request, limit=limits.document_bytes, optional=True)
        asked = bodies.validate(_RETRY, bodies.parse_json(raw)) if raw.strip() else views.RetryRequest()
        _may_set_alias(request, (await run_sync(queue.get, job_id)).resolved_spec.get("output"))
        job, changed = await run_sync(lambda: control.retry(job_id, from_start=asked.from_ == "start"))
        return json_response(job.view(), 202 if changed else 200)

    @routes.post(
        "/jobs/{job_id:job}/promote",
        summary="Publish the best checkpoint of a job that has made no version",
        description=(
            "A new job, of the kind import, that measures the checkpoint and publishes it; the other job goes on. By "
            "default the version goes to the job's own model and no alias moves."
        ),
        status_code=202,
        responses={200: {"model": views.JobView}, 202: {"model": views.JobView}},
        openapi_extra=declare(
            "PromoteRequest",
            examples={"plain": {}, "elsewhere": {"output": {"model": "trial", "alias_on_success": "candidate"}}},
            required=False,
        ),
    )
    async def promote(request: Request, job_id: JobId, prefer: Prefer = None, key: Key = None) -> Response:
        raw = await bodies.read_bytes(request, limit=limits.document_bytes, optional=True)
        body = bodies.parse_json(raw) if raw.strip() else {}
        asked = bodies.validate(_PROMOTE, body)
        _may_set_alias(request, body.get("output"))
        idempotency = _idempotency(request, key, f"POST /v1/jobs/{job_id}/promote", raw)
        return await _accepted(lambda: control.promote(job_id, asked.output, idempotency=idempotency), prefer)

    @routes.post(
        "/jobs/{job_id:job}/replay",
        summary="Train again, and compare",
        description=(
            "A new job with the resolved spec, which publishes nothing: its `report` says whether the weights are "
            "identical, else the first step at which the curves differ."
        ),
        status_code=202,
        responses={200: {"model": views.JobView}, 202: {"model": views.JobView}},
    )
    async def replay(request: Request, job_id: JobId, prefer: Prefer = None, key: Key = None) -> Response:
        idempotency = _idempotency(request, key, f"POST /v1/jobs/{job_id}/replay", b"")
        return await _accepted(lambda: control.replay(job_id, idempotency=idempotency), prefer)

    @routes.get(
        "/jobs/{job_id:job}/events",
        summary="What happened to a job",
        description=(
            "A page of JSON, or with `Accept: text/event-stream` a live stream, which goes on after `Last-Event-ID` "
            "and ends with the event `done`."
        ),
        responses={200: {"model": EventsPage, "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def events(
        request: Request,
        job_id: JobId,
        after: Annotated[int, Query(ge=0, lt=2**63, description="Only events with larger ids.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
        last_event_id: Annotated[str | None, Header(max_length=40)] = None,
    ) -> Response:
        await run_sync(queue.state, job_id)
        if "text/event-stream" not in request.headers.get("accept", ""):
            found = await run_sync(lambda: queue.events(job_id, after=after, limit=limit + 1))
            more = len(found) > limit
            found = found[:limit]
            following = str(found[-1].id) if more else None
            headers = (
                {"Link": f'</v1/jobs/{job_id}/events?after={following}&limit={limit}>; rel="next"'} if more else {}
            )
            return json_response({"data": [event.view() for event in found], "next": following}, headers=headers)
        start = max(after, _event_id(last_event_id))
        return EventSourceResponse(
            _stream(control, lifecycle, partial(still_admitted, request), job_ids=(job_id,), after=start, ends=True),
            ping=15,
            headers=STREAM_HEADERS,
        )

    @routes.get(
        "/events",
        summary="One stream for many jobs",
        description="Topics: `jobs` (the states of all jobs) and `job:ID` (everything of one), comma separated.",
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
        response_class=EventSourceResponse,
    )
    async def multiplexed(
        request: Request,
        topics: Annotated[
            str, Query(max_length=4000, pattern=r"^(jobs|job:job_[0-9a-f]{32})(,(jobs|job:job_[0-9a-f]{32}))*$")
        ] = "jobs",
        last_event_id: Annotated[str | None, Header(max_length=40)] = None,
    ) -> Response:
        names = topics.split(",")
        job_ids = tuple(name.removeprefix("job:") for name in names if name != "jobs")
        start = _event_id(last_event_id) if last_event_id is not None else await run_sync(queue.newest_event)
        admitted = partial(still_admitted, request)
        stream = _stream(
            control, lifecycle, admitted, job_ids=job_ids, after=start, ends=False, states_of_all="jobs" in names
        )
        return EventSourceResponse(stream, ping=15, headers=STREAM_HEADERS)

    @routes.get("/jobs/{job_id:job}/metrics", summary="Its curves", responses={200: {"model": views.MetricsView}})
    def metrics(
        job_id: JobId,
        points: Annotated[int, Query(ge=2, le=100_000, description="At most so many values of each series.")] = 2000,
    ) -> Response:
        return json_response(control.metrics(job_id, points=points))

    @routes.get("/jobs/{job_id:job}/logs", summary="What its workers printed", response_class=PlainTextResponse)
    def logs(job_id: JobId) -> Response:
        return PlainTextResponse(control.job_log(job_id))

    @routes.get(
        "/jobs/{job_id:job}/checkpoints", summary="Its checkpoints", responses={200: {"model": CheckpointsPage}}
    )
    def checkpoints(job_id: JobId) -> Response:
        return json_response({"data": control.checkpoints(job_id), "next": None})

    @routes.get(
        "/jobs/{job_id:job}/artifact",
        summary="The file that it made",
        description="Of an export job that has succeeded; its name, size and digest are the job's `output.artifact`.",
        response_class=Response,
        responses={200: _BYTES, 206: _BYTES},
    )
    def artifact(job_id: JobId) -> Response:
        path, about = control.artifact(job_id)
        sha256 = about["digest"].removeprefix("sha256:")
        return _File(path, media_type="application/octet-stream", filename=about["name"], headers=_unchanging(sha256))

    return routes


EventsPage = views.PageView[views.EventView]
CheckpointsPage = views.PageView[views.CheckpointView]


def _event_id(header: str | None) -> int:
    """A Last-Event-ID; what is no id of ours means from the beginning."""
    return int(header) if header and re.fullmatch(r"[0-9]{1,18}", header) else 0


class _changes:  # noqa: N801  a context manager that reads as a word
    """An asyncio event that is set whenever something about the job (or any job) is committed."""

    def __init__(self, control: ControlPlane, job_id: str | None) -> None:
        self._control = control
        self._job_id = job_id

    def __enter__(self) -> asyncio.Event:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        def told(job_id: str) -> None:
            if self._job_id in (None, job_id):
                loop.call_soon_threadsafe(event.set)

        self._end = self._control.queue.changed.subscribe(told)
        return event

    def __exit__(self, *_: object) -> None:
        self._end()


async def _stream(
    control: ControlPlane,
    lifecycle: Lifecycle,
    admitted: Callable[[], bool],
    *,
    job_ids: Sequence[str],
    after: int,
    ends: bool,
    states_of_all: bool = False,
) -> AsyncIterator[ServerSentEvent]:
    """Events as they are committed, each once, in order; ends with `done`, when the server drains, or the key ends."""
    queue = control.queue
    only = job_ids[0] if len(job_ids) == 1 and not states_of_all else None
    wanted = frozenset(job_ids)
    with _changes(control, only) as changed:
        while not lifecycle.draining:
            changed.clear()
            found: Sequence[Event] = await run_sync(partial(queue.events, only, after=after, limit=500))
            if not admitted():
                return
            for event in found:
                after = event.id
                if ends and event.type == "done" and await run_sync(queue.goes_on_after, event):
                    continue  # it was retried: this was not the end
                if event.job_id in wanted or (states_of_all and event.type in ("state", "done")):
                    yield ServerSentEvent(data=orjson.dumps(event.view()).decode(), event=event.type, id=str(event.id))
                    if ends and event.type == "done":
                        return
            if found:
                continue
            try:
                ended = ends and await run_sync(queue.state, job_ids[0]) in FINAL
            except NotFound:
                return  # it was deleted, with the events that were not read yet
            if ended:
                # Everything was sent before already: the client asked for what comes after the end.
                if not await run_sync(partial(queue.events, only, after=after, limit=1)):
                    return
                continue
            try:
                await asyncio.wait_for(changed.wait(), 0.5)
            except TimeoutError:
                continue


class _File(FileResponse):
    """A file, or the one part of it that is asked for; any other wish for ranges is passed over (RFC 9110, 14.2)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        part = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", Headers(scope=scope).get("range", ""))
        size = (await run_sync(os.stat, self.path)).st_size
        if part is None or not int(part[1]) <= min(int(part[2] or size), size - 1):
            headers = [header for header in scope["headers"] if header[0] != b"range"]
            scope = {**scope, "headers": headers}
        await super().__call__(scope, receive, send)


class _Assembled(StreamingResponse):
    """Bytes that are put together while they are sent: all, or the one part that is asked for, as `_File` does it."""

    def __init__(self, download: Download, request: Request, *, media_type: str, filename: str) -> None:
        headers = {
            **_unchanging(download.sha256),
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'attachment; filename="{filename}"',
        }
        first, last, size = 0, download.size_bytes - 1, download.size_bytes
        part = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", request.headers.get("range", ""))
        wanted = request.headers.get("if-range") in (None, headers["ETag"])
        partial_content = part is not None and wanted and int(part[1]) <= min(int(part[2] or size), size - 1)
        if part is not None and partial_content:
            first, last = int(part[1]), min(int(part[2] or last), last)
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        headers["Content-Length"] = str(last + 1 - first)
        super().__init__(
            download.read(first, last + 1), 206 if partial_content else 200, headers=headers, media_type=media_type
        )


def _unchanging(sha256: str) -> dict[str, str]:
    """Headers of bytes that never change, told by their digest."""
    return {
        "Cache-Control": "public, max-age=31536000, immutable",
        "ETag": f'"{sha256}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
    }


# -- models -----------------------------------------------------------------------------------------------------------


def _models(control: ControlPlane, limits: Limits, prepare: Callable[[str, str, int], None]) -> APIRouter:
    routes = APIRouter(prefix="/v1/models", tags=["models"])
    models = control.models

    @routes.get("", summary="List models", responses={200: {"model": views.PageView[views.ModelView]}})
    def listing(request: Request, limit: Limit = 50, after: After = None) -> Response:
        return _page(request, models.models(limit=limit, after=after), lambda record: record.view())

    @routes.get("/{name}", summary="A model", responses={200: {"model": views.ModelView}})
    def get(name: ModelName) -> Response:
        record = models.model(name)
        return json_response(record.view(), headers={"ETag": record.etag})

    @routes.get(
        "/{name}/signature",
        summary="What it takes and answers",
        description=(
            "Of a version: how a row of each input looks, the classes, and how the file that it learnt from was "
            "written, by which a client writes requests. By default of the champion, else of the newest version."
        ),
        responses={200: {"model": views.ModelSignatureView}},
    )
    def signature(name: ModelName, version: Which | None = None) -> Response:
        return json_response(control.signature(Reference(name) if version is None else _which(name, version)))

    @routes.patch(
        "/{name}",
        summary="Change notes or tags",
        responses={200: {"model": views.ModelView}},
        openapi_extra=declare("Notes", examples={"notes": {"notes": "Fits the parabola."}}),
    )
    async def patch(request: Request, name: ModelName, if_match: IfMatch = None) -> Response:
        change = await bodies.read(request, _NOTES, limit=limits.document_bytes)
        record = await run_sync(
            lambda: models.update_model(name, notes=change.notes, tags=change.tags, if_match=if_match)
        )
        return json_response(record.view(), headers={"ETag": record.etag})

    @routes.delete("/{name}", summary="Delete a model with all its versions", status_code=204)
    def delete(request: Request, name: ModelName, force: bool = False) -> Response:
        models.delete_model(name, force=force, by=_by(request))
        return Response(status_code=204)

    @routes.get(
        "/{name}/versions", summary="Its versions", responses={200: {"model": views.PageView[views.VersionView]}}
    )
    def versions(request: Request, name: ModelName, limit: Limit = 50, after: After = None) -> Response:
        return _page(request, models.versions(name, limit=limit, after=after), _version_view)

    def _version_view(record: Any) -> dict[str, Any]:
        try:
            preprocessing = models.document(record.model, record.version, "preprocessing.json")
        except ModelQuarantined:  # the other versions of a list are shown all the same
            preprocessing = None
        return {**record.view(), "preprocessing": preprocessing}

    @routes.get(
        "/{name}/compare",
        summary="Compare two versions",
        description="Metrics side by side, whether the weights are the same, and what differs from net `a` to net `b`.",
        responses={200: {"model": views.CompareView}},
    )
    def side_by_side(name: ModelName, a: Which, b: Which) -> Response:
        return json_response(control.documents.compare_versions(name, _which(name, a), _which(name, b)))

    @routes.get("/{name}/versions/{number}", summary="A version", responses={200: {"model": views.VersionView}})
    def version(name: ModelName, number: VersionNumber) -> Response:
        record = models.version(name, number)
        return json_response(_version_view(record), headers={"ETag": record.etag})

    @routes.patch(
        "/{name}/versions/{number}",
        summary="Change notes or tags of a version",
        responses={200: {"model": views.VersionView}},
        openapi_extra=declare("Notes", examples={"tags": {"tags": {"stage": "trial"}}}),
    )
    async def patch_version(
        request: Request, name: ModelName, number: VersionNumber, if_match: IfMatch = None
    ) -> Response:
        change = await bodies.read(request, _NOTES, limit=limits.document_bytes)
        record = await run_sync(
            lambda: models.update_version(name, number, notes=change.notes, tags=change.tags, if_match=if_match)
        )
        return json_response(_version_view(record), headers={"ETag": record.etag})

    @routes.delete("/{name}/versions/{number}", summary="Delete a version", status_code=204)
    def delete_version(request: Request, name: ModelName, number: VersionNumber, force: bool = False) -> Response:
        models.delete_version(name, number, force=force, by=_by(request))
        return Response(status_code=204)

    @routes.get(
        "/{name}/versions/{number}/python",
        summary="Its net as Python, for reading",
        description="A class as one would write it by hand; its state_dict has the keys of the version's weights.",
        response_class=Response,
        responses={200: {"content": {"text/x-python": _READINGS["text/x-python"]}}},
    )
    def python(name: ModelName, number: VersionNumber) -> Response:
        return _reading("python", control.documents.read_version(name, number, "python"))

    @routes.get(
        "/{name}/versions/{number}/architecture",
        summary="Its document",
        description="The canonical one, or with `view` another form of it.",
        responses={200: {"content": _READINGS}},
    )
    def architecture(name: ModelName, number: VersionNumber, view: ReadingQuery = None) -> Response:
        if view not in (None, "canonical"):
            return _reading(view, control.documents.read_version(name, number, view))
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return json_response(models.document(name, number, "architecture.json"), headers=headers)

    @routes.get(
        "/{name}/versions/{number}/weights",
        summary="Its state_dict",
        description=(
            "As torch.save wrote it, or as safetensors, of which the bytes depend on the tensors alone: names sorted, "
            "no metadata, shared tensors written once for each name."
        ),
        response_class=Response,
        responses={200: _BYTES, 206: _BYTES},
    )
    def weights(
        request: Request,
        name: ModelName,
        number: VersionNumber,
        format: Annotated[
            Literal["pt", "safetensors"], Query(description="The form of the file.", examples=["safetensors"])
        ] = "pt",
    ) -> Response:
        if format == "safetensors":
            download = control.safetensors(name, number)
            filename = f"{name}-{number}.safetensors"
            return _Assembled(download, request, media_type="application/octet-stream", filename=filename)
        path, file = models.file(name, number, "weights.pt")
        return _File(
            path,
            media_type="application/octet-stream",
            filename=f"{name}-{number}.pt",
            headers=_unchanging(file.sha256),
        )

    @routes.get(
        "/{name}/versions/{number}/bundle",
        summary="All of it in one zip file",
        description=(
            "Documents, weights, golden rows, the net as Python and a loader for plain PyTorch. The bytes are the same "
            "each time. An import job takes the file back."
        ),
        response_class=Response,
        responses={
            200: {"content": {"application/zip": _BYTES["content"]["application/octet-stream"]}},
            206: {"content": {"application/zip": _BYTES["content"]["application/octet-stream"]}},
        },
    )
    def bundle(request: Request, name: ModelName, number: VersionNumber) -> Response:
        download = control.bundle(name, number)
        return _Assembled(download, request, media_type="application/zip", filename=f"{name}-{number}.zip")

    @routes.post(
        "/{name}/versions/{number}/verify",
        summary="Hash its files again",
        description="A version that was quarantined is served again when its files are the published ones after all.",
        responses={200: {"model": views.VerifyView}},
    )
    def verify(name: ModelName, number: VersionNumber) -> Response:
        wrong = models.verify(name, number)
        if not wrong:
            models.reinstate(name, number)
        return json_response({"ok": not wrong, "mismatches": [{"file": file} for file in wrong]})

    @routes.get("/{name}/aliases/{alias}", summary="Where an alias points", responses={200: {"model": views.AliasView}})
    def alias(name: ModelName, alias: AliasName) -> Response:
        record = models.aliases.get(name, alias)
        return json_response(record.view(), headers={"ETag": record.etag})

    @routes.put(
        "/{name}/aliases/{alias}",
        summary="Point an alias at a version",
        description=(
            "With `If-Match` and the ETag that was seen; a new alias with `If-None-Match: *`. The version is loaded "
            "first: one that cannot be, or whose golden rows do not come out again, does not get the alias. A `canary` "
            "answers a share of the requests, `shadow` versions are compared, and a `guard` takes the newest back."
        ),
        responses={200: {"model": views.AliasView}, 201: {"model": views.AliasView}},
        openapi_extra=declare(
            "AliasRequest",
            examples={
                "first": {"version": 1},
                "canary": {"version": 1, "canary": {"version": 2, "percent": 5}, "guard": {"error_rate": 0.02}},
            },
        ),
    )
    async def set_alias(
        request: Request, name: ModelName, alias: AliasName, if_match: IfMatch = None, if_none_match: IfNoneMatch = None
    ) -> Response:
        asked = await bodies.read(request, _ALIAS, limit=limits.document_bytes)
        create = if_none_match is not None and if_none_match.strip() == "*"

        def point() -> AliasRecord:
            if control.alias_is_as_seen(name, alias, if_match=if_match, create=create):
                with suppress(NotFound):  # which is told below, with its place
                    prepare(name, alias, asked.version)
            return models.aliases.set(
                name,
                alias,
                asked.version,
                if_match=if_match,
                create=create,
                by=_by(request),
                reason=asked.reason,
                routing=asked.routing,
            )

        record = await run_sync(point)
        return json_response(record.view(), 201 if create else 200, {"ETag": record.etag})

    @routes.delete("/{name}/aliases/{alias}", summary="Remove an alias", status_code=204)
    def delete_alias(request: Request, name: ModelName, alias: AliasName, if_match: IfMatch = None) -> Response:
        models.aliases.delete(name, alias, if_match=if_match, by=_by(request))
        return Response(status_code=204)

    @routes.get(
        "/{name}/aliases/{alias}/history",
        summary="Where an alias pointed",
        responses={200: {"model": views.PageView[views.AliasChangeView]}},
    )
    def history(
        request: Request, name: ModelName, alias: AliasName, limit: Limit = 50, after: After = None
    ) -> Response:
        found = models.aliases.history(name, alias, limit=limit, after=after)
        return _page(request, found, lambda change: change.view())

    @routes.post(
        "/{name}/aliases/{alias}/rollback",
        summary="Point an alias where it pointed before",
        description=(
            "The version is loaded first, as when an alias is set; one whose files turn out to be damaged is passed "
            "over for the one before it."
        ),
        responses={200: {"model": views.AliasView}},
        openapi_extra=declare("RollbackRequest", examples={"plain": {}}, required=False),
    )
    async def rollback(request: Request, name: ModelName, alias: AliasName, if_match: IfMatch = None) -> Response:
        raw = await bodies.read_bytes(request, limit=limits.document_bytes, optional=True)
        asked = bodies.validate(_ROLLBACK, bodies.parse_json(raw)) if raw.strip() else views.RollbackRequest()
        record = await run_sync(
            lambda: models.aliases.rollback(
                name, alias, if_match=if_match, by=_by(request), reason=asked.reason, prepare=prepare
            )
        )
        return json_response(record.view(), headers={"ETag": record.etag})

    return routes
