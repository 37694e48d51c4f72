"""The catalogue and the authored form over HTTP: nets by name, documents with blocks, kept as they were written."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.schemas import catalogue
from tests.live import Server, run_job
from tests.problems import assert_problem

WRITTEN: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "params": {"hidden": 10},
    "blocks": {
        "dense": {
            "params": {"cin": None, "cout": None},
            "body": {
                "type": "Sequential",
                "layers": [
                    {"type": "Linear", "in_features": "${cin}", "out_features": "${cout}"},
                    {"type": "ReLU"},
                ],
            },
        }
    },
    "root": {
        "type": "Sequential",
        "layers": [
            {"type": "Use", "block": "dense", "args": {"cin": 1, "cout": "${hidden}"}, "splice": True},
            {"type": "Linear", "in_features": "${hidden}", "out_features": 1},
        ],
    },
}


def test_a_document_is_kept_as_written_and_expanded(client: httpx.Client) -> None:
    found = client.post("/v1/architectures", json=WRITTEN).json()

    assert found["authored"] == WRITTEN
    assert [layer["type"] for layer in found["canonical"]["root"]["layers"]] == ["Linear", "ReLU", "Linear"]
    assert "params" not in found["canonical"]
    assert client.get(f"/v1/architectures/{found['digest']}").json()["authored"] == WRITTEN


def test_a_written_document_and_its_canonical_form_are_one_net(client: httpx.Client) -> None:
    found = client.post("/v1/architectures/validate", json=WRITTEN).json()
    kept = client.post("/v1/architectures", json=WRITTEN).json()

    assert found["digest"] == kept["digest"]
    assert client.post("/v1/architectures/validate", json=kept["canonical"]).json()["digest"] == kept["digest"]


def test_a_mistake_in_a_block_is_told_in_the_block(client: httpx.Client) -> None:
    wrong = {**WRITTEN, "inputs": [{"name": "x", "shape": ["B", 3]}]}

    (entry,) = client.post("/v1/architectures/validate", json=wrong).json()["errors"]

    assert entry["pointer"] == "/blocks/dense/body/layers/0/in_features"
    assert entry["layer"] == "0"


def test_nets_are_listed_with_their_params(client: httpx.Client) -> None:
    found = client.get("/v1/architectures/catalogue").json()

    assert [net["name"] for net in found["data"]] == list(catalogue.names())
    assert next(net for net in found["data"] if net["name"] == "resnet18")["params"]["num_classes"] == 1000


def test_a_nets_document_can_be_sent_back(client: httpx.Client) -> None:
    document = client.get("/v1/architectures/catalogue/mlp").json()

    assert client.post("/v1/architectures/validate", json=document).json()["valid"]


def test_an_unknown_net_is_not_found(client: httpx.Client) -> None:
    assert_problem(client.get("/v1/architectures/catalogue/resnet19"), 404, "not-found")


def test_a_net_is_named_where_a_document_is_taken(client: httpx.Client) -> None:
    params = {"in_features": 2, "hidden": [3], "num_classes": 2}
    named = {"catalogue": "mlp", "params": params}
    found = client.post("/v1/architectures", json=named).json()

    assert client.post("/v1/architectures/validate", json=named).json()["digest"] == found["digest"]
    assert found["authored"] == catalogue.document("mlp", params)


def test_what_is_wrong_with_a_named_net_is_told_of_its_params(client: httpx.Client) -> None:
    wrong = {"catalogue": "mlp", "params": {"num_clases": 2}}

    refused = assert_problem(client.post("/v1/architectures", json=wrong), 422, "architecture-invalid")

    assert [entry["pointer"] for entry in refused["errors"]] == ["/params/num_clases"]


@pytest.mark.parametrize(
    "architecture",
    [WRITTEN, {"catalogue": "mlp", "params": {"in_features": 1, "hidden": [4], "num_classes": 1}}],
    ids=["a document with blocks", "a named net"],
)
def test_a_job_takes_either_form(shared_server: Server, architecture: dict[str, Any]) -> None:
    with shared_server.client() as client:
        job = run_job(
            client, {"kind": "import", "architecture": architecture, "seed": 1, "output": {"model": "written"}}
        )
        answer = client.post("/predict", json={"model": f"written/{job['output']['version']}", "inputs": [[0.5]]})

    assert "params" not in job["resolved_spec"]["architecture"]
    assert answer.status_code == 200
