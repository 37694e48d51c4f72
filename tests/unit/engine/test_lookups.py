"""Numbers that a net looks up in a table without such a row are named with their place, after it has failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.engine import build
from service.engine.predictor import Predictor, Rows
from service.errors import Entry, ShapeMismatch, ValidationFailed
from service.inference.codec import Limits
from service.inference.runtime import Loaded, Trial
from service.schemas.judgement import require
from service.schemas.preprocessing import NONE, NumberColumn, Preprocessing, TableRow
from service.schemas.versions import Signature, TensorSpec

EMB: dict[str, Any] = {"type": "Embedding", "name": "emb", "num_embeddings": 50, "embedding_dim": 4}
SMALL: dict[str, Any] = {**EMB, "name": "small", "num_embeddings": 3}


def predictor(
    *lines: str,
    layers: Sequence[dict[str, Any]] = (EMB,),
    inputs: Sequence[tuple[str, list[Any]]] = (("x", ["B", 4]),),
    preprocessing: Preprocessing = NONE,
) -> Predictor:
    raw = {
        "schema": "arch/1",
        "inputs": [{"name": name, "shape": shape, "dtype": "int64"} for name, shape in inputs],
        "root": {"type": "Graph", "layers": list(layers), "forward": list(lines)},
    }
    architecture = require(raw).architecture
    assert architecture is not None
    return Predictor(architecture, preprocessing, build.build(architecture))


def refusal(made: Predictor, *rows: Any, sent: Sequence[Any] = (), at: str = "/inputs") -> list[Entry]:
    with pytest.raises(ValidationFailed) as caught:
        made.run([Rows(np.array(part), sent=sent, at=at) for part in rows])
    return list(caught.value.errors)


@pytest.mark.parametrize("number", [99, 50, -1])
def test_a_number_beyond_an_embedding_is_named_with_its_place(number: int) -> None:
    (entry,) = refusal(predictor("return emb(x)"), [[0, 1, 2, 49], [1, 2, 3, number]])

    assert entry == Entry(
        "/inputs/1/3",
        "out-of-range",
        f"{number} is beyond the 50 rows of `emb`.",
        expected="0 to 49",
        got=str(number),
    )


def test_the_pointer_begins_where_the_rows_stand_in_the_request() -> None:
    (entry,) = refusal(predictor("return emb(x)"), [[0, 0, 0, 99]], at="/inputs/x")

    assert entry.pointer == "/inputs/x/0/3"


@pytest.mark.parametrize(("sent", "pointer"), [(([0, 9],), "/inputs/0/1"), (({"age": 0, "a/b": 9},), "/inputs/0/a~1b")])
def test_in_rows_of_columns_the_column_is_named(sent: Sequence[Any], pointer: str) -> None:
    row = TableRow(columns=(NumberColumn(name="age"), NumberColumn(name="a/b")))
    made = predictor(
        "return emb(x[:, 0]) + small(x[:, 1])",
        layers=(EMB, SMALL),
        inputs=[("x", ["B", 2])],
        preprocessing=Preprocessing(row=row),
    )
    (entry,) = refusal(made, [[0.0, 9.0]], sent=sent)

    assert (entry.pointer, entry.expected) == (pointer, "0 to 2")


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (["return emb(flip(x, 1))"], 3),
        (["return emb(transpose(reshape(x, 2, 2), 1, 2))"], 3),
        (["a, b = chunk(x, 2, dim=1)", "return emb(cat([b, a], dim=1))"], 3),
        (["y = block(x)", "return emb(y)"], 3),
        (["return embedding(x, table)"], 3),
        (["return cast(one_hot(x, num_classes=50))"], 3),
        (["return bag(x)"], 3),
        (["return emb(clamp(x, max=60))"], 3),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_only_moved_is_followed_to_its_table(lines: list[str], place: int) -> None:
    said = " ".join(lines)
    layers = [
        EMB,
        {"name": "block", "type": "Sequential", "layers": [{"type": "Identity"}, {"type": "Flatten"}]},
        {"name": "table", "type": "Parameter", "shape": [50, 4]},
        {**EMB, "name": "bag", "type": "EmbeddingBag"},
    ]
    called = [layer for layer in layers if f"{layer['name']}(" in said or f" {layer['name']})" in said]
    found = refusal(predictor(*lines, layers=called), [[1, 2, 3, 55]])

    assert [(entry.pointer, entry.code, entry.expected) for entry in found] == [
        (f"/inputs/0/{place}", "out-of-range", "0 to 49")
    ]


def test_after_arithmetic_both_numbers_are_said() -> None:
    init = {"type": "constant", "value": 40}
    offsets = {"type": "Buffer", "name": "offsets", "shape": [4], "dtype": "int64", "init": init}
    (entry,) = refusal(predictor("return emb(x + offsets)", layers=(EMB, offsets)), [[0, 1, 2, 12]])

    assert entry.pointer == "/inputs/0/3"
    assert entry.detail == "12 leads to 52, which is beyond the 50 rows of `emb`."


def test_a_row_that_is_longer_than_its_positions_is_said_so() -> None:
    made = predictor("return emb(x) + small(positions(x))", layers=(EMB, SMALL), inputs=[("x", ["B", "T"])])
    (entry,) = refusal(made, [[1, 2, 3, 4]])

    assert (entry.pointer, entry.code) == ("/inputs", "out-of-range")
    assert entry.detail == "A row of 4 is too long: `small` has 3 positions."


def test_with_several_inputs_the_one_to_blame_is_named() -> None:
    made = predictor("return emb(a) + small(b)", layers=(EMB, SMALL), inputs=[("a", ["B", 2]), ("b", ["B", 2])])
    with pytest.raises(ValidationFailed) as caught:
        made.run([Rows(np.array([[9, 9]]), at="/inputs/a"), Rows(np.array([[1, 9]]), at="/inputs/b")])

    assert [entry.pointer for entry in caught.value.errors] == ["/inputs/b/0/1"]


def test_at_most_twenty_are_named_and_the_others_counted() -> None:
    with pytest.raises(ValidationFailed) as caught:
        predictor("return emb(x)").run([Rows(np.full((30, 4), 77))])

    assert (len(caught.value.errors), caught.value.more) == (20, 100)


def test_another_failure_stays_what_it_is() -> None:
    made = predictor("return emb(x) + emb(y)", inputs=[("x", ["B", "T"]), ("y", ["B", "T"])])
    with pytest.raises(ShapeMismatch) as caught:
        made.run([Rows(np.zeros((1, 3), dtype=np.int64)), Rows(np.zeros((1, 2), dtype=np.int64))])

    assert [entry.code for entry in caught.value.errors] == ["shape-mismatch"]


@pytest.mark.parametrize(
    ("inputs", "pointer"), [([[0, 1, 2, 99]], "/inputs/0/3"), ({"x": [[0, 1, 2, 99]]}, "/inputs/x/0/3")]
)
def test_a_request_is_told_the_place_in_its_own_form(inputs: object, pointer: str) -> None:
    made = predictor("return emb(x)")
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="int64", shape=("B", 4)),),
        outputs=(TensorSpec(name="output", dtype="float32", shape=("B", 4, 4)),),
    )
    loaded = Loaded(Trial("job", 1, 1), made, signature=signature, size_bytes=0)
    with pytest.raises(ValidationFailed) as caught:
        loaded.predict(inputs, limits=Limits(rows=10, elements=1000))

    assert [entry.pointer for entry in caught.value.errors] == [pointer]


def test_rows_for_a_version_without_data_are_still_found() -> None:
    assert len(predictor("return small(x)", layers=(SMALL,)).drawn(2)) == 1
