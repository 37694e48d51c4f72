"""Plans for serving: the bits of the module, for every layer, every operation and whole nets."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from service.engine import build
from service.engine.plan import compile_plan
from service.schemas.judgement import require
from tests.unit.engine import test_build as built


def both(raw: Any) -> tuple[nn.Module, Any]:
    architecture = require(raw).architecture
    assert architecture is not None
    module = build.build(architecture).eval()
    with torch.no_grad():  # numbers that a plan must take up, where torch's initial ones would hide a mistake
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5) if name.endswith("running_var") else buffer.normal_()
    return module, compile_plan(architecture, module)


def assert_equal(raw: Any, *inputs: torch.Tensor) -> None:
    module, plan = both(raw)
    with torch.inference_mode():
        wanted, got = module(*[x.clone() for x in inputs]), plan(*[x.clone() for x in inputs])
    assert_same(wanted, got)


def assert_same(wanted: Any, got: Any) -> None:
    assert type(wanted) is type(got)
    if isinstance(wanted, tuple):
        assert len(wanted) == len(got)
        for one, other in zip(wanted, got, strict=True):
            assert_same(one, other)
    else:
        assert torch.equal(wanted, got)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("row", [[32, 32, 32], [6, 28, 28], [3, 61, 47], [8, 1700, 3], [1, 2, 40_001]])
@pytest.mark.parametrize("rows", [1, 7, 31])
def test_pools_of_pairs_give_the_bits_and_the_layout_of_torchs(rows, row, layout):
    layer = {"type": "MaxPool2d", "kernel_size": 2}
    module, plan = both(built.document({"type": "Sequential", "layers": [layer]}, ["B", *row]))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, *row, generator=generator).round(decimals=1)
    for value in (torch.nan, torch.inf, -torch.inf):
        x.view(-1)[torch.randint(x.numel(), (9,), generator=generator)] = value
    x = x.contiguous(memory_format=layout)
    with torch.inference_mode():
        wanted, got = module(x), plan(x)

    assert torch.equal(wanted.nan_to_num(7.5), got.nan_to_num(7.5))
    assert got.stride() == wanted.stride() or min(got.shape[1:]) == 1


@pytest.mark.parametrize(
    "other",
    [{"stride": 1}, {"padding": 1}, {"dilation": 2}, {"ceil_mode": True}, {"kernel_size": [2, 3]}, {"kernel_size": 3}],
    ids=str,
)
def test_pools_of_anything_else_give_the_bits_of_torchs(other):
    layer = {"type": "MaxPool2d", "kernel_size": 2, **other}
    assert_equal(built.document({"type": "Sequential", "layers": [layer]}, ["B", 8, 61, 61]), torch.randn(3, 8, 61, 61))


@pytest.mark.parametrize(("layer", "row"), built.EVERY_SAMPLE)
def test_a_plan_gives_the_bits_of_every_layer(layer, row):
    whole = layer["type"] in ("Embedding", "EmbeddingBag")
    x = torch.zeros(3, *row, dtype=torch.int64) if whole else torch.randn(3, *row)
    dtype = "int64" if whole else "float32"
    assert_equal(built.document({"type": "Sequential", "layers": [layer]}, ["B", *row], dtype=dtype), x)


@pytest.mark.parametrize("expression", built.EXPRESSIONS)
def test_a_plan_gives_the_bits_of_every_operation(expression):
    used = [name for name in "xy" if name in expression.replace("max", "")]
    root = {"type": "Graph", "inputs": used, "forward": [f"return {expression}"]}
    raw = built.document(root, *([["B", 3, 4]] * len(used)))
    for spec, name in zip(raw["inputs"], used, strict=True):
        spec["name"] = name
    assert_equal(raw, *[torch.randn(2, 3, 4) for _ in used])


@settings(deadline=None, max_examples=40)
@given(built.nets())
def test_a_plan_gives_the_bits_of_generated_nets(raw):
    assert_equal(raw, torch.randn(3, *raw["inputs"][0]["shape"][1:]))


LAYERS = [
    {"name": "a", "type": "Linear", "in_features": 4, "out_features": 4},
    {"name": "act", "type": "ReLU", "inplace": True},
    {"name": "scale", "type": "Parameter", "shape": [4], "init": "normal"},
    {
        "name": "inner",
        "type": "Graph",
        "layers": [
            {"name": "l", "type": "Linear", "in_features": 4, "out_features": 2},
            {"name": "r", "type": "Linear", "in_features": 4, "out_features": 2},
        ],
        "forward": ["return l(x), r(x)"],
    },
]


@pytest.mark.parametrize(
    "forward",
    [
        ["h = act(a(x))", "p, q = inner(h)", "return p * q, h * scale"],
        ["h = a(x)", "y = act(h)", "p, q = inner(a(y))", "return cat(h + y, p, q, dim=1) , scale * h"],  # overwrites h
        ["p, q = inner(act(a(a(a(a(a(x)))))))", "return q - 1 + x[:, :2], 2 * p, x * scale"],
    ],
)
def test_a_plan_gives_the_bits_of_graphs_in_graphs(forward):
    raw = built.document({"type": "Graph", "layers": LAYERS, "forward": forward}, ["B", 4])
    assert_equal(raw, torch.randn(5, 4))


def test_a_plan_keeps_its_results_apart_from_call_to_call():
    raw = built.document({"type": "Graph", "layers": LAYERS[:1], "forward": ["h = a(x)", "return h, a(h)"]}, ["B", 4])
    module, plan = both(raw)
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    with torch.inference_mode():
        first = plan(x)
        kept = [value.clone() for value in first]
        plan(y)
        assert_same(tuple(kept), first)
        assert_same(module(y), plan(y))
