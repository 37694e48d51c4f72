"""Whatever is killed, and whenever: nothing acknowledged is lost, nothing is half there, no bit comes out otherwise."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from service.schemas import examples
from tests.live import Server, run_job, wait_for

CRASH_ROUNDS = 20
SEED = 20260

LONG: dict[str, Any] = {
    "kind": "train",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 2]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "in_features": 2, "out_features": 32},
                {"type": "BatchNorm1d", "num_features": 32},
                {"type": "ReLU"},
                {"type": "Dropout", "p": 0.2},
                {"type": "Linear", "in_features": 32, "out_features": 2},
            ],
        },
    },
    "dataset": {"type": "gaussian_clouds", "centers": [[1, 1], [-1, -1]], "std": 1.0, "rows_per_class": 500, "seed": 3},
    "objective": {"type": "cross_entropy"},
    "optimizer": {"type": "AdamW", "lr": 0.001},
    "budget": {"epochs": 150},
    "batch_size": 32,
    "split": {"type": "random", "validation": 0.2, "seed": 5},
    "checkpoint": {"every_s": 0.1},
    "seed": 7,
    "output": {"model": "long"},
}
"""Everything that a resumed run could get wrong: a permutation an epoch, dropout, running statistics, AdamW's state.
Some seconds, so that it can be hit in the middle."""

HEAVY: dict[str, Any] = {
    "kind": "import",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 1000]}],
        "root": {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 1000, "out_features": 2000}]},
    },
    "output": {"model": "heavy", "alias_on_success": "champion"},
}
"""Eight megabytes that are ready at once: most of the job's time is its publication."""

MakeServer = Callable[..., Server]


def submit(client: httpx.Client, body: dict[str, Any]) -> str:
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def job_of(client: httpx.Client, job_id: str) -> dict[str, Any]:
    answer = client.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200
    job: dict[str, Any] = answer.json()
    return job


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job when it has ended."""
    job: dict[str, Any] = wait_for(
        lambda: found if (found := job_of(client, job_id))["state"] in ("succeeded", "failed", "cancelled") else None,
        timeout=60,
    )
    return job


def succeeded(client: httpx.Client, job_id: str) -> dict[str, Any]:
    job = ended(client, job_id)
    assert job["state"] == "succeeded", job["error"]
    return job


def in_the_middle(client: httpx.Client, job_id: str, *, after: float = 0.25) -> dict[str, Any]:
    """The job once it has a checkpoint and has done that share of its work."""

    def look() -> dict[str, Any] | None:
        job = job_of(client, job_id)
        assert job["state"] in ("queued", "starting", "running"), job
        if not job["progress"] or job["progress"]["fraction"] < after:
            return None
        return job if client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"] else None

    job: dict[str, Any] = wait_for(look)
    assert job["progress"]["fraction"] < 0.9
    return job


def has_attempts(client: httpx.Client, job_id: str, count: int) -> bool:
    return len(job_of(client, job_id)["attempts"]) >= count


def count_results(store: Path) -> int:
    return len(list(store.glob("jobs/*/attempt-*/result.json")))


def more_results(store: Path, than: int) -> bool:
    return count_results(store) > than


def weights_of(client: httpx.Client, job: dict[str, Any]) -> str:
    answer = client.get(f"/v1/models/{job['output']['model']}/versions/{job['output']['version']}")
    digest: str = answer.json()["weights_digest"]
    return digest


def all_events(client: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        page = client.get(f"/v1/jobs/{job_id}/events", params={"after": after, "limit": 1000}).json()
        found += page["data"]
        if page["next"] is None:
            return found
        after = int(page["next"])


def stream(client: httpx.Client, job_id: str, after: int) -> Iterator[dict[str, Any]]:
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
    with httpx_sse.connect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source:
        for event in source.iter_sse():
            data = json.loads(event.data)
            assert (str(data["id"]), data["type"]) == (event.id, event.event)
            yield data


@pytest.fixture(scope="module")
def uninterrupted(shared_server: Server) -> str:
    """The digest of LONG's weights when nothing disturbs it."""
    with shared_server.client() as client:
        return weights_of(client, run_job(client, LONG))


