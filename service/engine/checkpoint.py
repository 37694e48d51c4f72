"""The only reader and writer of tensors on disk: state_dicts and training states, as torch writes them, read as data.

Every read is `weights_only`; whole modules are neither written nor read. Knows no store, no document and no job.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.engine.inspection import Inspection
from service.engine.legacy import read_tensors
from service.engine.preprocessing import cast
from service.engine.readers import nested_numbers
from service.errors import MAX_ENTRIES, CheckpointReason, CheckpointRefused, DtypeMismatch, Entry, NotFinite, shorten
from service.schemas.document import canonical, digest, nearest_hint, pointer

NO_MEMORY: Final = re.compile(r"out of memory|not enough memory|can(?:not|'t) allocate memory|bad_alloc", re.IGNORECASE)
"""What torch says where Python would raise MemoryError."""


def save(path: Path, state: Mapping[str, Any]) -> tuple[int, str]:
    """Write nested plain data and tensors so that `path` is either whole or as it was before.

    Returns:
        Size in bytes and the sha256, in hexadecimal, of the file.

    Raises:
        OSError: the disk is full, or the like; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        with temporary.open("rb") as file:  # read again: this catches what memory or disk did to the bytes
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return size, sha256


def load(path: Path, *, device: str = "cpu", mmap: bool = False) -> Any:
    """What `save` wrote, with its tensors on `device`.

    Args:
        path: the file.
        device: where the tensors go.
        mmap: map the file instead of reading it; it must then never be changed afterwards, only replaced.

    Raises:
        CheckpointRefused: the file is damaged, or holds more than plain data and tensors.
        OSError: it cannot be read.
    """
    return _load(path, device, mmap=mmap)


def load_weights(module: nn.Module, path: Path, *, device: str = "cpu") -> None:
    """Put a saved state_dict into `module`, which may have been built on the meta device; strict.

    The file is mapped, not read: it must never be changed afterwards, only replaced. Parameters keep their
    `requires_grad`, the module keeps its mode.

    Raises:
        CheckpointRefused: every missing, unexpected and mis-shaped tensor.
        OSError: the file cannot be read.
    """
    state = _load(path, device, mmap=True)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointRefused("The file holds no state_dict.", reason="not-a-checkpoint")
    reference = module.state_dict()
    found = _key_mistakes(state.keys(), reference.keys(), "")
    for name, tensor in state.items():
        wanted = reference.get(name)
        if wanted is not None and (tensor.shape != wanted.shape or tensor.dtype != wanted.dtype):
            found.append(
                Entry(
                    pointer([name]),
                    "shapes" if tensor.shape != wanted.shape else "dtype",
                    f"{shorten(name)} does not fit the architecture.",
                    layer=name.rpartition(".")[0] or None,
                    expected=_described(wanted),
                    got=_described(tensor),
                )
            )
    if found:
        raise _refusal(found)
    module.load_state_dict(state, strict=True, assign=True)


def weights_digest(state_dict: Mapping[str, Tensor]) -> str:
    """Digest of names, dtypes, shapes and bytes alone: the same for equal tensors in any file and in any order."""
    tensors = []
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        tensors.append([name, _dtype_name(tensor), list(tensor.shape), hashlib.sha256(data).hexdigest()])
    return digest(canonical(tensors))


def state_dict_from_json(
    values: Mapping[str, Any], reference: Mapping[str, Tensor], *, at: str = "/state_dict"
) -> dict[str, Tensor]:
    """Nested lists as the tensors of a module.

    Args:
        values: nested lists of numbers by key.
        reference: the module's own state_dict, of which keys, shapes and dtypes count (it may be on meta).
        at: pointer to `values` in the request.

    Raises:
        CheckpointRefused: every missing, unexpected, mis-shaped and non-finite entry.
    """
    found = _key_mistakes(values.keys(), reference.keys(), at)
    tensors: dict[str, Tensor] = {}
    for name, wanted in reference.items():
        if name not in values:
            continue
        where = pointer([name], at)
        array, mistakes = nested_numbers(values[name], at=where)
        found += mistakes
        if array is None:
            continue
        if tuple(array.shape) != tuple(wanted.shape):
            found.append(
                Entry(
                    where,
                    "shapes",
                    f"{shorten(name)} does not have the shape that the architecture gives it.",
                    layer=name.rpartition(".")[0] or None,
                    expected=str(list(wanted.shape)),
                    got=str(list(array.shape)),
                )
            )
            continue
        try:
            tensors[name] = cast(array, wanted.dtype, at=where)
        except (DtypeMismatch, NotFinite) as refused:
            found += refused.errors
    if found:
        raise _refusal(found)
    return tensors


