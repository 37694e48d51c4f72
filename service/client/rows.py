"""What a caller has as rows of a request: lists as they are, numpy arrays, torch tensors, pandas tables.

Imports none of these libraries: who brings such a value has it loaded. Knows no request.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Final

import orjson

from service.client import refusals
from service.client.recipes import Task, are_classes
from service.errors import Entry, ServiceError, ValidationFailed, shorten
from service.schemas.document import nearest_hint


def rows_of(inputs: Any) -> Any:
    """Rows as values that become JSON: lists, objects by column name, arrays of numbers.

    A pandas table becomes one object a row, by the names of its columns. What has `__array__` becomes that array.
    NaN becomes null, which stands for a missing value where the version takes one.

    Args:
        inputs: rows; or an object with the rows of each input.
    """
    if isinstance(inputs, Mapping):
        return {str(name): rows_of(value) for name, value in inputs.items()}
    if is_table(inputs):
        return _records(inputs)
    if hasattr(inputs, "detach"):  # a tensor: its gradient stays where it is
        inputs = inputs.detach().cpu()
    if hasattr(inputs, "__array__"):
        return _array(inputs)
    if inputs is None or isinstance(inputs, (list, str, int, float)):
        return inputs  # what is no list of rows, the server says
    return list(inputs)


def no_rows(inputs: str | PathLike[str]) -> ServiceError:
    """The error where a text, such as the name of a file, stands in the place of rows."""
    way = f"Read a file first, as with pandas.read_csv({str(inputs)!r}); or ask with: modelyard predict MODEL FILE"
    return refusals.worded(ValidationFailed(f"Inputs are rows, and {shorten(str(inputs))} is a text.", hint=way))


def is_table(value: Any) -> bool:
    """Whether this is a pandas table."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def without(rows: Any, columns: Collection[str]) -> Any:
    """Objects by column name without some of these."""
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def unknown_columns(refused: ServiceError) -> list[str]:
    """The columns that a refusal of rows says there are none of."""
    return _named_by(refused, "unknown-member")


def missing_columns(refused: ServiceError) -> list[str]:
    """The columns that a refusal of rows says are missing."""
    return _named_by(refused, "missing")


def without_columns(refused: ServiceError, names: Sequence[str], known: Sequence[str]) -> ServiceError:
    """The refusal of a table that lacks columns, each named once, and not for every row."""
    entries = [
        Entry(
            f"/inputs/0/{name}", "missing", f"The table has no column {shorten(name)}.", hint=nearest_hint(name, known)
        )
        for name in names
    ]
    return refusals.worded(type(refused)("The table lacks columns that the model takes.", errors=entries))


def name_odd_cells(refused: ServiceError, rows: Sequence[Mapping[str, Any]]) -> None:
    """Name the cells of a table's columns of numbers that are none: one such makes texts of the whole column.

    Args:
        refused: what the server says of each cell, changed in place.
        rows: the table, as it was sent.
    """
    wrong = [entry for entry in refused.errors if entry.expected == "a number" and (entry.got or "")[:1] in ("'", '"')]
    if not wrong:
        return
    found = []
    for name in _columns_of(wrong):
        cells = [(place, row[name]) for place, row in enumerate(rows) if isinstance(row[name], str)]
        odd = [(place, cell) for place, cell in cells if not _is_number(cell)]
        first = next(entry for entry in wrong if _columns_of([entry]) == [name])
        if odd:
            first = replace(
                first, pointer=f"/inputs/{odd[0][0]}/{first.pointer.rpartition('/')[2]}", got=shorten(odd[0][1])
            )
        detail = f"{first.detail.removesuffix('.')}; {_odd_told(odd)}."
        found.append(replace(first, detail=detail, hint=_odd_remedy(name, odd), expected=None))
    refused.errors = (*found, *(entry for entry in refused.errors if entry not in wrong))
    refused.hint, refused.more = found[0].hint, 0  # more of these columns, for all that is known
    refusals.worded(refused)


def _odd_told(odd: Sequence[tuple[int, str]]) -> str:
    if not odd:
        return "all its cells are numbers, but as texts"
    told = ", ".join(f"row {place} has {shorten(cell)}" for place, cell in odd[:_NAMED])
    more = f", and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
    return f"counted from 0, {told}{more}"


def _odd_remedy(name: str, odd: Sequence[tuple[int, str]]) -> str:
    texts = list(dict.fromkeys(cell for _, cell in odd))
    if not odd:
        return f"pandas.to_numeric(table[{name!r}]) makes numbers of them."
    if len(texts) > _MOST_TEXTS or any(sign.isdigit() for text in texts for sign in text):
        return "Send numbers; pandas.read_csv has decimal=',' and thousands='.' for those with other marks."
    means = "that means" if len(texts) == 1 else "these mean"
    return f"If {means} no value, pass None, as pandas.read_csv(…, na_values={texts!r}) does."


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


_NAMED: Final = 3
"""Odd cells that are named with a column."""
_MOST_TEXTS: Final = 10
"""More different ones are hardly all words for a missing value."""


def _named_by(refused: ServiceError, code: str) -> list[str]:
    return _columns_of(entry for entry in refused.errors if entry.code == code)


def _columns_of(entries: Iterable[Entry]) -> list[str]:
    parts = (_OF_A_ROW.fullmatch(entry.pointer) for entry in entries)
    return list(dict.fromkeys(part[1].replace("~1", "/").replace("~0", "~") for part in parts if part is not None))


_OF_A_ROW: Final = re.compile(r"/inputs/[0-9]+/([^/]+)")


