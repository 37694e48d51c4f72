"""The Python for reading: executed here and nowhere else, it has the keys, weights and outputs of the built net."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from service.engine.build import DTYPES, build
from service.schemas import catalogue
from service.schemas.architecture import canonical_form, parse
from service.schemas.forward import from_lines
from service.schemas.judgement import Judgement, require
from service.schemas.layers import Graph
from service.schemas.python_source import python_source
from service.schemas.statements import forward_lines
from service.schemas.steps import BY_OPERATION, Step
from tests.unit.engine import test_modules as modules
from tests.unit.engine import test_operations as operations
from tests.unit.engine.test_build import EVERY_SAMPLE, NET, cifar, document, nets


def executed(source: str) -> nn.Module:
    """The net that the source makes."""
    names: dict[str, Any] = {}
    exec(compile(source, "net.py", "exec"), names)  # noqa: S102 - our own words, in a test
    net = names["net"]
    assert isinstance(net, nn.Module)
    return net


def same(raw: Any, *, seeded: bool = True) -> str:
    """See that the source of a document makes the net that is built of it, and give it back."""
    return same_as_judged(require(raw), seeded=seeded)


def same_as_judged(judgement: Judgement, *, seeded: bool = True) -> str:
    assert judgement.architecture is not None
    source = python_source(judgement.architecture)
    torch.manual_seed(3)
    ours = build(judgement.architecture)
    torch.manual_seed(3)
    theirs = executed(source)

    state = ours.state_dict()
    assert [(key, value.shape, value.dtype) for key, value in theirs.state_dict().items()] == [
        (key, value.shape, value.dtype) for key, value in state.items()
    ]
    if seeded:
        assert all(torch.equal(theirs.state_dict()[key], value) for key, value in state.items())
    theirs.load_state_dict(state)
    for training in (False, True):
        ours.train(training)
        theirs.train(training)
        inputs = given_to(judgement)
        torch.manual_seed(5)
        wanted = ours(*[x.clone() for x in inputs])
        torch.manual_seed(5)
        got = theirs(*[x.clone() for x in inputs])
        assert equal(got, wanted)
    return source


def given_to(judgement: Judgement) -> list[torch.Tensor]:
    assert judgement.architecture is not None
    inputs = []
    for spec in judgement.architecture.inputs:
        shape = [3, *(judgement.sizes[size] if isinstance(size, str) else size for size in spec.shape[1:])]
        floating = spec.dtype.startswith("float")
        made = torch.randn(shape) if floating else torch.randint(1, 3, shape)
        made = made.triu(1) if spec.dtype == "bool" and len(shape) > 1 else made
        inputs.append(made.to(DTYPES[spec.dtype]))
    return inputs


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    if a is None or b is None:
        return a is b
    same_values = (a == b) | (a.isnan() & b.isnan()) if a.dtype.is_floating_point else a == b
    return a.shape == b.shape and a.dtype == b.dtype and bool(same_values.all())


def graph(forward: list[Any], *layers: dict[str, Any], inputs: tuple[str, ...] = ("x",), **more: Any) -> dict[str, Any]:
    return {"type": "Graph", "inputs": list(inputs), "layers": list(layers), "forward": forward, **more}


def linear(name: str, n: int = 3, m: int = 3) -> dict[str, Any]:
    return {"name": name, "type": "Linear", "in_features": n, "out_features": m}


# As the tutorials write.


def test_the_regression_net_reads_as_in_the_tutorial():
    assert same(NET) == (
        """import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(1, 10)
        self.predict = nn.Linear(10, 1)

    def forward(self, x):
        return self.predict(F.relu(self.hidden(x)))


net = Net()
# net.load_state_dict(torch.load("weights.pt", weights_only=True))
"""
    )


def test_a_sequential_needs_no_class():
    layers = [linear("0", 1, 20) | {"name": None}, {"type": "ReLU"}, {"type": "Dropout", "p": 0.3}]

    assert same(document({"type": "Sequential", "layers": layers}, ["B", 1])) == (
        """import torch
from torch import nn

