"""A look at a stored dataset: its first rows, per column the range, the mean and the distribution, and what may trouble
a training.

Answers are plain values for JSON. Knows no net.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.engine.examples import Examples, open_dataset
from service.engine.leakage import doubles
from service.engine.mapped import Array, pieces
from service.errors import Entry, shorten
from service.schemas.datasets import Column, DatasetManifest

_BINS: Final = 20
_TOP: Final = 10
_PREVIEWED: Final = 200_000
"""Numbers in a preview; rows with more of them come in smaller numbers."""
_SHOWN: Final = 1000
"""Characters of a free text in a preview."""
_MANY_MISSING: Final = 0.3
_MANY_CATEGORIES: Final = 0.5
_FEW_CATEGORIES: Final = 50
_LARGE: Final = 30.0
_IMBALANCE: Final = 10
_LOOKED_THROUGH: Final = 2**28
"""Bytes of a dataset whose rows are compared with each other; of a larger one's numbers, a sample is looked at."""
_SAMPLED: Final = 2**26
"""Bytes of such a sample, about, in `_BLOCKS` blocks of rows that lie evenly from the first to the last."""
_BLOCKS: Final = 64


def is_large(low: float, high: float) -> bool:
    """Whether numbers between these are of a size on which nets train badly."""
    return max(-low, high) > _LARGE


def are_many(distinct: int, rows: int) -> bool:
    """Whether so many different texts in so many rows are hardly categories."""
    return distinct > max(_FEW_CATEGORIES, _MANY_CATEGORIES * rows)