# -- one thing killed -------------------------------------------------------------------------------------------------


def test_a_killed_server_adopts_its_worker_at_the_next_start(make_server: MakeServer, uninterrupted: str) -> None:
    server = make_server(anew=True)
    seen: list[int] = []
    with server.client() as client:
        job_id = submit(client, LONG)
        before = in_the_middle(client, job_id)
        events = stream(client, job_id, 0)
        seen += [next(events)["id"] for _ in range(10)]
        server.kill()
        with suppress(httpx.TransportError):
            seen += [event["id"] for event in events]
    server.start()

    with server.client() as client:
        seen += [event["id"] for event in stream(client, job_id, seen[-1])]
        job = succeeded(client, job_id)
        assert [(attempt["number"], attempt["pid"]) for attempt in job["attempts"]] == [
            (1, before["attempts"][0]["pid"])
        ]
        assert weights_of(client, job) == uninterrupted
        assert seen == [event["id"] for event in all_events(client, job_id)]
    assert server.stop() == 0


def test_a_killed_worker_is_followed_by_one_that_comes_to_the_same_bits(
    shared_server: Server, client: httpx.Client, uninterrupted: str
) -> None:
    job_id = submit(client, LONG)
    for attempt, share in ((1, 0.2), (2, 0.5)):
        job = in_the_middle(client, job_id, after=share)
        os.kill(job["attempts"][-1]["pid"], signal.SIGKILL)  # running, so nobody has collected it: the pid is its own
        wait_for(partial(has_attempts, client, job_id, attempt + 1))

    job = succeeded(client, job_id)

    assert [attempt["state"] for attempt in job["attempts"]] == ["lost", "lost", "succeeded"]
    assert 0 < job["attempts"][1]["resumed_from_step"] < job["attempts"][2]["resumed_from_step"]
    assert weights_of(client, job) == uninterrupted
    curve = next(
        series for series in client.get(f"/v1/jobs/{job_id}/metrics").json()["series"] if series["name"] == "loss"
    )
    assert len(curve["steps"]) == len(set(curve["steps"]))


def test_a_killed_fork_server_costs_no_job_anything(shared_server: Server, client: httpx.Client) -> None:
    job_id = submit(client, {**LONG, "budget": {"epochs": 100}})
    worker = in_the_middle(client, job_id)["attempts"][0]["pid"]
    [fork_server] = [pid for pid in shared_server.descendants() if pid != worker]
    os.kill(fork_server, signal.SIGKILL)

    assert [attempt["pid"] for attempt in succeeded(client, job_id)["attempts"]] == [worker]
    run_job(client, {**LONG, "budget": {"epochs": 1}})


