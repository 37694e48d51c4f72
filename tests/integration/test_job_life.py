"""What becomes of a job between its submission and its end: paused, resumed, retried, asked, promoted, replayed."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.schemas import examples
from tests.live import Server, run_job, wait_for
from tests.long_jobs import act, in_state, job_of, with_checkpoint
from tests.problems import assert_problem

DIVERGING = {**examples.TRAIN, "optimizer": {"type": "SGD", "lr": 1e6}, "output": {"model": "diverged"}}


@pytest.fixture
def running(client: httpx.Client) -> Iterator[str]:
    """The id of a job that runs and keeps a checkpoint; it is cancelled afterwards."""
    job_id = with_checkpoint(client)
    yield job_id
    act(client, job_id, "cancel")
    wait_for(lambda: job_of(client, job_id)["finished_at"])


# -- pause, resume, retry ---------------------------------------------------------------------------------------------


def test_a_paused_job_gives_its_slot_back_and_goes_on_from_its_checkpoint(client: httpx.Client, running: str) -> None:
    first, again = act(client, running, "pause"), act(client, running, "pause")
    paused = in_state(client, running, "paused")
    still = act(client, running, "pause")
    run_job(client, examples.IMPORT)  # on the only slot
    resumed = act(client, running, "resume")
    job = in_state(client, running, "running")
    running_already = act(client, running, "resume")

    assert [answer.status_code for answer in (first, again, still, resumed, running_already)] == [
        202,
        200,
        200,
        202,
        200,
    ]
    assert (paused["state_reason"], paused["finished_at"], paused["error"]) == ("paused_by_user", None, None)
    assert [attempt["state"] for attempt in job["attempts"]] == ["paused", "running"]
    found = wait_for(lambda: job_of(client, running)["attempts"][1]["resumed_from_step"])
    assert found >= paused["progress"]["step"] > 0


def test_a_job_that_has_ended_is_neither_paused_nor_resumed(client: httpx.Client) -> None:
    job = run_job(client, examples.IMPORT)

    for wish in ("pause", "resume", "retry"):
        assert_problem(act(client, job["id"], wish), 409, "conflict")
    assert_problem(client.post(f"/v1/jobs/job_{'0' * 32}/pause"), 404, "not-found", pointer="/path/job_id")


def test_a_cancelled_job_is_retried_from_its_checkpoint_or_from_the_start(client: httpx.Client, running: str) -> None:
    act(client, running, "cancel")
    in_state(client, running, "cancelled")
    tried = act(client, running, "retry")
    wait_for(lambda: job_of(client, running)["attempts"][-1]["resumed_from_step"])
    act(client, running, "cancel")
    cancelled = in_state(client, running, "cancelled")
    anew = act(client, running, "retry", **{"from": "start"})
    job = in_state(client, running, "running")

    assert (tried.status_code, tried.json()["error"], tried.json()["finished_at"]) == (202, None, None)
    assert [attempt["state"] for attempt in cancelled["attempts"]] == ["cancelled", "cancelled"]
    assert (anew.status_code, anew.json()["progress"]) == (202, None)
    assert [attempt["resumed_from_step"] for attempt in job["attempts"]][2] is None
    assert act(client, running, "retry").status_code == 200
    assert_problem(act(client, running, "retry", **{"from": "there"}), 422, "validation-failed", pointer="/from")


def test_a_new_start_that_cannot_be_noted_takes_no_checkpoint(
    client: httpx.Client, running: str, shared_server: Server
) -> None:
    act(client, running, "cancel")
    in_state(client, running, "cancelled")
    before = client.get(f"/v1/jobs/{running}/checkpoints").json()["data"]
    reader = sqlite3.connect(shared_server.store / "modelyard.sqlite3", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM jobs").fetchone()  # who reads keeps others from their commit
    refused = act(client, running, "retry", **{"from": "start"})
    reader.close()
    folder = shared_server.store / "jobs" / running

    assert (refused.status_code, refused.json()["code"]) == (503, "database-busy")
    assert before
    assert client.get(f"/v1/jobs/{running}/checkpoints").json()["data"] == before
    act(client, running, "retry", **{"from": "start"})
    assert in_state(client, running, "running")["attempts"][-1]["resumed_from_step"] is None
    assert [path.name for path in folder.glob("checkpoints?*")] == []


def test_the_stream_of_a_retried_job_ends_at_its_last_end(client: httpx.Client) -> None:
    job = client.post("/v1/jobs", json=DIVERGING, headers={"Prefer": "wait=30"}).json()
    act(client, job["id"], "retry")
    wait_for(lambda: len(found := job_of(client, job["id"])["attempts"]) == 2 and found[1]["state"] == "failed")
    answer = client.get(f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"})

    names = [line.removeprefix("event: ").strip() for line in answer.text.splitlines() if line.startswith("event: ")]
    assert (names.count("done"), names[-1]) == (1, "done")
    assert names.count("state") == 8


# -- what ends a job --------------------------------------------------------------------------------------------------


def test_a_lost_worker_is_an_interruption_and_no_failure(client: httpx.Client, running: str) -> None:
    os.kill(job_of(client, running)["attempts"][0]["pid"], signal.SIGKILL)
    job = wait_for(lambda: len((found := job_of(client, running))["attempts"]) == 2 and found)
    told = client.get(f"/v1/jobs/{running}/events?limit=1000").json()["data"]

    states = [event["data"]["state"] for event in told if event["type"] == "state"]
    assert states[:5] == ["queued", "starting", "running", "interrupted", "queued"]
    assert (job["attempts"][0]["state"], job["error"]) == ("lost", None)


# -- answers before the end -------------------------------------------------------------------------------------------


def test_a_running_job_answers_by_its_best_checkpoint_and_says_so(client: httpx.Client, running: str) -> None:
    rows = {"inputs": [[2.0, 2.0], [-2.0, -2.0]]}
    answer = client.post("/predict", json={"model": running, **rows})
    by_path = client.post(f"/v1/models/{running}/predict", json=rows)
    body = answer.json()

    assert answer.status_code == by_path.status_code == 200
    assert (body["model"], body["version"], body["digest"], body["job"]) == (None, None, None, running)
    assert body["step"] > 0
    assert len(body["labels"]) == len(body["outputs"]) == 2
    assert [warning["code"] for warning in body["warnings"]] == ["unpublished"]
    assert "x-model-version" not in answer.headers


def test_it_answers_whatever_the_worker_replaces_meanwhile(client: httpx.Client, running: str) -> None:
    steps = set()
    for _ in range(150):
        answer = client.post("/predict", json={"model": running, "inputs": [[1.0, 1.0]]})
        assert answer.status_code == 200, answer.text
        steps.add(answer.json()["step"])

    assert steps


def test_a_job_answers_when_it_is_paused_and_by_its_version_when_it_has_one(client: httpx.Client, running: str) -> None:
    act(client, running, "pause")
    in_state(client, running, "paused")
    paused = client.post("/predict", json={"model": running, "inputs": [[1.0, 1.0]]})
    done = run_job(client, examples.TRAIN)
    published = client.post("/predict", json={"model": done["id"], "inputs": [[0.5]]}).json()

    assert (paused.status_code, paused.json()["version"]) == (200, None)
    assert (published["model"], published["version"]) == ("quadratic", done["output"]["version"])
    assert (published["job"], published["warnings"]) == (done["id"], [])


def test_a_job_without_a_checkpoint_answers_nothing(client: httpx.Client) -> None:
    failed = client.post("/v1/jobs", json=DIVERGING, headers={"Prefer": "wait=30"}).json()

    for call in (
        client.post("/predict", json={"model": failed["id"], "inputs": [[0.5]]}),
        client.post("/v1/jobs", json={"kind": "import", "job": failed["id"], "output": {"model": "m"}}),
        act(client, failed["id"], "promote"),
    ):
        assert_problem(call, 409, "conflict")
    unknown = "job_" + "0" * 32
    assert_problem(client.post("/predict", json={"model": unknown, "inputs": [[1]]}), 404, "not-found")
    assert_problem(client.post(f"/v1/jobs/{unknown}/promote"), 404, "not-found")


def test_what_has_a_version_is_not_promoted(client: httpx.Client) -> None:
    done = run_job(client, examples.TRAIN)

    assert_problem(act(client, done["id"], "promote"), 409, "conflict")
    assert_problem(
        client.post("/v1/jobs", json={**examples.IMPORT, "job": done["id"]}),
        422,
        "validation-failed",
        pointer="/architecture",
    )


def test_all_that_is_wrong_with_an_import_is_told_at_once(client: httpx.Client) -> None:
    net = {"type": "Linear", "in_features": 2, "out_features": 1}
    body = {
        "kind": "import",
        "upload": "up_" + "0" * 32,
        "architecture": {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": net},
        "output": {"model": "wrong", "alias_on_success": {"champion": "loss < champion.loss"}},
    }
    told = assert_problem(client.post("/v1/jobs", json=body), 422, "validation-failed")

    assert {entry["pointer"] for entry in told["errors"]} == {
        "/output/alias_on_success",
        "/upload",
        "/architecture/root/in_features",
    }


def test_a_checkpoint_is_not_published_on_a_condition_that_can_never_hold(client: httpx.Client, running: str) -> None:
    output = {"model": "never", "alias_on_success": {"champion": "val_nonsense > 1"}}
    told = assert_problem(act(client, running, "promote", output=output), 422, "validation-failed")

    assert [(entry["pointer"], entry["code"]) for entry in told["errors"]] == [
        ("/output/alias_on_success/champion", "unknown-metric")
    ]


# -- aliases on a condition -------------------------------------------------------------------------------------------


def test_an_alias_moves_only_if_its_condition_holds_and_the_job_says_by_how_much(client: httpx.Client) -> None:
    def train(epochs: int, condition: str) -> dict[str, Any]:
        output = {"model": "conditional", "alias_on_success": {"champion": condition}}
        return run_job(client, {**examples.TRAIN, "budget": {"epochs": epochs}, "output": output})

    first = train(100, "loss < champion.loss")
    worse = train(1, "loss < champion.loss")
    better = train(200, "loss <= champion.loss")
    alias = client.get("/v1/models/conditional/aliases/champion").json()
    told = client.get(f"/v1/jobs/{worse['id']}/events?limit=1000").json()["data"]

    assert (first["output"]["alias"], first["output"]["promotion"]["promoted"]) == ("champion", True)
    refused = worse["output"]["promotion"]
    assert (worse["state"], worse["output"]["version"], "alias" in worse["output"]) == ("succeeded", 2, False)
    assert (refused["alias"], refused["condition"], refused["promoted"]) == ("champion", "loss < champion.loss", False)
    assert refused["by"] == pytest.approx(worse["metrics"]["last"]["loss"] - first["metrics"]["last"]["loss"])
    assert [warning["code"] for warning in worse["warnings"]] == ["promotion-refused"]
    assert [event["data"]["code"] for event in told if event["type"] == "warning"] == ["promotion-refused"]
    assert (better["output"]["promotion"]["promoted"], alias["version"]) == (True, 3)
    assert client.get("/v1/models/conditional/versions/2").status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (
            {**examples.TRAIN, "output": {"model": "m", "alias_on_success": {"champion": "val_loss < 1"}}},
            "/output/alias_on_success/champion",
        ),
        (
            {**examples.TRAIN, "output": {"model": "m", "alias_on_success": {"champion": "accuracy > 0.5"}}},
            "/output/alias_on_success/champion",
        ),
        (
            {**examples.IMPORT, "output": {"model": "m", "alias_on_success": {"champion": "loss < 1"}}},
            "/output/alias_on_success",
        ),
    ],
    ids=["nothing held out", "another objective's", "an import"],
)
def test_a_condition_on_what_is_not_measured_is_refused(
    client: httpx.Client, body: dict[str, Any], pointer: str
) -> None:
    assert_problem(
        client.post("/v1/jobs", json=body), 422, "validation-failed", pointer=pointer, entry="unknown-metric"
    )


# -- replay -----------------------------------------------------------------------------------------------------------


def test_a_replay_comes_to_the_same_weights_and_publishes_nothing(client: httpx.Client) -> None:
    done = run_job(client, {**examples.CLASSIFY, "batch_size": 16, "output": {"model": "replayed"}})
    answer = act(client, done["id"], "replay")
    job = in_state(client, answer.json()["id"], "succeeded")

    assert (answer.status_code, answer.json()["replay_of"]) == (202, done["id"])
    assert (job["report"]["identical"], job["report"]["first_difference"]) == (True, None)
    assert job["report"]["steps_compared"] > 100
    assert (job["output"], job["report"]["environment"]) == (None, {})
    assert client.get("/v1/models/replayed").json()["versions"] == 1


_COSINE = {"scheduler": {"type": "CosineAnnealingLR"}}
_BY_STEP = {"scheduler": {"type": "CosineAnnealingLR", "interval": "step"}}
_STOPPING = {"split": {"type": "random", "validation": 0.2}, "early_stopping": {"metric": "val_loss", "patience": 2}}


@pytest.mark.parametrize(
    "run",
    [
        pytest.param({"budget": {"max_seconds": 0.5}}, id="seconds"),
        pytest.param({"budget": {"max_seconds": 0.5}, **_BY_STEP}, id="seconds that were planned"),
        pytest.param(
            {"budget": {"max_seconds": 0.5}, "batch_size": 10, "accumulate": 4}, id="seconds within an update"
        ),
        pytest.param({"budget": {"max_seconds": 0.5, "epochs": 1_000_000}, **_COSINE}, id="seconds before the epochs"),
        pytest.param({"budget": {"max_seconds": 60, "epochs": 1000}, **_COSINE, **_STOPPING}, id="neither"),
    ],
)
def test_what_a_clock_ended_is_replayed_to_the_same_weights(client: httpx.Client, run: dict[str, Any]) -> None:
    done = run_job(client, {**examples.TRAIN, **run, "output": {"model": "clocked"}})
    job = in_state(client, act(client, done["id"], "replay").json()["id"], "succeeded")

    assert (job["report"]["identical"], job["report"]["first_difference"]) == (True, None)
    assert job["progress"]["step"] == done["progress"]["step"]
    assert job["progress"]["fraction"] == 1


def test_only_a_training_with_a_version_is_replayed(client: httpx.Client) -> None:
    imported = run_job(client, examples.IMPORT)
    failed = client.post("/v1/jobs", json=DIVERGING, headers={"Prefer": "wait=30"}).json()

    assert_problem(act(client, imported["id"], "replay"), 409, "conflict")
    assert_problem(act(client, failed["id"], "replay"), 409, "conflict")


def test_the_same_key_promotes_and_replays_once(client: httpx.Client) -> None:
    done = run_job(client, {**examples.TRAIN, "output": {"model": "once"}})
    answers = [
        client.post(f"/v1/jobs/{done['id']}/replay", headers={"Idempotency-Key": "replay-once"}) for _ in range(2)
    ]

    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[1].headers["idempotent-replayed"] == "true"
