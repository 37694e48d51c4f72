"""An Idempotency-Key makes a repeated request act once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.schemas import examples
from tests.live import Server
from tests.problems import assert_problem

INLINE = {"source": {"type": "inline", "inputs": [[1, 2], [3, 4]]}}
ROUTES = pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        pytest.param("/v1/jobs", examples.IMPORT, {**examples.IMPORT, "seed": 5}, id="jobs"),
        pytest.param("/v1/datasets", INLINE, {**INLINE, "name": "other"}, id="datasets"),
    ],
)


def send(client: httpx.Client, path: str, body: Any, key: str) -> httpx.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": key})


@ROUTES
def test_the_same_request_gets_the_first_answer(client: httpx.Client, path: str, body: Any, other: Any) -> None:
    key = uuid4().hex
    first, again = send(client, path, body, key), send(client, path, body, key)

    assert again.json()["id"] == first.json()["id"]
    assert (again.status_code, again.headers["location"]) == (first.status_code, first.headers["location"])
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"


@ROUTES
def test_another_body_under_the_key_is_refused(client: httpx.Client, path: str, body: Any, other: Any) -> None:
    key = uuid4().hex
    send(client, path, body, key)

    assert_problem(send(client, path, other, key), 422, "idempotency-mismatch", pointer="/header/idempotency-key")


@ROUTES
def test_another_key_acts_again(client: httpx.Client, path: str, body: Any, other: Any) -> None:
    first, again = send(client, path, body, uuid4().hex), send(client, path, body, uuid4().hex)

    assert again.json()["id"] != first.json()["id"]


@ROUTES
def test_a_refused_request_does_not_take_its_key(client: httpx.Client, path: str, body: Any, other: Any) -> None:
    key = uuid4().hex
    wrong = json.loads(json.dumps(body).replace("[[1, 2], [3, 4]]", '[[1, 2], [3, "x", 4]]'))
    if wrong == body:
        wrong["output"]["model"] = "stats"
    refused = send(client, path, wrong, key)

    assert_problem(refused, 422, refused.json()["code"])
    assert send(client, path, body, key).is_success


def test_a_file_that_was_refused_when_it_was_read_does_not_take_its_key(client: httpx.Client) -> None:
    key = uuid4().hex

    def made_of(content: bytes) -> httpx.Response:
        upload = client.post("/v1/uploads", content=content).json()["id"]
        return send(client, "/v1/datasets", {"source": {"type": "csv", "upload": upload, "target": "y"}}, key)

    assert_problem(made_of(b"x,y\n1,2\n3\n"), 422, "dataset-refused")
    mended = made_of(b"x,y\n1,2\n3,4\n")

    assert (mended.status_code, mended.json()["rows"]) == (201, 2)


@ROUTES
def test_the_same_key_counts_for_each_route_alone(client: httpx.Client, path: str, body: Any, other: Any) -> None:
    key = uuid4().hex

    assert send(client, "/v1/jobs", examples.IMPORT, key).is_success
    assert send(client, "/v1/datasets", INLINE, key).is_success


@ROUTES
def test_simultaneous_requests_act_once(shared_server: Server, path: str, body: Any, other: Any) -> None:
    key = uuid4().hex
    with shared_server.client() as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: send(client, path, body, key), range(8)))

    assert {answer.status_code for answer in answers} <= {201, 202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.is_success}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert_problem(answer, 409, "conflict")
            assert int(answer.headers["retry-after"]) >= 1
