"""The Open Inference Protocol v2 as a view of the data plane: what its REST form and its gRPC form both say.

It knows which tensors a version takes, and what the protocol calls a version, its state and its figures. It knows no
wire: `rest/open_inference` writes JSON and bytes, `grpc/` writes messages.
"""

from __future__ import annotations

import base64
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
from anyio.to_thread import run_sync

from service import __version__
from service.dataplane import DataPlane, Statistics, Ticket
from service.errors import Draining, Entry, InvalidInput, NotFound, ServiceError, Unsupported, listed, shorten
from service.inference import tensors
from service.inference.dispatch import Promise
from service.inference.runtime import Inference, Slice
from service.inference.tensors import DATATYPE_OF, Answered, Request, Tensor
from service.schemas.document import nearest_hint, pointer
from service.schemas.preprocessing import ArrayRow, NumberColumn, Preprocessing, TableRow
from service.schemas.versions import Reference, Signature, TensorSpec, check_alias, check_name
from service.store.database import Page
from service.store.models import ModelStore
from service.store.records import VersionRecord
from service.telemetry import log

_log = log(__name__)
Array = npt.NDArray[Any]
T = TypeVar("T")

SERVER: Final = "modelyard"
PLATFORM: Final = "pytorch_statedict"
"""An architecture document and a state_dict; none of the protocol's own words says so."""

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_repository",
    "model_configuration",
    "statistics",
    "parameters",
    "schedule_policy",
)
_KEPT: Final = 256
"""Versions of which it is remembered what they take."""
_PAGE: Final = 200
_AT_ONCE: Final = 16 * 1024
"""More elements are made ready in a thread, so that nobody waits for them."""


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor that a version takes or answers, in the protocol's words; −1 is a free size, the first one the rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As metadata has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What one version is and takes."""

    name: str
    version: str
    versions: tuple[str, ...]
    inputs: tuple[Described, ...]
    outputs: tuple[Described, ...]
    properties: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As GET /v2/models/{name} answers it."""
        return {
            "name": self.name,
            "versions": list(self.versions),
            "platform": PLATFORM,
            "inputs": [one.to_dict() for one in self.inputs],
            "outputs": [one.to_dict() for one in self.outputs],
            "properties": dict(self.properties),
        }


class Takes:
    """The tensors that a version takes, and how they become the arrays of the data plane.

    A version whose rows are raw columns with texts takes one tensor for each column; any other takes one for each input
    of its signature. Columns that are all numbers may come either way.
    """

    def __init__(self, specs: Sequence[TensorSpec], rows: Sequence[TableRow | ArrayRow | None]) -> None:
        self._specs = tuple(specs)
        self._rows = tuple(rows) if len(rows) == len(specs) else (None,) * len(specs)
        self.described = tuple(
            one for spec, row in zip(self._specs, self._rows, strict=True) for one in self._of(spec, row)
        )
        self.pictures = any(isinstance(row, ArrayRow) and row.image is not None for row in self._rows)
        """Whether files of pictures may come."""
        self._plain = {
            spec.name: spec
            for spec, row in zip(self._specs, self._rows, strict=True)
            if not isinstance(row, TableRow) and not (isinstance(row, ArrayRow) and row.image is not None)
        }

    def arrays(self, sent: Sequence[Tensor]) -> dict[str, Array]:
        """The raw arrays [N, …] by input name.

        Raises:
            InvalidInput: tensors are missing or unknown, or hold what the version cannot take.
        """
        if len(sent) == len(self._plain) == len(self._specs) and all(one.name in self._plain for one in sent):
            return {one.name: _numbers(one, self._plain[one.name]) for one in sent}
        given = {one.name: one for one in sent}
        found: dict[str, Array] = {}
        mistakes: list[Entry] = []
        for spec, row in zip(self._specs, self._rows, strict=True):
            if isinstance(row, TableRow):
                names = self._columns(spec, row)
                if all(name in given for name in names.values()):
                    found[spec.name] = _assembled({column: given.pop(name) for column, name in names.items()}, row)
                elif spec.name in given:
                    found[spec.name] = _table(given.pop(spec.name), row)
                else:
                    present = [name for name in names.values() if given.pop(name, None) is not None]
                    missing = [name for name in names.values() if name not in present]
                    mistakes += [_missing(name) for name in (missing if present or row.texts else [spec.name])]
            elif spec.name not in given:
                mistakes.append(_missing(spec.name))
            elif isinstance(row, ArrayRow) and row.image is not None and given[spec.name].datatype == "BYTES":
                found[spec.name] = _pictures(given.pop(spec.name))
            else:
                found[spec.name] = _numbers(given.pop(spec.name), spec)
        known = [one.name for one in self.described]
        mistakes += [
            Entry(
                f"{one.at}/name",
                "unknown-member",
                "This version has no such input.",
                hint=nearest_hint(one.name, known),
                expected=listed(known),
                got=shorten(one.name),
            )
            for one in given.values()
        ]
        tensors.refuse(mistakes)
        return found

    def _of(self, spec: TensorSpec, row: TableRow | ArrayRow | None) -> list[Described]:
        if not isinstance(row, TableRow):
            return [described(spec)]
        number = "FP32" if spec.dtype.startswith(("float", "bfloat")) else "INT64"
        if not row.texts:
            return [Described(spec.name, number, (-1, len(row.columns)))]
        names = self._columns(spec, row)
        return [
            Described(names[column.name], number if isinstance(column, NumberColumn) else "BYTES", (-1, 1))
            for column in row.columns
        ]

    def _columns(self, spec: TensorSpec, row: TableRow) -> dict[str, str]:
        """The name of the tensor of each column: of several inputs, with the input's in front."""
        alone = len(self._specs) == 1
        return {column.name: column.name if alone else f"{spec.name}.{column.name}" for column in row.columns}


