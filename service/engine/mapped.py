"""Arrays that may be larger than memory: made in pieces, kept in files once they are large, and mapped.

A small array lies in memory and costs no file. Knows what an array is, and not what is in it.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

IN_MEMORY: Final = 2**26
"""Bytes that a reader keeps in memory before it writes to files."""

PIECE: Final = 2**20
"""Numbers that are looked at or changed at a time."""


class Shelf:
    """Room for the arrays of one dataset.

    Args:
        folder: where large arrays go; None keeps everything in memory.
        in_memory: bytes that stay in memory.
    """

    def __init__(self, folder: Path | None = None, *, in_memory: int = IN_MEMORY) -> None:
        self.folder = folder
        self._in_memory = in_memory
        self._held = 0
        self._spools = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array to be filled; a large one is a .npy file from the beginning, which `save` only has to rename."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.folder is None or size <= self._in_memory:
            return np.empty(shape, dtype)
        found: Array = np.lib.format.open_memmap(self._spool().with_suffix(".npy"), "w+", dtype, shape)
        return found

    def compact(self, array: Array) -> Array:
        """Floats as float32 where that loses nothing, else as they are."""
        if array.dtype != np.float64 or not self.is_narrow(array):
            return array
        out = self.empty(array.shape, np.float32)
        for part in pieces(array):
            out[part] = array[part]
        return out

    @staticmethod
    def is_narrow(array: Array) -> bool:
        """Whether float32 holds every number of it exactly."""
        return all(_is_narrow(array[part]) for part in pieces(array))

    def growing(self, dtype: Any) -> Growing:
        """An array [N] or [N, …] that is written from its beginning to its end."""
        return Growing(self, np.dtype(dtype))

    def _hold(self, size: int) -> bool:
        """Take room in memory for so many bytes; False when they must go to a file."""
        if self.folder is not None and self._held + size > self._in_memory:
            return False
        self._held += size
        return True

    def _spool(self) -> Path:
        assert self.folder is not None
        self._spools += 1
        return self.folder / f".spool-{self._spools}"

    def close(self) -> None:
        """Remove what was only needed on the way; arrays that `Growing.whole` gave are gone then."""
        if self.folder is not None:
            for path in self.folder.glob(".spool-*"):
                path.unlink()


class Growing:
    """An array that grows at its end; made by a shelf."""

    def __init__(self, shelf: Shelf, dtype: np.dtype[Any]) -> None:
        self._shelf = shelf
        self._dtype = dtype
        self._pieces: list[Array] = []
        self._path: Path | None = None
        self._shape: tuple[int, ...] = ()
        self._held = 0
        self.rows = 0

    def append(self, piece: Array) -> None:
        """Put `piece` [n, …] behind what is there."""
        piece = piece.astype(self._dtype, copy=False)
        self._shape = piece.shape[1:]
        self.rows += len(piece)
        self._pieces.append(piece)
        if self._path is None and self._shelf._hold(piece.nbytes):
            self._held += piece.nbytes
            return
        self._path = self._path or self._shelf._spool()
        with self._path.open("ab") as file:
            for held in self._pieces:
                file.write(np.ascontiguousarray(held).data)
        self.clear(keep=True)

    def whole(self) -> Array:
        """All of it: in memory, or mapped."""
        if self._path is None:
            return np.concatenate(self._pieces) if self._pieces else np.empty((0, *self._shape), self._dtype)
        return np.memmap(self._path, self._dtype, "r", shape=(self.rows, *self._shape))

    def clear(self, *, keep: bool = False) -> None:
        """Give back the memory; what was written to a file stays if `keep`."""
        self._pieces.clear()
        self._shelf._held -= self._held
        self._held = 0
        if not keep:
            self.rows = 0
            if self._path is not None:
                self._path.unlink()
                self._path = None


def save(array: Array, path: Path) -> tuple[int, str]:
    """Write `array` as a .npy file, fsynced; a file that a shelf of the same folder made for it takes the name.

    Returns:
        The file's size in bytes, and its SHA-256 in hexadecimal digits.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    made = _made(array, path.parent)
    if made is not None:
        with made.open("r+b") as file:
            if len(header.getvalue()) + array.nbytes == made.stat().st_size:
                file.write(header.getvalue())  # the rows may have been given another shape since
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                made.rename(path)
                return path.stat().st_size, digest
    hashed = hashlib.sha256(header.getvalue())
    with path.open("wb") as file:
        file.write(header.getvalue())
        for part in pieces(array) if array.ndim else [...]:
            block = np.ascontiguousarray(array[part]).data.cast("B")
            hashed.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return file.tell(), hashed.hexdigest()


def _made(array: Array, folder: Path) -> Path | None:
    """The .npy file of a shelf of this folder that `array` is all of, its changes written."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
        return None
    path = Path(array.filename)
    array.flush()
    return path if path.suffix == ".npy" and path.parent == folder else None


def pieces(array: Array, *, numbers: int = PIECE) -> Iterator[slice]:
    """Slices of rows, with about so many numbers each."""
    step = max(1, numbers // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), step):
        yield slice(start, min(start + step, len(array)))


def _is_narrow(piece: Array) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.array_equal(piece.astype(np.float32), piece, equal_nan=True))
