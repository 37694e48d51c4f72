"""What a caller has as rows of a request: lists as they are, numpy arrays, torch tensors, pandas tables.

Imports none of these libraries: who brings such a value has it loaded. Knows no request.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def rows_of(inputs: Any) -> Any:
    """Rows as values that become JSON: lists, objects by column name, arrays of numbers.

    A pandas table becomes one object a row, by the names of its columns. What has `__array__` becomes that array.
    NaN becomes null, which stands for a missing value where the version takes one.

    Args:
        inputs: rows; or an object with the rows of each input.
    """
    if isinstance(inputs, Mapping):
        return {str(name): rows_of(value) for name, value in inputs.items()}
    if _is_table(inputs):
        return _records(inputs)
    if hasattr(inputs, "detach"):  # a tensor: its gradient stays where it is
        inputs = inputs.detach().cpu()
    if hasattr(inputs, "__array__"):
        return _array(inputs)
    if inputs is None or isinstance(inputs, (list, str, int, float)):
        return inputs  # what is no list of rows, the server says
    return list(inputs)


def _is_table(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


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
