"""Datasets from nothing: the examples that tutorials make, drawn as they draw them, from a generator with its own seed.

Knows no folder; the same source gives the same bits.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from service.engine.readers import Raw, refuse, target_column
from service.errors import DatasetRefused, Entry
from service.schemas.datasets import MAX_ROWS, Column, GaussianClouds, Polynomial, StripedImages

MAX_ELEMENTS: Final = 2**28
"""Numbers in a generated dataset."""


def polynomial(source: Polynomial, at: str) -> Raw:
    """x = linspace(low, high, rows) as a column, y = Σ cᵢ·xⁱ + noise: drawn as a tutorial would draw it."""
    generator = torch.Generator().manual_seed(source.seed)
    x = torch.linspace(source.low, source.high, source.rows).unsqueeze(1)  # [rows, 1]
    y = torch.zeros_like(x)
    for power, coefficient in reversed(list(enumerate(source.coefficients))):  # as one writes it: x² + 3x − 2
        if coefficient != 0:
            y = y + (coefficient * x.pow(power) if power else coefficient)
    if source.noise is not None:
        draw = torch.rand if source.noise.type == "uniform" else torch.randn
        y = y + source.noise.scale * draw(x.size(), generator=generator)
    if not torch.isfinite(y).all():
        refuse([Entry(at, "out-of-range", "The polynomial overflows float32 in this range.")])
    return _generated(x, y, classes=None)


def gaussian_clouds(source: GaussianClouds, at: str) -> Raw:
    """Per center, in order: torch.normal(center, std) of [rows_per_class, coordinates]."""
    _check_size(len(source.centers) * source.rows_per_class, len(source.centers[0]), at)
    generator = torch.Generator().manual_seed(source.seed)
    ones = torch.ones(source.rows_per_class, 1)
    clouds = [torch.normal(ones * torch.tensor(center), source.std, generator=generator) for center in source.centers]
    return _generated(torch.cat(clouds), _labels_in_order(len(source.centers), source.rows_per_class), len(clouds))


def striped_images(source: StripedImages, at: str) -> Raw:
    """Class k: 0.5 + 0.5·sin of four waves at the angle π·k/classes, plus noise; [N, C, size, size]."""
    rows = source.classes * source.rows_per_class
    _check_size(rows, source.channels * source.size**2, at)
    generator = torch.Generator().manual_seed(source.seed)
    angles = torch.arange(source.classes) * (torch.pi / source.classes)
    along = torch.linspace(0, 1, source.size)
    across = torch.cos(angles)[:, None, None] * along + torch.sin(angles)[:, None, None] * along[:, None]  # [k, s, s]
    stripes = 0.5 + 0.5 * torch.sin(across * (8 * torch.pi))
    x = stripes.repeat_interleave(source.rows_per_class, dim=0).unsqueeze(1)  # [N, 1, s, s]
    shape = (rows, source.channels, source.size, source.size)
    x = x.expand(shape) + source.std * torch.randn(shape, generator=generator)
    return _generated(x, _labels_in_order(source.classes, source.rows_per_class), source.classes)


def _labels_in_order(classes: int, rows_per_class: int) -> Tensor:
    return torch.arange(classes).repeat_interleave(rows_per_class)


def _generated(x: Tensor, y: Tensor, classes: int | None) -> Raw:
    inputs, targets = x.contiguous().numpy(), y.numpy()
    names = None if classes is None else tuple(str(i) for i in range(classes))
    row_shape = inputs.shape[1:]
    columns = (Column(name="x", role="input", dtype="float", shape=row_shape), target_column("y", targets, names))
    arrays = {"inputs": inputs, "targets": targets}
    return Raw("array", columns, arrays, row_shape, "number" if names is None else "class", classes=names)


def _check_size(rows: int, width: int, at: str) -> None:
    if rows > MAX_ROWS or rows * width > MAX_ELEMENTS:
        detail = f"This makes {rows} rows of {width} numbers; {MAX_ROWS} rows and {MAX_ELEMENTS} numbers are allowed."
        raise DatasetRefused(detail, errors=[Entry(at, "too-large", detail)])
