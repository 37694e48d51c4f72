"""Foreign checkpoints: what is inside one, found without running any of it, and the bytes of its tensors.

`inspect` turns the inert records of a pickle into a table of tensors and, for a whole module, its tree; `read_tensors`
hands out the bytes. Neither imports torch: `inspect` needs the standard library only and runs in a cage
(`engine/cage.py`). Knows no document: what a tree means is for others to say.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from service.engine import containers
from service.engine.containers import CRC_HINT, SAVE, check_key
from service.engine.inert import Bag, Made, Name, Persistent, Table, Value, refuse
from service.engine.inspection import (
    ITEM_SIZES,
    MAX_DEPTH,
    MAX_MODULES,
    MAX_RANK,
    MAX_TENSORS,
    Inspection,
    Module,
    Plain,
    Storage,
    TensorInfo,
)
from service.errors import MAX_ENTRIES, CheckpointRefused, Entry, shorten

MAX_REUSE: Final = 4
"""All tensors together are at most so many times their storages: tied weights, but no bomb of views."""


def inspect(path: Path, *, part: str | None = None) -> Inspection:
    """Read what a file holds; no byte of a tensor is read, and no name in the file is looked up.

    Args:
        path: the file. For a TorchServe archive, the weights that `containers.unpack_mar` took out of it.
        part: where in a nested checkpoint the weights are, such as "ema"; found by itself where there is no doubt.

    Raises:
        CheckpointRefused: why it cannot be taken, and what to do instead.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return inspect_file(file, part=part)


def inspect_file(file: BinaryIO, *, part: str | None = None) -> Inspection:
    """The same for an open file, as the caged child has it."""
    kind, entries = containers.recognise(file)
    if kind == "safetensors":
        return _of_safetensors(file, part)
    if kind == "mar":
        refuse("unsupported-format", "This is a TorchServe archive; its weights are read once they are unpacked.")
    contents = containers.read_archive(file, entries) if kind == "zip" else containers.read_legacy(file)
    return _Taker(contents).take(part)


def read_tensors(
    path: Path, inspection: Inspection, names: Collection[str] | None = None
) -> Iterator[tuple[TensorInfo, memoryview]]:
    """The bytes of tensors, each as its elements in row-major order, least significant byte first.

    What lies in order in the file is handed out as a private, writable view of the mapped file, so nothing is copied
    before it is written to; what does not is copied. The file must not be changed while views of it live. An empty
    tensor has an empty buffer, which `torch.frombuffer` does not take.

    Args:
        path: the file that was inspected.
        inspection: what was found in it; every place is checked again here.
        names: which tensors; the weights, in their order, when not given.

    Raises:
        CheckpointRefused: a check sum is another, or the file is not the one that was inspected.
        KeyError: there is no tensor of a name.
        OSError: the file cannot be read.
    """
    if sys.byteorder != "little":
        raise NotImplementedError("tensors are read on little-endian machines only")
    tensors = {tensor.name: tensor for tensor in inspection.tensors}
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)) if size else memoryview(b"")
    checked: set[str] = set()
    for name in inspection.weights if names is None else names:
        tensor = tensors[name]
        storage = inspection.storages[tensor.storage]
        if not 0 <= storage.start <= storage.start + storage.size <= size:
            refuse("truncated", "The file is shorter than it was when it was inspected.")
        _check_place(tensor, storage)
        data = whole[storage.start : storage.start + storage.size]
        if storage.key not in checked:
            checked.add(storage.key)
            if storage.crc is not None and zlib.crc32(data) != storage.crc:
                refuse("crc-mismatch", f"The bytes of {shorten(name)} do not have their check sum.", hint=CRC_HINT)
        yield tensor, _in_order(tensor, data)


def _in_order(tensor: TensorInfo, data: memoryview) -> memoryview:
    item = ITEM_SIZES[tensor.dtype]
    count = math.prod(tensor.shape)
    if not count:
        return memoryview(bytearray())
    start = tensor.offset * item
    if _is_contiguous(tensor):
        return data[start : start + count * item]
    import numpy as np  # not at the top: the cage has none

    dtype = np.dtype(f"V{item}")
    strides = [step * item for step in tensor.stride]
    view = np.ndarray(tensor.shape, dtype, data, offset=start, strides=strides)
    return memoryview(bytearray(view.tobytes()))