net = nn.Sequential(
    nn.Linear(1, 20),
    nn.ReLU(),
    nn.Dropout(0.3),
)
# net.load_state_dict(torch.load("weights.pt", weights_only=True))
"""
    )


def test_names_in_a_sequential_are_kept():
    layers = [linear("first"), {"name": "act", "type": "ReLU"}, linear("2")]
    source = same(document({"type": "Sequential", "layers": layers}, ["B", 3]))

    assert '            ("first", nn.Linear(3, 3)),\n            ("act", nn.ReLU()),\n' in source


BLOCK = graph(
    ["out = relu(bn1(conv1(x)))", "out = bn2(conv2(out))", "return relu(out + shortcut(x))"],
    {"name": "conv1", "type": "Conv2d", "in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1},
    {"name": "bn1", "type": "BatchNorm2d", "num_features": 4},
    {"name": "conv2", "type": "Conv2d", "in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1},
    {"name": "bn2", "type": "BatchNorm2d", "num_features": 4},
    {"name": "shortcut", "type": "Identity"},
    class_name="BasicBlock",
)


def test_equal_graphs_are_one_class_and_values_used_once_are_folded():
    root = graph(
        ["x = layer1(x)", "x = avgpool(x)", "return fc(flatten(x))"],
        {"name": "layer1", "type": "Sequential", "layers": [BLOCK, BLOCK]},
        {"name": "avgpool", "type": "AdaptiveAvgPool2d", "output_size": [1, 1]},
        linear("fc", 4, 10),
        class_name="ResNet",
    )
    source = same(document(root, ["B", 4, 8, 8]))

    assert source.count("class BasicBlock") == 1
    assert "return F.relu(self.bn2(out) + self.shortcut(x))" in source
    assert "return self.fc(torch.flatten(self.avgpool(self.layer1(x)), 1))" in source


def test_different_graphs_of_one_name_are_two_classes():
    first, second = graph(["return f(x)"], linear("f"), class_name="Part"), graph(["return f(f(x))"], linear("f"))
    root = graph(["return b(a(x))"], {"name": "a", **first}, {"name": "b", **second, "class_name": "Part"})
    source = same(document(root, ["B", 3]))

    assert "class Part(nn.Module):" in source
    assert "self.b = Part2()" in source


# Names that Python does not take.

NAMES = ["0", "lambda", "None", "__hidden", "net", "torch", "nn", "F", "self", "x", "getattr"]


def test_layers_with_any_allowed_name_keep_their_keys():
    forward: list[dict[str, Any]] = [{"op": "call", "layer": NAMES[0], "inputs": ["x"]}]
    for place, name in enumerate(NAMES[1:], 1):
        forward.append({"op": "call", "layer": name, "inputs": [f"%{place}"]})
    forward.append({"op": "return", "inputs": [f"%{len(NAMES)}"]})
    source = same(document(graph(forward, *map(linear, NAMES)), ["B", 3]))

    assert 'self.add_module("lambda", nn.Linear(3, 3))' in source
    assert 'getattr(self, "lambda")' in source


def test_inputs_with_any_allowed_name_are_only_places():
    names = ("self", "torch", "nn", "F", "self_", "getattr")
    root = graph(["return relu(self + torch) + nn * F, self_, getattr"], inputs=names)
    raw = {"schema": "arch/1", "inputs": [{"name": name, "shape": ["B", 3]} for name in names], "root": root}

    same(raw)


@pytest.mark.parametrize("name", ["class", "nn", "torch", "F", "super", "_", "Module", "net", "OrderedDict", "str"])
def test_classes_with_any_allowed_name_do_not_hide_what_is_needed(name):
    inner = {
        "name": "inner",
        **graph(["return seq(x)"], {"name": "seq", "type": "Sequential", "layers": [linear("a")]}),
    }
    root = graph(["return relu(inner(x))"], inner, linear("b") | {"name": "b"}, class_name=name)
    root["forward"] = ["return relu(b(inner(x)))"]
    inner["class_name"] = name

    same(document(root, ["B", 3]))


def test_no_label_is_in_the_source():
    source = python_source(require(NET | {"labels": {"note": '"""\nimport os'}}).architecture)  # type: ignore[arg-type]

    assert "import os" not in source


# Everything.


@pytest.mark.parametrize(("layer", "row"), EVERY_SAMPLE)
def test_every_layer_is_made_as_it_is_built(layer, row):
    dtype = "int64" if layer["type"] == "Embedding" else "float32"

    same(document({"type": "Sequential", "layers": [layer]}, ["B", *row], dtype=dtype))


@pytest.mark.parametrize("expression", [*operations.SAMPLES])
def test_every_operation_is_written_so_that_torch_computes_the_same(expression):
    judgement = operations.judged(expression)

    same_as_judged(judgement)
    assert_round_trip(judgement)


def test_every_operation_has_been_written():
    """A new kind of step is among the samples of the operations, or named here, for a test that has it."""
    elsewhere = {"call", "item", "return", "tuple", "param"}
    every = {op for kind in get_args(Step) for op in get_args(kind.model_fields["op"].annotation)}

    assert every == set(BY_OPERATION) | elsewhere


