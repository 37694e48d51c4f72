"""Spans reach a collector by OTLP over HTTP, with the caller's trace and the version that answered."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from tritonclient.utils import InferenceServerException

from service.errors import ValidationFailed
from service.rest.tracing import SWITCH, tracing
from service.schemas import examples
from tests.live import Server, run_job, wait_for

PARENT = "00f067aa0ba902b7"


class Collector:
    """Takes traces as the OTLP specification has it over HTTP: POST /v1/traces, protobuf in and out."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.services: set[str] = set()
        self.paths: set[str] = set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    def of(self, trace_id: str) -> dict[str, dict[str, Any]]:
        """The spans of a trace by their names."""
        return {span["name"]: span for span in list(self.spans) if span["trace"] == trace_id}

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            told = _values(resource.resource.attributes)
            self.services.add(f"{told['service.name']} {told['service.version']}")
            for scoped in resource.scope_spans:
                for span in scoped.spans:
                    self.spans.append(
                        {
                            "name": span.name,
                            "trace": span.trace_id.hex(),
                            "span": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                            **_values(span.attributes),
                        }
                    )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return Handler


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def test_a_traced_server_tells_a_collector_which_version_has_answered(
    collector: Collector, make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    server = make_server(anew=True)
    asked = {"model": "quadratic", "inputs": [[0.5], [0.7]]}
    tensors = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [0.5, 0.7]}]}
    traces = {name: f"{number:032x}" for number, name in enumerate(["train", "fast", "framework", "v2"], start=1)}
    with server.client() as client:
        job = run_job(client, examples.TRAIN)
        client.post("/v1/jobs", json={**examples.TRAIN, "output": {"model": "other"}}, headers=_in(traces["train"]))
        fast = client.post("/predict", json=asked, headers=_in(traces["fast"]))
        plainly = {"Content-Type": "application/json; charset=utf-8"}  # odd enough for the framework's route
        slow = client.post("/predict", content=json.dumps(asked), headers=_in(traces["framework"]) | plainly)
        assert client.post("/v2/models/quadratic/infer", json=tensors, headers=_in(traces["v2"])).status_code == 200
        assert client.get("/readyz").status_code == 200
    wait_for(lambda: all(f"POST {route}" in collector.of(traces[name]) for name, route in ROUTES.items()))
    log = [json.loads(line) for line in server.log.read_bytes().splitlines() if line.startswith(b"{")]

    assert collector.paths == {"/v1/traces"}
    assert {service.split()[0] for service in collector.services} == {"modelyard"}
    for name, route in ROUTES.items():
        found = collector.of(traces[name])
        span = found[f"POST {route}"]
        assert span["parent"] == PARENT
        assert span["http.route"] == route
        assert span["http.response.status_code"] == (202 if name == "train" else 200)
        if name != "train":
            assert (span["modelyard.model"], span["modelyard.version"], span["modelyard.rows"]) == ("quadratic", 1, 2)
            assert found["infer"]["modelyard.batch.rows"] == 2
            assert 0 < found["infer"]["seconds"] < span["seconds"]
            assert 0 <= found["queue"]["seconds"] < span["seconds"]
    assert collector.of(traces["fast"])["POST /predict"]["modelyard.request_id"] == fast.headers["x-request-id"]
    assert slow.json()["outputs"] == fast.json()["outputs"]
    assert not any("readyz" in span["name"] for span in collector.spans)
    [queued] = [line for line in log if line.get("action") == "job_queued" and line["job"] != job["id"]]
    assert queued["trace_id"] == traces["train"]
    assert queued["span_id"] == collector.of(traces["train"])["POST /v1/jobs"]["span"]
    assert queued["request_id"]
    assert server.stop() == 0


