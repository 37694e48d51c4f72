"""Probes answer without a store, in GET and HEAD; readiness fails first when the server drains."""

from __future__ import annotations

import re

import httpx
import pytest

from service import __version__
from service.rest.auth import ACCESS


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
