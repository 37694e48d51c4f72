"""The Open Inference Protocol over gRPC: messages to the view of the data plane and back, errors to gRPC's codes.

It runs on the event loop of the server, so its requests ride in the same batches as those over HTTP. Knows messages and
codes; what the operations mean stands in `openinference`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import numpy as np
from anyio.to_thread import run_sync
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from grpc import aio

from service import errors
from service.errors import Entry, ServiceError, Unauthenticated, Unsupported, summary
from service.grpc import messages
from service.inference import tensors
from service.inference.tensors import DATATYPES, Requested, Tensor
from service.keys import ANONYMOUS, Guard, Principal, Scope
from service.openinference import OpenInference, said
from service.telemetry import Metrics, log

_log = log(__name__)
_Context = Any
"""grpc.aio's ServicerContext; its packages have no types."""

CODES: Final[Mapping[type[ServiceError], grpc.StatusCode]] = {
    errors.MalformedBody: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedMediaType: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PreconditionRequired: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Busy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.DatabaseBusy: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.StoreError: grpc.StatusCode.UNAVAILABLE,
    errors.StoreFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.MemoryFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.JobFailed: grpc.StatusCode.FAILED_PRECONDITION,
}
"""The code of each class of errors; a class that is not here has its parent's."""

SCOPES: Final[Mapping[str, Scope | None]] = {
    "ServerLive": None,
    "ServerReady": None,
    "ServerMetadata": None,
    "ModelReady": Scope.PREDICT,
    "ModelMetadata": Scope.PREDICT,
    "ModelConfig": Scope.READ,
    "ModelStatistics": Scope.READ,
    "RepositoryIndex": Scope.READ,
    "ModelInfer": Scope.PREDICT,
    "ModelStreamInfer": Scope.PREDICT,
    "RepositoryModelLoad": Scope.ADMIN,
    "RepositoryModelUnload": Scope.ADMIN,
    "Check": None,
    "Watch": None,
}
"""What each operation needs; None needs no key. What is not in the table is denied."""

_TYPED: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of each datatype are; FP16 and BF16 can only be raw."""

_AT_ONCE: Final = 16 * 1024
"""Messages of more bytes are read in a thread, so that nobody waits for them."""

_SMALL: Final = 64 * 1024
"""Bytes that a message without tensors may have."""

_COUNTED: Final = 64 * 1024
"""Of messages of so many bytes the memory is counted."""

_TYPED_WEIGHT: Final = 8
"""So much more memory typed contents take once they are read, as JSON does."""

_CALLS: Final = 1000
"""Calls that are answered at the same time, open streams among them; further ones are refused."""

_FIELDS: Final = 64 * 1024
"""Fields that the tensors of a message may have together, elements not counted."""

_CHUNK: Final = 64 * 1024
"""Elements that are copied out of a message in one step."""

_WATCHERS: Final = 100
"""Streams that watch the server's health, which takes no key: they shall leave room for calls."""

_WATCH_S: Final = 0.25
"""So often those who watch the server's health are told whether it has changed."""

_SMALL_MESSAGE_S: Final = 5.0
"""So long a call has for a message without tensors, at most: who has no key may make such calls too."""

_LOOK_S: Final = 0.5
"""So often it is looked whether messages are late, while any is awaited."""


def code_of(kind: type[ServiceError]) -> grpc.StatusCode:
    """The gRPC code of a class of errors: that of its nearest class in the table."""
    return next((CODES[parent] for parent in kind.__mro__ if parent in CODES), grpc.StatusCode.INTERNAL)


class Share(Protocol):
    """What one request holds of the memory for large bodies."""

    def reach(self, size: int) -> None:
        """See that the request may hold `size` bytes in all; Overloaded where there is no room for that now."""


class Room(Protocol):
    """The memory for large bodies that are held at the same time, those of HTTP among them."""

    def share(self) -> AbstractContextManager[Share]:
        """The part of one request, given back at its end."""