def _is_contiguous(tensor: TensorInfo) -> bool:
    expected = 1
    for size, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _check_place(tensor: TensorInfo, storage: Storage) -> None:
    """Refuse a tensor that does not lie inside its storage, or has more elements than the storage."""
    room = storage.size // ITEM_SIZES[tensor.dtype]
    count = math.prod(tensor.shape)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
    fits = tensor.offset <= room if count == 0 else last < room and count <= room
    if not fits or tensor.offset < 0 or any(step < 0 for step in tensor.stride):
        refuse(
            "geometry",
            f"The tensor {shorten(tensor.name)} of shape {list(tensor.shape)} does not lie inside its storage of "
            f"{room:,} elements.",
            hint="A view that repeats its elements (expand) is saved whole by .contiguous().",
        )


def _of_safetensors(file: BinaryIO, part: str | None) -> Inspection:
    tensors, storages, metadata = containers.read_safetensors(file)
    if part:
        refuse("keys", f"A file of safetensors has no part {shorten(part)}.")
    names, repaired = _repaired([tensor.name for tensor in tensors])
    renamed = [replace(tensor, name=names[tensor.name]) for tensor in tensors]
    return Inspection(
        format="safetensors",
        holds="state_dict",
        part="",
        parts=("",),
        tensors=tuple(renamed),
        weights=tuple(tensor.name for tensor in renamed),
        storages=storages,
        others={key[:255]: value[:_MAX_SHOWN] for key, value in list(metadata.items())[:_MAX_ITEMS]},
        repaired=tuple(repaired),
    )


# From records to tensors


@dataclass(frozen=True, slots=True)
class _Found:
    """A tensor that a pickle would have rebuilt."""

    reference: Persistent
    dtype: str | None
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    parameter: bool = False
    requires_grad: bool | None = None


@dataclass(frozen=True, slots=True)
class _Unread:
    """A tensor of a sort that is not read, in words."""

    what: str


_UNREAD: Final = {
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor of the meta device, which has no values",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
    "_rebuild_device_tensor_from_numpy": "a tensor of a device that stores it as a NumPy array",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of a device that stores it in a way of its own",
}


