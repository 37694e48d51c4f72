"""Tensors as the Open Inference Protocol writes them: JSON or bytes to arrays, and arrays back.

Pure: knows the thirteen datatypes and the form of requests and answers, with and without the binary tensor extension.
Knows no version, no net and no HTTP; which tensors a version takes is for its caller to say.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from service.errors import (
    MAX_ENTRIES,
    BatchTooLarge,
    DtypeMismatch,
    Entry,
    InvalidInput,
    MalformedBody,
    NotFinite,
    ShapeMismatch,
    ValidationFailed,
    shorten,
)
from service.inference.codec import doubles, surely_within

Array = npt.NDArray[Any]
Kind = Literal["bool", "int", "float", "bytes"]

MAX_DIMENSIONS: Final = 32
"""More dimensions than any array here can have."""

MAX_TENSORS: Final = 1024
"""More inputs or outputs than any version here has."""

_MAX_OBJECTS: Final = 8 * MAX_TENSORS
"""More objects than a request with so many tensors has: each tensor is one, and its parameters are another."""

_OBJECT: Final = re.compile(rb'\{|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""Where an object begins, or a whole text, in which braces mean nothing."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """A datatype of the protocol.

    Args:
        name: the protocol's word.
        kind: what its elements are.
        size: bytes of an element on the wire; 0 where it varies.
        wire: numpy's word for the bytes; BF16 has none, and is read as 16 bits.
    """

    name: str
    kind: Kind
    size: int
    wire: str

    @property
    def range(self) -> tuple[int, int]:
        """The least and the largest whole number that it holds."""
        bits = self.size * 8
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if self.name.startswith("INT") else (0, (1 << bits) - 1)


DATATYPES: Final[Mapping[str, Datatype]] = {
    one.name: one
    for one in (
        Datatype("BOOL", "bool", 1, "?"),
        Datatype("UINT8", "int", 1, "u1"),
        Datatype("UINT16", "int", 2, "<u2"),
        Datatype("UINT32", "int", 4, "<u4"),
        Datatype("UINT64", "int", 8, "<u8"),
        Datatype("INT8", "int", 1, "i1"),
        Datatype("INT16", "int", 2, "<i2"),
        Datatype("INT32", "int", 4, "<i4"),
        Datatype("INT64", "int", 8, "<i8"),
        Datatype("FP16", "float", 2, "<f2"),
        Datatype("FP32", "float", 4, "<f4"),
        Datatype("FP64", "float", 8, "<f8"),
        Datatype("BF16", "float", 2, "<u2"),
        Datatype("BYTES", "bytes", 0, ""),
    )
}
"""Thirteen of the protocol, and BF16, which its clients know too."""

_HIGHEST: Final[Mapping[str, float]] = {
    name: float(np.finfo(wire).max) for name, wire in (("FP16", "f2"), ("FP32", "f4"), ("FP64", "f8"))
}

DATATYPE_OF: Final[Mapping[str, str]] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
"""The datatype of each dtype of a signature."""

_OF_ARRAYS: Final = {np.dtype(name): datatype for name, datatype in DATATYPE_OF.items() if name != "bfloat16"}


def datatype_of(array: Array) -> str:
    """The datatype of an array that a version has answered."""
    return _OF_ARRAYS[array.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request.

    `array` has the tensor's shape: of numpy's own type for numbers (BF16 is widened to float32), of bytes objects for
    BYTES. It may be a read-only view of the request. `at` is the pointer to it.
    """

    name: str
    datatype: str
    array: Array
    at: str = "/inputs/0"


@dataclass(frozen=True, slots=True)
class Requested:
    """An output that is asked for, how it shall be written, and how many of its best classes instead of all (0)."""

    name: str
    binary: bool | None = None
    classification: int = 0
    at: str = "/outputs/0"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: `outputs` None means all of them."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Requested, ...] | None = None
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    binary: bool = False
    """Whether outputs that do not say it themselves are answered as bytes."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A tensor of an answer."""

    name: str
    datatype: str
    array: Array
    binary: bool = False


# Requests.


