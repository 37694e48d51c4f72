"""The steps of a graph's forward, one document for each operation, each with its own shape rule.

Steps are in static single assignment: the n-th one makes the value `%n`. They are the canonical form of a forward and
may be written directly; `forward` compiles lines of text to them. A step does not know what the layers are that a
`call` names, and imports no torch.
"""

# ruff: noqa: D102 - what an overriding method does stands once, at `StepDocument`
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias, get_args

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    Strict,
    StringConstraints,
    field_validator,
)
from pydantic_core import PydanticCustomError

from service.schemas.operation import (
    CAST_IT,
    Elementwise,
    Given,
    InnerDim,
    Operand,
    Placed,
    Reduction,
    Reference,
    StepDocument,
    batch_not_first,
    common_dtype,
    expect_floats,
    expect_held,
    expect_integers,
    expect_mask,
    expect_numbers,
    read_reference,
    tensors_of,
    tidy,
    with_number,
)
from service.schemas.shapes import (
    LARGEST,
    Dims,
    DType,
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
    Shifts,
    Sides,
    Single,
    SingleOrNone,
    SinglePadding,
    Size,
    SizeList,
    Sizes,
    SplitSizes,
    TensorSpec,
    broadcast,
    counted,
    elements,
    flattened,
    paired,
    placed,
    pooled,
    promoted,
    reshaped,
    shown,
    softmax_dimension,
    targeted,
)


def _read_named(value: object) -> str | bool:
    return value if isinstance(value, bool) else read_reference(value)


_Argument = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
_Named = Annotated[str | bool, PlainValidator(_read_named, json_schema_input_type=str | bool)]


class Call(StepDocument):
    """Call a layer of this graph; calling it again shares its weights.

    `named` are arguments by torch's names for them: values, or true and false where a layer takes these.
    """

    tensors: ClassVar[int | None] = None
    op: Literal["call"]
    layer: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
    inputs: Annotated[tuple[Reference, ...], counted(1, 64)]
    named: Annotated[dict[_Argument, _Named], Field(default_factory=dict, max_length=16)]

    def references(self) -> tuple[str, ...]:
        return (*self.inputs, *(value for value in self.named.values() if isinstance(value, str)))


class Tuple(StepDocument):
    """Several values together, as a layer takes them in `lstm(x, (h, c))`."""

    tensors: ClassVar[int | None] = None
    op: Literal["tuple"]
    inputs: Annotated[tuple[Reference, ...], counted(1, 64)]


class Param(StepDocument):
    """A free parameter or buffer of this graph as a value."""

    tensors: ClassVar[int | None] = 0
    op: Literal["param"]
    inputs: tuple[()] = ()
    layer: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]


class Arithmetic(StepDocument):
    """`+ - * /` of two values of the same rank, or of a value and a number."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("input", "other")
    sentences: ClassVar[Mapping[str, str]] = {
        "add": "`x + y`: the sum of two values, or of a value and a number.",
        "sub": "`x - y`: the difference of two values, or of a value and a number.",
        "mul": "`x * y`: the product of two values, element by element, or of a value and a number.",
        "div": "`x / y`: the quotient of two values, element by element, or of a value and a number.",
    }
    op: Literal["add", "sub", "mul", "div"]
    inputs: tuple[Operand, Operand]

    @field_validator("inputs")
    @classmethod
    def _a_value_at_least(cls, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        if not any(isinstance(item, str) for item in inputs):
            raise PydanticCustomError("operand_type", "One of the two is a value, not a number.")
        return inputs

    def output(self, given: Sequence[Given]) -> TensorSpec:
        specs = tensors_of(given)
        for spec in specs:
            expect_numbers(self.op, spec)
        out, dtype = specs[0], specs[0].dtype
        if len(specs) == 2:
            out, dtype = paired(specs[0], specs[1], self.op), common_dtype(specs)
        elif any(isinstance(item, float) for item in given) and not specs[0].floating:
            dtype = "float32"
        if self.op == "div" and dtype not in ("float32", "float64"):
            dtype = "float32"
        return TensorSpec(out.row, dtype, out.batch)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


class MatMul(StepDocument):
    """The matrix product of the last two dimensions."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("input", "other")
    op: Literal["matmul"]
    inputs: tuple[Reference, Reference]

    def output(self, given: Sequence[Given]) -> TensorSpec:
        left, right = tensors_of(given)
        constant = self._with_a_constant(left, right)
        if constant is not None:
            return constant
        a, b = left.row, right.row
        if len(a) != len(b) or len(a) < 2 or (left.batch, right.batch) != (0, 0):
            raise Mismatch(
                f"matmul takes two values [B, …, n, m] and [B, …, m, p], but gets {left.shown} and {right.shown}: "
                "the rows of the batch would be multiplied with each other.",
                code="batch-mixed" if len(a) == len(b) == 1 else "shape-mismatch",
                expected="[B, n, m] and [B, m, p]",
                got=f"{left.shown} and {right.shown}",
            )
        if a[-1] != b[-2]:
            raise Mismatch(
                f"matmul cannot multiply {shown(a)} by {shown(b)}: {a[-1]} columns meet {b[-2]} rows.",
                expected=str(a[-1]),
                got=str(b[-2]),
            )
        self._one_dtype(left, right)
        return TensorSpec((*broadcast(a[:-2], b[:-2], "matmul"), a[-2], b[-1]), left.dtype)

    def _with_a_constant(self, left: TensorSpec, right: TensorSpec) -> TensorSpec | None:
        """`x @ W` with a matrix that has no batch, or `W @ x`; None when both have one."""
        if left.batch is not None and right.batch is not None:
            return None
        a, b = left.sizes, right.sizes
        matrices = len(b) == 2 and right.batch is None, len(a) == 2 and left.batch is None
        if not any(matrices) or min(len(a), len(b)) < 2 or a[-1] is None or b[-2] is None or a[-1] != b[-2]:
            raise Mismatch(
                f"matmul cannot multiply {left.shown} by {right.shown}.",
                hint="A constant is a matrix [n, m]; the batch stands in neither of the dimensions that meet.",
                expected="[B, …, n] and [n, m]",
                got=f"{left.shown} and {right.shown}",
            )
        self._one_dtype(left, right)
        if matrices[0]:
            return left.resized((*a[:-1], b[-1]))
        return right.resized((*b[:-2], a[-2], b[-1]))

    def _one_dtype(self, left: TensorSpec, right: TensorSpec) -> None:
        if left.dtype != right.dtype:
            raise Mismatch(
                f"matmul takes two values of one dtype, but gets {left.dtype} and {right.dtype}.",
                code="dtype-mismatch",
                expected=left.dtype,
                got=right.dtype,
            )
        expect_numbers("matmul", left)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        left = given[0]
        return 2 * elements(out.row) * (left.row[-1] if isinstance(left, TensorSpec) else 1)


