"""Splits by time, by a column and by row numbers, and whether rows stand on both sides."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from service.engine import data
from service.engine.leakage import leakage
from service.errors import DatasetRefused
from service.schemas.datasets import Csv, Inline, Split
from service.schemas.document import entries

UPLOAD = "up_" + "0" * 32
SPLIT: TypeAdapter[Any] = TypeAdapter(Split)


def split(**members):
    return SPLIT.validate_python(members)


@pytest.fixture
def table(tmp_path):
    """Twelve rows of measurements, not in the order of time."""
    days = [3, 1, 2, 6, 5, 4, 9, 8, 7, 12, 11, 10]
    lines = [f"{i},2024-03-{day:02d},{'abc'[i % 3]},{i % 2},{day}" for i, day in enumerate(days)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["x,on,fold,part,day", *lines]))
    folder = tmp_path / "dataset"
    folder.mkdir()
    source = Csv(type="csv", upload=UPLOAD, inputs=("x",), target="part", kept=("on", "fold", "day"))
    return data.open_dataset(folder, data.materialize(source, folder, upload=path))


def inline(tmp_path, inputs, **members):
    source = Inline(type="inline", inputs=inputs, **members)
    return data.open_dataset(tmp_path, data.materialize(source, tmp_path))


def rows_of(split, examples):
    return {name: part.tolist() for name, part in data.split_rows(split, examples).items()}


@pytest.mark.parametrize("column", ["on", "day"])
def test_the_newest_rows_are_held_out(table, column):
    parts = rows_of(split(type="time", by=column, validation=0.25, test=0.25), table)

    assert parts == {"train": [0, 1, 2, 3, 4, 5], "val": [6, 7, 8], "test": [9, 10, 11]}


def test_rows_of_one_time_stay_together(tmp_path):
    examples = inline(tmp_path, [[1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [3, 0]], columns=("t", "x"))

    assert rows_of(split(type="time", by="t", validation=0.5), examples) == {"train": [0, 1, 2, 3, 4], "val": [5]}
    assert rows_of(split(type="time", validation=0.5), examples) == {"train": [0, 1, 2], "val": [3, 4, 5]}


def test_the_values_of_a_column_say_the_part(table):
    by_text = split(type="column", by="fold", validation=["b"], test=["c"])
    by_number = split(type="column", by="day", train=[1, 2], validation=[3])
    by_target = split(type="column", by="part", validation=[1])

    assert rows_of(by_text, table) == {"train": [0, 3, 6, 9], "val": [1, 4, 7, 10], "test": [2, 5, 8, 11]}
    assert rows_of(by_number, table) == {"train": [1, 2], "val": [0]}
    assert rows_of(by_target, table)["val"] == [1, 3, 5, 7, 9, 11]


def test_rows_are_named_by_number(table):
    parts = rows_of(split(type="fixed", validation=[0, (4, 6)], test=[(10, 12)]), table)

    assert parts == {"train": [1, 2, 3, 6, 7, 8, 9], "val": [0, 4, 5], "test": [10, 11]}


MISTAKES = {
    "a column that is not stored": ({"type": "time", "by": "onn"}, "/split/by", "unknown-column"),
    "a column of texts that are no times": ({"type": "time", "by": "fold"}, "/split/by", "wrong-type"),
    "a value that is not there": (
        {"type": "column", "by": "fold", "validation": ["d"]},
        "/split/validation/0",
        "unknown-value",
    ),
    "a text for a column of numbers": (
        {"type": "column", "by": "day", "validation": ["a"]},
        "/split/validation/0",
        "wrong-type",
    ),
    "a number that is not there": (
        {"type": "column", "by": "day", "validation": [99]},
        "/split/validation/0",
        "unknown-value",
    ),
    "a row that is not there": ({"type": "fixed", "validation": [3, 12]}, "/split/validation/1", "out-of-range"),
    "a row twice": ({"type": "fixed", "validation": [3], "test": [(2, 4)]}, "/split/test/0", "duplicate"),
    "no row to train on": ({"type": "fixed", "validation": [(0, 12)]}, "/split", "empty-split"),
}


@pytest.mark.parametrize(("members", "pointer", "code"), MISTAKES.values(), ids=MISTAKES)
def test_a_split_that_does_not_fit_the_rows_is_refused(table, members, pointer, code):
    with pytest.raises(DatasetRefused) as caught:
        data.split_rows(split(**members), table)

    assert [(entry.pointer, entry.code) for entry in caught.value.errors] == [(pointer, code)]


WRONG_BY_THEMSELVES = {
    "a value of two parts": ({"type": "column", "by": "a", "validation": ["x"], "test": ["x"]}, "/test/0"),
    "a range that is none": ({"type": "fixed", "validation": [[5, 5]]}, "/validation/0"),
    "too much held out by time": ({"type": "time", "validation": 0.6, "test": 0.5}, "/validation"),
}


@pytest.mark.parametrize(("members", "pointer"), WRONG_BY_THEMSELVES.values(), ids=WRONG_BY_THEMSELVES)
def test_a_split_that_contradicts_itself_is_refused(members, pointer):
    with pytest.raises(ValidationError) as caught:
        split(**members)

    found, _ = entries(caught.value, members, schema=SPLIT.core_schema)
    assert [entry.pointer for entry in found] == [pointer]


EVERY: dict[str, dict[str, Any]] = {
    "random": {"validation": 0.25, "test": 0.25},
    "stratified": {"validation": 0.25, "test": 0.25},
    "time": {"validation": 0.25, "test": 0.25},
    "column": {"by": "fold", "validation": ["a"], "test": ["b"]},
    "fixed": {"validation": [0], "test": [1]},
}


@pytest.mark.parametrize("kind", EVERY)
def test_every_split_cuts_all_rows_once_and_the_same_way_again(table, kind):
    document = split(type=kind, **EVERY[kind])
    parts = data.split_rows(document, table)

    assert tuple(parts) == document.parts == ("train", "val", "test")
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(12))
    assert all(part.dtype == torch.int64 for part in parts.values())
    assert rows_of(SPLIT.validate_json(SPLIT.dump_json(document)), table) == rows_of(document, table)


def test_every_kind_of_split_is_tried():
    kinds = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(get_args(Split)[0])}

    assert set(EVERY) == kinds


# Leakage


def test_rows_on_both_sides_are_told_with_their_numbers(tmp_path):
    rows = [[float(i), "a"] for i in range(10)]
    rows[8], rows[9] = rows[2], rows[5]
    examples = inline(tmp_path, rows)
    parts = data.split_rows(split(type="fixed", validation=[8], test=[9, 4]), examples)
    validation, test = leakage(examples, parts)
    warning = validation.warning(1)

    assert (validation.count, validation.pairs) == (1, ((2, 8),))
    assert (test.count, test.pairs) == (1, ((5, 9),))
    assert (warning.pointer, warning.code) == ("/split", "leakage")
    assert warning.detail == (
        "1 of the 1 validation rows has the inputs of a training row (rows 2 and 8): the metrics will look better than "
        "they are."
    )
    assert validation.warning(94).detail.endswith(
        ": if these are doubles and no chance, the metrics look a little better than they are."
    )


def test_rows_that_differ_in_one_number_are_no_leak(tmp_path):
    numbers = np.zeros((50, 20))
    numbers[np.arange(20), np.arange(20)] = 1e-12
    numbers[20:40] = 2 * numbers[:20]
    numbers[40:] = np.arange(10)[:, None] + 1
    examples = inline(tmp_path, numbers.tolist())

    assert leakage(examples, data.split_rows(split(type="random", validation=0.5, test=0.2), examples)) == []
    assert leakage(examples, {"train": torch.arange(50)}) == []


def test_a_doubled_dataset_leaks_as_much_as_brute_force_says(tmp_path):
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 3, (300, 4)).tolist()
    examples = inline(tmp_path, numbers)
    parts = data.split_rows(split(type="random", validation=0.3), examples)
    train = {tuple(numbers[i]) for i in parts["train"].tolist()}
    [leak] = leakage(examples, parts)

    assert leak.count == sum(tuple(numbers[i]) in train for i in parts["val"].tolist())
    assert all(numbers[left] == numbers[right] for left, right in leak.pairs)
