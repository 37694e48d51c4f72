"""How the rows that are asked differ from those that a version was trained on.

Whole batches are compared with the training range and, where a version standardizes its raw rows, with their means;
what is seen is added up elsewhere. Names come from the version and there are few of them. Knows no request and no
metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from service.engine.predictor import Rows
from service.schemas.preprocessing import (
    ArrayRow,
    FittedNumbers,
    FittedStandardize,
    FittedStep,
    Preprocessing,
    TableRow,
    TextColumn,
    TokensColumn,
    TrainingRange,
)

Array = npt.NDArray[Any]

MOST_INPUTS: Final = 16
"""Columns that are told apart; those that come later are told together."""
OTHER: Final = "other"
_FARTHEST: Final = 100.0
"""Standard deviations; what lies farther counts as this."""
_SAMPLED: Final = 16
"""The means of one batch in so many are taken."""


class Seen(NamedTuple):
    """What was seen of one batch.

    Args:
        outside: by input the rows in which it lies outside the training range, or is an unknown text.
        shifts: by input the mean distance of its rows from the training mean, in training standard deviations.
        rows: of which the shifts are means.
    """

    outside: dict[str, int]
    shifts: dict[str, float]
    rows: int


class Drift:
    """Compares the rows of one version. A call for rows that are like those of training costs next to nothing.

    Args:
        preprocessing: what is stored of the training rows.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        known = preprocessing.inputs
        if known is not None:
            self._parts = [_Part(one.name, one.row, one.steps, one.training_range) for one in known]
        elif preprocessing.row is not None:
            self._parts = [_Part("", preprocessing.row, preprocessing.steps, preprocessing.training_range)]
        else:
            self._parts = []
        names = [name for part in self._parts for name in part.names]
        told = {name: name if place < MOST_INPUTS else OTHER for place, name in enumerate(dict.fromkeys(names))}
        for part in self._parts:
            part.names = [told[name] for name in part.names]
        self._centred = any(part.centred is not None for part in self._parts)
        self._turn = 0

    def look(self, rows: Sequence[Rows], *, familiar: bool) -> Seen | None:
        """Compare the raw rows of one batch; None where there is nothing to tell.

        Args:
            rows: of each input.
            familiar: no value is outside, which was looked at already.
        """
        self._turn += 1
        sampled = self._centred and self._turn % _SAMPLED == 1
        if familiar and not sampled:
            return None
        outside: dict[str, int] = {}
        shifts: dict[str, float] = {}
        for part, given in zip(self._parts, rows, strict=False):
            if not familiar:
                for name, count in part.outside(given):
                    outside[name] = outside.get(name, 0) + count
            if sampled:
                for name, shift in part.shifts(given.numbers):
                    if abs(shift) >= abs(shifts.get(name, 0.0)):  # of those that are told together, the farthest
                        shifts[name] = shift
        return Seen(outside, shifts, len(rows[0].numbers))


class _Part:
    """One input: the names of what is told apart in it, and the statistics of the training rows."""

    def __init__(
        self,
        name: str,
        row: TableRow | ArrayRow,
        steps: Sequence[FittedStep],
        limits: TrainingRange | None,
    ) -> None:
        self._low = None if limits is None else np.asarray(limits.low)
        self._high = None if limits is None else np.asarray(limits.high)
        front = f"{name}." if name else ""
        self._texts: list[tuple[int, str]] = []
        if isinstance(row, TableRow):
            numbers = list(row.numbers)
            self.names = [front + one for one in numbers]
            self._apart = True
            code = 0
            for text in row.texts:
                if isinstance(text, TextColumn):
                    self._texts.append((code, front + text.name))
                code += text.codes if isinstance(text, TokensColumn) else 1
        else:
            width = int(np.prod(row.row_shape, dtype=np.int64))
            numbers = []
            self._apart = width <= MOST_INPUTS
            self.names = [f"{front}{place}" for place in range(width)] if self._apart else [name or "x"]
        self._count = len(self.names)
        self.names += [name for _, name in self._texts]
        self.centred = _centred(steps, numbers, self._count) if self._apart and self._count else None

    def outside(self, given: Rows) -> list[tuple[str, int]]:
        """By input, the rows in which it is unlike those of training; only where there are any."""
        found: list[tuple[str, int]] = []
        if self._low is not None and self._high is not None:
            flat = given.numbers.reshape(len(given.numbers), -1)
            beyond = (flat < self._low) | (flat > self._high)
            counts = beyond.sum(axis=0) if self._apart else np.array([beyond.any(axis=1).sum()])
            found += [(name, count) for name, count in zip(self.names, counts.tolist(), strict=False) if count]
        if given.codes is not None:
            for place, (code, _) in enumerate(self._texts):
                count = int((given.codes[:, code] < 0).sum())
                if count:
                    found.append((self.names[self._count + place], count))
        return found

    def shifts(self, numbers: Array) -> list[tuple[str, float]]:
        """By input, how far the rows' mean is from that of training, in its standard deviations."""
        if self.centred is None:
            return []
        places, mean, std = self.centred
        flat = numbers.reshape(len(numbers), -1)[:, places].astype(np.float64, copy=False)
        gaps = np.isnan(flat)  # where a number may be missing
        if gaps.any():
            flat = np.where(gaps, mean, flat)
        far = np.clip((flat - mean) / std, -_FARTHEST, _FARTHEST)  # one absurd value is not to be told for days
        shift = far.mean(axis=0)
        return [(self.names[place], value) for place, value in zip(places, shift.tolist(), strict=True)]


def _centred(steps: Sequence[FittedStep], columns: Sequence[str], count: int) -> tuple[list[int], Array, Array] | None:
    """The numbers whose raw mean and standard deviation a version knows: those that it standardizes first of all."""
    touched: set[int] = set()
    known: dict[int, tuple[float, float]] = {}
    for step in steps:
        if not isinstance(step, FittedNumbers):
            continue
        named = None if step.columns is None else [columns.index(name) for name in step.columns]
        places = range(count) if named is None else named
        if isinstance(step, FittedStandardize) and len(step.mean) in (1, len(places)):
            for at, place in enumerate(places):
                if place not in touched:
                    pick = at if len(step.mean) > 1 else 0
                    known[place] = step.mean[pick], step.std[pick]
        if step.type != "impute":  # which leaves the numbers that are there as they are
            touched.update(places)
    if not known:
        return None
    order = sorted(known)[:MOST_INPUTS]
    return order, np.array([known[place][0] for place in order]), np.array([known[place][1] for place in order])
