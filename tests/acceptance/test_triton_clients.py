"""NVIDIA's clients of the Open Inference Protocol, over HTTP (sync and async) and over gRPC, against a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.http.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from service.grpc.servicer import Front
from service.keys import Guard
from service.telemetry import Metrics
from tests.live import Server, run_job, wait_for

pytestmark = pytest.mark.timeout(120)

DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "int32",
    "UINT32": "int64",
    "UINT64": "int64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float32",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "float32",
}
"""An input for each datatype of numbers, and the dtype that the net takes it in: exactly, or in the next larger one."""

ROWS = 64
"""So many that answers are worth compressing."""

ECHO: dict[str, Any] = {
    "kind": "import",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": name.lower(), "shape": ["B", 5], "dtype": dtype} for name, dtype in DTYPES.items()],
        "root": {
            "type": "Graph",
            "layers": [],
            "forward": ["return " + ", ".join(name.lower() for name in DTYPES)],
        },
    },
    "output": {"model": "echo", "alias_on_success": "champion"},
}
FRUIT: dict[str, Any] = {
    "kind": "train",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3]}],
        "root": {"type": "Linear", "in_features": 3, "out_features": 2},
    },
    "dataset": {
        "type": "inline",
        "columns": ["colour", "weight"],
        "inputs": [["red", 1.0], ["gréen", 2.0], ["red", 3.0], ["gréen", 4.0]],
        "targets": ["plum", "lime", "plum", "lime"],
    },
    "preprocessing": [{"type": "one_hot"}],
    "objective": {"type": "cross_entropy"},
    "optimizer": {"type": "SGD", "lr": 0.01},
    "budget": {"epochs": 1},
    "seed": 1,
    "output": {"model": "fruit"},
}
COMPRESSION = (None, "gzip", "deflate")


class Service(NamedTuple):
    """A server with both fronts."""

    server: Server
    http: str
    grpc: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    server = Server(tmp_path_factory.mktemp("triton") / "store", grpc_port="0", max_json_bytes=str(4 * 1024 * 1024))
    server.start()
    with server.client() as client:
        run_job(client, ECHO)
        run_job(client, FRUIT)
    [port] = [line["port"] for line in map(json.loads, server.log.read_text().splitlines()) if line.get("port")]
    yield Service(server, server.url.removeprefix("http://"), f"127.0.0.1:{port}")
    assert server.stop() == 0
    assert "internal_error" not in server.log.read_text()


@pytest.fixture
def http(service: Service) -> Iterator[tritonclient.http.InferenceServerClient]:
    with tritonclient.http.InferenceServerClient(service.http) as client:
        yield client


@pytest.fixture
def over_grpc(service: Service) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    with tritonclient.grpc.InferenceServerClient(service.grpc) as client:
        yield client


def values(datatype: str) -> np.ndarray:
    """Numbers that the datatype and the net's dtype both have, the outermost ones among them."""
    kind = {"FP16": "f2", "FP32": "f4", "FP64": "f8", "BOOL": "?"}.get(datatype)
    if datatype == "BF16":
        return np.linspace(-2, 2, ROWS * 5).reshape(ROWS, 5).astype(ml_dtypes.bfloat16)
    if kind == "?":
        return np.arange(ROWS * 5).reshape(ROWS, 5) % 3 == 0
    if kind is not None:
        found = np.linspace(-2, 2, ROWS * 5).reshape(ROWS, 5).astype(kind)
        found[0, 0] = np.finfo(kind).max
        return found
    kind = datatype.replace("UINT", "uint").replace("INT", "int")
    found = np.arange(ROWS * 5).reshape(ROWS, 5).astype(kind)
    limits = np.iinfo(kind)
    found[0, :2] = (limits.min, limits.max if datatype != "UINT64" else 2**63 - 1)
    return found


ALL = {name: values(name) for name in DTYPES}


def expected(datatype: str) -> np.ndarray:
    return ALL[datatype].astype(DTYPES[datatype])


def http_inputs(*, binary: bool) -> list[Any]:
    """Every input; BF16 has no JSON, so it is always bytes."""
    found = []
    for name, array in ALL.items():
        one = tritonclient.http.InferInput(name.lower(), list(array.shape), name)
        one.set_data_from_numpy(array, binary_data=binary or name == "BF16")
        found.append(one)
    return found