def _tensor_of(value: Value, depth: int = 0) -> _Found | _Unread | None:
    """The tensor that a record stands for; None if it stands for something else.

    Raises:
        CheckpointRefused: it claims to be a tensor and is malformed.
    """
    if type(value) is not Made or type(value.of) is not Name or type(value.arguments) is not tuple:
        return None
    kind, arguments = str(value.of), value.arguments
    if kind in ("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"):
        if depth > 3 or len(arguments) < 3:
            _malformed()
        return _tensor_of(Made(arguments[0], arguments[2], called=True), depth + 1)
    is_parameter = kind in ("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
    if is_parameter or kind in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        if not arguments:
            return None
        if depth > 3:
            _malformed()
        inner = _tensor_of(arguments[0], depth + 1)
        if not isinstance(inner, _Found):
            return inner if inner is not None or is_parameter else _malformed()
        wants = arguments[1] if len(arguments) > 1 else True
        return replace(inner, parameter=True, requires_grad=wants if type(wants) is bool else None)
    if value.of.module != "torch._utils" or not value.of.name.startswith("_rebuild_"):
        return None
    if value.of.name not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        return _Unread(_UNREAD.get(value.of.name, f"a tensor that {value.of.name} rebuilds"))
    return _plain_tensor(value.of.name, arguments)


def _plain_tensor(kind: str, arguments: tuple[Value, ...]) -> _Found | _Unread:
    if len(arguments) < 4 or type(arguments[0]) is not Persistent or type(arguments[1]) is not int:
        _malformed()
    reference, offset = arguments[0], arguments[1]
    shape, stride = _sizes(arguments[2]), _sizes(arguments[3])
    if len(shape) != len(stride):
        _malformed()
    if len(shape) > MAX_RANK:
        refuse("too-large", f"A tensor has {len(shape)} dimensions; at most {MAX_RANK} are read.")
    requires = arguments[4] if len(arguments) > 4 and type(arguments[4]) is bool else None
    dtype: str | None = None
    marks: Value = arguments[6] if len(arguments) > 6 else None
    if kind == "_rebuild_tensor_v3":
        if len(arguments) < 7 or type(arguments[6]) is not Name or arguments[6].module != "torch":
            _malformed()
        dtype = arguments[6].name
        if dtype not in ITEM_SIZES:
            return _Unread(f"a tensor of the type {shorten(dtype)}")
        marks = arguments[7] if len(arguments) > 7 else None
    flags = _members(marks)
    if flags is not None and any(value is True for value in flags.texts().values()):
        return _Unread("a view that stands for conjugated or negated numbers (save it after .resolve_conj())")
    return _Found(reference, dtype, offset, shape, stride, requires_grad=requires)


def _sizes(value: Value) -> tuple[int, ...]:
    if type(value) is Made and value.of == Name("torch", "Size") and value.arguments:
        value = value.arguments[0]
    if type(value) not in (tuple, list) or not all(type(size) is int and 0 <= size < 2**53 for size in value):
        refuse("geometry", "A tensor has sizes or strides that are no whole numbers, or are negative.")
    return tuple(value)


def _malformed() -> Any:
    refuse("damaged", "A tensor of the file is not described as torch describes them.")


_MAPPINGS: Final = frozenset({"collections.OrderedDict", "collections.defaultdict", "builtins.dict"})


def _members(value: Value) -> Table | None:
    """The pairs of a dictionary of whichever kind; None for what is none."""
    if type(value) is Table:
        return value
    if type(value) is not Made or type(value.of) is not Name or _is_module(value):
        return None
    if str(value.of) not in _MAPPINGS and value.entries is None:
        return None
    pairs = list(value.entries or [])
    first = value.arguments[0] if type(value.arguments) is tuple and value.arguments else None
    if str(value.of) == "collections.OrderedDict" and type(first) is list:  # as Python 2 wrote them
        pairs = [tuple(pair) for pair in first if type(pair) in (list, tuple) and len(pair) == 2] + pairs
    return Table(pairs)


def _is_module(value: Value) -> bool:
    if type(value) is not Made or value.called or type(value.state) is not Table:
        return False
    keys = {key for key, _ in value.state.pairs if type(key) is str}
    return {"_parameters", "_modules"} <= keys


# What is in the way of torch.compile and of data parallel training
_WRAPPERS: Final = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}
_HOOKS: Final = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_INTERNAL: Final = frozenset(
    {
        *_HOOKS,
        "_parameters",
        "_buffers",
        "_modules",
        "_non_persistent_buffers_set",
        "_is_full_backward_hook",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks_with_kwargs",
        "_backend",
        "_compiled_call_impl",
        "training",
    }
)
_OVERRIDES: Final = frozenset({"forward", "__call__", "__class__", "_call_impl", "_wrapped_call_impl"})
_KNOWN_PARTS: Final = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "net_state_dict",
    "model_weights",
    "params_ema",
    "model_ema",
    "ema",
    "ema_state_dict",
    "state_dict_ema",
)
"""Where training scripts keep the weights, the likelier first."""
_PART_DEPTH: Final = 3

_MAX_SHOWN: Final = 2_000
_MAX_ITEMS: Final = 1_000
_MAX_PLAIN: Final = 100_000
_MAX_PLAIN_DEPTH: Final = 8