def assemble(
    path: Path, inspection: Inspection, sources: Mapping[str, tuple[str, ...] | None], reference: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A foreign file's tensors as the state_dict of a net.

    The tensors are views of the mapped file where its bytes lie in order: save them before the file goes.

    Args:
        inspection: what the inert reader found in the file.
        sources: for every key the names in the file: one, g and v of weight normalisation, or None for a count of 0.
        reference: the net's own state_dict, of which shapes and dtypes count (it may be on meta).

    Raises:
        CheckpointRefused: a check sum is another, or the file has changed.
        OSError: it cannot be read.
    """
    names = {name for source in sources.values() for name in source or ()}
    read: dict[str, Tensor] = {}
    for info, data in read_tensors(path, inspection, names):
        dtype = getattr(torch, info.dtype)
        flat = torch.frombuffer(data, dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
        read[info.name] = flat.reshape(info.shape)
    tensors: dict[str, Tensor] = {}
    for key, wanted in reference.items():
        source = sources[key]
        match source:
            case None:
                tensor = torch.zeros(wanted.shape, dtype=wanted.dtype)
            case (name,):
                tensor = read[name]
            case (g, v):
                tensor = _normalised(read[g], read[v])
            case _:
                raise ValueError(f"{key} has {len(source)} sources")
        tensors[key] = tensor.to(wanted.dtype).reshape(wanted.shape)
    return tensors


def _normalised(g: Tensor, v: Tensor) -> Tensor:
    """The weight that weight normalisation computes: g · v / ‖v‖ along the dimension that g keeps."""
    along = [axis for axis in range(g.dim()) if g.shape[axis] == v.shape[axis] and g.shape[axis] > 1]
    if g.dim() != v.dim() or g.numel() == 1:
        return v * (g.reshape(()) / v.norm())
    return torch._weight_norm(v, g, along[0] if along else 0)


def _load(path: Path, device: str, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the unpickler raises what it likes, from KeyError to UnpicklingError
        if NO_MEMORY.search(str(error)):
            raise MemoryError("There is not enough memory for the tensors.") from error
        what = (str(error) or type(error).__name__).splitlines()[0].replace(str(path), path.name)[:150]
        raise CheckpointRefused(f"The file cannot be read as tensors: {what}", reason="not-a-checkpoint") from error


def _key_mistakes(given: Any, wanted: Any, at: str) -> list[Entry]:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    return [
        Entry(
            at,
            "missing",
            f"The weights lack {shorten(name)}.",
            layer=name.rpartition(".")[0] or None,
            hint=nearest_hint(name, unexpected),
        )
        for name in missing
    ] + [
        Entry(
            pointer([name], at),
            "unexpected",
            f"The architecture has no {shorten(name)}.",
            hint=nearest_hint(name, missing),
            expected=", ".join(wanted)[:200] if len(wanted) <= 20 else None,
        )
        for name in unexpected
    ]


def _refusal(found: list[Entry]) -> CheckpointRefused:
    """All mistakes, by a count each in the message and the first 20 as entries."""
    counts = {code: sum(entry.code == code for entry in found) for code in ("missing", "unexpected", "shapes", "dtype")}
    words = {
        "missing": "missing",
        "unexpected": "unexpected",
        "shapes": "of another shape",
        "dtype": "of another dtype",
    }
    told = ", ".join(f"{count} {words[code]}" for code, count in counts.items() if count) or found[0].detail
    return CheckpointRefused(
        f"The weights do not fit the architecture: {told.removesuffix('.')}.",
        reason=_REASONS.get(found[0].code, "dtype"),
        errors=found[:MAX_ENTRIES],
        more=max(0, len(found) - MAX_ENTRIES),
    )


_REASONS: Final[Mapping[str, CheckpointReason]] = {
    "missing": "keys",
    "unexpected": "keys",
    "shapes": "shapes",
    "shape-mismatch": "shapes",
    "not-finite": "not-finite",
}
"""What a refusal is called after its first mistake; whatever else is wrong is wrong with the numbers' type."""


def _described(tensor: Tensor) -> str:
    return f"{_dtype_name(tensor)} {list(tensor.shape)}"


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
