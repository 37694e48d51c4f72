"""Probes answer without a store, in GET and HEAD; readiness fails first when the server drains."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from service import __version__
from service.rest.auth import ACCESS
from tests.live import Server, wait_for
from tests.problems import assert_sentence


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", "alive"), ("/startupz", "started"), ("/readyz", "ready")], ids=str
)
def test_a_probe_answers_get_and_head(client: httpx.Client, path: str, status: str) -> None:
    got = client.get(path)
    head = client.head(path)

    assert (got.status_code, got.json()) == (200, {"status": status})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert got.headers["cache-control"] == "no-store"


def test_the_version_says_what_runs(client: httpx.Client) -> None:
    found = client.get("/version").json()

    assert found["version"] == __version__
    assert set(found) == {"version", "python", "torch", "api", "architecture_schema"}


def test_metrics_have_no_labels_of_clients(client: httpx.Client) -> None:
    client.get("/v1/models/no-such-model-zzz")
    client.get("/no-such-path-zzz")
    found = client.get("/metrics")

    assert found.headers["content-type"].startswith("text/plain")
    assert "zzz" not in found.text
    routes = set(re.findall(r'route="([^"]*)"', found.text))
    assert "/v1/models/{name}" in routes
    assert routes <= {"unknown", *(key.partition(" ")[2] for key in ACCESS)}


def test_the_root_leads_to_a_page_that_answers(client: httpx.Client) -> None:
    answer = client.get("/")

    assert answer.is_redirect
    assert client.get(answer.headers["location"]).status_code == 200


def test_a_draining_server_is_alive_but_not_ready(make_server: Callable[..., Server]) -> None:
    server = make_server(drain_delay_s="1.5")
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
