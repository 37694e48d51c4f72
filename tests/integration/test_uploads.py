"""Uploads: raw bytes of any type, streamed, with size and digest."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable

import httpx

from tests.live import Server, send_raw
from tests.problems import assert_problem

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA)


def repr_digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def test_bytes_are_kept_with_size_and_digest_until_they_are_deleted(client: httpx.Client) -> None:
    answer = client.post("/v1/uploads", content=DATA, headers={"Content-Type": "image/png"})
    kept = answer.json()

    assert answer.status_code == 201
    assert re.fullmatch("up_[0-9a-f]{32}", kept["id"])
    assert (kept["size_bytes"], kept["digest"]) == (len(DATA), "sha256:" + SHA256.hexdigest())
    assert answer.headers["location"] == f"/v1/uploads/{kept['id']}"
    assert client.get(answer.headers["location"]).json() == kept
    assert client.get("/v1/uploads").json()["data"][0] == kept

    assert client.delete(answer.headers["location"]).status_code == 204
    assert_problem(client.get(answer.headers["location"]), 404, "not-found", pointer="/path/upload_id")
    assert_problem(client.delete(answer.headers["location"]), 404, "not-found")


def test_no_content_type_is_needed_and_a_stream_without_length_is_taken(client: httpx.Client) -> None:
    answer = client.post("/v1/uploads", content=(DATA[start : start + 1000] for start in range(0, len(DATA), 1000)))

    assert answer.status_code == 201
    assert answer.json()["digest"] == "sha256:" + SHA256.hexdigest()


def test_the_digest_is_checked_when_it_is_sent(client: httpx.Client) -> None:
    right = client.post("/v1/uploads", content=DATA, headers={"Repr-Digest": repr_digest(DATA)})
    among_others = client.post("/v1/uploads", content=DATA, headers={"Repr-Digest": f"md5=:x:, {repr_digest(DATA)}"})
    wrong = client.post("/v1/uploads", content=DATA[1:], headers={"Repr-Digest": repr_digest(DATA)})

    assert (right.status_code, among_others.status_code) == (201, 201)
    assert_problem(wrong, 422, "digest-mismatch", pointer="/header/repr-digest")


def test_a_form_is_no_file(client: httpx.Client) -> None:
    form = client.post("/v1/uploads", files={"file": ("x.csv", b"x,y\n1,2\n")})
    typed = client.post(
        "/v1/uploads", content=b"x,y1,2", headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    )

    for answer in (form, typed):
        problem = assert_problem(answer, 415, "unsupported-media-type", pointer="/header/content-type")
        assert "curl --data-binary @x.csv" in problem["errors"][0]["hint"]


def test_nothing_and_compressed_bytes_are_refused(client: httpx.Client) -> None:
    assert_problem(client.post("/v1/uploads", content=b""), 422, "validation-failed")
    assert_problem(
        client.post("/v1/uploads", content=DATA, headers={"Content-Encoding": "gzip"}), 415, "unsupported-encoding"
    )


def test_an_upload_that_is_announced_too_large_is_refused_before_it_comes(shared_server: Server) -> None:
    request = b"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 2147483649\r\n\r\n"
    status, body = send_raw(shared_server, request)

    assert status == 413
    assert json.loads(body)["limit"] == {"name": "body_bytes", "value": 2**31}


def test_an_upload_that_the_disk_has_no_room_for_is_refused_before_it_comes(make_server: Callable[..., Server]) -> None:
    server = make_server(max_upload_bytes=str(2**60))
    status, body = send_raw(server, b"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % 2**59)

    assert (status, json.loads(body)["code"]) == (507, "store-full")
    assert list(server.store.glob("staging/*")) == []