# -- everything killed ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_whatever_is_killed_while_versions_are_published_each_is_whole_or_absent(
    make_server: MakeServer, measured: Callable[[str], None]
) -> None:
    """Kills server, fork server and worker together, at random moments from the end of a worker's work on."""
    draw = random.Random(SEED)
    server = make_server(job_attempts="100")
    submitted: list[str] = []
    acknowledged: dict[int, str] = {}  # version → the job that it was told for
    known: dict[int, str] = {}  # version → its digest

    def check(client: httpx.Client) -> None:
        """Every version that is listed is whole and answers, and is what it was before."""
        listed = client.get("/v1/models/heavy/versions", params={"limit": 200})
        versions = listed.json()["data"] if listed.status_code == 200 else []
        found = {version["version"]: version for version in versions}
        assert set(acknowledged) | set(known) <= set(found)
        for number, version in found.items():
            assert version["lineage"]["job"] == acknowledged.get(number, version["lineage"]["job"])
            assert version["digest"] == known.setdefault(number, version["digest"])
        for number in sorted(found)[-3:]:  # at the end, all of them
            whole_and_answering(client, number)

    def whole_and_answering(client: httpx.Client, number: int) -> None:
        verdict = client.post(f"/v1/models/heavy/versions/{number}/verify")
        assert verdict.status_code == 200, verdict.text
        answer = client.post(f"/v1/models/heavy/versions/{number}/predict", json={"inputs": [[0.5] * 1000]})
        assert (answer.status_code, answer.json().get("version")) == (200, number), answer.text

    def listen(client: httpx.Client) -> None:
        """Note every success that this client is told of, until its server is gone."""
        told = httpx_sse.connect_sse(client, "GET", "/v1/events?topics=jobs")
        with suppress(httpx.TransportError), told as source:
            for event in source.iter_sse():
                data = json.loads(event.data)
                if data["type"] == "done" and data["data"]["state"] == "succeeded":
                    acknowledged[data["data"]["output"]["version"]] = data["job_id"]

    for _ in range(CRASH_ROUNDS):
        with server.client() as client:
            check(client)
            listener = threading.Thread(target=listen, args=(client,))
            listener.start()
            aim = count_results(server.store) + draw.randrange(2)
            for _ in range(3):
                submitted.append(submit(client, {**HEAVY, "seed": len(submitted)}))
            wait_for(partial(more_results, server.store, aim), every=0.001)
            moment = time.monotonic() + draw.uniform(0, 0.06)  # a publication takes that long
            assert server.process is not None
            doomed = [server.process.pid, *server.descendants()]
            draw.shuffle(doomed)
            time.sleep(max(0.0, moment - time.monotonic()))
            for pid in doomed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            listener.join(10)
        server.kill()
        wait_for(lambda: not server.living_workers(), every=0.01)
        server.start()

    with server.client() as client:
        check(client)
        jobs = {job_id: succeeded(client, job_id) for job_id in submitted}
        numbers = [job["output"]["version"] for job in jobs.values()]
        assert len(set(numbers)) == len(submitted)
        listed = client.get("/v1/models/heavy/versions", params={"limit": 200}).json()["data"]
        assert sorted(version["version"] for version in listed) == sorted(numbers)  # each job has one, no job has two
        for number in numbers:
            whole_and_answering(client, number)
        assert client.get("/v1/models/heavy/aliases/champion").json()["version"] in numbers
    assert server.stop() == 0
    folders = {int(path.name) for path in (server.store / "models" / "heavy").iterdir()}
    assert folders == set(numbers)
    log = server.log.read_text()
    finished, abandoned = log.count("A version was finished"), log.count("A version was abandoned")
    told = f"Crashes: {len(numbers)} versions, {len(acknowledged)} of them told of, in {CRASH_ROUNDS} crashes"
    measured(f"{told}; at a start {finished} were finished and {abandoned} abandoned")
    assert finished + abandoned > 0  # else no crash hit a publication, and this proved nothing


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stopped_server_lets_its_job_go_on_at_the_next_start(make_server: MakeServer, uninterrupted: str) -> None:
    server = make_server(anew=True, drain_timeout_s="20")
    ends: list[float] = []
    seen: list[int] = []
    with server.client() as client:
        job_id = submit(client, LONG)
        in_the_middle(client, job_id)

        def follow() -> None:
            seen.extend(event["id"] for event in stream(client, job_id, 0))
            ends.append(time.monotonic())

        follower = threading.Thread(target=follow)
        follower.start()
        wait_for(lambda: len(seen) > 5)
        assert server.process is not None
        fork_server = set(server.descendants())
        told = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)  # a second one changes nothing
        status = server.process.wait(30)
        stopped = time.monotonic()
        follower.join(5)

    assert status == 0
    assert stopped - told < 20
    assert ends[0] - told < 3
    assert not server.living_workers()
    assert not any(Path(f"/proc/{pid}").exists() for pid in fork_server)

    server.start()
    with server.client() as client:
        job = succeeded(client, job_id)
        assert [attempt["state"] for attempt in job["attempts"]] == ["stopped", "succeeded"]
        assert job["attempts"][1]["resumed_from_step"] > 0
        assert weights_of(client, job) == uninterrupted
        seen += [event["id"] for event in stream(client, job_id, seen[-1])]
        assert seen == [event["id"] for event in all_events(client, job_id)]
    assert server.stop() == 0
    assert not server.living_workers()


