"""The layers: one frozen document for each supported class of torch.nn, told apart by `type`.

A layer's members are its class's constructor arguments, with the same names and defaults. Each layer knows in plain
integers what its parameters are, what comes out for a given input, and what that costs. It does not know torch, nor its
neighbours.
"""

# ruff: noqa: D102 - what an overriding method does stands once, at `Leaf`
from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, Strict, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from service.schemas.document import Document
from service.schemas.forward import MAX_LINES, Line, Program, Written, from_lines, from_steps
from service.schemas.shapes import (
    LARGEST,
    DType,
    Flag,
    Index,
    Mismatch,
    Pair,
    PairConvPadding,
    PairOrNone,
    PairPadding,
    PairTarget,
    Positive,
    Probability,
    QuadPadding,
    Real,
    Reshaped,
    Row,
    Single,
    SingleConvPadding,
    SingleOrNone,
    SinglePadding,
    Size,
    SizeOrAuto,
    SizesOrAuto,
    TensorSpec,
    conv_length,
    counted,
    dimension,
    elements,
    flattened,
    pooled,
    ranked,
    reshaped,
    shown,
    slid,
    softmax_dimension,
    targeted,
)
from service.schemas.steps import Step

RESERVED_NAMES: Final = frozenset(
    """
    T_destination __annotations__ __call__ __class__ __delattr__ __dict__ __dir__ __doc__ __eq__ __format__ __ge__
    __getattr__ __getattribute__ __getstate__ __gt__ __hash__ __init__ __init_subclass__ __le__ __lt__ __module__ __ne__
    __new__ __reduce__ __reduce_ex__ __repr__ __setattr__ __setstate__ __sizeof__ __str__ __subclasshook__ __weakref__
    _apply _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl _forward_hooks
    _forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks _forward_pre_hooks_with_kwargs
    _get_backward_hooks _get_backward_pre_hooks _get_item_by_idx _get_name _is_full_backward_hook _load_from_state_dict
    _load_state_dict_post_hooks _load_state_dict_pre_hooks _maybe_warn_non_full_backward_hook _modules _named_members
    _non_persistent_buffers_set _parameters _register_load_state_dict_pre_hook _register_state_dict_hook
    _replicate_for_data_parallel _save_to_state_dict _slow_forward _state_dict_hooks _state_dict_pre_hooks _version
    _wrapped_call_impl add_module append apply bfloat16 buffers call_super_init children compile cpu cuda double
    dump_patches eval extend extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half insert
    ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
    """.split()  # noqa: SIM905 - a list of 110 strings, one a line, reads worse
)
"""Attributes of nn.Module, and of nn.Sequential: torch refuses children of these names."""

_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}")


def _read_name(value: object) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "A name is a string.")
    if not _NAME.fullmatch(value):
        raise PydanticCustomError("layer_name", "A layer's name has 1 to 64 letters, digits and underscores.")
    if value in RESERVED_NAMES or (value.startswith("__") and value.endswith("__")):
        raise PydanticCustomError(
            "layer_name", "`{name}` is taken by torch.nn.Module itself: choose another name", {"name": value}
        )
    return value


LayerName = Annotated[str, PlainValidator(_read_name, json_schema_input_type=str)]


def _known(value: int | Literal["auto"]) -> int:
    """A size after `auto` was resolved; the judge sees to that before it asks."""
    if value == "auto":
        raise Mismatch("This size is not known: nothing comes before it.", code="unresolved")
    return value