def preview(folder: Path, manifest: DatasetManifest, *, limit: int) -> dict[str, Any]:
    """The first rows as people gave them: `columns`, and `rows` with one value for each of them, None for a missing
    one."""
    examples = open_dataset(folder, manifest)
    placed = list(_placed(examples))
    width = sum(max(1, math.prod(part.manifest.row_shape)) for part in examples.inputs)
    count = min(limit, manifest.rows, max(1, _PREVIEWED // width))
    values = [_values(part, column, place, count) for part, column, place in placed]
    return {
        "columns": [column.model_dump(mode="json", exclude={"missing", "input"}) for _, column, _ in placed],
        "rows": [list(row) for row in zip(*values, strict=True)],
    }


def profile(folder: Path, manifest: DatasetManifest) -> dict[str, Any]:
    """What there is to know about a dataset before it is used.

    Returns:
        `columns`, each with name, role, dtype, missing and, for numbers, min, max, mean, std and a histogram; for texts
        and classes the number of distinct ones and the most frequent; for free text its lengths in characters. An array
        is one column of all its elements. `sampled`, how many rows the numbers are from where these are too many to
        look at all, else None; counts of missing values, texts and classes are of all rows even so. A target of
        classes, or of few whole numbers, has `rare`: the `count` of those that one row alone has, and the first ten as
        `values`. `warnings`, each an entry with a hint: what to add to the request.
    """
    examples = open_dataset(folder, manifest)
    sample = _sample(manifest)
    columns = [_profiled(part, column, place, sample) for part, column, place in _placed(examples)]
    return {
        "columns": columns,
        "sampled": None if sample is None else sum(block.stop - block.start for block in sample),
        "warnings": [warning.to_dict() for warning in _warnings(examples, columns)],
    }


def _sample(manifest: DatasetManifest) -> list[slice] | None:
    """Blocks of rows that stand for all of a large dataset; None where all are looked at."""
    rows = manifest.rows
    if manifest.size_bytes <= _LOOKED_THROUGH or rows <= _BLOCKS:
        return None
    length = max(1, rows * _SAMPLED // manifest.size_bytes // _BLOCKS)
    starts = np.linspace(0, rows - length, _BLOCKS, dtype=np.int64).tolist()
    return [slice(start, start + length) for start in starts]


def _placed(examples: Examples) -> Iterator[tuple[Examples, Column, int]]:
    """Inputs, target and kept columns, each with its place among those of its kind; ignored ones are not stored."""
    counts: Counter[tuple[str | None, str]] = Counter()
    parts = dict(examples.parts)
    for column in examples.manifest.columns:
        if column.role == "ignored":
            continue
        kind = "free" if column.free else "text" if column.dtype == "text" else "number"
        key = (column.input, f"{column.role} {kind}")
        yield parts.get(column.input or "", examples), column, counts[key]
        counts[key] += 1


def _stored(examples: Examples, column: Column, place: int) -> Array:
    """[rows, …] of one column: numbers, or codes into its classes."""
    empty = np.empty(0)
    if column.role == "target":
        return examples.targets if examples.targets is not None else empty
    if column.role == "kept":
        kept = examples.kept_codes if column.dtype == "text" else examples.kept
        return empty if kept is None else kept[:, place]
    if column.dtype == "text":
        return examples.codes[:, place]
    return examples.numbers if examples.manifest.layout == "array" else examples.numbers[:, place]


def _values(examples: Examples, column: Column, place: int, count: int) -> list[Any]:
    if column.free:
        return [text[:_SHOWN] for text in examples.text(column.name, np.arange(count))]
    stored = _stored(examples, column, place)[:count]
    if column.classes is not None:
        return [column.classes[code] if code >= 0 else None for code in stored.tolist()]
    if column.dtype == "time":
        return [datetime.fromtimestamp(value, UTC).isoformat() if value == value else None for value in stored.tolist()]
    if stored.ndim == 1 and stored.dtype.kind == "f" and np.isnan(stored).any():
        return [None if math.isnan(value) else value for value in stored.tolist()]
    return (stored.astype(np.int64) if column.dtype == "int" else stored).tolist()


def _profiled(examples: Examples, column: Column, place: int, sample: Sequence[slice] | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": column.name,
        "role": column.role,
        "dtype": column.dtype,
        "missing": column.missing or 0,
    }
    if column.free:
        ends = examples.texts[place].ends
        return found | _summary(np.diff(ends, prepend=0))
    stored = _stored(examples, column, place)
    if column.role == "target" and column.dtype != "float" and stored.size == examples.rows:
        found |= _rare(stored, column.classes)
    if column.classes is not None:
        counts = np.bincount(stored[stored >= 0], minlength=len(column.classes))
        order = np.argsort(-counts, kind="stable")[:_TOP]
        found["distinct"] = int((counts > 0).sum())
        found["top"] = [{"value": column.classes[i], "count": int(counts[i])} for i in order if counts[i]]
        return found
    if sample is not None and len(stored) == examples.rows:
        stored = np.concatenate([stored[block] for block in sample])
    return found | _summary(stored)


def _rare(targets: Array, classes: Sequence[str] | None) -> dict[str, Any]:
    """The classes, or the whole numbers if these may be classes, that one row alone has."""
    values, counts = np.unique(np.asarray(targets).reshape(-1), return_counts=True)
    if classes is None and len(values) > _FEW_CATEGORIES:
        return {}
    single = values[counts == 1].astype(np.int64)
    named = [str(value) if classes is None else classes[value] for value in single[:_TOP].tolist()]
    return {"rare": {"count": len(single), "values": named}}


def _summary(values: Array) -> dict[str, Any]:
    """Two passes in pieces, so that a mapped array is never in memory as a whole; missing numbers are passed over."""
    low, high, total, count = math.inf, -math.inf, 0.0, 0
    for piece in _pieces(values):
        if piece.size:
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
            total += float(piece.sum(dtype=np.float64))
            count += piece.size
    if not count:
        return {"min": None, "max": None, "mean": None, "std": None, "histogram": {"edges": [], "counts": []}}
    mean = total / count
    squares = 0.0
    edges = _edges(low, high)
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    for piece in _pieces(values):
        numbers = piece.astype(np.float64)
        squares += float(np.square(numbers - mean).sum())
        counts += np.histogram(numbers, bins=edges)[0]
    return {
        "min": low,
        "max": high,
        "mean": mean,
        "std": math.sqrt(squares / count),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _edges(low: float, high: float) -> Array:
    """The edges of the bins of a histogram: fewer than usual where so many numbers do not lie in the range."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    if low == high:  # so large that the half is lost
        low, high = np.nextafter(low, -math.inf), np.nextafter(high, math.inf)
    return np.unique(np.linspace(low, high, _BINS + 1))


def _warnings(examples: Examples, columns: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    """What is likely to spoil a training, and what to write into the request."""
    manifest = examples.manifest
    rows = manifest.rows
    told = [column for column in manifest.columns if column.role != "ignored"]
    inputs = [(i, found) for i, found in enumerate(columns) if found["role"] == "input"]
    for i, found in inputs:
        at, name = f"/columns/{i}", shorten(found["name"])
        if found["missing"] >= _MANY_MISSING * rows:
            share = found["missing"] / rows
            detail = f"{share:.0%} of the rows have no value in column {name}."
            hint = 'Leave the column out of the inputs, or fill it with {"type": "impute"} and expect little of it.'
            yield Entry(at, "many-missing", detail, hint=hint)
        distinct = found.get("distinct")
        if distinct == 1 or (distinct is None and found["min"] == found["max"] and not told[i].free):
            which = "all rows" if _sample(manifest) is None else "all rows that were looked at"
            detail = f"Column {name} has one value in {which}; a net can learn nothing from it."
            yield Entry(at, "constant-column", detail, hint="Leave it out by naming the inputs.")
        elif distinct is not None and are_many(distinct, rows):
            detail = f"Column {name} has {distinct} different texts in {rows} rows: one_hot makes a number of each."
            hint = (
                'Leave it out by naming the inputs; use {"type": "vocabulary"} with an Embedding; or, for sentences, '
                f'"free_text": [{json.dumps(found["name"][:60], ensure_ascii=False)}] and {{"type": "tokens"}}.'
            )
            yield Entry(at, "too-many-categories", detail, hint=hint)
    yield from _scale_warnings(told, inputs)
    yield from _class_warnings(examples, columns)
    doubled = _doubled(examples)
    if doubled:
        detail = f"{doubled} of {rows} rows have the same inputs as another row."
        hint = "Remove the doubles, or a random split puts the same row on both sides."
        yield Entry("", "duplicate-rows", detail, hint=hint)


def _scale_warnings(told: Sequence[Column], inputs: Sequence[tuple[int, Mapping[str, Any]]]) -> Iterator[Entry]:
    large = [
        (i, found)
        for i, found in inputs
        if told[i].dtype != "text" and found["max"] is not None and is_large(found["min"], found["max"])
    ]
    if not large:
        return
    i, found = large[0]
    several = f" and {len(large) - 1} more" if len(large) > 1 else ""
    reach = f"{found['min']:.6g} to {found['max']:.6g}"
    detail = f"Column {shorten(found['name'])}{several}: numbers from {reach}. Nets train badly on inputs of that size."
    image = len(told[i].shape) == 3 and found["min"] >= 0 and found["max"] <= 255
    hint = f'Add {{"type": "{"normalize" if image else "standardize"}"}} to `preprocessing`.'
    yield Entry(f"/columns/{i}", "unscaled-inputs", detail, hint=hint)


def _class_warnings(examples: Examples, columns: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    place = next((i for i, found in enumerate(columns) if found["role"] == "target"), None)
    if place is None or examples.targets is None or examples.targets.size != examples.rows:
        return
    column = [column for column in examples.manifest.columns if column.role != "ignored"][place]
    if column.dtype == "float" or (column.classes is None and not examples.manifest.target_labels):
        return
    values, counts = np.unique(np.asarray(examples.targets).reshape(-1), return_counts=True)
    if len(values) > max(2, examples.rows // 10):
        return  # numbers to be met rather than classes
    rare, common = int(counts.argmin()), int(counts.argmax())

    def name(index: int) -> str:
        return shorten(column.classes[int(values[index])] if column.classes else str(values[index]))

    empty = [label for i, label in enumerate(column.classes or ()) if i not in values]
    if empty:
        detail = f"No row is of the class {shorten(empty[0])}; the net cannot learn it."
        yield Entry(f"/columns/{place}", "empty-class", detail, hint="Leave it out of `classes`, or add rows of it.")
    if len(values) > 1 and counts[common] >= _IMBALANCE * counts[rare]:
        detail = f"{counts[common]} rows are of the class {name(common)}, {counts[rare]} of the class {name(rare)}."
        hint = (
            'Use {"type": "stratified"} as split and "weight": "balanced" in the objective, and judge by more than '
            "accuracy."
        )
        yield Entry(f"/columns/{place}", "class-imbalance", detail, hint=hint)


def _doubled(examples: Examples) -> int:
    """Rows whose inputs an earlier row has; 0 for datasets that are too large to look."""
    if examples.manifest.size_bytes > _LOOKED_THROUGH:
        return 0
    return doubles(examples)


def _pieces(values: Array) -> Iterator[Array]:
    for part in pieces(values):
        piece = values[part]
        yield piece[~np.isnan(piece)] if piece.dtype.kind == "f" and np.isnan(piece).any() else piece
