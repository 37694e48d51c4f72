"""The files that checkpoints come in: what kind a file is, where its pickle lies, and where the bytes of each storage.

Reads torch's zip archives, torch's older format, safetensors and TorchServe's .mar; recognises what it does not read,
and refuses it with the way out. Reads directories, headers and pickles only, no tensors. Nothing is ever written under
a name that a file gives. Knows no modules and no state_dicts; uses the standard library only.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, Literal, NoReturn

from service.engine import inert
from service.engine.inert import Name, Persistent, Reading, legible, refuse
from service.engine.inspection import ITEM_SIZES, MAX_KEY, MAX_RANK, MAX_TENSORS, Archive, Storage, TensorInfo
from service.errors import CheckpointRefused, shorten

Kind = Literal["zip", "legacy", "safetensors", "mar"]

MAX_ENTRIES: Final = 2 * MAX_TENSORS
MAX_DIRECTORY: Final = 8 * 2**20
MAX_HEADER: Final = 8 * 2**20
MAX_MANIFEST: Final = 64 * 2**10
MAX_INFLATION: Final = 100
"""Weights hardly shrink; what shrinks more than so many times was made to swell."""

SAVE: Final = "torch.save(net.state_dict(), 'weights.pt')"


@dataclass(frozen=True, slots=True)
class StorageId:
    """What a pickle says of a storage that it refers to.

    Args:
        key: its name in the file.
        dtype: type of its elements; None when it is bytes and the tensor has the type.
        count: its elements (bytes, where there is no dtype).
        device: where it was when it was saved.
        offset: element at which a view of the older format begins.
    """

    key: str
    dtype: str | None
    count: int
    device: str
    offset: int = 0

    @property
    def item_size(self) -> int:
        """Bytes of an element."""
        return 1 if self.dtype is None else ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Contents:
    """A file of torch's, taken apart.

    Args:
        kind: in which format.
        reading: its pickle.
        storages: where the bytes of each storage lie.
        written_by: what is known of the torch release that wrote it.
        sources: text of classes, which the older format keeps of whole modules.
    """

    kind: Literal["zip", "legacy"]
    reading: Reading
    storages: dict[str, Storage]
    written_by: str | None
    sources: dict[str, str] = field(default_factory=dict)


def recognise(file: BinaryIO) -> tuple[Kind, dict[str, ZipEntry]]:
    """What kind of file this is, by its first bytes and, for a zip archive, by the names of its entries.

    Returns:
        The kind, and the entries where it is an archive.

    Raises:
        CheckpointRefused: it is another kind; the hint says what to save instead.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(512)
    if not head:
        refuse("truncated", "The file is empty.")
    if head.startswith(b"PK\x03\x04"):
        entries = read_directory(file)
        return _kind_of_archive(entries), entries
    if head.startswith(b"\x80"):
        return _kind_of_pickle(file), {}
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors", {}
    for start, reason, told, hint in _OTHERS:
        if head.startswith(start):
            _refuse_kind(reason, told, hint)
    if head[257:262] == b"ustar":
        _refuse_kind("unsupported-format", "a tar archive", "unpack it, and send the file of weights in it")
    if head[4:8] == b"TFL3":
        _refuse_kind("unsupported-format", "a TensorFlow Lite model", "save the weights from PyTorch")
    if head[:1] == b"\x08" and head[1:2] <= b"\x20" and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"):
        hint = f"send the PyTorch weights instead: {SAVE}"
        _refuse_kind("unsupported-format", "an ONNX model", hint)
    if size < 16:
        refuse("truncated", f"The file has {size} bytes only; it is no checkpoint.")
    told = "This is no file that PyTorch wrote, nor one of safetensors."
    raise CheckpointRefused(told, reason="not-a-checkpoint", hint=f"Save: {SAVE}.")


