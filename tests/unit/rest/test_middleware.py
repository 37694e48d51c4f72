"""What is around every request: an id, harmless headers, the host check, and the last catch."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse

from service.rest import problems
from service.rest.middleware import Hosts, Observe
from service.telemetry import Metrics


def app(metrics: Metrics, *hosts: str) -> FastAPI:
    found = FastAPI()

    @found.get("/livez")
    @found.get("/fine")
    async def fine() -> str:
        return "fine"

    @found.get("/own")
    async def own() -> Response:
        return Response(headers={"Content-Security-Policy": "default-src 'self'", "Cache-Control": "max-age=60"})

    @found.get("/bug")
    async def bug() -> str:
        raise RuntimeError("secret of the inside, /srv/store")

    @found.get("/late")
    async def late() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"so far"
            raise RuntimeError("too late")

        return StreamingResponse(body())

    problems.install(found)
    found.add_middleware(Observe, metrics=metrics, hosts=Hosts(hosts or ("*",)))
    return found


def get(application: FastAPI, path: str, base: str = "http://yard.example", **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.get(path, headers=headers)

    return anyio.run(ask)


def test_a_bug_is_answered_counted_and_told_nobody_but_the_log() -> None:
    metrics = Metrics()
    answer = get(app(metrics), "/bug")

    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json() == {
        "type": "/problems/internal",
        "title": "Internal",
        "status": 500,
        "detail": problems.FRAMEWORK[500][1],
        "instance": "/bug",
        "code": "internal",
        "request_id": answer.headers["x-request-id"],
    }
    assert metrics.registry.get_sample_value("modelyard_internal_errors_total") == 1


def test_an_answer_that_has_begun_is_cut_off_by_a_bug() -> None:
    with pytest.raises(RuntimeError, match="too late"):
        get(app(Metrics()), "/late")


def test_every_answer_has_an_id_and_is_neither_sniffed_nor_stored() -> None:
    answer = get(app(Metrics()), "/fine")

    assert len(answer.headers["x-request-id"]) == 32
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "strict-transport-security" not in answer.headers


def test_a_browser_that_came_by_tls_is_told_to_come_so_again() -> None:
    answer = get(app(Metrics()), "/fine", base="https://yard.example")

    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_a_page_runs_the_scripts_that_are_in_it_and_no_others() -> None:
    answer = get(app(Metrics()), "/docs")
    scripts = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()

    assert len(scripts) == 1
    assert f"script-src 'self' 'sha256-{digest}';" in answer.headers["content-security-policy"]


def test_what_a_route_says_of_its_own_answer_stays() -> None:
    answer = get(app(Metrics()), "/own")

    assert answer.headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert answer.headers.get_list("cache-control") == ["max-age=60"]


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("yard.example", "/fine", 200),
        ("YARD.example:8000", "/fine", 200),
        ("evil.example", "/fine", 421),
        ("yard.example.evil.example", "/fine", 421),
        ("evil.example", "/livez", 200),
    ],
)
def test_only_named_hosts_are_answered_and_probes_come_by_address(host: str, path: str, status: int) -> None:
    answer = get(app(Metrics(), "yard.example"), path, Host=host)

    assert answer.status_code == status
    if status == 421:
        assert (answer.json()["code"], answer.headers["content-type"]) == (
            "misdirected-request",
            "application/problem+json",
        )


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "[::1]:8000", "[::1]", "LOCALHOST", "yard", "yard.local:80", ""])
def test_without_keys_addresses_and_names_that_nobody_owns_are_answered(host: str) -> None:
    assert Hosts(local=True).answered(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example."]
)
def test_without_keys_a_name_that_a_stranger_may_own_is_not(host: str) -> None:
    assert not Hosts(local=True).answered(host)
    assert Hosts().answered(host)
    assert Hosts((host.partition(":")[0],), local=True).answered(host)
