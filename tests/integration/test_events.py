"""Events over HTTP: pages, and streams that replay, follow, end with `done`, and let a stopping server go."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from service.schemas import examples
from tests.live import Server, run_job

LONG = {**examples.TRAIN, "budget": {"epochs": 1_000_000}, "output": {"model": "streamed"}}


@contextmanager
def stream(
    client: httpx.Client, path: str, **headers: str
) -> Iterator[tuple[httpx.Response, Iterator[ServerSentEvent]]]:
    sent = {"Accept": "text/event-stream"} | {name.replace("_", "-"): value for name, value in headers.items()}
    with client.stream("GET", path, headers=sent) as answer:
        yield answer, EventSource(answer).iter_sse()


@pytest.fixture(scope="module")
def job(shared_server: Server) -> dict[str, Any]:
    """A job that has succeeded."""
    with shared_server.client() as client:
        return run_job(client, examples.CLASSIFY)


def test_a_page_has_the_whole_life_of_a_job(client: httpx.Client, job: dict[str, Any]) -> None:
    events = client.get(f"/v1/jobs/{job['id']}/events").json()["data"]

    states = [event["data"]["state"] for event in events if event["type"] == "state"]
    assert states == ["queued", "starting", "running", "succeeded"]
    assert events[-1]["type"] == "done"
    assert events[-1]["data"]["output"]["model"] == "clouds"
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    assert {event["job_id"] for event in events} == {job["id"]}


def test_pages_follow_each_other(client: httpx.Client, job: dict[str, Any]) -> None:
    whole = client.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    found: list[Any] = []
    url: str | None = f"/v1/jobs/{job['id']}/events?limit=2"
    while url is not None:
        page = client.get(url)
        found += page.json()["data"]
        url = page.links["next"]["url"] if "next" in page.links else None

    assert found == whole


def test_a_stream_replays_what_happened_and_ends_with_done(client: httpx.Client, job: dict[str, Any]) -> None:
    path = f"/v1/jobs/{job['id']}/events"
    page = client.get(path).json()["data"]
    with stream(client, path) as (answer, events):
        sent = list(events)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
    assert [event.json() for event in sent] == page
    assert [(event.id, event.event) for event in sent] == [(str(each["id"]), each["type"]) for each in page]


def test_a_stream_goes_on_after_the_last_event_that_was_seen(client: httpx.Client, job: dict[str, Any]) -> None:
    path = f"/v1/jobs/{job['id']}/events"
    page = client.get(path).json()["data"]
    with stream(client, path, Last_Event_ID=str(page[1]["id"])) as (_, events):
        rest = list(events)
    with stream(client, path, Last_Event_ID=str(page[-1]["id"])) as (_, events):
        nothing = list(events)
    with stream(client, path, Last_Event_ID="not-an-id") as (_, events):
        everything = list(events)

    assert [event.json() for event in rest] == page[2:]
    assert nothing == []
    assert [event.json() for event in everything] == page


def test_a_stream_follows_a_running_job(client: httpx.Client, shared_server: Server) -> None:
    job = client.post("/v1/jobs", json=LONG).json()
    with stream(client, f"/v1/jobs/{job['id']}/events") as (_, events), shared_server.client() as other:
        seen = [next(events)]
        while seen[-1].event not in ("progress", "metrics"):
            seen.append(next(events))
        other.post(f"/v1/jobs/{job['id']}/cancel")
        seen += list(events)

    assert seen[-1].event == "done"
    assert seen[-1].json()["data"]["state"] == "cancelled"
    ids = [int(event.id) for event in seen]
    assert ids == sorted(set(ids))


def test_one_stream_tells_of_the_states_of_all_jobs_and_everything_of_one(
    client: httpx.Client, shared_server: Server
) -> None:
    with stream(client, "/v1/events?topics=jobs") as (_, events), shared_server.client() as other:
        job = run_job(other, examples.IMPORT)
        seen: list[Any] = []
        while not seen or seen[-1]["type"] != "done":
            seen.append(next(events).json())
    with stream(client, f"/v1/events?topics=job:{job['id']}", Last_Event_ID="0") as (_, events):
        of_one: list[Any] = []
        while not of_one or of_one[-1]["type"] != "done":
            of_one.append(next(events).json())

    assert {event["type"] for event in seen} == {"state", "done"}
    assert seen[-1]["job_id"] == job["id"]
    assert of_one == client.get(f"/v1/jobs/{job['id']}/events").json()["data"]


def test_a_stream_of_a_job_that_is_deleted_ends(make_server: Callable[..., Server]) -> None:
    """Cancelled and deleted between two looks at it: by then its events are gone, the last one too."""
    server = make_server(job_slots="1")
    with server.client() as client, ExitStack() as open_streams:
        client.post("/v1/jobs", json=LONG)  # the others wait behind it
        ended: list[bytes] = []
        for _ in range(8):
            job = client.post("/v1/jobs", json=LONG).json()["id"]
            lines = [open_streams.enter_context(listening(server, f"/v1/jobs/{job}/events")) for _ in range(12)]
            for line in lines:
                while b"queued" not in line.recv(65536):
                    pass
            assert client.post(f"/v1/jobs/{job}/cancel").status_code in (200, 202)
            assert client.delete(f"/v1/jobs/{job}").status_code == 204
            ended += [b"".join(iter(partial(line.recv, 65536), b""))[-5:] for line in lines]
        errors = [line for line in client.get("/metrics").text.splitlines() if "internal_errors_total" in line]

    assert ended == [b"0\r\n\r\n"] * 96
    assert [line.rpartition(" ")[2] for line in errors if not line.startswith("#")] in ([], ["0.0"])


def listening(server: Server, path: str) -> socket.socket:
    """A connection that has asked for a stream and goes when that has ended."""
    address = urlsplit(server.url)
    line = socket.create_connection((address.hostname or "", address.port or 0), timeout=20)
    head = ["Host: x.localhost", "Accept: text/event-stream", "Connection: close"]
    line.sendall("\r\n".join([f"GET {path} HTTP/1.1", *head, "", ""]).encode())
    return line
