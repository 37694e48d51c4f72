"""Surgery over HTTP: looked at in a dry run, imported as a version with the source's weights, trained further."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.schemas import examples
from tests.live import run_job
from tests.problems import assert_problem
from tests.unit.schemas.test_edits import vgg16

LINEAR: dict[str, Any] = {"type": "Linear", "in_features": "auto", "out_features": 3}
REPLACE: dict[str, Any] = {"op": "replace", "path": "predict", "layer": LINEAR}


def edit(client: httpx.Client, source: dict[str, Any], *edits: dict[str, Any], dry_run: bool = True) -> httpx.Response:
    return client.post("/v1/architectures/edit", json={"from": source, "edits": edits, "dry_run": dry_run})


def predict(client: httpx.Client, model: str, inputs: list[Any]) -> Any:
    answer = client.post("/predict", json={"model": model, "inputs": inputs})
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"]


@pytest.fixture(scope="module")
def base(shared_server: Any) -> dict[str, Any]:
    """The job that imported base/1: Net(1, 10, 1) drawn from a seed."""
    with shared_server.client() as client:
        return run_job(client, {"kind": "import", "architecture": examples.NET, "seed": 7, "output": {"model": "base"}})


@pytest.mark.parametrize(
    "net", [pytest.param(vgg16(), id="document"), pytest.param({"catalogue": "vgg16"}, id="catalogue")]
)
def test_vgg16_gets_another_head(client: httpx.Client, net: dict[str, Any]) -> None:
    head = {"type": "Linear", "in_features": "auto", "out_features": 10}
    replace = {"op": "replace", "path": "classifier.6", "layer": head}
    found = edit(client, {"architecture": net}, replace, {"op": "freeze", "path": "features.**"}).json()

    weights = found["weights"]
    assert [len(weights[name]) for name in ("kept", "reshaped", "new", "dropped")] == [30, 2, 0, 0]
    assert (found["freeze"], len(found["frozen"])) == (["features.**"], 26)
    assert found["summary"]["outputs"][0]["shape"] == ["B", 10]
    assert found["summary"]["parameters"] == 134_301_514
    assert found["stored"] is False
    assert_problem(client.get(f"/v1/architectures/{found['digest']}"), 404, "not-found")


def test_an_edited_document_is_kept_and_can_be_edited_by_its_digest(client: httpx.Client) -> None:
    first = edit(client, {"architecture": examples.NET}, REPLACE, dry_run=False)
    again = edit(client, {"architecture": examples.NET}, REPLACE, dry_run=False)
    digest = first.json()["digest"]

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["location"] == f"/v1/architectures/{digest}"
    assert client.get(first.headers["location"]).json()["canonical"] == first.json()["document"]

    back = edit(
        client, {"architecture": digest}, {"op": "resize", "path": "predict", "field": "out_features", "value": 1}
    )

    assert back.json()["digest"] == client.post("/v1/architectures", json=examples.NET).json()["digest"]


@pytest.mark.usefixtures("base")
def test_an_edited_version_is_imported_with_its_weights(client: httpx.Client) -> None:
    append = {"op": "append", "path": "", "name": "add_linear", "layer": LINEAR}
    architecture = {"from": {"model": "base", "version": 1}, "edits": [append]}
    job = run_job(client, {"kind": "import", "architecture": architecture, "seed": 3, "output": {"model": "longer"}})
    version = client.get("/v1/models/longer/versions/1").json()

    edited = version["lineage"]["resolved_spec"]["edited"]
    assert version["lineage"]["origin"] == "edited from base/1"
    assert edited["from"] == {"model": "base", "version": 1}
    assert edited["weights"]["new"] == ["add_linear.weight", "add_linear.bias"]
    assert [tensor["name"] for tensor in job["report"]["tensors"]][:2] == ["hidden.weight", "hidden.bias"]
    assert len(predict(client, "longer/1", [[0.5]])[0]) == 3

    truncate = {"op": "truncate", "path": "predict"}
    architecture = {"from": {"model": "longer"}, "edits": [truncate]}
    run_job(client, {"kind": "import", "architecture": architecture, "output": {"model": "shorter"}})

    assert predict(client, "shorter/1", [[0.5], [-2]]) == predict(client, "base/1", [[0.5], [-2]])


def test_classes_and_scaling_stay_while_the_outputs_do(client: httpx.Client, clouds: dict[str, Any]) -> None:
    source = {"model": "clouds", "version": clouds["output"]["version"]}
    rename = {"op": "rename", "path": "0", "name": "trunk"}
    run_job(
        client,
        {"kind": "import", "architecture": {"from": source, "edits": [rename]}, "output": {"model": "renamed"}},
    )
    replace = {"from": source, "edits": [{"op": "truncate", "path": "0"}]}
    run_job(client, {"kind": "import", "architecture": replace, "output": {"model": "features"}})

    def version(name: str) -> Any:
        return client.get(f"/v1/models/{name}/versions/1").json()

    assert version("renamed")["classes"] == version("clouds")["classes"]
    assert version("renamed")["signature"] == version("clouds")["signature"]
    assert version("features")["classes"] is None


@pytest.mark.usefixtures("base")
def test_training_begins_with_the_sources_weights_and_leaves_the_frozen_ones(client: httpx.Client) -> None:
    layer = {"type": "Linear", "in_features": "auto", "out_features": 1}
    edits = [{"op": "replace", "path": "predict", "layer": layer}, {"op": "freeze", "path": "hidden"}]
    architecture = {"from": {"model": "base"}, "edits": edits}
    body = examples.TRAIN | {"architecture": architecture, "output": {"model": "tuned"}}
    run_job(client, body)

    def hidden(model: str) -> Any:
        """The hidden layer's outputs, as a version of its own."""
        truncate = [{"op": "truncate", "path": "hidden"}]
        cut = {"from": {"model": model}, "edits": truncate}
        run_job(client, {"kind": "import", "architecture": cut, "output": {"model": f"{model}-hidden"}})
        return predict(client, f"{model}-hidden", [[0.25], [0.75]])

    assert hidden("tuned") == hidden("base")
    assert predict(client, "tuned", [[0.25]]) != predict(client, "base", [[0.25]])