def read_archive(file: BinaryIO, entries: dict[str, ZipEntry]) -> Contents:
    """A zip archive as torch writes it since 1.6, with the entries that `recognise` found.

    Raises:
        CheckpointRefused: the archive or its pickle is not what it should be.
    """
    prefix = _prefix(entries)
    for entry in entries.values():
        if entry.method != _STORED:
            refuse(
                "compressed",
                f"The entry {shorten(entry.name)} is compressed; torch stores its entries as they are.",
                hint="Send the file that torch.save wrote; an archive that was packed again is not read.",
            )
    order = entries.get(f"{prefix}/byteorder")
    if order is not None and read_entry(file, order, 16) != b"little":
        refuse("unsupported-format", "The tensors are stored with the most significant byte first.")
    reading = inert.read(read_entry(file, entries[f"{prefix}/data.pkl"], inert.MAX_BYTES))
    inert.check_names(reading)
    storages: dict[str, Storage] = {}
    for reference in reading.outside:
        found = storage_id(reference)
        if f"{prefix}/data/{found.key}" not in entries:
            refuse("truncated", f"The file lacks the bytes of the storage {shorten(found.key)}.")
        entry = entries[f"{prefix}/data/{found.key}"]
        if found.count * found.item_size > entry.size:
            refuse(
                "geometry",
                f"The storage {shorten(found.key)} claims {found.count * found.item_size:,} bytes; "
                f"there are {entry.size:,}.",
            )
        storages[found.key] = Storage(found.key, entry.start, entry.size, found.device, entry.crc)
    return Contents("zip", reading, storages, "2.1 or later" if order is not None else "1.6 to 2.0")