class Leaf(Document):
    """A layer without children.

    `name` is the attribute it gets in its parent, and thereby its keys in the state_dict.
    """

    takes: ClassVar[Literal["float", "integer", "any"]] = "float"
    guessed: ClassVar[str | None] = None
    """The member that may be "auto"."""

    type: str
    name: LayerName | None = None

    def parameters(self) -> dict[str, Row]:
        """Names and shapes of the parameters, in the order in which torch registers them."""
        return {}

    def buffers(self) -> dict[str, Row]:
        """Names and shapes of the buffers; `num_batches_tracked` alone is int64."""
        return {}

    def output(self, row: Row) -> Row:
        """What comes out for a row of shape `row`.

        Raises:
            Mismatch: the layer cannot take it.
        """
        return row

    def dtype(self, dtype: DType) -> DType:
        """The dtype that comes out."""
        return dtype

    def flops(self, row: Row, out: Row) -> int:
        """Operations for one row: a multiplication and addition count as two, any other output element as one."""
        return elements(out)

    def guess(self, row: Row) -> Any:
        """What "auto" stands for, or None when `row` does not say."""
        return None

    def resolved(self, row: Row) -> Self:
        """The layer with its "auto" filled in from what it is given.

        Raises:
            Mismatch: with that size the layer would be wrong.
        """
        if self.guessed is None or getattr(self, self.guessed) != "auto":
            return self
        guess = self.guess(row)
        if guess is None:
            return self
        members = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            return type(self).model_validate({**members, self.guessed: guess})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise Mismatch(
                f"With {self.guessed} {guess}: {first['msg'].rstrip('.')}.", field=str(first["loc"][0]), code="invalid"
            ) from None

    def remarks(self) -> Iterator[str]:
        """What is allowed and odd."""
        return iter(())

    def check_dtype(self, spec: TensorSpec) -> None:
        """See that the layer can compute with this dtype.

        Raises:
            Mismatch: it cannot.
        """
        match self.takes:
            case "any":
                return
            case "integer":
                wanted: tuple[str, ...] = ("int64", "int32")
            case "float":
                # weights are float32, and torch does not mix
                wanted = ("float32",) if self.parameters() or self.buffers() else ("float32", "float64")
        if spec.dtype not in wanted:
            raise Mismatch(
                f"{self.type} takes {' or '.join(wanted)}, but gets {spec.dtype}.",
                code="dtype-mismatch",
                expected=" or ".join(wanted),
                got=spec.dtype,
            )


class _Free(Leaf):
    """Moves elements, or does nothing while predicting."""

    def flops(self, row: Row, out: Row) -> int:
        return 0


# Linear layers and shapes.


class Identity(_Free):
    """Gives what it gets."""

    takes = "any"
    type: Literal["Identity"]


class Linear(Leaf):
    """`x Wᵀ + b` over the last dimension."""

    guessed = "in_features"
    type: Literal["Linear"]
    in_features: SizeOrAuto
    out_features: Size
    bias: Flag = True

    def guess(self, row: Row) -> Any:
        return row[-1] if row else None

    def parameters(self) -> dict[str, Row]:
        weight = {"weight": (self.out_features, _known(self.in_features))}
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
        if row[-1] != _known(self.in_features):
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


class Flatten(_Free):
    """Several dimensions become one."""

    takes = "any"
    type: Literal["Flatten"]
    start_dim: Index = 1
    end_dim: Index = -1

    def output(self, row: Row) -> Row:
        return flattened(row, self.start_dim, self.end_dim, "Flatten")


class Unflatten(_Free):
    """One dimension becomes several."""

    takes = "any"
    type: Literal["Unflatten"]
    dim: Index
    unflattened_size: Reshaped

    def output(self, row: Row) -> Row:
        place = dimension(self.dim, row, "Unflatten")
        parts = reshaped((row[place],), self.unflattened_size, "Unflatten", field="unflattened_size")
        return row[:place] + parts + row[place + 1 :]


# Dropout.


class _Dropout(_Free):
    p: Probability = 0.5
    inplace: Flag = False

    def remarks(self) -> Iterator[str]:
        if self.p == 1:
            yield f"{self.type} with p = 1 passes nothing on while training."


class Dropout(_Dropout):
    """Zeroes elements while training."""

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


class AlphaDropout(_Dropout):
    """Dropout that keeps mean and variance, for SELU nets."""

    type: Literal["AlphaDropout"]