@pytest.mark.usefixtures("base")
def test_a_kept_digest_says_that_it_carries_neither_weights_nor_freezes(client: httpx.Client) -> None:
    freeze = {"op": "freeze", "path": "hidden"}

    def told(source: dict[str, Any], *edits: dict[str, Any], dry_run: bool = False) -> list[str]:
        warnings = edit(client, source, *edits, dry_run=dry_run).json()["warnings"]
        return [entry["detail"] for entry in warnings if entry["code"] == "net-alone"]

    assert told({"model": "base"}, REPLACE, freeze) == [
        "The digest names the net alone: it carries no weights and no freezes."
    ]
    assert told({"model": "base"}, REPLACE) == ["The digest names the net alone: it carries no weights."]
    assert told({"architecture": examples.NET}, freeze) == ["The digest names the net alone: it carries no freezes."]
    assert told({"architecture": examples.NET}, REPLACE) == told({"model": "base"}, freeze, dry_run=True) == []


@pytest.mark.usefixtures("base")
def test_a_version_is_named_as_in_a_prediction(client: httpx.Client) -> None:
    def source(**named: Any) -> Any:
        return edit(client, named, REPLACE).json()["source"]

    expected = {"model": "base", "version": 1}
    assert client.put("/v1/models/base/aliases/live", json={"version": 1}, headers={"If-None-Match": "*"}).is_success
    assert source(model="base@live") == source(model="base/1") == source(model="base", version=1) == expected
    assert source(model="base") == source(model="base/1", version=1) == expected

    both = edit(client, {"model": "base@live", "version": 1}, REPLACE)
    assert_problem(both, 422, "invalid-name", pointer="/from/version")
    assert_problem(edit(client, {"model": "base@"}, REPLACE), 422, "invalid-name", pointer="/from/model")
    assert_problem(edit(client, {"model": "base@none"}, REPLACE), 404, "not-found", pointer="/from/model")

    other = {"model": "base@live"}
    same = client.post("/v1/architectures/diff", json={"a": other, "b": {"model": "base/1"}})
    assert (same.status_code, same.json()["equal"]) == (200, True)


