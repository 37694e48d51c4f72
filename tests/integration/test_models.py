"""Models, versions and aliases over HTTP: what is immutable, what changes only if it still is what was seen."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from service import keys
from service.schemas import examples
from tests.live import Server, run_job
from tests.problems import assert_problem

NAME = "aliased"
MODEL = f"/v1/models/{NAME}"
ALIAS = f"{MODEL}/aliases/champion"


@pytest.fixture(scope="module", autouse=True)
def two_versions(shared_server: Server) -> None:
    """aliased/1 and aliased/2, without an alias."""
    with shared_server.client() as client:
        for seed in (1, 2):
            run_job(client, {**examples.TRAIN, "seed": seed, "budget": {"epochs": 2}, "output": {"model": NAME}})


@pytest.fixture
def alias(client: httpx.Client) -> str:
    """The etag of champion, which points at version 1."""
    client.delete(ALIAS, headers={"If-Match": "*"})
    answer = client.put(ALIAS, json={"version": 1}, headers={"If-None-Match": "*"})
    assert answer.status_code == 201, answer.text
    return answer.headers["etag"]


def test_a_model_appears_with_its_first_version(client: httpx.Client) -> None:
    found = client.get(MODEL).json()

    assert (found["model"], found["versions"], found["latest"]) == (NAME, 2, 2)
    assert NAME in [model["model"] for model in client.get("/v1/models").json()["data"]]
    assert [version["version"] for version in client.get(f"{MODEL}/versions").json()["data"]] == [2, 1]


def test_a_version_tells_what_it_is_and_where_it_comes_from(client: httpx.Client) -> None:
    found = client.get(f"{MODEL}/versions/1").json()

    assert (found["state"], found["signature"]["inputs"][0]["shape"]) == ("ready", ["B", 1])
    assert found["lineage"]["seed"] == 1
    assert {file["name"] for file in found["files"]} >= {"architecture.json", "weights.pt", "golden.pt"}
    assert sum(file["size_bytes"] for file in found["files"]) == found["size_bytes"]
    verified = client.post(f"{MODEL}/versions/1/verify").json()
    assert verified == {"ok": True, "mismatches": []}


def test_weights_are_immutable_bytes_with_their_digest(client: httpx.Client) -> None:
    answer = client.get(f"{MODEL}/versions/1/weights")
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    weights = torch.load(io.BytesIO(answer.content), weights_only=True)
    document = client.get(f"{MODEL}/versions/1/architecture")

    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert "immutable" in answer.headers["cache-control"]
    assert "immutable" in document.headers["cache-control"]
    assert sum(tensor.numel() for tensor in weights.values()) == 31
    assert document.json()["schema"] == "arch/1"


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ("bytes=10-19", 206),
        ("bytes=10-", 206),
        ("bytes=99999999-", 200),
        ("bytes=20-10", 200),
        ("bytes=x", 200),
        ("bytes=" + ",".join(f"{i}-{i}" for i in range(1000)), 200),
        ("rows=1-2", 200),
    ],
)
def test_one_part_of_the_weights_can_be_asked_for(client: httpx.Client, wanted: str, status: int) -> None:
    whole = client.get(f"{MODEL}/versions/1/weights")
    answer = client.get(f"{MODEL}/versions/1/weights", headers={"Range": wanted})

    assert answer.status_code == status
    if status == 200:
        assert answer.content == whole.content
    else:
        assert answer.content == whole.content[10 : 20 if "19" in wanted else None]


def test_a_new_alias_is_made_only_where_none_is(client: httpx.Client, alias: str) -> None:
    again = client.put(ALIAS, json={"version": 2}, headers={"If-None-Match": "*"})

    assert_problem(again, 412, "precondition-failed", pointer="/header/if-none-match")
    assert client.get(ALIAS).json()["version"] == 1
    assert client.get(ALIAS).headers["etag"] == alias


def test_an_alias_moves_only_from_what_was_seen(client: httpx.Client, alias: str) -> None:
    blind = client.put(ALIAS, json={"version": 2})
    moved = client.put(ALIAS, json={"version": 2}, headers={"If-Match": alias})
    late = client.put(ALIAS, json={"version": 1}, headers={"If-Match": alias})

    assert_problem(blind, 428, "precondition-required", pointer="/header/if-match")
    assert (moved.status_code, moved.json()["version"]) == (200, 2)
    assert moved.headers["etag"] != alias
    assert_problem(late, 412, "precondition-failed", pointer="/header/if-match")
    assert_problem(client.delete(ALIAS), 428, "precondition-required")
    assert_problem(client.delete(ALIAS, headers={"If-Match": alias}), 412, "precondition-failed")
    assert client.delete(ALIAS, headers={"If-Match": moved.headers["etag"]}).status_code == 204


@pytest.mark.parametrize("headers", [{"If-Match": '"other"'}, {"If-None-Match": "*"}], ids=["stale", "made already"])
def test_no_version_is_loaded_for_a_change_that_comes_too_late(
    client: httpx.Client, alias: str, headers: dict[str, str]
) -> None:
    assert client.post(f"/v1/models/{NAME}/versions/2/unload").status_code == 200
    late = client.put(ALIAS, json={"version": 2}, headers=headers)
    loaded = [(one["model"], one["version"]) for one in client.get("/v1/loaded").json()["data"]]

    assert late.status_code == 412
    assert (NAME, 2) not in loaded


def test_history_tells_the_changes_and_rollback_takes_the_last_one_back(client: httpx.Client, alias: str) -> None:
    client.put(ALIAS, json={"version": 2, "reason": "better"}, headers={"If-Match": alias})
    back = client.post(f"{ALIAS}/rollback", json={"reason": "it was not"})
    history = client.get(f"{ALIAS}/history").json()["data"]

    assert back.json()["version"] == 1
    assert [(change["action"], change["previous"], change["version"], change["reason"]) for change in history[:3]] == [
        ("rollback", 2, 1, "it was not"),
        ("set", 1, 2, "better"),
        ("set", None, 1, None),
    ]
    (entry,) = assert_problem(client.post(f"{ALIAS}/rollback"), 409, "conflict")["errors"]
    assert entry["hint"] == "Its history shows where it pointed. Set it to the version that you want."


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ({"version": 99}, 404, "not-found", "/version"),
        ({"version": 0}, 422, "validation-failed", "/version"),
        ({"version": "1"}, 422, "validation-failed", "/version"),
        ({"version": 1.5}, 422, "validation-failed", "/version"),
        ({"version": True}, 422, "validation-failed", "/version"),
        ({"version": 10**20}, 422, "validation-failed", "/version"),
        ({}, 422, "validation-failed", "/version"),
        ({"version": 1, "url": "http://x"}, 422, "validation-failed", "/url"),
    ],
)
def test_a_wrong_alias_change_is_refused(
    client: httpx.Client, alias: str, body: Any, status: int, code: str, pointer: str | None
) -> None:
    assert_problem(client.put(ALIAS, json=body, headers={"If-Match": alias}), status, code, pointer=pointer)


@pytest.mark.parametrize("name", ["123", "Champion", "a." + "b" * 70])
def test_a_name_that_no_alias_may_have_is_refused(client: httpx.Client, name: str) -> None:
    answer = client.put(f"{MODEL}/aliases/{name}", json={"version": 1}, headers={"If-None-Match": "*"})

    assert_problem(answer, 422, answer.json()["code"], pointer="/path/alias")


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/1"], ids=["model", "version"])
def test_notes_and_tags_change_only_from_what_was_seen(client: httpx.Client, path: str) -> None:
    etag = client.get(path).headers["etag"]
    blind = client.patch(path, json={"notes": "x"})
    changed = client.patch(path, json={"notes": "good", "tags": {"team": "blue"}}, headers={"If-Match": etag})
    late = client.patch(path, json={"notes": "x"}, headers={"If-Match": etag})
    other = client.patch(path, json={"tags": {}}, headers={"If-Match": changed.headers["etag"]})

    assert_problem(blind, 428, "precondition-required")
    assert (changed.json()["notes"], changed.json()["tags"]) == ("good", {"team": "blue"})
    assert_problem(late, 412, "precondition-failed")
    assert (other.json()["notes"], other.json()["tags"]) == ("good", {})
    assert_problem(
        client.patch(path, json={"digest": "x"}, headers={"If-Match": "*"}), 422, "validation-failed", pointer="/digest"
    )


def test_a_version_that_an_alias_points_at_goes_only_by_force(client: httpx.Client) -> None:
    job = run_job(client, {**examples.TRAIN, "budget": {"epochs": 1}, "output": {"model": "gone"}})
    assert job["output"]["version"] == 1
    client.put("/v1/models/gone/aliases/live", json={"version": 1}, headers={"If-None-Match": "*"})

    assert_problem(client.delete("/v1/models/gone/versions/1"), 409, "version-in-use")
    assert_problem(client.delete("/v1/models/gone"), 409, "version-in-use")
    assert client.delete("/v1/models/gone/versions/1?force=true").status_code == 204
    assert_problem(client.get("/v1/models/gone/versions/1"), 404, "not-found", pointer="/path/number")
    assert_problem(client.post("/predict", json={"model": "gone", "inputs": [[1]]}), 404, "not-found", pointer="/model")
    again = run_job(client, {**examples.TRAIN, "budget": {"epochs": 1}, "output": {"model": "gone"}})
    assert again["output"]["version"] == 2
    assert client.delete("/v1/models/gone").status_code == 204
    assert_problem(client.get("/v1/models/gone"), 404, "not-found", pointer="/path/name")


def test_the_history_of_an_alias_names_the_key_that_changed_it_and_never_shows_it(
    client: httpx.Client, make_server: Callable[..., Server], alias: str
) -> None:
    made = {name: keys.make(name, keys.Scope.PUBLISH, now=datetime.now(UTC)) for name in ("ada", "bob", "cleo")}
    server = make_server(api_keys=f"[{', '.join(key.model_dump_json() for _, key in made.values())}]")
    url = "/v1/models/quadratic/aliases/live"
    with server.client() as guarded:

        def by(name: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {made[name][0]}"}

        for seed in (1, 2):
            body = {**examples.TRAIN, "seed": seed, "budget": {"epochs": 2}, "output": {"model": "quadratic"}}
            job = guarded.post("/v1/jobs", json=body, headers={**by("ada"), "Prefer": "wait=60"}).json()
            assert job["state"] == "succeeded"
        guarded.put(url, json={"version": 1}, headers={**by("ada"), "If-None-Match": "*"}).raise_for_status()
        guarded.put(url, json={"version": 2}, headers={**by("bob"), "If-Match": "*"}).raise_for_status()
        guarded.post(f"{url}/rollback", json={}, headers=by("cleo")).raise_for_status()
        guarded.delete(url, headers={**by("bob"), "If-Match": "*"}).raise_for_status()
        guarded.put(url, json={"version": 1}, headers={**by("ada"), "If-None-Match": "*"}).raise_for_status()
        guarded.delete("/v1/models/quadratic/versions/1?force=true", headers=by("cleo")).raise_for_status()
        history = guarded.get(f"{url}/history", headers=by("ada"))

    assert [(change["action"], change["by"]) for change in reversed(history.json()["data"])] == [
        *(("set", "ada"), ("set", "bob"), ("rollback", "cleo"), ("delete", "bob"), ("set", "ada"), ("delete", "cleo")),
    ]
    assert not any(text in history.text or key.sha256 in history.text for text, key in made.values())
    assert client.get(f"{ALIAS}/history").json()["data"][0]["by"] is None  # without keys nobody is known


def test_a_version_with_a_damaged_file_hides_no_other(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with server.client() as client:
        for _ in range(2):
            run_job(client, {**examples.TRAIN, "budget": {"epochs": 1}, "output": {"model": "hurt"}})
        first, second = (server.store / "models" / "hurt" / number for number in "12")
        replaced(first / "preprocessing.json", b"\x00")
        replaced(second / "architecture.json", None)
        listed = client.get("/v1/models/hurt/versions").json()["data"]
        shown = client.get("/v1/models/hurt/versions/1").json()
        refused = [client.get(f"/v1/models/hurt/{path}") for path in ("signature?version=1", "versions/2/architecture")]

    assert [(one["version"], one["preprocessing"] is None) for one in listed] == [(2, False), (1, True)]
    assert shown["preprocessing"] is None
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(503, "model-quarantined")] * 2


def replaced(path: Path, content: bytes | None) -> None:
    """A file of a version, by other content or none."""
    path.parent.chmod(0o755)
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def test_a_version_of_any_number_is_named_as_it_was_asked_for(client: httpx.Client, clouds: dict[str, Any]) -> None:
    number = "9" * 21
    found = assert_problem(client.get(f"/v1/models/clouds/signature?version={number}"), 404, "not-found")

    assert f"Version {number} of 'clouds' does not exist." in found["detail"]
