"""A version as one zip file that stands on its own: documents, weights, golden rows, and Python to load it anywhere.

The bytes depend on the version (and on the release of this service) alone: entries are stored, sorted, and without
times. A bundle that comes back is a stranger's file: `read_bundle` takes it for data, checks every byte against the
manifest, and runs and unpickles nothing. Knows the files of a version; knows no store, no job and no request.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NoReturn

import orjson
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from service.engine import checkpoint, containers, export, predictor
from service.engine.export import Assembly, Piece
from service.errors import CheckpointReason, CheckpointRefused, shorten
from service.schemas import architecture as architectures
from service.schemas.architecture import Architecture
from service.schemas.document import Document, entries
from service.schemas.preprocessing import FIRST_WORD, Preprocessing, TableRow, TextColumn, TokensColumn
from service.schemas.python_source import python_source
from service.schemas.versions import Manifest, VersionDraft, VersionFile

FORMAT: Final = "modelyard-bundle"
MANIFEST: Final = "manifest.json"
GOLDEN: Final = "golden.safetensors"
MAX_DOCUMENT: Final = 8 * 2**20
"""Bytes of a document or a program in a bundle that comes back."""
MAX_GOLDEN: Final = 256 * 2**20
_MAX_ENTRIES: Final = 32
_BLOCK: Final = 1 << 20


class BundleManifest(Document):
    """What a bundle says of itself: the version's manifest as it was published, and every other entry.

    Args:
        build: torch and processor that the golden answers were recorded with.
    """

    format: Literal["modelyard-bundle"]
    format_version: Literal[1]
    version: Manifest
    build: dict[str, str]
    files: tuple[VersionFile, ...]


# -- writing ----------------------------------------------------------------------------------------------------------


def weights_crc(folder: Path) -> int:
    """The check sum of the version's weights, which `assemble` needs each time and which takes a look at every byte."""
    return zlib.crc32(_mapped(folder / predictor.WEIGHTS))


def assemble(folder: Path, manifest: Manifest, *, crc: int | None = None) -> Assembly:
    """The bundle of the version in `folder`. Its weights are mapped, not read into memory.

    Args:
        folder: with the files that the manifest lists; that they are the published ones was seen before.
        manifest: the version's.
        crc: what `weights_crc` said of it before.

    Raises:
        CheckpointRefused: the files of the version are damaged.
        OSError: one cannot be read.
    """
    document = (folder / predictor.ARCHITECTURE).read_bytes()
    golden = checkpoint.load(folder / predictor.GOLDEN)
    contents: dict[str, tuple[Piece, ...]] = {
        predictor.ARCHITECTURE: (document,),
        predictor.PREPROCESSING: ((folder / predictor.PREPROCESSING).read_bytes(),),
        predictor.WEIGHTS: (_mapped(folder / predictor.WEIGHTS),),
        GOLDEN: export.pack_safetensors(_flat(golden)).pieces,
        "README.md": (_README.format(model=manifest.model, version=manifest.version, digest=manifest.digest).encode(),),
        "load.py": (_LOAD.encode(),),
        "model.py": (python_source(architectures.parse(orjson.loads(document))).encode(),),
        "rows.py": (_ROWS.encode(),),
    }
    known = {file.name: file.sha256 for file in manifest.files if file.name == predictor.WEIGHTS}
    files = [
        {
            "name": name,
            "size_bytes": Assembly(pieces).size_bytes,
            "sha256": known.get(name) or Assembly(pieces).sha256(),
        }
        for name, pieces in sorted(contents.items())
    ]
    about = {
        "format": FORMAT,
        "format_version": 1,
        "version": manifest.model_dump(mode="json"),
        "build": golden["build"],
        "files": files,
    }
    contents[MANIFEST] = (json.dumps(about, indent=1, sort_keys=True).encode(),)
    return zipped(contents, crcs={predictor.WEIGHTS: weights_crc(folder) if crc is None else crc})


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _flat(golden: Mapping[str, Any]) -> dict[str, Tensor]:
    """Golden rows as tensors by name: input.0.numbers, input.0.codes, output.0."""
    found = {f"output.{place}": output for place, output in enumerate(golden["outputs"])}
    for place, part in enumerate(golden["inputs"]):
        found |= {f"input.{place}.{name}": value for name, value in part.items() if value is not None}
    return found