def read_legacy(file: BinaryIO) -> Contents:
    """The older format: five pickles, then the storages one behind the other.

    Raises:
        CheckpointRefused: the file is cut off, or not what it should be.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    data = file.read(inert.MAX_BYTES)
    version = inert.read(data, inert.read(data).end)
    if version.value != _LEGACY_PROTOCOL:
        refuse("unsupported-format", "The file is of another version of torch's older format.", hint=f"Save: {SAVE}.")
    system = inert.read(data, version.end)
    if isinstance(system.value, inert.Table) and system.value.texts().get("little_endian") is False:
        refuse("unsupported-format", "The tensors are stored with the most significant byte first.")
    try:
        reading = inert.read(data, system.end)
        keys = inert.read(data, reading.end)
    except CheckpointRefused as error:
        if error.reason == "truncated" and len(data) < size:
            refuse("too-large", f"The file's pickle is longer than {inert.MAX_BYTES:,} bytes.")
        raise
    for pickle in (version, system, reading, keys):
        inert.check_names(pickle)
    if type(keys.value) is not list or not all(type(key) is str for key in keys.value):
        refuse("damaged", "The file does not list its storages.")
    if len(set(keys.value)) < len(keys.value):
        refuse("duplicate-entry", "Two storages of the file have one name.")
    sources: dict[str, str] = {}
    wanted: dict[str, StorageId] = {}
    for reference in reading.outside:
        source = _source(reference)
        if source is not None:
            sources[source[0]] = source[1]
            continue
        found = storage_id(reference)
        earlier = wanted.setdefault(found.key, found)
        if (earlier.count, earlier.dtype) != (found.count, found.dtype):
            refuse("geometry", f"The file gives the storage {shorten(found.key)} two sizes or types.")
    storages: dict[str, Storage] = {}
    place = keys.end
    for key in keys.value:
        if key not in wanted:
            refuse("damaged", f"No tensor of the file refers to the storage {shorten(key)}.")
        found = wanted[key]
        file.seek(place)
        length = file.read(8)
        count = int.from_bytes(length, "little", signed=True)
        if len(length) == 8 and count != found.count:
            detail = f"The storage {shorten(key)} has {count:,} elements; the pickle says {found.count:,}."
            refuse("geometry", detail)
        start, place = place + 8, place + 8 + count * found.item_size
        if place > size:
            refuse("truncated", "The file ends before its last tensor.", hint="Copy it again, and compare the sizes.")
        storages[key] = Storage(key, start, count * found.item_size, found.device, None)
    missing = next((key for key in wanted if key not in storages), None)
    if missing is not None:
        refuse("truncated", f"The file lacks the bytes of the storage {shorten(missing)}.")
    if place != size:
        refuse("damaged", f"{size - place:,} bytes follow the last tensor.")
    return Contents("legacy", reading, storages, None, sources)


def read_safetensors(file: BinaryIO) -> tuple[list[TensorInfo], dict[str, Storage], dict[str, str]]:
    """A file of safetensors: its tensors in the order of their bytes, a storage for each, and its metadata.

    Raises:
        CheckpointRefused: the header does not describe the file: sizes, types, gaps, overlaps, doubled names.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        refuse("too-large", f"The header claims {length:,} bytes; at most {MAX_HEADER:,} are read.")
    if 8 + length > size:
        refuse("truncated", "The file ends within its header.")
    header = _json(file.read(length), "The header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        refuse("damaged", "The member __metadata__ of the header is no object of texts.")
    if len(header) > MAX_TENSORS:
        refuse("too-large", f"The file has {len(header):,} tensors; at most {MAX_TENSORS:,} are read.")
    room = size - 8 - length
    found: list[tuple[int, int, TensorInfo]] = []
    for name, given in header.items():
        check_key(name)
        where = f"The tensor {shorten(name)}"
        if not isinstance(given, dict) or set(given) != {"dtype", "shape", "data_offsets"}:
            refuse("damaged", f"{where} lacks its dtype, shape or data_offsets, or has more.")
        dtype = _SAFETENSORS.get(given["dtype"]) if isinstance(given["dtype"], str) else None
        if dtype is None:
            refuse("dtype", f"{where} has the type {shorten(given['dtype'])}, which is not read.")
        shape, offsets = given["shape"], given["data_offsets"]
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            refuse("damaged", f"{where} has a shape or offsets that are no whole numbers.")
        if len(shape) > MAX_RANK:
            refuse("too-large", f"{where} has {len(shape)} dimensions; at most {MAX_RANK} are read.")
        begin, end = offsets
        if math.prod(shape) * ITEM_SIZES[dtype] != end - begin or end > room:
            refuse("geometry", f"{where} does not have the bytes that its shape and type need.")
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        found.append((begin, end, TensorInfo(name, dtype, tuple(shape), stride, 0, name)))
    found.sort(key=lambda item: item[:2])
    place = 0
    for begin, end, tensor in found:
        if begin != place:
            what = "overlap" if begin < place else "have a gap between them"
            refuse("geometry", f"The bytes of {shorten(tensor.name)} and those before it {what}.")
        place = end
    if place != room:
        refuse("geometry", f"{room - place:,} bytes of the file belong to no tensor.")
    base = 8 + length
    storages = {
        tensor.name: Storage(tensor.name, base + begin, end - begin, "cpu", None) for begin, end, tensor in found
    }
    return [tensor for _, _, tensor in found], storages, metadata


def unpack_mar(file: BinaryIO, target: BinaryIO, *, limit: int) -> Archive:
    """Copy the weights of a TorchServe archive to `target`, and say what else it holds; its code is left where it is.

    Args:
        file: the archive.
        target: where the weights go, as the bytes that they are.
        limit: at most so many bytes are written.

    Raises:
        CheckpointRefused: the archive or its manifest is not what it should be, or it has no weights.
    """
    entries = read_directory(file)
    if _MANIFEST not in entries:
        refuse("damaged", f"The archive speaks of {_MANIFEST}, and does not have it.")
    manifest = _json(read_entry(file, entries[_MANIFEST], MAX_MANIFEST), "The manifest")
    model = manifest.get("model")
    if not isinstance(model, dict):
        refuse("damaged", "The manifest has no member `model`.")

    def word(name: str) -> str | None:
        value = model.get(name)
        return value[:MAX_KEY] if isinstance(value, str) and value else None

    weights = word("serializedFile")
    if weights is None:
        refuse("not-a-checkpoint", "The archive names no file of weights: its model is made by its code.")
    entry = entries.get(weights)
    if entry is None:
        refuse("truncated", f"The archive lacks its file of weights, {shorten(weights)}.")
    if entry.size > limit:
        refuse("too-large", f"The weights of the archive have {entry.size:,} bytes; at most {limit:,} are taken.")
    for piece in _pieces(file, entry):
        target.write(piece)
    target.flush()
    code = [name for name in entries if name.endswith((".py", ".pyc", ".so", ".sh", ".zip", ".whl", ".tar.gz"))]
    return Archive(
        name=word("modelName"),
        version=word("modelVersion"),
        weights=weights,
        handler=word("handler"),
        model_file=word("modelFile"),
        refused=tuple(sorted(name for name in code if name != weights)),
    )


def storage_id(reference: Persistent) -> StorageId:
    """What a reference of a pickle says of a storage.

    Raises:
        CheckpointRefused: it is none, or of a type that is not read.
    """
    found = reference.id
    if type(found) is not tuple or len(found) not in (5, 6) or found[0] != "storage" or type(found[1]) is not Name:
        refuse("damaged", "The pickle refers to something outside of it that is no storage.")
    _, kind, key, device, count = found[:5]
    if type(key) is not str or type(device) is not str or type(count) is not int:
        refuse("damaged", "The pickle refers to a storage by what is no name, device and size.")
    if not 0 <= count < 2**53:
        refuse("geometry", f"The storage {shorten(key)} has the size {shorten(count)}.")
    if len(key) > MAX_KEY or len(device) > 64 or not device.isprintable():
        refuse("damaged", f"The storage {shorten(key)} has an unfit name or device.")
    if kind.module not in ("torch", "torch.cuda", "torch.storage"):
        refuse("damaged", f"The storage {shorten(key)} is a {shorten(str(kind))}.")
    if kind.name in _QUANTISED:
        refuse(
            "dtype",
            "The file holds quantised tensors, which are not read.",
            hint="Save the weights of the float model, from before it was quantised.",
        )
    if kind.name not in _STORAGES:
        refuse("dtype", f"The storage {shorten(key)} is a {shorten(kind.name)}, which is not read.")
    view = found[5] if len(found) == 6 else None
    offset = 0
    if view is not None:
        if type(view) is not tuple or len(view) != 3 or type(view[1]) is not int or not 0 <= view[1] <= count:
            refuse("geometry", f"The storage {shorten(key)} has a view that lies outside of it.")
        offset = view[1]
    return StorageId(key, _STORAGES[kind.name], count, device, offset)


def check_key(name: str) -> None:
    """Refuse a name of a tensor or module that is too long or not printable.

    Raises:
        CheckpointRefused: `too-large` or `damaged`.
    """
    if len(name) > MAX_KEY:
        refuse("too-large", f"The name {shorten(name)} has {len(name):,} characters; at most {MAX_KEY} are read.")
    if not name.isprintable():
        refuse("damaged", f"The name {shorten(name)} has characters that cannot be shown.")


_STORAGES: Final[dict[str, str | None]] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": None,
}
_QUANTISED: Final = frozenset({"QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"})