@dataclass(slots=True)
class _Taker:
    """Makes the inspection of what a file of torch's holds."""

    contents: containers.Contents
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    extra_state: dict[str, Plain] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    mistakes: list[Entry] = field(default_factory=list)
    unread: int = 0
    modules: int = 0
    budget: int = _MAX_PLAIN
    seen: dict[int, str] = field(default_factory=dict)
    above: list[int] = field(default_factory=list)

    def take(self, part: str | None) -> Inspection:
        parts = dict(self._parts(self.contents.reading.value))
        chosen = _choice(parts, part)
        value = parts[chosen]
        module: Module | None = None
        paths: tuple[str, ...] = ()
        if _is_module(value):
            module = self._module(self._unwrapped(value, ""), "")
        else:
            paths = self._state_dict(value)
        if self.mistakes:
            raise CheckpointRefused(
                f"{self.unread} of the tensors cannot be read; the first: {self.mistakes[0].detail}",
                reason="dtype",
                errors=self.mistakes,
                more=self.unread - len(self.mistakes),
                hint="Save plain tensors: torch.save({k: v.contiguous() for k, v in net.state_dict().items()}, path).",
            )
        if not self.weights and module is None:
            refuse("not-a-checkpoint", "The file holds no tensor.", hint=f"Save: {SAVE}.")
        reading = self.contents.reading
        self._check_reuse()
        tied, shared = self._groups()
        return Inspection(
            format=self.contents.kind,
            holds="state_dict" if module is None else "module",
            part=chosen,
            parts=tuple(parts),
            tensors=tuple(self.tensors.values()),
            weights=tuple(self.weights),
            storages={tensor.storage: self.contents.storages[tensor.storage] for tensor in self.tensors.values()},
            written_by=self.contents.written_by,
            module=module,
            module_paths=paths,
            classes=tuple(str(name)[:_MAX_SHOWN] for name in reading.names[:_MAX_ITEMS]),
            unknown=tuple(str(name) for name in reading.called[:_MAX_ITEMS] if not _is_known(name)),
            extra_state=self.extra_state,
            others=self._others(reading.value, chosen),
            left_out=tuple(self.left_out),
            repaired=tuple(self.repaired),
            tied=tied,
            shared=shared,
            sources=self.contents.sources,
        )

    # Which part of the file

    def _parts(self, root: Value) -> Iterator[tuple[str, Value]]:
        """Every place of the file that weights could be taken from, the shallowest first."""
        level: list[tuple[str, Value]] = [("", root)]
        for _ in range(_PART_DEPTH):
            below: list[tuple[str, Value]] = []
            for path, value in level:
                if _is_module(value):
                    yield path, value
                    continue
                members = _members(value)
                if members is None:
                    continue
                texts = members.texts()
                if any(_tensor_of(item) is not None for item in texts.values()):
                    yield path, value
                if len(below) < _MAX_ITEMS:
                    below += [(f"{path}.{key}" if path else key, item) for key, item in texts.items()]
            level = below[:_MAX_ITEMS]

    def _others(self, root: Value, chosen: str) -> dict[str, Plain]:
        """What lies beside the part that was taken, optimizers only by name."""
        members = None if _is_module(root) else _members(root)
        if members is None or not chosen:
            return {}
        first = chosen.partition(".")[0]
        texts = list(members.texts().items())[:_MAX_ITEMS]
        return {key[:255]: self._plain(value, 2) for key, value in texts if key not in (first, chosen)}

    # A state_dict

    def _state_dict(self, value: Value) -> tuple[str, ...]:
        table = _members(value)
        assert table is not None
        texts = table.texts()
        if len(texts) > MAX_TENSORS:
            refuse("too-large", f"The file has {len(texts):,} entries; at most {MAX_TENSORS:,} are read.")
        names, self.repaired = _repaired(texts)
        for key, item in texts.items():
            check_key(key)
            name = names[key]
            if key.rpartition(".")[2] == "_extra_state":
                self.extra_state[name] = self._plain(item)
            elif not self._take_tensor(name, item, "entry", persistent=True):
                self.left_out.append(name)
        metadata = _members(value.state) if type(value) is Made else None
        listed = None if metadata is None else _members(metadata.texts().get("_metadata"))
        if listed is None:
            return ()
        paths = [path for path in listed.texts() if len(path) <= 255 and path.isprintable()][:MAX_MODULES]
        return tuple(dict.fromkeys(_stripped(path, self.repaired) for path in paths))

    # A whole module

    def _unwrapped(self, value: Made, path: str) -> Made:
        for _ in range(4):
            child = _WRAPPERS.get(str(value.of))
            inner: Value = _table(value.state, "_modules").texts().get(child) if child is not None else None
            if not _is_module(inner):
                break
            self.repaired.append(f"{_told(path)} was wrapped in {value.of}; what it wraps was taken.")
            value = inner
        return value

    def _module(self, value: Made, path: str) -> Module:
        """A module and all below it; a module that was met before is named, and only its tensors are listed again."""
        self.modules += 1
        if self.modules > MAX_MODULES:
            refuse("too-large", f"The file has more than {MAX_MODULES:,} modules.")
        if len(self.above) >= MAX_DEPTH:
            refuse("too-large", f"The modules of the file nest more than {MAX_DEPTH} deep.")
        if id(value) in self.above:
            refuse("damaged", f"{_told(path)} contains itself.")
        check_key(path)
        state = value.state
        texts = state.texts()
        own = _OVERRIDES & texts.keys()
        if own:
            refuse(
                "code",
                f"{_told(path)} has a {sorted(own)[0]} of its own, put onto the object. Nothing of it ran.",
                hint=f"Save the state_dict alone: {SAVE}.",
            )
        same_as = self.seen.get(id(value))
        self.seen.setdefault(id(value), path)
        self.above.append(id(value))
        dot = f"{path}." if path else ""
        fleeting = _words(texts.get("_non_persistent_buffers_set"))
        parameters = self._tensors_of(_table(state, "_parameters"), dot, "parameter", ())
        buffers = self._tensors_of(_table(state, "_buffers"), dot, "buffer", fleeting)
        children: list[Module] = []
        for name, child in _table(state, "_modules").texts().items():
            if child is None:
                continue
            if not _is_module(child):
                refuse("damaged", f"{_told(dot + name)} is registered as a module, and is none.")
            children.append(self._module(self._unwrapped(child, dot + name), dot + name))
        self.above.pop()
        kind = str(value.of)
        if same_as is not None:
            return Module(path, kind, same_as=same_as)
        return Module(
            path=path,
            kind=kind,
            training=texts.get("training") is not False,
            attributes={
                key[:255]: self._plain(item)
                for key, item in list(texts.items())[:_MAX_ITEMS]
                if key not in _INTERNAL and key.isprintable()
            },
            parameters=parameters,
            buffers=buffers,
            not_persistent=tuple(name for name in buffers if name in fleeting),
            children=tuple(children),
            hooks=_hooks(state),
        )

    def _tensors_of(
        self, table: Table, dot: str, kind: Literal["parameter", "buffer"], fleeting: Collection[str]
    ) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for name, value in table.texts().items():
            check_key(dot + name)
            if value is None:
                found[name] = None
            elif self._take_tensor(dot + name, value, kind, persistent=name not in fleeting):
                found[name] = dot + name
            else:
                refuse("damaged", f"{_told(dot + name)} is registered as a {kind}, and is no tensor.")
        return found

    # Tensors

    def _take_tensor(
        self, name: str, value: Value, kind: Literal["parameter", "buffer", "entry"], *, persistent: bool
    ) -> bool:
        """Put a tensor down; False for what is none."""
        found = _tensor_of(value)
        if found is None:
            return False
        if isinstance(found, _Unread):
            self.unread += 1
            if len(self.mistakes) < MAX_ENTRIES:
                self.mistakes.append(Entry("", "dtype", f"{shorten(name)} is {found.what}.", got=found.what[:64]))
            return True
        if len(self.tensors) >= MAX_TENSORS and name not in self.tensors:
            refuse("too-large", f"The file has more than {MAX_TENSORS:,} tensors.")
        stored = containers.storage_id(found.reference)
        dtype = found.dtype or stored.dtype
        if dtype is None:
            refuse("dtype", f"The file does not say of which type the tensor {shorten(name)} is.")
        tensor = TensorInfo(
            name=name,
            dtype=dtype,
            shape=found.shape,
            stride=found.stride,
            offset=found.offset + stored.offset,
            storage=stored.key,
            kind="parameter" if kind == "entry" and found.parameter else kind,
            requires_grad=found.requires_grad if found.parameter else None,
        )
        _check_place(tensor, self.contents.storages[stored.key])
        self.tensors[name] = tensor
        if persistent:
            self.weights.append(name)
        return True

    def _check_reuse(self) -> None:
        total = sum(math.prod(tensor.shape) * ITEM_SIZES[tensor.dtype] for tensor in self.tensors.values())
        used = {tensor.storage for tensor in self.tensors.values()}
        room = sum(self.contents.storages[key].size for key in used)
        if total > MAX_REUSE * room + 2**20:
            refuse("geometry", f"The tensors are views of {room:,} bytes, and have {total:,} together.")

    def _groups(self) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
        """Names for the same elements, and names whose elements lie over each other in part."""
        by_storage: dict[str, list[TensorInfo]] = {}
        for name in self.weights:
            tensor = self.tensors[name]
            if math.prod(tensor.shape):
                by_storage.setdefault(tensor.storage, []).append(tensor)
        tied: list[tuple[str, ...]] = []
        shared: list[tuple[str, ...]] = []
        for tensors in by_storage.values():
            if len(tensors) == 1:
                continue
            same: dict[Any, list[TensorInfo]] = {}
            for tensor in tensors:
                same.setdefault((tensor.offset, tensor.shape, tensor.stride, tensor.dtype), []).append(tensor)
            tied += [tuple(tensor.name for tensor in group) for group in same.values() if len(group) > 1]
            shared += _runs([group[0] for group in same.values()])
        return tuple(tied), tuple(shared)

    # What is neither tensor nor module

    def _plain(self, value: Value, depth: int = 0) -> Plain:
        self.budget -= 1
        if depth > _MAX_PLAIN_DEPTH or self.budget < 0:
            return {"$cut": "…"}
        if value is None or type(value) in (bool, int):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if type(value) is str:
            text = value[:_MAX_SHOWN].encode("utf-8", "replace").decode()
            return text if len(value) <= _MAX_SHOWN else f"{text}…"
        if type(value) is bytes:
            return {"$bytes": len(value)}
        if type(value) in (list, tuple):
            return self._plain_items(value, depth)
        if type(value) is Bag:
            return {"$set": self._plain_items(value.items, depth)}
        if type(value) is Name:
            return {"$class": str(value)}
        if type(value) is Persistent:
            found = value.id
            is_class = type(found) is tuple and len(found) == 4 and found[0] == "module"
            return {"$class": str(found[1])} if is_class else {"$cut": "a storage"}
        return self._plain_record(value, depth)

    def _plain_items(self, values: list[Value] | tuple[Value, ...], depth: int) -> list[Plain]:
        items = [self._plain(value, depth + 1) for value in values[:_MAX_ITEMS]]
        return items if len(values) <= _MAX_ITEMS else [*items, {"$cut": f"{len(values) - _MAX_ITEMS} more"}]

    def _plain_record(self, value: Value, depth: int) -> Plain:
        tensor = _tensor_of(value)
        if isinstance(tensor, _Unread):
            return {"$tensor": {"is": tensor.what}}
        if tensor is not None:
            return {"$tensor": {"dtype": tensor.dtype or _dtype(tensor), "shape": list(tensor.shape)}}
        members = _members(value)
        if members is not None and (type(value) is Table or str(value.of) in _MAPPINGS):
            pairs = members.pairs[:_MAX_ITEMS]
            if all(type(key) is str and key.isprintable() and key[:1] != "$" for key, _ in pairs):
                return {key[:255]: self._plain(item, depth + 1) for key, item in pairs}
            return {"$dict": [[self._plain(key, depth + 1), self._plain(item, depth + 1)] for key, item in pairs]}
        number = _numpy_number(value)
        if number is not None:
            return self._plain(number, depth + 1)
        if str(value.of) == "torch.Size":
            return self._plain(value.arguments[0] if value.arguments else [], depth + 1)
        made: dict[str, Plain] = {"$object": str(value.of) if type(value.of) is Name else "?"}
        if value.arguments:
            made["arguments"] = self._plain(value.arguments, depth + 1)
        if value.state is not None:
            made["state"] = self._plain(value.state, depth + 1)
        return made


