"""Checkpoints made to do harm, each with the reasons that it may be refused for; none of them means it is harmless.

Written byte by byte: no pickle is made by pickling, so nothing here needs the thing that it names.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Hostile:
    """A file: what it tries, its bytes, and the reasons for which it may be refused (empty: it is read, inertly)."""

    name: str
    data: bytes
    reasons: frozenset[str]


def every(canary: str) -> Iterator[Hostile]:
    """Every hostile file; those that would run something would make the file `canary`."""

    def case(name: str, data: bytes, *reasons: str) -> Hostile:
        return Hostile(name, data, frozenset(reasons))

    touch = f"touch {canary}"
    system = name("posix", "system") + text(touch) + b"\x85R"
    # Code
    yield case("reduce at the root", archive(b"\x80\x02" + system + b"."), "code")
    yield case("reduce beside the weights", archive(table(w=tensor(), x=system)), "code")
    yield case(
        "reduce with eval", archive(table(w=tensor(), x=name("builtins", "eval") + text("1") + b"\x85R")), "code"
    )
    yield case(
        "reduce with Python 2's name", archive(table(x=name("__builtin__", "exec") + text("") + b"\x85R")), "code"
    )
    nested = name("builtins", "getattr") + name("torch", "hub") + text("load") + b"\x86R" + text(touch) + b"\x85R"
    yield case("call of what a call gave", archive(table(w=tensor(), x=nested)), "code")
    linear = name("torch.nn.modules.linear", "Linear") + number(60000) + number(60000) + b"\x86R"
    yield case("call of a layer's class", archive(table(w=tensor(), x=linear)), "code")
    runstring = name("numpy.testing._private.utils", "runstring") + text(touch) + b"}\x86R"
    yield case("call of a function of numpy", archive(table(w=tensor(), x=runstring)), "code")
    jit = name("torch.jit", "load") + text(canary) + b"\x85R"
    yield case("call of torch.jit.load", archive(table(w=tensor(), x=jit)), "code")
    stacked = text("posix") + text("system") + b"\x93" + text(touch) + b"\x85R"
    yield case("name from the stack", archive(b"\x80\x04" + table(x=stacked)[2:]), "code")
    yield case("hook of the system", archive(module(_forward_hooks=table(k=name("os", "system"))[2:-1])), "code")
    yield case("hook of the writer", archive(module(_forward_hooks=table(k=name("__main__", "hook"))[2:-1])))
    yield case("forward on the object", archive(module(forward=name("__main__", "forward"))), "code")
    yield case("forward of torch on the object", archive(module(forward=name("torch", "relu"))), "code")
    yield case(
        "class of the writer with a state", archive(table(w=tensor(), x=made("__main__", "Evil", table()[2:-1])))
    )
    yield case("extension code", archive(b"\x80\x02\x82\x01."), "code")
    yield case("four-byte extension code", archive(b"\x80\x02\x84\x01\x00\x00\x00."), "code")
    inst = b"\x80\x02(" + text(touch) + b"iposix\nsystem\n."
    yield case("INST", archive(inst), "unsupported-format")
    yield case("OBJ", archive(b"\x80\x02(" + name("posix", "system") + text(touch) + b"o."), "unsupported-format")
    yield case("plain pickle with code", b"\x80\x02" + system + b".", "code")
    yield case("plain pickle of protocol 0", f"cposix\nsystem\n(S'{touch}'\ntR.".encode(), "not-a-checkpoint")
    yield case("legacy with code", legacy(b"\x80\x02" + system + b".", []), "code")
    yield case("legacy with code in the keys", legacy(table(), [], keys=b"\x80\x02" + system + b"."), "code")
    yield case(
        "mar with code alone", mar({"modelFile": "model.py", "handler": "h.py"}, {"h.py": b"1"}), "not-a-checkpoint"
    )
    yield case("TorchScript", archive(table(), extra={"constants.pkl": b"", "code/x.py": b"1"}), "code")
    yield case("torch.export", archive(table(), extra={"archive_format": b"pt2"}), "code")
    yield case("AOTInductor", archive(table(), extra={"data/aotinductor/model/x.so": b"\x7fELF"}), "code")
    yield case("shared library", b"\x7fELF" + bytes(100), "code")
    # Geometry
    wide = 2**40
    yield case("stride-0 bomb", archive(table(w=tensor(shape=(wide,), stride=(0,)))), "geometry")
    yield case("offset outside", archive(table(w=tensor(offset=1))), "geometry")
    yield case("negative offset", archive(table(w=tensor(offset=-1))), "geometry")
    yield case("negative size", archive(table(w=tensor(shape=(-4,)))), "geometry")
    yield case("negative stride", archive(table(w=tensor(stride=(-1,)))), "geometry")
    yield case("storage larger than its entry", archive(table(w=tensor(count=1 << 40))), "geometry")
    yield case("negative storage", archive(table(w=tensor(count=-4))), "geometry")
    yield case("huge storage", archive(table(w=tensor(count=2**60))), "geometry")
    yield case("storage without an entry", archive(table(w=tensor(key="9"))), "truncated")
    yield case("storage by a path", archive(table(w=tensor(key="../../../etc/passwd"))), "truncated")
    many = (
        b"\x80\x02}("
        + text("a0")
        + tensor()
        + b"q\x09"
        + b"".join(text(f"k{i}") + b"h\x09" for i in range(200))
        + b"u."
    )
    yield case("few tied views", archive(many))
    big = tensor(shape=(2**18,), count=2**18)
    lots = b"\x80\x02}(" + text("a") + big + b"q\x09" + b"".join(text(f"k{i}") + b"h\x09" for i in range(900)) + b"u."
    yield case("bomb of views", archive(lots, {"0": bytes(2**20)}), "geometry")
    yield case("many dimensions", archive(table(w=tensor(shape=(1,) * 40, stride=(1,) * 40))), "too-large")
    yield case("reference to nonsense", archive(b"\x80\x02" + text("x") + b"Q."), "damaged")
    yield case("reference to a list of nonsense", archive(b"\x80\x02](" + number(1) * 5 + b"eQ."), "damaged")
    yield case("reference of a code class", archive(table(w=tensor(module="os", kind="system"))), "code")
    # Size
    yield case("integer of LONG4", archive(b"\x80\x02\x8b" + struct.pack("<i", 2**24) + bytes(2**24 - 100)), *SIZES)
    yield case("negative LONG4", archive(b"\x80\x02\x8b" + struct.pack("<i", -1) + b"."), *SIZES)
    yield case("text longer than the file", archive(b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a."), "truncated")
    yield case("text of eight-byte length", archive(b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"a."), "truncated")
    yield case("text of a megabyte and more", archive(b"\x80\x02" + text("a" * (2**20 + 1)) + b"."), "too-large")
    yield case("wide texts", archive(b"\x80\x02](" + text("a" * 2**20 + "\U0001f600") * 9 + b"e."), "too-large")
    yield case("many lists", archive(b"\x80\x02(" + b"]" * 2_000_000 + b"t."), "too-large")
    yield case("memo bomb", archive(memo_bomb(1_200_000)), "too-large")
    yield case("memo of far indices", archive(b"\x80\x02](" + far_memo(100_000) + b"e."), "not-a-checkpoint")
    yield case("doubled lists", archive(b"\x80\x02" + laughs(200) + b"."), "not-a-checkpoint")
    yield case("doubled lists as an attribute", archive(module(a=laughs(200))))
    yield case("doubled tuples beside the weights", archive(table(w=tensor(), x=laughs(500, tuples=True))))
    yield case("doubled modules", archive(doubled_modules(40)), "too-large")
    yield case("marks", archive(b"\x80\x02" + b"(" * 100_000), "too-large")
    yield case("deep tuples", archive(table(w=tensor(), x=b")" + b"\x85" * 400_000)))
    yield case("deep tensors", archive(table(w=deep_parameter(100_000))), "damaged")
    yield case("deep modules", archive(deep_modules(5_000)), "too-large")
    yield case("hundred nested modules", archive(deep_modules(100)), "too-large")
    yield case("long pickle", archive(b"\x80\x02" + b"N0" * (9 * 2**20) + b"N."), "too-large")
    yield case("long name", archive(b"\x80\x02c" + b"a" * 10_000 + b"\nb\n."), "damaged")
    yield case("long key", archive(table(**{"k" * 300: tensor()})), "too-large")
    yield case("many entries", archive(entries_bomb(30_000)), "too-large")
    # Cycles
    yield case("list in itself", archive(b"\x80\x02]q\x00h\x00a."), "not-a-checkpoint")
    yield case("list in itself beside the weights", archive(table(w=tensor(), x=b"]q\x05h\x05a")))
    yield case("dictionary in itself", archive(b"\x80\x02}q\x00" + text("model") + b"h\x00s."), "not-a-checkpoint")
    yield case("module in itself", archive(cyclic_module()), "damaged")
    # Opcodes
    yield case("unknown opcode", archive(b"\x80\x02\xff."), "damaged")
    yield case("unknown protocol", archive(b"\x80\x63N."), "unsupported-format")
    yield case("protocol 0", archive(b"I1\n."), "unsupported-format")
    yield case("empty stack", archive(b"\x80\x02."), "damaged")
    yield case("no mark", archive(b"\x80\x02Nt."), "damaged")
    yield case("unknown memo", archive(b"\x80\x02h\x07."), "damaged")
    yield case("state of a list", archive(b"\x80\x02]}b."), "damaged")
    yield case("items of a number", archive(b"\x80\x02K\x01NNs."), "damaged")
    yield case("odd items", archive(b"\x80\x02}(Nu."), "damaged")
    yield case("call of a text", archive(b"\x80\x02" + text("posix.system") + text(touch) + b"\x85R."), "code")
    yield case("text that is no UTF-8", archive(b"\x80\x02X\x02\x00\x00\x00\xff\xfe."), "damaged")
    yield case("key that cannot be shown", archive(table(**{"a\nb\x1b[31m": tensor()})), "damaged")
    yield case("buffers outside", archive(b"\x80\x05\x97."), "unsupported-format")
    yield case("no end", archive(b"\x80\x02N"), "truncated")
    # Archives
    yield case("deflated bomb", zipped(PICKLE | {"a/data/0": bytes(2**24)}, method=zipfile.ZIP_DEFLATED), "compressed")
    yield case("deflated", zipped(PICKLE | {"a/data/0": FOUR}, method=zipfile.ZIP_DEFLATED), "compressed")
    yield case("doubled entry", doubled_entry(), "duplicate-entry")
    yield case("entries over each other", overlapping(), "duplicate-entry", "damaged", "geometry")
    yield case("encrypted", patched(good(), 6, 1), "unsupported-format")
    yield case("absolute name", zipped({"/etc/data.pkl": table()}), "damaged")
    yield case("name with ..", zipped({"a/data.pkl": table(), "a/../../x": b"1"}), "damaged")
    yield case("name with a backslash", zipped({"a/data.pkl": table(), "a\\x": b"1"}), "damaged")
    yield case("two folders", zipped({"a/data.pkl": table(), "b/data/0": FOUR}), "damaged")
    yield case("other name in the entry", other_local_name(), "damaged")
    yield case("wrong CRC of the pickle", wrong_crc(), "crc-mismatch")
    yield case("bytes behind the archive", good() + b"x", "truncated")
    yield case("bytes before the archive", b"PK\x03\x04" + bytes(60) + good(), "damaged")
    yield case("directory of many entries", zipped({f"a/{i}": b"" for i in range(41_000)}), "too-large")
    yield case("huge sizes in the directory", huge_sizes(), "geometry", "compressed", "damaged")
    yield case("link", link(), "damaged")
    # Legacy
    view = table(w=tensor(view=("v", -3, 4)))
    yield case("legacy with a negative view", legacy(view, [FOUR]), "geometry")
    yield case("legacy with a negative count", legacy(table(w=tensor()), [FOUR], count=-4), "geometry")
    yield case("legacy with another count", legacy(table(w=tensor()), [FOUR], count=2**40), "geometry")
    yield case("legacy with a negative storage", legacy(table(w=tensor(count=-1)), [FOUR], count=-1), "geometry")
    yield case("legacy with two sizes", legacy(table(w=tensor(), x=tensor(count=9)), [FOUR]), "geometry")
    yield case(
        "legacy with a doubled key", legacy(table(w=tensor()), [FOUR, FOUR], names=["0", "0"]), "duplicate-entry"
    )
    yield case("legacy with a foreign key", legacy(table(w=tensor()), [FOUR, FOUR], names=["0", "1"]), "damaged")
    yield case("legacy without storages", legacy(table(w=tensor()), []), "truncated")
    yield case("legacy with more behind it", legacy(table(w=tensor()), [FOUR]) + b"x", "damaged")
    yield case("legacy of another version", legacy(table(), [], version=7), "unsupported-format")
    # Safetensors
    yield case("header larger than the file", struct.pack("<Q", 5000) + b"{}", "truncated")
    yield case("header of 2**60 bytes", struct.pack("<Q", 2**60) + b"{}", "too-large")
    yield case("header that is no JSON", struct.pack("<Q", 9) + b"{" * 9, "damaged")
    deep = b'{"a":' + b"[" * 100_000
    yield case("deep header", struct.pack("<Q", len(deep)) + deep, "damaged")
    empties = b'{"a":[' + b"[]," * 2_500_000 + b"[]]}"
    yield case("header of many lists", struct.pack("<Q", len(empties)) + empties, "too-large")
    yield case("overlap", safe({"a": ("F32", [4], 0, 16), "b": ("F32", [4], 8, 24)}, 24), "geometry")
    yield case("gap", safe({"a": ("F32", [4], 0, 16), "b": ("F32", [4], 20, 36)}, 36), "geometry")
    yield case("rest", safe({"a": ("F32", [4], 0, 16)}, 17), "geometry")
    yield case("shape of other bytes", safe({"a": ("F32", [5], 0, 16)}, 16), "geometry")
    yield case("outside of the file", safe({"a": ("F32", [400], 0, 1600)}, 16), "geometry")
    yield case("negative shape", safe({"a": ("F32", [-4, -1], 0, 16)}, 16), "damaged")
    yield case("shape of 0 by 2**62", safe({"a": ("F32", [0, 2**62], 0, 0)}, 0), "damaged")
    yield case("unknown type", safe({"a": ("F4", [8], 0, 4)}, 4), "dtype")
    doubled = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    )
    yield case("doubled name", struct.pack("<Q", len(doubled)) + doubled + b"1", "duplicate-entry")
    # TorchServe
    yield case("mar without its weights", mar({"serializedFile": "w.pt"}, {}), "truncated")
    yield case("mar with a bomb", mar({"serializedFile": "w.pt"}, {"w.pt": bytes(2**25)}), "compressed")
    yield case("mar with weights by a path", mar({"serializedFile": "../w.pt"}, {"w.pt": good()}), "truncated")
    inner = archive(b"\x80\x02" + system + b".")
    yield case("mar with code in its weights", mar({"serializedFile": "w.pt"}, {"w.pt": inner}), "code")
    yield case("mar in a mar", mar({"serializedFile": "w.mar"}, {"w.mar": mar({}, {})}), "unsupported-format")
    # Other things
    yield case("nothing", b"", "truncated")
    yield case("a few bytes", b"\x80", "truncated")
    yield case("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100), "unsupported-format")
    yield case("NumPy", b"\x93NUMPY" + bytes(100), "unsupported-format")
    yield case("ONNX", b"\x08\x08\x12\x07pytorch" + bytes(100), "unsupported-format")
    yield case("web page", b"<!DOCTYPE html><html>" + bytes(100), "not-a-checkpoint")
    yield case("noise", bytes(range(7, 250)) * 9, "not-a-checkpoint")


SIZES = ("too-large",)
FOUR = struct.pack("<4f", 1, 2, 3, 4)


def good(form: str = "zip") -> bytes:
    """A checkpoint that is in order, by torch itself; to be cut and flipped."""
    out = io.BytesIO()
    value = {"w": torch.arange(40.0).reshape(5, 8), "b": torch.ones(3, dtype=torch.int64)}
    torch.save(value, out, _use_new_zipfile_serialization=form == "zip")
    return out.getvalue()


# Pickles


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def table(**members: bytes) -> bytes:
    """A pickle of a dictionary of pickled members."""
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in members.items()) + b"u."


def tensor(
    *,
    offset: int = 0,
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    key: str = "0",
    count: int = 4,
    module: str = "torch",
    kind: str = "FloatStorage",
    view: tuple[str, int, int] | None = None,
) -> bytes:
    storage = b"(" + text("storage") + name(module, kind) + text(key) + text("cpu") + number(count)
    if view is not None:
        storage += b"(" + text(view[0]) + number(view[1]) + number(view[2]) + b"t"
    arguments = storage + b"tQ" + number(offset) + numbers(shape) + numbers(stride) + b"\x89" + ordered()
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def ordered() -> bytes:
    return name("collections", "OrderedDict") + b")R"


def made(module: str, kind: str, state: bytes) -> bytes:
    return name(module, kind) + b")\x81" + state + b"b"


def module(**members: bytes) -> bytes:
    """A pickle of a module with these members in its state."""
    return b"\x80\x02" + module_record(**members) + b"."


def module_record(**members: bytes) -> bytes:
    full = {"_parameters": table(w=tensor())[2:-1], "_buffers": b"}", "_modules": b"}", **members}
    return made("__main__", "Net", table(**full)[2:-1])


def deep_modules(depth: int) -> bytes:
    opening, closing = module_record(_parameters=b"}", _modules=b"}(" + text("m") + b"|u").split(b"|")
    return b"\x80\x02" + opening * depth + module_record() + closing * depth + b"."


def cyclic_module() -> bytes:
    start = name("__main__", "Net") + b")\x81q\x07"
    return b"\x80\x02" + start + table(_parameters=b"}", _modules=table(m=b"h\x07")[2:-1])[2:-1] + b"b."


def doubled_modules(depth: int) -> bytes:
    """Each module twice the one before: few records, 2**depth paths."""
    data = b"\x80\x02" + module_record(_parameters=b"}") + b"q\x00"
    for _ in range(depth):
        below = b"}(" + text("a") + b"h\x00" + text("b") + b"h\x00u"
        data += b"0" + module_record(_parameters=b"}", _modules=below) + b"q\x00"
    return data + b"."


def deep_parameter(depth: int) -> bytes:
    call = name("torch._utils", "_rebuild_parameter")
    return call + b"q\x08" + (b"h\x08" * depth) + tensor() + b"\x88}\x87R" * (depth + 1)


def laughs(levels: int, *, tuples: bool = False) -> bytes:
    """Each list twice the one before."""
    step = b"q\x01h\x01\x86" if tuples else b"q\x01]h\x01ah\x01aq\x010" + b"h\x01"
    if tuples:
        return b")" + step * levels
    return b"]" + b"".join(b"q\x010](h\x01h\x01e" for _ in range(levels))


def memo_bomb(count: int) -> bytes:
    return b"\x80\x02](" + b"".join(b"]r" + struct.pack("<I", i) for i in range(count)) + b"e."


def far_memo(count: int) -> bytes:
    return b"".join(b"Nr" + struct.pack("<I", (i * 2654435761) % 2**32) for i in range(count))


def entries_bomb(count: int) -> bytes:
    tied = b"".join(text(f"k{i}") + b"h\x09" for i in range(count))
    return b"\x80\x02}(" + text("w") + tensor() + b"q\x09" + tied + b"u."


# Archives


def archive(pickle: bytes, storages: dict[str, bytes] | None = None, *, extra: dict[str, bytes] | None = None) -> bytes:
    """A zip checkpoint around a pickle."""
    entries = {"a/data.pkl": pickle}
    entries |= {f"a/data/{key}": data for key, data in (storages or {"0": FOUR}).items()}
    return zipped(entries | {f"a/{key}": data for key, data in (extra or {}).items()})


def zipped(entries: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for entry, data in entries.items():
            made.writestr(zipfile.ZipInfo(entry), data, compress_type=method)
    return out.getvalue()


PICKLE = {"a/data.pkl": table(w=tensor())}


def patched(data: bytes, offset: int, value: int) -> bytes:
    """The first entry with another byte in its flags, in both of its headers."""
    changed = bytearray(data)
    changed[offset] |= value
    central = changed.find(b"PK\x01\x02")
    changed[central + offset + 2] |= value
    return bytes(changed)


def doubled_entry() -> bytes:
    data = zipped(PICKLE | {"a/data.pkx": table()})
    return data.replace(b"a/data.pkx", b"a/data.pkl")


def overlapping() -> bytes:
    """Two entries of the directory that begin at one place."""
    data = bytearray(zipped({"a/data.pkl": table(w=tensor()), "a/data/0": FOUR, "a/data/1": FOUR}))
    last = data.rfind(b"PK\x01\x02")
    before = data.rfind(b"PK\x01\x02", 0, last)
    data[last + 42 : last + 46] = data[before + 42 : before + 46]
    return bytes(data)


def other_local_name() -> bytes:
    data = bytearray(zipped(PICKLE | {"a/data/0": FOUR}))
    data[30:31] = b"b"
    return bytes(data)


def wrong_crc() -> bytes:
    pickle = table(w=tensor())
    crc = struct.pack("<I", zlib.crc32(pickle))
    data = zipped({"a/data.pkl": pickle, "a/data/0": FOUR})
    assert data.count(crc) == 2
    return data.replace(crc, struct.pack("<I", zlib.crc32(pickle) ^ 1))


def huge_sizes() -> bytes:
    data = bytearray(zipped(PICKLE | {"a/data/0": FOUR}))
    last = data.rfind(b"PK\x01\x02")
    data[last + 20 : last + 28] = struct.pack("<2I", 2**32 - 2, 2**32 - 2)
    return bytes(data)


def link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("a/data.pkl", table(w=tensor()))
        info = zipfile.ZipInfo("a/data/0")
        info.external_attr = 0o120777 << 16
        made.writestr(info, "/etc/passwd")
    return out.getvalue()


def mar(model: dict[str, str], entries: dict[str, bytes]) -> bytes:
    """A TorchServe archive, deflated as its archiver makes them."""
    manifest = {"createdOn": "", "runtime": "python", "model": {"modelName": "m", **model}, "archiverVersion": "0.9"}
    everything = {"MAR-INF/MANIFEST.json": json.dumps(manifest).encode(), **entries}
    return zipped(everything, method=zipfile.ZIP_DEFLATED)


def legacy(
    pickle: bytes,
    storages: list[bytes],
    *,
    names: list[str] | None = None,
    count: int | None = None,
    keys: bytes | None = None,
    version: int = 1001,
) -> bytes:
    """A file of the older format around a pickle; `count` is what each storage claims."""
    magic = 0x1950A86A20F9469CFC6C
    listed = [str(index) for index in range(len(storages))] if names is None else names
    keys = b"\x80\x02](" + b"".join(map(text, listed)) + b"e." if keys is None else keys
    data = b"\x80\x02" + number(magic) + b".\x80\x02" + number(version) + b"." + table(little_endian=b"\x88")
    data += pickle + keys
    for storage in storages:
        data += struct.pack("<q", len(storage) // 4 if count is None else count) + storage
    return data


def safe(tensors: dict[str, tuple[str, list[int], int, int]], room: int) -> bytes:
    """A file of safetensors with a header of one's own."""
    header = {
        key: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        for key, (dtype, shape, begin, end) in tensors.items()
    }
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + bytes(room)