_NARROW: Final = 0xFFFFFFFF
"""What does not fit 32 bits is written as this, and stands in a field of its own (zip64)."""
_TIME: Final = 0
_DATE: Final = (1 << 5) | 1
"""The first day that zip files can have, 1980-01-01."""
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_READABLE: Final = 0o100644 << 16


def zipped(
    contents: Mapping[str, Sequence[Piece]], *, crcs: Mapping[str, int] | None = None, narrow: int = _NARROW
) -> Assembly:
    """A zip file of stored entries: sorted by name, all of one time, so that equal contents are equal bytes.

    Args:
        contents: the pieces of each entry, by its ASCII name.
        crcs: check sums of entries, where they are known.
        narrow: sizes and places from here on are written as zip64.
    """
    pieces: list[Piece] = []
    directory = b""
    offset = 0
    for name, parts in sorted(contents.items()):
        size = sum(len(part) for part in parts)
        crc = (crcs or {}).get(name, 0)
        for part in parts if crcs is None or name not in crcs else ():
            crc = zlib.crc32(part, crc)
        label = name.encode("ascii")
        wide = size >= narrow
        shown = _NARROW if wide else size
        extra = struct.pack("<2H2Q", 1, 16, size, size) if wide else b""
        needs = 45 if wide else 20
        head = _LOCAL.pack(
            b"PK\x03\x04", needs, 0, 0, _TIME, _DATE, crc, shown, shown, len(label), len(extra)
        ) + label + extra  # fmt: skip
        far = offset >= narrow
        values = ([size, size] if wide else []) + ([offset] if far else [])
        extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""
        needs = 45 if values else 20
        directory += _CENTRAL.pack(
            b"PK\x01\x02", 3 << 8 | needs, needs, 0, 0, _TIME, _DATE, crc, shown, shown, len(label), len(extra),
            0, 0, 0, _READABLE, _NARROW if far else offset,
        ) + label + extra  # fmt: skip
        pieces += [head, *parts]
        offset += len(head) + size
    count = len(contents)
    ending = b""
    if offset >= narrow:
        ending = _END_64.pack(
            b"PK\x06\x06", _END_64.size - 12, 3 << 8 | 45, 45, 0, 0, count, count, len(directory), offset
        ) + _LOCATOR.pack(b"PK\x06\x07", 0, offset + len(directory), 1)  # fmt: skip
    ending += _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), min(offset, narrow, _NARROW), 0)
    return Assembly((*pieces, directory, ending))


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle that was found whole and well-formed. Its weights are still a stranger's file.

    Args:
        version: the manifest of the version that it was made of.
        architecture: its document, parsed; not judged yet.
        preprocessing: its fitted preprocessing.
        golden: raw rows with the answers that they must give, as `Predictor.deviation` takes them.
        weights_start: first byte of `weights.pt` in the file.
        weights_size: its bytes.
    """

    version: Manifest
    architecture: Architecture
    preprocessing: Preprocessing
    golden: dict[str, Any]
    weights_start: int
    weights_size: int

    def unpack_weights(self, file: BinaryIO, target: BinaryIO) -> None:
        """Copy `weights.pt` out of the bundle, for whoever reads foreign checkpoints."""
        file.seek(self.weights_start)
        left = self.weights_size
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                _refuse("truncated", "The file ends within its weights.")
            target.write(block)
            left -= len(block)
        target.flush()

    def require_same(self, made: VersionDraft) -> None:
        """See that what was made of the bundle is the version that it was made of.

        Raises:
            CheckpointRefused: `digest-mismatch`, naming what differs.
        """
        parts = ("architecture_digest", "weights_digest", "digest")
        differs = [part for part in parts if getattr(made, part) != getattr(self.version, part)]
        if differs:
            what = ", ".join(part.replace("_", " ") for part in differs)
            _refuse("digest-mismatch", f"What the bundle holds does not have the digests of its manifest: {what}.")

    @property
    def origin(self) -> dict[str, Any]:
        """Where a version made of this comes from, for its lineage."""
        return {
            "format": FORMAT,
            "model": self.version.model,
            "version": self.version.version,
            "digest": self.version.digest,
            "created_at": self.version.created_at,
            "metrics": self.version.metrics,
        }


def sources_of(wanted: Collection[str], given: Collection[str]) -> dict[str, tuple[str, ...] | None]:
    """Which tensor of the bundle's weights is which of the net's.

    Names are equal, unless the reader took a beginning such as `module.` for what training in parallel leaves there.

    Raises:
        CheckpointRefused: one is missing.
    """
    found: dict[str, tuple[str, ...] | None] = {}
    for key in wanted:
        name = key
        while name not in given:
            _, dot, name = name.partition(".")
            if not dot:
                _refuse("keys", f"The weights lack {shorten(key)}.")
        found[key] = (name,)
    return found


def recognises(path: Path) -> bool:
    """Whether the file means to be a bundle, whatever else is wrong with it: a zip file with our manifest in it."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
        try:
            found = containers.read_directory(file)
            content = containers.read_entry(file, found[MANIFEST], MAX_DOCUMENT) if MANIFEST in found else b""
        except CheckpointRefused:
            return False
    return f'"{FORMAT}"'.encode() in content


