"""What a dataset of two gigabytes costs: reading it, looking at it, and the private memory of the worker that trains on
it, which is far less than the dataset, since rows are mapped."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

ROWS = 500_000
WIDTH = 1024
"""float32 numbers in a row: 2.05 GB in all."""
GOAL_BYTES = 10**9

JOB: dict[str, Any] = {
    "kind": "train",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", WIDTH]}],
        "root": {"type": "Sequential", "layers": [{"type": "Linear", "in_features": WIDTH, "out_features": 2}]},
    },
    "preprocessing": [{"type": "standardize"}],
    "objective": {"type": "cross_entropy"},
    "optimizer": {"type": "AdamW", "lr": 0.001},
    "batch_size": 256,
    "budget": {"steps": 300},
    "output": {"model": "large"},
}


def run(client: httpx.Client) -> bool:
    """Upload, profile, train; whether the worker kept within its goal."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-data-") as folder:
        path = Path(folder) / "rows.npz"
        _write(path)
        began = time.perf_counter()
        with path.open("rb") as stream:
            upload = client.post("/v1/uploads", content=iter(lambda: stream.read(2**20), b""), timeout=600)
        upload.raise_for_status()
    sent = time.perf_counter() - began
    source = {"type": "npz", "upload": upload.json()["id"], "inputs": "x", "target": "y"}
    began = time.perf_counter()
    stored = client.post("/v1/datasets", json={"source": source}, headers={"Prefer": "wait=600"}, timeout=700)
    stored.raise_for_status()
    read = time.perf_counter() - began
    began = time.perf_counter()
    profile = client.get(f"/v1/datasets/{stored.json()['id']}/profile", timeout=600).json()
    looked = time.perf_counter() - began
    told = f"uploaded in {sent:.1f} s, read in {read:.1f} s, profile in {looked:.1f} s"
    print(f"2 GB: {told} (by {profile['sampled']} of {ROWS} rows)")
    began = time.perf_counter()
    job = client.post("/v1/jobs", json={**JOB, "dataset": stored.json()["id"]}, timeout=600).json()
    with _watched(client, job["id"]) as peak:
        while job["finished_at"] is None:
            time.sleep(0.2)
            job = client.get(f"/v1/jobs/{job['id']}").json()
    if job["state"] != "succeeded":
        raise SystemExit(f"the job is {job['state']}: {job['error']}")
    good = 0 < peak[0] <= GOAL_BYTES
    took = time.perf_counter() - began
    verdict = "" if good else "   MISSED"
    print(f"2 GB: 300 steps of 256 rows and all measured in {took:.1f} s")
    print(f"2 GB: private memory of the worker at most {peak[0] / 1e6:.0f} MB (goal {GOAL_BYTES / 1e6:.0f}){verdict}")
    return good


def _write(path: Path) -> None:
    """An .npz that is written in pieces: rows of numbers, and whether their first one is above zero."""
    draw = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path.with_name("x.npy"), "w+", np.float32, (ROWS, WIDTH))
    for start in range(0, ROWS, 10_000):
        array[start : start + 10_000] = draw.standard_normal((min(10_000, ROWS - start), WIDTH), dtype=np.float32)
    np.savez(path, x=array, y=(array[:, 0] > 0).astype(np.int64))


@contextmanager
def _watched(client: httpx.Client, job_id: str) -> Iterator[list[int]]:
    """The largest RssAnon, in bytes, of the job's worker while it works."""
    peak, ended = [0], threading.Event()

    def look() -> None:
        pid = None
        while not ended.wait(0.02):
            if pid is None:
                attempts = client.get(f"/v1/jobs/{job_id}").json()["attempts"]
                pid = attempts[-1]["pid"] if attempts else None
                continue
            try:
                found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            except OSError:
                return  # it has ended
            if found:
                peak[0] = max(peak[0], int(found[1]) * 1024)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()
