"""Every route of the application is held to its scope, and one that the table forgets is closed to everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import httpx
import orjson
import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from service import keys
from service.app import create_app
from service.keys import Guard, Scope
from service.rest.auth import ACCESS, OPEN, Authorize, Need, need_of, operations
from service.settings import Settings
from tests.problems import assert_problem

NOW = datetime.now(UTC)
IN_PATH = {
    "job_id": "job_" + "0" * 32,
    "dataset_id": "ds_" + "0" * 32,
    "upload_id": "up_" + "0" * 32,
    "digest": "sha256:" + "0" * 64,
    "number": "1",
    "version": "1",
}
MADE = {scope: keys.make(scope.word, scope, now=NOW) for scope in Scope}
EXPIRED, EXPIRED_KEY = keys.make("gone", Scope.ADMIN, now=NOW, expires=NOW - timedelta(seconds=1))


async def reached(scope: Connection, receive: Receive, send: Send) -> None:
    """In place of the routes: says which one it would be."""
    await Response(status_code=299, headers={"route": scope.get("modelyard.route", "none")})(scope, receive, send)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(Settings(store=tmp_path_factory.mktemp("access") / "store"))


@pytest.fixture(scope="module")
def guard() -> Guard:
    stored = [EXPIRED_KEY, *(key for _, key in MADE.values())]
    text = orjson.dumps([key.model_dump(mode="json") for key in stored]).decode()
    return Guard(inline=text, failures_per_minute=10**6)


def ask(app: Authorize, operation: str, **headers: str) -> httpx.Response:
    method, _, template = operation.partition(" ")
    path = re.sub(r"\{(\w+)\}", lambda found: IN_PATH.get(found[1], "x"), template)

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://yard") as client:
            return await client.request(method, path, headers={"X-Request-ID": "a", **headers})

    return anyio.run(send)


def test_every_operation_stands_in_the_table_and_the_table_has_no_others(application: FastAPI) -> None:
    there = {operation for operation, _ in operations(application)}

    assert [operation for operation in there if need_of(operation) is None] == []
    assert set(ACCESS) - there == set()


def test_only_what_tells_nothing_of_models_and_data_is_open() -> None:
    opened = [operation for operation, need in ACCESS.items() if need == OPEN]

    assert [operation for operation in opened if not operation.startswith("GET ")] == []
    assert [operation for operation in opened if "/v1/" in operation] == []


def test_every_operation_is_refused_without_a_key_of_its_scope(application: FastAPI, guard: Guard) -> None:
    app = Authorize(reached, guard=guard, routes=application)
    walked = 0
    for operation, context in operations(application):
        need = need_of(operation)
        assert need is not None
        if need == OPEN:
            assert ask(app, operation).status_code == 299, operation
            continue
        for credential, status in tried(need):
            answer = ask(app, operation, **credential)
            walked += 1

            assert answer.status_code == status, (operation, credential)
            if status == 299:
                assert answer.headers["route"] == context.path_format
                continue
            assert ("WWW-Authenticate" in answer.headers) == (status in (401, 403))
            if operation.startswith("HEAD"):
                continue
            body = answer.json()
            assert body["code"] == {401: "unauthenticated", 403: "forbidden"}[status]
            assert (need.word in body["detail"]) == (status == 403)
    assert walked > 400


def tried(need: Scope) -> Iterator[tuple[dict[str, str], int]]:
    """Credentials, and what an operation of this scope answers to them."""
    yield {}, 401
    yield {"Authorization": "Bearer msk_0123456789ab_" + "0" * 64}, 401
    yield {"X-API-Key": EXPIRED}, 401
    yield {"X-API-Key": f" {MADE[Scope.ADMIN][0]} "}, 299
    for scope, (text, _) in MADE.items():
        yield {"Authorization": f"Bearer {text}"}, 299 if scope >= need else 403


def test_a_route_that_the_table_forgets_is_closed_to_everybody(guard: Guard) -> None:
    application = FastAPI()

    @application.get("/forgotten/{name}")
    async def forgotten(name: str) -> str:
        raise AssertionError(name)

    app = Authorize(reached, guard=guard, routes=application)
    admin = {"Authorization": f"Bearer {MADE[Scope.ADMIN][0]}"}

    assert ask(app, "GET /forgotten/{name}").status_code == 401
    assert ask(app, "GET /forgotten/{name}", **admin).status_code == 403


@pytest.mark.parametrize("operation", ["GET /nowhere", "PUT /predict", "OPTIONS /v1/jobs"])
def test_what_no_route_takes_is_told_to_holders_of_keys_only(
    application: FastAPI, guard: Guard, operation: str
) -> None:
    app = Authorize(reached, guard=guard, routes=application)
    answer = ask(app, operation, **{"X-API-Key": MADE[Scope.PREDICT][0]})

    assert ask(app, operation).status_code == 401
    assert (answer.status_code, answer.headers["route"]) == (299, "none")


def test_without_keys_every_operation_is_open(application: FastAPI) -> None:
    app = Authorize(reached, guard=Guard(), routes=application)

    assert {ask(app, operation).status_code for operation, _ in operations(application)} == {299}


def test_head_needs_what_get_needs(application: FastAPI, guard: Guard) -> None:
    app = Authorize(reached, guard=guard, routes=application)
    reader, predictor = ({"X-API-Key": MADE[scope][0]} for scope in (Scope.READ, Scope.PREDICT))

    for path in ("/version", "/livez", "/ui/", "/v2/health/live", "/docs"):
        assert ask(app, f"HEAD {path}").status_code == 299, path
    for path in ("/v1/models", "/v1/jobs", "/metrics"):
        assert ask(app, f"HEAD {path}").status_code == 401, path
        assert ask(app, f"HEAD {path}", **predictor).status_code == 403, path
        assert ask(app, f"HEAD {path}", **reader).status_code == 299, path
    assert ask(app, "HEAD /predict").status_code == 401
    opened = Authorize(reached, guard=guard, routes=application, open_metrics=True)
    assert ask(opened, "HEAD /metrics").status_code == 299


def test_metrics_may_be_opened(application: FastAPI, guard: Guard) -> None:
    app = Authorize(reached, guard=guard, routes=application, open_metrics=True)

    assert ask(app, "GET /metrics").status_code == 299
    assert ask(app, "GET /v1/models").status_code == 401


def test_the_document_names_the_scope_of_every_operation(tmp_path: Path) -> None:
    _, key = keys.make("ci", Scope.READ, now=NOW)
    text = orjson.dumps([key.model_dump(mode="json")]).decode()
    guarded = create_app(Settings(store=tmp_path / "guarded", api_keys=text)).openapi()
    free = create_app(Settings(store=tmp_path / "free")).openapi()

    assert set(guarded["components"]["securitySchemes"]) == {"bearer", "header"}
    for path, found in guarded["paths"].items():
        for method, operation in found.items():
            need: Need | None = need_of(f"{method.upper()} {path}")
            if need == OPEN:
                assert operation["security"] == []
                continue
            assert need is not None
            assert operation["security"] == [{"bearer": [need.word]}, {"header": [need.word]}]
            assert {"401", "403", "429"} <= set(operation["responses"])
            assert {} in free["paths"][path][method]["security"]


def test_a_refusal_is_a_problem_with_a_remedy(application: FastAPI, guard: Guard) -> None:
    answer = httpx.Response(200)

    async def send() -> httpx.Response:
        app = Authorize(reached, guard=guard, routes=application)

        async def with_id(scope: Connection, receive: Receive, send: Send) -> None:
            scope["modelyard.request_id"] = "abc"
            await app(scope, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_id), base_url="http://yard") as client:
            return await client.delete("/v1/models/x", headers={"X-API-Key": MADE[Scope.TRAIN][0]})

    answer = anyio.run(send)
    answer.headers["x-request-id"] = "abc"
    body = assert_problem(answer, 403, "forbidden", pointer="/header/authorization")

    assert body["detail"] == "This needs the scope publish; the key 'train' has train."
    assert body["errors"][0]["hint"] == "Use a key of the scope publish."
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer realm="modelyard", error="insufficient_scope", scope="publish"'
    )
