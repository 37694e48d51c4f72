"""Building: torch's keys, torch's initial weights, torch's numbers, and the judge's arithmetic held against torch."""

import copy
import gc
import json
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.engine.build import DTYPES, TORCH_LAYERS, build, confirm
from service.errors import ArchitectureInvalid
from service.schemas.architecture import authored, canonical_form, digest_of, leaves, parse
from service.schemas.judgement import judge, require
from service.schemas.layers import LAYER_KINDS
from service.schemas.leaf import Leaf
from service.schemas.shapes import DType, TensorSpec


def document(root: Any, *shapes: list[Any], dtype: str = "float32") -> dict[str, Any]:
    names = "xyz"
    inputs = [{"name": names[place], "shape": shape, "dtype": dtype} for place, shape in enumerate(shapes)]
    return {"schema": "arch/1", "inputs": inputs, "root": root}


def made(raw: Any) -> nn.Module:
    return build(require(raw).architecture)  # type: ignore[arg-type]


NET = document(
    {
        "type": "Graph",
        "class_name": "Net",
        "layers": [
            {"name": "hidden", "type": "Linear", "in_features": 1, "out_features": 10},
            {"name": "predict", "type": "Linear", "in_features": 10, "out_features": 1},
        ],
        "forward": ["x = relu(hidden(x))", "return predict(x)"],
    },
    ["B", 1],
)


