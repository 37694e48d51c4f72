"""Every kind of layer: its members are torch's, its bounds hold, and its arithmetic is right by hand."""

import inspect
import json
from typing import Any, get_args, get_overloads

import pytest
from pydantic import TypeAdapter, ValidationError
from torch import nn

from service.schemas.document import entries
from service.schemas.layers import LAYER_KINDS, Graph, Layer, Sequential
from service.schemas.leaf import RESERVED_NAMES
from service.schemas.shapes import Mismatch

LAYER: TypeAdapter[Any] = TypeAdapter(Layer)

LEFT_OUT = {
    "device": "where the weights are is no property of the net",
    "dtype": "weights are float32",
    "recompute_scale_factor": "only matters to exporters",
    "max_norm": "changes the weights while predicting",
    "scale_grad_by_freq": "changes training by what else is in the batch",
    "sparse": "sparse gradients, which few optimizers take",
    "_weight": "weights are not in the document",
    "_freeze": "freezing is said of a version, not of a layer",
    "min_value": "an old name of min_val",
    "max_value": "an old name of max_val",
    "include_last_offset": "goes with offsets, which lay rows of a batch end to end",
    "process_group": "where other processes are is no property of the net",
    "_random_samples": "where windows lie is drawn while training, and fixed while predicting",
    "enable_nested_tensor": "what stands in padded places would depend on the other rows of the batch",
    "mask_check": "goes with enable_nested_tensor",
    "custom_encoder": "any other module: a Graph of a TransformerEncoder and a TransformerDecoder says it",
    "custom_decoder": "as custom_encoder",
}
"""Arguments of torch's constructors that documents do not have, and why."""

NEWER = {("GroupNorm", "bias"), ("SyncBatchNorm", "bias")} | {
    (f"{kind}Norm{n}d", "bias") for kind in ("Batch", "Instance") for n in (1, 2, 3)
}
"""Arguments that the oldest torch we run on does not know."""

GOES_WITH_MAX_NORM = {("Embedding", "norm_type"), ("EmbeddingBag", "norm_type")}

NO_DOCUMENT = {
    "AdaptiveLogSoftmaxWithLoss": "a loss with weights",
    "Buffer": "a tensor and no layer: documents have a Buffer of their own",
    "Container": "an old name of Module",
    "DataParallel": "where a net runs is no property of it",
    "LinearCrossEntropyOptions": "options of a loss",
    "Module": "what all layers are; a class of one's own is a Graph",
    "ModuleDict": "calls nothing: a Graph has its layers by name",
    "ModuleList": "calls nothing: a Graph has its layers by name",
    "NLLLoss2d": "a loss",
    "Parameter": "a tensor and no layer: documents have a Parameter of their own",
    "ParameterDict": "calls nothing: a Graph has its parameters by name",
    "ParameterList": "calls nothing: a Graph has its parameters by name",
    "RNNBase": "what RNN, LSTM and GRU have in common",
    "RNNCellBase": "what RNNCell, LSTMCell and GRUCell have in common",
    "Sequential": "a container: it has a document, and is no leaf",
    "UninitializedBuffer": "of lazy layers",
    "UninitializedParameter": "of lazy layers",
}
"""Classes in torch.nn that are no layer kind, and why. Losses and lazy layers go by their names: "auto" is how a
document leaves a size open."""


