"""The gRPC front without a network: its messages, its codes and scopes, and what it makes of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
import tritonclient.grpc.aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from service.errors import BatchTooLarge, InvalidInput, ServiceError, Unsupported
from service.grpc.messages import load
from service.grpc.servicer import CODES, SCOPES, Front, code_of, read
from service.inference.tensors import DATATYPES
from service.keys import Guard, Scope, make
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


class View:
    """The view of a server whose models nobody has: it says who got so far."""

    elements = 10

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


def test_every_datatype_has_a_place_among_typed_contents_or_is_raw() -> None:
    from service.grpc.servicer import _TYPED

    assert set(DATATYPES) - set(_TYPED) == {"FP16", "BF16"}
