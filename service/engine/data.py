"""The door to datasets: made from a source into a folder of arrays, opened, split, looked at.

Knows no store: it is given a folder to write to or read from. Scaling and encoding is
`preprocessing`; whether a dataset suits a net is `agreement`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

from service.engine.cifar_files import read_cifar
from service.engine.csv_files import read_csv
from service.engine.examples import Examples, class_indices, open_dataset, split_rows
from service.engine.generators import gaussian_clouds, polynomial, striped_images
from service.engine.idx_files import read_idx
from service.engine.json_lines import read_json_lines
from service.engine.mapped import Shelf, save
from service.engine.npz_files import read_npy, read_npz
from service.engine.parquet_files import read_parquet
from service.engine.picture_files import read_images
from service.engine.profile import preview, profile
from service.engine.readers import Raw, read_inline
from service.errors import Entry, NotFound
from service.schemas.datasets import (
    Cifar10,
    Cifar100,
    Column,
    Csv,
    DatasetFile,
    DatasetManifest,
    GaussianClouds,
    Idx,
    Images,
    Inline,
    JsonLines,
    Npy,
    Npz,
    Parquet,
    Polynomial,
    Source,
    StripedImages,
    uploads_of,
)
from service.schemas.document import canonical, digest

__all__ = [
    "Examples",
    "class_indices",
    "materialize",
    "open_dataset",
    "preview",
    "profile",
    "split_rows",
]


def materialize(
    source: Source,
    folder: Path,
    *,
    upload: Path | None = None,
    uploads: Mapping[str, Path] | None = None,
    at: str = "/source",
) -> DatasetManifest:
    """Read or generate `source` and write its arrays into `folder`; the same source gives the same digest.

    Args:
        source: where the examples come from.
        folder: an empty folder; files are written and fsynced, the manifest is not written.
        upload: the uploaded file, for sources that name one.
        uploads: the uploaded files by the source's members that name them (`upload`, `targets`, `labels`).
        at: pointer to the source in the request, for the entries of a refusal.

    Raises:
        DatasetRefused: what is wrong, each mistake with its place.
        NotFinite: the only mistakes are inline numbers that are not finite.
        NotFound: the source names an upload and none is given.
    """
    given = {**({} if upload is None else {"upload": upload}), **(uploads or {})}
    missing = {member: name for member, name in uploads_of(source).items() if member not in given}
    if missing:
        entries = [
            Entry(f"{at}/{member}", "not-found", f"There is no upload {name}.") for member, name in missing.items()
        ]
        raise NotFound(entries[0].detail, errors=entries)
    shelf = Shelf(folder)
    try:
        raw = _read(source, given, shelf, at)
        files = []
        for name, array in sorted(raw.arrays.items()):
            size, sha256 = save(array, folder / f"{name}.npy")
            files.append(DatasetFile(name=f"{name}.npy", size_bytes=size, sha256=sha256))
    finally:
        shelf.close()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    content: dict[str, Any] = {
        "rows": _rows(raw),
        "layout": raw.layout,
        "row_shape": raw.row_shape,
        "columns": [_column(column) for column in raw.columns],
        "target": raw.target,
        "target_flat": raw.target_flat,
        "target_labels": raw.target_labels,
        "classes": raw.classes,
    }
    if raw.image is not None:
        content["image"] = raw.image.model_dump(mode="json")
    if raw.inputs is not None:
        content["inputs"] = [part.model_dump(mode="json") for part in raw.inputs]
    identity = {**content, "files": {file.name: file.sha256 for file in files}}
    return DatasetManifest.model_validate(
        {
            **content,
            "digest": digest(canonical(_as_json(identity))),
            "files": files,
            "warnings": [entry.to_dict() for entry in raw.warnings],
            "size_bytes": sum(file.size_bytes for file in files),
        }
    )


def _rows(raw: Raw) -> int:
    name = next(name for name in raw.arrays if not name.startswith("text-") or name.startswith("text-ends-"))
    return len(raw.arrays[name])


def _column(column: Column) -> dict[str, Any]:
    """A column for the manifest, without what later members say about most columns: nothing."""
    found = column.model_dump(mode="json")
    return {name: value for name, value in found.items() if value is not None or name == "classes"}


def _read(source: Source, uploads: Mapping[str, Path], shelf: Shelf, at: str) -> Raw:
    match source:
        case Polynomial():
            return polynomial(source, at)
        case GaussianClouds():
            return gaussian_clouds(source, at)
        case StripedImages():
            return striped_images(source, at)
        case Inline():
            return read_inline(source, at=at)
        case Csv():
            return read_csv(uploads["upload"], source, at=at, shelf=shelf)
        case JsonLines():
            return read_json_lines(uploads["upload"], source, at=at, shelf=shelf)
        case Parquet():
            return read_parquet(uploads["upload"], source, at=at, shelf=shelf)
        case Npz():
            return read_npz(uploads["upload"], source, at=at, shelf=shelf)
        case Npy():
            return read_npy(uploads["upload"], uploads.get("targets"), source, at=at, shelf=shelf)
        case Images():
            return read_images(uploads["upload"], source, at=at, shelf=shelf)
        case Idx():
            return read_idx(uploads["upload"], uploads.get("labels"), source, at=at, shelf=shelf)
        case Cifar10() | Cifar100():
            return read_cifar(uploads["upload"], source, at=at, shelf=shelf)
        case _:
            assert_never(source)


def _as_json(value: object) -> object:
    """Tuples as lists, for the canonical form."""
    if isinstance(value, dict):
        return {key: _as_json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(member) for member in value]
    return value
