"""Figures of a running build, as ratios within one run where two things are compared.

Starts a server of its own over a temporary store.
Usage: scripts/bench [--rounds N] [jobs] [predict] [train] [architecture] [training] [data] [overload]
       scripts/bench [--minutes N] soak
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import bench_architecture
import bench_data
import bench_load
import bench_training
import httpx
import torch

from service.schemas import examples
from tests.live import Server

CIFAR: dict[str, Any] = {
    "kind": "import",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3, 32, 32]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"type": "Conv2d", "in_channels": 3, "out_channels": 32, "kernel_size": 5, "padding": 2},
                {"type": "MaxPool2d", "kernel_size": 2},
                {"type": "Conv2d", "in_channels": 32, "out_channels": 32, "kernel_size": 5, "padding": 2},
                {"type": "MaxPool2d", "kernel_size": 2},
                {"type": "Conv2d", "in_channels": 32, "out_channels": 64, "kernel_size": 5, "padding": 2},
                {"type": "MaxPool2d", "kernel_size": 2},
                {"type": "Flatten"},
                {"type": "Linear", "in_features": 1024, "out_features": 64},
                {"type": "Linear", "in_features": 64, "out_features": 10},
            ],
        },
    },
    "seed": 1,
    "output": {"model": "cifar"},
}


BENCHMARKS = ("jobs", "train", "predict", "architecture", "training", "data", "overload")


def main() -> int:
    """Run the chosen benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0, help="of soak")
    parser.add_argument("what", nargs="*", help=f"{', '.join((*BENCHMARKS, 'soak'))}; all but the last by default")
    asked = parser.parse_args()
    chosen = asked.what or list(BENCHMARKS)
    if unknown := set(chosen) - {*BENCHMARKS, "soak"}:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    if "architecture" in chosen:
        bench_architecture.run(asked.rounds)
    if "training" in chosen:
        bench_training.run(asked.rounds)
    if "overload" in chosen:
        bench_load.overload(asked.rounds)
    if "soak" in chosen:
        bench_load.soak(asked.minutes)
    if set(chosen) <= {"architecture", "training", "overload", "soak"}:
        return 0
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        server = Server(Path(folder) / "store")
        server.start()
        try:
            with server.client() as client:
                _run(client, examples.TRAIN)  # warm: the first job may wait for the fork server
                if "jobs" in chosen:
                    jobs(client, asked.rounds)
                if "train" in chosen:
                    train(client, asked.rounds)
                if "predict" in chosen:
                    predict(client, asked.rounds)
                if "data" in chosen:
                    bench_data.run(client)
        finally:
            server.stop()
    return 0


def jobs(client: httpx.Client, rounds: int) -> None:
    """From submit to the worker's first step, and to `succeeded`, for R1 (100 rows, 200 steps)."""
    first_steps, ends = [], []
    for _ in range(rounds):
        submitted, began = time.time(), time.perf_counter()
        job = _run(client, examples.TRAIN)
        ends.append(time.perf_counter() - began)
        first_steps.append(_seconds(job["environment"]["first_step_at"]) - submitted)
    print(f"submit → first step     {_told(first_steps)}")
    told = "R1: 200 steps, published with golden rows; goal 500 ms"
    print(f"submit → succeeded      {_told(ends)}   ({told}{'' if statistics.median(ends) <= 0.5 else '   MISSED'})")
    many(client)


MANY = 50
GOAL_P99_S = 0.05


