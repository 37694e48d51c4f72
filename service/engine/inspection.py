"""What is known of a foreign checkpoint after it was read without running any of it: frozen records, and their JSON.

A module tree is not yet a document, and nothing here judges whether it could be one. Knows no file format and no
torch; uses the standard library only, since the reader runs where nothing else is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

MAX_TENSORS: Final = 20_000
MAX_MODULES: Final = 20_000
MAX_KEY: Final = 255
MAX_RANK: Final = 16
MAX_DEPTH: Final = 64

ITEM_SIZES: Final[Mapping[str, int]] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "uint64": 8,
    "int64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes of an element of each type that is read, by torch's name of the type."""

Plain = Any
"""JSON of what a file holds beside tensors. Numbers, texts, booleans, null and lists (tuples too) are themselves; an
object with one member that begins with a dollar sign is what JSON has no word for:

    {"$class": "torch.nn.functional.relu"}      a class or function that is referred to
    {"$object": "a.B", "arguments": [], "state": {}}
    {"$tensor": {"dtype": "float32", "shape": [3]}}
    {"$set": []}, {"$dict": [[key, value]]}     keys that are no texts
    {"$float": "nan"}                           nan, inf, -inf
    {"$bytes": 12}                              so many bytes
    {"$cut": "…"}                               too deep, too long, or going round in circles
"""


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes of the file that tensors are views of.

    Args:
        key: its name in the file.
        start: its first byte.
        size: its bytes.
        device: where it was when it was saved, such as "cpu" or "cuda:0"; nothing needs that device to be there.
        crc: CRC-32 of its bytes, where the file has one; compared when the bytes are read.
    """

    key: str
    start: int
    size: int
    device: str
    crc: int | None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor, and where its elements lie; all of them were found to lie inside the storage.

    Args:
        name: its key, with prefixes taken off where `Inspection.repaired` says so.
        dtype: torch's name of the type: "float32".
        shape: its sizes.
        stride: steps between neighbours along each axis, in elements.
        offset: its first element in the storage, in elements.
        storage: key of its `Storage`.
        kind: what it is in a module; "entry" where only a state_dict is known.
        requires_grad: of parameters; None where it is not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: str
    kind: Literal["parameter", "buffer", "entry"] = "entry"
    requires_grad: bool | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A module of a whole-module pickle, as it was put together.

    Args:
        path: dotted path from the root; "" is the root.
        kind: the class it was of: "torch.nn.modules.conv.Conv2d", "__main__.Net".
        training: the mode it was saved in.
        attributes: what was set on it beside parameters, buffers and children, as `Plain`.
        parameters: names in order, and the tensor of each in `Inspection.tensors`; None for one that was left out, as
            with bias=False.
        buffers: the same of buffers.
        not_persistent: buffers that are in no state_dict.
        children: in the order of registration. A child that is None in the file is left out.
        hooks: classes or functions hung on it, such as "torch.nn.utils.weight_norm.WeightNorm". What its class
            computes is then not all that it computed.
        same_as: path of the module that this one is; then all other members are empty.
    """

    path: str
    kind: str
    training: bool = True
    attributes: Mapping[str, Plain] = field(default_factory=dict)
    parameters: Mapping[str, str | None] = field(default_factory=dict)
    buffers: Mapping[str, str | None] = field(default_factory=dict)
    not_persistent: tuple[str, ...] = ()
    children: tuple[Module, ...] = ()
    hooks: tuple[str, ...] = ()
    same_as: str | None = None

    def walk(self) -> Iterator[Module]:
        """This module and all below, parents first, in the order of registration."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Archive:
    """What a TorchServe archive holds beside its weights; none of it is used.

    Args:
        name: the model's name in the manifest.
        version: its version there.
        weights: entry that the weights were taken from.
        handler: what answered requests; a file, or the name of a handler of TorchServe.
        model_file: the Python file with the model's class.
        refused: every entry with code.
    """

    name: str | None
    version: str | None
    weights: str
    handler: str | None
    model_file: str | None
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A foreign checkpoint, read and not run.

    Args:
        format: in which format the tensors lie.
        written_by: releases of torch that the file can be from, in words, where the format tells.
        holds: a module tree, or only tensors by name.
        part: where in a nested checkpoint the weights were taken from: "model", "state.net"; "" is the whole file.
        parts: every place where weights could be taken from.
        tensors: every tensor of what was taken.
        weights: names of those that a state_dict has, in its order.
        storages: by key.
        module: the tree, if `holds` is "module".
        module_paths: paths that the state_dict itself lists, modules without parameters included.
        classes: every class and function that the file names.
        unknown: those that the file would have called, outside of what is known to rebuild data; nothing was called.
        extra_state: what modules put into the state_dict beside tensors (`_extra_state`), as `Plain`.
        others: what lies beside the part, as `Plain`, tensors shortened: epoch, metrics; for safetensors its metadata.
        left_out: names of entries of the part that are neither tensors nor extra state.
        repaired: what was mended, in sentences: prefixes, wrappers.
        tied: groups of names for one and the same tensor.
        shared: groups of names whose tensors lie over each other in part.
        sources: text of classes that the file keeps, by class; it was never compiled.
        archive: of a TorchServe archive.
    """

    format: Literal["zip", "legacy", "safetensors"]
    holds: Literal["module", "state_dict"]
    part: str
    parts: tuple[str, ...]
    tensors: tuple[TensorInfo, ...]
    weights: tuple[str, ...]
    storages: Mapping[str, Storage]
    written_by: str | None = None
    module: Module | None = None
    module_paths: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    extra_state: Mapping[str, Plain] = field(default_factory=dict)
    others: Mapping[str, Plain] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    shared: tuple[tuple[str, ...], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    archive: Archive | None = None

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of this name; it is looked for, so take a dictionary of `tensors` for many.

        Raises:
            KeyError: there is none.
        """
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON; `from_json` reads it back."""
        members: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        members["tensors"] = [_values(tensor) for tensor in self.tensors]
        members["storages"] = [_values(storage) for storage in self.storages.values()]
        members["module"] = None if self.module is None else _module_json(self.module)
        members["archive"] = None if self.archive is None else _values(self.archive)
        return members

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Inspection:
        """What `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        storages = [Storage(*values) for values in members["storages"]]
        archive, module = members["archive"], members["module"]
        given = {
            **members,
            "tensors": tuple(TensorInfo(*map(_frozen, values)) for values in members["tensors"]),
            "storages": {storage.key: storage for storage in storages},
            "module": None if module is None else _module_from(module),
            "archive": None if archive is None else Archive(*map(_frozen, archive)),
        }
        for name in _TUPLES:
            given[name] = _frozen(given[name])
        return cls(**cast("Any", given))


_TUPLES: Final = (
    "parts",
    "weights",
    "module_paths",
    "classes",
    "unknown",
    "left_out",
    "repaired",
    "tied",
    "shared",
)


def _values(record: TensorInfo | Storage | Archive) -> list[Any]:
    """The members of a record without their names, of which a file has thousands."""
    return [getattr(record, name) for name in record.__slots__]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _module_json(module: Module) -> dict[str, Any]:
    members = {name: getattr(module, name) for name in module.__slots__}
    members["children"] = [_module_json(child) for child in module.children]
    return members


def _module_from(members: Mapping[str, Any]) -> Module:
    return Module(
        **{
            **members,
            "children": tuple(_module_from(child) for child in members["children"]),
            "not_persistent": _frozen(members["not_persistent"]),
            "hooks": _frozen(members["hooks"]),
        }
    )