def test_a_net_of_the_catalogue_is_named_by_its_reference(client: httpx.Client) -> None:
    params = {"catalogue": "mlp", "params": {"in_features": 3}}
    freeze = {"op": "freeze", "path": "**"}
    short, long = edit(client, params, freeze), edit(client, {"architecture": params}, freeze)

    assert (short.status_code, short.json()["digest"]) == (200, long.json()["digest"])

    wrong = edit(client, {"catalogue": "mlp", "params": {"in": 3}}, freeze)
    assert_problem(wrong, 422, "architecture-invalid", pointer="/from/params/in")

    bare = assert_problem(edit(client, {"architecture": "resnet18"}, freeze), 404, "not-found")
    job = client.post("/v1/jobs", json=examples.TRAIN | {"architecture": "resnet18"}).json()
    hint = 'The catalogue has it: send {"catalogue": "resnet18"}.'
    assert bare["errors"][0]["hint"] == job["errors"][0]["hint"] == hint


@pytest.mark.usefixtures("base")
def test_the_log_of_a_training_counts_what_is_frozen(client: httpx.Client) -> None:
    architecture = {"from": {"model": "base"}, "edits": [{"op": "freeze", "path": "hidden"}]}
    job = run_job(client, examples.TRAIN | {"architecture": architecture, "output": {"model": "held"}})

    assert (
        "training a net of 31 parameters, 20 of them frozen, on dataset"
        in client.get(f"/v1/jobs/{job['id']}/logs").text
    )


@pytest.mark.usefixtures("base")
def test_mistakes_are_told_where_they_are(client: httpx.Client) -> None:
    wrong: list[dict[str, Any]] = [
        {"op": "remove", "path": "hiden"},
        {"op": "replace", "path": "predict", "layer": {"type": "Lin"}},
    ]
    problem = assert_problem(edit(client, {"model": "base"}, *wrong), 422, "architecture-invalid")

    assert (problem["errors"][0]["pointer"], problem["errors"][0]["hint"]) == (
        "/edits/0/path",
        "Did you mean 'hidden'?",
    )

    assert_problem(edit(client, {"model": "base", "version": 9}, REPLACE), 404, "not-found", pointer="/from/version")
    assert_problem(edit(client, {"model": "nobody"}, REPLACE), 404, "not-found", pointer="/from/model")
    assert_problem(edit(client, {"model": "base"}, {"op": "explode"}), 422, "validation-failed", pointer="/edits/0/op")
    assert_problem(edit(client, {"architecture": "sha256:" + "0" * 64}, REPLACE), 404, "not-found")
    assert_problem(edit(client, {"architecture": 7}, REPLACE), 422, "validation-failed")


@pytest.mark.usefixtures("base")
def test_a_jobs_mistakes_in_edits_are_told_with_its_others(client: httpx.Client) -> None:
    architecture = {"from": {"model": "base"}, "edits": [{"op": "remove"}]}
    body = {"kind": "import", "architecture": architecture, "output": {"model": "Bad Name"}}
    problem = assert_problem(client.post("/v1/jobs", json=body), 422, "validation-failed")

    assert {entry["pointer"] for entry in problem["errors"]} == {"/architecture/edits/0/path", "/output/model"}

    frozen = {"from": {"model": "base"}, "edits": [{"op": "freeze", "path": "**"}]}
    body = examples.TRAIN | {"architecture": frozen, "output": {"model": "tuned"}}
    assert_problem(client.post("/v1/jobs", json=body), 422, "validation-failed", pointer="/architecture/edits")

    both = {"from": {"model": "base"}, "edits": [REPLACE]}
    body = {"kind": "import", "architecture": both, "state_dict": {}, "output": {"model": "tuned"}}
    assert_problem(client.post("/v1/jobs", json=body), 422, "validation-failed", pointer="/state_dict")