_SAFETENSORS: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}

# Formats


_MANIFEST: Final = "MAR-INF/MANIFEST.json"
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001

_Other = tuple[bytes, Literal["code", "unsupported-format", "not-a-checkpoint"], str, str]
_OTHERS: Final[tuple[_Other, ...]] = (
    (b"\x89HDF\r\n\x1a\n", "unsupported-format", "an HDF5 file (Keras)", "save the weights from PyTorch"),
    (b"\x93NUMPY", "unsupported-format", "an array of NumPy", f"save the weights from PyTorch: {SAVE}"),
    (b"\x7fELF", "code", "a compiled program (AOTInductor)", f"save the weights of the model instead: {SAVE}"),
    (b"GGUF", "unsupported-format", "a GGUF file", "send the weights that it was converted from"),
    (b"\x1f\x8b", "unsupported-format", "a gzip file", "unpack it first"),
    (b"BZh", "unsupported-format", "a bzip2 file", "unpack it first"),
    (b"\xfd7zXZ\x00", "unsupported-format", "an xz file", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "unsupported-format", "a Zstandard file", "unpack it first"),
    (b"7z\xbc\xaf", "unsupported-format", "a 7z archive", "unpack it first"),
    (b"version https://git-lfs", "not-a-checkpoint", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (b"<", "not-a-checkpoint", "a web page", "download the file again, and look at its beginning"),
)


def _refuse_kind(reason: Literal["code", "unsupported-format", "not-a-checkpoint"], told: str, hint: str) -> NoReturn:
    refuse(reason, f"This is {told}, which is not read.", hint=f"{hint[0].upper()}{hint[1:]}.")


def _kind_of_pickle(file: BinaryIO) -> Kind:
    file.seek(0)
    data = file.read(inert.MAX_BYTES)
    first = inert.read(data)
    if type(first.value) is int and first.value == _MAGIC:
        return "legacy"
    inert.check_names(first)
    _refuse_kind("unsupported-format", "a plain pickle", f"save with torch, not with pickle: {SAVE}")


def _kind_of_archive(entries: dict[str, ZipEntry]) -> Kind:
    if _MANIFEST in entries:
        return "mar"
    names = {name.partition("/")[2] if "/" in name else name for name in entries} | set(entries)
    if any(name.startswith("data/aotinductor/") for name in names):
        hint = f"save the weights of the model instead: {SAVE}"
        _refuse_kind("code", "a package of AOTInductor: compiled code", hint)
    if names & {"archive_format", "serialized_exported_program.json"}:
        hint = "load it where it was made, and save torch.export.load(path).state_dict with torch.save"
        _refuse_kind("code", "a program of torch.export", hint)
    if names & {"constants.pkl", "bytecode.pkl"} or any(name.startswith("code/") for name in names):
        hint = "load it where it was made, and save torch.jit.load(path).state_dict() with torch.save"
        _refuse_kind("code", "a TorchScript program", hint)
    if names & {".data/extern_modules", ".data/python_version"}:
        _refuse_kind("code", "a package of torch.package", f"load it where it was made, and save: {SAVE}")
    if all(name.endswith(".npy") for name in entries):
        _refuse_kind("unsupported-format", "an .npz archive of NumPy", f"save the weights from PyTorch: {SAVE}")
    if "model.weights.h5" in entries:
        _refuse_kind("unsupported-format", "a Keras model", "save the weights from PyTorch")
    if not any(name.endswith("data.pkl") for name in entries):
        inner = next((name for name in entries if name.endswith((".pt", ".pth", ".bin", ".safetensors"))), None)
        hint = f"send its member {shorten(inner)} instead" if inner else f"save: {SAVE}"
        _refuse_kind("not-a-checkpoint", "a zip archive that torch did not write", hint)
    return "zip"


def _prefix(entries: dict[str, ZipEntry]) -> str:
    """The folder that all entries of a torch archive share."""
    prefixes = {name.partition("/")[0] for name in entries}
    prefix = prefixes.pop()
    if prefixes or f"{prefix}/data.pkl" not in entries:
        refuse("damaged", "The entries of the archive do not lie in one folder with a data.pkl, as torch writes them.")
    return prefix


def _source(reference: Persistent) -> tuple[str, str] | None:
    """Class and source text, where a reference of the older format is to a class instead of a storage."""
    found = reference.id
    if type(found) is not tuple or len(found) != 4 or found[0] != "module" or type(found[1]) is not Name:
        return None
    return str(found[1]), found[3] if type(found[3]) is str else ""


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**53 for value in values)


