"""What bounds jobs: slots, the queue, time, silence, memory, the disk, and files that were changed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import httpx
import pytest

from service.schemas import examples
from tests.live import Server, run_job, wait_for
from tests.long_jobs import LONG, act, in_state, job_of, with_checkpoint
from tests.problems import assert_problem


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one slot, and a short queue."""
    server = Server(tmp_path_factory.mktemp("narrow") / "store", job_slots="1", max_queued_jobs="3").start()
    yield server
    assert server.stop() == 0


def test_jobs_are_started_by_priority_which_can_be_changed_while_they_wait(narrow: Server) -> None:
    with narrow.client() as client:
        first = with_checkpoint(client)
        waiting = [client.post("/v1/jobs", json=examples.IMPORT).json()["id"] for _ in range(3)]
        last = client.get(f"/v1/jobs/{waiting[2]}")
        client.patch(f"/v1/jobs/{waiting[2]}", json={"priority": 5}, headers={"If-Match": last.headers["etag"]})
        act(client, first, "cancel")
        jobs = [wait_for(lambda: (found := job_of(client, each))["finished_at"] and found) for each in waiting]  # noqa: B023

    order = sorted(jobs, key=lambda job: str(job["started_at"]))
    assert [job["id"] for job in order] == [waiting[2], waiting[0], waiting[1]]
    assert last.json()["priority"] == 0


def test_a_job_that_runs_too_long_fails_with_timeout(make_server: Callable[..., Server]) -> None:
    with make_server(job_timeout_s="1").client() as client:
        job = client.post("/v1/jobs", json=LONG, headers={"Prefer": "wait=30"}).json()

    assert (job["state"], job["error"]["code"]) == ("failed", "timeout")
    assert job["error"]["hint"]


def test_a_worker_that_stands_still_fails_with_stalled(make_server: Callable[..., Server]) -> None:
    with make_server(job_stall_s="1").client() as client:
        job_id = with_checkpoint(client)
        os.kill(job_of(client, job_id)["attempts"][0]["pid"], signal.SIGSTOP)
        job = wait_for(lambda: (found := job_of(client, job_id))["finished_at"] and found, timeout=60)

    assert (job["state"], job["error"]["code"]) == ("failed", "stalled")


def test_a_job_that_needs_too_much_memory_fails_and_the_server_goes_on(make_server: Callable[..., Server]) -> None:
    layers = [
        {"type": "Linear", "in_features": 2, "out_features": 4000},
        {"type": "Linear", "in_features": 4000, "out_features": 4000},
        {"type": "Linear", "in_features": 4000, "out_features": 2},
    ]
    net = {**LONG["architecture"], "root": {"type": "Sequential", "layers": layers}}
    with make_server(job_memory_bytes=str(256 * 2**20)).client() as client:
        body = {**LONG, "architecture": net, "optimizer": {"type": "Adam"}}
        job = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"}).json()
        after = run_job(client, examples.IMPORT)

    assert (job["state"], job["error"]["code"]) == ("failed", "out_of_memory")
    assert after["state"] == "succeeded"


def test_no_worker_evaluates_files_that_were_changed_after_the_job_was_taken(narrow: Server) -> None:
    with narrow.client() as client:
        run_job(client, examples.TRAIN)
        long = client.post("/v1/jobs", json=LONG).json()
        waiting = client.post("/v1/jobs", json=examples.EVALUATE).json()
        [weights] = narrow.store.glob("models/quadratic/1/weights.pt")
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.chmod(0o644)
        weights.write_bytes(content)
        client.post(f"/v1/jobs/{long['id']}/cancel")
        job = wait_for(lambda: (found := client.get(f"/v1/jobs/{waiting['id']}").json())["finished_at"] and found)
        version = client.get("/v1/models/quadratic/versions/1").json()

    assert (job["state"], job["error"]["code"], job["error"]["reason"]) == (
        "failed",
        "checkpoint_refused",
        "digest-mismatch",
    )
    assert job["error"]["detail"] == "Its files differ from its manifest: weights.pt."
    assert version["state"] == "quarantined"


def test_a_full_queue_says_when_to_come_back(narrow: Server) -> None:
    with narrow.client() as client:
        first = client.post("/v1/jobs", json=LONG).json()
        in_state(client, first["id"], "running")
        waiting = [client.post("/v1/jobs", json=LONG).json() for _ in range(3)]
        refused = client.post("/v1/jobs", json=LONG)
        for job in [*reversed(waiting), first]:
            act(client, job["id"], "cancel")
        in_state(client, first["id"], "cancelled")

        assert_problem(refused, 429, "queue-full")
        assert int(refused.headers["retry-after"]) >= 1


def test_a_disk_that_is_nearly_full_takes_no_new_work(make_server: Callable[..., Server]) -> None:
    server = make_server(reserve_bytes=str(2**60))
    with server.client() as client:
        job = client.post("/v1/jobs", json=examples.TRAIN)
        alive = client.get("/readyz")

    assert (job.status_code, job.json()["code"]) == (507, "store-full")
    assert alive.status_code == 200


def test_the_best_checkpoint_of_a_running_job_is_published_and_the_job_goes_on(
    client: httpx.Client, make_server: Callable[..., Server]
) -> None:
    with make_server(job_slots="2").client() as client:
        running = with_checkpoint(client)
        answer = act(client, running, "promote")
        published = in_state(client, answer.json()["id"], "succeeded")
        version = client.get(f"/v1/models/life/versions/{published['output']['version']}").json()
        asked = client.post("/predict", json={"model": "life", "inputs": [[2.0, 2.0]]}).json()
        going_on = job_of(client, running)["state"]

        act(client, running, "cancel")
        in_state(client, running, "cancelled")
        later = act(client, running, "promote", output={"model": "life", "alias_on_success": "candidate"})
        second = in_state(client, later.json()["id"], "succeeded")

    assert (answer.status_code, answer.json()["kind"], going_on) == (202, "import", "running")
    assert version["lineage"]["stopped_by"] == "promotion"
    assert version["lineage"]["promoted_from"]["job"] == running
    assert version["lineage"]["promoted_from"]["state"] == "running"
    assert version["lineage"]["steps"] == version["lineage"]["promoted_from"]["step"] > 0
    assert {"loss", "val_loss", "val_accuracy"} <= set(version["metrics"])
    assert "golden.pt" in [file["name"] for file in version["files"]]
    assert (asked["version"], asked["warnings"]) == (1, [])
    assert second["output"] == {"model": "life", "version": 2, "alias": "candidate"}
