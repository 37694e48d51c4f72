"""The steps of a graph's forward, one document for each operation, each with its own shape rule.

Steps are in static single assignment: the n-th one makes the value `%n`. They are the canonical form of a forward and
may be written directly; `forward` compiles lines of text to them. A step does not know what the layers are that a
`call` names, and imports no torch.
"""

# ruff: noqa: D102 - what an overriding method does stands once, at `StepDocument`
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    field_validator,
)
from pydantic_core import PydanticCustomError

from service.schemas.document import Document
from service.schemas.shapes import (
    LARGEST,
    LARGEST_REAL,
    Dims,
    Flag,
    Index,
    Mismatch,
    Pair,
    PairOrNone,
    PairPadding,
    PairTarget,
    Positive,
    Probability,
    Real,
    Reshaped,
    Row,
    TensorSpec,
    broadcast,
    counted,
    dimension,
    elements,
    flattened,
    pooled,
    promoted,
    reshaped,
    shown,
    softmax_dimension,
    targeted,
)

Number: TypeAlias = int | float
Given: TypeAlias = TensorSpec | Number


# Steps.


def _read_operand(value: object) -> str | Number:
    if isinstance(value, str):
        return _read_reference(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("operand_type", "Expected the name of a value, or a number.")
    return tidy(value)


def _read_reference(value: object) -> str:
    if not isinstance(value, str) or not _REFERENCE.fullmatch(value):
        raise PydanticCustomError("operand_type", 'Expected the name of an input, or "%n" for what step n makes.')
    return value


_REFERENCE: Final = re.compile(r"%[1-9][0-9]{0,4}|[A-Za-z_][A-Za-z0-9_]{0,63}")


def tidy(value: Number) -> Number:
    """The number in the one form that JSON keeps: 1.0 is 1."""
    if not -LARGEST_REAL <= value <= LARGEST_REAL:  # false for NaN too
        raise PydanticCustomError("finite_number", "Numbers are finite, and no larger than float32 holds.")
    if value == int(value) and abs(value) <= LARGEST:
        return int(value)
    return float(value)


Reference = Annotated[str, PlainValidator(_read_reference, json_schema_input_type=str)]
Operand = Annotated[str | int | float, PlainValidator(_read_operand, json_schema_input_type=str | float)]


def _not_the_batch(dim: int) -> int:
    if dim == 0:
        raise PydanticCustomError("batch_dim", "Dimension 0 is the batch: an operation may not touch it")
    return dim


_Dim = Annotated[Index, BeforeValidator(lambda value: _not_the_batch(value) if value == 0 else value)]


class StepDocument(Document):
    """One operation; `inputs` name what it takes, its other members are constants."""

    tensors: ClassVar[int | None] = 1
    """How many inputs it takes in text; None is any number of them."""
    spread: ClassVar[str | None] = None
    """The member that further positional arguments fill together, as in `reshape(x, 1, 28, 28)`."""
    floats_only: ClassVar[bool] = False

    op: str
    inputs: tuple[Any, ...]

    def references(self) -> tuple[str, ...]:
        """The values that this step reads."""
        return tuple(name for name in self.inputs if isinstance(name, str))

    def output(self, given: Sequence[Given]) -> TensorSpec:
        """What the step makes of its inputs.

        Raises:
            Mismatch: it cannot take them.
        """
        (spec,) = given
        if not isinstance(spec, TensorSpec):
            raise Mismatch(f"{self.op} takes a value, not a number.", expected="a value", got=str(spec))
        if self.floats_only and not spec.floating:
            raise Mismatch(
                f"{self.op} takes floating point numbers, but gets {spec.dtype}.",
                code="dtype-mismatch",
                expected="float32",
                got=spec.dtype,
            )
        return TensorSpec(self.row(spec.row), self.dtype(spec))

    def row(self, row: Row) -> Row:
        """The shape that comes out, for a step of one input."""
        return row

    def dtype(self, spec: TensorSpec) -> Any:
        """The dtype that comes out, for a step of one input."""
        return spec.dtype

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        """Operations for one row; moving elements around costs none."""
        return 0


class _Elementwise(StepDocument):
    floats_only: ClassVar[bool] = True

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


class Call(StepDocument):
    """Call a layer of this graph; calling it again shares its weights."""

    tensors: ClassVar[int | None] = None
    op: Literal["call"]
    layer: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
    inputs: Annotated[tuple[Reference, ...], counted(1, 64)]


class Arithmetic(StepDocument):
    """`+ - * /` of two values of the same rank, or of a value and a number."""

    tensors: ClassVar[int | None] = 2
    op: Literal["add", "sub", "mul", "div"]
    inputs: tuple[Operand, Operand]

    @field_validator("inputs")
    @classmethod
    def _a_value_at_least(cls, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        if not any(isinstance(item, str) for item in inputs):
            raise PydanticCustomError("operand_type", "One of the two is a value, not a number.")
        return inputs

    def output(self, given: Sequence[Given]) -> TensorSpec:
        specs = [item for item in given if isinstance(item, TensorSpec)]
        if any(spec.dtype == "bool" for spec in specs):
            raise Mismatch(f"{self.op} does not take bool.", code="dtype-mismatch", expected="numbers", got="bool")
        row, dtype = specs[0].row, specs[0].dtype
        if len(specs) == 2:
            row, dtype = broadcast(row, specs[1].row, self.op), promoted(dtype, specs[1].dtype)
        elif any(isinstance(item, float) for item in given) and not specs[0].floating:
            dtype = "float32"
        if self.op == "div" and dtype not in ("float32", "float64"):
            dtype = "float32"
        return TensorSpec(row, dtype)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


class MatMul(StepDocument):
    """The matrix product of the last two dimensions."""

    tensors: ClassVar[int | None] = 2
    op: Literal["matmul"]
    inputs: tuple[Reference, Reference]

    def output(self, given: Sequence[Given]) -> TensorSpec:
        left, right = given
        assert isinstance(left, TensorSpec)
        assert isinstance(right, TensorSpec)
        a, b = left.row, right.row
        if len(a) != len(b) or len(a) < 2:
            raise Mismatch(
                f"matmul takes two values [B, …, n, m] and [B, …, m, p], but gets {shown(a)} and {shown(b)}: "
                "the rows of the batch would be multiplied with each other.",
                code="batch-mixed" if len(a) == len(b) == 1 else "shape-mismatch",
                expected="[B, n, m] and [B, m, p]",
                got=f"{shown(a)} and {shown(b)}",
            )
        if a[-1] != b[-2]:
            raise Mismatch(
                f"matmul cannot multiply {shown(a)} by {shown(b)}: {a[-1]} columns meet {b[-2]} rows.",
                expected=str(a[-1]),
                got=str(b[-2]),
            )
        if left.dtype != right.dtype:
            raise Mismatch(
                f"matmul takes two values of one dtype, but gets {left.dtype} and {right.dtype}.",
                code="dtype-mismatch",
                expected=left.dtype,
                got=right.dtype,
            )
        if left.dtype == "bool":
            raise Mismatch("matmul does not take bool.", code="dtype-mismatch", expected="numbers", got="bool")
        return TensorSpec((*broadcast(a[:-2], b[:-2], "matmul"), a[-2], b[-1]), left.dtype)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        left = given[0]
        return 2 * elements(out.row) * (left.row[-1] if isinstance(left, TensorSpec) else 1)


class Negative(_Elementwise):
    """`-x`."""

    floats_only: ClassVar[bool] = False
    op: Literal["neg"]
    inputs: tuple[Reference]

    def row(self, row: Row) -> Row:
        return row

    def dtype(self, spec: TensorSpec) -> Any:
        if spec.dtype == "bool":
            raise Mismatch("neg does not take bool.", code="dtype-mismatch", expected="numbers", got="bool")
        return spec.dtype


class Activation(_Elementwise):
    """An activation without constants."""

    op: Literal["relu", "silu", "sigmoid", "tanh"]
    inputs: tuple[Reference]


class Gelu(_Elementwise):
    """The Gaussian error linear unit."""

    op: Literal["gelu"]
    inputs: tuple[Reference]
    approximate: Literal["none", "tanh"] = "none"


class LeakyRelu(_Elementwise):
    """ReLU with a slope below zero."""

    op: Literal["leaky_relu"]
    inputs: tuple[Reference]
    negative_slope: Real = 0.01


class Elu(_Elementwise):
    """The exponential linear unit."""

    op: Literal["elu"]
    inputs: tuple[Reference]
    alpha: Real = 1.0


class Softplus(_Elementwise):
    """A smooth ReLU."""

    op: Literal["softplus"]
    inputs: tuple[Reference]
    beta: Positive = 1.0
    threshold: Real = 20.0


class Softmax(_Elementwise):
    """Probabilities, or their logarithms, along one dimension."""

    op: Literal["softmax", "log_softmax"]
    inputs: tuple[Reference]
    dim: _Dim | None = None

    def row(self, row: Row) -> Row:
        softmax_dimension(self.dim, row, self.op)
        return row


class Flatten(StepDocument):
    """Several dimensions become one; it starts after the batch."""

    op: Literal["flatten"]
    inputs: tuple[Reference]
    start_dim: _Dim = 1
    end_dim: Index = -1

    def row(self, row: Row) -> Row:
        return flattened(row, self.start_dim, self.end_dim, self.op)


class Reshape(StepDocument):
    """Another shape for the same elements of each row; `shape` is what comes after the batch."""

    spread: ClassVar[str | None] = "shape"
    op: Literal["reshape"]
    inputs: tuple[Reference]
    shape: Reshaped

    def row(self, row: Row) -> Row:
        return reshaped(row, self.shape, "reshape", field="shape")


class Permute(StepDocument):
    """Another order of the dimensions; the batch stays first."""

    spread: ClassVar[str | None] = "dims"
    op: Literal["permute"]
    inputs: tuple[Reference]
    dims: Dims

    def row(self, row: Row) -> Row:
        rank = len(row) + 1
        dims = [dim + rank if dim < 0 else dim for dim in self.dims]
        if sorted(dims) != list(range(rank)):
            raise Mismatch(
                f"permute needs each of the {rank} dimensions of {shown(row)} once.",
                expected=str(list(range(rank))),
                got=str(list(self.dims)),
            )
        if dims[0] != 0:
            raise Mismatch(
                "permute may not move dimension 0, the batch.",
                code="batch-mixed",
                hint="Begin with 0, as in permute(x, 0, 2, 1).",
                got=str(list(self.dims)),
            )
        return tuple(row[dim - 1] for dim in dims[1:])


class Transpose(StepDocument):
    """Two dimensions change places."""

    op: Literal["transpose"]
    inputs: tuple[Reference]
    dim0: _Dim
    dim1: _Dim

    def row(self, row: Row) -> Row:
        a, b = dimension(self.dim0, row, self.op), dimension(self.dim1, row, self.op)
        sizes = list(row)
        sizes[a], sizes[b] = sizes[b], sizes[a]
        return tuple(sizes)


class Squeeze(StepDocument):
    """Drop a dimension of size 1."""

    op: Literal["squeeze"]
    inputs: tuple[Reference]
    dim: _Dim

    def row(self, row: Row) -> Row:
        place = dimension(self.dim, row, self.op)
        if row[place] != 1:
            # torch leaves such a dimension as it is, which hides the mistake
            raise Mismatch(
                f"squeeze drops a dimension of size 1, but dimension {place + 1} of {shown(row)} is {row[place]}.",
                expected="1",
                got=str(row[place]),
            )
        return row[:place] + row[place + 1 :]


class Unsqueeze(StepDocument):
    """Add a dimension of size 1."""

    op: Literal["unsqueeze"]
    inputs: tuple[Reference]
    dim: _Dim

    def row(self, row: Row) -> Row:
        place = dimension(self.dim, row, self.op, new=True)
        return (*row[:place], 1, *row[place:])


class Join(StepDocument):
    """Several values side by side (`cat`) or along a new dimension (`stack`)."""

    tensors: ClassVar[int | None] = None
    op: Literal["cat", "stack"]
    inputs: Annotated[tuple[Reference, ...], counted(1, 1024)]
    dim: _Dim

    def output(self, given: Sequence[Given]) -> TensorSpec:
        specs = [item for item in given if isinstance(item, TensorSpec)]
        first, dtype = specs[0].row, specs[0].dtype
        place = dimension(self.dim, first, self.op, new=self.op == "stack")
        total = 0
        for number, spec in enumerate(specs, 1):
            row, dtype = spec.row, promoted(dtype, spec.dtype)
            kept = row if self.op == "stack" else row[:place] + row[place + 1 :]
            wanted = first if self.op == "stack" else first[:place] + first[place + 1 :]
            if len(row) != len(first) or kept != wanted:
                raise Mismatch(
                    f"{self.op} along dimension {place + 1} joins values that agree elsewhere, but value {number} "
                    f"is {shown(row)} and the first {shown(first)}.",
                    expected=shown(first),
                    got=shown(row),
                )
            total += 1 if self.op == "stack" else row[place]
        rest = first[place:] if self.op == "stack" else first[place + 1 :]
        return TensorSpec((*first[:place], total, *rest), dtype)


def _read_index(value: object) -> Any:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 16:
        raise PydanticCustomError("index_type", "Expected a list of integers and slices [start, stop, step].")
    return tuple(_read_index_item(item) for item in value)


def _read_index_item(item: object) -> Any:
    if isinstance(item, (list, tuple)):
        if len(item) != 3 or not all(part is None or _is_index(part) for part in item):
            raise PydanticCustomError("index_type", "Expected a slice [start, stop, step] of integers and nulls.")
        start, stop, step = item
        if step is not None and step < 1:
            raise PydanticCustomError("greater_than_equal", "The step of a slice is 1 or more.")
        return (None if start == 0 else start, stop, None if step == 1 else step)
    if not _is_index(item):
        raise PydanticCustomError("index_type", "Expected an integer, or a slice [start, stop, step].")
    return item


def _write_index(value: Any) -> Any:
    return [item if isinstance(item, int) else list(item) for item in value]


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


_Slice: TypeAlias = tuple[int | None, int | None, int | None]
_Indices = Annotated[
    tuple[int | _Slice, ...],
    PlainValidator(_read_index, json_schema_input_type=list[int | list[int | None]]),
    PlainSerializer(_write_index, return_type=list[int | list[int | None]]),
]


class GetItem(StepDocument):
    """`x[:, -1]`: elements of every row; the first index is `:`, since the batch is kept whole."""

    op: Literal["getitem"]
    inputs: tuple[Reference]
    index: _Indices

    @field_validator("index")
    @classmethod
    def _the_batch_stays(cls, index: Any) -> Any:
        if index[0] != (None, None, None):
            raise PydanticCustomError(
                "batch_dim", "Dimension 0 is the batch and is kept whole: begin the index with `:`, as in x[:, 0]"
            )
        return index

    def row(self, row: Row) -> Row:
        if len(self.index) > len(row) + 1:
            raise Mismatch(
                f"{len(self.index)} indices are more than the {len(row) + 1} dimensions of {shown(row)}.",
                expected=f"at most {len(row) + 1}",
                got=str(len(self.index)),
            )
        sizes: list[int] = []
        for place, item in enumerate(self.index[1:]):
            size = row[place]
            if isinstance(item, int):
                if not -size <= item < size:
                    raise Mismatch(
                        f"Index {item} is outside dimension {place + 1} of {shown(row)}.",
                        expected=f"{-size} to {size - 1}",
                        got=str(item),
                    )
            else:
                left = len(range(*slice(*item).indices(size)))
                if left == 0:
                    raise Mismatch(
                        f"The slice leaves nothing of dimension {place + 1} of {shown(row)}.", got=shown(row)
                    )
                sizes.append(left)
        return (*sizes, *row[len(self.index) - 1 :])


class Item(StepDocument):
    """One of the several values that a graph returned."""

    op: Literal["item"]
    inputs: tuple[Reference]
    index: Annotated[Index, Field(ge=0)]


class Reduce(StepDocument):
    """A mean, sum, largest or smallest along dimensions of every row."""

    op: Literal["mean", "sum", "amax", "amin"]
    inputs: tuple[Reference]
    dim: Dims
    keepdim: Flag = False

    @field_validator("dim")
    @classmethod
    def _no_batch(cls, dim: Any) -> Any:
        for one in dim:
            _not_the_batch(one)
        return dim

    def row(self, row: Row) -> Row:
        places = [dimension(one, row, self.op) for one in self.dim]
        if len(set(places)) != len(places):
            raise Mismatch(f"{self.op} names a dimension twice.", field="dim", got=str(list(self.dim)))
        sizes = ((1 if place in places else size, place in places) for place, size in enumerate(row))
        return tuple(size for size, gone in sizes if self.keepdim or not gone)

    def dtype(self, spec: TensorSpec) -> Any:
        if self.op == "mean" and not spec.floating:
            raise Mismatch(
                f"mean takes floating point numbers, but gets {spec.dtype}.",
                code="dtype-mismatch",
                expected="float32",
                got=spec.dtype,
            )
        return "int64" if self.op == "sum" and not spec.floating else spec.dtype

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return sum(elements(item.row) for item in given if isinstance(item, TensorSpec))


class _Pool2d(StepDocument):
    floats_only: ClassVar[bool] = True
    kernel_size: Pair
    stride: PairOrNone = None
    padding: PairPadding = (0, 0)

    @field_validator("stride")
    @classmethod
    def _same_as_the_kernel(cls, stride: Any, info: Any) -> Any:
        return None if stride == info.data.get("kernel_size") else stride  # one form for one meaning

    @field_validator("padding")
    @classmethod
    def _half_the_kernel(cls, padding: Any, info: Any) -> Any:
        kernel = info.data.get("kernel_size")
        if kernel and any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
            raise PydanticCustomError("less_than_equal", "The padding of a pool is at most half its kernel.")
        return padding

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row) * elements(self.kernel_size)


class MaxPool2d(_Pool2d):
    """The largest of each window."""

    op: Literal["max_pool2d"]
    inputs: tuple[Reference]
    dilation: Pair = (1, 1)
    ceil_mode: Flag = False

    def row(self, row: Row) -> Row:
        return pooled(
            row,
            2,
            self.op,
            kernel=self.kernel_size,
            stride=self.stride or self.kernel_size,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )


class AvgPool2d(_Pool2d):
    """The mean of each window."""

    op: Literal["avg_pool2d"]
    inputs: tuple[Reference]
    ceil_mode: Flag = False
    count_include_pad: Flag = True

    def row(self, row: Row) -> Row:
        return pooled(
            row,
            2,
            self.op,
            kernel=self.kernel_size,
            stride=self.stride or self.kernel_size,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
        )


class AdaptiveAvgPool2d(StepDocument):
    """Means over windows that are chosen so that the output has the wanted size."""

    floats_only: ClassVar[bool] = True
    op: Literal["adaptive_avg_pool2d"]
    inputs: tuple[Reference]
    output_size: PairTarget

    def row(self, row: Row) -> Row:
        return targeted(row, self.output_size, self.op)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return sum(elements(item.row) for item in given if isinstance(item, TensorSpec))


class Dropout(_Elementwise):
    """Zeroes elements while training."""

    op: Literal["dropout"]
    inputs: tuple[Reference]
    p: Probability = 0.5

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return 0


class Return(StepDocument):
    """What the graph gives: one value, or several."""

    tensors: ClassVar[int | None] = None
    op: Literal["return"]
    inputs: Annotated[tuple[Reference, ...], counted(1, 64)]


Operation: TypeAlias = (
    Arithmetic
    | MatMul
    | Negative
    | Activation
    | Gelu
    | LeakyRelu
    | Elu
    | Softplus
    | Softmax
    | Flatten
    | Reshape
    | Permute
    | Transpose
    | Squeeze
    | Unsqueeze
    | Join
    | GetItem
    | Reduce
    | MaxPool2d
    | AvgPool2d
    | AdaptiveAvgPool2d
    | Dropout
)
"""The steps that compute: everything but calls, items and the return."""

Step: TypeAlias = Call | Item | Return | Operation


BY_OPERATION: Final[Mapping[str, type[StepDocument]]] = {
    op: kind for kind in get_args(Operation) for op in get_args(kind.model_fields["op"].annotation)
}

OPERATIONS: Final = tuple(BY_OPERATION)
"""The operations that may be called by name in a line (indices are written in brackets)."""


def reads(steps: Iterable[Step]) -> dict[str, int]:
    """For every value, the place of the last step that reads it."""
    return {name: place for place, step in enumerate(steps) for name in step.references()}
