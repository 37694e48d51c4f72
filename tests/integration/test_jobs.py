"""Jobs over HTTP: submitted, waited for, listed, changed, cancelled, deleted."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def test_a_request_may_bring_its_priority(client: httpx.Client) -> None:
    job = run_job(client, {**examples.IMPORT, "priority": -3})
    refused = client.post("/v1/jobs", json={**examples.IMPORT, "priority": 101})

    assert job["priority"] == -3
    assert "priority" not in job["resolved_spec"]
    assert_problem(refused, 422, "validation-failed", pointer="/priority", entry="out-of-range")


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
    assert {"loss", "lr", "val_loss", "val_accuracy"} <= set(series)
    assert set(series["lr"]["values"]) == {0.02}
    assert series["loss"]["steps"] == sorted(series["loss"]["steps"])
    assert len(series["loss"]["values"]) == 100
    assert thin["thinned"] is True
    thinned = [len(each["values"]) for each in thin["series"] if each["name"] != "lr"]
    assert thinned == [10] * (len(thin["series"]) - 1)
    assert logs.headers["content-type"] == "text/plain; charset=utf-8"
    assert {each["kind"] for each in checkpoints} <= {"resume", "best"}


def test_a_diverging_job_fails_with_its_reason_and_publishes_nothing(client: httpx.Client) -> None:
    diverging = {**examples.TRAIN, "optimizer": {"type": "SGD", "lr": 1e6}, "output": {"model": "diverged"}}
    job = client.post("/v1/jobs", json=diverging, headers={"Prefer": "wait=30"}).json()

    assert (job["state"], job["error"]["code"]) == ("failed", "non_finite_loss")
    assert job["error"]["step"] >= 1
    assert "such as 0.1;" in job["error"]["hint"]
    step, planned = job["error"]["step"], job["progress"]["planned_steps"]
    assert (job["progress"]["step"], job["progress"]["fraction"]) == (step, pytest.approx(step / (planned or 200)))
    assert_problem(client.get("/v1/models/diverged"), 404, "not-found")


def test_a_job_that_stopped_early_says_so_and_is_at_its_end(client: httpx.Client) -> None:
    stopping = {"metric": "loss", "patience": 3, "min_delta": 1000}
    job = run_job(client, {**examples.TRAIN, "early_stopping": stopping, "output": {"model": "early"}})
    told = client.get(f"/v1/jobs/{job['id']}/events?limit=1000").json()["data"]

    sentence = "Stopped early after epoch 4: loss had not improved by more than 1000 for 3 epochs."
    assert (job["state"], job["state_reason"]) == ("succeeded", sentence)
    assert [event["data"] for event in told if event["type"] == "log"] == [{"message": sentence, "step": 4, "epoch": 4}]
    states = [event["data"] for event in told if event["type"] == "state"]
    assert states[-1] == {"state": "succeeded", "attempt": 1, "reason": sentence}
    assert (job["progress"]["step"], job["progress"]["fraction"], job["progress"]["eta_s"]) == (4, 1, 0)
    assert job["attempts"][0]["resumed_from_step"] is None
    assert sentence in client.get(f"/v1/jobs/{job['id']}/logs").text


def test_the_log_says_what_was_done_and_how_it_ended(client: httpx.Client) -> None:
    diverging = {**examples.TRAIN, "optimizer": {"type": "SGD", "lr": 1e6}, "output": {"model": "diverged"}}

    def log(body: dict[str, Any]) -> list[str]:
        job = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"}).json()
        lines = client.get(f"/v1/jobs/{job['id']}/logs").text.replace(str(job["dataset"] and job["dataset"]["id"]), "…")
        return [re.sub(r"^[0-9T:.Z-]{20,} ", "", line) for line in lines.splitlines()]

    trained, failed = log(examples.TRAIN), log(diverging)
    assert trained[0] == "--- attempt 1 ---"
    assert re.fullmatch(
        r"Attempt 1: training a net of 31 parameters on dataset … \(100 training rows\) with SGD, lr 0\.2, for mse; "
        r"seed 1, \d+ threads\.",
        trained[1],
    )
    assert re.fullmatch(r"Trained 200 steps, 200 epochs, in [\d.]+ s: loss 0\.\d+, mae .*", trained[2])
    assert failed[2].startswith("Failed (non_finite_loss): The loss of step ")
    assert len(failed) == 3  # and no traceback
    assert log(examples.IMPORT)[1:] == [
        "Attempt 1: importing a net of 9 parameters with the weights that were sent.",
        "Imported.",
    ]
    assert log(examples.EVALUATE)[1].startswith("Attempt 1: evaluating quadratic/")


def test_weights_that_do_not_fit_are_refused_before_anything_is_queued(client: httpx.Client) -> None:
    before = client.get("/v1/jobs?limit=1").json()["data"]
    wrong = {"hidden.weight": [[1.0, 2.0]], "hidden.bias": [0.5] * 10, "predict.weigth": [[1.0] * 10]}
    body = {**examples.IMPORT, "architecture": examples.NET, "state_dict": wrong}
    answer = client.post("/v1/jobs", json=body)

    assert_problem(answer, 422, "checkpoint-refused")
    assert [(each["pointer"], each["code"], each.get("layer")) for each in answer.json()["errors"]] == [
        ("/state_dict", "missing", "predict"),
        ("/state_dict", "missing", "predict"),
        ("/state_dict/predict.weigth", "unexpected", None),
        ("/state_dict/hidden.weight", "shapes", "hidden"),
    ]
    assert client.get("/v1/jobs?limit=1").json()["data"] == before


def test_jobs_that_bring_one_source_at_the_same_time_share_its_dataset(client: httpx.Client) -> None:
    dataset = {**examples.PARABOLA, "rows": 200_000, "seed": 77}
    body = {**examples.TRAIN, "dataset": dataset, "budget": {"steps": 1}, "output": {"model": "sharing"}}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=body), range(4)))

    assert [answer.status_code for answer in answers] == [202] * 4
    assert len({answer.json()["dataset"]["id"] for answer in answers}) == 1


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
