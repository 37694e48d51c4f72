"""The Open Inference Protocol over plain HTTP: its routes, its bytes, its refusals, as an operator's curl sees them."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from service.errors import MalformedBody
from service.rest.open_inference import Exchange, accepted_encoding
from service.schemas.versions import Reference
from tests.problems import assert_problem

pytestmark = pytest.mark.usefixtures("quadratic", "clouds")

ROWS = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [0.5, 0.7]}]}
INFER = "/v2/models/quadratic/infer"


def binary(array: np.ndarray, **members: Any) -> tuple[bytes, dict[str, str]]:
    """A request with the tensor's bytes behind its JSON, and the headers that say so."""
    data = array.astype("<f4").tobytes()
    one = {"name": "x", "shape": array.shape, "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [one], **members}).encode()
    return header + data, {"Inference-Header-Content-Length": str(len(header))}


def test_the_answer_is_that_of_a_prediction(client: httpx.Client) -> None:
    predicted = client.post("/predict", json={"model": "quadratic", "inputs": [[0.5], [0.7]]}).json()
    answer = client.post(INFER, json={"id": "a-1", **ROWS})
    found = answer.json()

    assert found == {
        "model_name": "quadratic",
        "model_version": str(predicted["version"]),
        "id": "a-1",
        "parameters": {"alias": "champion", "digest": predicted["digest"]},
        "outputs": [
            {"name": "output", "shape": [2, 1], "datatype": "FP32", "data": [row[0] for row in predicted["outputs"]]}
        ],
    }
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == str(predicted["version"])
    assert "inference-header-content-length" not in answer.headers


@pytest.mark.parametrize("slot", ["versions/1/", "versions/champion/", ""])
def test_the_slot_of_the_version_takes_a_number_or_an_alias(client: httpx.Client, slot: str) -> None:
    found = client.post(f"/v2/models/quadratic/{slot}infer", json=ROWS).json()
    champion = client.get("/v1/models/quadratic/aliases/champion").json()["version"]

    assert found["model_version"] == ("1" if "1" in slot else str(champion))
    assert found["parameters"].get("alias") == (None if "1" in slot else "champion")
    for tail in ("ready", "config", "stats"):
        assert client.get(f"/v2/models/quadratic/{slot}{tail}").status_code == 200


def test_the_short_way_and_the_long_one_give_the_same_answer(client: httpx.Client) -> None:
    """A request with parameters takes the long way; rows may be nested on both."""
    values = np.random.default_rng(1).normal(size=20).round(3).tolist()
    one = {"name": "x", "shape": [20, 1], "datatype": "FP32", "data": values}
    extras: tuple[dict[str, Any], ...] = ({}, {"parameters": {}})
    answers = [
        client.post(INFER, json={"inputs": [{**one, "data": data}], **members}).json()
        for data in (values, [[value] for value in values])
        for members in extras
    ]

    assert answers[0]["outputs"][0]["shape"] == [20, 1]
    assert answers.count(answers[0]) == 4
    predicted = client.post("/predict", json={"model": "quadratic", "inputs": [[value] for value in values]}).json()
    assert answers[0]["outputs"][0]["data"] == [row[0] for row in predicted["outputs"]]


def test_every_content_type_is_read_and_a_path_with_a_slash_is_the_same(client: httpx.Client) -> None:
    for headers in ({}, {"Content-Type": "application/octet-stream"}, {"Content-Type": "text/plain"}):
        assert client.post(INFER, content=json.dumps(ROWS), headers=headers).status_code == 200
    assert client.get("/v2").json() == client.get("/v2/").json()
    assert set(client.get("/v2").json()) == {"name", "version", "extensions"}


def test_bytes_in_and_bytes_out(client: httpx.Client) -> None:
    body, headers = binary(np.array([[0.5], [0.7]]), parameters={"binary_data_output": True})
    answer = client.post(INFER, content=body, headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:length])["outputs"][0]

    assert answer.headers["content-type"] == "application/octet-stream"
    assert told["parameters"] == {"binary_data_size": 8}
    expected = client.post(INFER, json=ROWS).json()["outputs"][0]["data"]
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == np.array(expected, dtype="f4").tolist()


