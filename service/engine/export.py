"""A version's net in the forms that other programs read: safetensors, and ONNX where its packages are installed.

Nothing here is a pickle, and nothing large is copied: safetensors are put together from the mapped weights while they
are sent. Knows files of a version and tensors; knows no store, no job and no request.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from service.engine import checkpoint
from service.engine.predictor import Predictor
from service.errors import CheckpointRefused, Entry, JobFailed
from service.schemas.architecture import Architecture
from service.schemas.preprocessing import NONE

Piece: TypeAlias = bytes | memoryview

ARTIFACT: Final = "artifact"
"""The file that an export job leaves in the folder of its attempt."""
_BLOCK: Final = 1 << 20
_HEADER_STEP: Final = 8
"""Headers of safetensors end at a multiple of this, so that the tensors behind them are aligned."""


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """Bytes that are put together from pieces while they are read; pieces may be views of mapped files.

    A file that is mapped here must never be changed, only replaced; it stays readable after it was removed.
    """

    pieces: tuple[Piece, ...]

    @property
    def size_bytes(self) -> int:
        """How many bytes there are."""
        return sum(len(piece) for piece in self.pieces)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, a mebibyte at a time."""
        end = self.size_bytes if stop is None else stop
        offset = 0
        for piece in self.pieces:
            view = memoryview(piece)
            first, last = max(start - offset, 0), min(end - offset, len(view))
            for place in range(first, last, _BLOCK):
                yield bytes(view[place : min(place + _BLOCK, last)])
            offset += len(view)

    def sha256(self) -> str:
        """The SHA-256 of all bytes in hex."""
        hashed = hashlib.sha256()
        for piece in self.pieces:
            hashed.update(piece)
        return hashed.hexdigest()


# -- safetensors ------------------------------------------------------------------------------------------------------


def safetensors(path: Path) -> Assembly:
    """A saved state_dict as safetensors; the bytes depend on names, types, shapes and values of the tensors alone.

    Names stand sorted in the header, which has no metadata. The data lie with the widest types first, and by name among
    equals, so that each tensor is aligned. Tensors that share memory are written once for each name, since the format
    has no sharing. `state_dict._metadata` has no place in the format either.

    Raises:
        CheckpointRefused: the file holds no state_dict, or a tensor of a type that safetensors does not have.
        OSError: it cannot be read.
    """
    state = checkpoint.load(path, mmap=True)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointRefused("The file holds no state_dict.", reason="not-a-checkpoint")
    return pack_safetensors(state)


def pack_safetensors(tensors: Mapping[str, Tensor]) -> Assembly:
    """Tensors as safetensors: see `safetensors`. Contiguous ones are not copied.

    Raises:
        CheckpointRefused: a tensor is of a type that safetensors does not have.
    """
    header: dict[str, Any] = {}
    pieces: list[Piece] = []
    offset = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name].detach()
        dtype = _SAFETENSORS.get(tensor.dtype)
        if dtype is None:
            raise CheckpointRefused(f"Safetensors have no type for {name!r}, which is {tensor.dtype}.", reason="dtype")
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        pieces.append(data)
    text = json.dumps(dict(sorted(header.items())), separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_STEP)
    return Assembly((len(text).to_bytes(8, "little"), text, *pieces))


_SAFETENSORS: Final[Mapping[torch.dtype, str]] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
}


# -- ONNX -------------------------------------------------------------------------------------------------------------

ONNX_PACKAGES: Final = ("onnx", "onnxscript")
_ROWS: Final = 3
"""Of the rows that the net is traced with: a number of which no other size is likely."""


def onnx_missing(found: Callable[[str], object] = importlib.util.find_spec) -> tuple[str, ...]:
    """The packages that writing ONNX needs and that are not installed; nothing is imported."""
    return tuple(name for name in ONNX_PACKAGES if found(name) is None)


