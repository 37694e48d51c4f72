"""The door to datasets: made from a source into a folder of arrays, opened, split, looked at.

Knows no store: it is given a folder to write to or read from. Scaling and encoding is
`preprocessing`; whether a dataset suits a net is `agreement`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import assert_never

import numpy as np

from service.engine.csv_files import read_csv
from service.engine.examples import Examples, class_indices, open_dataset, split_rows
from service.engine.generators import gaussian_clouds, polynomial, striped_images
from service.engine.npz_files import read_npz
from service.engine.profile import preview, profile
from service.engine.readers import Array, Raw, read_inline
from service.errors import Entry, NotFound
from service.schemas.datasets import (
    Csv,
    DatasetFile,
    DatasetManifest,
    GaussianClouds,
    Inline,
    Npz,
    Polynomial,
    Source,
    StripedImages,
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


def materialize(source: Source, folder: Path, *, upload: Path | None = None, at: str = "/source") -> DatasetManifest:
    """Read or generate `source` and write its arrays into `folder`; the same source gives the same digest.

    Args:
        source: where the examples come from.
        folder: an empty folder; files are written and fsynced, the manifest is not written.
        upload: the uploaded file, for sources that name one.
        at: pointer to the source in the request, for the entries of a refusal.

    Raises:
        DatasetRefused: what is wrong, each mistake with its place.
        NotFinite: the only mistakes are inline numbers that are not finite.
        NotFound: the source names an upload and none is given.
    """
    raw = _read(source, upload, at)
    files = tuple(_write(folder, f"{name}.npy", array) for name, array in sorted(raw.arrays.items()))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    content = {
        "rows": len(next(iter(raw.arrays.values()))),
        "layout": raw.layout,
        "row_shape": raw.row_shape,
        "columns": [column.model_dump(mode="json") for column in raw.columns],
        "target": raw.target,
        "target_flat": raw.target_flat,
        "target_labels": raw.target_labels,
        "classes": raw.classes,
    }
    identity = {**content, "files": {file.name: file.sha256 for file in files}}
    return DatasetManifest.model_validate(
        {
            **content,
            "digest": digest(canonical(_as_json(identity))),
            "files": files,
            "size_bytes": sum(file.size_bytes for file in files),
        }
    )


def _read(source: Source, upload: Path | None, at: str) -> Raw:
    match source:
        case Polynomial():
            return polynomial(source, at)
        case GaussianClouds():
            return gaussian_clouds(source, at)
        case StripedImages():
            return striped_images(source, at)
        case Inline():
            return read_inline(source, at=at)
        case Csv() | Npz() if upload is None:
            detail = f"There is no upload {source.upload}."
            raise NotFound(detail, errors=[Entry(f"{at}/upload", "not-found", detail)])
        case Csv():
            return read_csv(upload, source, at=at)
        case Npz():
            return read_npz(upload, source, at=at)
        case _:
            assert_never(source)


class _HashingFile:
    """A binary file that takes the digest of what is written to it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.sha256.update(data)
        return self.file.write(data)


def _write(folder: Path, name: str, array: Array) -> DatasetFile:
    path = folder / name
    out = _HashingFile(path)
    with out.file:
        np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
        out.file.flush()
        os.fsync(out.file.fileno())
        size = out.file.tell()
    return DatasetFile(name=name, size_bytes=size, sha256=out.sha256.hexdigest())


def _as_json(value: object) -> object:
    """Tuples as lists, for the canonical form."""
    if isinstance(value, dict):
        return {key: _as_json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(member) for member in value]
    return value