def read_bundle(file: BinaryIO) -> Bundle:
    """Take a bundle apart: names, sizes and the digest of every entry checked, documents read by their schemas.

    Nothing of its Python is looked at, and its weights are not opened.

    Raises:
        CheckpointRefused: why it cannot be taken.
        ArchitectureInvalid, ArchitectureTooLarge: its document has mistakes.
    """
    found: Mapping[str, Any] = containers.read_directory(file)
    if len(found) > _MAX_ENTRIES:
        _refuse("too-large", f"The bundle has {len(found)} entries; at most {_MAX_ENTRIES} are read.")
    if MANIFEST not in found:
        _refuse("not-a-checkpoint", f"The zip file has no {MANIFEST}: it is no bundle.")
    for entry in found.values():
        if entry.method != 0:
            _refuse("compressed", f"The entry {shorten(entry.name)} is compressed; bundles store their entries.")
    about = _parsed(TypeAdapter(BundleManifest), containers.read_entry(file, found[MANIFEST], MAX_DOCUMENT), MANIFEST)
    told = {each.name: each for each in about.files}
    if len(told) != len(about.files):
        _refuse("duplicate-entry", "The manifest lists a file twice.")
    for name in sorted({MANIFEST, *told} ^ set(found)):
        what = "lacks" if name in told else "has, beside what its manifest lists,"
        _refuse("truncated" if name in told else "damaged", f"The bundle {what} {shorten(name)}.")
    for name in _NEEDED:
        if name not in told:
            _refuse("truncated", f"The bundle lacks {name}.")
    for name, each in told.items():
        limit = MAX_GOLDEN if name == GOLDEN else MAX_DOCUMENT
        if name != predictor.WEIGHTS and found[name].size > limit:
            _refuse("too-large", f"The entry {shorten(name)} has more than {limit:,} bytes.")
        if (found[name].size, _digest(file, found[name])) != (each.size_bytes, each.sha256):
            _refuse("digest-mismatch", f"The entry {shorten(name)} is not the one that the manifest lists.")
    published = {each.name: each.sha256 for each in about.version.files}
    for name in (predictor.ARCHITECTURE, predictor.PREPROCESSING, predictor.WEIGHTS):
        if published.get(name) != told[name].sha256:
            _refuse("digest-mismatch", f"{name} is not the one that the version was published with.")

    def content(name: str, limit: int = MAX_DOCUMENT) -> bytes:
        return containers.read_entry(file, found[name], limit)

    architecture = architectures.parse(_json(content(predictor.ARCHITECTURE), predictor.ARCHITECTURE))
    if architectures.digest_of(architecture) != about.version.architecture_digest:
        _refuse("digest-mismatch", "The document does not have the digest that the manifest gives.")
    preprocessing = _parsed(TypeAdapter(Preprocessing), content(predictor.PREPROCESSING), predictor.PREPROCESSING)
    return Bundle(
        version=about.version,
        architecture=architecture,
        preprocessing=preprocessing,
        golden=_golden(content(GOLDEN, MAX_GOLDEN), about.build, preprocessing, len(architecture.inputs)),
        weights_start=found[predictor.WEIGHTS].start,
        weights_size=found[predictor.WEIGHTS].size,
    )


