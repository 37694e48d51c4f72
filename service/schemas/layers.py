"""The layers: one frozen document for each supported class of torch.nn, told apart by `type`.

A layer's members are its class's constructor arguments, with the same names and defaults. Each layer knows in plain
integers what its parameters are, what comes out for a given input, and what that costs. It does not know torch, nor its
neighbours. Pools, norms, recurrent layers and attention have modules of their own and are joined to the others here.
"""

# ruff: noqa: D102 - what an overriding method does stands once, at `Leaf`
from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, Strict, field_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from service.schemas.attention import (
    MultiheadAttention,
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from service.schemas.document import Document
from service.schemas.forward import MAX_LINES, Line, Program, Written, from_lines, from_steps
from service.schemas.initial import Filled, Initializer
from service.schemas.leaf import Argument, Arguments, Free, LayerName, Leaf, Value, Work, known
from service.schemas.norms import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    CrossMapLRN2d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
    SyncBatchNorm,
)
from service.schemas.pools import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    FractionalMaxPool2d,
    FractionalMaxPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
)
from service.schemas.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from service.schemas.shapes import (
    LARGEST,
    DType,
    Flag,
    Index,
    Mismatch,
    Pair,
    PairConvPadding,
    PairPadding,
    Positive,
    Probability,
    QuadPadding,
    Real,
    Reshaped,
    Row,
    Single,
    SingleConvPadding,
    SinglePadding,
    SixPadding,
    Size,
    SizeOrAuto,
    TensorSpec,
    Triple,
    TripleConvPadding,
    TriplePadding,
    conv_length,
    counted,
    dimension,
    divided,
    elements,
    expect_channels,
    flattened,
    paired,
    placed,
    ranked,
    reshaped,
    shown,
    slid,
    softmax_dimension,
)
from service.schemas.steps import Step

# Linear layers and shapes.


class Identity(Free):
    """Gives what it gets."""

    reach = 0
    takes = "any"
    type: Literal["Identity"]


class Linear(Leaf):
    """`x Wᵀ + b` over the last dimension."""

    reach = 1
    guessed = "in_features"
    type: Literal["Linear"]
    in_features: SizeOrAuto
    out_features: Size
    bias: Flag = True

    def guess(self, row: Row) -> Any:
        return row[-1] if row else None

    def parameters(self) -> dict[str, Row]:
        weight = {"weight": (self.out_features, known(self.in_features))}
        return weight | ({"bias": (self.out_features,)} if self.bias else {})

    def output(self, row: Row) -> Row:
        if not row:
            raise Mismatch(
                f"Linear takes [B, …, features], but gets {shown(row)}: the batch would be taken for the features.",
                code="batch-mixed",
                hint="Give the input a second dimension, [B, 1].",
                expected="[B, in_features]",
                got=shown(row),
                then=(self.out_features,),
            )
        out = (*row[:-1], self.out_features)
        if row[-1] != known(self.in_features):
            raise Mismatch(
                f"Linear expects {self.in_features} features and gets {row[-1]}.",
                field="in_features",
                hint=f'Set in_features to {row[-1]}, or to "auto".',
                expected=str(self.in_features),
                got=str(row[-1]),
                then=out,
            )
        return out

    def flops(self, row: Row, out: Row) -> int:
        return 2 * elements(row) * self.out_features


class Bilinear(Leaf):
    """`x₁ᵀ W x₂ + b` over the last dimensions of two values."""

    arguments = (Argument("input1"), Argument("input2"))
    type: Literal["Bilinear"]
    in1_features: Size
    in2_features: Size
    out_features: Size
    bias: Flag = True

    def parameters(self) -> dict[str, Row]:
        weight = {"weight": (self.out_features, self.in1_features, self.in2_features)}
        return weight | ({"bias": (self.out_features,)} if self.bias else {})

    def outcome(self, given: Arguments) -> Value:
        first, second = _two(self, given)
        for spec, features, field in (
            (first, self.in1_features, "in1_features"),
            (second, self.in2_features, "in2_features"),
        ):
            if len(spec.sizes) < 2 or spec.sizes[-1] is None:
                raise Mismatch(f"Bilinear takes [B, …, features], but gets {spec.shown}.", got=spec.shown)
            if spec.sizes[-1] != features:
                raise Mismatch(
                    f"Bilinear expects {features} features and gets {spec.sizes[-1]}.",
                    field=field,
                    hint=f"Set {field} to {spec.sizes[-1]}.",
                    expected=str(features),
                    got=str(spec.sizes[-1]),
                )
        if first.sizes[:-1] != second.sizes[:-1]:
            raise Mismatch(
                f"Bilinear takes two values that differ in their last dimension at most, but gets {first.shown} and "
                f"{second.shown}.",
                expected=first.shown,
                got=second.shown,
            )
        return first.resized((*first.sizes[:-1], self.out_features))

    def flops(self, row: Row, out: Row) -> int:
        return 2 * elements(out) * self.in1_features * (self.in2_features + 1)


def _two(layer: Leaf, given: Arguments) -> tuple[TensorSpec, TensorSpec]:
    """The two values of a layer that compares them, which must have one dtype."""
    first, second = (given[argument.name] for argument in layer.arguments)
    assert isinstance(first, TensorSpec)
    assert isinstance(second, TensorSpec)
    if first.dtype != second.dtype:
        raise Mismatch(
            f"{layer.type} takes two values of one dtype, but gets {first.dtype} and {second.dtype}.",
            code="dtype-mismatch",
            expected=first.dtype,
            got=second.dtype,
        )
    return first, second


class Flatten(Free):
    """Several dimensions become one."""

    takes = "any"
    type: Literal["Flatten"]
    start_dim: Index = 1
    end_dim: Index = -1

    def output(self, row: Row) -> Row:
        return flattened(row, self.start_dim, self.end_dim, "Flatten")