@pytest.mark.parametrize("training", [True, False], ids=["training", "predicting"])
def test_what_follows_training_does_so(training):
    line = "return scaled_dot_product_attention(q, q, q, dropout_p=0.5, scale=0.3) + dropout(q)"
    raw = {"schema": "arch/1", "inputs": [{"name": "q", "shape": ["B", 2, 5, 4]}], "root": graph([line], inputs=("q",))}

    source = same(raw)

    assert "dropout_p=0.5 if self.training else 0.0" in source
    assert "F.dropout(q, training=self.training)" in source


@pytest.mark.parametrize("raw", modules.NETS.values(), ids=modules.NETS)
def test_nets_with_layers_of_several_values(raw):
    same(raw)
    assert_round_trip(require(raw))


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # of torch's choice of a kernel
@pytest.mark.parametrize(("layer", "call"), modules.EVERY_CALL)
def test_every_layer_of_several_values_is_made_as_it_is_built(layer, call):
    raw = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": layer}
    torch.manual_seed(3)
    ours = build(parse(raw)).eval()
    torch.manual_seed(3)
    theirs = executed(python_source(parse(raw))).eval()

    assert [(key, value.shape) for key, value in theirs.state_dict().items()] == [
        (key, value.shape) for key, value in ours.state_dict().items()
    ]
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())
    given = modules.tensors(call, 3)
    given.pop("lengths", None)  # in a net they are packed; see the nets
    assert all(map(equal, modules.parts(theirs(**given)), modules.parts(ours(**given))))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("first", [True, False], ids=["batch first", "steps first"])
def test_true_lengths_are_packed(kind, first):
    layer = {"name": "f", "type": kind, "input_size": 3, "hidden_size": 4, "batch_first": first, "bidirectional": True}
    x = "x" if first else "transpose(x, 0, 1)"
    root = graph([f"out, _ = f({x}, lengths=n)", f"return {'out' if first else 'transpose(out, 0, 1)'}"], layer,
                 inputs=("x", "n"))  # fmt: skip
    inputs = [{"name": "x", "shape": ["B", 5, 3]}, {"name": "n", "shape": ["B"], "dtype": "int64"}]

    assert "= run_packed(self.f, x" in same({"schema": "arch/1", "inputs": inputs, "root": root})


# Whole nets.


@pytest.mark.parametrize("name", catalogue.names())
def test_a_net_of_the_catalogue_has_its_keys(name):
    judgement = require(catalogue.document(name))
    assert judgement.architecture is not None
    with torch.device("meta"):
        theirs = executed(python_source(judgement.architecture))
        ours = build(judgement.architecture, device="meta")

    assert [(key, value.shape) for key, value in theirs.state_dict().items()] == [
        (key, value.shape) for key, value in ours.state_dict().items()
    ]


@pytest.mark.parametrize("name", ["mlp", "resnet18", "lstm_text", "transformer_text"])
def test_a_net_of_the_catalogue_computes_the_same(name):
    judgement = require(catalogue.document(name))
    if "H" in judgement.sizes:
        judgement = replace(judgement, sizes={**judgement.sizes, "H": 40, "W": 40})
    assert judgement.architecture is not None

    same_as_judged(judgement, seeded=not judgement.architecture.init)


def test_resnet18_reads_as_one_would_write_it():
    judgement = require(catalogue.document("resnet18"))
    assert judgement.architecture is not None
    source = python_source(judgement.architecture)

    assert "return self.fc(torch.flatten(self.avgpool(x), 1))" in source
    assert re.findall(r"class (\w+)", source) == ["BasicBlock", "BasicBlock2", "ResNet"]
    assert "    def __init__(self, in_channels, channels):\n" in source
    assert "            BasicBlock2(64, 128),\n            BasicBlock(128),\n" in source


def test_numbers_that_vary_are_what_a_class_is_made_with():
    """Through two levels of graphs, and where classes have the names of members."""

    def part(name: str, n: int, p: float) -> dict[str, Any]:
        inner = graph(["return drop(f(x))"], linear("f", n, n), {"name": "drop", "type": "Dropout", "p": p})
        outer = graph(["return inner(x)"], {"name": "inner", **inner, "class_name": "features"})
        return {"name": name, **outer, "class_name": "p"}

    source = same(document(graph(["return b(a(x))"], part("a", 3, 0.1), part("b", 3, 0.2)), ["B", 3]))

    assert "class features(nn.Module):\n    def __init__(self, p):\n" in source
    assert "        self.drop = nn.Dropout(p)\n" in source
    assert "class p(nn.Module):\n    def __init__(self, p2):\n" in source
    assert "        self.b = p(0.2)\n" in source