def decode(body: bytes, *, header_bytes: int | None, elements: int, rows: int | None = None) -> Request:
    """An inference request from the body of a POST.

    Args:
        body: JSON, and behind it the bytes of those tensors that the JSON says are there.
        header_bytes: how much of it is JSON, where a header says so; None is all.
        elements: the most elements that all inputs may have together.
        rows: the most rows that an input may have; None is any number.

    Raises:
        MalformedBody: no JSON, or the bytes behind it are not as many as it says.
        InvalidInput: with every mistake (at most 20).
        BatchTooLarge: more than `elements` or `rows`, by the shapes: no element has been looked at then.
    """
    if header_bytes is not None and header_bytes <= _MAX_HEAD:
        known = _FORMS.get((body[:header_bytes], elements, rows))
        if known is not None and known.length == len(body):
            return known.request(body)
    if header_bytes is not None and not 0 <= header_bytes <= len(body):
        raise malformed(
            f"The JSON shall be the first {header_bytes} bytes of a body that has {len(body)}.",
            at="/header/inference-header-content-length",
            hint="Send the length of the JSON, before any compression.",
        )
    _require_few_objects(body, len(body) if header_bytes is None else header_bytes)
    try:
        document = orjson.loads(body if header_bytes is None else memoryview(body)[:header_bytes])
    except orjson.JSONDecodeError as error:
        text = str(error).partition(":")[0][:200]
        raise malformed(
            f"The request is not well-formed JSON: {text}.",
            hint="NaN and infinities are no JSON. Where bytes follow the JSON, Inference-Header-Content-Length tells "
            "where it ends.",
        ) from None
    if type(document) is not dict:
        raise _one("", "wrong-type", "A request is an object.", expected="an object with inputs", got=shorten(document))
    found = _Reader(body, len(body) if header_bytes is None else header_bytes, elements, rows).read(document)
    if header_bytes is not None and header_bytes <= _MAX_HEAD and not found.id:
        form = _Form.of(found, document, header_bytes, len(body))
        if form is not None:
            if len(_FORMS) >= _MAX_FORMS:
                _FORMS.clear()
            _FORMS[body[:header_bytes], elements, rows] = form
    return found


_MAX_HEAD: Final = 1024
_MAX_FORMS: Final = 256
"""Forms that are remembered; they come from clients, so there must be an end."""


class _Form(NamedTuple):
    """What the JSON in front of bytes says, where all tensors are bytes: a client sends the same one again and again.

    Args:
        parts: name, datatype, shape, pointer, first byte and the one behind the last of each tensor.
        bare: the request without its tensors.
        length: of the whole body.
    """

    parts: tuple[tuple[str, str, tuple[int, ...], str, int, int], ...]
    bare: Request
    length: int

    @classmethod
    def of(cls, request: Request, document: Mapping[str, Any], offset: int, length: int) -> _Form | None:
        """The form of a request that was found right; None where it has numbers or texts in its JSON."""
        parts = []
        for tensor, told in zip(request.inputs, document["inputs"], strict=True):
            if "data" in told:
                return None
            stop = offset + told["parameters"]["binary_data_size"]
            parts.append((tensor.name, tensor.datatype, tuple(told["shape"]), tensor.at, offset, stop))
            offset = stop
        return cls(tuple(parts), replace(request, inputs=()), length)

    def request(self, body: bytes) -> Request:
        """The request of a body that begins with this JSON and is as long.

        Raises:
            InvalidInput: the bytes of a tensor are none of its datatype, with every place (at most 20).
        """
        whole = memoryview(body)
        tensors: list[Tensor] = []
        mistakes: list[Entry] = []
        for name, datatype, shape, at, start, stop in self.parts:
            try:
                tensors.append(Tensor(name, datatype, from_bytes(whole[start:stop], datatype, shape, at=at), at))
            except InvalidInput as error:
                mistakes += error.errors
        refuse(mistakes)
        bare = self.bare
        return Request(tuple(tensors), bare.outputs, bare.id, bare.parameters, bare.binary)


_FORMS: Final[dict[tuple[bytes, int, int | None], _Form]] = {}


def _require_few_objects(body: bytes, stop: int) -> None:
    """Refuse JSON of very many objects before they are made: nobody else is served while they are.

    Raises:
        ValidationFailed: accordingly.
    """
    at = -1
    for _ in range(_MAX_OBJECTS + 1):
        at = body.find(b"{", at + 1, stop)  # in a long body with few of them in a tenth of the time of `count`
        if at < 0:
            return
    count = 0
    for found in _OBJECT.finditer(body, 0, stop):
        count += body[found.start()] == _BRACE
        if count > _MAX_OBJECTS:
            detail = f"A request has at most {MAX_TENSORS} inputs and as many outputs; this one has more objects."
            raise _one("", "batch-too-large", detail, expected=f"at most {_MAX_OBJECTS} objects")


_BRACE: Final = ord("{")


class Plain(NamedTuple):
    """A request that is nothing but rows of one small tensor of floating numbers, as lists of Python's numbers."""

    name: str
    datatype: str
    rows: list[list[float]]
    id: str


_PLAIN: Final = frozenset({"id", "inputs"})
_OF_PLAIN: Final = {"name", "shape", "datatype", "data"}