class Negative(Elementwise):
    """`-x`."""

    accepts = "numbers"
    op: Literal["neg"]
    inputs: tuple[Reference]


# Activations and functions of one number.


class Activation(Elementwise):
    """An activation without constants."""

    sentences: ClassVar[Mapping[str, str]] = {
        "relu": "Zero below zero, and x above it.",
        "relu6": "ReLU that stays at 6 above 6.",
        "silu": "x · sigmoid(x), also called swish.",
        "sigmoid": "1 / (1 + exp(−x)): between 0 and 1.",
        "logsigmoid": "The logarithm of the sigmoid.",
        "tanh": "The hyperbolic tangent: between −1 and 1.",
        "hardswish": "silu made of straight lines and a parabola.",
        "hardsigmoid": "The sigmoid made of straight lines.",
        "selu": "The self-normalising exponential linear unit.",
        "mish": "x · tanh(softplus(x)).",
        "softsign": "x / (1 + |x|).",
    }
    op: Literal[
        "relu",
        "relu6",
        "silu",
        "sigmoid",
        "logsigmoid",
        "tanh",
        "hardswish",
        "hardsigmoid",
        "selu",
        "mish",
        "softsign",
    ]
    inputs: tuple[Reference]


class Function(Elementwise):
    """A function of each element."""

    sentences: ClassVar[Mapping[str, str]] = {
        "exp": "e to the power of each element.",
        "log": "The natural logarithm of each element.",
        "sqrt": "The square root of each element.",
        "rsqrt": "One over the square root of each element.",
        "sin": "The sine of each element.",
        "cos": "The cosine of each element.",
        "erf": "The error function of each element.",
    }
    op: Literal["exp", "log", "sqrt", "rsqrt", "sin", "cos", "erf"]
    inputs: tuple[Reference]


class Magnitude(Elementwise):
    """The size of each element without its sign."""

    accepts = "numbers"
    sentences: ClassVar[Mapping[str, str]] = {
        "abs": "Each element without its sign.",
        "square": "Each element times itself.",
    }
    op: Literal["abs", "square"]
    inputs: tuple[Reference]


class Power(Elementwise):
    """Each element to the power of a number."""

    accepts = "numbers"
    op: Literal["pow"]
    inputs: tuple[Reference]
    exponent: Real

    def gives(self, spec: TensorSpec) -> DType:
        dtype = with_number(spec.dtype, self.exponent, self.op)
        if self.exponent < 0 and dtype not in ("float32", "float64"):
            raise Mismatch(
                f"pow cannot take {spec.dtype} to the power of {tidy(self.exponent)}: whole numbers have no inverse.",
                code="dtype-mismatch",
                field="exponent",
                hint=CAST_IT,
                expected="0 or more",
                got=str(tidy(self.exponent)),
            )
        return dtype


class Clamp(Elementwise):
    """Each element, or the bound that it is beyond."""

    accepts = "numbers"
    op: Literal["clamp"]
    inputs: tuple[Reference]
    min: Real | None = None
    max: Annotated[Real | None, Field(validate_default=True)] = None

    @field_validator("max")
    @classmethod
    def _a_bound_at_least(cls, high: float | None, info: Any) -> float | None:
        if "min" not in info.data:
            return high
        low = info.data["min"]
        if low is None and high is None:
            raise PydanticCustomError("clamp", "Give min, max or both.")
        if low is not None and high is not None and low > high:
            raise PydanticCustomError("clamp", "min is at most max.")
        return high

    def gives(self, spec: TensorSpec) -> DType:
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        if not spec.floating and any(bound != int(bound) for bound in bounds):
            return "float32"
        for bound in bounds:
            expect_held(self.op, tidy(bound), spec.dtype)
        return spec.dtype


class Cast(Elementwise):
    """The same elements in another dtype; fractions are cut off, and all but zero is true."""

    accepts = "any"
    op: Literal["cast"]
    inputs: tuple[Reference]
    dtype: DType = "float32"

    def gives(self, spec: TensorSpec) -> DType:
        return self.dtype


class Gelu(Elementwise):
    """The Gaussian error linear unit."""

    op: Literal["gelu"]
    inputs: tuple[Reference]
    approximate: Literal["none", "tanh"] = "none"


class LeakyRelu(Elementwise):
    """ReLU with a slope below zero."""

    op: Literal["leaky_relu"]
    inputs: tuple[Reference]
    negative_slope: Real = 0.01


class Elu(Elementwise):
    """The exponential linear unit."""

    op: Literal["elu"]
    inputs: tuple[Reference]
    alpha: Real = 1.0


class Softplus(Elementwise):
    """A smooth ReLU."""

    op: Literal["softplus"]
    inputs: tuple[Reference]
    beta: Positive = 1.0
    threshold: Real = 20.0


class Softmax(Placed):
    """Probabilities, or their logarithms, along one dimension."""

    accepts = "floats"
    sentences: ClassVar[Mapping[str, str]] = {
        "softmax": "Probabilities along one dimension.",
        "log_softmax": "Logarithms of probabilities along one dimension.",
    }
    op: Literal["softmax", "log_softmax"]
    inputs: tuple[Reference]
    dim: Index | None = None

    def resized(self, spec: TensorSpec) -> Sizes:
        if self.dim is not None:
            placed(self.dim, spec, self.op)
        elif spec.batch == 0:
            softmax_dimension(None, spec.row, self.op)
        else:
            detail = f"{self.op} has no dim, and {spec.shown} does not begin with the batch."
            raise Mismatch(detail, field="dim", hint='Give "dim": -1.', expected="a dimension", got=spec.shown)
        return spec.sizes

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


# Shapes.


class Flatten(StepDocument):
    """Several dimensions become one; it starts after the batch."""

    op: Literal["flatten"]
    inputs: tuple[Reference]
    start_dim: InnerDim = 1
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


class Unflatten(Placed):
    """One dimension becomes several; one of the sizes may be -1."""

    op: Literal["unflatten"]
    inputs: tuple[Reference]
    dim: Index
    sizes: Reshaped

    def resized(self, spec: TensorSpec) -> Sizes:
        place = placed(self.dim, spec, self.op)
        size = spec.sizes[place] or 0
        return (*spec.sizes[:place], *reshaped((size,), self.sizes, self.op, field="sizes"), *spec.sizes[place + 1 :])


