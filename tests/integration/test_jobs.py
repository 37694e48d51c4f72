"""Jobs over HTTP: submitted, waited for, listed, changed, cancelled, deleted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from service.schemas import examples
from tests.live import Server, run_job, wait_for
from tests.problems import assert_problem

LONG = {**examples.TRAIN, "budget": {"epochs": 1_000_000}, "output": {"model": "long"}}


@pytest.fixture
def done(client: httpx.Client) -> dict[str, Any]:
    """A job that has succeeded."""
    return run_job(client, examples.IMPORT)


@pytest.fixture
def long_job(client: httpx.Client) -> Iterator[dict[str, Any]]:
    """A job that runs until it is cancelled."""
    job = client.post("/v1/jobs", json=LONG).json()
    wait_for(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running")
    yield job
    client.post(f"/v1/jobs/{job['id']}/cancel")
    wait_for(lambda: client.get(f"/v1/jobs/{job['id']}").json()["finished_at"])


def test_a_job_is_accepted_at_once_and_tells_what_it_will_do(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json=examples.TRAIN)
    job = answer.json()

    assert answer.status_code == 202
    assert re.fullmatch("job_[0-9a-f]{32}", job["id"])
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] in ("queued", "starting")
    assert job["spec"] == examples.TRAIN
    assert (job["resolved_spec"]["shuffle"], job["resolved_spec"]["batch_size"]) == (False, None)
    assert job["resolved_spec"]["checkpoint"] == {"every_s": 30.0, "publish": "last"}
    done = wait_for(lambda: (found := client.get(answer.headers["location"]).json())["finished_at"] and found)
    assert done["state"] == "succeeded"
    assert done["output"]["model"] == "quadratic"
    assert done["attempts"][0]["pid"] > 1
    assert done["progress"]["fraction"] == 1
    assert done["metrics"]["last"]["loss"] < 0.1


def test_prefer_wait_answers_the_finished_job_or_the_job_as_it_is(client: httpx.Client) -> None:
    finished = client.post("/v1/jobs", json=examples.TRAIN, headers={"Prefer": "respond-async, wait=30"})
    unfinished = client.post("/v1/jobs", json=LONG, headers={"Prefer": "wait=0"})
    client.post(f"/v1/jobs/{unfinished.json()['id']}/cancel")

    assert (finished.status_code, finished.json()["state"]) == (200, "succeeded")
    assert finished.headers["preference-applied"] == "wait=30"
    assert unfinished.status_code == 202


@pytest.mark.parametrize("prefer", ["wait", "wait=-1", "wait=x", "handling=lenient", "wait=٣"])
def test_a_preference_that_is_not_understood_is_passed_over(client: httpx.Client, prefer: str) -> None:
    answer = client.post("/v1/jobs", json=examples.IMPORT, headers={b"Prefer": prefer.encode()})

    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


def test_the_list_has_no_documents_and_can_be_narrowed(
    client: httpx.Client, done: dict[str, Any], long_job: dict[str, Any]
) -> None:
    page = client.get("/v1/jobs?limit=2").json()

    assert [job["id"] for job in page["data"]] == [long_job["id"], done["id"]]
    assert all(not {"spec", "resolved_spec", "report"} & set(job) for job in page["data"])
    assert [job["id"] for job in client.get("/v1/jobs?state=running").json()["data"]] == [long_job["id"]]
    assert {job["kind"] for job in client.get("/v1/jobs?kind=import").json()["data"]} == {"import"}
    assert client.get("/v1/jobs?model=long&state=succeeded").json() == {"data": [], "next": None}
    following = client.get("/v1/jobs", params={"limit": 1, "after": page["next"]}).json()["data"]
    assert following[0]["id"] not in (done["id"], long_job["id"])


def test_labels_and_priority_change_only_from_what_was_seen(client: httpx.Client) -> None:
    path = f"/v1/jobs/{run_job(client, examples.IMPORT)['id']}"
    etag = client.get(path).headers["etag"]
    changed = client.patch(path, json={"labels": {"team": "blue"}, "priority": 3}, headers={"If-Match": etag})

    assert_problem(client.patch(path, json={"labels": {}}), 428, "precondition-required")
    assert (changed.json()["labels"], changed.json()["priority"]) == ({"team": "blue"}, 3)
    assert_problem(client.patch(path, json={"priority": 1}, headers={"If-Match": etag}), 412, "precondition-failed")
    assert_problem(
        client.patch(path, json={"state": "failed"}, headers={"If-Match": "*"}),
        422,
        "validation-failed",
        pointer="/state",
    )


def test_a_running_job_is_cancelled_once_and_publishes_nothing(client: httpx.Client, long_job: dict[str, Any]) -> None:
    path = f"/v1/jobs/{long_job['id']}"
    wait_for(lambda: client.get(path).json()["progress"])
    first = client.post(f"{path}/cancel")
    again = client.post(f"{path}/cancel")
    done = wait_for(lambda: (found := client.get(path).json())["finished_at"] and found)

    assert (first.status_code, again.status_code) == (202, 200)
    assert (done["state"], done["error"]["code"]) == ("cancelled", "cancelled_by_user")
    assert client.get("/v1/models/long").status_code == 404


def test_a_job_that_has_ended_otherwise_cannot_be_cancelled(client: httpx.Client, done: dict[str, Any]) -> None:
    assert_problem(client.post(f"/v1/jobs/{done['id']}/cancel"), 409, "conflict")


def test_only_a_job_that_has_ended_can_be_forgotten(
    client: httpx.Client, done: dict[str, Any], long_job: dict[str, Any]
) -> None:
    assert_problem(client.delete(f"/v1/jobs/{long_job['id']}"), 409, "conflict")
    assert client.delete(f"/v1/jobs/{done['id']}").status_code == 204
    assert_problem(client.get(f"/v1/jobs/{done['id']}"), 404, "not-found", pointer="/path/job_id")


def test_curves_logs_and_checkpoints_can_be_read(client: httpx.Client) -> None:
    path = f"/v1/jobs/{run_job(client, examples.CLASSIFY)['id']}"
    curves = client.get(f"{path}/metrics").json()
    thin = client.get(f"{path}/metrics?points=10").json()
    logs = client.get(f"{path}/logs")
    checkpoints = client.get(f"{path}/checkpoints").json()["data"]

    series = {each["name"]: each for each in curves["series"]}
    assert {"loss", "val_loss", "val_accuracy"} <= set(series)
    assert series["loss"]["steps"] == sorted(series["loss"]["steps"])
    assert len(series["loss"]["values"]) == 100
    assert thin["thinned"] is True
    assert [len(each["values"]) for each in thin["series"]] == [10] * len(thin["series"])
    assert logs.headers["content-type"] == "text/plain; charset=utf-8"
    assert {each["kind"] for each in checkpoints} <= {"resume", "best"}


def test_a_diverging_job_fails_with_its_reason_and_publishes_nothing(client: httpx.Client) -> None:
    diverging = {**examples.TRAIN, "optimizer": {"type": "SGD", "lr": 1e6}, "output": {"model": "diverged"}}
    job = client.post("/v1/jobs", json=diverging, headers={"Prefer": "wait=30"}).json()

    assert (job["state"], job["error"]["code"]) == ("failed", "non_finite_loss")
    assert job["error"]["step"] >= 1
    assert job["error"]["hint"]
    assert_problem(client.get("/v1/models/diverged"), 404, "not-found")


def test_a_full_queue_says_when_to_come_back(make_server: Callable[..., Server]) -> None:
    server = make_server(max_queued_jobs="1", job_slots="1")
    with server.client() as client:
        first = client.post("/v1/jobs", json=LONG).json()
        wait_for(lambda: client.get(f"/v1/jobs/{first['id']}").json()["state"] == "running")
        client.post("/v1/jobs", json=LONG)
        refused = client.post("/v1/jobs", json=LONG)

        assert_problem(refused, 429, "queue-full")
        assert int(refused.headers["retry-after"]) >= 1


def test_a_waiting_client_is_told_promptly_when_the_job_ends(client: httpx.Client) -> None:
    started = time.perf_counter()
    job = run_job(client, {**examples.IMPORT, "output": {"model": "prompt"}})

    assert job["state"] == "succeeded"
    assert time.perf_counter() - started < 5


def test_no_answer_names_a_path_of_the_server(
    shared_server: Server, client: httpx.Client, done: dict[str, Any]
) -> None:
    job = run_job(client, examples.TRAIN)
    version = f"/v1/models/quadratic/versions/{job['output']['version']}"
    pages = [
        f"/v1/jobs/{each['id']}{part}" for each in (done, job) for part in ("", "/events", "/logs", "/checkpoints")
    ]
    for page in [*pages, version, f"{version}/architecture", "/v1/datasets", "/v1/uploads", "/version", "/metrics"]:
        answer = client.get(page)

        assert answer.status_code == 200
        assert str(shared_server.store) not in answer.text
        assert ".py" not in answer.text


def test_a_disk_that_is_nearly_full_takes_no_new_work(make_server: Callable[..., Server]) -> None:
    server = make_server(reserve_bytes=str(2**60))
    with server.client() as client:
        job = client.post("/v1/jobs", json=examples.TRAIN)
        alive = client.get("/readyz")

    assert (job.status_code, job.json()["code"]) == (507, "store-full")
    assert alive.status_code == 200
