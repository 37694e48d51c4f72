"""The gRPC front without a network: its messages, its codes and scopes, and what it makes of a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
import tritonclient.grpc.aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from service.errors import BatchTooLarge, InvalidInput, MalformedBody, NotFound, ServiceError, Unsupported
from service.grpc.messages import load
from service.grpc.servicer import CODES, SCOPES, Front, code_of, memory_of, read, require_few
from service.inference.tensors import DATATYPES
from service.keys import Guard, Keys, Principal, Scope, make, write
from service.rest.bodies import Room
from service.rest.problems import status_of
from service.telemetry import Metrics

PROTOCOL = load("open_inference.proto")
THEIRS = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}


def fields(message: Any) -> dict[str, tuple[int, Any, bool]]:
    """Every field of a message and of those within it: its number, its type, and whether there are many."""
    found = {one.name: (one.number, one.type, one.is_repeated) for one in message.fields}
    for inner in message.nested_types:
        found |= {f"{inner.name}.{name}": told for name, told in fields(inner).items()}
    return found


@pytest.mark.parametrize("name", PROTOCOL.messages)
def test_every_field_has_the_number_and_the_type_of_the_protocol(name: str) -> None:
    ours, theirs = fields(PROTOCOL.messages[name].DESCRIPTOR), fields(THEIRS[name])
    of_the_protocol_alone = {one for one in ours if one.lower().startswith("properties")}

    assert of_the_protocol_alone == (set() if name != "ModelMetadataResponse" else of_the_protocol_alone)
    assert {one: told for one, told in ours.items() if one not in of_the_protocol_alone}.items() <= theirs.items()


def test_the_operations_are_those_of_the_protocol() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    theirs = {
        one.name: (one.input_type.name, one.output_type.name, one.client_streaming, one.server_streaming)
        for one in service.methods
    }

    assert PROTOCOL.service == service.full_name
    for one in PROTOCOL.methods:
        told = (one.takes.DESCRIPTOR.name, one.answers.DESCRIPTOR.name, one.takes_stream, one.answers_stream)
        assert told == theirs[one.name]


def test_every_operation_has_a_scope() -> None:
    methods = {one.name for name in ("open_inference.proto", "health.proto") for one in load(name).methods}

    assert set(SCOPES) == methods


def every_error() -> list[type[ServiceError]]:
    found, pending = [], [ServiceError]
    while pending:
        kind = pending.pop()
        found.append(kind)
        pending += kind.__subclasses__()
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_the_same_kind_as_its_status(kind: type[ServiceError]) -> None:
    code, status = code_of(kind), status_of(kind)

    assert (code is grpc.StatusCode.INTERNAL) == (status == 500)
    assert set(CODES.values()) >= {code} - {grpc.StatusCode.INTERNAL}
    unavailable = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (code in unavailable) == (status in (429, 503, 507))


def message(**changes: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="m", id="7")
    one = request.inputs.add(name="x", datatype="FP32", shape=[2, 1])
    one.contents.fp32_contents.extend([1.0, 2.0])
    for name, value in changes.items():
        if name in ("name", "datatype"):
            setattr(one, name, value)
        elif name == "shape":
            one.shape[:] = value
        elif name == "raw":
            request.raw_input_contents.extend(value)
        elif name == "empty":
            one.ClearField("contents")
    return request


def test_a_request_is_read_with_its_parameters_and_outputs() -> None:
    request = message()
    request.parameters["timeout"].int64_param = 5
    request.parameters["priority"].uint64_param = 1
    request.outputs.add(name="y").parameters["classification"].int64_param = 3
    found = read(request, elements=10)

    assert (found.id, found.parameters, found.binary) == ("7", {"timeout": 5, "priority": 1}, True)
    assert found.inputs[0].array.tolist() == [[1.0], [2.0]]
    assert found.outputs is not None
    assert [(one.name, one.classification) for one in found.outputs] == [("y", 3)]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_are_taken_raw_and_only_so(datatype: str) -> None:
    raw = np.array([1.0, 2.0], dtype="<f4").view("<u4") >> 16
    data = raw.astype("<u2").tobytes() if datatype == "BF16" else np.array([1.0, 2.0], dtype="<f2").tobytes()
    found = read(message(datatype=datatype, empty=True, raw=[data]), elements=10)

    assert found.inputs[0].array.tolist() == [[1.0], [2.0]]
    with pytest.raises(InvalidInput, match="typed contents"):
        read(message(datatype=datatype), elements=10)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": ""}, "/inputs/0/name"),
        ({"datatype": "FLOAT"}, "/inputs/0/datatype"),
        ({"shape": []}, "/inputs/0/shape"),
        ({"shape": [-2, 1]}, "/inputs/0/shape"),
        ({"shape": [3, 1]}, "/inputs/0/contents"),
        ({"datatype": "INT64"}, "/inputs/0/contents"),
        ({"raw": [b"12345678"]}, "/inputs/0/contents"),
        ({"empty": True, "raw": [b"1234567"]}, "/inputs/0"),
        ({"empty": True, "raw": [b"12345678", b"1"]}, "/raw_input_contents"),
    ],
    ids=str,
)
def test_a_wrong_message_is_refused_with_its_place(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidInput) as found:
        read(message(**changes), elements=10)

    assert pointer in [entry.pointer for entry in found.value.errors]


def test_too_many_elements_are_refused() -> None:
    with pytest.raises(BatchTooLarge):
        read(message(), elements=1)


def test_a_request_of_more_rows_than_one_may_have_is_refused_by_its_shape() -> None:
    with pytest.raises(BatchTooLarge, match="at most 1 rows"):
        read(message(), elements=10, rows=1)


@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_twins_are_told_with_their_place(part: str) -> None:
    request = message()
    for name in ("x", "x", "y"):
        getattr(request, part).add(name=name)
    with pytest.raises(InvalidInput) as found:
        read(request, elements=10)

    assert f"/{part}/1/name" in [entry.pointer for entry in found.value.errors if entry.code == "duplicate"]


def many(part: str, count: int) -> Any:
    request = message()
    for place in range(count):
        if part == "parameters":
            request.parameters[str(place)].bool_param = True
        elif part == "raw_input_contents":
            request.raw_input_contents.append(b"")
        else:
            getattr(request, part).add(name=str(place))
    return request


@pytest.mark.parametrize("part", ["inputs", "outputs", "parameters", "raw_input_contents"])
def test_more_parts_than_any_version_has_are_refused_before_the_message_is_read(part: str) -> None:
    require_few(many(part, 1023).SerializeToString())
    with pytest.raises(InvalidInput) as found:
        require_few(many(part, 1025).SerializeToString())

    [entry] = found.value.errors
    assert (entry.pointer, entry.expected) == (f"/{part}", "at most 1024")


def test_a_tensor_of_very_many_parameters_is_refused_before_the_message_is_read() -> None:
    request = message()
    for place in range(70_000):
        request.inputs[0].parameters[str(place)].bool_param = True
    with pytest.raises(InvalidInput, match="at most 65536 fields"):
        require_few(request.SerializeToString())


@pytest.mark.parametrize("sent", [b"\xff", b"\x2a\x05ab", b"\x0b", b"\x09123", b"\xff" * 11], ids=repr)
def test_bytes_that_are_no_message_are_malformed(sent: bytes) -> None:
    with pytest.raises(MalformedBody):
        require_few(sent)


@pytest.mark.parametrize(
    ("datatype", "sent", "numbers", "places"),
    [
        ("INT8", "int_contents", [127, 128, -129], [1, 2]),
        ("UINT16", "uint_contents", [0, 65536, 1], [1]),
        ("FP32", "fp32_contents", [1.0, float("inf"), 2.0], [1]),
        ("FP64", "fp64_contents", [1.0, float("-inf"), 2.0], [1]),
    ],
)
def test_typed_numbers_that_the_datatype_does_not_hold_are_named(
    datatype: str, sent: str, numbers: list[Any], places: list[int]
) -> None:
    request = message(datatype=datatype, shape=[3, 1], empty=True)
    getattr(request.inputs[0].contents, sent).extend(numbers)
    with pytest.raises(InvalidInput) as found:
        read(request, elements=10)

    assert [entry.pointer for entry in found.value.errors] == [f"/inputs/0/contents/{place}" for place in places]


def test_typed_numbers_of_several_steps_come_in_order() -> None:
    count = 150_000
    for datatype, place, make_one in (("INT32", "int_contents", int), ("FP32", "fp32_contents", float)):
        request = message(datatype=datatype, shape=[count, 1], empty=True)
        getattr(request.inputs[0].contents, place).extend(map(make_one, range(count)))
        array = read(request, elements=count).inputs[0].array

        assert np.array_equal(array, np.arange(count).reshape(-1, 1))


class View:
    """The view of a server whose models nobody has: it says who got so far."""

    elements = 10
    rows = 10

    def require_ready(self) -> None:
        """It is."""

    def server(self) -> dict[str, Any]:
        return {"name": "fake", "version": "1", "extensions": []}

    def names(self) -> list[str]:
        return []

    def index(self, *, ready: bool) -> list[dict[str, str]]:
        return []

    async def load(self, name: str, parameters: Any) -> None:
        raise Unsupported("It got so far.")

    async def unload(self, name: str) -> None:
        raise Unsupported("It got so far.")

    async def statistics(self, reference: Any) -> list[dict[str, Any]]:
        return []

    async def metadata(self, reference: Any) -> Any:
        raise AssertionError("There was no reference to ask with.")

    require_model_ready = config = metadata

    def reference(self, name: str, slot: str) -> Any:
        raise NotFound("There is no such model.")


def test_keys_are_asked_for_as_over_http() -> None:
    text, reader = make("ci", Scope.READ, now=datetime.now(UTC))
    guard = Guard(inline=orjson.dumps([reader.model_dump(mode="json")]).decode())

    async def run() -> None:
        front = Front(View(), guard=guard, metrics=Metrics(), max_bytes=10_000)  # type: ignore[arg-type]  # a fake
        port = await front.start("127.0.0.1:0")
        client = tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{port}")
        try:
            assert await client.is_server_ready()
            assert (await client.get_server_metadata()).name == "fake"
            await refused(client.get_model_repository_index, "UNAUTHENTICATED")
            await refused(
                lambda: client.get_model_repository_index(headers={"x-api-key": "msk_a_b"}), "UNAUTHENTICATED"
            )
            for headers in ({"x-api-key": text}, {"authorization": f"Bearer {text}"}):
                assert not (await client.get_model_repository_index(headers=headers)).models
                await refused(partial(client.load_model, "m", headers=headers), "PERMISSION_DENIED")
        finally:
            await client.close()
            await front.stop(1)

    async def refused(call: Callable[[], Any], code: str) -> None:
        with pytest.raises(InferenceServerException) as found:
            await call()
        assert found.value.status() == f"StatusCode.{code}"

    asyncio.run(run())


MIB = 1024 * 1024
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INDEX = "/inference.GRPCInferenceService/RepositoryIndex"


def talk(
    guard: Guard,
    work: Callable[[Any], Awaitable[None]],
    *,
    view: Any = None,
    ports: list[int] | None = None,
    **parts: Any,
) -> None:
    """Do something over a channel to a server, with messages as bytes; `ports` is told where it listens."""

    async def run() -> None:
        served: Any = view or View()
        front = Front(served, guard=guard, metrics=Metrics(), max_bytes=2 * MIB, **parts)
        port = await front.start("127.0.0.1:0")
        if ports is not None:
            ports.append(port)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await work(channel)
        finally:
            await front.stop(1)

    asyncio.run(run())


async def code(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as found:
        await call
    return found.value.code().name, found.value.details() or ""


def keyed(requests_per_minute: int | None = None) -> tuple[str, Guard]:
    text, key = make("ci", Scope.READ, now=datetime.now(UTC), requests_per_minute=requests_per_minute)
    return text, Guard(inline=orjson.dumps([key.model_dump(mode="json")]).decode())


def test_who_asks_is_known_before_the_message_is_read() -> None:
    text, guard = keyed()

    async def work(channel: Any) -> None:
        for path in (INFER, INDEX):
            call = channel.unary_unary(path)
            assert (await code(call(b"\xff")))[0] == "UNAUTHENTICATED"
            assert (await code(call(b"\xff", metadata=[("x-api-key", text)])))[0] == "INVALID_ARGUMENT"
        streamed = channel.stream_stream(STREAM)()
        assert (await code(streamed.read()))[0] == "UNAUTHENTICATED"
        streamed = channel.stream_stream(STREAM)(iter([b"\xff"]), metadata=[("x-api-key", text)])
        assert (await code(streamed.read()))[0] == "INVALID_ARGUMENT"

    talk(guard, work)


OPERATIONS = [
    pytest.param(f"/{protocol.service}/{one.name}", SCOPES[one.name], one.takes_stream, id=one.name)
    for protocol in map(load, ("open_inference.proto", "health.proto"))
    for one in protocol.methods
]


@pytest.mark.parametrize(("path", "need", "stream"), OPERATIONS)
def test_every_operation_is_refused_without_a_key_of_its_scope(path: str, need: Scope | None, stream: bool) -> None:
    now = datetime.now(UTC)
    past = now - timedelta(days=1)
    made = {scope: make(scope.word, scope, now=now) for scope in Scope}
    ended, old = make("old", Scope.ADMIN, now=past - timedelta(days=1), expires=past)
    stored = [key.model_dump(mode="json") for key in (*(key for _, key in made.values()), old)]
    guard = Guard(inline=orjson.dumps(stored).decode(), failures_per_minute=100)
    right = made[Scope.ADMIN][0]
    refused: list[tuple[list[tuple[str, str]], str]] = [
        ([], "UNAUTHENTICATED"),
        ([("x-api-key", "msk_0123456789ab_wrong")], "UNAUTHENTICATED"),
        ([("authorization", f"Basic {right}")], "UNAUTHENTICATED"),
        ([("x-api-key", right), ("authorization", f"Bearer {ended}")], "UNAUTHENTICATED"),
        ([("x-api-key", right[:-1] + ("0" if right[-1] == "1" else "1"))], "UNAUTHENTICATED"),
        ([("x-api-key", ended)], "UNAUTHENTICATED"),
    ]
    for scope, (text, _) in made.items():
        refused.append(([("x-api-key", text)], "PERMISSION_DENIED" if need and scope < need else ""))

    async def ended_with(channel: Any, metadata: list[tuple[str, str]], told: str) -> str:
        if stream:
            call = channel.stream_stream(path)(metadata=metadata, timeout=10)
            if not told:
                await call.done_writing()
        else:
            call = channel.unary_stream(path)(b"", metadata=metadata, timeout=10)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        call.cancel()
        return "OK"

    async def work(channel: Any) -> None:
        for metadata, told in refused:
            found = await ended_with(channel, metadata, told)
            if need is None or not told:
                assert found in ("OK", "NOT_FOUND", "UNIMPLEMENTED", "INVALID_ARGUMENT"), metadata
            else:
                assert found == told, metadata

    talk(guard, work)


def test_only_what_tells_nothing_of_models_is_open() -> None:
    assert {name for name, need in SCOPES.items() if need is None} == {
        *("ServerLive", "ServerReady", "ServerMetadata"),
        *("Check", "Watch"),
    }


PATIENCE_S = 0.3


def test_calls_whose_message_does_not_come_end() -> None:
    paths = [path for path, _, stream in (one.values for one in OPERATIONS) if not stream]

    async def work(channel: Any) -> None:
        began = time.monotonic()
        silent = [channel.stream_unary(path)(timeout=20) for path in paths]
        for told, detail in await asyncio.gather(*map(code, silent)):
            assert (told, "was not here within" in detail) == ("DEADLINE_EXCEEDED", True)
        assert time.monotonic() - began < 10  # before the client's own deadline

        for path in paths:
            call = channel.stream_unary(path)(timeout=20)
            await call.done_writing()
            assert (await code(call))[0] == "INVALID_ARGUMENT", path

    assert len(paths) == len(OPERATIONS) - 1
    talk(Guard(), work, body_s=PATIENCE_S, body_bytes_per_s=100 * MIB)


def test_a_message_may_come_late_and_a_stream_may_be_silent_for_longer() -> None:
    async def work(channel: Any) -> None:
        stream = channel.stream_stream(STREAM)()
        late = channel.stream_unary(INDEX)()
        await asyncio.sleep(PATIENCE_S / 2)
        await late.write(b"")
        await late.done_writing()
        assert await late == b""
        await asyncio.sleep(PATIENCE_S + 1)
        await stream.write(message().SerializeToString())
        assert b"no such model" in await stream.read()

    talk(Guard(), work, body_s=PATIENCE_S)


def test_a_larger_message_has_more_time() -> None:
    async def work(channel: Any) -> None:
        with pytest.raises(TimeoutError):  # 32 s and more
            await asyncio.wait_for(channel.stream_unary(INFER)(), PATIENCE_S + 1)

    talk(Guard(), work, body_s=PATIENCE_S)


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def test_a_call_whose_message_comes_by_half_ends_and_a_connection_that_says_nothing_too() -> None:
    async def work(channel: Any) -> None:
        await channel.channel_ready()
        said = {":method": "POST", ":scheme": "http", ":path": INDEX, ":authority": "x", "te": "trailers"}
        said |= {"content-type": "application/grpc"}
        head = b"".join(b"\0" + b"".join(bytes([len(one)]) + one.encode() for one in pair) for pair in said.items())
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(4, 1, 0, b""))
        writer.write(frame(1, 4, 1, head) + frame(0, 0, 1, b"\0" + (1000).to_bytes(4, "big") + b"half"))
        silent, other = await asyncio.open_connection("127.0.0.1", ports[0])
        try:
            async with asyncio.timeout(20):
                found = b""
                while b"was not here within" not in found:
                    found += await reader.readexactly(1)
                assert b"grpc-status" in found
                while await silent.read(1024):
                    pass
        finally:
            writer.close()
            other.close()

    ports: list[int] = []
    talk(Guard(), work, ports=ports, body_s=PATIENCE_S, handshake_s=1.0)


def test_the_rows_of_a_refused_request_are_given_back() -> None:
    text, key = make("ci", Scope.PREDICT, now=datetime.now(UTC), rows_per_minute=2)
    guard = Guard(inline=orjson.dumps([key.model_dump(mode="json")]).decode())
    about = {"metadata": [("x-api-key", text)]}

    async def work(channel: Any) -> None:
        for _ in range(3):
            assert (await code(channel.unary_unary(INFER)(message().SerializeToString(), **about)))[0] == "NOT_FOUND"
        streamed = channel.stream_stream(STREAM)(iter([message().SerializeToString()] * 3), **about)
        assert [b"It got so far" in answer async for answer in streamed] == [True] * 3
        guard.charge(Principal("ci", key.id, Scope.PREDICT), 2)
        assert (await code(channel.unary_unary(INFER)(message().SerializeToString(), **about)))[
            0
        ] == "RESOURCE_EXHAUSTED"

    talk(guard, work, view=Busy())


def test_a_message_of_too_many_parts_or_bytes_is_refused_with_the_limit() -> None:
    async def work(channel: Any) -> None:
        told, detail = await code(channel.unary_unary(INFER)(many("inputs", 20_000).SerializeToString()))
        assert (told, "at most 1024" in detail) == ("INVALID_ARGUMENT", True)
        told, detail = await code(channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a" + bytes(70_000)))
        assert (told, "at most 65536 bytes" in detail) == ("INVALID_ARGUMENT", True)

    talk(Guard(), work)


def test_the_requests_of_a_stream_count_for_the_quota_of_the_key() -> None:
    text, guard = keyed(requests_per_minute=5)

    async def work(channel: Any) -> None:
        sent = iter([message().SerializeToString()] * 8)
        call = channel.stream_stream(STREAM, response_deserializer=service_pb2.ModelStreamInferResponse.FromString)(
            sent, metadata=[("x-api-key", text)]
        )
        for _ in range(5):
            assert "no such model" in (await call.read()).error_message
        assert (await code(call.read()))[0] == "RESOURCE_EXHAUSTED"
        assert "retry-after" in dict(await call.trailing_metadata())

    talk(guard, work)


def test_a_stream_ends_with_the_key_that_opened_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    text, key = make("ci", Scope.PREDICT, now=datetime.now(UTC))
    write(file, Keys(keys=(key,)))
    now = [datetime.now(UTC).timestamp()]
    guard = Guard(file=file, clock=lambda: now[0])

    async def work(channel: Any) -> None:
        call = channel.stream_stream(STREAM)(metadata=[("x-api-key", text)])
        for _ in range(2):
            await call.write(message().SerializeToString())
            assert await call.read()
        write(file, Keys(keys=()))
        now[0] += 5
        await call.write(message().SerializeToString())
        assert (await code(call.read()))[0] == "UNAUTHENTICATED"

    talk(guard, work)


class Busy(View):
    """The view of a server that takes long for large requests."""

    elements = rows = MIB

    def __init__(self) -> None:
        self.asked, self.done = asyncio.Event(), asyncio.Event()

    def reference(self, name: str, slot: str) -> Any:
        return name

    async def infer(self, reference: Any, request: Any, *, deadline: float | None) -> Any:
        if request.inputs[0].array.size > 2:
            self.asked.set()
            await self.done.wait()
        raise NotFound("It got so far.")


def large() -> bytes:
    numbers = MIB // 4
    return message(shape=[numbers, 1], empty=True, raw=[bytes(4 * numbers)]).SerializeToString()


def test_the_memory_of_a_message_counts_typed_contents_as_json_and_raw_ones_twice() -> None:
    raw, typed = large(), many("parameters", 1000).SerializeToString()

    assert 2 * MIB < memory_of(raw) < 2 * MIB + 1000
    assert memory_of(typed) == 9 * len(typed)


def test_large_messages_share_the_memory_for_large_bodies() -> None:
    async def work(channel: Any) -> None:
        infer, stream = channel.unary_unary(INFER), channel.stream_stream(STREAM)
        first = asyncio.ensure_future(code(infer(large())))
        await view.asked.wait()
        alone, streamed = infer(large()), stream(iter([large()]))
        for call, answer in ((alone, alone), (streamed, streamed.read())):
            told, detail = await code(answer)
            assert (told, "Other large bodies" in detail) == ("RESOURCE_EXHAUSTED", True)
            assert dict(await call.trailing_metadata())["retry-after"] == "1"
        assert (await code(infer(message().SerializeToString())))[0] == "NOT_FOUND"
        view.done.set()
        assert (await first)[0] == "NOT_FOUND"
        assert (await code(infer(large())))[0] == "NOT_FOUND"

    view = Busy()
    talk(Guard(), work, view=view, room=Room(3 * MIB))


class Noted:
    """Notes the calls that are traced, each with the code that it ended with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []

    @contextmanager
    def call(self, service: str, method: str, metadata: Any) -> Iterator[Callable[[int], None]]:
        def ended(code: int) -> None:
            self.calls.append((method, dict(metadata).get("traceparent", ""), code))

        yield ended