def plain(body: bytes) -> Plain | None:
    """What a body asks if it is as plain as that; None for any other, which `decode` reads and judges."""
    try:
        document = orjson.loads(body)
        if not document.keys() <= _PLAIN:
            return None
        [one] = document["inputs"]
        if one.keys() != _OF_PLAIN:
            return None
        count, width = one["shape"]
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    name, datatype, data, identity = one["name"], one["datatype"], one["data"], document.get("id", "")
    if (
        type(data) is not list
        or not data
        or type(name) is not str
        or type(identity) is not str
        or type(count) is not int
        or type(width) is not int
        or datatype not in ("FP32", "FP64")
    ):
        return None
    if type(data[0]) is list:
        if len(data) != count or any(type(row) is not list or len(row) != width for row in data):
            return None
        rows = data
    else:
        if len(data) != count * width:
            return None
        rows = [data] if count == 1 else [data[place : place + width] for place in range(0, len(data), width)]
    for row in rows:
        if not _NUMBERS.issuperset(map(type, row)):
            return None
    return Plain(name, datatype, rows, identity)


_NUMBERS: Final = frozenset({float, int})


class _Reader:
    """Reads one request; mistakes are gathered, and told together."""

    def __init__(self, body: bytes, offset: int, elements: int, rows: int | None) -> None:
        self._body = body
        self._offset = offset
        self._elements = elements
        self._rows = rows
        self._seen = 0
        self._mistakes: list[Entry] = []
        data = max(0, body.find(b'"data"', 0, offset))
        # Of true, false and null each has a u or an l; behind a backslash a name may be written in another way.
        self._literal = any(body.find(sign, at, offset) >= 0 for sign, at in ((b"u", data), (b"l", data), (b"\\", 0)))

    def read(self, document: dict[str, Any]) -> Request:
        identity = document.get("id", "")
        if identity is None:
            identity = ""
        if type(identity) is not str:
            self._add("/id", "wrong-type", "An id is a text.", expected="a string", got=identity)
        parameters = self._parameters(document, "")
        inputs = document.get("inputs")
        tensors: list[Tensor] = []
        if type(inputs) is not list or not 0 < len(inputs) <= MAX_TENSORS:
            code = "missing" if "inputs" not in document else "wrong-type"
            expected = f"a list of 1 to {MAX_TENSORS} tensors"
            self._add("/inputs", code, "A request has a list of inputs.", expected=expected, got=inputs)
        else:
            for place, one in enumerate(inputs):
                found = self._input(one, f"/inputs/{place}")
                if found is not None:
                    tensors.append(found)
            self._mistakes += twins([one.name for one in tensors], "/inputs", "input")
        outputs = self._outputs(document.get("outputs"))
        binary = parameters.get("binary_data_output", False)
        if type(binary) is not bool:
            at = "/parameters/binary_data_output"
            self._add(at, "wrong-type", "This says yes or no.", expected="true or false", got=binary)
        refuse(self._mistakes)
        if self._offset != len(self._body):
            declared = self._offset - len(self._body)
            detail = f"{abs(declared)} bytes {'are missing' if declared > 0 else 'are left over'} behind the JSON."
            hint = "The binary_data_size of all inputs together are the bytes behind the JSON."
            raise malformed(detail, hint=hint)
        return Request(tuple(tensors), outputs, identity, parameters, bool(binary))

    def _add(self, at: str, code: str, detail: str, *, expected: str, got: object = None) -> None:
        shown = None if got is None else shorten(got)
        self._mistakes.append(Entry(at, code, detail, expected=expected, got=shown))

    def _parameters(self, holder: Mapping[str, Any], at: str) -> dict[str, Any]:
        found = holder.get("parameters")
        if found is None:
            return {}
        if type(found) is not dict:
            self._add(f"{at}/parameters", "wrong-type", "Parameters are an object.", expected="an object", got=found)
            return {}
        return found

    def _input(self, one: Any, at: str) -> Tensor | None:
        if type(one) is not dict:
            self._add(at, "wrong-type", "An input is an object.", expected="name, shape, datatype and data", got=one)
            return None
        before = len(self._mistakes)
        name, shape = one.get("name"), one.get("shape")
        if type(name) is not str or not name:
            code = "wrong-type" if "name" in one else "missing"
            self._add(f"{at}/name", code, "A tensor has a name.", expected="a text", got=name)
        datatype = one.get("datatype")
        if type(datatype) is not str or datatype not in DATATYPES:
            code = "invalid" if "datatype" in one else "missing"
            known = ", ".join(DATATYPES)
            self._add(f"{at}/datatype", code, "A tensor has a datatype.", expected=f"one of {known}", got=datatype)
        self._mistakes += shape_mistakes(shape, at)
        parameters = self._parameters(one, at)
        size = parameters.get("binary_data_size")
        if size is not None and (type(size) is not int or size < 0):
            at_size = f"{at}/parameters/binary_data_size"
            self._add(at_size, "wrong-type", "This is a number of bytes.", expected="a whole number from 0", got=size)
        if size is not None and "data" in one:
            self._add(f"{at}/data", "conflict", "The tensor is here and behind the JSON.", expected="one of the two")
        if size is None and "data" not in one:
            self._add(f"{at}/data", "missing", "The tensor has no data.", expected="data, or a binary_data_size")
        if len(self._mistakes) > before:
            return None
        assert isinstance(name, str)
        assert isinstance(datatype, str)
        assert isinstance(shape, list)
        self._seen = require_room(shape, self._seen, elements=self._elements, rows=self._rows)
        try:
            if size is None:
                array = from_json(one["data"], datatype, shape, at=f"{at}/data", literal=self._literal)
            else:
                stop = self._offset + size
                if stop > len(self._body):
                    missing = stop - len(self._body)
                    hint = "The bytes of the tensors follow the JSON, in the order of the inputs."
                    raise malformed(f"{missing} bytes of the input {shorten(name)} are missing.", at=at, hint=hint)
                array = from_bytes(memoryview(self._body)[self._offset : stop], datatype, shape, at=at)
                self._offset = stop
        except InvalidInput as error:
            self._mistakes += error.errors
            self._offset += size or 0
            return None
        return Tensor(name, datatype, array, at)

    def _outputs(self, outputs: Any) -> tuple[Requested, ...] | None:
        if outputs is None or outputs == []:
            return None
        if type(outputs) is not list or len(outputs) > MAX_TENSORS:
            expected = f"a list of at most {MAX_TENSORS} objects"
            self._add("/outputs", "wrong-type", "Outputs are a list.", expected=expected, got=outputs)
            return None
        found = []
        for place, one in enumerate(outputs):
            at = f"/outputs/{place}"
            name = one.get("name") if type(one) is dict else None
            if type(name) is not str or not name:
                self._add(at, "wrong-type", "An output that is asked for has a name.", expected="a name", got=one)
                continue
            parameters = self._parameters(one, at)
            binary, best = parameters.get("binary_data"), parameters.get("classification", 0)
            if binary is not None and type(binary) is not bool:
                where = f"{at}/parameters/binary_data"
                self._add(where, "wrong-type", "This says yes or no.", expected="true or false", got=binary)
            if type(best) is not int or best < 0:
                where = f"{at}/parameters/classification"
                self._add(where, "wrong-type", "This is a number of classes.", expected="a whole number", got=best)
            found.append(Requested(name, binary, best, at))
        self._mistakes += twins([one.name for one in found], "/outputs", "output")
        return tuple(found)