def test_calls_of_grpc_and_jobs_are_traced_too(
    collector: Collector, make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    server = make_server(anew=True, grpc_port="0")
    trained, failed, again, called, refused, streamed = (f"{number:032x}" for number in range(1, 7))
    with server.client() as client:
        job = client.post("/v1/jobs", json=examples.TRAIN, headers={"Prefer": "wait=60"} | _in(trained)).json()
        wild = {**examples.TRAIN, "optimizer": {"type": "SGD", "lr": 1e6}, "output": {"model": "wild"}}
        lost = client.post("/v1/jobs", json=wild, headers={"Prefer": "wait=60"} | _in(failed)).json()
        client.post(f"/v1/jobs/{lost['id']}/retry", json={"from": "start"}, headers=_in(again))
    [port] = [line["port"] for line in map(json.loads, server.log.read_text().splitlines()) if line.get("port")]
    rows = tritonclient.grpc.InferInput("x", [2, 1], "FP32")
    rows.set_data_from_numpy(np.array([[0.5], [0.7]], dtype=np.float32))
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.infer("quadratic", [rows], headers=_in(called))
        with pytest.raises(InferenceServerException, match="There is no model"):
            client.infer("nothing", [rows], headers=_in(refused))
        answers: list[Any] = []
        client.start_stream(callback=lambda result, error: answers.append(result), headers=_in(streamed))
        client.async_stream_infer("quadratic", [rows])
        client.stop_stream()
    service = "inference.GRPCInferenceService"
    names = {called: "ModelInfer", refused: "ModelInfer", streamed: "ModelStreamInfer"}
    wait_for(lambda: all(f"{service}/{name}" in collector.of(one) for one, name in names.items()))
    wait_for(lambda: all("job train" in collector.of(one) for one in (trained, failed, again)))

    for one, code in ((called, 0), (refused, 5), (streamed, 0)):
        span = collector.of(one)[f"{service}/{names[one]}"]
        assert span["parent"] == PARENT
        assert (span["rpc.system"], span["rpc.service"], span["rpc.method"]) == ("grpc", service, names[one])
        assert span["rpc.grpc.status_code"] == code
        if code == 0:
            assert (span["modelyard.model"], span["modelyard.version"], span["modelyard.rows"]) == ("quadratic", 1, 2)
            assert {"queue", "infer"} <= collector.of(one).keys()
            assert collector.of(one)["infer"]["parent"] == span["span"]
    whole = collector.of(trained)
    told = whole["job train"]
    assert told["parent"] == whole["POST /v1/jobs"]["span"]
    assert (told["modelyard.job"], told["modelyard.job.state"]) == (job["id"], "succeeded")
    assert (told["modelyard.model"], told["modelyard.version"]) == ("quadratic", 1)
    assert whole["attempt"]["parent"] == whole["queue"]["parent"] == told["span"]
    assert 0 < whole["attempt"]["seconds"] <= told["seconds"] + 0.01
    assert collector.of(failed)["job train"]["modelyard.job.state"] == "failed"
    assert collector.of(failed)["job train"]["error.type"] == "non_finite_loss"
    for one, number, route in ((failed, 1, "/v1/jobs"), (again, 2, "/v1/jobs/{job_id}/retry")):
        told, tries = collector.of(one)["job train"], [each for each in collector.spans if each["trace"] == one]
        [tried] = [each for each in tries if each["name"] == "attempt"]  # the other is in the trace of its own request
        assert (tried["modelyard.attempt"], tried["modelyard.attempt.state"]) == (number, "failed")
        assert tried["parent"] == collector.of(one)["queue"]["parent"] == told["span"]
        assert (told["modelyard.job"], told["parent"]) == (lost["id"], collector.of(one)[f"POST {route}"]["span"])
    assert server.stop() == 0


ROUTES = {"train": "/v1/jobs", "fast": "/predict", "framework": "/predict", "v2": "/v2/models/{name}/infer"}


def _in(trace_id: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{PARENT}-01"}


def test_nothing_is_traced_unless_the_switch_is_on_and_a_collector_is_named() -> None:
    on = {SWITCH: "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}

    assert tracing({}) is None
    assert tracing({SWITCH: "true"}) is None
    assert tracing({**on, SWITCH: "false"}) is None
    assert tracing({**on, "OTEL_SDK_DISABLED": "true"}) is None
    assert tracing({**on, "OTEL_TRACES_EXPORTER": "none"}) is None
    assert tracing(on) is not None
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)  # the process's own is left alone


def test_the_switch_without_the_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    with pytest.raises(ValidationFailed, match=r"modelyard\[otel\]"):
        tracing({SWITCH: "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
