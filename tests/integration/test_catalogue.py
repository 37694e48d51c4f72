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


# Sizes that are left to the data.

LABELLED = [[[0.1 * row, "abc"[row % 3]], "xyzw"[row % 4]] for row in range(24)]
TEXTS = {"preprocessing": [{"type": "one_hot"}]}
MIXED = {"type": "inline", "inputs": [row for row, _ in LABELLED], "targets": [target for _, target in LABELLED]}
NUMBERS = {**MIXED, "targets": [[float(row), 1.0 + row, 2.0 + row] for row in range(24)]}
TWO = {**MIXED, "targets": ["xy"[row % 2] for row in range(24)]}
COUNTED = {**MIXED, "targets": [row % 5 for row in range(24)]}
LEFT = {"catalogue": "mlp", "params": {"in_features": "auto", "hidden": [4], "num_classes": "auto"}}


def wanted(dataset: object, loss: str, **changes: object) -> dict[str, Any]:
    return {
        **{"kind": "train", "architecture": LEFT, "dataset": dataset, "objective": {"type": loss}},
        **{"optimizer": {"type": "SGD", "lr": 0.01}, "budget": {"steps": 2}, "output": {"model": "left-to-data"}},
        **TEXTS,
        **changes,
    }


@pytest.mark.parametrize(
    ("request_", "sizes"),
    [
        pytest.param(wanted(MIXED, "cross_entropy"), (4, 4), id="names"),
        pytest.param(wanted(COUNTED, "cross_entropy"), (4, 5), id="numbers of classes"),
        pytest.param(wanted(NUMBERS, "mse"), (4, 3), id="several targets"),
        pytest.param(wanted(NUMBERS, "gaussian_nll"), (4, 6), id="means and variances"),
        pytest.param(wanted(TWO, "bce_with_logits"), (4, 1), id="one of two"),
        pytest.param(
            wanted(
                {**MIXED, "targets": [[1.0 * row] for row in range(24)]},
                "quantile",
                objective={"type": "quantile", "quantiles": [0.1, 0.5, 0.9]},
            ),
            (4, 3),
            id="quantiles",
        ),
        pytest.param(
            wanted(
                {**MIXED, "inputs": [[1.0 * row, "only-held-out" if row > 22 else "a"] for row in range(24)]},
                "cross_entropy",
                split={"type": "fixed", "validation": list(range(18, 24))},
            ),
            (2, 4),
            id="texts of the training rows",
        ),
    ],
)
def test_a_net_takes_its_sizes_from_the_data(
    client: httpx.Client, request_: dict[str, Any], sizes: tuple[int, int]
) -> None:
    answer = client.post("/v1/jobs?dry_run=true", json=request_)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    first, *_, last = found["resolved_spec"]["architecture"]["root"]["layers"]

    assert (found["valid"], first["in_features"], last["out_features"]) == (True, *sizes)


def test_a_job_says_what_was_sent_and_what_came_of_it(client: httpx.Client) -> None:
    job = run_job(client, wanted(MIXED, "cross_entropy"))

    assert job["spec"]["architecture"] == LEFT
    assert job["resolved_spec"]["architecture"]["inputs"] == [{"name": "x", "shape": ["B", 4]}]
    answer = client.post("/predict", json={"model": "left-to-data", "inputs": [[0.3, "b"]]}).json()
    assert answer["labels"][0] in "xyzw"


def test_channels_are_those_of_the_pictures(client: httpx.Client) -> None:
    params = {"in_channels": "auto", "num_classes": "auto", "depths": [1, 1, 1, 1], "widths": [4, 4, 4, 4]}
    stripes = {"type": "striped_images", "classes": 3, "size": 16, "channels": 2, "rows_per_class": 4}
    net = {"catalogue": "resnet18", "params": params}
    found = client.post(
        "/v1/jobs?dry_run=true", json=wanted(stripes, "cross_entropy", architecture=net, preprocessing=[])
    ).json()

    assert found["valid"], found["warnings"]
    assert found["resolved_spec"]["architecture"]["root"]["layers"][0]["in_channels"] == 2


def test_what_the_data_do_not_say_is_told_as_where_the_numbers_are_written(client: httpx.Client) -> None:
    stripes = {"type": "striped_images", "classes": 3, "size": 16, "channels": 2, "rows_per_class": 4}
    found = client.post("/v1/jobs", json=wanted(stripes, "cross_entropy", preprocessing=[])).json()
    assert [entry["pointer"] for entry in found["errors"]] == ["/architecture/inputs/0/shape"]
    assert '"shape": [512] in the source' in found["errors"][0]["hint"]

    found = client.post("/v1/jobs", json=wanted(MIXED, "cross_entropy", preprocessing=[])).json()
    assert [(entry["pointer"], entry["code"]) for entry in found["errors"]] == [("/preprocessing", "text-column")]

    without = client.post("/v1/jobs", json=wanted({"type": "inline", "inputs": [[1.0], [2.0]]}, "mse")).json()
    assert {entry["pointer"] for entry in without["errors"]} >= {"/dataset"}


@pytest.mark.parametrize(
    ("architecture", "pointer", "code"),
    [
        ({**LEFT, "prams": {}}, "/architecture/prams", "unknown-member"),
        (
            {"catalogue": "mlp", "params": {"in_channels": "auto"}},
            "/architecture/params/in_channels",
            "unknown-param",
        ),
        ({"catalogue": "mlp", "params": {"hidden": "auto"}}, "/architecture/params/hidden", "wrong-type"),
        (
            {"catalogue": "mlp", "params": {"in_features": "auto", "dropout": "x"}},
            "/architecture/params/dropout",
            "wrong-type",
        ),
    ],
)
def test_only_sizes_are_left_to_data(
    client: httpx.Client, architecture: dict[str, Any], pointer: str, code: str
) -> None:
    found = client.post("/v1/jobs", json=wanted(MIXED, "cross_entropy", architecture=architecture)).json()

    assert [(entry["pointer"], entry["code"]) for entry in found["errors"]] == [(pointer, code)]


def test_without_data_a_size_is_a_number(client: httpx.Client) -> None:
    (entry, _) = client.post("/v1/architectures/validate", json=LEFT).json()["errors"]
    assert entry["pointer"] == "/params/in_features"
    assert "whose data say it" in entry["hint"]

    body = {"kind": "import", "architecture": LEFT, "output": {"model": "left-to-data"}}
    found = assert_problem(client.post("/v1/jobs", json=body), 422, "architecture-invalid")
    assert [entry["pointer"] for entry in found["errors"]] == [
        "/architecture/params/in_features",
        "/architecture/params/num_classes",
    ]