def test_a_request_of_nothing_but_bytes_is_one_row(client: httpx.Client) -> None:
    body = np.array([0.5], "<f4").tobytes()
    answer = client.post(INFER, content=body, headers={"Inference-Header-Content-Length": "0"})
    length = int(answer.headers["inference-header-content-length"])

    assert json.loads(answer.content[:length])["outputs"][0]["shape"] == [1, 1]
    refused = client.post(INFER, content=body + b"0", headers={"Inference-Header-Content-Length": "0"})
    assert_problem(refused, 400, "shape-mismatch")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_both_ways(client: httpx.Client, encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    body, headers = binary(np.linspace(0, 1, 1000).reshape(-1, 1))
    headers |= {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    with client.stream("POST", INFER, content=compress(body), headers=headers) as answer:
        raw = b"".join(answer.iter_raw())

    assert answer.headers["content-encoding"] == encoding
    found = json.loads(gzip.decompress(raw) if encoding == "gzip" else zlib.decompress(raw))
    assert found["outputs"][0]["shape"] == [1000, 1]


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        pytest.param(b"{", {}, 400, "malformed-json", id="no JSON"),
        pytest.param(b"[]", {}, 400, "validation-failed", id="a list"),
        pytest.param(b'{"inputs": [NaN]}', {}, 400, "malformed-json", id="NaN"),
        pytest.param(b"{}", {"Inference-Header-Content-Length": "9"}, 400, "malformed-json", id="a header too long"),
        pytest.param(b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "malformed-json", id="a negative header"),
        pytest.param(b"{}", {"Inference-Header-Content-Length": "x"}, 400, "malformed-json", id="a header of letters"),
        pytest.param(b"{}", {"Content-Encoding": "br"}, 415, "unsupported-encoding", id="brotli"),
        pytest.param(b"{}", {"Content-Encoding": "gzip"}, 400, "malformed-json", id="not gzip at all"),
        pytest.param(gzip.compress(b"{}")[:-4], {"Content-Encoding": "gzip"}, 400, "malformed-json", id="gzip cut off"),
        pytest.param(
            gzip.compress(b"{}") + b"more", {"Content-Encoding": "gzip"}, 400, "malformed-json", id="more behind gzip"
        ),
        pytest.param(
            gzip.compress(bytes(64 * 1024 * 1024)), {"Content-Encoding": "gzip"}, 413, "body-too-large", id="a bomb"
        ),
        pytest.param(bytes(17 * 1024 * 1024), {}, 413, "body-too-large", id="a large body"),
    ],
)
def test_refusals_have_the_sentence_that_the_protocols_clients_read(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    body = assert_problem(client.post(INFER, content=content, headers=headers), status, code)

    assert body["detail"] in body["error"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"not gzip", {"content-encoding": "gzip"}, id="a short one that is compressed"),
        pytest.param(b"{" + bytes(100_000), {"inference-header-content-length": "1"}, id="much behind short JSON"),
    ],
)
def test_what_may_be_long_work_is_done_beside_the_loop(body: bytes, headers: dict[str, str]) -> None:
    turned: list[object] = []

    async def run() -> None:
        exchange = Exchange(NoModels(), json_bytes=10**6, binary_bytes=10**6)  # type: ignore[arg-type]  # a fake
        asyncio.get_running_loop().call_soon(turned.append, "others")
        with pytest.raises(MalformedBody):
            await exchange.answer("m", None, headers, body, charge=turned.append)

    asyncio.run(run())

    assert turned == ["others"]


class NoModels:
    """A view that is asked for its limits alone."""

    rows = elements = 10

    def reference(self, name: str, slot: str | None) -> Reference:
        return Reference(name, alias=slot)


