"""Which tensors of the protocol a version takes, and which arrays they become."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidInput
from service.inference.codec import Limits, check
from service.inference.tensors import Tensor
from service.openinference import Takes
from service.schemas.datasets import ImageRow
from service.schemas.preprocessing import ArrayRow, NumberColumn, TableRow, TextColumn
from service.schemas.versions import TensorSpec

NUMBERS = TableRow(columns=(NumberColumn(name="a"), NumberColumn(name="b")))
GAPS = TableRow(columns=(NumberColumn(name="a"), NumberColumn(name="b", optional=True)))
TEXTS = TableRow(columns=(TextColumn(name="colour", categories=("green", "red")), NumberColumn(name="weight")))
LIMITS = Limits(rows=100, elements=10_000)


def spec(name: str = "x", *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("B", *shape))


def tensor(name: str, datatype: str, values: Any, place: int = 0) -> Tensor:
    kinds: dict[str, Any] = {"BYTES": object, "FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
    return Tensor(name, datatype, np.array(values, dtype=kinds[datatype]), f"/inputs/{place}")


def told(takes: Takes) -> list[tuple[str, str, list[int]]]:
    return [(one.name, one.datatype, list(one.shape)) for one in takes.described]


def test_arrays_are_taken_by_the_names_of_the_signature() -> None:
    takes = Takes([spec("left", 2), spec("right", "T", dtype="int64")], [None, None])
    found = takes.arrays([tensor("right", "INT64", [[1, 2, 3]], 1), tensor("left", "FP32", [[1, 2]])])

    assert told(takes) == [("left", "FP32", [-1, 2]), ("right", "INT64", [-1, -1])]
    assert {name: array.tolist() for name, array in found.items()} == {"left": [[1, 2]], "right": [[1, 2, 3]]}


def test_columns_of_numbers_come_together_or_one_by_one() -> None:
    takes = Takes([spec("x", 2)], [NUMBERS])
    together = takes.arrays([tensor("x", "FP64", [[0.1, 2], [3, 4]])])
    apart = takes.arrays([tensor("b", "INT64", [2, 4]), tensor("a", "FP64", [[0.1], [3]], 1)])

    assert told(takes) == [("x", "FP32", [-1, 2])]
    assert together["x"].tolist() == apart["x"].tolist() == [[0.1, 2], [3, 4]]


@pytest.mark.parametrize("missing", [float("nan")])
def test_a_gap_in_a_column_that_is_filled_is_let_through(missing: float) -> None:
    takes = Takes([spec("x", 2)], [GAPS])

    assert takes.arrays([tensor("x", "FP32", [[1, missing]])])["x"].tolist() == [[1.0, None]]
    with pytest.raises(InvalidInput, match="not a finite") as found:
        takes.arrays([tensor("x", "FP32", [[missing, 1]])])
    assert found.value.errors[0].pointer.startswith("/inputs/0/data/")


def test_texts_come_one_tensor_a_column() -> None:
    takes = Takes([spec("x", 3)], [TEXTS])
    found = takes.arrays(
        [tensor("colour", "BYTES", [[b"red"], ["grün".encode()]]), tensor("weight", "FP32", [1, 2], 1)]
    )

    assert told(takes) == [("colour", "BYTES", [-1, 1]), ("weight", "FP32", [-1, 1])]
    assert found["x"].tolist() == [["red", 1.0], ["grün", 2.0]]
    [raw] = check(found, specs=[spec("x", 3)], limits=LIMITS, rows=[TEXTS])
    assert raw.codes is not None
    assert (raw.codes.tolist(), raw.numbers.tolist()) == ([[1], [-1]], [[1.0], [2.0]])


@pytest.mark.parametrize("row", [NUMBERS, TEXTS], ids=["numbers", "texts"])
def test_a_column_may_have_the_name_of_its_input(row: TableRow) -> None:
    one = row.columns[0].model_copy(update={"name": "x"})
    alone, both = (
        row.model_copy(update={"columns": (one,)}),
        row.model_copy(update={"columns": (one, *row.columns[1:])}),
    )
    sent = tensor("x", "BYTES", [b"red"]) if row is TEXTS else tensor("x", "FP32", [[1]])

    assert Takes([spec("x", 2)], [alone]).arrays([sent])["x"].tolist() == [["red"] if row is TEXTS else [1.0]]
    if row is NUMBERS:
        together = Takes([spec("x", 2)], [both]).arrays([tensor("x", "FP32", [[1, 2]])])
        assert together["x"].tolist() == [[1.0, 2.0]]


def test_columns_of_several_inputs_have_the_inputs_name_before_theirs() -> None:
    takes = Takes([spec("l", 3), spec("r", 2)], [TEXTS, NUMBERS])

    assert [name for name, _, _ in told(takes)] == ["l.colour", "l.weight", "r"]
    found = takes.arrays(
        [
            tensor("l.colour", "BYTES", [b"red"]),
            tensor("l.weight", "FP32", [1], 1),
            tensor("r.a", "FP32", [1], 2),
            tensor("r.b", "FP32", [2], 3),
        ]
    )
    assert (found["l"].tolist(), found["r"].tolist()) == ([["red", 1.0]], [[1.0, 2.0]])


def test_pictures_may_be_files() -> None:
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("RGB", (4, 4), (255, 0, 0)).save(file, "PNG")
    row = ArrayRow(row_shape=(3, 4, 4), image=ImageRow(channels=3, height=4, width=4))
    takes = Takes([spec("image", 3, 4, 4)], [row])
    found = takes.arrays([tensor("image", "BYTES", [file.getvalue()])])
    [raw] = check(found, specs=[spec("image", 3, 4, 4)], limits=LIMITS, rows=[row])

    assert raw.numbers.shape == (1, 3, 4, 4)
    assert raw.numbers[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ([tensor("colour", "BYTES", [b"red"])], "/inputs"),
        ([tensor("colour", "BYTES", [b"red"]), tensor("weight", "FP32", [[1, 2]], 1)], "/inputs/1/shape"),
        ([tensor("colour", "BYTES", [b"red"]), tensor("weight", "FP32", [1, 2], 1)], "/inputs/1/shape"),
        ([tensor("colour", "INT64", [1]), tensor("weight", "FP32", [1], 1)], "/inputs/0/datatype"),
        ([tensor("colour", "BYTES", [b"\xff"]), tensor("weight", "FP32", [1], 1)], "/inputs/0/data/0"),
        ([tensor("colour", "BYTES", [b"red"]), tensor("weight", "BYTES", [b"1"], 1)], "/inputs/1/data/0"),
        (
            [tensor("colour", "BYTES", [b"red"]), tensor("weight", "FP32", [1], 1), tensor("size", "FP32", [1], 2)],
            "/inputs/2/name",
        ),
    ],
    ids=["missing", "wide", "more rows", "numbers", "no utf-8", "texts", "unknown"],
)
def test_what_does_not_fit_is_told_with_its_place(sent: list[Tensor], pointer: str) -> None:
    with pytest.raises(InvalidInput) as found:
        Takes([spec("x", 3)], [TEXTS]).arrays(sent)

    assert [entry.pointer for entry in found.value.errors] == [pointer]
