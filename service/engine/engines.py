"""What computes a version's net in the place of the plan, and in which layout the plan computes.

An engine's file is made here, of a version's own net, and nowhere else: nothing that a client has sent is ever opened
as one. It is held to the plan by the golden rows when it is made and each time it is opened. Knows files of a version
and tensors; knows no store, no job and no request.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from service.engine import export, lookups, plan
from service.engine.predictor import Predictor, Rows, build_of_torch, rows_of
from service.errors import JobFailed, ServiceError
from service.schemas import layers, pools, steps
from service.schemas.architecture import Architecture, leaves
from service.schemas.engines import TOLERANCE, AotInductor, Eager, Engine, EngineRecord, Layout, OnnxRuntime
from service.schemas.judgement import require
from service.schemas.layers import Graph, Layer, Sequential
from service.schemas.versions import Manifest, VersionDraft

FILES: Final = {"onnxruntime": "engine.onnx", "aot_inductor": "engine.pt2"}
"""What the files of engines are called in a version's folder."""

_TRACED_ROWS: Final = 3
"""Of the rows that a net is followed with: a number of which no other size is likely."""


class EngineUnusableError(Exception):
    """An engine cannot serve here; the plan does."""


# -- the layout of the plan -------------------------------------------------------------------------------------------

_CHANNELS: Final = 16
"""So many channels at least make one pixel after the other pay; measured, see docs/decisions."""


def layout_for(architecture: Architecture) -> Layout:
    """The layout that pays for a net, by the document alone, so that every server decides alike.

    Pixel after pixel pays where pictures of many channels are convolved and pooled. It does not for few channels, where
    a convolution has groups of several channels, and where it cuts a picture into patches.
    """
    found = [layer for _, _, layer in leaves(architecture) if isinstance(layer, layers.Conv2d)]
    pooled = any(isinstance(layer, pools.MaxPool2d) for _, _, layer in leaves(architecture)) or any(
        isinstance(step, steps.MaxPool2d) for step in _steps(architecture.root)
    )
    if not found or not pooled:
        return "contiguous"
    for layer in found:
        grouped = layer.groups not in (1, layer.in_channels)
        patches = layer.stride == layer.kernel_size != (1, 1)
        if grouped or patches or layer.out_channels < _CHANNELS:
            return "contiguous"
    return "channels_last"


def _steps(layer: Layer) -> Iterator[Any]:
    if isinstance(layer, (Sequential, Graph)):
        if isinstance(layer, Graph):
            yield from layer.steps
        for child in layer.layers:
            yield from _steps(child)


def laid_out(folder: Path, asked: Engine, rows: Sequence[Rows] | None) -> Predictor:
    """A staged version with its plan in the layout that was asked for, or that pays.

    Args:
        rows: golden rows; drawn where there are none.

    Raises:
        ShapeMismatch, ValidationFailed: the net does not take the rows.
    """
    staged = Predictor.load(folder)
    wanted = asked.layout if isinstance(asked, Eager) else "auto"
    if wanted == "auto":
        wanted = layout_for(staged.architecture)
    if wanted == "contiguous":
        return staged
    other = Predictor.load(folder, layout=wanted)
    tried = staged.drawn(_TRACED_ROWS) if rows is None else rows
    try:
        worst = apart(other.run(tried), staged.run(tried))
    except ServiceError:
        return staged
    return other if worst is not None and worst <= TOLERANCE else staged


def layout_of(record: EngineRecord | None) -> Layout:
    """The layout of a version's plan; versions of before there was a choice are contiguous."""
    return "contiguous" if record is None else record.layout


# -- what a server has ------------------------------------------------------------------------------------------------


def lacking(
    engine: Engine | None,
    found: Callable[[str], object] = importlib.util.find_spec,
    which: Callable[[str], str | None] = shutil.which,
) -> tuple[str, ...]:
    """The packages and programs that building an engine needs and that are not here; nothing is imported."""
    match engine:
        case OnnxRuntime():
            return tuple(name for name in (*export.ONNX_PACKAGES, "onnxruntime") if found(name) is None)
        case AotInductor():
            return () if which(_compiler()) is not None else (_compiler(),)
        case _:
            return ()


def _compiler() -> str:
    return "g++"


# -- making -----------------------------------------------------------------------------------------------------------


