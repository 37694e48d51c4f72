"""The reader of .npz archives: directory, headers and sizes are checked here before anything is read; no unpickling.

Knows no dataset folder and no tensor.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Final, Literal, NoReturn

import numpy as np

from service.engine.readers import (
    FLOAT32_MAX,
    MAX_CELLS,
    MAX_MEMBERS,
    MAX_RANK,
    Array,
    Raw,
    check_class_names,
    compact,
    dtype_of,
    folded,
    index_mistake,
    refuse,
    target_column,
)
from service.errors import Entry, shorten
from service.schemas.datasets import MAX_ROWS, Column, Npz
from service.schemas.document import nearest_hint


def read_npz(path: Path, source: Npz, *, at: str = "/source") -> Raw:
    """An archive of numeric arrays as numpy.savez writes it; headers are parsed here, nothing is unpickled.

    Raises:
        DatasetRefused: the archive, a header or the arrays are not what they should be.
    """
    check_class_names(source.classes, at=at)
    if source.target == source.inputs:
        refuse([Entry(f"{at}/target", "invalid", "The target cannot be the inputs too: the net would only copy them.")])
    names = {"inputs": source.inputs} | ({} if source.target is None else {"target": source.target})
    arrays = _members(path, names, at)
    inputs = arrays["inputs"]
    if source.shape is not None:
        inputs = folded(inputs, source.shape, at=at)
    row_shape = inputs.shape[1:]
    columns = [Column(name=source.inputs, role="input", dtype=dtype_of(inputs), shape=row_shape)]
    targets = arrays.get("target")
    if source.target is None or targets is None:
        if source.classes is not None:
            refuse([Entry(f"{at}/classes", "invalid", "Classes were given, but no target.")])
        return Raw("array", tuple(columns), {"inputs": compact(inputs)}, row_shape)
    if len(targets) != len(inputs):
        detail = f"{source.inputs!r} has {len(inputs)} rows, {source.target!r} has {len(targets)}."
        refuse([Entry(f"{at}/target", "shape-mismatch", detail)])
    kind: Literal["number", "class"] = "number"
    if source.classes is not None:
        mistake = index_mistake(targets, source.classes, at=f"{at}/target")
        if mistake:
            refuse([mistake])
        kind, targets = "class", targets.reshape(len(targets)).astype(np.int64)
    columns.append(target_column(source.target, targets, source.classes))
    stored = {"inputs": compact(inputs), "targets": compact(targets)}
    return Raw("array", tuple(columns), stored, row_shape, kind, False, False, source.classes)


_END_OF_DIRECTORY: Final = struct.Struct("<4s4H2LH")


def _members(path: Path, names: dict[str, str], at: str) -> dict[str, Array]:
    _check_directory(path, at)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            known = [info.filename.removesuffix(".npy") for info in infos]
            if len(set(known)) < len(known):
                refuse([Entry(f"{at}/upload", "bad-archive", "Two members of the archive have the same name.")])
            found = [
                Entry(
                    f"{at}/{role}",
                    "unknown-member",
                    f"The archive has no array {shorten(name)}.",
                    hint=nearest_hint(name, known),
                    expected=", ".join(known[:20])[:200],
                )
                for role, name in names.items()
                if name not in known
            ]
            if found:
                refuse(found)
            for role, name in names.items():
                arrays[role] = _array(archive, infos[known.index(name)], name, f"{at}/{role}")
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        # zipfile raises the last two for names that are no UTF-8 and for what it does not implement
        refuse([Entry(f"{at}/upload", "bad-archive", f"The archive is damaged: {str(error)[:100]}.")], because=error)
    return arrays


def _check_directory(path: Path, at: str) -> None:
    """Read the end of the archive ourselves, so that a giant directory is refused before it is in memory."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 65_557))
        tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END_OF_DIRECTORY.size:
        detail = "This is not an .npz archive."
        refuse([Entry(f"{at}/upload", "bad-archive", detail, hint="Write it with numpy.savez.")])
    _, disk, first_disk, here, total, directory, offset, _ = _END_OF_DIRECTORY.unpack_from(tail, place)
    if disk or first_disk or here != total or offset + directory > size:
        refuse([Entry(f"{at}/upload", "bad-archive", "The archive's directory does not fit the file.")])
    if total > MAX_MEMBERS or directory > MAX_MEMBERS * 512:
        refuse([Entry(f"{at}/upload", "too-large", f"The archive has more than {MAX_MEMBERS} members.")])


_NPY_HEADER: Final = re.compile(
    r"""\{\s*['"]descr['"]:\s*['"]([<>|=])([a-zA-Z])([0-9]{1,2})['"],\s*['"]fortran_order['"]:\s*(True|False),\s*"""
    r"""['"]shape['"]:\s*\(([0-9, ]*)\),?\s*\}\s*"""
)
_ITEM_SIZES: Final = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, at: str) -> Array:
    """One member; what its header claims is compared with its size before it is read."""

    def fail(code: str, detail: str) -> NoReturn:
        refuse([Entry(at, code, f"Array {shorten(name)}: {detail}")])

    if info.flag_bits & 0x1:
        fail("bad-archive", "it is encrypted.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fail("bad-archive", "only stored and deflated members are read.")
    with archive.open(info) as file:
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
        if shape[0] > MAX_ROWS or count > MAX_CELLS:
            fail("too-large", f"it has more than {MAX_ROWS} rows or {MAX_CELLS} elements.")
        if 8 + prefix + length + count * item != info.file_size:
            fail("bad-array", f"its header claims {count * item} bytes of data, the member does not have them.")
        data = file.read(count * item + 1)  # one more than there is, so that the check sum is looked at
    if len(data) != count * item:
        fail("bad-array", "its data ends early.")
    array = np.frombuffer(data, dtype=np.dtype(f"{order}{letter}{digits}"))
    array = array.reshape(shape, order="F" if fortran == "True" else "C")
    if letter == "b":
        array = array.view(np.uint8) != 0  # bytes other than 0 and 1 are true
        array = array.view(np.uint8)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if letter == "f":
        array = array.astype(np.float32) if item == 2 else array
        bad = np.flatnonzero(~(np.abs(array) <= FLOAT32_MAX))
        if len(bad):
            where = list(map(int, np.unravel_index(int(bad[0]), shape)))
            fail("not-finite", f"element {where} is {array.reshape(-1)[bad[0]]}, not a finite float32 number.")
    if letter == "u" and item == 8 and int(array.max()) >= 2**63:
        fail("out-of-range", "a number does not fit int64.")
    return array.astype(np.int64) if letter == "u" and item > 1 else array