def check_echo(found: Any) -> None:
    for place, name in enumerate(DTYPES):
        array = found.as_numpy(f"output_{place}")
        assert array.dtype == DTYPES[name]
        assert np.array_equal(array, expected(name)), name


MATRIX = [
    pytest.param(*case, id="-".join(str(one) for one in case))
    for case in itertools.product((True, False), (True, False), COMPRESSION, COMPRESSION)
]


@pytest.mark.parametrize(("binary_in", "binary_out", "sent", "answered"), MATRIX)
def test_every_datatype_over_http_in_every_form(
    http: Any, binary_in: bool, binary_out: bool, sent: str | None, answered: str | None
) -> None:
    outputs = [
        tritonclient.http.InferRequestedOutput(f"output_{place}", binary_data=binary_out)
        for place in range(len(DTYPES))
    ]
    found = http.infer(
        "echo",
        http_inputs(binary=binary_in),
        outputs=outputs,
        request_id="7",
        request_compression_algorithm=sent,
        response_compression_algorithm=answered,
    )

    check_echo(found)
    assert found.get_response()["id"] == "7"
    assert found.get_response()["model_version"] == "1"


def test_every_datatype_over_the_async_client_in_every_form(service: Service) -> None:
    async def run() -> None:
        async with tritonclient.http.aio.InferenceServerClient(service.http) as client:
            assert await client.is_server_ready()
            for binary_in, binary_out, sent, answered in itertools.product(
                (True, False), (True, False), COMPRESSION, COMPRESSION
            ):
                outputs = [
                    tritonclient.http.InferRequestedOutput(f"output_{place}", binary_data=binary_out)
                    for place in range(len(DTYPES))
                ]
                found = await client.infer(
                    "echo",
                    http_inputs(binary=binary_in),
                    outputs=outputs,
                    request_compression_algorithm=sent,
                    response_compression_algorithm=answered,
                )
                check_echo(found)
            with pytest.raises(InferenceServerException, match="There is no model 'nothing'"):
                await client.get_model_metadata("nothing")

    asyncio.run(run())


@pytest.mark.parametrize("compression", COMPRESSION)
def test_every_datatype_over_grpc(over_grpc: Any, compression: str | None) -> None:
    inputs = []
    for name, array in ALL.items():
        one = tritonclient.grpc.InferInput(name.lower(), list(array.shape), name)
        one.set_data_from_numpy(array)
        inputs.append(one)
    found = over_grpc.infer("echo", inputs, request_id="7", compression_algorithm=compression)

    check_echo(found)
    assert found.get_response().id == "7"