class Permute(Placed):
    """Another order of the dimensions."""

    spread: ClassVar[str | None] = "dims"
    op: Literal["permute"]
    inputs: tuple[Reference]
    dims: Dims

    def resized(self, spec: TensorSpec) -> Sizes:
        sizes = spec.sizes
        dims = [dim + len(sizes) if dim < 0 else dim for dim in self.dims]
        if sorted(dims) != list(range(len(sizes))):
            raise Mismatch(
                f"permute needs each of the {len(sizes)} dimensions of {spec.shown} once.",
                expected=str(list(range(len(sizes)))),
                got=str(list(self.dims)),
            )
        return tuple(sizes[dim] for dim in dims)


class Transpose(Placed):
    """Two dimensions change places; `transpose(x, 0, 1)` makes [T, B, features] of [B, T, features]."""

    op: Literal["transpose"]
    inputs: tuple[Reference]
    dim0: Index
    dim1: Index

    def resized(self, spec: TensorSpec) -> Sizes:
        a, b = (placed(dim, spec, self.op, batch=True) for dim in (self.dim0, self.dim1))
        sizes = list(spec.sizes)
        sizes[a], sizes[b] = sizes[b], sizes[a]
        return tuple(sizes)


class Squeeze(Placed):
    """Drop a dimension of size 1."""

    op: Literal["squeeze"]
    inputs: tuple[Reference]
    dim: Index

    def resized(self, spec: TensorSpec) -> Sizes:
        place = placed(self.dim, spec, self.op)
        if spec.sizes[place] != 1:
            # torch leaves such a dimension as it is, which hides the mistake
            raise Mismatch(
                f"squeeze drops a dimension of size 1, but dimension {place} of {spec.shown} is {spec.sizes[place]}.",
                expected="1",
                got=str(spec.sizes[place]),
            )
        return spec.sizes[:place] + spec.sizes[place + 1 :]


class Unsqueeze(Placed):
    """Add a dimension of size 1."""

    op: Literal["unsqueeze"]
    inputs: tuple[Reference]
    dim: Index

    def resized(self, spec: TensorSpec) -> Sizes:
        place = placed(self.dim, spec, self.op, new=True)
        return (*spec.sizes[:place], 1, *spec.sizes[place:])


class Join(StepDocument):
    """Several values side by side (`cat`) or along a new dimension (`stack`)."""

    tensors: ClassVar[int | None] = None
    sentences: ClassVar[Mapping[str, str]] = {
        "cat": "Several values side by side along a dimension.",
        "stack": "Several values side by side along a new dimension.",
    }
    op: Literal["cat", "stack"]
    inputs: Annotated[tuple[Reference, ...], counted(1, 1024)]
    dim: Index

    def output(self, given: Sequence[Given]) -> TensorSpec:
        specs = tensors_of(given)
        first, dtype = specs[0].sizes, specs[0].dtype
        stacked = self.op == "stack"
        place = placed(self.dim, specs[0], self.op, new=stacked)
        total = 0
        for number, spec in enumerate(specs, 1):
            sizes, dtype = spec.sizes, promoted(dtype, spec.dtype)
            kept = sizes if stacked else sizes[:place] + sizes[place + 1 :]
            wanted = first if stacked else first[:place] + first[place + 1 :]
            if len(sizes) != len(first) or kept != wanted:
                constant = spec.batch is None and specs[0].batch is not None
                raise Mismatch(
                    f"{self.op} along dimension {place} joins values that agree elsewhere, but value {number} "
                    f"is {spec.shown} and the first {specs[0].shown}.",
                    hint="Give the constant a batch: expand_batch(constant, x)." if constant else None,
                    expected=specs[0].shown,
                    got=spec.shown,
                )
            if not stacked and sizes[place] is None:
                placed(place, spec, self.op)  # tells of it
            total += 1 if stacked else sizes[place] or 0
        rest = first[place:] if stacked else first[place + 1 :]
        return specs[0].resized((*first[:place], total, *rest), dtype)


