"""Thirty workers killed at random steps, in the middle of epochs too, with pauses and dead servers between: each job
comes to the bits of one that nothing disturbed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.acceptance.test_crashes import job_of, submit, succeeded, weights_of
from tests.acceptance.test_pauses import paused
from tests.live import Server, end_worker, run_job, wait_for

SEED = 20261
KILLS = 30
JOBS = 2
STEPS = 30_000
STEPS_PER_EPOCH = 47
"""798 training rows in batches of 17: an epoch ends with a batch that is not full."""

FRAGILE: dict[str, Any] = {
    "kind": "train",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 2]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "in_features": 2, "out_features": 16},
                {"type": "BatchNorm1d", "num_features": 16},
                {"type": "ReLU"},
                {"type": "Dropout", "p": 0.3},
                {"type": "Linear", "in_features": 16, "out_features": 2},
            ],
        },
    },
    "dataset": {"type": "gaussian_clouds", "centers": [[1, 1], [-1, -1]], "std": 1.0, "rows_per_class": 532, "seed": 3},
    "split": {"type": "random", "validation": 0.25, "seed": 5},
    "objective": {"type": "cross_entropy"},
    "optimizer": {"type": "AdamW", "lr": 0.002},
    "scheduler": {"type": "OneCycleLR", "max_lr": 0.02},
    "budget": {"steps": STEPS},
    "batch_size": 17,
    "checkpoint": {"every_s": 0.1},
    "seed": 11,
    "output": {"model": "fragile"},
}
"""Whatever a resumed run could get wrong: the order within an epoch, dropout, running statistics, moments, the rate."""


def at_step(client: httpx.Client, job_id: str, step: int, *, after: int) -> dict[str, Any]:
    """The job as soon as it works beyond a step, in an attempt after that of this number.

    The server needs a moment to see that a worker is dead; until then the job looks as if it still ran.
    """

    def look() -> dict[str, Any] | None:
        job = job_of(client, job_id)
        assert job["state"] in ("queued", "starting", "running", "interrupted"), job
        working = job["state"] == "running" and attempt_of(job) > after
        return job if working and job["progress"] is not None and job["progress"]["step"] >= step else None

    job: dict[str, Any] = wait_for(look, timeout=120, every=0.005)
    return job


def attempt_of(job: dict[str, Any]) -> int:
    """The number of the job's newest attempt; 0 before the first."""
    return job["attempts"][-1]["number"] if job["attempts"] else 0


def spread(draw: random.Random, count: int) -> list[int]:
    """So many random steps in the order of time, each in a stretch of its own, so that every attempt gets somewhere.

    The last third is left free: on a loaded machine a job must not end before the last blow was seen to be due.
    """
    stretch = STEPS * 2 // 3 // count
    return [place * stretch + draw.randrange(stretch) for place in range(count)]


def kill_worker(server: Server, job: dict[str, Any]) -> None:
    """kill -9 for the worker of the job's newest attempt, if it still lives."""
    end_worker(server.store / "jobs" / job["id"] / f"attempt-{job['attempts'][-1]['number']}")


def undisturbed(server: Server) -> str:
    with server.client() as client:
        return weights_of(client, run_job(client, {**FRAGILE, "output": {"model": "undisturbed"}}))


@pytest.mark.timeout(300)
def test_thirty_kills_at_random_steps_change_no_bit(
    make_server: Callable[..., Server], measured: Callable[[str], None]
) -> None:
    draw = random.Random(SEED)
    server = make_server(job_attempts="100", job_slots=str(JOBS))
    expected = undisturbed(server)
    resumed: list[int] = []
    with server.client() as client:
        jobs = [submit(client, FRAGILE) for _ in range(JOBS)]
        moments = [spread(draw, KILLS // JOBS) for _ in jobs]
        measured(f"Kills: seed {SEED}, after the steps {moments}")
        killed = dict.fromkeys(jobs, 0)
        for turn in zip(*moments, strict=True):
            for job_id, step in zip(jobs, turn, strict=True):
                job = at_step(client, job_id, step, after=killed[job_id])
                kill_worker(server, job)
                killed[job_id] = attempt_of(job)
        for job_id in jobs:
            job = succeeded(client, job_id)

            assert [attempt["state"] for attempt in job["attempts"]] == ["lost"] * (KILLS // JOBS) + ["succeeded"]
            assert weights_of(client, job) == expected
            resumed += [attempt["resumed_from_step"] or 0 for attempt in job["attempts"][1:]]
    measured(f"Kills: resumed from the steps {resumed}")
    assert len(resumed) == KILLS
    assert sum(step % STEPS_PER_EPOCH > 0 for step in resumed) > KILLS // 2  # in the middle of an epoch
    assert server.stop() == 0


@pytest.mark.timeout(300)
def test_kills_pauses_and_dead_servers_in_any_order_change_no_bit(
    make_server: Callable[..., Server], measured: Callable[[str], None]
) -> None:
    draw = random.Random(SEED)
    server = make_server(job_attempts="100")
    expected = undisturbed(server)
    with server.client() as client:
        job_id = submit(client, FRAGILE)
    blows = ["worker", "pause", "server and worker", "paused server", "stopped server"]
    draw.shuffle(blows)
    blows.append("server")  # the last one, since the worker may come to its end before there is a server again
    moments = spread(draw, len(blows))
    measured(f"Blows: seed {SEED}, {list(zip(moments, blows, strict=True))}")
    ended = 0
    for blow, step in zip(blows, moments, strict=True):
        with server.client() as client:
            job = at_step(client, job_id, step, after=ended)
            ended = attempt_of(job)
            if "pause" in blow:
                paused(client, job_id)
        if blow == "stopped server":
            assert server.stop() == 0
        elif "server" in blow:
            server.kill()
        if "worker" in blow:
            kill_worker(server, job)
        if "server" in blow:
            server.start()
        if "pause" in blow:
            with server.client() as client:
                assert client.post(f"/v1/jobs/{job_id}/resume").status_code == 202
    with server.client() as client:
        job = succeeded(client, job_id)
        states = [attempt["state"] for attempt in job["attempts"]]

        assert sorted(states) == ["lost", "lost", "paused", "paused", "stopped", "succeeded"]
        assert weights_of(client, job) == expected
    assert server.stop() == 0
