"""Fitted steps on numbers, applied in order to raw rows, and the fitting of each on training rows.

Everything is float64 until the end. A row's numbers come out the same however many rows are beside it. Knows no
dataset, no text and no net.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, assert_never

import numpy as np
import torch
from torch.nn import functional

from service.engine.mapped import PIECE, Array, pieces
from service.engine.readers import refuse
from service.errors import MAX_ENTRIES, Entry, shorten
from service.schemas.preprocessing import (
    ArrayRow,
    FittedCenterCrop,
    FittedClip,
    FittedImpute,
    FittedLog,
    FittedMinMax,
    FittedNormalize,
    FittedNumbers,
    FittedResize,
    FittedStandardize,
    FittedStep,
    FittedTexts,
    Scaling,
    TableRow,
)
from service.schemas.transforms import CenterCrop, Clip, ImageStep, Impute, Log, MinMax, Normalize, Resize, Standardize

WHOLE: Final = 2**25
"""Numbers that are looked at as one array; of more, statistics are gathered in pieces, and files are mapped."""

_SAMPLED: Final = 2**24
"""Numbers of an array that quantiles are taken of."""


class Stages:
    """Steps on numbers in order, for rows of one shape; steps on texts are passed over.

    Args:
        row: how a raw row looks; None for one that nothing is known about.
        steps: the fitted steps.
    """

    def __init__(self, row: TableRow | ArrayRow | None, steps: Sequence[FittedStep]) -> None:
        self.steps: tuple[FittedNumbers, ...] = tuple(step for step in steps if not isinstance(step, FittedTexts))
        self._row = row
        names = row.numbers if isinstance(row, TableRow) else ()
        place = {name: i for i, name in enumerate(names)}
        self._columns = [
            None if step.columns is None else [place[name] for name in step.columns] for step in self.steps
        ]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row's numbers behind the last step."""
        if not isinstance(self._row, ArrayRow):
            return (len(self._row.numbers),) if self._row is not None else ()
        shape = self._row.row_shape
        for step in self.steps:
            if isinstance(step, (FittedResize, FittedCenterCrop)):
                shape = (*shape[:-2], *step.size)
        return shape

    def apply(self, numbers: Array) -> Array:
        """A copy of `numbers` [N, …] behind all steps, in float64; `numbers` themselves when there is nothing to do."""
        if not self.steps:
            return numbers
        out = numbers.astype(np.float64)
        width = out.shape[1] if out.ndim > 1 else 1
        for step, columns in zip(self.steps, self._columns, strict=True):
            if columns is None or columns == list(range(width)):
                out = self._applied(step, out)
            else:
                out[:, columns] = self._applied(step, out[:, columns])
        return out

    def _applied(self, step: FittedNumbers, out: Array) -> Array:
        """`out` behind one step; it may be changed in place."""

        def across(values: Sequence[float]) -> Array:
            """One number for each column of a table, or for each entry of the first dimension of a row."""
            if isinstance(self._row, TableRow):
                return np.array(values)
            return np.array(values).reshape(-1, *[1] * (out.ndim - 2)) if out.ndim > 1 else np.array(values).reshape(())

        match step:
            case FittedStandardize():
                out -= across(step.mean)
                out /= across(step.std)
            case FittedMinMax():
                low = across(step.low)
                out -= low
                out /= across(step.high) - low
            case FittedNormalize():
                out /= step.scale
                out -= across(step.mean)
                out /= across(step.std)
            case FittedLog():
                with np.errstate(divide="ignore", invalid="ignore"):  # what comes out is refused as not finite
                    out = np.log(out + step.offset)
            case FittedClip():
                low = across([-math.inf if each is None else each for each in step.low])
                high = across([math.inf if each is None else each for each in step.high])
                out = np.clip(out, low, high)
            case FittedImpute():
                out = np.where(np.isnan(out), across(step.value), out)
            case FittedResize():
                images = torch.from_numpy(np.ascontiguousarray(out))
                out = functional.interpolate(images, size=step.size, mode="bilinear", antialias=True).numpy()
            case FittedCenterCrop(size=(height, width)):
                top, left = (out.shape[-2] - height) // 2, (out.shape[-1] - width) // 2
                out = np.ascontiguousarray(out[..., top : top + height, left : left + width])
            case _:
                assert_never(step)
        return out


