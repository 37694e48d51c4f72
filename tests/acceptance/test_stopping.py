"""A server that is told to stop: not ready first, its streams whole, its end clean."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from tests.live import Server, wait_for
from tests.long_jobs import LONG
from tests.problems import assert_sentence


@contextmanager
def stream(
    client: httpx.Client, path: str, **headers: str
) -> Iterator[tuple[httpx.Response, Iterator[ServerSentEvent]]]:
    sent = {"Accept": "text/event-stream"} | {name.replace("_", "-"): value for name, value in headers.items()}
    with client.stream("GET", path, headers=sent) as answer:
        yield answer, EventSource(answer).iter_sse()


@pytest.mark.parametrize("busy", [True, False], ids=["with a job", "with nothing to tell"])
def test_a_stopping_server_ends_its_streams_promptly_and_whole(make_server: Callable[..., Server], busy: bool) -> None:
    """A stream that is cut raises in `follow`, and leaves an error in the server's log."""
    server = make_server(anew=True)
    opened: list[str] = []
    ended: list[float] = []

    def follow(path: str) -> None:
        with server.client() as client, stream(client, path) as (_, events):
            opened.append(path)
            for _event in events:
                pass
        ended.append(time.monotonic())

    paths = ["/v1/events"] * 8
    if busy:
        with server.client() as client:
            job = client.post("/v1/jobs", json=LONG).json()
            wait_for(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running")
        paths[4:] = [f"/v1/jobs/{job['id']}/events"] * 4
    threads = [Thread(target=follow, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
        time.sleep(0.07)  # so that each looks whether it should end at another moment
    wait_for(lambda: len(opened) == len(paths))
    started = time.monotonic()

    assert server.stop() == 0
    for thread in threads:
        thread.join(10)
    assert len(ended) == 8
    assert max(ended) - started < 3
    levels = [json.loads(line)["level"] for line in server.log.read_text().splitlines()]
    assert "error" not in levels


def test_a_draining_server_is_alive_but_not_ready(make_server: Callable[..., Server]) -> None:
    server = make_server(anew=True, drain_delay_s="1.5")
    with server.client() as client:
        assert client.get("/readyz").status_code == 200
        assert server.process is not None
        server.process.terminate()
        answer = wait_for(lambda: (found := client.get("/readyz")).status_code != 200 and found)

        assert answer.status_code == 503
        assert answer.json()["code"] == "draining"
        assert_sentence(answer.json()["detail"])
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/models").status_code == 200
    assert server.stop() == 0


def test_what_a_server_has_forked_outlives_neither_its_lock_nor_its_port(make_server: Callable[..., Server]) -> None:
    """The fork server is forked before the server opens anything, so no worker can hold what the next server needs."""
    server = make_server(anew=True, job_attempts="1")
    with server.client() as client:
        job = client.post("/v1/jobs", json=LONG).json()
        wait_for(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running")
        fork_server, worker = server.descendants()
        held = {str(each.readlink()) for each in Path(f"/proc/{worker}/fd").iterdir()}
        own = tuple(str(server.store / folder) for folder in ("jobs", "datasets"))
        assert {name for name in held if not name.startswith(own)} <= {os.devnull}
        assert len(list(Path(f"/proc/{fork_server}/task").iterdir())) == 1

        os.kill(fork_server, signal.SIGKILL)
        again = client.post("/v1/jobs", json=LONG).json()  # waits for a slot
        assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
        wait_for(lambda: client.get(f"/v1/jobs/{again['id']}").json()["state"] == "running")  # from another fork server
        assert fork_server not in server.descendants()

    server.port = int(server.url.rpartition(":")[2])
    server.kill()
    server.start()  # at the same port and store, while the worker goes on

    assert server.stop() == 0
