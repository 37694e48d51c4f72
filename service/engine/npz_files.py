"""The reader of .npy and .npz files: directory, headers and sizes are checked here before anything is read; no
unpickling.

Knows no dataset folder and no tensor. Arrays are read in pieces, so that a large one is never in memory as a whole.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, NoReturn

import numpy as np

from service.engine.mapped import Array, Shelf, pieces
from service.engine.readers import (
    FLOAT32_MAX,
    MAX_BYTES,
    MAX_MEMBERS,
    MAX_RANK,
    Raw,
    check_class_names,
    dtype_of,
    folded,
    index_mistake,
    refuse,
    target_column,
)
from service.errors import Entry, listed, shorten
from service.schemas.datasets import MAX_ROWS, Column, InputPart, Npy, Npz
from service.schemas.document import nearest_hint


def read_npz(path: Path, source: Npz, *, at: str = "/source", shelf: Shelf | None = None) -> Raw:
    """An archive of numeric arrays as numpy.savez writes it; headers are parsed here, nothing is unpickled.

    Raises:
        DatasetRefused: the archive, a header or the arrays are not what they should be.
    """
    shelf = shelf or Shelf()
    check_class_names(source.classes, at=at)
    several = source.inputs if isinstance(source.inputs, dict) else {}
    members = list(several.values()) or [str(source.inputs)]
    if source.target in members:
        refuse([Entry(f"{at}/target", "invalid", "The target cannot be the inputs too: the net would only copy them.")])
    places = [f"{at}/inputs/{name}" for name in several] or [f"{at}/inputs"]
    names = [f"inputs-{i}" for i in range(len(several))] or ["inputs"]
    wanted = {name: (member, place) for name, member, place in zip(names, members, places, strict=True)}
    if source.target is not None:
        wanted["targets"] = (source.target, f"{at}/target")
    arrays = _members(path, wanted, shelf, at)
    if source.shape is not None:
        arrays["inputs"] = folded(arrays["inputs"], source.shape, at=at)
    columns = [
        Column(name=member, role="input", dtype=dtype_of(arrays[name]), shape=arrays[name].shape[1:])
        for name, member in zip(names, members, strict=True)
    ]
    parts = None
    if several:
        columns = [column.model_copy(update={"input": name}) for column, name in zip(columns, several, strict=True)]
        parts = tuple(
            InputPart(name=name, layout="array", row_shape=column.shape)
            for name, column in zip(several, columns, strict=True)
        )
        rows = {name: len(arrays[name]) for name in names}
        found = [
            Entry(
                f"{at}/inputs/{name}",
                "shape-mismatch",
                f"{members[0]!r} has {rows[names[0]]} rows, {member!r} has {rows[array]}.",
            )
            for (name, member), array in zip(several.items(), names, strict=True)
            if rows[array] != rows[names[0]]
        ]
        if found:
            refuse(found)
    raw = Raw("array", tuple(columns), {name: shelf.compact(arrays[name]) for name in names}, columns[0].shape)
    raw = replace(raw, inputs=parts)
    return with_targets(raw, arrays.get("targets"), source.target or "", source.classes, shelf, at=f"{at}/target")


def read_npy(path: Path, targets: Path | None, source: Npy, *, at: str = "/source", shelf: Shelf | None = None) -> Raw:
    """A .npy file of inputs, and one of targets.

    Raises:
        DatasetRefused: a header or an array is not what it should be.
    """
    shelf = shelf or Shelf()
    check_class_names(source.classes, at=at)
    inputs = _file(path, shelf, f"{at}/upload")
    if source.shape is not None:
        inputs = folded(inputs, source.shape, at=at)
    column = Column(name="x", role="input", dtype=dtype_of(inputs), shape=inputs.shape[1:])
    raw = Raw("array", (column,), {"inputs": shelf.compact(inputs)}, inputs.shape[1:])
    values = None if targets is None else _file(targets, shelf, f"{at}/targets")
    return with_targets(raw, values, "y", source.classes, shelf, at=f"{at}/targets")


def with_targets(
    raw: Raw, targets: Array | None, name: str, classes: tuple[str, ...] | None, shelf: Shelf, *, at: str
) -> Raw:
    """The arrays with their targets: numbers, or indices into `classes` where these are given.

    Raises:
        DatasetRefused: there are not as many as rows, or they are no indices.
    """
    if targets is None:
        if classes is not None:
            refuse([Entry(f"{at.rpartition('/')[0]}/classes", "invalid", "Classes were given, but no target.")])
        return raw
    rows = len(next(iter(raw.arrays.values())))
    if len(targets) != rows:
        detail = f"{raw.columns[0].name!r} has {rows} rows, {name!r} has {len(targets)}."
        refuse([Entry(at, "shape-mismatch", detail)])
    if classes is not None:
        mistake = index_mistake(targets, classes, at=at)
        if mistake:
            refuse([mistake])
        targets = targets.reshape(len(targets)).astype(np.int64)
    return replace(
        raw,
        columns=(*raw.columns, target_column(name, targets, classes)),
        arrays={**raw.arrays, "targets": shelf.compact(targets)},
        target="number" if classes is None else "class",
        classes=classes,
    )


_END_OF_DIRECTORY: Final = struct.Struct("<4s4H2LH")


def _members(path: Path, wanted: dict[str, tuple[str, str]], shelf: Shelf, at: str) -> dict[str, Array]:
    """The arrays by the names that they get; `wanted` has the member of each, and the pointer to who asks for it."""
    check_directory(path, at, what="an .npz archive", hint="Write it with numpy.savez.")
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            known = [info.filename.removesuffix(".npy") for info in infos]
            if len(set(known)) < len(known):
                refuse([Entry(f"{at}/upload", "bad-archive", "Two members of the archive have the same name.")])
            found = [
                Entry(
                    place,
                    "unknown-member",
                    f"The archive has no array {shorten(member)}.",
                    hint=nearest_hint(member, known),
                    expected=listed(known),
                )
                for member, place in wanted.values()
                if member not in known
            ]
            if found:
                refuse(found)
            for name, (member, place) in wanted.items():
                info = infos[known.index(member)]
                if problem := member_problem(info):
                    refuse([Entry(place, "bad-archive", f"Array {shorten(member)}: it {problem}")])
                with archive.open(info) as file:
                    arrays[name] = _array(file, info.file_size, shelf, f"Array {shorten(member)}", place)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        # zipfile raises the last two for names that are no UTF-8 and for what it does not implement
        refuse([Entry(f"{at}/upload", "bad-archive", f"The archive is damaged: {str(error)[:100]}.")], because=error)
    return arrays


def member_problem(info: zipfile.ZipInfo) -> str | None:
    """Why a member of an archive is not read, if it is not; the sentence goes on behind "it"."""
    if info.flag_bits & 0x1:
        return "is encrypted."
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is neither stored nor deflated; no other members are read."
    return None


def check_directory(path: Path, at: str, *, what: str, hint: str, most: int = MAX_MEMBERS) -> None:
    """Read the end of the archive ourselves, so that a giant directory is refused before it is in memory."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 65_557))
        tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END_OF_DIRECTORY.size:
        refuse([Entry(f"{at}/upload", "bad-archive", f"This is not {what}.", hint=hint)])
    _, disk, first_disk, here, total, directory, offset, _ = _END_OF_DIRECTORY.unpack_from(tail, place)
    if disk or first_disk or here != total or offset + directory > size:
        refuse([Entry(f"{at}/upload", "bad-archive", "The archive's directory does not fit the file.")])
    if total > most or directory > most * 512:
        refuse([Entry(f"{at}/upload", "too-large", f"The archive has more than {most} members.")])