def _json(data: bytes, what: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = {legible(name): legible(value) if type(value) is str else value for name, value in pairs}
        if len(made) < len(pairs):
            refuse("duplicate-entry", f"{what} has a member twice.")
        return made

    try:
        found = json.loads(data.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{what} is no JSON.", reason="damaged") from error
    if not isinstance(found, dict):
        refuse("damaged", f"{what} is no JSON object.")
    return found


# The zip format (APPNOTE.TXT), as far as torch and the model archiver use it


_STORED: Final = 0
_DEFLATED: Final = 8
_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """An entry of a zip archive: its name, how it is packed, where its header and its bytes begin, and its sizes."""

    name: str
    method: int
    header: int
    start: int
    packed: int
    size: int
    crc: int


def read_directory(file: BinaryIO) -> dict[str, ZipEntry]:
    """Every entry of a zip archive by name; the directory, the entries' own headers and the file's size must agree.

    Raises:
        CheckpointRefused: they do not, or an entry is encrypted, doubled, lies over another, or has an unfit name.
    """
    size = file.seek(0, os.SEEK_END)
    count, length, offset, end = _ending(file, size)
    if count > MAX_ENTRIES or length > MAX_DIRECTORY:
        refuse("too-large", f"The archive has more than {MAX_ENTRIES:,} entries, or too large a directory.")
    if offset + length != end:
        refuse("damaged", "The archive's directory is not where the archive says.")
    file.seek(offset)
    directory = file.read(length)
    entries: dict[str, ZipEntry] = {}
    place = 0
    for _ in range(count):
        place = _central(directory, place, entries)
    if place != length or not entries:
        refuse("damaged", "The archive's directory does not have the size that it gives.")
    free = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.header):
        if entry.header < free:
            refuse("duplicate-entry", f"The entry {shorten(entry.name)} lies over another.")
        checked = _with_start(file, entry, offset)
        entries[entry.name] = checked
        free = checked.start + checked.packed
    return entries


def read_entry(file: BinaryIO, entry: ZipEntry, limit: int) -> bytes:
    """The bytes of a small entry, its check sum compared.

    Raises:
        CheckpointRefused: it is larger than `limit`, or not what the directory says.
    """
    if entry.size > limit:
        refuse("too-large", f"The entry {shorten(entry.name)} has {entry.size:,} bytes; at most {limit:,} are read.")
    return b"".join(_pieces(file, entry))


def _pieces(file: BinaryIO, entry: ZipEntry) -> Any:
    """The bytes of an entry, a piece at a time; the check sum is compared at the end."""
    inflater = zlib.decompressobj(-15) if entry.method == _DEFLATED else None
    file.seek(entry.start)
    left, made, crc = entry.packed, 0, 0
    pending = b""
    while left or pending:
        if not pending:
            pending = file.read(min(left, 2**20))
            left -= len(pending)
            if not pending:
                refuse("truncated", f"The file ends within the entry {shorten(entry.name)}.")
        if inflater is None:
            piece, pending = pending, b""
        else:
            try:
                piece = inflater.decompress(pending, 2**20)
            except zlib.error as error:
                detail = f"The entry {shorten(entry.name)} cannot be unpacked."
                raise CheckpointRefused(detail, reason="damaged") from error
            pending = inflater.unconsumed_tail
        made += len(piece)
        if made > entry.size:
            refuse("geometry", f"The entry {shorten(entry.name)} is larger than the archive says.")
        crc = zlib.crc32(piece, crc)
        yield piece
    if made != entry.size:
        refuse("truncated", f"The entry {shorten(entry.name)} is smaller than the archive says.")
    if crc != entry.crc:
        refuse("crc-mismatch", f"The check sum of the entry {shorten(entry.name)} is another.", hint=CRC_HINT)


CRC_HINT: Final = (
    "Copy the file again. If it was written under torch.serialization.set_crc32_options(False), save it without."
)


def _ending(file: BinaryIO, size: int) -> tuple[int, int, int, int]:
    """Count, length and place of the directory, and where what ends the archive begins."""
    place = size - _END.size
    file.seek(max(0, place))
    tail = file.read(_END.size)
    if not tail.startswith(b"PK\x05\x06") or len(tail) < _END.size:
        refuse("truncated", "The archive has no end, or bytes behind it.", hint="Copy it again, and compare the sizes.")
    _, disk, first, here, count, length, offset, comment = _END.unpack(tail)
    if comment or disk != first or here != count:
        refuse("damaged", "The archive's end is not as torch writes it.")
    if place >= _LOCATOR.size:
        file.seek(place - _LOCATOR.size)
        locator = file.read(_LOCATOR.size)
        if locator.startswith(b"PK\x06\x07"):
            _, _, where, _ = _LOCATOR.unpack(locator)
            if where + _END_64.size != place - _LOCATOR.size:
                refuse("damaged", "The archive's end is not where the archive says.")
            file.seek(where)
            _, _, _, _, disk, first, here, count, length, offset = _END_64.unpack(file.read(_END_64.size))
            if disk != first or here != count:
                refuse("damaged", "The archive's end is not as torch writes it.")
            place = where
    return count, length, offset, place


def _central(directory: bytes, place: int, entries: dict[str, ZipEntry]) -> int:
    """Read the directory's line at `place` into `entries`; the place of the next one."""
    if len(directory) < place + _CENTRAL.size or directory[place : place + 4] != b"PK\x01\x02":
        refuse("damaged", "The archive's directory is damaged.")
    fields = _CENTRAL.unpack_from(directory, place)
    flags, method, crc, packed, size = fields[3], fields[4], *fields[7:10]
    name_length, extra_length, comment_length, attributes, header = *fields[10:13], fields[15], fields[16]
    place += _CENTRAL.size
    end = place + name_length + extra_length + comment_length
    if end > len(directory):
        refuse("damaged", "The archive's directory is damaged.")
    name = _entry_name(directory[place : place + name_length])
    if flags & 0x2041:
        refuse("unsupported-format", f"The entry {shorten(name)} is encrypted.", hint="Send it unencrypted.")
    if method not in (_STORED, _DEFLATED):
        refuse("compressed", f"The entry {shorten(name)} is compressed in a way that is not read.")
    if stat.S_ISLNK(attributes >> 16):
        refuse("damaged", f"The entry {shorten(name)} is a link.")
    wide = _wide(directory[place + name_length : place + name_length + extra_length], (size, packed, header))
    size, packed, header = wide
    if method == _STORED and size != packed:
        refuse("geometry", f"The entry {shorten(name)} has two sizes.")
    if size > MAX_INFLATION * packed + 4096:
        refuse("compressed", f"The entry {shorten(name)} would swell to {size:,} bytes from {packed:,}.")
    if name in entries:
        refuse("duplicate-entry", f"The archive has the entry {shorten(name)} twice.")
    entries[name] = ZipEntry(name, method, header, 0, packed, size, crc)
    return end


def _entry_name(data: bytes) -> str:
    try:
        name = data.decode()
    except UnicodeDecodeError as error:
        raise CheckpointRefused("An entry of the archive has a name that is no UTF-8.", reason="damaged") from error
    steps = name.removesuffix("/").split("/")
    if not name or len(name) > inert.MAX_NAME or not name.isprintable() or "\\" in name or {"", ".", ".."} & {*steps}:
        refuse("damaged", f"The archive has an entry of the unfit name {shorten(name)}.")
    return name


def _wide(extra: bytes, fields: tuple[int, int, int]) -> list[int]:
    """Sizes and place of an entry, from its zip64 field where they do not fit 32 bits."""
    values = list(fields)
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        place += 4
        if kind == 1:
            at = place
            for index, value in enumerate(values):
                if value == 0xFFFFFFFF:
                    if at + 8 > min(place + length, len(extra)):
                        refuse("damaged", "An entry of the archive lacks its size.")
                    values[index] = int.from_bytes(extra[at : at + 8], "little")
                    at += 8
        place += length
    return values


def _with_start(file: BinaryIO, entry: ZipEntry, limit: int) -> ZipEntry:
    """The entry with the place of its bytes, from its own header, which must say what the directory says."""
    file.seek(entry.header)
    data = file.read(_LOCAL.size)
    if entry.header + _LOCAL.size > limit or not data.startswith(b"PK\x03\x04"):
        refuse("geometry", f"The entry {shorten(entry.name)} is not where the directory says.")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(data)
    name = file.read(name_length)
    later = bool(flags & 8)  # sizes follow the bytes; torch leaves them out here
    same = (method, name) == (entry.method, entry.name.encode())
    for given, known in ((crc, entry.crc), (packed, entry.packed), (size, entry.size)):
        same = same and (given == known or (later and given == 0) or (given == 0xFFFFFFFF and known >= given))
    if not same or flags & 0x2041:
        refuse("damaged", f"The entry {shorten(entry.name)} is not what the directory says of it.")
    start = entry.header + _LOCAL.size + name_length + extra_length
    if start + entry.packed > limit:
        refuse("geometry", f"The entry {shorten(entry.name)} does not lie inside the archive.")
    return ZipEntry(entry.name, entry.method, entry.header, start, entry.packed, entry.size, entry.crc)