class Unflatten(Free):
    """One dimension becomes several."""

    takes = "any"
    type: Literal["Unflatten"]
    dim: Index
    unflattened_size: Annotated[Reshaped, PlainSerializer(list, return_type=list[int])]  # torch takes no number here

    def output(self, row: Row) -> Row:
        place = dimension(self.dim, row, "Unflatten")
        parts = reshaped((row[place],), self.unflattened_size, "Unflatten", field="unflattened_size")
        return row[:place] + parts + row[place + 1 :]


class _Blocks(Free):
    """Between an image and its blocks, each of which is a column."""

    if TYPE_CHECKING:
        kernel_size: Any
        dilation: Any
        padding: Any
        stride: Any

    def _count(self, space: Row, row: Row) -> int:
        """How many blocks lie in an image of `space`."""
        counts = slid(
            space,
            2,
            self.type,
            lambda size, axis: conv_length(
                size, self.kernel_size[axis], self.stride[axis], self.padding[axis], self.dilation[axis]
            ),
            lambda axis: self.dilation[axis] * (self.kernel_size[axis] - 1) + 1,
        )
        return elements(counts)


class Fold(_Blocks):
    """Columns become blocks of an image, summed where they overlap: [B, C·k·k, L] to [B, C, H, W]."""

    type: Literal["Fold"]
    output_size: Pair
    kernel_size: Pair
    dilation: Pair = (1, 1)
    padding: PairPadding = (0, 0)
    stride: Pair = (1, 1)

    def output(self, row: Row) -> Row:
        block = elements(self.kernel_size)
        if len(row) != 2 or row[0] % block:
            raise Mismatch(
                f"Fold takes [B, C·{block}, L], but gets {shown(row)}.",
                field="kernel_size",
                expected=f"[B, a multiple of {block}, L]",
                got=shown(row),
            )
        out = (row[0] // block, *self.output_size)
        blocks = self._count(self.output_size, row)
        if row[1] != blocks:
            raise Mismatch(
                f"Fold lays {blocks} blocks over {list(self.output_size)}, but gets {row[1]}.",
                field="output_size",
                expected=str(blocks),
                got=str(row[1]),
                then=out,
            )
        return out

    def flops(self, row: Row, out: Row) -> int:
        return elements(row)


class Unfold(_Blocks):
    """Blocks of an image become columns: [B, C, H, W] to [B, C·k·k, L]."""

    type: Literal["Unfold"]
    kernel_size: Pair
    dilation: Pair = (1, 1)
    padding: PairPadding = (0, 0)
    stride: Pair = (1, 1)

    def output(self, row: Row) -> Row:
        ranked(row, 2, self.type, channels=True)
        return (row[0] * elements(self.kernel_size), self._count(row[1:], row))


# Dropout.


class _Dropout(Free):
    p: Probability = 0.5
    inplace: Flag = False

    def remarks(self) -> Iterator[str]:
        if self.p == 1:
            yield f"{self.type} with p = 1 passes nothing on while training."


class Dropout(_Dropout):
    """Zeroes elements while training."""

    reach = 0
    type: Literal["Dropout"]


class Dropout1d(_Dropout):
    """Zeroes whole channels of [B, C, L] while training."""

    type: Literal["Dropout1d"]

    def output(self, row: Row) -> Row:
        ranked(row, 1, self.type, channels=True)
        return row


class Dropout2d(_Dropout):
    """Zeroes whole channels of [B, C, H, W] while training."""

    type: Literal["Dropout2d"]

    def output(self, row: Row) -> Row:
        ranked(row, 2, self.type, channels=True)
        return row


class Dropout3d(_Dropout):
    """Zeroes whole channels of [B, C, D, H, W] while training."""

    type: Literal["Dropout3d"]

    def output(self, row: Row) -> Row:
        ranked(row, 3, self.type, channels=True)
        return row


class AlphaDropout(_Dropout):
    """Dropout that keeps mean and variance, for SELU nets."""

    reach = 0
    type: Literal["AlphaDropout"]


class FeatureAlphaDropout(_Dropout):
    """AlphaDropout of whole channels."""

    type: Literal["FeatureAlphaDropout"]

    def output(self, row: Row) -> Row:
        if not row:
            raise Mismatch(f"FeatureAlphaDropout takes [B, C, …], but gets {shown(row)}.", got=shown(row))
        return row


# Convolutions.


class _Conv(Leaf):
    guessed = "in_channels"
    n: ClassVar[int]

    if TYPE_CHECKING:  # every kind declares its own, in torch's order
        in_channels: SizeOrAuto
        out_channels: Size
        kernel_size: Any
        stride: Any
        padding: Any
        dilation: Any
        groups: Size
        bias: Flag
        padding_mode: Any

    @field_validator("padding", check_fields=False)
    @classmethod
    def _same_needs_stride_one(cls, padding: Any, info: Any) -> Any:
        if padding == "same" and any(step != 1 for step in info.data.get("stride", ())):
            raise PydanticCustomError("padding", 'Padding "same" needs stride 1.')
        return padding

    @field_validator("groups", check_fields=False)
    @classmethod
    def _groups_divide(cls, groups: int, info: Any) -> int:
        return divided(groups, info.data, "in_channels", "out_channels")

    def guess(self, row: Row) -> Any:
        return row[0] if len(row) == self.n + 1 else None

    def parameters(self) -> dict[str, Row]:
        weight = {"weight": (self.out_channels, known(self.in_channels) // self.groups, *self.kernel_size)}
        return weight | ({"bias": (self.out_channels,)} if self.bias else {})

    def output(self, row: Row) -> Row:
        ranked(row, self.n, self.type, channels=True)
        space = row[1:]
        match self.padding:
            case "same":
                out = space
                pads = [d * (k - 1) - d * (k - 1) // 2 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
            case _:
                given = (0,) * self.n if self.padding == "valid" else self.padding
                pads = list(given)
                out = slid(
                    space,
                    self.n,
                    self.type,
                    lambda size, axis: conv_length(
                        size, self.kernel_size[axis], self.stride[axis], given[axis], self.dilation[axis]
                    ),
                    lambda axis: self.dilation[axis] * (self.kernel_size[axis] - 1) + 1,
                )
        then = (self.out_channels, *out)
        expect_channels(row, known(self.in_channels), self.type, "in_channels", then)
        _pads(self.padding_mode, pads, space, self.type, then)
        return then

    def flops(self, row: Row, out: Row) -> int:
        return 2 * elements(out) * elements(self.kernel_size) * known(self.in_channels) // self.groups

    def remarks(self) -> Iterator[str]:
        sides = zip(self.kernel_size, self.dilation, strict=True)
        if self.padding == "same" and any(d * (k - 1) % 2 for k, d in sides):
            yield f'{self.type} pads one side more than the other ("same", an even kernel): torch copies the input.'


def _pads(mode: str, pads: list[int], space: Row, what: str, then: Row) -> None:
    """Padding with what is in the input needs enough of it."""
    for pad, size in zip(pads, space, strict=True):
        if (mode == "reflect" and pad >= size) or (mode == "circular" and pad > size):
            raise Mismatch(
                f"{what} pads {pad} elements by {mode}, but there are only {size}.",
                field="padding",
                expected=f"at most {size - (mode == 'reflect')}",
                got=str(pad),
                then=then,
            )


_PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class Conv1d(_Conv):
    """A convolution over [B, C, L]."""

    n = 1
    type: Literal["Conv1d"]
    in_channels: SizeOrAuto
    out_channels: Size
    kernel_size: Single
    stride: Single = (1,)
    padding: SingleConvPadding = (0,)
    dilation: Single = (1,)
    groups: Size = 1
    bias: Flag = True
    padding_mode: _PaddingMode = "zeros"


class Conv2d(_Conv):
    """A convolution over [B, C, H, W]."""

    n = 2
    type: Literal["Conv2d"]
    in_channels: SizeOrAuto
    out_channels: Size
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: PairConvPadding = (0, 0)
    dilation: Pair = (1, 1)
    groups: Size = 1
    bias: Flag = True
    padding_mode: _PaddingMode = "zeros"


class Conv3d(_Conv):
    """A convolution over [B, C, D, H, W]."""

    n = 3
    type: Literal["Conv3d"]
    in_channels: SizeOrAuto
    out_channels: Size
    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    padding: TripleConvPadding = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: Size = 1
    bias: Flag = True
    padding_mode: _PaddingMode = "zeros"


class _ConvTranspose(Leaf):
    guessed = "in_channels"
    n: ClassVar[int]

    if TYPE_CHECKING:
        in_channels: SizeOrAuto
        out_channels: Size
        kernel_size: Any
        stride: Any
        padding: Any
        output_padding: Any
        groups: Size
        bias: Flag
        dilation: Any

    @field_validator("groups", check_fields=False)
    @classmethod
    def _groups_divide(cls, groups: int, info: Any) -> int:
        return divided(groups, info.data, "in_channels", "out_channels")

    @field_validator("dilation", check_fields=False)
    @classmethod
    def _output_padding_is_small(cls, dilation: Any, info: Any) -> Any:
        more, stride = info.data.get("output_padding"), info.data.get("stride")
        if more and stride and any(o >= max(s, d) for o, s, d in zip(more, stride, dilation, strict=True)):
            raise PydanticCustomError("output_padding", "output_padding must be smaller than stride or dilation.")
        return dilation

    def guess(self, row: Row) -> Any:
        return row[0] if len(row) == self.n + 1 else None

    def parameters(self) -> dict[str, Row]:
        weight = {"weight": (known(self.in_channels), self.out_channels // self.groups, *self.kernel_size)}
        return weight | ({"bias": (self.out_channels,)} if self.bias else {})

    def output(self, row: Row) -> Row:
        ranked(row, self.n, self.type, channels=True)
        sizes = zip(
            row[1:], self.kernel_size, self.stride, self.padding, self.output_padding, self.dilation, strict=True
        )
        out = tuple((size - 1) * s - 2 * p + d * (k - 1) + o + 1 for size, k, s, p, o, d in sizes)
        if min(out) < 1:
            raise Mismatch(
                f"{self.type} makes nothing of {shown(row)}: its padding takes away more than there is.",
                field="padding",
                got=shown(row),
            )
        then = (self.out_channels, *out)
        expect_channels(row, known(self.in_channels), self.type, "in_channels", then)
        return then

    def flops(self, row: Row, out: Row) -> int:
        return 2 * elements(row) * elements(self.kernel_size) * self.out_channels // self.groups


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution over [B, C, L]."""

    n = 1
    type: Literal["ConvTranspose1d"]
    in_channels: SizeOrAuto
    out_channels: Size
    kernel_size: Single
    stride: Single = (1,)
    padding: SinglePadding = (0,)
    output_padding: SinglePadding = (0,)
    groups: Size = 1
    bias: Flag = True
    dilation: Single = Field((1,), validate_default=True)
    padding_mode: Literal["zeros"] = "zeros"


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution over [B, C, H, W]."""

    n = 2
    type: Literal["ConvTranspose2d"]
    in_channels: SizeOrAuto
    out_channels: Size
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: PairPadding = (0, 0)
    output_padding: PairPadding = (0, 0)
    groups: Size = 1
    bias: Flag = True
    dilation: Pair = Field((1, 1), validate_default=True)
    padding_mode: Literal["zeros"] = "zeros"


class ConvTranspose3d(_ConvTranspose):
    """A transposed convolution over [B, C, D, H, W]."""

    n = 3
    type: Literal["ConvTranspose3d"]
    in_channels: SizeOrAuto
    out_channels: Size
    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    padding: TriplePadding = (0, 0, 0)
    output_padding: TriplePadding = (0, 0, 0)
    groups: Size = 1
    bias: Flag = True
    dilation: Triple = Field((1, 1, 1), validate_default=True)
    padding_mode: Literal["zeros"] = "zeros"


# Embedding.


class _Table(Leaf):
    takes = "integer"

    if TYPE_CHECKING:  # every kind declares its own, in torch's order
        num_embeddings: Size
        embedding_dim: Size
        padding_idx: int | None

    @field_validator("padding_idx", check_fields=False)
    @classmethod
    def _in_the_table(cls, place: int | None, info: Any) -> int | None:
        size = info.data.get("num_embeddings")
        if place is None or size is None:
            return place
        if not -size <= place < size:
            raise PydanticCustomError(
                "less_than_equal",
                "padding_idx is a row of the table: {low} to {high}.",
                {"low": -size, "high": size - 1},
            )
        return place % size

    def parameters(self) -> dict[str, Row]:
        return {"weight": (self.num_embeddings, self.embedding_dim)}

    def dtype(self, dtype: DType) -> DType:
        return "float32"


_PaddingIndex = Annotated[int, Strict(), Field(ge=-LARGEST, le=LARGEST)] | None


class Embedding(_Table):
    """Looks integers up in a table."""

    reach = 0
    type: Literal["Embedding"]
    num_embeddings: Size
    embedding_dim: Size
    padding_idx: _PaddingIndex = None

    def output(self, row: Row) -> Row:
        return (*row, self.embedding_dim)

    def flops(self, row: Row, out: Row) -> int:
        return 0


class EmbeddingBag(_Table):
    """Looks the integers of [B, L] up in a table and gives the sum, mean or maximum of each row's."""

    arguments = (Argument("input"), Argument("per_sample_weights", required=False, by_name=True))
    type: Literal["EmbeddingBag"]
    num_embeddings: Size
    embedding_dim: Size
    mode: Literal["sum", "mean", "max"] = "mean"
    padding_idx: _PaddingIndex = None

    def output(self, row: Row) -> Row:
        if len(row) != 1:
            raise Mismatch(f"EmbeddingBag takes [B, L], but gets {shown(row)}.", expected="[B, L]", got=shown(row))
        return (self.embedding_dim,)

    def outcome(self, given: Arguments) -> Value:
        out = super().outcome(given)
        bag, weights = given["input"], given.get("per_sample_weights")
        assert isinstance(bag, TensorSpec)
        if not isinstance(weights, TensorSpec):
            return out
        if self.mode != "sum":
            raise Mismatch(
                f"EmbeddingBag takes per_sample_weights with mode 'sum', and this one has {self.mode!r}.", field="mode"
            )
        if weights.dtype != "float32":
            raise Mismatch(
                f"EmbeddingBag takes per_sample_weights of float32, but gets {weights.dtype}.",
                code="dtype-mismatch",
                expected="float32",
                got=weights.dtype,
            )
        if weights.sizes != bag.sizes:
            raise Mismatch(
                f"EmbeddingBag takes a weight for each element of {bag.shown}, but gets {weights.shown}.",
                expected=bag.shown,
                got=weights.shown,
            )
        return out

    def flops(self, row: Row, out: Row) -> int:
        return elements(row) * self.embedding_dim


# Activations.


class ReLU(Leaf):
    """max(x, 0)."""

    reach = 0
    type: Literal["ReLU"]
    inplace: Flag = False


class ReLU6(Leaf):
    """ReLU that ends at 6."""

    reach = 0
    type: Literal["ReLU6"]
    inplace: Flag = False


class LeakyReLU(Leaf):
    """ReLU with a slope below zero."""

    reach = 0
    type: Literal["LeakyReLU"]
    negative_slope: Real = 0.01
    inplace: Flag = False


class PReLU(Leaf):
    """ReLU with a learnt slope below zero, one or one a channel."""

    type: Literal["PReLU"]
    num_parameters: Size = 1
    init: Real = 0.25

    def parameters(self) -> dict[str, Row]:
        return {"weight": (self.num_parameters,)}

    def output(self, row: Row) -> Row:
        if self.num_parameters > 1 and (not row or row[0] != self.num_parameters):
            raise Mismatch(
                f"PReLU has a slope for each of {self.num_parameters} channels, but gets {shown(row)}.",
                field="num_parameters",
                hint="Set num_parameters to 1, or to the number of channels.",
                expected=str(self.num_parameters),
                got=str(row[0]) if row else "1",
                then=row,
            )
        return row


class RReLU(Leaf):
    """LeakyReLU whose slope is random while training."""

    reach = 0
    type: Literal["RReLU"]
    lower: Real = 1 / 8
    upper: Real = Field(1 / 3, validate_default=True)
    inplace: Flag = False

    @field_validator("upper")
    @classmethod
    def _above_lower(cls, upper: float, info: Any) -> float:
        if upper < info.data.get("lower", upper):
            raise PydanticCustomError("greater_than_equal", "upper is at least lower.")
        return upper


class ELU(Leaf):
    """The exponential linear unit."""

    reach = 0
    type: Literal["ELU"]
    alpha: Real = 1.0
    inplace: Flag = False


class CELU(Leaf):
    """The continuously differentiable ELU."""

    reach = 0
    type: Literal["CELU"]
    alpha: Real = 1.0
    inplace: Flag = False

    @field_validator("alpha")
    @classmethod
    def _not_zero(cls, alpha: float) -> float:
        if alpha == 0:
            raise PydanticCustomError("greater_than", "alpha may not be 0: CELU divides by it.")
        return alpha


class SELU(Leaf):
    """The self-normalising ELU."""

    reach = 0
    type: Literal["SELU"]
    inplace: Flag = False


class GELU(Leaf):
    """The Gaussian error linear unit."""

    reach = 0
    type: Literal["GELU"]
    approximate: Literal["none", "tanh"] = "none"


class SiLU(Leaf):
    """x · sigmoid(x)."""

    reach = 0
    type: Literal["SiLU"]
    inplace: Flag = False


class Mish(Leaf):
    """x · tanh(softplus(x))."""

    reach = 0
    type: Literal["Mish"]
    inplace: Flag = False


class Sigmoid(Leaf):
    """1 / (1 + e⁻ˣ)."""

    reach = 0
    type: Literal["Sigmoid"]


class LogSigmoid(Leaf):
    """The logarithm of Sigmoid."""

    reach = 0
    type: Literal["LogSigmoid"]


class Tanh(Leaf):
    """The hyperbolic tangent."""

    reach = 0
    type: Literal["Tanh"]


class Hardtanh(Leaf):
    """x between two bounds."""

    reach = 0
    type: Literal["Hardtanh"]
    min_val: Real = -1.0
    max_val: Real = Field(1.0, validate_default=True)
    inplace: Flag = False

    @field_validator("max_val")
    @classmethod
    def _above_min(cls, max_val: float, info: Any) -> float:
        if max_val <= info.data.get("min_val", -float("inf")):
            raise PydanticCustomError("greater_than", "max_val is larger than min_val.")
        return max_val


class Hardsigmoid(Leaf):
    """Sigmoid in three straight pieces."""

    reach = 0
    type: Literal["Hardsigmoid"]
    inplace: Flag = False


class Hardswish(Leaf):
    """SiLU in straight pieces."""

    reach = 0
    type: Literal["Hardswish"]
    inplace: Flag = False


class Hardshrink(Leaf):
    """Zero near zero, x elsewhere."""

    reach = 0
    type: Literal["Hardshrink"]
    lambd: Real = 0.5


class Softshrink(Leaf):
    """x moved towards zero by `lambd`."""

    reach = 0
    type: Literal["Softshrink"]
    lambd: Annotated[float, Strict(), Field(ge=0, le=3.4e38)] = 0.5


class Threshold(Leaf):
    """x where it is above `threshold`, else `value`."""

    reach = 0
    type: Literal["Threshold"]
    threshold: Real
    value: Real
    inplace: Flag = False


class Softplus(Leaf):
    """A smooth ReLU."""

    reach = 0
    type: Literal["Softplus"]
    beta: Positive = 1.0
    threshold: Real = 20.0


class Softsign(Leaf):
    """x / (1 + |x|)."""

    reach = 0
    type: Literal["Softsign"]


class Tanhshrink(Leaf):
    """x − tanh(x)."""

    reach = 0
    type: Literal["Tanhshrink"]


class _Softmax(Leaf):
    dim: Index | None = None

    def output(self, row: Row) -> Row:
        softmax_dimension(self.dim, row, self.type)
        return row

    def remarks(self) -> Iterator[str]:
        if self.dim is None:
            yield f"{self.type} has no dim; dimension 1 is taken. Say so with dim: 1."


class Softmin(_Softmax):
    """Softmax of −x."""

    type: Literal["Softmin"]


class Softmax(_Softmax):
    """Probabilities along one dimension."""

    type: Literal["Softmax"]


class LogSoftmax(_Softmax):
    """Logarithms of probabilities along one dimension."""

    type: Literal["LogSoftmax"]


class Softmax2d(Leaf):
    """Probabilities over the channels of [B, C, H, W]."""

    type: Literal["Softmax2d"]

    def output(self, row: Row) -> Row:
        ranked(row, 2, self.type, channels=True)
        return row


class GLU(Leaf):
    """One half of a dimension, gated by the other."""

    type: Literal["GLU"]
    dim: Index = -1

    def output(self, row: Row) -> Row:
        place = dimension(self.dim, row, "GLU")
        if row[place] % 2:
            raise Mismatch(
                f"GLU halves dimension {place + 1} of {shown(row)}, which is odd.", field="dim", got=str(row[place])
            )
        return (*row[:place], row[place] // 2, *row[place + 1 :])


# Distances.


class CosineSimilarity(Leaf):
    """The cosine of the angle between two values, along one dimension."""

    arguments = (Argument("x1"), Argument("x2"))
    type: Literal["CosineSimilarity"]
    dim: Index = 1
    eps: Positive = 1e-8

    def outcome(self, given: Arguments) -> Value:
        both = paired(*_two(self, given), self.type)
        place = placed(self.dim, both, self.type)
        return both.resized((*both.sizes[:place], *both.sizes[place + 1 :]))

    def work(self, given: Arguments, out: Value) -> Work:
        return Work(6 * elements(paired(*_two(self, given), self.type).row))  # three sums of products


class PairwiseDistance(Leaf):
    """The p-norm of the difference of two values, over the last dimension."""

    arguments = (Argument("x1"), Argument("x2"))
    type: Literal["PairwiseDistance"]
    p: Annotated[Real, Field(ge=0)] = 2.0
    eps: Real = 1e-6
    keepdim: Flag = False

    def outcome(self, given: Arguments) -> Value:
        both = paired(*_two(self, given), self.type)
        placed(-1, both, self.type)
        return both.resized((*both.sizes[:-1], *((1,) if self.keepdim else ())))

    def work(self, given: Arguments, out: Value) -> Work:
        return Work(4 * elements(paired(*_two(self, given), self.type).row))


# Padding and resampling.


class _Pad(Free):
    n: ClassVar[int]
    mode: ClassVar[str] = "zeros"

    if TYPE_CHECKING:
        padding: Any

    def output(self, row: Row) -> Row:
        ranked(row, self.n, self.type)
        # torch counts from the last dimension: left, right, top, bottom
        sides = [(self.padding[2 * i], self.padding[2 * i + 1]) for i in range(self.n)][::-1]
        space = row[-self.n :]
        out = row[: -self.n] + tuple(size + a + b for size, (a, b) in zip(space, sides, strict=True))
        _pads(self.mode, [max(side) for side in sides], space, self.type, out)
        return out


class ZeroPad1d(_Pad):
    """Zeros left and right."""

    n = 1
    type: Literal["ZeroPad1d"]
    padding: PairPadding


class ZeroPad2d(_Pad):
    """Zeros left, right, above and below."""

    n = 2
    type: Literal["ZeroPad2d"]
    padding: QuadPadding


class ZeroPad3d(_Pad):
    """Zeros on all six sides of [B, C, D, H, W]."""

    n = 3
    type: Literal["ZeroPad3d"]
    padding: SixPadding


class ConstantPad1d(_Pad):
    """A constant left and right."""

    n = 1
    type: Literal["ConstantPad1d"]
    padding: PairPadding
    value: Real


class ConstantPad2d(_Pad):
    """A constant left, right, above and below."""

    n = 2
    type: Literal["ConstantPad2d"]
    padding: QuadPadding
    value: Real


class ConstantPad3d(_Pad):
    """A constant on all six sides of [B, C, D, H, W]."""

    n = 3
    type: Literal["ConstantPad3d"]
    padding: SixPadding
    value: Real


class ReflectionPad1d(_Pad):
    """The input mirrored left and right."""

    n = 1
    mode = "reflect"
    type: Literal["ReflectionPad1d"]
    padding: PairPadding


class ReflectionPad2d(_Pad):
    """The input mirrored left, right, above and below."""

    n = 2
    mode = "reflect"
    type: Literal["ReflectionPad2d"]
    padding: QuadPadding


class ReflectionPad3d(_Pad):
    """The input mirrored on all six sides of [B, C, D, H, W]."""

    n = 3
    mode = "reflect"
    type: Literal["ReflectionPad3d"]
    padding: SixPadding


class ReplicationPad1d(_Pad):
    """The edge repeated left and right."""

    n = 1
    mode = "replicate"
    type: Literal["ReplicationPad1d"]
    padding: PairPadding


class ReplicationPad2d(_Pad):
    """The edge repeated left, right, above and below."""

    n = 2
    mode = "replicate"
    type: Literal["ReplicationPad2d"]
    padding: QuadPadding


class ReplicationPad3d(_Pad):
    """The edge repeated on all six sides of [B, C, D, H, W]."""

    n = 3
    mode = "replicate"
    type: Literal["ReplicationPad3d"]
    padding: SixPadding


class CircularPad1d(_Pad):
    """The input's other side, left and right."""

    n = 1
    mode = "circular"
    type: Literal["CircularPad1d"]
    padding: PairPadding


class CircularPad2d(_Pad):
    """The input's other side, left, right, above and below."""

    n = 2
    mode = "circular"
    type: Literal["CircularPad2d"]
    padding: QuadPadding


class CircularPad3d(_Pad):
    """The input's other side, on all six sides of [B, C, D, H, W]."""

    n = 3
    mode = "circular"
    type: Literal["CircularPad3d"]
    padding: SixPadding


_UPSAMPLED_RANKS: Final = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}


def _read_upsampled(value: object, *, whole: bool) -> Any:
    items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    good = 1 <= len(items) <= 3 and all(
        isinstance(item, int if whole else (int, float)) and not isinstance(item, bool) and 0 < item <= LARGEST
        for item in items
    )
    if value is not None and not good:
        raise PydanticCustomError(
            "size_type",
            "Expected a {what} above 0, or a list of one for each dimension.",
            {"what": "whole number" if whole else "number"},
        )
    if value is None:
        return None
    read = tuple(item if whole else float(item) for item in items)
    return read if isinstance(value, (list, tuple)) else read[0]


def _write_upsampled(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_UpsampledSize = Annotated[
    int | tuple[int, ...] | None,
    PlainValidator(lambda value: _read_upsampled(value, whole=True), json_schema_input_type=int | list[int] | None),
    PlainSerializer(_write_upsampled, return_type=int | list[int] | None),
]
_UpsampledScale = Annotated[
    float | tuple[float, ...] | None,
    PlainValidator(
        lambda value: _read_upsampled(value, whole=False), json_schema_input_type=float | list[float] | None
    ),
    PlainSerializer(_write_upsampled, return_type=float | list[float] | None),
]


class _Resampled(Leaf):
    if TYPE_CHECKING:
        size: Any
        scale_factor: Any

    @field_validator("scale_factor", check_fields=False)
    @classmethod
    def _one_of_the_two(cls, scale: Any, info: Any) -> Any:
        if "size" in info.data and (scale is None) == (info.data["size"] is None):
            raise PydanticCustomError("upsample", "Give size or scale_factor, one of the two.")
        return scale

    def _resampled(self, row: Row) -> Row:
        given: Any = self.size if self.size is not None else self.scale_factor
        n = len(row) - 1
        if isinstance(given, tuple) and len(given) != n:
            field = "size" if self.size is not None else "scale_factor"
            detail = f"{self.type} has a {field} for {len(given)} dimensions, but gets {shown(row)}."
            raise Mismatch(detail, field=field, got=shown(row))
        each = given if isinstance(given, tuple) else (given,) * n
        if self.size is not None:
            return (row[0], *each)
        out = tuple(int(size * scale) for size, scale in zip(row[1:], each, strict=True))
        if min(out) < 1:
            raise Mismatch(f"{self.type} leaves nothing of {shown(row)}.", field="scale_factor", got=shown(row))
        return (row[0], *out)


class Upsample(_Resampled):
    """The input resampled to `size`, or by `scale_factor`."""

    type: Literal["Upsample"]
    size: _UpsampledSize = None
    scale_factor: _UpsampledScale = Field(None, validate_default=True)
    mode: Literal["nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear"] = "nearest"
    align_corners: Flag | None = None

    @field_validator("align_corners")
    @classmethod
    def _not_for_nearest(cls, align: bool | None, info: Any) -> bool | None:
        if align is not None and info.data.get("mode") in ("nearest", "nearest-exact"):
            raise PydanticCustomError("upsample", "align_corners is for the modes with linear or cubic in the name.")
        return align

    def output(self, row: Row) -> Row:
        if len(row) - 1 not in _UPSAMPLED_RANKS[self.mode]:
            raise Mismatch(f"Upsample with mode {self.mode!r} cannot take {shown(row)}.", field="mode", got=shown(row))
        return self._resampled(row)


class _Upsampling2d(_Resampled):
    def output(self, row: Row) -> Row:
        ranked(row, 2, self.type, channels=True)
        return self._resampled(row)


class UpsamplingNearest2d(_Upsampling2d):
    """[B, C, H, W] resampled to `size`, or by `scale_factor`, each pixel the nearest."""

    type: Literal["UpsamplingNearest2d"]
    size: _UpsampledSize = None
    scale_factor: _UpsampledScale = Field(None, validate_default=True)


class UpsamplingBilinear2d(_Upsampling2d):
    """[B, C, H, W] resampled to `size`, or by `scale_factor`, between the pixels; the corners stay."""

    type: Literal["UpsamplingBilinear2d"]
    size: _UpsampledSize = None
    scale_factor: _UpsampledScale = Field(None, validate_default=True)


class PixelShuffle(Free):
    """Channels become pixels: [B, C·r², H, W] to [B, C, H·r, W·r]."""

    takes = "any"
    type: Literal["PixelShuffle"]
    upscale_factor: Size

    def output(self, row: Row) -> Row:
        ranked(row, 2, self.type, channels=True)
        r = self.upscale_factor
        if row[0] % (r * r):
            raise Mismatch(
                f"PixelShuffle needs a multiple of {r * r} channels and gets {row[0]}.",
                field="upscale_factor",
                expected=f"a multiple of {r * r}",
                got=str(row[0]),
            )
        return (row[0] // (r * r), row[1] * r, row[2] * r)


class PixelUnshuffle(Free):
    """Pixels become channels: [B, C, H·r, W·r] to [B, C·r², H, W]."""

    takes = "any"
    type: Literal["PixelUnshuffle"]
    downscale_factor: Size

    def output(self, row: Row) -> Row:
        ranked(row, 2, self.type, channels=True)
        r = self.downscale_factor
        if row[1] % r or row[2] % r:
            raise Mismatch(
                f"PixelUnshuffle needs height and width that are multiples of {r} and gets {shown(row)}.",
                field="downscale_factor",
                expected=f"multiples of {r}",
                got=shown(row),
            )
        return (row[0] * r * r, row[1] // r, row[2] // r)


class ChannelShuffle(Free):
    """Channels of different groups change places."""

    type: Literal["ChannelShuffle"]
    groups: Size

    def output(self, row: Row) -> Row:
        if len(row) < 2 or row[0] % self.groups:
            raise Mismatch(
                f"ChannelShuffle needs [B, C, L, …] with a multiple of {self.groups} channels and gets {shown(row)}.",
                field="groups",
                got=shown(row),
            )
        return row


# Free parameters and buffers.


class _Tensor(Leaf):
    """A tensor of its own in a Graph, which its forward reads by its name.

    It has no batch: `shape` is all of it.
    """

    arguments = ()

    if TYPE_CHECKING:
        shape: Any

    def value(self) -> TensorSpec:
        """What the forward reads."""
        raise NotImplementedError


def _read_tensor_shape(value: object) -> Any:
    good = isinstance(value, (list, tuple)) and len(value) <= 8
    if not good or not all(isinstance(size, int) and not isinstance(size, bool) for size in value):  # type: ignore[attr-defined]
        raise PydanticCustomError("shape_type", "Expected a list of at most 8 whole numbers, such as [1, 1, 64].")
    if not all(1 <= size <= LARGEST for size in value):  # type: ignore[attr-defined]
        raise PydanticCustomError("greater_than_equal", "A size is a whole number, 1 or more.")
    return tuple(value)  # type: ignore[arg-type]


_TensorShape = Annotated[
    tuple[int, ...],
    PlainValidator(_read_tensor_shape, json_schema_input_type=list[int]),
    PlainSerializer(list, return_type=list[int]),
]


class Parameter(_Tensor):
    """A free parameter of a Graph: `self.scale = nn.Parameter(torch.zeros(shape))`."""

    type: Literal["Parameter"]
    shape: _TensorShape
    init: Initializer = Field(default_factory=lambda: Filled(type="zeros"))

    def parameters(self) -> dict[str, Row]:
        return {"": self.shape}

    def value(self) -> TensorSpec:
        return TensorSpec(self.shape, "float32", None)


class Buffer(_Tensor):
    """A tensor that is stored and not trained: `self.register_buffer(name, torch.zeros(shape))`."""

    type: Literal["Buffer"]
    shape: _TensorShape
    init: Initializer = Field(default_factory=lambda: Filled(type="zeros"))
    tensor_dtype: Annotated[DType, Field(alias="dtype")] = "float32"
    persistent: Flag = True

    def buffers(self) -> dict[str, Row]:
        return {"": self.shape} if self.persistent else {}

    def value(self) -> TensorSpec:
        return TensorSpec(self.shape, self.tensor_dtype, None)


# Containers.


def _read_layers(value: object) -> object:
    if isinstance(value, dict):
        detail = 'Layers are a list, in which each has its own name: [{"name": …, "type": …}, …].'
        raise PydanticCustomError("layers_type", detail)
    return value


def _read_forward(value: object) -> object:
    if isinstance(value, str):
        raise PydanticCustomError("lines_type", "A forward is a list of lines: one text for each of them.")
    return value


_Layers = Annotated[tuple["Layer", ...], BeforeValidator(_read_layers), counted(0, 20_000)]


class Sequential(Document):
    """Layers that are called one after the other; children without a name get their place, as in torch."""

    type: Literal["Sequential"]
    name: LayerName | None = None
    layers: _Layers

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The children's names."""
        return tuple(str(place) if layer.name is None else layer.name for place, layer in enumerate(self.layers))


def _read_class_name(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", value) and not value.startswith("__"):
        return value
    raise PydanticCustomError("class_name", "A class name has 1 to 64 letters, digits and underscores.")


class Graph(Document):
    """Named layers and a `forward` that says how they are called.

    `class_name` is what the class would be called in Python.
    """

    type: Literal["Graph"]
    name: LayerName | None = None
    inputs: Annotated[tuple[Annotated[str, Strict()], ...], counted(1, 64)] = ("x",)
    layers: _Layers = ()
    forward: Annotated[tuple[Written, ...], BeforeValidator(_read_forward), counted(1, MAX_LINES)]
    class_name: Annotated[str, BeforeValidator(_read_class_name)] | None = None
    absent: Annotated[tuple[str, ...], SkipJsonSchema(), Field(exclude=True)] = ()
    """Layers that an `if` left out (`expand` alone writes this): a call of one gives its first input."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The children's names."""
        return tuple(layer.name or "" for layer in self.layers)

    @cached_property
    def program(self) -> Program:
        """The forward in steps, with the mistakes found in it."""
        lines = tuple(entry.text for entry in self.forward if isinstance(entry, Line))
        if lines:
            return from_lines(lines, self.inputs, self.names, self.free, frozenset(self.absent))
        written = tuple(entry for entry in self.forward if not isinstance(entry, Line))
        return from_steps(written, self.inputs, self.names, self.free, frozenset(self.absent))

    @cached_property
    def free(self) -> frozenset[str]:
        """The names of the free parameters and buffers among the children."""
        return frozenset(layer.name or "" for layer in self.layers if isinstance(layer, (Parameter, Buffer)))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The forward in steps."""
        return self.program.steps


Container: TypeAlias = Sequential | Graph

Layer = Annotated[
    Identity
    | Linear
    | Bilinear
    | Flatten
    | Unflatten
    | Fold
    | Unfold
    | Dropout
    | Dropout1d
    | Dropout2d
    | Dropout3d
    | AlphaDropout
    | FeatureAlphaDropout
    | Conv1d
    | Conv2d
    | Conv3d
    | ConvTranspose1d
    | ConvTranspose2d
    | ConvTranspose3d
    | MaxPool1d
    | MaxPool2d
    | MaxPool3d
    | MaxUnpool1d
    | MaxUnpool2d
    | MaxUnpool3d
    | AvgPool1d
    | AvgPool2d
    | AvgPool3d
    | LPPool1d
    | LPPool2d
    | LPPool3d
    | FractionalMaxPool2d
    | FractionalMaxPool3d
    | AdaptiveAvgPool1d
    | AdaptiveAvgPool2d
    | AdaptiveAvgPool3d
    | AdaptiveMaxPool1d
    | AdaptiveMaxPool2d
    | AdaptiveMaxPool3d
    | BatchNorm1d
    | BatchNorm2d
    | BatchNorm3d
    | SyncBatchNorm
    | InstanceNorm1d
    | InstanceNorm2d
    | InstanceNorm3d
    | GroupNorm
    | LayerNorm
    | RMSNorm
    | LocalResponseNorm
    | CrossMapLRN2d
    | Embedding
    | EmbeddingBag
    | RNN
    | LSTM
    | GRU
    | RNNCell
    | LSTMCell
    | GRUCell
    | MultiheadAttention
    | TransformerEncoderLayer
    | TransformerDecoderLayer
    | TransformerEncoder
    | TransformerDecoder
    | Transformer
    | ReLU
    | ReLU6
    | LeakyReLU
    | PReLU
    | RReLU
    | ELU
    | CELU
    | SELU
    | GELU
    | SiLU
    | Mish
    | Sigmoid
    | LogSigmoid
    | Tanh
    | Hardtanh
    | Hardsigmoid
    | Hardswish
    | Hardshrink
    | Softshrink
    | Threshold
    | Softplus
    | Softsign
    | Tanhshrink
    | Softmin
    | Softmax
    | LogSoftmax
    | Softmax2d
    | GLU
    | CosineSimilarity
    | PairwiseDistance
    | ZeroPad1d
    | ZeroPad2d
    | ZeroPad3d
    | ConstantPad1d
    | ConstantPad2d
    | ConstantPad3d
    | ReflectionPad1d
    | ReflectionPad2d
    | ReflectionPad3d
    | ReplicationPad1d
    | ReplicationPad2d
    | ReplicationPad3d
    | CircularPad1d
    | CircularPad2d
    | CircularPad3d
    | Upsample
    | UpsamplingNearest2d
    | UpsamplingBilinear2d
    | PixelShuffle
    | PixelUnshuffle
    | ChannelShuffle
    | Parameter
    | Buffer
    | Sequential
    | Graph,
    Field(discriminator="type"),
]
"""Any layer, told apart by `type`."""

Sequential.model_rebuild()
Graph.model_rebuild()

LAYER_KINDS: Final[dict[str, type[Leaf]]] = {
    kind.__name__: kind
    for kind in get_args(get_args(Layer)[0])
    if issubclass(kind, Leaf) and not issubclass(kind, _Tensor)
}
"""Every layer that is not a container, by its type: a class of torch.nn each."""