def test_too_many_rows_are_refused_whatever_they_hold(client: httpx.Client) -> None:
    count = 2_000_000
    data = np.full(count, 2**24 + 1, "<i8").tobytes()
    one = {"name": "x", "shape": [count, 1], "datatype": "INT64", "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [one]}).encode()
    answer = client.post(INFER, content=header + data, headers={"Inference-Header-Content-Length": str(len(header))})

    assert_problem(answer, 413, "batch-too-large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/models/nothing", 404, "not-found"),
        ("GET", "/v2/models/quadratic/versions/99", 404, "not-found"),
        ("GET", "/v2/models/quadratic/versions/nothing", 404, "not-found"),
        ("GET", "/v2/models/quadratic/versions/0", 404, "not-found"),
        ("GET", "/v2/models/a/b/c", 404, "not-found"),
        ("GET", "/v2/nothing", 404, "not-found"),
        ("GET", "/v2/models/quadratic/", 404, "not-found"),
        ("GET", "/v2/models/QUADRATIC", 400, "validation-failed"),
        ("GET", INFER, 405, "method-not-allowed"),
        ("POST", "/v2/models/quadratic", 405, "method-not-allowed"),
        ("POST", "/v2/repository/models/nothing/load", 404, "not-found"),
        ("POST", "/v2/repository/models/nothing/unload", 404, "not-found"),
    ],
)
def test_what_is_not_there_is_a_problem_with_that_sentence(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    assert_problem(client.request(method, path), status, code)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/systemsharedmemory/status",
        "/v2/systemsharedmemory/region/a/register",
        "/v2/cudasharedmemory/region/a/unregister",
        "/v2/trace/setting",
        "/v2/models/quadratic/trace/setting",
        "/v2/logging",
        "/v2/models/quadratic/generate",
        "/v2/models/quadratic/versions/1/generate_stream",
    ],
)
def test_extensions_that_are_not_here_say_so(client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        answer = client.request(method, path)

        assert answer.status_code == 501
        assert "does not have" in answer.json()["error"]


def test_mistakes_have_their_index_and_come_at_once(client: httpx.Client) -> None:
    wrong = {"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [0.5, None]}
    body = assert_problem(client.post(INFER, json={"inputs": [wrong]}), 400, "not-finite", pointer="/inputs/0/data/1")
    assert "element 1 of the input 'x'" in body["error"]
    body = assert_problem(
        client.post(INFER, json={"inputs": [{**wrong, "name": "y"}], "outputs": [{"name": "z"}]}),
        400,
        "validation-failed",
        pointer="/inputs/0/name",
    )
    assert len(body["errors"]) == 2
    assert_problem(
        client.post(INFER, json={**ROWS, "outputs": [{"name": "z"}]}), 400, "validation-failed", pointer="/outputs/0"
    )


def test_whole_numbers_are_taken_where_they_are_exact_and_only_there(client: httpx.Client) -> None:
    one = {"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [1]}
    assert client.post(INFER, json={"inputs": [one]}).status_code == 200
    refused = client.post(INFER, json={"inputs": [{**one, "data": [2**24 + 1]}]})
    assert_problem(refused, 400, "dtype-mismatch", pointer="/inputs/0/data/0")


def test_a_deadline_in_microseconds_and_an_urgency(client: httpx.Client) -> None:
    late = client.post(INFER, json={**ROWS, "parameters": {"timeout": 1}})
    assert late.status_code == 504
    assert late.json()["code"] == "deadline-passed"
    assert client.post(INFER, json={**ROWS, "parameters": {"timeout": 30_000_000, "priority": 1}}).status_code == 200
    assert_problem(
        client.post(INFER, json={**ROWS, "parameters": {"timeout": "soon"}}),
        400,
        "validation-failed",
        pointer="/parameters/timeout",
    )


def test_classes_are_ranked_where_they_are_asked_for(client: httpx.Client) -> None:
    asked = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [[2, 2]]}],
        "outputs": [{"name": "output", "parameters": {"classification": 1}}],
    }
    found = client.post("/v2/models/clouds/infer", json=asked).json()["outputs"][0]

    assert (found["datatype"], found["shape"]) == ("BYTES", [1, 1])
    score, index, label = found["data"][0].split(":")
    assert (float(score) > 0, index, label) == (True, "0", "0")


def test_statistics_count_rows_and_forward_passes(client: httpx.Client) -> None:
    def counts() -> dict[str, Any]:
        [found] = client.get("/v2/models/quadratic/versions/1/stats").json()["model_stats"]
        return found

    first = "/v2/models/quadratic/versions/1/infer"
    client.post(first, json=ROWS)
    before = counts()
    client.post(first, json=ROWS)
    after = counts()

    assert after["inference_count"] == before["inference_count"] + 2
    assert after["execution_count"] == before["execution_count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert after["memory_usage"][0]["byte_size"] > 0
    assert after in client.get("/v2/models/stats").json()["model_stats"]


def test_unloaded_models_are_not_ready_until_somebody_asks(client: httpx.Client) -> None:
    client.post(INFER, json=ROWS)
    ready = "/v2/models/quadratic/ready"
    assert client.get(ready).json() == {"name": "quadratic", "ready": True}
    assert client.post("/v2/repository/models/quadratic/unload", json={"parameters": {}}).status_code == 200
    refused = client.get(ready)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "loads it again" in refused.json()["error"]

    assert client.post(INFER, json=ROWS).status_code == 200
    assert client.get(ready).status_code == 200


def test_the_index_lists_versions_with_states(client: httpx.Client) -> None:
    client.post("/v2/models/quadratic/versions/1/infer", json=ROWS)
    everything = client.post("/v2/repository/index").json()
    ready = client.post("/v2/repository/index", json={"ready": True}).json()

    assert {"name": "quadratic", "version": "1", "state": "READY", "reason": ""} in everything
    assert {one["name"] for one in everything} <= set(client.get("/v2/models").json()["models"])
    assert ready == [one for one in everything if one["state"] == "READY"]
    assert_problem(client.post("/v2/repository/index", json={"ready": 5}), 400, "validation-failed", pointer="/ready")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, deflate, gzip", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("GZIP ; q=0.5", "gzip"),
        ("gzip;q=0.0", None),
    ],
)
def test_answers_are_compressed_as_the_client_says(header: str, expected: str | None) -> None:
    assert accepted_encoding(header) == expected
