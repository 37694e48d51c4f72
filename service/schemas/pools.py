"""Pools: the largest, the mean or the norm of windows, and what puts the largest back. Knows no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainSerializer, PlainValidator, field_validator
from pydantic_core import PydanticCustomError

from service.schemas.leaf import Argument, Arguments, Leaf, Value
from service.schemas.shapes import (
    Flag,
    Mismatch,
    Pair,
    PairOrNone,
    PairPadding,
    PairTarget,
    Positive,
    Row,
    Single,
    SingleOrNone,
    SinglePadding,
    Size,
    TensorSpec,
    Triple,
    TripleOrNone,
    TriplePadding,
    TripleTarget,
    elements,
    pooled,
    ranked,
    shown,
    targeted,
)


class _Windows(Leaf):
    n: ClassVar[int]

    if TYPE_CHECKING:  # every kind declares its own, in torch's order
        kernel_size: Any
        stride: Any
        padding: Any

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


class _Pool(_Windows):
    if TYPE_CHECKING:
        ceil_mode: Flag

    def output(self, row: Row) -> Row:
        return pooled(
            row,
            self.n,
            self.type,
            kernel=self.kernel_size,
            stride=self.stride or self.kernel_size,
            padding=getattr(self, "padding", (0,) * self.n),
            dilation=getattr(self, "dilation", None),
            ceil_mode=self.ceil_mode,
        )

    def flops(self, row: Row, out: Row) -> int:
        return elements(out) * elements(self.kernel_size)


class _Indexed(Leaf):
    """Gives, when asked, also where in each channel it found what it gives."""

    if TYPE_CHECKING:
        return_indices: Flag

    def outcome(self, given: Arguments) -> Value:
        out = super().outcome(given)
        assert isinstance(out, TensorSpec)
        return (out, TensorSpec(out.row, "int64", out.batch)) if self.return_indices else out


class MaxPool1d(_Indexed, _Pool):
    """The largest of each window over [B, C, L]; with `return_indices` also where it was."""

    n = 1
    type: Literal["MaxPool1d"]
    kernel_size: Single
    stride: SingleOrNone = None
    padding: SinglePadding = (0,)
    dilation: Single = (1,)
    return_indices: Flag = False
    ceil_mode: Flag = False


class MaxPool2d(_Indexed, _Pool):
    """The largest of each window over [B, C, H, W]; with `return_indices` also where it was."""

    n = 2
    type: Literal["MaxPool2d"]
    kernel_size: Pair
    stride: PairOrNone = None
    padding: PairPadding = (0, 0)
    dilation: Pair = (1, 1)
    return_indices: Flag = False
    ceil_mode: Flag = False


class MaxPool3d(_Indexed, _Pool):
    """The largest of each window over [B, C, D, H, W]; with `return_indices` also where it was."""

    n = 3
    type: Literal["MaxPool3d"]
    kernel_size: Triple
    stride: TripleOrNone = None
    padding: TriplePadding = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    return_indices: Flag = False
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


class _AvgPool3d(_Pool):
    def output(self, row: Row) -> Row:
        out = super().output(row)
        for size, kernel in zip(row[-3:], self.kernel_size, strict=True):
            if size < kernel:  # torch asks it of three dimensions alone
                raise Mismatch(
                    f"{self.type} needs {kernel} elements for its window, padding left out, and gets {shown(row)}.",
                    field="kernel_size",
                    expected=f"at most {size}",
                    got=str(kernel),
                    then=out,
                )
        return out


class AvgPool3d(_AvgPool3d):
    """The mean of each window over [B, C, D, H, W]."""

    n = 3
    type: Literal["AvgPool3d"]
    kernel_size: Triple
    stride: TripleOrNone = None
    padding: TriplePadding = (0, 0, 0)
    ceil_mode: Flag = False
    count_include_pad: Flag = True
    divisor_override: Size | None = None


class _NormPool(_Pool):
    if TYPE_CHECKING:
        norm_type: float

    def remarks(self) -> Iterator[str]:
        if self.norm_type % 2:
            yield f"{self.type} takes no absolute values: with a norm_type that is not even, negative inputs give NaN."


class LPPool1d(_NormPool):
    """The p-norm of each window over [B, C, L], p being `norm_type`."""

    n = 1
    type: Literal["LPPool1d"]
    norm_type: Positive
    kernel_size: Single
    stride: SingleOrNone = None
    ceil_mode: Flag = False


class LPPool2d(_NormPool):
    """The p-norm of each window over [B, C, H, W], p being `norm_type`."""

    n = 2
    type: Literal["LPPool2d"]
    norm_type: Positive
    kernel_size: Pair
    stride: PairOrNone = None
    ceil_mode: Flag = False


class LPPool3d(_NormPool, _AvgPool3d):
    """The p-norm of each window over [B, C, D, H, W], p being `norm_type`."""

    n = 3
    type: Literal["LPPool3d"]
    norm_type: Positive
    kernel_size: Triple
    stride: TripleOrNone = None
    ceil_mode: Flag = False


# To a given size.


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


class AdaptiveAvgPool3d(_AdaptivePool):
    """Means over windows chosen so that D, H and W become `output_size`; null keeps one."""

    type: Literal["AdaptiveAvgPool3d"]
    output_size: TripleTarget


class AdaptiveMaxPool1d(_Indexed, _AdaptivePool):
    """The largest of windows chosen so that L becomes `output_size`."""

    type: Literal["AdaptiveMaxPool1d"]
    output_size: Single
    return_indices: Flag = False


class AdaptiveMaxPool2d(_Indexed, _AdaptivePool):
    """The largest of windows chosen so that H and W become `output_size`; null keeps one."""

    type: Literal["AdaptiveMaxPool2d"]
    output_size: PairTarget
    return_indices: Flag = False


class AdaptiveMaxPool3d(_Indexed, _AdaptivePool):
    """The largest of windows chosen so that D, H and W become `output_size`; null keeps one."""

    type: Literal["AdaptiveMaxPool3d"]
    output_size: TripleTarget
    return_indices: Flag = False


def _ratios(n: int) -> Any:
    form = f"a number between 0 and 1, or a list of {n}, or null"

    def read(value: object) -> Any:
        if value is None:
            return None
        items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * n
        if len(items) != n or not all(isinstance(item, float) and 0 < item < 1 for item in items):
            raise PydanticCustomError("size_type", "Expected {form}.", {"form": form})
        return tuple(items)

    def write(value: Any) -> Any:
        return value if value is None else value[0] if len(set(value)) == 1 else list(value)

    return (
        PlainValidator(read, json_schema_input_type=float | list[float] | None),
        PlainSerializer(write, return_type=float | list[float] | None),
    )


class _FractionalPool(_Indexed):
    n: ClassVar[int]
    spare: ClassVar[int]
    """How many elements torch wants beyond those that the windows reach over."""

    if TYPE_CHECKING:
        kernel_size: Any
        output_size: Any
        output_ratio: Any

    @field_validator("output_ratio", check_fields=False)
    @classmethod
    def _one_of_the_two(cls, ratio: Any, info: Any) -> Any:
        if "output_size" in info.data and (ratio is None) == (info.data["output_size"] is None):
            raise PydanticCustomError("fractional", "Give output_size or output_ratio, one of the two.")
        return ratio

    def output(self, row: Row) -> Row:
        ranked(row, self.n, self.type)
        space = row[-self.n :]
        ratios = self.output_ratio or ()
        out = self.output_size or tuple(int(size * ratio) for size, ratio in zip(space, ratios, strict=True))
        if min(out) < 1:
            detail = f"{self.type} leaves nothing of {shown(row)}."
            raise Mismatch(detail, field="output_ratio", got=shown(row))
        for size, kernel, want in zip(space, self.kernel_size, out, strict=True):
            if want + kernel - 1 + self.spare > size:
                raise Mismatch(
                    f"{self.type} cannot lay {want} windows of {kernel} over {size} elements.",
                    field="kernel_size",
                    expected=f"at most {max(0, size - want - self.spare + 1)}",
                    got=str(kernel),
                    then=row[: -self.n] + tuple(out),
                )
        return row[: -self.n] + tuple(out)

    def flops(self, row: Row, out: Row) -> int:
        return elements(out) * elements(self.kernel_size)


class FractionalMaxPool2d(_FractionalPool):
    """The largest of windows laid at random over [B, C, H, W]; while predicting they always lie the same."""

    n = 2
    spare = 0
    type: Literal["FractionalMaxPool2d"]
    kernel_size: Pair
    output_size: PairOrNone = None
    output_ratio: Annotated[tuple[float, ...] | None, *_ratios(2)] = Field(None, validate_default=True)
    return_indices: Flag = False


class FractionalMaxPool3d(_FractionalPool):
    """The largest of windows laid at random over [B, C, D, H, W]; while predicting they always lie the same."""

    n = 3
    spare = 1
    type: Literal["FractionalMaxPool3d"]
    kernel_size: Triple
    output_size: TripleOrNone = None
    output_ratio: Annotated[tuple[float, ...] | None, *_ratios(3)] = Field(None, validate_default=True)
    return_indices: Flag = False


# Back to where the largest was.


class _Unpool(_Windows):
    arguments = (Argument("input"), Argument("indices"))

    def output(self, row: Row) -> Row:
        ranked(row, self.n, self.type)
        sizes = zip(row[-self.n :], self.stride or self.kernel_size, self.padding, self.kernel_size, strict=True)
        out = tuple((size - 1) * stride - 2 * padding + kernel for size, stride, padding, kernel in sizes)
        if min(out) < 1:
            detail = f"{self.type} makes nothing of {shown(row)}: its padding takes away more than there is."
            raise Mismatch(detail, field="padding", got=shown(row))
        return row[: -self.n] + out

    def outcome(self, given: Arguments) -> Value:
        out = super().outcome(given)
        values, indices = given["input"], given["indices"]
        assert isinstance(values, TensorSpec)
        assert isinstance(indices, TensorSpec)
        if indices.dtype != "int64":
            raise Mismatch(
                f"{self.type} takes indices of int64, but gets {indices.dtype}.",
                code="dtype-mismatch",
                hint='They are the second value of a MaxPool with "return_indices": true.',
                expected="int64",
                got=indices.dtype,
            )
        if indices.sizes != values.sizes:
            raise Mismatch(
                f"{self.type} takes an index for each element of {values.shown}, but gets {indices.shown}.",
                expected=values.shown,
                got=indices.shown,
            )
        return out


class MaxUnpool1d(_Unpool):
    """Puts each element of [B, C, L] back where a MaxPool1d found it, among zeros."""

    n = 1
    type: Literal["MaxUnpool1d"]
    kernel_size: Single
    stride: SingleOrNone = None
    padding: SinglePadding = (0,)


class MaxUnpool2d(_Unpool):
    """Puts each element of [B, C, H, W] back where a MaxPool2d found it, among zeros."""

    n = 2
    type: Literal["MaxUnpool2d"]
    kernel_size: Pair
    stride: PairOrNone = None
    padding: PairPadding = (0, 0)


class MaxUnpool3d(_Unpool):
    """Puts each element of [B, C, D, H, W] back where a MaxPool3d found it, among zeros."""

    n = 3
    type: Literal["MaxUnpool3d"]
    kernel_size: Triple
    stride: TripleOrNone = None
    padding: TriplePadding = (0, 0, 0)
