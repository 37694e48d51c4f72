"""The reader of the IDX format, in which MNIST and its like come: a header of sizes, then the numbers.

Plain or gzipped. Knows no dataset folder and no tensor; what the header claims is compared with what is there.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Final, NoReturn

import numpy as np

from service.engine.mapped import Array, Shelf
from service.engine.npz_files import with_targets
from service.engine.readers import FLOAT32_MAX, MAX_BYTES, Raw, check_class_names, dtype_of, refuse
from service.errors import Entry
from service.schemas.datasets import MAX_ROWS, Column, Idx, ImageRow

_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_READ_BYTES: Final = 2**22


def read_idx(path: Path, labels: Path | None, source: Idx, *, at: str = "/source", shelf: Shelf | None = None) -> Raw:
    """Images, and their labels as class indices.

    Raises:
        DatasetRefused: a file is not of this format, damaged or too large, or there is not a label for each image.
    """
    shelf = shelf or Shelf()
    check_class_names(source.classes, at=at)
    inputs = _array(path, shelf, f"{at}/upload")
    image = None
    if inputs.ndim == 3:
        inputs = inputs.reshape(len(inputs), 1, *inputs.shape[1:])
        if inputs.dtype == np.uint8:
            image = ImageRow(channels=1, height=inputs.shape[2], width=inputs.shape[3])
    column = Column(name="x", role="input", dtype=dtype_of(inputs), shape=inputs.shape[1:])
    raw = Raw("array", (column,), {"inputs": inputs}, inputs.shape[1:], image=image)
    targets = None
    if labels is not None:
        targets = _array(labels, shelf, f"{at}/labels")
        targets = targets.astype(np.int64) if targets.dtype == np.uint8 else targets
    return with_targets(raw, targets, "y", source.classes, shelf, at=f"{at}/labels")


def _array(path: Path, shelf: Shelf, at: str) -> Array:
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                file.seek(0)
                return _numbers(file, shelf, at)
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _numbers(unpacked, shelf, at)
    except (OSError, EOFError, zlib.error) as error:
        detail = f"The file is damaged: {str(error)[:100]}."
        refuse([Entry(at, "bad-archive", detail)], because=error)


def _numbers(file: IO[bytes] | gzip.GzipFile, shelf: Shelf, at: str) -> Array:
    def fail(code: str, detail: str, hint: str | None = None) -> NoReturn:
        refuse([Entry(at, code, detail, hint=hint)])

    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 6:
        fail("bad-array", "This is not an IDX file.", "It begins with two zeros, a type and the number of dimensions.")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        fail("bad-array", "The header of the IDX file ends early.")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    dtype = np.dtype(_TYPES[head[2]])
    count = math.prod(shape)
    if 0 in shape:
        fail("shape-mismatch", f"The header claims the shape {shape}; there is nothing in it.")
    if shape[0] > MAX_ROWS or count * dtype.itemsize > MAX_BYTES:
        fail("too-large", f"The header claims the shape {shape}: more than {MAX_ROWS} rows or {MAX_BYTES} bytes.")
    growing = shelf.growing(dtype.newbyteorder("="))  # grows as there are bytes: the claim may be a lie
    while growing.rows < count:
        data = file.read(min(_READ_BYTES, (count - growing.rows) * dtype.itemsize))
        if not data or len(data) % dtype.itemsize:
            fail("bad-array", f"The header claims {count} numbers, the file has {growing.rows}.")
        piece = np.frombuffer(data, dtype)
        if dtype.kind == "f" and not (np.abs(piece) <= FLOAT32_MAX).all():
            fail("not-finite", f"A number behind number {growing.rows} is not a finite float32 number.")
        growing.append(piece)
    if file.read(1):
        fail("bad-array", f"There are bytes behind the {count} numbers that the header claims.")
    return shelf.compact(growing.whole()).reshape(shape)
