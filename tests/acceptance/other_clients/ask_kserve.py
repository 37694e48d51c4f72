"""Asks a server with KServe's client, over HTTP and over gRPC, and prints what it was answered as JSON.

It runs in an environment of its own, so it imports nothing of ours. Arguments: the server's URL, and host:port of its
gRPC.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import (  # type: ignore[import-not-found]  # installed by the test
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)

WHOLE = [f"{kind}{size}" for kind in ("uint", "int") for size in (8, 16, 32, 64)]
DTYPES = ["bool", *WHOLE, "float16", "float32", "float64"]
DATATYPES = {name: name.upper().replace("FLOAT", "FP") for name in DTYPES}


def numbers(*, raw: bool, mixed: bool = True) -> list[Any]:
    """An input of each datatype, with 0 to 9 in it. Halves are always bytes; where forms may not be mixed, they go as
    wider numbers.
    """
    found = []
    for name in DTYPES:
        array = (np.arange(10).reshape(2, 5) % (2 if name == "bool" else 10)).astype(name)
        if raw or (name == "float16" and mixed):
            one = InferInput(DATATYPES[name].lower(), [2, 5], DATATYPES[name])
            one.set_data_from_numpy(array, binary_data=True)
        else:
            datatype = "FP32" if name == "float16" else DATATYPES[name]
            one = InferInput(DATATYPES[name].lower(), [2, 5], datatype, data=array.reshape(-1).tolist())
        found.append(one)
    return found


def fruit(*, raw: bool) -> list[Any]:
    """Two rows of a text and a number."""
    colour = InferInput("colour", [2, 1], "BYTES")
    colour.set_data_from_numpy(np.array([["red"], ["gréen"]], dtype=object), binary_data=raw)
    weight = InferInput("weight", [2, 1], "FP32")
    weight.set_data_from_numpy(np.array([[1.5], [2.5]], dtype=np.float32), binary_data=raw)
    return [colour, weight]


def told(found: Any) -> dict[str, Any]:
    outputs = {one.name: one.as_numpy() for one in found.outputs}
    return {
        "model": found.model_name,
        "version": found.model_version,
        "id": found.id,
        "outputs": {name: [str(array.dtype), array.tolist()] for name, array in outputs.items()},
    }


async def refused(call: Awaitable[Any]) -> list[Any]:
    """The code of a refusal, and what the client makes of it."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["nothing was refused"]


async def asked(
    infer: Callable[[Any], Awaitable[Any]], ready: Callable[[str], Awaitable[bool]], binary: dict[str, Any] | None
) -> dict[str, Any]:
    """What both clients can ask; `binary` has the parameters that ask for bytes, where there are other forms."""
    wrong = InferInput("wait", [1, 1], "FP32", data=[1.0])
    return {
        "typed": told(await infer(InferRequest("echo", numbers(raw=False, mixed=bool(binary)), request_id="7"))),
        "raw": told(await infer(InferRequest("echo", numbers(raw=True), request_id="8", parameters=binary))),
        "texts": told(await infer(InferRequest("fruit", fruit(raw=True), request_id="9"))),
        "texts in JSON": binary and told(await infer(InferRequest("fruit", fruit(raw=False), request_id="9"))),
        "ready": await ready("echo"),
        "no model": await refused(infer(InferRequest("nothing", [wrong]))),
        "no input": await refused(infer(InferRequest("fruit", [wrong]))),
    }


async def main(url: str, address: str) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        over_http = {
            "server": [await client.is_server_live(url), await client.is_server_ready(url)],
            "unknown model ready": await client.is_model_ready(url, "nothing"),
            **await asked(
                lambda request: client.infer(url, request, model_name=request.model_name),
                lambda name: client.is_model_ready(url, name),
                {"binary_data_output": True},
            ),
        }
    async with InferenceGRPCClient(address) as client:
        over_grpc = {
            "server": [await client.is_server_live(), await client.is_server_ready()],
            "unknown model ready": await refused(client.is_model_ready("nothing")),
            **await asked(client.infer, client.is_model_ready, None),
        }
    return {"http": over_http, "grpc": over_grpc}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))  # noqa: T201
