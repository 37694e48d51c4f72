"""What every reader of foreign data makes (plain arrays, or a refusal), and the reader of inline JSON rows.

The readers of files are in modules of their own, one for each format. Knows no dataset folder, no split and no tensor.
Whatever is wrong is told with its place, at most 20 places at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, Literal, NoReturn

import numpy as np

from service.engine.mapped import Array, Shelf, pieces
from service.errors import MAX_ENTRIES, DatasetRefused, Entry, NotFinite, shorten
from service.schemas.datasets import Column, ImageRow, Inline, InputPart
from service.schemas.document import nearest_hint, pointer

MAX_COLUMNS: Final = 100_000
MAX_CELLS: Final = 2**28
MAX_CATEGORIES: Final = 10_000
MAX_TEXT: Final = 200
"""Longest category or class name, in characters."""
MAX_FIELD: Final = 65_536
"""Longest CSV field, in characters."""
MAX_LINE: Final = 2**24
MAX_MEMBERS: Final = 1024
MAX_RANK: Final = 7
NO_TARGET: Final = (
    'Fill it in, or write "unlabelled": "skip" in the source to leave such rows out: what is to be learnt must be '
    "known in every row."
)
"""What to do about a missing target."""
SKIP_UNLABELLED: Final = '{"unlabelled": "skip"}'
"""The member of a source that leaves such rows out, as JSON."""
FLOAT32_MAX: Final = float(np.finfo(np.float32).max)

MAX_BYTES: Final = 2**32
"""Of one array that a file holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What a source holds, as arrays by the names of a dataset's files; the other members are those of its manifest."""

    layout: Literal["table", "array"]
    columns: tuple[Column, ...]
    arrays: dict[str, Array]
    """`numeric` [rows, k] and `codes` [rows, m], or `inputs` [rows, …]; `targets` [rows, …] where there are any.

    With several inputs the first three have `-0`, `-1`, … behind their names. What else there may be: see the manifest.
    """
    row_shape: tuple[int, ...]
    target: Literal["number", "class"] | None = None
    target_flat: bool = False
    target_labels: bool = False
    classes: tuple[str, ...] | None = None
    image: ImageRow | None = None
    inputs: tuple[InputPart, ...] | None = None
    warnings: tuple[Entry, ...] = ()
    """What was read, and is odd."""


def nested_numbers(value: object, *, at: str) -> tuple[Array | None, list[Entry]]:
    """Nested lists of numbers as an array: int64 when all are whole, else float64.

    Returns:
        The array, or None and every mistake found (at most 20): ragged lists, what is no number, what is not finite or
        does not fit float32.
    """
    leaves, shape, found = _flatten(value, at=at)
    if found:
        return None, found
    kinds = set(map(type, leaves))
    if not kinds <= {int, float}:
        wrong = (i for i, leaf in enumerate(leaves) if type(leaf) not in (int, float))
        return None, [
            Entry(
                _place(i, shape, at), "wrong-type", "This is not a number.", expected="a number", got=shorten(leaves[i])
            )
            for i in islice(wrong, MAX_ENTRIES)
        ]
    try:
        array = np.array(leaves, dtype=np.int64 if kinds == {int} else np.float64)
    except OverflowError:  # an integer of more than 63 bits
        array = np.array([_as_float(leaf) for leaf in leaves])
    bad = np.flatnonzero(~(np.abs(array) <= FLOAT32_MAX)) if array.dtype == np.float64 else ()
    if len(bad):
        return None, [
            Entry(
                _place(int(i), shape, at), "not-finite", "This number is not finite in float32.", got=shorten(leaves[i])
            )
            for i in bad[:MAX_ENTRIES]
        ]
    return array.reshape(shape), []


def compact(array: Array) -> Array:
    """Floats as float32 where that loses nothing, else as they are."""
    return Shelf().compact(array)


