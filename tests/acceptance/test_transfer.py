"""An old checkpoint is fine-tuned over HTTP: a new head, a body that stays to the bit, and a certificate of it.

The checkpoint is a real one, written by torchvision 0.14 under torch 1.13.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load
from sklearn.datasets import load_digits

from service.engine import transfer
from tests.corpus import corpus
from tests.live import Server, run_job, wait_for

WRITE = """
import sys

import torch
import torchvision

torch.manual_seed(0)
net = torchvision.models.resnet18()
with torch.no_grad():  # statistics as of a net that has seen images
    for _ in range(10):
        net(torch.randn(8, 3, 32, 32))
torch.save(net.state_dict(), sys.argv[1])
"""

ROWS = 400


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state_dict of torchvision's ResNet18."""
    path = tmp_path_factory.mktemp("checkpoint") / "resnet18.pth"
    command = [str(corpus.DEBIAN_PYTHON), "-W", "ignore", "-c", WRITE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{corpus.MISSING}\n{done.stderr[-2000:]}"
    return path


def uploaded(client: httpx.Client, content: bytes) -> str:
    answer = client.post("/v1/uploads", content=content, headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def pictures() -> bytes:
    """Digits as small pictures in three colours: [400, 3, 32, 32]."""
    bunch = load_digits()
    grey = (bunch.images[:ROWS] * 15.9).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.stack([grey, 255 - grey, grey], axis=1), y=bunch.target[:ROWS])
    return buffer.getvalue()


def weights(client: httpx.Client, model: str) -> dict[str, torch.Tensor]:
    answer = client.get(f"/v1/models/{model}/versions/1/weights?format=safetensors")
    assert answer.status_code == 200
    return load(answer.content)


def fingerprint(state: dict[str, torch.Tensor], keys: set[str]) -> str:
    """What the certificate's digest must be, of tensors as a client has them."""
    holder = torch.nn.Module()
    holder.state_dict = lambda: state  # type: ignore[method-assign, assignment]
    return transfer.fingerprint(holder, keys)


def test_an_imported_resnet_learns_digits_with_a_new_head_on_a_frozen_body(
    client: httpx.Client, checkpoint: Path
) -> None:
    run_job(
        client,
        {
            "kind": "import",
            "upload": uploaded(client, checkpoint.read_bytes()),
            "architecture": {"catalogue": "resnet18"},
            "output": {"model": "resnet-old"},
        },
    )
    tuned = run_job(
        client,
        {
            "kind": "train",
            "architecture": {
                "from": {"model": "resnet-old"},
                "edits": [
                    {
                        "op": "replace",
                        "path": "fc",
                        "layer": {"type": "Linear", "in_features": "auto", "out_features": 10},
                    },
                    {"op": "freeze", "path": "**"},
                    {"op": "unfreeze", "path": "fc"},
                ],
            },
            "dataset": {"type": "npz", "upload": uploaded(client, pictures()), "inputs": "x", "target": "y"},
            "preprocessing": [{"type": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3}],
            "objective": {"type": "cross_entropy"},
            "optimizer": {"type": "Adam", "lr": 0.01},
            "split": {"type": "stratified", "validation": 0.25, "seed": 1},
            "batch_size": 50,
            "budget": {"epochs": 6},
            "output": {"model": "resnet-digits"},
        },
        wait=120,
    )
    written = torch.load(checkpoint, weights_only=True)
    before, after = weights(client, "resnet-old"), weights(client, "resnet-digits")
    lineage = client.get("/v1/models/resnet-digits/versions/1").json()["lineage"]
    body = {key for key in after if not key.startswith("fc.")}

    assert set(after) == set(written)
    for key in body:  # running statistics and counts of batches among them
        assert torch.equal(after[key], before[key]), key
        assert torch.equal(after[key], written[key]), key
    assert after["fc.weight"].shape == (10, 512)
    certificate = lineage["certificate"]
    assert certificate["patterns"] == ["**", "!fc"]
    assert (certificate["tensors"], certificate["statistics"]) == (len(body), 40)
    assert certificate["unchanged"] is True
    assert certificate["digest"] == fingerprint(after, body) == fingerprint(written, body)
    assert len(lineage["resolved_spec"]["edited"]["weights"]["kept"]) == len(body)
    assert tuned["metrics"]["last"]["val_accuracy"] > 0.8


SMALL: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 2]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"name": "hidden", "type": "Linear", "in_features": 2, "out_features": 32},
            {"name": "norm", "type": "BatchNorm1d", "num_features": 32},
            {"name": "relu", "type": "ReLU"},
            {"name": "head", "type": "Linear", "in_features": 32, "out_features": 2},
        ],
    },
}


def test_a_killed_worker_leaves_the_certificate_right(make_server: Callable[..., Server]) -> None:
    """It is about the weights that the job began with, whichever attempt ends it."""
    job: dict[str, Any] = {
        "kind": "train",
        "architecture": SMALL,
        "dataset": {
            "type": "gaussian_clouds",
            "centers": [[1, 1], [-1, -1]],
            "std": 1.0,
            "rows_per_class": 400,
            "seed": 3,
        },
        "objective": {"type": "cross_entropy"},
        "optimizer": {"type": "AdamW", "lr": 0.001},
        "batch_size": 32,
        "seed": 7,
    }
    server = make_server()
    with server.client() as client:
        run_job(client, {**job, "budget": {"epochs": 2}, "output": {"model": "begun"}})
        fine: dict[str, Any] = {
            **job,
            "budget": {"epochs": 150},
            "checkpoint": {"every_s": 0.1},
            "init": {"from": "begun", "freeze": ["hidden", "norm"]},
            "output": {"model": "tuned"},
        }
        at = f"/v1/jobs/{client.post('/v1/jobs', json=fine).json()['id']}"
        wait_for(lambda: client.get(f"{at}/checkpoints").json()["data"])
        os.kill(client.get(at).json()["attempts"][0]["pid"], signal.SIGKILL)
        ended = wait_for(lambda: (found := client.get(at).json())["finished_at"] and found, timeout=60)
        began, after = weights(client, "begun"), weights(client, "tuned")
        lineage = client.get("/v1/models/tuned/versions/1").json()["lineage"]

    assert (ended["state"], len(ended["attempts"])) == ("succeeded", 2)
    assert ended["attempts"][1]["resumed_from_step"] > 0
    held = {key for key in after if not key.startswith("head.")}
    assert all(torch.equal(after[key], began[key]) for key in held)
    assert not torch.equal(after["head.weight"], began["head.weight"])
    certificate = lineage["certificate"]
    assert (certificate["tensors"], certificate["statistics"], certificate["unchanged"]) == (7, 2, True)
    assert certificate["digest"] == fingerprint(began, held)