def twins(names: Sequence[str], at: str, what: str) -> list[Entry]:
    """The names that have stood before, but for empty ones, each told with its place in the list at `at`."""
    seen: set[str] = set()
    mistakes = []
    for place, name in enumerate(names):
        if name and name in seen:
            detail = f"The {what} {shorten(name)} stands here twice."
            mistakes.append(Entry(f"{at}/{place}/name", "duplicate", detail, expected="one of each name"))
        seen.add(name)
    return mistakes


def require_room(shape: Sequence[int], seen: int, *, elements: int, rows: int | None) -> int:
    """See by its shape that a tensor may come, before anybody looks at its elements.

    Args:
        shape: of the tensor; its first size counts the rows.
        seen: the elements of the tensors before it.
        elements: the most that all may have together.
        rows: the most rows; None is any number.

    Returns:
        The elements of this tensor and those before it.

    Raises:
        BatchTooLarge: accordingly.
    """
    seen += math.prod(shape)
    if seen > elements:
        raise too_large(elements, seen)
    if rows is not None and shape[0] > rows:
        raise too_large(rows, shape[0], name="rows", words="rows")
    return seen


def shape_mistakes(shape: object, at: str) -> list[Entry]:
    """What is wrong with the shape of a tensor of a request."""
    if type(shape) is not list or not 0 < len(shape) <= MAX_DIMENSIONS:
        detail = "A tensor has a shape with one dimension or more; the first one counts the rows."
        code = "missing" if shape is None else "shape-mismatch"
        return [Entry(f"{at}/shape", code, detail, expected="a list such as [2, 3]", got=shorten(shape))]
    if any(type(size) is not int or size < 0 for size in shape):
        detail = "The sizes of a shape are whole numbers from 0."
        return [Entry(f"{at}/shape", "shape-mismatch", detail, expected="a list such as [2, 3]", got=shown(shape))]
    if 0 in shape:
        detail = "A tensor without elements asks nothing."
        return [Entry(f"{at}/shape", "shape-mismatch", detail, expected="one row or more", got=shown(shape))]
    return []