def write_onnx(
    architecture: Architecture, module: nn.Module, path: Path, *, outputs: Sequence[str] = ("output",)
) -> dict[str, Any]:
    """Write a net as one ONNX file, weights included, checked; sizes that are free in the document stay free.

    Preprocessing is no part of it.

    Args:
        architecture: the judged document of the net.
        module: the net with its weights; it is set to evaluation.
        path: where the file goes.
        outputs: names of the net's outputs; its inputs have those of the document.

    Returns:
        What the file says of itself: `opset`, `inputs` and `outputs` with name, dtype and shape.

    Raises:
        JobFailed: `export_refused`, with the layer where it is known: torch's exporter cannot do this net.
        OSError: the disk is full, or the like.
    """
    # Late: seconds and 200 MB that no other job needs; and `onnx` may not be installed.
    import onnx
    import torch.onnx

    module.eval()
    bare = Predictor(architecture, NONE, module)
    inputs = tuple(torch.from_numpy(rows.numbers) for rows in bare.drawn(_ROWS))
    with quiet():
        program = exported(module, inputs, architecture)
    try:
        with quiet():
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[spec.name for spec in architecture.inputs],
                output_names=list(outputs),
            )
            assert made is not None
            document: Any = made.model_proto
    except Exception as error:  # the exporter raises what it likes
        raise _not_converted(error, program) from error
    _cleaned(document, architecture)
    try:
        onnx.checker.check_model(document, full_check=True)
        content: bytes = document.SerializeToString(deterministic=True)
    except Exception as error:
        detail = "ONNX's own check refuses what torch's exporter wrote."
        if isinstance(error, ValueError) and "2GB" in str(error):
            detail = "The net is too large: an ONNX file of one piece has less than 2 GiB."
        raise JobFailed("export_refused", detail, hint=_OTHERWISE) from error
    for value, spec in zip(document.graph.input, architecture.inputs, strict=True):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            detail = f"The net cannot be written for any number of rows: torch's exporter fixes it for {spec.name!r}."
            raise JobFailed("export_refused", detail, hint=_OTHERWISE)
    path.write_bytes(content)
    return {
        "opset": next(item.version for item in document.opset_import if item.domain == ""),
        "inputs": [_told(value, onnx) for value in document.graph.input],
        "outputs": [_told(value, onnx) for value in document.graph.output],
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself, of which neither an author nor a server can mend anything."""
    logger = logging.getLogger("torch.onnx")  # each time it tells that torchvision is not installed
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            for message in _EXPORTERS_OWN:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


_EXPORTERS_OWN: Final = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The tensor attributes? .* assigned during export",  # a recurrent layer's list of its own weights
)


def exported(module: nn.Module, inputs: Sequence[Tensor], architecture: Architecture) -> Any:
    """The net as a graph of ATen operations. Sizes that the document leaves free are free, where the net allows it.

    Raises:
        JobFailed: `export_refused`, with the layer where it is known: torch cannot follow the net.
    """
    shapes: Any = tuple(
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in architecture.inputs
    )
    kinds = {parameter.kind for parameter in inspect.signature(module.forward).parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        shapes = (shapes,)  # the classes of graphs take *inputs
    inside: list[str] = []  # the layers that run, the innermost last
    hooks = []
    for name, layer in module.named_modules():
        hooks.append(layer.register_forward_pre_hook(partial(_enter, inside, name)))
        hooks.append(layer.register_forward_hook(partial(_leave, inside)))
    try:
        with torch.no_grad():
            return torch.export.export(module, tuple(inputs), dynamic_shapes=shapes)
    except Exception as error:
        raise _refused("torch.export cannot follow the net", error, inside[-1] if inside else None) from error
    finally:
        for hook in hooks:
            hook.remove()


def _enter(inside: list[str], name: str, *_: object) -> None:
    inside.append(name)


def _leave(inside: list[str], *_: object) -> None:
    inside.pop()


def _not_converted(error: Exception, program: Any) -> JobFailed:
    """The exporter's refusal: its innermost cause, and the layer that the operation came from."""
    node = None
    cause: BaseException = error
    while True:
        found = re.search(r"translating node %(\w+)", str(cause))
        node = found[1] if found else node
        if cause.__cause__ is None:
            break
        cause = cause.__cause__
    operation = re.search(r"op='aten\.(\w+)'", str(cause))
    layer = None
    for each in program.graph.nodes:
        if each.op == "call_function" and (
            each.name == node or (operation is not None and f"aten.{operation[1]}." in str(each.target))
        ):
            stack = each.meta.get("nn_module_stack") or {}
            layer = next((path for path, _ in reversed(list(stack.values()))), None)
            break
    what = "ONNX has no counterpart of an operation" if operation else "torch's exporter cannot write an operation"
    return _refused(what, operation[1] if operation else cause, layer)


_OTHERWISE: Final = "Take the bundle or the safetensors, or change the layer."


def _refused(what: str, error: BaseException | str, layer: str | None) -> JobFailed:
    if isinstance(error, str):
        told = error
    else:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".:")
    where = f" in layer {layer!r}" if layer else ""
    detail = f"{what}{where}: {told}."
    errors = [Entry("/model", "export-refused", detail, layer=layer or None, hint=_OTHERWISE)]
    return JobFailed("export_refused", detail, hint=_OTHERWISE, errors=errors)


def _cleaned(document: Any, architecture: Architecture) -> None:
    """Give free sizes the names that they have in the net's document, and take out where this was made."""
    graph = document.graph
    sizes: dict[str, str] = {}
    for value, spec in zip(graph.input, architecture.inputs, strict=True):
        for found, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if found.dim_param and isinstance(size, str):
                sizes.setdefault(found.dim_param, size)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for found in value.type.tensor_type.shape.dim:
            if found.dim_param:  # possibly a sum, as "s77 + 2"
                found.dim_param = re.sub(r"\w+", lambda match: sizes.get(match[0], match[0]), found.dim_param)
    parts = (*document.functions, *(node for function in document.functions for node in function.node))
    for part in (
        document,
        graph,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        *graph.node,
        *parts,
    ):
        part.doc_string = ""
        del part.metadata_props[:]  # stack traces, with the paths of this machine


def _told(value: Any, onnx: Any) -> dict[str, Any]:
    kind = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    return {
        "name": value.name,
        "dtype": {"float": "float32", "double": "float64"}.get(name, name),
        "shape": [size.dim_param or size.dim_value for size in kind.shape.dim],
    }
