"""A version is published once more for another engine, and asked; wrong wishes are refused."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from tests.live import run_job
from tests.problems import assert_problem

pytestmark = pytest.mark.usefixtures("clouds")

ONNX = {"type": "onnxruntime"}
ROWS = [[1.0, 2.0], [-2.0, -1.5], [0.1, 0.0]]


def again(output: dict[str, Any], model: str = "clouds/1", **more: Any) -> dict[str, Any]:
    return {"kind": "import", "model": model, "output": output, **more}


def test_a_version_is_served_by_another_engine(client: httpx.Client) -> None:
    origin = client.get("/v1/models/clouds/versions/1").json()

    job = run_job(client, again({"model": "clouds-onnx", "engine": ONNX}))

    copy = client.get("/v1/models/clouds-onnx/versions/1").json()
    for part in ("digest", "weights_digest", "metrics", "signature", "classes", "preprocessing"):
        assert copy[part] == origin[part]
    assert job["metrics"]["last"] == origin["metrics"]
    assert copy["lineage"]["origin"] == "version clouds/1"
    assert copy["lineage"]["dataset"] == origin["lineage"]["dataset"]
    assert origin["engine"]["type"] == "eager"
    assert copy["engine"]["type"] == "onnxruntime"
    assert copy["engine"]["deviation"] <= 1e-4
    assert copy["engine"]["built_with"].keys() == {"onnxruntime", "opset"}
    assert "engine.onnx" in {file["name"] for file in copy["files"]}
    assert copy["batch_independence"]["independent"]

    one = client.post("/predict", json={"model": "clouds/1", "inputs": ROWS}).json()
    other = client.post("/predict", json={"model": "clouds-onnx", "inputs": ROWS}).json()
    assert other["labels"] == one["labels"]
    np.testing.assert_allclose(other["outputs"], one["outputs"], rtol=1e-4, atol=1e-5)
    assert client.get("/v1/models/clouds-onnx/batching").json()["versions"][0]["engine"] == "onnxruntime"
    assert client.get("/v1/models/clouds/batching").json()["versions"][-1]["engine"] == "eager"
    assert client.post("/v1/models/clouds-onnx/versions/1/verify").json()["ok"]


def test_a_version_in_the_other_layout_comes_back_from_its_bundle(client: httpx.Client) -> None:
    conv = {"type": "Conv2d", "in_channels": 3, "out_channels": 32, "kernel_size": 5, "padding": 2}
    layers = [conv, {"type": "MaxPool2d", "kernel_size": 2}, {"type": "Flatten"}]
    root = {"type": "Sequential", "layers": [*layers, {"type": "Linear", "in_features": 8192, "out_features": 10}]}
    net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 3, 32, 32]}], "root": root}
    run_job(client, {"kind": "import", "architecture": net, "seed": 1, "output": {"model": "pooled"}})
    upload = client.post(
        "/v1/uploads",
        content=client.get("/v1/models/pooled/versions/1/bundle").content,
        headers={"Content-Type": "application/zip"},
    ).json()["id"]

    run_job(client, {"kind": "import", "upload": upload, "output": {"model": "pooled-copy"}})
    plain = {"type": "eager", "layout": "contiguous"}
    run_job(client, {"kind": "import", "upload": upload, "output": {"model": "pooled-plain", "engine": plain}})

    names = ("pooled", "pooled-copy", "pooled-plain")
    found = [client.get(f"/v1/models/{name}/versions/1").json() for name in names]
    assert [one["engine"]["layout"] for one in found] == ["channels_last", "channels_last", "contiguous"]
    assert len({one["digest"] for one in found}) == len({one["weights_digest"] for one in found}) == 1
    rows = np.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).tolist()
    answers = [client.post("/predict", json={"model": name, "inputs": rows}).json()["outputs"] for name in names]
    assert answers[0] == answers[1]
    np.testing.assert_allclose(answers[0], answers[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        pytest.param(again({"model": "x"}, model="nobody"), 404, "not-found", "/model", id="no such model"),
        pytest.param(
            again({"model": "x"}, upload=f"up_{'0' * 32}"), 422, "validation-failed", "/upload", id="two sources"
        ),
        pytest.param(
            again({"model": "x", "engine": {"type": "tensorrt"}}),
            422,
            "validation-failed",
            "/output/engine/type",
            id="unknown engine",
        ),
        pytest.param(
            again({"model": "x", "engine": {"type": "eager", "layout": "blocked"}}),
            422,
            "validation-failed",
            "/output/engine/layout",
            id="unknown layout",
        ),
        pytest.param(
            again({"model": "x", "engine": {"type": "onnxruntime", "file": "engine.onnx"}}),
            422,
            "validation-failed",
            "/output/engine/file",
            id="a file of one's own",
        ),
    ],
)
def test_a_wrong_wish_is_refused(client: httpx.Client, body: Any, status: int, code: str, pointer: str) -> None:
    assert_problem(client.post("/v1/jobs", json=body), status, code, pointer=pointer)
