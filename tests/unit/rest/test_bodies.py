"""Bodies are parsed strictly: what is not exactly one sound JSON document is refused, with its place."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from service.errors import MalformedBody, NotFinite
from service.rest.bodies import check_finite, parse_json


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param(b'{"a": [1, -2.5, "x", true, null]}', {"a": [1, -2.5, "x", True, None]}, id="values"),
        pytest.param(b" [1] \n", [1], id="space-around"),
        pytest.param('"käse €"'.encode(), "käse €", id="utf-8"),
        pytest.param(rb'"\ud83d\ude00"', "😀", id="surrogate-pair"),
        pytest.param(b"1e308", 1e308, id="large-float"),
        pytest.param(b"1e-999", 0.0, id="underflow"),
        pytest.param(b"9" * 200, int("9" * 200), id="200-digits"),
        pytest.param(b'"NaN 1e999"', "NaN 1e999", id="words-in-a-text"),
        pytest.param(b'["[[[", "\\"[", "\\\\"]', ["[[[", '"[', "\\"], id="brackets-in-texts"),
    ],
)
def test_a_sound_document_is_read(body: bytes, value: Any) -> None:
    assert parse_json(body) == value
    assert parse_json(body, keep=True) == value


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n\t", id="only-space"),
        pytest.param(b"{}{}", id="two-documents"),
        pytest.param(b"{} x", id="trailing-text"),
        pytest.param(b'{"a": 1', id="cut-off"),
        pytest.param(b"{'a': 1}", id="single-quotes"),
        pytest.param(b'{"a": 1,}', id="trailing-comma"),
        pytest.param(b"// no\n{}", id="comment"),
        pytest.param(b"01", id="leading-zero"),
        pytest.param(b"+1", id="plus"),
        pytest.param(b"1.", id="no-digit-after-the-point"),
        pytest.param(b"0x10", id="hexadecimal"),
        pytest.param(b"True", id="python-word"),
        pytest.param(b'"\xff"', id="bad-utf-8"),
        pytest.param(b'"\xc0\x80"', id="overlong-utf-8"),
        pytest.param(b'"\xed\xa0\x80"', id="surrogate-in-utf-8"),
        pytest.param(rb'"\ud800"', id="lone-surrogate"),
        pytest.param(rb'"\udc00\ud800"', id="surrogates-the-wrong-way-round"),
        pytest.param(b'"\x00"', id="control-character"),
        pytest.param(b'"a\nb"', id="line-break-in-a-text"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte-order-mark"),
        pytest.param("{}".encode("utf-16"), id="utf-16"),
        pytest.param(b"9" * 5000, id="5000-digits"),
        pytest.param(b"[" * 1_000_000, id="a-million-brackets"),
        pytest.param(b"[" * 300 + b"]" * 300, id="300-levels"),
    ],
)
def test_what_is_not_one_sound_document_is_refused_at_once(body: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(MalformedBody) as caught:
        parse_json(body)

    assert time.perf_counter() - started < 1
    (entry,) = caught.value.errors
    assert entry.hint
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        pytest.param(b'{"a": [1, NaN]}', ["/a/1"], id="NaN"),
        pytest.param(b'{"a/b": {"c~d": -Infinity}, "e": Infinity}', ["/a~1b/c~0d", "/e"], id="infinities"),
        pytest.param(b"[1e999, [-1e999, 2]]", ["/0", "/1/0"], id="too-large-for-a-float"),
        pytest.param(b"[1" + b"0" * 308 + b".5]", [], id="just-finite"),
        pytest.param(b"[1" + b"0" * 309 + b".5]", ["/0"], id="written-out"),
        pytest.param(b"[" + b"9" * 400 + b"]", ["/0"], id="an-integer-beyond-every-float"),
        pytest.param(b"1E+400", [""], id="the-whole-body"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_with_their_places(body: bytes, pointers: list[str]) -> None:
    found: list[str] = []
    try:
        parse_json(body)
    except NotFinite as error:
        found = [entry.pointer for entry in error.errors]

    assert found == pointers


def test_many_numbers_that_are_not_finite_are_counted() -> None:
    with pytest.raises(NotFinite) as caught:
        check_finite([float("nan")] * 1000)

    assert [entry.pointer for entry in caught.value.errors] == [f"/{place}" for place in range(20)]
    assert caught.value.more == 980


@pytest.mark.parametrize(
    ("body", "names"),
    [
        pytest.param(b'{"a": 1, "a": 1}', ["a"], id="twice"),
        pytest.param(b'{"a": {"b": 1, "c": [{"d": 1, "e": 2, "d": 3}]}, "a": 1}', ["d", "a"], id="nested"),
        pytest.param(rb'{"a": 1, "\u0061": 2}', ["a"], id="escaped"),
        pytest.param(b'{"": 1, "": 2}', [""], id="without-a-name"),
    ],
)
def test_members_that_stand_twice_are_refused_in_kept_documents_only(body: bytes, names: list[str]) -> None:
    with pytest.raises(MalformedBody) as caught:
        parse_json(body, keep=True)

    assert [entry.detail for entry in caught.value.errors] == [f"{name!r} stands more than once." for name in names]
    assert parse_json(body) == json.loads(body)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_kept_documents_nest_at_most_64_levels(opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    deep = (opening * 64 + "1" + closing * 64).encode()
    deeper = (opening * 65 + "1" + closing * 65).encode()

    assert parse_json(deep, keep=True)
    assert parse_json(deeper)
    with pytest.raises(MalformedBody) as caught:
        parse_json(deeper, keep=True)
    assert caught.value.limit == {"name": "nesting", "value": 64}
