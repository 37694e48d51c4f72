"""Sizes and shapes: the field types that documents share, and the arithmetic that says what comes out of a layer.

Shapes here are of one row: the batch is never in them, so nothing that these rules accept can mix the rows of a batch.
Knows no layer and no document, and imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, Strict
from pydantic_core import PydanticCustomError

Row: TypeAlias = tuple[int, ...]
"""A tensor's shape without its batch: `[B, 3, 32, 32]` is `(3, 32, 32)`."""

DType = Literal["float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]

BYTES: Final[dict[DType, int]] = {
    "float32": 4,
    "float64": 8,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}

LARGEST: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exact; what is *sensible* is for the limits of the judge."""

LARGEST_REAL: Final = 3.4e38
"""Numbers beyond what float32 holds would be infinite in the net."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What is known of a tensor before it exists.

    Args:
        row: its sizes without the batch.
        batch: the place of the batch among its dimensions: 0, or 1 in [T, B, features]; None for a constant such as a
            free parameter, whose `row` is its whole shape.
    """

    row: Row
    dtype: DType = "float32"
    batch: int | None = 0

    @property
    def sizes(self) -> Sizes:
        """Every dimension's size, None for the batch."""
        if self.batch is None:
            return self.row
        return (*self.row[: self.batch], None, *self.row[self.batch :])

    @property
    def shown(self) -> str:
        """The shape as people write it: `[B, 3, 32, 32]`, `[T, B, 8]` with numbers for T."""
        return "[" + ", ".join("B" if size is None else str(size) for size in self.sizes) + "]"

    def resized(self, sizes: Sizes, dtype: DType | None = None) -> TensorSpec:
        """The same with other dimensions; None among them is the batch."""
        batch = sizes.index(None) if None in sizes else None
        return TensorSpec(tuple(size for size in sizes if size is not None), dtype or self.dtype, batch)

    @property
    def floating(self) -> bool:
        """Whether the elements are floating point numbers."""
        return self.dtype in ("float32", "float64")


class Mismatch(Exception):
    """A layer or operation cannot take what it is given.

    Args:
        detail: one sentence.
        field: the member of the document that would have to change.
        then: what comes out all the same, when that is known, so that later mistakes are found too.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str = "shape-mismatch",
        field: str | None = None,
        hint: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        then: Row | None = None,
    ) -> None:
        self.detail = detail
        self.code = code
        self.field = field
        self.hint = hint
        self.expected = expected
        self.got = got
        self.then = then
        super().__init__(detail)


def shown(row: Row) -> str:
    """The shape as people write it: `[B, 3, 32, 32]`."""
    return "[" + ", ".join(["B", *map(str, row)]) + "]"


# Field types. Each reads its whole value in one validator, so that one mistake is one error, and writes the short form.


def counted(low: int, high: int) -> BeforeValidator:
    """Check how many items a list has before any is read: pydantic's own check counts only those that are right."""

    def check(value: object) -> object:
        if isinstance(value, (list, tuple)) and not low <= len(value) <= high:
            raise PydanticCustomError(
                "too_short" if len(value) < low else "too_long",
                "Expected {low} to {high} items.",
                {"low": low, "high": high},
            )
        return value

    return BeforeValidator(check)


Size = Annotated[int, Strict(), Field(ge=1, le=LARGEST)]
Index = Annotated[int, Strict(), Field(ge=-64, le=64)]
Flag = Annotated[bool, Strict()]
Real = Annotated[float, Strict(), Field(ge=-LARGEST_REAL, le=LARGEST_REAL)]
Positive = Annotated[float, Strict(), Field(gt=0, le=LARGEST_REAL)]
Probability = Annotated[float, Strict(), Field(ge=0, le=1)]


def _whole(value: object, low: int, form: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("size_type", "Expected {form}.", {"form": form})  # "…_type" is told as a wrong type
    if not low <= value <= LARGEST:
        raise PydanticCustomError(
            "greater_than_equal" if value < low else "less_than_equal",
            "Expected {form}, each {ge} to {le}.",
            {"form": form, "ge": low, "le": LARGEST},
        )
    return value


def _sizes(n: int, low: int, *, words: tuple[str, ...] = (), gaps: bool = False, none: bool = False) -> Any:
    """The validator, serializer and JSON Schema of `n` sizes that may be written as one number when all are equal."""
    form = "a whole number" + (f", or a list of {n}" if n > 1 else ", or a list of one")
    form += "".join(f', or "{word}"' for word in words) + (", or null" if none else "")

    def read(value: object) -> Any:
        if value is None and none:
            return None
        if isinstance(value, str) and value in words:
            return value
        if not isinstance(value, (list, tuple)):
            value = (value,) * n
        if len(value) != n:
            raise PydanticCustomError("size_type", "Expected {form}.", {"form": form})
        return tuple(None if gaps and item is None else _whole(item, low, form) for item in value)

    def write(value: Any) -> Any:
        if isinstance(value, tuple):
            return value[0] if len(set(value)) == 1 and value[0] is not None else list(value)
        return value

    number: Any = int | None if gaps else int
    form_in_json: Any = number | list[number]
    for word in words:
        form_in_json = form_in_json | Literal[word]
    if none:
        form_in_json = form_in_json | None
    return (
        PlainValidator(read, json_schema_input_type=form_in_json),
        PlainSerializer(write, return_type=form_in_json),
    )


Single = Annotated[tuple[int], *_sizes(1, 1)]
Pair = Annotated[tuple[int, int], *_sizes(2, 1)]
SingleOrNone = Annotated[tuple[int] | None, *_sizes(1, 1, none=True)]
PairOrNone = Annotated[tuple[int, int] | None, *_sizes(2, 1, none=True)]
SinglePadding = Annotated[tuple[int], *_sizes(1, 0)]
PairPadding = Annotated[tuple[int, int], *_sizes(2, 0)]
QuadPadding = Annotated[tuple[int, int, int, int], *_sizes(4, 0)]
SingleConvPadding = Annotated[tuple[int] | Literal["same", "valid"], *_sizes(1, 0, words=("same", "valid"))]
PairConvPadding = Annotated[tuple[int, int] | Literal["same", "valid"], *_sizes(2, 0, words=("same", "valid"))]
PairTarget = Annotated[tuple[int | None, int | None], *_sizes(2, 1, gaps=True)]
Triple = Annotated[tuple[int, int, int], *_sizes(3, 1)]
TripleOrNone = Annotated[tuple[int, int, int] | None, *_sizes(3, 1, none=True)]
TriplePadding = Annotated[tuple[int, int, int], *_sizes(3, 0)]
TripleConvPadding = Annotated[tuple[int, int, int] | Literal["same", "valid"], *_sizes(3, 0, words=("same", "valid"))]
TripleTarget = Annotated[tuple[int | None, int | None, int | None], *_sizes(3, 1, gaps=True)]
SixPadding = Annotated[tuple[int, int, int, int, int, int], *_sizes(6, 0)]


def _listed(most: int, low: int, *, auto: bool = False, alone: bool = True) -> Any:
    """The same for a list of any length up to `most`; a list of one may be written as its number."""
    form = "a list of whole numbers" + (" or one whole number" if alone else "") + (' or "auto"' if auto else "")

    def read(value: object) -> Any:
        if auto and value == "auto":
            return value
        if alone and not isinstance(value, (list, tuple)):
            value = (value,)
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= most:
            raise PydanticCustomError("size_type", "Expected {form}, of at most {most}.", {"form": form, "most": most})
        return tuple(_whole(item, low, form) for item in value)

    def write(value: Any) -> Any:
        if isinstance(value, tuple):
            return value[0] if alone and len(value) == 1 else list(value)
        return value

    form_in_json: Any = list[int]
    if alone:
        form_in_json = form_in_json | int
    if auto:
        form_in_json = form_in_json | Literal["auto"]
    return (
        PlainValidator(read, json_schema_input_type=form_in_json),
        PlainSerializer(write, return_type=form_in_json),
    )


def _split_sizes(most: int) -> Any:
    """The same for the size of every piece, or a list of the sizes of each."""
    form = "a whole number, or a list of them"

    def read(value: object) -> Any:
        if not isinstance(value, (list, tuple)):
            return _whole(value, 1, form)
        if not 1 <= len(value) <= most:
            raise PydanticCustomError("size_type", "Expected {form}, of at most {most}.", {"form": form, "most": most})
        return tuple(_whole(item, 1, form) for item in value)

    form_in_json: Any = int | list[int]
    return (
        PlainValidator(read, json_schema_input_type=form_in_json),
        PlainSerializer(lambda value: list(value) if isinstance(value, tuple) else value, return_type=form_in_json),
    )


_MOST_DIMENSIONS: Final = 16

SizesOrAuto = Annotated[tuple[int, ...] | Literal["auto"], *_listed(_MOST_DIMENSIONS, 1, auto=True)]
Reshaped = Annotated[tuple[int, ...], *_listed(_MOST_DIMENSIONS, -1)]
Dims = Annotated[tuple[int, ...], *_listed(_MOST_DIMENSIONS, -64)]
SizeList = Annotated[tuple[int, ...], *_listed(_MOST_DIMENSIONS, 1)]
Shifts = Annotated[tuple[int, ...], *_listed(_MOST_DIMENSIONS, -LARGEST)]
Sides = Annotated[tuple[int, ...], *_listed(_MOST_DIMENSIONS, -LARGEST, alone=False)]
SplitSizes = Annotated[int | tuple[int, ...], *_split_sizes(1024)]


def _auto_size(value: object) -> Any:
    return value if value == "auto" else _whole(value, 1, 'a whole number or "auto"')


SizeOrAuto = Annotated[
    int | Literal["auto"],
    PlainValidator(_auto_size, json_schema_input_type=Annotated[int, Field(ge=1)] | Literal["auto"]),
]
"""A number of features or channels; `"auto"` is what the layer before gives."""


def divided(groups: int, members: dict[str, Any], *fields: str) -> int:
    """`groups`, for a validator, if it divides those of `fields` that are numbers."""
    for field in fields:
        channels = members.get(field)
        if isinstance(channels, int) and channels % groups:
            raise PydanticCustomError(
                "groups",
                "{field} {channels} is not a multiple of groups {groups}.",
                {"field": field, "channels": channels, "groups": groups},
            )
    return groups


# Arithmetic.


def elements(row: Row) -> int:
    """How many elements a row has."""
    return math.prod(row)


def dimension(dim: int, row: Row, what: str, *, field: str = "dim", new: bool = False) -> int:
    """`dim`, which counts the batch as 0 and may be negative, as a place in `row`.

    Raises:
        Mismatch: there is no such dimension, or it is the batch.
    """
    rank = len(row) + 1 + new
    place = dim + rank if dim < 0 else dim
    if not 0 <= place < rank:
        raise Mismatch(
            f"{what} has no dimension {dim}: its input is {shown(row)}.",
            field=field,
            expected=f"1 to {rank - 1}" if rank > 1 else "an input with a dimension after the batch",
            got=str(dim),
        )
    if place == 0:
        raise Mismatch(
            f"{what} may not touch dimension 0, the batch: the rows of a batch would be mixed.",
            code="batch-mixed",
            field=field,
            expected=f"1 to {rank - 1}" if rank > 1 else None,
            got=str(dim),
        )
    return place - 1


def conv_length(length: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """The length that a convolution leaves; below 1 when the kernel is larger than the padded input."""
    return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def pool_length(length: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """The length that a pool leaves. With `ceil_mode` a last window may hang over, if it starts in the input."""
    reach = length + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return reach // stride + 1
    out = -(-reach // stride) + 1
    return out - 1 if (out - 1) * stride >= length + padding else out


def slid(row: Row, n: int, what: str, length: Callable[[int, int], int], reach: Callable[[int], int]) -> Row:
    """The last `n` sizes of `row`, each passed through `length(size, axis)`.

    Args:
        reach: how far the window reaches in an axis, for the message when nothing is left.

    Raises:
        Mismatch: a window does not fit.
    """
    out = tuple(length(size, axis) for axis, size in enumerate(row[-n:]))
    for axis, size in enumerate(out):
        if size < 1:
            raise Mismatch(
                f"The window of {what} reaches over {reach(axis)} elements, but the padded input of {shown(row)} "
                f"is smaller along dimension {len(row) - n + axis + 1}.",
                field="kernel_size",
                hint="Use a smaller kernel, more padding, or fewer pools before it.",
                got=shown(row),
            )
    return row[:-n] + out


def pooled(
    row: Row,
    n: int,
    what: str,
    *,
    kernel: Row,
    stride: Row,
    padding: Row,
    dilation: Row | None = None,
    ceil_mode: bool = False,
) -> Row:
    """What a pool over the last `n` dimensions makes of `row`."""
    dilation = dilation or (1,) * n
    ranked(row, n, what)
    return slid(
        row,
        n,
        what,
        lambda size, axis: pool_length(size, kernel[axis], stride[axis], padding[axis], dilation[axis], ceil_mode),
        lambda axis: dilation[axis] * (kernel[axis] - 1) + 1,
    )


def targeted(row: Row, target: tuple[int | None, ...], what: str) -> Row:
    """What an adaptive pool makes of `row`: the target's sizes; null keeps the input's."""
    n = len(target)
    ranked(row, n, what)
    return row[:-n] + tuple(size if want is None else want for size, want in zip(row[-n:], target, strict=True))


_IMAGES: Final = {1: "[B, C, L]", 2: "[B, C, H, W]", 3: "[B, C, D, H, W]"}


def ranked(row: Row, n: int, what: str, *, channels: bool = False) -> None:
    """Check that `row` has channels and `n` dimensions of space; without `channels` these may be missing.

    Raises:
        Mismatch: it has more or fewer.
    """
    if len(row) == n + 1 or (len(row) == n and not channels):
        return
    raise Mismatch(f"{what} takes {_IMAGES[n]}, but gets {shown(row)}.", expected=_IMAGES[n], got=shown(row))


def expect_channels(row: Row, channels: int, what: str, field: str, then: Row | None = None) -> None:
    """Check that `row` begins with as many channels.

    Raises:
        Mismatch: it begins with more or fewer.
    """
    if row[0] != channels:
        raise Mismatch(
            f"{what} expects {channels} channels and gets {row[0]}.",
            field=field,
            hint=f'Set {field} to {row[0]}, or to "auto".',
            expected=str(channels),
            got=str(row[0]),
            then=then,
        )


def flattened(row: Row, start: int, end: int, what: str) -> Row:
    """What flattening dimensions `start` to `end` (the batch is 0) makes of `row`.

    Raises:
        Mismatch: the batch would be folded into the features.
    """
    rank = len(row) + 1
    first, last = (dim + rank if dim < 0 else dim for dim in (start, end))
    if not (0 <= first < rank and 0 <= last < rank and first <= last):
        raise Mismatch(
            f"{what} has no dimensions {start} to {end}: its input is {shown(row)}.", field="start_dim", got=shown(row)
        )
    if first == 0 and last > 0:
        features = elements(row[:last])
        raise Mismatch(
            f"The batch is folded into the features: {what} makes one row of B × {features} features out of "
            f"{shown(row)}, so the number of features depends on how many rows are sent.",
            code="batch-folded",
            field="start_dim",
            hint="Start at dimension 1, so that every row stays a row.",
            expected="1 or more",
            got=str(start),
            then=(features, *row[last:]),
        )
    return row if first == 0 else (*row[: first - 1], elements(row[first - 1 : last]), *row[last:])


def reshaped(row: Row, sizes: Row, what: str, *, field: str) -> Row:
    """`sizes`, in which one -1 stands for what is left, if they hold as many elements as `row`.

    Raises:
        Mismatch: they do not.
    """
    total, known, free = elements(row), elements(tuple(s for s in sizes if s != -1)), sizes.count(-1)
    fits = (
        total == known
        if free == 0
        else free == 1 and 0 not in sizes and known > 0 and total % known == 0 and total >= known
    )
    if not fits:
        raise Mismatch(
            f"{what} cannot make {list(sizes)} out of {list(row)}: "
            f"{known if free == 0 else f'a multiple of {known}'} elements are wanted and {total} are there.",
            field=field,
            expected=f"{total} elements in all, with at most one -1",
            got=str(list(sizes))[:64],
        )
    return tuple(total // known if size == -1 else size for size in sizes)


def broadcast(left: Row, right: Row, what: str) -> Row:
    """The shape of an elementwise operation on both.

    Raises:
        Mismatch: sizes differ, or the ranks do, so that torch would align one's batch with the other's features.
    """
    if len(left) != len(right):
        raise Mismatch(
            f"{what} takes two values with as many dimensions, but gets {shown(left)} and {shown(right)}: "
            "the batch of one would be paired with the features of the other.",
            hint="Add a dimension with unsqueeze, or flatten one of them.",
            expected=shown(left),
            got=shown(right),
        )
    if any(a != b and 1 not in (a, b) for a, b in zip(left, right, strict=True)):
        raise Mismatch(
            f"{what} cannot pair {shown(left)} with {shown(right)}: sizes must be equal, or 1.",
            expected=shown(left),
            got=shown(right),
        )
    return tuple(max(a, b) if min(a, b) > 0 else 0 for a, b in zip(left, right, strict=True))


def paired(left: TensorSpec, right: TensorSpec, what: str) -> TensorSpec:
    """The shape of an elementwise operation on both, of which one may be a constant.

    Raises:
        Mismatch: torch would pair the batch of one with features of the other, or sizes differ.
    """
    if left.batch is not None and left.batch == right.batch:
        return TensorSpec(broadcast(left.row, right.row, what), left.dtype, left.batch)
    if left.batch is not None and right.batch is not None:
        raise Mismatch(
            f"{what} would pair the batch of {left.shown} with another dimension of {right.shown}.",
            code="batch-mixed",
            hint="Bring both into one order with transpose(x, 0, 1).",
            expected=left.shown,
            got=right.shown,
        )
    whole, part = (left, right) if right.batch is None and len(right.row) <= len(left.sizes) else (right, left)
    if part.batch is not None or len(part.row) > len(whole.sizes):
        raise Mismatch(f"{what} cannot pair {left.shown} with {right.shown}.", expected=left.shown, got=right.shown)
    sizes: list[int | None] = list(whole.sizes)
    for place in range(1, len(part.row) + 1):
        have, given = sizes[-place], part.row[-place]
        if have is None:
            if given != 1:
                raise Mismatch(
                    f"{what} would pair the batch of {whole.shown} with {given} elements of {part.shown}.",
                    code="batch-mixed",
                    expected="1",
                    got=str(given),
                )
        elif have != given and 1 not in (have, given):
            raise Mismatch(
                f"{what} cannot pair {left.shown} with {right.shown}: sizes must be equal, or 1.",
                expected=left.shown,
                got=right.shown,
            )
        else:
            sizes[-place] = max(have, given) if min(have, given) > 0 else 0
    return whole.resized(tuple(sizes))


Sizes: TypeAlias = tuple[int | None, ...]
"""A tensor's whole shape, None for the batch."""


def placed(dim: int, spec: TensorSpec, what: str, *, field: str = "dim", new: bool = False, batch: bool = False) -> int:
    """`dim`, which may be negative, as a place among all dimensions of `spec`.

    Args:
        new: it names the place of a dimension that does not exist yet.
        batch: it may be the batch.

    Raises:
        Mismatch: there is no such dimension, or it is the batch.
    """
    rank = len(spec.sizes) + new
    place = dim + rank if dim < 0 else dim
    allowed = [at for at in range(rank) if batch or at != spec.batch]
    if 0 <= place < rank and (batch or place != spec.batch):
        return place
    expected = f"{allowed[0]} to {allowed[-1]}" if allowed else "an input with a dimension after the batch"
    if not 0 <= place < rank:
        detail = f"{what} has no dimension {dim}: its input is {spec.shown}."
        raise Mismatch(detail, field=field, expected=expected, got=str(dim))
    raise Mismatch(
        f"{what} may not touch dimension {place}, the batch: the rows of a batch would be mixed.",
        code="batch-mixed",
        field=field,
        expected=expected if allowed else None,
        got=str(dim),
    )


_ORDER: Final[tuple[DType, ...]] = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")


def promoted(left: DType, right: DType) -> DType:
    """The dtype of an elementwise operation on both, as torch has it."""
    if {left, right} == {"uint8", "int8"}:
        return "int16"
    return max(left, right, key=_ORDER.index)


def softmax_dimension(dim: int | None, row: Row, what: str) -> int:
    """The place in `row` that a softmax sums over; without `dim` torch takes 1, or for three dimensions the batch.

    Raises:
        Mismatch: it would sum over the batch.
    """
    if dim is None and len(row) not in (1, 3, 4):
        raise Mismatch(
            f"{what} has no dim, and for {shown(row)} torch would take the batch.",
            code="batch-mixed",
            field="dim",
            hint='Give "dim": -1.',
            expected="a dimension",
            then=row,
        )
    return dimension(1 if dim is None else dim, row, what)
