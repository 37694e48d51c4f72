"""A net is compiled by the job that publishes it, and its code is loaded by servers that compare it first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.schemas import examples
from tests.live import Server, run_job
from tests.problems import assert_problem

NATIVE = {"type": "aot_inductor"}
TRAIN = {**examples.TRAIN, "output": {"model": "quadratic", "engine": NATIVE}}
ROWS = [[0.5], [0.7], [-1.0]]


def answers(client: httpx.Client, version: int) -> np.ndarray:
    answer = client.post("/predict", json={"model": f"quadratic/{version}", "inputs": ROWS})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"])


@pytest.mark.timeout(900)  # the compiler takes ten seconds of a processor that is free
def test_native_code_serves_and_only_the_bytes_that_the_job_made(
    make_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setenv("TMPDIR", str(unpacked))
    server = make_server(anew=True, job_timeout_s="600", job_stall_s="300")
    with server.client() as client:
        job = client.post("/v1/jobs", json=TRAIN).json()
        while job["state"] not in ("succeeded", "failed"):
            job = client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=20"}).json()
        assert job["state"] == "succeeded", job["error"]
        engine = client.get("/v1/models/quadratic/versions/1").json()["engine"]
        assert (engine["type"], engine["file"]) == ("aot_inductor", "engine.pt2")
        assert engine["deviation"] <= 1e-4
        assert not list(server.store.glob("jobs/*/attempt-*/engine"))
        run_job(client, {"kind": "import", "model": "quadratic/1", "output": {"model": "quadratic"}})

        np.testing.assert_allclose(answers(client, 1), answers(client, 2), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(answers(client, 1)[:1], answers(client, 1)[[0]])
        used = client.get("/v1/models/quadratic/batching").json()["versions"]
        assert {each["version"]: each["engine"] for each in used} == {1: "aot_inductor", 2: "eager"}
        server.kill()
    assert not list(unpacked.glob("aotinductor_*"))  # nobody is left who could remove what torch has unpacked

    code = server.store / "models" / "quadratic" / "1" / "engine.pt2"
    code.chmod(0o644)
    code.write_bytes(code.read_bytes() + b"\0")
    server.start()
    with server.client() as client:
        refused = client.post("/predict", json={"model": "quadratic/1", "inputs": ROWS})
        assert (refused.status_code, refused.json()["code"]) == (503, "model-quarantined")
        assert answers(client, 2).shape == (3, 1)


def test_without_a_compiler_the_request_is_refused(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    server = make_server(anew=True)
    with server.client() as client:
        refused = client.post("/v1/jobs", json=TRAIN)

    assert_problem(refused, 422, "validation-failed", pointer="/output/engine/type")
    assert "g++" in refused.json()["errors"][0]["detail"]
