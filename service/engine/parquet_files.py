"""The reader of Parquet files, batch by batch with pyarrow, which is an extra and is imported only here.

Knows no dataset folder and no tensor. The file's own account of its rows and sizes is checked before anything is
decoded; integers, floats, booleans, texts and times are read, nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.engine.mapped import Array, Shelf
from service.engine.readers import FLOAT32_MAX, MAX_COLUMNS, Raw, refuse
from service.engine.tables import TableColumn, assembled, check_rows, chosen, name_mistakes, unlabelled
from service.errors import MAX_ENTRIES, Entry, shorten
from service.schemas.datasets import Parquet

_MOST_DECODED: Final = 2**30
"""Bytes of one row group, which pyarrow decodes as a whole in the worst case."""


def read_parquet(path: Path, source: Parquet, *, at: str = "/source", shelf: Shelf | None = None) -> Raw:
    """A Parquet file of flat columns.

    Raises:
        DatasetRefused: pyarrow is not installed, the file is damaged or too large, or columns are of other types; with
            row and column of each mistake.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        detail = "This server cannot read Parquet: pyarrow is not installed."
        hint = "Install modelyard[parquet] on the server, or send a CSV file."
        refuse([Entry(f"{at}/type", "extra-missing", detail, hint=hint)], because=error)
    shelf = shelf or Shelf()
    pa.set_memory_pool(pa.system_memory_pool())  # the others take address space that our limit counts
    rows = 0
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            about = file.metadata
            names = [str(name) for name in file.schema_arrow.names]
            if len(names) > MAX_COLUMNS:
                refuse([Entry(f"{at}/upload", "too-large", f"The file has more than {MAX_COLUMNS} columns.")])
            if about.num_rows == 0:
                refuse([Entry(f"{at}/upload", "no-rows", "The file has no rows.")])
            check_rows(about.num_rows, len(names), at=at)
            for group in range(about.num_row_groups):
                if about.row_group(group).total_byte_size > _MOST_DECODED:
                    detail = f"Row group {group} has more than {_MOST_DECODED} bytes once it is decoded."
                    hint = "Write the file with smaller row groups, for example row_group_size=100000."
                    refuse([Entry(f"{at}/upload", "too-large", detail, hint=hint)])
            if found := name_mistakes(names, at=at, where="schema"):
                refuse(found)
            columns = chosen(names, source, shelf, at=at)
            types = {column.name: _kind(file.schema_arrow.field(column.name).type, column, at) for column in columns}
            mistakes = [kind for kind in types.values() if isinstance(kind, Entry)]
            if mistakes:
                refuse(mistakes[:MAX_ENTRIES])
            keep = source.missing == "keep"
            left_out = unlabelled(source)
            kept = 0
            wanted = [column.name for column in columns]
            size = max(1, min(65_536, 2_000_000 // max(1, len(wanted))))
            for batch in file.iter_batches(batch_size=size, columns=wanted, use_threads=False):
                told: list[Entry] = []
                places = np.arange(rows, rows + batch.num_rows)
                rows += batch.num_rows
                if left_out.target is not None:
                    labelled = _has_value(batch.column(left_out.target), str(types[left_out.target]))
                    left_out.skip(places[~labelled].tolist())
                    batch, places = batch.filter(pa.array(labelled)), places[labelled]
                kept += len(places)
                for column in columns if len(places) else ():
                    cells = batch.column(column.name)
                    _add(column, str(types[column.name]), cells, places, keep and column.role != "target", told, at)
                if told:
                    refuse(told[:MAX_ENTRIES])
                check_rows(kept, len(names), at=at)
            left_out.refuse_all(kept, at=at)
            raw = assembled(source, columns, names, shelf, at=at)
            return replace(raw, warnings=left_out.warnings(kept, at=at, word="row"))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        detail = f"The Parquet file is damaged: {shorten(str(error).splitlines()[0] if str(error) else 'unreadable')}."
        refuse([Entry(f"{at}/upload", "bad-archive", detail)], because=error)


def _kind(kind: Any, column: TableColumn, at: str) -> str | Entry:
    """Whether cells of this Arrow type are numbers, texts or times for the column, or why they are not read."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        column.turn() if not column.is_text else None
        return "text"
    if column.free or (column.role == "target" and column.is_text and not types.is_integer(kind)):
        detail = f"Column {shorten(column.name)} is of the type {kind}; texts are expected."
        return Entry(f"{at}/upload", "wrong-type", detail, expected="string", got=str(kind))
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "text" if column.is_text else "number"
    if column.role == "kept" and (types.is_timestamp(kind) or types.is_date(kind)):
        column.turn()
        return "time"
    hint = "Name it in `kept` for a split by time." if types.is_temporal(kind) else "Leave it out of the inputs."
    detail = f"Column {shorten(column.name)} is of the type {kind}, which is not read."
    return Entry(f"{at}/upload", "wrong-type", detail, hint=hint, expected="numbers or texts", got=shorten(str(kind)))


def _has_value(cells: Any, kind: str) -> Array:
    """Which cells [rows] of a target are there: neither null nor NaN nor an empty text."""
    from pyarrow import types

    if types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if kind == "number":
        return ~np.isnan(_numbers(cells))
    return np.array([each is not None and bool(str(each).strip()) for each in cells.to_pylist()], dtype=bool)


def _add(column: TableColumn, kind: str, cells: Any, rows: Array, keep: bool, found: list[Entry], at: str) -> None:
    """Give the cells of one batch to a column; `rows` are their numbers in the file."""
    from pyarrow import types

    where = f"{at}/upload"
    name = shorten(column.name)
    if kind in ("text", "time"):
        values = cells.to_pylist()
        texts = [None if each is None else each.isoformat() if kind == "time" else str(each) for each in values]
        if kind == "text":
            texts = [None if text is None or (keep and not text.strip()) else text for text in texts]
        if not keep:
            lacking = [row for row, text in zip(rows.tolist(), texts, strict=True) if text is None]
            found += [column.lacks_value(f"row {row}", at=where) for row in lacking[:MAX_ENTRIES]]
            texts = ["-" if text is None else text for text in texts]  # told above
        column.add_texts(texts, [f"row {row}" for row in rows.tolist()], found, at=where)
        return
    if types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    numbers: Array = _numbers(cells)
    absent = np.isnan(numbers)
    if not keep:
        found += [column.lacks_value(f"row {row}", at=where) for row in rows[absent][:MAX_ENTRIES].tolist()]
    for i in np.flatnonzero(~absent & ~(np.abs(numbers) <= FLOAT32_MAX))[:MAX_ENTRIES].tolist():
        detail = f"row {rows[i]}, column {name}: {numbers[i]} is not a finite float32 number."
        found.append(Entry(where, "not-finite", detail))
    column.add_numbers(numbers)


def _numbers(cells: Any) -> Array:
    """float64, NaN where there is no value."""
    import pyarrow as pa

    if cells.type == pa.bool_():
        cells = cells.cast(pa.int8())
    found: Array = cells.to_numpy(zero_copy_only=False).astype(np.float64)
    if cells.null_count:
        found[cells.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return found