def build(
    engine: OnnxRuntime | AotInductor, predictor: Predictor, golden: Mapping[str, Any], folder: Path, *, scratch: Path
) -> tuple[Predictor, EngineRecord]:
    """Write an engine's file into the folder of a staged version, and hold it to the plan.

    Args:
        engine: which one.
        predictor: the staged version with its plan.
        golden: the golden rows with the plan's answers.
        folder: of the staged version.
        scratch: a folder for what the compiler leaves; it is removed.

    Returns:
        The version with its engine, and what the manifest says of it.

    Raises:
        JobFailed: `engine_refused`; no file is left.
    """
    path = folder / FILES[engine.type]
    clean = Predictor.load(folder)  # as the weights were saved, whatever the layout of the plan
    try:
        if isinstance(engine, OnnxRuntime):
            built_with = _write_onnx(clean, path)
        else:
            built_with = _write_native(clean, path, scratch)
        record = EngineRecord(type=engine.type, layout=predictor.layout, file=path.name, built_with=built_with)
        other = predictor.by(_opened(record, folder, predictor), name=engine.type)
        deviation = _held(other, predictor, golden)
    except EngineUnusableError as unusable:
        path.unlink(missing_ok=True)
        raise _refused(engine, str(unusable)) from unusable
    except JobFailed as refused:
        path.unlink(missing_ok=True)
        raise _refused(engine, refused.message) from refused
    except Exception as error:  # compilers and exporters raise what they like
        path.unlink(missing_ok=True)
        raise _refused(engine, _first_line(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return other, record.model_copy(update={"deviation": deviation})


def _write_onnx(predictor: Predictor, path: Path) -> dict[str, str]:
    import onnxruntime

    names = _output_names(predictor.architecture)
    about = export.write_onnx(predictor.architecture, predictor.module, path, outputs=names)
    for told, spec in zip(about["inputs"], predictor.architecture.inputs, strict=True):
        for size, wanted in zip(told["shape"], spec.shape, strict=True):
            if isinstance(wanted, str) and not isinstance(size, str):
                raise EngineUnusableError(f"it would fix the size {wanted!r} of {spec.name!r}, which is free")
    return {"onnxruntime": onnxruntime.__version__, "opset": str(about["opset"])}


def _write_native(predictor: Predictor, path: Path, scratch: Path) -> dict[str, str]:
    """Compile the net for this processor; what the compiler keeps beside it goes to `scratch` alone."""
    for spec in predictor.architecture.inputs:
        free = [size for size in spec.shape[1:] if isinstance(size, str)]
        if free:
            raise EngineUnusableError(f"{spec.name!r} has free sizes beside its rows ({', '.join(free)})")
    scratch.mkdir(exist_ok=True)
    inputs = tuple(torch.from_numpy(rows.numbers) for rows in _bare(predictor).drawn(_TRACED_ROWS))
    with export.quiet():
        program = export.exported(predictor.module, inputs, predictor.architecture)
    with _compiling_in(scratch), export.quiet():
        from torch._inductor import aoti_compile_and_package  # late: it takes a second

        # The code runs in whichever thread calls it, where only it knows of how many threads it may take: of one.
        options = {"cpp.threads": 1, "compile_threads": 1}
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    return _machine()


_CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"


@contextlib.contextmanager
def _compiling_in(folder: Path) -> Iterator[None]:
    """Torch's compiler keeps what it makes in this folder, and takes nothing from elsewhere."""
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ[_CACHE]
        if before is not None:
            os.environ[_CACHE] = before


def _machine() -> dict[str, str]:
    """What native code is bound to: it is made for this very kind of processor and build of torch."""
    flags = ""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as told:
        flags = next((line.partition(":")[2].strip() for line in told if line.startswith(("flags", "Features"))), "")
    digest = hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16]
    return {**build_of_torch(), "machine": platform.machine(), "processor": digest}


def _refused(engine: Engine, detail: str) -> JobFailed:
    whole = f"The net cannot be served by {engine.type}: {detail.removesuffix('.')}."
    return JobFailed("engine_refused", whole, hint="Leave `engine` out: torch itself serves every net.")


# -- opening ----------------------------------------------------------------------------------------------------------


def engaged(
    predictor: Predictor, manifest: Manifest | VersionDraft, folder: Path, golden: Mapping[str, Any]
) -> Predictor:
    """A version with its engine in the place of its plan; the predictor itself where the plan serves.

    Args:
        predictor: the version with its plan.
        manifest: which says what serves it, and the digest of the file: no other bytes are ever opened.
        folder: the version's.
        golden: its golden rows.

    Raises:
        EngineUnusableError: the engine is not installed here, was made for another machine, or answers otherwise.
    """
    record = manifest.engine
    if record is None or record.file is None:
        return predictor
    known = next((file.sha256 for file in manifest.files if file.name == record.file), None)
    with (folder / record.file).open("rb") as file:
        if known is None or hashlib.file_digest(file, "sha256").hexdigest() != known:
            raise EngineUnusableError("its file is not the one of the manifest")
    try:
        other = predictor.by(_opened(record, folder, predictor), name=record.type)
        _held(other, predictor, golden)
    except (EngineUnusableError, MemoryError, OSError):
        raise
    except Exception as error:  # of a package that is not ours; the plan can serve all the same
        raise EngineUnusableError(str(error).strip().partition("\n")[0]) from error
    return other


def _opened(record: EngineRecord, folder: Path, predictor: Predictor) -> plan.Plan:
    if record.file is None or record.file != FILES.get(record.type):
        raise EngineUnusableError("its file has a name that no engine has")
    path = folder / record.file
    function = _onnx(path, predictor) if record.type == "onnxruntime" else _native(path, record)
    return _guarded(function, predictor.architecture, predictor.module)


def _onnx(path: Path, predictor: Predictor) -> plan.Plan:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineUnusableError("onnxruntime is not installed here (modelyard[onnx])") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it meets is told by its exceptions
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineUnusableError(f"ONNX Runtime cannot open its file: {_first_line(error)}") from error
    names = [spec.name for spec in predictor.architecture.inputs]
    outputs = [each.name for each in session.get_outputs()]
    run, from_numpy = session.run, torch.from_numpy

    def one(x: Tensor) -> Any:
        try:
            return from_numpy(run(outputs, {name: x.numpy()})[0])
        except Exception as error:  # its exceptions have no base of their own
            raise RuntimeError(_first_line(error)) from error

    def several(*inputs: Tensor) -> Any:
        try:
            answers = run(outputs, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})
        except Exception as error:
            raise RuntimeError(_first_line(error)) from error
        found = tuple([from_numpy(each) for each in answers])
        return found[0] if len(found) == 1 else found

    name = names[0]
    return one if len(names) == len(outputs) == 1 else several