class Net(nn.Module):
    """The tutorial's class."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, 10)
        self.predict = nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(F.relu(self.hidden(x)))


# Every kind.

CHANNELS = {"out_channels": 4, "kernel_size": 3}
SAMPLES: dict[str, list[tuple[dict[str, Any], list[int]]]] = {
    "Identity": [({}, [3])],
    "Linear": [
        ({"in_features": 3, "out_features": 4}, [3]),
        ({"in_features": "auto", "out_features": 4, "bias": False}, [2, 5]),
    ],
    "Flatten": [({}, [2, 3, 4]), ({"start_dim": 2, "end_dim": 3}, [2, 3, 4, 5])],
    "Unflatten": [
        ({"dim": 1, "unflattened_size": [2, 3]}, [6, 2]),
        ({"dim": -1, "unflattened_size": [-1, 2]}, [3, 6]),
        ({"dim": 1, "unflattened_size": 6}, [6, 2]),
    ],
    "Fold": [
        ({"output_size": [4, 5], "kernel_size": 2}, [12, 12]),
        ({"output_size": 6, "kernel_size": [3, 2], "dilation": [1, 2], "padding": [1, 0], "stride": [2, 1]}, [6, 12]),
    ],
    "Unfold": [
        ({"kernel_size": 2}, [3, 4, 5]),
        ({"kernel_size": [3, 2], "dilation": [1, 2], "padding": [1, 0], "stride": [2, 1]}, [1, 6, 6]),
    ],
    "Dropout": [({"p": 0.1}, [3])],
    "Dropout1d": [({}, [3, 4])],
    "Dropout2d": [({}, [3, 4, 4])],
    "Dropout3d": [({}, [3, 4, 4, 4])],
    "AlphaDropout": [({}, [3])],
    "FeatureAlphaDropout": [({}, [3, 4])],
    "Conv1d": [
        ({"in_channels": 2, **CHANNELS}, [2, 9]),
        (
            {"in_channels": "auto", **CHANNELS, "stride": 2, "padding": 2, "dilation": 2, "padding_mode": "reflect"},
            [2, 9],
        ),
    ],
    "Conv2d": [
        ({"in_channels": 2, **CHANNELS}, [2, 9, 8]),
        (
            {"in_channels": "auto", **CHANNELS, "padding": "same", "dilation": [2, 1], "groups": 2, "bias": False},
            [2, 9, 8],
        ),
        (
            {"in_channels": 2, **CHANNELS, "padding": [3, 1], "stride": [2, 3], "padding_mode": "circular"},
            [2, 9, 8],
        ),
        ({"in_channels": 2, **CHANNELS, "padding": "valid"}, [2, 9, 8]),
    ],
    "Conv3d": [
        ({"in_channels": 2, **CHANNELS}, [2, 5, 6, 7]),
        ({"in_channels": "auto", **CHANNELS, "padding": "same", "groups": 2, "padding_mode": "circular"}, [2, 5, 6, 7]),
        (
            {"in_channels": 2, **CHANNELS, "padding": [1, 2, 0], "stride": [2, 1, 3], "padding_mode": "reflect"},
            [2, 5, 6, 7],
        ),
    ],
    "ConvTranspose1d": [
        ({"in_channels": 2, **CHANNELS}, [2, 9]),
        ({"in_channels": 2, **CHANNELS, "groups": 2, "stride": 3, "output_padding": 2, "padding": 1}, [2, 9]),
    ],
    "ConvTranspose2d": [
        ({"in_channels": 2, **CHANNELS}, [2, 9, 8]),
        ({"in_channels": "auto", **CHANNELS, "stride": [2, 3], "dilation": 2, "bias": False}, [2, 9, 8]),
    ],
    "ConvTranspose3d": [
        ({"in_channels": 2, **CHANNELS}, [2, 3, 4, 5]),
        (
            {"in_channels": "auto", **CHANNELS, "stride": [2, 3, 1], "dilation": 2, "output_padding": [1, 2, 0]},
            [2, 3, 4, 5],
        ),
    ],
    "MaxPool1d": [({"kernel_size": 3}, [2, 10]), ({"kernel_size": 3, "ceil_mode": True, "padding": 1}, [2, 10])],
    "MaxPool2d": [
        ({"kernel_size": 3}, [2, 10, 9]),
        ({"kernel_size": [3, 2], "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}, [2, 10, 9]),
        ({"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}, [2, 6, 7]),
    ],
    "MaxPool3d": [
        ({"kernel_size": 2}, [2, 5, 6, 7]),
        ({"kernel_size": [3, 2, 1], "stride": 2, "padding": [1, 1, 0], "dilation": 2, "ceil_mode": True}, [2, 6, 6, 7]),
        ({"kernel_size": 2}, [5, 6, 7]),
    ],
    "FractionalMaxPool2d": [
        ({"kernel_size": 2, "output_size": [4, 3]}, [2, 5, 7]),
        ({"kernel_size": [2, 3], "output_ratio": [0.5, 0.7]}, [2, 9, 9]),
        ({"kernel_size": 2, "output_ratio": 0.5}, [9, 9]),
    ],
    "FractionalMaxPool3d": [
        ({"kernel_size": 2, "output_size": 3}, [2, 5, 6, 7]),
        ({"kernel_size": [1, 2, 3], "output_ratio": [0.5, 0.6, 0.4]}, [2, 7, 8, 9]),
    ],
    "LPPool1d": [({"norm_type": 2, "kernel_size": 3}, [2, 10]), ({"norm_type": 4, "kernel_size": 3}, [10])],
    "LPPool2d": [({"norm_type": 2, "kernel_size": [3, 2], "stride": 1, "ceil_mode": True}, [2, 10, 9])],
    "LPPool3d": [({"norm_type": 4, "kernel_size": [3, 2, 1], "stride": 2, "ceil_mode": True}, [2, 7, 7, 7])],
    "AvgPool3d": [
        ({"kernel_size": 3}, [2, 5, 6, 7]),
        ({"kernel_size": 3, "padding": 1, "count_include_pad": False, "divisor_override": 2}, [2, 5, 6, 7]),
    ],
    "AvgPool1d": [({"kernel_size": 3}, [2, 10]), ({"kernel_size": 3, "stride": 2, "ceil_mode": True}, [2, 10])],
    "AvgPool2d": [
        ({"kernel_size": 3}, [2, 10, 9]),
        ({"kernel_size": 3, "padding": 1, "count_include_pad": False, "divisor_override": 2}, [2, 10, 9]),
    ],
    "AdaptiveAvgPool1d": [({"output_size": 4}, [2, 10])],
    "AdaptiveAvgPool2d": [({"output_size": 4}, [2, 10, 9]), ({"output_size": [None, 3]}, [2, 10, 9])],
    "AdaptiveMaxPool1d": [({"output_size": 4}, [2, 10])],
    "AdaptiveMaxPool2d": [({"output_size": [4, 3]}, [2, 10, 9]), ({"output_size": None}, [2, 10, 9])],
    "AdaptiveAvgPool3d": [({"output_size": [4, None, 2]}, [2, 5, 6, 7]), ({"output_size": 1}, [5, 6, 7])],
    "AdaptiveMaxPool3d": [({"output_size": [4, None, 2]}, [2, 5, 6, 7])],
    "BatchNorm1d": [
        ({"num_features": 3}, [3]),
        ({"num_features": "auto", "affine": False, "momentum": None}, [3, 4]),
        ({"num_features": 3, "track_running_stats": False}, [3, 4]),
    ],
    "BatchNorm2d": [({"num_features": 3}, [3, 4, 4])],
    "BatchNorm3d": [({"num_features": "auto"}, [3, 4, 4, 4])],
    "SyncBatchNorm": [
        ({"num_features": 3}, [3]),
        ({"num_features": "auto", "momentum": None}, [3, 4, 4]),
        ({"num_features": 3, "affine": False, "track_running_stats": False}, [3, 4, 2, 2, 2]),
    ],
    "InstanceNorm1d": [({"num_features": 3}, [3, 4])],
    "InstanceNorm2d": [({"num_features": "auto", "affine": True, "track_running_stats": True}, [3, 4, 4])],
    "InstanceNorm3d": [({"num_features": "auto", "affine": True, "track_running_stats": True}, [3, 4, 4, 2])],
    "GroupNorm": [
        ({"num_groups": 2, "num_channels": 4}, [4, 5]),
        ({"num_groups": 2, "num_channels": "auto", "affine": False}, [4]),
    ],
    "LayerNorm": [
        ({"normalized_shape": 4}, [3, 4]),
        ({"normalized_shape": [3, 4], "bias": False}, [3, 4]),
        ({"normalized_shape": "auto"}, [3, 4]),
    ],
    "RMSNorm": [({"normalized_shape": [4]}, [3, 4])],
    "LocalResponseNorm": [({"size": 2}, [3, 4])],
    "CrossMapLRN2d": [({"size": 3}, [5, 4, 4]), ({"size": 4, "k": 2}, [2, 4, 4])],
    "Embedding": [({"num_embeddings": 5, "embedding_dim": 3, "padding_idx": -1}, [4])],
    "ReLU": [({"inplace": True}, [3])],
    "ReLU6": [({}, [3])],
    "LeakyReLU": [({"negative_slope": 0.2}, [3])],
    "PReLU": [({}, [3]), ({"num_parameters": 3}, [3, 4])],
    "RReLU": [({}, [3])],
    "ELU": [({"alpha": 0.5}, [3])],
    "CELU": [({}, [3])],
    "SELU": [({}, [3])],
    "GELU": [({"approximate": "tanh"}, [3])],
    "SiLU": [({}, [3])],
    "Mish": [({}, [3])],
    "Sigmoid": [({}, [3])],
    "LogSigmoid": [({}, [3])],
    "Tanh": [({}, [3])],
    "Hardtanh": [({"min_val": 0.0, "max_val": 2}, [3])],
    "Hardsigmoid": [({}, [3])],
    "Hardswish": [({}, [3])],
    "Hardshrink": [({}, [3])],
    "Softshrink": [({"lambd": 0.1}, [3])],
    "Threshold": [({"threshold": 0.5, "value": 7}, [3])],
    "Softplus": [({}, [3])],
    "Softsign": [({}, [3])],
    "Tanhshrink": [({}, [3])],
    "Softmin": [({"dim": -1}, [3])],
    "Softmax": [({"dim": 1}, [3, 4]), ({}, [3])],
    "LogSoftmax": [({"dim": 2}, [3, 4])],
    "Softmax2d": [({}, [3, 4, 4])],
    "GLU": [({}, [3, 4]), ({"dim": 1}, [6])],
    "ZeroPad1d": [({"padding": [1, 2]}, [3, 4])],
    "ZeroPad2d": [({"padding": 1}, [3, 4, 4]), ({"padding": [1, 2, 3, 0]}, [3, 4, 4])],
    "ZeroPad3d": [({"padding": 1}, [3, 4, 4, 4]), ({"padding": [1, 2, 3, 0, 4, 5]}, [3, 4, 4, 4])],
    "ConstantPad3d": [({"padding": [1, 2, 3, 0, 4, 5], "value": 1.5}, [3, 4, 4, 4])],
    "ReflectionPad3d": [({"padding": [3, 0, 2, 1, 1, 3]}, [3, 4, 4, 4])],
    "ReplicationPad3d": [({"padding": [7, 0, 2, 1, 0, 1]}, [3, 4, 5, 3]), ({"padding": 1}, [4, 5, 3])],
    "CircularPad1d": [({"padding": [4, 1]}, [3, 4])],
    "CircularPad3d": [({"padding": [4, 0, 3, 1, 0, 2]}, [3, 2, 5, 4])],
    "ConstantPad1d": [({"padding": 2, "value": 1.5}, [3, 4])],
    "ConstantPad2d": [({"padding": [1, 0, 0, 1], "value": 1.5}, [3, 4, 4])],
    "ReflectionPad1d": [({"padding": [1, 3]}, [3, 4])],
    "ReflectionPad2d": [({"padding": [3, 0, 2, 1]}, [3, 4, 4])],
    "ReplicationPad1d": [({"padding": 7}, [3, 4])],
    "ReplicationPad2d": [({"padding": [7, 0, 2, 1]}, [3, 4, 5])],
    "CircularPad2d": [({"padding": [4, 0, 3, 1]}, [3, 5, 4])],
    "Upsample": [
        ({"size": [3, 5]}, [3, 4, 4]),
        ({"scale_factor": 2}, [3, 4]),
        ({"scale_factor": 1.7, "mode": "bilinear", "align_corners": True}, [3, 4, 5]),
        ({"scale_factor": [1.5, 0.4], "mode": "bicubic"}, [3, 7, 9]),
        ({"size": 9, "mode": "linear"}, [3, 4]),
        ({"scale_factor": [1.5, 0.4, 2], "mode": "trilinear", "align_corners": True}, [3, 4, 5, 6]),
        ({"size": [3, 5, 4], "mode": "nearest-exact"}, [3, 4, 4, 4]),
        ({"scale_factor": 1.7, "mode": "nearest-exact"}, [3, 4]),
    ],
    "UpsamplingNearest2d": [({"size": 7}, [3, 4, 5]), ({"scale_factor": [1.5, 2]}, [3, 4, 5])],
    "UpsamplingBilinear2d": [({"size": [7, 3]}, [3, 4, 5]), ({"scale_factor": 1.5}, [3, 4, 5])],
    "PixelShuffle": [({"upscale_factor": 2}, [8, 3, 4])],
    "PixelUnshuffle": [({"downscale_factor": 2}, [3, 4, 6])],
    "ChannelShuffle": [({"groups": 2}, [4, 3])],
}
"""Arguments and a row to give, at least one pair for every kind that takes one value."""

EVERY_SAMPLE = [
    pytest.param({"type": kind, **arguments}, row, id=f"{kind}-{number}")
    for kind, samples in SAMPLES.items()
    for number, (arguments, row) in enumerate(samples)
]


def test_every_kind_has_a_builder_and_a_sample():
    """Kinds that take several values have theirs in `test_modules`."""
    assert set(SAMPLES) == {name for name, kind in LAYER_KINDS.items() if len(kind.arguments) == 1}
    assert set(TORCH_LAYERS) == set(LAYER_KINDS.values())
    for kind, torch_class in TORCH_LAYERS.items():
        assert issubclass(torch_class, getattr(nn, kind.__name__))
        assert torch_class.__name__ == kind.__name__


@pytest.mark.parametrize(("layer", "row"), EVERY_SAMPLE)
def test_every_layer_builds_as_judged_and_loads_its_own_state(layer, row):
    dtype = "int64" if layer["type"] == "Embedding" else "float32"
    raw = document({"type": "Sequential", "layers": [layer]}, ["B", *row], dtype=dtype)
    judgement = require(raw)
    assert judgement.architecture is not None
    assert judgement.summary is not None
    module = build(judgement.architecture)
    again = parse(json.loads(json.dumps(authored(judgement.architecture))))

    confirm(judgement.architecture)
    assert again == judgement.architecture
    assert digest_of(parse(canonical_form(again))) == judgement.digest
    ((_, _, leaf),) = leaves(judgement.architecture)
    assert [(n, tuple(p.shape)) for n, p in module[0].named_parameters()] == list(leaf.parameters().items())  # type: ignore[index]
    assert [(n, tuple(b.shape)) for n, b in module[0].named_buffers()] == list(leaf.buffers().items())  # type: ignore[index]
    for training in (True, False):
        x = torch.zeros(3, *row, dtype=DTYPES[dtype])
        out = module.train(training)(x)
        assert list(out.shape[1:]) == judgement.summary["outputs"][0]["shape"][1:]
        assert out.dtype is DTYPES[judgement.summary["outputs"][0]["dtype"]]
    twin = build(judgement.architecture)
    assert twin.load_state_dict(module.state_dict()) == nn.modules.module._IncompatibleKeys([], [])
    x = torch.randn(3, *row) if dtype == "float32" else x
    assert torch.equal(twin.eval()(x.clone()), module.eval()(x.clone()))


def alone(layer: dict[str, Any], row: list[int]) -> tuple[Leaf, nn.Module, Tensor]:
    """A layer that takes one value, its class, and three rows."""
    judged = require(document(layer, ["B", *row], dtype="int64" if layer["type"] == "Embedding" else "float32"))
    assert judged.architecture is not None
    assert isinstance(judged.architecture.root, Leaf)
    shape = (3, *row)
    given = torch.randint(0, 5, shape) if layer["type"] == "Embedding" else torch.randn(shape)
    return judged.architecture.root, build(judged.architecture).eval(), given


@pytest.mark.parametrize(("layer", "row"), EVERY_SAMPLE)
def test_the_rows_of_a_batch_do_not_see_each_other(layer, row):
    """Or the author is told."""
    leaf, module, x = alone(layer, row)
    together = module(x.clone())
    single = torch.cat([module(x[number : number + 1].clone()) for number in range(3)])

    told = any("depend on the rows" in remark for remark in leaf.remarks())
    assert told or torch.allclose(together, single, atol=1e-5)


@pytest.mark.parametrize(("layer", "row"), EVERY_SAMPLE)
def test_constants_and_batches_in_another_place_come_out_as_torch_has_them(layer, row):
    leaf, module, x = alone(layer, row)
    dtype: DType = "int64" if layer["type"] == "Embedding" else "float32"

    constant = leaf.outcome({"input": TensorSpec((3, *row), dtype, None)})
    assert isinstance(constant, TensorSpec)
    assert (constant.row, constant.batch) == (tuple(module(x.clone()).shape), None)
    if leaf.reached is not None and len(row) > leaf.reached:
        turned = leaf.outcome({"input": TensorSpec(tuple(row), dtype, 1)})
        assert isinstance(turned, TensorSpec)
        out = module(x.transpose(0, 1).clone())
        assert [3 if size is None else size for size in turned.sizes] == list(out.shape)


# Generated nets.


@st.composite
def nets(draw: st.DrawFn) -> dict[str, Any]:
    """A convolutional net, or an MLP, that is right."""
    layers: list[dict[str, Any]] = []
    channels = draw(st.integers(1, 4))
    if draw(st.booleans()):
        shape = [channels, draw(st.integers(32, 40)), draw(st.integers(32, 40))]
        for _ in range(draw(st.integers(1, 3))):
            out = draw(st.integers(1, 4))
            layers.append(
                {
                    "type": "Conv2d",
                    "in_channels": draw(st.sampled_from(["auto", channels])),
                    "out_channels": out,
                    "kernel_size": draw(st.sampled_from([1, 3, [3, 1], [1, 3]])),
                    "padding": draw(st.sampled_from([0, 1, [1, 0]])),
                    "stride": draw(st.sampled_from([1, 1, [1, 2]])),
                    "bias": draw(st.booleans()),
                }
            )
            channels = out
            layers.append(draw(st.sampled_from([{"type": "ReLU"}, {"type": "BatchNorm2d", "num_features": "auto"}])))
        pool = {"kernel_size": 2, "ceil_mode": draw(st.booleans()), "padding": draw(st.integers(0, 1))}
        layers += [{"type": draw(st.sampled_from(["MaxPool2d", "AvgPool2d"])), **pool}, {"type": "Flatten"}]
    else:
        shape = [channels]
    for _ in range(draw(st.integers(1, 3))):
        layers.append({"type": "Linear", "in_features": "auto", "out_features": draw(st.integers(1, 8))})
        layers.append({"type": draw(st.sampled_from(["ReLU", "Tanh", "Identity"]))})
    return document({"type": "Sequential", "layers": layers}, ["B", *shape])


@settings(deadline=None, max_examples=60)
@given(nets())
def test_the_judge_and_torch_agree_on_generated_nets(raw):
    judgement = require(raw)
    assert judgement.architecture is not None
    assert judgement.summary is not None
    module = build(judgement.architecture)

    out = module(torch.randn(2, *raw["inputs"][0]["shape"][1:]))

    assert [*out.shape[1:]] == judgement.summary["outputs"][0]["shape"][1:]
    assert sum(p.numel() for p in module.parameters()) == judgement.summary["parameters"]


@settings(deadline=None, max_examples=100)
@given(nets(), st.data())
def test_a_damaged_net_gives_entries_and_no_exception(raw, data):
    """Whatever the judge lets through, torch runs."""
    layers = raw["root"]["layers"]
    place = data.draw(st.integers(0, len(layers) - 1))
    match data.draw(st.sampled_from(["drop", "member", "type", "junk", "shape"])):
        case "drop":
            del layers[place]
        case "member":
            member = data.draw(st.sampled_from(sorted(layers[place])))
            layers[place][member] = data.draw(
                st.one_of(st.none(), st.integers(-2, 40), st.floats(), st.text(max_size=3), st.lists(st.integers(0, 9)))
            )
        case "type":
            layers[place]["type"] = data.draw(st.sampled_from(sorted(LAYER_KINDS)))
        case "junk":
            layers[place] = data.draw(st.one_of(st.none(), st.text(max_size=3), st.just([]), st.just({})))
        case _:
            raw["inputs"][0]["shape"] = ["B", *data.draw(st.lists(st.integers(1, 20), max_size=4))]

    judgement = judge(raw)

    if judgement.architecture is not None:
        confirm(judgement.architecture)
    else:
        assert all(entry.detail and entry.pointer.startswith("/") for entry in judgement.errors)
        assert judgement.errors


# The tutorials' nets.


def test_r1_has_the_keys_weights_and_outputs_of_the_class_written_by_hand():
    torch.manual_seed(1)
    ours = made(NET)
    torch.manual_seed(1)
    theirs = Net()
    x = torch.linspace(-1, 1, 100).reshape(100, 1)

    assert list(ours.state_dict()) == ["hidden.weight", "hidden.bias", "predict.weight", "predict.bias"]
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())
    assert torch.equal(ours(x), theirs(x))
    assert type(ours).__name__ == "Net"


def test_r2_is_a_real_sequential_and_computes_what_r1_does():
    layers = [
        {"type": "Linear", "in_features": 1, "out_features": 10},
        {"type": "ReLU"},
        {"type": "Linear", "in_features": 10, "out_features": 1},
    ]
    r2, r1 = made(document({"type": "Sequential", "layers": layers}, ["B", 1])), made(NET)
    r2.load_state_dict(dict(zip(r2.state_dict(), r1.state_dict().values(), strict=True)))
    x = torch.randn(7, 1)

    assert isinstance(r2, nn.Sequential)
    assert list(r2.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert torch.equal(r1(x), r2(x))


def test_r4_nests_names():
    hidden = {
        "name": "hidden",
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "in_features": 1, "out_features": 10},
            {"type": "ReLU"},
            {"type": "Linear", "in_features": "auto", "out_features": 1},
        ],
    }
    module = made(document({"type": "Graph", "layers": [hidden], "forward": ["return hidden(x)"]}, ["B", 1]))

    assert list(module.state_dict()) == ["hidden.0.weight", "hidden.0.bias", "hidden.2.weight", "hidden.2.bias"]


def test_n1_a_net_without_parameters_adds_one():
    module = made(document({"type": "Graph", "forward": ["return x + 1"]}, ["B"]))

    assert module(torch.tensor([1.0])).tolist() == [2.0]
    assert list(module.state_dict()) == []


IMAGE = [[1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [1, 2, 1, 0, 0], [5, 2, 3, 1, 1], [2, 1, 0, 1, 1]]
KERNEL = [[1, 2, 1], [0, 1, 0], [2, 1, 0]]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [[10, 12, 12], [18, 16, 16], [13, 9, 3]]),
        ({"stride": 2}, [[10, 12], [13, 3]]),
    ],
    ids=["stride-1", "stride-2"],
)
def test_n2_a_convolution_with_given_weights(options, wanted):
    conv = {"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3, "bias": False, **options}
    module = made(document(conv, ["B", 1, 5, 5]))
    module.load_state_dict({"weight": torch.tensor(KERNEL, dtype=torch.float32).reshape(1, 1, 3, 3)})

    assert module(torch.tensor(IMAGE, dtype=torch.float32).reshape(1, 1, 5, 5)).tolist() == [[wanted]]


@pytest.mark.parametrize(("ceil_mode", "wanted"), [(True, [[2, 3], [5, 1]]), (False, [[2]])], ids=["ceil", "floor"])
def test_n3_max_pools(ceil_mode, wanted):
    module = made(document({"type": "MaxPool2d", "kernel_size": 3, "ceil_mode": ceil_mode}, ["B", 1, 5, 5]))

    assert module(torch.tensor(IMAGE, dtype=torch.float32).reshape(1, 1, 5, 5)).tolist() == [[wanted]]


def test_n4_activations():
    x = torch.tensor([[1, -0.5], [-1, 3]])

    assert made(document({"type": "ReLU"}, ["B", 2]))(x).tolist() == [[1, 0], [0, 3]]
    assert torch.equal(made(document({"type": "Sigmoid"}, ["B", 2]))(x), torch.sigmoid(x))


def cifar(**flatten: Any) -> dict[str, Any]:
    layers: list[dict[str, Any]] = []
    for channels_in, channels_out in ((3, 32), (32, 32), (32, 64)):
        conv = {"in_channels": channels_in, "out_channels": channels_out, "kernel_size": 5, "padding": 2}
        layers += [{"type": "Conv2d", **conv}, {"type": "MaxPool2d", "kernel_size": 2}]
    layers += [
        {"type": "Flatten", **flatten},
        {"type": "Linear", "in_features": 1024, "out_features": 64},
        {"type": "Linear", "in_features": 64, "out_features": 10},
    ]
    root = {
        "type": "Graph",
        "class_name": "ZBX",
        "layers": [{"name": "model", "type": "Sequential", "layers": layers}],
        "forward": ["return model(x)"],
    }
    return document(root, ["B", 3, 32, 32])


def test_n6_the_cifar_net():
    module = made(cifar())
    out = module(torch.ones(64, 3, 32, 32))

    assert sum(p.numel() for p in module.parameters()) == 145_578
    assert next(iter(module.state_dict())) == "model.0.weight"
    assert out.shape == (64, 10)
    assert torch.allclose(out, out[:1].expand(64, 10), atol=1e-6)


# Graphs.


def test_a_layer_called_twice_shares_its_weights():
    layers = [{"name": "f", "type": "Linear", "in_features": 3, "out_features": 3}]
    module = made(document({"type": "Graph", "layers": layers, "forward": ["return f(f(x)) + x"]}, ["B", 3]))
    x = torch.randn(2, 3)

    f = module.get_submodule("f")
    assert torch.equal(module(x), f(f(x)) + x)
    assert list(module.state_dict()) == ["f.weight", "f.bias"]


def test_several_inputs_and_outputs_keep_their_order():
    root = {"type": "Graph", "inputs": ["x", "y"], "forward": ["return y - x, x * 2, -y"]}
    module = made(document(root, ["B", 2], ["B", 2]))
    x, y = torch.randn(3, 2), torch.randn(3, 2)

    a, b, c = module(x, y)
    assert torch.equal(a, y - x)
    assert torch.equal(b, x * 2)
    assert torch.equal(c, -y)
    with pytest.raises(TypeError, match="takes 2 inputs"):
        module(x)


def test_the_values_of_an_inner_graph_are_taken_apart():
    inner = {"name": "pair", "type": "Graph", "forward": ["return x + 1, x * 3"]}
    lines = ["a, b = pair(x)", "return b / a"]
    module = made(document({"type": "Graph", "layers": [inner], "forward": lines}, ["B", 2]))
    x = torch.rand(3, 2)

    assert torch.equal(module(x), x * 3 / (x + 1))


EXPRESSIONS = {
    "x + y": lambda x, y: x + y,
    "2 - x / 4": lambda x, y: 2 - x / 4,
    "-(x * y) + 1 - -2": lambda x, y: -(x * y) + 1 + 2,
    "x @ transpose(y, 1, 2)": lambda x, y: x @ y.transpose(1, 2),
    "matmul(x, permute(y, 0, 2, 1))": lambda x, y: x @ y.permute(0, 2, 1),
    "relu(x) + silu(y)": lambda x, y: F.relu(x) + F.silu(y),
    "sigmoid(x) * tanh(y)": lambda x, y: torch.sigmoid(x) * torch.tanh(y),
    "gelu(x, 'tanh') + gelu(y)": lambda x, y: F.gelu(x, approximate="tanh") + F.gelu(y),
    "leaky_relu(x, 0.2) + elu(y, alpha=0.5)": lambda x, y: F.leaky_relu(x, 0.2) + F.elu(y, 0.5),
    "softplus(x, 2, threshold=10)": lambda x, y: F.softplus(x, 2, 10),
    "softmax(x, dim=-1) + log_softmax(y, 1)": lambda x, y: F.softmax(x, -1) + F.log_softmax(y, 1),
    "flatten(x)": lambda x, y: x.flatten(1),
    "reshape(x, 4, 3)": lambda x, y: x.reshape(-1, 4, 3),
    "reshape(x, (2, -1))": lambda x, y: x.reshape(x.shape[0], 2, -1),
    "reshape(x, -1)": lambda x, y: x.reshape(x.shape[0], -1),
    "squeeze(unsqueeze(x, 1), dim=1)": lambda x, y: x,
    "unsqueeze(x, -1)": lambda x, y: x.unsqueeze(-1),
    "cat(x, y, dim=1)": lambda x, y: torch.cat([x, y], 1),
    "cat([x, y, x], -1)": lambda x, y: torch.cat([x, y, x], -1),
    "stack(x, y, dim=1)": lambda x, y: torch.stack([x, y], 1),
    "stack((x, y), -1)": lambda x, y: torch.stack([x, y], -1),
    "x[:, -1]": lambda x, y: x[:, -1],
    "x[:, 1:, ::2]": lambda x, y: x[:, 1:, ::2],
    "mean(x, dim=1) + sum(y, 1)": lambda x, y: x.mean(1) + y.sum(1),
    "amax(x, (1, 2), keepdim=True) * amin(y, -1, keepdim=True)": lambda x, y: x.amax((1, 2), True) * y.amin(-1, True),
    "max_pool2d(unsqueeze(x, 1), 2, stride=1)": lambda x, y: F.max_pool2d(x.unsqueeze(1), 2, 1),
    "avg_pool2d(unsqueeze(x, 1), (2, 1), ceil_mode=True)": lambda x, y: F.avg_pool2d(
        x.unsqueeze(1), (2, 1), ceil_mode=True
    ),
    "adaptive_avg_pool2d(unsqueeze(x, 1), 1)": lambda x, y: F.adaptive_avg_pool2d(x.unsqueeze(1), 1),
    "dropout(x, 0.5)": lambda x, y: x,
    "1 / 4 * x": lambda x, y: 0.25 * x,
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_operation_computes_what_torch_does(expression):
    used = [name for name in "xy" if name in expression.replace("max", "")]
    root = {"type": "Graph", "inputs": used, "forward": [f"return {expression}"]}
    raw = document(root, *([["B", 3, 4]] * len(used)))
    for spec, name in zip(raw["inputs"], used, strict=True):
        spec["name"] = name
    module = made(raw).eval()
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)

    confirm(parse(raw))
    assert torch.equal(module(*[{"x": x, "y": y}[name] for name in used]), EXPRESSIONS[expression](x, y))


def test_dropout_in_a_forward_follows_train_and_eval():
    module = made(document({"type": "Graph", "forward": ["return dropout(x, p=0.5)"]}, ["B", 100]))
    x = torch.ones(1, 100)

    assert torch.equal(module.eval()(x), x)
    torch.manual_seed(0)
    ours = module.train()(x)
    torch.manual_seed(0)
    assert torch.equal(ours, F.dropout(x, 0.5, training=True))


def test_a_deep_copy_runs_its_own_layers_and_a_replaced_child_is_run():
    module = made(NET)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    x = torch.randn(3, 1)

    assert twin(x).tolist() == [[0.0]] * 3
    assert module(x).abs().sum() > 0
    module.predict = nn.Identity()
    assert module(x).shape == (3, 10)


def test_a_forward_lets_go_of_what_nothing_reads_any_more():
    """A chain of layers holds one activation, as the code written by hand does."""
    alive: list[weakref.ref[Tensor]] = []
    counts: list[int] = []

    def watch(_: nn.Module, __: Any, out: Tensor) -> None:
        gc.collect()
        counts.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(out))

    names = [f"l{number}" for number in range(6)]
    layers = [{"name": name, "type": "Linear", "in_features": 2, "out_features": 2} for name in names]
    lines = ["a = l0(x)", "b = l1(x)", "x = a + b", *[f"x = {name}(x)" for name in names[2:]], "return x"]
    module = made(document({"type": "Graph", "layers": layers, "forward": lines}, ["B", 2]))
    for child in module.children():
        child.register_forward_hook(watch)
    with torch.inference_mode():
        module(torch.randn(1, 2))

    assert counts == [0, 1, 0, 1, 1, 1]


def test_meta_takes_no_memory_and_loads_by_assignment():
    judgement = require(NET)
    assert judgement.architecture is not None
    module = build(judgement.architecture, device="meta")
    assert all(parameter.is_meta for parameter in module.parameters())
    state = made(NET).state_dict()

    module.load_state_dict(state, assign=True)

    assert torch.equal(module(torch.ones(1, 1)), Net_with(state)(torch.ones(1, 1)))


def Net_with(state: dict[str, Tensor]) -> nn.Module:  # noqa: N802 - a class with its weights
    net = Net()
    net.load_state_dict(state)
    return net


def test_sizes_that_vary_are_confirmed_where_they_were_tried():
    layers = [
        {"type": "Conv2d", "in_channels": "auto", "out_channels": 4, "kernel_size": 3, "stride": 2},
        {"type": "AdaptiveAvgPool2d", "output_size": 1},
    ]
    raw = document({"type": "Sequential", "layers": layers}, ["B", 3, "H", "W"])

    confirm(parse(raw))
    assert made(raw)(torch.randn(2, 3, 17, 40)).shape == (2, 4, 1, 1)


def test_confirm_names_the_layer_where_torch_disagrees(monkeypatch):
    """The judge's rules are wrong here, by hand."""
    monkeypatch.setattr("service.schemas.layers.Linear.output", lambda self, row: (*row[:-1], self.out_features + 1))
    layers = [{"name": "f", "type": "Linear", "in_features": 3, "out_features": 3}]
    raw = document({"type": "Graph", "layers": layers, "forward": ["return f(x)"]}, ["B", 3])

    with pytest.raises(ArchitectureInvalid) as caught:
        confirm(parse(raw))

    (entry,) = caught.value.errors
    assert (entry.layer, entry.code) == ("f", "torch-disagrees")