_NEEDED: Final = (predictor.ARCHITECTURE, predictor.PREPROCESSING, predictor.WEIGHTS, GOLDEN)


def _digest(file: BinaryIO, entry: Any) -> str:
    hashed = hashlib.sha256()
    file.seek(entry.start)
    left = entry.size
    while left and (block := file.read(min(left, _BLOCK))):
        hashed.update(block)
        left -= len(block)
    return hashed.hexdigest()


def _json(content: bytes, name: str) -> Any:
    try:
        return orjson.loads(content)  # refuses NaN, deep nesting and what is no UTF-8
    except ValueError as error:
        raise CheckpointRefused(f"{name} is not well-formed JSON.", reason="damaged") from error


def _parsed(adapter: TypeAdapter[Any], content: bytes, name: str) -> Any:
    value = _json(content, name)
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        found, more = entries(error, value, "", schema=adapter.core_schema)
        detail = f"{name} is not what a bundle has there."
        raise CheckpointRefused(detail, reason="damaged", errors=found, more=more) from error


def _golden(content: bytes, build: dict[str, str], preprocessing: Preprocessing, inputs: int) -> dict[str, Any]:
    """Golden rows in the form that `Predictor.golden` gives them."""
    told, storages, _ = containers.read_safetensors(BytesIO(content))
    tensors: dict[str, Tensor] = {}
    for each in told:
        lies = storages[each.storage]
        data = bytearray(content[lies.start : lies.start + lies.size])
        dtype = getattr(torch, each.dtype)
        tensors[each.name] = (
            torch.frombuffer(data, dtype=dtype).reshape(each.shape) if data else torch.empty(each.shape, dtype=dtype)
        )
    rows_of = preprocessing.rows if len(preprocessing.rows) == inputs else preprocessing.rows[:1] * inputs
    texts = [row.texts if isinstance(row, TableRow) else () for row in rows_of]
    taken = [
        f"input.{place}.{name}" for place in range(inputs) for name in ("numbers", "codes")[: 2 if texts[place] else 1]
    ]
    given = [f"output.{place}" for place in range(len(tensors) - len(taken))]
    if not given or set(tensors) != {*taken, *given}:
        _refuse("damaged", "The golden rows are not those of a net with such inputs.")
    rows = {tensors[name].shape[:1] for name in taken}
    if len(rows) != 1 or rows <= {(), (0,)} or not {tensors[name].dtype for name in taken} <= _OF_ROWS:
        _refuse("damaged", "The golden rows are not as many for each input, or of a type that rows do not have.")
    for place, columns in enumerate(texts):
        if not columns:
            continue
        codes = tensors[f"input.{place}.codes"]
        sizes = torch.tensor([size for column in columns for size in _code_sizes(column)])
        if codes.dtype != torch.int64 or codes.shape[1:] != sizes.shape or ((codes < -1) | (codes >= sizes)).any():
            _refuse("damaged", "The golden rows have texts that the preprocessing does not have.")
    return {
        "build": build,
        "inputs": [
            {"numbers": tensors[f"input.{place}.numbers"], "codes": tensors.get(f"input.{place}.codes")}
            for place in range(inputs)
        ],
        "outputs": [tensors[name] for name in given],
    }


