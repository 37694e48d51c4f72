"""JSON rows to raw arrays, checked against what a version takes, and answers back to JSON.

Every wrong value is named by its place. numpy would turn true, null and "1" into floats in silence, so types are looked
at before any array is made. Knows no tensor and no version.
"""

from __future__ import annotations

import base64
import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.engine import picture_files
from service.errors import (
    MAX_ENTRIES,
    BatchTooLarge,
    DtypeMismatch,
    Entry,
    InvalidInput,
    NotFinite,
    ShapeMismatch,
    ValidationFailed,
    listed,
    shorten,
)
from service.schemas.datasets import NULL_FOR_MISSING, ImageRow
from service.schemas.document import nearest_hint, pointer
from service.schemas.preprocessing import ArrayRow, TableRow, TokensColumn
from service.schemas.versions import TensorSpec

Array = npt.NDArray[Any]

_FLOATS: Final[Mapping[str, float]] = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": float(np.finfo(np.float32).max),
    "float64": float(np.finfo(np.float64).max),
}
_INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    "uint8": (0, 2**8 - 1),
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "bool": (0, 1),
}


_FEW: Final = 16
"""So many numbers Python adds up faster than numpy begins."""
_MANY: Final = 256
"""More numbers than so many are worth a few calls to have them packed."""
_PIECE: Final = 2**16
"""Numbers that are packed at a time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one prediction may hold."""

    rows: int
    elements: int


@dataclass(frozen=True, slots=True)
class Raw:
    """Rows of one input as arrays: numbers [N, …], and the category codes [N, m] of a table's texts (−1 = unseen).

    `rows` are those that were sent and `at` is the pointer to them, for warnings that come later. `bounded` says that
    no number is beyond the type of the input.
    """

    numbers: Array
    codes: Array | None = None
    rows: Sequence[Any] = ()
    at: str = "/inputs"
    bounded: bool = False

    def __len__(self) -> int:
        return len(self.numbers)