_NPY_HEADER: Final = re.compile(
    r"""\{\s*['"]descr['"]:\s*['"]([<>|=])([a-zA-Z])([0-9]{1,2})['"],\s*['"]fortran_order['"]:\s*(True|False),\s*"""
    r"""['"]shape['"]:\s*\(([0-9, ]*)\),?\s*\}\s*"""
)
_ITEM_SIZES: Final = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}
_READ_BYTES: Final = 2**22


def _file(path: Path, shelf: Shelf, at: str) -> Array:
    with path.open("rb") as file:
        return _array(file, path.stat().st_size, shelf, "The file", at)


def _array(file: IO[bytes], size: int, shelf: Shelf, called: str, at: str) -> Array:
    """An array of `size` bytes in all; what its header claims is compared with them before it is read."""

    def fail(code: str, detail: str) -> NoReturn:
        refuse([Entry(at, code, f"{called}: {detail}")])

    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        fail("bad-array", "it is not in the .npy format.")
    prefix = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(prefix), "little")
    if length > 8192:
        fail("bad-array", "its header is too long.")
    header = _NPY_HEADER.fullmatch(file.read(length).decode("latin-1"))
    if header is None:
        fail("bad-array", "only plain arrays of numbers are read; no objects, records or texts.")
    order, letter, digits, fortran, dimensions = header.groups()
    item = int(digits)
    if item not in _ITEM_SIZES.get(letter, ()):
        fail("bad-array", f"arrays of type {letter}{digits} are not read; save integers, floats or booleans.")
    shape = tuple(int(d) for d in dimensions.replace(" ", "").split(",") if d)
    if not 1 <= len(shape) <= MAX_RANK or 0 in shape:
        fail("shape-mismatch", f"its shape is {shape}; the first dimension is the rows, and none may be 0.")
    count = math.prod(shape)
    if shape[0] > MAX_ROWS or count * item > MAX_BYTES:
        fail("too-large", f"it has more than {MAX_ROWS} rows or {MAX_BYTES} bytes.")
    if 8 + prefix + length + count * item != size:
        fail("bad-array", f"its header claims {count * item} bytes of data, the member does not have them.")
    dtype = np.dtype(f"{order}{letter}{digits}" if letter != "b" else "u1")
    stored = np.dtype(
        np.int64 if letter == "u" and item > 1 else np.float32 if dtype.kind == "f" and item == 2 else dtype
    )
    stored = stored.newbyteorder("=")
    columnwise = fortran == "True" and len(shape) > 1
    growing = shelf.growing(stored) if columnwise else None
    out = shelf.empty(shape, stored) if growing is None else None
    done = 0
    while done < count:
        data = file.read(min(_READ_BYTES, (count - done) * item))
        if not data or len(data) % item:
            fail("bad-array", "its data ends early.")
        piece = np.frombuffer(data, dtype)
        if letter == "b":
            piece = (piece != 0).view(np.uint8)  # bytes other than 0 and 1 are true
        if letter == "u" and item == 8 and int(piece.max()) >= 2**63:
            fail("out-of-range", "a number does not fit int64.")
        piece = piece.astype(stored)
        if letter == "f" and len(bad := np.flatnonzero(~(np.abs(piece) <= FLOAT32_MAX))):
            where = np.unravel_index(done + int(bad[0]), shape, order="F" if columnwise else "C")
            fail("not-finite", f"element {list(map(int, where))} is {piece[bad[0]]}, not a finite float32 number.")
        if out is not None:
            out.reshape(-1)[done : done + len(piece)] = piece
        elif growing is not None:
            growing.append(piece)
        done += len(piece)
    if file.read(1):  # asked for, so that a member's check sum is looked at
        fail("bad-array", "there are bytes behind its data.")
    if out is not None:
        return out
    assert growing is not None
    turned = growing.whole().reshape(shape[::-1]).T
    found = shelf.empty(shape, stored)
    for part in pieces(found):
        found[part] = turned[part]
    return found