def inverted(steps: Sequence[Scaling], outputs: torch.Tensor) -> torch.Tensor:
    """Answers [N, …] of a net in the units before `steps`: float64 arithmetic, then their own dtype."""
    values = outputs.detach().to(torch.float64)
    shape = (-1, *[1] * (outputs.dim() - 2)) if outputs.dim() > 1 else ()

    def across(numbers: Array) -> torch.Tensor:
        return torch.from_numpy(numbers).to(values.device).reshape(shape)

    for step in reversed(steps):
        match step:
            case FittedStandardize():
                values = values * across(np.array(step.std)) + across(np.array(step.mean))
            case FittedMinMax():
                low = np.array(step.low)
                values = values * across(np.array(step.high) - low) + across(low)
            case FittedLog():
                values = torch.exp(values) - step.offset
            case _:
                assert_never(step)
    return values.to(outputs.dtype)


class TrainingNumbers:
    """The numbers of the training rows behind the steps that were fitted already.

    Args:
        numbers: [N, …] of all rows, in memory or mapped.
        rows: int64 numbers of the training rows.
        stages: the steps before.
    """

    def __init__(self, numbers: Array, rows: Array, stages: Stages) -> None:
        self._numbers = numbers
        self._rows = rows
        self._stages = stages
        width = math.prod(numbers.shape[1:])
        self._whole = len(rows) * width <= WHOLE
        self._step = max(1, PIECE // max(1, width))

    def blocks(self) -> Iterator[Array]:
        """All rows in their order: in one array where they are few, else piece by piece."""
        step = len(self._rows) if self._whole else self._step
        for start in range(0, len(self._rows), max(1, step)):
            yield self._stages.apply(np.asarray(self._numbers)[self._rows[start : start + step]])

    def statistics(self, columns: Sequence[int] | None, *, wanted: bool = True) -> tuple[Array, Array, Array, Array]:
        """Smallest and largest value, mean and standard deviation, each [k]: of the columns of a table, or of the
        entries of a row's first dimension. Missing numbers make all four NaN. Without `wanted` the last two are 0."""
        first, *others = (self._of(block, columns) for block in self._few())
        if not others and self._whole:
            axes = (0, *range(2, first.ndim))
            low, high = first.min(axis=axes).astype(np.float64), first.max(axis=axes).astype(np.float64)
            if not wanted:
                return low, high, np.zeros_like(low), np.zeros_like(low)
            return low, high, first.mean(axis=axes, dtype=np.float64), first.std(axis=axes, dtype=np.float64)
        low = high = total = squares = np.zeros(0)
        count = 0
        for block in self.blocks():
            part = self._of(block, columns).astype(np.float64, copy=False)
            axes = (0, *range(2, part.ndim))
            low = np.minimum(low, part.min(axis=axes)) if count else part.min(axis=axes)
            high = np.maximum(high, part.max(axis=axes)) if count else part.max(axis=axes)
            total = total + part.sum(axis=axes) if count else part.sum(axis=axes)
            count += part.size // part.shape[1]
        if not wanted:
            return low, high, np.zeros_like(low), np.zeros_like(low)
        mean = total / count
        for block in self.blocks():
            part = self._of(block, columns).astype(np.float64, copy=False)
            part = part - mean.reshape(-1, *[1] * (part.ndim - 2))
            axes = (0, *range(2, part.ndim))
            squares = np.square(part, out=part).sum(axis=axes) + (squares if squares.size else 0.0)
        return low, high, mean, np.sqrt(squares / count)

    def column(self, place: int, *, most: int | None = None) -> Array:
        """The numbers of one column or entry, flat; of evenly spaced rows if there are more than `most`."""
        width = max(1, math.prod(self._numbers.shape[2:]))
        stride = 1 if most is None else max(1, -(-len(self._rows) * width // most))
        found = TrainingNumbers(self._numbers, self._rows[::stride], self._stages)
        return np.concatenate([self._of(block, [place]).reshape(-1) for block in found.blocks()])

    def _few(self) -> Iterator[Array]:
        """The blocks, or only the first of many."""
        for block in self.blocks():
            yield block
            return

    @staticmethod
    def _of(block: Array, columns: Sequence[int] | None) -> Array:
        block = block[:, None] if block.ndim == 1 else block
        return block if columns is None else block[:, list(columns)]


Fittable = Standardize | MinMax | Log | Clip | Impute | ImageStep


def fit_stage(
    step: Fittable, row: TableRow | ArrayRow, numbers: TrainingNumbers, shape: tuple[int, ...], at: str
) -> tuple[FittedNumbers, list[Entry]]:
    """Fit one step.

    Args:
        step: as the request has it.
        row: how a raw row looks.
        numbers: those of the training rows behind the steps before.
        shape: that of a row behind the steps before.
        at: the pointer to the step.

    Returns:
        The fitted step, and warnings.

    Raises:
        DatasetRefused: the training rows do not suit the step.
    """
    names: tuple[str, ...] | None = None
    places: list[int] | None = None
    if isinstance(row, TableRow) and not isinstance(step, ImageStep):
        names = row.numbers if step.columns == "*" else step.columns
        places = [row.numbers.index(name) for name in names]
    if isinstance(step, (Resize, CenterCrop, Normalize)) and len(shape) != 3:
        detail = f"{step.type} takes images, [channels, height, width]; a row has the shape {list(shape)}."
        refuse([Entry(f"{at}/type", "shape-mismatch", detail)])
    if places == [] or (isinstance(step, Impute) and names is None):
        refuse([Entry(at, "invalid", f"There is no column of numbers for {step.type}.", hint="Leave the step out.")])
    match step:
        case Resize():
            return FittedResize(size=step.size), []
        case CenterCrop():
            if step.size[0] > shape[-2] or step.size[1] > shape[-1]:
                detail = f"The images are {shape[-2]} × {shape[-1]}, smaller than what is to be cut out."
                refuse([Entry(f"{at}/size", "out-of-range", detail, hint="Put a resize before it.")])
            return FittedCenterCrop(size=step.size), []
        case Normalize() if step.mean is not None and step.std is not None:
            if len(step.mean) != shape[0]:
                detail = f"The images have {shape[0]} channels, `mean` has {len(step.mean)} numbers."
                refuse([Entry(f"{at}/mean", "shape-mismatch", detail)])
            return FittedNormalize(mean=step.mean, std=step.std, scale=step.scale), []
        case Impute():
            assert names is not None
            assert places is not None
            return _fit_impute(step, names, places, numbers, at)
        case Clip() if step.quantiles is None:
            count = len(names) if names is not None else shape[0] if shape else 1
            return FittedClip(columns=names, low=(step.low,) * count, high=(step.high,) * count), []
        case _:
            pass
    moments = not isinstance(step, (Log, MinMax, Clip))
    low, high, mean, std = numbers.statistics(places, wanted=moments)
    _require_whole(names, low, at)
    if isinstance(step, Log):
        return _fit_log(step, names, low, at), []
    if isinstance(step, Clip):
        assert step.quantiles is not None
        each = [numbers.column(place, most=_SAMPLED) for place in places or range(len(low))]
        limits = [np.quantile(values, step.quantiles) for values in each]
        lows, highs = (tuple(float(limit[side]) for limit in limits) for side in (0, 1))
        return FittedClip(columns=names, low=lows, high=highs), []
    constant = low == high
    of_target = not isinstance(step, Normalize) and step.of == "target"
    warnings = []
    for i in np.flatnonzero(constant)[:MAX_ENTRIES]:
        what = f"Column {names[i]!r}" if names else "The target" if of_target else f"Entry {i} of a row"
        detail = f"{what} has one value, {low[i]:.6g}, in all training rows; it is only shifted."
        warnings.append(Entry(at, "constant-column", detail))
    if isinstance(step, MinMax):
        high = np.where(constant, low + 1, high)
        return FittedMinMax(columns=names, low=floats(low), high=floats(high)), warnings
    mean = np.where(constant, low, mean)  # a mean of equal numbers is off by a rounding
    std = np.where(constant | (std == 0), 1.0, std)
    if isinstance(step, Normalize):
        return FittedNormalize(mean=floats(mean / step.scale), std=floats(std / step.scale), scale=step.scale), warnings
    return FittedStandardize(columns=names, mean=floats(mean), std=floats(std)), warnings


def _fit_impute(
    step: Impute, names: tuple[str, ...], places: list[int], numbers: TrainingNumbers, at: str
) -> tuple[FittedImpute, list[Entry]]:
    if step.value is not None:
        return FittedImpute(columns=names, value=(step.value,) * len(names)), []
    values = []
    for name, place in zip(names, places, strict=True):
        column = numbers.column(place)
        known = column[~np.isnan(column)]
        if len(known) == 0:
            detail = f"Column {shorten(name)} has no value in any training row."
            hint = 'Leave the column out, or use "strategy": "constant".'
            refuse([Entry(at, "missing-value", detail, hint=hint)])
        match step.strategy:
            case "mean":
                values.append(float(known.mean(dtype=np.float64)))
            case "median":
                values.append(float(np.median(known)))
            case _:
                distinct, counts = np.unique(known, return_counts=True)
                values.append(float(distinct[counts.argmax()]))  # the smallest of several
    return FittedImpute(columns=names, value=tuple(values)), []


def _fit_log(step: Log, names: tuple[str, ...] | None, low: Array, at: str) -> FittedLog:
    found = []
    for i in np.flatnonzero(low + step.offset <= 0)[:MAX_ENTRIES]:
        what = f"Column {names[i]!r}" if names else "The target" if step.of == "target" else f"Entry {i} of a row"
        detail = f"{what} reaches down to {low[i]:.6g}; the logarithm of {low[i] + step.offset:.6g} is not a number."
        found.append(Entry(f"{at}/offset", "out-of-range", detail, hint=f"Use an offset above {-low[i]:.6g}."))
    if found:
        refuse(found)
    return FittedLog(columns=names, offset=step.offset)


def _require_whole(names: tuple[str, ...] | None, low: Array, at: str) -> None:
    missing = np.flatnonzero(np.isnan(low))
    if len(missing):
        refuse(
            Entry(
                at,
                "missing-value",
                f"Column {shorten(names[i]) if names else i} has missing values, which this step cannot take.",
                hint='Put {"type": "impute"} before it.',
            )
            for i in missing[:MAX_ENTRIES].tolist()
        )


def value_range(numbers: Array, rows: Array, *, single: int) -> tuple[Array, Array] | None:
    """Smallest and largest value of each number of a row over `rows`, flat; one pair for rows of more than `single`.

    Missing numbers are passed over; where all are missing the range is 0 to 0.
    """
    width = math.prod(numbers.shape[1:])
    if width == 0:
        return None
    low: Array | None = None
    high: Array | None = None
    for part in pieces(rows, numbers=max(1, 4 * PIECE // width)):
        block = np.asarray(numbers)[rows[part]].reshape(-1, width)
        block = block.reshape(-1, 1) if width > single else block
        least, most = np.fmin.reduce(block, axis=0), np.fmax.reduce(block, axis=0)
        low = least if low is None else np.fmin(low, least)
        high = most if high is None else np.fmax(high, most)
    assert low is not None
    assert high is not None
    return np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=0.0)


def floats(values: Array) -> tuple[float, ...]:
    """Plain numbers."""
    return tuple(map(float, values))