def from_bytes(data: memoryview | bytes, datatype: str, shape: Sequence[int], *, at: str) -> Array:
    """A tensor from its little-endian bytes; for numbers a read-only view of them.

    Args:
        at: the pointer to the tensor.

    Raises:
        ShapeMismatch: the bytes are not as many as the shape says.
    """
    kind = DATATYPES[datatype]
    count = math.prod(shape)
    if kind.kind == "bytes":
        return _texts(data, count, at).reshape(shape)
    if len(data) != count * kind.size:
        detail = f"{len(data)} bytes are not {count} elements of {kind.size} bytes."
        raise _one(at, "shape-mismatch", detail, expected=f"{count * kind.size} bytes", got=f"{len(data)} bytes")
    array: Array = np.frombuffer(data, dtype=kind.wire if datatype != "BOOL" else "u1").reshape(shape)
    if datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4")
    if datatype == "BOOL":
        if array.max() > 1:
            place = int(np.argmax(array.reshape(-1) > 1))
            got = shorten(int(array.reshape(-1)[place]))
            raise _one(f"{at}/data/{place}", "dtype-mismatch", "A BOOL is a byte 0 or 1.", expected="0 or 1", got=got)
        return array.view(np.bool_)
    return array


def _texts(data: memoryview | bytes, count: int, at: str) -> Array:
    """Texts, each behind its length in four bytes."""
    if len(data) < 4 * count:  # before any room is taken for them
        detail = f"{len(data)} bytes cannot hold {count} texts."
        raise _one(at, "shape-mismatch", detail, expected="four bytes of length, then the text", got=f"{len(data)}")
    found: Array = np.empty(count, dtype=object)
    offset = place = 0
    while offset < len(data):
        if place == count:
            detail = "There are more texts than the shape has elements."
            raise _one(f"{at}/shape", "shape-mismatch", detail, expected=f"{count} texts", got="more")
        if offset + 4 > len(data):
            raise _one(
                f"{at}/data/{place}", "shape-mismatch", "The length of a text is cut off.", expected="four bytes"
            )
        [size] = struct.unpack_from("<I", data, offset)
        offset += 4
        if offset + size > len(data):
            detail = f"This text shall have {size} bytes, but {len(data) - offset} are left."
            raise _one(f"{at}/data/{place}", "shape-mismatch", detail, expected="the bytes of the text", got=str(size))
        found[place] = bytes(data[offset : offset + size])
        offset += size
        place += 1
    if place != count:
        detail = "There are fewer texts than the shape has elements."
        raise _one(f"{at}/shape", "shape-mismatch", detail, expected=f"{count} texts", got=str(place))
    return found


def from_json(data: object, datatype: str, shape: Sequence[int], *, at: str, literal: bool = True) -> Array:
    """A tensor from JSON values, nested or flat; a whole number may be written as one (3) or not (3.0).

    `null` is read as NaN where the datatype has one, and as None among texts. Numbers of FP32 stay as exact as JSON
    wrote them, in float64: they are rounded once, when the version takes them.

    Args:
        at: the pointer to the values.
        literal: whether there may be a true, false or null among them; where there is none, many numbers are read at
            once.

    Raises:
        InvalidInput: values of another type or number, each with its place (at most 20).
    """
    if type(data) is not list:
        raise _one(at, "wrong-type", "Data is a list.", expected="a list of elements", got=shorten(data))
    kind = DATATYPES[datatype]
    if datatype == "BF16":
        raise _one(at, "dtype-mismatch", "JSON has no BF16.", expected="a binary tensor, or FP32 in JSON")
    flat = _flat(data, shape, at)
    count = math.prod(shape)
    if len(flat) != count:
        detail = f"The data has {len(flat)} elements, the shape {count}."
        raise _one(at, "shape-mismatch", detail, expected=f"{count} elements", got=f"{len(flat)}")
    match kind.kind:
        case "bytes":
            return _json_texts(flat, at).reshape(shape)
        case "bool":
            _require(
                flat, lambda one: type(one) in (bool, int, float) and one in (0, 1), "true or false", at, quick={bool}
            )
            return np.array(flat, dtype=np.bool_).reshape(shape)
        case "int":
            return _json_whole(flat, kind, at).reshape(shape)
        case "float":
            return _json_floating(flat, kind, at, literal=literal).reshape(shape)


