"""Exports that a server cannot or must not hand out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.schemas import examples
from tests.live import Server, run_job
from tests.problems import assert_problem

VERSION = "/v1/models/quadratic/versions/1"


def test_damaged_bytes_are_not_handed_out(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with server.client() as client:
        run_job(client, examples.TRAIN)
        weights = server.store / "models" / "quadratic" / "1" / "weights.pt"
        weights.chmod(0o644)
        data = bytearray(weights.read_bytes())
        data[-400] ^= 1
        weights.write_bytes(data)

        for path in ("bundle", "weights?format=safetensors", "weights"):
            refused = client.get(f"{VERSION}/{path}")
            assert (refused.status_code, refused.json()["code"]) == (503, "model-quarantined")


def test_without_its_packages_an_export_is_refused_at_once(
    make_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'onnxscript' else find(name, *rest)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with make_server(anew=True).client() as client:
        run_job(client, examples.TRAIN)

        problem = assert_problem(
            client.post("/v1/jobs", json=examples.EXPORT), 422, "validation-failed", pointer="/format"
        )

    assert "modelyard[onnx]" in problem["errors"][0]["hint"]