class ExpandBatch(StepDocument):
    """A constant whose first size is 1, once for each row of the batch of `like`."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("constant", "like")
    op: Literal["expand_batch"]
    inputs: tuple[Reference, Reference]

    def output(self, given: Sequence[Given]) -> TensorSpec:
        constant, like = tensors_of(given)
        if constant.batch is not None:
            raise Mismatch(
                f"expand_batch takes a constant, but {constant.shown} has a batch already.",
                code="wrong-argument",
                expected="a parameter, or what is made of parameters",
                got=constant.shown,
            )
        if like.batch != 0:
            raise batch_not_first(self.op, like)
        if constant.row[:1] != (1,):
            raise Mismatch(
                f"expand_batch puts the batch in the place of a first size of 1, but gets {constant.shown}.",
                hint="Write unsqueeze(x, 0) before it.",
                expected="[1, …]",
                got=constant.shown,
            )
        return TensorSpec(constant.row[1:], constant.dtype)


_MOST_PIECES: Final = 1024


class _Pieces(Placed):
    """Gives several values, which `a, b = …` takes apart."""

    if TYPE_CHECKING:
        dim: int

    def output(self, given: Sequence[Given]) -> tuple[TensorSpec, ...]:
        spec = self._only(given)
        place = placed(self.dim, spec, self.op)
        before, after = spec.sizes[:place], spec.sizes[place + 1 :]
        return tuple(spec.resized((*before, size, *after)) for size in self.parts(spec.sizes[place] or 0, spec))

    def parts(self, size: int, spec: TensorSpec) -> Sequence[int]:
        """The sizes of the pieces of a dimension of this size."""
        raise NotImplementedError


class Chunk(_Pieces):
    """A dimension in so many pieces of one size, of which the last may be smaller."""

    op: Literal["chunk"]
    inputs: tuple[Reference]
    chunks: Annotated[int, Strict(), Field(ge=1, le=_MOST_PIECES)]
    dim: Index

    @property
    def pieces(self) -> int | None:
        return self.chunks

    def parts(self, size: int, spec: TensorSpec) -> Sequence[int]:
        each = -(-size // self.chunks)
        parts = [min(each, size - start) for start in range(0, size, each)]
        if len(parts) != self.chunks:
            raise Mismatch(
                f"chunk makes {len(parts)} pieces of the {size} elements along dimension {self.dim} of {spec.shown}, "
                f"not {self.chunks}.",
                field="chunks",
                expected=str(len(parts)),
                got=str(self.chunks),
            )
        return parts


class Split(_Pieces):
    """A dimension in pieces of this size, of which the last may be smaller, or of these sizes."""

    op: Literal["split"]
    inputs: tuple[Reference]
    split_size_or_sections: SplitSizes
    dim: Index

    @property
    def pieces(self) -> int | None:
        sections = self.split_size_or_sections
        return None if isinstance(sections, int) else len(sections)

    def parts(self, size: int, spec: TensorSpec) -> Sequence[int]:
        sections = self.split_size_or_sections
        if isinstance(sections, int):
            if -(-size // sections) > _MOST_PIECES:
                raise Mismatch(
                    f"split makes more than {_MOST_PIECES} pieces of the {size} elements along dimension {self.dim}.",
                    field="split_size_or_sections",
                    expected=f"at least {-(-size // _MOST_PIECES)}",
                    got=str(sections),
                )
            return [min(sections, size - start) for start in range(0, size, sections)]
        if sum(sections) != size:
            raise Mismatch(
                f"split into {list(sections)[:16]} needs {sum(sections)} elements along dimension {self.dim}, but "
                f"{spec.shown} has {size}.",
                field="split_size_or_sections",
                expected=f"{size} in all",
                got=str(sum(sections)),
            )
        return sections


class Flip(Placed):
    """The other way round along dimensions."""

    spread: ClassVar[str | None] = "dims"
    op: Literal["flip"]
    inputs: tuple[Reference]
    dims: Dims

    def resized(self, spec: TensorSpec) -> Sizes:
        self._places(self.dims, spec, "dims")
        return spec.sizes


class Roll(Placed):
    """Shifted along dimensions; what goes out at the end comes in at the beginning."""

    op: Literal["roll"]
    inputs: tuple[Reference]
    shifts: Shifts
    dims: Dims

    @field_validator("dims")
    @classmethod
    def _one_for_each_shift(cls, dims: Any, info: Any) -> Any:
        if len(info.data.get("shifts", dims)) != len(dims):
            raise PydanticCustomError("roll", "There are as many dims as shifts.")
        return dims

    def resized(self, spec: TensorSpec) -> Sizes:
        self._places(self.dims, spec, "dims")
        return spec.sizes


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


class GetItem(Placed):
    """`x[:, -1]`: elements of every row; the index at the batch's place is `:`, since the batch is kept whole."""

    op: Literal["getitem"]
    inputs: tuple[Reference]
    index: _Indices

    def resized(self, spec: TensorSpec) -> Sizes:
        sizes = spec.sizes
        if len(self.index) > len(sizes):
            raise Mismatch(
                f"{len(self.index)} indices are more than the {len(sizes)} dimensions of {spec.shown}.",
                expected=f"at most {len(sizes)}",
                got=str(len(self.index)),
            )
        left: list[int | None] = []
        for place, (item, size) in enumerate(zip(self.index, sizes, strict=False)):
            if size is None:
                if item != (None, None, None):
                    first = ", ".join([":"] * place + [": "]).strip()
                    raise Mismatch(
                        f"Dimension {place} is the batch and is kept whole: write `:` there, as in x[{first}, 0].",
                        code="batch-mixed",
                        got=str(item if isinstance(item, int) else list(item)),
                    )
                left.append(None)
            elif isinstance(item, int):
                if not -size <= item < size:
                    raise Mismatch(
                        f"Index {item} is outside dimension {place} of {spec.shown}.",
                        expected=f"{-size} to {size - 1}",
                        got=str(item),
                    )
            else:
                count = len(range(*slice(*item).indices(size)))
                if count == 0:
                    raise Mismatch(f"The slice leaves nothing of dimension {place} of {spec.shown}.", got=spec.shown)
                left.append(count)
        return (*left, *sizes[len(self.index) :])


class Item(StepDocument):
    """One of the several values that a graph returned."""

    op: Literal["item"]
    inputs: tuple[Reference]
    index: Annotated[Index, Field(ge=0)]


class Reduce(Reduction):
    """A mean, sum, largest or smallest along dimensions of every row."""

    sentences: ClassVar[Mapping[str, str]] = {
        "mean": "The mean along dimensions.",
        "sum": "The sum along dimensions.",
        "amax": "The largest along dimensions.",
        "amin": "The smallest along dimensions.",
    }
    op: Literal["mean", "sum", "amax", "amin"]
    inputs: tuple[Reference]
    dim: Dims
    keepdim: Flag = False

    def gives(self, spec: TensorSpec) -> DType:
        if self.op == "mean":
            expect_floats(self.op, spec)
        return "int64" if self.op == "sum" and not spec.floating else spec.dtype


class Spread(Reduction):
    """How far elements are from their mean, along dimensions of every row."""

    accepts = "floats"
    sentences: ClassVar[Mapping[str, str]] = {
        "var": "The variance along dimensions; correction 1 divides by n − 1.",
        "std": "The standard deviation along dimensions; correction 1 divides by n − 1.",
    }
    op: Literal["var", "std"]
    inputs: tuple[Reference]
    dim: Dims
    correction: Annotated[int, Strict(), Field(ge=0, le=LARGEST)] = 1
    keepdim: Flag = False

    def resized(self, spec: TensorSpec) -> Sizes:
        count = elements(tuple(spec.sizes[place] or 0 for place in self._places(self.dim, spec)))
        if count <= self.correction:
            raise Mismatch(
                f"{self.op} divides by {count} − {self.correction}, the number of elements less the correction.",
                field="correction",
                hint="Give correction=0." if count == 1 else None,
                expected=f"at most {count - 1}",
                got=str(self.correction),
            )
        return super().resized(spec)


class Norm(Reduction):
    """The p-norm along dimensions: (Σ |x|ᵖ)^(1/p)."""

    accepts = "floats"
    op: Literal["norm"]
    inputs: tuple[Reference]
    p: Annotated[Real, Field(ge=0)] = 2.0
    dim: Dims
    keepdim: Flag = False


class _AlongOne(Placed):
    """A reduction along one dimension."""

    if TYPE_CHECKING:
        dim: int
        keepdim: bool

    def resized(self, spec: TensorSpec) -> Sizes:
        place = placed(self.dim, spec, self.op)
        return (*spec.sizes[:place], *((1,) if self.keepdim else ()), *spec.sizes[place + 1 :])

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return sum(elements(item.row) for item in tensors_of(given))


class Product(_AlongOne):
    """The product along one dimension."""

    op: Literal["prod"]
    inputs: tuple[Reference]
    dim: Index
    keepdim: Flag = False

    def gives(self, spec: TensorSpec) -> DType:
        return spec.dtype if spec.floating else "int64"


class ArgExtremum(_AlongOne):
    """Where the largest or smallest is along one dimension, as int64."""

    accepts = "numbers"
    sentences: ClassVar[Mapping[str, str]] = {
        "argmax": "Where the largest is along one dimension, as int64.",
        "argmin": "Where the smallest is along one dimension, as int64.",
    }
    op: Literal["argmax", "argmin"]
    inputs: tuple[Reference]
    dim: Index
    keepdim: Flag = False

    def gives(self, spec: TensorSpec) -> DType:
        return "int64"


