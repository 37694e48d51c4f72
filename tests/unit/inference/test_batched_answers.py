"""Requests that ride together get the answers that they would get alone, and fail alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine import build
from service.engine.predictor import Predictor, Rows
from service.errors import InvalidInput, ServiceError
from service.inference.codec import Limits, only_numbers
from service.inference.runtime import Loaded, NotPlainError, Slice, Trial
from service.schemas.judgement import require
from service.schemas.preprocessing import NONE, NumberColumn, Preprocessing, TableRow, TrainingRange
from service.schemas.versions import Signature, TensorSpec

LIMITS = Limits(rows=4096, elements=16_000_000)


def loaded(raw: dict[str, Any], preprocessing: Preprocessing = NONE) -> Loaded:
    judged = require(raw)
    architecture = judged.architecture
    assert architecture is not None
    torch.manual_seed(0)
    predictor = Predictor(architecture, preprocessing, build.build(architecture))
    inputs = tuple(TensorSpec(name=each.name, dtype=each.dtype, shape=each.shape) for each in architecture.inputs)
    outputs = (TensorSpec(name="output", dtype="float32", shape=("B",)),)
    made = Loaded(Trial("job_0", 1, 1), predictor, signature=Signature(inputs=inputs, outputs=outputs), size_bytes=1)
    made.mergeable = True
    made._samples = tuple(predictor.drawn(4)) if preprocessing is NONE else ()
    return made


def dense(inputs: int = 3) -> dict[str, Any]:
    layers = [
        {"type": "Linear", "in_features": inputs, "out_features": 16},
        {"type": "Tanh"},
        {"type": "Linear", "in_features": 16, "out_features": 2},
    ]
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", inputs]}],
        "root": {"type": "Sequential", "layers": layers},
    }


SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"in_features": 6, "hidden": [16, 16], "num_classes": 3},
    "resnet18": {"num_classes": 3, "depths": [1, 1, 1, 1], "widths": [4, 4, 8, 8]},
    "vit_b_16": {"num_classes": 3, "image_size": 32, "d": 16, "depth": 1, "heads": 2, "mlp": 16},
    "lstm_text": {"vocab": 20, "emb": 8, "hidden": 8, "depth": 1},
    "transformer_text": {"vocab": 20, "max_length": 8, "d": 8, "heads": 2, "depth": 1, "feedforward": 8},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the server has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def net(name: str) -> tuple[Loaded, list[Rows]]:
    """A net of the catalogue, small, with six rows for it."""
    made = loaded({"catalogue": name, "params": SMALL[name]})
    return made, made.predictor.drawn(6)


def answers(made: Loaded, rows: list[Rows], cuts: list[int], fixed_rows: int | None = None) -> Any:
    """The answers to rows that come in requests, cut at these places, and ride together."""
    edges = [0, *cuts, len(rows[0].numbers)]
    works = [
        made.check(
            {spec.name: part.numbers[start:stop] for spec, part in zip(made.signature.inputs, rows, strict=True)},
            limits=LIMITS,
        )
        for start, stop in itertools.pairwise(edges)
    ]
    found, _ = made.run(works, limits=LIMITS, fixed_rows=fixed_rows)
    parts: list[Any] = []
    for each in found:
        assert isinstance(each, Slice), each
        parts += list(each.outputs().values())
    return np.concatenate(parts)


def one_by_one(made: Loaded, rows: list[Rows], fixed_rows: int | None = None) -> Any:
    count = len(rows[0].numbers)
    alone = [[Rows(part.numbers[at : at + 1]) for part in rows] for at in range(count)]
    return np.concatenate([answers(made, each, [], fixed_rows) for each in alone])


@pytest.mark.parametrize("name", SMALL)
def test_batched_answers_are_those_of_rows_alone_however_they_ride(name: str) -> None:
    made, rows = net(name)
    alone = one_by_one(made, rows)
    for seed in range(4):
        draw = random.Random(seed)
        order = draw.sample(range(6), 6)
        cuts = sorted(draw.sample(range(1, 6), draw.randrange(5)))
        found = answers(made, [Rows(part.numbers[order]) for part in rows], cuts)

        np.testing.assert_allclose(found, alone[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_in_the_reproducible_mode_they_are_the_same_bits(name: str) -> None:
    made, rows = net(name)
    alone = one_by_one(made, rows, fixed_rows=8)
    for seed in range(4):
        draw = random.Random(seed)
        order = draw.sample(range(6), 6)
        cuts = sorted(draw.sample(range(1, 6), draw.randrange(5)))
        found = answers(made, [Rows(part.numbers[order]) for part in rows], cuts, fixed_rows=8)

        assert np.array_equal(found, alone[order])


def test_a_poisoned_request_fails_alone() -> None:
    made = loaded(dense())
    works: list[Any] = [[[1, 2, 3]], [[1, 2]], [[4, 5, 6], [7, 8, 9]], [[1e39, 0, 0]]]
    found, cost = made.run(works, limits=LIMITS)

    assert cost is None
    assert [type(each) for each in found] == [Slice, NotPlainError, Slice, NotPlainError]
    (alone,), _ = made.run([works[2]], limits=LIMITS)
    assert isinstance(alone, Slice)
    third = found[2]
    assert isinstance(third, Slice)
    np.testing.assert_allclose(third.outputs()["output"], alone.outputs()["output"], rtol=1e-6)


def test_warnings_belong_to_the_request_that_they_are_about() -> None:
    table = TableRow(columns=tuple(NumberColumn(name=name) for name in "abc"))
    limits = TrainingRange(low=(0.0, 0.0, 0.0), high=(1.0, 1.0, 1.0))
    made = loaded(dense(), Preprocessing(row=table, training_range=limits))
    found, _ = made.run([[[0, 0, 0]], [[0, 0, 0], [0, 9, 0]]], limits=LIMITS)

    told = [[entry.pointer for entry in each.warnings] for each in found if isinstance(each, Slice)]
    assert told == [[], ["/inputs/1/1"]]


def test_an_error_in_a_padded_forward_pass_names_the_rows_that_were_sent() -> None:
    raw = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 2], "dtype": "int64"}],
        "root": {"type": "Sequential", "layers": [{"type": "Embedding", "num_embeddings": 5, "embedding_dim": 2}]},
    }
    made = loaded(raw)
    found, _ = made.run([[[1, 2]], [[3, 9]]], limits=LIMITS, fixed_rows=8)

    assert isinstance(found[0], Slice)
    assert isinstance(found[1], ServiceError)
    assert [entry.pointer for entry in found[1].errors] == ["/inputs/0/1"]


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([True, False, None, "1", [], [1], {}, 1e39]),
)
ROWS: st.SearchStrategy[Any] = st.one_of(
    st.lists(st.lists(st.integers(-9, 9) | st.floats(-9, 9), min_size=3, max_size=3), min_size=1, max_size=4),
    st.lists(st.lists(VALUES, max_size=4), max_size=4),
    VALUES,
)


@pytest.mark.parametrize("table", [False, True])
@settings(deadline=None)
@given(inputs=ROWS, before=st.booleans(), other=st.sampled_from([{}, {"model": "m"}, {"model": "m", "priority": 1}]))
def test_plain_rows_are_read_as_others_are_and_nothing_odd_is_taken_for_plain(
    table: bool, inputs: Any, before: bool, other: dict[str, Any]
) -> None:
    row = TableRow(columns=tuple(NumberColumn(name=name) for name in "abc"))
    made = loaded(dense(), Preprocessing(row=row) if table else NONE)
    members = {**other, "inputs": inputs} if before else {"inputs": inputs, **other}
    body = orjson.dumps(members) if _fits(inputs) else b"{}"
    if not only_numbers(body):
        return
    plain = made.plain(LIMITS)
    assert plain is not None
    try:
        (wanted,) = made.decode(orjson.loads(body)["inputs"], limits=LIMITS)
    except InvalidInput:
        with pytest.raises((ValueError, TypeError, OverflowError)):
            plain.array(orjson.loads(body)["inputs"])
    else:
        assert np.array_equal(plain.array(orjson.loads(body)["inputs"]), wanted.numbers)


def _fits(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_fits, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**64


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"inputs","other":[[1]]}',
        b'{"inputs":[[1,true]]}',
        b'{"inputs":[[1,null]]}',
        b'{"inputs":[[1,"2"]]}',
        b'{"inputs":[[1]],"inputs":[[true]]}',
        b'{"inputs":[[true]],"inputs":[[1]]}',
        b'{"\\u0069nputs":[[true]],"model":"\\"inputs\\":[[1]]"}',
        b'{"inputs":{"x":[[1]]}}',
        b'{"model":"m"}',
    ],
)
def test_bodies_that_may_hold_more_than_numbers_are_not_plain(body: bytes) -> None:
    assert not only_numbers(body)