def test_rules_for_initial_weights_are_named_where_they_are_not_told():
    raw = NET | {"init": [{"match": "**.bias", "init": "zeros"}]}

    assert "\n# The document fills its weights by rules of its own" in same(raw, seeded=False)


def test_tied_weights_are_one_tensor():
    root = graph(["return out(f(x))"], linear("f"), linear("out"))
    raw = document(root, ["B", 3]) | {"tie": [{"from": "f.weight", "to": "out.weight"}]}
    source = same(raw)

    assert "net.out.weight = net.f.weight\n" in source
    net = executed(source)
    assert net.get_parameter("f.weight") is net.get_parameter("out.weight")


@pytest.mark.parametrize(
    ("init", "written"),
    [
        ("zeros", "torch.zeros(1, 3)"),
        ({"type": "constant", "value": 2}, "torch.full((1, 3), 2.0)"),
        ("normal", "torch.randn(1, 3)"),
        ({"type": "trunc_normal", "std": 0.02}, "nn.init.trunc_normal_(torch.empty(1, 3), std=0.02)"),
        ({"type": "kaiming_normal", "nonlinearity": "relu"}, None),
        ({"type": "uniform", "a": -1}, "nn.init.uniform_(torch.empty(1, 3), a=-1.0)"),
        ("xavier_uniform", "nn.init.xavier_uniform_(torch.empty(1, 3))"),
        ("orthogonal", "nn.init.orthogonal_(torch.empty(1, 3))"),
        ("eye", "nn.init.eye_(torch.empty(1, 3))"),
    ],
    ids=str,
)
def test_free_tensors_are_filled_as_the_document_says(init, written):
    layers = [{"name": "scale", "type": "Parameter", "shape": [1, 3], "init": init},
              {"name": "lambda", "type": "Parameter", "shape": [1, 3]},
              {"name": "seen", "type": "Buffer", "shape": [1, 3], "dtype": "int64", "init": "ones"},
              {"name": "off", "type": "Buffer", "shape": [], "persistent": False}]  # fmt: skip
    steps = [{"op": "param", "layer": layer["name"]} for layer in layers]
    steps += [{"op": "add", "inputs": inputs} for inputs in (["x", "%1"], ["%5", "%2"], ["%6", "%3"], ["%7", "%4"])]
    source = same(document(graph([*steps, {"op": "return", "inputs": ["%8"]}], *layers), ["B", 3]))

    assert written is None or written in source
    assert 'self.register_buffer("seen", torch.ones(1, 3, dtype=torch.int64))' in source
    assert 'self.register_buffer("off", torch.zeros(()), persistent=False)' in source
    assert 'self.register_parameter("lambda", nn.Parameter(torch.zeros(1, 3)))' in source


def test_the_cifar_net():
    assert "self.model = nn.Sequential(\n            nn.Conv2d(3, 32, 5, padding=2),\n" in same(cifar())


@settings(deadline=None, max_examples=40)
@given(nets())
def test_generated_nets_read_as_they_are_built(raw):
    same(raw)


@st.composite
def programs(draw: st.DrawFn) -> dict[str, Any]:
    """A graph of random steps over values of one shape, with values that are used often, once, and out of order."""
    layers = [linear("f", 4, 4), linear("g", 4, 4), {"name": "drop", "type": "Dropout"},
              {"name": "pair", **graph(["return x + 1, -x"])}]  # fmt: skip
    values = ["x", "y"]
    steps: list[dict[str, Any]] = []

    def add(**step: Any) -> str:
        steps.append(step)
        return f"%{len(steps)}"

    for _ in range(draw(st.integers(0, 14))):
        a, b = draw(st.sampled_from(values[-5:])), draw(st.sampled_from(values[-5:]))
        number = draw(st.sampled_from([-2, 0.5, 3, 1e-5]))
        match draw(st.sampled_from(["call", "pair", "add", "number", "neg", "unary", "cat", "reshape"])):
            case "call":
                values.append(add(op="call", layer=draw(st.sampled_from(["f", "g", "drop"])), inputs=[a]))
            case "pair":
                both = add(op="call", layer="pair", inputs=[a])
                order = draw(st.sampled_from([(0, 1), (1, 0), (1,)]))
                values += [add(op="item", inputs=[both], index=index) for index in order]
            case "add":
                values.append(add(op=draw(st.sampled_from(["add", "sub", "mul"])), inputs=[a, b]))
            case "number":
                inputs = draw(st.sampled_from([[a, number], [number, a]]))
                values.append(add(op=draw(st.sampled_from(["add", "sub", "mul"])), inputs=inputs))
            case "neg":
                values.append(add(op="neg", inputs=[a]))
            case "unary":
                values.append(add(op=draw(st.sampled_from(["relu", "tanh", "dropout"])), inputs=[a]))
            case "cat":
                both = add(op="cat", inputs=[a, b], dim=1)
                values.append(add(op="getitem", inputs=[both], index=[[None, None, None], [2, 6, None]]))
            case _:
                values.append(add(op="reshape", inputs=[a], shape=[2, -1]))
                values.append(add(op="flatten", inputs=[values.pop()]))
    used = {name for step in steps for name in step["inputs"] if isinstance(name, str)}
    loose = [f"%{n}" for n in range(1, len(steps) + 1) if f"%{n}" not in used] or ["x", "y"]
    called = {step["layer"] for step in steps if step["op"] == "call"}
    steps.append({"op": "return", "inputs": loose})
    layers = [layer for layer in layers if layer["name"] in called]
    return document(graph(steps, *layers, inputs=("x", "y")), ["B", 4], ["B", 4])