def _choice(parts: Mapping[str, Value], wanted: str | None) -> str:
    """The part to take: the one asked for, the only one, or the one under a name that training scripts use."""
    listed = ", ".join(shorten(path) if path else "the whole file" for path in list(parts)[:10])
    if wanted is not None:
        if wanted not in parts:
            detail = f"The file has no weights at {shorten(wanted)}."
            refuse("keys", detail, hint=f"Weights are at: {listed}." if parts else None)
        return wanted
    if not parts:
        refuse(
            "not-a-checkpoint",
            "The file holds no module, and no dictionary with tensors at its first three levels.",
            hint=f"Save: {SAVE}.",
        )
    if len(parts) == 1:
        return next(iter(parts))
    ranked = [
        (path.count("."), _KNOWN_PARTS.index(last), path)
        for path in parts
        if path and (last := path.rpartition(".")[2]) in _KNOWN_PARTS
    ]
    if ranked:
        return min(ranked)[2]
    if "" in parts:
        return ""
    told = "The file has several sets of weights."
    raise CheckpointRefused(told, reason="keys", hint=f"Say which part to take: {listed}.")


def _repaired(keys: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Keys without what wrappers put into them: old to new, and a sentence for each mend."""
    told: list[str] = []
    names = {key: key for key in keys}
    if not names:
        return names, told

    def mend(new: dict[str, str], sentence: str) -> None:
        nonlocal names
        if new != names and len(set(new.values())) == len(new):
            names = new
            told.append(sentence)

    for _ in range(4):
        before = names
        compiled = {
            key: ".".join(step for step in name.split(".") if step != "_orig_mod") for key, name in names.items()
        }
        mend(compiled, _COMPILED)
        if all(name.startswith("module.") and len(name) > 7 for name in names.values()):
            mend({key: name.removeprefix("module.") for key, name in names.items()}, _PARALLEL)
        if names is before:
            break
    return names, list(dict.fromkeys(told))


_COMPILED: Final = "The step `_orig_mod` of torch.compile was taken out of the keys."
_PARALLEL: Final = "The prefix `module.` of data parallel training was taken off the keys."


def _stripped(path: str, told: list[str]) -> str:
    """A module's path after what `_repaired` told of was done to it."""
    path = _without_compile(path) if _COMPILED in told else path
    while _PARALLEL in told and (path == "module" or path.startswith("module.")):
        path = path.partition(".")[2]
    return path


def _without_compile(name: str) -> str:
    return ".".join(step for step in name.split(".") if step != "_orig_mod")


def _runs(tensors: list[TensorInfo]) -> list[tuple[str, ...]]:
    """Names of tensors of one storage that lie over each other, in groups."""
    if len(tensors) < 2:
        return []
    spans = []
    for tensor in tensors:
        item = ITEM_SIZES[tensor.dtype]
        length = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True)) + 1
        spans.append((tensor.offset * item, (tensor.offset + length) * item, tensor.name))
    spans.sort()
    groups: list[list[str]] = []
    reach = -1
    for start, end, name in spans:
        if start < reach:
            groups[-1].append(name)
        else:
            groups.append([name])
        reach = max(reach, end)
    return [tuple(group) for group in groups if len(group) > 1]