def lines_of(data: Any, target: str | None) -> tuple[bytes, str]:
    """Examples as JSON lines, and the name of the column that is to be learnt.

    Args:
        data: a pandas table, objects by column name, or a pair of inputs and targets: tables, arrays or lists.
        target: the column's name; of a pair without one the name of its second part, else `target`.

    Raises:
        ValueError: there is no such column, or the inputs are no rows of values.
    """
    if isinstance(data, tuple) and len(data) == 2:
        inputs, targets = data
        known = getattr(targets, "name", None) if hasattr(targets, "isna") else None
        target = target or ("target" if known is None else str(known))
        rows, values = _named(inputs), _values(targets)
        if len(rows) != len(values):
            raise ValueError(f"there are {len(rows)} rows of inputs and {len(values)} targets")
        if rows and target in rows[0]:
            raise ValueError(f"the inputs have a column {target!r} too; say another name as `target`")
        rows = [{**row, target: value} for row, value in zip(rows, values, strict=True)]
    else:
        rows = _named(data, numbered=False)
    if target is None:
        raise ValueError("say which column is to be learnt, as `target`")
    if not rows:
        raise ValueError("there are no rows")
    if target not in rows[0]:
        raise ValueError(f"there is no column {target!r}; there are {', '.join(map(repr, rows[0]))}")
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return b"".join(orjson.dumps(row, option=option, default=_plain) for row in rows), target


def archive_of(data: Any, task: Task = "auto") -> tuple[bytes, list[str] | None, Task] | None:
    """Examples as an .npz file of arrays `x` and `y`, the names of the classes that texts as targets are, and the task.

    None where the data are no pair whose inputs are an array, or a tensor, with rows of several dimensions. The task
    "auto" is decided here, since the targets of a net of numbers are of another shape than classes; but for targets of
    a shape, whose task the profile tells.

    Raises:
        ValueError: there are no rows, not as many targets, or targets without a value.
    """
    if not (isinstance(data, tuple) and len(data) == 2 and getattr(data[0], "ndim", 0) > 2):
        return None
    numpy = sys.modules["numpy"]  # or a tensor could not become an array
    inputs = numpy.asarray(rows_of(data[0]))
    targets = numpy.asarray(_values(data[1]))
    targets = targets.astype(int) if targets.dtype.kind == "b" else targets
    if len(inputs) != len(targets):
        raise ValueError(f"there are {len(inputs)} rows of inputs and {len(targets)} targets")
    if not len(inputs):
        raise ValueError("there are no rows")
    kind, classes = targets.dtype.kind, None
    if kind in "OSU":
        if any(value is None or value != value for value in targets.tolist()):
            raise ValueError("there are targets without a value; leave their rows out")
        names, targets = numpy.unique(targets.astype(str), return_inverse=True)
        classes = names.tolist()
    elif targets.ndim == 1 and kind in "iuf":
        if task == "auto":
            whole = bool((targets == numpy.floor(targets)).all())  # false of NaN too
            task = "classes" if whole and are_classes(targets.min().item(), targets.max().item()) else "numbers"
        if task == "numbers":
            targets = targets.reshape(-1, 1)  # [N, 1]: what a net of numbers answers
    content = io.BytesIO()
    numpy.savez(content, x=inputs, y=targets)
    return content.getvalue(), classes, task


def _named(inputs: Any, *, numbered: bool = True) -> list[dict[str, Any]]:
    """One object a row; columns without names are called x0, x1, …"""
    found = rows_of(inputs)
    found = found.tolist() if hasattr(found, "tolist") else found
    if isinstance(found, list) and all(isinstance(row, Mapping) for row in found):
        return [{str(name): value for name, value in row.items()} for row in found]
    if not numbered or not isinstance(found, list):
        raise ValueError(
            "data is a file, a pandas table, a list of objects by column name, or a pair of inputs, targets"
        )
    rows = [row if isinstance(row, list) else [row] for row in found]
    if any(isinstance(value, list) for row in rows for value in row[:1]):
        raise ValueError("a row of inputs is a list of values; make pictures and the like an array: numpy.asarray(…)")
    return [{f"x{place}": value for place, value in enumerate(row)} for row in rows]


def _values(targets: Any) -> list[Any]:
    """One target a row; a column of a single width is taken as its values."""
    found = rows_of(targets.tolist() if hasattr(targets, "isna") and not is_table(targets) else targets)
    if isinstance(found, list) and found and isinstance(found[0], Mapping):
        found = [list(row.values()) for row in found]
    found = found.tolist() if hasattr(found, "tolist") else list(found)
    return [value[0] if isinstance(value, list) and len(value) == 1 else value for value in found]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _records(table: Any) -> list[dict[str, Any]]:
    """One object a row; whatever pandas holds to be missing becomes None."""
    names = [str(name) for name in table.columns]
    columns = [
        [None if missing else _scalar(value) for value, missing in zip(column.tolist(), column.isna(), strict=True)]
        for column in (table.iloc[:, place] for place in range(len(names)))
    ]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _scalar(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _array(value: Any) -> Any:
    numpy = sys.modules["numpy"]  # an array that can be asked for has it loaded
    found = numpy.asarray(value)
    if found.ndim == 0:
        raise ValueError("rows are an array with one entry a row at least; this is a single number")
    found = numpy.ascontiguousarray(found)
    if found.dtype.kind not in "biuf":
        return found.tolist()
    return found.astype(found.dtype.newbyteorder("="), copy=False)