@settings(deadline=None, max_examples=150)
@given(programs())
def test_generated_forwards_compute_the_same(raw):
    same(raw)
    assert_round_trip(raw)


# Lines.


def assert_round_trip(raw: Any) -> list[str]:
    judgement = raw if isinstance(raw, Judgement) else require(raw)
    assert judgement.architecture is not None
    root = judgement.architecture.root
    assert isinstance(root, Graph)
    lines = forward_lines(root)
    assert from_lines(tuple(lines), root.inputs, root.names, root.free).steps == root.steps
    return lines


def test_a_canonical_forward_is_lines_again():
    judgement = require(document(BLOCK, ["B", 4, 8, 8]))
    assert judgement.architecture is not None

    assert assert_round_trip(canonical_form(judgement.architecture)) == [
        "out = conv2(relu(bn1(conv1(x))))",
        "return relu(bn2(out) + shortcut(x))",
    ]


def test_several_values_are_taken_apart_and_free_tensors_are_names():
    root = graph(
        ["a, b = pair(x)", "return b / a + scale"],
        {"name": "pair", **graph(["return x + 4, x * 3"])},
        {"name": "scale", "type": "Parameter", "shape": [1, 3], "init": {"type": "normal", "std": 0.02}},
    )
    source = same(document(root, ["B", 3]))

    assert assert_round_trip(document(root, ["B", 3])) == ["x, out = pair(x)", "return out / x + scale"]
    assert "self.scale = nn.Parameter(nn.init.normal_(torch.empty(1, 3), std=0.02))" in source
    assert "return out / x + self.scale" in source


def test_the_order_of_steps_is_kept_where_folding_would_change_it():
    root = graph(["a = g(x)", "b = f(x)", "return b - a"], linear("f"), linear("g"))

    assert assert_round_trip(document(root, ["B", 3])) == ["out = g(x)", "return f(x) - out"]


# Layout.


def test_a_formatter_has_nothing_to_change(tmp_path: Path):
    """Long constructors, long inputs, long lines."""
    ruff = Path(sys.executable).with_name("ruff")
    names = tuple(f"a_rather_long_name_{n}" for n in range(8))
    conv = {"in_channels": 16, "out_channels": 32, "kernel_size": [3, 5], "stride": [2, 1], "padding": [1, 2],
            "padding_mode": "reflect", "bias": False}  # fmt: skip
    root = graph(
        [f"x = cat({', '.join(names)}, dim=1)", "return convolution_with_many_arguments(x)"],
        {"name": "convolution_with_many_arguments", "type": "Conv2d", **conv},
        inputs=names,
    )
    inputs = [{"name": name, "shape": ["B", 2, 8, 8]} for name in names]
    block = document(graph(["return tail(blocks(x))"], {"name": "blocks", "type": "Sequential", "layers": [BLOCK]},
                           {"name": "tail", "type": "Sequential", "layers": [BLOCK | {"name": "one"}]}),
                     ["B", 4, 8, 8])  # fmt: skip
    for number, raw in enumerate((NET, cifar(), block, {"schema": "arch/1", "inputs": inputs, "root": root})):
        page = tmp_path / f"net_{number}.py"
        page.write_text(same(raw))
        done = subprocess.run([ruff, "format", "--isolated", "--diff", str(page)], capture_output=True, text=True)
        assert done.stdout == ""


def test_the_source_of_a_document_is_always_the_same():
    shuffled = dict(random.sample(list(NET.items()), len(NET)))

    assert python_source(require(shuffled).architecture) == python_source(require(NET).architecture)  # type: ignore[arg-type]
