"""Documents: checked with every mistake at once, kept by digest, forgotten when nothing uses them."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from service.schemas import examples
from tests.problems import assert_entry, assert_problem

SMALL: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 3]}],
    "root": {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 3, "out_features": 2}]},
}


def test_a_right_document_is_told_layer_by_layer(client: httpx.Client) -> None:
    found = client.post("/v1/architectures/validate", json=examples.NET).json()

    assert (found["valid"], found["errors"]) == (True, [])
    summary = found["summary"]
    assert [(layer["path"], layer["type"], layer["parameters"]) for layer in summary["layers"]] == [
        ("hidden", "Linear", 20),
        ("predict", "Linear", 11),
    ]
    assert (summary["parameters"], summary["outputs"][0]["shape"]) == (31, ["B", 1])


@pytest.mark.parametrize("document", [{}, {"schema": "arch/1"}, {"a": {"b": [1]}}, SMALL | {"root": None}])
def test_a_wrong_document_is_the_normal_input_of_validate(client: httpx.Client, document: dict[str, Any]) -> None:
    answer = client.post("/v1/architectures/validate", json=document)
    found = answer.json()

    assert answer.status_code == 200
    assert (found["valid"], found["digest"], found["summary"]) == (False, None, None)
    assert found["errors"]
    for entry in found["errors"]:
        assert_entry(entry)


def test_a_verdict_has_the_drawing_that_was_asked_for(client: httpx.Client) -> None:
    path = "/v1/architectures/validate"
    drawn = client.post(path, params={"drawing": True}, json=examples.NET).json()
    wrong = client.post(path, params={"drawing": True}, json={**examples.NET, "root": {"type": "Relu"}}).json()

    assert drawn.pop("mermaid").startswith("flowchart TD\n")
    assert drawn == client.post(path, json=examples.NET).json()
    assert "mermaid" not in wrong


def test_all_mistakes_are_told_at_once_and_a_kept_document_gets_the_same_ones(client: httpx.Client) -> None:
    wrong = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "in_features": 4, "out_features": 2},
                {"type": "ReLU"},
                {"type": "Linear", "in_features": 7, "out_features": 1},
            ],
        },
    }
    told = client.post("/v1/architectures/validate", json=wrong).json()["errors"]
    refused = assert_problem(client.post("/v1/architectures", json=wrong), 422, "architecture-invalid")

    assert [entry["pointer"] for entry in told] == ["/root/layers/0/in_features", "/root/layers/2/in_features"]
    assert refused["errors"] == told


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param({"type": "Linear", "in_features": 10**9, "out_features": 10**9}, id="10^18 parameters"),
        pytest.param({"type": "Linear", "in_features": 10**30, "out_features": 1}, id="beyond-64-bits"),
        pytest.param({"type": "Embedding", "num_embeddings": 10**12, "embedding_dim": 8}, id="embedding"),
        pytest.param({"type": "Sequential", "layers": [{"type": "ReLU"}] * 30_000}, id="30000-layers"),
    ],
)
def test_an_enormous_net_is_refused_by_arithmetic_at_once(client: httpx.Client, layer: dict[str, Any]) -> None:
    document = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 3]}], "root": layer}
    started = time.perf_counter()
    found = client.post("/v1/architectures/validate", json=document).json()
    refused = client.post("/v1/architectures", json=document)

    assert time.perf_counter() - started < 10
    assert found["valid"] is False
    assert_problem(refused, 422, refused.json()["code"])


def test_a_document_is_kept_once_by_its_digest(client: httpx.Client) -> None:
    first = client.post("/v1/architectures", json=SMALL)
    other_spelling = SMALL | {"labels": {"author": "me"}}
    again = client.post("/v1/architectures", json=other_spelling)
    kept = first.json()

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == kept
    assert first.headers["location"] == f"/v1/architectures/{kept['digest']}"
    assert client.get(first.headers["location"]).json() == kept
    assert kept["authored"] == SMALL
    assert client.post("/v1/architectures", json=kept["canonical"]).json()["digest"] == kept["digest"]
    assert kept["digest"] in [each["digest"] for each in client.get("/v1/architectures").json()["data"]]

    assert client.delete(first.headers["location"]).status_code == 204
    assert_problem(client.get(first.headers["location"]), 404, "not-found", pointer="/path/digest")


@pytest.mark.usefixtures("quadratic")
def test_a_document_that_a_version_was_made_with_cannot_be_forgotten(client: httpx.Client) -> None:
    digest = client.post("/v1/architectures", json=examples.NET).json()["digest"]

    assert_problem(client.delete(f"/v1/architectures/{digest}"), 409, "conflict")