def _native(path: Path, record: EngineRecord) -> plan.Plan:
    if record.built_with != _machine():
        raise EngineUnusableError("it was compiled for another processor or build of torch")
    from torch._inductor import aoti_load_package

    try:
        with _UNPACKING, export.quiet():
            before = _unpacked()
            run = aoti_load_package(str(path)).loader.run
            for folder in _unpacked() - before:
                shutil.rmtree(folder, ignore_errors=True)
    except Exception as error:
        raise EngineUnusableError(f"its code cannot be loaded: {_first_line(error)}") from error

    def compiled(*inputs: Tensor) -> Any:
        found = run(list(inputs))
        return found[0] if len(found) == 1 else tuple(found)

    return compiled


_UNPACKING: Final = threading.Lock()
"""So that what is unpacked meanwhile is of one load."""
_UNPACKED: Final = re.compile(r"^(?:\S+ +){5}(/.*/aotinductor_[^/]+)/", re.MULTILINE)


def _unpacked() -> frozenset[str]:
    """The folders from which this process has mapped native code.

    Torch unpacks a package into a temporary folder, which it removes when the code goes. A process that is killed would
    leave it for ever; but once the code is mapped, nobody needs the names of its files.
    """
    try:
        return frozenset(_UNPACKED.findall(Path("/proc/self/maps").read_text(errors="surrogateescape")))
    except OSError:
        return frozenset()


def _guarded(function: plan.Plan, architecture: Architecture, module: nn.Module) -> plan.Plan:
    """The same, but what is looked up is compared with the tables first: other engines take wrong numbers silently."""
    looks_up = any(isinstance(layer, (layers.Embedding, layers.EmbeddingBag)) for _, _, layer in leaves(architecture))
    if not looks_up and not any(isinstance(step, (steps.Embed, steps.OneHot)) for step in _steps(architecture.root)):
        return function

    def guarded(*inputs: Tensor) -> Any:
        if lookups.beyond(architecture, module, inputs):
            raise IndexError("a number is beyond its table")
        return function(*inputs)

    return guarded


def _held(other: Predictor, predictor: Predictor, golden: Mapping[str, Any]) -> float:
    """The largest difference of an engine from the plan, for the golden rows, one of them, and a number of none.

    Raises:
        EngineUnusableError: it is more than TOLERANCE, or the engine fails where the plan does not.
    """
    rows = rows_of(golden)
    count = len(rows[0].numbers)
    worst = 0.0
    for size in (count, 1, 2 * count + 1):
        places = np.arange(size) % count
        tried = [Rows(part.numbers[places], None if part.codes is None else part.codes[places]) for part in rows]
        wanted = golden["outputs"] if size == count else predictor.run(tried)
        try:
            found = apart(other.run(tried), wanted)
        except ServiceError as error:
            detail = error.errors[0].detail if error.errors else error.message
            raise EngineUnusableError(f"it does not take {size} rows: {detail.removesuffix('.')}") from error
        if found is None:
            raise EngineUnusableError("its answers have other shapes or types")
        if not found <= TOLERANCE:
            raise EngineUnusableError(f"its answers differ by {found:.1e} of the largest, more than {TOLERANCE:g}")
        worst = max(worst, found)
    return worst


def apart(these: Sequence[Tensor], those: Sequence[Tensor]) -> float | None:
    """The largest difference relative to the largest answer; None where shapes or types differ, infinite where only
    one is not finite."""
    worst = 0.0
    if len(these) != len(those):
        return None
    for one, other in zip(these, those, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return None
        left, right = one.double(), other.double()
        same = (left == right) | (left.isnan() & right.isnan())
        if bool(same.all()):
            continue
        scale = right.abs().nan_to_num(0.0, 0.0, 0.0).max().clamp(min=1e-6)
        worst = max(worst, ((left - right).abs() / scale)[~same].nan_to_num(torch.inf).max().item())
    return worst


def _output_names(architecture: Architecture) -> list[str]:
    summary = require(architecture).summary
    assert summary is not None
    return [output["name"] for output in summary["outputs"]]


def _bare(predictor: Predictor) -> Predictor:
    from service.schemas.preprocessing import NONE

    return Predictor(predictor.architecture, NONE, predictor.module)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
