"""Arrays as the Open Inference Protocol v2 sends them: a JSON header, and their bytes behind it. Knows no request.

https://github.com/kserve/open-inference-protocol, the binary tensor data extension. numpy is imported when it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import httpx
import orjson

from service.client.refusals import UnexpectedAnswer

LENGTH: Final = "Inference-Header-Content-Length"
_DTYPES: Final = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "int8",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_DATATYPES: Final = {dtype.lstrip("<"): datatype for datatype, dtype in _DTYPES.items()}


def encode(inputs: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference request whose tensors, and whose answer's, are bytes.

    Args:
        inputs: an array for each input, by its name; what has `__array__` will do.

    Raises:
        ValueError: an array has no type of the protocol.
    """
    numpy = importlib.import_module("numpy")
    described, pieces = [], []
    for name, value in inputs.items():
        given = value.detach().cpu() if hasattr(value, "detach") else value
        array = numpy.asarray(given)
        datatype = _DATATYPES.get(f"{array.dtype.kind}{array.dtype.itemsize}", _DATATYPES.get(array.dtype.name))
        if datatype is None:
            raise ValueError(f"the array of {name!r} has the type {array.dtype}, which the protocol does not know")
        piece = array.astype(_DTYPES[datatype], order="C", copy=False).tobytes()
        described.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype,
                "parameters": {"binary_data_size": len(piece)},
            }
        )
        pieces.append(piece)
    header = orjson.dumps({"inputs": described, "parameters": {"binary_data_output": True}})
    headers = {LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
    return b"".join([header, *pieces]), headers


def decode(response: httpx.Response) -> dict[str, Any]:
    """The arrays of an answer, by the names of the outputs.

    Raises:
        UnexpectedAnswer: its bytes are not what it says.
    """
    numpy = importlib.import_module("numpy")
    content = response.content
    length = int(response.headers.get(LENGTH, len(content)))
    header, rest = orjson.loads(content[:length]), memoryview(content)[length:]
    found: dict[str, Any] = {}
    for one in header["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        dtype = _DTYPES.get(one["datatype"])
        if dtype is None:  # texts come as JSON
            found[one["name"]] = numpy.asarray(one.get("data", []), dtype=object).reshape(one["shape"])
        elif size is None:
            found[one["name"]] = numpy.asarray(one["data"], dtype=dtype).reshape(one["shape"])
        else:
            if len(rest) < size:
                raise UnexpectedAnswer("The answer has fewer bytes than its tensors.")
            found[one["name"]] = numpy.frombuffer(rest[:size], dtype=dtype).reshape(one["shape"]).copy()
            rest = rest[size:]
    return found
