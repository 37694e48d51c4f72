"""The API's pages work without the Internet, and the OpenAPI document tells the whole truth in examples that run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.rest import problems
from service.schemas import examples
from tests.live import run_job, wait_for

Operation = tuple[str, str, dict[str, Any]]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_and_all_that_it_loads_come_from_this_server(client: httpx.Client, page: str) -> None:
    answer = client.get(page)
    loaded = re.findall(r"""(?:src|href|url|spec-url)\s*[=:]\s*["']([^"']+)["']""", answer.text)

    assert answer.status_code == 200
    assert len(loaded) >= 3
    for address in loaded:
        assert re.match(r"/[^/]", address)
        assert client.get(address).status_code == 200
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?:https?:)?//", answer.text)
    assert not re.search(r"@import|fonts\.googleapis|cdn\.", answer.text)


def test_every_operation_has_summary_tag_and_examples(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in _operations(document):
        name = f"{method} {path}"

        assert operation["summary"], name
        assert len(operation["tags"]) == 1, name
        assert set(operation["tags"]) <= tags, name
        for media in operation.get("requestBody", {}).get("content", {}).values():
            if media["schema"] and media["schema"].get("format") != "binary":
                assert media.get("examples"), name
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                assert parameter["schema"].get("examples") or parameter.get("examples"), (name, parameter["name"])


def test_every_operation_declares_its_problems(client: httpx.Client) -> None:
    for method, path, operation in _operations(client.get("/openapi.json").json()):
        name = f"{method} {path}"
        problems = {
            status: answer
            for status, answer in operation["responses"].items()
            if status.startswith(("4", "5")) or status == "default"
        }

        assert "default" not in problems, name
        assert "500" not in problems, name
        for status, answer in problems.items():
            assert list(answer["content"]) == ["application/problem+json"], (name, status)
        if "requestBody" in operation:
            invalid = "400" if path.startswith("/v2") else "422"  # as the clients of each expect it
            assert {"400", "413", "415", invalid} <= set(problems), name
        if "{" in path:
            assert "404" in problems, name
        if path.endswith("predict"):
            assert "504" in problems, name
        if method in ("PATCH", "PUT"):
            assert {"412", "428"} <= set(problems), name


def test_every_problem_that_an_operation_can_answer_is_declared_somewhere(client: httpx.Client) -> None:
    declared = {
        int(status)
        for _, _, operation in _operations(client.get("/openapi.json").json())
        for status in operation["responses"]
    }
    raised = {status for status, _ in problems.catalogue().values()}

    # Those that come instead of an operation: no such method, too slow, another host, too large headers, a bug.
    assert raised - declared == {405, 408, 421, 431, 500}
    assert {status for status in declared if status >= 400} <= raised


def test_every_example_of_a_body_is_accepted(client: httpx.Client) -> None:
    """In an order that works: uploads, documents, data, jobs, then what needs a version."""
    document = client.get("/openapi.json").json()
    sent = 0
    client.delete("/v1/models/quadratic/aliases/champion", headers={"If-Match": "*"})
    run_job(client, examples.TRAIN)
    run_job(client, examples.TRAIN)
    for method, path, operation in sorted(_operations(document), key=_turn):
        for example in _examples(operation):
            of = _stopped_job(client) if path.endswith(("/retry", "/promote")) else _newest_job(client)
            place = path.format(name="quadratic", number=1, version="1", alias="champion", job_id=of)
            headers = {"If-Match": "*"} if method in ("PUT", "PATCH") else {}
            headers["Prefer"] = "wait=30"
            answer = client.request(method, place, json=_filled(client, example), headers=headers)
            sent += 1

            assert answer.is_success, f"{method} {place} {answer.text}"
            if path == "/v1/jobs":
                assert answer.json()["state"] == "succeeded", answer.text
            if path.endswith("/retry"):
                client.post(f"/v1/jobs/{of}/cancel")
    assert sent >= 15


def test_the_schema_of_documents_is_served_whole(client: httpx.Client) -> None:
    schema = client.get("/v1/architectures/schema").json()

    assert schema["title"] == "Architecture"
    assert "Conv2d" in schema["$defs"]


def test_no_origin_is_let_in_by_cors(client: httpx.Client) -> None:
    answer = client.get("/version", headers={"Origin": "https://example.org"})

    assert not [name for name in answer.headers if name.startswith("access-control-")]


def _operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _examples(operation: dict[str, Any]) -> list[Any]:
    media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return [example["value"] for example in media.get("examples", {}).values()]


def _turn(operation: Operation) -> int:
    path = operation[1]
    order = ("/v1/uploads", "/v1/architectures", "/v1/datasets", "/v1/jobs", "/v1/models/{name}/aliases/{alias}")
    if path.endswith("rollback"):
        return len(order) + 1
    return next((place for place, start in enumerate(order) if path.startswith(start)), len(order))


def _stopped_job(client: httpx.Client) -> str:
    """A training that was cancelled and kept its checkpoint."""
    long = {**examples.TRAIN, "budget": {"epochs": 1_000_000}, "output": {"model": "stopped"}}
    job = client.post("/v1/jobs", json=long).json()
    place = f"/v1/jobs/{job['id']}"
    wait_for(lambda: client.get(place).json()["progress"])
    client.post(f"{place}/cancel")
    wait_for(lambda: client.get(place).json()["state"] == "cancelled")
    return str(job["id"])


def _newest_job(client: httpx.Client) -> str:
    return str(client.get("/v1/jobs?limit=1").json()["data"][0]["id"])


def _filled(client: httpx.Client, example: Any) -> Any:
    """The example with the id of a real upload."""
    if example.get("source", {}).get("type") != "csv":
        return example
    upload = client.post("/v1/uploads", content=b"x,y\n1,1\n2,4\n3,9\n", headers={"Content-Type": "text/csv"}).json()
    return {**example, "source": {**example["source"], "upload": upload["id"]}}
