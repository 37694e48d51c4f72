from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch

from service.schemas import examples
from tests.live import Server, run_job
from tests.problems import assert_problem

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("quadratic", "clouds")
VERSION = "/v1/models/quadratic/versions/1"

DOWNLOADS = [
    pytest.param(f"{VERSION}/weights", id="pt"),
    pytest.param(f"{VERSION}/weights?format=safetensors", id="safetensors"),
    pytest.param(f"{VERSION}/bundle", id="bundle"),
]


@pytest.mark.parametrize("path", DOWNLOADS)
def test_a_download_has_its_digest_and_never_changes(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    sha256 = hashlib.sha256(answer.content)

    assert answer.status_code == 200
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    assert answer.headers["etag"] == f'"{sha256.hexdigest()}"'
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"].startswith('attachment; filename="quadratic-1.')
    assert client.get(path).content == answer.content


@pytest.mark.parametrize("path", DOWNLOADS)
def test_a_part_of_a_download(client: httpx.Client, path: str) -> None:
    data = client.get(path).content
    tag = client.get(path).headers["etag"]

    for first, last in ((0, 0), (5, 99), (len(data) - 3, len(data) - 1)):
        part = client.get(path, headers={"Range": f"bytes={first}-{last}", "If-Range": tag})
        assert (part.status_code, part.content) == (206, data[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(data)}"
    assert client.get(path, headers={"Range": "bytes=7-"}).content == data[7:]
    assert client.get(path, headers={"Range": "bytes=7-99999999"}).content == data[7:]
    for strange in ("bytes=99999999-", "bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-5"):
        assert client.get(path, headers={"Range": strange}).status_code == 200
    assert client.get(path, headers={"Range": "bytes=1-2", "If-Range": '"other"'}).content == data


def test_safetensors_hold_the_tensors_of_the_state_dict(client: httpx.Client) -> None:
    state = torch.load(io.BytesIO(client.get(f"{VERSION}/weights").content), weights_only=True)
    found = safetensors.torch.load(client.get(f"{VERSION}/weights?format=safetensors").content)

    assert found.keys() == state.keys()
    assert all(found[name].equal(tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("path", "status", "code", "pointer"),
    [
        (f"{VERSION}/weights?format=onnx", 422, "validation-failed", "/query/format"),
        (f"{VERSION}/weights?form=pt", 422, "validation-failed", "/query/form"),
        (f"{VERSION}/bundle?format=zip", 422, "validation-failed", "/query/format"),
        ("/v1/models/nobody/versions/1/bundle", 404, "not-found", "/path/name"),
        ("/v1/models/nobody/versions/1/weights?format=safetensors", 404, "not-found", "/path/name"),
        ("/v1/models/quadratic/versions/999/bundle", 404, "not-found", "/path/number"),
        (f"/v1/jobs/job_{'0' * 32}/artifact", 404, "not-found", "/path/job_id"),
    ],
)
def test_a_wrong_call_is_a_problem(client: httpx.Client, path: str, status: int, code: str, pointer: str) -> None:
    assert_problem(client.get(path), status, code, pointer=pointer)


# -- bundles ----------------------------------------------------------------------------------------------------------


def upload(client: httpx.Client, data: bytes) -> str:
    answer = client.post("/v1/uploads", content=data, headers={"Content-Type": "application/zip"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize("model", ["quadratic", "clouds"])
def test_a_bundle_comes_back_as_the_same_version(client: httpx.Client, model: str) -> None:
    origin = client.get(f"/v1/models/{model}/versions/1").json()
    rows = {"quadratic": [[0.5], [-0.25]], "clouds": [[1.0, 2.0], [-2.0, -1.5]]}[model]
    answers = client.post("/predict", json={"model": f"{model}/1", "inputs": rows}).json()
    data = client.get(f"/v1/models/{model}/versions/1/bundle").content

    job = run_job(client, {"kind": "import", "upload": upload(client, data), "output": {"model": f"{model}-copy"}})

    copy = client.get(f"/v1/models/{model}-copy/versions/{job['output']['version']}").json()
    for part in ("architecture_digest", "weights_digest", "preprocessing", "digest", "signature", "classes"):
        assert copy[part] == origin[part]
    assert copy["lineage"]["origin"] == "modelyard-bundle"
    assert copy["lineage"]["imported"]["version"]["model"] == model
    assert copy["lineage"]["imported"]["version"]["digest"] == origin["digest"]
    assert job["report"]["outcome"] == "exact"
    assert job["report"]["format"] == "modelyard-bundle"
    again = client.post("/predict", json={"model": f"{model}-copy", "inputs": rows}).json()
    assert again["outputs"] == answers["outputs"]
    assert again.get("labels") == answers.get("labels")


def test_the_loader_of_a_bundle_runs_outside_of_everything(client: httpx.Client, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(client.get("/v1/models/clouds/versions/1/bundle").content)) as archive:
        archive.extractall(tmp_path)

    done = subprocess.run(
        [sys.executable, "-E", "load.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[tensor(")


def test_a_changed_bundle_is_refused(client: httpx.Client) -> None:
    data = bytearray(client.get(f"{VERSION}/bundle").content)
    data[data.index(b"torch.load") + 2] ^= 1
    body = {"kind": "import", "upload": upload(client, bytes(data)), "output": {"model": "changed"}}

    job = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()

    assert job["state"] == "failed"
    assert job["error"]["code"] == "checkpoint_refused"
    assert job["error"]["reason"] in ("digest-mismatch", "crc-mismatch")
    assert job["report"]["outcome"] == "refused"


def test_weights_of_a_bundle_with_code_are_refused(client: httpx.Client) -> None:
    """A bundle whose digests all fit, with weights that would run something if they were unpickled."""
    with zipfile.ZipFile(io.BytesIO(client.get(f"{VERSION}/bundle").content)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents["weights.pt"])) as old, zipfile.ZipFile(weights, "w") as new:
        for name in old.namelist():
            bad = name.endswith("data.pkl")
            new.writestr(name, b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R." if bad else old.read(name))
    contents["weights.pt"] = weights.getvalue()
    about = json.loads(contents["manifest.json"])
    for file in (*about["files"], *about["version"]["files"]):
        if file["name"] == "weights.pt":
            file["size_bytes"] = len(contents["weights.pt"])
            file["sha256"] = hashlib.sha256(contents["weights.pt"]).hexdigest()
    contents["manifest.json"] = json.dumps(about).encode()
    forged = io.BytesIO()
    with zipfile.ZipFile(forged, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    body = {"kind": "import", "upload": upload(client, forged.getvalue()), "output": {"model": "forged"}}

    job = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()

    assert job["state"] == "failed"
    assert (job["error"]["code"], job["error"]["reason"]) == ("unsafe_checkpoint", "code")


def test_a_bundle_says_itself_what_its_net_is(client: httpx.Client) -> None:
    data = client.get(f"{VERSION}/bundle").content
    body = {
        "kind": "import",
        "upload": upload(client, data),
        "architecture": examples.NET,
        "output": {"model": "doubled"},
    }

    job = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()

    assert job["error"]["code"] == "data_error"
    assert "architecture" in job["error"]["detail"]


# -- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(shared_server: Server, quadratic: dict[str, Any]) -> dict[str, Any]:
    """The job that wrote quadratic@champion as ONNX."""
    with shared_server.client() as client:
        return run_job(client, examples.EXPORT)


def test_an_export_job_keeps_its_file(client: httpx.Client, exported: dict[str, Any]) -> None:
    artifact = exported["output"]["artifact"]
    answer = client.get(f"/v1/jobs/{exported['id']}/artifact")

    assert answer.status_code == 200, answer.text
    assert artifact == {
        "name": f"quadratic-{exported['resolved_spec']['resolved_model']['version']}.onnx",
        "format": "onnx",
        "size_bytes": len(answer.content),
        "digest": f"sha256:{hashlib.sha256(answer.content).hexdigest()}",
    }
    assert answer.headers["etag"] == f'"{artifact["digest"].removeprefix("sha256:")}"'
    assert f'filename="{artifact["name"]}"' in answer.headers["content-disposition"]
    assert client.get(f"/v1/jobs/{exported['id']}/artifact", headers={"Range": "bytes=2-5"}).status_code == 206
    assert exported["report"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["B", 1]}]
    assert exported["report"]["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["B", 1]}]


def test_an_exported_net_answers_as_the_version_does(client: httpx.Client, exported: dict[str, Any]) -> None:
    content = client.get(f"/v1/jobs/{exported['id']}/artifact").content
    rows = [[-0.9], [0.0], [0.3], [0.9]]
    answers = client.post("/predict", json={"model": "quadratic/1", "inputs": rows}).json()["outputs"]

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["output"], {"x": np.array(rows, dtype=np.float32)})

    np.testing.assert_allclose(found, answers, rtol=1e-5, atol=1e-6)


def test_what_the_exporter_cannot_do_fails_with_the_layers_name(client: httpx.Client) -> None:
    document = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 2, 8, 8]}],
        "root": {"type": "Sequential", "layers": [{"name": "pool", "type": "AdaptiveMaxPool2d", "output_size": 3}]},
    }
    run_job(client, {"kind": "import", "architecture": document, "output": {"model": "pooled"}})

    body = {"kind": "export", "model": "pooled", "format": "onnx"}
    job = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()

    assert job["state"] == "failed"
    assert job["error"]["code"] == "export_refused"
    assert job["error"]["errors"][0]["layer"] == "pool"
    assert_problem(client.get(f"/v1/jobs/{job['id']}/artifact"), 409, "job-failed")


def test_a_job_of_another_kind_has_no_file(client: httpx.Client, quadratic: dict[str, Any]) -> None:
    assert_problem(client.get(f"/v1/jobs/{quadratic['id']}/artifact"), 404, "not-found", pointer="/path/job_id")


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"model": "nobody", "format": "onnx"}, 404, "/model"),
        ({"model": "quadratic", "format": "tflite"}, 422, "/format"),
        ({"model": "quadratic"}, 422, "/format"),
        ({"format": "onnx"}, 422, "/model"),
        ({"model": "quadratic", "format": "onnx", "opset": 17}, 422, "/opset"),
    ],
)
def test_a_wrong_export_is_a_problem(client: httpx.Client, body: dict[str, Any], status: int, pointer: str) -> None:
    answer = client.post("/v1/jobs", json={"kind": "export", **body})

    assert_problem(answer, status, {404: "not-found", 422: "validation-failed"}[status], pointer=pointer)


def test_a_version_that_prepares_its_rows_is_exported_with_a_warning(client: httpx.Client) -> None:
    run_job(
        client,
        {**examples.TRAIN, "preprocessing": [{"type": "standardize"}], "output": {"model": "prepared"}},
    )

    job = run_job(client, {"kind": "export", "model": "prepared", "format": "onnx"})

    assert [warning["code"] for warning in job["warnings"]] == ["preprocessing-left-out"]
