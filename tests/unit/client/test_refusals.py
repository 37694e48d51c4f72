"""One class for each type of problem, so that an except clause can name any of them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from service import client, errors
from service.cli import exits
from service.cli.session import exit_code
from service.client import Client, Retry
from service.client.refusals import by_code, of_problem
from service.errors import ServiceError
from service.rest import problems

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "errors.md"
CATALOGUE = problems.catalogue()
OF_HTTP = {
    "bad-request": client.BadRequest,
    "method-not-allowed": client.MethodNotAllowed,
    "request-timeout": client.RequestTimeout,
    "misdirected-request": client.MisdirectedRequest,
    "headers-too-large": client.HeadersTooLarge,
}


def raised(code: str) -> ServiceError:
    """The exception that a client makes of an answer with a problem."""
    status, sentence = CATALOGUE[code]
    return of_problem({"type": f"/problems/{code}", "code": code, "status": status, "detail": sentence})


def test_each_problem_of_the_reference_has_a_class_that_no_other_has() -> None:
    table = PAGE.read_text().split("\n## Problem codes\n")[1].split("\n## ")[0]
    codes = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    kinds = [type(raised(code)) for code in codes]

    assert sorted(codes) == sorted(CATALOGUE)
    assert [(one.__name__, kinds.count(one)) for one in kinds if kinds.count(one) > 1] == []
    assert ServiceError not in kinds
    assert client.RequestRefused not in kinds


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_each_class_can_be_imported_and_has_the_code_that_it_stands_for(code: str) -> None:
    kind = type(raised(code))

    assert kind is by_code()[code]
    assert kind.code == code
    assert getattr(client if kind.__module__.startswith("service.client") else errors, kind.__name__) is kind


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_an_except_clause_of_before_still_catches(code: str) -> None:
    """What only HTTP knows was `RequestRefused`, a bug `ServiceError`; the exits of the command are the same."""
    found = raised(code)

    assert isinstance(found, ServiceError)
    assert isinstance(found, client.RequestRefused) == (code in OF_HTTP)
    if code in OF_HTTP:
        assert type(found) is OF_HTTP[code]
        assert exit_code(found) == exits.INVALID
    if code == "internal":
        assert type(found) is client.InternalError
        assert exit_code(found) == exits.FAILURE


def test_a_code_of_a_later_release_is_told_as_it_came() -> None:
    found = of_problem({"code": "moon-phase", "status": 400, "detail": "The moon is full."})

    assert (type(found), found.code, str(found)) == (client.RequestRefused, "moon-phase", "The moon is full.")


def test_what_is_to_be_done_about_several_mistakes_is_said_once() -> None:
    gap = {"code": "missing-value", "detail": "A value is missing.", "hint": "Fill it in."}
    other = {"code": "wrong-type", "detail": "This is no number.", "pointer": "/c", "hint": "Send a number."}
    mistakes = [{**gap, "pointer": "/a"}, {**gap, "pointer": "/b"}, other]
    found = of_problem({"code": "validation-failed", "detail": "Three are wrong.", "errors": mistakes})

    assert str(found).splitlines() == [
        "Three are wrong.",
        "/a: A value is missing. Fill it in.",
        "/b: A value is missing.",
        "/c: This is no number. Send a number.",
    ]
    assert [entry.hint for entry in found.errors] == ["Fill it in.", "Fill it in.", "Send a number."]


@pytest.mark.parametrize("code", [*OF_HTTP, "internal"])
def test_a_call_raises_the_class(code: str) -> None:
    status, sentence = CATALOGUE[code]
    body = {"code": code, "status": status, "detail": sentence}
    answer = httpx.Response(status, json=body, headers={"content-type": problems.MEDIA_TYPE, "x-request-id": "7"})
    transport = httpx.MockTransport(lambda request: answer)
    with (
        Client("http://127.0.0.1:8000", transport=transport, retry=Retry(attempts=1)) as asking,
        pytest.raises(by_code()[code], match=re.escape(sentence)) as caught,
    ):
        asking.models.list()

    assert caught.value.__notes__ == ["Request id: 7"]