class CumSum(Placed):
    """Running sums along one dimension."""

    op: Literal["cumsum"]
    inputs: tuple[Reference]
    dim: Index

    def resized(self, spec: TensorSpec) -> Sizes:
        placed(self.dim, spec, self.op)
        return spec.sizes

    def gives(self, spec: TensorSpec) -> DType:
        return spec.dtype if spec.floating else "int64"

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


class Normalize(Placed):
    """Vectors along one dimension divided by their p-norm."""

    accepts = "floats"
    op: Literal["normalize"]
    inputs: tuple[Reference]
    p: Annotated[Positive, Field(gt=0)] = 2.0
    dim: Index = 1
    eps: Positive = 1e-12

    def resized(self, spec: TensorSpec) -> Sizes:
        placed(self.dim, spec, self.op)
        return spec.sizes

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return 3 * elements(out.row)


class LayerNorm(Placed):
    """The last dimensions with mean 0 and variance 1; the layer LayerNorm has weights besides."""

    accepts = "floats"
    op: Literal["layer_norm"]
    inputs: tuple[Reference]
    normalized_shape: SizeList
    eps: Positive = 1e-5

    def resized(self, spec: TensorSpec) -> Sizes:
        wanted = self.normalized_shape
        if self._last(spec, len(wanted), f"[B, …, {', '.join(map(str, wanted))}]") != wanted:
            raise Mismatch(
                f"layer_norm over {list(wanted)} cannot take {spec.shown}.",
                field="normalized_shape",
                expected=str(list(wanted)),
                got=spec.shown,
            )
        return spec.sizes

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return 5 * elements(out.row)


# Two values, masks and choices.


class Extremum(StepDocument):
    """The larger or smaller of two values, element by element."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("input", "other")
    sentences: ClassVar[Mapping[str, str]] = {
        "minimum": "The smaller of two values, element by element; clamp takes a number.",
        "maximum": "The larger of two values, element by element; clamp takes a number.",
    }
    op: Literal["minimum", "maximum"]
    inputs: tuple[Reference, Reference]

    def output(self, given: Sequence[Given]) -> TensorSpec:
        left, right = tensors_of(given)
        out = paired(left, right, self.op)
        return TensorSpec(out.row, common_dtype((left, right)), out.batch)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


class Comparison(StepDocument):
    """A mask of true and false: a value against another, or against a number."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("input", "other")
    sentences: ClassVar[Mapping[str, str]] = {
        "eq": "True where x = y; y may be a number.",
        "ne": "True where x ≠ y; y may be a number.",
        "lt": "True where x < y; y may be a number.",
        "le": "True where x ≤ y; y may be a number.",
        "gt": "True where x > y; y may be a number.",
        "ge": "True where x ≥ y; y may be a number.",
    }
    op: Literal["eq", "ne", "lt", "le", "gt", "ge"]
    inputs: tuple[Reference, Operand]

    def output(self, given: Sequence[Given]) -> TensorSpec:
        left, *others = tensors_of(given)
        out = paired(left, others[0], self.op) if others else left
        return TensorSpec(out.row, "bool", out.batch)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


class LogicalNot(Elementwise):
    """True where there is false or zero."""

    accepts = "any"
    op: Literal["logical_not"]
    inputs: tuple[Reference]

    def gives(self, spec: TensorSpec) -> DType:
        return "bool"


class Logical(StepDocument):
    """Two masks as one; whatever is not zero counts as true."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("input", "other")
    sentences: ClassVar[Mapping[str, str]] = {
        "logical_and": "True where both are; whatever is not zero counts as true.",
        "logical_or": "True where one is, or both; whatever is not zero counts as true.",
    }
    op: Literal["logical_and", "logical_or"]
    inputs: tuple[Reference, Reference]

    def output(self, given: Sequence[Given]) -> TensorSpec:
        left, right = tensors_of(given)
        out = paired(left, right, self.op)
        return TensorSpec(out.row, "bool", out.batch)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


def _read_fill(value: object) -> Any:
    if value == "-inf":
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("float_type", 'Expected a number, or "-inf".')
    return float(tidy(value))


_Fill = Annotated[float | Literal["-inf"], PlainValidator(_read_fill, json_schema_input_type=float | Literal["-inf"])]


class MaskedFill(StepDocument):
    """A number, or "-inf", where the mask is true, and the value elsewhere."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("input", "mask")
    op: Literal["masked_fill"]
    inputs: tuple[Reference, Reference]
    value: _Fill

    def output(self, given: Sequence[Given]) -> TensorSpec:
        spec, mask = tensors_of(given)
        expect_mask(self.op, mask)
        if self.value == "-inf":
            expect_floats(self.op, spec)
        else:
            expect_held(self.op, tidy(self.value), spec.dtype, "value")
        out = paired(spec, mask, self.op)
        return TensorSpec(out.row, spec.dtype, out.batch)


class Where(StepDocument):
    """The first of two where the mask is true, and the second elsewhere; one of them may be a number."""

    tensors: ClassVar[int | None] = 3
    values: ClassVar[tuple[str, ...]] = ("condition", "input", "other")
    op: Literal["where"]
    inputs: tuple[Reference, Operand, Operand]

    @field_validator("inputs")
    @classmethod
    def _a_value_at_least(cls, inputs: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        if not any(isinstance(item, str) for item in inputs[1:]):
            raise PydanticCustomError(
                "operand_type",
                "One of the two to choose from is a value, not a number; cast(mask) gives ones and zeros.",
            )
        return inputs

    def output(self, given: Sequence[Given]) -> TensorSpec:
        mask, *choices = tensors_of(given)
        expect_mask(self.op, mask)
        out = mask
        for choice in choices:
            out = paired(out, choice, self.op)
        dtype = common_dtype(choices)
        for item in given[1:]:
            dtype = dtype if isinstance(item, TensorSpec) else with_number(dtype, item, self.op)
        return TensorSpec(out.row, dtype, out.batch)


# Images and signals.


class _Pool(StepDocument):
    """A window that slides over the last `n` dimensions."""

    accepts = "floats"
    n: ClassVar[int]

    if TYPE_CHECKING:
        kernel_size: tuple[int, ...]
        stride: tuple[int, ...] | None
        padding: tuple[int, ...]
        ceil_mode: bool

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

    def row(self, row: Row) -> Row:
        return pooled(
            row,
            self.n,
            self.op,
            kernel=self.kernel_size,
            stride=self.stride or self.kernel_size,
            padding=self.padding,
            dilation=getattr(self, "dilation", None),
            ceil_mode=self.ceil_mode,
        )

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row) * elements(self.kernel_size)


