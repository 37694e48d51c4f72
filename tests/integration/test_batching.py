"""Predictions under load over HTTP: both ways answer alike, queues refuse, gone clients cost nothing, all is told."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.schemas import examples
from tests.live import Server, run_job, wait_for
from tests.problems import assert_problem

pytestmark = pytest.mark.usefixtures("quadratic")
ROWS = {"inputs": [[0.5], [0.7]]}
TWICE = [("Content-Type", "application/json"), ("X-Twice", "1"), ("X-Twice", "2")]
"""No header of a plain request stands twice: this one goes the long way."""


@pytest.fixture(scope="module")
def slow(shared_server: Server) -> str:
    """A model whose forward pass takes long, and whose rows do not depend on each other."""
    layers = [
        {"type": "Conv2d", "in_channels": 3, "out_channels": 48, "kernel_size": 7, "padding": 3},
        {"type": "Conv2d", "in_channels": 48, "out_channels": 48, "kernel_size": 7, "padding": 3},
        {"type": "AdaptiveAvgPool2d", "output_size": 1},
    ]
    inputs = [{"name": "x", "shape": ["B", 3, 96, 96]}]
    root = {"type": "Sequential", "layers": layers}
    with shared_server.client() as client:
        run_job(
            client,
            {
                "kind": "import",
                "architecture": {"schema": "arch/1", "inputs": inputs, "root": root},
                "output": {"model": "slow-rows"},
            },
        )
    return "slow-rows"


PICTURE = [[[0.5] * 96] * 96] * 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"model": "quadratic", **ROWS}),
        ("/predict", {"model": "quadratic@champion", **ROWS, "timeout_s": 20, "priority": 3}),
        ("/predict", {"model": "quadratic", "inputs": [[50.0], [0.1]]}),
        ("/v1/models/quadratic/predict", ROWS),
        ("/v1/models/quadratic/versions/1/predict", ROWS),
        ("/predict", {"model": "quadratic", "inputs": [[1, 2]]}),
        ("/predict", {"model": "quadratic", "inputs": [[True]]}),
        ("/predict", {"model": "quadratic", "inputs": []}),
        ("/predict", {"model": "nobody", **ROWS}),
        ("/predict", {"model": "quadratic", "inputs": [[1e39]]}),
        ("/predict", {"model": "quadratic", **ROWS, "timeout_s": 0}),
    ],
)
def test_the_short_way_answers_as_the_long_one(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    short = client.post(path, content=content, headers={"Content-Type": "application/json"})
    long = client.post(path, content=content, headers=TWICE)
    found, wanted = short.json(), long.json()
    for each in (found, wanted):
        each.pop("request_id", None)

    assert (short.status_code, found) == (long.status_code, wanted)
    assert set(short.headers) == set(long.headers)
    assert short.headers["content-type"] == long.headers["content-type"]


def test_a_request_id_is_taken_and_bad_ones_are_not(client: httpx.Client) -> None:
    body = {"model": "quadratic", **ROWS}
    taken = client.post("/predict", json=body, headers={"X-Request-ID": "my-id-1"}).headers["x-request-id"]
    made = client.post("/predict", json=body, headers={"X-Request-ID": "not/mine"}).headers["x-request-id"]

    assert taken == "my-id-1"
    assert len(made) == 32


def test_metrics_tell_of_requests_batches_and_times(client: httpx.Client) -> None:
    client.post("/predict", json={"model": "quadratic", **ROWS})
    found = client.get("/metrics").text

    assert 'modelyard_http_requests_total{method="POST",route="/predict",status="2xx"}' in found
    assert 'modelyard_http_request_seconds_bucket{le="+Inf",method="POST",route="/predict"}' in found
    for name in ("queue_seconds", "decode_seconds", "inference_seconds", "encode_seconds", "batch_rows"):
        assert f'modelyard_{name}_count{{model="quadratic",version="1"}}' in found


def test_batching_explains_itself(client: httpx.Client) -> None:
    client.post("/predict", json={"model": "quadratic", **ROWS})
    found = client.get("/v1/models/quadratic/batching").json()

    assert (found["model"], found["mode"], found["fixed_rows"]) == ("quadratic", "fast", None)
    version = next(each for each in found["versions"] if each["version"] == 1)
    group = next(each for each in version["groups"] if each["batches"] and each["last"]["rows"] == 2)
    assert version["mergeable"] is True
    assert group["curve"][0]["seconds"] > 0
    assert group["last"]["closed"] == "engine-free"
    assert_problem(client.get("/v1/models/nobody/batching"), 404, "not-found", pointer="/path/name")


def test_a_full_queue_refuses_with_the_time_to_come_again(shared_server: Server, slow: str) -> None:
    body = json.dumps({"model": slow, "inputs": [PICTURE] * 4}).encode()
    headers = {"Content-Type": "application/json"}

    def post(_: int) -> httpx.Response:
        with shared_server.client() as other:
            return other.post("/predict", content=body, headers=headers)

    post(0)
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(post, range(32)))
    refused = [answer for answer in answers if answer.status_code == 429]

    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        assert_problem(answer, 429, "overloaded")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    right = {json.dumps(answer.json()["outputs"][0])[:8] for answer in answers if answer.status_code == 200}
    assert len(right) == 1


def test_a_client_that_goes_away_is_not_computed(shared_server: Server, slow: str) -> None:
    body = json.dumps({"model": slow, "inputs": [PICTURE] * 4}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    address = urlsplit(shared_server.url)
    name = f'modelyard_predictions_refused_total{{model="{slow}",reason="gone",version="1"}}'

    def gone(client: httpx.Client) -> float:
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    with shared_server.client() as client:
        client.post("/predict", json={"model": slow, "inputs": [PICTURE]}).raise_for_status()
        before = gone(client)
        for _ in range(2):
            with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
                connection.sendall(head.encode() + body)

        assert wait_for(lambda: gone(client) > before)
        assert client.post("/predict", json=examples.PREDICT).status_code == 200