def class_order(names: Iterable[str]) -> list[str]:
    """Class names in the order they have when nobody gave one: as numbers when all are whole numbers, else as texts."""
    names = list(names)
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def read_inline(source: Inline, *, at: str = "/source") -> Raw:
    """Rows that stood in the request.

    Raises:
        DatasetRefused: with a pointer to each mistake.
        NotFinite: the only mistakes are numbers that are not finite.
    """
    check_class_names(source.classes, at=at)
    found: list[Entry] = []
    rows = source.inputs
    as_table = source.columns is not None or (isinstance(rows[0], list) and any(isinstance(c, str) for c in rows[0]))
    read = _inline_table(source, at, found) if as_table else _inline_array(source, at, found)
    targets, kind, flat, classes = _inline_targets(source, at, found)
    if found or read is None:
        refuse(found)
    columns, arrays, row_shape = read
    if targets is not None and kind is not None:
        arrays["targets"] = compact(targets)
        columns = (*columns, target_column("y", targets, classes))
    return Raw("table" if as_table else "array", columns, arrays, row_shape, kind, flat, False, classes)


def _inline_array(
    source: Inline, at: str, found: list[Entry]
) -> tuple[tuple[Column, ...], dict[str, Array], tuple[int, ...]] | None:
    array, mistakes = nested_numbers(source.inputs, at=f"{at}/inputs")
    if array is None:
        found += mistakes
        return None
    row_shape = array.shape[1:]
    column = Column(name="x", role="input", dtype=dtype_of(array), shape=row_shape)
    return (column,), {"inputs": compact(array)}, row_shape


def _inline_table(
    source: Inline, at: str, found: list[Entry]
) -> tuple[tuple[Column, ...], dict[str, Array], tuple[int, ...]] | None:
    leaves, shape, mistakes = _flatten(source.inputs, at=f"{at}/inputs")
    if mistakes:
        found += mistakes
        return None
    if len(shape) != 2:
        hint = "Leave `columns` out for rows that are nested lists or single numbers."
        found.append(Entry(f"{at}/columns", "shape-mismatch", "Columns name the values of flat rows.", hint=hint))
        return None
    width = shape[1]
    names = source.columns or tuple(f"x{i}" for i in range(width))
    if len(names) != width:
        detail = f"{len(names)} columns are named, but a row has {width} values."
        found.append(Entry(f"{at}/columns", "shape-mismatch", detail))
        return None
    found += duplicates(names, at=f"{at}/columns")
    columns: list[Column] = []
    numbers: list[Array] = []
    codes: list[Array] = []
    for i, name in enumerate(names):
        cells = leaves[i::width]
        if isinstance(cells[0], str):
            wrong = [j for j, cell in enumerate(cells) if not isinstance(cell, str) or bad_text(cell)]
            if not wrong:
                categories = sorted(set(cells))
                if len(categories) > MAX_CATEGORIES:
                    found.append(too_many_categories(f"{at}/inputs", name))
                index = {category: code for code, category in enumerate(categories)}
                codes.append(np.array([index[cell] for cell in cells], dtype=np.int32))
                columns.append(Column(name=name, role="input", dtype="text", classes=tuple(categories)))
        else:
            wrong = [j for j, cell in enumerate(cells) if type(cell) not in (int, float)]
            if not wrong:
                array, mistakes = nested_numbers(cells, at="")
                found += [Entry(f"{at}/inputs{m.pointer}/{i}", m.code, m.detail, got=m.got) for m in mistakes]
                if array is not None:
                    numbers.append(array.astype(np.float64))
                    columns.append(Column(name=name, role="input", dtype=dtype_of(array)))
        expected = "a text" if isinstance(cells[0], str) else "a number"
        found += [
            Entry(
                f"{at}/inputs/{j}/{i}",
                "wrong-type",
                f"The first value of this column is {expected}, this one is not.",
                expected=expected if not isinstance(cells[j], str) else f"{expected} of 1 to {MAX_TEXT} characters",
                got=shorten(cells[j]),
            )
            for j in wrong[:MAX_ENTRIES]
        ]
    if found:
        return None
    arrays = {"numeric": compact(np.stack(numbers, axis=1))} if numbers else {}
    if codes:
        arrays["codes"] = np.stack(codes, axis=1)
    return tuple(columns), arrays, (width,)