class OpenInference:
    """What the protocol's operations do, whatever the wire.

    Args:
        plane: answers predictions.
        models: says which models and versions there are.
        rows: the most that one request may hold.
        elements: the most numbers that one request may hold.
        phase: why the server takes no requests now; empty while it does.
    """

    def __init__(
        self, plane: DataPlane, models: ModelStore, *, rows: int, elements: int, phase: Callable[[], str]
    ) -> None:
        self._plane = plane
        self._models = models
        self.rows = rows
        self.elements = elements
        self._phase = phase
        self._takes: OrderedDict[tuple[str, int], Takes] = OrderedDict()
        self._let_go: set[tuple[str, int]] = set()
        self.tell: Callable[[Literal["load", "unload"], str], None] = lambda word, name: None
        """Called when a model is loaded or unloaded here, for the other processes of this server."""

    # -- the server -------------------------------------------------------------------------------------------------

    def require_ready(self) -> None:
        """See that the server takes requests.

        Raises:
            Draining: it starts or stops.
        """
        why = self._phase()
        if why:
            raise Draining(why, retry_after_s=1)

    def server(self) -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return {"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)}

    # -- models -----------------------------------------------------------------------------------------------------

    async def metadata(self, reference: Reference) -> Metadata:
        """What a version takes and answers.

        Raises:
            NotFound, ModelQuarantined: as they say.
        """
        found = await self._plane.describe(reference)
        takes = await self._what_it_takes(reference)
        properties = {"digest": found.manifest.digest}
        if found.alias is not None:
            properties["alias"] = found.alias
        if found.classes is not None:
            properties["classes"] = orjson.dumps(found.classes).decode()
        return Metadata(
            name=found.model,
            version=str(found.version),
            versions=await run_sync(self._ready_versions, found.model),
            inputs=takes.described,
            outputs=tuple(described(spec) for spec in found.signature.outputs),
            properties=properties,
        )

    async def config(self, reference: Reference) -> dict[str, Any]:
        """A version in the form of Triton's ModelConfig: what its tools read, without the dimension of the rows."""
        found = await self.metadata(reference)
        policy = self._plane.policy
        return {
            "name": found.name,
            "platform": PLATFORM,
            "backend": "pytorch",
            "version_policy": {"all": {}},
            "max_batch_size": self.rows,
            "input": [_configured(one) for one in found.inputs],
            "output": [_configured(one) for one in found.outputs],
            "dynamic_batching": {
                "preferred_batch_size": [policy.max_rows],
                "max_queue_delay_microseconds": round(policy.target_s * 1e6),
            },
            "parameters": {name: {"string_value": value} for name, value in found.properties.items()},
        }

    async def require_model_ready(self, reference: Reference) -> None:
        """See that a version would answer now; one that is not in memory is loaded by its first request.

        Raises:
            NotFound, ModelQuarantined: as they say.
            Draining: the server is not ready, or the version was unloaded and nobody has asked it since.
        """
        self.require_ready()
        found = await self._plane.describe(reference)
        if (found.model, found.version) in self._let_go - set(self._plane.loaded()):
            detail = f"Version {found.version} of {found.model!r} was unloaded; an inference request loads it again."
            raise Draining(detail, retry_after_s=1)

    def names(self) -> list[str]:
        """The names of all models."""
        return [record.name for record in self._every(lambda after: self._models.models(limit=_PAGE, after=after))]

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Every version with its state; with `ready` only those that are in memory."""
        loaded = set(self._plane.loaded())
        found = []
        for name in self.names():
            for record in self._every(partial(self._page_of_versions, name)):
                key = (name, record.version)
                if record.state == "quarantined":
                    state, reason = "UNAVAILABLE", f"quarantined: {record.reason}"
                elif key in loaded:
                    state, reason = "READY", ""
                elif key in self._let_go:
                    state, reason = "UNAVAILABLE", "unloaded"
                else:
                    state, reason = "UNAVAILABLE", "not in memory: the first request loads it"
                if state == "READY" or not ready:
                    found.append({"name": name, "version": str(record.version), "state": state, "reason": reason})
        return found

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load the version that a bare name means now; it answers at once when this returns.

        Raises:
            Unsupported: the request brings a model of its own.
            NotFound, ModelQuarantined: as they say.
        """
        if parameters:
            detail = "A model cannot be sent with the request to load it."
            hint = "Import it: POST /v1/uploads, then POST /v1/jobs with kind import."
            raise Unsupported(detail, errors=[Entry("/parameters", "unsupported", detail, hint=hint)])
        await self._load(name)
        self.tell("load", name)

    async def _load(self, name: str) -> None:
        reference = self.reference(name, None)
        await self._plane.load(reference)
        found = await self._plane.describe(reference)
        self._let_go.discard((found.model, found.version))

    async def unload(self, name: str) -> None:
        """Let every version of a model go; this waits until they have answered the requests that they have begun.

        Raises:
            NotFound: there is no such model.
        """
        self.reference(name, None)  # before anybody is told of it
        self.tell("unload", name)
        await self._unload(name)

    async def heard(self, word: Literal["load", "unload"], name: str) -> None:
        """Do here what another process of this server was asked to do: with a model, or with name/3, one version."""
        model, _, number = name.partition("/")
        try:
            if not number:
                await (self._load(name) if word == "load" else self._unload(name, unpin=False))
            elif word == "load":
                await run_sync(self._plane.keep, model, int(number))
            else:
                await self._plane.unload(model, int(number), unpin=False)
        except ServiceError as error:
            _log.info("A model was not loaded or unloaded here.", action=word, model=name, error=error.message)

    async def _unload(self, name: str, *, unpin: bool = True) -> None:
        reference = self.reference(name, None)
        numbers = await run_sync(self._ready_versions, reference.model)
        self._let_go |= {(reference.model, int(number)) for number in numbers}
        await self._plane.unload_all(reference.model, unpin=unpin)

    async def statistics(self, reference: Reference | None) -> list[dict[str, Any]]:
        """The figures of a version, of all versions of a model, or of all; those that were never asked have zeros.

        Raises:
            NotFound: there is no such model or version.
        """
        told = self._plane.statistics()
        loaded = set(self._plane.loaded())
        if reference is None:
            wanted = {*told, *loaded}
        elif reference.version is None and reference.alias is None:
            numbers = await run_sync(self._ready_versions, reference.model)
            wanted = {(reference.model, int(number)) for number in numbers}
        else:
            found = await self._plane.describe(reference)
            wanted = {(found.model, found.version)}
        sizes = await run_sync(self._sizes, wanted & loaded)
        return [_figures(*key, told.get(key), sizes.get(key)) for key in sorted(wanted)]

    # -- inference --------------------------------------------------------------------------------------------------

    async def takes(self, reference: Reference) -> tuple[Described, ...]:
        """The tensors that a version takes."""
        return (await self._what_it_takes(reference)).described

    async def infer(
        self, reference: Reference, request: Request, *, deadline: float | None = None
    ) -> tuple[Inference, list[Answered]]:
        """The answer to a request: who gave it, and its tensors in the order that was asked for.

        Args:
            reference: who is asked.
            request: the tensors, and what is wanted.
            deadline: on the monotonic clock; the request's own may come before it.

        Raises:
            InvalidInput: the tensors are not what the version takes; entries point into the protocol's request.
            NotFound, ModelQuarantined, BatchTooLarge, Overloaded, DeadlinePassed: as they say.
        """
        started = time.monotonic()
        own, priority = _schedule(request.parameters, started)
        if own is not None:
            deadline = own if deadline is None else min(own, deadline)
        takes = await self._what_it_takes(reference)
        if _is_short(request, takes):
            arrays = takes.arrays(request.inputs)
        else:
            arrays = await run_sync(takes.arrays, request.inputs)
        outputs = None if request.outputs is None else [one.name for one in request.outputs]
        try:
            found = await self._plane.infer(reference, arrays, outputs=outputs, deadline=deadline, priority=priority)
        except InvalidInput as error:
            raise _in_protocol(error, request) from None
        self._back(found)
        if found.rows * _ranked(request) < _AT_ONCE:
            return found, _told(found, request)
        return found, await run_sync(_told, found, request)

    def begin(
        self,
        reference: Reference,
        request: Request,
        *,
        charge: Callable[[int], None],
        promise: Promise,
    ) -> Ticket | None:
        """Let a request wait for its turn, if nothing need be read or loaded before; `inferred` makes its answer.

        Args:
            reference: who is asked.
            request: the tensors, and what is wanted.
            charge: told the rows before they are queued; it may raise.
            promise: takes what `inferred` wants.

        Returns:
            None where that may take long: then `infer` is the way.

        Raises:
            InvalidInput, BatchTooLarge, Overloaded, DeadlinePassed: as `infer` raises them.
        """
        arrived = time.monotonic()
        deadline, priority = _schedule(request.parameters, arrived)
        known = self._plane.known(reference)
        takes = None if known is None else self._takes.get((known.model, known.version))
        if takes is None or not _is_short(request, takes):
            return None
        ranked = _ranked(request)
        if ranked and ranked * len(request.inputs[0].array) >= _AT_ONCE:
            return None
        arrays = takes.arrays(request.inputs)
        try:
            return self._plane.begin_arrays(
                reference,
                arrays,
                arrived=arrived,
                outputs=None if request.outputs is None else [one.name for one in request.outputs],
                deadline=deadline,
                priority=priority,
                charge=charge,
                promise=promise,
            )
        except InvalidInput as error:
            raise _in_protocol(error, request) from None

    def inferred(self, ticket: Ticket, request: Request, part: Slice) -> tuple[Inference, list[Answered]]:
        """The answer to a request that `begin` has let wait: what its promise was given, as `infer` gives it."""
        found = self._plane.inferred(ticket, part)
        self._back(found)
        return found, _told(found, request)

    def wrote(self, found: Inference, seconds: float) -> None:
        """An answer was written, in so many seconds."""
        self._plane.wrote(found, seconds)

    def _back(self, found: Inference) -> None:
        """A version that was unloaded is ready again once it has answered."""
        if self._let_go and found.model is not None and found.version is not None:
            self._let_go.discard((found.model, found.version))

    def begin_plain(
        self,
        reference: Reference,
        asked: tensors.Plain,
        *,
        charge: Callable[[int], None],
        promise: Promise,
    ) -> Ticket | None:
        """Let a plain request wait for its turn; `plainly` makes its answer.

        Args:
            reference: who is asked.
            asked: the rows.
            charge: told the rows; it may raise.
            promise: takes what `plainly` wants.

        Returns:
            None where something about it is odd: then `infer` is the way.

        Raises:
            Overloaded: more is waiting than may.
        """

        def suits(signature: Signature) -> bool:
            spec = signature.inputs[0]
            return spec.name == asked.name and DATATYPE_OF[spec.dtype] == asked.datatype

        return self._plane.begin(
            {"inputs": asked.rows},
            path=reference,
            arrived=time.monotonic(),
            charge=charge,
            suits=suits,
            promise=promise,
        )

    def plainly(self, ticket: Ticket, part: Slice) -> Inference:
        """The answer to a request that `begin_plain` has let wait: what its promise was given."""
        found = self._plane.inferred(ticket, part)
        self._back(found)
        return found

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        """The promise of a ticket was given an exception, or nobody waits any more (CancelledError)."""
        self._plane.failed(ticket, error)

    def reference(self, name: str, slot: str | None) -> Reference:
        """What a name and a version slot mean: the slot has a number, an alias, or nothing.

        Raises:
            InvalidName: one of them cannot be a name.
        """
        check_name(name, at="/path/name")
        if slot:
            if re.fullmatch("[0-9]+", slot):
                digits = slot.lstrip("0")
                if not 0 < len(digits) < 10:
                    raise NotFound(f"Model {name!r} has no version {slot[:10]}.").at("/path/version")
                return Reference(name, version=int(digits))
            return Reference(name, alias=check_alias(slot, at="/path/version"))
        return Reference(name)

    # -- what is looked up ------------------------------------------------------------------------------------------

    async def _what_it_takes(self, reference: Reference) -> Takes:
        known = self._plane.known(reference)
        takes = None if known is None else self._takes.get((known.model, known.version))
        if takes is None:
            found = await self._plane.describe(reference)
            document = await run_sync(self._models.document, found.model, found.version, "preprocessing.json")
            takes = Takes(found.signature.inputs, Preprocessing.model_validate(document or {}).rows)
            self._takes[found.model, found.version] = takes
            while len(self._takes) > _KEPT:
                self._takes.popitem(last=False)
        return takes

    def _sizes(self, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        sizes = {(one.model, one.version): one.size_bytes for one, _ in self._plane.residents()}
        return {key: sizes[key] for key in keys if key in sizes}  # one that was deleted may still be in memory

    def _ready_versions(self, model: str) -> tuple[str, ...]:
        records = self._every(partial(self._page_of_versions, model))
        return tuple(str(record.version) for record in reversed(list(records)) if record.state == "ready")

    def _page_of_versions(self, model: str, after: str | None) -> Page[VersionRecord]:
        return self._models.versions(model, limit=_PAGE, after=after)

    @staticmethod
    def _every(read: Callable[[str | None], Page[T]]) -> Iterator[T]:
        """What all pages hold."""
        after = None
        while True:
            found = read(after)
            yield from found.items
            after = found.next
            if after is None:
                return


def said(found: Inference) -> dict[str, Any]:
    """What an answer says beside its tensors: the alias that led there, the version's digest, what to beware of."""
    parameters: dict[str, Any] = {}
    if found.alias is not None:
        parameters["alias"] = found.alias
    digest = getattr(found.source, "digest", None)
    if digest is not None:
        parameters["digest"] = digest
    if found.warnings:
        parameters["warnings"] = " ".join(warning.detail for warning in found.warnings[:5])[:1000]
    return parameters


def described(spec: TensorSpec) -> Described:
    """A tensor of a signature in the protocol's words."""
    shape = tuple(-1 if isinstance(size, str) else size for size in spec.shape)
    return Described(spec.name, DATATYPE_OF[spec.dtype], shape)


def _numbers(tensor: Tensor, spec: TensorSpec) -> Array:
    array = tensor.array
    if array.dtype.kind != "f" or spec.dtype not in ("float32", "float64"):  # else the data plane finds what is wrong
        array = tensors.coerce(tensor, spec.dtype)
    wanted = spec.shape[1:]
    if array.ndim != len(spec.shape) or any(
        isinstance(size, int) and size != got for size, got in zip(wanted, array.shape[1:], strict=True)
    ):
        raise _shape(tensor, [-1 if isinstance(size, str) else size for size in spec.shape])
    return array


def _table(tensor: Tensor, row: TableRow) -> Array:
    """Rows of columns in one tensor [N, columns]: all numbers, or all texts."""
    columns = len(row.columns)
    if tensor.array.shape != (len(tensor.array), columns):
        raise _shape(tensor, [-1, columns])
    parts = {column.name: replace(tensor, array=tensor.array[:, place]) for place, column in enumerate(row.columns)}
    if tensor.datatype != "BYTES" and not row.texts:
        optional = any(isinstance(column, NumberColumn) and column.optional for column in row.columns)
        if not optional:
            tensors.coerce(tensor, "float32")
            return tensor.array.astype(np.float64)
    return _assembled(parts, row)


def _assembled(parts: Mapping[str, Tensor], row: TableRow) -> Array:
    """Rows [N, columns] from a tensor for each column: of numbers, or of objects where there are texts or gaps."""
    count = len(next(iter(parts.values())).array)
    mixed = bool(row.texts) or any(getattr(column, "optional", None) for column in row.columns)
    found: Array = np.empty((count, len(row.columns)), dtype=object if mixed else np.float64)
    mistakes: list[Entry] = []
    for place, column in enumerate(row.columns):
        tensor = parts[column.name]
        if tensor.array.shape not in ((count,), (count, 1)):
            raise _shape(tensor, [count, 1])
        optional = getattr(column, "optional", None) is True
        if isinstance(column, NumberColumn):
            tensors.coerce(tensor, "float32", missing=optional)
            numbers = tensor.array.reshape(-1).astype(np.float64)
            found[:, place] = (
                [None if number != number else number for number in numbers.tolist()] if mixed else numbers
            )
            continue
        if tensor.datatype != "BYTES":
            detail = f"The column {shorten(column.name)} takes texts."
            mistakes.append(
                Entry(f"{tensor.at}/datatype", "dtype-mismatch", detail, expected="BYTES", got=tensor.datatype)
            )
            continue
        for index, text in enumerate(tensor.array.reshape(-1)):
            at = f"{tensor.at}/data/{index}"
            if text is None and not optional:
                mistakes.append(Entry(at, "dtype-mismatch", "Here a text is expected.", expected="a text", got="null"))
                continue
            try:
                found[index, place] = None if text is None else text.decode()
            except UnicodeDecodeError:
                detail = f"This is no text in UTF-8. It is element {index} of the input {shorten(tensor.name)}."
                mistakes.append(Entry(at, "dtype-mismatch", detail, expected="a text in UTF-8"))
    tensors.refuse(mistakes)
    return found


def _pictures(tensor: Tensor) -> Array:
    """PNG or JPEG files, as the data plane takes them: in base64."""
    count = len(tensor.array)
    if tensor.array.shape not in ((count,), (count, 1)):
        raise _shape(tensor, [-1])
    found: Array = np.empty(count, dtype=object)
    found[:] = [base64.b64encode(file or b"").decode() for file in tensor.array.reshape(-1)]
    return found


def _missing(name: str) -> Entry:
    detail = f"The input {shorten(name)} is missing."
    return Entry("/inputs", "missing", detail, expected="a tensor of this name")


def _shape(tensor: Tensor, wanted: Sequence[int]) -> InvalidInput:
    detail = f"The input {shorten(tensor.name)} has another shape than this version takes."
    got = tensors.shown(tensor.array.shape)
    entry = Entry(f"{tensor.at}/shape", "shape-mismatch", detail, expected=f"{tensors.shown(wanted)}", got=got)
    try:
        tensors.refuse([entry])
    except InvalidInput as error:
        return error
    raise AssertionError("unreachable")


def _configured(one: Described) -> dict[str, Any]:
    """A tensor as Triton's ModelConfig has it: without the rows."""
    kind = "STRING" if one.datatype == "BYTES" else one.datatype
    return {"name": one.name, "data_type": f"TYPE_{kind}", "dims": list(one.shape[1:]) or [1]}


def _figures(model: str, version: int, told: Statistics | None, size_bytes: int | None) -> dict[str, Any]:
    """The statistics of a version, in the protocol's form; rows over forward passes are the mean batch."""
    told = told or Statistics(0, 0, 0, 0, 0.0, 0.0, {}, 0.0)
    return {
        "name": model,
        "version": str(version),
        "last_inference": round(told.last_at * 1000),
        "inference_count": told.rows,
        "execution_count": told.batches,
        "inference_stats": {
            "success": _duration(told.requests, told.queue_s + told.infer_s),
            "fail": _duration(told.refused, 0.0),
            "queue": _duration(told.requests, told.queue_s),
            "compute_input": _duration(told.requests, 0.0),
            "compute_infer": _duration(told.batches, told.infer_s),
            "compute_output": _duration(told.requests, 0.0),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(count, 0.0),
                "compute_infer": _duration(count, seconds),
                "compute_output": _duration(count, 0.0),
            }
            for rows, (count, seconds) in sorted(told.by_rows.items())
        ],
        "memory_usage": [] if size_bytes is None else [{"type": "CPU", "id": 0, "byte_size": size_bytes}],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


def _is_short(request: Request, takes: Takes) -> bool:
    """Whether the tensors of a request are made arrays in a moment; files of pictures are not."""
    size = 0
    for one in request.inputs:
        if takes.pictures and one.datatype == "BYTES":
            return False
        size += one.array.size
    return size < _AT_ONCE


def _ranked(request: Request) -> int:
    """How many of its best classes each row is asked for, in all."""
    return 0 if request.outputs is None else sum(one.classification for one in request.outputs)


def _told(found: Inference, request: Request) -> list[Answered]:
    """The tensors of an answer as they were asked for."""
    if request.outputs is None:
        return [
            Answered(name, tensors.datatype_of(array), array, request.binary) for name, array in found.outputs.items()
        ]
    answered = []
    for one in request.outputs:
        array, binary = found.outputs[one.name], request.binary if one.binary is None else one.binary
        if one.classification:
            labels = found.classes if len(found.outputs) == 1 else None
            best = tensors.classify(array, one.classification, labels=labels)
            answered.append(Answered(one.name, "BYTES", best, binary))
        else:
            answered.append(Answered(one.name, tensors.datatype_of(array), array, binary))
    return answered


def _schedule(parameters: Mapping[str, Any], started: float) -> tuple[float | None, int]:
    """The deadline and the priority (0 to 9, higher first) that the protocol's parameters ask for.

    `timeout` is in microseconds; of `priority`, 1 is the most urgent one and 0 is none, as in Triton.
    """
    if not parameters:
        return None, 0
    mistakes = []
    for name in ("timeout", "priority"):
        value = parameters.get(name, 0)
        if type(value) is not int or not 0 <= value < 2**63:
            expected = "a whole number from 0"
            detail = f"The parameter {name} is a number."
            mistakes.append(Entry(f"/parameters/{name}", "wrong-type", detail, expected=expected, got=shorten(value)))
    tensors.refuse(mistakes)
    timeout, priority = parameters.get("timeout", 0), parameters.get("priority", 0)
    return (started + timeout / 1e6 if timeout else None), (max(1, 10 - priority) if priority else 0)


def _at_element(entry: Entry, tensor: Tensor, rest: str) -> Entry:
    """A mistake at some index of a tensor, told by its place in the tensor's flat data."""
    indices = [int(part) for part in rest.split("/")[1:] if part.isdecimal()]
    shape = tensor.array.shape
    if len(indices) != len(shape) or any(index >= size for index, size in zip(indices, shape, strict=True)):
        return replace(entry, pointer=tensor.at + rest)
    flat = int(np.ravel_multi_index(indices, shape))
    detail = f"{entry.detail} It is element {flat} of the input {shorten(tensor.name)}."
    return replace(entry, pointer=f"{tensor.at}/data/{flat}", detail=detail)


def _in_protocol(error: InvalidInput, request: Request) -> InvalidInput:
    """The same mistakes, told of their places in the protocol's request."""
    places = {pointer(["inputs", one.name]): one for one in request.inputs}
    asked = {one.name: one.at for one in request.outputs or ()}
    entries = []
    for entry in error.errors:
        at = entry.pointer
        start = next((start for start in places if at == start or at.startswith(f"{start}/")), None)
        if start is not None:
            entries.append(_at_element(entry, places[start], at[len(start) :]))
            continue
        if at == "/outputs" and len(asked) == 1:
            [at] = asked.values()
        entries.append(replace(entry, pointer=at))
    return type(error)(error.message, errors=entries, more=error.more, hint=error.hint)
