"""A job that runs until it is stopped, and what tests do with it."""

from __future__ import annotations

from typing import Any

import httpx

from service.schemas import examples
from tests.live import wait_for

LONG: dict[str, Any] = {
    **examples.CLASSIFY,
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 2]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "in_features": 2, "out_features": 16},
                {"type": "BatchNorm1d", "num_features": 16},
                {"type": "ReLU"},
                {"type": "Dropout", "p": 0.2},
                {"type": "Linear", "in_features": 16, "out_features": 2},
            ],
        },
    },
    "budget": {"epochs": 1_000_000},
    "batch_size": 16,
    "checkpoint": {"every_s": 0.1},
    "output": {"model": "life"},
}
"""It runs until it is stopped, and keeps a checkpoint often."""


def job_of(client: httpx.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return job


def in_state(client: httpx.Client, job_id: str, state: str) -> dict[str, Any]:
    job: dict[str, Any] = wait_for(lambda: (found := job_of(client, job_id))["state"] == state and found)
    return job


def with_checkpoint(client: httpx.Client) -> str:
    """A long job that runs and keeps a checkpoint."""
    job_id: str = client.post("/v1/jobs", json=LONG).json()["id"]
    wait_for(lambda: client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"])
    return job_id


def act(client: httpx.Client, job_id: str, wish: str, **body: Any) -> httpx.Response:
    return client.post(f"/v1/jobs/{job_id}/{wish}", json=body or None)