class MaxPool1d(_Pool):
    """The largest of each window of [B, C, L]."""

    n = 1
    op: Literal["max_pool1d"]
    inputs: tuple[Reference]
    kernel_size: Single
    stride: SingleOrNone = None
    padding: SinglePadding = (0,)
    dilation: Single = (1,)
    ceil_mode: Flag = False


class MaxPool2d(_Pool):
    """The largest of each window of [B, C, H, W]."""

    n = 2
    op: Literal["max_pool2d"]
    inputs: tuple[Reference]
    kernel_size: Pair
    stride: PairOrNone = None
    padding: PairPadding = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: Flag = False


class AvgPool1d(_Pool):
    """The mean of each window of [B, C, L]."""

    n = 1
    op: Literal["avg_pool1d"]
    inputs: tuple[Reference]
    kernel_size: Single
    stride: SingleOrNone = None
    padding: SinglePadding = (0,)
    ceil_mode: Flag = False
    count_include_pad: Flag = True


class AvgPool2d(_Pool):
    """The mean of each window of [B, C, H, W]."""

    n = 2
    op: Literal["avg_pool2d"]
    inputs: tuple[Reference]
    kernel_size: Pair
    stride: PairOrNone = None
    padding: PairPadding = (0, 0)
    ceil_mode: Flag = False
    count_include_pad: Flag = True


class _AdaptivePool(StepDocument):
    accepts = "floats"

    if TYPE_CHECKING:
        output_size: tuple[int | None, ...]

    def row(self, row: Row) -> Row:
        return targeted(row, self.output_size, self.op)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return sum(elements(item.row) for item in tensors_of(given))


class AdaptivePool1d(_AdaptivePool):
    """Windows over [B, C, L] that are chosen so that the output has the wanted size."""

    sentences: ClassVar[Mapping[str, str]] = {
        "adaptive_avg_pool1d": "Means over windows of [B, C, L], chosen so that the output has the wanted size.",
        "adaptive_max_pool1d": "The largest of windows of [B, C, L], chosen so that the output has the wanted size.",
    }
    op: Literal["adaptive_avg_pool1d", "adaptive_max_pool1d"]
    inputs: tuple[Reference]
    output_size: Single


class AdaptivePool2d(_AdaptivePool):
    """Windows over [B, C, H, W] that are chosen so that the output has the wanted size."""

    sentences: ClassVar[Mapping[str, str]] = {
        "adaptive_avg_pool2d": "Means over windows of [B, C, H, W], chosen so that the output has the wanted size.",
        "adaptive_max_pool2d": "The largest of windows of [B, C, H, W], chosen so that the output has the wanted size.",
    }
    op: Literal["adaptive_avg_pool2d", "adaptive_max_pool2d"]
    inputs: tuple[Reference]
    output_size: PairTarget


class Pad(Placed):
    """More elements at both sides; `pad` counts from the last dimension: left, right, top, bottom."""

    op: Literal["pad"]
    inputs: tuple[Reference]
    pad: Sides
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    value: Real = 0.0

    @field_validator("pad")
    @classmethod
    def _in_pairs(cls, pad: tuple[int, ...]) -> tuple[int, ...]:
        if len(pad) % 2:
            raise PydanticCustomError("pad", "There are two numbers for each dimension.")
        return pad

    @field_validator("mode")
    @classmethod
    def _more_and_not_fewer(cls, mode: str, info: Any) -> str:
        if mode != "constant" and min(info.data.get("pad", (0,))) < 0:
            raise PydanticCustomError("pad", 'Only the mode "constant" takes numbers below 0, which cut.')
        return mode

    @field_validator("value")
    @classmethod
    def _of_the_constant(cls, value: float, info: Any) -> float:
        if value and info.data.get("mode", "constant") != "constant":
            raise PydanticCustomError("pad", 'value is for the mode "constant".')
        return value

    def resized(self, spec: TensorSpec) -> Sizes:
        n = len(self.pad) // 2
        space = self._last(spec, n, f"a value with {n} dimensions besides the batch to pad")
        if self.mode == "constant":
            expect_held(self.op, tidy(self.value), spec.dtype, "value")
        else:
            self._check_mirror(spec, n)
        # torch counts from the last dimension
        sides = list(zip(self.pad[::2], self.pad[1::2], strict=True))[::-1]
        for place, (size, pair) in enumerate(zip(space, sides, strict=True), len(spec.sizes) - n):
            self._check_side(size, pair, place, spec)
        out = tuple(size + left + right for size, (left, right) in zip(space, sides, strict=True))
        return (*spec.sizes[:-n], *out)

    def _check_mirror(self, spec: TensorSpec, n: int) -> None:
        if spec.dtype == "bool" and self.mode != "circular":
            expect_numbers(f"pad by {self.mode}", spec)
        if n > 3 or len(spec.sizes) not in (n + 1, n + 2):
            raise Mismatch(
                f"pad by {self.mode} pads all dimensions after the channels, but gets {n} of them for {spec.shown}.",
                field="pad",
                expected=f"{2 * (len(spec.sizes) - 2)} numbers" if len(spec.sizes) > 2 else "[B, C, L]",
                got=str(list(self.pad)),
            )

    def _check_side(self, size: int, pair: tuple[int, int], place: int, spec: TensorSpec) -> None:
        most = {"reflect": size - 1, "circular": size}.get(self.mode, max(pair))
        if size + sum(pair) < 1 or min(pair) < -size or max(pair) > most:
            raise Mismatch(
                f"pad cannot pad dimension {place} of {spec.shown} by {pair[0]} and {pair[1]}: {size} are there.",
                field="pad",
                expected=f"at most {most}" if max(pair) > most else f"at least {1 - size} in all",
                got=str(list(pair)),
            )


_RESAMPLED: Final[Mapping[str, tuple[int, ...]]] = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}
_ALIGNED: Final = ("linear", "bilinear", "bicubic", "trilinear")


def _read_scales(value: object) -> Any:
    items = value if isinstance(value, (list, tuple)) else (value,)
    if not 1 <= len(items) <= 3 or not all(
        isinstance(item, (int, float)) and not isinstance(item, bool) and 0 < item <= LARGEST for item in items
    ):
        raise PydanticCustomError("size_type", "Expected a number above 0, or a list of one for each dimension.")
    return tuple(map(float, items))


def _write_scales(value: Any) -> Any:
    return value[0] if len(value) == 1 else list(value)


_Scales = Annotated[
    tuple[float, ...],
    PlainValidator(_read_scales, json_schema_input_type=float | list[float]),
    PlainSerializer(_write_scales, return_type=float | list[float]),
]