def _flat(data: list[Any], shape: Sequence[int], at: str) -> list[Any]:
    """The elements of data that is flat, or nested as the shape is."""
    if not data or type(data[0]) is not list:
        return data
    for depth in range(len(shape) - 1):
        if len(data) != math.prod(shape[: depth + 1]) or not all(type(part) is list for part in data):
            break
        if any(len(part) != shape[depth + 1] for part in data):
            break
        data = list(chain.from_iterable(data))
        if depth == len(shape) - 2:
            return data
    detail = "The lists are not nested as the shape says."
    raise _one(at, "shape-mismatch", detail, expected=f"one flat list, or lists of shape {shown(shape)}")


def _json_texts(flat: list[Any], at: str) -> Array:
    _require(flat, lambda one: one is None or type(one) is str, "a string", at, quick={str})
    found: Array = np.empty(len(flat), dtype=object)
    mistakes = []
    for place, one in enumerate(flat):
        try:
            found[place] = None if one is None else one.encode()
        except UnicodeEncodeError:  # half of a pair of surrogates
            mistakes.append(Entry(f"{at}/{place}", "dtype-mismatch", "This is no text.", expected="a string in UTF-8"))
    refuse(mistakes)
    return found


def _json_whole(flat: list[Any], kind: Datatype, at: str) -> Array:
    low, high = kind.range
    expected = f"a whole number from {low} to {high}"
    if set(map(type, flat)) <= {int}:
        try:
            wide = np.array(flat, dtype=np.int64)
        except OverflowError:
            wide = None
        if wide is not None and low <= wide.min() and wide.max() <= high:
            return wide.astype(kind.wire)
    _require(flat, lambda one: type(one) in (int, float) and low <= one <= high and one == int(one), expected, at)
    return np.array([int(one) for one in flat], dtype=kind.wire)


def _json_floating(flat: list[Any], kind: Datatype, at: str, *, literal: bool) -> Array:
    if not literal:
        with suppress(ValueError):  # there are texts, lists or what is too large: told below
            return _finite(doubles(flat), kind, at, flat)
    if not set(map(type, flat)) <= {float, int}:
        _require(flat, lambda one: one is None or type(one) in (int, float), "a number", at)
        flat = [math.nan if one is None else one for one in flat]
    return _finite(np.array(flat, dtype=np.float64), kind, at, flat)


def _finite(wide: Array, kind: Datatype, at: str, flat: Sequence[Any] | Array) -> Array:
    """Numbers in float64 that the datatype holds; `flat` has them as they were written."""
    highest = _HIGHEST[kind.name]
    if surely_within(wide, highest) or not np.abs(wide).max() > highest:
        return wide.astype(kind.wire) if kind.name == "FP16" else wide
    beyond = np.flatnonzero(np.abs(wide) > highest)
    refuse(
        [
            Entry(
                f"{at}/{place}",
                "not-finite",
                f"This number is not a finite {kind.name}.",
                expected=f"at most {highest:g} in size",
                got=shorten(flat[place]),
            )
            for place in beyond[:MAX_ENTRIES].tolist()
        ],
        more=max(0, len(beyond) - MAX_ENTRIES),
    )
    raise AssertionError("unreachable")


def from_numbers(parts: Sequence[Array], datatype: str, shape: Sequence[int], *, at: str) -> Array:
    """A tensor from numbers of a type that is as wide as its datatype or wider: what `from_json` makes of their list.

    Args:
        parts: arrays [n], one behind the other.
        at: the pointer to the numbers.

    Raises:
        InvalidInput: not as many as the shape says, or a number that the datatype does not hold, with its place.
    """
    kind = DATATYPES[datatype]
    count, got = math.prod(shape), sum(len(part) for part in parts)
    if got != count:
        detail = f"The data has {got} elements, the shape {count}."
        raise _one(at, "shape-mismatch", detail, expected=f"{count} elements", got=f"{got}")
    wide: Array = np.concatenate(parts)
    if kind.kind == "float":
        return _finite(wide.astype(np.float64, copy=False), kind, at, wide).reshape(shape)
    if kind.kind == "bool":
        return wide.astype(np.bool_, copy=False).reshape(shape)
    low, high = kind.range
    wrong = np.flatnonzero((wide < low) | (wide > high))
    expected = f"a whole number from {low} to {high}"
    refuse(
        [
            Entry(
                f"{at}/{place}",
                "dtype-mismatch",
                f"Here {expected} is expected.",
                expected=expected,
                got=str(wide[place]),
            )
            for place in wrong[:MAX_ENTRIES].tolist()
        ],
        more=max(0, len(wrong) - MAX_ENTRIES),
    )
    return wide.astype(kind.wire, copy=False).reshape(shape)