def _inline_targets(
    source: Inline, at: str, found: list[Entry]
) -> tuple[Array | None, Literal["number", "class"] | None, bool, tuple[str, ...] | None]:
    targets = source.targets
    if targets is None:
        if source.classes is not None:
            found.append(Entry(f"{at}/classes", "invalid", "Classes were given, but no targets."))
        return None, None, False, None
    if len(targets) != len(source.inputs):
        detail = f"There are {len(source.inputs)} rows of inputs and {len(targets)} targets."
        found.append(Entry(f"{at}/targets", "shape-mismatch", detail, hint="Give one target for each row."))
        return None, None, False, None
    if not any(isinstance(target, str) for target in targets):
        array, mistakes = nested_numbers(targets, at=f"{at}/targets")
        found += mistakes
        if array is None or source.classes is None:
            return array, "number", array is not None and array.ndim == 1, None
        mistake = index_mistake(array, source.classes, at=f"{at}/targets")
        found += [mistake] if mistake else []
        return array.reshape(len(array)).astype(np.int64) if mistake is None else array, "class", False, source.classes
    wrong = [i for i, target in enumerate(targets) if not isinstance(target, str) or bad_text(target)]
    if wrong:
        found += [
            Entry(
                f"{at}/targets/{i}",
                "wrong-type",
                "Other targets are class names, this is none.",
                expected=f"a text of 1 to {MAX_TEXT} characters",
                got=shorten(targets[i]),
            )
            for i in wrong[:MAX_ENTRIES]
        ]
        return None, None, False, None
    classes = source.classes or tuple(class_order(set(targets)))
    index = {name: code for code, name in enumerate(classes)}
    unknown = [i for i, target in enumerate(targets) if target not in index]
    found += [
        Entry(
            f"{at}/targets/{i}",
            "unknown-class",
            "This class is not among `classes`.",
            hint=nearest_hint(targets[i], classes),
            got=shorten(targets[i]),
        )
        for i in unknown[:MAX_ENTRIES]
    ]
    codes = np.array([index.get(target, -1) for target in targets], dtype=np.int64)
    return codes, "class", False, classes


def refuse(found: Iterable[Entry], *, more: int = 0, because: Exception | None = None) -> NoReturn:
    """Raise for these mistakes, of which the first are told and the others counted.

    Args:
        found: the mistakes.
        more: mistakes beside them.
        because: what they were found by.

    Raises:
        NotFinite: all of them are inline numbers that are not finite.
        DatasetRefused: otherwise.
    """
    all_found = list(found)
    entries = all_found[:MAX_ENTRIES]
    more += len(all_found) - len(entries)
    if all(entry.code == "not-finite" and re.search(r"/[0-9]+$", entry.pointer) for entry in entries):
        raise NotFinite(errors=entries, more=more) from because
    message = f"The data cannot be read as a dataset: {entries[0].detail}"
    raise DatasetRefused(message, errors=entries, more=more) from because


def check_class_names(classes: Sequence[str] | None, *, at: str) -> None:
    """Refuse class names that stand twice."""
    if classes is not None and (found := duplicates(classes, at=f"{at}/classes")):
        refuse(found)


def duplicates(names: Sequence[str], *, at: str) -> list[Entry]:
    """An entry for each name that stood before."""
    if len(set(names)) == len(names):
        return []
    seen: set[str] = set()
    found = []
    for i, name in enumerate(names):
        if name in seen:
            found.append(Entry(f"{at}/{i}", "duplicate", f"{shorten(name)} stands twice."))
        seen.add(name)
    return found[:MAX_ENTRIES]


def folded(array: Array, shape: tuple[int, ...], *, at: str) -> Array:
    """Flat rows [N, k] as [N, *shape]."""
    width = math.prod(array.shape[1:])
    if width != math.prod(shape):
        detail = f"A row has {width} numbers, the shape {list(shape)} holds {math.prod(shape)}."
        refuse([Entry(f"{at}/shape", "shape-mismatch", detail)])
    return array.reshape(len(array), *shape)