class Interpolate(StepDocument):
    """[B, C, …] resampled to `size`, or by `scale_factor`."""

    accepts = "floats"
    op: Literal["interpolate"]
    inputs: tuple[Reference]
    size: SizeList | None = None
    scale_factor: Annotated[_Scales | None, Field(validate_default=True)] = None
    mode: Literal["nearest", "nearest-exact", "area", "linear", "bilinear", "bicubic", "trilinear"] = "nearest"
    align_corners: Flag | None = None

    @field_validator("scale_factor")
    @classmethod
    def _one_of_the_two(cls, scale: Any, info: Any) -> Any:
        if "size" in info.data and (scale is None) == (info.data["size"] is None):
            raise PydanticCustomError("interpolate", "Give size or scale_factor, one of the two.")
        return scale

    @field_validator("align_corners")
    @classmethod
    def _where_it_matters(cls, align: bool | None, info: Any) -> bool | None:
        if align is not None and info.data.get("mode", "linear") not in _ALIGNED:
            raise PydanticCustomError("interpolate", f"align_corners is for {', '.join(_ALIGNED)}.")
        return align or None  # one form for one meaning

    def row(self, row: Row) -> Row:
        n = len(row) - 1
        given: tuple[float, ...] = self.size or self.scale_factor or ()
        if n not in _RESAMPLED[self.mode] or len(given) not in (1, n):
            ranks = " or ".join(
                f"[B, C, {', '.join('LHWD'[:1] if k == 1 else 'DHW'[3 - k :])}]" for k in _RESAMPLED[self.mode]
            )
            raise Mismatch(
                f"interpolate by {self.mode} cannot take {shown(row)}"
                + (f" with {len(given)} sizes." if n in _RESAMPLED[self.mode] else "."),
                field="mode",
                expected=ranks,
                got=shown(row),
            )
        each = given if len(given) == n else given * n
        if self.size is not None:
            return (row[0], *map(int, each))
        out = tuple(int(size * scale) for size, scale in zip(row[1:], each, strict=True))
        if min(out) < 1:
            raise Mismatch(f"interpolate leaves nothing of {shown(row)}.", field="scale_factor", got=shown(row))
        return (row[0], *out)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


