"""Asks a server with the client that was generated from the protocol's OpenAPI file, and prints what it was answered.

It runs in an environment of its own, so it imports nothing of ours. Argument: the server's URL. It prints JSON: what
the synchronous client was answered, and what the other one was.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

from open_inference.openapi import (  # type: ignore[import-not-found]  # installed by the test
    InferenceRequest,
    RequestInput,
    RequestOutput,
)
from open_inference.openapi.client import (  # type: ignore[import-not-found]
    AsyncOpenInferenceClient,
    OpenInferenceClient,
)
from open_inference.openapi.core.api_error import ApiError  # type: ignore[import-not-found]


def tensor(name: str, datatype: str, data: list[Any]) -> Any:
    return RequestInput(name=name, datatype=datatype, shape=[2, 1], data=data)


FLAT = InferenceRequest(
    id="7", inputs=[tensor("colour", "BYTES", ["red", "gréen"]), tensor("weight", "FP32", [1.5, 2.5])]
)
NESTED = InferenceRequest(
    inputs=[tensor("weight", "FP64", [[1.5], [2.5]]), tensor("colour", "BYTES", [["red"], ["gréen"]])],
    outputs=[RequestOutput(name="output", parameters={"classification": 1})],
)
WRONG = InferenceRequest(inputs=[tensor("weight", "FP32", ["heavy", "light"])])
CALLS: dict[str, Callable[[Any], Any]] = {
    "live": lambda client: client.check_server_liveness(),
    "ready": lambda client: client.check_server_readiness(),
    "model ready": lambda client: client.check_model_readiness("fruit"),
    "version ready": lambda client: client.check_model_version_readiness("fruit", "1"),
    "no model ready": lambda client: client.check_model_readiness("nothing"),
    "server": lambda client: client.read_server_metadata(),
    "metadata": lambda client: client.read_model_metadata("fruit"),
    "metadata of the version": lambda client: client.read_model_version_metadata("fruit", "1"),
    "flat": lambda client: client.model_infer("fruit", request=FLAT),
    "of the version": lambda client: client.model_version_infer("fruit", "1", request=FLAT),
    "nested": lambda client: client.model_infer("fruit", request=NESTED),
    "wrong": lambda client: client.model_infer("fruit", request=WRONG),
    "no model": lambda client: client.model_infer("nothing", request=FLAT),
}


def refused(error: Any) -> dict[str, Any]:
    return {"class": type(error).__name__, "status": error.status_code, "error": error.body["error"]}


async def asked(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, call in CALLS.items():
        try:
            answer = call(client)
            if inspect.isawaitable(answer):
                answer = await answer
            found[name] = answer if answer is None else json.loads(answer.json())
        except ApiError as error:
            found[name] = refused(error)
    return found


if __name__ == "__main__":
    [_, url] = sys.argv
    clients = [kind(base_url=url) for kind in (OpenInferenceClient, AsyncOpenInferenceClient)]
    print(json.dumps([asyncio.run(asked(client)) for client in clients]))  # noqa: T201
