"""A job that is paused and resumed, whatever is restarted meanwhile, comes to the same bits as one that is not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.schemas import examples
from tests.acceptance.test_crashes import LONG, in_the_middle, job_of, submit, succeeded, weights_of
from tests.live import Server, run_job, wait_for


def paused(client: httpx.Client, job_id: str) -> dict[str, Any]:
    assert client.post(f"/v1/jobs/{job_id}/pause").status_code == 202
    job: dict[str, Any] = wait_for(lambda: (found := job_of(client, job_id))["state"] == "paused" and found)
    return job


def resumed(client: httpx.Client, job_id: str, attempt: int) -> None:
    assert client.post(f"/v1/jobs/{job_id}/resume").status_code == 202
    wait_for(lambda: len(job_of(client, job_id)["attempts"]) > attempt)


@pytest.mark.timeout(300)
def test_pauses_and_restarts_change_no_bit(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with server.client() as client:
        expected = weights_of(client, run_job(client, {**LONG, "output": {"model": "reference"}}))
        job_id = submit(client, LONG)
        in_the_middle(client, job_id, after=0.15)
        first = paused(client, job_id)
        resumed(client, job_id, 1)
        in_the_middle(client, job_id, after=0.35)
        paused(client, job_id)
    assert server.stop() == 0
    server.start()
    with server.client() as client:
        assert job_of(client, job_id)["state"] == "paused"
        resumed(client, job_id, 2)
        in_the_middle(client, job_id, after=0.5)
        paused(client, job_id)
    server.kill()
    server.start()
    with server.client() as client:
        assert job_of(client, job_id)["state"] == "paused"
        resumed(client, job_id, 3)
        job = succeeded(client, job_id)

        assert [attempt["state"] for attempt in job["attempts"]] == ["paused", "paused", "paused", "succeeded"]
        assert job["attempts"][1]["resumed_from_step"] >= first["progress"]["step"] > 0
        assert weights_of(client, job) == expected
        replay = client.post(f"/v1/jobs/{job_id}/replay").json()
        report = wait_for(lambda: job_of(client, replay["id"])["report"], timeout=60)
        assert (report["identical"], report["first_difference"]) == (True, None)
    assert server.stop() == 0


@pytest.mark.timeout(300)
def test_a_cancelled_job_that_is_retried_comes_to_the_same_bits(client: httpx.Client) -> None:
    expected = weights_of(client, run_job(client, LONG))
    job_id = submit(client, LONG)
    in_the_middle(client, job_id)
    client.post(f"/v1/jobs/{job_id}/cancel")
    wait_for(lambda: job_of(client, job_id)["state"] == "cancelled")
    client.post(f"/v1/jobs/{job_id}/retry")

    job = succeeded(client, job_id)
    assert [attempt["state"] for attempt in job["attempts"]] == ["cancelled", "succeeded"]
    assert weights_of(client, job) == expected


@pytest.mark.timeout(300)
def test_fifty_jobs_that_are_queued_at_once_all_finish(client: httpx.Client) -> None:
    def body(place: int) -> dict[str, Any]:
        return {**examples.TRAIN, "seed": place, "output": {"model": "many"}}

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda place: submit(client, body(place)), range(50)))
    jobs = [wait_for(lambda: (found := job_of(client, each))["finished_at"] and found, timeout=200) for each in ids]  # noqa: B023

    assert {job["state"] for job in jobs} == {"succeeded"}
    assert len({job["output"]["version"] for job in jobs}) == 50