def decode(
    inputs: object,
    *,
    specs: Sequence[TensorSpec],
    limits: Limits,
    table: TableRow | None = None,
    rows: Sequence[TableRow | ArrayRow | None] | None = None,
) -> tuple[Raw, ...]:
    """The `inputs` member of a prediction as raw arrays, one for each input of the version.

    Args:
        inputs: a list of rows, or {input name: list of rows}.
        specs: the version's inputs.
        limits: how much one prediction may hold.
        table: the columns of a row where the version has such; a row may then be an object by column name.
        rows: the same for each input, where that is known; it may be pictures too.

    Raises:
        InvalidInput: with every place that is wrong (at most 20).
        BatchTooLarge: more rows or numbers than allowed.
    """
    known = rows if rows is not None and len(rows) == len(specs) else [table] * len(specs)
    if len(specs) == 1 and isinstance(inputs, dict) and _is_one_object(inputs, specs[0], known[0]):
        raise _no_list("/inputs", "{…}")
    named = _by_name(inputs, specs)
    places = {spec.name: "/inputs" if isinstance(inputs, list) else pointer(["inputs", spec.name]) for spec in specs}
    for spec, row in zip(specs, known, strict=True):
        if _is_one_list(named[spec.name], spec, row):
            raise _no_list(places[spec.name], "[…]")
    counts = {name: len(rows) for name, rows in named.items()}
    if len(set(counts.values())) > 1:
        raise ShapeMismatch(
            "All inputs must have the same number of rows.",
            errors=[
                Entry(
                    "/inputs",
                    "shape-mismatch",
                    "The inputs differ in their number of rows.",
                    hint="Send as many of each.",
                    got=shorten(str(counts)),
                )
            ],
        )
    count = next(iter(counts.values()))
    if count > limits.rows:
        raise _too_large("rows", "rows", most=limits.rows, got=count)
    if count == 0:
        raise ShapeMismatch(
            "There is no row to predict.",
            errors=[
                Entry("/inputs", "shape-mismatch", "A prediction needs at least one row.", expected="a list of rows")
            ],
        )
    found = []
    for spec, row in zip(specs, known, strict=True):
        at = places[spec.name]
        if isinstance(row, TableRow):
            found.append(_table(named[spec.name], row, at=at))
        elif isinstance(row, ArrayRow) and row.image is not None and any(map(_is_picture, named[spec.name])):
            found.append(_pictures(named[spec.name], row.image, spec, at=at, limits=limits))
        else:
            found.append(_array(named[spec.name], spec, at=at, limits=limits))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Plain:
    """What a version takes if it takes nothing but numbers of one fixed shape: then all rows of a batch are looked at
    together.

    `shape` is that of a row, `highest` the largest float that is taken; of integers `low` and `high`. `rows` is the
    most that one prediction may have of them.
    """

    shape: tuple[int, ...]
    dtype: str
    highest: float
    low: int
    high: int
    rows: int

    def is_best_read_at_once(self, rows: int) -> bool:
        """Whether so many rows are best made an array where they arrive, while they are in the processor's caches. Few
        numbers are made one together with those of others, and very many would hold up everybody else."""
        return _MANY < rows * math.prod(self.shape) <= _PIECE

    def holds(self, array: Array) -> bool:
        """Whether these are such rows of floats, at a glance; where it does not show, `check` says what is wrong."""
        return (
            array.ndim == len(self.shape) + 1
            and array.shape[1:] == self.shape
            and array.dtype.char in "fd"
            and 0 < len(array) <= self.rows
            and self.highest > 0
            and surely_within(array, self.highest)
        )

    def array(self, rows: list[Any]) -> Array:
        """Rows whose values are known to be numbers or lists, as an array [N, *shape].

        Raises:
            ValueError, TypeError, OverflowError: something about them is odd; `decode` says what.
        """
        if self.dtype in _FLOATS:
            array = self._floats(rows)
            if not surely_within(array, self.highest) and (array.max() > self.highest or array.min() < -self.highest):
                raise ValueError("odd rows")
            return array
        array = np.array(rows)
        if (
            array.dtype.kind != "i"
            or array.shape[1:] != self.shape
            or array.min() < self.low
            or array.max() > self.high
        ):
            raise ValueError("odd rows")
        return array.astype(self.dtype)

    def _floats(self, rows: list[Any]) -> Array:
        count = len(rows) * math.prod(self.shape)
        if count <= _MANY:
            array = np.array(rows, dtype=np.float64)
            if array.shape[1:] != self.shape:
                raise ValueError("odd rows")
            return array
        flat = rows
        for size in self.shape:
            if set(map(len, flat)) != {size}:
                raise ValueError("odd rows")
            flat = list(itertools.chain.from_iterable(flat))
        return doubles(flat).reshape(-1, *self.shape)


def doubles(numbers: Sequence[Any]) -> Array:
    """A flat list of Python's numbers as float64 [n], in a fourth of the time that numpy takes; `true` is 1.

    Raises:
        ValueError: something is no number, or one that is beyond float64.
    """
    array = np.empty(len(numbers))
    for start in range(0, len(numbers), _PIECE):
        piece = numbers[start : start + _PIECE]
        try:
            struct.pack_into(f"{len(piece)}d", array.data, 8 * start, *piece)
        except struct.error as error:
            raise ValueError("odd numbers") from error
    return array


def surely_within(array: Array, highest: float = math.inf) -> bool:
    """Whether all floats are finite and none is beyond `highest`, at a glance: by one number that is not smaller than
    any of them. False where that does not show it; look at each then."""
    if array.size <= _FEW:
        total = sum(map(abs, array.reshape(-1).tolist()))  # in less time than numpy takes to begin
        return total < math.inf and total <= highest
    if array.dtype.char not in "fd":
        return False
    squares = float(np.vdot(array, array))  # unlike `dot` it does not warn of an overflow
    return squares < math.inf and squares <= highest * highest