def many(client: httpx.Client) -> None:
    """Fifty jobs queued at once, and how long the API takes to answer until the last of them has ended, against how
    long it takes before and after."""
    body = {**examples.CLASSIFY, "budget": {"epochs": 300}, "batch_size": 32, "output": {"model": "many"}}
    idle: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}

    def asked(taken: dict[str, list[float]], what: str, method: str, path: str, **given: Any) -> httpx.Response:
        start = time.perf_counter()
        answer = client.request(method, path, **given)
        taken.setdefault(what, []).append(time.perf_counter() - start)
        answer.raise_for_status()
        return answer

    def ask(taken: dict[str, list[float]], ids: list[str]) -> set[str]:
        """One question of each kind; the jobs among `ids` that have ended."""
        asked(taken, "predict", "POST", "/predict", json=examples.PREDICT)
        jobs = [asked(taken, "job", "GET", f"/v1/jobs/{job_id}").json() for job_id in ids]
        asked(taken, "list", "GET", "/v1/jobs", params={"limit": 20})
        asked(taken, "models", "GET", "/v1/models")
        time.sleep(0.02)
        return {str(job["id"]) for job in jobs if job["finished_at"] is not None}

    some = [str(job["id"]) for job in client.get("/v1/jobs", params={"limit": 3}).json()["data"]]
    for _ in range(100):
        ask(idle, some)
    began = time.perf_counter()
    posted = [asked(busy, "submit", "POST", "/v1/jobs", json={**body, "seed": seed}) for seed in range(MANY)]
    submitted = time.perf_counter() - began
    ids = {str(answer.json()["id"]) for answer in posted}
    left = set(ids)
    while left:
        left -= ask(busy, sorted(left)[:3])
    ended = time.perf_counter() - began
    for _ in range(100):
        ask(idle, some)
    states = {client.get(f"/v1/jobs/{job_id}").json()["state"] for job_id in ids}
    for what, seconds in busy.items():
        against = f"   idle p99 {_p99(idle[what]) * 1000:7.2f} ms" if what in idle else ""
        print(f"{MANY} jobs, {what:15} {_told(seconds)}   p99 {_p99(seconds) * 1000:7.2f} ms{against}")
    every = _p99([one for seconds in busy.values() for one in seconds])
    verdict = "" if every <= GOAL_P99_S else "   MISSED"
    print(f"{MANY} jobs, any answer: p99 {every * 1000:.2f} ms (goal {GOAL_P99_S * 1000:g}){verdict}")
    print(f"{MANY} jobs submitted in {submitted:.2f} s, all {', '.join(sorted(states))} after {ended:.1f} s")


def train(client: httpx.Client, rounds: int) -> None:
    """R1's 200 steps inside the worker against the tutorial's own loop, interleaved."""
    ours, tutorial = [], []
    torch.set_num_threads(1)
    for _ in range(rounds):
        ours.append(_run(client, examples.TRAIN)["environment"]["training_s"])
        tutorial.append(_tutorial())
    print(f"R1 training, worker     {_told(ours)}")
    print(f"R1 training, tutorial   {_told(tutorial)}   ratio {_ratio(tutorial, ours)}")


def _tutorial() -> float:
    torch.manual_seed(1)
    x = torch.linspace(-1, 1, 100).unsqueeze(1)
    y = x.pow(2) + 0.2 * torch.rand(x.size())
    net = torch.nn.Sequential(torch.nn.Linear(1, 10), torch.nn.ReLU(), torch.nn.Linear(10, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    loss_of = torch.nn.MSELoss()
    began = time.perf_counter()
    for _ in range(200):
        loss = loss_of(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def predict(client: httpx.Client, rounds: int) -> None:
    """One prediction over HTTP at one connection, with the forward pass that it contains."""
    _run(client, CIFAR)
    image = torch.rand(1, 3, 32, 32).tolist()
    for name, body in (
        ("1-10-1, one row ", examples.PREDICT | {"inputs": [[0.5]]}),
        ("CIFAR net, JSON ", {"model": "cifar", "inputs": image}),
    ):
        taken, inside = [], []
        for _ in range(rounds * 20):
            began = time.perf_counter()
            answer = client.post("/predict", json=body)
            taken.append(time.perf_counter() - began)
            answer.raise_for_status()
            inside.append(float(answer.headers["Server-Timing"].partition("dur=")[2]) / 1000)
        print(f"predict {name}{_told(taken)}   of which forward {statistics.median(inside) * 1000:.2f} ms")


def _run(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    answer.raise_for_status()
    job: dict[str, Any] = answer.json()
    if job["state"] != "succeeded":
        raise SystemExit(f"the job is {job['state']}: {job['error']}")
    return job


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


def _told(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    median, p95 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return f"median {median * 1000:7.2f} ms   p95 {p95 * 1000:7.2f} ms   n={len(ordered)}"


def _ratio(base: list[float], ours: list[float]) -> str:
    return f"{statistics.median(base) / statistics.median(ours):.2f}"


if __name__ == "__main__":
    sys.exit(main())