def _code_sizes(column: TextColumn | TokensColumn) -> list[int]:
    """How many different codes each place of a column may have."""
    if isinstance(column, TextColumn):
        return [len(column.categories)]
    return [FIRST_WORD + len(column.words)] * column.max_length


_OF_ROWS: Final = {torch.float16, torch.float32, torch.float64, torch.bool, torch.uint8} | {
    *(torch.int8, torch.int16, torch.int32, torch.int64),
}
"""Types that NumPy has too."""


def _refuse(reason: CheckpointReason, detail: str) -> NoReturn:
    raise CheckpointRefused(detail, reason=reason, hint="Download the bundle again where the version is.")


# -- what is written into each bundle ---------------------------------------------------------------------------------

_README: Final = """\
# {model}, version {version}

Digest: `{digest}`

    python load.py

loads the net with plain PyTorch (2.6 or later), lets it answer its golden rows, and compares with the recorded answers.

| file | what it is |
| --- | --- |
| `manifest.json` | what this version is, and the SHA-256 of every file here |
| `architecture.json` | the net as a document |
| `model.py` | the same net as Python; `net` is an instance |
| `weights.pt` | its state_dict, as `torch.save` wrote it |
| `preprocessing.json` | what stands between a raw row and the net |
| `rows.py` | that preprocessing with plain PyTorch, and a reader of the golden rows |
| `golden.safetensors` | a few raw rows with their answers |

Modelyard takes the file back: upload it, then submit `{{"kind": "import", "upload": "up_…", "output": …}}`.
"""

_LOAD: Final = '''\
"""Load this net with plain PyTorch, and let it answer its golden rows again."""

import torch
from model import net
from rows import HERE, golden, prepare, restore

net.load_state_dict(torch.load(HERE / "weights.pt", weights_only=True))
net.eval()
rows, recorded = golden()
with torch.inference_mode():
    answers = restore(net(*prepare(rows)))
print(answers)
torch.testing.assert_close(answers, recorded, rtol=1e-4, atol=1e-6, equal_nan=True)
'''

