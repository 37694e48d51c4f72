"""Rows of a prediction: every wrong value is refused with its place, before any array is made."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from service.errors import BatchTooLarge, Entry, InvalidInput
from service.inference.codec import Limits, Plain, check, decode, doubles, plain, require_room, surely_within
from service.schemas.preprocessing import NumberColumn, TableRow, TextColumn
from service.schemas.versions import TensorSpec

LIMITS = Limits(rows=4096, elements=1_000_000)
TABLE = TableRow(
    columns=(NumberColumn(name="age"), TextColumn(name="city", categories=("Bern", "Uri")), NumberColumn(name="a/b"))
)


def spec(*shape: int | str, dtype: str = "float32", name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("B", *shape))


def refusal(inputs: object, *specs: TensorSpec, table: TableRow | None = None) -> tuple[str, list[tuple[str, str]]]:
    """The code of the refusal, and place and code of each mistake; each says what would be right."""
    with pytest.raises(InvalidInput) as caught:
        decode(inputs, specs=specs, table=table, limits=LIMITS)
    assert all(entry.expected or entry.hint for entry in caught.value.errors)
    return caught.value.code, [(entry.pointer, entry.code) for entry in caught.value.errors]


SHAPE, DTYPE, FINITE = "shape-mismatch", "dtype-mismatch", "not-finite"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([[True]], [("/inputs/0/0", DTYPE)], id="true"),
        pytest.param([[None]], [("/inputs/0/0", DTYPE)], id="null"),
        pytest.param([["1"]], [("/inputs/0/0", DTYPE)], id="text"),
        pytest.param([[{}]], [("/inputs/0/0", DTYPE)], id="object"),
        pytest.param([[[1]]], [("/inputs/0/0", SHAPE)], id="too-deep"),
        pytest.param([1, 2], [("/inputs/0", SHAPE), ("/inputs/1", SHAPE)], id="too-flat"),
        pytest.param([[1], [1, 2]], [("/inputs/1", SHAPE)], id="ragged"),
        pytest.param([[1, 2]], [("/inputs/0", SHAPE)], id="too-wide"),
        pytest.param([[]], [("/inputs/0", SHAPE)], id="empty-row"),
        pytest.param([{"x": 1}], [("/inputs/0", SHAPE)], id="row-is-an-object"),
        pytest.param([], [("/inputs", SHAPE)], id="no-row"),
        pytest.param([[1], [1e39]], [("/inputs/1/0", FINITE)], id="beyond-float32"),
        pytest.param([[-1e39]], [("/inputs/0/0", FINITE)], id="beyond-float32-below"),
        pytest.param([[float("inf")], [float("nan")]], [("/inputs/0/0", FINITE), ("/inputs/1/0", FINITE)], id="inf"),
        pytest.param([[10**400]], [("/inputs/0/0", FINITE)], id="an-integer-beyond-every-float"),
        pytest.param([[1], [None], [[2]]], [("/inputs/1/0", DTYPE), ("/inputs/2/0", SHAPE)], id="all-at-once"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(rows: list[Any], expected: list[tuple[str, str]]) -> None:
    assert refusal(rows, spec(1)) == (expected[0][1], expected)
    assert refusal({"x": rows}, spec(1))[1] == [(at.replace("/inputs/", "/inputs/x/"), code) for at, code in expected]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        pytest.param("abc", [("/inputs", "wrong-type")], id="a-text"),
        pytest.param({}, [("/inputs/x", "missing")], id="no-input"),
        pytest.param({"y": [], "x": []}, [("/inputs/y", "unknown-member")], id="unknown-input"),
        pytest.param({"a/b~c": [], "x": []}, [("/inputs/a~1b~0c", "unknown-member")], id="escaped-pointer"),
        pytest.param({"x": 1}, [("/inputs/x", "wrong-type")], id="not-a-list"),
    ],
)
def test_wrong_inputs_are_named(inputs: object, expected: list[tuple[str, str]]) -> None:
    assert refusal(inputs, spec(1)) == ("validation-failed", expected)


def test_a_wrong_name_in_a_row_hides_no_wrong_value() -> None:
    rows = [{"age": "old", "citi": "Bern", "a/b": 1}, {"age": 1, "city": 5, "a/b": None}]

    assert refusal(rows, spec(3), table=TABLE)[1] == [
        ("/inputs/0/citi", "unknown-member"),
        ("/inputs/0/city", "missing"),
        ("/inputs/0/age", DTYPE),
        ("/inputs/1/city", DTYPE),
        ("/inputs/1/a~1b", DTYPE),
    ]


def test_several_inputs_are_told_apart_by_name_and_have_as_many_rows() -> None:
    left, right = spec(1, name="left"), spec(2, name="right")

    first, second = decode({"left": [[1]], "right": [[2, 3]]}, specs=(left, right), table=None, limits=LIMITS)
    assert (first.numbers.tolist(), second.numbers.tolist()) == ([[1]], [[2, 3]])
    assert refusal([[1]], left, right) == ("validation-failed", [("/inputs", "wrong-type")])
    assert refusal({"left": [[1]], "right": []}, left, right) == (SHAPE, [("/inputs", SHAPE)])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int64", 1.5), ("int64", 2**63), ("int64", 1e300), ("int8", 128), ("uint8", -1), ("int32", True), ("bool", 1)],
)
def test_a_number_that_the_inputs_type_has_not_is_refused(dtype: str, value: Any) -> None:
    assert refusal([[value]], spec(1, dtype=dtype)) == (DTYPE, [("/inputs/0/0", DTYPE)])


@pytest.mark.parametrize(
    ("dtype", "value", "kind"),
    [("int64", 2**63 - 1, "i"), ("int64", 3.0, "i"), ("uint8", 255, "u"), ("bool", True, "b"), ("float64", 1e300, "f")],
)
def test_a_number_that_the_inputs_type_has_is_taken_exactly(dtype: str, value: Any, kind: str) -> None:
    (raw,) = decode([[value]], specs=(spec(1, dtype=dtype),), table=None, limits=LIMITS)

    assert raw.numbers.dtype.kind == kind
    assert raw.numbers.tolist() == [[value]]


def test_places_in_rows_with_a_shape_are_exact() -> None:
    rows = np.zeros((3, 2, 2)).tolist()
    rows[2][1][0] = 1e39
    rows[0][1] = [1]

    assert refusal(rows, spec(2, 2)) == (SHAPE, [("/inputs/0/1", SHAPE)])
    rows[0][1] = [0, 0]
    assert refusal(rows, spec(2, 2)) == (FINITE, [("/inputs/2/1/0", FINITE)])


def test_a_free_size_is_that_of_the_first_row_and_never_none() -> None:
    (raw,) = decode([[1, 2, 3], [4, 5, 6]], specs=(spec("T"),), table=None, limits=LIMITS)

    assert raw.numbers.shape == (2, 3)
    assert refusal([[1, 2], [1]], spec("T")) == (SHAPE, [("/inputs/1", SHAPE)])
    assert refusal([[], []], spec("T")) == (SHAPE, [("/inputs/0", SHAPE)])


def test_columns_are_taken_in_their_order_or_by_name() -> None:
    rows = [[41, "Bern", 0.5], {"a/b": 0.5, "city": "Paris", "age": 41}]
    (raw,) = decode(rows, specs=(spec(4),), table=TABLE, limits=LIMITS)

    assert raw.numbers.tolist() == [[41, 0.5], [41, 0.5]]
    assert raw.codes is not None
    assert raw.codes.tolist() == [[0], [-1]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param([1, 2, 3], [("/inputs/0/1", DTYPE)], id="a-number-for-a-text"),
        pytest.param(["1", "Bern", 3], [("/inputs/0/0", DTYPE)], id="a-text-for-a-number"),
        pytest.param([True, None, 3], [("/inputs/0/0", DTYPE), ("/inputs/0/1", DTYPE)], id="true-and-null"),
        pytest.param([1e39, "Bern", 3], [("/inputs/0/0", FINITE)], id="beyond-float32"),
        pytest.param([1, "Bern"], [("/inputs/0", SHAPE)], id="too-short"),
        pytest.param(5, [("/inputs/0", SHAPE)], id="no-row"),
        pytest.param({"age": 1, "city": "Uri"}, [("/inputs/0/a~1b", "missing")], id="a-column-is-missing"),
        pytest.param(
            {"age": 1, "city": "Uri", "a/b": 1, "aeg": 2}, [("/inputs/0/aeg", "unknown-member")], id="unknown-column"
        ),
        pytest.param({"age": 1, "city": "Uri", "a/b": None}, [("/inputs/0/a~1b", DTYPE)], id="null-by-name"),
    ],
)
def test_a_wrong_row_of_columns_is_refused_with_its_place(row: object, expected: list[tuple[str, str]]) -> None:
    assert refusal([row], spec(4), table=TABLE)[1] == expected


def test_a_value_that_is_missing_is_told_as_such() -> None:
    with pytest.raises(InvalidInput) as caught:
        decode([[None, None, 3]], specs=(spec(4),), table=TABLE, limits=LIMITS)

    assert [(entry.detail, entry.hint) for entry in caught.value.errors] == [
        (
            "Column 'age' has no value, and this version needs one.",
            "Send a number. Only a version that was trained with gaps in this column does without.",
        ),
        (
            "Column 'city' has no value, and this version needs one.",
            "Send a text. Only a version that was trained with gaps in this column does without.",
        ),
    ]


@pytest.mark.parametrize(
    ("rows", "name"),
    [([[1]] * 4097, "rows"), ([[0] * 1001] * 1000, "elements")],
)
def test_a_batch_beyond_a_limit_is_refused_by_name(rows: list[Any], name: str) -> None:
    with pytest.raises(BatchTooLarge) as caught:
        decode(rows, specs=(spec("N"),), table=None, limits=LIMITS)

    assert caught.value.limit is not None
    assert caught.value.limit["name"] == name
    assert caught.value.errors[0].pointer == "/inputs"


def test_an_answer_beyond_the_limit_is_refused_before_it_is_computed() -> None:
    require_room(100, outputs=(spec(100, 100),), limits=LIMITS)
    with pytest.raises(BatchTooLarge):
        require_room(101, outputs=(spec(100, 100),), limits=LIMITS)


@pytest.mark.parametrize(
    ("rows", "entry_spec", "table", "mistakes"),
    [
        pytest.param([[None] * 200] * 1000, spec(200), None, 200_000, id="cells"),
        pytest.param([[1e39] * 200] * 1000, spec(200), None, 200_000, id="too-large"),
        pytest.param([[0.5] * 200] * 1000, spec(200, dtype="int8"), None, 200_000, id="not-whole"),
        pytest.param([[]] * 4000, spec(1), None, 4000, id="rows"),
        pytest.param([[None, None, None]] * 4000, spec(4), TABLE, 12_000, id="columns"),
        pytest.param([{f"k{i}": 0 for i in range(50)}] * 1000, spec(4), TABLE, 53_000, id="names"),
    ],
)
def test_many_mistakes_are_counted_quickly_and_told_briefly(
    rows: list[Any], entry_spec: TensorSpec, table: TableRow | None, mistakes: int
) -> None:
    started = time.process_time()
    with pytest.raises(InvalidInput) as caught:
        decode(rows, specs=(entry_spec,), table=table, limits=LIMITS)

    assert time.process_time() - started < 1
    assert len(caught.value.errors) == 20
    assert len(caught.value.errors) + caught.value.more == mistakes
    assert len(json.dumps([entry.to_dict() for entry in caught.value.errors])) < 64 * 1024


def entries(inputs: object, *specs: TensorSpec, table: TableRow | None = None) -> list[Entry]:
    with pytest.raises(InvalidInput) as caught:
        decode(inputs, specs=specs, table=table, limits=LIMITS)
    return list(caught.value.errors)


@pytest.mark.parametrize(
    ("inputs", "entry_spec", "table", "at"),
    [
        pytest.param({"age": 41, "city": "Bern", "a/b": 1}, spec(4), TABLE, "/inputs", id="an-object"),
        pytest.param({"age": 41, "citi": "Bern"}, spec(4), TABLE, "/inputs", id="an-object-with-a-mistake"),
        pytest.param([41, "Bern", 90], spec(4), TABLE, "/inputs", id="columns"),
        pytest.param({"x": [41, "Bern", 90]}, spec(4), TABLE, "/inputs/x", id="columns-by-name"),
        pytest.param([1, 2, 3], spec(3), None, "/inputs", id="numbers"),
        pytest.param([1, 2, 3, 4, 5], spec("T"), None, "/inputs", id="a-free-size"),
        pytest.param(np.zeros((3, 2, 5)).tolist(), spec(3, "H", "W"), None, "/inputs", id="an-image"),
        pytest.param({"x": [[1], [2]]}, spec(2, 1), None, "/inputs/x", id="nested-by-name"),
    ],
)
def test_one_row_without_its_brackets_is_told_once(
    inputs: object, entry_spec: TensorSpec, table: TableRow | None, at: str
) -> None:
    (entry,) = entries(inputs, entry_spec, table=table)

    assert (entry.pointer, entry.code, entry.expected) == (at, SHAPE, "a list of rows")
    assert (entry.hint or "").startswith("Put the row in [ ]")


def test_free_sizes_are_told_by_their_symbols() -> None:
    image = spec(3, "H", "W")

    assert [entry.expected for entry in entries([[[[1], [2]], [[1], [2]]]], image)] == ["a list of shape [3, H, W]"]
    assert [entry.expected for entry in entries([1], spec("H", "W"))] == ["a list of shape [H, W]"]


def test_a_row_of_another_free_size_is_told_the_first_rows() -> None:
    (entry,) = entries([[1, 2], [1, 2, 3]], spec("T"))

    assert entry.detail == (
        "Here are 3 values, but 2 are expected: T is one size for all rows, and the first row has 2."
    )
    assert entry.hint is not None


@pytest.mark.parametrize("count", [3, 300, 70_000])
def test_a_list_of_numbers_becomes_the_doubles_that_python_has(count: int) -> None:
    numbers: list[Any] = [1.5, -2, 2**70] * (count // 3)
    assert doubles(numbers).tolist() == [float(number) for number in numbers]


@pytest.mark.parametrize("odd", [None, "1", [1.0], {}, 10**400], ids=lambda odd: str(odd)[:5])
def test_what_is_no_number_becomes_none(odd: Any) -> None:
    with pytest.raises(ValueError, match="odd"):
        doubles([1.0] * 500 + [odd])


PICTURE = Plain((3, 10, 10), "float32", 3.4e38, 0, 0, 100)


def test_many_plain_rows_are_the_array_that_numpy_makes_of_them() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 3, 10, 10)).tolist()
    assert np.array_equal(PICTURE.array(rows), np.array(rows))


@pytest.mark.parametrize(
    "row",
    [
        [[[0.0] * 10] * 10] * 2,
        [[[0.0] * 10] * 10] * 2 + [[[0.0] * 10] * 9],
        [[[0.0] * 10] * 10] * 2 + [[[0.0] * 10] * 9 + [[0.0] * 11]],
        [[[0.0] * 10] * 10] * 2 + [[[0.0] * 10] * 9 + [0.0]],
        [[[0.0] * 10] * 10] * 2 + [[[0.0] * 10] * 9 + [[0.0] * 9 + [[0.0]]]],
        [[[0.0] * 10] * 10] * 2 + [[[0.0] * 10] * 9 + [[0.0] * 9 + [1e39]]],
        [[[0.0] * 10] * 10] * 2 + [[[0.0] * 10] * 9 + [[0.0] * 9 + [-1e39]]],
        0.0,
    ],
    ids=["two-planes", "nine-lines", "long-line", "no-line", "too-deep", "too-large", "too-small", "no-row"],
)
def test_odd_rows_among_many_are_no_array(row: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        PICTURE.array([[[[0.0] * 10] * 10] * 3, row])


@pytest.mark.parametrize("size", [4, 1000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_surely_within(dtype: str, size: int, value: float) -> None:
    array = np.ones(size, dtype)
    array[size // 2] = value
    assert not surely_within(array)
    assert not surely_within(array, 1e30)


@pytest.mark.parametrize("size", [4, 1000])
def test_what_is_beyond_is_never_surely_within(size: int) -> None:
    array = np.zeros(size)
    array[-1] = -1e10
    assert surely_within(array)
    assert surely_within(array, 1.1e10)
    assert not surely_within(array, 0.9e10)
    array[:] = 1e300
    assert not surely_within(array, 1e299)


def test_pictures_are_read_where_they_arrive_and_small_rows_with_others() -> None:
    assert PICTURE.is_best_read_at_once(1)
    assert not PICTURE.is_best_read_at_once(1000)
    assert not Plain((4,), "float32", 3.4e38, 0, 0, 100).is_best_read_at_once(1)


ARRAYS = [
    pytest.param(np.ones((3, 2), "f4"), True, id="plain"),
    pytest.param(np.full((3, 2), 1e37), True, id="doubles-within-float32"),
    pytest.param(np.full((3, 2), 3.4e38), False, id="so-large-that-a-glance-cannot-tell"),
    pytest.param(np.full((40, 2), 1e19, "f4"), False, id="many-whose-squares-overflow"),
    pytest.param(np.ones((3, 3), "f4"), False, id="too-wide"),
    pytest.param(np.ones(2, "f4"), False, id="too-flat"),
    pytest.param(np.ones((), "f4"), False, id="no-row-at-all"),
    pytest.param(np.ones((0, 2), "f4"), False, id="no-row"),
    pytest.param(np.ones((5000, 2), "f4"), False, id="too-many"),
    pytest.param(np.array([[1, np.nan]]), False, id="nan"),
    pytest.param(np.array([[1, np.inf]] * 40), False, id="infinite"),
    pytest.param(np.full((3, 2), 1e39), False, id="beyond-float32"),
    pytest.param(np.ones((3, 2), "i8"), False, id="whole-numbers"),
    pytest.param(np.ones((3, 2), "?"), False, id="truths"),
]


@pytest.mark.parametrize(("array", "held"), ARRAYS)
def test_what_is_taken_at_a_glance_would_be_taken_when_looked_at(array: np.ndarray, held: bool) -> None:
    specs = [spec(2)]
    known = plain(specs, [None], outputs=[spec(1)], limits=LIMITS)
    assert known is not None

    assert known.holds(array) is held
    if held:
        [found] = check({"x": array}, specs=specs, limits=LIMITS)
        assert found.numbers is array
