"""Free parameters and buffers, tied weights and initial weights by rule, as torch has them."""

import time
from typing import Any

import pytest
import torch

from service.engine.build import build, confirm
from service.engine.plan import compile_plan
from service.schemas.architecture import canonical_form, state_rows
from service.schemas.initial import matches
from service.schemas.judgement import judge, require


def graph(layers: list[Any], *forward: str, **members: Any) -> dict[str, Any]:
    root = {"type": "Graph", "layers": layers, "forward": list(forward)}
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 4]}], "root": root, **members}


def linear(name: str, wide: int = 4, high: int = 4, **members: Any) -> dict[str, Any]:
    return {"name": name, "type": "Linear", "in_features": wide, "out_features": high, **members}


FREE = [
    linear("first"),
    {"name": "scale", "type": "Parameter", "shape": [4], "init": "ones"},
    {"name": "shift", "type": "Buffer", "shape": [1, 4], "init": {"type": "constant", "value": 2}},
    {"name": "count", "type": "Buffer", "shape": [], "dtype": "int64", "persistent": False},
]


def test_free_tensors_come_first_in_the_state_dict_and_are_read_by_name():
    judged = require(graph(FREE, "return first(x) * scale + shift + count")).architecture
    assert judged is not None
    confirm(judged)
    module: Any = build(judged)
    assert list(module.state_dict()) == list(state_rows(judged)) == ["scale", "shift", "first.weight", "first.bias"]
    x = torch.randn(3, 4)
    assert torch.equal(module(x), module.first(x) * module.scale + module.shift)
    assert require(canonical_form(judged)).digest == require(judged).digest


def test_tied_weights_are_one_tensor_and_counted_once():
    document = graph([linear("a"), linear("b")], "return b(a(x))", tie=[{"from": "a.weight", "to": "b.weight"}])
    judgement = require(document)
    assert judgement.architecture is not None
    assert judgement.summary is not None
    module: Any = build(judgement.architecture)
    assert module.b.weight is module.a.weight
    assert judgement.summary["parameters"] == 24 == sum(p.numel() for p in module.parameters())
    assert list(module.state_dict()) == list(state_rows(judgement.architecture))


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"from": "a.weight", "to": "c.weight"}, "unknown-key"),
        ({"from": "a.wight", "to": "b.weight"}, "unknown-key"),
        ({"from": "a.weight", "to": "b.bias"}, "shape-mismatch"),
        ({"from": "a.weight", "to": "a.weight"}, "invalid"),
    ],
)
def test_a_wrong_tie_is_told(rule, code):
    document = graph([linear("a"), linear("b")], "return b(a(x))", tie=[rule])
    assert [error.code for error in judge(document).errors] == [code]


def test_rules_say_initial_weights_in_their_order():
    rules = [
        {"match": "**.weight", "init": {"type": "normal", "std": 0.01}},
        {"match": "**.bias", "layers": ["Linear"], "init": "zeros"},
        {"match": "b.weight", "init": "eye"},
    ]
    document = graph([linear("a"), linear("b")], "return b(a(x))", init=rules)
    judged = require(document).architecture
    assert judged is not None
    torch.manual_seed(0)
    module: Any = build(judged)
    assert module.a.weight.abs().max() < 0.1
    assert module.a.bias.tolist() == [0] * 4
    assert torch.equal(module.b.weight, torch.eye(4))
    assert canonical_form(judged)["init"][2] == {"match": "b.weight", "init": {"type": "eye"}}


@pytest.mark.parametrize(
    ("rule", "pointer", "code"),
    [
        ({"match": "c.*", "init": "zeros"}, "/init/0/match", "unknown-key"),
        ({"match": "a.bias", "init": "xavier_uniform"}, "/init/0/init", "shape-mismatch"),
        ({"match": "a.weight", "init": "dirac"}, "/init/0/init", "shape-mismatch"),
        ({"match": "a.weight", "init": "glorot"}, "/init/0/init/type", "unknown-type"),
        ({"match": "a..weight", "init": "zeros"}, "/init/0/match", "invalid"),
    ],
)
def test_a_wrong_rule_is_told(rule, pointer, code):
    judgement = judge(graph([linear("a")], "return a(x)", init=[rule]))
    assert [(error.pointer, error.code) for error in judgement.errors] == [(pointer, code)]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"type": "Parameter", "init": "xavier_uniform"}, "shape-mismatch"),
        ({"type": "Parameter", "init": "eye"}, "shape-mismatch"),
        ({"type": "Buffer", "init": "dirac"}, "shape-mismatch"),
        ({"type": "Buffer", "init": "normal", "dtype": "int64"}, "dtype-mismatch"),
        ({"type": "Buffer", "init": "normal", "persistent": False}, "invalid"),
        ({"type": "Buffer", "init": {"type": "constant", "value": 0.5}, "dtype": "int64"}, "dtype-mismatch"),
        ({"type": "Buffer", "init": {"type": "constant", "value": -1}, "dtype": "uint8"}, "dtype-mismatch"),
    ],
)
def test_values_that_a_free_tensor_cannot_begin_with_are_told(members, code):
    (error,) = judge(graph([{"name": "free", "shape": [4], **members}], "return x + free")).errors

    assert (error.pointer, error.code, error.layer) == ("/root/layers/0/init", code, "free")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("**.weight", "weight", True),
        ("**.weight", "a.b.weight", True),
        ("features.**", "features.0.conv.weight", True),
        ("features.**", "features", True),
        ("a.*.b", "a.xx.b", True),
        ("a.*.b", "a.x.y.b", False),
        ("**.conv*.weight", "layer1.0.conv2.weight", True),
        ("*1*2.b", "a1b2.b", True),
        ("*1*2.b", "a2b1.b", False),
        ("**", "a.b", True),
        ("a", "b", False),
    ],
)
def test_patterns_fit_names(pattern, name, fits):
    assert matches(pattern, name) == fits


@pytest.mark.parametrize(
    ("pattern", "name"), [("**." * 100 + "zz", "a." * 29 + "w"), ("*a" * 30 + "*b.w", "a" * 64 + ".w")]
)
def test_no_pattern_takes_long(pattern, name):
    started = time.process_time()
    assert not matches(pattern, name)
    assert time.process_time() - started < 10


def test_nothing_is_computed_in_place_and_a_value_that_is_read_again_is_warned_of():
    layers = [{"name": "r", "type": "SiLU", "inplace": True}, {"name": "p", "type": "Parameter", "shape": [4]}]
    document = graph(layers, "y = r(x)", "return x + y * p")
    judgement = require(document)
    assert judgement.architecture is not None
    assert [warning.code for warning in judgement.warnings] == ["overwrites"]
    module = build(judgement.architecture)
    x = torch.randn(3, 4)
    kept = x.clone()
    compile_plan(judgement.architecture, module.eval())(x)
    module(x)
    assert torch.equal(x, kept)
    without = graph([{"name": "r", "type": "SiLU"}, layers[1]], "y = r(x)", "return x + y * p")
    assert judgement.digest == require(without).digest
