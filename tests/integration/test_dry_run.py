"""The doctor: what a job would come to, and what is wrong with it, before anything is queued."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest

from service.engine.doctor import patched
from service.schemas import examples
from tests.live import run_job
from tests.problems import assert_problem


def layers(*found: dict[str, Any], width: int = 2) -> dict[str, Any]:
    """A net of these layers over rows of `width` numbers."""
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", width]}],
        "root": {"type": "Sequential", "layers": list(found)},
    }


def linear(inputs: int, outputs: int) -> dict[str, Any]:
    return {"type": "Linear", "in_features": inputs, "out_features": outputs}


def look(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/jobs?dry_run=true", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def codes(found: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in found["warnings"]]


def test_a_sound_request_is_planned_measured_and_not_queued(client: httpx.Client) -> None:
    run_job(client, examples.IMPORT)
    before = client.get("/v1/jobs?limit=1").json()["data"][0]["id"]
    found = look(client, {**examples.CLASSIFY, "batch_size": 16})

    assert (found["valid"], found["warnings"]) == (True, [])
    assert found["plan"]["rows"] == {"train": 160, "val": 40}
    assert (found["plan"]["steps_per_epoch"], found["plan"]["steps"], found["plan"]["epochs"]) == (10, 1000, 100)
    assert found["plan"]["parameters"] == 52
    assert found["memory_bytes"] == sum(found["memory"][name] for name in found["memory"] if name != "total")
    assert found["memory"]["weights"] == found["memory"]["gradients"] == 52 * 4
    assert found["resolved_spec"]["shuffle"] is True
    assert 0 < found["estimate_s"] < 30
    assert found["estimate"]["measured_steps"] > 10
    assert client.get("/v1/jobs?limit=1").json()["data"][0]["id"] == before


def test_what_is_frozen_is_not_counted_as_trained(client: httpx.Client) -> None:
    edited = {"from": {"architecture": examples.CLASSIFY["architecture"]}, "edits": [{"op": "freeze", "path": "0"}]}
    by_init = look(client, {**examples.CLASSIFY, "init": {"freeze": ["0.weight", "2.bias"]}})
    by_edit = look(client, {**examples.CLASSIFY, "architecture": edited})
    by_both = look(client, {**examples.CLASSIFY, "architecture": edited, "init": {"freeze": ["0.bias", "2.bias"]}})

    for found, still in ((by_init, 20 + 2), (by_edit, 20 + 10), (by_both, 20 + 10 + 2)):
        assert (found["plan"]["parameters"], found["plan"]["trainable_parameters"]) == (52, 52 - still)
        assert (found["memory"]["weights"], found["memory"]["gradients"]) == (52 * 4, (52 - still) * 4)


def test_the_estimate_is_near_the_time_that_the_job_takes(client: httpx.Client) -> None:
    body = {**examples.CLASSIFY, "batch_size": 4, "budget": {"epochs": 60}, "output": {"model": "estimated"}}
    found = look(client, body)
    job = run_job(client, body)

    assert found["estimate_s"] == pytest.approx(job["environment"]["training_s"], rel=3)


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        pytest.param(
            {"architecture": layers(linear(2, 10), {"type": "ReLU"}, linear(10, 2), {"type": "Softmax", "dim": 1})},
            "softmax-twice",
            "warning",
            id="softmax before cross entropy",
        ),
        pytest.param(
            {
                "architecture": {
                    "schema": "arch/1",
                    "inputs": [{"name": "x", "shape": ["B", 2]}],
                    "root": {
                        "type": "Graph",
                        "layers": [{"name": "out", **linear(2, 2)}],
                        "forward": ["return softmax(out(x), dim=1)"],
                    },
                }
            },
            "softmax-twice",
            "warning",
            id="softmax in forward",
        ),
        pytest.param({"architecture": layers(linear(2, 1))}, "label-out-of-range", "error", id="too few outputs"),
        pytest.param({"architecture": layers(linear(2, 5))}, "shape-mismatch", "error", id="too many outputs"),
        pytest.param({"architecture": layers(linear(3, 2), width=3)}, "shape-mismatch", "error", id="another width"),
        pytest.param(
            {
                "architecture": layers(linear(2, 8), {"type": "BatchNorm1d", "num_features": 8}, linear(8, 2)),
                "batch_size": 3,
                "split": None,
                "dataset": {**examples.CLOUDS, "rows_per_class": 50},
            },
            "batch-of-one",
            "warning",
            id="last batch of one",
        ),
        pytest.param({"objective": {"type": "mse"}}, "invalid", "error", id="numbers for classes"),
        pytest.param({"metrics": ["mae"]}, "invalid", "error", id="a metric of another objective"),
        pytest.param(
            {"optimizer": {"type": "SGD", "lr": 1e5}, "batch_size": 16, "objective": {"type": "cross_entropy"}},
            "learning-rate-high",
            "warning",
            id="learning rate far off",
        ),
        pytest.param({"batch_size": 10_000}, "large-batch", "warning", id="batch larger than the data"),
    ],
)
def test_a_mistake_is_found_with_a_patch_that_mends_it(
    client: httpx.Client, change: dict[str, Any], code: str, severity: str
) -> None:
    body = {**copy.deepcopy(examples.CLASSIFY), **change}
    found = look(client, body)
    [warning] = [warning for warning in found["warnings"] if warning["code"] == code][:1]
    mended = look(client, patched(body, warning["patch"]))

    assert (warning["severity"], found["valid"]) == (severity, severity != "error")
    assert code not in codes(mended)
    assert mended["valid"]


def test_targets_of_another_rank_than_the_answers_are_mended_in_the_net(client: httpx.Client) -> None:
    stream = io.BytesIO()
    x = np.linspace(-1, 1, 40, dtype=np.float32)
    np.savez(stream, x=x.reshape(-1, 1), y=x**2)
    upload = client.post("/v1/uploads", content=stream.getvalue()).json()["id"]
    body = {**examples.TRAIN, "dataset": {"type": "npz", "upload": upload, "inputs": "x", "target": "y"}}
    found = look(client, body)
    [warning] = found["warnings"]
    mended = look(client, patched(body, warning["patch"]))

    assert (found["valid"], warning["code"], found["estimate_s"]) == (False, "shape-mismatch", None)
    assert (mended["valid"], codes(mended)) == (True, [])
    assert_problem(client.post("/v1/jobs", json=body), 422, "shape-mismatch")


def test_texts_that_keep_a_column_from_being_numbers_are_named_as_missing_by_the_patch(client: httpx.Client) -> None:
    rows = "".join(f"{n},{n % 7},{2 * n}\n" for n in range(40))
    upload = client.post("/v1/uploads", content=f"x,z,y\nk.A.,1,3\n{rows}".encode()).json()["id"]
    source = {"type": "csv", "upload": upload, "target": "y"}
    body = {**examples.TRAIN, "architecture": layers(linear(2, 1)), "dataset": source}
    body |= {
        "preprocessing": [{"type": "standardize"}, {"type": "standardize", "of": "target"}],
        "optimizer": {"type": "Adam", "lr": 0.01},
    }
    found = look(client, body)
    [warning] = [warning for warning in found["warnings"] if warning["code"] == "nearly-numbers"]
    mended = look(client, patched(body, warning["patch"]))
    by_id = look(client, {**body, "dataset": client.post("/v1/datasets", json={"source": source}).json()["id"]})

    named = {"missing": "keep", "missing_texts": ["k.A."]}
    assert json.loads(warning["expected"]) == named
    assert patched(body, warning["patch"])["dataset"] == {**source, **named}
    assert (mended["valid"], codes(mended)) == (True, [])
    [same] = [warning for warning in by_id["warnings"] if warning["code"] == "nearly-numbers"]
    assert (same["expected"], same["patch"]) == (warning["expected"], None)


def test_columns_that_a_net_learns_badly_are_told_with_the_steps_that_mend_them(client: httpx.Client) -> None:
    rows = "".join(f"K{n},{1900 + n},{n % 3},{'ab'[n % 2]},{100 * n}\n" for n in range(120))
    upload = client.post("/v1/uploads", content=f"id,year,rooms,kind,rent\n{rows}".encode()).json()["id"]
    sizes = {"in_features": "auto", "hidden": [4], "num_classes": "auto"}
    body = {
        **examples.TRAIN,
        "architecture": {"catalogue": "mlp", "params": sizes},
        "dataset": {"type": "csv", "upload": upload, "target": "rent"},
        "preprocessing": [{"type": "one_hot"}],
        "optimizer": {"type": "Adam", "lr": 0.01},
        "output": {"model": "badly-learnt"},
    }
    found = look(client, body)
    told = {warning["code"]: warning for warning in found["warnings"]}
    mended = patched(body, told["unscaled-inputs"]["patch"])
    mended = patched(mended, told["unscaled-targets"]["patch"])
    mended["dataset"] = {**mended["dataset"], "inputs": ["year", "rooms", "kind"]}
    by_norm = layers({"type": "BatchNorm1d", "num_features": "auto"}, linear(2, 1))
    two = {**body, "dataset": {**body["dataset"], "inputs": ["year", "rooms"]}, "preprocessing": []}
    job = client.post("/v1/jobs", json=body).json()

    assert list(told) == ["unscaled-inputs", "too-many-categories", "unscaled-targets"]
    assert "'year'" in told["unscaled-inputs"]["detail"]
    assert "'rooms'" not in told["unscaled-inputs"]["detail"]
    assert "'id' has 120 different texts in 120 rows" in told["too-many-categories"]["detail"]
    assert codes(look(client, mended)) == []
    assert codes(look(client, {**two, "architecture": by_norm})) == ["unscaled-targets"]
    assert codes(look(client, {**two, "architecture": layers(linear(2, 1))})) == ["unscaled-inputs", "unscaled-targets"]
    assert [warning["code"] for warning in job["warnings"]] == list(told)
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code in (200, 202, 409)


def test_numbers_that_were_read_as_texts_are_told_before_classes_are_proposed(client: httpx.Client) -> None:
    rows = "".join(f"{n % 5};{n % 7 + 1}.{n:03d},50\n" for n in range(40))
    upload = client.post("/v1/uploads", content=f"z;rent\n{rows}".encode()).json()["id"]
    source = {"type": "csv", "upload": upload, "target": "rent", "delimiter": ";", "decimal": ","}
    body = {**examples.TRAIN, "dataset": source}
    found = assert_problem(client.post("/v1/jobs", json=body), 422, "validation-failed")

    assert [entry["code"] for entry in found["errors"]] == ["nearly-numbers"]
    assert '"thousands": "."' in found["errors"][0]["hint"]
    [first, *_] = look(client, body)["warnings"]
    mended = patched(body, first["patch"])
    assert (first["code"], first["severity"], mended["dataset"]) == (
        "nearly-numbers",
        "error",
        {**source, "thousands": "."},
    )


def test_marks_between_thousands_are_named_by_the_patch(client: httpx.Client) -> None:
    rows = "".join(f"{n % 7 + 1}.{n:03d},50;{n % 5};{2 * n}\n" for n in range(40))
    upload = client.post("/v1/uploads", content=f"x;z;y\n{rows}".encode()).json()["id"]
    source = {"type": "csv", "upload": upload, "target": "y", "delimiter": ";"}
    body = {**examples.TRAIN, "architecture": layers(linear(2, 1)), "dataset": source}
    body |= {
        "preprocessing": [{"type": "standardize"}, {"type": "standardize", "of": "target"}],
        "optimizer": {"type": "Adam", "lr": 0.01},
    }
    [warning] = [warning for warning in look(client, body)["warnings"] if warning["code"] == "nearly-numbers"]
    mended = look(client, patched(body, warning["patch"]))

    assert patched(body, warning["patch"])["dataset"] == {**source, "decimal": ",", "thousands": "."}
    assert (mended["valid"], codes(mended)) == (True, [])


def test_a_training_that_does_not_fit_is_told_the_batch_that_would(make_server: Any) -> None:
    wide = layers(linear(2, 4000), {"type": "ReLU"}, linear(4000, 2))
    body = {**examples.CLASSIFY, "architecture": wide, "dataset": {**examples.CLOUDS, "rows_per_class": 10_000}}
    with make_server(job_memory_bytes=str(256 * 2**20)).client() as client:
        found = look(client, body)
        [warning] = [warning for warning in found["warnings"] if warning["code"] == "memory-limit"]
        mended = look(client, patched(body, warning["patch"]))

    assert found["memory_bytes"] > 256 * 2**20
    assert mended["memory_bytes"] <= 256 * 2**20
    assert "memory-limit" not in codes(mended)


def test_what_cannot_be_understood_is_refused_as_it_is_without_the_question(client: httpx.Client) -> None:
    assert_problem(
        client.post("/v1/jobs?dry_run=true", json={**examples.TRAIN, "optimizer": {"type": "SDG", "lr": 1}}),
        422,
        "validation-failed",
        pointer="/optimizer/type",
    )
    assert_problem(client.post("/v1/jobs?dry_run=perhaps", json=examples.TRAIN), 422, "validation-failed")


def test_other_kinds_are_checked_and_not_measured(client: httpx.Client) -> None:
    found = look(client, examples.IMPORT)

    assert (found["valid"], found["estimate_s"], found["memory_bytes"]) == (True, None, None)
    assert "import" in found["estimate"]["reason"]