def fruit(package: Any, **how: bool) -> list[Any]:
    """So many rows of a text and a number that it is worth compressing them and what is answered."""
    columns: dict[str, tuple[list[Any], str, Any]] = {
        "colour": (["red", "gréen"], "BYTES", object),
        "weight": ([1.5, 2.5], "FP32", np.float32),
    }
    found = []
    for name, (cells, datatype, kind) in columns.items():
        one = package.InferInput(name, [ROWS, 1], datatype)
        one.set_data_from_numpy(np.array(cells * (ROWS // 2), dtype=kind).reshape(ROWS, 1), **how)
        found.append(one)
    return found


@pytest.mark.parametrize(("binary_in", "binary_out", "sent", "answered"), MATRIX)
def test_texts_are_taken_and_the_best_classes_are_texts_in_every_form(
    http: Any, binary_in: bool, binary_out: bool, sent: str | None, answered: str | None
) -> None:
    inputs = fruit(tritonclient.http, binary_data=binary_in)
    wanted = tritonclient.http.InferRequestedOutput("output", binary_data=binary_out, class_count=2)
    found = http.infer(
        "fruit",
        inputs,
        outputs=[wanted],
        request_compression_algorithm=sent,
        response_compression_algorithm=answered,
    ).as_numpy("output")
    plain = http.infer("fruit", inputs[::-1]).as_numpy("output")

    assert found.shape == (ROWS, 2)
    for row, scores in zip(found, plain, strict=True):
        first, second = (one.decode() if isinstance(one, bytes) else one for one in row)
        best = int(scores.argmax())
        assert first == f"{scores[best]:f}:{best}:{('lime', 'plum')[best]}"
        assert second.split(":")[1] == str(1 - best)


@pytest.mark.parametrize("compression", COMPRESSION)
def test_texts_over_grpc_are_taken_and_answered(over_grpc: Any, http: Any, compression: str | None) -> None:
    wanted = tritonclient.grpc.InferRequestedOutput("output", class_count=2)
    found = over_grpc.infer("fruit", fruit(tritonclient.grpc), outputs=[wanted], compression_algorithm=compression)
    wanted = tritonclient.http.InferRequestedOutput("output", class_count=2)
    told = http.infer("fruit", fruit(tritonclient.http), outputs=[wanted])

    assert found.as_numpy("output").tolist() == told.as_numpy("output").tolist()


def test_texts_over_grpc_give_the_same_answer_as_a_prediction(service: Service, over_grpc: Any) -> None:
    colour = tritonclient.grpc.InferInput("colour", [2], "BYTES")
    colour.set_data_from_numpy(np.array(["red", "gréen"], dtype=object))
    weight = tritonclient.grpc.InferInput("weight", [2], "FP64")
    weight.set_data_from_numpy(np.array([1.5, 2.5]))
    found = over_grpc.infer("fruit", [colour, weight]).as_numpy("output")
    with service.server.client() as client:
        rows = [["red", 1.5], ["gréen", 2.5]]
        told = client.post("/predict", json={"model": "fruit", "inputs": rows}).json()["outputs"]

    assert found.tolist() == np.array(told, dtype=np.float32).tolist()


def test_grpc_takes_typed_contents_and_answers_raw_ones(service: Service) -> None:
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    fields = {
        "BOOL": "bool_contents",
        **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
        "INT64": "int64_contents",
        **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
        "UINT64": "uint64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
    }
    request = service_pb2.ModelInferRequest(model_name="echo", model_version="champion")
    for name, array in ALL.items():
        datatype = name if name in fields else "FP32"  # halves cannot be typed
        one = request.inputs.add(name=name.lower(), datatype=datatype, shape=array.shape)
        getattr(one.contents, fields[datatype]).extend(array.reshape(-1).tolist())
    with grpc.insecure_channel(service.grpc) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)

    assert len(answer.raw_output_contents) == len(answer.outputs) == len(DTYPES)
    assert answer.parameters["alias"].string_param == "champion"
    check_echo(tritonclient.grpc.InferResult(answer))


def test_a_stream_answers_each_request_and_survives_a_wrong_one(over_grpc: Any) -> None:
    answers: list[tuple[Any, Any]] = []
    over_grpc.start_stream(callback=lambda result, error: answers.append((result, error)))
    weight = tritonclient.grpc.InferInput("weight", [1], "FP32")
    weight.set_data_from_numpy(np.array([1.5], dtype=np.float32))
    colour = tritonclient.grpc.InferInput("colour", [1], "BYTES")
    colour.set_data_from_numpy(np.array(["red"], dtype=object))
    over_grpc.async_stream_infer("fruit", [weight, colour], request_id="1")
    over_grpc.async_stream_infer("fruit", [weight], request_id="2")
    over_grpc.async_stream_infer("fruit", [weight, colour], request_id="3")
    over_grpc.stop_stream()

    assert [result.get_response().id if result is not None else None for result, _ in answers] == ["1", None, "3"]
    assert "colour" in str(answers[1][1])


def questions(client: Any) -> dict[str, Any]:
    """What both clients can ask, in words that both have."""
    over_http = isinstance(client, tritonclient.http.InferenceServerClient)
    how = {} if over_http else {"as_json": True}
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model": client.is_model_ready("echo"),
        "version": client.is_model_ready("echo", "1"),
        "alias": client.is_model_ready("echo", "champion"),
        "server": client.get_server_metadata(**how),
        "metadata": client.get_model_metadata("fruit", "1", **how),
        "config": client.get_model_config("fruit", **how),
        "statistics": client.get_inference_statistics("fruit", **how),
        "index": client.get_model_repository_index(**how),
    }


@pytest.mark.parametrize("front", ["http", "over_grpc"])
def test_every_question_of_the_clients_is_answered(front: str, request: pytest.FixtureRequest) -> None:
    found = questions(request.getfixturevalue(front))

    assert [found[name] for name in ("live", "ready", "model", "version", "alias")] == [True] * 5
    assert found["server"]["name"] == "modelyard"
    assert "binary_tensor_data" in found["server"]["extensions"]
    inputs = [
        (one["name"], one["datatype"], [int(size) for size in one["shape"]]) for one in found["metadata"]["inputs"]
    ]
    assert inputs == [("colour", "BYTES", [-1, 1]), ("weight", "FP32", [-1, 1])]
    assert found["metadata"]["platform"] == "pytorch_statedict"
    config = found["config"].get("config", found["config"])
    assert [one["data_type"] for one in config["input"]] == ["TYPE_STRING", "TYPE_FP32"]
    [statistics] = found["statistics"]["model_stats"]
    assert (statistics["name"], statistics["version"]) == ("fruit", "1")
    index = found["index"]["models"] if isinstance(found["index"], dict) else found["index"]
    assert {(one["name"], one["version"]) for one in index} == {("echo", "1"), ("fruit", "1")}


@pytest.mark.parametrize("front", ["http", "over_grpc"])
def test_load_and_unload_are_seen_in_the_index(front: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(front)

    def states() -> dict[str, str]:
        found = client.get_model_repository_index(**({} if front == "http" else {"as_json": True}))
        return {one["name"]: one["state"] for one in (found["models"] if isinstance(found, dict) else found)}

    client.load_model("echo")
    assert (states()["echo"], client.is_model_ready("echo")) == ("READY", True)
    client.unload_model("echo")
    assert (states()["echo"], client.is_model_ready("echo")) == ("UNAVAILABLE", False)
    client.load_model("echo")
    assert (states()["echo"], client.is_model_ready("echo")) == ("READY", True)
    with pytest.raises(InferenceServerException, match="A model cannot be sent"):
        client.load_model("echo", config="{}")
    with pytest.raises(InferenceServerException, match="There is no model"):
        client.load_model("nothing")


WRONG: dict[str, tuple[Callable[[Any], Any], str, str, str]] = {
    "model": (lambda make: ("nothing", "", [make("weight", [1], "FP32")]), "There is no model", "404", "NOT_FOUND"),
    "version": (lambda make: ("fruit", "9", [make("weight", [1], "FP32")]), "Version 9", "404", "NOT_FOUND"),
    "alias": (lambda make: ("fruit", "best", [make("weight", [1], "FP32")]), "best", "404", "NOT_FOUND"),
    "name": (lambda make: ("fruit", "", [make("wait", [1], "FP32")]), "no such input", "400", "INVALID_ARGUMENT"),
    "missing": (lambda make: ("fruit", "", [make("weight", [1], "FP32")]), "colour", "400", "INVALID_ARGUMENT"),
    "shape": (
        lambda make: ("fruit", "", [make("weight", [1, 7], "FP32"), make("colour", [1], "BYTES")]),
        "another shape",
        "400",
        "INVALID_ARGUMENT",
    ),
    "datatype": (
        lambda make: ("fruit", "", [make("weight", [1], "FP32"), make("colour", [1], "INT64")]),
        "takes texts",
        "400",
        "INVALID_ARGUMENT",
    ),
}


@pytest.mark.parametrize("front", ["http", "over_grpc"])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_read_by_the_clients(front: str, case: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(front)
    package = tritonclient.http if front == "http" else tritonclient.grpc

    def make(name: str, shape: list[int], datatype: str) -> Any:
        one = package.InferInput(name, shape, datatype)
        kinds = {"BYTES": object, "INT64": np.int64, "FP32": np.float32}
        one.set_data_from_numpy(np.full(shape, "red" if datatype == "BYTES" else 1, dtype=kinds[datatype]))
        return one

    build, words, status, code = WRONG[case]
    model, version, inputs = build(make)
    with pytest.raises(InferenceServerException) as found:
        client.infer(model, inputs, model_version=version)

    assert words in found.value.message()
    assert found.value.status() == (status if front == "http" else f"StatusCode.{code}")


def test_a_deadline_that_has_passed_is_told(http: Any, over_grpc: Any) -> None:
    for client, package in ((http, tritonclient.http), (over_grpc, tritonclient.grpc)):
        inputs = []
        for name, array in ALL.items():
            one = package.InferInput(name.lower(), list(array.shape), name)
            one.set_data_from_numpy(array)
            inputs.append(one)
        with pytest.raises(InferenceServerException) as found:
            client.infer("echo", inputs, timeout=1)

        assert found.value.status() in ("504", "StatusCode.DEADLINE_EXCEEDED")


def test_messages_beyond_the_limit_are_refused_compressed_or_not(service: Service, over_grpc: Any) -> None:
    big = np.zeros((1, 2_000_000), dtype=np.float32)  # 8 MB, of which 4 are taken
    one = tritonclient.grpc.InferInput("weight", list(big.shape), "FP32")
    one.set_data_from_numpy(big)
    for compression in (None, "gzip"):
        with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
            over_grpc.infer("fruit", [one], compression_algorithm=compression)


def test_health_is_served_as_grpc_has_it(service: Service) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()
        with pytest.raises(grpc.RpcError) as found:
            stub.Check(health_pb2.HealthCheckRequest(service="other"))

    assert found.value.code() is grpc.StatusCode.NOT_FOUND


def test_what_is_not_done_is_said_to_be_so(http: Any, over_grpc: Any) -> None:
    for ask in (http.get_system_shared_memory_status, http.get_trace_settings, http.get_log_settings):
        with pytest.raises(InferenceServerException, match="extension that this server does not have"):
            ask()
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        over_grpc.get_system_shared_memory_status()


def test_both_fronts_are_counted(service: Service) -> None:
    with service.server.client() as client:
        text = client.get("/metrics").text

    assert 'method="GRPC",route="/inference.GRPCInferenceService/ModelInfer",status="2xx"' in text
    assert 'route="/v2/models/{name}/infer",status="2xx"' in text


def test_a_stream_that_is_open_does_not_hold_the_servers_stop_up(make_server: Callable[..., Server]) -> None:
    server = make_server(grpc_port="0", drain_timeout_s="60")
    [port] = [line["port"] for line in map(json.loads, server.log.read_text().splitlines()) if line.get("port")]
    ended: list[Any] = []
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.start_stream(callback=lambda result, error: ended.append(error))
        one = tritonclient.grpc.InferInput("x", [1, 1], "FP32")
        one.set_data_from_numpy(np.zeros((1, 1), dtype=np.float32))
        client.async_stream_infer("nothing", [one])
        wait_for(lambda: ended)
        started = time.monotonic()

        assert server.stop() == 0
        assert time.monotonic() - started < 30
        assert "There is no model 'nothing'" in str(ended[0])
        client.stop_stream(cancel_requests=True)


def test_a_call_that_sends_no_message_does_not_hold_the_servers_stop_up(make_server: Callable[..., Server]) -> None:
    server = make_server(grpc_port="0", drain_timeout_s="60")
    [port] = [line["port"] for line in map(json.loads, server.log.read_text().splitlines()) if line.get("port")]

    async def run() -> float:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            check = "/grpc.health.v1.Health/Check"
            await channel.unary_unary(check)(b"")  # the connection is there
            silent = channel.stream_unary(check)()
            await silent.wait_for_connection()
            await asyncio.sleep(0.5)
            started = time.monotonic()
            assert await asyncio.to_thread(server.stop, 50) == 0
            took = time.monotonic() - started
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await silent
            assert found.value.code() is grpc.StatusCode.UNAVAILABLE
            assert found.value.details() == "The server is draining."
            return took

    assert asyncio.run(run()) < 25  # the message had 30 s, and the end of the server a minute


def test_a_port_that_is_taken_is_told() -> None:
    async def run() -> None:
        fronts = [
            Front(FakeView(), guard=Guard(), metrics=Metrics(), max_bytes=1000)  # type: ignore[arg-type]  # never asked
            for _ in range(2)
        ]
        port = await fronts[0].start("127.0.0.1:0")
        with pytest.raises(OSError, match="cannot listen"):
            await fronts[1].start(f"127.0.0.1:{port}")
        await fronts[0].stop(0)

    asyncio.run(run())


class FakeView:
    """A view that nobody asks anything."""