class PixelShuffle(Placed):
    """Channels become pixels: [B, C·r², H, W] to [B, C, H·r, W·r]."""

    op: Literal["pixel_shuffle"]
    inputs: tuple[Reference]
    upscale_factor: Size

    def resized(self, spec: TensorSpec) -> Sizes:
        channels, height, width = self._last(spec, 3, "[B, C, H, W]")
        r = self.upscale_factor
        if channels % (r * r):
            raise Mismatch(
                f"pixel_shuffle needs a multiple of {r * r} channels and gets {channels}.",
                field="upscale_factor",
                expected=f"a multiple of {r * r}",
                got=str(channels),
            )
        return (*spec.sizes[:-3], channels // (r * r), height * r, width * r)


class PixelUnshuffle(Placed):
    """Pixels become channels: [B, C, H·r, W·r] to [B, C·r², H, W]."""

    op: Literal["pixel_unshuffle"]
    inputs: tuple[Reference]
    downscale_factor: Size

    def resized(self, spec: TensorSpec) -> Sizes:
        channels, height, width = self._last(spec, 3, "[B, C, H, W]")
        r = self.downscale_factor
        if height % r or width % r:
            raise Mismatch(
                f"pixel_unshuffle needs sides that are multiples of {r} and gets {height} and {width}.",
                field="downscale_factor",
                expected=f"multiples of {r}",
                got=f"{height} and {width}",
            )
        return (*spec.sizes[:-3], channels * r * r, height // r, width // r)


# Sequences, lengths and attention.


class Embed(StepDocument):
    """The rows of a table that the numbers in `input` count, from 0."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("input", "weight")
    op: Literal["embedding"]
    inputs: tuple[Reference, Reference]

    def output(self, given: Sequence[Given]) -> TensorSpec:
        spec, weight = tensors_of(given)
        expect_integers(self.op, spec, "int64", "int32")
        if weight.batch is not None or len(weight.row) != 2 or not weight.floating:
            raise Mismatch(
                f"embedding takes its vectors from a table [count, features], but gets {weight.shown} {weight.dtype}.",
                code="shape-mismatch" if weight.floating else "dtype-mismatch",
                hint="Declare a Parameter of this shape.",
                expected="[count, features] of float32, without a batch",
                got=weight.shown,
            )
        return spec.resized((*spec.sizes, weight.row[1]), weight.dtype)


class OneHot(Elementwise):
    """A one among zeros for each whole number below `num_classes`, along a new last dimension, as int64."""

    accepts = "any"
    op: Literal["one_hot"]
    inputs: tuple[Reference]
    num_classes: Size

    def output(self, given: Sequence[Given]) -> TensorSpec:
        spec = self._only(given)
        expect_integers(self.op, spec, "int64")
        return spec.resized((*spec.sizes, self.num_classes))

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return 0


class _Counted(StepDocument):
    """A constant made of how many elements a dimension has, whatever these are."""

    if TYPE_CHECKING:
        dim: int

    def _size(self, spec: TensorSpec) -> int:
        return spec.sizes[placed(self.dim, spec, self.op)] or 0


class Positions(_Counted):
    """0, 1, 2, … along a dimension, as a constant [T] of int64: what an embedding of positions takes."""

    op: Literal["positions"]
    inputs: tuple[Reference]
    dim: Index = 1

    def output(self, given: Sequence[Given]) -> TensorSpec:
        return TensorSpec((self._size(self._only(given)),), "int64", None)


class CausalMask(_Counted):
    """A constant [T, T], true where attention would look ahead: attn_mask as nn.MultiheadAttention takes it.

    `scaled_dot_product_attention` has it the other way round: logical_not(causal_mask(x)), or is_causal=True.
    """

    op: Literal["causal_mask"]
    inputs: tuple[Reference]
    dim: Index = 1

    def output(self, given: Sequence[Given]) -> TensorSpec:
        size = self._size(self._only(given))
        return TensorSpec((size, size), "bool", None)


def _check_lengths(op: str, lengths: TensorSpec) -> None:
    expect_integers(f"{op} with lengths", lengths, "int64", "int32")
    if lengths.row or lengths.batch != 0:
        raise Mismatch(
            f"{op} takes one length for each row, [B], but gets {lengths.shown}.", expected="[B]", got=lengths.shown
        )


class PaddingMask(_Counted):
    """[B, T], true from each row's length on: key_padding_mask as nn.MultiheadAttention takes it."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("lengths", "like")
    op: Literal["padding_mask"]
    inputs: tuple[Reference, Reference]
    dim: Index = 1

    def output(self, given: Sequence[Given]) -> TensorSpec:
        lengths, like = tensors_of(given)
        _check_lengths(self.op, lengths)
        return TensorSpec((self._size(like),), "bool")


class Pooled(StepDocument):
    """The steps of each sequence as one, without its padding."""

    tensors: ClassVar[int | None] = 2
    values: ClassVar[tuple[str, ...]] = ("input", "lengths")
    sentences: ClassVar[Mapping[str, str]] = {
        "masked_mean": "The mean of the first `lengths` steps of [B, T, …]; a length counts as 1 to T.",
        "masked_max": "The largest among the first `lengths` steps of [B, T, …]; a length counts as 1 to T.",
        "last_valid": "The last of the first `lengths` steps of [B, T, …]; a length counts as 1 to T.",
    }
    op: Literal["masked_mean", "masked_max", "last_valid"]
    inputs: tuple[Reference, Reference]

    def output(self, given: Sequence[Given]) -> TensorSpec:
        spec, lengths = tensors_of(given)
        if spec.batch != 0:
            raise batch_not_first(self.op, spec)
        if not spec.row:
            raise Mismatch(f"{self.op} takes [B, T, …], but gets {spec.shown}.", expected="[B, T, …]", got=spec.shown)
        if self.op != "last_valid":
            expect_floats(self.op, spec)
        _check_lengths(self.op, lengths)
        return TensorSpec(spec.row[1:], spec.dtype)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return 0 if self.op == "last_valid" else elements(tensors_of(given)[0].row)


class Attention(StepDocument):
    """softmax(q kᵀ · scale) v over the last two dimensions; a mask is true where attention is allowed, or is added."""

    tensors: ClassVar[int | None] = 3
    values: ClassVar[tuple[str, ...]] = ("query", "key", "value", "attn_mask")
    op: Literal["scaled_dot_product_attention"]
    inputs: Annotated[tuple[Reference, ...], counted(3, 4)]
    dropout_p: Probability = 0.0
    is_causal: Flag = False
    scale: Positive | None = None

    @field_validator("is_causal")
    @classmethod
    def _one_mask(cls, causal: bool, info: Any) -> bool:
        if causal and len(info.data.get("inputs", ())) == 4:
            raise PydanticCustomError("attention", "Give attn_mask or is_causal, one of the two.")
        return causal

    def output(self, given: Sequence[Given]) -> TensorSpec:
        query, key, value, *masks = tensors_of(given)
        for spec in (query, key, value):
            expect_floats(self.op, spec)
            if spec.dtype != query.dtype:
                raise Mismatch(
                    f"{self.op} takes values of one dtype, but gets {query.dtype} and {spec.dtype}.",
                    code="dtype-mismatch",
                    expected=query.dtype,
                    got=spec.dtype,
                )
        together = f"{query.shown}, {key.shown} and {value.shown}"
        form = "[B, …, L, E], [B, …, S, E] and [B, …, S, Ev]"
        if len({spec.batch for spec in (query, key, value)}) > 1:
            constant = None in {spec.batch for spec in (query, key, value)}
            raise Mismatch(
                f"{self.op} needs the batch in one place, but gets {together}.",
                code="shape-mismatch" if constant else "batch-mixed",
                hint="Give the constant a batch: expand_batch(constant, x)." if constant else None,
                expected=form,
                got=together,
            )
        q, k, v = query.sizes, key.sizes, value.sizes
        last = (*q[-2:], *k[-2:], *v[-2:])
        fits = min(map(len, (q, k, v))) >= 2 and None not in last and q[:-2] == k[:-2] == v[:-2]
        if not fits or q[-1] != k[-1] or k[-2] != v[-2]:
            raise Mismatch(f"{self.op} takes {form}, but gets {together}.", expected=form, got=together)
        for mask in masks:
            self._check_mask(mask, query.resized((*q[:-1], k[-2])))
        return query.resized((*q[:-1], v[-1]))

    def _check_mask(self, mask: TensorSpec, scores: TensorSpec) -> None:
        if mask.dtype not in ("bool", scores.dtype):
            raise Mismatch(
                f"{self.op} takes a mask of bool or {scores.dtype}, but gets {mask.dtype}.",
                code="dtype-mismatch",
                expected=f"bool or {scores.dtype}",
                got=mask.dtype,
            )
        if len(mask.sizes) < 2 or paired(scores, mask, f"attn_mask of {self.op}").sizes != scores.sizes:
            raise Mismatch(
                f"attn_mask of {self.op} is for {scores.shown}, but is {mask.shown}.",
                hint="Add dimensions with unsqueeze: a mask [B, S] becomes [B, 1, 1, S].",
                expected=scores.shown,
                got=mask.shown,
            )

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        query, key, *_ = tensors_of(given)
        rows, keys, wide = elements(query.row[:-1]), key.row[-2], query.row[-1]
        return 2 * rows * keys * (wide + out.row[-1])


class Dropout(Elementwise):
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
    | Function
    | Magnitude
    | Power
    | Clamp
    | Cast
    | Softmax
    | Flatten
    | Reshape
    | Unflatten
    | Permute
    | Transpose
    | Squeeze
    | Unsqueeze
    | ExpandBatch
    | Join
    | Chunk
    | Split
    | GetItem
    | Flip
    | Roll
    | Reduce
    | Spread
    | Norm
    | Product
    | ArgExtremum
    | CumSum
    | Normalize
    | LayerNorm
    | Extremum
    | Comparison
    | LogicalNot
    | Logical
    | MaskedFill
    | Where
    | MaxPool1d
    | MaxPool2d
    | AvgPool1d
    | AvgPool2d
    | AdaptivePool1d
    | AdaptivePool2d
    | Pad
    | Interpolate
    | PixelShuffle
    | PixelUnshuffle
    | Embed
    | OneHot
    | Positions
    | CausalMask
    | PaddingMask
    | Pooled
    | Attention
    | Dropout
)
"""The steps that compute: everything but calls, items and the return."""

Step: TypeAlias = Call | Item | Tuple | Param | Return | Operation


BY_OPERATION: Final[Mapping[str, type[StepDocument]]] = {
    op: kind for kind in get_args(Operation) for op in get_args(kind.model_fields["op"].annotation)
}

OPERATIONS: Final = tuple(BY_OPERATION)
"""The operations that may be called by name in a line (indices are written in brackets)."""


def _first_line(kind: type[StepDocument]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


SENTENCES: Final[Mapping[str, str]] = {
    op: kind.sentences.get(op, _first_line(kind)) for op, kind in BY_OPERATION.items()
}
"""What every operation does, in a sentence."""


def reads(steps: Iterable[Step]) -> dict[str, int]:
    """For every value, the place of the last step that reads it."""
    return {name: place for place, step in enumerate(steps) for name in step.references()}
