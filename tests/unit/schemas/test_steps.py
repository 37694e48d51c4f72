"""What every operation makes of shapes and dtypes, and with which words it refuses what it cannot take."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from service.schemas.document import canonical
from service.schemas.forward import from_lines
from service.schemas.judgement import judge
from service.schemas.shapes import DType, Mismatch, TensorSpec
from service.schemas.steps import BY_OPERATION, OPERATIONS, SENTENCES, Step

STEP: TypeAdapter[Any] = TypeAdapter(Step)

NAMES = {
    "x": TensorSpec((3, 4)),
    "y": TensorSpec((3, 5)),
    "t_first": TensorSpec((3, 4), "float32", 1),
    "flat": TensorSpec((4,)),
    "number": TensorSpec(()),
    "image": TensorSpec((4, 6, 6)),
    "long": TensorSpec((3, 4), "int64"),
    "byte": TensorSpec((3, 4), "uint8"),
    "double": TensorSpec((3, 4), "float64"),
    "mask": TensorSpec((3, 4), "bool"),
    "lengths": TensorSpec((), "int64"),
    "token": TensorSpec((1, 1, 4), "float32", None),
    "table": TensorSpec((7, 4), "float32", None),
    "vector": TensorSpec((4,), "float32", None),
    "one": TensorSpec((), "int64", None),
    "half": TensorSpec((), "float64", None),
    "q": TensorSpec((2, 5, 4)),
    "k": TensorSpec((2, 6, 4)),
}


def step(expression: str) -> Any:
    compiled = from_lines((f"return {expression}",), tuple(NAMES), ())
    assert compiled.faults == ()
    return compiled.steps[0]


def output(expression: str) -> Any:
    made = step(expression)
    return made.output([NAMES[item] if isinstance(item, str) else item for item in made.inputs])


def row(*sizes: int, dtype: DType = "float32", batch: int | None = 0) -> TensorSpec:
    return TensorSpec(sizes, dtype, batch)


@pytest.mark.parametrize(
    ("expression", "spec"),
    [
        ("relu6(t_first)", row(3, 4, batch=1)),
        ("exp(vector)", row(4, batch=None)),
        ("abs(long)", row(3, 4, dtype="int64")),
        ("pow(long, 2)", row(3, 4, dtype="int64")),
        ("pow(long, 0.5)", row(3, 4)),
        ("clamp(long, 0, 1.5)", row(3, 4)),
        ("cast(mask)", row(3, 4)),
        ("byte + one", row(3, 4, dtype="uint8")),
        ("long + half", row(3, 4, dtype="float64")),
        ("minimum(x, half)", row(3, 4)),
        ("eq(x, vector)", row(3, 4, dtype="bool")),
        ("logical_or(mask, long)", row(3, 4, dtype="bool")),
        ("masked_fill(x, mask, '-inf')", row(3, 4)),
        ("where(mask, byte, 0.5)", row(3, 4)),
        ("where(mask, mask, 1)", row(3, 4, dtype="int64")),
        ("softmax(t_first, 0)", row(3, 4, batch=1)),
        ("softmax(vector, 0)", row(4, batch=None)),
        ("unflatten(image, 1, (2, -1))", row(2, 2, 6, 6)),
        ("unflatten(t_first, 2, (2, -1))", row(3, 2, 2, batch=1)),
        ("expand_batch(token, x)", row(1, 4)),
        ("chunk(image, 2, dim=1)", (row(2, 6, 6), row(2, 6, 6))),
        ("split(x, [1, 2], dim=1)", (row(1, 4), row(2, 4))),
        ("split(t_first, 2, dim=0)", (row(2, 4, batch=1), row(1, 4, batch=1))),
        ("flip(t_first, 0, 2)", row(3, 4, batch=1)),
        ("roll(x, 1, -1)", row(3, 4)),
        ("norm(x, dim=(1, 2))", row()),
        ("var(t_first, 0)", row(4)),
        ("prod(byte, 1)", row(4, dtype="int64")),
        ("argmax(x, -1, keepdim=True)", row(3, 1, dtype="int64")),
        ("cumsum(mask, 1)", row(3, 4, dtype="int64")),
        ("normalize(x)", row(3, 4)),
        ("layer_norm(t_first, 4)", row(3, 4, batch=1)),
        ("pad(x, (1, 2, 0, 3))", row(6, 7)),
        ("pad(image, (2, 2, 1, 1), 'reflect')", row(4, 8, 10)),
        ("interpolate(image, scale_factor=(0.5, 2))", row(4, 3, 12)),
        ("max_pool1d(x, 2)", row(3, 2)),
        ("adaptive_max_pool2d(image, (None, 2))", row(4, 6, 2)),
        ("pixel_shuffle(image, 2)", row(1, 12, 12)),
        ("pixel_unshuffle(image, 3)", row(36, 2, 2)),
        ("embedding(long, table)", row(3, 4, 4)),
        ("one_hot(long, 9)", row(3, 4, 9, dtype="int64")),
        ("positions(x)", row(3, dtype="int64", batch=None)),
        ("positions(t_first, 0)", row(3, dtype="int64", batch=None)),
        ("causal_mask(x)", row(3, 3, dtype="bool", batch=None)),
        ("padding_mask(lengths, x)", row(3, dtype="bool")),
        ("masked_mean(x, lengths)", row(4)),
        ("last_valid(long, lengths)", row(4, dtype="int64")),
        ("scaled_dot_product_attention(q, k, k)", row(2, 5, 4)),
    ],
)
def test_a_step_foretells_shape_dtype_and_batch(expression, spec):
    assert output(expression) == spec


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        # dtypes
        ("selu(long)", "dtype-mismatch"),
        ("log(mask)", "dtype-mismatch"),
        ("abs(mask)", "dtype-mismatch"),
        ("mask + x", "dtype-mismatch"),
        ("pow(long, -1)", "dtype-mismatch"),
        ("pow(byte, 300)", "dtype-mismatch"),
        ("clamp(byte, min=-1)", "dtype-mismatch"),
        ("masked_fill(x, x, 0)", "dtype-mismatch"),
        ("masked_fill(long, mask, 0.5)", "dtype-mismatch"),
        ("masked_fill(long, mask, '-inf')", "dtype-mismatch"),
        ("where(x, x, x)", "dtype-mismatch"),
        ("where(mask, byte, 300)", "dtype-mismatch"),
        ("mean(long, 1)", "dtype-mismatch"),
        ("var(long, 1)", "dtype-mismatch"),
        ("norm(long, dim=1)", "dtype-mismatch"),
        ("argmax(mask, 1)", "dtype-mismatch"),
        ("pad(byte, (1, 1), value=300)", "dtype-mismatch"),
        ("pad(mask, (1, 1), 'reflect')", "dtype-mismatch"),
        ("interpolate(long, 2)", "dtype-mismatch"),
        ("max_pool1d(long, 2)", "dtype-mismatch"),
        ("embedding(x, table)", "dtype-mismatch"),
        ("one_hot(byte, 3)", "dtype-mismatch"),
        ("masked_mean(long, lengths)", "dtype-mismatch"),
        ("masked_mean(x, number)", "dtype-mismatch"),
        ("scaled_dot_product_attention(x, x, double)", "dtype-mismatch"),
        ("scaled_dot_product_attention(q, q, q, one)", "dtype-mismatch"),
        # the batch
        ("softmax(x, 0)", "batch-mixed"),
        ("softmax(t_first, 1)", "batch-mixed"),
        ("x + t_first", "batch-mixed"),
        ("maximum(x, t_first)", "batch-mixed"),
        ("ge(x, t_first)", "batch-mixed"),
        ("logical_and(x, t_first)", "batch-mixed"),
        ("masked_fill(t_first, mask, 0)", "batch-mixed"),
        ("where(mask, t_first, 0)", "batch-mixed"),
        ("unflatten(x, 0, (1, -1))", "batch-mixed"),
        ("chunk(x, 2, dim=0)", "batch-mixed"),
        ("split(t_first, 2, dim=1)", "batch-mixed"),
        ("flip(x, 0)", "batch-mixed"),
        ("roll(x, 1, 0)", "batch-mixed"),
        ("var(x, (0, 1))", "batch-mixed"),
        ("prod(x, 0)", "batch-mixed"),
        ("argmin(t_first, 1)", "batch-mixed"),
        ("cumsum(x, -3)", "batch-mixed"),
        ("normalize(t_first)", "batch-mixed"),
        ("positions(x, 0)", "batch-mixed"),
        ("causal_mask(t_first)", "batch-mixed"),
        ("cat(vector, number, dim=0)", "batch-mixed"),
        ("padding_mask(lengths, t_first)", "batch-mixed"),
        ("scaled_dot_product_attention(t_first, x, x)", "batch-mixed"),
        ("masked_max(t_first, lengths)", "batch-not-first"),
        ("max_pool1d(t_first, 2)", "batch-not-first"),
        ("interpolate(t_first, 2)", "batch-not-first"),
        ("expand_batch(token, t_first)", "batch-not-first"),
        # dimensions and sizes
        ("x @ y", "shape-mismatch"),
        ("minimum(x, y)", "shape-mismatch"),
        ("lt(x, flat)", "shape-mismatch"),
        ("log_softmax(x, 3)", "shape-mismatch"),
        ("softmax(t_first)", "shape-mismatch"),
        ("unflatten(x, 2, (3, -1))", "shape-mismatch"),
        ("expand_batch(vector, x)", "shape-mismatch"),
        ("expand_batch(x, x)", "wrong-argument"),
        ("chunk(image, 3, dim=1)", "shape-mismatch"),
        ("split(x, [1, 1], dim=1)", "shape-mismatch"),
        ("flip(x, 3)", "shape-mismatch"),
        ("flip(x, 1, 1)", "shape-mismatch"),
        ("roll(x, 1, 7)", "shape-mismatch"),
        ("norm(x, dim=5)", "shape-mismatch"),
        ("var(image, 1, correction=4)", "shape-mismatch"),
        ("argmax(one, 0)", "shape-mismatch"),
        ("layer_norm(x, 5)", "shape-mismatch"),
        ("layer_norm(flat, (1, 4))", "shape-mismatch"),
        ("pad(flat, (1, 1, 1, 1))", "shape-mismatch"),
        ("pad(image, (1, 1), 'circular')", "shape-mismatch"),
        ("pad(x, (4, 0), 'reflect')", "shape-mismatch"),
        ("pad(x, (-4, 0))", "shape-mismatch"),
        ("interpolate(x, 2, mode='bilinear')", "shape-mismatch"),
        ("interpolate(image, (2, 2, 2))", "shape-mismatch"),
        ("interpolate(x, scale_factor=0.1)", "shape-mismatch"),
        ("avg_pool1d(x, 9)", "shape-mismatch"),
        ("adaptive_avg_pool1d(image, 1)", "shape-mismatch"),
        ("pixel_shuffle(image, 3)", "shape-mismatch"),
        ("pixel_shuffle(x, 2)", "shape-mismatch"),
        ("pixel_unshuffle(image, 4)", "shape-mismatch"),
        ("embedding(long, vector)", "shape-mismatch"),
        ("embedding(long, x)", "shape-mismatch"),
        ("positions(x, 3)", "shape-mismatch"),
        ("masked_mean(number, lengths)", "shape-mismatch"),
        ("last_valid(x, long)", "shape-mismatch"),
        ("padding_mask(long, x)", "shape-mismatch"),
        ("scaled_dot_product_attention(q, x, x)", "shape-mismatch"),
        ("scaled_dot_product_attention(q, q, k)", "shape-mismatch"),
        ("scaled_dot_product_attention(token, x, x)", "shape-mismatch"),
        ("scaled_dot_product_attention(q, k, k, vector)", "shape-mismatch"),
    ],
)
def test_a_wrong_use_is_refused_with_a_sentence(expression, code):
    with pytest.raises(Mismatch) as raised:
        output(expression)

    assert raised.value.code == code
    assert raised.value.detail.endswith(".")


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"op": "clamp"}, "Give min, max or both"),
        ({"op": "clamp", "min": 2, "max": 1}, "min is at most max"),
        ({"op": "pow", "exponent": "2"}, "number"),
        ({"op": "cast", "dtype": "float16"}, "float32"),
        ({"op": "unflatten", "dim": 1}, "required"),
        ({"op": "chunk", "chunks": 0, "dim": 1}, "greater than or equal to 1"),
        ({"op": "chunk", "chunks": 1025, "dim": 1}, "less than or equal to 1024"),
        ({"op": "split", "split_size_or_sections": [0], "dim": 1}, "whole number"),
        ({"op": "roll", "shifts": [1, 2], "dims": 1}, "as many dims as shifts"),
        ({"op": "var", "dim": 1, "correction": True}, "integer"),
        ({"op": "norm", "dim": 1, "p": -1}, "greater than or equal to 0"),
        ({"op": "pad", "pad": [1]}, "two numbers for each dimension"),
        ({"op": "pad", "pad": [-1, 0], "mode": "reflect"}, "below 0"),
        ({"op": "pad", "pad": [1, 0], "mode": "reflect", "value": 1}, 'for the mode "constant"'),
        ({"op": "interpolate"}, "one of the two"),
        ({"op": "interpolate", "size": 2, "align_corners": True}, "align_corners is for"),
        ({"op": "max_pool1d", "kernel_size": 2, "padding": 2}, "half its kernel"),
        ({"op": "one_hot", "num_classes": 0}, "greater than or equal to 1"),
        ({"op": "masked_fill", "inputs": ["x", "m"], "value": "inf"}, '"-inf"'),
        ({"op": "where", "inputs": ["m", 1, 2]}, "is a value, not a number"),
        ({"op": "eq", "inputs": [0, "x"]}, "name of an input"),
        ({"op": "scaled_dot_product_attention", "inputs": ["x", "x"]}, "3 to 4 items"),
        ({"op": "scaled_dot_product_attention", "inputs": ["x"] * 4, "is_causal": True}, "one of the two"),
    ],
    ids=lambda value: value["op"] if isinstance(value, dict) else "",
)
def test_constants_are_checked_when_the_step_is_read(members, word):
    with pytest.raises(ValidationError) as raised:
        STEP.validate_python({"inputs": ["x"], **members})

    assert word in str(raised.value)


@pytest.mark.parametrize(
    ("written", "short"),
    [
        ("max_pool1d(x, 2, stride=2)", "max_pool1d(x, (2,))"),
        ("interpolate(image, 3, mode='bilinear', align_corners=False)", "interpolate(image, [3], mode='bilinear')"),
        ("norm(x, 2.0, dim=[1])", "norm(x, dim=1)"),
        ("clamp(x, min=0.0, max=None)", "clamp(x, 0)"),
        ("scaled_dot_product_attention(x, x, x, None, 0.0, False)", "scaled_dot_product_attention(x, x, x)"),
        ("pad(x, (1, 1), 'constant', 0.0)", "pad(x, [1, 1])"),
        ("cast(x, 'float32')", "cast(x)"),
        ("positions(x, dim=1)", "positions(x)"),
    ],
)
def test_one_meaning_has_one_form(written, short):
    def form(expression: str) -> bytes:
        return canonical(step(expression).model_dump(mode="json", exclude_defaults=True))

    assert form(written) == form(short)


def test_a_wrong_use_is_an_entry_of_the_judge_at_its_line():
    document = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3, 4]}],
        "root": {
            "type": "Graph",
            "forward": ["a, b = chunk(x, 2, dim=0)", "c = selu(cast(x, 'int64'))", "return a, c"],
        },
    }

    found = [(entry.pointer, entry.code) for entry in judge(document).errors]
    assert found == [("/root/forward/0", "batch-mixed"), ("/root/forward/1", "dtype-mismatch")]


def test_constants_beyond_any_size_are_no_sizes():
    """A number to fill with may be large; only what would be a size is held against the limits."""
    document = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 4]}],
        "root": {"type": "Graph", "forward": ["return clamp(masked_fill(x, gt(x, 1e9), -1e12), -1e10, 1e10)"]},
    }

    assert judge(document).errors == ()


def test_every_operation_has_a_sentence_and_names_for_its_values():
    assert set(SENTENCES) == set(OPERATIONS)
    assert [op for op, sentence in SENTENCES.items() if not sentence.endswith(".") or len(sentence) > 120] == []
    assert len(set(SENTENCES.values())) == len(SENTENCES)
    for kind in BY_OPERATION.values():
        assert kind.tensors is None or len(kind.values) >= kind.tensors
        assert not kind.sentences or set(kind.sentences) <= set(OPERATIONS)