class FeatureAlphaDropout(_Dropout):
    """AlphaDropout of whole channels."""

    type: Literal["FeatureAlphaDropout"]

    def output(self, row: Row) -> Row:
        if not row:
            raise Mismatch(f"FeatureAlphaDropout takes [B, C, …], but gets {shown(row)}.", got=shown(row))
        return row


# Convolutions.


def _divides(groups: int, members: dict[str, Any], *fields: str) -> int:
    for field in fields:
        channels = members.get(field)
        if isinstance(channels, int) and channels % groups:
            raise PydanticCustomError(
                "groups",
                "{field} {channels} is not a multiple of groups {groups}.",
                {"field": field, "channels": channels, "groups": groups},
            )
    return groups


def _channels(row: Row, n: int, channels: int, what: str, field: str, then: Row | None = None) -> None:
    if row[0] != channels:
        raise Mismatch(
            f"{what} expects {channels} channels and gets {row[0]}.",
            field=field,
            hint=f'Set {field} to {row[0]}, or to "auto".',
            expected=str(channels),
            got=str(row[0]),
            then=then,
        )


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
        return _divides(groups, info.data, "in_channels", "out_channels")

    def guess(self, row: Row) -> Any:
        return row[0] if len(row) == self.n + 1 else None

    def parameters(self) -> dict[str, Row]:
        weight = {"weight": (self.out_channels, _known(self.in_channels) // self.groups, *self.kernel_size)}
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
        _channels(row, self.n, _known(self.in_channels), self.type, "in_channels", then)
        _pads(self.padding_mode, pads, space, self.type, then)
        return then

    def flops(self, row: Row, out: Row) -> int:
        return 2 * elements(out) * elements(self.kernel_size) * _known(self.in_channels) // self.groups

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
        return _divides(groups, info.data, "in_channels", "out_channels")

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
        weight = {"weight": (_known(self.in_channels), self.out_channels // self.groups, *self.kernel_size)}
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
        _channels(row, self.n, _known(self.in_channels), self.type, "in_channels", then)
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


# Pools.


class _Pool(Leaf):
    n: ClassVar[int]

    if TYPE_CHECKING:
        kernel_size: Any
        stride: Any
        padding: Any
        ceil_mode: Flag

    @field_validator("stride", check_fields=False)
    @classmethod
    def _same_as_the_kernel(cls, stride: Any, info: Any) -> Any:
        return None if stride == info.data.get("kernel_size") else stride  # one form for one meaning

    @field_validator("padding", check_fields=False)
    @classmethod
    def _half_the_kernel(cls, padding: Any, info: Any) -> Any:
        kernel = info.data.get("kernel_size")
        if kernel and any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
            raise PydanticCustomError("less_than_equal", "The padding of a pool is at most half its kernel.")
        return padding

    def output(self, row: Row) -> Row:
        return pooled(
            row,
            self.n,
            self.type,
            kernel=self.kernel_size,
            stride=self.stride or self.kernel_size,
            padding=self.padding,
            dilation=getattr(self, "dilation", None),
            ceil_mode=self.ceil_mode,
        )

    def flops(self, row: Row, out: Row) -> int:
        return elements(out) * elements(self.kernel_size)


class MaxPool1d(_Pool):
    """The largest of each window over [B, C, L]."""

    n = 1
    type: Literal["MaxPool1d"]
    kernel_size: Single
    stride: SingleOrNone = None
    padding: SinglePadding = (0,)
    dilation: Single = (1,)
    ceil_mode: Flag = False


class MaxPool2d(_Pool):
    """The largest of each window over [B, C, H, W]."""

    n = 2
    type: Literal["MaxPool2d"]
    kernel_size: Pair
    stride: PairOrNone = None
    padding: PairPadding = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: Flag = False


class AvgPool1d(_Pool):
    """The mean of each window over [B, C, L]."""

    n = 1
    type: Literal["AvgPool1d"]
    kernel_size: Single
    stride: SingleOrNone = None
    padding: SinglePadding = (0,)
    ceil_mode: Flag = False
    count_include_pad: Flag = True


class AvgPool2d(_Pool):
    """The mean of each window over [B, C, H, W]."""

    n = 2
    type: Literal["AvgPool2d"]
    kernel_size: Pair
    stride: PairOrNone = None
    padding: PairPadding = (0, 0)
    ceil_mode: Flag = False
    count_include_pad: Flag = True
    divisor_override: Size | None = None


class _AdaptivePool(Leaf):
    if TYPE_CHECKING:
        output_size: Any

    def output(self, row: Row) -> Row:
        return targeted(row, self.output_size, self.type)

    def flops(self, row: Row, out: Row) -> int:
        return elements(row)


class AdaptiveAvgPool1d(_AdaptivePool):
    """Means over windows chosen so that L becomes `output_size`."""

    type: Literal["AdaptiveAvgPool1d"]
    output_size: Single


class AdaptiveAvgPool2d(_AdaptivePool):
    """Means over windows chosen so that H and W become `output_size`; null keeps one."""

    type: Literal["AdaptiveAvgPool2d"]
    output_size: PairTarget


class AdaptiveMaxPool1d(_AdaptivePool):
    """The largest of windows chosen so that L becomes `output_size`."""

    type: Literal["AdaptiveMaxPool1d"]
    output_size: Single


class AdaptiveMaxPool2d(_AdaptivePool):
    """The largest of windows chosen so that H and W become `output_size`; null keeps one."""

    type: Literal["AdaptiveMaxPool2d"]
    output_size: PairTarget


# Normalisation.


def _statistics(features: int) -> dict[str, Row]:
    return {"running_mean": (features,), "running_var": (features,), "num_batches_tracked": ()}


class _BatchNorm(Leaf):
    guessed = "num_features"
    ranks: ClassVar[tuple[int, ...]]
    shape: ClassVar[str]

    if TYPE_CHECKING:
        num_features: SizeOrAuto
        affine: Flag
        track_running_stats: Flag

    def guess(self, row: Row) -> Any:
        return row[0] if len(row) in self.ranks else None

    def parameters(self) -> dict[str, Row]:
        features = _known(self.num_features)
        return {"weight": (features,), "bias": (features,)} if self.affine else {}

    def buffers(self) -> dict[str, Row]:
        return _statistics(_known(self.num_features)) if self.track_running_stats else {}

    def output(self, row: Row) -> Row:
        if len(row) not in self.ranks:
            raise Mismatch(
                f"{self.type} takes {self.shape}, but gets {shown(row)}.", expected=self.shape, got=shown(row), then=row
            )
        _channels(row, 0, _known(self.num_features), self.type, "num_features", row)
        return row


class BatchNorm1d(_BatchNorm):
    """Normalises each channel of [B, C] or [B, C, L] over the batch, and in eval by what it has learnt."""

    ranks = (1, 2)
    shape = "[B, C] or [B, C, L]"
    type: Literal["BatchNorm1d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability | None = 0.1
    affine: Flag = True
    track_running_stats: Flag = True


class BatchNorm2d(_BatchNorm):
    """Normalises each channel of [B, C, H, W] over the batch, and in eval by what it has learnt."""

    ranks = (3,)
    shape = "[B, C, H, W]"
    type: Literal["BatchNorm2d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability | None = 0.1
    affine: Flag = True
    track_running_stats: Flag = True


class _InstanceNorm(_BatchNorm):
    def output(self, row: Row) -> Row:
        super().output(row)
        if elements(row[1:]) == 1:
            raise Mismatch(
                f"{self.type} normalises over the places of a channel, and {shown(row)} has one place.",
                got=shown(row),
                then=row,
            )
        return row


class InstanceNorm1d(_InstanceNorm):
    """Normalises each channel of each row of [B, C, L]."""

    ranks = (2,)
    shape = "[B, C, L]"
    type: Literal["InstanceNorm1d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability = 0.1
    affine: Flag = False
    track_running_stats: Flag = False


class InstanceNorm2d(_InstanceNorm):
    """Normalises each channel of each row of [B, C, H, W]."""

    ranks = (3,)
    shape = "[B, C, H, W]"
    type: Literal["InstanceNorm2d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability = 0.1
    affine: Flag = False
    track_running_stats: Flag = False


class GroupNorm(Leaf):
    """Normalises groups of channels of each row."""

    guessed = "num_channels"
    type: Literal["GroupNorm"]
    num_groups: Size
    num_channels: SizeOrAuto
    eps: Positive = 1e-5
    affine: Flag = True

    @field_validator("num_channels")
    @classmethod
    def _groups_divide(cls, channels: Any, info: Any) -> Any:
        groups = info.data.get("num_groups")
        if groups and isinstance(channels, int):
            _divides(groups, {"num_channels": channels}, "num_channels")
        return channels

    def guess(self, row: Row) -> Any:
        return row[0] if row else None

    def parameters(self) -> dict[str, Row]:
        channels = _known(self.num_channels)
        return {"weight": (channels,), "bias": (channels,)} if self.affine else {}

    def output(self, row: Row) -> Row:
        if not row:
            raise Mismatch(f"GroupNorm takes [B, C, …], but gets {shown(row)}.", expected="[B, C, …]", got=shown(row))
        _channels(row, 0, _known(self.num_channels), self.type, "num_channels", row)
        if elements(row) == self.num_groups:
            raise Mismatch(
                f"Each of the {self.num_groups} groups of {shown(row)} has one element, which would become 0.",
                field="num_groups",
                then=row,
            )
        return row


class _LastDimensions(Leaf):
    guessed = "normalized_shape"

    if TYPE_CHECKING:
        normalized_shape: SizesOrAuto

    def guess(self, row: Row) -> Any:
        return row[-1:] or None

    def _normalized(self) -> Row:
        if self.normalized_shape == "auto":
            raise Mismatch("This size is not known: nothing comes before it.", code="unresolved")
        return self.normalized_shape

    def output(self, row: Row) -> Row:
        wanted = self._normalized()
        if row[len(row) - len(wanted) :] != wanted or len(wanted) > len(row):
            expected = "[B, …, " + ", ".join(map(str, wanted)) + "]"
            raise Mismatch(
                f"{self.type} expects {expected} and gets {shown(row)}.",
                field="normalized_shape",
                expected=expected,
                got=shown(row),
                then=row,
            )
        return row


class LayerNorm(_LastDimensions):
    """Normalises the last dimensions of each row."""

    type: Literal["LayerNorm"]
    normalized_shape: SizesOrAuto
    eps: Positive = 1e-5
    elementwise_affine: Flag = True
    bias: Flag = True

    def parameters(self) -> dict[str, Row]:
        if not self.elementwise_affine:
            return {}
        shape = self._normalized()
        return {"weight": shape, "bias": shape} if self.bias else {"weight": shape}


class RMSNorm(_LastDimensions):
    """Divides the last dimensions of each row by their root mean square."""

    type: Literal["RMSNorm"]
    normalized_shape: SizesOrAuto
    eps: Positive | None = None
    elementwise_affine: Flag = True

    def parameters(self) -> dict[str, Row]:
        return {"weight": self._normalized()} if self.elementwise_affine else {}


class LocalResponseNorm(Leaf):
    """Divides by the neighbouring channels' squares, as AlexNet did."""

    type: Literal["LocalResponseNorm"]
    size: Size
    alpha: Real = 1e-4
    beta: Real = 0.75
    k: Real = 1.0

    def output(self, row: Row) -> Row:
        if len(row) < 2:
            raise Mismatch(f"LocalResponseNorm takes [B, C, L, …], but gets {shown(row)}.", got=shown(row), then=row)
        return row

    def flops(self, row: Row, out: Row) -> int:
        return elements(out) * self.size


# Embedding.


class Embedding(Leaf):
    """Looks integers up in a table."""

    takes = "integer"
    type: Literal["Embedding"]
    num_embeddings: Size
    embedding_dim: Size
    padding_idx: Annotated[int, Strict(), Field(ge=-LARGEST, le=LARGEST)] | None = None

    @field_validator("padding_idx")
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

    def output(self, row: Row) -> Row:
        return (*row, self.embedding_dim)

    def dtype(self, dtype: DType) -> DType:
        return "float32"

    def flops(self, row: Row, out: Row) -> int:
        return 0


# Activations.


class ReLU(Leaf):
    """max(x, 0)."""

    type: Literal["ReLU"]
    inplace: Flag = False


class ReLU6(Leaf):
    """ReLU that ends at 6."""

    type: Literal["ReLU6"]
    inplace: Flag = False


class LeakyReLU(Leaf):
    """ReLU with a slope below zero."""

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

    type: Literal["ELU"]
    alpha: Real = 1.0
    inplace: Flag = False


class CELU(Leaf):
    """The continuously differentiable ELU."""

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

    type: Literal["SELU"]
    inplace: Flag = False


class GELU(Leaf):
    """The Gaussian error linear unit."""

    type: Literal["GELU"]
    approximate: Literal["none", "tanh"] = "none"


class SiLU(Leaf):
    """x · sigmoid(x)."""

    type: Literal["SiLU"]
    inplace: Flag = False


class Mish(Leaf):
    """x · tanh(softplus(x))."""

    type: Literal["Mish"]
    inplace: Flag = False


class Sigmoid(Leaf):
    """1 / (1 + e⁻ˣ)."""

    type: Literal["Sigmoid"]


class LogSigmoid(Leaf):
    """The logarithm of Sigmoid."""

    type: Literal["LogSigmoid"]


class Tanh(Leaf):
    """The hyperbolic tangent."""

    type: Literal["Tanh"]


class Hardtanh(Leaf):
    """x between two bounds."""

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

    type: Literal["Hardsigmoid"]
    inplace: Flag = False


class Hardswish(Leaf):
    """SiLU in straight pieces."""

    type: Literal["Hardswish"]
    inplace: Flag = False


class Hardshrink(Leaf):
    """Zero near zero, x elsewhere."""

    type: Literal["Hardshrink"]
    lambd: Real = 0.5


class Softshrink(Leaf):
    """x moved towards zero by `lambd`."""

    type: Literal["Softshrink"]
    lambd: Annotated[float, Strict(), Field(ge=0, le=3.4e38)] = 0.5


class Threshold(Leaf):
    """x where it is above `threshold`, else `value`."""

    type: Literal["Threshold"]
    threshold: Real
    value: Real
    inplace: Flag = False


class Softplus(Leaf):
    """A smooth ReLU."""

    type: Literal["Softplus"]
    beta: Positive = 1.0
    threshold: Real = 20.0


class Softsign(Leaf):
    """x / (1 + |x|)."""

    type: Literal["Softsign"]


class Tanhshrink(Leaf):
    """x − tanh(x)."""

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


# Padding and resampling.


class _Pad(_Free):
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


class CircularPad2d(_Pad):
    """The input's other side, left, right, above and below."""

    n = 2
    mode = "circular"
    type: Literal["CircularPad2d"]
    padding: QuadPadding


_UPSAMPLED_RANKS: Final = {"nearest": (1, 2), "linear": (1,), "bilinear": (2,), "bicubic": (2,)}


def _read_upsampled(value: object, *, whole: bool) -> Any:
    items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    good = 1 <= len(items) <= 2 and all(
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


class Upsample(Leaf):
    """The input resampled to `size`, or by `scale_factor`."""

    type: Literal["Upsample"]
    size: _UpsampledSize = None
    scale_factor: _UpsampledScale = Field(None, validate_default=True)
    mode: Literal["nearest", "linear", "bilinear", "bicubic"] = "nearest"
    align_corners: Flag | None = None

    @field_validator("scale_factor")
    @classmethod
    def _one_of_the_two(cls, scale: Any, info: Any) -> Any:
        if "size" in info.data and (scale is None) == (info.data["size"] is None):
            raise PydanticCustomError("upsample", "Give size or scale_factor, one of the two.")
        return scale

    @field_validator("align_corners")
    @classmethod
    def _not_for_nearest(cls, align: bool | None, info: Any) -> bool | None:
        if align is not None and info.data.get("mode") == "nearest":
            raise PydanticCustomError("upsample", 'align_corners is for "linear", "bilinear" and "bicubic".')
        return align

    def output(self, row: Row) -> Row:
        n = len(row) - 1
        given: Any = self.size if self.size is not None else self.scale_factor
        if n not in _UPSAMPLED_RANKS[self.mode] or (isinstance(given, tuple) and len(given) != n):
            raise Mismatch(f"Upsample with mode {self.mode!r} cannot take {shown(row)}.", field="mode", got=shown(row))
        each = given if isinstance(given, tuple) else (given,) * n
        if self.size is not None:
            return (row[0], *each)
        out = tuple(int(size * scale) for size, scale in zip(row[1:], each, strict=True))
        if min(out) < 1:
            raise Mismatch(f"Upsample leaves nothing of {shown(row)}.", field="scale_factor", got=shown(row))
        return (row[0], *out)


class PixelShuffle(_Free):
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


class PixelUnshuffle(_Free):
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


class ChannelShuffle(_Free):
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


# Containers.


class Sequential(Document):
    """Layers that are called one after the other; children without a name get their place, as in torch."""

    type: Literal["Sequential"]
    name: LayerName | None = None
    layers: Annotated[tuple[Layer, ...], counted(0, 20_000)]

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
    layers: Annotated[tuple[Layer, ...], counted(0, 20_000)] = ()
    forward: Annotated[tuple[Written, ...], counted(1, MAX_LINES)]
    class_name: Annotated[str, BeforeValidator(_read_class_name)] | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The children's names."""
        return tuple(layer.name or "" for layer in self.layers)

    @cached_property
    def program(self) -> Program:
        """The forward in steps, with the mistakes found in it."""
        lines = tuple(entry.text for entry in self.forward if isinstance(entry, Line))
        if lines:
            return from_lines(lines, self.inputs, self.names)
        return from_steps(
            tuple(entry for entry in self.forward if not isinstance(entry, Line)), self.inputs, self.names
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        """The forward in steps."""
        return self.program.steps


Container: TypeAlias = Sequential | Graph

Layer = Annotated[
    Identity
    | Linear
    | Flatten
    | Unflatten
    | Dropout
    | Dropout1d
    | Dropout2d
    | AlphaDropout
    | FeatureAlphaDropout
    | Conv1d
    | Conv2d
    | ConvTranspose1d
    | ConvTranspose2d
    | MaxPool1d
    | MaxPool2d
    | AvgPool1d
    | AvgPool2d
    | AdaptiveAvgPool1d
    | AdaptiveAvgPool2d
    | AdaptiveMaxPool1d
    | AdaptiveMaxPool2d
    | BatchNorm1d
    | BatchNorm2d
    | InstanceNorm1d
    | InstanceNorm2d
    | GroupNorm
    | LayerNorm
    | RMSNorm
    | LocalResponseNorm
    | Embedding
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
    | ZeroPad1d
    | ZeroPad2d
    | ConstantPad1d
    | ConstantPad2d
    | ReflectionPad1d
    | ReflectionPad2d
    | ReplicationPad1d
    | ReplicationPad2d
    | CircularPad2d
    | Upsample
    | PixelShuffle
    | PixelUnshuffle
    | ChannelShuffle
    | Sequential
    | Graph,
    Field(discriminator="type"),
]
"""Any layer, told apart by `type`."""

Sequential.model_rebuild()
Graph.model_rebuild()

LAYER_KINDS: Final[dict[str, type[Leaf]]] = {
    kind.__name__: kind for kind in get_args(get_args(Layer)[0]) if issubclass(kind, Leaf)
}
"""Every layer that is not a container, by its type."""