def test_a_second_server_on_a_store_ends_and_names_the_first(shared_server: Server) -> None:
    assert shared_server.process is not None

    second = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--store", str(shared_server.store)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert second.returncode == 5
    assert f"Another server holds this store: process {shared_server.process.pid} on " in second.stderr
    assert "Traceback" not in second.stderr


# -- jobs that are stopped --------------------------------------------------------------------------------------------


def test_a_cancelled_job_keeps_its_best_checkpoint_and_publishes_nothing(client: httpx.Client) -> None:
    body = {**LONG, "output": {"model": "cancelled"}}
    job_id, waiting = submit(client, body), submit(client, body)
    in_the_middle(client, job_id)

    assert client.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    job = ended(client, job_id)

    assert (job["state"], job["state_reason"]) == ("cancelled", "cancelled_by_user")
    kept = client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    [best] = [checkpoint for checkpoint in kept if checkpoint["kind"] == "best"]
    assert (best["step"], best["epoch"]) == tuple(
        job["metrics"]["best"]["val_loss"][name] for name in ("step", "epoch")
    )
    assert client.get("/v1/models/cancelled").status_code == 404
    assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200  # already so


def test_a_loss_that_is_not_finite_publishes_nothing(client: httpx.Client) -> None:
    body = {**examples.TRAIN, "optimizer": {"type": "SGD", "lr": 1e6}, "output": {"model": "diverged"}}

    job = ended(client, submit(client, body))

    assert (job["state"], job["error"]["code"]) == ("failed", "non_finite_loss")
    assert client.get("/v1/models/diverged").status_code == 404


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_cut_again_and_again_loses_and_doubles_nothing(client: httpx.Client) -> None:
    job_id = submit(client, {**LONG, "budget": {"epochs": 100}})
    seen: list[dict[str, Any]] = []
    for length in (1, 2, 5, 10, 10_000):
        for _, event in zip(range(length), stream(client, job_id, seen[-1]["id"] if seen else 0), strict=False):
            seen.append(event)

    assert seen == all_events(client, job_id)
    assert seen[-1]["type"] == "done"
    assert list(stream(client, job_id, seen[-1]["id"])) == []


def test_the_reader_of_a_killed_server_is_ended_by_the_next_one(make_server: Callable[..., Server]) -> None:
    """Nobody watches it any more: it would have no limit of time."""
    server = make_server()
    with server.client() as client:
        rows = "".join(f"{number},{number}\n" for number in range(400_000))
        upload = client.post("/v1/uploads", content=f"x,y\n{rows}".encode()).json()["id"]
        source = {"type": "csv", "upload": upload, "inputs": ["x"], "target": "y"}
        answer = client.post("/v1/datasets", json={"source": source}, headers={"Prefer": "wait=0"})
        [told] = wait_for(lambda: list(server.store.glob("staging/*/pid")))
        reader = os.pidfd_open(int(told.read_text()))
    signal.pidfd_send_signal(reader, signal.SIGSTOP)  # it takes as long as it likes
    server.kill()
    server.start()

    with closing(os.fdopen(reader)), server.client() as client:
        assert select.select([reader], [], [], 0)[0]
        dataset = client.get(answer.headers["location"]).json()
    assert (dataset["state"], dataset["error"]["code"]) == ("failed", "interrupted")
    assert list(server.store.glob("staging/*")) == []