def _flatten(value: object, *, at: str) -> tuple[list[Any], tuple[int, ...], list[Entry]]:
    """The leaves of nested lists in order, their shape, and the places where it is ragged or empty."""
    if type(value) is not list:
        return [value], (), []
    level: list[Any] = value
    shape: tuple[int, ...] = (len(value),)
    while level and type(level[0]) is list:
        if len(shape) == MAX_RANK:
            return [], shape, [Entry(at, "shape-mismatch", f"Lists are nested more than {MAX_RANK} deep.")]
        width = len(level[0])
        wrong = [i for i, part in enumerate(level) if type(part) is not list or len(part) != width]
        if wrong:
            return (
                [],
                shape,
                [_ragged(level[i], f"a list of {width}", _place(i, shape, at)) for i in wrong[:MAX_ENTRIES]],
            )
        level, shape = list(chain.from_iterable(level)), (*shape, width)
    if not level:
        return [], shape, [Entry(at, "shape-mismatch", "There are no numbers here.", got=f"shape {list(shape)}")]
    wrong = [i for i, part in enumerate(level) if type(part) is list]
    if wrong:
        return [], shape, [_ragged(level[i], "a single value", _place(i, shape, at)) for i in wrong[:MAX_ENTRIES]]
    return level, shape, []


def _ragged(part: object, expected: str, at: str) -> Entry:
    return Entry(at, "ragged", "All rows must have the same shape.", expected=expected, got=shorten(part))


def _place(index: int, shape: tuple[int, ...], at: str) -> str:
    if not shape:
        return at
    return pointer((int(i) for i in np.unravel_index(index, shape)), at)


def _as_float(leaf: int | float) -> float:
    try:
        return float(leaf)
    except OverflowError:
        return math.inf


def dtype_of(array: Array) -> Literal["float", "int"]:
    """What a column of these values is called: "int" when all are whole."""
    if array.dtype.kind in "iu" or all(_is_whole(array[part]) for part in pieces(array)):
        return "int"
    return "float"


def _is_whole(values: Array) -> bool:
    return bool((values == np.floor(values)).all() and (np.abs(values) <= 2**53).all())


def target_column(name: str, targets: Array, classes: tuple[str, ...] | None) -> Column:
    """The column that tells of a target."""
    if classes is not None:
        return Column(name=name, role="target", dtype="text", classes=classes)
    return Column(name=name, role="target", dtype=dtype_of(targets), shape=targets.shape[1:])


def index_mistake(targets: Array, classes: Sequence[str], *, at: str) -> Entry | None:
    """Why numbers cannot be indices into `classes`."""
    if math.prod(targets.shape[1:]) != 1:
        return Entry(at, "shape-mismatch", "With `classes`, a target is one class.", got=f"shape {list(targets.shape)}")
    if dtype_of(targets) != "int":
        return Entry(at, "wrong-type", "With `classes`, targets are whole numbers or class names.")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= len(classes):
        detail = f"Class {low if low < 0 else high} is not an index into the {len(classes)} classes."
        return Entry(at, "label-out-of-range", detail, expected=f"0 to {len(classes) - 1}")
    return None


def too_many_categories(at: str, name: str) -> Entry:
    """A text column is no category."""
    return Entry(
        at,
        "too-many-categories",
        f"Column {shorten(name)} has more than {MAX_CATEGORIES} different texts.",
        hint="Leave it out by naming the inputs, or name it in `free_text` for the step `tokens`.",
    )


def bad_text(text: str) -> tuple[str, str] | None:
    """Why a text cannot be a category, as code and sentence."""
    if not text.strip():
        return "missing-value", "A value is missing."
    if len(text) > MAX_FIELD:
        return "too-large", f"The field is longer than {MAX_FIELD} characters; is a quote left open?"
    if len(text) > MAX_TEXT:
        return "too-large", f"A category has at most {MAX_TEXT} characters; leave this column out of the inputs."
    if text.startswith("="):
        return "formula", f"{shorten(text)} is a formula, not a value."
    if not text.isprintable():
        return "bad-text", f"{shorten(text)} holds control characters."
    return None