def _require(flat: list[Any], right: Any, expected: str, at: str, *, quick: set[type] | None = None) -> None:
    """Name the values that are not `right`; values of the types of `quick` need not be looked at one by one."""
    if quick is not None and set(map(type, flat)) <= quick:
        return
    wrong = [place for place, one in enumerate(flat) if not right(one)]
    refuse(
        [
            Entry(
                f"{at}/{place}",
                "dtype-mismatch",
                f"Here {expected} is expected.",
                expected=expected,
                got=shorten(flat[place]),
            )
            for place in wrong[:MAX_ENTRIES]
        ],
        more=max(0, len(wrong) - MAX_ENTRIES),
    )


# From a datatype of the wire to a dtype of a version.


def coerce(tensor: Tensor, dtype: str, *, missing: bool = False) -> Array:
    """The numbers of a tensor in `dtype`, where it can hold each of them.

    Whole numbers become floating ones where that is exact; floating ones are rounded to the version's precision, as
    numbers of JSON are; they never become whole ones.

    Args:
        tensor: as it was sent.
        dtype: of the version's signature.
        missing: NaN stands for a number that is missing, and is let through.

    Raises:
        DtypeMismatch: a number that `dtype` does not hold, with its index.
        NotFinite: NaN or an infinity, with its index.
    """
    array, sent = tensor.array, DATATYPES[tensor.datatype]
    wanted = DATATYPES[DATATYPE_OF[dtype]]
    if sent.kind == "bytes":
        _refuse_at(tensor, [0], f"Texts are no {wanted.name}.", f"a tensor of {wanted.name}")
    if wanted.kind == "float":
        return _floating(tensor, wanted, missing=missing)
    if sent.kind == "float":
        _refuse_at(tensor, [0], f"{sent.name} is not taken for {wanted.name}.", f"a tensor of {wanted.name}")
    low, high = (0, 1) if wanted.kind == "bool" else wanted.range
    if sent.kind == "int" and sent != wanted and not (low <= int(array.min()) and int(array.max()) <= high):
        flat = array.reshape(-1)
        beyond = np.flatnonzero((flat < low) | (flat > high))
        _refuse_at(tensor, beyond, f"This number is no {wanted.name}.", f"a whole number from {low} to {high}")
    return array.astype(dtype, copy=False)


def _floating(tensor: Tensor, wanted: Datatype, *, missing: bool) -> Array:
    array, sent = tensor.array, DATATYPES[tensor.datatype]
    numpy_type = wanted.wire if wanted.name != "BF16" else "<f4"
    if sent.kind != "float":
        exact = 1 << (np.finfo(numpy_type).nmant + 1)
        if sent.kind == "int" and not (-exact <= int(array.min()) and int(array.max()) <= exact):
            wrong = _inexact(array.reshape(-1), numpy_type)
            detail = f"{wanted.name} cannot hold this number exactly."
            _refuse_at(tensor, wrong, detail, f"whole numbers that {wanted.name} has")
        return array.astype(numpy_type)
    with np.errstate(over="ignore"):
        found = array.astype(numpy_type, copy=False)
    fine = np.isfinite(found)
    if missing:
        fine |= np.isnan(found)
    if not fine.all():
        places = np.flatnonzero(~fine.reshape(-1))
        highest = float(np.finfo(numpy_type).max)
        expected = f"at most {highest:g} in size"
        _refuse_at(tensor, places, f"This number is not a finite {wanted.name}.", expected, code="not-finite")
    return found


def _inexact(flat: Array, numpy_type: str) -> Array:
    """The places of those whole numbers that the floating type does not hold exactly."""
    with np.errstate(over="ignore"):
        near = flat.astype(numpy_type).astype(np.float64)
    beyond = float(int(np.iinfo(flat.dtype).max) + 1)  # a power of two, so exact; the least number is one too
    back = np.isfinite(near) & (near < beyond)
    same = np.zeros(len(flat), dtype=np.bool_)
    same[back] = near[back].astype(flat.dtype) == flat[back]
    found: Array = np.flatnonzero(~same)
    return found


