"""Examples: the rows of a stored dataset as arrays, their split into parts, and their targets as class indices.

Knows no source and no net: what is stored was checked when it was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, assert_never

import numpy as np
import torch
from torch import Tensor

from service.engine.readers import Array, dtype_of, refuse
from service.errors import DatasetRefused, Entry, shorten
from service.schemas.datasets import DatasetManifest, RandomSplit, Split, StratifiedSplit
from service.schemas.document import nearest_hint

MAX_CLASSES: Final = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """The rows of a stored dataset, as arrays that are read from disk as they are touched."""

    manifest: DatasetManifest
    numbers: Array
    """[rows, k] in a table of k number columns, [rows, …] in an array."""
    codes: Array
    """[rows, m] in a table of m text columns: indices into each column's `classes`."""
    targets: Array | None
    """[rows, …] numbers, or [rows] class indices (manifest.target)."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.manifest.rows


def open_dataset(folder: Path, manifest: DatasetManifest) -> Examples:
    """The arrays of a materialized dataset, mapped and not copied."""
    present = {file.name for file in manifest.files}

    def array(name: str, *, width: tuple[int, ...] = (0,)) -> Array:
        if name not in present:
            return np.empty((manifest.rows, *width), dtype=np.float32)
        return np.load(folder / name, mmap_mode="r", allow_pickle=False)

    numbers = array("numeric.npy" if manifest.layout == "table" else "inputs.npy")
    targets = array("targets.npy") if manifest.target is not None else None
    return Examples(manifest, numbers, array("codes.npy"), targets)


def split_rows(split: Split | None, examples: Examples, *, at: str = "/split") -> dict[str, Tensor]:
    """Row numbers of each part, sorted: "train" always, "val" and "test" where the split promises them.

    Raises:
        DatasetRefused: a part would be empty, or a stratified split has no classes.
    """
    if split is None:
        return {"train": torch.arange(examples.rows)}
    generator = torch.Generator().manual_seed(split.seed)
    match split:
        case RandomSplit():
            groups = [torch.arange(examples.rows)]
        case StratifiedSplit():
            labels = _labels(examples, at)
            groups = [torch.nonzero(labels == label)[:, 0] for label in torch.unique(labels)]
        case _:
            assert_never(split)
    parts: dict[str, list[Tensor]] = {"train": [], "val": [], "test": []}
    for group in groups:
        drawn = group[torch.randperm(len(group), generator=generator)]
        test = round(len(group) * split.test)
        val = round(len(group) * split.validation)
        parts["test"].append(drawn[:test])
        parts["val"].append(drawn[test : test + val])
        parts["train"].append(drawn[test + val :])
    rows = {name: torch.cat(pieces).sort().values for name, pieces in parts.items()}
    promised = {"train": 1.0, "val": split.validation, "test": split.test}
    names = {"train": "training", "val": "validation", "test": "test"}
    for name, fraction in promised.items():
        if fraction > 0 and len(rows[name]) == 0:
            raise DatasetRefused(
                f"The split leaves no {names[name]} rows.",
                errors=[
                    Entry(
                        at,
                        "empty-split",
                        f"The split leaves no {names[name]} rows out of {examples.rows}.",
                        hint="Give more rows, or other fractions.",
                    )
                ],
            )
    return {name: part for name, part in rows.items() if promised[name] > 0}


def class_indices(
    examples: Examples, *, classes: tuple[str, ...] | None = None, width: int | None = None, at: str = "/dataset"
) -> tuple[Tensor, tuple[str, ...]]:
    """The targets as class indices for cross entropy.

    Class names are mapped to their index. Whole numbers of a CSV column are names too; those of other sources are
    indices as they are, and the classes are then called "0", "1", ….

    Args:
        examples: with targets.
        classes: those of a version, whose order is kept.
        width: outputs of the net, for the number of classes where only indices are known.
        at: pointer to the dataset in the request.

    Returns:
        int64 [rows] and the names of the classes in the order of the indices.

    Raises:
        DatasetRefused: targets are no classes, or are of classes that the version does not know.
    """
    manifest, targets = examples.manifest, examples.targets
    if targets is None or manifest.target is None:
        _refuse_target(at, "no-target", "The dataset has no targets.")
    if manifest.target == "class":
        names = manifest.classes or ()
        codes = torch.from_numpy(np.array(targets, dtype=np.int64))
    else:
        values = np.array(targets)
        if values.ndim != 1 and values.shape[1:] != (1,):
            detail = f"Cross entropy takes one class a row; the targets have the shape {list(values.shape)}."
            _refuse_target(at, "shape-mismatch", detail)
        if dtype_of(values) != "int":
            _refuse_target(at, "wrong-type", "Cross entropy takes classes; the targets are not whole numbers.")
        values = values.reshape(-1).astype(np.int64)
        if not manifest.target_labels:
            return _plain_indices(values, classes, width, at)
        distinct, inverse = np.unique(values, return_inverse=True)
        if len(distinct) > MAX_CLASSES:
            _refuse_target(at, "out-of-range", f"The targets have more than {MAX_CLASSES} different values.")
        names = tuple(map(str, distinct.tolist()))
        codes = torch.from_numpy(inverse.astype(np.int64))
    if classes is None or classes == names:
        return codes, names
    place = {name: index for index, name in enumerate(classes)}
    used = set(torch.unique(codes).tolist())
    unknown = [name for code, name in enumerate(names) if code in used and name not in place]
    if unknown:
        refuse(
            Entry(
                at,
                "unknown-class",
                f"The model does not know the class {shorten(name)}.",
                hint=nearest_hint(name, classes),
                expected=", ".join(classes)[:200],
            )
            for name in unknown
        )
    order = torch.tensor([place.get(name, -1) for name in names], dtype=torch.int64)
    return order[codes], classes


def _plain_indices(
    values: Array, classes: tuple[str, ...] | None, width: int | None, at: str
) -> tuple[Tensor, tuple[str, ...]]:
    low, high = int(values.min()), int(values.max())
    count = len(classes) if classes is not None else max(width or 0, high + 1)
    if low < 0 or high >= count or count > MAX_CLASSES:
        detail = f"Class {low if low < 0 else high} is not an index into {min(count, MAX_CLASSES)} classes."
        _refuse_target(at, "label-out-of-range", detail)
    return torch.from_numpy(values), classes or tuple(str(i) for i in range(count))


def _labels(examples: Examples, at: str) -> Tensor:
    """int64 [rows]: what rows are stratified by."""
    targets = examples.targets
    if targets is None or targets.size != examples.rows or dtype_of(np.array(targets)) != "int":
        raise DatasetRefused(
            "A stratified split needs classes.",
            errors=[
                Entry(
                    at,
                    "no-classes",
                    "A stratified split keeps the fractions of each class, but the targets are no classes.",
                    hint='Use {"type": "random"}.',
                )
            ],
        )
    return torch.from_numpy(np.array(targets, dtype=np.int64).reshape(-1))


def _refuse_target(at: str, code: str, detail: str) -> NoReturn:
    raise DatasetRefused(detail, errors=[Entry(at, code, detail)])