def plain(
    specs: Sequence[TensorSpec],
    rows: Sequence[TableRow | ArrayRow | None],
    *,
    outputs: Sequence[TensorSpec],
    limits: Limits,
) -> Plain | None:
    """How rows of numbers can be read all at once; None where a version takes texts, free sizes or several inputs."""
    if len(specs) != 1 or len(rows) != 1 or specs[0].dtype not in (*_FLOATS, *_INTEGERS) or specs[0].dtype == "bool":
        return None
    row, dtype, shape = rows[0], specs[0].dtype, specs[0].shape[1:]
    highest = _FLOATS.get(dtype, 0.0)
    if isinstance(row, TableRow):
        if row.texts:
            return None
        shape, dtype, highest = (len(row.columns),), "float64", _FLOATS["float32"]
    fixed = tuple(size for size in shape if isinstance(size, int))
    if len(fixed) != len(shape) or not math.prod(fixed):
        return None
    answered = sum(math.prod(size for size in spec.shape[1:] if isinstance(size, int)) for spec in outputs)
    most = min(limits.rows, limits.elements // math.prod(fixed), limits.elements // max(1, answered))
    low, high = _INTEGERS.get(dtype, (0, 0))
    return Plain(fixed, dtype, highest, low, high, most)


def only_numbers(body: bytes) -> bool:
    """Whether the `inputs` member of a well-formed JSON object holds nothing but lists and numbers.

    False where that cannot be seen at a glance. numpy makes numbers of true, null and "1"; so none may be there.
    """
    start = body.find(b'"inputs"')
    if start < 0 or b"\\" in body:
        return False
    start += 8
    stop = body.find(b'"', start)  # where the next member begins, if that is what it is
    if stop < 0:
        stop = len(body)  # nothing else follows, for no text does
    elif body.find(b'"inputs"', stop) >= 0:
        return False
    else:
        opened = body.count(b"[", start, stop)
        if not opened or opened != body.count(b"]", start, stop):
            return False
    find = body.find
    return (  # each is told of a long body in no time, where the sign is not there
        find(b"t", start, stop) < 0
        and find(b"f", start, stop) < 0
        and find(b"n", start, stop) < 0
        and find(b"{", start, stop) < 0
    )


def check(
    tensors: Mapping[str, Array],
    *,
    specs: Sequence[TensorSpec],
    limits: Limits,
    rows: Sequence[TableRow | ArrayRow | None] | None = None,
) -> tuple[Raw, ...]:
    """Arrays by input name as raw arrays, one for each input of the version.

    Args:
        tensors: [N, …] each; arrays of texts where the version has columns of texts.
        specs, limits, rows: as `decode` has them.

    Raises:
        InvalidInput: with every place that is wrong (at most 20).
        BatchTooLarge: more rows or numbers than allowed.
    """
    known = rows if rows is not None and len(rows) == len(specs) else [None] * len(specs)
    if any(tensor.dtype.kind not in "biuf" for tensor in tensors.values()) or any(
        isinstance(row, TableRow) and row.texts for row in known
    ):
        plain: dict[str, Any] = {name: tensor.tolist() for name, tensor in tensors.items()}
        return decode(plain, specs=specs, limits=limits, rows=rows)
    _by_name({name: [] for name in tensors}, specs)
    mistakes = _Mistakes()
    count = len(tensors[specs[0].name]) if tensors[specs[0].name].ndim else 0
    if count > limits.rows:
        raise _too_large("rows", "rows", most=limits.rows, got=count)
    found = []
    for spec, row in zip(specs, known, strict=True):
        tensor, at = tensors[spec.name], pointer(["inputs", spec.name])
        if tensor.size > limits.elements:
            raise _too_large("elements", "numbers", most=limits.elements, got=tensor.size)
        shape: tuple[int | str, ...] = (len(row.columns),) if isinstance(row, TableRow) else spec.shape[1:]
        if (
            tensor.ndim != len(shape) + 1
            or not tensor.size
            or len(tensor) != count
            or any(isinstance(size, int) and size != got for size, got in zip(shape, tensor.shape[1:], strict=True))
        ):
            mistakes.add(
                at,
                "shape-mismatch",
                "The tensor has another shape.",
                hint="All inputs have as many rows, one at least." if tensor.ndim == len(shape) + 1 else None,
                expected=f"[{', '.join(map(str, ('rows', *shape)))}]",
                got=shorten(str(list(tensor.shape))),
            )
            continue
        wanted = "float64" if isinstance(row, TableRow) else "float32" if spec.dtype == "bfloat16" else spec.dtype
        if not _fits(tensor.dtype, np.dtype(wanted)):
            mistakes.add(
                at, "dtype-mismatch", "The tensor has another data type.", expected=spec.dtype, got=str(tensor.dtype)
            )
            continue
        if tensor.dtype.kind == "f":
            highest = _FLOATS["float32"] if isinstance(row, TableRow) else _FLOATS.get(spec.dtype, math.inf)
            bad = () if surely_within(tensor, highest) else np.argwhere(~(np.abs(tensor) <= highest)).tolist()
            for place in bad:
                where = at + "".join(f"/{index}" for index in place)
                mistakes.add(where, "not-finite", f"This number is not a finite {spec.dtype}.")
        elif wanted in _INTEGERS and tensor.dtype.kind in "iu":
            low, high = _INTEGERS[wanted]
            if int(tensor.min()) < low or int(tensor.max()) > high:
                mistakes.add(at, "dtype-mismatch", f"A number is beyond {wanted}.", expected=f"from {low} to {high}")
                continue
            tensor = tensor.astype(wanted, copy=False)
        found.append(Raw(tensor, rows=(), at=at))
    mistakes.end()
    return tuple(found)


def _fits(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether numbers of a dtype are taken for another: wider or narrower, but no truth for a number."""
    if "b" in (given.kind, wanted.kind):
        return given.kind == wanted.kind
    return wanted.kind == "f" or given.kind in "iu"


def _is_one_object(inputs: Mapping[str, Any], spec: TensorSpec, row: TableRow | ArrayRow | None) -> bool:
    """Whether this is no object of inputs, but one row of columns, or one picture."""
    if isinstance(inputs.get(spec.name), list):
        return False
    if isinstance(row, TableRow):
        return any(column.name in inputs for column in row.columns)
    return isinstance(row, ArrayRow) and row.image is not None and spec.name != "image" and set(inputs) == {"image"}


def _is_one_list(rows: list[Any], spec: TensorSpec, row: TableRow | ArrayRow | None) -> bool:
    """Whether this is no list of rows, but one row that is a list."""
    if isinstance(row, TableRow):
        columns = len(row.columns)
        if not rows or isinstance(rows[0], (list, dict)) or not (len(rows) == columns or min(len(rows), columns) > 1):
            return False
        return not any(isinstance(item, (list, dict)) for item in rows)
    shape = spec.shape[1:]
    if not rows or not shape or (isinstance(shape[0], int) and shape[0] != len(rows)):
        return False
    depth, value = 1, rows[0]
    while isinstance(value, list) and value and depth <= len(shape):
        depth, value = depth + 1, value[0]
    return depth == len(shape) and not isinstance(value, (list, str, dict))


def _no_list(at: str, row: str) -> ShapeMismatch:
    detail = "This is one row, where a list of rows is expected."
    hint = f"Put the row in [ ], as in [{row}]."
    return ShapeMismatch(errors=[Entry(at, "shape-mismatch", detail, hint=hint, expected="a list of rows")])


def require_room(rows: int, *, outputs: Sequence[TensorSpec], limits: Limits) -> None:
    """Refuse a prediction whose answer would be too large, before it is computed; free sizes count as 1.

    Raises:
        BatchTooLarge: accordingly.
    """
    elements = sum(rows * math.prod(size for size in spec.shape[1:] if isinstance(size, int)) for spec in outputs)
    if elements > limits.elements:
        raise _too_large("output_elements", "numbers of output", most=limits.elements, got=elements)


def _too_large(name: str, words: str, *, most: int, got: int) -> BatchTooLarge:
    detail = f"One prediction has at most {most} {words}; these are {got}."
    entry = Entry(
        "/inputs", "batch-too-large", detail, hint="Send several predictions.", expected=f"at most {most}", got=str(got)
    )
    return BatchTooLarge(detail, errors=[entry], limit={"name": name, "value": most})


def _by_name(inputs: object, specs: Sequence[TensorSpec]) -> dict[str, list[Any]]:
    names = [spec.name for spec in specs]
    if isinstance(inputs, list):
        if len(names) != 1:
            raise ValidationFailed(
                errors=[
                    Entry(
                        "/inputs",
                        "wrong-type",
                        "This version has several inputs.",
                        expected=f"an object with {listed(names)}",
                    )
                ]
            )
        return {names[0]: inputs}
    if not isinstance(inputs, dict):
        raise ValidationFailed(
            errors=[
                Entry(
                    "/inputs",
                    "wrong-type",
                    "Inputs are rows.",
                    expected="a list of rows, or an object of them",
                    got=shorten(inputs),
                )
            ]
        )
    unknown = [name for name in inputs if name not in names]
    wrong = [
        Entry(
            pointer(["inputs", name]),
            "unknown-member",
            "This version has no such input.",
            hint=nearest_hint(name, names),
            expected=listed(names),
        )
        for name in unknown[:MAX_ENTRIES]
    ]
    wrong += [
        Entry(f"/inputs/{name}", "missing", "This input is missing.", hint="Add it.")
        for name in names
        if name not in inputs
    ]
    wrong += [
        Entry(
            f"/inputs/{name}", "wrong-type", "An input is a list of rows.", expected="a list", got=shorten(inputs[name])
        )
        for name in names
        if name in inputs and not isinstance(inputs[name], list)
    ]
    if wrong:
        raise ValidationFailed(errors=wrong, more=max(0, len(unknown) - MAX_ENTRIES))
    return inputs


_ABSENT: Final = object()
"""Stands for a column that a row lacks, so that its other columns are looked at all the same."""


class _Mistakes:
    """Keeps the first MAX_ENTRIES mistakes and counts the others, then raises the class of the first one."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.more = 0

    def add(self, at: str, code: str, detail: str, **members: str | None) -> None:
        if self.full:
            self.more += 1
        else:
            self.entries.append(Entry(at, code, detail, **members))

    @property
    def full(self) -> bool:
        """Whether others are only counted: then nobody need describe them."""
        return len(self.entries) >= MAX_ENTRIES

    def end(self) -> None:
        if not self.entries:
            return
        kinds: dict[str, type[InvalidInput]] = {
            "shape-mismatch": ShapeMismatch,
            "dtype-mismatch": DtypeMismatch,
            "not-finite": NotFinite,
        }
        raise kinds.get(self.entries[0].code, ValidationFailed)(errors=self.entries, more=self.more)


def _array(rows: list[Any], spec: TensorSpec, *, at: str, limits: Limits) -> Raw:
    """Rows of numbers as an array of the input's dtype."""
    shape = _resolved(spec.shape[1:], rows[0])
    elements = len(rows) * math.prod(shape)
    if elements > limits.elements:
        raise _too_large("elements", "numbers", most=limits.elements, got=elements)
    if elements == 0:
        raise ShapeMismatch(
            errors=[
                Entry(f"{at}/0", "shape-mismatch", "A row may not be empty.", expected="one value or more", got="none")
            ]
        )
    mistakes = _Mistakes()
    flat: list[float] = []
    boolean = spec.dtype == "bool"
    for place, row in enumerate(rows):
        _flatten(row, shape, f"{at}/{place}", flat, mistakes, boolean=boolean, shown=spec.shape[1:])
    mistakes.end()
    array = _typed(flat, (len(rows), *shape), spec.dtype, at=at)
    return Raw(array, rows=rows, at=at)


def _is_picture(row: object) -> bool:
    return isinstance(row, str) or (isinstance(row, dict) and set(row) == {"image"})


def _pictures(rows: list[Any], image: ImageRow, spec: TensorSpec, *, at: str, limits: Limits) -> Raw:
    """Rows that are PNG or JPEG files in base64, as texts or as {"image": text}, or nested numbers."""
    elements = len(rows) * math.prod(image.shape)
    if elements > limits.elements:
        raise _too_large("elements", "numbers", most=limits.elements, got=elements)
    if not picture_files.available():
        detail = "This server cannot read pictures: Pillow is not installed."
        raise ValidationFailed(errors=[Entry(at, "extra-missing", detail, hint=picture_files.EXTRA)])
    mistakes = _Mistakes()
    numbers = np.zeros((len(rows), *image.shape), dtype=np.float64)
    for place, row in enumerate(rows):
        here = f"{at}/{place}"
        if not _is_picture(row):
            flat: list[float] = []
            before = len(mistakes.entries)
            _flatten(row, image.shape, here, flat, mistakes, boolean=False, shown=image.shape)
            if len(mistakes.entries) == before and not mistakes.more:
                numbers[place] = _typed(flat, (1, *image.shape), spec.dtype, at=here)[0]
            continue
        text = row["image"] if isinstance(row, dict) else row
        if not isinstance(text, str):
            mistakes.add(f"{here}/image", "dtype-mismatch", "Here a text is expected.", expected="base64 of a file")
            continue
        try:
            data = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
            numbers[place] = picture_files.read_picture(data, image)
        except picture_files.PictureRefused as refused:
            mistakes.add(here, refused.code, refused.detail, expected="a PNG or JPEG file in base64")
        except ValueError:
            mistakes.add(here, "bad-image", "This is not base64.", expected="a PNG or JPEG file in base64")
    mistakes.end()
    return Raw(numbers, rows=rows, at=at)


def _resolved(shape: Sequence[int | str], row: object) -> tuple[int, ...]:
    """Sizes of a row's shape; a symbol takes the size that the first row has there."""
    found = []
    for size in shape:
        if isinstance(size, str):
            size = len(row) if isinstance(row, list) else 1
        found.append(size)
        row = row[0] if isinstance(row, list) and row else None
    return tuple(found)


def _flatten(
    value: object,
    shape: tuple[int, ...],
    at: str,
    flat: list[float],
    mistakes: _Mistakes,
    *,
    boolean: bool,
    shown: Sequence[int | str],
) -> None:
    """Append the numbers of `value`, which must have `shape`, to `flat`; `shown` is the shape as the version has it."""
    allowed = {bool} if boolean else {int, float}
    if not shape:
        if type(value) in allowed:
            flat.append(value)  # type: ignore[arg-type]  # its type was just looked at
        else:
            _wrong_value(value, at, mistakes, boolean=boolean)
        return
    if type(value) is not list:
        mistakes.add(at, "shape-mismatch", "Here a list is expected.", expected=_shape_text(shown), got=shorten(value))
        return
    if len(value) != shape[0]:
        free = isinstance(shown[0], str)
        mistakes.add(
            at,
            "shape-mismatch",
            f"{_counted(len(value))}, but {shape[0]} {'is' if shape[0] == 1 else 'are'} expected"
            + (f": {shown[0]} is one size for all rows, and the first row has {shape[0]}." if free else "."),
            hint="Send rows of other sizes in another prediction, or pad them." if free else None,
            expected=_shape_text(shown),
            got=f"a list of {len(value)}",
        )
        return
    if len(shape) == 1:
        if set(map(type, value)) <= allowed:
            flat.extend(value)
            return
        wrong = [place for place, kind in enumerate(map(type, value)) if kind not in allowed]
        for place in wrong:
            if mistakes.full:
                mistakes.more += len(wrong) - wrong.index(place)
                return
            _wrong_value(value[place], f"{at}/{place}", mistakes, boolean=boolean)
        return
    for place, item in enumerate(value):
        _flatten(item, shape[1:], f"{at}/{place}", flat, mistakes, boolean=boolean, shown=shown[1:])


def _wrong_value(value: object, at: str, mistakes: _Mistakes, *, boolean: bool) -> None:
    if isinstance(value, list):
        mistakes.add(at, "shape-mismatch", "Here is a list.", expected="a single value", got=shorten(value))
    else:
        expected = "true or false" if boolean else "a number"
        mistakes.add(at, "dtype-mismatch", f"Here {expected} is expected.", expected=expected, got=shorten(value))


def _shape_text(shape: Sequence[int | str]) -> str:
    return f"a list of shape [{', '.join(map(str, shape))}]"


def _typed(flat: list[float], shape: tuple[int, ...], dtype: str, *, at: str) -> Array:
    """The numbers in the input's dtype, when each one fits it."""
    mistakes = _Mistakes()
    if dtype == "bool":
        return np.array(flat, dtype=np.bool_).reshape(shape)
    if dtype in _INTEGERS:
        low, high = _INTEGERS[dtype]
        for place, item in enumerate(flat):
            if low <= item <= high and item == int(item):
                continue
            if mistakes.full:
                mistakes.more += 1
            else:
                mistakes.add(
                    at + _place(place, shape),
                    "dtype-mismatch",
                    f"This number is no {dtype}.",
                    expected=f"a whole number from {low} to {high}",
                    got=shorten(item),
                )
        mistakes.end()
        return np.array([int(item) for item in flat], dtype=dtype).reshape(shape)
    highest = _FLOATS[dtype]
    try:
        array = np.array(flat, dtype=np.float64).reshape(shape)
    except OverflowError:
        array = np.array([item if abs(item) <= highest else np.inf for item in flat], dtype=np.float64).reshape(shape)
    bad = ~(np.abs(array) <= highest)
    if bad.any():
        places = np.flatnonzero(bad)
        mistakes.more = max(0, len(places) - MAX_ENTRIES)
        for place in places[:MAX_ENTRIES]:
            mistakes.add(
                at + _place(int(place), shape),
                "not-finite",
                f"This number is not a finite {dtype}.",
                expected=f"at most {highest:g} in size",
                got=shorten(flat[int(place)]),
            )
        mistakes.end()
    return array


def _place(index: int, shape: tuple[int, ...]) -> str:
    return "".join(f"/{part}" for part in np.unravel_index(index, shape))


def _table(rows: list[Any], table: TableRow, *, at: str) -> Raw:
    """Rows of named columns, as lists in the columns' order or as objects by name."""
    mistakes = _Mistakes()
    names = [column.name for column in table.columns]
    known = frozenset(names)
    texts = {column.name: column for column in table.texts}
    optional = frozenset(
        column.name for column in table.columns if not isinstance(column, TokensColumn) and column.optional
    )
    numbers = np.zeros((len(rows), len(table.numbers)), dtype=np.float64)
    codes = np.full((len(rows), table.codes), -1, dtype=np.int64)
    largest = float(np.finfo(np.float32).max)
    numeric = not texts
    for place, row in enumerate(rows):
        here = f"{at}/{place}"
        if type(row) is list:
            if len(row) != len(names):
                mistakes.add(
                    here,
                    "shape-mismatch",
                    f"{_counted(len(row))}, but {len(names)} {'is' if len(names) == 1 else 'are'} expected.",
                    expected=f"one value for each of {listed(names)}",
                    got=f"a list of {len(row)}",
                )
                continue
            values, where = row, None
        elif type(row) is dict:
            wrong = [name for name in row if name not in known]
            missing = [name for name in names if name not in row]
            for name in wrong:
                hint = None if mistakes.full else nearest_hint(name, names)
                mistakes.add(
                    pointer([name], here),
                    "unknown-member",
                    "There is no such column.",
                    hint=hint,
                    expected=f"the columns {listed(names)}",
                )
            for name in missing:
                mistakes.add(pointer([name], here), "missing", "This column is missing.", hint="Add it.")
            values, where = [row.get(name, _ABSENT) for name in names], names
        else:
            mistakes.add(
                here, "shape-mismatch", "A row is a list of values.", expected="a list or an object", got=shorten(row)
            )
            continue
        if numeric and set(map(type, values)) <= {int, float} and all(-largest <= value <= largest for value in values):
            numbers[place] = values
            continue
        number = text = 0
        for position, (name, value) in enumerate(zip(names, values, strict=True)):
            if value is _ABSENT:
                continue  # told above
            cell = pointer([where[position] if where else position], here)
            if name in texts:
                width = texts[name].codes
                if type(value) is str:
                    codes[place, text : text + width] = texts[name].encode(value)
                elif value is None and name not in optional:
                    mistakes.add(
                        cell,
                        "dtype-mismatch",
                        _no_value(name),
                        hint="Send a text. Only a version that was trained with gaps in this column does without.",
                        got="null",
                    )
                elif value is not None:
                    mistakes.add(
                        cell, "dtype-mismatch", f"Column {name!r} takes texts.", expected="a string", got=shorten(value)
                    )
                text += width
            else:
                if value is None and name in optional:
                    numbers[place, number] = np.nan
                elif value is None:
                    hint = "Send a number. Only a version that was trained with gaps in this column does without."
                    mistakes.add(cell, "dtype-mismatch", _no_value(name), hint=hint, got="null")
                elif type(value) not in (int, float):
                    mistakes.add(
                        cell,
                        "dtype-mismatch",
                        f"Column {name!r} takes numbers.",
                        hint=NULL_FOR_MISSING if name in optional else None,
                        expected="a number",
                        got=shorten(value),
                    )
                elif not -largest <= value <= largest:
                    mistakes.add(
                        cell,
                        "not-finite",
                        "This number is not a finite float32.",
                        expected=f"at most {largest:g} in size",
                        got=shorten(value),
                    )
                else:
                    numbers[place, number] = value
                number += 1
    mistakes.end()
    return Raw(numbers, codes if texts else None, rows, at)


def _counted(values: int) -> str:
    return "Here is one value" if values == 1 else f"Here are {values} values"


def _no_value(name: str) -> str:
    return f"Column {name!r} has no value, and this version needs one."