def _refuse_at(
    tensor: Tensor, places: Sequence[int] | Array, detail: str, expected: str, *, code: str = "dtype-mismatch"
) -> None:
    flat = tensor.array.reshape(-1)
    refuse(
        [
            Entry(
                f"{tensor.at}/data/{place}",
                code,
                f"{detail} It is element {place} of the input {shorten(tensor.name)}.",
                expected=expected,
                got=shorten(flat[place].item() if hasattr(flat[place], "item") else _text(flat[place])),
            )
            for place in map(int, places[:MAX_ENTRIES])
        ],
        more=max(0, len(places) - MAX_ENTRIES),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value[:80].decode(errors="replace")


# Answers.


def encode(
    outputs: Sequence[Answered], *, model: str, version: str, id: str = "", parameters: Mapping[str, Any] | None = None
) -> tuple[bytes, int | None]:
    """The body of an answer, and how many of its bytes are JSON where bytes of tensors follow it (None: all are).

    Args:
        outputs: the tensors, each in the form that was asked for.
        model: who answers.
        version: which version of it.
        id: of the request.
        parameters: what else there is to say.
    """
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if id:
        answer["id"] = id
    if parameters:
        answer["parameters"] = parameters
    told: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for one in outputs:
        tensor: dict[str, Any] = {"name": one.name, "shape": list(one.array.shape), "datatype": one.datatype}
        if one.binary:
            data = to_bytes(one.array, one.datatype)
            tensor["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
        elif one.datatype == "BYTES":
            tensor["data"] = [text.decode(errors="replace") for text in one.array.reshape(-1)]
        else:
            flat = np.ascontiguousarray(one.array).reshape(-1)
            if flat.dtype.kind == "f" and not surely_within(flat):
                lost = flat.size - int(np.count_nonzero(np.isfinite(flat)))
                if lost:
                    tensor["parameters"] = {"nonfinite": lost}  # written as null
            tensor["data"] = flat
        told.append(tensor)
    answer["outputs"] = told
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not behind:
        return header, None
    return b"".join((header, *behind)), len(header)


def to_bytes(array: Array, datatype: str) -> bytes:
    """A tensor as its little-endian bytes; texts each behind its length."""
    if datatype == "BYTES":
        return b"".join(part for text in array.reshape(-1) for part in (struct.pack("<I", len(text)), text))
    return array.astype(DATATYPES[datatype].wire, copy=False).tobytes()


def classify(array: Array, best: int, *, labels: Sequence[str] | None = None) -> Array:
    """The `best` largest numbers of each row as texts "score:index" or "score:index:label", the largest first.

    Args:
        array: [N, …]; a row is taken as one flat list.
        best: how many; a row with fewer numbers gives as many as it has.
        labels: names by index, where there are as many as numbers in a row.

    Returns:
        Bytes objects [N, min(best, numbers of a row)].
    """
    rows = array.reshape(len(array), -1)
    count = min(best, rows.shape[1])
    ranked = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    named = labels if labels is not None and len(labels) == rows.shape[1] else None
    found: Array = np.empty((len(rows), count), dtype=object)
    for row, order in enumerate(ranked.tolist()):
        for place, index in enumerate(order):
            text = f"{float(rows[row, index]):f}:{index}"
            found[row, place] = (text if named is None else f"{text}:{named[index]}").encode()
    return found


# Refusals.


def refuse(mistakes: Sequence[Entry], *, more: int = 0) -> None:
    """Raise what the first of these mistakes is, with all of them; nothing where there are none."""
    if not mistakes:
        return
    kinds: dict[str, type[InvalidInput]] = {
        "shape-mismatch": ShapeMismatch,
        "dtype-mismatch": DtypeMismatch,
        "not-finite": NotFinite,
    }
    first = mistakes[0]
    more += max(0, len(mistakes) - MAX_ENTRIES)
    raise kinds.get(first.code, ValidationFailed)(first.detail, errors=mistakes[:MAX_ENTRIES], more=more)


def malformed(detail: str, *, hint: str, at: str = "") -> MalformedBody:
    """A request whose bytes are not what they claim to be."""
    return MalformedBody(detail, errors=[Entry(at, "malformed-json", detail, hint=hint)])


def too_large(most: int, got: int, *, name: str = "elements", words: str = "numbers") -> BatchTooLarge:
    """A request with more elements, or more of what `name` and `words` say, than one prediction may have."""
    detail = f"One prediction has at most {most} {words}; these are {got if got < 10**15 else 'very many'}."
    entry = Entry("/inputs", "batch-too-large", detail, hint="Send several predictions.", expected=f"at most {most}")
    return BatchTooLarge(detail, errors=[entry], limit={"name": name, "value": most})


def shown(shape: Sequence[int | str]) -> str:
    """A shape as text."""
    return shorten_text(f"[{', '.join(map(str, shape[:12]))}{', …' if len(shape) > 12 else ''}]")


def shorten_text(text: str) -> str:
    """At most 64 characters of a text of our own making."""
    return text if len(text) <= 64 else text[:63] + "…"


def _one(at: str, code: str, detail: str, *, expected: str, got: str | None = None) -> InvalidInput:
    """One mistake as an error; `refuse` raises it, so that the sentence is made in one place."""
    try:
        refuse([Entry(at, code, detail, expected=expected, got=got)])
    except InvalidInput as error:
        return error
    raise AssertionError("unreachable")