_ROWS: Final = '''\
"""Raw rows as the net takes them, its answers in the target's units, and the golden rows: plain PyTorch."""

import json
from pathlib import Path

import torch

HERE = Path(__file__).parent
INPUTS = json.loads((HERE / "architecture.json").read_text(encoding="utf-8"))["inputs"]
FITTED = json.loads((HERE / "preprocessing.json").read_text(encoding="utf-8"))
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "U8": "uint8"}
DTYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)} | {"C64": "complex64"}


def golden():
    """Recorded raw rows, one (numbers, category codes or None) for each input, and the answers to them."""
    data = (HERE / "golden.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, about in json.loads(data[8:start]).items():
        first, last = (start + offset for offset in about["data_offsets"])
        dtype = getattr(torch, DTYPES[about["dtype"]])
        found[name] = torch.frombuffer(bytearray(data[first:last]), dtype=dtype).reshape(about["shape"])
    rows = [(found[f"input.{i}.numbers"], found.get(f"input.{i}.codes")) for i in range(len(INPUTS))]
    return rows, [found[f"output.{i}"] for i in range(sum(name.startswith("output.") for name in found))]


def prepare(rows):
    """What the net takes, of raw rows: numbers [N, ...], and a code for each text (-1 for one that is not known)."""
    fitted = FITTED.get("inputs") or [FITTED] * len(rows)
    return [
        prepared(numbers, codes, one).to(getattr(torch, about.get("dtype", "float32")))
        for (numbers, codes), about, one in zip(rows, INPUTS, fitted)
    ]


def prepared(numbers, codes, fitted):
    """The fitted steps on the rows of one input."""
    columns = (fitted.get("row") or {}).get("columns", [])
    names = [column["name"] for column in columns if column["kind"] == "number"]
    encoders = {}
    for step in fitted.get("steps", []):
        if step["type"] in ("one_hot", "vocabulary", "tokens"):
            encoders.update((name, step["type"]) for name in step["columns"])
            continue
        numbers = numbers.double().clone()
        if columns:
            places = [names.index(name) for name in step["columns"]]
            numbers[:, places] = changed(numbers[:, places], step, ())
        else:
            numbers = changed(numbers, step, numbers.shape)
    if codes is None:
        return numbers
    parts, number, text = [], 0, 0
    for column in columns:
        if column["kind"] == "number":
            parts.append(numbers[:, number : number + 1].double())
            number += 1
            continue
        width = column.get("max_length", 1)
        own = codes[:, text : text + width]
        text += width
        if encoders[column["name"]] == "one_hot":
            own = own == torch.arange(len(column["categories"]))
        elif encoders[column["name"]] == "vocabulary":
            own = torch.where(own < 0, len(column["categories"]), own)
        parts.append(own.double())
    return torch.cat(parts, dim=1)


def changed(numbers, step, shape):
    """Numbers behind one step; where rows have a shape, `shape` is that of all of them."""
    if step["type"] == "log":
        return torch.log(numbers + step["offset"])
    if step["type"] == "clip":
        low = [-float("inf") if each is None else each for each in step["low"]]
        high = [float("inf") if each is None else each for each in step["high"]]
        low, high = (spread(torch.tensor(part, dtype=torch.float64), shape) for part in (low, high))
        return torch.minimum(torch.maximum(numbers, low), high)
    if step["type"] == "impute":
        return torch.where(numbers.isnan(), torch.tensor(step["value"], dtype=torch.float64), numbers)
    if step["type"] == "resize":
        return torch.nn.functional.interpolate(numbers, size=step["size"], mode="bilinear", antialias=True)
    if step["type"] == "center_crop":
        (height, width), (top, left) = step["size"], ((a - b) // 2 for a, b in zip(numbers.shape[-2:], step["size"]))
        return numbers[..., top : top + height, left : left + width]
    shift, scale = shift_and_scale(step, shape)
    return (numbers / step.get("scale", 1.0) - shift) / scale


def restore(answers):
    """The net's answers in the units of the targets that it was trained on."""
    answers = [answers] if isinstance(answers, torch.Tensor) else list(answers)
    for step in reversed((FITTED.get("target") or {}).get("steps", [])):
        for place, answer in enumerate(answers):
            if step["type"] == "log":
                answers[place] = (answer.double().exp() - step["offset"]).to(answer.dtype)
                continue
            shift, scale = shift_and_scale(step, answer.shape)
            answers[place] = (answer.double() * scale + shift).to(answer.dtype)
    return answers


def shift_and_scale(step, shape):
    """The two numbers of each column; along the first axis behind the rows where there are several."""
    if step["type"] != "min_max":
        shift = torch.tensor(step["mean"], dtype=torch.float64)
        scale = torch.tensor(step["std"], dtype=torch.float64)
    else:
        shift = torch.tensor(step["low"], dtype=torch.float64)
        scale = torch.tensor(step["high"], dtype=torch.float64) - shift
    return (spread(part, shape) for part in (shift, scale))


def spread(part, shape):
    """One number for each entry of the first axis behind the rows, or for each column."""
    return part.reshape([-1] + [1] * (len(shape) - 2) if len(shape) > 1 else part.shape)
'''