def test_every_call_of_the_protocol_is_traced_with_the_code_that_it_ended_with() -> None:
    spans = Noted()

    async def work(channel: Any) -> None:
        await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        await channel.unary_unary(INDEX)(b"", metadata=[("traceparent", "from afar")])
        assert (await code(channel.unary_unary(INFER)(b"\xff")))[0] == "INVALID_ARGUMENT"
        answers = [answer async for answer in channel.stream_stream(STREAM)(iter([message().SerializeToString()] * 2))]
        assert len(answers) == 2

        call = channel.unary_unary(INFER)(large())
        await view.asked.wait()
        call.cancel()
        while len(spans.calls) < 4:
            await asyncio.sleep(0.01)

    view = Busy()
    talk(Guard(), work, view=view, spans=spans)
    assert spans.calls == [
        ("RepositoryIndex", "from afar", 0),
        ("ModelInfer", "", grpc.StatusCode.INVALID_ARGUMENT.value[0]),
        ("ModelStreamInfer", "", 0),
        ("ModelInfer", "", grpc.StatusCode.CANCELLED.value[0]),
    ]


def test_every_datatype_has_a_place_among_typed_contents_or_is_raw() -> None:
    from service.grpc.servicer import _TYPED

    assert set(DATATYPES) - set(_TYPED) == {"FP16", "BF16"}
