"""A look at a stored dataset: its first rows, and per column the range, the mean and the distribution.

Answers are plain values for JSON. Knows no net.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.engine.examples import Examples, open_dataset
from service.engine.readers import Array
from service.schemas.datasets import Column, DatasetManifest

_BINS: Final = 20
_TOP: Final = 10
_PREVIEWED: Final = 200_000
"""Numbers in a preview; rows with more of them come in smaller numbers."""
_CHUNK: Final = 2**20


def preview(folder: Path, manifest: DatasetManifest, *, limit: int) -> dict[str, Any]:
    """The first rows as people gave them: `columns`, and `rows` with one value for each of them."""
    examples = open_dataset(folder, manifest)
    columns = [column for column in manifest.columns if column.role != "ignored"]
    width = max(1, math.prod(manifest.row_shape))
    count = min(limit, manifest.rows, max(1, _PREVIEWED // width))
    values = [_values(examples, column, place, count) for column, place in _placed(examples)]
    return {
        "columns": [column.model_dump(mode="json") for column in columns],
        "rows": [list(row) for row in zip(*values, strict=True)],
    }


def profile(folder: Path, manifest: DatasetManifest) -> dict[str, Any]:
    """`columns`, each with name, role, dtype, missing and, for numbers, min, max, mean, std and a histogram; for texts
    and classes the number of distinct ones and the most frequent. An array is one column of all its elements."""
    examples = open_dataset(folder, manifest)
    return {"columns": [_profiled(examples, column, place) for column, place in _placed(examples)]}


def _placed(examples: Examples) -> Iterator[tuple[Column, int]]:
    """Inputs and target, each with its place in `numbers` or `codes`; ignored columns are not stored."""
    numbers = texts = 0
    for column in examples.manifest.columns:
        if column.role == "input" and column.dtype == "text":
            yield column, texts
            texts += 1
        elif column.role == "input":
            yield column, numbers
            numbers += 1
        elif column.role == "target":
            yield column, 0


def _stored(examples: Examples, column: Column, place: int) -> Array:
    """[rows, …] of one column: numbers, or codes into its classes."""
    if column.role == "target":
        return examples.targets if examples.targets is not None else np.empty(0)
    if column.dtype == "text":
        return examples.codes[:, place]
    return examples.numbers if examples.manifest.layout == "array" else examples.numbers[:, place]


def _values(examples: Examples, column: Column, place: int, count: int) -> list[Any]:
    stored = _stored(examples, column, place)[:count]
    if column.classes is not None:
        return [column.classes[code] for code in stored]
    return (stored.astype(np.int64) if column.dtype == "int" else stored).tolist()


def _profiled(examples: Examples, column: Column, place: int) -> dict[str, Any]:
    stored = _stored(examples, column, place)
    found: dict[str, Any] = {"name": column.name, "role": column.role, "dtype": column.dtype, "missing": 0}
    if column.classes is not None:
        counts = np.bincount(stored, minlength=len(column.classes))
        order = np.argsort(-counts, kind="stable")[:_TOP]
        found["distinct"] = int((counts > 0).sum())
        found["top"] = [{"value": column.classes[i], "count": int(counts[i])} for i in order if counts[i]]
        return found
    return found | _summary(stored)


def _summary(values: Array) -> dict[str, Any]:
    """Two passes in pieces, so that a mapped array is never in memory as a whole."""
    low, high, total = math.inf, -math.inf, 0.0
    for piece in _pieces(values):
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        total += float(piece.sum(dtype=np.float64))
    mean = total / values.size
    squares = 0.0
    counts, edges = np.zeros(_BINS, dtype=np.int64), np.histogram_bin_edges([low, high], bins=_BINS)
    for piece in _pieces(values):
        numbers = piece.astype(np.float64)
        squares += float(np.square(numbers - mean).sum())
        counts += np.histogram(numbers, bins=edges)[0]
    return {
        "min": low,
        "max": high,
        "mean": mean,
        "std": math.sqrt(squares / values.size),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _pieces(values: Array) -> Iterator[Array]:
    step = max(1, _CHUNK // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), step):
        yield values[start : start + step]
