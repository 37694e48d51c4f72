"""The one assertion about error answers: application/problem+json (RFC 9457) with places, faults and remedies."""

from __future__ import annotations

import re
from typing import Any

import httpx

MAX_BYTES = 64 * 1024
"""No refusal is larger, whatever was sent."""


def assert_problem(
    answer: httpx.Response, status: int, code: str, *, pointer: str | None = None, entry: str | None = None
) -> dict[str, Any]:
    """The answer is this problem, in the one shape; `pointer` and `entry` (its code) are those of some mistake."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body: dict[str, Any] = answer.json()
    members = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors", "more", "limit"}
    if answer.request.url.path.startswith("/v2"):  # whose clients read it
        members.add("error")
        assert body["error"]
    assert set(body) <= members
    assert body["code"] == code, body
    assert body["type"] == f"/problems/{code}"
    assert body["title"] == code.replace("-", " ").capitalize()
    assert body["status"] == status
    assert body["instance"] == answer.request.url.path
    assert body["request_id"] == answer.headers["x-request-id"]
    assert_sentence(body["detail"])
    assert len(answer.content) <= MAX_BYTES
    assert 1 <= len(body["errors"]) <= 20
    for found in body["errors"]:
        assert_entry(found)
    if pointer is not None:
        assert pointer in [found["pointer"] for found in body["errors"]], body["errors"]
    if entry is not None:
        assert entry in [found["code"] for found in body["errors"]], body["errors"]
    return body


def assert_entry(found: dict[str, Any]) -> None:
    """A mistake has its place, a code, a sentence, and what to do about it."""
    assert set(found) <= {"pointer", "code", "detail", "layer", "hint", "expected", "got"}
    assert re.fullmatch(r"(/([^/~]|~0|~1)*)*", found["pointer"]), found
    assert re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", found["code"]), found
    assert_sentence(found["detail"])
    assert found.get("hint") or found.get("expected"), found
    assert len(found.get("got", "")) <= 64


def assert_sentence(text: str) -> None:
    """Words for a person: a capital or a name first, a full stop last, nothing of our insides."""
    assert text.endswith((".", "?")), text
    assert len(text) <= 1000, text
    assert not re.search(r"Traceback|\.py\b|0x[0-9a-f]{6}|/tmp/|/home/|/root/", text), text
