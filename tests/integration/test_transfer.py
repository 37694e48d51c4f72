"""What a training begins with and what of it stays, over HTTP: `init`."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load

from service.schemas import examples
from tests.live import run_job, wait_for
from tests.problems import assert_problem


def net(*, hidden: int = 10, classes: int = 3, norm: str = "norm", head: str = "head") -> dict[str, Any]:
    """A body of a hidden layer with BatchNorm, and a head."""
    layers = [
        {"name": "hidden", "type": "Linear", "in_features": 2, "out_features": hidden},
        {"name": norm, "type": "BatchNorm1d", "num_features": hidden},
        {"name": "relu", "type": "ReLU"},
        {"name": head, "type": "Linear", "in_features": hidden, "out_features": classes},
    ]
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 2]}],
        "root": {"type": "Sequential", "layers": layers},
    }


def job(model: str, *, architecture: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "architecture": architecture or net(),
        "dataset": {**examples.CLOUDS, "centers": [[2, 2], [-2, -2], [2, -2]], "rows_per_class": 40},
        "objective": {"type": "cross_entropy"},
        "optimizer": {"type": "SGD", "lr": 0.1},
        "batch_size": 24,
        "budget": {"epochs": 3},
        "seed": 1,
        "output": {"model": model},
        **members,
    }


def weights(client: httpx.Client, model: str, version: int = 1) -> dict[str, torch.Tensor]:
    answer = client.get(f"/v1/models/{model}/versions/{version}/weights?format=safetensors")
    assert answer.status_code == 200
    return load(answer.content)


def version(client: httpx.Client, model: str, number: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/models/{model}/versions/{number}").json()
    return found


def codes(job: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in job["warnings"]]


@pytest.fixture(scope="module")
def source(shared_server: Any) -> dict[str, torch.Tensor]:
    """The weights of transfer-source/1."""
    with shared_server.client() as client:
        run_job(client, job("transfer-source"))
        return weights(client, "transfer-source")


BODY = ("hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
        "norm.num_batches_tracked")  # fmt: skip


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param("transfer-source", id="name"),
        pytest.param("transfer-source/1", id="name-and-number"),
        pytest.param({"model": "transfer-source", "version": 1}, id="object"),
    ],
)
def test_weights_are_taken_over_by_key_and_shape_and_frozen_ones_stay(
    client: httpx.Client, source: dict[str, torch.Tensor], reference: Any
) -> None:
    document = net(classes=3, head="top")
    done = run_job(
        client,
        job("transfer-kept", architecture=document, init={"from": reference, "freeze": ["hidden", "norm"]}),
    )
    number = done["output"]["version"]
    found, lineage = weights(client, "transfer-kept", number), version(client, "transfer-kept", number)["lineage"]

    assert all(torch.equal(found[key], source[key]) for key in BODY)
    assert not torch.equal(found["top.weight"], source["head.weight"])
    inherited = lineage["resolved_spec"]["inherited"]
    assert (inherited["from"]["model"], inherited["from"]["version"]) == ("transfer-source", 1)
    assert inherited["from"]["weights_digest"] == version(client, "transfer-source")["weights_digest"]
    assert [each["to"] for each in inherited["weights"]["kept"]] == list(BODY)
    assert inherited["weights"]["new"] == ["top.weight", "top.bias"]
    assert inherited["weights"]["dropped"] == ["head.weight", "head.bias"]
    certificate = lineage["certificate"]
    assert certificate["patterns"] == ["hidden", "norm"]
    assert (certificate["tensors"], certificate["statistics"], certificate["unchanged"]) == (7, 2, True)
    assert certificate["digest"].startswith("sha256:")


def test_statistics_move_on_where_only_parameters_are_frozen(
    client: httpx.Client, source: dict[str, torch.Tensor]
) -> None:
    init = {"from": "transfer-source", "freeze": ["hidden", "norm"], "freeze_batchnorm_stats": False}
    run_job(client, job("transfer-moving", init=init))
    found, lineage = weights(client, "transfer-moving"), version(client, "transfer-moving")["lineage"]

    assert torch.equal(found["norm.weight"], source["norm.weight"])
    assert not torch.equal(found["norm.running_mean"], source["norm.running_mean"])
    certificate = lineage["certificate"]
    assert (certificate["tensors"], certificate["statistics"], certificate["unchanged"]) == (4, 0, True)


def test_a_job_without_anything_frozen_has_no_certificate(
    client: httpx.Client, source: dict[str, torch.Tensor]
) -> None:
    assert version(client, "transfer-source")["lineage"]["certificate"] is None


def test_groups_of_parameters_learn_at_rates_of_their_own(
    client: httpx.Client, source: dict[str, torch.Tensor]
) -> None:
    optimizer = {
        "type": "SGD",
        "lr": 0.1,
        "groups": [{"match": "hidden", "lr": 1e-9}, {"match": "norm", "lr_scale": 0.001}],
    }
    run_job(client, job("transfer-groups", init={"from": "transfer-source"}, optimizer=optimizer))
    found = weights(client, "transfer-groups")
    moved = {key: float((found[key] - source[key]).abs().max()) for key in ("norm.weight", "head.weight")}

    assert torch.allclose(found["hidden.weight"], source["hidden.weight"], rtol=0, atol=1e-6)
    assert 0 < moved["norm.weight"] < 0.01 * moved["head.weight"]


def test_a_version_stays_what_it_was_at_submit_and_a_replay_is_exact(client: httpx.Client) -> None:
    first = run_job(client, job("transfer-moved", seed=2))
    assert first["output"]["version"] == 1
    begun = run_job(client, job("transfer-after", init={"from": "transfer-moved", "freeze": ["hidden"]}))
    run_job(client, job("transfer-moved", seed=3))  # now the name means version 2
    replay = client.post(f"/v1/jobs/{begun['id']}/replay", headers={"Prefer": "wait=30"}).json()

    assert replay["resolved_spec"]["inherited"] == begun["resolved_spec"]["inherited"]
    assert replay["resolved_spec"]["inherited"]["from"]["version"] == 1
    assert replay["report"]["identical"] is True


def test_another_jobs_best_checkpoint_is_a_beginning_and_stays_one_when_that_job_is_gone(client: httpx.Client) -> None:
    long: dict[str, Any] = {"budget": {"epochs": 1_000_000}, "checkpoint": {"every_s": 0.1}}
    first = client.post("/v1/jobs", json=job("transfer-long", **long)).json()
    at = f"/v1/jobs/{first['id']}"
    wait_for(lambda: client.get(f"{at}/checkpoints").json()["data"])
    client.post(f"{at}/cancel")
    wait_for(lambda: client.get(at).json()["finished_at"])
    [best] = [one for one in client.get(f"{at}/checkpoints").json()["data"] if one["kind"] == "best"]
    begun = run_job(client, job("transfer-begun", init={"from": first["id"], "freeze": ["hidden", "norm"]}))
    assert client.delete(at).status_code == 204
    replay = client.post(f"/v1/jobs/{begun['id']}/replay", headers={"Prefer": "wait=30"}).json()

    origin = begun["resolved_spec"]["inherited"]["from"]
    assert origin == {"job": first["id"], "step": best["step"], "epoch": best["epoch"], "sha256": best["sha256"]}
    assert version(client, "transfer-begun")["lineage"]["certificate"]["unchanged"] is True
    assert replay["report"]["identical"] is True


def test_a_checkpoint_that_is_promoted_is_certified_too(client: httpx.Client, source: dict[str, torch.Tensor]) -> None:
    long: dict[str, Any] = {"budget": {"epochs": 1_000_000}, "checkpoint": {"every_s": 0.1}}
    init = {"from": "transfer-source/1", "freeze": ["hidden", "norm"]}
    at = f"/v1/jobs/{client.post('/v1/jobs', json=job('transfer-stopped', init=init, **long)).json()['id']}"
    wait_for(lambda: client.get(f"{at}/checkpoints").json()["data"])
    client.post(f"{at}/cancel")
    wait_for(lambda: client.get(at).json()["finished_at"])
    promoted = client.post(f"{at}/promote", headers={"Prefer": "wait=30"}).json()
    found, lineage = weights(client, "transfer-stopped"), version(client, "transfer-stopped")["lineage"]

    assert promoted["state"] == "succeeded", promoted["error"]
    assert all(torch.equal(found[key], source[key]) for key in BODY)
    certificate = lineage["certificate"]
    assert (certificate["tensors"], certificate["statistics"], certificate["unchanged"]) == (7, 2, True)


def test_a_job_that_has_made_a_version_means_that_version(client: httpx.Client) -> None:
    first = run_job(client, job("transfer-done"))
    begun = run_job(client, job("transfer-done-after", init={"from": first["id"]}))

    origin = begun["resolved_spec"]["inherited"]["from"]
    assert (origin["model"], origin["version"]) == ("transfer-done", 1)


@pytest.mark.parametrize(
    ("document", "freeze", "expected"),
    [
        pytest.param(net(hidden=11, head="top"), [], ["nothing-kept"], id="nothing-fits"),
        pytest.param(net(hidden=11), [], ["little-kept"], id="but-a-bias-of-the-head"),
        pytest.param(net(norm="other", hidden=10, classes=40), [], ["little-kept"], id="a-large-new-head"),
        pytest.param(net(head="top"), ["top"], ["frozen-new"], id="the-new-head-is-frozen"),
        pytest.param(net(), ["hidden"], [], id="all-is-there"),
    ],
)
def test_it_is_said_where_little_is_taken_over(
    client: httpx.Client,
    source: dict[str, torch.Tensor],
    document: dict[str, Any],
    freeze: list[str],
    expected: list[str],
) -> None:
    init = {"from": "transfer-source/1", "freeze": freeze}
    asked = client.post("/v1/jobs?dry_run=true", json=job("nowhere", architecture=document, init=init)).json()

    assert [one["code"] for one in asked["warnings"] if one["pointer"].startswith("/init")] == expected


@pytest.mark.parametrize(
    ("members", "status", "entry", "pointer"),
    [
        pytest.param({"init": {"from": "nobody"}}, 404, "not-found", "/init/from", id="no-model"),
        pytest.param({"init": {"from": "transfer-source/9"}}, 404, "not-found", "/init/from", id="no-version"),
        pytest.param({"init": {"from": "Not A Name"}}, 422, "invalid-name", "/init/from/model", id="no-name"),
        pytest.param({"init": {"from": "job_" + "0" * 32}}, 404, "not-found", "/init/from", id="no-job"),
        pytest.param({"init": {"from": 3}}, 422, "wrong-type", "/init/from", id="no-reference"),
        pytest.param({"init": {"freeze": ["nose"]}}, 422, "unknown-path", "/init/freeze/0", id="no-tensor"),
        pytest.param({"init": {"freeze": ["**"]}}, 422, "nothing-to-train", "/init/freeze", id="everything-frozen"),
        pytest.param(
            {
                "architecture": {
                    "from": {"model": "transfer-source"},
                    "edits": [{"op": "set_field", "path": "relu", "field": "inplace", "value": True}],
                },
                "init": {"from": "transfer-source"},
            },
            *(422, "conflict", "/init/from"),
            id="two-sources-of-weights",
        ),
    ],
)
def test_what_cannot_be_begun_with_is_refused_at_submit(
    client: httpx.Client,
    source: dict[str, torch.Tensor],
    members: dict[str, Any],
    status: int,
    entry: str,
    pointer: str,
) -> None:
    answer = client.post("/v1/jobs", json={**job("nowhere"), **members})

    code = entry if entry in ("not-found", "invalid-name") else "validation-failed"
    assert_problem(answer, status, code, pointer=pointer, entry=entry)
