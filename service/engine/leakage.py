"""Whether rows that a net trains on are there again among those that judge it.

Rows are compared by their inputs: by a hash first, then number by number. Knows no preprocessing and no net.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from torch import Tensor

from service.engine.examples import Examples
from service.engine.mapped import PIECE, Array, pieces
from service.errors import Entry

SHOWN: Final = 5
"""Pairs that a warning names."""
_MANY: Final = 0.05
"""The share of a part's rows from which on doubles change its metrics much."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Rows of a held-out part whose inputs are those of a training row."""

    part: str
    count: int
    pairs: tuple[tuple[int, int], ...]
    """The first of them: row numbers of a training row and of its double."""

    def warning(self, held_out: int) -> Entry:
        """The leak as a warning.

        Args:
            held_out: how many rows the part has.
        """
        called = {"val": "validation", "test": "test"}[self.part]
        shown = ", ".join(f"{train} and {other}" for train, other in self.pairs)
        have = "has" if self.count == 1 else "have"
        effect = "the metrics will look better than they are"
        if self.count < _MANY * held_out:
            effect = "if these are doubles and no chance, the metrics look a little better than they are"
        some = f"{self.count} of the {held_out} {called} rows {have} the inputs of a training row (rows {shown})"
        hint = "Remove the doubles, or split by a column that keeps them on one side."
        return Entry("/split", "leakage", f"{some}: {effect}.", hint=hint)


def leakage(examples: Examples, rows: Mapping[str, Tensor]) -> list[Leak]:
    """The held-out parts that share rows with the training rows.

    Args:
        examples: the dataset.
        rows: row numbers of each part, as `split_rows` gives them.

    Returns:
        One leak for each part that has one.
    """
    if set(rows) == {"train"}:
        return []
    hashes = _hashes(examples)
    train = rows["train"].numpy()
    order = np.argsort(hashes[train], kind="stable")
    sorted_hashes = hashes[train][order]
    found = []
    for name in ("val", "test"):
        if name not in rows:
            continue
        part = rows[name].numpy()
        places = np.searchsorted(sorted_hashes, hashes[part])
        alike = np.flatnonzero(sorted_hashes[np.minimum(places, len(train) - 1)] == hashes[part])
        twins = train[order[places[alike]]]
        same = [_same(examples, twins[block], part[alike[block]]) for block in pieces(alike, numbers=4096)]
        real = np.flatnonzero(np.concatenate(same)) if same else np.empty(0, np.int64)
        if len(real):
            pairs = tuple(zip(twins[real[:SHOWN]].tolist(), part[alike[real[:SHOWN]]].tolist(), strict=True))
            found.append(Leak(name, len(real), pairs))
    return found


def doubles(examples: Examples) -> int:
    """How many rows have the inputs of an earlier row."""
    hashes = _hashes(examples)
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    same = [_same(examples, order[alike[block]], order[alike[block] + 1]) for block in pieces(alike, numbers=4096)]
    return int(sum(part.sum() for part in same))


def _hashes(examples: Examples) -> Array:
    """uint64 [rows]: equal rows have equal hashes. A sum of products with odd numbers, modulo 2^64."""
    found = np.zeros(examples.rows, dtype=np.uint64)
    generator = np.random.default_rng(0x5EED)
    with np.errstate(over="ignore"):
        for array in _arrays(examples):
            width = math.prod(array.shape[1:])
            if width == 0:
                continue
            factors = generator.integers(2**64, size=width, dtype=np.uint64) | np.uint64(1)
            for block in pieces(array, numbers=PIECE // 4):
                bits = _bits(array[block].reshape(-1, width))
                bits ^= bits >> np.uint64(29)  # the last digits of most floats are zeros
                found[block] += (bits * factors).sum(axis=1, dtype=np.uint64)
    for part in examples.inputs:
        for text in part.texts:
            for row, value in enumerate(text.rows()):
                found[row] = np.uint64((int(found[row]) * 31 + hash(value)) % 2**64)
    return found


def _bits(values: Array) -> Array:
    """uint64: the bits of numbers, in which 0 and −0 are the same."""
    if values.dtype.kind == "f":
        values = values.astype(np.float64) + 0.0
        return values.view(np.uint64).copy()
    return values.astype(np.int64).view(np.uint64)


def _same(examples: Examples, left: Array, right: Array) -> Array:
    """bool [n]: whether rows are equal, missing numbers included."""
    found = np.ones(len(left), dtype=bool)
    for array in _arrays(examples):
        one, other = array[left].reshape(len(left), -1), array[right].reshape(len(left), -1)
        equal = one == other
        if one.dtype.kind == "f":
            equal |= np.isnan(one) & np.isnan(other)
        found &= equal.all(axis=1)
    for part in examples.inputs:
        for text in part.texts:
            equal_texts = [a == b for a, b in zip(text.rows(left), text.rows(right), strict=True)]
            found &= np.array(equal_texts, dtype=bool)
    return found


def _arrays(examples: Examples) -> Sequence[Array]:
    return [array for part in examples.inputs for array in (part.numbers, part.codes) if array.shape[1:] != (0,)]