class Spans(Protocol):
    """Traces calls."""

    def call(
        self, service: str, method: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> AbstractContextManager[Callable[[int], None]]:
        """The span of a call, within the trace that its metadata names; it is told the code that the call ends with."""


class Front:
    """A gRPC server over the view of the data plane; start it on the event loop of the data plane.

    Args:
        view: what the operations do.
        guard: who may call them.
        metrics: requests are counted there under the operation's full name.
        max_bytes: of one message that is taken.
        room: for large messages; None has no end.
        spans: traces the calls of the protocol.
        handshake_s: seconds that a new connection has until it speaks HTTP/2, and TLS where that is spoken.
        body_s: seconds that a call has until its message is here, fewer where that brings no tensors; a stream may be
            silent for longer.
        body_bytes_per_s: so many bytes of the largest message give a call that may bring it a second more.
    """

    def __init__(
        self,
        view: OpenInference,
        *,
        guard: Guard,
        metrics: Metrics,
        max_bytes: int,
        room: Room | None = None,
        spans: Spans | None = None,
        handshake_s: float = 10.0,
        body_s: float = 30.0,
        body_bytes_per_s: int = 64 * 1024,
    ) -> None:
        self._view = view
        self._guard = guard
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._room = room
        self._spans = spans
        self._server: Any = None
        self._watchers = 0
        self._handshake_s = handshake_s
        self._message_s = {"ModelInfer": body_s + max_bytes / body_bytes_per_s}
        self._small_message_s = min(body_s, _SMALL_MESSAGE_S)
        self._awaited: dict[asyncio.Task[Any], float] = {}  # calls without their message, and until when each may be
        self._looking = False
        self._inference = messages.load("open_inference.proto")
        self._health = messages.load("health.proto")

    async def start(self, address: str, *, certificate: tuple[Path, Path] | None = None, shared: bool = False) -> int:
        """Listen.

        Args:
            address: host and port; port 0 takes a free one.
            certificate: PEM files of the key and of the chain, where TLS is wanted.
            shared: other processes of this server listen there too.

        Returns:
            The port.

        Raises:
            OSError: the port is taken.
        """
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", int(shared)),  # else another server might listen at the same port, unseen
                ("grpc.server_handshake_timeout_ms", round(1000 * self._handshake_s)),
            ],
            maximum_concurrent_rpcs=_CALLS,
        )
        self._server.add_generic_rpc_handlers((self._handler(self._inference), self._handler(self._health)))
        try:
            if certificate is None:
                port: int = self._server.add_insecure_port(address)
            else:
                key, chain = (path.read_bytes() for path in certificate)
                port = self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen at {address}.") from error
        await self._server.start()
        _log.info(f"Modelyard speaks gRPC at {address}, port {port}.", action="listening_grpc", port=port)
        return port

    async def stop(self, grace_s: float) -> None:
        """Take nothing more, and let what is being answered end within `grace_s`; messages are waited for less long."""
        soon = asyncio.get_running_loop().time() + _LOOK_S
        self._awaited.update({task: min(until, soon) for task, until in self._awaited.items()})
        if self._server is not None:
            await self._server.stop(grace_s)

    # -- around every operation -------------------------------------------------------------------------------------

    def _handler(self, protocol: messages.Protocol) -> Any:
        table = {}
        for method in protocol.methods:
            work = getattr(self, f"_{_snake(method.name)}")
            serve = self._one(protocol, method, work)
            make = grpc.stream_unary_rpc_method_handler  # all read their messages themselves: grpc would wait forever
            if method.answers_stream:
                serve = self._stream(protocol, method, work)
                make = grpc.stream_stream_rpc_method_handler
            if self._spans is not None and protocol is self._inference:
                trace = _traced_stream if method.answers_stream else _traced
                serve = trace(serve, self._spans, protocol.service, method.name)
            table[method.name] = make(
                serve,
                request_deserializer=None,  # bytes, which are read once it is known who sends them
                response_serializer=method.answers.SerializeToString,
            )
        return grpc.method_handlers_generic_handler(protocol.service, table)

    def _one(self, protocol: messages.Protocol, method: messages.Method, work: Callable[..., Any]) -> Any:
        route = f"/{protocol.service}/{method.name}"

        async def serve(_: AsyncIterator[bytes], context: _Context) -> Any:
            started = time.perf_counter()
            outcome = "5xx"
            try:
                principal = self._admit(method.name, context)
                sent = await self._sent(method.name, context)
                if method.name == "ModelInfer":
                    found = await work(sent, context, principal)
                else:
                    found = await work(_parsed(method.takes, sent), context, principal)
                outcome = "2xx"
                return found
            except ServiceError as error:
                outcome = "4xx"
                await _refuse(error, context)
            except asyncio.CancelledError:
                outcome = "4xx"
                raise
            except Exception as error:
                if isinstance(error, (aio.AbortError, grpc.RpcError)):
                    raise
                await self._bug(route, context)
            finally:
                self._note(route, outcome, started)

        return serve

    def _stream(self, protocol: messages.Protocol, method: messages.Method, work: Callable[..., Any]) -> Any:
        route = f"/{protocol.service}/{method.name}"

        async def serve(coming: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            outcome = "5xx"
            try:
                principal = self._admit(method.name, context)
                request: Any = coming
                if not method.takes_stream:
                    request = _parsed(method.takes, await self._sent(method.name, context))
                async for found in work(request, context, principal):
                    yield found
                outcome = "2xx"
            except ServiceError as error:
                outcome = "4xx"
                await _refuse(error, context)
            except asyncio.CancelledError:
                outcome = "4xx"
                raise
            except Exception as error:
                if isinstance(error, (aio.AbortError, grpc.RpcError)):
                    raise
                await self._bug(route, context)
            finally:
                self._note(route, outcome, started)

        return serve

    def _admit(self, method: str, context: _Context) -> Principal:
        need = SCOPES.get(method, Scope.ADMIN)
        if need is None or self._guard.open:
            return ANONYMOUS
        headers = [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in context.invocation_metadata() or ()
        ]
        return self._guard.admit(headers, _host(context.peer()), need)

    async def _sent(self, method: str, context: _Context) -> bytes:
        """The message of a call that has one.

        Raises:
            DeadlinePassed: it has not come in its time.
            Draining: it has not come before the server's end.
            MalformedBody: there is none.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        patience = self._message_s.get(method, self._small_message_s)
        self._awaited[task] = loop.time() + patience
        if not self._looking:  # one timer for all: one for each would cost more than to read a message
            self._looking = True
            loop.call_later(_LOOK_S, self._look)
        try:
            sent = await context.read()
        except asyncio.CancelledError:
            if task in self._awaited:  # the client's doing
                raise
            task.uncancel()
            self._view.require_ready()
            detail = f"The message of this call was not here within {patience:g} s."
            raise errors.DeadlinePassed(detail) from None
        finally:
            self._awaited.pop(task, None)
        if sent is aio.EOF:
            raise tensors.malformed("This call has no message.", hint="Send one; it may be empty.")
        found: bytes = sent
        return found

    def _look(self) -> None:
        """End the wait for messages that are late; look again while any is awaited."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task in [task for task, until in self._awaited.items() if until <= now]:
            del self._awaited[task]
            task.cancel()
        self._looking = bool(self._awaited)
        if self._looking:
            loop.call_later(_LOOK_S, self._look)

    async def _bug(self, route: str, context: _Context) -> None:
        self._metrics.internal_errors.inc()
        identity = uuid.uuid4().hex
        _log.exception("A request met a bug.", action="internal_error", path=route, request_id=identity)
        detail = f"This is a bug of the server, not of the request. The log has it as {identity}."
        await context.abort(grpc.StatusCode.INTERNAL, detail)

    def _note(self, route: str, outcome: str, started: float) -> None:
        self._metrics.requests.labels("GRPC", route, outcome).inc()
        self._metrics.request_seconds.labels("GRPC", route).observe(time.perf_counter() - started)

    # -- operations -------------------------------------------------------------------------------------------------

    def _message(self, name: str, content: Mapping[str, Any] | None = None) -> Any:
        """A message of the protocol from the members that JSON has too."""
        return json_format.ParseDict(content or {}, self._inference.messages[name](), ignore_unknown_fields=True)

    async def _server_live(self, _request: Any, _context: _Context, _principal: Principal) -> Any:
        return self._message("ServerLiveResponse", {"live": True})

    async def _server_ready(self, _request: Any, _context: _Context, _principal: Principal) -> Any:
        return self._message("ServerReadyResponse", {"ready": self._ready()})

    def _ready(self) -> bool:
        try:
            self._view.require_ready()
        except errors.Draining:
            return False
        return True

    async def _model_ready(self, request: Any, _context: _Context, _principal: Principal) -> Any:
        ready = True
        try:
            await self._view.require_model_ready(self._view.reference(request.name, request.version))
        except (errors.Draining, errors.ModelQuarantined):
            ready = False
        return self._message("ModelReadyResponse", {"ready": ready})

    async def _server_metadata(self, _request: Any, _context: _Context, _principal: Principal) -> Any:
        return self._message("ServerMetadataResponse", self._view.server())

    async def _model_metadata(self, request: Any, _context: _Context, _principal: Principal) -> Any:
        found = await self._view.metadata(self._view.reference(request.name, request.version))
        return self._message("ModelMetadataResponse", found.to_dict())

    async def _model_config(self, request: Any, _context: _Context, _principal: Principal) -> Any:
        found = await self._view.config(self._view.reference(request.name, request.version))
        return self._message("ModelConfigResponse", {"config": found})

    async def _model_statistics(self, request: Any, _context: _Context, _principal: Principal) -> Any:
        reference = self._view.reference(request.name, request.version) if request.name else None
        return self._message("ModelStatisticsResponse", {"model_stats": await self._view.statistics(reference)})

    async def _repository_index(self, request: Any, _context: _Context, _principal: Principal) -> Any:
        _require_own(request.repository_name)
        found = await asyncio.to_thread(lambda: self._view.index(ready=request.ready))
        return self._message("RepositoryIndexResponse", {"models": found})

    async def _repository_model_load(self, request: Any, _context: _Context, _principal: Principal) -> Any:
        _require_own(request.repository_name)
        await self._view.load(request.model_name, dict(request.parameters))
        return self._message("RepositoryModelLoadResponse")

    async def _repository_model_unload(self, request: Any, _context: _Context, _principal: Principal) -> Any:
        _require_own(request.repository_name)
        await self._view.unload(request.model_name)
        return self._message("RepositoryModelUnloadResponse")

    async def _model_infer(self, sent: bytes, context: _Context, principal: Principal) -> Any:
        with self._counted(sent):
            request, asked = await self._asked(sent)
            if isinstance(asked, ServiceError):
                raise asked
            return await self._answer(request, asked, context, principal)

    def _counted(self, sent: bytes) -> AbstractContextManager[object]:
        """Holds the memory that a message takes while it is answered.

        Raises:
            Overloaded: (on entering) there is no room for it beside others.
        """
        if self._room is None or len(sent) < _COUNTED:
            return _UNCOUNTED
        return _held(self._room, memory_of(sent))

    async def _asked(self, sent: bytes) -> tuple[Any, tensors.Request | ServiceError]:
        """A message, and the request in it or what is wrong with that.

        Raises:
            ServiceError: it is no message, or one with too many parts.
        """

        def work() -> tuple[Any, tensors.Request | ServiceError]:
            if len(sent) >= _AT_ONCE:  # the parts of a shorter one are soon read
                require_few(sent)
            request = _message_of(self._inference.messages["ModelInferRequest"], sent)
            try:
                return request, read(request, elements=self._view.elements, rows=self._view.rows)
            except ServiceError as error:
                return request, error

        return work() if len(sent) < _AT_ONCE else await run_sync(work)

    async def _answer(self, request: Any, asked: tensors.Request, context: _Context, principal: Principal) -> Any:
        remaining = context.time_remaining()
        deadline = None if remaining is None or remaining > 10**6 else time.monotonic() + remaining
        reference = self._view.reference(request.model_name, request.model_version)
        with self._guard.charging(principal) as charge:
            charge(len(asked.inputs[0].array))
            found, outputs = await self._view.infer(reference, asked, deadline=deadline)
        started = time.perf_counter()
        answer = self._inference.messages["ModelInferResponse"](
            model_name=found.model or "", model_version=str(found.version or ""), id=request.id
        )
        for name, value in said(found).items():
            answer.parameters[name].string_param = value
        for one in outputs:
            answer.outputs.add(name=one.name, datatype=one.datatype, shape=one.array.shape)
            answer.raw_output_contents.append(tensors.to_bytes(one.array, one.datatype))
        self._view.wrote(found, time.perf_counter() - started)
        return answer

    async def _model_stream_infer(
        self, requests: AsyncIterator[bytes], context: _Context, principal: Principal
    ) -> AsyncIterator[Any]:
        """Answers in the order of the requests; a wrong one is told of in its answer, and the stream goes on.

        Each request is admitted as a call of its own would be, the first one with the stream: one whose key does not
        hold any more, or whose quota of requests is used up, ends it. So does one that is no message, or that there is
        no memory for.
        """
        make = self._inference.messages["ModelStreamInferResponse"]
        first = True
        async for sent in self._until_drained(requests):
            if not first:
                principal = self._admit("ModelStreamInfer", context)
            first = False
            with self._counted(sent):
                request, asked = await self._asked(sent)
                try:
                    if isinstance(asked, ServiceError):
                        raise asked
                    found = await self._answer(request, asked, context, principal)
                    found.parameters["triton_final_response"].bool_param = True
                    answer = make(infer_response=found)
                except ServiceError as error:
                    answer = make(error_message=summary(error.message, error.errors))
                    answer.infer_response.id = request.id
                    answer.infer_response.model_name = request.model_name
            yield answer

    async def _until_drained(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The requests of a stream; where none comes, the stream ends with the server, which would wait for it.

        Raises:
            Draining: the server stops.
        """
        coming = aiter(requests)
        while True:
            reading = asyncio.ensure_future(_next(coming))
            try:
                while not (await asyncio.wait({reading}, timeout=_WATCH_S))[0]:
                    self._view.require_ready()
            finally:
                if not reading.done():
                    reading.cancel()
            found = reading.result()
            if found is None:
                return
            yield found

    # -- grpc.health.v1 ---------------------------------------------------------------------------------------------

    def _status(self, service: str) -> Any:
        if service not in ("", self._inference.service):
            return None
        return "SERVING" if self._ready() else "NOT_SERVING"

    async def _check(self, request: Any, context: _Context, _principal: Principal) -> Any:
        status = self._status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        return json_format.ParseDict({"status": status}, self._health.messages["HealthCheckResponse"]())

    async def _watch(self, request: Any, context: _Context, _principal: Principal) -> AsyncIterator[Any]:
        if self._watchers >= _WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"There are {_WATCHERS} watchers already.")
        self._watchers += 1
        try:
            async for status in self._statuses(request):
                yield status
        finally:
            self._watchers -= 1

    async def _statuses(self, request: Any) -> AsyncIterator[Any]:
        told = None
        while True:
            status = self._status(request.service) or "SERVICE_UNKNOWN"
            if status != told:
                told = status
                yield json_format.ParseDict({"status": status}, self._health.messages["HealthCheckResponse"]())
            if told == "NOT_SERVING":
                return  # it stops: a stream that stays open would hold it up
            await asyncio.sleep(_WATCH_S)


_UNCOUNTED: Final[AbstractContextManager[object]] = nullcontext()


@contextmanager
def _held(room: Room, size: int) -> Iterator[None]:
    with room.share() as share:
        share.reach(size)
        yield


def memory_of(sent: bytes) -> int:
    """The bytes of memory that a ModelInferRequest takes while it is read: about, and never fewer than it has.

    Raises:
        MalformedBody: this is no message.
    """
    parts = itertools.islice(_fields(sent, 0, len(sent)), len(_PARTS) * tensors.MAX_TENSORS)  # more are refused
    raw = sum(stop - start for number, start, stop in parts if number == _RAW)
    return len(sent) + raw + _TYPED_WEIGHT * (len(sent) - raw)


def _traced(serve: Callable[..., Any], spans: Spans, service: str, method: str) -> Any:
    async def traced(coming: AsyncIterator[bytes], context: _Context) -> Any:
        with _span(spans, service, method, context):
            return await serve(coming, context)

    return traced


def _traced_stream(serve: Callable[..., Any], spans: Spans, service: str, method: str) -> Any:
    async def traced(coming: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
        with _span(spans, service, method, context):
            async with aclosing(serve(coming, context)) as answers:
                async for found in answers:
                    yield found

    return traced


@contextmanager
def _span(spans: Spans, service: str, method: str, context: _Context) -> Iterator[None]:
    with spans.call(service, method, context.invocation_metadata() or ()) as ended:
        gone = False
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):  # the client has cancelled it, or its deadline has passed
            gone = True
            raise
        finally:
            ended(_number(grpc.StatusCode.CANCELLED if gone else context.code()))


def _number(code: grpc.StatusCode | int | None) -> int:
    """A code as it is on the wire; a context has it as a number, and none before anybody has set one."""
    return int(code.value[0] if isinstance(code, grpc.StatusCode) else code or 0)


def require_few(sent: bytes) -> None:
    """See that a ModelInferRequest is of few parts, before it is read: that takes as long as it has parts.

    Args:
        sent: the message as it came.

    Raises:
        InvalidInput: more inputs, outputs, raw contents or parameters than any version has, or tensors of too many
            fields.
        MalformedBody: this is no message.
    """
    counts: dict[int, int] = {}
    fields = 0
    for number, start, stop in _fields(sent, 0, len(sent)):
        counts[number] = counts.get(number, 0) + 1
        if counts[number] > tensors.MAX_TENSORS:
            where = _PARTS.get(number, "")
            detail = f"A request has at most {tensors.MAX_TENSORS} of these parts."
            tensors.refuse([_entry(where, "batch-too-large", detail, f"at most {tensors.MAX_TENSORS}")])
        if number in _TENSORS and start < stop:
            for _ in _fields(sent, start, stop):
                fields += 1
                if fields > _FIELDS:
                    detail = f"The tensors of a request have at most {_FIELDS} fields together."
                    where = _PARTS[number]
                    tensors.refuse([_entry(where, "batch-too-large", detail, f"at most {_FIELDS}")])


_PARTS: Final[Mapping[int, str]] = {4: "/parameters", 5: "/inputs", 6: "/outputs", 7: "/raw_input_contents"}
"""The parts of a ModelInferRequest of which there may be several, by the numbers of their fields."""
_RAW: Final = 7
_TENSORS: Final = frozenset({5, 6})


def _fields(sent: bytes, place: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message: the number of each, and where its bytes begin and end.

    Source: https://protobuf.dev/programming-guides/encoding.
    """
    while place < stop:
        tag, place = _varint(sent, place, stop)
        start = place
        match tag & 7:
            case 0:
                _, place = _varint(sent, place, stop)
            case 1:
                place += 8
            case 2:
                size, start = _varint(sent, place, stop)
                place = start + size
            case 5:
                place += 4
            case _:
                raise _no_message()
        if place > stop:
            raise _no_message()
        yield tag >> 3, start, place


def _varint(sent: bytes, place: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while place < stop and shift < 70:
        byte = sent[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise _no_message()


def _parsed(kind: Any, sent: bytes) -> Any:
    """A message without tensors."""
    if len(sent) > _SMALL:
        detail = f"A message without tensors has at most {_SMALL} bytes."
        raise errors.BodyTooLarge(detail, limit={"name": "message_bytes", "value": _SMALL})
    return _message_of(kind, sent)


def _message_of(kind: Any, sent: bytes) -> Any:
    try:
        return kind.FromString(sent)
    except DecodeError:
        raise _no_message() from None


def _no_message() -> errors.MalformedBody:
    detail = "These bytes are no message of the kind that this operation takes."
    return tensors.malformed(detail, hint="Make the client from the protocol file that the server has.")


def read(request: Any, *, elements: int, rows: int | None = None) -> tensors.Request:
    """A request from its message.

    Args:
        request: a ModelInferRequest.
        elements: the most elements that all inputs may have together.
        rows: the most rows that an input may have; None is any number.

    Raises:
        InvalidInput: with every mistake (at most 20).
        BatchTooLarge: more than `elements` or `rows`.
    """
    raw: Sequence[bytes] = request.raw_input_contents
    mistakes: list[Entry] = []
    found: list[Tensor] = []
    for name in ("inputs", "outputs"):
        if len(getattr(request, name)) > tensors.MAX_TENSORS:
            detail = f"A request has at most {tensors.MAX_TENSORS} {name}."
            mistakes.append(_entry(f"/{name}", "batch-too-large", detail, f"at most {tensors.MAX_TENSORS}"))
    if not request.inputs:
        mistakes.append(_entry("/inputs", "missing", "A request has inputs.", "one tensor or more"))
    elif raw and len(raw) != len(request.inputs):
        detail = f"There are {len(raw)} raw contents for {len(request.inputs)} inputs."
        mistakes.append(_entry("/raw_input_contents", "shape-mismatch", detail, "one for each input, or none at all"))
    tensors.refuse(mistakes)
    seen = 0
    for place, one in enumerate(request.inputs):
        at = f"/inputs/{place}"
        shape = list(one.shape)
        wrong = tensors.shape_mistakes(shape, at)
        if not one.name:
            wrong.append(_entry(f"{at}/name", "missing", "A tensor has a name.", "a text"))
        if one.datatype not in DATATYPES:
            known = ", ".join(DATATYPES)
            wrong.append(_entry(f"{at}/datatype", "invalid", "A tensor has a datatype.", f"one of {known}"))
        if raw and one.HasField("contents"):
            detail = "The tensor is here and among the raw contents."
            wrong.append(_entry(f"{at}/contents", "conflict", detail, "one of the two"))
        if wrong:
            mistakes += wrong
            continue
        seen = tensors.require_room(shape, seen, elements=elements, rows=rows)
        try:
            array = tensors.from_bytes(raw[place], one.datatype, shape, at=at) if raw else _typed(one, shape, at)
        except errors.InvalidInput as error:
            mistakes += error.errors
            continue
        found.append(Tensor(one.name, one.datatype, array, at))
    outputs = None
    if request.outputs:
        outputs = tuple(
            Requested(one.name, None, _classes(one, f"/outputs/{place}", mistakes), f"/outputs/{place}")
            for place, one in enumerate(request.outputs)
        )
        mistakes += tensors.twins([one.name for one in outputs], "/outputs", "output")
    mistakes += tensors.twins([one.name for one in request.inputs], "/inputs", "input")
    tensors.refuse(mistakes)
    return tensors.Request(tuple(found), outputs, request.id, _parameters(request.parameters), binary=True)


def _typed(one: Any, shape: list[int], at: str) -> tensors.Array:
    """A tensor from its typed contents."""
    if one.datatype not in _TYPED:
        detail = f"{one.datatype} has no typed contents."
        tensors.refuse([_entry(at, "dtype-mismatch", detail, "raw_input_contents")])
    values = getattr(one.contents, _TYPED[one.datatype])
    if one.datatype != "BYTES":
        wide = _WIDE[_TYPED[one.datatype]]
        parts = [np.array(values[place : place + _CHUNK], dtype=wide) for place in range(0, len(values), _CHUNK)]
        return tensors.from_numbers(parts, one.datatype, shape, at=f"{at}/contents")
    if len(values) != math.prod(shape):
        detail = f"There are {len(values)} texts, and the shape has {math.prod(shape)} elements."
        tensors.refuse([_entry(at, "shape-mismatch", detail, f"{math.prod(shape)} texts")])
    found: tensors.Array = np.empty(len(values), dtype=object)
    for place in range(0, len(values), _CHUNK):
        found[place : place + _CHUNK] = values[place : place + _CHUNK]
    return found.reshape(shape)


_WIDE: Final[Mapping[str, str]] = {
    "bool_contents": "bool",
    "int_contents": "int32",
    "int64_contents": "int64",
    "uint_contents": "uint32",
    "uint64_contents": "uint64",
    "fp32_contents": "float32",
    "fp64_contents": "float64",
}
"""What the numbers of each kind of contents are."""


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param") for name, value in given.items()}


def _classes(one: Any, at: str, mistakes: list[Entry]) -> int:
    found = _parameters(one.parameters).get("classification", 0)
    if type(found) is int and found >= 0:
        return found
    detail = "This is a number of classes."
    mistakes.append(_entry(f"{at}/parameters/classification", "wrong-type", detail, "a whole number"))
    return 0


def _entry(at: str, code: str, detail: str, expected: str) -> Entry:
    return Entry(at, code, detail, expected=expected)


def _require_own(repository: str) -> None:
    if repository:
        detail = "This server has one repository, without a name."
        raise Unsupported(detail, errors=[Entry("/repository_name", "unsupported", detail, hint="Leave it out.")])


async def _next(coming: AsyncIterator[Any]) -> Any:
    """The next one, None after the last."""
    return await anext(coming, None)


async def _refuse(error: ServiceError, context: _Context) -> None:
    """End with the error's code and sentence; its code of ours and when to come again go into the trailing metadata."""
    trailing = [("modelyard-code", error.code)]
    if error.retry_after_s is not None or isinstance(error, errors.Busy):
        seconds = max(1, math.ceil(error.retry_after_s or 1))
        trailing += [("retry-after", str(seconds)), ("grpc-retry-pushback-ms", str(seconds * 1000))]
    if isinstance(error, Unauthenticated):
        trailing.append(("www-authenticate", "Bearer"))
    await context.abort(code_of(type(error)), summary(error.message, error.errors), tuple(trailing))


def _host(peer: str) -> str:
    """The address in grpc's name of a peer: `ipv4:1.2.3.4:5` or `ipv6:%5B::1%5D:5`."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")


def _snake(name: str) -> str:
    """RepositoryModelLoad as repository_model_load."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_")