def _table(state: Table, name: str) -> Table:
    return _members(state.texts().get(name)) or Table()


def _words(value: Value) -> frozenset[str]:
    items = value.items if type(value) is Bag else value if type(value) in (list, tuple) else []
    return frozenset(item for item in items if type(item) is str)


def _hooks(state: Table) -> tuple[str, ...]:
    found: list[str] = []
    for kind in _HOOKS:
        for _, hook in _table(state, kind).pairs[:_MAX_ITEMS]:
            if type(hook) is Name:
                found.append(str(hook))
            elif type(hook) is Made and type(hook.of) is Name:
                found.append(str(hook.of))
            else:
                found.append("?")
    return tuple(found)


def _is_known(name: Name) -> bool:
    return name.module.partition(".")[0] in ("torch", "numpy") or name.module in sys.stdlib_module_names


def _told(path: str) -> str:
    return f"The module {shorten(path)}" if path else "The module"


def _dtype(tensor: _Found) -> str | None:
    return containers.storage_id(tensor.reference).dtype


def _numpy_number(value: Made) -> Value:
    """The number of a NumPy scalar, which pickles as its bytes; None for anything else."""
    if str(value.of) not in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"):
        return None
    if type(value.arguments) is not tuple or len(value.arguments) != 2:
        return None
    kind, data = value.arguments
    if type(data) is Made and str(data.of) == "_codecs.encode" and data.arguments and type(data.arguments[0]) is str:
        data = data.arguments[0].encode("latin-1", "replace")
    letters = kind.arguments[0] if type(kind) is Made and kind.arguments else None
    if type(letters) is not str or type(data) is not bytes or len(data) > 8:
        return None
    form = _NUMPY.get(letters)
    if form is None or len(data) != form[1]:
        return None
    return struct.unpack(f"<{form[0]}", data)[0]


_NUMPY: Final = {
    "f8": ("d", 8),
    "f4": ("f", 4),
    "f2": ("e", 2),
    "i8": ("q", 8),
    "i4": ("i", 4),
    "i2": ("h", 2),
    "i1": ("b", 1),
    "u8": ("Q", 8),
    "u4": ("I", 4),
    "u2": ("H", 2),
    "u1": ("B", 1),
    "b1": ("?", 1),
}
