"""`${…}`: Python's own arithmetic over a whitelist, and nothing else."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.schemas.expressions import MAX_LENGTH, Refused, is_constant, read

SCOPE: dict[str, Any] = {"n": 3, "half": 0.5, "on": True, "sizes": [64, 128, [1, 2]]}


def value(text: str, **scope: Any) -> Any:
    return read("${" + text + "}").value({**SCOPE, **scope})


def refusal(text: str) -> Refused:
    with pytest.raises(Refused) as caught:
        value(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("n * 4 + 1", 13),
        ("-n // 2", -2),
        ("7 % n", 1),
        ("half * 2", 1.0),
        ("n != 1 or 1 // 0 == 0", True),
        ("not on", False),
        ("1 < n < 5", True),
        ("n if on else 0", 3),
        ("sizes[1]", 128),
        ("sizes[-1][0]", 1),
        ("sizes[n - 2]", 128),
        ("len(sizes)", 3),
        ("sizes", [64, 128, [1, 2]]),
        ("0 or n", 3),
    ],
)
def test_an_expression_amounts_to_what_python_says(text, expected):
    assert value(text) == expected
    assert type(value(text)) is type(expected)


def test_spaces_around_an_expression_do_not_matter():
    assert read(" ${ n } ").value(SCOPE) == 3


_NAMES = st.sampled_from(["a", "b", "c"])
_NUMBERS = st.integers(0, 40).map(str) | st.sampled_from(["0.5", "2.0", "True", "False"])
_EXPRESSIONS = st.recursive(
    _NAMES | _NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%", "<", "<=", ">", ">=", "==", "!="]), inner).map(
            lambda parts: "({} {} {})".format(*parts)
        )
        | st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: "({} {} {})".format(*parts))
        | inner.map(lambda text: f"(-{text})")
        | inner.map(lambda text: f"(not {text})")
        | st.tuples(inner, inner, inner).map(lambda parts: "({} if {} else {})".format(*parts))
    ),
    max_leaves=8,
)
_VALUES = st.integers(-100, 100) | st.booleans() | st.sampled_from([0.25, -1.5, 3.0])


@given(_EXPRESSIONS, st.tuples(_VALUES, _VALUES, _VALUES))
def test_expressions_agree_with_python(text, values):
    scope = dict(zip("abc", values, strict=True))
    assume(len(text) <= MAX_LENGTH)
    expression = read("${" + text + "}")
    try:
        expected = eval(text, {}, dict(scope))  # noqa: S307 - Python's answer to compare with
    except ZeroDivisionError:
        with pytest.raises(Refused, match="division by zero"):
            expression.value(scope)
        return

    found = expression.value(scope)

    assert found == expected
    assert type(found) is type(expected)


@given(st.text(max_size=80) | st.text("0123456789.eExn+-*/%()[],<>=! _andorit", max_size=60))
def test_any_text_is_computed_or_refused(text):
    with suppress(Refused):
        value(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("2 ** 64", "expression-invalid"),
        ("1 / 2", "expression-invalid"),
        ("n.real", "expression-invalid"),
        ("__import__", "expression-invalid"),
        ("len('x')", "expression-invalid"),
        ("open(n)", "expression-invalid"),
        ("[n, n]", "expression-invalid"),
        ("sizes[0:1]", "expression-invalid"),
        ("n is n", "expression-invalid"),
        ("lambda: 1", "expression-invalid"),
        ("(n := 1)", "expression-invalid"),
        ("~n", "expression-invalid"),
        ("None", "expression-invalid"),
        ("1j", "expression-invalid"),
        ("0x10", "expression-invalid"),
        ("", "syntax"),
        ("n +", "syntax"),
        ("1; 2", "expression-invalid"),
        ("(" * 100 + "n" + ")" * 100, None),
        ("- " * 60 + "n", "too-large"),
        ("n + " * MAX_LENGTH + "n", "too-large"),
        ("sizes + 1", "wrong-type"),
        ("sizes == sizes", "wrong-type"),
        ("n[0]", "wrong-type"),
        ("len(n)", "wrong-type"),
        ("sizes[on]", "wrong-type"),
        ("sizes[3]", "out-of-range"),
        ("n // 0", "out-of-range"),
        ("n % (1 - 1)", "out-of-range"),
        ("9007199254740991 * 2", "out-of-range"),
        ("1e39", "out-of-range"),
        ("1e38 * 1e38", "out-of-range"),
        ("nn + 1", "unknown-parameter"),
    ],
)
def test_what_is_not_in_the_language_is_refused(text, code):
    if code is None:
        assert value(text) == 3  # parentheses alone nest nothing
        return
    assert refusal(text).code == code


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(Refused) as caught:
        read("${hiden * 2}").value({"hidden": 4})

    assert caught.value.detail == "`hiden` is not known here."
    assert caught.value.hint == "Did you mean 'hidden'?"


@pytest.mark.parametrize("text", ["x${n}", "${n}x", "${n} + ${n}", "${n", "${${n}}"])
def test_an_expression_is_the_whole_of_its_text(text):
    with pytest.raises(Refused):
        read(text)


@pytest.mark.parametrize("good", [1, 0.5, True, [], [1, 2], [[1, 2], [3, 4]], [1, [2, False]]], ids=repr)
def test_a_name_stands_for_numbers_booleans_and_lists_of_them(good):
    assert is_constant(good)


@pytest.mark.parametrize(
    "bad", ["1", None, {}, [None], ["a"], [[[1]]], float("nan"), 2**60, [0] * 1_025], ids=lambda v: repr(v)[:20]
)
def test_a_name_stands_for_nothing_else(bad):
    assert not is_constant(bad)
