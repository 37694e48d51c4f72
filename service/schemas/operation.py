"""What every step of a forward is: a frozen document that knows in plain integers what it makes of what it is given.

The kinds themselves stand in `steps`. Knows neither layers nor torch.
"""

# ruff: noqa: D102 - what an overriding method does stands once, at `StepDocument`
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

from service.schemas.document import Document
from service.schemas.shapes import (
    LARGEST,
    LARGEST_REAL,
    DType,
    Index,
    Mismatch,
    Row,
    Sizes,
    TensorSpec,
    elements,
    placed,
    promoted,
)

Number: TypeAlias = int | float
Given: TypeAlias = TensorSpec | Number


def _read_operand(value: object) -> str | Number:
    if isinstance(value, str):
        return read_reference(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("operand_type", "Expected the name of a value, or a number.")
    return tidy(value)


def read_reference(value: object) -> str:
    """The name of an input, or of what a step makes; for a validator."""
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


Reference = Annotated[str, PlainValidator(read_reference, json_schema_input_type=str)]
Operand = Annotated[str | int | float, PlainValidator(_read_operand, json_schema_input_type=str | float)]


def _not_the_batch(dim: int) -> int:
    if dim == 0:
        raise PydanticCustomError("batch_dim", "Dimension 0 is the batch: an operation may not touch it")
    return dim


InnerDim = Annotated[Index, BeforeValidator(lambda value: _not_the_batch(value) if value == 0 else value)]


Accepted: TypeAlias = Literal["any", "numbers", "floats"]


class StepDocument(Document):
    """One operation; `inputs` name what it takes, its other members are constants."""

    tensors: ClassVar[int | None] = 1
    """How many inputs it takes in text; None is any number of them."""
    values: ClassVar[tuple[str, ...]] = ("input",)
    """torch's names for its inputs; those beyond `tensors` may be left out."""
    spread: ClassVar[str | None] = None
    """The member that further positional arguments fill together, as in `reshape(x, 1, 28, 28)`."""
    sentences: ClassVar[Mapping[str, str]] = {}
    """What each operation does in a sentence, where the class has several."""
    accepts: ClassVar[Accepted] = "any"
    """The dtypes that a step of one input takes; numbers are all but bool."""
    anywhere: ClassVar[bool] = False
    """Whether it treats every element alike, so that the batch may stand anywhere."""

    op: str
    inputs: tuple[Any, ...]

    def references(self) -> tuple[str, ...]:
        """The values that this step reads."""
        return tuple(name for name in self.inputs if isinstance(name, str))

    @property
    def pieces(self) -> int | None:
        """How many values it gives together, where its constants say so."""
        return None

    def output(self, given: Sequence[Given]) -> TensorSpec | tuple[TensorSpec, ...]:
        """What the step makes of its inputs.

        Raises:
            Mismatch: it cannot take them.
        """
        spec = self._only(given)
        if self.anywhere or spec.batch == 0:
            return TensorSpec(self.row(spec.row), self.gives(spec), spec.batch)
        if spec.batch is None and spec.row:
            # a constant: its first dimension takes the place of the batch
            return TensorSpec((spec.row[0], *self.row(spec.row[1:])), self.gives(spec), None)
        raise batch_not_first(self.op, spec)

    def row(self, row: Row) -> Row:
        """The shape that comes out, for a step of one input."""
        return row

    def gives(self, spec: TensorSpec) -> DType:
        """The dtype that comes out, for a step of one input."""
        return spec.dtype

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        """Operations for one row; moving elements around costs none."""
        return 0

    def _only(self, given: Sequence[Given]) -> TensorSpec:
        """The one input, of a dtype that the step accepts."""
        (spec,) = given
        if not isinstance(spec, TensorSpec):
            raise Mismatch(f"{self.op} takes a value, not a number.", expected="a value", got=str(spec))
        if self.accepts == "floats":
            expect_floats(self.op, spec)
        elif self.accepts == "numbers":
            expect_numbers(self.op, spec)
        return spec


CAST_IT: Final = "Write cast(x) before it, which makes float32."


def expect_floats(op: str, spec: TensorSpec) -> None:
    """Refuse whole numbers and bool.

    Raises:
        Mismatch: it is of these.
    """
    if not spec.floating:
        raise Mismatch(
            f"{op} takes floating point numbers, but gets {spec.dtype}.",
            code="dtype-mismatch",
            hint=CAST_IT,
            expected="float32",
            got=spec.dtype,
        )


def expect_numbers(op: str, spec: TensorSpec) -> None:
    """Refuse bool.

    Raises:
        Mismatch: it is bool.
    """
    if spec.dtype == "bool":
        detail = f"{op} does not take bool."
        raise Mismatch(detail, code="dtype-mismatch", hint=CAST_IT, expected="numbers", got="bool")


def expect_mask(op: str, spec: TensorSpec) -> None:
    """Refuse all but bool.

    Raises:
        Mismatch: it is of numbers.
    """
    if spec.dtype != "bool":
        raise Mismatch(
            f"{op} takes a mask of true and false, but gets {spec.dtype}.",
            code="dtype-mismatch",
            hint="Compare it with something, as in ne(x, 0).",
            expected="bool",
            got=spec.dtype,
        )


def expect_integers(op: str, spec: TensorSpec, *dtypes: DType) -> None:
    """Refuse all but these dtypes.

    Raises:
        Mismatch: it is of another.
    """
    if spec.dtype not in dtypes:
        raise Mismatch(
            f"{op} takes {' or '.join(dtypes)}, but gets {spec.dtype}.",
            code="dtype-mismatch",
            hint='Write cast(x, "int64") before it.',
            expected=" or ".join(dtypes),
            got=spec.dtype,
        )


def batch_not_first(op: str, spec: TensorSpec) -> Mismatch:
    """What is told of a value in which another dimension comes before the batch, or which has none."""
    return Mismatch(
        f"{op} takes the batch first, but gets {spec.shown}.",
        code="batch-not-first",
        hint="Write transpose(x, 0, 1) before it." if spec.batch else None,
        expected="[B, …]",
        got=spec.shown,
    )


_RANGES: Final[Mapping[DType, tuple[int, int]]] = {
    "bool": (0, 1),
    "uint8": (0, 2**8 - 1),
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}


def expect_held(op: str, number: Number, dtype: DType, field: str | None = None) -> None:
    """See that a constant is a number of this dtype: torch would wrap it around, cut it or fail.

    Raises:
        Mismatch: it is not.
    """
    if dtype not in _RANGES:
        return
    low, high = _RANGES[dtype]
    if number != int(number) or not low <= number <= high:
        raise Mismatch(
            f"{op} has the constant {number}, which {dtype} does not hold.",
            code="dtype-mismatch",
            field=field,
            hint=CAST_IT if number != int(number) else None,
            expected=f"a whole number from {low} to {high}",
            got=str(number),
        )


def with_number(dtype: DType, number: Number, op: str) -> DType:
    """What an operation on elements of this dtype and a number gives: a fraction makes whole numbers float32.

    Raises:
        Mismatch: the dtype does not hold the number.
    """
    if dtype in ("float32", "float64"):
        return dtype
    if number != int(number):
        return "float32"
    if dtype == "bool":
        return "int64"
    expect_held(op, number, dtype)
    return dtype


def common_dtype(specs: Sequence[TensorSpec]) -> DType:
    """The dtype of an operation on all: a single number counts only when it is of a higher kind, as a fraction is."""
    wide = [spec.dtype for spec in specs if spec.sizes]
    single = [spec.dtype for spec in specs if not spec.sizes]
    if not wide or not single:
        return reduce(promoted, wide or single)
    of_wide, of_single = reduce(promoted, wide), reduce(promoted, single)
    return promoted(of_wide, of_single) if _kind(of_single) > _kind(of_wide) else of_wide


def _kind(dtype: DType) -> int:
    return 0 if dtype == "bool" else 2 if dtype in ("float32", "float64") else 1


def tensors_of(given: Sequence[Given]) -> list[TensorSpec]:
    """What a step is given, without the numbers."""
    return [item for item in given if isinstance(item, TensorSpec)]


class Elementwise(StepDocument):
    """Makes one element of each, wherever the batch stands."""

    accepts: ClassVar[Accepted] = "floats"
    anywhere: ClassVar[bool] = True

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return elements(out.row)


class Placed(StepDocument):
    """Works on dimensions wherever the batch stands."""

    def output(self, given: Sequence[Given]) -> TensorSpec | tuple[TensorSpec, ...]:
        spec = self._only(given)
        return spec.resized(self.resized(spec), self.gives(spec))

    def resized(self, spec: TensorSpec) -> Sizes:
        """Every dimension that comes out, None for the batch."""
        raise NotImplementedError

    def _places(self, dims: Sequence[int], spec: TensorSpec, field: str = "dim") -> list[int]:
        """Dimensions as places, each once, and none of them the batch."""
        places = [placed(dim, spec, self.op, field=field) for dim in dims]
        if len(set(places)) != len(places):
            raise Mismatch(f"{self.op} names a dimension twice.", field=field, got=str(list(dims)))
        return places

    def _last(self, spec: TensorSpec, n: int, form: str) -> Row:
        """The sizes of the last `n` dimensions, none of which is the batch."""
        last = tuple(size for size in spec.sizes[-n:] if size is not None)
        if len(last) < n:
            detail = f"{self.op} takes {form}, but gets {spec.shown}."
            raise Mismatch(detail, expected=form, got=spec.shown)
        return last


class Reduction(Placed):
    """Dimensions that become one number, or are dropped."""

    if TYPE_CHECKING:
        dim: tuple[int, ...]
        keepdim: bool

    def resized(self, spec: TensorSpec) -> Sizes:
        places = self._places(self.dim, spec)
        kept = ((1 if place in places else size, place in places) for place, size in enumerate(spec.sizes))
        return tuple(size for size, gone in kept if self.keepdim or not gone)

    def flops(self, given: Sequence[Given], out: TensorSpec) -> int:
        return sum(elements(item.row) for item in tensors_of(given))