CONV = {"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3}

RECURRENT = {"type": "LSTM", "input_size": 3, "hidden_size": 4}
BLOCK = {"type": "TransformerEncoderLayer", "d_model": 6, "nhead": 2}
ENCODER = {"type": "TransformerEncoder", "encoder_layer": BLOCK, "num_layers": 1}


def read(**members: Any) -> Any:
    return LAYER.validate_python(members)


def mistakes(**members: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        LAYER.validate_python(members)
    return [(entry.pointer, entry.code) for entry in entries(caught.value, members, schema=LAYER.core_schema)[0]]


def arguments_of(name: str) -> dict[str, inspect.Parameter]:
    """The arguments of a class of torch.nn; recurrent layers hide theirs behind an overload."""
    constructor = getattr(nn, name).__init__
    found = dict(inspect.signature(next(iter(get_overloads(constructor)), constructor)).parameters)
    return {key: value for key, value in found.items() if key not in ("self", "args", "kwargs")}


def test_every_class_of_torch_nn_is_a_document_or_left_out_for_a_reason():
    classes = {name for name in dir(nn) if isinstance(getattr(nn, name), type)}
    told = {name for name in classes if name.endswith("Loss") or name.startswith("Lazy")}

    assert classes - told - set(NO_DOCUMENT) == set(LAYER_KINDS)
    assert not set(NO_DOCUMENT) & set(LAYER_KINDS)


@pytest.mark.parametrize("kind", LAYER_KINDS.values(), ids=LAYER_KINDS)
def test_members_are_torchs_arguments_with_the_same_defaults_in_the_same_order(kind):
    wanted = {
        name: getattr(parameter.default, "__name__", parameter.default)  # an activation is named
        for name, parameter in arguments_of(kind.__name__).items()
        if name not in LEFT_OUT and (kind.__name__, name) not in NEWER | GOES_WITH_MAX_NORM
    }
    fields = {name: field for name, field in kind.model_fields.items() if name not in ("type", "name")}

    assert list(fields) == list(wanted)
    for name, default in wanted.items():
        if default == "_empty":
            assert fields[name].is_required(), name
        else:
            adapter = TypeAdapter(kind.model_fields[name].rebuild_annotation())
            assert adapter.validate_python(default) == fields[name].get_default(call_default_factory=True), name


def test_what_is_left_out_exists_in_torch():
    """A reason for an argument that is gone would be a lie."""
    arguments = {name for kind in LAYER_KINDS for name in arguments_of(kind)}

    assert set(LEFT_OUT) <= arguments


def test_the_union_holds_every_kind_once_under_the_name_of_its_class():
    kinds = get_args(get_args(Layer)[0])

    assert len(set(kinds)) == len(kinds) == len(LAYER_KINDS) + 4
    for kind in kinds:
        assert get_args(kind.model_fields["type"].annotation) == (kind.__name__,)
    assert {Sequential, Graph} <= set(kinds)
    assert len(LAYER_KINDS) == 116


def test_reserved_names_are_the_attributes_of_modules():
    """Also those of later releases of torch: this test says what to add."""
    attributes = {*dir(nn.Module()), *dir(nn.Sequential())}

    assert {name for name in attributes if not (name.startswith("__") and name.endswith("__"))} <= RESERVED_NAMES
    assert not RESERVED_NAMES - attributes - {"__annotations__", "T_destination"}


def test_unknown_types_are_told_with_the_nearest_known():
    body = {"type": "Liner", "in_features": 1, "out_features": 2}
    with pytest.raises(ValidationError) as caught:
        LAYER.validate_python(body)

    ((entry,), _) = entries(caught.value, body, schema=LAYER.core_schema)
    assert (entry.code, entry.hint) == ("unknown-type", "Did you mean 'Linear'?")


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"type": "Linear", "in_features": 0, "out_features": 2}, "/in_features"),
        ({"type": "Linear", "in_features": "atuo", "out_features": 2}, "/in_features"),
        ({"type": "Linear", "in_features": True, "out_features": 2}, "/in_features"),
        ({"type": "Linear", "in_features": 1.5, "out_features": 2}, "/in_features"),
        ({"type": "Linear", "in_features": "3", "out_features": 2}, "/in_features"),
        ({"type": "Linear", "in_features": 10**30, "out_features": 2}, "/in_features"),
        ({"type": "Linear", "in_features": 1, "out_features": 2, "bias": 1}, "/bias"),
        ({"type": "Linear", "in_features": 1, "out_features": 2, "units": 3}, "/units"),
        ({"type": "Linear", "in_features": 1, "out_features": 2, "name": "a.b"}, "/name"),
        ({"type": "Linear", "in_features": 1, "out_features": 2, "name": ""}, "/name"),
        ({"type": "Linear", "in_features": 1, "out_features": 2, "name": "a" * 65}, "/name"),
        ({"type": "Linear", "in_features": 1, "out_features": 2, "name": "forward"}, "/name"),
        ({"type": "Linear", "in_features": 1, "out_features": 2, "name": "__class__"}, "/name"),
        ({"type": "Linear", "in_features": 1, "out_features": 2, "name": "é"}, "/name"),
        ({"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 0}, "/kernel_size"),
        ({"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": [3, 0]}, "/kernel_size"),
        ({"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": [3, 3, 3]}, "/kernel_size"),
        ({"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": [[3]]}, "/kernel_size"),
        ({"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3, "padding": "some"}, "/padding"),
        (CONV | {"stride": 2, "padding": "same"}, "/padding"),
        ({"type": "Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3, "groups": 2}, "/groups"),
        (CONV | {"padding_mode": "x"}, "/padding_mode"),
        (CONV | {"type": "ConvTranspose2d", "output_padding": 1}, "/dilation"),
        ({"type": "MaxPool2d", "kernel_size": 2, "padding": 3}, "/padding"),
        ({"type": "MaxPool2d", "kernel_size": 2, "stride": 0}, "/stride"),
        ({"type": "AvgPool1d", "kernel_size": 2, "padding": 2}, "/padding"),
        ({"type": "AdaptiveAvgPool2d", "output_size": 0}, "/output_size"),
        ({"type": "BatchNorm2d", "num_features": 0}, "/num_features"),
        ({"type": "BatchNorm2d", "num_features": 3, "eps": 0}, "/eps"),
        ({"type": "GroupNorm", "num_groups": 2, "num_channels": 3}, "/num_channels"),
        ({"type": "LayerNorm", "normalized_shape": []}, "/normalized_shape"),
        ({"type": "Embedding", "num_embeddings": 0, "embedding_dim": 3}, "/num_embeddings"),
        ({"type": "Embedding", "num_embeddings": 5, "embedding_dim": 3, "padding_idx": 5}, "/padding_idx"),
        ({"type": "Dropout", "p": 1.5}, "/p"),
        ({"type": "Dropout", "p": float("nan")}, "/p"),
        ({"type": "LeakyReLU", "negative_slope": float("inf")}, "/negative_slope"),
        ({"type": "LeakyReLU", "negative_slope": 1e300}, "/negative_slope"),
        ({"type": "Hardtanh", "min_val": 2.0}, "/max_val"),
        ({"type": "GELU", "approximate": "tan"}, "/approximate"),
        ({"type": "Upsample"}, "/scale_factor"),
        ({"type": "Upsample", "size": 4, "scale_factor": 2}, "/scale_factor"),
        ({"type": "Upsample", "size": 4, "align_corners": True}, "/align_corners"),
        ({"type": "ZeroPad2d", "padding": [1, 2, 3]}, "/padding"),
        ({"type": "ZeroPad2d", "padding": -1}, "/padding"),
        ({"type": "ZeroPad3d", "padding": [1, 2, 3]}, "/padding"),
        ({"type": "Bilinear", "in1_features": 0, "in2_features": 2, "out_features": 2}, "/in1_features"),
        ({"type": "CosineSimilarity", "eps": 0}, "/eps"),
        ({"type": "PairwiseDistance", "p": -1}, "/p"),
        ({"type": "Conv3d", "in_channels": 1, "out_channels": 1, "kernel_size": [3, 3]}, "/kernel_size"),
        ({"type": "Conv3d", "in_channels": 1, "out_channels": 1, "kernel_size": 0}, "/kernel_size"),
        ({"type": "MaxPool3d", "kernel_size": 2, "padding": 2}, "/padding"),
        ({"type": "LPPool2d", "norm_type": 0, "kernel_size": 2}, "/norm_type"),
        ({"type": "FractionalMaxPool2d", "kernel_size": 2}, "/output_ratio"),
        ({"type": "FractionalMaxPool2d", "kernel_size": 2, "output_ratio": 1.5}, "/output_ratio"),
        ({"type": "FractionalMaxPool2d", "kernel_size": 2, "output_ratio": 0.5, "output_size": 2}, "/output_ratio"),
        ({"type": "FractionalMaxPool3d", "kernel_size": 2, "output_ratio": [0.5, 0.5]}, "/output_ratio"),
        ({"type": "MaxUnpool2d", "kernel_size": 0}, "/kernel_size"),
        ({"type": "EmbeddingBag", "num_embeddings": 5, "embedding_dim": 3, "mode": "median"}, "/mode"),
        ({"type": "EmbeddingBag", "num_embeddings": 5, "embedding_dim": 3, "padding_idx": -6}, "/padding_idx"),
        ({"type": "Fold", "output_size": 4, "kernel_size": 0}, "/kernel_size"),
        ({"type": "Upsample", "size": 4, "mode": "nearest-exact", "align_corners": True}, "/align_corners"),
        ({"type": "UpsamplingNearest2d"}, "/scale_factor"),
        ({"type": "UpsamplingBilinear2d", "size": 2, "scale_factor": 2}, "/scale_factor"),
        (RECURRENT | {"hidden_size": 0}, "/hidden_size"),
        (RECURRENT | {"num_layers": 0}, "/num_layers"),
        (RECURRENT | {"num_layers": 10**6}, "/num_layers"),
        (RECURRENT | {"dropout": 1.5}, "/dropout"),
        (RECURRENT | {"proj_size": 4}, "/proj_size"),
        (RECURRENT | {"type": "GRU", "proj_size": 2}, "/proj_size"),
        (RECURRENT | {"type": "RNN", "nonlinearity": "gelu"}, "/nonlinearity"),
        ({"type": "GRUCell", "input_size": 3, "hidden_size": 0}, "/hidden_size"),
        ({"type": "MultiheadAttention", "embed_dim": 6, "num_heads": 4}, "/num_heads"),
        ({"type": "MultiheadAttention", "embed_dim": 6, "num_heads": 2, "kdim": 0}, "/kdim"),
        (BLOCK | {"nhead": 4}, "/nhead"),
        (BLOCK | {"activation": "tanh"}, "/activation"),
        (BLOCK | {"layer_norm_eps": 0}, "/layer_norm_eps"),
        (ENCODER | {"num_layers": 0}, "/num_layers"),
        (ENCODER | {"encoder_layer": BLOCK | {"name": "a"}}, "/encoder_layer"),
        (ENCODER | {"encoder_layer": BLOCK | {"nhead": 5}}, "/encoder_layer/nhead"),
        (ENCODER | {"norm": {"type": "LayerNorm", "normalized_shape": 5}}, "/norm"),
        (ENCODER | {"norm": {"type": "LayerNorm", "normalized_shape": 6, "name": "a"}}, "/norm"),
        ({"type": "Transformer", "d_model": 6}, "/nhead"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else value,
)  # fmt: skip
def test_one_mistake_is_one_entry_at_its_member(members, pointer):
    assert [at for at, _ in mistakes(**members)] == [pointer]


def test_several_mistakes_come_out_at_once():
    found = mistakes(type="Conv2d", in_channels=0, out_channels="x", kernel_size=[1], bais=True)

    assert {at for at, _ in found} == {"/in_channels", "/out_channels", "/kernel_size", "/bais"}


def test_sizes_mean_the_same_as_a_number_and_as_a_list():
    short = read(type="MaxPool2d", kernel_size=2)
    long = read(type="MaxPool2d", kernel_size=[2, 2], stride=[2, 2], padding=[0, 0], dilation=1, ceil_mode=False)

    assert short == long
    assert long.model_dump(mode="json", exclude_defaults=True) == {"type": "MaxPool2d", "kernel_size": 2}


@pytest.mark.parametrize(
    ("members", "row", "out"),
    [
        ({"type": "Conv2d", "in_channels": 3, "out_channels": 6, "kernel_size": 3}, (3, 32, 32), (6, 30, 30)),
        ({"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3, "stride": 2}, (1, 5, 5), (1, 2, 2)),
        ({"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3, "padding": 1}, (1, 5, 5), (1, 5, 5)),
        ({"type": "MaxPool2d", "kernel_size": 3, "ceil_mode": True}, (1, 5, 5), (1, 2, 2)),
        ({"type": "MaxPool2d", "kernel_size": 3}, (1, 5, 5), (1, 1, 1)),
        ({"type": "Linear", "in_features": 4, "out_features": 2}, (7, 4), (7, 2)),
        ({"type": "Flatten"}, (2, 3, 4), (24,)),
        ({"type": "Flatten", "start_dim": 2}, (2, 3, 4), (2, 12)),
    ],
    ids=["conv", "stride", "padding", "ceil", "floor", "linear-last", "flatten", "flatten-from-2"],
)
def test_output_shapes_by_hand(members, row, out):
    assert read(**members).output(row) == out


@pytest.mark.parametrize(
    ("members", "row", "code"),
    [
        ({"type": "Softmax", "dim": 0}, (3,), "batch-mixed"),
        ({"type": "Softmax"}, (3, 4), "batch-mixed"),
        ({"type": "Flatten", "start_dim": 0}, (3, 4), "batch-folded"),
        ({"type": "Unflatten", "dim": 0, "unflattened_size": [2, 2]}, (3,), "batch-mixed"),
        ({"type": "GLU", "dim": -2}, (4,), "batch-mixed"),
        ({"type": "Linear", "in_features": 4, "out_features": 2}, (), "batch-mixed"),
        ({"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}, (4, 4), "shape-mismatch"),
        ({"type": "InstanceNorm1d", "num_features": 3}, (3,), "shape-mismatch"),
        ({"type": "LayerNorm", "normalized_shape": [2, 3, 4]}, (3, 4), "shape-mismatch"),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)
def test_no_layer_reaches_over_the_batch(members, row, code):
    """Each of these runs in torch, on a tensor whose first dimension is taken for something else."""
    with pytest.raises(Mismatch) as caught:
        read(**members).output(row)

    assert caught.value.code == code


def test_auto_takes_what_comes_and_is_checked_again():
    conv = read(type="Conv2d", in_channels="auto", out_channels=4, kernel_size=3, groups=2)

    assert conv.resolved((6, 9, 9)).in_channels == 6
    with pytest.raises(Mismatch, match="not a multiple of groups"):
        conv.resolved((3, 9, 9))
